//! The response to a write that a later GET may have.
//!
//! - To a POST, if it has an explicit lifetime and its `Content-Location` is the target URI (RFC 9110 §9.3.3, RFC 9111 §4).
//! - To a PUT or PATCH, if it is the new representation of the target: `Content-Location` says so (RFC 9110 §8.7, RFC 5789 §2), or
//!   the family of the target (`write_through = true`). RFC 9110 §9.3.4 forbids to reuse a response to PUT as it is; what is stored
//!   is the representation in it, as a GET would have brought it.
//!
//! # Why no later write is lost
//!
//! Another write to the same path may be under way, and this response may be of before or after it. It is stored only if none of
//! its tags was invalidated between the intent of this write and its own invalidation, and with the stamp of that invalidation
//! ([`IssuedStamp::stamp_of_answer`]). The other write takes its invalidation after upstream has carried it out, and before it is
//! acknowledged. So one of these holds:
//!
//! - It was invalidated before the intent of this write was recorded. Upstream had carried it out before this write was forwarded,
//!   and the response shows it.
//! - It is invalidated between the two: nothing is stored.
//! - It is invalidated after them: its mark is above the stamp, and invalidates what is stored.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, LOCATION,
    RANGE, SET_COOKIE,
};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use http_body::Body as _;

use super::super::cache_request::CacheRequest;
use super::super::recording::Recording;
use super::super::storing::{self, CompleteResponse, StoreVerdict, Times};
use super::super::{Answered, Body, ClientRequest, respond};
use crate::cache::memory::Hold;
use crate::coalesce::inflight::Head;
use crate::config::Coherence;
use crate::http::headers::{self, Meant};
use crate::http::invalidation;
use crate::http::vary;
use crate::key::CacheKey;
#[cfg(doc)]
use crate::marks::IssuedStamp;
use crate::marks::{Stamp, Tag};
use crate::outcome::Outcome;
use crate::running::Running;
use crate::store::fleet::Invalidations;
use crate::upstream::ResponseBody;

/// RFC 7240 §3
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A response to a write that a later GET may have, if no other write comes in between.
pub struct Candidate {
    request: CacheRequest,
    primary: CacheKey,
    head: Head,
    verdict: StoreVerdict,
    /// Holds the marks of its tags until the stored entry holds them.
    _hold: Hold,
}

/// The response to the client. It is buffered to be stored if a later GET may have it, and there is room.
pub fn answered(
    running: &Arc<Running>,
    answer: Response<ResponseBody>,
    candidate: Option<(Box<Candidate>, Stamp)>,
    outcome: Outcome,
) -> Answered {
    let length = answer.body().size_hint().exact().unwrap_or(0);
    let candidate = candidate.and_then(|(candidate, stamp)| {
        let client = candidate.request.client_request.sharer(running);
        let limit = candidate.request.max_body(running);
        let share = (length <= limit).then(|| running.recordings.take(client, length).ok()).flatten()?;
        Some((candidate, stamp, limit, share))
    });
    let stored = candidate.is_some();
    let mut response = respond::forwarded(answer, &running.config.server);
    if let Some((candidate, stamp, limit, share)) = candidate {
        response = response.map(|body| match body {
            Body::Upstream(body) => {
                let running = Arc::clone(running);
                let store = Box::new(move |body| candidate.store(&running, stamp, body));
                Body::Recorded(Box::new(Recording::new(body, limit, share, store)))
            }
            other => other,
        });
    }
    Answered { response, outcome: Outcome { stored, ..outcome }, family: None }
}

impl Candidate {
    /// `meant`: the methods by which upstream may have taken the write. `what`: what it invalidates.
    pub fn of(
        running: &Running,
        http: &ClientRequest,
        answer: &Response<ResponseBody>,
        times: Times,
        meant: &Meant,
        what: &Invalidations,
    ) -> Option<Candidate> {
        let is_update = http.method == Method::PUT || http.method == Method::PATCH;
        let has_status = match answer.status() {
            StatusCode::OK => is_update || http.method == Method::POST,
            StatusCode::CREATED => is_update,
            _ => false,
        };
        let is_exact = what.may_stamp_answer() && !is_eventual(running);
        if !has_status || !is_exact || !is_representation(running, http, answer, is_update) {
            return None;
        }
        let request = read_of(running, http, meant)?;
        let mut fields = answer.headers().clone();
        headers::strip_hop_by_hop(&mut fields);
        storing::add_date(&mut fields, times.1);
        vary::complete(&mut fields, &[]);
        let is_close_delimited = answer.body().ends_with_connection();
        let status = StatusCode::OK;
        let verdict = storing::judge(&request, status, &fields, is_close_delimited, times).ok()?;
        let source = verdict.freshness.source;
        let is_stated = source.is_explicit() || is_update && source.is_of_family();
        if !is_stated {
            return None;
        }
        headers::add_via(&mut fields, answer.version());
        verdict.withhold(&mut fields);
        for name in [&LOCATION, &PREFERENCE_APPLIED] {
            fields.remove(name);
        }
        let primary = request.cache_key();
        let original_fields = storing::set_client_cache_control(&request, status, &mut fields);
        let varies_on = storing::varies_on(running, &primary, (None, None), status, &fields).ok()?;
        let text = primary.variant(&varies_on, &request.client_request.headers).text;
        let head = storing::head(running, text, varies_on, None, status, (fields, original_fields), &verdict);
        let _hold = running.cache.memory().hold(request.tags());
        Some(Candidate { request, primary, head, verdict, _hold })
    }

    /// Everything that invalidates it.
    pub fn tags(&self) -> Arc<[Tag]> {
        self.verdict.tags(&self.request)
    }

    fn store(&self, running: &Arc<Running>, stamp: Stamp, body: Bytes) {
        if body.is_empty() {
            return;
        }
        let Candidate { request, primary, head, verdict, .. } = self;
        let response = storing::stored(head, verdict, body);
        let complete = CompleteResponse {
            request,
            primary,
            vary_index: None,
            stamp,
            view: None,
            found_nothing: false,
            tags: self.tags(),
            response,
        };
        let (_, kept) = complete.store_in_memory(running);
        let task = Arc::clone(running);
        running.tasks.spawn(async move { kept.share(&task).await });
    }
}

/// Whether the other proxies may serve for a while what a write has invalidated.
fn is_eventual(running: &Running) -> bool {
    running.config.store.as_ref().is_some_and(|store| store.coherence == Coherence::Eventual)
}

/// Whether the content of the response is what a GET would bring.
fn is_representation(
    running: &Running,
    http: &ClientRequest,
    answer: &Response<ResponseBody>,
    is_update: bool,
) -> bool {
    let fields = answer.headers();
    let is_minimal = headers::names_token(fields, &PREFERENCE_APPLIED, "return=minimal");
    // RFC 9110 §14.5: content for a part of the representation.
    let is_for_part = [CONTENT_RANGE, RANGE].iter().any(|name| http.headers.contains_key(name));
    let is_empty = answer.body().size_hint().exact() == Some(0);
    if is_minimal || is_for_part || is_empty || fields.contains_key(SET_COOKIE) {
        return false;
    }
    let says_family = || {
        let live = running.live();
        live.rules.route(&Method::GET, &http.target.path).is_some_and(|route| route.family.write_through)
    };
    // RFC 9110 §8.7: with another Content-Location it represents that one.
    let is_unsaid = !fields.contains_key(CONTENT_LOCATION);
    invalidation::is_of_target(&http.target, fields) || is_update && is_unsaid && says_family()
}

/// The GET that the response may answer. `None` if upstream received more than the key of that GET holds: fields or parameters that a
/// read loses or has in another form, or another method in a method override.
fn read_of(running: &Running, http: &ClientRequest, meant: &Meant) -> Option<CacheRequest> {
    let live = running.live();
    // A path that a rule makes a write is never answered from the cache.
    if *meant != Meant::These(vec![http.method.clone()]) || live.rules.is_write(&Method::GET, &http.target) {
        return None;
    }
    let (target, fields) = (http.target.clone(), without_content(&http.headers));
    let parts = (Method::GET, target.clone(), fields.clone());
    let get = ClientRequest::without_connection(parts, http.client, http.forwarded);
    let get = ClientRequest { underscored: http.underscored.clone(), ..get };
    let request = CacheRequest::new(live, get, None);
    let is_as_sent = request.client_request.target == target && request.client_request.headers == fields;
    let may_be_stored = request.ambiguity().is_none()
        && !request.has_too_many_instances()
        && request.token_fault(running.cache.now()).is_none();
    (is_as_sent && may_be_stored).then_some(request)
}

/// The fields of the same request as a GET.
fn without_content(fields: &HeaderMap) -> HeaderMap {
    let mut fields = fields.clone();
    for name in [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE] {
        fields.remove(name);
    }
    fields
}
