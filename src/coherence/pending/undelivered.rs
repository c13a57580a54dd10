//! Invalidations that Redis has not taken, or that too few of its replicas have.

use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;

use super::PendingInvalidations;
use crate::marks::{Stamp, Tag};

/// Distinct tags; beyond that they become the root tag (everything).
const MOST: usize = 10_000;

/// Tags that are still to be invalidated in Redis.
#[derive(Debug, Default)]
pub(super) struct Undelivered {
    tags: HashSet<Tag>,
    /// How often tags were added.
    additions: u64,
    /// Redis has taken all of them with this stamp, and only its replicas are missing.
    taken: Option<Stamp>,
    /// Redis has taken the first so many additions.
    delivered: u64,
    /// No proxy can serve what the first so many additions invalidate.
    settled: u64,
}

/// A copy of what is undelivered.
#[derive(Debug)]
pub(super) struct Batch {
    /// To be invalidated.
    pub tags: Vec<Tag>,
    /// Redis has taken them with this stamp, and only its replicas are missing.
    pub taken: Option<Stamp>,
    additions: u64,
}

impl PendingInvalidations {
    /// Whether any invalidation is undelivered, so that nothing stored may be trusted.
    pub fn has_undelivered(&self) -> bool {
        self.has_undelivered.load(SeqCst)
    }

    /// Undelivered invalidations, in tags.
    pub fn undelivered(&self) -> usize {
        self.lock().undelivered.tags.len()
    }

    /// Adds tags that Redis has not taken. When this returns, no lookup that begins later trusts anything stored.
    /// `taken`: Redis has taken them with this stamp, but its replicas have not.
    pub fn add_undelivered(&self, tags: &[Tag], taken: Option<Stamp>) {
        let mut state = self.lock();
        let undelivered = &mut state.undelivered;
        undelivered.taken = match undelivered.tags.is_empty() {
            true => taken,
            false => undelivered.taken.zip(taken).filter(|(one, other)| one.epoch == other.epoch).map(later),
        };
        // Before the write is acknowledged, and under the lock, so that a delivery that ends now sees it.
        self.has_undelivered.store(true, SeqCst);
        undelivered.tags.extend(tags.iter().cloned());
        if undelivered.tags.len() > MOST {
            undelivered.tags = HashSet::from([Tag::root()]);
        }
        undelivered.additions += 1;
        drop(state);
        self.added.notify_one();
    }

    /// Everything undelivered; `None` if nothing is.
    pub(super) fn batch(&self) -> Option<Batch> {
        let state = self.lock();
        let undelivered = &state.undelivered;
        (!undelivered.tags.is_empty()).then(|| Batch {
            tags: undelivered.tags.iter().cloned().collect(),
            taken: undelivered.taken,
            additions: undelivered.additions,
        })
    }

    /// Redis has taken the batch with this stamp, but its replicas have not; `None`: Redis has lost it since.
    pub(super) fn batch_was_taken(&self, batch: &Batch, taken: Option<Stamp>) {
        let mut state = self.lock();
        if state.undelivered.additions == batch.additions {
            state.undelivered.taken = taken;
        }
    }

    /// The batch was delivered. If something was added meanwhile, all of it is delivered again, which invalidates a little
    /// more than needed.
    pub(super) fn batch_was_delivered(&self, batch: &Batch) {
        let mut state = self.lock();
        let undelivered = &mut state.undelivered;
        if undelivered.additions == batch.additions {
            undelivered.tags.clear();
            undelivered.taken = None;
            self.has_undelivered.store(false, SeqCst);
        }
        undelivered.delivered = undelivered.delivered.max(batch.additions);
    }

    /// No proxy can serve what the batch invalidates.
    pub(super) fn batch_has_settled(&self, batch: &Batch) {
        let mut state = self.lock();
        state.undelivered.settled = state.undelivered.settled.max(batch.additions);
        drop(state);
        self.settled.notify_waiters();
    }

    /// Waits until no proxy can serve what everything added up to now invalidates: until that was delivered and has settled,
    /// or until `outage` ends with nothing delivered.
    pub async fn settled_or(&self, outage: impl Future<Output = ()>) {
        let additions = self.lock().undelivered.additions;
        tokio::select! {
            // Either will do: the order matters only to simulations, which have to be repeatable.
            biased;
            () = outage => {}
            () = self.settled_up_to(additions) => return,
        }
        // Redis is back: other proxies may have got a lease from it since.
        if self.lock().undelivered.delivered >= additions {
            self.settled_up_to(additions).await;
        }
    }

    /// Waits until no proxy can serve what everything added up to now invalidates.
    pub async fn settled(&self) {
        let additions = self.lock().undelivered.additions;
        self.settled_up_to(additions).await;
    }

    async fn settled_up_to(&self, additions: u64) {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // From here on a notification counts, also before it is awaited.
            settled.as_mut().enable();
            if self.lock().undelivered.settled >= additions {
                return;
            }
            settled.await;
        }
    }

    /// Waits until something undelivered is added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
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
    fn stored_responses_are_trusted_again_only_when_everything_was_delivered() {
        let pending = PendingInvalidations::default();
        pending.add_undelivered(&[Tag::family("a")], None);
        let batch = pending.batch().unwrap();
        pending.add_undelivered(&[Tag::family("b")], None);
        pending.batch_was_delivered(&batch);
        assert!(pending.has_undelivered());
        let all = pending.batch().unwrap();
        assert_eq!(all.tags.len(), 2);
        pending.batch_was_delivered(&all);
        assert!(!pending.has_undelivered() && pending.undelivered() == 0);
    }

    #[test]
    fn too_many_undelivered_tags_become_the_root_tag() {
        let pending = PendingInvalidations::default();
        for index in 0..=MOST {
            pending.add_undelivered(&[Tag::family(&index.to_string())], None);
        }
        assert_eq!(pending.batch().unwrap().tags, [Tag::root()]);
    }

    #[test]
    fn a_taken_batch_only_waits_for_replicas_unless_an_untaken_tag_joins_it() {
        let at = |epoch, sequence| Some(Stamp { epoch: Epoch(epoch), sequence });
        let rows = [
            (vec![at(1, 5)], at(1, 5)),
            (vec![at(1, 5), at(1, 3)], at(1, 5)),
            (vec![at(1, 5), at(2, 9)], None),
            (vec![at(1, 5), None], None),
            (vec![None, at(1, 5)], None),
        ];
        for (kept, expected) in rows {
            let pending = PendingInvalidations::default();
            kept.iter().for_each(|taken| pending.add_undelivered(&[Tag::family("a")], *taken));
            assert_eq!(pending.batch().unwrap().taken, expected, "{kept:?}");
        }
    }

    #[tokio::test]
    async fn an_addition_has_settled_when_a_batch_that_contains_it_has() {
        let pending = PendingInvalidations::default();
        pending.settled().await;
        pending.add_undelivered(&[Tag::family("a")], None);
        let batch = pending.batch().unwrap();
        let first = not_ready(pending.settled()).await;
        pending.add_undelivered(&[Tag::family("b")], None);
        let second = not_ready(pending.settled()).await;
        pending.batch_has_settled(&batch);
        first.await;
        let second = not_ready(second).await;
        pending.batch_has_settled(&pending.batch().unwrap());
        second.await;
    }

    /// The future, which is not ready yet.
    async fn not_ready<'f>(
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
