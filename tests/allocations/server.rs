//! A Larder in this process, and its upstream, whose allocations are left out.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Sender};
use std::thread;

use larder::config::{Config, Overrides};
use larder::server::{self, Listeners};
use tokio::runtime::Runtime;

use crate::allocator;

/// Bytes that upstream sends at once.
const PIECE: usize = 64 << 10;

/// Reads an answer. Returns the length of its body, and whether it is a hit. `read`: called after each piece of the body.
pub fn read_answer(answers: &mut impl BufRead, read: impl Fn()) -> (usize, bool) {
    let (mut length, mut is_hit, mut line) = (0, false, String::new());
    while line != "\r\n" {
        line.clear();
        assert!(answers.read_line(&mut line).unwrap() > 0, "the server closed the connection");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        is_hit |= line.starts_with("cache-status: larder; hit");
    }
    for begin in (0..length).step_by(PIECE) {
        answers.read_exact(&mut vec![0; PIECE.min(length - begin)]).unwrap();
        read();
    }
    (length, is_hit)
}

/// Answers one request after the other, with a response that may be stored, and has a body of so many bytes. After each piece of it but the
/// first it waits until it is told that one was read.
pub fn upstream(length: usize) -> (SocketAddr, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (read, was_read) = mpsc::channel();
    thread::spawn(move || {
        allocator::leave_out_this_thread();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut requests = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            while requests.by_ref().any(|line| line.is_empty()) {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: max-age=3600\r\nETag: \"1\"\r\n\
                     Content-Length: {length}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).unwrap();
                for begin in (0..length).step_by(PIECE) {
                    if begin > 0 {
                        was_read.recv().unwrap();
                    }
                    stream.write_all(&vec![b'x'; PIECE.min(length - begin)]).unwrap();
                }
            }
        }
    });
    (address, read)
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Starts a Larder in front of an upstream. Returns its address.
pub async fn larder(upstream: SocketAddr) -> SocketAddr {
    let rules = format!(
        "[server]\nlisten = '127.0.0.1:0'\nupstream = 'http://{upstream}'\n[admin]\nlisten = '127.0.0.1:0'\n\
         [log]\naccess = false\n[[family]]\nname = 'item'\npath = '/item/(?<id>\\d+)'\nttl = '1h'\n"
    );
    let config = Config::parse(&rules, "rules.toml", &Overrides::default(), &|_| None).unwrap();
    let listeners = Listeners::bind(&config).unwrap();
    let address = listeners.public.local_addr().unwrap();
    let running = server::assemble(config).await.unwrap();
    tokio::spawn(server::run(running, listeners, std::future::pending()));
    address
}
