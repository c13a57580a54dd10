//! A response body on its way from upstream to the leader, to followers, and into the cache.
//!
//! It is buffered until it is complete, so that later followers read from the start. Then readers that are behind share the bytes of
//! the stored entry. A body that will not be stored is buffered only as far as its slowest reader is behind, and upstream is read no
//! faster than that. Small chunks are gathered, so that memory grows with bytes and not with chunks.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::body_budget::{BodyBudget, Broken, HeldBody, PIECE, SMALL, WINDOW};
use super::stored_body::{StoredBodies, StoredBody};
use crate::entry;

/// The bytes of one body.
#[derive(Debug)]
pub struct Stream {
    /// Guards the bytes, readers and their wakers.
    state: Mutex<StreamState>,
    /// A reader moved on or left.
    moved: Notify,
    /// The last reader left.
    abandoned: Notify,
    length: Option<u64>,
    bodies: Arc<StoredBodies>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let state = self.lock();
        self.bodies.budget.release(state.counted);
        self.bodies.budget.count_read_ahead(state.counted_read_ahead, 0);
    }
}

#[derive(Debug, Default)]
struct StreamState {
    /// Each with where it begins in the body.
    pieces: VecDeque<(u64, Bytes)>,
    /// Small chunks behind `pieces`.
    tail: BytesMut,
    /// Bytes in `pieces` and `tail`.
    kept: usize,
    /// Bytes of the body that have come.
    received: u64,
    /// As many of these are for readers: the last chunk is not before the end is there.
    visible: u64,
    /// Bytes of small chunks for which no reader was woken.
    unshown: usize,
    /// Bytes that the budget counts as on their way into the cache.
    counted: u64,
    /// Bytes that it counts as read ahead.
    counted_read_ahead: u64,
    end: Option<Result<(), Broken>>,
    /// All of the body is one piece in memory of its own, which the stored entry shares.
    is_whole: bool,
    /// That piece, once it is stored.
    stored: Option<Arc<StoredBody>>,
    /// It will not be stored, and has no new readers.
    passing: bool,
    readers: HashMap<u64, ReaderState>,
    next_reader: u64,
}

#[derive(Debug, Default)]
struct ReaderState {
    /// Bytes of the body before the next one.
    next: u64,
    waker: Option<Waker>,
    cut: bool,
}

/// Whether it is worth reading on from upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Some,
    /// Nobody reads any more.
    NoReaders,
    /// Not yet: the slowest readers were cut off.
    Cut,
}

impl Stream {
    /// A body of which nothing has come yet; `length` in bytes, if upstream said it. `None` if there is no room for so much.
    pub fn new(length: Option<u64>, bodies: &Arc<StoredBodies>) -> Option<Arc<Stream>> {
        if !length.is_none_or(|length| bodies.budget.reserve(length)) {
            return None;
        }
        let state = StreamState { counted: length.unwrap_or(0), ..StreamState::default() };
        let (state, bodies) = (Mutex::new(state), Arc::clone(bodies));
        Some(Arc::new(Stream { state, moved: Notify::new(), abandoned: Notify::new(), length, bodies }))
    }

    /// A reader from the start; `None` if the start was dropped.
    pub fn reader(self: &Arc<Stream>) -> Option<StreamReader> {
        let mut state = self.lock();
        if state.passing {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, ReaderState::default());
        Some(StreamReader { stream: Arc::clone(self), id })
    }

    /// Adds a chunk. False if the budget has no room: the chunk is added, but the body must not be stored. Readers may be woken only
    /// by [`Stream::show`].
    pub fn push(&self, chunk: Bytes) -> bool {
        let (mut state, length) = (self.lock(), chunk.len());
        let is_small = length < SMALL;
        let has_room = state.take(chunk, &self.bodies.budget);
        state.visible = state.received;
        state.unshown += length;
        if is_small && state.unshown < PIECE {
            return has_room;
        }
        state.wake_all();
        has_room
    }

    /// Whether there are chunks for which no reader was woken.
    pub fn is_to_be_shown(&self) -> bool {
        self.lock().unshown > 0
    }

    /// Wakes the readers.
    pub fn show(&self) {
        self.lock().wake_all();
    }

    /// Adds the last chunk. Readers see it together with the end: a client that knows the length has the whole body with this
    /// chunk, and must find it stored when it asks again. False as with [`Stream::push`].
    pub fn push_last(&self, chunk: Bytes) -> bool {
        self.lock().take(chunk, &self.bodies.budget)
    }

    /// The body has ended, or broke off. Only the first call counts.
    pub fn finish(&self, end: Result<(), Broken>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        state.visible = state.received;
        state.wake_all();
    }

    /// The body is complete and stored: readers that are behind share the entry's bytes.
    pub fn finish_stored(self: &Arc<Stream>) {
        self.finish(Ok(()));
        let mut state = self.lock();
        self.bodies.budget.release(std::mem::take(&mut state.counted));
        let received = state.received;
        let is_behind = received > PIECE as u64 && state.readers.values().any(|place| place.next < received);
        if is_behind && state.is_whole {
            // It may be evicted before they have read it.
            state.stored = state.pieces.pop_front().map(|(_, whole)| self.bodies.body(whole));
        }
        drop(state);
        self.bodies.enforce();
    }

    /// The body will not be stored: from now on it is dropped as far as all readers have it, and it gets no new readers.
    pub fn pass_on(self: &Arc<Stream>) {
        let mut state = self.lock();
        state.passing = true;
        self.bodies.budget.release(std::mem::take(&mut state.counted));
        state.drop_taken(&self.bodies.budget);
        let is_oversized = state.kept > WINDOW;
        drop(state);
        if is_oversized {
            {
                let body: Weak<dyn HeldBody> = Arc::<Stream>::downgrade(self);
                self.bodies.budget.watch(body);
            }
        }
        self.bodies.enforce();
    }

    /// The whole body in one piece; one over 4 KiB is in memory of its own, and readers go on with it.
    pub fn whole(&self) -> Bytes {
        let mut state = self.lock();
        // A small body is copied into the memory of its entry.
        if let [(_, only)] = state.pieces.as_slices().0
            && only.len() == state.kept
            && only.len() <= entry::COPIED
        {
            return only.clone();
        }
        let mut whole = Vec::with_capacity(state.kept);
        // Each piece goes as it is copied, so that there are never two of the body.
        while let Some((_, piece)) = state.pieces.pop_front() {
            whole.extend_from_slice(&piece);
        }
        whole.extend_from_slice(&std::mem::take(&mut state.tail));
        let whole = Bytes::from(whole);
        state.pieces.push_back((0, whole.clone()));
        state.is_whole = true;
        whole
    }

    /// Returns when the body has had no readers for about `timeout`. It gets none from then on.
    pub async fn abandoned_for(&self, timeout: Duration) {
        loop {
            while !self.lock().readers.is_empty() {
                self.abandoned.notified().await;
            }
            tokio::time::sleep(timeout).await;
            let mut state = self.lock();
            if state.readers.is_empty() {
                state.passing = true;
                return;
            }
        }
    }

    /// Waits until the slowest reader is near enough, at most for `timeout`, however it moves meanwhile: then the slowest
    /// are cut off, so that one client does not hold up the others, nor upstream.
    pub async fn room(&self, timeout: Duration) -> Room {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let moved = self.moved.notified();
            {
                let state = self.lock();
                if state.readers.is_empty() {
                    return Room::NoReaders;
                }
                if state.kept < self.bodies.budget.window() {
                    return Room::Some;
                }
            }
            if tokio::time::timeout_at(deadline, moved).await.is_err() {
                self.lock().cut_slowest(&self.bodies.budget);
                return Room::Cut;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        // No code that runs under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldBody for Stream {
    fn held_by_readers(&self) -> Option<u64> {
        let state = self.lock();
        (state.passing && state.kept > WINDOW).then_some(state.kept as u64)
    }

    fn has_readers(&self) -> bool {
        !self.lock().readers.is_empty()
    }

    fn cut_readers(&self) {
        let mut state = self.lock();
        state.cut(|_| true);
        state.passing = true;
        state.drop_taken(&self.bodies.budget);
        drop(state);
        self.moved.notify_one();
    }
}

impl StreamState {
    fn wake_all(&mut self) {
        self.unshown = 0;
        self.readers.values_mut().filter_map(|place| place.waker.take()).for_each(Waker::wake);
    }

    fn take(&mut self, chunk: Bytes, budget: &BodyBudget) -> bool {
        let (at, length) = (self.received, chunk.len());
        self.kept += length;
        self.received += length as u64;
        // What comes in one chunk, or in large ones, is not copied.
        if length < SMALL && at > 0 {
            self.tail.extend_from_slice(&chunk);
            if self.tail.len() >= PIECE {
                self.seal();
            }
        } else {
            self.received = at;
            self.seal();
            self.received = at + length as u64;
            self.pieces.push_back((at, chunk));
        }
        self.count_read_ahead(budget);
        if self.passing || self.received <= self.counted {
            return true;
        }
        let has_room = budget.add(self.received - self.counted);
        self.counted = self.received;
        has_room
    }

    /// Makes the tail, which is all that has come last, a piece.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail).freeze();
            self.pieces.push_back((self.received - tail.len() as u64, tail));
        }
    }

    /// What a reader is given next; `None` if it has all that is there.
    fn after(&self, next: u64) -> Result<Option<Bytes>, Broken> {
        match &self.stored {
            Some(stored) if next < self.visible => stored.piece(next as usize..self.visible as usize).map(Some),
            _ => Ok(self.kept_after(next)),
        }
    }

    fn kept_after(&self, next: u64) -> Option<Bytes> {
        if next >= self.visible {
            return None;
        }
        let index = self.pieces.partition_point(|(start, _)| *start <= next).checked_sub(1);
        // Both are at most the length of the buffer.
        let range = |start: u64, length: usize| {
            let end = length.min(self.visible.saturating_sub(start) as usize);
            Some(next.checked_sub(start)? as usize..end).filter(|range| range.start < range.end)
        };
        if let Some((start, piece)) = index.and_then(|index| self.pieces.get(index))
            && let Some(range) = range(*start, piece.len())
        {
            return Some(match self.is_whole && piece.len() > 2 * PIECE {
                // A copy: the client's connection may keep it for long, and with a slice it would keep the whole body.
                true => Bytes::copy_from_slice(&piece[range.start..range.end.min(range.start + PIECE)]),
                false => piece.slice(range),
            });
        }
        let start = self.received - self.tail.len() as u64;
        self.tail.get(range(start, self.tail.len())?).map(Bytes::copy_from_slice)
    }

    /// Counts the buffer as read ahead, if the body is not stored.
    fn count_read_ahead(&mut self, budget: &BodyBudget) {
        let kept = if self.passing { self.kept as u64 } else { 0 };
        let before = std::mem::replace(&mut self.counted_read_ahead, kept);
        budget.count_read_ahead(before, kept);
    }

    fn drop_taken(&mut self, budget: &BodyBudget) {
        if !self.passing {
            return;
        }
        let slowest = self.readers.values().map(|place| place.next).min().unwrap_or(u64::MAX);
        while let Some((start, piece)) = self.pieces.front()
            && start + piece.len() as u64 <= slowest
        {
            self.kept -= piece.len();
            self.pieces.pop_front();
        }
        if self.received <= slowest {
            self.kept -= self.tail.len();
            self.tail.clear();
        }
        self.count_read_ahead(budget);
    }

    fn cut_slowest(&mut self, budget: &BodyBudget) {
        let Some(slowest) = self.readers.values().map(|place| place.next).min() else { return };
        self.cut(|place| place.next == slowest);
        self.drop_taken(budget);
    }

    fn cut(&mut self, whom: impl Fn(&ReaderState) -> bool) {
        for place in self.readers.values_mut().filter(|place| whom(place)) {
            place.cut = true;
            place.next = u64::MAX;
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
    }
}

/// One reader of a [`Stream`].
#[derive(Debug)]
pub struct StreamReader {
    stream: Arc<Stream>,
    id: u64,
}

impl Body for StreamReader {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut guard = self.stream.lock();
        let state = &mut *guard;
        let Some(place) = state.readers.get(&self.id) else { return Poll::Ready(None) };
        if place.cut {
            return Poll::Ready(Some(Err(Broken::TooSlow)));
        }
        let piece = match state.after(place.next) {
            Ok(piece) => piece,
            Err(broken) => return Poll::Ready(Some(Err(broken))),
        };
        if let Some(piece) = piece
            && let Some(place) = state.readers.get_mut(&self.id)
        {
            place.next += piece.len() as u64;
            state.drop_taken(&self.stream.bodies.budget);
            drop(guard);
            self.stream.moved.notify_one();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                if let Some(place) = state.readers.get_mut(&self.id) {
                    place.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        state.readers.remove(&self.id);
        state.drop_taken(&self.stream.bodies.budget);
        let is_abandoned = state.readers.is_empty();
        drop(state);
        self.stream.moved.notify_one();
        if is_abandoned {
            self.stream.abandoned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn stream_of(length: Option<u64>) -> Arc<Stream> {
        Stream::new(length, &StoredBodies::new(0)).unwrap()
    }

    #[tokio::test]
    async fn what_is_to_be_stored_is_counted_until_it_is_stored_or_dropped() {
        let held = StoredBodies::new(3);
        let counted = || held.budget.counted().0;
        let (first, second) = (Stream::new(None, &held).unwrap(), Stream::new(None, &held).unwrap());
        let (_slow, _slower) = (first.reader().unwrap(), second.reader().unwrap());
        assert!(first.push(Bytes::from_static(b"ab")));
        assert!(!second.push_last(Bytes::from_static(b"cd")), "no more than three");
        first.pass_on();
        assert!(first.push(Bytes::from_static(b"ef")), "what is not stored has its window");
        assert_eq!((counted(), second.whole()), (2, Bytes::from_static(b"cd")));
        second.finish_stored();
        assert_eq!(counted(), 0);
    }

    #[tokio::test]
    async fn little_is_read_ahead_of_bodies_that_are_passed_on_when_many_are() {
        const TIMEOUT: Duration = Duration::ZERO;
        let held = StoredBodies::new(PIECE as u64);
        let passing = |length: usize| {
            let stream = Stream::new(None, &held).unwrap();
            let reader = stream.reader().unwrap();
            stream.pass_on();
            stream.push(vec![b'x'; length].into());
            (stream, reader)
        };
        let (first, _slow) = passing(PIECE - 1);
        assert_eq!(first.room(TIMEOUT).await, Room::Some);
        let (second, mut reader) = passing(SMALL);
        assert_eq!(first.room(TIMEOUT).await, Room::Cut);
        assert_eq!(second.room(TIMEOUT).await, Room::Some, "the first has given its own back");
        assert!(reader.frame().await.is_some());
        drop((first, second, reader));
        let (third, _slow) = passing(WINDOW - 1);
        assert_eq!(third.room(TIMEOUT).await, Room::Cut);
        drop((third, _slow));
        assert_eq!(held.budget.counted().1, 0);
    }

    #[test]
    fn a_known_length_is_reserved_before_anything_has_come() {
        let held = StoredBodies::new(10);
        let large = Stream::new(Some(11), &held).expect("one alone has room");
        assert!(Stream::new(Some(1), &held).is_none());
        drop(large);
        let (first, second) = (Stream::new(Some(6), &held).unwrap(), Stream::new(Some(4), &held).unwrap());
        assert!(Stream::new(Some(1), &held).is_none());
        assert!(first.push(Bytes::from_static(b"abcdef")) && second.push(Bytes::from_static(b"abcd")));
        drop((first, second));
        assert_eq!(held.budget.counted().0, 0);
    }

    #[tokio::test]
    async fn small_chunks_take_memory_for_their_bytes_and_are_read_as_they_come() {
        const LENGTH: usize = 3 * PIECE + 7;
        let stream = stream_of(None);
        let (mut prompt, late) = (stream.reader().unwrap(), stream.reader().unwrap());
        for n in 0..LENGTH {
            stream.push(Bytes::copy_from_slice(&[n as u8]));
            assert_eq!(prompt.frame().await.unwrap().unwrap().into_data().unwrap()[..], [n as u8]);
        }
        assert!(stream.lock().pieces.len() <= 5);
        let expected: Vec<u8> = (0..LENGTH).map(|n| n as u8).collect();
        assert_eq!(stream.whole(), expected);
        stream.finish_stored();
        assert_eq!(all(late).await.unwrap(), expected);
        assert!(prompt.frame().await.is_none());
    }

    #[tokio::test]
    async fn who_is_slow_shares_the_stored_bytes_and_is_cut_off_when_nothing_else_keeps_them() {
        let held = StoredBodies::new(PIECE as u64);
        let stored = || {
            let stream = Stream::new(None, &held).unwrap();
            let reader = stream.reader().unwrap();
            stream.push(Bytes::from(vec![1; 3 * PIECE]));
            let entry = stream.whole();
            stream.finish_stored();
            (reader, entry)
        };
        let (kept, evicted, last) = (stored(), stored(), stored());
        drop((evicted.1, last.1));
        held.enforce();
        assert_eq!(all(kept.0).await.unwrap(), kept.1, "it is stored");
        assert_eq!(all(evicted.0).await, Err(Broken::TooSlow));
        assert_eq!(all(last.0).await.unwrap().len(), 3 * PIECE, "one alone has room");
    }

    async fn all(reader: StreamReader) -> Result<Bytes, Broken> {
        reader.collect().await.map(http_body_util::Collected::to_bytes)
    }

    #[tokio::test]
    async fn every_reader_gets_the_whole_body_whenever_it_joined() {
        let stream = stream_of(None);
        let early = stream.reader().unwrap();
        stream.push(Bytes::from_static(b"ab"));
        let late = stream.reader().unwrap();
        stream.push(Bytes::from_static(b"cd"));
        stream.finish(Ok(()));
        assert_eq!(all(early).await.unwrap(), "abcd");
        assert_eq!(all(late).await.unwrap(), "abcd");
        assert_eq!(stream.whole(), "abcd");
    }

    #[tokio::test]
    async fn the_last_chunk_is_seen_with_the_end() {
        let stream = stream_of(Some(4));
        let mut reader = stream.reader().unwrap();
        stream.push(Bytes::from_static(b"ab"));
        stream.push_last(Bytes::from_static(b"cd"));
        assert_eq!(stream.whole(), "abcd");
        assert_eq!(reader.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        let early =
            std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut reader).poll_frame(cx).is_pending())).await;
        assert!(early);
        stream.finish(Ok(()));
        assert_eq!(all(reader).await.unwrap(), "cd");
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error_to_every_reader() {
        let stream = stream_of(None);
        let reader = stream.reader().unwrap();
        stream.push(Bytes::from_static(b"ab"));
        stream.finish(Err(Broken::Upstream));
        assert_eq!(all(reader).await, Err(Broken::Upstream));
    }

    #[tokio::test]
    async fn a_body_that_is_passed_on_is_kept_only_for_the_slowest_reader() {
        let stream = stream_of(None);
        let (mut slow, mut fast) = (stream.reader().unwrap(), stream.reader().unwrap());
        stream.push(Bytes::from_static(b"ab"));
        fast.frame().await;
        stream.pass_on();
        assert!(stream.reader().is_none());
        assert_eq!(stream.lock().kept, 2);
        slow.frame().await;
        assert_eq!(stream.lock().kept, 0);
        drop((slow, fast));
        assert_eq!(stream.room(Duration::from_secs(60)).await, Room::NoReaders);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_deserted_when_nobody_has_read_it_for_a_while() {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let stream = stream_of(None);
        let reader = stream.reader().unwrap();
        let abandoned = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.abandoned_for(TIMEOUT).await }
        });
        tokio::time::sleep(TIMEOUT * 3).await;
        assert!(!abandoned.is_finished());
        drop(reader);
        tokio::time::sleep(TIMEOUT / 2).await;
        assert!(stream.reader().is_some(), "one more may join");
        abandoned.await.unwrap();
        assert!(stream.reader().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_moves_too_slowly_is_cut_off_all_the_same() {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let stream = stream_of(None);
        let mut slow = stream.reader().unwrap();
        stream.pass_on();
        for _ in 0..100 {
            stream.push(Bytes::from(vec![0; WINDOW / 10]));
        }
        let reading = async {
            loop {
                tokio::time::sleep(TIMEOUT / 2).await;
                slow.frame().await.unwrap().unwrap();
            }
        };
        tokio::select! {
            () = reading => unreachable!("it reads for ever"),
            room = stream.room(TIMEOUT) => assert_eq!(room, Room::Cut),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_reader_is_cut_off_and_the_others_go_on() {
        let stream = stream_of(None);
        let (stalled, mut reading) = (stream.reader().unwrap(), stream.reader().unwrap());
        stream.pass_on();
        stream.push(Bytes::from(vec![0; WINDOW]));
        reading.frame().await;
        assert_eq!(stream.room(Duration::from_secs(10)).await, Room::Cut);
        assert_eq!(stream.room(Duration::from_secs(10)).await, Room::Some);
        stream.finish(Ok(()));
        assert_eq!(all(stalled).await, Err(Broken::TooSlow));
        assert!(reading.frame().await.is_none());
    }
}
