//! A reader of the log that stops reading.

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Larder, PATIENCE, Plan, Upstream, eventually};

/// Requests on one connection: a connection for each would take long on a busy machine.
const AT_ONCE: usize = 100;

fn rules() -> String {
    format!("[log]\naccess = true\n{}", others::RULES)
}

fn lost(larder: &Larder) -> u64 {
    let metrics = larder.admin_get("/metrics").text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("larder_log_lines_lost_total "));
    line.unwrap_or_else(|| panic!("no counter:\n{metrics}")).parse().unwrap()
}

/// Requests until lines are lost.
fn lose(larder: &Larder) {
    let request = |connection: &str| {
        format!("GET /others/1 HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n")
    };
    let requests = request("keep-alive").repeat(AT_ONCE - 1) + &request("close");
    eventually("lines are lost", || {
        for _ in 0..10 {
            let mut client = attack::open(1, larder.address, requests.as_bytes()).remove(0);
            assert_eq!(attack::rest(&mut client).matches("HTTP/1.1 200 ").count(), AT_ONCE);
        }
        lost(larder) > 0
    });
}

#[test]
fn a_log_that_nobody_reads_hurts_nobody_and_its_losses_are_counted_and_told() {
    let upstream = Upstream::start();
    let mut larder = Plan::new(&upstream.url()).rules(&rules()).log_is_unread().start();
    lose(&larder);
    let others = Others::start(&larder);
    others.go_on(400);
    others.end().was_unhurt();
    let before = lost(&larder);
    assert!(before > 0);
    larder.read_log();
    eventually("the losses are logged", || larder.log().contains("log lines were lost"));
    // From then on lines are written as they come.
    larder.get("/others/after");
    eventually("what follows is logged", || larder.log().contains("/others/after"));
}

#[test]
fn a_larder_whose_log_nobody_reads_ends_when_it_is_told_to() {
    let upstream = Upstream::start();
    let mut larder = Plan::new(&upstream.url()).rules(&rules()).log_is_unread().start();
    lose(&larder);
    larder.terminate();
    assert_eq!(larder.wait(), Some(0), "within {PATIENCE:?}");
}

#[test]
fn the_last_lines_are_written_before_it_ends() {
    let upstream = Upstream::start();
    let mut larder = Plan::new(&upstream.url()).rules(&rules()).start();
    for n in 0..200 {
        larder.get(&format!("/others/{n}"));
    }
    larder.terminate();
    assert_eq!(larder.wait(), Some(0));
    eventually("all lines are there", || {
        let log = larder.log();
        log.matches("larder::access").count() == 200 && log.contains("shutting down")
    });
}
