//! Responses to clients: from an entry (with `Age`, and as 304 or 206 where the client's conditions or ranges ask for it), from a
//! response that is being fetched, or Larder's own errors.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE,
    LAST_MODIFIED, RANGE, RETRY_AFTER, TRAILER,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Body as _;

use super::cache_request::CacheRequest;
use super::slice::Slice;
use super::{Answered, Body, ClientRequest, storing};
use crate::cache::Lookup;
use crate::coalesce::inflight::Head;
use crate::coalesce::stream::StreamReader;
use crate::config::ServerConfig;
use crate::entry::{self, Entry};
use crate::http::headers;
use crate::http::multipart;
use crate::http::range::{self, ByteRange, Range};
use crate::http::validation::{self, Condition};
use crate::marks::Tag;
use crate::outcome::Outcome;
use crate::running::Running;
use crate::upstream::{ContentUnread, ResponseBody};

/// Most fields that are added to a stored response: `Age`, `Cache-Status` and `X-Request-Id`.
const ADDED: usize = 3;

/// A response from a stored one. `is_known`: the client has it, by its own conditions.
pub fn stored(
    method: &Method,
    request: &HeaderMap,
    stored: &entry::Response,
    is_known: bool,
    now: SystemTime,
) -> Response<Body> {
    let age = stored.freshness.age(now);
    if is_known {
        return not_modified(&stored.headers.to_map(0), age);
    }
    let length = stored.body.len() as u64;
    let asks_for = match stored.status {
        // RFC 9110 §14.2: ranges are defined for GET, and apply to what would be a 200.
        StatusCode::OK if *method == Method::GET && request.contains_key(RANGE) => {
            range::requested(request, &stored.headers.to_map(0), length)
        }
        _ => Range::Whole,
    };
    let mut response = match asks_for {
        Range::Whole => whole(stored, *method == Method::HEAD),
        Range::Parts(parts) => partial(described(request, stored.headers.to_map(1)), &stored.body, &parts),
        Range::Unsatisfiable => return unsatisfiable(length),
    };
    // RFC 9111 §5.1
    response.headers_mut().insert(AGE, HeaderValue::from(age.as_secs()));
    response
}

fn whole(stored: &entry::Response, head_only: bool) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = stored.status;
    *response.headers_mut() = stored.headers.to_map(ADDED);
    if head_only && stored.status != StatusCode::NO_CONTENT {
        // RFC 9110 §9.3.2: what a GET would have sent.
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
    } else if !head_only && !stored.body.is_empty() {
        *response.body_mut() = Body::Whole(stored.body.clone());
    }
    response
}

/// RFC 9110 §15.3.7: one part as it is, several as `multipart/byteranges`.
fn partial(fields: HeaderMap, whole: &Bytes, parts: &[ByteRange]) -> Response<Body> {
    let content_type = fields.get(CONTENT_TYPE).cloned();
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    *response.headers_mut() = fields;
    match parts {
        [only] => {
            *response.body_mut() = Body::Cut(whole.clone(), only.within(whole.len()));
            if let Ok(range) = HeaderValue::try_from(only.content_range(whole.len() as u64)) {
                response.headers_mut().insert(CONTENT_RANGE, range);
            }
        }
        several => {
            let message = multipart::byteranges(whole, several, content_type.as_ref(), rand::random());
            response.headers_mut().insert(CONTENT_TYPE, message.content_type);
            *response.body_mut() = Body::Whole(message.body);
        }
    }
    response
}

/// The fields of a 206 without `Content-Range`, which a message of several parts does not have (RFC 9110 §15.3.7.2). A client that
/// sends `If-Range` has the representation's fields from an earlier part (§15.3.7).
fn described(request: &HeaderMap, mut fields: HeaderMap) -> HeaderMap {
    fields.remove(CONTENT_RANGE);
    if request.contains_key(IF_RANGE) {
        for name in [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, LAST_MODIFIED] {
            fields.remove(name);
        }
    }
    fields
}

/// RFC 9110 §15.5.17
fn unsatisfiable(length: u64) -> Response<Body> {
    let mut response = error(StatusCode::RANGE_NOT_SATISFIABLE, "no part of the range lies within the response");
    if let Ok(range) = HeaderValue::try_from(format!("bytes */{length}")) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response
}

fn not_modified(stored: &HeaderMap, age: Duration) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.headers_mut() = validation::not_modified_headers(stored);
    response.headers_mut().insert(AGE, HeaderValue::from(age.as_secs()));
    response
}

/// Whether the client has this response, by its own conditions. `tags`: those of the response.
pub(super) async fn is_known(
    running: &Running,
    request: &CacheRequest,
    (status, fields): (StatusCode, &HeaderMap),
    tags: impl FnOnce() -> Vec<Tag>,
) -> bool {
    match validation::evaluate(&request.client_request.headers, status, fields) {
        Condition::Send => false,
        Condition::NotModified => true,
        Condition::NotModifiedSince(date) => {
            let tags = tags();
            // In a box: few hits have a condition by date.
            !Box::pin(running.cache.may_be_of_a_write(&tags, date)).await
        }
    }
}

/// What the client's own conditions say of the stored response that was found, if there is one.
pub(super) fn condition(request: &CacheRequest, lookup: &Lookup) -> Condition {
    let entry = lookup.entry().filter(|_| request.client_request.conditions);
    let stored = entry.and_then(|entry| entry.response());
    stored.map_or(Condition::Send, |stored| {
        validation::evaluate(&request.client_request.headers, stored.status, &stored.headers.to_map(0))
    })
}

/// The same of an entry.
pub(super) async fn is_known_entry(running: &Running, request: &CacheRequest, entry: &Entry) -> bool {
    match entry.response() {
        Some(stored) => {
            is_known(running, request, (stored.status, &stored.headers.to_map(0)), || entry.tags.to_vec()).await
        }
        None => false,
    }
}

/// The response from a stored one, with its outcome.
pub(super) fn from_stored(
    running: &Running,
    request: &CacheRequest,
    stored: &entry::Response,
    is_known: bool,
    now: SystemTime,
    outcome: Outcome,
) -> Answered {
    let http = &request.client_request;
    let mut response = self::stored(&http.method, &http.headers, stored, is_known, now);
    if stored.consumed {
        storing::strip_consumed(response.headers_mut(), &running.config.server);
    }
    request.answered(response, outcome)
}

/// A response from one that is being fetched. `is_known`: the client has it.
pub(super) fn streaming(
    http: &ClientRequest,
    head: &Head,
    is_known: bool,
    reader: StreamReader,
) -> Response<Body> {
    if is_known {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.headers_mut() = validation::not_modified_headers(&head.headers);
        return response;
    }
    let mut response = match asks_for(http, head, &reader) {
        // RFC 9110 §14.2 lets a server send the whole in place of several parts.
        Range::Whole if head.status == StatusCode::NO_CONTENT => Response::new(Body::Empty),
        Range::Whole => Response::new(Body::Shared(reader)),
        Range::Parts(parts) if parts.len() > 1 => Response::new(Body::Shared(reader)),
        Range::Parts(parts) => return streaming_part(http, head, reader, parts[0]),
        Range::Unsatisfiable => return unsatisfiable(reader.size_hint().exact().unwrap_or(0)),
    };
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers.clone();
    response
}

/// The range of a body that is being fetched; the whole unless its length is known.
fn asks_for(http: &ClientRequest, head: &Head, reader: &StreamReader) -> Range {
    match reader.size_hint().exact() {
        Some(length) if http.method == Method::GET && head.status == StatusCode::OK => {
            range::requested(&http.headers, &head.headers, length)
        }
        _ => Range::Whole,
    }
}

fn streaming_part(http: &ClientRequest, head: &Head, reader: StreamReader, part: ByteRange) -> Response<Body> {
    let length = reader.size_hint().exact().unwrap_or(0);
    let mut response = Response::new(Body::Part(Slice::new(reader, part.first, part.last)));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    *response.headers_mut() = described(&http.headers, head.headers.clone());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(part.length()));
    if let Ok(range) = HeaderValue::try_from(part.content_range(length)) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response
}

/// Upstream's response to a read, not stored, with what the family tells clients of their caches.
pub(super) fn forwarded_read(
    request: &CacheRequest,
    mut response: Response<ResponseBody>,
    server: &ServerConfig,
) -> Response<Body> {
    let status = response.status();
    storing::set_client_cache_control(request, status, response.headers_mut());
    forwarded(response, server)
}

/// Upstream's response as it is, without the fields of that hop.
pub(super) fn forwarded(response: Response<ResponseBody>, server: &ServerConfig) -> Response<Body> {
    let mut response = response.map(|body| Body::Upstream(body.for_client()));
    storing::strip_consumed(response.headers_mut(), server);
    let received = response.version();
    // RFC 9110 §6.6.2: the trailers are passed on if the body is one that can have some.
    let trailer = response.headers_mut().remove(TRAILER).filter(|_| response.body().size_hint().exact().is_none());
    headers::strip_hop_by_hop(response.headers_mut());
    headers::strip_impossible_length(response.status(), response.headers_mut());
    if let Some(trailer) = trailer {
        response.headers_mut().insert(TRAILER, trailer);
    }
    if response.extensions().get::<ContentUnread>().is_some() {
        // RFC 9110 §10.1.1: a server that does not read the content says whether it closes the connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    headers::add_via(response.headers_mut(), received);
    *response.version_mut() = Version::HTTP_11;
    response
}

/// An error of Larder's own.
pub(super) fn error(status: StatusCode, message: &str) -> Response<Body> {
    let text = serde_json::json!({ "success": false, "error": message }).to_string();
    let mut response = Response::new(Body::Whole(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    fn answer(range: &str) -> Response<Body> {
        let stored =
            fields(&[("content-type", "text/plain"), ("etag", "\"a\""), ("content-range", "bytes 0-119/999")]);
        let (request, whole) = (fields(&[("range", range)]), Bytes::from("ab".repeat(60)));
        match range::requested(&request, &stored, whole.len() as u64) {
            Range::Parts(parts) => partial(described(&request, stored.clone()), &whole, &parts),
            other => panic!("{range} asks for {other:?}"),
        }
    }

    #[test]
    fn several_ranges_are_answered_in_one_message() {
        let answer = answer("bytes=0-1,100-101,-0");
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        assert!(!answer.headers().contains_key(CONTENT_RANGE));
        let content_type = answer.headers()[CONTENT_TYPE].to_str().unwrap();
        assert!(content_type.starts_with("multipart/byteranges; boundary=larder-part-"), "{content_type}");
        assert_eq!(answer.headers()["etag"], "\"a\"");
        let Body::Whole(body) = answer.body() else { panic!("{:?} has no length", answer.body()) };
        assert_eq!(answer.body().size_hint().exact(), Some(body.len() as u64));
        let text = str::from_utf8(body).unwrap();
        let second = "Content-Type: text/plain\r\nContent-Range: bytes 100-101/120\r\n\r\nab\r\n";
        assert!(text.contains(second), "{text}");
    }

    #[test]
    fn several_ranges_of_which_one_is_left_are_answered_plainly() {
        for range in ["bytes=2-3,200-", "bytes=2-2,3-3"] {
            let answer = answer(range);
            assert_eq!(answer.headers()[CONTENT_RANGE], "bytes 2-3/120");
            assert_eq!(answer.headers()[CONTENT_TYPE], "text/plain");
            assert!(matches!(answer.body(), Body::Cut(whole, part) if whole[part.clone()] == *b"ab"));
        }
    }
}
