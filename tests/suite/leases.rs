//! The fleet protocol as its users meet it while all is well, or a proxy comes and goes. What may go wrong is in
//! `hazards.rs`.

use crate::hazards::wait_for_lease;
use crate::store_redis::replicas::replica_of;
use crate::support::client::send_raw;
use crate::support::{Plan, RedisServer, Reply, Site, Tier, Upstream, eventually};

const RULES: &str = r#"
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

/// How often Redis was asked for marks, by a hit or by the heartbeat.
fn questions(redis: &RedisServer) -> u64 {
    let counts = redis.command_counts();
    counts.iter().filter(|(name, _)| name == "zmscore").map(|(_, count)| count).sum()
}

#[test]
fn a_hit_under_a_lease_asks_redis_nothing() {
    let site = site("lease = \"10s\"");
    site.get("/users").shows("stored");
    wait_for_lease(&site);
    let (redis, before) = (site.redis.as_ref().unwrap(), questions(site.redis.as_ref().unwrap()));
    // On one connection, so that few heartbeats come in between: each asks too.
    let request = "GET /users HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut pending = send_raw(site.address, request.repeat(500).as_bytes(), false).unwrap();
    for _ in 0..500 {
        pending.head().shows("hit");
        pending.read_body(u64::MAX).unwrap();
        pending = pending.next_response();
    }
    let asked = questions(redis) - before;
    assert!(asked < 100, "{asked} questions for 500 hits");
}

/// The commands that Redis was given for entries of the family, in order.
fn commands_for_entries(redis: &RedisServer) -> Vec<String> {
    // id, time, microseconds, arguments, client, client name; the latest first
    type Logged = (u64, u64, u64, Vec<Vec<u8>>, String, String);
    let log: Vec<Logged> = redis.run(&["SLOWLOG", "GET", "-1"]);
    let is_of_entry = |line: &&Logged| line.3.get(1).is_some_and(|name| name.starts_with(b"larder:users:"));
    let of_entries = log.iter().rev().filter(is_of_entry);
    of_entries.map(|line| String::from_utf8_lossy(&line.3[0]).into_owned()).collect()
}

#[test]
fn only_a_possible_replacement_is_compared() {
    let site = site("lease = \"1s\"");
    wait_for_lease(&site);
    let redis = site.redis.as_ref().unwrap();
    redis.run::<()>(&["CONFIG", "SET", "slowlog-max-len", "100000"]);
    redis.run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    site.get("/users").shows("stored");
    eventually("it is stored", || commands_for_entries(redis) == ["GETRANGE", "SET"]);
    site.write("POST", "/users/create").has_status(200);
    site.get("/users").shows("stored");
    let all = ["GETRANGE", "SET", "GETRANGE", "GETRANGE", "SET"];
    eventually("it is replaced", || commands_for_entries(redis) == all);
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
    let fleet = site.admin_get("/cache/fleet").json();
    assert_eq!(fleet["members"][0]["lease"], "0s", "no write waits for it: {fleet}");
}

#[test]
fn a_proxy_that_is_gone_is_waited_for_once_and_forgotten() {
    let site = site("lease = \"300ms\"");
    let redis = site.redis.as_ref().unwrap();
    let mut other = site.another();
    wait_for_lease(&site);
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

#[test]
fn nothing_is_served_by_the_word_of_a_primary_that_its_replicas_have_left() {
    for coherence in ["lease", "strict"] {
        let upstream = Upstream::start();
        let store = format!(
            "\n[store]\ntimeout = \"2s\"\nlease = \"500ms\"\nwait_replicas = 1\ncoherence = {coherence:?}\n"
        );
        let plan = Plan::new(&upstream.url()).rules(&format!("{RULES}{store}"));
        let deposed = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
        let promoted = replica_of(&deposed);
        let left_behind = plan.clone().redis(&deposed.url()).start();
        eventually("the old primary is trusted", || left_behind.get("/users").is("hit"));
        let before = left_behind.get("/users").number();
        // Both take writes now, and the old one does not know.
        promoted.run::<()>(&["REPLICAOF", "NO", "ONE"]);
        promoted.run::<()>(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        let _replica = replica_of(&promoted);
        let other = plan.clone().redis(&promoted.url()).start();
        eventually("the new primary is trusted", || other.get("/users").is("hit"));
        other.write("POST", "/users/create").has_status(200).hides("store-away");
        for _ in 0..5 {
            let answer = left_behind.get("/users").hides("hit");
            assert!(answer.number() > before, "{coherence}: invalidated");
        }
    }
}
