//! The streams of an HTTP/2 connection. A stream whose client stops reading is reset after a while, which releases what it
//! holds; a connection without open streams is ended after a while. hyper has neither timeout: it accepts any client that
//! answers its pings.
//!
//! Limits on what the streams of a client hold:
//! - places at upstream and stored bodies: until the stream is reset after `idle_timeout` without reading;
//! - bodies in transfer, for all clients together: `capacity` of `[memory]`; beyond it only the part that the slowest reader
//!   still needs is buffered, at most 1 MiB for each ([`crate::coalesce::stream`]);
//! - what hyper buffers of a response that Larder has finished: at most 64 KiB of a stored body, or one chunk from upstream,
//!   for each of 100 streams, until the connection ends.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::Sleep;

use crate::proxy::stall;

/// The streams of one connection; none if it speaks HTTP/1.
#[derive(Debug)]
pub(super) struct Streams {
    is_http2: AtomicBool,
    open: AtomicUsize,
    /// Number of begins and ends so far.
    changes: AtomicU64,
}

impl Streams {
    /// None yet.
    pub fn new() -> Arc<Streams> {
        Arc::new(Streams { is_http2: false.into(), open: 0.into(), changes: 0.into() })
    }

    /// Records that the connection speaks HTTP/2.
    pub fn set_http2(&self) {
        self.is_http2.store(true, Ordering::Release);
    }

    /// Whether the connection speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Acquire)
    }

    /// Number of open streams.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns when no stream has been open for between `timeout` and twice that: it checks once per `timeout`.
    pub async fn idle_for(&self, timeout: Duration) {
        loop {
            let before = self.changes.load(Ordering::Acquire);
            tokio::time::sleep(timeout).await;
            if self.open.load(Ordering::Acquire) == 0 && self.changes.load(Ordering::Acquire) == before {
                return;
            }
        }
    }

    fn begin(self: &Arc<Streams>) -> Open {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }
}

/// An open stream.
struct Open(Arc<Streams>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Ordering::AcqRel);
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Spawns the streams of one connection.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    streams: Arc<Streams>,
    timeout: Duration,
}

impl Runner {
    /// `timeout`: longest time for which a client may not read a response that is ready.
    pub fn new(streams: &Arc<Streams>, timeout: Duration) -> Runner {
        Runner { streams: Arc::clone(streams), timeout }
    }
}

impl<F> Executor<F> for Runner
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let (open, timeout) = (self.streams.begin(), self.timeout);
        tokio::spawn(stall::within(async move {
            let _open = open;
            until_stalled(stream, timeout).await;
        }));
    }
}

/// Runs a stream to its end, or until its client has not read for `timeout`. A stream that is dropped before its end is reset
/// (RFC 9113 §5.4.2). The timer is created only while Larder waits for the client.
async fn until_stalled<F: Future>(stream: F, timeout: Duration) {
    let mut stream = pin!(stream);
    let mut waiting: Option<(u64, Pin<Box<Sleep>>)> = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(piece) = stall::of_client() else {
            waiting = None;
            return Poll::Pending;
        };
        waiting.take_if(|(awaited, _)| *awaited != piece);
        let (_, deadline) = waiting.get_or_insert_with(|| (piece, Box::pin(tokio::time::sleep(timeout))));
        ready!(deadline.as_mut().poll(cx));
        tracing::debug!("the client stopped reading a response: reset its stream");
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// The time until a stream ends.
    async fn lifetime(stream: impl Future) -> Duration {
        let start = Instant::now();
        stall::within(until_stalled(stream, TIMEOUT)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_client_stops_reading() {
        let stalled = async {
            stall::give();
            sleep(TIMEOUT * 3).await;
        };
        assert_eq!(lifetime(stalled).await, TIMEOUT);
        let stalled_later = async {
            stall::give();
            sleep(TIMEOUT / 2).await;
            stall::give();
            sleep(TIMEOUT * 3).await;
        };
        assert_eq!(lifetime(stalled_later).await, TIMEOUT / 2 + TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_larder_goes_on() {
        let waiting = async {
            sleep(TIMEOUT * 3).await;
            stall::give();
            stall::wait();
            sleep(TIMEOUT * 3).await;
        };
        assert_eq!(lifetime(waiting).await, TIMEOUT * 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_no_stream_is_open_for_the_timeout() {
        let streams = Streams::new();
        let open = streams.begin();
        let ended = tokio::spawn({
            let streams = Arc::clone(&streams);
            async move { streams.idle_for(TIMEOUT).await }
        });
        sleep(TIMEOUT * 3).await;
        assert!(!ended.is_finished());
        drop(open);
        ended.await.unwrap();
    }
}
