//! The running Larder: what the proxy and the admin both work on. The rules are swapped whole when the file changes;
//! everything else stays for the life of the process.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use http::Method;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::cache::flight::Flights;
use crate::cache::memory::Memory;
use crate::cache::unanswered::Unanswered;
use crate::config::{Config, LoadError};
use crate::metrics::{FamilyCounters, Metrics, NO_FAMILY};
use crate::rules::{Family, Invalidation, RuleSet};
use crate::semantics::invalidation::StatusSet;
use crate::stamp::Tag;
use crate::store::Store;
use crate::upstream::Upstream;

/// The rules in force, with the counters of their families.
#[derive(Debug)]
pub struct Live {
    pub rules: RuleSet,
    /// By [`crate::rules::Family::id`].
    counters: Vec<FamilyCounters>,
    no_family: FamilyCounters,
    /// When they came into force.
    pub since: SystemTime,
}

impl Live {
    fn new(rules: RuleSet, metrics: &Metrics) -> Live {
        let counters = rules.families().iter().map(|family| metrics.family(&family.name)).collect();
        Live { rules, counters, no_family: metrics.family(NO_FAMILY), since: SystemTime::now() }
    }

    /// The counters of a family by its id, or those of requests without one.
    pub fn counters(&self, family: Option<usize>) -> &FamilyCounters {
        family.and_then(|id| self.counters.get(id)).unwrap_or(&self.no_family)
    }

    /// All counters: of every family in file order, then of requests without one.
    pub fn all_counters(&self) -> impl Iterator<Item = &FamilyCounters> {
        self.counters.iter().chain([&self.no_family])
    }
}

/// Everything that serves requests.
pub struct Running {
    /// As it was at the start. Its rules have moved to [`Running::live`].
    pub config: Config,
    live: ArcSwap<Live>,
    pub cache: Cache,
    pub flights: Arc<Flights>,
    pub unanswered: Arc<Unanswered>,
    pub upstream: Upstream,
    pub metrics: Arc<Metrics>,
    /// Fills, revalidations and writes: they outlive the client that caused them, and shutdown waits for them.
    pub tasks: TaskTracker,
    pub started: Instant,
    /// One reload at a time, so that an older content cannot win.
    reloading: tokio::sync::Mutex<()>,
    /// The faults of the last edit that was refused; guards only itself.
    refused: Mutex<Option<LoadError>>,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// Families in force now.
    pub families: usize,
    /// Invalidation rules in force now.
    pub invalidations: usize,
    /// Tables that changed too but take effect only when Larder is started again.
    pub needs_restart: Vec<&'static str>,
}

impl Running {
    /// Puts the tiers, the client and the rules together.
    pub fn new(
        mut config: Config,
        upstream: Upstream,
        store: Option<Arc<dyn Store>>,
        metrics: Arc<Metrics>,
    ) -> Running {
        let rules = std::mem::take(&mut config.rules);
        let memory = Memory::new(config.memory.capacity, largest_body(&config, &rules), config.memory.marks);
        Running {
            live: ArcSwap::from_pointee(Live::new(rules, &metrics)),
            cache: Cache::new(memory, store, Arc::clone(&metrics)),
            flights: Flights::new(),
            unanswered: Arc::default(),
            upstream,
            metrics,
            tasks: TaskTracker::new(),
            started: Instant::now(),
            reloading: tokio::sync::Mutex::default(),
            refused: Mutex::new(None),
            config,
        }
    }

    /// The rules in force. A request keeps the ones it began with.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// The rules file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.config.file.as_deref()
    }

    /// Reads the file again. A good one takes effect for requests that begin later; a faulty one changes nothing
    /// and is remembered for [`Running::refused`]. What was stored at an earlier time under a definition that comes
    /// into force now is outdated: writes in between may have been mapped by other rules.
    pub async fn reload(&self) -> Result<Reloaded, LoadError> {
        let _turn = self.reloading.lock().await;
        let loaded = Config::load(self.file(), &self.config.overrides, &|name| std::env::var(name).ok());
        self.metrics.rules_faulty.set(i64::from(loaded.is_err()));
        match loaded {
            Ok(mut config) => {
                let live = Live::new(std::mem::take(&mut config.rules), &self.metrics);
                let changed = changed(&self.live().rules, &live.rules);
                if !changed.is_empty() {
                    self.cache.invalidate(&changed).await;
                }
                let reloaded = Reloaded {
                    families: live.rules.families().len(),
                    invalidations: live.rules.invalidations().len(),
                    needs_restart: self.config.differs(&config),
                };
                self.live.store(Arc::new(live));
                *self.lock_refused() = None;
                Ok(reloaded)
            }
            Err(error) => {
                *self.lock_refused() = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Why the last edit of the rules file was refused, if it was.
    pub fn refused(&self) -> Option<LoadError> {
        self.lock_refused().clone()
    }

    fn lock_refused(&self) -> std::sync::MutexGuard<'_, Option<LoadError>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Families whose definition, or whose invalidation rules, are others than before.
fn changed(before: &RuleSet, now: &RuleSet) -> Vec<Tag> {
    let is_same = |family: &Family| {
        before.family(&family.name).is_some_and(|there| {
            there.version == family.version && written(before.outdating(there)) == written(now.outdating(family))
        })
    };
    now.families().iter().filter(|family| !is_same(family)).map(|family| Tag::family(&family.name)).collect()
}

type Written<'r> = (&'r str, &'r [Method], &'r StatusSet, &'r [String]);

/// Rules as they stand in the file, to be compared.
fn written(rules: Vec<&Invalidation>) -> Vec<Written<'_>> {
    rules.into_iter().map(|rule| (&*rule.path, &*rule.methods, &rule.on, &*rule.families)).collect()
}

fn largest_body(config: &Config, rules: &RuleSet) -> u64 {
    let of_families = rules.families().iter().filter_map(|family| family.max_body).max().unwrap_or(0);
    config.memory.max_body.max(of_families)
}
