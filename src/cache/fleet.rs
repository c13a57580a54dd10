//! The lease under which L1 is served without asking the store, and what keeps it (DESIGN §5).
//!
//! A proxy that holds a lease knows every invalidation that any write has been acknowledged with: who invalidates
//! waits until each member of the fleet has said that it has applied it, or until that member's lease has passed.
//! Messages only make this prompt. What it rests on:
//!
//! - the lease runs from the time a sync was *sent*, by this process's own clock, and begins when its reply has been
//!   applied to the marks;
//! - the marks of this proxy's own writes are in its copy before they are acknowledged, lease or not;
//! - a member is forgotten only when it says so, or when somebody has waited a whole lease of it in vain and it has not
//!   synced meanwhile;
//! - in a new epoch, members may have been lost: for one lease nobody's write is acknowledged early.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::memory::Memory;
use crate::config::Coherence;
use crate::metrics::Metrics;
use crate::stamp::{Sequence, Softened, Stamp, Tag, Taken};
use crate::store::fleet::{Cause, Holder, Intent, Invalidated, Membership, Message, Synced};
use crate::store::{Store, StoreError};

/// How many acknowledgements are remembered: more proxies than anybody runs.
const MEMBERS: usize = 10_000;

/// This proxy among the others.
pub struct Fleet {
    id: Box<str>,
    mode: Coherence,
    lease: Duration,
    start: Instant,
    /// End of the lease, in nanoseconds after `start`.
    until: AtomicU64,
    /// What others have acknowledged.
    heard: watch::Sender<HashMap<Box<str>, Stamp>>,
    /// A sync is wanted before its time.
    wanted: Notify,
    /// How far the copy of the marks goes and of which epoch it is belong together, and are said under this lock. Holds the
    /// latest invalidation of this proxy's own that was of another epoch than the copy.
    foreign: Mutex<Option<Stamp>>,
    /// Held while a sync is under way; true once this proxy has left.
    left: tokio::sync::Mutex<bool>,
    /// Absent members are being waited for although no write waits.
    sweeping: AtomicBool,
    /// Since when the store has not answered.
    away: Mutex<Option<Instant>>,
}

impl Fleet {
    /// A proxy that is not a member yet. `lease`: how long it may serve L1 after a sync.
    pub fn new(mode: Coherence, lease: Duration) -> Fleet {
        let id = format!("{:016x}", rand::random::<u64>()).into();
        let (heard, wanted) = (watch::Sender::new(HashMap::new()), Notify::new());
        Fleet {
            id,
            mode,
            lease,
            start: Instant::now(),
            until: AtomicU64::new(0),
            heard,
            wanted,
            foreign: Mutex::default(),
            left: tokio::sync::Mutex::default(),
            sweeping: AtomicBool::new(false),
            away: Mutex::default(),
        }
    }

    /// How long it may serve L1 after a sync.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Whether L1 may be served without asking.
    pub fn holds(&self) -> bool {
        let until = self.until.load(SeqCst);
        until != 0 && self.nanos(Instant::now()) < until
    }

    fn nanos(&self, time: Instant) -> u64 {
        u64::try_from(time.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Ends the lease: something is known that the marks do not show.
    fn give_up(&self) {
        self.until.store(0, SeqCst);
    }

    /// What an invalidation of this proxy's own is known by.
    pub fn cause<'a>(&'a self, intent: Option<&'a str>) -> Cause<'a> {
        Cause { by: &self.id, intent, ..Cause::default() }
    }

    /// Puts the marks of an invalidation of this proxy's own into its copy. To be done before anybody is told. `sent`: before
    /// the store began the graces of what was softened.
    pub fn learn(&self, memory: &Memory, tags: &[Tag], softened: &[Softened], sent: Instant, taken: Taken) {
        let mut foreign = self.lock();
        // Before the stamp says that they are there.
        if memory.marks.stamp().epoch == taken.stamp.epoch {
            memory.soften(softened.iter().map(|softened| (softened, taken.stamp.sequence)), sent);
        }
        if !follow(memory, taken.stamp, taken.previous, tags) {
            // The next sync begins the epoch. Until then nothing in memory is trusted, and the sync that begins it may have
            // been answered before this.
            let known = foreign.filter(|known| known.epoch == taken.stamp.epoch).map_or(0, |known| known.sequence);
            *foreign = Some(Stamp { sequence: taken.stamp.sequence.max(known), ..taken.stamp });
            self.give_up();
        }
        drop(foreign);
        self.want();
    }

    /// Asks for a sync before its time; one that is no member has nothing to acknowledge.
    fn want(&self) {
        if self.mode != Coherence::Strict {
            self.wanted.notify_one();
        }
    }

    /// Takes in what a sync has brought, and with it the lease, which runs from the time of `sending`: whoever waits counts
    /// from a later one. False if the answer is void.
    fn take(&self, memory: &Memory, synced: &Synced, sending: Sending) -> bool {
        let mut foreign = self.lock();
        let is_other = |foreign: &Stamp| foreign.epoch != synced.stamp.epoch;
        if foreign.as_ref().is_some_and(is_other) && *foreign != sending.foreign {
            // Of these two epochs nobody can tell the later one.
            return false;
        }
        let marks = &memory.marks;
        if synced.stamp.epoch != marks.stamp().epoch {
            marks.begin(synced.stamp);
        } else if let Some(news) = &synced.marks {
            marks.apply(news.iter().map(|(tag, sequence)| (tag, *sequence)));
            memory.soften(synced.softened.iter().map(|(softened, sequence)| (softened, *sequence)), sending.at);
            marks.applied(synced.stamp.sequence);
        } else {
            marks.raise_floor(synced.stamp.sequence);
        }
        if let Some(own) = foreign.take().filter(|own| own.epoch == synced.stamp.epoch) {
            marks.distrust(own.sequence);
        }
        // A little less than whoever waits counts: clocks do not run alike.
        self.until.store(self.nanos(sending.at + self.lease - self.lease / 100), SeqCst);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stamp>> {
        // A value that is changed in one step.
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has not answered. Gives the time from which on no other proxy holds a lease, if it is away for all.
    pub fn note_away(&self) -> Instant {
        *self.away_since().get_or_insert_with(Instant::now) + self.lease
    }

    fn away_since(&self) -> MutexGuard<'_, Option<Instant>> {
        // A value that is changed in one step.
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no member can serve what an invalidation has outdated: each has acknowledged it, or its lease is over.
    pub async fn settle(
        self: &Arc<Fleet>,
        store: &Arc<dyn Store>,
        invalidated: Invalidated,
        metrics: &Arc<Metrics>,
    ) {
        if self.mode != Coherence::Eventual {
            return self.wait(store, &invalidated, metrics).await;
        }
        // Somebody has to find out who is gone, or members would add up.
        if !invalidated.holders.is_empty() && !self.sweeping.swap(true, SeqCst) {
            let (fleet, store, metrics) = (Arc::clone(self), Arc::clone(store), Arc::clone(metrics));
            tokio::spawn(async move {
                fleet.wait(&store, &invalidated, &metrics).await;
                fleet.sweeping.store(false, SeqCst);
            });
        }
    }

    async fn wait(&self, store: &Arc<dyn Store>, invalidated: &Invalidated, metrics: &Metrics) {
        let replied = Instant::now();
        let stamp = invalidated.taken.stamp;
        let mut heard = self.heard.subscribe();
        for holder in invalidated.holders.iter().filter(|holder| *holder.id != *self.id) {
            let is_told = |heard: &HashMap<Box<str>, Stamp>| has_applied(heard.get(&holder.id), stamp);
            if timeout_at(replied + holder.lease, heard.wait_for(is_told)).await.is_err() {
                Fleet::expel(store, holder, metrics).await;
            }
        }
        // A member that the new epoch does not know of holds its lease no longer than this.
        if let Some(young) = self.lease.checked_sub(invalidated.epoch_age) {
            tokio::time::sleep_until(replied + young).await;
        }
    }

    async fn expel(store: &Arc<dyn Store>, holder: &Holder, metrics: &Metrics) {
        // Otherwise it has synced meanwhile (its acknowledgement was lost), or the store is away.
        if let Ok(true) = store.expel(holder).await {
            tracing::warn!(member = &*holder.id, "a proxy of the fleet is gone; writes wait for it no longer");
            metrics.members_expelled.inc();
        }
    }

    /// Keeps the lease for as long as the process lives.
    pub async fn keep(self: Arc<Fleet>, store: Arc<dyn Store>, memory: Arc<Memory>, metrics: Arc<Metrics>) {
        let member = async {
            loop {
                match self.sync(&store, &memory, &metrics).await {
                    // What came is to be acknowledged at once: somebody may be waiting.
                    Ok(Progress::News) => continue,
                    Ok(Progress::Nothing) => {}
                    Ok(Progress::Left) => return,
                    Err(_) => {
                        self.note_away();
                        metrics.store_error("sync");
                    }
                }
                let _ = tokio::time::timeout(self.lease / 4, self.wanted.notified()).await;
            }
        };
        tokio::join!(member, self.listen(&store, (self.mode != Coherence::Strict).then_some(&*memory)));
    }

    /// Leaves for good: no lease from now on, and nobody has to wait for this proxy.
    pub async fn leave(&self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        // A sync under way would make it a member again, and bring a lease.
        let mut left = self.left.lock().await;
        *left = true;
        self.give_up();
        store.leave(&self.id).await
    }

    /// One sync.
    async fn sync(
        &self,
        store: &Arc<dyn Store>,
        memory: &Memory,
        metrics: &Metrics,
    ) -> Result<Progress, StoreError> {
        let left = self.left.lock().await;
        if *left {
            return Ok(Progress::Left);
        }
        let known = memory.marks.stamp();
        let sending = Sending { at: Instant::now(), foreign: *self.lock() };
        let is_member = self.mode != Coherence::Strict;
        let id = if is_member { self.id.clone() } else { Box::default() };
        let me = Membership { id, applied: Some(known).filter(|_| is_member), lease: self.lease };
        let synced = store.sync(&me).await?;
        metrics.synced(sending.at.elapsed());
        *self.away_since() = None;
        let is_void = is_member && !self.take(memory, &synced, sending);
        drop(left);
        for intent in &synced.due {
            let sent = Instant::now();
            let invalidated = store.invalidate(&intent.tags, &self.cause(Some(&intent.id))).await?;
            self.learn(memory, &intent.tags, &[], sent, invalidated.taken);
            report(intent, metrics);
        }
        let is_news = is_member && (is_void || synced.stamp != known);
        Ok(if is_news { Progress::News } else { Progress::Nothing })
    }

    /// Takes in what others say.
    async fn listen(&self, store: &Arc<dyn Store>, memory: Option<&Memory>) {
        let mut messages = store.messages();
        loop {
            match messages.recv().await {
                Ok(Message::Applied { id, stamp }) => self.note(id, stamp),
                Ok(Message::Nudge { by, stamp, previous, tags }) if by != self.id => {
                    if let (Some(memory), Some(tags)) = (memory, tags) {
                        let _foreign = self.lock();
                        follow(memory, stamp, previous, &tags);
                    }
                    self.want();
                }
                Ok(Message::Nudge { .. }) => {}
                Err(RecvError::Lagged(_)) => self.want(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn note(&self, id: Box<str>, stamp: Stamp) {
        self.heard.send_modify(|heard| {
            if heard.len() >= MEMBERS {
                heard.clear();
            }
            heard.insert(id, stamp);
        });
    }
}

/// Tells of an intent that was carried out.
fn report(intent: &Intent, metrics: &Metrics) {
    let tags = intent.tags.len();
    if intent.is_repetition() {
        tracing::debug!(tags, "an invalidation was repeated (again)");
        metrics.invalidations_repeated.inc();
        return;
    }
    tracing::warn!(tags, "a write was left unfinished by its proxy; what it outdates is outdated now");
    metrics.intents_carried_out.inc();
}

/// What came of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Something that is not acknowledged yet.
    News,
    Nothing,
    /// This proxy has left.
    Left,
}

/// A sync on its way.
#[derive(Debug, Clone, Copy)]
struct Sending {
    at: Instant,
    /// [`Fleet::foreign`] then.
    foreign: Option<Stamp>,
}

/// Puts the marks of one invalidation into the copy; it holds all up to it if they follow on what was applied. False if
/// they are of another epoch.
fn follow(memory: &Memory, stamp: Stamp, previous: Sequence, tags: &[Tag]) -> bool {
    let known = memory.marks.stamp();
    if known.epoch != stamp.epoch {
        return false;
    }
    memory.marks.apply(tags.iter().map(|tag| (tag, stamp.sequence)));
    if known.sequence == previous {
        memory.marks.applied(stamp.sequence);
    }
    true
}

fn has_applied(known: Option<&Stamp>, stamp: Stamp) -> bool {
    known.is_some_and(|known| known.epoch == stamp.epoch && known.sequence >= stamp.sequence)
}
