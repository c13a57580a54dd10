//! Readers and writers on versioned registers, through several proxies, while something happens. A read must bring what had
//! been acknowledged before it began, or something newer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

use super::client::Call;
use super::larder::Larder;
use super::upstream::{Reply, Upstream};

const REGISTERS: usize = 12;

/// Rules under which registers are cached and invalidated by writes.
pub const RULES: &str = r#"
[[family]]
name = "register"
path = '/r/(?<k>\d+)'
ttl = "1h"

[invalidate]
'/r/(?<k>\d+)' = ["register:{k}"]
"#;

struct Register {
    /// As upstream has it.
    version: AtomicU64,
    /// The highest that was acknowledged to a writer.
    acknowledged: AtomicU64,
}

/// A load that runs. Ended by [`Load::end`].
pub struct Load {
    over: Arc<AtomicBool>,
    readers: Vec<JoinHandle<Tally>>,
    writers: Vec<JoinHandle<u64>>,
    /// Reads that came from the cache, and writes that were acknowledged, so far.
    progress: Arc<Progress>,
}

#[derive(Default)]
struct Progress {
    hits: AtomicU64,
    writes: AtomicU64,
}

/// The results of a load.
#[derive(Debug, Default)]
pub struct Tally {
    pub reads: u64,
    pub hits: u64,
    pub acknowledged: u64,
    /// Each with what it should have been.
    pub stale: Vec<String>,
}

impl Load {
    /// Three readers and a writer on each of the proxies.
    pub fn start(upstream: &Upstream, proxies: &[&Larder]) -> Load {
        let register = || Register { version: AtomicU64::new(0), acknowledged: AtomicU64::new(0) };
        let registers: Arc<Vec<Register>> = Arc::new((0..REGISTERS).map(|_| register()).collect());
        for number in 0..REGISTERS {
            let (get, put) = (Arc::clone(&registers), Arc::clone(&registers));
            upstream.answer(&format!("GET /r/{number}"), move |_| {
                Reply::new(get[number].version.load(SeqCst).to_string())
            });
            upstream.answer(&format!("PUT /r/{number}"), move |_| {
                Reply::new((put[number].version.fetch_add(1, SeqCst) + 1).to_string())
            });
        }
        let (over, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(Progress::default()));
        let client = |larder: &Larder| Client {
            to: larder.address,
            registers: Arc::clone(&registers),
            over: Arc::clone(&over),
            progress: Arc::clone(&progress),
        };
        let readers = proxies.iter().flat_map(|proxy| (0..3).map(|_| client(proxy)));
        let readers = readers.map(|client| thread::spawn(move || client.read_on())).collect();
        let writers = proxies.iter().map(|proxy| client(proxy));
        let writers = writers.map(|client| thread::spawn(move || client.write_on())).collect();
        Load { over, readers, writers, progress }
    }

    /// Waits until so many more hits and acknowledged writes were seen.
    #[track_caller]
    pub fn go_on(&self, hits: u64, writes: u64) {
        let read = |counter: &AtomicU64| counter.load(SeqCst);
        let (hits, writes) = (read(&self.progress.hits) + hits, read(&self.progress.writes) + writes);
        super::eventually("there are hits and writes", || {
            read(&self.progress.hits) >= hits && read(&self.progress.writes) >= writes
        });
    }

    /// Ends it.
    pub fn end(mut self) -> Tally {
        self.over.store(true, SeqCst);
        let mut tally = Tally::default();
        for reader in std::mem::take(&mut self.readers) {
            let part = reader.join().unwrap();
            tally.reads += part.reads;
            tally.hits += part.hits;
            tally.stale.extend(part.stale);
        }
        tally.acknowledged =
            std::mem::take(&mut self.writers).into_iter().map(|writer| writer.join().unwrap()).sum();
        tally
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, SeqCst);
    }
}

struct Client {
    to: SocketAddr,
    registers: Arc<Vec<Register>>,
    over: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl Client {
    fn read_on(self) -> Tally {
        let mut tally = Tally::default();
        let mut number = 0;
        for step in 0.. {
            if self.over.load(SeqCst) {
                break;
            }
            // Each a few times, so that there is something to be served from the cache.
            if step % 4 == 0 {
                number = rand::random_range(0..REGISTERS);
            }
            let acknowledged = self.registers[number].acknowledged.load(SeqCst);
            let target = format!("/r/{number}");
            let Ok(response) = Call::new(self.to, "GET", &target).try_send() else { continue };
            let Ok(version) = response.text().parse::<u64>() else { continue };
            tally.reads += 1;
            if response.is("hit") {
                tally.hits += 1;
                self.progress.hits.fetch_add(1, SeqCst);
            }
            if version < acknowledged {
                tally.stale.push(format!("{target} is {version}, {acknowledged} was acknowledged: {response:?}"));
            }
        }
        tally
    }

    fn write_on(self) -> u64 {
        let mut acknowledged = 0;
        while !self.over.load(SeqCst) {
            let number = rand::random_range(0..REGISTERS);
            let written = Call::new(self.to, "PUT", &format!("/r/{number}")).body("").try_send();
            let Ok(response) = written else { continue };
            if let (200, Ok(version)) = (response.status, response.text().parse()) {
                self.registers[number].acknowledged.fetch_max(version, SeqCst);
                self.progress.writes.fetch_add(1, SeqCst);
                acknowledged += 1;
            }
        }
        acknowledged
    }
}

#[test]
fn proxies_that_know_nothing_of_one_another_are_found_out() {
    let upstream = Upstream::start();
    let plan = super::Plan::new(&upstream.url()).rules(RULES);
    let proxies = [plan.start(), plan.start()];
    let load = Load::start(&upstream, &[&proxies[0], &proxies[1]]);
    load.go_on(100, 50);
    let tally = load.end();
    assert!(!tally.stale.is_empty(), "{tally:?}");
}
