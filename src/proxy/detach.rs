//! Work that must be finished although its client leaves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Work that its owner polls, and that goes on in a task of its own when the owner drops it. So only requests whose clients leave cost a
/// task. The output is `None` if the work panicked.
pub(super) struct Detachable<T: Send + 'static> {
    /// `None` once it has ended.
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    tracked: TaskTrackerToken,
}

impl<T: Send + 'static> Detachable<T> {
    /// Work that counts among the tasks that Larder finishes before it ends.
    pub fn new(tasks: &TaskTracker, work: impl Future<Output = T> + Send + 'static) -> Detachable<T> {
        // In a box before anything else: the future is large, and would be copied each time that it is wrapped.
        Detachable { work: Some(Box::pin(work)), tracked: tasks.token() }
    }
}

impl Detachable<()> {
    /// Waits for something else, which the work brings about, and goes on with the work meanwhile.
    pub async fn until<U>(&mut self, mut other: Pin<&mut impl Future<Output = U>>) -> U {
        std::future::poll_fn(|cx| {
            let _ = Pin::new(&mut *self).poll(cx);
            other.as_mut().poll(cx)
        })
        .await
    }
}

impl<T: Send + 'static> Future for Detachable<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        // What a panic interrupts is dropped.
        let ended = match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Some(output),
            Err(_) => None,
        };
        self.work = None;
        Poll::Ready(ended)
    }
}

impl<T: Send + 'static> Drop for Detachable<T> {
    fn drop(&mut self) {
        // Without a runtime the process ends.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            let tracked = self.tracked.clone();
            runtime.spawn(async move {
                let _tracked = tracked;
                work.await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_goes_on_when_its_owner_drops_it() {
        let tasks = TaskTracker::new();
        let ((go, wait), (give, take)) = (oneshot::channel::<()>(), oneshot::channel());
        let mut work = Detachable::new(&tasks, async move {
            wait.await.unwrap();
            give.send(()).unwrap();
        });
        assert!((&mut work).now_or_never().is_none());
        drop(work);
        go.send(()).unwrap();
        take.await.unwrap();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn its_owner_gets_the_output_and_a_panic_is_none() {
        let tasks = TaskTracker::new();
        assert_eq!(Detachable::new(&tasks, async { 7 }).await, Some(7));
        let (give, take) = oneshot::channel::<u8>();
        drop(give);
        let panics = Detachable::new(&tasks, async { take.await.unwrap() });
        assert_eq!(panics.await, None);
    }

    #[tokio::test]
    async fn what_the_work_brings_about_can_be_awaited() {
        let (tasks, (give, take)) = (TaskTracker::new(), oneshot::channel());
        let mut work = Detachable::new(&tasks, async move {
            give.send(7).unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(work.until(std::pin::pin!(take)).await, Ok(7));
        assert_eq!(tasks.len(), 1);
    }
}
