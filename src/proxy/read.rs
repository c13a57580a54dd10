//! GET, HEAD and QUERY from the cache, top to bottom: look up, decide, serve. What is not served goes on in [`super::fetch`].

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, StatusCode};

use super::cache_request::CacheRequest;
use super::decide::{Decision, decide};
use super::fetch::{self, FetchContext};
use super::{Answered, refresh, refuse, respond, storing};
use crate::cache::{Found, Lookup};
use crate::coalesce::inflight::{FetchOutcome, FetchRole};
use crate::config::CacheStatus;
use crate::entry::{self, Entry};
use crate::http::validation::{self, Condition};
use crate::marks::Tag;
use crate::outcome::Outcome;
use crate::running::Running;

/// Answers a read: from the cache, or by asking upstream.
pub(super) async fn answer(running: &Arc<Running>, request: CacheRequest) -> Answered {
    let key = named_key(running, &request);
    let lookup = look_up(running, &request).await;
    let now = running.cache.now();
    let decision = decide(&request, &lookup, now);
    let mut answered = match serve(running, &request, &lookup, decision, now).await {
        Some(answered) => {
            if matches!(decision, Decision::ServeStale { reason, .. } if reason.revalidates()) {
                revalidate_in_background(running, request, &lookup);
            }
            answered
        }
        // In a box: misses must not make the futures of hits large.
        None => Box::pin(fetch::answer(running, Arc::new(request), lookup, decision)).await,
    };
    answered.outcome.key = key;
    answered
}

/// What is stored for a request.
pub(super) async fn look_up(running: &Running, request: &CacheRequest) -> Lookup {
    let (fields, label) = (&request.http.headers, || request.label());
    running.cache.lookup(request.cache_key(), fields, label, || Arc::clone(request.tags())).await
}

/// The answer from the cache, if that is the decision.
pub(super) async fn serve(
    running: &Running,
    request: &CacheRequest,
    lookup: &Lookup,
    decision: Decision,
    now: SystemTime,
) -> Option<Answered> {
    let outcome = match decision {
        Decision::Serve { ttl } => Outcome::hit(ttl),
        Decision::ServeStale { ttl, reason } => Outcome::stale(ttl, reason.detail()),
        Decision::Refuse(_) => return Some(Answered { family: request.family_id(), ..not_cached() }),
        Decision::Revalidate(_) | Decision::Fetch(_) | Decision::Forward(_) => return None,
    };
    let entry = found(lookup)?;
    let stored = entry.response()?;
    let is_known = is_known_entry(running, request, entry).await;
    refresh::count(running, request, lookup);
    Some(from_stored(running, request, stored, is_known, now, outcome))
}

/// The entry that a lookup found and no write has invalidated for good.
pub(super) fn found(lookup: &Lookup) -> Option<&Arc<Entry>> {
    match &lookup.found {
        Found::Current(entry) | Found::SoftInvalidated(entry) => Some(entry),
        Found::Invalidated | Found::OtherVariant | Found::Nothing => None,
    }
}

/// RFC 9111 §5.2.1.7
pub(super) fn not_cached() -> Answered {
    refuse(StatusCode::GATEWAY_TIMEOUT, "only-if-cached", "nothing stored may answer this request")
}

/// The name of the entry in the store, for `cache_status = "key"`.
fn named_key(running: &Running, request: &CacheRequest) -> Option<Box<str>> {
    let is_told = running.config.server.cache_status == CacheStatus::Key;
    is_told.then(|| format!("{}:{}", request.label(), request.cache_key().key()).into())
}

/// Whether a response is what the client has, by the client's own conditions. `tags`: those of the response.
pub(super) async fn is_known(
    running: &Running,
    request: &CacheRequest,
    (status, fields): (StatusCode, &HeaderMap),
    tags: impl FnOnce() -> Vec<Tag>,
) -> bool {
    match validation::evaluate(&request.http.headers, status, fields) {
        Condition::Send => false,
        Condition::NotModified => true,
        Condition::NotModifiedSince(date) => {
            let tags = tags();
            // In a box: few hits are asked for by a date.
            !Box::pin(running.cache.may_be_of_a_write(&tags, date)).await
        }
    }
}

/// The same of an entry.
pub(super) async fn is_known_entry(running: &Running, request: &CacheRequest, entry: &Entry) -> bool {
    match entry.response() {
        Some(stored) => is_known(running, request, (stored.status, &stored.headers), || entry.tags.to_vec()).await,
        None => false,
    }
}

/// The answer from a stored response.
pub(super) fn from_stored(
    running: &Running,
    request: &CacheRequest,
    stored: &entry::Response,
    is_known: bool,
    now: SystemTime,
    outcome: Outcome,
) -> Answered {
    let http = &request.http;
    let mut response = respond::stored(&http.method, &http.headers, stored, is_known, now);
    if stored.consumed {
        storing::strip_consumed(response.headers_mut(), &running.config.server);
    }
    request.answered(response, outcome)
}

/// RFC 5861 §3: revalidates what was served stale, unless a fetch is in flight. Not where responses could not be shared lately:
/// this one could not be stored either, and each hit would ask again.
fn revalidate_in_background(running: &Arc<Running>, request: CacheRequest, lookup: &Lookup) {
    let Some(entry) = found(lookup) else { return };
    let role = running.inflight.join(lookup.cache_key.hash, lookup.view.as_ref(), Instant::now());
    let FetchRole::Lead(permit) = role else { return };
    // Another fetch may have ended since the lookup: its response is in memory before it ends.
    if let Some(newer) = running.cache.memory().newer_than(&lookup.cache_key, entry) {
        return permit.finish(FetchOutcome::Validated(newer));
    }
    let (client, stale) = (request.http.sharer(running), Some(Arc::clone(entry)));
    let context = FetchContext::new(&Arc::new(request), client, lookup, stale);
    running.tasks.spawn(fetch::run(Arc::clone(running), context, permit, None));
}
