//! The admin: an HTTP API on a listener of its own for operators and their tools. [`routes::ROUTES`] lists what there
//! is, [`api`] and [`explain`] do it, [`report`] names the fields, [`auth`] decides who may.
//!
//! Every answer but metrics and the liveness probe is JSON; every error says what to do. No route reads a request
//! body; one that is sent is left unread, and the connection closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::running::Running;

pub mod api;
pub mod auth;
pub mod census;
pub mod desk;
pub mod explain;
pub mod fleet;
pub mod refusal;
pub mod report;
pub mod routes;
pub mod trial;

use auth::{Caller, Guard};
use desk::Desk;
use refusal::Refusal;

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Largest request head, bytes.
const HEAD_MAX: usize = 64 * 1024;
/// Pause after an accept that failed for want of descriptors, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// Serves the admin until told to stop, then finishes the requests that were begun.
pub async fn serve(running: Arc<Running>, listener: TcpListener, stop: CancellationToken) {
    let patience = running.config.server.header_timeout;
    let router = router(running);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer, place) = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let serving = connection(router.clone(), stream, Peer(peer), patience, graceful.watcher());
        connections.spawn(async move {
            serving.await;
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            Err(error) => {
                tracing::warn!(%error, "the admin cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// `patience`: for a request head, and between requests.
async fn connection(router: Router, stream: TcpStream, peer: Peer, patience: Duration, watcher: Watcher) {
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEAD_MAX);
    if let Err(error) = watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await {
        tracing::debug!(target: "larder::admin", peer = %peer.0, %error, "connection ended");
    }
}

fn router(running: Arc<Running>) -> Router {
    let gate = Gate { guard: Guard::new(&running.config.admin.tokens), running: Arc::clone(&running) };
    Router::new()
        .route("/", get(api::index))
        .route("/cache/health", get(api::health))
        .route("/cache/health/detailed", get(api::detailed_health))
        .route("/cache/stats", get(api::stats))
        .route("/cache/test", get(api::test))
        .route("/cache/families", get(api::families))
        .route("/cache/fleet", get(fleet::fleet))
        .route("/cache/explain", get(explain::explain))
        .route("/cache/clear", post(api::clear_all))
        .route("/cache/clear/{family}", post(api::clear_family))
        .route("/cache/clear/{family}/{instance}", post(api::clear_instance))
        .route("/cache/groups/{group}/clear", post(api::clear_group))
        .route("/rules", get(api::rules))
        .route("/rules/reload", post(api::reload))
        .route("/metrics", get(api::metrics))
        .route("/healthz", get(api::alive))
        .route("/readyz", get(api::ready))
        .fallback(api::unknown)
        .method_not_allowed_fallback(api::wrong_method)
        .with_state(Arc::new(Desk::new(running)))
        .layer(middleware::from_fn_with_state(Arc::new(gate), pass))
}

/// What every request passes.
struct Gate {
    guard: Guard,
    running: Arc<Running>,
}

async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let caller = match gate.guard.decide(request.method(), request.uri(), request.headers()) {
        Ok(caller) => caller,
        Err(denied) => return finish(refuse(&request, denied)),
    };
    if request.method().is_safe() {
        return finish(next.run(request).await);
    }
    // A change is carried through, and logged, whether or not its caller waits for the answer.
    let changing = gate.running.tasks.spawn(change(request, next, caller));
    finish(changing.await.unwrap_or_else(|_| broken_off().into_response()))
}

fn refuse(request: &Request, denied: auth::Denied) -> Response {
    let role = denied.label();
    let response = Refusal::from(denied).into_response();
    if !request.method().is_safe() {
        log(request, role, response.status());
    }
    response
}

async fn change(request: Request, next: Next, caller: Caller) -> Response {
    let (parts, body) = request.into_parts();
    let told = Request::from_parts(parts.clone(), Body::empty());
    let response = next.run(Request::from_parts(parts, body)).await;
    log(&told, caller.label(), response.status());
    response
}

/// One line for each attempt to change something. The query is left out: whoever put a token there should not find
/// it in a log.
fn log(request: &Request, role: &'static str, status: StatusCode) {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    tracing::info!(
        target: "larder::admin",
        method = %request.method(),
        path = request.uri().path(),
        role,
        peer = peer.map(tracing::field::display),
        status = status.as_u16(),
        "change asked for"
    );
}

fn broken_off() -> Refusal {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Refusal::new(status, "the change was broken off", "send it again; if it is broken off again, look at the log")
}

/// Answers hold for the moment, and are what their type says.
fn finish(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
