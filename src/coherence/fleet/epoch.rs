//! The age of the epoch, and the longest lease of the fleet. When Redis has lost its data a new epoch begins, and it may have lost
//! the records of members that hold a lease: until the epoch is older than the longest lease, writes wait for that.

use std::time::Duration;

use tokio::time::Instant;

use super::{Fleet, lock};
use crate::marks::Epoch;
use crate::store::fleet::Invalidated;

/// What this proxy knows of the epoch.
#[derive(Debug)]
pub(super) struct EpochAge {
    epoch: Option<EpochSeen>,
    /// The longest lease of the fleet.
    longest: Duration,
    /// The epoch has changed, and the reason is not counted yet.
    is_uncounted: bool,
    /// It was logged that a member has another lease.
    has_warned: bool,
}

/// An epoch, and when this proxy first saw it.
#[derive(Debug, Clone, Copy)]
struct EpochSeen {
    epoch: Epoch,
    at: Instant,
    /// This proxy knew another one before, so that it was running when this one began.
    is_change: bool,
}

impl EpochAge {
    /// `lease`: this proxy's own.
    pub fn new(lease: Duration) -> EpochAge {
        EpochAge { epoch: None, longest: lease, is_uncounted: false, has_warned: false }
    }

    /// A reply of Redis is of this epoch. True if the one before was of another.
    fn see(&mut self, epoch: Epoch) -> bool {
        let before = self.epoch.map(|seen| seen.epoch);
        if before == Some(epoch) {
            return false;
        }
        self.epoch = Some(EpochSeen { epoch, at: Instant::now(), is_change: before.is_some() });
        before.is_some()
    }

    /// The age of the epoch seen last, which Redis says is `reported`. Redis's clock may have been set forward since: where this proxy
    /// was running when the epoch began, or with `only_own`, its own clock must agree.
    fn age(&self, reported: Duration, only_own: bool) -> Duration {
        match self.epoch {
            Some(seen) if seen.is_change || only_own => reported.min(seen.at.elapsed()),
            _ => reported,
        }
    }

    /// Redis says that `reported` is the longest lease of the fleet, in an epoch of this age. A younger one than that may not have a
    /// record of all members.
    fn update_longest(&mut self, reported: Duration, own: Duration, age: Duration) {
        let before = if age > self.longest { own } else { self.longest };
        self.longest = before.max(reported).max(own);
    }
}

impl Fleet {
    /// The longest lease that any proxy of the fleet may hold.
    pub fn longest_lease(&self) -> Duration {
        lock(&self.epoch).longest
    }

    /// How much longer members may hold a lease that Redis has lost the record of.
    pub(super) fn unknown_leases(&self, invalidated: &Invalidated) -> Option<Duration> {
        let Invalidated { taken, epoch_age, longest_lease, holders } = invalidated;
        let (age, longest) = self.learn_epoch(taken.stamp.epoch, *epoch_age, *longest_lease, None);
        if let Some(other) = holders.iter().map(|holder| holder.lease).find(|lease| *lease != self.settings.lease)
        {
            self.warn_of_lease(other);
        }
        longest.checked_sub(age).filter(|young| !young.is_zero())
    }

    /// Takes in what Redis says of its epoch. Returns the epoch's age and the longest lease, as far as they can be relied on. `cause`:
    /// why the epoch began, where the reply says so.
    pub(super) fn learn_epoch(
        &self,
        epoch: Epoch,
        age: Duration,
        longest: Duration,
        cause: Option<&str>,
    ) -> (Duration, Duration) {
        let mut known = lock(&self.epoch);
        known.is_uncounted |= known.see(epoch);
        // The reply to an invalidation does not say the cause; that to the next sync does.
        if let Some(cause) = cause.filter(|_| std::mem::take(&mut known.is_uncounted)) {
            self.metrics.epoch_changed(cause);
        }
        let age = known.age(age, self.settings.needs_proof);
        known.update_longest(longest, self.settings.lease, age);
        (age, known.longest)
    }

    /// Logs once that another member has another lease.
    pub(super) fn warn_of_lease(&self, other: Duration) {
        if std::mem::replace(&mut lock(&self.epoch).has_warned, true) {
            return;
        }
        tracing::warn!(
            own = %humantime::format_duration(self.settings.lease),
            other = %humantime::format_duration(other),
            "a proxy of the fleet has another lease; give all Larders of a namespace the same [store] lease"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn an_epoch_seen_to_begin_ages_by_this_proxys_clock_if_redis_jumps_forward() {
        let mut known = EpochAge::new(secs(1));
        assert!(!known.see(Epoch(1)), "the first one may be old");
        assert_eq!(known.age(secs(3600), false), secs(3600));
        assert_eq!(known.age(secs(3600), true), secs(0));
        assert!(known.see(Epoch(2)));
        tokio::time::advance(secs(2)).await;
        assert!(!known.see(Epoch(2)));
        assert_eq!(known.age(secs(3600), false), secs(2));
        assert_eq!(known.age(secs(1), false), secs(1), "set back, or first seen late");
    }

    #[test]
    fn the_longest_lease_is_forgotten_only_in_an_epoch_that_is_older() {
        let mut known = EpochAge::new(secs(1));
        for (reported, age, longest) in [(5, 9, 5), (2, 4, 5), (2, 5, 5), (2, 6, 2), (0, 9, 1)] {
            known.update_longest(secs(reported), secs(1), secs(age));
            assert_eq!(known.longest, secs(longest), "{reported} {age}");
        }
    }
}
