//! A connection that writes interim responses between two answers ([`crate::client_conn::interim`]), looks at the heads of
//! requests before hyper does, and says why where hyper refuses one ([`super::heads`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchanges::{Exchanges, Rejection};
use super::heads::{self, RequestHeads};

/// How a refusal begins.
const REFUSAL: &[u8] = b"HTTP/1.1 4";

/// A connection with its line. hyper flushes it only when nothing of its own is left to be written, and at the end of
/// every turn of its loop: that is when the line is read. The line is empty unless a request waits for its answer, so
/// that nothing of an answer can have been written before what the line holds, nor be written in the midst of it.
pub(super) struct Early<S> {
    /// Given back when the connection ends, whatever it has become; before its client can see that.
    stream: S,
    exchanges: Arc<Exchanges>,
    /// What was taken from the line, and how much of it has been written.
    taken: Vec<u8>,
    at: usize,
    heads: RequestHeads,
    /// What hyper is yet to be given, where that is not what came.
    changed: Bytes,
    /// What came behind a request whose answer may switch to another protocol, and who waits for it.
    withheld: Bytes,
    reader: Option<Waker>,
}

impl<S: AsyncWrite + Unpin> Early<S> {
    pub(super) fn new(stream: S, exchanges: Arc<Exchanges>) -> Early<S> {
        let heads = RequestHeads::new();
        Early {
            stream,
            exchanges,
            taken: Vec::new(),
            at: 0,
            heads,
            changed: Bytes::new(),
            withheld: Bytes::new(),
            reader: None,
        }
    }

    /// Has an answer written that says why a request is refused, if this is hyper's own.
    fn take_refusal(&mut self, bytes: &[u8]) -> bool {
        let Some(status) = heads::bare_refusal(bytes) else { return false };
        if !self.heads.may_be_refused(self.exchanges.requests()) {
            return false;
        }
        let refused = Rejection { status, reason: heads::reason(status, self.heads.fault()) };
        (self.taken, self.at) = (refused.message(), 0);
        self.exchanges.note_rejection(refused);
        true
    }

    /// Whether what comes may be looked at: it is known what it is.
    fn is_known(&mut self) -> bool {
        if self.heads.wait_for_answer() {
            let (answers, is_switched) = self.exchanges.responses();
            self.heads.note_answers(answers, is_switched);
        }
        !self.heads.wait_for_answer()
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
        self.exchanges.interim.note_written();
        Poll::Ready(Ok(()))
    }

    fn write_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.finish(cx))?;
            match self.exchanges.interim.take() {
                Some(bytes) => self.taken = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Early<S> {
    /// Reads what hyper is to be given next, of which nothing has been looked at. Behind a request whose answer may switch to
    /// another protocol only the end is heard of; what comes is withheld.
    fn poll_next(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (is_known, before) = (self.is_known(), buffer.filled().len());
        if !self.withheld.is_empty() && is_known {
            let piece = self.withheld.split_to(self.withheld.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            return Poll::Ready(Ok(()));
        }
        if self.withheld.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            if is_known || buffer.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            self.withheld = Bytes::copy_from_slice(&buffer.filled()[before..]);
            buffer.set_filled(before);
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Early<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.changed.is_empty() {
            let before = buffer.filled().len();
            ready!(this.poll_next(cx, buffer))?;
            let (taken, changed) = this.heads.take(&buffer.filled()[before..]);
            let rest = &buffer.filled()[before + taken..];
            if !rest.is_empty() {
                this.withheld = [rest, &this.withheld].concat().into();
                buffer.set_filled(before + taken);
            }
            let Some(changed) = changed else { return Poll::Ready(Ok(())) };
            buffer.set_filled(before);
            this.changed = changed.into();
        }
        let piece = this.changed.split_to(this.changed.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Early<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // hyper's own 100 may come before the answer does, but not into the midst of another interim response.
        ready!(this.finish(cx))?;
        if bytes.starts_with(REFUSAL) && this.take_refusal(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.finish(cx))?;
        if let [piece] = pieces
            && piece.starts_with(REFUSAL)
            && this.take_refusal(piece)
        {
            return Poll::Ready(Ok(piece.len()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.write_line(cx))?;
        if this.reader.is_some() && this.is_known() {
            this.reader.take().into_iter().for_each(Waker::wake);
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.finish(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::{HeaderMap, Request, Response, StatusCode};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LENGTH: usize = 10_000;

    /// A POST is answered at once, while its content is still being read; a GET gets a 103 before its answer.
    async fn answer(
        request: Request<Incoming>,
        exchanges: Arc<Exchanges>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.method() == http::Method::POST {
            tokio::spawn(request.into_body().collect());
            return Ok(Response::new(Full::from(vec![b'x'; LENGTH])));
        }
        let hint = async |interim: crate::client_conn::interim::InterimSender| {
            // From another task, as upstream's connection does it.
            let _ = tokio::spawn(async move { interim.send(StatusCode::EARLY_HINTS, &HeaderMap::new()) }).await;
            Response::new(Full::from("answer"))
        };
        Ok(exchanges.interim.respond(hint).await)
    }

    /// The end of the content of one request and the whole next one come when the answer to the first is stuck in the
    /// server's buffer: only then can hyper begin with a request before the answer to the one before is out.
    #[tokio::test(start_paused = true)]
    async fn an_interim_response_waits_for_the_answer_to_the_request_before() {
        let (near, mut far) = tokio::io::duplex(100);
        let exchanges = Arc::<Exchanges>::default();
        let stream = TokioIo::new(Early::new(near, Arc::clone(&exchanges)));
        let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&exchanges)));
        // With vectored writes hyper does not even begin before the answer is out.
        let mut server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.writev(false).serve_connection(stream, service));
        // Time stands still until nobody has anything left to do.
        let settled = || tokio::time::sleep(Duration::from_secs(1));
        far.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n").await.unwrap();
        settled().await;
        far.write_all(b"xGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        settled().await;
        let mut received = String::new();
        let read = tokio::time::timeout(Duration::from_secs(60), far.read_to_string(&mut received)).await;
        assert!(read.is_ok(), "the connection does not end");
        let (head, rest) = received.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let (first, second) = rest.split_at(LENGTH);
        assert!(first.bytes().all(|byte| byte == b'x'), "nothing stands in the midst of the first answer");
        assert!(second.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"), "{second}");
        assert!(second.ends_with("\r\n\r\nanswer"), "{second}");
    }
}
