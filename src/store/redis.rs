//! L2 in Redis or Valkey. Owns the names and formats of what is kept there, the read of the marks and the scripts;
//! `link` owns the connections, and `cluster` and `sentinel` tell it where to.
//!
//! | key | holds |
//! |---|---|
//! | `{ns}:meta` | hash: `epoch` (64 bits, decimal), `seq` (last sequence issued), `floor`, `run_id`, `born` (µs) |
//! | `{ns}:marks` | sorted set: tag → sequence of its last invalidation; the sentinel at +inf |
//! | `{ns}:members` | hash: proxy → `syncs:lease in ms:epoch:applied`; the sentinel |
//! | `{ns}:intents` | sorted set: intent → deadline (µs of the server's clock); the sentinel at +inf |
//! | `{ns}:intent_tags` | hash: intent → its tags, in lines |
//! | `{ns}:waited` | written before `WAIT`, with `wait_replicas` alone; expires |
//! | `{ns}:fleet` | the channel |
//! | `ns:v1:…` | one entry, with a TTL |
//!
//! # Why reading without a script is safe
//!
//! A lookup is one pipeline on one connection: `GET` entry, `HGET` seq, `ZMSCORE` marks, `HSETNX` meta, `HMGET` meta. Other
//! clients' commands may run between these four. Say that a write, acknowledged before the lookup began, took
//! sequence *q* and outdates the entry, whose stamp is (*e*, *s*) with *s* < *q*. Its mark was set before `GET` ran:
//!
//! - nothing happened since: `ZMSCORE` brings *q*, and the entry is not current;
//! - the mark was trimmed before `ZMSCORE` ran: the script that trimmed it raised the floor to *q* at least in the
//!   same step, and `HMGET` runs later. This is why the marks are read before meta;
//! - the set was flushed, evicted or deleted: the sentinel is missing, and a new epoch is started; or another client
//!   has started one before `ZMSCORE` ran, and `HMGET`, running later, brings another epoch than *e*;
//! - meta was lost as well or alone: a field is missing, and a new epoch is started;
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
//! # In a cluster
//!
//! All that coordinates is in the slot of `{ns}`, and the argument above is about the node that keeps it. What resharding
//! adds: a node answers for a slot that is being moved away only where it still has the key, and with `ASK` or `TRYAGAIN`
//! otherwise; for a slot that it lost, with `MOVED`. `ASK` and `MOVED` end the link. Whoever has the slot then is another
//! process than the one that meta names, and a new epoch begins.
//!
//! An entry is mostly kept by another node, so that a lookup is two requests at the same time: `GET` there, and the marks
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
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Script};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::link::Connections;
use super::fleet::{Cause, Holder, Intent, Invalidated, Membership, Message, Synced};
use super::{FamilyOf, Found, KeyCounts, Link, Reply, Store, StoreError, StoreInfo};
use crate::config::StoreConfig;
use crate::stamp::{Epoch, Sequence, Stamp, Tag, View};

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

pub use self::dialer::SetupFault;
pub use self::link::ConnectFault;

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

    /// Runs a request on the present connections, within the time limit. An answer that shows the connection or the
    /// server to be unusable takes the link down.
    async fn ask<T, F>(&self, request: impl FnOnce(Arc<Connections>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let connections = self.link.connections()?;
        self.link.within_limit(&connections, request(Arc::clone(&connections))).await
    }

    /// The same on the server that keeps an entry, which is told by what name.
    async fn ask_keeper<T, F>(
        &self,
        key: &str,
        request: impl FnOnce(String, MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let (connections, name) = (self.link.connections()?, self.namespace.entry(key));
        self.link.ask_keeper(&connections, &name, |keeper| request(name.clone(), keeper)).await
    }

    /// A lookup where the entry is not where the marks are.
    async fn lookup_apart(&self, key: &str, tags: &[Tag]) -> Result<Found, StoreError> {
        let view = self.ask(move |connections| async move { self.namespace.view(&connections, tags).await });
        let entry = self.ask_keeper(key, |name, mut keeper| async move {
            redis::cmd("GET").arg(&name).query_async(&mut keeper).await
        });
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

    fn view<'a>(&'a self, tags: &'a [Tag]) -> Reply<'a, View> {
        Box::pin(self.ask(move |connections| async move { self.namespace.view(&connections, tags).await }))
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Duration) -> Reply<'a, ()> {
        Box::pin(self.ask_keeper(key, move |name, mut keeper| async move {
            let ttl = u64::try_from(ttl.max(TTL_MIN).as_millis()).unwrap_or(u64::MAX);
            let mut set = redis::cmd("SET");
            set.arg(&name).arg(&value[..]).arg("PX").arg(ttl).query_async(&mut keeper).await
        }))
    }

    fn invalidate<'a>(&'a self, tags: &'a [Tag], cause: &'a Cause<'a>) -> Reply<'a, Invalidated> {
        Box::pin(self.ask(move |c| async move { self.namespace.invalidate(&c, tags, cause).await }))
    }

    fn sync<'a>(&'a self, me: &'a Membership) -> Reply<'a, Synced> {
        Box::pin(self.ask(move |connections| async move { self.namespace.sync(&connections, me).await }))
    }

    fn leave<'a>(&'a self, id: &'a str) -> Reply<'a, ()> {
        Box::pin(self.ask(move |connections| async move { self.namespace.leave(&connections, id).await }))
    }

    fn expel<'a>(&'a self, holder: &'a Holder) -> Reply<'a, bool> {
        Box::pin(self.ask(move |connections| async move { self.namespace.expel(&connections, holder).await }))
    }

    fn record<'a>(&'a self, intent: &'a Intent, within: Duration) -> Reply<'a, View> {
        Box::pin(self.ask(move |c| async move { self.namespace.record(&c, intent, within).await }))
    }

    fn forget<'a>(&'a self, intent: &'a str) -> Reply<'a, ()> {
        Box::pin(self.ask(move |connections| async move { self.namespace.forget(&connections, intent).await }))
    }

    fn messages(&self) -> broadcast::Receiver<Message> {
        self.messages.subscribe()
    }

    fn remove<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        Box::pin(self.ask_keeper(key, |name, mut keeper| async move {
            redis::cmd("UNLINK").arg(&name).query_async(&mut keeper).await
        }))
    }

    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Bytes>> {
        Box::pin(self.ask_keeper(key, |name, mut keeper| async move {
            redis::cmd("GET").arg(&name).query_async(&mut keeper).await
        }))
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
                    let step = self.namespace.scan(node.clone(), cursor);
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

    fn link(&self) -> Link {
        self.link.state()
    }

    fn changes(&self) -> watch::Receiver<Link> {
        self.link.changes()
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
    waited: String,
    channel: String,
    marks_max: u64,
    begin: Script,
    invalidate: Script,
    sync: Script,
    record: Script,
    forget: Script,
    expel: Script,
    /// Whether this process has had an epoch of the namespace before; for the log alone.
    met: AtomicBool,
}

/// `epoch`, `seq`, `floor`, `run_id` of meta.
type Meta = (Option<String>, Option<String>, Option<String>, Option<String>);

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
            waited: format!("{{{name}}}:waited"),
            channel: format!("{{{name}}}:fleet"),
            marks_max: marks_max.max(1),
            begin: Script::new(concat!(include_str!("epoch.lua"), include_str!("begin.lua"))),
            invalidate: Script::new(concat!(include_str!("epoch.lua"), include_str!("invalidate.lua"))),
            sync: Script::new(concat!(include_str!("epoch.lua"), include_str!("sync.lua"))),
            record: Script::new(concat!(include_str!("epoch.lua"), include_str!("record.lua"))),
            forget: Script::new(include_str!("forget.lua")),
            expel: Script::new(include_str!("expel.lua")),
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
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(self.entry(key));
        self.add_marks(&mut pipe, tags);
        let (entry, before, marks, _, meta): (Option<Bytes>, Option<u64>, Vec<Option<f64>>, i64, Meta) =
            pipe.query_async(&mut beside).await?;
        Ok(Found { entry, view: self.view_or_begin(connections, before, &marks, &meta).await? })
    }

    async fn view(&self, connections: &Connections, tags: &[Tag]) -> RedisResult<View> {
        let mut pipe = redis::pipe();
        self.add_marks(&mut pipe, tags);
        let (before, marks, _, meta): (Option<u64>, Vec<Option<f64>>, i64, Meta) =
            pipe.query_async(&mut connections.marks()).await?;
        self.view_or_begin(connections, before, &marks, &meta).await
    }

    /// The commands that bring a view. Their order is argued at the head of this file.
    fn add_marks(&self, pipe: &mut Pipeline, tags: &[Tag]) {
        pipe.cmd("HGET").arg(&self.meta).arg("seq");
        pipe.cmd("ZMSCORE").arg(&self.marks).arg(SENTINEL).arg("*");
        for tag in tags {
            pipe.arg(tag.as_str());
        }
        pipe.cmd("HSETNX").arg(&self.meta).arg("born").arg(0);
        pipe.cmd("HMGET").arg(&self.meta).arg(&["epoch", "seq", "floor", "run_id"]);
    }

    async fn view_or_begin(
        &self,
        connections: &Connections,
        before: Option<Sequence>,
        marks: &[Option<f64>],
        meta: &Meta,
    ) -> RedisResult<View> {
        match view_of(before, marks, meta, connections.run_id()) {
            Some(view) => Ok(view),
            None => self.begin(connections).await,
        }
    }

    /// Starts a new epoch unless someone has meanwhile. The marks of the view's tags were read before that, so the
    /// view counts all of them as set by the last sequence: only what was stamped after it is current.
    async fn begin(&self, connections: &Connections) -> RedisResult<View> {
        let call = self.call(&self.begin, connections);
        let (epoch, sequence, cause): (u64, u64, String) = call.invoke_async(&mut connections.marks()).await?;
        self.log_new_epoch(epoch, &cause);
        Ok(View { stamp: Stamp { epoch: Epoch(epoch), sequence }, newest: sequence })
    }

    /// One line per epoch in the whole fleet: only the proxy that started it has a cause to tell. `cause` is the
    /// script's; empty if none was started.
    fn log_new_epoch(&self, epoch: u64, cause: &str) {
        let met_before = self.met.swap(true, Relaxed);
        match cause {
            "" => {}
            "new" if !met_before => tracing::info!(epoch, "epoch started: the namespace is new"),
            "new" => {
                tracing::warn!(epoch, "epoch changed: new, the namespace was flushed; all entries are outdated");
            }
            "restarted" => tracing::warn!(
                epoch,
                "epoch changed: restarted, or another server took its place (run_id); all entries are outdated"
            ),
            lost => tracing::warn!(epoch, "epoch changed: {lost}, evicted or deleted; all entries are outdated"),
        }
    }

    /// One step of a walk over the entries of one server: the next cursor (0 at the end) and some keys.
    async fn scan(&self, mut node: MultiplexedConnection, cursor: u64) -> RedisResult<(u64, Vec<Bytes>)> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}:v1:*", self.name)).arg("COUNT").arg(SCAN_STEP);
        scan.query_async(&mut node).await
    }
}

/// The view that marks (the sentinel's first) and meta amount to. None when they do not prove themselves whole, or
/// stem from another run of the server.
fn view_of(before: Option<Sequence>, marks: &[Option<f64>], meta: &Meta, run_id: &str) -> Option<View> {
    let (sentinel, marks) = marks.split_first()?;
    let (epoch, sequence, floor, issuer) = meta;
    if sentinel.is_none() || issuer.as_deref()? != run_id {
        return None;
    }
    let number = |field: &Option<String>| field.as_deref()?.parse::<u64>().ok();
    let stamp = Stamp { epoch: Epoch(number(epoch)?), sequence: before?.min(number(sequence)?) };
    // Scores are whole numbers below 2^53, exact as floats.
    let newest = marks.iter().flatten().map(|score| *score as Sequence).fold(number(floor)?, Sequence::max);
    Some(View { stamp, newest })
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
        let [epoch, seq, floor, run_id] = fields.map(|field| (!field.is_empty()).then(|| field.to_owned()));
        (epoch, seq, floor, run_id)
    }

    /// What the view says when the sentinel and these marks were read.
    fn newest(marks: &[Option<f64>]) -> Sequence {
        let marks = [&[Some(f64::INFINITY)], marks].concat();
        view_of(Some(Sequence::MAX), &marks, &meta(WHOLE), "a1").unwrap().newest
    }

    #[test]
    fn a_view_is_the_highest_of_floor_and_marks() {
        let earlier = view_of(Some(20), &[Some(f64::INFINITY)], &meta(WHOLE), "a1").unwrap();
        assert_eq!(earlier.stamp.sequence, 20, "read before the marks");
        let view = view_of(Some(Sequence::MAX), &[Some(f64::INFINITY), None], &meta(WHOLE), "a1").unwrap();
        assert_eq!(view.stamp, Stamp { epoch: Epoch(u64::MAX), sequence: 1_763_690_000_123_456 });
        assert_eq!(view.newest, 1_763_690_000_000_000, "the floor");
        assert_eq!(newest(&[None, Some(1_763_690_000_123_455.0), Some(3.0)]), 1_763_690_000_123_455);
    }

    #[test]
    fn what_does_not_prove_itself_whole_is_no_view() {
        let sentinel = [Some(f64::INFINITY), Some(5.0)];
        assert!(view_of(Some(Sequence::MAX), &sentinel, &meta(WHOLE), "a1").is_some());
        assert!(
            view_of(Some(Sequence::MAX), &sentinel, &meta(WHOLE), "b2").is_none(),
            "another run of the server"
        );
        assert!(view_of(Some(Sequence::MAX), &[None, Some(5.0)], &meta(WHOLE), "a1").is_none(), "no sentinel");
        assert!(view_of(Some(Sequence::MAX), &[], &meta(WHOLE), "a1").is_none(), "no marks at all");
        for field in 0..4 {
            let mut fields = WHOLE;
            fields[field] = "";
            assert!(
                view_of(Some(Sequence::MAX), &sentinel, &meta(fields), "a1").is_none(),
                "field {field} is missing"
            );
            fields[field] = "x";
            assert!(
                view_of(Some(Sequence::MAX), &sentinel, &meta(fields), "a1").is_none(),
                "field {field} is no number, or another run"
            );
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
        let Namespace { members, intents, intent_tags, waited, channel, .. } = &namespace;
        for name in [members, intents, intent_tags, waited, channel] {
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
