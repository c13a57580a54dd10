//! A walk over what is stored, for operators: over Redis if there is one, in steps of bounded work, and then over this process's memory, in
//! a thread where it delays no request. Nothing is changed. An entry that is stored or removed meanwhile may be missed or found twice.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Cache, SHARED_MAX};
use crate::entry::{Entry, Preface};
use crate::key::{KeyHash, StoreKey};
use crate::marks::{Stamp, Tag};
use crate::store::sweep::{Specimen, WalkPosition};

/// Where a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Start,
    Store(WalkPosition),
    /// After this key of memory, in the order of hashes.
    Memory(u128),
}

/// `s0-17` or `m` and 32 hex digits: a cursor, which operators pass on as it is.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Start => Ok(()),
            Position::Store(WalkPosition { node, cursor }) => write!(f, "s{node}-{cursor}"),
            Position::Memory(after) => write!(f, "m{after:032x}"),
        }
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Position, ()> {
        if let Some((node, cursor)) = text.strip_prefix('s').and_then(|rest| rest.split_once('-')) {
            let (node, cursor) = (node.parse().map_err(drop)?, cursor.parse().map_err(drop)?);
            return Ok(Position::Store(WalkPosition { node, cursor }));
        }
        let after = text.strip_prefix('m').filter(|hex| hex.len() == 32).ok_or(())?;
        u128::from_str_radix(after, 16).map(Position::Memory).map_err(drop)
    }
}

/// Names a stored entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryName {
    /// In Redis: `user_details:42:` and the hash of the key.
    Store(String),
    /// In the memory of this process.
    Memory(KeyHash),
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryName::Store(name) => f.write_str(name),
            EntryName::Memory(hash) => write!(f, "{:032x}", { hash.0 }),
        }
    }
}

impl FromStr for EntryName {
    type Err = ();

    fn from_str(text: &str) -> Result<EntryName, ()> {
        let is_hash = |hex: &str| hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text.rsplit_once(':') {
            Some((label, hash)) if !label.is_empty() && is_hash(hash) => Ok(EntryName::Store(text.to_owned())),
            None if is_hash(text) => {
                u128::from_str_radix(text, 16).map(|hash| EntryName::Memory(KeyHash(hash))).map_err(drop)
            }
            _ => Err(()),
        }
    }
}

/// What a walk says of an entry without reading all of it.
#[derive(Debug, Clone)]
pub struct Brief {
    pub name: EntryName,
    /// The key that it has, or would have, in memory.
    pub hash: KeyHash,
    /// `http://host/path?query`
    pub url: String,
    pub stamp: Stamp,
    pub tags: Vec<Tag>,
    /// Of its encoding in Redis, or what it takes in memory.
    pub bytes: u64,
}

/// Which entries of memory a walk looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryPart {
    /// All: Redis may have evicted what memory still has.
    All,
    /// Those that are not stored in Redis: all without Redis, and the large ones with it.
    NotInRedis,
}

impl MemoryPart {
    /// Walks that are under way at a time: one of each part, so that those of viewers do not delay purges.
    fn turns(self) -> &'static Semaphore {
        static ALL: Semaphore = Semaphore::const_new(1);
        static NOT_IN_REDIS: Semaphore = Semaphore::const_new(1);
        match self {
            MemoryPart::All => &ALL,
            MemoryPart::NotInRedis => &NOT_IN_REDIS,
        }
    }
}

/// A step of a walk over Redis.
#[derive(Debug)]
pub struct StoreStep {
    pub found: Vec<Brief>,
    pub next: Position,
    /// False: a server of the cluster is not connected, and its entries are left out.
    pub is_whole: bool,
}

/// What a walk over memory has found.
#[derive(Debug, Default)]
pub struct MemoryWalk {
    /// Sorted.
    pub keys: Vec<KeyHash>,
    /// False: it ended before it had looked at all entries.
    pub is_complete: bool,
}

impl Cache {
    /// One step over Redis: looks at about so many keys. The next position is in memory after the last step, and without Redis. `None`
    /// while Redis cannot be asked.
    pub async fn catalog_store(&self, from: Position, keys: u64) -> Option<StoreStep> {
        let nothing = |next| Some(StoreStep { found: Vec::new(), next, is_whole: true });
        let from = match from {
            Position::Start => WalkPosition::default(),
            Position::Store(from) => from,
            Position::Memory(_) => return nothing(from),
        };
        let Some(shared) = &self.shared else { return nothing(Position::Memory(0)) };
        let survey = self.ask(shared.store.survey(from, keys).await, "survey")?;
        let next = survey.next.map_or(Position::Memory(0), Position::Store);
        let found = survey.specimens.iter().filter_map(brief).collect();
        Some(StoreStep { found, next, is_whole: survey.is_whole })
    }

    /// The keys of the responses in memory whose tags are taken. `end`: when it ends at the latest.
    pub async fn walk_memory(
        &self,
        part: MemoryPart,
        end: Option<Instant>,
        mut takes: impl FnMut(&[Tag]) -> bool + Send + 'static,
    ) -> MemoryWalk {
        let memory = Arc::clone(&self.memory);
        let least = if part == MemoryPart::NotInRedis && self.shared.is_some() { SHARED_MAX } else { 0 };
        let turn = part.turns().acquire().await;
        let walk = tokio::task::spawn_blocking(move || {
            // Kept until the walk ends, even if nothing waits for it any more.
            let _turn = turn;
            let mut keys = Vec::new();
            let is_cut = memory.any_key(|key, entry| {
                if entry.weight() > least && takes(&entry.tags.to_vec()) {
                    keys.push(key);
                }
                end.is_some_and(|end| Instant::now() > end)
            });
            keys.sort_unstable_by_key(|key| key.0);
            MemoryWalk { keys, is_complete: !is_cut }
        });
        // It fails if it panics, or if the process ends.
        walk.await.unwrap_or_default()
    }

    /// The response in memory under this key.
    pub fn brief_in_memory(&self, key: KeyHash) -> Option<Brief> {
        let entry = self.memory.entry_at(key)?;
        Some(Brief {
            name: EntryName::Memory(key),
            hash: key,
            url: url_of(&entry.text).to_owned(),
            stamp: entry.stamp,
            tags: entry.tags.to_vec(),
            bytes: entry.weight(),
        })
    }

    /// Which of these entries no write has invalidated for good. `None` while Redis cannot be asked.
    pub async fn are_current(&self, briefs: &[Brief]) -> Option<Vec<bool>> {
        let Some(shared) = &self.shared else {
            return Some(
                briefs.iter().map(|brief| self.memory.view(&brief.tags).is_current(brief.stamp)).collect(),
            );
        };
        if briefs.is_empty() {
            return Some(Vec::new());
        }
        let sets: Vec<&[Tag]> = briefs.iter().map(|brief| &*brief.tags).collect();
        let views = self.ask(shared.store.views(&sets).await, "views")?;
        Some(briefs.iter().zip(views).map(|(brief, view)| view.is_current(brief.stamp)).collect())
    }

    /// The entry of this name. `Err`: Redis does not answer.
    pub async fn entry_named(&self, name: &EntryName) -> Result<Option<Arc<Entry>>, ()> {
        match (name, &self.shared) {
            (EntryName::Memory(hash), _) => Ok(self.memory.entry_at(*hash)),
            (EntryName::Store(_), None) => Ok(None),
            (EntryName::Store(name), Some(shared)) => {
                let name = name_in_store(name);
                let bytes: Option<Bytes> = self.ask(shared.store.get(&name).await, "get").ok_or(())?;
                Ok(self.read(shared, bytes, &name).map(Arc::new))
            }
        }
    }

    /// Removes the entry of this name from where it is, without invalidating anything.
    pub async fn remove_named(&self, name: &EntryName, entry: &Entry) {
        if let (EntryName::Store(name), Some(shared)) = (name, &self.shared) {
            self.ask(shared.store.remove(&name_in_store(name)).await, "remove");
        }
        self.memory.remove(KeyHash::of(&entry.text));
    }
}

/// As [`super::name`] makes it.
fn name_in_store(name: &str) -> String {
    format!("{name}:v1")
}

/// `None` for what is no entry of this version, and for the vary index of a primary key, which is no response.
fn brief(specimen: &Specimen) -> Option<Brief> {
    let Preface::Whole { stamp, tags, length } = Preface::of(&specimen.beginning) else { return None };
    if Preface::is_vary_index(&specimen.beginning, length) {
        return None;
    }
    let text = Preface::key_text(&specimen.beginning)?;
    let name = EntryName::Store(format!("{}:{}", specimen.label, StoreKey::of(&text)));
    let (hash, url) = (KeyHash::of(&text), url_of(&text).to_owned());
    Some(Brief { name, hash, url, stamp, tags, bytes: specimen.bytes })
}

/// The URL in the text of a cache key.
pub fn url_of(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(' ').map_or(line, |(_, url)| url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_names_survive_their_text() {
        let positions = [Position::Store(WalkPosition { node: 2, cursor: 17 }), Position::Memory(u128::MAX - 1)];
        for position in positions {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        let hash = "0123456789abcdef0123456789abcdef";
        for name in [hash.to_owned(), format!("user_details:42:{hash}"), format!("-:{hash}")] {
            assert_eq!(name.parse::<EntryName>().unwrap().to_string(), name);
        }
        for text in ["", "s1", "m12", "x", "s-1-1"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
        for text in ["", "abc", "a:b", &format!(":{hash}"), &format!("{hash}0")] {
            assert!(text.parse::<EntryName>().is_err(), "{text}");
        }
    }
}
