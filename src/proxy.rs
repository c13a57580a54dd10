//! One request from the client's side: `read` for GET and HEAD, `write` for what may change something, and
//! [`respond`] for what is sent back. [`handle`] chooses, and records the one [`Outcome`] in the `Cache-Status`
//! field, the access log and the metrics.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, EXPECT, HOST, SET_COOKIE, TE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::client::Client;
use crate::config::CacheStatus;
use crate::connections::Connection;
use crate::headers::{self, ForwardedPolicy};
use crate::outcome::{Fwd, Outcome};
use crate::running::{Live, Running};
use crate::semantics::clients::{self, ClientCacheControl};
use crate::semantics::demands::Demands;
use crate::semantics::{ClientDirectives, SetCookie};
use crate::shares::{Over, Share};
use crate::target::{PathCase, Target, TargetFault};
use crate::upstream::interim::Interim;
use crate::upstream::{RequestBody, UpstreamError};

pub mod account;
pub mod body;
mod collapse;
mod debug;
mod errand;
mod fill;
mod hops;
mod keep;
mod question;
mod read;
mod recording;
mod refresh;
pub mod respond;
mod slice;
pub mod suspects;
mod tunnel;
pub mod turn;
mod write;

pub use body::Body;

use debug::Debug;
use question::Question;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// An answer, and what happened.
struct Answered {
    response: Response<Body>,
    outcome: Outcome,
    /// Id of the family in the rules the request began with.
    family: Option<usize>,
}

/// The parts of a request that outlive its connection's buffers.
struct Asked {
    method: Method,
    target: Target,
    headers: HeaderMap,
    version: Version,
    client: IpAddr,
    /// What upstream is told of the client: what the configuration says of the peer it came from.
    forwarded: ForwardedPolicy,
    /// The client takes trailers: RFC 9110 §6.5.1.
    trailers: bool,
    /// Where interim responses go; `None` for clients that cannot be sent any.
    interim: Option<Interim>,
    /// Some of its fields may tell who asks.
    credentials: bool,
    /// Names with `_` that fields have on the way to upstream ([`headers::underscores`]).
    underscored: Vec<HeaderName>,
    /// The client's, if the request may have content.
    connection: Option<Arc<Connection>>,
}

impl Asked {
    /// The fields to send to upstream with what is safe by its method and is not for the cache: it must not become a write,
    /// or another request, on the way.
    fn for_passing(&self, running: &Running) -> HeaderMap {
        let mut fields = self.headers.clone();
        headers::strip_unkeyed(&mut fields, self.forwarded, |_| false);
        self.sent(fields, running)
    }

    /// The fields to send to upstream, with those that tell of this hop.
    fn for_upstream(&self, running: &Running) -> HeaderMap {
        self.sent(self.headers.clone(), running)
    }

    fn sent(&self, mut fields: HeaderMap, running: &Running) -> HeaderMap {
        headers::restore_underscored(&mut fields, &self.underscored);
        // RFC 9112 §3.2.2: the host of an absolute-form target wins over the field; HTTP/2 may send no field.
        if let Ok(host) = HeaderValue::try_from(self.target.host.as_str()) {
            fields.insert(HOST, host);
        }
        if self.trailers {
            // RFC 9110 §10.1.4: the field is for the next hop, and says so.
            fields.insert(TE, HeaderValue::from_static("trailers"));
            headers::append_member(&mut fields, CONNECTION, "te");
        }
        if self.version == Version::HTTP_10 {
            // RFC 9110 §10.1.1: HTTP/1.0 has no 100.
            fields.remove(EXPECT);
        }
        headers::add_via(&mut fields, self.version);
        running.loop_mark.add(&mut fields);
        headers::add_forwarded(&mut fields, self.forwarded, self.client, &self.target);
        fields
    }

    /// Its content, which keeps the client's connection busy.
    fn content(&self, body: Incoming) -> RequestBody {
        RequestBody::of(body, self.connection.as_ref())
    }

    /// Whose share the request takes of what all have.
    fn sharer(&self, running: &Running) -> Client {
        Client::of(self.client, self.forwarded, &running.config.server.trusted_proxies, &self.headers)
    }
}

/// What answers a request.
enum Work {
    /// The cache, if it can.
    Cache(Arc<Question>),
    /// Upstream, most likely. In a box: the future of every request is moved about, and the larger it is the more is copied.
    Other(Pin<Box<dyn Future<Output = Answered> + Send>>),
    /// Larder itself.
    Refused(Box<Answered>),
}

/// Answers one request. Interim responses of upstream go to `interim`, which only a client of HTTP/1.1 has.
pub fn handle(
    running: &Arc<Running>,
    request: Request<Incoming>,
    client: IpAddr,
    interim: Option<Interim>,
) -> impl Future<Output = Response<Body>> + Send {
    let start = Instant::now();
    let live = running.live();
    let (method, path, trailers, debug, work) = take(running, &live, request, client, interim);
    async move {
        let answered = match work {
            Work::Cache(question) => read::answer(running, question).await,
            Work::Other(work) => work.await,
            Work::Refused(answered) => *answered,
        };
        let mut response = record(running, &live, answered, &method, &path, start);
        if !trailers && matches!(response.body(), Body::Upstream(_) | Body::Recorded(_)) {
            // RFC 9110 §6.5.1: none are sent to who did not say that it takes them.
            response.headers_mut().remove(TRAILER);
        }
        if let Some(debug) = debug {
            Box::pin(debug.tell(running, &mut response)).await;
        }
        response
    }
}

/// What a request is about: its method, its path if that is to be logged, whether its client takes trailers, the token with
/// which it asks for causes, and what answers it.
fn take(
    running: &Arc<Running>,
    live: &Arc<Live>,
    mut request: Request<Incoming>,
    client: IpAddr,
    interim: Option<Interim>,
) -> (Method, String, bool, Option<Box<Debug>>, Work) {
    // One look at the names of its fields spares most requests a dozen searches among them.
    let seen = headers::look(request.headers(), &live.credentials);
    let underscored = if seen.underscores { take_underscored(running, request.headers_mut()) } else { Vec::new() };
    let (has_hop_fields, credentials) = (seen.hop_fields, seen.credentials);
    let offer =
        if has_hop_fields { tunnel::Offer::of(&mut request, &running.config.server.upgrades) } else { None };
    let (mut parts, body) = request.into_parts();
    let target = match admit(running, &mut parts, has_hop_fields) {
        Ok(target) => target,
        Err(refused) => return (parts.method, parts.uri.path().to_owned(), true, None, Work::Refused(refused)),
    };
    let trailers = has_hop_fields && headers::names_token(&parts.headers, &TE, "trailers");
    if has_hop_fields {
        // Before anything is read from the fields: what `Connection` names does not count as part of the request.
        headers::strip_hop_by_hop(&mut parts.headers);
    }
    if parts.version == Version::HTTP_2 {
        headers::join_cookies(&mut parts.headers);
    }
    let token = if seen.debug { debug::take(&mut parts.headers) } else { None };
    let (headers, version, connection) = (parts.headers, parts.version, parts.extensions.remove());
    let (method, forwarded) = (parts.method, running.config.server.forwarded_from(client));
    let mut asked = Asked {
        method,
        target,
        headers,
        version,
        client,
        forwarded,
        trailers,
        interim,
        credentials,
        underscored,
        connection,
    };
    let debug = token.map(|token| Box::new(Debug { token, client: asked.sharer(running) }));
    let (method, path) = (asked.method.clone(), running.config.log.access.then(|| asked.target.path.clone()));
    let is_write = live.rules.is_write(&method, &asked.target);
    let is_for_cache = offer.is_none() && !is_write && (method == Method::GET || method == Method::HEAD);
    let bypass = if is_for_cache { read::not_for_the_cache(live, &asked) } else { None };
    let work = if is_for_cache && bypass.is_none() && body.is_end_stream() {
        Work::Cache(Question::new(Arc::clone(live), asked, None))
    } else {
        let (running, live) = (Arc::clone(running), Arc::clone(live));
        Work::Other(Box::pin(async move {
            match bypass {
                // RFC 9110 §9.3.1: content in a GET has no defined semantics, and it is not part of the key.
                _ if is_for_cache && !body.is_end_stream() => {
                    read::with_content(&running, &live, asked, body).await
                }
                Some(detail) => pass(&running, &asked, RequestBody::Empty, Fwd::Bypass, detail).await,
                None if is_write => {
                    headers::strip_claims(&mut asked.headers, asked.forwarded, |name| {
                        live.rules.identify_by(name)
                    });
                    write::write(&running, live, asked, body).await
                }
                None => answer(&running, &live, asked, body, offer).await,
            }
        }))
    };
    (method, path.unwrap_or_default(), trailers, debug, work)
}

/// Every read but GET and HEAD, and those with the offer of another protocol.
async fn answer(
    running: &Arc<Running>,
    live: &Arc<Live>,
    asked: Asked,
    body: Incoming,
    offer: Option<tunnel::Offer>,
) -> Answered {
    match offer {
        Some(offer) => tunnel::tunnel(running, &asked, body, offer).await,
        None if asked.method.as_str() == "QUERY" => read::query(running, Arc::clone(live), asked, body).await,
        None => pass(running, &asked, asked.content(body), Fwd::Method, "method").await,
    }
}

/// What becomes of fields with `_` in their names (`[server] underscores`). Gives those that have them on the way to upstream.
fn take_underscored(running: &Running, fields: &mut HeaderMap) -> Vec<HeaderName> {
    if running.config.server.underscores {
        return headers::dash_underscored(fields);
    }
    headers::drop_underscored(fields);
    Vec::new()
}

/// The target of a request that is to be forwarded or answered from the cache; the answer to any other.
fn admit(
    running: &Running,
    parts: &mut http::request::Parts,
    has_hop_fields: bool,
) -> Result<Target, Box<Answered>> {
    let target = target_of(parts, running.config.server.case_insensitive_paths)?;
    // RFC 9110 §8.6. hyper sees to it in HTTP/1.
    if parts.version == Version::HTTP_2 && !headers::unify_length(&mut parts.headers) {
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "content-length", "Content-Length is ambiguous")));
    }
    // RFC 9112 §6.1: a coding that is not understood. It would be lost on the way, and the content with it.
    if has_hop_fields && !headers::is_plainly_framed(&parts.headers) {
        let message = "the only transfer coding that is understood is chunked";
        return Err(Box::new(refuse(StatusCode::NOT_IMPLEMENTED, "transfer-coding", message)));
    }
    // RFC 9110 §7.6, RFC 8586 §2: no infinite loops.
    if has_hop_fields && running.loop_mark.is_on(&parts.headers) {
        let message = "proxy loop: upstream is this Larder itself, or forwards to it; set [server] upstream or --upstream to the \
                       address of the API";
        tracing::error!("{message}");
        return Err(Box::new(refuse(StatusCode::LOOP_DETECTED, "loop", message)));
    }
    if has_hop_fields && headers::is_looping(&parts.headers) {
        let message =
            "the request goes round in a circle: upstream of this Larder is, by way of others, this Larder";
        return Err(Box::new(refuse(StatusCode::LOOP_DETECTED, "loop", message)));
    }
    match hops::answer(parts) {
        Some(answered) => Err(Box::new(answered)),
        None => Ok(target),
    }
}

fn target_of(parts: &http::request::Parts, case: PathCase) -> Result<Target, Box<Answered>> {
    // RFC 9110 §9.3.6: a gateway to one origin has no use for tunnels.
    if parts.method == Method::CONNECT {
        let refused = refuse(StatusCode::NOT_IMPLEMENTED, "connect", "CONNECT is not supported by this gateway");
        return Err(Box::new(refused));
    }
    let target = Target::of("http", &parts.uri, &parts.headers, case)
        // RFC 9112 §3.2.4: the asterisk form is for OPTIONS alone.
        .and_then(|target| match target.path == "*" && parts.method != Method::OPTIONS {
            true => Err(TargetFault::BadForm),
            false => Ok(target),
        });
    // RFC 9112 §3.2: a missing or ambiguous host is answered with 400.
    target.map_err(|fault| Box::new(refuse(StatusCode::BAD_REQUEST, "bad-target", &fault.to_string())))
}

/// Logs and counts what was no request, and was refused with this status before it could be one.
pub fn record_refusal(running: &Running, status: u16, reason: &str) {
    let live = running.live();
    let outcome = Outcome::error("malformed-request");
    live.counters(None).count(outcome.kind);
    running.metrics.answered(outcome.kind, outcome.collapsed, Duration::ZERO);
    if running.config.log.access {
        tracing::info!(
            target: "larder::access",
            method = "-",
            path = "-",
            status,
            family = live.counters(None).family,
            outcome = outcome.kind.label(),
            cache_status = outcome.to_string(),
            reason,
        );
    }
}

fn record(
    running: &Running,
    live: &Live,
    answered: Answered,
    method: &Method,
    path: &str,
    start: Instant,
) -> Response<Body> {
    let Answered { mut response, outcome, family } = answered;
    let took = start.elapsed();
    live.counters(family).count(outcome.kind);
    running.metrics.answered(outcome.kind, outcome.collapsed, took);
    if let Some((what, bound)) = outcome.refused() {
        running.metrics.refused(what, bound);
    }
    let text = outcome.to_string();
    if running.config.log.access {
        // The query is left out: it may hold secrets.
        tracing::info!(
            target: "larder::access",
            %method,
            path,
            status = response.status().as_u16(),
            family = live.counters(family).family,
            outcome = outcome.kind.label(),
            cache_status = text,
            invalidated = outcome.invalidated.as_deref(),
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        );
    }
    // An outcome's text is made of tokens, `=`, `;` and integers.
    if running.config.server.cache_status != CacheStatus::Off
        && let Ok(value) = HeaderValue::try_from(text)
    {
        // RFC 9211 §2: appended after the members of caches nearer to the origin.
        response.headers_mut().append(CACHE_STATUS, value);
    }
    response
}

/// Forwards without looking at the cache.
async fn pass(
    running: &Running,
    asked: &Asked,
    mut body: RequestBody,
    fwd: Fwd,
    detail: &'static str,
) -> Answered {
    // RFC 9111 §5.2.1.7
    if is_for_cache_alone(running, asked) {
        return read::not_cached();
    }
    let live = running.live();
    let family = live.rules.claim(&asked.method, &asked.target.path).map(|it| it.family);
    let (fields, client) = (asked.for_passing(running), asked.sharer(running));
    // A share is taken when there is something to send, as a place at upstream is.
    if let Err(incomplete) = running.upstream.receive_ahead(client, &fields, &mut body).await {
        return failed(incomplete, fwd);
    }
    let share = match share(running, asked) {
        Ok(share) => share,
        Err(refused) => return *refused,
    };
    let path = asked.target.path_and_query();
    match running.upstream.send(client, &asked.method, &path, fields, body, asked.interim.clone()).await {
        Ok(response) => {
            let mut outcome = Outcome::pass(fwd, detail);
            outcome.fwd_status = Some(response.status().as_u16());
            let response = response.map(|body| body.holding(share));
            let mut response = respond::forwarded(response, &running.config.server);
            if family.is_some_and(|family| family.client_cache_control == ClientCacheControl::NoCache) {
                clients::tell(response.headers_mut());
            }
            if family.is_some_and(|family| family.policy.set_cookie == SetCookie::Strip) {
                response.headers_mut().remove(SET_COOKIE);
            }
            Answered { response, outcome, family: None }
        }
        Err(error) => failed(error, fwd),
    }
}

/// A client's share of what upstream is asked for one request alone: whoever can make the cache forward what it might have
/// answered, or fetched once for many, could otherwise take upstream from everybody else.
fn share(running: &Running, asked: &Asked) -> Result<Share, Box<Answered>> {
    running.unshared.take(asked.sharer(running), 1).map_err(|over| {
        Box::new(match over {
            // RFC 6585 §4
            Over::Client => refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "client-share",
                "too many requests of this client that the cache cannot answer are under way",
            ),
            Over::All => failed(UpstreamError::Overloaded(Over::All), Fwd::Bypass),
        })
    })
}

/// A read that is not to reach upstream, as far as its family heeds that.
fn is_for_cache_alone(running: &Running, asked: &Asked) -> bool {
    let is_read = matches!(asked.method.as_str(), "GET" | "HEAD" | "QUERY");
    is_read && {
        let live = running.live();
        let claimed = live.rules.claim(&asked.method, &asked.target.path);
        let heeded = claimed.map_or_else(ClientDirectives::default, |it| it.family.policy.client_directives);
        Demands::of(&asked.headers, heeded).only_if_cached
    }
}

/// Larder's own answer when upstream gave none.
fn failed(error: UpstreamError, fwd: Fwd) -> Answered {
    let status = match error {
        UpstreamError::Timeout => StatusCode::GATEWAY_TIMEOUT,
        // RFC 9110 §15.5.9
        UpstreamError::Slow => StatusCode::REQUEST_TIMEOUT,
        // RFC 9112 §8
        UpstreamError::Incomplete => StatusCode::BAD_REQUEST,
        // RFC 6585 §4
        UpstreamError::Overloaded(Over::Client) | UpstreamError::TooManyStreams(Over::Client) => {
            StatusCode::TOO_MANY_REQUESTS
        }
        UpstreamError::Overloaded(Over::All) | UpstreamError::TooManyStreams(Over::All) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        UpstreamError::Unreachable | UpstreamError::Closed | UpstreamError::Garbled | UpstreamError::Abandoned => {
            StatusCode::BAD_GATEWAY
        }
    };
    let mut answered = refuse(status, error.token(), &error.to_string());
    answered.outcome.fwd = Some(fwd);
    // For who may know the cause.
    answered.response.extensions_mut().insert(error);
    answered
}

fn refuse(status: StatusCode, token: &'static str, message: &str) -> Answered {
    Answered { response: respond::error(status, message), outcome: Outcome::error(token), family: None }
}
