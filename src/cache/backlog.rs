//! Invalidations that the store has not taken yet. While there is one, nothing in L1 or L2 is trusted: other
//! proxies' entries and our own may show the state before those writes.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::sync::Notify;

use crate::stamp::Tag;

/// Distinct tags kept; beyond that they become the root tag (everything).
const MOST: usize = 10_000;

/// Tags that are still to be invalidated in the store.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Guards the tags and the number of times they were added to.
    waiting: Mutex<Waiting>,
    closed: AtomicBool,
    wake: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    tags: HashSet<Tag>,
    additions: u64,
}

/// A copy of what is waiting, to be delivered.
#[derive(Debug)]
pub struct Batch {
    /// To be invalidated.
    pub tags: Vec<Tag>,
    additions: u64,
}

impl Backlog {
    /// Whether anything is waiting, so that nothing stored may be trusted.
    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Tags waiting.
    pub fn len(&self) -> usize {
        self.lock().tags.len()
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps tags until they are delivered. When this returns, no lookup that begins later trusts anything stored.
    pub fn keep(&self, tags: &[Tag]) {
        let mut waiting = self.lock();
        // Before the write is acknowledged, and under the lock, so that a delivery that ends now sees it.
        self.closed.store(true, SeqCst);
        waiting.tags.extend(tags.iter().cloned());
        if waiting.tags.len() > MOST {
            waiting.tags = HashSet::from([Tag::root()]);
        }
        waiting.additions += 1;
        drop(waiting);
        self.wake.notify_one();
    }

    /// What is waiting now; `None` if nothing is.
    pub fn batch(&self) -> Option<Batch> {
        let waiting = self.lock();
        (!waiting.tags.is_empty())
            .then(|| Batch { tags: waiting.tags.iter().cloned().collect(), additions: waiting.additions })
    }

    /// The batch was delivered: trust is back unless something was added meanwhile (then all of it is delivered
    /// again, which outdates a little more than needed).
    pub fn delivered(&self, batch: &Batch) {
        let mut waiting = self.lock();
        if waiting.additions == batch.additions {
            waiting.tags.clear();
            self.closed.store(false, SeqCst);
            self.emptied.notify_waiters();
        }
    }

    /// Waits until nothing is left.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // From here on it is noticed, also before it is waited for.
            emptied.as_mut().enable();
            if !self.is_closed() {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until something is kept.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // A panic while it was held leaves the set whole: every change is a single call.
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_returns_only_when_everything_was_delivered() {
        let backlog = Backlog::default();
        backlog.keep(&[Tag::family("a")]);
        let batch = backlog.batch().unwrap();
        backlog.keep(&[Tag::family("b")]);
        backlog.delivered(&batch);
        assert!(backlog.is_closed());
        let all = backlog.batch().unwrap();
        assert_eq!(all.tags.len(), 2);
        backlog.delivered(&all);
        assert!(!backlog.is_closed() && backlog.is_empty());
    }

    #[test]
    fn overflow_becomes_everything() {
        let backlog = Backlog::default();
        for index in 0..=MOST {
            backlog.keep(&[Tag::family(&index.to_string())]);
        }
        assert_eq!(backlog.batch().unwrap().tags, [Tag::root()]);
    }
}
