//! Real `redis-server` processes, each with a port and a directory of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::larder::signal;
use super::{PATIENCE, eventually};

/// A running (or just killed) server.
pub struct RedisServer {
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    pub fn start() -> RedisServer {
        let dir = tempfile::tempdir().unwrap();
        let (port, child) = (free_port(), None);
        let mut server = RedisServer { port, dir, child };
        while !server.try_start() {
            // Someone took the port meanwhile.
            server.port = free_port();
        }
        server
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The same port and directory: with the snapshot, if one was saved.
    pub fn restart(&mut self) {
        self.kill();
        eventually("redis-server has its port again", || self.try_start());
    }

    /// The same port, nothing remembered.
    pub fn restart_empty(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.dir.path().join("dump.rdb"));
        self.restart();
    }

    /// Writes the snapshot.
    pub fn save(&self) {
        assert_eq!(self.command(&["SAVE"]), "OK");
    }

    /// The server hangs: its connections stay open and nothing is answered.
    pub fn pause(&self) {
        signal(self.id(), "STOP");
    }

    pub fn resume(&self) {
        signal(self.id(), "CONT");
    }

    /// Sends one command and gives the reply as text, elements of arrays in lines.
    pub fn command(&self, words: &[&str]) -> String {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(request.as_bytes())?;
        read_reply(&mut BufReader::new(stream))
    }

    fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Whether it answers now; it has ended if it does not, since another process has its port.
    fn try_start(&mut self) -> bool {
        let child = self.child.insert(spawn(self.port, &self.dir));
        let mut ended = false;
        let process = child.id().to_string();
        eventually("redis-server answers or ends", || {
            ended = self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
            let info = self.try_command(&["INFO", "server"]).unwrap_or_default();
            // Another test's server may answer at this port.
            ended || info.contains(&format!("process_id:{process}\r"))
        });
        !ended
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(port: u16, dir: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--dir", &dir.path().display().to_string()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}; run tests/run, which installs it"))
}

fn read_reply(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let count: i64 = rest.parse().unwrap_or(-1);
    match kind {
        "$" if count >= 0 => {
            let mut bytes = vec![0; count as usize + 2];
            reader.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes[..count as usize]).into_owned())
        }
        "*" => Ok((0..count).map(|_| read_reply(reader)).collect::<Result<Vec<_>, _>>()?.join("\n")),
        "$" => Ok(String::new()),
        _ => Ok(rest.to_owned()),
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
    redis.pause();
    redis.resume();
    redis.restart_empty();
    assert_eq!(redis.command(&["DBSIZE"]), "0");
}
