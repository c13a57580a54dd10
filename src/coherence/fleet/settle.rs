//! How long the answer to a write waits for the other members.
//!
//! A write may be answered when no member can serve what it has invalidated: each has acknowledged the invalidation, or the
//! lease that it held then is over. A member that did not acknowledge within its whole lease is removed from those that
//! writes wait for, unless it has synced meanwhile, so that the next write does not wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::recovery::NEWCOMER_HOLD;
use super::{Fleet, lock};
use crate::config::Coherence;
use crate::marks::Stamp;
use crate::store::fleet::{Holder, Invalidated};
use crate::store::{Outage, StoreError};

/// More than the longest time between two attempts to connect that fail at once.
const REFUSALS: Duration = Duration::from_millis(300);

/// Acknowledgements that are remembered: more than any fleet has members.
const MEMBERS: usize = 10_000;

/// Members that wait to be removed; the next write finds further ones again.
const ABSENT: usize = 1024;

/// The last acknowledgement of each other member.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    applied: Mutex<HashMap<Box<str>, Stamp>>,
    /// Wakes writes in the order in which they came, as a `watch` would not.
    added: Notify,
}

/// Members whose lease passed without an acknowledgement.
#[derive(Debug)]
pub(super) struct AbsentMembers {
    /// In [`Coherence::Eventual`], where no write waits, one task at a time does, to find them.
    is_searching: AtomicBool,
    sender: mpsc::Sender<Holder>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<Holder>>,
}

impl Default for AbsentMembers {
    fn default() -> AbsentMembers {
        let (sender, receiver) = mpsc::channel(ABSENT);
        AbsentMembers { is_searching: AtomicBool::new(false), sender, receiver: tokio::sync::Mutex::new(receiver) }
    }
}

impl Acknowledgements {
    /// A member has applied everything up to this stamp.
    pub fn add(&self, id: Box<str>, stamp: Stamp) {
        let mut applied = lock(&self.applied);
        if applied.len() >= MEMBERS {
            applied.clear();
        }
        applied.insert(id, stamp);
        drop(applied);
        self.added.notify_waiters();
    }

    /// Waits until a member has applied everything up to this stamp.
    async fn covers(&self, id: &str, stamp: Stamp) {
        let mut added = std::pin::pin!(self.added.notified());
        loop {
            // From here on a notification counts, also before it is awaited.
            added.as_mut().enable();
            let applied = lock(&self.applied).get(id).copied();
            if applied.is_some_and(|applied| applied.epoch == stamp.epoch && applied.sequence >= stamp.sequence) {
                return;
            }
            added.as_mut().await;
            added.set(self.added.notified());
        }
    }
}

impl Fleet {
    /// Waits until no member can serve what an invalidation has invalidated; at most for the longest lease.
    pub async fn settle(self: &Arc<Fleet>, invalidated: Invalidated) {
        if self.settings.mode != Coherence::Eventual {
            return self.wait_for_members(&invalidated).await;
        }
        // Otherwise nothing would find absent members, and they would add up.
        if !invalidated.holders.is_empty() && !self.absent.is_searching.swap(true, SeqCst) {
            let fleet = Arc::clone(self);
            tokio::spawn(async move {
                fleet.wait_for_members(&invalidated).await;
                fleet.absent.is_searching.store(false, SeqCst);
            });
        }
    }

    /// One lease at most, however many do not acknowledge: the leases of all are counted from the same moment.
    async fn wait_for_members(&self, invalidated: &Invalidated) {
        let replied = Instant::now();
        let stamp = invalidated.taken.stamp;
        let young = self.unknown_leases(invalidated);
        for holder in invalidated.holders.iter().filter(|holder| *holder.id != *self.id) {
            let acknowledged = self.acknowledgements.covers(&holder.id, stamp);
            if timeout_at(replied + holder.lease, acknowledged).await.is_err() {
                // No write waits for its removal. If the queue is full, the next write finds it again.
                let _ = self.absent.sender.try_send(holder.clone());
            }
        }
        // A member that a new epoch has no record of holds its lease no longer than this.
        if let Some(young) = young {
            sleep_until(replied + young).await;
        }
    }

    /// Waits until no other proxy can serve what an invalidation names that Redis has not taken: Redis is away for all proxies,
    /// the leases that it gave before are over, and it was away after `begun`, when the write had been carried out.
    ///
    /// - Attempts to connect that failed without a gap between them show that no proxy has synced since the first began.
    /// - So the write lies before Redis's return. What is fetched after that shows the write, and what was stored before is not
    ///   trusted until this proxy has delivered ([`super::recovery`]).
    ///
    /// A proxy that alone is cut off from Redis cannot tell that it is.
    pub async fn outlast(&self, error: &StoreError, begun: Instant) {
        let longest = self.longest_lease();
        let synced = self.health().synced.as_ref().map(|(_, at)| *at);
        // A proxy that has not synced for long may have been removed after the timeout, and is then as unknown as one that never synced.
        let hold = |since: Instant| match synced.is_some_and(|at| at + self.settings.return_timeout >= since) {
            true => longest,
            false => longest.max(NEWCOMER_HOLD),
        };
        match error {
            // It answers, and takes no write: not from other proxies either.
            StoreError::Refused(_) | StoreError::Unreplicated { .. } => sleep_until(begun + hold(begun)).await,
            StoreError::Away(_) | StoreError::Timeout(_) => {
                let mut outage = self.store.outage();
                let is_away = |Outage { since, away_at }: &Outage| {
                    *away_at >= begun && *away_at >= *since + hold(*since) + REFUSALS
                };
                let has_lasted = outage.wait_for(|outage| outage.as_ref().is_some_and(is_away));
                // A link that comes and goes must not hold a write for ever.
                let _ = timeout_at(begun + longest.max(NEWCOMER_HOLD), has_lasted).await;
            }
        }
    }

    /// Has writes no longer wait for absent members.
    pub(super) async fn remove_absent_members(&self) {
        let mut absent = self.absent.receiver.lock().await;
        while let Some(holder) = absent.recv().await {
            // Otherwise it has synced meanwhile (its acknowledgement was lost), or Redis is away.
            if let Ok(true) = self.store.expel(&holder).await {
                tracing::warn!(
                    member = &*holder.id,
                    "a proxy of the fleet did not acknowledge an invalidation within its lease; writes no longer wait for it"
                );
                self.metrics.members_expelled.inc();
            }
        }
    }
}
