//! Listeners, connections, and shutdown: stop accepting, finish requests, then writes and their invalidations.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, lazy};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::admin;
use crate::client_conn::timeouts::ClientTimeouts;
use crate::client_conn::{Busy, ClientConn};
use crate::config::{Config, ServerConfig};
use crate::hooked_stream::HookedStream;
use crate::jwt::KeyFileFault;
use crate::metrics::Metrics;
use crate::monitor;
use crate::proxy::{self, Body, Handled, stall, suspects};
use crate::running::Running;
use crate::store::Store;
use crate::store::redis::{ConnectFault, RedisStore, SetupFault};
use crate::supervise::supervise;
use crate::traces::{Traces, TracesFault};
use crate::upstream::{LEAST_LINE, Upstream, UpstreamFault};
use crate::warm;
use crate::watch;

mod admission;
pub mod descriptors;
mod exchanges;
mod frames;
mod head_limits;
mod heads;
mod http1;
mod itself;
mod linger;
mod refuse;
mod streams;
mod tracked;
mod turns;
mod workers;

use admission::{Admission, Held, Ticket};
use descriptors::Fit;
use exchanges::Exchanges;
use head_limits::HeadLimits;
use http1::Http1Hooks;
use linger::{LastRequest, Linger};
use refuse::Refuser;
use streams::{Runner, Streams};
use tracked::Tracked;
use workers::Workers;

/// Most concurrent streams of an HTTP/2 connection: RFC 9113 §6.5.2 recommends at least 100.
const STREAMS: u32 = 100;
/// hyper's buffer for an HTTP/2 stream that its client does not read, beyond one body frame, bytes.
const SEND_BUFFER: usize = 64 << 10;
/// Most streams that an HTTP/2 client may open and reset before they are accepted; beyond it the connection ends with
/// `ENHANCE_YOUR_CALM`. A reset costs the client less than it costs the server (rapid reset).
const PENDING_RESETS: usize = 20;
/// Most streams that Larder resets because of a client's errors, before it ends the connection.
const LOCAL_RESETS: usize = 256;
/// Longest wait at start until entries in Redis may be served.
const READY_WITHIN: Duration = Duration::from_millis(500);

/// Length of the accept queue; the kernel limits it to `net.core.somaxconn`. When it is full, a client's SYN is dropped and
/// retried after a second, which happens soon with the standard library's 128.
const BACKLOG: u32 = 65_535;
/// Pause after a failed accept, so as not to spin while there are no descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bound sockets: for clients and for the admin.
#[derive(Debug)]
pub struct Listeners {
    pub public: TcpListener,
    pub admin: TcpListener,
}

/// Why Larder cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "cannot listen on {address}: {source}; choose another address with {flag}, or stop the process that uses it"
    )]
    Listen { address: SocketAddr, flag: &'static str, source: io::Error },
    #[error("no upstream: set the URL of the API with --upstream http://HOST:PORT or [server] upstream")]
    NoUpstream,
    #[error(
        "{0} invalidated tags could not be written to Redis: other proxies may serve entries with these tags until they \
         expire; purge the cache when Redis is back (POST /cache/clear)"
    )]
    Undelivered(usize),
    #[error(
        "upstream {upstream} is this Larder itself, which listens on {listen}; set [server] upstream or --upstream to the \
         address of the API"
    )]
    Itself { upstream: http::Uri, listen: SocketAddr },
    #[error(transparent)]
    Descriptors(#[from] descriptors::TooFew),
    #[error(transparent)]
    Upstream(#[from] UpstreamFault),
    #[error(transparent)]
    Keys(#[from] KeyFileFault),
    #[error(transparent)]
    Traces(#[from] TracesFault),
    #[error(transparent)]
    StoreSetup(#[from] SetupFault),
    #[error(transparent)]
    Store(#[from] ConnectFault),
    #[error("cannot start the threads that serve connections: {0}")]
    Workers(#[source] io::Error),
}

impl Listeners {
    /// # Errors
    ///
    /// `upstream` leads to the public listener.
    pub async fn check_upstream(&self, config: &Config) -> Result<(), ServeError> {
        match (&config.server.upstream, self.public.local_addr()) {
            (Some(upstream), Ok(listen)) if itself::is_upstream(upstream, listen).await => {
                Err(ServeError::Itself { upstream: upstream.clone(), listen })
            }
            _ => Ok(()),
        }
    }

    /// Binds both addresses of the configuration.
    pub fn bind(config: &Config) -> Result<Listeners, ServeError> {
        let public = listen(config.server.listen, "--listen")?;
        let admin = listen(admin::auth::address(&config.admin), "--admin")?;
        Ok(Listeners { public, admin })
    }
}

fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServeError> {
    let listening = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening().map_err(|source| ServeError::Listen { address, flag, source })
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every invalidation has reached Redis (or there is none).
    Clean,
    /// So many invalidated tags could not be written to Redis.
    Undelivered(usize),
}

/// Serves until `shutdown` resolves, then drains for at most `drain_timeout`: accepted requests are answered, those of the admin
/// too, and writes in progress are finished together with their invalidations.
///
/// # Errors
///
/// The threads that serve connections cannot be started.
pub async fn run(
    running: Arc<Running>,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, ServeError> {
    let stop = CancellationToken::new();
    // They live until the last write has ended, which may go on without its connection.
    let workers = Arc::new(Workers::start(workers::count()).map_err(ServeError::Workers)?);
    let watching = watch::watch(&running);
    let sweeping = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&running).sweep()));
    let warmed = Arc::clone(&running);
    let warming = supervise("warming", Arc::clone(&running.metrics), move || warm::run(Arc::clone(&warmed)));
    let keys = running.live().jwt.clone();
    let _refreshing =
        keys.map(|keys| supervise("jwks", Arc::clone(&running.metrics), move || Arc::clone(&keys).refresh()));
    let monitoring = monitor(&running);
    let _tokens = token_files(&running);
    let logged = Arc::clone(&running);
    // Until the last write is answered.
    let _logging = supervise("log", Arc::clone(&running.metrics), move || {
        let running = Arc::clone(&logged);
        async move { running.cache.follow_log().await }
    });
    // Until the last request is answered.
    let _suspecting = AbortOnDropHandle::new(tokio::spawn(suspects::invalidate_all(Arc::clone(&running))));
    let admin = admin::serve(Arc::clone(&running), listeners.admin, stop.clone());
    let admin = AbortOnDropHandle::new(tokio::spawn(admin));
    let accepting = accept(Arc::clone(&running), listeners.public, Arc::clone(&workers), stop.clone());
    let public = AbortOnDropHandle::new(tokio::spawn(accepting));
    shutdown.await;
    tracing::info!("shutting down: finishing requests and writes");
    stop.cancel();
    drop((watching, sweeping, warming, monitoring));
    drain(&running, public, admin).await;
    if let Some(traces) = &running.traces {
        traces.finish().await;
    }
    Ok(match running.cache.undelivered() {
        0 => Ended::Clean,
        tags => Ended::Undelivered(tags),
    })
}

fn monitor(running: &Arc<Running>) -> AbortOnDropHandle<()> {
    let watched = Arc::clone(running);
    supervise("monitor", Arc::clone(&running.metrics), move || monitor::watch(Arc::clone(&watched)))
}

fn token_files(running: &Arc<Running>) -> AbortOnDropHandle<()> {
    let running = Arc::clone(running);
    let metrics = Arc::clone(&running.metrics);
    supervise("tokens", metrics, move || {
        let running = Arc::clone(&running);
        async move { running.tokens.follow_files().await }
    })
}

/// Builds everything that serves requests from a configuration.
///
/// # Errors
///
/// No upstream, too few descriptors, a file of `[jwt]` or a `[traces]` that cannot be used, or a store that rejects the configuration. An unreachable store is no error: requests go to
/// upstream until it is reachable.
pub async fn assemble(config: Config) -> Result<Arc<Running>, ServeError> {
    let url = config.server.upstream.clone().ok_or(ServeError::NoUpstream)?;
    let server = ServerConfig { max_upstream_streams: fit(&config.server)?.streams, ..config.server.clone() };
    let upstream = Upstream::new(&url, &server)?;
    let (mut is_connected, metrics) = (false, Arc::new(Metrics::new()));
    let store: Option<Arc<dyn Store>> = match &config.store {
        Some(config) => {
            let store = RedisStore::new(config)?.counted_in(&metrics);
            match store.connect_once().await {
                Err(fault @ ConnectFault::Rejected { .. }) => return Err(fault.into()),
                Err(fault) => {
                    tracing::warn!(%fault, "starting without Redis; it is used once it is reachable");
                }
                Ok(()) => is_connected = true,
            }
            Some(Arc::new(store))
        }
        None => None,
    };
    let mut running = Running::new(config, upstream, store, Arc::clone(&metrics));
    running.traces = match &running.config.traces {
        Some(traces) => Some(Traces::start(traces, &metrics)?),
        None => None,
    };
    let running = Arc::new(running);
    if let Some(jwt) = &running.live().jwt {
        jwt.start().await?;
    }
    if is_connected {
        // So that the first requests may be served from Redis. Not longer: other proxies may have died.
        let _ = tokio::time::timeout(READY_WITHIN, running.cache.ready()).await;
        // So that proxies with other rules know of this one before it answers anything.
        running.cache.rules_settled().await;
    }
    Ok(running)
}

/// The connections and streams that fit into the process's limit of descriptors.
fn fit(server: &ServerConfig) -> Result<Fit, descriptors::TooFew> {
    let (requests, streams) = (server.max_upstream_requests, server.max_upstream_streams);
    descriptors::fit(descriptors::limit(), server.max_connections, (requests, streams), workers::count())
}

/// Accepts until `stop`, then waits for the connections to finish.
async fn accept(running: Arc<Running>, listener: TcpListener, workers: Arc<Workers>, stop: CancellationToken) {
    let server = &running.config.server;
    // `assemble` has checked this; the limit may have been lowered since.
    let fit = fit(server).unwrap_or_else(|fault| Fit { connections: fault.room.max(1), streams: 0 });
    let most = fit.connections;
    tracing::info!(
        max_connections = most,
        configured = server.max_connections,
        descriptors = descriptors::limit(),
        max_upstream_requests = server.max_upstream_requests,
        max_upstream_streams = fit.streams,
        "the limit of open descriptors allows this many client connections"
    );
    let (admission, refuser) = (Admission::new(server, most, &running.metrics), Refuser::new());
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // The client closed the connection before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                admission.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match admission.admit(peer.ip()).await {
            Ok(ticket) => {
                let (running, end) = (Arc::clone(&running), stop.child_token());
                let serve =
                    move |stream| async move { connection(&running, stream, peer.ip(), end, ticket).await };
                if let Err(error) = workers.serve(&connections, stream, serve) {
                    tracing::warn!(%error, "cannot serve a connection");
                }
            }
            Err(over) => refuser.refuse(stream, over),
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves a connection until its client closes it, or until its requests are answered after `end`.
async fn connection(
    running: &Arc<Running>,
    stream: TcpStream,
    client: IpAddr,
    end: CancellationToken,
    ticket: Ticket,
) {
    let _ = stream.set_nodelay(true);
    let server = &running.config.server;
    let (exchanges, streams, last) = (Arc::<Exchanges>::default(), Streams::new(), Arc::<LastRequest>::default());
    let conn = Arc::clone(&ticket.0);
    let idle = Idle {
        streams: Arc::clone(&streams),
        connection: Arc::clone(&conn.connection),
        timeout: server.header_timeout,
    };
    let (watch, ending) = (idle.clone(), end.clone());
    // The stream holds the ticket: an upgraded connection outlives this function.
    let stream = HookedStream::new(stream, Linger::new(Arc::clone(&last), ticket));
    let http2_last = Arc::clone(&last);
    let timeouts = ClientTimeouts::new(server.idle_timeout, server.header_timeout)
        .with_heads_within(server.header_timeout, &conn.connection);
    let timeouts = timeouts.when_http2(move || {
        http2_last.begin(false);
        watch.streams.set_http2();
        AbortOnDropHandle::new(tokio::spawn(async move {
            watch.watch().await;
            ending.cancel();
        }))
    });
    let stream = HookedStream::new(stream, timeouts);
    let stream = HookedStream::new(stream, HeadLimits::new(&conn, &streams));
    let stream = HookedStream::new(stream, Http1Hooks::new(Arc::clone(&exchanges)));
    let rejecting = Arc::clone(&exchanges);
    let service = service_fn(|mut request: Request<Incoming>| {
        let busy = conn.begin(request.headers());
        if !request.body().is_end_stream() {
            // Its content may still arrive when it has been answered.
            request.extensions_mut().insert(Arc::clone(&conn.connection));
        }
        // Checked before anything is allocated for the request.
        let admitted = match request.version() {
            // hyper counts this stream as open only later.
            Version::HTTP_2 => conn.streams(streams.open() + 1).and_then(|()| conn.hold_stream_head(&request)),
            _ => Ok(None),
        };
        let handled = match admitted {
            Ok(head) => begin(running, request, client, (&exchanges, &last), head),
            Err(over) => Handled::Response(refuse::response(over)),
        };
        match handled {
            Handled::Response(response) => {
                let response = tracked(running, busy, response);
                Either::Left(lazy(|_| {
                    // Runs in the task of an HTTP/2 stream, whose stall state is task-local.
                    stall::give();
                    response
                }))
            }
            Handled::Later(work) => {
                let running = Arc::clone(running);
                // Boxed: hyper moves the future several times.
                Either::Right(Box::pin(async move { tracked(&running, busy, work.await) }))
            }
        }
    });
    let builder = builder(server, Runner::new(&streams, server.idle_timeout));
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let served = tokio::select! {
        biased;
        served = &mut serving => served,
        () = conn.connection.evicted() => {
            tracing::debug!(%client, "idle connection closed to make room");
            last.evict();
            return;
        }
        () = end.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving => served,
                // RFC 9113 §6.8: a client that ignores GOAWAY.
                () = idle.watch(), if streams.is_http2() => Ok(()),
                () = conn.connection.evicted() => {
                    last.evict();
                    return;
                }
            }
        }
    };
    // The connection has ended, or is upgraded.
    conn.connection.keep();
    if let Some(rejection) = rejecting.rejection() {
        proxy::record_refusal(running, rejection.status, rejection.reason);
    }
    if let Err(error) = served {
        tracing::debug!(%client, error, "connection ended");
    }
}

/// Ends an HTTP/2 connection without open streams. hyper limits the time until the next request for HTTP/1 only.
#[derive(Clone)]
struct Idle {
    streams: Arc<Streams>,
    connection: Arc<ClientConn>,
    timeout: Duration,
}

impl Idle {
    /// Returns when nothing has been in progress for the timeout. Content of a stream may still arrive when it has been
    /// answered.
    async fn watch(&self) {
        loop {
            self.streams.idle_for(self.timeout).await;
            if !self.connection.is_busy() {
                return;
            }
        }
    }
}

/// The response to hyper. It never fails.
fn tracked(running: &Running, busy: Busy, response: Response<Body>) -> Result<Response<Tracked>, Infallible> {
    Ok(response.map(|body| Tracked { body: body.bounded(&running.bodies), busy }))
}

/// Begins to answer a request. `head` is held until it is answered.
fn begin(
    running: &Arc<Running>,
    request: Request<Incoming>,
    client: IpAddr,
    (exchanges, last): (&Arc<Exchanges>, &Arc<LastRequest>),
    head: Option<Held>,
) -> Handled {
    let (version, is_connect) = (request.version(), request.method() == http::Method::CONNECT);
    // HTTP/2 resets the one stream whose content is not read.
    last.begin(version != Version::HTTP_2 && !request.body().is_end_stream());
    exchanges.note_request();
    // RFC 9110 §15.2: HTTP/1.0 has no interim responses. HTTP/2 has, but hyper's server cannot send them.
    let has_interim = version == Version::HTTP_11;
    let interim = has_interim.then(|| exchanges.interim.begin());
    let note = move |exchanges: &Exchanges, last: &LastRequest, response: &Response<Body>| {
        if version == Version::HTTP_10 && response.body().size_hint().exact().is_none() {
            last.end_with_connection();
        }
        let status = response.status();
        exchanges.note_response(status == StatusCode::SWITCHING_PROTOCOLS || is_connect && status.is_success());
    };
    match proxy::handle(running, request, client, interim) {
        Handled::Response(response) => {
            exchanges.interim.end();
            note(exchanges, last, &response);
            Handled::Response(response)
        }
        Handled::Later(work) => {
            let (exchanges, last) = (Arc::clone(exchanges), Arc::clone(last));
            Handled::Later(Box::pin(async move {
                let _head = head;
                let response = if has_interim { exchanges.interim.finish(work).await } else { work.await };
                note(&exchanges, &last, &response);
                stall::give();
                response
            }))
        }
    }
}

fn builder(server: &ServerConfig, runner: Runner) -> Builder<Runner> {
    let (header_timeout, max_head) = (server.header_timeout, server.max_head);
    let mut builder = Builder::new(runner);
    builder
        .http1()
        // [`ClientTimeouts`]
        .header_read_timeout(None)
        // RFC 9112 §3 asks for 8000 bytes for the request line alone.
        .max_buf_size(max_head)
        // The limit is in bytes, hyper's in fields.
        .max_headers(max_head / LEAST_LINE)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(header_timeout))
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX));
    builder
}

/// Waits, within `drain_timeout`, for connections of clients and of the admin, then for fetches and writes, then for invalidations
/// that are not yet in Redis.
async fn drain(running: &Arc<Running>, public: AbortOnDropHandle<()>, admin: AbortOnDropHandle<()>) {
    let finish = async {
        let _ = tokio::join!(public, admin);
        running.tasks.close();
        running.tasks.wait().await;
        while !running.cache.deliver_now().await {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    };
    if tokio::time::timeout(running.config.server.drain_timeout, finish).await.is_ok() {
        return running.cache.leave().await;
    }
    // Upstream may yet carry out what it has not answered.
    let unanswered = running.cache.unanswered();
    if !unanswered.is_empty() {
        running.cache.invalidate_at_once(&unanswered, running.config.server.reinvalidate_after).await;
    }
    tracing::warn!(
        requests = running.tasks.len(),
        invalidated_tags = unanswered.len(),
        undelivered_tags = running.cache.undelivered(),
        "drain_timeout is over: closing the connections that are left, and aborting their requests"
    );
    running.cache.leave().await;
}
