//! The freshness that clients receive for responses that writes can invalidate. Larder cannot invalidate a browser's
//! cache: with `max-age=60` it would reuse its copy after a write. With `no-cache` it validates each time, and gets a
//! 304 from memory while nothing has changed.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, EXPIRES};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use md5::{Digest, Md5};

use super::cache_control::{self, ResponseDirectives, Scope};
use super::targeted::{self, CDN_CACHE_CONTROL};
use super::validation;

/// `client_cache_control`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientCacheControl {
    /// Upstream's fields are forwarded.
    #[default]
    Pass,
    /// Clients may store a response, but must validate it before each use.
    NoCache,
    /// This `Cache-Control`, for responses that upstream lets every cache store; `NoCache` for the others.
    Value(HeaderValue),
}

impl ClientCacheControl {
    /// The value in `rules.toml`.
    pub fn text(&self) -> &str {
        match self {
            ClientCacheControl::Pass => "pass",
            ClientCacheControl::NoCache => "no-cache",
            ClientCacheControl::Value(value) => value.to_str().unwrap_or_default(),
        }
    }
}

/// The fields that are replaced for clients.
static TOLD: [HeaderName; 4] = [CACHE_CONTROL, CDN_CACHE_CONTROL, ETAG, EXPIRES];

/// Who may have a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every caller, or every one that the family tells apart by its key.
    Everyone,
    /// The caller of the request: it has credentials that the family does not know.
    OneCaller,
    /// Every caller that the API authorizes (`authorize`).
    Authorized,
}

/// Sets what clients and CDNs are told of their caches. Returns upstream's original fields if they may differ.
///
/// A configured value is for 2xx and 3xx that upstream lets every cache store. Everything else, such as errors, private
/// responses, and those for one caller, gets what `no-cache` gives (RFC 9111 §5.2.2.4); stricter directives of
/// `Cache-Control` remain. `cdn` replaces upstream's `CDN-Cache-Control` (RFC 9213 §3); without it that field is removed, unless
/// upstream's `Cache-Control` stays. No shared cache after this one may store a response for authorized callers (§5.2.2.7).
pub fn tell(
    response: &mut HeaderMap,
    status: StatusCode,
    told: &ClientCacheControl,
    cdn: Option<&HeaderValue>,
    audience: Audience,
) -> Option<HeaderMap> {
    let is_private = audience == Audience::Authorized;
    if *told == ClientCacheControl::Pass && cdn.is_none() && !is_private {
        return None;
    }
    let is_good = audience != Audience::OneCaller && (status.is_success() || status.is_redirection());
    let cdn =
        cdn.filter(|_| is_good && !is_private && is_for_every_cache(&targeted::effective(response).directives));
    let mut original = HeaderMap::new();
    for name in &TOLD {
        original.extend(response.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }
    let value = match told {
        ClientCacheControl::Pass => None,
        ClientCacheControl::Value(value)
            if is_good && is_for_every_cache(&ResponseDirectives::parse(response)) =>
        {
            Some(value.clone())
        }
        ClientCacheControl::NoCache | ClientCacheControl::Value(_) => Some(cache_control::for_clients(response)),
    };
    if let Some(value) = value {
        response.remove(EXPIRES);
        response.remove(CDN_CACHE_CONTROL);
        response.insert(CACHE_CONTROL, value);
    }
    if let Some(cdn) = cdn {
        response.insert(CDN_CACHE_CONTROL, cdn.clone());
    }
    if is_private {
        response.remove(CDN_CACHE_CONTROL);
        let told = cache_control::for_private_caches(response);
        response.insert(CACHE_CONTROL, told);
    }
    Some(original)
}

/// Whether these directives neither forbid storing a response nor demand that it be validated before each use, nor limit it to
/// some clients.
fn is_for_every_cache(directives: &ResponseDirectives) -> bool {
    !directives.no_store && directives.no_cache == Scope::Absent && directives.private == Scope::Absent
}

/// Adds a weak validator if the response has none, so that clients can validate it. Weak, so that no client makes a
/// write conditional on a tag unknown to upstream. It covers the body and the fields that a 304 omits, since a client
/// keeps those.
pub fn identify(response: &mut HeaderMap, body: &[u8]) {
    if !has_validator(response)
        && let Ok(tag) = HeaderValue::try_from(format!("W/\"larder-{:032x}\"", digest(response, body)))
    {
        response.insert(ETAG, tag);
    }
}

/// Whether the response has a validator; a malformed one counts, since it is upstream's.
pub fn has_validator(response: &HeaderMap) -> bool {
    response.contains_key(ETAG) || validation::has_validator(response)
}

/// The fields as upstream sent them.
pub fn restored(response: &HeaderMap, original: &HeaderMap) -> HeaderMap {
    let mut fields = response.clone();
    for name in &TOLD {
        fields.remove(name);
        for value in original.get_all(name) {
            fields.append(name, value.clone());
        }
    }
    fields
}

fn digest(response: &HeaderMap, body: &[u8]) -> u128 {
    let mut hash = Md5::new();
    let mut part = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    // The length follows from the body and is not stored.
    for name in validation::LEFT_OUT_OF_304.iter().filter(|name| *name != CONTENT_LENGTH) {
        for value in response.get_all(name) {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
        }
    }
    part(body);
    u128::from_be_bytes(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};

    #[test]
    fn clients_get_no_cache_and_upstreams_stricter_directives() {
        let rows: [(&[&str], &str); 9] = [
            (&[], "no-cache"),
            (&["max-age=60"], "no-cache"),
            (&["public, max-age=60, s-maxage=7, immutable", "stale-while-revalidate=1"], "no-cache"),
            (&["private, max-age=60"], "no-cache, private"),
            (&["no-cache=\"set-cookie\", no-transform"], "no-cache, no-transform"),
            (&["Must-Revalidate, stale-if-error=9, x=\"a, b\""], "no-cache, x=\"a, b\""),
            (&["no-store, must-understand"], "no-cache, no-store, must-understand"),
            (&["max-age=60, x=\"open"], "no-cache, no-store"),
            (&["max-age=60 no-store"], "no-cache, no-store"),
        ];
        for (lines, expected) in rows {
            let lines: Vec<(&str, &str)> = lines.iter().map(|line| ("cache-control", *line)).collect();
            let all = [&lines[..], &[("expires", "0"), ("cdn-cache-control", "max-age=9"), ("age", "3")]].concat();
            let upstream = fields(&all);
            let mut told = upstream.clone();
            let original =
                tell(&mut told, StatusCode::OK, &ClientCacheControl::NoCache, None, Audience::Everyone).unwrap();
            assert_eq!(told, fields(&[("age", "3"), ("cache-control", expected)]), "{lines:?}");
            identify(&mut told, b"body");
            assert_eq!(restored(&told, &original), upstream, "{lines:?}");
        }
    }

    /// `Cache-Control` and `CDN-Cache-Control` after [`tell`].
    fn told(status: u16, lines: &[(&str, &str)], control: &ClientCacheControl, cdn: Option<&str>) -> [String; 2] {
        let upstream = fields(lines);
        let mut response = upstream.clone();
        let cdn = cdn.map(|cdn| HeaderValue::from_str(cdn).unwrap());
        let original =
            tell(&mut response, StatusCode::from_u16(status).unwrap(), control, cdn.as_ref(), Audience::Everyone);
        if let Some(original) = original {
            assert_eq!(restored(&response, &original), upstream);
        }
        [CACHE_CONTROL, CDN_CACHE_CONTROL]
            .map(|name| response.get(name).map_or("-".to_owned(), |value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_configured_value_is_told_of_responses_that_every_cache_may_store() {
        let value = ClientCacheControl::Value(HeaderValue::from_static("max-age=30"));
        let cdn = Some("max-age=300");
        let general = |text| ("cache-control", text);
        let rows: [(u16, Fields<'_>, [&str; 2]); 10] = [
            (200, &[], ["max-age=30", "max-age=300"]),
            (200, &[general("max-age=9, public"), ("expires", "0")], ["max-age=30", "max-age=300"]),
            (301, &[], ["max-age=30", "max-age=300"]),
            (404, &[general("max-age=9")], ["no-cache", "-"]),
            (500, &[], ["no-cache", "-"]),
            (200, &[general("private, max-age=9")], ["no-cache, private", "-"]),
            (200, &[general("no-cache=\"x\"")], ["no-cache", "-"]),
            (200, &[general("no-store")], ["no-cache, no-store", "-"]),
            // A field for CDNs decides for CDNs.
            (200, &[general("private"), ("cdn-cache-control", "max-age=9")], ["no-cache, private", "max-age=300"]),
            (200, &[general("max-age=9"), ("surrogate-control", "no-store")], ["max-age=30", "-"]),
        ];
        for (status, lines, expected) in rows {
            assert_eq!(told(status, lines, &value, cdn), expected, "{status} {lines:?}");
        }
        let rows: [(Fields<'_>, [&str; 2]); 3] = [
            (&[general("max-age=9")], ["max-age=9", "max-age=300"]),
            (&[("cdn-cache-control", "max-age=1")], ["-", "max-age=300"]),
            (&[("cdn-cache-control", "no-store")], ["-", "no-store"]),
        ];
        for (lines, expected) in rows {
            assert_eq!(told(200, lines, &ClientCacheControl::Pass, cdn), expected, "{lines:?}");
        }
        let mut personal = HeaderMap::new();
        let cdn = HeaderValue::from_static("max-age=300");
        tell(&mut personal, StatusCode::OK, &value, Some(&cdn), Audience::OneCaller);
        assert_eq!(personal, fields(&[general("no-cache")]), "to a caller whom the family does not know");
        let mut guarded = HeaderMap::new();
        tell(&mut guarded, StatusCode::OK, &value, Some(&cdn), Audience::Authorized);
        assert_eq!(guarded, fields(&[general("private, max-age=30")]), "to authorized callers");
        let upstream = [general("max-age=9"), ("cdn-cache-control", "max-age=1")];
        assert_eq!(told(200, &upstream, &ClientCacheControl::Pass, None), ["max-age=9", "max-age=1"]);
        assert_eq!(told(200, &upstream, &value, None), ["max-age=30", "-"]);
    }

    #[test]
    fn shared_caches_may_not_store_what_is_for_authorized_callers() {
        let rows: [(&[&str], ClientCacheControl, &str); 8] = [
            (&[], ClientCacheControl::Pass, "private"),
            (&["public, max-age=60, s-maxage=7"], ClientCacheControl::Pass, "private, max-age=60"),
            (&["Private, max-age=60"], ClientCacheControl::Pass, "private, max-age=60"),
            (
                &["private=\"set-cookie\", max-age=1", "no-transform"],
                ClientCacheControl::Pass,
                "private, max-age=1, no-transform",
            ),
            (&["no-store"], ClientCacheControl::Pass, "private, no-store"),
            (&["max-age=60, x=\"open"], ClientCacheControl::Pass, "private, max-age=60, no-store"),
            (&["public, max-age=60"], ClientCacheControl::NoCache, "private, no-cache"),
            (&[], ClientCacheControl::NoCache, "private, no-cache"),
        ];
        for (lines, told, expected) in rows {
            let lines: Vec<(&str, &str)> = lines.iter().map(|line| ("cache-control", *line)).collect();
            let upstream =
                fields(&[&lines[..], &[("cdn-cache-control", "max-age=9"), ("etag", "\"1\"")]].concat());
            let mut sent = upstream.clone();
            let original = tell(&mut sent, StatusCode::OK, &told, None, Audience::Authorized).unwrap();
            assert_eq!(sent, fields(&[("etag", "\"1\""), ("cache-control", expected)]), "{lines:?}");
            assert_eq!(restored(&sent, &original), upstream, "{lines:?}");
        }
        let none = tell(&mut fields(&[]), StatusCode::OK, &ClientCacheControl::Pass, None, Audience::Everyone);
        assert_eq!(none, None);
    }

    #[test]
    fn a_validator_is_made_where_there_is_none() {
        let tag = |lines: &[(&str, &str)], body: &[u8]| {
            let mut response = fields(lines);
            identify(&mut response, body);
            response.get(ETAG).map(|tag| tag.to_str().unwrap().to_owned())
        };
        let made = tag(&[], b"body").unwrap();
        assert!(made.starts_with("W/\"larder-") && made.len() == 43, "{made}");
        assert_eq!(tag(&[], b"body").unwrap(), made);
        assert_ne!(tag(&[], b"other").unwrap(), made);
        let left_out = [
            ("content-type", "text/html"),
            ("content-type", "text/plain"),
            ("content-language", "de"),
            ("content-encoding", "x"),
        ];
        let mut tags: Vec<String> = left_out.iter().map(|line| tag(&[*line], b"body").unwrap()).collect();
        tags.push(tag(&left_out, b"body").unwrap());
        tags.push(made.clone());
        tags.sort();
        assert!(tags.windows(2).all(|pair| pair[0] != pair[1]), "{tags:?}");
        // A 304 has these fields, or they follow from the body.
        for line in [("content-disposition", "inline"), ("content-location", "/a"), ("content-length", "4")] {
            assert_eq!(tag(&[line], b"body").unwrap(), made, "{line:?}");
        }
        assert_eq!(tag(&[("etag", "\"1\"")], b"body").unwrap(), "\"1\"");
        assert_eq!(tag(&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], b"body"), None);
    }
}
