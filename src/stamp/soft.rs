//! The soft marks of all tags in hashed slots, beside the hard ones.
//!
//! A slot holds a pair: the sequence of the latest soft invalidation, and the end of its grace. Writers take turns; a
//! reader takes no lock. Two atomics are not one, so that a writer stores *changing*, then the end, then the sequence,
//! and a reader reads sequence, end, sequence:
//!
//! - if it reads a new end, *changing* was stored before, so that its second reading of the sequence is *changing* or
//!   newer. Both its readings agree only if the writer left the sequence as it was, and then it has moved the end to
//!   an earlier time, and either end is that sequence's;
//! - if it reads an old end with the old sequence twice, the pair stood there when it read the end;
//! - the new sequence with an old end it cannot read: the end is stored before.
//!
//! A pair whose grace is over counts as a hard mark. Before a writer replaces such a pair it raises the hard mark of the
//! slot to its sequence, and readers read the pair before the hard mark: they see the one or the other.

use std::cell::LazyCell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::{Sequence, Slot};

/// In place of a sequence while a slot is written.
const CHANGING: Sequence = Sequence::MAX;

/// Soft marks. Takes no memory before the first one.
pub(super) struct SoftMarks {
    /// The highest sequence of any soft invalidation: what is stamped so, or later, none of them has outdated.
    newest: AtomicU64,
    slots: OnceLock<Box<[Pair]>>,
    /// How many slots there are once there are any.
    count: usize,
    /// Held by who writes.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Pair {
    /// 0 for none.
    sequence: AtomicU64,
    /// Nanoseconds of the process's clock.
    end: AtomicU64,
}

/// What a reader sees in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Changing,
    Mark(Sequence, u64),
}

/// What the soft marks of some slots amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Looked {
    /// The highest of those whose grace is over: as good as a hard mark. The highest of all if one was being changed.
    pub over: Sequence,
    /// The highest of the others, and the shortest time left of their graces.
    pub pending: Option<(Sequence, Duration)>,
}

impl SoftMarks {
    pub fn new(count: usize) -> SoftMarks {
        SoftMarks { newest: AtomicU64::new(0), slots: OnceLock::new(), count, writing: Mutex::default() }
    }

    /// The highest sequence of any soft invalidation; 0 if there was none.
    pub fn newest(&self) -> Sequence {
        self.newest.load(SeqCst)
    }

    /// What these slots say. `now` is asked for only if there is a mark in any of them.
    pub fn look(&self, slots: impl Iterator<Item = Slot>, now: impl Fn() -> u64) -> Looked {
        let Some(table) = self.slots.get() else { return Looked::default() };
        let now = LazyCell::new(now);
        slots.map(|slot| table[slot.0 as usize].see()).fold(Looked::default(), |looked, seen| match seen {
            Seen::Nothing => looked,
            Seen::Changing => Looked { over: Sequence::MAX, ..looked },
            Seen::Mark(sequence, end) => looked.with(sequence, Duration::from_nanos(end.saturating_sub(*now))),
        })
    }

    /// Puts a soft mark into a slot whose hard mark is `hard`. One that is there already and pending keeps its end, if
    /// that is earlier: otherwise writes in a row would put it off for ever.
    pub fn add(&self, slot: Slot, sequence: Sequence, end: u64, now: u64, hard: &AtomicU64) {
        let _writing = self.lock();
        let table = self.slots.get_or_init(|| (0..self.count).map(|_| Pair::default()).collect());
        let pair = &table[slot.0 as usize];
        let (known, known_end) = (pair.sequence.load(SeqCst), pair.end.load(SeqCst));
        if known <= hard.load(SeqCst) {
            pair.set(sequence, end);
        } else if known_end <= now {
            hard.fetch_max(known, SeqCst);
            pair.set(sequence, end);
        } else {
            pair.set(sequence.max(known), end.min(known_end));
        }
        self.newest.fetch_max(sequence, SeqCst);
    }

    /// Forgets all of them.
    pub fn wipe(&self) {
        let _writing = self.lock();
        self.slots.get().into_iter().flatten().for_each(|pair| pair.set(0, 0));
        self.newest.store(0, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // Nobody panics between the stores of a pair.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pair {
    fn see(&self) -> Seen {
        let first = self.sequence.load(SeqCst);
        let end = self.end.load(SeqCst);
        match (first, self.sequence.load(SeqCst)) {
            (CHANGING, _) | (_, CHANGING) => Seen::Changing,
            (first, second) if first != second => Seen::Changing,
            (0, _) => Seen::Nothing,
            _ => Seen::Mark(first, end),
        }
    }

    /// By one at a time.
    fn set(&self, sequence: Sequence, end: u64) {
        self.sequence.store(CHANGING, SeqCst);
        self.end.store(end, SeqCst);
        self.sequence.store(sequence, SeqCst);
    }
}

impl Looked {
    /// With another mark; nothing left means that its grace is over.
    pub fn with(self, sequence: Sequence, left: Duration) -> Looked {
        if left.is_zero() {
            return Looked { over: self.over.max(sequence), ..self };
        }
        let (newest, shortest) = self.pending.unwrap_or((0, Duration::MAX));
        Looked { pending: Some((newest.max(sequence), shortest.min(left))), ..self }
    }
}
