//! What is read most, of the families that a rule with `refresh = true` can invalidate, with what is needed to ask upstream
//! for it again when nobody asks: the target, and the request fields that tell its answers apart. Bounded in bytes; what
//! is read seldom gives way. Reads of other families come nowhere near it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::http::target::Target;
use crate::key::KeyHash;
use crate::marks::Tag;

/// Bytes of all reads together.
const CAPACITY: u64 = 8 << 20;

/// Bytes of the largest read that is remembered.
const LARGEST: u64 = 8 << 10;

/// Tags that wait for a refresh; beyond that everything is refreshed.
const WANTED: usize = 10_000;

/// A GET that the cache has answered, without anything that tells who asked but the address that upstream is told.
#[derive(Debug)]
pub struct Read {
    /// The hash of its key.
    pub key: KeyHash,
    pub target: Target,
    /// Those that are part of the key, or that its responses vary on.
    pub headers: HeaderMap,
    pub client: IpAddr,
    /// What invalidates it, as far as the request tells.
    pub tags: Vec<Tag>,
}

#[derive(Debug)]
struct Counted {
    read: Arc<Read>,
    hits: AtomicU32,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<KeyHash, Arc<Counted>> for ByWeight {
    fn weight(&self, _: &KeyHash, counted: &Arc<Counted>) -> u64 {
        counted.read.weight()
    }
}

/// The reads, and the tags whose reads are to be refreshed.
pub struct Hot {
    reads: Cache<KeyHash, Arc<Counted>, ByWeight>,
    wanted: Mutex<Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    tags: HashSet<Tag>,
    /// Somebody is refreshing, and takes what is added.
    is_taken: bool,
}

impl Default for Hot {
    fn default() -> Hot {
        let reads = Cache::with_weighter((CAPACITY / 512) as usize, CAPACITY, ByWeight);
        Hot { reads, wanted: Mutex::default() }
    }
}

impl Hot {
    /// Counts a hit. `read` is asked for when it is the first; `None` for one that must not be repeated.
    pub fn count(&self, key: KeyHash, read: impl FnOnce() -> Option<Read>) {
        if let Some(known) = self.reads.get(&key) {
            known.hits.fetch_add(1, Relaxed);
        } else if let Some(read) = read().filter(|read| read.weight() <= LARGEST) {
            self.reads.insert(key, Arc::new(Counted { read: Arc::new(read), hits: AtomicU32::new(1) }));
        }
    }

    /// Wants all that carries these tags to be refreshed. True if somebody has to begin: nobody is at it.
    pub fn want(&self, tags: &[Tag]) -> bool {
        let mut wanted = self.lock();
        wanted.tags.extend(tags.iter().cloned());
        if wanted.tags.len() > WANTED {
            wanted.tags = HashSet::from([Tag::root()]);
        }
        !std::mem::replace(&mut wanted.is_taken, true)
    }

    /// Takes what is wanted. `None`: nothing, and whoever asked has come to its end.
    pub fn take_wanted(&self) -> Option<HashSet<Tag>> {
        let mut wanted = self.lock();
        wanted.is_taken = !wanted.tags.is_empty();
        wanted.is_taken.then(|| std::mem::take(&mut wanted.tags))
    }

    /// The hottest reads that carry one of the tags, hottest first, at most so many. All that carry one lose half of their
    /// hits: what was read once and is read no more cools down. Walks over all reads.
    pub fn hottest(&self, tags: &HashSet<Tag>, most: usize) -> Vec<Arc<Read>> {
        let mut found = Vec::new();
        for (_, counted) in self.reads.iter() {
            if counted.read.tags.iter().any(|tag| tags.contains(tag)) {
                let hits = counted.hits.load(Relaxed);
                // A hit that comes in between may be lost: it is no more than a measure.
                counted.hits.store(hits / 2, Relaxed);
                if hits > 0 {
                    found.push((hits, Arc::clone(&counted.read)));
                }
            }
        }
        found.sort_by_key(|(hits, _)| std::cmp::Reverse(*hits));
        found.truncate(most);
        found.into_iter().map(|(_, read)| read).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Wanted> {
        // A panic while it was held leaves it usable: at worst nobody refreshes any more.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read {
    /// Bytes, roughly.
    fn weight(&self) -> u64 {
        let Target { host, path, sent, query, .. } = &self.target;
        let sent = sent.as_ref().map_or(0, |sent| sent.len());
        let target = host.len() + path.len() + sent + query.as_ref().map_or(0, String::len);
        let fields: usize = self.headers.iter().map(|(name, value)| 64 + name.as_str().len() + value.len()).sum();
        let tags: usize = self.tags.iter().map(|tag| 48 + tag.as_str().len()).sum();
        (256 + target + fields + tags) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: u8, tag: &str) -> Read {
        Read {
            key: KeyHash(name.into()),
            target: Target { host: "h".into(), path: format!("/{name}"), ..Target::default() },
            headers: HeaderMap::new(),
            client: IpAddr::from([127, 0, 0, 1]),
            tags: vec![Tag::root(), Tag::family(tag)],
        }
    }

    fn hit(hot: &Hot, name: u8, tag: &str, times: usize) {
        (0..times).for_each(|_| hot.count(KeyHash(name.into()), || Some(read(name, tag))));
    }

    fn names(hot: &Hot, tag: &Tag, most: usize) -> Vec<u8> {
        let tags = HashSet::from([tag.clone()]);
        hot.hottest(&tags, most).iter().map(|read| read.key.0 as u8).collect()
    }

    #[test]
    fn the_hottest_come_first_and_cool_down() {
        let (hot, tag) = (Hot::default(), Tag::family("a"));
        for (name, times) in [(1, 4), (2, 9), (3, 1), (4, 6)] {
            hit(&hot, name, "a", times);
        }
        hit(&hot, 5, "b", 100);
        assert_eq!(names(&hot, &tag, 3), [2, 4, 1]);
        assert_eq!(names(&hot, &tag, 9), [2, 4, 1], "3 was read once");
        hit(&hot, 3, "a", 5);
        assert_eq!(names(&hot, &tag, 1), [3]);
        assert_eq!(names(&hot, &Tag::root(), 1), [5], "everything");
    }

    #[test]
    fn what_must_not_be_repeated_or_is_too_large_is_not_remembered() {
        let hot = Hot::default();
        hot.count(KeyHash(1), || None);
        hot.count(KeyHash(2), || {
            let read = read(2, "a");
            Some(Read { target: Target { query: Some("x".repeat(LARGEST as usize)), ..read.target }, ..read })
        });
        assert_eq!(names(&hot, &Tag::family("a"), 9), [0_u8; 0]);
    }

    #[test]
    fn memory_is_bounded() {
        let hot = Hot::default();
        for name in 0..100_000_u32 {
            let key = KeyHash(name.into());
            hot.count(key, || Some(Read { key, ..read(0, "a") }));
        }
        assert!(hot.reads.weight() <= CAPACITY && hot.reads.len() < 50_000, "{}", hot.reads.len());
    }

    #[test]
    fn one_at_a_time_refreshes_and_takes_what_comes_meanwhile() {
        let hot = Hot::default();
        let (a, b) = (Tag::family("a"), Tag::family("b"));
        assert!(hot.want(std::slice::from_ref(&a)));
        assert_eq!(hot.take_wanted(), Some(HashSet::from([a.clone()])));
        assert!(!hot.want(std::slice::from_ref(&b)), "somebody is at it");
        assert_eq!(hot.take_wanted(), Some(HashSet::from([b])));
        assert_eq!(hot.take_wanted(), None);
        assert!(hot.want(&[a]), "and has come to its end");
    }

    #[test]
    fn more_wanted_tags_than_are_kept_are_everything() {
        let hot = Hot::default();
        let tags: Vec<Tag> = (0..=WANTED).map(|name| Tag::family(&name.to_string())).collect();
        hot.want(&tags);
        assert_eq!(hot.take_wanted(), Some(HashSet::from([Tag::root()])));
    }
}
