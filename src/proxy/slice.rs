//! A part of a body that is being fetched.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes `skip..skip + left` of another body.
#[derive(Debug)]
pub struct Slice<B> {
    body: B,
    skip: u64,
    left: u64,
}

impl<B> Slice<B> {
    /// Bytes `first..=last` of a body that has that many.
    pub fn new(body: B, first: u64, last: u64) -> Slice<B> {
        Slice { body, skip: first, left: (last + 1).saturating_sub(first) }
    }

    /// What of a chunk belongs to the part.
    fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let skipped = self.skip.min(chunk.len() as u64);
        self.skip -= skipped;
        // Both are at most the chunk's length.
        drop(chunk.split_to(skipped as usize));
        chunk.truncate(self.left.min(chunk.len() as u64) as usize);
        self.left -= chunk.len() as u64;
        chunk
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Slice<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        while this.left > 0 {
            let chunk = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            };
            let part = this.cut(chunk);
            if !part.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    /// A body that comes in these chunks.
    struct Chunked(std::vec::IntoIter<Vec<u8>>);

    impl Body for Chunked {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.get_mut().0.next().map(|chunk| Ok(Frame::data(chunk.into()))))
        }
    }

    proptest! {
        #[test]
        fn a_part_is_the_same_however_the_body_is_cut_into_chunks(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 1..8),
            first in 0usize..20, length in 1usize..20,
        ) {
            let whole = chunks.concat();
            prop_assume!(first < whole.len());
            let last = (first + length - 1).min(whole.len() - 1);
            let slice = Slice::new(Chunked(chunks.clone().into_iter()), first as u64, last as u64);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let part = runtime.block_on(slice.collect()).unwrap().to_bytes();
            prop_assert_eq!(&part[..], &whole[first..=last]);
        }
    }
}
