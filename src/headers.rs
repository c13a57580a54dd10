//! Fields that belong to one hop, and fields that a proxy adds: `Connection` and what it names, `Via`,
//! `Forwarded`, `X-Forwarded-*` (RFC 9110 §7.6, RFC 7239); and fields that would make upstream answer, or carry out,
//! another request than the rules and the key know of.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{
    CONNECTION, COOKIE, FORWARDED, HeaderName, HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, Method, Version};

use crate::target::Target;

/// What is told to upstream about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardedPolicy {
    /// Set `Forwarded` and `X-Forwarded-{For,Host,Proto}` afresh; what the client sent in them, and in any other
    /// `X-Forwarded-…`, is dropped. For a Larder that clients reach directly: they cannot lie about themselves.
    #[default]
    Set,
    /// Append to what came: for a Larder behind a trusted load balancer. `X-Forwarded-Host` and `-Proto`, which
    /// are no lists, are set only where they are missing: the first proxy knows best.
    Append,
    /// Drop them all and add none.
    Off,
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
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
const END_TO_END: [&str; 36] = [
    "age",
    "authorization",
    "cache-control",
    "cache-group-invalidation",
    "cache-groups",
    "cache-status",
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

/// Whether a request has any field that belongs to one hop, or tells of the hops before.
pub fn has_hop_fields(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| *name == VIA || HOP_BY_HOP.contains(name))
}

/// Removes `Connection`, the fields it names, and the other hop-by-hop fields (RFC 9110 §7.6.1). To be applied to a
/// request before anything is read from it: what the key is made of and what upstream receives must be the same
/// fields. Names that are no field names are passed over; fields without which a message would mean something else
/// stay, named or not.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
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
    let client = client.to_canonical();
    append_member(headers, FORWARDED, &forwarded_element(client, target));
    append_member(headers, X_FORWARDED_FOR, &client.to_string());
    set_if_missing(headers, X_FORWARDED_HOST, &target.host);
    set_if_missing(headers, X_FORWARDED_PROTO, target.scheme);
}

fn remove_forwarded(headers: &mut HeaderMap) {
    let is_claim = |name: &&HeaderName| **name != VIA && is_of_this_hop(name);
    let claims: Vec<HeaderName> = headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// RFC 7239 §4. An IPv6 address stands in brackets and so, like a host with a port, in quotes (§6).
fn forwarded_element(client: IpAddr, target: &Target) -> String {
    let node = match client {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    // A host that was accepted holds neither quotes nor backslashes.
    format!("for={node};host=\"{}\";proto={}", target.host, target.scheme)
}

/// Request fields that make an upstream take a request for another one: with another path, host, scheme or method, or
/// from another client. None of them is part of a key, so whoever sends one with a read would have the answer to it
/// stored for everybody. Compared with `_` as `-`, which many upstreams do not tell apart. Sorted.
static UNKEYED: [&str; 19] = [
    "cf-connecting-ip",       // another client
    "client-ip",              // another client
    "fastly-client-ip",       // another client
    "front-end-https",        // another scheme
    "true-client-ip",         // another client
    "x-arr-ssl",              // another scheme
    "x-client-ip",            // another client
    "x-cluster-client-ip",    // another client
    "x-host",                 // another host
    "x-http-destinationurl",  // another path
    "x-http-host-override",   // another host
    "x-http-method",          // another method
    "x-http-method-override", // another method
    "x-method-override",      // another method
    "x-proxy-url",            // another path
    "x-rewrite-url",          // another path
    "x-scheme",               // another scheme
    "x-script-name",          // another path
    "x-url-scheme",           // another scheme
];

/// The same by how they begin: `X-Original-URL`, `X-Originating-IP`, `X-Remote-Addr`, nginx's `X-Accel-…`. Sorted.
static UNKEYED_BEGINNINGS: [&str; 5] = ["x-accel-", "x-forwarded-", "x-original-", "x-originating-", "x-remote-"];

/// Of `X-Forwarded-…` those that [`add_forwarded`] writes, drops, or continues for a trusted proxy in front, and that
/// the key knows in that case ([`crate::key::Canonical::behind`]). Sorted.
static FORWARDED_KNOWN: [&str; 5] =
    ["x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto"];

/// Of a write those that would make it a write to another path: no rule would match what upstream carries out. Sorted.
static REROUTING: [&str; 7] = [
    "x-forwarded-path",
    "x-forwarded-uri",
    "x-http-destinationurl",
    "x-original-uri",
    "x-original-url",
    "x-proxy-url",
    "x-rewrite-url",
];

/// Fields by which a request asks to be taken for one with another method. Sorted.
static METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];

/// Request fields that [`keep_keyed`] leaves in place: what the cache itself goes by (validators, ranges, directives;
/// none of it reaches upstream on a fetch unless it is part of the question), what frames and describes content, and
/// what tells of the hops. Sorted.
static NEEDED: [&str; 20] = [
    "cache-control",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "pragma",
    "range",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-real-ip",
];

/// Removes from a read what may change its answer without being part of its key, but for the fields in `keyed`, which
/// its family keys on. To be applied before anything else looks at the request: whoever asks without them and whoever
/// asks with them then ask the same.
pub fn strip_unkeyed(headers: &mut HeaderMap, keyed: &[HeaderName]) {
    strip(headers, |name| is_unkeyed(name) && !keyed.iter().any(|known| known == name));
}

/// Removes from a read everything but what is in `keyed` and what no answer can depend on unnoticed
/// (`forward = "keyed"`). `keyed` are the fields that the family keys on, brings to a normal form, or tells callers
/// apart by. `Accept`, `Accept-Language`, `Accept-Encoding`, `User-Agent`, `Origin`, `Cookie` and `Authorization` go too
/// unless they are among them: an upstream that negotiates need not say so in `Vary`, and to be independent of what it
/// forgets to say is what such a family asks for. To be applied before anything else looks at the request, so that the
/// variants of a response are told apart by what upstream saw: without a field all clients share one variant.
pub fn keep_keyed(headers: &mut HeaderMap, keyed: &[HeaderName]) {
    let is_kept = |name: &HeaderName| {
        keyed.contains(name)
            || NEEDED.binary_search(&name.as_str()).is_ok()
            || FORWARDED_KNOWN.binary_search(&name.as_str()).is_ok()
    };
    strip(headers, |name| !is_kept(name));
}

/// Leaves these alone.
pub fn keep_only(headers: &mut HeaderMap, kept: &[HeaderName]) {
    strip(headers, |name| !kept.contains(name));
}

/// Leaves of the cookies only those of this name: the others are no part of the key.
pub fn keep_cookie(headers: &mut HeaderMap, name: &str) {
    let lines = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let is_kept = |pair: &&[u8]| pair.split(|byte| *byte == b'=').next() == Some(name.as_bytes());
    let kept: Vec<&[u8]> = lines.map(<[u8]>::trim_ascii).filter(is_kept).collect();
    let line = HeaderValue::from_bytes(&kept.join(&b"; "[..]));
    headers.remove(COOKIE);
    if let Some(line) = line.ok().filter(|line| !line.is_empty()) {
        headers.insert(COOKIE, line);
    }
}

/// Removes from a write what would make it a write to another path.
pub fn strip_rerouting(headers: &mut HeaderMap) {
    strip(headers, |name| name.as_str().starts_with('x') && is_in(&REROUTING, name));
}

/// The most methods that a write may name beside its own. Nobody who means one of them names more.
const MEANT: usize = 8;

/// The methods by which upstream may take a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// One of these.
    These(Vec<Method>),
    /// The write names so many that it is taken for a write by all there are.
    Any,
}

impl Meant {
    /// Whether one of these methods may be meant.
    pub fn overlaps(&self, methods: &[Method]) -> bool {
        match self {
            Meant::These(meant) => meant.iter().any(|method| methods.contains(method)),
            Meant::Any => true,
        }
    }
}

/// The methods by which upstream may take a write: its own, and those that its fields (`X-HTTP-Method-Override` and
/// kin) or `_method` in its query name. A `_method` in a body is not looked for.
pub fn methods_meant(method: &Method, headers: &HeaderMap, query: Option<&str>) -> Meant {
    let by_field = headers.iter().filter(|(name, _)| is_in(&METHOD_OVERRIDES, name));
    let by_field = by_field.flat_map(|(_, value)| value.as_bytes().split(|byte| *byte == b','));
    let by_query = query.unwrap_or("").split('&').filter_map(|pair| pair.strip_prefix("_method="));
    let mut methods = vec![method.clone()];
    for name in by_field.chain(by_query.map(str::as_bytes)) {
        let name = name.trim_ascii().to_ascii_uppercase();
        match Method::from_bytes(&name) {
            Ok(named) if methods.contains(&named) => {}
            Ok(_) if methods.len() > MEANT => return Meant::Any,
            Ok(named) => methods.push(named),
            Err(_) => {}
        }
    }
    Meant::These(methods)
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

fn strip(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn is_unkeyed(name: &HeaderName) -> bool {
    // On the way to every hit: most names are told by their first letter.
    if !name.as_str().starts_with(['c', 'f', 't', 'x']) {
        return false;
    }
    let spelled = spelled(name);
    let begins = UNKEYED_BEGINNINGS.iter().any(|beginning| spelled.starts_with(beginning));
    // With an underscore it is none that Larder writes itself.
    let is_known = FORWARDED_KNOWN.binary_search(&name.as_str()).is_ok();
    (begins && !is_known) || UNKEYED.binary_search(&&*spelled).is_ok()
}

fn is_in(table: &[&str], name: &HeaderName) -> bool {
    table.binary_search(&&*spelled(name)).is_ok()
}

/// As CGI and its heirs read a name: they do not tell `_` from `-`.
fn spelled(name: &HeaderName) -> Cow<'_, str> {
    match name.as_str().contains('_') {
        true => Cow::Owned(name.as_str().replace('_', "-")),
        false => Cow::Borrowed(name.as_str()),
    }
}

/// Whether a list field names this token, in any case.
pub fn names_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let members = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    members.map(<[u8]>::trim_ascii).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
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
    use crate::semantics::sample::{Fields, fields};
    use proptest::prelude::*;

    fn stripped(values: Fields<'_>) -> HeaderMap {
        let mut headers = fields(values);
        strip_hop_by_hop(&mut headers);
        headers
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
        Target { scheme: "https", host: host.into(), path: "/".into(), query: None }
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
    fn tables_are_sorted() {
        assert!(UNKEYED.is_sorted() && UNKEYED_BEGINNINGS.is_sorted() && FORWARDED_KNOWN.is_sorted());
        assert!(REROUTING.is_sorted() && METHOD_OVERRIDES.is_sorted() && NEEDED.is_sorted());
    }

    #[test]
    fn what_would_make_a_read_another_one_goes_unless_it_is_keyed() {
        let sent = fields(&[
            ("accept", "*/*"),
            ("host", "h"),
            ("front-end-https", "on"),
            ("x-original-url", "/admin"),
            ("x_rewrite_url", "/admin"),
            ("x-http-method-override", "DELETE"),
            ("x-forwarded-scheme", "http"),
            ("x-forwarded-host", "h"),
            ("x_forwarded_host", "evil"),
            ("x-accel-internal", "/x"),
            ("x-tenant", "7"),
        ]);
        let mut kept = sent.clone();
        strip_unkeyed(&mut kept, &[]);
        let rest = [("accept", "*/*"), ("host", "h"), ("x-forwarded-host", "h"), ("x-tenant", "7")];
        assert_eq!(kept, fields(&rest));
        let mut kept = sent;
        strip_unkeyed(&mut kept, &[HeaderName::from_static("x-original-url")]);
        assert_eq!(kept["x-original-url"], "/admin");
        assert_eq!(kept.len(), 5);
    }

    #[test]
    fn only_keyed_fields_are_kept_where_that_is_asked_for() {
        let mut headers = fields(&[
            ("accept", "*/*"),
            ("accept-language", "de"),
            ("authorization", "Basic x"),
            ("cookie", "a=1"),
            ("host", "h"),
            ("if-none-match", "\"1\""),
            ("user-agent", "x"),
            ("via", "1.1 a"),
            ("x-forwarded-host", "h"),
        ]);
        keep_keyed(&mut headers, &[http::header::ACCEPT_LANGUAGE]);
        let kept: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        let mut kept = kept;
        kept.sort_unstable();
        assert_eq!(kept, ["accept-language", "host", "if-none-match", "via", "x-forwarded-host"]);
    }

    #[test]
    fn of_the_cookies_only_the_keyed_one_is_kept() {
        let mut headers = fields(&[("cookie", "a=1; sid=x=y;b=2"), ("cookie", "sid=z; sidx=1")]);
        keep_cookie(&mut headers, "sid");
        assert_eq!(headers, fields(&[("cookie", "sid=x=y; sid=z")]));
        keep_cookie(&mut headers, "other");
        assert!(headers.is_empty());
    }

    #[test]
    fn a_write_stays_the_write_it_is() {
        let mut headers = fields(&[("x-original-url", "/b"), ("x_original_uri", "/b"), ("x-http-method", "PUT")]);
        strip_rerouting(&mut headers);
        assert_eq!(headers, fields(&[("x-http-method", "PUT")]));
    }

    #[test]
    fn a_write_may_be_meant_as_another_method() {
        let rows: [(Fields<'_>, Option<&str>, &[&str]); 6] = [
            (&[], None, &["POST"]),
            (&[("x-http-method-override", "delete")], None, &["POST", "DELETE"]),
            (&[("x_http_method", "PUT"), ("x-method-override", " PATCH , PUT")], None, &["POST", "PUT", "PATCH"]),
            (&[], Some("a=1&_method=DELETE"), &["POST", "DELETE"]),
            (&[("x-http-method", "POST")], Some("_method="), &["POST"]),
            (&[("x-http-method", "no method")], Some("method=PUT"), &["POST"]),
        ];
        for (values, query, expected) in rows {
            let meant = methods_meant(&Method::POST, &fields(values), query);
            let Meant::These(mut methods) = meant else { panic!("{values:?} {query:?}: too many") };
            methods[1..].sort();
            let mut expected: Vec<_> =
                expected.iter().map(|name| Method::from_bytes(name.as_bytes()).unwrap()).collect();
            expected[1..].sort();
            assert_eq!(methods, expected, "{values:?} {query:?}");
        }
    }

    #[test]
    fn a_write_that_names_very_many_methods_may_be_any() {
        let meant = |count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("M{number}, m{number}")).collect();
            methods_meant(&Method::POST, &fields(&[("x-http-method", &names.join(","))]), None)
        };
        assert!(matches!(meant(MEANT), Meant::These(methods) if methods.len() == MEANT + 1));
        for count in [MEANT + 1, 5000] {
            let any = meant(count);
            assert_eq!(any, Meant::Any);
            assert!(any.overlaps(&[Method::DELETE]));
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
