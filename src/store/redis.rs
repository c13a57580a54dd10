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
//! # Why reading without a script is safe
//!
//! A lookup is one pipeline on one connection: `GETRANGE` entry, `HGET` seq, `ZMSCORE` marks, `HSETNX` meta, `HMGET` meta. Other
//! clients' commands may run between these four. Say that a write, acknowledged before the lookup began, took
//! sequence *q* and invalidates the entry, whose stamp is (*e*, *s*) with *s* < *q*. Its mark was set before `GETRANGE` ran:
//!
//! - nothing happened since: `ZMSCORE` brings *q*, and the entry is not current;
//! - the mark was trimmed before `ZMSCORE` ran: the script that trimmed it raised the floor to *q* at least in the
//!   same step, and `HMGET` runs later. This is why the marks are read before meta;
//! - the set was flushed, evicted or deleted: the sentinel is missing, and a new epoch is started; or another client
//!   has started one before `ZMSCORE` ran, and `HMGET`, running later, brings another epoch than *e*;
//! - meta was lost as well or alone: a field is missing, and a new epoch is started; so it is where something stands that no
//!   Larder writes there, or a key is of another type;
//! - the server is not the one that issued *q* (restarted, restored from a snapshot, a promoted replica): its `run_id`
//!   differs from the one in meta, which whoever issues sequences has written there. The `run_id` compared with
//!   was learned on this very connection, and a connection never outlives the process at its other end;
//! - the server was demoted to a replica while connected, or takes no writes (full, cut off from its replicas): a
//!   write acknowledged elsewhere might never show here. `HSETNX` is a write that changes nothing on a whole
//!   namespace; such a server refuses it, and with it the lookup.
//!
//! The stamp of a fetch that begins after the reply is the epoch that was read last, and the sequence that was read
//! *before* the marks: it must not cover an invalidation that the marks seen do not. Otherwise a flight with this stamp
//! would look young enough to a reader after that write, while the stale entry that it validates was judged without
//! it. Should an epoch have begun in between, the sequence is below the new epoch's floor, and current for nothing.
//!
//! Where nobody ever softened a tag (`soft` is not in meta), soft marks are not asked for. Otherwise `HMGET` graces
//! and `TIME` go before `ZMSCORE`, which brings hard and soft marks at one moment. In between a grace may have ended and
//! another one begun: then the soft mark is judged by the end that is over. A grace that was lost counts as over, so that
//! it needs no sentinel.
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

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script, Value, from_redis_value};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::link::Connections;
use super::fleet::{
    Cause, FleetLock, Generation, Holder, Intent, Invalidated, LockReply, Membership, Message, Roster, Synced,
};
use super::sweep::{Dated, Judged, KeyStats, Survey, WalkPosition};
use super::{FamilyOf, Found, KeyCounts, Link, Outage, Reply, Store, StoreError, StoreInfo};
use crate::config::StoreConfig;
use crate::entry::ENCODING_MAX;
use crate::marks::{Epoch, MarksView, Sequence, Stamp, Tag};

mod channel;
mod cluster;
mod dialer;
mod fleet;
mod link;
mod refusal;
mod replicas;
mod sentinel;
mod server;
mod slots;
mod sweep;

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

/// Everything that is kept under one namespace: names, formats, commands. Knows nothing of connecting.
struct Namespace {
    name: String,
    meta: String,
    marks: String,
    members: String,
    intents: String,
    intent_tags: String,
    graces: String,
    waited: String,
    sweeper: String,
    key_stats: String,
    channel: String,
    marks_max: u64,
    begin: Script,
    invalidate: Script,
    sync: Script,
    roster: Script,
    record: Script,
    forget: Script,
    expel: Script,
    dismiss: Script,
    lock_fetch: Script,
    unlock_fetch: Script,
    hold_sweep: Script,
    store_key_stats: Script,
    /// Whether there may be soft marks, so that they have to be asked for.
    soft: AtomicBool,
    /// Whether this process has had an epoch of the namespace before; for the log alone.
    met: AtomicBool,
}

/// `epoch`, `seq`, `floor`, `run_id`, `soft` of meta.
type Meta = [Option<Bytes>; 5];

/// What the commands that bring a view have brought. All of it may be anything, and nothing where a key of another type
/// stands.
#[derive(Debug, Clone, Default)]
struct Read {
    /// The last sequence issued before the marks were read.
    before: Option<Bytes>,
    /// The sentinel's, the root tag's, those of the tags; then, if they were asked for, the soft ones of the root tag and of
    /// the tags.
    marks: Vec<Option<f64>>,
    /// Of each soft mark that was asked for, what is left of its grace.
    left: Vec<Duration>,
    meta: Meta,
}

/// Answers of a pipeline, in order, each with an error of its own.
struct Answers(std::vec::IntoIter<RedisResult<Value>>);

impl Answers {
    async fn of(pipe: &mut Pipeline, connection: &mut MultiplexedConnection) -> RedisResult<Answers> {
        let answers: Vec<RedisResult<Value>> = pipe.ignore_errors().query_async(connection).await?;
        Ok(Answers(answers.into_iter()))
    }

    /// The next one.
    fn next<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        let value = self.0.next().unwrap_or_else(|| Err(not_an_answer("fewer answers than commands")))?;
        Ok(from_redis_value(value)?)
    }

    /// The next one; `None` if the key is of another type.
    fn next_or_other<T: FromRedisValue>(&mut self) -> RedisResult<Option<T>> {
        match self.next() {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What [`Namespace::add_marks`] asked for.
    fn next_read(&mut self) -> RedisResult<Read> {
        let before = self.next_or_other()?.flatten();
        let marks = self.next_or_other()?.unwrap_or_default();
        let _: Option<Value> = self.next_or_other()?;
        let meta: Vec<Option<Bytes>> = self.next_or_other()?.unwrap_or_default();
        Ok(Read { before, marks, left: Vec::new(), meta: meta.try_into().unwrap_or_default() })
    }

    /// An entry as `GETRANGE` brings it, which brings nothing where nothing is.
    fn next_entry(&mut self) -> RedisResult<Option<Bytes>> {
        let entry: Option<Bytes> = self.next_or_other()?;
        Ok(entry.map_or_else(|| Some(Bytes::new()), |bytes| (!bytes.is_empty()).then_some(bytes)))
    }
}

impl Namespace {
    fn new(name: &str, marks_max: u64) -> Namespace {
        Namespace {
            name: name.to_owned(),
            // Braces: in a cluster all of them live in the slot of the namespace, as a script needs them to.
            meta: format!("{{{name}}}:meta"),
            marks: format!("{{{name}}}:marks"),
            members: format!("{{{name}}}:members"),
            intents: format!("{{{name}}}:intents"),
            intent_tags: format!("{{{name}}}:intent_tags"),
            graces: format!("{{{name}}}:graces"),
            waited: format!("{{{name}}}:waited"),
            sweeper: format!("{{{name}}}:sweeper"),
            key_stats: format!("{{{name}}}:key_stats"),
            channel: format!("{{{name}}}:fleet"),
            marks_max: marks_max.max(1),
            begin: Script::new(concat!(include_str!("epoch.lua"), include_str!("begin.lua"))),
            invalidate: Script::new(concat!(include_str!("epoch.lua"), include_str!("invalidate.lua"))),
            sync: Script::new(concat!(include_str!("epoch.lua"), include_str!("sync.lua"))),
            roster: Script::new(concat!(include_str!("epoch.lua"), include_str!("roster.lua"))),
            record: Script::new(concat!(include_str!("epoch.lua"), include_str!("record.lua"))),
            forget: Script::new(include_str!("forget.lua")),
            expel: Script::new(include_str!("expel.lua")),
            dismiss: Script::new(include_str!("dismiss.lua")),
            lock_fetch: Script::new(include_str!("lock_fetch.lua")),
            unlock_fetch: Script::new(include_str!("unlock_fetch.lua")),
            hold_sweep: Script::new(include_str!("hold_sweep.lua")),
            store_key_stats: Script::new(include_str!("store_key_stats.lua")),
            soft: AtomicBool::new(false),
            met: AtomicBool::new(false),
        }
    }

    fn entry(&self, key: &str) -> String {
        format!("{}:{key}", self.name)
    }

    /// The text between `ns:v1:` and the last `:`.
    fn label<'k>(&self, key: &'k [u8]) -> Option<Cow<'k, str>> {
        let rest = key.strip_prefix(self.name.as_bytes())?.strip_prefix(b":v1:")?;
        let end = rest.iter().rposition(|byte| *byte == b':')?;
        Some(String::from_utf8_lossy(&rest[..end]))
    }

    async fn lookup(
        &self,
        connections: &Connections,
        mut beside: MultiplexedConnection,
        key: &str,
        tags: &[Tag],
    ) -> RedisResult<Found> {
        let (entry, read) = self.read(&mut beside, Some(&self.entry(key)), tags).await?;
        Ok(Found { entry, view: self.view_or_begin(connections, &read).await? })
    }

    async fn view(&self, connections: &Connections, tags: &[Tag]) -> RedisResult<MarksView> {
        let (_, read) = self.read(&mut connections.marks(), None, tags).await?;
        self.view_or_begin(connections, &read).await
    }

    /// What stands under the name of an entry, then the marks; once more if there turn out to be soft ones.
    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        name: Option<&str>,
        tags: &[Tag],
    ) -> RedisResult<(Option<Bytes>, Read)> {
        let first = || {
            let mut pipe = redis::pipe();
            if let Some(name) = name {
                add_entry(&mut pipe, name);
            }
            pipe
        };
        if !self.soft.load(Relaxed) {
            let mut pipe = first();
            self.add_marks(&mut pipe, tags.iter(), false);
            let mut answers = Answers::of(&mut pipe, connection).await?;
            let entry = name.map_or(Ok(None), |_| answers.next_entry())?;
            let read = answers.next_read()?;
            if read.meta[4].is_none() {
                return Ok((entry, read));
            }
            self.soft.store(true, Relaxed);
        }
        let mut pipe = first();
        pipe.cmd("HMGET").arg(&self.graces).arg("*");
        for tag in tags {
            pipe.arg(tag.as_str());
        }
        pipe.cmd("TIME");
        self.add_marks(&mut pipe, tags.iter(), true);
        let mut answers = Answers::of(&mut pipe, connection).await?;
        let entry = name.map_or(Ok(None), |_| answers.next_entry())?;
        let ends: Option<Vec<Option<Bytes>>> = answers.next_or_other()?;
        let (seconds, micros): (u64, u64) = answers.next()?;
        let read = answers.next_read()?;
        // A new epoch has none.
        self.soft.store(read.meta[4].is_some(), Relaxed);
        let now = seconds * 1_000_000 + micros;
        // What was lost is over.
        let ends = ends.unwrap_or_else(|| vec![None; tags.len() + 1]);
        let left =
            ends.iter().map(|end| Duration::from_micros(number(end).unwrap_or(0).saturating_sub(now))).collect();
        Ok((entry, Read { left, ..read }))
    }

    /// The commands that bring a view: the marks of `tags` and of the root tag, and `softly` the soft ones of them too. Their
    /// order is argued at the head of this file.
    fn add_marks<'t>(&self, pipe: &mut Pipeline, tags: impl Iterator<Item = &'t Tag> + Clone, softly: bool) {
        pipe.cmd("HGET").arg(&self.meta).arg("seq");
        pipe.cmd("ZMSCORE").arg(&self.marks).arg(SENTINEL).arg("*");
        for tag in tags.clone() {
            pipe.arg(tag.as_str());
        }
        if softly {
            pipe.arg(format!("{SOFT}*"));
            for tag in tags {
                pipe.arg(format!("{SOFT}{tag}"));
            }
        }
        pipe.cmd("HSETNX").arg(&self.meta).arg("born").arg(0);
        pipe.cmd("HMGET").arg(&self.meta).arg(&["epoch", "seq", "floor", "run_id", "softened"]);
    }

    async fn view_or_begin(&self, connections: &Connections, read: &Read) -> RedisResult<MarksView> {
        match view_of(read, connections.run_id()) {
            Some(view) => Ok(view),
            None => self.begin(connections).await,
        }
    }

    /// Starts a new epoch unless someone has meanwhile. The marks of the view's tags were read before that, so the
    /// view counts all of them as set by the last sequence: only what was stamped after it is current.
    async fn begin(&self, connections: &Connections) -> RedisResult<MarksView> {
        let call = self.call(&self.begin, connections);
        let (epoch, sequence, cause): (u64, u64, String) = call.invoke_async(&mut connections.marks()).await?;
        self.log_new_epoch(epoch, &cause);
        Ok(MarksView::hard(Stamp { epoch: Epoch(epoch), sequence }, sequence))
    }

    /// One line per epoch in the whole fleet: only the proxy that started it has a cause to tell. `cause` is the
    /// script's; empty if none was started.
    fn log_new_epoch(&self, epoch: u64, cause: &str) {
        let met_before = self.met.swap(true, Relaxed);
        match cause {
            "" => {}
            "new" if !met_before => tracing::info!(epoch, "epoch started: the namespace is new"),
            "new" => {
                tracing::warn!(
                    epoch,
                    "epoch changed: new, the namespace was flushed; all entries are invalidated"
                );
            }
            "restarted" => tracing::warn!(
                epoch,
                "epoch changed: restarted, or another server took its place (run_id); all entries are invalidated"
            ),
            lost => {
                tracing::warn!(
                    epoch,
                    "epoch changed: {lost}, evicted, deleted or changed; all entries are invalidated"
                );
            }
        }
    }

    /// One step of a walk over the entries of one server: the next cursor (0 at the end) and some keys.
    async fn scan(
        &self,
        mut node: MultiplexedConnection,
        cursor: u64,
        keys: u64,
    ) -> RedisResult<(u64, Vec<Bytes>)> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}:v1:*", self.name)).arg("COUNT").arg(keys);
        // Whoever put something else there does not want it read.
        scan.arg("TYPE").arg("string");
        scan.query_async(&mut node).await
    }
}

/// The view that what was read amounts to. None when the marks and meta do not prove themselves whole, or stem from
/// another run of the server.
fn view_of(Read { before, marks, left, meta }: &Read, run_id: &str) -> Option<MarksView> {
    let (sentinel, marks) = marks.split_first()?;
    let [epoch, sequence, floor, issuer, _] = meta;
    if sentinel.is_none() || issuer.as_deref()? != run_id.as_bytes() {
        return None;
    }
    let stamp = Stamp { epoch: Epoch(number(epoch)?), sequence: number(before)?.min(number(sequence)?) };
    let (hard, soft) = marks.split_at(marks.len().checked_sub(left.len())?);
    // Scores are whole numbers below 2^53, exact as floats.
    let floor = number(floor).filter(|floor| *floor <= stamp.sequence)?;
    let newest = hard.iter().flatten().map(|score| *score as Sequence).fold(floor, Sequence::max);
    let soft = soft.iter().zip(left).filter_map(|(score, left)| Some(((*score)? as Sequence, *left)));
    Some(soft.fold(MarksView::hard(stamp, newest), |view, (mark, left)| view.soft(mark, left)))
}

async fn get_entry(name: String, mut keeper: MultiplexedConnection) -> RedisResult<Option<Bytes>> {
    let mut pipe = redis::pipe();
    add_entry(&mut pipe, &name);
    Answers::of(&mut pipe, &mut keeper).await?.next_entry()
}

/// The command that brings an entry: no more of what stands there than an entry may be long, and a byte that tells that it is
/// longer.
fn add_entry(pipe: &mut Pipeline, name: &str) {
    pipe.cmd("GETRANGE").arg(name).arg(0).arg(ENCODING_MAX);
}

/// A whole number as a script writes it.
fn number(field: &Option<Bytes>) -> Option<u64> {
    std::str::from_utf8(field.as_deref()?).ok()?.parse().ok()
}

/// Random, so that no two runs of sequences are taken for one another; 0 is left to mean none.
fn new_epoch() -> u64 {
    rand::random_range(1..=u64::MAX)
}

/// The `name:value` lines of `INFO`.
fn info_fields(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.trim_end().to_owned())).collect()
}

/// An answer that is not one.
fn not_an_answer(what: &'static str) -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: [&str; 4] = ["18446744073709551615", "1763690000123456", "1763690000000000", "a1"];

    fn meta(fields: [&str; 4]) -> Meta {
        let [epoch, seq, floor, run_id] = fields.map(|field| (!field.is_empty()).then(|| field.to_owned().into()));
        [epoch, seq, floor, run_id, None]
    }

    fn read(marks: &[Option<f64>], fields: [&str; 4]) -> Read {
        Read {
            before: Some(Sequence::MAX.to_string().into()),
            marks: marks.to_vec(),
            left: Vec::new(),
            meta: meta(fields),
        }
    }

    /// What the view says when the sentinel and these marks were read.
    fn newest(marks: &[Option<f64>]) -> Sequence {
        let marks = [&[Some(f64::INFINITY)], marks].concat();
        view_of(&read(&marks, WHOLE), "a1").unwrap().newest
    }

    #[test]
    fn a_view_is_the_highest_of_floor_and_marks() {
        let before = 1_763_690_000_000_020;
        let earlier = Read { before: Some(before.to_string().into()), ..read(&[Some(f64::INFINITY)], WHOLE) };
        assert_eq!(view_of(&earlier, "a1").unwrap().stamp.sequence, before, "read before the marks");
        let view = view_of(&read(&[Some(f64::INFINITY), None], WHOLE), "a1").unwrap();
        assert_eq!(view.stamp, Stamp { epoch: Epoch(u64::MAX), sequence: 1_763_690_000_123_456 });
        assert_eq!(view.newest, 1_763_690_000_000_000, "the floor");
        assert_eq!(newest(&[None, Some(1_763_690_000_123_455.0), Some(3.0)]), 1_763_690_000_123_455);
    }

    #[test]
    fn soft_marks_stand_beside_the_hard_ones_until_their_graces_are_over() {
        const SECOND: Duration = Duration::from_secs(1);
        const NONE: Duration = Duration::ZERO;
        let at = |sequence: Sequence| Some((1_763_690_000_000_000 + sequence) as f64);
        type Row = ([Option<f64>; 2], [Duration; 2], Sequence, Option<(Sequence, Duration)>);
        let rows: [Row; 5] = [
            ([None, None], [NONE, NONE], 5, None),
            ([None, at(7)], [NONE, SECOND], 5, Some((7, SECOND))),
            ([at(9), at(7)], [SECOND * 2, SECOND], 5, Some((9, SECOND))),
            ([at(9), at(7)], [SECOND * 2, NONE], 7, Some((9, SECOND * 2))),
            ([at(9), at(7)], [NONE, NONE], 9, None),
        ];
        for (soft, left, newest, pending) in rows {
            let marks = [&[Some(f64::INFINITY), None, at(5)], &soft[..]].concat();
            let view = view_of(&Read { left: left.to_vec(), ..read(&marks, WHOLE) }, "a1").unwrap();
            assert_eq!(view.newest, 1_763_690_000_000_000 + newest, "{soft:?} {left:?}");
            let found = view.soft.map(|soft| (soft.newest - 1_763_690_000_000_000, soft.left));
            assert_eq!(found, pending, "{soft:?} {left:?}");
        }
    }

    #[test]
    fn what_does_not_prove_itself_whole_is_no_view() {
        let sentinel = [Some(f64::INFINITY), Some(5.0)];
        assert!(view_of(&read(&sentinel, WHOLE), "a1").is_some());
        assert!(view_of(&read(&sentinel, WHOLE), "b2").is_none(), "another run of the server");
        assert!(view_of(&read(&[None, Some(5.0)], WHOLE), "a1").is_none(), "no sentinel");
        assert!(view_of(&read(&[], WHOLE), "a1").is_none(), "no marks at all");
        for field in 0..4 {
            let mut fields = WHOLE;
            for broken in ["", "x", "-1", "1e3", "99999999999999999999"] {
                fields[field] = broken;
                let found = view_of(&read(&sentinel, fields), "a1");
                assert!(found.is_none(), "field {field} is missing, no number, or another run");
            }
        }
    }

    proptest! {
        #[test]
        fn no_mark_is_lost_in_a_view(marks in prop::collection::vec(prop::option::of(0_u64..1 << 53), 0..9)) {
            let scores: Vec<_> = marks.iter().map(|mark| mark.map(|sequence| sequence as f64)).collect();
            let expected = marks.into_iter().flatten().fold(1_763_690_000_000_000, Sequence::max);
            prop_assert_eq!(newest(&scores), expected);
        }

        #[test]
        fn labels_are_what_stands_between_version_and_digest(label in "[a-z_:-]{1,20}", digest in "[0-9a-f]{32}") {
            let namespace = Namespace::new("shop", 1);
            let key = namespace.entry(&format!("v1:{label}:{digest}"));
            let found = namespace.label(key.as_bytes());
            prop_assert_eq!(found.as_deref(), Some(label.as_str()));
        }
    }

    #[test]
    fn foreign_keys_have_no_label() {
        let namespace = Namespace::new("shop", 1);
        for key in ["shop2:v1:a:0", "shop:v2:a:0", "shop:v1:0", "shop", ""] {
            assert_eq!(namespace.label(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn coordination_keys_share_one_slot() {
        let namespace = Namespace::new("shop", 1);
        assert_eq!((namespace.meta.as_str(), namespace.marks.as_str()), ("{shop}:meta", "{shop}:marks"));
        let Namespace { members, intents, intent_tags, graces, waited, channel, sweeper, key_stats, .. } =
            &namespace;
        for name in [members, intents, intent_tags, graces, waited, channel, sweeper, key_stats] {
            assert!(name.starts_with("{shop}:"), "{name}");
        }
    }

    #[test]
    fn info_is_read_by_line() {
        let fields =
            info_fields(b"# Server\r\nredis_version:7.0.15\r\nos:Linux 6 x86_64\r\n\r\ndb0:keys=1,expires=0\r\n");
        assert_eq!(fields["redis_version"], "7.0.15");
        assert_eq!(fields["db0"], "keys=1,expires=0");
        assert_eq!(fields.len(), 3);
    }
}
