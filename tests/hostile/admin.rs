//! Attacks on the admin's listener, and on the probes.

use std::io::Write;
use std::net::TcpStream;

use crate::attack::{self, Flood};
use crate::others::{self, Others};
use crate::support::{Larder, Plan, Upstream, eventually};

const TOKENS: &str = "[admin]\ntokens = [{ role = \"admin\", token = \"the-right-token\" }]\n";

fn start(upstream: &Upstream, more: &str) -> Larder {
    Plan::new(&upstream.url()).rules(&format!("{more}{}", others::RULES)).start()
}

/// Writes as much as the other end takes.
fn fill(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_nonblocking(true).unwrap();
    while stream.write(bytes).is_ok_and(|count| count > 0) {}
    stream.set_nonblocking(false).unwrap();
}

#[test]
fn clients_of_the_admin_that_never_read_hurt_no_probe() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let others = Others::start(&larder);
    let probes = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let mut held = attack::open(64, larder.admin, b"");
    held.iter_mut().for_each(|stream| fill(stream, &probes));
    others.go_on(200);
    others.end().was_unhurt();
}

#[test]
fn idle_connections_to_the_admin_hurt_no_probe() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let others = Others::start(&larder);
    let mut held = Vec::new();
    for bytes in [&b""[..], b"GET /healthz HTTP/1.1\r\nHost: ", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"] {
        held.extend(attack::open(200, larder.admin, bytes));
        others.go_on(50);
    }
    others.end().was_unhurt();
}

#[test]
fn a_storm_of_connections_to_the_admin_hurts_no_probe() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let others = Others::start(&larder);
    let admin = larder.admin;
    let storm = Flood::start(2, move || drop(attack::open(100, admin, b"GET /healthz HTTP/1.1\r\n")));
    others.go_on(200);
    assert!(storm.rounds() > 0);
    drop(storm);
    others.end().was_unhurt();
}

fn guess(larder: &Larder, token: &str) -> Vec<u8> {
    format!("GET /cache/stats HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n", larder.admin).into()
}

#[test]
fn token_guesses_are_slowed_and_logged_and_lock_nobody_out() {
    let upstream = Upstream::start();
    let larder = start(&upstream, TOKENS);
    let others = Others::start(&larder);
    let guesses = guess(&larder, "guess-7f3a").repeat(200);
    let held = attack::open(40, larder.admin, &guesses);
    others.go_on(200);
    let with = |token: &str| {
        let field = format!("Bearer {token}");
        larder.admin_call("GET", "/metrics").header("Authorization", &field).send()
    };
    let text = with("the-right-token").has_status(200).text();
    let line = text.lines().find_map(|line| line.strip_prefix("larder_admin_wrong_tokens_total "));
    let compared: u64 = line.unwrap().parse().unwrap();
    // 8,000 were sent: ten at once, and then one a second on each connection.
    assert!((10..4000).contains(&compared), "{compared} guesses");
    others.end().was_unhurt();
    let log = larder.log();
    let lines = log.lines().filter(|line| line.contains("a token that is not known")).count();
    assert!((1..200).contains(&lines), "{lines} lines");
    assert!(log.contains("127.0.0.66") && !log.contains("guess-7f3a"), "{log}");
    drop(held);
    with("wrong").has_status(401);
    with("the-right-token").has_status(200);
}

#[test]
fn the_right_token_is_answered_from_where_wrong_ones_come() {
    let upstream = Upstream::start();
    let larder = start(&upstream, TOKENS);
    let mut guessing = attack::open(1, larder.admin, &guess(&larder, "wrong").repeat(11)).remove(0);
    eventually("the attacker is slowed", || larder.log().matches("a token that is not known").count() >= 5);
    let last = String::from_utf8(guess(&larder, "the-right-token")).unwrap();
    let mut right = attack::open(1, larder.admin, b"").remove(0);
    right.write_all(last.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let answer = attack::rest(&mut right);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    guessing.write_all(b"x").unwrap();
}
