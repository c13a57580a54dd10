//! This proxy as a member of the fleet: it renews its lease (`sync`), waits for other members after an invalidation
//! (`settle`), carries out abandoned write intents (`intents`), distrusts Redis after an outage ([`recovery`]), agrees with the
//! others on the rules ([`mixed`]), and reports its status ([`status`]). [`crate::coherence`] has the argument why this is correct.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::local_marks::LocalMarks;
use super::pending::PendingInvalidations;
use crate::config::Coherence;
use crate::marks::{Epoch, Tag};
use crate::metrics::Metrics;
use crate::rules::digest::RulesDigest;
use crate::store::fleet::{Cause, Invalidated, Message};
use crate::store::{Store, StoreError};
use crate::upkeep::bypasses::Bypasses;
use crate::upkeep::invalidation_log::{InvalidationLog, Why};

mod epoch;
mod intents;
pub mod lease;
pub mod mixed;
pub mod recovery;
mod settle;
pub mod status;
mod sync;

use epoch::EpochAge;
use intents::DueIntents;
use lease::Clocks;
use mixed::RulesAgreement;
use recovery::{Opening, RecoveryGate};
use settle::{AbsentMembers, Acknowledgements};
use status::SyncHealth;
use sync::SyncState;

/// The time in which a proxy that can reach Redis connects again, not counting time limits: more than the longest pause between
/// two attempts.
const RECONNECT: Duration = Duration::from_millis(500);

/// How a proxy takes part in its fleet.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    mode: Coherence,
    /// How long this proxy may serve L1 after a sync.
    lease: Duration,
    /// Redis may have been deposed as primary, and counts only while its replicas have this proxy's last sync.
    needs_proof: bool,
    /// Within this time of its return every proxy that can reach Redis has synced.
    return_timeout: Duration,
    clocks: Clocks,
    /// The rules that this proxy follows at first.
    rules: RulesDigest,
}

impl FleetSettings {
    /// Without replicas or time limits.
    pub fn new(mode: Coherence, lease: Duration) -> FleetSettings {
        FleetSettings {
            mode,
            lease,
            needs_proof: false,
            return_timeout: lease + RECONNECT,
            clocks: Clocks::System,
            rules: RulesDigest::default(),
        }
    }

    /// The same where Redis waits for replicas: with any, no reply counts without proof that they still follow it.
    #[must_use]
    pub fn with_replicas(self, wait_replicas: u64) -> FleetSettings {
        FleetSettings { needs_proof: wait_replicas > 0, ..self }
    }

    /// The same with these time limits of Redis: to connect, and of a request.
    #[must_use]
    pub fn with_limits(self, connect: Duration, request: Duration) -> FleetSettings {
        FleetSettings { return_timeout: self.lease + RECONNECT + connect + request, ..self }
    }

    /// The same for a proxy that follows these rules.
    #[must_use]
    pub fn with_rules(self, rules: RulesDigest) -> FleetSettings {
        FleetSettings { rules, ..self }
    }

    /// The same with another wall clock than the system's.
    #[must_use]
    pub fn with_wall_clock(self, wall: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> FleetSettings {
        FleetSettings { clocks: Clocks::Given(wall), ..self }
    }
}

/// This proxy among the others.
pub struct Fleet {
    id: Box<str>,
    settings: FleetSettings,
    store: Arc<dyn Store>,
    marks: Arc<LocalMarks>,
    pending: Arc<PendingInvalidations>,
    metrics: Arc<Metrics>,
    log: Arc<InvalidationLog>,
    sync: SyncState,
    gate: RecoveryGate,
    epoch: Mutex<EpochAge>,
    acknowledgements: Acknowledgements,
    absent: AbsentMembers,
    intents: DueIntents,
    agreement: RulesAgreement,
    health: Mutex<SyncHealth>,
}

impl Fleet {
    /// A proxy that is not a member yet; [`Fleet::run`] makes it one. `marks`: its copy of those in Redis. `forwarded`: gets the
    /// families that are forwarded in the fleet.
    pub fn new(
        settings: FleetSettings,
        store: Arc<dyn Store>,
        marks: Arc<LocalMarks>,
        pending: Arc<PendingInvalidations>,
        metrics: Arc<Metrics>,
        log: Arc<InvalidationLog>,
        forwarded: Arc<Bypasses>,
    ) -> Fleet {
        let id = format!("{:016x}", rand::random::<u64>());
        log.set_proxy(&id);
        Fleet {
            id: id.into(),
            sync: SyncState::default(),
            gate: RecoveryGate::new(settings.return_timeout),
            epoch: Mutex::new(EpochAge::new(settings.lease)),
            acknowledgements: Acknowledgements::default(),
            absent: AbsentMembers::default(),
            intents: DueIntents::default(),
            agreement: RulesAgreement::new(settings.rules.clone(), forwarded),
            health: Mutex::new(SyncHealth::new()),
            settings,
            store,
            marks,
            pending,
            metrics,
            log,
        }
    }

    /// The id of this proxy, unique in the fleet and in time.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The Redis of the fleet.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Renews the lease and does the work of a member, until this proxy leaves.
    pub async fn run(self: Arc<Fleet>) {
        tokio::join!(
            self.renew(),
            self.listen(),
            self.carry_out_intents(),
            self.remove_absent_members(),
            self.watch_lease(),
        );
    }

    /// Whether L1 may be served without asking Redis.
    pub fn holds_lease(&self) -> bool {
        self.gate.is_open() && self.sync.lease.runs_at(self.settings.clocks.now())
    }

    /// Whether Redis may be asked at all: this proxy has delivered everything, and so have the others.
    pub fn may_ask(&self) -> bool {
        !self.pending.has_undelivered() && self.gate.is_open()
    }

    /// To be read before Redis is asked, for [`Fleet::trusts`].
    pub fn opening(&self) -> Opening {
        self.gate.opening()
    }

    /// Whether a reply of Redis in this epoch may be trusted. `asked`: [`Fleet::opening`] before Redis was asked. A question from
    /// before an outage may be answered after it.
    pub fn trusts(&self, epoch: Epoch, asked: Opening) -> bool {
        asked.is_some() && self.opening() == asked && self.is_proven(epoch)
    }

    /// Waits until stored responses may be trusted.
    pub async fn opened(&self) {
        self.gate.opened().await;
    }

    /// Invalidates in Redis, then in this proxy's copy of the marks: so that both have it before the write is acknowledged. `cause`
    /// need not name this proxy.
    pub async fn invalidate(&self, tags: &[Tag], cause: Cause<'_>) -> Result<Invalidated, StoreError> {
        let sent = Instant::now();
        let reply = self.store.invalidate(tags, &Cause { by: &self.id, ..cause }).await;
        match &reply {
            Ok(invalidated) => self.apply_own(tags, cause.soft, sent, invalidated.taken),
            Err(StoreError::Unreplicated { taken: Some(taken), .. }) => {
                // It may be lost again, and counts as a hard one until it is delivered.
                let tags: Vec<Tag> = tags.iter().chain(cause.soft.iter().map(|soft| &soft.tag)).cloned().collect();
                self.apply_own(&tags, &[], sent, *taken);
            }
            Err(_) => {}
        }
        reply
    }

    /// The same, with a record in the log. For invalidations that no request waits for.
    async fn invalidate_for(&self, why: impl Into<Why>, tags: &[Tag], cause: Cause<'_>) -> Result<(), StoreError> {
        let record = self.log.record(why.into(), tags, cause.soft);
        let text = record.text();
        let reply = self.invalidate(tags, Cause { record: &text, ..cause }).await;
        let taken = match &reply {
            Ok(Invalidated { taken, .. }) | Err(StoreError::Unreplicated { taken: Some(taken), .. }) => {
                Some(*taken)
            }
            Err(_) => None,
        };
        if let Some(taken) = taken {
            self.log.add(record, taken.stamp.sequence, None);
        }
        reply.map(drop)
    }

    fn serves_memory(&self) -> bool {
        self.settings.mode != Coherence::Strict
    }

    /// Handles messages of other members. Any may be lost, late or repeated: they only make prompt what syncs bring in any case.
    async fn listen(&self) {
        let mut messages = self.store.messages();
        loop {
            match messages.recv().await {
                Ok(Message::Applied { id, stamp }) => self.acknowledgements.add(id, stamp),
                Ok(Message::Nudge { by, stamp, previous, tags }) if by != self.id => {
                    if let Some(tags) = tags.filter(|_| self.serves_memory()) {
                        self.apply_nudge(stamp, previous, &tags);
                    }
                    self.request_sync();
                }
                Ok(Message::Raised(generation)) if !self.has_seen(generation) => self.sync.wanted.notify_one(),
                Ok(Message::Seen(_)) if !self.gate.is_open() => self.sync.wanted.notify_one(),
                Ok(Message::Revised(revision)) if !self.agreement.has_learned(revision) => {
                    self.sync.wanted.notify_one();
                }
                Ok(Message::Learned(_)) if !self.agreement.is_settled() => self.sync.wanted.notify_one(),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.request_sync(),
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// For values that are changed in one step, so that a panic leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
