//! L1: entries in this process's memory, bounded in bytes. Each holds the marks of its tags ([`crate::marks`]).

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::coherence::local_marks::LocalMarks;
use crate::entry::Entry;
use crate::key::{CacheKey, KeyHash};
use crate::marks::{HeldTags, MarksView, Tag};

/// Holds the tags of a lookup, and of the fetch that follows it, so that their marks stay exact.
#[derive(Debug, Clone, Default)]
pub enum Hold {
    #[default]
    Nothing,
    /// Those of an entry in L1.
    Entry(Arc<Entry>),
    Tags(Arc<HeldTags>),
}

/// Bytes of memory that a mark takes, with its tag and its place in the table.
const MARK_WEIGHT: u64 = 48;

/// How full L1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub entries: u64,
    pub bytes: u64,
    /// Bytes.
    pub capacity: u64,
    /// Entries evicted for space since the start.
    pub evictions: u64,
}

/// By this the cache chooses how many evicted keys it remembers, to tell what is asked for again: half as many as entries of this
/// weight fit, bytes. The hit rate is good for entries of a tenth of it to five times as much (`hit_rate`).
const TYPICAL_WEIGHT: u64 = 4096;

/// Keys whose former hits are remembered.
const FORMER_HITS: usize = 8192;

/// L1 and the marks.
pub struct Memory {
    entries: Cache<KeyHash, Arc<Entry>, ByWeight, DefaultHashBuilder, CountEvictions>,
    evictions: Arc<AtomicU64>,
    /// The hits of invalidated entries that were removed, until something is stored in their place.
    former_hits: Cache<KeyHash, u32>,
    shards: usize,
    pub marks: Arc<LocalMarks>,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<KeyHash, Arc<Entry>> for ByWeight {
    fn weight(&self, _: &KeyHash, entry: &Arc<Entry>) -> u64 {
        entry.weight() + entry.held().map_or(0, HeldTags::len) as u64 * MARK_WEIGHT
    }
}

#[derive(Clone)]
struct CountEvictions(Arc<AtomicU64>);

impl Lifecycle<KeyHash, Arc<Entry>> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: KeyHash, _: Arc<Entry>) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Memory {
    /// An empty L1 of `capacity` bytes whose largest entries have bodies of `largest` bytes. `slots`: for the marks of tags
    /// that are not held.
    pub fn new(capacity: u64, largest: u64, slots: usize) -> Memory {
        let (evictions, shards) = (Arc::new(AtomicU64::new(0)), shards(capacity, largest));
        let options = OptionsBuilder::new()
            .estimated_items_capacity((capacity / TYPICAL_WEIGHT).clamp(64, 1 << 22) as usize)
            .weight_capacity(capacity)
            .shards(shards)
            .build()
            // Both capacities are set just above, which is all that the builder asks for.
            .expect("item and weight capacity are set");
        let lifecycle = CountEvictions(Arc::clone(&evictions));
        Memory {
            entries: Cache::with_options(options, ByWeight, DefaultHashBuilder::default(), lifecycle),
            evictions,
            former_hits: Cache::new(FORMER_HITS),
            shards,
            marks: Arc::new(LocalMarks::new(slots)),
        }
    }

    /// The largest body that fits, bytes: a tenth of a shard is left for the rest of its entry.
    pub fn largest_body(&self) -> u64 {
        self.entries.capacity() / self.shards as u64 / 10 * 9
    }

    /// Whether an L1 of the same capacity could have room for a larger one.
    pub fn is_divided(&self) -> bool {
        self.shards > 1
    }

    /// The entry of this key.
    pub fn get(&self, cache_key: &CacheKey) -> Option<Arc<Entry>> {
        self.entries.get(&cache_key.hash).filter(|entry| *entry.text == *cache_key.text)
    }

    /// The vary index for this primary key. It need not be current: it only selects a variant, which is judged by its own
    /// marks.
    pub fn varies_on(&self, cache_key: &CacheKey) -> Option<Arc<Entry>> {
        self.get(cache_key).filter(|entry| entry.vary_index().is_some())
    }

    /// Stores an entry, unless the one there is newer. Returns it, stored or not.
    pub fn put(&self, key: KeyHash, entry: Entry) -> Arc<Entry> {
        if self.holds_newer(key, &entry) {
            return Arc::new(entry);
        }
        self.insert(key, entry)
    }

    /// The same with an entry from Redis. `view`: the marks of all its tags there.
    pub fn put_confirmed(&self, key: KeyHash, entry: Entry, view: &MarksView) -> Arc<Entry> {
        if self.holds_newer(key, &entry) {
            return Arc::new(entry);
        }
        let entry = self.insert(key, entry);
        if let Some(held) = entry.held() {
            self.marks.confirm(held, view);
        }
        entry
    }

    fn insert(&self, key: KeyHash, entry: Entry) -> Arc<Entry> {
        let held = self.marks.hold(entry.tags.iter());
        let before = self.hits(key).max(self.former_hits.remove(&key).map_or(0, |(_, hits)| hits));
        let entry = entry.in_memory(held, before);
        self.entries.insert(key, Arc::clone(&entry));
        entry
    }

    /// Whether the entry there has a later stamp than `entry`, or the same and a later request time.
    pub fn holds_newer(&self, key: KeyHash, entry: &Entry) -> bool {
        self.entries.peek(&key).is_some_and(|there| is_newer(&there, entry, self.marks.clock.now()))
    }

    /// The entry that is stored instead of `entry`, if that is newer.
    pub fn newer_than(&self, cache_key: &CacheKey, entry: &Entry) -> Option<Arc<Entry>> {
        self.get(cache_key).filter(|there| is_newer(there, entry, self.marks.clock.now()))
    }

    /// Removes `invalidated`, unless it was replaced meanwhile.
    pub fn drop_invalidated(&self, key: KeyHash, invalidated: &Arc<Entry>) {
        if invalidated.hits() > 0 {
            self.former_hits.insert(key, invalidated.hits());
        }
        self.entries.remove_if(&key, |entry| Arc::ptr_eq(entry, invalidated));
    }

    /// Removes an entry.
    pub fn remove(&self, key: KeyHash) {
        self.entries.remove(&key);
    }

    /// Removes all entries.
    pub fn clear(&self) {
        self.entries.clear();
    }

    /// The marks of an entry's tags, which L1 holds. Of another entry nothing is known: it is not current.
    pub fn view_of(&self, entry: &Entry) -> MarksView {
        entry.held().map_or(MarksView::NOTHING, |held| self.marks.view_of(held, entry.stamp.sequence))
    }

    /// Holds these tags.
    pub fn hold(&self, tags: &[Tag]) -> Hold {
        Hold::Tags(Arc::new(self.marks.hold(tags)))
    }

    /// The marks of the tags that are held, and of the root tag.
    pub fn view_held(&self, hold: &Hold) -> MarksView {
        match hold {
            Hold::Nothing => self.marks.view(&HeldTags::default()),
            Hold::Entry(entry) => entry.held().map_or(MarksView::NOTHING, |held| self.marks.view(held)),
            Hold::Tags(held) => self.marks.view(held),
        }
    }

    /// The marks of these tags.
    pub fn view(&self, tags: &[Tag]) -> MarksView {
        self.view_held(&self.hold(tags))
    }

    /// How often the entry under this key, and what it replaced, was served from here; 0 if there is none.
    pub fn hits(&self, key: KeyHash) -> u32 {
        self.entries.peek(&key).map_or(0, |entry| entry.hits())
    }

    /// How full L1 is.
    pub fn usage(&self) -> Usage {
        Usage {
            entries: self.entries.len() as u64,
            bytes: self.entries.weight(),
            capacity: self.entries.capacity(),
            evictions: self.evictions.load(Relaxed),
        }
    }

    /// Calls `each` for every response in L1, invalidated ones too.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<Entry>)) {
        self.any(|entry| {
            each(entry);
            false
        });
    }

    /// Whether it is true of any response in L1 and its key. Ends with the first of which it is.
    pub fn any_key(&self, mut is_so: impl FnMut(KeyHash, &Arc<Entry>) -> bool) -> bool {
        let mut responses = self.entries.iter().filter(|(_, entry)| entry.response().is_some());
        responses.any(|(key, entry)| is_so(key, &entry))
    }

    /// The entry under this hash. Does not count as a use.
    pub fn entry_at(&self, key: KeyHash) -> Option<Arc<Entry>> {
        self.entries.peek(&key)
    }

    /// Whether it is true of any of them.
    pub fn any(&self, mut is_so: impl FnMut(&Arc<Entry>) -> bool) -> bool {
        self.any_key(|_, entry| is_so(entry))
    }
}

fn is_newer(there: &Entry, entry: &Entry, now: SystemTime) -> bool {
    let is_of_epoch = there.stamp.epoch == entry.stamp.epoch;
    match there.stamp.sequence.cmp(&entry.stamp.sequence) {
        Ordering::Greater => is_of_epoch,
        Ordering::Equal => is_of_epoch && was_asked_for_later(there, entry, now),
        Ordering::Less => false,
    }
}

/// RFC 9111 §4: the most recent response is used. A slow response may come after one that was requested later. A request time in
/// the future, by a clock that went back since, is ignored: otherwise the entry could not be replaced until then.
fn was_asked_for_later(there: &Entry, entry: &Entry, now: SystemTime) -> bool {
    let request_time = |entry: &Entry| entry.response().map(|response| response.freshness.request_time);
    match (request_time(there), request_time(entry)) {
        (Some(there), Some(entry)) => there > entry && there <= now.into(),
        // A vary index describes all responses, old and new.
        _ => false,
    }
}

/// The number of shards. The cache silently drops an entry larger than a shard, so each has room for two of the largest.
fn shards(capacity: u64, largest: u64) -> usize {
    let fitting = capacity / largest.saturating_mul(2).max(1);
    let parallel = std::thread::available_parallelism().map_or(4, usize::from) * 4;
    // At most `parallel`, so it fits in usize.
    fitting.clamp(1, parallel as u64) as usize
}

#[cfg(test)]
mod hit_rate;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Content, VaryIndex};
    use crate::marks::{Epoch, Stamp};

    /// A vary index, the smallest of entries.
    fn entry(stamp: Stamp, tags: &[Tag]) -> Entry {
        Entry::new("GET http://h/", stamp, tags, Content::VaryIndex(VaryIndex::default()))
    }

    fn key(n: u32) -> KeyHash {
        KeyHash(n.into())
    }

    #[test]
    fn marks_take_memory_only_for_tags_of_entries_in_memory_and_of_holds() {
        let memory = Memory::new(64 << 10, 1 << 10, 64);
        let tag = |n: u32| Tag::family(&format!("a:{n}"));
        let hold = memory.hold(&[tag(0), Tag::root()]);
        assert_eq!(memory.marks.held(), 1);
        for n in 0..10_000 {
            memory.put(key(n), entry(memory.marks.stamp(), &[Tag::root(), tag(n)]));
        }
        let usage = memory.usage();
        assert!(usage.evictions > 9000, "{usage:?}");
        assert!(memory.marks.held() as u64 <= usage.entries + 1, "{} for {usage:?}", memory.marks.held());
        memory.clear();
        assert_eq!(memory.marks.held(), 1);
        drop(hold);
        assert_eq!(memory.marks.held(), 0);
    }

    #[test]
    fn an_entry_confirmed_by_the_store_is_current_despite_missed_marks() {
        let (memory, tags) = (Memory::new(1 << 20, 1 << 10, 64), [Tag::root(), Tag::family("a")]);
        let at = |sequence| Stamp { epoch: Epoch(1), sequence };
        let is_current = |n| {
            let entry = memory.entries.get(&key(n)).unwrap();
            memory.view_of(&entry).is_current(entry.stamp)
        };
        memory.marks.begin(at(1000));
        memory.put(key(0), entry(at(500), &tags));
        assert!(!is_current(0), "it is older than anything this proxy knows of");
        memory.put_confirmed(key(1), entry(at(500), &tags), &MarksView::hard(at(1000), 400));
        assert!(is_current(1));
        memory.marks.raise_floor(2000);
        assert!(!is_current(1));
        memory.put_confirmed(key(2), entry(at(500), &tags), &MarksView::hard(at(1999), 400));
        assert!(!is_current(2), "marks that came later were missed");
        memory.put_confirmed(key(3), entry(at(500), &tags), &MarksView::hard(at(2001), 400));
        assert!(is_current(3));
        memory.marks.apply([(&tags[1], 2002)]);
        assert!(!is_current(3));
    }

    #[test]
    fn a_shard_has_room_for_the_largest_entry() {
        assert_eq!(shards(256 << 20, 200 << 20), 1);
        assert!(shards(256 << 20, 8 << 20) <= 16);
        assert_eq!(shards(1, u64::MAX), 1);
        for largest in [1 << 10, 10 << 10, 1 << 20, 8 << 20, 30 << 20] {
            let memory = Memory::new(64 << 20, largest, 64);
            assert!(memory.largest_body() >= largest, "{largest}");
        }
    }
}
