//! Exchanges that are held open without any bytes.

use crate::attack;
use crate::others::{self, Others, metric};
use crate::support::{Gate, Larder, Plan, Reply, Upstream, eventually};

const SERVER: &str = "[server]\nmax_upstream_requests = 64\nmax_upstream_streams = 64\nstream_after = \"100ms\"\n";

fn start(upstream: &Upstream) -> Larder {
    Plan::new(&upstream.url()).rules(&format!("{SERVER}{}", others::RULES)).start()
}

/// One client holds so many open with this request; some of them are refused. Others go on.
fn held_open(upstream: &Upstream, request: &str) {
    let larder = start(upstream);
    let others = Others::start(&larder);
    let streams = attack::open(96, larder.address, request.as_bytes());
    eventually("it has its share of streams", || metric(&larder, "larder_upstream_streams") == 16);
    others.go_on(400);
    assert_eq!(metric(&larder, "larder_upstream_streams"), 16);
    others.end().was_unhurt();
    assert_eq!(streams.len(), 96);
}

#[test]
fn upgraded_connections_that_are_idle_hurt_nobody() {
    let upstream = Upstream::start();
    let gate = Gate::new();
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    upstream.on("GET /socket", Reply::raw(switched).pause_after(0, &gate));
    held_open(
        &upstream,
        "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
}

#[test]
fn event_streams_without_events_hurt_nobody() {
    let upstream = Upstream::start();
    let gate = Gate::new();
    let events = Reply::filled(10).chunked().header("Content-Type", "text/event-stream").cached("no-store");
    upstream.on("GET /events", events.pause_after(1, &gate));
    held_open(&upstream, "GET /events HTTP/1.1\r\nHost: localhost\r\nCookie: a=1\r\n\r\n");
}

#[test]
fn long_polls_hurt_nobody_before_their_response_and_within_it() {
    let upstream = Upstream::start();
    let gate = upstream.hold_all("POST /poll");
    held_open(&upstream, "POST /poll HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
    let within = Reply::filled(10).chunked().cached("no-store");
    upstream.on("POST /within", within.pause_after(1, &gate));
    held_open(&upstream, "POST /within HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
}

#[test]
fn an_exchange_in_which_upstream_is_silent_gives_back_its_place_among_the_requests() {
    let upstream = Upstream::start();
    let larder = start(&upstream);
    let gate = upstream.hold_all("GET /poll");
    let poll = larder.call("GET", "/poll").start();
    eventually("it is a stream", || metric(&larder, "larder_upstream_streams") == 1);
    assert_eq!(metric(&larder, "larder_upstream_requests"), 0);
    gate.open();
    poll.response().has_status(200);
    eventually("it is over", || metric(&larder, "larder_upstream_streams") == 0);
}
