//! Invalidations that the store has not taken yet. While there is one, nothing in L1 or L2 is trusted: other
//! proxies' entries and our own may show the state before those writes.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::sync::Notify;

use crate::marks::{Stamp, Tag};

/// Distinct tags kept; beyond that they become the root tag (everything).
const MOST: usize = 10_000;

/// Tags that are still to be invalidated in the store.
#[derive(Debug, Default)]
pub struct UndeliveredInvalidations {
    /// Guards the tags and the number of times they were added to.
    waiting: Mutex<Waiting>,
    closed: AtomicBool,
    wake: Notify,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    tags: HashSet<Tag>,
    additions: u64,
    /// The store has taken all of them by this, and only its replicas are waited for.
    taken: Option<Stamp>,
    /// The store has taken the first so many additions.
    delivered: u64,
    /// Nobody can serve what the first so many additions invalidate.
    settled: u64,
}

/// A copy of what is waiting, to be delivered.
#[derive(Debug)]
pub struct Batch {
    /// To be invalidated.
    pub tags: Vec<Tag>,
    /// Or they were, by this, and only the store's replicas are waited for.
    pub taken: Option<Stamp>,
    additions: u64,
}

impl UndeliveredInvalidations {
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
    /// `taken`: the store has taken them, but its replicas have not.
    pub fn keep(&self, tags: &[Tag], taken: Option<Stamp>) {
        let mut waiting = self.lock();
        waiting.taken = match waiting.tags.is_empty() {
            true => taken,
            false => waiting.taken.zip(taken).filter(|(one, other)| one.epoch == other.epoch).map(later),
        };
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
        (!waiting.tags.is_empty()).then(|| Batch {
            tags: waiting.tags.iter().cloned().collect(),
            taken: waiting.taken,
            additions: waiting.additions,
        })
    }

    /// The store has taken the batch by this, but its replicas have not; `None`: it has lost it since.
    pub fn was_taken(&self, batch: &Batch, taken: Option<Stamp>) {
        let mut waiting = self.lock();
        if waiting.additions == batch.additions {
            waiting.taken = taken;
        }
    }

    /// The batch was delivered: trust is back unless something was added meanwhile (then all of it is delivered
    /// again, which invalidates a little more than needed).
    pub fn delivered(&self, batch: &Batch) {
        let mut waiting = self.lock();
        if waiting.additions == batch.additions {
            waiting.tags.clear();
            waiting.taken = None;
            self.closed.store(false, SeqCst);
        }
        waiting.delivered = waiting.delivered.max(batch.additions);
    }

    /// Nobody can serve what this batch invalidates.
    pub fn has_settled(&self, batch: &Batch) {
        let mut waiting = self.lock();
        waiting.settled = waiting.settled.max(batch.additions);
        drop(waiting);
        self.changed.notify_waiters();
    }

    /// Waits until nobody can serve what was kept up to now: until that was delivered and has settled, or until `alone` ends with
    /// nothing delivered.
    pub async fn settled_or(&self, alone: impl Future<Output = ()>) {
        let additions = self.lock().additions;
        tokio::select! {
            // Either will do: the order matters only to simulations, which have to be repeatable.
            biased;
            () = alone => {}
            () = self.settled_up_to(additions) => return,
        }
        // The store is there: others may have a lease that it has given since.
        if self.lock().delivered >= additions {
            self.settled_up_to(additions).await;
        }
    }

    /// Waits until nobody can serve what was to be invalidated up to now.
    pub async fn settled(&self) {
        let additions = self.lock().additions;
        self.settled_up_to(additions).await;
    }

    async fn settled_up_to(&self, additions: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on it is noticed, also before it is waited for.
            changed.as_mut().enable();
            if self.lock().settled >= additions {
                return;
            }
            changed.await;
        }
    }

    /// Waits until something is kept.
    pub async fn kept(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // A panic while it was held leaves the set whole: every change is a single call.
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn later((one, other): (Stamp, Stamp)) -> Stamp {
    if one.sequence > other.sequence { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::Epoch;

    #[test]
    fn trust_returns_only_when_everything_was_delivered() {
        let undelivered = UndeliveredInvalidations::default();
        undelivered.keep(&[Tag::family("a")], None);
        let batch = undelivered.batch().unwrap();
        undelivered.keep(&[Tag::family("b")], None);
        undelivered.delivered(&batch);
        assert!(undelivered.is_closed());
        let all = undelivered.batch().unwrap();
        assert_eq!(all.tags.len(), 2);
        undelivered.delivered(&all);
        assert!(!undelivered.is_closed() && undelivered.is_empty());
    }

    #[test]
    fn overflow_becomes_everything() {
        let undelivered = UndeliveredInvalidations::default();
        for index in 0..=MOST {
            undelivered.keep(&[Tag::family(&index.to_string())], None);
        }
        assert_eq!(undelivered.batch().unwrap().tags, [Tag::root()]);
    }

    #[test]
    fn what_was_taken_needs_no_more_than_replicas_unless_something_untaken_joins_it() {
        let at = |epoch, sequence| Some(Stamp { epoch: Epoch(epoch), sequence });
        let rows = [
            (vec![at(1, 5)], at(1, 5)),
            (vec![at(1, 5), at(1, 3)], at(1, 5)),
            (vec![at(1, 5), at(2, 9)], None),
            (vec![at(1, 5), None], None),
            (vec![None, at(1, 5)], None),
        ];
        for (kept, expected) in rows {
            let undelivered = UndeliveredInvalidations::default();
            kept.iter().for_each(|taken| undelivered.keep(&[Tag::family("a")], *taken));
            assert_eq!(undelivered.batch().unwrap().taken, expected, "{kept:?}");
        }
    }

    #[tokio::test]
    async fn what_was_kept_has_settled_when_a_batch_that_holds_it_has() {
        let undelivered = UndeliveredInvalidations::default();
        undelivered.settled().await;
        undelivered.keep(&[Tag::family("a")], None);
        let batch = undelivered.batch().unwrap();
        let first = pending(undelivered.settled()).await;
        undelivered.keep(&[Tag::family("b")], None);
        let second = pending(undelivered.settled()).await;
        undelivered.has_settled(&batch);
        first.await;
        let second = pending(second).await;
        undelivered.has_settled(&undelivered.batch().unwrap());
        second.await;
    }

    /// The future, which is not ready yet.
    async fn pending<'f>(
        future: impl Future<Output = ()> + 'f,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + 'f>> {
        let mut future: std::pin::Pin<Box<dyn Future<Output = ()> + 'f>> = Box::pin(future);
        std::future::poll_fn(|context| {
            assert!(future.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        future
    }
}
