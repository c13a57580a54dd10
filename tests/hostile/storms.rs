//! Upstream fails while many readers wait for the same response: each request is sent once more only if that can succeed.

use std::io::Read;

use crate::attack;
use crate::others::{self, Others};
use crate::support::client::{Call, Pending};
use crate::support::{Gate, Larder, Plan, Reply, Upstream, eventually};

/// Readers and everybody else are one client here, which may have every place.
const STORM: &str = r#"
[server]
max_upstream_requests = 4
max_upstream_requests_per_client = 4

[[family]]
name = "storm"
path = '/storm/.*'
ttl = "1h"
"#;

const READERS: usize = 12;

fn rules() -> String {
    format!("{STORM}{}", others::RULES)
}

/// Readers: one fetches, and the others wait for it.
fn readers(larder: &Larder, target: &str) -> Vec<Pending> {
    let readers = (0..READERS).map(|_| Call::new(larder.address, "GET", target).start()).collect();
    larder.wait_for_followers(READERS as u64 - 1);
    readers
}

/// Sends rounds of reads until one round had a single request at upstream: a request that a closed pooled connection loses is sent once
/// more. In no round does Larder refuse a read.
fn shares_one_failure(reply: impl Fn(&Gate) -> Reply, status: u16) {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(&rules()).start();
    let others = Others::start(&larder);
    let mut round = 0;
    eventually("all readers have shared one failure", || {
        round += 1;
        let (target, gate) = (format!("/storm/{round}"), Gate::new());
        upstream.on(&target, reply(&gate));
        let readers = readers(&larder, &target);
        gate.wait_for(1);
        gate.open();
        for reader in readers {
            let answer = reader.response().has_status(status).hides("detail=overloaded");
            assert!(status == 502 || !answer.text().is_empty(), "{answer:?}");
        }
        upstream.count(&target) == 1
    });
    others.go_on(100);
    others.end().was_unhurt();
}

#[test]
fn readers_that_wait_for_an_error_of_the_server_get_that_error() {
    shares_one_failure(|gate| Reply::status(500).held(gate), 500);
    shares_one_failure(|gate| Reply::status(503).cached("no-store").header("Retry-After", "7").held(gate), 503);
}

#[test]
fn readers_that_wait_for_an_upstream_that_hangs_up_are_told_so() {
    shares_one_failure(|gate| Reply::none().held(gate), 502);
}

#[test]
fn a_crowd_behind_one_slow_failure_takes_one_place_at_upstream() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(&rules()).start();
    let gate = Gate::new();
    upstream.on("/storm/x", Reply::status(503).held(&gate));
    let others = Others::start(&larder);
    let crowd =
        attack::open(200, larder.address, b"GET /storm/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    larder.wait_for_followers(199);
    others.go_on(200);
    assert_eq!(upstream.count("/storm/x"), 1);
    gate.open();
    others.go_on(100);
    others.end().was_unhurt();
    for mut reader in crowd {
        let mut answer = String::new();
        reader.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && !answer.contains("overloaded"), "{answer}");
    }
}
