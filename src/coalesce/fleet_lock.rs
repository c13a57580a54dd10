//! Coalescing across proxies (`collapse = "fleet"`): one proxy fetches, the others wait until it has stored the response.
//!
//! A proxy that is about to fetch locks the fetch in Redis. The lock names the stamp that the entry will have. A proxy that finds
//! another's lock waits, unless that fetch began before a write that its own request must show: then it takes the lock over, as a
//! request does not follow such a fetch in its own process ([`super::inflight`]). The entry that it finds in the end is judged by
//! the marks like any other.
//!
//! A lock only saves load, correctness does not depend on it. It expires after `collapse_timeout`, no proxy waits longer than that,
//! and a proxy that cannot ask Redis fetches. A message announces the end of a fetch; if the message is lost, the missing lock
//! shows it. When a response was not stored, all waiting proxies fetch at once, each for itself: responses that cannot be shared must
//! not be fetched by one proxy after the other.

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

/// First interval for polling another proxy's lock; each further one is twice as long, up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// How often a lock is taken over before the proxy fetches without one.
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

/// A lock of this proxy. Dropping it announces that nothing was stored.
#[derive(Debug)]
pub struct FleetLockGuard {
    store: Arc<dyn Store>,
    fetch: Arc<str>,
    lock: FleetLock,
    /// It is in Redis, or may be: Redis has not replied.
    is_set: AtomicBool,
}

/// A lock of another proxy that this one waits for.
#[derive(Debug)]
pub struct FleetLockWait {
    attempt: LockAttempt,
    theirs: FleetLock,
    messages: Receiver<Message>,
    deadline: Instant,
    metrics: Arc<Metrics>,
}

/// A lock that this proxy would set.
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
        let held = FleetLockGuard { store: Arc::clone(store), fetch, lock, is_set: AtomicBool::new(false) };
        let attempt = LockAttempt { held, view, lasting: limit };
        // Before the lock is set: its end may be announced from then on.
        let messages = store.messages();
        match attempt.set().await {
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
    /// Sets the lock, unless another proxy holds one. A lock is taken over if its fetch began before a write that this request must
    /// show.
    async fn set(&self) -> Result<LockReply, StoreError> {
        let FleetLockGuard { store, fetch, lock, is_set } = &self.held;
        let mut instead_of = None;
        for _ in 0..TAKEOVERS {
            is_set.store(true, SeqCst);
            match store.lock_fetch(fetch, lock, self.lasting, instead_of.as_ref()).await? {
                LockReply::Ours => return Ok(LockReply::Ours),
                LockReply::Theirs(theirs) => {
                    is_set.store(false, SeqCst);
                    if self.view.is_current(theirs.stamp) {
                        return Ok(LockReply::Theirs(theirs));
                    }
                    instead_of = Some(theirs);
                }
            }
        }
        Err(StoreError::Refused("proxies take the lock of a fetch over from one another".to_owned()))
    }
}

/// What messages say of the lock that is waited for.
enum LockEvent {
    Ended { stored: bool },
    Nothing,
}

impl FleetLockWait {
    /// Waits until the other proxy's fetch has ended or its lock has expired, for at most the limit.
    pub async fn end(self) -> FleetLockOutcome {
        let metrics = Arc::clone(&self.metrics);
        let (outcome, ended) = self.poll().await;
        metrics.fleet_waited(ended);
        outcome
    }

    async fn poll(mut self) -> (FleetLockOutcome, &'static str) {
        let mut pause = PAUSE_MIN;
        while Instant::now() < self.deadline {
            match self.listen_until(self.deadline.min(Instant::now() + pause)).await {
                LockEvent::Ended { stored: true } => return (FleetLockOutcome::Stored, "stored"),
                LockEvent::Ended { stored: false } => return (FleetLockOutcome::Alone, "not-stored"),
                LockEvent::Nothing => pause = (pause * 2).min(PAUSE_MAX),
            }
            match self.attempt.set().await {
                Ok(LockReply::Ours) => return (FleetLockOutcome::Ours(self.attempt.held), "gone"),
                // Its end was announced, and the message lost. If it stored nothing, the next fetch will hardly store anything.
                Ok(LockReply::Theirs(theirs)) if theirs.id != self.theirs.id => {
                    return (FleetLockOutcome::Stored, "gone");
                }
                Ok(LockReply::Theirs(_)) => {}
                Err(_) => return (FleetLockOutcome::Alone, "store-away"),
            }
        }
        (FleetLockOutcome::Alone, "late")
    }

    async fn listen_until(&mut self, time: Instant) -> LockEvent {
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
    /// Announces the end of the fetch; `stored`: the response is in Redis. Only the first call counts. If Redis cannot be
    /// reached, the lock expires.
    pub fn end(&self, stored: bool) {
        if !self.is_set.swap(false, SeqCst) {
            return;
        }
        let (store, fetch, lock) = (Arc::clone(&self.store), Arc::clone(&self.fetch), self.lock.clone());
        // Outside a runtime the process is ending: the lock expires.
        if let Ok(runtime) = Handle::try_current() {
            // Bounded by Redis's time limit.
            runtime.spawn(async move { store.unlock_fetch(&fetch, &lock, stored).await });
        }
    }
}

impl Drop for FleetLockGuard {
    fn drop(&mut self) {
        self.end(false);
    }
}
