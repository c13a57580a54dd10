//! RFC 9111 and the parts of RFC 9110 that a cache acts on.

use crate::support::{Reply, Site, Tier};

on_both_tiers! {
    a_response_is_stored_byte_for_byte,
}

fn a_response_is_stored_byte_for_byte(tier: Tier) {
    let site = Site::start(tier, "");
    let message =
        b"HTTP/1.1 200 Sure\r\nCache-Control: max-age=60\r\nX-Name: J\xf6rg\r\nContent-Length: 2\r\n\r\nok";
    site.upstream.on("/", Reply::raw(message));
    for _ in 0..2 {
        let mut reply = site.raw("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(reply.head().header("x-name"), Some("J\u{f6}rg"));
        reply.response().carries("ok");
    }
    assert_eq!(site.upstream.count("/"), 1);
}
