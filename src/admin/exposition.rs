//! `GET /metrics`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

use super::state::{At, resident};
use crate::cache::StoreState;
use crate::logs;
use crate::running::Running;

/// Counters in the OpenMetrics text format
#[utoipa::path(get, path = "/metrics", tag = "state", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
))]
pub async fn metrics(State(state): At) -> Response {
    let (running, usage) = (state.running(), state.running().cache.usage());
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    state.note_usage();
    running.metrics.memory_entries.set(number(usage.entries));
    running.metrics.memory_bytes.set(number(usage.bytes));
    running.metrics.memory_capacity.set(number(usage.capacity));
    running.metrics.evicted(usage.evictions);
    running.metrics.resident_memory.set(number(resident().unwrap_or(0)));
    running.metrics.log_lines_were_lost(logs::lost());
    let places = running.upstream.places_in_use();
    running.metrics.upstream_requests.set(number(places.requests));
    running.metrics.upstream_queued.set(number(places.queued));
    running.metrics.upstream_streams.set(number(places.streams));
    running.metrics.undelivered.set(number(running.cache.undelivered() as u64));
    let is_up = !matches!(running.cache.store_state(), StoreState::Down(_));
    running.metrics.store_up.set(i64::from(is_up));
    let key_stats = state.key_stats_stored().await.unwrap_or_default();
    running.metrics.stored(key_stats.families.iter().map(|(name, kept)| (name.as_str(), kept.keys, kept.bytes)));
    note_fleet(running).await;
    running.metrics.lease_held.set(i64::from(running.cache.holds_lease() == Some(true)));
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, TEXT)], running.metrics.exposition()).into_response()
}

/// Sets the gauges of the fleet, as Redis knows it. Asks Redis once, if there is one.
async fn note_fleet(running: &Running) {
    let roster = match running.cache.store_handle() {
        Some(store) => store.roster().await.ok(),
        None => None,
    };
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    running.metrics.members.set(number(roster.as_ref().map_or(0, |roster| roster.members.len() as u64)));
    running.metrics.intents.set(number(roster.as_ref().map_or(0, |roster| roster.intents)));
    let epoch = roster.as_ref().filter(|roster| roster.stamp.is_some());
    running.metrics.epoch_age.set(epoch.map_or(0.0, |roster| roster.state.age.as_secs_f64()));
}
