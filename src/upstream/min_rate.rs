//! A minimum transfer rate of a client that sends or reads content. A client that sends one byte at a time holds a place at
//! upstream as long as one that sends nothing, and no timeout on silence ends it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A budget of time to wait for a client. Each byte adds to it, up to the grace, so that a burst does not pay for a long
/// silence afterwards. Time spent waiting for upstream does not count.
#[derive(Debug)]
pub struct MinRate {
    grace: Duration,
    /// Bytes per second; 0: any byte restores the whole grace.
    rate: u64,
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl MinRate {
    /// `rate` bytes per second on average, after a grace.
    pub fn new(grace: Duration, rate: u64) -> MinRate {
        MinRate { grace, rate, left: grace, waiting: None }
    }

    /// Records a transfer of `bytes` for which Larder has waited for `waited`.
    pub fn moved(&mut self, bytes: u64, waited: Duration) {
        let earned = match self.rate {
            0 if bytes > 0 => self.grace,
            0 => Duration::ZERO,
            rate => {
                Duration::from_secs(bytes / rate)
                    + Duration::from_millis((bytes % rate).saturating_mul(1000) / rate)
            }
        };
        self.left = self.left.saturating_sub(waited).saturating_add(earned).min(self.grace);
    }

    /// Records bytes that arrived after [`MinRate::poll_too_slow`] has waited.
    pub fn received(&mut self, bytes: usize) {
        let waited = self.waiting.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
        self.moved(bytes as u64, waited);
    }

    /// Called while nothing has arrived; ready when the budget is used up. Creates a timer only then.
    pub fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let (_, deadline) =
            self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        deadline.as_mut().poll(cx)
    }

    /// The rest of the budget.
    pub fn left(&self) -> Duration {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const GRACE: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    /// The time until a client that sends `bytes` every `interval` is too slow.
    async fn time_to_failure(bytes: usize, interval: Duration, mut rate: MinRate) -> Option<Duration> {
        let start = Instant::now();
        for _ in 0..1000 {
            let too_slow = tokio::time::timeout(interval, poll_fn(|cx| rate.poll_too_slow(cx))).await.is_ok();
            if too_slow {
                return Some(start.elapsed());
            }
            rate.received(bytes);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_below_the_rate_is_too_slow_after_the_grace() {
        let rate = || MinRate::new(GRACE, 100);
        assert_eq!(time_to_failure(1, SECOND, rate()).await.map(|it| it.as_secs()), Some(10));
        assert_eq!(time_to_failure(50, SECOND, rate()).await.map(|it| it.as_secs()), Some(19));
        assert_eq!(time_to_failure(100, SECOND, rate()).await, None);
        assert_eq!(time_to_failure(0, GRACE * 2, rate()).await.map(|it| it.as_secs()), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_adds_no_more_than_the_grace() {
        let mut rate = MinRate::new(GRACE, 100);
        rate.received(1_000_000);
        assert_eq!(time_to_failure(1, SECOND, rate).await.map(|it| it.as_secs()), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_only_silence_counts() {
        assert_eq!(time_to_failure(1, GRACE - SECOND, MinRate::new(GRACE, 0)).await, None);
        assert_eq!(time_to_failure(1, GRACE + SECOND, MinRate::new(GRACE, 0)).await, Some(GRACE));
        assert_eq!(time_to_failure(0, SECOND, MinRate::new(GRACE, 0)).await, Some(GRACE));
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_spent_waiting_for_the_client_counts() {
        let mut rate = MinRate::new(GRACE, 100);
        for _ in 0..10 {
            rate.received(1);
            tokio::time::sleep(GRACE).await;
        }
        assert_eq!(rate.left(), GRACE);
    }
}
