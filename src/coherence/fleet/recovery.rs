//! When what is stored may be believed again after an outage.
//!
//! While the store is away each proxy forwards writes (`on_outage = "forward"`), acknowledges them when no lease can run any
//! more, and keeps their invalidations. Whoever reaches the store again must not believe it before the others have delivered
//! theirs. The gate is closed from the first sync that fails, from a lease that lapses, and before the first sync. The rules:
//!
//! - The first sync that is executed after a silence of the whole fleet raises the *generation* in the store. An undelivered write
//!   is acknowledged only in an outage that lasts for the longest lease ([`super::Fleet::outlast`]), which is such a silence.
//! - A proxy syncs only when it has nothing undelivered, and repeats in each sync the generation that it has read in a reply.
//!   So a sync that repeats the generation was sent after the silence, with nothing undelivered. The age of a sync shows
//!   nothing: what was sent before an outage is executed when the store wakes, long after its sender gave up.
//! - The gate opens with the reply to a sync of this proxy that shows no member *behind*, once its marks are applied: evidence
//!   that is newer than the copy of the marks would open it too early.
//! - A new epoch begins with no silence. All that is stored in it was fetched after the store's return, and every write that
//!   was acknowledged undelivered had been carried out before that.
//! - Who does not return within `patience` of the end of the silence is given up. It may have acknowledged writes that it never delivers, so that
//!   everything is invalidated first, if this proxy has seen the outage.
//! - A proxy that has never synced is no member, and nobody can await it. It acknowledges nothing undelivered within
//!   [`NEWCOMER_HOLD`]; after a longer silence, and after one in an epoch that was young, the gate stays closed for `patience`.

use std::time::Duration;

use crate::store::fleet::{Generation, Holder, Synced};

/// How long a proxy that has never synced holds the answer to a write that it cannot deliver.
pub(super) const NEWCOMER_HOLD: Duration = Duration::from_secs(5);

/// The longest that proxies are waited for that nobody knows.
const UNKNOWN_MOST: Duration = Duration::from_secs(5);

/// Whether what is stored may be believed.
#[derive(Debug)]
pub(super) struct RecoveryGate {
    /// None: it is open.
    closed: Option<Closed>,
    /// Within this time after a silence every proxy that can reach the store has returned.
    patience: Duration,
    /// The same for proxies that nobody knows; it is waited for whether there are any or not.
    patience_for_unknown: Duration,
}

#[derive(Debug, Clone, Default)]
struct Closed {
    /// The generation that this proxy had read before it closed.
    seen: Option<Generation>,
    /// A sync has failed since, or the lease has lapsed.
    has_failed: bool,
    /// A sync has been answered since.
    is_answered: bool,
    /// The members that are behind.
    awaited: Vec<Holder>,
}

/// What a reply to a sync means for the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is open.
    Open,
    /// It stays closed for now.
    Wait,
    /// These members have not returned in time. The gate is opened with [`RecoveryGate::open`].
    GiveUp {
        awaited: Vec<Holder>,
        /// They may have acknowledged writes that are lost now: everything is to be invalidated first.
        saw_outage: bool,
    },
}

impl RecoveryGate {
    /// Closed, as it is before the first sync.
    pub fn new(patience: Duration) -> RecoveryGate {
        let patience_for_unknown = patience.min(UNKNOWN_MOST);
        RecoveryGate { closed: Some(Closed::default()), patience, patience_for_unknown }
    }

    /// Closes it: a sync has failed, or came too late. `seen`: the generation that was read last.
    pub fn close(&mut self, seen: Option<Generation>) {
        // What was read while it was closed was read after the outage.
        let seen = self.closed.as_ref().map_or(seen, |closed| closed.seen);
        self.closed = Some(Closed { seen, has_failed: true, ..Closed::default() });
    }

    /// Opens it after members were given up.
    pub fn open(&mut self) {
        self.closed = None;
    }

    /// Whether it is closed although a sync was answered since.
    pub fn is_returning(&self) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.is_answered)
    }

    /// The members that are awaited.
    pub fn awaited(&self) -> &[Holder] {
        self.closed.as_ref().map_or(&[], |closed| &closed.awaited)
    }

    /// The reply to a sync that asked who is behind. Its marks have been applied.
    pub fn hear(&mut self, synced: &Synced) -> Verdict {
        let Some(closed) = &mut self.closed else { return Verdict::Open };
        closed.is_answered = true;
        closed.awaited.clone_from(&synced.behind);
        // Time is the store's: this proxy may have returned later than others, or more than once.
        let since_silence = Duration::from_micros(synced.clock.saturating_sub(synced.silent_until));
        // A proxy that starts, is connected at once and finds no other has no reason to think that there was an outage.
        let may_be_unknown = synced.unknown_proxies && (closed.has_failed || synced.others > 0);
        if may_be_unknown && since_silence < self.patience_for_unknown {
            return Verdict::Wait;
        }
        if closed.awaited.is_empty() {
            self.closed = None;
            return Verdict::Open;
        }
        if since_silence < self.patience {
            return Verdict::Wait;
        }
        let is_new = closed.seen.is_none_or(|seen| !seen.covers(synced.generation));
        Verdict::GiveUp { awaited: closed.awaited.clone(), saw_outage: closed.has_failed && is_new }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::{Epoch, Stamp};
    use crate::store::fleet::EpochState;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn generation(number: u64) -> Generation {
        Generation { epoch: Epoch(1), number }
    }

    /// The reply after so many silences, the last of which ended so many milliseconds ago, with these members behind.
    fn reply(number: u64, ago: u64, behind: &[&str]) -> Synced {
        Synced {
            stamp: Stamp { epoch: Epoch(1), sequence: 1 },
            marks: None,
            soft: Vec::new(),
            due: Vec::new(),
            state: EpochState::default(),
            generation: generation(number),
            behind: holders(behind),
            others: behind.len() as u64,
            silent_until: 10_000_000 - ago * 1000,
            unknown_proxies: false,
            clock: 10_000_000,
        }
    }

    fn holders(ids: &[&str]) -> Vec<Holder> {
        let holder = |id: &&str| Holder { id: (*id).into(), lease: Duration::from_secs(1), syncs: 7 };
        ids.iter().map(holder).collect()
    }

    /// A gate of a proxy that had read the first generation before it closed.
    fn closed() -> RecoveryGate {
        let mut gate = RecoveryGate::new(PATIENCE);
        assert_eq!(gate.hear(&reply(1, 5000, &[])), Verdict::Open);
        gate.close(Some(generation(1)));
        gate
    }

    #[test]
    fn a_proxy_without_others_believes_the_store_at_once() {
        for mut gate in [RecoveryGate::new(PATIENCE), closed()] {
            assert!(!gate.is_returning());
            assert_eq!(gate.hear(&reply(2, 0, &[])), Verdict::Open);
            assert_eq!(gate.hear(&reply(2, 0, &["a"])), Verdict::Open, "it stays open");
        }
    }

    #[test]
    fn the_gate_stays_closed_while_a_member_is_behind() {
        for mut gate in [RecoveryGate::new(PATIENCE), closed()] {
            assert_eq!(gate.hear(&reply(2, 0, &["a", "b"])), Verdict::Wait);
            assert!(gate.is_returning());
            assert_eq!(gate.hear(&reply(2, 10, &["b"])), Verdict::Wait);
            assert_eq!(gate.awaited(), holders(&["b"]));
            assert_eq!(gate.hear(&reply(2, 20, &[])), Verdict::Open);
            assert_eq!(gate.awaited(), []);
        }
    }

    #[test]
    fn an_absent_member_is_given_up_after_patience() {
        let started = || RecoveryGate::new(PATIENCE);
        let failed_at_first = || {
            let mut gate = started();
            gate.close(None);
            gate
        };
        let failed_again = || {
            let mut gate = closed();
            assert_eq!(gate.hear(&reply(2, 0, &["a"])), Verdict::Wait);
            gate.close(Some(generation(2)));
            gate
        };
        for (gate, generation, saw_outage) in [
            (&closed as &dyn Fn() -> RecoveryGate, 2, true),
            (&failed_at_first, 2, true),
            (&failed_again, 2, true),
            (&started, 2, false),
            // A sync has failed since the silence; that was none.
            (&closed, 1, false),
        ] {
            let mut gate = gate();
            assert_eq!(gate.hear(&reply(generation, 1999, &["a"])), Verdict::Wait);
            let given_up = Verdict::GiveUp { awaited: holders(&["a"]), saw_outage };
            assert_eq!(gate.hear(&reply(generation, 2000, &["a"])), given_up);
            gate.open();
            assert_eq!(gate.hear(&reply(generation, 2001, &["a"])), Verdict::Open);
        }
    }

    #[test]
    fn where_there_may_be_proxies_that_nobody_knows_all_wait() {
        let after = |unknown_proxies, ago, behind: &[&str]| Synced { unknown_proxies, ..reply(2, ago, behind) };
        for (has_failed, behind, unknown_proxies, ago, expected) in [
            (true, &[][..], false, 0, Verdict::Open),
            (true, &[], true, 0, Verdict::Wait),
            (true, &[], true, 1999, Verdict::Wait),
            (true, &[], true, 2000, Verdict::Open),
            (false, &[], true, 0, Verdict::Open),
            (false, &["a"], true, 0, Verdict::Wait),
        ] {
            let mut gate = if has_failed { closed() } else { RecoveryGate::new(PATIENCE) };
            assert_eq!(gate.hear(&after(unknown_proxies, ago, behind)), expected, "{ago} ms ago");
        }
    }
}
