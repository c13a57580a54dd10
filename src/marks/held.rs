//! Where marks stand: one for each tag that somebody *holds*, and a table of hashed slots for all others.
//!
//! Who keeps or fetches something that carries a tag holds it. What the tag's invalidations amount to then stands in a
//! [`Mark`] of its own, which readers reach without a lock or a lookup. An invalidation of a tag that nobody holds raises
//! the slot that the tag falls into, and with it that of all other tags there which nobody holds. The first who holds a tag
//! begins with what its slot says; the last who lets it go leaves in the slot what its mark said.
//!
//! # Why nothing is lost
//!
//! At any moment a tag has one *place*: its mark if it is held, else its slot. The place says no less than the latest
//! invalidation of the tag that has been carried out:
//!
//! - invalidations, the first hold, the last release and the wiping of an epoch take place under the lock of the tag's
//!   shard, one after the other;
//! - an invalidation finds the place and raises it in one such step. A hold or a release before it has moved the place, and
//!   the invalidation finds the new one; one that comes after it takes along what was raised;
//! - who is not the last to let go leaves the mark where it is. Of several who are taken for the last, the first under the
//!   lock moves it, and only if nobody has held it again;
//! - slots only rise, and a mark begins with its slot; the one step down, [`Registry::confirm`], has the store's word for
//!   it;
//! - an epoch wipes a shard's marks and slots in one step. What is moved before is wiped, what is moved later was.
//!
//! So whether anybody holds a tag has no bearing on what is *safe*, only on what is *exact*: two tags cost each other a miss
//! only if they share a slot, nobody holds the one, and what carries it was stamped before the other was invalidated. A
//! fetch holds its request's tags before its stamp is read, and the slot says no more than what had been issued when it
//! did: it is left with the tags that only its response names, and those only for as long as the fetch takes.
//!
//! What places tags is a secret of this process: who can make requests cannot work out which tags share a slot.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::soft::Pair;
use super::{Sequence, Tag};

/// Locks, at most.
const SHARDS: usize = 64;

/// A tag is held for as long as this lives.
pub struct Held(Arc<Mark>);

/// What the invalidations of one tag amount to.
pub(super) struct Mark {
    tag: Tag,
    pub hard: AtomicU64,
    pub soft: Pair,
    /// Raised from zero under the shard's lock only.
    holders: AtomicUsize,
    shard: Arc<Shard>,
    hash: u64,
}

/// All places.
pub(super) struct Registry {
    shards: Box<[Arc<Shard>]>,
    keys: RandomState,
}

struct Shard(Mutex<Places>);

struct Places {
    held: HashTable<Arc<Mark>>,
    slots: Box<[Sequence]>,
}

impl Registry {
    /// Nothing is held. `slots`: rounded up to a power of two, eight bytes each.
    pub fn new(slots: usize) -> Registry {
        let slots = slots.clamp(1, 1 << 30).next_power_of_two();
        let shards = SHARDS.min(slots);
        let places = || Places { held: HashTable::new(), slots: vec![0; slots / shards].into() };
        let shards = (0..shards).map(|_| Arc::new(Shard(Mutex::new(places())))).collect();
        Registry { shards, keys: RandomState::new() }
    }

    /// Holds a tag. What its place says from now on, the mark says.
    pub fn hold(&self, tag: &Tag) -> Held {
        let (shard, hash) = self.place(tag);
        let mut places = shard.lock();
        if let Some(mark) = places.held(hash, tag) {
            mark.holders.fetch_add(1, SeqCst);
            return Held(Arc::clone(mark));
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
        Held(mark)
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

    /// Invalidates a tag softly; `end`: of its grace, `now`: by the same clock. A slot has no place for a grace: what
    /// nobody holds is invalidated at once. True if somebody holds it.
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

    /// Forgets all invalidations; all tags count as invalidated by this one.
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

    /// The store, which knows all invalidations up to `known`, says that none of them after `newest` was of this tag.
    /// `is_valid` is asked under the lock: whether the store's word is of the epoch that is valid.
    pub fn confirm(held: &Held, known: Sequence, newest: Sequence, is_valid: impl Fn() -> bool) {
        let mark = &held.0;
        let _places = mark.shard.lock();
        let hard = mark.hard.load(SeqCst);
        // All that raise it hold the lock.
        if is_valid() && newest < hard && hard <= known {
            mark.hard.store(newest, SeqCst);
        }
    }

    /// The latest hard and soft invalidation that is known of a tag, as its place has them.
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
        // The table takes the topmost and the lowest bits.
        (&self.shards[(hash >> 32) as usize % self.shards.len()], hash)
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nobody panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what a mark says to its slot, unless somebody holds it.
    fn release(&self, mark: &Arc<Mark>) {
        let mut places = self.lock();
        let Ok(there) = places.held.find_entry(mark.hash, |there| Arc::ptr_eq(there, mark)) else { return };
        if mark.holders.load(SeqCst) > 0 {
            return;
        }
        there.remove();
        places.raise(mark.hash, mark.hard.load(SeqCst).max(mark.soft.sequence()));
        // What was held at a time should not take memory for ever.
        if places.held.len() < places.held.capacity() / 8 {
            let room = places.held.len() * 2;
            places.held.shrink_to(room, |mark| mark.hash);
        }
    }
}

impl Places {
    /// The mark of a tag with this hash, if somebody holds it.
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

impl Held {
    /// The mark of the tag.
    pub(super) fn mark(&self) -> &Mark {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.holders.fetch_sub(1, SeqCst) == 1 {
            self.0.shard.release(&self.0);
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.tag.fmt(f)
    }
}
