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

/// Messages come late or not at all; nothing breaks.
const MESSAGES: Bounds = Bounds {
    proxies: 2,
    writes: 1,
    syncs: 2,
    reads: 1,
    faults: 0,
    kinds: &[],
    trims: false,
    late_requests: false,
    settles: false,
};
const TWO_WRITES: Bounds = Bounds { writes: 2, syncs: 1, ..MESSAGES };
const LATE_REQUESTS: Bounds = Bounds { late_requests: true, ..MESSAGES };
const THREE_PROXIES: Bounds = Bounds { proxies: 3, syncs: 1, ..MESSAGES };
const TRIMS: Bounds = Bounds { trims: true, ..MESSAGES };
const PROCESSES: Bounds = Bounds { faults: 1, kinds: &[Fault::Die, Fault::Leave, Fault::LoseReply], ..MESSAGES };
const LEAVING: Bounds = Bounds { faults: 1, kinds: &[Fault::Leave], ..MESSAGES };
const FLUSH: Bounds = Bounds { faults: 1, kinds: &[Fault::Flush], ..MESSAGES };
const EVICTIONS: Bounds = Bounds { faults: 1, kinds: &[Fault::LoseMarks, Fault::LoseMembers], ..MESSAGES };
const SNAPSHOT: Bounds = Bounds { faults: 1, kinds: &[Fault::Restore, Fault::Restart], ..MESSAGES };
const SETTLING: Bounds = Bounds { settles: true, faults: 1, kinds: &[Fault::Die, Fault::Flush], syncs: 1, ..MESSAGES };
const FLUSH_BETWEEN_WRITES: Bounds = Bounds { writes: 2, syncs: 1, ..FLUSH };

/// Each rule, where its lack shows, and as what.
const LACKS: &[(Rule, Bounds, &str)] = &[
    (Rule::LeaseOnHit, MESSAGES, L1),
    (Rule::LeaseFromSending, MESSAGES, L1),
    (Rule::WaitForHolders, MESSAGES, L1),
    (Rule::WaitOneLeaseAtMost, SETTLING, SETTLES),
    (Rule::OwnMarksAtOnce, MESSAGES, L1),
    (Rule::OwnMarkOfAnotherEpoch, PROCESSES, L1),
    (Rule::MarksInRedis, MESSAGES, L2),
    (Rule::MarksBeforeAcknowledging, MESSAGES, L1),
    (Rule::StampBeforeFetchInL1, MESSAGES, L1),
    (Rule::StampBeforeFetchInL2, MESSAGES, L2),
    (Rule::JoinOnlyCurrentFlights, MESSAGES, FLIGHT),
    (Rule::MembersUntilExpelled, MESSAGES, L1),
    (Rule::ExpelOnlyWithoutRenewal, TWO_WRITES, L1),
    (Rule::SyncsNeverRepeat, FLUSH_BETWEEN_WRITES, L1),
    (Rule::LeaseEndsBeforeLeaving, LEAVING, L1),
    (Rule::IdOfOneProcess, LEAVING, L1),
    (Rule::NudgeContiguous, TWO_WRITES, L1),
    (Rule::EpochByRunId, SNAPSHOT, L2),
    (Rule::EpochByLostMarks, EVICTIONS, L2),
    (Rule::EpochByLostMembers, EVICTIONS, L1),
    (Rule::WaitForEpochAge, FLUSH, L1),
    (Rule::FloorByTrimming, TRIMS, L2),
    (Rule::L1ClearedByEpoch, FLUSH, L1),
    (Rule::IntentBeforeForwarding, SETTLING, SETTLES),
    (Rule::IntentsCarriedOut, SETTLING, SETTLES),
    (Rule::AnswerOnlyDelivered, MESSAGES, L2),
];

/// Checks all states within the bounds.
fn all_hold(name: &str, bounds: Bounds) {
    let started = std::time::Instant::now();
    let checker = Fleet { bounds, off: None }.checker().finish_when(HasDiscoveries::AnyFailures).target_state_count(std::env::var("N").map_or(400_000, |n| n.parse().unwrap())).spawn_bfs().join();
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
    let checker = fleet.checker().finish_when(HasDiscoveries::AnyFailures).target_state_count(std::env::var("N").map_or(3_000_000, |n| n.parse().unwrap())).spawn_bfs().join();
    let (property, path) = checker.discoveries().into_iter().next()?;
    let mut trace = format!("{} states: ", checker.unique_state_count());
    for action in path.into_actions() {
        write!(trace, "{action:?} ").unwrap();
    }
    Some((property, trace))
}

#[test]
fn each_rule_is_needed() {
    let mut missed = Vec::new();
    for &(rule, bounds, expected) in LACKS {
        let started = std::time::Instant::now();
        let lack = found(rule, bounds);
        println!("without {rule:?} ({:.1?}): {lack:?}", started.elapsed());
        if lack.is_none_or(|(property, _)| property != expected) {
            missed.push(rule);
        }
    }
    assert!(missed.is_empty(), "no violation, or another one, without {missed:?}");
}
