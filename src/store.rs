//! L2: the store that several proxies share. One trait, two implementations: [`redis`], and the simulated one that
//! deterministic tests drive.
//!
//! The store answers two questions in one round trip: *what is kept under this key*, and, read **after** it,
//! *what do the marks of these tags say*. It never says that an entry is current; the cache compares.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::marks::{IssuedStamp, MarksView, Tag};

pub mod fleet;
pub mod redis;
pub mod sweep;

use fleet::{
    Cause, FleetLock, Generation, Holder, Intent, Invalidated, LockReply, Membership, Message, Roster, Synced,
};

use sweep::{Dated, Judged, KeyStats, Survey, WalkPosition};

/// A boxed future: `Store` is used as `dyn Store`, and a box is nothing beside a round trip.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Names the family of a label such as `user_details:42`.
pub type FamilyOf<'f> = dyn Fn(&str) -> String + Sync + 'f;

/// What one round trip brought.
#[derive(Debug)]
pub struct Found {
    /// The encoded entry, if one is kept under the key: at most [`crate::entry::ENCODING_MAX`] bytes and one more of what
    /// stands there; nothing at all, `Some(b"")`, of what is no string.
    pub entry: Option<Bytes>,
    /// The marks of the tags asked for (and of the root tag, and the floor), read after the entry.
    pub view: MarksView,
}

/// Why the store could not answer. Nothing may be trusted after any of these.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No connection, or the breaker is open. Costs nothing.
    #[error("the store is away: {0}")]
    Away(String),
    /// No answer within the time limit.
    #[error("the store did not answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The store has done it, but too few of its replicas have it (`wait_replicas`): another server may have taken its
    /// place, and may not know. [`Store::reach`] tells when they have.
    #[error("{reason}")]
    Unreplicated {
        /// What an invalidation has taken.
        taken: Option<IssuedStamp>,
        /// How many are missing, for people.
        reason: String,
    },
    /// The store answered with an error, or with something that is not an answer.
    #[error("the store answered: {0}")]
    Refused(String),
}

/// State of the link to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Connected; the last command succeeded.
    Up,
    /// Not connected; the reason is for people.
    Down(String),
}

/// An outage of the store, as attempts to connect have shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// When the first attempt began that failed, or got no answer in the time that a request waits. From then on there was an
    /// attempt under way, or the server refused one every 50 ms.
    pub since: Instant,
    /// The latest moment at which the store is known to have been away.
    pub away_at: Instant,
}

/// What the admin shows of the store.
#[derive(Debug, Clone, Default)]
pub struct StoreInfo {
    /// Fields of `INFO`, by name.
    pub fields: std::collections::BTreeMap<String, String>,
}

impl StoreInfo {
    /// A field as text; empty when the server does not report it.
    pub fn text(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// A field as a number; 0 when the server does not report it.
    pub fn number(&self, name: &str) -> f64 {
        self.text(name).parse().unwrap_or(0.0)
    }
}

/// Keys counted in the namespace.
#[derive(Debug, Clone, Default)]
pub struct KeyCounts {
    /// Entries by family.
    pub by_family: std::collections::BTreeMap<String, u64>,
    /// False when the walk ended at its limit, so that the counts are lower bounds.
    pub complete: bool,
}

/// The shared store. Every method returns within the configured time limit, but for `count_keys`, and `survey`, `views` and
/// `unlink`: those take at most ten of it, and should they take that long, requests go on using the store.
pub trait Store: Send + Sync + fmt::Debug {
    /// The entry under `key`, then the marks of `tags` and of the root tag: one round trip.
    fn lookup<'a>(&'a self, key: &'a str, tags: &'a [Tag]) -> Reply<'a, Found>;

    /// The marks of `tags` and of the root tag alone.
    fn view<'a>(&'a self, tags: &'a [Tag]) -> Reply<'a, MarksView>;

    /// Keeps `value` under `key` for `ttl` (at least 1 s).
    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, ()>;

    /// Takes the next sequence and marks `tags` with it, and what `cause` softens with a soft mark; drops the intent of `cause`, and records one for each
    /// repetition; tells who may hold a lease, and nudges them: all of it or nothing. May be repeated: repeating only
    /// invalidates more. After an error the tags may be marked all the same.
    fn invalidate<'a>(&'a self, tags: &'a [Tag], cause: &'a Cause<'a>) -> Reply<'a, Invalidated>;

    /// Makes a proxy a member or renews its membership, and tells the marks that it lacks. The others are told when it
    /// has applied more than at its last sync. It stays a member until it leaves or is expelled, whatever time passes.
    /// With `wait_replicas` an answer also says that the store's replicas still followed it.
    fn sync<'a>(&'a self, me: &'a Membership) -> Reply<'a, Synced>;

    /// Returns when as many replicas as `wait_replicas` asks for have all that was written before this was called, with
    /// the view of no tags, read after that.
    fn reach(&self) -> Reply<'_, MarksView>;

    /// Who is in the fleet, for the admin.
    fn roster(&self) -> Reply<'_, Roster>;

    /// Ends a membership: whoever calls this serves nothing under its lease any more.
    fn leave<'a>(&'a self, id: &'a str) -> Reply<'a, ()>;

    /// Has no write wait any more for a proxy whose lease has passed; false if it has synced since, or no write waits for it.
    /// Its record stays: who returns from an outage still awaits it.
    fn expel<'a>(&'a self, holder: &'a Holder) -> Reply<'a, bool>;

    /// Removes the record of a proxy that has not returned after an outage; false if it has synced since, or if the generation is
    /// not this one any more.
    fn dismiss<'a>(&'a self, holder: &'a Holder, generation: Generation) -> Reply<'a, bool>;

    /// Records an intent that is due after `within`, or renews its deadline and tags. The view is that of
    /// [`Store::view`] without tags.
    fn record<'a>(&'a self, intent: &'a Intent, within: Duration) -> Reply<'a, MarksView>;

    /// Drops an intent: its write changed nothing.
    fn forget<'a>(&'a self, intent: &'a str) -> Reply<'a, ()>;

    /// Claims a fetch for at most `lasting` (at least 1 ms): others are told whose it is, until it is released or that time
    /// has passed. `instead_of`: another one's claim that gives way to this one if it still stands.
    fn lock_fetch<'a>(
        &'a self,
        fetch: &'a str,
        lock: &'a FleetLock,
        lasting: Duration,
        instead_of: Option<&'a FleetLock>,
    ) -> Reply<'a, LockReply>;

    /// Ends a claim, unless another has taken its place, and tells everybody that its fetch has ended.
    fn unlock_fetch<'a>(&'a self, fetch: &'a str, lock: &'a FleetLock, stored: bool) -> Reply<'a, ()>;

    /// What proxies tell one another, this one's own words included, from now on. Any of it may be missing: correctness
    /// must not depend on it.
    fn messages(&self) -> broadcast::Receiver<Message>;

    /// Removes one entry; true if it was there.
    fn remove<'a>(&'a self, key: &'a str) -> Reply<'a, bool>;

    /// Reads one entry without its marks, as [`Found::entry`], for the admin.
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>>;

    /// What the server says of itself.
    fn info(&self) -> Reply<'_, StoreInfo>;

    /// Walks the namespace, for at most ten time limits and until about `limit` entries are counted, and groups
    /// them by what `family_of` makes of their labels: the text between `v1:` and the last `:` of their key. An entry
    /// that is written or removed meanwhile may be counted twice or not at all.
    fn count_keys<'a>(&'a self, limit: u64, family_of: &'a FamilyOf<'a>) -> Reply<'a, KeyCounts>;

    /// Takes or renews, for `lasting`, the lease under which one proxy at a time sweeps; false while another one holds it.
    fn hold_sweep<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool>;

    /// One step of a walk over all entries: looks at about so many keys of the server.
    fn survey(&self, from: WalkPosition, keys: u64) -> Reply<'_, Survey>;

    /// What [`Store::view`] gives for each of these sets of tags, in one round trip.
    fn views<'a>(&'a self, sets: &'a [&'a [Tag]]) -> Reply<'a, Vec<MarksView>>;

    /// Removes those of these entries, all met at one place, that still begin as they did; tells how many.
    fn unlink<'a>(&'a self, at: WalkPosition, judged: &'a [Judged]) -> Reply<'a, u64>;

    /// Keeps the result of a walk for every proxy to read, for `lasting`.
    fn store_key_stats<'a>(&'a self, key_stats: &'a KeyStats, lasting: Duration) -> Reply<'a, ()>;

    /// The last result that was kept, if its time is not over.
    fn key_stats(&self) -> Reply<'_, Option<Dated>>;

    /// The link's state, without asking the server.
    fn link(&self) -> Link;

    /// Tells of every change of the link's state.
    fn changes(&self) -> watch::Receiver<Link>;

    /// The outage that this proxy is in. `None` while the link is up, and after it went down until an attempt to connect has
    /// failed or got no answer.
    fn outage(&self) -> watch::Receiver<Option<Outage>>;
}
