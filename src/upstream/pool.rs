//! Connections to upstream that wait for their next request. A connection that has carried bytes which belong to no
//! response is never one of them: the next request would get them for its answer (RFC 9112 §6.3).
//!
//! hyper ends a connection that brings something while no request is under way, and asks for the head of a response only
//! after a request; [`super::socket`] makes sure that nothing which has arrived is overlooked. That leaves what arrives
//! later still, and looks like a response: nothing tells it from the right one. So a connection rests for [`REST`] after a
//! response without content, and now and then in any case, while others are used: what comes meanwhile ends it. An upstream
//! that has been seen to send such bytes is not trusted for [`DISTRUST`]: connections are closed with each response of the
//! kind that they came behind, those without content at least. And what the connection has brought lately is suspect.
//!
//! What cannot be told: a whole response that comes after the rest, while the next request is under way, is taken for the
//! answer to it. Its own answer is then taken for that to the request after it, and so on, until an answer comes while the
//! connection rests or is idle: all of them are suspect then. If upstream takes longer than a rest to answer, that may not be
//! the next rest.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::Scheme;
use hyper_rustls::HttpsConnector;
use tower_service::Service;

use super::conn::{Stray, UpstreamConn, is_timeout};
use super::framing::Ending;
use super::names::{Known, Names};
use super::socket::{Sockets, Unread};
use super::suspects::{Suspects, Waiting};

/// What a connection is given up before upstream does so, where it says when (`Keep-Alive: timeout`); of less than twice as
/// much it is half. A request that is sent later might cross the end of the connection on its way.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a connection rests at least. The price is another connection for each that rests.
const REST: Duration = Duration::from_millis(50);
/// How long an upstream that has sent bytes which belong to no response is not trusted.
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
    shared: Arc<Shared>,
}

/// What connections are bounded by.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolLimits {
    /// Connections that may be idle at a time.
    pub idle: usize,
    /// How long one may be idle, unless upstream says less.
    pub keep_alive: Duration,
    /// The largest head of a response, bytes.
    pub max_head: usize,
}

#[derive(Debug)]
struct Shared {
    limits: PoolLimits,
    /// Whose addresses connections lead to; `None`: to one address for ever.
    names: Option<Names>,
    state: Mutex<State>,
    suspects: Waiting,
}

#[derive(Debug, Default)]
struct State {
    idle: Queue<UpstreamConn>,
    distrust: Distrust,
    /// Somebody closes those that have been idle for too long.
    is_swept: bool,
    addresses: Addresses,
}

/// Where connections may lead.
#[derive(Debug, Default)]
struct Addresses {
    /// `None`: it is not known yet.
    known: Option<Known>,
    /// Somebody asks for them again.
    are_asked_for: bool,
}

impl Addresses {
    /// Whether a connection to this address may be used again.
    fn allow(&self, peer: Option<IpAddr>) -> bool {
        let (Some(known), Some(peer)) = (&self.known, peer) else { return true };
        known.addresses.iter().any(|address| address.to_canonical() == peer.to_canonical())
    }

    /// Whether they are to be asked for now, which is for who is told so to do.
    fn are_due(&mut self, now: Instant) -> bool {
        let is_known = self.known.as_ref().is_some_and(|known| known.until > now);
        !is_known && !std::mem::replace(&mut self.are_asked_for, true)
    }
}

#[derive(Debug)]
struct Idle<C> {
    conn: C,
    since: Instant,
}

/// Those that wait for a request, and those that rest before they do.
#[derive(Debug)]
struct Queue<C> {
    /// The one that is used next comes last: the fewest are kept busy, and the others are closed.
    ready: Vec<Idle<C>>,
    /// The one that has rested longest comes first.
    resting: VecDeque<Idle<C>>,
}

impl<C> Default for Queue<C> {
    fn default() -> Queue<C> {
        Queue { ready: Vec::new(), resting: VecDeque::new() }
    }
}

impl<C> Queue<C> {
    fn len(&self) -> usize {
        self.ready.len() + self.resting.len()
    }

    fn put(&mut self, idle: Idle<C>, needs_rest: bool) {
        match needs_rest {
            true => self.resting.push_back(idle),
            false => self.ready.push(idle),
        }
    }

    fn take(&mut self, now: Instant) -> Option<Idle<C>> {
        while self.resting.front().is_some_and(|idle| idle.has_rested(now)) {
            self.ready.extend(self.resting.pop_front());
        }
        self.ready.pop()
    }

    fn retain(&mut self, is_good: impl Fn(&Idle<C>) -> bool) {
        self.ready.retain(&is_good);
        self.resting.retain(&is_good);
    }
}

impl<C> Idle<C> {
    fn has_rested(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= REST
    }
}

/// Until when no connection is used again.
#[derive(Debug, Default)]
struct Distrust {
    after_head: Option<Instant>,
    after_content: Option<Instant>,
}

impl Distrust {
    /// Something has come behind a response that ended like this. Whether that is news.
    fn note(&mut self, ending: Ending, now: Instant) -> bool {
        let is_news = self.allows(ending, now);
        let until = Some(now + DISTRUST);
        // Content has a known end. Who cannot keep to that is not trusted to end a head either.
        self.after_head = until;
        if ending == Ending::Content {
            self.after_content = until;
        }
        is_news
    }

    /// Whether a connection may be used again after a response that ended like this.
    fn allows(&self, ending: Ending, now: Instant) -> bool {
        let until = match ending {
            Ending::Head => self.after_head,
            Ending::Content => self.after_content,
        };
        until.is_none_or(|until| until <= now)
    }
}

/// How long a connection may be idle that upstream keeps for so long.
fn may_idle(keep_alive: Duration, said: Option<Duration>) -> Duration {
    said.map_or(keep_alive, |said| keep_alive.min(said - MARGIN.min(said / 2)))
}

impl Idle<UpstreamConn> {
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
    /// No connections to `upstream`, a URL. Those that are made lead to the addresses that `names` has.
    pub fn new(
        connector: HttpsConnector<Sockets>,
        upstream: Uri,
        limits: PoolLimits,
        names: Option<Names>,
    ) -> Pool {
        let (state, suspects) = (Mutex::default(), Waiting::default());
        let is_tls = upstream.scheme() == Some(&Scheme::HTTPS);
        Pool { connector, upstream, is_tls, limits, shared: Arc::new(Shared { limits, names, state, suspects }) }
    }

    /// Whether upstream is asked by https.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// An idle connection that need not rest, and on which nothing has arrived.
    pub fn take(&self) -> Option<UpstreamConn> {
        loop {
            let conn = self.shared.take()?;
            match conn.unread() {
                Unread::Nothing => return Some(conn),
                // Of TLS, only who has decrypted it knows what it is.
                Unread::Bytes(bytes) if !self.is_tls && !is_timeout(&bytes) => {
                    conn.stray().into_iter().for_each(|stray| self.distrust(stray));
                }
                Unread::Bytes(_) | Unread::End => {}
            }
        }
    }

    /// A new connection.
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

    /// Takes back a connection as soon as its response has ended.
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

    /// Something has come behind a response.
    pub fn distrust(&self, stray: Stray) {
        self.shared.distrust(stray);
    }

    /// Waits for requests whose answers may have been those of others.
    pub async fn suspects(&self) -> Suspects {
        self.shared.suspects.next().await
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Shared>) -> Option<UpstreamConn> {
        let now = Instant::now();
        let mut state = self.lock();
        self.follow(&mut state, now);
        let State { idle, distrust, addresses, .. } = &mut *state;
        while let Some(mut idle) = idle.take(now) {
            if idle.is_good(&self.limits, distrust, addresses, now) {
                if idle.has_rested(now) {
                    idle.conn.note_rest();
                }
                return Some(idle.conn);
            }
        }
        None
    }

    fn put(self: &Arc<Shared>, conn: UpstreamConn) {
        let now = Instant::now();
        let idle = Idle { conn, since: now };
        let mut state = self.lock();
        self.follow(&mut state, now);
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

    /// Has the addresses of upstream's name asked for when it is time. Connections to others are closed with the response
    /// that is under way on them.
    fn follow(self: &Arc<Shared>, state: &mut State, now: Instant) {
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
            let State { idle, distrust, addresses, .. } = &mut *state;
            addresses.are_asked_for = false;
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
                "upstream sent bytes that belong to no response: what their connection has brought lately is invalidated, \
                 and for a while connections are closed after each such response"
            );
        }
    }
}

/// Closes connections that have been idle for too long, until there are none.
async fn sweep(shared: Weak<Shared>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        let mut state = shared.lock();
        let State { idle, distrust, is_swept, addresses } = &mut *state;
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
    fn a_connection_that_rests_is_taken_after_its_rest() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.put(Idle { conn: "rests", since: now }, true);
        queue.put(Idle { conn: "ready", since: now }, false);
        let mut take = |later| queue.take(now + later).map(|idle| idle.conn);
        let moment = Duration::from_millis(1);
        assert_eq!(take(Duration::ZERO), Some("ready"));
        assert_eq!(take(REST - moment), None);
        assert_eq!(take(REST), Some("rests"));
        assert_eq!(take(REST), None);
    }

    #[test]
    fn the_connection_that_was_used_last_is_taken_first() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for conn in 0..3 {
            queue.put(Idle { conn, since: now }, false);
        }
        queue.retain(|idle| idle.conn != 1);
        assert_eq!(queue.len(), 2);
        assert_eq!([queue.take(now), queue.take(now)].map(|idle| idle.unwrap().conn), [2, 0]);
    }

    #[test]
    fn a_connection_is_given_up_before_upstream_gives_it_up() {
        let (millis, own) = (Duration::from_millis, Duration::from_secs(4));
        let rows = [
            (None, 4000),
            (Some(60_000), 4000),
            (Some(5000), 4000),
            (Some(4000), 3000),
            (Some(1000), 500),
            (Some(0), 0),
        ];
        for (said, expected) in rows {
            assert_eq!(may_idle(own, said.map(millis)), millis(expected), "{said:?}");
        }
    }

    #[test]
    fn connections_lead_where_the_name_does() {
        let now = Instant::now();
        let [old, new] = [1, 2].map(|last| IpAddr::from([127, 0, 0, last]));
        let mut addresses = Addresses::default();
        assert!(addresses.allow(Some(old)), "nothing is known");
        assert!(addresses.are_due(now));
        assert!(!addresses.are_due(now), "it is asked once");
        addresses.are_asked_for = false;
        addresses.known = Some(Known { addresses: [new].into(), until: now + REST });
        assert!(!addresses.allow(Some(old)) && addresses.allow(Some(new)) && addresses.allow(None));
        assert!(!addresses.are_due(now) && addresses.are_due(now + REST));
    }

    #[test]
    fn distrust_is_of_one_kind_or_of_all_and_passes() {
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
