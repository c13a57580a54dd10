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
//! - Who does not return within `patience` is given up. It may have acknowledged writes that it never delivers, so that
//!   everything is invalidated first, if this proxy has seen the outage.
//! - A proxy that has never synced is no member, and nobody can await it. It acknowledges nothing undelivered within
//!   [`NEWCOMER_HOLD`]; after a longer silence, and after one in an epoch that was young, the gate stays closed for `patience`.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::fleet::{Holder, Strangers, Synced};

/// How long a proxy that has never synced holds the answer to a write that it cannot deliver.
pub(super) const NEWCOMER_HOLD: Duration = Duration::from_secs(5);

/// The longest that proxies are waited for that nobody knows.
const STRANGERS_MOST: Duration = Duration::from_secs(5);

/// Whether what is stored may be believed.
#[derive(Debug)]
pub(super) struct RecoveryGate {
    /// None: it is open.
    closed: Option<Closed>,
    /// Within this time every proxy that can reach the store has returned.
    patience: Duration,
    /// The same for proxies that nobody knows; it is waited for whether there are any or not.
    patience_for_strangers: Duration,
}

#[derive(Debug, Clone, Default)]
struct Closed {
    /// A sync has failed since, or the lease has lapsed.
    saw_outage: bool,
    /// When the first sync was sent that was answered since.
    since: Option<Instant>,
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
        let patience_for_strangers = patience.min(STRANGERS_MOST);
        RecoveryGate { closed: Some(Closed::default()), patience, patience_for_strangers }
    }

    /// Closes it: a sync has failed, or came too late.
    pub fn close(&mut self) {
        self.closed = Some(Closed { saw_outage: true, ..Closed::default() });
    }

    /// Opens it after members were given up.
    pub fn open(&mut self) {
        self.closed = None;
    }

    /// Whether it is closed although a sync was answered since.
    pub fn is_returning(&self) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.since.is_some())
    }

    /// The members that are awaited.
    pub fn awaited(&self) -> &[Holder] {
        self.closed.as_ref().map_or(&[], |closed| &closed.awaited)
    }

    /// The reply to a sync that was sent at `sent`, and asked who is behind if the gate was closed. Its marks have been applied.
    /// `knew_other_epoch`: this proxy has known an epoch before the present one.
    pub fn hear(&mut self, sent: Instant, synced: &Synced, knew_other_epoch: bool) -> Verdict {
        let Some(closed) = &mut self.closed else { return Verdict::Open };
        let since = *closed.since.get_or_insert(sent);
        closed.awaited.clone_from(&synced.behind);
        let may_be_strangers = closed.may_be_strangers(synced, knew_other_epoch, self.patience_for_strangers);
        if closed.awaited.is_empty() && !may_be_strangers {
            self.closed = None;
            return Verdict::Open;
        }
        if may_be_strangers || sent < since + self.patience {
            return Verdict::Wait;
        }
        Verdict::GiveUp { awaited: closed.awaited.clone(), saw_outage: closed.saw_outage }
    }
}

impl Closed {
    /// Whether there may be proxies with something to deliver that are not among the members. A proxy that starts, is connected at
    /// once and finds no other has no reason to think that there was an outage.
    fn may_be_strangers(&self, synced: &Synced, knew_other_epoch: bool, patience: Duration) -> bool {
        let passed = Duration::from_micros(synced.clock.saturating_sub(synced.silent_until));
        let is_outage = self.saw_outage || synced.others > 0;
        let are_hidden = match synced.strangers {
            Strangers::None => false,
            Strangers::OfEpochBefore => knew_other_epoch,
            Strangers::Any => true,
        };
        is_outage && are_hidden && passed < patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::{Epoch, Stamp};
    use crate::store::fleet::{EpochState, Generation};

    const PATIENCE: Duration = Duration::from_secs(2);

    /// The reply in an epoch, after so many silences, with these members behind.
    fn reply(epoch: u64, number: u64, behind: &[&str]) -> Synced {
        Synced {
            stamp: Stamp { epoch: Epoch(epoch), sequence: 1 },
            marks: None,
            softened: Vec::new(),
            due: Vec::new(),
            state: EpochState::default(),
            generation: Generation { epoch: Epoch(epoch), number },
            behind: holders(behind),
            others: behind.len() as u64,
            silent_until: 9_000_000,
            strangers: Strangers::None,
            clock: 10_000_000,
        }
    }

    fn holders(ids: &[&str]) -> Vec<Holder> {
        let holder = |id: &&str| Holder { id: (*id).into(), lease: Duration::from_secs(1), syncs: 7 };
        ids.iter().map(holder).collect()
    }

    /// A gate that was open in epoch 1 and is closed.
    fn closed() -> RecoveryGate {
        let mut gate = RecoveryGate::new(PATIENCE);
        assert_eq!(gate.hear(Instant::now(), &reply(1, 0, &[]), true), Verdict::Open);
        gate.close();
        gate
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_proxy_without_others_believes_the_store_at_once() {
        for mut gate in [RecoveryGate::new(PATIENCE), closed()] {
            assert_eq!(gate.hear(Instant::now(), &reply(1, 1, &[]), true), Verdict::Open);
            assert_eq!(gate.hear(Instant::now(), &reply(1, 1, &["a"]), true), Verdict::Open, "it stays open");
        }
    }

    #[test]
    fn the_gate_stays_closed_while_a_member_is_behind() {
        for mut gate in [RecoveryGate::new(PATIENCE), closed()] {
            let start = Instant::now();
            assert_eq!(gate.hear(start, &reply(1, 1, &["a", "b"]), true), Verdict::Wait);
            assert_eq!(gate.hear(at(start, 10), &reply(1, 1, &["b"]), true), Verdict::Wait);
            assert_eq!(gate.awaited(), holders(&["b"]));
            assert_eq!(gate.hear(at(start, 20), &reply(1, 1, &[]), true), Verdict::Open);
            assert_eq!(gate.awaited(), []);
        }
    }

    #[test]
    fn who_does_not_return_is_given_up_after_patience() {
        let mut failed_at_first = RecoveryGate::new(PATIENCE);
        failed_at_first.close();
        for (mut gate, saw_outage) in
            [(closed(), true), (failed_at_first, true), (RecoveryGate::new(PATIENCE), false)]
        {
            let start = Instant::now();
            assert_eq!(gate.hear(start, &reply(1, 5, &["a"]), true), Verdict::Wait);
            assert_eq!(gate.hear(at(start, 1999), &reply(1, 5, &["a"]), true), Verdict::Wait);
            let given_up = Verdict::GiveUp { awaited: holders(&["a"]), saw_outage };
            assert_eq!(gate.hear(at(start, 2000), &reply(1, 5, &["a"]), true), given_up);
            gate.open();
            assert_eq!(gate.hear(at(start, 2001), &reply(1, 5, &["a"]), true), Verdict::Open);
        }
    }

    #[test]
    fn an_epoch_without_a_silence_is_believed_at_once() {
        assert_eq!(closed().hear(Instant::now(), &reply(2, 0, &[]), true), Verdict::Open);
    }

    #[test]
    fn where_there_may_be_proxies_that_nobody_knows_patience_counts_from_the_end_of_the_silence() {
        use Strangers::{Any, OfEpochBefore};
        let after = |strangers, ago: u64, behind: &[&str]| Synced {
            silent_until: 10_000_000 - ago * 1000,
            strangers,
            ..reply(1, 5, behind)
        };
        let start = Instant::now();
        for (sees_outage, behind, strangers, knew_other_epoch, ago, expected) in [
            (true, &[][..], Strangers::None, true, 0, Verdict::Open),
            (true, &[], Any, false, 0, Verdict::Wait),
            (true, &[], OfEpochBefore, true, 0, Verdict::Wait),
            (true, &[], OfEpochBefore, false, 0, Verdict::Open),
            (true, &[], Any, true, 1999, Verdict::Wait),
            (true, &[], Any, true, 2000, Verdict::Open),
            (false, &[], Any, false, 0, Verdict::Open),
            (false, &["a"], Any, false, 0, Verdict::Wait),
        ] {
            let mut gate = if sees_outage { closed() } else { RecoveryGate::new(PATIENCE) };
            let heard = gate.hear(start, &after(strangers, ago, behind), knew_other_epoch);
            assert_eq!(heard, expected, "{strangers:?} {ago} ms ago");
        }
    }

    #[test]
    fn patience_is_counted_from_the_last_return() {
        let (mut gate, start) = (closed(), Instant::now());
        assert_eq!(gate.hear(start, &reply(1, 1, &["a"]), true), Verdict::Wait);
        gate.close();
        assert_eq!(gate.hear(at(start, 2000), &reply(1, 2, &["a"]), true), Verdict::Wait);
        let given_up = Verdict::GiveUp { awaited: holders(&["a"]), saw_outage: true };
        assert_eq!(gate.hear(at(start, 4000), &reply(1, 2, &["a"]), true), given_up);
    }
}
