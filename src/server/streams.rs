//! The streams of an HTTP/2 connection. One whose client has stopped taking its answer is reset after a while, and all
//! that was kept for it goes with it; a connection on which none has been open for a while is ended. hyper knows
//! neither limit: for it, a client that answers its pings is well.
//!
//! What bounds what a client can make Larder hold:
//! - its places at upstream, and whole bodies from memory: `idle_timeout`, after which a stream that is not taken is reset;
//! - bodies on their way, of all clients together: `capacity` of `[memory]`; beyond it each is kept only as far as its
//!   slowest reader needs it, at most 1 MiB ([`crate::coalesce::stream`]);
//! - what hyper has been given of an answer that is over on our side: a piece of at most 64 KiB of a stored body, or a
//!   chunk as it came from upstream, for each of 100 streams, until the connection ends.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::Sleep;

use crate::proxy::stall;

/// The streams of one connection, of which there are none in HTTP/1.
#[derive(Debug)]
pub(super) struct Streams {
    /// The connection is one of HTTP/2.
    spoken: AtomicBool,
    open: AtomicUsize,
    /// How often one began or ended.
    moves: AtomicU64,
}

impl Streams {
    /// None yet.
    pub fn new() -> Arc<Streams> {
        Arc::new(Streams { spoken: false.into(), open: 0.into(), moves: 0.into() })
    }

    /// The connection is one of HTTP/2: there can be streams from now on.
    pub fn set_http2(&self) {
        self.spoken.store(true, Ordering::Release);
    }

    /// Whether the connection is one of HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.spoken.load(Ordering::Acquire)
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns when no stream has been open for `patience`, at most twice that: it looks once in that time.
    pub async fn idle_for(&self, patience: Duration) {
        loop {
            let before = self.moves.load(Ordering::Acquire);
            tokio::time::sleep(patience).await;
            if self.open.load(Ordering::Acquire) == 0 && self.moves.load(Ordering::Acquire) == before {
                return;
            }
        }
    }

    fn begin(self: &Arc<Streams>) -> Open {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.moves.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }
}

/// A stream that is open.
struct Open(Arc<Streams>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.moves.fetch_add(1, Ordering::AcqRel);
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs the streams of one connection.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    streams: Arc<Streams>,
    patience: Duration,
}

impl Runner {
    /// `patience`: how long a client may take none of an answer that is there.
    pub fn new(streams: &Arc<Streams>, patience: Duration) -> Runner {
        Runner { streams: Arc::clone(streams), patience }
    }
}

impl<F> Executor<F> for Runner
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let (open, patience) = (self.streams.begin(), self.patience);
        tokio::spawn(stall::within(async move {
            let _open = open;
            until_stalled(stream, patience).await;
        }));
    }
}

/// Runs a stream to its end, or until its client has taken nothing for `patience` of what is there to be taken. A
/// stream that is dropped before its end is reset (RFC 9113 §5.4.2). The timer is made only when a client lets Larder
/// wait.
async fn until_stalled<F: Future>(stream: F, patience: Duration) {
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
        let (_, deadline) = waiting.get_or_insert_with(|| (piece, Box::pin(tokio::time::sleep(patience))));
        ready!(deadline.as_mut().poll(cx));
        tracing::debug!("the client has stopped taking an answer: its stream is reset");
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, sleep};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// How long a stream lives.
    async fn life(stream: impl Future) -> Duration {
        let start = Instant::now();
        stall::within(until_stalled(stream, PATIENCE)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let stalled = async {
            stall::give();
            sleep(PATIENCE * 3).await;
        };
        assert_eq!(life(stalled).await, PATIENCE);
        let stalled_later = async {
            stall::give();
            sleep(PATIENCE / 2).await;
            stall::give();
            sleep(PATIENCE * 3).await;
        };
        assert_eq!(life(stalled_later).await, PATIENCE / 2 + PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_larder_is_not_given_up() {
        let waiting = async {
            sleep(PATIENCE * 3).await;
            stall::give();
            stall::wait();
            sleep(PATIENCE * 3).await;
        };
        assert_eq!(life(waiting).await, PATIENCE * 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_no_stream_has_been_open_for_a_while() {
        let streams = Streams::new();
        let open = streams.begin();
        let ended = tokio::spawn({
            let streams = Arc::clone(&streams);
            async move { streams.idle_for(PATIENCE).await }
        });
        sleep(PATIENCE * 3).await;
        assert!(!ended.is_finished());
        drop(open);
        ended.await.unwrap();
    }
}
