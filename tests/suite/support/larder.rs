//! The binary as a process.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::client::{Call, Pending, Response, send_raw};
use super::{PATIENCE, eventually, eventually_some, pause_at_random};

/// The time that a process has run on all cores (`utime` and `stime` of proc_pid_stat(5)), to a hundredth of a second.
#[allow(dead_code, reason = "the attacks use it")]
pub fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name, in parentheses, may have blanks in it.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// How to start `larder serve`.
#[derive(Clone, Default)]
pub struct Plan {
    rules: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Soft and hard limit.
    descriptors: Option<(u64, u64)>,
    log_is_unread: bool,
}

/// A running `larder serve`.
pub struct Larder {
    /// Where it serves.
    pub address: SocketAddr,
    /// Where its admin listens.
    pub admin: SocketAddr,
    /// The directory with its `rules.toml`.
    pub dir: TempDir,
    child: Child,
    log: Arc<Mutex<String>>,
    /// What it writes to standard output.
    output: Mutex<Receiver<String>>,
    /// The pipe that it logs to, while the test does not read it.
    #[allow(dead_code, reason = "the attacks use it")]
    unread: Option<ChildStderr>,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Plan {
    /// Serves what this upstream answers.
    pub fn new(upstream: &str) -> Plan {
        Plan::default().argument("--upstream", upstream)
    }

    /// The text of `rules.toml`; without it there is no file at all. With a Redis, `[store] timeout`,
    /// `connect_timeout` and `lease` are as long as a test waits for anything, unless the text has them: on a busy machine Redis must not seem
    /// to be away, nor a lease to be lost.
    pub fn rules(mut self, rules: &str) -> Plan {
        self.rules = Some(rules.to_owned());
        self
    }

    pub fn redis(self, url: &str) -> Plan {
        self.argument("--redis", url)
    }

    pub fn argument(mut self, flag: &str, value: &str) -> Plan {
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Plan {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The process may have so many descriptors open: the soft limit and the hard one.
    #[allow(dead_code, reason = "the attacks use it")]
    pub fn descriptors(mut self, soft: u64, hard: u64) -> Plan {
        self.descriptors = Some((soft, hard));
        self
    }

    /// Its log is not read until [`Larder::read_log`].
    #[allow(dead_code, reason = "the attacks use it")]
    pub fn log_is_unread(mut self) -> Plan {
        self.log_is_unread = true;
        self
    }

    /// Starts it and waits until it accepts.
    #[track_caller]
    pub fn start(&self) -> Larder {
        let dir = self.directory();
        let mut child = self.spawn(&dir);
        let stderr = child.stderr.take().unwrap();
        let (log, unread) = match self.log_is_unread {
            true => (Arc::default(), Some(stderr)),
            false => (collect(stderr), None),
        };
        let lines = lines(child.stdout.take().unwrap());
        let Some((address, admin)) = addresses(&lines) else {
            let _ = child.kill();
            panic!("larder did not say where it listens; its log:\n{}", log.lock().unwrap());
        };
        pause_at_random();
        Larder { address, admin, dir, child, log, output: Mutex::new(lines), unread }
    }

    /// Starts it and waits until it exits by itself.
    #[track_caller]
    pub fn fail(&self) -> Exit {
        let dir = self.directory();
        end(self.spawn(&dir))
    }

    fn directory(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        if let Some(rules) = &self.rules {
            let redis = self.arguments.iter().any(|argument| argument == "--redis");
            let rules = if redis { patient(rules) } else { rules.clone() };
            std::fs::write(dir.path().join("rules.toml"), rules).unwrap();
        }
        dir
    }

    fn spawn(&self, dir: &TempDir) -> Child {
        let mut command = match self.descriptors {
            Some((soft, hard)) => {
                let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$@\"");
                let mut shell = prepared("/bin/sh", dir);
                shell.args(["-c", &script, "sh"]).arg(binary());
                shell
            }
            None => command(dir),
        };
        command.arg("serve");
        if self.rules.is_some() {
            command.args(["--rules", "rules.toml"]);
        }
        for flag in ["--listen", "--admin"] {
            if !self.arguments.iter().any(|known| known == flag) {
                command.args([flag, "127.0.0.1:0"]);
            }
        }
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command.spawn().unwrap()
    }
}

fn patient(rules: &str) -> String {
    if store_says(rules, "timeout") {
        return rules.to_owned();
    }
    let missing = ["timeout", "connect_timeout", "lease"].into_iter().filter(|name| !store_says(rules, name));
    in_store(rules, &missing.map(|name| format!("{name} = \"5s\"\n")).collect::<String>())
}

/// Whether `[store]` states this.
pub fn store_says(rules: &str, name: &str) -> bool {
    let table = rules.split_once("[store]\n").and_then(|(_, table)| table.split("\n[").next());
    table.is_some_and(|table| {
        table.lines().any(|line| line.split('=').next().is_some_and(|key| key.trim() == name))
    })
}

/// With a line in `[store]`.
fn in_store(rules: &str, line: &str) -> String {
    const TABLE: &str = "[store]\n";
    match rules.split_once(TABLE) {
        Some((before, table)) => [before, TABLE, line, table].concat(),
        None => [rules, "\n", TABLE, line].concat(),
    }
}

/// Runs `larder` with these arguments, `rules.toml` being in its directory, to its end.
#[track_caller]
pub fn larder(rules: Option<&str>, arguments: &[&str]) -> Exit {
    let dir = Plan { rules: rules.map(str::to_owned), ..Plan::default() }.directory();
    end(command(&dir).args(arguments).spawn().unwrap())
}

fn command(dir: &TempDir) -> Command {
    prepared(binary(), dir)
}

/// LARDER_TEST_BINARY names another binary than that which was built with the tests, by its absolute path.
pub fn binary() -> OsString {
    std::env::var_os("LARDER_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_larder").into())
}

/// A program, undisturbed by the environment in which the tests run.
fn prepared(program: impl AsRef<OsStr>, dir: &TempDir) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn end(mut child: Child) -> Exit {
    let (stdout, stderr) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let code = wait(&mut child);
    // The pipes end with the process; what is still in them comes at once.
    let text = |collected: Arc<Mutex<String>>| {
        eventually_some("the output is read", || (Arc::strong_count(&collected) == 1).then_some(()));
        collected.lock().unwrap().clone()
    };
    let exit = Exit { code, stdout: text(stdout), stderr: text(stderr) };
    assert!(!exit.stderr.contains("panicked at"), "{exit:?}");
    exit
}

#[track_caller]
fn wait(child: &mut Child) -> Option<i32> {
    eventually_some("the process ends", || child.try_wait().unwrap()).code()
}

/// Reads to the end in a thread of its own; what came so far can be looked at.
fn collect(from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let target = Arc::clone(&text);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            target.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    text
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    // Reads on when the test has ended: a full pipe would stop the process.
    thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).for_each(|line| {
            let _ = sender.send(line);
        });
    });
    receiver
}

/// `larder is listening on 127.0.0.1:41234, admin on 127.0.0.1:41235`
fn addresses(lines: &Receiver<String>) -> Option<(SocketAddr, SocketAddr)> {
    while let Ok(line) = lines.recv_timeout(PATIENCE) {
        if let Some(rest) = line.strip_prefix("larder is listening on ") {
            let (address, admin) = rest.split_once(", admin on ")?;
            return Some((address.parse().ok()?, admin.trim().parse().ok()?));
        }
    }
    None
}

/// Sends a signal by name to one process.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {process}");
}

impl Larder {
    pub fn call(&self, method: &str, target: &str) -> Call {
        Call::new(self.address, method, target)
    }

    /// Sends exactly these bytes.
    #[track_caller]
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> Pending {
        send_raw(self.address, bytes.as_ref(), false).unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.call("GET", target).send()
    }

    /// A write without much of a body.
    #[track_caller]
    pub fn write(&self, method: &str, target: &str) -> Response {
        self.call(method, target).body("{}").send()
    }

    pub fn admin_call(&self, method: &str, target: &str) -> Call {
        Call::new(self.admin, method, target)
    }

    /// A POST with this JSON to the admin.
    #[track_caller]
    pub fn admin_json(&self, target: &str, content: &serde_json::Value) -> Response {
        let call = self.admin_call("POST", target).header("Content-Type", "application/json");
        call.body(content.to_string()).send()
    }

    #[track_caller]
    pub fn admin_get(&self, target: &str) -> Response {
        self.admin_call("GET", target).send()
    }

    #[track_caller]
    pub fn admin_post(&self, target: &str) -> Response {
        self.admin_call("POST", target).body("").send()
    }

    /// Its `rules.toml`.
    pub fn rules_file(&self) -> PathBuf {
        self.dir.path().join("rules.toml")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The next line on standard output.
    #[allow(dead_code, reason = "the attacks use no output")]
    #[track_caller]
    pub fn next_output(&self) -> String {
        self.output.lock().unwrap().recv_timeout(PATIENCE).expect("there is another line")
    }

    /// Begins to read what it logs.
    #[allow(dead_code, reason = "the attacks use it")]
    pub fn read_log(&mut self) {
        self.log = collect(self.unread.take().unwrap());
    }

    /// The most memory that the process ever had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The memory that the process has now, in bytes.
    #[allow(dead_code, reason = "the attacks use it")]
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The time that the process has run on all cores.
    #[allow(dead_code, reason = "the attacks use it")]
    pub fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }

    /// What a metric says, by its name with labels: `larder_refused_total{…}`. 0 if there is none.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.admin_get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until so many requests wait for the fetch of another one.
    #[track_caller]
    pub fn wait_for_followers(&self, count: u64) {
        eventually("the followers wait", || self.metric("larder_coalesced_waiting") == count);
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        signal(self.id(), "TERM");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; gives the exit code.
    #[track_caller]
    pub fn wait(&mut self) -> Option<i32> {
        wait(&mut self.child)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Larder {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if thread::panicking() {
            eprintln!("larder's log:\n{log}");
        } else {
            assert!(!log.contains("panicked at"), "larder's log:\n{log}");
        }
    }
}
