//! Bodies of answers to clients.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::recording::Recording;
use super::slice::Slice;
use crate::cache::stream::Reader;
use crate::upstream::ResponseBody;

/// The body of an answer: from the cache, from upstream, or shared with others while it arrives.
#[derive(Debug, Default)]
pub enum Body {
    #[default]
    Empty,
    Whole(Bytes),
    Upstream(ResponseBody),
    Shared(Reader),
    /// A part of a shared one.
    Part(Slice<Reader>),
    /// From upstream, and kept on its way.
    Recorded(Recording),
}

/// The body broke off; the client's connection is closed so that it cannot take the part for the whole.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Body::Empty => Poll::Ready(None),
            whole @ Body::Whole(_) => match std::mem::take(whole) {
                Body::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Body::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Body::Shared(reader) => Pin::new(reader).poll_frame(cx).map_err(Into::into),
            Body::Part(part) => Pin::new(part).poll_frame(cx).map_err(Into::into),
            Body::Recorded(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Whole(bytes) => bytes.is_empty(),
            Body::Upstream(body) => body.is_end_stream(),
            Body::Shared(reader) => reader.is_end_stream(),
            Body::Part(part) => part.is_end_stream(),
            Body::Recorded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Upstream(body) => body.size_hint(),
            Body::Shared(reader) => reader.size_hint(),
            Body::Part(part) => part.size_hint(),
            Body::Recorded(body) => body.size_hint(),
        }
    }
}
