//! Bodies of responses to clients.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::recording::Recording;
use super::slice::Slice;
use super::stall;
use crate::coalesce::stored_body::{StoredBodies, StoredBodyReader};
use crate::coalesce::stream::StreamReader;
use crate::upstream::ResponseBody;

/// The body of a response: from the cache, from upstream, or shared with others while it is fetched.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    Whole(Bytes),
    /// A part of a stored body.
    Cut(Bytes, Range<usize>),
    /// A stored body, or a part of it, that the budget may take away.
    Stored(StoredBodyReader),
    Upstream(ResponseBody),
    Shared(StreamReader),
    /// A part of a body that is being fetched.
    Part(Slice<StreamReader>),
    /// From upstream, and buffered to be stored. In a box, so that other bodies are smaller.
    Recorded(Box<Recording>),
    /// Counted for the access log.
    Logged(Box<LoggedBody>),
}

/// The largest part of a stored body that a connection gets at once, bytes. The connection keeps it until the client has read it,
/// even if the entry is evicted.
const PIECE: usize = 64 << 10;

/// The body broke off. The client's connection is closed, so that the client does not take the part for the whole.
pub type ClientBodyError = Box<dyn std::error::Error + Send + Sync>;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let frame = self.get_mut().poll_next(cx);
        match frame {
            Poll::Ready(_) => stall::give(),
            Poll::Pending => stall::wait(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Cut(_, part) => part.is_empty(),
            Body::Stored(reader) => reader.is_end_stream(),
            Body::Upstream(body) => body.is_end_stream(),
            Body::Shared(reader) => reader.is_end_stream(),
            Body::Part(part) => part.is_end_stream(),
            Body::Recorded(body) => body.is_end_stream(),
            Body::Logged(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Cut(_, part) => SizeHint::with_exact(part.len() as u64),
            Body::Stored(reader) => reader.size_hint(),
            Body::Upstream(body) => body.size_hint(),
            Body::Shared(reader) => reader.size_hint(),
            Body::Part(part) => part.size_hint(),
            Body::Recorded(body) => body.size_hint(),
            Body::Logged(body) => body.body.size_hint(),
        }
    }
}

impl Body {
    /// The same body, so that a slow client keeps little memory: a long one is read in pieces, a short part is copied.
    pub fn bounded(self, bodies: &Arc<StoredBodies>) -> Body {
        match self {
            Body::Whole(whole) if whole.len() > PIECE => {
                let all = 0..whole.len();
                Body::Stored(StoredBodyReader::new(whole, all, bodies))
            }
            Body::Cut(whole, part) if part.len() > PIECE => {
                Body::Stored(StoredBodyReader::new(whole, part, bodies))
            }
            Body::Cut(whole, part) => Body::Whole(Bytes::copy_from_slice(&whole[part])),
            body => body,
        }
    }

    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Whole(bytes) => {
                let piece = std::mem::take(bytes);
                Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
            }
            Body::Cut(whole, part) => {
                let piece = whole.slice(std::mem::take(part));
                Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
            }
            Body::Stored(reader) => Pin::new(reader).poll_frame(cx).map_err(Into::into),
            Body::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Body::Shared(reader) => Pin::new(reader).poll_frame(cx).map_err(Into::into),
            Body::Part(part) => Pin::new(part).poll_frame(cx).map_err(Into::into),
            Body::Recorded(body) => Pin::new(&mut **body).poll_frame(cx).map_err(Into::into),
            Body::Logged(body) => body.poll_next(cx),
        }
    }
}

/// A line of the access log that is written when a body has ended.
pub trait ContentLog: Send + Sync {
    /// Counts bytes that were passed on.
    fn add(&mut self, bytes: u64);

    /// Whether all of the content has been passed on, as far as its length is known.
    fn is_whole(&self) -> bool;

    /// Writes the line.
    fn end(self: Box<Self>, is_whole: bool);
}

/// Content that is counted on its way to the client.
pub struct LoggedBody {
    body: Body,
    /// `None` once the line is written.
    log: Option<Box<dyn ContentLog>>,
}

impl LoggedBody {
    /// Counts this content in `log`.
    pub fn new(body: Body, log: Box<dyn ContentLog>) -> LoggedBody {
        LoggedBody { body, log: Some(log) }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let frame = ready!(self.body.poll_next(cx));
        let is_whole = match &frame {
            None => Some(true),
            Some(Err(_)) => Some(false),
            Some(Ok(frame)) => {
                if let (Some(log), Some(data)) = (&mut self.log, frame.data_ref()) {
                    log.add(data.len() as u64);
                }
                // A connection that knows the length does not poll after the last chunk.
                self.has_ended().then_some(true)
            }
        };
        if let Some(is_whole) = is_whole {
            self.end(is_whole);
        }
        Poll::Ready(frame)
    }

    fn has_ended(&self) -> bool {
        self.body.is_end_stream() || self.log.as_ref().is_some_and(|log| log.is_whole())
    }

    fn end(&mut self, is_whole: bool) {
        if let Some(log) = self.log.take() {
            log.end(is_whole);
        }
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        let has_ended = self.has_ended();
        self.end(has_ended);
    }
}

impl fmt::Debug for LoggedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoggedBody").field(&self.body).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn long_bodies_are_read_in_pieces_and_short_parts_copied() {
        let (held, whole) = (StoredBodies::new(0), Bytes::from(vec![b'x'; 3 * PIECE]));
        let pieces = async |body: Body| {
            let (mut body, mut lengths) = (body.bounded(&held), Vec::new());
            while let Some(frame) = body.frame().await {
                lengths.push(frame.unwrap().into_data().unwrap().len());
            }
            lengths
        };
        assert_eq!(pieces(Body::Whole(whole.clone())).await, [PIECE; 3]);
        assert_eq!(pieces(Body::Cut(whole.clone(), 1..PIECE + 3)).await, [PIECE, 2]);
        assert_eq!(pieces(Body::Whole(whole.slice(..PIECE))).await, [PIECE]);
        let copied = Body::Cut(whole.clone(), 5..9).bounded(&held);
        assert!(matches!(&copied, Body::Whole(part) if part == "xxxx"));
        assert!(whole.is_unique(), "nothing keeps it alive");
    }
}
