//! OPTIONS and TRACE with `Max-Forwards: 0` (RFC 9110 §7.6.2): answered here instead of forwarded.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};

use super::{Answered, Body};
use crate::http::headers::credentials::is_in_table;
use crate::http::headers::{self, Hops};
use crate::outcome::{Fwd, Outcome};

/// The methods that Larder forwards.
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, QUERY");

/// Counts a hop. The response if it was the last one.
pub(super) fn answer(parts: &mut Parts) -> Option<Answered> {
    let is_trace = parts.method == Method::TRACE;
    if !is_trace && parts.method != Method::OPTIONS {
        // RFC 9110 §7.6.2: the field may be ignored with other methods.
        return None;
    }
    match headers::take_hop(&mut parts.headers) {
        Hops::More => None,
        Hops::Last if is_trace => Some(own(trace(parts))),
        Hops::Last => Some(own(options())),
    }
}

fn own(response: Response<Body>) -> Answered {
    let outcome = Outcome { fwd: None, ..Outcome::pass(Fwd::Method, "max-forwards") };
    Answered { response, outcome, family: None }
}

fn options() -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(ALLOW, METHODS);
    response
}

/// RFC 9110 §9.3.8: the request as it was received, without fields that may be secret.
fn trace(parts: &Parts) -> Response<Body> {
    let mut message = format!("{} {} {:?}\r\n", parts.method, parts.uri, parts.version).into_bytes();
    for (name, value) in parts.headers.iter().filter(|(name, _)| !is_secret(name)) {
        message.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    message.extend(b"\r\n");
    let mut response = Response::new(Body::Whole(Bytes::from(message)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("message/http"));
    response
}

fn is_secret(name: &HeaderName) -> bool {
    let words = ["auth", "cookie", "token", "secret", "key", "session", "password", "credential"];
    is_in_table(name) || words.iter().any(|word| name.as_str().contains(word))
}
