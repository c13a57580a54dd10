//! What the tests use: a client, an upstream, gates, and the processes.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub mod client;
pub mod cluster;
pub mod gate;
pub mod larder;
pub mod load;
pub mod redis;
pub mod sentinels;
pub mod site;
pub mod upstream;
pub mod verdict;

pub use client::{Failure, Response};
pub use cluster::RedisCluster;
pub use gate::Gate;
pub use larder::{Larder, Plan, larder};
pub use load::Load;
pub use redis::RedisServer;
pub use sentinels::Sentinels;
pub use site::{Site, Tier};
pub use upstream::{Reply, Upstream};
pub use verdict::{Verdict, message};

/// The longest that any test waits for anything. Only a failing test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits at random, for at most `LARDER_TEST_PAUSE` milliseconds; not at all by default. The steps of a test call it: a run with
/// pauses fails the tests that pass only where the test is faster than Larder.
#[allow(clippy::disallowed_methods, reason = "no runtime here")]
pub fn pause_at_random() {
    static LONGEST: LazyLock<u64> =
        LazyLock::new(|| std::env::var("LARDER_TEST_PAUSE").map_or(0, |longest| longest.parse().unwrap()));
    if *LONGEST > 0 {
        std::thread::sleep(Duration::from_millis(rand::random_range(0..=*LONGEST)));
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(what, || condition().then_some(()));
}

/// Waits until `attempt` gives something.
#[track_caller]
#[allow(clippy::disallowed_methods, reason = "no runtime here, and what is waited for is in another process")]
pub fn eventually_some<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
