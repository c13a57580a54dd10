//! The entries in memory that are served most, and the largest: found by a walk over memory, where each has the number of its hits.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cache::memory::Memory;
use crate::entry::Entry;
use crate::marks::Tag;
use crate::mutex::lock;
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
    pub tags: Vec<Tag>,
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
        let last = lock(&self.0);
        last.as_ref().filter(|(at, _)| at.elapsed() < WALK_KEPT).map(|(_, walked)| Arc::clone(walked))
    }

    /// Remembers a walk for further requests.
    pub fn note(&self, walked: WalkedEntries) -> Arc<WalkedEntries> {
        let walked = Arc::new(walked);
        *lock(&self.0) = Some((Instant::now(), Arc::clone(&walked)));
        walked
    }
}

impl WalkedEntries {
    /// Walks over memory. Both lists have at most `most` items.
    pub fn of(memory: &Memory, most: usize) -> WalkedEntries {
        let (mut hottest, mut largest, mut seen) = (Highest::new(most), Highest::new(most), 0_usize);
        let was_cut = memory.any(|entry| {
            seen += 1;
            hottest.add(entry.hits().into(), entry);
            largest.add(entry.weight(), entry);
            seen >= WALKED
        });
        WalkedEntries { hottest: hottest.urls(), largest: largest.urls(), complete: !was_cut }
    }
}

/// Those with the highest values of all that are added.
struct Highest {
    most: usize,
    /// Up to twice as many: each with its value and its hits.
    found: Vec<(u64, Arc<Entry>, u32)>,
    /// No value up to this is among the highest.
    lowest: u64,
}

impl Highest {
    fn new(most: usize) -> Highest {
        Highest { most, found: Vec::new(), lowest: 0 }
    }

    fn add(&mut self, value: u64, entry: &Arc<Entry>) {
        if value <= self.lowest {
            return;
        }
        self.found.push((value, Arc::clone(entry), entry.hits()));
        if self.found.len() >= 2 * self.most {
            self.cut();
            self.lowest = self.found.last().map_or(0, |(value, ..)| *value);
        }
    }

    fn cut(&mut self) {
        self.found.sort_by_key(|(value, ..)| Reverse(*value));
        self.found.truncate(self.most);
    }

    /// The highest first.
    fn urls(mut self) -> Vec<StoredUrl> {
        self.cut();
        let url = |(_, entry, hits): (u64, Arc<Entry>, u32)| StoredUrl {
            url: url_of(&entry.text),
            tags: entry.tags.to_vec(),
            hits,
            bytes: entry.weight(),
        };
        self.found.into_iter().map(url).collect()
    }
}

/// Path and query of a canonical request text: `GET http://host/path?query`, and further lines.
fn url_of(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let url = first.split_once("://").map_or(first, |(_, rest)| rest);
    let path = url.find('/').map_or(url, |start| &url[start..]);
    beginning(path).to_owned()
}
