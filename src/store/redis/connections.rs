//! [`RedisConnections`]: the connections of one link, dropped together. `link` explains why none reconnects by itself.
//!
//! A thread with a runtime of its own gets its own connections to the server that holds the marks, in the background: waking the task of
//! a connection in another thread costs a system call, and its reply another one. Until they are there, it uses those of the link.
//! Redis executes one command after the other, whatever connections they come on: a request that begins when another has its reply
//! comes after it.

use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, timeout};

use super::cluster::EntryNodes;
use super::replicas::Replicas;
use super::server::Server;
use crate::config::store_url::ServerAddress;

/// How long a thread does without connections of its own after they have failed.
const RETRY: Duration = Duration::from_secs(5);

/// Connections to one run of the server that holds the marks, and to the servers that hold entries.
pub(super) struct RedisConnections {
    pub(super) marks: MultiplexedConnection,
    pub(super) entries: Entries,
    pub(super) replicas: Option<Replicas>,
    pub(super) server: Server,
    /// Address of the server that holds the marks.
    pub(super) place: ServerAddress,
    pub(super) of_threads: ThreadConnections,
}

/// Connections to the servers that hold the entries.
pub(super) enum Entries {
    /// A second connection to the server that holds the marks: entries of megabytes must not delay the marks of other requests.
    SameServer(MultiplexedConnection),
    /// The nodes of a cluster.
    Cluster(EntryNodes),
}

/// The connections of the threads that have their own.
pub(super) struct ThreadConnections {
    /// The thread that opened the link. It uses those of the link.
    opener: ThreadId,
    by_thread: ArcSwap<Vec<(ThreadId, ThreadState)>>,
}

#[derive(Clone)]
enum ThreadState {
    Opening,
    Open(Arc<OwnConnections>),
    /// They could not be opened, or did not answer in time. The thread uses those of the link until then.
    WithoutUntil(Instant),
}

/// A thread's own connections to the server that holds the marks: for marks, and for the entries that it holds.
pub(super) struct OwnConnections {
    pub(super) marks: MultiplexedConnection,
    pub(super) entries: Option<MultiplexedConnection>,
}

impl ThreadConnections {
    /// None yet.
    pub(super) fn new() -> ThreadConnections {
        ThreadConnections { opener: thread::current().id(), by_thread: ArcSwap::default() }
    }

    /// Whether this thread is to open its own now. Says so once, unless [`ThreadConnections::fail`] follows.
    pub(super) fn are_to_be_opened(&self) -> bool {
        let here = thread::current().id();
        let is_due = match self.by_thread.load().iter().find(|(thread, _)| *thread == here) {
            None => here != self.opener,
            Some((_, ThreadState::WithoutUntil(time))) => Instant::now() >= *time,
            Some((_, ThreadState::Opening | ThreadState::Open(_))) => false,
        };
        // A task of a runtime with several threads may go on in any of them.
        let has_own_runtime =
            || Handle::try_current().is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::CurrentThread);
        let is_due = is_due && has_own_runtime();
        if is_due {
            self.set(here, &ThreadState::Opening);
        }
        is_due
    }

    /// This thread has opened its own.
    pub(super) fn open(&self, own: OwnConnections) {
        self.set(thread::current().id(), &ThreadState::Open(Arc::new(own)));
    }

    /// This thread could not open its own, or they did not answer in time.
    pub(super) fn fail(&self) {
        self.set(thread::current().id(), &ThreadState::WithoutUntil(Instant::now() + RETRY));
    }

    /// Those of this thread.
    pub(super) fn own(&self) -> Option<Arc<OwnConnections>> {
        let here = thread::current().id();
        let by_thread = self.by_thread.load();
        by_thread.iter().find(|(thread, _)| *thread == here).and_then(|(_, state)| state.open().cloned())
    }

    /// This thread's connection for entries, or that of the link.
    pub(super) fn entries(&self, of_link: &MultiplexedConnection) -> MultiplexedConnection {
        self.own().and_then(|own| own.entries.clone()).unwrap_or_else(|| of_link.clone())
    }

    /// Pings all of them at once. Threads whose connections fail use those of the link for a while.
    pub(super) async fn check(&self, limit: Duration) {
        let by_thread = self.by_thread.load_full();
        let checks = by_thread.iter().filter_map(|(thread, state)| {
            let own = state.open()?;
            Some(async move {
                let is_alive = timeout(limit, own.ping()).await.is_ok_and(|answer| answer.is_ok());
                if !is_alive {
                    self.set(*thread, &ThreadState::WithoutUntil(Instant::now() + RETRY));
                }
            })
        });
        join_all(checks).await;
    }

    fn set(&self, thread: ThreadId, state: &ThreadState) {
        self.by_thread.rcu(|known| {
            let others = known.iter().filter(|(other, _)| *other != thread).cloned();
            others.chain([(thread, state.clone())]).collect::<Vec<_>>()
        });
    }
}

impl ThreadState {
    fn open(&self) -> Option<&Arc<OwnConnections>> {
        match self {
            ThreadState::Open(own) => Some(own),
            ThreadState::Opening | ThreadState::WithoutUntil(_) => None,
        }
    }
}

impl OwnConnections {
    async fn ping(&self) -> RedisResult<()> {
        for connection in [Some(&self.marks), self.entries.as_ref()].into_iter().flatten() {
            redis::cmd("PING").query_async::<()>(&mut connection.clone()).await?;
        }
        Ok(())
    }
}

impl RedisConnections {
    /// To the server that holds the marks. For small replies only: scripts, marks.
    pub(super) fn marks(&self) -> MultiplexedConnection {
        self.of_threads.own().map_or_else(|| self.marks.clone(), |own| own.marks.clone())
    }

    /// The connection for entries if the same server holds them and the marks, so that one pipeline reads both.
    pub(super) fn entries_on_marks_server(&self) -> Option<MultiplexedConnection> {
        match &self.entries {
            Entries::SameServer(of_link) => Some(self.of_threads.entries(of_link)),
            Entries::Cluster(_) => None,
        }
    }

    /// To each connected server that holds entries, for walks over all of them.
    pub(super) fn nodes(&self) -> Vec<MultiplexedConnection> {
        match &self.entries {
            Entries::SameServer(connection) => vec![connection.clone()],
            Entries::Cluster(nodes) => nodes.connections(),
        }
    }

    /// Whether `nodes` returns all servers that hold entries.
    pub(super) fn are_all_nodes_connected(&self) -> bool {
        match &self.entries {
            Entries::SameServer(_) => true,
            Entries::Cluster(nodes) => nodes.is_whole(),
        }
    }

    /// Returns when `wait_replicas` replicas have everything written so far.
    pub(super) async fn reach_replicas(&self) -> RedisResult<()> {
        match &self.replicas {
            Some(replicas) => replicas.reach().await,
            None => Ok(()),
        }
    }

    /// Identity of the server process that holds the marks.
    pub(super) fn run_id(&self) -> &str {
        &self.server.run_id
    }
}
