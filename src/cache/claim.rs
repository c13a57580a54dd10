//! Collapse across proxies (`collapse = "fleet"`): one proxy fetches, the others wait until it has stored the answer.
//!
//! Who is about to fetch *claims* the fetch in the store; the claim names the stamp that the entry will have. Who finds
//! another one's claim waits, but never for a fetch that began before a write that was acknowledged before its own
//! request: it takes such a claim over, as it would not join such a flight ([`super::flight`]). What is found in the end is
//! an entry like any other, judged by the marks.
//!
//! Nothing rests on a claim but load: it lapses after `collapse_timeout`, nobody waits longer than that, and whoever
//! cannot ask the store fetches. A message tells when a fetch has ended; should it be lost, the claim that is gone
//! does. A fetch whose answer did not come into the store frees all who wait for it at once, each to fetch for itself:
//! answers that are not for sharing must not be fetched by one proxy after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use http::HeaderMap;
use tokio::runtime::Handle;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::{Cache, Found, Lookup};
use crate::key::{Canonical, Key};
use crate::metrics::Metrics;
use crate::stamp::{Tag, View};
use crate::store::fleet::{Claim, Claimed, Message, random_id};
use crate::store::{Store, StoreError};

/// The first pause before it is looked whether a claim still stands; each further one is twice as long, up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);

/// How often a claim that is in the way is taken over by turns, before that is left alone.
const TAKEOVERS: usize = 3;

/// What a proxy that needs a fetch does.
#[derive(Debug)]
pub enum Turn {
    /// Fetch: others wait for it.
    Ours(Held),
    /// Wait for another proxy.
    Theirs(Waiting),
    /// Another proxy has fetched, and may have stored it.
    Stored,
    /// Fetch, for this proxy alone.
    Alone,
}

/// A claim of this proxy's. Dropping it tells those who wait that nothing was stored.
#[derive(Debug)]
pub struct Held {
    store: Arc<dyn Store>,
    fetch: Arc<str>,
    claim: Claim,
    /// It stands in the store, or may do so: the answer has not come.
    stands: AtomicBool,
}

/// A claim of another proxy's that is being waited for.
#[derive(Debug)]
pub struct Waiting {
    attempt: Attempt,
    theirs: Claim,
    messages: Receiver<Message>,
    deadline: Instant,
    metrics: Arc<Metrics>,
}

/// A claim that this proxy would make.
#[derive(Debug)]
struct Attempt {
    held: Held,
    view: View,
    lasting: Duration,
}

impl Cache {
    /// Claims the fetch of what belongs under `key`. `view`: what the request's lookup learned. `limit`: how long others wait
    /// for it at most, and this proxy for others.
    pub async fn claim(&self, key: Key, view: View, limit: Duration) -> Turn {
        let Some(shared) = &self.shared else { return Turn::Alone };
        let claim = Claim { stamp: view.stamp, id: random_id() };
        let (store, fetch) = (Arc::clone(&shared.store), key.to_string().into());
        let held = Held { store, fetch, claim, stands: AtomicBool::new(false) };
        let attempt = Attempt { held, view, lasting: limit };
        // Before the claim is asked for: from then on its end may be told.
        let messages = shared.store.messages();
        match attempt.make().await {
            Ok(Claimed::Ours) => Turn::Ours(attempt.held),
            Ok(Claimed::Theirs(theirs)) => {
                let (deadline, metrics) = (Instant::now() + limit, Arc::clone(&self.metrics));
                Turn::Theirs(Waiting { attempt, theirs, messages, deadline, metrics })
            }
            Err(_) => {
                self.metrics.store_error("claim");
                Turn::Alone
            }
        }
    }

    /// What the store has of a request, whatever is in memory. `canonical`: the request as the fetch is keyed; where that
    /// leads to the sign that responses vary, the request's variant.
    pub async fn lookup_elsewhere(
        &self,
        canonical: Canonical,
        headers: &HeaderMap,
        label: &str,
        tags: &[Tag],
    ) -> Lookup {
        let Some(shared) = self.shared.as_ref().filter(|shared| !shared.trusts_nothing()) else {
            return Lookup::plain(Found::Nothing, canonical, None);
        };
        let (found, view) = self.fetch_shared(shared, &canonical, label, tags).await;
        match found {
            Found::Current(sign) if sign.variants().is_some() => {
                let on = sign.variants().map_or(&[][..], |variants| &variants.on);
                let variant = canonical.variant(on, headers);
                let (found, view) = self.fetch_shared(shared, &variant, label, tags).await;
                Lookup { sign: Some(sign), ..Lookup::plain(found, variant, view) }
            }
            found => Lookup::plain(found, canonical, view),
        }
    }
}

impl Attempt {
    /// Whose the fetch is. A claim whose fetch began before a write that this request must see gives way.
    async fn make(&self) -> Result<Claimed, StoreError> {
        let Held { store, fetch, claim, stands } = &self.held;
        let mut instead_of = None;
        for _ in 0..TAKEOVERS {
            stands.store(true, SeqCst);
            match store.claim(fetch, claim, self.lasting, instead_of.as_ref()).await? {
                Claimed::Ours => return Ok(Claimed::Ours),
                Claimed::Theirs(theirs) => {
                    stands.store(false, SeqCst);
                    if self.view.is_current(theirs.stamp) {
                        return Ok(Claimed::Theirs(theirs));
                    }
                    instead_of = Some(theirs);
                }
            }
        }
        Err(StoreError::Refused("a claim changes hands all the time".to_owned()))
    }
}

/// What was heard of the claim that is waited for.
enum Heard {
    Ended { stored: bool },
    Nothing,
}

impl Waiting {
    /// Waits until the other proxy's fetch has ended or lapsed, for at most the limit.
    pub async fn end(self) -> Turn {
        let metrics = Arc::clone(&self.metrics);
        let (turn, ended) = self.turn().await;
        metrics.fleet_waited(ended);
        turn
    }

    async fn turn(mut self) -> (Turn, &'static str) {
        let mut pause = PAUSE_MIN;
        while Instant::now() < self.deadline {
            match self.hear_until(self.deadline.min(Instant::now() + pause)).await {
                Heard::Ended { stored: true } => return (Turn::Stored, "stored"),
                Heard::Ended { stored: false } => return (Turn::Alone, "not-stored"),
                Heard::Nothing => pause = (pause * 2).min(PAUSE_MAX),
            }
            match self.attempt.make().await {
                Ok(Claimed::Ours) => return (Turn::Ours(self.attempt.held), "gone"),
                // It has ended unheard. If it has stored nothing, the next one will hardly do so either.
                Ok(Claimed::Theirs(theirs)) if theirs.id != self.theirs.id => return (Turn::Stored, "gone"),
                Ok(Claimed::Theirs(_)) => {}
                Err(_) => return (Turn::Alone, "store-away"),
            }
        }
        (Turn::Alone, "late")
    }

    async fn hear_until(&mut self, time: Instant) -> Heard {
        loop {
            match timeout_at(time, self.messages.recv()).await {
                Ok(Ok(Message::Fetched { claim, stored })) if claim == self.theirs.id => {
                    return Heard::Ended { stored };
                }
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) => tokio::time::sleep_until(time).await,
                Err(_) => return Heard::Nothing,
            }
        }
    }
}

impl Held {
    /// Frees those who wait; `stored`: they find it in the store. The first word on it stands. The claim itself lapses if the
    /// store cannot be told.
    pub fn end(&self, stored: bool) {
        if !self.stands.swap(false, SeqCst) {
            return;
        }
        let (store, fetch, claim) = (Arc::clone(&self.store), Arc::clone(&self.fetch), self.claim.clone());
        // Not where the process ends just now: the claim lapses.
        if let Ok(runtime) = Handle::try_current() {
            // Bounded by the store's time limit.
            runtime.spawn(async move { store.release(&fetch, &claim, stored).await });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end(false);
    }
}
