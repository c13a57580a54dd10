//! Watches the running Larder: samples its counters for the rates of the last hour, evaluates `[alerts]`, and says what has changed in the
//! log, the metric and to the webhook.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::{Interval, MissedTickBehavior};

use crate::cache::StoreState;
use crate::config::alerts::AlertsConfig;
use crate::http::Revalidate;
use crate::metrics::{FamilyCounters, NO_FAMILY};
use crate::mutex::lock;
use crate::rules::thresholds::Thresholds;
use crate::running::{Live, Running};
use crate::upkeep::alerts::{Alert, AlertReading, Subject, Watched};
use crate::upkeep::history::points::Totals;
use crate::upkeep::history::{Counts, PAUSE, Sample, Window};

pub mod webhook;

use webhook::Webhook;

/// The counters of every family, and of requests without one.
pub fn sample(running: &Running, live: &Live) -> Sample {
    let one = |counters: &FamilyCounters| {
        let invalidations = running.metrics.invalidations(&counters.family);
        (counters.family.to_string(), Counts::new(counters, invalidations))
    };
    live.all_counters().map(one).collect()
}

/// Everything that a point of the hour is made of.
fn totals(running: &Running, live: &Live) -> Totals {
    let mut totals = Totals {
        families: sample(running, live),
        upstream_requests: running.upstream.requests_sent(),
        ..Totals::default()
    };
    for counters in live.all_counters() {
        let of_family = [counters.hit_buckets(), counters.miss_buckets()];
        for (sum, buckets) in [&mut totals.hit_times, &mut totals.miss_times].into_iter().zip(of_family) {
            sum.iter_mut().zip(buckets).for_each(|(sum, count)| *sum += count);
        }
    }
    totals
}

/// What was counted in the last `length`.
pub fn window(running: &Running, sample: &Sample, length: Duration) -> Window {
    lock(&running.history).window(running.started.elapsed(), sample, length)
}

/// Samples and evaluates until it is dropped.
pub async fn watch(running: Arc<Running>) {
    let mut config = running.live().alerts.clone();
    let mut webhook = Webhook::start(&config);
    let mut sampling = every(PAUSE);
    let mut evaluating = every(config.interval);
    // Redis may be away when Larder starts.
    let mut away_since = None;
    loop {
        tokio::select! {
            () = running.rules_changed() => {
                let before = std::mem::replace(&mut config, running.live().alerts.clone());
                if before.interval != config.interval {
                    evaluating = every(config.interval);
                }
                if (&before.webhook, &before.webhook_token) != (&config.webhook, &config.webhook_token) {
                    webhook = Webhook::start(&config);
                }
            }
            _ = sampling.tick() => {
                let (since_start, totals) = (running.started.elapsed(), totals(&running, &running.live()));
                lock(&running.history).record(since_start, totals.families.clone());
                lock(&running.points).record(since_start, SystemTime::now(), totals);
            }
            _ = evaluating.tick() => {
                for alert in evaluate(&running, &config, &mut away_since).await {
                    announce(&running, &alert);
                    webhook.iter().for_each(|webhook| webhook.send(&alert));
                }
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// One evaluation. Returns the alerts that it raises and clears.
async fn evaluate(running: &Running, config: &AlertsConfig, away_since: &mut Option<Instant>) -> Vec<Alert> {
    let live = running.live();
    let mut window = window(running, &sample(running, &live), config.window);
    let thresholds = live.rules.stated().iter().map(|family| {
        let thresholds = family.alerts.or(&config.thresholds);
        // What is always validated is never a hit.
        let hit_rate = thresholds.hit_rate.filter(|_| family.policy.revalidate != Revalidate::Always);
        (family.name.clone(), Thresholds { hit_rate, ..thresholds })
    });
    let thresholds: BTreeMap<_, _> = thresholds.collect();
    window.families.retain(|name, _| *name == NO_FAMILY || thresholds.contains_key(name));
    let mut readings = readings_of_requests(&window, &config.thresholds, &thresholds, config.min_requests);
    readings.extend(memory(running, config).await);
    let is_away = matches!(running.cache.store_state(), StoreState::Down(_));
    let away_for = is_away.then(|| away_since.get_or_insert_with(Instant::now).elapsed());
    if !is_away {
        *away_since = None;
    }
    if let Some(threshold) = config.store_away.filter(|_| running.cache.store_handle().is_some()) {
        readings.push(AlertReading {
            subject: Subject { watched: Watched::StoreAway, family: None },
            value: Some(away_for.unwrap_or_default().as_secs_f64()),
            threshold: threshold.as_secs_f64(),
        });
    }
    if running.cache.store_handle().is_some() {
        readings.push(AlertReading {
            subject: Subject { watched: Watched::MixedRules, family: None },
            value: Some(running.metrics.mixed_rules.get() as f64),
            threshold: 0.0,
        });
    }
    lock(&running.alerts).evaluate(readings, SystemTime::now())
}

/// The readings of all families together, and of each. Requests without a family have no hit rate that rules could raise, and families
/// whose hit rate does not count do not lower that of all.
fn readings_of_requests(
    window: &Window,
    all: &Thresholds,
    families: &BTreeMap<String, Thresholds>,
    min_requests: u64,
) -> Vec<AlertReading> {
    let mut readings = Vec::new();
    let mut read = |family: Option<&str>, counts: &Counts, thresholds: &Thresholds| {
        let enough = |count: u64| count >= min_requests;
        let hit_rate = counts.hit_rate().filter(|_| enough(counts.hits() + counts.misses()));
        let error_rate = counts.error_rate().filter(|_| enough(counts.requests()));
        let hit_latency = counts.hit_latency().filter(|_| enough(counts.hits()));
        let seconds = |time: Duration| time.as_secs_f64();
        for (watched, value, threshold) in [
            (Watched::HitRate, hit_rate, thresholds.hit_rate),
            (Watched::ErrorRate, error_rate, thresholds.error_rate),
            (Watched::HitLatency, hit_latency.map(seconds), thresholds.hit_latency.map(seconds)),
        ] {
            if let Some(threshold) = threshold {
                let subject = Subject { watched, family: family.map(str::to_owned) };
                readings.push(AlertReading { subject, value, threshold });
            }
        }
    };
    let has_hits = |name: &String| families.get(name).is_some_and(|thresholds| thresholds.hit_rate.is_some());
    let in_families = window.families.iter().filter(|(name, _)| has_hits(name));
    let sum = in_families.fold(Counts::default(), |sum, (_, counts)| sum.plus(counts));
    // The hit rate and latency are of families, errors are of everything.
    let everything = window.total();
    read(None, &sum, &Thresholds { error_rate: None, ..*all });
    read(None, &everything, &Thresholds { hit_rate: None, hit_latency: None, ..*all });
    for (name, thresholds) in families {
        read(Some(name), &window.families.get(name).copied().unwrap_or_default(), thresholds);
    }
    readings
}

/// Redis's memory. Without a `maxmemory` there is nothing to be near to. Larder's own memory is full whenever that pays.
async fn memory(running: &Running, config: &AlertsConfig) -> Option<AlertReading> {
    let threshold = config.memory?;
    let info = running.cache.store_handle()?.info().await.ok();
    let value = info.and_then(|info| {
        let (used, most) = (info.number("used_memory"), info.number("maxmemory"));
        (most > 0.0).then(|| used / most)
    });
    Some(AlertReading { subject: Subject { watched: Watched::Memory, family: None }, value, threshold })
}

fn announce(running: &Running, alert: &Alert) {
    let Alert { subject, value, threshold, cleared, what_to_do, cleared_because, .. } = alert;
    let is_raised = cleared.is_none();
    running.metrics.alert(subject.watched.name(), subject.family.as_deref().unwrap_or(""), is_raised);
    let (alert, family) = (subject.watched.name(), subject.family.as_deref());
    if is_raised {
        tracing::warn!(target: "larder::alerts", alert, family, value, threshold, what_to_do, "alert raised");
    } else {
        let because = cleared_because.unwrap_or_default();
        tracing::info!(target: "larder::alerts", alert, family, value, threshold, because, "alert cleared");
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::metrics::Metrics;
    use crate::outcome::{Outcome, OutcomeKind};

    #[test]
    fn hit_rates_are_of_families_and_errors_of_everything() {
        let metrics = Metrics::new();
        let count = |family: &str, kind, status, times| {
            let outcome = Outcome { kind, ..Outcome::hit(1) };
            (0..times).for_each(|_| metrics.family(family).answered(&outcome, status, Duration::from_millis(1)));
        };
        count("a", OutcomeKind::Hit, StatusCode::OK, 90);
        count("a", OutcomeKind::Miss, StatusCode::OK, 10);
        count("b", OutcomeKind::Miss, StatusCode::OK, 9);
        count(NO_FAMILY, OutcomeKind::Miss, StatusCode::BAD_GATEWAY, 100);
        let families = ["a", "b", NO_FAMILY].map(|name| (name.to_owned(), Counts::new(&metrics.family(name), 0)));
        let window = Window { covers: Duration::from_secs(60), families: families.into() };
        let all = Thresholds::default();
        let thresholds = BTreeMap::from(["a", "b"].map(|name| (name.to_owned(), all)));
        let readings = readings_of_requests(&window, &all, &thresholds, 10);
        let value = |watched, family: Option<&str>| {
            let subject = Subject { watched, family: family.map(str::to_owned) };
            readings.iter().find(|reading| reading.subject == subject).unwrap().value
        };
        assert_eq!(value(Watched::HitRate, None), Some(90.0 / 109.0));
        assert_eq!(value(Watched::ErrorRate, None), Some(100.0 / 209.0));
        assert_eq!(value(Watched::HitRate, Some("a")), Some(0.9));
        assert_eq!(value(Watched::HitRate, Some("b")), None, "nine requests are too few");
        assert_eq!(value(Watched::HitLatency, Some("a")), Some(0.001));
        assert_eq!(readings.len(), 3 + 2 * 3, "each subject has one reading");
    }
}
