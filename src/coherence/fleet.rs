//! The lease under which L1 is served without asking the store, and what keeps it (DESIGN §5).
//!
//! A proxy that holds a lease knows every invalidation that any write has been acknowledged with: who invalidates
//! waits until each member of the fleet has said that it has applied it, or until that member's lease has passed.
//! Messages only make this prompt. What it rests on:
//!
//! - the lease runs from the time a sync was *sent*, by this process's own clocks ([`lease`]), and begins when its reply
//!   has been applied to the marks;
//! - the marks of this proxy's own writes are in its copy before they are acknowledged, lease or not;
//! - a member is forgotten only when it says so, or when somebody has waited a whole lease of it in vain and it has not
//!   synced meanwhile;
//! - while the store is away, writes may be acknowledged whose invalidations their proxies keep: when it is back nothing
//!   stored is believed before everybody has delivered (`recovery`), which a proxy does before it syncs;
//! - such a write is acknowledged when it was delivered after all, or when attempts to connect have shown that the store was away
//!   for the longest lease, and away after the write had been carried out ([`Fleet::outlast`]);
//! - in a new epoch, members may have been lost: until it is older than the longest lease of the fleet nobody's write is
//!   acknowledged early. How old it is, the store says by its own clock; a proxy that was there when it began believes
//!   no more than its own clock says.
//!
//! # Two primaries
//!
//! After a failover that part of the network does not see there are two servers that take writes: *P*, deposed, and *R*,
//! promoted. A proxy at *P* sees none of the invalidations at *R*. With `wait_replicas = N`, where N is at least half of all
//! replicas, this cannot do harm:
//!
//! - A sync counts only when N replicas have it; only then is there a lease, and only for as long are the store's own words
//!   trusted, and those of no other epoch than that sync's (in every mode; see [`Fleet::trusts`]).
//! - *R* has another `run_id`, so that an epoch begins there. A writer counts its age from the first answer in it that N
//!   replicas had. At that moment too few are left that follow *P* for any sync there to count: two sets of N out of all
//!   replicas but *R* have one in common, and it follows one server at a time. Syncs at *P* that did count were sent
//!   before, so that after the longest lease nothing is trusted at *P*, nor in the memory of those who synced there.
//! - That is when *R*'s first write is acknowledged. What is acknowledged at *P* must have been on N replicas, that is
//!   before anything was trusted at *R*, where all entries of *P*'s epoch are invalidated and whatever is fetched in the new
//!   one is fetched later.
//!
//! It rests on more than N, which tests/model shows in every order of its steps, and of which whoever arranges failovers has
//! to take care (deploy/README.md):
//!
//! - A replica never turns to a server that was promoted before the one it has followed.
//! - *P* has dropped its clients by the time it follows *R*. *R* may lack marks that N others had, and *P*, once it copies
//!   that, would tell them in an epoch in which it is still believed.
//! - *P* has another `run_id` by the time it is promoted again, or a proxy has used *R* and *P* has copied that. Otherwise *P*'s
//!   epoch would go on, without the marks that *R* lacked.
//! - No lease is made longer while a replica is cut off: once promoted it would not know of it, nor would a proxy that comes
//!   to it first.
//!
//! With N all of the replicas only the first of these remains. And `on_outage = "forward"` answers writes that were not
//! delivered, at *P* as anywhere.
//!
//! Without `wait_replicas` a store is taken at its word for as long as it answers and takes writes.
//!
//! # Commands that are executed late
//!
//! What was sent lies in buffers while the server hangs, or on the way while the network does, and is executed when that is over:
//! seconds after its sender gave up, reconnected and went on. It may be any command, in any order, for as long as the same server
//! process runs (a connection ends with it). tests/model has them in every order; `store_redis::late` in tests/suite has a test of
//! each that changes anything.
//!
//! | command | executed late |
//! |---|---|
//! | sync | Repeats the generation that its sender had read, so that after a silence it shows the sender as behind (`recovery`); takes back none that the sender has repeated since. A proxy that has left comes back: a write waits one lease, which then ends. |
//! | invalidate | Invalidates more. Its intent goes in the same step. A repetition (`again`) that it records again is put off, after an invalidation of the same tags in the same step. |
//! | record | Names a write that is over: the intent is found due and carried out, an invalidation too many. |
//! | forget | Names an intent that no other write has. |
//! | leave | Sent by a process that serves and accepts nothing any more, with nothing undelivered. |
//! | expel | Does nothing if the member has synced since. Its record stays, so that who returns from an outage awaits it. |
//! | dismiss | Does nothing if the member has synced since, if its lease may not be over, if the generation is another, or in a silence. |
//! | claim | Others wait for a fetch that is over until the claim lapses, at most `collapse_timeout`, then fetch. |
//! | release | Does nothing unless the claim is its own. |
//! | put | The entry carries the stamp that was read before its fetch: it is judged by the marks. It may take a newer entry's place. |
//! | remove, unlink | A miss. The sweeper's `unlink` removes only what begins with the bytes that were judged. |
//! | hold_sweep, store_key_stats | Nobody sweeps for some seconds; an older count is shown until the next walk. |
//! | begin, and every script that begins an epoch | Begins one only where something is missing or the server is another than that of its connection. |
//! | lookup, view | Their replies count only if the gate was opened before they were asked for and not closed since ([`Fleet::trusts`]). |

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::clock::SharedClock;
use super::undelivered::UndeliveredInvalidations;
use crate::cache::memory::Memory;
use crate::config::Coherence;
use crate::marks::{Epoch, IssuedStamp, Sequence, SoftInvalidation, Stamp, Tag};
use crate::metrics::Metrics;
use crate::store::fleet::{Cause, Generation, Holder, Intent, Invalidated, Membership, Message, Synced};
use crate::store::{Link, Outage, Store, StoreError};

pub mod lease;
mod recovery;
pub mod status;

use lease::{Clocks, Lease, Moment};
use recovery::{NEWCOMER_HOLD, RecoveryGate, Verdict};
use status::{FleetObservations, FleetStatus, NoLease};

/// More than the longest time between two attempts to connect that fail at once.
const REFUSALS: Duration = Duration::from_millis(300);

/// How many acknowledgements are remembered: more proxies than anybody runs.
const MEMBERS: usize = 10_000;

/// How many members may wait to be expelled; the next write finds the others again.
const GONE: usize = 1024;

/// The time in which a proxy that can reach the store connects again, but for its time limits: more than the longest pause
/// between two attempts.
const RETURN: Duration = Duration::from_millis(500);

/// The number of an opening of the gate.
pub type Opening = Option<NonZeroU64>;

/// This proxy among the others.
pub struct Fleet {
    id: Box<str>,
    mode: Coherence,
    lease: Duration,
    clocks: Clocks,
    /// The store may have been deposed, and counts only while a sync that its replicas have says otherwise.
    needs_proof: bool,
    /// For L1.
    held: Lease,
    /// The epoch of the last sync, and until when the store is taken at its word in it.
    proven: Mutex<Option<(Epoch, Moment)>>,
    /// Within this time every proxy that can reach the store has returned.
    patience: Duration,
    /// Whether other proxies may have something to deliver; and the same for readers.
    gate: Mutex<RecoveryGate>,
    opening: AtomicU64,
    /// How often it was opened.
    openings: AtomicU64,
    /// The generation that the last reply has told.
    seen: Mutex<Option<Generation>>,
    /// The gate has been opened.
    opened: Notify,
    /// What the store has said of the epoch, and how this proxy stands in the fleet.
    observed: Mutex<FleetObservations>,
    /// What others have acknowledged.
    heard: Mutex<HashMap<Box<str>, Stamp>>,
    /// There is more of that. Wakes writers in the order in which they came, as a `watch` would not.
    told: Notify,
    /// A sync is wanted before its time.
    wanted: Notify,
    /// How far the copy of the marks goes and of which epoch it is belong together, and are said under this lock. Holds the
    /// latest invalidation of this proxy's own that was of another epoch than the copy.
    foreign: Mutex<Option<Stamp>>,
    /// Held while a sync is under way; true once this proxy has left.
    left: tokio::sync::Mutex<bool>,
    /// Absent members are being waited for although no write waits.
    sweeping: AtomicBool,
    /// Intents that are due and being carried out; empty when that is done.
    due: watch::Sender<Vec<Intent>>,
    /// Members whose lease was waited for in vain.
    gone: mpsc::Sender<Holder>,
    going: tokio::sync::Mutex<mpsc::Receiver<Holder>>,
}

impl Fleet {
    /// A proxy that is not a member yet. `lease`: how long it may serve L1 after a sync.
    pub fn new(mode: Coherence, lease: Duration) -> Fleet {
        let id = format!("{:016x}", rand::random::<u64>()).into();
        let (gone, going) = mpsc::channel(GONE);
        Fleet {
            id,
            mode,
            lease,
            clocks: Clocks::System,
            needs_proof: false,
            held: Lease::none(),
            proven: Mutex::default(),
            patience: lease + RETURN,
            gate: Mutex::new(RecoveryGate::new(lease + RETURN)),
            opening: AtomicU64::new(0),
            openings: AtomicU64::new(0),
            seen: Mutex::default(),
            opened: Notify::new(),
            observed: Mutex::new(FleetObservations::new(lease)),
            heard: Mutex::default(),
            told: Notify::new(),
            wanted: Notify::new(),
            foreign: Mutex::default(),
            left: tokio::sync::Mutex::default(),
            sweeping: AtomicBool::new(false),
            due: watch::Sender::new(Vec::new()),
            gone,
            going: tokio::sync::Mutex::new(going),
        }
    }

    /// What it is known by, unique in the fleet and in time.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same where the store waits for replicas: nothing it says counts without proof that they still follow it.
    #[must_use]
    pub fn with_replicas(self, wait_replicas: u64) -> Fleet {
        Fleet { needs_proof: wait_replicas > 0, ..self }
    }

    /// The same with these time limits of the store: to connect, and of a request.
    #[must_use]
    pub fn with_limits(self, connect: Duration, request: Duration) -> Fleet {
        let patience = self.lease + RETURN + connect + request;
        Fleet { patience, gate: Mutex::new(RecoveryGate::new(patience)), ..self }
    }

    /// The same with another wall clock than the system's: leases end by whichever of it and the steady clock is first.
    #[must_use]
    pub fn with_wall_clock(self, wall: Arc<dyn Fn() -> SystemTime + Send + Sync>) -> Fleet {
        Fleet { clocks: Clocks::Given(wall), ..self }
    }

    /// The longest lease that any proxy of the fleet may hold.
    pub fn longest_lease(&self) -> Duration {
        self.observed().longest()
    }

    /// Whether L1 may be served without asking.
    pub fn holds(&self) -> bool {
        self.is_open() && self.held.runs_at(self.clocks.now())
    }

    /// Whether what the store says in this epoch may be believed. To be asked when it has said it. `asked`: [`Fleet::opening`] before
    /// the store was asked; what was asked before an outage may be answered after it.
    pub fn trusts(&self, epoch: Epoch, asked: Opening) -> bool {
        asked.is_some() && self.opening() == asked && self.is_proven(epoch)
    }

    /// Which opening of the gate what is stored may be believed under; `None` if it may not be, since the store may lack what other
    /// proxies have still to deliver. To be asked before the store is.
    pub fn opening(&self) -> Opening {
        NonZeroU64::new(self.opening.load(SeqCst))
    }

    /// Whether what is stored may be believed.
    pub fn is_open(&self) -> bool {
        self.opening().is_some()
    }

    fn is_proven(&self, epoch: Epoch) -> bool {
        let proven = *lock(&self.proven);
        // Without replicas to wait for, a new epoch is believed as it comes.
        let is_of = |of| of == epoch || !self.needs_proof;
        proven.is_some_and(|(of, end)| is_of(of) && self.clocks.now().is_before(end))
    }

    /// Whether it serves what it may serve when all is well: L1, or a strict proxy what the store has.
    fn is_well(&self) -> bool {
        match self.mode {
            Coherence::Strict => self.is_proven_at(self.clocks.now()) && self.is_open(),
            Coherence::Lease | Coherence::Eventual => self.holds(),
        }
    }

    /// What an operator may want to know. `memory`: where the copy of the marks is.
    pub fn report(&self, memory: &Memory) -> FleetStatus {
        let (is_well, no_lease) = (self.is_well(), self.no_lease());
        let observed = self.observed();
        let has_copy = self.mode != Coherence::Strict && observed.synced.is_some();
        FleetStatus {
            id: self.id.clone(),
            coherence: self.mode,
            lease: self.lease,
            no_lease: (!is_well).then_some(no_lease),
            since: observed.told.1.elapsed(),
            applied: has_copy.then(|| memory.marks.stamp()),
            epoch: observed.synced.as_ref().map(|(state, _)| state.clone()),
            synced: observed.synced.as_ref().map(|(_, at)| at.elapsed()),
            longest_lease: observed.longest(),
            store_clock_ahead: memory.clock.ahead(),
        }
    }

    /// Why there is no lease, if there is none.
    fn no_lease(&self) -> NoLease {
        let is_foreign = self.lock().is_some();
        let observed = self.observed();
        match &observed.failure {
            _ if observed.has_left => NoLease::Left,
            Some(StoreError::Unreplicated { reason, .. }) => NoLease::ReplicasMissing(reason.clone()),
            Some(error) => NoLease::StoreAway(error.to_string()),
            None if is_foreign => NoLease::OtherEpoch,
            None if observed.synced.is_none() => NoLease::NeverSynced,
            None if self.is_returning() => NoLease::Returning(self.absent()),
            None => observed.late(self.lease),
        }
    }

    /// Tells, once, that a lease was lost or is there again.
    fn tell(&self, metrics: &Metrics) {
        let (is_well, no_lease) = (self.is_well(), self.no_lease());
        let mut observed = self.observed();
        let (was_well, since) = observed.told;
        if observed.is_first && !is_well && since.elapsed() > self.lease {
            observed.is_first = false;
            tracing::warn!(proxy = &*self.id, reason = no_lease.label(), "there is no lease yet: {no_lease}");
        }
        if is_well == was_well {
            return;
        }
        observed.is_first = false;
        observed.told = (is_well, Instant::now());
        drop(observed);
        let lasted = humantime::format_duration(Duration::from_millis(since.elapsed().as_millis() as u64));
        match is_well {
            true => tracing::info!(proxy = &*self.id, after = %lasted, "the lease is held"),
            false if no_lease == NoLease::Left => tracing::info!(proxy = &*self.id, "the fleet was left"),
            false => {
                metrics.lease_lost(no_lease.label());
                let reason = no_lease.label();
                tracing::warn!(proxy = &*self.id, reason, held = %lasted, "the lease is lost: {no_lease}");
            }
        }
    }

    fn observed(&self) -> MutexGuard<'_, FleetObservations> {
        lock(&self.observed)
    }

    /// Ends the lease: something is known that the marks do not show.
    fn give_up(&self) {
        self.held.end();
    }

    /// What an invalidation of this proxy's own is known by.
    pub fn cause<'a>(&'a self, intent: Option<&'a str>) -> Cause<'a> {
        Cause { by: &self.id, intent, ..Cause::default() }
    }

    /// Puts the marks of an invalidation of this proxy's own into its copy. To be done before anybody is told. `sent`: before
    /// the store began the graces of what was softened.
    pub fn learn(
        &self,
        memory: &Memory,
        tags: &[Tag],
        soft: &[SoftInvalidation],
        sent: Instant,
        taken: IssuedStamp,
    ) {
        let mut foreign = self.lock();
        // Before the stamp says that they are there.
        if memory.marks.stamp().epoch == taken.stamp.epoch {
            memory.soft_invalidate(soft.iter().map(|soft| (soft, taken.stamp.sequence)), sent);
        }
        if !follow(memory, taken.stamp, taken.previous, tags) {
            // The next sync begins the epoch. Until then nothing in memory is trusted, and the sync that begins it may have
            // been answered before this.
            let observed = foreign
                .filter(|observed| observed.epoch == taken.stamp.epoch)
                .map_or(0, |observed| observed.sequence);
            *foreign = Some(Stamp { sequence: taken.stamp.sequence.max(observed), ..taken.stamp });
            self.give_up();
        }
        drop(foreign);
        self.want();
    }

    /// Asks for a sync before its time; one that is no member has nothing to acknowledge.
    pub fn want(&self) {
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
            memory
                .soft_invalidate(synced.soft.iter().map(|(soft, sequence)| (soft, *sequence)), sending.at.steady);
            marks.applied(synced.stamp.sequence);
        } else {
            marks.raise_floor(synced.stamp.sequence);
        }
        if let Some(own) = foreign.take().filter(|own| own.epoch == synced.stamp.epoch) {
            marks.distrust(own.sequence);
        }
        self.held.begin(sending.end(self.lease));
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stamp>> {
        lock(&self.foreign)
    }

    /// The store has not taken an invalidation.
    pub fn note_failure(&self, error: &StoreError) {
        self.observed().failure = Some(error.clone());
    }

    /// Waits until no other proxy can serve what an invalidation names that the store has not taken: the store is away for
    /// everybody, the leases that it gave before are over, and it was away after `begun`, when the write had been carried out.
    ///
    /// - Attempts to connect that have failed without a gap between them show that nobody has synced since the first began.
    /// - So every such write lies before the store's return. What is fetched after that is no older, and what was stored before is
    ///   not believed until this proxy has delivered (`recovery`).
    ///
    /// A proxy that is cut off alone cannot tell.
    pub async fn outlast(&self, store: &Arc<dyn Store>, error: &StoreError, begun: Instant) {
        let longest = self.longest_lease();
        let synced = self.observed().synced.as_ref().map(|(_, at)| *at);
        // Whoever has not synced for long may have been given up, and is then as unknown as a proxy that has never synced.
        let lasting = |since: Instant| match synced.is_some_and(|synced| synced + self.patience >= since) {
            true => longest,
            false => longest.max(NEWCOMER_HOLD),
        };
        match error {
            // It answers, and takes nothing: from others neither.
            StoreError::Refused(_) | StoreError::Unreplicated { .. } => {
                tokio::time::sleep_until(begun + lasting(begun)).await;
            }
            StoreError::Away(_) | StoreError::Timeout(_) => {
                let mut outage = store.outage();
                let is_away = |Outage { since, away_at }: &Outage| {
                    *away_at >= begun && *away_at >= *since + lasting(*since) + REFUSALS
                };
                let observed = outage.wait_for(|outage| outage.as_ref().is_some_and(is_away));
                // A link that comes and goes must not hold a write for ever.
                let _ = timeout_at(begun + longest.max(NEWCOMER_HOLD), observed).await;
            }
        }
    }

    /// Waits until no member can serve what an invalidation has invalidated: each has acknowledged it, or its lease is over.
    pub async fn settle(self: &Arc<Fleet>, invalidated: Invalidated, metrics: &Arc<Metrics>) {
        if self.mode != Coherence::Eventual {
            return self.wait(&invalidated, metrics).await;
        }
        // Somebody has to find out who is gone, or members would add up.
        if !invalidated.holders.is_empty() && !self.sweeping.swap(true, SeqCst) {
            let (fleet, metrics) = (Arc::clone(self), Arc::clone(metrics));
            tokio::spawn(async move {
                fleet.wait(&invalidated, &metrics).await;
                fleet.sweeping.store(false, SeqCst);
            });
        }
    }

    /// One lease at most, however many do not answer: all are waited for from the same moment on.
    async fn wait(&self, invalidated: &Invalidated, metrics: &Metrics) {
        let replied = Instant::now();
        let stamp = invalidated.taken.stamp;
        let young = self.young(invalidated, metrics);
        for holder in invalidated.holders.iter().filter(|holder| *holder.id != *self.id) {
            if timeout_at(replied + holder.lease, self.acknowledged(&holder.id, stamp)).await.is_err() {
                // No write waits for that. A full queue means that the next one will find it again.
                let _ = self.gone.try_send(holder.clone());
            }
        }
        // A member that the new epoch does not know of holds its lease no longer than this.
        if let Some(young) = young {
            tokio::time::sleep_until(replied + young).await;
        }
    }

    /// Waits until a member has said that it has applied all up to this.
    async fn acknowledged(&self, id: &str, stamp: Stamp) {
        let mut told = std::pin::pin!(self.told.notified());
        loop {
            // From here on it is noticed, also before it is waited for.
            told.as_mut().enable();
            if has_applied(lock(&self.heard).get(id), stamp) {
                return;
            }
            told.as_mut().await;
            told.set(self.told.notified());
        }
    }

    /// How much longer there may be leases that the store has lost.
    fn young(&self, invalidated: &Invalidated, metrics: &Metrics) -> Option<Duration> {
        let longest = invalidated.longest_lease;
        let (age, longest) =
            self.meet(invalidated.taken.stamp.epoch, invalidated.epoch_age, longest, None, metrics);
        let other = invalidated.holders.iter().map(|holder| holder.lease).find(|lease| *lease != self.lease);
        if let Some(other) = other {
            self.warn_of(other);
        }
        longest.checked_sub(age).filter(|young| !young.is_zero())
    }

    /// Takes in what the store said of its epoch, and gives its age and the longest lease, as far as they can be relied
    /// on. `cause`: why the epoch began, where that was told.
    fn meet(
        &self,
        epoch: Epoch,
        age: Duration,
        longest: Duration,
        cause: Option<&str>,
        metrics: &Metrics,
    ) -> (Duration, Duration) {
        let mut observed = self.observed();
        observed.uncounted |= observed.meet(epoch);
        // An invalidation is not told the cause; the next sync is.
        if let Some(cause) = cause.filter(|_| std::mem::take(&mut observed.uncounted)) {
            metrics.epoch_changed(cause);
        }
        let age = observed.age(age, self.needs_proof);
        observed.hear_of_lease(longest, self.lease, age);
        (age, observed.longest())
    }

    fn warn_of(&self, other: Duration) {
        if std::mem::replace(&mut self.observed().has_warned, true) {
            return;
        }
        tracing::warn!(
            own = %humantime::format_duration(self.lease),
            other = %humantime::format_duration(other),
            "a proxy of the fleet has another lease; give all Larders of a namespace the same [store] lease"
        );
    }

    /// Keeps the lease for as long as the process lives.
    pub async fn keep(
        self: Arc<Fleet>,
        store: Arc<dyn Store>,
        memory: Arc<Memory>,
        undelivered: Arc<UndeliveredInvalidations>,
        metrics: Arc<Metrics>,
    ) {
        let hearing = (self.mode != Coherence::Strict).then_some(&*memory);
        tokio::join!(
            self.renew(&store, &memory, &undelivered, &metrics),
            self.listen(&store, hearing),
            self.carry_out(&store, &memory, &metrics),
            self.expel(&store, &metrics),
            self.watch(&metrics),
        );
    }

    /// Syncs, over and over.
    async fn renew(
        &self,
        store: &Arc<dyn Store>,
        memory: &Memory,
        undelivered: &UndeliveredInvalidations,
        metrics: &Metrics,
    ) {
        let mut link = store.changes();
        loop {
            // A sync says that this proxy keeps nothing that others do not know of.
            if undelivered.is_closed() && !self.observed().has_left {
                self.close();
                self.tell(metrics);
                let _ = tokio::time::timeout(self.lease / 4, self.wanted.notified()).await;
                continue;
            }
            let synced = self.sync(store, memory, metrics).await;
            self.observed().sync_ended(synced.as_ref().err(), self.lease);
            self.tell(metrics);
            match synced {
                // What came is to be acknowledged at once: somebody may be waiting.
                Ok(Progress::News) => continue,
                Ok(Progress::Nothing) => {}
                Ok(Progress::Left) => return,
                Err(error) => {
                    if !matches!(error, StoreError::Unreplicated { .. }) {
                        self.close();
                    }
                    metrics.store_error("sync");
                }
            }
            // Others may return at any time; a message says so, or none does.
            let pause = if self.is_open() { self.lease / 4 } else { self.lease / 20 };
            let begun = Instant::now();
            let _ = tokio::time::timeout(pause, self.cause_to_sync(&mut link)).await;
            self.observed().waited(begun.elapsed(), pause, self.lease);
        }
    }

    /// A sync is wanted, or the store is there again.
    async fn cause_to_sync(&self, link: &mut watch::Receiver<Link>) {
        let is_back = async {
            if link.changed().await.is_err() || *link.borrow() != Link::Up {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // Either is followed by a sync: the order matters only to simulations, which have to be repeatable.
            biased;
            () = self.wanted.notified() => {}
            () = is_back => {}
        }
    }

    /// Carries out intents that are due. Apart from the syncs, which must not wait for it.
    async fn carry_out(&self, store: &Arc<dyn Store>, memory: &Memory, metrics: &Metrics) {
        let mut due = self.due.subscribe();
        while let Ok(intents) = due.wait_for(|due| !due.is_empty()).await.map(|due| due.clone()) {
            for intent in &intents {
                if self.carry_out_one(store, memory, metrics, intent).await.is_err() {
                    metrics.store_error("carry_out");
                    // The next sync tells of them again.
                    break;
                }
            }
            self.due.send_replace(Vec::new());
        }
    }

    async fn carry_out_one(
        &self,
        store: &Arc<dyn Store>,
        memory: &Memory,
        metrics: &Metrics,
        intent: &Intent,
    ) -> Result<(), StoreError> {
        let sent = Instant::now();
        let taken = match store.invalidate(&intent.tags, &self.cause(Some(&intent.id))).await {
            Ok(invalidated) => invalidated.taken,
            // Nobody waits for more: the write was never acknowledged.
            Err(StoreError::Unreplicated { taken: Some(taken), .. }) => taken,
            Err(error) => return Err(error),
        };
        self.learn(memory, &intent.tags, &[], sent, taken);
        report(intent, metrics);
        Ok(())
    }

    /// Has the store forget whom nobody needs to wait for any more.
    async fn expel(&self, store: &Arc<dyn Store>, metrics: &Metrics) {
        let mut going = self.going.lock().await;
        while let Some(holder) = going.recv().await {
            // Otherwise it has synced meanwhile (its acknowledgement was lost), or the store is away.
            if let Ok(true) = store.expel(&holder).await {
                tracing::warn!(member = &*holder.id, "a proxy of the fleet is gone; writes wait for it no longer");
                metrics.members_expelled.inc();
            }
        }
    }

    /// Tells when a lease has passed, whatever holds up the syncs.
    async fn watch(&self, metrics: &Metrics) {
        while !self.observed().has_left {
            let begun = Instant::now();
            tokio::time::sleep(self.lease / 4).await;
            self.observed().waited(begun.elapsed(), self.lease / 4, self.lease);
            self.tell(metrics);
        }
    }

    /// Leaves for good: no lease from now on, and nobody has to wait for this proxy.
    pub async fn leave(&self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        // A sync under way would make it a member again, and bring a lease.
        let mut left = self.left.lock().await;
        *left = true;
        self.observed().has_left = true;
        self.give_up();
        *lock(&self.proven) = None;
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
        let observed = memory.marks.stamp();
        let sending = Sending { at: self.clocks.now(), foreign: *self.lock() };
        self.close_if_lapsed(sending.at);
        let serves_memory = self.mode != Coherence::Strict;
        let me = Membership {
            id: self.id.clone(),
            applied: Some(observed).filter(|_| serves_memory),
            lease: if serves_memory || self.needs_proof { self.lease } else { Duration::ZERO },
            serves_memory,
            period: self.lease,
            seen: *lock(&self.seen),
            asks_who_is_behind: !self.is_open(),
        };
        self.observed().sync_began();
        let synced = store.sync(&me).await?;
        metrics.synced(sending.at.steady.elapsed());
        memory.clock.hear(sending.at.wall, self.clocks.now().wall, synced.clock);
        self.tell_of_clock(&memory.clock, metrics);
        // In an outage that ended just now the sync was held up, too.
        self.close_if_lapsed(self.clocks.now());
        *lock(&self.seen) = Some(synced.generation);
        self.note(&synced, sending, metrics);
        let is_void = serves_memory && !self.take(memory, &synced, sending);
        drop(left);
        if !is_void && me.asks_who_is_behind {
            self.judge(store, memory, &synced).await?;
        }
        let is_news = me.seen != Some(synced.generation) || serves_memory && (is_void || synced.stamp != observed);
        self.hand_over(synced.due);
        Ok(if is_news { Progress::News } else { Progress::Nothing })
    }

    /// Closes the gate where there was no sync for a whole lease: an outage may have passed unnoticed.
    fn close_if_lapsed(&self, now: Moment) {
        if lock(&self.proven).is_some_and(|(_, end)| !now.is_before(end)) {
            self.close();
        }
    }

    /// Whether the last sync still counts at this time.
    fn is_proven_at(&self, now: Moment) -> bool {
        lock(&self.proven).is_some_and(|(_, end)| now.is_before(end))
    }

    /// From now on nothing stored is believed, until the store is back and the others are.
    fn close(&self) {
        self.opening.store(0, SeqCst);
        let seen = *lock(&self.seen);
        lock(&self.gate).close(seen);
    }

    fn open(&self) {
        if !self.is_open() {
            self.opening.store(self.openings.fetch_add(1, SeqCst) + 1, SeqCst);
        }
        self.opened.notify_waiters();
    }

    /// Waits until what is stored may be believed.
    pub async fn opened(&self) {
        let mut opened = std::pin::pin!(self.opened.notified());
        loop {
            // From here on it is noticed, also before it is waited for.
            opened.as_mut().enable();
            if self.is_open() {
                return;
            }
            opened.as_mut().await;
            opened.set(self.opened.notified());
        }
    }

    /// Opens the gate if a reply shows that nobody has anything left to deliver.
    async fn judge(&self, store: &Arc<dyn Store>, memory: &Memory, synced: &Synced) -> Result<(), StoreError> {
        let verdict = lock(&self.gate).hear(synced);
        match verdict {
            Verdict::Open => self.open(),
            Verdict::Wait => {}
            Verdict::GiveUp { awaited, saw_outage } => {
                if saw_outage {
                    self.invalidate_everything(store, memory).await?;
                }
                for holder in &awaited {
                    // Whoever returns now has synced since, and stays. Who has seen no outage leaves it to others, who invalidate.
                    if saw_outage {
                        let _ = store.dismiss(holder, synced.generation).await;
                    }
                    let member = &*holder.id;
                    match saw_outage {
                        true => tracing::warn!(
                            member,
                            "a proxy of the fleet has not returned after an outage; it may have answered writes, so that \
                             everything was invalidated"
                        ),
                        false => {
                            tracing::info!(
                                member,
                                "a proxy of the fleet has not synced since before this one started; it is not waited for any longer"
                            );
                        }
                    }
                }
                lock(&self.gate).open();
                self.open();
            }
        }
        Ok(())
    }

    /// For writes that a lost proxy may have acknowledged, and that nobody will deliver.
    async fn invalidate_everything(&self, store: &Arc<dyn Store>, memory: &Memory) -> Result<(), StoreError> {
        let (root, sent) = ([Tag::root()], Instant::now());
        let invalidated = store.invalidate(&root, &self.cause(None)).await?;
        self.learn(memory, &root, &[], sent, invalidated.taken);
        Ok(())
    }

    /// Whether the store has answered since the gate was closed, and the gate is closed still.
    fn is_returning(&self) -> bool {
        lock(&self.gate).is_returning()
    }

    /// The members that are awaited.
    fn absent(&self) -> Vec<Box<str>> {
        lock(&self.gate).awaited().iter().map(|holder| holder.id.clone()).collect()
    }

    /// Remembers what a sync has said of the store.
    fn note(&self, synced: &Synced, sending: Sending, metrics: &Metrics) {
        let state = &synced.state;
        *lock(&self.proven) = Some((synced.stamp.epoch, sending.end(self.lease)));
        self.meet(synced.stamp.epoch, state.age, state.longest_lease, Some(&state.cause), metrics);
        metrics.marks_kept(state.marks, state.floor_age);
        self.observed().synced = Some((state.clone(), Instant::now()));
        if state.longest_lease > self.lease {
            self.warn_of(state.longest_lease);
        }
    }

    /// Tells, once, that the clock of this machine is wrong, or right again.
    fn tell_of_clock(&self, clock: &SharedClock, metrics: &Metrics) {
        let (ahead, is_off) = (clock.ahead().saturating_neg() as f64 / 1e6, clock.is_off());
        metrics.clock_ahead.set(ahead);
        let was_off = std::mem::replace(&mut self.observed().is_clock_off, is_off);
        match (was_off, is_off) {
            (false, true) => tracing::warn!(
                ahead_seconds = ahead,
                "the clock of this machine differs from the store's by more than a second; ages are counted by the store's. Set it right (NTP)"
            ),
            (true, false) => tracing::info!("the clock of this machine is as the store's again"),
            _ => {}
        }
    }

    /// Has intents carried out, unless others are being carried out; then the next sync tells of them again.
    fn hand_over(&self, intents: Vec<Intent>) {
        self.due.send_if_modified(|due| {
            let is_free = due.is_empty() && !intents.is_empty();
            if is_free {
                *due = intents;
            }
            is_free
        });
    }

    /// Takes in what others say.
    async fn listen(&self, store: &Arc<dyn Store>, memory: Option<&Memory>) {
        let mut messages = store.messages();
        loop {
            match messages.recv().await {
                Ok(Message::Applied { id, stamp }) => self.hear(id, stamp),
                Ok(Message::Nudge { by, stamp, previous, tags }) if by != self.id => {
                    if let (Some(memory), Some(tags)) = (memory, tags) {
                        let _foreign = self.lock();
                        follow(memory, stamp, previous, &tags);
                    }
                    self.want();
                }
                Ok(Message::Raised(generation)) => {
                    if !lock(&self.seen).is_some_and(|seen| seen.covers(generation)) {
                        self.wanted.notify_one();
                    }
                }
                Ok(Message::Seen(_)) => {
                    if !self.is_open() {
                        self.wanted.notify_one();
                    }
                }
                Ok(Message::Nudge { .. } | Message::Fetched { .. }) => {}
                Err(RecvError::Lagged(_)) => self.want(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn hear(&self, id: Box<str>, stamp: Stamp) {
        let mut heard = lock(&self.heard);
        if heard.len() >= MEMBERS {
            heard.clear();
        }
        heard.insert(id, stamp);
        drop(heard);
        self.told.notify_waiters();
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
    tracing::warn!(
        tags,
        "recovered an abandoned write intent: its proxy died, or the store was away; its tags were invalidated"
    );
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
    at: Moment,
    /// [`Fleet::foreign`] then.
    foreign: Option<Stamp>,
}

impl Sending {
    /// The end of what it brings; a little less than whoever waits counts: clocks do not run alike.
    fn end(&self, lease: Duration) -> Moment {
        self.at.after(lease - lease / 100)
    }
}

/// For values that are changed in one step, so that a panic leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the marks of one invalidation into the copy; it holds all up to it if they follow on what was applied. False if
/// they are of another epoch.
fn follow(memory: &Memory, stamp: Stamp, previous: Sequence, tags: &[Tag]) -> bool {
    let observed = memory.marks.stamp();
    if observed.epoch != stamp.epoch {
        return false;
    }
    memory.marks.apply(tags.iter().map(|tag| (tag, stamp.sequence)));
    if observed.sequence == previous {
        memory.marks.applied(stamp.sequence);
    }
    true
}

fn has_applied(observed: Option<&Stamp>, stamp: Stamp) -> bool {
    observed.is_some_and(|observed| observed.epoch == stamp.epoch && observed.sequence >= stamp.sequence)
}

#[cfg(test)]
mod tests;
