//! How slowly a client may send content: who trickles it, one byte at a time, holds a place at upstream as surely as who
//! sends nothing, and is never silent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The time that Larder has waited for a client's content, which may be a grace and so much for every byte that came.
/// Time in which upstream takes nothing does not count.
#[derive(Debug)]
pub(super) struct Pace {
    grace: Duration,
    /// Bytes a second.
    rate: u64,
    bytes: u64,
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    /// `rate` is above nothing.
    pub fn new(grace: Duration, rate: u64) -> Pace {
        Pace { grace, rate: rate.max(1), bytes: 0, waited: Duration::ZERO, waiting: None }
    }

    /// Some content came.
    pub fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
    }

    /// Nothing has come yet; ready when the client has taken too long. The timer is made only when there is something
    /// to wait for.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left();
        let (_, deadline) =
            self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        deadline.as_mut().poll(cx)
    }

    fn left(&self) -> Duration {
        let earned = Duration::from_millis((self.bytes / self.rate).saturating_mul(1000))
            + Duration::from_millis(self.bytes % self.rate * 1000 / self.rate);
        (self.grace + earned).saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const GRACE: Duration = Duration::from_secs(10);

    /// How long a client is waited for that sends `bytes` every `interval`.
    async fn patience(bytes: usize, interval: Duration, rate: u64) -> Option<Duration> {
        let (start, mut pace) = (Instant::now(), Pace::new(GRACE, rate));
        for _ in 0..1000 {
            let lost = tokio::time::timeout(interval, poll_fn(|cx| pace.poll_lost(cx))).await.is_ok();
            if lost {
                return Some(start.elapsed());
            }
            pace.came(bytes);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn who_trickles_is_given_up_after_the_grace() {
        let second = Duration::from_secs(1);
        assert_eq!(patience(1, second, 100).await.map(|it| it.as_secs()), Some(10));
        assert_eq!(patience(50, second, 100).await.map(|it| it.as_secs()), Some(19));
        assert_eq!(patience(100, second, 100).await, None);
        assert_eq!(patience(0, GRACE * 2, 100).await.map(|it| it.as_secs()), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_client_counts() {
        let mut pace = Pace::new(GRACE, 100);
        for _ in 0..10 {
            pace.came(1);
            tokio::time::sleep(GRACE).await;
        }
        assert!(pace.left() >= GRACE);
    }
}
