//! A TCP connection that can be checked for unread bytes before a request is sent on it. hyper's task on the connection cannot
//! find them in time: it may be suspended between its last read and its next write, and would then take such bytes for the
//! response to what it writes.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use super::names::Names;

/// Connects by TCP.
#[derive(Debug, Clone)]
pub(super) struct Sockets(pub HttpConnector<Names>);

impl Service<Uri> for Sockets {
    type Response = TokioIo<Socket>;
    type Error = <HttpConnector<Names> as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move { Ok(TokioIo::new(Socket::new(connecting.await?.into_inner()))) })
    }
}

/// What has arrived on a connection and has not been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    Nothing,
    /// The end of the connection.
    End,
    /// Bytes, which begin like this.
    Bytes(Vec<u8>),
}

/// Inspects what has arrived on a connection, without keeping the connection open. The default reports nothing, as for a
/// stream that is not a TCP connection.
#[derive(Debug, Clone, Default)]
pub(super) struct SocketProbe(Option<Weak<TcpStream>>);

impl SocketProbe {
    /// Asks the kernel each time: Tokio's readiness is as old as the last pass of its event loop.
    pub fn unread(&self) -> Unread {
        let Some(stream) = &self.0 else { return Unread::Nothing };
        let Some(stream) = stream.upgrade() else { return Unread::End };
        let mut bytes = [0; 16];
        match recv(&*stream, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Unread::End,
            Ok((_, length)) => Unread::Bytes(bytes[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Unread::Nothing,
            Err(_) => Unread::End,
        }
    }
}

/// A TCP connection, with its [`SocketProbe`] among the extras of [`Connected`].
#[derive(Debug)]
pub(super) struct Socket(Arc<TcpStream>);

impl Connection for Socket {
    fn connected(&self) -> Connected {
        self.0.connected().extra(SocketProbe(Some(Arc::downgrade(&self.0))))
    }
}

impl Socket {
    fn new(stream: TcpStream) -> Socket {
        Socket(Arc::new(stream))
    }

    /// Reads without waiting. `WouldBlock` if nothing has arrived.
    fn read(&self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = buffer.remaining();
        let mut read = Err(ErrorKind::WouldBlock.into());
        let _ = self.0.try_io(Interest::READABLE, || {
            read = self.0.try_read_buf(buffer);
            match read {
                // A short read has emptied the socket: the next read need not ask the kernel.
                Ok(length) if length > 0 && length < room => Err(ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
        read.map(drop)
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match send(&self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// There is nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&*self.0).shutdown(Shutdown::Write) {
            // Upstream has closed it already.
            Err(error) if error.kind() == ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A connection that Tokio considers not readable, its probe, and its far end.
    async fn connected() -> (Socket, SocketProbe, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut far = listener.accept().unwrap().0;
        let mut socket = Socket::new(stream);
        far.write_all(b"a").unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'a');
        let probe = SocketProbe(Some(Arc::downgrade(&socket.0)));
        (socket, probe, far)
    }

    /// The event loop does not run in between.
    #[tokio::test]
    async fn unread_bytes_are_found_before_the_event_loop_has_run() {
        let (mut socket, probe, mut far) = connected().await;
        assert_eq!(probe.unread(), Unread::Nothing);
        far.write_all(b"stray").unwrap();
        assert_eq!(probe.unread(), Unread::Bytes(b"stray".to_vec()));
        let mut bytes = [0; 5];
        socket.read_exact(&mut bytes).await.unwrap();
        assert_eq!((&bytes, probe.unread()), (b"stray", Unread::Nothing), "the bytes can still be read");
        let (other, other_probe, mut other_far) = connected().await;
        drop(far);
        assert_eq!(probe.unread(), Unread::End);
        drop(other);
        assert_eq!(other_probe.unread(), Unread::End);
        assert_eq!(io::Read::read(&mut other_far, &mut bytes).unwrap(), 0, "the probe does not keep it open");
    }

    #[tokio::test]
    async fn later_bytes_wake_the_reader() {
        let (mut socket, _, mut far) = connected().await;
        for _ in 0..3 {
            let reading = tokio::spawn(async move {
                let byte = socket.read_u8().await.unwrap();
                (socket, byte)
            });
            tokio::task::yield_now().await;
            far.write_all(b"b").unwrap();
            let read = reading.await.unwrap();
            (socket, _) = read;
            assert_eq!(read.1, b'b');
        }
    }

    #[tokio::test]
    async fn more_bytes_than_fit_the_buffers_arrive_in_both_directions() {
        let (mut socket, _, far) = connected().await;
        let far = tokio::task::spawn_blocking(move || {
            use std::io::Read;
            let (mut far, mut all) = (far, Vec::new());
            far.read_to_end(&mut all).unwrap();
            far.write_all(&all).unwrap();
        });
        let sent: Vec<u8> = (0..3_000_000).map(|n: u32| n.to_le_bytes()[0]).collect();
        socket.write_all(&sent).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).await.unwrap();
        assert!(sent == received);
        far.await.unwrap();
    }
}
