//! The most frequent reads, of the families that a rule with `refresh = true` can invalidate or that a `[[warm]]` table names, with
//! what a prefetch needs: the target, and the request fields that its responses differ by. Bounded in bytes; infrequent reads are
//! evicted first.
//!
//! What is refreshed is known by its hits, not by a walk over L1. No more of a request is stored than its key holds, only for
//! these families, and nothing of callers who are told apart.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::http::target::Target;
use crate::key::KeyHash;
use crate::marks::Tag;
use crate::mutex::lock;

/// Bytes of all reads together.
const CAPACITY: u64 = 8 << 20;

/// Bytes of the largest read that is counted.
const LARGEST: u64 = 8 << 10;

/// Tags to be refreshed; beyond that everything is.
const WANTED: usize = 10_000;

/// A GET that the cache has answered. Nothing in it identifies the client but the address that is forwarded to upstream.
#[derive(Debug)]
pub struct HotRead {
    /// The hash of its key.
    pub key: KeyHash,
    pub target: Target,
    /// The fields that are part of the key, or that its responses vary on.
    pub headers: HeaderMap,
    pub client: IpAddr,
    /// The tags of the request; a response may name more.
    pub tags: Vec<Tag>,
}

#[derive(Debug)]
struct CountedRead {
    read: Arc<HotRead>,
    hits: AtomicU32,
    /// Hits since [`Hot::take_recent`].
    recent: AtomicU32,
}

#[derive(Clone)]
struct ByReadWeight;

impl Weighter<KeyHash, Arc<CountedRead>> for ByReadWeight {
    fn weight(&self, _: &KeyHash, counted: &Arc<CountedRead>) -> u64 {
        counted.read.weight()
    }
}

/// The reads, and the tags whose reads are to be refreshed.
pub struct Hot {
    reads: Cache<KeyHash, Arc<CountedRead>, ByReadWeight>,
    wanted: Mutex<Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    tags: HashSet<Tag>,
    /// A task is refreshing, and takes what is added.
    is_taken: bool,
}

impl Default for Hot {
    fn default() -> Hot {
        let reads = Cache::with_weighter((CAPACITY / 512) as usize, CAPACITY, ByReadWeight);
        Hot { reads, wanted: Mutex::default() }
    }
}

impl Hot {
    /// Counts a hit. `read` is called for the first one; it returns `None` if the request must not be repeated.
    pub fn count(&self, key: KeyHash, read: impl FnOnce() -> Option<HotRead>) {
        if let Some(known) = self.reads.get(&key) {
            known.hits.fetch_add(1, Relaxed);
            known.recent.fetch_add(1, Relaxed);
        } else if let Some(read) = read().filter(|read| read.weight() <= LARGEST) {
            self.reads.insert(
                key,
                Arc::new(CountedRead { read: Arc::new(read), hits: AtomicU32::new(1), recent: AtomicU32::new(1) }),
            );
        }
    }

    /// Adds tags whose reads are to be refreshed. True if the caller has to start a task for it: none is running.
    pub fn want(&self, tags: &[Tag]) -> bool {
        let mut wanted = lock(&self.wanted);
        wanted.tags.extend(tags.iter().cloned());
        if wanted.tags.len() > WANTED {
            wanted.tags = HashSet::from([Tag::root()]);
        }
        !std::mem::replace(&mut wanted.is_taken, true)
    }

    /// Takes the tags to be refreshed. `None`: there are none, and the task ends.
    pub fn take_wanted(&self) -> Option<HashSet<Tag>> {
        let mut wanted = lock(&self.wanted);
        wanted.is_taken = !wanted.tags.is_empty();
        wanted.is_taken.then(|| std::mem::take(&mut wanted.tags))
    }

    /// The `most` most frequent reads that carry one of the tags, most frequent first. All that carry one lose half of their
    /// hits, so that reads which have ceased sink. Walks over all reads.
    pub fn hottest(&self, tags: &HashSet<Tag>, most: usize) -> Vec<Arc<HotRead>> {
        let mut found = Vec::new();
        for (_, counted) in self.reads.iter() {
            if counted.read.tags.iter().any(|tag| tags.contains(tag)) {
                let hits = counted.hits.load(Relaxed);
                // A hit in between may be lost: the count is only an estimate.
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

    /// The `most` reads with the most hits since the last call, with those hits. Walks over all reads.
    pub fn take_recent(&self, most: usize) -> Vec<(Arc<HotRead>, u32)> {
        let mut found: Vec<_> = self
            .reads
            .iter()
            .filter_map(|(_, counted)| {
                let hits = counted.recent.swap(0, Relaxed);
                (hits > 0).then(|| (Arc::clone(&counted.read), hits))
            })
            .collect();
        found.sort_by_key(|(_, hits)| std::cmp::Reverse(*hits));
        found.truncate(most);
        found
    }
}

impl HotRead {
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

    fn read(name: u8, tag: &str) -> HotRead {
        HotRead {
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
    fn the_most_frequent_reads_come_first_and_lose_hits() {
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
    fn recent_hits_are_those_since_they_were_taken_last() {
        let hot = Hot::default();
        hit(&hot, 1, "a", 2);
        hit(&hot, 2, "b", 5);
        let taken =
            |most| hot.take_recent(most).iter().map(|(read, hits)| (read.key.0, *hits)).collect::<Vec<_>>();
        assert_eq!(taken(9), [(2, 5), (1, 2)]);
        hit(&hot, 1, "a", 3);
        hit(&hot, 2, "b", 1);
        assert_eq!(taken(1), [(1, 3)]);
        assert_eq!(taken(9), [], "what is not among the most is forgotten");
        assert_eq!(names(&hot, &Tag::family("a"), 9), [1], "the other count is not touched");
    }

    #[test]
    fn reads_that_must_not_be_repeated_or_are_too_large_are_not_counted() {
        let hot = Hot::default();
        hot.count(KeyHash(1), || None);
        hot.count(KeyHash(2), || {
            let read = read(2, "a");
            Some(HotRead { target: Target { query: Some("x".repeat(LARGEST as usize)), ..read.target }, ..read })
        });
        assert_eq!(names(&hot, &Tag::family("a"), 9), [0_u8; 0]);
    }

    #[test]
    fn the_reads_are_bounded_in_bytes() {
        let hot = Hot::default();
        for name in 0..100_000_u32 {
            let key = KeyHash(name.into());
            hot.count(key, || Some(HotRead { key, ..read(0, "a") }));
        }
        assert!(hot.reads.weight() <= CAPACITY && hot.reads.len() < 50_000, "{}", hot.reads.len());
    }

    #[test]
    fn one_task_at_a_time_refreshes_and_takes_tags_added_meanwhile() {
        let hot = Hot::default();
        let (a, b) = (Tag::family("a"), Tag::family("b"));
        assert!(hot.want(std::slice::from_ref(&a)));
        assert_eq!(hot.take_wanted(), Some(HashSet::from([a.clone()])));
        assert!(!hot.want(std::slice::from_ref(&b)), "a task is running");
        assert_eq!(hot.take_wanted(), Some(HashSet::from([b])));
        assert_eq!(hot.take_wanted(), None);
        assert!(hot.want(&[a]), "the task has ended");
    }

    #[test]
    fn too_many_tags_to_refresh_become_the_root_tag() {
        let hot = Hot::default();
        let tags: Vec<Tag> = (0..=WANTED).map(|name| Tag::family(&name.to_string())).collect();
        hot.want(&tags);
        assert_eq!(hot.take_wanted(), Some(HashSet::from([Tag::root()])));
    }
}
