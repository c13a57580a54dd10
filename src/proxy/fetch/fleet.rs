//! Whether a fetch in a family with `collapse = "fleet"` asks upstream, or waits for the proxy that does
//! ([`crate::coalesce::fleet_lock`]).
//!
//! The lock is on the key that was looked up. Where responses vary and the vary index is not known yet, that is the primary key:
//! requests for different variants then wait for one another once. A request that gets another variant than its own fetches; from
//! then on each variant has its own lock.

use std::sync::Arc;

use super::context::FetchContext;
use crate::cache::Found;
use crate::coalesce::fleet_lock::FleetLockOutcome;
use crate::coalesce::inflight::{FetchOutcome, FetchPermit};
use crate::running::Running;

/// What a fetch does.
pub enum FleetDecision {
    /// It asks upstream.
    Fetch(Box<FetchContext>),
    /// Another proxy has fetched.
    Finish(FetchOutcome),
    /// Nobody waits for it any more; or it is a refresh, and another proxy fetches.
    Abandoned,
}

/// What a fetch that begins now does.
pub async fn decide(running: &Running, mut context: FetchContext, permit: &FetchPermit) -> FleetDecision {
    let (Some(view), Some(store)) = (context.view, &running.config.store) else {
        return FleetDecision::Fetch(Box::new(context));
    };
    // A fetch without followers is not shared with other proxies either.
    if !permit.is_shared() || !context.request.coalesces_across_proxies() {
        return FleetDecision::Fetch(Box::new(context));
    }
    let outcome = match running.cache.lock_fetch(context.cache_key.key(), view, store.collapse_timeout).await {
        FleetLockOutcome::Theirs(waiting) => {
            let _waits = running.metrics.follower_waits();
            tokio::select! {
                biased;
                outcome = waiting.end() => outcome,
                () = permit.abandoned() => return FleetDecision::Abandoned,
            }
        }
        outcome => outcome,
    };
    let (held, may_be_there) = match outcome {
        // Another proxy may have fetched and stored since this request's lookup.
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

/// The entry that another proxy has stored, if it is fresh for this request. Otherwise the fetch takes the stamp of this lookup,
/// unless it validates a stale response, which was judged by the marks of the first lookup.
async fn look(running: &Running, context: &mut FetchContext) -> Option<FetchOutcome> {
    let request = &context.request;
    let (cache_key, fields) = (context.cache_key.clone(), &request.client_request.headers);
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
