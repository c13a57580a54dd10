//! A connection whose client must go on taking what is sent: one that stops reading would hold its place among the
//! requests to upstream for ever, and a few of those would take upstream away from everybody else. And whose client
//! must begin: hyper's limit for the head of a request runs only when it is known which protocol the client speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::task::AbortOnDropHandle;

/// How every HTTP/2 connection begins (RFC 9113 §3.4), and no other.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that fails when nothing could be written for `patience`, or when it is not known in time which protocol
/// the client speaks.
pub(crate) struct Unstalled<S> {
    stream: S,
    patience: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    opening: Option<Opening>,
    http2: Http2,
}

/// What runs beside a connection of HTTP/2, and ends with it.
enum Http2 {
    /// To be begun if it becomes one.
    Awaited(Begin),
    Spoken(#[expect(dead_code, reason = "held, and dropped with the connection")] AbortOnDropHandle<()>),
    Other,
}

type Begin = Box<dyn FnOnce() -> AbortOnDropHandle<()> + Send>;

/// A connection that may yet be HTTP/1 or HTTP/2.
struct Opening {
    /// How much of the preface has come.
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Opening {
    /// Whether all of the preface has come.
    fn is_http2(&self) -> bool {
        self.seen >= PREFACE.len()
    }

    /// Whether the protocol is still not known after these bytes.
    fn goes_on(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.seen..];
        let (compared, _) = bytes.split_at(bytes.len().min(expected.len()));
        if !expected.starts_with(compared) {
            return false;
        }
        self.seen += compared.len();
        // No bytes are the end.
        !bytes.is_empty() && !self.is_http2()
    }
}

impl<S> Unstalled<S> {
    /// `opening`: how long the client may take to show which protocol it speaks.
    pub(crate) fn new(stream: S, patience: Duration, opening: Duration) -> Unstalled<S> {
        let opening = Some(Opening { seen: 0, deadline: Box::pin(tokio::time::sleep(opening)) });
        Unstalled { stream, patience, deadline: None, opening, http2: Http2::Other }
    }

    /// Begins something to run beside a connection that turns out to be one of HTTP/2.
    pub(crate) fn when_http2(
        self,
        begin: impl FnOnce() -> AbortOnDropHandle<()> + Send + 'static,
    ) -> Unstalled<S> {
        Unstalled { http2: Http2::Awaited(Box::new(begin)), ..self }
    }

    /// The protocol is known.
    fn open(&mut self, is_http2: bool) {
        self.opening = None;
        self.http2 = match std::mem::replace(&mut self.http2, Http2::Other) {
            Http2::Awaited(begin) if is_http2 => Http2::Spoken(begin()),
            _ => Http2::Other,
        };
    }

    /// Gives up on a write that has been pending for too long. The timer is made only when a write has to wait.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let patience = self.patience;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client has stopped reading")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some(opening) = &mut this.opening else { return read };
        if read.is_pending() {
            ready!(opening.deadline.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client has not begun")));
        }
        if !opening.goes_on(&buffer.filled()[before..]) {
            let is_http2 = opening.is_http2();
            this.open(is_http2);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.in_time(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        this.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.in_time(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PATIENCE: Duration = Duration::from_secs(30);
    const OPENING: Duration = Duration::from_secs(10);

    /// What a server reads from a client that sends these pieces, one every `OPENING / 3`, and then nothing.
    async fn read(pieces: &[&[u8]]) -> Result<usize, io::ErrorKind> {
        let (near, mut far) = tokio::io::duplex(64);
        let reader = tokio::spawn(async move {
            let (mut near, mut read) = (Unstalled::new(near, PATIENCE, OPENING), 0);
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
    async fn a_client_that_does_not_show_its_protocol_in_time_is_given_up() {
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

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_given_up() {
        let (near, _far) = tokio::io::duplex(16);
        let written = Unstalled::new(near, PATIENCE, OPENING).write_all(&[0; 64]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_gets_everything() {
        let (near, mut far) = tokio::io::duplex(16);
        let writer =
            tokio::spawn(async move { Unstalled::new(near, PATIENCE, OPENING).write_all(&[0; 64]).await });
        for _ in 0..4 {
            tokio::time::sleep(PATIENCE / 2).await;
            far.read_exact(&mut [0; 16]).await.unwrap();
        }
        writer.await.unwrap().unwrap();
    }
}
