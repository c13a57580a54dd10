//! What happens, for those who watch (`GET /cache/events`): invalidations as in the log, and a sample of the outcomes of requests. The
//! number of subscribers is bounded, and so is what waits for each of them; one that reads too slowly is told how much it has
//! missed. Without a subscriber a request costs one load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

/// Most subscribers.
pub const SUBSCRIBERS: usize = 16;
/// Events that wait for a subscriber before it misses some.
const WAITING: usize = 256;
/// Shortest time between two outcomes: at most ten a second.
const PAUSE: Duration = Duration::from_millis(100);

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `invalidation`, `wait` or `outcome`.
    pub name: &'static str,
    /// JSON.
    pub data: Arc<str>,
}

/// The outcome of one request, as an event.
#[derive(Debug, Serialize)]
pub struct OutcomeEvent<'o> {
    /// RFC 3339.
    pub time: String,
    pub method: &'o str,
    /// Without its query.
    pub path: &'o str,
    pub family: &'o str,
    pub outcome: &'static str,
    pub status: u16,
    pub micros: u64,
}

/// How long an invalidation of another proxy waited, as an event.
#[derive(Debug, Serialize)]
struct WaitEvent<'w> {
    id: &'w str,
    wait_ms: f64,
}

/// The events of this process.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
    subscribers: AtomicUsize,
    start: Instant,
    /// Notified of each new subscriber.
    begun: Notify,
    /// When the next outcome may be sent, microseconds after the start.
    next_outcome: AtomicU64,
    /// Cancelled when the admin ends.
    pub ended: CancellationToken,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            sender: broadcast::Sender::new(WAITING),
            subscribers: AtomicUsize::new(0),
            start: Instant::now(),
            begun: Notify::new(),
            next_outcome: AtomicU64::new(0),
            ended: CancellationToken::new(),
        }
    }
}

/// A subscriber, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    events: Arc<Events>,
    receiver: broadcast::Receiver<Event>,
}

/// What a subscriber gets.
#[derive(Debug, PartialEq, Eq)]
pub enum ReceivedEvent {
    Event(Event),
    /// So many events came faster than it has read them.
    Lost(u64),
    /// There are no more.
    Ended,
}

impl Events {
    /// The events from now on; `None` if there are too many subscribers.
    pub fn subscribe(self: &Arc<Events>) -> Option<Subscription> {
        let one_more = |count| (count < SUBSCRIBERS).then_some(count + 1);
        self.subscribers.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        self.begun.notify_one();
        Some(Subscription { events: Arc::clone(self), receiver: self.sender.subscribe() })
    }

    /// Waits for a new subscriber.
    pub async fn begun(&self) {
        self.begun.notified().await;
    }

    /// Whether there is a subscriber.
    pub fn is_watched(&self) -> bool {
        self.subscribers.load(Relaxed) > 0
    }

    /// Sends the record of an invalidation.
    pub fn invalidated(&self, record: &impl Serialize) {
        if self.is_watched() {
            self.send_json("invalidation", record);
        }
    }

    /// Sends how long an invalidation of another proxy has waited.
    pub fn waited(&self, id: &str, wait_ms: f64) {
        self.send_json("wait", &WaitEvent { id, wait_ms });
    }

    /// Sends an outcome, unless one was sent just before. Call it if somebody watches.
    pub fn answered<'o>(&self, outcome: impl FnOnce() -> OutcomeEvent<'o>) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let next = self.next_outcome.load(Relaxed);
        let later = now.saturating_add(PAUSE.as_micros() as u64);
        if now >= next && self.next_outcome.compare_exchange(next, later, Relaxed, Relaxed).is_ok() {
            self.send_json("outcome", &outcome());
        }
    }

    fn send_json(&self, name: &'static str, data: &impl Serialize) {
        if let Ok(data) = serde_json::to_string(data) {
            self.send(name, data.into());
        }
    }

    fn send(&self, name: &'static str, data: Arc<str>) {
        let _ = self.sender.send(Event { name, data });
    }
}

impl Subscription {
    /// Waits for the next event.
    pub async fn next(&mut self) -> ReceivedEvent {
        tokio::select! {
            biased;
            () = self.events.ended.cancelled() => ReceivedEvent::Ended,
            received = self.receiver.recv() => match received {
                Ok(event) => ReceivedEvent::Event(event),
                Err(broadcast::error::RecvError::Lagged(lost)) => ReceivedEvent::Lost(lost),
                Err(broadcast::error::RecvError::Closed) => ReceivedEvent::Ended,
            },
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.events.subscribers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> OutcomeEvent<'static> {
        OutcomeEvent {
            time: String::new(),
            method: "GET",
            path: "/",
            family: "none",
            outcome: "hit",
            status: 200,
            micros: 1,
        }
    }

    #[tokio::test]
    async fn subscribers_are_bounded_and_a_slow_one_is_told_what_it_missed() {
        let events = Arc::new(Events::default());
        let mut all: Vec<Subscription> = (0..SUBSCRIBERS).map(|_| events.subscribe().unwrap()).collect();
        assert!(events.subscribe().is_none());
        all.truncate(1);
        assert!(events.subscribe().is_some() && events.is_watched());
        (0..WAITING + 3).for_each(|number| events.waited(&number.to_string(), 1.0));
        assert_eq!(all[0].next().await, ReceivedEvent::Lost(3));
        let ReceivedEvent::Event(event) = all[0].next().await else { panic!("there are more") };
        assert_eq!((event.name, &*event.data), ("wait", r#"{"id":"3","wait_ms":1.0}"#));
        events.ended.cancel();
        assert_eq!(all[0].next().await, ReceivedEvent::Ended);
        drop(all);
        assert!(!events.is_watched());
    }

    #[tokio::test]
    async fn outcomes_are_sampled() {
        let events = Arc::new(Events::default());
        let mut subscription = events.subscribe().unwrap();
        (0..1000).for_each(|_| events.answered(outcome));
        events.waited("end", 0.0);
        let mut outcomes = 0;
        while let ReceivedEvent::Event(Event { name: "outcome", .. }) = subscription.next().await {
            outcomes += 1;
        }
        assert!((1..=5).contains(&outcomes), "{outcomes} in a moment");
    }
}
