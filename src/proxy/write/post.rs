//! The response to a POST that a later GET may have (RFC 9110 §9.3.3, RFC 9111 §4).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, Response, StatusCode};

use super::super::cache_request::CacheRequest;
use super::super::recording::Recording;
use super::super::storing::{self, CompleteResponse, StoreVerdict, Times};
use super::super::{Answered, Body, ClientRequest, respond};
use crate::cache::memory::Hold;
use crate::coalesce::inflight::Head;
use crate::http::headers::{self, Meant};
use crate::http::invalidation;
use crate::http::vary;
use crate::key::CacheKey;
use crate::marks::Stamp;
use crate::outcome::Outcome;
use crate::running::Running;
use crate::upstream::ResponseBody;

/// The response to the client. It is buffered to be stored if a later GET may have it.
pub fn answered(
    running: &Arc<Running>,
    http: ClientRequest,
    answer: Response<ResponseBody>,
    times: Times,
    stamp: Option<Stamp>,
    outcome: Outcome,
) -> Answered {
    let storable = stamp.and_then(|stamp| StorablePost::of(running, http, &answer, times, stamp));
    let stored = storable.is_some();
    let mut response = respond::forwarded(answer, &running.config.server);
    if let Some(storable) = storable {
        response = response.map(|body| match body {
            Body::Upstream(body) => {
                let (running, limit) = (Arc::clone(running), storable.request.max_body(running));
                Body::Recorded(Recording::new(body, limit, Box::new(move |body| storable.store(&running, body))))
            }
            other => other,
        });
    }
    Answered { response, outcome: Outcome { stored, ..outcome }, family: None }
}

/// The response to a POST that a later GET may have (RFC 9110 §9.3.3, RFC 9111 §4): it has an explicit lifetime, and its
/// `Content-Location` is the target URI.
struct StorablePost {
    request: CacheRequest,
    primary: CacheKey,
    head: Head,
    verdict: StoreVerdict,
    stamp: Stamp,
    /// Holds the marks of its tags until the stored entry holds them.
    _hold: Hold,
}

impl StorablePost {
    fn of(
        running: &Running,
        http: ClientRequest,
        answer: &Response<ResponseBody>,
        times: Times,
        stamp: Stamp,
    ) -> Option<StorablePost> {
        if answer.status() != StatusCode::OK || !invalidation::is_of_target(&http.target, answer.headers()) {
            return None;
        }
        let mut fields = answer.headers().clone();
        headers::strip_hop_by_hop(&mut fields);
        storing::add_date(&mut fields, times.1);
        vary::complete(&mut fields, &[]);
        let request = read_of(running, http)?;
        let is_close_delimited = answer.body().ends_with_connection();
        let verdict = storing::judge(&request, answer.status(), &fields, is_close_delimited, times).ok()?;
        if !verdict.freshness.source.is_explicit() {
            return None;
        }
        headers::add_via(&mut fields, answer.version());
        verdict.withhold(&mut fields);
        let primary = request.cache_key();
        let said = storing::set_client_cache_control(&request, &mut fields);
        let varies_on = storing::varies_on(running, &primary, (None, None), answer.status(), &fields).ok()?;
        let text = primary.variant(&varies_on, &request.client_request.headers).text;
        let head = storing::head(running, text, varies_on, Some(stamp), answer.status(), (fields, said), &verdict);
        let _hold = running.cache.memory().hold(request.tags());
        Some(StorablePost { request, primary, head, verdict, stamp, _hold })
    }

    fn store(&self, running: &Arc<Running>, body: Bytes) {
        let StorablePost { request, primary, head, verdict, stamp, .. } = self;
        let (tags, response) = (verdict.tags(request), storing::stored(head, verdict, body));
        let complete =
            CompleteResponse { request, primary, vary_index: None, stamp: *stamp, view: None, tags, response };
        let (_, kept) = complete.store_in_memory(running);
        let task = Arc::clone(running);
        running.tasks.spawn(async move { kept.share(&task).await });
    }
}

/// The GET that the response to a POST may answer. `None` if its bearer token does not identify its caller, and if upstream received more than the key of that GET holds: fields or parameters
/// that a read loses or has in another form, or another method in a method override.
fn read_of(running: &Running, http: ClientRequest) -> Option<CacheRequest> {
    let meant = headers::methods_meant(&http.method, &http.headers, http.target.query.as_deref(), Some(&[]));
    // A path that a rule makes a write is never answered from the cache.
    if running.live().rules.is_write(&Method::GET, &http.target) {
        return None;
    }
    if meant != Meant::These(vec![http.method.clone()]) {
        return None;
    }
    let http = as_get(http);
    let (target, fields) = (http.target.clone(), http.headers.clone());
    let request = CacheRequest::new(running.live(), http, None);
    let is_as_sent = request.client_request.target == target && request.client_request.headers == fields;
    let is_usable = request.ambiguity().is_none() && request.token_fault(running.cache.now()).is_none();
    (is_as_sent && is_usable).then_some(request)
}

/// The same request as a GET.
fn as_get(mut http: ClientRequest) -> ClientRequest {
    for name in [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE] {
        http.headers.remove(name);
    }
    ClientRequest { method: Method::GET, ..http }
}
