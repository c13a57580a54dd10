//! A connection to upstream, and its traffic. RFC 9112 §9.3.1 allows a request to be repeated when an idle connection turns out
//! to be closed. If upstream had begun to respond, or the connection was new, it was not closed while idle: upstream may have
//! processed the request.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::{self, ThreadId};
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
use super::socket::{SocketProbe, Unread};
use super::suspects::{Carried, Suspects};
use crate::hooked_stream::{HookedStream, StreamHooks, WriteBytes};
use crate::http::chunks::{Chunks, Stop};
use crate::http::headers;

/// hyper's read buffer beyond the largest head, bytes.
const READ_BUFFER: usize = 16 << 10;

/// Responses after which a connection rests in any case, so that one that is out of step is detected.
const RESPONSES_WITHOUT_REST: u32 = 256;

/// Longest time to read upstream's response after a write has failed.
const AFTER_FAILED_WRITE: Duration = Duration::from_secs(30);

/// A connection to upstream, for one request at a time.
#[derive(Debug)]
pub(super) struct UpstreamConn {
    sender: SendRequest<RequestBody>,
    traffic: Arc<Traffic>,
    /// The task that drives it.
    task: AbortHandle,
    /// The thread of that task, if its runtime has only one.
    thread: ThreadId,
    probe: SocketProbe,
    /// How its last response ended; `None` before the first one.
    last: Option<Ending>,
    /// Responses since its last rest.
    responses: u32,
    /// Upstream's address.
    peer: Option<IpAddr>,
    /// Upstream's idle timeout (`Keep-Alive`), from its last response.
    keep_alive: Option<Duration>,
}

/// Stray bytes: bytes that belong to no response.
#[derive(Debug)]
pub(super) struct Stray {
    /// How the response before them ended.
    pub behind: Ending,
    /// Requests that may have got the responses to others.
    pub suspects: Suspects,
}

impl UpstreamConn {
    /// Starts HTTP/1.1 on a stream. Bytes that arrive while no request is in progress end the connection and are reported to
    /// `on_stray`. The heads of a response, with its interim responses, have at most `max_head` bytes.
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
        let probe = extras.remove().unwrap_or_default();
        let peer = extras.get::<HttpInfo>().map(|info| info.remote_addr().ip());
        let traffic = Arc::<Traffic>::default();
        let stream = TokioIo::new(HookedStream::new(TokioIo::new(stream), TrafficHooks::new(&traffic, max_head)));
        // RFC 9112 §5.1: a proxy removes whitespace between a response's field name and its colon.
        let mut builder = Builder::new();
        builder.allow_spaces_after_header_name_in_responses(true);
        // The limit is in bytes.
        builder.max_headers(max_head / LINE);
        // A chunk that waits for its client keeps the whole read buffer in memory: hyper's default grows to 400 KiB.
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
        let thread = thread::current().id();
        Ok(UpstreamConn { sender, traffic, task, thread, probe, last: None, responses: 0, peer, keep_alive: None })
    }

    /// Aborts the connection, and any request on it.
    pub fn task(&self) -> AbortHandle {
        self.task.clone()
    }

    /// The thread that it was made in.
    pub fn thread(&self) -> ThreadId {
        self.thread
    }

    /// Upstream's address, if known.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Upstream's idle timeout, if it sent one.
    pub fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// Records the idle timeout in the fields of a response.
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

    /// Records the ending and the request of the response whose head has arrived. Returns stray bytes that have arrived with
    /// it.
    pub fn end(&mut self, ending: Ending, method: &Method, path_and_query: &str) -> Option<Stray> {
        self.last = Some(ending);
        self.responses += 1;
        self.traffic.carried().note(method, path_and_query);
        if self.traffic.end(ending) { self.stray() } else { None }
    }

    /// Reports bytes after the last response as stray. `None` on a new connection.
    pub fn stray(&self) -> Option<Stray> {
        let behind = self.last?;
        Some(Stray { behind, suspects: self.traffic.suspects() })
    }

    /// Whether it is to rest before its next request: something may yet come behind a response that has no content; and
    /// now and then in any case.
    pub fn needs_rest(&self) -> bool {
        self.last == Some(Ending::Head) || self.responses >= RESPONSES_WITHOUT_REST
    }

    /// Records that it has rested.
    pub fn note_rest(&mut self) {
        self.responses = 0;
    }

    /// What has arrived while no request is in progress.
    pub fn unread(&self) -> Unread {
        self.probe.unread()
    }

    /// Whether another request may be sent now.
    pub fn is_idle(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until another request may be sent. `false` if the connection ends instead.
    pub async fn idle(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Whether a write has failed.
    pub fn has_write_failed(&self) -> bool {
        self.traffic.has_write_failed.load(Ordering::Acquire)
    }

    /// Whether upstream has responded on this connection before, but not to the current request of at least `length` bytes.
    pub fn heard_nothing_of(&self, length: u64) -> bool {
        self.traffic.heard_nothing_of(length)
    }
}

/// Whether a connection ended because of bytes that arrived while no request was in progress.
pub(super) fn is_stray(error: &hyper::Error) -> bool {
    // hyper identifies this error by its text only.
    let is_it = |error: &hyper::Error| error.to_string() == "received unexpected message from connection";
    is_it(error) || error.source().and_then(|source| source.downcast_ref()).is_some_and(is_it)
}

/// The fault of a response head that ended the connection.
pub(super) fn head_fault(error: &hyper::Error) -> Option<HeadFault> {
    error.source()?.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref().copied()
}

/// The traffic of one connection. Reads and writes are recorded by the connection's task alone, and so in their order.
#[derive(Debug, Default)]
struct Traffic {
    has_read: AtomicBool,
    /// Bytes sent since the last read.
    sent: AtomicU64,
    /// A write failed.
    has_write_failed: AtomicBool,
    /// The last read began like a 408.
    is_timeout: AtomicBool,
    /// Flags of the current response: [`HEAD`], [`CONTENT`], [`STRAY`].
    response: AtomicU8,
    /// Reads since the last request that began like a response.
    heads: AtomicU32,
    /// Requests so far, modulo 2³².
    requests: AtomicU32,
    carried: Mutex<Carried>,
}

/// Its head has arrived, and it has no content.
const HEAD: u8 = 1;
/// Its head has arrived, and content may follow.
const CONTENT: u8 = 2;
/// Stray bytes have arrived after it.
const STRAY: u8 = 4;

/// Size of one write, bytes. A shorter request is written completely before its response begins.
const ONE_WRITE: u64 = 16 << 10;

impl Traffic {
    fn heard_nothing_of(&self, length: u64) -> bool {
        let sent = self.sent.load(Ordering::Acquire);
        // The connection was closed before anything could be sent.
        let has_write_failed = self.has_write_failed.load(Ordering::Acquire) && sent == 0 && length <= ONE_WRITE;
        self.has_read.load(Ordering::Acquire) && (sent >= length || has_write_failed)
    }

    fn note_read(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.has_read.store(true, Ordering::Release);
            self.sent.store(0, Ordering::Release);
            self.is_timeout.store(is_timeout(bytes), Ordering::Release);
            self.heads.fetch_add(u32::from(bytes.starts_with(HEAD_BEGINS)), Ordering::AcqRel);
        }
    }

    fn note_write(&self, written: &io::Result<usize>) {
        match written {
            Ok(bytes) => drop(self.sent.fetch_add(*bytes as u64, Ordering::AcqRel)),
            Err(_) => self.has_write_failed.store(true, Ordering::Release),
        }
    }

    fn carried(&self) -> MutexGuard<'_, Carried> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the requests that may have got the responses to others.
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

    /// Records stray bytes. Returns how the response before them ended; `None` if its head is still awaited (then
    /// [`Traffic::end`] reports them), or if they are a 408.
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

/// First bytes of a response.
const HEAD_BEGINS: &[u8] = b"HTTP/1.";

/// Whether bytes begin like a 408, which some servers send before they close an idle connection (RFC 9110 §15.5.9).
pub(super) fn is_timeout(bytes: &[u8]) -> bool {
    bytes.starts_with(HEAD_BEGINS) && bytes.get(8..12) == Some(b" 408")
}

/// Records the traffic of a connection, scans response heads, and joins small chunks. When upstream stops reading, it may have responded before
/// (RFC 9112 §9.6): a failed write stays pending until the response, or the end, has been read. hyper would give up at
/// once.
#[derive(Debug)]
struct TrafficHooks {
    traffic: Arc<Traffic>,
    max_head: usize,
    /// The heads of the current response.
    scan: HeadScan,
    /// Its content behind them, until its last chunk.
    chunks: Option<Chunks>,
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
            chunks: None,
            requests: 0,
            failed_write: None,
        }
    }

    /// Scans bytes that were read. Returns how many are left of them: joined chunks are shorter.
    fn scan_read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.traffic.note_read(bytes);
        let requests = self.traffic.requests.load(Ordering::Acquire);
        if requests != self.requests {
            (self.scan, self.chunks, self.requests) = (HeadScan::new(self.max_head), None, requests);
        }
        let head = self.scan.take(bytes).map_err(|fault| io::Error::new(ErrorKind::InvalidData, fault))?;
        if head > 0 && self.scan.announces_chunks() {
            self.chunks = Some(Chunks::BEGIN);
        }
        let Some(chunks) = &mut self.chunks else { return Ok(bytes.len()) };
        let (taken, stop, joined) = chunks.join(&bytes[head..]);
        if stop != Stop::Empty {
            // Trailers or the end; or bytes with which hyper ends the connection.
            self.chunks = None;
        }
        let Some(joined) = joined else { return Ok(bytes.len()) };
        let end = head + joined.len();
        bytes[head..end].copy_from_slice(&joined);
        bytes.copy_within(head + taken.., end);
        Ok(bytes.len() - (taken - joined.len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamHooks<S> for TrafficHooks {
    fn read(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        let left = self.scan_read(&mut buffer.filled_mut()[before..])?;
        buffer.set_filled(before + left);
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, stream: &mut S, cx: &mut Context<'_>, output: WriteBytes<'_>) -> Poll<io::Result<usize>> {
        let written = ready!(output.write_to(stream, cx));
        self.traffic.note_write(&written);
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
    fn a_request_has_no_response_if_all_of_it_was_sent_after_the_last_read() {
        let traffic = Traffic::default();
        traffic.note_write(&Ok(100));
        assert!(!traffic.heard_nothing_of(100), "a new connection");
        traffic.note_read(b"x");
        assert!(!traffic.heard_nothing_of(100));
        traffic.note_write(&Ok(100));
        assert!(traffic.heard_nothing_of(100));
        traffic.note_read(b"");
        assert!(traffic.heard_nothing_of(100), "the end of the connection is no response");
        traffic.note_read(b"x");
        assert!(!traffic.heard_nothing_of(100));
        // Upstream responds when half of the next request is sent.
        traffic.note_write(&Ok(50));
        traffic.note_read(b"x");
        traffic.note_write(&Ok(50));
        assert!(!traffic.heard_nothing_of(100));
    }

    #[test]
    fn a_request_that_could_not_be_written_has_no_response() {
        let refused = || Err(ErrorKind::BrokenPipe.into());
        let traffic = Traffic::default();
        traffic.note_write(&refused());
        assert!(!traffic.heard_nothing_of(100), "a new connection");
        traffic.note_read(b"x");
        traffic.note_write(&refused());
        assert!(traffic.heard_nothing_of(100));
        assert!(!traffic.heard_nothing_of(ONE_WRITE + 1), "the response may have begun before the last write");
        traffic.note_write(&Ok(50));
        assert!(!traffic.heard_nothing_of(100), "upstream may have received some of it");
    }

    #[test]
    fn stray_bytes_are_reported_once_in_either_order_of_events() {
        for ending in [Ending::Head, Ending::Content] {
            let traffic = Traffic::default();
            traffic.begin();
            traffic.note_read(b"HTTP/1.1 204 No Content\r\n\r\nHello");
            assert!(!traffic.end(ending));
            assert_eq!(traffic.note_stray(), Some(ending));
            // The connection ends before the head has been handled.
            traffic.begin();
            assert_eq!(traffic.note_stray(), None);
            assert!(traffic.end(ending));
        }
    }

    #[test]
    fn a_408_does_not_count_as_stray_bytes() {
        let traffic = Traffic::default();
        assert!(!traffic.end(Ending::Head));
        traffic.note_read(b"HTTP/1.0 408 Request Time-out\r\n\r\n");
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
