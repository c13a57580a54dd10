//! Parses a response head as printed by `curl -i` and `curl -D`. Of several heads, after `100 Continue` or redirects,
//! the last counts; of a body only the length.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use http::header::{CONNECTION, DATE};
use http::{HeaderMap, StatusCode};

use crate::http::date::DateField;
use crate::http::headers;
use crate::proxy::explain::{UpstreamResponse, stated_length};

/// Most bytes of all heads together.
const HEADS: u64 = 1 << 20;

/// A syntax error in a head, with its line.
#[derive(Debug, PartialEq, Eq)]
struct HeadSyntaxError {
    /// From 1.
    line: usize,
    message: &'static str,
    remedy: &'static str,
}

impl fmt::Display for HeadSyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.line, self.message, self.remedy)
    }
}

const NO_STATUS_LINE: (&str, &str) =
    ("this is not a status line", "begin with one like HTTP/1.1 200 OK, as curl -i and curl -D - print it");

/// Reads the response head in a file, or on standard input for `-`.
pub(super) fn read(file: &Path) -> Result<UpstreamResponse, String> {
    let name = file.display();
    let read = match file.to_str() {
        Some("-") => contents(io::stdin().lock()),
        _ => std::fs::File::open(file).and_then(contents),
    };
    let (bytes, more) = read.map_err(|error| {
        format!("{name}: cannot read the response: {error}; name a file that curl -i or curl -D has written, or -")
    })?;
    let head = parse(&bytes).map_err(|fault| format!("{name}:{fault}"))?;
    Ok(head.answer(more, SystemTime::now()))
}

/// The start of the input with the heads, and the number of bytes after it.
fn contents(mut from: impl Read) -> io::Result<(Vec<u8>, u64)> {
    let mut bytes = Vec::new();
    from.by_ref().take(HEADS).read_to_end(&mut bytes)?;
    let more = io::copy(&mut from, &mut io::sink())?;
    Ok((bytes, more))
}

/// The last head, and the length of the body after it.
#[derive(Debug)]
struct ResponseHead {
    status: StatusCode,
    fields: HeaderMap,
    body: u64,
}

impl ResponseHead {
    /// The response counts as received at its `Date`, the only time in the file: a head saved an hour ago is judged
    /// as of then. Without `Date`, `now`.
    fn answer(self, more: u64, now: SystemTime) -> UpstreamResponse {
        let received = DateField::received(&self.fields, &DATE, now).valid().unwrap_or(now);
        let length = stated_length(&self.fields).unwrap_or(self.body + more);
        // A head written by hand may lack body framing.
        let closes = headers::names_token(&self.fields, &CONNECTION, "close");
        let is_close_delimited = closes && headers::is_close_delimited(&self.fields);
        UpstreamResponse {
            status: self.status,
            fields: self.fields,
            length: Some(length),
            is_close_delimited,
            broken: None,
            times: (received, received),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<ResponseHead, HeadSyntaxError> {
    let mut lines = HeadLines { rest: bytes, number: 0 };
    let mut head = one(&mut lines)?;
    while is_status_line(lines.rest) {
        head = one(&mut lines)?;
    }
    Ok(head)
}

fn is_status_line(rest: &[u8]) -> bool {
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    status(line).is_some()
}

fn one(lines: &mut HeadLines<'_>) -> Result<ResponseHead, HeadSyntaxError> {
    let status = lines.next().and_then(status).ok_or(HeadSyntaxError {
        line: lines.number.max(1),
        message: NO_STATUS_LINE.0,
        remedy: NO_STATUS_LINE.1,
    })?;
    let mut fields = HeaderMap::new();
    while let Some(line) = lines.next().filter(|line| !line.is_empty()) {
        let (name, value) =
            field(line).map_err(|(message, remedy)| HeadSyntaxError { line: lines.number, message, remedy })?;
        fields.append(name, value);
    }
    Ok(ResponseHead { status, fields, body: lines.rest.len() as u64 })
}

/// RFC 9112 §4, and what curl prints of HTTP/2: `HTTP/2 200`.
fn status(line: &[u8]) -> Option<StatusCode> {
    let line = std::str::from_utf8(line.trim_ascii_end()).ok()?;
    let mut parts = line.strip_prefix("HTTP/")?.split(' ');
    let version = parts.next()?;
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let code = parts.next().filter(|code| code.len() == 3 && is_version)?;
    StatusCode::from_bytes(code.as_bytes()).ok()
}

fn field(line: &[u8]) -> Result<(http::HeaderName, http::HeaderValue), (&'static str, &'static str)> {
    if line[0] == b' ' || line[0] == b'\t' {
        // RFC 9112 §5.2
        return Err(("this line goes on with the field above it", "write the field in one line"));
    }
    let not_a_field = ("this is not a field", "write it as Name: value, and an empty line before the body");
    headers::parse_line(line).ok_or(not_a_field)
}

/// Lines that end with LF or CRLF, with their numbers.
struct HeadLines<'b> {
    rest: &'b [u8],
    number: usize,
}

impl<'b> HeadLines<'b> {
    fn next(&mut self) -> Option<&'b [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let line = &self.rest[..end.unwrap_or(self.rest.len())];
        self.rest = end.map_or(&[], |end| &self.rest[end + 1..]);
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{CACHE_CONTROL, VARY};
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_last_head_counts_and_of_the_body_its_length() {
        let rows: [(&str, u16, usize, u64); 8] = [
            ("HTTP/1.1 200 OK\r\nA: 1\r\n\r\nbody", 200, 1, 4),
            ("HTTP/1.1 200 OK\nA: 1\nB: 2\n\nbody\n", 200, 2, 5),
            ("HTTP/2 204 \r\nA: 1\r\n\r\n", 204, 1, 0),
            ("HTTP/1.1 200\nA: 1", 200, 1, 0),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nA: 1\r\nA: 2\r\n\r\nxyz", 404, 2, 3),
            ("HTTP/1.1 301 Moved\nLocation: /b\n\nHTTP/1.1 302 Found\n\nHTTP/2 200\na:1\n\n", 200, 1, 0),
            ("HTTP/1.1 200 OK\n\nHTTP/ is a protocol\n", 200, 0, 20),
            ("HTTP/1.1 200 OK", 200, 0, 0),
        ];
        for (text, status, fields, body) in rows {
            let head = parse(text.as_bytes()).unwrap();
            assert_eq!((head.status.as_u16(), head.fields.len(), head.body), (status, fields, body), "{text}");
        }
    }

    #[test]
    fn faults_have_their_line() {
        let rows = [
            ("", 1),
            ("\nHTTP/1.1 200 OK\n", 1),
            ("{\"a\": 1}", 1),
            ("HTTP/1.1 OK\n", 1),
            ("HTTP/x 200 OK\n", 1),
            ("HTTP/1.1 200 OK\nA: 1\nno field\n", 3),
            ("HTTP/1.1 200 OK\nA : 1\n", 2),
            ("HTTP/1.1 200 OK\r\nA: 1,\r\n 2\r\n", 3),
            ("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nA\n", 4),
        ];
        for (text, line) in rows {
            assert_eq!(parse(text.as_bytes()).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn it_counts_as_received_at_its_date() {
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let answer = |text: &str| parse(text.as_bytes()).unwrap().answer(0, now);
        let dated = answer("HTTP/1.1 200 OK\nDate: Sun, 06 Nov 1994 08:49:37 GMT\n\n");
        assert_eq!(dated.times.1, UNIX_EPOCH + Duration::from_secs(784_111_777));
        assert_eq!(answer("HTTP/1.1 200 OK\n\nbody").times, (now, now));
        assert_eq!(answer("HTTP/1.1 200 OK\nContent-Length: 9\n\n").length, Some(9));
        assert_eq!(answer("HTTP/1.1 200 OK\n\nbody").length, Some(4));
    }

    #[test]
    fn field_values_keep_their_bytes() {
        let head = parse(b"HTTP/1.1 200 OK\nCache-Control:  max-age=1 \nVary: \xff\n").unwrap();
        assert_eq!(head.fields[CACHE_CONTROL], "max-age=1");
        assert_eq!(head.fields[VARY].as_bytes(), b"\xff");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&[&b"HTTP/1.1 200 OK\n"[..], &bytes].concat());
        }
    }
}
