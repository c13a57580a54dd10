//! The fleet protocol, checked in every order of its steps (`stateright`). See README.md beside this file.
//!
//! [`rule`] names the rules; [`state`] is what is remembered; [`fleet`] the steps, the faults and the properties;
//! here are the bounds, and what has to be found within them: nothing as long as all rules are obeyed, and a
//! violation as soon as one is not.

#![allow(clippy::unwrap_used, reason = "in a test an unexpected error may end it")]

mod fleet;
mod rule;
mod state;

use std::fmt::Write;

use stateright::{Checker, HasDiscoveries, Model};

use fleet::{Bounds, FLIGHT, Fault, Fleet, L1, L2, SETTLES};
use rule::Rule;

const MESSAGES: Bounds = Bounds { proxies: 2, writes: 1, faults: 0, kinds: &[], trims: false, settles: false };
const TWO_WRITES: Bounds = Bounds { writes: 2, ..MESSAGES };
const THREE_PROXIES: Bounds = Bounds { proxies: 3, ..MESSAGES };
const TRIMS: Bounds = Bounds { trims: true, ..MESSAGES };
const PROCESSES: Bounds = Bounds { faults: 1, kinds: &[Fault::Die, Fault::Leave, Fault::LoseReply], ..MESSAGES };
const LOSSES: Bounds = Bounds {
    faults: 1,
    kinds: &[Fault::Flush, Fault::Restart, Fault::LoseMarks, Fault::LoseMembers],
    ..MESSAGES
};
const SNAPSHOT: Bounds = Bounds { faults: 1, kinds: &[Fault::Restore], ..MESSAGES };

/// Checks all states within the bounds.
fn all_hold(name: &str, bounds: Bounds) {
    let started = std::time::Instant::now();
    let checker = Fleet { bounds, off: None }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} states ({} steps, at most {} deep) in {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    let found: Vec<String> =
        checker.discoveries().iter().map(|(property, path)| format!("not so: {property}\n{path:?}")).collect();
    assert!(found.is_empty(), "{name}: {}", found.join("\n"));
}

fn found(rule: Rule, bounds: Bounds) -> Option<(&'static str, String)> {
    let fleet = Fleet { bounds, off: Some(rule) };
    let checker = fleet.checker().finish_when(HasDiscoveries::AnyFailures).target_state_count(3_000_000).spawn_bfs().join();
    let (property, path) = checker.discoveries().into_iter().next()?;
    let mut trace = format!("{} states: ", checker.unique_state_count());
    for action in path.into_actions() {
        write!(trace, "{action:?} ").unwrap();
    }
    Some((property, trace))
}

#[test]
fn explore() {
    let bounds = match std::env::var("S").unwrap().as_str() {
        "m" => MESSAGES, "2" => TWO_WRITES, "3" => THREE_PROXIES, "t" => TRIMS, "p" => PROCESSES, "l" => LOSSES, "s" => SNAPSHOT,
        _ => panic!(),
    };
    let settles = std::env::var("SETTLE").is_ok();
    let writes = std::env::var("W").map_or(bounds.writes, |w| w.parse().unwrap());
    all_hold("x", Bounds { settles, writes, ..bounds });
}
