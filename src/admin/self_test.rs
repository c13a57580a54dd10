//! The self-test: one entry is stored, read and removed, under a name that no request has.

use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;

use super::report::TestResults;
use crate::cache::{self, memory::Memory};
use crate::entry::{Content, Entry, VaryIndex};
use crate::key::{CacheKey, KeyHash, Redaction, StoreKey};
use crate::marks::Tag;
use crate::store::{Link, Store, StoreError};
use crate::upkeep::names::SELF_TEST_LABEL as LABEL;

/// Longer than the steps take. An entry that a failed test leaves expires.
const TTL: Duration = Duration::from_secs(10);

/// The steps on the store, until one fails. The second value is the store's error.
pub async fn on_store(store: &dyn Store) -> (TestResults, Option<StoreError>) {
    let mut results = TestResults::default();
    let error = steps(store, &mut results).await.err();
    (results, error)
}

async fn steps(store: &dyn Store, results: &mut TestResults) -> Result<(), StoreError> {
    results.cache_available = store.link() == Link::Up;
    let name = cache::name(LABEL, StoreKey(rand::random()));
    let value = Bytes::from(rand::random::<[u8; 16]>().to_vec());
    store.put(&name, value.clone(), TTL).await?;
    results.set_operation = true;
    results.get_operation = store.get(&name).await?.is_some_and(|read| read == value);
    // The read that requests make.
    results.exists_operation = store.lookup(&name, &[]).await?.entry.is_some();
    results.delete_operation = store.remove(&name).await?;
    results.get_after_delete = store.get(&name).await?.is_none();
    Ok(())
}

/// The steps in memory.
pub fn in_memory(memory: &Memory) -> TestResults {
    let text = format!("{LABEL} {}", StoreKey(rand::random()));
    let hash = KeyHash::of(&text);
    let cache_key = CacheKey { text, hash, redaction: Redaction::default() };
    // The smallest kind of entry, which is not counted as a response.
    let content = Content::VaryIndex(VaryIndex { on: vec![ACCEPT], known: Vec::new() });
    let entry = Entry::new(cache_key.text.as_str(), memory.marks.stamp(), [Tag::root()], content);
    let entry = memory.put(hash, entry);
    let kept = memory.get(&cache_key);
    let exists = memory.get(&cache_key).is_some();
    if let Some(kept) = &kept {
        memory.drop_invalidated(hash, kept);
    }
    let gone = memory.get(&cache_key).is_none();
    TestResults {
        cache_available: true,
        set_operation: kept.is_some(),
        get_operation: kept.as_ref().is_some_and(|kept| **kept == *entry),
        exists_operation: exists,
        delete_operation: kept.is_some() && gone,
        get_after_delete: gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_passes_and_keeps_nothing_of_it() {
        let memory = Memory::new(1 << 20, 1 << 10, 64);
        assert!(in_memory(&memory).passed());
        assert_eq!(memory.usage().entries, 0);
    }

    #[test]
    fn memory_without_room_does_not_pass() {
        let memory = Memory::new(1, 1, 64);
        let results = in_memory(&memory);
        assert!(!results.passed() && !results.set_operation, "{results:?}");
    }
}
