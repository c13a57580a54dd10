//! The end of a response. If request content is still being sent then, the request keeps its place at upstream until that has
//! ended too. `upload_rate` limits a slow client. No other timeout runs any more, so the upload is aborted after
//! `idle_timeout` without progress, whether the client sends nothing or upstream reads nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Progress, Upload, UploadFault, UpstreamPlace};

/// Marks the response as ended when dropped. Content that waits for a 100 is then aborted.
#[derive(Debug)]
pub(super) struct ResponseEnd {
    pub rest: RestOfUpload,
    /// Released when the content has ended.
    pub place: Option<UpstreamPlace>,
}

/// The rest of the request content.
#[derive(Debug, Clone)]
pub(super) struct RestOfUpload {
    pub upload: Arc<Upload>,
    pub progress: Arc<Progress>,
    /// Longest time without progress.
    pub silence: Duration,
    /// The task of upstream's connection.
    pub connection: AbortHandle,
}

impl Drop for ResponseEnd {
    fn drop(&mut self) {
        self.rest.upload.end_response();
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

impl RestOfUpload {
    /// Waits until the content has ended, or ends it.
    async fn sent(self) {
        self.progress.note();
        if self.progress.within(self.silence, self.upload.ended()).await.is_none() {
            self.upload.fail(UploadFault::GivenUp);
            // If upstream reads nothing, hyper does not poll the content and never sees the fault.
            self.connection.abort();
        }
    }
}
