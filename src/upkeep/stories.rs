//! What happened to the entries of a URL: when they were stored, how often they were served, and whether a refetch brought another body.
//! For operators (`GET /cache/story`), and for what rules cost: a refetch after an invalidation that brought the same body was not
//! needed. Noted when a response is stored, never by a hit. Bounded: the least used URLs are forgotten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use quick_cache::sync::Cache;

use crate::entry::StoredTags;
use crate::key::KeyHash;
use crate::marks::Stamp;
use crate::mutex::lock;

/// Primary keys whose stories are known.
const STORIES: usize = 4096;
/// Events of one story; beyond that the oldest are dropped.
const EVENTS: usize = 12;
/// Variants of one story whose last body is known.
const VARIANTS: usize = 16;

/// The stories of this process, by primary key.
pub struct Stories(Cache<KeyHash, Arc<Mutex<Story>>>);

/// The story of one primary key.
#[derive(Debug, Clone, Default)]
pub struct Story {
    events: VecDeque<StoreEvent>,
    /// The last body of each variant, the oldest first.
    last: VecDeque<LastBody>,
}

/// A response was stored.
#[derive(Debug, Clone)]
pub struct StoreEvent {
    pub time: SystemTime,
    pub status: u16,
    /// Of its body.
    pub bytes: usize,
    /// Read before its fetch.
    pub stamp: Stamp,
    /// The request fields that select it, if responses vary.
    pub variant: Option<Box<str>>,
    /// What it is compared with what was stored before.
    pub compared: Compared,
    /// How often this proxy served from memory what it replaces, and all before it.
    pub hits_before: u32,
    /// What invalidates it.
    pub tags: StoredTags,
}

/// A stored response compared with the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Nothing is known of one before it.
    First,
    /// That one had not been invalidated: it was stale, or evicted.
    Again { is_identical: bool },
    /// That one had been invalidated.
    AfterInvalidation { is_identical: bool },
}

#[derive(Debug, Clone)]
struct LastBody {
    variant: Option<Box<str>>,
    digest: u128,
    stamp: Stamp,
}

/// A response that is being stored.
pub struct NewEntry<'e> {
    pub time: SystemTime,
    pub status: u16,
    pub body: &'e [u8],
    pub stamp: Stamp,
    pub variant: &'e str,
    pub hits_before: u32,
    pub tags: &'e StoredTags,
}

impl Default for Stories {
    fn default() -> Stories {
        Stories(Cache::new(STORIES))
    }
}

impl Stories {
    /// A response is stored under this primary key. `is_invalidated`: whether what has this stamp has been invalidated since.
    pub fn stored(
        &self,
        key: KeyHash,
        new: &NewEntry<'_>,
        is_invalidated: impl FnOnce(Stamp) -> bool,
    ) -> Compared {
        let story = match self.0.get(&key) {
            Some(story) => story,
            None => {
                let story = Arc::<Mutex<Story>>::default();
                self.0.insert(key, Arc::clone(&story));
                story
            }
        };
        let digest = xxhash_rust::xxh3::xxh3_128(new.body);
        let variant = (!new.variant.is_empty()).then(|| Box::<str>::from(new.variant));
        let mut story = lock(&story);
        let at = story.last.iter().position(|last| last.variant == variant);
        let before = at.and_then(|at| story.last.remove(at));
        let compared = before.map_or(Compared::First, |before| {
            let is_identical = before.digest == digest;
            match is_invalidated(before.stamp) {
                true => Compared::AfterInvalidation { is_identical },
                false => Compared::Again { is_identical },
            }
        });
        if story.last.len() >= VARIANTS {
            story.last.pop_front();
        }
        story.last.push_back(LastBody { variant: variant.clone(), digest, stamp: new.stamp });
        if story.events.len() >= EVENTS {
            story.events.pop_front();
        }
        story.events.push_back(StoreEvent {
            time: new.time,
            status: new.status,
            bytes: new.body.len(),
            stamp: new.stamp,
            variant,
            compared,
            hits_before: new.hits_before,
            tags: new.tags.clone(),
        });
        compared
    }

    /// What was stored under this primary key, the oldest first; empty if nothing is known.
    pub fn of(&self, key: KeyHash) -> Vec<StoreEvent> {
        let story = self.0.get(&key);
        let events = |story: &Arc<Mutex<Story>>| {
            let story = lock(story);
            story.events.iter().cloned().collect()
        };
        story.as_ref().map(events).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::{Epoch, Tag};

    fn store(stories: &Stories, key: u64, variant: &str, body: &str, is_invalidated: bool) -> Compared {
        let new = NewEntry {
            time: SystemTime::UNIX_EPOCH,
            status: 200,
            body: body.as_bytes(),
            stamp: Stamp { epoch: Epoch(1), sequence: 1 },
            variant,
            hits_before: 0,
            tags: &StoredTags::of([Tag::root()]),
        };
        stories.stored(KeyHash(key.into()), &new, |_| is_invalidated)
    }

    #[test]
    fn a_body_is_compared_with_the_last_one_of_its_variant() {
        let stories = Stories::default();
        let rows = [
            ("", "a", false, Compared::First),
            ("", "a", true, Compared::AfterInvalidation { is_identical: true }),
            ("", "b", true, Compared::AfterInvalidation { is_identical: false }),
            ("", "b", false, Compared::Again { is_identical: true }),
            ("de", "x", true, Compared::First),
            ("", "b", true, Compared::AfterInvalidation { is_identical: true }),
            ("de", "y", false, Compared::Again { is_identical: false }),
        ];
        for (variant, body, is_invalidated, expected) in rows {
            assert_eq!(store(&stories, 1, variant, body, is_invalidated), expected, "{variant} {body}");
        }
        assert_eq!(stories.of(KeyHash(1)).len(), rows.len());
        assert!(stories.of(KeyHash(2)).is_empty());
    }

    #[test]
    fn stories_their_events_and_their_variants_are_bounded() {
        let stories = Stories::default();
        for number in 0..100 {
            store(&stories, 1, &number.to_string(), "a", false);
        }
        assert_eq!(stories.of(KeyHash(1)).len(), EVENTS);
        assert_eq!(store(&stories, 1, "1", "a", false), Compared::First, "it is forgotten");
        (0..3 * STORIES as u64).for_each(|key| {
            store(&stories, key, "", "a", false);
        });
        assert!(stories.0.len() <= STORIES);
    }
}
