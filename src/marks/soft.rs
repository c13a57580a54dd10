//! The soft mark of a tag, beside the hard one.
//!
//! It is a pair: the sequence of the latest soft invalidation, and the end of its grace. Writers hold the lock of the tag's
//! shard; a reader takes no lock. The pair is two atomics, so a writer stores *changing*, then the end, then
//! the sequence, and a reader loads sequence, end, sequence:
//!
//! - If it loads a new end, *changing* was stored before, so its second load of the sequence returns *changing* or
//!   newer. Both its loads agree only if the writer left the sequence as it was, and then the writer has moved the end to
//!   an earlier time, and both ends are valid for that sequence.
//! - If it loads an old end and the old sequence twice, the old pair was there when it loaded the end.
//! - It cannot load the new sequence with an old end: the end is stored before.
//!
//! A pair whose grace is over counts as a hard mark. Before a writer replaces such a pair it raises the hard mark of the
//! tag to the pair's sequence, and readers load the pair before the hard mark: they see one of the two.

use std::cell::LazyCell;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::Sequence;

/// Stored in place of the sequence while a pair is written.
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
enum SoftMark {
    Nothing,
    Changing,
    Mark(Sequence, u64),
}

/// Several soft marks, in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Looked {
    /// The highest of those whose grace is over, which counts as a hard mark; `Sequence::MAX` if one was being changed.
    pub over: Sequence,
    /// The highest of the others, and the shortest time left of their graces.
    pub pending: Option<(Sequence, Duration)>,
}

/// Reads these pairs. `now` is called only if there is a mark in any of them.
pub(super) fn look<'p>(pairs: impl Iterator<Item = &'p Pair>, now: impl Fn() -> u64) -> Looked {
    let now = LazyCell::new(now);
    pairs.map(Pair::see).fold(Looked::default(), |looked, seen| match seen {
        SoftMark::Nothing => looked,
        SoftMark::Changing => Looked { over: Sequence::MAX, ..looked },
        SoftMark::Mark(sequence, end) => looked.with(sequence, Duration::from_nanos(end.saturating_sub(*now))),
    })
}

impl Pair {
    /// Sets a soft mark beside the hard one. If one is there already whose grace is not over, the earlier end stays:
    /// otherwise a series of writes would put it off for ever. For one writer at a time.
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

    /// For one writer at a time.
    pub fn set(&self, sequence: Sequence, end: u64) {
        self.sequence.store(CHANGING, SeqCst);
        self.end.store(end, SeqCst);
        self.sequence.store(sequence, SeqCst);
    }

    /// The latest soft invalidation, for writers; 0 for none.
    pub fn sequence(&self) -> Sequence {
        self.sequence.load(SeqCst)
    }

    fn see(&self) -> SoftMark {
        let first = self.sequence.load(SeqCst);
        let end = self.end.load(SeqCst);
        match (first, self.sequence.load(SeqCst)) {
            (CHANGING, _) | (_, CHANGING) => SoftMark::Changing,
            (first, second) if first != second => SoftMark::Changing,
            (0, _) => SoftMark::Nothing,
            _ => SoftMark::Mark(first, end),
        }
    }
}

impl Looked {
    /// With another mark. `left`: the rest of its grace; zero if that is over.
    pub fn with(self, sequence: Sequence, left: Duration) -> Looked {
        if left.is_zero() {
            return Looked { over: self.over.max(sequence), ..self };
        }
        let (newest, shortest) = self.pending.unwrap_or((0, Duration::MAX));
        Looked { pending: Some((newest.max(sequence), shortest.min(left))), ..self }
    }
}
