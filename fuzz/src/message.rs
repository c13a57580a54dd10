//! HTTP/1.1 messages, read independently of Larder and of hyper: those that Larder writes strictly, those that an upstream
//! writes as far as any reader would go.

use std::fmt;

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It may yet become one.
    Short,
    Bad(&'static str),
}

/// Field names in lower case, and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(Vec<(String, Vec<u8>)>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Fields,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    /// Neither a length nor chunks say where the body ends.
    pub ends_with_connection: bool,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Response { status, fields, body, ends_with_connection } = self;
        write!(f, "{status}, body {:?}", body.escape_ascii().to_string())?;
        write!(f, "{}", if *ends_with_connection { " (until the connection ended)" } else { "" })?;
        fields.0.iter().try_for_each(|(name, value)| write!(f, "\n  {name}: {}", value.escape_ascii()))
    }
}

impl Fields {
    pub fn all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f [u8]> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

impl Response {
    /// An answer of Larder's own.
    pub fn is_larders(&self) -> bool {
        self.status >= 400 && self.body.starts_with(b"{\"error\":") && self.body.ends_with(b",\"success\":false}")
    }

    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// Where the content of a message ends.
enum Length {
    Bytes(usize),
    Chunked,
    Unstated,
}

/// A request as Larder sends it to upstream, and its length.
pub fn request(bytes: &[u8]) -> Result<(Request, usize), Fault> {
    let (line, fields, begin) = head(bytes)?;
    let line = str::from_utf8(line).map_err(|_| Fault::Bad("request line"))?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Fault::Bad("request line"));
    };
    if fields.all("host").count() != 1 {
        return Err(Fault::Bad("Host"));
    }
    let used = match length(&fields)? {
        Length::Unstated => begin,
        Length::Bytes(length) if bytes.len() - begin < length => return Err(Fault::Short),
        Length::Bytes(length) => begin + length,
        Length::Chunked => begin + chunked(&bytes[begin..])?.1,
    };
    Ok((Request { method: method.to_owned(), target: target.to_owned(), fields }, used))
}

/// The fields of a request whose content may not have come yet.
pub fn fields_of_request(bytes: &[u8]) -> Option<Fields> {
    head(bytes).ok().map(|(_, fields, _)| fields)
}

/// A response as Larder sends it, and its length. `to_head`: it answers a HEAD. `is_closed`: nothing more follows.
pub fn response(bytes: &[u8], to_head: bool, is_closed: bool) -> Result<(Response, usize), Fault> {
    let (line, fields, begin) = head(bytes)?;
    let is_http_1_0 = line.starts_with(b"HTTP/1.0 ");
    if !(is_http_1_0 || line.starts_with(b"HTTP/1.1 ")) || line.get(12) != Some(&b' ') {
        return Err(Fault::Bad("status line"));
    }
    let status = str::from_utf8(&line[9..12]).ok().and_then(|status| status.parse().ok());
    let status = status.filter(|status| *status >= 100).ok_or(Fault::Bad("status"))?;
    let (mut body, mut used, mut ends_with_connection) = (Vec::new(), begin, false);
    let length = length(&fields)?;
    if status < 200 || status == 204 {
        if !matches!(length, Length::Unstated) {
            return Err(Fault::Bad("a length where there is no content"));
        }
    } else if status != 304 && !to_head {
        (body, used) = match length {
            Length::Bytes(length) if bytes.len() - begin < length => return Err(Fault::Short),
            Length::Bytes(length) => (bytes[begin..begin + length].to_vec(), begin + length),
            Length::Chunked if is_http_1_0 => return Err(Fault::Bad("chunks in HTTP/1.0")),
            Length::Chunked => chunked(&bytes[begin..]).map(|(body, used)| (body, begin + used))?,
            Length::Unstated if !is_http_1_0 => return Err(Fault::Bad("no length")),
            Length::Unstated if !is_closed => return Err(Fault::Short),
            Length::Unstated => {
                ends_with_connection = true;
                (bytes[begin..].to_vec(), bytes.len())
            }
        };
    }
    Ok((Response { status, fields, body, ends_with_connection }, used))
}

/// The final response that an upstream has written, if all of it is there. As lenient as readers are: what is none here
/// is none for anybody.
pub fn from_upstream(mut bytes: &[u8]) -> Option<Response> {
    loop {
        let mut space = vec![httparse::EMPTY_HEADER; 2048];
        let mut parsed = httparse::Response::new(&mut space);
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        let begin = match config.parse_response(&mut parsed, bytes) {
            Ok(httparse::Status::Complete(begin)) => begin,
            _ => return None,
        };
        let status = parsed.code?;
        let fields = parsed.headers.iter().map(|it| (it.name.to_ascii_lowercase(), it.value.to_vec()));
        let fields = Fields(fields.collect());
        let content = &bytes[begin..];
        match status {
            101 => return None,
            100..200 => bytes = content,
            _ => {
                let (body, ends_with_connection) = content_from_upstream(status, &fields, content)?;
                return Some(Response { status, fields, body, ends_with_connection });
            }
        }
    }
}

fn content_from_upstream(status: u16, fields: &Fields, content: &[u8]) -> Option<(Vec<u8>, bool)> {
    if matches!(status, 204 | 304) {
        return Some((Vec::new(), false));
    }
    if let Some(coding) = fields.all("transfer-encoding").last() {
        let last = coding.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        if last.eq_ignore_ascii_case(b"chunked") {
            return chunked(content).ok().map(|(body, _)| (body, false));
        }
        return Some((content.to_vec(), true));
    }
    let mut lengths = fields.all("content-length").flat_map(|line| line.split(|byte| *byte == b','));
    let Some(first) = lengths.next() else { return Some((content.to_vec(), true)) };
    let number = |text: &[u8]| str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse::<usize>().ok());
    let length = number(first)?;
    if lengths.any(|other| number(other) != Some(length)) {
        return None;
    }
    content.get(..length).map(|body| (body.to_vec(), false))
}

/// First line, fields, and the length of all that.
fn head(bytes: &[u8]) -> Result<(&[u8], Fields, usize), Fault> {
    let end = find(bytes, b"\r\n\r\n").ok_or(Fault::Short)?;
    let mut lines = Lines(&bytes[..end + 2]);
    let first = lines.next().ok_or(Fault::Bad("no first line"))?;
    if first.iter().any(is_control) {
        return Err(Fault::Bad("control characters in the first line"));
    }
    let fields = lines.map(field).collect::<Result<_, _>>()?;
    Ok((first, Fields(fields), end + 4))
}

/// The lines of a section that ends with CR LF.
struct Lines<'b>(&'b [u8]);

impl<'b> Iterator for Lines<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        let end = find(self.0, b"\r\n")?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 2..];
        Some(line)
    }
}

fn field(line: &[u8]) -> Result<(String, Vec<u8>), Fault> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::Bad("a line that is no field"))?;
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(is_token) {
        return Err(Fault::Bad("field name"));
    }
    if value.iter().any(is_control) {
        return Err(Fault::Bad("control characters in a field value"));
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()))
}

/// RFC 9112 §6.3, for those who write messages: one length, said once.
fn length(fields: &Fields) -> Result<Length, Fault> {
    let codings: Vec<_> = fields.all("transfer-encoding").collect();
    let lengths: Vec<_> = fields.all("content-length").collect();
    match (&codings[..], &lengths[..]) {
        ([], []) => Ok(Length::Unstated),
        ([b"chunked"], []) => Ok(Length::Chunked),
        ([], [length]) if length.iter().all(u8::is_ascii_digit) => {
            let length = str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            length.map(Length::Bytes).ok_or(Fault::Bad("Content-Length"))
        }
        _ => Err(Fault::Bad("more than one length")),
    }
}

/// RFC 9112 §7.1: the content in chunks, and the length of them all with their trailers.
pub fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize), Fault> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let end = find(rest, b"\r\n").ok_or(Fault::Short)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = str::from_utf8(&rest[..digits]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or(Fault::Bad("chunk size"))?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let rest = &bytes[at..];
        body.extend_from_slice(rest.get(..size).ok_or(Fault::Short)?);
        match rest.get(size..).and_then(|rest| rest.get(..2)) {
            None => return Err(Fault::Short),
            Some(b"\r\n") => at += size + 2,
            Some(_) => return Err(Fault::Bad("no CR LF behind a chunk")),
        }
    }
    loop {
        let end = find(&bytes[at..], b"\r\n").ok_or(Fault::Short)?;
        at += end + 2;
        if end == 0 {
            return Ok((body, at));
        }
    }
}

fn is_control(byte: &u8) -> bool {
    byte.is_ascii_control() && *byte != b'\t'
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
