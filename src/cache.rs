//! Lookup and store over the two tiers, and invalidation in both. What is found is *current* or it is not given out;
//! whether it is also *fresh* is for [`crate::semantics`] to say.
//!
//! Without a store, L1's marks table is the authority. With one, every lookup asks the store for the marks at least,
//! in the same round trip that brings the entry when L1 does not hold it. When the store cannot answer, or has not
//! taken all invalidations yet ([`backlog`]), nothing stored is trusted: [`Lookup::view`] is `None`, and a fetch made
//! meanwhile is not stored, since it would have no stamp.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::task::JoinHandle;

use crate::entry::Entry;
use crate::key::{Canonical, Key};
use crate::metrics::Metrics;
use crate::stamp::{Stamp, Tag, Taken, View};
use crate::store::fleet::Cause;
use crate::store::{Link, Store};

pub mod backlog;
pub mod flight;
pub mod memory;
pub mod peek;
pub mod stream;
pub mod unanswered;

use backlog::Backlog;
use memory::{Memory, Resident, Usage};

/// Entries over this, bytes, stay in L1: a larger one could hold up the store's connection for longer than its time
/// limit, which would look like a store that hangs.
const SHARED_MAX: u64 = 1 << 20;

/// L1, the marks table, and L2 if there is one.
pub struct Cache {
    memory: Memory,
    shared: Option<Shared>,
    metrics: Arc<Metrics>,
}

struct Shared {
    store: Arc<dyn Store>,
    backlog: Arc<Backlog>,
    delivery: JoinHandle<()>,
}

/// What a lookup found, and what it learned of the marks.
#[derive(Debug)]
pub struct Lookup {
    pub found: Found,
    /// The request as it is keyed: one variant of it, where responses vary.
    pub canonical: Canonical,
    /// The sign that responses vary, where there is one.
    pub sign: Option<Arc<Entry>>,
    /// The stamp of a fetch that begins now. `None`: the store is away, and nothing may be stored.
    pub view: Option<View>,
}

/// What is kept for a request.
#[derive(Debug)]
pub enum Found {
    /// A response that no write has outdated.
    Current(Arc<Entry>),
    /// A response that a write has outdated.
    Outdated,
    /// Responses are kept for other values of the fields they vary on.
    OtherVariant,
    Nothing,
}

/// Where and for how long an entry is kept.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its key.
    pub key: Key,
    /// Readable part of its name in the store: `user_details:42`.
    pub label: String,
    /// How long the store keeps it; at least a second.
    pub keep: Duration,
}

/// State of the shared store, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// There is none: everything is in memory.
    Embedded,
    /// It answers.
    Up,
    /// It does not; requests go upstream.
    Down(String),
    /// It does, and is being told of the writes that it missed (so many tags).
    CatchingUp(usize),
}

impl Cache {
    /// A cache over these tiers. Must be called inside a tokio runtime if there is a store.
    pub fn new(memory: Memory, store: Option<Arc<dyn Store>>, metrics: Arc<Metrics>) -> Cache {
        let shared = store.map(|store| {
            let backlog = Arc::new(Backlog::default());
            let delivery = tokio::spawn(deliver(Arc::clone(&store), Arc::clone(&backlog)));
            Shared { store, backlog, delivery }
        });
        Cache { memory, shared, metrics }
    }

    /// What is kept for a request, and whether it is current. `label` and `tags` are worked out only when needed.
    pub async fn lookup(
        &self,
        canonical: Canonical,
        headers: &HeaderMap,
        label: impl Fn() -> String,
        tags: impl Fn() -> Vec<Tag>,
    ) -> Lookup {
        if let Some(resident) = self.memory.varies_on(&canonical) {
            let sign = Arc::clone(&resident.entry);
            return self.lookup_variant(&canonical, sign, headers, &label, &tags).await;
        }
        let lookup = self.lookup_one(canonical, &label, &tags).await;
        match &lookup.found {
            // The sign that responses vary came from L2: once more, one level down.
            Found::Current(entry) if entry.variants().is_some() => {
                let sign = Arc::clone(entry);
                self.lookup_variant(&lookup.canonical, sign, headers, &label, &tags).await
            }
            _ => lookup,
        }
    }

    async fn lookup_variant(
        &self,
        canonical: &Canonical,
        sign: Arc<Entry>,
        headers: &HeaderMap,
        label: &impl Fn() -> String,
        tags: &impl Fn() -> Vec<Tag>,
    ) -> Lookup {
        let on = sign.variants().map_or(&[][..], |variants| &variants.on);
        let lookup = self.lookup_one(canonical.variant(on, headers), label, tags).await;
        let found = match lookup.found {
            Found::Nothing => Found::OtherVariant,
            found => found,
        };
        Lookup { found, sign: Some(sign), ..lookup }
    }

    /// What is kept under exactly this text: a variant that [`Lookup::sign`] knows.
    pub async fn lookup_exactly(
        &self,
        canonical: Canonical,
        label: impl Fn() -> String,
        tags: impl Fn() -> Vec<Tag>,
    ) -> Lookup {
        self.lookup_one(canonical, &label, &tags).await
    }

    async fn lookup_one(
        &self,
        canonical: Canonical,
        label: &impl Fn() -> String,
        tags: &impl Fn() -> Vec<Tag>,
    ) -> Lookup {
        match &self.shared {
            None => self.lookup_embedded(canonical, tags),
            Some(shared) => self.lookup_shared(shared, canonical, label, tags).await,
        }
    }

    fn lookup_embedded(&self, canonical: Canonical, tags: &impl Fn() -> Vec<Tag>) -> Lookup {
        let Some(resident) = self.memory.get(&canonical) else {
            let view = self.memory.view(&tags());
            return Lookup::plain(Found::Nothing, canonical, Some(view));
        };
        let view = self.memory.view_of(&resident);
        let found = self.judge(canonical.key, &resident, view);
        Lookup::plain(found, canonical, Some(view))
    }

    async fn lookup_shared(
        &self,
        shared: &Shared,
        canonical: Canonical,
        label: &impl Fn() -> String,
        tags: &impl Fn() -> Vec<Tag>,
    ) -> Lookup {
        if shared.backlog.is_closed() {
            return Lookup::plain(Found::Nothing, canonical, None);
        }
        let mut outdated_in_memory = false;
        if let Some(resident) = self.memory.get(&canonical) {
            let Some(view) = self.ask(shared.store.view(&resident.entry.tags).await, "view") else {
                return Lookup::plain(Found::Nothing, canonical, None);
            };
            let found = self.judge(canonical.key, &resident, view);
            if let Found::Current(_) = found {
                return Lookup::plain(found, canonical, Some(view));
            }
            outdated_in_memory = true;
        }
        let (found, view) = self.fetch_shared(shared, &canonical, &label(), &tags()).await;
        let found = match found {
            Found::Nothing if outdated_in_memory => Found::Outdated,
            found => found,
        };
        Lookup::plain(found, canonical, view)
    }

    async fn fetch_shared(
        &self,
        shared: &Shared,
        canonical: &Canonical,
        label: &str,
        tags: &[Tag],
    ) -> (Found, Option<View>) {
        let name = name(label, canonical.key);
        let Some(reply) = self.ask(shared.store.lookup(&name, tags).await, "lookup") else {
            return (Found::Nothing, None);
        };
        let entry = reply.entry.and_then(|bytes| match Entry::decode(bytes) {
            Ok(entry) if *entry.text == *canonical.text => Some(Arc::new(entry)),
            // A collision, or an entry of another version of Larder: a miss.
            Ok(_) => None,
            Err(fault) => {
                tracing::debug!(key = %name, %fault, "entry in the store is not readable");
                None
            }
        });
        let Some(entry) = entry else { return (Found::Nothing, Some(reply.view)) };
        let mut view = reply.view;
        if !entry.tags.iter().all(|tag| tags.contains(tag)) {
            // The response itself named some of its tags; their marks are known only by asking for them.
            let Some(whole) = self.ask(shared.store.view(&entry.tags).await, "view") else {
                return (Found::Nothing, None);
            };
            view = whole;
        }
        if !view.is_current(entry.stamp) {
            return (Found::Outdated, Some(reply.view));
        }
        self.memory.put(canonical.key, Arc::clone(&entry));
        (Found::Current(entry), Some(view))
    }

    fn judge(&self, key: Key, resident: &Arc<Resident>, view: View) -> Found {
        if view.is_current(resident.entry.stamp) {
            return Found::Current(Arc::clone(&resident.entry));
        }
        self.memory.drop_outdated(key, resident);
        Found::Outdated
    }

    fn ask<T>(&self, reply: Result<T, crate::store::StoreError>, op: &'static str) -> Option<T> {
        reply.inspect_err(|_| self.metrics.store_error(op)).ok()
    }

    /// Keeps an entry in L1. Its stamp was read before the fetch that made it, so that it is worthless, not wrong, if
    /// a write came in between.
    pub fn store_in_memory(&self, entry: Entry, place: &Place) -> Arc<Entry> {
        let entry = Arc::new(entry.compact());
        self.memory.put(place.key, Arc::clone(&entry));
        entry
    }

    /// Keeps an entry in L2, if there is one and no write came in since the fetch began.
    pub async fn store_shared(&self, entry: &Entry, place: &Place) {
        let Some(shared) = &self.shared else { return };
        if entry.weight() > SHARED_MAX {
            return;
        }
        // A write came in since the fetch began: nobody could use the entry, and it might take a newer one's place.
        match self.ask(shared.store.view(&entry.tags).await, "view") {
            Some(view) if view.is_current(entry.stamp) => {}
            Some(_) | None => return,
        }
        let name = name(&place.label, place.key);
        let reply = shared.store.put(&name, entry.encode(), place.keep.max(Duration::from_secs(1))).await;
        self.ask(reply, "put");
    }

    /// Drops an entry that is of no use any more.
    pub async fn remove(&self, place: &Place) {
        if let Some(shared) = &self.shared {
            self.ask(shared.store.remove(&name(&place.label, place.key)).await, "remove");
        }
        // After the store: what was found there in between went into memory.
        self.memory.remove(place.key);
    }

    /// Whether nothing has outdated what was stamped so. Asks the store, if there is one.
    pub async fn is_current(&self, tags: &[Tag], stamp: Stamp) -> bool {
        self.view(tags).await.is_some_and(|view| view.is_current(stamp))
    }

    /// What the marks say of these tags now; `None` when the store is away.
    pub async fn view(&self, tags: &[Tag]) -> Option<View> {
        match &self.shared {
            None => Some(self.memory.view(tags)),
            Some(shared) if shared.backlog.is_closed() => None,
            Some(shared) => self.ask(shared.store.view(tags).await, "view"),
        }
    }

    /// Outdates everything that carries one of the tags. When this returns, no lookup that begins later, here or on
    /// another proxy that can reach the store, gives out what was fetched before. If the store cannot be reached,
    /// the tags are kept and delivered before anything stored is trusted again; `None` then.
    pub async fn invalidate(&self, tags: &[Tag]) -> Option<Taken> {
        let taken = self.memory.marks.invalidate(tags);
        let Some(shared) = &self.shared else { return Some(taken) };
        match shared.store.invalidate(tags, &Cause::default()).await {
            Ok(invalidated) => Some(invalidated.taken),
            Err(error) => {
                self.metrics.store_error("invalidate");
                tracing::warn!(%error, tags = tags.len(), "invalidation is kept until the store is back");
                shared.backlog.keep(tags);
                None
            }
        }
    }

    /// State of the shared store.
    pub fn store_state(&self) -> StoreState {
        let Some(shared) = &self.shared else { return StoreState::Embedded };
        match shared.store.link() {
            Link::Down(reason) => StoreState::Down(reason),
            Link::Up if shared.backlog.is_closed() => StoreState::CatchingUp(shared.backlog.len()),
            Link::Up => StoreState::Up,
        }
    }

    /// The shared store, for the admin's questions.
    pub fn store_handle(&self) -> Option<&Arc<dyn Store>> {
        self.shared.as_ref().map(|shared| &shared.store)
    }

    /// How full L1 is.
    pub fn usage(&self) -> Usage {
        self.memory.usage()
    }

    /// L1, for the admin's questions.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Invalidations that the store has not taken yet, in tags.
    pub fn undelivered(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.backlog.len())
    }

    /// Tries once more to deliver what the store has not taken; true if nothing is left.
    pub async fn deliver_now(&self) -> bool {
        let Some(shared) = &self.shared else { return true };
        deliver_batch(&shared.store, &shared.backlog).await;
        shared.backlog.is_empty()
    }
}

impl Lookup {
    fn plain(found: Found, canonical: Canonical, view: Option<View>) -> Lookup {
        Lookup { found, canonical, sign: None, view }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.delivery.abort();
    }
}

/// The entry's name in the store, below the namespace. `v1` is the version of the entry format's place, not of the
/// format, which says its own.
fn name(label: &str, key: Key) -> String {
    format!("v1:{label}:{key}")
}

/// Delivers kept invalidations as soon as the store takes them.
async fn deliver(store: Arc<dyn Store>, backlog: Arc<Backlog>) {
    let mut link = store.changes();
    loop {
        if deliver_batch(&store, &backlog).await {
            backlog.changed().await;
            continue;
        }
        // The link says when it is worth another try; the pause bounds the work should it be up and refusing.
        let _ = tokio::time::timeout(Duration::from_millis(100), link.changed()).await;
    }
}

async fn deliver_batch(store: &Arc<dyn Store>, backlog: &Backlog) -> bool {
    let Some(batch) = backlog.batch() else { return true };
    if store.invalidate(&batch.tags, &Cause::default()).await.is_err() {
        return false;
    }
    backlog.delivered(&batch);
    tracing::info!(tags = batch.tags.len(), "kept invalidations were delivered to the store");
    backlog.is_empty()
}
