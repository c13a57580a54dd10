//! A primary with two replicas, and three real sentinels that watch them.

use super::eventually;
use super::redis::RedisServer;

/// What the sentinels call the primary.
pub const PRIMARY: &str = "house";

/// All processes, whichever of them is the primary now.
pub struct Sentinels {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
}

impl Sentinels {
    /// Starts all of them and waits until the sentinels know one another and the replicas.
    pub fn start() -> Sentinels {
        let delay = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let first = RedisServer::start_with(&delay);
        let port = first.port().to_string();
        let replica = || RedisServer::start_with(&[&delay[..], &["--replicaof", "127.0.0.1", &port]].concat());
        let servers = vec![replica(), replica(), first];
        let replication = || servers[2].command(&["INFO", "replication"]);
        eventually("the replicas are in step", || replication().matches("state=online").count() == 2);
        let sentinels = (0..3).map(|_| sentinel(&port)).collect();
        let all = Sentinels { servers, sentinels };
        all.wait_until_whole();
        all
    }

    /// Waits until every sentinel knows two replicas and three sentinels, and that all is well.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        eventually("the sentinels know everything", || {
            let info = |sentinel: &RedisServer| sentinel.command(&["INFO", "sentinel"]);
            self.sentinels.iter().all(|sentinel| {
                ["status=ok", "slaves=2", "sentinels=3"].iter().all(|part| info(sentinel).contains(part))
            })
        });
    }

    /// `redis+sentinel://…`
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        format!("redis+sentinel://{}/{PRIMARY}", hosts.join(","))
    }

    /// The primary that the first sentinel names.
    pub fn primary(&self) -> usize {
        let address: Vec<String> = self.sentinels[0].run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY]);
        let port = self.servers.iter().position(|server| server.port().to_string() == address[1]);
        port.expect("it is one of them")
    }

    /// Promotes this replica, lets the other one follow it, and makes the sentinels forget the former primary, which goes on
    /// as a primary.
    pub fn name_another(&self, new: usize) {
        let (first, port) = (self.primary(), self.servers[new].port().to_string());
        self.servers[new].run::<()>(&["REPLICAOF", "NO", "ONE"]);
        for (at, server) in self.servers.iter().enumerate() {
            if at != new && at != first {
                server.run::<()>(&["REPLICAOF", "127.0.0.1", &port]);
            }
        }
        for sentinel in &self.sentinels {
            sentinel.run::<()>(&["SENTINEL", "REMOVE", PRIMARY]);
            sentinel.run::<()>(&["SENTINEL", "MONITOR", PRIMARY, "127.0.0.1", &port, "2"]);
        }
    }

    /// Waits until all sentinels name another primary than this, and gives it.
    #[track_caller]
    pub fn wait_for_another(&self, than: usize) -> usize {
        let port = self.servers[than].port().to_string();
        eventually("another primary is named", || {
            self.sentinels.iter().all(|sentinel| {
                let fields: Vec<String> = sentinel.run(&["SENTINEL", "MASTER", PRIMARY]);
                fields.chunks(2).any(|field| field[0] == "port" && field[1] != port)
            })
        });
        self.primary()
    }
}

fn sentinel(port: &str) -> RedisServer {
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "sentinel monitor {PRIMARY} 127.0.0.1 {port} 2\n\
         sentinel down-after-milliseconds {PRIMARY} 1000\n\
         sentinel failover-timeout {PRIMARY} 5000\n"
    );
    std::fs::write(dir.path().join(super::redis::SENTINEL_FILE), config).unwrap();
    RedisServer::start_in(dir, &["--sentinel"])
}
