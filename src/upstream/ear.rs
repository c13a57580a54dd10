//! What has been heard on a connection to upstream since the last request on it was sent. RFC 9112 §9.3.1 lets a request
//! be repeated when a connection that had been idle turns out to be closed. When upstream has begun to answer, or the
//! connection was a new one, it is no idle connection that was closed: upstream has received the request, and ended it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

/// What passed on one connection. Only its own task writes here, so that reads and writes come in their order.
#[derive(Debug, Default)]
pub(super) struct Ear {
    has_heard: AtomicBool,
    /// Bytes that were sent since upstream was last heard.
    sent: AtomicU64,
    /// A write failed.
    is_refused: AtomicBool,
}

/// What goes out in one write, bytes: of a shorter request nothing is left to be written when its answer begins.
const ONE_WRITE: u64 = 16 << 10;

impl Ear {
    /// Whether upstream has answered on this connection before, but nothing to a request of at least so many bytes.
    pub fn heard_nothing_of(&self, length: u64) -> bool {
        let sent = self.sent.load(Ordering::Acquire);
        // It had been closed before anything could be sent.
        let is_refused = self.is_refused.load(Ordering::Acquire) && sent == 0 && length <= ONE_WRITE;
        self.has_heard.load(Ordering::Acquire) && (sent >= length || is_refused)
    }

    fn hear(&self, bytes: usize) {
        if bytes > 0 {
            self.has_heard.store(true, Ordering::Release);
            self.sent.store(0, Ordering::Release);
        }
    }

    fn send(&self, written: &io::Result<usize>) {
        match written {
            Ok(bytes) => drop(self.sent.fetch_add(*bytes as u64, Ordering::AcqRel)),
            Err(_) => self.is_refused.store(true, Ordering::Release),
        }
    }
}

/// Connects, and listens on every connection.
#[derive(Debug, Clone)]
pub(super) struct Listening<C>(pub C);

impl<C, S> Service<Uri> for Listening<C>
where
    C: Service<Uri, Response = S>,
    C::Future: Send + 'static,
{
    type Response = TokioIo<Heard<S>>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, C::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            Ok(TokioIo::new(Heard { stream: TokioIo::new(connecting.await?), ear: Arc::default() }))
        })
    }
}

/// A connection on which somebody listens.
#[derive(Debug)]
pub(super) struct Heard<S> {
    stream: TokioIo<S>,
    ear: Arc<Ear>,
}

impl<S: Connection> Connection for Heard<S> {
    fn connected(&self) -> Connected {
        self.stream.inner().connected().extra(Arc::clone(&self.ear))
    }
}

impl<S> AsyncRead for Heard<S>
where
    TokioIo<S>: AsyncRead + Unpin,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.ear.hear(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for Heard<S>
where
    TokioIo<S>: AsyncWrite + Unpin,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes));
        this.ear.send(&written);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, pieces));
        this.ear.send(&written);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_unheard_when_all_of_it_was_sent_after_the_last_word() {
        let ear = Ear::default();
        ear.send(&Ok(100));
        assert!(!ear.heard_nothing_of(100), "a new connection");
        ear.hear(1);
        assert!(!ear.heard_nothing_of(100));
        ear.send(&Ok(100));
        assert!(ear.heard_nothing_of(100));
        ear.hear(0);
        assert!(ear.heard_nothing_of(100), "the end is no word");
        ear.hear(1);
        assert!(!ear.heard_nothing_of(100));
        // Upstream spoke when half of the next one was sent.
        ear.send(&Ok(50));
        ear.hear(1);
        ear.send(&Ok(50));
        assert!(!ear.heard_nothing_of(100));
    }

    #[test]
    fn a_request_that_could_not_be_sent_is_unheard() {
        let refused = || Err(io::ErrorKind::BrokenPipe.into());
        let ear = Ear::default();
        ear.send(&refused());
        assert!(!ear.heard_nothing_of(100), "a new connection");
        ear.hear(1);
        ear.send(&refused());
        assert!(ear.heard_nothing_of(100));
        assert!(!ear.heard_nothing_of(ONE_WRITE + 1), "the answer may have begun before the last write");
        ear.send(&Ok(50));
        assert!(!ear.heard_nothing_of(100), "upstream may have had some of it");
    }
}
