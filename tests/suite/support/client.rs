//! A small HTTP/1.1 client, one connection per request. It can close the connection in the middle, read a part of a body, and
//! distinguishes a whole response from one that was cut off.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::{PATIENCE, pause_at_random};

/// What clients call every Larder: the host is part of the key, and the proxies of a fleet share one name.
const HOST: &str = "localhost";

/// A request that is being put together.
#[must_use]
pub struct Call {
    to: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    chunked: bool,
}

/// A complete response.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why there is no complete response.
#[derive(Debug)]
pub enum Failure {
    /// Connection refused.
    Refused,
    /// The connection ended before a response head.
    NoHead,
    /// The connection ended in the middle of the body.
    Cut(Response),
    /// No bytes within [`super::PATIENCE`].
    Timeout,
}

/// A request that was sent.
pub struct Pending {
    stream: BufReader<TcpStream>,
    head_only: bool,
    head: Option<Head>,
    body: Vec<u8>,
}

struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    rest: Rest,
}

/// What of the body is still to come.
enum Rest {
    Bytes(u64),
    /// Left of this chunk; `None` before a chunk's head.
    Chunked(Option<u64>),
    UntilClose,
    Nothing,
}

impl Call {
    pub fn new(to: SocketAddr, method: &str, target: &str) -> Call {
        let (method, target) = (method.to_owned(), target.to_owned());
        Call { to, method, target, headers: Vec::new(), body: None, chunked: false }
    }

    /// Adds a field. A `Host` that is given replaces the usual one.
    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Call {
        self.body = Some(body.into());
        self
    }

    /// Sends the body in chunks.
    pub fn chunked(mut self) -> Call {
        self.chunked = true;
        self
    }

    /// Sends it and waits for the whole response.
    #[track_caller]
    pub fn send(self) -> Response {
        let request = format!("{} {}", self.method, self.target);
        self.try_send().unwrap_or_else(|failure| panic!("{request}: {failure:?}"))
    }

    pub fn try_send(self) -> Result<Response, Failure> {
        self.try_start()?.finish()
    }

    /// Sends it and does not wait.
    #[track_caller]
    pub fn start(self) -> Pending {
        let request = format!("{} {}", self.method, self.target);
        self.try_start().unwrap_or_else(|failure| panic!("{request}: {failure:?}"))
    }

    fn try_start(self) -> Result<Pending, Failure> {
        pause_at_random();
        send_raw(self.to, &self.bytes(), self.method == "HEAD")
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {HOST}\r\n");
        }
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
            head += "Connection: close\r\n";
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let body = self.body.as_deref().unwrap_or_default();
        if self.chunked {
            head += "Transfer-Encoding: chunked\r\n\r\n";
            let chunks = body.chunks(1000).map(chunk).chain([b"0\r\n\r\n".to_vec()]);
            return head.into_bytes().into_iter().chain(chunks.flatten()).collect();
        }
        if self.body.is_some() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        [head.as_bytes(), body].concat()
    }
}

/// One chunk of a chunked body.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Sends exactly these bytes.
pub fn send_raw(to: SocketAddr, bytes: &[u8], head_only: bool) -> Result<Pending, Failure> {
    let mut stream = TcpStream::connect(to).map_err(failure)?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).map_err(failure)?;
    Ok(Pending { head_only, ..Pending::of(stream) })
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failure(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Timeout,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Failure::NoHead,
        _ => panic!("the connection failed unexpectedly: {error}"),
    }
}

impl Pending {
    /// What comes on this connection.
    pub fn of(stream: TcpStream) -> Pending {
        Pending { stream: BufReader::new(stream), head_only: false, head: None, body: Vec::new() }
    }

    /// Waits for the whole response.
    pub fn finish(mut self) -> Result<Response, Failure> {
        self.read_body(u64::MAX)?;
        let head = self.head.ok_or(Failure::NoHead)?;
        Ok(Response { status: head.status, headers: head.headers, body: self.body })
    }

    /// Waits for the whole response, which must come.
    #[track_caller]
    pub fn response(self) -> Response {
        self.finish().unwrap_or_else(|failure| panic!("no whole response: {failure:?}"))
    }

    /// Waits for the head.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        self.read_head().unwrap_or_else(|failure| panic!("no response head: {failure:?}"));
        self.so_far()
    }

    /// Reads on until `count` more bytes of the body have come, or its end; gives all that came.
    pub fn read_body(&mut self, count: u64) -> Result<&[u8], Failure> {
        let mut body = std::mem::take(&mut self.body);
        let read = self.each_piece(count, |piece| body.extend_from_slice(piece));
        self.body = body;
        match read {
            Ok(()) => Ok(&self.body),
            // Before the head nothing was cut off: there is no response.
            Err(Failure::NoHead) if self.head.is_some() => Err(Failure::Cut(self.so_far())),
            Err(failure) => Err(failure),
        }
    }

    /// Reads to the end of the body, keeping none of it; gives its length.
    pub fn drain(mut self) -> Result<u64, Failure> {
        let mut length = 0;
        self.each_piece(u64::MAX, |piece| length += piece.len() as u64)?;
        Ok(length)
    }

    /// What comes on the same connection after this response, which has been read to its end.
    pub fn next_response(self) -> Pending {
        Pending { head: None, body: Vec::new(), ..self }
    }

    /// Closes the connection without waiting for the rest.
    pub fn abandon(self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }

    fn so_far(&self) -> Response {
        let (status, headers) = self.head.as_ref().map_or((0, Vec::new()), |h| (h.status, h.headers.clone()));
        Response { status, headers, body: self.body.clone() }
    }

    fn each_piece(&mut self, mut count: u64, mut take: impl FnMut(&[u8])) -> Result<(), Failure> {
        let stream = &mut self.stream;
        if self.head.is_none() {
            self.head = Some(read_head(stream, self.head_only)?);
        }
        let rest = &mut self.head.as_mut().unwrap().rest;
        while count > 0 {
            let limit = match rest {
                Rest::Nothing | Rest::Bytes(0) => break,
                Rest::Bytes(left) | Rest::Chunked(Some(left)) => *left,
                Rest::UntilClose => u64::MAX,
                Rest::Chunked(None) => {
                    *rest = next_chunk(stream)?;
                    continue;
                }
            };
            let piece = stream.fill_buf().map_err(failure)?;
            let length = piece.len().min(usize::try_from(limit.min(count)).unwrap_or(usize::MAX));
            take(&piece[..length]);
            stream.consume(length);
            count -= length as u64;
            match rest {
                Rest::UntilClose if length == 0 => break,
                _ if length == 0 => return Err(Failure::NoHead),
                Rest::Bytes(left) => *left -= length as u64,
                Rest::Chunked(Some(left)) if *left == length as u64 => {
                    expect_line(stream)?;
                    *rest = Rest::Chunked(None);
                }
                Rest::Chunked(Some(left)) => *left -= length as u64,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_head(&mut self) -> Result<(), Failure> {
        self.each_piece(0, |_| {})
    }
}

fn read_head(stream: &mut BufReader<TcpStream>, head_only: bool) -> Result<Head, Failure> {
    let first = read_line(stream)?;
    let status: u16 = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(Failure::NoHead)?;
    let headers = read_fields(stream)?;
    if status == 100 {
        return read_head(stream, head_only);
    }
    let find = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let rest = match (find("transfer-encoding"), find("content-length")) {
        _ if head_only || status == 204 || status == 304 => Rest::Nothing,
        (Some(_), _) => Rest::Chunked(None),
        (None, Some(length)) => Rest::Bytes(length.parse().map_err(|_| Failure::NoHead)?),
        (None, None) => Rest::UntilClose,
    };
    Ok(Head { status, headers, rest })
}

/// Header fields up to the empty line, names in lower case.
pub fn read_fields(stream: &mut impl BufRead) -> Result<Vec<(String, String)>, Failure> {
    let mut fields = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or(Failure::NoHead)?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// One line without its end. The end of the stream is a failure.
pub fn read_line(stream: &mut impl BufRead) -> Result<String, Failure> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).map_err(failure)?;
    let line = line.strip_suffix(b"\r\n").ok_or(Failure::NoHead)?;
    // Field values may hold any byte from 0x80 up (RFC 9110 §5.5): each is shown as the character of that number.
    Ok(line.iter().map(|byte| char::from(*byte)).collect())
}

fn expect_line(stream: &mut impl BufRead) -> Result<(), Failure> {
    read_line(stream).map(|_| ())
}

fn next_chunk(stream: &mut BufReader<TcpStream>) -> Result<Rest, Failure> {
    let line = read_line(stream)?;
    match u64::from_str_radix(line.split(';').next().unwrap_or(""), 16).map_err(|_| Failure::NoHead)? {
        0 => read_fields(stream).map(|_trailers| Rest::Nothing),
        length => Ok(Rest::Chunked(Some(length))),
    }
}

/// Reads a body of known length.
pub fn read_exactly(stream: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

impl Response {
    /// The value of a field, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a field, one for each line.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The number at the end of one of upstream's usual bodies: which fetch it came from.
    #[track_caller]
    pub fn number(&self) -> usize {
        let text = self.text();
        let number = text.rsplit_once('#').and_then(|(_, number)| number.parse().ok());
        number.unwrap_or_else(|| panic!("not one of upstream's usual bodies: {self:?}"))
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Larder's member of `Cache-Status`, in parts: `["larder", "hit", "ttl=3"]`.
    fn cache_status(&self) -> Vec<&str> {
        self.header("cache-status").unwrap_or("").split(';').map(str::trim).collect()
    }

    /// Whether these parts (`"fwd=stale; detail=invalidated"`) all stand in `Cache-Status`.
    pub fn is(&self, parts: &str) -> bool {
        let status = self.cache_status();
        status.first() == Some(&"larder") && parts.split(';').all(|part| status.contains(&part.trim()))
    }

    /// `ttl` in `Cache-Status`.
    #[track_caller]
    pub fn ttl(&self) -> i64 {
        let parts = self.cache_status();
        let ttl = parts.iter().find_map(|part| part.strip_prefix("ttl="));
        ttl.and_then(|ttl| ttl.parse().ok()).unwrap_or_else(|| panic!("no ttl in {self:?}"))
    }

    /// Requires these parts in `Cache-Status`.
    #[track_caller]
    pub fn shows(self, parts: &str) -> Response {
        assert!(self.is(parts), "expected {parts:?} in Cache-Status: {self:?}");
        self
    }

    /// Requires that this part is not in `Cache-Status`.
    #[track_caller]
    pub fn hides(self, part: &str) -> Response {
        assert!(self.header("cache-status").is_some() && !self.is(part), "unexpected {part:?}: {self:?}");
        self
    }

    /// Requires this body.
    #[track_caller]
    pub fn carries(self, body: &str) -> Response {
        assert!(self.body == body.as_bytes(), "expected the body {body:?}: {self:?}");
        self
    }

    /// Requires this status.
    #[track_caller]
    pub fn has_status(self, status: u16) -> Response {
        assert!(self.status == status, "expected status {status}: {self:?}");
        self
    }

    /// Requires an error of Larder's own: JSON that says what is wrong.
    #[track_caller]
    pub fn fails_with(self, status: u16) -> Response {
        let json = self.clone().has_status(status).json();
        assert_eq!(json["success"], false, "{self:?}");
        assert!(json["error"].as_str().is_some_and(|error| !error.is_empty()), "{self:?}");
        self
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "status {}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "  {name}: {value}")?;
        }
        let shown: String = self.text().chars().take(500).collect();
        write!(f, "  body of {} bytes: {shown}", self.body.len())
    }
}
