//! Stored bodies that clients are reading. L1 may evict a body while a client reads it; then it is in memory for that client alone,
//! beside the capacity. Therefore clients get copies of pieces, and the budget may take the body away from its readers.

use std::collections::HashMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::body_budget::{BodyBudget, Broken, HeldBody, HeldByReaders, PIECE};

/// The stored bodies that are being read, and the budget of all bodies.
#[derive(Debug)]
pub struct StoredBodies {
    pub(super) budget: BodyBudget,
    read: Mutex<BeingRead>,
}

#[derive(Debug, Default)]
struct BeingRead {
    /// By address in memory: all readers of one body share it.
    by_address: HashMap<usize, Weak<StoredBody>>,
    /// Bytes of all of them, whether L1 has them too or not.
    bytes: u64,
}

/// A stored body that is being read.
#[derive(Debug)]
pub(super) struct StoredBody {
    /// In the order of arrival.
    number: u64,
    address: usize,
    length: usize,
    /// `None`: taken away from its readers.
    whole: Mutex<Option<Bytes>>,
    bodies: Arc<StoredBodies>,
}

impl StoredBodies {
    /// None yet. `limit`: of each part of the budget ([`super::body_budget`]), bytes.
    pub fn new(limit: u64) -> Arc<StoredBodies> {
        Arc::new(StoredBodies { budget: BodyBudget::new(limit), read: Mutex::default() })
    }

    /// The body of these bytes: one for all its readers.
    pub(super) fn body(self: &Arc<StoredBodies>, whole: Bytes) -> Arc<StoredBody> {
        let (address, length) = (whole.as_ptr() as usize, whole.len());
        // Declared before the lock: dropping the last reference takes the lock.
        let known;
        let mut read = self.lock();
        known = read.by_address.get(&address).and_then(Weak::upgrade);
        // One that was taken away from its readers no longer owns the memory at this address.
        if let Some(known) = &known
            && known.length == length
            && known.lock().is_some()
        {
            return Arc::clone(known);
        }
        let (number, whole, bodies) = (self.budget.next_number(), Mutex::new(Some(whole)), Arc::clone(self));
        let body = Arc::new(StoredBody { number, address, length, whole, bodies });
        read.bytes += length as u64;
        read.by_address.insert(address, Arc::downgrade(&body));
        body
    }

    /// Keeps bodies that only readers hold within the budget.
    pub(super) fn enforce(&self) {
        let bodies: Vec<Arc<StoredBody>> = self.lock().by_address.values().filter_map(Weak::upgrade).collect();
        let held = |body: Arc<StoredBody>| -> Option<HeldByReaders> {
            let bytes = body.held_by_readers()?;
            Some((body.number, body, bytes))
        };
        self.budget.enforce(bodies.into_iter().filter_map(held).collect());
    }

    /// The same, if so much is being read that it may be needed.
    fn enforce_if_needed(&self) {
        let bytes = self.lock().bytes;
        if bytes > self.budget.limit() {
            self.enforce();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BeingRead> {
        // Nothing between locking and unlocking panics.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoredBody {
    /// The beginning of this part, at most [`PIECE`]. A copy, since the client's connection may keep it for long.
    pub fn piece(&self, part: Range<usize>) -> Result<Bytes, Broken> {
        let end = part.end.min(part.start + PIECE);
        let whole = self.lock();
        whole.as_ref().map(|whole| Bytes::copy_from_slice(&whole[part.start..end])).ok_or(Broken::TooSlow)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldBody for StoredBody {
    fn held_by_readers(&self) -> Option<u64> {
        self.lock().as_ref().is_some_and(Bytes::is_unique).then_some(self.length as u64)
    }

    fn has_readers(&self) -> bool {
        true
    }

    fn cut_readers(&self) {
        *self.lock() = None;
    }
}

impl Drop for StoredBody {
    fn drop(&mut self) {
        let mut read = self.bodies.lock();
        read.bytes -= self.length as u64;
        // Another body may be at this address by now.
        if read.by_address.get(&self.address).is_some_and(|body| body.strong_count() == 0) {
            read.by_address.remove(&self.address);
        }
    }
}

/// One reader of a stored body.
#[derive(Debug)]
pub struct StoredBodyReader {
    body: Arc<StoredBody>,
    left: Range<usize>,
}

impl StoredBodyReader {
    /// Reads this part of a stored body.
    pub fn new(whole: Bytes, part: Range<usize>, bodies: &Arc<StoredBodies>) -> StoredBodyReader {
        let left = part.start.min(whole.len())..part.end.min(whole.len());
        let reader = StoredBodyReader { body: bodies.body(whole), left };
        bodies.enforce_if_needed();
        reader
    }
}

impl Body for StoredBodyReader {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.body.piece(this.left.clone());
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

    async fn ends(reader: StoredBodyReader) -> bool {
        reader.collect().await.is_ok()
    }

    #[tokio::test]
    async fn bodies_that_only_slow_readers_hold_are_taken_away_beyond_the_limit() {
        let held = StoredBodies::new(LENGTH as u64);
        let read = |body: &Bytes| StoredBodyReader::new(body.clone(), 0..LENGTH, &held);
        let (first, second, third) = (body(), body(), body());
        let readers = [read(&first), read(&first), read(&second), read(&third)];
        drop((first, second));
        let another = body();
        let last = read(&another);
        let [one, two, second, third] = readers;
        assert_eq!((ends(one).await, ends(two).await), (false, false), "the oldest, from all its readers");
        assert!(ends(second).await && ends(third).await && ends(last).await);
        let read = held.lock();
        assert_eq!((read.bytes, read.by_address.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_body_that_l1_holds_too_is_never_taken_away() {
        let (held, body) = (StoredBodies::new(0), body());
        let readers: Vec<_> = (0..9).map(|_| StoredBodyReader::new(body.clone(), 0..LENGTH, &held)).collect();
        assert_eq!(held.lock().bytes, LENGTH as u64);
        for reader in readers {
            assert_eq!(reader.collect().await.unwrap().to_bytes(), body);
        }
    }

    #[tokio::test]
    async fn a_reader_of_a_part_counts_for_the_whole_body() {
        let (held, body) = (StoredBodies::new(0), Bytes::from((0..LENGTH).map(|n| n as u8).collect::<Vec<_>>()));
        let reader = StoredBodyReader::new(body.clone(), 7..PIECE + 9, &held);
        assert_eq!(held.lock().bytes, LENGTH as u64);
        assert_eq!(reader.size_hint().exact(), Some(PIECE as u64 + 2));
        assert_eq!(reader.collect().await.unwrap().to_bytes(), body[7..PIECE + 9]);
        assert!(StoredBodyReader::new(body, LENGTH..LENGTH + 1, &held).is_end_stream());
    }
}
