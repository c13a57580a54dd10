//! What is stored now of tags and of path patterns: for the preview of a purge, and for the paths that a pattern fits. A walk over what
//! Redis holds, or over this process's memory without it, bounded in time and number.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cache::catalog::{Brief, Position};
use crate::marks::Tag;
use crate::rules;
use crate::running::Running;

/// Longest walk.
const WITHIN: Duration = Duration::from_secs(3);
/// Keys of Redis that are looked at in a step.
const STEP: u64 = 500;
/// Most URLs that are shown.
const SAMPLES: usize = 10;
/// Most paths that patterns find.
const PATHS: usize = super::TAGS;

/// Paths that begin with a text, or that a glob fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
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

/// Walks over what is stored. `None` while Redis cannot be asked.
pub async fn find(running: &Running, tags: &[Tag], patterns: &[PathPattern]) -> Option<Reach> {
    let (tags, mut reach) = (tags.iter().collect::<BTreeSet<&Tag>>(), Reach::default());
    let (mut position, end) = (Position::Start, Instant::now() + WITHIN);
    loop {
        let (found, next) = running.cache.catalog(position, STEP).await?;
        let found: Vec<Brief> = found.into_iter().filter(|brief| is_meant(brief, &tags, patterns)).collect();
        let current = running.cache.are_current(&found).await?;
        for (brief, _) in found.iter().zip(current).filter(|(_, is_current)| *is_current) {
            reach.add(brief, patterns);
        }
        match next {
            None => break reach.is_complete = reach.paths.len() < PATHS,
            Some(_) if Instant::now() > end || reach.paths.len() >= PATHS => break,
            Some(next) => position = next,
        }
    }
    Some(reach)
}

/// The paths of an entry that a pattern fits.
fn fitting<'b>(brief: &'b Brief, patterns: &'b [PathPattern]) -> impl Iterator<Item = &'b str> {
    let paths = brief.tags.iter().filter_map(|tag| tag.as_str().strip_prefix("uri:"));
    paths.filter(|path| patterns.iter().any(|it| it.fits(path)))
}

fn is_meant(brief: &Brief, tags: &BTreeSet<&Tag>, patterns: &[PathPattern]) -> bool {
    brief.tags.iter().any(|tag| tags.contains(tag)) || fitting(brief, patterns).next().is_some()
}

impl Reach {
    fn add(&mut self, brief: &Brief, patterns: &[PathPattern]) {
        for path in fitting(brief, patterns) {
            if self.paths.len() < PATHS {
                self.paths.insert(path.to_owned());
            }
        }
        self.entries += 1;
        self.bytes += brief.bytes;
        if self.samples.len() < SAMPLES && !self.samples.contains(&brief.url) {
            self.samples.push(brief.url.clone());
        }
    }
}

impl PathPattern {
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
