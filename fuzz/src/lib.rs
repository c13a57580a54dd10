//! What the targets share: bytes from the fuzzer as HTTP messages, and a Larder that runs.

use http::{HeaderMap, HeaderName, HeaderValue};

pub mod message;
pub mod site;

/// A header section: a field in each line, `name: value`. Lines that are none are left out.
pub fn fields(text: &[u8]) -> HeaderMap {
    text.split(|byte| *byte == b'\n').filter_map(field).collect()
}

fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
    Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
}

/// One field; each line of `text` is one of its lines.
pub fn lines(name: &HeaderName, text: &[u8]) -> HeaderMap {
    let values = text.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    values.map(|value| (name.clone(), value)).collect()
}

/// The first line, and what follows it.
pub fn first_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}
