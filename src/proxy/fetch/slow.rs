//! A stale response in place of one that upstream takes too long for (`stale_while_slow`).
//!
//! An upstream that has not answered within that time counts as one that does not answer (RFC 9111 §4.2.4), for this request
//! alone: [`while_slow`] says what may be served then, and for how long past its lifetime. The fetch goes on, and its response is stored.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::super::Answered;
use super::super::cache_request::CacheRequest;
use super::super::decide::while_slow;
use super::super::respond::{from_stored, is_known_entry};
use super::Miss;
use crate::cache::Found;
use crate::outcome::Outcome;
use crate::running::Running;

/// What a fetch brings, or the stale response that is served because it takes too long.
///
/// # Errors
///
/// The answer from the stale response.
pub(super) async fn or_stale<T>(
    running: &Running,
    request: &CacheRequest,
    miss: &Miss,
    fetched: impl Future<Output = T>,
) -> Result<T, Box<Answered>> {
    let Some(slow) = limit(running, request, miss) else { return Ok(fetched.await) };
    let mut fetched = pin!(fetched);
    if let Ok(fetched) = tokio::time::timeout(slow, &mut fetched).await {
        return Ok(fetched);
    }
    tokio::select! {
        biased;
        fetched = &mut fetched => Ok(fetched),
        // In a box: it is rare, and would enlarge the future of every fetch.
        stale = Box::pin(stale_now(running, request, miss)) => match stale {
            Some(answered) => Err(Box::new(answered)),
            None => Ok(fetched.await),
        },
    }
}

/// How long this request waits for upstream; `None`: until the fetch ends.
fn limit(running: &Running, request: &CacheRequest, miss: &Miss) -> Option<Duration> {
    let (family, _) = request.family()?;
    // A verdict on the caller (`authorize`) may end while the request waits.
    let slow = family.stale_while_slow.filter(|_| family.authorize.is_none())?;
    let found = Found::Current(Arc::clone(miss.stale.as_ref()?));
    while_slow(request, &found, running.cache.now()).map(|_| slow)
}

/// Looks up again: a write may have been acknowledged since the first lookup.
async fn stale_now(running: &Running, request: &CacheRequest, miss: &Miss) -> Option<Answered> {
    let lookup = request.look_up(&running.cache).await;
    let reason = while_slow(request, &lookup.found, running.cache.now())?;
    let entry = lookup.entry()?;
    let stored = entry.response()?;
    let is_known = is_known_entry(running, request, entry).await;
    let now = running.cache.now();
    let outcome = Outcome::stale(stored.freshness.ttl(now), reason.detail());
    // RFC 9211 §2.1: it went forward, so it is no hit.
    let outcome = Outcome { fwd: Some(miss.reason.fwd()), ..outcome };
    Some(from_stored(running, request, stored, is_known, now, outcome))
}
