//! HTTP/1 below hyper: writes interim responses between two responses ([`crate::client_conn::interim`]), scans request
//! heads before hyper parses them ([`super::heads`]), and gives a reason where hyper rejects a request without one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::exchanges::{Exchanges, Rejection};
use super::heads::{self, RequestHeads};
use crate::hooked_stream::{StreamHooks, WriteBytes};

/// First bytes of a response with which hyper rejects a request.
const REJECTION: &[u8] = b"HTTP/1.1 4";

/// Interim responses are taken from the queue when hyper flushes: it does so only when it has nothing more to write, at the
/// end of each pass of its loop. The queue is empty unless a request waits for its final response. So an interim response
/// never follows, or interrupts, the response it belongs to.
pub(super) struct Http1Hooks {
    exchanges: Arc<Exchanges>,
    /// A message of Larder's own that is being written, and how much of it has been.
    message: Vec<u8>,
    written: usize,
    heads: RequestHeads,
    /// Bytes that hyper reads in place of those that were received.
    replaced: Bytes,
    /// Bytes received behind a request whose response may switch to another protocol.
    withheld: Bytes,
    /// Wakes the read that waits for that response.
    reader: Option<Waker>,
}

impl Http1Hooks {
    pub(super) fn new(exchanges: Arc<Exchanges>) -> Http1Hooks {
        Http1Hooks {
            exchanges,
            message: Vec::new(),
            written: 0,
            heads: RequestHeads::new(),
            replaced: Bytes::new(),
            withheld: Bytes::new(),
            reader: None,
        }
    }

    /// Replaces hyper's own rejection of a request by one with a reason. Returns whether the bytes were such a rejection.
    fn replace_rejection(&mut self, bytes: &[u8]) -> bool {
        let Some(status) = heads::bare_rejection(bytes) else { return false };
        if !self.heads.may_be_rejected(self.exchanges.requests()) {
            return false;
        }
        let rejection = Rejection { status, reason: heads::reason(status, self.heads.fault()) };
        (self.message, self.written) = (rejection.message(), 0);
        self.exchanges.note_rejection(rejection);
        true
    }

    /// Whether the protocol of the next bytes is known.
    fn is_protocol_known(&mut self) -> bool {
        if self.heads.wait_for_response() {
            let (responses, is_switched) = self.exchanges.responses();
            self.heads.note_responses(responses, is_switched);
        }
        !self.heads.wait_for_response()
    }

    /// Writes the rest of the message that has been begun.
    fn write_message<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.message.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.message.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.message[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        (self.message, self.written) = (Vec::new(), 0);
        self.exchanges.interim.note_written();
        Poll::Ready(Ok(()))
    }

    fn write_interim<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.write_message(stream, cx))?;
            match self.exchanges.interim.take() {
                Some(bytes) => self.message = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads bytes that have not been scanned. Behind a request whose response may switch to another protocol, bytes are
    /// withheld, and only the end of the connection is reported.
    fn poll_next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (is_known, before) = (self.is_protocol_known(), buffer.filled().len());
        if !self.withheld.is_empty() && is_known {
            let piece = self.withheld.split_to(self.withheld.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            return Poll::Ready(Ok(()));
        }
        if self.withheld.is_empty() {
            ready!(Pin::new(stream).poll_read(cx, buffer))?;
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

impl<S: AsyncRead + AsyncWrite + Unpin> StreamHooks<S> for Http1Hooks {
    fn read(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.replaced.is_empty() {
            let before = buffer.filled().len();
            ready!(self.poll_next(stream, cx, buffer))?;
            let (taken, replaced) = self.heads.take(&buffer.filled()[before..]);
            let rest = &buffer.filled()[before + taken..];
            if !rest.is_empty() {
                self.withheld = [rest, &self.withheld].concat().into();
                buffer.set_filled(before + taken);
            }
            let Some(replaced) = replaced else { return Poll::Ready(Ok(())) };
            buffer.set_filled(before);
            self.replaced = replaced.into();
        }
        let piece = self.replaced.split_to(self.replaced.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, stream: &mut S, cx: &mut Context<'_>, output: WriteBytes<'_>) -> Poll<io::Result<usize>> {
        // hyper's own 100 may come before the final response, but not in the middle of another interim response.
        ready!(self.write_message(stream, cx))?;
        if let Some(bytes) = output.single()
            && bytes.starts_with(REJECTION)
            && self.replace_rejection(bytes)
        {
            return Poll::Ready(Ok(bytes.len()));
        }
        output.write_to(stream, cx)
    }

    fn flush(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_interim(stream, cx))?;
        if self.reader.is_some() && self.is_protocol_known() {
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        Pin::new(stream).poll_flush(cx)
    }

    fn shutdown(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write_message(stream, cx))?;
        Pin::new(stream).poll_shutdown(cx)
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
    use crate::hooked_stream::HookedStream;

    const LENGTH: usize = 10_000;

    /// Answers a POST at once, while its content is still being read, and a GET with a 103 before the final response.
    async fn answer(
        request: Request<Incoming>,
        exchanges: Arc<Exchanges>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.method() == http::Method::POST {
            tokio::spawn(request.into_body().collect());
            return Ok(Response::new(Full::from(vec![b'x'; LENGTH])));
        }
        let interim = exchanges.interim.begin();
        let hint = async {
            // From another task, as upstream's connection does.
            let _ = tokio::spawn(async move { interim.send(StatusCode::EARLY_HINTS, &HeaderMap::new()) }).await;
            Response::new(Full::from("answer"))
        };
        Ok(exchanges.interim.finish(hint).await)
    }

    /// The end of the first request's content and the second request arrive while the first response is in the server's
    /// buffer. Only then does hyper begin a request before the previous response is flushed.
    #[tokio::test(start_paused = true)]
    async fn an_interim_response_waits_until_the_previous_response_is_written() {
        let (near, mut far) = tokio::io::duplex(100);
        let exchanges = Arc::<Exchanges>::default();
        let stream = TokioIo::new(HookedStream::new(near, Http1Hooks::new(Arc::clone(&exchanges))));
        let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&exchanges)));
        // With vectored writes hyper does not begin the next request before the response is flushed.
        let mut server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.writev(false).serve_connection(stream, service));
        // Paused time advances only when all tasks wait.
        let settled = || tokio::time::sleep(Duration::from_secs(1));
        far.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n").await.unwrap();
        settled().await;
        far.write_all(b"xGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        settled().await;
        let mut received = String::new();
        let read = tokio::time::timeout(Duration::from_secs(60), far.read_to_string(&mut received)).await;
        assert!(read.is_ok(), "the connection does not end in time");
        let (head, rest) = received.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let (first, second) = rest.split_at(LENGTH);
        assert!(first.bytes().all(|byte| byte == b'x'), "the first response is not interrupted");
        assert!(second.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"), "{second}");
        assert!(second.ends_with("\r\n\r\nanswer"), "{second}");
    }
}
