//! Connections to upstream that wait for their next request. A connection that has carried bytes which belong to no
//! response is never one of them: the next request would get them for its answer (RFC 9112 §6.3).
//!
//! hyper ends a connection that brings something while no request is under way, and asks for the head of a response only
//! after a request; [`super::socket`] makes sure that nothing which has arrived is overlooked. That leaves what arrives
//! later still, and looks like a response: nothing tells it from the right one. So an upstream that has been seen to send
//! such bytes is not trusted for [`DISTRUST`]: connections are closed with each response of the kind that they came
//! behind, those without content at least.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_rustls::HttpsConnector;
use tower_service::Service;

use super::conn::UpstreamConn;
use super::framing::Ending;
use super::socket::Sockets;

/// Idle connections to upstream are closed after this long; shorter than what most servers allow.
const IDLE: Duration = Duration::from_secs(15);
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
}

#[derive(Debug, Default)]
struct State {
    /// The one that has been used last comes last.
    idle: Vec<Idle>,
    distrust: Distrust,
    /// Somebody closes those that have been idle for too long.
    is_swept: bool,
}

#[derive(Debug)]
struct Idle {
    conn: UpstreamConn,
    since: Instant,
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

impl Idle {
    fn is_good(&self, distrust: &Distrust, now: Instant) -> bool {
        let is_fresh = now.saturating_duration_since(self.since) < IDLE;
        is_fresh && self.conn.is_idle() && self.conn.last().is_none_or(|ending| distrust.allows(ending, now))
    }
}

impl Pool {
    /// No connections to `upstream`, a URL. Of those that are made, so many may be idle at a time.
    pub fn new(connector: HttpsConnector<Sockets>, upstream: Uri, limit: usize) -> Pool {
        Pool { connector, upstream, shared: Arc::new(Shared { limit, state: Mutex::default() }) }
    }

    /// An idle connection.
    pub fn take(&self) -> Option<UpstreamConn> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let State { idle, distrust, .. } = &mut *state;
        while let Some(idle) = idle.pop() {
            if idle.is_good(distrust, now) {
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
        let on_stray = move |ending| {
            if let Some(shared) = shared.upgrade() {
                shared.distrust(ending);
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

    /// Something has come behind a response that ended like this.
    pub fn distrust(&self, ending: Ending) {
        self.shared.distrust(ending);
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
        state.idle.push(idle);
        if !std::mem::replace(&mut state.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn distrust(&self, ending: Ending) {
        let is_news = self.lock().distrust.note(ending, Instant::now());
        if is_news {
            let behind = match ending {
                Ending::Head => "a response without content",
                Ending::Content => "the content of a response",
            };
            let seconds = DISTRUST.as_secs();
            tracing::warn!(
                behind,
                seconds,
                "upstream sent bytes that belong to no response: for a while its connections are closed after each such response"
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
        if idle.is_empty() {
            *is_swept = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
