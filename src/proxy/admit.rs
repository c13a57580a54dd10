//! Which requests are handled at all. The others are answered by Larder itself: no valid target, an unknown transfer coding, a
//! proxy loop, `Max-Forwards: 0`.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use super::{Answered, Body, refuse};
use crate::http::headers::credentials::is_in_table;
use crate::http::headers::{self, Hops};
use crate::http::target::{PathCase, Target, TargetFault};
use crate::outcome::{Fwd, Outcome};
use crate::running::Running;

/// The methods that Larder forwards.
const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, QUERY");

/// Drops fields with `_` in their names, or renames them (`[server] underscores`). Returns the names to restore towards upstream.
pub(super) fn take_underscored(running: &Running, fields: &mut HeaderMap) -> Vec<HeaderName> {
    if running.config.server.underscores {
        return headers::dash_underscored(fields);
    }
    headers::drop_underscored(fields);
    Vec::new()
}

/// The target of a request that is handled, `known` if its route is remembered; the response to any other.
pub(super) fn admit(
    running: &Running,
    parts: &mut Parts,
    has_hop_fields: bool,
    known: Option<&Arc<Target>>,
) -> Result<Arc<Target>, Box<Answered>> {
    let target = match known {
        Some(target) => Arc::clone(target),
        None => Arc::new(target_of(parts, running.config.server.case_insensitive_paths)?),
    };
    // RFC 9110 §8.6. In HTTP/1 hyper checks it.
    if parts.version == Version::HTTP_2 && !headers::unify_length(&mut parts.headers) {
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "content-length", "Content-Length is ambiguous")));
    }
    // RFC 9112 §6.1: an unknown coding. It would be lost on the way, since the field ends at this hop.
    if has_hop_fields && !headers::is_plainly_framed(&parts.headers) {
        let message = "the only transfer coding that is understood is chunked";
        return Err(Box::new(refuse(StatusCode::NOT_IMPLEMENTED, "transfer-coding", message)));
    }
    // RFC 9110 §7.6, RFC 8586 §2: no infinite loops.
    if has_hop_fields && running.loop_mark.is_on(&parts.headers) {
        let message = "proxy loop: upstream is this Larder itself, or forwards to it; set [server] upstream or --upstream to the \
                       address of the API";
        tracing::error!("{message}");
        return Err(Box::new(refuse(StatusCode::LOOP_DETECTED, "loop", message)));
    }
    if has_hop_fields && headers::is_looping(&parts.headers) {
        let message = "proxy loop detected (Via names Larder 16 times): upstream forwards to this proxy; set [server] upstream to the API";
        return Err(Box::new(refuse(StatusCode::LOOP_DETECTED, "loop", message)));
    }
    match answer_last_hop(parts) {
        Some(answered) => Err(Box::new(answered)),
        None => Ok(target),
    }
}

fn target_of(parts: &Parts, case: PathCase) -> Result<Target, Box<Answered>> {
    // RFC 9110 §9.3.6: a gateway does not open tunnels.
    if parts.method == Method::CONNECT {
        let refused = refuse(StatusCode::NOT_IMPLEMENTED, "connect", "CONNECT is not supported by this gateway");
        return Err(Box::new(refused));
    }
    let target = Target::of("http", &parts.uri, &parts.headers, case)
        // RFC 9112 §3.2.4: the asterisk form is for OPTIONS alone.
        .and_then(|target| match target.path == "*" && parts.method != Method::OPTIONS {
            true => Err(TargetFault::BadForm),
            false => Ok(target),
        });
    // RFC 9112 §3.2: a missing or ambiguous host is answered with 400.
    target.map_err(|fault| Box::new(refuse(StatusCode::BAD_REQUEST, "bad-target", &fault.to_string())))
}

/// OPTIONS and TRACE with `Max-Forwards: 0` (RFC 9110 §7.6.2) are answered here; with more, it counts a hop.
fn answer_last_hop(parts: &mut Parts) -> Option<Answered> {
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
