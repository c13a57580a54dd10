//! A TCP connection that asks the kernel before it says that nothing has come. Tokio remembers what the kernel said last,
//! until its event loop gets around to it: bytes that have arrived meanwhile would be found after the next request was
//! written, and taken for the answer to it.

use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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

/// Asks a connection to look, at its next read, whether something has arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct Look(Arc<AtomicBool>);

impl Look {
    /// Before a request is written. While its answer is waited for, the event loop is early enough.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire) && self.0.swap(false, Ordering::AcqRel)
    }
}

/// A TCP connection. Brings its [`Look`] along as an extra.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    look: Look,
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.look.clone())
    }
}

impl Socket {
    fn new(stream: TcpStream) -> Socket {
        Socket { stream, look: Look::default() }
    }

    /// Reads what is there, past Tokio.
    fn read_now(&self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = SockRef::from(&self.stream);
        match socket.peek(&mut [MaybeUninit::uninit()]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        // It does not block: something, or the end, is there.
        let read = (&*socket).read(buffer.initialize_unfilled())?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() && this.look.is_asked() && buffer.remaining() > 0 {
            // Tokio has noted the task, and will wake it if nothing is there yet.
            read = this.read_now(buffer);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
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
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// A connection that Tokio takes for one where nothing has come, and its far end.
    async fn connected() -> (Socket, std::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut far = listener.accept().unwrap().0;
        let mut socket = Socket::new(stream);
        far.write_all(b"a").unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut socket).await.unwrap(), b'a');
        (socket, far)
    }

    /// What is read without giving the event loop a chance to look.
    fn read(socket: &mut Socket) -> Poll<io::Result<Vec<u8>>> {
        let mut bytes = [0; 8];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(socket).poll_read(&mut cx, &mut buffer).map_ok(|()| buffer.filled().to_vec())
    }

    #[tokio::test]
    async fn what_has_arrived_is_read_before_the_event_loop_has_looked() {
        let (mut socket, mut far) = connected().await;
        socket.look.ask();
        assert!(read(&mut socket).is_pending());
        far.write_all(b"stray").unwrap();
        socket.look.ask();
        assert!(matches!(read(&mut socket), Poll::Ready(Ok(bytes)) if bytes == b"stray"));
        socket.look.ask();
        assert!(read(&mut socket).is_pending());
        drop(far);
        socket.look.ask();
        assert!(matches!(read(&mut socket), Poll::Ready(Ok(bytes)) if bytes.is_empty()));
    }

    #[tokio::test]
    async fn what_comes_later_still_wakes_its_reader() {
        let (mut socket, mut far) = connected().await;
        socket.look.ask();
        assert!(read(&mut socket).is_pending());
        let reading = tokio::spawn(async move { tokio::io::AsyncReadExt::read_u8(&mut socket).await });
        tokio::task::yield_now().await;
        far.write_all(b"b").unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), b'b');
    }
}
