//! Collapse: requests that share one fetch in flight. Who may join is decided by stamps: **only a flight whose stamp
//! is still current for the request's tags**, so that a reader who comes after an acknowledged write never shares a
//! fetch that began before it.
//!
//! While the store is away there is no stamp to compare, and a write may have passed through another proxy. Then a
//! request joins only a fetch that *has not begun yet*: one fetch of a key runs, one waits for it to end, and
//! everybody who comes meanwhile shares the waiting one. Upstream sees one request a key at a time, and nobody an
//! answer older than their question.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use crate::client::Client;
use crate::entry::Entry;
use crate::http::freshness::UpstreamFailure;
use crate::key::KeyHash;
use crate::marks::{MarksView, Stamp, Tag};
use crate::upstream::UpstreamError;

/// How long it is remembered that a key's responses cannot be shared, so that requests for them do not queue.
const UNSHARED_FOR: Duration = Duration::from_secs(30);
/// How many such keys are remembered.
const UNSHARED_MOST: usize = 10_000;

/// How often it is looked for those who have boarded a flight and not begun to wait.
const LOOK: Duration = Duration::from_millis(10);

/// How a flight ended, for everyone on board.
#[derive(Debug, Clone)]
pub enum FetchOutcome {
    /// A response that may be shared has begun.
    Streaming(Arc<Head>, Arc<Stream>),
    /// A stored response, just validated.
    Validated(Arc<Entry>),
    /// Another proxy has fetched and stored it meanwhile; the request fields that told it apart from others.
    Elsewhere(Arc<Entry>, Vec<HeaderName>),
    /// Upstream failed, and this stored response may stand in for it as far as the leader's request goes (RFC 5861 §4,
    /// RFC 9111 §4.2.4). Everybody else has to ask that of their own; who may not have it is told how upstream failed.
    StaleOnError(Arc<Entry>, FetchFailure),
    /// Upstream failed with an error that is not stored: followers are told the same, and do not ask it again.
    ServerError(Arc<ServerErrorResponse>),
    /// A response for the leader alone; the others fetch for themselves.
    Unshared,
    /// Upstream gave no response.
    Failed(UpstreamError),
}

/// How upstream failed.
#[derive(Debug, Clone, Copy)]
pub enum FetchFailure {
    /// With an error of the server.
    Status(StatusCode),
    /// It gave no answer.
    NoAnswer(UpstreamError),
}

impl FetchFailure {
    /// The same as what may stand in for an answer goes by.
    pub fn failure(self) -> UpstreamFailure {
        match self {
            FetchFailure::Status(status) => UpstreamFailure::Status(status),
            FetchFailure::NoAnswer(_) => UpstreamFailure::NoAnswer,
        }
    }
}

/// An error of the server that is not stored.
#[derive(Debug)]
pub struct ServerErrorResponse {
    pub status: StatusCode,
    /// Why it is not stored: `detail` in `Cache-Status`.
    pub reason: &'static str,
    pub retry_after: Option<HeaderValue>,
    /// What the leader sent, without its conditions: it may have caused the error.
    pub request: HeaderMap,
    /// The response, for followers that sent the same values of what it varies on. `None` if it is meant for the leader
    /// alone: then followers learn the status and no more.
    pub response: Option<(Head, Arc<Stream>)>,
}

/// The head of a response that is being shared.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Request fields that the response varies on; who asked with other values cannot share it.
    pub varies_on: Vec<HeaderName>,
    /// The canonical text of the leader's request, with those fields.
    pub text: String,
    /// Seconds of freshness.
    pub ttl: i64,
    /// Some of the fields are meant for Larder, and are taken out on the way to clients.
    pub consumed: bool,
    /// What upstream said in the fields in which clients are told something else.
    pub said: Option<Box<HeaderMap>>,
    /// Read before the fetch.
    pub stamp: Option<Stamp>,
    /// Tags that the response itself named: who joins could not know them before.
    pub groups: Vec<Tag>,
    /// Larder means to store it (the store may be away, or the body turn out too large).
    pub stored: bool,
}

/// One fetch.
#[derive(Debug)]
pub struct InflightFetch {
    stamp: Option<Stamp>,
    outcome: watch::Sender<Option<FetchOutcome>>,
    released: CancellationToken,
    /// The leader's client, while nothing but its own share of upstream keeps the flight on the ground.
    waiting_client: Mutex<Option<Client>>,
}

/// Flights by key.
#[derive(Debug)]
pub struct Inflight {
    /// Guards the lanes; held for a few map operations.
    by_key: Mutex<HashMap<KeyHash, KeyFetches>>,
    unshared: quick_cache::sync::Cache<KeyHash, Instant>,
}

#[derive(Debug, Default)]
struct KeyFetches {
    running: Option<Arc<InflightFetch>>,
    queued: Option<Arc<InflightFetch>>,
}

/// What a request that needs a fetch does.
#[derive(Debug)]
pub enum FetchRole {
    /// Fetch, for oneself and for those who join.
    Lead(FetchPermit),
    /// Wait for another one's fetch.
    Join(Arc<InflightFetch>),
    /// Fetch for oneself: responses for this key were not for sharing lately.
    Alone,
}

/// The right and duty to fetch. Dropping it releases the flight; whoever waits then is told that it failed.
#[derive(Debug)]
pub struct FetchPermit {
    inflight: Arc<Inflight>,
    key: KeyHash,
    fetch: Arc<InflightFetch>,
    after: Option<CancellationToken>,
    shared: bool,
}

impl Inflight {
    /// No flights.
    pub fn new() -> Arc<Inflight> {
        Arc::new(Inflight { by_key: Mutex::default(), unshared: quick_cache::sync::Cache::new(UNSHARED_MOST) })
    }

    /// Leads or joins. `view`: what the request's lookup learned; `None` when the store is away.
    pub fn join(self: &Arc<Inflight>, key: KeyHash, view: Option<&MarksView>, now: Instant) -> FetchRole {
        if self.unshared.get(&key).is_some_and(|until| now < until) {
            return FetchRole::Alone;
        }
        let mut by_key = self.lock();
        let fetches = by_key.entry(key).or_default();
        let joined = match view {
            Some(view) => {
                fetches.running.as_ref().filter(|fetch| fetch.stamp.is_some_and(|stamp| view.is_current(stamp)))
            }
            None => fetches.queued.as_ref(),
        };
        if let Some(fetch) = joined {
            return FetchRole::Join(Arc::clone(fetch));
        }
        let fetch = InflightFetch::new(view.map(|view| view.stamp));
        let after = match (view, &fetches.running) {
            (None, Some(running)) => {
                fetches.queued = Some(Arc::clone(&fetch));
                Some(running.released.clone())
            }
            // The flight that was there, if any, flies on for those on board; nobody boards it any more.
            _ => {
                fetches.running = Some(Arc::clone(&fetch));
                None
            }
        };
        FetchRole::Lead(FetchPermit { inflight: Arc::clone(self), key, fetch, after, shared: true })
    }

    /// A fetch that nobody can join.
    pub fn lead_alone(self: &Arc<Inflight>, key: KeyHash, view: Option<&MarksView>) -> FetchPermit {
        let fetch = InflightFetch::new(view.map(|view| view.stamp));
        FetchPermit { inflight: Arc::clone(self), key, fetch, after: None, shared: false }
    }

    /// Nobody boards this flight any more; it flies on for those on board.
    pub fn detach(&self, key: KeyHash, fetch: &Arc<InflightFetch>) {
        self.release(key, fetch);
    }

    /// Remembers for a while that responses for this key are not for sharing.
    pub fn remember_unshared(&self, key: KeyHash, now: Instant) {
        self.unshared.insert(key, now + UNSHARED_FOR);
    }

    /// Flights under way.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn begin(&self, key: KeyHash, fetch: &Arc<InflightFetch>) {
        let mut by_key = self.lock();
        let fetches = by_key.entry(key).or_default();
        // From here on the fetch has begun: it must not be joined as one that has not.
        if fetches.queued.as_ref().is_some_and(|queued| Arc::ptr_eq(queued, fetch)) {
            fetches.queued = None;
            fetches.running = Some(Arc::clone(fetch));
        }
    }

    /// Releases a flight that nobody but its permit knows of. Who boards does so under the same lock.
    fn abandon(&self, key: KeyHash, fetch: &Arc<InflightFetch>) -> bool {
        let mut by_key = self.lock();
        let fetches = by_key.get(&key);
        let places = fetches.map_or(0, |fetches| {
            [&fetches.running, &fetches.queued]
                .into_iter()
                .flatten()
                .filter(|there| Arc::ptr_eq(there, fetch))
                .count()
        });
        let is_abandoned = Arc::strong_count(fetch) == places + 1;
        if is_abandoned {
            release(&mut by_key, key, fetch);
        }
        is_abandoned
    }

    fn release(&self, key: KeyHash, fetch: &Arc<InflightFetch>) {
        release(&mut self.lock(), key, fetch);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyHash, KeyFetches>> {
        // Every change under the lock is a single map operation: a panic leaves it whole.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn release(by_key: &mut HashMap<KeyHash, KeyFetches>, key: KeyHash, fetch: &Arc<InflightFetch>) {
    let Some(fetches) = by_key.get_mut(&key) else { return };
    for place in [&mut fetches.running, &mut fetches.queued] {
        place.take_if(|there| Arc::ptr_eq(there, fetch));
    }
    if fetches.running.is_none() && fetches.queued.is_none() {
        by_key.remove(&key);
    }
}

impl InflightFetch {
    fn new(stamp: Option<Stamp>) -> Arc<InflightFetch> {
        Arc::new(InflightFetch {
            stamp,
            outcome: watch::Sender::new(None),
            released: CancellationToken::new(),
            waiting_client: Mutex::default(),
        })
    }

    /// Whether it waits for another client's share of upstream, to which this client is not bound.
    pub fn waits_for_share_of_another(&self, client: Client) -> bool {
        self.waiting_client().is_some_and(|other| other != client)
    }

    fn waiting_client(&self) -> MutexGuard<'_, Option<Client>> {
        self.waiting_client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the flight to land.
    pub async fn outcome(&self) -> FetchOutcome {
        let mut outcome = self.outcome.subscribe();
        match outcome.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(FetchOutcome::Failed(UpstreamError::Abandoned)),
            Err(_) => FetchOutcome::Failed(UpstreamError::Abandoned),
        }
    }
}

impl FetchPermit {
    /// The flight, for the leader to wait for like everyone else.
    pub fn fetch(&self) -> Arc<InflightFetch> {
        Arc::clone(&self.fetch)
    }

    /// Whether others may join.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Waits for the flight before this one, if there is one to wait for, at most so long. The fetch begins after this.
    pub async fn turn(&self, limit: Option<Duration>) {
        if let Some(before) = &self.after {
            match limit {
                Some(limit) => drop(tokio::time::timeout(limit, before.cancelled()).await),
                None => before.cancelled().await,
            }
            self.inflight.begin(self.key, &self.fetch);
        }
    }

    /// Returns when everybody on board has left; nobody boards from then on.
    pub async fn abandoned(&self) {
        loop {
            self.fetch.outcome.closed().await;
            if self.inflight.abandon(self.key, &self.fetch) {
                return;
            }
            // Somebody has boarded and does not wait yet.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The flight waits for this client's share of upstream, until what this gives is dropped.
    pub fn wait_for_share(&self, client: Client) -> ShareWait {
        *self.fetch.waiting_client() = Some(client);
        ShareWait(Arc::clone(&self.fetch))
    }

    /// Nobody can join from now on.
    pub fn close(&self) {
        self.inflight.release(self.key, &self.fetch);
        self.fetch.released.cancel();
    }

    /// Tells everyone on board. The permit is kept until the response is stored, so that who comes meanwhile can
    /// still join.
    pub fn finish(&self, outcome: FetchOutcome) {
        // Whoever waits for its turn goes on: a body may take as long as it likes.
        self.fetch.released.cancel();
        self.fetch.outcome.send_replace(Some(outcome));
    }
}

/// A flight that waits for its leader's share of upstream.
#[derive(Debug)]
pub struct ShareWait(Arc<InflightFetch>);

impl Drop for ShareWait {
    fn drop(&mut self) {
        *self.0.waiting_client() = None;
    }
}

impl Drop for FetchPermit {
    fn drop(&mut self) {
        self.inflight.release(self.key, &self.fetch);
        self.fetch.outcome.send_if_modified(|outcome| {
            let abandoned = outcome.is_none();
            if abandoned {
                *outcome = Some(FetchOutcome::Failed(UpstreamError::Abandoned));
            }
            abandoned
        });
        self.fetch.released.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::{Epoch, Marks, Now};

    const KEY: KeyHash = KeyHash(1);

    fn role(inflight: &Arc<Inflight>, view: Option<&MarksView>) -> FetchRole {
        inflight.join(KEY, view, Instant::now())
    }

    fn lead(inflight: &Arc<Inflight>, view: Option<&MarksView>) -> FetchPermit {
        match role(inflight, view) {
            FetchRole::Lead(permit) => permit,
            other => panic!("expected to lead, got {other:?}"),
        }
    }

    fn join(inflight: &Arc<Inflight>, view: Option<&MarksView>) -> Arc<InflightFetch> {
        match role(inflight, view) {
            FetchRole::Join(fetch) => fetch,
            other => panic!("expected to join, got {other:?}"),
        }
    }

    #[test]
    fn a_reader_after_a_write_does_not_join_the_older_flight() {
        let (inflight, marks, tags) = (Inflight::new(), Marks::new(Epoch(1), 64), [Tag::family("a")]);
        let view = || marks.view(&marks.hold::<Vec<_>>(&tags), || 0);
        let older = lead(&inflight, Some(&view()));
        assert!(Arc::ptr_eq(&join(&inflight, Some(&view())), &older.fetch));
        marks.invalidate(&tags, [], Now::default());
        let newer = lead(&inflight, Some(&view()));
        drop(older);
        assert!(Arc::ptr_eq(&join(&inflight, Some(&view())), &newer.fetch));
        drop(newer);
        assert!(inflight.is_empty());
    }

    #[tokio::test]
    async fn while_the_store_is_away_only_a_fetch_that_has_not_begun_is_joined() {
        let inflight = Inflight::new();
        let running = lead(&inflight, None);
        running.turn(None).await;
        let queued = lead(&inflight, None);
        assert!(Arc::ptr_eq(&join(&inflight, None), &queued.fetch));
        drop(running);
        queued.turn(None).await;
        let third = lead(&inflight, None);
        assert!(!Arc::ptr_eq(&third.fetch, &queued.fetch));
        drop((queued, third));
        assert!(inflight.is_empty());
    }

    #[tokio::test]
    async fn a_flight_whose_leader_vanishes_fails_for_everyone() {
        let (inflight, marks) = (Inflight::new(), Marks::new(Epoch(1), 64));
        let view = marks.view(&[], || 0);
        let permit = lead(&inflight, Some(&view));
        let waiting = join(&inflight, Some(&view));
        drop(permit);
        assert!(matches!(waiting.outcome().await, FetchOutcome::Failed(UpstreamError::Abandoned)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_is_deserted_when_everybody_on_board_has_left() {
        let (inflight, marks) = (Inflight::new(), Marks::new(Epoch(1), 64));
        let view = marks.view(&[], || 0);
        let permit = lead(&inflight, Some(&view));
        let (leader, joined) = (permit.fetch(), join(&inflight, Some(&view)));
        let is_abandoned = async || tokio::time::timeout(LOOK * 10, permit.abandoned()).await.is_ok();
        assert!(!is_abandoned().await);
        drop(leader);
        assert!(!is_abandoned().await, "one has boarded, and does not wait yet");
        let waiting = tokio::spawn(async move { joined.outcome().await });
        assert!(!is_abandoned().await);
        waiting.abort();
        assert!(is_abandoned().await);
        assert!(inflight.is_empty());
    }

    #[test]
    fn keys_that_are_not_for_sharing_are_remembered_for_a_while() {
        let (inflight, now) = (Inflight::new(), Instant::now());
        inflight.remember_unshared(KEY, now);
        assert!(matches!(inflight.join(KEY, None, now), FetchRole::Alone));
        assert!(matches!(inflight.join(KEY, None, now + UNSHARED_FOR), FetchRole::Lead(_)));
    }
}
