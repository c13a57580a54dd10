//! Requests that wait for an upstream that is slow.

use crate::attack;
use crate::others::{self, Others, metric};
use crate::support::{Plan, Upstream, eventually};

#[test]
fn one_client_that_floods_a_slow_upstream_hurts_nobody() {
    let upstream = Upstream::start();
    let gate = upstream.hold_all("GET /slow");
    let rules = format!("[server]\nmax_upstream_requests = 64\n{}", others::RULES);
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let others = Others::start(&larder);
    let flood: Vec<_> = (0..192)
        .filter_map(|n| {
            let request = format!("GET /slow?n={n} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            attack::open(1, larder.address, request.as_bytes()).pop()
        })
        .collect();
    assert_eq!(flood.len(), 192);
    // Its share of the requests and of the queue waits; the rest is refused.
    let refused = || metric(&larder, "larder_refused_total{what=\"upstream-requests\",bound=\"client\"}");
    eventually("the flood is refused", || refused() == 192 - 2 * 16);
    others.go_on(400);
    others.end().was_unhurt();
    gate.open();
}
