//! Timeouts of a client's connection that hyper does not have. A client that stops reading would hold its place among the
//! requests to upstream for ever, and a few such clients would block upstream for all. hyper's timeout for a request head
//! runs only once the protocol is known, so a client that sends nothing needs another one; and hyper allocates a timer for each
//! request, where one for the connection is enough.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::task::AbortOnDropHandle;

use super::ClientConn;
use crate::hooked_stream::{StreamHooks, WriteBytes};

/// The first bytes of every HTTP/2 connection (RFC 9113 §3.4) and of no other.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fails a write that makes no progress in time, and a read if the client does not show its protocol in time.
pub(crate) struct ClientTimeouts {
    write: Duration,
    /// Runs while a write is pending.
    deadline: Option<Pin<Box<Sleep>>>,
    opening: Option<ProtocolDetection>,
    heads: Option<HeadTimeout>,
    http2: Http2,
}

/// The longest time until the head of the next HTTP/1 request is complete.
struct HeadTimeout {
    conn: Arc<ClientConn>,
    timeout: Duration,
    /// Runs from the opening of the connection on, once the protocol is HTTP/1. It is not reset with each request. When it fires, it
    /// is re-armed for `timeout` after the end of the last request.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the client last took the rest of a response that had to wait for it.
    flushed: Option<Instant>,
}

impl HeadTimeout {
    /// Ready when the head has not come in time. `is_writing`: the client has not taken all of the last response, whose body may have
    /// ended long before.
    fn poll(&mut self, cx: &mut Context<'_>, is_writing: bool) -> Poll<()> {
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            let idle_since = self.conn.idle_since().filter(|_| !is_writing).unwrap_or(now);
            let deadline = self.flushed.map_or(idle_since, |flushed| flushed.max(idle_since)) + self.timeout;
            if deadline <= now {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline.into());
        }
    }
}

/// The task beside an HTTP/2 connection.
enum Http2 {
    /// To be started if the client speaks HTTP/2.
    Awaited(Start),
    Running(#[expect(dead_code, reason = "aborted with the connection")] AbortOnDropHandle<()>),
    None,
}

type Start = Box<dyn FnOnce() -> AbortOnDropHandle<()> + Send>;

/// The beginning of a connection, while it may be HTTP/1 or HTTP/2.
struct ProtocolDetection {
    /// Bytes of the preface seen so far.
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl ProtocolDetection {
    /// Whether all of the preface has come.
    fn is_http2(&self) -> bool {
        self.seen >= PREFACE.len()
    }

    /// Compares the bytes with the preface. Returns whether the protocol is still unknown.
    fn is_open_after(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.seen..];
        let (compared, _) = bytes.split_at(bytes.len().min(expected.len()));
        if !expected.starts_with(compared) {
            return false;
        }
        self.seen += compared.len();
        // An empty read is the end of the connection.
        !bytes.is_empty() && !self.is_http2()
    }
}

impl ClientTimeouts {
    /// `write`: longest time without progress of a write. `opening`: longest time until the protocol is known.
    pub(crate) fn new(write: Duration, opening: Duration) -> ClientTimeouts {
        let opening = Some(ProtocolDetection { seen: 0, deadline: Box::pin(tokio::time::sleep(opening)) });
        ClientTimeouts { write, deadline: None, opening, heads: None, http2: Http2::None }
    }

    /// Fails a read if the head of an HTTP/1 request is not complete `timeout` after the last request.
    pub(crate) fn with_heads_within(self, timeout: Duration, conn: &Arc<ClientConn>) -> ClientTimeouts {
        let heads = HeadTimeout { conn: Arc::clone(conn), timeout, timer: None, flushed: None };
        ClientTimeouts { heads: Some(heads), ..self }
    }

    /// Starts a task when the client turns out to speak HTTP/2. It is aborted when the connection is dropped.
    pub(crate) fn when_http2(
        self,
        start: impl FnOnce() -> AbortOnDropHandle<()> + Send + 'static,
    ) -> ClientTimeouts {
        ClientTimeouts { http2: Http2::Awaited(Box::new(start)), ..self }
    }

    fn end_opening(&mut self, is_http2: bool) {
        let opening = self.opening.take();
        if let Some(heads) = self.heads.as_mut().filter(|_| !is_http2) {
            heads.timer = opening.map(|opening| opening.deadline);
        }
        self.http2 = match std::mem::replace(&mut self.http2, Http2::None) {
            Http2::Awaited(start) if is_http2 => Http2::Running(start()),
            _ => Http2::None,
        };
    }

    /// Fails a write that has been pending for too long. The timer is created only when a write is pending.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.deadline.take().is_some()
                && let Some(heads) = &mut self.heads
            {
                heads.flushed = Some(Instant::now());
            }
            return written;
        }
        let timeout = self.write;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamHooks<S> for ClientTimeouts {
    fn read(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(cx, buffer);
        let Some(opening) = &mut self.opening else {
            if read.is_pending()
                && let Some(heads) = &mut self.heads
            {
                ready!(heads.poll(cx, self.deadline.is_some()));
                let error = io::Error::new(io::ErrorKind::TimedOut, "the client did not send a request in time");
                return Poll::Ready(Err(error));
            }
            return read;
        };
        if read.is_pending() {
            ready!(opening.deadline.as_mut().poll(cx));
            let error = io::Error::new(io::ErrorKind::TimedOut, "the client did not begin a request in time");
            return Poll::Ready(Err(error));
        }
        if !opening.is_open_after(&buffer.filled()[before..]) {
            let is_http2 = opening.is_http2();
            self.end_opening(is_http2);
        }
        read
    }

    fn write(&mut self, stream: &mut S, cx: &mut Context<'_>, output: WriteBytes<'_>) -> Poll<io::Result<usize>> {
        let written = output.write_to(stream, cx);
        self.in_time(cx, written)
    }

    fn flush(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(stream).poll_flush(cx);
        self.in_time(cx, flushed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::ClientConns;
    use super::*;
    use crate::client::Client;
    use crate::hooked_stream::HookedStream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    const WRITE: Duration = Duration::from_secs(30);
    const OPENING: Duration = Duration::from_secs(10);

    fn with_timeouts(stream: DuplexStream) -> HookedStream<DuplexStream, ClientTimeouts> {
        HookedStream::new(stream, ClientTimeouts::new(WRITE, OPENING))
    }

    /// What a server reads from a client that sends these pieces, one every `OPENING / 3`, and then nothing.
    async fn read(pieces: &[&[u8]]) -> Result<usize, io::ErrorKind> {
        let (near, mut far) = tokio::io::duplex(64);
        let reader = tokio::spawn(async move {
            let (mut near, mut read) = (with_timeouts(near), 0);
            loop {
                match near.read(&mut [0; 8]).await {
                    Ok(0) => return Ok(read),
                    Ok(count) => read += count,
                    Err(error) => return Err(error.kind()),
                }
            }
        });
        for piece in pieces {
            tokio::time::sleep(OPENING / 3).await;
            let _ = far.write_all(piece).await;
        }
        tokio::time::sleep(OPENING * 2).await;
        drop(far);
        reader.await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_fails_when_the_client_does_not_show_its_protocol_in_time() {
        let late: [&[&[u8]]; 4] = [&[], &[b"PRI"], &[b"P", b"R", b"I", b" ", b"*"], &[&PREFACE[..23]]];
        for pieces in late {
            assert_eq!(read(pieces).await, Err(io::ErrorKind::TimedOut), "{pieces:?}");
        }
        let in_time: [&[&[u8]]; 4] = [&[b"G"], &[b"PRI", b"X"], &[PREFACE], &[&PREFACE[..20], &PREFACE[20..]]];
        for pieces in in_time {
            let length = pieces.iter().map(|piece| piece.len()).sum();
            assert_eq!(read(pieces).await, Ok(length), "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_read_fails_when_the_next_head_is_late() {
        const HEAD: Duration = Duration::from_millis(20);
        let conn = ClientConns::new().open(Client::at(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let (near, mut far) = tokio::io::duplex(64);
        let timeouts = ClientTimeouts::new(WRITE, HEAD).with_heads_within(HEAD, &conn);
        let (mut near, mut buffer) = (HookedStream::new(near, timeouts), [0; 8]);
        let busy = conn.begin();
        far.write_all(b"GET").await.unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap(), 3);
        let read = tokio::time::timeout(5 * HEAD, near.read(&mut buffer)).await;
        assert!(read.is_err(), "a request is in progress, whatever its time");
        drop(busy);
        assert_eq!(near.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// hyper reads while it writes, to notice that the client has gone.
    #[tokio::test]
    async fn no_read_fails_while_the_client_takes_the_last_response_slowly() {
        const HEAD: Duration = Duration::from_millis(200);
        let conn = ClientConns::new().open(Client::at(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let (near, mut far) = tokio::io::duplex(16);
        let mut timeouts = ClientTimeouts::new(WRITE, HEAD).with_heads_within(HEAD, &conn);
        timeouts.end_opening(false);
        let mut near = HookedStream::new(near, timeouts);
        let poll = |near: &mut HookedStream<DuplexStream, ClientTimeouts>| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let written = Pin::new(&mut *near).poll_write(&mut cx, &[0; 16]);
            let read = Pin::new(near).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 8]));
            (written, read)
        };
        assert!(matches!(poll(&mut near), (Poll::Ready(Ok(16)), Poll::Pending)));
        for _ in 0..2 {
            assert!(matches!(poll(&mut near), (Poll::Pending, Poll::Pending)));
            tokio::time::sleep(2 * HEAD).await;
        }
        far.read_exact(&mut [0; 16]).await.unwrap();
        assert!(matches!(poll(&mut near), (Poll::Ready(Ok(16)), Poll::Pending)), "the time begins anew");
        far.read_exact(&mut [0; 16]).await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_when_the_client_stops_reading() {
        let (near, _far) = tokio::io::duplex(16);
        let written = with_timeouts(near).write_all(&[0; 64]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_receives_everything() {
        let (near, mut far) = tokio::io::duplex(16);
        let writer = tokio::spawn(async move { with_timeouts(near).write_all(&[0; 64]).await });
        for _ in 0..4 {
            tokio::time::sleep(WRITE / 2).await;
            far.read_exact(&mut [0; 16]).await.unwrap();
        }
        writer.await.unwrap().unwrap();
    }
}
