//! A real cluster of one test: three primaries with a replica each, formed by hand.

use super::redis::{RedisServer, free_pair};
use super::{eventually, eventually_some};

/// Slots are dealt evenly to the three primaries.
const SLOTS: [std::ops::Range<u16>; 3] = [0..5461, 5461..10923, 10923..16384];

/// How its nodes are started. The timeout is short, so that failovers are; a slot that no node keeps does not stop the others.
const ARGS: [&str; 10] = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1000",
    "--cluster-require-full-coverage",
    "no",
    "--repl-diskless-sync-delay",
    "0",
    "--repl-ping-replica-period",
    "1",
];

/// Six nodes, whichever of them are primaries now.
pub struct RedisCluster {
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts it and waits until every node knows all of it.
    pub fn start() -> RedisCluster {
        RedisCluster::start_with(&[])
    }

    /// The same with further arguments for all nodes. With `--tls-cluster yes` each gets a port for TLS.
    pub fn start_with(args: &[&str]) -> RedisCluster {
        let node = |_| {
            let port = free_pair().to_string();
            let tls = if args.contains(&"--tls-cluster") { vec!["--tls-port", &port] } else { Vec::new() };
            RedisServer::start_with(&[&ARGS[..], args, &tls].concat())
        };
        let cluster = RedisCluster { nodes: (0..6).map(node).collect() };
        cluster.form();
        cluster
    }

    fn form(&self) {
        for (node, slots) in self.nodes.iter().zip(SLOTS) {
            let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
            let slots = slots.iter().map(String::as_str);
            node.run::<()>(&["CLUSTER", "ADDSLOTS"].into_iter().chain(slots).collect::<Vec<_>>());
        }
        for (epoch, node) in (1..).zip(&self.nodes) {
            node.run::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]);
            node.run::<()>(&["CLUSTER", "MEET", "127.0.0.1", &self.nodes[0].public_port().to_string()]);
        }
        let knows = |node: &RedisServer, what: &str| node.command(&["CLUSTER", "INFO"]).contains(what);
        eventually("the nodes have met", || self.nodes.iter().all(|node| knows(node, "cluster_known_nodes:6")));
        for (primary, replica) in self.nodes.iter().zip(&self.nodes[3..]) {
            let id = primary.command(&["CLUSTER", "MYID"]);
            // It refuses until it has learned of the primary.
            eventually("the replica takes its primary", || {
                replica.try_run::<()>(&["CLUSTER", "REPLICATE", &id]).is_ok()
            });
        }
        self.wait_until_whole();
    }

    /// Waits until all nodes that run agree on three primaries with a replica in step each.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        eventually("the cluster is whole", || {
            self.nodes.iter().all(|node| {
                let info = node.command(&["CLUSTER", "INFO"]);
                let replication = node.command(&["INFO", "replication"]);
                let shards = node.run::<Vec<Vec<redis::Value>>>(&["CLUSTER", "SLOTS"]);
                info.contains("cluster_state:ok")
                    // First and last slot, a primary and a replica.
                    && shards.iter().all(|shard| shard.len() == 4)
                    && (replication.contains("master_link_status:up")
                        || replication.contains("state=online") && replication.contains("role:master"))
            })
        });
    }

    /// `redis+cluster://…` of the nodes that were primaries at first.
    pub fn url(&self) -> String {
        let host = |node: &RedisServer| format!("127.0.0.1:{}", node.public_port());
        let hosts: Vec<String> = self.nodes[..3].iter().map(host).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        self.living().next().expect("one lives").run(&["CLUSTER", "KEYSLOT", key])
    }

    /// The node that keeps this key, as the first live node says that knows a live one.
    #[track_caller]
    pub fn keeper(&self, key: &str) -> usize {
        let slot = self.slot(key);
        eventually_some("a node keeps the key", || {
            // It alone answers for the slot itself.
            (0..self.nodes.len()).find(|at| {
                let node = &self.nodes[*at];
                let mine = |line: &&str| line.contains("myself,master");
                let nodes = || node.try_run::<String>(&["CLUSTER", "NODES"]).unwrap_or_default();
                node.is_running() && nodes().lines().find(mine).is_some_and(|line| keeps(line, slot))
            })
        })
    }

    /// A replica of this primary.
    #[track_caller]
    pub fn replica_of(&self, primary: usize) -> usize {
        let id = self.nodes[primary].command(&["CLUSTER", "MYID"]);
        let is_replica = |node: &RedisServer| {
            let nodes = node.command(&["CLUSTER", "NODES"]);
            nodes.lines().any(|line| line.contains("myself,slave") && line.split(' ').nth(3) == Some(&id))
        };
        let found = (0..self.nodes.len()).find(|at| self.nodes[*at].is_running() && is_replica(&self.nodes[*at]));
        found.expect("it has a replica")
    }

    /// Moves a slot and its keys to another primary, as `redis-cli --cluster reshard` does.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (from, to, slot) = (&self.nodes[from], &self.nodes[to], slot.to_string());
        let [source, target] = [from, to].map(|node| node.command(&["CLUSTER", "MYID"]));
        to.run::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        from.run::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
        let port = to.port().to_string();
        loop {
            let keys: Vec<String> = from.run(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            for key in keys {
                from.run::<redis::Value>(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]);
            }
        }
        for node in [to, from] {
            node.run::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
    }

    /// How many of these entries each node keeps.
    pub fn entries(&self, pattern: &str) -> Vec<usize> {
        self.nodes.iter().map(|node| node.command(&["KEYS", pattern]).lines().count()).collect()
    }

    fn living(&self) -> impl Iterator<Item = &RedisServer> {
        self.nodes.iter().filter(|node| node.is_running())
    }
}

/// Whether a line of `CLUSTER NODES` has this slot among those that its node keeps: `0-5460 9000 [12->-id]`.
fn keeps(line: &str, slot: u16) -> bool {
    line.split(' ').skip(8).any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
    })
}
