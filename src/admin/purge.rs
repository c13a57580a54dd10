//! Purges: an operator invalidates a family, an instance, a group, or everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::auth::Caller;
use super::named::{find_instance, resolve, unknown_instance};
use super::refusal::{ErrorBody, Refusal};
use super::report::Success;
use super::state::{AdminState, At};
use crate::marks::Tag;
use crate::purge::{Purge, Purged};
use crate::rules::nearest::{did_you_mean, nearest};
use crate::rules::{InstanceEverywhere, LeftOut};
use crate::running::Running;
use crate::upkeep::names::FamilyOwners;

#[derive(Serialize, ToSchema)]
pub struct Cleared {
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

/// Carries out a purge of tags for a caller who may do that. `message`: of the response.
async fn answer(
    state: &AdminState,
    Extension(caller): Extension<Caller>,
    purge: Purge,
    message: String,
    families: Option<Vec<String>>,
) -> Result<Response, Refusal> {
    let Purged { left_out, delivered, .. } = carry_out(state.running(), &caller, purge).await?;
    Ok(purged(message, families, left_out, delivered).into_response())
}

/// Carries out a purge of tags for a caller who may do that.
pub(super) async fn carry_out(running: &Running, caller: &Caller, mut purge: Purge) -> Result<Purged, Refusal> {
    caller.check_purge(&purge, &running.live())?;
    purge.resolve(running, false).await?;
    Ok(purge.carry_out(running, &caller.operator()).await)
}

fn purged(
    message: String,
    families: Option<Vec<String>>,
    left_out: Vec<LeftOut>,
    delivered: bool,
) -> (StatusCode, Json<Success<Cleared>>) {
    let (status, message) = match delivered {
        true => (StatusCode::OK, message),
        // It is in force here: until the store has it, nothing stored is served.
        false => (
            StatusCode::ACCEPTED,
            format!("{message}, but Redis does not answer: other proxies get the invalidation when it is back"),
        ),
    };
    (status, Json(Success::of(Cleared { message, families, left_out, delivered })))
}
/// Purges everything
#[utoipa::path(post, path = "/cache/clear", tag = "purge", responses(
    (status = 200, body = Success<Cleared>),
    (status = 202, description = "in force here; Redis does not answer", body = Success<Cleared>),
))]
pub async fn purge_all(State(state): At, caller: Extension<Caller>) -> Result<Response, Refusal> {
    answer(&state, caller, Purge::of(vec![Tag::root()]), "Purged everything".to_owned(), None).await
}

/// Purges a family, the families below it, or those that match a glob
///
/// A whole reference such as `room:7:8` purges what it names.
#[utoipa::path(post, path = "/cache/clear/{family}", tag = "purge", security(("token" = ["families"])),
    params(("family" = String, Path, description = "a family, a level, or a glob such as `booking:*`")),
    responses(
        (status = 200, body = Success<Cleared>),
        (status = 202, description = "in force here; Redis does not answer", body = Success<Cleared>),
        (status = 404, description = "there is no such family", body = ErrorBody),
    ))]
pub async fn purge_family(
    State(state): At,
    caller: Extension<Caller>,
    family: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(family) = family?;
    let tags = resolve(&state.running().live(), &family)?;
    answer(&state, caller, Purge::of(tags), format!("Purged {family}"), None).await
}
/// Purges one instance of a family; with the name of an instance (user for user_id), of all families that have it
///
/// The value is that of the first instance of the family with this name, and that of the instances with this name in every
/// family that has one.
#[utoipa::path(post, path = "/cache/clear/{family}/{instance}", tag = "purge", security(("token" = ["families"])),
    params(
        ("family" = String, Path, description = "a family, or the name of an instance"),
        ("instance" = String, Path, description = "the value, taken literally"),
    ),
    responses(
        (status = 200, body = Success<Cleared>),
        (status = 202, description = "in force here; Redis does not answer", body = Success<Cleared>),
        (status = 404, description = "nothing has this name", body = ErrorBody),
    ))]
pub async fn purge_instance(
    State(state): At,
    caller: Extension<Caller>,
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
    everywhere(&state, caller, found, &name, &value).await
}
/// Purges this instance of all families that have it
#[utoipa::path(post, path = "/cache/instances/{name}/{value}/clear", tag = "purge", security(("token" = ["families"])),
    params(
        ("name" = String, Path, description = "the name of an instance, with or without its `_id`"),
        ("value" = String, Path, description = "the value, taken literally"),
    ),
    responses(
        (status = 200, body = Success<Cleared>),
        (status = 202, description = "in force here; Redis does not answer", body = Success<Cleared>),
        (status = 404, description = "no family has such an instance", body = ErrorBody),
    ))]
pub async fn purge_everywhere(
    State(state): At,
    caller: Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path((name, value)) = path?;
    let found = find_instance(&state.running().live(), &name, &value)?;
    everywhere(&state, caller, found, &name, &value).await
}

async fn everywhere(
    state: &AdminState,
    caller: Extension<Caller>,
    found: InstanceEverywhere,
    name: &str,
    value: &str,
) -> Result<Response, Refusal> {
    if let (true, Some(LeftOut { family, why })) = (found.tags.is_empty(), found.left_out.first()) {
        let error = format!("{value:?} names nothing in {family:?}: {why}");
        let what_to_do = format!("POST /cache/clear/{family} purges all of the family");
        let refusal = Refusal::not_found(error, what_to_do);
        return Err(refusal.with("left_out", json!(found.left_out)));
    }
    // The words of HITA's clients.
    let message = format!("Cache cleared for {name} {value}");
    let purge = Purge::of(found.tags).without(found.left_out);
    answer(state, caller, purge, message, Some(found.families)).await
}

/// Invalidates all responses that name this group (Cache-Groups, Surrogate-Key, …)
///
/// Under any host and in any field. Without a store, a group that no stored response names is an error. It is invalidated all the
/// same, since a response that is being fetched may name it.
#[utoipa::path(post, path = "/cache/groups/{group}/clear", tag = "purge", security(("token" = ["families"])),
    params(("group" = String, Path, description = "the name of the group; case counts")),
    responses(
        (status = 200, body = Success<Cleared>),
        (status = 202, description = "in force here; Redis does not answer", body = Success<Cleared>),
        (status = 404, description = "no stored response names the group", body = ErrorBody),
    ))]
pub async fn purge_group(
    State(state): At,
    caller: Extension<Caller>,
    group: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(group) = group?;
    let tag = Tag::group_anywhere(&group);
    let message = format!("Purged group {group}");
    let response = answer(&state, caller, Purge::of(vec![tag.clone()]), message, None).await?;
    if state.running().cache.store_handle().is_none() {
        let looking = Arc::clone(&state);
        let looked = tokio::task::spawn_blocking(move || unknown_group(looking.running(), &tag));
        if let Ok(Some(refusal)) = looked.await {
            return Err(refusal);
        }
    }
    Ok(response)
}

/// Most names of groups that one which is not known is compared with.
const GROUPS_COMPARED: usize = 10_000;

/// The error for a group that nothing in memory names.
fn unknown_group(running: &Running, tag: &Tag) -> Option<Refusal> {
    if running.cache.memory().any(|entry| entry.tags.iter().any(|it| it == tag.as_str())) {
        return None;
    }
    let mut names = BTreeSet::new();
    running.cache.memory().any(|entry| {
        let tags = entry.tags.to_vec();
        names.extend(tags.iter().filter_map(Tag::group_name).map(str::to_owned));
        names.len() >= GROUPS_COMPARED
    });
    let group = tag.group_name().unwrap_or_default();
    let what_to_do = did_you_mean(&nearest(group, names.iter().map(String::as_str)), || {
        "nothing has to be done; groups are named by responses, in Cache-Groups, Surrogate-Key, Cache-Tag or xkey, and \
         case counts"
            .to_owned()
    });
    let error = format!("unknown group {group:?}: no stored response names it");
    Some(Refusal::not_found(error, what_to_do))
}

/// A reference to one instance. Its value is taken literally.
fn reference(family: &str, instance: &str) -> String {
    let value = instance.replace('%', "%25").replace(':', "%3A").replace('*', "%2A");
    format!("{family}:{value}")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

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
}
