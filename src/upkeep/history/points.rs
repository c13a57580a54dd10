//! An hour of points, one for each sample: what was counted between two samples, for charts. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Counts, PAUSE, Sample, round};
use crate::metrics::{LATENCY_BOUNDS, LatencyBuckets};
use crate::outcome::OutcomeKind;

/// Points that are kept.
const KEPT: usize = (3600 / PAUSE.as_secs()) as usize;
/// Families with requests that a point holds: those with the most.
const FAMILIES: usize = 200;

/// Everything that was counted since the start, at one time.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    pub families: Sample,
    /// Of all families.
    pub hit_times: LatencyBuckets,
    /// Of all other reads.
    pub miss_times: LatencyBuckets,
    /// Requests sent to upstream.
    pub upstream_requests: u64,
}

/// What was counted between two samples.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Point {
    /// The end of its time, RFC 3339.
    time: String,
    /// How long it is, seconds.
    seconds: f64,
    /// Answers from the cache, stale ones not counted.
    hits: u64,
    stale: u64,
    misses: u64,
    revalidated: u64,
    passes: u64,
    writes: u64,
    /// Answers with a status of 500 or more.
    errors: u64,
    /// Requests sent to upstream, with those of Larder's own: refreshes, warming, checks of callers.
    upstream_requests: u64,
    /// Reads that were answered without asking upstream.
    saved_requests: u64,
    /// The time that these would have taken, if they had taken as long as the misses of their family on average; seconds.
    saved_s: f64,
    /// Time to answer from the cache; null without such answers.
    hit_ms: Percentiles,
    /// Time to answer other reads; null without such answers.
    miss_ms: Percentiles,
    /// Invalidations by writes and operators.
    invalidations: u64,
    #[serde(skip)]
    families: BTreeMap<String, FamilyPoint>,
}

/// Milliseconds. Estimated from a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Percentiles {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// The requests of a family in the time of a point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FamilyPoint {
    hits: u64,
    misses: u64,
}

/// The points of the last hour.
#[derive(Debug, Default)]
pub struct Points {
    points: VecDeque<Point>,
    last: Option<(Duration, Totals)>,
}

impl Points {
    /// Adds a point that ends now. `since_start`: the time since the start, which does not jump.
    pub fn record(&mut self, since_start: Duration, now: SystemTime, totals: Totals) {
        if let Some((before, earlier)) = &self.last {
            let took = since_start.saturating_sub(*before);
            if self.points.len() >= KEPT {
                self.points.pop_front();
            }
            self.points.push_back(point(took, now, earlier, &totals));
        }
        self.last = Some((since_start, totals));
    }

    /// All points, the oldest first.
    pub fn all(&self) -> Vec<Point> {
        self.points.iter().cloned().collect()
    }

    /// The requests of each family that had any, for each of these points.
    pub fn by_family(points: &[Point]) -> BTreeMap<String, Vec<FamilyPoint>> {
        let mut all: BTreeMap<String, Vec<FamilyPoint>> = BTreeMap::new();
        for name in points.iter().flat_map(|point| point.families.keys()) {
            if !all.contains_key(name) {
                let of = |point: &Point| point.families.get(name).copied().unwrap_or_default();
                all.insert(name.clone(), points.iter().map(of).collect());
            }
        }
        all
    }
}

fn point(took: Duration, now: SystemTime, earlier: &Totals, totals: &Totals) -> Point {
    let (mut all, mut saved_s, mut families) = (Counts::default(), 0.0, Vec::new());
    for (name, counts) in &totals.families {
        let since = counts.since(&earlier.families.get(name).copied().unwrap_or_default());
        all = all.plus(&since);
        // The mean since the start: where everything is a hit, there are no misses in this point.
        let miss = super::mean(counts.miss_time).unwrap_or_default();
        saved_s += since.hits() as f64 * miss.as_secs_f64();
        let of_family = FamilyPoint { hits: since.hits(), misses: since.misses() };
        if of_family != FamilyPoint::default() {
            families.push((name.clone(), of_family));
        }
    }
    families.sort_by_key(|(_, it)| std::cmp::Reverse(it.hits + it.misses));
    families.truncate(FAMILIES);
    let of = |kind: OutcomeKind| all.of(&[kind]);
    Point {
        time: humantime::format_rfc3339_seconds(now).to_string(),
        seconds: round(took.as_secs_f64(), 1),
        hits: of(OutcomeKind::Hit),
        stale: of(OutcomeKind::Stale),
        misses: of(OutcomeKind::Miss),
        revalidated: of(OutcomeKind::Revalidated),
        passes: of(OutcomeKind::Pass),
        writes: of(OutcomeKind::Write),
        errors: all.server_errors,
        upstream_requests: totals.upstream_requests.saturating_sub(earlier.upstream_requests),
        saved_requests: all.hits(),
        saved_s: round(saved_s, 6),
        hit_ms: Percentiles::between(&earlier.hit_times, &totals.hit_times),
        miss_ms: Percentiles::between(&earlier.miss_times, &totals.miss_times),
        invalidations: all.invalidations,
        families: families.into_iter().collect(),
    }
}

impl Percentiles {
    fn between(earlier: &LatencyBuckets, now: &LatencyBuckets) -> Percentiles {
        let counts: LatencyBuckets = std::array::from_fn(|index| now[index].saturating_sub(earlier[index]));
        let ms = |part| percentile(&counts, part).map(|seconds| round(seconds * 1000.0, 3));
        Percentiles { p50: ms(0.5), p99: ms(0.99) }
    }
}

/// The time, seconds, within which this part of the answers was given: interpolated in its bucket, as Prometheus does it. What is beyond
/// the last bound counts as that bound.
fn percentile(counts: &LatencyBuckets, part: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let rank = all as f64 * part;
    let mut below = 0;
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        if (below + count) as f64 >= rank {
            let from = index.checked_sub(1).map_or(0.0, |before| LATENCY_BOUNDS[before]);
            let to = LATENCY_BOUNDS.get(index).copied().unwrap_or(from);
            return Some(from + (to - from) * ((rank - below as f64) / *count as f64));
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::metrics::Metrics;
    use crate::outcome::Outcome;

    fn totals(metrics: &Metrics, upstream_requests: u64) -> Totals {
        let family = metrics.family("a");
        Totals {
            families: [("a".to_owned(), Counts::new(&family, metrics.invalidations("a")))].into(),
            hit_times: family.hit_buckets(),
            miss_times: family.miss_buckets(),
            upstream_requests,
        }
    }

    fn answer(metrics: &Metrics, kind: OutcomeKind, took: Duration, times: u64) {
        let outcome = Outcome { kind, ..Outcome::hit(1) };
        let outcome =
            if kind == OutcomeKind::Miss { Outcome::miss(crate::outcome::Fwd::UriMiss) } else { outcome };
        (0..times).for_each(|_| metrics.family("a").answered(&outcome, StatusCode::OK, took));
    }

    #[test]
    fn a_point_says_what_the_cache_has_saved_in_its_time() {
        let (metrics, mut points) = (Metrics::new(), Points::default());
        answer(&metrics, OutcomeKind::Miss, Duration::from_millis(200), 5);
        points.record(Duration::ZERO, SystemTime::UNIX_EPOCH, totals(&metrics, 5));
        assert!(points.all().is_empty(), "there is no time before it");
        answer(&metrics, OutcomeKind::Hit, Duration::from_micros(80), 9);
        answer(&metrics, OutcomeKind::Stale, Duration::from_micros(80), 1);
        points.record(PAUSE, SystemTime::UNIX_EPOCH + PAUSE, totals(&metrics, 6));
        let all = points.all();
        let point = serde_json::to_value(&all).unwrap()[0].clone();
        assert_eq!(
            point,
            json!({
                "time": "1970-01-01T00:00:15Z", "seconds": 15.0, "hits": 9, "stale": 1, "misses": 0, "revalidated": 0,
                "passes": 0, "writes": 0, "errors": 0, "upstream_requests": 1, "saved_requests": 10, "saved_s": 2.0,
                "hit_ms": {"p50": 0.075, "p99": 0.1}, "miss_ms": {"p50": null, "p99": null}, "invalidations": 0,
            })
        );
        assert_eq!(Points::by_family(&all)["a"], [FamilyPoint { hits: 10, misses: 0 }]);
    }

    #[test]
    fn an_hour_of_points_is_kept() {
        let (metrics, mut points) = (Metrics::new(), Points::default());
        for step in 0..1000 {
            points.record(PAUSE * step, SystemTime::UNIX_EPOCH + PAUSE * step, totals(&metrics, 0));
        }
        assert_eq!(points.all().len(), 240);
        assert!(Points::by_family(&points.all()).is_empty(), "families without requests take no room");
    }

    #[test]
    fn percentiles_lie_in_the_bucket_of_their_rank() {
        let mut counts = [0; LATENCY_BOUNDS.len() + 1];
        assert_eq!(percentile(&counts, 0.5), None);
        counts[4] = 98;
        counts[LATENCY_BOUNDS.len()] = 2;
        let median = percentile(&counts, 0.5).unwrap();
        assert!(median > 0.0005 && median <= 0.001, "{median}");
        assert_eq!(percentile(&counts, 0.99), Some(30.0), "longer than the last bound");
    }
}
