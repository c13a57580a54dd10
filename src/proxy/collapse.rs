//! Whether a flight of a family with `collapse = "fleet"` fetches, or waits for the proxy that does
//! ([`crate::cache::claim`]).
//!
//! The claim is made under the flight's own key. Where responses vary and nobody knows yet on what, that is the request
//! without the fields they vary on: requests for different variants then wait for one another once. Who finds that the
//! response it waited for is another variant fetches its own; from then on each variant is claimed by itself.

use std::sync::Arc;

use super::errand::Errand;
use crate::cache::Found;
use crate::cache::claim::Turn;
use crate::cache::flight::{Landing, Permit};
use crate::running::Running;

/// What becomes of a flight.
pub(super) enum Course {
    /// It fetches.
    Fetch(Box<Errand>),
    /// Another proxy has fetched.
    Land(Landing),
    /// Nobody is left who waits for it; or it was a refresh, and another proxy does that.
    Deserted,
}

/// What becomes of a flight whose turn it is.
pub(super) async fn course(running: &Running, mut errand: Errand, permit: &Permit) -> Course {
    let (Some(view), Some(store)) = (errand.view, &running.config.store) else {
        return Course::Fetch(Box::new(errand));
    };
    // What goes alone is not for others.
    if !permit.is_shared() || !errand.question.collapses_across_proxies() {
        return Course::Fetch(Box::new(errand));
    }
    let turn = match running.cache.claim(errand.canonical.key(), view, store.collapse_timeout).await {
        Turn::Theirs(waiting) => {
            let _waits = running.metrics.follower_waits();
            tokio::select! {
                turn = waiting.end() => turn,
                () = permit.deserted() => return Course::Deserted,
            }
        }
        turn => turn,
    };
    let (held, may_be_there) = match turn {
        // Somebody may have fetched, stored and let go since this flight's lookup.
        Turn::Ours(held) => (Some(held), true),
        Turn::Stored => (None, true),
        Turn::Theirs(_) | Turn::Alone => (None, false),
    };
    if may_be_there && let Some(landing) = look(running, &mut errand).await {
        held.iter().for_each(|held| held.end(true));
        return Course::Land(landing);
    }
    errand.claim = held;
    Course::Fetch(Box::new(errand))
}

/// What another proxy has stored, if it answers the flight's question without being validated. If not, the fetch that
/// comes next has the stamp of this look: unless it validates a response, which was judged by the marks as they were.
async fn look(running: &Running, errand: &mut Errand) -> Option<Landing> {
    let question = &errand.question;
    let (canonical, fields) = (errand.canonical.clone(), &question.asked.headers);
    let lookup = running.cache.lookup_elsewhere(canonical, fields, &question.label(), question.tags()).await;
    match &lookup.found {
        Found::Current(entry)
            if entry.response().is_some_and(|kept| question.is_answered_by(kept, running.cache.now())) =>
        {
            let on = lookup.sign.as_ref().or(errand.sign.as_ref()).and_then(|sign| sign.variants());
            let varies_on = on.map(|variants| variants.on.clone()).unwrap_or_default();
            Some(Landing::Elsewhere(Arc::clone(entry), varies_on))
        }
        _ => {
            if errand.stale.is_none() {
                errand.view = lookup.view.or(errand.view);
            }
            None
        }
    }
}
