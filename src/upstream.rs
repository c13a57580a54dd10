//! The client to the one upstream: pooled connections, timeouts, limits on concurrent requests, and one repetition of a safe
//! request whose pooled connection turned out to be closed or out of step.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Uri, header};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::ServerName;

use crate::client::Client;
use crate::config::{HostPolicy, ServerConfig};
use crate::http::headers;
use crate::shares::Shares;

mod address;
mod cause;
mod conn;
mod content_copy;
mod error;
mod framing;
mod head;
mod min_rate;
mod names;
mod places;
mod pool;
mod progress;
mod request_body;
mod response_body;
mod response_end;
mod send;
mod socket;
mod suspects;
mod tls;
mod upload;

use names::Names;
use places::Places;
use pool::{Pool, PoolLimits};
use socket::Sockets;

pub use address::addresses;
pub use cause::{LastFailure, with_causes};
pub use content_copy::ContentCopy;
pub use error::UpstreamError;
pub use head::LINE as LEAST_LINE;
pub use min_rate::MinRate;
pub use places::{PlacesInUse, UpstreamPlace};
pub use progress::Progress;
pub use request_body::{ClientBody, RequestBody};
pub use response_body::{BodyError, ResponseBody};
pub use send::ContentUnread;
pub use suspects::Suspects;
pub(crate) use tls::{client as tls_client, none as no_tls};
pub use upload::{Upload, UploadFault};

/// Request content that is read ahead before the request takes a place at upstream, bytes.
const CONTENT_AHEAD: u64 = 64 << 10;

/// The client to one upstream.
#[derive(Debug)]
pub struct Upstream {
    pool: Pool,
    host: HostField,
    /// Upstream's own addresses: hosts with their ports, unless those are the default.
    addresses: Arc<[String]>,
    places: Places,
    /// Requests that were sent, repetitions on another connection not counted.
    sent: AtomicU64,
    failures: cause::Failures,
    /// Bytes of request content that is read ahead.
    buffers: Arc<Shares>,
    /// Bytes of contents that are read for rules.
    copies: Arc<Shares>,
    response_timeout: Duration,
    /// Longest silence in the middle of a body.
    silence: Duration,
    /// Silence after which an exchange counts as a stream.
    stream_after: Duration,
    /// Longest silence of an event stream.
    stream_silence: Duration,
    /// Minimum, bytes per second; 0 for none.
    upload_rate: u64,
    /// Minimum, bytes per second; 0 for none.
    download_rate: u64,
}

/// The `Host` field of requests to upstream.
#[derive(Debug)]
enum HostField {
    /// The client's.
    Client,
    Fixed(HeaderValue),
}

/// Why the configured upstream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFault {
    #[error("upstream {0:?} is not a URL with a scheme and a host; write it like http://127.0.0.1:8000")]
    NotAUrl(String),
    #[error(
        "[server.upstream_tls] {field} = {path:?}: {reason}; write the path of a PEM file that Larder may read"
    )]
    Tls {
        /// `ca`, `cert` or `key`.
        field: &'static str,
        /// As configured.
        path: String,
        reason: String,
    },
    #[error("upstream is https, but this machine's certificate store cannot be read; install ca-certificates")]
    Certificates(#[source] std::io::Error),
    #[error("the DNS server of [server] resolver cannot be used: {0}")]
    Resolver(#[source] std::io::Error),
}

impl Upstream {
    /// A client with the pool, limits and host policy of `server`. Connects when it sends the first request.
    pub fn new(url: &Uri, server: &ServerConfig) -> Result<Upstream, UpstreamFault> {
        let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
            return Err(UpstreamFault::NotAUrl(url.to_string()));
        };
        let host_name = authority.host().trim_matches(['[', ']']);
        let names =
            Names::new(host_name, server.resolver, server.connect_timeout).map_err(UpstreamFault::Resolver)?;
        let mut http = HttpConnector::new_with_resolver(names.clone());
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(server.connect_timeout));
        http.set_keepalive(Some(Duration::from_secs(30)));
        let tls = if *scheme == Scheme::HTTPS { tls::client(&server.upstream_tls)? } else { tls::none() };
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let name = server.upstream_tls.server_name.clone().and_then(|name| ServerName::try_from(name).ok());
        let builder = match name {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
            None => builder,
        };
        let connector = builder.enable_http1().wrap_connector(Sockets(http));
        let limits = PoolLimits {
            idle: server.max_upstream_requests,
            keep_alive: server.upstream_keep_alive,
            max_head: server.max_head,
        };
        let names = host_name.parse::<IpAddr>().is_err().then_some(names);
        Ok(Upstream {
            pool: Pool::new(connector, url.clone(), limits, names),
            host: host(&server.host, authority),
            addresses: addresses(url, &server.host).into(),
            places: Places::new(server),
            sent: AtomicU64::new(0),
            failures: cause::Failures::default(),
            buffers: buffers(server),
            copies: copies(server),
            response_timeout: server.upstream_timeout,
            silence: server.idle_timeout,
            stream_after: server.stream_after,
            stream_silence: server.stream_timeout,
            upload_rate: server.upload_rate,
            download_rate: server.download_rate,
        })
    }

    /// Upstream's own addresses: hosts with their ports, unless those are the default.
    pub fn addresses(&self) -> &Arc<[String]> {
        &self.addresses
    }

    /// Number of requests that were sent since the start.
    pub fn requests_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// The latest failure of upstream.
    pub fn last_failure(&self) -> Option<LastFailure> {
        self.failures.last()
    }

    /// The latest failure of one kind.
    pub fn last_failure_of(&self, error: UpstreamError) -> Option<LastFailure> {
        self.failures.last_of(error)
    }

    /// Whether a request of this client would be sent at once.
    pub fn has_room(&self, client: Client) -> bool {
        self.places.has_room(client)
    }

    /// How many places are in use.
    pub fn places_in_use(&self) -> PlacesInUse {
        self.places.in_use()
    }

    /// Waits for requests that may have got the responses to others.
    pub async fn suspects(&self) -> Suspects {
        self.pool.suspects().await
    }

    /// A place among the requests at a time, if there is one for this client now.
    pub fn take_place(&self, client: Client) -> Result<UpstreamPlace, UpstreamError> {
        self.places.take(client).map_err(UpstreamError::Overloaded)
    }

    /// Waits for a place among the requests at a time, for at most `upstream_timeout`. The queue has as many places, and each
    /// client the same share of them; if it is full, this fails at once.
    pub async fn place(&self, client: Client) -> Result<UpstreamPlace, UpstreamError> {
        self.places.wait(client).await.map_err(UpstreamError::Overloaded)
    }

    /// Reads a client's content ahead: to its end, or until it exceeds `most` bytes or the buffers are used up.
    ///
    /// # Errors
    ///
    /// The content breaks off, or arrives more slowly than `upload_rate`. Nothing has been sent to upstream then.
    pub async fn receive(&self, client: Client, body: &mut RequestBody, most: u64) -> Result<(), UpstreamError> {
        let RequestBody::Client(content) = body else { return Ok(()) };
        let rate = self.min_upload_rate();
        let has_rate = rate.is_some();
        // Without a minimum rate, silence is limited.
        content.rate = Some(rate.unwrap_or_else(|| MinRate::new(self.response_timeout, 0)));
        content.receive(&self.buffers, client, most).await?;
        content.rate.take_if(|_| !has_rate);
        if content.is_over() {
            // The content was empty.
            *body = RequestBody::Empty;
        }
        Ok(())
    }

    /// Reads the beginning of a client's content ahead, so that the request takes no place before there is something to send.
    /// Not if the client expects a 100: then upstream asks for the content.
    pub async fn receive_ahead(
        &self,
        client: Client,
        fields: &HeaderMap,
        body: &mut RequestBody,
    ) -> Result<(), UpstreamError> {
        let is_received = !matches!(body, RequestBody::Client(body) if !body.is_received);
        if is_received || expects_continue(fields) {
            return Ok(());
        }
        self.receive(client, body, CONTENT_AHEAD).await?;
        if let RequestBody::Client(body) = body {
            body.is_received = true;
        }
        Ok(())
    }
}

/// Limits on contents that are read for rules: as much as is read ahead, or four times the largest.
fn copies(server: &ServerConfig) -> Arc<Shares> {
    let (total, per_client) =
        (server.max_upstream_requests as u64, server.max_upstream_requests_per_client as u64);
    let largest = server.max_rule_body;
    Shares::new((CONTENT_AHEAD * total).max(largest * 4), (CONTENT_AHEAD * per_client).max(largest))
}

/// Limits on content that is read ahead: [`CONTENT_AHEAD`] for each place.
fn buffers(server: &ServerConfig) -> Arc<Shares> {
    let (total, per_client) =
        (server.max_upstream_requests as u64, server.max_upstream_requests_per_client as u64);
    // A QUERY that may be answered from the cache is read completely.
    let query = server.max_query_body;
    Shares::new((CONTENT_AHEAD * total).max(query * 4), (CONTENT_AHEAD * per_client).max(query))
}

fn expects_continue(fields: &HeaderMap) -> bool {
    headers::names_token(fields, &header::EXPECT, "100-continue")
}

fn host(policy: &HostPolicy, authority: &Authority) -> HostField {
    match policy {
        HostPolicy::Client => HostField::Client,
        HostPolicy::Fixed(value) => HostField::Fixed(value.clone()),
        HostPolicy::Upstream | HostPolicy::UpstreamByDefault => {
            // Without credentials, which the configuration refuses, an authority consists of visible ASCII.
            HeaderValue::from_str(authority.as_str()).map_or(HostField::Client, HostField::Fixed)
        }
    }
}
