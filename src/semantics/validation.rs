//! Validation (RFC 9111 §4.3, RFC 9110 §8.8 and §13): towards upstream with what is stored, and towards clients
//! with what they hold.

use http::{HeaderMap, StatusCode};

/// What a client's conditions make of a stored (or just fetched) response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Send the response.
    Send,
    /// Send 304 (RFC 9110 §15.4.5).
    NotModified,
}

/// Evaluates `If-None-Match` (weak comparison, lists, `*`), else `If-Modified-Since` (RFC 9110 §13.2.2), against
/// the headers of a 200 response. Other statuses are sent as they are.
pub fn evaluate(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> Condition {
    let _ = (request, status, stored);
    todo!()
}

/// Whether the request has preconditions that only the origin can judge (`If-Match`, `If-Unmodified-Since`).
pub fn is_for_origin(request: &HeaderMap) -> bool {
    let _ = request;
    todo!()
}

/// Removes the client's own conditions and range from a request that is to fetch a whole response.
pub fn strip_conditions(request: &mut HeaderMap) {
    let _ = request;
    todo!()
}

/// Whether the stored headers hold an `ETag` or a `Last-Modified` to validate with.
pub fn has_validator(stored: &HeaderMap) -> bool {
    let _ = stored;
    todo!()
}

/// Makes `request` a conditional one for the stored response (§4.3.1): `If-None-Match` from `ETag`,
/// `If-Modified-Since` from `Last-Modified`. The client's own conditions are replaced.
pub fn make_conditional(request: &mut HeaderMap, stored: &HeaderMap) {
    let _ = (request, stored);
    todo!()
}

/// Whether a 304 with these headers is about the stored response (§4.3.4).
pub fn selects(not_modified: &HeaderMap, stored: &HeaderMap) -> bool {
    let _ = (not_modified, stored);
    todo!()
}

/// The stored headers updated from a 304 (§3.2, with its exceptions). `not_modified` has already lost its
/// hop-by-hop fields.
pub fn freshen(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let _ = (stored, not_modified);
    todo!()
}

/// The fields of a stored response that a 304 carries (RFC 9110 §15.4.5): everything but representation metadata
/// that the client already has; `Content-Length` and `Content-Type` among what is left out.
pub fn not_modified_headers(stored: &HeaderMap) -> HeaderMap {
    let _ = stored;
    todo!()
}
