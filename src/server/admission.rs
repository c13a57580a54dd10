//! Who may connect, and how much each client may hold before its requests are known: connections, bytes of request heads that
//! have not ended, and HTTP/2 streams. Of each there is a total, and of that a share for one client.
//!
//! The client of a connection is the address at its other end. A balancer has the connections of many clients: one that has
//! shown itself by a head with `X-Forwarded-For` counts in the totals only.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::client::Client;
use crate::config::ServerConfig;
use crate::http::headers::ForwardedPolicy;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::server::connections::{Busy, Connection, Connections};
use crate::shares::{Over, Share, Shares};

/// Bytes of a head that count for nothing: every connection has a buffer of that size.
const FREE_HEAD: usize = 8 << 10;
/// How long a new connection waits for the place of one that is about to end, where none is idle.
const ROOM_WITHIN: Duration = Duration::from_millis(100);
/// The same while connections are being closed: others wait behind it.
const ROOM_AT_LAST: Duration = Duration::from_secs(1);
/// After a search that found too few idle connections, none is made for so long: it looks at all connections.
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// What clients share at a listener.
#[derive(Debug)]
pub(super) struct Admission {
    connections: Bound,
    heads: Bound,
    max_head: usize,
    streams: Bound,
    open: Connections,
    /// Idle connections are closed when fewer places than this are free.
    scarce: u64,
    /// When a search for idle connections last found too few.
    vain: Mutex<Option<Instant>>,
    policy: ForwardedPolicy,
    trusted: Vec<Network>,
    metrics: Arc<Metrics>,
}

/// A total, and a share of it for one client.
#[derive(Debug)]
struct Bound {
    all: Arc<Shares>,
    each: Arc<Shares>,
}

/// What a connection holds of a bound.
#[derive(Debug)]
pub(super) struct Held {
    of_all: Share,
    /// `None` for a balancer.
    of_client: Option<Share>,
}

/// A connection with what it holds, given back when its [`Ticket`] is dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    peer: IpAddr,
    pub connection: Arc<Connection>,
    /// Bytes of the head that is being read.
    head: AtomicUsize,
    /// HTTP/2 streams that are paid for.
    streams_held: AtomicUsize,
    /// It counts in the share of its client.
    is_clients: AtomicBool,
    /// Requests so far.
    requests: AtomicU64,
    holdings: Mutex<Holdings>,
}

#[derive(Debug, Default)]
struct Holdings {
    connection: Option<Held>,
    head: Option<Held>,
    streams: Option<Held>,
}

/// Gives a place back when dropped.
#[derive(Debug)]
pub(super) struct Ticket(pub Arc<Place>);

impl Bound {
    fn new(total: usize, per_client: usize) -> Bound {
        let (total, per_client) = (total as u64, per_client as u64);
        Bound { all: Shares::new(total, total), each: Shares::new(u64::MAX, per_client.min(total)) }
    }

    /// Adds to what a connection holds until it is `amount`. `is_clients`: it counts in its client's share.
    fn grow(&self, held: &mut Option<Held>, client: Client, amount: usize, is_clients: bool) -> Result<(), Over> {
        let Some(held) = held else {
            let amount = amount as u64;
            let of_client = is_clients.then(|| self.each.take(client, amount)).transpose()?;
            let of_all = self.all.take(client, amount).map_err(|_| Over::All)?;
            *held = Some(Held { of_all, of_client });
            return Ok(());
        };
        let by = (amount as u64).saturating_sub(held.of_all.amount());
        if let Some(of_client) = &mut held.of_client {
            of_client.grow(by)?;
        }
        let grown = held.of_all.grow(by).map_err(|_| Over::All);
        if let (Err(_), Some(of_client)) = (grown, &mut held.of_client) {
            of_client.shrink(by);
        }
        grown
    }
}

impl Admission {
    /// For a listener that may have so many connections.
    pub fn new(server: &ServerConfig, connections: usize, metrics: &Arc<Metrics>) -> Arc<Admission> {
        let quarter = |total: usize| (total / 4).max(1);
        let per_client = server.max_connections_per_client.unwrap_or_else(|| quarter(connections));
        let heads = usize::try_from(server.max_heads).unwrap_or(usize::MAX);
        Arc::new(Admission {
            connections: Bound::new(connections, per_client),
            heads: Bound::new(heads, quarter(heads)),
            max_head: server.max_head,
            streams: Bound::new(server.max_streams_per_client.saturating_mul(4), server.max_streams_per_client),
            open: Connections::new(),
            scarce: connections as u64 / 16,
            vain: Mutex::new(None),
            policy: server.forwarded,
            trusted: server.trusted_proxies.clone(),
            metrics: Arc::clone(metrics),
        })
    }

    fn client_of(&self, peer: IpAddr, fields: &HeaderMap) -> Client {
        Client::of(peer, self.policy, &self.trusted, fields)
    }

    /// A place for a connection from this address. If there is none left, one that is idle gives way.
    pub async fn admit(self: &Arc<Admission>, peer: IpAddr) -> Result<Ticket, Over> {
        let client = Client::at(peer);
        let of_client = self.connections.each.take(client, 1).map_err(|over| self.refused(over, "connections"))?;
        let all = &self.connections.all;
        let of_all = match all.take(client, 1) {
            Ok(share) => share,
            Err(_) => self.room(client).await.ok_or_else(|| self.refused(Over::All, "connections"))?,
        };
        if all.free() < self.scarce {
            self.make_room();
        }
        self.metrics.connections_total.inc();
        self.metrics.connections.inc();
        let connection = Some(Held { of_all, of_client: Some(of_client) });
        Ok(Ticket(Arc::new(Place {
            admission: Arc::clone(self),
            peer,
            connection: self.open.open(client),
            head: AtomicUsize::new(0),
            streams_held: AtomicUsize::new(0),
            is_clients: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            holdings: Mutex::new(Holdings { connection, ..Holdings::default() }),
        })))
    }

    /// Waits for a place. `None` if no connection gives way, and none has ended in time.
    async fn room(&self, client: Client) -> Option<Share> {
        let mut share = pin!(self.connections.all.wait(client, 1));
        let mut waited = Duration::ZERO;
        // Those that give way are closed by their own tasks, which a busy machine runs late.
        while waited < ROOM_WITHIN || waited < ROOM_AT_LAST && self.open.evicted() > 0 {
            self.make_room();
            if let Ok(share) = tokio::time::timeout(SEARCH_PAUSE, &mut share).await {
                return share.ok();
            }
            waited += SEARCH_PAUSE;
        }
        None
    }

    /// Closes some of the connections that are idle, oldest first.
    pub fn make_room(&self) {
        let mut vain = self.vain.lock().unwrap_or_else(PoisonError::into_inner);
        if vain.is_some_and(|vain| vain.elapsed() < SEARCH_PAUSE) {
            return;
        }
        let wanted = usize::try_from(self.scarce / 2).unwrap_or(usize::MAX).max(1);
        let evicted = self.open.evict_idle(wanted);
        *vain = (self.open.evicted() < wanted).then(Instant::now);
        self.metrics.connections_evicted.inc_by(evicted as u64);
    }

    fn refused(&self, over: Over, what: &'static str) -> Over {
        let bound = match over {
            Over::Client => "client",
            Over::All => "all",
        };
        self.metrics.refused(what, bound);
        over
    }
}

impl Place {
    /// A request is there, its head with it. The connection is busy until what is given is dropped.
    pub fn begin(&self, fields: &HeaderMap) -> Busy {
        self.head.store(0, Relaxed);
        // One that is a client's is asked more and more rarely whether it is a balancer's: it hardly turns into one.
        if self.is_clients.load(Relaxed)
            && (self.requests.fetch_add(1, Relaxed) + 1).is_power_of_two()
            && self.admission.client_of(self.peer, fields) != self.connection.client()
        {
            self.is_balancers();
        }
        self.connection.begin()
    }

    fn is_balancers(&self) {
        self.is_clients.store(false, Relaxed);
        let mut holdings = self.lock();
        let Holdings { connection, head, streams } = &mut *holdings;
        for held in [connection, head, streams].into_iter().flatten() {
            held.of_client = None;
        }
    }

    /// So many more bytes have been read of an HTTP/1 connection. What a long head takes is held until the connection ends:
    /// the buffer is as large as the longest.
    pub fn read(&self, count: usize) -> Result<(), Over> {
        if self.connection.is_busy() {
            return Ok(());
        }
        let head = self.head.fetch_add(count, Relaxed) + count;
        if head <= FREE_HEAD {
            return Ok(());
        }
        self.hold_head(head)
    }

    /// A head of an HTTP/2 connection has not ended with its frame. What the longest takes is held until the connection ends.
    pub fn read_long_head(&self) -> Result<(), Over> {
        self.hold_head(self.admission.max_head)
    }

    fn hold_head(&self, bytes: usize) -> Result<(), Over> {
        let grown = self.grow_head(&mut self.lock().head, bytes);
        if grown == Err(Over::All) {
            self.admission.make_room();
        }
        grown
    }

    /// What the head of a request over HTTP/2 takes until it is answered, if it is long: its connection goes on to read others.
    pub fn keep_head(&self, fields: &HeaderMap) -> Result<Option<Held>, Over> {
        let bytes = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let mut held = None;
        if bytes > FREE_HEAD {
            self.grow_head(&mut held, bytes)?;
        }
        Ok(held)
    }

    fn grow_head(&self, held: &mut Option<Held>, bytes: usize) -> Result<(), Over> {
        let grown =
            self.admission.heads.grow(held, self.connection.client(), bytes, self.is_clients.load(Relaxed));
        grown.map_err(|over| self.admission.refused(over, "heads"))
    }

    /// So many streams of an HTTP/2 connection are open. What the most took at a time is held until the connection ends, so
    /// that a stream seldom needs a lock.
    pub fn streams(&self, open: usize) -> Result<(), Over> {
        if open <= self.streams_held.load(Relaxed) {
            return Ok(());
        }
        let is_clients = self.is_clients.load(Relaxed);
        let mut holdings = self.lock();
        let grown = self.admission.streams.grow(&mut holdings.streams, self.connection.client(), open, is_clients);
        match grown {
            Ok(()) => self.streams_held.fetch_max(open, Relaxed),
            Err(over) => return Err(self.admission.refused(over, "streams")),
        };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Holdings> {
        // Nothing between locking and unlocking panics.
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let admission = &self.0.admission;
        admission.open.close(&self.0.connection);
        admission.metrics.connections.dec();
        drop(std::mem::take(&mut *self.0.lock()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::http::sample::fields;

    const SHARE: usize = 2;

    fn admission(connections: usize) -> Arc<Admission> {
        let server = ServerConfig {
            max_connections_per_client: Some(SHARE),
            max_streams_per_client: SHARE,
            max_heads: 80 << 10,
            ..ServerConfig::default()
        };
        Admission::new(&server, connections, &Arc::new(Metrics::new()))
    }

    async fn admit(admission: &Arc<Admission>, n: u8) -> Result<Ticket, Over> {
        admission.admit(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))).await
    }

    #[tokio::test]
    async fn a_client_has_its_share_of_the_connections() {
        let admission = admission(10);
        let _held = [admit(&admission, 1).await.unwrap(), admit(&admission, 1).await.unwrap()];
        assert_eq!(admit(&admission, 1).await.unwrap_err(), Over::Client);
        assert!(admit(&admission, 2).await.is_ok());
    }

    #[tokio::test]
    async fn a_balancer_has_no_share_once_a_head_has_shown_it() {
        let admission = admission(10);
        let mut held = Vec::new();
        for _ in 0..SHARE * 3 {
            let ticket = admit(&admission, 1).await.unwrap();
            drop(ticket.0.begin(&fields(&[("x-forwarded-for", "198.51.100.7")])));
            held.push(ticket);
        }
        held[0].0.streams(SHARE + 1).unwrap();
        held[0].0.read(30 << 10).unwrap();
        assert_eq!(admission.connections.all.held(), 6);
        drop(held);
        for bound in [&admission.connections, &admission.heads, &admission.streams] {
            assert_eq!((bound.all.held(), bound.each.held()), (0, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_gives_way_when_all_places_are_taken() {
        let admission = admission(2);
        let (first, second) = (admit(&admission, 1).await.unwrap(), admit(&admission, 2).await.unwrap());
        let busy = [first.0.begin(&HeaderMap::new()), second.0.begin(&HeaderMap::new())];
        assert_eq!(admit(&admission, 3).await.unwrap_err(), Over::All);
        drop(busy);
        tokio::time::advance(SEARCH_PAUSE).await;
        *admission.vain.lock().unwrap() = None;
        let closing = tokio::spawn(async move {
            first.0.connection.evicted().await;
            drop(first);
        });
        assert!(admit(&admission, 3).await.is_ok());
        closing.await.unwrap();
        drop(second);
    }

    #[tokio::test]
    async fn long_heads_are_bounded_by_client_and_together() {
        let admission = admission(10);
        let first = admit(&admission, 1).await.unwrap();
        first.0.read(FREE_HEAD).unwrap();
        assert_eq!(admission.heads.all.held(), 0);
        first.0.read(12 << 10).unwrap();
        assert_eq!(first.0.read(1), Err(Over::Client), "a quarter");
        let mut others = Vec::new();
        for n in 2..5 {
            let other = admit(&admission, n).await.unwrap();
            other.0.read(20 << 10).unwrap();
            others.push(other);
        }
        let last = admit(&admission, 9).await.unwrap();
        assert_eq!(last.0.read(9 << 10), Err(Over::All));
        drop(first);
        assert_eq!(last.0.read(0), Ok(()));
    }

    #[tokio::test]
    async fn an_unfinished_head_over_http2_takes_what_the_longest_takes() {
        let admission = Admission { max_head: 12 << 10, ..Arc::into_inner(admission(10)).unwrap() };
        let admission = Arc::new(admission);
        let (first, second) = (admit(&admission, 1).await.unwrap(), admit(&admission, 1).await.unwrap());
        first.0.read_long_head().unwrap();
        first.0.read_long_head().unwrap();
        assert_eq!(admission.heads.all.held(), 12 << 10);
        assert_eq!(second.0.read_long_head(), Err(Over::Client));
        drop(first);
        assert_eq!(second.0.read_long_head(), Ok(()));
    }

    #[tokio::test]
    async fn long_heads_of_streams_are_held_until_they_are_answered() {
        let admission = admission(10);
        let ticket = admit(&admission, 1).await.unwrap();
        let (short, long) = ("a".repeat(FREE_HEAD - 10), "a".repeat(FREE_HEAD));
        assert!(ticket.0.keep_head(&fields(&[("x-a", &short)])).unwrap().is_none());
        let fields = fields(&[("x-a", &long)]);
        let held = [ticket.0.keep_head(&fields).unwrap(), ticket.0.keep_head(&fields).unwrap()];
        assert_eq!(ticket.0.keep_head(&fields).unwrap_err(), Over::Client);
        drop(held);
        assert_eq!(admission.heads.all.held(), 0);
    }

    #[tokio::test]
    async fn content_is_no_head() {
        let admission = admission(10);
        let place = admit(&admission, 1).await.unwrap();
        let busy = place.0.begin(&HeaderMap::new());
        place.0.read(1 << 30).unwrap();
        drop(busy);
        place.0.read(FREE_HEAD).unwrap();
        assert_eq!(admission.heads.all.held(), 0);
    }

    #[tokio::test]
    async fn streams_are_counted_over_all_connections_of_a_client() {
        let admission = admission(10);
        let (first, second) = (admit(&admission, 1).await.unwrap(), admit(&admission, 1).await.unwrap());
        first.0.streams(1).unwrap();
        second.0.streams(1).unwrap();
        assert_eq!(second.0.streams(2), Err(Over::Client));
        assert_eq!(first.0.streams(1), Ok(()));
    }
}
