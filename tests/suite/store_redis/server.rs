//! A real `redis-server` of one test: its own port, directory and process, which ends with the value.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use redis::FromRedisValue;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a server may take to answer after its start; far more than it needs.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Waits until `condition` holds, looking every 5 ms; panics with `what` after 10 s.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + START_LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {START_LIMIT:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A port that was free a moment ago. Drawn at random from below those that the system hands out by itself, so that it
/// is hardly taken while a server is being restarted.
pub fn free_port() -> u16 {
    let mut drawn = std::iter::repeat_with(|| rand::random_range(10_000..32_768));
    drawn.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("the draw does not end")
}

/// The server. Keeps nothing on disk unless told to save.
pub struct RedisServer {
    dir: TempDir,
    port: u16,
    args: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server on a free port.
    pub async fn start() -> RedisServer {
        RedisServer::start_with(&[]).await
    }

    /// The same with further arguments, such as `["--requirepass", "secret"]`.
    pub async fn start_with(args: &[&str]) -> RedisServer {
        let dir = tempfile::tempdir().expect("a temporary directory");
        RedisServer::start_in(dir, args).await
    }

    /// The same in a directory that holds files the arguments speak of.
    pub async fn start_in(dir: TempDir, args: &[&str]) -> RedisServer {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = RedisServer { dir, port: free_port(), args, process: None };
        for _ in 0..5 {
            if server.try_start().await {
                return server;
            }
            // Someone took the port meanwhile.
            server.port = free_port();
        }
        panic!("redis-server does not start:\n{}", server.log());
    }

    /// `redis://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's directory: its snapshot and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends the server as an operator would, without saving.
    pub fn stop(&mut self) {
        self.signal("TERM");
        self.reap();
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) {
        self.signal("KILL");
        self.reap();
    }

    /// Halts the process: its connections stay open and nothing is answered.
    pub fn hang(&self) {
        self.signal("STOP");
    }

    /// Ends [`RedisServer::hang`].
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Starts the ended server again on the same port, with the snapshot of the last `SAVE`, if there is one.
    pub async fn restart(&mut self) {
        for _ in 0..5 {
            if self.try_start().await {
                return;
            }
        }
        panic!("redis-server does not start again:\n{}", self.log());
    }

    /// Starts the ended server again on the same port, without any data.
    pub async fn restart_empty(&mut self) {
        match std::fs::remove_file(self.dir().join("dump.rdb")) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("dump.rdb: {error}"),
            _ => self.restart().await,
        }
    }

    /// Removes everything in all databases.
    pub fn flush_all(&self) {
        self.run::<()>(&["FLUSHALL"]);
    }

    /// Runs one command on a connection of its own.
    pub fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_run(command).unwrap_or_else(|error| panic!("{}: {error}", command.join(" ")))
    }

    /// The same, for commands that may fail.
    pub fn try_run<T: FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let password = self.args.iter().position(|arg| arg == "--requirepass").map(|at| &self.args[at + 1]);
        let login = password.map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}", self.port))?;
        let mut connection = client.get_connection_with_timeout(START_LIMIT)?;
        connection.set_read_timeout(Some(START_LIMIT))?;
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).query(&mut connection)
    }

    /// True when the server answers; false when its process ended instead.
    async fn try_start(&mut self) -> bool {
        self.process = Some(self.spawn());
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline {
            if self.has_ended().is_some() {
                self.process = None;
                return false;
            }
            if self.is_ready() {
                return true;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("redis-server does not answer within {START_LIMIT:?}:\n{}", self.log());
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--logfile", "redis.log"]);
        command.args(["--port", &self.port.to_string()]).arg("--dir").arg(self.dir()).args(&self.args);
        match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("redis-server is not installed; run tests/run, which installs it")
            }
            Err(error) => panic!("redis-server cannot be run: {error}"),
        }
    }

    /// Whether this very process answers: another test's server may have taken the port first.
    fn is_ready(&self) -> bool {
        let answer = self.try_run::<String>(&["INFO", "server"]).unwrap_or_default();
        let pid = format!("process_id:{}", self.process.as_ref().map_or(0, Child::id));
        answer.lines().any(|line| line == pid) && self.try_run::<String>(&["PING"]).is_ok()
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().expect("the child is ours")
    }

    fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("the server is running");
        let status = Command::new("kill").args(["-s", name, &process.id().to_string()]).status();
        assert!(status.expect("kill can be run").success(), "kill -s {name}");
    }

    fn reap(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wait().expect("the child is ours");
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("redis.log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(process) = self.process.as_mut() {
            // SIGKILL, which ends a halted process too. It may have ended by itself already.
            let _ = process.kill();
        }
        self.reap();
    }
}
