//! A byte stream with hooks: code that observes, delays or changes what is read from and written to it.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hooks of a stream of type `S`. Each is called in place of the stream's own method and gets the stream to call it on.
/// The default of each is that call and nothing else.
pub trait StreamHooks<S: AsyncRead + AsyncWrite + Unpin>: Unpin {
    /// In place of [`AsyncRead::poll_read`].
    fn read(&mut self, stream: &mut S, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(stream).poll_read(cx, buffer)
    }

    /// In place of [`AsyncWrite::poll_write`] and [`AsyncWrite::poll_write_vectored`].
    fn write(&mut self, stream: &mut S, cx: &mut Context<'_>, output: WriteBytes<'_>) -> Poll<io::Result<usize>> {
        output.write_to(stream, cx)
    }

    /// In place of [`AsyncWrite::poll_flush`].
    fn flush(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(stream).poll_flush(cx)
    }

    /// In place of [`AsyncWrite::poll_shutdown`].
    fn shutdown(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(stream).poll_shutdown(cx)
    }

    /// Called once, when the [`HookedStream`] is dropped.
    fn close(&mut self, stream: S) {
        drop(stream);
    }
}

/// The bytes of one write.
#[derive(Clone, Copy)]
pub enum WriteBytes<'a> {
    Slice(&'a [u8]),
    Vectored(&'a [IoSlice<'a>]),
}

impl<'a> WriteBytes<'a> {
    /// Writes some of the bytes to a stream, in the way they were given.
    pub fn write_to<S: AsyncWrite + Unpin>(self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            WriteBytes::Slice(bytes) => Pin::new(stream).poll_write(cx, bytes),
            WriteBytes::Vectored(slices) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// The bytes, if they are in one slice.
    pub fn single(self) -> Option<&'a [u8]> {
        match self {
            WriteBytes::Slice(bytes) => Some(bytes),
            WriteBytes::Vectored([slice]) => Some(slice),
            WriteBytes::Vectored(_) => None,
        }
    }
}

/// Most bytes of several slices that are joined to be written as one, such as a head and a short body: to copy them takes less time than
/// the kernel takes for several.
const JOINED: usize = 4 << 10;

thread_local! {
    /// Slices that are being joined.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A stream with its hooks.
#[derive(Debug)]
pub struct HookedStream<S: AsyncRead + AsyncWrite + Unpin, H: StreamHooks<S>> {
    /// `None` only while it is dropped.
    stream: Option<S>,
    hooks: H,
}

impl<S: AsyncRead + AsyncWrite + Unpin, H: StreamHooks<S>> HookedStream<S, H> {
    /// Installs hooks on a stream.
    pub fn new(stream: S, hooks: H) -> HookedStream<S, H> {
        HookedStream { stream: Some(stream), hooks }
    }

    fn parts(self: Pin<&mut Self>) -> io::Result<(&mut S, &mut H)> {
        let HookedStream { stream, hooks } = self.get_mut();
        stream.as_mut().map(|stream| (stream, hooks)).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, H: StreamHooks<S>> AsyncRead for HookedStream<S, H> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (stream, hooks) = self.parts()?;
        hooks.read(stream, cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, H: StreamHooks<S>> AsyncWrite for HookedStream<S, H> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (stream, hooks) = self.parts()?;
        hooks.write(stream, cx, WriteBytes::Slice(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (stream, hooks) = self.parts()?;
        if let [slice] = slices {
            return hooks.write(stream, cx, WriteBytes::Slice(slice));
        }
        if slices.iter().map(|slice| slice.len()).sum::<usize>() > JOINED {
            return hooks.write(stream, cx, WriteBytes::Vectored(slices));
        }
        let mut joined = BUFFER.take();
        joined.clear();
        slices.iter().for_each(|slice| joined.extend_from_slice(slice));
        let written = hooks.write(stream, cx, WriteBytes::Slice(&joined));
        BUFFER.set(joined);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (stream, hooks) = self.parts()?;
        hooks.flush(stream, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (stream, hooks) = self.parts()?;
        hooks.shutdown(stream, cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, H: StreamHooks<S>> Drop for HookedStream<S, H> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.hooks.close(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    /// Notes how it was written to.
    #[derive(Debug, Default)]
    struct Noted(Vec<usize>);

    impl<S: AsyncRead + AsyncWrite + Unpin> StreamHooks<S> for Noted {
        fn write(
            &mut self,
            stream: &mut S,
            cx: &mut Context<'_>,
            output: WriteBytes<'_>,
        ) -> Poll<io::Result<usize>> {
            self.0.push(match output {
                WriteBytes::Slice(_) => 1,
                WriteBytes::Vectored(slices) => slices.len(),
            });
            output.write_to(stream, cx)
        }
    }

    #[tokio::test]
    async fn short_slices_are_written_as_one_and_long_ones_as_they_are() {
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let mut stream = HookedStream::new(near, Noted::default());
        let (short, long) = (vec![b'a'; 1 << 10], vec![b'b'; JOINED]);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (head, body, expected) in [(&short, &short, 1), (&short, &long, 2)] {
            let slices = [IoSlice::new(head), IoSlice::new(body)];
            let Poll::Ready(Ok(written)) = Pin::new(&mut stream).poll_write_vectored(&mut cx, &slices) else {
                panic!("there is room");
            };
            assert_eq!(stream.hooks.0.pop(), Some(expected));
            let mut read = vec![0; written];
            far.read_exact(&mut read).await.unwrap();
            assert_eq!(read, [&head[..], &body[..]].concat()[..written]);
        }
    }
}
