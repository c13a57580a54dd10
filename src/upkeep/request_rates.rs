//! How often each URL of the families with `adaptive_ttl` is requested of this proxy: a count-min sketch of the current hour and
//! the one before, in two megabytes whatever the number of URLs. Counting takes no lock. A number may be too high, where URLs
//! share their counters, and is hardly ever too low.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::http::adaptive_ttl::RequestRate;
use crate::key::KeyHash;

/// Each URL is counted once in each row; the lowest of its counters is the most exact.
const ROWS: usize = 4;

/// Counters in a row: a power of two, at most 2³².
const COLUMNS: usize = 1 << 16;

const HOUR: u64 = 3600;

/// The counters. They take memory from the first request that is counted on.
#[derive(Debug, Default)]
pub struct RequestRates(OnceLock<Sketch>);

#[derive(Debug)]
struct Sketch {
    /// By row, then by column.
    counters: Box<[AtomicU64]>,
    /// When counting began.
    since: SystemTime,
}

impl RequestRates {
    /// Counts a request for a URL, by the hash of its primary key.
    pub fn count(&self, key: KeyHash, now: SystemTime) {
        let sketch = self.0.get_or_init(|| Sketch::new(now));
        let (hour, _) = hour_of(now);
        let counts = places(key).map(|place| Count::of(sketch.counters[place].load(Relaxed)).at(hour));
        let lowest = counts.iter().map(|count| count.current).min().unwrap_or(0);
        for (place, _) in places(key).into_iter().zip(counts).filter(|(_, count)| count.current == lowest) {
            let counted = |bits| Some(Count::of(bits).at(hour).plus_one().bits());
            // Without a condition it always succeeds.
            let _ = sketch.counters[place].fetch_update(Relaxed, Relaxed, counted);
        }
    }

    /// How often a URL was requested in the last hour; `None` if no request was ever counted.
    pub fn of(&self, key: KeyHash, now: SystemTime) -> Option<RequestRate> {
        let sketch = self.0.get()?;
        let (hour, elapsed) = hour_of(now);
        let counts = places(key).map(|place| Count::of(sketch.counters[place].load(Relaxed)).at(hour));
        let per_hour = counts.iter().map(|count| count.in_last_hour(elapsed)).min().unwrap_or(0);
        let counted = now.duration_since(sketch.since).unwrap_or_default();
        Some(RequestRate { per_hour, is_whole_hour: counted >= Duration::from_secs(HOUR) })
    }
}

impl Sketch {
    fn new(since: SystemTime) -> Sketch {
        Sketch { counters: (0..ROWS * COLUMNS).map(|_| AtomicU64::new(0)).collect(), since }
    }
}

/// The counters of a URL, one in each row. The hash is keyed at random, so that no client can choose URLs that share them.
fn places(key: KeyHash) -> [usize; ROWS] {
    std::array::from_fn(|row| {
        let part = (key.0 >> (32 * row)) as u32;
        row * COLUMNS + part as usize % COLUMNS
    })
}

/// The hour since 1970, of which a counter holds the last 16 bits, and the seconds of it that have passed.
fn hour_of(now: SystemTime) -> (u16, u64) {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    ((seconds / HOUR) as u16, seconds % HOUR)
}

/// A counter: 16 bits for the hour that it was last changed in, and 24 each for the numbers of that hour and the hour before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    hour: u16,
    before: u32,
    current: u32,
}

/// The highest number of a counter.
const MOST: u32 = (1 << 24) - 1;

impl Count {
    fn of(bits: u64) -> Count {
        Count { hour: (bits >> 48) as u16, before: (bits >> 24) as u32 & MOST, current: bits as u32 & MOST }
    }

    fn bits(self) -> u64 {
        u64::from(self.hour) << 48 | u64::from(self.before) << 24 | u64::from(self.current)
    }

    /// The same counter in this hour.
    fn at(self, hour: u16) -> Count {
        match hour.wrapping_sub(self.hour) {
            0 => self,
            1 => Count { hour, before: self.current, current: 0 },
            _ => Count { hour, before: 0, current: 0 },
        }
    }

    fn plus_one(self) -> Count {
        Count { current: (self.current + 1).min(MOST), ..self }
    }

    /// Requests in the last 60 minutes, if those of the hour before came evenly.
    fn in_last_hour(self, elapsed: u64) -> u32 {
        let before = u64::from(self.before) * (HOUR - elapsed) / HOUR;
        self.current.saturating_add(u32::try_from(before).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(500_000 * HOUR + minutes * 60)
    }

    fn key(name: u64) -> KeyHash {
        KeyHash::of(&name.to_string())
    }

    #[test]
    fn requests_of_the_last_hour_count_and_older_ones_cease() {
        let rates = RequestRates::default();
        assert_eq!(rates.of(key(1), at(0)), None, "nothing was counted");
        (0..60).for_each(|minute| rates.count(key(1), at(minute)));
        let rate = |minute| rates.of(key(1), at(minute)).unwrap();
        assert_eq!(rate(59), RequestRate { per_hour: 60, is_whole_hour: false });
        assert_eq!(rate(60), RequestRate { per_hour: 60, is_whole_hour: true });
        assert_eq!(rate(90).per_hour, 30);
        assert_eq!(rate(119).per_hour, 1);
        assert_eq!(rate(120).per_hour, 0);
        assert_eq!(rates.of(key(2), at(60)).unwrap().per_hour, 0);
        // The same hour of another day is another hour.
        assert_eq!(rate(24 * 60).per_hour, 0);
    }

    #[test]
    fn a_counter_holds_its_hour_and_both_numbers_and_does_not_overflow() {
        let count = Count { hour: u16::MAX, before: 3, current: MOST };
        assert_eq!(Count::of(count.bits()), count);
        assert_eq!(count.plus_one(), count);
        assert_eq!(count.at(0), Count { hour: 0, before: MOST, current: 0 });
        assert_eq!(count.at(1), Count { hour: 1, before: 0, current: 0 });
    }

    #[test]
    fn many_other_urls_hardly_raise_the_rate_of_one() {
        let rates = RequestRates::default();
        (0..100_000).for_each(|name| rates.count(key(name), at(0)));
        let highest = (0..1000).map(|name| rates.of(key(name), at(0)).unwrap().per_hour).max();
        assert!(highest <= Some(10), "{highest:?}");
    }
}
