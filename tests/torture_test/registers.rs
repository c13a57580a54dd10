//! The API behind the proxies: registers that hold a version. `GET /r/3` answers the version of register 3, `PUT /r/3`
//! raises it, `GET /sum` answers all versions. Every answer takes a random time, drawn before or after the register is
//! read, so that old answers arrive late.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::ledger::{Event, Ledger};
use crate::support::client::{Failure, read_exactly, read_fields, read_line};

/// What the answer to a write says of itself, in its head: the version that it made…
pub const VERSION: &str = "x-version";
/// …and how long upstream took for it, microseconds.
pub const TOOK: &str = "x-took";

/// Upstream. Its connections end with those who opened them.
pub struct Registers {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    versions: Vec<AtomicU64>,
    ledger: Arc<Ledger>,
    closed: AtomicBool,
}

impl Registers {
    pub fn start(ledger: Arc<Ledger>, seed: u64) -> Registers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let versions = (0..ledger.len()).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { versions, ledger, closed: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting, seed));
        Registers { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, seed: u64) {
    for (number, stream) in listener.incoming().enumerate() {
        if shared.closed.load(SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        let random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
        // A proxy that is killed, or gives up waiting, cuts its connections: nothing to report.
        thread::spawn(move || shared.serve(stream, random).ok());
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream, mut random: StdRng) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut requests = BufReader::new(stream.try_clone()?);
        let mut answers = stream;
        loop {
            let Ok((method, path)) = read_request(&mut requests) else { return Ok(()) };
            answers.write_all(self.answer(&method, &path, &mut random).as_bytes())?;
        }
    }

    fn answer(&self, method: &str, path: &str, random: &mut StdRng) -> String {
        let began = Instant::now();
        let register = path.strip_prefix("/r/").and_then(|number| number.parse().ok());
        let (version, body) = match (method, register) {
            ("GET", Some(register)) => (None, late(random, || self.version(register).to_string())),
            ("GET", None) if path == "/sum" => (None, late(random, || self.all())),
            ("PUT", Some(register)) => {
                let version = self.raise(register, random);
                (Some(version), version.to_string())
            }
            _ => panic!("a request that no client makes: {method} {path}"),
        };
        let version = version.map(|version| format!("{VERSION}: {version}\r\n")).unwrap_or_default();
        let took = began.elapsed().as_micros();
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{version}{TOOK}: {took}\r\n\r\n{body}")
    }

    fn raise(&self, register: usize, random: &mut StdRng) -> u64 {
        thread::sleep(delay(random));
        let version = self.versions[register].fetch_add(1, SeqCst) + 1;
        self.ledger.note(register, Event::Raised(version));
        if random.random_bool(0.3) {
            thread::sleep(delay(random));
        }
        version
    }

    fn version(&self, register: usize) -> u64 {
        self.versions[register].load(SeqCst)
    }

    fn all(&self) -> String {
        let versions: Vec<_> = (0..self.versions.len()).map(|at| self.version(at).to_string()).collect();
        versions.join(",")
    }
}

/// Waits before or after.
fn late<T>(random: &mut StdRng, read: impl FnOnce() -> T) -> T {
    if random.random_bool(0.5) {
        let value = read();
        thread::sleep(delay(random));
        return value;
    }
    thread::sleep(delay(random));
    read()
}

/// Mostly short, now and then long.
fn delay(random: &mut StdRng) -> Duration {
    let most = if random.random_bool(0.1) { 80_000 } else { 12_000 };
    Duration::from_micros(random.random_range(0..most))
}

fn read_request(requests: &mut BufReader<TcpStream>) -> Result<(String, String), Failure> {
    let line = read_line(requests)?;
    let fields = read_fields(requests)?;
    let length = fields.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().expect("hyper writes numbers there"));
    read_exactly(requests, length).map_err(|_| Failure::NoHead)?;
    let mut words = line.split(' ').map(str::to_owned);
    words.next().zip(words.next()).ok_or(Failure::NoHead)
}
