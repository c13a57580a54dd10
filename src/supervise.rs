//! Restarts background tasks that panic.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Metrics;

/// Pause before a task that has panicked is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the future of `begin`, and a new one after each panic, until one ends without. `task`: its name in logs and metrics.
pub fn supervise<F>(
    task: &'static str,
    metrics: Arc<Metrics>,
    begin: impl Fn() -> F + Send + 'static,
) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Err(fault) = AbortOnDropHandle::new(tokio::spawn(begin())).await {
            if fault.is_cancelled() {
                // The runtime is ending.
                return;
            }
            metrics.task_panicked(task);
            tracing::error!(task, "a task panicked (see the message above) and is restarted");
            tokio::time::sleep(PAUSE).await;
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_restarted_and_counted() {
        let (metrics, runs) = (Arc::new(Metrics::new()), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&runs);
        let task = supervise("lease", Arc::clone(&metrics), move || {
            let run = counted.fetch_add(1, SeqCst);
            async move { assert!(run == 2, "the first two fail") }
        });
        task.await.unwrap();
        assert_eq!(runs.load(SeqCst), 3);
        let text = metrics.exposition();
        assert!(text.contains(r#"larder_task_panics_total{task="lease"} 2"#), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_handle_ends_the_task() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let task = supervise("lease", Arc::default(), move || {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
            }
        });
        tokio::task::yield_now().await;
        drop(task);
        tokio::time::sleep(PAUSE).await;
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
