//! Mixed rules: what a fleet does while its proxies follow different rules, as in a rolling restart with a new rules file.
//!
//! A write through a proxy invalidates by that proxy's rules. So an entry of a family may be trusted only where all proxies have the
//! same rules for that family: those that say which writes invalidate it, and which tags its entries have
//! ([`crate::rules::digest`]). A family of which two members have different digests is *mixed*. All members forward its requests
//! (`detail=mixed-rules`) and store nothing of it. The other families stay cached.
//!
//! Each member registers its digests in Redis with its syncs; the *registry* has those of all members, and a *revision* that grows
//! with every change. The reply to a sync has the registry if its revision is not the one that the proxy has taken in, and the proxy
//! takes it in before that reply brings a lease.
//!
//! # The three states of a proxy's rules
//!
//! A proxy that registers rules, at its start, after its record was lost, or for a reload, *settles* them (`Phase`):
//!
//! | its rules are | from | it forwards |
//! |---|---|---|
//! | unregistered | its start, or the beginning or end of a reload | what it forwarded before, and what the reload changes |
//! | registered | the reply to the sync that registered them | the families that are mixed, and those whose rules differ from the ones settled last |
//! | settled | the end of step 3 | the families that are mixed |
//!
//! 1. It registers them.
//! 2. It waits until every other member has said, with a later sync, that it has taken in that revision; or until the longest lease
//!    has passed since the reply. A member that has not synced in that time trusts neither its memory nor Redis.
//! 3. It invalidates the families that it forwards.
//!
//! Until its rules are settled it acknowledges no write ([`Fleet::rules_settled`]), and accepts no request at its start. Therefore:
//!
//! - When a write is acknowledged, each other member either forwards all families for which it has other rules than the writer, or
//!   has the same. The older members need not wait: the newcomer has taken in their rules before it trusts anything.
//! - From step 3 until the family is no longer mixed, no entry of it is current. A proxy that read a stamp before it knew did so under a
//!   lease that ended before step 3, so that the stamp is below the mark. One that knows stores nothing.
//! - While Redis is away, a proxy whose rules are settled answers writes as ever: the others know its rules, and await its return
//!   ([`super::recovery`]). One whose rules are not settled holds each answer until no proxy can hold a lease.
//! - So nothing remains to be done for the promise when the last proxy with other rules is gone, or has the same: what a proxy that
//!   starts at that moment finds in Redis is not current. Each proxy that sees the end invalidates the family once more before it
//!   trusts it again, for its own fetches: one that began while the family was mixed may be about to store its response.
//!
//! # A reload
//!
//! The families that the edit changes get a digest that no other proxy has, before anything else: they are mixed, whatever rules the
//! others have. When this is settled, the new rules come into force, and then they are registered.
//!
//! # Members that die, and fleets without members
//!
//! The rules of a member are removed with its record: when it leaves, or else ten seconds and a lease after its last sync (records are
//! checked every ten seconds). Until then its families stay mixed. Its writes in that time, if it lives and only Redis is out of its
//! reach, are not covered, as ever ([`crate::coherence`]); when it is back it registers and settles anew, before it trusts or
//! acknowledges anything.
//!
//! The field `(settled)` of the registry has the rules of the proxy that settled, or was removed, last. A proxy that registers where no
//! other member has settled its rules compares its own with those, and invalidates the families that differ before it trusts them:
//! their entries may have missed writes. So rules may change while no proxy runs.
//!
//! A registry that is lost or tampered with costs misses: a member without rules there conflicts with every other one, until its next
//! sync. A sync that is executed late takes back no later rules: they are numbered.
//!
//! Not covered: a write that its proxy's rules map to nothing, within a lease of Redis losing the records of members, in a fleet with
//! mixed rules. A write by a safe method that only another proxy's rules call a write, through a proxy that was removed while it could not
//! reach Redis, before its first sync.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::recovery::NEWCOMER_HOLD;
use super::{Fleet, lock};
use crate::marks::{Tag, UNCLAIMED};
use crate::rules::digest::RulesDigest;
use crate::store::fleet::{Cause, FleetBypass, Registration, Registry, RegistryContent, Synced, random_id};
use crate::store::{Link, StoreError};
use crate::upkeep::bypasses::{Bypass, Bypasses};
use crate::upkeep::invalidation_log::OriginKind;

/// Pause between two looks at the link while a write or a reload waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The rules of this proxy, and what it knows of those of the others.
#[derive(Debug)]
pub(super) struct RulesAgreement {
    state: Mutex<AgreementState>,
    changed: Notify,
    forwarded: Arc<Bypasses>,
}

#[derive(Debug)]
struct AgreementState {
    own: RulesDigest,
    /// The text of `own`.
    text: Arc<str>,
    /// Grows with every change of `own`.
    number: u64,
    phase: Phase,
    /// The families that a reload is changing.
    changing: BTreeSet<String>,
    /// The revision of the registry that was taken in, and its content; 0: none.
    learned: u64,
    content: RegistryContent,
}

/// How far the fleet knows this proxy's rules.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No reply has said that Redis has them.
    Unregistered,
    /// Redis has them since this revision; the reply that said so came `at` that time. Another member may not know them yet.
    Registered { revision: u64, at: Instant },
    /// Every member that holds a lease knows them, and the families that they conflict with were invalidated.
    Settled { revision: u64 },
}

impl AgreementState {
    fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled { .. })
    }

    /// The families for which this proxy and another member have different rules.
    fn differing(&self) -> BTreeSet<String> {
        self.content.others.iter().flat_map(|other| self.own.differing(other)).collect()
    }

    /// The families whose entries may be older than writes that followed other rules, if the registry has this content: those that are
    /// mixed, and until the rules are settled those that differ from the rules that were settled last.
    fn untrusted(&self, content: &RegistryContent) -> BTreeSet<String> {
        let mixed = content.others.iter().flat_map(|other| self.own.differing(other));
        let last = content.last.iter().filter(|_| !self.is_settled()).flat_map(|last| self.changed_since(last));
        mixed.chain(self.changing.iter().cloned()).chain(last).collect()
    }

    /// The families that differ from the rules that were settled last. Where those are not known, paths of no family are left out: their
    /// entries of another epoch are not current, and only a registry that is lost alone, and rules that change at that time, would
    /// concern others.
    fn changed_since(&self, last: &str) -> BTreeSet<String> {
        let is_known = last.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b' ');
        let differing = self.own.differing(last).into_iter();
        differing.filter(|family| is_known || family != UNCLAIMED).collect()
    }

    /// The revision that registered the rules, if they may be settled: no member may serve from memory without knowing them.
    /// `longest`: the longest lease. `epoch_age`: members of which Redis has lost the record hold theirs for less than that after the
    /// beginning of the epoch.
    fn may_settle(&self, now: Instant, longest: Duration, epoch_age: Duration) -> Option<u64> {
        let Phase::Registered { revision, at } = self.phase else { return None };
        let all_know = self.content.unlearned == 0 && epoch_age >= longest;
        // A member with families that this proxy lacks has to forward them before this proxy answers a write.
        let are_alike = self.changing.is_empty() && self.content.others.iter().all(|other| **other == *self.text);
        (all_know || now >= at + longest || are_alike).then_some(revision)
    }
}

impl RulesAgreement {
    /// `forwarded`: where the families that are mixed are kept for requests.
    pub fn new(own: RulesDigest, forwarded: Arc<Bypasses>) -> RulesAgreement {
        let state = AgreementState {
            text: own.text().into(),
            own,
            number: 1,
            phase: Phase::Unregistered,
            changing: BTreeSet::new(),
            learned: 0,
            content: RegistryContent::default(),
        };
        RulesAgreement { state: Mutex::new(state), changed: Notify::new(), forwarded }
    }

    /// What is sent with a sync.
    pub fn registration(&self) -> Registration {
        let state = self.lock();
        Registration {
            number: state.number,
            rules: Arc::clone(&state.text),
            is_settled: state.is_settled(),
            learned: state.learned,
            asks: !state.is_settled(),
        }
    }

    /// Whether the rules are settled.
    pub fn is_settled(&self) -> bool {
        self.lock().is_settled()
    }

    /// Whether this revision of the registry was taken in.
    pub fn has_learned(&self, revision: u64) -> bool {
        self.lock().learned >= revision
    }

    /// This proxy gets other rules, and a reload changes these families. Families that are mixed because of them are forwarded from now
    /// on; those that were mixed before, until the rules are registered.
    pub fn change(&self, own: RulesDigest, changing: BTreeSet<String>) {
        let mut state = self.lock();
        (state.text, state.own, state.changing) = (own.text().into(), own, changing);
        state.number += 1;
        state.phase = Phase::Unregistered;
        self.forward(state.differing().into_iter().chain(state.changing.iter().cloned()));
    }

    /// Forwards the families that a reply shows to be mixed, or to have had other rules last. To be called before the reply brings a
    /// lease.
    pub fn forward_untrusted(&self, registry: &Registry) {
        let state = self.lock();
        if let Some(content) = &registry.content {
            self.forward(state.untrusted(content));
        }
    }

    /// Takes in a reply whose marks are applied. Returns the families that are not mixed any more: they are forwarded until
    /// [`RulesAgreement::trust`].
    pub fn take_in(&self, sent: &Registration, registry: &Registry, now: Instant) -> BTreeSet<String> {
        let mut state = self.lock();
        if let Some(content) = &registry.content {
            (state.learned, state.content) = (registry.revision, content.clone());
        }
        if sent.number != state.number {
            // The reply is about the rules before these.
            return BTreeSet::new();
        }
        match state.phase {
            Phase::Registered { revision, .. } | Phase::Settled { revision }
                if revision == registry.registered => {}
            // Registered for the first time, or again after Redis had lost the record of this proxy.
            _ => state.phase = Phase::Registered { revision: registry.registered, at: now },
        }
        let untrusted = state.untrusted(&state.content);
        self.forward(untrusted.iter().cloned());
        self.forwarded.mixed().difference(&untrusted).cloned().collect()
    }

    /// The families to invalidate before [`RulesAgreement::settle`], and the revision that registered the rules; `None`: they are settled,
    /// or may not be yet ([`AgreementState::may_settle`]).
    pub fn to_settle(
        &self,
        now: Instant,
        longest: Duration,
        epoch_age: Duration,
    ) -> Option<(BTreeSet<String>, u64)> {
        let state = self.lock();
        let revision = state.may_settle(now, longest, epoch_age)?;
        Some((state.untrusted(&state.content), revision))
    }

    /// The families of [`RulesAgreement::to_settle`] are invalidated.
    pub fn settle(&self, families: &BTreeSet<String>, settled: u64) {
        let mut state = self.lock();
        match state.phase {
            Phase::Registered { revision, .. } if revision == settled => {
                state.phase = Phase::Settled { revision };
                drop(state);
                self.trust(families);
            }
            // Other rules were registered meanwhile.
            _ => {}
        }
    }

    /// Ends the forwarding of these families, unless they are mixed.
    pub fn trust(&self, families: &BTreeSet<String>) {
        let state = self.lock();
        let untrusted = state.untrusted(&state.content);
        let mut mixed = self.forwarded.mixed();
        mixed.retain(|family| !families.contains(family) || untrusted.contains(family));
        self.forwarded.set_mixed(mixed);
    }

    /// To be called under the lock.
    fn forward(&self, families: impl IntoIterator<Item = String>) {
        let before = self.forwarded.mixed();
        let mut mixed = before.clone();
        mixed.extend(families);
        if mixed != before {
            self.forwarded.set_mixed(mixed);
        }
    }

    /// All changes of the families that are forwarded are made under it.
    fn lock(&self) -> MutexGuard<'_, AgreementState> {
        lock(&self.state)
    }
}

impl Fleet {
    /// Takes in what a reply, whose marks are applied, says of the registry. Invalidates what is to be invalidated before it is trusted
    /// again, and settles this proxy's rules if the others know them.
    pub(super) async fn take_in_registry(&self, sent: &Registration, synced: &Synced) -> Result<(), StoreError> {
        if let Some(content) = &synced.registry.content {
            self.agreement.forwarded.follow(bypasses(&content.bypasses, synced.clock));
        }
        let ended = self.agreement.take_in(sent, &synced.registry, Instant::now());
        if !ended.is_empty() {
            self.invalidate_families(&ended).await?;
            self.agreement.trust(&ended);
        }
        let (longest, age) = (self.longest_lease(), synced.state.age);
        if let Some((families, revision)) = self.agreement.to_settle(Instant::now(), longest, age) {
            if !families.is_empty() {
                self.invalidate_families(&families).await?;
            }
            self.agreement.settle(&families, revision);
        }
        self.note_mixed();
        self.agreement.changed.notify_waiters();
        Ok(())
    }

    async fn invalidate_families(&self, families: &BTreeSet<String>) -> Result<(), StoreError> {
        let tags: Vec<Tag> = families.iter().map(|family| Tag::family(family)).collect();
        self.invalidate_for(OriginKind::Rules, &tags, Cause::default()).await
    }

    /// Logs and counts the families that are mixed, when they change.
    fn note_mixed(&self) {
        // While rules are being settled, or a reload changes them, families are forwarded for a moment.
        if !self.agreement.is_settled() || !self.agreement.lock().changing.is_empty() {
            return;
        }
        let now = self.agreement.lock().differing();
        let before = std::mem::replace(&mut self.health().mixed, now.clone());
        self.metrics.mixed_rules.set(i64::try_from(now.len()).unwrap_or(i64::MAX));
        if now == before {
            return;
        }
        let named =
            |family: &String| if family == UNCLAIMED { "those of no family".to_owned() } else { family.clone() };
        let list = |families: &BTreeSet<String>| families.iter().map(named).collect::<Vec<_>>().join(", ");
        if now.is_empty() {
            tracing::info!(families = list(&before), "all proxies of the fleet follow the same rules again");
        } else {
            tracing::warn!(
                families = list(&now),
                "proxies of the fleet follow different rules: these families are forwarded, and nothing of them is stored, until all \
                 follow the same. Give all proxies the same rules file"
            );
        }
    }

    /// Waits until a write may be acknowledged as far as rules are concerned: the members with other rules know those of this proxy, or
    /// hold no lease. Never for longer than a lease or five seconds.
    pub async fn rules_settled(&self) {
        if self.agreement.is_settled() && self.is_synced() {
            return;
        }
        let begun = Instant::now();
        let held = async {
            let Some(reason) = self.link_down().await else { return };
            if !self.agreement.is_settled() {
                self.outlast(&StoreError::Away(reason), begun).await;
            }
        };
        let most = self.longest_lease().max(NEWCOMER_HOLD);
        tokio::select! {
            biased;
            () = self.until_settled() => {}
            _ = timeout(most, held) => {}
        }
    }

    async fn until_settled(&self) {
        while !(self.agreement.is_settled() && self.is_synced()) {
            let _ = timeout(POLL_INTERVAL, self.agreement.changed.notified()).await;
        }
    }

    /// Waits until Redis is away, and says why; `None` if that is never known.
    async fn link_down(&self) -> Option<String> {
        let mut link = self.store.changes();
        let down = link.wait_for(|link| *link != Link::Up).await.ok()?;
        match &*down {
            Link::Down(reason) => Some(reason.clone()),
            Link::Up => None,
        }
    }

    /// Prepares a reload: when this returns, no proxy trusts the families for which `next` differs from the rules in force. Unless
    /// Redis is away: then nothing is trusted until this proxy has registered its rules again.
    pub async fn leave_rules(&self, next: &RulesDigest) {
        let own = self.agreement.lock().own.clone();
        if own != *next {
            let changing = own.differing(&next.text()).into_iter().chain(next.differing(&own.text())).collect();
            self.agreement.change(own.on_the_way_to(next, &random_id()), changing);
            self.sync.wanted.notify_one();
            let most = self.longest_lease() + self.settings.return_timeout;
            tokio::select! {
                biased;
                () = self.until_settled() => {}
                _ = timeout(most, self.link_down()) => {}
            }
        }
    }

    /// Registers the rules that have come into force.
    pub fn adopt_rules(&self, rules: RulesDigest) {
        if self.agreement.lock().own != rules {
            self.agreement.change(rules, BTreeSet::new());
            self.sync.wanted.notify_one();
        }
    }

    /// How many members have taken in this revision of the registry, and how many there are. Waits for those that have not, for the
    /// longest lease.
    pub async fn followers(&self, revision: u64) -> Result<(usize, usize), StoreError> {
        self.sync.wanted.notify_one();
        let end = Instant::now() + self.longest_lease();
        loop {
            let members = self.store.roster().await?.members;
            let follow = members.iter().filter(|member| member.learned >= revision).count();
            if follow == members.len() || Instant::now() >= end {
                return Ok((follow, members.len()));
            }
            sleep(POLL_INTERVAL / 2).await;
        }
    }
}

/// The bypasses of the fleet that have not ended. `clock`: the store's.
fn bypasses(fleet: &[FleetBypass], clock: u64) -> Vec<Bypass> {
    let now = std::time::Instant::now();
    let bypass = |bypass: &FleetBypass| {
        let left = bypass.until.checked_sub(clock).filter(|left| *left > 0)?;
        Some(Bypass {
            family: bypass.family.clone(),
            until: SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(bypass.until))?,
            end: now.checked_add(Duration::from_micros(left))?,
            by: bypass.by.clone(),
        })
    };
    fleet.iter().filter_map(bypass).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fleet::RegistryContent;

    const LEASE: Duration = Duration::from_secs(1);
    const OLD_EPOCH: Duration = Duration::from_secs(60);

    fn rules(digests: &[(&str, &str)]) -> RulesDigest {
        digests.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect()
    }

    fn agreement(own: &[(&str, &str)]) -> RulesAgreement {
        RulesAgreement::new(rules(own), Arc::default())
    }

    fn registry(revision: u64, registered: u64, others: &[&str], unlearned: u64) -> Registry {
        let others = others.iter().map(|text| (*text).to_owned()).collect();
        let content = RegistryContent { others, unlearned, ..RegistryContent::default() };
        Registry { revision, registered, content: Some(content) }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Takes in a reply to a sync that is sent now. Returns the families that are not mixed any more.
    fn reply(agreement: &RulesAgreement, registry: &Registry, now: Instant) -> BTreeSet<String> {
        agreement.forward_untrusted(registry);
        agreement.take_in(&agreement.registration(), registry, now)
    }

    #[test]
    fn rules_that_all_members_have_are_settled_at_once() {
        let (agreement, now) = (agreement(&[("a", "1"), ("b", "2")]), Instant::now());
        assert_eq!(agreement.to_settle(now, LEASE, OLD_EPOCH), None, "they are not registered");
        reply(&agreement, &registry(7, 7, &["1 2", "1 2 3"], 2), now);
        assert_eq!(
            agreement.to_settle(now, LEASE, Duration::ZERO),
            None,
            "one has a family that this proxy lacks"
        );
        reply(&agreement, &registry(7, 7, &["1 2"], 2), now);
        let (families, revision) = agreement.to_settle(now, LEASE, Duration::ZERO).unwrap();
        assert_eq!((&families, revision), (&set(&[]), 7));
        agreement.settle(&families, 6);
        assert!(!agreement.is_settled(), "that was of other rules");
        agreement.settle(&families, revision);
        assert!(agreement.is_settled() && !agreement.forwarded.are_any());
    }

    #[test]
    fn rules_are_settled_when_members_know_them_or_hold_no_lease() {
        let (agreement, now) = (agreement(&[("a", "1"), ("b", "2")]), Instant::now());
        reply(&agreement, &registry(7, 7, &["1 9"], 1), now);
        assert_eq!(agreement.forwarded.mixed(), set(&["b"]));
        assert_eq!(agreement.to_settle(now, LEASE, OLD_EPOCH), None);
        let at = |after: f64| now + LEASE.mul_f64(after);
        assert_eq!(agreement.to_settle(at(0.9), LEASE, OLD_EPOCH), None);
        assert_eq!(agreement.to_settle(at(1.0), LEASE, OLD_EPOCH), Some((set(&["b"]), 7)));
        reply(&agreement, &registry(8, 7, &["1 9"], 0), at(0.1));
        assert_eq!(agreement.to_settle(at(0.1), LEASE, LEASE / 2), None, "Redis may have lost members");
        assert_eq!(agreement.to_settle(at(0.1), LEASE, OLD_EPOCH), Some((set(&["b"]), 7)));
        agreement.settle(&set(&["b"]), 7);
        assert_eq!(agreement.forwarded.mixed(), set(&["b"]), "it is still mixed");
        // Its record was lost: all begins anew.
        reply(&agreement, &registry(9, 9, &["1 9"], 1), at(2.0));
        assert!(!agreement.is_settled() && agreement.to_settle(at(2.5), LEASE, OLD_EPOCH).is_none());
    }

    #[test]
    fn a_family_is_trusted_again_only_after_it_was_invalidated() {
        let (agreement, now) = (agreement(&[("a", "1")]), Instant::now());
        reply(&agreement, &registry(7, 7, &["(unknown)"], 0), now);
        agreement.settle(&set(&["a"]), 7);
        let ended = reply(&agreement, &registry(8, 7, &["1"], 0), now);
        assert_eq!((&ended, agreement.forwarded.mixed()), (&set(&["a"]), set(&["a"])));
        // Another member with other rules comes before the invalidation is done.
        reply(&agreement, &registry(9, 7, &["1", "2"], 0), now);
        agreement.trust(&ended);
        assert_eq!(agreement.forwarded.mixed(), set(&["a"]));
        agreement.trust(&reply(&agreement, &registry(10, 7, &[], 0), now));
        assert!(!agreement.forwarded.are_any());
    }

    #[test]
    fn rules_that_were_settled_last_are_compared_without_members() {
        let (agreement, now) = (agreement(&[("a", "1"), ("b", "2")]), Instant::now());
        let mut registry = registry(7, 7, &[], 0);
        registry.content.as_mut().unwrap().last = Some("1 9".to_owned());
        reply(&agreement, &registry, now);
        assert_eq!(agreement.forwarded.mixed(), set(&["b"]));
        let (families, revision) = agreement.to_settle(now, LEASE, OLD_EPOCH).unwrap();
        assert_eq!(families, set(&["b"]));
        agreement.settle(&families, revision);
        assert!(!agreement.forwarded.are_any());
    }

    #[test]
    fn unsettled_members_do_not_vouch_for_entries() {
        let (agreement, now) = (agreement(&[("a", "1"), ("b", "2")]), Instant::now());
        let mut registry = registry(8, 8, &["1 2"], 1);
        registry.content.as_mut().unwrap().last = Some("1 9".to_owned());
        agreement.forward_untrusted(&registry);
        assert_eq!(agreement.forwarded.mixed(), set(&["b"]), "before the reply brings a lease");
        agreement.take_in(&agreement.registration(), &registry, now);
        assert_eq!(agreement.to_settle(now, LEASE, OLD_EPOCH), Some((set(&["b"]), 8)));
    }

    #[test]
    fn a_reload_forwards_what_it_changes_until_the_new_rules_are_settled() {
        let (agreement, now) = (agreement(&[("a", "1"), ("b", "2")]), Instant::now());
        reply(&agreement, &registry(7, 7, &[], 0), now);
        agreement.settle(&set(&[]), 7);
        let before = agreement.registration();
        agreement.change(rules(&[("a", "1"), ("b", "x")]), set(&["b"]));
        assert!(!agreement.is_settled());
        assert_eq!(agreement.forwarded.mixed(), set(&["b"]));
        // The reply to a sync that was sent before settles nothing.
        agreement.take_in(&before, &registry(7, 7, &[], 0), now);
        assert_eq!(agreement.to_settle(now, LEASE, OLD_EPOCH), None);
        reply(&agreement, &registry(8, 8, &[], 0), now);
        agreement.settle(&set(&["b"]), 8);
        assert_eq!(agreement.forwarded.mixed(), set(&["b"]), "the edit is not in force");
        agreement.change(rules(&[("a", "1"), ("b", "3")]), BTreeSet::new());
        assert_eq!(agreement.forwarded.mixed(), set(&["b"]));
        let mut next = registry(9, 9, &[], 0);
        next.content.as_mut().unwrap().last = Some("1 x".to_owned());
        assert_eq!(reply(&agreement, &next, now), set(&[]));
        let (families, revision) = agreement.to_settle(now, LEASE, OLD_EPOCH).unwrap();
        assert_eq!(families, set(&["b"]));
        agreement.settle(&families, revision);
        assert!(agreement.is_settled() && !agreement.forwarded.are_any());
    }
}
