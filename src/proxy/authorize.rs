//! Families with `authorize`: before a read may use what is stored, or share a fetch, the API is asked whether it authorizes the
//! caller. The check is a read of Larder's own ([`CacheRequest::check`]) that goes the way of every read, so that the API's answer,
//! the verdict, is stored, coalesced, compared with the marks and shared with other proxies like any response. A verdict that was asked
//! for before a write was acknowledged does not count after it.
//!
//! A caller that the API refuses, or of whom it says nothing, gets what the API answers to the request itself.

use std::sync::Arc;

use super::cache_request::CacheRequest;
use super::decide::MissReason;
use super::read;
use crate::http::authorization::Authorization;
use crate::running::Running;

/// Asks whether the API authorizes the caller of a guarded read.
///
/// Returns whether upstream was asked, and not a stored verdict.
///
/// # Errors
///
/// It does not, or did not say so: why the request is forwarded for itself alone.
pub(super) async fn authorize(running: &Arc<Running>, request: &CacheRequest) -> Result<bool, MissReason> {
    let Some(check) = request.check() else { return Ok(false) };
    let answered = read::answer(running, Box::new(check)).await;
    let verdict = Authorization::of(answered.response.status());
    // A fetch that was shared was one question.
    let is_asked = answered.outcome.fwd.is_some() && !answered.outcome.collapsed;
    running.metrics.authorized(verdict, is_asked);
    match MissReason::of_authorization(verdict) {
        None => Ok(answered.outcome.fwd.is_some()),
        Some(reason) => Err(reason),
    }
}
