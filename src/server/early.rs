//! A connection that writes interim responses between two answers ([`crate::upstream::interim`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Place;
use crate::upstream::interim::Line;

/// A connection with its line. hyper flushes it only when nothing of its own is left to be written, and at the end of
/// every turn of its loop: that is when the line is read. The line is empty unless a request waits for its answer, so
/// that nothing of an answer can have been written before what the line holds, nor be written in the midst of it.
pub(super) struct Early<S> {
    stream: S,
    /// Given back when the connection ends, whatever it has become.
    _place: Place,
    line: Arc<Line>,
    /// What was taken from the line, and how much of it has been written.
    taken: Vec<u8>,
    at: usize,
}

impl<S: AsyncWrite + Unpin> Early<S> {
    pub(super) fn new(stream: S, line: Arc<Line>, place: Place) -> Early<S> {
        Early { stream, line, taken: Vec::new(), at: 0, _place: place }
    }

    /// Writes on what has been begun.
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.taken.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.at < self.taken.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.taken[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.at += count,
            }
        }
        (self.taken, self.at) = (Vec::new(), 0);
        self.line.written();
        Poll::Ready(Ok(()))
    }

    fn write_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.finish(cx))?;
            match self.line.take() {
                Some(bytes) => self.taken = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Early<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Early<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // hyper's own 100 may come before the answer does, but not into the midst of another interim response.
        ready!(this.finish(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.finish(cx))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.write_line(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
