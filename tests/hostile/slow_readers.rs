//! Clients that request large bodies and do not read them.

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Plan, Reply, Upstream, eventually};

const LARGE: u64 = 7 << 20;

const RULES: &str = r#"
[memory]
capacity = "16MiB"
"#;

#[test]
fn what_slow_readers_have_not_read_keeps_nothing_from_being_stored() {
    let upstream = Upstream::start();
    (0..6).for_each(|n| upstream.on(&format!("/t/{n}"), Reply::filled(LARGE).cached("max-age=600")));
    let larder = Plan::new(&upstream.url()).rules(&format!("{RULES}{}", others::RULES)).start();
    let others = Others::start(&larder);
    let slow: Vec<_> = (0..4)
        .flat_map(|n| {
            let request = format!("GET /t/{n} HTTP/1.1\r\nHost: api.test\r\n\r\n");
            let slow = attack::open(1, larder.address, request.as_bytes());
            // It is read from upstream, and stored, at upstream's speed.
            eventually("it is stored", || larder.get(&format!("/t/{n}")).has_status(200).is("hit"));
            slow
        })
        .collect();
    assert_eq!(slow.len(), 4);
    others.go_on(100);
    for n in 4..6 {
        let target = format!("/t/{n}");
        assert_eq!(larder.get(&target).has_status(200).shows("stored").body.len() as u64, LARGE);
        larder.get(&target).has_status(200).shows("hit");
    }
    others.end().was_answered();
}

#[test]
fn slow_readers_of_what_is_not_stored_keep_nothing_from_being_stored() {
    let upstream = Upstream::start();
    upstream.on("/uncached", Reply::filled(20 << 20).chunked().cached("max-age=600"));
    upstream.on("/t", Reply::filled(LARGE).cached("max-age=600"));
    let larder = Plan::new(&upstream.url()).rules(&format!("{RULES}{}", others::RULES)).start();
    let others = Others::start(&larder);
    let slow = attack::open(40, larder.address, b"GET /uncached HTTP/1.1\r\nHost: api.test\r\n\r\n");
    others.go_on(100);
    // Until it turns out that they are too large, they have the room of bodies on their way into memory.
    eventually("it is stored", || larder.get("/t").has_status(200).is("hit"));
    assert_eq!(larder.get("/t").has_status(200).shows("hit").body.len() as u64, LARGE);
    others.end().was_answered();
    assert_eq!(slow.len(), 40);
}

#[test]
fn bodies_that_were_evicted_while_slow_clients_read_them_take_no_more_than_is_allowed() {
    const BODIES: u64 = 60;
    let upstream = Upstream::start();
    let body = || Reply::filled(2 << 20).cached("max-age=600");
    (0..BODIES).for_each(|n| upstream.on(&format!("/t/{n}"), body()));
    let rules = format!("[log]\naccess = false\n{RULES}max_body = \"2MiB\"\n{}", others::RULES);
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let others = Others::start(&larder);
    let before = larder.memory();
    let hits = || larder.metric("larder_requests_total{family=\"none\",outcome=\"hit\"}");
    let mut slow = Vec::new();
    for n in 0..BODIES {
        larder.get(&format!("/t/{n}")).has_status(200);
        // The same body for two, and a short part of it for one that has filled its connection before.
        for range in ["", "", "Range: bytes=0-60000\r\n"] {
            let request = format!("GET /t/{n} HTTP/1.1\r\nHost: api.test\r\n{range}\r\n").repeat(100);
            slow.extend(attack::open(1, larder.address, request.as_bytes()));
        }
    }
    others.go_on(100);
    let grown = larder.memory().saturating_sub(before);
    others.end().was_answered();
    assert!(hits() > BODIES, "{} were in memory", hits());
    // The capacity (16 MiB), a quarter of it on the way into memory and one for slow readers, and up to 256 KiB in the buffers of each
    // of 180 connections: 69 MiB, and a fifth of that for the allocator. The bodies are 120 MiB.
    assert!(grown < 83 << 20, "{} MiB for {} readers, {} hits", grown >> 20, slow.len(), hits());
}
