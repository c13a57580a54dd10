//! What the response to a write means for stored responses (RFC 9111 §4.4).

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::http::headers::Meant;
use crate::http::target::{Target, normalise, normalise_authority};

/// RFC 4918 §10.3
const DESTINATION: HeaderName = HeaderName::from_static("destination");

/// How a write ended, as far as this proxy knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteEnd {
    /// Upstream responded.
    Answered(StatusCode),
    /// No response: timeout, reset, shutdown, or a gateway behind this one without a response. The write may have
    /// been executed, or may still be.
    NoAnswer,
    /// A redirect to the login page: the write was refused, since its caller is not logged in; or it was a logout.
    ToLogin,
}

impl WriteEnd {
    /// How a write ended, according to its response. A gateway's 502 or 504 (RFC 9110 §15.6.3, §15.6.5), or a CDN's
    /// 520 to 527, is not the API's response.
    pub fn of_answer(status: StatusCode) -> WriteEnd {
        match status.as_u16() {
            502 | 504 | 520..=527 => WriteEnd::NoAnswer,
            _ => WriteEnd::Answered(status),
        }
    }
}

/// Whether a response shows that the stored response for the path is no longer valid: 404 and 410 (the resource is gone),
/// 409 and 412 (it differs from what the client knows). A client that reads again must not get the same stored
/// response.
pub fn shows_old_copy(end: WriteEnd) -> bool {
    matches!(end, WriteEnd::Answered(status) if matches!(status.as_u16(), 404 | 409 | 410 | 412))
}

/// The statuses on which an invalidation rule applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet {
    /// Inclusive ranges of status codes.
    pub ranges: Vec<(u16, u16)>,
}

impl Default for StatusSet {
    /// 2xx and 3xx: a "non-error response" (RFC 9111 §4.4).
    fn default() -> StatusSet {
        StatusSet { ranges: vec![(200, 399)] }
    }
}

impl StatusSet {
    /// As in the rules file: `404`, `200-399`.
    pub fn texts(&self) -> Vec<String> {
        let text = |(from, to): &(u16, u16)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        self.ranges.iter().map(text).collect()
    }

    /// Whether a write that ended like this invalidates: with a status in the set, or without a response.
    pub fn applies(&self, end: WriteEnd) -> bool {
        match end {
            WriteEnd::Answered(status) => {
                self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&status.as_u16()))
            }
            WriteEnd::NoAnswer => true,
            WriteEnd::ToLogin => false,
        }
    }
}

/// The normalised path of a redirect, whatever its host. `None` if the response is no redirect (RFC 9110 §15.4), or
/// does not name exactly one target.
pub fn redirected_to(target: &Target, status: StatusCode, answer: &HeaderMap) -> Option<String> {
    if !matches!(status.as_u16(), 300..=303 | 305..=399) {
        return None;
    }
    let mut lines = answer.get_all(LOCATION).iter();
    let (Some(only), None) = (lines.next(), lines.next()) else { return None };
    let reference = hierarchical(only)?;
    let reference = match reference.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) {
        Some((scheme, rest)) => {
            let is_http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
            rest.starts_with("//").then_some(rest).filter(|_| is_http)?
        }
        None => reference,
    };
    let path = match reference.strip_prefix("//") {
        Some(rest) => &rest[rest.find('/').unwrap_or(rest.len())..],
        None => reference,
    };
    Some(resolved(target, reference, path))
}

/// Normalised paths of the `Location` and `Content-Location` of a non-error response on the target's host or on one
/// of `also`, upstream's own names; http or https, since upstream may not know which one its client used. Relative
/// references are resolved against the target; others are ignored (§4.4). Sorted, without duplicates and queries, as
/// in [`crate::marks::Tag::uri`].
pub fn named_paths(target: &Target, answer: &HeaderMap, also: impl FnOnce() -> Vec<String>) -> Vec<String> {
    if !answer.contains_key(LOCATION) && !answer.contains_key(CONTENT_LOCATION) {
        return Vec::new();
    }
    let also = also();
    let references = answer.get_all(LOCATION).iter().chain(answer.get_all(CONTENT_LOCATION));
    let mut paths: Vec<String> = references.filter_map(|reference| path_of(target, reference, &also)).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// The normalised path in the `Destination` of a MOVE or COPY (RFC 4918 §10.3), if it is on the same host. `methods`
/// are those that upstream may take the request for.
///
/// # Errors
///
/// There are several destinations.
pub fn destination(
    target: &Target,
    request: &HeaderMap,
    methods: impl FnOnce() -> Meant,
    also: &[String],
) -> Result<Option<String>, SeveralDestinations> {
    let mut references = request.get_all(DESTINATION).iter();
    let Some(reference) = references.next().filter(|_| methods().any(moves)) else { return Ok(None) };
    match references.next() {
        Some(_) => Err(SeveralDestinations),
        None => Ok(path_of(target, reference, also)),
    }
}

/// RFC 4918 §9.8, §9.9
fn moves(method: &Method) -> bool {
    matches!(method.as_str(), "MOVE" | "COPY")
}

/// A MOVE or COPY to several destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Destination is there more than once")]
pub struct SeveralDestinations;

/// Whether the `Content-Location` of a response is the target itself, including its query (RFC 9110 §8.7).
pub fn is_of_target(target: &Target, answer: &HeaderMap) -> bool {
    let mut lines = answer.get_all(CONTENT_LOCATION).iter();
    let (Some(only), None) = (lines.next(), lines.next()) else { return false };
    let text = String::from_utf8_lossy(only.as_bytes());
    let query = text.trim().split('#').next().unwrap_or("").split_once('?').map(|(_, query)| query);
    path_of(target, only, &[]).is_some_and(|path| target.clone().at(&path).path == target.path)
        && query == target.query.as_deref()
}

/// The path of a URI reference (RFC 3986 §5.2), if it is on the target's host or on one of `also`.
fn path_of(target: &Target, reference: &HeaderValue, also: &[String]) -> Option<String> {
    let (scheme, reference) = without_scheme(hierarchical(reference)?)?;
    let path = match reference.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let is_own = |host: &str| is_host(scheme, authority, host);
            (is_own(&target.host) || also.iter().any(|host| is_own(host))).then_some(path)?
        }
        None => reference,
    };
    Some(resolved(target, reference, path))
}

/// Whether an authority is this host and port; the port may be omitted if it is the default of `scheme` or, without a
/// scheme, of http or https.
pub fn is_host(scheme: Option<&str>, authority: &str, host: &str) -> bool {
    let schemes = if scheme.is_some() { [scheme, None] } else { [Some("http"), Some("https")] };
    schemes.into_iter().flatten().any(|scheme| {
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let bare = host.strip_suffix(default_port).unwrap_or(host);
        normalise_authority(scheme, authority).is_some_and(|authority| authority == bare)
    })
}

/// A reference without query and fragment.
fn hierarchical(reference: &HeaderValue) -> Option<&str> {
    let reference = std::str::from_utf8(reference.as_bytes()).ok()?.trim();
    Some(&reference[..reference.find(['?', '#']).unwrap_or(reference.len())])
}

/// The normalised path of a reference without scheme.
fn resolved(target: &Target, reference: &str, path: &str) -> String {
    let resolved = match path {
        // A query or fragment alone refers to the target itself; after an authority, an empty path is the root.
        "" if reference.is_empty() => target.path.clone(),
        path if path.is_empty() || path.starts_with('/') => path.to_owned(),
        relative => format!("{}/{relative}", target.path.rsplit_once('/').map_or("", |(parent, _)| parent)),
    };
    normalise(&resolved).into_owned()
}

/// The scheme of a reference, and the rest. `None` if it is neither http nor https, or if a URI lacks the authority
/// (`http:x`), which is ambiguous.
pub fn without_scheme(reference: &str) -> Option<(Option<&'static str>, &str)> {
    let Some((scheme, rest)) = reference.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
        return Some((None, reference));
    };
    let known = ["http", "https"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))?;
    rest.starts_with("//").then_some((Some(known), rest))
}

/// RFC 3986 §3.1. A colon after a slash belongs to the path.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target() -> Target {
        let (host, path) = ("api.example:8080".into(), "/v1/users/42".into());
        Target { scheme: "http", host, path, ..Target::default() }
    }

    fn named(location: &str) -> Vec<String> {
        let location = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        named_paths(&target(), &HeaderMap::from_iter([(LOCATION, location)]), Vec::new)
    }

    #[test]
    fn references_to_the_same_origin_are_resolved_and_normalised() {
        let rows = [
            ("http://api.example:8080/v1/%75sers?x=1#f", "/v1/users"),
            ("HTTP://API.Example:8080/v1/users", "/v1/users"),
            ("http://api.example:8080", "/"),
            ("http://api.example:8080?x", "/"),
            ("//api.example:8080/a", "/a"),
            ("/v1/users/7", "/v1/users/7"),
            ("/v1/./users/../rooms", "/v1/rooms"),
            ("7", "/v1/users/7"),
            ("./7", "/v1/users/7"),
            ("../rooms/7", "/v1/rooms/7"),
            ("7/a:b", "/v1/users/7/a:b"),
            ("?page=2", "/v1/users/42"),
            ("#top", "/v1/users/42"),
            ("", "/v1/users/42"),
            ("/caf\u{e9}", "/caf%C3%A9"),
        ];
        for (location, expected) in rows {
            assert_eq!(named(location), [expected], "{location}");
        }
    }

    #[test]
    fn other_origins_are_ignored() {
        let rows = [
            "http://api.example/v1/users",
            "https://api.example/v1/users",
            "http://other.example:8080/v1/users",
            "http://api.example:8080@other.example/",
            "http://user@api.example:8080/",
            "//other.example/v1/users",
            "http:/v1/users",
            "http:users",
            "mailto:a@b",
            "urn:isbn:1",
        ];
        for location in rows {
            assert!(named(location).is_empty(), "{location}");
        }
    }

    #[test]
    fn upstream_may_name_itself_by_its_own_address_and_either_scheme() {
        let answer = |location: &str| HeaderMap::from_iter([(LOCATION, HeaderValue::from_str(location).unwrap())]);
        let also = ["127.0.0.1:8000", "api.internal"].map(str::to_owned);
        for location in [
            "https://api.example:8080/a",
            "http://127.0.0.1:8000/a",
            "https://127.0.0.1:8000/a",
            "https://api.internal/a",
            "//API.internal:443/a",
            "http://api.internal:80/a",
        ] {
            assert_eq!(named_paths(&target(), &answer(location), || also.to_vec()), ["/a"], "{location}");
        }
        for location in ["http://api.internal:443/a", "http://127.0.0.1/a", "http://api.internal.evil.test/a"] {
            assert_eq!(named_paths(&target(), &answer(location), || also.to_vec()), [""; 0], "{location}");
        }
        // Behind a TLS terminator.
        let target = Target { host: "api.test:443".into(), ..target() };
        assert_eq!(named_paths(&target, &answer("https://api.test/a"), Vec::new), ["/a"]);
    }

    #[test]
    fn a_destination_is_on_the_same_host() {
        let moving = Meant::These(vec![Method::from_bytes(b"MOVE").unwrap()]);
        let to = |value: &str| {
            let request = HeaderMap::from_iter([(DESTINATION, HeaderValue::from_str(value).unwrap())]);
            destination(&target(), &request, || moving.clone(), &[]).unwrap()
        };
        for value in ["/b%7E", "https://api.example:8080/b~", "//api.example:8080/x/../b~?q#f"] {
            assert_eq!(to(value).as_deref(), Some("/b~"), "{value}");
        }
        assert_eq!(to("http://other.example/b"), None);
    }

    #[test]
    fn only_a_move_or_copy_has_a_destination_and_no_more_than_one() {
        let meant = |name: &str| Meant::These(vec![Method::from_bytes(name.as_bytes()).unwrap()]);
        let mut request = HeaderMap::from_iter([(DESTINATION, HeaderValue::from_static("/b"))]);
        let of = |request: &HeaderMap, method: &str| destination(&target(), request, || meant(method), &[]);
        for (method, expected) in [("COPY", Some("/b")), ("MOVE", Some("/b")), ("POST", None), ("DELETE", None)] {
            assert_eq!(of(&request, method).unwrap().as_deref(), expected, "{method}");
        }
        request.append(DESTINATION, HeaderValue::from_static("/c"));
        assert_eq!(of(&request, "MOVE"), Err(SeveralDestinations));
        assert_eq!(of(&request, "POST"), Ok(None));
    }

    #[test]
    fn a_redirect_leads_to_a_path_whatever_its_host() {
        let to = |status, location: &str| {
            let answer = HeaderMap::from_iter([(LOCATION, HeaderValue::from_str(location).unwrap())]);
            redirected_to(&target(), StatusCode::from_u16(status).unwrap(), &answer)
        };
        let rows = [
            ("/login?next=%2Fv1", Some("/login")),
            ("http://api.example:8080/login", Some("/login")),
            ("HTTPS://sso.example/l%6Fgin#a", Some("/login")),
            ("//sso.example/login", Some("/login")),
            ("https://sso.example?x", Some("/")),
            ("login", Some("/v1/users/login")),
            ("../../login", Some("/login")),
            ("?again", Some("/v1/users/42")),
            ("mailto:a@login", None),
            ("https:/login", None),
        ];
        for (location, expected) in rows {
            assert_eq!(to(302, location).as_deref(), expected, "{location}");
        }
        for (status, is_redirect) in
            [(200, false), (201, false), (301, true), (304, false), (307, true), (401, false)]
        {
            assert_eq!(to(status, "/login").is_some(), is_redirect, "{status}");
        }
        let twice = HeaderMap::from_iter(["/a", "/b"].map(|path| (LOCATION, HeaderValue::from_static(path))));
        assert_eq!(redirected_to(&target(), StatusCode::FOUND, &twice), None);
    }

    #[test]
    fn the_default_port_is_no_other_origin() {
        let target = Target { host: "api.example".into(), ..target() };
        let answer = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("http://api.example:80/a"))]);
        assert_eq!(named_paths(&target, &answer, Vec::new), ["/a"]);
    }

    #[test]
    fn both_fields_count_once() {
        let answer = HeaderMap::from_iter([
            (LOCATION, HeaderValue::from_static("/b")),
            (CONTENT_LOCATION, HeaderValue::from_static("/a")),
            (CONTENT_LOCATION, HeaderValue::from_static("/b")),
        ]);
        assert_eq!(named_paths(&target(), &answer, Vec::new), ["/a", "/b"]);
        assert!(named_paths(&target(), &HeaderMap::new(), Vec::new).is_empty());
    }

    #[test]
    fn a_gateways_failure_is_no_answer() {
        let ends = |status| WriteEnd::of_answer(StatusCode::from_u16(status).unwrap());
        for status in [502, 504, 520, 524, 527] {
            assert_eq!(ends(status), WriteEnd::NoAnswer, "{status}");
        }
        for status in [200, 303, 400, 408, 409, 500, 501, 503, 505, 519, 528] {
            assert_eq!(ends(status), WriteEnd::Answered(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }

    #[test]
    fn some_refusals_show_that_a_copy_is_old() {
        for (status, shows) in
            [(404, true), (409, true), (410, true), (412, true), (400, false), (403, false), (500, false)]
        {
            assert_eq!(
                shows_old_copy(WriteEnd::Answered(StatusCode::from_u16(status).unwrap())),
                shows,
                "{status}"
            );
        }
    }

    #[test]
    fn writes_that_may_have_been_carried_out_invalidate() {
        let set = StatusSet::default();
        for (status, applies) in [(200, true), (204, true), (303, true), (304, true), (400, false), (500, false)] {
            assert_eq!(
                set.applies(WriteEnd::Answered(StatusCode::from_u16(status).unwrap())),
                applies,
                "{status}"
            );
        }
        assert!(set.applies(WriteEnd::NoAnswer));
    }

    proptest! {
        #[test]
        fn any_bytes_name_normal_paths_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                for path in named_paths(&target(), &HeaderMap::from_iter([(LOCATION, value)]), Vec::new) {
                    prop_assert_eq!(normalise(&path), path.as_str());
                }
            }
        }

        #[test]
        fn almost_references_name_normal_paths_or_none(location in "(https?:)?(//)?[a-z.:@/?#%2eE-]{0,20}") {
            for path in named(&location) {
                prop_assert_eq!(normalise(&path), path.as_str());
            }
        }
    }
}
