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
    unsynced: false,
    roles: false,
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
const SETTLING: Bounds =
    Bounds { settles: true, faults: 1, kinds: &[Fault::Die, Fault::Flush], syncs: 1, ..MESSAGES };
const FLUSH_BETWEEN_WRITES: Bounds = Bounds { writes: 2, syncs: 1, roles: true, ..FLUSH };
const RENEWAL: Bounds = Bounds { writes: 2, syncs: 1, roles: true, ..MESSAGES };
const START: Bounds = Bounds { unsynced: true, ..MESSAGES };
const OTHER_TAG: Bounds = Bounds { faults: 1, kinds: &[Fault::OtherTag], ..MESSAGES };

/// Steps at most in search of a violation; those that are there are found within a tenth of it.
const MOST: usize = 4_000_000;

/// Each rule, where its lack shows, and as what.
const LACKS: &[(Rule, Bounds, &str)] = &[
    (Rule::LeaseOnHit, MESSAGES, L1),
    (Rule::LeaseFromSending, MESSAGES, L1),
    (Rule::WaitForHolders, MESSAGES, L1),
    (Rule::WaitOneLeaseAtMost, SETTLING, SETTLES),
    (Rule::OwnMarksAtOnce, MESSAGES, L1),
    (Rule::OwnMarkOfAnotherEpoch, START, L1),
    (Rule::MarksInRedis, MESSAGES, L2),
    (Rule::MarksBeforeAcknowledging, MESSAGES, L1),
    (Rule::StampBeforeFetchInL1, MESSAGES, L1),
    (Rule::StampBeforeFetchInL2, MESSAGES, L2),
    (Rule::JoinOnlyCurrentFlights, MESSAGES, FLIGHT),
    (Rule::MembersUntilExpelled, MESSAGES, L1),
    (Rule::ExpelOnlyWithoutRenewal, RENEWAL, L1),
    (Rule::SyncsNeverRepeat, FLUSH_BETWEEN_WRITES, L1),
    (Rule::LeaseEndsBeforeLeaving, LEAVING, L1),
    (Rule::IdOfOneProcess, LEAVING, L1),
    (Rule::NudgeContiguous, OTHER_TAG, L1),
    (Rule::EpochByRunId, SNAPSHOT, FLIGHT),
    (Rule::EpochByLostMarks, EVICTIONS, FLIGHT),
    (Rule::EpochByLostMembers, EVICTIONS, L1),
    (Rule::WaitForEpochAge, FLUSH, L1),
    (Rule::FloorByTrimming, TRIMS, FLIGHT),
    (Rule::L1ClearedByEpoch, FLUSH, L1),
    (Rule::IntentBeforeForwarding, SETTLING, SETTLES),
    (Rule::IntentsCarriedOut, SETTLING, SETTLES),
    (Rule::AnswerOnlyDelivered, MESSAGES, L1),
];

/// Steps at most of each search that should find nothing; `LARDER_MODEL_STEPS`, or a few seconds' worth.
fn steps() -> usize {
    std::env::var("LARDER_MODEL_STEPS")
        .map_or(1_000_000, |steps| steps.parse().expect("LARDER_MODEL_STEPS is a number"))
}

/// Checks all states within the bounds.
fn all_hold(name: &str, bounds: Bounds) {
    let started = std::time::Instant::now();
    let checker = Fleet { bounds, off: None }
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(steps())
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states ({} steps, at most {} deep) in {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    let found: Vec<String> = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| {
            format!(
                "not so: {property}, after {:?}, in {:?}",
                path.clone().into_actions(),
                path.into_states().last()
            )
        })
        .collect();
    assert!(found.is_empty(), "{name}: {}", found.join("\n"));
}

fn found(rule: Rule, bounds: Bounds, expected: &'static str) -> Option<String> {
    let fleet = Fleet { bounds, off: Some(rule) };
    let checker = fleet
        .checker()
        .finish_when(HasDiscoveries::AllOf([expected].into()))
        .target_state_count(MOST)
        .spawn_bfs()
        .join();
    let path = checker.discovery(expected)?;
    let mut trace = format!("{} states: ", checker.unique_state_count());
    for action in path.into_actions() {
        write!(trace, "{action:?} ").unwrap();
    }
    Some(trace)
}

#[test]
fn each_rule_is_needed() {
    let mut missed = Vec::new();
    for &(rule, bounds, expected) in LACKS {
        let started = std::time::Instant::now();
        let lack = found(rule, bounds, expected);
        println!("without {rule:?} ({:.1?}): {lack:?}", started.elapsed());
        if lack.is_none() {
            missed.push(rule);
        }
    }
    assert!(missed.is_empty(), "no violation without {missed:?}");
}

/// One more sync and one more read than it takes to find what is wrong without a rule.
const fn wide(bounds: Bounds) -> Bounds {
    Bounds { syncs: bounds.syncs + 1, reads: bounds.reads + 1, ..bounds }
}

macro_rules! all_hold {
    ($($name:ident: $bounds:expr),+ $(,)?) => {$(
        #[test]
        fn $name() {
            all_hold(stringify!($name), $bounds);
        }
    )+};
}

all_hold! {
    messages_may_be_late_or_lost: wide(MESSAGES),
    two_writes_may_overlap: TWO_WRITES,
    requests_may_be_late: wide(LATE_REQUESTS),
    three_proxies_agree: wide(THREE_PROXIES),
    marks_may_be_trimmed: wide(TRIMS),
    proxies_may_start: wide(START),
    proxies_may_die_or_leave: PROCESSES,
    redis_may_be_flushed: wide(FLUSH),
    redis_may_evict: wide(EVICTIONS),
    redis_may_restart_with_a_snapshot: SNAPSHOT,
    a_flush_may_come_between_writes: FLUSH_BETWEEN_WRITES,
    expelled_members_may_come_back: RENEWAL,
    something_else_may_be_written: wide(OTHER_TAG),
    all_settles: wide(SETTLING),
}
