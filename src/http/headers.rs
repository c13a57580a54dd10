//! Fields that belong to one hop, and fields that a proxy adds: `Connection` and what it names, `Via`,
//! `Forwarded`, `X-Forwarded-*` (RFC 9110 §7.6, RFC 7239). [`unkeyed`] and [`claims`] have those by which upstream might
//! take a request for another one, [`credentials`] those that tell who asks, [`underscores`] those that it might read under another name, [`trailers`] those behind a body.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HeaderName, HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, StatusCode, Version};

use crate::http::target::Target;

pub mod claims;
pub mod credentials;
mod shapes;
pub mod trailers;
pub mod underscores;
pub mod unkeyed;

pub use credentials::Credentials;
pub use trailers::strip_trailers;
pub use underscores::{dash_underscored, dashed, drop_underscored, restore_underscored};
pub use unkeyed::{
    Meant, is_safe, keep_cookies, keep_keyed, keep_only, methods_meant, strip_claims, strip_unkeyed,
};

/// What is told to upstream about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedPolicy {
    /// Set `Forwarded` and `X-Forwarded-{For,Host,Proto}` afresh; what the client sent in them, and in any other
    /// `X-Forwarded-…`, is dropped. For a Larder that clients reach directly: they cannot lie about themselves.
    #[default]
    Set,
    /// Append to what came from a trusted proxy in front ([`crate::config::Server::forwarded_from`]). `X-Forwarded-Host` and
    /// `-Proto`, which are no lists, are set only where nothing says what they say: the first proxy knows best.
    Append,
    /// Drop them all and add none.
    Off,
}

/// RFC 8586
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// By which an operator asks the proxy for causes, with a token of the admin. It is for this Larder alone.
pub const LARDER_DEBUG: HeaderName = HeaderName::from_static("larder-debug");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields that end here whether `Connection` names them or not: RFC 9110 §7.6.1's list; those that belong to this
/// proxy, which RFC 9111 §3.1 forbids to store; and `Trailer` and `TE`, which stand or fall with the trailers of one
/// message: what is stored has none (§3.1), and who passes trailers on says so anew.
static HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHENTICATION_INFO,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that `Connection` cannot take away. RFC 9110 §7.6.1 forbids to name fields that are meant for all
/// recipients, and whoever does so all the same may want them to be lost between the hop that checks them and the
/// one that acts on them: a response without its `Vary` or `no-store` would reach the wrong people, a request without
/// its credentials or its `Host` would be answered, and stored, for another. These decide on framing, target,
/// identity, storing and validation, or say who asked. Sorted.
const END_TO_END: [&str; 37] = [
    "age",
    "authorization",
    "cache-control",
    "cache-group-invalidation",
    "cache-groups",
    "cache-status",
    "cdn-loop",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expires",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "origin",
    "pragma",
    "range",
    "set-cookie",
    "vary",
    "via",
    "www-authenticate",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// What the names of a request's fields show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Some belong to one hop, or tell of the hops before.
    pub hop_fields: bool,
    /// Some have `_` in their names.
    pub underscores: bool,
    /// Some tell who asks, or may do so by their names with `-`.
    pub credentials: bool,
    /// There is a [`LARDER_DEBUG`].
    pub debug: bool,
}

/// Looks at the names of a request's fields once.
pub fn look(headers: &HeaderMap, credentials: &Credentials) -> Seen {
    let mut seen = Seen::default();
    for name in headers.keys() {
        seen.hop_fields |= *name == VIA || *name == CDN_LOOP || is_hop_by_hop(name);
        seen.underscores |= name.as_str().bytes().fold(false, |found, byte| found | (byte == b'_'));
        seen.credentials |= credentials.tell_callers(name);
        seen.debug |= *name == LARDER_DEBUG;
    }
    // These are known by their names with `-`.
    seen.credentials |= seen.underscores;
    seen.debug |= seen.underscores;
    seen
}

/// A length that is said several times, and always the same, is said once from now on (RFC 9110 §8.6). False if it is no
/// length, or not always the same.
pub fn unify_length(headers: &mut HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(first), second) = (lines.next(), lines.next()) else { return true };
    if second.is_none() && !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit) {
        return true;
    }
    let members =
        headers.get_all(CONTENT_LENGTH).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let lengths: Option<Vec<u64>> = members.map(|member| length(member.trim_ascii())).collect();
    match lengths.as_deref() {
        Some([length, others @ ..]) if others.iter().all(|other| other == length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(*length));
            true
        }
        _ => false,
    }
}

fn length(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// Removes `Connection`, the fields it names, and the other hop-by-hop fields (RFC 9110 §7.6.1). To be applied to a
/// request before anything is read from it: what the key is made of and what upstream receives must be the same
/// fields. Names that are no field names are passed over; fields without which a message would mean something else
/// stay, named or not.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes `Content-Length` from a response whose status has no content of its own: RFC 9110 §8.6 forbids it in 1xx and 204.
/// In a 304 it is the length of another response, and stays.
pub fn strip_impossible_length(status: StatusCode, headers: &mut HeaderMap) {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Whether a field is in [`HOP_BY_HOP`].
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let options = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    options
        .map(<[u8]>::trim_ascii)
        // On almost every request, and names of nothing that is not removed anyway: no name is made of them.
        .filter(|option| !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"close"))
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| END_TO_END.binary_search(&name.as_str()).is_err())
        .collect()
}

/// Appends this proxy to `Via` (RFC 9110 §7.6.3): `1.1 larder`, with the version of the message received.
pub fn add_via(headers: &mut HeaderMap, received: Version) {
    let member = match received {
        Version::HTTP_09 => "0.9 larder",
        Version::HTTP_10 => "1.0 larder",
        Version::HTTP_2 => "2 larder",
        Version::HTTP_3 => "3 larder",
        _ => "1.1 larder",
    };
    append_member(headers, VIA, member);
}

/// A field line as people write it: `Name: value`. `None` if it is none.
pub fn parse_line(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = &line[colon + 1..];
    // RFC 9112 §2.2: a bare CR is no blank, though it would be trimmed like one.
    let value = HeaderValue::from_bytes(value.trim_ascii()).ok().filter(|_| !value.contains(&b'\r'))?;
    Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
}

/// Whether a request field is one that Larder writes or rewrites on the way to upstream.
pub fn is_of_this_hop(name: &HeaderName) -> bool {
    *name == FORWARDED || *name == VIA || name.as_str().starts_with("x-forwarded-") || *name == X_REAL_IP
}

/// Tells upstream who asked, for which host, by which scheme (RFC 7239, and the older `X-Forwarded-…`).
pub fn add_forwarded(headers: &mut HeaderMap, policy: ForwardedPolicy, client: IpAddr, target: &Target) {
    if policy != ForwardedPolicy::Append {
        remove_forwarded(headers);
    }
    if policy == ForwardedPolicy::Off {
        return;
    }
    // A listener for both families shows an IPv4 client as ::ffff:192.0.2.1.
    let client = client.to_canonical().to_string();
    let tells_scheme = claims::tell_scheme(headers);
    append_member(headers, FORWARDED, &forwarded_element(&client, target));
    append_member(headers, X_FORWARDED_FOR, &client);
    set_if_missing(headers, X_FORWARDED_HOST, &target.host);
    if !tells_scheme {
        set_if_missing(headers, X_FORWARDED_PROTO, target.scheme);
    }
}

fn remove_forwarded(headers: &mut HeaderMap) {
    let is_claim = |name: &&HeaderName| **name == FORWARDED || name.as_str().starts_with("x-forwarded-");
    let claims: Vec<HeaderName> = headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// RFC 7239 §4. An IPv6 address stands in brackets and so, like a host with a port, in quotes (§6).
fn forwarded_element(client: &str, target: &Target) -> String {
    let (open, close) = if client.contains(':') { ("\"[", "]\"") } else { ("", "") };
    // A host that was accepted holds neither quotes nor backslashes.
    ["for=", open, client, close, ";host=\"", &target.host, "\";proto=", target.scheme].concat()
}

/// Joins the lines of `Cookie`, into which clients of HTTP/2 may split it: everybody else knows of one line
/// (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let lines: Vec<&[u8]> = [first, second].into_iter().chain(lines).collect();
    let line = HeaderValue::from_bytes(&lines.join(&b"; "[..])).expect("made of bytes that stood in field values");
    headers.insert(COOKIE, line);
}

/// Whether a list field names this token, in any case.
pub fn names_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let members = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// How long upstream keeps an idle connection: `Keep-Alive: timeout` in a response, seconds (RFC 2068 §19.7.1.1).
pub fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let parameters =
        headers.get_all(KEEP_ALIVE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let timeouts = parameters.filter_map(|parameter| {
        let at = parameter.iter().position(|byte| *byte == b'=')?;
        let is_timeout = parameter[..at].trim_ascii().eq_ignore_ascii_case(b"timeout");
        length(parameter[at + 1..].trim_ascii()).filter(|_| is_timeout)
    });
    // An hour is more than anybody waits here.
    timeouts.min().map(|seconds| Duration::from_secs(seconds.min(3600)))
}

/// Whether a body's only transfer coding is `chunked`, or it has none (RFC 9112 §6.1). Others would be lost on the
/// way, since `Transfer-Encoding` belongs to one hop.
pub fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether a response's content, if it has any, ends with the connection (RFC 9112 §6.3, rule 8).
pub fn is_close_delimited(headers: &HeaderMap) -> bool {
    !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING)
}

/// How a proxy recognises a request that it has forwarded itself: a member of `CDN-Loop` (RFC 8586) with an id that is
/// random in each process.
#[derive(Debug, Clone)]
pub struct LoopMark {
    member: HeaderValue,
}

impl LoopMark {
    /// A mark of its own.
    pub fn new() -> LoopMark {
        let member = HeaderValue::try_from(format!("larder;id={:016x}", rand::random::<u64>()));
        LoopMark { member: member.unwrap_or(HeaderValue::from_static("larder")) }
    }

    /// Marks a request on its way to upstream.
    pub fn add(&self, headers: &mut HeaderMap) {
        match self.member.to_str() {
            Ok(member) if headers.contains_key(CDN_LOOP) => append_member(headers, CDN_LOOP, member),
            _ => drop(headers.insert(CDN_LOOP, self.member.clone())),
        }
    }

    /// Whether a request has been forwarded by this process.
    pub fn is_on(&self, headers: &HeaderMap) -> bool {
        let members =
            headers.get_all(CDN_LOOP).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        members.map(<[u8]>::trim_ascii).any(|member| member == self.member.as_bytes())
    }
}

impl Default for LoopMark {
    fn default() -> LoopMark {
        LoopMark::new()
    }
}

/// How often a message may come to a Larder on its way.
const ROUNDS: usize = 16;

/// Whether a request has been here so often that it must be going round in a circle (RFC 9110 §7.6).
pub fn is_looping(headers: &HeaderMap) -> bool {
    let members = headers.get_all(VIA).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let is_ours = |member: &&[u8]| member.trim_ascii().ends_with(b" larder");
    members.filter(is_ours).count() >= ROUNDS
}

/// What `Max-Forwards` says of an OPTIONS or TRACE (RFC 9110 §7.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hops {
    /// It is for this recipient.
    Last,
    /// It may go on; the field, if there is one, has been counted down.
    More,
}

/// Counts `Max-Forwards` down. A field that is no number, or comes twice, limits nothing.
pub fn take_hop(headers: &mut HeaderMap) -> Hops {
    let mut lines = headers.get_all(MAX_FORWARDS).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Hops::More };
    let is_number = !line.is_empty() && line.as_bytes().iter().all(u8::is_ascii_digit);
    // What is too large to be counted is more than enough.
    let left = line.to_str().ok().filter(|_| is_number).map(|digits| digits.parse().unwrap_or(u64::MAX));
    match left {
        None => Hops::More,
        Some(0) => Hops::Last,
        Some(left) => {
            headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            Hops::More
        }
    }
}

/// Adds a member to a list field, on one line with what is there: many readers look at one line only.
pub fn append_member(headers: &mut HeaderMap, name: HeaderName, member: &str) {
    let mut line = Vec::with_capacity(member.len());
    for known in headers.get_all(&name) {
        line.extend_from_slice(known.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(member.as_bytes());
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(name, line);
    }
}

fn set_if_missing(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let (false, Ok(value)) = (headers.contains_key(&name), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};
    use proptest::prelude::*;

    fn stripped(values: Fields<'_>) -> HeaderMap {
        let mut headers = fields(values);
        strip_hop_by_hop(&mut headers);
        headers
    }

    #[test]
    fn content_without_length_and_coding_ends_with_the_connection() {
        for (name, expected) in [("content-length", false), ("transfer-encoding", false), ("content-type", true)] {
            assert_eq!(is_close_delimited(&fields(&[(name, "1")])), expected, "{name}");
        }
    }

    #[test]
    fn a_line_is_a_name_and_a_value() {
        let rows: [(&[u8], &[u8]); 4] = [(b"A: 1", b"1"), (b"a:b:c ", b"b:c"), (b"a:", b""), (b"a:\xff", b"\xff")];
        for (line, expected) in rows {
            let (name, value) = parse_line(line).unwrap();
            assert_eq!((name.as_str(), value.as_bytes()), ("a", expected));
        }
        for line in ["a : 1", "a: \r1", "a", ": 1", ""] {
            assert_eq!(parse_line(line.as_bytes()), None, "{line:?}");
        }
    }

    fn target(host: &str) -> Target {
        Target { scheme: "https", host: host.into(), path: "/".into(), ..Target::default() }
    }

    fn forwarded(values: Fields<'_>, policy: ForwardedPolicy, client: &str, host: &str) -> HeaderMap {
        let mut headers = fields(values);
        add_forwarded(&mut headers, policy, client.parse().unwrap(), &target(host));
        headers
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let all: Vec<_> = HOP_BY_HOP.iter().map(|name| (name.as_str(), "x")).collect();
        assert!(stripped(&all).is_empty());
        assert_eq!(stripped(&[("upgrade", "websocket"), ("accept", "*/*")]), fields(&[("accept", "*/*")]));
    }

    #[test]
    fn fields_that_connection_names_end_here_on_whatever_line() {
        let rows: [&[&str]; 4] = [
            &["close, X-One, x-two"],
            &["X-ONE", "x-two"],
            &[",, x-one ,\t", "\"x\", a b, =, x-two"],
            &["x-one,x-two,x-three"],
        ];
        for lines in rows {
            let mut values = vec![("x-one", "1"), ("x-one", "2"), ("x-two", "1"), ("x-kept", "1")];
            values.extend(lines.iter().map(|line| ("connection", *line)));
            assert_eq!(stripped(&values), fields(&[("x-kept", "1")]), "{lines:?}");
        }
    }

    #[test]
    fn connection_cannot_take_away_what_a_message_means() {
        assert!(END_TO_END.is_sorted());
        let options = END_TO_END.join(", ").to_uppercase();
        let mut values = vec![("connection", options.as_str())];
        values.extend(END_TO_END.iter().map(|name| (*name, "x")));
        let kept = stripped(&values);
        assert_eq!(kept.keys_len(), END_TO_END.len());
        assert!(!kept.contains_key(CONNECTION));
    }

    #[test]
    fn via_names_each_hop_in_order() {
        let mut headers = fields(&[("via", "1.0 fred"), ("via", "1.1 p.example.net")]);
        add_via(&mut headers, Version::HTTP_11);
        add_via(&mut headers, Version::HTTP_2);
        assert_eq!(headers, fields(&[("via", "1.0 fred, 1.1 p.example.net, 1.1 larder, 2 larder")]));
    }

    #[test]
    fn clients_cannot_lie_about_themselves() {
        let lies = [
            ("forwarded", "for=127.0.0.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-prefix", "/evil"),
            ("accept", "*/*"),
        ];
        let expected = [
            ("accept", "*/*"),
            ("forwarded", "for=192.0.2.43;host=\"api.example:8443\";proto=https"),
            ("x-forwarded-for", "192.0.2.43"),
            ("x-forwarded-host", "api.example:8443"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(forwarded(&lies, ForwardedPolicy::Set, "192.0.2.43", "api.example:8443"), fields(&expected));
        assert_eq!(forwarded(&lies, ForwardedPolicy::Off, "192.0.2.43", "h"), fields(&[("accept", "*/*")]));
    }

    #[test]
    fn behind_a_load_balancer_what_it_says_is_continued() {
        let said = [
            ("forwarded", "for=198.51.100.7"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-proto", "http"),
        ];
        let expected = [
            ("forwarded", "for=198.51.100.7, for=192.0.2.43;host=\"h\";proto=https"),
            ("x-forwarded-for", "203.0.113.9, 198.51.100.7, 192.0.2.43"),
            ("x-forwarded-host", "h"),
            ("x-forwarded-proto", "http"),
        ];
        assert_eq!(forwarded(&said, ForwardedPolicy::Append, "192.0.2.43", "h"), fields(&expected));
    }

    #[test]
    fn addresses_are_written_as_rfc_7239_says() {
        let rows = [
            ("2001:db8::1", "for=\"[2001:db8::1]\";host=\"[::1]:80\";proto=https", "2001:db8::1"),
            ("::ffff:192.0.2.1", "for=192.0.2.1;host=\"[::1]:80\";proto=https", "192.0.2.1"),
        ];
        for (client, element, plain) in rows {
            let headers = forwarded(&[], ForwardedPolicy::Set, client, "[::1]:80");
            assert_eq!(headers[FORWARDED], element);
            assert_eq!(headers[X_FORWARDED_FOR], plain);
        }
    }

    #[test]
    fn cookies_come_onto_one_line() {
        let rows: [(Fields<'_>, Fields<'_>); 3] = [
            (&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")], &[("cookie", "a=1; b=2; c=3")]),
            (&[("cookie", "a=1; b=2")], &[("cookie", "a=1; b=2")]),
            (&[], &[]),
        ];
        for (values, expected) in rows {
            let mut headers = fields(values);
            join_cookies(&mut headers);
            assert_eq!(headers, fields(expected));
        }
    }

    #[test]
    fn max_forwards_is_counted_down() {
        let rows: [(Fields<'_>, Hops, Option<&str>); 7] = [
            (&[], Hops::More, None),
            (&[("max-forwards", "0")], Hops::Last, Some("0")),
            (&[("max-forwards", "00")], Hops::Last, Some("00")),
            (&[("max-forwards", "7")], Hops::More, Some("6")),
            (&[("max-forwards", "99999999999999999999999")], Hops::More, Some("18446744073709551614")),
            (&[("max-forwards", "-1")], Hops::More, Some("-1")),
            (&[("max-forwards", "1"), ("max-forwards", "0")], Hops::More, Some("1")),
        ];
        for (values, hops, left) in rows {
            let mut headers = fields(values);
            assert_eq!(take_hop(&mut headers), hops, "{values:?}");
            assert_eq!(headers.get(MAX_FORWARDS).map(|value| value.to_str().unwrap()), left);
        }
    }

    #[test]
    fn a_request_that_goes_in_circles_is_noticed() {
        let mut headers = fields(&[("via", "1.1 larder-like, 1.0 fred")]);
        for round in 0..ROUNDS {
            assert!(!is_looping(&headers), "{round}");
            add_via(&mut headers, Version::HTTP_11);
        }
        assert!(is_looping(&headers));
    }

    #[test]
    fn only_chunked_is_a_plain_framing() {
        let rows: [(Fields<'_>, bool); 6] = [
            (&[], true),
            (&[("transfer-encoding", " Chunked ")], true),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], false),
            (&[("transfer-encoding", "chunked, chunked")], false),
            (&[("transfer-encoding", "")], false),
        ];
        for (values, plain) in rows {
            assert_eq!(is_plainly_framed(&fields(values)), plain, "{values:?}");
        }
    }

    #[test]
    fn one_look_shows_what_there_is_to_do() {
        let seen = |values: Fields<'_>| {
            let seen = look(&fields(values), &Credentials::default());
            (seen.hop_fields, seen.underscores, seen.credentials)
        };
        assert_eq!(seen(&[("accept", "*/*"), ("x-a", "1")]), (false, false, false));
        assert_eq!(seen(&[("cdn-loop", "a")]), (true, false, false));
        assert_eq!(seen(&[("via", "1.1 a"), ("x_a", "1")]), (true, true, true));
        assert_eq!(seen(&[("x-api-key", "1")]), (false, false, true));
    }

    #[test]
    fn equal_lengths_become_one_and_others_are_none() {
        let rows: [(&[&str], Option<&str>); 8] = [
            (&[], None),
            (&["5"], Some("5")),
            (&["5", "5"], Some("5")),
            (&["5, 5", "05"], Some("5")),
            (&["5", "6"], None),
            (&["5,6"], None),
            (&["+5"], None),
            (&["5", ""], None),
        ];
        for (lines, expected) in rows {
            let values: Vec<_> = lines.iter().map(|line| ("content-length", *line)).collect();
            let mut headers = fields(&values);
            assert_eq!(unify_length(&mut headers), lines.is_empty() || expected.is_some(), "{lines:?}");
            if let Some(length) = expected {
                assert_eq!(headers, fields(&[("content-length", length)]), "{lines:?}");
            }
        }
    }

    #[test]
    fn upstream_says_how_long_it_keeps_a_connection() {
        let rows: [(Fields<'_>, Option<u64>); 7] = [
            (&[], None),
            (&[("keep-alive", "timeout=5")], Some(5)),
            (&[("keep-alive", "Timeout = 5, max=100")], Some(5)),
            (&[("keep-alive", "max=100"), ("keep-alive", "timeout=7, timeout=0")], Some(0)),
            (&[("keep-alive", "timeout=99999999999")], Some(3600)),
            (&[("keep-alive", "timeout=-1")], None),
            (&[("keep-alive", "timeout")], None),
        ];
        for (values, seconds) in rows {
            assert_eq!(keep_alive(&fields(values)), seconds.map(Duration::from_secs), "{values:?}");
        }
    }

    #[test]
    fn a_process_knows_its_own_mark_and_no_other() {
        let (mine, other) = (LoopMark::new(), LoopMark::new());
        let mut headers = fields(&[("cdn-loop", "fastly")]);
        other.add(&mut headers);
        assert!(!mine.is_on(&headers) && other.is_on(&headers));
        mine.add(&mut headers);
        assert!(mine.is_on(&headers));
        assert_eq!(headers.get_all(CDN_LOOP).iter().count(), 1);
    }

    #[test]
    fn a_length_is_removed_where_there_can_be_no_content() {
        for status in 100..600 {
            let mut headers = fields(&[("content-length", "5"), ("content-length", "5"), ("x-a", "1")]);
            strip_impossible_length(StatusCode::from_u16(status).unwrap(), &mut headers);
            assert_eq!(headers.contains_key(CONTENT_LENGTH), status >= 200 && status != 204, "{status}");
            assert_eq!(headers["x-a"], "1");
        }
    }

    proptest! {
        #[test]
        fn whatever_connection_says_it_goes_and_the_framing_stays(
            lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..4),
            named in "(Content-Length|Host|close|x-a|, |,){0,6}",
        ) {
            let mut headers = fields(&[("content-length", "5"), ("host", "h"), ("x-a", "1")]);
            for line in lines.iter().map(Vec::as_slice).chain([named.as_bytes()]) {
                if let Ok(value) = HeaderValue::from_bytes(line) {
                    headers.append(CONNECTION, value);
                }
            }
            strip_hop_by_hop(&mut headers);
            prop_assert!(!headers.contains_key(CONNECTION));
            prop_assert_eq!(&headers["content-length"], "5");
            prop_assert_eq!(&headers["host"], "h");
            if named.split(',').any(|option| option.trim() == "x-a") {
                prop_assert!(!headers.contains_key("x-a"));
            }
        }
    }
}
