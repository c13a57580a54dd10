//! What all of a run shares: the server and its clock, random generators, the trace, counts, and violations that were found.
//! One seed makes one world, and nothing in it depends on anything else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::aside::Aside;
use super::server::{Flaw, Memory, Server};
use super::store::{Conduct, Link};

/// The server's clock at the beginning, microseconds.
const BEGINNING: i64 = 1_700_000_000_000_000;

pub struct World {
    server: Mutex<Server>,
    /// The former primary. Some proxies still reach it, and it does not know that it was deposed.
    deposed: Mutex<Option<Server>>,
    /// The run of the server that the other replica follows, if it follows any.
    followed: Mutex<Option<u64>>,
    /// Whether the store waits for that replica (`wait_replicas`).
    waits: AtomicBool,
    pub aside: Mutex<Aside>,
    /// When the invalidations of writes were carried out, by intent.
    invalidated: Mutex<BTreeMap<Box<str>, Carried>>,
    chance: Mutex<StdRng>,
    start: Instant,
    /// How far the server's clock was set forward, microseconds.
    ahead: AtomicI64,
    /// The furthest that it ever was.
    furthest: AtomicI64,
    /// How far it was set back, all in all.
    set_back: AtomicI64,
    /// It may be set back yet.
    clock_goes_back: AtomicBool,
    links: Mutex<Vec<Weak<Link>>>,
    /// How new links behave: outages for all proxies concern them too.
    conduct: Mutex<Conduct>,
    trace: Option<Mutex<Vec<String>>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    wrong: Mutex<Vec<String>>,
    ids: AtomicU64,
}

/// When something was carried out.
#[derive(Debug, Clone, Copy)]
pub struct Carried {
    pub at: Instant,
    /// How far the server's clock had been set back by then, microseconds.
    set_back: i64,
}

impl World {
    pub fn new(seed: u64, flaw: Option<Flaw>, traced: bool) -> Arc<World> {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut server = Server::new(chance.random(), 1);
        server.flaw = flaw;
        Arc::new(World {
            followed: Mutex::new(Some(server.run)),
            server: Mutex::new(server),
            deposed: Mutex::default(),
            waits: AtomicBool::new(false),
            aside: Mutex::default(),
            invalidated: Mutex::default(),
            chance: Mutex::new(chance),
            start: Instant::now(),
            ahead: AtomicI64::new(0),
            furthest: AtomicI64::new(0),
            set_back: AtomicI64::new(0),
            clock_goes_back: AtomicBool::new(false),
            links: Mutex::default(),
            conduct: Mutex::new(Conduct::GOOD),
            trace: traced.then(Mutex::default),
            counts: Mutex::default(),
            wrong: Mutex::default(),
            ids: AtomicU64::new(0),
        })
    }

    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    /// Calls a function on the server with this run; if that has ended, on the server in its place.
    pub fn on<T>(&self, run: u64, act: impl FnOnce(&mut Server) -> T) -> T {
        let mut deposed = self.deposed.lock().unwrap();
        match &mut *deposed {
            Some(server) if server.run == run => {
                self.count("request to the deposed primary");
                act(server)
            }
            _ => act(&mut self.server()),
        }
    }

    /// The run of the server that was deposed, while a proxy reaches it.
    pub fn deposed(&self) -> Option<u64> {
        self.deposed.lock().unwrap().as_ref().map(|server| server.run)
    }

    /// Whether this run of the server still takes what was sent to it.
    pub fn is_there(&self, run: u64) -> bool {
        self.server().run == run || self.deposed() == Some(run)
    }

    /// Another server becomes the primary, with what it has; the one before goes on as if nothing had happened.
    pub fn depose(&self, run: u64, with: Memory) {
        let mut server = self.server();
        *self.deposed.lock().unwrap() = Some(server.clone());
        server.restart(run, with);
    }

    /// Ends the deposed server.
    pub fn retire(&self) {
        *self.deposed.lock().unwrap() = None;
    }

    /// Makes the store wait for its other replica.
    pub fn wait_for_replica(&self) {
        self.waits.store(true, SeqCst);
    }

    pub fn waits(&self) -> bool {
        self.waits.load(SeqCst)
    }

    /// Whether the replica has what a server has carried out by now.
    pub fn is_replicated(&self, run: u64) -> bool {
        let believes = self.server().flaw == Some(Flaw::BelievesItsReplica);
        believes || self.is_followed(run)
    }

    pub fn is_followed(&self, run: u64) -> bool {
        *self.followed.lock().unwrap() == Some(run)
    }

    pub fn has_no_follower(&self) -> bool {
        self.followed.lock().unwrap().is_none()
    }

    /// Makes the replica follow a server, or none.
    pub fn have_replica_follow(&self, run: Option<u64>) {
        *self.followed.lock().unwrap() = run;
    }

    pub fn note_invalidation(&self, intent: &str) {
        let carried = Carried { at: Instant::now(), set_back: self.set_back.load(SeqCst) };
        self.invalidated.lock().unwrap().insert(intent.into(), carried);
    }

    /// When the invalidation of a write was carried out, if it was.
    pub fn invalidation(&self, intent: &str) -> Option<Carried> {
        self.invalidated.lock().unwrap().remove(intent)
    }

    /// Waits until a grace that began then is over by all clocks. The server's, set back, makes it so much longer, and
    /// gives one that was over another end; what that is, is known when the clock is set no more.
    pub async fn outlive(&self, carried: Carried, grace: Duration) {
        loop {
            if self.clock_goes_back.load(SeqCst) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            let longer = self.set_back.load(SeqCst) - carried.set_back;
            let end = carried.at + grace + Duration::from_micros(longer as u64);
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// The only source of random numbers.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.chance.lock().unwrap())
    }

    pub fn happens(&self, probability: f64) -> bool {
        probability > 0.0 && self.draw(|chance| chance.random_bool(probability))
    }

    /// A random generator for one proxy or client, so that the order of those that draw at the same time does not matter.
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

    /// Of a proxy's machine, which was set forward so many microseconds.
    pub fn wall_clock(&self, ahead: i64) -> SystemTime {
        let passed = self.start.elapsed().as_micros() as i64;
        UNIX_EPOCH + Duration::from_micros((BEGINNING + passed + ahead) as u64)
    }

    /// Sets the server's clock forward, or back.
    pub fn set_clock(&self, by: i64) {
        let ahead = self.ahead.fetch_add(by, SeqCst) + by;
        self.set_back.fetch_add(-by.min(0), SeqCst);
        self.furthest.fetch_max(ahead, SeqCst);
    }

    /// By how much the server's clock was set back, all in all.
    pub fn was_set_back(&self) -> Duration {
        Duration::from_micros(self.set_back.load(SeqCst) as u64)
    }

    /// Whether the clock may be set back from now on.
    pub fn have_clock_go_back(&self, goes_back: bool) {
        self.clock_goes_back.store(goes_back, SeqCst);
    }

    /// Sets it to the furthest that it ever was, so that every deadline passes in its time.
    pub fn mend_clock(&self) {
        self.ahead.store(self.furthest.load(SeqCst), SeqCst);
    }

    /// How a link behaves that is made now.
    pub fn conduct(&self) -> Conduct {
        *self.conduct.lock().unwrap()
    }

    /// Makes every link behave so, and those that are made later.
    pub fn have_all_behave(&self, change: impl Fn(&mut Conduct)) {
        change(&mut self.conduct.lock().unwrap());
        self.links().iter().for_each(|link| link.behave(&change));
    }

    pub fn join(&self, link: &Arc<Link>) {
        let mut links = self.links.lock().unwrap();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    pub fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().unwrap().iter().filter_map(Weak::upgrade).collect()
    }

    /// Sends everything that was published to all links to that server.
    pub fn pass_on(&self) {
        let take = |server: &mut Server| (server.run, std::mem::take(&mut server.published));
        let deposed = self.deposed.lock().unwrap().as_mut().map(take);
        let present = take(&mut self.server());
        for (run, published) in deposed.into_iter().chain([present]).filter(|(_, published)| !published.is_empty())
        {
            for link in self.links().into_iter().filter(|link| link.run() == Some(run)) {
                published.iter().for_each(|message| link.receive(message));
            }
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

    /// Records a violation.
    pub fn accuse(&self, what: String) {
        self.tell(|| format!("WRONG: {what}"));
        self.wrong.lock().unwrap().push(what);
    }

    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }
}
