//! Syncs, and the lease that each of them brings.
//!
//! A sync tells Redis which invalidations this proxy has applied, and brings those that it lacks. When they are in its copy of the
//! marks, its lease begins, counted from the time when the sync was *sent*: a writer that waits for that lease counts from a
//! later time. A sync is sent four times within a lease, at once when a message announces an invalidation, and twenty times
//! within a lease while the recovery gate is closed or this proxy's rules are not settled.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::lease::{Lease, Moment};
use super::{Fleet, lock};
use crate::marks::{Epoch, IssuedStamp, Sequence, SoftInvalidation, Stamp, Tag};
use crate::store::fleet::{Generation, Membership, Synced};
use crate::store::{Link, StoreError};

/// What this proxy has from its syncs.
#[derive(Debug, Default)]
pub(super) struct SyncState {
    /// For L1.
    pub lease: Lease,
    /// The epoch of the last sync, and until when Redis may be trusted in it.
    proven: Mutex<Option<(Epoch, Moment)>>,
    /// The generation in the last reply.
    seen: Mutex<Option<Generation>>,
    /// A sync is wanted before its time.
    pub wanted: Notify,
    /// The latest invalidation of this proxy's own that was of another epoch than its copy of the marks. The copy's epoch and
    /// extent change under this lock only.
    foreign: Mutex<Option<Stamp>>,
    /// Held while a sync is under way; true once this proxy has left.
    left: tokio::sync::Mutex<bool>,
}

/// The result of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SyncOutcome {
    /// It brought something that this proxy has not acknowledged yet.
    News,
    Nothing,
    /// This proxy has left.
    Left,
}

/// How an invalidation relates to this proxy's copy of the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Followed {
    /// It was the next one: the copy extends to it.
    Next,
    /// It was not: the copy may lack some before it, or have more already.
    NotNext,
    /// Its epoch is not that of the copy, which did not take it.
    OtherEpoch,
}

/// A sync that is under way.
#[derive(Debug, Clone, Copy)]
struct Sending {
    at: Moment,
    /// [`SyncState::foreign`] at that time.
    foreign: Option<Stamp>,
}

impl Sending {
    /// The end of the lease that it brings. A little less than what a waiting writer counts: clocks do not run alike.
    fn end(&self, lease: Duration) -> Moment {
        self.at.after(lease - lease / 100)
    }
}

impl Fleet {
    /// Requests a sync before its time. In strict mode a proxy has no copy of the marks to update.
    pub fn request_sync(&self) {
        if self.serves_memory() {
            self.sync.wanted.notify_one();
        }
    }

    /// Leaves for good: no lease from now on, and no write waits for this proxy.
    pub async fn leave(&self) -> Result<(), StoreError> {
        // A sync under way would make it a member again, and bring a lease.
        let mut left = self.sync.left.lock().await;
        *left = true;
        self.health().has_left = true;
        self.sync.lease.end();
        *lock(&self.sync.proven) = None;
        self.store.leave(&self.id).await
    }

    /// Syncs until this proxy has left.
    pub(super) async fn renew(&self) {
        let lease = self.settings.lease;
        let mut link = self.store.changes();
        loop {
            // A sync says that this proxy has nothing undelivered.
            if self.pending.has_undelivered() && !self.health().has_left {
                self.close_gate();
                self.log_lease_change();
                let _ = timeout(lease / 4, self.sync.wanted.notified()).await;
                continue;
            }
            let synced = self.sync().await;
            self.health().sync_ended(synced.as_ref().err(), lease);
            self.log_lease_change();
            match synced {
                // It is to be acknowledged at once: a write may be waiting.
                Ok(SyncOutcome::News) => continue,
                Ok(SyncOutcome::Nothing) => {}
                Ok(SyncOutcome::Left) => return,
                Err(error) => {
                    if !matches!(error, StoreError::Unreplicated { .. }) {
                        self.close_gate();
                    }
                    self.metrics.store_error("sync");
                }
            }
            // Messages that other members have returned may be lost.
            let is_waiting = !self.gate.is_open() || !self.agreement.is_settled();
            let pause = if is_waiting { lease / 20 } else { lease / 4 };
            let begun = Instant::now();
            let _ = timeout(pause, self.reason_to_sync(&mut link)).await;
            self.health().waited(begun.elapsed(), pause, lease);
        }
    }

    /// A sync is wanted, or Redis is back.
    async fn reason_to_sync(&self, link: &mut watch::Receiver<Link>) {
        let is_back = async {
            if link.changed().await.is_err() || *link.borrow() != Link::Up {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // Either is followed by a sync: the order matters only to simulations, which have to be repeatable.
            biased;
            () = self.sync.wanted.notified() => {}
            () = is_back => {}
        }
    }

    async fn sync(&self) -> Result<SyncOutcome, StoreError> {
        let left = self.sync.left.lock().await;
        if *left {
            return Ok(SyncOutcome::Left);
        }
        let (clocks, lease) = (&self.settings.clocks, self.settings.lease);
        let applied = self.marks.stamp();
        let sending = Sending { at: clocks.now(), foreign: *self.foreign() };
        self.close_gate_if_lapsed(sending.at);
        let serves_memory = self.serves_memory();
        let me = Membership {
            id: self.id.clone(),
            applied: Some(applied).filter(|_| serves_memory),
            lease: if serves_memory || self.settings.needs_proof { lease } else { Duration::ZERO },
            serves_memory,
            period: lease,
            seen: *lock(&self.sync.seen),
            asks_who_is_behind: !self.gate.is_open(),
            registration: self.agreement.registration(),
        };
        self.health().sync_began();
        let synced = self.store.sync(&me).await?;
        self.metrics.synced(sending.at.steady.elapsed());
        self.marks.clock.observe(sending.at.wall, clocks.now().wall, synced.clock);
        self.log_clock_difference();
        // In an outage that ended just now the sync was held up, too.
        self.close_gate_if_lapsed(clocks.now());
        *lock(&self.sync.seen) = Some(synced.generation);
        // Before anything may be trusted because of this reply.
        self.agreement.forward_untrusted(&synced.registry);
        self.note_epoch(&synced, sending);
        let is_void = serves_memory && !self.apply_sync(&synced, sending);
        drop(left);
        if !is_void && me.asks_who_is_behind {
            self.check_gate(&synced).await?;
        }
        if !is_void {
            self.take_in_registry(&me.registration, &synced).await?;
        }
        let is_news = me.registration.learned != synced.registry.revision
            || me.seen != Some(synced.generation)
            || serves_memory && (is_void || synced.stamp != applied);
        self.intents.add(synced.due);
        Ok(if is_news { SyncOutcome::News } else { SyncOutcome::Nothing })
    }

    /// Takes in what a reply says of the epoch.
    fn note_epoch(&self, synced: &Synced, sending: Sending) {
        let state = &synced.state;
        *lock(&self.sync.proven) = Some((synced.stamp.epoch, sending.end(self.settings.lease)));
        self.learn_epoch(synced.stamp.epoch, state.age, state.longest_lease, Some(&state.cause));
        self.metrics.marks_kept(state.marks, state.floor_age);
        self.health().synced = Some((state.clone(), Instant::now()));
        if state.longest_lease > self.settings.lease {
            self.warn_of_lease(state.longest_lease);
        }
    }

    /// Applies the reply to the copy of the marks, and begins the lease that it brings. False if the reply is void.
    fn apply_sync(&self, synced: &Synced, sending: Sending) -> bool {
        let mut foreign = self.foreign();
        let is_other = |foreign: &Stamp| foreign.epoch != synced.stamp.epoch;
        if foreign.as_ref().is_some_and(is_other) && *foreign != sending.foreign {
            // Of these two epochs either may be the later one.
            return false;
        }
        let marks = &self.marks;
        if synced.stamp.epoch != marks.stamp().epoch {
            marks.begin(synced.stamp);
        } else if let Some(news) = &synced.marks {
            marks.apply(news.iter().map(|(tag, sequence)| (tag, *sequence)));
            marks.soft_invalidate(synced.soft.iter().map(|(soft, sequence)| (soft, *sequence)), sending.at.steady);
            marks.applied(synced.stamp.sequence);
        } else {
            marks.raise_floor(synced.stamp.sequence);
        }
        if let Some(own) = foreign.take().filter(|own| own.epoch == synced.stamp.epoch) {
            marks.distrust(own.sequence);
        }
        self.sync.lease.begin(sending.end(self.settings.lease));
        true
    }

    /// Applies an invalidation of this proxy's own to the copy of the marks. `sent`: a time before Redis began the graces of
    /// `soft`.
    pub(super) fn apply_own(&self, tags: &[Tag], soft: &[SoftInvalidation], sent: Instant, taken: IssuedStamp) {
        let mut foreign = self.foreign();
        // Before the copy's stamp says that they are in it.
        if self.marks.stamp().epoch == taken.stamp.epoch {
            self.marks.soft_invalidate(soft.iter().map(|soft| (soft, taken.stamp.sequence)), sent);
        }
        let followed = self.follow(taken.stamp, taken.previous, tags);
        if followed == Followed::OtherEpoch {
            // The next sync begins the epoch, and its reply may have been sent before this. Until then nothing in memory
            // is trusted.
            let known = foreign.filter(|known| known.epoch == taken.stamp.epoch).map_or(0, |known| known.sequence);
            *foreign = Some(Stamp { sequence: taken.stamp.sequence.max(known), ..taken.stamp });
            self.sync.lease.end();
        }
        drop(foreign);
        // Otherwise the copy is complete, and a sync would bring nothing.
        if followed != Followed::Next {
            self.request_sync();
        }
    }

    /// Applies an invalidation that a message has announced.
    pub(super) fn apply_nudge(&self, stamp: Stamp, previous: Sequence, tags: &[Tag]) {
        let _foreign = self.foreign();
        self.follow(stamp, previous, tags);
    }

    /// Puts the marks of one invalidation into the copy. If it follows directly on the last one there, the copy extends to it.
    fn follow(&self, stamp: Stamp, previous: Sequence, tags: &[Tag]) -> Followed {
        let applied = self.marks.stamp();
        if applied.epoch != stamp.epoch {
            return Followed::OtherEpoch;
        }
        self.marks.apply(tags.iter().map(|tag| (tag, stamp.sequence)));
        if applied.sequence != previous {
            return Followed::NotNext;
        }
        self.marks.applied(stamp.sequence);
        Followed::Next
    }

    /// Whether the last sync has proved, recently enough, that Redis may be trusted in this epoch.
    pub(super) fn is_proven(&self, epoch: Epoch) -> bool {
        let proven = *lock(&self.sync.proven);
        // Without replicas to wait for, a new epoch is trusted as it comes.
        let is_of = |of| of == epoch || !self.settings.needs_proof;
        proven.is_some_and(|(of, end)| is_of(of) && self.settings.clocks.now().is_before(end))
    }

    /// Whether the last sync still counts.
    pub(super) fn is_synced(&self) -> bool {
        lock(&self.sync.proven).is_some_and(|(_, end)| self.settings.clocks.now().is_before(end))
    }

    /// Whether a reply has brought this generation.
    pub(super) fn has_seen(&self, generation: Generation) -> bool {
        lock(&self.sync.seen).is_some_and(|seen| seen.covers(generation))
    }

    fn close_gate(&self) {
        let seen = *lock(&self.sync.seen);
        self.gate.close(seen);
    }

    /// Closes the gate where there was no sync for a whole lease: an outage may have passed unnoticed.
    fn close_gate_if_lapsed(&self, now: Moment) {
        if lock(&self.sync.proven).is_some_and(|(_, end)| !now.is_before(end)) {
            self.close_gate();
        }
    }

    /// Whether this proxy has invalidated in an epoch that its copy of the marks is not of.
    pub(super) fn is_of_other_epoch(&self) -> bool {
        self.foreign().is_some()
    }

    fn foreign(&self) -> MutexGuard<'_, Option<Stamp>> {
        lock(&self.sync.foreign)
    }
}
