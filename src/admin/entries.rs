//! `/cache/entries`: what is stored, page by page, one entry in full, and its removal. Callers are shown as keyed hashes, and values of
//! fields with credentials not at all.

#![allow(unused_qualifications, reason = "utoipa writes one for each IntoParams")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use http::header::SET_COOKIE;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::invalidate::InvalidateAnswer;
use super::named::{find_instance, resolve};
use super::purge;
use super::refusal::{ErrorBody, Refusal};
use super::report::{Success, shown_tag};
use super::state::{Answer, At};
use crate::cache::catalog::{Brief, EntryName, MemoryPart, Position, StoreStep, url_of};
use crate::cache::inspect::ValidityReport;
use crate::entry::{Entry, Response};
use crate::http::target::normalise;
use crate::key::{shown_caller, shown_text};
use crate::marks::Tag;
use crate::metrics::NO_FAMILY;
use crate::purge::Purge;
use crate::rules::Family;
use crate::running::{Live, Running};
use crate::upkeep::names::{FORMER, FamilyOwners};

/// Entries of a page, if it is not said.
const LIMIT: u64 = 100;
/// Most entries of a page.
const MOST: u64 = 1000;
/// Keys that are looked at in a step.
const STEP: u64 = 50;
/// Longest work for a page.
const WITHIN: Duration = Duration::from_secs(2);
/// At the end of a cursor: the entries of a server of the cluster were left out, in its page or before.
const LEFT_OUT: &str = "~";
/// Most of a body that is shown, bytes.
const BODY: usize = 64 << 10;

/// Which entries, and where to go on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EntriesQuery {
    /// Of this family and those below it; `none` for those without a family.
    family: Option<String>,
    /// `user:7`: of this instance.
    instance: Option<String>,
    /// The path begins with this.
    prefix: Option<String>,
    state: Option<EntryState>,
    /// About so many; a page may have fewer, and up to a step more.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// Of the page before.
    cursor: Option<String>,
}

/// Whether an entry is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryState {
    /// It is current, and its lifetime is not over.
    Fresh,
    /// Its lifetime is over, or it is soft-invalidated.
    Stale,
    /// A write or a purge has invalidated it; or Redis is away, so that nothing stored is served.
    Invalidated,
}

#[derive(Serialize, ToSchema)]
pub struct EntriesPage {
    entries: Vec<EntryReport>,
    /// For the next page; null: this is the last.
    cursor: Option<String>,
    /// Whether this page is the last, and no entries were left out: those of a server of a cluster that is not connected are.
    complete: bool,
}

/// A stored response.
#[derive(Serialize, ToSchema)]
pub struct EntryReport {
    /// For `/cache/entries/{key}`.
    key: String,
    url: String,
    method: String,
    /// `none`: it has no family; `other`: the rules do not have its family any more.
    family: String,
    /// Its instances by name; null: none.
    instance: Option<BTreeMap<String, String>>,
    status: u16,
    /// Of its body.
    bytes: u64,
    stored_at: String,
    age_s: u64,
    /// Negative: its lifetime is over for so long.
    fresh_for_s: i64,
    state: EntryState,
    /// Why, as a sentence part.
    state_reason: String,
    /// `redis`, or the `memory` of this process.
    tier: &'static str,
    /// A keyed hash of the caller whose entry it is; null: it is for all callers.
    identity: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct EntryAnswer {
    entry: EntryDetail,
}

/// A stored response in full.
#[derive(Serialize, ToSchema)]
pub struct EntryDetail {
    #[serde(flatten)]
    report: EntryReport,
    /// Of the response, as upstream sent them; cookies are hidden.
    fields: BTreeMap<String, Vec<String>>,
    tags: Vec<String>,
    stamp: EntryStamp,
    /// The request fields that select this variant, with their values.
    vary: Vec<String>,
    /// With `?body=true`: at most 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<BodyReport>,
}

/// When the entry was fetched, in the order of invalidations.
#[derive(Serialize, ToSchema)]
pub struct EntryStamp {
    /// As text: wider than numbers of JSON are exact.
    epoch: String,
    sequence: u64,
}

/// The beginning of a body.
#[derive(Serialize, ToSchema)]
pub struct BodyReport {
    /// What is no UTF-8 is replaced by U+FFFD.
    text: String,
    is_text: bool,
    is_whole: bool,
}

/// Parameters of one entry.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EntryQuery {
    /// Shows the body too; for admins whose scope, if they have one, covers the entry's family.
    body: Option<bool>,
}

fn malformed(error: impl Into<String>, what_to_do: &str) -> Refusal {
    Refusal::bad_request(error, what_to_do)
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Refusal {
        malformed(rejection.body_text(), "GET /docs says what each parameter is")
    }
}

/// What is stored, by family, instance, prefix and state, page by page
///
/// With Redis: what Redis holds, and what only the memory of this proxy can hold. Work for a page is bounded: it may be empty and not the
/// last.
#[utoipa::path(get, path = "/cache/entries", tag = "entries", params(EntriesQuery), responses(
    (status = 200, body = Success<EntriesPage>),
    (status = 404, description = "no family or instance has this name", body = ErrorBody),
    (status = 503, description = "Redis does not answer", body = ErrorBody),
))]
pub async fn entries(State(state): At, query: Result<Query<EntriesQuery>, QueryRejection>) -> Answer<EntriesPage> {
    let Query(query) = query?;
    let running = state.running();
    let live = running.live();
    let filter = Arc::new(Filter::of(&query, &live)?);
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=MOST).contains(&limit) {
        return Err(malformed(format!("limit = {limit} is out of range"), "ask for 1 to 1000 entries"));
    }
    let cursor = query.cursor.as_deref();
    // Whether the entries of a server of the cluster were left out, in this page or before.
    let mut is_cut = cursor.is_some_and(|cursor| cursor.ends_with(LEFT_OUT));
    let mut position = match cursor.map(|cursor| cursor.trim_end_matches(LEFT_OUT)) {
        None => Position::Start,
        Some(cursor) => cursor
            .parse()
            .map_err(|()| malformed(format!("{cursor:?} is no cursor"), "send the cursor of the page before"))?,
    };
    let (mut entries, end) = (Vec::new(), Instant::now() + WITHIN);
    let cursor = loop {
        let left = limit - entries.len() as u64;
        let is_in_memory = matches!(position, Position::Memory(_));
        let (found, next) = match position {
            Position::Memory(after) => in_memory(running, &filter, after, left).await.ok_or_else(cut)?,
            from => {
                let step = running.cache.catalog_store(from, STEP.min(left)).await;
                let StoreStep { found, next, is_whole } = step.ok_or_else(away)?;
                is_cut |= !is_whole;
                (found, Some(next))
            }
        };
        for brief in found.iter().filter(|brief| filter.takes(&brief.tags)) {
            // It may have been removed meanwhile.
            let Some(entry) = running.cache.entry_named(&brief.name).await.map_err(|()| away())? else { continue };
            let Some(report) = report(running, &live, &filter.owners, &brief.name, &entry).await else { continue };
            if query.state.is_none_or(|state| state == report.state) {
                entries.push(report);
            }
        }
        match next {
            None => break None,
            // Memory is walked over once for a page.
            Some(next) if is_in_memory || entries.len() as u64 >= limit || Instant::now() > end => {
                break Some(format!("{next}{}", if is_cut { LEFT_OUT } else { "" }));
            }
            Some(next) => position = next,
        }
    };
    let complete = cursor.is_none() && !is_cut;
    Ok(Json(Success::of(EntriesPage { entries, cursor, complete })))
}

/// The next responses of a page in memory, in the order of their keys. `None` if the walk failed.
async fn in_memory(
    running: &Running,
    filter: &Arc<Filter>,
    after: u128,
    most: u64,
) -> Option<(Vec<Brief>, Option<Position>)> {
    let taken = Arc::clone(filter);
    let walk = running.cache.walk_memory(MemoryPart::NotInRedis, None, move |tags| taken.takes(tags)).await;
    let keys = walk.keys.get(walk.keys.partition_point(|key| key.0 <= after)..).unwrap_or_default();
    let (page, rest) = keys.split_at(keys.len().min(usize::try_from(most).unwrap_or(usize::MAX)));
    let next = page.last().filter(|_| !rest.is_empty()).map(|last| Position::Memory(last.0));
    let briefs = page.iter().filter_map(|key| running.cache.brief_in_memory(*key)).collect();
    walk.is_complete.then_some((briefs, next))
}

fn cut() -> Refusal {
    let what_to_do = "ask again; if it happens again, look for a panic in the log";
    Refusal::unavailable("what is in memory could not be listed", what_to_do)
}

fn away() -> Refusal {
    Refusal::store_away("what is stored cannot be listed")
}

/// Which entries are listed.
struct Filter {
    owners: FamilyOwners,
    family: Option<String>,
    instance: Option<Vec<Tag>>,
    prefix: Option<String>,
}

impl Filter {
    fn of(query: &EntriesQuery, live: &Live) -> Result<Filter, Refusal> {
        if let Some(family) = query.family.as_deref().filter(|family| ![NO_FAMILY, FORMER].contains(family)) {
            resolve(live, family)?;
        }
        let instance = query.instance.as_deref().map(|text| {
            let (name, value) = text
                .split_once(':')
                .ok_or_else(|| malformed(format!("{text:?} names no instance"), "write user:7"))?;
            find_instance(live, name, value).map(|found| found.tags)
        });
        Ok(Filter {
            owners: FamilyOwners::of(&live.rules),
            family: query.family.clone(),
            instance: instance.transpose()?,
            prefix: query.prefix.as_ref().map(|prefix| format!("uri:{}", normalise(prefix))),
        })
    }

    fn takes(&self, tags: &[Tag]) -> bool {
        let is_of = |family: &String| {
            let own = self.owners.of_tags(tags);
            own.strip_prefix(family.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        let begins = |prefix: &String| tags.iter().any(|tag| tag.as_str().starts_with(prefix.as_str()));
        let has = |named: &Vec<Tag>| tags.iter().any(|tag| named.contains(tag));
        self.family.as_ref().is_none_or(is_of)
            && self.instance.as_ref().is_none_or(has)
            && self.prefix.as_ref().is_none_or(begins)
    }
}

/// `None` for what is no response.
async fn report(
    running: &Running,
    live: &Live,
    owners: &FamilyOwners,
    name: &EntryName,
    entry: &Entry,
) -> Option<EntryReport> {
    let response = entry.response()?;
    let now = running.cache.now();
    let fresh_for_s = response.freshness.ttl(now);
    let (state, state_reason) = judged(&running.cache.validity(entry).await, fresh_for_s);
    let tags = entry.tags.to_vec();
    let family = owners.of_tags(&tags).to_owned();
    Some(EntryReport {
        key: name.to_string(),
        url: url_of(&entry.text).to_owned(),
        method: entry.text.split(' ').next().unwrap_or_default().to_owned(),
        instance: live.rules.family(&family).and_then(|family| instances(family, &tags)),
        family,
        status: response.status.as_u16(),
        bytes: response.body.len() as u64,
        stored_at: humantime::format_rfc3339_millis(response.freshness.response_time.time()).to_string(),
        age_s: response.freshness.age(now).as_secs(),
        fresh_for_s,
        state,
        state_reason,
        tier: if matches!(name, EntryName::Store(_)) { "redis" } else { "memory" },
        identity: identity(&entry.text),
    })
}

/// What a lookup would make of an entry.
fn judged(validity: &ValidityReport, fresh_for_s: i64) -> (EntryState, String) {
    let list = |tags: &[Tag]| tags.iter().map(shown_tag).collect::<Vec<_>>().join(", ");
    match validity {
        ValidityReport::Current if fresh_for_s > 0 => {
            (EntryState::Fresh, format!("current, and fresh for another {fresh_for_s} s"))
        }
        ValidityReport::Current => {
            (EntryState::Stale, format!("current, and its lifetime is over for {} s", -fresh_for_s))
        }
        ValidityReport::SoftInvalidated(tags, left) => (
            EntryState::Stale,
            format!("soft-invalidated by {}, and served for another {} s", list(tags), left.as_secs()),
        ),
        ValidityReport::Invalidated(tags) => (EntryState::Invalidated, format!("invalidated by {}", list(tags))),
        ValidityReport::Everything => {
            (EntryState::Invalidated, "everything of its age was invalidated".to_owned())
        }
        ValidityReport::OtherEpoch => (EntryState::Invalidated, "Redis has lost its marks since".to_owned()),
        ValidityReport::Unknown => {
            (EntryState::Invalidated, "Redis is away, so that nothing stored is served".to_owned())
        }
    }
}

/// The values of the family's instances, as its tags have them.
fn instances(family: &Family, tags: &[Tag]) -> Option<BTreeMap<String, String>> {
    let names: Vec<&str> =
        family.capture_names().chain(family.instances.iter().map(|it| it.name.as_str())).collect();
    let mut values = BTreeMap::new();
    for tag in tags {
        let tag = shown_tag(tag);
        let Some(rest) = tag.strip_prefix(family.name.as_str()).and_then(|rest| rest.strip_prefix(':')) else {
            continue;
        };
        for (name, value) in
            names.iter().zip(rest.split(':')).filter(|(_, value)| !value.is_empty() && *value != "*")
        {
            values.insert((*name).to_owned(), value.to_owned());
        }
    }
    Some(values).filter(|values| !values.is_empty())
}

/// The caller in the text of a cache key.
fn identity(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("identity ")).collect();
    (!lines.is_empty()).then(|| shown_caller(&lines.join("\n")))
}

/// One entry in full: fields, tags, stamp, whether it is served and why; with body=true its body
#[utoipa::path(get, path = "/cache/entries/{key}", tag = "entries",
    params(("key" = String, Path, description = "as GET /cache/entries lists it, percent-encoded"), EntryQuery),
    responses(
        (status = 200, body = Success<EntryAnswer>),
        (status = 404, description = "it is not stored", body = ErrorBody),
        (status = 503, description = "Redis does not answer", body = ErrorBody),
    ))]
pub async fn entry(
    State(state): At,
    Extension(caller): Extension<Caller>,
    key: Result<Path<String>, PathRejection>,
    query: Result<Query<EntryQuery>, QueryRejection>,
) -> Answer<EntryAnswer> {
    let (Path(key), Query(query)) = (key?, query?);
    let wants_body = query.body == Some(true);
    if wants_body && !caller.is_admin() {
        return Err(Refusal::forbidden(
            "the token's role is viewer, which may not see bodies",
            "leave body out, or use a token with role = \"admin\"",
        ));
    }
    let running = state.running();
    let (name, entry) = found(running, &key).await?;
    let live = running.live();
    let owners = FamilyOwners::of(&live.rules);
    if wants_body {
        caller.check_family(owners.of_tags(&entry.tags.to_vec()))?;
    }
    let report = report(running, &live, &owners, &name, &entry).await;
    let (Some(report), Some(response)) = (report, entry.response()) else { return Err(not_stored(&key)) };
    let detail = EntryDetail {
        report,
        fields: shown_fields(&response.own_headers()),
        tags: entry.tags.to_vec().iter().map(shown_tag).collect(),
        stamp: EntryStamp { epoch: entry.stamp.epoch.0.to_string(), sequence: entry.stamp.sequence },
        vary: entry
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("vary "))
            .map(shown_text)
            .map(Cow::into_owned)
            .collect(),
        body: wants_body.then(|| body(response)),
    };
    Ok(Json(Success::of(EntryAnswer { entry: detail })))
}

fn body(response: &Response) -> BodyReport {
    let shown = &response.body[..response.body.len().min(BODY)];
    let is_whole = shown.len() == response.body.len();
    // A character may be cut at the end.
    let is_text =
        std::str::from_utf8(shown).map_or_else(|fault| !is_whole && fault.error_len().is_none(), |_| true);
    BodyReport { text: String::from_utf8_lossy(shown).into_owned(), is_text, is_whole }
}

fn shown_fields(fields: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut shown: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        let value =
            if *name == SET_COOKIE { "(hidden)".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        shown.entry(name.to_string()).or_default().push(value.into_owned());
    }
    shown
}

async fn found(running: &Running, key: &str) -> Result<(EntryName, Arc<Entry>), Refusal> {
    let name = EntryName::from_str(key).map_err(|()| not_stored(key))?;
    let entry = running.cache.entry_named(&name).await.map_err(|()| away())?;
    Ok((name, entry.ok_or_else(|| not_stored(key))?))
}

fn not_stored(key: &str) -> Refusal {
    let error = format!("no entry {key:?} is stored");
    Refusal::not_found(error, "GET /cache/entries lists the keys; percent-encode them in the path")
}

/// Removes one entry: its path is invalidated in the whole fleet
///
/// All variants, queries and callers of the path are invalidated with it. So no memory of another proxy serves it again, and no fetch under
/// way stores it again.
#[utoipa::path(delete, path = "/cache/entries/{key}", tag = "entries", security(("token" = ["families"])),
    params(("key" = String, Path, description = "as GET /cache/entries lists it, percent-encoded")),
    responses(
        (status = 200, body = Success<InvalidateAnswer>),
        (status = 202, description = "in force here; Redis does not answer", body = Success<InvalidateAnswer>),
        (status = 404, description = "it is not stored", body = ErrorBody),
        (status = 503, description = "Redis does not answer", body = ErrorBody),
    ))]
pub async fn remove_entry(
    State(state): At,
    Extension(caller): Extension<Caller>,
    key: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Success<InvalidateAnswer>>), Refusal> {
    let Path(key) = key?;
    let running = state.running();
    let (name, entry) = found(running, &key).await?;
    let live = running.live();
    let mut tags = entry.tags.to_vec();
    let owner = FamilyOwners::of(&live.rules).of_tags(&tags).to_owned();
    caller.check_family(&owner)?;
    tags.retain(|tag| tag.as_str().starts_with("uri:"));
    let purge = Purge::of(tags);
    if purge.tags.is_empty() {
        return Err(not_stored(&key));
    }
    let purged = purge::carry_out(running, &caller, purge).await?;
    running.cache.remove_named(&name, &entry).await;
    let status = purged.status();
    Ok((status, Json(Success::of(InvalidateAnswer::of(purged)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_fresh_stale_or_invalidated_with_a_reason() {
        let tag = || vec![Tag::family("user")];
        let rows = [
            (ValidityReport::Current, 5, EntryState::Fresh, "for another 5 s"),
            (ValidityReport::Current, -7, EntryState::Stale, "over for 7 s"),
            (ValidityReport::SoftInvalidated(tag(), Duration::from_secs(3)), 5, EntryState::Stale, "by user"),
            (ValidityReport::Invalidated(tag()), 5, EntryState::Invalidated, "by user"),
            (ValidityReport::Everything, 5, EntryState::Invalidated, "everything"),
            (ValidityReport::OtherEpoch, 5, EntryState::Invalidated, "lost its marks"),
            (ValidityReport::Unknown, 5, EntryState::Invalidated, "away"),
        ];
        for (validity, ttl, expected, reason) in rows {
            let (state, said) = judged(&validity, ttl);
            assert!(state == expected && said.contains(reason), "{validity:?}: {said}");
        }
    }

    #[test]
    fn a_caller_is_shown_as_a_keyed_hash_and_cookies_are_hidden() {
        let text = "GET http://h/\nfamily a 1\nidentity header:authorization sha256:abc";
        let shown = identity(text).unwrap();
        assert!(shown.starts_with("hmac-sha256:") && !shown.contains("abc"), "{shown}");
        assert_eq!(identity("GET http://h/"), None);
        let mut fields = HeaderMap::new();
        fields.insert(SET_COOKIE, "sid=secret".parse().unwrap());
        assert_eq!(shown_fields(&fields)["set-cookie"], ["(hidden)"]);
    }
}
