//! A body that is buffered on its way to its one client, to be stored.
//!
//! It comes at the pace of that client, so that it may be in memory for long. Therefore these buffers have a limit of their own
//! ([`crate::running::Running::recordings`]): slow clients do not take the room of bodies that come at upstream's pace.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::shares::Share;
use crate::upstream::{BodyError, ResponseBody};

/// Receives the whole body.
type Keep = Box<dyn FnOnce(Bytes) + Send>;

/// Passes a body on and buffers it. A body that ends within the limit is handed over before the client has all of it. One that breaks
/// off, is too large, is not read by the client, or exceeds the client's share of the buffers is not.
pub struct Recording {
    body: ResponseBody,
    /// `None` once the body is handed over, or cannot be stored any more.
    buffer: Option<(Buffer, Keep)>,
}

/// The part of a body that has come.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    /// Longest body, bytes.
    limit: u64,
    /// At least the capacity of `bytes`.
    share: Share,
}

impl Recording {
    /// Buffers at most `limit` bytes. `share`: of the client in the buffers, with the length of the body as far as it is known.
    pub fn new(body: ResponseBody, limit: u64, share: Share, keep: Keep) -> Recording {
        Recording { body, buffer: Some((Buffer { bytes: Vec::new(), limit, share }, keep)) }
    }

    fn hand_over(&mut self) {
        if let Some((mut buffer, keep)) = self.buffer.take() {
            // Without what was allocated ahead.
            buffer.bytes.shrink_to_fit();
            keep(buffer.bytes.into());
        }
    }
}

impl Buffer {
    /// Adds what has come. False if there is no room for it.
    fn add(&mut self, chunk: &[u8]) -> bool {
        let length = self.bytes.len() as u64 + chunk.len() as u64;
        if length > self.limit {
            return false;
        }
        let held = self.share.amount();
        if length > held {
            // Twice as much, so that the bytes are not moved for every chunk.
            let more = length.max(held * 2).min(self.limit) - held;
            if self.share.grow(more).is_err() && self.share.grow(length - held).is_err() {
                return false;
            }
        }
        if length > self.bytes.capacity() as u64 {
            let capacity = usize::try_from(self.share.amount()).unwrap_or(usize::MAX);
            self.bytes.reserve_exact(capacity.saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(chunk);
        true
    }
}

impl Body for Recording {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let goes_on = match (&frame, &mut this.buffer) {
            (Some(Ok(frame)), Some((buffer, _))) => frame.data_ref().is_none_or(|chunk| buffer.add(chunk)),
            (Some(Err(_)), _) => false,
            _ => true,
        };
        if !goes_on {
            this.buffer = None;
        }
        // A client that knows the length does not poll after the last chunk.
        if frame.is_none() || this.body.is_end_stream() {
            this.hand_over();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.buffer.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recording").field(&self.buffer.as_ref().map(|(buffer, _)| buffer)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::shares::Shares;

    #[test]
    fn a_buffer_takes_no_more_than_its_limit_and_the_clients_share_and_gives_it_back() {
        let shares = Shares::new(100, 40);
        let buffer = |length, limit| {
            let share = shares.take(Client::LARDER, length).unwrap();
            Buffer { bytes: Vec::new(), limit, share }
        };
        let mut first = buffer(0, 30);
        for length in 1..=30 {
            assert!(first.add(b"x"), "{length}");
            let (capacity, held) = (first.bytes.capacity() as u64, shares.held());
            assert!((length..=held).contains(&capacity) && held <= 30, "{length}: {capacity} of {held}");
        }
        assert!(!first.add(b"x"), "its limit");
        let mut second = buffer(5, 30);
        assert!(second.add(b"abcde") && shares.held() == 35, "its length was known");
        assert!(second.add(b"fghij") && shares.held() == 40, "no more than there is");
        assert!(!second.add(b"k"), "the client's share");
        drop(first);
        assert!(second.add(b"k"));
        assert_eq!(second.bytes, b"abcdefghijk");
        drop(second);
        assert_eq!(shares.held(), 0);
    }
}
