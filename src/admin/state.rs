//! The state shared by the handlers: the running Larder, and what they remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::Json;
use axum::extract::State;

use super::key_stats::{CountedKeys, KeyStatsCache};
use super::refusal::Refusal;
use super::report::{CacheInfo, Connections, Performance, Process, Success, Tier};
use super::routes::Routes;
use super::walk::LastWalk;
use crate::cache::StoreState;
use crate::running::Running;
use crate::store;

/// The state as routers hold it.
pub type Shared = Arc<AdminState>;
/// The state as handlers take it.
pub type At = State<Shared>;
/// What most handlers answer.
pub type Answer<T> = Result<Json<Success<T>>, Refusal>;

/// The state shared by the handlers.
pub struct AdminState {
    running: Arc<Running>,
    routes: Arc<Routes>,
    /// The OpenAPI document as JSON, for an admin with and without tokens.
    descriptions: [String; 2],
    key_stats: KeyStatsCache,
    last_walk: LastWalk,
    /// Highest seen use of L1, bytes.
    peak: AtomicU64,
}

impl AdminState {
    /// The state for this Larder.
    pub fn new(running: Arc<Running>, routes: Arc<Routes>, descriptions: [String; 2]) -> AdminState {
        AdminState {
            running,
            routes,
            descriptions,
            key_stats: KeyStatsCache::default(),
            last_walk: LastWalk::default(),
            peak: AtomicU64::new(0),
        }
    }

    /// The running Larder.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// What routes there are.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The last walk over memory.
    pub fn last_walk(&self) -> &LastWalk {
        &self.last_walk
    }

    /// The OpenAPI document, as JSON.
    pub fn description(&self, has_tokens: bool) -> &str {
        &self.descriptions[usize::from(!has_tokens)]
    }

    /// The tier that entries are in: the store, or this process.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn tier(&self) -> Result<Tier, Refusal> {
        let Some(store) = self.running.cache.store_handle() else { return Ok(Tier::embedded(self.process())) };
        if let StoreState::Down(reason) = self.running.cache.store_state() {
            return Err(Refusal::store_away(&reason));
        }
        let info = store.info().await.map_err(|error| Refusal::store_away(&error.to_string()))?;
        Ok(Tier::of_redis(&info))
    }

    /// Bytes in L1, now and the highest seen.
    pub fn note_usage(&self) -> (u64, u64) {
        let used = self.running.cache.usage().bytes;
        (used, self.peak.fetch_max(used, Relaxed).max(used))
    }

    fn process(&self) -> Process {
        let (used, peak) = self.note_usage();
        let metrics = &self.running.metrics;
        Process {
            used,
            capacity: self.running.cache.usage().capacity,
            peak,
            resident: resident(),
            connections: Connections {
                connected_clients: u64::try_from(metrics.connections.get()).unwrap_or(0),
                total_connections_received: metrics.connections_total.get(),
                uptime_in_seconds: self.running.started.elapsed().as_secs(),
            },
        }
    }

    /// Entries by family.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn counts(&self) -> Result<Arc<CountedKeys>, Refusal> {
        let counted = self.key_stats.counts(&self.running).await;
        counted.map_err(|error| Refusal::store_away(&error.to_string()))
    }

    /// The last scan of a sweeper, if there is one and the store answers.
    pub async fn key_stats_stored(&self) -> Option<store::sweep::KeyStats> {
        let kept = self.running.cache.store_handle()?.key_stats().await;
        Some(kept.ok()??.key_stats)
    }

    /// The tier and its state.
    pub fn cache_info(&self, tier: &Tier, performance: &Performance) -> CacheInfo {
        CacheInfo::new(tier, performance, self.running.cache.undelivered())
    }
}

/// Resident memory of this process, bytes, where the system reports it.
pub fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
