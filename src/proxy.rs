//! One request from the client's side. [`handle()`] admits it and chooses: `read` answers from the cache, `fetch` asks upstream for
//! all who wait, `forward` asks for one request alone, `write` forwards what may change something and invalidates. [`respond`]
//! makes responses. What happened is one [`Outcome`], for the `Cache-Status` field, the access log and the metrics.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{CONNECTION, EXPECT, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::client::Client;
use crate::client_conn::ClientConn;
use crate::client_conn::interim::InterimSender;
use crate::http::headers::{self, ForwardedPolicy};
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
pub mod explain;
mod fetch;
mod forward;
mod handle;
mod hops;
mod read;
mod recording;
mod refresh;
pub mod respond;
mod slice;
pub mod stall;
mod storing;
pub mod suspects;
mod tunnel;
mod write;

pub use body::Body;
pub use handle::{handle, record_refusal};

/// An answer, and what happened.
struct Answered {
    response: Response<Body>,
    outcome: Outcome,
    /// Id of the family in the rules the request began with.
    family: Option<usize>,
}

/// The parts of a request that outlive its connection's buffers.
struct ClientRequest {
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
    interim: Option<InterimSender>,
    /// Some of its fields may tell who asks.
    credentials: bool,
    /// Names with `_` that fields have on the way to upstream ([`headers::underscores`]).
    underscored: Vec<HeaderName>,
    /// The client's, if the request may have content.
    connection: Option<Arc<ClientConn>>,
}

impl ClientRequest {
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
