//! The request target: as received for upstream and the key, which use the same bytes, and normalised for rules and
//! invalidation. Rejects requests with an ambiguous target or host.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::Ipv6Addr;

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, Uri};

use crate::marks::Tag;

mod readings;

pub use readings::{MOST as MOST_READINGS, Readings};

/// The target of a request: scheme, host, path and raw query (RFC 9110 §7.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// `http` or `https`, as seen by the client.
    pub scheme: &'static str,
    /// Host, and the port unless it is the scheme's default; in lower case.
    pub host: String,
    /// The path after [`normalise`], in lower case if `case` ignores case; starts with `/`. Only the server-wide
    /// `OPTIONS *` has the path `*`.
    pub path: String,
    /// The path as received, if it differs from `path`.
    pub sent: Option<Box<str>>,
    /// The query without the `?`, as received.
    pub query: Option<String>,
    /// Whether upstream distinguishes paths by case.
    pub case: PathCase,
}

/// `[server] case_insensitive_paths`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathCase {
    /// Paths that differ in case are different.
    #[default]
    Sensitive,
    /// Paths that differ in case are equal.
    Insensitive,
}

impl PathCase {
    /// The form of a path, or of a part of one, in rules and tags. ASCII.
    pub(crate) fn fold<'p>(self, path: impl Into<Cow<'p, str>>) -> Cow<'p, str> {
        let path = path.into();
        match self {
            PathCase::Sensitive => path,
            PathCase::Insensitive => lower_case(path),
        }
    }
}

/// Why a target is rejected with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// RFC 9112 §3.2: neither a `Host` field nor an authority in the target. Also rejected for HTTP/1.0, since a key
    /// needs a host.
    #[error("the request has no Host field")]
    MissingHost,
    /// RFC 9112 §3.2: more than one `Host` line.
    #[error("the request has more than one Host field")]
    RepeatedHost,
    /// The host is no valid `uri-host [ ":" port ]`: it is empty, contains user information or a percent-encoding, or
    /// its port is no number below 65536.
    #[error("the Host field is not a valid host")]
    BadHost,
    /// Neither origin-form nor absolute-form (nor `*` for OPTIONS).
    #[error("the request target is not a path or an http URL")]
    BadForm,
}

impl Target {
    /// The target of a request. An authority in the target (absolute-form, or `:authority`) overrides `Host` (RFC
    /// 9112 §3.2.2), but an invalid `Host` is still rejected (§3.2). `scheme` is that of the listener; the client's
    /// scheme cannot change it (§3.3).
    pub fn of(
        scheme: &'static str,
        uri: &Uri,
        headers: &HeaderMap,
        case: PathCase,
    ) -> Result<Target, TargetFault> {
        let field = host_field(scheme, headers)?;
        let host = match uri.authority() {
            Some(authority) => normalise_authority(scheme, authority.as_str()).ok_or(TargetFault::BadHost)?,
            None => field.ok_or(TargetFault::MissingHost)?,
        };
        if host.is_empty() {
            return Err(TargetFault::BadHost);
        }
        let query = uri.query().map(str::to_owned);
        Ok(Target { scheme, host, query, case, ..Target::default() }.at(path_of(uri)?))
    }

    /// The same target with another path, as received.
    #[must_use]
    pub fn at(self, sent: &str) -> Target {
        let path = if sent == "*" { Cow::Borrowed(sent) } else { self.case.fold(normalise(sent)) };
        let path = path.into_owned();
        let sent = (sent != path).then(|| sent.into());
        Target { path, sent, ..self }
    }

    /// The same target with another query.
    #[must_use]
    pub fn with_query(&self, query: Option<String>) -> Target {
        let Target { scheme, case, .. } = *self;
        Target { scheme, host: self.host.clone(), path: self.path.clone(), sent: self.sent.clone(), query, case }
    }

    /// The path as received, which upstream receives too.
    pub fn sent_path(&self) -> &str {
        self.sent.as_deref().unwrap_or(&self.path)
    }

    /// Path and query as sent to upstream.
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => [self.sent_path(), "?", query].concat(),
            None => self.sent_path().to_owned(),
        }
    }

    /// The path tags of this target in any spelling: one for each reading.
    pub fn tags(&self) -> Vec<Tag> {
        self.readings().all().map(Tag::uri).collect()
    }

    /// All paths that upstream may read this one as.
    pub fn readings(&self) -> Readings<'_> {
        // An upstream that does not resolve dot segments sees another path.
        let unresolved = self.sent.as_deref().filter(|sent| *sent != "*").map(|sent| decode(sent.as_bytes()));
        let unresolved = unresolved.map(|path| self.case.fold(path).into_owned());
        Readings::of_both(&self.path, unresolved.as_deref().filter(|path| *path != self.path), self.case)
    }
}

/// The normalised value of `Host`. Empty if it is empty, which RFC 9112 §3.2 allows with an absolute-form target.
fn host_field(scheme: &str, headers: &HeaderMap) -> Result<Option<String>, TargetFault> {
    let mut lines = headers.get_all(HOST).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(TargetFault::RepeatedHost);
    }
    match line.to_str() {
        Ok("") => Ok(Some(String::new())),
        Ok(text) => normalise_authority(scheme, text).map(Some).ok_or(TargetFault::BadHost),
        Err(_) => Err(TargetFault::BadHost),
    }
}

fn path_of(uri: &Uri) -> Result<&str, TargetFault> {
    let scheme_is_http = uri.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    // An authority without a scheme is the authority-form, for CONNECT only (RFC 9112 §3.2.3).
    let is_authority_form = uri.authority().is_some() && uri.scheme().is_none();
    if !scheme_is_http || is_authority_form {
        return Err(TargetFault::BadForm);
    }
    match uri.path() {
        // RFC 9112 §3.2.4: asterisk-form.
        "*" => Ok("*"),
        path if path.starts_with('/') => Ok(path),
        _ => Err(TargetFault::BadForm),
    }
}

/// Normalises `host [ ":" port ]` to lower case, without the scheme's default port. `None` if it is invalid (RFC 3986
/// §3.2, without user information). A percent-encoded host is rejected: it would be a second spelling, and no client
/// sends one.
pub(crate) fn normalise_authority(scheme: &str, authority: &str) -> Option<String> {
    match is_normal_authority(scheme, authority.as_bytes()) {
        true => Some(authority.to_owned()),
        false => normalised_authority(scheme, authority),
    }
}

fn normalised_authority(scheme: &str, authority: &str) -> Option<String> {
    let (host, port) = split_port(authority)?;
    let is_valid = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_host_byte),
    };
    if !is_valid {
        return None;
    }
    let mut normal = host.to_ascii_lowercase();
    if let Some(port) = port.filter(|port| *port != default_port(scheme)) {
        let _ = write!(normal, ":{port}");
    }
    Some(normal)
}

/// Whether a name or an IPv4 address, with or without a port, is its own normal form, as almost all are.
fn is_normal_authority(scheme: &str, authority: &[u8]) -> bool {
    let colon = memchr::memchr(b':', authority);
    let host = &authority[..colon.unwrap_or(authority.len())];
    let is_port_normal = colon.is_none_or(|colon| match &authority[colon + 1..] {
        digits @ [b'1'..=b'9', ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
            let port = digits.iter().fold(0, |port, digit| port * 10 + u32::from(digit - b'0'));
            port <= u32::from(u16::MAX) && port != u32::from(default_port(scheme))
        }
        _ => false,
    });
    is_port_normal && !host.is_empty() && host.iter().all(|byte| NORMAL_HOST[usize::from(*byte)])
}

/// RFC 3986 §3.2.3: an empty port means the default.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    // Colons inside the brackets of an IPv6 literal belong to it.
    let end_of_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = authority[end_of_host..].find(':').map(|at| end_of_host + at) else {
        return Some((authority, None));
    };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    if port.is_empty() {
        return Some((host, None));
    }
    // `u16::from_str` would accept a leading `+`.
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    Some((host, Some(port.parse().ok().filter(|_| is_number)?)))
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// `unreserved / sub-delims` (RFC 3986 §3.2.2).
const fn is_host_byte(byte: u8) -> bool {
    is_unreserved(byte) || is_sub_delimiter(byte)
}

/// Bytes of a host in lower case.
const NORMAL_HOST: [bool; 256] = {
    let mut normal = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        normal[byte] = is_host_byte(byte as u8) && !(byte as u8).is_ascii_uppercase();
        byte += 1;
    }
    normal
};

pub(crate) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// Bytes that occur unencoded in paths: `pchar` without percent-encodings, and `/` (RFC 3986 §3.3).
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = byte as u8;
        plain[byte] = is_unreserved(value) || is_sub_delimiter(value) || matches!(value, b':' | b'@' | b'/');
        byte += 1;
    }
    plain
};

/// Whether a byte occurs unencoded in paths.
pub(crate) fn is_plain(byte: u8) -> bool {
    PLAIN[usize::from(byte)]
}

/// Normalises a path (RFC 3986 §6.2.2): decodes unreserved characters, writes hex digits in upper case, and removes
/// dot segments (including `%2e`). `%2F` stays: it does not separate segments. Encodes bytes that are invalid in a
/// path, so that they have one spelling too. A `%` that starts no encoding stays, and later decoding never completes
/// it to one. The result is ASCII, starts with `/`, and is its own normal form. Copies nothing if the path is already
/// in normal form.
pub fn normalise(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') && is_normal(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(remove_dot_segments(&decode(path.as_bytes())))
}

/// The path with its sub-delimiters, `:` and `@` decoded (RFC 3986 §3.3), since upstreams treat both spellings alike.
/// Copies nothing if none is encoded.
pub fn with_plain_delimiters(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let (mut plain, mut rest) = (String::with_capacity(path.len()), path);
    while let Some(at) = rest.find('%') {
        let (before, encoding) = rest.split_at(at);
        plain.push_str(before);
        let delimiter = encoded_byte(encoding.as_bytes()).filter(|byte| is_plain_delimiter(*byte));
        plain.push(delimiter.map_or('%', char::from));
        rest = &encoding[if delimiter.is_some() { 3 } else { 1 }..];
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// Characters of a segment that are not unreserved: `sub-delims / ":" / "@"`.
pub(crate) const fn is_plain_delimiter(byte: u8) -> bool {
    is_sub_delimiter(byte) || matches!(byte, b':' | b'@')
}

/// Whether a character occurs unencoded in a normalised path.
pub(crate) fn stands_plainly(character: char) -> bool {
    u8::try_from(character).is_ok_and(|byte| PLAIN[usize::from(byte)])
}

/// A path in lower case, including letters encoded as UTF-8. Other encodings stay. A letter whose lower case is ASCII
/// becomes that, unencoded: some upstreams (Java's equalsIgnoreCase) treat U+212A, the Kelvin sign, as `k`. Each
/// spelling has its own key, so treating too many as equal only invalidates more.
fn lower_case(path: Cow<'_, str>) -> Cow<'_, str> {
    if !path.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'%') {
        return path;
    }
    let (mut lower, mut rest) = (String::with_capacity(path.len()), path.as_bytes());
    while let [first, tail @ ..] = rest {
        let Some(encoded) = encoded_byte(rest) else {
            lower.push(char::from(first.to_ascii_lowercase()));
            rest = tail;
            continue;
        };
        let (character, length) = encoded_character(rest).unwrap_or((char::from(0), 1));
        let mut utf8 = [0; 4];
        if character.is_ascii() {
            push(&mut lower, encoded, false);
        } else {
            for character in character.to_lowercase() {
                let is_plain = character.is_ascii();
                character.encode_utf8(&mut utf8).bytes().for_each(|byte| push(&mut lower, byte, is_plain));
            }
        }
        rest = &rest[3 * length..];
    }
    Cow::Owned(lower)
}

/// The bytes of a percent-encoded text; a `%` that starts no encoding stands for itself.
pub(crate) fn percent_decoded(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

/// The UTF-8 character that starts `path` percent-encoded, and its length in bytes.
fn encoded_character(path: &[u8]) -> Option<(char, usize)> {
    let bytes: Vec<u8> = path.chunks(3).take(4).map_while(encoded_byte).collect();
    let length = match bytes.first()? {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return None,
    };
    let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
    Some((text.chars().next()?, length))
}

fn is_normal(path: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match byte {
            b'/' if is_dot_segment(&path[at + 1..]) => return false,
            b'%' if is_normal_encoding(&path[at..]) => at += 3,
            _ if PLAIN[usize::from(byte)] => at += 1,
            _ => return false,
        }
    }
    true
}

/// Whether the first segment of `rest` is `.` or `..`.
fn is_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

fn is_normal_encoding(rest: &[u8]) -> bool {
    let is_upper = |digit: Option<&u8>| digit.is_some_and(|digit| !digit.is_ascii_lowercase());
    encoded_byte(rest).is_some_and(|byte| !is_unreserved(byte)) && is_upper(rest.get(1)) && is_upper(rest.get(2))
}

/// The byte of a percent-encoding at the start of `rest`.
fn encoded_byte(rest: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = rest else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(*high)? * 16 + digit(*low)?) as u8)
}

/// The text since a `%` that starts no encoding: decoding a hex digit right after it would complete an encoding, so a
/// path would be decoded twice.
/// one, and a path would be decoded twice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    Percent,
    PercentAndDigit,
}

fn decode(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len() + 16);
    if path.first() != Some(&b'/') {
        out.push('/');
    }
    let mut pending = Pending::Nothing;
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match encoded_byte(&path[at..]) {
            Some(encoded) => {
                let completes = pending != Pending::Nothing && encoded.is_ascii_hexdigit();
                push(&mut out, encoded, is_unreserved(encoded) && !completes);
                pending = Pending::Nothing;
                at += 3;
            }
            None => {
                push(&mut out, byte, byte == b'%' || PLAIN[usize::from(byte)]);
                pending = match (byte, pending) {
                    (b'%', _) => Pending::Percent,
                    (_, Pending::Percent) if byte.is_ascii_hexdigit() => Pending::PercentAndDigit,
                    _ => Pending::Nothing,
                };
                at += 1;
            }
        }
    }
    out
}

fn push(out: &mut String, byte: u8, is_plain: bool) {
    if is_plain {
        out.push(char::from(byte));
    } else {
        let _ = write!(out, "%{byte:02X}");
    }
}

/// RFC 3986 §5.2.4 for a path that begins with `/`.
fn remove_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').unwrap_or(0));
                }
                // The slash before a trailing dot segment stays.
                if segments.peek().is_none() {
                    out.push('/');
                }
            }
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn with_hosts(hosts: &[&str]) -> HeaderMap {
        hosts.iter().map(|host| (HOST, HeaderValue::from_str(host).unwrap())).collect()
    }

    fn target(uri: &str, hosts: &[&str]) -> Result<Target, TargetFault> {
        Target::of("http", &uri.parse().unwrap(), &with_hosts(hosts), PathCase::Sensitive)
    }

    #[test]
    fn origin_form_takes_its_authority_from_host() {
        let target = target("/where/./is?q=now&x", &["WWW.Example.org:80"]).unwrap();
        assert_eq!(target.host, "www.example.org");
        assert_eq!(target.path, "/where/is");
        assert_eq!(target.query.as_deref(), Some("q=now&x"));
        assert_eq!(target.path_and_query(), "/where/./is?q=now&x");
    }

    #[test]
    fn upstream_receives_the_bytes_that_came() {
        for sent in ["/t/%7Ejoe", "/t/a%2fb", "/t//z", "/t/1?", "/a/../b?x", "/a\\b", "/caf\u{e9}", "/%zz", "/A?B"]
        {
            for case in [PathCase::Sensitive, PathCase::Insensitive] {
                let found = Target::of("http", &sent.parse().unwrap(), &with_hosts(&["h"]), case).unwrap();
                assert_eq!(found.path_and_query(), sent);
            }
        }
        assert_eq!(target("/t/1", &["h"]).unwrap().sent, None, "nothing is kept twice");
    }

    #[test]
    fn paths_without_case_are_in_lower_case() {
        let rows = [
            ("/Users/JOE", "/users/joe"),
            ("/%4Aoe/%2F%C3%89", "/joe/%2F%C3%A9"),
            ("/%C3%A9/%FF%C3", "/%C3%A9/%FF%C3"),
            ("/%E1%BA%9E%", "/%C3%9F%"),
            ("/%E2%84%AAate", "/kate"),
            ("/%C4%B0", "/i%CC%87"),
            ("/users/joe", "/users/joe"),
        ];
        for (sent, expected) in rows {
            let target = Target { case: PathCase::Insensitive, ..Target::default() }.at(sent);
            assert_eq!((target.path.as_str(), target.sent_path()), (expected, sent));
            assert_eq!(target.clone().at(&target.path).path, expected, "it is its own lower case");
        }
    }

    #[test]
    fn delimiters_are_plain_whether_encoded_or_not() {
        let encoded = "/%21%24%26%27%28%29%2A%2B%2C%3B%3D%3A%40%2F%25%4";
        assert_eq!(with_plain_delimiters(encoded), "/!$&'()*+,;=:@%2F%25%4");
        assert!(matches!(with_plain_delimiters("/a:b"), Cow::Borrowed(_)));
    }

    #[test]
    fn dot_segments_are_read_both_resolved_and_not() {
        let target = target("/a/%2e%2E/b", &["h"]).unwrap();
        assert_eq!(target.path, "/b");
        let readings: Vec<_> = target.readings().all().map(str::to_owned).collect();
        assert_eq!(readings, ["/b", "/a/../b"]);
    }

    #[test]
    fn absolute_form_wins_over_host() {
        // The example of RFC 9112 §3.2.2.
        let target = target("http://www.example.org/pub/WWW/TheProject.html", &["other.example"]).unwrap();
        assert_eq!((target.host.as_str(), target.path.as_str()), ("www.example.org", "/pub/WWW/TheProject.html"));
    }

    proptest! {
        #[test]
        fn an_authority_in_normal_form_is_normalised_to_itself(
            authority in "[a-cA-C0-1_.~%@\\[-]{0,3}(:[0-9+]{0,6})?(:8080|:80|:443)?",
            scheme in prop_oneof![Just("http"), Just("https")],
        ) {
            if is_normal_authority(scheme, authority.as_bytes()) {
                prop_assert_eq!(normalised_authority(scheme, &authority), Some(authority));
            }
        }
    }

    #[test]
    fn http2_has_its_authority_in_the_uri_and_no_host() {
        let uri = "https://h.example:443/a".parse().unwrap();
        let target = Target::of("https", &uri, &HeaderMap::new(), PathCase::Sensitive).unwrap();
        assert_eq!((target.scheme, target.host.as_str()), ("https", "h.example"));
    }

    #[test]
    fn the_scheme_is_the_listeners_not_the_clients() {
        let target = target("https://h:443/", &[]).unwrap();
        assert_eq!((target.scheme, target.host.as_str()), ("http", "h:443"));
    }

    #[test]
    fn server_wide_options_keeps_the_asterisk() {
        let target = target("*", &["www.example.org:8080"]).unwrap();
        assert_eq!((target.host.as_str(), target.path_and_query().as_str()), ("www.example.org:8080", "*"));
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        let rows: [(&str, &[&str], TargetFault); 10] = [
            ("/", &[], TargetFault::MissingHost),
            ("/", &["a", "b"], TargetFault::RepeatedHost),
            ("/", &["a", "a"], TargetFault::RepeatedHost),
            ("http://a/", &["a", "b"], TargetFault::RepeatedHost),
            ("/", &[""], TargetFault::BadHost),
            ("http://a/", &["a b"], TargetFault::BadHost),
            ("/", &["user@a"], TargetFault::BadHost),
            ("http://user:secret@a/", &["a"], TargetFault::BadHost),
            ("ftp://a/", &["a"], TargetFault::BadForm),
            ("a:443", &["a"], TargetFault::BadForm),
        ];
        for (uri, hosts, fault) in rows {
            assert_eq!(target(uri, hosts), Err(fault), "{uri} {hosts:?}");
        }
    }

    #[test]
    fn an_empty_host_beside_an_absolute_form_is_allowed() {
        assert_eq!(target("http://a/", &[""]).unwrap().host, "a");
    }

    #[test]
    fn authorities_have_one_spelling() {
        let rows = [
            ("Example.COM", Some("example.com")),
            ("example.com:80", Some("example.com")),
            ("example.com:0080", Some("example.com")),
            ("example.com:", Some("example.com")),
            ("example.com:443", Some("example.com:443")),
            ("192.0.2.1:8080", Some("192.0.2.1:8080")),
            ("[2001:DB8::1]:80", Some("[2001:db8::1]")),
            ("[::1]:8080", Some("[::1]:8080")),
            ("[::1", None),
            ("::1", None),
            ("[::1]x", None),
            ("[v1.x]", None),
            ("a[::1]", None),
            ("a:+80", None),
            ("a:65536", None),
            ("a:80:80", None),
            (":80", None),
            ("a/b", None),
            ("a?b", None),
            ("a%41", None),
            ("a\\b", None),
            ("", None),
        ];
        for (authority, expected) in rows {
            assert_eq!(normalise_authority("http", authority).as_deref(), expected, "{authority}");
        }
    }

    #[test]
    fn paths_have_one_spelling() {
        let rows = [
            ("", "/"),
            ("/", "/"),
            ("users", "/users"),
            ("/%7Euser/%e4%bd%a0", "/~user/%E4%BD%A0"),
            // RFC 3986 §6.2.2, without scheme and host.
            ("/b/c/%7Bfoo%7D", "/b/c/%7Bfoo%7D"),
            ("/./b/../b/%63/%7bfoo%7d", "/b/c/%7Bfoo%7D"),
            // The two examples of RFC 3986 §5.2.4.
            ("/a/b/c/./../../g", "/a/g"),
            ("mid/content=5/../6", "/mid/6"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b/%2e", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/a//../b", "/a/b"),
            ("/a//b", "/a//b"),
            ("/.../..a/.b", "/.../..a/.b"),
            ("/a%2fb%2F..%2Fc", "/a%2Fb%2F..%2Fc"),
            ("/100%", "/100%"),
            ("/%zz/%4", "/%zz/%4"),
            ("/%%34%31", "/%%341"),
            ("/%4%31", "/%4%31"),
            ("/%%67", "/%g"),
            ("/%/%2e%2e/b", "/b"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/%00", "/%00"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/a\\b|{c}", "/a%5Cb%7C%7Bc%7D"),
        ];
        for (path, expected) in rows {
            assert_eq!(normalise(path), expected, "{path}");
        }
    }

    #[test]
    fn a_normal_path_is_not_copied() {
        for path in ["/", "/v1.0/users/42", "/a//b/", "/caf%C3%A9/...", "/x;y=1,2/:@!$&'()*+"] {
            assert!(matches!(normalise(path), Cow::Borrowed(_)), "{path}");
        }
    }

    fn is_clean(path: &str) -> bool {
        path.is_ascii() && path.starts_with('/') && !path.split('/').any(|segment| [".", ".."].contains(&segment))
    }

    proptest! {
        #[test]
        fn normalising_any_text_twice_is_normalising_it_once(path in "\\PC{0,40}") {
            let once = normalise(&path).into_owned();
            prop_assert!(is_clean(&once), "{once}");
            prop_assert_eq!(&normalise(&once), &once);
        }

        #[test]
        fn tricky_paths_end_clean_and_stay_so(path in "(/|\\.|%|%2[eEfF]|%2|[0-9a-fA-F]|%[34][0-9]|\\.\\.){0,24}") {
            let once = normalise(&path).into_owned();
            prop_assert!(is_clean(&once), "{once}");
            prop_assert_eq!(&normalise(&once), &once);
        }

        #[test]
        fn any_authority_is_refused_or_has_one_spelling(authority in "[\\[\\]a-zA-Z0-9:.@%é -]{0,20}") {
            if let Some(once) = normalise_authority("http", &authority) {
                prop_assert_eq!(normalise_authority("http", &once), Some(once));
            }
        }
    }
}
