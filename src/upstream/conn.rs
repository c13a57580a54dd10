//! A connection to upstream, and what has passed on it. RFC 9112 §9.3.1 lets a request be repeated when a connection that
//! had been idle turns out to be closed. When upstream has begun to answer, or the connection was a new one, it is no idle
//! connection that was closed: upstream has received the request, and ended it.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::client::legacy::connect::{Connection, HttpInfo};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::Sleep;

use super::RequestBody;
use super::framing::Ending;
use super::head::{HeadFault, HeadScan, LINE};
use super::socket::{Look, Unread};
use super::suspects::{Carried, Suspects};
use crate::hooked_stream::{HookedStream, Output, StreamHooks};
use crate::http::headers;

/// The buffer for what upstream sends, beyond the largest head, bytes.
const READ_BUFFER: usize = 16 << 10;

/// Responses after which a connection rests, whatever they were: that ends it if it is out of step.
const RESPONSES_WITHOUT_REST: u32 = 256;

/// Longest time to read upstream's response after a write has failed.
const AFTER_FAILED_WRITE: Duration = Duration::from_secs(30);

/// A connection to upstream, for one request at a time.
#[derive(Debug)]
pub(super) struct UpstreamConn {
    sender: SendRequest<RequestBody>,
    traffic: Arc<Traffic>,
    /// What drives it.
    task: AbortHandle,
    look: Look,
    /// How its last response ended; `None`: it has carried none.
    last: Option<Ending>,
    /// Responses since it last rested.
    responses: u32,
    /// Where it leads.
    peer: Option<IpAddr>,
    /// How long upstream keeps it while it is idle, as its last response says.
    keep_alive: Option<Duration>,
}

/// Bytes that belong to no response.
#[derive(Debug)]
pub(super) struct Stray {
    /// How the response ended behind which they came.
    pub behind: Ending,
    /// Whose answers may have been those of others.
    pub suspects: Suspects,
}

impl UpstreamConn {
    /// Speaks HTTP/1.1 over a stream. When upstream sends something while no request is under way, the connection ends,
    /// and `on_stray` is told.
    /// A response's head, with the interim ones before it, has at most `max_head` bytes.
    pub async fn over<S>(
        stream: S,
        max_head: usize,
        on_stray: impl FnOnce(Stray) + Send + 'static,
    ) -> Result<UpstreamConn, hyper::Error>
    where
        S: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    {
        let mut extras = http::Extensions::new();
        stream.connected().get_extras(&mut extras);
        let look = extras.remove().unwrap_or_default();
        let peer = extras.get::<HttpInfo>().map(|info| info.remote_addr().ip());
        let traffic = Arc::<Traffic>::default();
        let stream = TokioIo::new(HookedStream::new(TokioIo::new(stream), TrafficHooks::new(&traffic, max_head)));
        // RFC 9112 §5.1: a proxy removes whitespace between a response's field name and its colon.
        let mut builder = Builder::new();
        builder.allow_spaces_after_header_name_in_responses(true);
        // The limit is in bytes.
        builder.max_headers(max_head / LINE);
        // A chunk that waits for its client keeps all of the buffer that it came in: hyper's own grow to 400 KiB.
        builder.max_buf_size(max_head + READ_BUFFER);
        let (sender, connection) = builder.handshake(stream).await?;
        let seen = Arc::clone(&traffic);
        let task = tokio::spawn(async move {
            let Err(error) = connection.with_upgrades().await else { return };
            if is_stray(&error)
                && let Some(behind) = seen.note_stray()
            {
                on_stray(Stray { behind, suspects: seen.suspects() });
            }
        })
        .abort_handle();
        Ok(UpstreamConn { sender, traffic, task, look, last: None, responses: 0, peer, keep_alive: None })
    }

    /// Ends it, whatever is under way on it.
    pub fn task(&self) -> AbortHandle {
        self.task.clone()
    }

    /// The address that it leads to, if it is known.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// How long upstream keeps it while it is idle, if it has said so.
    pub fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// Notes what its last response says of that.
    pub fn note_keep_alive(&mut self, fields: &HeaderMap) {
        self.keep_alive = headers::keep_alive(fields);
    }

    /// How the last response ended; `None` on a new connection.
    pub fn last(&self) -> Option<Ending> {
        self.last
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.traffic.begin();
        self.sender.try_send_request(request).await
    }

    /// Notes how the response ends whose head has come, and what it answers. What does not belong to it, if it has come
    /// with it.
    pub fn end(&mut self, ending: Ending, method: &Method, path_and_query: &str) -> Option<Stray> {
        self.last = Some(ending);
        self.responses += 1;
        self.traffic.carried().note(method, path_and_query);
        if self.traffic.end(ending) { self.stray() } else { None }
    }

    /// What has come since the last response belongs to no response. `None` on a new connection.
    pub fn stray(&self) -> Option<Stray> {
        let behind = self.last?;
        Some(Stray { behind, suspects: self.traffic.suspects() })
    }

    /// Whether it is to rest before its next request: something may yet come behind a response that has no content; and
    /// now and then in any case.
    pub fn needs_rest(&self) -> bool {
        self.last == Some(Ending::Head) || self.responses >= RESPONSES_WITHOUT_REST
    }

    /// It has been idle for long enough.
    pub fn note_rest(&mut self) {
        self.responses = 0;
    }

    /// What has arrived while no request is under way.
    pub fn unread(&self) -> Unread {
        self.look.unread()
    }

    /// Whether another request may be sent now.
    pub fn is_idle(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until another request may be sent. Whether that will be.
    pub async fn idle(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Whether something of the last request could not be written.
    pub fn is_refused(&self) -> bool {
        self.traffic.is_refused.load(Ordering::Acquire)
    }

    /// Whether upstream has answered on this connection before, but nothing to a request of at least so many bytes.
    pub fn heard_nothing_of(&self, length: u64) -> bool {
        self.traffic.heard_nothing_of(length)
    }
}

/// Whether a connection ended because of bytes that came while no request was under way.
pub(super) fn is_stray(error: &hyper::Error) -> bool {
    // hyper has no other name for it.
    let is_it = |error: &hyper::Error| error.to_string() == "received unexpected message from connection";
    is_it(error) || error.source().and_then(|source| source.downcast_ref()).is_some_and(is_it)
}

/// What was wrong with a head that made a connection end.
pub(super) fn head_fault(error: &hyper::Error) -> Option<HeadFault> {
    error.source()?.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref().copied()
}

/// What passed on one connection. Only its own task writes here what it reads and writes, so that it comes in its order.
#[derive(Debug, Default)]
struct Traffic {
    has_heard: AtomicBool,
    /// Bytes that were sent since upstream was last heard.
    sent: AtomicU64,
    /// A write failed.
    is_refused: AtomicBool,
    /// What came last began like a 408.
    is_timeout: AtomicBool,
    /// Of the current response: [`HEAD`], [`CONTENT`], [`STRAY`].
    response: AtomicU8,
    /// Reads since the last request that began like a response.
    heads: AtomicU32,
    /// Requests so far, modulo 2³².
    requests: AtomicU32,
    carried: Mutex<Carried>,
}

/// Its head has come, and is all of it.
const HEAD: u8 = 1;
/// Its head has come, and content may follow.
const CONTENT: u8 = 2;
/// Something else has come behind it.
const STRAY: u8 = 4;

/// What goes out in one write, bytes: of a shorter request nothing is left to be written when its answer begins.
const ONE_WRITE: u64 = 16 << 10;

impl Traffic {
    fn heard_nothing_of(&self, length: u64) -> bool {
        let sent = self.sent.load(Ordering::Acquire);
        // It had been closed before anything could be sent.
        let is_refused = self.is_refused.load(Ordering::Acquire) && sent == 0 && length <= ONE_WRITE;
        self.has_heard.load(Ordering::Acquire) && (sent >= length || is_refused)
    }

    fn hear(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.has_heard.store(true, Ordering::Release);
            self.sent.store(0, Ordering::Release);
            self.is_timeout.store(is_timeout(bytes), Ordering::Release);
            self.heads.fetch_add(u32::from(bytes.starts_with(HEAD_BEGINS)), Ordering::AcqRel);
        }
    }

    fn send(&self, written: &io::Result<usize>) {
        match written {
            Ok(bytes) => drop(self.sent.fetch_add(*bytes as u64, Ordering::AcqRel)),
            Err(_) => self.is_refused.store(true, Ordering::Release),
        }
    }

    fn carried(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what may have been answered with what belongs to others.
    fn suspects(&self) -> Suspects {
        let has_another = self.heads.load(Ordering::Acquire) > 1;
        self.carried().take(has_another)
    }

    fn begin(&self) {
        self.response.store(0, Ordering::Release);
        self.heads.store(0, Ordering::Release);
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    fn end(&self, ending: Ending) -> bool {
        let ending = if ending == Ending::Head { HEAD } else { CONTENT };
        self.response.fetch_or(ending, Ordering::AcqRel) & STRAY != 0 && !self.is_timeout.load(Ordering::Acquire)
    }

    /// How the response ended behind which something came. `None`: that is to be found out by who waits for its head, or
    /// what came is a 408, which some servers send before they close an idle connection (RFC 9110 §15.5.9).
    fn note_stray(&self) -> Option<Ending> {
        let response = self.response.fetch_or(STRAY, Ordering::AcqRel);
        match response {
            _ if self.is_timeout.load(Ordering::Acquire) => None,
            HEAD => Some(Ending::Head),
            CONTENT => Some(Ending::Content),
            _ => None,
        }
    }
}

/// How a response begins.
const HEAD_BEGINS: &[u8] = b"HTTP/1.";

/// Whether bytes begin like a 408, which some servers send before they close an idle connection (RFC 9110 §15.5.9).
pub(super) fn is_timeout(bytes: &[u8]) -> bool {
    bytes.starts_with(HEAD_BEGINS) && bytes.get(8..12) == Some(b" 408")
}

/// Notes the traffic of a connection and scans response heads. When upstream stops reading, it may have responded before
/// (RFC 9112 §9.6): a failed write stays pending until the response, or the end, has been read. hyper would give up at
/// once.
#[derive(Debug)]
struct TrafficHooks {
    traffic: Arc<Traffic>,
    max_head: usize,
    /// The heads of the current response.
    scan: HeadScan,
    /// [`Traffic::requests`] when it began.
    requests: u32,
    /// Runs from the first failed write.
    failed_write: Option<Pin<Box<Sleep>>>,
}

impl TrafficHooks {
    fn new(traffic: &Arc<Traffic>, max_head: usize) -> TrafficHooks {
        TrafficHooks {
            traffic: Arc::clone(traffic),
            max_head,
            scan: HeadScan::new(max_head),
            requests: 0,
            failed_write: None,
        }
    }

    fn look_at(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.traffic.hear(bytes);
        let requests = self.traffic.requests.load(Ordering::Acquire);
        if requests != self.requests {
            (self.scan, self.requests) = (HeadScan::new(self.max_head), requests);
        }
        self.scan.take(bytes).map_err(|fault| io::Error::new(ErrorKind::InvalidData, fault))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamHooks<S> for TrafficHooks {
    fn read(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        Poll::Ready(self.look_at(&buffer.filled()[before..]))
    }

    fn write(&mut self, stream: &mut S, cx: &mut Context<'_>, output: Output<'_>) -> Poll<io::Result<usize>> {
        let written = ready!(output.write_to(stream, cx));
        self.traffic.send(&written);
        let is_closed =
            |error: &io::Error| matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
        if written.as_ref().is_err_and(is_closed) {
            let wait = self.failed_write.get_or_insert_with(|| Box::pin(tokio::time::sleep(AFTER_FAILED_WRITE)));
            ready!(wait.as_mut().poll(cx));
        }
        Poll::Ready(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_unheard_when_all_of_it_was_sent_after_the_last_word() {
        let traffic = Traffic::default();
        traffic.send(&Ok(100));
        assert!(!traffic.heard_nothing_of(100), "a new connection");
        traffic.hear(b"x");
        assert!(!traffic.heard_nothing_of(100));
        traffic.send(&Ok(100));
        assert!(traffic.heard_nothing_of(100));
        traffic.hear(b"");
        assert!(traffic.heard_nothing_of(100), "the end is no word");
        traffic.hear(b"x");
        assert!(!traffic.heard_nothing_of(100));
        // Upstream spoke when half of the next one was sent.
        traffic.send(&Ok(50));
        traffic.hear(b"x");
        traffic.send(&Ok(50));
        assert!(!traffic.heard_nothing_of(100));
    }

    #[test]
    fn a_request_that_could_not_be_sent_is_unheard() {
        let refused = || Err(ErrorKind::BrokenPipe.into());
        let traffic = Traffic::default();
        traffic.send(&refused());
        assert!(!traffic.heard_nothing_of(100), "a new connection");
        traffic.hear(b"x");
        traffic.send(&refused());
        assert!(traffic.heard_nothing_of(100));
        assert!(!traffic.heard_nothing_of(ONE_WRITE + 1), "the answer may have begun before the last write");
        traffic.send(&Ok(50));
        assert!(!traffic.heard_nothing_of(100), "upstream may have had some of it");
    }

    #[test]
    fn stray_bytes_are_told_once_whoever_comes_first() {
        for ending in [Ending::Head, Ending::Content] {
            let traffic = Traffic::default();
            traffic.begin();
            traffic.hear(b"HTTP/1.1 204 No Content\r\n\r\nHello");
            assert!(!traffic.end(ending));
            assert_eq!(traffic.note_stray(), Some(ending));
            // The connection ends before the one who waits for the head has seen it.
            traffic.begin();
            assert_eq!(traffic.note_stray(), None);
            assert!(traffic.end(ending));
        }
    }

    #[test]
    fn a_408_shows_nothing() {
        let traffic = Traffic::default();
        assert!(!traffic.end(Ending::Head));
        traffic.hear(b"HTTP/1.0 408 Request Time-out\r\n\r\n");
        assert_eq!(traffic.note_stray(), None);
        for (bytes, expected) in [
            ("HTTP/1.1 408\r\n\r\n", true),
            ("HTTP/1.1 200 408\r\n", false),
            ("HTTP/1.1", false),
            ("Hello", false),
        ] {
            assert_eq!(is_timeout(bytes.as_bytes()), expected, "{bytes}");
        }
    }
}
