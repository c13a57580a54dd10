//! The routes about warming ([`crate::warm`]).

use std::time::{Duration, SystemTime};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{Method, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::refusal::{ErrorBody, Refusal};
use super::report::Success;
use super::state::At;
use crate::cache::StoreState;
use crate::config::WarmTable;
use crate::config::warm::paths::PathPattern;
use crate::rules::nearest::{did_you_mean, nearest};
use crate::running::{Live, Running};
use crate::upkeep::warming::{ReasonCount, WarmReport};
use crate::warm;

/// How long a request waits for the documents that name paths.
const LOOKED_FOR: Duration = Duration::from_secs(5);

/// Paths of a table that are looked at for the family of a request.
const LOOKED_AT: usize = 10_000;

#[derive(Serialize, ToSchema)]
pub struct WarmState {
    /// Which proxy warms by itself: `off` (there is no `[[warm]]`), `here`, `elsewhere`, or none (`redis-away`).
    warming: &'static str,
    /// What that means, and what to do.
    explanation: &'static str,
    tables: Vec<TableReport>,
    /// The run of this proxy that is under way; null: none.
    run: Option<RunReport>,
    /// The last runs of this proxy, the latest first.
    reports: Vec<RunReport>,
}

#[derive(Serialize, ToSchema)]
struct TableReport {
    /// In the rules file.
    line: usize,
    warms: String,
    when: String,
}

#[derive(Serialize, ToSchema)]
struct RunReport {
    /// Counts the runs of this proxy from 1.
    run: u64,
    occasion: &'static str,
    /// Null: all.
    family: Option<String>,
    began: String,
    /// Until now, if it is under way.
    seconds: f64,
    paths: u64,
    done: u64,
    fetched: u64,
    already_fresh: u64,
    not_stored: u64,
    failed: u64,
    /// Of what was not stored or failed, with the first path of each.
    reasons: Vec<ReasonCount>,
    /// Sources that could not be read.
    problems: Vec<String>,
}

impl From<WarmReport> for RunReport {
    fn from(report: WarmReport) -> RunReport {
        let ended = report.ended.unwrap_or_else(SystemTime::now);
        RunReport {
            run: report.run,
            occasion: report.occasion.word(),
            began: humantime::format_rfc3339_millis(report.began).to_string(),
            seconds: ended.duration_since(report.began).unwrap_or_default().as_secs_f64(),
            paths: report.paths,
            done: report.done(),
            fetched: report.fetched,
            already_fresh: report.already_fresh,
            not_stored: report.not_stored,
            failed: report.failed,
            reasons: report.reasons,
            problems: report.problems,
            family: report.family,
        }
    }
}

/// The warming run under way, the last runs, and what [[warm]] names
#[utoipa::path(get, path = "/cache/warm", tag = "warm", responses((status = 200, body = Success<WarmState>)))]
pub async fn warm_state(State(state): At) -> Json<Success<WarmState>> {
    let (running, live) = (state.running(), state.running().live());
    let (run, reports) = running.warming.reports();
    let tables = live.warm.iter().map(|table| {
        let (warms, when) = table.described();
        TableReport { line: table.line, warms, when }
    });
    Json(Success::of(WarmState {
        warming: running.warming.role().word(),
        explanation: running.warming.role().explanation(),
        tables: tables.collect(),
        run: run.map(RunReport::from),
        reports: reports.into_iter().map(RunReport::from).collect(),
    }))
}

#[derive(Serialize, ToSchema)]
pub struct Begun {
    message: String,
    /// Its number in `GET /cache/warm`.
    run: u64,
}

/// Warms everything that [[warm]] names
#[utoipa::path(post, path = "/cache/warm", tag = "warm", responses(
    (status = 202, description = "begun", body = Success<Begun>),
    (status = 409, description = "a run is under way, or nothing would be fetched", body = ErrorBody),
    (status = 503, description = "Redis does not answer", body = ErrorBody),
))]
pub async fn warm_all(State(state): At) -> Result<Response, Refusal> {
    begin(state.running(), None).await
}

/// Warms what of it belongs to this family
#[utoipa::path(post, path = "/cache/warm/{family}", tag = "warm", security(("token" = ["families"])),
    params(("family" = String, Path, description = "a family, or a level")),
    responses(
        (status = 202, description = "begun", body = Success<Begun>),
        (status = 404, description = "there is no such family", body = ErrorBody),
        (status = 409, description = "a run is under way, or nothing would be fetched", body = ErrorBody),
        (status = 503, description = "Redis does not answer", body = ErrorBody),
    ))]
pub async fn warm_family(
    State(state): At,
    Extension(caller): Extension<Caller>,
    family: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(family) = family?;
    caller.check_family(&family)?;
    begin(state.running(), Some(family)).await
}

async fn begin(running: &Running, family: Option<String>) -> Result<Response, Refusal> {
    let live = running.live();
    if live.warm.is_empty() {
        let what_to_do = "add [[warm]] with paths, file, openapi, sitemap or family to the rules file";
        return Err(Refusal::conflict("nothing to warm: the rules have no [[warm]]", what_to_do));
    }
    if let Some(family) = &family {
        check_family(&live, family)?;
    }
    if let StoreState::Down(reason) = running.cache.store_state() {
        let what_to_do =
            "nothing that is fetched could be stored; ask again when GET /cache/health says that Redis answers";
        let error = format!("Redis does not answer: {reason}");
        return Err(Refusal::unavailable(error, what_to_do));
    }
    check_paths(running, &live, family.as_deref()).await?;
    let what = family.as_ref().map_or_else(|| "all caches".to_owned(), |family| format!("the cache of {family}"));
    match running.warming.want(family) {
        Ok(run) => {
            let message = format!("Warming of {what} begun; GET /cache/warm shows its progress");
            Ok((StatusCode::ACCEPTED, Json(Success::of(Begun { message, run }))).into_response())
        }
        Err(run) => {
            let error = format!("run {run} of this proxy is under way");
            Err(Refusal::conflict(error, "wait for its end: GET /cache/warm shows its progress").with("run", run))
        }
    }
}

/// A family that no table can warm is refused.
fn check_family(live: &Live, family: &str) -> Result<(), Refusal> {
    let names: Vec<&str> = live.rules.families().iter().map(|known| known.name.as_str()).collect();
    if !names.iter().any(|name| is_within(name, family)) {
        let what_to_do =
            did_you_mean(&nearest(family, names.iter().copied()), || format!("there are {}", names.join(", ")));
        return Err(Refusal::not_found(format!("unknown family {family:?}"), what_to_do));
    }
    if !live.warm.iter().any(|table| may_warm(live, table, family)) {
        let what_to_do = format!("add [[warm]] with family = {family:?}, or with paths of it, to the rules file");
        return Err(Refusal::conflict(format!("no [[warm]] names a path of {family:?}"), what_to_do));
    }
    Ok(())
}

/// A run that would find nothing to fetch is refused.
async fn check_paths(running: &Running, live: &Live, family: Option<&str>) -> Result<(), Refusal> {
    let found = tokio::time::timeout(LOOKED_FOR, warm::find_paths(running, live, family)).await;
    // What takes longer is left to the run, which reports it.
    let Ok((0, problems)) = found else { return Ok(()) };
    let of = family.map_or_else(String::new, |family| format!(" of {family:?}"));
    let what_to_do = match problems.is_empty() {
        true => {
            "a [[warm]] with family or predict fetches what clients have asked for: ask again after some requests; name other paths \
             with paths, file, openapi or sitemap"
        }
        false => "mend the sources in `problems`, which could not be read",
    };
    let error = format!("no [[warm]] names a path{of} now: nothing would be fetched");
    Err(Refusal::conflict(error, what_to_do).with("problems", problems))
}

/// Whether a family is this one, or below it.
fn is_within(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// What documents and files name is known only in a run.
fn may_warm(live: &Live, table: &WarmTable, family: &str) -> bool {
    let is_open = table.file.is_some() || table.openapi.is_some() || table.sitemap.is_some();
    let has_reads = table.reads.as_ref().is_some_and(|reads| is_within(&reads.family, family));
    let is_of = |path: String| {
        let path = path.split('?').next().unwrap_or_default().to_owned();
        live.rules.route(&Method::GET, &path).is_some_and(|route| is_within(&route.family.name, family))
    };
    let mut paths = table.paths.iter().flat_map(PathPattern::expand).take(LOOKED_AT);
    is_open || has_reads || paths.any(is_of)
}
