//! The fleet protocol as its users meet it while all is well, or a proxy comes and goes. What may go wrong is in
//! `hazards.rs`.

use crate::support::{Larder, RedisServer, Reply, Site, Tier, eventually};

const RULES: &str = r#"
[server]
connect_timeout  = "100ms"
upstream_timeout = "500ms"

[[family]]
name = "users"
path = '/users'
ttl  = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

fn site(store: &str) -> Site {
    Site::start(Tier::Redis, &format!("{RULES}\n[store]\ntimeout = \"5s\"\n{store}\n"))
}

/// Waits until memory is served under a lease.
fn wait_for_lease(larder: &Larder) {
    eventually("the proxy holds a lease", || larder.admin_get("/metrics").text().contains("larder_lease_held 1"));
}

/// How often Redis was asked for marks, by a hit or by the heartbeat.
fn questions(redis: &RedisServer) -> u64 {
    let counts = redis.command_counts();
    counts.iter().filter(|(name, _)| name == "zmscore").map(|(_, count)| count).sum()
}

#[test]
fn a_hit_under_a_lease_asks_redis_nothing() {
    let site = site("");
    site.get("/users").shows("stored");
    wait_for_lease(&site);
    let (redis, before) = (site.redis.as_ref().unwrap(), questions(site.redis.as_ref().unwrap()));
    for _ in 0..500 {
        site.get("/users").shows("hit");
    }
    // The heartbeat asks once a second.
    let asked = questions(redis) - before;
    assert!(asked < 100, "{asked} questions for 500 hits");
}

#[test]
fn every_hit_of_a_strict_proxy_asks_redis() {
    let site = site("coherence = \"strict\"");
    site.get("/users").shows("stored");
    let (redis, before) = (site.redis.as_ref().unwrap(), questions(site.redis.as_ref().unwrap()));
    for _ in 0..50 {
        site.get("/users").shows("hit");
    }
    assert!(questions(redis) - before >= 50);
    assert_eq!(redis.command(&["HLEN", "{larder}:members"]), "1", "the sentinel alone");
}

#[test]
fn a_proxy_that_is_gone_is_waited_for_once_and_forgotten() {
    let site = site("lease = \"300ms\"");
    let redis = site.redis.as_ref().unwrap();
    let mut other = site.another();
    wait_for_lease(&other);
    assert_eq!(redis.command(&["HLEN", "{larder}:members"]), "3", "two and the sentinel");
    other.kill();
    site.write("POST", "/users/create").has_status(200);
    eventually("it is forgotten", || redis.command(&["HLEN", "{larder}:members"]) == "2");
    let mut third = site.another();
    wait_for_lease(&third);
    third.terminate();
    third.wait();
    assert_eq!(redis.command(&["HLEN", "{larder}:members"]), "2", "one that is told to stop leaves");
}

#[test]
fn a_failed_write_leaves_no_intent_behind() {
    let site = site("");
    let redis = site.redis.as_ref().unwrap();
    site.upstream.on("POST /users/create", Reply::status(422));
    site.write("POST", "/users/create").has_status(422);
    eventually("the intent is withdrawn", || redis.command(&["ZCARD", "{larder}:intents"]) == "1");
    site.upstream.on("POST /users/create", Reply::new("done"));
    site.write("POST", "/users/create").has_status(200);
    assert_eq!(redis.command(&["ZCARD", "{larder}:intents"]), "1", "the sentinel alone");
}
