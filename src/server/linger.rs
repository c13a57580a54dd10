//! The end of a client's connection (RFC 9112 §9.6). If Larder closes while request content is still arriving, the kernel
//! sends a reset, and the client may lose a response that it has not read yet, such as the one that refuses its content. So
//! Larder shuts down its sending side and reads on for a while.
//!
//! An HTTP/1.0 response without a length ends with its connection. If such a response breaks off, the connection is reset:
//! after an orderly end the client would take it for complete (RFC 9112 §8).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::admission::Ticket;
use crate::hooked_stream::{StreamHooks, WriteBytes};

/// Longest time to read on.
const LINGER: Duration = Duration::from_secs(30);
/// Longest silence of the client meanwhile.
const SILENCE: Duration = Duration::from_secs(5);

/// The last request on a connection.
#[derive(Debug)]
pub(super) struct LastRequest {
    may_send_more: AtomicBool,
    ends_with_connection: AtomicBool,
    is_evicted: AtomicBool,
}

impl Default for LastRequest {
    /// Before the first request: bytes that arrive may be part of one that never becomes complete.
    fn default() -> LastRequest {
        LastRequest { may_send_more: true.into(), ends_with_connection: false.into(), is_evicted: false.into() }
    }
}

impl LastRequest {
    /// Records a new request, and whether content of it may follow.
    pub fn begin(&self, has_content: bool) {
        self.may_send_more.store(has_content, Ordering::Relaxed);
    }

    /// Records that the connection is closed to make room: it does not linger.
    pub fn evict(&self) {
        self.is_evicted.store(true, Ordering::Relaxed);
    }

    /// Records that the end of the connection is the end of the response.
    pub fn end_with_connection(&self) {
        self.ends_with_connection.store(true, Ordering::Relaxed);
    }
}

/// Decides how a client's connection is closed.
pub(super) struct Linger {
    last: Arc<LastRequest>,
    /// The client has closed its side, or the connection has failed.
    is_ended: bool,
    /// Something was sent that the client may not have read yet.
    has_sent: bool,
    /// Larder has shut down its side in order.
    is_shut: bool,
    /// The place of the connection. It is released when the connection is closed, after an upgrade too.
    ticket: Option<Ticket>,
}

impl Linger {
    pub fn new(last: Arc<LastRequest>, ticket: Ticket) -> Linger {
        Linger { last, is_ended: false, has_sent: false, is_shut: false, ticket: Some(ticket) }
    }
}

impl StreamHooks<TcpStream> for Linger {
    fn read(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(stream).poll_read(cx, buffer));
        self.is_ended |= read.is_err() || buffer.filled().len() == before && buffer.remaining() > 0;
        Poll::Ready(read)
    }

    fn write(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        output: WriteBytes<'_>,
    ) -> Poll<io::Result<usize>> {
        self.has_sent = true;
        output.write_to(stream, cx)
    }

    fn shutdown(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Pin::new(stream).poll_shutdown(cx)
    }

    fn close(&mut self, stream: TcpStream) {
        let ticket = self.ticket.take();
        if self.last.ends_with_connection.load(Ordering::Relaxed) && !self.is_shut {
            // A linger time of zero makes the kernel send a reset. If the call fails, the connection is closed all the same.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        if self.is_ended || !self.has_sent || self.last.is_evicted.load(Ordering::Relaxed) {
            return;
        }
        let may_send_more = self.last.may_send_more.load(Ordering::Relaxed)
            // Usually nothing has arrived, and Tokio knows that without a system call.
            || stream.try_read(&mut [0]).is_ok_and(|read| read > 0);
        if may_send_more && let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(LINGER, read_on(stream)).await;
                drop(ticket);
            });
        }
    }
}

/// Reads until the client closes its side, or is silent for too long.
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
    use crate::hooked_stream::HookedStream;
    use crate::metrics::Metrics;
    use crate::server::admission::Admission;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream as Client};

    /// A connection, its client, and the metrics that count it.
    async fn connected(last: &Arc<LastRequest>) -> (HookedStream<TcpStream, Linger>, Client, Arc<Metrics>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = listener.accept().unwrap().0;
        let metrics = Arc::new(Metrics::new());
        let admission = Admission::new(&ServerConfig::default(), 1, &metrics);
        let ticket = admission.admit(Ipv4Addr::LOCALHOST.into()).await.unwrap();
        (HookedStream::new(stream, Linger::new(Arc::clone(last), ticket)), client, metrics)
    }

    /// Waits until the place of the connection is released.
    async fn released(metrics: &Metrics) {
        while metrics.connections.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What the client reads after it has sent much that the server did not read.
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
        released(&metrics).await;
        answer
    }

    #[tokio::test]
    async fn a_response_reaches_a_client_that_still_sends() {
        let last = Arc::<LastRequest>::default();
        for has_content in [true, false] {
            // Without content, the unread bytes are noticed.
            last.begin(has_content);
            assert_eq!(answer_of(&last).await.as_deref(), Ok("answer"), "{has_content}");
        }
    }

    #[tokio::test]
    async fn only_a_complete_response_ends_its_connection_in_order() {
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
            assert_eq!(metrics.connections.get(), 0, "its place is released at once");
            let end = client.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
            assert_eq!(end, expected, "{ends_with_connection} {is_shut}");
        }
    }
}
