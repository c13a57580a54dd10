//! Where marks are stored: one for each tag that is *held*, and a table of hashed slots for all others.
//!
//! An entry in memory and a fetch hold the tags that they carry. A held tag has a mark of its own, which readers reach by its
//! number, without a lock or a lookup. An invalidation of a tag that is not held raises the slot that the tag is hashed to, and so
//! invalidates all other tags there that are not held. The first hold of a tag copies the slot to the mark; the last release
//! raises the slot to the mark, whose number is then free for another tag.
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
//! - A release that is not the last leaves the mark where it is.
//! - A mark is read only by those that hold its tag, so that none of them reads the mark of the tag that has its number next.
//! - Slots only rise, and a mark begins with the value of its slot. The only step down, [`HeldMarks::confirm`], sets what Redis
//!   has said.
//! - A new epoch wipes a shard's marks and slots in one step, so values moved before and after are wiped.
//!
//! So whether a tag is held has no bearing on what is *safe*, only on what is *exact*: an invalidation of one tag costs an entry
//! with another tag a miss only if they share a slot, the other is not held, and the entry was stamped before. A
//! fetch holds its request's tags before it reads its stamp, and their slots are no higher than that stamp. So this concerns only
//! the tags that its response alone names, and those only for as long as the fetch takes.
//!
//! Tags are told apart by a hash of 128 bits with a random key, so that clients cannot work out which tags share a slot, and equal
//! hashes mean equal tags.
//!
//! L1 has no floor beside the marks. Where invalidations may have been missed, all marks are raised; they go down again tag by
//! tag, as Redis says what the marks of an entry are.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use siphasher::sip128::SipHasher13;
use smallvec::SmallVec;

use super::Sequence;
use super::mark_table::MarkTable;
use super::soft::Pair;

/// The highest number of locks.
const SHARDS: u32 = 64;

/// Tags are held for as long as this exists.
#[derive(Default)]
pub struct HeldTags {
    /// `None`: nothing is held, and nothing known of any mark.
    registry: Option<Arc<HeldMarks>>,
    marks: SmallVec<[MarkNumber; 4]>,
}

/// The number of a mark: its shard, and its number there.
#[derive(Clone, Copy)]
pub(super) struct MarkNumber(u32);

/// The places of all tags.
pub(super) struct HeldMarks {
    shards: Box<[Shard]>,
    hasher: SipHasher13,
}

struct Shard {
    places: Mutex<ShardMarks>,
    marks: MarkTable,
}

struct ShardMarks {
    /// The marks of the tags that are held.
    held: HashTable<u32>,
    /// The tag of each mark.
    owners: Vec<MarkOwner>,
    /// The marks without a tag. They and their owners stay, 32 bytes each: as many as were held at one time are held again.
    free: Vec<u32>,
    slots: Box<[Sequence]>,
}

/// The tag of a mark.
struct MarkOwner {
    tag: TagHash,
    /// Zero: the mark is free.
    holders: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct TagHash([u64; 2]);

impl HeldMarks {
    /// No tag is held. `slots`: rounded up to a power of two, eight bytes each.
    pub fn new(slots: usize) -> HeldMarks {
        let slots = slots.clamp(1, 1 << 30).next_power_of_two();
        let shards = slots.min(SHARDS as usize);
        let shard = || Shard {
            places: Mutex::new(ShardMarks {
                held: HashTable::new(),
                owners: Vec::new(),
                free: Vec::new(),
                slots: vec![0; slots / shards].into(),
            }),
            marks: MarkTable::default(),
        };
        let shards = (0..shards).map(|_| shard()).collect();
        HeldMarks { shards, hasher: SipHasher13::new_with_keys(rand::random(), rand::random()) }
    }

    /// Holds a tag: its place is a mark from now on.
    pub fn hold_one(&self, tag: &str) -> MarkNumber {
        let (number, shard, tag) = self.place(tag);
        let mut places = shard.lock();
        let mark = match places.held(tag) {
            Some(mark) => mark,
            None => places.begin(tag, &shard.marks),
        };
        places.owners[mark as usize].holders += 1;
        MarkNumber::new(number, mark)
    }

    /// Holds these tags.
    pub fn hold<T: AsRef<str>>(self: &Arc<Self>, tags: impl Iterator<Item = T>) -> HeldTags {
        let marks: SmallVec<_> = tags.map(|tag| self.hold_one(tag.as_ref())).collect();
        HeldTags { registry: Some(Arc::clone(self)), marks }
    }

    /// Ends one hold. After the last, the slot of the tag is its place.
    fn release(&self, number: MarkNumber) {
        let (shard, mark) = (&self.shards[number.shard()], number.in_shard());
        let mut places = shard.lock();
        let owner = &mut places.owners[mark as usize];
        owner.holders -= 1;
        if owner.holders == 0 {
            places.end(mark, &shard.marks);
        }
    }

    /// The hard mark of a tag that is held.
    pub fn hard(&self, number: MarkNumber) -> &AtomicU64 {
        self.shards[number.shard()].marks.hard(number.in_shard())
    }

    /// The soft mark of a tag that is held; `None` if there was none.
    pub fn soft(&self, number: MarkNumber) -> Option<&Pair> {
        self.shards[number.shard()].marks.soft(number.in_shard())
    }

    /// Invalidates a tag.
    pub fn invalidate(&self, tag: &str, sequence: Sequence) {
        let (_, shard, tag) = self.place(tag);
        let mut places = shard.lock();
        match places.held(tag) {
            Some(mark) => drop(shard.marks.hard(mark).fetch_max(sequence, SeqCst)),
            None => places.raise(tag, sequence),
        }
    }

    /// Soft-invalidates a tag. `end` of its grace, and `now`, by the same clock. A slot cannot store a grace: a tag that is not held
    /// is invalidated at once. True if it is held.
    pub fn soft_invalidate(&self, tag: &str, sequence: Sequence, end: u64, now: u64) -> bool {
        let (_, shard, tag) = self.place(tag);
        let mut places = shard.lock();
        let held = places.held(tag);
        match held {
            Some(mark) => shard.marks.soft_to_set(mark).add(sequence, end, now, shard.marks.hard(mark)),
            None => places.raise(tag, sequence),
        }
        held.is_some()
    }

    /// Invalidates all tags.
    pub fn invalidate_all(&self, sequence: Sequence) {
        for shard in &self.shards {
            let mut places = shard.lock();
            for mark in &places.held {
                shard.marks.hard(*mark).fetch_max(sequence, SeqCst);
            }
            places.slots.iter_mut().for_each(|slot| *slot = sequence.max(*slot));
        }
    }

    /// Removes all marks; all tags count as invalidated with this sequence.
    pub fn wipe(&self, sequence: Sequence) {
        for shard in &self.shards {
            let mut places = shard.lock();
            for mark in &places.held {
                shard.marks.set(*mark, sequence);
            }
            places.slots.fill(sequence);
        }
    }

    /// Lowers a mark to `newest`: Redis, which knows all invalidations up to `known`, says that none after `newest` was of this tag.
    /// `is_valid` is called under the lock: whether that is of the current epoch.
    pub fn confirm(&self, number: MarkNumber, known: Sequence, newest: Sequence, is_valid: impl Fn() -> bool) {
        let shard = &self.shards[number.shard()];
        let _places = shard.lock();
        let mark = shard.marks.hard(number.in_shard());
        let hard = mark.load(SeqCst);
        // Whatever raises it holds the lock.
        if is_valid() && newest < hard && hard <= known {
            mark.store(newest, SeqCst);
        }
    }

    /// The latest hard and soft invalidation of a tag, as far as its place shows.
    pub fn latest(&self, tag: &str) -> [Sequence; 2] {
        let (_, shard, tag) = self.place(tag);
        let mut places = shard.lock();
        match places.held(tag) {
            Some(mark) => shard.marks.latest(mark),
            None => [*places.slot(tag), 0],
        }
    }

    /// How many tags are held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().held.len()).sum()
    }

    /// The shard of a tag with its number, and the tag's hash, which places it there.
    fn place(&self, tag: &str) -> (usize, &Shard, TagHash) {
        let hash = self.hasher.hash(tag.as_bytes());
        let number = hash.h2 as usize % self.shards.len();
        (number, &self.shards[number], TagHash([hash.h1, hash.h2]))
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, ShardMarks> {
        // No code panics between two changes that belong together.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShardMarks {
    /// The mark of a tag, if the tag is held.
    fn held(&self, tag: TagHash) -> Option<u32> {
        self.held.find(tag.0[0], |mark| self.owners[*mark as usize].tag == tag).copied()
    }

    /// A mark for a tag that is not held, with the value of the tag's slot.
    fn begin(&mut self, tag: TagHash, marks: &MarkTable) -> u32 {
        let mark = self.free.pop().unwrap_or(self.owners.len() as u32);
        let owner = MarkOwner { tag, holders: 0 };
        match self.owners.get_mut(mark as usize) {
            Some(free) => *free = owner,
            None => self.owners.push(owner),
        }
        marks.set(mark, *self.slot(tag));
        let owners = &self.owners;
        self.held.insert_unique(tag.0[0], mark, |mark| owners[*mark as usize].tag.0[0]);
        mark
    }

    /// Moves the value of a mark to the slot of its tag.
    fn end(&mut self, mark: u32, marks: &MarkTable) {
        let tag = self.owners[mark as usize].tag;
        if let Ok(there) = self.held.find_entry(tag.0[0], |there| *there == mark) {
            there.remove();
        }
        let [hard, soft] = marks.latest(mark);
        self.raise(tag, hard.max(soft));
        self.free.push(mark);
        // A peak of held tags should not take memory for ever.
        if self.held.len() < self.held.capacity() / 8 {
            let (room, owners) = (self.held.len() * 2, &self.owners);
            self.held.shrink_to(room, |mark| owners[*mark as usize].tag.0[0]);
        }
    }

    fn slot(&mut self, tag: TagHash) -> &mut Sequence {
        let slots = self.slots.len();
        // There are at most 2^30 slots, and as many to each shard.
        &mut self.slots[tag.0[0] as usize & (slots - 1)]
    }

    fn raise(&mut self, tag: TagHash, sequence: Sequence) {
        let slot = self.slot(tag);
        *slot = sequence.max(*slot);
    }
}

impl MarkNumber {
    fn new(shard: usize, in_shard: u32) -> MarkNumber {
        // No table has more than 2^26 marks.
        MarkNumber(in_shard * SHARDS + shard as u32)
    }

    fn shard(self) -> usize {
        (self.0 % SHARDS) as usize
    }

    fn in_shard(self) -> u32 {
        self.0 / SHARDS
    }
}

impl HeldTags {
    /// The marks of the tags.
    pub(super) fn marks(&self) -> &[MarkNumber] {
        &self.marks
    }

    /// Whether they are held, even if there are none.
    pub fn are_held(&self) -> bool {
        self.registry.is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

impl Drop for HeldTags {
    fn drop(&mut self) {
        if let Some(registry) = &self.registry {
            self.marks.iter().for_each(|mark| registry.release(*mark));
        }
    }
}

impl fmt::Debug for HeldTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} held tags", self.marks.len())
    }
}
