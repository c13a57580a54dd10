//! Requests that go to upstream for themselves alone: what bypasses the cache, and what the cache cannot answer and does not store
//! (HEAD, ranges).

use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderMap, Method, StatusCode};

use super::cache_request::CacheRequest;
use super::decide::MissReason;
use super::fetch::{self, FetchContext};
use super::share::share;
use super::{Answered, ClientRequest, failed, not_cached, respond};
use crate::cache::Lookup;
use crate::entry::Entry;
use crate::http::clients::{self, Audience};
use crate::http::demands::Demands;
use crate::http::headers;
use crate::http::validation::{self, HeadVerdict};
use crate::http::{ClientDirectives, SetCookie};
use crate::outcome::{Fwd, Outcome};
use crate::running::Running;
use crate::upstream::RequestBody;

/// Forwards a request that bypasses the cache.
pub(super) async fn pass(
    running: &Running,
    http: &ClientRequest,
    mut body: RequestBody,
    fwd: Fwd,
    detail: &'static str,
) -> Answered {
    // RFC 9111 §5.2.1.7
    if is_for_cache_alone(running, http) {
        return not_cached();
    }
    let live = running.live();
    let family = live.rules.route(&http.method, &http.target.path).map(|it| it.family);
    let (fields, client) = (http.for_passing(running), http.sharer(running));
    // The share is taken, like a place at upstream, when there is something to send.
    if let Err(incomplete) = running.upstream.receive_ahead(client, &fields, &mut body).await {
        return failed(incomplete, fwd);
    }
    let share = match share(running, http) {
        Ok(share) => share,
        Err(refused) => return *refused,
    };
    match http.send(running, None, &http.method, fields, body).await {
        Ok(mut response) => {
            let mut outcome = Outcome::pass(fwd, detail);
            if let Some(family) = family {
                let (status, cdn) = (response.status(), family.cdn_cache_control.as_ref());
                let audience = match http.credentials && !family.policy.for_everybody {
                    _ if family.authorize.is_some() => Audience::Authorized,
                    true => Audience::OneCaller,
                    false => Audience::Everyone,
                };
                clients::tell(response.headers_mut(), status, &family.client_cache_control, cdn, audience);
            }
            outcome.fwd_status = Some(response.status().as_u16());
            let response = response.map(|body| body.holding(share));
            let mut response = respond::forwarded(response, &running.config.server);
            if family.is_some_and(|family| family.policy.set_cookie == SetCookie::Strip) {
                response.headers_mut().remove(SET_COOKIE);
            }
            Answered { response, outcome, family: None }
        }
        Err(error) => failed(error, fwd),
    }
}

/// Whether a read says `only-if-cached`, and its family heeds that.
fn is_for_cache_alone(running: &Running, http: &ClientRequest) -> bool {
    let is_read = matches!(http.method.as_str(), "GET" | "HEAD" | "QUERY");
    is_read && {
        let live = running.live();
        let route = live.rules.route(&http.method, &http.target.path);
        let heeded = route.map_or_else(ClientDirectives::default, |it| it.family.policy.client_directives);
        Demands::of(&http.headers, heeded).only_if_cached
    }
}

/// Forwards a read that the cache cannot answer and whose response is not stored. The response to a HEAD updates the stored response to
/// GET, or invalidates it (RFC 9111 §4.3.5). `stale`: the stored response, if it is stale.
pub(super) async fn forward(
    running: &Running,
    request: &Arc<CacheRequest>,
    lookup: &Lookup,
    reason: MissReason,
    stale: Option<&Arc<Entry>>,
) -> Answered {
    if reason == MissReason::Precondition {
        return Box::pin(alone(running, request, reason)).await;
    }
    let request_time = running.cache.now();
    let (answered, head) = send(running, request, reason, stale).await;
    let stored = stale.and_then(|stale| Some((stale, stale.response()?)));
    if request.client_request.method == Method::HEAD
        && let (Some((StatusCode::OK, mut fields)), Some((stale, stored)), Some(_)) = (head, stored, lookup.view)
    {
        headers::strip_hop_by_hop(&mut fields);
        let client = request.client_request.sharer(running);
        let context = FetchContext::new(request, client, lookup, Some(Arc::clone(stale)));
        let times = (request_time, running.cache.now());
        match validation::head_verdict(&fields, &stored.own_headers(), stored.body.len() as u64) {
            HeadVerdict::Updates => {
                if let Ok(confirmed) = fetch::freshened(&context, stale, fields, times) {
                    confirmed.store_after_head(running, &context).await;
                }
            }
            HeadVerdict::Invalidates => running.cache.remove(&lookup.cache_key, &request.label()).await,
            HeadVerdict::ShowsNothing => {}
        }
    }
    answered
}

/// Forwards a read for itself alone, whatever is stored.
pub(super) async fn alone(running: &Running, request: &CacheRequest, reason: MissReason) -> Answered {
    let content = request.content.clone().map_or(RequestBody::Empty, RequestBody::Whole);
    let passed = pass(running, &request.client_request, content, reason.fwd(), reason.label()).await;
    let mut answered = Answered { family: request.family_id(), ..passed };
    request.strip_answer(answered.response.headers_mut());
    answered
}

/// Sends the request as it is. Also returns the head of the response.
async fn send(
    running: &Running,
    request: &CacheRequest,
    reason: MissReason,
    stale: Option<&Arc<Entry>>,
) -> (Answered, Option<(StatusCode, HeaderMap)>) {
    let http = &request.client_request;
    let share = match share(running, http) {
        Ok(share) => share,
        Err(refused) => return (Answered { family: request.family_id(), ..*refused }, None),
    };
    let fields = http.for_upstream(running);
    let content = request.content.clone().map_or(RequestBody::Empty, RequestBody::Whole);
    match http.send(running, None, &http.method, fields, content).await {
        Ok(mut response) => {
            request.strip_answer(response.headers_mut());
            let head = (response.status(), response.headers().clone());
            let fwd_status = Some(head.0.as_u16());
            let outcome = Outcome { fwd_status, detail: reason.detail(), ..Outcome::miss(reason.fwd()) };
            let response = response.map(|body| body.holding(share));
            (
                request.answered(respond::forwarded_read(request, response, &running.config.server), outcome),
                Some(head),
            )
        }
        Err(error) => (fetch::unanswered(request, reason, stale, error), None),
    }
}
