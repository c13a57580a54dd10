//! The options of a run, from the command line of `tests/torture` or by its seed.

use std::fmt;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::faults::Fault;

/// Runs readers and writers against a fleet, injects faults, and checks every read. What is left out of
/// --proxies, --outage, --mode, --rules, --collapse and --through is decided by the seed, and printed.
#[derive(Parser, Debug, Clone)]
#[command(name = "tests/torture")]
pub struct Options {
    /// How long clients run; longer if it takes longer to inject each fault once.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// By the seed: 1 to 3.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub proxies: Option<u32>,
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub readers: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub writers: u32,
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub registers: u32,
    /// How long upstream takes at most, milliseconds; one answer in ten takes up to 7 times as long.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub upstream: u64,
    /// all, none, or names with commas between them.
    #[arg(long, default_value = "all", value_parser = parse_faults)]
    pub faults: Faults,
    /// Instead of other faults: stops Redis over and over, each time for so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, conflicts_with_all = ["faults", "embedded", "cluster"])]
    pub pause: Option<Duration>,
    /// With --pause: how many seconds Redis runs between two pauses.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "2.5", requires = "pause")]
    pub pause_every: Duration,
    /// The least hit share, in percent, that the run must reach. Without it any will do.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub hits: Option<u64>,
    /// Of every random choice. What the processes make of it differs all the same. Default: drawn.
    #[arg(long)]
    pub seed: Option<u64>,
    /// `[store] on_outage`. By the seed: either.
    #[arg(long, value_enum)]
    pub outage: Option<Outage>,
    /// `[store] coherence`. By the seed: lease or strict.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// How writes invalidate. By the seed: any.
    #[arg(long, value_enum)]
    pub rules: Option<Rules>,
    /// `collapse` of each family. By the seed: either.
    #[arg(long, value_enum)]
    pub collapse: Option<Collapse>,
    /// `write_through` of the registers. By the seed: either.
    #[arg(long)]
    pub through: Option<bool>,
    /// `[store] lease`, milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub lease: u64,
    /// `[store] timeout`, milliseconds: short enough for a pause of Redis to be noticed, and long enough for a busy machine.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub timeout: u64,
    /// One proxy that keeps everything in memory, without Redis.
    #[arg(long)]
    pub embedded: bool,
    /// A cluster of three primaries and a replica each instead of one Redis.
    #[arg(long, conflicts_with = "embedded")]
    pub cluster: bool,
    /// `[[warm]]` fetches all registers and their list at startup, every second and after each invalidation.
    #[arg(long)]
    pub warm: bool,
    /// Two reads in five are of responses that only authorized callers may get, and writes end authorizations.
    #[arg(long)]
    pub authorize: bool,
    /// Leaves [invalidate] out of the rules (with --authorize what ends authorizations alone), and with `--rules again` only `again`: the run must find stale reads, or it
    /// proves nothing.
    #[arg(long)]
    pub sabotage: bool,
}

/// `[store] on_outage`.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    Forward,
    Refuse,
}

/// `[store] coherence`.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Lease,
    Strict,
    Eventual,
}

/// How writes invalidate.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// At once.
    Hard,
    /// `mode = "soft"`, with the shortest grace.
    Soft,
    /// At once and, for an upstream that reads from replicas which lag, once more. Without the faults by which that is forgotten.
    Again,
}

/// `collapse` of each family.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collapse {
    Proxy,
    Fleet,
}

/// The faults of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// What the seed may decide, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub seed: u64,
    pub proxies: u32,
    pub outage: Outage,
    pub mode: Mode,
    pub rules: Rules,
    pub collapse: Collapse,
    /// `write_through` of the registers.
    pub through: bool,
}

impl Options {
    /// From what was typed after the name of the script.
    pub fn parse_line(line: &str) -> Result<Options, clap::Error> {
        let mut options = Options::try_parse_from(["tests/torture"].into_iter().chain(line.split_whitespace()))?;
        if options.embedded {
            options.proxies = Some(1);
        }
        if options.pause.is_some() {
            options.faults.0.clear();
        }
        let (embedded, cluster) = (options.embedded, options.cluster);
        options.faults.0.retain(|fault| match (embedded, cluster) {
            (true, _) => !fault.needs_redis(),
            (false, true) => fault.fits_a_cluster(),
            (false, false) => !fault.needs_a_cluster(),
        });
        Ok(options)
    }

    /// Decides by the seed what was left out, and leaves out what then cannot be injected. Each choice is drawn whether
    /// it is needed or not, so that the same seed with one more option decides the others alike.
    pub fn choose(&mut self) -> Choice {
        let seed = self.seed.unwrap_or_else(rand::random);
        let mut random = StdRng::seed_from_u64(seed);
        let proxies = random.random_range(1..=3);
        let outage = [Outage::Forward, Outage::Refuse][random.random_range(0..2)];
        let mode = [Mode::Lease, Mode::Strict][random.random_range(0..2)];
        let rules = [Rules::Hard, Rules::Soft, Rules::Again][random.random_range(0..3)];
        let collapse = [Collapse::Proxy, Collapse::Fleet][random.random_range(0..2)];
        let through = random.random();
        let choice = Choice {
            seed,
            proxies: self.proxies.unwrap_or(proxies),
            outage: self.outage.unwrap_or(outage),
            mode: self.mode.unwrap_or(mode),
            rules: self.rules.unwrap_or(rules),
            collapse: self.collapse.unwrap_or(collapse),
            through: self.through.unwrap_or(through),
        };
        if choice.rules == Rules::Again {
            // What is to be repeated is in Redis, and of a proxy without it in its own memory.
            let embedded = self.embedded;
            self.faults.0.retain(|fault| !(fault.makes_redis_forget() || embedded && fault.ends_a_proxy()));
        }
        choice
    }

    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease)
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { seed, proxies, outage, mode, rules, collapse, through } = self;
        let (outage, mode, rules, collapse) = (name(outage), name(mode), name(rules), name(collapse));
        write!(
            f,
            "--seed {seed} --proxies {proxies} --outage {outage} --mode {mode} --rules {rules} --collapse {collapse} \
             --through {through}"
        )
    }
}

/// As it is typed, which is also how `rules.toml` says it.
pub fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is hidden").get_name().to_owned()
}

fn parse_faults(text: &str) -> Result<Faults, String> {
    match text {
        "all" => Ok(Faults(Fault::value_variants().to_vec())),
        "none" => Ok(Faults(Vec::new())),
        names => names.split(',').map(|name| Fault::from_str(name, false)).collect::<Result<_, _>>().map(Faults),
    }
    .map_err(|_| format!("{text:?} is not all, none, or some of {}", names()))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text:?} is not a number of seconds, 0.01 to 3600"))
}

fn names() -> String {
    let names: Vec<_> = Fault::value_variants().iter().map(ToString::to_string).collect();
    names.join(",")
}

#[test]
fn options_are_read_as_typed() {
    let options = Options::parse_line("--seconds 3 --faults kill-proxy,flush-all --seed 7 --mode strict").unwrap();
    assert_eq!((options.seconds, options.seed, options.mode), (3, Some(7), Some(Mode::Strict)));
    assert_eq!(options.faults, Faults(vec![Fault::KillProxy, Fault::FlushAll]));
    assert_eq!((options.proxies, options.readers, options.writers), (None, 32, 4));
    assert_eq!(Options::parse_line("").unwrap().faults.0.len(), Fault::value_variants().len() - 2);
    let cluster = Options::parse_line("--cluster").unwrap().faults.0;
    assert!(cluster.contains(&Fault::Failover) && !cluster.contains(&Fault::CutLink));
    assert!(Options::parse_line("--faults none").unwrap().faults.0.is_empty());
    let embedded = Options::parse_line("--embedded").unwrap();
    assert_eq!(embedded.proxies, Some(1));
    assert!(embedded.faults.0.contains(&Fault::KillProxy) && !embedded.faults.0.contains(&Fault::FlushAll));
    let pauses = Options::parse_line("--pause 1.5").unwrap();
    assert!(pauses.faults.0.is_empty());
    assert_eq!(pauses.pause, Some(Duration::from_millis(1500)));
    assert_eq!(pauses.pause_every, Duration::from_millis(2500));
    for wrong in [
        "--faults rain",
        "--mode lax",
        "--proxies 0",
        "--quickly",
        "--pause 0",
        "--pause-every 1",
        "--pause 1 --faults flush-all",
    ] {
        assert!(Options::parse_line(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_seed_decides_only_options_that_were_left_out() {
    let choose = |line: &str| Options::parse_line(line).unwrap().choose();
    let choices: Vec<_> = (0..100).map(|seed| choose(&format!("--seed {seed} --mode strict"))).collect();
    assert!(choices.iter().all(|choice| choice.mode == Mode::Strict));
    for proxies in 1..=3 {
        assert!(choices.iter().any(|choice| choice.proxies == proxies), "{proxies} proxies");
    }
    for choice in choices {
        assert_eq!(choose(&choice.to_string()), choice, "what is printed repeats it");
        assert_eq!(choose(&format!("--seed {}", choice.seed)).rules, choice.rules);
    }
    let mut again = Options::parse_line("--rules again").unwrap();
    again.choose();
    assert!(again.faults.0.contains(&Fault::PauseRedis) && !again.faults.0.contains(&Fault::FlushAll));
}
