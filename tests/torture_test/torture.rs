//! The torture test: real proxies, a real Redis, an API of versioned registers, readers and writers through all proxies,
//! and faults. A read that began after a write was acknowledged must not return an older version. See `README.md`.
//!
//! It has its own binary, so that it does not run beside the other tests; `cargo test` runs the short ones, and
//! `tests/torture` runs [`by_hand`] with options of its own, which `cargo test` has no way to pass on.

#![allow(clippy::unwrap_used, reason = "in a test an unexpected error may end it")]
#![allow(clippy::disallowed_methods, reason = "threads of their own, no runtime: they may sleep")]

#[path = "../suite"]
#[allow(dead_code, unused_imports, reason = "made for all tests; these need a part")]
mod suite {
    pub mod support;
}

mod clients;
mod connection;
mod faults;
mod guard;
mod ledger;
mod options;
mod proxies;
mod registers;
mod relay;

use std::fmt;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use suite::support;

use clients::{Tally, WRITE_PAUSE, WRITE_PAUSE_AGAIN, World, warm};
use faults::{Fault, Injector};
use ledger::{Ledger, Slack};
use options::{Choice, Mode, Options, Outage, Rules};
use proxies::{AGAIN, GRACE, Proxies};
use registers::{LAG, Registers};

/// Where `tests/torture` puts what was typed.
const OPTIONS: &str = "LARDER_TORTURE";

/// Hits that had to show an acknowledged write, of which a run needs so many: a cache that never hits proves nothing.
const TELLING_HITS: u64 = 100;

/// How much longer a run goes on for them, or for stale reads where nothing is invalidated, at most, without faults. Only a failing one goes on so long.
const MORE: Duration = Duration::from_secs(60);

/// By how much a busy machine may put off what is repeated.
const BUSY: Duration = Duration::from_secs(2);

/// The results of a run.
struct Summary {
    options: Options,
    choice: Choice,
    store: String,
    took: Duration,
    tally: Tally,
    stale: u64,
    telling_hits: u64,
    faults: Vec<(Fault, u64)>,
    /// Writes that proxies had acknowledged while Redis was away and, when they were killed, perhaps not delivered.
    lost: usize,
}

/// Runs with these options, logging faults if `log`.
fn run(options: &Options, log: bool) -> Summary {
    let mut options = options.clone();
    let choice = options.choose();
    println!("torture: {choice}");
    let ledger = Arc::new(Ledger::new(options.registers as usize, slack(&options, choice)));
    let lags = choice.rules == Rules::Again;
    let lag = if lags { LAG } else { Duration::ZERO };
    let upstream =
        Registers::start(Arc::clone(&ledger), lag, Duration::from_millis(options.upstream), choice.seed);
    let proxies = Proxies::start(&options, choice, &upstream.url());
    let write_pause = if lags { WRITE_PAUSE_AGAIN } else { WRITE_PAUSE };
    let world =
        World::new(proxies.directory(), Arc::clone(&ledger), upstream.url(), (write_pause, options.authorize));
    let store = proxies.store.clone();
    warm(&world.directory, options.registers as usize);
    let mut injector = Injector::new(proxies, ledger, &options, choice.seed, log);
    let began = Instant::now();
    let tally = with_clients(&world, &options, choice.seed, || {
        let until = began + Duration::from_secs(options.seconds);
        match options.pause {
            Some(pause) => injector.pause_until(until, pause, options.pause_every),
            None => injector.inject_until(until),
        }
        await_proof(&world, &options);
    });
    let took = began.elapsed();
    let faults = injector.injected.iter().map(|(fault, count)| (*fault, *count)).collect();
    let lost = injector.lost;
    injector.into_proxies().wait_for_hits();
    let (stale, telling_hits) = (world.stale.into_inner(), world.telling_hits.into_inner());
    Summary { options, choice, store, took, tally, stale, telling_hits, faults, lost }
}

/// Waits until there are enough hits, or of a sabotaged run a stale read; or there seem to be none.
fn await_proof(world: &World, options: &Options) {
    let began = Instant::now();
    let is_enough = || match options.sabotage {
        true => world.stale.load(SeqCst) > 0,
        false => world.telling_hits.load(SeqCst) >= TELLING_HITS,
    };
    while !is_enough() && began.elapsed() < MORE {
        thread::sleep(Duration::from_millis(10));
    }
}

/// How much older than an acknowledged write a read may be.
fn slack(options: &Options, choice: Choice) -> Slack {
    let when = |condition, slack| if condition { slack } else { Duration::ZERO };
    Slack {
        any: when(choice.mode == Mode::Eventual, options.lease()),
        by_rule: when(choice.rules == Rules::Soft, GRACE),
        // A proxy learns of a repetition with its next sync.
        undisturbed: when(choice.rules == Rules::Again, AGAIN + options.lease() + BUSY),
    }
}

/// Runs clients for as long as `meanwhile` takes.
fn with_clients(world: &World, options: &Options, seed: u64, meanwhile: impl FnOnce()) -> Tally {
    /// Ends the run even when a fault could not be injected.
    struct Over<'a>(&'a World);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.over.store(true, SeqCst);
        }
    }
    let seed = |number: u32, kind: u64| seed ^ (u64::from(number) << 32) ^ (kind << 62);
    thread::scope(|scope| {
        let readers = (0..options.readers).map(|number| {
            let seed = seed(number, 1);
            scope.spawn(move || world.read_on(number as usize, seed))
        });
        let readers: Vec<_> = readers.collect();
        let writers = (0..options.writers).map(|number| {
            let seed = seed(number, 2);
            scope.spawn(move || world.write_on(number as usize, seed))
        });
        let clients: Vec<_> = readers.into_iter().chain(writers.collect::<Vec<_>>()).collect();
        let over = Over(world);
        meanwhile();
        drop(over);
        let mut tally = Tally::default();
        clients.into_iter().for_each(|client| tally.add(client.join().expect("no client fails")));
        tally
    })
}

impl Summary {
    /// Hits of a hundred reads.
    fn hit_share(&self) -> u64 {
        share(self.tally.hits, self.tally.reads)
    }

    /// What is wrong with the run; nothing if it is as it must be.
    fn complaints(&self) -> Vec<String> {
        let (stale, kept, telling) = (self.stale, self.tally.kept, self.telling_hits);
        let is_few = telling < TELLING_HITS && !self.options.sabotage;
        let (share, needed) = (self.hit_share(), self.options.hits.unwrap_or(0));
        let refuses = self.choice.outage == Outage::Refuse;
        let missing: Vec<_> = self.options.faults.0.iter().filter(|fault| !self.has_injected(**fault)).collect();
        let found = [
            (stale > 0, format!("{stale} stale reads")),
            (is_few, format!("{telling} hits had to show an acknowledged write: too few")),
            (share < needed, format!("{share} % hits are too few; {needed} % would do")),
            (refuses && kept > 0, format!("{kept} writes acknowledged while Redis was away")),
            (!missing.is_empty(), format!("not injected: {missing:?}")),
        ];
        found.into_iter().filter_map(|(wrong, what)| wrong.then_some(what)).collect()
    }

    fn has_injected(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(injected, _)| *injected == fault)
    }
}

/// So many of a hundred.
fn share(part: u64, whole: u64) -> u64 {
    part * 100 / whole.max(1)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { options, choice, took, tally, lost, .. } = self;
        let mut waits = tally.waits.clone();
        waits.sort_unstable();
        let wait = |share: f64| {
            // The highest for a share of 1, whatever rounding does.
            let at = (waits.len() as f64 * share) as usize;
            waits.get(at.min(waits.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let store = match options.embedded {
            true => "none, embedded".to_owned(),
            false => self.store.trim().replace('\n', ", "),
        };
        writeln!(f, "choice        {choice}")?;
        writeln!(f, "store         {store}")?;
        writeln!(
            f,
            "clients       {} readers, {} writers on {} proxies for {took:.1?}",
            options.readers, options.writers, choice.proxies
        )?;
        writeln!(f, "reads         {} ({:.0}/s)", tally.reads, tally.reads as f64 / took.as_secs_f64())?;
        writeln!(f, "stale         {}", self.stale)?;
        let ((reads, hits), all) = (tally.in_faults, (tally.reads, tally.hits));
        writeln!(
            f,
            "hit share     {} % (in faults {} %, else {} %); {} hits had to show a write",
            self.hit_share(),
            share(hits, reads),
            share(all.1 - hits, all.0 - reads),
            self.telling_hits
        )?;
        writeln!(
            f,
            "writes        {}: {} acknowledged, {} of them while Redis was away ({} through a proxy that alone was cut off), {lost} lost with their proxy",
            tally.writes, tally.acknowledged, tally.kept, tally.alone
        )?;
        writeln!(
            f,
            "write wait    median {:.1?}, 99 % {:.1?}, worst {:.1?} beyond upstream's own time",
            wait(0.5),
            wait(0.99),
            wait(1.0)
        )?;
        for (kind, count) in &tally.errors {
            writeln!(f, "error         {kind}: {count}")?;
        }
        for (fault, count) in &self.faults {
            writeln!(f, "fault         {fault}: {count}")?;
        }
        for history in &tally.histories {
            writeln!(f, "STALE         {history}")?;
        }
        self.complaints().iter().try_for_each(|complaint| writeln!(f, "WRONG         {complaint}"))
    }
}

/// One run at a time: each is meant to have the machine to itself.
fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn run_line(line: &str) -> Summary {
    let _alone = alone();
    let summary = run(&Options::parse_line(line).unwrap(), false);
    println!("{summary}");
    summary
}

#[track_caller]
fn assert_right(line: &str) {
    let summary = run_line(line);
    assert!(summary.complaints().is_empty(), "{summary}");
}

#[test]
fn nothing_stale_through_every_fault() {
    assert_right(
        "--seconds 8 --seed 20250101 --lease 400 --timeout 500 \
        --proxies 3 --outage refuse --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn nothing_stale_on_a_cluster_through_failovers() {
    assert_right(
        "--seconds 5 --seed 20250105 --cluster --faults failover,hand-over,kill-proxy,pause-proxy \
        --proxies 3 --outage refuse --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn nothing_stale_while_one_proxy_warms_what_others_write() {
    assert_right(
        "--seconds 4 --seed 20261129 --warm --faults kill-proxy,pause-proxy,flush-all \
        --proxies 2 --outage refuse --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn nothing_stale_in_memory_through_faults() {
    assert_right("--seconds 2 --seed 20250102 --embedded --rules hard");
}

#[test]
fn nothing_stale_when_redis_pauses_and_writes_are_forwarded() {
    assert_right(
        "--seconds 5 --seed 20250106 --pause 1.3 --pause-every 1 --timeout 100 --writers 2 \
        --proxies 3 --outage forward --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn nothing_stale_when_redis_pauses_and_hits_ask_it() {
    assert_right(
        "--seconds 4 --seed 20250107 --pause 0.8 --pause-every 1 --timeout 200 --writers 2 \
        --proxies 2 --outage forward --mode strict --rules soft --collapse fleet",
    );
}

#[test]
fn nothing_stale_when_commands_are_late() {
    assert_right(
        "--seconds 6 --seed 4 --faults late-commands --timeout 100 --writers 2 \
        --proxies 3 --outage forward --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn nothing_stale_when_proxies_start_while_redis_pauses() {
    assert_right(
        "--seconds 4 --seed 20250108 --faults late-commands,start-in-pause,start-at-return,kill-proxy --timeout 300 \
        --proxies 3 --outage forward --mode lease --rules soft --collapse fleet",
    );
}

#[test]
fn nothing_stale_when_writes_are_refused_and_hits_ask_redis() {
    assert_right(
        "--seconds 4 --seed 20250109 --faults late-commands,start-in-pause,cut-link --timeout 300 \
        --proxies 3 --outage refuse --mode strict --rules hard --collapse fleet",
    );
}

#[test]
fn nothing_stale_through_one_proxy_that_forwards() {
    assert_right(
        "--seconds 4 --seed 20250110 --faults pause-redis,late-commands,start-at-return --timeout 300 \
        --proxies 1 --outage forward --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn nothing_stale_where_upstream_lags_and_invalidations_are_repeated() {
    assert_right(
        "--seconds 8 --seed 20250111 --pause 0.6 --pause-every 2.4 --timeout 200 \
        --proxies 3 --outage forward --mode lease --rules again --collapse proxy",
    );
}

#[test]
fn stale_reads_are_found_where_upstream_lags_and_nothing_is_repeated() {
    let summary = run_line(
        "--seconds 3 --seed 20250112 --faults none --sabotage \
        --proxies 2 --outage refuse --mode lease --rules again --collapse proxy",
    );
    assert!(summary.stale > 0, "{summary}");
}

#[test]
fn nothing_stale_where_writes_end_authorizations() {
    assert_right(
        "--seconds 4 --seed 20250113 --authorize --faults kill-proxy,pause-redis,late-commands,flush-all --timeout 300 \
        --proxies 3 --outage refuse --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn stale_reads_are_found_where_no_write_ends_an_authorization() {
    let summary = run_line(
        "--seconds 1 --seed 20250114 --authorize --faults none --sabotage \
        --proxies 2 --outage refuse --mode lease --rules hard --collapse proxy",
    );
    let is_of_a_verdict = |history: &String| history.starts_with("of a caller");
    assert!(summary.stale > 0 && summary.tally.histories.iter().any(is_of_a_verdict), "{summary}");
}

#[test]
fn reads_are_hits_when_nothing_fails() {
    assert_right(
        "--seconds 2 --seed 20250103 --faults none --hits 20 \
        --proxies 3 --outage refuse --mode lease --rules hard --collapse proxy",
    );
}

#[test]
fn stale_reads_are_found_where_nothing_is_invalidated() {
    let summary = run_line(
        "--seconds 1 --seed 20250104 --faults none --sabotage \
        --proxies 3 --outage refuse --mode lease --rules hard --collapse proxy",
    );
    assert!(summary.stale > 0 && !summary.tally.histories.is_empty(), "{summary}");
}

#[test]
fn a_run_with_too_few_hits_that_had_to_show_a_write_fails_unless_sabotaged() {
    for (line, telling_hits, is_wrong) in
        [("", TELLING_HITS, false), ("", TELLING_HITS - 1, true), ("--sabotage", 0, false)]
    {
        let mut options = Options::parse_line(&format!("--faults none {line}")).unwrap();
        let summary = Summary {
            choice: options.choose(),
            options,
            store: String::new(),
            took: Duration::from_secs(1),
            tally: Tally::default(),
            stale: 0,
            telling_hits,
            faults: Vec::new(),
            lost: 0,
        };
        assert_eq!(!summary.complaints().is_empty(), is_wrong, "{summary}");
    }
}

/// What `tests/torture` runs. Exits with 1 if something is wrong, with 2 if the options are.
#[test]
#[ignore = "run it by tests/torture, which passes its options"]
fn by_hand() {
    let options =
        Options::parse_line(&std::env::var(OPTIONS).unwrap_or_default()).unwrap_or_else(|fault| fault.exit());
    let summary = run(&options, true);
    println!("{summary}");
    std::process::exit(i32::from(!summary.complaints().is_empty()));
}
