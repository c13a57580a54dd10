//! Waits until replicas have what was written, so that a write survives when one of them is promoted (`wait_replicas`).
//!
//! `WAIT` holds up its connection, so that it has one to itself: marks must be read meanwhile. It waits for what was
//! written on its own connection, which is why something is written there first; replicas apply in order, and so they
//! have all that the server carried out before it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, make_extension_error};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The code of the error that says so.
const TOO_FEW: &str = "WAIT";

/// Rounds that fit in the time limit of a request: one that is under way, its own, and the script before.
const ROUNDS: u32 = 3;

/// How many replicas lack what was written, where that is what an error says.
pub(super) fn missing(error: &RedisError) -> Option<String> {
    (error.code() == Some(TOO_FEW))
        .then(|| error.detail().unwrap_or("too few replicas have what was written").to_owned())
}

pub(super) struct Replicas {
    connection: MultiplexedConnection,
    key: String,
    needed: u64,
    /// For one round.
    limit: Duration,
    /// For a round that is under way and one's own: less than a request has, so that what is late is the replicas, and not
    /// the server.
    patience: Duration,
    /// One round at a time.
    turn: Semaphore,
    /// Requests so far.
    asked: AtomicU64,
    /// How the last round ended; guards nothing else.
    last: Mutex<Round>,
}

/// One `WAIT`, for all requests that came before it.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// The last request that it was for.
    up_to: u64,
    /// How many replicas have what was written before it.
    acknowledged: u64,
}

impl Replicas {
    pub(super) fn new(
        connection: MultiplexedConnection,
        key: &str,
        needed: u64,
        time_limit: Duration,
    ) -> Replicas {
        // WAIT counts in milliseconds, and takes none for no limit at all.
        let limit = Duration::from_millis((time_limit / ROUNDS).as_millis().max(1) as u64);
        let patience = time_limit * (ROUNDS - 1) / ROUNDS;
        let (turn, asked, last) = (Semaphore::new(1), AtomicU64::new(0), Mutex::default());
        Replicas { connection, key: key.to_owned(), needed, limit, patience, turn, asked, last }
    }

    /// Returns when enough replicas have everything that was written before this was called.
    ///
    /// # Errors
    ///
    /// Too few of them had it in time, or the connection failed.
    pub(super) async fn reach(&self) -> RedisResult<()> {
        timeout(self.patience, self.rounds()).await.unwrap_or_else(|_| Err(self.too_few(0)))
    }

    async fn rounds(&self) -> RedisResult<()> {
        let request = self.asked.fetch_add(1, SeqCst) + 1;
        let _turn = self.turn.acquire().await.expect("the semaphore is never closed");
        let mut last = *self.lock();
        // Whoever had the turn before may have waited for us as well.
        if last.up_to < request {
            last = self.round().await?;
            *self.lock() = last;
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
        let told = format!(
            "only {acknowledged} of {needed} replicas have what was written within {limit} (a third of [store] timeout)"
        );
        make_extension_error(TOO_FEW.to_owned(), Some(told))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Round> {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
