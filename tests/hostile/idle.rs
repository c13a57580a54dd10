//! Connections on which nothing is sent.

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Plan, Upstream};

#[test]
fn two_hundred_idle_connections_hurt_nobody() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(others::RULES).start();
    let others = Others::start(&larder);
    let idle = attack::open(200, larder.address, b"");
    others.go_on(200);
    others.end().was_unhurt();
    assert_eq!(idle.len(), 200);
}
