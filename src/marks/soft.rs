//! The soft mark of a tag, beside the hard one.
//!
//! It is a pair: the sequence of the latest soft invalidation, and the end of its grace. Writers take turns, by the lock of
//! the tag's shard; a reader takes no lock. Two atomics are not one, so that a writer stores *changing*, then the end, then
//! the sequence, and a reader reads sequence, end, sequence:
//!
//! - if it reads a new end, *changing* was stored before, so that its second reading of the sequence is *changing* or
//!   newer. Both its readings agree only if the writer left the sequence as it was, and then it has moved the end to
//!   an earlier time, and either end is that sequence's;
//! - if it reads an old end with the old sequence twice, the pair stood there when it read the end;
//! - the new sequence with an old end it cannot read: the end is stored before.
//!
//! A pair whose grace is over counts as a hard mark. Before a writer replaces such a pair it raises the hard mark of the
//! tag to its sequence, and readers read the pair before the hard mark: they see the one or the other.

use std::cell::LazyCell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::Sequence;

/// In place of a sequence while a pair is written.
const CHANGING: Sequence = Sequence::MAX;

/// A soft mark.
#[derive(Default)]
pub(super) struct Pair {
    /// 0 for none.
    sequence: AtomicU64,
    /// Nanoseconds of the process's clock.
    end: AtomicU64,
}

/// What a reader sees in a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Changing,
    Mark(Sequence, u64),
}

/// What some soft marks amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Looked {
    /// The highest of those whose grace is over: as good as a hard mark. The highest of all if one was being changed.
    pub over: Sequence,
    /// The highest of the others, and the shortest time left of their graces.
    pub pending: Option<(Sequence, Duration)>,
}

/// What these pairs say. `now` is asked for only if there is a mark in any of them.
pub(super) fn look<'p>(pairs: impl Iterator<Item = &'p Pair>, now: impl Fn() -> u64) -> Looked {
    let now = LazyCell::new(now);
    pairs.map(Pair::see).fold(Looked::default(), |looked, seen| match seen {
        Seen::Nothing => looked,
        Seen::Changing => Looked { over: Sequence::MAX, ..looked },
        Seen::Mark(sequence, end) => looked.with(sequence, Duration::from_nanos(end.saturating_sub(*now))),
    })
}

impl Pair {
    /// Puts a soft mark beside the hard one. One that is there already and pending keeps its end, if that is earlier:
    /// otherwise writes in a row would put it off for ever. By one at a time.
    pub fn add(&self, sequence: Sequence, end: u64, now: u64, hard: &AtomicU64) {
        let (known, known_end) = (self.sequence.load(SeqCst), self.end.load(SeqCst));
        if known <= hard.load(SeqCst) {
            self.set(sequence, end);
        } else if known_end <= now {
            hard.fetch_max(known, SeqCst);
            self.set(sequence, end);
        } else {
            self.set(sequence.max(known), end.min(known_end));
        }
    }

    /// By one at a time.
    pub fn set(&self, sequence: Sequence, end: u64) {
        self.sequence.store(CHANGING, SeqCst);
        self.end.store(end, SeqCst);
        self.sequence.store(sequence, SeqCst);
    }

    /// The latest soft invalidation, for who writes; 0 for none.
    pub fn sequence(&self) -> Sequence {
        self.sequence.load(SeqCst)
    }

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
