//! `GET /cache/stats` and `GET /cache/alerts`.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::key_stats::{Swept, key_counts};
use super::refusal::ErrorBody;
use super::report::{CacheInfo, Larder, MemoryUsage, Passes, Performance, Success};
use super::state::{Answer, At};
use crate::monitor;
use crate::mutex::lock;
use crate::running::Running;
use crate::upkeep::alerts::Alert;
use crate::upkeep::history::{Rates, WINDOWS};
use crate::upkeep::unmatched::Known;
use crate::upstream::LastFailure;

/// By the name of the window: `1m`, `5m`, `1h`.
type Windows = BTreeMap<&'static str, Rates>;

#[derive(Serialize, ToSchema)]
pub struct Stats {
    cache_info: CacheInfo,
    #[serde(flatten)]
    performance: Performance,
    #[serde(flatten)]
    passes: Passes,
    /// Of everything.
    #[schema(value_type = BTreeMap<String, Rates>)]
    rates: Windows,
    /// By family; `none`: requests without one.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, Rates>>)]
    families: BTreeMap<String, Windows>,
    /// Of the tier that holds the entries.
    memory_usage: MemoryUsage,
    larder: Larder,
    #[schema(value_type = BTreeMap<String, u64>)]
    key_counts: Map<String, Value>,
    /// False: the count stopped at a limit, and the numbers are lower bounds.
    complete: bool,
    /// Writes that no rule matches.
    writes_unmatched: Known,
    upstream: UpstreamReport,
    #[serde(flatten)]
    swept: Swept,
}

#[derive(Serialize, ToSchema)]
struct UpstreamReport {
    /// Null: there was none.
    last_failure: Option<LastFailure>,
}

/// Rates of the last minute, five minutes and hour, memory, and keys by family
#[utoipa::path(get, path = "/cache/stats", tag = "state", responses(
    (status = 200, body = Success<Stats>),
    (status = 503, description = "Redis does not answer", body = ErrorBody),
))]
pub async fn stats(State(state): At) -> Answer<Stats> {
    let tier = state.tier().await?;
    let counts = state.counts().await?;
    let running = state.running();
    let live = running.live();
    let performance = Performance::of(live.all_counters());
    let (rates, families) = rates(running);
    Ok(Json(Success::of(Stats {
        cache_info: state.cache_info(&tier, &performance),
        performance,
        passes: Passes::of(live.all_counters()),
        rates,
        families,
        memory_usage: tier.memory,
        larder: Larder::new(running.started.elapsed(), running.cache.usage()),
        key_counts: key_counts(&counts, &live),
        complete: counts.keys.complete,
        writes_unmatched: running.unmatched.known(),
        upstream: UpstreamReport { last_failure: running.upstream.last_failure() },
        swept: Swept::of(state.running(), Some(&counts)),
    })))
}

/// The rates of everything, and of each family.
fn rates(running: &Running) -> (Windows, BTreeMap<String, Windows>) {
    let sample = monitor::sample(running, &running.live());
    let (mut all, mut families) = (Windows::new(), BTreeMap::<String, Windows>::new());
    for (name, length) in WINDOWS {
        let window = monitor::window(running, &sample, length);
        all.insert(name, Rates::new(&window.total(), window.covers));
        for (family, counts) in &window.families {
            families.entry(family.clone()).or_default().insert(name, Rates::new(counts, window.covers));
        }
    }
    (all, families)
}

#[derive(Serialize, ToSchema)]
pub struct AlertReport {
    /// Those that are raised.
    alerts: Vec<Alert>,
    /// Those that were cleared, the latest first; at most 100.
    cleared: Vec<Alert>,
    thresholds: ThresholdReport,
}

/// Percent, or milliseconds and seconds where the name says so; null: never.
#[derive(Serialize, ToSchema)]
struct ThresholdReport {
    hit_rate: Option<f64>,
    error_rate: Option<f64>,
    hit_latency_ms: Option<f64>,
    memory: Option<f64>,
    store_away_seconds: Option<f64>,
    window_seconds: f64,
    min_requests: u64,
    webhook: bool,
}

/// Alerts that are raised, those that were, and the thresholds
#[utoipa::path(get, path = "/cache/alerts", tag = "state", responses((status = 200, body = Success<AlertReport>)))]
pub async fn alerts(State(state): At) -> Json<Success<AlertReport>> {
    let live = state.running().live();
    let config = &live.alerts;
    let percent = |part: Option<f64>| part.map(|part| (part * 1000.0).round() / 10.0);
    let seconds = |time: Duration| time.as_secs_f64();
    let thresholds = ThresholdReport {
        hit_rate: percent(config.thresholds.hit_rate),
        error_rate: percent(config.thresholds.error_rate),
        hit_latency_ms: config.thresholds.hit_latency.map(|time| seconds(time) * 1000.0),
        memory: percent(config.memory),
        store_away_seconds: config.store_away.map(seconds),
        window_seconds: seconds(config.window),
        min_requests: config.min_requests,
        webhook: config.webhook.is_some(),
    };
    let alerts = lock(&state.running().alerts);
    Json(Success::of(AlertReport {
        alerts: alerts.raised().cloned().collect(),
        cleared: alerts.cleared().cloned().collect(),
        thresholds,
    }))
}
