//! The entries in memory that are served most, and the largest: found by a walk over memory, where each has the number of its hits.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::memory::{Memory, Resident};
use crate::entry::Entry;
use crate::marks::Tag;
use crate::upkeep::top::beginning;

/// Entries of a walk.
const WALKED: usize = 200_000;
/// How long the result of a walk is shown.
const WALK_KEPT: Duration = Duration::from_secs(5);

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

/// The last walk.
#[derive(Debug, Default)]
pub struct LastWalk(Mutex<Option<(Instant, Arc<WalkedEntries>)>>);

impl LastWalk {
    /// The last walk over memory, unless that was some seconds ago.
    pub fn get(&self) -> Option<Arc<WalkedEntries>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() < WALK_KEPT).map(|(_, walked)| Arc::clone(walked))
    }

    /// Remembers a walk for further requests.
    pub fn note(&self, walked: WalkedEntries) -> Arc<WalkedEntries> {
        let walked = Arc::new(walked);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), Arc::clone(&walked)));
        walked
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
type Highest = BinaryHeap<Reverse<(u64, usize, WalkedEntry)>>;

/// Found entries are not ordered among themselves.
struct WalkedEntry(Arc<Entry>, u32);

impl PartialEq for WalkedEntry {
    fn eq(&self, _: &WalkedEntry) -> bool {
        true
    }
}

impl Eq for WalkedEntry {}

impl PartialOrd for WalkedEntry {
    fn partial_cmp(&self, other: &WalkedEntry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WalkedEntry {
    fn cmp(&self, _: &WalkedEntry) -> Ordering {
        Ordering::Equal
    }
}

fn keep_highest(highest: &mut Highest, value: u64, most: usize, number: usize, resident: &Resident) {
    if highest.len() >= most && highest.peek().is_some_and(|Reverse((lowest, ..))| *lowest >= value) {
        return;
    }
    highest.push(Reverse((value, number, WalkedEntry(Arc::clone(&resident.entry), resident.hits()))));
    if highest.len() > most {
        highest.pop();
    }
}

/// The highest first.
fn urls(highest: Highest) -> Vec<StoredUrl> {
    let sorted = highest.into_sorted_vec().into_iter();
    sorted
        .map(|Reverse((_, _, WalkedEntry(entry, hits)))| StoredUrl {
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
