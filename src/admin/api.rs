//! The handlers of the routes. An error becomes a [`Refusal`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode, Uri};
use serde::Serialize;
use serde_json::{Value, json};

use super::fleet;
use super::key_stats::CountedKeys;
use super::refusal::Refusal;
use super::report::{
    self, CacheInfo, EditFault, FamilyActivity, FamilyDefinition, FamilyReport, InvalidationDefinition,
    KeyStatsReport, Larder, Passes, Performance, Statistics, Success, TestResults,
};
use super::routes::{self, ROUTES};
use super::self_test;
use super::state::AdminState;
use crate::cache::StoreState;
use crate::config::LoadError;
use crate::logs;
use crate::marks::Tag;
use crate::rules::fault::Fault;
use crate::rules::nearest::{did_you_mean, nearest};
use crate::rules::{InstanceEverywhere, LeftOut};
use crate::running::{Live, Running};
use crate::upkeep::names::FamilyOwners;

pub(super) type At = State<Arc<AdminState>>;
pub(super) type Answer<T> = Result<Json<Success<T>>, Refusal>;

#[derive(Serialize)]
struct Purged {
    message: String,
    /// For an instance in all families that have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    families: Option<Vec<String>>,
    /// The families with such an instance in which nothing was invalidated, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<LeftOut>,
    /// The store has it. True without a store.
    delivered: bool,
}

/// Purges: invalidates for an operator. `message`: of the response.
async fn purge(state: &AdminState, tags: &[Tag], message: String) -> Response {
    purge_in(state, tags, message, None, Vec::new()).await
}

async fn purge_in(
    state: &AdminState,
    tags: &[Tag],
    message: String,
    families: Option<Vec<String>>,
    left_out: Vec<LeftOut>,
) -> Response {
    let live = state.running().live();
    let names = FamilyOwners::of(&live.rules);
    let reached: BTreeSet<&str> = tags.iter().flat_map(|tag| names.reached(tag)).collect();
    reached.into_iter().for_each(|family| state.running().metrics.invalidated(family, "purge"));
    let delivered = state.running().cache.invalidate(tags).await.is_some();
    purged(message, families, left_out, delivered).into_response()
}

fn purged(
    message: String,
    families: Option<Vec<String>>,
    left_out: Vec<LeftOut>,
    delivered: bool,
) -> (StatusCode, Json<Success<Purged>>) {
    let (status, message) = match delivered {
        true => (StatusCode::OK, message),
        // It is in force here: until the store has it, nothing stored is served.
        false => (
            StatusCode::ACCEPTED,
            format!("{message}, but Redis does not answer: other proxies get the invalidation when it is back"),
        ),
    };
    (status, Json(Success::of(Purged { message, families, left_out, delivered })))
}

/// `GET /`
pub async fn index() -> Json<Success<Value>> {
    Json(Success::of(json!({ "name": "larder", "version": env!("CARGO_PKG_VERSION"), "routes": ROUTES })))
}

#[derive(Serialize)]
pub struct Health {
    cache_info: CacheInfo,
}

/// `GET /cache/health`
pub async fn health(State(state): At) -> Answer<Health> {
    let tier = state.tier().await?;
    let performance = Performance::of(state.running().live().all_counters());
    Ok(Json(Success::of(Health { cache_info: state.cache_info(&tier, &performance) })))
}

#[derive(Serialize)]
pub struct DetailedHealth {
    timestamp: String,
    cache_info: CacheInfo,
    detailed_statistics: Statistics,
    /// State of this proxy in the fleet; null without a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<fleet::Brief>,
}

/// `GET /cache/health/detailed`
pub async fn detailed_health(State(state): At) -> Answer<DetailedHealth> {
    let tier = state.tier().await;
    let fleet = fleet::brief(&state).await;
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

pub(super) fn key_counts(counts: &CountedKeys, live: &Live) -> serde_json::Map<String, Value> {
    report::key_counts(&counts.keys, live.rules.families().iter().map(|family| family.name.as_str()))
}

/// The sweeper of the store.
#[derive(Serialize)]
pub(super) struct Swept {
    /// What it does in this proxy: `off`, `elsewhere`, `resting`, `sweeping`.
    sweeper: &'static str,
    /// Its last scan, if the counts come from it; null: they were counted for this request.
    key_stats: Option<KeyStatsReport>,
    /// How long ago the keys were counted; null: they were not.
    counted_seconds_ago: Option<u64>,
}

impl Swept {
    pub(super) fn of(state: &AdminState, counts: Option<&CountedKeys>) -> Swept {
        let key_stats = counts.and_then(|counts| counts.swept.as_ref()).map(KeyStatsReport::from);
        let counted_seconds_ago = counts.map(|counts| counts.age().as_secs());
        Swept { sweeper: state.running().cache.sweeping().word(), key_stats, counted_seconds_ago }
    }
}

#[derive(Serialize)]
pub struct Tested {
    test_results: TestResults,
}

/// `GET /cache/test`
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
        None => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "a test entry was not stored, found or removed",
            "look at test_results; give the cache room: [memory] capacity, or maxmemory in Redis",
        ),
    };
    // Every field of the results can be written as JSON.
    let results = serde_json::to_value(test_results).unwrap_or_default();
    Err(refusal.with("test_results", results))
}

#[derive(Serialize)]
pub struct Families {
    /// In the order of the rules file.
    families: Vec<FamilyReport>,
    /// Requests outside families.
    without_family: FamilyActivity,
    /// False: keys are lower bounds, or were not counted.
    complete: bool,
    #[serde(flatten)]
    swept: Swept,
}

/// `GET /cache/families`
pub async fn families(State(state): At) -> Json<Success<Families>> {
    let counts = state.counts().await.ok();
    let counts = counts.as_deref();
    let live = state.running().live();
    let activity = |id| {
        let counters = live.counters(id);
        let (keys, bytes) = counts.map_or((None, None), |counts| counts.of(&counters.family));
        FamilyActivity::new(counters, keys, bytes)
    };
    let report = |definition: FamilyDefinition, id| FamilyReport { definition, activity: activity(Some(id)) };
    let definitions = definitions(&live).into_iter().zip(0..);
    Json(Success::of(Families {
        families: definitions.map(|(definition, id)| report(definition, id)).collect(),
        without_family: activity(None),
        complete: counts.is_some_and(|counts| counts.keys.complete),
        swept: Swept::of(&state, counts),
    }))
}

fn definitions(live: &Live) -> Vec<FamilyDefinition> {
    let families = live.rules.families().iter();
    families.map(|family| FamilyDefinition::new(family, &live.rules.invalidating(family))).collect()
}

/// `POST /cache/clear`
pub async fn purge_all(State(state): At) -> Response {
    let response = purge(&state, &[Tag::root()], "Purged everything".to_owned()).await;
    state.running().cache.memory().clear();
    response
}

/// `POST /cache/clear/{family}`: a family, a level, a glob, or a whole reference such as `room:7:8`.
pub async fn purge_family(
    State(state): At,
    family: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(family) = family?;
    let tags = resolve(&state.running().live(), &family)?;
    Ok(purge(&state, &tags, format!("Purged {family}")).await)
}

/// `POST /cache/clear/{name}/{value}`: the value of the first instance of the family with this name, and the value of the
/// instances with this name in every family that has one. `user` is `user_id` too.
pub async fn purge_instance(
    State(state): At,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path((name, value)) = path?;
    let live = state.running().live();
    let secret = live.redaction.secret.as_ref();
    let reference = reference(&name, &value);
    let found = live.rules.instance_everywhere(&name, &value, secret);
    let found = match (live.rules.resolve(&reference, secret), found) {
        (Ok(tags), found) => {
            let mut found = found.unwrap_or_default();
            let owners = FamilyOwners::of(&live.rules);
            found.families.extend(tags.iter().flat_map(|tag| owners.reached(tag)).map(str::to_owned));
            found.families.sort_unstable();
            found.families.dedup();
            found.tags.extend(tags);
            found.tags.sort_unstable();
            found.tags.dedup();
            found
        }
        // The family has no such instance, and others do.
        (Err(fault), Ok(mut found)) if fault.instance.is_none() || found.families.iter().any(|it| *it != name) => {
            let is_known = |left_out: &LeftOut| left_out.family == name;
            if let Some((why, _)) = fault.instance
                && !found.left_out.iter().any(is_known)
                && !found.families.contains(&name)
            {
                found.left_out.push(LeftOut { family: name.clone(), why });
            }
            found
        }
        _ => return Err(resolve(&live, &reference).err().unwrap_or_else(|| unknown_instance(&name, &[]))),
    };
    everywhere(&state, found, &name, &value).await
}

/// `POST /cache/instances/{name}/{value}/clear`: the instance in every family that has one of this name.
pub async fn purge_everywhere(
    State(state): At,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path((name, value)) = path?;
    let live = state.running().live();
    let found = live.rules.instance_everywhere(&name, &value, live.redaction.secret.as_ref());
    let found = found.map_err(|have| unknown_instance(&name, &have))?;
    everywhere(&state, found, &name, &value).await
}

async fn everywhere(
    state: &AdminState,
    found: InstanceEverywhere,
    name: &str,
    value: &str,
) -> Result<Response, Refusal> {
    if let (true, Some(LeftOut { family, why })) = (found.tags.is_empty(), found.left_out.first()) {
        let error = format!("{value:?} names nothing in {family:?}: {why}");
        let what_to_do = format!("POST /cache/clear/{family} purges all of the family");
        let refusal = Refusal::new(StatusCode::NOT_FOUND, error, what_to_do);
        return Err(refusal.with("left_out", json!(found.left_out)));
    }
    // The words of HITA's clients.
    let message = format!("Cache cleared for {name} {value}");
    Ok(purge_in(state, &found.tags, message, Some(found.families), found.left_out).await)
}

/// `have`: the names that may have been meant, or all that there are.
fn unknown_instance(name: &str, have: &[String]) -> Refusal {
    let what_to_do = match have {
        [] => "no family has instances: POST /cache/clear/{family} purges all of a family".to_owned(),
        have => format!("there are {}", have.join(", ")),
    };
    Refusal::new(StatusCode::NOT_FOUND, format!("no family has an instance {name:?}"), what_to_do)
}

/// `POST /cache/groups/{group}/clear`: everything that names the group, under any host and in any field. Without a store, a group that no
/// stored response names is an error. It is invalidated all the same, since a response that is being fetched may name it.
pub async fn purge_group(
    State(state): At,
    group: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(group) = group?;
    // Groups are named by responses, without limit: counted together.
    state.running().metrics.invalidated("(group)", "purge");
    let tag = Tag::group_anywhere(&group);
    let delivered = state.running().cache.invalidate(std::slice::from_ref(&tag)).await.is_some();
    if state.running().cache.store_handle().is_none() {
        let looking = Arc::clone(&state);
        let looked = tokio::task::spawn_blocking(move || unknown_group(looking.running(), &tag));
        if let Ok(Some(refusal)) = looked.await {
            return Err(refusal);
        }
    }
    Ok(purged(format!("Purged group {group}"), None, Vec::new(), delivered).into_response())
}

/// Most names of groups that one which is not known is compared with.
const GROUPS_COMPARED: usize = 10_000;

/// The error for a group that nothing in memory names.
fn unknown_group(running: &Running, tag: &Tag) -> Option<Refusal> {
    if running.cache.memory().any(|resident| resident.entry.tags.contains(tag)) {
        return None;
    }
    let mut names = BTreeSet::new();
    running.cache.memory().any(|resident| {
        names.extend(resident.entry.tags.iter().filter_map(Tag::group_name).map(str::to_owned));
        names.len() >= GROUPS_COMPARED
    });
    let group = tag.group_name().unwrap_or_default();
    let what_to_do = did_you_mean(&nearest(group, names.iter().map(String::as_str)), || {
        "nothing has to be done; groups are named by responses, in Cache-Groups, Surrogate-Key, Cache-Tag or xkey, and \
         case counts"
            .to_owned()
    });
    let error = format!("unknown group {group:?}: no stored response names it");
    Some(Refusal::new(StatusCode::NOT_FOUND, error, what_to_do))
}

/// A reference to one instance. Its value is taken literally.
fn reference(family: &str, instance: &str) -> String {
    let value = instance.replace('%', "%25").replace(':', "%3A").replace('*', "%2A");
    format!("{family}:{value}")
}

fn resolve(live: &Live, reference: &str) -> Result<Vec<Tag>, Refusal> {
    live.rules.resolve(reference, live.redaction.secret.as_ref()).map_err(|unknown| {
        let families: Vec<&str> = live.rules.families().iter().map(|family| family.name.as_str()).collect();
        match unknown.instance {
            Some((message, remedy)) => Refusal::new(StatusCode::NOT_FOUND, message, remedy),
            None => unknown_family(reference, &unknown.nearest, &families),
        }
    })
}

/// `nearest`: names that may have been meant. `families`: all that there are.
fn unknown_family(reference: &str, nearest: &[String], families: &[&str]) -> Refusal {
    let family = families.iter().find(|name| reference.strip_prefix(**name).is_some_and(|it| it.starts_with(':')));
    let what_to_do = match (family, nearest) {
        (Some(family), _) => {
            format!("{family:?} has no such instances: POST /cache/clear/{family} purges all of it")
        }
        (None, []) if families.is_empty() => {
            "there are no families: POST /cache/clear purges everything".to_owned()
        }
        (None, []) => format!("there are {}", families.join(", ")),
        (None, nearest) => format!("did you mean {}?", nearest.join(" or ")),
    };
    Refusal::new(StatusCode::NOT_FOUND, format!("unknown family {reference:?}"), what_to_do)
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Refusal {
        let what_to_do = "percent-encode names as UTF-8";
        Refusal::new(StatusCode::BAD_REQUEST, rejection.body_text(), what_to_do)
    }
}

#[derive(Serialize)]
pub struct Rules {
    /// Null: Larder runs without a file.
    file: Option<String>,
    /// When these rules came into force.
    since: String,
    families: Vec<FamilyDefinition>,
    invalidations: Vec<InvalidationDefinition>,
    /// Why the last edit was refused; null if it was not.
    last_error: Option<EditFault>,
}

/// `GET /rules`
pub async fn rules(State(state): At) -> Json<Success<Rules>> {
    let live = state.running().live();
    Json(Success::of(Rules {
        file: state.running().file().map(|file| file.display().to_string()),
        since: humantime::format_rfc3339_seconds(live.since).to_string(),
        families: definitions(&live),
        invalidations: live.rules.invalidations().iter().map(InvalidationDefinition::from).collect(),
        last_error: state.running().refused().as_ref().map(edit_fault),
    }))
}

#[derive(Serialize)]
pub struct ReloadReport {
    message: &'static str,
    families: usize,
    invalidations: usize,
    /// Fields that take effect only when Larder is started again.
    needs_restart: Vec<String>,
}

/// `POST /rules/reload`
pub async fn reload(State(state): At) -> Answer<ReloadReport> {
    if state.running().file().is_none() {
        let what_to_do = "start Larder with --rules FILE, or where there is a ./rules.toml";
        return Err(Refusal::new(StatusCode::CONFLICT, "Larder runs without a rules file", what_to_do));
    }
    let reloaded = state.running().reload().await.map_err(|error| {
        let fault = edit_fault(&error);
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Refusal::new(status, format!("{}; the old rules stay in force", fault.summary()), fault.remedy())
            .with("faults", json!(fault.faults))
    })?;
    Ok(Json(Success::of(ReloadReport {
        message: "Rules reloaded successfully",
        families: reloaded.families,
        invalidations: reloaded.invalidations,
        needs_restart: reloaded.needs_restart,
    })))
}

fn edit_fault(error: &LoadError) -> EditFault {
    EditFault::new(&error.to_string(), faults(error))
}

fn faults(error: &LoadError) -> &[Fault] {
    match error {
        LoadError::Faults(faults) => &faults.0,
        LoadError::Io { .. } => &[],
    }
}

/// `GET /metrics`
pub async fn metrics(State(state): At) -> Response {
    let (running, usage) = (state.running(), state.running().cache.usage());
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    state.note_usage();
    running.metrics.memory_entries.set(number(usage.entries));
    running.metrics.memory_bytes.set(number(usage.bytes));
    running.metrics.evictions.set(number(usage.evictions));
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
    running.metrics.lease_held.set(i64::from(running.cache.holds_lease() == Some(true)));
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, TEXT)], running.metrics.exposition()).into_response()
}

/// `GET /healthz`
pub async fn alive() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: ready without the store too, since requests then go upstream.
pub async fn ready(State(state): At) -> Json<BTreeMap<&'static str, Value>> {
    let store = fleet::state_of_store(state.running().cache.store_state());
    Json(BTreeMap::from([("ready", Value::Bool(true)), ("store", Value::String(store))]))
}

/// Any path that is not a route.
pub async fn unknown(uri: Uri) -> Refusal {
    let error = format!("there is no {} here", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, error, routes::remedy(uri.path()))
}

/// A method that a route does not take.
pub async fn wrong_method(method: Method, uri: Uri, route: Option<MatchedPath>) -> Refusal {
    let error = format!("{} does not take {method}", uri.path());
    let what_to_do = routes::remedy_of_method(route.as_ref().map_or("", MatchedPath::as_str), uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error, what_to_do)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(response: Response) -> (StatusCode, Value) {
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn an_instance_is_one_value_whatever_it_holds() {
        assert_eq!(reference("user_details", "42"), "user_details:42");
        assert_eq!(reference("file", "a:b*%41"), "file:a%3Ab%2A%2541");
    }

    #[tokio::test]
    async fn a_clear_that_the_store_has_not_taken_says_so() {
        let (status, body) = read(purged("Purged a".to_owned(), None, Vec::new(), true).into_response()).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, json!({ "success": true, "message": "Purged a", "delivered": true }));
        let (status, body) = read(purged("Purged a".to_owned(), None, Vec::new(), false).into_response()).await;
        assert_eq!((status, &body["delivered"]), (StatusCode::ACCEPTED, &json!(false)));
    }

    #[tokio::test]
    async fn an_unknown_family_is_answered_with_what_there_is() {
        let rows: [(&str, &[&str], &[&str], &str); 4] = [
            ("user_lst", &["user_list"], &["user_list"], "did you mean user_list?"),
            ("x", &[], &["user_list", "booking"], "there are user_list, booking"),
            ("x", &[], &[], "there are no families: POST /cache/clear purges everything"),
            (
                "user_list:7",
                &["user_list"],
                &["user_list"],
                "\"user_list\" has no such instances: POST /cache/clear/user_list purges all of it",
            ),
        ];
        for (reference, nearest, families, remedy) in rows {
            let nearest: Vec<String> = nearest.iter().map(|&name| name.to_owned()).collect();
            let refusal = unknown_family(reference, &nearest, families);
            let (status, body) = read(refusal.into_response()).await;
            assert_eq!((status, &body["what_to_do"]), (StatusCode::NOT_FOUND, &json!(remedy)));
        }
    }
}
