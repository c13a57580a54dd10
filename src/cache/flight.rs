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
use crate::key::KeyHash;
use crate::semantics::freshness::Failure;
use crate::stamp::{Stamp, Tag, View};
use crate::upstream::UpstreamError;

/// How long it is remembered that a key's responses cannot be shared, so that requests for them do not queue.
const UNSHARED_FOR: Duration = Duration::from_secs(30);
/// How many such keys are remembered.
const UNSHARED_MOST: usize = 10_000;

/// How often it is looked for those who have boarded a flight and not begun to wait.
const LOOK: Duration = Duration::from_millis(10);

/// How a flight ended, for everyone on board.
#[derive(Debug, Clone)]
pub enum Landing {
    /// A response that may be shared has begun.
    Streaming(Arc<Head>, Arc<Stream>),
    /// A stored response, just validated.
    Validated(Arc<Entry>),
    /// Another proxy has fetched and stored it meanwhile; the request fields that told it apart from others.
    Elsewhere(Arc<Entry>, Vec<HeaderName>),
    /// Upstream failed, and this stored response may stand in for it as far as the leader's request goes (RFC 5861 §4,
    /// RFC 9111 §4.2.4). Everybody else has to ask that of their own; who may not have it is told how upstream failed.
    StaleOnError(Arc<Entry>, Failed),
    /// Upstream failed with an error that is not stored: followers are told the same, and do not ask it again.
    ServerError(Arc<ServerError>),
    /// A response for the leader alone; the others fetch for themselves.
    Unshared,
    /// Upstream gave no response.
    Failed(UpstreamError),
}

/// How upstream failed.
#[derive(Debug, Clone, Copy)]
pub enum Failed {
    /// With an error of the server.
    Status(StatusCode),
    /// It gave no answer.
    NoAnswer(UpstreamError),
}

impl Failed {
    /// The same as what may stand in for an answer goes by.
    pub fn failure(self) -> Failure {
        match self {
            Failed::Status(status) => Failure::Status(status),
            Failed::NoAnswer(_) => Failure::NoAnswer,
        }
    }
}

/// An error of the server that is not stored.
#[derive(Debug)]
pub struct ServerError {
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
pub struct Flight {
    stamp: Option<Stamp>,
    landing: watch::Sender<Option<Landing>>,
    released: CancellationToken,
    /// The leader's client, while nothing but its own share of upstream keeps the flight on the ground.
    held_up_by: Mutex<Option<Client>>,
}

/// Flights by key.
#[derive(Debug)]
pub struct Flights {
    /// Guards the lanes; held for a few map operations.
    lanes: Mutex<HashMap<KeyHash, Lane>>,
    unshared: quick_cache::sync::Cache<KeyHash, Instant>,
}

#[derive(Debug, Default)]
struct Lane {
    running: Option<Arc<Flight>>,
    queued: Option<Arc<Flight>>,
}

/// What a request that needs a fetch does.
#[derive(Debug)]
pub enum Boarding {
    /// Fetch, for oneself and for those who join.
    Lead(Permit),
    /// Wait for another one's fetch.
    Join(Arc<Flight>),
    /// Fetch for oneself: responses for this key were not for sharing lately.
    Alone,
}

/// The right and duty to fetch. Dropping it releases the flight; whoever waits then is told that it failed.
#[derive(Debug)]
pub struct Permit {
    flights: Arc<Flights>,
    key: KeyHash,
    flight: Arc<Flight>,
    after: Option<CancellationToken>,
    shared: bool,
}

impl Flights {
    /// No flights.
    pub fn new() -> Arc<Flights> {
        Arc::new(Flights { lanes: Mutex::default(), unshared: quick_cache::sync::Cache::new(UNSHARED_MOST) })
    }

    /// Leads or joins. `view`: what the request's lookup learned; `None` when the store is away.
    pub fn board(self: &Arc<Flights>, key: KeyHash, view: Option<&View>, now: Instant) -> Boarding {
        if self.unshared.get(&key).is_some_and(|until| now < until) {
            return Boarding::Alone;
        }
        let mut lanes = self.lock();
        let lane = lanes.entry(key).or_default();
        let joined = match view {
            Some(view) => {
                lane.running.as_ref().filter(|flight| flight.stamp.is_some_and(|stamp| view.is_current(stamp)))
            }
            None => lane.queued.as_ref(),
        };
        if let Some(flight) = joined {
            return Boarding::Join(Arc::clone(flight));
        }
        let flight = Flight::new(view.map(|view| view.stamp));
        let after = match (view, &lane.running) {
            (None, Some(running)) => {
                lane.queued = Some(Arc::clone(&flight));
                Some(running.released.clone())
            }
            // The flight that was there, if any, flies on for those on board; nobody boards it any more.
            _ => {
                lane.running = Some(Arc::clone(&flight));
                None
            }
        };
        Boarding::Lead(Permit { flights: Arc::clone(self), key, flight, after, shared: true })
    }

    /// A fetch that nobody can join.
    pub fn solo(self: &Arc<Flights>, key: KeyHash, view: Option<&View>) -> Permit {
        let flight = Flight::new(view.map(|view| view.stamp));
        Permit { flights: Arc::clone(self), key, flight, after: None, shared: false }
    }

    /// Nobody boards this flight any more; it flies on for those on board.
    pub fn pass_over(&self, key: KeyHash, flight: &Arc<Flight>) {
        self.release(key, flight);
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

    fn begin(&self, key: KeyHash, flight: &Arc<Flight>) {
        let mut lanes = self.lock();
        let lane = lanes.entry(key).or_default();
        // From here on the fetch has begun: it must not be joined as one that has not.
        if lane.queued.as_ref().is_some_and(|queued| Arc::ptr_eq(queued, flight)) {
            lane.queued = None;
            lane.running = Some(Arc::clone(flight));
        }
    }

    /// Releases a flight that nobody but its permit knows of. Who boards does so under the same lock.
    fn abandon(&self, key: KeyHash, flight: &Arc<Flight>) -> bool {
        let mut lanes = self.lock();
        let lane = lanes.get(&key);
        let places = lane.map_or(0, |lane| {
            [&lane.running, &lane.queued].into_iter().flatten().filter(|there| Arc::ptr_eq(there, flight)).count()
        });
        let is_deserted = Arc::strong_count(flight) == places + 1;
        if is_deserted {
            release(&mut lanes, key, flight);
        }
        is_deserted
    }

    fn release(&self, key: KeyHash, flight: &Arc<Flight>) {
        release(&mut self.lock(), key, flight);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyHash, Lane>> {
        // Every change under the lock is a single map operation: a panic leaves it whole.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn release(lanes: &mut HashMap<KeyHash, Lane>, key: KeyHash, flight: &Arc<Flight>) {
    let Some(lane) = lanes.get_mut(&key) else { return };
    for place in [&mut lane.running, &mut lane.queued] {
        place.take_if(|there| Arc::ptr_eq(there, flight));
    }
    if lane.running.is_none() && lane.queued.is_none() {
        lanes.remove(&key);
    }
}

impl Flight {
    fn new(stamp: Option<Stamp>) -> Arc<Flight> {
        Arc::new(Flight {
            stamp,
            landing: watch::Sender::new(None),
            released: CancellationToken::new(),
            held_up_by: Mutex::default(),
        })
    }

    /// Whether it waits for another client's share of upstream, to which this client is not bound.
    pub fn is_held_up_for(&self, client: Client) -> bool {
        self.held_up_by().is_some_and(|other| other != client)
    }

    fn held_up_by(&self) -> MutexGuard<'_, Option<Client>> {
        self.held_up_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the flight to land.
    pub async fn landing(&self) -> Landing {
        let mut landing = self.landing.subscribe();
        match landing.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(Landing::Failed(UpstreamError::Abandoned)),
            Err(_) => Landing::Failed(UpstreamError::Abandoned),
        }
    }
}

impl Permit {
    /// The flight, for the leader to wait for like everyone else.
    pub fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
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
            self.flights.begin(self.key, &self.flight);
        }
    }

    /// Returns when everybody on board has left; nobody boards from then on.
    pub async fn deserted(&self) {
        loop {
            self.flight.landing.closed().await;
            if self.flights.abandon(self.key, &self.flight) {
                return;
            }
            // Somebody has boarded and does not wait yet.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The flight waits for this client's share of upstream, until what this gives is dropped.
    pub fn hold_up(&self, client: Client) -> HeldUp {
        *self.flight.held_up_by() = Some(client);
        HeldUp(Arc::clone(&self.flight))
    }

    /// Nobody can join from now on.
    pub fn close(&self) {
        self.flights.release(self.key, &self.flight);
        self.flight.released.cancel();
    }

    /// Tells everyone on board. The permit is kept until the response is stored, so that who comes meanwhile can
    /// still join.
    pub fn land(&self, landing: Landing) {
        // Whoever waits for its turn goes on: a body may take as long as it likes.
        self.flight.released.cancel();
        self.flight.landing.send_replace(Some(landing));
    }
}

/// A flight that waits for its leader's share of upstream.
#[derive(Debug)]
pub struct HeldUp(Arc<Flight>);

impl Drop for HeldUp {
    fn drop(&mut self) {
        *self.0.held_up_by() = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.flights.release(self.key, &self.flight);
        self.flight.landing.send_if_modified(|landing| {
            let abandoned = landing.is_none();
            if abandoned {
                *landing = Some(Landing::Failed(UpstreamError::Abandoned));
            }
            abandoned
        });
        self.flight.released.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Epoch, Marks, Now};

    const KEY: KeyHash = KeyHash(1);

    fn board(flights: &Arc<Flights>, view: Option<&View>) -> Boarding {
        flights.board(KEY, view, Instant::now())
    }

    fn lead(flights: &Arc<Flights>, view: Option<&View>) -> Permit {
        match board(flights, view) {
            Boarding::Lead(permit) => permit,
            other => panic!("expected to lead, got {other:?}"),
        }
    }

    fn join(flights: &Arc<Flights>, view: Option<&View>) -> Arc<Flight> {
        match board(flights, view) {
            Boarding::Join(flight) => flight,
            other => panic!("expected to join, got {other:?}"),
        }
    }

    #[test]
    fn a_reader_after_a_write_does_not_join_the_older_flight() {
        let (flights, marks, tags) = (Flights::new(), Marks::new(Epoch(1), 64), [Tag::family("a")]);
        let view = || marks.view(&marks.hold::<Vec<_>>(&tags), || 0);
        let older = lead(&flights, Some(&view()));
        assert!(Arc::ptr_eq(&join(&flights, Some(&view())), &older.flight));
        marks.invalidate(&tags, [], Now::default());
        let newer = lead(&flights, Some(&view()));
        drop(older);
        assert!(Arc::ptr_eq(&join(&flights, Some(&view())), &newer.flight));
        drop(newer);
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn while_the_store_is_away_only_a_fetch_that_has_not_begun_is_joined() {
        let flights = Flights::new();
        let running = lead(&flights, None);
        running.turn(None).await;
        let queued = lead(&flights, None);
        assert!(Arc::ptr_eq(&join(&flights, None), &queued.flight));
        drop(running);
        queued.turn(None).await;
        let third = lead(&flights, None);
        assert!(!Arc::ptr_eq(&third.flight, &queued.flight));
        drop((queued, third));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_flight_whose_leader_vanishes_fails_for_everyone() {
        let (flights, marks) = (Flights::new(), Marks::new(Epoch(1), 64));
        let view = marks.view(&[], || 0);
        let permit = lead(&flights, Some(&view));
        let waiting = join(&flights, Some(&view));
        drop(permit);
        assert!(matches!(waiting.landing().await, Landing::Failed(UpstreamError::Abandoned)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_is_deserted_when_everybody_on_board_has_left() {
        let (flights, marks) = (Flights::new(), Marks::new(Epoch(1), 64));
        let view = marks.view(&[], || 0);
        let permit = lead(&flights, Some(&view));
        let (leader, joined) = (permit.flight(), join(&flights, Some(&view)));
        let is_deserted = async || tokio::time::timeout(LOOK * 10, permit.deserted()).await.is_ok();
        assert!(!is_deserted().await);
        drop(leader);
        assert!(!is_deserted().await, "one has boarded, and does not wait yet");
        let waiting = tokio::spawn(async move { joined.landing().await });
        assert!(!is_deserted().await);
        waiting.abort();
        assert!(is_deserted().await);
        assert!(flights.is_empty());
    }

    #[test]
    fn keys_that_are_not_for_sharing_are_remembered_for_a_while() {
        let (flights, now) = (Flights::new(), Instant::now());
        flights.remember_unshared(KEY, now);
        assert!(matches!(flights.board(KEY, None, now), Boarding::Alone));
        assert!(matches!(flights.board(KEY, None, now + UNSHARED_FOR), Boarding::Lead(_)));
    }
}
