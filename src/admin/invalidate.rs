//! `POST /cache/invalidate`: purges families, instances, tags, groups, URLs, prefixes and globs together, or says what that would purge.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::auth::Caller;
use super::named::{find_instance, resolve};
use super::refusal::{ErrorBody, Refusal};
use super::report::{Success, shown_tag};
use super::state::At;
use crate::marks::Tag;
use crate::purge::{self, Purge, PurgeFault, PurgeMode, Purged};
use crate::rules::LeftOut;
use crate::running::{Live, Running};
use crate::upkeep::deploys::DeployKey;
use crate::upkeep::names::FamilyOwners;

/// Most names of each kind in a request.
const NAMES: usize = 10_000;
/// Most tags that a receipt lists.
const TAGS_SHOWN: usize = 1000;
/// Longest name of a deployment, bytes.
const DEPLOY: usize = 200;

/// What to invalidate: any of the lists, together.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InvalidateRequest {
    /// Families, levels, globs, and references such as `user_details:7`; `*` is everything.
    families: Vec<String>,
    /// `user:7`: the instance `user`, or `user_id`, with the value `7` in all families that have it.
    instances: Vec<String>,
    /// Tags as entries have them.
    tags: Vec<String>,
    /// Groups that responses name (Cache-Groups, Surrogate-Key, Cache-Tag, xkey).
    groups: Vec<String>,
    /// URLs or paths: all variants, queries and callers, under every host.
    urls: Vec<String>,
    /// Beginnings of paths. Compared with what is stored now.
    prefixes: Vec<String>,
    /// Paths in which `*` is any text. Compared with what is stored now.
    globs: Vec<String>,
    mode: PurgeMode,
    /// Says what would be invalidated, and invalidates nothing.
    dry_run: bool,
    /// The name of a deployment, which purges the same only once in a day.
    deploy: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct InvalidateAnswer {
    receipt: Receipt,
}

impl InvalidateAnswer {
    /// Of a purge that was carried out.
    pub fn of(purged: Purged) -> InvalidateAnswer {
        InvalidateAnswer { receipt: Receipt::of(purged, false) }
    }
}

/// What was, or would be, invalidated.
#[derive(Debug, Serialize, ToSchema)]
pub struct Receipt {
    id: String,
    /// At most 1000 of them.
    tags: Vec<String>,
    families: Vec<String>,
    mode: PurgeMode,
    dry_run: bool,
    /// Stored responses that it reaches; null: they were not counted.
    entries: Option<u64>,
    bytes: Option<u64>,
    /// Some of their URLs.
    samples: Vec<String>,
    /// False: the counts are lower bounds, or there are none.
    entries_complete: bool,
    /// False: prefixes and globs were not compared with all that is stored, so that some of what they fit is not purged.
    complete: bool,
    /// If it is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    what_to_do: Option<&'static str>,
    /// Families that have an instance that was named, and in which no value names it.
    left_out: Vec<LeftOut>,
    /// The store has it. True without a store.
    delivered: bool,
    /// Until every proxy of the fleet had applied it.
    wait_ms: f64,
    deploy: Option<String>,
    /// This deployment was carried out before; the receipt is that of the first time.
    repeated: bool,
}

impl Receipt {
    /// Of a purge.
    pub fn of(purged: Purged, dry_run: bool) -> Receipt {
        let reach = purged.reach;
        Receipt {
            id: purged.id,
            tags: purged.tags.iter().take(TAGS_SHOWN).map(shown_tag).collect(),
            families: purged.families,
            mode: purged.mode,
            dry_run,
            entries: reach.as_ref().map(|reach| reach.entries),
            bytes: reach.as_ref().map(|reach| reach.bytes),
            entries_complete: reach.as_ref().is_some_and(|reach| reach.is_complete),
            samples: reach.map(|reach| reach.samples).unwrap_or_default(),
            left_out: purged.left_out,
            complete: purged.is_complete,
            what_to_do: (!purged.is_complete).then_some(purge::NOT_COMPLETE),
            delivered: purged.delivered,
            wait_ms: (purged.wait.as_secs_f64() * 1e6).round() / 1000.0,
            deploy: None,
            repeated: false,
        }
    }
}

/// Invalidates families, instances, tags, groups, URLs, prefixes and globs; with dry_run it only says what
///
/// When it answers, no proxy of the fleet serves what was stored before. Prefixes and globs are compared with what is stored now: what is
/// being fetched for the first time, or is only in the memory of another proxy, they do not reach. If there is too much to be compared, the
/// answer is 202 with `complete: false`: purge what it says instead.
#[utoipa::path(post, path = "/cache/invalidate", tag = "purge", security(("token" = ["families"])),
    request_body = InvalidateRequest,
    responses(
        (status = 200, body = Success<InvalidateAnswer>),
        (status = 202, description = "in force here, and Redis does not answer; or not complete", body = Success<InvalidateAnswer>),
        (status = 404, description = "something has no such name", body = ErrorBody),
        (status = 413, description = "it names too much", body = ErrorBody),
        (status = 503, description = "Redis does not answer, so that prefixes and globs find nothing", body = ErrorBody),
    ))]
pub async fn invalidate(
    State(state): At,
    Extension(caller): Extension<Caller>,
    content: Bytes,
) -> Result<Response, Refusal> {
    let request: InvalidateRequest = read_json(&content)?;
    let running = state.running();
    let live = running.live();
    let mut purge = named(&request, &live, running)?;
    if purge.tags.is_empty() && purge.patterns.is_empty() && purge.left_out.is_empty() {
        let what_to_do = "send a list in families, instances, tags, groups, urls, prefixes or globs; {\"families\":[\"*\"]} is everything";
        return Err(Refusal::bad_request("nothing is named", what_to_do));
    }
    caller.check_purge(&purge, &live)?;
    purge.deploy.clone_from(&request.deploy);
    let deploy = request.deploy.as_deref().filter(|_| !request.dry_run);
    let key = deploy.map(|deploy| DeployKey::new(deploy, &json!(request).to_string()));
    if let Some(key) = &key
        && let Some(mut receipt) = running.deploys.receipt(running.cache.store_handle(), key).await
    {
        receipt["repeated"] = json!(true);
        return Ok(Json(Success::of(json!({ "receipt": receipt }))).into_response());
    }
    purge.resolve(running, request.dry_run).await?;
    // The paths that patterns have found.
    caller.check_purge(&purge, &live)?;
    let purged = match request.dry_run {
        true => purge.preview(&live),
        false => purge.carry_out(running, &caller.operator()).await,
    };
    let status = if request.dry_run { StatusCode::OK } else { purged.status() };
    let receipt = Receipt { deploy: request.deploy.clone(), ..Receipt::of(purged, request.dry_run) };
    // A deployment that has not purged everything it named is to be carried out again.
    if let Some(key) = key.filter(|_| status == StatusCode::OK) {
        running.deploys.remember(running.cache.store_handle(), key, &json!(receipt)).await;
    }
    Ok((status, Json(Success::of(InvalidateAnswer { receipt }))).into_response())
}

/// The content of a request; none at all counts as `{}`.
fn read_json<T: DeserializeOwned + Default>(content: &[u8]) -> Result<T, Refusal> {
    if content.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(content).map_err(|error| {
        let what_to_do = "send a JSON object as GET /docs describes it";
        Refusal::bad_request(format!("the content cannot be read: {error}"), what_to_do)
    })
}

fn bad(error: String, what_to_do: &str) -> Refusal {
    Refusal::bad_request(error, what_to_do)
}

/// What a request names.
fn named(request: &InvalidateRequest, live: &Live, running: &Running) -> Result<Purge, Refusal> {
    let InvalidateRequest { families, instances, tags, groups, urls, prefixes, globs, .. } = request;
    if [families, instances, tags, groups, urls, prefixes, globs].iter().any(|list| list.len() > NAMES) {
        return Err(PurgeFault::TooMuch.into());
    }
    if request.deploy.as_ref().is_some_and(|deploy| deploy.is_empty() || deploy.len() > DEPLOY) {
        return Err(bad(
            "deploy is empty or too long".to_owned(),
            "send 1 to 200 bytes, such as the hash of the commit",
        ));
    }
    let mut purge = Purge::in_mode(request.mode);
    for family in families {
        purge.tags.extend(resolve(live, family)?);
    }
    for instance in instances {
        let Some((name, value)) =
            instance.split_once(':').filter(|(name, value)| !name.is_empty() && !value.is_empty())
        else {
            return Err(bad(
                format!("{instance:?} names no instance"),
                "write the name and the value, such as \"user:7\"",
            ));
        };
        let found = find_instance(live, name, value)?;
        purge.tags.extend(found.tags);
        purge.left_out.extend(found.left_out);
    }
    let owners = FamilyOwners::of(&live.rules);
    for text in tags {
        purge.tags.push(known_tag(text, live, &owners)?);
    }
    for group in groups {
        if group.is_empty() {
            return Err(bad("a group is empty".to_owned(), "remove it"));
        }
        purge.tags.push(Tag::group_anywhere(group));
    }
    let case = running.config.server.case_insensitive_paths;
    for url in urls {
        let no_url =
            || bad(format!("{url:?} is no URL and no path"), "write a path such as \"/users/7\", or a whole URL");
        purge.add_url(url, case).ok_or_else(no_url)?;
    }
    for text in prefixes {
        let pattern = purge::prefix(text, case);
        purge
            .patterns
            .push(pattern.ok_or_else(|| bad(format!("{text:?} begins no path"), "begin it with \"/\""))?);
    }
    for text in globs {
        let pattern = purge::glob(text, case);
        let no_glob = || bad(format!("{text:?} fits no path"), "begin it with \"/\" or \"*\"");
        purge.patterns.push(pattern.ok_or_else(no_glob)?);
    }
    Ok(purge)
}

/// A tag as entries have them. Those of families that there are not are refused, since they are probably misspelt.
fn known_tag(text: &str, live: &Live, owners: &FamilyOwners) -> Result<Tag, Refusal> {
    let tag = Tag::family(text);
    let is_kind = ["uri:/", "group ", "caller "].iter().any(|kind| text.starts_with(kind));
    if tag == Tag::root() || is_kind || !owners.reached(&tag).is_empty() {
        return Ok(tag);
    }
    // Says which families there are.
    resolve(live, text).map(|_| tag)
}

impl From<PurgeFault> for Refusal {
    fn from(fault: PurgeFault) -> Refusal {
        match fault {
            PurgeFault::TooMuch => {
                let what_to_do = "name families, or send several requests";
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, fault.to_string(), what_to_do)
            }
            PurgeFault::StoreAway => {
                let what_to_do = "name families, instances, groups or urls, which are delivered when Redis is back; or wait for it";
                Refusal::unavailable(fault.to_string(), what_to_do)
            }
        }
    }
}
