//! Invalidations that this process repeats itself (`again`): those of a cache without Redis, and those of writes that Redis
//! has not taken. They are lost if the process ends before.
//!
//! `again` is an intent like any other, for whichever proxy finds it due. Repetitions of the same tags after the same time are
//! one, which later writes postpone: each of them has itself invalidated what was stored before it. Without a store, or while
//! it is away, the process repeats by itself, if it lives that long.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::PendingInvalidations;
use crate::coherence::local_marks::LocalMarks;
use crate::marks::Tag;
use crate::metrics::Metrics;
use crate::store::fleet::Again;
use crate::upkeep::invalidation_log::{InvalidationLog, OriginKind};

/// Everything that is due within one step is repeated at its end.
const STEP: Duration = Duration::from_millis(50);

/// Tags of all steps; beyond that a step invalidates everything.
const MOST: usize = 100_000;

/// Tags by the step in which they are due.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    due: BTreeMap<u64, HashSet<Tag>>,
    /// In all steps.
    tags: usize,
}

impl PendingInvalidations {
    /// Schedules repetitions; [`PendingInvalidations::repeat_delayed`] carries them out.
    pub fn add_delayed(&self, again: &[Again]) {
        for Again { after, tags } in again {
            let due = self.start.elapsed() + *after;
            self.lock().delayed.add(step_of(due), tags);
        }
        self.scheduled.notify_one();
    }

    /// Carries out repetitions when they are due, for ever: in `marks`, or, where there is a Redis (`None`), by adding them to
    /// the undelivered ones.
    pub async fn repeat_delayed(
        self: Arc<Self>,
        marks: Option<Arc<LocalMarks>>,
        metrics: Arc<Metrics>,
        log: Arc<InvalidationLog>,
    ) {
        loop {
            let tags: Vec<Tag> = self.next_delayed().await.into_iter().collect();
            let record = log.record(OriginKind::Again.into(), &tags, &[]);
            match &marks {
                None => {
                    self.add_undelivered(&tags, None);
                    log.add_undelivered(record);
                }
                Some(marks) => {
                    let sequence = marks.invalidate(&tags, &[], &[]).stamp.sequence;
                    log.add(record, sequence, None);
                }
            }
            tracing::debug!(tags = tags.len(), "repeated invalidations (again)");
            metrics.invalidations_repeated.inc();
        }
    }

    /// Waits until something is due, and takes it.
    async fn next_delayed(&self) -> HashSet<Tag> {
        loop {
            let first = self.lock().delayed.due.first_key_value().map(|(step, _)| self.end_of(*step));
            match first {
                None => self.scheduled.notified().await,
                // Something may be added that is due before.
                Some(end) if timeout_at(end, self.scheduled.notified()).await.is_ok() => {}
                Some(end) => {
                    sleep_until(end).await;
                    return self.lock().delayed.take_first();
                }
            }
        }
    }

    fn end_of(&self, step: u64) -> Instant {
        self.start + STEP * u32::try_from(step).unwrap_or(u32::MAX)
    }
}

/// The step at whose end this time is over.
fn step_of(after_start: Duration) -> u64 {
    u64::try_from(after_start.as_nanos().div_ceil(STEP.as_nanos())).unwrap_or(u64::MAX)
}

impl Delayed {
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
    fn too_many_delayed_tags_become_the_root_tag() {
        let mut delayed = Delayed::default();
        delayed.add(1, &families(0..MOST));
        delayed.add(1, &families(0..MOST));
        delayed.add(2, &families(0..3));
        delayed.add(3, &families(0..1));
        assert_eq!(delayed.tags, MOST + 2);
        assert_eq!(delayed.take_first().len(), MOST);
        assert_eq!(
            (delayed.take_first(), delayed.take_first()),
            (HashSet::from([Tag::root()]), [Tag::root()].into())
        );
        assert_eq!(delayed.tags, 0);
        delayed.add(4, &families(0..3));
        assert_eq!(delayed.take_first().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_go_to_the_marks_without_redis_and_are_delivered_with_it() {
        let (marks, tags, metrics) = (Arc::new(LocalMarks::new(1 << 10)), families([1]), Arc::new(Metrics::new()));
        let again = [Again { after: Duration::from_secs(1), tags: tags.clone() }];
        let repeating = |marks: Option<&Arc<LocalMarks>>| {
            let pending = Arc::new(PendingInvalidations::default());
            pending.add_delayed(&again);
            tokio::spawn(Arc::clone(&pending).repeat_delayed(
                marks.cloned(),
                Arc::clone(&metrics),
                Arc::default(),
            ));
            pending
        };
        let (held, stamp) = (marks.hold(&tags), marks.stamp());
        repeating(Some(&marks));
        assert!(marks.view(&held).is_current(stamp), "not yet");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!marks.view(&held).is_current(stamp));
        let pending = repeating(None);
        pending.added().await;
        assert_eq!(pending.batch().unwrap().tags, tags);
        assert_eq!(metrics.invalidations_repeated.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_come_in_the_order_in_which_they_are_due() {
        let pending = Arc::new(PendingInvalidations::default());
        let after = |millis, name| Again { after: Duration::from_millis(millis), tags: families([name]) };
        pending.add_delayed(&[after(2000, 2)]);
        let taker = Arc::clone(&pending);
        let took =
            tokio::spawn(async move { (taker.next_delayed().await, Instant::now(), taker.next_delayed().await) });
        tokio::task::yield_now().await;
        pending.add_delayed(&[after(1000, 1)]);
        let (first, at, second) = took.await.unwrap();
        assert_eq!((first, second), (families([1]).into_iter().collect(), families([2]).into_iter().collect()));
        let since = |millis| pending.start + Duration::from_millis(millis);
        assert!(at >= since(1000) && at < since(2000));
        assert_eq!(pending.lock().delayed.due.len(), 0);
    }
}
