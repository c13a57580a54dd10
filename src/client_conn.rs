//! The client connections of a listener and their states, so that idle ones can be closed to make room for new ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::client::Client;

pub mod interim;
pub(crate) mod timeouts;

/// The open connections of one listener.
#[derive(Debug)]
pub struct ClientConns {
    start: Instant,
    open: Mutex<OpenConns>,
}

#[derive(Debug, Default)]
struct OpenConns {
    next: u64,
    by_id: HashMap<u64, Arc<ClientConn>>,
}

/// The state of an open connection.
#[derive(Debug)]
pub struct ClientConn {
    id: u64,
    client: Client,
    /// Start of the time in `since`.
    start: Instant,
    /// Requests in progress; one more after an upgrade.
    busy: AtomicUsize,
    /// A write waits for the client to read.
    is_writing: AtomicBool,
    /// End of the last request, or else opening of the connection: microseconds after `start`.
    since: AtomicU64,
    is_evicted: AtomicBool,
    evict: Notify,
}

/// Keeps a connection busy until it is dropped.
#[derive(Debug)]
pub struct Busy(Arc<ClientConn>);

impl ClientConns {
    /// None yet.
    pub(crate) fn new() -> ClientConns {
        ClientConns { start: Instant::now(), open: Mutex::default() }
    }

    /// Adds a connection, until [`ClientConns::close`].
    pub fn open(&self, client: Client) -> Arc<ClientConn> {
        let mut open = self.lock();
        let id = open.next;
        open.next += 1;
        let connection = Arc::new(ClientConn {
            id,
            client,
            start: self.start,
            busy: AtomicUsize::new(0),
            is_writing: AtomicBool::new(false),
            since: AtomicU64::new(micros(self.start)),
            is_evicted: AtomicBool::new(false),
            evict: Notify::new(),
        });
        open.by_id.insert(id, Arc::clone(&connection));
        connection
    }

    /// Removes a closed connection.
    pub fn close(&self, connection: &ClientConn) {
        self.lock().by_id.remove(&connection.id);
    }

    /// Number of connections that were asked to close and are still open.
    pub fn evicted(&self) -> usize {
        self.lock().evicted()
    }

    /// Asks idle connections to close, until `count` are closing, including those that are already. Connections of the clients
    /// with the most connections come first, and of these the longest idle. Returns how many it has asked.
    pub fn evict_idle(&self, count: usize) -> usize {
        let mut counts: HashMap<Client, usize> = HashMap::new();
        let (missing, mut idle): (usize, Vec<_>) = {
            let open = self.lock();
            let missing = count.saturating_sub(open.evicted());
            if missing == 0 {
                return 0;
            }
            open.by_id.values().for_each(|connection| *counts.entry(connection.client).or_default() += 1);
            (missing, open.by_id.values().filter(|connection| connection.is_idle()).map(Arc::clone).collect())
        };
        idle.sort_by_cached_key(|connection| {
            (std::cmp::Reverse(counts[&connection.client]), connection.since.load(Relaxed), connection.id)
        });
        idle.truncate(missing);
        idle.iter().for_each(|connection| connection.close_now());
        idle.len()
    }

    /// Asks one connection to close that is not busy, even if a write is pending: the oldest one of the client with the most of
    /// them. `false` if there is none.
    pub fn evict_of_largest(&self) -> bool {
        let open = self.lock();
        let free = || open.by_id.values().filter(|connection| connection.is_free());
        let mut counts: HashMap<Client, usize> = HashMap::new();
        free().for_each(|connection| *counts.entry(connection.client).or_default() += 1);
        let victim =
            free().max_by_key(|connection| (counts[&connection.client], std::cmp::Reverse(connection.id)));
        victim.inspect(|connection| connection.close_now()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, OpenConns> {
        // Nothing between locking and unlocking panics.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConns {
    fn evicted(&self) -> usize {
        self.by_id.values().filter(|connection| connection.is_closing()).count()
    }
}

impl ClientConn {
    /// The client by whose address the connection counts.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Marks the connection busy: it is not closed to make room.
    pub fn begin(self: &Arc<ClientConn>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }

    /// Marks the connection busy until it is closed.
    pub fn keep(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    /// Whether a request is in progress.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// The end of the last request, or else when it was opened. `None` while a request is in progress.
    pub fn idle_since(&self) -> Option<Instant> {
        (!self.is_busy()).then(|| self.start + Duration::from_micros(self.since.load(Relaxed)))
    }

    /// Records whether a write waits for the client.
    pub fn set_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Relaxed);
    }

    /// Returns when the connection is to be closed at once. Ignores the request to close if the connection is busy again, or
    /// has something to write: others are closed instead.
    pub async fn evicted(&self) {
        loop {
            self.evict.notified().await;
            if self.is_closing() {
                return;
            }
            self.is_evicted.store(false, Relaxed);
        }
    }

    /// It was asked to close, and is still idle.
    fn is_closing(&self) -> bool {
        self.is_evicted.load(Relaxed) && !self.is_busy() && !self.is_writing.load(Relaxed)
    }

    fn is_free(&self) -> bool {
        !self.is_busy() && !self.is_evicted.load(Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.is_free() && !self.is_writing.load(Relaxed)
    }

    fn close_now(&self) {
        self.is_evicted.store(true, Relaxed);
        self.evict.notify_one();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.since.store(micros(self.0.start), Relaxed);
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::net::{IpAddr, Ipv4Addr};
    use std::task::{Context, Waker};

    fn client(n: u8) -> Client {
        Client::at(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)))
    }

    fn evicted(all: &[Arc<ClientConn>]) -> Vec<usize> {
        (0..all.len()).filter(|index| all[*index].is_evicted.load(Relaxed)).collect()
    }

    #[test]
    fn idle_connections_are_closed_oldest_first_and_each_once() {
        let connections = ClientConns::new();
        let all: Vec<_> = (0..6).map(|_| connections.open(client(1))).collect();
        let busy = all[0].begin();
        all[1].set_writing(true);
        all[2].keep();
        assert_eq!(connections.evict_idle(2), 2);
        assert_eq!(evicted(&all), [3, 4]);
        assert_eq!(connections.evict_idle(9), 1);
        assert_eq!(connections.evict_idle(9), 0, "the others are busy");
        drop(busy);
        assert_eq!(connections.evict_idle(9), 1);
        assert_eq!(evicted(&all), [0, 3, 4, 5]);
    }

    #[test]
    fn closing_connections_count_until_they_are_closed() {
        let connections = ClientConns::new();
        let all: Vec<_> = (0..6).map(|_| connections.open(client(1))).collect();
        assert_eq!(connections.evict_idle(2), 2);
        assert_eq!((connections.evict_idle(2), connections.evicted()), (0, 2));
        assert_eq!(connections.evict_idle(3), 1);
        connections.close(&all[0]);
        assert_eq!((connections.evict_idle(3), connections.evicted()), (1, 3));
        assert_eq!(evicted(&all), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn a_connection_that_begins_a_request_before_it_closes_stays_open() {
        let connections = ClientConns::new();
        let all: Vec<_> = (0..2).map(|_| connections.open(client(1))).collect();
        connections.evict_idle(1);
        let busy = all[0].begin();
        let mut closing = Box::pin(all[0].evicted());
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!((connections.evicted(), evicted(&all)), (0, vec![]));
        assert_eq!(connections.evict_idle(1), 1, "another one is closed");
        assert_eq!(evicted(&all), [1]);
        drop(busy);
        assert_eq!(connections.evict_idle(2), 1);
        closing.await;
    }

    #[test]
    fn a_connection_of_the_client_with_the_most_is_closed() {
        let connections = ClientConns::new();
        let all: Vec<_> = [1, 2, 2, 2, 3].map(|n| connections.open(client(n))).into();
        let _busy = all[1].begin();
        all[2].set_writing(true);
        assert!(connections.evict_of_largest());
        assert_eq!(evicted(&all), [2]);
        connections.close(&all[3]);
        assert!(connections.evict_of_largest() && connections.evict_of_largest());
        assert!(!connections.evict_of_largest());
        assert_eq!(evicted(&all), [0, 2, 4]);
    }

    #[tokio::test]
    async fn an_eviction_before_the_wait_is_noticed() {
        let connections = ClientConns::new();
        let connection = connections.open(client(1));
        connections.evict_idle(1);
        connection.evicted().await;
    }
}
