//! Answers to clients: from an entry (with `Age`, and 304 or 206 where the client's own conditions ask for it), from
//! a response on its way, or Larder's own errors.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, TRAILER};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Body as _;

use super::{Asked, Body};
use crate::cache::flight::Head;
use crate::cache::stream::Reader;
use crate::entry;
use crate::headers;
use crate::semantics::range::{self, Range};
use crate::semantics::validation::{self, Condition};
use crate::upstream::{ContentUnread, ResponseBody};

/// An answer from a stored response.
pub fn stored(method: &Method, request: &HeaderMap, stored: &entry::Response, now: SystemTime) -> Response<Body> {
    let age = stored.freshness.age(now);
    if let Condition::NotModified = validation::evaluate(request, stored.status, &stored.headers) {
        return not_modified(&stored.headers, age);
    }
    let length = stored.body.len() as u64;
    let asks_for = match stored.status {
        // RFC 9110 §14.2: ranges are defined for GET, and apply to what would be a 200.
        StatusCode::OK if *method == Method::GET => range::requested(request, &stored.headers, length),
        _ => Range::Whole,
    };
    let mut response = match asks_for {
        Range::Whole => whole(stored, *method == Method::HEAD),
        Range::Part { first, last } => part(stored, first, last),
        Range::Unsatisfiable => return unsatisfiable(length),
    };
    // RFC 9111 §5.1
    response.headers_mut().insert(AGE, HeaderValue::from(age.as_secs()));
    response
}

fn whole(stored: &entry::Response, head_only: bool) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = stored.status;
    *response.headers_mut() = stored.headers.clone();
    if head_only && stored.status != StatusCode::NO_CONTENT {
        // RFC 9110 §9.3.2: what a GET would have sent.
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
    } else if !head_only && !stored.body.is_empty() {
        *response.body_mut() = Body::Whole(stored.body.clone());
    }
    response
}

/// RFC 9110 §15.3.7. `first` and `last` lie within the body: [`range::requested`] saw its length.
fn part(stored: &entry::Response, first: u64, last: u64) -> Response<Body> {
    let mut response = Response::new(Body::Whole(slice(&stored.body, first, last)));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    *response.headers_mut() = stored.headers.clone();
    let range = format!("bytes {first}-{last}/{}", stored.body.len());
    if let Ok(range) = HeaderValue::try_from(range) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response
}

fn slice(body: &Bytes, first: u64, last: u64) -> Bytes {
    let end = usize::try_from(last).map_or(body.len(), |last| body.len().min(last.saturating_add(1)));
    let start = usize::try_from(first).map_or(end, |first| first.min(end));
    body.slice(start..end)
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

/// An answer from a response that is on its way into the cache.
pub(super) fn streaming(asked: &Asked, head: &Head, reader: Reader) -> Response<Body> {
    if let Condition::NotModified = validation::evaluate(&asked.headers, head.status, &head.headers) {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.headers_mut() = validation::not_modified_headers(&head.headers);
        return response;
    }
    let mut response = Response::new(Body::Shared(reader));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers.clone();
    response
}

/// Upstream's answer as it is, without the fields of that hop.
pub(super) fn forwarded(response: Response<ResponseBody>) -> Response<Body> {
    let mut response = response.map(Body::Upstream);
    let received = response.version();
    // RFC 9110 §6.6.2: the trailers are passed on if the body is one that can have some.
    let trailer = response.headers_mut().remove(TRAILER).filter(|_| response.body().size_hint().exact().is_none());
    headers::strip_hop_by_hop(response.headers_mut());
    if let Some(trailer) = trailer {
        response.headers_mut().insert(TRAILER, trailer);
    }
    if response.extensions().get::<ContentUnread>().is_some() {
        // RFC 9110 §10.1.1: who does not read the content says whether the connection ends.
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
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
