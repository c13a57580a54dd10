//! Bodies of answers to clients.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::recording::Recording;
use super::slice::Slice;
use super::turn;
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

/// The largest piece of a whole body that an HTTP/2 stream is given at once, bytes. What it is given it keeps until the
/// client takes it, whatever has become of the entry.
const PIECE: usize = 64 << 10;

/// The body broke off; the client's connection is closed so that it cannot take the part for the whole.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.get_mut().poll_next(cx);
        match frame {
            Poll::Ready(_) => turn::give(),
            Poll::Pending => turn::wait(),
        }
        frame
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

impl Body {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Whole(bytes) => {
                let piece = next_piece(bytes);
                Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
            }
            Body::Upstream(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Body::Shared(reader) => Pin::new(reader).poll_frame(cx).map_err(Into::into),
            Body::Part(part) => Pin::new(part).poll_frame(cx).map_err(Into::into),
            Body::Recorded(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }
}

/// Everything, or for an HTTP/2 stream a piece. The last piece is a copy: it outlives the stream's task, and must not
/// keep the whole alive with it.
fn next_piece(whole: &mut Bytes) -> Bytes {
    let is_long = whole.len() > PIECE && turn::is_of_stream();
    match is_long {
        true if whole.len() > 2 * PIECE => whole.split_to(PIECE),
        true => {
            let piece = whole.split_to(PIECE);
            *whole = Bytes::copy_from_slice(whole);
            piece
        }
        false => std::mem::take(whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn pieces(length: usize) -> Vec<usize> {
        let mut body = Body::Whole(Bytes::from(vec![b'x'; length]));
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap().len());
        }
        pieces
    }

    #[tokio::test]
    async fn a_stream_of_http_2_is_given_a_whole_body_piece_by_piece() {
        for length in [1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 5 * PIECE] {
            assert_eq!(pieces(length).await, [length]);
            let given = turn::within(pieces(length)).await;
            assert_eq!(
                (given.iter().sum(), given.iter().all(|piece| *piece <= PIECE)),
                (length, true),
                "{length}"
            );
        }
        assert!(pieces(0).await.is_empty());
    }
}
