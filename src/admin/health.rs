//! The health of the cache, its self-test, and the probes.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::fleet;
use super::key_stats::key_counts;
use super::refusal::{ErrorBody, Refusal};
use super::report::{CacheInfo, Larder, Passes, Performance, Statistics, Success, TestResults};
use super::self_test;
use super::state::{Answer, At};

#[derive(Serialize, ToSchema)]
pub struct Health {
    cache_info: CacheInfo,
}

/// State of the cache and its hit rate
#[utoipa::path(get, path = "/cache/health", tag = "state", responses(
    (status = 200, body = Success<Health>),
    (status = 503, description = "Redis does not answer", body = ErrorBody),
))]
pub async fn health(State(state): At) -> Answer<Health> {
    let tier = state.tier().await?;
    let performance = Performance::of(state.running().live().all_counters());
    Ok(Json(Success::of(Health { cache_info: state.cache_info(&tier, &performance) })))
}
#[derive(Serialize, ToSchema)]
pub struct DetailedHealth {
    timestamp: String,
    cache_info: CacheInfo,
    detailed_statistics: Statistics,
    /// State of this proxy in the fleet; null without a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<fleet::FleetSummary>,
}
/// The same with memory, connections and keys by family
#[utoipa::path(get, path = "/cache/health/detailed", tag = "state", responses(
    (status = 200, body = Success<DetailedHealth>),
    (status = 503, description = "Redis does not answer", body = ErrorBody),
))]
pub async fn detailed_health(State(state): At) -> Answer<DetailedHealth> {
    let tier = state.tier().await;
    let fleet = fleet::summary(&state).await;
    // Every field of it can be written as JSON.
    let tier = tier.map_err(|away| away.with("fleet", serde_json::to_value(&fleet).unwrap_or_default()))?;
    let counts = state.counts().await?;
    let live = state.running().live();
    let performance = Performance::of(live.all_counters());
    Ok(Json(Success::of(DetailedHealth {
        timestamp: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        cache_info: state.cache_info(&tier, &performance),
        detailed_statistics: Statistics {
            key_counts: key_counts(&counts, &live),
            complete: counts.keys.complete,
            counted_seconds_ago: counts.age().as_secs(),
            memory_usage: tier.memory,
            connections: tier.connections,
            performance,
            passes: Passes::of(live.all_counters()),
            redis_version: tier.version,
            redis_mode: tier.mode,
            larder: Larder::new(state.running().started.elapsed(), state.running().cache.usage()),
            redis: tier.redis,
        },
        fleet,
    })))
}
#[derive(Serialize, ToSchema)]
pub struct Tested {
    test_results: TestResults,
}
/// Writes, reads and removes an entry
#[utoipa::path(get, path = "/cache/test", tag = "state", responses(
    (status = 200, body = Success<Tested>),
    (status = 503, description = "a step failed; test_results says which", body = ErrorBody),
))]
pub async fn test(State(state): At) -> Answer<Tested> {
    let cache = &state.running().cache;
    let (test_results, error) = match cache.store_handle() {
        Some(store) => self_test::on_store(&**store).await,
        None => (self_test::in_memory(cache.memory()), None),
    };
    if test_results.passed() {
        return Ok(Json(Success::of(Tested { test_results })));
    }
    let refusal = match error {
        Some(error) => Refusal::store_away(&error.to_string()),
        None => Refusal::unavailable(
            "a test entry was not stored, found or removed",
            "look at test_results; give the cache room: [memory] capacity, or maxmemory in Redis",
        ),
    };
    // Every field of the results can be written as JSON.
    let results = serde_json::to_value(test_results).unwrap_or_default();
    Err(refusal.with("test_results", results))
}
/// 200 while the process runs; needs no token
#[utoipa::path(get, path = "/healthz", tag = "probes", security(()), responses(
    (status = 200, body = String, content_type = "text/plain"),
))]
pub async fn alive() -> &'static str {
    "ok\n"
}
#[derive(Serialize, ToSchema)]
pub struct Ready {
    ready: bool,
    /// `up`, `down: …`, `catching up: …`, or `none: embedded`.
    store: String,
}

/// 200 when requests can be served; needs no token
///
/// Ready without the store too, since requests then go upstream.
#[utoipa::path(get, path = "/readyz", tag = "probes", security(()), responses((status = 200, body = Ready)))]
pub async fn ready(State(state): At) -> Json<Ready> {
    Json(Ready { ready: true, store: fleet::state_of_store(state.running().cache.store_state()) })
}
