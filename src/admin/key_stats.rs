//! Entries and bytes of each family: from the last scan of a sweeper, if there is one. Otherwise they are counted, which scans all
//! entries, and is done at most once in two seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::report::{self, KeyStatsReport};
use crate::mutex::lock;
use crate::running::{Live, Running};
use crate::store::sweep::Dated;
use crate::store::{KeyCounts, StoreError};
use crate::upkeep::names::{FamilyOwners, SELF_TEST_LABEL};

/// From the beginning of a count to that of the next.
const PAUSE: Duration = Duration::from_secs(2);

/// Entries after which counting in the store ends.
const LIMIT: u64 = 1_000_000;

type Counted = Result<Arc<CountedKeys>, StoreError>;

/// Entries by family.
#[derive(Debug)]
pub struct CountedKeys {
    pub keys: KeyCounts,
    /// The scan that found them; `None`: they were counted for a request.
    pub swept: Option<Dated>,
    /// When this was found out.
    at: Instant,
}

impl CountedKeys {
    /// How old the counts are.
    pub fn age(&self) -> Duration {
        self.swept.as_ref().map_or(Duration::ZERO, |swept| swept.age) + self.at.elapsed()
    }

    /// Entries of a family, and their bytes where they are known.
    pub fn of(&self, family: &str) -> (Option<u64>, Option<u64>) {
        let kept =
            self.swept.as_ref().map(|swept| swept.key_stats.families.get(family).copied().unwrap_or_default());
        (Some(self.keys.by_family.get(family).copied().unwrap_or(0)), kept.map(|kept| kept.bytes))
    }
}

impl From<Dated> for CountedKeys {
    fn from(swept: Dated) -> CountedKeys {
        let by_family = swept.key_stats.families.iter().map(|(name, kept)| (name.clone(), kept.keys)).collect();
        CountedKeys { keys: KeyCounts { by_family, complete: true }, swept: Some(swept), at: Instant::now() }
    }
}

/// Their fields in JSON, with 0 for families without any.
pub(super) fn key_counts(counts: &CountedKeys, live: &Live) -> Map<String, Value> {
    report::key_counts(&counts.keys, live.rules.families().iter().map(|family| family.name.as_str()))
}
/// The sweeper of the store.
#[derive(Serialize, ToSchema)]
pub(super) struct Swept {
    /// What it does in this proxy: `off`, `elsewhere`, `resting`, `sweeping`.
    sweeper: &'static str,
    /// Its last scan, if the counts come from it; null: they were counted for this request.
    key_stats: Option<KeyStatsReport>,
    /// How long ago the keys were counted; null: they were not.
    counted_seconds_ago: Option<u64>,
}

impl Swept {
    pub(super) fn of(running: &Running, counts: Option<&CountedKeys>) -> Swept {
        let key_stats = counts.and_then(|counts| counts.swept.as_ref()).map(KeyStatsReport::from);
        let counted_seconds_ago = counts.map(|counts| counts.age().as_secs());
        Swept { sweeper: running.cache.sweeping().word(), key_stats, counted_seconds_ago }
    }
}
/// The latest count; none at first.
pub struct KeyStatsCache {
    /// Held while counting. Requests that wait for it share the result.
    turn: Arc<Semaphore>,
    /// When the latest count began, and its result. Guards only itself.
    latest: Arc<Mutex<Option<(Instant, Counted)>>>,
}

impl Default for KeyStatsCache {
    fn default() -> KeyStatsCache {
        KeyStatsCache { turn: Arc::new(Semaphore::new(1)), latest: Arc::default() }
    }
}

impl KeyStatsCache {
    /// Entries by family: those in the store, or those in memory without one.
    pub async fn counts(&self, running: &Arc<Running>) -> Counted {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        if let Some(latest) = self.latest() {
            return latest;
        }
        let (running, latest) = (Arc::clone(running), Arc::clone(&self.latest));
        let began = Instant::now();
        // In a task of its own: a client that leaves does not stop it.
        let count = tokio::spawn(async move {
            let counted = count(&running).await.map(Arc::new);
            *lock(&latest) = Some((began, counted.clone()));
            drop(turn);
            counted
        });
        count.await.unwrap_or_else(|_| Err(StoreError::Refused("the count was aborted".to_owned())))
    }

    fn latest(&self) -> Option<Counted> {
        let latest = lock(&self.latest);
        latest.as_ref().filter(|(began, _)| began.elapsed() < PAUSE).map(|(_, counted)| counted.clone())
    }
}

async fn count(running: &Arc<Running>) -> Result<CountedKeys, StoreError> {
    let at = Instant::now();
    let names = FamilyOwners::of(&running.live().rules);
    let keys = match running.cache.store_handle() {
        Some(store) => match store.key_stats().await? {
            Some(swept) => return Ok(swept.into()),
            None => {
                let mut counts = store.count_keys(LIMIT, &|label| names.of_label(label).to_owned()).await?;
                counts.by_family.remove(SELF_TEST_LABEL);
                counts
            }
        },
        None => {
            let running = Arc::clone(running);
            let counted = tokio::task::spawn_blocking(move || in_memory(&running, &names)).await;
            counted.map_err(|_| StoreError::Refused("the count was aborted".to_owned()))?
        }
    };
    Ok(CountedKeys { keys, swept: None, at })
}

fn in_memory(running: &Running, names: &FamilyOwners) -> KeyCounts {
    let mut by_family: BTreeMap<&str, u64> = BTreeMap::new();
    running.cache.memory().for_each(|entry| {
        *by_family.entry(names.of_tags(&entry.tags.to_vec())).or_default() += 1;
    });
    let by_family = by_family.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    KeyCounts { by_family, complete: true }
}
