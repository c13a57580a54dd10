//! The URLs that are missed most, and those that upstream spends the most time on, noted when upstream is asked. The entries that are
//! served most are found by a walk over memory, where each has the number of its hits.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::space_saving::{Counter, SpaceSaving};
use crate::cache::memory::{Memory, Resident};
use crate::entry::Entry;
use crate::marks::Tag;

/// Counters of each list.
const COUNTERS: usize = 256;
/// Entries of a walk over memory.
const WALKED: usize = 200_000;
/// How long the result of a walk is shown.
const WALK_KEPT: Duration = Duration::from_secs(5);
/// Longest URL that is counted, bytes. Longer ones are counted by their beginning.
const LONGEST: usize = 400;

/// Both lists.
#[derive(Debug)]
pub struct TopUrls {
    missed: Mutex<SpaceSaving<Seen>>,
    slowest: Mutex<SpaceSaving<Seen>>,
    walked: Mutex<Option<(Instant, Arc<WalkedEntries>)>>,
}

/// The entries in memory that were served most, and the largest.
#[derive(Debug, Default)]
pub struct WalkedEntries {
    pub hottest: Vec<StoredUrl>,
    pub largest: Vec<StoredUrl>,
    /// Every entry was looked at.
    pub complete: bool,
}

/// An entry in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUrl {
    /// Path and query.
    pub url: String,
    pub tags: Arc<[Tag]>,
    /// How often it was served, and what it replaced before it.
    pub hits: u32,
    /// In memory.
    pub bytes: u64,
}

/// What is known of a URL beside its count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub family: Box<str>,
    /// How often it was fetched since it is counted.
    pub times: u64,
    /// How long that took together.
    pub took: Duration,
}

impl Default for TopUrls {
    fn default() -> TopUrls {
        TopUrls {
            missed: Mutex::new(SpaceSaving::new(COUNTERS)),
            slowest: Mutex::new(SpaceSaving::new(COUNTERS)),
            walked: Mutex::default(),
        }
    }
}

impl TopUrls {
    /// A read of this URL was not answered from the cache.
    pub fn missed(&self, url: &str, family: &str) {
        lock(&self.missed).add(beginning(url), 1, |seen| seen.note(family, Duration::ZERO));
    }

    /// Upstream took so long to answer a read of this URL.
    pub fn fetched(&self, url: &str, family: &str, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        lock(&self.slowest).add(beginning(url), micros, |seen| seen.note(family, took));
    }

    /// The last walk over memory, unless that was some seconds ago.
    pub fn walked(&self) -> Option<Arc<WalkedEntries>> {
        let walked = lock(&self.walked);
        walked.as_ref().filter(|(at, _)| at.elapsed() < WALK_KEPT).map(|(_, walked)| Arc::clone(walked))
    }

    /// Keeps a walk for those who ask next.
    pub fn note_walk(&self, walked: WalkedEntries) -> Arc<WalkedEntries> {
        let walked = Arc::new(walked);
        *lock(&self.walked) = Some((Instant::now(), Arc::clone(&walked)));
        walked
    }

    /// The URLs with the most misses.
    pub fn most_missed(&self, most: usize) -> Vec<(String, Counter<Seen>)> {
        owned(lock(&self.missed).highest(most))
    }

    /// Of the URLs that upstream has spent the most time on, those that take longest each time.
    pub fn slowest(&self, most: usize) -> Vec<(String, Counter<Seen>)> {
        let mut all = owned(lock(&self.slowest).highest(COUNTERS));
        all.sort_by_key(|(_, counter)| Reverse(counter.value.mean()));
        all.truncate(most);
        all
    }
}

impl WalkedEntries {
    /// Walks over memory. Both lists have at most `most` items.
    pub fn of(memory: &Memory, most: usize) -> WalkedEntries {
        let (mut hottest, mut largest, mut seen) = (BinaryHeap::new(), BinaryHeap::new(), 0_usize);
        let was_cut = memory.any(|resident| {
            seen += 1;
            let (hits, bytes) = (resident.hits(), resident.entry.weight());
            if hits > 0 {
                keep_highest(&mut hottest, u64::from(hits), most, seen, resident);
            }
            keep_highest(&mut largest, bytes, most, seen, resident);
            seen >= WALKED
        });
        WalkedEntries { hottest: urls(hottest), largest: urls(largest), complete: !was_cut }
    }
}

/// The lowest first. The number tells equal ones apart.
type Highest = BinaryHeap<Reverse<(u64, usize, Found)>>;

/// Found entries are not ordered among themselves.
struct Found(Arc<Entry>, u32);

impl PartialEq for Found {
    fn eq(&self, _: &Found) -> bool {
        true
    }
}

impl Eq for Found {}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Found) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found {
    fn cmp(&self, _: &Found) -> Ordering {
        Ordering::Equal
    }
}

fn keep_highest(highest: &mut Highest, value: u64, most: usize, number: usize, resident: &Resident) {
    if highest.len() >= most && highest.peek().is_some_and(|Reverse((lowest, ..))| *lowest >= value) {
        return;
    }
    highest.push(Reverse((value, number, Found(Arc::clone(&resident.entry), resident.hits()))));
    if highest.len() > most {
        highest.pop();
    }
}

/// The highest first.
fn urls(highest: Highest) -> Vec<StoredUrl> {
    let sorted = highest.into_sorted_vec().into_iter();
    sorted
        .map(|Reverse((_, _, Found(entry, hits)))| StoredUrl {
            url: url_of(&entry.text),
            tags: Arc::clone(&entry.tags),
            hits,
            bytes: entry.weight(),
        })
        .collect()
}

/// Path and query of a canonical request text: `GET http://host/path?query`, and further lines.
fn url_of(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let url = first.split_once("://").map_or(first, |(_, rest)| rest);
    let path = url.find('/').map_or(url, |start| &url[start..]);
    beginning(path).to_owned()
}

impl Seen {
    fn note(&mut self, family: &str, took: Duration) {
        if *self.family != *family {
            self.family = family.into();
        }
        self.times += 1;
        self.took = self.took.saturating_add(took);
    }

    /// Mean time of a fetch.
    pub fn mean(&self) -> Duration {
        self.took.div_f64(self.times.max(1) as f64)
    }
}

fn owned(counters: Vec<(&str, &Counter<Seen>)>) -> Vec<(String, Counter<Seen>)> {
    counters.into_iter().map(|(url, counter)| (url.to_owned(), counter.clone())).collect()
}

fn beginning(url: &str) -> &str {
    let end = (0..=url.len().min(LONGEST)).rev().find(|end| url.is_char_boundary(*end));
    &url[..end.unwrap_or(0)]
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only counts: a panic leaves nothing that matters.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_ordered_by_misses_and_by_the_time_of_a_fetch() {
        let top = TopUrls::default();
        let ms = Duration::from_millis;
        for (url, times, took) in [("/a", 3, 10), ("/b", 1, 500), ("/c", 9, 2)] {
            for _ in 0..times {
                top.missed(url, "f");
                top.fetched(url, "f", ms(took));
            }
        }
        let urls = |found: &[(String, Counter<Seen>)]| found.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
        assert_eq!(urls(&top.most_missed(2)), ["/c", "/a"]);
        let slowest = top.slowest(2);
        assert_eq!(urls(&slowest), ["/b", "/a"]);
        assert_eq!((slowest[1].1.value.mean(), slowest[1].1.value.times), (ms(10), 3));
    }

    #[test]
    fn a_long_url_is_counted_by_its_beginning() {
        let top = TopUrls::default();
        top.missed(&"/ü".repeat(1000), "f");
        assert!(top.most_missed(1)[0].0.len() <= LONGEST);
    }
}
