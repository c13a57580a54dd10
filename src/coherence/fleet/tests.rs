//! Flaws that were found in the protocol, each forced. Time stands still unless a test lets it pass.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::{advance, sleep};

use super::*;
use crate::cache::Cache;
use crate::cache::memory::Memory;
use crate::marks::{IssuedStamp, MarksView, Sequence, Stamp};
use crate::store::fleet::{
    EpochState, FleetBypass, FleetLock, Generation, Holder, Intent, LockReply, Member, Membership, Registry,
    Roster, Synced,
};
use crate::store::log::{LogContent, LogEntry, LogPosition};
use crate::store::sweep::{Dated, Judged, KeyStats, Survey, WalkPosition};
use crate::store::{FamilyOf, KeyCounts, Link, LookupReply, Outage, Reply, StoreInfo};
use crate::upkeep::invalidation_log::OriginKind;

const LEASE: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A store whose failures the tests set.
#[derive(Debug)]
struct Fake {
    state: Mutex<State>,
    link: watch::Sender<Link>,
    messages: broadcast::Sender<Message>,
}

#[derive(Debug, Default)]
struct State {
    epoch: u64,
    sequence: Sequence,
    marks: Vec<(Tag, Sequence)>,
    members: BTreeMap<Box<str>, Holder>,
    /// Silences so far, and the one that each member has repeated.
    generation: u64,
    silence_ended: Option<Instant>,
    seen: BTreeMap<Box<str>, u64>,
    due: Vec<Intent>,
    age: Duration,
    longest: Duration,
    is_away: bool,
    lacks_replicas: bool,
    panics: u32,
    invalidating_takes: Duration,
    syncing_takes: Duration,
    syncs: u64,
    invalidations: u64,
}

impl Fake {
    fn new() -> Arc<Fake> {
        let state = State { epoch: 1, sequence: 1, age: HOUR, ..State::default() };
        let messages = broadcast::Sender::new(16);
        Arc::new(Fake { state: Mutex::new(state), link: watch::Sender::new(Link::Up), messages })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn begin_epoch(&self) {
        let mut state = self.state();
        state.epoch += 1;
        state.age = Duration::ZERO;
        state.marks.clear();
    }

    /// An outage of all proxies ends: some proxy's sync is the first.
    fn ends_a_silence(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.silence_ended = Some(Instant::now());
    }

    /// A member that never acknowledges.
    fn has_hung(&self, id: &str, lease: Duration) {
        let holder = Holder { id: id.into(), lease, syncs: 1 };
        self.state().members.insert(id.into(), holder);
    }

    fn reached(&self, taken: Option<IssuedStamp>) -> Result<(), StoreError> {
        match self.state().lacks_replicas {
            true => Err(StoreError::Unreplicated { taken, reason: "only 0 of 1 replicas".to_owned() }),
            false => Ok(()),
        }
    }

    /// Intents that are due, and invalidations so far.
    fn counts(&self) -> (usize, u64) {
        let state = self.state();
        (state.due.len(), state.invalidations)
    }

    fn is_there(&self) -> Result<(), StoreError> {
        if self.state().is_away { Err(away()) } else { Ok(()) }
    }
}

fn away() -> StoreError {
    StoreError::Away("a test says so".to_owned())
}

impl State {
    fn stamp(&self) -> Stamp {
        Stamp { epoch: Epoch(self.epoch), sequence: self.sequence }
    }

    fn view(&self, tags: &[Tag]) -> MarksView {
        let marks = self.marks.iter().filter(|(tag, _)| tags.contains(tag));
        MarksView::hard(self.stamp(), marks.map(|(_, sequence)| *sequence).max().unwrap_or(0))
    }
}

fn never<'a, T: Send + 'a>() -> Reply<'a, T> {
    Box::pin(async { Err(StoreError::Refused("no test needs this".to_owned())) })
}

impl Store for Fake {
    fn lookup<'a>(&'a self, _: &'a str, tags: &'a [Tag]) -> Reply<'a, LookupReply> {
        Box::pin(async { Ok(LookupReply { entry: None, view: self.view(tags).await? }) })
    }

    fn view<'a>(&'a self, tags: &'a [Tag]) -> Reply<'a, MarksView> {
        Box::pin(async { self.is_there().map(|()| self.state().view(tags)) })
    }

    fn put<'a>(&'a self, _: &'a str, _: Bytes, _: Duration) -> Reply<'a, ()> {
        never()
    }

    fn put_new<'a>(&'a self, _: &'a str, _: Bytes, _: Duration) -> Reply<'a, bool> {
        never()
    }

    fn invalidate<'a>(&'a self, tags: &'a [Tag], cause: &'a Cause<'a>) -> Reply<'a, Invalidated> {
        Box::pin(async move {
            let takes = self.state().invalidating_takes;
            sleep(takes).await;
            self.is_there()?;
            let mut state = self.state();
            state.invalidations += 1;
            state.due.retain(|intent| Some(&*intent.id) != cause.intent);
            let previous = std::mem::replace(&mut state.sequence, 0);
            state.sequence = previous + 1;
            let stamp = state.stamp();
            state.marks.extend(tags.iter().map(|tag| (tag.clone(), stamp.sequence)));
            let others = state.members.values().filter(|holder| *holder.id != *cause.by);
            let (holders, taken) = (others.cloned().collect(), IssuedStamp { stamp, previous, latest: None });
            let invalidated = Invalidated { taken, holders, epoch_age: state.age, longest_lease: state.longest };
            drop(state);
            self.reached(Some(taken)).map(|()| invalidated)
        })
    }

    fn sync<'a>(&'a self, me: &'a Membership) -> Reply<'a, Synced> {
        Box::pin(async move {
            let panics = std::mem::take(&mut self.state().panics);
            if panics > 0 {
                self.state().panics = panics - 1;
                panic!("as told");
            }
            let takes = self.state().syncing_takes;
            sleep(takes).await;
            self.is_there()?;
            let mut state = self.state();
            state.syncs += 1;
            let syncs = state.syncs;
            state.members.insert(me.id.clone(), Holder { id: me.id.clone(), lease: me.lease, syncs });
            let seen = me.seen.filter(|seen| seen.epoch == Epoch(state.epoch)).map_or(0, |seen| seen.number);
            state.seen.insert(me.id.clone(), seen);
            let is_behind = |holder: &&Holder| {
                holder.id != me.id && state.seen.get(&holder.id).is_none_or(|seen| *seen < state.generation)
            };
            let behind = state.members.values().filter(is_behind).filter(|_| state.generation > 0);
            let behind = behind.filter(|_| me.asks_who_is_behind).cloned().collect();
            let is_same = me.applied.is_some_and(|applied| applied.epoch == Epoch(state.epoch));
            let epoch = EpochState { age: state.age, longest_lease: state.longest, ..EpochState::default() };
            let marks = is_same.then(|| state.marks.clone());
            let synced = Synced {
                stamp: state.stamp(),
                marks,
                soft: Vec::new(),
                // As many as the script returns.
                due: state.due.iter().take(16).cloned().collect(),
                state: epoch,
                generation: Generation { epoch: Epoch(state.epoch), number: state.generation },
                others: 0,
                behind,
                silent_until: 0,
                unknown_proxies: false,
                clock: state.silence_ended.map_or(0, |ended| ended.elapsed().as_micros() as u64),
                registry: Registry::default(),
            };
            drop(state);
            self.reached(None).map(|()| synced)
        })
    }

    fn reach(&self) -> Reply<'_, MarksView> {
        Box::pin(async { self.is_there().and_then(|()| self.reached(None)).map(|()| self.state().view(&[])) })
    }

    fn roster(&self) -> Reply<'_, Roster> {
        Box::pin(async {
            self.is_there()?;
            let state = self.state();
            let member = |holder: &Holder| Member {
                id: holder.id.clone(),
                lease: holder.lease,
                synced: Duration::ZERO,
                applied: None,
                learned: 0,
                rules: String::new(),
            };
            let members = state.members.values().map(member).collect();
            let stamp = Some(state.stamp());
            Ok(Roster { stamp, state: EpochState::default(), members, intents: 0, due: 0, revision: 0 })
        })
    }

    fn leave<'a>(&'a self, id: &'a str) -> Reply<'a, ()> {
        Box::pin(async { self.is_there().map(|()| drop(self.state().members.remove(id))) })
    }

    fn set_bypass<'a>(&'a self, _: &'a FleetBypass) -> Reply<'a, Option<(bool, u64)>> {
        never()
    }

    fn expel<'a>(&'a self, holder: &'a Holder) -> Reply<'a, bool> {
        Box::pin(async { self.is_there().map(|()| self.state().members.remove(&holder.id).is_some()) })
    }

    fn dismiss<'a>(&'a self, holder: &'a Holder, _: Generation) -> Reply<'a, bool> {
        Box::pin(async { self.is_there().map(|()| self.state().members.remove(&holder.id).is_some()) })
    }

    fn record<'a>(&'a self, _: &'a Intent, _: Duration) -> Reply<'a, MarksView> {
        never()
    }

    fn forget<'a>(&'a self, _: &'a str) -> Reply<'a, ()> {
        never()
    }

    fn lock_fetch<'a>(
        &'a self,
        _: &'a str,
        _: &'a FleetLock,
        _: Duration,
        _: Option<&'a FleetLock>,
    ) -> Reply<'a, LockReply> {
        never()
    }

    fn unlock_fetch<'a>(&'a self, _: &'a str, _: &'a FleetLock, _: bool) -> Reply<'a, ()> {
        never()
    }

    fn hold_sweep<'a>(&'a self, _: &'a str, _: Duration) -> Reply<'a, bool> {
        never()
    }

    fn hold_warming<'a>(&'a self, _: &'a str, _: Duration) -> Reply<'a, bool> {
        never()
    }

    fn add_hits<'a>(&'a self, _: u64, _: &'a [(String, u32)]) -> Reply<'a, ()> {
        never()
    }

    fn hits_in<'a>(&'a self, _: &'a [u64]) -> Reply<'a, Vec<(String, u64)>> {
        never()
    }

    fn append_log<'a>(&'a self, _: &'a [LogContent]) -> Reply<'a, ()> {
        never()
    }

    fn log_before(&self, _: Option<LogPosition>, _: usize) -> Reply<'_, Vec<LogEntry>> {
        never()
    }

    fn log_after(&self, _: LogPosition, _: usize) -> Reply<'_, Vec<LogEntry>> {
        never()
    }

    fn survey(&self, _: WalkPosition, _: u64) -> Reply<'_, Survey> {
        never()
    }

    fn views<'a>(&'a self, _: &'a [&'a [Tag]]) -> Reply<'a, Vec<MarksView>> {
        never()
    }

    fn unlink<'a>(&'a self, _: WalkPosition, _: &'a [Judged]) -> Reply<'a, u64> {
        never()
    }

    fn store_key_stats<'a>(&'a self, _: &'a KeyStats, _: Duration) -> Reply<'a, ()> {
        never()
    }

    fn key_stats(&self) -> Reply<'_, Option<Dated>> {
        never()
    }

    fn messages(&self) -> broadcast::Receiver<Message> {
        self.messages.subscribe()
    }

    fn remove<'a>(&'a self, _: &'a str) -> Reply<'a, bool> {
        never()
    }

    fn get<'a>(&'a self, _: &'a str) -> Reply<'a, Option<Bytes>> {
        never()
    }

    fn info(&self) -> Reply<'_, StoreInfo> {
        never()
    }

    fn count_keys<'a>(&'a self, _: u64, _: &'a FamilyOf<'a>) -> Reply<'a, KeyCounts> {
        never()
    }

    fn link(&self) -> Link {
        self.link.borrow().clone()
    }

    fn changes(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// One that lasts is known to.
    fn outage(&self) -> watch::Receiver<Option<Outage>> {
        let outage = Outage { since: Instant::now(), away_at: Instant::now() + 10 * LEASE };
        watch::Sender::new(self.state().is_away.then_some(outage)).subscribe()
    }
}

/// A proxy on this store.
fn proxy(store: &Arc<Fake>, fleet: FleetSettings) -> Cache {
    let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
    Cache::new(Memory::new(1 << 20, 1 << 10, 1 << 10), Some((store, fleet)), Arc::new(Metrics::new()))
}

fn usual() -> FleetSettings {
    FleetSettings::new(Coherence::Lease, LEASE)
}

/// Lets everything happen that needs no time, or next to none.
async fn pause() {
    sleep(LEASE / 100).await;
}

fn tags() -> Vec<Tag> {
    vec![Tag::family("users")]
}

fn no_lease(cache: &Cache) -> Option<&'static str> {
    cache.fleet().unwrap().no_lease.map(|no_lease| no_lease.label())
}

/// How long a write waits for others.
async fn wait_of(cache: &Cache) -> Duration {
    let begun = Instant::now();
    cache.invalidate(&tags(), OriginKind::Purge).await.taken.expect("the store takes it");
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn without_replicas_a_proof_lasts_for_a_lease() {
    for mode in [Coherence::Lease, Coherence::Eventual, Coherence::Strict] {
        let store = Fake::new();
        store.state().lacks_replicas = true;
        let cache = proxy(&store, FleetSettings::new(mode, LEASE).with_replicas(1));
        pause().await;
        assert!(cache.view(&tags()).await.is_none(), "{mode:?}: nothing has proved it yet");
        assert_eq!(no_lease(&cache), Some("replicas-missing"));
        store.state().lacks_replicas = false;
        sleep(LEASE / 2).await;
        assert!(cache.view(&tags()).await.is_some(), "{mode:?}");
        assert_eq!(cache.holds_lease(), Some(mode != Coherence::Strict), "{mode:?}");
        store.state().lacks_replicas = true;
        sleep(LEASE / 2).await;
        assert!(cache.view(&tags()).await.is_some(), "{mode:?}: the last sync was less than a lease ago");
        sleep(LEASE).await;
        assert!(cache.view(&tags()).await.is_none(), "{mode:?}: it takes writes, and may have been deposed");
        assert_eq!(cache.holds_lease(), Some(false), "{mode:?}");
        assert_eq!(no_lease(&cache), Some("replicas-missing"), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_proof_of_one_server_does_not_count_for_another() {
    let store = Fake::new();
    let cache = proxy(&store, usual().with_replicas(1));
    pause().await;
    assert!(cache.view(&tags()).await.is_some());
    // As on another server that was promoted, before its replicas follow it.
    store.begin_epoch();
    store.state().lacks_replicas = true;
    assert!(cache.view(&tags()).await.is_none());
    store.state().lacks_replicas = false;
    sleep(LEASE / 2).await;
    assert!(cache.view(&tags()).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_that_replicas_lack_waits_for_them_and_is_not_sent_again() {
    let store = Fake::new();
    let cache = proxy(&store, usual().with_replicas(1));
    pause().await;
    store.state().lacks_replicas = true;
    assert_eq!(cache.invalidate(&tags(), OriginKind::Purge).await.taken, None, "it does not count");
    sleep(10 * LEASE).await;
    assert_eq!(store.state().invalidations, 1);
    assert_eq!(cache.undelivered(), 1);
    store.state().lacks_replicas = false;
    cache.delivered().await;
    assert_eq!((cache.undelivered(), store.counts().1), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_that_the_promoted_server_lacks_is_sent_again() {
    let store = Fake::new();
    let cache = proxy(&store, usual().with_replicas(1));
    pause().await;
    store.state().lacks_replicas = true;
    assert_eq!(cache.invalidate(&tags(), OriginKind::Purge).await.taken, None);
    store.begin_epoch();
    store.state().lacks_replicas = false;
    cache.delivered().await;
    assert_eq!(store.state().invalidations, 2);
    assert!(store.state().marks.iter().any(|(tag, _)| tags().contains(tag)));
}

#[tokio::test(start_paused = true)]
async fn in_a_young_epoch_a_write_waits_for_the_longest_lease_of_the_fleet() {
    let store = Fake::new();
    store.state().longest = 5 * LEASE;
    let cache = proxy(&store, usual());
    pause().await;
    assert_eq!(wait_of(&cache).await, Duration::ZERO, "the epoch is old");
    // The store has lost everything, and the member with that lease does not acknowledge.
    store.begin_epoch();
    store.state().longest = Duration::ZERO;
    assert!(wait_of(&cache).await >= 5 * LEASE);
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_stores_clock_does_not_shorten_the_wait_in_a_new_epoch() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    pause().await;
    store.begin_epoch();
    store.state().age = HOUR;
    assert!(wait_of(&cache).await >= LEASE);
    sleep(LEASE).await;
    assert_eq!(wait_of(&cache).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn recovering_intents_delays_no_sync() {
    let store = Fake::new();
    store.state().invalidating_takes = 10 * LEASE;
    store.state().due = vec![Intent { id: "w1".into(), tags: tags() }, Intent { id: "w2".into(), tags: tags() }];
    let cache = proxy(&store, usual());
    for _ in 0..15 {
        sleep(LEASE).await;
        assert_eq!(cache.holds_lease(), Some(true));
    }
    assert_eq!(store.state().due.len(), 1, "one is carried out, one is on its way");
    sleep(10 * LEASE).await;
    assert_eq!(store.counts(), (0, 2), "each once");
}

#[tokio::test(start_paused = true)]
async fn missing_replicas_do_not_stop_intents_from_being_recovered() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    pause().await;
    store.state().invalidating_takes = LEASE;
    store.state().due = vec![Intent { id: "w1".into(), tags: tags() }];
    sleep(LEASE / 2).await;
    // A sync has brought it, and it is being carried out.
    store.state().lacks_replicas = true;
    sleep(2 * LEASE).await;
    assert_eq!(store.counts(), (0, 1));
    assert_eq!(cache.undelivered(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_due_intents_are_carried_out_without_a_pause() {
    let store = Fake::new();
    let _cache = proxy(&store, usual());
    pause().await;
    store.state().due = (0..100).map(|id| Intent { id: format!("w{id}").into(), tags: tags() }).collect();
    // The next sync of its own.
    sleep(LEASE / 4).await;
    pause().await;
    assert_eq!(store.counts(), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_the_lease_and_not_the_process() {
    let store = Fake::new();
    store.state().panics = 2;
    let cache = proxy(&store, usual());
    pause().await;
    assert_eq!(cache.holds_lease(), Some(false));
    sleep(5 * LEASE).await;
    assert_eq!(cache.holds_lease(), Some(true));
    wait_of(&cache).await;
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_one_lease_for_any_number_of_hung_members() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    pause().await;
    for member in 0..5 {
        store.has_hung(&format!("hung {member}"), LEASE);
    }
    let waited = wait_of(&cache).await;
    assert!(waited >= LEASE && waited < LEASE * 11 / 10, "{waited:?}");
    pause().await;
    assert_eq!(wait_of(&cache).await, Duration::ZERO, "they were removed");
}

#[tokio::test(start_paused = true)]
async fn an_own_invalidation_asks_for_a_sync_only_after_a_gap() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    pause().await;
    let syncs = store.state().syncs;
    for _ in 0..10 {
        cache.invalidate(&tags(), OriginKind::Purge).await.taken.expect("the store takes it");
    }
    pause().await;
    assert_eq!(store.state().syncs, syncs, "each followed the one before");
    // Another proxy's, of which no message came.
    store.state().sequence += 1;
    cache.invalidate(&tags(), OriginKind::Purge).await.taken.expect("the store takes it");
    pause().await;
    assert!(store.state().syncs > syncs);
}

#[tokio::test(start_paused = true)]
async fn an_undelivered_write_settles_within_a_lease_of_its_delivery() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    let other = proxy(&store, usual());
    pause().await;
    store.state().is_away = true;
    sleep(2 * LEASE).await;
    assert_eq!(cache.invalidate(&tags(), OriginKind::Purge).await.taken, None);
    store.state().is_away = false;
    let begun = Instant::now();
    // Acknowledgements are messages, which this store does not pass on: a lease at most.
    cache.delivered().await;
    assert!(begun.elapsed() < LEASE * 13 / 10, "{:?}", begun.elapsed());
    assert_eq!(other.holds_lease(), Some(true));
}

#[tokio::test(start_paused = true)]
async fn everything_is_invalidated_if_a_member_does_not_return_after_an_outage() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    pause().await;
    let stored = cache.view(&tags()).await.unwrap().stamp;
    store.has_hung("lost", LEASE);
    store.state().is_away = true;
    sleep(2 * LEASE).await;
    store.state().is_away = false;
    store.ends_a_silence();
    sleep(LEASE).await;
    assert_eq!(no_lease(&cache), Some("returning"));
    assert!(cache.fleet().unwrap().no_lease.unwrap().to_string().contains("lost"), "it names the awaited member");
    sleep(LEASE).await;
    assert_eq!(no_lease(&cache), None);
    assert!(store.state().marks.iter().any(|(tag, _)| *tag == Tag::root()));
    assert!(!cache.view(&[Tag::root()]).await.unwrap().is_current(stored));
    assert!(!store.state().members.contains_key("lost"), "the next one need not wait");
}

#[tokio::test(start_paused = true)]
async fn a_starting_proxy_waits_for_members_that_are_behind() {
    let store = Fake::new();
    store.ends_a_silence();
    store.has_hung("behind", LEASE);
    let cache = proxy(&store, usual());
    pause().await;
    assert!(cache.view(&tags()).await.is_none());
    assert_eq!(no_lease(&cache), Some("returning"));
    store.state().seen.insert("behind".into(), 1);
    sleep(LEASE / 10).await;
    assert!(cache.view(&tags()).await.is_some());
    assert_eq!(store.state().invalidations, 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_lapses_closes_the_gate() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    pause().await;
    // As for a process that was stopped: time passes, and nothing else.
    advance(2 * LEASE).await;
    store.ends_a_silence();
    store.has_hung("behind", LEASE);
    pause().await;
    assert_eq!(no_lease(&cache), Some("returning"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_reported_as_the_cause() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    sleep(LEASE / 2).await;
    store.state().syncing_takes = 3 * LEASE;
    sleep(2 * LEASE).await;
    assert_eq!(no_lease(&cache), Some("store-away"));
    let reason = cache.fleet().unwrap().no_lease.unwrap().to_string();
    assert!(reason.starts_with("Redis takes "), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn an_undelivered_invalidation_reports_store_away() {
    let store = Fake::new();
    let cache = proxy(&store, usual());
    pause().await;
    store.state().is_away = true;
    assert_eq!(cache.invalidate(&tags(), OriginKind::Purge).await.taken, None);
    sleep(2 * LEASE).await;
    assert_eq!(no_lease(&cache), Some("store-away"));
}

#[tokio::test(start_paused = true)]
async fn the_reason_for_having_no_lease_is_reported() {
    let store = Fake::new();
    store.state().is_away = true;
    let cache = proxy(&store, usual());
    assert_eq!(no_lease(&cache), Some("never-synced"));
    pause().await;
    assert_eq!(no_lease(&cache), Some("store-away"));
    store.state().is_away = false;
    sleep(LEASE / 2).await;
    assert_eq!(no_lease(&cache), None);
    store.state().is_away = true;
    sleep(2 * LEASE).await;
    assert_eq!(no_lease(&cache), Some("store-away"));
    store.state().is_away = false;
    // As for a process that was stopped: time passes, and nothing else.
    sleep(LEASE / 2).await;
    advance(2 * LEASE).await;
    assert_eq!(no_lease(&cache), Some("late"));
    cache.leave().await;
    assert_eq!(no_lease(&cache), Some("left"));
}
