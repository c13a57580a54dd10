//! A whole installation: an upstream, Larder before it, and Redis if the test is about Redis.

use std::ops::Deref;

use super::larder::{Larder, Plan, store_says};
use super::redis::RedisServer;
use super::upstream::Upstream;
use super::{eventually, eventually_some};

/// Where entries live.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tier {
    Embedded,
    Redis,
}

/// Larder and what it needs. Dropped in this order: Larder first.
pub struct Site {
    pub larder: Larder,
    pub upstream: Upstream,
    pub redis: Option<RedisServer>,
    pub plan: Plan,
}

impl Site {
    /// With these rules; `[server] upstream`, the listeners and `[store] redis` need not be in them.
    #[track_caller]
    pub fn start(tier: Tier, rules: &str) -> Site {
        Site::start_before(Upstream::start(), tier, rules)
    }

    /// Before this upstream: for a test that must have scripted it before Larder sends its first request.
    #[track_caller]
    pub fn start_before(upstream: Upstream, tier: Tier, rules: &str) -> Site {
        let redis = (tier == Tier::Redis).then(RedisServer::start);
        let plan = Plan::new(&upstream.url()).rules(rules);
        let plan = redis.iter().fold(plan, |plan, redis| plan.redis(&redis.url()));
        let larder = plan.start();
        let is_about_leases = ["lease", "timeout"].iter().any(|name| store_says(rules, name));
        if let Some(redis) = redis.as_ref().filter(|_| !is_about_leases) {
            make_epoch_old(redis);
        }
        Site { larder, upstream, redis, plan }
    }

    /// Waits until this is stored. Sends HEAD, which neither joins a fetch nor makes an entry.
    #[track_caller]
    pub fn wait_until_stored(&self, target: &str) {
        eventually("the response is stored", || self.call("HEAD", target).send().is("hit"));
    }

    /// Another proxy like this one.
    #[track_caller]
    pub fn another(&self) -> Larder {
        self.plan.start()
    }

    /// Waits until Redis holds this many entries: a response is in memory before its client has all of it, and in
    /// Redis soon after.
    #[track_caller]
    pub fn wait_for_entries(&self, count: usize) {
        eventually("the entries are in Redis", || self.entries_in_redis() >= count);
    }

    /// How many entries Redis holds.
    pub fn entries_in_redis(&self) -> usize {
        let redis = self.redis.as_ref().expect("the test is about Redis");
        redis.command(&["KEYS", "*:v1"]).lines().count()
    }

    /// The Redis of a site that has one.
    pub fn redis(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("the test is about Redis")
    }
}

/// Until an epoch is as old as the longest lease, writes wait for leases that Redis may have lost: here there were none, and
/// tests that are not about leases have long ones.
#[track_caller]
fn make_epoch_old(redis: &RedisServer) {
    let meta = eventually_some("the epoch has begun", || {
        let names = redis.command(&["KEYS", "*:meta"]);
        names.lines().next().map(str::to_owned)
    });
    redis.command(&["HSET", &meta, "born", "1"]);
}

impl Deref for Site {
    type Target = Larder;

    fn deref(&self) -> &Larder {
        &self.larder
    }
}
