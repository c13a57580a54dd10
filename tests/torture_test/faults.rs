//! The faults: one thread injects all of them in a random order, over and over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::ledger::Ledger;
use crate::options::{Options, name};
use crate::proxies::{NAMESPACE, Proxies, Snapshots};
use crate::relay::Network;
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
    /// Redis stops for 0.3 to 5 seconds.
    PauseRedis,
    /// A proxy is terminated before Redis stops, or killed then, and started while it is stopped.
    StartInPause,
    /// The same, but it is started in the moment in which Redis goes on.
    StartAtReturn,
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
    /// A proxy is cut off over and over, and reaches Redis for moments in between.
    FlapLink,
    /// Nothing passes between a proxy and Redis; later everything does, or the connections are cut.
    StallLink,
    /// A proxy's requests reach Redis, the replies do not.
    LoseReplies,
    /// What a proxy sends to Redis, or what all do, is held back, and delivered before or after it has reconnected.
    LateCommands,
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

    /// Whether Redis may lose data, such as invalidations that are to be repeated.
    pub fn makes_redis_forget(self) -> bool {
        use Fault::{EmptyRedis, EvictMarks, EvictMeta, FlushAll, ForgetBehind, RestartRedis, RestoreRedis};
        matches!(self, RestartRedis | RestoreRedis | EmptyRedis | FlushAll | EvictMarks | EvictMeta | ForgetBehind)
    }

    /// Whether what a proxy has in its own memory is lost.
    pub fn ends_a_proxy(self) -> bool {
        use Fault::{KillProxy, StartAtReturn, StartInPause, TermProxy};
        matches!(self, KillProxy | TermProxy | StartInPause | StartAtReturn)
    }

    /// Whether it is about the nodes of a cluster.
    pub fn needs_a_cluster(self) -> bool {
        matches!(self, Fault::Failover | Fault::HandOver)
    }

    /// Whether it can be injected with a cluster, which is reached without a relay and restored by its replicas.
    pub fn fits_a_cluster(self) -> bool {
        use Fault::{PauseRedis, PauseRedisBriefly, StartAtReturn, StartInPause};
        let lasts = matches!(self, PauseRedis | PauseRedisBriefly | StartInPause | StartAtReturn);
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
        f.write_str(&name(self))
    }
}

/// Injects faults, one by one, now and then one in the middle of another.
pub struct Injector {
    proxies: Proxies,
    ledger: Arc<Ledger>,
    random: StdRng,
    faults: Vec<Fault>,
    lease: Duration,
    timeout: Duration,
    log: bool,
    pub injected: BTreeMap<Fault, u64>,
    /// Writes that proxies had acknowledged and, when they were killed, perhaps not delivered.
    pub lost: usize,
}

impl Injector {
    pub fn new(proxies: Proxies, ledger: Arc<Ledger>, options: &Options, seed: u64, log: bool) -> Injector {
        if proxies.have_one_redis() {
            proxies.save().keep_as_old();
        }
        Injector {
            proxies,
            ledger,
            random: StdRng::seed_from_u64(seed),
            faults: options.faults.0.clone(),
            lease: options.lease(),
            timeout: options.timeout(),
            log,
            injected: BTreeMap::new(),
            lost: 0,
        }
    }

    /// Injects faults until the time is over and each has been injected.
    pub fn inject_until(&mut self, until: Instant) {
        let mut rest: Vec<Fault> = Vec::new();
        while Instant::now() < until || (!self.faults.is_empty() && self.injected.len() < self.faults.len()) {
            self.hold(0.1, 0.6);
            if rest.is_empty() {
                rest.clone_from(&self.faults);
                rest.shuffle(&mut self.random);
            }
            if let Some(fault) = rest.pop() {
                let began = self.ledger.fault_begins();
                self.inject(fault);
                self.ledger.fault_ends(began);
            }
        }
    }

    /// Stops Redis for so long over and over, and lets it run for `every` before each time.
    pub fn pause_until(&mut self, until: Instant, pause: Duration, every: Duration) {
        while Instant::now() + every < until {
            thread::sleep(every);
            self.note(Fault::PauseRedis, 0);
            let began = self.ledger.fault_begins();
            self.proxies.redis().hang();
            thread::sleep(pause);
            self.proxies.redis().resume();
            self.ledger.fault_ends(began);
            *self.injected.entry(Fault::PauseRedis).or_default() += 1;
        }
        thread::sleep(until.saturating_duration_since(Instant::now()));
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
            Fault::PauseRedisBriefly => {
                let pause = self.lease.mul_f64(self.random.random_range(0.2..0.8));
                self.pause_redis(pause);
            }
            Fault::PauseRedis => {
                // As likely between 0.3 and 0.6 as between 2.5 and 5.
                let pause = 0.3 * (5.0_f64 / 0.3).powf(self.random.random());
                self.pause_redis(Duration::from_secs_f64(pause));
            }
            Fault::StartInPause => self.start_in_pause(proxy),
            Fault::StartAtReturn => self.start_at_return(proxy),
            Fault::RestartRedis => self.restart_redis(),
            Fault::RestoreRedis => self.proxies.restart_redis(Snapshots::restore_old),
            Fault::EmptyRedis => self.proxies.restart_redis(Snapshots::remove),
            Fault::FlushAll => self.proxies.redis().flush_all(),
            Fault::KillSubscribers => self.kill_connections("pubsub"),
            Fault::KillClients => self.kill_connections("normal"),
            Fault::EvictMarks => self.evict("marks"),
            Fault::EvictMeta => self.evict("meta"),
            Fault::CutLink => self.disturb(proxy, Network::Cut),
            Fault::ForgetBehind => self.forget_behind(proxy),
            Fault::FlapLink => self.flap(proxy),
            Fault::StallLink => self.disturb(proxy, Network::Stalled),
            Fault::LoseReplies => self.disturb(proxy, Network::RepliesKept),
            Fault::LateCommands => self.delay_commands(proxy),
            Fault::SlowLink => {
                let by = Duration::from_millis(self.random.random_range(1..40));
                self.disturb(proxy, Network::Slow(by));
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
            println!("{:>8.3} s  {fault} ({proxy})", self.ledger.start.elapsed().as_secs_f64());
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
        let sudden: Vec<_> = self.faults.iter().copied().filter(|fault| fault.is_sudden()).collect();
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
        self.kill(proxy);
        self.hold(0.0, 0.5);
        self.proxies.start_again(proxy);
    }

    fn kill(&mut self, proxy: usize) {
        let run = self.proxies.kill(proxy);
        self.lost += self.ledger.killed(run);
    }

    fn terminate_proxy(&mut self, proxy: usize) {
        self.terminate(proxy);
        self.proxies.start_again(proxy);
    }

    fn terminate(&mut self, proxy: usize) {
        self.proxies.signal(proxy, "TERM");
        let run = self.proxies.wait(proxy);
        self.lost += self.ledger.terminated(run);
    }

    fn pause_proxy(&mut self, proxy: usize, least: f64, most: f64) {
        self.proxies.signal(proxy, "STOP");
        self.hold_through_another(least, most, proxy);
        self.proxies.signal(proxy, "CONT");
    }

    fn pause_redis(&mut self, pause: Duration) {
        let id = self.stop_redis();
        thread::sleep(pause);
        signal(id, "CONT");
    }

    /// Stops Redis, half of the time with many commands in its queue. Gives its process: of a cluster, another node may
    /// keep the marks meanwhile, and this one does not answer.
    fn stop_redis(&mut self) -> u32 {
        let id = self.proxies.redis().id();
        signal(id, "STOP");
        if self.random.random_bool(0.5) {
            thread::sleep(Duration::from_millis(self.random.random_range(10..80)));
            signal(id, "CONT");
            signal(id, "STOP");
        }
        id
    }

    fn start_in_pause(&mut self, proxy: usize) {
        let id = self.stop_redis_without(proxy);
        self.proxies.start_again(proxy);
        self.hold(0.2, 2.0);
        signal(id, "CONT");
    }

    fn start_at_return(&mut self, proxy: usize) {
        let id = self.stop_redis_without(proxy);
        let after = Duration::from_millis(self.random.random_range(0..60));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(after);
                signal(id, "CONT");
            });
            self.proxies.start_again(proxy);
        });
    }

    /// Stops Redis, and ends a proxy: before by SIGTERM, or then by SIGKILL.
    fn stop_redis_without(&mut self, proxy: usize) -> u32 {
        let is_killed = self.random.random_bool(0.5);
        if !is_killed {
            self.terminate(proxy);
        }
        let id = self.stop_redis();
        self.hold(0.1, 1.5);
        if is_killed {
            self.kill(proxy);
        }
        self.hold(0.1, 1.5);
        id
    }

    /// Redis executes late what one proxy sent, or all did: in any order before and after they reconnect.
    fn delay_commands(&mut self, proxy: usize) {
        let everybody = self.random.random_bool(0.5);
        let held: Vec<usize> = if everybody { (0..self.proxies.len()).collect() } else { vec![proxy] };
        if !everybody {
            self.disturbed(proxy);
        }
        held.iter().for_each(|proxy| self.proxies.relay(*proxy).hold());
        // Until all have noticed: one that has not may go on while another is alone for some moments more.
        thread::sleep(self.timeout);
        self.hold(1.0, 2.5);
        let mut steps: Vec<_> = held.iter().flat_map(|proxy| [(*proxy, true), (*proxy, false)]).collect();
        steps.shuffle(&mut self.random);
        for (proxy, reconnects) in steps {
            let gives_up = self.random.random_bool(0.5);
            let relay = self.proxies.relay(proxy);
            if !reconnects {
                relay.deliver();
            } else {
                if gives_up {
                    relay.close_clients();
                }
                relay.pass_new();
            }
            self.hold(0.0, 0.4);
        }
        // Those too that were opened in between.
        held.iter().for_each(|proxy| self.proxies.relay(*proxy).deliver());
        if !everybody {
            self.restored(proxy);
        }
    }

    /// From now on this proxy is cut off from Redis alone, unless there is no other.
    fn disturbed(&self, proxy: usize) {
        if self.proxies.len() > 1 {
            self.proxies.directory().disturbed(proxy);
        }
    }

    fn restored(&self, proxy: usize) {
        if self.proxies.len() > 1 {
            self.proxies.directory().restored(proxy);
        }
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
        self.disturbed(proxy);
        for _ in 0..self.random.random_range(2..6) {
            self.proxies.relay(proxy).set(Network::Cut);
            self.hold(0.0, 0.5);
            self.proxies.relay(proxy).set(Network::Normal);
            self.hold(0.0, 0.5);
        }
        self.restored(proxy);
    }

    fn forget_behind(&mut self, proxy: usize) {
        self.disturbed(proxy);
        self.proxies.relay(proxy).set(Network::Stalled);
        match self.random.random_range(0..4) {
            0 => self.proxies.redis().flush_all(),
            1 => self.proxies.restart_redis(Snapshots::remove),
            2 => self.evict("meta"),
            _ => self.evict("marks"),
        }
        self.hold(1.0, 2.0);
        self.clear(proxy);
    }

    fn disturb(&mut self, proxy: usize, network: Network) {
        self.disturbed(proxy);
        self.proxies.relay(proxy).set(network);
        self.hold_through_another(0.3, 2.5, proxy);
        self.clear(proxy);
    }

    /// What was kept arrives late, or never.
    fn clear(&mut self, proxy: usize) {
        if self.random.random_bool(0.5) {
            self.proxies.relay(proxy).cut();
        }
        self.proxies.relay(proxy).set(Network::Normal);
        self.restored(proxy);
    }
}
