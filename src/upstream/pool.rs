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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_rustls::HttpsConnector;
use tower_service::Service;

use super::conn::{Stray, UpstreamConn};
use super::framing::Ending;
use super::socket::Sockets;
use super::suspects::{Suspects, Waiting};

/// Idle connections to upstream are closed after this long; shorter than what most servers allow.
const IDLE: Duration = Duration::from_secs(15);
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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Connections that may be idle at a time.
    limit: usize,
    state: Mutex<State>,
    suspects: Waiting,
}

#[derive(Debug, Default)]
struct State {
    idle: Queue<UpstreamConn>,
    distrust: Distrust,
    /// Somebody closes those that have been idle for too long.
    is_swept: bool,
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

impl Idle<UpstreamConn> {
    fn is_good(&self, distrust: &Distrust, now: Instant) -> bool {
        let is_fresh = now.saturating_duration_since(self.since) < IDLE;
        is_fresh && self.conn.is_idle() && self.conn.last().is_none_or(|ending| distrust.allows(ending, now))
    }
}

impl Pool {
    /// No connections to `upstream`, a URL. Of those that are made, so many may be idle at a time.
    pub fn new(connector: HttpsConnector<Sockets>, upstream: Uri, limit: usize) -> Pool {
        Pool {
            connector,
            upstream,
            shared: Arc::new(Shared { limit, state: Mutex::default(), suspects: Waiting::default() }),
        }
    }

    /// An idle connection that need not rest.
    pub fn take(&self) -> Option<UpstreamConn> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let State { idle, distrust, .. } = &mut *state;
        while let Some(mut idle) = idle.take(now) {
            if idle.is_good(distrust, now) {
                if idle.has_rested(now) {
                    idle.conn.note_rest();
                }
                return Some(idle.conn);
            }
        }
        None
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
        Ok(UpstreamConn::over(stream, on_stray).await?)
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

    fn put(self: &Arc<Shared>, conn: UpstreamConn) {
        let now = Instant::now();
        let idle = Idle { conn, since: now };
        let mut state = self.lock();
        if state.idle.len() >= self.limit || !idle.is_good(&state.distrust, now) {
            return;
        }
        let needs_rest = idle.conn.needs_rest();
        state.idle.put(idle, needs_rest);
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
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
async fn sweep(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        let mut state = shared.lock();
        let State { idle, distrust, is_swept } = &mut *state;
        idle.retain(|idle| idle.is_good(distrust, now));
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
