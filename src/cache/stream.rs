//! A response body on its way from upstream to everyone who waits for it, and into the cache. Chunks are kept until
//! the body is complete, so that late joiners read from the start; once it is known that the body will not be
//! stored, only as much is kept as the slowest reader has not yet taken, and upstream is read no faster than that.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// What may be kept for the slowest reader of a body that is not stored, bytes.
const WINDOW: usize = 1 << 20;

/// The body broke off: what was sent is not all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("upstream broke off in the middle of the body")]
    Upstream,
    #[error("the client read too slowly")]
    TooSlow,
}

/// What all bodies on their way hold together, and the most that they may hold for clients that do not take it.
#[derive(Debug)]
pub struct Held {
    bytes: AtomicU64,
    most: u64,
}

impl Held {
    /// Nothing yet; `most` in bytes.
    pub fn new(most: u64) -> Arc<Held> {
        Arc::new(Held { bytes: 0.into(), most })
    }

    /// Whether no more is to be held: what arrives now is kept only as far as its slowest reader needs it.
    pub fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.most
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// The chunks of one body.
#[derive(Debug)]
pub struct Stream {
    /// Guards chunks, readers and their wakers.
    state: Mutex<State>,
    /// A reader moved on or left.
    moved: Notify,
    /// The last reader left.
    deserted: Notify,
    length: Option<u64>,
    held: Arc<Held>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.held.give_back(self.lock().kept);
    }
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks`.
    kept: usize,
    /// Chunks that were dropped from the front.
    dropped: u64,
    end: Option<Result<(), Broken>>,
    /// The last of `chunks` is not for readers until the end is there.
    last_held: bool,
    /// Chunks are no longer kept for joiners and for storing.
    passing: bool,
    readers: HashMap<u64, Place>,
    next_reader: u64,
}

#[derive(Debug, Default)]
struct Place {
    /// Number of the next chunk, counted from the start of the body.
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
    /// A body of which nothing has come yet; `length` in bytes, if upstream said it.
    pub fn new(length: Option<u64>, held: &Arc<Held>) -> Arc<Stream> {
        let held = Arc::clone(held);
        Arc::new(Stream { state: Mutex::default(), moved: Notify::new(), deserted: Notify::new(), length, held })
    }

    /// Reads from the start; `None` when the start is gone.
    pub fn reader(self: &Arc<Stream>) -> Option<Reader> {
        let mut state = self.lock();
        if state.passing {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, Place::default());
        Some(Reader { stream: Arc::clone(self), id })
    }

    /// Adds a chunk.
    pub fn push(&self, chunk: Bytes) {
        let mut state = self.lock();
        self.held.add(chunk.len());
        state.kept += chunk.len();
        state.chunks.push_back(chunk);
        state.wake_all();
    }

    /// Adds the last chunk. Readers see it together with the end: a client that was told the length has all of the
    /// body with this chunk, and must find it stored when it asks again.
    pub fn push_last(&self, chunk: Bytes) {
        let mut state = self.lock();
        self.held.add(chunk.len());
        state.kept += chunk.len();
        state.chunks.push_back(chunk);
        state.last_held = true;
    }

    /// The body is over, or broke off. The first word on it stands.
    pub fn finish(&self, end: Result<(), Broken>) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        state.wake_all();
    }

    /// The body is too large to be stored: from now on chunks are dropped when all readers have them, and nobody
    /// can join any more.
    pub fn pass_on(&self) {
        let mut state = self.lock();
        state.passing = true;
        state.drop_taken(&self.held);
    }

    /// The whole body in one piece.
    pub fn whole(&self) -> Bytes {
        let state = self.lock();
        if let [only] = state.chunks.as_slices().0
            && state.chunks.len() == 1
        {
            return only.clone();
        }
        let mut whole = BytesMut::with_capacity(state.kept);
        state.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.freeze()
    }

    /// Returns when nobody has read for `patience`, and nobody can join from then on. It looks once in that time.
    pub async fn deserted_for(&self, patience: Duration) {
        loop {
            while !self.lock().readers.is_empty() {
                self.deserted.notified().await;
            }
            tokio::time::sleep(patience).await;
            let mut state = self.lock();
            if state.readers.is_empty() {
                state.passing = true;
                return;
            }
        }
    }

    /// Waits until the slowest reader is near enough, at most for `patience`, however it moves meanwhile: then the slowest
    /// are cut off, so that one client does not hold up the others, nor upstream.
    pub async fn room(&self, patience: Duration) -> Room {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let moved = self.moved.notified();
            {
                let state = self.lock();
                if state.readers.is_empty() {
                    return Room::NoReaders;
                }
                if state.kept < WINDOW {
                    return Room::Some;
                }
            }
            if tokio::time::timeout_at(deadline, moved).await.is_err() {
                self.lock().cut_slowest(&self.held);
                return Room::Cut;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that runs under the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_all(&mut self) {
        self.readers.values_mut().filter_map(|place| place.waker.take()).for_each(Waker::wake);
    }

    fn drop_taken(&mut self, held: &Held) {
        if !self.passing {
            return;
        }
        let slowest = self.readers.values().map(|place| place.next).min().unwrap_or(u64::MAX);
        while self.dropped < slowest
            && let Some(chunk) = self.chunks.pop_front()
        {
            held.give_back(chunk.len());
            self.kept -= chunk.len();
            self.dropped += 1;
        }
    }

    fn cut_slowest(&mut self, held: &Held) {
        let Some(slowest) = self.readers.values().map(|place| place.next).min() else { return };
        for place in self.readers.values_mut().filter(|place| place.next == slowest) {
            place.cut = true;
            place.next = u64::MAX;
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
        self.drop_taken(held);
    }
}

/// One reader of a [`Stream`].
#[derive(Debug)]
pub struct Reader {
    stream: Arc<Stream>,
    id: u64,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut guard = self.stream.lock();
        let state = &mut *guard;
        let Some(place) = state.readers.get_mut(&self.id) else { return Poll::Ready(None) };
        if place.cut {
            return Poll::Ready(Some(Err(Broken::TooSlow)));
        }
        // Chunks before `dropped` were taken by every reader, this one too.
        let index = usize::try_from(place.next - state.dropped).unwrap_or(usize::MAX);
        let visible = state.chunks.len() - usize::from(state.last_held && state.end.is_none());
        if let Some(chunk) = state.chunks.get(index).filter(|_| index < visible).cloned() {
            place.next += 1;
            state.drop_taken(&self.stream.held);
            drop(guard);
            self.stream.moved.notify_one();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                place.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        state.readers.remove(&self.id);
        state.drop_taken(&self.stream.held);
        let is_deserted = state.readers.is_empty();
        drop(state);
        self.stream.moved.notify_one();
        if is_deserted {
            self.stream.deserted.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn stream_of(length: Option<u64>) -> Arc<Stream> {
        Stream::new(length, &Held::new(0))
    }

    #[tokio::test]
    async fn what_is_held_is_counted_until_it_is_taken_or_dropped() {
        let held = Held::new(3);
        let (first, second) = (Stream::new(None, &held), Stream::new(None, &held));
        let (mut reader, stalled) = (first.reader().unwrap(), second.reader().unwrap());
        first.push(Bytes::from_static(b"ab"));
        assert!(!held.is_full());
        second.push_last(Bytes::from_static(b"cd"));
        assert!(held.is_full());
        first.pass_on();
        reader.frame().await;
        assert!(!held.is_full());
        first.push(Bytes::from_static(b"ef"));
        assert!(held.is_full());
        drop((reader, first, second));
        drop(stalled);
        assert_eq!(held.bytes.load(Ordering::Relaxed), 0);
    }

    async fn all(reader: Reader) -> Result<Bytes, Broken> {
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
        const PATIENCE: Duration = Duration::from_secs(10);
        let stream = stream_of(None);
        let reader = stream.reader().unwrap();
        let deserted = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.deserted_for(PATIENCE).await }
        });
        tokio::time::sleep(PATIENCE * 3).await;
        assert!(!deserted.is_finished());
        drop(reader);
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(stream.reader().is_some(), "one more may join");
        deserted.await.unwrap();
        assert!(stream.reader().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_moves_too_slowly_is_cut_off_all_the_same() {
        const PATIENCE: Duration = Duration::from_secs(10);
        let stream = stream_of(None);
        let mut slow = stream.reader().unwrap();
        stream.pass_on();
        (0..100).for_each(|_| stream.push(Bytes::from(vec![0; WINDOW / 10])));
        let reading = async {
            loop {
                tokio::time::sleep(PATIENCE / 2).await;
                slow.frame().await.unwrap().unwrap();
            }
        };
        tokio::select! {
            () = reading => unreachable!("it reads for ever"),
            room = stream.room(PATIENCE) => assert_eq!(room, Room::Cut),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn astalled_reader_is_cut_off_and_the_others_go_on() {
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
