//! The most frequent reads of each hour, for `predict` in `[[warm]]`: what was hot at this hour on earlier days. With Redis they
//! are there, so that they survive restarts; without, in memory. Bounded in hours, in reads of each and in their length.
//!
//! A read is known by its host, path and query alone. Reads of one caller are not counted ([`super::hot`]).

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::hot::HotRead;
use crate::mutex::lock;
use crate::store::hours::{DAYS, Hour, KEPT, LONGEST};

/// Days that a prediction looks at.
const LOOKED_AT: i64 = 7;

/// The hour that this time is in.
pub fn hour_of(time: DateTime<Utc>) -> Hour {
    u64::try_from(time.timestamp()).unwrap_or(0) / 3600
}

/// The hours of earlier days at which the local clock showed the hour of `time`. On a day without that hour: none.
pub fn earlier(zone: Tz, time: DateTime<Utc>) -> Vec<Hour> {
    let local = time.with_timezone(&zone).naive_local();
    let days = (1..=LOOKED_AT).filter_map(|days| {
        let then = (local - TimeDelta::days(days)).and_local_timezone(zone).earliest()?;
        Some(hour_of(then.with_timezone(&Utc)))
    });
    days.collect()
}

/// Host, path and query of a read, as they are stored; `None` if they are too long.
pub fn name(read: &HotRead) -> Option<String> {
    let name = format!("{} {}", read.target.host, read.target.path_and_query());
    (name.len() <= LONGEST).then_some(name)
}

/// Host, and path with query, of a stored name.
pub fn parts(name: &str) -> Option<(&str, &str)> {
    name.split_once(' ').filter(|(host, _)| !host.is_empty())
}

/// All reads, those with the most hits first. `found`: may have a read several times.
pub fn ranked(found: Vec<(String, u64)>) -> Vec<String> {
    let mut sums: HashMap<String, u64> = HashMap::new();
    for (read, hits) in found {
        let sum = sums.entry(read).or_default();
        *sum = sum.saturating_add(hits);
    }
    let mut reads: Vec<(String, u64)> = sums.into_iter().collect();
    reads.sort_unstable_by(by_hits);
    reads.into_iter().map(|(read, _)| read).collect()
}

/// Most hits first; equal ones by name, so that the order is always the same.
fn by_hits((a, hits_a): &(String, u64), (b, hits_b): &(String, u64)) -> Ordering {
    hits_b.cmp(hits_a).then_with(|| a.cmp(b))
}

/// Reads by the hour in memory, where there is no Redis.
#[derive(Debug, Default)]
pub struct HourlyReads(Mutex<BTreeMap<Hour, HashMap<String, u64>>>);

impl HourlyReads {
    /// Adds hits to the reads of an hour.
    pub fn add(&self, hour: Hour, reads: &[(String, u32)]) {
        let mut hours = lock(&self.0);
        let of_hour = hours.entry(hour).or_default();
        for (read, hits) in reads {
            *of_hour.entry(read.clone()).or_default() += u64::from(*hits);
        }
        if of_hour.len() > KEPT {
            let mut ranked: Vec<(String, u64)> = std::mem::take(of_hour).into_iter().collect();
            ranked.sort_unstable_by(by_hits);
            ranked.truncate(KEPT);
            of_hour.extend(ranked);
        }
        while hours.first_key_value().is_some_and(|(first, _)| *first + DAYS * 24 < hour) {
            hours.pop_first();
        }
    }

    /// The reads of these hours.
    pub fn hits_in(&self, hours: &[Hour]) -> Vec<(String, u64)> {
        let kept = lock(&self.0);
        let of_hours = hours.iter().filter_map(|hour| kept.get(hour)).flatten();
        of_hours.map(|(read, hits)| (read.clone(), *hits)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn earlier_hours_are_those_of_the_local_clock() {
        let hours = earlier(chrono_tz::Europe::Paris, at("2026-03-30T07:20:00Z"));
        // 9:20 in Paris; before 29 March that was 8:20 in UTC.
        let expected =
            ["2026-03-29T07:00:00Z", "2026-03-28T08:00:00Z", "2026-03-27T08:00:00Z"].map(|text| hour_of(at(text)));
        assert_eq!((&hours[..3], hours.len()), (&expected[..], 7));
        // 29 March has no 2:30.
        assert_eq!(earlier(chrono_tz::Europe::Paris, at("2026-03-30T00:30:00Z")).len(), 6);
    }

    #[test]
    fn hits_of_several_days_are_added_up() {
        let reads = HourlyReads::default();
        let hits = |name: &str, hits| (name.to_owned(), hits);
        reads.add(100, &[hits("h /a", 5), hits("h /b", 1)]);
        reads.add(124, &[hits("h /b", 6), hits("h /c", 2)]);
        reads.add(125, &[hits("h /d", 100)]);
        assert_eq!(ranked(reads.hits_in(&[100, 124, 7])), ["h /b", "h /a", "h /c"]);
    }

    #[test]
    fn hours_and_their_reads_are_bounded() {
        let reads = HourlyReads::default();
        for hour in 0..1000 {
            for batch in 0..10_u32 {
                let more: Vec<_> = (0..100_u32).map(|n| (format!("h /{}", batch * 100 + n), n + 1)).collect();
                reads.add(hour, &more);
            }
        }
        let hours = lock(&reads.0);
        assert!(hours.len() as u64 <= DAYS * 24 + 1, "{}", hours.len());
        assert!(hours.values().all(|reads| reads.len() <= KEPT));
    }

    #[test]
    fn of_more_reads_with_equal_hits_as_many_as_are_kept_remain() {
        let kept = || {
            let reads = HourlyReads::default();
            let hits = |names: std::ops::Range<usize>, hits| -> Vec<_> {
                names.map(|n| (format!("h /{n:03}"), hits)).collect()
            };
            reads.add(7, &hits(0..400, 1));
            reads.add(7, &hits(900..901, 2));
            ranked(reads.hits_in(&[7]))
        };
        let names = kept();
        assert_eq!((names.len(), &*names[0], &*names[1], &*names[299]), (KEPT, "h /900", "h /000", "h /298"));
        assert_eq!(kept(), names);
    }

    #[test]
    fn a_stored_name_is_split_into_host_and_path() {
        assert_eq!(parts("h:80 /a?b=c d"), Some(("h:80", "/a?b=c d")));
        assert_eq!((parts("x"), parts(" /a")), (None, None));
    }
}
