//! Looks at the entries of a request without side effects, for `explain`: no entry moves between the tiers, and no invalidated
//! entry is removed. Requests use [`super::Cache::lookup`].

use std::sync::Arc;
use std::time::Duration;

use super::{Cache, name};
use crate::entry::{DecodeFault, Entry};
use crate::key::CacheKey;
use crate::marks::{self, Tag};

/// The entries of both tiers under one key.
#[derive(Debug)]
pub struct Inspection {
    pub memory: Option<Arc<Entry>>,
    pub store: StoreInspection,
}

/// The entry in Redis.
#[derive(Debug)]
pub enum StoreInspection {
    /// There is no Redis.
    Embedded,
    /// Redis is away, or may not be trusted.
    Away,
    Nothing,
    /// Bytes of another version of Larder, or of another request with the same key.
    Unreadable(Option<DecodeFault>),
    Entry(Arc<Entry>),
}

/// Whether an entry is current, and if not, by what it is invalidated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValidityReport {
    Current,
    /// These of its tags have a younger soft mark, and none of them another one. It may be served for as long as this.
    SoftInvalidated(Vec<Tag>, Duration),
    /// These of its tags have a younger mark.
    Invalidated(Vec<Tag>),
    /// All entries of its age are invalidated: the cache was purged, or marks were dropped for space.
    Everything,
    /// It is of another epoch: Redis has lost its marks since.
    OtherEpoch,
    /// Redis is away.
    Unknown,
}

impl Cache {
    /// The entries under this key. `label`: the readable part of its name in Redis.
    pub async fn inspect(&self, cache_key: &CacheKey, label: &str) -> Inspection {
        let memory = self.memory.get(cache_key);
        Inspection { memory, store: self.inspect_store(cache_key, label).await }
    }

    async fn inspect_store(&self, cache_key: &CacheKey, label: &str) -> StoreInspection {
        let Some(shared) = &self.shared else { return StoreInspection::Embedded };
        if !shared.fleet.may_ask() {
            return StoreInspection::Away;
        }
        let name = name(label, cache_key.key());
        match self.ask(shared.store.get(&name).await, "get") {
            None => StoreInspection::Away,
            Some(None) => StoreInspection::Nothing,
            Some(Some(bytes)) => match Entry::decode(bytes, &shared.seal, &name) {
                Ok(entry) if *entry.text == *cache_key.text => StoreInspection::Entry(Arc::new(entry)),
                Ok(_) => StoreInspection::Unreadable(None),
                Err(fault) => StoreInspection::Unreadable(Some(fault)),
            },
        }
    }

    /// Whether an entry is current. If it is not, costs a round trip for each of its tags.
    pub async fn validity(&self, entry: &Entry) -> ValidityReport {
        let tags = entry.tags.to_vec();
        let Some(view) = self.view(&tags).await else { return ValidityReport::Unknown };
        let validity = view.validity(entry.stamp);
        if validity == marks::Validity::Current {
            return ValidityReport::Current;
        }
        if view.stamp.epoch != entry.stamp.epoch {
            return ValidityReport::OtherEpoch;
        }
        let mut marked = Vec::new();
        // The root tag first: every other view contains its mark.
        let others = tags.into_iter().filter(|tag| *tag != Tag::root());
        for tag in [Tag::root()].into_iter().chain(others) {
            let Some(view) = self.view(std::slice::from_ref(&tag)).await else { return ValidityReport::Unknown };
            match (view.validity(entry.stamp), validity) {
                (marks::Validity::Invalidated, _) if tag == Tag::root() => return ValidityReport::Everything,
                (marks::Validity::Invalidated, _) => marked.push(tag),
                (marks::Validity::SoftInvalidated { .. }, marks::Validity::SoftInvalidated { .. }) => {
                    marked.push(tag);
                }
                _ => {}
            }
        }
        match validity {
            marks::Validity::SoftInvalidated { left } => ValidityReport::SoftInvalidated(marked, left),
            _ => ValidityReport::Invalidated(marked),
        }
    }
}

impl ValidityReport {
    /// How long a soft-invalidated entry may still be served.
    pub fn grace_left(&self) -> Option<Duration> {
        match self {
            ValidityReport::SoftInvalidated(_, left) => Some(*left),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;
    use crate::cache::memory::Memory;
    use crate::entry::{Content, VaryIndex};
    use crate::key::{KeyHash, Redaction};
    use crate::metrics::Metrics;
    use crate::upkeep::invalidation_log::OriginKind;

    fn stored(cache: &Cache) -> CacheKey {
        let cache_key =
            CacheKey { text: "GET http://h/a".to_owned(), hash: KeyHash(7), redaction: Redaction::default() };
        let content = Content::VaryIndex(VaryIndex { on: vec![ACCEPT], known: Vec::new() });
        let (stamp, tags) = (cache.memory.marks.stamp(), [Tag::root(), Tag::uri("/a"), Tag::family("users")]);
        cache.memory.put(cache_key.hash, Entry::new(cache_key.text.as_str(), stamp, tags, content));
        cache_key
    }

    #[tokio::test]
    async fn inspection_names_the_invalidating_tags_and_removes_no_entry() {
        let cache = Cache::new(Memory::new(1 << 20, 1 << 10, 1 << 12), None, Arc::new(Metrics::new()));
        let cache_key = stored(&cache);
        let rows = [
            (Tag::family("other"), ValidityReport::Current),
            (Tag::uri("/a"), ValidityReport::Invalidated(vec![Tag::uri("/a")])),
            (Tag::family("users"), ValidityReport::Invalidated(vec![Tag::uri("/a"), Tag::family("users")])),
            (Tag::root(), ValidityReport::Everything),
        ];
        for (written, expected) in rows {
            cache.invalidate(std::slice::from_ref(&written), OriginKind::Purge).await;
            let inspection = cache.inspect(&cache_key, "-").await;
            let entry = inspection.memory.unwrap_or_else(|| panic!("{written}: it was removed"));
            assert_eq!(cache.validity(&entry).await, expected, "{written}");
            assert!(matches!(inspection.store, StoreInspection::Embedded));
        }
    }
}
