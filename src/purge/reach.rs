//! What is stored now of tags and of path patterns: for the preview of a purge, and for the paths that a pattern fits. A walk over what
//! Redis holds, if there is one, and over this process's memory, bounded in time and number.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::cache::catalog::{Brief, MemoryPart, Position, StoreStep};
use crate::marks::Tag;
use crate::rules;

/// Longest walk over Redis, and over memory.
const WITHIN: Duration = Duration::from_secs(3);
/// Keys of Redis that are looked at in a step.
const STEP: u64 = 500;
/// Most URLs that are shown.
const SAMPLES: usize = 10;
/// Most paths that patterns find.
const PATHS: usize = super::TAGS;

/// Paths that begin with a text, or that a glob fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSelector {
    pub text: String,
    /// It is no glob.
    pub is_prefix: bool,
}

/// What is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    pub entries: u64,
    /// Of their encodings in Redis, or in memory.
    pub bytes: u64,
    /// Some of their URLs.
    pub samples: Vec<String>,
    /// False: the walk ended before everything was looked at, so that the numbers are lower bounds.
    pub is_complete: bool,
    /// The paths that a pattern fits.
    pub paths: BTreeSet<String>,
}

/// What a walk looks for.
struct Sought {
    tags: BTreeSet<Tag>,
    patterns: Vec<PathSelector>,
}

/// Walks over what Redis holds, and then over memory, which may still have what Redis has evicted. `None` while Redis cannot be asked.
pub async fn find(cache: &Cache, tags: &[Tag], patterns: Vec<PathSelector>) -> Option<Reach> {
    let sought = Arc::new(Sought { tags: tags.iter().cloned().collect(), patterns });
    let mut reach = Reach::default();
    // What was counted in Redis and is in memory too.
    let mut counted = HashSet::new();
    let (mut position, end) = (Position::Start, Instant::now() + WITHIN);
    let mut is_whole = true;
    let has_all_of_redis = loop {
        let StoreStep { found, next, is_whole: is_step_whole } = cache.catalog_store(position, STEP).await?;
        is_whole &= is_step_whole;
        for brief in current(cache, found.into_iter().filter(|brief| sought.takes(&brief.tags)).collect()).await? {
            reach.add_paths(&brief, &sought);
            reach.count(&brief);
            if cache.memory().entry_at(brief.hash).is_some() {
                counted.insert(brief.hash);
            }
        }
        match next {
            Position::Memory(_) => break is_whole,
            _ if Instant::now() > end || reach.paths.len() >= PATHS => break false,
            next => position = next,
        }
    };
    let end = Instant::now() + WITHIN;
    let taken = Arc::clone(&sought);
    let walk = cache.walk_memory(MemoryPart::All, Some(end), move |tags| taken.takes(tags)).await;
    let mut has_all_of_memory = walk.is_complete;
    for keys in walk.keys.chunks(STEP as usize) {
        if Instant::now() > end || reach.paths.len() >= PATHS {
            has_all_of_memory = false;
            break;
        }
        for brief in current(cache, keys.iter().filter_map(|key| cache.brief_in_memory(*key)).collect()).await? {
            reach.add_paths(&brief, &sought);
            if !counted.contains(&brief.hash) {
                reach.count(&brief);
            }
        }
        // Without Redis nothing else here waits.
        tokio::task::yield_now().await;
    }
    reach.is_complete = has_all_of_redis && has_all_of_memory && reach.paths.len() < PATHS;
    Some(reach)
}

/// Those of them that are still served.
async fn current(cache: &Cache, briefs: Vec<Brief>) -> Option<Vec<Brief>> {
    let are_current = cache.are_current(&briefs).await?;
    Some(
        briefs
            .into_iter()
            .zip(are_current)
            .filter_map(|(brief, is_current)| is_current.then_some(brief))
            .collect(),
    )
}

impl Sought {
    fn takes(&self, tags: &[Tag]) -> bool {
        tags.iter().any(|tag| self.tags.contains(tag)) || self.fitting(tags).next().is_some()
    }

    /// The paths of an entry with these tags that a pattern fits.
    fn fitting<'t>(&'t self, tags: &'t [Tag]) -> impl Iterator<Item = &'t str> {
        let paths = tags.iter().filter_map(|tag| tag.as_str().strip_prefix("uri:"));
        paths.filter(|path| self.patterns.iter().any(|it| it.fits(path)))
    }
}

impl Reach {
    fn add_paths(&mut self, brief: &Brief, sought: &Sought) {
        for path in sought.fitting(&brief.tags) {
            if self.paths.len() < PATHS {
                self.paths.insert(path.to_owned());
            }
        }
    }

    fn count(&mut self, brief: &Brief) {
        self.entries += 1;
        self.bytes += brief.bytes;
        if self.samples.len() < SAMPLES && !self.samples.contains(&brief.url) {
            self.samples.push(brief.url.clone());
        }
    }
}

impl PathSelector {
    fn fits(&self, path: &str) -> bool {
        if self.is_prefix { path.starts_with(&self.text) } else { rules::is_named_by(&self.text, path) }
    }
}

#[cfg(test)]
mod tests {
    use crate::http::target::PathCase;
    use crate::purge::{glob, prefix};

    #[test]
    fn prefixes_and_globs_fit_paths() {
        let rows = [
            (prefix("/users/", PathCase::Sensitive), "/users/7", true),
            (prefix("/users/", PathCase::Sensitive), "/users", false),
            (prefix("/a*", PathCase::Sensitive), "/ab", false),
            (glob("/users/*/photo", PathCase::Sensitive), "/users/7/photo", true),
            (glob("/users/*/photo", PathCase::Sensitive), "/users/7/name", false),
            (glob("*.css", PathCase::Sensitive), "/static/a.css", true),
        ];
        for (pattern, path, expected) in rows {
            assert_eq!(pattern.clone().unwrap().fits(path), expected, "{pattern:?} {path}");
        }
        assert!(prefix("users", PathCase::Sensitive).is_none() && glob("users*", PathCase::Sensitive).is_none());
    }
}
