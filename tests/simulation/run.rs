//! One run: a seed decides how the fleet is configured, what its clients do, and which faults occur. First there are faults and
//! clients, then the clients end, and then what must be true without faults is checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use larder::config::{Coherence, OnOutage};
use larder::warm::plan::{LEASE, RENEWAL};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::chaos::{Chaos, Fleet, Kind, Scenario};
use super::proxy::{End, Proxy, Settings, Site, Target, Write};
use super::registers::{Floor, Upstream};
use super::requests::{self, Cookie, Form, Request, Rules, WriteContent};
use super::server::Flaw;
use super::warming;
use super::world::World;

/// The outcome of a run.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    /// Violations that were found.
    pub wrong: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
    pub trace: Vec<String>,
}

/// Carries out a run.
pub fn run(seed: u64, flaw: Option<Flaw>, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let world = runtime.expect("a runtime without I/O").block_on(async {
        let world = World::new(seed, flaw, traced);
        Run::new(seed, &world).go().await;
        world
    });
    Outcome { seed, wrong: world.wrong(), counts: world.counts(), trace: world.trace() }
}

struct Run {
    world: Arc<World>,
    site: Arc<Site>,
    fleet: Arc<Fleet>,
    kinds: Vec<Kind>,
    /// The longest between two faults, milliseconds.
    pause: u64,
    lasts: Duration,
    clients: Clients,
}

/// The clients, and how often they send requests.
#[derive(Debug, Clone, Copy)]
struct Clients {
    readers: usize,
    writers: usize,
    /// The longest pause between two requests of a reader, and before a write of a writer, milliseconds.
    rest: u64,
    writers_rest: u64,
    /// Share of writes whose rules are soft.
    soft: f64,
}

impl Clients {
    fn of(scenario: Scenario, world: &World) -> Clients {
        let (readers, writers) = (*world.pick(&[2, 4, 6]), *world.pick(&[1, 2, 3]));
        let rest = *world.pick(&[20, 60, 200]);
        let soft = *world.pick(&[0.0, 0.3, 0.7]);
        let any = Clients { readers, writers, rest, writers_rest: rest, soft };
        match scenario {
            Scenario::Mixed(_) => any,
            // Few writers: what one proxy has yet to deliver shows only where no other delivers the same.
            Scenario::OutageForAll => {
                Clients { readers: 5, writers: *world.pick(&[1, 1, 2]), rest: 20, writers_rest: 100, ..any }
            }
            Scenario::DenseWrites => Clients { readers: 4, writers: 4, rest: 20, writers_rest: 10, soft: 0.0 },
            Scenario::SoftWrites => Clients { readers: 2, writers: 3, rest: 200, writers_rest: 20, soft: 1.0 },
            Scenario::EpochUnseen => Clients { readers: 6, rest: 20, soft: 0.0, ..any },
            Scenario::SyncLeftBehind => Clients { readers: 5, writers: 1, rest: 20, writers_rest: 100, soft: 0.0 },
        }
    }
}

/// Seeds from here on are of runs whose proxies have rules ([`super::requests`]).
pub const WITH_RULES: u64 = 1_000_000_000;

/// Seeds from here on are of runs whose proxies follow different rules, without those of the library.
pub const MIXED_RULES: u64 = 2_000_000_000;

/// Beside its lease, the time after which the record of a member that died around a silence is removed (`FORGOTTEN` and `LONG` in
/// sync.lua), and a sync finds it.
const DEAD_FOR: Duration = Duration::from_secs(81);

/// Graces of soft rules, milliseconds.
const GRACES: [u64; 4] = [1, 50, 300, 1500];

/// Within the longest grace, whatever the clock did, a soft write may not show.
const LONGEST_GRACE: Duration = Duration::from_millis(1500);

/// How long a proxy waits, when the store is back, for others that may have something to deliver.
const RETURN: Duration = Duration::from_millis(1500);

impl Run {
    fn new(seed: u64, world: &Arc<World>) -> Run {
        let registers = *world.pick(&[1, 2, 4]);
        let slowness = *world.pick(&[3, 20, 150]);
        let marks_max = *world.pick(&[1, 2, 4, 1000]);
        world.server().intents_most = *world.pick(&[1, 1000, 1000]);
        let share = *world.pick(&[0.05, 0.1, 0.1, 0.2, 0.5]);
        let scenario = Scenario::of(seed, world);
        let (registers, slowness, marks_max) = match scenario {
            Scenario::Mixed(_) => (registers, slowness, marks_max),
            Scenario::OutageForAll => (registers.min(2), 3, marks_max),
            Scenario::SyncLeftBehind => (4, 3, 1000),
            Scenario::DenseWrites => (4, 3, *world.pick(&[1, 2, 1000])),
            Scenario::SoftWrites => (4, 3, 1000),
            Scenario::EpochUnseen => (registers, 3, marks_max),
        };
        world.server().marks_max = marks_max;
        let (its_own, is_mixed) = (scenario.kinds(), scenario.is_mixed());
        let waits = is_mixed && (its_own.iter().any(|kind| kind.needs_proof()) || world.happens(0.1));
        let any = Kind::ALL
            .into_iter()
            .filter(|kind| seed >= MIXED_RULES || *kind != Kind::RegistryLost)
            .filter(|_| is_mixed && world.happens(share));
        let mut kinds: Vec<Kind> =
            any.chain(its_own.iter().copied()).filter(|kind| waits || !kind.needs_proof()).collect();
        if scenario == Scenario::OutageForAll && world.happens(0.5) {
            // The others wait for a killed proxy after each outage, so that hits return late.
            kinds.retain(|kind| *kind != Kind::Replaced);
        }
        world.server().without_registry = seed < MIXED_RULES;
        let settings = settings(world, scenario, slowness, waits);
        let proxies = match scenario {
            // The more proxies there are, the longer it takes until none is waited for.
            Scenario::OutageForAll | Scenario::SyncLeftBehind => *world.pick(&[2, 2, 3, 4]),
            _ => *world.pick(&[2, 3, 4]),
        };
        let mixes = seed >= MIXED_RULES;
        let rules = (seed >= WITH_RULES && !mixes).then(Rules::get);
        let (callers, warms) = match rules {
            Some(_) => (*world.pick(&[1, 2]), world.happens(0.5)),
            None => (0, false),
        };
        if warms {
            warming::prepare(world);
        }
        // Rules say themselves what is repeated.
        let settings = Settings { lag: if rules.is_some() { Duration::ZERO } else { settings.lag }, ..settings };
        let upstream = Upstream::new(world, registers + callers, slowness, settings.lag);
        let acknowledged = Floor::new(registers + callers);
        let world_of = Arc::clone(world);
        let site =
            Site { world: world_of, upstream, acknowledged, settings, registers, callers, rules, warms, mixes };
        let site = Arc::new(site);
        if settings.leases_differ {
            world.count("leases differ");
        }
        world.tell(|| format!("{scenario:?}, {settings:?}, {proxies} proxies, {registers} registers, {kinds:?}"));
        Run {
            fleet: Fleet::start(&site, proxies),
            pause: *world.pick(&[60, 150, 400]),
            lasts: match scenario {
                Scenario::OutageForAll | Scenario::SyncLeftBehind => world.millis(5000, 8000),
                // A table runs by the clock only after two seconds.
                _ if warms => world.millis(3000, 7000),
                _ => world.millis(1000, 3000),
            },
            clients: Clients::of(scenario, world),
            world: Arc::clone(world),
            site,
            kinds,
        }
    }

    async fn go(&self) {
        let chaos = Chaos::new(&self.world, &self.fleet, self.kinds.clone());
        let mut clients = JoinSet::new();
        for number in 0..self.clients.readers + self.clients.writers {
            clients.spawn(self.client(number < self.clients.readers));
        }
        let operator = self.site.mixes.then(|| tokio::spawn(self.operator()));
        if self.kinds.is_empty() {
            sleep(self.lasts).await;
        } else {
            let _ = timeout(self.lasts, chaos.inject(self.pause)).await;
        }
        chaos.outlast().await;
        chaos.end();
        // By now clients begin no new requests.
        let comes_to_an_end = async { while clients.join_next().await.is_some() {} };
        if timeout(self.longest_write(), comes_to_an_end).await.is_err() {
            self.world.accuse("a request does not come to an end after all faults have ended".to_owned());
        }
        // A reload waits for other proxies, and invalidates twice.
        if let Some(operator) = operator
            && timeout(self.longest_write() * 3, operator).await.is_err()
        {
            self.world.accuse("a reload does not come to an end after all faults have ended".to_owned());
        }
        self.aftermath().await;
        self.count_what_the_server_saw();
        self.fleet.end();
    }

    fn client(&self, reads: bool) -> impl Future<Output = ()> + Send + 'static {
        let (world, site, fleet) = (&self.world, Arc::clone(&self.site), Arc::clone(&self.fleet));
        let Clients { rest, writers_rest, soft, .. } = self.clients;
        let (end, rest) = (tokio::time::Instant::now() + self.lasts, if reads { rest } else { writers_rest });
        let mut chance = world.own_chance();
        async move {
            loop {
                sleep(Duration::from_millis(chance.random_range(0..=rest))).await;
                if tokio::time::Instant::now() >= end {
                    return;
                }
                let Some(proxy) = fleet.proxy(chance.random_range(0..fleet.places())) else { continue };
                if reads {
                    proxy.read(request(&mut chance, &site)).await;
                } else {
                    proxy.write(write(&mut chance, &site, soft)).await;
                    sleep(Duration::from_millis(chance.random_range(0..=4 * rest))).await;
                }
            }
        }
    }

    /// Edits the rules of one proxy after the other.
    fn operator(&self) -> impl Future<Output = ()> + Send + 'static {
        let fleet = Arc::clone(&self.fleet);
        let (end, mut chance) = (tokio::time::Instant::now() + self.lasts, self.world.own_chance());
        async move {
            loop {
                sleep(Duration::from_millis(chance.random_range(0..=800))).await;
                if tokio::time::Instant::now() >= end {
                    return;
                }
                if let Some(proxy) = fleet.proxy(chance.random_range(0..fleet.places())) {
                    proxy.reload(chance.random_bool(0.3)).await;
                }
            }
        }
    }

    /// Announced, forwarded, delivered after what was kept before, waited for; each at its slowest.
    fn longest_write(&self) -> Duration {
        let Settings { lease, limit, patience, .. } = self.site.settings;
        limit * 12 + patience * 2 + lease * 4 + self.site.upstream.limit() * 4 + Duration::from_secs(1)
    }

    /// What must be true soon after the last fault.
    async fn aftermath(&self) {
        let Settings { lease, patience, limit, .. } = self.site.settings;
        if self.site.mixes {
            for proxy in self.fleet.all() {
                proxy.reload(false).await;
            }
        }
        if self.kinds.contains(&Kind::RegistryLost) {
            // The rules of members that have died are unknown until their records are removed.
            sleep(DEAD_FOR + lease).await;
        }
        sleep(patience + lease * 2 + limit * 4).await;
        if self.clients.soft > 0.0 {
            sleep(LONGEST_GRACE + self.world.was_set_back()).await;
        }
        self.intents_come_to_an_end().await;
        if self.every_write_shows_in_the_end() {
            self.everything_is_shown("although its write was not acknowledged").await;
        }
        self.a_write_goes_through().await;
        self.everything_is_shown("after the last write").await;
        sleep(lease * 2 + limit * 4 + RETURN).await;
        self.memory_is_used().await;
        if self.site.rules.is_some() && self.site.settings.mode != Coherence::Eventual {
            self.responses_to_writes_are_served().await;
        }
        if self.site.warms {
            self.one_proxy_warms().await;
        }
        let (members, proxies) = (self.world.server().sizes().0, self.fleet.all().len());
        if members > proxies {
            self.world.accuse(format!("{members} members, and {proxies} proxies"));
        }
    }

    /// A proxy that repeats a write without an intent in the store does so within this time, too. The function returns earlier if no
    /// write is to be repeated.
    async fn intents_come_to_an_end(&self) {
        let Settings { lease, limit, lag, .. } = self.site.settings;
        let is_done = async {
            if !lag.is_zero() {
                return sleep(self.longest_again()).await;
            }
            while self.world.server().sizes().1 > 0 {
                sleep(lease / 2).await;
            }
        };
        let is_late = timeout(self.longest_again() + self.world.was_set_back(), is_done).await.is_err();
        // The proxy that carried out the last one has not sent the others a message yet.
        sleep(lease * 2 + limit * 4).await;
        let intents = self.world.server().sizes().1;
        if is_late && intents > 0 {
            self.world.accuse(format!("{intents} intents are left long after their deadline"));
        }
    }

    /// Repetitions of everything are due at whole seconds.
    fn longest_again(&self) -> Duration {
        LONGEST_AGAIN.max(self.site.settings.lag) + Duration::from_secs(1)
    }

    /// Whether no write can be without an intent, not even one whose proxy died.
    fn every_write_shows_in_the_end(&self) -> bool {
        let is_safe = !self.kinds.iter().any(|kind| kind.endangers_intents());
        is_safe && self.site.settings.on_outage == OnOutage::Refuse && !self.site.mixes
    }

    async fn a_write_goes_through(&self) {
        // Upstream may refuse now and then.
        for _ in 0..20 {
            let proxy = Arc::clone(self.world.pick(&self.fleet.all()));
            let again = Some(self.site.settings.lag).filter(|lag| !lag.is_zero());
            let write = proxy.write(Write { again, ..Write::hard(Target::Everything) });
            match timeout(self.longest_write(), write).await {
                Ok(End::Acknowledged) => {
                    let repeated = again.map_or(Duration::ZERO, |_| self.longest_again());
                    return sleep(self.site.settings.lease * 2 + repeated).await;
                }
                Ok(End::Unacknowledged) => {}
                Err(_) => self.world.accuse("a write is not answered after all faults have ended".to_owned()),
            }
        }
        self.world.accuse("no write is acknowledged after all faults have ended".to_owned());
    }

    async fn everything_is_shown(&self, when: &str) {
        for proxy in self.fleet.all() {
            for request in self.site.requests() {
                let register = request.register();
                let newest = self.site.upstream.value(register);
                let value = Arc::clone(&proxy).read(request).await;
                if value.is_some_and(|value| value != newest) {
                    let (name, value) = (proxy.name(), value.unwrap_or_default());
                    self.world
                        .accuse(format!("{name} gives {value} for register {register}, {newest} is true {when}"));
                }
            }
        }
    }

    /// With `write_through` a read through any proxy is answered with the response to the write before it.
    async fn responses_to_writes_are_served(&self) {
        const SERVED: [&str; 2] =
            ["served the response to a write", "served the response to a write through another proxy"];
        let limit = self.site.settings.limit;
        let before = self.counted(&SERVED);
        // Upstream may refuse, and entries may have expired.
        for _ in 0..10 {
            let [proxy, other] = [(); 2].map(|()| Arc::clone(self.world.pick(&self.fleet.all())));
            if proxy.write(Write::hard(Target::One(0))).await == End::Acknowledged {
                sleep(limit * 2 + Duration::from_millis(50)).await;
                other.read(Request::Path(0)).await;
            }
            if self.counted(&SERVED) > before {
                return;
            }
        }
        self.world
            .accuse("no read is answered with the response to a write after all faults have ended".to_owned());
    }

    /// One proxy holds the lease, and fetches again what a write has invalidated; the others serve it.
    async fn one_proxy_warms(&self) {
        const SERVED: [&str; 2] = ["served what was warmed", "served what another proxy warmed"];
        sleep(LEASE + RENEWAL * 2 + self.world.was_set_back()).await;
        let proxies = self.fleet.all();
        let holders = proxies.iter().filter(|proxy| proxy.warming.is_ours()).count();
        if holders != 1 {
            self.world.accuse(format!("{holders} proxies hold the lease for warming after all faults have ended"));
        }
        let fetches = || proxies.iter().map(|proxy| proxy.warming.fetches.load(SeqCst)).collect::<Vec<u64>>();
        let (before, served) = (fetches(), self.counted(&SERVED));
        self.a_write_goes_through().await;
        sleep(RENEWAL + Duration::from_secs(1) + self.site.upstream.limit() * 2).await;
        for ((proxy, before), after) in proxies.iter().zip(before).zip(fetches()) {
            if proxy.warming.is_ours() != (after > before) {
                let (name, count) = (proxy.name(), after - before);
                self.world
                    .accuse(format!("{name} has begun {count} fetches for warming after all faults have ended"));
            }
        }
        self.everything_is_shown("after the last run of warming").await;
        if self.counted(&SERVED) == served {
            self.world.accuse("nothing that was warmed is served after all faults have ended".to_owned());
        }
    }

    async fn memory_is_used(&self) {
        for proxy in self.fleet.all() {
            let has_lease = self.site.settings.mode != Coherence::Strict;
            if proxy.holds_lease() != has_lease {
                self.world.accuse(format!(
                    "{}: lease held: {} after all faults have ended",
                    proxy.name(),
                    !has_lease
                ));
            }
            self.is_hit_in_the_end(&proxy).await;
        }
    }

    async fn is_hit_in_the_end(&self, proxy: &Arc<Proxy>) {
        let before = self.hits();
        for _ in 0..5 {
            Arc::clone(proxy).read(self.site.requests()[0]).await;
        }
        if self.hits() == before {
            self.world.accuse(format!("{} has no hits after all faults have ended", proxy.name()));
        }
    }

    fn hits(&self) -> u64 {
        self.counted(&["memory hit", "hit after a request to the store"])
    }

    fn counted(&self, events: &[&str]) -> u64 {
        let counts = self.world.counts();
        events.iter().filter_map(|event| counts.get(event)).sum()
    }

    fn count_what_the_server_saw(&self) {
        let server = self.world.server();
        server.begun.iter().for_each(|why| self.world.count(why));
        for (what, count) in [
            ("trimmed", server.trimmed),
            ("promoted", server.promoted),
            ("grace kept", server.kept_ends),
            ("hardened", server.hardened),
            ("silences", server.silences),
            ("everything repeated", server.everything_repeated),
        ] {
            if count > 0 {
                self.world.count_many(what, count);
            }
        }
    }
}

fn settings(world: &World, scenario: Scenario, slowness: u64, waits: bool) -> Settings {
    let on_outage = *world.pick(&[OnOutage::Refuse, OnOutage::Forward]);
    let limit = world.millis(20, 120);
    if waits {
        world.wait_for_replica();
    }
    let any = Settings {
        mode: *world.pick(&[
            Coherence::Lease,
            Coherence::Lease,
            Coherence::Lease,
            Coherence::Lease,
            Coherence::Lease,
            Coherence::Strict,
            Coherence::Eventual,
        ]),
        on_outage,
        is_away_for_all: false,
        lease: world.millis(100, 800),
        leases_differ: world.happens(0.3),
        waits,
        // A proxy that carries out another's intent does so later than this, and repeats nothing.
        lag: if world.happens(0.15) { limit * 2 } else { Duration::ZERO },
        limit,
        // Which tags share one of some slots is a secret of each process: it would be another in each run of a seed.
        slots: *world.pick(&[1, MANY_SLOTS, MANY_SLOTS]),
        patience: Duration::from_millis(3 * slowness) + limit * 4,
    };
    match scenario {
        Scenario::Mixed(_) => any,
        Scenario::OutageForAll | Scenario::SyncLeftBehind => {
            Settings { on_outage: OnOutage::Forward, is_away_for_all: true, lag: Duration::ZERO, ..any }
        }
        Scenario::DenseWrites => {
            Settings { mode: Coherence::Lease, lag: Duration::ZERO, lease: world.millis(400, 800), ..any }
        }
        Scenario::SoftWrites => Settings {
            mode: *world.pick(&[Coherence::Strict, Coherence::Strict, Coherence::Lease]),
            lag: Duration::ZERO,
            ..any
        },
        // A new proxy knows no lease but its own.
        Scenario::EpochUnseen => Settings {
            mode: Coherence::Lease,
            lag: Duration::ZERO,
            lease: world.millis(400, 800),
            leases_differ: false,
            ..any
        },
    }
}

/// Enough that no two tags share one.
const MANY_SLOTS: usize = 1 << 16;

/// The longest time after which a write is repeated, where upstream does not lag.
const LONGEST_AGAIN: Duration = Duration::from_millis(700);

/// A client's read.
fn request(chance: &mut StdRng, site: &Site) -> Request {
    let register = chance.random_range(0..site.registers);
    if site.rules.is_none() {
        return Request::Plain(register);
    }
    match chance.random_range(0..10) {
        0..4 => Request::Path(register),
        4..6 => Request::Query(register),
        _ => {
            let session = session(chance, site);
            let present = site.upstream.value(session);
            let version = match chance.random_range(0..10) {
                // From before the last logout.
                0..3 => present.saturating_sub(1),
                3 => NEVER,
                _ => present,
            };
            Request::Account(register, Cookie { session, version })
        }
    }
}

/// The version in a cookie that upstream never gave out.
const NEVER: u64 = 1 << 40;

fn session(chance: &mut StdRng, site: &Site) -> usize {
    site.registers + chance.random_range(0..site.callers)
}

/// A client's write in runs with rules.
fn ruled_write(chance: &mut StdRng, site: &Site, soft: f64) -> Write {
    let register = chance.random_range(0..site.registers);
    let content = WriteContent::ALL[chance.random_range(0..WriteContent::ALL.len())];
    let form = match chance.random_range(0..20) {
        _ if chance.random_bool(soft / 2.0) => Form::Soft(register),
        0..9 => Form::Path(register),
        9..12 => Form::Body(register, content, chance.random_bool(0.5)),
        12..14 => Form::Response(register, content),
        14 => Form::Again(register),
        15 => Form::Everything,
        16 => Form::Rights(session(chance, site)),
        _ => {
            let session = session(chance, site);
            Form::Logout(Cookie { session, version: site.upstream.value(session) })
        }
    };
    let grace = matches!(form, Form::Soft(_)).then_some(requests::GRACE);
    Write { grace, form, ..Write::hard(Target::One(register)) }
}

fn write(chance: &mut StdRng, site: &Site, soft: f64) -> Write {
    if site.rules.is_some() {
        return ruled_write(chance, site, soft);
    }
    let target = target(chance, site.registers);
    let lag = site.settings.lag;
    let is_soft = chance.random_bool(soft);
    let grace = is_soft.then(|| Duration::from_millis(GRACES[chance.random_range(0..GRACES.len())]));
    let is_repeated = !lag.is_zero() || chance.random_bool(0.1);
    let least = lag.as_millis() as u64;
    let again = is_repeated.then(|| match least {
        0 => Duration::from_millis([50, 700][chance.random_range(0..2)]),
        lag => Duration::from_millis(lag),
    });
    Write { grace, again, ..Write::hard(target) }
}

fn target(chance: &mut StdRng, registers: usize) -> Target {
    match chance.random_range(0..10) {
        0 => Target::Everything,
        1 => Target::Group,
        2 | 3 => Target::Family(chance.random_range(0..registers.min(2))),
        _ => Target::One(chance.random_range(0..registers)),
    }
}
