//! Coalescing in one process: requests with the same key share one fetch. The first is its *leader*, the others are *followers*.
//!
//! A request follows **only a fetch whose stamp is still current for the request's tags**. So a read that begins after a write was
//! acknowledged never gets the response of a fetch that began before it.
//!
//! While Redis does not answer, there is no stamp to compare, and a write may have passed through another proxy. Then a request
//! follows only a fetch that *has not begun*: of each key one fetch runs, one is queued behind it, and all requests that come
//! meanwhile follow the queued one. Upstream sees one request for a key at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use crate::client::Client;
use crate::entry::Entry;
use crate::key::KeyHash;
use crate::marks::{MarksView, Stamp, Tag};
use crate::upstream::UpstreamError;

/// How long a key counts as one whose responses cannot be shared. Requests for it do not follow one another.
const UNSHARED_FOR: Duration = Duration::from_secs(30);
/// Most such keys that are remembered.
const UNSHARED_MOST: usize = 10_000;

/// Poll interval for followers that have not subscribed yet.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How a fetch ended, for its leader and its followers.
#[derive(Debug, Clone)]
pub enum FetchOutcome {
    /// A response that may be shared has begun.
    Streaming(Arc<Head>, Arc<Stream>),
    /// A stored response that upstream has validated.
    Validated(Arc<Entry>),
    /// An entry that another proxy has fetched and stored meanwhile, and the request fields that select its variant.
    Elsewhere(Arc<Entry>, Vec<HeaderName>),
    /// Upstream failed with this answer, and the leader's request allows this stale response instead (RFC 5861 §4, RFC 9111
    /// §4.2.4). Each follower checks whether its own request allows it; otherwise it gets the failure.
    StaleOnError(Arc<Entry>, UpstreamAnswer),
    /// A 5xx that is not stored. Followers get it too, and do not ask upstream again.
    ServerError(Arc<ServerErrorResponse>),
    /// A response that only the leader may have. Followers fetch for themselves.
    Unshared,
    /// Upstream gave no response.
    Failed(UpstreamError),
}

/// What upstream answered: the status of its response, or why there is none.
pub type UpstreamAnswer = Result<StatusCode, UpstreamError>;

/// A 5xx that is not stored.
#[derive(Debug)]
pub struct ServerErrorResponse {
    pub status: StatusCode,
    /// Why it is not stored: `detail` in `Cache-Status`.
    pub reason: &'static str,
    pub retry_after: Option<HeaderValue>,
    /// The leader's fields, without its conditions: they may have caused the error.
    pub request: HeaderMap,
    /// The response, for followers with the same values of the fields that it varies on. `None` if only the leader may have it:
    /// followers get the status.
    pub response: Option<(Head, Arc<Stream>)>,
}

/// The head of a response that is being shared.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Request fields that the response varies on. Requests with other values cannot share it.
    pub varies_on: Vec<HeaderName>,
    /// The canonical text of the leader's request, with those fields.
    pub text: String,
    /// Seconds of freshness.
    pub ttl: i64,
    /// Some fields are meant for Larder, and are removed on the way to clients.
    pub consumed: bool,
    /// Upstream's values of the fields that clients get with other values (`client_cache_control`).
    pub original_fields: Option<Box<HeaderMap>>,
    /// Read before the fetch.
    pub stamp: Option<Stamp>,
    /// Tags of the groups that the response names. Followers did not know them when they looked up.
    pub groups: Vec<Tag>,
    /// It may be stored, unless Redis does not answer or the body is too large.
    pub stored: bool,
}

/// One fetch.
#[derive(Debug)]
pub struct InflightFetch {
    stamp: Option<Stamp>,
    outcome: watch::Sender<Option<FetchOutcome>>,
    released: CancellationToken,
    /// The leader's client, while the fetch waits for nothing but that client's share of upstream.
    waiting_client: Mutex<Option<Client>>,
}

/// Inflight fetches by key.
#[derive(Debug)]
pub struct Inflight {
    /// The lock is held for a few map operations.
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
    /// Fetch for itself and for those who follow.
    Lead(FetchPermit),
    /// Wait for another request's fetch.
    Join(Arc<InflightFetch>),
    /// Fetch for itself alone: responses for this key could not be shared lately.
    Alone,
}

/// The leader's permit to fetch. When it is dropped without an outcome, followers get [`UpstreamError::Abandoned`].
#[derive(Debug)]
pub struct FetchPermit {
    inflight: Arc<Inflight>,
    key: KeyHash,
    fetch: Arc<InflightFetch>,
    after: Option<CancellationToken>,
    shared: bool,
}

impl Inflight {
    /// No fetches.
    pub fn new() -> Arc<Inflight> {
        Arc::new(Inflight { by_key: Mutex::default(), unshared: quick_cache::sync::Cache::new(UNSHARED_MOST) })
    }

    /// Leads or follows. `view`: the marks that the request's lookup read; `None` if Redis did not answer.
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
            // A fetch that was there goes on for its followers, and gets no new ones.
            _ => {
                fetches.running = Some(Arc::clone(&fetch));
                None
            }
        };
        FetchRole::Lead(FetchPermit { inflight: Arc::clone(self), key, fetch, after, shared: true })
    }

    /// Leads a fetch that nobody can follow.
    pub fn lead_alone(self: &Arc<Inflight>, key: KeyHash, view: Option<&MarksView>) -> FetchPermit {
        let fetch = InflightFetch::new(view.map(|view| view.stamp));
        FetchPermit { inflight: Arc::clone(self), key, fetch, after: None, shared: false }
    }

    /// Remembers for a while that responses for this key cannot be shared.
    pub fn remember_unshared(&self, key: KeyHash, now: Instant) {
        self.unshared.insert(key, now + UNSHARED_FOR);
    }

    /// Keys with a fetch.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn begin(&self, key: KeyHash, fetch: &Arc<InflightFetch>) {
        let mut by_key = self.lock();
        let fetches = by_key.entry(key).or_default();
        // The fetch has begun: while Redis does not answer, nobody may follow it any more.
        if fetches.queued.as_ref().is_some_and(|queued| Arc::ptr_eq(queued, fetch)) {
            fetches.queued = None;
            fetches.running = Some(Arc::clone(fetch));
        }
    }

    /// Removes a fetch that only its permit refers to; true if it was one. Followers join under the same lock.
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

    /// A fetch that ends, or that goes on for its followers: it gets no new ones.
    pub fn release(&self, key: KeyHash, fetch: &Arc<InflightFetch>) {
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

    /// Whether it waits for the share of another client than this one.
    pub fn waits_for_share_of_another(&self, client: Client) -> bool {
        self.waiting_client().is_some_and(|other| other != client)
    }

    fn waiting_client(&self) -> MutexGuard<'_, Option<Client>> {
        self.waiting_client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the outcome.
    pub async fn outcome(&self) -> FetchOutcome {
        let mut outcome = self.outcome.subscribe();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(FetchOutcome::Failed(UpstreamError::Abandoned)),
            Err(_) => FetchOutcome::Failed(UpstreamError::Abandoned),
        }
    }
}

impl FetchPermit {
    /// The fetch, whose outcome the leader awaits as followers do.
    pub fn fetch(&self) -> Arc<InflightFetch> {
        Arc::clone(&self.fetch)
    }

    /// Whether it may have followers.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Waits until the fetch before this one has ended, if it is queued behind one; at most `limit`. Then the fetch begins.
    pub async fn until_begun(&self, limit: Option<Duration>) {
        if let Some(before) = &self.after {
            match limit {
                Some(limit) => drop(tokio::time::timeout(limit, before.cancelled()).await),
                None => before.cancelled().await,
            }
            self.inflight.begin(self.key, &self.fetch);
        }
    }

    /// Returns when nobody waits for the outcome any more. Nobody can follow from then on.
    pub async fn abandoned(&self) {
        loop {
            self.fetch.outcome.closed().await;
            if self.inflight.abandon(self.key, &self.fetch) {
                return;
            }
            // A follower has joined and not subscribed yet.
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Notes that the fetch waits for this client's share of upstream, until the result is dropped.
    pub fn wait_for_share(&self, client: Client) -> ShareWait {
        *self.fetch.waiting_client() = Some(client);
        ShareWait(Arc::clone(&self.fetch))
    }

    /// Nobody can follow from now on.
    pub fn close(&self) {
        self.inflight.release(self.key, &self.fetch);
        self.fetch.released.cancel();
    }

    /// Publishes the outcome. As long as the permit lives, requests can still follow.
    pub fn finish(&self, outcome: FetchOutcome) {
        // The fetch that is queued behind this one begins: it does not wait for the body.
        self.fetch.released.cancel();
        self.fetch.outcome.send_replace(Some(outcome));
    }
}

/// A fetch waits for its leader's share of upstream as long as this lives.
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
    use crate::marks::{Epoch, HeldTags, Marks, Now};

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
    fn a_read_after_a_write_does_not_follow_the_older_fetch() {
        let (inflight, marks, tags) = (Inflight::new(), Marks::new(Epoch(1), 64), [Tag::family("a")]);
        let view = || marks.view(&marks.hold(&tags), || 0);
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
    async fn while_the_store_is_away_only_a_fetch_that_has_not_begun_is_followed() {
        let inflight = Inflight::new();
        let running = lead(&inflight, None);
        running.until_begun(None).await;
        let queued = lead(&inflight, None);
        assert!(Arc::ptr_eq(&join(&inflight, None), &queued.fetch));
        drop(running);
        queued.until_begun(None).await;
        let third = lead(&inflight, None);
        assert!(!Arc::ptr_eq(&third.fetch, &queued.fetch));
        drop((queued, third));
        assert!(inflight.is_empty());
    }

    #[tokio::test]
    async fn a_fetch_whose_leader_vanishes_fails_for_its_followers() {
        let (inflight, marks) = (Inflight::new(), Marks::new(Epoch(1), 64));
        let view = marks.view(&HeldTags::default(), || 0);
        let permit = lead(&inflight, Some(&view));
        let waiting = join(&inflight, Some(&view));
        drop(permit);
        assert!(matches!(waiting.outcome().await, FetchOutcome::Failed(UpstreamError::Abandoned)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_is_abandoned_when_nobody_waits_for_it() {
        let (inflight, marks) = (Inflight::new(), Marks::new(Epoch(1), 64));
        let view = marks.view(&HeldTags::default(), || 0);
        let permit = lead(&inflight, Some(&view));
        let (leader, joined) = (permit.fetch(), join(&inflight, Some(&view)));
        let is_abandoned = async || tokio::time::timeout(POLL_INTERVAL * 10, permit.abandoned()).await.is_ok();
        assert!(!is_abandoned().await);
        drop(leader);
        assert!(!is_abandoned().await, "a follower has joined, and does not wait yet");
        let waiting = tokio::spawn(async move { joined.outcome().await });
        assert!(!is_abandoned().await);
        waiting.abort();
        assert!(is_abandoned().await);
        assert!(inflight.is_empty());
    }

    #[test]
    fn keys_whose_responses_cannot_be_shared_are_remembered_for_a_while() {
        let (inflight, now) = (Inflight::new(), Instant::now());
        inflight.remember_unshared(KEY, now);
        assert!(matches!(inflight.join(KEY, None, now), FetchRole::Alone));
        assert!(matches!(inflight.join(KEY, None, now + UNSHARED_FOR), FetchRole::Lead(_)));
    }
}
