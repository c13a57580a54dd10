//! The memory that bodies of responses may take beside the capacity of L1: bodies on their way into the cache, bodies that only
//! their readers hold, and what is read ahead of bodies that are not stored. Each of the three has the same limit.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Read ahead of a body that is not stored, bytes, as long as the total allows it.
pub(super) const WINDOW: usize = 256 << 10;

/// Chunks below this, bytes, are gathered. Also what is read ahead of a body when the total is used up.
pub(super) const SMALL: usize = 4 << 10;

/// Bytes that are gathered in one piece, and the most that a reader of a stored body gets at once.
pub(super) const PIECE: usize = 64 << 10;

/// Why a reader does not get all of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("upstream broke off in the middle of the body")]
    Upstream,
    #[error("the client read too slowly")]
    TooSlow,
}

/// A body that readers keep in memory.
pub(super) trait HeldBody: Debug + Send + Sync {
    /// Bytes in memory for its readers alone; `None` if there are none.
    fn held_by_readers(&self) -> Option<u64>;

    /// Whether it has readers.
    fn has_readers(&self) -> bool;

    /// Fails all its readers, and drops the bytes.
    fn cut_readers(&self);
}

/// A body with its number in the order of arrival, and the bytes that only its readers hold.
pub(super) type HeldByReaders = (u64, Arc<dyn HeldBody>, u64);

/// Counts the memory of bodies, bytes.
#[derive(Debug)]
pub struct BodyBudget {
    limit: u64,
    /// Of bodies on their way into the cache.
    incoming: AtomicU64,
    /// Read ahead of bodies that are not stored.
    read_ahead: AtomicU64,
    /// Bodies that are not stored and hold more than the window; the oldest first. The lock guards only the list.
    oversized: Mutex<VecDeque<(u64, Weak<dyn HeldBody>)>>,
    /// Length of `oversized`, to be read without the lock.
    oversized_count: AtomicUsize,
    /// Numbers the bodies in the order of arrival.
    sequence: AtomicU64,
}

impl BodyBudget {
    pub(super) fn new(limit: u64) -> BodyBudget {
        BodyBudget {
            limit,
            incoming: 0.into(),
            read_ahead: 0.into(),
            oversized: Mutex::default(),
            oversized_count: 0.into(),
            sequence: 0.into(),
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The number of the next body.
    pub(super) fn next_number(&self) -> u64 {
        self.sequence.fetch_add(1, Relaxed)
    }

    /// How much of one body that is not stored may be read ahead of its slowest reader, bytes.
    pub(super) fn window(&self) -> usize {
        if self.read_ahead.load(Relaxed) < self.limit { WINDOW } else { SMALL }
    }

    /// Counts what is read ahead of a body: it was `before`, and is `now`.
    pub(super) fn count_read_ahead(&self, before: u64, now: u64) {
        self.read_ahead.fetch_add(now.wrapping_sub(before), Relaxed);
    }

    /// Reserves room for a whole body on its way into the cache. One body alone always has room.
    pub(super) fn reserve(&self, length: u64) -> bool {
        let room = |bytes: u64| {
            let sum = bytes.saturating_add(length);
            (bytes == 0 || sum <= self.limit).then_some(sum)
        };
        self.incoming.fetch_update(Relaxed, Relaxed, room).is_ok()
    }

    /// Counts bytes that were not reserved. False if they are more than the limit allows.
    pub(super) fn add(&self, bytes: u64) -> bool {
        self.incoming.fetch_add(bytes, Relaxed).saturating_add(bytes) <= self.limit
    }

    pub(super) fn release(&self, bytes: u64) {
        self.incoming.fetch_sub(bytes, Relaxed);
    }

    /// Counts a body that is not stored among those that only readers hold, until it has no readers.
    pub(super) fn watch(&self, body: Weak<dyn HeldBody>) {
        let mut oversized = self.lock();
        oversized.push_back((self.next_number(), body));
        self.oversized_count.store(oversized.len(), Relaxed);
    }

    /// Fails readers, those of the oldest bodies first, until bodies that only readers hold are within the limit. The youngest body
    /// may be larger. `stored`: stored bodies that only readers hold.
    pub(super) fn enforce(&self, stored: Vec<HeldByReaders>) {
        let mut held = stored;
        if self.oversized_count.load(Relaxed) > 0 {
            let mut oversized = self.lock();
            oversized.retain(|(number, body)| {
                let Some(body) = body.upgrade() else { return false };
                let has_readers = body.has_readers();
                held.extend(body.held_by_readers().map(|bytes| (*number, body, bytes)));
                has_readers
            });
            self.oversized_count.store(oversized.len(), Relaxed);
        }
        held.sort_by_key(|(number, _, _)| *number);
        let mut bytes: u64 = held.iter().map(|(_, _, bytes)| bytes).sum();
        let youngest = held.len().saturating_sub(1);
        for (_, body, length) in &held[..youngest] {
            if bytes <= self.limit {
                break;
            }
            body.cut_readers();
            bytes -= length;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Weak<dyn HeldBody>)>> {
        self.oversized.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> (u64, u64) {
        (self.incoming.load(Relaxed), self.read_ahead.load(Relaxed))
    }
}
