//! The client to the origin: pooled connections, time limits, a bound on requests at a time, and one repetition of a
//! safe request that a pooled connection swallowed, or answered with garbage.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::ServerName;
use tokio::time::Sleep;

use crate::client::Client;
use crate::config::{HostPolicy, ServerConfig};
use crate::http::headers;
use crate::http::target::normalise_authority;
use crate::server::connections::{Busy, Connection};
use crate::shares::{Over, Share, Shares};

mod address;
mod answer_end;
mod cause;
mod conn;
mod framing;
mod head;
pub mod interim;
mod min_rate;
mod names;
mod places;
mod pool;
mod response_body;
mod socket;
mod suspects;
mod tls;
mod upload;

use answer_end::{AnswerEnd, Rest};
use conn::{Stray, UpstreamConn};
use framing::Ending;
use interim::Interim;
use names::Names;
use places::Places;
use pool::{Pool, PoolLimits};
use response_body::Limits;
use socket::Sockets;
use upload::Unsent;

pub use cause::Failure;
pub use head::LINE as LEAST_LINE;
pub use min_rate::MinRate;
pub use places::{Taken, UpstreamPlace};
pub use response_body::{BodyError, ResponseBody};
pub use suspects::Suspects;
pub use upload::{Upload, UploadFault};

/// How much of a request's content is awaited before the request takes a place at upstream, bytes.
const CONTENT_AHEAD: u64 = 64 << 10;

/// How long content that waits for a 100 is held back from an upstream that sends none: many do not know of it.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Why upstream gave no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("upstream cannot be reached")]
    Unreachable,
    #[error("upstream closed the connection without an answer")]
    Closed,
    #[error("upstream did not answer in time")]
    Timeout,
    /// Nothing was sent.
    #[error("{}", match .0 {
        Over::Client => "this client has too many requests under way",
        Over::All => "too many requests wait for upstream",
    })]
    Overloaded(Over),
    /// Upstream has answered with what may go on for ever.
    #[error("{}", match .0 {
        Over::Client => "this client has too many event streams, upgraded connections and long polls",
        Over::All => "there are too many event streams, upgraded connections and long polls",
    })]
    TooManyStreams(Over),
    #[error("upstream's answer is not HTTP")]
    Garbled,
    #[error("the fetch was abandoned")]
    Abandoned,
    /// The client's fault, not upstream's.
    #[error("the request's content came too slowly")]
    Slow,
    /// The client's fault, not upstream's.
    #[error("the request's content is incomplete")]
    Incomplete,
}

impl UpstreamError {
    /// Short token for `Cache-Status`, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            UpstreamError::Unreachable => "upstream-unreachable",
            UpstreamError::Closed => "upstream-closed",
            UpstreamError::Timeout => "upstream-timeout",
            UpstreamError::Overloaded(Over::All) => "overloaded",
            UpstreamError::Overloaded(Over::Client) => "client-overloaded",
            UpstreamError::TooManyStreams(Over::All) => "streams-overloaded",
            UpstreamError::TooManyStreams(Over::Client) => "client-streams-overloaded",
            UpstreamError::Garbled => "upstream-garbled",
            UpstreamError::Abandoned => "abandoned",
            UpstreamError::Slow | UpstreamError::Incomplete => "request-body",
        }
    }

    /// It says nothing to other clients: this one has its share.
    pub fn is_for_client(self) -> bool {
        matches!(self, UpstreamError::Overloaded(Over::Client) | UpstreamError::TooManyStreams(Over::Client))
    }
}

impl From<UploadFault> for UpstreamError {
    fn from(fault: UploadFault) -> UpstreamError {
        match fault {
            UploadFault::Slow => UpstreamError::Slow,
            UploadFault::Broken => UpstreamError::Incomplete,
            UploadFault::Unwanted | UploadFault::GivenUp => UpstreamError::Abandoned,
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
    Client(Box<ClientBody>),
}

/// A body on its way from the client.
#[derive(Debug)]
pub struct ClientBody {
    /// What has been read of it before.
    begun: Bytes,
    /// For what of `begun` was copied.
    share: Option<Share>,
    incoming: Incoming,
    /// There is no more to be read.
    has_ended: bool,
    /// As much of it as was to be awaited has come.
    is_received: bool,
    /// Bytes that are still to be sent, if the client said how many.
    left: Option<u64>,
    progress: Arc<Progress>,
    upload: upload::Sender,
    /// Content that waits for a 100 is sent without one after this time.
    patience: Option<Pin<Box<Sleep>>>,
    /// None while the content may take as long as it likes.
    rate: Option<MinRate>,
    /// It has ended early.
    fault: Option<UploadFault>,
    /// The client's connection is busy as long as there may be more of it.
    _busy: Option<Busy>,
}

impl ClientBody {
    /// The next piece of the content. An error ends upstream's connection, so that upstream sees an incomplete message; it
    /// waits until an answer that has begun is read.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        if self.fault.is_none() {
            match ready!(self.poll_piece(cx)) {
                Ok(frame) => return Poll::Ready(frame.map(Ok)),
                Err(fault) => {
                    self.upload.0.fail(fault);
                    self.fault = Some(fault);
                }
            }
        }
        ready!(self.upload.0.poll_unanswered(cx));
        Poll::Ready(self.fault.map(Err))
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UploadFault>> {
        ready!(self.poll_released(cx))?;
        let frame = if !self.begun.is_empty() {
            self.share = None;
            Some(Frame::data(std::mem::take(&mut self.begun)))
        } else if self.has_ended {
            None
        } else {
            // Trailers are the end: none are passed on ([`headers::trailers`]).
            ready!(self.poll_incoming(cx))?.filter(Frame::is_data)
        };
        self.progress.note();
        if self.is_last(frame.as_ref())? {
            self.upload.0.complete()?;
        }
        Poll::Ready(Ok(frame))
    }

    /// Whether upstream has all of the content with this piece.
    fn is_last(&mut self, frame: Option<&Frame<Bytes>>) -> Result<bool, UploadFault> {
        let Some(frame) = frame else {
            return if self.left.is_none_or(|left| left == 0) { Ok(true) } else { Err(UploadFault::Broken) };
        };
        let Some(chunk) = frame.data_ref() else { return Ok(true) };
        self.left = self.left.map(|left| left.saturating_sub(chunk.len() as u64));
        Ok(self.left == Some(0) || self.is_over())
    }

    /// Nothing follows what was given.
    fn is_over(&self) -> bool {
        let has_ended = self.has_ended || self.incoming.is_end_stream();
        has_ended && self.begun.is_empty()
    }

    /// Ready when the content may be asked for.
    fn poll_released(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadFault>> {
        let Some(patience) = &mut self.patience else { return Poll::Ready(Ok(())) };
        if patience.as_mut().poll(cx).is_ready() {
            self.upload.0.release();
        }
        ready!(self.upload.0.poll_released(cx))?;
        self.progress.note();
        self.patience = None;
        Poll::Ready(Ok(()))
    }

    /// What the client sends, if it does not take too long over it.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UploadFault>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        let frame = match (frame, &mut self.rate) {
            (Poll::Ready(frame), _) => frame.transpose().map_err(|_| UploadFault::Broken)?,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(rate)) => {
                ready!(rate.poll_lost(cx));
                return Poll::Ready(Err(UploadFault::Slow));
            }
        };
        if let Some(rate) = &mut self.rate {
            rate.came(frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len));
        }
        Poll::Ready(Ok(frame))
    }

    /// Reads until all has come, or more than `most` bytes. What does not come in one piece is copied and counts for the
    /// client among `buffers`; beyond those bounds no more is awaited.
    async fn receive(&mut self, buffers: &Arc<Shares>, client: Client, most: u64) -> Result<(), UploadFault> {
        let mut read = BytesMut::new();
        while !self.incoming.is_end_stream() && (self.begun.len() + read.len()) as u64 <= most {
            let Some(frame) = poll_fn(|cx| self.poll_incoming(cx)).await? else {
                self.has_ended = true;
                break;
            };
            // No trailers are passed on ([`headers::trailers`]).
            let Ok(chunk) = frame.into_data() else { continue };
            if self.begun.is_empty() && read.is_empty() && self.incoming.is_end_stream() {
                self.begun = chunk;
                break;
            }
            read.extend_from_slice(&chunk);
            let bytes = chunk.len() as u64;
            let counted = match &mut self.share {
                Some(share) => share.grow(bytes),
                none => buffers.take(client, bytes).map(|share| *none = Some(share)),
            };
            if counted.is_err() {
                self.is_received = true;
                break;
            }
        }
        self.has_ended |= self.incoming.is_end_stream();
        if !read.is_empty() {
            self.begun = [&*self.begun, &read].concat().into();
        }
        let is_short = self.has_ended && self.left.is_some_and(|left| left > self.begun.len() as u64);
        if is_short { Err(UploadFault::Broken) } else { Ok(()) }
    }
}

/// When something last moved: an upload that moves is not a timeout, nor is a connection that does silent.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Progress {
    /// Moves now.
    pub fn new() -> Arc<Progress> {
        Arc::new(Progress { start: Instant::now(), last: 0.into() })
    }

    /// It moves.
    pub fn note(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Waits for `work`, but no longer than `patience` after the last move.
    pub async fn within<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let deadline = self.last() + patience;
            match tokio::time::timeout_at(deadline.into(), &mut work).await {
                Ok(done) => return Some(done),
                Err(_) if self.last() + patience > deadline => {}
                Err(_) => return None,
            }
        }
    }
}

impl RequestBody {
    /// The body of a client with this connection, or nothing if it is known to be empty.
    pub(crate) fn of(body: Incoming, connection: Option<&Arc<Connection>>) -> RequestBody {
        if body.is_end_stream() {
            return RequestBody::Empty;
        }
        let left = body.size_hint().exact();
        RequestBody::Client(Box::new(ClientBody {
            begun: Bytes::new(),
            share: None,
            has_ended: false,
            incoming: body,
            is_received: false,
            left,
            progress: Progress::new(),
            upload: upload::Sender::default(),
            patience: None,
            rate: None,
            fault: None,
            _busy: connection.map(Connection::begin),
        }))
    }

    /// How far it has come; `None` for what was complete from the start.
    pub fn upload(&self) -> Option<Arc<Upload>> {
        match self {
            RequestBody::Client(body) => Some(Arc::clone(&body.upload.0)),
            RequestBody::Empty | RequestBody::Whole(_) => None,
        }
    }

    /// All of the content, if it has come.
    pub fn at_hand(&self) -> Option<&[u8]> {
        match self {
            RequestBody::Empty => Some(&[]),
            RequestBody::Whole(content) => Some(content),
            RequestBody::Client(body) => body.has_ended.then_some(&body.begun[..]),
        }
    }

    /// All data of a content that has come to its end; the body itself if it has not.
    pub fn into_whole(self) -> Result<Bytes, RequestBody> {
        match self {
            RequestBody::Empty => Ok(Bytes::new()),
            RequestBody::Whole(content) => Ok(content),
            RequestBody::Client(body) if body.has_ended => Ok(body.begun),
            body @ RequestBody::Client(_) => Err(body),
        }
    }

    /// The same again; `None` for a client's body, which can be read but once.
    fn again(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Empty => Some(RequestBody::Empty),
            RequestBody::Whole(content) => Some(RequestBody::Whole(content.clone())),
            RequestBody::Client(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadFault>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(content) if content.is_empty() => Poll::Ready(None),
            RequestBody::Whole(content) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(content))))),
            RequestBody::Client(body) => body.poll_content(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(content) => content.is_empty(),
            RequestBody::Client(body) => body.fault.is_none() && body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(content) => SizeHint::with_exact(content.len() as u64),
            RequestBody::Client(body) => body.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// Marks, as an extension, an answer to a request whose content has not been asked for, or was not all taken by an upstream
/// that closes its connection: the client's connection is of no further use.
#[derive(Debug, Clone, Copy)]
pub struct ContentUnread;

/// An answer of upstream.
struct Answer {
    response: Response<Incoming>,
    limits: Limits,
    ends_with_connection: bool,
    end: Option<AnswerEnd>,
}

impl Answer {
    fn at(self, place: UpstreamPlace) -> Response<ResponseBody> {
        let Answer { response, limits, ends_with_connection, end } = self;
        response.map(|incoming| ResponseBody::new(incoming, limits, ends_with_connection, end, place))
    }
}

/// A request is sent once, or once more.
struct Attempt<'p> {
    place: &'p mut UpstreamPlace,
    is_repetition: bool,
}

/// No answer.
struct NoAnswer {
    error: UpstreamError,
    /// Why, in few words.
    cause: Option<String>,
    blame: Blame,
    /// The last of the request could not be written.
    is_unwritten: bool,
}

/// What is known of an answer that did not come.
enum Blame {
    /// It is upstream's, or the request's.
    Exchange,
    /// A connection that had been of use was closed before anything of the answer came, be it interim.
    Idle,
    /// What came may belong to no response.
    Leftovers(Stray),
}

impl From<UpstreamError> for NoAnswer {
    fn from(error: UpstreamError) -> NoAnswer {
        NoAnswer { error, cause: None, blame: Blame::Exchange, is_unwritten: false }
    }
}

impl NoAnswer {
    /// To a request of at least so many bytes, on a connection whose last response had ended like this.
    fn of(error: &hyper::Error, length: u64, conn: &UpstreamConn) -> NoAnswer {
        if let Some(fault) = conn::head_fault(error) {
            // It began like a response: it is upstream's own, and nothing that was left over from another one.
            return NoAnswer::because(UpstreamError::Garbled, fault.to_string());
        }
        let is_garbled = error.is_parse() || error.is_parse_too_large() || conn::is_stray(error);
        if is_garbled {
            return NoAnswer::garbled(cause::of(error), conn);
        }
        let is_unheard = conn.heard_nothing_of(length);
        let blame = if is_unheard { Blame::Idle } else { Blame::Exchange };
        let (error, cause) = (UpstreamError::Closed, Some(cause::of(error)));
        NoAnswer { error, cause, blame, is_unwritten: conn.is_refused() }
    }

    /// What came is not HTTP, or has two meanings.
    fn garbled(cause: String, conn: &UpstreamConn) -> NoAnswer {
        let blame = conn.stray().map_or(Blame::Exchange, Blame::Leftovers);
        NoAnswer { error: UpstreamError::Garbled, cause: Some(cause), blame, is_unwritten: conn.is_refused() }
    }

    fn because(error: UpstreamError, cause: String) -> NoAnswer {
        NoAnswer { cause: Some(cause), ..error.into() }
    }
}

/// The client to one upstream.
#[derive(Debug)]
pub struct Upstream {
    pool: Pool,
    host: Host,
    /// The names by which upstream may know itself: hosts with their ports, unless those are the default.
    addresses: Vec<String>,
    places: Places,
    failures: cause::Failures,
    /// Bytes of contents that requests wait for before they take a place.
    buffers: Arc<Shares>,
    answer_within: Duration,
    silence: Duration,
    /// The silence that makes an exchange a stream.
    stream_after: Duration,
    /// The longest silence of an event stream.
    stream_silence: Duration,
    /// Bytes a second.
    upload_rate: u64,
    /// Bytes a second.
    download_rate: u64,
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
    #[error(
        "[server.upstream_tls] {field} = {path:?}: {reason}; write the path of a PEM file that Larder may read"
    )]
    Tls {
        /// `ca`, `cert` or `key`.
        field: &'static str,
        /// As it was typed.
        path: String,
        /// Why not.
        reason: String,
    },
    #[error("upstream is https, but this machine's certificate store cannot be read; install ca-certificates")]
    Certificates(#[source] std::io::Error),
    #[error("the DNS server of [server] resolver cannot be asked: {0}")]
    Resolver(#[source] std::io::Error),
}

impl Upstream {
    /// A client with the pool, limits and host policy of `server`. Connects only when asked to send.
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
            addresses: addresses(url, &server.host),
            places: Places::new(server),
            failures: cause::Failures::default(),
            buffers: buffers(server),
            answer_within: server.upstream_timeout,
            silence: server.idle_timeout,
            stream_after: server.stream_after,
            stream_silence: server.stream_timeout,
            upload_rate: server.upload_rate,
            download_rate: server.download_rate,
        })
    }

    /// The names by which upstream may know itself: hosts with their ports, unless those are the default.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The latest failure of upstream.
    pub fn last_failure(&self) -> Option<Failure> {
        self.failures.last()
    }

    /// The latest failure of this kind.
    pub fn last_failure_of(&self, error: UpstreamError) -> Option<Failure> {
        self.failures.last_of(error)
    }

    /// Whether a request of this client would be sent at once.
    pub fn has_room(&self, client: Client) -> bool {
        self.places.has_room(client)
    }

    /// How many places are taken.
    pub fn taken(&self) -> Taken {
        self.places.taken()
    }

    /// Waits for requests whose answers may have been those of others.
    pub async fn suspects(&self) -> Suspects {
        self.pool.suspects().await
    }

    /// A place among the requests at a time, if there is one for this client now.
    pub fn take_place(&self, client: Client) -> Result<UpstreamPlace, UpstreamError> {
        self.places.take(client).map_err(UpstreamError::Overloaded)
    }

    /// A place among the requests at a time. As many as there are places may wait for one, for `upstream_timeout`, and of
    /// one client as many as it may have; who comes when the queue is full is told at once.
    pub async fn place(&self, client: Client) -> Result<UpstreamPlace, UpstreamError> {
        self.places.wait(client).await.map_err(UpstreamError::Overloaded)
    }

    /// Waits until a client's content is here, or more than `most` bytes of it, or as much as Larder has room for. What comes
    /// more slowly than `upload_rate` is given up. Nothing has been sent when this gives an error.
    pub async fn receive(&self, client: Client, body: &mut RequestBody, most: u64) -> Result<(), UpstreamError> {
        let RequestBody::Client(content) = body else { return Ok(()) };
        let rate = self.min_upload_rate();
        let has_rate = rate.is_some();
        // Without a least rate silence is bounded all the same.
        content.rate = Some(rate.unwrap_or_else(|| MinRate::new(self.answer_within, 0)));
        content.receive(&self.buffers, client, most).await?;
        content.rate.take_if(|_| !has_rate);
        if content.is_over() {
            // There was nothing.
            *body = RequestBody::Empty;
        }
        Ok(())
    }

    /// The same for a request that is to be sent with these fields: so that it takes no place before there is something to
    /// send. Who expects a 100 is not asked for content before upstream asks for it.
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

    /// Sends a request and waits for the head of the answer. A GET, HEAD or QUERY whose body is at hand is sent once
    /// more, on a new connection, if a pooled one turned out to be closed before any of the answer came (RFC 9112
    /// §9.3.1), or brought what is no answer. Interim responses go to `interim`. A 101 is an answer only to a request
    /// with `Upgrade`.
    pub async fn send(
        &self,
        client: Client,
        method: &Method,
        path_and_query: &str,
        headers: HeaderMap,
        mut body: RequestBody,
        interim: Option<Interim>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        self.receive_ahead(client, &headers, &mut body).await?;
        let place = self.place(client).await?;
        self.send_from(place, method, path_and_query, headers, body, interim).await
    }

    /// The same with a place at hand.
    pub async fn send_from(
        &self,
        mut place: UpstreamPlace,
        method: &Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: RequestBody,
        interim: Option<Interim>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        let is_repeatable = matches!(method.as_str(), "GET" | "HEAD" | "QUERY");
        let again = body.again().filter(|_| is_repeatable).map(|body| (headers.clone(), body));
        let once = {
            let attempt = Attempt { place: &mut place, is_repetition: false };
            self.send_once(attempt, method, path_and_query, headers, body, interim.clone())
        }
        .await;
        let answer = match (once, again) {
            (Err(NoAnswer { blame: blame @ (Blame::Idle | Blame::Leftovers(_)), .. }), Some((headers, body))) => {
                let second = {
                    let attempt = Attempt { place: &mut place, is_repetition: true };
                    self.send_once(attempt, method, path_and_query, headers, body, interim)
                }
                .await;
                // A good answer shows that the first one was no answer.
                if let (Ok(_), Blame::Leftovers(stray)) = (&second, blame) {
                    self.pool.distrust(stray);
                }
                second
            }
            (Err(NoAnswer { error, cause, blame, .. }), None) => {
                // A write cannot show it. It must not meet the same again.
                if let Blame::Leftovers(stray) = blame {
                    self.pool.distrust(stray);
                }
                return Err(self.failed(error, cause));
            }
            (answer, _) => answer,
        };
        let answer = answer.map_err(|unanswered| self.failed(unanswered.error, unanswered.cause))?;
        let is_stream = answer.limits.is_stream;
        let mut response = answer.at(place);
        if is_stream {
            response.body_mut().become_stream().map_err(UpstreamError::TooManyStreams)?;
        }
        Ok(response)
    }

    /// The error of an answer that is not waited for any more.
    fn failed(&self, error: UpstreamError, cause: Option<String>) -> UpstreamError {
        self.failures.note(error, cause);
        error
    }

    async fn send_once(
        &self,
        Attempt { place, is_repetition }: Attempt<'_>,
        method: &Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        mut body: RequestBody,
        interim: Option<Interim>,
    ) -> Result<Answer, NoAnswer> {
        let progress = match &body {
            RequestBody::Client(body) => Arc::clone(&body.progress),
            RequestBody::Empty | RequestBody::Whole(_) => Progress::new(),
        };
        // Time spent waiting for a place is not upstream's silence.
        progress.note();
        let upgrades = headers.contains_key(header::UPGRADE);
        if matches!(body, RequestBody::Empty) {
            // RFC 9110 §10.1.1: an expectation of a 100 makes no sense without content.
            headers.remove(header::EXPECT);
        }
        if let RequestBody::Client(body) = &mut body
            && body.rate.is_none()
        {
            body.rate = self.min_upload_rate();
        }
        let expecting = hold(&mut body, &headers);
        let upload = body.upload();
        let length = least_length(path_and_query, &headers, &body);
        let host = headers.get(header::HOST).cloned();
        let mut request = self.request(method, path_and_query, headers, body)?;
        let is_misframed = listen(&mut request, expecting, interim);
        // The time limits run from the last piece of the request that was sent.
        let mut exchange = pin!(self.exchange(request, length, is_repetition));
        let early = match self.stream_after < self.answer_within {
            true => progress.within(self.stream_after, &mut exchange).await,
            false => None,
        };
        let answer = match early {
            Some(answer) => Some(answer),
            None => {
                if self.stream_after < self.answer_within {
                    // A long poll. If there is no place for it there, it keeps the one it has.
                    let _ = place.become_stream();
                }
                progress.within(self.answer_within, exchange).await
            }
        };
        let answer = answer.unwrap_or_else(|| {
            let patience = humantime::format_duration(self.answer_within);
            Err(NoAnswer::because(UpstreamError::Timeout, format!("nothing for {patience} (upstream_timeout)")))
        });
        let (mut conn, mut response) = answer.map_err(|unanswered| given_up(unanswered, upload.as_deref()))?;
        let unsent = upload.as_ref().map_or(Unsent::Nothing, |upload| upload.begin_answer());
        let end = upload.map(|upload| {
            let rest = Rest { upload, progress, silence: self.silence, connection: conn.task() };
            AnswerEnd { rest, place: None }
        });
        let ending = Ending::of(method, response.status());
        // RFC 9112 §6.3. hyper does not look at the lengths of responses without content.
        if let Some(fault) = fault_of(&mut response, ending, upgrades) {
            let unanswered = NoAnswer::garbled(fault.to_owned(), &conn);
            return Err(given_up(unanswered, end.as_ref().map(|end| &*end.rest.upload)));
        }
        let is_read_by_http = !self.pool.is_tls() && matches!(*method, Method::GET | Method::HEAD);
        let asked_for = is_read_by_http.then_some(path_and_query);
        address::make_relative(response.headers_mut(), &self.addresses, host.as_ref(), asked_for);
        // RFC 9110 §10.1.1: who does not read the content says whether the connection ends.
        let is_unread = unsent == Unsent::All || unsent == Unsent::Some && framing::closes(&response);
        if is_unread {
            response.extensions_mut().insert(ContentUnread);
        }
        conn.note_keep_alive(response.headers());
        if let Some(stray) = conn.end(ending, method, path_and_query) {
            self.pool.distrust(stray);
        }
        // Dropped, it is closed when the response has ended.
        let is_last = framing::announces_impossible_content(method, response.status(), response.headers());
        if !is_last && !is_misframed.load(Ordering::Relaxed) {
            self.pool.put(conn);
        }
        let ends_with_connection = ending == Ending::Content && headers::is_close_delimited(response.headers());
        let limits = self.limits(&response);
        Ok(Answer { response, limits, ends_with_connection, end })
    }

    /// Sends a request of at least so many bytes on a pooled connection, or on a new one, and waits for the head of its
    /// response.
    async fn exchange(
        &self,
        request: Request<RequestBody>,
        length: u64,
        is_repetition: bool,
    ) -> Result<(UpstreamConn, Response<Incoming>), NoAnswer> {
        let pooled = if is_repetition { None } else { self.pool.take() };
        let Some(mut conn) = pooled else { return Box::pin(self.exchange_anew(request, length)).await };
        let mut error = match conn.send(request).await {
            Ok(response) => return Ok((conn, response)),
            Err(error) => error,
        };
        let Some(request) = error.take_message() else {
            return Err(NoAnswer::of(error.error(), length, &conn));
        };
        // Nothing of the request was sent.
        if conn::is_stray(error.error())
            && let Some(stray) = conn.stray()
        {
            self.pool.distrust(stray);
        }
        Box::pin(self.exchange_anew(request, length)).await
    }

    /// The same on a new connection. In a box where it is awaited: connecting is a large future, and a rare one, and whatever
    /// holds it is copied several times on its way.
    async fn exchange_anew(
        &self,
        request: Request<RequestBody>,
        length: u64,
    ) -> Result<(UpstreamConn, Response<Incoming>), NoAnswer> {
        let mut conn = self
            .pool
            .connect()
            .await
            .map_err(|error| NoAnswer::because(UpstreamError::Unreachable, cause::of(&*error)))?;
        match conn.send(request).await {
            Ok(response) => Ok((conn, response)),
            Err(error) => Err(NoAnswer::of(error.error(), length, &conn)),
        }
    }

    fn min_upload_rate(&self) -> Option<MinRate> {
        (self.upload_rate > 0).then(|| MinRate::new(self.silence, self.upload_rate))
    }

    /// How fast those have to be together who take what upstream sends.
    pub fn min_download_rate(&self) -> MinRate {
        MinRate::new(self.silence, self.download_rate)
    }

    fn limits(&self, response: &Response<Incoming>) -> Limits {
        let is_event_stream = is_event_stream(response.headers());
        Limits {
            is_stream: is_event_stream || response.status() == StatusCode::SWITCHING_PROTOCOLS,
            silence: if is_event_stream { self.stream_silence } else { self.silence },
            stream_after: self.stream_after,
            grace: self.silence,
            download_rate: self.download_rate,
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
        // Without this the client would take content of unknown length in a GET for none (RFC 9112 §6.1).
        if body.size_hint().exact().is_none() {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = path_and_query.into();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// The names by which an upstream may know itself.
pub fn addresses(url: &Uri, host: &HostPolicy) -> Vec<String> {
    let scheme = url.scheme_str().unwrap_or("http");
    let authority = url.authority().and_then(|authority| normalise_authority(scheme, authority.as_str()));
    let fixed = match host {
        HostPolicy::Fixed(host) => host.to_str().ok().map(str::to_ascii_lowercase),
        HostPolicy::Client | HostPolicy::Upstream | HostPolicy::UpstreamByDefault => None,
    };
    authority.into_iter().chain(fixed).collect()
}

/// What contents may take up while they are awaited: so much for each place.
fn buffers(server: &ServerConfig) -> Arc<Shares> {
    let (total, per_client) =
        (server.max_upstream_requests as u64, server.max_upstream_requests_per_client as u64);
    // A QUERY that may be answered from the cache is awaited whole.
    let query = server.max_query_body;
    Shares::new((CONTENT_AHEAD * total).max(query * 4), (CONTENT_AHEAD * per_client).max(query))
}

fn expects_continue(fields: &HeaderMap) -> bool {
    headers::names_token(fields, &header::EXPECT, "100-continue")
}

/// RFC 9110 §10.1.1: content that the client holds back until it is wanted is not asked of it before.
fn hold(body: &mut RequestBody, headers: &HeaderMap) -> Option<Arc<Upload>> {
    let RequestBody::Client(body) = body else { return None };
    if !expects_continue(headers) {
        return None;
    }
    body.upload.0.hold();
    body.patience = Some(Box::pin(tokio::time::sleep(CONTINUE_WAIT)));
    Some(Arc::clone(&body.upload.0))
}

/// No answer, and none is waited for any more: from now on the content cannot become whole. If it was the client who did
/// not send it, that is why there is no answer.
fn given_up(unanswered: NoAnswer, upload: Option<&Upload>) -> NoAnswer {
    let Some(upload) = upload else { return unanswered };
    if unanswered.is_unwritten {
        upload.note_unwritten();
    }
    match upload.fail(UploadFault::GivenUp) {
        Some(fault @ (UploadFault::Slow | UploadFault::Broken)) => UpstreamError::from(fault).into(),
        Some(UploadFault::Unwanted | UploadFault::GivenUp) | None => unanswered,
    }
}

/// Acts on interim responses: a 100 that was expected asks for the content (and the server tells the client so),
/// the others are the client's (RFC 9110 §15.2). Set when one announces content, which it cannot have.
fn listen(
    request: &mut Request<RequestBody>,
    expecting: Option<Arc<Upload>>,
    interim: Option<Interim>,
) -> Arc<AtomicBool> {
    let is_misframed = Arc::<AtomicBool>::default();
    let note = Arc::clone(&is_misframed);
    let method = request.method().clone();
    hyper::ext::on_informational(request, move |response| {
        if framing::announces_impossible_content(&method, response.status(), response.headers()) {
            note.store(true, Ordering::Relaxed);
        }
        match (&expecting, &interim) {
            (Some(upload), _) if response.status() == StatusCode::CONTINUE => upload.release(),
            (_, Some(interim)) => interim.send(response.status(), response.headers()),
            (_, None) => {}
        }
    });
    is_misframed
}

/// Why a response has more than one meaning; none if it has one.
fn fault_of(response: &mut Response<Incoming>, ending: Ending, upgrades: bool) -> Option<&'static str> {
    if !headers::unify_length(response.headers_mut()) {
        return Some("its Content-Length is ambiguous");
    }
    let fields = response.headers();
    let chunked = fields.contains_key(header::TRANSFER_ENCODING);
    // RFC 9112 §6.3: both lengths are a sign of response splitting, "ought to be handled as an error". §6.1: a coding
    // that nobody asked for would be lost on the way. Without content the fields have nothing to say.
    if ending != Ending::Head && chunked && fields.contains_key(header::CONTENT_LENGTH) {
        return Some("it has both Content-Length and Transfer-Encoding");
    }
    if ending != Ending::Head && !headers::is_plainly_framed(fields) {
        return Some("it has a transfer coding that nobody asked for");
    }
    // RFC 9110 §15.2.2
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    (switches && !upgrades).then_some("it switches to a protocol that nobody asked for")
}

/// Bytes that a request has at least.
fn least_length(path_and_query: &str, headers: &HeaderMap, body: &RequestBody) -> u64 {
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (path_and_query.len() + fields) as u64 + body.size_hint().lower()
}

fn is_event_stream(fields: &HeaderMap) -> bool {
    let media_type = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let essence = media_type.and_then(|value| value.split(|byte| *byte == b';').next()).unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

fn host(policy: &HostPolicy, authority: &Authority) -> Host {
    match policy {
        HostPolicy::Client => Host::Client,
        HostPolicy::Fixed(value) => Host::Always(value.clone()),
        HostPolicy::Upstream | HostPolicy::UpstreamByDefault => {
            // An authority without credentials (config refuses them) is made of visible ASCII.
            HeaderValue::from_str(authority.as_str()).map_or(Host::Client, Host::Always)
        }
    }
}
