//! The marks of a shard, by number.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Sequence;
use super::soft::Pair;

/// Marks in the first chunk; each further chunk has twice as many as the one before.
const FIRST: usize = 64;

/// Fewer than 2^26 marks in all; those of 64 shards would take a hundred gigabytes.
const CHUNKS: usize = 20;

/// Marks never move, so that they are read without a lock. Writers hold the lock of the shard.
#[derive(Default)]
pub(super) struct MarkTable([OnceLock<MarkChunk>; CHUNKS]);

struct MarkChunk {
    hard: Box<[AtomicU64]>,
    /// Made for the first soft mark: few rules are soft.
    soft: OnceLock<Box<[Pair]>>,
}

impl MarkTable {
    /// Makes the mark if it is the first with its number, and sets it. There is no soft mark.
    pub fn set(&self, mark: u32, hard: Sequence) {
        let (chunk, at) = place(mark);
        let chunk = self.0[chunk].get_or_init(|| MarkChunk::new(FIRST << chunk));
        if let Some(soft) = chunk.soft.get() {
            soft[at].set(0, 0);
        }
        chunk.hard[at].store(hard, SeqCst);
    }

    /// The hard mark. `mark` was set.
    pub fn hard(&self, mark: u32) -> &AtomicU64 {
        let (chunk, at) = place(mark);
        &self.chunk(chunk).hard[at]
    }

    /// The soft mark, if there may be one.
    pub fn soft(&self, mark: u32) -> Option<&Pair> {
        let (chunk, at) = place(mark);
        self.chunk(chunk).soft.get().map(|soft| &soft[at])
    }

    /// The soft mark, to be set.
    pub fn soft_to_set(&self, mark: u32) -> &Pair {
        let (number, at) = place(mark);
        let chunk = self.chunk(number);
        &chunk.soft.get_or_init(|| (0..chunk.hard.len()).map(|_| Pair::default()).collect())[at]
    }

    /// The hard and the soft mark, for writers; 0 for none.
    pub fn latest(&self, mark: u32) -> [Sequence; 2] {
        [self.hard(mark).load(SeqCst), self.soft(mark).map_or(0, Pair::sequence)]
    }

    fn chunk(&self, chunk: usize) -> &MarkChunk {
        self.0[chunk].get().expect("a mark is set before it is read")
    }
}

impl MarkChunk {
    fn new(marks: usize) -> MarkChunk {
        MarkChunk { hard: (0..marks).map(|_| AtomicU64::new(0)).collect(), soft: OnceLock::new() }
    }
}

/// The chunk of a mark, and its place there.
fn place(mark: u32) -> (usize, usize) {
    let mark = mark as usize + FIRST;
    let chunk = (mark / FIRST).ilog2() as usize;
    (chunk, mark - (FIRST << chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_a_place_of_its_own() {
        let mut next = (0, 0);
        for mark in 0..100_000 {
            assert_eq!(place(mark), next);
            next = if next.1 + 1 == FIRST << next.0 { (next.0 + 1, 0) } else { (next.0, next.1 + 1) };
        }
        assert!(place((1 << 26) - FIRST as u32 - 1).0 < CHUNKS);
    }

    #[test]
    fn a_mark_that_is_set_again_has_no_soft_mark() {
        let table = MarkTable::default();
        table.set(70, 5);
        table.soft_to_set(70).add(7, 100, 0, table.hard(70));
        assert_eq!(table.latest(70), [5, 7]);
        table.set(70, 6);
        assert_eq!(table.latest(70), [6, 0]);
        assert!(table.soft(71).is_some_and(|soft| soft.sequence() == 0), "of the same chunk");
    }
}
