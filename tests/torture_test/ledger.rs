//! The checker: when each version of each register was acknowledged, and what a read may therefore return.
//!
//! It judges by one monotonic clock, that of the test's own process. A read that began after the acknowledgement of a
//! version must return that version or a later one; a read that began before may return either. Nothing is asked of
//! writes that failed or got lost: they may have been carried out or not.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// One run of one proxy: a proxy that was started again is another one.
pub type Run = u32;

/// What a register remembers for the history of a stale read.
const REMEMBERED: usize = 400;

/// What a history shows.
const SHOWN: usize = 60;

/// All registers.
pub struct Ledger {
    /// How much older than an acknowledged write a read may be: nothing, but in the mode `eventual`.
    slack: Duration,
    registers: Vec<Mutex<Register>>,
}

/// Whom an acknowledgement binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every proxy.
    Everywhere,
    /// Only the proxy that gave it, which said that it could not tell the others.
    Only(Run),
}

/// What happened to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Upstream raised it.
    Raised(u64),
    /// A write was sent through this proxy.
    WriteBegan(Run),
    /// It was acknowledged.
    Acknowledged(u64, Run, Scope),
    /// It was not acknowledged.
    WriteFailed(Run),
    /// It was read so; true: from the cache.
    Read(u64, Run, bool),
}

/// A read that was answered.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    /// Before the request was sent.
    pub began: Instant,
    /// Which proxy answered.
    pub by: Run,
    /// Whether it came from the cache.
    pub hit: bool,
}

/// A read that breaks the promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    pub register: usize,
    pub returned: u64,
    /// What had been acknowledged when the read began.
    pub acknowledged: u64,
}

#[derive(Default)]
struct Register {
    everywhere: Acknowledged,
    only: HashMap<Run, Acknowledged>,
    history: VecDeque<(Instant, Event)>,
}

/// The highest version acknowledged so far, by time.
#[derive(Default)]
struct Acknowledged(Vec<(Instant, u64)>);

impl Ledger {
    pub fn new(registers: usize, slack: Duration) -> Ledger {
        Ledger { slack, registers: (0..registers).map(|_| Mutex::default()).collect() }
    }

    /// How many registers there are.
    pub fn len(&self) -> usize {
        self.registers.len()
    }

    /// Remembers for histories. What happened is over already.
    pub fn note(&self, register: usize, event: Event) {
        self.register(register).note(Instant::now(), event);
    }

    /// A version was acknowledged just now. The clock is read under the lock, so that the log is in order, and so that
    /// a check that comes later sees whatever was acknowledged before its read began.
    pub fn acknowledge(&self, register: usize, version: u64, by: Run, scope: Scope) {
        let mut register = self.register(register);
        register.acknowledge(Instant::now(), version, by, scope);
    }

    /// Judges a read of one register.
    pub fn check(&self, register: usize, returned: u64, read: &Read) -> Result<(), Stale> {
        let mut known = self.register(register);
        known.note(Instant::now(), Event::Read(returned, read.by, read.hit));
        known.check(register, returned, read, self.slack)
    }

    /// Judges a read of all registers: the first that is too old.
    pub fn check_all(&self, returned: &[u64], read: &Read) -> Result<(), Stale> {
        assert_eq!(returned.len(), self.len(), "the list has all registers");
        let mut checks = returned.iter().enumerate();
        checks.try_for_each(|(at, version)| self.register(at).check(at, *version, read, self.slack))
    }

    /// What led to a stale read: times are relative to its begin.
    pub fn history(&self, stale: &Stale, read: &Read) -> String {
        let Stale { register, returned, acknowledged } = stale;
        let mut text = format!(
            "register {register}: proxy run {} returned version {returned}{}, but {acknowledged} had been acknowledged",
            read.by,
            if read.hit { " from its cache" } else { "" }
        );
        let known = self.register(*register);
        for (at, event) in known.history.iter().skip(known.history.len().saturating_sub(SHOWN)) {
            let _ = write!(text, "\n    {:>10.3} ms  {event:?}", milliseconds_since(*at, read.began));
        }
        text
    }

    fn register(&self, at: usize) -> MutexGuard<'_, Register> {
        self.registers[at].lock().unwrap()
    }
}

fn milliseconds_since(at: Instant, origin: Instant) -> f64 {
    let signed = at
        .checked_duration_since(origin)
        .map_or_else(|| -origin.duration_since(at).as_secs_f64(), |later| later.as_secs_f64());
    signed * 1e3
}

impl Register {
    fn note(&mut self, at: Instant, event: Event) {
        if self.history.len() == REMEMBERED {
            self.history.pop_front();
        }
        self.history.push_back((at, event));
    }

    fn acknowledge(&mut self, at: Instant, version: u64, by: Run, scope: Scope) {
        match scope {
            Scope::Everywhere => self.everywhere.add(at, version),
            Scope::Only(run) => self.only.entry(run).or_default().add(at, version),
        }
        self.note(at, Event::Acknowledged(version, by, scope));
    }

    fn check(&self, register: usize, returned: u64, read: &Read, slack: Duration) -> Result<(), Stale> {
        let Some(bound) = read.began.checked_sub(slack) else { return Ok(()) };
        let only = self.only.get(&read.by).map_or(0, |only| only.before(bound));
        let acknowledged = self.everywhere.before(bound).max(only);
        if returned < acknowledged { Err(Stale { register, returned, acknowledged }) } else { Ok(()) }
    }
}

impl Acknowledged {
    /// Acknowledgements may come in another order than upstream raised the versions.
    fn add(&mut self, at: Instant, version: u64) {
        let highest = self.0.last().map_or(0, |(_, highest)| *highest);
        self.0.push((at, version.max(highest)));
    }

    /// The highest version that was acknowledged before this moment; not at it.
    fn before(&self, moment: Instant) -> u64 {
        let count = self.0.partition_point(|(at, _)| *at < moment);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// A made-up log: times are milliseconds after its start.
#[cfg(test)]
struct Log {
    start: Instant,
    register: Register,
}

#[cfg(test)]
impl Log {
    fn of(acknowledged: &[(u64, u64, Scope)]) -> Log {
        let (start, mut register) = (Instant::now(), Register::default());
        for (at, version, scope) in acknowledged {
            register.acknowledge(start + Duration::from_millis(*at), *version, 0, *scope);
        }
        Log { start, register }
    }

    /// What had to be returned by a read that began then and returned 0, or another version if that was too old.
    fn read(&self, began: u64, returned: u64, by: Run, slack: u64) -> Option<u64> {
        let read = Read { began: self.start + Duration::from_millis(began), by, hit: true };
        let checked = self.register.check(0, returned, &read, Duration::from_millis(slack));
        checked.err().map(|stale| stale.acknowledged)
    }
}

#[test]
fn a_read_is_stale_exactly_if_a_later_version_was_acknowledged_before_it_began() {
    let log = Log::of(&[(10, 1, Scope::Everywhere), (30, 3, Scope::Everywhere), (40, 2, Scope::Everywhere)]);
    let cases = [
        (5, 0, None),
        (10, 0, None), // not before it
        (11, 0, Some(1)),
        (11, 1, None),
        (11, 2, None), // not acknowledged yet, and true
        (30, 1, None),
        (31, 1, Some(3)),
        (31, 2, Some(3)), // 2 was raised before 3, so it is old although its own acknowledgement comes later
        (41, 2, Some(3)), // the late acknowledgement of 2 does not lower what is asked
        (41, 3, None),
        (900, 4, None),
    ];
    for (began, returned, expected) in cases {
        assert_eq!(log.read(began, returned, 7, 0), expected, "began {began}, returned {returned}");
    }
}

#[test]
fn an_acknowledgement_of_a_proxy_that_is_cut_off_binds_that_proxy_alone() {
    let log = Log::of(&[(10, 1, Scope::Everywhere), (20, 2, Scope::Only(7))]);
    assert_eq!(log.read(30, 1, 7, 0), Some(2));
    assert_eq!(log.read(30, 1, 8, 0), None);
    assert_eq!(log.read(30, 0, 8, 0), Some(1));
}

#[test]
fn slack_is_how_much_later_an_acknowledgement_binds() {
    let log = Log::of(&[(10, 1, Scope::Everywhere)]);
    assert_eq!((log.read(60, 0, 7, 50), log.read(61, 0, 7, 50)), (None, Some(1)));
}

#[test]
fn a_sabotaged_log_is_found_out_and_its_history_told() {
    let ledger = Ledger::new(3, Duration::ZERO);
    ledger.note(1, Event::Raised(1));
    ledger.acknowledge(1, 1, 4, Scope::Everywhere);
    let later = Instant::now() + Duration::from_millis(1);
    let read = Read { began: later, by: 5, hit: true };
    assert_eq!(ledger.check(0, 0, &read), Ok(()));
    assert_eq!(ledger.check(1, 1, &read), Ok(()));
    assert_eq!(ledger.check_all(&[0, 1, 0], &read), Ok(()));
    let stale = Stale { register: 1, returned: 0, acknowledged: 1 };
    assert_eq!(ledger.check(1, 0, &read), Err(stale.clone()));
    assert_eq!(ledger.check_all(&[0, 0, 0], &read), Err(stale.clone()));
    let history = ledger.history(&stale, &read);
    for part in
        ["register 1", "returned version 0 from its cache", "Raised(1)", "Acknowledged(1, 4", "Read(0, 5, true)"]
    {
        assert!(history.contains(part), "{part:?} in {history}");
    }
}
