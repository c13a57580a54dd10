//! Limits on what clients hold before their requests are handled: connections, bytes of request heads, and HTTP/2 streams. Each
//! has a total, and a share of it for one client.
//!
//! The client of a connection is its peer address. A load balancer carries requests of many clients: once a request with
//! `X-Forwarded-For` shows that the peer is one, its connection counts in the totals only.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::uri::Authority;
use http::{HeaderMap, Request};

use super::turns::{Turn, Turns};
use crate::client::Client;
use crate::client_conn::{Busy, ClientConn, ClientConns};
use crate::config::ServerConfig;
use crate::http::headers::ForwardedPolicy;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::shares::{Over, Share, Shares};

/// Bytes of a head that are not counted: every connection has a buffer of this size.
const FREE_HEAD: usize = 8 << 10;
/// Longest wait of a new connection for a place when no connection is idle.
const WAIT_FOR_PLACE: Duration = Duration::from_millis(100);
/// The same while idle connections are being closed.
const WAIT_FOR_EVICTION: Duration = Duration::from_secs(1);
/// Pause after a search that found too few idle connections: a search visits all connections.
const SEARCH_PAUSE: Duration = Duration::from_millis(10);

/// The limits of one listener.
#[derive(Debug)]
pub(super) struct Admission {
    connections: Bound,
    heads: Bound,
    max_head: usize,
    turns: Turns,
    streams: Bound,
    open: ClientConns,
    /// Idle connections are closed when fewer places than this are free.
    reserve: u64,
    /// When a search last found too few idle connections.
    last_failed_search: Mutex<Option<Instant>>,
    policy: ForwardedPolicy,
    trusted: Vec<Network>,
    metrics: Arc<Metrics>,
}

/// A total limit, and the limit for each client.
#[derive(Debug)]
struct Bound {
    all: Arc<Shares>,
    each: Arc<Shares>,
}

/// What a connection holds of one limit.
#[derive(Debug)]
pub(super) struct Held {
    of_all: Share,
    /// `None` for a load balancer.
    of_client: Option<Share>,
}

/// A connection with what it holds. Released when its [`Ticket`] is dropped.
#[derive(Debug)]
pub(super) struct AdmittedConn {
    admission: Arc<Admission>,
    peer: IpAddr,
    pub connection: Arc<ClientConn>,
    /// Length so far of the head that is being read, bytes.
    head: AtomicUsize,
    /// Most streams that have been open at a time; they stay counted.
    streams_held: AtomicUsize,
    /// Whether it counts for its client; it does not for a load balancer.
    counts_for_client: AtomicBool,
    /// Number of requests so far.
    requests: AtomicU64,
    holdings: Mutex<Holdings>,
}

#[derive(Debug, Default)]
struct Holdings {
    connection: Option<Held>,
    head: Option<Held>,
    streams: Option<Held>,
}

/// Releases what a connection holds when dropped.
#[derive(Debug)]
pub(super) struct Ticket(pub Arc<AdmittedConn>);

impl Bound {
    fn new(total: usize, per_client: usize) -> Bound {
        let (total, per_client) = (total as u64, per_client as u64);
        Bound { all: Shares::new(total, total), each: Shares::new(u64::MAX, per_client.min(total)) }
    }

    /// Raises what a connection holds to `amount`, for the client too if `counts_for_client`.
    fn grow(
        &self,
        held: &mut Option<Held>,
        client: Client,
        amount: usize,
        counts_for_client: bool,
    ) -> Result<(), Over> {
        let Some(held) = held else {
            let amount = amount as u64;
            let of_client = counts_for_client.then(|| self.each.take(client, amount)).transpose()?;
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
    /// The limits of a listener with at most this many connections.
    pub fn new(server: &ServerConfig, connections: usize, metrics: &Arc<Metrics>) -> Arc<Admission> {
        let quarter = |total: usize| (total / 4).max(1);
        let per_client = server.max_connections_per_client.unwrap_or_else(|| quarter(connections));
        let heads = usize::try_from(server.max_heads).unwrap_or(usize::MAX);
        Arc::new(Admission {
            connections: Bound::new(connections, per_client),
            heads: Bound::new(heads, quarter(heads)),
            max_head: server.max_head,
            turns: Turns::new(),
            streams: Bound::new(server.max_streams_per_client.saturating_mul(4), server.max_streams_per_client),
            open: ClientConns::new(),
            reserve: connections as u64 / 16,
            last_failed_search: Mutex::new(None),
            policy: server.forwarded,
            trusted: server.trusted_proxies.clone(),
            metrics: Arc::clone(metrics),
        })
    }

    fn client_of(&self, peer: IpAddr, fields: &HeaderMap) -> Client {
        Client::of(peer, self.policy, &self.trusted, fields)
    }

    /// Takes a place for a connection from this address. If none is free, closes an idle connection.
    pub async fn admit(self: &Arc<Admission>, peer: IpAddr) -> Result<Ticket, Over> {
        let client = Client::at(peer);
        let of_client = self.connections.each.take(client, 1).map_err(|over| self.refused(over, "connections"))?;
        let all = &self.connections.all;
        let of_all = match all.take(client, 1) {
            Ok(share) => share,
            Err(_) => self.wait_for_place(client).await.ok_or_else(|| self.refused(Over::All, "connections"))?,
        };
        if all.free() < self.reserve {
            self.make_room();
        }
        self.metrics.connections_total.inc();
        self.metrics.connections.inc();
        let connection = Some(Held { of_all, of_client: Some(of_client) });
        Ok(Ticket(Arc::new(AdmittedConn {
            admission: Arc::clone(self),
            peer,
            connection: self.open.open(client),
            head: AtomicUsize::new(0),
            streams_held: AtomicUsize::new(0),
            counts_for_client: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            holdings: Mutex::new(Holdings { connection, ..Holdings::default() }),
        })))
    }

    /// Waits for a place. `None` if no connection ends in time.
    async fn wait_for_place(&self, client: Client) -> Option<Share> {
        let mut share = pin!(self.connections.all.wait(client, 1));
        let mut waited = Duration::ZERO;
        // Connections are closed by their own tasks, which run late on a busy machine.
        while waited < WAIT_FOR_PLACE || waited < WAIT_FOR_EVICTION && self.open.evicted() > 0 {
            self.make_room();
            if let Ok(share) = tokio::time::timeout(SEARCH_PAUSE, &mut share).await {
                return share.ok();
            }
            waited += SEARCH_PAUSE;
        }
        None
    }

    /// Closes some idle connections, the longest idle first.
    pub fn make_room(&self) {
        let mut last_failed = self.last_failed_search.lock().unwrap_or_else(PoisonError::into_inner);
        if last_failed.is_some_and(|at| at.elapsed() < SEARCH_PAUSE) {
            return;
        }
        let wanted = usize::try_from(self.reserve / 2).unwrap_or(usize::MAX).max(1);
        let evicted = self.open.evict_idle(wanted);
        *last_failed = (self.open.evicted() < wanted).then(Instant::now);
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

impl AdmittedConn {
    /// Records a request. The connection is busy until the returned guard is dropped.
    pub fn begin(&self, fields: &HeaderMap) -> Busy {
        self.head.store(0, Relaxed);
        // Checked ever more rarely: after many requests a client's connection hardly turns out to be a load balancer's.
        if self.counts_for_client.load(Relaxed)
            && (self.requests.fetch_add(1, Relaxed) + 1).is_power_of_two()
            && self.admission.client_of(self.peer, fields) != self.connection.client()
        {
            self.count_in_totals_only();
        }
        self.connection.begin()
    }

    fn count_in_totals_only(&self) {
        self.counts_for_client.store(false, Relaxed);
        let mut holdings = self.lock();
        let Holdings { connection, head, streams } = &mut *holdings;
        for held in [connection, head, streams].into_iter().flatten() {
            held.of_client = None;
        }
    }

    /// Counts bytes read from an HTTP/1 connection. A long head stays counted until the connection ends, because hyper's buffer
    /// does not shrink.
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

    /// Whether more than a short head has been read from an HTTP/1 connection, and no request yet.
    pub fn is_head_long(&self) -> bool {
        self.head.load(Relaxed) >= FREE_HEAD && !self.connection.is_busy()
    }

    /// A place in the queue of connections with long heads.
    pub fn queue(&self) -> Turn {
        self.admission.turns.queue()
    }

    /// Counts an HTTP/2 head that continues after its frame, as `max_head` bytes, until the connection ends.
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

    /// Counts a long head of an HTTP/2 request until the returned value is dropped: its connection goes on to read others.
    pub fn hold_stream_head<B>(&self, request: &Request<B>) -> Result<Option<Held>, Over> {
        let (method, uri) = (request.method().as_str(), request.uri());
        let authority = uri.authority().map_or("", Authority::as_str);
        let line = [method, authority, uri.path(), uri.query().unwrap_or_default()].map(str::len);
        let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        let bytes = fields.chain(line).sum();
        let mut held = None;
        if bytes > FREE_HEAD {
            self.grow_head(&mut held, bytes)?;
        }
        Ok(held)
    }

    fn grow_head(&self, held: &mut Option<Held>, bytes: usize) -> Result<(), Over> {
        let grown =
            self.admission.heads.grow(held, self.connection.client(), bytes, self.counts_for_client.load(Relaxed));
        grown.map_err(|over| self.admission.refused(over, "heads"))
    }

    /// Counts the open streams of an HTTP/2 connection. The highest number stays counted until the connection ends, so that
    /// few streams need the lock.
    pub fn streams(&self, open: usize) -> Result<(), Over> {
        if open <= self.streams_held.load(Relaxed) {
            return Ok(());
        }
        let counts_for_client = self.counts_for_client.load(Relaxed);
        let mut holdings = self.lock();
        let grown =
            self.admission.streams.grow(&mut holdings.streams, self.connection.client(), open, counts_for_client);
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
    async fn a_client_gets_no_more_than_its_share_of_the_connections() {
        let admission = admission(10);
        let _held = [admit(&admission, 1).await.unwrap(), admit(&admission, 1).await.unwrap()];
        assert_eq!(admit(&admission, 1).await.unwrap_err(), Over::Client);
        assert!(admit(&admission, 2).await.is_ok());
    }

    #[tokio::test]
    async fn a_load_balancer_counts_in_the_totals_only_once_recognised() {
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
    async fn an_idle_connection_is_closed_when_all_places_are_taken() {
        let admission = admission(2);
        let (first, second) = (admit(&admission, 1).await.unwrap(), admit(&admission, 2).await.unwrap());
        let busy = [first.0.begin(&HeaderMap::new()), second.0.begin(&HeaderMap::new())];
        assert_eq!(admit(&admission, 3).await.unwrap_err(), Over::All);
        drop(busy);
        tokio::time::advance(SEARCH_PAUSE).await;
        *admission.last_failed_search.lock().unwrap() = None;
        let closing = tokio::spawn(async move {
            first.0.connection.evicted().await;
            drop(first);
        });
        assert!(admit(&admission, 3).await.is_ok());
        closing.await.unwrap();
        drop(second);
    }

    #[tokio::test]
    async fn long_heads_are_limited_per_client_and_in_total() {
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
    async fn an_unfinished_http2_head_counts_as_the_longest_head() {
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
    async fn long_heads_of_streams_count_until_the_response() {
        let admission = admission(10);
        let ticket = admit(&admission, 1).await.unwrap();
        let (short, long) = ("a".repeat(FREE_HEAD - 10), "a".repeat(FREE_HEAD));
        let hold = |method: &str, uri: &str, value: &str| {
            let request = Request::builder().method(method).uri(uri).header("x-a", value);
            ticket.0.hold_stream_head(&request.body(()).unwrap())
        };
        assert!(hold("GET", "/", &short).unwrap().is_none());
        let held = [hold("GET", "/", &long).unwrap(), hold("GET", &format!("/{long}"), "").unwrap()];
        assert_eq!(hold("GET", "/", &long).unwrap_err(), Over::Client);
        assert_eq!(hold("GET", &format!("/?{long}"), "").unwrap_err(), Over::Client);
        assert_eq!(hold("GET", &format!("http://{long}/"), "").unwrap_err(), Over::Client);
        assert_eq!(hold(&long, "/", "").unwrap_err(), Over::Client);
        drop(held);
        assert_eq!(admission.heads.all.held(), 0);
    }

    #[tokio::test]
    async fn content_does_not_count_as_a_head() {
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
