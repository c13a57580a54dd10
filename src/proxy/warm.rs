//! One request of Larder's own that warms the cache: the read of a client without its connection. It is looked up, decided on and
//! fetched as that would be, so that the entry is the one that clients with the same fields hit, and its stamp is read before the
//! fetch.
//!
//! It counts for [`Client::LARDER`], and takes a place at upstream only while one is free and no client waits for one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use tokio::sync::oneshot;

use super::ClientRequest;
use super::cache_request::CacheRequest;
use super::decide::{Decision, MissReason, bypass, decide};
use super::explain::response::sentence_of;
use super::fetch::{self, FetchContext, LeaderOnly};
use super::read;
use crate::cache::{Found, Lookup};
use crate::client::Client;
use crate::coalesce::inflight::{FetchOutcome, FetchRole, UpstreamAnswer};
use crate::http::target::Target;
use crate::running::Running;
use crate::upkeep::warming::Warmed;
use crate::upstream::RequestBody;

/// How often a request that waits for a free place at upstream looks for one.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const REDIS_AWAY: &str =
    "Redis does not answer, so nothing that is fetched is stored; warm again when it does (GET /cache/health)";

/// Warms one target. `wait` is awaited before upstream is asked, and not if what is stored is current and fresh.
pub async fn warm(
    running: &Arc<Running>,
    target: Target,
    headers: HeaderMap,
    wait: impl Future<Output = ()>,
) -> Warmed {
    let live = running.live();
    if live.rules.is_write(&Method::GET, &target) {
        return Warmed::NotStored(
            "a rule names GET for this path, so it is a write and never stored; remove the path from [[warm]]"
                .to_owned(),
        );
    }
    let http = client_request(running, target, headers);
    if let Some(reason) = bypass(&live, &http, Instant::now()) {
        return Warmed::NotStored(sentence(reason));
    }
    let request = Arc::new(CacheRequest::new(live, http, None));
    // What is stored for authorized callers is fetched for one of them alone.
    if request.is_guarded()
        && let Err(reason) = Box::pin(read::authorize(running, &request)).await
    {
        return Warmed::NotStored(sentence(reason));
    }
    if is_fresh(running, &request, &request.look_up(&running.cache).await) {
        return Warmed::AlreadyFresh;
    }
    wait.await;
    while !running.upstream.has_room(Client::LARDER) {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    // A client may have fetched it meanwhile. The stamp of the fetch is that of this lookup.
    let lookup = request.look_up(&running.cache).await;
    if is_fresh(running, &request, &lookup) {
        return Warmed::AlreadyFresh;
    }
    if lookup.view.is_none() {
        return Warmed::NotStored(REDIS_AWAY.to_owned());
    }
    match ask(running, &request, lookup).await {
        // What a client would find now.
        None if matches!(request.look_up(&running.cache).await.found, Found::Current(_)) => Warmed::Fetched,
        None => Warmed::NotStored(
            "no longer in the cache after the fetch: a write invalidated it meanwhile, and the next run fetches it again; or it did \
             not fit, and [memory] capacity is too small"
                .to_owned(),
        ),
        Some(warmed) => warmed,
    }
}

fn sentence(reason: MissReason) -> String {
    format!("{}; {}", reason.explanation(), reason.what_to_do())
}

/// What upstream answered instead of what is to be stored, and what to do.
fn of_status(status: StatusCode) -> String {
    let what_to_do = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "let [[warm]] send credentials that it accepts (headers), if everybody may have the response"
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            "remove the path from [[warm]], or set the family's negative_ttl"
        }
        status if status.is_server_error() => "its log says why; the next run asks again",
        _ => "see what larder explain --ask says of the path",
    };
    format!("upstream answered {}; {what_to_do}", status.as_u16())
}

fn client_request(running: &Running, target: Target, headers: HeaderMap) -> ClientRequest {
    // As a proxy in front would send it, where there is one: then its headers say what that would say of the client.
    let forwarded = running.config.server.forwarded;
    let parts = (Method::GET, Arc::new(target), headers);
    ClientRequest::without_connection(parts, IpAddr::V4(Ipv4Addr::LOCALHOST), forwarded)
}

fn is_fresh(running: &Running, request: &CacheRequest, lookup: &Lookup) -> bool {
    matches!(decide(request, lookup, running.cache.now()), Decision::Serve { .. })
}

/// Leads or follows a fetch, to its end. `None`: it has been stored, unless a write came in between or its body is too large.
async fn ask(running: &Arc<Running>, request: &Arc<CacheRequest>, lookup: Lookup) -> Option<Warmed> {
    let (key, view) = (lookup.cache_key.hash, lookup.view.as_ref());
    let role = match request.may_coalesce() {
        true => running.inflight.join(key, view, Instant::now()),
        false => FetchRole::Alone,
    };
    let permit = match role {
        FetchRole::Join(fetch) => {
            return match fetch.outcome().await {
                // Its body may still be on its way.
                FetchOutcome::Streaming(head, _) if head.stored => Some(Warmed::AlreadyFresh),
                outcome => warmed(&outcome, None),
            };
        }
        FetchRole::Lead(permit) => permit,
        FetchRole::Alone => running.inflight.lead_alone(key, view),
    };
    let (fetch, (give, take)) = (permit.fetch(), oneshot::channel());
    let stale = lookup.entry().cloned();
    let context = FetchContext::new(request, Client::LARDER, &lookup, stale);
    let run = running.tasks.spawn(fetch::run(Arc::clone(running), context, permit, Some(give)));
    let outcome = fetch.outcome().await;
    drop(fetch);
    // A reader of the body is dropped at once: the response is stored without one.
    let refused = match take.await {
        Ok(LeaderOnly::Response(response, reason)) => Some((response.status(), reason)),
        Ok(LeaderOnly::Reader(..)) | Err(_) => None,
    };
    let _ = run.await;
    warmed(&outcome, refused)
}

/// What an outcome says. `refused`: the response that is not stored, and why.
fn warmed(outcome: &FetchOutcome, refused: Option<(StatusCode, &'static str)>) -> Option<Warmed> {
    let failed = |answer: UpstreamAnswer| {
        Some(Warmed::Failed(match answer {
            Ok(status) => of_status(status),
            Err(error) => format!("{error}; look at upstream, whose address is [server] upstream"),
        }))
    };
    match outcome {
        FetchOutcome::Streaming(head, _) if !head.stored => Some(Warmed::NotStored(REDIS_AWAY.to_owned())),
        FetchOutcome::Streaming(..) | FetchOutcome::Validated(_) | FetchOutcome::Elsewhere(..) => None,
        FetchOutcome::StaleOnError(_, answer) => failed(*answer),
        FetchOutcome::ServerError(error) => failed(Ok(error.status)),
        FetchOutcome::Failed(error) => failed(Err(*error)),
        FetchOutcome::Unshared => match refused {
            Some((status, reason)) if status.is_success() => Some(Warmed::NotStored(sentence_of(reason))),
            Some((status, _)) => failed(Ok(status)),
            None => Some(Warmed::NotStored(
                "upstream's response is for one request alone; see what larder explain --ask says of the path"
                    .to_owned(),
            )),
        },
    }
}

/// Fetches a document from upstream, past the cache.
///
/// # Errors
///
/// What is wrong, for people.
pub async fn document(
    running: &Running,
    target: Target,
    headers: HeaderMap,
    most: usize,
) -> Result<Bytes, String> {
    let path = target.path_and_query();
    let fields = client_request(running, target, headers).for_passing(running);
    let answer =
        running.upstream.send(Client::LARDER, &Method::GET, &path, fields, RequestBody::Empty, None).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("upstream answered {}", answer.status().as_u16()));
    }
    let body = Limited::new(answer.into_body(), most).collect().await;
    Ok(body.map_err(|error| format!("it breaks off, or is larger than {most} bytes: {error}"))?.to_bytes())
}
