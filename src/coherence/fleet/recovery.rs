//! The recovery gate: when stored responses may be trusted again after an outage of Redis.
//!
//! While Redis is away each proxy forwards writes (`on_outage = "forward"`), answers them when no proxy can hold a lease any more,
//! and keeps their invalidations until it can deliver them. So a proxy that reaches Redis again must not trust it before the
//! others have delivered theirs. The gate is closed before the first sync, when a sync fails, and when a lease lapses. The rules:
//!
//! - The first sync that Redis executes after a silence of the whole fleet raises the *generation* in Redis. A write is
//!   answered undelivered only in an outage that lasts for the longest lease ([`super::Fleet::outlast`]), which is such a
//!   silence.
//! - A proxy syncs only when it has nothing undelivered, and repeats in each sync the generation that it has read in a reply.
//!   So a sync that repeats the generation was sent after the silence, with nothing undelivered. When a sync was executed
//!   shows nothing: Redis may execute it long after its sender gave up.
//! - The gate opens with the reply to a sync of this proxy that shows no member *behind*, that is none that has yet to repeat the
//!   generation, and only once the marks in that reply are applied: they may be what the others have delivered.
//! - A new epoch begins without a silence. Everything stored in it was fetched after Redis's return, and every write that was
//!   answered undelivered had been carried out before that.
//! - A member that does not return within `return_timeout` of the end of the silence is removed. It may have answered writes that it
//!   never delivers, so everything is invalidated first, if this proxy has seen the outage.
//! - A proxy that has never synced is no member, and nothing shows that it is missing. It answers no write undelivered within
//!   `NEWCOMER_HOLD`; after a longer silence, and after one in an epoch that was young, the gate stays closed for `return_timeout`.

use std::num::NonZeroU64;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Fleet, lock};
use crate::marks::Tag;
use crate::store::StoreError;
use crate::store::fleet::{Cause, Generation, Holder, Synced};
use crate::upkeep::invalidation_log::OriginKind;

/// How long a proxy that has never synced holds the answer to a write that it cannot deliver.
pub(super) const NEWCOMER_HOLD: Duration = Duration::from_secs(5);

/// The longest wait for proxies that are no members.
const UNKNOWN_MOST: Duration = Duration::from_secs(5);

/// Which opening of the gate stored responses may be trusted under; `None`: it is closed.
pub type Opening = Option<NonZeroU64>;

/// Whether stored responses may be trusted.
///
/// Every change is made under the lock of `state`, and `opening` is written only there, as part of the change: no reader sees a gate
/// that is half open, and of an opening and a closing at the same time the second sees all of the first. Each opening has a number
/// of its own. So a reader that finds the same number before and after a question to Redis knows that the gate was not closed
/// between ([`Fleet::trusts`]).
#[derive(Debug)]
pub(super) struct RecoveryGate {
    state: Mutex<GateState>,
    /// For readers without the lock: the number of the opening, zero while it is closed.
    opening: AtomicU64,
    opened: Notify,
    /// Within this time after a silence every proxy that can reach Redis has returned.
    return_timeout: Duration,
}

#[derive(Debug)]
struct GateState {
    /// `None`: it is open.
    closed: Option<Closed>,
    /// How often it was opened.
    openings: u64,
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
    /// These members have not returned in time. [`RecoveryGate::open`] opens the gate.
    GiveUp {
        awaited: Vec<Holder>,
        /// They may have answered writes that are lost now: everything is to be invalidated first.
        saw_outage: bool,
    },
}

impl RecoveryGate {
    /// Closed, as it is before the first sync.
    pub fn new(return_timeout: Duration) -> RecoveryGate {
        RecoveryGate {
            state: Mutex::new(GateState { closed: Some(Closed::default()), openings: 0 }),
            opening: AtomicU64::new(0),
            opened: Notify::new(),
            return_timeout,
        }
    }

    /// The opening that is in force.
    pub fn opening(&self) -> Opening {
        NonZeroU64::new(self.opening.load(SeqCst))
    }

    /// Whether stored responses may be trusted.
    pub fn is_open(&self) -> bool {
        self.opening().is_some()
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        let mut opened = std::pin::pin!(self.opened.notified());
        loop {
            // From here on a notification counts, also before it is awaited.
            opened.as_mut().enable();
            if self.is_open() {
                return;
            }
            opened.as_mut().await;
            opened.set(self.opened.notified());
        }
    }

    /// Closes it: a sync has failed, or the lease has lapsed. `seen`: the generation that was read last.
    pub fn close(&self, seen: Option<Generation>) {
        let mut state = lock(&self.state);
        self.opening.store(0, SeqCst);
        // What was read while it was closed was read after the outage.
        let seen = state.closed.as_ref().map_or(seen, |closed| closed.seen);
        state.closed = Some(Closed { seen, has_failed: true, ..Closed::default() });
    }

    /// Opens it.
    pub fn open(&self) {
        self.open_locked(&mut lock(&self.state));
    }

    fn open_locked(&self, state: &mut GateState) {
        if state.closed.take().is_some() {
            state.openings += 1;
            self.opening.store(state.openings, SeqCst);
            self.opened.notify_waiters();
        }
    }

    /// The members that are awaited; `None` unless it is closed and a sync was answered since.
    pub fn awaited(&self) -> Option<Vec<Holder>> {
        lock(&self.state).closed.as_ref().filter(|closed| closed.is_answered).map(|closed| closed.awaited.clone())
    }

    /// Takes in the reply to a sync that asked which members are behind, and opens if none is. The reply's marks have been
    /// applied.
    pub fn on_sync(&self, synced: &Synced) -> Verdict {
        let mut state = lock(&self.state);
        let verdict = state.closed.as_mut().map_or(Verdict::Open, |closed| self.judge(closed, synced));
        if verdict == Verdict::Open {
            self.open_locked(&mut state);
        }
        verdict
    }

    fn judge(&self, closed: &mut Closed, synced: &Synced) -> Verdict {
        closed.is_answered = true;
        closed.awaited.clone_from(&synced.behind);
        // By Redis's clock: this proxy may have returned later than others, or more than once.
        let since_silence = Duration::from_micros(synced.clock.saturating_sub(synced.silent_until));
        // A proxy that starts, is connected at once and finds no other has no reason to think that there was an outage.
        let may_be_unknown = synced.unknown_proxies && (closed.has_failed || synced.others > 0);
        if may_be_unknown && since_silence < self.return_timeout.min(UNKNOWN_MOST) {
            return Verdict::Wait;
        }
        if closed.awaited.is_empty() {
            return Verdict::Open;
        }
        if since_silence < self.return_timeout {
            return Verdict::Wait;
        }
        let is_new = closed.seen.is_none_or(|seen| !seen.covers(synced.generation));
        Verdict::GiveUp { awaited: closed.awaited.clone(), saw_outage: closed.has_failed && is_new }
    }
}

impl Fleet {
    /// Opens the gate if a reply shows that no other member has anything left to deliver, or has not returned in time. Only the task
    /// that syncs calls this, and only it closes the gate: nothing closes it between the verdict and the opening.
    pub(super) async fn check_gate(&self, synced: &Synced) -> Result<(), StoreError> {
        let Verdict::GiveUp { awaited, saw_outage } = self.gate.on_sync(synced) else { return Ok(()) };
        if saw_outage {
            // For writes that a lost proxy may have answered, and that will never be delivered.
            self.invalidate_for(OriginKind::Safety, &[Tag::root()], Cause::default()).await?;
        }
        for holder in &awaited {
            let member = &*holder.id;
            if saw_outage {
                // If it has returned by now it has synced, and Redis keeps its record.
                let _ = self.store.dismiss(holder, synced.generation).await;
                tracing::warn!(
                    member,
                    "a proxy of the fleet has not returned after an outage of Redis; it may have answered writes that are lost \
                     now, so everything was invalidated"
                );
            } else {
                // Its record stays for the proxies that saw the outage.
                tracing::info!(
                    member,
                    "a proxy of the fleet has not synced since before this one started; this one waits for it no longer"
                );
            }
        }
        self.gate.open();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::{Epoch, Stamp};
    use crate::store::fleet::{EpochState, Registry};

    const RETURN_TIMEOUT: Duration = Duration::from_secs(2);

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
            registry: Registry::default(),
        }
    }

    fn holders(ids: &[&str]) -> Vec<Holder> {
        let holder = |id: &&str| Holder { id: (*id).into(), lease: Duration::from_secs(1), syncs: 7 };
        ids.iter().map(holder).collect()
    }

    /// A gate of a proxy that had read the first generation before it closed.
    fn closed() -> RecoveryGate {
        let gate = RecoveryGate::new(RETURN_TIMEOUT);
        assert_eq!(gate.on_sync(&reply(1, 5000, &[])), Verdict::Open);
        gate.close(Some(generation(1)));
        gate
    }

    #[test]
    fn a_proxy_without_others_trusts_redis_at_once() {
        for gate in [RecoveryGate::new(RETURN_TIMEOUT), closed()] {
            assert_eq!(gate.awaited(), None);
            assert_eq!(gate.on_sync(&reply(2, 0, &[])), Verdict::Open);
            assert_eq!(gate.on_sync(&reply(2, 0, &["a"])), Verdict::Open, "it stays open");
        }
    }

    #[test]
    fn each_opening_of_the_gate_has_its_own_number() {
        let gate = RecoveryGate::new(RETURN_TIMEOUT);
        assert_eq!(gate.opening(), None);
        gate.open();
        let first = gate.opening();
        gate.open();
        assert_eq!((first, gate.opening()), (NonZeroU64::new(1), first), "it was open");
        gate.close(None);
        gate.close(None);
        assert_eq!(gate.opening(), None);
        gate.open();
        assert_eq!(gate.opening(), NonZeroU64::new(2));
    }

    #[test]
    fn the_gate_stays_closed_while_a_member_is_behind() {
        for gate in [RecoveryGate::new(RETURN_TIMEOUT), closed()] {
            assert_eq!(gate.on_sync(&reply(2, 0, &["a", "b"])), Verdict::Wait);
            assert_eq!(gate.awaited(), Some(holders(&["a", "b"])));
            assert_eq!(gate.on_sync(&reply(2, 10, &["b"])), Verdict::Wait);
            assert_eq!(gate.awaited(), Some(holders(&["b"])));
            assert_eq!(gate.on_sync(&reply(2, 20, &[])), Verdict::Open);
            assert_eq!(gate.awaited(), None);
        }
    }

    #[test]
    fn an_absent_member_is_removed_after_the_timeout() {
        let started = || RecoveryGate::new(RETURN_TIMEOUT);
        let failed_at_first = || {
            let gate = started();
            gate.close(None);
            gate
        };
        let failed_again = || {
            let gate = closed();
            assert_eq!(gate.on_sync(&reply(2, 0, &["a"])), Verdict::Wait);
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
            let gate = gate();
            assert_eq!(gate.on_sync(&reply(generation, 1999, &["a"])), Verdict::Wait);
            let given_up = Verdict::GiveUp { awaited: holders(&["a"]), saw_outage };
            assert_eq!(gate.on_sync(&reply(generation, 2000, &["a"])), given_up);
            gate.open();
            assert_eq!(gate.on_sync(&reply(generation, 2001, &["a"])), Verdict::Open);
        }
    }

    #[test]
    fn the_gate_stays_closed_while_proxies_that_never_synced_may_exist() {
        let after = |unknown_proxies, ago, behind: &[&str]| Synced { unknown_proxies, ..reply(2, ago, behind) };
        for (has_failed, behind, unknown_proxies, ago, expected) in [
            (true, &[][..], false, 0, Verdict::Open),
            (true, &[], true, 0, Verdict::Wait),
            (true, &[], true, 1999, Verdict::Wait),
            (true, &[], true, 2000, Verdict::Open),
            (false, &[], true, 0, Verdict::Open),
            (false, &["a"], true, 0, Verdict::Wait),
        ] {
            let gate = if has_failed { closed() } else { RecoveryGate::new(RETURN_TIMEOUT) };
            assert_eq!(gate.on_sync(&after(unknown_proxies, ago, behind)), expected, "{ago} ms ago");
        }
    }
}
