//! The network between one proxy and Redis: a TCP relay that can stall, delay, lose and cut.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// How often a silent connection looks whether the weather has changed.
const LOOK: Duration = Duration::from_millis(10);

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Nothing arrives in either direction; it is kept.
    Stalled,
    /// Requests arrive, replies do not; they are kept.
    Deaf,
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
    weather: Weather,
    /// Connections of an earlier generation are cut.
    generation: u64,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToRedis,
    FromRedis,
}

impl Relay {
    pub fn start(to: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { weather: Weather::Clear, generation: 0, closed: false };
        let shared = Arc::new(Shared { to, state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Relay { address, shared }
    }

    /// What the proxy takes for Redis.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Changes the weather. What was kept arrives when it clears.
    pub fn set(&self, weather: Weather) {
        let mut state = self.shared.state.lock().unwrap();
        state.weather = weather;
        self.shared.changed.notify_all();
    }

    /// Cuts all connections there are, so that what was kept is lost.
    pub fn cut(&self) {
        let mut state = self.shared.state.lock().unwrap();
        state.generation += 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().closed = true;
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let (generation, weather, closed) = {
            let state = shared.state.lock().unwrap();
            (state.generation, state.weather, state.closed)
        };
        if closed {
            return;
        }
        let Ok(stream) = stream else { continue };
        if weather == Weather::Cut {
            continue;
        }
        // A Redis that is down refuses; so does this, by closing.
        let Ok(onward) = TcpStream::connect(shared.to) else { continue };
        for (from, to, direction) in
            [(&stream, &onward, Direction::ToRedis), (&onward, &stream, Direction::FromRedis)]
        {
            let (Ok(from), Ok(to), shared) = (from.try_clone(), to.try_clone(), Arc::clone(shared)) else { break };
            thread::spawn(move || shared.carry(&from, &to, direction, generation));
        }
    }
}

impl Shared {
    fn carry(&self, from: &TcpStream, to: &TcpStream, direction: Direction, generation: u64) {
        let mut buffer = vec![0; 64 * 1024];
        let prepared = from.set_read_timeout(Some(LOOK)).and_then(|()| to.set_nodelay(true));
        while prepared.is_ok() && self.may_pass(direction, generation) {
            let length = match (&mut &*from).read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            // The weather may have changed while nothing came.
            if !self.may_pass(direction, generation) {
                break;
            }
            self.linger();
            if (&mut &*to).write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Waits while the weather keeps things back; false once the connection is cut.
    fn may_pass(&self, direction: Direction, generation: u64) -> bool {
        let state = self.state.lock().unwrap();
        let kept = |state: &mut State| {
            let held = match state.weather {
                Weather::Stalled => true,
                Weather::Deaf => direction == Direction::FromRedis,
                Weather::Clear | Weather::Slow(_) | Weather::Cut => false,
            };
            held && state.generation == generation
        };
        let state = self.changed.wait_while(state, kept).unwrap();
        state.generation == generation && state.weather != Weather::Cut
    }

    fn linger(&self) {
        let weather = self.state.lock().unwrap().weather;
        if let Weather::Slow(by) = weather {
            thread::sleep(by);
        }
    }
}

#[test]
fn what_was_kept_arrives_when_it_clears_and_is_lost_when_the_connection_is_cut() {
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
    relay.set(Weather::Deaf);
    assert_eq!(pass(&mut near, &mut far, 2).unwrap(), 2, "requests still arrive");
    near.set_read_timeout(Some(LOOK * 3)).unwrap();
    assert!(pass(&mut far, &mut near, 3).is_err(), "replies are kept");
    near.set_read_timeout(None).unwrap();
    relay.set(Weather::Clear);
    let mut arrived = [0];
    near.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, [3]);
    relay.cut();
    assert_eq!(near.read(&mut arrived).unwrap_or(0), 0);
}
