//! Whether a flight of a family with `collapse = "fleet"` fetches, or waits for the proxy that does
//! ([`crate::coalesce::fleet_lock`]).
//!
//! The claim is made under the flight's own key. Where responses vary and nobody knows yet on what, that is the request
//! without the fields they vary on: requests for different variants then wait for one another once. Who finds that the
//! response it waited for is another variant fetches its own; from then on each variant is claimed by itself.

use std::sync::Arc;

use super::context::FetchContext;
use crate::cache::Found;
use crate::coalesce::fleet_lock::FleetLockOutcome;
use crate::coalesce::inflight::{FetchOutcome, FetchPermit};
use crate::running::Running;

/// What becomes of a flight.
pub enum FleetDecision {
    /// It fetches.
    Fetch(Box<FetchContext>),
    /// Another proxy has fetched.
    Finish(FetchOutcome),
    /// Nobody is left who waits for it; or it was a refresh, and another proxy does that.
    Abandoned,
}

/// What becomes of a flight whose turn it is.
pub async fn decide(running: &Running, mut context: FetchContext, permit: &FetchPermit) -> FleetDecision {
    let (Some(view), Some(store)) = (context.view, &running.config.store) else {
        return FleetDecision::Fetch(Box::new(context));
    };
    // What goes alone is not for others.
    if !permit.is_shared() || !context.request.collapses_across_proxies() {
        return FleetDecision::Fetch(Box::new(context));
    }
    let turn = match running.cache.lock_fetch(context.cache_key.key(), view, store.collapse_timeout).await {
        FleetLockOutcome::Theirs(waiting) => {
            let _waits = running.metrics.follower_waits();
            tokio::select! {
                turn = waiting.end() => turn,
                () = permit.abandoned() => return FleetDecision::Abandoned,
            }
        }
        turn => turn,
    };
    let (held, may_be_there) = match turn {
        // Somebody may have fetched, stored and let go since this flight's lookup.
        FleetLockOutcome::Ours(held) => (Some(held), true),
        FleetLockOutcome::Stored => (None, true),
        FleetLockOutcome::Theirs(_) | FleetLockOutcome::Alone => (None, false),
    };
    if may_be_there && let Some(outcome) = look(running, &mut context).await {
        held.iter().for_each(|held| held.end(true));
        return FleetDecision::Finish(outcome);
    }
    context.fleet_lock = held;
    FleetDecision::Fetch(Box::new(context))
}

/// What another proxy has stored, if it answers the flight's question without being validated. If not, the fetch that
/// comes next has the stamp of this look: unless it validates a response, which was judged by the marks as they were.
async fn look(running: &Running, context: &mut FetchContext) -> Option<FetchOutcome> {
    let request = &context.request;
    let (cache_key, fields) = (context.cache_key.clone(), &request.http.headers);
    let lookup = running.cache.lookup_in_store(cache_key, fields, &request.label(), request.tags()).await;
    match &lookup.found {
        Found::Current(entry)
            if entry.response().is_some_and(|kept| request.is_answered_by(kept, running.cache.now())) =>
        {
            let on = lookup
                .vary_index
                .as_ref()
                .or(context.vary_index.as_ref())
                .and_then(|vary_index| vary_index.vary_index());
            let varies_on = on.map(|variants| variants.on.clone()).unwrap_or_default();
            Some(FetchOutcome::Elsewhere(Arc::clone(entry), varies_on))
        }
        _ => {
            if context.stale.is_none() {
                context.view = lookup.view.or(context.view);
            }
            None
        }
    }
}
