//! The connections of a listener, each with what it is doing: so that those which do nothing can give way to new ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::client::Client;

pub mod interim;
pub(crate) mod timeouts;

/// The open connections of a listener.
#[derive(Debug)]
pub struct ClientConns {
    start: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_id: HashMap<u64, Arc<ClientConn>>,
}

/// What an open connection is doing.
#[derive(Debug)]
pub struct ClientConn {
    id: u64,
    client: Client,
    /// When the connections of its listener began to be counted.
    start: Instant,
    /// Requests that are being answered; one more once it is upgraded.
    busy: AtomicUsize,
    /// A write waits for the client to read.
    is_writing: AtomicBool,
    /// When the last request was answered, or the connection was opened: microseconds after `start`.
    since: AtomicU64,
    is_evicted: AtomicBool,
    evict: Notify,
}

/// While it lives, the connection is busy.
#[derive(Debug)]
pub struct Busy(Arc<ClientConn>);

impl ClientConns {
    /// None yet.
    pub fn new() -> ClientConns {
        ClientConns { start: Instant::now(), open: Mutex::default() }
    }

    /// One more, which counts until [`ClientConns::close`].
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

    /// It is closed.
    pub fn close(&self, connection: &ClientConn) {
        self.lock().by_id.remove(&connection.id);
    }

    /// ClientConns that have been told to close and have not done so yet.
    pub fn evicted(&self) -> usize {
        self.lock().evicted()
    }

    /// Has connections closed that do nothing until `count` are about to close, those included that are already: first those
    /// of the clients that have the most connections, and of these those that have done nothing for the longest time. Gives
    /// how many were told to.
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

    /// Has one connection closed that is not busy, whether or not its client reads: the oldest one of the client that has
    /// the most of them. `false` if there is none.
    pub fn evict_of_largest(&self) -> bool {
        let open = self.lock();
        let free = || open.by_id.values().filter(|connection| connection.is_free());
        let mut counts: HashMap<Client, usize> = HashMap::new();
        free().for_each(|connection| *counts.entry(connection.client).or_default() += 1);
        let victim =
            free().max_by_key(|connection| (counts[&connection.client], std::cmp::Reverse(connection.id)));
        victim.inspect(|connection| connection.close_now()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing between locking and unlocking panics.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn evicted(&self) -> usize {
        self.by_id.values().filter(|connection| connection.is_closing()).count()
    }
}

impl ClientConn {
    /// The address at the other end.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Marks it busy: it is not closed to make room.
    pub fn begin(self: &Arc<ClientConn>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }

    /// Marks it busy for as long as it is open.
    pub fn keep(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    /// Whether a request is being answered.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// Says whether a write waits for the client.
    pub fn set_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Relaxed);
    }

    /// Returns when the connection is to be closed at once. Not if it has taken up a request meanwhile, or has an answer to
    /// write: then others give way.
    pub async fn evicted(&self) {
        loop {
            self.evict.notified().await;
            if self.is_closing() {
                return;
            }
            self.is_evicted.store(false, Relaxed);
        }
    }

    /// It was told to close, and still does nothing.
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
    fn no_more_are_evicted_while_those_that_were_have_yet_to_close() {
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
    async fn a_connection_that_takes_up_a_request_before_it_closes_stays() {
        let connections = ClientConns::new();
        let all: Vec<_> = (0..2).map(|_| connections.open(client(1))).collect();
        connections.evict_idle(1);
        let busy = all[0].begin();
        let mut closing = Box::pin(all[0].evicted());
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!((connections.evicted(), evicted(&all)), (0, vec![]));
        assert_eq!(connections.evict_idle(1), 1, "another one gives way");
        assert_eq!(evicted(&all), [1]);
        drop(busy);
        assert_eq!(connections.evict_idle(2), 1);
        closing.await;
    }

    #[test]
    fn the_client_with_the_most_connections_gives_way() {
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
    async fn who_is_evicted_before_it_waits_learns_of_it() {
        let connections = ClientConns::new();
        let connection = connections.open(client(1));
        connections.evict_idle(1);
        connection.evicted().await;
    }
}
