//! Everything that may change something: forward, and outdate before answering. Runs in a task that survives the
//! client, since upstream may carry out a write whose client has left.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::{Answered, Asked, failed, refuse, respond};
use crate::headers;
use crate::outcome::{Fwd, Outcome};
use crate::rules::Outdated;
use crate::running::{Live, Running};
use crate::semantics::invalidation::{self, StatusSet, WriteEnd};
use crate::stamp::Tag;
use crate::target::loosen;
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

/// The steps of a write. An intent recorded in the store before forwarding, and waiting for the leases of other
/// proxies after invalidating, belong between these steps once proxies hold leases.
async fn carry_out(running: &Running, live: &Live, asked: Asked, body: Incoming) -> Answered {
    let methods = headers::methods_meant(&asked.method, &asked.headers, asked.target.query.as_deref());
    let matches = live.rules.outdated_by_any(&methods, &asked.target);
    let nothing = HeaderMap::new();
    let pending = running.unanswered.begin(outdated(&asked, &matches, WriteEnd::NoAnswer, &nothing));
    let answer = forward(running, &asked, body).await;
    let end = match &answer {
        Ok(answer) => Some(WriteEnd::Answered(answer.status())),
        // Nothing was sent: it cannot have been carried out.
        Err(UpstreamError::Unreachable | UpstreamError::Overloaded) => None,
        // It may have been carried out.
        Err(_) => Some(WriteEnd::NoAnswer),
    };
    let fields = answer.as_ref().map_or(&nothing, Response::headers);
    // Rules that came into force meanwhile may have let readers store what this write outdates.
    let now = running.live();
    let mut matches = matches;
    if !std::ptr::eq(&raw const *now, live) {
        matches.extend(now.rules.outdated_by_any(&methods, &asked.target));
    }
    let tags = end.map(|end| outdated(&asked, &matches, end, fields)).unwrap_or_default();
    let delivered = tags.is_empty() || running.cache.invalidate(&tags).await;
    drop(pending);
    count(running, &matches, end);
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

fn count(running: &Running, matches: &[Outdated<'_>], end: Option<WriteEnd>) {
    let Some(end) = end else { return };
    for rule in matches.iter().map(|outdated| outdated.rule).filter(|rule| rule.on.applies(end)) {
        rule.families.iter().for_each(|family| running.metrics.invalidated(family, "write"));
    }
}

async fn forward(
    running: &Running,
    asked: &Asked,
    body: Incoming,
) -> Result<Response<ResponseBody>, UpstreamError> {
    let fields = asked.for_upstream(running);
    running
        .upstream
        .send(&asked.method, &asked.target.path_and_query(), fields, RequestBody::of(body), asked.interim.clone())
        .await
}

/// What a write outdates, given how it ended: the union of all matching rules, and by RFC 9111 §4.4 the target URI
/// and same-origin `Location` and `Content-Location` of a non-error answer.
fn outdated(asked: &Asked, matches: &[Outdated<'_>], end: WriteEnd, answer: &HeaderMap) -> Vec<Tag> {
    let applying = matches.iter().filter(|outdated| outdated.rule.on.applies(end));
    let mut tags: HashSet<Tag> = applying.flat_map(|outdated| outdated.tags.iter().cloned()).collect();
    if StatusSet::default().applies(end) {
        tags.extend(asked.target.tags());
        for path in invalidation::named_paths(&asked.target, answer) {
            tags.extend([Tag::uri(&loosen(&path)), Tag::uri(&path)]);
        }
    }
    tags.into_iter().collect()
}
