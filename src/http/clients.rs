//! What clients are told of the freshness of a response that writes may invalidate. The promise reaches as far as Larder: a
//! browser that was told `max-age=60` goes on with its own copy whatever is written. One that is told `no-cache` asks again,
//! and is answered 304 from memory as long as nothing has changed.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, EXPIRES};
use http::{HeaderMap, HeaderName, HeaderValue};
use md5::{Digest, Md5};

use super::cache_control;
use super::validation;

/// `client_cache_control`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCacheControl {
    /// What upstream says is passed on.
    #[default]
    Pass,
    /// Clients may keep a response, and have to ask whether it still holds before they use it.
    NoCache,
}

impl ClientCacheControl {
    /// As `rules.toml` has it.
    pub fn word(self) -> &'static str {
        match self {
            ClientCacheControl::Pass => "pass",
            ClientCacheControl::NoCache => "no-cache",
        }
    }
}

const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// The fields in which clients are told something else than upstream said.
static TOLD: [HeaderName; 4] = [CACHE_CONTROL, CDN_CACHE_CONTROL, ETAG, EXPIRES];

/// Tells clients to ask again before they use the response (RFC 9111 §5.2.2.4), and gives what upstream had said. Of
/// `Cache-Control` that remains which forbids more than that.
pub fn tell(response: &mut HeaderMap) -> HeaderMap {
    let mut said = HeaderMap::new();
    for name in &TOLD {
        said.extend(response.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }
    let told = cache_control::for_clients(response);
    response.remove(EXPIRES);
    response.remove(CDN_CACHE_CONTROL);
    response.insert(CACHE_CONTROL, told);
    said
}

/// Gives a response that clients are told to ask for again a validator to ask with, if it has none: a weak one, so that no
/// client makes a write conditional on what upstream does not know. It tells bodies apart, and the fields that a 304 leaves
/// out: a client keeps those that it has.
pub fn identify(response: &mut HeaderMap, body: &[u8]) {
    if !has_validator(response)
        && let Ok(tag) = HeaderValue::try_from(format!("W/\"larder-{:032x}\"", digest(response, body)))
    {
        response.insert(ETAG, tag);
    }
}

/// Whether clients have something to ask with: a malformed one counts, since it is upstream's.
pub fn has_validator(response: &HeaderMap) -> bool {
    response.contains_key(ETAG) || validation::has_validator(response)
}

/// The fields as upstream said them.
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
    // The length follows from the body, and is not stored.
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
    fn clients_are_told_to_ask_again_and_no_less_than_upstream_said() {
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
            let said = tell(&mut told);
            assert_eq!(told, fields(&[("age", "3"), ("cache-control", expected)]), "{lines:?}");
            identify(&mut told, b"body");
            assert_eq!(restored(&told, &said), upstream, "{lines:?}");
        }
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
        // A 304 carries these, or they follow from the body.
        for line in [("content-disposition", "inline"), ("content-location", "/a"), ("content-length", "4")] {
            assert_eq!(tag(&[line], b"body").unwrap(), made, "{line:?}");
        }
        assert_eq!(tag(&[("etag", "\"1\"")], b"body").unwrap(), "\"1\"");
        assert_eq!(tag(&[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")], b"body"), None);
    }
}
