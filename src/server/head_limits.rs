//! Limits on request heads, below hyper: counts the bytes read of heads that have not ended, refuses a connection whose
//! heads exceed the limit, and paces long HTTP/1 heads and the heads of an HTTP/2 connection. Also notes whether the client is reading.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::admission::AdmittedConn;
use super::frames::Frames;
use super::refuse;
use super::streams::Streams;
use super::turns::Turn;
use crate::hooked_stream::{StreamHooks, WriteBytes};

/// Request heads that hyper gets from an HTTP/2 connection before other tasks run. hyper handles all that have come at
/// once; a hundred heads on each of many connections would delay all others.
const HEADS_AT_A_TIME: usize = 4;

/// Limits on the heads of one connection.
pub(super) struct HeadLimits {
    conn: Arc<AdmittedConn>,
    streams: Arc<Streams>,
    /// A write waits for the client.
    is_writing: bool,
    /// Set when the connection is refused. Until it elapses, input is discarded so that the client can read the response.
    refused: Option<Pin<Box<Sleep>>>,
    /// While a long HTTP/1 head is read.
    turn: Option<Turn>,
    frames: Frames,
    /// HTTP/2 heads that hyper may get before other tasks run.
    heads: usize,
    /// Bytes that have been read and that hyper may not get yet.
    withheld: Bytes,
}

impl HeadLimits {
    pub(super) fn new(conn: &Arc<AdmittedConn>, streams: &Arc<Streams>) -> HeadLimits {
        HeadLimits {
            conn: Arc::clone(conn),
            streams: Arc::clone(streams),
            is_writing: false,
            refused: None,
            turn: None,
            frames: Frames::new(),
            heads: HEADS_AT_A_TIME,
            withheld: Bytes::new(),
        }
    }

    fn note<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.is_writing != written.is_pending() {
            self.is_writing = !self.is_writing;
            self.conn.connection.set_writing(self.is_writing);
        }
        written
    }

    /// Returns withheld bytes, or else reads from the stream.
    fn poll_next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.heads == 0 {
            self.heads = HEADS_AT_A_TIME;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.withheld.is_empty() {
            let read = Pin::new(stream).poll_read(cx, buffer);
            if read.is_pending() {
                self.heads = HEADS_AT_A_TIME;
            }
            return read;
        }
        let piece = self.withheld.split_to(self.withheld.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }

    /// Scans the HTTP/2 frames that were read from `before` on, and withholds the heads over the limit.
    fn scan(&mut self, buffer: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let read = &buffer.filled()[before..];
        let taken = self.frames.take(read, &mut self.heads);
        if taken < read.len() {
            self.withheld = [&read[taken..], &self.withheld].concat().into();
            buffer.set_filled(before + taken);
        }
        if self.frames.is_head_unfinished() {
            self.conn.read_long_head().map_err(|_| over_limit())?;
        }
        Ok(())
    }

    /// Discards input until the client closes or the time is over; then fails.
    fn poll_refused<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        loop {
            let is_over = self.refused.as_mut().is_none_or(|timeout| timeout.as_mut().poll(cx).is_ready());
            let mut buffer = ReadBuf::new(&mut scratch);
            if is_over {
                break;
            }
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Err(over_limit()))
    }
}

fn over_limit() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, "the request heads of this client exceed max_heads")
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamHooks<S> for HeadLimits {
    fn read(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            return self.poll_refused(stream, cx);
        }
        let before = buffer.filled().len();
        let is_http2 = self.streams.is_http2();
        if !is_http2 && self.conn.is_head_long() {
            ready!(self.turn.get_or_insert_with(|| self.conn.queue()).poll(cx));
        }
        let read = self.poll_next(stream, cx, buffer);
        if read.is_pending() {
            self.turn = None;
        }
        ready!(read)?;
        if is_http2 {
            return Poll::Ready(self.scan(buffer, before));
        }
        let count = buffer.filled().len() - before;
        self.frames.pass_preface(count);
        let Err(over) = self.conn.read(count) else { return Poll::Ready(Ok(())) };
        // No request is in progress and all responses are flushed: the socket's buffer takes these few bytes at once.
        let _ = Pin::new(&mut *stream).poll_write(cx, refuse::text(over).as_bytes());
        let _ = Pin::new(&mut *stream).poll_shutdown(cx);
        buffer.set_filled(before);
        self.refused = Some(Box::pin(tokio::time::sleep(refuse::TIMEOUT)));
        self.poll_refused(stream, cx)
    }

    fn write(&mut self, stream: &mut S, cx: &mut Context<'_>, output: WriteBytes<'_>) -> Poll<io::Result<usize>> {
        self.turn = None;
        let written = output.write_to(stream, cx);
        self.note(written)
    }

    fn flush(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes after each read, also when the head has ended with it.
        if self.turn.is_some() && !self.conn.is_head_long() {
            self.turn = None;
        }
        let flushed = Pin::new(stream).poll_flush(cx);
        self.note(flushed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt as _, DuplexStream};

    use super::*;
    use crate::config::ServerConfig;
    use crate::hooked_stream::HookedStream;
    use crate::metrics::Metrics;
    use crate::server::admission::{Admission, Ticket};

    type Limited = HookedStream<DuplexStream, HeadLimits>;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// HEADERS with the flag END_HEADERS, and without.
    const HEAD: &[u8] = &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0];
    const UNFINISHED: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0];

    async fn ticket(server: &ServerConfig) -> Ticket {
        let admission = Admission::new(server, 9, &Arc::new(Metrics::new()));
        admission.admit(IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap()
    }

    /// An HTTP/2 connection on which this message arrives.
    async fn receiving(ticket: &Ticket, message: &[u8]) -> Limited {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(message).await.unwrap();
        let streams = Streams::new();
        streams.set_http2();
        HookedStream::new(near, HeadLimits::new(&ticket.0, &streams))
    }

    /// One poll of a read: the bytes read.
    fn read(connection: &mut Limited) -> Poll<io::Result<usize>> {
        let (mut bytes, mut cx) = ([0; 4096], Context::from_waker(Waker::noop()));
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = Pin::new(connection).poll_read(&mut cx, &mut buffer);
        read.map(|read| read.map(|()| buffer.filled().len()))
    }

    #[tokio::test]
    async fn only_a_few_http2_heads_are_read_before_other_tasks_run() {
        let ticket = ticket(&ServerConfig::default()).await;
        let message = [PREFACE, &HEAD.repeat(2 * HEADS_AT_A_TIME + 1)].concat();
        let mut connection = receiving(&ticket, &message).await;
        let reads: Vec<_> = (0..6).map(|_| read(&mut connection).map(Result::unwrap)).collect();
        let batch = HEADS_AT_A_TIME * HEAD.len();
        let expected = [
            Poll::Ready(PREFACE.len() + batch),
            Poll::Pending,
            Poll::Ready(batch),
            Poll::Pending,
            Poll::Ready(HEAD.len()),
            Poll::Ready(0),
        ];
        assert_eq!(reads, expected);
    }

    #[tokio::test]
    async fn a_connection_ends_when_an_unfinished_http2_head_exceeds_the_limit() {
        let server = ServerConfig { max_heads: 256 << 10, ..ServerConfig::default() };
        let ticket = ticket(&ServerConfig { max_head: 64 << 10, ..server.clone() }).await;
        let mut connection = receiving(&ticket, &[PREFACE, UNFINISHED].concat()).await;
        assert!(matches!(read(&mut connection), Poll::Ready(Ok(_))));
        let ticket = self::ticket(&ServerConfig { max_head: 65 << 10, ..server }).await;
        let mut connection = receiving(&ticket, &[PREFACE, UNFINISHED].concat()).await;
        assert!(matches!(read(&mut connection), Poll::Ready(Err(_))));
    }
}
