//! `/cache/bypass`: an operator has a family forwarded for a while.

use crate::support::{Larder, Site, Tier, eventually, larder};

const RULES: &str = r#"
[[family]]
name = "booking:stats"
path = '/stats'
ttl = "60s"

[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "search"
path = '/search'
methods = ["GET", "POST", "QUERY"]
ttl = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

on_both_tiers! {
    a_bypassed_family_is_forwarded_until_the_bypass_ends,
    a_bypass_ends_by_itself,
    reads_with_content_are_forwarded_too,
}

fn reads_with_content_are_forwarded_too(tier: Tier) {
    let site = Site::start(tier, RULES);
    let read = |method: &str| {
        site.call(method, "/search").header("Content-Type", "application/json").body("{\"q\":1}").send()
    };
    for method in ["POST", "QUERY"] {
        read(method).shows("stored");
        read(method).shows("hit");
    }
    site.admin_post("/cache/bypass/search?for=10m").has_status(200);
    for method in ["POST", "QUERY"] {
        read(method).shows("detail=bypassed");
    }
}

fn a_bypassed_family_is_forwarded_until_the_bypass_ends(tier: Tier) {
    let site = Site::start(tier, RULES);
    for path in ["/stats", "/users"] {
        site.get(path);
        site.wait_until_stored(path);
    }
    let begun = site.admin_post("/cache/bypass/booking?for=10m").has_status(200).json();
    let scope = if tier == Tier::Redis { "fleet" } else { "proxy" };
    assert_eq!(
        (&begun["bypasses"][0]["family"], &begun["scope"]),
        (&"booking".into(), &scope.into()),
        "{begun:#}"
    );
    assert_eq!(site.admin_get("/cache/bypass").json()["bypasses"], begun["bypasses"]);
    site.get("/stats").shows("detail=bypassed").carries("/stats #2");
    site.get("/stats").shows("detail=bypassed").carries("/stats #3");
    site.get("/users").shows("hit");
    // It survives a reload.
    site.admin_post("/rules/reload").has_status(200);
    site.get("/stats").shows("detail=bypassed");
    let ended = site.admin_call("DELETE", "/cache/bypass/booking").send().has_status(200).json();
    assert!(ended["bypasses"].as_array().unwrap().is_empty(), "{ended:#}");
    site.get("/stats").shows("hit").carries("/stats #1");
    site.admin_call("DELETE", "/cache/bypass/booking").send().fails_with(404);
    for (target, status) in [("bookin", 404), ("users?for=2d", 400), ("users?for=x", 400), ("users?fro=1m", 400)] {
        site.admin_post(&format!("/cache/bypass/{target}")).fails_with(status);
    }
}

fn a_bypass_ends_by_itself(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users");
    site.wait_until_stored("/users");
    site.admin_post("/cache/bypass/users?for=1s").has_status(200);
    site.get("/users").shows("detail=bypassed");
    eventually("it is over", || site.get("/users").is("hit"));
    assert!(site.admin_get("/cache/bypass").json()["bypasses"].as_array().unwrap().is_empty());
}

/// How many proxies follow, of how many.
fn followers(answer: &serde_json::Value) -> [u64; 2] {
    ["follow", "of"].map(|name| answer["followers"][name].as_u64().unwrap())
}

#[test]
fn a_bypass_holds_in_the_whole_fleet_and_for_proxies_that_start_later() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.get("/users");
    site.wait_for_entries(1);
    other.get("/users").shows("hit");
    let begun = site.admin_post("/cache/bypass/users?for=10m").has_status(200).json();
    assert_eq!(followers(&begun), [2, 2], "{begun:#}");
    let later = site.another();
    let mut end = None;
    for proxy in [&site.larder, &other, &later] {
        proxy.get("/users").shows("fwd=bypass; detail=bypassed");
        proxy.get("/stats").hides("detail=bypassed");
        let listed = proxy.admin_get("/cache/fleet").json()["bypasses"].clone();
        assert_eq!((&listed[0]["family"], &listed[0]["by"]), (&"users".into(), &"local".into()), "{listed:#}");
        assert_eq!(*end.get_or_insert_with(|| listed.clone()), listed, "all say the same end");
    }
    // Any proxy ends it for all.
    let ended = later.admin_call("DELETE", "/cache/bypass/users").send().has_status(200).json();
    assert_eq!(followers(&ended), [3, 3], "{ended:#}");
    for proxy in [&site.larder, &other, &later] {
        proxy.get("/users").shows("hit").carries("/users #1");
    }
}

#[test]
fn a_bypass_of_the_fleet_ends_by_itself_by_the_clock_of_redis() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.get("/users");
    site.wait_for_entries(1);
    site.admin_post("/cache/bypass/users?for=1s").has_status(200);
    other.get("/users").shows("detail=bypassed");
    eventually("it is over", || other.get("/users").is("hit") && site.get("/users").is("hit"));
    let later = site.another();
    later.get("/users").shows("hit");
}

#[test]
fn larder_bypass_says_how_many_proxies_follow() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    let run = |proxy: &Larder, arguments: &[&str]| {
        larder(None, &[&["bypass"], arguments, &["--admin", &format!("http://{}", proxy.admin)]].concat()).stdout
    };
    let output = run(&site, &["users", "--for", "10m"]);
    assert!(output.contains("All 2 proxies follow.") && output.contains("users"), "{output}");
    assert!(run(&other, &[]).contains("users"));
    let output = run(&other, &["users", "--off"]);
    assert!(output.contains("All 2 proxies follow.") && output.contains("No family is bypassed."), "{output}");
}

#[test]
fn without_redis_answering_a_bypass_is_refused() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.redis().stop();
    let refused = || site.admin_post("/cache/bypass/users?for=1m").status == 503;
    eventually("it is refused", refused);
}
