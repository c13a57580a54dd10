//! GET and HEAD, step by step: claim, key, look up, then serve, validate or fetch.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::Method;
use http::header::{CONTENT_LENGTH, RANGE};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::fill::{self, Direct, Errand};
use super::question::Question;
use super::{Answered, Asked, failed, pass, respond};
use crate::cache::flight::{Boarding, Head, Landing, Permit};
use crate::cache::stream::Reader;
use crate::cache::{Found, Lookup};
use crate::entry::Entry;
use crate::key::Canonical;
use crate::outcome::{Fwd, Outcome};
use crate::running::{Live, Running};
use crate::semantics::freshness::Reuse;
use crate::semantics::validation;
use crate::upstream::RequestBody;

/// Why a fetch is needed, and what there is to validate.
struct Need {
    fwd: Fwd,
    detail: Option<&'static str>,
    stale: Option<Arc<Entry>>,
}

/// What came of sharing a flight.
enum Ride {
    Answered(Box<Answered>),
    /// The flight's response is not for this request: ask again, alone.
    GotOff,
}

/// Answers a GET or HEAD.
pub(super) async fn read(running: &Arc<Running>, live: Arc<Live>, asked: Asked, body: Incoming) -> Answered {
    if let Some(detail) = not_for_the_cache(&asked, &body) {
        return pass(running, &asked, body, Fwd::Bypass, detail).await;
    }
    let question = Arc::new(Question::new(live, asked));
    match attempt(running, &question, false).await {
        Ride::Answered(answered) => *answered,
        // Alone there is nobody whose flight could turn out not to fit.
        Ride::GotOff => match attempt(running, &question, true).await {
            Ride::Answered(answered) => *answered,
            Ride::GotOff => failed(crate::upstream::UpstreamError::Abandoned, Fwd::UriMiss),
        },
    }
}

fn not_for_the_cache(asked: &Asked, body: &Incoming) -> Option<&'static str> {
    // RFC 9110 §9.3.1: content in a GET has no defined semantics, and it is not part of the key.
    let announced = asked.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if announced || !body.is_end_stream() {
        return Some("request-body");
    }
    validation::is_for_origin(&asked.headers).then_some("precondition")
}

async fn attempt(running: &Arc<Running>, question: &Arc<Question>, alone: bool) -> Ride {
    let primary = question.canonical(running.config.server.forwarded);
    let lookup = running
        .cache
        .lookup(primary.clone(), &question.asked.headers, || question.label(), || question.tags())
        .await;
    let now = SystemTime::now();
    let need = match &lookup.found {
        Found::Current(entry) => match use_entry(running, question, &primary, &lookup, entry, now) {
            Ok(answered) => return Ride::Answered(Box::new(answered)),
            Err(need) => need,
        },
        Found::Outdated => Need { fwd: Fwd::Stale, detail: Some("outdated"), stale: None },
        Found::OtherVariant => Need { fwd: Fwd::VaryMiss, detail: None, stale: None },
        Found::Nothing if lookup.view.is_none() => {
            Need { fwd: Fwd::Bypass, detail: Some("store-away"), stale: None }
        }
        Found::Nothing => Need { fwd: Fwd::UriMiss, detail: None, stale: None },
    };
    // A partial answer and one without content are not stored (RFC 9111 §3.3 lets a cache leave ranges alone).
    if question.asked.method == Method::HEAD || question.asked.headers.contains_key(RANGE) {
        return Ride::Answered(Box::new(forward(running, question, &need).await));
    }
    fetch(running, question, primary, &lookup, need, alone).await
}

/// RFC 9111 §4: what is current is served if it is fresh, or stale where that is allowed.
fn use_entry(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: &Canonical,
    lookup: &Lookup,
    entry: &Arc<Entry>,
    now: SystemTime,
) -> Result<Answered, Need> {
    let Some(response) = entry.response() else {
        return Err(Need { fwd: Fwd::UriMiss, detail: None, stale: None });
    };
    // RFC 9111 §3.5 is about answers *to* credentials; that other answers are not given to requests with
    // credentials either is our own caution: upstream might have said something else to this caller.
    if question.is_personal() && !response.for_credentials {
        return Err(Need { fwd: Fwd::Bypass, detail: Some("credentials"), stale: None });
    }
    let outcome = match response.freshness.reuse(now) {
        Reuse::Fresh { ttl } => Outcome::hit(ttl),
        Reuse::StaleWhileRevalidate { ttl } => {
            refresh(running, question, primary, lookup, entry);
            Outcome::stale(ttl, "revalidating")
        }
        Reuse::Validate { .. } => {
            return Err(Need { fwd: Fwd::Stale, detail: None, stale: Some(Arc::clone(entry)) });
        }
    };
    Ok(question.answered(respond::stored(&question.asked.method, &question.asked.headers, response, now), outcome))
}

/// RFC 5861 §3: one revalidation in the background, unless one is under way.
fn refresh(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: &Canonical,
    lookup: &Lookup,
    entry: &Arc<Entry>,
) {
    let boarding = running.flights.board(lookup.canonical.key, lookup.view.as_ref(), Instant::now());
    let permit = match boarding {
        Boarding::Lead(permit) => permit,
        Boarding::Alone => running.flights.solo(lookup.canonical.key, lookup.view.as_ref()),
        Boarding::Join(_) => return,
    };
    let errand = errand(question, primary.clone(), lookup, Some(Arc::clone(entry)));
    running.tasks.spawn(fill::fill(Arc::clone(running), errand, permit, None));
}

fn errand(question: &Arc<Question>, primary: Canonical, lookup: &Lookup, stale: Option<Arc<Entry>>) -> Errand {
    Errand { question: Arc::clone(question), primary, key: lookup.canonical.key, view: lookup.view, stale }
}

/// Joins a fetch or leads one. The fetch runs in a task of its own: it goes on if this client leaves.
async fn fetch(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: Canonical,
    lookup: &Lookup,
    need: Need,
    alone: bool,
) -> Ride {
    let key = lookup.canonical.key;
    let view = lookup.view.as_ref();
    let boarding = match alone || question.is_personal() || question.facts.no_store {
        true => Boarding::Alone,
        false => running.flights.board(key, view, Instant::now()),
    };
    let permit = match boarding {
        Boarding::Join(flight) => {
            let landing = flight.landing().await;
            return join(question, &primary, lookup, &need, landing);
        }
        Boarding::Lead(permit) => permit,
        Boarding::Alone => running.flights.solo(key, view),
    };
    Ride::Answered(Box::new(lead(running, question, primary, lookup, need, permit).await))
}

async fn lead(
    running: &Arc<Running>,
    question: &Arc<Question>,
    primary: Canonical,
    lookup: &Lookup,
    need: Need,
    permit: Permit,
) -> Answered {
    let flight = permit.flight();
    let (give, take) = oneshot::channel();
    let errand = errand(question, primary, lookup, need.stale.clone());
    running.tasks.spawn(fill::fill(Arc::clone(running), errand, permit, Some(give)));
    let landing = flight.landing().await;
    match (landing, take.await.ok()) {
        (Landing::Streaming(head, _), Some(Direct::Reader(reader))) => {
            stream(question, &need, &head, reader, false)
        }
        (Landing::Unshared, Some(Direct::Response(response, reason))) => {
            let mut outcome = Outcome::pass(Fwd::Bypass, reason);
            outcome.fwd_status = Some(response.status().as_u16());
            question.answered(respond::forwarded(*response), outcome)
        }
        (Landing::Failed(error), _) => Answered { family: question.family_id(), ..failed(error, need.fwd) },
        (landing, _) => from_entry(question, landing, false)
            .unwrap_or_else(|| failed(crate::upstream::UpstreamError::Abandoned, need.fwd)),
    }
}

fn join(question: &Arc<Question>, primary: &Canonical, lookup: &Lookup, need: &Need, landing: Landing) -> Ride {
    let answered = match landing {
        Landing::Streaming(head, body) => {
            // RFC 9111 §4.1: the leader's response is ours only if we sent the same values of what it varies on.
            let ours = primary.variant(&head.varies_on, &question.asked.headers);
            match body.reader() {
                Some(reader) if ours.text == head.text => stream(question, need, &head, reader, true),
                _ => return Ride::GotOff,
            }
        }
        Landing::Failed(error) => Answered { family: question.family_id(), ..failed(error, need.fwd) },
        Landing::Unshared => return Ride::GotOff,
        Landing::Validated(ref entry) | Landing::StaleOnError(ref entry) => {
            // What a failing upstream falls back on is older than the flight: it has to be current for us too.
            let current = lookup.view.is_some_and(|view| view.is_current(entry.stamp));
            if *entry.text != *lookup.canonical.text || !current {
                return Ride::GotOff;
            }
            match from_entry(question, landing, true) {
                Some(answered) => answered,
                None => return Ride::GotOff,
            }
        }
    };
    Ride::Answered(Box::new(answered))
}

fn stream(question: &Question, need: &Need, head: &Head, reader: Reader, collapsed: bool) -> Answered {
    let outcome = Outcome {
        fwd_status: Some(head.status.as_u16()),
        ttl: head.stored.then_some(head.ttl),
        stored: head.stored,
        collapsed,
        detail: need.detail,
        ..Outcome::miss(need.fwd)
    };
    question.answered(respond::streaming(&question.asked, head, reader), outcome)
}

/// The answer from an entry that a flight validated, or that stands in for a failing upstream.
fn from_entry(question: &Question, landing: Landing, collapsed: bool) -> Option<Answered> {
    let now = SystemTime::now();
    let (entry, validated) = match landing {
        Landing::Validated(entry) => (entry, true),
        Landing::StaleOnError(entry) => (entry, false),
        Landing::Streaming(..) | Landing::Unshared | Landing::Failed(_) => return None,
    };
    let response = entry.response()?;
    let ttl = response.freshness.ttl(now);
    let outcome = match validated {
        true => Outcome::revalidated(ttl),
        false => Outcome::stale(ttl, "upstream-failed"),
    };
    let answer = respond::stored(&question.asked.method, &question.asked.headers, response, now);
    Some(question.answered(answer, Outcome { collapsed, ..outcome }))
}

/// A fetch whose answer is not stored: HEAD, and ranges that are not cut from a stored response.
async fn forward(running: &Running, question: &Question, need: &Need) -> Answered {
    let asked = &question.asked;
    let path = asked.target.path_and_query();
    let fields = asked.for_upstream(running);
    match running.upstream.send(&asked.method, &path, fields, RequestBody::Empty, asked.interim.clone()).await {
        Ok(response) => {
            let fwd_status = Some(response.status().as_u16());
            let outcome = Outcome { fwd_status, detail: need.detail, ..Outcome::miss(need.fwd) };
            question.answered(respond::forwarded(response), outcome)
        }
        Err(error) => Answered { family: question.family_id(), ..failed(error, need.fwd) },
    }
}
