//! `GET /cache/log`: the log of invalidations.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::refusal::{ErrorBody, Refusal};
use super::report::Success;
use super::state::{Answer, At};
use crate::upkeep::invalidation_log::{InvalidationRecord, OriginKind};

/// Most records of a page.
const MOST: usize = 500;
/// Records of a page where the request does not say.
const USUAL: usize = 100;

#[derive(Debug, Deserialize)]
pub struct LogQuery {
    limit: Option<usize>,
    before: Option<String>,
    family: Option<String>,
    cause: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct LogReport {
    /// The latest first.
    invalidations: Vec<InvalidationRecord>,
    /// `before` of the next page; null: there are no older ones. A page may have fewer than asked for, and not be the last.
    older: Option<String>,
    /// False: Redis does not answer, and these are the latest of this proxy alone.
    complete: bool,
}

/// The latest invalidations of the whole fleet, with their causes and the rules that fired
#[utoipa::path(get, path = "/cache/log", tag = "state",
    params(
        ("limit" = Option<usize>, Query, description = "from 1 to 500; 100 if it is not given"),
        ("before" = Option<String>, Query, description = "`older` of the page before"),
        ("family" = Option<String>, Query, description = "only invalidations that reached this family"),
        ("cause" = Option<OriginKind>, Query, description = "only those of this kind"),
    ),
    responses(
        (status = 200, body = Success<LogReport>),
        (status = 400, description = "a parameter cannot be read", body = ErrorBody),
    ))]
pub async fn log(State(state): At, query: Result<Query<LogQuery>, QueryRejection>) -> Answer<LogReport> {
    let Query(query) = query.map_err(|rejection| malformed(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(malformed(format!("limit={limit} is out of range")));
    }
    let cause = query.cause.as_deref().map(kind).transpose()?;
    let is_wanted = |record: &InvalidationRecord| {
        cause.is_none_or(|cause| record.cause.kind == cause)
            && query.family.as_ref().is_none_or(|family| record.families.contains(family))
    };
    let page = state.running().cache.read_log(query.before.as_deref(), limit, is_wanted).await;
    let page = page.map_err(|_| malformed("before is no position in the log"))?;
    Ok(Json(Success::of(LogReport { invalidations: page.records, older: page.older, complete: page.is_of_fleet })))
}

fn kind(text: &str) -> Result<OriginKind, Refusal> {
    serde_json::from_value(text.into()).map_err(|_| malformed(format!("there is no cause {text:?}")))
}

fn malformed(error: impl Into<String>) -> Refusal {
    let what_to_do = "ask GET /cache/log?limit=100 (1 to 500), with &before= what the page before has in `older`, &family= a \
                      family's name, &cause= write, purge, deploy, again, recovered, rules or safety";
    Refusal::bad_request(error, what_to_do)
}
