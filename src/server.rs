//! Listeners, accepting, and shutdown: stop accepting, finish what runs, finish writes and their invalidations.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

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
use crate::config::{Config, ServerConfig};
use crate::metrics::Metrics;
use crate::proxy::{self, Body, stall, suspects};
use crate::running::Running;
use crate::server::connections::Connection;
use crate::server::connections::stall::Unstalled;
use crate::store::Store;
use crate::store::redis::{ConnectFault, RedisStore, SetupFault};
use crate::upstream::interim::Line;
use crate::upstream::{LEAST_LINE, Upstream, UpstreamFault};
use crate::watch;

mod admission;
mod chunks;
pub(crate) mod connections;
mod counted;
pub mod descriptors;
mod early;
mod frames;
mod heads;
mod itself;
mod linger;
mod refuse;
mod streams;
mod tracked;

use admission::{Admission, Ticket};
use counted::Counted;
use descriptors::Fit;
use early::Early;
use linger::{LastRequest, Lingering};
use refuse::Refuser;
use streams::{Runner, Streams};
use tracked::Tracked;

/// Streams at a time on an HTTP/2 connection: RFC 9113 §6.5.2 recommends no fewer than 100.
const STREAMS: u32 = 100;
/// What is kept, beyond the piece that a body gives at once, for a stream that its client does not take, bytes.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that an HTTP/2 client may have opened and reset before they were taken up; one more, and the connection ends
/// with `ENHANCE_YOUR_CALM`. Resets are cheaper to send than what they undo: a client that only does that is no client.
const PENDING_RESETS: usize = 20;
/// Streams that Larder itself may have had to reset because of what an HTTP/2 client did on them, before it ends the
/// connection.
const LOCAL_RESETS: usize = 256;
/// How long a start waits until what is in the store may be believed.
const READY_WITHIN: Duration = Duration::from_millis(500);

/// Connections that wait to be accepted; the kernel takes its own limit where that is less (`net.core.somaxconn`). Beyond
/// it a client's first packet is dropped, and it tries again after a second: the standard library's 128 are soon full.
const BACKLOG: u32 = 65_535;
/// Pause after an accept that failed for want of descriptors, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bound sockets: for clients and for the admin.
#[derive(Debug)]
pub struct Listeners {
    pub public: TcpListener,
    pub admin: TcpListener,
}

/// Why Larder cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}; choose another address with {flag}, or stop what uses it")]
    Listen { address: SocketAddr, flag: &'static str, source: io::Error },
    #[error(
        "no upstream: say which API to stand in front of with --upstream http://HOST:PORT or [server] upstream"
    )]
    NoUpstream,
    #[error(
        "the store could not be told of {0} invalidated tags: others may serve what they invalidate until its time is over; \
         clear the cache when the store is back (POST /cache/clear)"
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
    StoreSetup(#[from] SetupFault),
    #[error(transparent)]
    Store(#[from] ConnectFault),
}

impl Listeners {
    /// # Errors
    ///
    /// Upstream is the address that clients connect to.
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
    /// Every invalidation has reached the store (or there is none).
    Clean,
    /// The store is still to be told of so many tags, and will not be.
    Undelivered(usize),
}

/// Serves until `shutdown` resolves, then drains for at most `drain_timeout` and returns. Everything that was
/// accepted is answered, and every write that was begun is finished together with its invalidations.
///
pub async fn run(running: Arc<Running>, listeners: Listeners, shutdown: impl Future<Output = ()>) -> Ended {
    let stop = CancellationToken::new();
    let watching = watch::watch(&running);
    let sweeping = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&running).sweep()));
    // As long as requests are answered.
    let _suspecting = AbortOnDropHandle::new(tokio::spawn(suspects::invalidate_all(Arc::clone(&running))));
    let admin = tokio::spawn(admin::serve(Arc::clone(&running), listeners.admin, stop.clone()));
    let public = tokio::spawn(accept(Arc::clone(&running), listeners.public, stop.clone()));
    shutdown.await;
    tracing::info!("shutting down: finishing what runs");
    stop.cancel();
    drop((watching, sweeping));
    drain(&running, public).await;
    admin.abort();
    match running.cache.undelivered() {
        0 => Ended::Clean,
        tags => Ended::Undelivered(tags),
    }
}

/// Puts the parts together that a configuration asks for.
///
/// # Errors
///
/// No upstream, too few descriptors, or a store that rejects the configuration. A store that is merely away is no error: requests go
/// upstream until it is there.
pub async fn assemble(config: Config) -> Result<Arc<Running>, ServeError> {
    let url = config.server.upstream.clone().ok_or(ServeError::NoUpstream)?;
    let server = ServerConfig { max_upstream_streams: fit(&config.server)?.streams, ..config.server.clone() };
    let upstream = Upstream::new(&url, &server)?;
    let mut is_there = false;
    let store: Option<Arc<dyn Store>> = match &config.store {
        Some(config) => {
            let store = RedisStore::new(config)?;
            match store.connect_once().await {
                Err(fault @ ConnectFault::Rejected { .. }) => return Err(fault.into()),
                Err(fault) => tracing::warn!(%fault, "starting without the store; it is used when it is there"),
                Ok(()) => is_there = true,
            }
            Some(Arc::new(store))
        }
        None => None,
    };
    let running = Arc::new(Running::new(config, upstream, store, Arc::new(Metrics::new())));
    if is_there {
        // The first requests may be answered from the store; but nobody waits long for proxies that died.
        let _ = tokio::time::timeout(READY_WITHIN, running.cache.ready()).await;
    }
    Ok(running)
}

/// What fits among the descriptors of the process.
fn fit(server: &ServerConfig) -> Result<Fit, descriptors::TooFew> {
    let (requests, streams) = (server.max_upstream_requests, server.max_upstream_streams);
    descriptors::fit(descriptors::limit(), server.max_connections, requests, streams)
}

/// Accepts until told to stop, then waits for the connections to finish.
async fn accept(running: Arc<Running>, listener: TcpListener, stop: CancellationToken) {
    let server = &running.config.server;
    // That they fit was looked at before; the limit may have been lowered since.
    let fit = fit(server).unwrap_or_else(|fault| Fit { connections: fault.room.max(1), streams: 0 });
    let most = fit.connections;
    tracing::info!(
        max_connections = most,
        configured = server.max_connections,
        descriptors = descriptors::limit(),
        max_upstream_requests = server.max_upstream_requests,
        max_upstream_streams = fit.streams,
        "connections from clients fit among the descriptors of the process"
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
            // The client has gone before it was accepted.
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
                connections.spawn(async move { connection(&running, stream, peer.ip(), end, ticket).await });
            }
            Err(over) => refuser.refuse(stream, over),
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves a connection until its client ends it, or `end` does when its requests are answered.
async fn connection(
    running: &Arc<Running>,
    stream: TcpStream,
    client: IpAddr,
    end: CancellationToken,
    ticket: Ticket,
) {
    let _ = stream.set_nodelay(true);
    let server = &running.config.server;
    let (line, streams, last) = (Arc::<Line>::default(), Streams::new(), Arc::<LastRequest>::default());
    let place = Arc::clone(&ticket.0);
    let idle = Idle {
        streams: Arc::clone(&streams),
        connection: Arc::clone(&place.connection),
        patience: server.header_timeout,
    };
    let (watch, ending) = (idle.clone(), end.clone());
    // With the stream goes the place: an upgraded connection outlives this function.
    let stream = Lingering::new(stream, Arc::clone(&last), ticket);
    let speaking = Arc::clone(&last);
    let stream = Unstalled::new(stream, server.idle_timeout, server.header_timeout).when_http2(move || {
        speaking.begin(false);
        watch.streams.speak();
        AbortOnDropHandle::new(tokio::spawn(async move {
            watch.watch().await;
            ending.cancel();
        }))
    });
    let stream = Counted::new(stream, &place, &streams);
    let stream = Early::new(stream, Arc::clone(&line));
    let refusing = Arc::clone(&line);
    let service = service_fn(|mut request: Request<Incoming>| {
        let (running, line, last) = (Arc::clone(running), Arc::clone(&line), Arc::clone(&last));
        let held = Arc::clone(&running.held);
        let (place, busy) = (Arc::clone(&place), place.begin(request.headers()));
        if !request.body().is_end_stream() {
            // Its content may go on when it has been answered.
            request.extensions_mut().insert(Arc::clone(&place.connection));
        }
        // Before there is anything of it that may wait.
        let admitted = match request.version() {
            // This stream is not open yet.
            Version::HTTP_2 => place.streams(streams.open() + 1).and_then(|()| place.keep_head(request.headers())),
            _ => Ok(None),
        };
        // In a box: hyper moves the future about.
        Box::pin(async move {
            let response = match admitted {
                Ok(_head) => answer(running, request, client, line, &last).await,
                Err(over) => refuse::response(over),
            };
            Ok::<_, Infallible>(response.map(|body| Tracked { body: body.lent(&held), busy }))
        })
    });
    let builder = builder(server, Runner::new(&streams, server.idle_timeout));
    let mut serving = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let served = tokio::select! {
        biased;
        served = &mut serving => served,
        () = place.connection.evicted() => {
            tracing::debug!(%client, "idle connection closed to make room");
            last.evict();
            return;
        }
        () = end.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                served = serving => served,
                // RFC 9113 §6.8: it was told, and does not go.
                () = idle.watch(), if streams.are_spoken() => Ok(()),
                () = place.connection.evicted() => {
                    last.evict();
                    return;
                }
            }
        }
    };
    // It is over, or upgraded.
    place.connection.keep();
    if let Some(refused) = refusing.refused() {
        proxy::record_refusal(running, refused.status, refused.reason);
    }
    if let Err(error) = served {
        tracing::debug!(%client, error, "connection ended");
    }
}

/// An HTTP/2 connection that ends when no stream is open. hyper's limit for the next head is one of HTTP/1.
#[derive(Clone)]
struct Idle {
    streams: Arc<Streams>,
    connection: Arc<Connection>,
    patience: Duration,
}

impl Idle {
    /// Returns when nothing has been under way for a while: a stream that has been answered may still bring content.
    async fn watch(&self) {
        loop {
            self.streams.idle_for(self.patience).await;
            if !self.connection.is_busy() {
                return;
            }
        }
    }
}

async fn answer(
    running: Arc<Running>,
    request: Request<Incoming>,
    client: IpAddr,
    line: Arc<Line>,
    last: &LastRequest,
) -> Response<Body> {
    let (version, is_connect) = (request.version(), request.method() == http::Method::CONNECT);
    // A stream of HTTP/2 that is not read any more is reset, and the others go on.
    last.begin(version != Version::HTTP_2 && !request.body().is_end_stream());
    line.note_call();
    // RFC 9110 §15.2: HTTP/1.0 has no interim responses. HTTP/2 has, but hyper's server cannot send them.
    if version != Version::HTTP_11 {
        let response = proxy::handle(&running, request, client, None).await;
        if version == Version::HTTP_10 && response.body().size_hint().exact().is_none() {
            last.end_with_connection();
        }
        line.note_answer(false);
        stall::give();
        return response;
    }
    let response = line.answer(|interim| proxy::handle(&running, request, client, Some(interim))).await;
    let status = response.status();
    line.note_answer(status == StatusCode::SWITCHING_PROTOCOLS || is_connect && status.is_success());
    response
}

fn builder(server: &ServerConfig, runner: Runner) -> Builder<Runner> {
    let (header_timeout, max_head) = (server.header_timeout, server.max_head);
    let mut builder = Builder::new(runner);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        // RFC 9112 §3 asks for 8000 bytes for the request line alone.
        .max_buf_size(max_head)
        // The limit is in bytes.
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

/// Waits, within `drain_timeout`, for connections, then for fills and writes, then for invalidations that the store
/// has not taken.
async fn drain(running: &Arc<Running>, public: tokio::task::JoinHandle<()>) {
    let finish = async {
        let _ = public.await;
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
    let unanswered = running.unanswered.tags();
    if !unanswered.is_empty() {
        running.cache.invalidate_at_once(&unanswered, running.config.server.reinvalidate_after).await;
    }
    tracing::warn!(
        requests = running.tasks.len(),
        invalidated_tags = unanswered.len(),
        undelivered_tags = running.cache.undelivered(),
        "drain_timeout is over: ending what still runs"
    );
    running.cache.leave().await;
}
