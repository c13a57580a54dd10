//! A body that is buffered on its way to its one client, to be stored.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::upstream::{BodyError, ResponseBody};

/// Receives the whole body.
type Keep = Box<dyn FnOnce(Bytes) + Send>;

/// Passes a body on and buffers it. A body that ends within the limit is handed over before the client has all of it. One that breaks
/// off, is too large, or is not read by the client is not.
pub struct Recording {
    body: ResponseBody,
    kept: BytesMut,
    limit: u64,
    keep: Option<Keep>,
}

impl Recording {
    /// Buffers at most `limit` bytes.
    pub fn new(body: ResponseBody, limit: u64, keep: Keep) -> Recording {
        Recording { body, kept: BytesMut::new(), limit, keep: Some(keep) }
    }

    fn take(&mut self, chunk: &[u8]) {
        if self.kept.len() as u64 + chunk.len() as u64 > self.limit {
            (self.keep, self.kept) = (None, BytesMut::new());
        }
        if self.keep.is_some() {
            self.kept.extend_from_slice(chunk);
        }
    }

    fn hand_over(&mut self) {
        if let Some(keep) = self.keep.take() {
            // Without what was allocated ahead.
            let mut kept = Vec::from(std::mem::take(&mut self.kept));
            kept.shrink_to_fit();
            keep(kept.into());
        }
    }
}

impl Body for Recording {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|chunk| this.take(chunk)),
            Some(Err(_)) => this.keep = None,
            None => {}
        }
        // A client that knows the length does not poll after the last chunk.
        if frame.is_none() || this.body.is_end_stream() {
            this.hand_over();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.keep.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({} bytes of at most {})", self.kept.len(), self.limit)
    }
}
