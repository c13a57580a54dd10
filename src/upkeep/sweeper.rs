//! The sweeper: one proxy at a time walks slowly over all entries in Redis, counts them by family, and removes those
//! that a write has invalidated. They would expire anyway; until then they only take up memory.
//!
//! Which proxy sweeps is decided by a lock in Redis, which that proxy renews for as long as it runs, between walks too. If
//! two sweep for a moment, no harm is done: an entry is removed only if it is still the one that was found invalidated.
//!
//! No request waits for the sweeper, and it yields to all: it looks at no more keys a second than configured, never catches
//! up on lost time, pauses while invalidations are undelivered, and abandons a walk when Redis fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::names::{FamilyOwners, SELF_TEST_LABEL};
use crate::entry::Preface;
use crate::marks::{MarksView, Tag};
use crate::metrics::Metrics;
use crate::store::sweep::{Judged, KeyStats, Specimen, Survey, WalkPosition};
use crate::store::{Store, StoreError};
use crate::words::words;

/// How long the lock lasts without renewal.
const LOCK: Duration = Duration::from_secs(6);

/// How often the lock is renewed, or attempted.
const RENEWAL: Duration = Duration::from_secs(2);

/// Keys that Redis looks at in one step, which takes it some tens of microseconds.
const STEP: u64 = 100;

/// The pause while invalidations are undelivered.
const DELIVERY_PAUSE: Duration = Duration::from_millis(250);

words! {
/// What the sweeper of this proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// There is none: `sweep_rate = 0`, or no Redis.
    Off = "off",
    /// Another proxy sweeps, or Redis is away.
    Elsewhere = "elsewhere",
    /// This proxy has the lock, and pauses between two walks.
    Resting = "resting",
    /// It walks.
    Sweeping = "sweeping",
}
}

/// What the sweeper does now, for the admin.
#[derive(Debug, Default)]
pub struct Status(AtomicU8);

impl Status {
    /// What it does now.
    pub fn activity(&self) -> Activity {
        Activity::WORDS.get(usize::from(self.0.load(Relaxed))).map_or(Activity::Off, |(_, activity)| *activity)
    }

    fn set(&self, activity: Activity) {
        self.0.store(activity as u8, Relaxed);
    }
}

/// The sweeper of one proxy.
pub struct Sweeper {
    id: Box<str>,
    store: Arc<dyn Store>,
    /// Whether invalidations are undelivered.
    has_undelivered: Box<dyn Fn() -> bool + Send + Sync>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    /// Keys a second.
    rate: u64,
    pause: Duration,
}

/// Why a walk was abandoned.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another proxy sweeps")]
    LostLock,
}

impl Stopped {
    /// A Redis that refuses will refuse again until an operator changes something: that is logged as a warning, once.
    fn log(&self, logged: &mut Option<String>) {
        match self {
            Stopped::Store(StoreError::Refused(reason)) if logged.as_deref() != Some(reason) => {
                tracing::warn!(reason, "Redis is not swept; invalidated entries stay there until they expire");
                *logged = Some(reason.clone());
            }
            stopped => tracing::debug!(%stopped, "abandoned a walk over the entries in Redis"),
        }
    }
}

impl Sweeper {
    /// The sweeper of the proxy `id`. `rate`: keys that it looks at in a second. `pause`: from one walk to the next.
    pub fn new(
        id: &str,
        store: Arc<dyn Store>,
        has_undelivered: Box<dyn Fn() -> bool + Send + Sync>,
        metrics: Arc<Metrics>,
        (rate, pause): (u64, Duration),
    ) -> Sweeper {
        let status = Arc::default();
        Sweeper { id: id.into(), store, has_undelivered, status, metrics, rate, pause }
    }

    /// What it does now; outlives the sweeper.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Sweeps whenever this proxy has the lock, for ever. `names`: the families in force.
    pub async fn run(self, names: impl Fn() -> FamilyOwners) {
        let tick = self.pause.min(RENEWAL);
        // Not at once: a fleet that starts has other work, and in a rolling deployment each proxy starts.
        let mut not_before = Instant::now() + self.pause;
        let mut logged = None;
        loop {
            sleep(tick.mul_f64(rand::random_range(0.5..=1.0))).await;
            let is_ours = matches!(self.store.hold_sweep(&self.id, LOCK).await, Ok(true));
            self.status.set(if is_ours { Activity::Resting } else { Activity::Elsewhere });
            if !is_ours || Instant::now() < not_before || !self.is_due().await {
                continue;
            }
            self.status.set(Activity::Sweeping);
            match self.sweep(&names()).await {
                Ok(()) => logged = None,
                Err(stopped) => stopped.log(&mut logged),
            }
            not_before = Instant::now() + self.pause;
        }
    }

    /// Whether the last walk of any proxy is long enough ago.
    async fn is_due(&self) -> bool {
        match self.store.key_stats().await {
            Ok(last) => last.is_none_or(|last| last.age >= self.pause),
            Err(_) => false,
        }
    }

    /// One walk; its result is stored in Redis for all proxies.
    async fn sweep(&self, names: &FamilyOwners) -> Result<(), Stopped> {
        let begun = Instant::now();
        let mut key_stats = self.walk(names).await?;
        let took = begun.elapsed();
        key_stats.seconds = took.as_secs();
        // By then the next walk has ended, if there is one.
        self.store.store_key_stats(&key_stats, (self.pause + took + LOCK) * 2).await?;
        let keys: u64 = key_stats.families.values().map(|kept| kept.keys).sum();
        tracing::debug!(keys, removed = key_stats.removed, ?took, "swept the entries in Redis");
        Ok(())
    }

    async fn walk(&self, names: &FamilyOwners) -> Result<KeyStats, Stopped> {
        let mut key_stats = KeyStats { by: self.id.to_string(), ..KeyStats::default() };
        let mut pacer = Pacer::new(self.rate, Instant::now());
        let (mut place, mut renewed) = (Some(WalkPosition::default()), Instant::now());
        while let Some(at) = place {
            sleep_until(pacer.next).await;
            self.pause_for_delivery(&mut renewed).await?;
            let Survey { specimens, next, .. } = self.store.survey(at, pacer.step).await?;
            pacer.looked_at(specimens.len() as u64, Instant::now());
            let invalidated = self.judge(specimens, names, &mut key_stats).await?;
            let removed = self.store.unlink(at, &invalidated).await?;
            key_stats.removed += removed;
            self.metrics.swept.inc_by(removed);
            place = next;
        }
        Ok(key_stats)
    }

    /// Counts the entries that are not invalidated; returns those that are. The marks are read after the entries, as in every
    /// lookup.
    async fn judge(
        &self,
        specimens: Vec<Specimen>,
        names: &FamilyOwners,
        key_stats: &mut KeyStats,
    ) -> Result<Vec<Judged>, StoreError> {
        let met: Vec<Met> = specimens.into_iter().filter(|it| it.label != SELF_TEST_LABEL).map(Met::of).collect();
        let sets: Vec<&[Tag]> = met.iter().filter_map(Met::tags).collect();
        let views = if sets.is_empty() { Vec::new() } else { self.store.views(&sets).await? };
        Ok(sort(met, &views, names, key_stats))
    }

    /// Renews the lock when it is time, and waits while invalidations are undelivered.
    async fn pause_for_delivery(&self, renewed: &mut Instant) -> Result<(), Stopped> {
        loop {
            if renewed.elapsed() >= RENEWAL {
                let sent = Instant::now();
                if !self.store.hold_sweep(&self.id, LOCK).await? {
                    return Err(Stopped::LostLock);
                }
                *renewed = sent;
            }
            if !(self.has_undelivered)() {
                return Ok(());
            }
            sleep(DELIVERY_PAUSE).await;
        }
    }
}

/// An entry of a walk, with its decoded beginning.
struct Met {
    specimen: Specimen,
    preface: Preface,
}

impl Met {
    fn of(specimen: Specimen) -> Met {
        Met { preface: Preface::of(&specimen.beginning), specimen }
    }

    /// Everything that invalidates it, if it can be read.
    fn tags(&self) -> Option<&[Tag]> {
        match &self.preface {
            Preface::Whole { tags, .. } => Some(tags),
            Preface::Wanting(_) | Preface::Foreign => None,
        }
    }
}

/// Counts the entries that are not invalidated; returns those that are. `views`: one for each readable entry, in their order.
fn sort(met: Vec<Met>, views: &[MarksView], names: &FamilyOwners, key_stats: &mut KeyStats) -> Vec<Judged> {
    let (mut views, mut invalidated) = (views.iter(), Vec::new());
    for Met { specimen, preface } in met {
        match preface {
            Preface::Whole { stamp, length, .. } if views.next().is_some_and(|view| !view.is_current(stamp)) => {
                invalidated.push(Judged { name: specimen.name, beginning: specimen.beginning.slice(..length) });
                continue;
            }
            Preface::Whole { .. } => {}
            Preface::Wanting(_) | Preface::Foreign => key_stats.unreadable += 1,
        }
        let kept = key_stats.families.entry(names.of_label(&specimen.label).to_owned()).or_default();
        kept.keys += 1;
        kept.bytes += specimen.bytes;
    }
    invalidated
}

/// How fast a walk goes.
#[derive(Debug)]
struct Pacer {
    /// Keys a second.
    rate: u64,
    /// Keys that one step looks at.
    step: u64,
    /// When the next step may begin.
    next: Instant,
}

impl Pacer {
    fn new(rate: u64, now: Instant) -> Pacer {
        Pacer { rate, step: STEP.min(rate), next: now }
    }

    /// A step that found so many entries has ended. However few they are, Redis has looked at a step's keys for them.
    fn looked_at(&mut self, entries: u64, now: Instant) {
        let cost = Duration::from_secs_f64(entries.max(self.step) as f64 / self.rate as f64);
        // From now, if it is late: lost time is not caught up on.
        self.next = self.next.max(now) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Content, Entry, Seal, VaryIndex};
    use crate::marks::{Epoch, Stamp};

    #[test]
    fn a_walk_keeps_its_rate_and_never_catches_up_on_lost_time() {
        let begun = Instant::now();
        let mut pacer = Pacer::new(1000, begun);
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        let rows = [
            // Entries met, when the step ended, when the next one begins.
            (100, 0.0, 0.1),
            (3, 0.1, 0.2),
            (250, 0.25, 0.5),
            (100, 60.0, 60.1),
            (100, 60.1, 60.2),
        ];
        for (entries, ended, next) in rows {
            pacer.looked_at(entries, at(ended));
            let difference = pacer.next.duration_since(begun).as_secs_f64() - next;
            assert!(difference.abs() < 1e-6, "{entries} at {ended}: {:?}", pacer.next.duration_since(begun));
        }
    }

    #[test]
    fn a_step_looks_at_no_more_keys_than_one_second_allows() {
        for (rate, step) in [(1, 1), (99, 99), (100, 100), (1_000_000, STEP)] {
            assert_eq!(Pacer::new(rate, Instant::now()).step, step, "{rate}");
        }
    }

    fn met(label: &str, beginning: bytes::Bytes) -> Met {
        let name = bytes::Bytes::from(format!("ns:{label}:0:v1"));
        Met::of(Specimen { name, label: label.to_owned(), bytes: 10, beginning })
    }

    #[test]
    fn invalidated_entries_are_removed_and_the_others_counted() {
        let at = |epoch, sequence| Stamp { epoch: Epoch(epoch), sequence };
        let content = || Content::VaryIndex(VaryIndex::default());
        let entry = |stamp| Entry::new("GET http://h/a", stamp, [Tag::root()], content());
        let names: FamilyOwners = ["users".to_owned()].into_iter().collect();
        let whole = |stamp| entry(stamp).encode(&Seal::new("", None), "");
        let all = vec![
            met("users:1", whole(at(1, 20))),
            met("users:2", whole(at(1, 19))),
            met("users:3", bytes::Bytes::from_static(b"LRD1 of long ago")),
            met("-", whole(at(1, 30))),
            met("gone", whole(at(2, 30))),
        ];
        let view = MarksView::hard(at(1, 40), 20);
        let mut key_stats = KeyStats::default();
        let invalidated = sort(all, &[view; 4], &names, &mut key_stats);
        let names: Vec<&[u8]> = invalidated.iter().map(|judged| &judged.name[..]).collect();
        assert_eq!(names, [&b"ns:users:2:0:v1"[..], b"ns:gone:0:v1"]);
        let counts: Vec<_> =
            key_stats.families.iter().map(|(name, kept)| (&**name, kept.keys, kept.bytes)).collect();
        assert_eq!(counts, [("none", 1, 10), ("users", 2, 20)]);
        assert_eq!(key_stats.unreadable, 1);
        // With as much as was judged by: an entry of another stamp does not begin so.
        assert!(!whole(at(1, 20)).starts_with(&invalidated[0].beginning));
        assert!(whole(at(1, 19)).starts_with(&invalidated[0].beginning));
    }
}
