//! Invalidations that are still to come, of three kinds:
//!
//! - [`undelivered`]: Redis has not taken them. While there is one, this proxy trusts nothing stored, in memory or in Redis,
//!   and does not sync; so other proxies that return from the same outage wait for it ([`super::fleet::recovery`]).
//!   [`delivery`] sends them to Redis as soon as that answers.
//! - [`delayed`]: they are to be repeated later (`again`), and Redis does not know of that. All others are intents in Redis,
//!   which outlive this process.
//! - [`unanswered`]: what writes on their way to upstream will have invalidated if no answer comes. Shutdown invalidates it.
//!
//! Each kind is bounded in tags; beyond that it invalidates everything, which is always safe.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

pub mod delayed;
pub mod delivery;
pub mod unanswered;
pub mod undelivered;

/// All pending invalidations of this process. The cache owns it.
#[derive(Debug)]
pub struct PendingInvalidations {
    state: Mutex<PendingState>,
    /// For readers without a lock: whether any are undelivered.
    has_undelivered: AtomicBool,
    /// Something was added to the undelivered ones.
    added: Notify,
    /// Some undelivered ones have settled.
    settled: Notify,
    /// Something was added to the delayed ones.
    scheduled: Notify,
    /// Delayed ones are due at whole steps after this.
    start: Instant,
}

#[derive(Debug, Default)]
struct PendingState {
    undelivered: undelivered::Undelivered,
    delayed: delayed::Delayed,
    unanswered: unanswered::Unanswered,
}

impl Default for PendingInvalidations {
    fn default() -> PendingInvalidations {
        PendingInvalidations {
            state: Mutex::default(),
            has_undelivered: AtomicBool::new(false),
            added: Notify::new(),
            settled: Notify::new(),
            scheduled: Notify::new(),
            start: Instant::now(),
        }
    }
}

impl PendingInvalidations {
    fn lock(&self) -> MutexGuard<'_, PendingState> {
        // A panic while it was held leaves it usable: every change is a single call, and at worst a count is too high.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
