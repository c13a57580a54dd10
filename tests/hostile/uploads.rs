//! Requests whose content is announced and not sent.

use crate::attack;
use crate::others::{self, Others, metric};
use crate::support::{Plan, Upstream, eventually};

/// One client begins many uploads and sends no more of them. So many of them have places at upstream.
fn stalled(fields: &str, begun: &str, places: u64) {
    let upstream = Upstream::start();
    let rules = format!("[server]\nmax_upstream_requests = 64\n{}", others::RULES);
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let others = Others::start(&larder);
    let request = format!("POST /upload HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n{begun}");
    let uploads = attack::open(96, larder.address, request.as_bytes());
    others.go_on(400);
    others.end().was_unhurt();
    eventually("its share is all it has", || metric(&larder, "larder_upstream_requests") == places);
    drop(uploads);
}

#[test]
fn uploads_of_which_nothing_comes_hurt_nobody() {
    stalled("Content-Length: 100000", "", 0);
}

#[test]
fn uploads_that_stop_in_the_middle_hurt_nobody() {
    stalled("Content-Length: 50000", &"x".repeat(10_000), 0);
    stalled("Transfer-Encoding: chunked", "2\r\nxx\r\n", 0);
}

#[test]
fn large_uploads_that_stop_when_they_have_a_place_hurt_nobody() {
    stalled("Content-Length: 1000000", &"x".repeat(70_000), 16);
}

#[test]
fn uploads_that_upstream_asks_for_and_that_do_not_come_hurt_nobody() {
    stalled("Expect: 100-continue\r\nContent-Length: 100000", "", 16);
}
