//! The status of this proxy in the fleet, for operators: whether it holds a lease, and if not, why not. Losing the lease and
//! getting it back is logged once each.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::MutexGuard;
use std::time::Duration;

use tokio::time::Instant;

use super::{Fleet, lock};
use crate::config::Coherence;
use crate::marks::Stamp;
use crate::store::StoreError;
use crate::store::fleet::EpochState;

/// Why a proxy holds no lease.
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
    /// Redis is back; these other proxies may have something to deliver.
    Returning(Vec<Box<str>>),
    /// Redis has not answered the sync that is under way for this time, or took this long for the last one.
    NoAnswer(Duration),
    /// No sync was made in time, although none failed.
    Late,
    /// The process is ending.
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
                f.write_str("Redis is back; proxies without a record there may have invalidations to deliver")
            }
            NoLease::Returning(absent) => {
                write!(
                    f,
                    "Redis is back; these proxies may still have invalidations to deliver: {}",
                    absent.join(", ")
                )
            }
            NoLease::NoAnswer(time) => {
                write!(f, "Redis takes {} ms to answer a sync, or longer", time.as_millis())
            }
            NoLease::Late => {
                f.write_str("no sync in time: the process or its machine stood still or is overloaded")
            }
            NoLease::Left => f.write_str("it has left the fleet, to end"),
        }
    }
}

/// The status of this proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetStatus {
    /// Its id.
    pub id: Box<str>,
    /// What makes its hits current.
    pub coherence: Coherence,
    /// Its lease.
    pub lease: Duration,
    /// Why it holds no lease; `None`: it holds one, or in strict mode its last sync still counts.
    pub no_lease: Option<NoLease>,
    /// How long that has been so.
    pub since: Duration,
    /// Its copy of the marks goes up to here. `None` where it has none.
    pub applied: Option<Stamp>,
    /// The epoch, at the last sync that was answered.
    pub epoch: Option<EpochState>,
    /// How long ago that sync was; `None` before the first.
    pub synced: Option<Duration>,
    /// The longest lease of the fleet: how long writes wait at most.
    pub longest_lease: Duration,
    /// Microseconds by which Redis's clock is ahead of this machine's; below zero if it is behind.
    pub store_clock_ahead: i64,
}

/// How the syncs went, and what was logged of it.
#[derive(Debug)]
pub(super) struct SyncHealth {
    /// The last sync that was answered.
    pub synced: Option<(EpochState, Instant)>,
    /// How the last sync failed, or the last invalidation, if it did.
    failure: Option<StoreError>,
    /// When the sync that is under way began.
    syncing: Option<Instant>,
    /// How long the last one took.
    took: Duration,
    /// When this process was last found to have stood still.
    stalled: Option<Instant>,
    pub has_left: bool,
    /// Whether all was well when that was logged last, and when that was.
    logged: (bool, Instant),
    /// There has been no lease yet, and that was not logged either.
    is_first: bool,
    /// It was logged that the clock of this machine is wrong.
    is_clock_off: bool,
    /// The families with mixed rules that were logged.
    pub mixed: BTreeSet<String>,
}

impl SyncHealth {
    /// Before the first sync.
    pub fn new() -> SyncHealth {
        SyncHealth {
            synced: None,
            failure: None,
            syncing: None,
            took: Duration::ZERO,
            stalled: None,
            has_left: false,
            logged: (false, Instant::now()),
            is_first: true,
            is_clock_off: false,
            mixed: BTreeSet::new(),
        }
    }

    /// A sync is sent.
    pub fn sync_began(&mut self) {
        self.syncing = Some(Instant::now());
    }

    /// The sync has ended.
    pub fn sync_ended(&mut self, failure: Option<&StoreError>, lease: Duration) {
        let took = self.syncing.take().map_or(Duration::ZERO, |began| began.elapsed());
        // This process keeps the time limit: if it was exceeded by much, the process stood still.
        let is_stall = matches!(failure, Some(StoreError::Timeout(limit)) if took > *limit + lease / 4);
        if is_stall {
            self.stalled = Some(Instant::now());
        }
        self.took = took;
        self.failure = failure.cloned().filter(|_| !is_stall);
    }

    /// A wait of at most `planned` took this long.
    pub fn waited(&mut self, took: Duration, planned: Duration, lease: Duration) {
        if took > planned + lease / 4 {
            self.stalled = Some(Instant::now());
        }
    }

    /// Why no sync was made in time although none failed.
    fn late(&self, lease: Duration) -> NoLease {
        match (self.stalled, self.syncing) {
            (Some(stalled), _) if stalled.elapsed() < lease => NoLease::Late,
            (_, Some(since)) => NoLease::NoAnswer(since.elapsed()),
            // Redis answers so slowly that the lease is over before the next sync.
            _ if self.took > lease / 4 => NoLease::NoAnswer(self.took),
            _ => NoLease::Late,
        }
    }
}

impl Fleet {
    /// The status now.
    pub fn status(&self) -> FleetStatus {
        let (is_well, no_lease) = (self.is_well(), self.no_lease());
        let health = self.health();
        FleetStatus {
            id: self.id.clone(),
            coherence: self.settings.mode,
            lease: self.settings.lease,
            no_lease: (!is_well).then_some(no_lease),
            since: health.logged.1.elapsed(),
            applied: (self.serves_memory() && health.synced.is_some()).then(|| self.marks.stamp()),
            epoch: health.synced.as_ref().map(|(state, _)| state.clone()),
            synced: health.synced.as_ref().map(|(_, at)| at.elapsed()),
            longest_lease: self.longest_lease(),
            store_clock_ahead: self.marks.clock.ahead(),
        }
    }

    /// An invalidation has failed.
    pub fn note_failure(&self, error: &StoreError) {
        self.health().failure = Some(error.clone());
    }

    pub(super) fn health(&self) -> MutexGuard<'_, SyncHealth> {
        lock(&self.health)
    }

    /// Whether this proxy serves what it does when all is well: L1 without asking, or in strict mode what Redis has.
    fn is_well(&self) -> bool {
        match self.settings.mode {
            Coherence::Strict => self.is_synced() && self.gate.is_open(),
            Coherence::Lease | Coherence::Eventual => self.holds_lease(),
        }
    }

    /// Why there is no lease, if there is none.
    fn no_lease(&self) -> NoLease {
        let awaited = self.gate.awaited();
        let is_of_other_epoch = self.is_of_other_epoch();
        let health = self.health();
        match (&health.failure, awaited) {
            _ if health.has_left => NoLease::Left,
            (Some(StoreError::Unreplicated { reason, .. }), _) => NoLease::ReplicasMissing(reason.clone()),
            (Some(error), _) => NoLease::StoreAway(error.to_string()),
            _ if is_of_other_epoch => NoLease::OtherEpoch,
            _ if health.synced.is_none() => NoLease::NeverSynced,
            (None, Some(awaited)) => NoLease::Returning(awaited.into_iter().map(|holder| holder.id).collect()),
            (None, None) => health.late(self.settings.lease),
        }
    }

    /// Logs when the lease has ended or is there again, whatever holds up the syncs.
    pub(super) async fn watch_lease(&self) {
        let pause = self.settings.lease / 4;
        while !self.health().has_left {
            let begun = Instant::now();
            tokio::time::sleep(pause).await;
            self.health().waited(begun.elapsed(), pause, self.settings.lease);
            self.log_lease_change();
        }
    }

    /// Logs, once, that the lease was lost or is there again.
    pub(super) fn log_lease_change(&self) {
        let (is_well, no_lease) = (self.is_well(), self.no_lease());
        let mut health = self.health();
        let (was_well, since) = health.logged;
        if health.is_first && !is_well && since.elapsed() > self.settings.lease {
            health.is_first = false;
            tracing::warn!(proxy = &*self.id, reason = no_lease.label(), "there is no lease yet: {no_lease}");
        }
        if is_well == was_well {
            return;
        }
        health.is_first = false;
        health.logged = (is_well, Instant::now());
        drop(health);
        let lasted = humantime::format_duration(Duration::from_millis(since.elapsed().as_millis() as u64));
        match is_well {
            true => tracing::info!(proxy = &*self.id, after = %lasted, "the lease is held"),
            false if no_lease == NoLease::Left => tracing::info!(proxy = &*self.id, "left the fleet"),
            false => {
                let reason = no_lease.label();
                self.metrics.lease_lost(reason);
                tracing::warn!(proxy = &*self.id, reason, held = %lasted, "the lease is lost: {no_lease}");
            }
        }
    }

    /// Logs, once, that the clock of this machine is wrong, or right again.
    pub(super) fn log_clock_difference(&self) {
        let clock = &self.marks.clock;
        let (ahead, is_off) = (clock.ahead().saturating_neg() as f64 / 1e6, clock.is_off());
        self.metrics.clock_ahead.set(ahead);
        let was_off = std::mem::replace(&mut self.health().is_clock_off, is_off);
        match (was_off, is_off) {
            (false, true) => tracing::warn!(
                ahead_seconds = ahead,
                "the clock of this machine differs from that of Redis by more than a second; ages are counted by that of Redis. Set it right (NTP)"
            ),
            (true, false) => tracing::info!("the clock of this machine agrees with that of Redis again"),
            _ => {}
        }
    }
}
