//! Attackers: raw connections from an address of their own.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::support::PATIENCE;

/// The address that attacks come from.
pub const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

/// Connects from an address of the loopback network. `None` if the connection is refused, reset or not accepted.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Some(stream)
}

/// Connects as the attacker.
pub fn connect(to: SocketAddr) -> Option<TcpStream> {
    connect_from(ATTACKER, to)
}

/// Opens up to `count` connections as the attacker and sends these bytes on each. Gives those that are open.
pub fn open(count: usize, to: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    (0..count)
        .filter_map(|_| {
            let mut stream = connect(to)?;
            stream.write_all(bytes).ok()?;
            Some(stream)
        })
        .collect()
}

/// Everything that comes on a connection until it ends or nothing comes for a while.
pub fn rest(stream: &mut TcpStream) -> String {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count) = stream.read(&mut piece)
        && count > 0
    {
        all.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Whether a connection has ended; what comes on it is thrown away.
pub fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let ended = loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    ended
}

/// Does something again and again in threads, until dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// `round` is called again and again in each of so many threads.
    pub fn start(threads: usize, round: impl Fn() + Send + Clone + 'static) -> Flood {
        let (stop, rounds): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let threads = (0..threads)
            .map(|_| {
                let (stop, rounds, round) = (Arc::clone(&stop), Arc::clone(&rounds), round.clone());
                thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        round();
                        rounds.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        Flood { stop, rounds, threads }
    }

    /// Rounds so far.
    pub fn rounds(&self) -> usize {
        self.rounds.load(SeqCst)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
