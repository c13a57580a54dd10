//! GET and HEAD, step by step: claim, key, look up, then serve, validate or fetch.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::errand::Errand;
use super::fill::{self, Direct};
use super::question::Question;
use super::{Answered, Asked, failed, keep, pass, refresh, refuse, respond, share};
use crate::cache::flight::{Boarding, Failed, Flight, Head, Landing, Permit, ServerError};
use crate::cache::stream::Reader;
use crate::cache::{Found, Lookup};
use crate::config::CacheStatus;
use crate::entry::{self, Entry};
use crate::headers;
use crate::key::{Canonical, KeyHash};
use crate::outcome::{Fwd, Outcome};
use crate::running::{Live, Running};
use crate::semantics::freshness::{self, Because, Reuse};
use crate::semantics::validation::{self, Condition, HeadVerdict};
use crate::shares::Share;
use crate::stamp::{Tag, View};
use crate::upstream::{RequestBody, UpstreamError};

/// Why a fetch is needed, and what there is to validate.
struct Need {
    fwd: Fwd,
    detail: Option<&'static str>,
    stale: Option<Arc<Entry>>,
}

impl Need {
    /// What is stored may not be served before upstream has confirmed it.
    fn to_validate(because: Because, entry: &Arc<Entry>) -> Need {
        let (fwd, detail) = match because {
            Because::Expired => (Fwd::Stale, None),
            Because::NoCache | Because::MustRevalidate => (Fwd::Stale, Some(because.token())),
            Because::RequestNoCache | Because::RequestMaxAge | Because::RequestMinFresh => {
                (Fwd::Request, Some(because.token()))
            }
        };
        Need { fwd, detail, stale: Some(Arc::clone(entry)) }
    }
}

/// What came of sharing a flight.
enum Ride {
    Answered(Box<Answered>),
    /// The flight's response is not for this request: ask again, alone.
    GotOff,
    /// The leader's request may have caused the failure: ask again, with others.
    Again,
}

/// How a request that needs a fetch goes about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// With others.
    First,
    /// With others once more: a failure is final.
    Second,
    Alone,
}

/// Answers a QUERY: safe like GET, with content that is part of the key. Of one that no family names nothing is kept, so
/// that its content need not be read first.
pub(super) async fn query(running: &Arc<Running>, live: Arc<Live>, asked: Asked, body: Incoming) -> Answered {
    if live.rules.claim(&asked.method, &asked.target.path).is_none() {
        return pass(running, &asked, asked.content(body), Fwd::Method, "method").await;
    }
    if live.rules.ambiguity(&asked.method, &asked.target).is_some() {
        return pass(running, &asked, asked.content(body), Fwd::Bypass, AMBIGUOUS_PATH).await;
    }
    if validation::is_for_origin(&asked.headers) {
        return pass(running, &asked, asked.content(body), Fwd::Bypass, "precondition").await;
    }
    // It is part of the key, unless it is too large for that.
    let most = running.config.server.max_query_body;
    let is_large = body.size_hint().lower() > most;
    let mut body = asked.content(body);
    if !is_large && let Err(incomplete) = running.upstream.receive(asked.sharer(running), &mut body, most).await {
        return refuse_content(incomplete);
    }
    // Trailers are discarded (RFC 9110 §6.5.1): they are no part of what is asked.
    match body.into_whole() {
        Ok(content) if content.len() as u64 <= most => {
            answer(running, Question::new(live, asked, Some(content))).await
        }
        Ok(content) => pass(running, &asked, RequestBody::Whole(content), Fwd::Bypass, "request-body").await,
        Err(body) => pass(running, &asked, body, Fwd::Bypass, "request-body").await,
    }
}

/// Answers a GET or HEAD whose content is not known to be empty: an ordinary one if it turns out to be.
pub(super) async fn with_content(
    running: &Arc<Running>,
    live: &Arc<Live>,
    asked: Asked,
    body: Incoming,
) -> Answered {
    let has_length = body.size_hint().exact().is_some();
    let mut body = asked.content(body);
    if !has_length && let Err(incomplete) = running.upstream.receive(asked.sharer(running), &mut body, 0).await {
        return refuse_content(incomplete);
    }
    // Trailers are discarded (RFC 9110 §6.5.1).
    let body = match body.into_whole() {
        Ok(content) if content.is_empty() => {
            return match not_for_the_cache(live, &asked) {
                Some(detail) => pass(running, &asked, RequestBody::Empty, Fwd::Bypass, detail).await,
                None => answer(running, Question::new(Arc::clone(live), asked, None)).await,
            };
        }
        Ok(content) => RequestBody::Whole(content),
        Err(body) => body,
    };
    pass(running, &asked, body, Fwd::Bypass, "request-body").await
}

/// Content that did not come: nothing was asked of upstream.
fn refuse_content(incomplete: UpstreamError) -> Answered {
    let mut answered = failed(incomplete, Fwd::Method);
    answered.outcome.fwd = None;
    answered
}

/// Answers a question: from the cache, or by asking upstream.
pub(super) async fn answer(running: &Arc<Running>, question: Arc<Question>) -> Answered {
    let mut answered = match attempt(running, &question, Attempt::First).await {
        Ride::Answered(answered) => *answered,
        Ride::Again => Box::pin(answer_again(running, &question, Attempt::Second)).await,
        Ride::GotOff => Box::pin(answer_again(running, &question, Attempt::Alone)).await,
    };
    if running.config.server.cache_status == CacheStatus::Key {
        let key = question.canonical().key();
        answered.outcome.key = Some(format!("{}:{key}", question.label()).into());
    }
    answered
}

async fn answer_again(running: &Arc<Running>, question: &Arc<Question>, second: Attempt) -> Answered {
    let ride = match attempt(running, question, second).await {
        Ride::GotOff if second == Attempt::Second => attempt(running, question, Attempt::Alone).await,
        ride => ride,
    };
    match ride {
        Ride::Answered(answered) => *answered,
        // Alone there is nobody whose flight could turn out not to fit.
        Ride::GotOff | Ride::Again => failed(UpstreamError::Abandoned, Fwd::UriMiss),
    }
}

/// The detail of a read with credentials, for which what is stored is not meant.
const CREDENTIALS: &str = "credentials";

/// The detail of a read whose path upstream may take for one of another family.
pub(super) const AMBIGUOUS_PATH: &str = "ambiguous-path";

/// Why a GET or HEAD without content has nothing to do with the cache, if it has not.
pub(super) fn not_for_the_cache(live: &Live, asked: &Asked) -> Option<&'static str> {
    live.rules.ambiguity(&asked.method, &asked.target).map(|_| AMBIGUOUS_PATH)
}

async fn attempt(running: &Arc<Running>, question: &Arc<Question>, attempt: Attempt) -> Ride {
    let primary = question.canonical();
    let lookup = running
        .cache
        .lookup(primary.clone(), &question.asked.headers, || question.label(), || Arc::clone(question.tags()))
        .await;
    let now = running.cache.now();
    if validation::is_for_origin(&question.asked.headers) && !is_as_asked(question, &lookup, now) {
        let passed = pass(running, &question.asked, RequestBody::Empty, Fwd::Bypass, "precondition");
        let mut answered = Answered { family: question.family_id(), ..Box::pin(passed).await };
        question.strip_answer(answered.response.headers_mut());
        return Ride::Answered(Box::new(answered));
    }
    let need = match &lookup.found {
        Found::Current(entry) | Found::Softened(entry) => {
            let is_known = is_known_entry(running, question, entry).await;
            match use_entry(running, question, &primary, &lookup, entry, is_known, now) {
                Ok(answered) => {
                    refresh::count(running, question, &lookup);
                    return Ride::Answered(Box::new(answered));
                }
                Err(need) => need,
            }
        }
        Found::Outdated => Need { fwd: Fwd::Stale, detail: Some("outdated"), stale: None },
        Found::OtherVariant => Need { fwd: Fwd::VaryMiss, detail: None, stale: None },
        Found::Nothing if lookup.view.is_none() => {
            Need { fwd: Fwd::Bypass, detail: Some("store-away"), stale: None }
        }
        Found::Nothing => Need { fwd: Fwd::UriMiss, detail: None, stale: None },
    };
    // RFC 9111 §5.2.1.7
    if question.demands.only_if_cached {
        return Ride::Answered(Box::new(Answered { family: question.family_id(), ..not_cached() }));
    }
    if question.asked.method == Method::HEAD {
        return Ride::Answered(Box::new(Box::pin(head(running, question, primary, &lookup, &need)).await));
    }
    // A partial answer is not stored (RFC 9111 §3.3 lets a cache leave ranges alone). What is stored and stale is
    // validated as a whole, and the range is cut from it.
    if question.is_for_range() && need.stale.is_none() && !question.fetching().range_fetches_whole {
        return Ride::Answered(Box::new(Box::pin(forward(running, question, &need)).await.0));
    }
    Box::pin(fetch(running, question, primary, &lookup, need, attempt)).await
}

/// RFC 9111 §5.2.1.7
pub(super) fn not_cached() -> Answered {
    refuse(StatusCode::GATEWAY_TIMEOUT, "only-if-cached", "nothing stored may answer this request")
}

/// Whether preconditions that are for the origin may be ignored: what is stored, current and fresh is what the origin would
/// send.
fn is_as_asked(question: &Question, lookup: &Lookup, now: SystemTime) -> bool {
    let Found::Current(entry) = &lookup.found else { return false };
    entry.response().is_some_and(|stored| question.is_answered_by(stored, now) && question.is_met_by(stored))
}

/// RFC 9111 §4: what is current is served if it is fresh, or stale where that is allowed; so is what is outdated softly.
fn use_entry(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: &Canonical,
    lookup: &Lookup,
    entry: &Arc<Entry>,
    is_known: bool,
    now: SystemTime,
) -> Result<Answered, Need> {
    let Some(response) = entry.response() else {
        return Err(Need { fwd: Fwd::UriMiss, detail: None, stale: None });
    };
    if question.is_refused(response) {
        return Err(Need { fwd: Fwd::Bypass, detail: Some(CREDENTIALS), stale: None });
    }
    let reuse = match lookup.found {
        Found::Softened(_) => response.freshness.reuse_softened(now, &question.demands),
        _ => response.freshness.reuse(now, &question.demands),
    };
    let outcome = match reuse {
        Reuse::Fresh { ttl } => Outcome::hit(ttl),
        Reuse::StaleWhileRevalidate { ttl } => {
            revalidate(running, question, primary, lookup, entry);
            Outcome::stale(ttl, "revalidating")
        }
        Reuse::Stale { ttl } => Outcome::stale(ttl, "max-stale"),
        Reuse::Softened { ttl } => {
            revalidate(running, question, primary, lookup, entry);
            Outcome::stale(ttl, "softly-outdated")
        }
        Reuse::Validate { because, .. } => return Err(Need::to_validate(because, entry)),
    };
    Ok(from_stored(running, question, response, is_known, now, outcome))
}

/// Whether a response is what the client has, by the client's own conditions. `tags`: what it carries.
async fn is_known(
    running: &Running,
    question: &Question,
    (status, fields): (StatusCode, &HeaderMap),
    tags: impl FnOnce() -> Vec<Tag>,
) -> bool {
    match validation::evaluate(&question.asked.headers, status, fields) {
        Condition::Send => false,
        Condition::NotModified => true,
        Condition::NotModifiedSince(date) => {
            let tags = tags();
            // In a box: few hits are asked for by a date.
            !Box::pin(running.cache.may_be_of_a_write(&tags, date)).await
        }
    }
}

async fn is_known_entry(running: &Running, question: &Question, entry: &Entry) -> bool {
    match entry.response() {
        Some(stored) => {
            is_known(running, question, (stored.status, &stored.headers), || entry.tags.to_vec()).await
        }
        None => false,
    }
}

fn from_stored(
    running: &Running,
    question: &Question,
    stored: &entry::Response,
    is_known: bool,
    now: SystemTime,
    outcome: Outcome,
) -> Answered {
    let asked = &question.asked;
    let mut response = respond::stored(&asked.method, &asked.headers, stored, is_known, now);
    if stored.consumed {
        keep::strip_consumed(response.headers_mut(), &running.config.server);
    }
    question.answered(response, outcome)
}

/// RFC 5861 §3: one revalidation in the background, unless one is under way. None where answers were not for sharing
/// lately: it would not be stored either, and each hit would ask anew.
fn revalidate(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: &Canonical,
    lookup: &Lookup,
    entry: &Arc<Entry>,
) {
    let boarding = running.flights.board(lookup.canonical.hash, lookup.view.as_ref(), Instant::now());
    let permit = match boarding {
        Boarding::Lead(permit) => permit,
        Boarding::Alone | Boarding::Join(_) => return,
    };
    // Another one may have ended since the lookup: it is in memory before its flight is over.
    if let Some(newer) = running.cache.memory().newer_than(&lookup.canonical, entry) {
        return permit.land(Landing::Validated(newer));
    }
    let errand =
        Errand::new(question, question.asked.sharer(running), primary.clone(), lookup, Some(Arc::clone(entry)));
    running.tasks.spawn(fill::fill(Arc::clone(running), errand, permit, None));
}

/// Joins a fetch or leads one. The fetch runs in a task of its own: it goes on if this client leaves.
async fn fetch(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: Canonical,
    lookup: &Lookup,
    need: Need,
    attempt: Attempt,
) -> Ride {
    let key = lookup.canonical.hash;
    let view = lookup.view.as_ref();
    // What is stored, or would be for others, is fetched because of what this client sent.
    let is_forced = need.detail == Some(CREDENTIALS) || question.facts.no_store;
    let share = match is_forced.then(|| share(running, &question.asked)).transpose() {
        Ok(share) => share,
        Err(refused) => return Ride::Answered(Box::new(Answered { family: question.family_id(), ..*refused })),
    };
    let boarding = match attempt == Attempt::Alone || !question.may_collapse() {
        true => Boarding::Alone,
        false => board(running, question, key, view),
    };
    let permit = match boarding {
        Boarding::Join(flight) => match wait(running, question, &flight).await {
            Some(landing) => return join(running, question, &primary, lookup, &need, (landing, attempt)).await,
            None => running.flights.solo(key, view),
        },
        Boarding::Lead(permit) => permit,
        Boarding::Alone => running.flights.solo(key, view),
    };
    Ride::Answered(Box::new(lead(running, question, primary, lookup, need, (permit, share)).await))
}

/// The least time between two looks whether upstream has a free place.
const LOOK: Duration = Duration::from_millis(50);

/// Waits for the leader's response; `None` when the follower has waited for long enough, and upstream has a place for it. While
/// it has none, to wait for the leader is better than to wait for a place.
async fn wait(running: &Running, question: &Question, flight: &Flight) -> Option<Landing> {
    let _waits = running.metrics.follower_waits();
    let mut landing = pin!(flight.landing());
    let Some(mut patience) = question.patience(running) else { return Some(landing.await) };
    loop {
        match tokio::time::timeout(patience, &mut landing).await {
            Ok(landing) => return Some(landing),
            Err(_) if running.upstream.has_room(question.asked.sharer(running)) => return None,
            Err(_) => patience = patience.max(LOOK),
        }
    }
}

/// Joins a flight or leads one; none that waits for what keeps only another client waiting.
fn board(running: &Running, question: &Question, key: KeyHash, view: Option<&View>) -> Boarding {
    let boarding = running.flights.board(key, view, Instant::now());
    match boarding {
        Boarding::Join(flight) if flight.is_held_up_for(question.asked.sharer(running)) => {
            running.flights.pass_over(key, &flight);
            running.flights.board(key, view, Instant::now())
        }
        boarding => boarding,
    }
}

async fn lead(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: Canonical,
    lookup: &Lookup,
    need: Need,
    (permit, share): (Permit, Option<Share>),
) -> Answered {
    let flight = permit.flight();
    let (give, take) = oneshot::channel();
    let errand = Errand::new(question, question.asked.sharer(running), primary, lookup, need.stale.clone());
    running.tasks.spawn(fill::fill(Arc::clone(running), errand, permit, Some(give)));
    let landing = flight.landing().await;
    match (landing, take.await.ok()) {
        (Landing::Streaming(head, _), Some(Direct::Reader(reader, own))) => {
            let mut answered = stream(running, question, &need, &head, reader, false).await;
            answered.response.headers_mut().extend(own);
            answered
        }
        (Landing::ServerError(error), Some(Direct::Reader(reader, _))) if error.response.is_some() => {
            server_error(running, question, &error, Some(reader), false)
        }
        (Landing::Unshared | Landing::ServerError(_), Some(Direct::Response(response, reason))) => {
            let mut outcome = Outcome::pass(Fwd::Bypass, reason);
            outcome.fwd_status = Some(response.status().as_u16());
            let response = match share {
                Some(share) => response.map(|body| body.holding(share)),
                None => *response,
            };
            question.answered(question.forwarded(response, &running.config.server), outcome)
        }
        (Landing::Failed(error), _) => unanswered(question, &need, error),
        (landing, _) => from_entry(running, question, &need, &landing, false)
            .await
            .unwrap_or_else(|| failed(UpstreamError::Abandoned, need.fwd)),
    }
}

async fn join(
    running: &Running,
    question: &Arc<Question>,
    primary: &Canonical,
    lookup: &Lookup,
    need: &Need,
    (landing, attempt): (Landing, Attempt),
) -> Ride {
    let answered = match landing {
        Landing::Streaming(ref head, _) if !is_current(running, head).await => return Ride::GotOff,
        Landing::Streaming(head, body) => {
            // RFC 9111 §4.1: the leader's response is ours only if we sent the same values of what it varies on.
            let ours = primary.variant(&head.varies_on, &question.asked.headers);
            match body.reader() {
                Some(reader) if ours.text == head.text => {
                    stream(running, question, need, &head, reader, true).await
                }
                _ => return Ride::GotOff,
            }
        }
        // The leader had no more of its share of upstream; others have theirs.
        Landing::Failed(error) | Landing::StaleOnError(_, Failed::NoAnswer(error)) if error.is_for_client() => {
            return Ride::GotOff;
        }
        // The leader's request did not let what is stored stand in; this one may.
        Landing::Failed(error) => told(running, question, need, Failed::NoAnswer(error)).await,
        Landing::ServerError(error) => match stand_in(running, question, need, Failed::Status(error.status)).await
        {
            Some(answered) => answered,
            None if attempt == Attempt::First && may_be_caused_by_leader(&error, question) => return Ride::Again,
            None => server_error(running, question, &error, reader_of(&error, primary, question), true),
        },
        Landing::Unshared => return Ride::GotOff,
        Landing::Elsewhere(ref entry, ref varies_on) => {
            let is_ours = *entry.text == primary.variant(varies_on, &question.asked.headers).text
                && entry.response().is_some_and(|response| question.is_answered_by(response, running.cache.now()));
            // Its response may have named groups of its own.
            if !is_ours || !running.cache.is_current(&entry.tags, entry.stamp).await {
                return Ride::GotOff;
            }
            match from_entry(running, question, need, &landing, true).await {
                Some(answered) => answered,
                None => return Ride::GotOff,
            }
        }
        Landing::StaleOnError(ref entry, failed) => {
            let is_taken = question.takes_after(failed.failure(), entry, running.cache.now());
            match is_taken && is_ours(running, lookup, entry).await {
                true => match from_entry(running, question, need, &landing, true).await {
                    Some(answered) => answered,
                    None => return Ride::GotOff,
                },
                false => told(running, question, need, failed).await,
            }
        }
        Landing::Validated(ref entry) => {
            if !is_ours(running, lookup, entry).await {
                return Ride::GotOff;
            }
            match from_entry(running, question, need, &landing, true).await {
                Some(answered) => answered,
                None => return Ride::GotOff,
            }
        }
    };
    Ride::Answered(Box::new(answered))
}

/// Whether what a flight brought, and what is older than it, is for this request too: either may have named groups of its
/// own, so that it has to be current.
async fn is_ours(running: &Running, lookup: &Lookup, entry: &Entry) -> bool {
    *entry.text == *lookup.canonical.text && running.cache.is_current(&entry.tags, entry.stamp).await
}

/// The answer to a follower of a flight that failed: what it found stored, if that may stand in; else how upstream failed.
async fn told(running: &Running, question: &Question, need: &Need, failed: Failed) -> Answered {
    if let Some(answered) = stand_in(running, question, need, failed).await {
        return answered;
    }
    match failed {
        Failed::NoAnswer(error) => unanswered(question, need, error),
        Failed::Status(status) => {
            let error = ServerError {
                status,
                reason: "upstream-failed",
                retry_after: None,
                request: HeaderMap::new(),
                response: None,
            };
            server_error(running, question, &error, None, true)
        }
    }
}

/// Whether an error may come from the leader's request, which differs from this one: not one that tells of upstream's state.
/// Without this anybody who can make upstream fail by what they send could have all who follow told so.
fn may_be_caused_by_leader(error: &ServerError, question: &Question) -> bool {
    !matches!(error.status.as_u16(), 502..=504) && error.request != question.sent()
}

/// A follower's place in the body of an error, if its request is one for the same variant.
fn reader_of(error: &ServerError, primary: &Canonical, question: &Question) -> Option<Reader> {
    let (head, body) = error.response.as_ref()?;
    let ours = primary.variant(&head.varies_on, &question.asked.headers);
    if ours.text == head.text { body.reader() } else { None }
}

/// An error of the server: as it came for who has a place in its body, else no more of it than the status.
fn server_error(
    running: &Running,
    question: &Question,
    error: &ServerError,
    reader: Option<Reader>,
    collapsed: bool,
) -> Answered {
    let fwd_status = Some(error.status.as_u16());
    let outcome = Outcome { fwd_status, collapsed, ..Outcome::pass(Fwd::Bypass, error.reason) };
    let response = match error.response.as_ref().zip(reader) {
        Some(((head, _), reader)) => {
            let mut response = respond::streaming(&question.asked, head, false, reader);
            if head.consumed {
                keep::strip_consumed(response.headers_mut(), &running.config.server);
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
    question.answered(response, outcome)
}

async fn stream(
    running: &Running,
    question: &Question,
    need: &Need,
    head: &Head,
    mut reader: Reader,
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
        detail: need.detail,
        ..Outcome::miss(need.fwd)
    };
    let tags = || [&question.tags()[..], &head.groups].concat();
    let is_known = is_known(running, question, (head.status, &head.headers), tags).await;
    let mut response = respond::streaming(&question.asked, head, is_known, reader);
    if head.consumed {
        keep::strip_consumed(response.headers_mut(), &running.config.server);
    }
    question.answered(response, outcome)
}

/// Whoever joins a flight knew the request's tags; the response may have named groups, which a write may have outdated
/// before the joining request began.
async fn is_current(running: &Running, head: &Head) -> bool {
    match head.stamp {
        Some(stamp) if !head.groups.is_empty() => running.cache.is_current(&head.groups, stamp).await,
        _ => true,
    }
}

/// What this request found stored, in place of the answer that upstream did not give, if it may have it.
async fn stand_in(running: &Running, question: &Question, need: &Need, failed: Failed) -> Option<Answered> {
    if matches!(failed, Failed::Status(status) if !freshness::is_error(status)) {
        return None;
    }
    let now = running.cache.now();
    let stale = need.stale.as_ref().filter(|stale| question.takes_after(failed.failure(), stale, now))?;
    from_entry(running, question, need, &Landing::StaleOnError(Arc::clone(stale), failed), true).await
}

fn status_of(failed: Failed) -> Option<u16> {
    match failed {
        Failed::Status(status) => Some(status.as_u16()),
        Failed::NoAnswer(_) => None,
    }
}

/// Upstream gave no answer, and nothing stored may stand in for it.
fn unanswered(question: &Question, need: &Need, error: UpstreamError) -> Answered {
    let mut answered = failed(error, need.fwd);
    let stored = need.stale.as_ref().and_then(|stale| stale.response());
    if stored.is_some_and(|stored| stored.freshness.never_stale || stored.freshness.always_validate) {
        // RFC 9111 §5.2.2.2: a response that must be revalidated, and cannot be.
        *answered.response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    }
    Answered { family: question.family_id(), ..answered }
}

/// The answer from an entry that a flight validated, that another proxy fetched, or that stands in for a failing upstream.
async fn from_entry(
    running: &Running,
    question: &Question,
    need: &Need,
    landing: &Landing,
    collapsed: bool,
) -> Option<Answered> {
    let entry = match landing {
        Landing::Validated(entry) | Landing::Elsewhere(entry, _) | Landing::StaleOnError(entry, _) => entry,
        Landing::Streaming(..) | Landing::ServerError(_) | Landing::Unshared | Landing::Failed(_) => return None,
    };
    let response = entry.response()?;
    let is_known = is_known_entry(running, question, entry).await;
    let now = running.cache.now();
    let ttl = response.freshness.ttl(now);
    let outcome = match landing {
        Landing::StaleOnError(_, failed) => {
            Outcome { fwd_status: status_of(*failed), collapsed, ..Outcome::stale(ttl, "upstream-failed") }
        }
        Landing::Elsewhere(..) => Outcome::fetched_elsewhere(need.fwd, response.status.as_u16(), ttl),
        _ => Outcome { collapsed, ..Outcome::revalidated(ttl) },
    };
    // RFC 9211 §2.1: it went forward, so it is no hit.
    let outcome = Outcome { fwd: Some(need.fwd), ..outcome };
    Some(from_stored(running, question, response, is_known, now, outcome))
}

/// A fetch whose answer is not stored: HEAD, and ranges that are not cut from a stored response. Also gives the head of
/// upstream's answer.
async fn forward(
    running: &Running,
    question: &Question,
    need: &Need,
) -> (Answered, Option<(StatusCode, HeaderMap)>) {
    let asked = &question.asked;
    let share = match share(running, asked) {
        Ok(share) => share,
        Err(refused) => return (Answered { family: question.family_id(), ..*refused }, None),
    };
    let path = asked.target.path_and_query();
    let fields = asked.for_upstream(running);
    let (client, interim) = (asked.sharer(running), asked.interim.clone());
    match running.upstream.send(client, &asked.method, &path, fields, RequestBody::Empty, interim).await {
        Ok(mut response) => {
            question.strip_answer(response.headers_mut());
            let head = (response.status(), response.headers().clone());
            let fwd_status = Some(head.0.as_u16());
            let outcome = Outcome { fwd_status, detail: need.detail, ..Outcome::miss(need.fwd) };
            let response = response.map(|body| body.holding(share));
            (question.answered(question.forwarded(response, &running.config.server), outcome), Some(head))
        }
        Err(error) => (unanswered(question, need, error), None),
    }
}

/// A HEAD that the cache cannot answer. What upstream says to it updates what is stored for GET, or shows that it is of
/// no use any more (RFC 9111 §4.3.5).
async fn head(
    running: &Running,
    question: &Arc<Question>,
    primary: Canonical,
    lookup: &Lookup,
    need: &Need,
) -> Answered {
    let request_time = running.cache.now();
    let (answered, head) = forward(running, question, need).await;
    let stored = need.stale.as_ref().and_then(|stale| Some((stale, stale.response()?)));
    if let (Some((StatusCode::OK, mut fields)), Some((stale, stored)), Some(_)) = (head, stored, lookup.view) {
        headers::strip_hop_by_hop(&mut fields);
        let errand =
            Errand::new(question, question.asked.sharer(running), primary, lookup, Some(Arc::clone(stale)));
        let times = (request_time, running.cache.now());
        match validation::head_verdict(&fields, &stored.own_headers(), stored.body.len() as u64) {
            HeadVerdict::Updates => {
                if let Ok(confirmed) = fill::freshened(&errand, stale, fields, times) {
                    confirmed.keep_after_head(running, &errand).await;
                }
            }
            HeadVerdict::Outdates => {
                running.cache.remove(&lookup.canonical, &question.label()).await;
            }
            HeadVerdict::ShowsNothing => {}
        }
    }
    answered
}
