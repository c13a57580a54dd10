//! The client to the origin: pooled connections, time limits, a bound on requests at a time, and one repetition of a
//! safe request that a closing idle connection swallowed.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::config::{HostPolicy, Server};

/// Idle connections to upstream are closed after this long; shorter than what most servers allow.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// Why upstream gave no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("upstream cannot be reached")]
    Unreachable,
    #[error("upstream closed the connection without an answer")]
    Closed,
    #[error("upstream did not answer in time")]
    Timeout,
    #[error("too many requests wait for upstream")]
    Overloaded,
    #[error("upstream's answer is not HTTP")]
    Garbled,
    #[error("the fetch was abandoned")]
    Abandoned,
}

impl UpstreamError {
    /// Short token for `Cache-Status`, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            UpstreamError::Unreachable => "upstream-unreachable",
            UpstreamError::Closed => "upstream-closed",
            UpstreamError::Timeout => "upstream-timeout",
            UpstreamError::Overloaded => "overloaded",
            UpstreamError::Garbled => "upstream-garbled",
            UpstreamError::Abandoned => "abandoned",
        }
    }
}

/// The body of a request to upstream.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    /// A body that is already here.
    Whole(Bytes),
    /// The client's body, streamed.
    Client(Incoming, Arc<Progress>),
    /// The client's body, streamed, of which the beginning has been read.
    Begun(Bytes, Incoming, Arc<Progress>),
}

/// When the client last sent a piece of its body: an upload that moves is not a timeout.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    /// Milliseconds after `start`.
    last: std::sync::atomic::AtomicU64,
}

impl Progress {
    fn new() -> Arc<Progress> {
        Arc::new(Progress { start: Instant::now(), last: 0.into() })
    }

    fn note(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, std::sync::atomic::Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(std::sync::atomic::Ordering::Relaxed))
    }
}

impl RequestBody {
    /// The client's body, or nothing if it is known to be empty.
    pub fn of(body: Incoming) -> RequestBody {
        if body.is_end_stream() { RequestBody::Empty } else { RequestBody::Client(body, Progress::new()) }
    }

    /// The client's body, of which `read` has been read.
    pub fn begun(read: Bytes, rest: Incoming) -> RequestBody {
        if read.is_empty() { RequestBody::of(rest) } else { RequestBody::Begun(read, rest, Progress::new()) }
    }

    /// The same again; `None` for a client's body, which can be read but once.
    fn again(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Empty => Some(RequestBody::Empty),
            RequestBody::Whole(content) => Some(RequestBody::Whole(content.clone())),
            RequestBody::Client(..) | RequestBody::Begun(..) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(content) if content.is_empty() => Poll::Ready(None),
            RequestBody::Whole(read) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(read))))),
            RequestBody::Begun(read, ..) if !read.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(read)))))
            }
            RequestBody::Client(body, progress) | RequestBody::Begun(_, body, progress) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                progress.note();
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(content) => content.is_empty(),
            RequestBody::Client(body, _) => body.is_end_stream(),
            RequestBody::Begun(read, rest, _) => read.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(content) => SizeHint::with_exact(content.len() as u64),
            RequestBody::Client(body, _) => body.size_hint(),
            RequestBody::Begun(read, rest, _) => {
                let read = read.len() as u64;
                rest.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(read + rest))
            }
        }
    }
}

/// The body of upstream's answer. Holds its place among the requests at a time, and fails when upstream is silent
/// for too long in the middle of it.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    silence: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

/// The body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("upstream broke off in the middle of the body")]
    Broken(#[source] hyper::Error),
    #[error("upstream was silent for {} in the middle of the body", humantime::format_duration(*.0))]
    Silent(Duration),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.deadline = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)));
        }
        // The timer is made only when there is something to wait for: most bodies come with their head.
        let silence = this.silence;
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Silent(silence))))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The client to one upstream.
#[derive(Debug)]
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, RequestBody>,
    scheme: Scheme,
    authority: Authority,
    host: Host,
    places: Arc<Semaphore>,
    answer_within: Duration,
    silence: Duration,
}

#[derive(Debug)]
enum Host {
    Client,
    Always(HeaderValue),
}

/// Why there can be no client to this upstream.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFault {
    #[error("upstream {0:?} is not a URL with a scheme and a host; write it like http://127.0.0.1:8000")]
    NotAUrl(String),
    #[error("upstream is https, but this machine's certificate store cannot be read; install ca-certificates")]
    Certificates(#[source] std::io::Error),
}

impl Upstream {
    /// A client with the pool, limits and host policy of `server`. Connects only when asked to send.
    pub fn new(url: &Uri, server: &Server) -> Result<Upstream, UpstreamFault> {
        let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
            return Err(UpstreamFault::NotAUrl(url.to_string()));
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(server.connect_timeout));
        http.set_keepalive(Some(Duration::from_secs(30)));
        let builder = HttpsConnectorBuilder::new();
        let builder = if *scheme == Scheme::HTTPS {
            builder.with_native_roots().map_err(UpstreamFault::Certificates)?
        } else {
            // Never used for http: no need to read the machine's certificates.
            let roots = rustls::RootCertStore::empty();
            builder.with_tls_config(
                rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
            )
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(server.max_upstream_requests)
            .set_host(false)
            .build(connector);
        Ok(Upstream {
            client,
            scheme: scheme.clone(),
            authority: authority.clone(),
            host: host(&server.host, authority),
            places: Arc::new(Semaphore::new(server.max_upstream_requests)),
            answer_within: server.upstream_timeout,
            silence: server.idle_timeout,
        })
    }

    /// Sends a request and waits for the head of the answer. A GET, HEAD or QUERY whose body is at hand is sent once more if a
    /// pooled connection turned out to be closed before any of the answer came (RFC 9112 §9.3.1).
    pub async fn send(
        &self,
        method: &Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let is_repeatable = matches!(method.as_str(), "GET" | "HEAD" | "QUERY");
        let again = body.again().filter(|_| is_repeatable).map(|body| (headers.clone(), body));
        match (self.send_once(method, path_and_query, headers, body).await, again) {
            (Err(UpstreamError::Closed), Some((headers, body))) => {
                self.send_once(method, path_and_query, headers, body).await
            }
            (answer, _) => answer,
        }
    }

    async fn send_once(
        &self,
        method: &Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let place = tokio::time::timeout(self.answer_within, Arc::clone(&self.places).acquire_owned())
            .await
            .map_err(|_| UpstreamError::Overloaded)?
            // The semaphore is never closed.
            .map_err(|_| UpstreamError::Abandoned)?;
        let progress = match &body {
            RequestBody::Client(_, progress) | RequestBody::Begun(.., progress) => Arc::clone(progress),
            RequestBody::Empty | RequestBody::Whole(_) => Progress::new(),
        };
        // Time spent waiting for a place is not upstream's silence.
        progress.note();
        let request = self.request(method, path_and_query, headers, body)?;
        let answer = self.in_time(self.client.request(request), &progress).await?;
        let response = answer.map_err(|error| classify(&error))?;
        let silence = self.silence;
        Ok(response.map(|incoming| ResponseBody { incoming, silence, deadline: None, _place: place }))
    }

    /// The time limit runs from the last piece of the request that was sent.
    async fn in_time<T>(&self, answer: impl Future<Output = T>, progress: &Progress) -> Result<T, UpstreamError> {
        tokio::pin!(answer);
        loop {
            let deadline = progress.last() + self.answer_within;
            match tokio::time::timeout_at(deadline.into(), &mut answer).await {
                Ok(answer) => return Ok(answer),
                Err(_) if progress.last() + self.answer_within > deadline => {}
                Err(_) => return Err(UpstreamError::Timeout),
            }
        }
    }

    fn request(
        &self,
        method: &Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, UpstreamError> {
        if let Host::Always(host) = &self.host {
            headers.insert(header::HOST, host.clone());
        }
        let path_and_query = PathAndQuery::try_from(path_and_query).map_err(|_| UpstreamError::Garbled)?;
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path_and_query)
            .build()
            .map_err(|_| UpstreamError::Garbled)?;
        // Without this the client would take content of unknown length in a GET for none (RFC 9112 §6.1).
        if body.size_hint().exact().is_none() {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn host(policy: &HostPolicy, authority: &Authority) -> Host {
    match policy {
        HostPolicy::Client => Host::Client,
        HostPolicy::Fixed(value) => Host::Always(value.clone()),
        HostPolicy::Upstream => {
            // An authority without credentials (config refuses them) is made of visible ASCII.
            HeaderValue::from_str(authority.as_str()).map_or(Host::Client, Host::Always)
        }
    }
}

fn classify(error: &hyper_util::client::legacy::Error) -> UpstreamError {
    if error.is_connect() {
        return UpstreamError::Unreachable;
    }
    match error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(error) if error.is_parse() => UpstreamError::Garbled,
        _ => UpstreamError::Closed,
    }
}
