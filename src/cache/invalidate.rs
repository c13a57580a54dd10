//! Invalidation in both tiers, and what becomes of it while Redis is away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Cache, Shared};
use crate::coherence::pending::delivery::taken;
use crate::coherence::pending::unanswered::UnansweredWrite;
use crate::marks::{IssuedStamp, MarksView, Tag};
use crate::store::StoreError;
use crate::store::fleet::{Again, Cause, Intent, Invalidations};
use crate::upkeep::invalidation_log::{InvalidationRecord, OriginKind, Why};

/// What became of an invalidation.
#[derive(Debug, Clone)]
pub struct InvalidationResult {
    /// `None`: Redis has not taken it, and it is delivered when Redis is back.
    pub taken: Option<IssuedStamp>,
    /// Its record in the log.
    pub record: Arc<InvalidationRecord>,
}

impl Cache {
    /// Invalidates everything that carries one of the tags. When this returns, no lookup that begins later, here or on
    /// another proxy that can reach Redis, returns what was fetched before. If Redis cannot be reached, nothing is taken: the
    /// invalidations are delivered before anything stored is trusted again. `why`: for the log.
    pub async fn invalidate(&self, tags: &[Tag], why: impl Into<Why>) -> InvalidationResult {
        let what = Invalidations { tags: tags.to_vec(), ..Invalidations::default() };
        self.invalidate_for(&what, None, why.into()).await
    }

    /// The same for a write that was announced as an intent. Soft-invalidated entries may be served for the rest of their grace.
    pub async fn invalidate_for(
        &self,
        what: &Invalidations,
        intent: Option<&Intent>,
        why: Why,
    ) -> InvalidationResult {
        let Invalidations { tags, soft, again, watched } = what;
        let record = self.log.record(why, tags, soft);
        let Some(shared) = &self.shared else {
            self.repeat_later(again);
            let taken = self.memory.marks.invalidate(tags, soft, watched);
            let record = self.log.add(record, taken.stamp.sequence, Some(Duration::ZERO));
            return InvalidationResult { taken: Some(taken), record };
        };
        let (begun, text) = (Instant::now(), record.text());
        let intent = intent.map(|intent| &*intent.id);
        let cause = Cause { soft, again, watched, intent, record: &text, ..Cause::default() };
        match shared.fleet.invalidate(tags, cause).await {
            Ok(invalidated) => {
                let taken = invalidated.taken;
                let replied = Instant::now();
                shared.fleet.settle(invalidated).await;
                let waited = replied.elapsed();
                self.metrics.settled(waited);
                let record = self.log.add(record, taken.stamp.sequence, Some(waited));
                InvalidationResult { taken: Some(taken), record }
            }
            Err(error) => {
                self.metrics.store_error("invalidate");
                let tags = what.all_tags();
                // Logged once for all of them, and again when they are delivered.
                match self.pending.has_undelivered() {
                    false => tracing::warn!(
                        %error,
                        "Redis is away: invalidations are pending, and are delivered when it is back"
                    ),
                    true => tracing::debug!(%error, tags = tags.len(), "an invalidation is pending"),
                }
                self.deliver_later(shared, &tags, &error);
                self.repeat_later(again);
                let record = match &error {
                    // The record is there with it.
                    StoreError::Unreplicated { taken: Some(taken), .. } => {
                        self.log.add(record, taken.stamp.sequence, None)
                    }
                    _ => self.log.add_undelivered(record),
                };
                // If Redis is away for all proxies, none serves anything stored when this ends. If it is away for this proxy
                // alone, the others do: `on_outage = "refuse"` is for that.
                self.pending.settled_or(shared.fleet.outlast(&error, begun)).await;
                InvalidationResult { taken: None, record }
            }
        }
    }

    /// Invalidates without waiting for other proxies, and once more after `later`: for writes whose client gets no answer.
    pub async fn invalidate_at_once(&self, tags: &[Tag], later: Duration) {
        let record = self.log.record(OriginKind::Safety.into(), tags, &[]);
        let Some(shared) = &self.shared else {
            let sequence = self.memory.marks.invalidate(tags, &[], &[]).stamp.sequence;
            self.log.add(record, sequence, None);
            return;
        };
        let (again, text) = ([Again { after: later, tags: tags.to_vec() }], record.text());
        let cause = Cause { again: &again, record: &text, ..Cause::default() };
        match shared.fleet.invalidate(tags, cause).await {
            Ok(invalidated) => drop(self.log.add(record, invalidated.taken.stamp.sequence, None)),
            Err(error) => {
                self.deliver_later(shared, tags, &error);
                self.log.add_undelivered(record);
            }
        }
    }

    fn deliver_later(&self, shared: &Shared, tags: &[Tag], error: &StoreError) {
        self.pending.add_undelivered(tags, taken(error));
        shared.fleet.note_failure(error);
    }

    fn repeat_later(&self, again: &[Again]) {
        if again.is_empty() {
            return;
        }
        self.pending.add_delayed(again);
        self.repeating.get_or_init(|| {
            let marks = self.shared.is_none().then(|| Arc::clone(&self.memory.marks));
            let (metrics, log) = (Arc::clone(&self.metrics), Arc::clone(&self.log));
            let repeating = Arc::clone(&self.pending).repeat_delayed(marks, metrics, log);
            AbortOnDropHandle::new(tokio::spawn(repeating))
        });
    }

    /// Announces a write before it is forwarded, so that another proxy invalidates what it would if this one dies in the
    /// middle of it: `within` from now, unless it is announced again. Returns what the marks say now; `None` without a
    /// Redis, where there is no other proxy.
    ///
    /// # Errors
    ///
    /// Redis is away.
    pub async fn announce(&self, intent: &Intent, within: Duration) -> Result<Option<MarksView>, StoreError> {
        let Some(shared) = &self.shared else { return Ok(None) };
        let view = shared.store.record(intent, within).await;
        view.map(Some).inspect_err(|_| self.metrics.store_error("record"))
    }

    /// Withdraws the intent of a write that changed nothing.
    pub async fn withdraw(&self, intent: &Intent) {
        if let Some(shared) = &self.shared {
            self.ask(shared.store.forget(&intent.id).await, "forget");
        }
    }

    /// A write that would invalidate `tags` is about to be forwarded. Drop the result when its invalidations are done.
    pub fn begin_write(&self, tags: Vec<Tag>) -> UnansweredWrite {
        self.pending.begin_write(tags)
    }

    /// What all writes without an answer would invalidate.
    pub fn unanswered(&self) -> Vec<Tag> {
        self.pending.unanswered()
    }

    /// Undelivered invalidations, in tags.
    pub fn undelivered(&self) -> usize {
        self.pending.undelivered()
    }

    /// Waits until every undelivered invalidation is delivered, and no other proxy can serve what it invalidates.
    pub async fn delivered(&self) {
        self.pending.settled().await;
    }

    /// Attempts once more to deliver what is undelivered; true if nothing is left.
    pub async fn deliver_now(&self) -> bool {
        match &self.shared {
            Some(shared) => shared.delivery.deliver_now().await,
            None => true,
        }
    }

    /// Leaves the fleet, so that no write of others waits for this proxy. Not with anything undelivered: the others await a
    /// member that has not left, and then invalidate everything in its place.
    pub async fn leave(&self) {
        if let Some(shared) = self.shared.as_ref().filter(|_| !self.pending.has_undelivered()) {
            self.ask(shared.fleet.leave().await, "leave");
        }
    }
}
