//! GET, HEAD and QUERY, top to bottom: look up, decide, and serve; otherwise forward or fetch.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::cache_request::CacheRequest;
use super::decide::{Decision, MissReason, decide};
use super::fetch::{self, FetchContext, Miss, Retry};
use super::{Answered, failed, forward, not_cached, refresh, respond};
use crate::cache::Lookup;
use crate::cache::memory::Hold;
use crate::coalesce::inflight::{FetchOutcome, FetchRole};
use crate::config::CacheStatus;
use crate::entry::Entry;
use crate::http::authorization::Authorization;
use crate::http::validation::Condition;
use crate::key::CacheKey;
use crate::outcome::{Fwd, Outcome};
use crate::running::Running;
use crate::traces::Step;
use crate::upstream::UpstreamError;

/// A read that memory alone has not answered.
pub(super) struct PendingRead {
    request: Box<CacheRequest>,
    stage: ReadStage,
}

/// What is known of a pending read.
enum ReadStage {
    Begun,
    /// Memory has no answer, and Redis is to be asked. The span of the lookup goes on.
    NotInMemory(CacheKey, Option<Step>),
    LookedUp(Lookup),
}

impl PendingRead {
    fn boxed(request: Box<CacheRequest>, stage: ReadStage) -> Box<PendingRead> {
        Box::new(PendingRead { request, stage })
    }
}

/// Answers a read: from the cache, or by asking upstream.
pub(super) async fn answer(running: &Arc<Running>, request: Box<CacheRequest>) -> Answered {
    match answer_now(running, request) {
        Ok(answered) => answered,
        // In a box, so that the future of a hit is small.
        Err(pending) => Box::pin(answer_later(running, pending)).await,
    }
}

/// Answers a read from this process's memory, without waiting for anything.
///
/// # Errors
///
/// Memory alone does not suffice: [`answer_later`] continues.
pub(super) fn answer_now(
    running: &Arc<Running>,
    request: Box<CacheRequest>,
) -> Result<Answered, Box<PendingRead>> {
    if request.is_guarded() {
        return Err(PendingRead::boxed(request, ReadStage::Begun));
    }
    let step = request.client_request.step("lookup");
    let lookup = match request.look_up_now(&running.cache) {
        Ok(lookup) => lookup,
        Err(cache_key) => return Err(PendingRead::boxed(request, ReadStage::NotInMemory(cache_key, step))),
    };
    drop(step);
    request.count(running, &lookup);
    let served = match respond::condition(&request, &lookup) {
        // Comparing dates needs the marks in Redis.
        Condition::NotModifiedSince(_) => Err(request),
        condition => {
            let key = reported_key(running, &request);
            let is_known = condition == Condition::NotModified;
            serve(running, request, &lookup, is_known)
                .map(|answered| with_key(answered, key))
                .map_err(|(it, _)| it)
        }
    };
    served.map_err(|request| PendingRead::boxed(request, ReadStage::LookedUp(lookup)))
}

/// Answers a read that memory alone does not answer.
pub(super) async fn answer_later(running: &Arc<Running>, pending: Box<PendingRead>) -> Answered {
    let PendingRead { request, stage } = *pending;
    let key = reported_key(running, &request);
    let mut has_asked = false;
    if request.is_guarded() {
        match Box::pin(authorize(running, &request)).await {
            Ok(asked) => has_asked = asked,
            Err(reason) => return with_key(Box::pin(forward::alone(running, &request, reason)).await, key),
        }
    }
    let lookup = match stage {
        ReadStage::Begun => {
            let _step = request.client_request.step("lookup");
            counted(running, &request, Box::pin(request.look_up(&running.cache)).await)
        }
        ReadStage::NotInMemory(cache_key, _step) => {
            // In a box, like all that only Redis needs: without it, it would only make the future of every miss larger.
            counted(running, &request, Box::pin(request.look_up_later(&running.cache, cache_key)).await)
        }
        ReadStage::LookedUp(lookup) => lookup,
    };
    let is_known = is_known(running, &request, &lookup).await;
    let mut answered = match serve(running, request, &lookup, is_known) {
        Ok(answered) => answered,
        Err((request, ask)) => {
            note_miss(running, &request, ask);
            ask_upstream(running, Arc::from(request), lookup, ask).await
        }
    };
    answered.outcome.has_asked = has_asked;
    with_key(answered, key)
}

fn counted(running: &Running, request: &CacheRequest, lookup: Lookup) -> Lookup {
    request.count(running, &lookup);
    lookup
}

fn with_key(mut answered: Answered, key: Option<Box<str>>) -> Answered {
    answered.outcome.key = key;
    answered
}

/// Whether the client has the stored response that it is to be served.
async fn is_known(running: &Running, request: &CacheRequest, lookup: &Lookup) -> bool {
    match respond::condition(request, lookup) {
        Condition::Send => false,
        Condition::NotModified => true,
        Condition::NotModifiedSince(_) => {
            let decision = decide(request, lookup, running.cache.now());
            let entry = lookup
                .entry()
                .filter(|_| matches!(decision, Decision::Serve { .. } | Decision::ServeStale { .. }));
            match entry {
                Some(entry) => respond::is_known_entry(running, request, entry).await,
                None => false,
            }
        }
    }
}

/// Asks the API whether it authorizes the caller of a guarded read, before the read may use what is stored or share a fetch. The check
/// is a read of Larder's own ([`CacheRequest::check`]) that goes the way of every read, so that the API's answer, the verdict, is
/// stored, coalesced, compared with the marks and shared with other proxies like any response. A verdict that was asked for before
/// a write was acknowledged does not count after it.
///
/// Returns whether upstream was asked, and not a stored verdict.
///
/// # Errors
///
/// It does not, or did not say so: why the request is forwarded for itself alone, and gets what the API answers to it.
pub(super) async fn authorize(running: &Arc<Running>, request: &CacheRequest) -> Result<bool, MissReason> {
    let Some(check) = request.check() else { return Ok(false) };
    let answered = answer(running, Box::new(check)).await;
    let verdict = Authorization::of(answered.response.status());
    // A fetch that was shared was one question.
    let is_asked = answered.outcome.fwd.is_some() && !answered.outcome.collapsed;
    running.metrics.authorized(verdict, is_asked);
    match MissReason::of_authorization(verdict) {
        None => Ok(answered.outcome.fwd.is_some()),
        Some(reason) => Err(reason),
    }
}

/// What upstream is asked for a read that is not served, and why.
#[derive(Clone, Copy)]
enum Ask {
    /// For this request alone.
    Forward(MissReason),
    /// Once for all who wait.
    Fetch(MissReason),
}

/// Serves a read from the cache, if that is the decision. Otherwise the request comes back.
/// `is_known`: the client has the stored response.
fn serve<R>(running: &Arc<Running>, request: R, lookup: &Lookup, is_known: bool) -> Result<Answered, (R, Ask)>
where
    R: Deref<Target = CacheRequest> + Into<Arc<CacheRequest>>,
{
    let now = running.cache.now();
    let (outcome, revalidates) = match decide(&request, lookup, now) {
        Decision::Serve { ttl } => (Outcome::hit(ttl), false),
        Decision::ServeStale { ttl, reason } => (Outcome::stale(ttl, reason.detail()), reason.revalidates()),
        Decision::Refuse(_) => return Ok(Answered { family: request.family_id(), ..not_cached() }),
        Decision::Forward(reason) => return Err((request, Ask::Forward(reason))),
        Decision::Revalidate(reason) | Decision::Fetch(reason) => return Err((request, Ask::Fetch(reason))),
    };
    let Some((entry, stored)) = lookup.entry().and_then(|entry| Some((entry, entry.response()?))) else {
        return Err((request, Ask::Fetch(MissReason::NotStored)));
    };
    if let Hold::Entry(entry) = &lookup.hold {
        entry.count_hit();
    }
    if request.is_counted() {
        refresh::count(running, &request, lookup);
    }
    let answered = respond::from_stored(running, &request, stored, is_known, now, outcome);
    if revalidates {
        revalidate_in_background(running, &request.into(), lookup, entry);
    }
    Ok(answered)
}

/// Counts a read that could have been answered from the cache, by its URL.
fn note_miss(running: &Running, request: &CacheRequest, ask: Ask) {
    if matches!(ask, Ask::Fetch(_)) {
        running.top.missed(&request.reported_url(), request.family_name());
    }
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
    mut request: Arc<CacheRequest>,
    mut lookup: Lookup,
    mut ask: Ask,
) -> Answered {
    let mut retried = None;
    loop {
        let (Ask::Forward(reason) | Ask::Fetch(reason)) = ask;
        if let MissReason::Token(fault) = reason {
            running.metrics.token_refused(fault.token());
        }
        let stale = lookup.entry().filter(|_| matches!(reason, MissReason::Stale { .. }));
        if let Ask::Forward(reason) = ask {
            // In a box: it would double the size of the future of a miss.
            return Box::pin(forward::forward(running, &request, &lookup, reason, stale)).await;
        }
        let miss = Miss { reason, stale: stale.cloned() };
        let retry = match fetch::fetch(running, &request, &lookup, &miss, retried).await {
            Ok(answered) => return answered,
            Err(retry) => retry,
        };
        if let Some(fault) = request.token_fault(running.cache.now()) {
            // It has expired while the request waited.
            ask = Ask::Forward(MissReason::Token(fault));
            continue;
        }
        if retried == Some(Retry::Alone) || retried == Some(retry) {
            return failed(UpstreamError::Abandoned, Fwd::UriMiss);
        }
        retried = Some(retry);
        lookup = Box::pin(request.look_up(&running.cache)).await;
        let is_known = is_known(running, &request, &lookup).await;
        (request, ask) = match serve(running, request, &lookup, is_known) {
            Ok(answered) => return answered,
            Err(again) => again,
        };
    }
}

/// RFC 5861 §3: revalidates what was served stale, unless a fetch is in flight. Not where responses could not be shared lately:
/// this one could not be stored either, and each hit would ask again.
fn revalidate_in_background(
    running: &Arc<Running>,
    request: &Arc<CacheRequest>,
    lookup: &Lookup,
    entry: &Arc<Entry>,
) {
    let role = running.inflight.join(lookup.cache_key.hash, lookup.view.as_ref(), Instant::now());
    let FetchRole::Lead(permit) = role else { return };
    // Another fetch may have ended since the lookup: its response is in memory before it ends.
    if let Some(newer) = running.cache.memory().newer_than(&lookup.cache_key, entry) {
        return permit.finish(FetchOutcome::Validated(newer));
    }
    let (client, stale) = (request.client_request.sharer(running), Some(Arc::clone(entry)));
    let context = FetchContext::new(request, client, lookup, stale);
    running.tasks.spawn(Box::pin(fetch::run(Arc::clone(running), context, permit, None)));
}
