//! One line of the access log: what it says, and its three formats. Pure; [`crate::logs`] writes it.

use std::cell::RefCell;
use std::fmt::Write as _;
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
pub struct AccessEntry {
    pub method: String,
    /// Without the query, which may hold secrets.
    pub path: String,
    /// As the client sent it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
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
    pub family: String,
    /// `hit`, `miss`, …
    pub outcome: &'static str,
    /// Larder's member of `Cache-Status`.
    pub cache_status: String,
    /// Tags that a write invalidated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invalidated: Option<Box<str>>,
    /// Why a malformed request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Until the head of the response was ready.
    pub micros: u64,
    /// Until the end of the content was passed to the client's connection.
    pub total_micros: u64,
    /// From the request to upstream until the head of its response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referer: Option<String>,
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
pub fn text_of(value: &HeaderValue, most: usize) -> String {
    let bytes = value.as_bytes();
    beginning(&String::from_utf8_lossy(&bytes[..bytes.len().min(most)]), most).to_owned()
}

/// A `Referer` without its query and fragment, which may hold secrets.
pub fn referer_of(value: &HeaderValue) -> String {
    let mut text = text_of(value, TEXT_MAX);
    if let Some(at) = text.find(['?', '#']) {
        text.truncate(at);
    }
    text
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

impl AccessEntry {
    /// The line, with its end.
    pub fn line(&self, format: AccessFormat, now: SystemTime) -> String {
        let mut line = match format {
            AccessFormat::Text => self.text(now.into()),
            AccessFormat::Json => self.json(now.into()),
            AccessFormat::Combined => self.combined(now.into()),
        };
        line.push('\n');
        line
    }

    fn text(&self, now: DateTime<Utc>) -> String {
        let mut line = String::with_capacity(384);
        let AccessEntry { method, path, status, bytes, family, outcome, cache_status, .. } = self;
        let time = timestamp(now);
        // Writing to a String cannot fail.
        let _ = write!(line, "{time}  INFO larder::access: method={method} path={path:?} status={status}");
        let _ = write!(line, " bytes={bytes} family={family:?} outcome={outcome:?} cache_status={cache_status:?}");
        if let Some(tags) = &self.invalidated {
            let _ = write!(line, " invalidated={tags:?}");
        }
        if let Some(reason) = &self.reason {
            let _ = write!(line, " reason={reason:?}");
        }
        if self.aborted {
            line.push_str(" aborted=true");
        }
        let _ = write!(line, " micros={} total_micros={}", self.micros, self.total_micros);
        if let Some(micros) = self.upstream_micros {
            let _ = write!(line, " upstream_micros={micros}");
        }
        if let Some(client) = self.client {
            let _ = write!(line, " client={client} host={:?} request_id={}", self.host, self.request_id);
        }
        line
    }

    fn json(&self, now: DateTime<Utc>) -> String {
        #[derive(Serialize)]
        struct Line<'e> {
            timestamp: String,
            level: &'static str,
            target: &'static str,
            #[serde(flatten)]
            entry: &'e AccessEntry,
        }
        let timestamp = timestamp(now);
        let line = Line { timestamp, level: "INFO", target: "larder::access", entry: self };
        serde_json::to_string(&line).unwrap_or_default()
    }

    fn combined(&self, now: DateTime<Utc>) -> String {
        let mut line = String::with_capacity(256);
        match self.client {
            Some(client) => drop(write!(line, "{client}")),
            None => line.push('-'),
        }
        let _ = write!(line, " - - [{}] \"", now.format("%d/%b/%Y:%H:%M:%S %z"));
        escape(&mut line, &self.method);
        if !self.protocol.is_empty() {
            line.push(' ');
            escape(&mut line, &self.path);
            let _ = write!(line, " {}", self.protocol);
        }
        let _ = write!(line, "\" {} {} \"", self.status, self.bytes);
        escape(&mut line, self.referer.as_deref().unwrap_or("-"));
        line.push_str("\" \"");
        escape(&mut line, self.user_agent.as_deref().unwrap_or("-"));
        line.push('"');
        line
    }
}

/// RFC 3339, with microseconds. What is before the fraction is formatted once a second.
fn timestamp(now: DateTime<Utc>) -> String {
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
        [text.as_str(), ".", &micros[1..], "Z"].concat()
    })
}

/// Appends a text as Apache does: quotes and backslashes escaped, and what is no printable ASCII as `\xHH`.
fn escape(line: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => line.extend(['\\', byte.into()]),
            b' '..=b'~' => line.push(byte.into()),
            byte => drop(write!(line, "\\x{byte:02x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        for micros in [0, 1, 999_999, 1_000_000, 1_000_001, 1_764_419_362_012_345] {
            let now = DateTime::from_timestamp_micros(micros).unwrap();
            assert_eq!(timestamp(now), now.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
        }
    }
    use std::time::{Duration, UNIX_EPOCH};

    fn entry() -> AccessEntry {
        AccessEntry {
            method: "GET".to_owned(),
            path: "/users/7".to_owned(),
            host: "api.example".to_owned(),
            client: Some([192, 0, 2, 1].into()),
            protocol: "HTTP/1.1",
            status: 200,
            bytes: 12,
            family: "users".to_owned(),
            outcome: "hit",
            cache_status: "larder; hit; ttl=60".to_owned(),
            request_id: "abc".to_owned(),
            micros: 50,
            total_micros: 60,
            user_agent: Some("a \"b\"\n".to_owned()),
            ..AccessEntry::default()
        }
    }

    fn line(entry: &AccessEntry, format: AccessFormat) -> String {
        entry.line(format, UNIX_EPOCH + Duration::from_micros(1_796_000_000_000_001))
    }

    #[test]
    fn a_combined_line_is_what_tools_for_apache_and_nginx_read() {
        let expected = "192.0.2.1 - - [30/Nov/2026:00:53:20 +0000] \"GET /users/7 HTTP/1.1\" 200 12 \"-\" \
                        \"a \\\"b\\\"\\x0a\"\n";
        assert_eq!(line(&entry(), AccessFormat::Combined), expected);
        let malformed = AccessEntry { method: "-".to_owned(), status: 400, ..AccessEntry::default() };
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
        let entry = AccessEntry { path: "/a\nb".to_owned(), upstream_micros: Some(7), ..entry() };
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
