//! The marks of this process, with the two clocks that they need. Without Redis they are the authority on what is current;
//! with Redis they are a copy of its marks, which [`super::fleet`] keeps up to date.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::clock::SharedClock;
use crate::marks::{Epoch, HeldTags, IssuedStamp, Marks, MarksView, Now, Sequence, SoftInvalidation, Tag};

/// Invalidations that a receiver of notices may be behind.
const NOTICES: usize = 1024;

/// [`Marks`], and methods of the same names that read the clocks themselves.
pub struct LocalMarks {
    marks: Marks,
    /// The clock that times in entries are of.
    pub clock: SharedClock,
    /// Graces are counted from here, by a clock that is never set.
    start: Instant,
    /// Held by an invalidation from the moment when it takes its sequence until its marks are set: another one must not
    /// read the marks of before, and take a later sequence.
    invalidating: Mutex<()>,
    /// The tags of each invalidation where there is no Redis, for those that subscribe.
    notices: broadcast::Sender<Arc<[Tag]>>,
}

impl Deref for LocalMarks {
    type Target = Marks;

    fn deref(&self) -> &Marks {
        &self.marks
    }
}

impl LocalMarks {
    /// Marks of an epoch of their own. `slots`: for tags that are not held ([`Marks::new`]).
    pub fn new(slots: usize) -> LocalMarks {
        // Zero is no epoch.
        let epoch = Epoch(rand::random_range(1..=u64::MAX));
        let (notices, _) = broadcast::channel(NOTICES);
        LocalMarks {
            marks: Marks::new(epoch, slots),
            clock: SharedClock::default(),
            start: Instant::now(),
            invalidating: Mutex::default(),
            notices,
        }
    }

    /// What the marks say now of the tags that are held here, and of the root tag.
    pub fn view(&self, held: &HeldTags) -> MarksView {
        self.marks.view(held, || self.nanos(Instant::now()))
    }

    /// The same for an entry stamped with `sequence` ([`Marks::view_of`]).
    pub fn view_of(&self, held: &HeldTags, sequence: Sequence) -> MarksView {
        self.marks.view_of(held, sequence, || self.nanos(Instant::now()))
    }

    /// Invalidates where there is no Redis.
    /// `watched`: tags whose latest invalidation before this one is asked for.
    pub fn invalidate(&self, tags: &[Tag], soft: &[SoftInvalidation], watched: &[Tag]) -> IssuedStamp {
        let _alone = self.invalidating.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = (!watched.is_empty()).then(|| self.marks.latest(watched));
        let wall = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX / 2);
        let issued = self.marks.invalidate(tags, soft, Now { wall, steady: self.nanos(Instant::now()) });
        if self.notices.receiver_count() > 0 {
            let soft = soft.iter().map(|soft| &soft.tag);
            // After the marks: what is fetched because of it is stored with a later stamp.
            let _ = self.notices.send(tags.iter().chain(soft).cloned().collect());
        }
        IssuedStamp { latest, ..issued }
    }

    /// The tags of each invalidation from now on where there is no Redis. A slow receiver misses some, and is told so.
    pub fn notices(&self) -> broadcast::Receiver<Arc<[Tag]>> {
        self.notices.subscribe()
    }

    /// Takes over soft marks from Redis. `at`: a time before Redis read what was left of each grace.
    pub fn soft_invalidate<'t>(
        &self,
        soft: impl IntoIterator<Item = (&'t SoftInvalidation, Sequence)>,
        at: Instant,
    ) {
        let now = self.nanos(Instant::now());
        for (SoftInvalidation { tag, grace }, sequence) in soft {
            self.marks.soft_invalidate(tag, sequence, self.nanos(at + *grace), now);
        }
    }

    /// Nanoseconds of the clock by which graces end.
    fn nanos(&self, time: Instant) -> u64 {
        u64::try_from(time.duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}
