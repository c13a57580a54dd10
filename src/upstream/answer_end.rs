//! The end of an answer. Where content is still being sent then, the request keeps its place at upstream until that has ended,
//! too. Who sends it too slowly is given up by its `upload_rate`; a client that sends nothing at all, or an upstream that takes
//! nothing, after `idle_timeout`: nobody waits for an answer any more, so that no other time limit runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Progress, Upload, UploadFault, UpstreamPlace};

/// Ends an answer when dropped: content that was not asked for is given up.
#[derive(Debug)]
pub(super) struct AnswerEnd {
    pub rest: Rest,
    /// Given back when the content has ended.
    pub place: Option<UpstreamPlace>,
}

/// The content that belongs to an answer.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    pub upload: Arc<Upload>,
    pub progress: Arc<Progress>,
    /// The longest time in which none of it is sent.
    pub silence: Duration,
    /// Upstream's connection.
    pub connection: AbortHandle,
}

impl Drop for AnswerEnd {
    fn drop(&mut self) {
        self.rest.upload.end_answer();
        if !self.rest.upload.has_ended()
            && let Ok(runtime) = Handle::try_current()
        {
            let (rest, place) = (self.rest.clone(), self.place.take());
            runtime.spawn(async move {
                rest.sent().await;
                drop(place);
            });
        }
    }
}

impl Rest {
    /// Waits until the content has ended, or ends it.
    async fn sent(self) {
        self.progress.note();
        if self.progress.within(self.silence, self.upload.ended()).await.is_none() {
            self.upload.fail(UploadFault::GivenUp);
            // If upstream takes nothing, nobody asks for the content either.
            self.connection.abort();
        }
    }
}
