//! A real `redis-server` of one test: a port, a directory and a process of its own, which ends with the value. It
//! blocks while the server starts, which a test on a runtime can bear: nothing else runs there.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use redis::{FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

use super::larder::signal;
use super::{PATIENCE, eventually_some};

/// A port that was free a moment ago. Drawn at random from below those that the system hands out by itself, so that it
/// is hardly taken while a server is being restarted.
pub fn free_port() -> u16 {
    let mut drawn = std::iter::repeat_with(|| rand::random_range(10_000..32_768));
    drawn.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("the draw does not end")
}

/// The same, with a port for the bus of a cluster beside it: 10000 higher.
pub fn free_pair() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut drawn = std::iter::repeat_with(|| rand::random_range(10_000..22_768));
    drawn.find(|port| is_free(*port) && is_free(port + 10_000)).expect("the draw does not end")
}

/// A configuration file in a server's directory. Sentinels cannot do without.
pub const SENTINEL_FILE: &str = "sentinel.conf";

/// The server, running or ended for now. It writes nothing to disk unless a test saves a snapshot.
pub struct RedisServer {
    dir: TempDir,
    port: u16,
    args: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server on a free port.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// The same with further arguments, such as `["--requirepass", "secret"]`.
    pub fn start_with(args: &[&str]) -> RedisServer {
        RedisServer::start_in(tempfile::tempdir().unwrap(), args)
    }

    /// The same in a directory that holds files the arguments speak of.
    pub fn start_in(dir: TempDir, args: &[&str]) -> RedisServer {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = RedisServer { dir, port: 0, args, process: None };
        for _ in 0..5 {
            let is_node = server.args.iter().any(|arg| arg == "--cluster-enabled");
            server.port = if is_node { free_pair() } else { free_port() };
            if server.try_start() {
                return server;
            }
            // Another process took the port meanwhile.
        }
        panic!("redis-server does not start:\n{}", server.log());
    }

    /// `redis://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens for clients: that for TLS if it has one, and the other one for tests alone.
    pub fn public_port(&self) -> u16 {
        let tls = self.args.iter().position(|arg| arg == "--tls-port");
        tls.map_or(self.port, |at| self.args[at + 1].parse().expect("a port"))
    }

    /// The server's directory: its snapshot and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends the server as an operator would, without saving.
    pub fn stop(&mut self) {
        signal(self.id(), "TERM");
        self.reap();
    }

    /// `kill -9`, which ends a hung server too.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.as_mut() {
            // It may have ended by itself already.
            let _ = process.kill();
        }
        self.reap();
    }

    /// The server hangs: its connections stay open and nothing is answered.
    pub fn hang(&self) {
        signal(self.id(), "STOP");
    }

    /// Ends [`RedisServer::hang`].
    pub fn resume(&self) {
        signal(self.id(), "CONT");
    }

    /// `kill -9` unless it has ended, and again on the same port, with the snapshot of the last save if there is one.
    pub fn restart(&mut self) {
        self.kill();
        let started = (0..5).any(|_| self.try_start());
        assert!(started, "redis-server does not start again:\n{}", self.log());
    }

    /// The same, with nothing remembered.
    pub fn restart_empty(&mut self) {
        self.kill();
        match std::fs::remove_file(self.dir().join("dump.rdb")) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("dump.rdb: {error}"),
            _ => self.restart(),
        }
    }

    /// Writes the snapshot.
    pub fn save(&self) {
        self.run::<()>(&["SAVE"]);
    }

    /// Removes everything in all databases.
    pub fn flush_all(&self) {
        self.run::<()>(&["FLUSHALL"]);
    }

    /// Runs one command on a connection of its own.
    #[track_caller]
    pub fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_run(command).unwrap_or_else(|error| panic!("{}: {error}", command.join(" ")))
    }

    /// The same; gives the reply as text, elements of arrays in lines.
    #[track_caller]
    pub fn command(&self, command: &[&str]) -> String {
        text(self.run(command))
    }

    /// How often the server has carried out each command since its start, the commands within scripts too.
    pub fn command_counts(&self) -> Vec<(String, u64)> {
        let stats: String = self.run(&["INFO", "commandstats"]);
        let count = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        stats.lines().filter_map(count).collect()
    }

    /// The same, where the server may be away or refuse.
    pub fn try_run<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let password = self.args.iter().position(|arg| arg == "--requirepass").map(|at| &self.args[at + 1]);
        let login = password.map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}", self.port))?;
        let mut connection = client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }

    /// True when the server answers; false when its process ended instead.
    fn try_start(&mut self) -> bool {
        self.process = Some(self.spawn());
        let started = eventually_some("redis-server answers", || match self.has_ended() {
            true => Some(false),
            false => self.is_ready().then_some(true),
        });
        if !started {
            self.reap();
        }
        started
    }

    fn spawn(&self) -> Child {
        // Any server with the protocol of Redis, such as Valkey.
        let program = std::env::var("LARDER_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned());
        let mut command = Command::new(program);
        command.args(Some(self.dir().join(SENTINEL_FILE)).filter(|file| file.exists()));
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--logfile", "redis.log"]);
        command.args(["--port", &self.port.to_string()]).arg("--dir").arg(self.dir()).args(&self.args);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        spawned.unwrap_or_else(|error| panic!("redis-server: {error}; run tests/run, which installs it"))
    }

    /// Whether this very process answers: another test's server may have taken the port first.
    fn is_ready(&self) -> bool {
        let answer = self.try_run::<String>(&["INFO", "server"]).unwrap_or_default();
        let id = format!("process_id:{}", self.id());
        answer.lines().any(|line| line == id) && self.try_run::<String>(&["PING"]).is_ok()
    }

    /// Whether it was not ended.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(|process| process.try_wait().unwrap().is_some())
    }

    /// Its process, while it runs.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the server is running").id()
    }

    fn reap(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("redis.log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(reply: Value) -> String {
    match reply {
        Value::Okay => "OK".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::SimpleString(text) => text,
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::Array(elements) => elements.into_iter().map(text).collect::<Vec<_>>().join("\n"),
        Value::Nil => String::new(),
        other => panic!("a reply of a kind that no test uses: {other:?}"),
    }
}

#[test]
fn a_killed_server_remembers_what_was_saved_and_nothing_more() {
    let mut redis = RedisServer::start();
    assert_eq!(redis.command(&["SET", "kept", "1"]), "OK");
    redis.save();
    redis.command(&["SET", "lost", "1"]);
    redis.restart();
    assert_eq!(redis.command(&["KEYS", "*"]), "kept");
    redis.hang();
    redis.resume();
    redis.restart_empty();
    assert_eq!(redis.command(&["DBSIZE"]), "0");
}
