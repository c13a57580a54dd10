//! The network between one proxy and Redis: a TCP relay that can stall, delay, lose and cut, and that can hold commands back until
//! long after the proxy has stopped waiting for their replies.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// How often a silent connection looks whether the network has changed.
const LOOK: Duration = Duration::from_millis(10);

/// The most that is held of one connection; beyond it the proxy is not read from.
const HELD_MAX: usize = 16 << 20;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Everything arrives.
    Normal,
    /// Nothing arrives in either direction; it is kept.
    Stalled,
    /// Requests arrive, replies do not; they are kept.
    RepliesKept,
    /// Everything arrives this much later.
    Slow(Duration),
    /// Every connection is cut, and new ones too.
    Cut,
}

/// Dropped, it cuts all its connections.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    network: Network,
    /// Connections of an earlier generation are cut.
    generation: u64,
    /// The number of the next connection.
    next: u64,
    /// Connections with a lower number are not held (any more)…
    held_from: u64,
    /// …nor are those with this number or a higher one.
    held_below: u64,
    /// The proxy's side of connections with a lower number is closed.
    closed_below: u64,
    ended: bool,
}

impl State {
    fn holds(&self, connection: Connection) -> bool {
        (self.held_from..self.held_below).contains(&connection.number)
    }

    fn cuts(&self, connection: Connection) -> bool {
        self.generation != connection.generation || self.network == Network::Cut
    }
}

#[derive(Clone, Copy)]
struct Connection {
    number: u64,
    generation: u64,
}

impl Relay {
    pub fn start(to: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            network: Network::Normal,
            generation: 0,
            next: 0,
            held_from: 0,
            held_below: 0,
            closed_below: 0,
            ended: false,
        };
        let shared = Arc::new(Shared { to, state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Relay { address, shared }
    }

    /// The address that the proxy has for Redis.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Changes the network. What was kept arrives when it is normal again.
    pub fn set(&self, network: Network) {
        self.change(|state| state.network = network);
    }

    /// Cuts all connections there are, so that what was kept or held is lost.
    pub fn cut(&self) {
        self.change(|state| state.generation += 1);
    }

    /// Holds the commands of all connections there are, and of new ones: Redis gets them when they are delivered, even
    /// if the proxy has closed its side by then.
    pub fn hold(&self) {
        self.change(|state| (state.held_from, state.held_below) = (0, u64::MAX));
    }

    /// Holds no connection that is opened from now on; those that are held stay so.
    pub fn pass_new(&self) {
        self.change(|state| state.held_below = state.held_below.min(state.next));
    }

    /// Closes the proxy's side of all connections there are, as if it had given them up.
    pub fn close_clients(&self) {
        self.change(|state| state.closed_below = state.next);
    }

    /// Delivers to Redis what was held of the connections there are.
    pub fn deliver(&self) {
        self.change(|state| state.held_from = state.next);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap());
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().ended = true;
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let (connection, network, ended) = {
            let mut state = shared.state.lock().unwrap();
            state.next += 1;
            let connection = Connection { number: state.next - 1, generation: state.generation };
            (connection, state.network, state.ended)
        };
        if ended {
            return;
        }
        let Ok(stream) = stream else { continue };
        if network == Network::Cut {
            continue;
        }
        // A Redis that is down refuses; so does this, by closing.
        let Ok(onward) = TcpStream::connect(shared.to) else { continue };
        let clones = || Some((stream.try_clone().ok()?, onward.try_clone().ok()?));
        let (Some((proxy, redis)), Some((to_proxy, from_redis))) = (clones(), clones()) else { continue };
        let (commands, replies) = (Arc::clone(shared), Arc::clone(shared));
        thread::spawn(move || commands.carry_commands(&proxy, &redis, connection));
        thread::spawn(move || replies.carry_replies(&from_redis, &to_proxy, connection));
    }
}

/// The result of a read.
enum Got {
    Bytes(usize),
    Nothing,
    End,
}

fn read(mut from: &TcpStream, buffer: &mut [u8]) -> Got {
    match from.read(buffer) {
        Ok(0) => Got::End,
        Ok(length) => Got::Bytes(length),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Got::Nothing,
        Err(_) => Got::End,
    }
}

impl Shared {
    /// Carries what the proxy sends, until its side is closed and nothing is held any more.
    fn carry_commands(&self, proxy: &TcpStream, mut redis: &TcpStream, connection: Connection) {
        let mut buffer = vec![0; 64 * 1024];
        let mut held = Vec::new();
        let mut is_open = proxy.set_read_timeout(Some(LOOK)).and_then(|()| redis.set_nodelay(true)).is_ok();
        let mut was_held = false;
        while self.may_pass(connection, |network| network == Network::Stalled) {
            let (holds, closes) = {
                let state = self.state.lock().unwrap();
                (state.holds(connection), connection.number < state.closed_below)
            };
            was_held |= holds;
            if is_open && closes {
                is_open = false;
                let _ = proxy.shutdown(Shutdown::Both);
            }
            if !holds && !held.is_empty() && redis.write_all(&std::mem::take(&mut held)).is_err() {
                break;
            }
            if !is_open {
                if !holds {
                    break;
                }
                thread::sleep(LOOK);
                continue;
            }
            if held.len() >= HELD_MAX {
                thread::sleep(LOOK);
                continue;
            }
            match read(proxy, &mut buffer) {
                Got::Bytes(length) => {
                    // The network may have changed while nothing came.
                    if !self.may_pass(connection, |network| network == Network::Stalled) {
                        break;
                    }
                    self.linger();
                    held.extend_from_slice(&buffer[..length]);
                    // Held for no longer than until the next turn, unless the connection is held.
                    if !self.state.lock().unwrap().holds(connection)
                        && redis.write_all(&std::mem::take(&mut held)).is_err()
                    {
                        break;
                    }
                }
                Got::Nothing => {}
                Got::End => is_open = false,
            }
        }
        let _ = proxy.shutdown(Shutdown::Both);
        // Of one that was held, Redis is to execute everything before it sees the end; the replies are taken by
        // `carry_replies`, since unread ones would reset the connection.
        let is_cut = self.state.lock().unwrap().cuts(connection);
        let _ = redis.shutdown(if was_held && !is_cut { Shutdown::Write } else { Shutdown::Both });
    }

    /// Carries what Redis answers; once the proxy has closed its side it is thrown away.
    fn carry_replies(&self, redis: &TcpStream, mut proxy: &TcpStream, connection: Connection) {
        let mut buffer = vec![0; 64 * 1024];
        let prepared = redis.set_read_timeout(Some(LOOK)).and_then(|()| proxy.set_nodelay(true));
        let keeps = |network| matches!(network, Network::Stalled | Network::RepliesKept);
        while prepared.is_ok() && self.may_pass(connection, keeps) {
            match read(redis, &mut buffer) {
                Got::Bytes(length) => {
                    if !self.may_pass(connection, keeps) {
                        break;
                    }
                    self.linger();
                    // The other direction notices that the proxy is gone.
                    let _ = proxy.write_all(&buffer[..length]);
                }
                Got::Nothing => {}
                Got::End => break,
            }
        }
        let _ = redis.shutdown(Shutdown::Both);
        let _ = proxy.shutdown(Shutdown::Both);
    }

    /// Waits while the network keeps this direction back; false once the connection is cut.
    fn may_pass(&self, connection: Connection, keeps: impl Fn(Network) -> bool) -> bool {
        let state = self.state.lock().unwrap();
        let kept = |state: &mut State| keeps(state.network) && state.generation == connection.generation;
        let state = self.changed.wait_while(state, kept).unwrap();
        !state.cuts(connection)
    }

    fn linger(&self) {
        let network = self.state.lock().unwrap().network;
        if let Network::Slow(by) = network {
            thread::sleep(by);
        }
    }
}

#[test]
fn stalled_bytes_arrive_when_the_network_recovers_and_are_lost_when_it_is_cut() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(echo.local_addr().unwrap());
    let mut near = TcpStream::connect(relay.address).unwrap();
    let (mut far, _) = echo.accept().unwrap();
    let pass = |from: &mut TcpStream, to: &mut TcpStream, byte: u8| {
        from.write_all(&[byte]).unwrap();
        let mut arrived = [0];
        to.read_exact(&mut arrived).map(|()| arrived[0])
    };
    assert_eq!(pass(&mut near, &mut far, 1).unwrap(), 1);
    relay.set(Network::RepliesKept);
    assert_eq!(pass(&mut near, &mut far, 2).unwrap(), 2, "requests still arrive");
    near.set_read_timeout(Some(LOOK * 3)).unwrap();
    assert!(pass(&mut far, &mut near, 3).is_err(), "replies are kept");
    near.set_read_timeout(None).unwrap();
    relay.set(Network::Normal);
    let mut arrived = [0];
    near.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, [3]);
    relay.cut();
    assert_eq!(near.read(&mut arrived).unwrap_or(0), 0);
}

#[test]
fn held_commands_arrive_after_the_proxy_has_closed_and_reconnected() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::start(server.local_addr().unwrap());
    let mut early = TcpStream::connect(relay.address).unwrap();
    let (mut early_at_server, _) = server.accept().unwrap();
    early.write_all(b"1").unwrap();
    let mut arrived = [0];
    early_at_server.read_exact(&mut arrived).unwrap();
    relay.hold();
    early.write_all(b"2").unwrap();
    early_at_server.set_read_timeout(Some(LOOK * 5)).unwrap();
    assert!(early_at_server.read_exact(&mut arrived).is_err(), "it is held");
    drop(early);
    relay.pass_new();
    let mut late = TcpStream::connect(relay.address).unwrap();
    let (mut late_at_server, _) = server.accept().unwrap();
    late.write_all(b"3").unwrap();
    late_at_server.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, *b"3", "new connections pass");
    assert!(early_at_server.read_exact(&mut arrived).is_err(), "it is held still");
    relay.deliver();
    early_at_server.set_read_timeout(None).unwrap();
    let mut rest = Vec::new();
    early_at_server.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"2", "and then the end");
    relay.close_clients();
    assert_eq!(late.read(&mut arrived).unwrap(), 0, "the proxy's side is closed");
}
