//! One request from the client's side: `read` for GET and HEAD, `write` for what may change something, and
//! [`respond`] for what is sent back. [`handle`] chooses, and records the one [`Outcome`] in the `Cache-Status`
//! field, the access log and the metrics.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::config::CacheStatus;
use crate::headers;
use crate::outcome::{Fwd, Outcome};
use crate::running::{Live, Running};
use crate::target::{Target, TargetFault};
use crate::upstream::{RequestBody, UpstreamError};

pub mod account;
pub mod body;
mod content;
mod fill;
mod keep;
mod question;
mod read;
mod recording;
pub mod respond;
mod slice;
mod write;

pub use body::Body;

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
}

impl Asked {
    /// The fields to send to upstream, with those that tell of this hop.
    fn for_upstream(&self, running: &Running) -> HeaderMap {
        let mut fields = self.headers.clone();
        // RFC 9112 §3.2.2: the host of an absolute-form target wins over the field; HTTP/2 may send no field.
        if let Ok(host) = HeaderValue::try_from(self.target.host.as_str()) {
            fields.insert(HOST, host);
        }
        headers::add_via(&mut fields, self.version);
        headers::add_forwarded(&mut fields, running.config.server.forwarded, self.client, &self.target);
        fields
    }
}

/// Answers one request.
pub async fn handle(running: &Arc<Running>, request: Request<Incoming>, client: IpAddr) -> Response<Body> {
    let start = Instant::now();
    let live = running.live();
    let (mut parts, body) = request.into_parts();
    let target = match target_of(&parts) {
        Ok(target) => target,
        Err(answered) => return record(running, &live, *answered, &parts.method, parts.uri.path(), start),
    };
    // Before anything is read from them: what `Connection` names does not count as part of the request.
    headers::strip_hop_by_hop(&mut parts.headers);
    let asked = Asked { method: parts.method, target, headers: parts.headers, version: parts.version, client };
    let (method, path) = (asked.method.clone(), running.config.log.access.then(|| asked.target.path.clone()));
    let answered = match () {
        () if method == Method::GET || method == Method::HEAD => {
            read::read(running, Arc::clone(&live), asked, body).await
        }
        () if method.as_str() == "QUERY" => read::query(running, Arc::clone(&live), asked, body).await,
        () if is_safe(&method) => pass(running, &asked, RequestBody::of(body), Fwd::Method, "method").await,
        () => write::write(running, Arc::clone(&live), asked, body).await,
    };
    record(running, &live, answered, &method, path.as_deref().unwrap_or_default(), start)
}

fn target_of(parts: &http::request::Parts) -> Result<Target, Box<Answered>> {
    // RFC 9110 §9.3.6: a gateway to one origin has no use for tunnels.
    if parts.method == Method::CONNECT {
        let refused = refuse(StatusCode::NOT_IMPLEMENTED, "connect", "CONNECT is not supported by this gateway");
        return Err(Box::new(refused));
    }
    let target = Target::of("http", &parts.uri, &parts.headers)
        // RFC 9112 §3.2.4: the asterisk form is for OPTIONS alone.
        .and_then(|target| match target.path == "*" && parts.method != Method::OPTIONS {
            true => Err(TargetFault::BadForm),
            false => Ok(target),
        });
    // RFC 9112 §3.2: a missing or ambiguous host is answered with 400.
    target.map_err(|fault| Box::new(refuse(StatusCode::BAD_REQUEST, "bad-target", &fault.to_string())))
}

/// RFC 9110 §9.2.1 and the method registry: methods that are known not to change anything.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH")
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
async fn pass(running: &Running, asked: &Asked, body: RequestBody, fwd: Fwd, detail: &'static str) -> Answered {
    let fields = asked.for_upstream(running);
    let path = asked.target.path_and_query();
    match running.upstream.send(&asked.method, &path, fields, body).await {
        Ok(response) => {
            let mut outcome = Outcome::pass(fwd, detail);
            outcome.fwd_status = Some(response.status().as_u16());
            Answered { response: respond::forwarded(response, &running.config.server), outcome, family: None }
        }
        Err(error) => failed(error, fwd),
    }
}

/// Larder's own answer when upstream gave none.
fn failed(error: UpstreamError, fwd: Fwd) -> Answered {
    let status = match error {
        UpstreamError::Timeout => StatusCode::GATEWAY_TIMEOUT,
        UpstreamError::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        UpstreamError::Unreachable | UpstreamError::Closed | UpstreamError::Garbled | UpstreamError::Abandoned => {
            StatusCode::BAD_GATEWAY
        }
    };
    let mut answered = refuse(status, error.token(), &error.to_string());
    answered.outcome.fwd = Some(fwd);
    answered
}

fn refuse(status: StatusCode, token: &'static str, message: &str) -> Answered {
    Answered { response: respond::error(status, message), outcome: Outcome::error(token), family: None }
}
