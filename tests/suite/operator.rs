//! What an operator sees in each state of the fleet protocol, as the table of states in `deploy/operations.md` says it:
//! the log line, the metric, health, and what becomes of reads and writes.

use serde_json::Value;

use crate::support::larder::signal;
use crate::support::{Larder, Site, Tier, eventually, eventually_some};

const RULES: &str = r#"
[server]
connect_timeout  = "100ms"
upstream_timeout = "2s"

[[family]]
name = "users"
path = '/users'
ttl  = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

fn site(store: &str) -> Site {
    Site::start(Tier::Redis, &format!("{RULES}\n[store]\ntimeout = \"1s\"\nlease = \"500ms\"\n{store}\n"))
}

fn fleet(larder: &Larder) -> Value {
    serde_json::from_str(&larder.admin_get("/cache/fleet").has_status(200).text()).unwrap()
}

fn detailed(larder: &Larder) -> Value {
    serde_json::from_str(&larder.admin_get("/cache/health/detailed").text()).unwrap()
}

fn metric(larder: &Larder, sample: &str) -> Option<f64> {
    let text = larder.admin_get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ').map(str::to_owned));
    line.map(|value| value.parse().unwrap())
}

#[track_caller]
fn wait_for_lease(larder: &Larder) {
    eventually("the lease is held", || fleet(larder)["proxy"]["lease_held"] == true);
    eventually("and it is logged", || larder.log().contains("the lease is held"));
}

/// Waits until the lease is lost for this reason, and sees it in health, metrics and the log. Gives why.
#[track_caller]
fn wait_for_loss(larder: &Larder, reason: &str) -> String {
    let why = eventually_some("the lease is lost", || {
        let proxy = fleet(larder)["proxy"].clone();
        (proxy["reason"] == reason).then(|| proxy["why"].as_str().unwrap().to_owned())
    });
    assert_eq!(metric(larder, "larder_lease_held"), Some(0.0));
    let sample = format!("larder_lease_lost_total{{reason=\"{reason}\"}}");
    eventually("it is counted", || metric(larder, &sample) == Some(1.0));
    assert_eq!(detailed(larder)["fleet"]["reason"], reason);
    eventually("it is logged", || larder.log().contains("the lease is lost"));
    why
}

/// How often the log has this line.
fn times_logged(larder: &Larder, what: &str) -> usize {
    larder.log().matches(what).count()
}

#[test]
fn all_is_well() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    wait_for_lease(&site);
    wait_for_lease(&other);
    site.write("POST", "/users/create").has_status(200);
    let seen = fleet(&site);
    let members = seen["members"].as_array().unwrap();
    assert_eq!((members.len(), seen["mode"].as_str(), seen["store"].as_str()), (2, Some("shared"), Some("up")));
    assert_eq!(members.iter().filter(|member| member["is_this"] == true).count(), 1);
    assert!(members.iter().all(|member| member["synced_seconds_ago"].as_f64().unwrap() < 20.0), "{seen}");
    assert_eq!((&seen["epoch"]["cause"], &seen["intents"]["pending"]), (&Value::from("new"), &Value::from(0)));
    assert_eq!(seen["epoch"]["longest_lease"], "5s");
    assert_eq!(metric(&site, "larder_lease_held"), Some(1.0));
    eventually("marks are counted", || metric(&site, "larder_marks").unwrap() >= 1.0);
    let brief = &detailed(&site)["fleet"];
    assert_eq!((&brief["lease_held"], &brief["members"]), (&Value::from(true), &Value::from(2)));
    assert_eq!(times_logged(&site, "the lease is held"), 1, "once: {}", site.log());
}

#[test]
fn redis_goes_away_and_returns() {
    let mut site = site("");
    site.get("/users").shows("stored");
    wait_for_lease(&site);
    site.redis().kill();
    let why = wait_for_loss(&site, "store-away");
    assert!(why.contains("Redis is away"), "{why}");
    assert_eq!(metric(&site, "larder_store_up"), Some(0.0));
    let seen = fleet(&site);
    assert!(seen["store"].as_str().unwrap().starts_with("down: "), "{seen}");
    assert_eq!(
        (&seen["members"], &seen["epoch"]["cause"]),
        (&Value::Null, &Value::from("new")),
        "as of the last sync"
    );
    site.admin_get("/cache/health/detailed").has_status(503);
    site.get("/users").has_status(200).shows("detail=store-away");
    site.write("POST", "/users/create").has_status(200).shows("detail=store-away");
    assert_eq!(
        metric(&site, "larder_undelivered_invalidations").unwrap() as u64,
        fleet(&site)["undelivered"].as_u64().unwrap()
    );
    assert!(fleet(&site)["undelivered"].as_u64().unwrap() > 0);
    site.redis().restart();
    wait_for_lease(&site);
    eventually("the write is delivered", || fleet(&site)["undelivered"] == 0);
    assert_eq!(times_logged(&site, "the lease is lost"), 1, "once: {}", site.log());
    eventually("that is logged", || site.log().contains("delivered pending invalidations"));
}

#[test]
fn replicas_are_missing() {
    let site = site("wait_replicas = 1");
    eventually("it is said why there is no lease", || fleet(&site)["proxy"]["reason"] == "replicas-missing");
    let why = fleet(&site)["proxy"]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("only 0 of 1 replicas confirmed"), "{why}");
    assert_eq!(fleet(&site)["store"], "up");
    assert_eq!(metric(&site, "larder_store_up"), Some(1.0));
    for _ in 0..3 {
        site.get("/users").has_status(200).hides("hit").hides("stored");
    }
    // A write that would be lost in a failover is pending: catching up.
    site.write("POST", "/users/create").has_status(200).shows("detail=store-away");
    let seen = fleet(&site);
    assert!(seen["store"].as_str().unwrap().starts_with("catching up: "), "{seen}");
    let health: Value = serde_json::from_str(&site.admin_get("/cache/health").has_status(200).text()).unwrap();
    assert_eq!(health["cache_info"]["status"], "catching-up");
    assert!(metric(&site, "larder_undelivered_invalidations").unwrap() > 0.0);
}

/// Members that writes wait for.
fn waited_for(larder: &Larder) -> usize {
    let members = fleet(larder)["members"].as_array().unwrap().clone();
    members.iter().filter(|member| member["lease"] != "0s").count()
}

#[test]
fn a_proxy_hangs() {
    let site = site("");
    let other = site.another();
    wait_for_lease(&site);
    wait_for_lease(&other);
    signal(other.id(), "STOP");
    site.write("POST", "/users/create").has_status(200);
    eventually("it is expelled", || metric(&site, "larder_members_expelled_total") == Some(1.0));
    assert_eq!(waited_for(&site), 1);
    // A thread of its own writes the log, perhaps after the metric shows it.
    eventually("it is logged", || site.log().contains("a proxy of the fleet did not acknowledge an invalidation"));
    signal(other.id(), "CONT");
    eventually("it says so itself", || other.log().contains("the lease is lost"));
    wait_for_lease(&other);
    eventually("it is back", || waited_for(&site) == 2);
}

#[test]
fn epochs_change_and_say_why() {
    let mut site = site("");
    wait_for_lease(&site);
    for (lose, cause) in [
        (&["FLUSHALL"][..], "new"),
        (&["DEL", "{larder}:marks"], "marks lost"),
        (&["DEL", "{larder}:members"], "members lost"),
    ] {
        site.redis().command(lose);
        eventually("the new epoch is met", || fleet(&site)["epoch"]["cause"] == cause);
        let sample = format!("larder_epoch_changes_total{{cause=\"{cause}\"}}");
        eventually("it is counted", || metric(&site, &sample) == Some(1.0));
        eventually("it is logged", || site.log().contains(&format!("epoch changed: {cause}")));
        assert_eq!(detailed(&site)["fleet"]["epoch_cause"], cause);
    }
    site.redis().restart_empty();
    wait_for_lease(&site);
}

#[test]
fn a_different_lease_in_the_fleet_is_logged_once() {
    let site = site("");
    let rules = format!("{RULES}\n[store]\ntimeout = \"1s\"\nlease = \"700ms\"\n");
    let other = site.plan.clone().rules(&rules).start();
    wait_for_lease(&other);
    const ADVICE: &str = "give all Larders of a namespace the same [store] lease";
    eventually("it is logged", || times_logged(&site, ADVICE) > 0);
    for _ in 0..3 {
        site.write("POST", "/users/create").has_status(200);
        other.write("POST", "/users/create").has_status(200);
    }
    assert_eq!((times_logged(&site, ADVICE), times_logged(&other, ADVICE)), (1, 1));
    assert_eq!(fleet(&site)["epoch"]["longest_lease"], "700ms");
}

#[test]
fn marks_are_trimmed() {
    let site = site("marks_max = 1024");
    wait_for_lease(&site);
    let age = |seen: &Value| seen["epoch"]["floor_age_seconds"].as_f64().unwrap();
    let floor = fleet(&site)["epoch"]["floor"].as_u64().unwrap();
    // As many instances were invalidated before.
    let before: Vec<String> =
        (0..1024).flat_map(|tag| [(floor + 1).to_string(), format!("users:{tag}")]).collect();
    // No mark is above the last sequence.
    site.redis.as_ref().unwrap().command(&["HSET", "{larder}:meta", "seq", &(floor + 1).to_string()]);
    let words = ["ZADD", "{larder}:marks"].into_iter().chain(before.iter().map(String::as_str));
    site.redis.as_ref().unwrap().command(&words.collect::<Vec<_>>());
    site.write("POST", "/users/create").has_status(200);
    let seen = fleet(&site);
    assert!(seen["epoch"]["floor"].as_u64().unwrap() > floor, "{seen}");
    assert_eq!(seen["epoch"]["marks"], 1024);
    // The floor is as old as the epoch, and its age is read a moment later.
    assert!(age(&seen) <= seen["epoch"]["age_seconds"].as_f64().unwrap() + 0.1, "{seen}");
    eventually("the metrics say so", || metric(&site, "larder_marks") == Some(1024.0));
    assert!(metric(&site, "larder_floor_age_seconds").is_some());
}
