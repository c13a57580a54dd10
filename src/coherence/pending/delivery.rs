//! Sends undelivered invalidations to Redis as soon as it answers, and waits until no proxy can serve what they invalidate.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::PendingInvalidations;
use super::undelivered::Batch;
use crate::coherence::fleet::Fleet;
use crate::marks::Stamp;
use crate::store::StoreError;
use crate::store::fleet::{Cause, Invalidated};

/// Delivers what is pending of the proxy that `fleet` is.
#[derive(Clone)]
pub struct Delivery {
    pub pending: Arc<PendingInvalidations>,
    pub fleet: Arc<Fleet>,
}

impl Delivery {
    /// Delivers, for ever.
    pub async fn run(self) {
        let mut link = self.fleet.store().changes();
        // Each waits a lease at most, and begins when an outage ends.
        let mut settling = JoinSet::new();
        loop {
            while settling.try_join_next().is_some() {}
            if let Some((batch, invalidated)) = self.deliver().await {
                let delivery = self.clone();
                settling.spawn(async move { delivery.settle(batch, invalidated).await });
            } else if self.pending.has_undelivered() {
                // The link changes when another attempt is worth it. The pause bounds the work if Redis is up and refuses.
                let _ = tokio::time::timeout(Duration::from_millis(100), link.changed()).await;
            } else {
                self.pending.added().await;
            }
        }
    }

    /// Attempts one delivery, and waits until it has settled; true if nothing is undelivered then.
    pub async fn deliver_now(&self) -> bool {
        if let Some((batch, invalidated)) = self.deliver().await {
            self.settle(batch, invalidated).await;
        }
        !self.pending.has_undelivered()
    }

    /// Returns the batch that was delivered, and what its invalidation brought about unless Redis had taken it before; `None`
    /// if none was delivered.
    async fn deliver(&self) -> Option<(Batch, Option<Invalidated>)> {
        let batch = self.pending.batch()?;
        let invalidated = match batch.taken {
            Some(taken) => self.replicas_have(&batch, taken).await.then_some(None)?,
            None => Some(self.invalidate(&batch).await?),
        };
        self.pending.batch_was_delivered(&batch);
        self.fleet.request_sync();
        tracing::info!(tags = batch.tags.len(), "delivered pending invalidations to Redis");
        Some((batch, invalidated))
    }

    async fn invalidate(&self, batch: &Batch) -> Option<Invalidated> {
        // On success the marks are in this proxy's copy before anything in memory is trusted again.
        let reply = self.fleet.invalidate(&batch.tags, Cause::default()).await;
        reply.inspect_err(|error| self.pending.batch_was_taken(batch, taken(error))).ok()
    }

    /// Whether enough replicas have what Redis has taken. If Redis has lost it, it is invalidated again next time.
    async fn replicas_have(&self, batch: &Batch, taken: Stamp) -> bool {
        let Ok(view) = self.fleet.store().reach().await else { return false };
        let is_there = view.stamp.epoch == taken.epoch;
        if !is_there {
            self.pending.batch_was_taken(batch, None);
        }
        is_there
    }

    /// Waits until no proxy can serve what was delivered.
    async fn settle(&self, batch: Batch, invalidated: Option<Invalidated>) {
        match invalidated {
            Some(invalidated) => self.fleet.settle(invalidated).await,
            // Each member of the time when it was taken has synced by then, or serves nothing any more.
            None => tokio::time::sleep(self.fleet.longest_lease()).await,
        }
        self.pending.batch_has_settled(&batch);
    }
}

/// The stamp with which Redis took an invalidation that failed only because replicas are missing.
pub fn taken(error: &StoreError) -> Option<Stamp> {
    match error {
        StoreError::Unreplicated { taken, .. } => taken.map(|taken| taken.stamp),
        _ => None,
    }
}
