//! Redis Cluster: which node holds which slots, and a connection to each primary for its entries.
//!
//! Marks and all other coordination keys are in one slot, and `link` treats the node that holds it like a single server.
//! This module is about entries. A node that holds some of them may be down, be restored from an old snapshot, or be
//! replaced by a replica that lacks the latest of them, without any danger: an entry carries the stamp of its fetch and
//! is judged by the marks. Such a node costs misses, and its connection may be replaced while the link stays up.
//!
//! # Why not the cluster client of the `redis` crate
//!
//! Its `cluster_async` client (1.8) reconnects by itself. That rules it out for marks, but not for entries. It is not
//! used for them because it replaces too little: the topology it learns, its parser of `CLUSTER SLOTS` and the number in
//! `cluster_routing::Slot` are private, but the node of the marks' slot, the failover check and the walks over all nodes
//! need them. So `slots.rs` and the refresh here would stay, next to a second copy of the topology. It also queues requests to
//! a node that is down and retries them, by default 16 times, where Larder wants a miss at once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
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
use super::errors::{RedisFault, is_elsewhere, malformed_reply, server_message};
use super::slots::{Slots, slot_of};
use super::{HEARTBEAT, PAUSE_MIN, StoreError};
use crate::config::store_url::ServerAddress;
use crate::mutex::lock;

/// Finds out which node holds which slots.
#[derive(Debug)]
pub(super) struct Cluster {
    dialer: Arc<Dialer>,
    seeds: Vec<ServerAddress>,
    /// Primaries of the latest topology; the seeds may have left the cluster since.
    known: Mutex<BTreeSet<ServerAddress>>,
    /// Time limit for the answer of one node.
    limit: Duration,
}

impl Cluster {
    pub(super) fn new(dialer: Arc<Dialer>, seeds: Vec<ServerAddress>, limit: Duration) -> Cluster {
        Cluster { dialer, seeds, known: Mutex::default(), limit }
    }

    /// Fetches the topology. Nodes are asked one after the other in random order, so that a node that is partitioned from
    /// the others does not always come first.
    ///
    /// # Errors
    ///
    /// No node answers that reaches the majority of its cluster. Of several errors, one that an operator must fix comes first.
    pub(super) async fn slots(&self) -> RedisResult<Slots> {
        let mut failure = malformed_reply("no node of the cluster is known");
        for (count, place) in self.places().into_iter().enumerate() {
            let asked = async { slots_reported_by(&mut self.dialer.open(&place).await?, &place).await };
            match in_time(self.limit, asked).await {
                Ok(slots) => {
                    *lock(&self.known) = slots.primaries();
                    return Ok(slots);
                }
                Err(error) if count == 0 || RedisFault::of(&error).lasting => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    fn places(&self) -> Vec<ServerAddress> {
        let mut places = lock(&self.known).clone();
        places.extend(self.seeds.iter().cloned());
        let mut places: Vec<ServerAddress> = places.into_iter().collect();
        places.shuffle(&mut rand::rng());
        places
    }
}

/// The topology as this node reports it; an error if the node does not reach the majority of its cluster.
async fn slots_reported_by(node: &mut MultiplexedConnection, place: &ServerAddress) -> RedisResult<Slots> {
    let mut pipe = redis::pipe();
    pipe.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let (info, slots): (String, Value) = pipe.query_async(node).await?;
    if !info.lines().any(|line| line.trim_end() == "cluster_state:ok") {
        return Err(io::Error::other(format!("{place} reports that its cluster is down")).into());
    }
    Slots::read(&slots, place).ok_or_else(|| malformed_reply("the answer to CLUSTER SLOTS cannot be parsed"))
}

async fn in_time<T>(limit: Duration, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(limit, answer).await.unwrap_or_else(|_| {
        let message = format!("no answer within {}", humantime::format_duration(limit));
        Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
    })
}

/// Connections to all primaries, for entries. A task refreshes them until this is dropped.
pub(super) struct EntryNodes {
    nodes: Arc<Nodes>,
    _watching: AbortOnDropHandle<()>,
}

struct Nodes {
    cluster: Arc<Cluster>,
    layout: ArcSwap<Layout>,
    /// Time limit for one request.
    limit: Duration,
    /// Wakes the task: a node was disconnected, or slots have moved.
    refresh: Notify,
}

/// The topology, and the nodes that are connected.
#[derive(Clone)]
struct Layout {
    slots: Slots,
    connected: BTreeMap<ServerAddress, Arc<Node>>,
}

struct Node {
    connection: MultiplexedConnection,
}

impl EntryNodes {
    /// Connects to the primaries of these slots; leaves out those that do not answer in time.
    pub(super) async fn start(cluster: Arc<Cluster>, slots: Slots, limit: Duration) -> EntryNodes {
        let layout = ArcSwap::from_pointee(Layout { slots: slots.clone(), connected: BTreeMap::new() });
        let nodes = Arc::new(Nodes { cluster, layout, limit, refresh: Notify::new() });
        nodes.connect(slots).await;
        let watching = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&nodes).watch()));
        EntryNodes { nodes, _watching: watching }
    }

    /// Connections to all connected nodes.
    pub(super) fn connections(&self) -> Vec<MultiplexedConnection> {
        self.nodes.layout.load().connected.values().map(|node| node.connection.clone()).collect()
    }

    /// Whether every slot has a node and all of these are connected.
    pub(super) fn is_whole(&self) -> bool {
        let layout = self.nodes.layout.load();
        layout.slots.are_whole()
            && layout.slots.primaries().iter().all(|place| layout.connected.contains_key(place))
    }

    /// The node that holds this key in the latest topology.
    pub(super) fn node_of(&self, name: &str) -> Option<ServerAddress> {
        self.nodes.layout.load().slots.node_of(slot_of(name)).cloned()
    }

    /// Runs a request on the node that holds this entry, within the time limit.
    pub(super) async fn ask<T, F>(
        &self,
        name: &str,
        request: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let (place, node) = self.nodes.node_of(name)?;
        let error = match timeout(self.nodes.limit, request(node.connection.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !is_broken(&error) => {
                if is_elsewhere(&error) {
                    self.nodes.refresh.notify_one();
                }
                return Err(StoreError::Refused(server_message(&error)));
            }
            Ok(Err(error)) => StoreError::Away(server_message(&error)),
            Err(_) => StoreError::Timeout(self.nodes.limit),
        };
        self.nodes.disconnect(&place, &node, &error.to_string());
        Err(error)
    }
}

/// Whether the connection is unusable after this error.
fn is_broken(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse)
}

impl Nodes {
    fn node_of(&self, name: &str) -> Result<(ServerAddress, Arc<Node>), StoreError> {
        let layout = self.layout.load();
        let Some(place) = layout.slots.node_of(slot_of(name)) else {
            return Err(StoreError::Away("no node of the cluster holds the slot of this entry".to_owned()));
        };
        match layout.connected.get(place) {
            Some(node) => Ok((place.clone(), Arc::clone(node))),
            None => Err(StoreError::Away(format!("{place}, which holds this entry, is not connected"))),
        }
    }

    /// Drops this connection, so that requests to its node fail at once until it is connected again.
    fn disconnect(&self, place: &ServerAddress, node: &Arc<Node>, reason: &str) {
        let before = self.layout.rcu(|layout| {
            let mut layout = Layout::clone(layout);
            if layout.connected.get(place).is_some_and(|known| Arc::ptr_eq(known, node)) {
                layout.connected.remove(place);
            }
            layout
        });
        if before.connected.get(place).is_some_and(|known| Arc::ptr_eq(known, node)) {
            tracing::warn!(node = %place, reason, "a node of the cluster is down: requests for its entries are forwarded upstream");
            self.refresh.notify_one();
        }
    }

    /// Refreshes the topology and the connections for as long as the link is up.
    async fn watch(self: Arc<Nodes>) {
        loop {
            // Also without a wake-up: connections break unnoticed, and slots move.
            let _ = timeout(HEARTBEAT, self.refresh.notified()).await;
            if let Some(slots) = self.slots_now().await {
                self.connect(slots).await;
            }
            sleep(PAUSE_MIN).await;
        }
    }

    /// Asks the connected nodes in random order, then all known ones.
    async fn slots_now(&self) -> Option<Slots> {
        let layout = self.layout.load_full();
        let mut connected: Vec<_> = layout.connected.iter().collect();
        connected.shuffle(&mut rand::rng());
        for (place, node) in connected {
            match in_time(self.limit, slots_reported_by(&mut node.connection.clone(), place)).await {
                Ok(slots) => return Some(slots),
                Err(error) if is_broken(&error) => self.disconnect(place, node, &server_message(&error)),
                Err(_) => {}
            }
        }
        self.cluster.slots().await.ok()
    }

    /// Adopts this topology and connects to its primaries. Connections that still answer stay.
    async fn connect(self: &Arc<Nodes>, slots: Slots) {
        let before = self.layout.load_full();
        let mut attempts = JoinSet::new();
        for place in slots.primaries() {
            let (nodes, known) = (Arc::clone(self), before.connected.get(&place).cloned());
            attempts.spawn(async move { nodes.connection_to(known, &place).await.map(|node| (place, node)) });
        }
        let connected: BTreeMap<_, _> = attempts.join_all().await.into_iter().flatten().collect();
        for place in connected.keys().filter(|place| !before.connected.contains_key(place)) {
            tracing::info!(node = %place, "connected to a node of the cluster");
        }
        self.layout.store(Arc::new(Layout { slots, connected }));
    }

    /// The known connection to this node if it still answers, otherwise a new one.
    async fn connection_to(&self, known: Option<Arc<Node>>, place: &ServerAddress) -> Option<Arc<Node>> {
        if let Some(node) = known {
            let ping = async { redis::cmd("PING").query_async::<()>(&mut node.connection.clone()).await };
            match in_time(self.limit, ping).await {
                Ok(()) => return Some(node),
                Err(error) => self.disconnect(place, &node, &server_message(&error)),
            }
        }
        let connection = in_time(self.cluster.limit, self.cluster.dialer.open(place)).await.ok()?;
        Some(Arc::new(Node { connection }))
    }
}
