//! `GET /cache/top`: what is served, missed and invalidated most, and what is largest and slowest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::refusal::{ErrorBody, Refusal};
use super::report::Success;
use super::state::{Answer, At, Shared};
use super::walk::{StoredUrl, WalkedEntries};
use crate::metrics::NO_FAMILY;
use crate::monitor;
use crate::running::Running;
use crate::upkeep::history::WINDOWS;
use crate::upkeep::invalidation_log;
use crate::upkeep::names::FamilyOwners;
use crate::upkeep::space_saving::SpaceSaving;

/// Most items of a list.
const MOST: usize = 100;
/// Items of a list where the request does not say.
const USUAL: usize = 10;
/// Records of the log that are looked at for the most invalidated tags.
const RECORDS: usize = 2000;

#[derive(Debug, Deserialize)]
pub struct TopQuery {
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub struct TopReport {
    /// When this proxy began to count, RFC 3339.
    since: String,
    /// The entries in memory of this proxy that it served most, since they are there.
    hottest: Vec<HotUrl>,
    /// The URLs of which most reads were not answered from the cache. Estimated: never too low.
    missed: Vec<MissedUrl>,
    /// The tags in the latest records of the log.
    invalidated: Vec<InvalidatedTag>,
    /// The families with the lowest hit rates of the last hour.
    worst: Vec<WorstFamily>,
    /// The largest entries in memory.
    largest: Vec<LargeUrl>,
    /// Of the URLs that upstream spends the most time on, those that take longest.
    slowest: Vec<SlowUrl>,
    /// False: memory has more entries than were looked at.
    complete: bool,
}

#[derive(Serialize, ToSchema)]
struct HotUrl {
    url: String,
    family: String,
    hits: u32,
}

#[derive(Serialize, ToSchema)]
struct MissedUrl {
    url: String,
    family: String,
    count: u64,
}

#[derive(Serialize, ToSchema)]
struct InvalidatedTag {
    tag: String,
    count: u64,
}

#[derive(Serialize, ToSchema)]
struct WorstFamily {
    family: String,
    /// Percent.
    hit_rate: f64,
    /// Hits and misses.
    requests: u64,
}

#[derive(Serialize, ToSchema)]
struct LargeUrl {
    url: String,
    family: String,
    /// In memory, with its head.
    bytes: u64,
}

#[derive(Serialize, ToSchema)]
struct SlowUrl {
    url: String,
    family: String,
    /// Mean time until the head of upstream's response, milliseconds.
    ms: f64,
    /// How often it was fetched since it is counted.
    count: u64,
}

/// What this proxy serves and misses most, its worst families, and what is largest, slowest and invalidated most
#[utoipa::path(get, path = "/cache/top", tag = "state",
    params(("limit" = Option<usize>, Query, description = "items of each list, from 1 to 100; 10 if it is not given")),
    responses(
        (status = 200, body = Success<TopReport>),
        (status = 400, description = "the limit is out of range", body = ErrorBody),
    ))]
pub async fn top(State(state): At, query: Result<Query<TopQuery>, QueryRejection>) -> Answer<TopReport> {
    let malformed = |error: String| Refusal::bad_request(error, "ask GET /cache/top?limit=10, or for up to 100");
    let Query(query) = query.map_err(|rejection| malformed(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(malformed(format!("limit={limit} is out of range")));
    }
    let running = state.running();
    let (invalidated, walked) = tokio::join!(most_invalidated(running, limit), walked(&state));
    let owners = FamilyOwners::of(&running.live().rules);
    let family = |entry: &StoredUrl| owners.of_tags(&entry.tags).to_owned();
    let hottest = walked.hottest.iter().take(limit);
    let hottest = hottest.map(|it| HotUrl { url: it.url.clone(), family: family(it), hits: it.hits });
    let largest = walked.largest.iter().take(limit);
    let largest = largest.map(|it| LargeUrl { url: it.url.clone(), family: family(it), bytes: it.bytes });
    let missed = running.top.most_missed(limit).into_iter();
    let missed = missed.map(|(url, it)| MissedUrl { url, family: it.value.family.into(), count: it.count });
    let slowest = running.top.slowest(limit).into_iter().map(|(url, it)| SlowUrl {
        url,
        ms: (it.value.mean().as_secs_f64() * 1e6).round() / 1e3,
        count: it.value.times,
        family: it.value.family.into(),
    });
    let since = SystemTime::now().checked_sub(running.started.elapsed());
    Ok(Json(Success::of(TopReport {
        since: invalidation_log::time(since.unwrap_or(SystemTime::UNIX_EPOCH)),
        hottest: hottest.collect(),
        missed: missed.collect(),
        invalidated,
        worst: worst(running, limit),
        largest: largest.collect(),
        slowest: slowest.collect(),
        complete: walked.complete,
    })))
}

/// The hottest and largest entries in memory, as of some seconds ago at most.
async fn walked(state: &Shared) -> Arc<WalkedEntries> {
    if let Some(walked) = state.last_walk().get() {
        return walked;
    }
    let walking = Arc::clone(state);
    let walked = tokio::task::spawn_blocking(move || {
        walking.last_walk().note(WalkedEntries::of(walking.running().cache.memory(), MOST))
    });
    walked.await.unwrap_or_default()
}

async fn most_invalidated(running: &Running, most: usize) -> Vec<InvalidatedTag> {
    // Without a position it does not fail.
    let page = running.cache.read_log(None, RECORDS, |_| true).await.unwrap_or_default();
    let mut tags = SpaceSaving::<()>::new(RECORDS);
    for tag in page.records.iter().flat_map(|record| &record.tags) {
        tags.add(tag, 1, |()| {});
    }
    let highest = tags.highest(most).into_iter();
    highest.map(|(tag, counter)| InvalidatedTag { tag: tag.to_owned(), count: counter.count }).collect()
}

fn worst(running: &Running, most: usize) -> Vec<WorstFamily> {
    let sample = monitor::sample(running, &running.live());
    let hour = WINDOWS.iter().map(|(_, length)| *length).max().unwrap_or_default();
    let window = monitor::window(running, &sample, hour);
    let families: BTreeMap<_, _> = window.families.into_iter().filter(|(name, _)| name != NO_FAMILY).collect();
    let mut worst: Vec<WorstFamily> = families
        .into_iter()
        .filter_map(|(family, counts)| {
            let hit_rate = (counts.hit_rate()? * 1000.0).round() / 10.0;
            Some(WorstFamily { family, hit_rate, requests: counts.hits() + counts.misses() })
        })
        .collect();
    worst.sort_by(|one, other| one.hit_rate.total_cmp(&other.hit_rate).then(other.requests.cmp(&one.requests)));
    worst.truncate(most);
    worst
}
