//! A cluster: which node keeps what, and a connection to each primary for its entries.
//!
//! Marks and everything else that coordinates are in one slot, and `link` treats the node that keeps it as it would a
//! server that stands alone. What is said here is of entries. A node that keeps some of them may be away, be restored from
//! an old snapshot, or be replaced by a replica that lacks the latest of them, and nothing has to be noticed: an entry
//! carries the stamp that it was fetched under, whoever hands it out, and is judged by the marks. So such a node costs
//! misses, and its connection may be replaced while the link stays up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::seq::SliceRandom;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, Value};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::dialer::Dialer;
use super::refusal::{Refusal, is_elsewhere, told};
use super::slots::{Slots, slot_of};
use super::view::not_an_answer;
use super::{HEARTBEAT, PAUSE_MIN, StoreError};
use crate::config::store_url::ServerAddress;

/// The nodes that are known, whatever they keep.
#[derive(Debug)]
pub(super) struct Cluster {
    dialer: Arc<Dialer>,
    seeds: Vec<ServerAddress>,
    /// Primaries that were heard of last; there may be no seed among them any more.
    heard: Mutex<BTreeSet<ServerAddress>>,
    /// For one node to answer.
    limit: Duration,
}

impl Cluster {
    pub(super) fn new(dialer: Arc<Dialer>, seeds: Vec<ServerAddress>, limit: Duration) -> Cluster {
        Cluster { dialer, seeds, heard: Mutex::default(), limit }
    }

    /// Who keeps which slot. Nodes are asked one after the other in any order, so that one that is lost in a world of its
    /// own does not always come first.
    ///
    /// # Errors
    ///
    /// No node answers that has its cluster together; of their answers the one that somebody has to do something about.
    pub(super) async fn slots(&self) -> RedisResult<Slots> {
        let mut failure = not_an_answer("no node of the cluster is known");
        for (count, place) in self.places().into_iter().enumerate() {
            let asked = async { slots_seen_by(&mut self.dialer.open(&place).await?, &place).await };
            match in_time(self.limit, asked).await {
                Ok(slots) => {
                    *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = slots.primaries();
                    return Ok(slots);
                }
                Err(error) if count == 0 || Refusal::of(&error).lasting => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    fn places(&self) -> Vec<ServerAddress> {
        let mut places = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        places.extend(self.seeds.iter().cloned());
        let mut places: Vec<ServerAddress> = places.into_iter().collect();
        places.shuffle(&mut rand::rng());
        places
    }
}

/// Who keeps which slot, in the eyes of a node that reaches the majority of its cluster.
async fn slots_seen_by(node: &mut MultiplexedConnection, place: &ServerAddress) -> RedisResult<Slots> {
    let mut pipe = redis::pipe();
    pipe.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let (info, slots): (String, Value) = pipe.query_async(node).await?;
    if !info.lines().any(|line| line.trim_end() == "cluster_state:ok") {
        return Err(io::Error::other(format!("{place} says that its cluster is down")).into());
    }
    Slots::read(&slots, place).ok_or_else(|| not_an_answer("CLUSTER SLOTS tells something else"))
}

async fn in_time<T>(limit: Duration, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(limit, answer).await.unwrap_or_else(|_| {
        let told = format!("no answer within {}", humantime::format_duration(limit));
        Err(io::Error::new(io::ErrorKind::TimedOut, told).into())
    })
}

/// Connections to all primaries, for entries. They are watched for as long as this lives.
pub(super) struct Spread {
    nodes: Arc<Nodes>,
    _watching: AbortOnDropHandle<()>,
}

struct Nodes {
    cluster: Arc<Cluster>,
    layout: ArcSwap<Layout>,
    /// For one request.
    limit: Duration,
    /// Wakes the task: a node is lost, or keeps something else than it did.
    wanted: Notify,
}

/// Who keeps what, and those who can be asked.
#[derive(Clone)]
struct Layout {
    slots: Slots,
    connected: BTreeMap<ServerAddress, Arc<Node>>,
}

struct Node {
    connection: MultiplexedConnection,
}

impl Spread {
    /// Connects to the primaries of these slots, in so far as they answer soon.
    pub(super) async fn start(cluster: Arc<Cluster>, slots: Slots, limit: Duration) -> Spread {
        let layout = ArcSwap::from_pointee(Layout { slots: slots.clone(), connected: BTreeMap::new() });
        let nodes = Arc::new(Nodes { cluster, layout, limit, wanted: Notify::new() });
        nodes.connect(slots).await;
        let watching = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&nodes).watch()));
        Spread { nodes, _watching: watching }
    }

    /// Those who answer.
    pub(super) fn connections(&self) -> Vec<MultiplexedConnection> {
        self.nodes.layout.load().connected.values().map(|node| node.connection.clone()).collect()
    }

    /// Whether all who keep entries answer.
    pub(super) fn is_whole(&self) -> bool {
        let layout = self.nodes.layout.load();
        layout.slots.are_whole()
            && layout.slots.primaries().iter().all(|place| layout.connected.contains_key(place))
    }

    /// Who keeps this key, as far as is known.
    pub(super) fn keeper(&self, name: &str) -> Option<ServerAddress> {
        self.nodes.layout.load().slots.keeper(slot_of(name)).cloned()
    }

    /// Runs a request on the node that keeps this entry, within the time limit.
    pub(super) async fn ask<T, F>(
        &self,
        name: &str,
        request: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let (place, node) = self.nodes.keeper(name)?;
        let error = match timeout(self.nodes.limit, request(node.connection.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !is_broken(&error) => {
                if is_elsewhere(&error) {
                    self.nodes.wanted.notify_one();
                }
                return Err(StoreError::Refused(told(&error)));
            }
            Ok(Err(error)) => StoreError::Away(told(&error)),
            Err(_) => StoreError::Timeout(self.nodes.limit),
        };
        self.nodes.lose(&place, &node, &error.to_string());
        Err(error)
    }
}

/// Whether nothing more can be heard from this connection.
fn is_broken(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse)
}

impl Nodes {
    fn keeper(&self, name: &str) -> Result<(ServerAddress, Arc<Node>), StoreError> {
        let layout = self.layout.load();
        let Some(place) = layout.slots.keeper(slot_of(name)) else {
            return Err(StoreError::Away("no node of the cluster keeps the slot of this entry".to_owned()));
        };
        match layout.connected.get(place) {
            Some(node) => Ok((place.clone(), Arc::clone(node))),
            None => Err(StoreError::Away(format!("{place}, which keeps this entry, does not answer"))),
        }
    }

    /// Asks this connection nothing more. That is the breaker of its node.
    fn lose(&self, place: &ServerAddress, node: &Arc<Node>, reason: &str) {
        let before = self.layout.rcu(|layout| {
            let mut layout = Layout::clone(layout);
            if layout.connected.get(place).is_some_and(|known| Arc::ptr_eq(known, node)) {
                layout.connected.remove(place);
            }
            layout
        });
        if before.connected.get(place).is_some_and(|known| Arc::ptr_eq(known, node)) {
            tracing::warn!(node = %place, reason, "a node of the cluster is away: what it keeps is fetched upstream");
            self.wanted.notify_one();
        }
    }

    /// Follows the cluster: for as long as the link is up.
    async fn watch(self: Arc<Nodes>) {
        loop {
            // Woken or not: connections die unseen, and slots move.
            let _ = timeout(HEARTBEAT, self.wanted.notified()).await;
            if let Some(slots) = self.slots_now().await {
                self.connect(slots).await;
            }
            sleep(PAUSE_MIN).await;
        }
    }

    /// From a node that is connected, any of them; from all that are known otherwise.
    async fn slots_now(&self) -> Option<Slots> {
        let layout = self.layout.load_full();
        let mut connected: Vec<_> = layout.connected.iter().collect();
        connected.shuffle(&mut rand::rng());
        for (place, node) in connected {
            match in_time(self.limit, slots_seen_by(&mut node.connection.clone(), place)).await {
                Ok(slots) => return Some(slots),
                Err(error) if is_broken(&error) => self.lose(place, node, &told(&error)),
                Err(_) => {}
            }
        }
        self.cluster.slots().await.ok()
    }

    /// Takes these slots for true, and connects to who keeps them; those who answer already stay connected.
    async fn connect(self: &Arc<Nodes>, slots: Slots) {
        let before = self.layout.load_full();
        let mut trials = JoinSet::new();
        for place in slots.primaries() {
            let (nodes, known) = (Arc::clone(self), before.connected.get(&place).cloned());
            trials.spawn(async move { nodes.tried(known, &place).await.map(|node| (place, node)) });
        }
        let connected: BTreeMap<_, _> = trials.join_all().await.into_iter().flatten().collect();
        for place in connected.keys().filter(|place| !before.connected.contains_key(place)) {
            tracing::info!(node = %place, "connected to a node of the cluster");
        }
        self.layout.store(Arc::new(Layout { slots, connected }));
    }

    /// The connection to this node if it answers, or a new one if it does on that.
    async fn tried(&self, known: Option<Arc<Node>>, place: &ServerAddress) -> Option<Arc<Node>> {
        if let Some(node) = known {
            let ping = async { redis::cmd("PING").query_async::<()>(&mut node.connection.clone()).await };
            match in_time(self.limit, ping).await {
                Ok(()) => return Some(node),
                Err(error) => self.lose(place, &node, &told(&error)),
            }
        }
        let connection = in_time(self.cluster.limit, self.cluster.dialer.open(place)).await.ok()?;
        Some(Arc::new(Node { connection }))
    }
}
