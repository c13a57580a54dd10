//! Everybody else: clients at 127.0.0.1 that go on reading, missing and writing, and a liveness probe, while an attack
//! runs.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::Larder;
use crate::support::client::Call;
use crate::support::larder::cpu;

/// The family that everybody else reads. A test's rules begin with these.
pub const RULES: &str = r#"
[[family]]
name = "others"
path = '/others/.*'
ttl = "1h"
"#;

/// Requests whose CPU is the measure of that of attacks.
const HONEST: u32 = 300;
/// Targets that are read again and again.
const WARM: usize = 20;
/// The pause between two requests of one kind.
const PAUSE: Duration = Duration::from_millis(5);
/// What a miss, a write or a probe may take beyond upstream's time, which is next to nothing here: more than they take on a busy
/// machine, less than the time limits that end a wait for an attacker.
const PATIENCE: Duration = Duration::from_secs(5);

/// Number of times that others began.
static ROUNDS: AtomicUsize = AtomicUsize::new(0);
/// Attacks run one at a time: each measures memory, CPU and time.
static ALONE: Mutex<()> = Mutex::new(());

/// What everybody else experienced.
#[derive(Debug, Default)]
pub struct Experience {
    hits: usize,
    reads: usize,
    misses: Waits,
    writes: Waits,
    probes: Waits,
    /// CPU of the process meanwhile without what the requests of everybody else cost, were they all hits.
    cpu: Duration,
    /// CPU of one hit of everybody else, measured before.
    honest: Duration,
}

/// Requests of one kind.
#[derive(Default)]
struct Waits {
    answered: usize,
    failures: Vec<String>,
    longest: Duration,
    /// Most CPU that the process spent while one waited.
    most_cpu: Duration,
}

/// The beginning of a request: the time, and the CPU of the process until then.
struct Begun(u32, Instant, Duration);

impl Begun {
    fn now(process: u32) -> Begun {
        Begun(process, Instant::now(), cpu(process))
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waits { answered, failures, longest, most_cpu } = self;
        let failed = failures.len();
        write!(
            f,
            "{answered} answered, {failed} failed, longest {longest:?}, during at most {most_cpu:?} of CPU"
        )?;
        failures.first().map_or(Ok(()), |first| write!(f, ", first failure: {first}"))
    }
}

impl Waits {
    fn note(&mut self, Begun(process, since, before): &Begun, outcome: Result<u16, String>) {
        self.longest = self.longest.max(since.elapsed());
        self.most_cpu = self.most_cpu.max(cpu(*process).saturating_sub(*before));
        match outcome {
            Ok(status) if status < 300 => self.answered += 1,
            Ok(status) => self.failures.push(format!("status {status}")),
            Err(failure) => self.failures.push(failure),
        }
    }
}

impl Waits {
    fn is_answered(&self) -> bool {
        self.answered > 0 && self.failures.is_empty()
    }
}

type Step = Box<dyn Fn(usize, &mut Experience) + Send>;

/// Everybody else, going on until [`Others::end`].
pub struct Others {
    stop: Arc<AtomicBool>,
    /// Requests answered so far.
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Experience>>,
    process: u32,
    /// CPU of the process when they began, and of one hit.
    before: Duration,
    honest: Duration,
    _alone: MutexGuard<'static, ()>,
}

impl Others {
    /// Warms what everybody else reads, and begins. Waits until no other attack runs.
    pub fn start(larder: &Larder) -> Others {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        for n in 0..WARM {
            larder.get(&format!("/others/{n}"));
        }
        let process = larder.id();
        let before = cpu(process);
        for n in 0..HONEST {
            larder.get(&format!("/others/{}", n as usize % WARM)).is("hit");
        }
        // No less than can be measured.
        let honest = (cpu(process) - before).max(Duration::from_millis(10)) / HONEST;
        let before = cpu(process);
        let (stop, done): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let (address, admin) = (larder.address, larder.admin);
        // What is missed now is stored then.
        let round = ROUNDS.fetch_add(1, Ordering::SeqCst);
        let each = |step: Step| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || {
                let mut experience = Experience::default();
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    step(n, &mut experience);
                    done.fetch_add(1, Ordering::SeqCst);
                    pause();
                }
                experience
            })
        };
        let threads = vec![
            each(Box::new(move |n, experience| {
                experience.reads += 1;
                let response = Call::new(address, "GET", &format!("/others/{}", n % WARM)).try_send();
                let is_hit = response.is_ok_and(|response| response.status == 200 && response.is("hit"));
                experience.hits += usize::from(is_hit);
            })),
            each(Box::new(move |n, experience| {
                let begun = Begun::now(process);
                experience
                    .misses
                    .note(&begun, status(Call::new(address, "GET", &format!("/others/new-{round}-{n}"))));
            })),
            each(Box::new(move |_, experience| {
                let begun = Begun::now(process);
                experience.writes.note(&begun, status(Call::new(address, "POST", "/others-write").body("x")));
            })),
            each(Box::new(move |_, experience| {
                let begun = Begun::now(process);
                experience.probes.note(&begun, status(Call::new(admin, "GET", "/healthz")));
            })),
        ];
        Others { stop, done, threads, process, before, honest, _alone: alone }
    }

    /// Waits until everybody else has made so many more requests, at most for the time in which an attack may be felt.
    pub fn go_on(&self, requests: usize) {
        let (goal, end) = (self.done.load(Ordering::SeqCst) + requests, Instant::now() + Duration::from_secs(10));
        while self.done.load(Ordering::SeqCst) < goal && Instant::now() < end {
            pause();
        }
    }

    /// Ends them. Gives what they experienced.
    pub fn end(self) -> Experience {
        self.stop.store(true, Ordering::SeqCst);
        let (cpu, requests) = (cpu(self.process) - self.before, self.done.load(Ordering::SeqCst));
        let others = self.honest * u32::try_from(requests).unwrap();
        let mut all = Experience { cpu: cpu.saturating_sub(others), honest: self.honest, ..Experience::default() };
        for thread in self.threads {
            let one = thread.join().unwrap();
            all.hits += one.hits;
            all.reads += one.reads;
            for (all, one) in
                [(&mut all.misses, one.misses), (&mut all.writes, one.writes), (&mut all.probes, one.probes)]
            {
                all.answered += one.answered;
                all.failures.extend(one.failures);
                all.longest = all.longest.max(one.longest);
                all.most_cpu = all.most_cpu.max(one.most_cpu);
            }
        }
        eprintln!("what others experienced: {all:?}");
        all
    }
}

/// A number that `GET /metrics` says; 0 if it does not know of it yet.
pub fn metric(larder: &Larder, name: &str) -> u64 {
    let text = larder.admin_get("/metrics").text();
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[allow(clippy::disallowed_methods, reason = "no runtime here")]
fn pause() {
    thread::sleep(PAUSE);
}

fn status(call: Call) -> Result<u16, String> {
    call.try_send().map(|response| response.status).map_err(|failure| format!("{failure:?}"))
}

impl Experience {
    /// Over 95 % of the reads were hits; misses, writes and probes were answered, each in time.
    #[track_caller]
    pub fn was_unhurt(&self) {
        assert!(self.reads > 0 && self.hits * 100 > self.reads * 95, "hits of others: {self:?}");
        self.was_answered();
    }

    /// Misses, writes and probes were answered, each in time. For attacks that fill memory with other responses.
    #[track_caller]
    pub fn was_answered(&self) {
        for (what, waits) in self.waits() {
            assert!(waits.is_answered() && waits.longest < PATIENCE, "{what} of others: {self:?}");
        }
    }

    /// Misses, writes and probes were answered, none of them later by more than a second than in calm times, had the process the
    /// machine for itself: what counts is the CPU that it spent while they waited.
    #[track_caller]
    pub fn was_answered_as_in(&self, calm: &Experience) {
        let second =
            Duration::from_secs(1) * u32::try_from(thread::available_parallelism().unwrap().get()).unwrap();
        for ((what, waits), (_, calm)) in self.waits().into_iter().zip(calm.waits()) {
            assert!(waits.is_answered(), "{what} of others: {self:?}");
            assert!(
                waits.most_cpu < calm.most_cpu * 4 + second,
                "{what} of others: {self:?}, in calm times {calm:?}"
            );
        }
    }

    fn waits(&self) -> [(&'static str, &Waits); 3] {
        [("misses", &self.misses), ("writes", &self.writes), ("probes", &self.probes)]
    }

    /// Each of so many units of the attack cost at most so many times the CPU of a hit.
    #[track_caller]
    pub fn was_cheap(&self, units: usize, most: f64) {
        let each = self.cpu.as_secs_f64() / units as f64 / self.honest.as_secs_f64();
        eprintln!("each of {units} cost as much CPU as {each:.3} hits");
        assert!(each < most, "each of {units} cost as much CPU as {each:.3} hits: {self:?}");
    }
}
