//! [`RedisConnections`]: the connections of one link, opened and dropped together. `link` explains why none reconnects by itself.

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

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
}

/// Connections to the servers that hold the entries.
pub(super) enum Entries {
    /// A second connection to the server that holds the marks: entries of megabytes must not delay the marks of other requests.
    SameServer(MultiplexedConnection),
    /// The nodes of a cluster.
    Cluster(EntryNodes),
}

impl RedisConnections {
    /// To the server that holds the marks. For small replies only: scripts, marks.
    pub(super) fn marks(&self) -> MultiplexedConnection {
        self.marks.clone()
    }

    /// The connection for entries if the same server holds them and the marks, so that one pipeline reads both.
    pub(super) fn entries_on_marks_server(&self) -> Option<MultiplexedConnection> {
        match &self.entries {
            Entries::SameServer(connection) => Some(connection.clone()),
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
