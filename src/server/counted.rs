//! A connection that counts what is read of request heads, and says whether its client reads. One whose heads take more than
//! there is for them is refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::admission::Place;
use super::refuse;
use super::streams::Streams;

/// A connection that counts.
pub(super) struct Counted<S> {
    stream: S,
    place: Arc<Place>,
    streams: Arc<Streams>,
    /// A write waits for the client.
    is_writing: bool,
    /// It was refused; until then what still comes is thrown away, so that the client can read why.
    refused: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Counted<S> {
    pub(super) fn new(stream: S, place: &Arc<Place>, streams: &Arc<Streams>) -> Counted<S> {
        Counted {
            stream,
            place: Arc::clone(place),
            streams: Arc::clone(streams),
            is_writing: false,
            refused: None,
        }
    }

    fn note<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.is_writing != written.is_pending() {
            self.is_writing = !self.is_writing;
            self.place.connection.set_writing(self.is_writing);
        }
        written
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
        Poll::Ready(Err(io::Error::new(io::ErrorKind::OutOfMemory, "request heads take too much")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused.is_some() {
            return this.poll_refused(cx);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        // h2 bounds the header lists of a connection by itself.
        if this.streams.are_spoken() {
            return Poll::Ready(Ok(()));
        }
        let Err(over) = this.place.read(buffer.filled().len() - before) else { return Poll::Ready(Ok(())) };
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
