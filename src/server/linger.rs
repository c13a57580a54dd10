//! The end of a client's connection. Where content may still be on its way when Larder closes, the kernel answers it with a
//! reset, and that may take from the client what it has not read yet, such as the answer that says why its content is not
//! wanted. So Larder says that nothing more follows, and reads on for a while (RFC 9112 §9.6).
//!
//! A response whose end is that of the connection, as HTTP/1.0 has them, and which breaks off, is ended by a reset: an
//! orderly end would make it a whole one (RFC 9112 §8).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::admission::Ticket;

/// How long the rest of a content is read.
const LINGER: Duration = Duration::from_secs(30);
/// The longest silence meanwhile.
const SILENCE: Duration = Duration::from_secs(5);

/// What is known of the last request on a connection.
#[derive(Debug)]
pub(super) struct LastRequest {
    may_go_on: AtomicBool,
    ends_with_connection: AtomicBool,
    is_evicted: AtomicBool,
}

impl Default for LastRequest {
    /// None has come: what comes may never become one.
    fn default() -> LastRequest {
        LastRequest { may_go_on: true.into(), ends_with_connection: false.into(), is_evicted: false.into() }
    }
}

impl LastRequest {
    /// A request has come. Whether it has content, so that more of it may follow.
    pub fn begin(&self, has_content: bool) {
        self.may_go_on.store(has_content, Ordering::Relaxed);
    }

    /// The connection gives way to others: it is closed at once.
    pub fn evict(&self) {
        self.is_evicted.store(true, Ordering::Relaxed);
    }

    /// The end of its response is that of the connection.
    pub fn end_with_connection(&self) {
        self.ends_with_connection.store(true, Ordering::Relaxed);
    }
}

/// A client's connection.
pub(super) struct Lingering {
    /// None once it is dropped.
    stream: Option<TcpStream>,
    last: Arc<LastRequest>,
    /// The client has said that nothing more follows, or is gone.
    is_ended: bool,
    /// Something was sent that the client may not have read yet.
    has_answered: bool,
    /// All that was to be sent has been.
    is_shut: bool,
    /// Given back when the connection ends, whatever it has become.
    ticket: Option<Ticket>,
}

impl Lingering {
    pub fn new(stream: TcpStream, last: Arc<LastRequest>, ticket: Ticket) -> Lingering {
        Lingering {
            stream: Some(stream),
            last,
            is_ended: false,
            has_answered: false,
            is_shut: false,
            ticket: Some(ticket),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Lingering {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = ready!(this.stream()?.poll_read(cx, buffer));
        this.is_ended |= read.is_err() || buffer.filled().len() == before && buffer.remaining() > 0;
        Poll::Ready(read)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.has_answered = true;
        this.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.has_answered = true;
        this.stream()?.poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.is_shut = true;
        this.stream()?.poll_shutdown(cx)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let (Some(stream), ticket) = (self.stream.take(), self.ticket.take()) else { return };
        if self.last.ends_with_connection.load(Ordering::Relaxed) && !self.is_shut {
            // As far as the system allows: it is closed in any case.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        if self.is_ended || !self.has_answered || self.last.is_evicted.load(Ordering::Relaxed) {
            return;
        }
        let may_go_on = self.last.may_go_on.load(Ordering::Relaxed)
            // Nothing is there in most cases, and the kernel need not be asked.
            || stream.try_read(&mut [0]).is_ok_and(|read| read > 0);
        if may_go_on && let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, read_on(stream)).await;
                drop(ticket);
            });
        }
    }
}

/// Reads until the client ends the connection, or is silent.
async fn read_on(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut buffer = [0; 2 << 10];
    while let Ok(read) = tokio::time::timeout(SILENCE, stream.read(&mut buffer)).await {
        if read? == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerConfig;
    use crate::metrics::Metrics;
    use crate::server::admission::Admission;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream as Client};

    /// A connection, its client, and the count of connections.
    async fn connected(last: &Arc<LastRequest>) -> (Lingering, Client, Arc<Metrics>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = listener.accept().unwrap().0;
        let metrics = Arc::new(Metrics::new());
        let admission = Admission::new(&ServerConfig::default(), 1, &metrics);
        let ticket = admission.admit(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        (Lingering::new(stream, Arc::clone(last), ticket), client, metrics)
    }

    /// Waits until no connection counts any more.
    async fn given_back(metrics: &Metrics) {
        while metrics.connections.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What the client reads after it has sent much that nobody read.
    async fn answer_of(last: &Arc<LastRequest>) -> Result<String, ErrorKind> {
        let (mut connection, mut client, metrics) = connected(last).await;
        client.write_all(b"some").unwrap();
        connection.read_exact(&mut [0; 2]).await.unwrap();
        connection.write_all(b"answer").await.unwrap();
        connection.shutdown().await.unwrap();
        drop(connection);
        let answer = tokio::task::spawn_blocking(move || {
            for _ in 0..200 {
                client.write_all(&[0; 1 << 10]).map_err(|error| error.kind())?;
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).map_err(|error| error.kind())?;
            Ok(answer)
        });
        let answer = answer.await.unwrap();
        given_back(&metrics).await;
        answer
    }

    #[tokio::test]
    async fn an_answer_reaches_a_client_that_still_sends() {
        let last = Arc::<LastRequest>::default();
        for has_content in [true, false] {
            // Without content more is seen to be there.
            last.begin(has_content);
            assert_eq!(answer_of(&last).await.as_deref(), Ok("answer"), "{has_content}");
        }
    }

    #[tokio::test]
    async fn only_a_response_that_came_to_its_end_ends_in_order() {
        for (ends_with_connection, is_shut, expected) in
            [(true, true, Ok(4)), (true, false, Err(ErrorKind::ConnectionReset)), (false, false, Ok(4))]
        {
            let last = Arc::<LastRequest>::default();
            last.begin(false);
            if ends_with_connection {
                last.end_with_connection();
            }
            let (mut connection, mut client, metrics) = connected(&last).await;
            connection.write_all(b"some").await.unwrap();
            if is_shut {
                connection.shutdown().await.unwrap();
            }
            drop(connection);
            assert_eq!(metrics.connections.get(), 0, "its place is free at once");
            let end = client.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
            assert_eq!(end, expected, "{ends_with_connection} {is_shut}");
        }
    }
}
