//! [`PrimaryResolver`]: resolves the server that holds the marks.

use std::io;
use std::sync::Arc;

use redis::RedisResult;

use super::cluster::Cluster;
use super::dialer::{Dialer, SetupFault};
use super::sentinel::Sentinels;
use super::server::Server;
use super::slots::{Slots, slot_of};
use crate::config::StoreConfig;
use crate::config::store_url::{ServerAddress, StoreUrl, Topology};

/// Where the address of the server that holds the marks comes from.
pub(super) enum PrimaryResolver {
    /// The URL.
    Server(ServerAddress),
    Cluster(Arc<Cluster>),
    Sentinels(Arc<Sentinels>),
}

impl PrimaryResolver {
    /// Each server gets a part of the time limit for connecting, so that one that hangs leaves time for the others.
    pub(super) fn new(config: &StoreConfig, url: &StoreUrl) -> Result<(PrimaryResolver, Arc<Dialer>), SetupFault> {
        let limit = config.connect_timeout;
        let dialer = |login, database| Dialer::new(config, url, login, database).map(Arc::new);
        Ok(match &url.topology {
            Topology::Server { place, database } => {
                (PrimaryResolver::Server(place.clone()), dialer(&url.login, *database)?)
            }
            Topology::Cluster { seeds } => {
                let dialer = dialer(&url.login, 0)?;
                let cluster = Cluster::new(Arc::clone(&dialer), seeds.clone(), limit / 4);
                (PrimaryResolver::Cluster(Arc::new(cluster)), dialer)
            }
            Topology::Sentinel { sentinels, primary, database, login } => {
                let asking = dialer(login, 0)?;
                let sentinels = Sentinels::new(asking, sentinels.clone(), primary.clone(), limit / 3);
                (PrimaryResolver::Sentinels(Arc::new(sentinels)), dialer(&url.login, *database)?)
            }
        })
    }

    /// The server that holds this key and, in a cluster, the topology.
    pub(super) async fn lead(&self, name: &str) -> RedisResult<(ServerAddress, Option<Slots>)> {
        match self {
            PrimaryResolver::Server(place) => Ok((place.clone(), None)),
            PrimaryResolver::Sentinels(sentinels) => Ok((sentinels.primary().await?, None)),
            PrimaryResolver::Cluster(cluster) => {
                let slots = cluster.slots().await?;
                let node = slots.node_of(slot_of(name)).cloned();
                let place =
                    node.ok_or_else(|| io::Error::other("no node of the cluster holds the slot of the marks"))?;
                Ok((place, Some(slots)))
            }
        }
    }

    /// Refuses a server of another kind than the configuration expects.
    pub(super) fn accept(&self, server: &Server, place: &ServerAddress) -> RedisResult<()> {
        match self {
            PrimaryResolver::Server(_) => server.must_stand_alone(),
            PrimaryResolver::Sentinels(_) if !server.is_primary => {
                Err(io::Error::other(format!("the sentinels name {place}, which is a replica")).into())
            }
            PrimaryResolver::Cluster(_) | PrimaryResolver::Sentinels(_) => Ok(()),
        }
    }
}
