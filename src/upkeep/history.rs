//! Counts of the last hour, so that rates are those of a minute, five minutes or an hour, and not since the start. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::metrics::FamilyCounters;
use crate::outcome::OutcomeKind;

pub mod points;

/// Pause between two samples while they are recent.
pub const PAUSE: Duration = Duration::from_secs(15);
/// How long every sample is kept. Of older ones, one a minute is.
const RECENT: Duration = Duration::from_secs(5 * 60 + 15);
const COARSE: Duration = Duration::from_secs(60);
/// How long samples are kept.
const KEPT: Duration = Duration::from_secs(3600 + 60);

/// The windows over which rates are reported, with their names.
pub const WINDOWS: [(&str, Duration); 3] =
    [("1m", Duration::from_secs(60)), ("5m", Duration::from_secs(300)), ("1h", Duration::from_secs(3600))];

/// What was counted of a family, since the start or in a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    outcomes: [u64; OutcomeKind::ALL.len()],
    server_errors: u64,
    hit_time: (u64, Duration),
    miss_time: (u64, Duration),
    invalidations: u64,
}

impl Counts {
    /// Everything since the start.
    pub fn new(counters: &FamilyCounters, invalidations: u64) -> Counts {
        Counts {
            outcomes: OutcomeKind::ALL.map(|kind| counters.of(kind)),
            server_errors: counters.server_errors(),
            hit_time: counters.hit_time(),
            miss_time: counters.miss_time(),
            invalidations,
        }
    }

    fn combine(
        &self,
        other: &Counts,
        number: impl Fn(u64, u64) -> u64,
        time: impl Fn(Duration, Duration) -> Duration,
    ) -> Counts {
        let both = |one: (u64, Duration), other: (u64, Duration)| (number(one.0, other.0), time(one.1, other.1));
        Counts {
            outcomes: std::array::from_fn(|index| number(self.outcomes[index], other.outcomes[index])),
            server_errors: number(self.server_errors, other.server_errors),
            hit_time: both(self.hit_time, other.hit_time),
            miss_time: both(self.miss_time, other.miss_time),
            invalidations: number(self.invalidations, other.invalidations),
        }
    }

    /// What was counted after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        self.combine(earlier, u64::saturating_sub, Duration::saturating_sub)
    }

    /// The sum with another family's.
    #[must_use]
    pub fn plus(&self, other: &Counts) -> Counts {
        self.combine(other, u64::saturating_add, Duration::saturating_add)
    }

    fn of(&self, kinds: &[OutcomeKind]) -> u64 {
        kinds.iter().map(|kind| self.outcomes[kind.index()]).sum()
    }

    /// Answers from the cache without asking upstream.
    pub fn hits(&self) -> u64 {
        self.of(&[OutcomeKind::Hit, OutcomeKind::Stale])
    }

    /// Answers that were fetched or revalidated.
    pub fn misses(&self) -> u64 {
        self.of(&[OutcomeKind::Miss, OutcomeKind::Revalidated])
    }

    /// Reads that were forwarded without being cached.
    pub fn passes(&self) -> u64 {
        self.of(&[OutcomeKind::Pass])
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.of(&OutcomeKind::ALL)
    }

    /// Hits as a part of hits and misses; `None` without any.
    pub fn hit_rate(&self) -> Option<f64> {
        part(self.hits(), self.hits() + self.misses())
    }

    /// Answers with a status of 500 or more, as a part of all; `None` without any.
    pub fn error_rate(&self) -> Option<f64> {
        part(self.server_errors, self.requests())
    }

    /// Mean time to an answer from the cache; `None` without any.
    pub fn hit_latency(&self) -> Option<Duration> {
        mean(self.hit_time)
    }
}

fn part(part: u64, all: u64) -> Option<f64> {
    // Counters are read one after the other.
    (all > 0).then(|| (part as f64 / all as f64).min(1.0))
}

fn mean((count, sum): (u64, Duration)) -> Option<Duration> {
    (count > 0).then(|| sum.div_f64(count as f64))
}

/// What was counted of each family since the start.
pub type Sample = BTreeMap<String, Counts>;

/// The samples of the last hour. Their times are durations since the start.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<(Duration, Sample)>,
}

/// What was counted in a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// How long it is: shorter than asked for if Larder runs for less, longer by up to the pause between samples.
    pub covers: Duration,
    /// By family.
    pub families: BTreeMap<String, Counts>,
}

impl Window {
    /// The sum of all families, and of requests without one.
    pub fn total(&self) -> Counts {
        self.families.values().fold(Counts::default(), |sum, counts| sum.plus(counts))
    }
}

impl History {
    /// Keeps a sample, and drops those that are no longer needed.
    pub fn record(&mut self, now: Duration, sample: Sample) {
        self.samples.push_back((now, sample));
        let mut before: Option<Duration> = None;
        self.samples.retain(|(at, _)| {
            let age = now.saturating_sub(*at);
            let is_needed = age <= RECENT || age <= KEPT && before.is_none_or(|before| *at >= before + COARSE);
            if is_needed {
                before = Some(*at);
            }
            is_needed
        });
    }

    /// What was counted in the last `length`, given the counts of now.
    pub fn window(&self, now: Duration, counts: &Sample, length: Duration) -> Window {
        let start = now.saturating_sub(length);
        let earlier = self.samples.iter().rev().find(|(at, _)| *at <= start);
        let (at, earlier) = earlier.map_or((Duration::ZERO, None), |(at, sample)| (*at, Some(sample)));
        let since = |(name, counts): (&String, &Counts)| {
            let before = earlier.and_then(|sample| sample.get(name)).copied().unwrap_or_default();
            (name.clone(), counts.since(&before))
        };
        Window { covers: now.saturating_sub(at), families: counts.iter().map(since).collect() }
    }
}

/// Rates in a window. Those that are parts of a whole are in percent with one decimal; null without requests.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Rates {
    /// How many seconds the window covers.
    seconds: f64,
    requests: u64,
    requests_per_second: f64,
    hits: u64,
    misses: u64,
    passes: u64,
    writes: u64,
    /// Answers with a status of 500 or more.
    errors: u64,
    /// Hits, of hits and misses.
    hit_rate: Option<f64>,
    /// Misses, of hits and misses.
    miss_rate: Option<f64>,
    /// Passes, of all reads.
    pass_rate: Option<f64>,
    /// Errors, of all requests.
    error_rate: Option<f64>,
    /// Mean, milliseconds.
    hit_latency_ms: Option<f64>,
    /// Mean of all other reads, milliseconds.
    miss_latency_ms: Option<f64>,
    /// Invalidations by writes and operators.
    invalidations: u64,
    invalidations_per_minute: f64,
}

impl Rates {
    /// The rates of what was counted in `covers`.
    pub fn new(counts: &Counts, covers: Duration) -> Rates {
        let seconds = covers.as_secs_f64().max(0.001);
        let percent = |rate: Option<f64>| rate.map(|rate| round(rate * 100.0, 1));
        let ms = |mean: Option<Duration>| mean.map(|mean| round(mean.as_secs_f64() * 1000.0, 3));
        let (hits, misses, passes) = (counts.hits(), counts.misses(), counts.passes());
        Rates {
            seconds: round(seconds, 1),
            requests: counts.requests(),
            requests_per_second: round(counts.requests() as f64 / seconds, 2),
            hits,
            misses,
            passes,
            writes: counts.of(&[OutcomeKind::Write]),
            errors: counts.server_errors,
            hit_rate: percent(counts.hit_rate()),
            miss_rate: percent(part(misses, hits + misses)),
            pass_rate: percent(part(passes, hits + misses + passes)),
            error_rate: percent(counts.error_rate()),
            hit_latency_ms: ms(counts.hit_latency()),
            miss_latency_ms: ms(mean(counts.miss_time)),
            invalidations: counts.invalidations,
            invalidations_per_minute: round(counts.invalidations as f64 / seconds * 60.0, 2),
        }
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::metrics::Metrics;
    use crate::outcome::Outcome;

    fn sample(metrics: &Metrics) -> Sample {
        let one = |name: &str| (name.to_owned(), Counts::new(&metrics.family(name), metrics.invalidations(name)));
        ["a", "none"].into_iter().map(one).collect()
    }

    fn answer(metrics: &Metrics, kind: OutcomeKind, status: StatusCode, times: u64) {
        let outcome = Outcome { kind, ..Outcome::hit(1) };
        (0..times).for_each(|_| metrics.family("a").answered(&outcome, status, Duration::from_millis(2)));
    }

    #[test]
    fn a_window_holds_what_was_counted_in_it_and_not_what_came_before() {
        let (metrics, mut history) = (Metrics::new(), History::default());
        let second = Duration::from_secs;
        answer(&metrics, OutcomeKind::Miss, StatusCode::OK, 100);
        history.record(second(0), Sample::new());
        history.record(second(60), sample(&metrics));
        answer(&metrics, OutcomeKind::Hit, StatusCode::OK, 3);
        answer(&metrics, OutcomeKind::Miss, StatusCode::BAD_GATEWAY, 1);
        metrics.invalidated("a", "write");
        metrics.invalidated("a", "purge");
        let now = sample(&metrics);
        let minute = history.window(second(120), &now, second(60));
        let rates = serde_json::to_value(Rates::new(&minute.total(), minute.covers)).unwrap();
        assert_eq!(
            rates,
            json!({
                "seconds": 60.0, "requests": 4, "requests_per_second": 0.07, "hits": 3, "misses": 1, "passes": 0,
                "writes": 0, "errors": 1, "hit_rate": 75.0, "miss_rate": 25.0, "pass_rate": 0.0, "error_rate": 25.0,
                "hit_latency_ms": 2.0, "miss_latency_ms": 2.0, "invalidations": 2, "invalidations_per_minute": 2.0,
            })
        );
        let hour = history.window(second(120), &now, second(3600));
        assert_eq!((hour.covers, hour.total().misses()), (second(120), 101));
    }

    #[test]
    fn rates_are_null_without_requests() {
        let rates = serde_json::to_value(Rates::new(&Counts::default(), Duration::ZERO)).unwrap();
        for field in ["hit_rate", "miss_rate", "pass_rate", "error_rate", "hit_latency_ms", "miss_latency_ms"] {
            assert_eq!(rates[field], json!(null), "{field}");
        }
    }

    #[test]
    fn an_hour_of_samples_is_bounded_and_every_window_has_its_beginning() {
        let mut history = History::default();
        let metrics = Metrics::new();
        for step in 0..1000 {
            let now = PAUSE * step;
            history.record(now, sample(&metrics));
            assert!(history.samples.len() <= 21 + 61 + 2, "{}", history.samples.len());
            for (name, length) in WINDOWS {
                let covers = history.window(now, &Sample::new(), length).covers;
                let most = length + COARSE + PAUSE;
                assert!(covers >= length.min(now) && covers <= most, "{name} at {now:?} covers {covers:?}");
            }
        }
    }
}
