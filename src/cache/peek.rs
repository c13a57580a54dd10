//! Looking at what is kept for a request without touching it, for people who ask why: nothing moves between the tiers,
//! nothing outdated is dropped. Requests go by [`super::Cache::lookup`].

use std::sync::Arc;
use std::time::Duration;

use super::{Cache, name};
use crate::entry::{DecodeFault, Entry};
use crate::key::Canonical;
use crate::stamp::{self, Tag};

/// What both tiers keep under one text.
#[derive(Debug)]
pub struct Peek {
    pub memory: Option<Arc<Entry>>,
    pub store: Shelf,
}

/// What the store keeps.
#[derive(Debug)]
pub enum Shelf {
    /// There is no store.
    Embedded,
    /// It cannot be asked, or has not taken all invalidations yet.
    Away,
    Nothing,
    /// Bytes of another version of Larder, or of another request with the same key.
    Unreadable(Option<DecodeFault>),
    Entry(Arc<Entry>),
}

/// Whether an entry is current, and if not, by what it is outdated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Current,
    /// These of its tags have a younger soft mark, and none of them another one. It may be served for as long as this.
    Softened(Vec<Tag>, Duration),
    /// These of its tags have a younger mark.
    Outdated(Vec<Tag>),
    /// All entries of its age are outdated: the cache was cleared, or the store has dropped marks for space.
    Everything,
    /// It is of another epoch: the store has lost its marks since.
    OtherEpoch,
    /// The store is away: nobody can tell.
    Unknown,
}

impl Cache {
    /// What is kept under exactly this text. `label`: the readable part of its name in the store.
    pub async fn peek(&self, canonical: &Canonical, label: &str) -> Peek {
        let memory = self.memory.get(canonical).map(|resident| Arc::clone(&resident.entry));
        Peek { memory, store: self.shelf(canonical, label).await }
    }

    async fn shelf(&self, canonical: &Canonical, label: &str) -> Shelf {
        let Some(shared) = &self.shared else { return Shelf::Embedded };
        if shared.trusts_nothing() {
            return Shelf::Away;
        }
        let name = name(label, canonical.key());
        match self.ask(shared.store.get(&name).await, "get") {
            None => Shelf::Away,
            Some(None) => Shelf::Nothing,
            Some(Some(bytes)) => match Entry::decode(bytes, &shared.seal, &name) {
                Ok(entry) if *entry.text == *canonical.text => Shelf::Entry(Arc::new(entry)),
                Ok(_) => Shelf::Unreadable(None),
                Err(fault) => Shelf::Unreadable(Some(fault)),
            },
        }
    }

    /// Whether an entry is current. One that is not costs a question for each of its tags.
    pub async fn standing(&self, entry: &Entry) -> Standing {
        let Some(view) = self.view(&entry.tags).await else { return Standing::Unknown };
        let standing = view.standing(entry.stamp);
        if standing == stamp::Standing::Current {
            return Standing::Current;
        }
        if view.stamp.epoch != entry.stamp.epoch {
            return Standing::OtherEpoch;
        }
        let mut marked = Vec::new();
        // The root tag goes first: in every other answer its mark is contained.
        let others = entry.tags.iter().filter(|tag| **tag != Tag::root()).cloned();
        for tag in [Tag::root()].into_iter().chain(others) {
            let Some(view) = self.view(std::slice::from_ref(&tag)).await else { return Standing::Unknown };
            match (view.standing(entry.stamp), standing) {
                (stamp::Standing::Outdated, _) if tag == Tag::root() => return Standing::Everything,
                (stamp::Standing::Outdated, _) => marked.push(tag),
                (stamp::Standing::Softened { .. }, stamp::Standing::Softened { .. }) => marked.push(tag),
                _ => {}
            }
        }
        match standing {
            stamp::Standing::Softened { left } => Standing::Softened(marked, left),
            _ => Standing::Outdated(marked),
        }
    }
}

impl Standing {
    /// For how long what is outdated softly may still be served.
    pub fn grace_left(&self) -> Option<Duration> {
        match self {
            Standing::Softened(_, left) => Some(*left),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;
    use crate::cache::memory::Memory;
    use crate::entry::{Content, Variants};
    use crate::key::{Hiding, KeyHash};
    use crate::metrics::Metrics;

    fn kept(cache: &Cache) -> Canonical {
        let canonical =
            Canonical { text: "GET http://h/a".to_owned(), hash: KeyHash(7), hiding: Hiding::default() };
        let entry = Entry {
            text: canonical.text.as_str().into(),
            stamp: cache.memory.marks.stamp(),
            tags: [Tag::root(), Tag::uri("/a"), Tag::family("users")].into(),
            content: Content::Variants(Variants { on: vec![ACCEPT], known: Vec::new() }),
        };
        cache.memory.put(canonical.hash, Arc::new(entry));
        canonical
    }

    #[tokio::test]
    async fn what_outdates_an_entry_is_named_and_the_entry_stays() {
        let cache = Cache::new(Memory::new(1 << 20, 1 << 10, 1 << 12), None, Arc::new(Metrics::new()));
        let canonical = kept(&cache);
        let rows = [
            (Tag::family("other"), Standing::Current),
            (Tag::uri("/a"), Standing::Outdated(vec![Tag::uri("/a")])),
            (Tag::family("users"), Standing::Outdated(vec![Tag::uri("/a"), Tag::family("users")])),
            (Tag::root(), Standing::Everything),
        ];
        for (written, expected) in rows {
            cache.invalidate(std::slice::from_ref(&written)).await;
            let peek = cache.peek(&canonical, "-").await;
            let entry = peek.memory.unwrap_or_else(|| panic!("{written}: looking has dropped it"));
            assert_eq!(cache.standing(&entry).await, expected, "{written}");
            assert!(matches!(peek.store, Shelf::Embedded));
        }
    }
}
