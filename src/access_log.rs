//! One line of the access log: what it says, and its three formats. Pure; [`crate::logs`] writes it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use http::{HeaderValue, Version};
use serde::Serialize;

/// `[log] access_format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// `name=value`
    Text,
    /// An object.
    Json,
    /// Apache's and nginx's `combined`.
    Combined,
}

/// A request and its response, for the access log.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AccessEntry<'r> {
    pub method: &'r str,
    /// Without the query, which may hold secrets.
    pub path: &'r str,
    /// As the client sent it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub host: &'r str,
    /// The client, or what a trusted proxy in front says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub protocol: &'static str,
    pub status: u16,
    /// Content that was passed to the client's connection.
    pub bytes: u64,
    /// The connection ended before the content did.
    #[serde(skip_serializing_if = "is_false")]
    pub aborted: bool,
    pub family: &'r str,
    /// `hit`, `miss`, …
    pub outcome: &'static str,
    /// Larder's member of `Cache-Status`.
    pub cache_status: &'r str,
    /// Tags that a write invalidated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalidated: Option<&'r str>,
    /// Why a malformed request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'r str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: &'r str,
    /// Until the head of the response was ready.
    pub micros: u64,
    /// Until the end of the content was passed to the client's connection.
    pub total_micros: u64,
    /// From the request to upstream until the head of its response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Cow<'r, str>>,
    /// Without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referer: Option<Cow<'r, str>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Longest path, `Cache-Status` and `Referer` in a line, bytes; the rest is cut. So a line stays within what one may have.
pub const TEXT_MAX: usize = 1024;
/// The same of a `User-Agent` and a host.
pub const WORD_MAX: usize = 256;

/// The beginning of a text, at most `most` bytes.
pub fn beginning(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The beginning of a field's value.
pub fn text_of(value: &HeaderValue, most: usize) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    match String::from_utf8_lossy(&bytes[..bytes.len().min(most)]) {
        Cow::Borrowed(text) => text.into(),
        // What was replaced has become longer.
        Cow::Owned(text) => beginning(&text, most).to_owned().into(),
    }
}

/// A `Referer` without its query and fragment, which may hold secrets.
pub fn referer_of(value: &HeaderValue) -> Cow<'_, str> {
    let text = text_of(value, TEXT_MAX);
    match (text.find(['?', '#']), text) {
        (Some(end), Cow::Borrowed(text)) => text[..end].into(),
        (Some(end), Cow::Owned(text)) => text[..end].to_owned().into(),
        (None, text) => text,
    }
}

/// The name of a version in a request line.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/?",
    }
}

impl AccessEntry<'_> {
    /// Appends the line, with its end. Without Rust's formatting where each request would pay for it.
    pub fn write_line(&self, format: AccessFormat, now: SystemTime, line: &mut Vec<u8>) {
        match format {
            AccessFormat::Text => self.text(now.into(), line),
            AccessFormat::Json => self.json(now.into(), line),
            AccessFormat::Combined => self.combined(now.into(), line),
        }
        line.push(b'\n');
    }

    fn text(&self, now: DateTime<Utc>, line: &mut Vec<u8>) {
        let AccessEntry { method, path, family, outcome, cache_status, .. } = self;
        timestamp(now, line);
        words(line, &["  INFO larder::access: method=", method, " path="]);
        quoted(line, path);
        number(line, " status=", self.status.into());
        number(line, " bytes=", self.bytes);
        words(line, &[" family="]);
        quoted(line, family);
        words(line, &[" outcome=\"", outcome, "\" cache_status="]);
        quoted(line, cache_status);
        for (name, text) in [(" invalidated=", self.invalidated), (" reason=", self.reason)] {
            if let Some(text) = text {
                words(line, &[name]);
                quoted(line, text);
            }
        }
        if self.aborted {
            words(line, &[" aborted=true"]);
        }
        number(line, " micros=", self.micros);
        number(line, " total_micros=", self.total_micros);
        if let Some(micros) = self.upstream_micros {
            number(line, " upstream_micros=", micros);
        }
        if let Some(client) = self.client {
            words(line, &[" client="]);
            address(line, client);
            words(line, &[" host="]);
            quoted(line, self.host);
            words(line, &[" request_id=", self.request_id]);
        }
    }

    fn json(&self, now: DateTime<Utc>, line: &mut Vec<u8>) {
        words(line, &["{\"timestamp\":\""]);
        timestamp(now, line);
        words(line, &["\",\"level\":\"INFO\",\"target\":\"larder::access\","]);
        let at = line.len();
        // Writing to a Vec cannot fail, and all keys are texts.
        let _ = serde_json::to_writer(&mut *line, self);
        // The object goes on.
        line.remove(at);
    }

    fn combined(&self, now: DateTime<Utc>, line: &mut Vec<u8>) {
        match self.client {
            Some(client) => address(line, client),
            None => line.push(b'-'),
        }
        let _ = write!(line, " - - [{}] \"", now.format("%d/%b/%Y:%H:%M:%S %z"));
        escape(line, self.method);
        if !self.protocol.is_empty() {
            line.push(b' ');
            escape(line, self.path);
            words(line, &[" ", self.protocol]);
        }
        number(line, "\" ", self.status.into());
        number(line, " ", self.bytes);
        words(line, &[" \""]);
        escape(line, self.referer.as_deref().unwrap_or("-"));
        words(line, &["\" \""]);
        escape(line, self.user_agent.as_deref().unwrap_or("-"));
        line.push(b'"');
    }
}

fn words(line: &mut Vec<u8>, texts: &[&str]) {
    texts.iter().for_each(|text| line.extend_from_slice(text.as_bytes()));
}

fn number(line: &mut Vec<u8>, name: &str, value: u64) {
    words(line, &[name, itoa::Buffer::new().format(value)]);
}

fn address(line: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            number(line, "", first.into());
            rest.into_iter().for_each(|octet| number(line, ".", octet.into()));
        }
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

/// Bytes that need no escape in quotes.
static PLAIN: [bool; 256] = {
    let (mut plain, mut byte) = ([false; 256], b' ');
    while byte <= b'~' {
        plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    plain
};

/// Appends a text in quotes, as Rust's `{:?}` writes it.
fn quoted(line: &mut Vec<u8>, text: &str) {
    let is_plain = text.bytes().all(|byte| PLAIN[usize::from(byte)]);
    match is_plain {
        true => words(line, &["\"", text, "\""]),
        false => drop(write!(line, "{text:?}")),
    }
}

/// Appends a time (RFC 3339) with microseconds. What is before the fraction is formatted once a second.
fn timestamp(now: DateTime<Utc>, line: &mut Vec<u8>) {
    thread_local! {
        static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.timestamp() {
            (*second, *text) = (now.timestamp(), now.format("%Y-%m-%dT%H:%M:%S").to_string());
        }
        let mut digits = itoa::Buffer::new();
        // The digit in front keeps the zeros.
        let micros = digits.format(1_000_000 + now.timestamp_subsec_micros() % 1_000_000);
        words(line, &[text, ".", &micros[1..], "Z"]);
    });
}

/// Appends a text as Apache does: quotes and backslashes escaped, and what is no printable ASCII as `\xHH`.
fn escape(line: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => line.extend([b'\\', byte]),
            b' '..=b'~' => line.push(byte),
            byte => drop(write!(line, "\\x{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        for micros in [0, 1, 999_999, 1_000_000, 1_000_001, 1_764_419_362_012_345] {
            let (now, mut text) = (DateTime::from_timestamp_micros(micros).unwrap(), Vec::new());
            timestamp(now, &mut text);
            assert_eq!(text, now.to_rfc3339_opts(chrono::SecondsFormat::Micros, true).into_bytes());
        }
    }

    #[test]
    fn texts_and_addresses_are_written_as_rust_formats_them() {
        for text in ["", "/users/7?a=b c", "a\"b", "\\", "\n", "\u{7f}", "ä", "a'b"] {
            let mut line = Vec::new();
            quoted(&mut line, text);
            assert_eq!(line, format!("{text:?}").into_bytes());
        }
        for ip in ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::1", "2001:db8::7"] {
            let mut line = Vec::new();
            address(&mut line, ip.parse().unwrap());
            assert_eq!(line, ip.as_bytes());
        }
    }

    fn entry() -> AccessEntry<'static> {
        AccessEntry {
            method: "GET",
            path: "/users/7",
            host: "api.example",
            client: Some([192, 0, 2, 1].into()),
            protocol: "HTTP/1.1",
            status: 200,
            bytes: 12,
            family: "users",
            outcome: "hit",
            cache_status: "larder; hit; ttl=60",
            request_id: "abc",
            micros: 50,
            total_micros: 60,
            user_agent: Some("a \"b\"\n".into()),
            ..AccessEntry::default()
        }
    }

    fn line(entry: &AccessEntry<'_>, format: AccessFormat) -> String {
        let mut line = Vec::new();
        entry.write_line(format, UNIX_EPOCH + Duration::from_micros(1_796_000_000_000_001), &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_combined_line_is_what_tools_for_apache_and_nginx_read() {
        let expected = "192.0.2.1 - - [30/Nov/2026:00:53:20 +0000] \"GET /users/7 HTTP/1.1\" 200 12 \"-\" \
                        \"a \\\"b\\\"\\x0a\"\n";
        assert_eq!(line(&entry(), AccessFormat::Combined), expected);
        let malformed = AccessEntry { method: "-", status: 400, ..AccessEntry::default() };
        let expected = "- - - [30/Nov/2026:00:53:20 +0000] \"-\" 400 0 \"-\" \"-\"\n";
        assert_eq!(line(&malformed, AccessFormat::Combined), expected);
    }

    #[test]
    fn a_json_line_is_one_object() {
        let value: serde_json::Value = serde_json::from_str(&line(&entry(), AccessFormat::Json)).unwrap();
        assert_eq!((&value["timestamp"], &value["bytes"]), (&"2026-11-30T00:53:20.000001Z".into(), &12.into()));
        assert_eq!((&value["client"], &value["user_agent"]), (&"192.0.2.1".into(), &"a \"b\"\n".into()));
        assert!(value.get("aborted").is_none() && value.get("upstream_micros").is_none(), "{value}");
    }

    #[test]
    fn a_text_line_is_one_line() {
        let entry = AccessEntry { path: "/a\nb", upstream_micros: Some(7), ..entry() };
        let line = line(&entry, AccessFormat::Text);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        for word in ["path=\"/a\\nb\"", "client=192.0.2.1", "upstream_micros=7", "request_id=abc"] {
            assert!(line.contains(word), "no {word} in {line}");
        }
    }

    #[test]
    fn long_texts_are_cut_and_referers_lose_their_query() {
        assert_eq!(beginning("ä€", 4), "ä");
        let value = HeaderValue::from_bytes("äö".as_bytes()).unwrap();
        assert_eq!(text_of(&value, 3), "ä");
        assert_eq!(referer_of(&HeaderValue::from_static("https://a/b?token=1")), "https://a/b");
        assert_eq!(referer_of(&HeaderValue::from_static("https://a/b#token")), "https://a/b");
    }
}
