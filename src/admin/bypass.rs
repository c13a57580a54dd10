//! `/cache/bypass`: forwards the requests of a family for a while, without the cache, in the whole fleet.

#![allow(unused_qualifications, reason = "utoipa writes one for each IntoParams")]

use std::time::{Duration, Instant};

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::named::resolve;
use super::refusal::{ErrorBody, Refusal};
use super::report::Success;
use super::state::{AdminState, Answer, At};
use crate::cache::status::BypassChange;
use crate::upkeep::bypasses::{self, Bypass};

#[derive(Serialize, ToSchema)]
pub struct BypassList {
    bypasses: Vec<BypassReport>,
    /// `fleet`: all proxies with this Redis and namespace follow them, also those that start later. `proxy`: there is no Redis, and
    /// they hold for this proxy alone.
    scope: &'static str,
    /// After a change: how many proxies follow it. One that does not has not synced since.
    #[serde(skip_serializing_if = "Option::is_none")]
    followers: Option<Followers>,
}

/// Proxies that follow a change.
#[derive(Serialize, ToSchema)]
struct Followers {
    follow: usize,
    of: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct BypassReport {
    /// With the families below it.
    family: String,
    until: String,
    /// The name of the token, or `local`.
    by: String,
}

/// How long.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BypassQuery {
    /// Such as `30s`, `10m`, `2h`; at most a day; `10m` if it is not given.
    #[serde(rename = "for")]
    #[param(rename = "for", example = "10m")]
    lasting: Option<String>,
}

/// The bypasses of operators that this proxy follows.
pub fn reports(state: &AdminState) -> Vec<BypassReport> {
    let report = |bypass: Bypass| BypassReport {
        family: bypass.family,
        until: humantime::format_rfc3339_seconds(bypass.until).to_string(),
        by: bypass.by,
    };
    state.running().cache.bypasses().all(Instant::now()).into_iter().map(report).collect()
}

fn list(state: &AdminState, followers: Option<Followers>) -> BypassList {
    let is_shared = state.running().cache.store_handle().is_some();
    BypassList { bypasses: reports(state), scope: if is_shared { "fleet" } else { "proxy" }, followers }
}

/// Sets a bypass, in the fleet if there is one; `lasting` zero ends it.
async fn set(
    state: &AdminState,
    family: &str,
    lasting: Duration,
    by: &str,
) -> Result<(bool, BypassList), Refusal> {
    let changed = state.running().cache.set_bypass(family, lasting, by).await;
    match changed.map_err(|error| Refusal::store_away(&error.to_string()))? {
        BypassChange::TooMany => {
            let what_to_do = "end one with DELETE /cache/bypass/{family}, or name a level";
            Err(Refusal::conflict("there are too many bypasses", what_to_do))
        }
        BypassChange::Done { was_one, followers, members } => {
            let followers = Followers { follow: followers, of: members };
            Ok((was_one, list(state, Some(followers))))
        }
    }
}

/// The families that are forwarded without the cache, and until when
#[utoipa::path(get, path = "/cache/bypass", tag = "bypass", responses((status = 200, body = Success<BypassList>)))]
pub async fn bypasses(State(state): At) -> Json<Success<BypassList>> {
    Json(Success::of(list(&state, None)))
}

/// Forwards the requests of a family without the cache for a while: ?for=10m
///
/// It ends by itself. Writes invalidate as ever meanwhile. The whole fleet follows it, also proxies that start later; the answer says
/// how many do.
#[utoipa::path(post, path = "/cache/bypass/{family}", tag = "bypass", security(("token" = ["families"])),
    params(("family" = String, Path, description = "a family, or a level with the families below it"), BypassQuery),
    responses(
        (status = 200, body = Success<BypassList>),
        (status = 404, description = "there is no such family", body = ErrorBody),
        (status = 409, description = "there are too many bypasses", body = ErrorBody),
        (status = 503, description = "Redis does not answer", body = ErrorBody),
    ))]
pub async fn begin_bypass(
    State(state): At,
    Extension(caller): Extension<Caller>,
    family: Result<Path<String>, PathRejection>,
    query: Result<Query<BypassQuery>, QueryRejection>,
) -> Answer<BypassList> {
    let (Path(family), Query(query)) = (family?, query?);
    caller.check_family(&family)?;
    let running = state.running();
    let live = running.live();
    let names = live.rules.families().iter().map(|known| known.name.as_str());
    let is_within =
        |name: &str| name.strip_prefix(&*family).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    if !names.clone().any(is_within) {
        resolve(&live, &family)?;
        let what_to_do = "name a family, or a level, and no instance or glob";
        return Err(Refusal::not_found(format!("{family:?} is no family"), what_to_do));
    }
    let lasting = query.lasting.as_deref().unwrap_or("10m");
    let lasting = humantime::parse_duration(lasting).ok().filter(|it| !it.is_zero() && *it <= bypasses::LONGEST);
    let lasting = lasting.ok_or_else(|| {
        let error =
            format!("for = {:?} is no time of at most a day", query.lasting.as_deref().unwrap_or_default());
        Refusal::bad_request(error, "write ?for=30s, ?for=10m or ?for=2h")
    })?;
    let by = caller.caller.token().map_or_else(|| caller.caller.role().to_owned(), |token| token.name.clone());
    let (_, list) = set(&state, &family, lasting, &by).await?;
    Ok(Json(Success::of(list)))
}

/// Ends a bypass before its time
#[utoipa::path(delete, path = "/cache/bypass/{family}", tag = "bypass", security(("token" = ["families"])),
    params(("family" = String, Path, description = "as GET /cache/bypass lists it")),
    responses(
        (status = 200, body = Success<BypassList>),
        (status = 404, description = "it is not bypassed", body = ErrorBody),
        (status = 503, description = "Redis does not answer", body = ErrorBody),
    ))]
pub async fn end_bypass(
    State(state): At,
    Extension(caller): Extension<Caller>,
    family: Result<Path<String>, PathRejection>,
) -> Answer<BypassList> {
    let Path(family) = family?;
    caller.check_family(&family)?;
    let (was_one, list) = set(&state, &family, Duration::ZERO, "").await?;
    if !was_one {
        let error = format!("{family:?} is not bypassed");
        return Err(Refusal::not_found(error, "GET /cache/bypass lists those that are"));
    }
    Ok(Json(Success::of(list)))
}
