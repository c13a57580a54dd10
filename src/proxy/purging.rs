//! PURGE and BAN at the proxy (`[purge]`), as users of Varnish send them. They do what the admin's `POST /cache/invalidate` does:
//!
//! | request | purges |
//! |---|---|
//! | `PURGE /users/7` | the path: all its variants, queries and callers, under every host |
//! | `PURGE` with `Surrogate-Key`, `xkey` or `Cache-Tags` | the groups that these fields name, separated by spaces, commas or `|` |
//! | `BAN /users/*` | the stored paths that the glob fits |
//!
//! `[purge] from` is compared with the client, not with a load balancer in front: [`client::is_from`].
//!
//! With `Larder-Purge: soft`, or where `xkey-softpurge` names the groups, what is purged may be served stale for 30 s.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use super::{Answered, Body, ClientRequest};
use crate::client;
use crate::config::{PurgeConfig, Role};
use crate::marks::Tag;
use crate::outcome::Outcome;
use crate::purge::{self, Operator, Purge, PurgeFault, PurgeMode, Purged};
use crate::running::{Live, Running};
use crate::tokens::{OperatorToken, TokenTurn};

/// Fields that name groups.
const GROUPS: [&str; 4] = ["surrogate-key", "xkey", "xkey-purge", "cache-tags"];
const SOFT_GROUPS: &str = "xkey-softpurge";
/// Most groups in a request.
const MOST: usize = 1000;

/// Whether `[purge]` is about requests of this method.
pub(super) fn is_meant(method: &Method) -> bool {
    matches!(method.as_str(), "PURGE" | "BAN")
}

/// Answers a PURGE or BAN. Its content is not read.
pub(super) async fn answer(
    running: &Running,
    live: &Live,
    config: &PurgeConfig,
    http: &ClientRequest,
) -> Answered {
    let by = match operator(running, config, http).await {
        Ok(by) => by,
        Err(denied) => return denied.answered(),
    };
    let purge = match named(http) {
        Ok(purge) => purge,
        Err(fault) => return refused(StatusCode::BAD_REQUEST, &fault.0, fault.1),
    };
    match carry_out(running, live, purge, &by).await {
        Ok(purged) => {
            let mut content = json!({
                "success": true, "id": purged.id, "families": purged.families, "tags": purged.tags.len(),
                "delivered": purged.delivered, "complete": purged.is_complete,
                "wait_ms": purged.wait.as_secs_f64() * 1000.0,
            });
            if !purged.is_complete {
                content["what_to_do"] = json!(purge::NOT_COMPLETE);
            }
            answered(purged.status(), &content, Outcome::purged())
        }
        Err(fault) => fault,
    }
}

/// Who sends it.
struct By {
    operator: Operator,
    token: Option<Arc<OperatorToken>>,
}

/// Why it may not be sent.
enum PurgeDenied {
    Address,
    NoToken,
    WrongToken,
    TooManyWrong,
    Viewer,
}

impl PurgeDenied {
    fn answered(&self) -> Answered {
        let (status, error, what_to_do) = match self {
            PurgeDenied::Address => (
                StatusCode::FORBIDDEN,
                "this address may not send PURGE and BAN",
                "send it from an address of [purge] from, through no proxy but those of [server] trusted_proxies; or add this one there",
            ),
            PurgeDenied::NoToken => (
                StatusCode::UNAUTHORIZED,
                "PURGE and BAN need a bearer token",
                "send Authorization: Bearer TOKEN with a token of [admin] tokens whose role is admin",
            ),
            PurgeDenied::TooManyWrong => (
                StatusCode::TOO_MANY_REQUESTS,
                "this client has sent too many tokens that are not known",
                "send the next one in some seconds",
            ),
            PurgeDenied::WrongToken => {
                (StatusCode::UNAUTHORIZED, "the bearer token is unknown", "send a token of [admin] tokens")
            }
            PurgeDenied::Viewer => (
                StatusCode::FORBIDDEN,
                "the token's role is viewer, which may not change anything",
                "use a token with role = \"admin\"",
            ),
        };
        refused(status, error, what_to_do)
    }
}

async fn operator(running: &Running, config: &PurgeConfig, http: &ClientRequest) -> Result<By, PurgeDenied> {
    let peer = Some(http.client.to_string());
    let trusted = &running.config.server.trusted_proxies;
    if client::is_from(&config.from, http.client, http.forwarded, trusted, &http.headers) {
        return Ok(By { operator: Operator { token: None, peer }, token: None });
    }
    if !config.tokens {
        return Err(PurgeDenied::Address);
    }
    let token = bearer(&http.headers).ok_or(PurgeDenied::NoToken)?;
    let (client, wrong) = (http.sharer(running), &running.debug_wrong_tokens);
    match wrong.turn(client, Instant::now()) {
        TokenTurn::Now => {}
        TokenTurn::After(wait) => tokio::time::sleep(wait).await,
        TokenTurn::Refused(_) => return Err(PurgeDenied::TooManyWrong),
    }
    let Some(token) = running.tokens.find(token) else {
        running.metrics.admin_wrong_tokens.inc();
        wrong.note_wrong(client, Instant::now());
        return Err(PurgeDenied::WrongToken);
    };
    wrong.note_right(client);
    if token.role < Role::Admin {
        return Err(PurgeDenied::Viewer);
    }
    Ok(By { operator: Operator { token: Some(token.name.clone()), peer }, token: Some(token) })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Why a request names nothing, and what to do.
struct Nothing(String, &'static str);

fn named(http: &ClientRequest) -> Result<Purge, Nothing> {
    let soft = groups(&http.headers, &[SOFT_GROUPS]);
    let named = groups(&http.headers, &GROUPS);
    if named.len() + soft.len() > MOST {
        return Err(Nothing(format!("the request names more than {MOST} groups"), "send several requests"));
    }
    if !named.is_empty() && !soft.is_empty() {
        let error = format!("{SOFT_GROUPS} and another field name groups, in two modes");
        return Err(Nothing(
            error,
            "send two requests, one with each; or Larder-Purge: soft, if all are meant to be soft",
        ));
    }
    let is_soft = !soft.is_empty() || http.headers.get("larder-purge").is_some_and(|value| value == "soft");
    let mode = if is_soft { PurgeMode::Soft } else { PurgeMode::Hard };
    let (path, case) = (&*http.target.path, http.target.case);
    let mut purge = Purge::in_mode(mode);
    if !named.is_empty() || !soft.is_empty() {
        purge.tags.extend(named.iter().chain(&soft).map(|group| Tag::group_anywhere(group)));
    } else if http.method.as_str() == "BAN" {
        let no_glob =
            || Nothing(format!("BAN takes no {path:?}"), "send BAN /users/*, with a path that begins with \"/\"");
        purge.patterns.push(purge::glob(&path.replace("%2A", "*"), case).ok_or_else(no_glob)?);
    } else {
        purge.add_target(&http.target);
    }
    Ok(purge)
}

fn groups(headers: &HeaderMap, fields: &[&str]) -> Vec<String> {
    let values = fields.iter().flat_map(|field| headers.get_all(*field)).filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split([' ', ',', '|'])).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

async fn carry_out(running: &Running, live: &Live, mut purge: Purge, by: &By) -> Result<Purged, Answered> {
    let away = |fault: PurgeFault| match fault {
        PurgeFault::TooMuch => {
            refused(StatusCode::PAYLOAD_TOO_LARGE, &fault.to_string(), "name groups, or a narrower glob")
        }
        PurgeFault::StoreAway => {
            refused(StatusCode::SERVICE_UNAVAILABLE, &fault.to_string(), "send PURGE, or wait for Redis")
        }
    };
    purge.resolve(running, false).await.map_err(away)?;
    if let Some(outside) = by.token.as_ref().and_then(|token| purge.outside(live, token)) {
        let error = format!("the token may not purge {outside}");
        return Err(refused(StatusCode::FORBIDDEN, &error, "use a token with other families in [admin] tokens"));
    }
    Ok(purge.carry_out(running, &by.operator).await)
}

fn refused(status: StatusCode, error: &str, what_to_do: &str) -> Answered {
    let content = json!({ "success": false, "error": error, "what_to_do": what_to_do });
    answered(status, &content, Outcome::error("purge-refused"))
}

fn answered(status: StatusCode, content: &serde_json::Value, outcome: Outcome) -> Answered {
    let mut response = Response::new(Body::Whole(Bytes::from(content.to_string())));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Answered { response, outcome, family: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_as_varnish_drupal_and_fastly_name_them() {
        let mut headers = HeaderMap::new();
        headers.append("surrogate-key", HeaderValue::from_static("a b"));
        headers.append("cache-tags", HeaderValue::from_static("node:1|node:2"));
        headers.append("xkey", HeaderValue::from_static("x, y"));
        assert_eq!(groups(&headers, &GROUPS), ["a", "b", "x", "y", "node:1", "node:2"]);
    }
}
