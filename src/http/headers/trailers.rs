//! Trailer fields (RFC 9110 §6.5). Those of requests are dropped: few clients send them, and upstream may merge them
//! into fields that Larder has removed, keyed or matched. Those of responses are forwarded, except fields that
//! recipients expect in the head, where Larder has acted on them.

use http::{HeaderMap, HeaderName};

use super::{END_TO_END, HOP_BY_HOP, is_of_this_hop};

/// Prefixes of fields that recipients use before the content: they describe it, route it, or restrict who may read
/// it.
const OF_HEADS: [&str; 8] =
    ["access-control-", "cdn-", "content-", "edge-", "proxy-", "surrogate-", "x-accel-", "x-http-method"];

/// Removes forbidden fields from the trailers of a response (RFC 9110 §6.5.1): hop-by-hop fields, and those for
/// framing, routing, authentication, and response control, including caching.
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
    fn trailers_for_the_head_are_removed() {
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
