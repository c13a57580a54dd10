//! Everything that may change something: forward, and outdate before answering. Runs in a task that survives the
//! client, since upstream may carry out a write whose client has left.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::{Answered, Asked, failed, refuse, respond};
use crate::outcome::{Fwd, Outcome};
use crate::running::{Live, Running};
use crate::semantics::invalidation::{self, StatusSet, WriteEnd};
use crate::stamp::Tag;
use crate::upstream::{RequestBody, ResponseBody, UpstreamError};

/// Answers a write.
pub(super) async fn write(running: &Arc<Running>, live: Arc<Live>, asked: Asked, body: Incoming) -> Answered {
    let (give, take) = oneshot::channel();
    let task = Arc::clone(running);
    running.tasks.spawn(async move {
        // The client may be gone by now; the write was carried out all the same.
        let _ = give.send(carry_out(&task, &live, asked, body).await);
    });
    take.await.unwrap_or_else(|_| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "write-lost", "the write was not carried through")
    })
}

/// The steps of a write. An intent recorded before forwarding, and waiting for the leases of other proxies after
/// invalidating, belong between these steps once proxies hold leases.
async fn carry_out(running: &Running, live: &Live, asked: Asked, body: Incoming) -> Answered {
    let answer = forward(running, &asked, body).await;
    let tags = outdated(running, live, &asked, &answer);
    let delivered = tags.is_empty() || running.cache.invalidate(&tags).await;
    match answer {
        Ok(answer) => {
            let outcome = Outcome {
                fwd_status: Some(answer.status().as_u16()),
                detail: (!delivered).then_some("store-away"),
                ..Outcome::write()
            };
            Answered { response: respond::forwarded(answer), outcome, family: None }
        }
        Err(error) => failed(error, Fwd::Method),
    }
}

async fn forward(
    running: &Running,
    asked: &Asked,
    body: Incoming,
) -> Result<Response<ResponseBody>, UpstreamError> {
    let fields: HeaderMap = asked.for_upstream(running);
    running.upstream.send(&asked.method, &asked.target.path_and_query(), fields, RequestBody::of(body)).await
}

/// What a write outdates, given how it ended: the union of all matching rules, and by RFC 9111 §4.4 the target URI
/// and same-origin `Location` and `Content-Location` of a non-error answer.
fn outdated(
    running: &Running,
    live: &Live,
    asked: &Asked,
    answer: &Result<Response<ResponseBody>, UpstreamError>,
) -> Vec<Tag> {
    let end = match answer {
        Ok(answer) => WriteEnd::Answered(answer.status()),
        // Nothing was sent: it cannot have been carried out.
        Err(UpstreamError::Unreachable | UpstreamError::Overloaded) => return Vec::new(),
        // It may have been carried out.
        Err(_) => WriteEnd::NoAnswer,
    };
    let mut tags = HashSet::new();
    for outdated in live.rules.outdated_by(&asked.method, &asked.target.path) {
        if outdated.rule.on.applies(end) {
            outdated.rule.families.iter().for_each(|family| running.metrics.invalidated(family, "write"));
            tags.extend(outdated.tags);
        }
    }
    if StatusSet::default().applies(end) {
        running.metrics.invalidated("uri", "write");
        tags.insert(Tag::uri(&asked.target.path));
        if let Ok(answer) = answer {
            let named = invalidation::named_paths(&asked.target, answer.headers());
            tags.extend(named.iter().map(|path| Tag::uri(path)));
        }
    }
    tags.into_iter().collect()
}
