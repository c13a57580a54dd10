//! `GET /cache/history`: the last hour in points, for charts.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::report::Success;
use super::state::At;
use crate::mutex::lock;
use crate::upkeep::history::PAUSE;
use crate::upkeep::history::points::{FamilyPoint, Point, Points};

#[derive(Serialize, ToSchema)]
pub struct HistoryReport {
    /// Seconds between two points.
    step_s: u64,
    /// Of this proxy, at most an hour of them, the oldest first.
    points: Vec<Point>,
    /// The requests of each family that had any: one item for each point.
    families: BTreeMap<String, Vec<FamilyPoint>>,
}

/// What this proxy answered in the last hour, and what the cache saved, in points for charts
#[utoipa::path(get, path = "/cache/history", tag = "state", responses((status = 200, body = Success<HistoryReport>)))]
pub async fn history(State(state): At) -> Json<Success<HistoryReport>> {
    let points = lock(&state.running().points).all();
    let families = Points::by_family(&points);
    Json(Success::of(HistoryReport { step_s: PAUSE.as_secs(), points, families }))
}
