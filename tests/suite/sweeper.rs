//! The sweeper: one proxy at a time removes what is invalidated from Redis, and counts what is not.

use serde_json::Value;

use crate::support::{Larder, Plan, RedisServer, Reply, Site, Tier, Upstream, eventually, eventually_some};

const RULES: &str = r#"
[store]
namespace = "hotel"
sweep_rate = 100000
sweep_pause = "1s"

[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "1h"

[[family]]
name = "room"
path = '/rooms/(?<id>\d+)'
ttl = "1h"

[invalidate]
'/users/(?<id>\d+)/activate' = ["user:{id}"]
'/users/all'                 = ["user"]
"#;

const LEASE: &str = "{hotel}:sweeper";

fn redis(site: &Site) -> &RedisServer {
    site.redis.as_ref().expect("the test is about Redis")
}

/// Names of entries in Redis.
fn entries(site: &Site, pattern: &str) -> Vec<String> {
    redis(site).command(&["KEYS", pattern]).lines().map(str::to_owned).collect()
}

/// The statistics as soon as they come from a walk that fits.
fn key_stats(larder: &Larder, fits: impl Fn(&Value) -> bool) -> Value {
    eventually_some("a walk has ended", || {
        let stats = larder.admin_get("/cache/stats").json();
        (!stats["key_stats"].is_null() && fits(&stats)).then_some(stats)
    })
}

fn fill(site: &Site, count: usize) {
    for id in 0..count {
        site.get(&format!("/users/{id}")).shows("stored");
        site.get(&format!("/rooms/{id}")).shows("stored");
    }
    site.wait_for_entries(2 * count);
}

#[test]
fn what_is_invalidated_goes_and_what_is_current_stays() {
    let site = Site::start(Tier::Redis, RULES);
    fill(&site, 5);
    site.write("POST", "/users/3/activate").has_status(200);
    // Stored again after the write: current, under the same name.
    site.write("POST", "/users/4/activate").has_status(200);
    site.get("/users/4").carries("/users/4 #2").shows("stored");
    eventually("the invalidated entry is gone", || entries(&site, "hotel:user:3:*").is_empty());
    key_stats(&site, |stats| stats["key_counts"]["user_keys"] == 4);
    assert_eq!(entries(&site, "hotel:*:v1").len(), 9);
    let another = site.another();
    another.get("/users/4").shows("hit").carries("/users/4 #2");
    another.get("/rooms/3").shows("hit");
    let metrics = site.admin_get("/metrics").text();
    assert!(!metrics.contains("larder_swept_total 0\n"), "{metrics}");
    assert!(metrics.contains(r#"larder_stored_keys{family="user"} 4"#), "{metrics}");
}

#[test]
fn entries_of_another_epoch_go() {
    let site = Site::start(Tier::Redis, RULES);
    fill(&site, 5);
    redis(&site).run::<()>(&["DEL", "{hotel}:marks"]);
    eventually("all of them are gone", || entries(&site, "hotel:*:v1").is_empty());
}

#[test]
fn entries_of_another_version_are_counted_and_left_to_their_time() {
    let site = Site::start(Tier::Redis, RULES);
    let name = "hotel:user:1:00000000000000000000000000000000:v1";
    redis(&site).run::<()>(&["SET", name, "LRD0 of long ago"]);
    let stats = key_stats(&site, |stats| stats["key_stats"]["unreadable"] == 1);
    assert_eq!(
        (&stats["key_counts"]["user_keys"], &stats["key_stats"]["bytes"]["user_bytes"]),
        (&1.into(), &16.into())
    );
    assert_eq!(entries(&site, "hotel:*:v1"), [name]);
}

#[test]
fn every_proxy_shows_what_the_sweeper_has_counted() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.upstream.on("/rooms/1", Reply::filled(5000));
    fill(&site, 3);
    let lengths = |pattern: &str| -> u64 {
        entries(&site, pattern).iter().map(|name| redis(&site).run::<u64>(&["STRLEN", name])).sum()
    };
    let (users, rooms) = (lengths("hotel:user:*"), lengths("hotel:room:*"));
    assert!(rooms > 5000);
    for larder in [&site.larder, &other] {
        let stats = key_stats(larder, |stats| stats["key_counts"]["total_keys"] == 6);
        assert_eq!((&stats["key_counts"]["user_keys"], &stats["key_counts"]["room_keys"]), (&3.into(), &3.into()));
        let bytes = &stats["key_stats"]["bytes"];
        assert_eq!((&bytes["user_bytes"], &bytes["room_bytes"]), (&users.into(), &rooms.into()));
        assert_eq!(bytes["total_bytes"], users + rooms);
        assert!(stats["key_stats"]["age_seconds"].is_u64(), "{stats:#}");
        let families = larder.admin_get("/cache/families").json();
        let room = &families["families"][1];
        assert_eq!((&room["keys"], &room["bytes"]), (&3.into(), &rooms.into()), "{families:#}");
        let metrics = larder.admin_get("/metrics").text();
        assert!(metrics.contains(&format!("larder_stored_bytes{{family=\"room\"}} {rooms}")), "{metrics}");
    }
}

#[test]
fn one_proxy_sweeps_and_when_it_dies_another_does() {
    let mut site = Site::start(Tier::Redis, RULES);
    let mut other = site.another();
    let sweeps = |larder: &Larder| {
        let stats = larder.admin_get("/cache/stats").json();
        matches!(stats["sweeper"].as_str(), Some("resting" | "sweeping"))
    };
    eventually("one of them sweeps", || sweeps(&site.larder) || sweeps(&other));
    let holder = redis(&site).command(&["GET", LEASE]);
    let by = key_stats(&site, |_| true)["key_stats"]["by"].as_str().unwrap().to_owned();
    assert_eq!(by, holder);
    assert!(sweeps(&site.larder) != sweeps(&other), "only one of them");
    let is_first = sweeps(&site.larder);
    if is_first { &mut site.larder } else { &mut other }.kill();
    let left = if is_first { &other } else { &site.larder };
    key_stats(left, |stats| stats["key_stats"]["by"] != *holder);
    assert!(sweeps(left));
}

#[test]
fn a_walk_asks_each_entry_a_few_questions_and_no_more() {
    let mut site = Site::start(Tier::Redis, &RULES.replace("sweep_rate = 100000", "sweep_rate = 0"));
    fill(&site, 60);
    // From here on one proxy, which sweeps and serves nobody; and walks once in the time of the test.
    site.larder.kill();
    redis(&site).run::<()>(&["CONFIG", "RESETSTAT"]);
    let plan = site.plan.clone().rules(&RULES.replace("\"1s\"", "\"3s\""));
    let sweeper = plan.start();
    let walked = || redis(&site).command(&["EXISTS", "{hotel}:key_stats"]) == "1";
    eventually("a walk has ended", walked);
    let counts = redis(&site).command_counts();
    let count = |name: &str| counts.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
    let dbsize: u64 = redis(&site).run(&["DBSIZE"]);
    // SCAN looks at about a hundred keys in a step, and may meet an entry twice where its table grows or shrinks.
    assert!((120..=240).contains(&count("strlen")), "{counts:?}");
    // Once each, since their beginnings are short; the lease and the last key statistics are read so, too.
    assert!((count("strlen")..count("strlen") + 60).contains(&count("getrange")), "{counts:?}");
    assert!(count("scan") <= dbsize / 100 * 2 + 3, "{counts:?}");
    assert_eq!(count("unlink"), 0, "{counts:?}");
    drop(sweeper);
}

#[test]
fn without_a_rate_nobody_sweeps() {
    let site = Site::start(Tier::Redis, &RULES.replace("sweep_rate = 100000", "sweep_rate = 0"));
    fill(&site, 2);
    site.write("POST", "/users/all").has_status(200);
    let another = site.plan.clone().rules(&RULES.replace("hotel", "other")).start();
    // The namespace beside it has been swept: there was time enough.
    key_stats(&another, |_| true);
    let stats = site.admin_get("/cache/stats").json();
    assert_eq!((&stats["sweeper"], &stats["key_stats"]), (&"off".into(), &Value::Null));
    assert_eq!(entries(&site, "hotel:*:v1").len(), 4);
    assert_eq!(redis(&site).command(&["EXISTS", LEASE, "{hotel}:key_stats"]), "0");
}

#[test]
fn a_walk_that_has_lost_its_lease_stops() {
    let site = Site::start(Tier::Redis, &RULES.replace("sweep_rate = 100000", "sweep_rate = 1"));
    // A key a second: the walk takes longer than it takes to see that the lease is another one's.
    fill(&site, 15);
    let sweeper = || site.admin_get("/cache/stats").json()["sweeper"].as_str().unwrap().to_owned();
    eventually("it sweeps", || sweeper() == "sweeping");
    redis(&site).run::<()>(&["SET", LEASE, "thief", "EX", "100"]);
    eventually("it has stopped", || sweeper() == "elsewhere");
    assert_eq!(redis(&site).command(&["EXISTS", "{hotel}:key_stats"]), "0");
    assert_eq!(redis(&site).command(&["GET", LEASE]), "thief");
}

#[test]
fn a_right_that_the_sweeper_lacks_is_told_once() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    redis.run::<()>(&["ACL", "SETUSER", "former", "on", ">x", "~*", "&*", "+@all", "-strlen"]);
    redis.run::<()>(&["SET", "hotel:user:1:00000000000000000000000000000000:v1", "LRD0 of long ago"]);
    let url = redis.url().replace("redis://", "redis://former:x@");
    let larder = Plan::new(&upstream.url()).rules(RULES).redis(&url).start();
    let times_logged = || larder.log().matches("Redis is not swept").count();
    eventually("it is logged", || times_logged() > 0);
    assert!(larder.log().contains("lacks a permission") && larder.log().contains("deploy/README.md"));
    // And everything else works.
    larder.get("/users/1").shows("stored");
    larder.get("/users/1").shows("hit");
    let scans = || redis.command_counts().iter().find(|(name, _)| name == "scan").map_or(0, |(_, count)| *count);
    let before = scans();
    eventually("it has tried again", || scans() > before + 1);
    assert_eq!(times_logged(), 1);
}
