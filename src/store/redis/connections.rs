//! [`RedisConnections`]: the connections of one link, dropped together. `link` explains why none reconnects by itself.
//!
//! A thread with a runtime of its own gets its own connections to the server that holds the marks, in the background: waking the task of
//! a connection in another thread costs a system call, and its reply another one. Until they are there, it uses those of the link.
//! Redis executes one command after the other, whatever connections they come on: a request that begins when another has its reply
//! comes after it.

use std::thread::{self, ThreadId};

use arc_swap::ArcSwap;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::cluster::EntryNodes;
use super::replicas::Replicas;
use super::server::Server;
use crate::config::store_url::ServerAddress;

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
    /// The thread that opened the link, and uses its connections.
    home: ThreadId,
    by_thread: ArcSwap<Vec<ThreadConnection>>,
}

#[derive(Clone)]
struct ThreadConnection {
    thread: ThreadId,
    /// `None` while they are being opened, and if that failed.
    own: Option<Own>,
}

/// A thread's own connections to the server that holds the marks: for marks, and for the entries that it holds.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) marks: MultiplexedConnection,
    pub(super) entries: Option<MultiplexedConnection>,
}

impl ThreadConnections {
    /// None yet.
    pub(super) fn new() -> ThreadConnections {
        ThreadConnections { home: thread::current().id(), by_thread: ArcSwap::default() }
    }

    /// Whether this thread is to open its own. The first call in each thread claims that.
    pub(super) fn claim(&self) -> bool {
        let here = thread::current().id();
        let is_known = || self.by_thread.load().iter().any(|it| it.thread == here);
        if here == self.home || is_known() {
            return false;
        }
        // A task of a runtime with several threads may go on in any of them.
        let has_runtime =
            Handle::try_current().is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::CurrentThread);
        if has_runtime {
            self.set(&ThreadConnection { thread: here, own: None });
        }
        has_runtime
    }

    /// This thread has opened its own.
    pub(super) fn opened(&self, own: Own) {
        self.set(&ThreadConnection { thread: thread::current().id(), own: Some(own) });
    }

    fn set(&self, new: &ThreadConnection) {
        self.by_thread.rcu(|known| {
            let others = known.iter().filter(|it| it.thread != new.thread);
            others.chain([new]).cloned().collect::<Vec<_>>()
        });
    }

    fn here<T>(&self, of: impl Fn(&Own) -> Option<T>) -> Option<T> {
        let here = thread::current().id();
        let by_thread = self.by_thread.load();
        by_thread.iter().find(|it| it.thread == here).and_then(|it| of(it.own.as_ref()?))
    }
}

impl RedisConnections {
    /// To the server that holds the marks. For small replies only: scripts, marks.
    pub(super) fn marks(&self) -> MultiplexedConnection {
        self.of_threads.here(|own| Some(own.marks.clone())).unwrap_or_else(|| self.marks.clone())
    }

    /// The connection for entries if the same server holds them and the marks, so that one pipeline reads both.
    pub(super) fn entries_on_marks_server(&self) -> Option<MultiplexedConnection> {
        match &self.entries {
            Entries::SameServer(entries) => {
                Some(self.of_threads.here(|own| own.entries.clone()).unwrap_or_else(|| entries.clone()))
            }
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

    /// All that are not used by each check of the link: the one for entries, and those of threads.
    pub(super) fn beside_marks(&self) -> Vec<MultiplexedConnection> {
        let by_thread = self.of_threads.by_thread.load();
        let of_threads = by_thread.iter().filter_map(|it| it.own.as_ref());
        let of_threads = of_threads.flat_map(|own| [Some(&own.marks), own.entries.as_ref()]).flatten();
        let entries = match &self.entries {
            Entries::SameServer(connection) => Some(connection),
            Entries::Cluster(_) => None,
        };
        entries.into_iter().chain(of_threads).cloned().collect()
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
