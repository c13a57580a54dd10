//! Leads or follows a coalesced fetch, and answers from its outcome. The fetch itself (`task`) goes on if this client leaves.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::cache_request::CacheRequest;
use super::decide::{self, MissReason, StaleReason};
use super::detach::Detachable;
use super::respond::{self, from_stored, is_known, is_known_entry};
use super::share::share;
use super::{Answered, failed, storing};
use crate::cache::Lookup;
use crate::coalesce::inflight::{
    FetchOutcome, FetchPermit, FetchRole, Head, InflightFetch, ServerErrorResponse, UpstreamAnswer,
};
use crate::coalesce::stream::StreamReader;
use crate::entry::Entry;
use crate::key::{CacheKey, KeyHash};
use crate::marks::MarksView;
use crate::outcome::{Fwd, Outcome};
use crate::running::Running;
use crate::shares::Share;
use crate::upstream::UpstreamError;

mod body;
mod confirm;
mod context;
mod fleet;
mod slow;
mod task;

pub(super) use confirm::freshened;
pub(super) use context::FetchContext;
pub(super) use task::{LeaderOnly, run};

/// Why nothing stored was served, and the stale response that may stand in for upstream's.
pub(super) struct Miss {
    pub reason: MissReason,
    pub stale: Option<Arc<Entry>>,
}

/// How a follower goes on when the outcome of another request's fetch is not for it, after it has looked up again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It follows or leads a fetch again: the leader's request may have caused the failure.
    Together,
    /// It fetches for itself.
    Alone,
}

/// Follows a fetch or leads one. `retried`: how, after the outcome of another request's fetch was not for this one.
pub(super) async fn fetch(
    running: &Arc<Running>,
    request: &Arc<CacheRequest>,
    lookup: &Lookup,
    miss: &Miss,
    retried: Option<Retry>,
) -> Result<Answered, Retry> {
    let (key, view) = (lookup.cache_key.hash, lookup.view.as_ref());
    // What is stored, or would be for others, is fetched because of what this client sent.
    let is_forced = miss.reason == MissReason::Credentials || request.facts.no_store;
    let share = match is_forced.then(|| share(running, &request.client_request)).transpose() {
        Ok(share) => share,
        Err(refused) => return Ok(Answered { family: request.family_id(), ..*refused }),
    };
    let role = match retried == Some(Retry::Alone) || !request.may_coalesce() {
        true => FetchRole::Alone,
        false => join(running, request, key, view),
    };
    let permit = match role {
        FetchRole::Join(fetch) => {
            match slow::or_stale(running, request, miss, wait(running, request, &fetch)).await {
                Err(stale) => return Ok(*stale),
                Ok(Some(outcome)) => return follow(running, request, lookup, miss, (outcome, retried)).await,
                Ok(None) => running.inflight.lead_alone(key, view),
            }
        }
        FetchRole::Lead(permit) => permit,
        FetchRole::Alone => running.inflight.lead_alone(key, view),
    };
    lead(running, request, lookup, miss, (permit, share)).await
}

/// How often a follower whose wait is over looks for a free place at upstream.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits for the leader's response. `None`: the follower has waited for `collapse_wait`, and upstream has a free place for it.
async fn wait(running: &Running, request: &CacheRequest, fetch: &InflightFetch) -> Option<FetchOutcome> {
    let _waits = running.metrics.follower_waits();
    let mut outcome = pin!(fetch.outcome());
    let Some(mut limit) = request.follower_wait(running) else { return Some(outcome.await) };
    loop {
        match tokio::time::timeout(limit, &mut outcome).await {
            Ok(outcome) => return Some(outcome),
            Err(_) if running.upstream.has_room(request.client_request.sharer(running)) => return None,
            Err(_) => limit = limit.max(POLL_INTERVAL),
        }
    }
}

/// Joins a fetch or leads one. Not one that waits for its leader's share of upstream: this client has its own.
fn join(running: &Running, request: &CacheRequest, key: KeyHash, view: Option<&MarksView>) -> FetchRole {
    let role = running.inflight.join(key, view, Instant::now());
    match role {
        FetchRole::Join(fetch) if fetch.waits_for_share_of_another(request.client_request.sharer(running)) => {
            running.inflight.release(key, &fetch);
            running.inflight.join(key, view, Instant::now())
        }
        role => role,
    }
}

/// A function of its own keeps the large future of the fetch out of that of [`lead`].
fn begin(
    running: &Arc<Running>,
    context: FetchContext,
    permit: FetchPermit,
    give: oneshot::Sender<LeaderOnly>,
) -> Detachable<()> {
    Detachable::new(&running.tasks, run(Arc::clone(running), context, permit, Some(give)))
}

async fn lead(
    running: &Arc<Running>,
    request: &Arc<CacheRequest>,
    lookup: &Lookup,
    miss: &Miss,
    (permit, share): (FetchPermit, Option<Share>),
) -> Result<Answered, Retry> {
    let fetch = permit.fetch();
    let (give, mut take) = oneshot::channel();
    let context = FetchContext::new(request, request.client_request.sharer(running), lookup, miss.stale.clone());
    let mut work = begin(running, context, permit, give);
    let outcome = {
        let outcome = pin!(slow::or_stale(running, request, miss, fetch.outcome()));
        work.until(outcome).await
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(stale) => {
            // A fetch that nobody waits for is abandoned while it waits for a place at upstream.
            running.tasks.spawn(async move { drop(fetch.outcome().await) });
            // What is stored is for callers whose token is valid when they get it.
            return match request.token_fault(running.cache.now()) {
                Some(_) => Err(Retry::Alone),
                None => Ok(*stale),
            };
        }
    };
    // The fetch goes on in a task of its own, if it has not ended: followers read what it brings.
    drop(work);
    // What only the leader gets was sent before the outcome was published.
    Ok(match (outcome, take.try_recv().ok()) {
        (FetchOutcome::Streaming(head, _), Some(LeaderOnly::Reader(reader, own))) => {
            let mut answered = stream(running, request, miss, &head, reader, false).await;
            answered.response.headers_mut().extend(own);
            answered
        }
        (FetchOutcome::ServerError(error), Some(LeaderOnly::Reader(reader, _))) if error.response.is_some() => {
            server_error(running, request, &error, Some(reader), false)
        }
        (FetchOutcome::Unshared | FetchOutcome::ServerError(_), Some(LeaderOnly::Response(response, reason))) => {
            let mut outcome = Outcome::pass(Fwd::Bypass, reason);
            outcome.fwd_status = Some(response.status().as_u16());
            let response = match share {
                Some(share) => response.map(|body| body.holding(share)),
                None => *response,
            };
            request.answered(respond::forwarded_read(request, response, &running.config.server), outcome)
        }
        (FetchOutcome::Failed(error), _) => unanswered(request, miss.reason, miss.stale.as_ref(), error),
        // What is stored is for callers whose token is valid when they get it.
        _ if request.token_fault(running.cache.now()).is_some() => return Err(Retry::Alone),
        (outcome, _) => from_entry(running, request, miss, &outcome, false)
            .await
            .unwrap_or_else(|| failed(UpstreamError::Abandoned, miss.reason.fwd())),
    })
}

async fn follow(
    running: &Running,
    request: &Arc<CacheRequest>,
    lookup: &Lookup,
    miss: &Miss,
    (outcome, retried): (FetchOutcome, Option<Retry>),
) -> Result<Answered, Retry> {
    // The response was fetched with the leader's token. This request's may have expired since.
    if request.token_fault(running.cache.now()).is_some() {
        return Err(Retry::Alone);
    }
    let primary = lookup.primary();
    let answered = match outcome {
        FetchOutcome::Streaming(ref head, _) if !is_current(running, head).await => {
            return Err(Retry::Alone);
        }
        FetchOutcome::Streaming(head, body) => {
            // RFC 9111 §4.1: only if this request has the same values of the fields that the response varies on.
            let ours = primary.variant(&head.varies_on, &request.client_request.headers);
            match body.reader() {
                Some(reader) if ours.text == head.text => {
                    stream(running, request, miss, &head, reader, true).await
                }
                _ => return Err(Retry::Alone),
            }
        }
        // The leader had no more of its share of upstream; others have theirs.
        FetchOutcome::Failed(error) | FetchOutcome::StaleOnError(_, Err(error)) if error.is_for_client() => {
            return Err(Retry::Alone);
        }
        // The leader's request did not let what is stored stand in; this one may.
        FetchOutcome::Failed(error) => answer_after_failure(running, request, miss, Err(error)).await,
        FetchOutcome::ServerError(error) => match stale_if_error(running, request, miss, Ok(error.status)).await {
            Some(answered) => answered,
            None if retried.is_none() && may_be_caused_by_leader(&error, request) => {
                return Err(Retry::Together);
            }
            None => server_error(running, request, &error, reader_of(&error, primary, request), true),
        },
        FetchOutcome::Unshared => return Err(Retry::Alone),
        FetchOutcome::Elsewhere(ref entry, ref varies_on) => {
            let is_ours = *entry.text == primary.variant(varies_on, &request.client_request.headers).text
                && entry.response().is_some_and(|response| request.is_answered_by(response, running.cache.now()));
            // Its response may have named groups of its own.
            if !is_ours || !running.cache.is_current(&entry.tags.to_vec(), entry.stamp).await {
                return Err(Retry::Alone);
            }
            from_entry(running, request, miss, &outcome, true).await.ok_or(Retry::Alone)?
        }
        FetchOutcome::StaleOnError(ref entry, failed) => {
            match stands_in(running, request, entry, failed) && is_ours(running, lookup, entry).await {
                true => from_entry(running, request, miss, &outcome, true).await.ok_or(Retry::Alone)?,
                false => answer_after_failure(running, request, miss, failed).await,
            }
        }
        FetchOutcome::Validated(ref entry) => {
            if !is_ours(running, lookup, entry).await {
                return Err(Retry::Alone);
            }
            from_entry(running, request, miss, &outcome, true).await.ok_or(Retry::Alone)?
        }
    };
    Ok(answered)
}

/// Whether the entry of another request's fetch answers this request. The response may have named groups of its own, so that it
/// has to be current.
async fn is_ours(running: &Running, lookup: &Lookup, entry: &Entry) -> bool {
    *entry.text == *lookup.cache_key.text && running.cache.is_current(&entry.tags.to_vec(), entry.stamp).await
}

/// The answer to a follower of a fetch that failed: what it found stored, if that may be served; else how upstream failed.
async fn answer_after_failure(
    running: &Running,
    request: &CacheRequest,
    miss: &Miss,
    failed: UpstreamAnswer,
) -> Answered {
    if let Some(answered) = stale_if_error(running, request, miss, failed).await {
        return answered;
    }
    match failed {
        Err(error) => unanswered(request, miss.reason, miss.stale.as_ref(), error),
        Ok(status) => {
            let error = ServerErrorResponse {
                status,
                reason: "upstream-failed",
                retry_after: None,
                request: HeaderMap::new(),
                response: None,
            };
            server_error(running, request, &error, None, true)
        }
    }
}

/// Whether an error may come from the leader's request, which differs from this one. 502, 503 and 504 tell of upstream's state.
/// Otherwise a client whose request makes upstream fail could have all followers fail.
fn may_be_caused_by_leader(error: &ServerErrorResponse, request: &CacheRequest) -> bool {
    !matches!(error.status.as_u16(), 502..=504) && error.request != request.sent()
}

/// The body of an error for a follower, if its request is for the same variant.
fn reader_of(error: &ServerErrorResponse, primary: &CacheKey, request: &CacheRequest) -> Option<StreamReader> {
    let (head, body) = error.response.as_ref()?;
    let ours = primary.variant(&head.varies_on, &request.client_request.headers);
    if ours.text == head.text { body.reader() } else { None }
}

/// A 5xx of upstream that is not stored: as it came for those who have its body, for others its status.
fn server_error(
    running: &Running,
    request: &CacheRequest,
    error: &ServerErrorResponse,
    reader: Option<StreamReader>,
    collapsed: bool,
) -> Answered {
    let fwd_status = Some(error.status.as_u16());
    let outcome = Outcome { fwd_status, collapsed, ..Outcome::pass(Fwd::Bypass, error.reason) };
    let response = match error.response.as_ref().zip(reader) {
        Some(((head, _), reader)) => {
            let mut response = respond::streaming(&request.client_request, head, false, reader);
            if head.consumed {
                storing::strip_consumed(response.headers_mut(), &running.config.server);
            }
            response
        }
        None => {
            let mut response =
                respond::error(error.status, "upstream failed; its answer was meant for another request");
            if let Some(time) = &error.retry_after {
                response.headers_mut().insert(RETRY_AFTER, time.clone());
            }
            response
        }
    };
    request.answered(response, outcome)
}

async fn stream(
    running: &Running,
    request: &CacheRequest,
    miss: &Miss,
    head: &Head,
    mut reader: StreamReader,
    collapsed: bool,
) -> Answered {
    if head.status == StatusCode::NO_CONTENT {
        // It has ended when it is answered: hyper adds a length to what has not, which RFC 9110 §8.6 forbids.
        while let Some(Ok(_)) = reader.frame().await {}
    }
    let outcome = Outcome {
        fwd_status: Some(head.status.as_u16()),
        ttl: head.stored.then_some(head.ttl),
        stored: head.stored,
        collapsed,
        detail: miss.reason.detail(),
        ..Outcome::miss(miss.reason.fwd())
    };
    let tags = || [&request.tags()[..], &head.groups].concat();
    let is_known = is_known(running, request, (head.status, &head.headers), tags).await;
    let mut response = respond::streaming(&request.client_request, head, is_known, reader);
    if head.consumed {
        storing::strip_consumed(response.headers_mut(), &running.config.server);
    }
    request.answered(response, outcome)
}

/// A follower knows the request's tags. The response may name groups, which a write may have invalidated before the follower
/// joined.
async fn is_current(running: &Running, head: &Head) -> bool {
    match head.stamp {
        Some(stamp) if !head.groups.is_empty() => running.cache.is_current(&head.groups, stamp).await,
        _ => true,
    }
}

/// The stale response that this request found, if it may be served in place of the response that upstream did not give.
async fn stale_if_error(
    running: &Running,
    request: &CacheRequest,
    miss: &Miss,
    answer: UpstreamAnswer,
) -> Option<Answered> {
    let stale = miss.stale.as_ref().filter(|stale| stands_in(running, request, stale, answer))?;
    from_entry(running, request, miss, &FetchOutcome::StaleOnError(Arc::clone(stale), answer), true).await
}

/// Whether an entry is served to this request in place of upstream's answer ([`decide::after_failure`]).
fn stands_in(running: &Running, request: &CacheRequest, entry: &Entry, answer: UpstreamAnswer) -> bool {
    let now = running.cache.now();
    entry.response().is_some_and(|stored| decide::after_failure(request, stored, answer, now).is_some())
}

/// The answer where upstream gave none, and nothing stored may be served instead.
pub(super) fn unanswered(
    request: &CacheRequest,
    reason: MissReason,
    stale: Option<&Arc<Entry>>,
    error: UpstreamError,
) -> Answered {
    let mut answered = failed(error, reason.fwd());
    let stored = stale.and_then(|stale| stale.response());
    if let Some(status) = stored.and_then(decide::error_status) {
        *answered.response.status_mut() = status;
    }
    Answered { family: request.family_id(), ..answered }
}

/// The answer from an entry that the fetch validated, that another proxy fetched, or that is served because upstream failed.
async fn from_entry(
    running: &Running,
    request: &CacheRequest,
    miss: &Miss,
    outcome: &FetchOutcome,
    collapsed: bool,
) -> Option<Answered> {
    let entry = match outcome {
        FetchOutcome::Validated(entry)
        | FetchOutcome::Elsewhere(entry, _)
        | FetchOutcome::StaleOnError(entry, _) => entry,
        FetchOutcome::Streaming(..)
        | FetchOutcome::ServerError(_)
        | FetchOutcome::Unshared
        | FetchOutcome::Failed(_) => return None,
    };
    let response = entry.response()?;
    let is_known = is_known_entry(running, request, entry).await;
    let now = running.cache.now();
    let ttl = response.freshness.ttl(now);
    let outcome = match outcome {
        FetchOutcome::StaleOnError(_, failed) => {
            let fwd_status = failed.ok().map(|status| status.as_u16());
            Outcome { fwd_status, collapsed, ..Outcome::stale(ttl, StaleReason::UpstreamFailed.detail()) }
        }
        FetchOutcome::Elsewhere(..) => {
            Outcome::fetched_elsewhere(miss.reason.fwd(), response.status.as_u16(), ttl)
        }
        _ => Outcome { collapsed, ..Outcome::revalidated(ttl) },
    };
    // RFC 9211 §2.1: it went forward, so it is no hit.
    let outcome = Outcome { fwd: Some(miss.reason.fwd()), ..outcome };
    Some(from_stored(running, request, response, is_known, now, outcome))
}
