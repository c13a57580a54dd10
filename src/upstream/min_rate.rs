//! How slowly a client may send content, or take it: who trickles it, one byte at a time, holds a place at upstream as surely
//! as who does nothing, and is never silent.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The time that Larder may yet wait for a client. Each byte earns some of it, but there is never more than the grace: a
/// burst is no excuse for standing still afterwards. Time in which upstream is waited for does not count.
#[derive(Debug)]
pub struct MinRate {
    grace: Duration,
    /// Bytes a second; 0: a single byte earns all of the grace.
    rate: u64,
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl MinRate {
    /// On average so many bytes a second beyond the grace.
    pub fn new(grace: Duration, rate: u64) -> MinRate {
        MinRate { grace, rate, left: grace, waiting: None }
    }

    /// So many bytes have moved, for which the client was waited for so long.
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

    /// Some content came for which [`MinRate::poll_lost`] has waited.
    pub fn came(&mut self, bytes: usize) {
        let waited = self.waiting.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
        self.moved(bytes as u64, waited);
    }

    /// Nothing has come yet; ready when the client has taken too long. The timer is made only when there is something
    /// to wait for.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let (_, deadline) =
            self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        deadline.as_mut().poll(cx)
    }

    /// How much longer the client may take.
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

    /// How long a client is waited for that sends `bytes` every `interval`.
    async fn patience(bytes: usize, interval: Duration, mut rate: MinRate) -> Option<Duration> {
        let start = Instant::now();
        for _ in 0..1000 {
            let lost = tokio::time::timeout(interval, poll_fn(|cx| rate.poll_lost(cx))).await.is_ok();
            if lost {
                return Some(start.elapsed());
            }
            rate.came(bytes);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn who_trickles_is_given_up_after_the_grace() {
        let rate = || MinRate::new(GRACE, 100);
        assert_eq!(patience(1, SECOND, rate()).await.map(|it| it.as_secs()), Some(10));
        assert_eq!(patience(50, SECOND, rate()).await.map(|it| it.as_secs()), Some(19));
        assert_eq!(patience(100, SECOND, rate()).await, None);
        assert_eq!(patience(0, GRACE * 2, rate()).await.map(|it| it.as_secs()), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_earns_no_more_than_the_grace() {
        let mut rate = MinRate::new(GRACE, 100);
        rate.came(1_000_000);
        assert_eq!(patience(1, SECOND, rate).await.map(|it| it.as_secs()), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_only_silence_counts() {
        assert_eq!(patience(1, GRACE - SECOND, MinRate::new(GRACE, 0)).await, None);
        assert_eq!(patience(1, GRACE + SECOND, MinRate::new(GRACE, 0)).await, Some(GRACE));
        assert_eq!(patience(0, SECOND, MinRate::new(GRACE, 0)).await, Some(GRACE));
    }

    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_client_counts() {
        let mut rate = MinRate::new(GRACE, 100);
        for _ in 0..10 {
            rate.came(1);
            tokio::time::sleep(GRACE).await;
        }
        assert_eq!(rate.left(), GRACE);
    }
}
