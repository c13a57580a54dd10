//! Waits until replicas have an invalidation, so that it survives when one of them is promoted (`wait_replicas`).
//!
//! `WAIT` blocks its connection, so it has a connection of its own. It waits for writes of its own connection only; so a key
//! is written there first. Replicas apply in order, so one that has this key has everything that ran before it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, make_extension_error};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::mutex::lock;

/// Code of the error for too few replicas.
const TOO_FEW: &str = "WAIT";

/// Parts of a request's time limit: the script, a round that is in progress, and the request's own round.
const ROUNDS: u32 = 3;

/// The message of an error for too few replicas; None for any other error.
pub(super) fn missing(error: &RedisError) -> Option<String> {
    (error.code() == Some(TOO_FEW)).then(|| error.detail().unwrap_or("too few replicas have the write").to_owned())
}

pub(super) struct Replicas {
    connection: MultiplexedConnection,
    key: String,
    needed: u64,
    /// Time limit of one round.
    limit: Duration,
    /// Time limit of a round in progress and the request's own: shorter than a request's, so that late replicas are not taken
    /// for a server that hangs.
    reach_limit: Duration,
    /// Held during a round.
    one_round: Semaphore,
    /// Requests so far.
    asked: AtomicU64,
    /// Result of the last round.
    last: Mutex<Round>,
}

/// One `WAIT`, for all requests that came before it started.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// Number of the last request that it covers.
    up_to: u64,
    /// Number of replicas that have everything written before it.
    acknowledged: u64,
}

impl Replicas {
    pub(super) fn new(
        connection: MultiplexedConnection,
        key: &str,
        needed: u64,
        time_limit: Duration,
    ) -> Replicas {
        // WAIT takes milliseconds; 0 means no limit.
        let limit = Duration::from_millis((time_limit / ROUNDS).as_millis().max(1) as u64);
        let reach_limit = time_limit * (ROUNDS - 1) / ROUNDS;
        let (one_round, asked, last) = (Semaphore::new(1), AtomicU64::new(0), Mutex::default());
        Replicas { connection, key: key.to_owned(), needed, limit, reach_limit, one_round, asked, last }
    }

    /// Returns when enough replicas have everything written before the call.
    ///
    /// # Errors
    ///
    /// Too few of them had it in time, or the connection failed.
    pub(super) async fn reach(&self) -> RedisResult<()> {
        timeout(self.reach_limit, self.rounds()).await.unwrap_or_else(|_| Err(self.too_few(0)))
    }

    async fn rounds(&self) -> RedisResult<()> {
        let request = self.asked.fetch_add(1, SeqCst) + 1;
        let _permit = self.one_round.acquire().await.expect("the semaphore is never closed");
        let mut last = *lock(&self.last);
        // The previous round may have covered this request as well.
        if last.up_to < request {
            last = self.round().await?;
            *lock(&self.last) = last;
        }
        if last.acknowledged < self.needed { Err(self.too_few(last.acknowledged)) } else { Ok(()) }
    }

    async fn round(&self) -> RedisResult<Round> {
        let up_to = self.asked.load(SeqCst);
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(&self.key).arg(up_to).arg("PX").arg(60_000).ignore();
        pipe.cmd("WAIT").arg(self.needed).arg(self.limit.as_millis() as u64);
        let (acknowledged,) = pipe.query_async(&mut self.connection.clone()).await?;
        Ok(Round { up_to, acknowledged })
    }

    fn too_few(&self, acknowledged: u64) -> RedisError {
        let (needed, limit) = (self.needed, humantime::format_duration(self.limit));
        let message = format!(
            "only {acknowledged} of {needed} replicas confirmed the write within {limit} (a third of [store] timeout)"
        );
        make_extension_error(TOO_FEW.to_owned(), Some(message))
    }
}
