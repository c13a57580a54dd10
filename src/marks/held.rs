//! Where marks are stored: one for each tag that is *held*, and a table of hashed slots for all others.
//!
//! An entry in memory and a fetch hold the tags that they carry. A held tag has a [`Mark`] of its own, which readers reach
//! without a lock or a lookup. An invalidation of a tag that is not held raises the slot that the tag is hashed to, and so
//! invalidates all other tags there that are not held. The first hold of a tag copies the slot to the mark; the last release
//! raises the slot to the mark.
//!
//! # Why nothing is lost
//!
//! At any moment a tag has one *place*: its mark if it is held, else its slot. The value there is never lower than the latest
//! invalidation of the tag that has been carried out:
//!
//! - Invalidations, the first hold, the last release and the wiping for a new epoch happen under the lock of the tag's
//!   shard, one after the other.
//! - An invalidation finds the place and raises it in one such step. A hold or a release before it has moved the place, and
//!   the invalidation finds the new one; a hold or a release after it moves the raised value.
//! - A release that is not the last leaves the mark where it is. Of several releases that may be the last, the first under the
//!   lock moves the value, and only if the tag was not held again.
//! - Slots only rise, and a mark begins with the value of its slot. The only step down, [`HeldMarks::confirm`], sets what Redis
//!   has said.
//! - A new epoch wipes a shard's marks and slots in one step, so values moved before and after are wiped.
//!
//! So whether a tag is held has no bearing on what is *safe*, only on what is *exact*: an invalidation of one tag costs an entry
//! with another tag a miss only if they share a slot, the other is not held, and the entry was stamped before. A
//! fetch holds its request's tags before it reads its stamp, and their slots are no higher than that stamp. So this concerns only
//! the tags that its response alone names, and those only for as long as the fetch takes.
//!
//! Slots are chosen by a hash with a random key, so clients cannot work out which tags share a slot.
//!
//! L1 has no floor beside the marks. Where invalidations may have been missed, all marks are raised; they go down again tag by
//! tag, as Redis says what the marks of an entry are.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::soft::Pair;
use super::{Sequence, Tag};

/// The highest number of locks.
const SHARDS: usize = 64;

/// A tag is held for as long as this exists.
pub struct HeldTag(Arc<Mark>);

/// The marks of one tag.
pub(super) struct Mark {
    tag: Tag,
    pub hard: AtomicU64,
    pub soft: Pair,
    /// Rises from zero under the shard's lock only.
    holders: AtomicUsize,
    shard: Arc<Shard>,
    hash: u64,
}

/// The places of all tags.
pub(super) struct HeldMarks {
    shards: Box<[Arc<Shard>]>,
    keys: RandomState,
}

struct Shard(Mutex<ShardMarks>);

struct ShardMarks {
    held: HashTable<Arc<Mark>>,
    slots: Box<[Sequence]>,
}

impl HeldMarks {
    /// No tag is held. `slots`: rounded up to a power of two, eight bytes each.
    pub fn new(slots: usize) -> HeldMarks {
        let slots = slots.clamp(1, 1 << 30).next_power_of_two();
        let shards = SHARDS.min(slots);
        let places = || ShardMarks { held: HashTable::new(), slots: vec![0; slots / shards].into() };
        let shards = (0..shards).map(|_| Arc::new(Shard(Mutex::new(places())))).collect();
        HeldMarks { shards, keys: RandomState::new() }
    }

    /// Holds a tag: its place is a mark from now on.
    pub fn hold(&self, tag: &Tag) -> HeldTag {
        let (shard, hash) = self.place(tag);
        let mut places = shard.lock();
        if let Some(mark) = places.held(hash, tag) {
            mark.holders.fetch_add(1, SeqCst);
            return HeldTag(Arc::clone(mark));
        }
        let mark = Arc::new(Mark {
            tag: tag.clone(),
            hard: AtomicU64::new(*places.slot(hash)),
            soft: Pair::default(),
            holders: AtomicUsize::new(1),
            shard: Arc::clone(shard),
            hash,
        });
        places.held.insert_unique(hash, Arc::clone(&mark), |mark| mark.hash);
        HeldTag(mark)
    }

    /// Invalidates a tag.
    pub fn invalidate(&self, tag: &Tag, sequence: Sequence) {
        let (shard, hash) = self.place(tag);
        let mut places = shard.lock();
        if let Some(mark) = places.held(hash, tag) {
            mark.hard.fetch_max(sequence, SeqCst);
        } else {
            places.raise(hash, sequence);
        }
    }

    /// Soft-invalidates a tag. `end` of its grace, and `now`, by the same clock. A slot cannot store a grace: a tag that is not held
    /// is invalidated at once. True if it is held.
    pub fn soft_invalidate(&self, tag: &Tag, sequence: Sequence, end: u64, now: u64) -> bool {
        let (shard, hash) = self.place(tag);
        let mut places = shard.lock();
        if let Some(mark) = places.held(hash, tag) {
            mark.soft.add(sequence, end, now, &mark.hard);
            return true;
        }
        places.raise(hash, sequence);
        false
    }

    /// Invalidates all tags.
    pub fn invalidate_all(&self, sequence: Sequence) {
        for shard in &self.shards {
            let mut places = shard.lock();
            for mark in &places.held {
                mark.hard.fetch_max(sequence, SeqCst);
            }
            places.slots.iter_mut().for_each(|slot| *slot = sequence.max(*slot));
        }
    }

    /// Removes all marks; all tags count as invalidated with this sequence.
    pub fn wipe(&self, sequence: Sequence) {
        for shard in &self.shards {
            let mut places = shard.lock();
            for mark in &places.held {
                mark.soft.set(0, 0);
                mark.hard.store(sequence, SeqCst);
            }
            places.slots.fill(sequence);
        }
    }

    /// Lowers a mark to `newest`: Redis, which knows all invalidations up to `known`, says that none after `newest` was of this tag.
    /// `is_valid` is called under the lock: whether that is of the current epoch.
    pub fn confirm(held: &HeldTag, known: Sequence, newest: Sequence, is_valid: impl Fn() -> bool) {
        let mark = &held.0;
        let _places = mark.shard.lock();
        let hard = mark.hard.load(SeqCst);
        // Whatever raises it holds the lock.
        if is_valid() && newest < hard && hard <= known {
            mark.hard.store(newest, SeqCst);
        }
    }

    /// The latest hard and soft invalidation of a tag, as far as its place shows.
    pub fn latest(&self, tag: &Tag) -> [Sequence; 2] {
        let (shard, hash) = self.place(tag);
        let mut places = shard.lock();
        match places.held(hash, tag) {
            Some(mark) => [mark.hard.load(SeqCst), mark.soft.sequence()],
            None => [*places.slot(hash), 0],
        }
    }

    /// How many tags are held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().held.len()).sum()
    }

    /// The shard of a tag, and the tag's hash, which places it there.
    fn place(&self, tag: &Tag) -> (&Arc<Shard>, u64) {
        let hash = self.keys.hash_one(tag);
        // The table uses the topmost and the lowest bits.
        (&self.shards[(hash >> 32) as usize % self.shards.len()], hash)
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, ShardMarks> {
        // No code panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the value of a mark to its slot, unless the tag is held again.
    fn release(&self, mark: &Arc<Mark>) {
        let mut places = self.lock();
        let Ok(there) = places.held.find_entry(mark.hash, |there| Arc::ptr_eq(there, mark)) else { return };
        if mark.holders.load(SeqCst) > 0 {
            return;
        }
        there.remove();
        places.raise(mark.hash, mark.hard.load(SeqCst).max(mark.soft.sequence()));
        // A peak of held tags should not take memory for ever.
        if places.held.len() < places.held.capacity() / 8 {
            let room = places.held.len() * 2;
            places.held.shrink_to(room, |mark| mark.hash);
        }
    }
}

impl ShardMarks {
    /// The mark of a tag with this hash, if it is held.
    fn held(&self, hash: u64, tag: &Tag) -> Option<&Arc<Mark>> {
        self.held.find(hash, |mark| mark.tag == *tag)
    }

    fn slot(&mut self, hash: u64) -> &mut Sequence {
        let slots = self.slots.len();
        // There are at most 2^30 slots, and as many to each shard.
        &mut self.slots[hash as usize & (slots - 1)]
    }

    fn raise(&mut self, hash: u64, sequence: Sequence) {
        let slot = self.slot(hash);
        *slot = sequence.max(*slot);
    }
}

impl HeldTag {
    /// The mark of the tag.
    pub(super) fn mark(&self) -> &Mark {
        &self.0
    }
}

impl Drop for HeldTag {
    fn drop(&mut self) {
        if self.0.holders.fetch_sub(1, SeqCst) == 1 {
            self.0.shard.release(&self.0);
        }
    }
}

impl fmt::Debug for HeldTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tag.fmt(f)
    }
}
