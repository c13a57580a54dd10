//! The pool of idle connections to upstream. A connection on which stray bytes (bytes that belong to no response) arrived is
//! never reused: the next request would get them as its response (RFC 9112 §6.3).
//!
//! hyper ends a connection if bytes arrive while no request is in progress, and [`super::socket`] finds bytes that have arrived
//! but have not been read. Bytes that arrive later and look like a response cannot be told from the right one. So a connection
//! rests for [`REST`] after a response without content, and after every few hundred responses in any case, while other
//! connections are used; stray bytes that arrive meanwhile end it. After stray bytes, upstream is distrusted for [`DISTRUST`]:
//! a connection is then closed after each response of the kind that the bytes followed, and at least after those without
//! content. The recent responses of the connection are suspect.
//!
//! Not detected: a complete stray response that arrives after the rest, while the next request is in progress, is taken for
//! the response to that request. Each later response on the connection then goes to the next request, until one arrives while
//! the connection rests or is idle: then all of them are suspect. If upstream takes longer than a rest to respond, this may not
//! happen at the next rest.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::Scheme;
use hyper_rustls::HttpsConnector;
use tower_service::Service;

use super::conn::{Stray, UpstreamConn, is_timeout};
use super::framing::Ending;
use super::names::{Names, Resolved};
use super::socket::{Sockets, Unread};
use super::suspects::{Suspects, WaitingSuspects};

/// A connection is closed this much before upstream closes it (`Keep-Alive: timeout`), or at half of a timeout of less than
/// twice as much. A request sent later might meet the closing of the connection.
const MARGIN: Duration = Duration::from_secs(1);
/// Least rest of a connection. Each resting connection costs one more connection.
const REST: Duration = Duration::from_millis(50);
/// So many connections are looked at for one of the same thread.
const LOOKED_AT: usize = 16;
/// Idle time up to which one of the same thread is preferred.
const RECENT: Duration = Duration::from_millis(100);
/// Time for which upstream is distrusted after stray bytes.
const DISTRUST: Duration = Duration::from_secs(600);

/// Why there is no connection.
pub(super) type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// The connections to one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    connector: HttpsConnector<Sockets>,
    upstream: Uri,
    is_tls: bool,
    limits: PoolLimits,
    shared: Arc<PoolShared>,
}

/// Limits on pooled connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolLimits {
    /// Most idle connections.
    pub idle: usize,
    /// Longest idle time, unless upstream's is shorter.
    pub keep_alive: Duration,
    /// Largest response head, bytes.
    pub max_head: usize,
}

#[derive(Debug)]
struct PoolShared {
    limits: PoolLimits,
    /// Resolves upstream's host name; `None` if upstream is configured by address.
    names: Option<Names>,
    state: Mutex<PoolState>,
    suspects: WaitingSuspects,
}

#[derive(Debug, Default)]
struct PoolState {
    idle: IdleConns<UpstreamConn>,
    distrust: Distrust,
    /// The task that closes expired connections is running.
    is_swept: bool,
    addresses: Addresses,
}

/// The addresses that connections may lead to.
#[derive(Debug, Default)]
struct Addresses {
    /// `None`: not resolved yet.
    known: Option<Resolved>,
    /// They are being resolved again.
    are_resolving: bool,
}

impl Addresses {
    /// Whether a connection to this address may be reused.
    fn allow(&self, peer: Option<IpAddr>) -> bool {
        let (Some(known), Some(peer)) = (&self.known, peer) else { return true };
        known.addresses.iter().any(|address| address.to_canonical() == peer.to_canonical())
    }

    /// Whether they are to be resolved now. The caller that gets `true` does it.
    fn are_due(&mut self, now: Instant) -> bool {
        let is_known = self.known.as_ref().is_some_and(|known| known.until > now);
        !is_known && !std::mem::replace(&mut self.are_resolving, true)
    }
}

#[derive(Debug)]
struct IdleConn<C> {
    conn: C,
    since: Instant,
    /// The thread that it was made in.
    thread: ThreadId,
}

/// Connections that are ready for a request, and those that rest before.
#[derive(Debug)]
struct IdleConns<C> {
    /// The most recently used comes last and is taken first, so that surplus connections expire.
    ready: Vec<IdleConn<C>>,
    /// The one that has rested longest comes first.
    resting: VecDeque<IdleConn<C>>,
}

impl<C> Default for IdleConns<C> {
    fn default() -> IdleConns<C> {
        IdleConns { ready: Vec::new(), resting: VecDeque::new() }
    }
}

impl<C> IdleConns<C> {
    fn len(&self) -> usize {
        self.ready.len() + self.resting.len()
    }

    fn put(&mut self, idle: IdleConn<C>, needs_rest: bool) {
        match needs_rest {
            true => self.resting.push_back(idle),
            false => self.ready.push(idle),
        }
    }

    /// Preferably one that was made in this thread, since a response that another thread reads has to be passed on; but not one that
    /// upstream is more likely to have closed.
    fn take(&mut self, now: Instant, here: ThreadId) -> Option<IdleConn<C>> {
        while self.resting.front().is_some_and(|idle| idle.has_rested(now)) {
            self.ready.extend(self.resting.pop_front());
        }
        let last = self.ready.len().checked_sub(1)?;
        let is_near =
            |idle: &IdleConn<C>| idle.thread == here && now.saturating_duration_since(idle.since) < RECENT;
        let at = (0..=last).rev().take(LOOKED_AT).find(|at| is_near(&self.ready[*at])).unwrap_or(last);
        Some(self.ready.remove(at))
    }

    fn retain(&mut self, is_good: impl Fn(&IdleConn<C>) -> bool) {
        self.ready.retain(&is_good);
        self.resting.retain(&is_good);
    }
}

impl<C> IdleConn<C> {
    fn has_rested(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= REST
    }
}

/// Until when connections are not reused, by the ending of their last response.
#[derive(Debug, Default)]
struct Distrust {
    after_head: Option<Instant>,
    after_content: Option<Instant>,
}

impl Distrust {
    /// Records stray bytes behind a response with this ending. Returns whether such responses were trusted before.
    fn note(&mut self, ending: Ending, now: Instant) -> bool {
        let is_news = self.allows(ending, now);
        let until = Some(now + DISTRUST);
        // Content has an explicit end. A server that sends more than that is not trusted with heads either.
        self.after_head = until;
        if ending == Ending::Content {
            self.after_content = until;
        }
        is_news
    }

    /// Whether a connection may be reused after a response with this ending.
    fn allows(&self, ending: Ending, now: Instant) -> bool {
        let until = match ending {
            Ending::Head => self.after_head,
            Ending::Content => self.after_content,
        };
        until.is_none_or(|until| until <= now)
    }
}

/// Longest idle time of a connection. `timeout`: the one that upstream announced.
fn may_idle(keep_alive: Duration, timeout: Option<Duration>) -> Duration {
    timeout.map_or(keep_alive, |timeout| keep_alive.min(timeout - MARGIN.min(timeout / 2)))
}

impl IdleConn<UpstreamConn> {
    fn is_good(&self, limits: &PoolLimits, distrust: &Distrust, addresses: &Addresses, now: Instant) -> bool {
        let limit = may_idle(limits.keep_alive, self.conn.keep_alive());
        let is_fresh = now.saturating_duration_since(self.since) < limit;
        is_fresh
            && self.conn.is_idle()
            && self.conn.last().is_none_or(|ending| distrust.allows(ending, now))
            && addresses.allow(self.conn.peer())
    }
}

impl Pool {
    /// An empty pool for `upstream`, a URL. Connections lead to the addresses of `names`.
    pub fn new(
        connector: HttpsConnector<Sockets>,
        upstream: Uri,
        limits: PoolLimits,
        names: Option<Names>,
    ) -> Pool {
        let (state, suspects) = (Mutex::default(), WaitingSuspects::default());
        let is_tls = upstream.scheme() == Some(&Scheme::HTTPS);
        Pool {
            connector,
            upstream,
            is_tls,
            limits,
            shared: Arc::new(PoolShared { limits, names, state, suspects }),
        }
    }

    /// Whether connections use TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Takes an idle connection that need not rest and on which nothing has arrived.
    pub fn take(&self) -> Option<UpstreamConn> {
        loop {
            let conn = self.shared.take()?;
            match conn.unread() {
                Unread::Nothing => return Some(conn),
                // Undecrypted TLS bytes need not be HTTP.
                Unread::Bytes(bytes) if !self.is_tls && !is_timeout(&bytes) => {
                    conn.stray().into_iter().for_each(|stray| self.distrust(stray));
                }
                Unread::Bytes(_) | Unread::End => {}
            }
        }
    }

    /// Opens a new connection.
    pub async fn connect(&self) -> Result<UpstreamConn, ConnectError> {
        let mut connector = self.connector.clone();
        std::future::poll_fn(|cx| connector.poll_ready(cx)).await?;
        let stream = connector.call(self.upstream.clone()).await?;
        let shared = Arc::downgrade(&self.shared);
        let on_stray = move |stray| {
            if let Some(shared) = shared.upgrade() {
                shared.distrust(stray);
            }
        };
        Ok(UpstreamConn::over(stream, self.limits.max_head, on_stray).await?)
    }

    /// Puts back a connection, once its response has ended.
    pub fn put(&self, mut conn: UpstreamConn) {
        if conn.is_idle() {
            return self.shared.put(conn);
        }
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            if conn.idle().await
                && let Some(shared) = shared.upgrade()
            {
                shared.put(conn);
            }
        });
    }

    /// Records stray bytes: distrusts upstream, and reports the suspects.
    pub fn distrust(&self, stray: Stray) {
        self.shared.distrust(stray);
    }

    /// Waits for requests that may have got the responses to others.
    pub async fn suspects(&self) -> Suspects {
        self.shared.suspects.next().await
    }
}

impl PoolShared {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<PoolShared>) -> Option<UpstreamConn> {
        let now = Instant::now();
        let mut state = self.lock();
        self.refresh_addresses(&mut state, now);
        let PoolState { idle, distrust, addresses, .. } = &mut *state;
        while let Some(mut idle) = idle.take(now, thread::current().id()) {
            if idle.is_good(&self.limits, distrust, addresses, now) {
                if idle.has_rested(now) {
                    idle.conn.note_rest();
                }
                return Some(idle.conn);
            }
        }
        None
    }

    fn put(self: &Arc<PoolShared>, conn: UpstreamConn) {
        let now = Instant::now();
        let idle = IdleConn { thread: conn.thread(), conn, since: now };
        let mut state = self.lock();
        self.refresh_addresses(&mut state, now);
        let is_good = idle.is_good(&self.limits, &state.distrust, &state.addresses, now);
        if state.idle.len() >= self.limits.idle || !is_good {
            return;
        }
        let needs_rest = idle.conn.needs_rest();
        state.idle.put(idle, needs_rest);
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.limits.keep_alive));
        }
    }

    /// Resolves upstream's host name again when its addresses expire. Connections to other addresses are closed after their
    /// current response.
    fn refresh_addresses(self: &Arc<PoolShared>, state: &mut PoolState, now: Instant) {
        let Some(names) = &self.names else { return };
        if !state.addresses.are_due(now) {
            return;
        }
        let (shared, names) = (Arc::downgrade(self), names.clone());
        tokio::spawn(async move {
            let found = names.current().await;
            let Some(shared) = shared.upgrade() else { return };
            let now = Instant::now();
            let mut state = shared.lock();
            let PoolState { idle, distrust, addresses, .. } = &mut *state;
            addresses.are_resolving = false;
            if let Ok(known) = found {
                addresses.known = Some(known);
                idle.retain(|idle| idle.is_good(&shared.limits, distrust, addresses, now));
            }
        });
    }

    fn distrust(&self, stray: Stray) {
        let is_news = self.lock().distrust.note(stray.behind, Instant::now());
        self.suspects.add(stray.suspects);
        if is_news {
            let behind = match stray.behind {
                Ending::Head => "a response without content",
                Ending::Content => "the content of a response",
            };
            let seconds = DISTRUST.as_secs();
            tracing::warn!(
                behind,
                seconds,
                "upstream sent bytes that belong to no response: the recent responses of that connection are invalidated, \
                 and for the given time connections are closed after each such response"
            );
        }
    }
}

/// Closes expired connections until none is left.
async fn sweep(shared: Weak<PoolShared>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        let mut state = shared.lock();
        let PoolState { idle, distrust, is_swept, addresses } = &mut *state;
        idle.retain(|idle| idle.is_good(&shared.limits, distrust, addresses, now));
        if idle.len() == 0 {
            *is_swept = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resting_connection_is_taken_only_after_its_rest() {
        let now = Instant::now();
        let mut queue = IdleConns::default();
        let here = thread::current().id();
        queue.put(IdleConn { conn: "rests", since: now, thread: here }, true);
        queue.put(IdleConn { conn: "ready", since: now, thread: here }, false);
        let mut take = |later| queue.take(now + later, here).map(|idle| idle.conn);
        let moment = Duration::from_millis(1);
        assert_eq!(take(Duration::ZERO), Some("ready"));
        assert_eq!(take(REST - moment), None);
        assert_eq!(take(REST), Some("rests"));
        assert_eq!(take(REST), None);
    }

    #[test]
    fn the_most_recently_used_connection_is_taken_first() {
        let now = Instant::now();
        let mut queue = IdleConns::default();
        let here = thread::current().id();
        for conn in 0..3 {
            queue.put(IdleConn { conn, since: now, thread: here }, false);
        }
        queue.retain(|idle| idle.conn != 1);
        assert_eq!(queue.len(), 2);
        assert_eq!([queue.take(now, here), queue.take(now, here)].map(|idle| idle.unwrap().conn), [2, 0]);
    }

    #[test]
    fn a_connection_of_the_same_thread_is_taken_before_others() {
        let (now, here) = (Instant::now(), thread::current().id());
        let there = thread::spawn(|| thread::current().id()).join().unwrap();
        let mut queue = IdleConns::default();
        for (conn, thread) in [(0, here), (1, there), (2, here), (3, there)] {
            queue.put(IdleConn { conn, since: now, thread }, false);
        }
        assert_eq!([here, here, here, there].map(|thread| queue.take(now, thread).unwrap().conn), [2, 0, 3, 1]);
    }

    #[test]
    fn a_connection_expires_before_upstream_closes_it() {
        let (millis, own) = (Duration::from_millis, Duration::from_secs(4));
        let rows = [
            (None, 4000),
            (Some(60_000), 4000),
            (Some(5000), 4000),
            (Some(4000), 3000),
            (Some(1000), 500),
            (Some(0), 0),
        ];
        for (timeout, expected) in rows {
            assert_eq!(may_idle(own, timeout.map(millis)), millis(expected), "{timeout:?}");
        }
    }

    #[test]
    fn only_connections_to_current_addresses_are_reused() {
        let now = Instant::now();
        let [old, new] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        let mut addresses = Addresses::default();
        assert!(addresses.allow(Some(old)), "not resolved yet");
        assert!(addresses.are_due(now));
        assert!(!addresses.are_due(now), "resolved by one caller");
        addresses.are_resolving = false;
        addresses.known = Some(Resolved { addresses: [new].into(), until: now + REST });
        assert!(!addresses.allow(Some(old)) && addresses.allow(Some(new)) && addresses.allow(None));
        assert!(!addresses.are_due(now) && addresses.are_due(now + REST));
    }

    #[test]
    fn distrust_covers_one_ending_or_both_and_expires() {
        let (now, soon) = (Instant::now(), Duration::from_secs(1));
        let mut distrust = Distrust::default();
        assert!(distrust.allows(Ending::Head, now) && distrust.allows(Ending::Content, now));
        assert!(distrust.note(Ending::Head, now));
        assert!(!distrust.allows(Ending::Head, now) && distrust.allows(Ending::Content, now));
        assert!(!distrust.note(Ending::Head, now + soon));
        assert!(distrust.note(Ending::Content, now));
        assert!(!distrust.allows(Ending::Head, now) && !distrust.allows(Ending::Content, now));
        let later = now + DISTRUST;
        assert!(distrust.allows(Ending::Head, later) && distrust.allows(Ending::Content, later));
    }
}
