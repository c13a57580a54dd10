//! A connection that counts what is read of request heads, and says whether its client reads. One whose heads take more than
//! there is for them is refused; one that brings many over HTTP/2 is given few of them at a time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::admission::Place;
use super::frames::Frames;
use super::refuse;
use super::streams::Streams;

/// Request heads that an HTTP/2 connection is given before it lets the tasks of other connections run. hyper takes up all that
/// are there, and a hundred of them on each of many connections would keep everybody waiting.
const HEADS_AT_A_TIME: usize = 4;

/// A connection that counts.
pub(super) struct Counted<S> {
    stream: S,
    place: Arc<Place>,
    streams: Arc<Streams>,
    /// A write waits for the client.
    is_writing: bool,
    /// It was refused; until then what still comes is thrown away, so that the client can read why.
    refused: Option<Pin<Box<Sleep>>>,
    frames: Frames,
    /// How many heads it may be given before others run.
    heads: usize,
    /// What it may not be given yet.
    withheld: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Counted<S> {
    pub(super) fn new(stream: S, place: &Arc<Place>, streams: &Arc<Streams>) -> Counted<S> {
        Counted {
            stream,
            place: Arc::clone(place),
            streams: Arc::clone(streams),
            is_writing: false,
            refused: None,
            frames: Frames::new(),
            heads: HEADS_AT_A_TIME,
            withheld: Bytes::new(),
        }
    }

    fn note<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.is_writing != written.is_pending() {
            self.is_writing = !self.is_writing;
            self.place.connection.set_writing(self.is_writing);
        }
        written
    }

    /// Reads what has come, or what was withheld.
    fn poll_next(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.heads == 0 {
            self.heads = HEADS_AT_A_TIME;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.withheld.is_empty() {
            let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
            if read.is_pending() {
                self.heads = HEADS_AT_A_TIME;
            }
            return read;
        }
        let piece = self.withheld.split_to(self.withheld.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }

    /// Looks at what was read over HTTP/2 from `before` on, and withholds what is too much.
    fn follow(&mut self, buffer: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let read = &buffer.filled()[before..];
        let taken = self.frames.take(read, &mut self.heads);
        if taken < read.len() {
            self.withheld = [&read[taken..], &self.withheld].concat().into();
            buffer.set_filled(before + taken);
        }
        if self.frames.is_head_unfinished() {
            self.place.read_long_head().map_err(|_| out_of_room())?;
        }
        Ok(())
    }

    /// Throws away what comes, for a while.
    fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        loop {
            let is_over = self.refused.as_mut().is_none_or(|patience| patience.as_mut().poll(cx).is_ready());
            let mut buffer = ReadBuf::new(&mut scratch);
            if is_over {
                break;
            }
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Err(out_of_room()))
    }
}

fn out_of_room() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, "request heads take too much")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused.is_some() {
            return this.poll_refused(cx);
        }
        let before = buffer.filled().len();
        ready!(this.poll_next(cx, buffer))?;
        if this.streams.are_spoken() {
            return Poll::Ready(this.follow(buffer, before));
        }
        let count = buffer.filled().len() - before;
        this.frames.pass_preface(count);
        let Err(over) = this.place.read(count) else { return Poll::Ready(Ok(())) };
        // No request is being answered, and all answers are out: there is room for these few bytes.
        let _ = Pin::new(&mut this.stream).poll_write(cx, refuse::text(over).as_bytes());
        let _ = Pin::new(&mut this.stream).poll_shutdown(cx);
        buffer.set_filled(before);
        this.refused = Some(Box::pin(tokio::time::sleep(refuse::PATIENCE)));
        this.poll_refused(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
        this.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.note(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::task::Waker;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::config::ServerConfig;
    use crate::metrics::Metrics;
    use crate::server::admission::{Admission, Ticket};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// HEADERS with the flag END_HEADERS, and without.
    const HEAD: &[u8] = &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0];
    const UNFINISHED: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0];

    async fn ticket(server: &ServerConfig) -> Ticket {
        let admission = Admission::new(server, 9, &Arc::new(Metrics::new()));
        admission.admit(IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap()
    }

    /// An HTTP/2 connection that brings this.
    async fn bringing(ticket: &Ticket, message: &[u8]) -> Counted<tokio::io::DuplexStream> {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(message).await.unwrap();
        let streams = Streams::new();
        streams.speak();
        Counted::new(near, &ticket.0, &streams)
    }

    /// What is given at once: the length, or nothing yet.
    fn read(connection: &mut Counted<tokio::io::DuplexStream>) -> Poll<io::Result<usize>> {
        let (mut bytes, mut cx) = ([0; 4096], Context::from_waker(Waker::noop()));
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = Pin::new(connection).poll_read(&mut cx, &mut buffer);
        read.map(|read| read.map(|()| buffer.filled().len()))
    }

    #[tokio::test]
    async fn few_heads_are_given_before_others_run() {
        let ticket = ticket(&ServerConfig::default()).await;
        let message = [PREFACE, &HEAD.repeat(2 * HEADS_AT_A_TIME + 1)].concat();
        let mut connection = bringing(&ticket, &message).await;
        let given: Vec<_> = (0..6).map(|_| read(&mut connection).map(Result::unwrap)).collect();
        let turn = HEADS_AT_A_TIME * HEAD.len();
        let expected = [
            Poll::Ready(PREFACE.len() + turn),
            Poll::Pending,
            Poll::Ready(turn),
            Poll::Pending,
            Poll::Ready(HEAD.len()),
            Poll::Ready(0),
        ];
        assert_eq!(given, expected);
    }

    #[tokio::test]
    async fn a_connection_without_room_for_an_unfinished_head_ends() {
        let server = ServerConfig { max_heads: 256 << 10, ..ServerConfig::default() };
        let ticket = ticket(&ServerConfig { max_head: 64 << 10, ..server.clone() }).await;
        let mut connection = bringing(&ticket, &[PREFACE, UNFINISHED].concat()).await;
        assert!(matches!(read(&mut connection), Poll::Ready(Ok(_))));
        let ticket = self::ticket(&ServerConfig { max_head: 65 << 10, ..server }).await;
        let mut connection = bringing(&ticket, &[PREFACE, UNFINISHED].concat()).await;
        assert!(matches!(read(&mut connection), Poll::Ready(Err(_))));
    }
}
