//! What a run is told, on the command line of `tests/torture`.

use std::fmt;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::faults::Fault;

/// Lets readers and writers loose on a fleet, breaks what can break, and checks every read.
#[derive(Parser, Debug, Clone)]
#[command(name = "tests/torture")]
pub struct Options {
    /// How long clients run; longer if it takes longer to inject each fault once.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub proxies: u32,
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub readers: u32,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub writers: u32,
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub registers: u32,
    /// all, none, or names with commas between them.
    #[arg(long, default_value = "all", value_parser = parse_faults)]
    pub faults: Faults,
    /// Of every random choice. What the processes make of it differs all the same. Default: drawn.
    #[arg(long)]
    pub seed: Option<u64>,
    /// `[store] coherence`; left out: the default of the binary.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// `[store] lease`, milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub lease: u64,
    /// One proxy that keeps everything in memory, without Redis.
    #[arg(long)]
    pub embedded: bool,
    /// A cluster of three primaries and a replica each instead of one Redis.
    #[arg(long, conflicts_with = "embedded")]
    pub cluster: bool,
    /// Leaves [invalidate] out of the rules: the run must find stale reads, or it proves nothing.
    #[arg(long)]
    pub sabotage: bool,
}

/// `[store] coherence`.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Lease,
    Strict,
    Eventual,
}

/// The faults of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Options {
    /// From what was typed after the name of the script.
    pub fn parse_line(line: &str) -> Result<Options, clap::Error> {
        let mut options = Options::try_parse_from(["tests/torture"].into_iter().chain(line.split_whitespace()))?;
        if options.embedded {
            options.proxies = 1;
        }
        let (embedded, cluster) = (options.embedded, options.cluster);
        options.faults.0.retain(|fault| match (embedded, cluster) {
            (true, _) => !fault.needs_redis(),
            (false, true) => fault.fits_a_cluster(),
            (false, false) => !fault.needs_a_cluster(),
        });
        Ok(options)
    }

    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease)
    }

    /// How much older than an acknowledged write a read may be.
    pub fn slack(&self) -> Duration {
        if self.mode == Some(Mode::Eventual) { self.lease() } else { Duration::ZERO }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Lease => "lease",
            Mode::Strict => "strict",
            Mode::Eventual => "eventual",
        })
    }
}

fn parse_faults(text: &str) -> Result<Faults, String> {
    match text {
        "all" => Ok(Faults(Fault::value_variants().to_vec())),
        "none" => Ok(Faults(Vec::new())),
        names => names.split(',').map(|name| Fault::from_str(name, false)).collect::<Result<_, _>>().map(Faults),
    }
    .map_err(|_| format!("{text:?} is not all, none, or some of {}", names()))
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
    assert_eq!((options.proxies, options.readers, options.writers), (3, 32, 4));
    assert_eq!(Options::parse_line("").unwrap().faults.0.len(), Fault::value_variants().len() - 2);
    let cluster = Options::parse_line("--cluster").unwrap().faults.0;
    assert!(cluster.contains(&Fault::Failover) && !cluster.contains(&Fault::CutLink));
    assert!(Options::parse_line("--faults none").unwrap().faults.0.is_empty());
    let embedded = Options::parse_line("--embedded").unwrap();
    assert_eq!(embedded.proxies, 1);
    assert!(embedded.faults.0.contains(&Fault::KillProxy) && !embedded.faults.0.contains(&Fault::FlushAll));
    for wrong in ["--faults rain", "--mode lax", "--proxies 0", "--quickly"] {
        assert!(Options::parse_line(wrong).is_err(), "{wrong}");
    }
}
