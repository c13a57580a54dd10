//! Invalidations that this process repeats itself (`again`): those of a cache without a store, and of writes that the
//! store has not heard of. The others are in the store, where they outlive this process.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::undelivered::UndeliveredInvalidations;
use crate::cache::memory::Memory;
use crate::marks::Tag;
use crate::metrics::Metrics;
use crate::store::fleet::Again;

/// What is due within one step is repeated at its end, together.
const STEP: Duration = Duration::from_millis(50);

/// Tags kept; beyond that a step invalidates everything.
const MOST: usize = 100_000;

/// Repetitions to come.
pub struct DelayedInvalidations {
    waiting: Arc<Waiting>,
    memory: Arc<Memory>,
    /// Of the store, if there is one: what is repeated goes there, and is delivered.
    undelivered: Option<Arc<UndeliveredInvalidations>>,
    metrics: Arc<Metrics>,
    /// Carries them out; begun with the first.
    task: OnceLock<AbortOnDropHandle<()>>,
}

struct Waiting {
    start: Instant,
    steps: Mutex<Steps>,
    wake: Notify,
}

/// What is due, by steps after the start.
#[derive(Debug, Default)]
struct Steps {
    due: BTreeMap<u64, HashSet<Tag>>,
    /// In all of them.
    tags: usize,
}

impl DelayedInvalidations {
    /// None to come.
    pub fn new(
        memory: Arc<Memory>,
        undelivered: Option<Arc<UndeliveredInvalidations>>,
        metrics: Arc<Metrics>,
    ) -> DelayedInvalidations {
        let waiting = Waiting { start: Instant::now(), steps: Mutex::default(), wake: Notify::new() };
        DelayedInvalidations { waiting: Arc::new(waiting), memory, undelivered, metrics, task: OnceLock::new() }
    }

    /// Repeats these later, unless the process ends before. Call it inside a tokio runtime.
    pub fn keep(&self, repetitions: &[Again]) {
        for again in repetitions {
            self.waiting.keep(again);
        }
        if !repetitions.is_empty() {
            self.task.get_or_init(|| AbortOnDropHandle::new(tokio::spawn(self.go_on())));
        }
    }

    fn go_on(&self) -> impl Future<Output = ()> + use<> {
        let (waiting, memory, undelivered) =
            (Arc::clone(&self.waiting), Arc::clone(&self.memory), self.undelivered.clone());
        let metrics = Arc::clone(&self.metrics);
        async move {
            loop {
                let tags: Vec<Tag> = waiting.next().await.into_iter().collect();
                match &undelivered {
                    Some(undelivered) => undelivered.keep(&tags, None),
                    None => {
                        memory.invalidate(&tags, &[]);
                    }
                }
                tracing::debug!(tags = tags.len(), "invalidations were repeated (again)");
                metrics.invalidations_repeated.inc();
            }
        }
    }
}

impl Waiting {
    fn keep(&self, again: &Again) {
        let due = self.start.elapsed() + again.after;
        self.lock().add(step_of(due), &again.tags);
        self.wake.notify_one();
    }

    /// Waits until something is due, and takes it.
    async fn next(&self) -> HashSet<Tag> {
        loop {
            let first = self.lock().due.first_key_value().map(|(step, _)| self.end_of(*step));
            match first {
                None => self.wake.notified().await,
                // Something else may come that is due before.
                Some(end) if timeout_at(end, self.wake.notified()).await.is_ok() => {}
                Some(end) => {
                    sleep_until(end).await;
                    return self.lock().take_first();
                }
            }
        }
    }

    fn end_of(&self, step: u64) -> Instant {
        self.start + STEP * u32::try_from(step).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Steps> {
        // A panic while it was held leaves it usable: at worst a count is too high.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The step at whose end this time is over.
fn step_of(after_start: Duration) -> u64 {
    u64::try_from(after_start.as_nanos().div_ceil(STEP.as_nanos())).unwrap_or(u64::MAX)
}

impl Steps {
    fn add(&mut self, step: u64, tags: &[Tag]) {
        let due = self.due.entry(step).or_default();
        let before = due.len();
        due.extend(tags.iter().cloned());
        self.tags = self.tags - before + due.len();
        if self.tags > MOST {
            self.tags = self.tags - due.len() + 1;
            *due = HashSet::from([Tag::root()]);
        }
    }

    fn take_first(&mut self) -> HashSet<Tag> {
        let tags = self.due.pop_first().map(|(_, tags)| tags).unwrap_or_default();
        self.tags -= tags.len();
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(names: impl IntoIterator<Item = usize>) -> Vec<Tag> {
        names.into_iter().map(|name| Tag::family(&name.to_string())).collect()
    }

    #[test]
    fn a_step_ends_when_its_time_is_over() {
        for (millis, step) in [(0, 0), (1, 1), (49, 1), (50, 1), (51, 2), (3_600_000, 72_000)] {
            assert_eq!(step_of(Duration::from_millis(millis)), step, "{millis} ms");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_overflow_is_everything() {
        let mut steps = Steps::default();
        steps.add(1, &families(0..MOST));
        steps.add(1, &families(0..MOST));
        steps.add(2, &families(0..3));
        steps.add(3, &families(0..1));
        assert_eq!(steps.tags, MOST + 2);
        assert_eq!(steps.take_first().len(), MOST);
        assert_eq!((steps.take_first(), steps.take_first()), (HashSet::from([Tag::root()]), [Tag::root()].into()));
        assert_eq!(steps.tags, 0);
        steps.add(4, &families(0..3));
        assert_eq!(steps.take_first().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_has_not_heard_of_goes_to_the_backlog_and_what_has_no_store_to_the_marks() {
        let (memory, undelivered) =
            (Arc::new(Memory::new(1 << 20, 1 << 10, 1 << 10)), Arc::new(UndeliveredInvalidations::default()));
        let (tags, metrics) = (families([1]), Arc::new(Metrics::new()));
        let again = Again { after: Duration::from_secs(1), tags: tags.clone() };
        let stamp = memory.marks.stamp();
        let embedded = DelayedInvalidations::new(Arc::clone(&memory), None, Arc::clone(&metrics));
        embedded.keep(std::slice::from_ref(&again));
        assert!(memory.view(&tags).is_current(stamp), "not yet");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!memory.view(&tags).is_current(stamp));
        let shared = DelayedInvalidations::new(memory, Some(Arc::clone(&undelivered)), Arc::clone(&metrics));
        shared.keep(&[again]);
        undelivered.kept().await;
        assert_eq!(undelivered.batch().unwrap().tags, tags);
        assert_eq!(metrics.invalidations_repeated.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_first_comes_first_whenever_it_was_kept() {
        let waiting = Arc::new(Waiting { start: Instant::now(), steps: Mutex::default(), wake: Notify::new() });
        let after = |millis, name| Again { after: Duration::from_millis(millis), tags: families([name]) };
        waiting.keep(&after(2000, 2));
        let taker = Arc::clone(&waiting);
        let took = tokio::spawn(async move { (taker.next().await, Instant::now(), taker.next().await) });
        tokio::task::yield_now().await;
        waiting.keep(&after(1000, 1));
        let (first, at, second) = took.await.unwrap();
        assert_eq!((first, second), (families([1]).into_iter().collect(), families([2]).into_iter().collect()));
        assert!(
            at >= waiting.start + Duration::from_millis(1000) && at < waiting.start + Duration::from_millis(2000)
        );
        assert_eq!(waiting.lock().due.len(), 0);
    }
}
