//! L2: the store that several proxies share. One trait, two implementations: [`redis`], and the simulated one of the
//! deterministic tests.
//!
//! A lookup returns, in one round trip, the entry under a key and, read **after** it, the marks of the entry's tags. It does not
//! decide whether the entry is current; the cache compares.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::marks::{IssuedStamp, MarksView, Tag};
use hours::Hour;
use log::{LogContent, LogEntry, LogPosition};

pub mod fleet;
pub mod hours;
pub mod log;
pub mod redis;
pub mod sweep;

use fleet::{
    Cause, FleetBypass, FleetLock, Generation, Holder, Intent, Invalidated, LockReply, Membership, Message,
    Roster, Synced,
};

use sweep::{Dated, Judged, KeyStats, Survey, WalkPosition};

/// A boxed future: `Store` is used as `dyn Store`, and a box costs nothing compared to a round trip.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Returns the family of a label such as `user_details:42`.
pub type FamilyOf<'f> = dyn Fn(&str) -> String + Sync + 'f;

/// Result of a lookup.
#[derive(Debug)]
pub struct LookupReply {
    /// The value of the key, if there is one: at most [`crate::entry::ENCODING_MAX`] bytes and one more; `Some(b"")` if the
    /// key is of another type.
    pub entry: Option<Bytes>,
    /// The marks of the requested tags and the root tag, and the floor, read after the entry.
    pub view: MarksView,
}

/// Why the store could not answer. After any of these, no stored entry may be treated as current.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not connected. Returned without waiting.
    #[error("Redis is away: {0}")]
    Away(String),
    /// No answer within the time limit.
    #[error("Redis did not answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// Done, but too few replicas have it (`wait_replicas`): a server that is promoted now may lack it. [`Store::reach`] waits
    /// until they have it.
    #[error("{reason}")]
    Unreplicated {
        /// Stamp of an invalidation.
        taken: Option<IssuedStamp>,
        /// How many replicas lack it, for the log.
        reason: String,
    },
    /// The store answered with an error, or with a malformed reply.
    #[error("Redis answered: {0}")]
    Refused(String),
}

/// State of the link to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Connected; the last command succeeded.
    Up,
    /// Not connected, and why.
    Down(String),
}

/// An outage of the store, as observed by attempts to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Start of the first attempt that failed, or got no answer within the time limit of a request. Since then an attempt has
    /// been in progress, or the server has refused one every 50 ms.
    pub since: Instant,
    /// The latest moment at which the store is known to have been unreachable.
    pub away_at: Instant,
}

/// The server's `INFO`, for the admin.
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

/// Number of entries in the namespace.
#[derive(Debug, Clone, Default)]
pub struct KeyCounts {
    /// Entries by family.
    pub by_family: std::collections::BTreeMap<String, u64>,
    /// False when the walk ended at its limit, so that the counts are lower bounds.
    pub complete: bool,
}

/// The shared store. Every method returns within the configured time limit, except `count_keys`, `survey`, `views` and
/// `unlink`: these take at most ten time limits, and their timeout does not take the link down.
pub trait Store: Send + Sync + fmt::Debug {
    /// The entry under `key`, then the marks of `tags` and of the root tag: one round trip.
    fn lookup<'a>(&'a self, key: &'a str, tags: &'a [Tag]) -> Reply<'a, LookupReply>;

    /// The marks of `tags` and of the root tag alone.
    fn view<'a>(&'a self, tags: &'a [Tag]) -> Reply<'a, MarksView>;

    /// Stores `value` under `key` for `ttl` (at least 1 s).
    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, ()>;

    /// The same, unless something is there under `key`; whether it is stored.
    fn put_new<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, bool>;

    /// Takes the next sequence, marks `tags` with it and sets the soft marks of `cause`; drops the intent of `cause`, and
    /// records one for each repetition; returns the members that may hold a lease, and publishes a nudge. Atomic. Repeating it
    /// only invalidates more. After an error the tags may have been marked.
    fn invalidate<'a>(&'a self, tags: &'a [Tag], cause: &'a Cause<'a>) -> Reply<'a, Invalidated>;

    /// Makes a proxy a member or renews its membership, and returns the marks that it lacks. Publishes that it has applied
    /// more than at its last sync. It stays a member until it leaves or is expelled, however long that takes. With
    /// `wait_replicas`, a reply also proves that the replicas still followed the store.
    fn sync<'a>(&'a self, me: &'a Membership) -> Reply<'a, Synced>;

    /// Returns when `wait_replicas` replicas have everything that was written before the call. The view is that of no tags, read
    /// after that.
    fn reach(&self) -> Reply<'_, MarksView>;

    /// The members of the fleet, for the admin.
    fn roster(&self) -> Reply<'_, Roster>;

    /// Ends a membership. The caller no longer serves anything under its lease.
    fn leave<'a>(&'a self, id: &'a str) -> Reply<'a, ()>;

    /// Begins a bypass of a family in the whole fleet, or gives it another end; an end of 0 ends it. Returns whether it was one before,
    /// and the revision of the registry that has the change; `None`: there are too many.
    fn set_bypass<'a>(&'a self, bypass: &'a FleetBypass) -> Reply<'a, Option<(bool, u64)>>;

    /// Ends the waiting of writes for a proxy whose lease has expired; false if it has synced since, or no write waits for it.
    /// Its record stays: proxies that return from an outage still wait for it.
    fn expel<'a>(&'a self, holder: &'a Holder) -> Reply<'a, bool>;

    /// Removes the record of a proxy that has not returned after an outage; false if it has synced since, or if the generation is
    /// not this one any more.
    fn dismiss<'a>(&'a self, holder: &'a Holder, generation: Generation) -> Reply<'a, bool>;

    /// Records an intent that is due after `within`, or renews its deadline and tags. The view is that of
    /// [`Store::view`] without tags.
    fn record<'a>(&'a self, intent: &'a Intent, within: Duration) -> Reply<'a, MarksView>;

    /// Drops an intent: its write changed nothing.
    fn forget<'a>(&'a self, intent: &'a str) -> Reply<'a, ()>;

    /// Takes the fleet lock of a fetch for at most `lasting` (at least 1 ms), unless another proxy holds it. `instead_of`:
    /// another proxy's lock that this one may replace.
    fn lock_fetch<'a>(
        &'a self,
        fetch: &'a str,
        lock: &'a FleetLock,
        lasting: Duration,
        instead_of: Option<&'a FleetLock>,
    ) -> Reply<'a, LockReply>;

    /// Releases a fleet lock unless another has replaced it, and publishes that its fetch has ended.
    fn unlock_fetch<'a>(&'a self, fetch: &'a str, lock: &'a FleetLock, stored: bool) -> Reply<'a, ()>;

    /// Messages between the proxies of the fleet from now on, including this one's. Any may be lost: correctness must not
    /// depend on them.
    fn messages(&self) -> broadcast::Receiver<Message>;

    /// Removes one entry; true if it was there.
    fn remove<'a>(&'a self, key: &'a str) -> Reply<'a, bool>;

    /// Reads one entry without its marks, as [`LookupReply::entry`], for the admin.
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>>;

    /// The server's `INFO`.
    fn info(&self) -> Reply<'_, StoreInfo>;

    /// Walks the namespace, for at most ten time limits and until about `limit` entries are counted, and groups
    /// them by `family_of` their labels: the text before the digest in their key. An entry that is written or
    /// removed meanwhile may be counted twice or not at all.
    fn count_keys<'a>(&'a self, limit: u64, family_of: &'a FamilyOf<'a>) -> Reply<'a, KeyCounts>;

    /// Takes or renews, for `lasting`, the lease under which one proxy at a time sweeps; false while another one holds it.
    fn hold_sweep<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool>;

    /// Takes or renews, for `lasting`, the lease under which one proxy at a time warms; false while another one holds it.
    fn hold_warming<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool>;

    /// Adds hits to the reads of an hour, of which the [`hours::KEPT`] most frequent are kept for [`hours::DAYS`] days.
    fn add_hits<'a>(&'a self, hour: Hour, reads: &'a [(String, u32)]) -> Reply<'a, ()>;

    /// The most frequent reads of these hours, with their hits; a read that is in several hours is there several times.
    fn hits_in<'a>(&'a self, hours: &'a [Hour]) -> Reply<'a, Vec<(String, u64)>>;

    /// Adds entries to the log of invalidations, of which about [`log::KEPT`] are kept. [`Store::invalidate`] adds the record of its
    /// cause.
    fn append_log<'a>(&'a self, contents: &'a [LogContent]) -> Reply<'a, ()>;

    /// The latest entries of the log, or the latest before a position; at most `most`, the latest first.
    fn log_before(&self, before: Option<LogPosition>, most: usize) -> Reply<'_, Vec<LogEntry>>;

    /// The entries of the log after a position, at most `most`, the oldest first.
    fn log_after(&self, after: LogPosition, most: usize) -> Reply<'_, Vec<LogEntry>>;

    /// One step of a walk over all entries: looks at about so many keys of the server.
    fn survey(&self, from: WalkPosition, keys: u64) -> Reply<'_, Survey>;

    /// What [`Store::view`] gives for each of these sets of tags, in one round trip.
    fn views<'a>(&'a self, sets: &'a [&'a [Tag]]) -> Reply<'a, Vec<MarksView>>;

    /// Removes those of these entries, all found in the step at `at`, that were not replaced since; returns their number.
    fn unlink<'a>(&'a self, at: WalkPosition, judged: &'a [Judged]) -> Reply<'a, u64>;

    /// Stores the result of a walk for all proxies, for `lasting`.
    fn store_key_stats<'a>(&'a self, key_stats: &'a KeyStats, lasting: Duration) -> Reply<'a, ()>;

    /// The last stored result, unless it has expired.
    fn key_stats(&self) -> Reply<'_, Option<Dated>>;

    /// The link's state, without asking the server.
    fn link(&self) -> Link;

    /// Receives every change of the link's state.
    fn changes(&self) -> watch::Receiver<Link>;

    /// The current outage. `None` while the link is up, and after it went down until an attempt to connect has failed or got no
    /// answer.
    fn outage(&self) -> watch::Receiver<Option<Outage>>;
}
