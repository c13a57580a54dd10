//! Write intents whose deadline has passed: the proxy that announced the write has died or is cut off, and may have had
//! upstream carry it out. Any member invalidates what the write would have.

use tokio::sync::watch;

use super::Fleet;
use crate::store::StoreError;
use crate::store::fleet::{Cause, Intent};
use crate::upkeep::invalidation_log::OriginKind;

/// Intents that are being carried out; empty when that is done.
#[derive(Debug)]
pub(super) struct DueIntents(watch::Sender<Vec<Intent>>);

impl Default for DueIntents {
    fn default() -> DueIntents {
        DueIntents(watch::Sender::new(Vec::new()))
    }
}

impl DueIntents {
    /// Has intents carried out, unless others are being carried out; then the next sync brings them again.
    pub fn add(&self, intents: Vec<Intent>) {
        self.0.send_if_modified(|due| {
            let is_free = due.is_empty() && !intents.is_empty();
            if is_free {
                *due = intents;
            }
            is_free
        });
    }
}

impl Fleet {
    /// Carries out intents, for ever. Apart from the syncs, which must not wait for it.
    pub(super) async fn carry_out_intents(&self) {
        let mut due = self.intents.0.subscribe();
        while let Ok(intents) = due.wait_for(|due| !due.is_empty()).await.map(|due| due.clone()) {
            let mut are_done = true;
            for intent in &intents {
                if self.carry_out(intent).await.is_err() {
                    self.metrics.store_error("carry_out");
                    // The next sync brings the rest again.
                    are_done = false;
                    break;
                }
            }
            self.intents.0.send_replace(Vec::new());
            if are_done {
                // A sync brings some of them only: there may be more.
                self.sync.wanted.notify_one();
            }
        }
    }

    async fn carry_out(&self, intent: &Intent) -> Result<(), StoreError> {
        let cause = Cause { intent: Some(&intent.id), ..Cause::default() };
        let kind = if intent.is_repetition() { OriginKind::Again } else { OriginKind::Recovered };
        match self.invalidate_for(kind, &intent.tags, cause).await {
            // No answer waits for replicas: the write was never acknowledged.
            Ok(()) | Err(StoreError::Unreplicated { taken: Some(_), .. }) => {}
            Err(error) => return Err(error),
        }
        let tags = intent.tags.len();
        if intent.is_repetition() {
            tracing::debug!(tags, "repeated an invalidation (again)");
            self.metrics.invalidations_repeated.inc();
        } else {
            tracing::warn!(
                tags,
                "recovered an abandoned write intent: its proxy died, or Redis was away; its tags were invalidated"
            );
            self.metrics.intents_carried_out.inc();
        }
        Ok(())
    }
}
