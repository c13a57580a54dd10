//! The sweeper: one proxy at a time walks over all entries in the store, slowly, counts them by family, and removes those
//! that a write has invalidated. They would go by themselves when their time is over; until then they only take up room.
//!
//! Which proxy sweeps is decided by a lease in the store, which it renews, resting or not, for as long as it lives. Should
//! two sweep for a moment, nothing is lost: an entry is removed only if it is still the one that was found invalidated.
//!
//! Nobody waits for the sweeper, and it gives way to everybody: it looks at no more keys a second than it may, never makes
//! up for time lost, rests while invalidations wait for the store, and gives a walk up when the store fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::names::{Names, TRIAL};
use crate::coherence::pending::PendingInvalidations;
use crate::entry::Preface;
use crate::marks::{MarksView, Tag};
use crate::metrics::Metrics;
use crate::store::sweep::{Judged, KeyStats, Specimen, Survey, WalkPosition};
use crate::store::{Store, StoreError};

/// How long another proxy waits before it takes the sweeper's place.
const LEASE: Duration = Duration::from_secs(6);

/// How often it is renewed, or asked for.
const RENEWAL: Duration = Duration::from_secs(2);

/// Keys that the server looks at in one step: some tens of microseconds of its time.
const STEP: u64 = 100;

/// The rest while invalidations wait for the store.
const GIVING_WAY: Duration = Duration::from_millis(250);

/// What the sweeper of this proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// There is none: `sweep_rate = 0`, or no store.
    Off,
    /// Another proxy sweeps, or the store is away.
    Elsewhere,
    /// It is this proxy's turn, and the pause between two walks is not over.
    Resting,
    /// It walks.
    Sweeping,
}

impl Activity {
    const ALL: [Activity; 4] = [Activity::Off, Activity::Elsewhere, Activity::Resting, Activity::Sweeping];

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Activity::Off => "off",
            Activity::Elsewhere => "elsewhere",
            Activity::Resting => "resting",
            Activity::Sweeping => "sweeping",
        }
    }
}

/// What the sweeper does now, for whoever wants to know.
#[derive(Debug, Default)]
pub struct Status(AtomicU8);

impl Status {
    /// What it does now.
    pub fn activity(&self) -> Activity {
        Activity::ALL.get(usize::from(self.0.load(Relaxed))).copied().unwrap_or(Activity::Off)
    }

    fn set(&self, activity: Activity) {
        self.0.store(activity as u8, Relaxed);
    }
}

/// The sweeper of one proxy.
pub struct Sweeper {
    id: Box<str>,
    store: Arc<dyn Store>,
    pending: Arc<PendingInvalidations>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    /// Keys a second.
    rate: u64,
    pause: Duration,
}

/// Why a walk has no result.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another proxy sweeps")]
    LostLease,
}

impl Stopped {
    /// A store that refuses will refuse again, until someone changes something: that is told once. Anything else mends itself.
    fn tell(&self, told: &mut Option<String>) {
        match self {
            Stopped::Store(StoreError::Refused(reason)) if told.as_deref() != Some(reason) => {
                tracing::warn!(
                    reason,
                    "the store is not swept; invalidated entries stay there until their time is over"
                );
                *told = Some(reason.clone());
            }
            stopped => tracing::debug!(%stopped, "a walk over the store's entries was given up"),
        }
    }
}

impl Sweeper {
    /// The sweeper of the proxy `id`. `rate`: keys that it looks at in a second. `pause`: from one walk to the next.
    pub fn new(
        id: &str,
        store: Arc<dyn Store>,
        pending: Arc<PendingInvalidations>,
        metrics: Arc<Metrics>,
        (rate, pause): (u64, Duration),
    ) -> Sweeper {
        let status = Arc::default();
        Sweeper { id: id.into(), store, pending, status, metrics, rate, pause }
    }

    /// What it does now, for as long as it lives and afterwards.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Sweeps for as long as the process lives, when it is this proxy's turn. `names`: the families in force.
    pub async fn keep(self, names: impl Fn() -> Names) {
        let tick = self.pause.min(RENEWAL);
        // A fleet that starts has other things to do; and in one that is deployed anew, each begins.
        let mut not_before = Instant::now() + self.pause;
        let mut told = None;
        loop {
            sleep(tick.mul_f64(rand::random_range(0.5..=1.0))).await;
            let is_ours = matches!(self.store.hold_sweep(&self.id, LEASE).await, Ok(true));
            self.status.set(if is_ours { Activity::Resting } else { Activity::Elsewhere });
            if !is_ours || Instant::now() < not_before || !self.is_due().await {
                continue;
            }
            self.status.set(Activity::Sweeping);
            match self.sweep(&names()).await {
                Ok(()) => told = None,
                Err(stopped) => stopped.tell(&mut told),
            }
            not_before = Instant::now() + self.pause;
        }
    }

    /// Whether the last walk, whoever's it was, is long enough ago.
    async fn is_due(&self) -> bool {
        match self.store.key_stats().await {
            Ok(last) => last.is_none_or(|last| last.age >= self.pause),
            Err(_) => false,
        }
    }

    /// One walk, and its result for everybody to read.
    async fn sweep(&self, names: &Names) -> Result<(), Stopped> {
        let begun = Instant::now();
        let mut key_stats = self.walk(names).await?;
        let took = begun.elapsed();
        key_stats.seconds = took.as_secs();
        // By then the next walk has ended, unless there is none.
        self.store.store_key_stats(&key_stats, (self.pause + took + LEASE) * 2).await?;
        let keys: u64 = key_stats.families.values().map(|kept| kept.keys).sum();
        tracing::debug!(keys, removed = key_stats.removed, ?took, "the store's entries were swept");
        Ok(())
    }

    async fn walk(&self, names: &Names) -> Result<KeyStats, Stopped> {
        let mut key_stats = KeyStats { by: self.id.to_string(), ..KeyStats::default() };
        let mut pacer = Pacer::new(self.rate, Instant::now());
        let (mut place, mut renewed) = (Some(WalkPosition::default()), Instant::now());
        while let Some(at) = place {
            sleep_until(pacer.next).await;
            self.give_way(&mut renewed).await?;
            let Survey { specimens, next } = self.store.survey(at, pacer.step).await?;
            pacer.looked_at(specimens.len() as u64, Instant::now());
            let invalidated = self.judge(specimens, names, &mut key_stats).await?;
            let removed = self.store.unlink(at, &invalidated).await?;
            key_stats.removed += removed;
            self.metrics.swept.inc_by(removed);
            place = next;
        }
        Ok(key_stats)
    }

    /// Counts what is not invalidated; gives what is. The marks are read after the entries, as in every lookup.
    async fn judge(
        &self,
        specimens: Vec<Specimen>,
        names: &Names,
        key_stats: &mut KeyStats,
    ) -> Result<Vec<Judged>, StoreError> {
        let met: Vec<Met> = specimens.into_iter().filter(|it| it.label != TRIAL).map(Met::of).collect();
        let sets: Vec<&[Tag]> = met.iter().filter_map(Met::tags).collect();
        let views = if sets.is_empty() { Vec::new() } else { self.store.views(&sets).await? };
        Ok(sort(met, &views, names, key_stats))
    }

    /// Renews the lease when it is time, and waits while others need the store more.
    async fn give_way(&self, renewed: &mut Instant) -> Result<(), Stopped> {
        loop {
            if renewed.elapsed() >= RENEWAL {
                let sent = Instant::now();
                if !self.store.hold_sweep(&self.id, LEASE).await? {
                    return Err(Stopped::LostLease);
                }
                *renewed = sent;
            }
            if !self.pending.has_undelivered() {
                return Ok(());
            }
            sleep(GIVING_WAY).await;
        }
    }
}

/// An entry that was met, with what its beginning tells.
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

/// Counts what is not invalidated; gives what is. `views`: one for each that can be read, in their order.
fn sort(met: Vec<Met>, views: &[MarksView], names: &Names, key_stats: &mut KeyStats) -> Vec<Judged> {
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

    /// A step has ended that met so many entries. However few they are, the server has looked at a step's keys for them.
    fn looked_at(&mut self, entries: u64, now: Instant) {
        let cost = Duration::from_secs_f64(entries.max(self.step) as f64 / self.rate as f64);
        // From now, if it is late: time lost is not made up for.
        self.next = self.next.max(now) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Content, Entry, Seal, VaryIndex};
    use crate::marks::{Epoch, Stamp};

    #[test]
    fn a_walk_keeps_to_its_rate_and_makes_up_for_nothing() {
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
    fn a_step_never_looks_at_more_than_a_second_may() {
        for (rate, step) in [(1, 1), (99, 99), (100, 100), (1_000_000, STEP)] {
            assert_eq!(Pacer::new(rate, Instant::now()).step, step, "{rate}");
        }
    }

    fn met(label: &str, beginning: bytes::Bytes) -> Met {
        let name = bytes::Bytes::from(format!("ns:v1:{label}:0"));
        Met::of(Specimen { name, label: label.to_owned(), bytes: 10, beginning })
    }

    #[test]
    fn what_is_invalidated_goes_and_the_rest_is_counted() {
        let at = |epoch, sequence| Stamp { epoch: Epoch(epoch), sequence };
        let entry = |stamp| Entry {
            text: "GET http://h/a".into(),
            stamp,
            tags: [Tag::root()].into(),
            content: Content::VaryIndex(VaryIndex { on: Vec::new(), known: Vec::new() }),
        };
        let names: Names = ["users".to_owned()].into_iter().collect();
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
        assert_eq!(names, [&b"ns:v1:users:2:0"[..], b"ns:v1:gone:0"]);
        let counts: Vec<_> =
            key_stats.families.iter().map(|(name, kept)| (&**name, kept.keys, kept.bytes)).collect();
        assert_eq!(counts, [("none", 1, 10), ("users", 2, 20)]);
        assert_eq!(key_stats.unreadable, 1);
        // With as much as was judged by: an entry of another stamp does not begin so.
        assert!(!whole(at(1, 20)).starts_with(&invalidated[0].beginning));
        assert!(whole(at(1, 19)).starts_with(&invalidated[0].beginning));
    }
}
