//! One request from the client's side. [`handle()`] admits it and chooses: `read` answers from the cache, `fetch` asks upstream once for
//! all who wait, `forward` asks for one request alone, `write` forwards a write and invalidates. [`respond`] makes responses. What
//! happened is one [`Outcome`], for the `Cache-Status` field, the access log and the metrics.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{CONNECTION, EXPECT, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::client::Client;
use crate::client_conn::ClientConn;
use crate::client_conn::interim::InterimSender;
use crate::http::headers::{self, ForwardedPolicy, X_REQUEST_ID};
use crate::http::target::Target;
use crate::outcome::{Fwd, Outcome};
use crate::running::Running;
use crate::shares::Over;
use crate::upstream::{RequestBody, UpstreamError};

mod admit;
pub mod body;
mod cache_request;
mod content;
mod debug;
mod decide;
mod detach;
pub mod explain;
mod fetch;
mod forward;
mod handle;
mod logged;
mod purging;
mod read;
mod recording;
mod refresh;
mod request_id;
pub mod respond;
mod route;
mod share;
mod slice;
pub mod stall;
mod storing;
pub mod suspects;
mod telemetry;
mod tunnel;
pub mod warm;
pub mod write;

pub use body::Body;
pub use handle::{Handled, handle, record_refusal};
use request_id::RequestId;
use telemetry::Telemetry;

/// Most fields that are added to a request to upstream.
const ADDED: usize = 10;

/// A response to the client, and what happened.
struct Answered {
    response: Response<Body>,
    outcome: Outcome,
    /// Id of the family in the rules that were in force when the request began.
    family: Option<usize>,
}

/// A request as the client sent it, without its content and without hop-by-hop fields.
struct ClientRequest {
    method: Method,
    target: Arc<Target>,
    headers: HeaderMap,
    version: Version,
    client: IpAddr,
    /// What upstream is told of the client (`[server] forwarded`, `trusted_proxies`).
    forwarded: ForwardedPolicy,
    /// The client takes trailers (RFC 9110 §6.5.1).
    trailers: bool,
    /// Where interim responses go; `None` for clients that cannot be sent any.
    interim: Option<InterimSender>,
    /// Some of its fields may carry credentials.
    credentials: bool,
    /// Some of its fields may be preconditions, `Range`, `Cache-Control` or `Pragma`.
    conditions: bool,
    /// Names with `_` that fields have on the way to upstream ([`headers::underscores`]).
    underscored: Vec<HeaderName>,
    /// The client's connection, if the request may have content.
    connection: Option<Arc<ClientConn>>,
    request_id: RequestId,
    /// `None` if nothing asks for what it notes.
    telemetry: Option<Arc<Telemetry>>,
}

impl ClientRequest {
    /// A request over HTTP/1.1 that came over no connection: one of Larder's own, or one to be explained.
    fn without_connection(
        (method, target, headers): (Method, Arc<Target>, HeaderMap),
        client: IpAddr,
        forwarded: ForwardedPolicy,
    ) -> ClientRequest {
        ClientRequest {
            method,
            target,
            headers,
            version: Version::HTTP_11,
            client,
            forwarded,
            trailers: false,
            interim: None,
            credentials: true,
            conditions: true,
            underscored: Vec::new(),
            connection: None,
            request_id: RequestId::new(),
            telemetry: None,
        }
    }

    /// The fields of a request that bypasses the cache, as upstream gets them: without those that would make upstream take it for another
    /// request or a write.
    fn for_passing(&self, running: &Running) -> HeaderMap {
        let mut fields = self.headers.clone();
        headers::strip_unkeyed(&mut fields, self.forwarded, |_| false);
        self.sent(fields, running)
    }

    /// The fields as upstream gets them, with those that this hop adds.
    fn for_upstream(&self, running: &Running) -> HeaderMap {
        self.sent(self.headers.clone(), running)
    }

    fn sent(&self, mut fields: HeaderMap, running: &Running) -> HeaderMap {
        fields.reserve(ADDED);
        headers::restore_underscored(&mut fields, &self.underscored);
        // RFC 9112 §3.2.2: the host of an absolute-form target wins over the field; HTTP/2 may send no field.
        if let Ok(host) = HeaderValue::try_from(self.target.host.as_str()) {
            fields.insert(HOST, host);
        }
        if self.trailers {
            // RFC 9110 §10.1.4: `TE` is for the next hop, so that `Connection` names it.
            fields.insert(TE, HeaderValue::from_static("trailers"));
            headers::append_member(&mut fields, CONNECTION, HeaderValue::from_static("te"));
        }
        if self.version == Version::HTTP_10 {
            // RFC 9110 §10.1.1: HTTP/1.0 has no 100.
            fields.remove(EXPECT);
        }
        headers::add_via(&mut fields, self.version);
        running.loop_mark.add(&mut fields);
        fields.insert(X_REQUEST_ID, self.request_id.value());
        headers::add_forwarded(&mut fields, self.forwarded, self.client, &self.target);
        fields
    }

    /// Its content, which keeps the client's connection busy.
    fn content(&self, body: Incoming) -> RequestBody {
        RequestBody::of(body, self.connection.as_ref())
    }

    /// The client whose share of every bound the request takes.
    fn sharer(&self, running: &Running) -> Client {
        Client::of(self.client, self.forwarded, &running.config.server.trusted_proxies, &self.headers)
    }
}

/// Larder's own response when upstream gave none.
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
    // For `Larder-Debug`.
    answered.response.extensions_mut().insert(error);
    answered
}

fn refuse(status: StatusCode, token: &'static str, message: &str) -> Answered {
    Answered { response: respond::error(status, message), outcome: Outcome::error(token), family: None }
}

/// RFC 9111 §5.2.1.7
fn not_cached() -> Answered {
    refuse(StatusCode::GATEWAY_TIMEOUT, "only-if-cached", "nothing stored may answer this request")
}
