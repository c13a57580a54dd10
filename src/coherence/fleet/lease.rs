//! A lease, which is over as soon as either of two clocks says so. The steady clock cannot be set, and stands still while the
//! machine is suspended. The wall clock goes on then, and can be set: set forward it ends a lease early, set back it
//! changes nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Both clocks. The steady one is tokio's.
#[derive(Clone)]
pub enum Clocks {
    /// The wall clock is the system's.
    System,
    /// This gives the time of the wall clock.
    Given(Arc<dyn Fn() -> SystemTime + Send + Sync>),
}

impl Clocks {
    /// This moment.
    pub fn now(&self) -> Moment {
        let wall = match self {
            Clocks::System => SystemTime::now(),
            Clocks::Given(wall) => wall(),
        };
        Moment { steady: Instant::now(), wall }
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Clocks::System => "System",
            Clocks::Given(_) => "Given",
        })
    }
}

/// One moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub steady: Instant,
    pub wall: SystemTime,
}

impl Moment {
    /// The moment `time` later.
    pub fn after(self, time: Duration) -> Moment {
        Moment { steady: self.steady + time, wall: self.wall + time }
    }

    /// Whether neither clock has reached `end`.
    pub fn is_before(self, end: Moment) -> bool {
        self.steady < end.steady && self.wall < end.wall
    }
}

/// The end of a lease, for readers that take no lock.
#[derive(Debug)]
pub struct Lease {
    start: Instant,
    /// Nanoseconds after `start`; 0: there is no lease.
    steady: AtomicU64,
    /// Nanoseconds after 1970.
    wall: AtomicU64,
}

impl Default for Lease {
    /// There is none yet.
    fn default() -> Lease {
        Lease { start: Instant::now(), steady: AtomicU64::new(0), wall: AtomicU64::new(0) }
    }
}

impl Lease {
    /// Begins one that runs until `end`, or extends it. For one task at a time. A reader may meanwhile see one clock's end of the
    /// lease before: both were granted, and the earlier of them counts.
    pub fn begin(&self, end: Moment) {
        self.wall.store(nanos(end.wall), SeqCst);
        self.steady.store(self.since_start(end.steady), SeqCst);
    }

    /// Ends it.
    pub fn end(&self) {
        self.steady.store(0, SeqCst);
    }

    /// Whether it runs.
    pub fn runs_at(&self, now: Moment) -> bool {
        self.since_start(now.steady) < self.steady.load(SeqCst) && nanos(now.wall) < self.wall.load(SeqCst)
    }

    fn since_start(&self, time: Instant) -> u64 {
        u64::try_from(time.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn nanos(time: SystemTime) -> u64 {
    // Before 1970 no lease runs: a clock that says so is wrong.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::MAX);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    #[test]
    fn a_given_wall_clock_replaces_the_systems() {
        let wall = SystemTime::UNIX_EPOCH + LEASE;
        assert_eq!(Clocks::Given(Arc::new(move || wall)).now().wall, wall);
        assert!(Clocks::System.now().wall > wall);
    }

    #[test]
    fn a_lease_ends_by_whichever_clock_is_first() {
        let sent = Clocks::System.now();
        let lease = Lease { start: sent.steady, ..Lease::default() };
        assert!(!lease.runs_at(sent), "there is none yet");
        lease.begin(sent.after(LEASE));
        let hour = Duration::from_secs(3600);
        let short = Duration::from_millis(999);
        let at = |steady: Duration, wall: SystemTime| Moment { steady: sent.steady + steady, wall };
        let rows = [
            (at(short, sent.wall + short), true, "both are within it"),
            (at(LEASE, sent.wall + LEASE), false, "both are over"),
            (at(LEASE, sent.wall + short), false, "the steady clock is over"),
            (at(short, sent.wall + hour), false, "suspended for an hour, or set forward"),
            (at(short, sent.wall - hour), true, "set back: the steady clock counts"),
            (at(LEASE, sent.wall - hour), false, "set back, and over"),
            (at(short, SystemTime::UNIX_EPOCH - hour), false, "no time at all"),
        ];
        for (now, runs, what) in rows {
            assert_eq!(lease.runs_at(now), runs, "{what}");
            assert!(lease.runs_at(now) <= now.is_before(sent.after(LEASE)), "{what}");
        }
        lease.end();
        assert!(!lease.runs_at(sent));
        lease.begin(sent.after(LEASE));
        assert!(lease.runs_at(sent), "it can begin again");
    }
}
