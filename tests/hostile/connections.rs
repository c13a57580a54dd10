//! More connections than there may be.

use std::net::{IpAddr, Ipv4Addr, TcpStream};

use crate::attack::{self, connect_from};
use crate::others::{self, Others};
use crate::support::{Larder, Plan, Upstream, eventually};

const GET: &[u8] = b"GET /others/1 HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn limited(upstream: &Upstream, server: &str) -> Larder {
    Plan::new(&upstream.url()).rules(&format!("[server]\n{server}\n{}", others::RULES)).start()
}

fn open_from(last: u8, count: usize, larder: &Larder, bytes: &[u8]) -> Vec<TcpStream> {
    use std::io::Write;
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, last));
    let connect = || {
        let mut stream = connect_from(from, larder.address)?;
        stream.write_all(bytes).ok()?;
        Some(stream)
    };
    (0..count).filter_map(|_| connect()).collect()
}

#[test]
fn a_client_with_all_its_connections_hurts_nobody() {
    let upstream = Upstream::start();
    let larder = limited(&upstream, "max_connections = 200");
    let others = Others::start(&larder);
    let kinds: [&[u8]; 3] = [b"", b"G", b"POST /others-write HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"];
    let mut held = Vec::new();
    for bytes in kinds {
        held.extend(attack::open(300, larder.address, bytes));
        others.go_on(100);
    }
    eventually("connections are refused", || {
        larder.metric("larder_refused_total{what=\"connections\",bound=\"client\"}") > 0
    });
    others.end().was_unhurt();
    assert_eq!(larder.metric("larder_refused_total{what=\"connections\",bound=\"all\"}"), 0);
}

#[test]
fn what_is_over_the_share_is_told_so_and_closed() {
    let upstream = Upstream::start();
    let larder = limited(&upstream, "max_connections = 100\nmax_connections_per_client = 5");
    let mut held = attack::open(5, larder.address, GET);
    eventually("they are counted", || larder.metric("larder_connections") == 5);
    let mut refused = attack::open(1, larder.address, GET).remove(0);
    let answer = attack::rest(&mut refused);
    assert!(answer.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answer}");
    assert!(answer.contains("\r\nRetry-After: ") && answer.contains("\r\nConnection: close\r\n"), "{answer}");
    // There is no such answer in HTTP/2.
    let mut refused = attack::open(1, larder.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").remove(0);
    assert_eq!(attack::rest(&mut refused), "");
    assert_eq!(larder.metric("larder_refused_total{what=\"connections\",bound=\"client\"}"), 2);
    assert!(held.iter_mut().all(|stream| !attack::has_ended(stream)), "those within the share stay");
    held.clear();
    eventually("the share is free", || larder.metric("larder_connections") == 0);
    let again = attack::open(1, larder.address, GET).remove(0);
    assert_eq!(larder.metric("larder_refused_total{what=\"connections\",bound=\"client\"}"), 2);
    drop(again);
}

#[test]
fn idle_connections_of_many_clients_give_way() {
    let upstream = Upstream::start();
    let larder = limited(&upstream, "max_connections = 64");
    let others = Others::start(&larder);
    let mut held = Vec::new();
    for round in 0..3 {
        for client in 0..10 {
            held.extend(open_from(10 * round + client, 16, &larder, if round == 1 { b"GET /" } else { b"" }));
        }
        others.go_on(100);
    }
    eventually("idle connections are closed", || larder.metric("larder_connections_evicted_total") > 0);
    others.end().was_unhurt();
}

#[test]
fn a_connection_with_a_request_under_way_does_not_give_way() {
    let upstream = Upstream::start();
    let gate = upstream.hold_all("POST /slow");
    let larder = limited(&upstream, "max_connections = 4\nmax_connections_per_client = 2");
    let slow = b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut busy = open_from(1, 2, &larder, slow);
    busy.extend(open_from(2, 2, &larder, slow));
    gate.wait_for(4);
    let mut refused = open_from(3, 1, &larder, GET).remove(0);
    let answer = attack::rest(&mut refused);
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("\r\nRetry-After: "), "{answer}");
    gate.open();
    for stream in &mut busy {
        let answer = attack::rest(stream);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn a_balancer_is_not_one_client() {
    let upstream = Upstream::start();
    let larder = limited(&upstream, "max_connections = 100\nmax_connections_per_client = 5");
    let get = b"GET /others/1 HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n";
    larder.get("/others/1");
    eventually("no connection is open", || larder.metric("larder_connections") == 0);
    let mut held = Vec::new();
    for count in 1..=20 {
        held.extend(attack::open(1, larder.address, get));
        let family = "larder_requests_total{family=\"others\",outcome=\"hit\"}";
        eventually("its head is there", || larder.metric(family) == count);
    }
    assert_eq!(larder.metric("larder_connections"), 20);
    assert!(held.iter_mut().all(|stream| !attack::has_ended(stream)));
}

#[test]
fn a_storm_of_short_connections_hurts_nobody() {
    let upstream = Upstream::start();
    let larder = limited(&upstream, "max_connections = 64");
    let others = Others::start(&larder);
    let to = larder.address;
    let storm = attack::Flood::start(2, move || drop(attack::open(20, to, GET)));
    others.go_on(200);
    let rounds = storm.rounds();
    assert!(rounds > 0);
    drop(storm);
    let experience = others.end();
    experience.was_unhurt();
    // Each round opens twenty connections.
    experience.was_cheap(20 * rounds, 3.0);
}
