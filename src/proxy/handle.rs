//! Handles one request: admit, dispatch, record.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{TE, TRAILER};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use super::admit::{admit, take_underscored};
use super::cache_request::CacheRequest;
use super::debug::{Debug, OutcomeText};
use super::decide::bypass;
use super::forward::pass;
use super::logged::Unlogged;
use super::{Answered, Body, ClientRequest, RequestId, Telemetry, content, purging, read, route, tunnel, write};
use crate::access_log::AccessEntry;
use crate::client_conn::interim::InterimSender;
use crate::config::CacheStatus;
use crate::http::headers::{self, X_REQUEST_ID};
use crate::logs;
use crate::outcome::{Fwd, Outcome};
use crate::running::{Live, Running};
use crate::traces::{RequestTrace, TracedRequest};
use crate::upkeep::events::OutcomeEvent;
use crate::upkeep::invalidation_log;
use crate::upstream::RequestBody;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The response to a request, or what makes it.
pub enum Handled {
    /// It is there at once, usually a hit in memory. Without a future, which hyper would move several times.
    Response(Response<Body>),
    Later(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

/// Answers one request. Interim responses of upstream go to `interim`, which only a client of HTTP/1.1 has.
pub fn handle(
    running: &Arc<Running>,
    request: Request<Incoming>,
    client: IpAddr,
    interim: Option<InterimSender>,
) -> Handled {
    let (work, mut record) = take(running, request, (client, Instant::now()), interim);
    let work = match work {
        Work::Answered(answered) if record.debug.is_none() => {
            return Handled::Response(record.response(running, answered));
        }
        work => work,
    };
    if let Some(unlogged) = &mut record.unlogged {
        unlogged.detach();
    }
    let running = Arc::clone(running);
    Handled::Later(Box::pin(async move {
        let answered = match work {
            Work::Answered(answered) => answered,
            // In a box: it is larger than all the rest, and all is copied.
            Work::Pending(pending) => Box::pin(read::answer_later(&running, pending)).await,
            Work::Other(work) => work.await,
        };
        record.explained_response(&running, answered).await
    }))
}

/// What answers a request.
#[expect(clippy::large_enum_variant, reason = "a box would be one more allocation for each hit")]
enum Work {
    /// It is answered, from memory or by Larder itself.
    Answered(Answered),
    /// The cache, if it can.
    Pending(Box<read::PendingRead>),
    /// Upstream, most likely.
    Other(Pin<Box<dyn Future<Output = Answered> + Send>>),
}

/// What metrics, trace and access log need when the response is known.
struct Record {
    live: Arc<Live>,
    start: Instant,
    request_id: RequestId,
    telemetry: Option<Arc<Telemetry>>,
    unlogged: Option<Box<Unlogged>>,
    /// Method and path, if an operator watches what happens.
    watched: Option<Box<(Method, String)>>,
    /// The client takes trailers.
    trailers: bool,
    /// The token in `Larder-Debug`.
    debug: Option<Box<Debug>>,
}

/// Admits a request, and answers it from memory or chooses what answers it.
fn take(
    running: &Arc<Running>,
    mut request: Request<Incoming>,
    (client, start): (IpAddr, Instant),
    interim: Option<InterimSender>,
) -> (Work, Record) {
    let live = running.live();
    // One pass over the field names spares most requests a dozen lookups.
    let seen = headers::look(request.headers(), &live.credentials);
    let underscored = if seen.underscores { take_underscored(running, request.headers_mut()) } else { Vec::new() };
    let (has_hop_fields, credentials) = (seen.hop_fields, seen.credentials);
    let offer =
        if has_hop_fields { tunnel::Offer::of(&mut request, &running.config.server.upgrades) } else { None };
    let request_id = if seen.request_id { RequestId::of(request.headers()) } else { RequestId::new() };
    let (mut parts, body) = request.into_parts();
    let known = route::remembered(&live, &parts);
    let admitted = admit(running, &mut parts, has_hop_fields, known.as_ref().and_then(|route| route.target()));
    let unlogged = Unlogged::of(running, &parts, admitted.as_ref().ok(), (client, start));
    let telemetry = Telemetry::of(running, &parts, unlogged.is_some());
    let mut record = Record {
        live: Arc::clone(&live),
        start,
        request_id: request_id.clone(),
        telemetry: telemetry.clone(),
        unlogged,
        watched: None,
        trailers: true,
        debug: None,
    };
    let target = match admitted {
        Ok(target) => target,
        Err(refused) => return (Work::Answered(*refused), record),
    };
    let trailers = has_hop_fields && headers::names_token(&parts.headers, &TE, "trailers");
    if has_hop_fields {
        // First of all: fields that `Connection` names are no part of the request.
        headers::strip_hop_by_hop(&mut parts.headers);
    }
    if parts.version == Version::HTTP_2 {
        headers::join_cookies(&mut parts.headers);
    }
    let token = if seen.debug { headers::take_debug(&mut parts.headers) } else { None };
    let (headers, version, connection) = (parts.headers, parts.version, parts.extensions.remove());
    let (method, forwarded) = (parts.method, running.config.server.forwarded_from(client));
    let http = ClientRequest {
        method,
        target,
        headers,
        version,
        client,
        forwarded,
        trailers,
        interim,
        credentials,
        conditions: seen.conditions,
        underscored,
        connection,
        request_id,
        telemetry,
    };
    record.trailers = trailers;
    record.debug = token.map(|token| {
        let (method, target, fields) = (http.method.clone(), Arc::clone(&http.target), http.headers.clone());
        Box::new(Debug { token, client: http.sharer(running), method, target, fields })
    });
    let is_watched = running.cache.log().events.is_watched();
    record.watched = is_watched.then(|| Box::new((http.method.clone(), http.target.path.clone())));
    let is_write = live.rules.is_write(&http.method, &http.target);
    let is_get = http.method == Method::GET || http.method == Method::HEAD;
    let is_for_cache = offer.is_none() && !is_write && is_get;
    let bypass = if is_for_cache { bypass(&live, &http, start) } else { None };
    let work =
        if is_for_cache && bypass.is_none() && body.is_end_stream() {
            let route = known.unwrap_or_else(|| route::resolve(&live, &http.method, &http.target));
            match read::answer_now(running, Box::new(CacheRequest::on_route(live, http, route, None))) {
                Ok(answered) => Work::Answered(answered),
                Err(pending) => Work::Pending(pending),
            }
        } else {
            let running = Arc::clone(running);
            // One box for each branch: a future is copied into its box, and the largest is much larger than the others.
            let purge = running.config.purge.as_ref().filter(|_| purging::is_meant(&http.method)).cloned();
            Work::Other(match (purge, bypass) {
                (Some(purge), _) => Box::pin(async move { purging::answer(&running, &live, &purge, &http).await }),
                // RFC 9110 §9.3.1: content in a GET has no defined semantics, and it is not part of the key.
                (None, _) if is_for_cache && !body.is_end_stream() => {
                    Box::pin(async move { content::with_content(&running, &live, http, body).await })
                }
                (None, Some(reason)) => Box::pin(async move {
                    pass(&running, &http, RequestBody::Empty, reason.fwd(), reason.label()).await
                }),
                (None, None) if is_write => {
                    let body = http.content(body);
                    Box::pin(async move { write::write(&running, live, http, body).await })
                }
                (None, None) => Box::pin(async move { answer(&running, &live, http, body, offer).await }),
            })
        };
    (work, record)
}

/// Answers safe methods other than GET and HEAD, POSTs that a family may read by, and requests for an upgrade.
async fn answer(
    running: &Arc<Running>,
    live: &Arc<Live>,
    http: ClientRequest,
    body: Incoming,
    offer: Option<tunnel::Offer>,
) -> Answered {
    match offer {
        Some(offer) => tunnel::tunnel(running, &http, body, offer).await,
        None if http.method.as_str() == "QUERY" => content::query(running, Arc::clone(live), http, body).await,
        None if http.method == Method::POST => content::post(running, Arc::clone(live), http, body).await,
        None => pass(running, &http, http.content(body), Fwd::Method, "method").await,
    }
}

/// Logs and counts a malformed request, which was refused with this status.
pub fn record_refusal(running: &Running, status: u16, reason: &str) {
    let live = running.live();
    let outcome = Outcome::error("malformed-request");
    let answered = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    live.counters(None).answered(&outcome, answered, Duration::ZERO);
    if logs::has_access() {
        logs::write_access(&AccessEntry {
            method: "-",
            path: "-",
            status,
            family: &live.counters(None).family,
            outcome: outcome.kind.label(),
            cache_status: &outcome.to_string(),
            reason: Some(reason),
            ..AccessEntry::default()
        });
    }
}

impl Record {
    /// The response as the client gets it, after it is counted, traced and logged.
    fn response(mut self, running: &Running, answered: Answered) -> Response<Body> {
        let response = self.counted(running, answered);
        self.logged(response)
    }

    /// The same with an explanation, if the client asked for one with a valid token.
    async fn explained_response(mut self, running: &Running, answered: Answered) -> Response<Body> {
        let debug = self.debug.take().map(|debug| (debug, OutcomeText::from(&answered.outcome)));
        let mut response = self.counted(running, answered);
        if let Some((debug, outcome)) = debug {
            Box::pin(debug.explain(running, &self.live, outcome, &mut response)).await;
        }
        self.logged(response)
    }

    /// The response, after it is counted and traced.
    fn counted(&mut self, running: &Running, answered: Answered) -> Response<Body> {
        if let Some(trace) = self.telemetry.as_ref().and_then(|telemetry| telemetry.trace.as_ref()) {
            self.end_trace(trace, &answered);
        }
        let mut response = self.count(running, answered);
        if !self.trailers && matches!(response.body(), Body::Upstream(_) | Body::Recorded(_)) {
            // RFC 9110 §6.5.1: a client that did not say `TE: trailers` gets none.
            response.headers_mut().remove(TRAILER);
        }
        response
    }

    fn logged(self, response: Response<Body>) -> Response<Body> {
        match self.unlogged {
            Some(unlogged) => unlogged.log(response, self.telemetry.as_ref()),
            None => response,
        }
    }

    /// Ends the span of the request, with what happened.
    fn end_trace(&self, trace: &RequestTrace, Answered { response, outcome, family }: &Answered) {
        let live = &self.live;
        trace.end(TracedRequest {
            request_id: self.request_id.to_string(),
            status: response.status(),
            family: &live.counters(*family).family,
            route: family.and_then(|id| live.rules.families().get(id)).map(|family| &*family.path),
            outcome: outcome.kind.label(),
            cache_status: outcome.to_string(),
            invalidated: outcome.invalidated.as_deref().map(str::to_owned),
        });
    }

    /// Counts what happened, and says it in the response.
    fn count(&mut self, running: &Running, answered: Answered) -> Response<Body> {
        let Answered { mut response, outcome, family } = answered;
        let (took, counters) = (self.start.elapsed(), self.live.counters(family));
        counters.answered(&outcome, response.status(), took);
        if outcome.collapsed {
            running.metrics.shared_a_fetch();
        }
        if let Some((what, bound)) = outcome.refused() {
            running.metrics.refused(what, bound);
        }
        if let Some((method, path)) = self.watched.as_deref() {
            running.cache.log().events.answered(|| OutcomeEvent {
                time: invalidation_log::time(SystemTime::now()),
                method: method.as_str(),
                path,
                family: &counters.family,
                outcome: outcome.kind.label(),
                status: response.status().as_u16(),
                micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            });
        }
        let is_told = running.config.server.cache_status != CacheStatus::Off;
        let is_logged = self.unlogged.is_some();
        // It is printable ASCII.
        let value = if is_told || is_logged { HeaderValue::from_str(&outcome.text()).ok() } else { None };
        if is_logged || self.request_id.is_of_client() || !outcome.is_immediate() {
            let id = self.request_id.value();
            if let Some(unlogged) = &mut self.unlogged {
                unlogged.answered(&outcome, value.clone(), id.clone(), (&counters.family, took));
            }
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        if is_told && let Some(value) = value {
            // RFC 9211 §2: appended after the members of caches nearer to the origin.
            response.headers_mut().append(CACHE_STATUS, value);
        }
        response
    }
}
