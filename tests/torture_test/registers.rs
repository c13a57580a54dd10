//! The API behind the proxies: registers that hold a version. `GET /r/3` answers the version of register 3, and so does
//! `GET /v/3` and `GET /q?k=3`; `PUT /r/3` raises it, as do `PUT /by/content` with `{"k":3}` and `PUT /by/response?k=3`,
//! whose answer names the register; `GET /sum` answers all versions. `GET /check`, and `GET /a/3` likewise, are answered 204 and 200
//! if the cookies `register` and `version` say the present version, else 403. Every answer takes a random time, drawn before or
//! after the register is read, so that old answers arrive late. With [`LAG`] reads are answered from replicas that lag.

use std::collections::VecDeque;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::ledger::{Event, Ledger};
use crate::support::client::{Failure, read_exactly, read_fields, read_line};

/// Fields of the response to a write: the version that it made…
pub const VERSION: &str = "x-version";
/// …and how long upstream took for it, microseconds.
pub const TOOK: &str = "x-took";

/// What every answer says: where it comes from, which is nowhere else as long as a run lasts.
pub const UPSTREAM: &str = "x-upstream";

/// The longest that a replica lags behind, with `--rules again`.
pub const LAG: Duration = Duration::from_millis(300);

/// Upstream. A connection ends when the proxy that opened it closes it.
pub struct Registers {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    versions: Vec<Mutex<Version>>,
    /// How far reads may lag behind.
    lag: Duration,
    /// How long an answer takes at most, but for one in ten.
    usual: Duration,
    ledger: Arc<Ledger>,
    closed: AtomicBool,
}

/// Of one register.
#[derive(Default)]
struct Version {
    present: u64,
    /// When each of the latest versions was made, the present one last.
    raised: VecDeque<Instant>,
}

/// Versions of which it is known when they were made.
const KNOWN: usize = 1000;

impl Version {
    fn raise(&mut self) -> u64 {
        self.present += 1;
        self.raised.push_back(Instant::now());
        if self.raised.len() > KNOWN {
            self.raised.pop_front();
        }
        self.present
    }

    /// What it was so long ago.
    fn before(&self, lag: Duration) -> u64 {
        let later = self.raised.iter().rev().take_while(|raised| raised.elapsed() < lag).count();
        self.present - later as u64
    }
}

impl Registers {
    pub fn start(ledger: Arc<Ledger>, lag: Duration, usual: Duration, seed: u64) -> Registers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let versions = (0..ledger.len()).map(|_| Mutex::default()).collect();
        let url = format!("http://{address}");
        let shared = Arc::new(Shared { url, versions, lag, usual, ledger, closed: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting, seed));
        Registers { address, shared }
    }

    pub fn url(&self) -> String {
        self.shared.url.clone()
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
            let Ok((method, path, cookies, content)) = read_request(&mut requests) else { return Ok(()) };
            let answer = match path == "/check" || path.starts_with("/a/") {
                true => self.answer_caller(&cookies, &mut random),
                false => self.answer(&method, &path, &content, &mut random),
            };
            answers.write_all(answer.as_bytes())?;
        }
    }

    fn answer(&self, method: &str, path: &str, content: &[u8], random: &mut StdRng) -> String {
        let began = Instant::now();
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        let register = match path {
            "/by/content" => Some(digits(&String::from_utf8_lossy(content))),
            path => {
                ["/r/", "/v/", "/q?k=", "/by/response?k="].iter().find_map(|it| path.strip_prefix(it)).map(digits)
            }
        };
        let register = register.and_then(|number| number.parse().ok());
        // The path of the register is written too.
        let location = match (method, register) {
            ("PUT", Some(register)) => {
                format!("Content-Type: application/json\r\nContent-Location: /r/{register}\r\n")
            }
            _ => String::new(),
        };
        // Drawn for the whole answer: one replica.
        let lag = self.lag.mul_f64(random.random());
        let (version, body) = match (method, register) {
            ("GET", Some(register)) => (None, self.late(random, || self.version(register, lag).to_string())),
            ("GET", None) if path == "/sum" => (None, self.late(random, || self.all(lag))),
            ("PUT", Some(register)) => {
                let version = self.raise(register, random);
                // What a GET of the register would bring, where its path is the target.
                let body = match path.starts_with("/r/") {
                    true => version.to_string(),
                    false => format!("{{\"k\":{register}}}"),
                };
                (Some(version), body)
            }
            _ => panic!("a request that no client makes: {method} {path}"),
        };
        let version = version.map(|version| format!("{VERSION}: {version}\r\n")).unwrap_or_default();
        let took = began.elapsed().as_micros();
        let (length, url) = (body.len(), &self.url);
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{location}{UPSTREAM}: {url}\r\n{version}{TOOK}: {took}\r\n\r\n{body}"
        )
    }

    /// The same content for every caller whose cookies name the present version of a register.
    fn answer_caller(&self, cookies: &str, random: &mut StdRng) -> String {
        let lag = self.lag.mul_f64(random.random());
        let value = |name: &str| {
            let found = cookies.split("; ").find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            found.and_then(|value| value.parse::<u64>().ok())
        };
        let sent = value("register").zip(value("version"));
        let is_known = sent.is_some_and(|(register, version)| {
            self.late(random, || self.version(register as usize, lag) == version)
        });
        let status = if is_known { "200 OK" } else { "403 Forbidden" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n{UPSTREAM}: {}\r\n\r\nok", self.url)
    }

    fn raise(&self, register: usize, random: &mut StdRng) -> u64 {
        thread::sleep(self.delay(random));
        let version = self.versions[register].lock().unwrap().raise();
        self.ledger.note(register, Event::Raised(version));
        if random.random_bool(0.3) {
            thread::sleep(self.delay(random));
        }
        version
    }

    /// Waits before or after.
    fn late<T>(&self, random: &mut StdRng, read: impl FnOnce() -> T) -> T {
        if random.random_bool(0.5) {
            let value = read();
            thread::sleep(self.delay(random));
            return value;
        }
        thread::sleep(self.delay(random));
        read()
    }

    /// Mostly short, now and then long.
    fn delay(&self, random: &mut StdRng) -> Duration {
        let most = if random.random_bool(0.1) { self.usual * 7 } else { self.usual };
        random.random_range(Duration::ZERO..=most)
    }

    fn version(&self, register: usize, lag: Duration) -> u64 {
        self.versions[register].lock().unwrap().before(lag)
    }

    fn all(&self, lag: Duration) -> String {
        let versions: Vec<_> = (0..self.versions.len()).map(|at| self.version(at, lag).to_string()).collect();
        versions.join(",")
    }
}

/// Method, path, cookies and content.
fn read_request(requests: &mut BufReader<TcpStream>) -> Result<(String, String, String, Vec<u8>), Failure> {
    let line = read_line(requests)?;
    let fields = read_fields(requests)?;
    let length = fields.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().expect("hyper writes numbers there"));
    let content = read_exactly(requests, length).map_err(|_| Failure::NoHead)?;
    let cookies =
        fields.into_iter().find(|(name, _)| name == "cookie").map(|(_, value)| value).unwrap_or_default();
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = words.next().zip(words.next()).ok_or(Failure::NoHead)?;
    Ok((method, path, cookies, content))
}

#[test]
fn a_replica_answers_with_the_values_of_its_lag_ago() {
    let mut version = Version::default();
    assert_eq!((version.raise(), version.before(Duration::ZERO)), (1, 1));
    assert_eq!(version.before(Duration::from_secs(60)), 0);
    for _ in 0..2 * KNOWN {
        version.raise();
    }
    assert_eq!(version.before(Duration::ZERO), 2 * KNOWN as u64 + 1);
    assert_eq!(version.raised.len(), KNOWN);
}
