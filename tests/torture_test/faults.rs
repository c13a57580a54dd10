//! What goes wrong, and when: a shuffled deck of faults, dealt over and over by one thread.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::options::Options;
use crate::proxies::{NAMESPACE, Proxies, Snapshots};
use crate::relay::Weather;
use crate::support::eventually;
use crate::support::larder::signal;

/// What can go wrong.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9 of a proxy, which is then started again.
    KillProxy,
    /// SIGTERM of a proxy with writes under way, which is then started again.
    TermProxy,
    /// A proxy stops for less than a lease.
    PauseProxyBriefly,
    /// A proxy stops for longer than a lease.
    PauseProxy,
    /// Redis stops for less than a lease.
    PauseRedisBriefly,
    /// Redis stops for longer than a lease.
    PauseRedis,
    /// Redis is killed and comes back with a snapshot taken just before.
    RestartRedis,
    /// Redis is killed and comes back with an old snapshot.
    RestoreRedis,
    /// Redis is killed and comes back empty.
    EmptyRedis,
    /// FLUSHALL.
    FlushAll,
    /// CLIENT KILL TYPE pubsub.
    KillSubscribers,
    /// CLIENT KILL TYPE normal.
    KillClients,
    /// The marks are gone, as if evicted.
    EvictMarks,
    /// Epoch and sequence are gone, as if evicted.
    EvictMeta,
    /// A proxy's connections to Redis are cut, and new ones too.
    CutLink,
    /// Nothing passes between a proxy and Redis, and at once Redis forgets everything, that proxy's lease too.
    ForgetBehind,
    /// A proxy is cut off over and over, with moments between in which all is well.
    FlapLink,
    /// Nothing passes between a proxy and Redis; later everything does, or the connections are cut.
    StallLink,
    /// A proxy's requests reach Redis, the replies do not.
    LoseReplies,
    /// Each message between a proxy and Redis takes some milliseconds longer.
    SlowLink,
    /// The node of the cluster that keeps the marks is killed; it comes back as a replica of its replica.
    Failover,
    /// The node of the cluster that keeps the marks hands them over to its replica.
    HandOver,
}

impl Fault {
    /// Whether it is about Redis or the way to it.
    pub fn needs_redis(self) -> bool {
        use Fault::{KillProxy, PauseProxy, PauseProxyBriefly, TermProxy};
        !matches!(self, KillProxy | TermProxy | PauseProxy | PauseProxyBriefly)
    }

    /// Whether it is about the nodes of a cluster.
    pub fn needs_a_cluster(self) -> bool {
        matches!(self, Fault::Failover | Fault::HandOver)
    }

    /// Whether it can be injected with a cluster, which is reached without a relay and restored by its replicas.
    pub fn fits_a_cluster(self) -> bool {
        use Fault::{PauseRedis, PauseRedisBriefly};
        let lasts = matches!(self, PauseRedis | PauseRedisBriefly);
        self.needs_a_cluster() || lasts || !self.needs_redis() || self.is_sudden()
    }

    /// Whether it is over at once, and so may strike in the middle of another.
    fn is_sudden(self) -> bool {
        use Fault::{EvictMarks, EvictMeta, FlushAll, KillClients, KillProxy, KillSubscribers};
        matches!(self, KillProxy | FlushAll | KillSubscribers | KillClients | EvictMarks | EvictMeta)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no fault is hidden");
        f.write_str(value.get_name())
    }
}

/// Injects faults, one by one, now and then one in the middle of another.
pub struct Injector {
    proxies: Proxies,
    random: StdRng,
    deck: Vec<Fault>,
    lease: Duration,
    began: Instant,
    log: bool,
    pub injected: BTreeMap<Fault, u64>,
}

impl Injector {
    pub fn new(proxies: Proxies, options: &Options, seed: u64, log: bool) -> Injector {
        if proxies.have_one_redis() {
            proxies.save().keep_as_old();
        }
        Injector {
            proxies,
            random: StdRng::seed_from_u64(seed),
            deck: options.faults.0.clone(),
            lease: options.lease(),
            began: Instant::now(),
            log,
            injected: BTreeMap::new(),
        }
    }

    /// Deals until the time is over and each fault has been injected.
    pub fn deal(&mut self, until: Instant) {
        let mut rest: Vec<Fault> = Vec::new();
        while Instant::now() < until || (!self.deck.is_empty() && self.injected.len() < self.deck.len()) {
            self.hold(0.1, 0.6);
            if rest.is_empty() {
                rest.clone_from(&self.deck);
                rest.shuffle(&mut self.random);
            }
            if let Some(fault) = rest.pop() {
                self.inject(fault);
            }
        }
    }

    /// The proxies, all running again.
    pub fn into_proxies(self) -> Proxies {
        self.proxies
    }

    fn inject(&mut self, fault: Fault) {
        let proxy = self.random.random_range(0..self.proxies.len());
        self.note(fault, proxy);
        match fault {
            Fault::KillProxy => self.kill_proxy(proxy),
            Fault::TermProxy => self.terminate_proxy(proxy),
            Fault::PauseProxyBriefly => self.pause_proxy(proxy, 0.2, 0.8),
            Fault::PauseProxy => self.pause_proxy(proxy, 1.1, 2.5),
            Fault::PauseRedisBriefly => self.pause_redis(0.2, 0.8),
            Fault::PauseRedis => self.pause_redis(1.1, 2.5),
            Fault::RestartRedis => self.restart_redis(),
            Fault::RestoreRedis => self.proxies.restart_redis(Snapshots::restore_old),
            Fault::EmptyRedis => self.proxies.restart_redis(Snapshots::remove),
            Fault::FlushAll => self.proxies.redis().flush_all(),
            Fault::KillSubscribers => self.kill_connections("pubsub"),
            Fault::KillClients => self.kill_connections("normal"),
            Fault::EvictMarks => self.evict("marks"),
            Fault::EvictMeta => self.evict("meta"),
            Fault::CutLink => self.disturb(proxy, Weather::Cut),
            Fault::ForgetBehind => self.forget_behind(proxy),
            Fault::FlapLink => self.flap(proxy),
            Fault::StallLink => self.disturb(proxy, Weather::Stalled),
            Fault::LoseReplies => self.disturb(proxy, Weather::Deaf),
            Fault::SlowLink => {
                let by = Duration::from_millis(self.random.random_range(1..40));
                self.disturb(proxy, Weather::Slow(by));
            }
            Fault::Failover => {
                let pause = self.random.random_range(Duration::ZERO..self.lease * 2);
                self.proxies.kill_keeper(|| thread::sleep(pause));
            }
            Fault::HandOver => self.proxies.hand_over(),
        }
        *self.injected.entry(fault).or_default() += 1;
    }

    fn note(&self, fault: Fault, proxy: usize) {
        if self.log {
            println!("{:>8.3} s  {fault} ({proxy})", self.began.elapsed().as_secs_f64());
        }
    }

    /// For a time between so many leases.
    fn hold(&mut self, least: f64, most: f64) {
        let leases = self.random.random_range(least..most);
        thread::sleep(self.lease.mul_f64(leases));
    }

    /// The same, now and then with another fault in the middle, which must leave this proxy alone.
    fn hold_through_another(&mut self, least: f64, most: f64, proxy: usize) {
        self.hold(least / 2.0, most / 2.0);
        let sudden: Vec<_> = self.deck.iter().copied().filter(|fault| fault.is_sudden()).collect();
        if let Some(another) = sudden.get(self.random.random_range(0..3 * (sudden.len() + 1))) {
            match another {
                Fault::KillProxy if self.proxies.len() > 1 => {
                    let another = (proxy + 1) % self.proxies.len();
                    self.note(Fault::KillProxy, another);
                    self.kill_proxy(another);
                }
                Fault::KillProxy => {}
                another => self.inject(*another),
            }
        }
        self.hold(least / 2.0, most / 2.0);
    }

    fn kill_proxy(&mut self, proxy: usize) {
        self.proxies.kill(proxy);
        self.hold(0.0, 0.5);
        self.proxies.start_again(proxy);
    }

    fn terminate_proxy(&mut self, proxy: usize) {
        self.proxies.signal(proxy, "TERM");
        self.proxies.wait(proxy);
        self.proxies.start_again(proxy);
    }

    fn pause_proxy(&mut self, proxy: usize, least: f64, most: f64) {
        self.proxies.signal(proxy, "STOP");
        self.hold_through_another(least, most, proxy);
        self.proxies.signal(proxy, "CONT");
    }

    fn pause_redis(&mut self, least: f64, most: f64) {
        // Of a cluster, another node may keep the marks meanwhile, and this one cannot be asked.
        let id = self.proxies.redis().id();
        signal(id, "STOP");
        self.hold(least, most);
        signal(id, "CONT");
    }

    fn restart_redis(&mut self) {
        let snapshots = self.proxies.save();
        self.proxies.restart_redis(|_| {});
        // The next old snapshot: by then it is.
        snapshots.keep_as_old();
    }

    fn kill_connections(&self, kind: &str) {
        self.proxies.redis().run::<u64>(&["CLIENT", "KILL", "TYPE", kind]);
    }

    /// Waits until there is something to evict: the key may be new.
    fn evict(&self, part: &str) {
        let key = format!("{{{NAMESPACE}}}:{part}");
        eventually("there is something to evict", || self.proxies.redis().run::<u64>(&["DEL", &key]) == 1);
    }

    fn flap(&mut self, proxy: usize) {
        for _ in 0..self.random.random_range(2..6) {
            self.proxies.relay(proxy).set(Weather::Cut);
            self.hold(0.0, 0.5);
            self.proxies.relay(proxy).set(Weather::Clear);
            self.hold(0.0, 0.5);
        }
    }

    fn forget_behind(&mut self, proxy: usize) {
        self.proxies.relay(proxy).set(Weather::Stalled);
        match self.random.random_range(0..4) {
            0 => self.proxies.redis().flush_all(),
            1 => self.proxies.restart_redis(Snapshots::remove),
            2 => self.evict("meta"),
            _ => self.evict("marks"),
        }
        self.hold(1.0, 2.0);
        self.clear(proxy);
    }

    fn disturb(&mut self, proxy: usize, weather: Weather) {
        self.proxies.relay(proxy).set(weather);
        self.hold_through_another(0.3, 2.5, proxy);
        self.clear(proxy);
    }

    /// What was kept arrives late, or never.
    fn clear(&mut self, proxy: usize) {
        if self.random.random_bool(0.5) {
            self.proxies.relay(proxy).cut();
        }
        self.proxies.relay(proxy).set(Weather::Clear);
    }
}
