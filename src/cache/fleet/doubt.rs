//! What the store may not know yet when it is back. While it is away each proxy forwards writes (`on_outage = "forward"`),
//! acknowledges them when no lease runs any more, and keeps what they outdate for itself. Whoever reaches the store first
//! again must not believe it before the others have delivered.
//!
//! A proxy that keeps something does not sync before that is delivered, so that a sync shows that it has. It is waited for
//! those who were members when the store came back; where a new epoch shows that the store has lost them, or where members
//! are not recorded (strict proxies), and for those who do not come, for a time in which each proxy that can reach the
//! store has connected again. Who has not by then is cut off by itself, which is what `on_outage = "refuse"` is for.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::stamp::Epoch;
use crate::store::fleet::Member;

/// Whether others may have something to deliver.
#[derive(Debug)]
pub(super) struct Doubt {
    stage: Stage,
    /// For who does not come.
    patience: Duration,
}

#[derive(Debug)]
enum Stage {
    /// The store does not answer. The epoch as it was; `None` if it has not answered this proxy before.
    Away(Option<Epoch>),
    /// It does since then.
    Back {
        since: Instant,
        awaited: Awaited,
    },
    Over,
}

#[derive(Debug)]
enum Awaited {
    /// Nobody knows whom: only time helps.
    Anybody,
    These(HashSet<Box<str>>),
}

impl Doubt {
    /// None yet: a proxy that begins believes the store. Should that have come back just now, and another proxy not yet,
    /// nobody could tell.
    pub fn new(patience: Duration) -> Doubt {
        Doubt { stage: Stage::Over, patience }
    }

    /// The store does not answer; it did in this epoch before.
    pub fn away(&mut self, epoch: Option<Epoch>) {
        self.stage = Stage::Away(epoch);
    }

    /// The store has answered a sync before `asked`, and these are the other members as it said then. `are_recorded`: every
    /// proxy is a member. True if there is no doubt any more.
    pub fn hear(&mut self, asked: Instant, epoch: Epoch, others: &[Member], are_recorded: bool) -> bool {
        if let Stage::Away(before) = self.stage {
            let awaited = match before {
                Some(_) if !are_recorded => Awaited::Anybody,
                Some(before) if before != epoch => Awaited::Anybody,
                Some(_) => Awaited::These(others.iter().map(|member| member.id.clone()).collect()),
                // Who is in time was there all along.
                None => Awaited::These(
                    others.iter().filter(|it| it.synced > it.lease).map(|it| it.id.clone()).collect(),
                ),
            };
            self.stage = Stage::Back { since: asked, awaited };
        }
        if let Stage::Back { since, awaited } = &mut self.stage {
            let elapsed = asked.saturating_duration_since(*since);
            if let Awaited::These(ids) = awaited {
                // What a proxy sent before the outage may be carried out when the store wakes: only what came after this
                // proxy's own sync counts.
                let has_come = |id: &str| others.iter().any(|it| *it.id == *id && it.synced < elapsed);
                ids.retain(|id| !has_come(id));
            }
            let is_nobody = matches!(awaited, Awaited::These(ids) if ids.is_empty());
            if is_nobody || elapsed >= self.patience {
                self.stage = Stage::Over;
            }
        }
        matches!(self.stage, Stage::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);
    const LEASE: Duration = Duration::from_secs(1);

    fn member(id: &str, synced_ago: u64) -> Member {
        Member { id: id.into(), lease: LEASE, synced: Duration::from_millis(synced_ago), applied: None }
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_proxy_that_started_without_the_store_waits_for_those_who_are_late() {
        let start = Instant::now();
        let mut doubt = Doubt::new(PATIENCE);
        doubt.away(None);
        assert!(doubt.hear(start, Epoch(1), &[member("a", 200)], true), "all are in time");
        doubt.away(None);
        assert!(!doubt.hear(start, Epoch(1), &[member("a", 200), member("b", 1200)], true));
        assert!(!doubt.hear(at(start, 250), Epoch(1), &[member("a", 200), member("b", 1450)], true));
        assert!(doubt.hear(at(start, 500), Epoch(1), &[member("a", 450), member("b", 10)], true), "b has come");
    }

    #[test]
    fn after_an_outage_everybody_has_to_sync_anew() {
        let start = Instant::now();
        let mut doubt = Doubt::new(PATIENCE);
        assert!(doubt.hear(start, Epoch(1), &[], true));
        doubt.away(Some(Epoch(1)));
        // What `a` sent before the store hung was carried out as it woke.
        assert!(!doubt.hear(start, Epoch(1), &[member("a", 5)], true));
        assert!(!doubt.hear(at(start, 250), Epoch(1), &[member("a", 255)], true));
        assert!(doubt.hear(at(start, 500), Epoch(1), &[member("a", 20)], true));
    }

    #[test]
    fn who_does_not_come_is_waited_for_no_longer_than_patience() {
        let start = Instant::now();
        let mut doubt = Doubt::new(PATIENCE);
        doubt.away(Some(Epoch(1)));
        assert!(!doubt.hear(start, Epoch(1), &[member("a", 9000)], true));
        assert!(!doubt.hear(at(start, 2999), Epoch(1), &[], true), "expelled meanwhile");
        assert!(doubt.hear(at(start, 3000), Epoch(1), &[], true));
    }

    #[test]
    fn where_members_are_lost_or_not_recorded_only_time_helps() {
        for (epoch, are_recorded) in [(2, true), (1, false)] {
            let start = Instant::now();
            let mut doubt = Doubt::new(PATIENCE);
            doubt.away(Some(Epoch(1)));
            assert!(!doubt.hear(start, Epoch(epoch), &[], are_recorded));
            assert!(!doubt.hear(at(start, 2999), Epoch(epoch), &[], are_recorded));
            assert!(doubt.hear(at(start, 3000), Epoch(epoch), &[], are_recorded));
        }
    }

    #[test]
    fn a_store_that_goes_away_again_is_waited_for_anew() {
        let start = Instant::now();
        let mut doubt = Doubt::new(PATIENCE);
        doubt.away(Some(Epoch(1)));
        assert!(!doubt.hear(start, Epoch(1), &[member("a", 0)], true));
        doubt.away(Some(Epoch(1)));
        assert!(!doubt.hear(at(start, 5000), Epoch(1), &[member("a", 10)], true));
        assert!(doubt.hear(at(start, 5250), Epoch(1), &[member("a", 10)], true));
    }
}
