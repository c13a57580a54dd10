//! The URLs that are missed most, and those that upstream spends the most time on, noted with each fetch.

use std::cmp::Reverse;
use std::sync::Mutex;
use std::time::Duration;

use super::space_saving::{Counter, SpaceSaving};
use crate::mutex::lock;

/// URLs of each list that are counted at least; up to twice as many are.
const COUNTERS: usize = 256;
/// Longest URL that is counted, bytes. Longer ones are counted by their beginning.
const LONGEST: usize = 400;

/// Both lists.
#[derive(Debug)]
pub struct TopUrls {
    missed: Mutex<SpaceSaving<UrlFetches>>,
    slowest: Mutex<SpaceSaving<UrlFetches>>,
}

/// What is known of a URL beside its count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UrlFetches {
    pub family: Box<str>,
    /// How often it was fetched since it is counted.
    pub times: u64,
    /// How long that took together.
    pub took: Duration,
}

impl Default for TopUrls {
    fn default() -> TopUrls {
        TopUrls { missed: Mutex::new(SpaceSaving::new(COUNTERS)), slowest: Mutex::new(SpaceSaving::new(COUNTERS)) }
    }
}

impl TopUrls {
    /// A read of this URL was not answered from the cache.
    pub fn missed(&self, url: &str, family: &str) {
        lock(&self.missed).add(beginning(url), 1, |seen| seen.note(family, Duration::ZERO));
    }

    /// Upstream took so long to answer a read of this URL.
    pub fn fetched(&self, url: &str, family: &str, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        lock(&self.slowest).add(beginning(url), micros, |seen| seen.note(family, took));
    }

    /// The URLs with the most misses.
    pub fn most_missed(&self, most: usize) -> Vec<(String, Counter<UrlFetches>)> {
        owned(lock(&self.missed).highest(most))
    }

    /// Of the URLs that upstream has spent the most time on, those that take longest each time.
    pub fn slowest(&self, most: usize) -> Vec<(String, Counter<UrlFetches>)> {
        let mut all = owned(lock(&self.slowest).highest(COUNTERS));
        all.sort_by_key(|(_, counter)| Reverse(counter.value.mean()));
        all.truncate(most);
        all
    }
}

impl UrlFetches {
    fn note(&mut self, family: &str, took: Duration) {
        if *self.family != *family {
            self.family = family.into();
        }
        self.times += 1;
        self.took = self.took.saturating_add(took);
    }

    /// Mean time of a fetch.
    pub fn mean(&self) -> Duration {
        self.took.div_f64(self.times.max(1) as f64)
    }
}

fn owned(counters: Vec<(&str, &Counter<UrlFetches>)>) -> Vec<(String, Counter<UrlFetches>)> {
    counters.into_iter().map(|(url, counter)| (url.to_owned(), counter.clone())).collect()
}

/// As much of a URL as is counted.
pub fn beginning(url: &str) -> &str {
    let end = (0..=url.len().min(LONGEST)).rev().find(|end| url.is_char_boundary(*end));
    &url[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_ordered_by_misses_and_by_the_time_of_a_fetch() {
        let top = TopUrls::default();
        let ms = Duration::from_millis;
        for (url, times, took) in [("/a", 3, 10), ("/b", 1, 500), ("/c", 9, 2)] {
            for _ in 0..times {
                top.missed(url, "f");
                top.fetched(url, "f", ms(took));
            }
        }
        let urls =
            |found: &[(String, Counter<UrlFetches>)]| found.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
        assert_eq!(urls(&top.most_missed(2)), ["/c", "/a"]);
        let slowest = top.slowest(2);
        assert_eq!(urls(&slowest), ["/b", "/a"]);
        assert_eq!((slowest[1].1.value.mean(), slowest[1].1.value.times), (ms(10), 3));
    }

    #[test]
    fn a_long_url_is_counted_by_its_beginning() {
        let top = TopUrls::default();
        top.missed(&"/ü".repeat(1000), "f");
        assert!(top.most_missed(1)[0].0.len() <= LONGEST);
    }
}
