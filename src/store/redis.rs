//! The shared store in Redis or Valkey. This module has the [`Store`] implementation; `namespace` has the names of keys
//! and the scripts, `view` the reads of entries and marks, `fleet` and `sweep` the calls of the fleet protocol and the
//! sweeper, `connections` the connections, `link` the task that opens them, and `primary` with `cluster` and `sentinel` the address of the server with the marks.
//!
//! | key | holds |
//! |---|---|
//! | `{ns}:meta` | hash: `epoch` (64 bits, decimal), `seq` (last sequence issued), `floor`, `run_id`, `born` (µs), `cause`, `lease` (the fleet's longest, ms), `lease_at`, `soft_invalidated`; the other fields are listed in `epoch.lua` |
//! | `{ns}:marks` | sorted set: tag → sequence of its last invalidation; `(soft)` tag → that of its last soft one; the sentinel at +inf |
//! | `{ns}:graces` | hash: tag with a soft mark → end of its grace (µs of the server's clock) |
//! | `{ns}:members` | hash: proxy → `syncs:lease in ms:epoch:applied:epoch:generation`; the sentinel |
//! | `{ns}:intents` | sorted set: intent → deadline (µs of the server's clock); the sentinel at +inf |
//! | `{ns}:intent_tags` | hash: intent → its tags, one per line |
//! | `{ns}:waited` | written before `WAIT`, only with `wait_replicas`; expires |
//! | `{ns}:sweeper` | the proxy that sweeps; expires unless renewed |
//! | `{ns}:key_stats` | `µs of the server's clock`, space, result of the last sweep (JSON); expires |
//! | `{ns}:warmer` | the proxy that warms (`[[warm]]`); expires unless renewed |
//! | `{ns}:hour:…` | sorted set: host, path and query of a read → its hits in that hour (`predict` in `[[warm]]`); expires |
//! | `{ns}:fleet` | the channel |
//! | `ns:label:digest:v1` | one entry, with a TTL |
//! | `ns:label:digest:v1:lock` | the fleet lock of its fetch (`collapse = "fleet"`): `epoch:sequence:id`, with a TTL |
//!
//! # In a cluster
//!
//! All coordination keys are in the slot of `{ns}`, and the argument of `view` is about the node that holds it. During
//! resharding, a node that hands a slot over answers only for keys that it still has, and with `ASK` or `TRYAGAIN`
//! otherwise; for a slot that it has handed over, with `MOVED`. `ASK` and `MOVED` end the link. The new node of the slot
//! is another process than the one in meta, so a new epoch begins.
//!
//! Most entries are on other nodes, so a lookup is two concurrent requests: `GETRANGE` there, and the marks as usual.
//! Their order does not matter. A write that was acknowledged before the lookup began had set its mark by then, and the
//! marks are read after that. A write that is acknowledged later is concurrent with the read, which may be answered with or
//! without it. Entries need no fence of their own: an entry from a node that lost or never got a newer one carries an
//! older stamp, and is judged by it.
//!
//! # Which server is the primary
//!
//! A deposed primary that does not know it yet does not know the writes of its successor either. Every second the link
//! asks the sentinels, or the nodes of the cluster that reach its majority, and ends when the marks are elsewhere. That
//! bounds the time in which a proxy trusts a deposed primary. Only `wait_replicas` rules it out, because a primary that was
//! deposed by one of its replicas has lost that replica.
//!
//! # What scripts rely on
//!
//! Members and intents have sentinels like the marks: a write waits for the members that it finds, so it must notice when
//! some were evicted. Every script that reads them starts a new epoch in that case, and the age of the epoch shows the
//! writer that there may be leases of lost members.
//!
//! Anything may stand at Larder's keys. An entry that is not what a Larder stored under its name is a miss
//! ([`crate::entry::Seal`]). Coordination keys that cannot be what Larders wrote are replaced, and begin a new epoch, as if
//! they were lost (`epoch.lua`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::connections::RedisConnections;
use self::namespace::Namespace;
use self::view::get_entry;
use super::fleet::{
    Cause, FleetBypass, FleetLock, Generation, Holder, Intent, Invalidated, LockReply, Membership, Message,
    Roster, Synced,
};
use super::hours::Hour;
use super::log::{LogContent, LogEntry, LogPosition};
use super::sweep::{Dated, Judged, KeyStats, Survey, WalkPosition};
use super::{FamilyOf, KeyCounts, Link, LookupReply, Outage, Reply, Store, StoreError, StoreInfo};
use crate::config::StoreConfig;
use crate::marks::{MarksView, Tag};
use crate::metrics::Metrics;

mod channel;
mod cluster;
mod connections;
mod dialer;
mod errors;
mod fleet;
mod hours;
mod link;
mod log;
mod namespace;
mod primary;
mod replicas;
mod sentinel;
mod server;
mod slots;
mod sweep;
mod view;

pub use self::dialer::SetupFault;
pub use self::link::ConnectFault;

/// Prefix of soft marks in `{ns}:marks`, before the tag. The scripts use the same.
const SOFT: &str = "(soft)";

/// Member of `{ns}:marks`, `{ns}:members` and `{ns}:intents` that proves that they were not evicted. Families cannot begin
/// with `(`, so no tag equals it.
const SENTINEL: &str = "(sentinel)";

/// Shortest TTL of an entry.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Keys per `SCAN` step: some hundreds of microseconds of the server's time.
const SCAN_STEP: u64 = 1000;

/// Interval of the checks of an idle link, so that a dead one is found before a request uses it. A link that lived longer
/// than this also resets the pauses between attempts to connect.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The first pause before connecting again; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Time limit of a walk over all keys, in time limits of a request.
const WALK_LIMITS: u32 = 10;

/// Time limit of a step of the sweeper, in time limits of a request.
const PATIENT_LIMITS: u32 = 10;

/// The store in Redis. Connects in the background, starting at once; until then, and whenever the link is down,
/// every method answers [`StoreError::Away`] without waiting. Dropping it ends the background task.
pub struct RedisStore {
    link: Arc<link::Connector>,
    namespace: Arc<Namespace>,
    messages: broadcast::Sender<Message>,
    /// Where the times of requests are counted.
    metrics: Option<Arc<Metrics>>,
    /// Runs the link.
    _keeping: AbortOnDropHandle<()>,
    /// Runs the subscription to the channel.
    _listening: AbortOnDropHandle<()>,
}

impl RedisStore {
    /// Checks the URL, reads the files that TLS needs, and starts the background task; never waits for the server. Call it
    /// inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The URL is invalid, or a file cannot be used.
    pub fn new(config: &StoreConfig) -> Result<RedisStore, SetupFault> {
        let namespace = Arc::new(Namespace::new(&config.namespace, config.marks_max));
        let link = Arc::new(link::Connector::new(config, Arc::clone(&namespace))?);
        let keeping = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&link).keep()));
        let messages = broadcast::Sender::new(channel::BEHIND_MAX);
        let listening = channel::listen(Arc::clone(&link), namespace.channel.clone(), messages.clone());
        let listening = AbortOnDropHandle::new(tokio::spawn(listening));
        Ok(RedisStore { link, namespace, messages, metrics: None, _keeping: keeping, _listening: listening })
    }

    /// The same with its times counted.
    #[must_use]
    pub fn counted_in(self, metrics: &Arc<Metrics>) -> RedisStore {
        RedisStore { metrics: Some(Arc::clone(metrics)), ..self }
    }

    /// Counts the time of a request.
    async fn timed<T>(
        &self,
        op: &'static str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let reply = request.await;
        if let (Some(metrics), false) = (&self.metrics, matches!(reply, Err(StoreError::Away(_)))) {
            metrics.store_answered(op, start.elapsed());
        }
        reply
    }

    /// Waits for the end of the first attempt to connect, at most the connect time limit, and returns the result of the latest
    /// attempt. For start-up: a server that is [`Unreachable`](ConnectFault::Unreachable) may come up later; if it has
    /// [`Rejected`](ConnectFault::Rejected) the configuration, an operator must change that. The background task retries
    /// after either.
    pub async fn connect_once(&self) -> Result<(), ConnectFault> {
        self.link.latest_attempt().await
    }

    /// Runs a background request: it may take ten times as long, and its failure does not take the link down.
    async fn ask_patiently<T, F>(&self, request: impl FnOnce(Arc<RedisConnections>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let limit = self.link.timeout() * PATIENT_LIMITS;
        match timeout(limit, request(self.link.connections()?)).await {
            Ok(answer) => answer.map_err(|error| StoreError::Refused(errors::RedisFault::of(&error).reason)),
            Err(_) => Err(StoreError::Timeout(limit)),
        }
    }

    /// Runs a request on the present connections, within the time limit. An answer that shows the connection or the
    /// server to be unusable takes the link down.
    async fn ask<T, F>(&self, request: impl FnOnce(Arc<RedisConnections>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let connections = self.link.connections()?;
        self.link.within_limit(&connections, request(Arc::clone(&connections))).await
    }

    /// The same on the server that holds the key `name`: an entry or a fleet lock.
    async fn ask_entry_node<T, F>(
        &self,
        name: String,
        request: impl FnOnce(String, MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let connections = self.link.connections()?;
        self.link.ask_entry_node(&connections, &name, |node| request(name.clone(), node)).await
    }

    /// A lookup of an entry that may be on another node than the marks.
    async fn lookup_in_cluster(&self, key: &str, tags: &[Tag]) -> Result<LookupReply, StoreError> {
        let view = self.ask(move |connections| async move { self.namespace.view(&connections, tags).await });
        let entry = self.ask_entry_node(self.namespace.entry(key), get_entry);
        let (view, entry) = tokio::join!(view, entry);
        // A node that is down costs a miss.
        Ok(LookupReply { entry: entry.unwrap_or_default(), view: view? })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisStore({}, {})", self.link.address(), self.namespace.name)
    }
}

impl Store for RedisStore {
    fn lookup<'a>(&'a self, key: &'a str, tags: &'a [Tag]) -> Reply<'a, LookupReply> {
        let found = async move {
            let connections = self.link.connections()?;
            let Some(entries) = connections.entries_on_marks_server() else {
                return self.lookup_in_cluster(key, tags).await;
            };
            let found = self.namespace.lookup(&connections, entries, key, tags);
            self.link.within_limit(&connections, found).await
        };
        Box::pin(self.timed("lookup", found))
    }

    fn view<'a>(&'a self, tags: &'a [Tag]) -> Reply<'a, MarksView> {
        let view = self.ask(move |c| async move { self.namespace.view(&c, tags).await });
        Box::pin(self.timed("view", view))
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, ()> {
        let put = self.ask_entry_node(self.namespace.entry(key), move |name, mut node| async move {
            set(&name, &value, ttl).query_async(&mut node).await
        });
        Box::pin(self.timed("put", put))
    }

    fn put_new<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, bool> {
        let put = self.ask_entry_node(self.namespace.entry(key), move |name, mut node| async move {
            let reply: Value = set(&name, &value, ttl).arg("NX").query_async(&mut node).await?;
            Ok(reply != Value::Nil)
        });
        Box::pin(self.timed("put", put))
    }

    fn invalidate<'a>(&'a self, tags: &'a [Tag], cause: &'a Cause<'a>) -> Reply<'a, Invalidated> {
        Box::pin(self.timed("invalidate", async move {
            self.ask(move |c| async move { self.namespace.invalidate(&c, tags, cause).await }).await?
        }))
    }

    fn sync<'a>(&'a self, me: &'a Membership) -> Reply<'a, Synced> {
        let sync = async move { self.ask(move |c| async move { self.namespace.sync(&c, me).await }).await? };
        Box::pin(self.timed("sync", sync))
    }

    fn reach(&self) -> Reply<'_, MarksView> {
        Box::pin(async move { self.ask(move |c| async move { self.namespace.reach(&c).await }).await? })
    }

    fn roster(&self) -> Reply<'_, Roster> {
        Box::pin(self.ask(move |c| async move { self.namespace.roster(&c).await }))
    }

    fn leave<'a>(&'a self, id: &'a str) -> Reply<'a, ()> {
        Box::pin(self.ask(move |c| async move { self.namespace.leave(&c, id).await }))
    }

    fn set_bypass<'a>(&'a self, bypass: &'a FleetBypass) -> Reply<'a, Option<(bool, u64)>> {
        Box::pin(self.ask(move |c| async move { self.namespace.set_bypass(&c, bypass).await }))
    }

    fn expel<'a>(&'a self, holder: &'a Holder) -> Reply<'a, bool> {
        Box::pin(self.ask(move |c| async move { self.namespace.expel(&c, holder).await }))
    }

    fn dismiss<'a>(&'a self, holder: &'a Holder, generation: Generation) -> Reply<'a, bool> {
        Box::pin(self.ask(move |c| async move { self.namespace.dismiss(&c, holder, generation).await }))
    }

    fn record<'a>(&'a self, intent: &'a Intent, within: Duration) -> Reply<'a, MarksView> {
        Box::pin(self.timed("record", async move {
            self.ask(move |c| async move { self.namespace.record(&c, intent, within).await }).await?
        }))
    }

    fn forget<'a>(&'a self, intent: &'a str) -> Reply<'a, ()> {
        Box::pin(self.ask(move |c| async move { self.namespace.forget(&c, intent).await }))
    }

    fn lock_fetch<'a>(
        &'a self,
        fetch: &'a str,
        lock: &'a FleetLock,
        lasting: Duration,
        instead_of: Option<&'a FleetLock>,
    ) -> Reply<'a, LockReply> {
        let locked = self.ask_entry_node(self.namespace.fetch(fetch), move |name, node| async move {
            self.namespace.lock_fetch(node, &name, lock, lasting, instead_of).await
        });
        Box::pin(self.timed("lock_fetch", locked))
    }

    fn unlock_fetch<'a>(&'a self, fetch: &'a str, lock: &'a FleetLock, stored: bool) -> Reply<'a, ()> {
        Box::pin(self.ask_entry_node(self.namespace.fetch(fetch), move |name, node| async move {
            self.namespace.unlock_fetch(node, &name, lock, stored).await
        }))
    }

    fn messages(&self) -> broadcast::Receiver<Message> {
        self.messages.subscribe()
    }

    fn remove<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        let removed = self.ask_entry_node(self.namespace.entry(key), |name, mut node| async move {
            redis::cmd("UNLINK").arg(&name).query_async(&mut node).await
        });
        Box::pin(self.timed("remove", removed))
    }

    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        Box::pin(self.ask_entry_node(self.namespace.entry(key), get_entry))
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
                    // One node of several may be down; the others are counted.
                    let (next, keys) = match step {
                        Err(_) if connections.entries_on_marks_server().is_none() => {
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
            counts.complete &= connections.are_all_nodes_connected();
            Ok(counts)
        })
    }

    fn hold_sweep<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool> {
        Box::pin(self.ask(move |c| async move { self.namespace.hold_sweep(&c, id, lasting).await }))
    }

    fn hold_warming<'a>(&'a self, id: &'a str, lasting: Duration) -> Reply<'a, bool> {
        Box::pin(self.ask(move |c| async move { self.namespace.hold_warming(&c, id, lasting).await }))
    }

    fn add_hits<'a>(&'a self, hour: Hour, reads: &'a [(String, u32)]) -> Reply<'a, ()> {
        Box::pin(self.ask(move |c| async move { self.namespace.add_hits(&c, hour, reads).await }))
    }

    fn hits_in<'a>(&'a self, hours: &'a [Hour]) -> Reply<'a, Vec<(String, u64)>> {
        Box::pin(self.ask(move |c| async move { self.namespace.hits_in(&c, hours).await }))
    }

    fn append_log<'a>(&'a self, contents: &'a [LogContent]) -> Reply<'a, ()> {
        Box::pin(self.ask(move |c| async move { self.namespace.append_log(&c, contents).await }))
    }

    fn log_before(&self, before: Option<LogPosition>, most: usize) -> Reply<'_, Vec<LogEntry>> {
        Box::pin(self.ask(move |c| async move { self.namespace.log_before(&c, before, most).await }))
    }

    fn log_after(&self, after: LogPosition, most: usize) -> Reply<'_, Vec<LogEntry>> {
        Box::pin(self.ask(move |c| async move { self.namespace.log_after(&c, after, most).await }))
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
        Box::pin(self.ask(move |c| async move { self.namespace.key_stats(&c).await }))
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

/// The command that stores an entry.
fn set(name: &str, value: &[u8], ttl: Duration) -> Cmd {
    let ttl = u64::try_from(ttl.max(TTL_MIN).as_millis()).unwrap_or(u64::MAX);
    let mut set = Cmd::with_capacity(6, name.len() + value.len() + 32);
    set.arg("SET").arg(name).arg(value).arg("PX").arg(ttl);
    set
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
