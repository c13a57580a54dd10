//! The processes of a run: proxies, the Redis or the cluster they share, and the network between.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::guard::Guard;
use crate::ledger::Run;
use crate::options::{Mode, Options};
use crate::relay::Relay;
use crate::support::larder::{larder, signal};
use crate::support::{Larder, Plan, RedisCluster, RedisServer, eventually};

/// `[store] namespace`.
pub const NAMESPACE: &str = "torture";

/// Where a proxy listens now.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub address: SocketAddr,
    pub run: Run,
}

/// Where each proxy listens, for clients. A proxy that was killed is still in it until it runs again.
pub struct Directory(Vec<Mutex<Place>>);

/// What the proxies share.
enum Shared {
    Nothing,
    Server(RedisServer),
    Cluster(RedisCluster),
}

impl Shared {
    fn start(options: &Options) -> Shared {
        match (options.embedded, options.cluster) {
            (true, _) => Shared::Nothing,
            (false, true) => Shared::Cluster(RedisCluster::start()),
            (false, false) => Shared::Server(RedisServer::start()),
        }
    }

    fn servers(&self) -> Vec<&RedisServer> {
        match self {
            Shared::Nothing => Vec::new(),
            Shared::Server(server) => vec![server],
            Shared::Cluster(cluster) => cluster.nodes.iter().collect(),
        }
    }

    /// Of a server, a relay for each proxy. The nodes of a cluster say themselves where they are.
    fn relays(&self, proxies: u32) -> Vec<Relay> {
        let Shared::Server(server) = self else { return Vec::new() };
        let address: SocketAddr = server.url().replace("redis://", "").parse().expect("a URL of a server");
        (0..proxies).map(|_| Relay::start(address)).collect()
    }
}

/// All proxies and what stands between them. Dropped, everything ends: the proxies first, the guard last.
pub struct Proxies {
    running: Vec<Larder>,
    plans: Vec<Plan>,
    relays: Vec<Relay>,
    shared: Shared,
    directory: Arc<Directory>,
    runs: Run,
    guard: Guard,
    /// What `[store]` says beyond its usual fields.
    pub store: String,
}

impl Directory {
    /// How many proxies there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn place(&self, proxy: usize) -> Place {
        *self.0[proxy].lock().unwrap()
    }
}

impl Proxies {
    pub fn start(options: &Options, upstream: &str) -> Proxies {
        let mut guard = Guard::start();
        let shared = Shared::start(options);
        shared.servers().iter().for_each(|server| guard.watch(server.id()));
        let relays = shared.relays(options.proxies);
        let store = if options.embedded { String::new() } else { store(options) };
        let plan = Plan::new(upstream).rules(&rules(options, &store));
        let plan = |proxy: usize| match (relays.get(proxy), &shared) {
            (Some(relay), _) => plan.clone().redis(&relay.url()),
            (None, Shared::Cluster(cluster)) => plan.clone().redis(&cluster.url()),
            (None, _) => plan.clone(),
        };
        let plans: Vec<_> = (0..options.proxies as usize).map(plan).collect();
        let running: Vec<_> = plans.iter().map(Plan::start).collect();
        running.iter().for_each(|larder| guard.watch(larder.id()));
        let places = running.iter().zip(0..).map(|(larder, run)| Place { address: larder.address, run });
        let directory = Arc::new(Directory(places.map(Mutex::new).collect()));
        Proxies { running, plans, relays, shared, directory, runs: options.proxies, guard, store }
    }

    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Sends a signal by name to this proxy.
    pub fn signal(&self, proxy: usize, name: &str) {
        signal(self.running[proxy].id(), name);
    }

    /// The network between this proxy and Redis.
    pub fn relay(&self, proxy: usize) -> &Relay {
        &self.relays[proxy]
    }

    pub fn kill(&mut self, proxy: usize) {
        let id = self.running[proxy].id();
        self.running[proxy].kill();
        self.guard.release(id);
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, proxy: usize) {
        let id = self.running[proxy].id();
        let code = self.running[proxy].wait();
        self.guard.release(id);
        assert_eq!(code, Some(0), "a proxy ended badly; its log:\n{}", self.running[proxy].log());
    }

    /// Starts a proxy that has ended.
    pub fn start_again(&mut self, proxy: usize) {
        let larder = self.plans[proxy].start();
        self.guard.watch(larder.id());
        *self.directory.0[proxy].lock().unwrap() = Place { address: larder.address, run: self.runs };
        self.runs += 1;
        self.running[proxy] = larder;
    }

    /// The Redis of a run that is not embedded; of a cluster, the node that keeps the marks.
    pub fn redis(&self) -> &RedisServer {
        match &self.shared {
            Shared::Server(server) => server,
            Shared::Cluster(cluster) => &cluster.nodes[cluster.keeper(&meta())],
            Shared::Nothing => panic!("faults of Redis are not injected without one"),
        }
    }

    /// Whether there is one Redis that stands alone, which can be saved and restored.
    pub fn have_one_redis(&self) -> bool {
        matches!(self.shared, Shared::Server(_))
    }

    /// Kills the node that keeps the marks and, when its replica has taken over and `meanwhile` is done, starts it again.
    pub fn kill_keeper(&mut self, meanwhile: impl FnOnce()) {
        let cluster = cluster_of(&mut self.shared);
        let keeper = cluster.keeper(&meta());
        let id = cluster.nodes[keeper].id();
        cluster.nodes[keeper].kill();
        self.guard.release(id);
        eventually("a replica takes over", || cluster.keeper(&meta()) != keeper);
        meanwhile();
        cluster.nodes[keeper].restart();
        self.guard.watch(cluster.nodes[keeper].id());
        cluster.wait_until_whole();
    }

    /// Has the node that keeps the marks hand them over to its replica, both alive.
    pub fn hand_over(&mut self) {
        let cluster = cluster_of(&mut self.shared);
        let replica = cluster.replica_of(cluster.keeper(&meta()));
        cluster.nodes[replica].run::<()>(&["CLUSTER", "FAILOVER"]);
        eventually("it has taken over", || cluster.keeper(&meta()) == replica);
        cluster.wait_until_whole();
    }

    /// Kills Redis, changes what it will remember, and starts it again.
    pub fn restart_redis(&mut self, meanwhile: impl FnOnce(&Snapshots)) {
        let Shared::Server(redis) = &mut self.shared else { panic!("a node of a cluster is not restored") };
        let snapshots = Snapshots(redis.dir().to_owned());
        let id = redis.id();
        redis.kill();
        self.guard.release(id);
        meanwhile(&snapshots);
        redis.restart();
        self.guard.watch(redis.id());
    }

    /// Saves a snapshot, which a restart finds.
    pub fn save(&self) -> Snapshots {
        self.redis().save();
        Snapshots(self.redis().dir().to_owned())
    }

    /// Waits until every proxy answers from its cache: nothing needs a restart.
    pub fn wait_for_hits(&self) {
        for larder in &self.running {
            eventually("hits are back on every proxy", || larder.get("/r/0").has_status(200).is("hit"));
        }
    }
}

fn meta() -> String {
    format!("{{{NAMESPACE}}}:meta")
}

fn cluster_of(shared: &mut Shared) -> &mut RedisCluster {
    match shared {
        Shared::Cluster(cluster) => cluster,
        Shared::Nothing | Shared::Server(_) => panic!("failovers are not injected without a cluster"),
    }
}

/// The snapshots of Redis: the one it starts with, and an old one.
pub struct Snapshots(PathBuf);

impl Snapshots {
    /// Keeps the present one as the old one.
    pub fn keep_as_old(&self) {
        std::fs::copy(self.0.join("dump.rdb"), self.0.join("old.rdb")).unwrap();
    }

    /// Brings back the old one.
    pub fn restore_old(&self) {
        std::fs::copy(self.0.join("old.rdb"), self.0.join("dump.rdb")).unwrap();
    }

    /// Redis starts with nothing.
    pub fn remove(&self) {
        // There may be none yet.
        let _ = std::fs::remove_file(self.0.join("dump.rdb"));
    }
}

fn rules(options: &Options, store: &str) -> String {
    let invalidate = match options.sabotage {
        true => "",
        false => "[invalidate]\n'/r/(?<k>\\d+)' = [\"register:{k}\", \"sum\"]\n",
    };
    // The time limit is short, so that a hung Redis is noticed within a lease, and long enough for a busy machine.
    let table = match options.embedded {
        true => String::new(),
        false => format!("[store]\nnamespace = \"{NAMESPACE}\"\ntimeout = \"1s\"\n{store}"),
    };
    format!(
        r#"
[server]
drain_timeout = "5s"

[log]
access = false

{table}
[[family]]
name = "register"
path = '/r/(?<k>\d+)'
ttl = "1h"

[[family]]
name = "sum"
path = '/sum'
ttl = "1h"

{invalidate}"#
    )
}

/// Leases, where the binary knows them; what was asked for explicitly it must know.
fn store(options: &Options) -> String {
    let mode = options.mode.unwrap_or(Mode::Lease);
    let mut wanted = format!("coherence = \"{mode}\"\nlease = \"{}ms\"\non_outage = \"refuse\"\n", options.lease);
    if options.cluster {
        wanted += "wait_replicas = 1\nconnect_timeout = \"2s\"\n";
    }
    if options.mode.is_some() || is_known(&wanted) { wanted } else { String::new() }
}

fn is_known(fields: &str) -> bool {
    let rules =
        format!("[server]\nupstream = \"http://127.0.0.1:1\"\n[store]\nredis = \"redis://127.0.0.1\"\n{fields}");
    larder(Some(&rules), &["check", "rules.toml"]).code == Some(0)
}
