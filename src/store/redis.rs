//! L2 in Redis or Valkey. Owns the names and formats of what is kept there, the read of the marks and the scripts;
//! `link` owns the connections, and `cluster` and `sentinel` tell it where to.
//!
//! | key | holds |
//! |---|---|
//! | `{ns}:meta` | hash: `epoch` (64 bits, decimal), `seq` (last sequence issued), `floor`, `run_id`, `born` (µs), `cause`, `lease` (the fleet's longest, ms), `lease_at`, `soft` |
//! | `{ns}:marks` | sorted set: tag → sequence of its last invalidation; `(soft)` tag → that of its last soft one; the sentinel at +inf |
//! | `{ns}:graces` | hash: tag with a soft mark → end of its grace (µs of the server's clock) |
//! | `{ns}:members` | hash: proxy → `syncs:lease in ms:epoch:applied`; the sentinel |
//! | `{ns}:intents` | sorted set: intent → deadline (µs of the server's clock); the sentinel at +inf |
//! | `{ns}:intent_tags` | hash: intent → its tags, in lines |
//! | `{ns}:waited` | written before `WAIT`, with `wait_replicas` alone; expires |
//! | `{ns}:sweeper` | the proxy that sweeps; expires unless renewed |
//! | `{ns}:key_stats` | `µs of the server's clock`, space, what the last walk found (JSON); expires |
//! | `{ns}:fleet` | the channel |
//! | `ns:v1:…` | one entry, with a TTL |
//! | `ns:fetch:…` | the claim of a proxy that fetches (`collapse = "fleet"`): `epoch:sequence:id`, with a TTL |
//!
//! # In a cluster
//!
//! All that coordinates is in the slot of `{ns}`, and the argument above is about the node that keeps it. What resharding
//! adds: a node answers for a slot that is being moved away only where it still has the key, and with `ASK` or `TRYAGAIN`
//! otherwise; for a slot that it lost, with `MOVED`. `ASK` and `MOVED` end the link. Whoever has the slot then is another
//! process than the one that meta names, and a new epoch begins.
//!
//! An entry is mostly kept by another node, so that a lookup is two requests at the same time: `GETRANGE` there, and the marks
//! as above. Their order does not matter. A write that was acknowledged before the lookup began had set its mark by then,
//! and the marks are read after that. A write that is acknowledged later is concurrent with the read, which may be answered
//! with or without it. Entries need no fence of their own: each carries the stamp that it was fetched under, so that one
//! that comes from a node that lost, restored or never got a newer one is an older entry, and judged as such.
//!
//! # Who may be believed to be the primary
//!
//! A primary that was deposed and does not know it yet cannot know of writes that its successor has part in. Every second
//! the link asks whoever knows better (the sentinels, or the nodes of the cluster that reach its majority), and is
//! dropped when the marks are elsewhere. That bounds for how long a proxy can be deceived; that it is not deceived at all
//! takes `wait_replicas`, since a primary that was deposed by one of its replicas has lost that replica.
//!
//! # What a script may rely on
//!
//! Members and intents have sentinels as the marks do: whoever invalidates waits for the members that it finds, so that
//! it has to know when some were evicted. Every script that reads them starts a new epoch in that case, and the age
//! of the epoch tells the writer of leases that it cannot know of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::link::Connections;
use self::namespace::Namespace;
use self::view::get_entry;
use super::fleet::{
    Cause, FleetLock, Generation, Holder, Intent, Invalidated, LockReply, Membership, Message, Roster, Synced,
};
use super::sweep::{Dated, Judged, KeyStats, Survey, WalkPosition};
use super::{FamilyOf, Found, KeyCounts, Link, Outage, Reply, Store, StoreError, StoreInfo};
use crate::config::StoreConfig;
use crate::marks::{MarksView, Tag};

mod channel;
mod cluster;
mod dialer;
mod fleet;
mod link;
mod namespace;
mod primary;
mod refusal;
mod replicas;
mod sentinel;
mod server;
mod slots;
mod sweep;
mod view;

pub use self::dialer::SetupFault;
pub use self::link::ConnectFault;

/// What the members of `{ns}:marks` that are soft marks begin with, before the tag. The scripts know it too.
const SOFT: &str = "(soft)";

/// The member of `{ns}:marks`, `{ns}:members` and `{ns}:intents` that proves that they were not evicted. Families cannot
/// begin with `(`, so no tag equals it.
const SENTINEL: &str = "(sentinel)";

/// Redis drops whole entries only by TTL or eviction; below this a TTL would round to nothing.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Keys that one `SCAN` step looks at: some hundreds of microseconds of the server's time.
const SCAN_STEP: u64 = 1000;

/// How often an idle link is tried, so that a dead one is found before a request finds it. A link that lived this
/// long also ends the growth of the pauses.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The first pause before connecting again; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// How many time limits a walk over all keys may take.
const WALK_LIMITS: u32 = 10;

/// How many time limits a step of the sweeper may take.
const PATIENT_LIMITS: u32 = 10;

/// The store in Redis. Connects in the background, starting at once; until then, and whenever the link is down,
/// every method answers [`StoreError::Away`] without waiting. Dropping it ends the background task.
pub struct RedisStore {
    link: Arc<link::Keeper>,
    namespace: Arc<Namespace>,
    messages: broadcast::Sender<Message>,
    /// Connects, watches, and connects again.
    _keeping: AbortOnDropHandle<()>,
    /// Listens to the channel.
    _listening: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// Checks the URL, reads the files that TLS needs, and starts the background task; never waits for the server. Call it
    /// inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The URL cannot be understood, or a file cannot be used.
    pub fn new(config: &StoreConfig) -> Result<RedisStore, SetupFault> {
        let namespace = Arc::new(Namespace::new(&config.namespace, config.marks_max));
        let link = Arc::new(link::Keeper::new(config, Arc::clone(&namespace))?);
        let keeping = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&link).keep()));
        let messages = broadcast::Sender::new(channel::BEHIND_MAX);
        let listening = channel::listen(Arc::clone(&link), namespace.channel.clone(), messages.clone());
        let listening = AbortOnDropHandle::new(tokio::spawn(listening));
        Ok(RedisStore { link, namespace, messages, _keeping: keeping, _listening: listening })
    }

    /// Waits for the end of the first attempt to connect, at most the connect time limit, and says how the latest
    /// attempt ended. For start-up: a server that is [`Unreachable`](ConnectFault::Unreachable) may come, one that
    /// has [`Rejected`](ConnectFault::Rejected) this configuration needs someone to change it. The background task
    /// goes on trying after either.
    pub async fn connect_once(&self) -> Result<(), ConnectFault> {
        self.link.latest_attempt().await
    }

    /// Runs a request for which nobody waits: it may take ten times as long, and takes no link down.
    async fn ask_patiently<T, F>(&self, request: impl FnOnce(Arc<Connections>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let limit = self.link.timeout() * PATIENT_LIMITS;
        match timeout(limit, request(self.link.connections()?)).await {
            Ok(answer) => answer.map_err(|error| StoreError::Refused(refusal::Refusal::of(&error).reason)),
            Err(_) => Err(StoreError::Timeout(limit)),
        }
    }

    /// Runs a request on the present connections, within the time limit. An answer that shows the connection or the
    /// server to be unusable takes the link down.
    async fn ask<T, F>(&self, request: impl FnOnce(Arc<Connections>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let connections = self.link.connections()?;
        self.link.within_limit(&connections, request(Arc::clone(&connections))).await
    }

    /// The same on the server that keeps an entry, or what else stands under a name of its own; it is told the name.
    async fn ask_keeper<T, F>(
        &self,
        name: String,
        request: impl FnOnce(String, MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let connections = self.link.connections()?;
        self.link.ask_keeper(&connections, &name, |keeper| request(name.clone(), keeper)).await
    }

    /// A lookup where the entry is not where the marks are.
    async fn lookup_apart(&self, key: &str, tags: &[Tag]) -> Result<Found, StoreError> {
        let view = self.ask(move |connections| async move { self.namespace.view(&connections, tags).await });
        let entry = self.ask_keeper(self.namespace.entry(key), get_entry);
        let (view, entry) = tokio::join!(view, entry);
        // A keeper that is away costs a miss.
        Ok(Found { entry: entry.unwrap_or_default(), view: view? })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisStore({}, {})", self.link.address(), self.namespace.name)
    }
}

impl Store for RedisStore {
    fn lookup<'a>(&'a self, key: &'a str, tags: &'a [Tag]) -> Reply<'a, Found> {
        Box::pin(async move {
            let connections = self.link.connections()?;
            let Some(beside) = connections.entries_beside() else { return self.lookup_apart(key, tags).await };
            let found = self.namespace.lookup(&connections, beside, key, tags);
            self.link.within_limit(&connections, found).await
        })
    }

    fn view<'a>(&'a self, tags: &'a [Tag]) -> Reply<'a, MarksView> {
        Box::pin(self.ask(move |connections| async move { self.namespace.view(&connections, tags).await }))
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, ()> {
        Box::pin(self.ask_keeper(self.namespace.entry(key), move |name, mut keeper| async move {
            let ttl = u64::try_from(ttl.max(TTL_MIN).as_millis()).unwrap_or(u64::MAX);
            let mut set = redis::cmd("SET");
            set.arg(&name).arg(&value[..]).arg("PX").arg(ttl).query_async(&mut keeper).await
        }))
    }

    fn invalidate<'a>(&'a self, tags: &'a [Tag], cause: &'a Cause<'a>) -> Reply<'a, Invalidated> {
        Box::pin(async move {
            self.ask(move |c| async move { self.namespace.invalidate(&c, tags, cause).await }).await?
        })
    }

    fn sync<'a>(&'a self, me: &'a Membership) -> Reply<'a, Synced> {
        Box::pin(async move { self.ask(move |c| async move { self.namespace.sync(&c, me).await }).await? })
    }

    fn reach(&self) -> Reply<'_, MarksView> {
        Box::pin(async move {
            self.ask(move |connections| async move { self.namespace.reach(&connections).await }).await?
        })
    }

    fn roster(&self) -> Reply<'_, Roster> {
        Box::pin(self.ask(move |connections| async move { self.namespace.roster(&connections).await }))
    }

    fn leave<'a>(&'a self, id: &'a str) -> Reply<'a, ()> {
        Box::pin(self.ask(move |connections| async move { self.namespace.leave(&connections, id).await }))
    }

    fn expel<'a>(&'a self, holder: &'a Holder) -> Reply<'a, bool> {
        Box::pin(self.ask(move |connections| async move { self.namespace.expel(&connections, holder).await }))
    }

    fn dismiss<'a>(&'a self, holder: &'a Holder, generation: Generation) -> Reply<'a, bool> {
        Box::pin(self.ask(move |c| async move { self.namespace.dismiss(&c, holder, generation).await }))
    }

    fn record<'a>(&'a self, intent: &'a Intent, within: Duration) -> Reply<'a, MarksView> {
        Box::pin(async move {
            self.ask(move |c| async move { self.namespace.record(&c, intent, within).await }).await?
        })
    }

    fn forget<'a>(&'a self, intent: &'a str) -> Reply<'a, ()> {
        Box::pin(self.ask(move |connections| async move { self.namespace.forget(&connections, intent).await }))
    }

    fn lock_fetch<'a>(
        &'a self,
        fetch: &'a str,
        lock: &'a FleetLock,
        lasting: Duration,
        instead_of: Option<&'a FleetLock>,
    ) -> Reply<'a, LockReply> {
        Box::pin(self.ask_keeper(self.namespace.fetch(fetch), move |name, keeper| async move {
            self.namespace.lock_fetch(keeper, &name, lock, lasting, instead_of).await
        }))
    }

    fn unlock_fetch<'a>(&'a self, fetch: &'a str, lock: &'a FleetLock, stored: bool) -> Reply<'a, ()> {
        Box::pin(self.ask_keeper(self.namespace.fetch(fetch), move |name, keeper| async move {
            self.namespace.unlock_fetch(keeper, &name, lock, stored).await
        }))
    }

    fn messages(&self) -> broadcast::Receiver<Message> {
        self.messages.subscribe()
    }

    fn remove<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        Box::pin(self.ask_keeper(self.namespace.entry(key), |name, mut keeper| async move {
            redis::cmd("UNLINK").arg(&name).query_async(&mut keeper).await
        }))
    }

    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        Box::pin(self.ask_keeper(self.namespace.entry(key), get_entry))
    }

    fn info(&self) -> Reply<'_, StoreInfo> {
        Box::pin(self.ask(move |connections| async move {
            let text: Vec<u8> = redis::cmd("INFO").query_async(&mut connections.marks()).await?;
            Ok(StoreInfo { fields: info_fields(&text) })
        }))
    }

    fn count_keys<'a>(&'a self, limit: u64, family_of: &'a FamilyOf<'a>) -> Reply<'a, KeyCounts> {
        Box::pin(async move {
            let deadline = Instant::now() + self.link.timeout() * WALK_LIMITS;
            let connections = self.link.connections()?;
            let (mut counts, mut counted) = (KeyCounts { complete: true, ..KeyCounts::default() }, 0);
            for node in connections.nodes() {
                let mut cursor = 0;
                loop {
                    let step = self.namespace.scan(node.clone(), cursor, SCAN_STEP);
                    let step = self.link.ask_node(&connections, step).await;
                    // One node of several may be away; the others are counted.
                    let (next, keys) = match step {
                        Err(_) if connections.entries_beside().is_none() => {
                            counts.complete = false;
                            break;
                        }
                        step => step?,
                    };
                    cursor = next;
                    for label in keys.iter().filter_map(|key| self.namespace.label(key)) {
                        *counts.by_family.entry(family_of(&label)).or_default() += 1;
                        counted += 1;
                    }
                    if cursor == 0 {
                        break;
                    }
                    if counted >= limit || Instant::now() >= deadline {
                        counts.complete = false;
                        return Ok(counts);
                    }
                }
            }
            counts.complete &= connections.are_whole();
            Ok(counts)
        })
    }

    fn hold_sweep<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool> {
        Box::pin(
            self.ask(move |connections| async move { self.namespace.hold_sweep(&connections, id, lasting).await }),
        )
    }

    fn survey(&self, from: WalkPosition, keys: u64) -> Reply<'_, Survey> {
        Box::pin(self.ask_patiently(move |c| async move { self.namespace.survey(&c, from, keys).await }))
    }

    fn views<'a>(&'a self, sets: &'a [&'a [Tag]]) -> Reply<'a, Vec<MarksView>> {
        Box::pin(self.ask_patiently(move |c| async move { self.namespace.views(&c, sets).await }))
    }

    fn unlink<'a>(&'a self, at: WalkPosition, judged: &'a [Judged]) -> Reply<'a, u64> {
        Box::pin(self.ask_patiently(move |c| async move { self.namespace.unlink(&c, at, judged).await }))
    }

    fn store_key_stats<'a>(&'a self, key_stats: &'a KeyStats, lasting: Duration) -> Reply<'a, ()> {
        Box::pin(self.ask(move |c| async move { self.namespace.store_key_stats(&c, key_stats, lasting).await }))
    }

    fn key_stats(&self) -> Reply<'_, Option<Dated>> {
        Box::pin(self.ask(move |connections| async move { self.namespace.key_stats(&connections).await }))
    }

    fn link(&self) -> Link {
        self.link.state()
    }

    fn changes(&self) -> watch::Receiver<Link> {
        self.link.changes()
    }

    fn outage(&self) -> watch::Receiver<Option<Outage>> {
        self.link.outage()
    }
}

/// The `name:value` lines of `INFO`.
fn info_fields(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim_end().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_read_by_line() {
        let fields =
            info_fields(b"# Server\r\nredis_version:7.0.15\r\nos:Linux 6 x86_64\r\n\r\ndb0:keys=1,expires=0\r\n");
        assert_eq!(fields["redis_version"], "7.0.15");
        assert_eq!(fields["db0"], "keys=1,expires=0");
        assert_eq!(fields.len(), 3);
    }
}
