//! Stored bodies that clients are reading. A body may be evicted while a client reads it, and would then be in memory for that
//! client alone, beside the capacity. So clients are given copies of pieces, and a body can be taken back from them.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::stream::{Broken, Held, PIECE};

/// The bodies that are being read.
#[derive(Debug, Default)]
pub(super) struct Loans(Mutex<Bodies>);

#[derive(Debug, Default)]
struct Bodies {
    /// By where they are in memory: all readers of one share it.
    at: HashMap<usize, Weak<Lent>>,
    /// Bytes of all of them.
    bytes: u64,
}

/// A body that is being read.
#[derive(Debug)]
pub(super) struct Lent {
    /// When it was first read, in the order of [`Held`].
    pub since: u64,
    at: usize,
    length: usize,
    /// `None`: taken back.
    whole: Mutex<Option<Bytes>>,
    held: Arc<Held>,
}

impl Loans {
    /// Bytes of all bodies that are being read, whether the cache has them too or not.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The bodies that are in memory for their readers alone, with their lengths.
    pub fn alone(&self) -> Vec<(Arc<Lent>, u64)> {
        let bodies: Vec<Arc<Lent>> = self.lock().at.values().filter_map(Weak::upgrade).collect();
        bodies
            .into_iter()
            .filter(|lent| lent.is_alone())
            .map(|lent| (Arc::clone(&lent), lent.length as u64))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Bodies> {
        // Nothing between locking and unlocking panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    /// The loan of this body: one for all its readers.
    pub fn of(whole: Bytes, held: &Arc<Held>) -> Arc<Lent> {
        let (at, length) = (whole.as_ptr() as usize, whole.len());
        // Dropped behind the lock, which its own end takes.
        let known;
        let mut bodies = held.loans.lock();
        known = bodies.at.get(&at).and_then(Weak::upgrade);
        // One that was taken back has no part in this memory.
        if let Some(known) = &known
            && known.length == length
            && known.lock().is_some()
        {
            return Arc::clone(known);
        }
        let lent = Lent { since: held.next(), at, length, whole: Mutex::new(Some(whole)), held: Arc::clone(held) };
        let lent = Arc::new(lent);
        bodies.bytes += length as u64;
        bodies.at.insert(at, Arc::downgrade(&lent));
        lent
    }

    /// The beginning of this part, at most [`PIECE`]. The client's connection keeps it for as long as it likes.
    pub fn piece(&self, part: Range<usize>) -> Result<Bytes, Broken> {
        let end = part.end.min(part.start + PIECE);
        let whole = self.lock();
        whole.as_ref().map(|whole| Bytes::copy_from_slice(&whole[part.start..end])).ok_or(Broken::TooSlow)
    }

    fn is_alone(&self) -> bool {
        self.lock().as_ref().is_some_and(Bytes::is_unique)
    }

    /// Takes the body back from all its readers.
    pub fn take_back(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut bodies = self.held.loans.lock();
        bodies.bytes -= self.length as u64;
        // Another may be there by now.
        if bodies.at.get(&self.at).is_some_and(|lent| lent.strong_count() == 0) {
            bodies.at.remove(&self.at);
        }
    }
}

/// One reader of a stored body.
#[derive(Debug)]
pub struct LentReader {
    lent: Arc<Lent>,
    left: Range<usize>,
}

impl LentReader {
    /// Reads this part of a stored body.
    pub fn new(whole: Bytes, part: Range<usize>, held: &Arc<Held>) -> LentReader {
        let left = part.start.min(whole.len())..part.end.min(whole.len());
        let reader = LentReader { lent: Lent::of(whole, held), left };
        held.squeeze_loans();
        reader
    }
}

impl Body for LentReader {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.lent.piece(this.left.clone());
        this.left.start += piece.as_ref().map_or(this.left.len(), Bytes::len);
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    const LENGTH: usize = 3 * PIECE;

    fn body() -> Bytes {
        vec![b'x'; LENGTH].into()
    }

    async fn ends(reader: LentReader) -> bool {
        reader.collect().await.is_ok()
    }

    #[tokio::test]
    async fn a_body_that_only_slow_readers_have_is_taken_back_beyond_the_bound() {
        let held = Held::new(LENGTH as u64);
        let read = |body: &Bytes| LentReader::new(body.clone(), 0..LENGTH, &held);
        let (first, second, third) = (body(), body(), body());
        let readers = [read(&first), read(&first), read(&second), read(&third)];
        drop((first, second));
        let another = body();
        let last = read(&another);
        let [one, two, second, third] = readers;
        assert_eq!((ends(one).await, ends(two).await), (false, false), "the oldest, from all its readers");
        assert!(ends(second).await && ends(third).await && ends(last).await);
        assert_eq!((held.loans.bytes(), held.loans.lock().at.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_body_that_the_cache_has_is_read_however_many_read_it() {
        let (held, body) = (Held::new(0), body());
        let readers: Vec<_> = (0..9).map(|_| LentReader::new(body.clone(), 0..LENGTH, &held)).collect();
        assert_eq!(held.loans.bytes(), LENGTH as u64);
        for reader in readers {
            assert_eq!(reader.collect().await.unwrap().to_bytes(), body);
        }
    }

    #[tokio::test]
    async fn a_part_is_read_and_all_of_the_body_counts() {
        let (held, body) = (Held::new(0), Bytes::from((0..LENGTH).map(|n| n as u8).collect::<Vec<_>>()));
        let reader = LentReader::new(body.clone(), 7..PIECE + 9, &held);
        assert_eq!((held.loans.bytes(), reader.size_hint().exact()), (LENGTH as u64, Some(PIECE as u64 + 2)));
        assert_eq!(reader.collect().await.unwrap().to_bytes(), body[7..PIECE + 9]);
        assert!(LentReader::new(body, LENGTH..LENGTH + 1, &held).is_end_stream());
    }
}
