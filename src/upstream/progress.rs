//! Timeouts that restart with each progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time of the last progress, such as of an upload or of an upgraded connection.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Progress {
    /// Progress is made now.
    pub fn new() -> Arc<Progress> {
        Arc::new(Progress { start: Instant::now(), last: 0.into() })
    }

    /// Records progress.
    pub fn note(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Waits for `work`; `None` when there has been no progress for `timeout`.
    pub async fn within<T>(&self, timeout: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let deadline = self.last() + timeout;
            match tokio::time::timeout_at(deadline.into(), &mut work).await {
                Ok(done) => return Some(done),
                Err(_) if self.last() + timeout > deadline => {}
                Err(_) => return None,
            }
        }
    }
}
