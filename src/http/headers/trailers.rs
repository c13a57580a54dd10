//! Trailer fields (RFC 9110 §6.5). Those of requests are dropped: hardly anybody sends them, and upstream may merge them into
//! the fields that Larder has stripped, keyed and matched. Those of responses pass, but for fields that are looked for in the
//! head, where Larder has acted on them.

use http::{HeaderMap, HeaderName};

use super::{END_TO_END, HOP_BY_HOP, is_of_this_hop};

/// How fields begin that a recipient acts on before the content: they describe it, route it, or say who may read it.
const OF_HEADS: [&str; 8] =
    ["access-control-", "cdn-", "content-", "edge-", "proxy-", "surrogate-", "x-accel-", "x-http-method"];

/// Removes from the trailers of a response what must not stand there (RFC 9110 §6.5.1): fields of one hop, and those for
/// framing, routing, authentication, and the control and description of responses, caching among them.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let names: Vec<HeaderName> = trailers.keys().filter(|name| is_of_heads(name)).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

fn is_of_heads(name: &HeaderName) -> bool {
    let text = name.as_str();
    HOP_BY_HOP.contains(name)
        || END_TO_END.binary_search(&text).is_ok()
        || is_of_this_hop(name)
        || OF_HEADS.iter().any(|beginning| text.starts_with(beginning))
        // RFC 9213: targeted cache control.
        || text.ends_with("-cache-control")
        || matches!(text, "accept-ranges" | "alt-svc" | "cache-tag" | "expect" | "max-forwards" | "refresh" | "retry-after")
        || matches!(text, "set-cookie2" | "strict-transport-security" | "xkey")
        || text.contains('_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    #[test]
    fn a_trailer_cannot_be_what_is_looked_for_in_the_head() {
        let names = ["content-length", "transfer-encoding", "connection", "host", "cache-control", "vary", "age"];
        let more =
            ["set-cookie", "location", "cdn-cache-control", "x-forwarded-for", "content-security-policy", "x_a"];
        for name in names.into_iter().chain(more).chain(END_TO_END) {
            let mut trailers = fields(&[(name, "1"), ("x-sum", "1"), ("grpc-status", "0"), ("digest", "x")]);
            strip_trailers(&mut trailers);
            assert_eq!(trailers, fields(&[("x-sum", "1"), ("grpc-status", "0"), ("digest", "x")]), "{name}");
        }
    }
}
