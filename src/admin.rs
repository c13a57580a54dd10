//! The admin: an HTTP API on a listener of its own for operators and their tools.
//!
//! Each group of routes is a file. Its handlers declare with `#[utoipa::path]` what they take and answer, and [`openapi::router`] joins
//! them. All that must know the routes reads these declarations ([`routes::Routes`]): the index, [`openapi`], the check of parameters
//! and content ([`unknown`]), and the errors for what is not there. [`report`] defines JSON that several of them share; [`auth`] checks
//! tokens and roles.
//!
//! Every response but pages, metrics and the liveness probe is JSON; every error says what to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::client::Client;
use crate::client_conn::timeouts::ClientTimeouts;
use crate::client_conn::{Busy, ClientConn, ClientConns};
use crate::hooked_stream::HookedStream;
use crate::running::Running;
use crate::tokens::{TokenTurn, WrongTokens};

pub mod auth;
pub mod bypass;
pub mod caller;
pub mod dashboard;
pub mod entries;
pub mod events;
pub mod explain;
pub mod exposition;
pub mod families;
pub mod fleet;
pub mod health;
pub mod history;
pub mod index;
pub mod invalidate;
pub mod key_stats;
pub mod log;
mod named;
pub mod openapi;
pub mod purge;
pub mod refusal;
pub mod report;
pub mod routes;
pub mod rules;
pub mod rules_diff;
pub mod self_test;
pub mod state;
pub mod statistics;
pub mod story;
pub mod top;
pub mod unknown;
mod walk;
pub mod warm;
pub mod writes;

use auth::AdminCaller;
use refusal::Refusal;
use routes::Routes;
use state::AdminState;

/// Most connections. A new one replaces one that is idle.
const CONNECTIONS: usize = 64;
/// Largest request head, bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Pause after an accept that failed for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest time that a client may not read a response.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long a new connection waits for another to end when none is idle.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// The peer of the connection.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// An open connection, until it is dropped.
struct Opened {
    open: Arc<ClientConns>,
    connection: Arc<ClientConn>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.open.close(&self.connection);
    }
}

/// Serves the admin until it is shut down, then finishes the requests that have begun. It has a thread of its own, so that probes are
/// answered under any load; other routes run on the caller's runtime.
pub async fn serve(running: Arc<Running>, listener: TcpListener, stop: CancellationToken) {
    let header_timeout = running.config.server.header_timeout;
    let events = Arc::clone(&running.cache.log().events);
    let router = router(running);
    let (ended, end) = oneshot::channel();
    let begin = || -> io::Result<()> {
        let listener = listener.into_std()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept_all(router, listener, header_timeout, stop, &events.ended).await,
                Err(error) => tracing::error!(%error, "the admin cannot listen"),
            }
        };
        let thread = std::thread::Builder::new().name("admin".to_owned());
        thread.spawn(move || {
            runtime.block_on(serve);
            let _ = ended.send(());
        })?;
        Ok(())
    };
    match begin() {
        // An error means that the thread has ended.
        Ok(()) => drop(end.await),
        Err(error) => tracing::error!(%error, "the admin cannot be served"),
    }
}

/// `ended`: cancelled at the end, for responses that would go on.
async fn accept_all(
    router: Router,
    listener: TcpListener,
    header_timeout: Duration,
    stop: CancellationToken,
    ended: &CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let open = Arc::new(ClientConns::new());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the admin cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !has_room(&mut connections, &open).await {
            continue;
        }
        let opened = Opened { open: Arc::clone(&open), connection: open.open(Client::at(peer.ip())) };
        connections.spawn(connection(
            router.clone(),
            stream,
            Peer(peer),
            header_timeout,
            graceful.watcher(),
            opened,
        ));
    }
    drop(listener);
    ended.cancel();
    graceful.shutdown().await;
}

/// Whether one more connection may be served. If all are in use, an idle one is closed.
async fn has_room(connections: &mut JoinSet<()>, open: &ClientConns) -> bool {
    while connections.try_join_next().is_some() {}
    if connections.len() < CONNECTIONS {
        return true;
    }
    open.evict_of_largest();
    tokio::time::timeout(ROOM_WITHIN, connections.join_next()).await.is_ok()
}

/// `header_timeout`: for a request head, and between requests.
async fn connection(
    router: Router,
    stream: TcpStream,
    peer: Peer,
    header_timeout: Duration,
    watcher: Watcher,
    opened: Opened,
) {
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(Arc::clone(&opened.connection));
        router.call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(HEAD_MAX);
    let stream = TokioIo::new(HookedStream::new(stream, ClientTimeouts::new(WRITE_WITHIN, header_timeout)));
    let served = tokio::select! {
        served = watcher.watch(builder.serve_connection(stream, service)) => served,
        () = opened.connection.evicted() => return,
    };
    if let Err(error) = served {
        tracing::debug!(target: "larder::admin", peer = %peer.0, %error, "connection ended");
    }
}

fn router(running: Arc<Running>) -> Router {
    let (router, document) = openapi::router().split_for_parts();
    let routes = Arc::new(Routes::of(&document));
    // Every part of it can be written as JSON.
    let json = |document: &utoipa::openapi::OpenApi| document.to_pretty_json().unwrap_or_default();
    let descriptions = [json(&document), json(&openapi::without_tokens(document))];
    let gate = Gate {
        wrong_tokens: WrongTokens::new(Instant::now()),
        running: Arc::clone(&running),
        routes: Arc::clone(&routes),
        work: Handle::current(),
    };
    router
        .route_layer(middleware::from_fn_with_state(Arc::clone(&routes), unknown::refuse))
        .fallback(index::unknown)
        .method_not_allowed_fallback(index::wrong_method)
        .with_state(Arc::new(AdminState::new(running, routes, descriptions)))
        .layer(middleware::from_fn_with_state(Arc::new(gate), pass))
        // Outermost: its files need no token.
        .layer(middleware::from_fn(dashboard::serve))
}

/// What is checked before every route.
struct Gate {
    wrong_tokens: WrongTokens,
    running: Arc<Running>,
    routes: Arc<Routes>,
    /// The runtime for all routes but probes.
    work: Handle,
}

impl Gate {
    /// When the token of a request is compared. Later, if its client has sent too many wrong ones.
    fn turn(&self, request: &Request) -> TokenTurn {
        let needs_token = !self.is_open(request) && auth::has_token(&self.running.tokens, request.headers());
        if needs_token { self.wrong_tokens.turn(client(request), Instant::now()) } else { TokenTurn::Now }
    }

    fn is_open(&self, request: &Request) -> bool {
        self.routes.is_open(request.method(), request.uri().path())
    }

    /// The caller.
    fn decide(&self, request: &Request) -> Result<AdminCaller, auth::Denied> {
        if self.is_open(request) {
            return Ok(AdminCaller::Anyone);
        }
        let client = client(request);
        let live = self.running.live();
        let access = auth::Access { tokens: &self.running.tokens, hosts: &live.admin_hosts };
        let route = request.extensions().get::<MatchedPath>();
        let route = route.and_then(|route| self.routes.find(request.method(), route.as_str()));
        let is_of_families = route.is_some_and(|route| route.access == routes::RequiredAccess::Families);
        let decided = access.decide(request.method(), request.uri(), request.headers(), is_of_families);
        match &decided {
            Err(auth::Denied::WrongToken) => {
                self.running.metrics.admin_wrong_tokens.inc();
                self.wrong_tokens.note_wrong(client, Instant::now());
            }
            Ok(AdminCaller::Bearer(_)) => self.wrong_tokens.note_right(client),
            _ => {}
        }
        decided
    }

    fn refuse(&self, request: &Request, denied: auth::Denied) -> Response {
        let (caller, is_guess) = (denied.caller(), denied == auth::Denied::WrongToken);
        let response = Refusal::from(denied).into_response();
        // Wrong tokens must not fill the log.
        if (is_guess || !request.method().is_safe())
            && let Some(unlogged) = self.wrong_tokens.may_log(Instant::now())
        {
            if is_guess {
                let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
                tracing::warn!(
                    target: "larder::admin",
                    peer = peer.map(tracing::field::display),
                    unlogged,
                    "a request with a token that is not known"
                );
            }
            if !request.method().is_safe() {
                log(&AuditLine::of(request), caller.as_ref(), response.status());
            }
        }
        response
    }
}

fn client(request: &Request) -> Client {
    request.extensions().get::<Peer>().map_or(Client::LARDER, |peer| Client::at(peer.0.ip()))
}

async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    match gate.turn(&request) {
        TokenTurn::Now => {}
        // Its connection may be closed meanwhile.
        TokenTurn::After(wait) => tokio::time::sleep(wait).await,
        TokenTurn::Refused(wait) => return finish(too_many_tokens(wait).into_response()),
    }
    let caller = match gate.decide(&request) {
        Ok(caller) => caller,
        Err(denied) => return finish(gate.refuse(&request, denied)),
    };
    if caller == AdminCaller::Anyone {
        return finish(next.run(request).await);
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    request.extensions_mut().insert(auth::Caller { caller: caller.clone(), peer });
    let _busy: Option<Busy> = request.extensions().get::<Arc<ClientConn>>().map(ClientConn::begin);
    let done = if request.method().is_safe() {
        AbortOnDropHandle::new(gate.work.spawn(next.run(request))).await
    } else {
        // A change is completed and logged even if its caller leaves.
        gate.running.tasks.spawn_on(change(request, next, caller), &gate.work).await
    };
    finish(done.unwrap_or_else(|_| aborted().into_response()))
}

fn too_many_tokens(wait: Duration) -> Refusal {
    let error =
        "too many requests of this address wait for their tokens to be compared, since it has sent wrong ones";
    let what_to_do = "send one request after the other, with a token of [admin] tokens or LARDER_ADMIN_TOKEN";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, error, what_to_do).retry_after(wait)
}

async fn change(request: Request, next: Next, caller: AdminCaller) -> Response {
    let line = AuditLine::of(&request);
    let response = next.run(request).await;
    log(&line, Some(&caller), response.status());
    response
}

/// What is logged of a request that changes something. Without the query, which may hold a token.
struct AuditLine {
    method: http::Method,
    route: Option<MatchedPath>,
    path: String,
    peer: Option<SocketAddr>,
}

impl AuditLine {
    fn of(request: &Request) -> AuditLine {
        AuditLine {
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            path: request.uri().path().to_owned(),
            peer: request.extensions().get::<Peer>().map(|peer| peer.0),
        }
    }
}

/// Logs each attempt to change something. `caller`: none if the request has no token that is known.
fn log(line: &AuditLine, caller: Option<&AdminCaller>, status: StatusCode) {
    tracing::info!(
        target: "larder::admin",
        method = %line.method,
        route = line.route.as_ref().map(MatchedPath::as_str),
        path = line.path,
        token = caller.and_then(AdminCaller::token).map(|token| token.name.as_str()),
        role = caller.map_or("none", AdminCaller::role),
        peer = line.peer.map(tracing::field::display),
        status = status.as_u16(),
        outcome = if status.is_success() { "done" } else { "refused" },
        "admin request"
    );
}

fn aborted() -> Refusal {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Refusal::new(status, "the request was aborted", "send it again; if it is aborted again, look at the log")
}

/// Responses are not cacheable, and their type is not sniffed.
fn finish(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
