//! What everybody in a run shares: the server and its clock, chance, the trace, what was counted, and what was found
//! wrong. One seed makes one world; nothing in it depends on anything else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::server::{Caller, Flaw, Server};
use super::store::Link;

/// The server's clock at the beginning, microseconds.
const BEGINNING: i64 = 1_700_000_000_000_000;

pub struct World {
    server: Mutex<Server>,
    chance: Mutex<StdRng>,
    start: Instant,
    /// How far the server's clock was set forward, microseconds.
    ahead: AtomicI64,
    /// The furthest that it ever was.
    furthest: AtomicI64,
    links: Mutex<Vec<Weak<Link>>>,
    trace: Option<Mutex<Vec<String>>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    wrong: Mutex<Vec<String>>,
    ids: AtomicU64,
}

impl World {
    pub fn new(seed: u64, flaw: Option<Flaw>, traced: bool) -> Arc<World> {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut server = Server::new(chance.random(), 1);
        server.flaw = flaw;
        Arc::new(World {
            server: Mutex::new(server),
            chance: Mutex::new(chance),
            start: Instant::now(),
            ahead: AtomicI64::new(0),
            furthest: AtomicI64::new(0),
            links: Mutex::default(),
            trace: traced.then(Mutex::default),
            counts: Mutex::default(),
            wrong: Mutex::default(),
            ids: AtomicU64::new(0),
        })
    }

    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    /// Chance; the only one there is.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.chance.lock().unwrap())
    }

    pub fn happens(&self, probability: f64) -> bool {
        probability > 0.0 && self.draw(|chance| chance.random_bool(probability))
    }

    /// Chance of somebody's own, so that it does not matter who comes first of those who come at the same time.
    pub fn own_chance(&self) -> StdRng {
        self.draw(|chance| StdRng::seed_from_u64(chance.random()))
    }

    /// Between these, whole milliseconds.
    pub fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.draw(|chance| chance.random_range(least..=most)))
    }

    pub fn pick<'t, T>(&self, from: &'t [T]) -> &'t T {
        &from[self.draw(|chance| chance.random_range(0..from.len()))]
    }

    /// A number that no other call gets.
    pub fn number(&self) -> u64 {
        self.ids.fetch_add(1, SeqCst)
    }

    /// Of the server's clock, microseconds.
    pub fn clock(&self) -> u64 {
        let passed = self.start.elapsed().as_micros() as i64;
        (BEGINNING + passed + self.ahead.load(SeqCst)) as u64
    }

    /// Sets the server's clock forward, or back.
    pub fn set_clock(&self, by: i64) {
        let ahead = self.ahead.fetch_add(by, SeqCst) + by;
        self.furthest.fetch_max(ahead, SeqCst);
    }

    /// Sets it to the furthest that it ever was, so that every deadline passes in its time.
    pub fn mend_clock(&self) {
        self.ahead.store(self.furthest.load(SeqCst), SeqCst);
    }

    pub fn caller(&self, run: u64) -> Caller {
        Caller { run, candidate: self.draw(|chance| chance.random_range(1..=u64::MAX)), now: self.clock() }
    }

    pub fn join(&self, link: &Arc<Link>) {
        let mut links = self.links.lock().unwrap();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    pub fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().unwrap().iter().filter_map(Weak::upgrade).collect()
    }

    /// Has everything that was published sent to everybody.
    pub fn pass_on(&self) {
        let published = std::mem::take(&mut self.server().published);
        if published.is_empty() {
            return;
        }
        for link in self.links() {
            published.iter().for_each(|message| link.hear(message));
        }
    }

    pub fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let at = self.start.elapsed().as_millis();
            trace.lock().unwrap().push(format!("{at:>7} {}", line()));
        }
    }

    pub fn trace(&self) -> Vec<String> {
        self.trace.as_ref().map(|trace| trace.lock().unwrap().clone()).unwrap_or_default()
    }

    pub fn count(&self, what: &'static str) {
        self.count_many(what, 1);
    }

    pub fn count_many(&self, what: &'static str, many: u64) {
        *self.counts.lock().unwrap().entry(what).or_default() += many;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap().clone()
    }

    /// Something that must not be.
    pub fn accuse(&self, what: String) {
        self.tell(|| format!("WRONG: {what}"));
        self.wrong.lock().unwrap().push(what);
    }

    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }
}
