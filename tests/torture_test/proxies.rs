//! The processes of a run: proxies, the Redis or the cluster they share, and the network between.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::guard::Guard;
use crate::ledger::Run;
use crate::options::{Choice, Options, Rules, name};
use crate::relay::Relay;
use crate::support::larder::signal;
use crate::support::{Larder, Plan, RedisCluster, RedisServer, eventually};

/// `[store] namespace`.
pub const NAMESPACE: &str = "torture";

/// Where a proxy listens now.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub address: SocketAddr,
    pub run: Run,
}

/// Where each proxy listens, for clients, and whether it alone is cut off. A proxy that was killed is still in it until it
/// runs again.
pub struct Directory(Vec<Mutex<(Place, Reach)>>);

/// Whether a proxy reaches Redis as the others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    AsOthers,
    /// Its own way there is disturbed.
    Alone,
    /// It was until then, and nothing shows yet that the proxy has reconnected.
    AloneUntil(Instant),
}

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
        self.0[proxy].lock().unwrap().0
    }

    /// The way from this proxy to Redis is disturbed from now on, and that of no other.
    pub fn disturbed(&self, proxy: usize) {
        self.0[proxy].lock().unwrap().1 = Reach::Alone;
    }

    /// It is no more.
    pub fn restored(&self, proxy: usize) {
        self.0[proxy].lock().unwrap().1 = Reach::AloneUntil(Instant::now());
    }

    /// Redis has taken the invalidation of a write that was sent to this proxy then.
    pub fn delivered(&self, proxy: usize, began: Instant) {
        let reach = &mut self.0[proxy].lock().unwrap().1;
        if matches!(reach, Reach::AloneUntil(restored) if *restored < began) {
            *reach = Reach::AsOthers;
        }
    }

    /// Whether this proxy may be cut off from Redis while others are not.
    pub fn is_alone(&self, proxy: usize) -> bool {
        self.0[proxy].lock().unwrap().1 != Reach::AsOthers
    }
}

impl Proxies {
    pub fn start(options: &Options, choice: Choice, upstream: &str) -> Proxies {
        let mut guard = Guard::start();
        let shared = Shared::start(options);
        shared.servers().iter().for_each(|server| guard.watch(server.id()));
        let relays = shared.relays(choice.proxies);
        let store = if options.embedded { String::new() } else { store(options, choice) };
        let plan = Plan::new(upstream).rules(&rules(options, choice, &store));
        let plan = |proxy: usize| match (relays.get(proxy), &shared) {
            (Some(relay), _) => plan.clone().redis(&relay.url()),
            (None, Shared::Cluster(cluster)) => plan.clone().redis(&cluster.url()),
            (None, _) => plan.clone(),
        };
        let plans: Vec<_> = (0..choice.proxies as usize).map(plan).collect();
        let running: Vec<_> = plans.iter().map(Plan::start).collect();
        running.iter().for_each(|larder| guard.watch(larder.id()));
        let places = running.iter().zip(0..).map(|(larder, run)| Place { address: larder.address, run });
        let directory = Arc::new(Directory(places.map(|place| Mutex::new((place, Reach::AsOthers))).collect()));
        Proxies { running, plans, relays, shared, directory, runs: choice.proxies, guard, store }
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

    /// `kill -9`. Gives the run that ends.
    pub fn kill(&mut self, proxy: usize) -> Run {
        let id = self.running[proxy].id();
        self.running[proxy].kill();
        self.guard.release(id);
        self.directory.place(proxy).run
    }

    /// Waits until it has ended by itself. Gives the run that ends.
    pub fn wait(&mut self, proxy: usize) -> Run {
        let id = self.running[proxy].id();
        let code = self.running[proxy].wait();
        self.guard.release(id);
        assert_eq!(code, Some(0), "a proxy ended badly; its log:\n{}", self.running[proxy].log());
        self.directory.place(proxy).run
    }

    /// Starts a proxy that has ended.
    pub fn start_again(&mut self, proxy: usize) {
        let larder = self.plans[proxy].start();
        self.guard.watch(larder.id());
        self.directory.0[proxy].lock().unwrap().0 = Place { address: larder.address, run: self.runs };
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

/// The grace of soft rules: the shortest there is.
pub const GRACE: Duration = Duration::from_secs(1);

/// After which invalidations are repeated: more than upstream lags and takes.
pub const AGAIN: Duration = Duration::from_millis(500);

fn rules(options: &Options, choice: Choice, store: &str) -> String {
    let how = match (choice.rules, options.sabotage) {
        (Rules::Hard, _) | (Rules::Again, true) => String::new(),
        (Rules::Soft, _) => format!(", mode = \"soft\", grace = \"{}s\"", GRACE.as_secs()),
        (Rules::Again, false) => format!(", again = \"{}ms\"", AGAIN.as_millis()),
    };
    let (guarded, verdicts) = match (options.authorize, options.sabotage) {
        (false, _) => ("", ""),
        (true, true) => (GUARDED, ""),
        (true, false) => (GUARDED, ", \"authorize:{identity}\""),
    };
    let invalidate = match (options.sabotage, choice.rules) {
        (true, Rules::Hard | Rules::Soft) if !options.authorize => String::new(),
        _ => format!(
            "[invalidate]\n'/r/(?<k>\\d+)' = {{ families = [\"register:{{k}}\", \"sum\"{verdicts}]{how} }}\n"
        ),
    };
    let table = match options.embedded {
        true => String::new(),
        false => format!("[store]\nnamespace = \"{NAMESPACE}\"\n{store}"),
    };
    let collapse = if options.embedded { "proxy".to_owned() } else { name(&choice.collapse) };
    format!(
        r#"
[server]
drain_timeout = "5s"

[log]
access = false

{table}
[[family]]
name = "register"
path = '/[rv]/(?<k>\d+)'
ttl = "1h"
collapse = "{collapse}"

[[family]]
name = "sum"
path = '/sum'
ttl = "1h"
collapse = "{collapse}"

{guarded}
{invalidate}"#
    )
}

/// What callers share whose cookies say the present version of a register. No write invalidates it, but the authorization of callers.
const GUARDED: &str = r#"
[[family]]
name = "guarded"
path = '/a/\d+'
ttl = "1h"
authorize = { path = "/check", ttl = "1h" }
"#;

fn store(options: &Options, choice: Choice) -> String {
    let (mode, outage) = (name(&choice.mode), name(&choice.outage));
    let mut store = format!(
        "coherence = \"{mode}\"\nlease = \"{}ms\"\ntimeout = \"{}ms\"\non_outage = \"{outage}\"\n",
        options.lease, options.timeout
    );
    if options.cluster {
        store += "wait_replicas = 1\nconnect_timeout = \"2s\"\n";
    }
    store
}
