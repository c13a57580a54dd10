//! Few descriptors.

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Plan, Upstream, eventually};

#[test]
fn the_soft_limit_of_descriptors_hurts_nobody() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(others::RULES).descriptors(1024, 4096).start();
    let others = Others::start(&larder);
    let held = attack::open(1100, larder.address, b"");
    others.go_on(200);
    others.end().was_unhurt();
    assert!(larder.log().contains("max_connections=2496"), "{}", larder.log());
    drop(held);
}

#[test]
fn connections_never_take_the_descriptors_of_others() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(others::RULES).descriptors(1024, 1024).start();
    let others = Others::start(&larder);
    let mut held = Vec::new();
    for client in 1..=6 {
        let from = std::net::Ipv4Addr::new(127, 0, 2, client);
        held.extend((0..200).filter_map(|_| attack::connect_from(from.into(), larder.address)));
    }
    // The rules file can be read, and what it says comes into force.
    std::fs::write(larder.rules_file(), format!("{}\n# edited\n", others::RULES)).unwrap();
    larder.admin_post("/rules/reload").has_status(200);
    others.go_on(200);
    others.end().was_unhurt();
    let log = larder.log();
    assert!(log.contains("max_connections=192"), "{log}");
    assert!(!log.contains("Too many open files"), "{log}");
    assert!(larder.metric("larder_connections") <= 192);
}

#[test]
fn more_connections_than_there_are_descriptors_for_are_refused_at_the_start() {
    let upstream = Upstream::start();
    let plan = Plan::new(&upstream.url()).descriptors(512, 1024);
    let exit = plan.clone().rules("[server]\nmax_connections = 300").fail();
    assert_eq!(exit.code, Some(2), "{exit:?}");
    for text in ["max_connections = 300 does not fit", "to 1168", "write max_connections = 192"] {
        assert!(exit.stderr.contains(text), "{exit:?}");
    }
    let exit = plan.descriptors(256, 512).fail();
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(exit.stderr.contains("lower max_upstream_requests"), "{exit:?}");
    let larder =
        Plan::new(&upstream.url()).rules("[server]\nmax_upstream_requests = 32\n").descriptors(256, 512).start();
    eventually("it says how many", || larder.log().contains("max_connections=168"));
}
