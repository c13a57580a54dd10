//! Hop-by-hop fields, and fields that a proxy adds: `Connection` and the fields it names, `Via`, `Forwarded`,
//! `X-Forwarded-*` (RFC 9110 §7.6, RFC 7239). Submodules: [`unkeyed`] and [`claims`] list fields that can make
//! upstream answer another request, [`credentials`] those that identify callers, [`underscores`] those with `_` in
//! their names, [`trailers`] those after a body.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, Entry, FORWARDED, HeaderName, HeaderValue, MAX_FORWARDS,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, StatusCode, Version};

use crate::http::target::Target;
use crate::words::words;

pub mod claims;
pub mod credentials;
mod shapes;
pub mod trailers;
pub mod underscores;
pub mod unkeyed;

pub use credentials::Credentials;
pub use trailers::strip_trailers;
pub use underscores::{dash_underscored, dashed, drop_underscored, field_name, restore_underscored};
pub use unkeyed::{
    Meant, is_safe, keep_cookies, keep_keyed, keep_only, methods_meant, strip_claims, strip_unkeyed,
};

words! {
/// How the client's address is forwarded to upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedPolicy {
    /// Set `Forwarded` and `X-Forwarded-{For,Host,Proto}`, and drop all `X-Forwarded-…` from the client. For a Larder
    /// that clients reach directly: they cannot forge their address.
    #[default]
    Set = "set",
    /// Append to the fields of a trusted proxy in front ([`crate::config::ServerConfig::forwarded_from`]).
    /// `X-Forwarded-Host` and `-Proto`, which are no lists, are set only if absent: the first proxy's values are
    /// right.
    Append = "append",
    /// Drop them all and add none.
    Off = "off",
}
}

/// RFC 8586
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// An operator's request for debug fields, with an admin token. Never forwarded.
pub const LARDER_DEBUG: HeaderName = HeaderName::from_static("larder-debug");
/// The id of a request in logs. Larder makes one if the client sends none.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C Trace Context
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields that are never forwarded, named by `Connection` or not: the list of RFC 9110 §7.6.1; those of this proxy,
/// which RFC 9111 §3.1 forbids to store; and `Trailer` and `TE`, which concern the trailers of one message: a stored
/// response has none (§3.1), and they are set anew where trailers are forwarded.
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

/// Fields that `Connection` cannot remove. RFC 9110 §7.6.1 forbids naming fields for all recipients. An attacker
/// could name one so that it is lost between the hop that checks it and the hop that acts on it: a response without
/// `Vary` or `no-store` would reach other callers, and a request without credentials or `Host` would be answered and
/// stored for others. These determine framing, target, identity, storing and validation, or the caller. Sorted.
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

/// What the names of a request's fields reveal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FieldTraits {
    /// Has hop-by-hop fields, or fields about previous hops.
    pub hop_fields: bool,
    /// Has names with `_`.
    pub underscores: bool,
    /// Has credential fields, or names with `_` that may be such.
    pub credentials: bool,
    /// Has [`LARDER_DEBUG`].
    pub debug: bool,
    /// Has [`X_REQUEST_ID`].
    pub request_id: bool,
    /// Has preconditions, `Range`, `Cache-Control` or `Pragma`, or names with `_` that may be such.
    pub conditions: bool,
}

/// Scans the names of a request's fields once.
pub fn look(headers: &HeaderMap, credentials: &Credentials) -> FieldTraits {
    let mut seen = FieldTraits::default();
    for name in headers.keys() {
        seen.hop_fields |= *name == VIA || *name == CDN_LOOP || is_hop_by_hop(name);
        seen.underscores |= name.as_str().bytes().fold(false, |found, byte| found | (byte == b'_'));
        seen.credentials |= credentials.tell_callers(name);
        seen.debug |= *name == LARDER_DEBUG;
        seen.request_id |= *name == X_REQUEST_ID;
        seen.conditions |= is_condition(name);
    }
    // With `-` for `_`, these names may be credentials or the debug field.
    seen.credentials |= seen.underscores;
    seen.debug |= seen.underscores;
    seen.conditions |= seen.underscores;
    seen
}

/// Whether a field may say which stored responses answer a request, or how: a precondition (RFC 9110 §13.1), `Range`, `Cache-Control`
/// or `Pragma`.
fn is_condition(name: &HeaderName) -> bool {
    matches!(name.as_str().as_bytes(), [b'i', b'f', b'-', ..] | b"range" | b"cache-control" | b"pragma")
}

/// Removes [`LARDER_DEBUG`]. Returns its value; `None` if there are several.
pub fn take_debug(fields: &mut HeaderMap) -> Option<HeaderValue> {
    let is_one = fields.get_all(LARDER_DEBUG).iter().count() == 1;
    fields.remove(LARDER_DEBUG).filter(|_| is_one)
}

/// Merges repeated equal `Content-Length` values into one (RFC 9110 §8.6). False if they are invalid or differ.
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

/// Removes `Connection`, the fields it names, and the other hop-by-hop fields (RFC 9110 §7.6.1). Applied to a request
/// before anything else reads it, so that the key and upstream see the same fields. Invalid names are ignored; fields
/// without which a message would mean something else stay, even if named.
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

/// Removes `Content-Length` from a response without content: RFC 9110 §8.6 forbids it in 1xx and 204. A 304 keeps it:
/// it describes another response.
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
        // Occurs in almost every request and names only fields that are removed anyway, so it needs no parsing.
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
    append_member(headers, VIA, HeaderValue::from_static(member));
}

/// Parses a field line: `Name: value`. `None` if it is invalid.
pub fn parse_line(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = &line[colon + 1..];
    // RFC 9112 §2.2: a bare CR is no white space, although `trim` would remove it.
    let value = HeaderValue::from_bytes(value.trim_ascii()).ok().filter(|_| !value.contains(&b'\r'))?;
    Some((HeaderName::from_bytes(&line[..colon]).ok()?, value))
}

/// Whether Larder writes or rewrites this request field for upstream, or may.
pub fn is_of_this_hop(name: &HeaderName) -> bool {
    let is_about_hops = *name == FORWARDED || *name == VIA || *name == X_REAL_IP;
    let is_about_request = *name == X_REQUEST_ID || *name == TRACEPARENT || *name == TRACESTATE;
    is_about_hops || is_about_request || name.as_str().starts_with("x-forwarded-")
}

/// Adds the client's address, host and scheme (RFC 7239, and the older `X-Forwarded-…`).
pub fn add_forwarded(headers: &mut HeaderMap, policy: ForwardedPolicy, client: IpAddr, target: &Target) {
    if policy != ForwardedPolicy::Append {
        remove_forwarded(headers);
    }
    if policy == ForwardedPolicy::Off {
        return;
    }
    // A dual-stack listener shows an IPv4 client as ::ffff:192.0.2.1.
    let client = text_of_address(client.to_canonical());
    let tells_scheme = claims::tell_scheme(headers);
    let element = forwarded_element(&client, target);
    for (name, member) in [(FORWARDED, element), (X_FORWARDED_FOR, client)] {
        if let Ok(member) = HeaderValue::try_from(member) {
            append_member(headers, name, member);
        }
    }
    if let (Entry::Vacant(field), Ok(host)) =
        (headers.entry(X_FORWARDED_HOST), HeaderValue::from_str(&target.host))
    {
        field.insert(host);
    }
    if !tells_scheme {
        headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(target.scheme));
    }
}

fn remove_forwarded(headers: &mut HeaderMap) {
    let is_claim = |name: &&HeaderName| **name == FORWARDED || name.as_str().starts_with("x-forwarded-");
    let claims: Vec<HeaderName> = headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// RFC 7239 §4. An IPv6 address is in brackets and therefore, like a host with a port, quoted (§6).
fn forwarded_element(client: &str, target: &Target) -> String {
    let (open, close) = if client.contains(':') { ("\"[", "]\"") } else { ("", "") };
    // A valid host contains neither quotes nor backslashes.
    ["for=", open, client, close, ";host=\"", &target.host, "\";proto=", target.scheme].concat()
}

/// Joins the lines of `Cookie`. An HTTP/2 client may split it, but other recipients expect one line (RFC 9113
/// §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let lines: Vec<&[u8]> = [first, second].into_iter().chain(lines).collect();
    let line = HeaderValue::from_bytes(&lines.join(&b"; "[..])).expect("made of bytes that stood in field values");
    headers.insert(COOKIE, line);
}

/// Whether a list field contains this token, ignoring case.
pub fn names_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let members = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// How long upstream keeps an idle connection, from `Keep-Alive: timeout` in seconds (RFC 2068 §19.7.1.1).
pub fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let parameters =
        headers.get_all(KEEP_ALIVE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let timeouts = parameters.filter_map(|parameter| {
        let at = parameter.iter().position(|byte| *byte == b'=')?;
        let is_timeout = parameter[..at].trim_ascii().eq_ignore_ascii_case(b"timeout");
        length(parameter[at + 1..].trim_ascii()).filter(|_| is_timeout)
    });
    // Larder reuses no connection after an hour.
    timeouts.min().map(|seconds| Duration::from_secs(seconds.min(3600)))
}

/// Whether a body has no transfer coding other than `chunked` (RFC 9112 §6.1). Others would be lost, since
/// `Transfer-Encoding` is hop-by-hop.
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

/// Recognises requests that this process forwarded: a member of `CDN-Loop` (RFC 8586) with a random id per process.
#[derive(Debug, Clone)]
pub struct LoopMark {
    member: HeaderValue,
}

impl LoopMark {
    /// A new random id.
    pub fn new() -> LoopMark {
        let member = HeaderValue::try_from(format!("larder;id={:016x}", rand::random::<u64>()));
        LoopMark { member: member.unwrap_or(HeaderValue::from_static("larder")) }
    }

    /// Adds the id to a request for upstream.
    pub fn add(&self, headers: &mut HeaderMap) {
        append_member(headers, CDN_LOOP, self.member.clone());
    }

    /// Whether this process forwarded the request before.
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

/// How often a message may pass through any Larder.
const ROUNDS: usize = 16;

/// Whether a request passed through Larder so often that it must be in a loop (RFC 9110 §7.6).
pub fn is_looping(headers: &HeaderMap) -> bool {
    let members = headers.get_all(VIA).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let is_ours = |member: &&[u8]| member.trim_ascii().ends_with(b" larder");
    members.filter(is_ours).count() >= ROUNDS
}

/// What `Max-Forwards` means for an OPTIONS or TRACE (RFC 9110 §7.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hops {
    /// This proxy must answer the request.
    Last,
    /// The request may be forwarded; the field, if present, was decremented.
    More,
}

/// Decrements `Max-Forwards`. A field that is no number or occurs twice is ignored.
pub fn take_hop(headers: &mut HeaderMap) -> Hops {
    let mut lines = headers.get_all(MAX_FORWARDS).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Hops::More };
    let is_number = !line.is_empty() && line.as_bytes().iter().all(u8::is_ascii_digit);
    // A number too large to parse is no limit.
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

/// Adds a member to a list field and joins its lines, since many recipients read only one line.
pub fn append_member(headers: &mut HeaderMap, name: HeaderName, member: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(field) => drop(field.insert(member)),
        Entry::Occupied(mut field) => {
            let known = field.iter().map(HeaderValue::as_bytes);
            let lines: Vec<&[u8]> = known.chain([member.as_bytes()]).collect();
            if let Ok(line) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
                field.insert(line);
            }
        }
    }
}

/// The text of an address. Without Rust's formatting, which would be a large part of what a request to upstream costs.
fn text_of_address(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let (mut text, mut number) = (String::with_capacity("255.255.255.255".len()), itoa::Buffer::new());
    for (at, octet) in address.octets().into_iter().enumerate() {
        text.push_str(if at == 0 { "" } else { "." });
        text.push_str(number.format(octet));
    }
    text
}

#[cfg(test)]
mod tests;
