//! A keep-alive connection of one reader or writer to one proxy.

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::ledger::Run;
use crate::proxies::Place;
use crate::support::client::{Failure, read_exactly, read_fields, read_line};

/// Longer than any fault lasts.
const SILENCE: Duration = Duration::from_secs(10);

/// An open connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// The proxy at its other end.
    pub run: Run,
}

/// The head of an answer; its content is still to be read.
pub struct Head {
    pub status: u16,
    /// Before the request was sent.
    pub began: Instant,
    fields: Vec<(String, String)>,
}

/// Why there is no answer, for counting.
pub type Loss = &'static str;

impl Connection {
    pub fn open(place: Place) -> Result<Connection, Loss> {
        let stream = TcpStream::connect(place.address).map_err(|error| loss(&error))?;
        let prepare = || {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))
        };
        prepare().map_err(|error| loss(&error))?;
        Ok(Connection { stream: BufReader::new(stream), run: place.run })
    }

    /// Sends a request without content, and waits for the head of its answer. `cookies`: those that it has.
    pub fn ask(&mut self, method: &str, path: &str, cookies: Option<&str>) -> Result<Head, Loss> {
        let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
        let cookies = cookies.map(|cookies| format!("Cookie: {cookies}\r\n")).unwrap_or_default();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{cookies}{length}\r\n");
        let began = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes()).map_err(|error| loss(&error))?;
        let first = read_line(&mut self.stream).map_err(|failure| failed(&failure))?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("garbled")?;
        let fields = read_fields(&mut self.stream).map_err(|failure| failed(&failure))?;
        Ok(Head { status, began, fields })
    }

    /// Reads the content of the answer.
    pub fn content(&mut self, head: &Head) -> Result<String, Loss> {
        let length = head.field("content-length").and_then(|length| length.parse().ok()).ok_or("garbled")?;
        let content = read_exactly(&mut self.stream, length).map_err(|error| loss(&error))?;
        String::from_utf8(content).map_err(|_| "garbled")
    }
}

impl Head {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether this part stands in `Cache-Status`.
    pub fn shows(&self, part: &str) -> bool {
        self.field("cache-status").is_some_and(|status| status.split(';').any(|known| known.trim() == part))
    }

    /// Whether the proxy closes the connection after this answer.
    pub fn is_last(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

fn loss(error: &io::Error) -> Loss {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "silent",
        _ => "closed",
    }
}

fn failed(failure: &Failure) -> Loss {
    match failure {
        Failure::Refused => "refused",
        Failure::Timeout => "silent",
        Failure::NoHead | Failure::Cut(_) => "closed",
    }
}
