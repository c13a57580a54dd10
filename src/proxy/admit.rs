//! Which requests are handled at all. The others are answered by Larder itself: no valid target, an unknown transfer coding, a
//! proxy loop, `Max-Forwards: 0`.

use http::{HeaderMap, HeaderName, Method, StatusCode, Version};

use super::{Answered, hops, refuse};
use crate::http::headers;
use crate::http::target::{PathCase, Target, TargetFault};
use crate::running::Running;

/// Drops fields with `_` in their names, or renames them (`[server] underscores`). Returns the names to restore towards upstream.
pub(super) fn take_underscored(running: &Running, fields: &mut HeaderMap) -> Vec<HeaderName> {
    if running.config.server.underscores {
        return headers::dash_underscored(fields);
    }
    headers::drop_underscored(fields);
    Vec::new()
}

/// The target of a request that is handled; the response to any other.
pub(super) fn admit(
    running: &Running,
    parts: &mut http::request::Parts,
    has_hop_fields: bool,
) -> Result<Target, Box<Answered>> {
    let target = target_of(parts, running.config.server.case_insensitive_paths)?;
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
    match hops::answer(parts) {
        Some(answered) => Err(Box::new(answered)),
        None => Ok(target),
    }
}

fn target_of(parts: &http::request::Parts, case: PathCase) -> Result<Target, Box<Answered>> {
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
