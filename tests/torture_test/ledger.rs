//! The checker: when each version of each register was acknowledged, and what a read may therefore return.
//!
//! It judges by one monotonic clock, that of the test's own process. A read that began after the acknowledgement of a
//! version must return that version or a later one; a read that began before may return either. Writes
//! that failed or got lost bind no read: they may have been carried out or not.
//!
//! A write that was acknowledged while Redis was away (`on_outage = "forward"`) binds every proxy too, unless its proxy
//! alone was cut off, or is killed before it has shown that it delivered what it kept: it serves nothing from its cache
//! before that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

/// One run of one proxy: a proxy that was started again is another one.
pub type Run = u32;

/// What a register remembers for the history of a stale read.
const REMEMBERED: usize = 400;

/// What a history shows.
const SHOWN: usize = 60;

/// All registers.
pub struct Ledger {
    /// Faults and stale reads are printed with the time since then.
    pub start: Instant,
    slack: Slack,
    registers: Vec<Mutex<Register>>,
    kept: Mutex<Kept>,
    faults: RwLock<Vec<FaultTime>>,
}

/// How much older than an acknowledged write a read may be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Slack {
    /// Any read: with `coherence = "eventual"` a lease, else nothing.
    pub any: Duration,
    /// A read of what the write invalidates by a rule alone: the grace of a soft rule.
    pub by_rule: Duration,
    /// Any read, in time without faults: until an invalidation was repeated (`again`).
    pub undisturbed: Duration,
}

/// Writes that were acknowledged while Redis was away, and may not be delivered yet.
#[derive(Default)]
struct Kept {
    writes: HashMap<Run, Vec<(Instant, usize, u64)>>,
    /// Runs that were killed.
    killed: HashSet<Run>,
}

/// From the begin of a fault to its end.
#[derive(Debug, Clone, Copy)]
struct FaultTime {
    began: Instant,
    ended: Option<Instant>,
}

/// The proxies that an acknowledgement binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every proxy.
    Everywhere,
    /// Every proxy, unless the one that gave it is killed before its invalidation could reach the others.
    Kept,
    /// Only the proxy that gave it, which alone was cut off.
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
    /// Its proxy was killed, and its invalidation may not have reached the others.
    Lost(u64, Run),
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
    /// Whether what was read is invalidated by a rule alone, and not also because it is what was written to.
    pub by_rule: bool,
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

/// The highest version acknowledged so far, by time; beside it the one acknowledged then.
#[derive(Default)]
struct Acknowledged(Vec<(Instant, u64, u64)>);

impl Ledger {
    pub fn new(registers: usize, slack: Slack) -> Ledger {
        let registers = (0..registers).map(|_| Mutex::default()).collect();
        Ledger { start: Instant::now(), slack, registers, kept: Mutex::default(), faults: RwLock::default() }
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
        // Held throughout, so that the killing of the proxy comes before or after.
        let mut kept = (scope == Scope::Kept).then(|| self.kept.lock().unwrap());
        // The answer may be read after its proxy was killed.
        let is_lost = kept.as_ref().is_some_and(|kept| kept.killed.contains(&by));
        let scope = if is_lost { Scope::Only(by) } else { scope };
        let mut known = self.register(register);
        let at = Instant::now();
        known.acknowledge(at, version, by, scope);
        if let Some(kept) = kept.as_mut().filter(|_| !is_lost) {
            kept.writes.entry(by).or_default().push((at, register, version));
        }
    }

    /// A proxy was killed: what it may not have delivered binds no proxy any more. Returns the number of these writes.
    pub fn killed(&self, run: Run) -> usize {
        let mut kept = self.kept.lock().unwrap();
        kept.killed.insert(run);
        let lost = kept.writes.remove(&run).unwrap_or_default();
        for (_, register, version) in &lost {
            self.register(*register).lose(*version, run);
        }
        lost.len()
    }

    /// A proxy got SIGTERM, and has delivered what it kept; but what is to be repeated was in its memory alone.
    pub fn terminated(&self, run: Run) -> usize {
        if self.slack.undisturbed > Duration::ZERO { self.killed(run) } else { 0 }
    }

    /// A fault begins. A fault within it is not recorded.
    pub fn fault_begins(&self) -> Instant {
        let began = Instant::now();
        self.faults.write().unwrap().push(FaultTime { began, ended: None });
        began
    }

    /// The fault that began then is over.
    pub fn fault_ends(&self, began: Instant) {
        let mut faults = self.faults.write().unwrap();
        let fault = faults.iter_mut().rfind(|fault| fault.began == began).expect("it has begun");
        fault.ended = Some(Instant::now());
    }

    /// Whether a fault is going on.
    pub fn is_in_fault(&self) -> bool {
        self.faults.read().unwrap().last().is_some_and(|fault| fault.ended.is_none())
    }

    /// Judges a read of one register. Gives the version that it had to show; 0 if any would do.
    pub fn check(&self, register: usize, returned: u64, read: &Read) -> Result<u64, Stale> {
        self.trust(read);
        let bound = self.bound(read);
        let mut known = self.register(register);
        known.note(Instant::now(), Event::Read(returned, read.by, read.hit));
        known.check(register, returned, read.by, bound)
    }

    /// Judges a read of all registers: the first that is too old, or the highest version that it had to show.
    pub fn check_all(&self, returned: &[u64], read: &Read) -> Result<u64, Stale> {
        assert_eq!(returned.len(), self.len(), "the list has all registers");
        self.trust(read);
        let bound = self.bound(read);
        let mut checks = returned.iter().enumerate();
        checks.try_fold(0, |highest, (at, version)| {
            Ok(highest.max(self.register(at).check(at, *version, read.by, bound)?))
        })
    }

    /// A hit shows that its proxy has delivered what it had kept when the read began; with `again`, and has repeated it.
    fn trust(&self, read: &Read) {
        if !read.hit {
            return;
        }
        let mut kept = self.kept.lock().unwrap();
        if let Some(writes) = kept.writes.get_mut(&read.by) {
            writes.retain(|(at, ..)| *at + self.slack.undisturbed >= read.began);
            if writes.is_empty() {
                kept.writes.remove(&read.by);
            }
        }
    }

    /// What was acknowledged before this moment binds the read.
    fn bound(&self, read: &Read) -> Option<Instant> {
        let by_rule = if read.by_rule { self.slack.by_rule } else { Duration::ZERO };
        let bound = read.began.checked_sub(self.slack.any + by_rule)?;
        match self.slack.undisturbed {
            Duration::ZERO => Some(bound),
            undisturbed => before_undisturbed(&self.faults.read().unwrap(), bound, undisturbed),
        }
    }

    /// What led to a stale read: times are relative to its begin.
    pub fn history(&self, stale: &Stale, read: &Read) -> String {
        let Stale { register, returned, acknowledged } = stale;
        let mut text = format!(
            "register {register}: at {:.3} s proxy run {} returned version {returned}{}, but {acknowledged} had been acknowledged",
            read.began.saturating_duration_since(self.start).as_secs_f64(),
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
            Scope::Everywhere | Scope::Kept => self.everywhere.add(at, version),
            Scope::Only(run) => self.only.entry(run).or_default().add(at, version),
        }
        self.note(at, Event::Acknowledged(version, by, scope));
    }

    fn lose(&mut self, version: u64, run: Run) {
        self.everywhere.remove(version);
        self.note(Instant::now(), Event::Lost(version, run));
    }

    fn check(&self, register: usize, returned: u64, by: Run, bound: Option<Instant>) -> Result<u64, Stale> {
        let Some(bound) = bound else { return Ok(0) };
        let only = self.only.get(&by).map_or(0, |only| only.before(bound));
        let acknowledged = self.everywhere.before(bound).max(only);
        if returned < acknowledged { Err(Stale { register, returned, acknowledged }) } else { Ok(acknowledged) }
    }
}

impl Acknowledged {
    /// Acknowledgements may come in another order than upstream raised the versions.
    fn add(&mut self, at: Instant, version: u64) {
        let highest = self.0.last().map_or(0, |(_, highest, _)| *highest);
        self.0.push((at, version.max(highest), version));
    }

    fn remove(&mut self, version: u64) {
        let kept: Vec<_> = self.0.drain(..).filter(|(.., acknowledged)| *acknowledged != version).collect();
        kept.into_iter().for_each(|(at, _, acknowledged)| self.add(at, acknowledged));
    }

    /// The highest version that was acknowledged before this moment; not at it.
    fn before(&self, moment: Instant) -> u64 {
        let count = self.0.partition_point(|(at, ..)| *at < moment);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

/// The moment from which on so much time without faults has passed until `moment`.
fn before_undisturbed(faults: &[FaultTime], moment: Instant, mut undisturbed: Duration) -> Option<Instant> {
    let mut until = moment;
    for fault in faults.iter().rev().filter(|fault| fault.began < moment) {
        let calm = until.saturating_duration_since(fault.ended.unwrap_or(moment));
        if calm >= undisturbed {
            break;
        }
        undisturbed -= calm;
        until = until.min(fault.began);
    }
    until.checked_sub(undisturbed)
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

    /// What had to be returned by a read that is bound by what came before then and returned 0, or another version if
    /// that was too old.
    fn read(&self, bound: u64, returned: u64, by: Run) -> Option<u64> {
        let checked = self.register.check(0, returned, by, Some(self.start + Duration::from_millis(bound)));
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
        (41, 2, Some(3)), // the late acknowledgement of 2 does not lower what a read must show
        (41, 3, None),
        (900, 4, None),
    ];
    for (began, returned, expected) in cases {
        assert_eq!(log.read(began, returned, 7), expected, "began {began}, returned {returned}");
    }
}

#[test]
fn an_acknowledgement_of_a_proxy_that_is_cut_off_binds_that_proxy_alone() {
    let log = Log::of(&[(10, 1, Scope::Everywhere), (20, 2, Scope::Only(7))]);
    assert_eq!(log.read(30, 1, 7), Some(2));
    assert_eq!(log.read(30, 1, 8), None);
    assert_eq!(log.read(30, 0, 8), Some(1));
}

#[cfg(test)]
const REGISTERS: usize = 3;

#[cfg(test)]
fn ledger(slack: Slack) -> Ledger {
    Ledger::new(REGISTERS, slack)
}

/// A read that begins so much later than now.
#[cfg(test)]
fn read_after(millis: u64, by: Run, by_rule: bool) -> Read {
    Read { began: Instant::now() + Duration::from_millis(millis), by, hit: true, by_rule }
}

#[test]
fn slack_is_how_much_later_an_acknowledgement_binds() {
    let minute = Duration::from_secs(60);
    let eventual = ledger(Slack { any: minute, ..Slack::default() });
    let soft = ledger(Slack { by_rule: minute, ..Slack::default() });
    for ledger in [&eventual, &soft] {
        ledger.acknowledge(0, 1, 0, Scope::Everywhere);
    }
    for (ledger, millis, by_rule, is_stale) in [
        (&eventual, 1, false, false),
        (&eventual, 60_001, false, true),
        (&soft, 1, false, true),
        (&soft, 1, true, false),
        (&soft, 60_001, true, true),
    ] {
        assert_eq!(ledger.check(0, 0, &read_after(millis, 1, by_rule)).is_err(), is_stale, "{millis} {by_rule}");
    }
}

#[test]
fn slack_without_faults_is_counted_without_them() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let fault = |began, ended: u64| FaultTime { began: at(began), ended: (ended > 0).then(|| at(ended)) };
    let faults = [fault(100, 200), fault(300, 600), fault(900, 0)];
    for (moment, undisturbed, from) in [
        (50, 20, 30),
        (250, 20, 230),
        (250, 100, 50),
        (700, 100, 600),
        (700, 150, 250),
        (1000, 300, 600),
        (1000, 350, 250),
    ] {
        let found = before_undisturbed(&faults, at(moment), Duration::from_millis(undisturbed));
        assert_eq!(found, Some(at(from)), "{moment}, {undisturbed}");
    }
}

#[test]
fn an_undelivered_write_binds_all_proxies_until_its_own_is_killed() {
    let ledger = ledger(Slack::default());
    ledger.acknowledge(0, 1, 7, Scope::Kept);
    ledger.acknowledge(0, 2, 8, Scope::Kept);
    assert!(ledger.check(0, 1, &Read { hit: false, ..read_after(1, 9, false) }).is_err());
    assert_eq!(ledger.killed(8), 1);
    assert_eq!(ledger.check(0, 1, &read_after(1, 9, false)), Ok(1));
    assert!(ledger.check(0, 0, &read_after(1, 9, false)).is_err(), "7 was not killed");
    ledger.acknowledge(0, 3, 8, Scope::Kept);
    assert_eq!(ledger.check(0, 1, &read_after(1, 9, false)), Ok(1), "the answer was read after the end of 8");
}

#[test]
fn a_hit_shows_that_its_proxy_has_delivered_its_pending_invalidations() {
    let ledger = ledger(Slack::default());
    ledger.acknowledge(0, 1, 7, Scope::Kept);
    ledger.acknowledge(1, 1, 7, Scope::Kept);
    let (early, miss) = (Instant::now() - Duration::from_secs(1), Read { hit: false, ..read_after(1, 7, false) });
    for read in [miss, read_after(1, 8, false), Read { began: early, ..read_after(1, 7, false) }] {
        let _ = ledger.check(2, 0, &read);
        assert_eq!(ledger.kept.lock().unwrap().writes[&7].len(), 2, "{read:?} shows nothing");
    }
    let _ = ledger.check(2, 0, &read_after(1, 7, false));
    assert_eq!(ledger.killed(7), 0);
    assert!(ledger.check(0, 0, &read_after(1, 9, false)).is_err());
}

#[test]
fn a_sabotaged_log_is_detected_and_its_history_printed() {
    let ledger = ledger(Slack::default());
    ledger.note(1, Event::Raised(1));
    ledger.acknowledge(1, 1, 4, Scope::Everywhere);
    let later = Instant::now() + Duration::from_millis(1);
    let read = Read { began: later, by: 5, hit: true, by_rule: false };
    assert_eq!(ledger.check(0, 0, &read), Ok(0));
    assert_eq!(ledger.check(1, 1, &read), Ok(1));
    assert_eq!(ledger.check_all(&[0, 1, 0], &read), Ok(1));
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
