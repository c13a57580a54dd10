//! Collapse across proxies (`collapse = "fleet"`): one proxy fetches, the others wait until it has stored the answer.
//!
//! Who is about to fetch *claims* the fetch in the store; the claim names the stamp that the entry will have. Who finds
//! another one's claim waits, but never for a fetch that began before a write that was acknowledged before its own
//! request: it takes such a claim over, as it would not join such a flight ([`super::fetch`]). What is found in the end is
//! an entry like any other, judged by the marks.
//!
//! Nothing rests on a claim but load: it lapses after `collapse_timeout`, nobody waits longer than that, and whoever
//! cannot ask the store fetches. A message tells when a fetch has ended; should it be lost, the claim that is gone
//! does. A fetch whose answer did not come into the store frees all who wait for it at once, each to fetch for itself:
//! answers that are not for sharing must not be fetched by one proxy after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use crate::key::StoreKey;
use crate::marks::MarksView;
use crate::metrics::Metrics;
use crate::store::fleet::{FleetLock, LockReply, Message, random_id};
use crate::store::{Store, StoreError};

/// The first pause before it is looked whether a claim still stands; each further one is twice as long, up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// How often a claim that is in the way is taken over by turns, before that is left alone.
const TAKEOVERS: usize = 3;

/// What a proxy that needs a fetch does.
#[derive(Debug)]
pub enum FleetLockOutcome {
    /// Fetch: others wait for it.
    Ours(FleetLockGuard),
    /// Wait for another proxy.
    Theirs(FleetLockWait),
    /// Another proxy has fetched, and may have stored it.
    Stored,
    /// Fetch, for this proxy alone.
    Alone,
}

/// A claim of this proxy's. Dropping it tells those who wait that nothing was stored.
#[derive(Debug)]
pub struct FleetLockGuard {
    store: Arc<dyn Store>,
    fetch: Arc<str>,
    lock: FleetLock,
    /// It stands in the store, or may do so: the answer has not come.
    stands: AtomicBool,
}

/// A claim of another proxy's that is being waited for.
#[derive(Debug)]
pub struct FleetLockWait {
    attempt: LockAttempt,
    theirs: FleetLock,
    messages: Receiver<Message>,
    deadline: Instant,
    metrics: Arc<Metrics>,
}

/// A claim that this proxy would make.
#[derive(Debug)]
struct LockAttempt {
    held: FleetLockGuard,
    view: MarksView,
    lasting: Duration,
}

impl FleetLockOutcome {
    /// Locks the fetch of the entry `key` for this proxy. `view`: what the request's lookup learned. `limit`: how long others wait
    /// for it at most, and this proxy for others.
    pub async fn of(
        store: &Arc<dyn Store>,
        metrics: &Arc<Metrics>,
        key: StoreKey,
        view: MarksView,
        limit: Duration,
    ) -> FleetLockOutcome {
        let lock = FleetLock { stamp: view.stamp, id: random_id() };
        let fetch = key.to_string().into();
        let held = FleetLockGuard { store: Arc::clone(store), fetch, lock, stands: AtomicBool::new(false) };
        let attempt = LockAttempt { held, view, lasting: limit };
        // Before the lock is asked for: from then on its end may be told.
        let messages = store.messages();
        match attempt.make().await {
            Ok(LockReply::Ours) => FleetLockOutcome::Ours(attempt.held),
            Ok(LockReply::Theirs(theirs)) => {
                let (deadline, metrics) = (Instant::now() + limit, Arc::clone(metrics));
                FleetLockOutcome::Theirs(FleetLockWait { attempt, theirs, messages, deadline, metrics })
            }
            Err(_) => {
                metrics.store_error("lock_fetch");
                FleetLockOutcome::Alone
            }
        }
    }
}

impl LockAttempt {
    /// Whose the fetch is. A claim whose fetch began before a write that this request must see gives way.
    async fn make(&self) -> Result<LockReply, StoreError> {
        let FleetLockGuard { store, fetch, lock, stands } = &self.held;
        let mut instead_of = None;
        for _ in 0..TAKEOVERS {
            stands.store(true, SeqCst);
            match store.lock_fetch(fetch, lock, self.lasting, instead_of.as_ref()).await? {
                LockReply::Ours => return Ok(LockReply::Ours),
                LockReply::Theirs(theirs) => {
                    stands.store(false, SeqCst);
                    if self.view.is_current(theirs.stamp) {
                        return Ok(LockReply::Theirs(theirs));
                    }
                    instead_of = Some(theirs);
                }
            }
        }
        Err(StoreError::Refused("a claim changes hands all the time".to_owned()))
    }
}

/// What was heard of the claim that is waited for.
enum LockEvent {
    Ended { stored: bool },
    Nothing,
}

impl FleetLockWait {
    /// Waits until the other proxy's fetch has ended or lapsed, for at most the limit.
    pub async fn end(self) -> FleetLockOutcome {
        let metrics = Arc::clone(&self.metrics);
        let (turn, ended) = self.turn().await;
        metrics.fleet_waited(ended);
        turn
    }

    async fn turn(mut self) -> (FleetLockOutcome, &'static str) {
        let mut pause = PAUSE_MIN;
        while Instant::now() < self.deadline {
            match self.hear_until(self.deadline.min(Instant::now() + pause)).await {
                LockEvent::Ended { stored: true } => return (FleetLockOutcome::Stored, "stored"),
                LockEvent::Ended { stored: false } => return (FleetLockOutcome::Alone, "not-stored"),
                LockEvent::Nothing => pause = (pause * 2).min(PAUSE_MAX),
            }
            match self.attempt.make().await {
                Ok(LockReply::Ours) => return (FleetLockOutcome::Ours(self.attempt.held), "gone"),
                // It has ended unheard. If it has stored nothing, the next one will hardly do so either.
                Ok(LockReply::Theirs(theirs)) if theirs.id != self.theirs.id => {
                    return (FleetLockOutcome::Stored, "gone");
                }
                Ok(LockReply::Theirs(_)) => {}
                Err(_) => return (FleetLockOutcome::Alone, "store-away"),
            }
        }
        (FleetLockOutcome::Alone, "late")
    }

    async fn hear_until(&mut self, time: Instant) -> LockEvent {
        loop {
            match timeout_at(time, self.messages.recv()).await {
                Ok(Ok(Message::Fetched { lock, stored })) if lock == self.theirs.id => {
                    return LockEvent::Ended { stored };
                }
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) => tokio::time::sleep_until(time).await,
                Err(_) => return LockEvent::Nothing,
            }
        }
    }
}

impl FleetLockGuard {
    /// Frees those who wait; `stored`: they find it in the store. The first word on it stands. The claim itself lapses if the
    /// store cannot be told.
    pub fn end(&self, stored: bool) {
        if !self.stands.swap(false, SeqCst) {
            return;
        }
        let (store, fetch, lock) = (Arc::clone(&self.store), Arc::clone(&self.fetch), self.lock.clone());
        // Not where the process ends just now: the claim lapses.
        if let Ok(runtime) = Handle::try_current() {
            // Bounded by the store's time limit.
            runtime.spawn(async move { store.unlock_fetch(&fetch, &lock, stored).await });
        }
    }
}

impl Drop for FleetLockGuard {
    fn drop(&mut self) {
        self.end(false);
    }
}
