//! Lookup and store over the two tiers: L1 in this process's memory, and L2 in Redis if there is one. What a lookup returns as
//! current is *current*; whether it is also *fresh* is for [`crate::http`] to say.
//!
//! Without Redis, L1's marks are the authority. With it they are a copy, and a hit in L1 is compared with that copy
//! alone for as long as this proxy holds a lease ([`crate::coherence`]). Without a lease, and where L1 has nothing current,
//! Redis is asked for the marks, and in the same round trip for the entry. While Redis is away, or invalidations are
//! undelivered, nothing stored is trusted: [`Lookup::view`] is `None`, and a response fetched meanwhile is not stored, since
//! it would have no stamp.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{iter, slice};

use bytes::Bytes;
use http::HeaderMap;
use tokio_util::task::AbortOnDropHandle;

use crate::coalesce::fleet_lock::FleetLockOutcome;
use crate::coherence::fleet::{Fleet, FleetSettings};
use crate::coherence::pending::PendingInvalidations;
use crate::coherence::pending::delivery::Delivery;
use crate::entry::{Content, Entry, Seal, VaryIndex};
use crate::hexadecimal::hexadecimal;
use crate::key::{CacheKey, KeyHash, StoreKey};
use crate::marks::{MarksView, Sequence, Stamp, Tag, Validity};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use crate::supervise::supervise;
use crate::upkeep::bypasses::Bypasses;
use crate::upkeep::hot::Hot;
use crate::upkeep::invalidation_log::InvalidationLog;
use crate::upkeep::sweeper;

pub mod catalog;
pub mod inspect;
pub mod invalidate;
pub mod log;
pub mod memory;
pub mod notices;
pub mod status;

use memory::{Hold, Memory};

/// Entries over this, bytes, stay in L1: a larger one could hold up the connection to Redis for longer than its time
/// limit, which would look like a Redis that hangs.
pub const SHARED_MAX: u64 = 1 << 20;

/// L1, the marks, and L2 if there is one.
pub struct Cache {
    memory: Arc<Memory>,
    shared: Option<Shared>,
    pending: Arc<PendingInvalidations>,
    /// Carries out delayed invalidations; spawned with the first.
    repeating: OnceLock<AbortOnDropHandle<()>>,
    hot: Hot,
    log: Arc<InvalidationLog>,
    bypasses: Arc<Bypasses>,
    metrics: Arc<Metrics>,
}

struct Shared {
    store: Arc<dyn Store>,
    fleet: Arc<Fleet>,
    delivery: Delivery,
    /// Computes the checksums of entries.
    seal: Seal,
    sweeping: OnceLock<Arc<sweeper::Status>>,
    /// Deliver pending invalidations, and renew the lease.
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// The result of a lookup: the entry that was found, and the marks.
#[derive(Debug)]
pub struct Lookup {
    pub found: Found,
    /// The key of the request; where responses vary, that of its variant.
    pub cache_key: CacheKey,
    /// The primary key: without the fields that responses vary on, where that is another key.
    pub primary_key: Option<CacheKey>,
    /// The entry that says which fields select a variant, where responses vary.
    pub vary_index: Option<Arc<Entry>>,
    /// Its stamp is that of a fetch that begins now. `None`: Redis is away, and nothing may be stored.
    pub view: Option<MarksView>,
    /// To be kept until a response fetched with that stamp is stored: the tags were held before it was read.
    pub hold: Hold,
}

/// The stored response for a request.
#[derive(Debug)]
pub enum Found {
    /// It is current.
    Current(Arc<Entry>),
    /// Only soft invalidations came after it, and their graces are not over.
    SoftInvalidated(Arc<Entry>),
    /// A write has invalidated it.
    Invalidated,
    /// Responses are stored for other values of the fields that they vary on.
    OtherVariant,
    Nothing,
}

/// Where and for how long an entry is stored.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The hash of its key.
    pub hash: KeyHash,
    /// Readable part of its name in Redis: `user_details:42`.
    pub label: String,
    /// How long it stays in Redis; at least a second.
    pub keep: Duration,
    /// Bodies over this, bytes, are compressed in Redis; `None`: none are.
    pub compress_above: Option<usize>,
}

/// State of Redis, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// There is no Redis: everything is in memory.
    Embedded,
    /// It answers.
    Up,
    /// It does not answer; requests go upstream.
    Down(String),
    /// It answers, and so many tags are still to be invalidated there.
    CatchingUp(usize),
}

impl Cache {
    /// A cache over these tiers. Must be called inside a tokio runtime if there is a store.
    pub fn new(memory: Memory, store: Option<(Arc<dyn Store>, FleetSettings)>, metrics: Arc<Metrics>) -> Cache {
        let (pending, log) = (Arc::new(PendingInvalidations::default()), Arc::<InvalidationLog>::default());
        let bypasses = Arc::<Bypasses>::default();
        let shared = store.map(|(store, settings)| {
            let (marks, of_fleet) = (Arc::clone(&memory.marks), Arc::clone(&metrics));
            let (of_marks, logged) = (Arc::clone(&pending), Arc::clone(&log));
            let forwarded = Arc::clone(&bypasses);
            let fleet = Fleet::new(settings, Arc::clone(&store), marks, of_marks, of_fleet, logged, forwarded);
            let fleet = Arc::new(fleet);
            let delivery = Delivery { pending: Arc::clone(&pending), fleet: Arc::clone(&fleet) };
            let (delivering, renewing) = (delivery.clone(), Arc::clone(&fleet));
            let tasks = [
                supervise("delivery", Arc::clone(&metrics), move || delivering.clone().run()),
                supervise("lease", Arc::clone(&metrics), move || Arc::clone(&renewing).run()),
            ];
            Shared { store, fleet, delivery, seal: Seal::new("", None), sweeping: OnceLock::new(), _tasks: tasks }
        });
        let memory = Arc::new(memory);
        Cache { memory, shared, pending, repeating: OnceLock::new(), hot: Hot::default(), log, bypasses, metrics }
    }

    /// The same with these checksums of entries in Redis, instead of those of no namespace and without a secret.
    #[must_use]
    pub fn sealed(mut self, seal: Seal) -> Cache {
        if let Some(shared) = &mut self.shared {
            shared.seal = seal;
        }
        self
    }

    /// The time by the clock that times in entries are of ([`crate::coherence::clock`]).
    pub fn now(&self) -> SystemTime {
        self.memory.marks.clock.now()
    }

    /// Looks up the stored response for a request. `label` and `tags` are called only when needed.
    pub async fn lookup(
        &self,
        cache_key: CacheKey,
        headers: &HeaderMap,
        label: impl Fn() -> String,
        tags: impl Fn() -> Arc<[Tag]>,
    ) -> Lookup {
        match self.lookup_now(cache_key, headers, &tags) {
            Ok(lookup) => lookup,
            Err(cache_key) => self.lookup_later(cache_key, headers, label, tags).await,
        }
    }

    /// Looks up without waiting. Succeeds without Redis, or with a current entry in memory under a lease.
    ///
    /// # Errors
    ///
    /// Redis must be asked ([`Cache::lookup_later`]). Returns the key.
    pub fn lookup_now(
        &self,
        cache_key: CacheKey,
        headers: &HeaderMap,
        tags: impl Fn() -> Arc<[Tag]>,
    ) -> Result<Lookup, CacheKey> {
        let entry = self.memory.get(&cache_key);
        let Some(variants) = entry.as_ref().and_then(|entry| entry.vary_index()) else {
            return self.lookup_found(cache_key, entry, &tags);
        };
        let variant = cache_key.variant(&variants.on, headers);
        let stored = self.memory.get(&variant);
        match (self.lookup_found(variant, stored, &tags), entry) {
            (Ok(lookup), Some(vary_index)) => Ok(lookup.of_variant(cache_key, vary_index)),
            _ => Err(cache_key),
        }
    }

    /// `entry`: what memory has under this key.
    fn lookup_found(
        &self,
        cache_key: CacheKey,
        entry: Option<Arc<Entry>>,
        tags: &impl Fn() -> Arc<[Tag]>,
    ) -> Result<Lookup, CacheKey> {
        let Some(shared) = &self.shared else { return Ok(self.lookup_embedded(cache_key, entry, tags)) };
        if let Some(entry) = entry
            && shared.fleet.may_ask()
            && shared.fleet.holds_lease()
        {
            let view = self.memory.view_of(&entry);
            if matches!(view.validity(entry.stamp), Validity::Current) {
                let found = Found::Current(Arc::clone(&entry));
                return Ok(Lookup::of(found, cache_key, Some(view)).holding(Hold::Entry(entry)));
            }
        }
        Err(cache_key)
    }

    /// Continues the lookup in Redis after [`Cache::lookup_now`].
    pub async fn lookup_later(
        &self,
        cache_key: CacheKey,
        headers: &HeaderMap,
        label: impl Fn() -> String,
        tags: impl Fn() -> Arc<[Tag]>,
    ) -> Lookup {
        if let Some(vary_index) = self.memory.varies_on(&cache_key) {
            return self.lookup_variant(cache_key, vary_index, headers, &label, &tags).await;
        }
        let lookup = self.lookup_one(cache_key, &label, &tags).await;
        match &lookup.found {
            // The vary index came from L2: look up the variant that it selects.
            Found::Current(entry) | Found::SoftInvalidated(entry) if entry.vary_index().is_some() => {
                let vary_index = Arc::clone(entry);
                self.lookup_variant(lookup.cache_key, vary_index, headers, &label, &tags).await
            }
            _ => lookup,
        }
    }

    async fn lookup_variant(
        &self,
        primary: CacheKey,
        vary_index: Arc<Entry>,
        headers: &HeaderMap,
        label: &impl Fn() -> String,
        tags: &impl Fn() -> Arc<[Tag]>,
    ) -> Lookup {
        let on = vary_index.vary_index().map_or(&[][..], |variants| &variants.on);
        let lookup = self.lookup_one(primary.variant(on, headers), label, tags).await;
        lookup.of_variant(primary, vary_index)
    }

    async fn lookup_one(
        &self,
        cache_key: CacheKey,
        label: &impl Fn() -> String,
        tags: &impl Fn() -> Arc<[Tag]>,
    ) -> Lookup {
        match &self.shared {
            None => {
                let entry = self.memory.get(&cache_key);
                self.lookup_embedded(cache_key, entry, tags)
            }
            Some(shared) => self.lookup_shared(shared, cache_key, label, tags).await,
        }
    }

    fn lookup_embedded(
        &self,
        cache_key: CacheKey,
        entry: Option<Arc<Entry>>,
        tags: &impl Fn() -> Arc<[Tag]>,
    ) -> Lookup {
        let (mut found, mut invalidated) = (Found::Nothing, None);
        if let Some(entry) = entry {
            let view = self.memory.view_of(&entry);
            found = self.judge(cache_key.hash, &entry, view);
            if !matches!(found, Found::Invalidated) {
                return Lookup::of(found, cache_key, Some(view)).holding(Hold::Entry(entry));
            }
            invalidated = Some(entry);
        }
        let hold = self.memory.hold(&tags());
        // Up to here it has held its tags, so their marks are the same.
        drop(invalidated);
        let view = self.memory.view_held(&hold);
        Lookup::of(found, cache_key, Some(view)).holding(hold)
    }

    async fn lookup_shared(
        &self,
        shared: &Shared,
        cache_key: CacheKey,
        label: &impl Fn() -> String,
        tags: &impl Fn() -> Arc<[Tag]>,
    ) -> Lookup {
        if !shared.fleet.may_ask() {
            return Lookup::of(Found::Nothing, cache_key, None);
        }
        let (mut invalidated_in_memory, mut soft) = (false, None);
        if let Some(entry) = self.memory.get(&cache_key) {
            let view = match shared.fleet.holds_lease() {
                true => Some(self.memory.view_of(&entry)),
                false => self.ask_view(shared, &entry.tags.to_vec()).await,
            };
            let Some(view) = view else { return Lookup::of(Found::Nothing, cache_key, None) };
            match self.judge(cache_key.hash, &entry, view) {
                found @ Found::Current(_) => {
                    return Lookup::of(found, cache_key, Some(view)).holding(Hold::Entry(entry));
                }
                found @ Found::SoftInvalidated(_) => soft = Some((found, Some(view), Hold::Entry(entry))),
                _ => invalidated_in_memory = true,
            }
        }
        // Before Redis is asked, so that later invalidations of these tags are exact.
        let tags = tags();
        let hold = self.memory.hold(&tags);
        let asked = self.fetch_shared(shared, &cache_key, &label(), &tags).await;
        let (found, view, hold) = match (asked, soft) {
            // Another proxy may have refreshed it; otherwise the entry in memory is as good as the one in Redis.
            ((Found::Current(entry), view), _) => (Found::Current(entry), view, hold),
            (_, Some(soft)) => soft,
            ((Found::Nothing, view), None) if invalidated_in_memory => (Found::Invalidated, view, hold),
            ((found, view), None) => (found, view, hold),
        };
        Lookup::of(found, cache_key, view).holding(hold)
    }

    async fn fetch_shared(
        &self,
        shared: &Shared,
        cache_key: &CacheKey,
        label: &str,
        tags: &[Tag],
    ) -> (Found, Option<MarksView>) {
        let name = name(label, cache_key.key());
        let asked = shared.fleet.opening();
        let reply = self.ask(shared.store.lookup(&name, tags).await, "lookup");
        let Some(reply) = reply.filter(|found| shared.fleet.trusts(found.view.stamp.epoch, asked)) else {
            return (Found::Nothing, None);
        };
        // An unreadable entry is a miss, and so is a hash collision. The next fetch replaces it.
        let entry = self.read(shared, reply.entry, &name).filter(|entry| *entry.text == *cache_key.text);
        let Some(entry) = entry else { return (Found::Nothing, Some(reply.view)) };
        let mut view = reply.view;
        let mut _hold = Hold::Nothing;
        if !entry.tags.iter().all(|tag| tags.iter().any(|known| known.as_str() == tag)) {
            // The response itself named some of its tags; their marks are known only by asking for them.
            let all = entry.tags.to_vec();
            _hold = self.memory.hold(&all);
            let Some(whole) = self.ask_view(shared, &all).await else {
                return (Found::Nothing, None);
            };
            view = whole;
        }
        let found = match view.validity(entry.stamp) {
            Validity::Current => Found::Current,
            Validity::SoftInvalidated { .. } => Found::SoftInvalidated,
            Validity::Invalidated => return (Found::Invalidated, Some(reply.view)),
        };
        (found(self.memory.put_confirmed(cache_key.hash, entry, &view)), Some(view))
    }

    /// Looks up a request in Redis, whatever is in memory. Where `cache_key` leads to a vary index, looks up the variant that it
    /// selects.
    pub async fn lookup_in_store(
        &self,
        cache_key: CacheKey,
        headers: &HeaderMap,
        label: &str,
        tags: &[Tag],
    ) -> Lookup {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.fleet.may_ask()) else {
            return Lookup::of(Found::Nothing, cache_key, None);
        };
        let (found, view) = self.fetch_shared(shared, &cache_key, label, tags).await;
        match found {
            Found::Current(index) if index.vary_index().is_some() => {
                let on = index.vary_index().map_or(&[][..], |variants| &variants.on);
                let variant = cache_key.variant(on, headers);
                let (found, view) = self.fetch_shared(shared, &variant, label, tags).await;
                Lookup { vary_index: Some(index), ..Lookup::of(found, variant, view) }
            }
            found => Lookup::of(found, cache_key, view),
        }
    }

    /// Locks the fetch of the entry `key` among the proxies of the fleet; without Redis there are no others.
    pub async fn lock_fetch(&self, key: StoreKey, view: MarksView, limit: Duration) -> FleetLockOutcome {
        match &self.shared {
            Some(shared) => FleetLockOutcome::of(&shared.store, &self.metrics, key, view, limit).await,
            None => FleetLockOutcome::Alone,
        }
    }

    /// Decodes the entry `name` from Redis.
    fn read(&self, shared: &Shared, bytes: Option<Bytes>, name: &str) -> Option<Entry> {
        let decoded = Entry::decode(bytes?, &shared.seal, name);
        let decoded = decoded.inspect_err(|fault| {
            self.metrics.unreadable_entry(fault.reason());
            tracing::debug!(key = %name, %fault, "entry in Redis is not readable");
        });
        decoded.ok()
    }

    fn judge(&self, key: KeyHash, entry: &Arc<Entry>, view: MarksView) -> Found {
        match view.validity(entry.stamp) {
            Validity::Current => Found::Current(Arc::clone(entry)),
            Validity::SoftInvalidated { .. } => Found::SoftInvalidated(Arc::clone(entry)),
            Validity::Invalidated => {
                self.memory.drop_invalidated(key, entry);
                Found::Invalidated
            }
        }
    }

    /// The marks of these tags in Redis, if Redis may be trusted.
    async fn ask_view(&self, shared: &Shared, tags: &[Tag]) -> Option<MarksView> {
        let asked = shared.fleet.opening();
        let view = self.ask(shared.store.view(tags).await, "view");
        view.filter(|view| shared.fleet.trusts(view.stamp.epoch, asked))
    }

    fn ask<T>(&self, reply: Result<T, StoreError>, op: &'static str) -> Option<T> {
        reply.inspect_err(|_| self.metrics.store_error(op)).ok()
    }

    /// Stores an entry in L1. Its stamp was read before the fetch that made it, so it is never current if a write came in
    /// between. Nothing of a family with mixed rules is stored, in neither tier.
    pub fn store_in_memory(&self, entry: Entry, place: &Placement) -> Arc<Entry> {
        let entry = entry.compact();
        match self.bypasses.is_mixed(entry.tags.iter()) {
            true => Arc::new(entry),
            false => self.memory.put(place.hash, entry),
        }
    }

    /// Stores an entry in L2, if there is one and no write came in since the fetch began; true if it is there now.
    pub async fn store_shared(&self, entry: &Entry, place: &Placement) -> bool {
        let Some(shared) = &self.shared else { return false };
        if entry.weight() > SHARED_MAX {
            return false;
        }
        if !self.is_current_under_lease(shared, entry)
            && !self.ask_view(shared, &entry.tags.to_vec()).await.is_some_and(|view| view.is_current(entry.stamp))
        {
            return false;
        }
        let name = name(&place.label, StoreKey::of(&entry.text));
        self.put_shared(shared, entry, &name, place).await
    }

    /// The same for an entry under the primary key: a response, or a vary index. It does not replace a vary index of another
    /// proxy that names more fields: the variants could not be found any more (RFC 9111 §4.1). Then that vary index is stored in
    /// memory instead, so that later responses are told apart by its fields too. `is_error`: the response is an error, and its own
    /// fields are not added to those. `found_nothing`: by the lookup before the fetch. If nothing is there still, one command suffices.
    pub async fn store_shared_primary(
        &self,
        entry: &Entry,
        is_error: bool,
        place: &Placement,
        found_nothing: bool,
    ) -> bool {
        let Some(shared) = &self.shared else { return false };
        if entry.weight() > SHARED_MAX {
            return false;
        }
        let name = name(&place.label, StoreKey::of(&entry.text));
        if found_nothing && self.is_current_under_lease(shared, entry) {
            let Some(encoding) = self.encode(shared, entry, &name, place) else { return false };
            match self.ask(shared.store.put_new(&name, encoding, place.keep).await, "put") {
                Some(true) => return true,
                None => return false,
                // Another proxy has stored since.
                Some(false) => {}
            }
        }
        let asked = shared.fleet.opening();
        let reply = self.ask(shared.store.lookup(&name, &entry.tags.to_vec()).await, "lookup");
        let Some(there) = reply.filter(|there| shared.fleet.trusts(there.view.stamp.epoch, asked)) else {
            return false;
        };
        let vary_index = there.entry.and_then(|bytes| Entry::decode(bytes, &shared.seal, &name).ok());
        let vary_index = vary_index
            .filter(|vary_index| *vary_index.text == *entry.text && there.view.is_current(vary_index.stamp));
        let wider = vary_index.and_then(|vary_index| wider(vary_index, entry, is_error, self.now()));
        if let Some(vary_index) = wider {
            self.memory.remove(place.hash);
            self.memory.put(place.hash, vary_index);
            return false;
        }
        // If a write came in since the fetch began, the entry is of no use, and might replace a newer one.
        there.view.is_current(entry.stamp) && self.put_shared(shared, entry, &name, place).await
    }

    /// Whether an entry whose tags are held is current by this proxy's copy of the marks, which has every acknowledged write under a
    /// lease. False as well where only Redis can tell, as after the beginning of an epoch that the copy is not of yet.
    fn is_current_under_lease(&self, shared: &Shared, entry: &Entry) -> bool {
        shared.fleet.may_ask() && shared.fleet.holds_lease() && self.memory.view_of(entry).is_current(entry.stamp)
    }

    async fn put_shared(&self, shared: &Shared, entry: &Entry, name: &str, place: &Placement) -> bool {
        let Some(encoding) = self.encode(shared, entry, name, place) else { return false };
        self.ask(shared.store.put(name, encoding, place.keep).await, "put").is_some()
    }

    /// An entry as it is in Redis; `None` if it is not to be there.
    fn encode(&self, shared: &Shared, entry: &Entry, name: &str, place: &Placement) -> Option<Bytes> {
        if self.bypasses.is_mixed(entry.tags.iter()) {
            return None;
        }
        let encoding = entry.encode_compressed(&shared.seal, name, place.compress_above);
        // Fields that many entries share take more there than in L1.
        (encoding.len() as u64 <= SHARED_MAX).then_some(encoding)
    }

    /// Removes an entry from both tiers.
    pub async fn remove(&self, cache_key: &CacheKey, label: &str) {
        if let Some(shared) = &self.shared {
            self.ask(shared.store.remove(&name(label, cache_key.key())).await, "remove");
        }
        // After Redis: a lookup in between may have stored in memory what it found there.
        self.memory.remove(cache_key.hash);
    }

    /// Whether an entry with these tags and this stamp is current. Asks Redis, if there is one.
    pub async fn is_current(&self, tags: &[Tag], stamp: Stamp) -> bool {
        self.view(tags).await.is_some_and(|view| view.is_current(stamp))
    }

    /// The marks of these tags; `None` when Redis is away.
    pub async fn view(&self, tags: &[Tag]) -> Option<MarksView> {
        match &self.shared {
            None => Some(self.memory.view(tags)),
            Some(shared) if !shared.fleet.may_ask() => None,
            Some(shared) => self.ask_view(shared, tags).await,
        }
    }

    /// Whether a response with this `Last-Modified`, a whole second, may be of the second of a write: the latest invalidation of one
    /// of these tags is in it, or in the next one. True as well while Redis does not answer.
    pub async fn may_be_of_a_write(&self, tags: &[Tag], date: SystemTime) -> bool {
        let second = date.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as Sequence;
        let time = second..second.saturating_add(2_000_000);
        let marks = &self.memory.marks;
        let Some(shared) = &self.shared else { return marks.any_in(tags, &time) };
        if marks.any_in(tags, &time) || !shared.fleet.may_ask() {
            return true;
        }
        // The floor and the root tag are in every view. They count only if they rose after this proxy's copy of the marks began:
        // an earlier rise may be only the beginning of an epoch.
        // Each tag by itself: the latest mark of one would hide those of the others.
        let sets: Vec<&[Tag]> = iter::once(&[][..]).chain(tags.iter().map(slice::from_ref)).collect();
        let asked = shared.fleet.opening();
        let views = self.ask(shared.store.views(&sets).await, "views").unwrap_or_default();
        let [common, views @ ..] = &views[..] else { return true };
        if !shared.fleet.trusts(common.stamp.epoch, asked) {
            return true;
        }
        let floor = if marks.stamp().epoch == common.stamp.epoch { marks.floor() } else { 0 };
        let since = floor.min(common.newest);
        views.iter().any(|view| {
            let latest = [view.newest, view.soft.map_or(0, |soft| soft.newest)];
            latest.iter().any(|sequence| *sequence > since && time.contains(sequence))
        })
    }
}

impl Lookup {
    /// The entry that was found, if no write has invalidated it for good.
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        match &self.found {
            Found::Current(entry) | Found::SoftInvalidated(entry) => Some(entry),
            Found::Invalidated | Found::OtherVariant | Found::Nothing => None,
        }
    }

    /// The primary key: without the fields that responses vary on.
    pub fn primary(&self) -> &CacheKey {
        self.primary_key.as_ref().unwrap_or(&self.cache_key)
    }

    /// The result for this key, without variants.
    pub fn of(found: Found, cache_key: CacheKey, view: Option<MarksView>) -> Lookup {
        Lookup { found, cache_key, primary_key: None, vary_index: None, view, hold: Hold::Nothing }
    }

    /// The result of a lookup of the variant that this vary index selects.
    fn of_variant(self, primary: CacheKey, vary_index: Arc<Entry>) -> Lookup {
        let found = match self.found {
            Found::Nothing => Found::OtherVariant,
            found => found,
        };
        Lookup { found, primary_key: Some(primary), vary_index: Some(vary_index), ..self }
    }

    fn holding(self, hold: Hold) -> Lookup {
        Lookup { hold, ..self }
    }
}

/// A stored vary index, with the fields of `entry` added unless those would hide its variants; `None` if `entry` names the same
/// fields.
fn wider(vary_index: Entry, entry: &Entry, is_error: bool, now: SystemTime) -> Option<Entry> {
    let theirs = vary_index.vary_index().filter(|variants| variants.kept_until(now) > now)?;
    let ours = entry.vary_index().map_or(&[][..], |variants| &variants.on);
    let on = theirs.widened(ours, is_error).unwrap_or_else(|| theirs.on.clone());
    let is_other = on != ours;
    let variants = VaryIndex { on, known: theirs.known.clone() };
    is_other.then(|| {
        Entry::new(vary_index.text, vary_index.stamp, vary_index.tags.iter(), Content::VaryIndex(variants))
    })
}

/// The entry's name in Redis, below the namespace. `v1` is the version of this naming; entries carry that of their format. It comes
/// last, so that `KEYS namespace:family:*` lists a family.
pub fn name(label: &str, key: StoreKey) -> String {
    [label, ":", &hexadecimal(&key.0), ":v1"].concat()
}
