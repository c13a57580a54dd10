//! A walk over what is stored, in steps of bounded work, for operators: in Redis if there is one, and then over what only this process's
//! memory can hold. Nothing is changed. An entry that is stored or removed meanwhile may be missed or found twice.

use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

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
            EntryName::Memory(hash) => write!(f, "{:032x}", hash.0),
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
    /// `http://host/path?query`
    pub url: String,
    pub stamp: Stamp,
    pub tags: Vec<Tag>,
    /// Of its encoding in Redis, or what it takes in memory.
    pub bytes: u64,
}

impl Cache {
    /// One step: looks at about so many keys. `None` while Redis cannot be asked.
    pub async fn catalog(&self, from: Position, keys: u64) -> Option<(Vec<Brief>, Option<Position>)> {
        match (&self.shared, from) {
            (Some(shared), Position::Start | Position::Store(_)) => {
                let from = if let Position::Store(from) = from { from } else { WalkPosition::default() };
                let survey = self.ask(shared.store.survey(from, keys).await, "survey")?;
                let next = survey.next.map_or(Position::Memory(0), Position::Store);
                Some((survey.specimens.iter().filter_map(brief).collect(), Some(next)))
            }
            (shared, from) => {
                let after = if let Position::Memory(after) = from { after } else { 0 };
                let least = if shared.is_some() { SHARED_MAX } else { 0 };
                Some(self.catalog_memory(after, keys, least))
            }
        }
    }

    /// Entries of memory with more bytes than `least`: the others are in Redis too. It looks at all keys, and keeps `most`.
    fn catalog_memory(&self, after: u128, most: u64, least: u64) -> (Vec<Brief>, Option<Position>) {
        let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
        let mut hashes = BinaryHeap::new();
        self.memory.for_each_key(|hash, resident| {
            let is_new =
                hash.0 > after && hashes.peek().is_none_or(|largest| hashes.len() < most || hash.0 < *largest);
            if is_new && resident.entry.weight() > least {
                hashes.push(hash.0);
                if hashes.len() > most {
                    hashes.pop();
                }
            }
        });
        let hashes = hashes.into_sorted_vec();
        let next = hashes.last().filter(|_| hashes.len() == most).copied().map(Position::Memory);
        let entry = |hash: u128| self.memory.entry_at(KeyHash(hash));
        let brief = |hash: u128, entry: Arc<Entry>| Brief {
            name: EntryName::Memory(KeyHash(hash)),
            url: url_of(&entry.text).to_owned(),
            stamp: entry.stamp,
            tags: entry.tags.to_vec(),
            bytes: entry.weight(),
        };
        (hashes.into_iter().filter_map(|hash| Some(brief(hash, entry(hash)?))).collect(), next)
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
    Some(Brief { name, url: url_of(&text).to_owned(), stamp, tags, bytes: specimen.bytes })
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
