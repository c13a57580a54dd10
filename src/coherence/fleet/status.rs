//! What a proxy knows of the epoch and of its own standing: for how long writes of a young epoch wait, and what an
//! operator is told.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Coherence;
use crate::marks::{Epoch, Stamp};
use crate::store::StoreError;
use crate::store::fleet::EpochState;

/// Why a proxy trusts nothing for any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoLease {
    /// It has just started.
    NeverSynced,
    /// The last sync failed.
    StoreAway(String),
    /// The last sync came to too few replicas.
    ReplicasMissing(String),
    /// An invalidation of its own was of an epoch that it does not have yet.
    OtherEpoch,
    /// The store is back; these other proxies may have something to deliver.
    Returning(Vec<Box<str>>),
    /// The store has not answered the sync that is under way, for this time; or took so long for the last one.
    NoAnswer(Duration),
    /// No sync was made in time, although none failed.
    Late,
    /// It is ending.
    Left,
}

impl NoLease {
    /// A label for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            NoLease::NeverSynced => "never-synced",
            NoLease::StoreAway(_) | NoLease::NoAnswer(_) => "store-away",
            NoLease::ReplicasMissing(_) => "replicas-missing",
            NoLease::OtherEpoch => "other-epoch",
            NoLease::Returning(_) => "returning",
            NoLease::Late => "late",
            NoLease::Left => "left",
        }
    }
}

impl fmt::Display for NoLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoLease::NeverSynced => f.write_str("it has not synced yet"),
            NoLease::StoreAway(reason) | NoLease::ReplicasMissing(reason) => f.write_str(reason),
            NoLease::OtherEpoch => f.write_str("a new epoch has begun; the next sync brings it"),
            NoLease::Returning(absent) if absent.is_empty() => {
                f.write_str("the store is back; proxies without a record there may have invalidations to deliver")
            }
            NoLease::Returning(absent) => {
                write!(
                    f,
                    "the store is back; these proxies may still have invalidations to deliver: {}",
                    absent.join(", ")
                )
            }
            NoLease::NoAnswer(time) => {
                write!(f, "the store takes {} ms to answer a sync, or longer", time.as_millis())
            }
            NoLease::Late => {
                f.write_str("no sync in time: the process or its machine stood still or is overloaded")
            }
            NoLease::Left => f.write_str("it has left the fleet, to end"),
        }
    }
}

/// What a proxy says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetStatus {
    /// Its id.
    pub id: Box<str>,
    /// What its hits rely on.
    pub coherence: Coherence,
    /// Its lease.
    pub lease: Duration,
    /// Why it trusts nothing for now; `None`: it holds a lease, or what stands for one in a strict proxy.
    pub no_lease: Option<NoLease>,
    /// How long that has been so.
    pub since: Duration,
    /// Its copy of the marks goes up to here. `None` where it has none.
    pub applied: Option<Stamp>,
    /// The epoch, at the last sync that was answered.
    pub epoch: Option<EpochState>,
    /// How long ago that sync was; `None` before the first.
    pub synced: Option<Duration>,
    /// How long writes wait for leases that nobody knows of, at most.
    pub longest_lease: Duration,
    /// Microseconds by which the store's clock is ahead of this machine's.
    pub store_clock_ahead: i64,
}

/// An epoch, and when this proxy met it.
#[derive(Debug, Clone, Copy)]
struct EpochSeen {
    epoch: Epoch,
    at: Instant,
    /// This proxy knew another one before: it was there when this one began.
    is_change: bool,
}

/// What is known, as of the last answers of the store.
#[derive(Debug)]
pub(super) struct FleetObservations {
    epoch: Option<EpochSeen>,
    /// The longest lease of the fleet.
    longest: Duration,
    /// The last sync that was answered.
    pub synced: Option<(EpochState, Instant)>,
    /// How the last sync failed, or the last invalidation, if it did.
    pub failure: Option<StoreError>,
    /// When the sync that is under way began.
    syncing: Option<Instant>,
    /// How long the last one took.
    took: Duration,
    /// When this process was last found to have stood still.
    stalled: Option<Instant>,
    pub has_left: bool,
    /// As was told last, and since when.
    pub told: (bool, Instant),
    /// There has been no lease yet, and that was not told either.
    pub is_first: bool,
    /// The epoch has changed, and nobody has said why.
    pub uncounted: bool,
    /// Others with another lease were told of.
    pub has_warned: bool,
    /// The clock of this machine was told to be wrong.
    pub is_clock_off: bool,
}

impl FleetObservations {
    pub fn new(lease: Duration) -> FleetObservations {
        FleetObservations {
            epoch: None,
            longest: lease,
            synced: None,
            failure: None,
            syncing: None,
            took: Duration::ZERO,
            stalled: None,
            has_left: false,
            told: (false, Instant::now()),
            is_first: true,
            uncounted: false,
            has_warned: false,
            is_clock_off: false,
        }
    }

    /// A sync is sent.
    pub fn sync_began(&mut self) {
        self.syncing = Some(Instant::now());
    }

    /// The sync has ended, so.
    pub fn sync_ended(&mut self, failure: Option<&StoreError>, lease: Duration) {
        let took = self.syncing.take().map_or(Duration::ZERO, |began| began.elapsed());
        // Time limits are kept by this process: one that is over much later than it should be was not watched.
        let is_stall = matches!(failure, Some(StoreError::Timeout(limit)) if took > *limit + lease / 4);
        if is_stall {
            self.stalled = Some(Instant::now());
        }
        self.took = took;
        self.failure = failure.cloned().filter(|_| !is_stall);
    }

    /// A wait that was to take `planned` at most took this long.
    pub fn waited(&mut self, took: Duration, planned: Duration, lease: Duration) {
        if took > planned + lease / 4 {
            self.stalled = Some(Instant::now());
        }
    }

    /// Why no sync was made in time although none failed.
    pub fn late(&self, lease: Duration) -> NoLease {
        match (self.stalled, self.syncing) {
            (Some(stalled), _) if stalled.elapsed() < lease => NoLease::Late,
            (_, Some(since)) => NoLease::NoAnswer(since.elapsed()),
            // A store that answers so slowly that the lease is over before the next sync.
            _ if self.took > lease / 4 => NoLease::NoAnswer(self.took),
            _ => NoLease::Late,
        }
    }

    /// The longest lease of the fleet.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The store has spoken in this epoch; true if it is another one than before.
    pub fn meet(&mut self, epoch: Epoch) -> bool {
        let before = self.epoch.map(|sighting| sighting.epoch);
        if before == Some(epoch) {
            return false;
        }
        self.epoch = Some(EpochSeen { epoch, at: Instant::now(), is_change: before.is_some() });
        before.is_some()
    }

    /// The age of the epoch met last, which the store says is `told`. The store's clock may have been set forward since:
    /// where this proxy was there when the epoch began, or `only_own`, its own clock must agree.
    pub fn age(&self, told: Duration, only_own: bool) -> Duration {
        match self.epoch {
            Some(sighting) if sighting.is_change || only_own => told.min(sighting.at.elapsed()),
            _ => told,
        }
    }

    /// The store says that this is the longest lease of the fleet, in an epoch of this age. An epoch that is younger
    /// may not know of all.
    pub fn hear_of_lease(&mut self, told: Duration, own: Duration, age: Duration) {
        let before = if age > self.longest { own } else { self.longest };
        self.longest = before.max(told).max(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_whose_clock_is_set_forward_makes_no_epoch_old_that_was_seen_to_begin() {
        let mut observed = FleetObservations::new(secs(1));
        assert!(!observed.meet(Epoch(1)), "the first one may be old");
        assert_eq!(observed.age(secs(3600), false), secs(3600));
        assert_eq!(observed.age(secs(3600), true), secs(0));
        assert!(observed.meet(Epoch(2)));
        tokio::time::advance(secs(2)).await;
        assert!(!observed.meet(Epoch(2)));
        assert_eq!(observed.age(secs(3600), false), secs(2));
        assert_eq!(observed.age(secs(1), false), secs(1), "set back, or met late");
    }

    #[test]
    fn the_longest_lease_is_forgotten_only_in_an_epoch_that_is_older() {
        let mut observed = FleetObservations::new(secs(1));
        for (told, age, longest) in [(5, 9, 5), (2, 4, 5), (2, 5, 5), (2, 6, 2), (0, 9, 1)] {
            observed.hear_of_lease(secs(told), secs(1), secs(age));
            assert_eq!(observed.longest(), secs(longest), "{told} {age}");
        }
    }
}
