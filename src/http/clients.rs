//! The freshness that clients receive for responses that writes can invalidate. Larder cannot invalidate a browser's
//! cache: with `max-age=60` it would reuse its copy after a write. With `no-cache` it validates each time, and gets a
//! 304 from memory while nothing has changed.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, EXPIRES};
use http::{HeaderMap, HeaderName, HeaderValue};
use md5::{Digest, Md5};

use super::cache_control;
use super::validation;

/// `client_cache_control`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCacheControl {
    /// Upstream's fields are forwarded.
    #[default]
    Pass,
    /// Clients may store a response, but must validate it before each use.
    NoCache,
}

impl ClientCacheControl {
    /// The value in `rules.toml`.
    pub fn word(self) -> &'static str {
        match self {
            ClientCacheControl::Pass => "pass",
            ClientCacheControl::NoCache => "no-cache",
        }
    }
}

const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The fields that are replaced for clients.
static TOLD: [HeaderName; 4] = [CACHE_CONTROL, CDN_CACHE_CONTROL, ETAG, EXPIRES];

/// Sets what clients are told. With [`ClientCacheControl::NoCache`] they must validate before each use (RFC 9111 §5.2.2.4); stricter
/// directives of `Cache-Control` remain. With `is_private`, no shared cache after this one may store the response (§5.2.2.7). Returns
/// upstream's original fields if they may differ.
pub fn tell(response: &mut HeaderMap, told: ClientCacheControl, is_private: bool) -> Option<HeaderMap> {
    if told == ClientCacheControl::Pass && !is_private {
        return None;
    }
    let mut said = HeaderMap::new();
    for name in &TOLD {
        said.extend(response.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }
    response.remove(CDN_CACHE_CONTROL);
    if told == ClientCacheControl::NoCache {
        let told = cache_control::for_clients(response);
        response.remove(EXPIRES);
        response.insert(CACHE_CONTROL, told);
    }
    if is_private {
        let told = cache_control::for_private_caches(response);
        response.insert(CACHE_CONTROL, told);
    }
    Some(said)
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
pub fn restored(response: &HeaderMap, said: &HeaderMap) -> HeaderMap {
    let mut fields = response.clone();
    for name in &TOLD {
        fields.remove(name);
        for value in said.get_all(name) {
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
    use crate::http::sample::fields;

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
            let said = tell(&mut told, ClientCacheControl::NoCache, false).unwrap();
            assert_eq!(told, fields(&[("age", "3"), ("cache-control", expected)]), "{lines:?}");
            identify(&mut told, b"body");
            assert_eq!(restored(&told, &said), upstream, "{lines:?}");
        }
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
            let said = tell(&mut sent, told, true).unwrap();
            assert_eq!(sent, fields(&[("etag", "\"1\""), ("cache-control", expected)]), "{lines:?}");
            assert_eq!(restored(&sent, &said), upstream, "{lines:?}");
        }
        assert_eq!(tell(&mut fields(&[]), ClientCacheControl::Pass, false), None);
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
