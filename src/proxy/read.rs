//! GET, HEAD and QUERY, top to bottom: look up, decide, and serve; otherwise forward or fetch.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::cache_request::CacheRequest;
use super::decide::{Decision, decide};
use super::fetch::{self, FetchContext, Miss, Retry};
use super::{Answered, failed, forward, not_cached, refresh, respond};
use crate::cache::Lookup;
use crate::coalesce::inflight::{FetchOutcome, FetchRole};
use crate::config::CacheStatus;
use crate::outcome::{Fwd, Outcome};
use crate::running::Running;
use crate::upstream::UpstreamError;

/// Answers a read: from the cache, or by asking upstream. `request` is in a box, so that futures that own it stay small.
pub(super) async fn answer(running: &Arc<Running>, request: Box<CacheRequest>) -> Answered {
    let key = reported_key(running, &request);
    let lookup = request.look_up(&running.cache).await;
    let now = running.cache.now();
    let decision = decide(&request, &lookup, now);
    let mut answered = match serve(running, &request, &lookup, decision, now).await {
        Some(answered) => {
            if matches!(decision, Decision::ServeStale { reason, .. } if reason.revalidates()) {
                revalidate_in_background(running, request, &lookup);
            }
            answered
        }
        // In a box, so that the future of a hit is small.
        None => Box::pin(ask_upstream(running, Arc::from(request), lookup, decision)).await,
    };
    answered.outcome.key = key;
    answered
}

/// The response from the cache, if that is the decision.
async fn serve(
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
    let entry = lookup.entry()?;
    let stored = entry.response()?;
    let is_known = respond::is_known_entry(running, request, entry).await;
    refresh::count(running, request, lookup);
    Some(respond::from_stored(running, request, stored, is_known, now, outcome))
}

/// The parameter `key` of `Cache-Status`, if the configuration asks for it.
fn reported_key(running: &Running, request: &CacheRequest) -> Option<Box<str>> {
    let is_reported = running.config.server.cache_status == CacheStatus::Key;
    is_reported.then(|| format!("{}:{}", request.label(), request.cache_key().key()).into())
}

/// Answers a read that is not served: forwards it, or fetches. A follower for which the leader's response is not meant looks up and
/// decides again.
async fn ask_upstream(
    running: &Arc<Running>,
    request: Arc<CacheRequest>,
    mut lookup: Lookup,
    mut decision: Decision,
) -> Answered {
    let mut retried = None;
    loop {
        let stale = lookup.entry().filter(|_| decision.has_stale());
        let retry = match decision {
            Decision::Forward(reason) => {
                return forward::forward(running, &request, &lookup, reason, stale).await;
            }
            Decision::Revalidate(reason) | Decision::Fetch(reason) => {
                let miss = Miss { reason, stale: stale.cloned() };
                match fetch::fetch(running, &request, &lookup, &miss, retried).await {
                    Ok(answered) => return answered,
                    Err(retry) => retry,
                }
            }
            Decision::Serve { .. } | Decision::ServeStale { .. } | Decision::Refuse(_) => Retry::Alone,
        };
        if retried == Some(Retry::Alone) || retried == Some(retry) {
            return failed(UpstreamError::Abandoned, Fwd::UriMiss);
        }
        retried = Some(retry);
        lookup = request.look_up(&running.cache).await;
        let now = running.cache.now();
        decision = decide(&request, &lookup, now);
        if let Some(answered) = serve(running, &request, &lookup, decision, now).await {
            return answered;
        }
    }
}

/// RFC 5861 §3: revalidates what was served stale, unless a fetch is in flight. Not where responses could not be shared lately:
/// this one could not be stored either, and each hit would ask again.
fn revalidate_in_background(running: &Arc<Running>, request: Box<CacheRequest>, lookup: &Lookup) {
    let Some(entry) = lookup.entry() else { return };
    let role = running.inflight.join(lookup.cache_key.hash, lookup.view.as_ref(), Instant::now());
    let FetchRole::Lead(permit) = role else { return };
    // Another fetch may have ended since the lookup: its response is in memory before it ends.
    if let Some(newer) = running.cache.memory().newer_than(&lookup.cache_key, entry) {
        return permit.finish(FetchOutcome::Validated(newer));
    }
    let (client, stale) = (request.http.sharer(running), Some(Arc::clone(entry)));
    let context = FetchContext::new(&Arc::from(request), client, lookup, stale);
    running.tasks.spawn(fetch::run(Arc::clone(running), context, permit, None));
}
