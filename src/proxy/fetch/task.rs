//! One fetch: ask upstream, judge the response, stream it to the leader and the followers while it is being stored. A
//! client that leaves does not stop it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, Method, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use super::super::storing::{self, CompleteResponse, StoreVerdict, Times};
use super::body::{BodyEnd, pass_error, pump};
use super::confirm::confirmed;
use super::context::FetchContext;
use super::fleet::{self, FleetDecision};
use super::stands_in;
use crate::cache::SHARED_MAX;
use crate::coalesce::body_budget::Broken;
use crate::coalesce::inflight::{FetchOutcome, FetchPermit, Head, ServerErrorResponse};
use crate::coalesce::stream::{Stream, StreamReader};
use crate::http::authorization;
use crate::http::clients;
use crate::http::headers;
use crate::http::storable::{self, Reason};
use crate::http::validation;
use crate::http::vary::{self, Vary};
use crate::running::Running;
use crate::shares::Over;
use crate::upstream::{RequestBody, ResponseBody, UpstreamError, UpstreamPlace};

/// What only the leader gets.
pub enum LeaderOnly {
    /// Its reader of the shared body, created before the start of the body can be dropped, and the fields that only it gets.
    Reader(StreamReader, HeaderMap),
    /// A response that cannot be shared, and why it is not stored.
    Response(Box<Response<ResponseBody>>, &'static str),
}

/// Runs a fetch to its outcome, or finishes it with what another proxy has fetched.
pub async fn run(
    running: Arc<Running>,
    context: FetchContext,
    permit: FetchPermit,
    leader_only: Option<oneshot::Sender<LeaderOnly>>,
) {
    permit.until_begun(context.request.follower_wait(&running)).await;
    match fleet::decide(&running, context, &permit).await {
        FleetDecision::Fetch(context) => {
            let is_stored = fetch(&running, &context, permit, leader_only).await;
            context.release_fleet_lock(is_stored);
        }
        FleetDecision::Finish(outcome) => permit.finish(outcome),
        FleetDecision::Abandoned => {}
    }
}

/// Fetches; true if the response is in Redis.
async fn fetch(
    running: &Running,
    context: &FetchContext,
    permit: FetchPermit,
    leader_only: Option<oneshot::Sender<LeaderOnly>>,
) -> bool {
    let mut times = (running.cache.now(), running.cache.now());
    let place = tokio::select! {
        // A place is usually free at once.
        biased;
        place = place(running, context, &permit) => place,
        // Nothing was sent, and nobody waits any more. A refresh has no leader, and goes on.
        () = permit.abandoned(), if leader_only.is_some() => return false,
    };
    let answer = match place {
        Ok(place) => ask(running, context, place, true, &mut times).await,
        Err(overloaded) => Err(overloaded),
    };
    let mut also_on = Vec::new();
    let answer = match answer {
        Ok(answer) if answer.status() == StatusCode::NOT_MODIFIED && context.to_validate().is_some() => {
            let confirmed = confirmed(context, answer.headers(), times);
            // Gives its place at upstream back, which may be the only one.
            drop(answer);
            match confirmed {
                Ok(confirmed) => return confirmed.store(running, context, &permit).await,
                // RFC 9111 §4.3.4: the 304 does not select the stored response. Ask without conditions.
                Err(unconfirmed) => {
                    also_on = unconfirmed.also_on;
                    match running.upstream.place(context.client).await {
                        Ok(place) => ask(running, context, place, false, &mut times).await,
                        Err(overloaded) => Err(overloaded),
                    }
                }
            }
        }
        answer => answer,
    };
    let answered = answer.as_ref().map(Response::status).map_err(|error| *error);
    if let Some(stale) = &context.stale
        && stands_in(running, &context.request, stale, answered)
    {
        permit.finish(FetchOutcome::StaleOnError(Arc::clone(stale), answered));
        return false;
    }
    match answer {
        Ok(answer) => deliver(running, context, permit, leader_only, answer, (times, &also_on)).await,
        Err(error) => {
            permit.finish(FetchOutcome::Failed(error));
            false
        }
    }
}

/// A place at upstream. While the fetch waits only for the leader's share, other clients do not follow it.
async fn place(
    running: &Running,
    context: &FetchContext,
    permit: &FetchPermit,
) -> Result<UpstreamPlace, UpstreamError> {
    match running.upstream.take_place(context.client) {
        Err(UpstreamError::Overloaded(Over::Client)) => {
            let _waits = permit.wait_for_share(context.client);
            running.upstream.place(context.client).await
        }
        Err(_) => running.upstream.place(context.client).await,
        place => place,
    }
}

async fn ask(
    running: &Running,
    context: &FetchContext,
    place: UpstreamPlace,
    conditionally: bool,
    times: &mut Times,
) -> Result<Response<ResponseBody>, UpstreamError> {
    let request = &context.request;
    let mut fields = request.client_request.for_upstream(running);
    validation::strip_conditions(&mut fields);
    if conditionally {
        context.make_conditional(&mut fields);
    }
    let (method, body) = match &request.content {
        Some(content) => (request.client_request.method.clone(), RequestBody::Whole(content.clone())),
        None => (Method::GET, RequestBody::Empty),
    };
    let begun = Instant::now();
    times.0 = running.cache.now();
    let mut answer = request.client_request.send(running, Some(place), &method, fields, body).await;
    times.1 = running.cache.now();
    running.top.fetched(&request.reported_url(), request.family_name(), begun.elapsed());
    if let Ok(answer) = &mut answer {
        request.strip_answer(answer.headers_mut());
        if request.verdict_ttl().is_some() {
            authorization::reduce(answer.headers_mut());
            answer.body_mut().discard().await;
        }
    }
    answer
}

/// Delivers a full response: to leader and followers and into the cache if it may be stored, else to the leader alone. True if it is
/// in Redis. `also_on`: request fields that a 304 just before has named in `Vary`.
async fn deliver(
    running: &Running,
    context: &FetchContext,
    permit: FetchPermit,
    leader_only: Option<oneshot::Sender<LeaderOnly>>,
    answer: Response<ResponseBody>,
    (times, also_on): (Times, &[HeaderName]),
) -> bool {
    let mut fields = answer.headers().clone();
    headers::strip_hop_by_hop(&mut fields);
    headers::strip_impossible_length(answer.status(), &mut fields);
    storing::add_date(&mut fields, times.1);
    vary::complete(&mut fields, also_on);
    let length = answer.body().size_hint().exact();
    let too_large = length.is_some_and(|length| length > context.request.max_body(running));
    let is_close_delimited = answer.body().ends_with_connection();
    let judged = match storing::judge(&context.request, answer.status(), &fields, is_close_delimited, times) {
        Ok(_) if answer.status().is_server_error() && context.has_good => Err(Reason::ServerError),
        judged => judged,
    };
    let FetchContext { request, primary, vary_index, view, .. } = context;
    let judged = judged.and_then(|verdict| {
        let varies_on =
            storing::varies_on(running, primary, (vary_index.as_deref(), *view), answer.status(), &fields)?;
        Ok((verdict, varies_on))
    });
    // A body of known length that will be stored has its room reserved from the beginning.
    let stream = (judged.is_ok() && !too_large).then(|| Stream::new(length, &running.bodies));
    let no_room = matches!(stream, Some(None));
    let ((verdict, varies_on), stream) = match (judged, stream.flatten()) {
        (Ok(judged), Some(stream)) => (judged, stream),
        (refused, _) => {
            let by_size = if no_room { "no-room" } else { "too-large" };
            let reason = refused.as_ref().err().map_or(by_size, |reason| reason.token());
            running.metrics.not_stored(reason);
            let is_of_response = refused.err().is_none_or(Reason::is_of_response);
            // A response to one request's fields, to credentials, or in a failure does not show what other requests would get.
            let shows_all =
                is_of_response && !context.request.is_personal() && storable::is_about_resource(answer.status());
            if shows_all {
                // RFC 9111 §4.3.3: what was stored is not what upstream would send now.
                context.remove_stale(running).await;
                if !no_room {
                    running.inflight.remember_unshared(context.cache_key.hash, Instant::now());
                    request.note_shared(running, answer.status(), false);
                }
            }
            if permit.is_shared() && storable::is_failure(answer.status()) {
                // In a box: it is rare, and larger than the rest.
                Box::pin(share_error(running, context, permit, leader_only, answer, (fields, reason))).await;
                return false;
            }
            if let Some(leader_only) = leader_only {
                let _ = leader_only.send(LeaderOnly::Response(Box::new(answer), reason));
            }
            permit.finish(FetchOutcome::Unshared);
            return false;
        }
    };
    if length.is_some_and(|length| length > SHARED_MAX) {
        context.release_fleet_lock(false);
    }
    request.note_shared(running, answer.status(), true);
    headers::add_via(&mut fields, answer.version());
    let own = verdict.withhold(&mut fields);
    let (parts, mut body) = answer.into_parts();
    let original_fields = storing::set_client_cache_control(request, parts.status, &mut fields);
    if original_fields.is_some()
        && !clients::has_validator(&fields)
        && let Some(content) = body.receive_short().await
    {
        clients::identify(&mut fields, content);
    }
    let stamp = view.map(|view| view.stamp);
    let text = primary.variant(&varies_on, &request.client_request.headers).text;
    let head = Arc::new(storing::head(
        running,
        text,
        varies_on,
        stamp,
        parts.status,
        (fields, original_fields),
        &verdict,
    ));
    let _ended = FinishOnDrop(Arc::clone(&stream));
    if let (Some(leader_only), Some(reader)) = (leader_only, stream.reader()) {
        let _ = leader_only.send(LeaderOnly::Reader(reader, own));
    }
    permit.finish(FetchOutcome::Streaming(Arc::clone(&head), Arc::clone(&stream)));
    match pump(running, context, &permit, &stream, body).await {
        BodyEnd::Whole(body) => store(running, context, &permit, &stream, &head, &verdict, body).await,
        BodyEnd::PassedOn => {
            stream.finish(Ok(()));
            false
        }
        BodyEnd::Broken => {
            // A client that sees it break off and asks again must not follow it.
            permit.close();
            stream.finish(Err(Broken::Upstream));
            false
        }
        BodyEnd::Abandoned => false,
    }
}

/// Delivers a 5xx to leader and followers. From now on nobody can follow: a new request asks upstream again.
async fn share_error(
    running: &Running,
    context: &FetchContext,
    permit: FetchPermit,
    leader_only: Option<oneshot::Sender<LeaderOnly>>,
    answer: Response<ResponseBody>,
    (mut fields, reason): (HeaderMap, &'static str),
) {
    context.release_fleet_lock(false);
    permit.close();
    let (status, retry_after) = (answer.status(), fields.get(RETRY_AFTER).cloned());
    let request = context.request.sent();
    let error = |response| {
        FetchOutcome::ServerError(Arc::new(ServerErrorResponse { status, reason, retry_after, request, response }))
    };
    let is_for_all = storable::is_error_for_all(&fields) && !storing::varies_on_this_hop(&fields);
    let stream = is_for_all.then(|| Stream::new(answer.body().size_hint().exact(), &running.bodies)).flatten();
    let Some(stream) = stream else {
        if let Some(leader_only) = leader_only {
            let _ = leader_only.send(LeaderOnly::Response(Box::new(answer), reason));
        }
        return permit.finish(error(None));
    };
    headers::add_via(&mut fields, answer.version());
    let body = answer.into_body();
    let _ended = FinishOnDrop(Arc::clone(&stream));
    if let (Some(leader_only), Some(reader)) = (leader_only, stream.reader()) {
        let _ = leader_only.send(LeaderOnly::Reader(reader, HeaderMap::new()));
    }
    let head = error_head(context, status, fields);
    permit.finish(error(Some((head, Arc::clone(&stream)))));
    pass_error(running, &stream, body).await;
}

/// Stores a complete response: in memory before any reader sees the end of it, so that a client that asks again finds it there;
/// then in Redis. True if it is in Redis.
async fn store(
    running: &Running,
    context: &FetchContext,
    permit: &FetchPermit,
    stream: &Arc<Stream>,
    head: &Head,
    verdict: &StoreVerdict,
    body: Bytes,
) -> bool {
    let FetchContext { request, primary, vary_index, view, .. } = context;
    let _step = request.client_request.step("store");
    // While Redis does not answer there is no stamp, and without one the response could never be proved current.
    let stored = view.map(|view| {
        let (vary_index, tags) = (vary_index.as_deref(), verdict.tags(request));
        let response = storing::stored(head, verdict, body);
        let (stamp, view, found_nothing) = (view.stamp, Some(view), context.found_nothing);
        let complete =
            CompleteResponse { request, primary, vary_index, stamp, view, found_nothing, tags, response };
        complete.store_in_memory(running).1
    });
    // New requests find it in memory, or fetch again.
    permit.close();
    stream.finish_stored();
    match stored {
        Some(stored) => stored.share(running).await,
        None => false,
    }
}

/// Ends the body when the fetch is dropped, so that no reader waits for ever.
struct FinishOnDrop(Arc<Stream>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        self.0.finish(Err(Broken::Upstream));
    }
}

/// The head of a 5xx that is shared and not stored. Its own `Vary` selects the requests that get it.
fn error_head(context: &FetchContext, status: StatusCode, mut headers: HeaderMap) -> Head {
    let original_fields = storing::set_client_cache_control(&context.request, status, &mut headers);
    let varies_on = Vary::parse(&headers).into_names();
    let text = context.primary.variant(&varies_on, &context.request.client_request.headers).text;
    let (consumed, stamp) = (storing::has_consumed(&headers), context.view.map(|view| view.stamp));
    Head {
        consumed,
        original_fields,
        status,
        headers,
        varies_on,
        text,
        ttl: 0,
        stored: false,
        stamp,
        groups: Vec::new(),
    }
}
