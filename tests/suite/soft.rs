//! Soft invalidation: what a write invalidates is served stale while one fresh response is fetched, and not for longer than
//! the grace.

use crate::support::{Larder, Reply, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl  = "60s"

[[family]]
name = "teams"
path = '/teams'
ttl  = "60s"

[invalidate]
'/users/points' = { families = ["users"], mode = "soft", grace = "1h" }
'/users/brief'  = { families = ["users"], mode = "soft", grace = "1s" }
'/users/create' = ["users"]
'/users/both'   = { families = ["users"], mode = "soft" }
'/users/bo.h'   = ["users"]
"#;

on_both_tiers! {
    a_soft_write_leaves_the_entry_served_while_one_refresh_runs,
    a_soft_invalidated_entry_is_invalidated_when_its_grace_is_over,
    soft_writes_in_a_row_do_not_extend_the_grace,
    what_must_be_revalidated_is_validated_first,
    a_hard_write_wins_over_a_soft_one,
    a_date_of_the_very_second_validates_nothing_softly_invalidated,
    a_soft_write_that_nobody_answered_invalidates,
    what_was_fetched_before_a_soft_write_is_refreshed_again,
    explain_tells_what_is_invalidated_softly,
}

fn soft(larder: &Larder, target: &str) -> bool {
    larder.get(target).is("detail=soft-invalidated")
}

fn a_soft_write_leaves_the_entry_served_while_one_refresh_runs(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    site.get("/teams").shows("stored");
    let gate = site.upstream.hold_next("GET /users");
    site.write("POST", "/users/points").has_status(200);
    eventually("a refresh has begun", || {
        site.get("/users").shows("detail=soft-invalidated").shows("hit").carries("/users #1");
        gate.arrived() == 1
    });
    for _ in 0..5 {
        site.get("/users").shows("detail=soft-invalidated").carries("/users #1");
    }
    assert_eq!(site.upstream.count("GET /users"), 2, "one refresh at a time");
    site.get("/teams").shows("hit").hides("detail=soft-invalidated");
    gate.open();
    eventually("the refreshed response is served", || site.get("/users").text() == "/users #2");
    site.get("/users").shows("hit").hides("detail=soft-invalidated").carries("/users #2");
    assert_eq!(site.upstream.count("GET /users"), 2);
}

fn a_soft_invalidated_entry_is_invalidated_when_its_grace_is_over(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    // Refreshes fail, so that nothing but the end of the grace changes what is served.
    site.upstream.on("GET /users", Reply::status(500));
    site.write("POST", "/users/brief").has_status(200);
    eventually("its grace is over", || site.get("/users").status == 500);
    assert!(!soft(&site, "/users"), "and stays over");
}

fn soft_writes_in_a_row_do_not_extend_the_grace(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    site.upstream.on("GET /users", Reply::status(500));
    // Were the grace begun anew by each of them, this would never end.
    eventually("its grace is over although writes go on", || {
        site.write("POST", "/users/brief").has_status(200);
        site.get("/users").status == 500
    });
}

fn what_must_be_revalidated_is_validated_first(tier: Tier) {
    let site = Site::start(tier, RULES);
    for (target, directive) in
        [("/users?a", "must-revalidate"), ("/users?b", "s-maxage=60"), ("/users?c", "no-cache")]
    {
        let cached = format!("max-age=60, {directive}");
        site.upstream.on(&format!("GET {target}"), Reply::numbered().cached(&cached).header("ETag", "\"1\""));
        site.get(target).shows("stored");
    }
    site.write("POST", "/users/points").has_status(200);
    for target in ["/users?a", "/users?b", "/users?c"] {
        let not_modified = Reply::status(304).header("ETag", "\"1\"").cached("max-age=60, must-revalidate");
        site.upstream.on(&format!("GET {target}"), not_modified);
        site.get(target).shows("fwd=stale; fwd-status=304").carries(&format!("{target} #1"));
        let asked = site.upstream.last(&format!("GET {target}"));
        assert_eq!(asked.header("if-none-match"), Some("\"1\""), "a 304 spares the body");
    }
    site.get("/users?a").shows("hit").hides("detail=soft-invalidated");
}

/// The write may have come in the second in which the response was made: upstream's date says the same of both.
fn a_date_of_the_very_second_validates_nothing_softly_invalidated(tier: Tier) {
    let site = Site::start(tier, RULES);
    const MADE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    for (target, date, asks) in [("/users?a", MADE, false), ("/users?b", LATER, true)] {
        let reply =
            Reply::numbered().cached("max-age=2000000000").header("Last-Modified", MADE).header("Date", date);
        site.upstream.on(&format!("GET {target}"), reply);
        site.get(target).shows("stored");
        site.write("POST", "/users/points").has_status(200);
        site.get(target).shows("detail=soft-invalidated");
        eventually("it is refreshed", || !soft(&site, target));
        let asked = site.upstream.last(&format!("GET {target}"));
        assert_eq!(asked.header("if-modified-since").is_some(), asks, "{target}");
    }
}

fn a_hard_write_wins_over_a_soft_one(tier: Tier) {
    let site = Site::start(tier, RULES);
    for write in ["/users/create", "/users/both"] {
        site.get("/users");
        site.get("/users").shows("hit");
        let before = site.upstream.count("GET /users");
        let gate = site.upstream.hold_next("GET /users");
        site.write("POST", "/users/points").has_status(200);
        eventually("a refresh has begun", || {
            site.get("/users").shows("detail=soft-invalidated");
            gate.arrived() == 1
        });
        site.write("POST", write).has_status(200);
        assert!(site.get("/users").shows("detail=invalidated").number() > before + 1, "{write}");
        gate.open();
    }
}

fn a_soft_write_that_nobody_answered_invalidates(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    site.upstream.on("POST /users/points", Reply::none());
    site.write("POST", "/users/points").has_status(502);
    site.get("/users").shows("detail=invalidated").carries("/users #2");
}

fn what_was_fetched_before_a_soft_write_is_refreshed_again(tier: Tier) {
    let site = Site::start(tier, RULES);
    let gate = site.upstream.hold_next("GET /users");
    let reader = site.call("GET", "/users").start();
    gate.wait_for(1);
    site.write("POST", "/users/points").has_status(200);
    gate.open();
    reader.response().carries("/users #1");
    eventually("it is refreshed", || site.get("/users").text() == "/users #2");
}

fn explain_tells_what_is_invalidated_softly(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    site.wait_until_stored("/users");
    let explained = || site.admin_get("/cache/explain?url=http://localhost/users").json();
    assert_eq!(explained()["found"], "current");
    site.write("POST", "/users/points").has_status(200);
    let explanation = explained();
    assert_eq!(explanation["found"], "soft-invalidated", "{explanation}");
    assert_eq!(explanation["invalidated_since"][0]["tag"], "users", "{explanation}");
    assert!(explanation["grace_left"].as_f64().is_some_and(|left| left > 0.0 && left <= 3600.0), "{explanation}");
    assert!(explanation["now"]["because"].to_string().contains("soft invalidation"), "{explanation}");
}

#[test]
fn a_soft_invalidation_and_the_refreshed_response_reach_all_proxies() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.get("/users").shows("stored");
    site.wait_for_entries(1);
    other.get("/users").shows("hit");
    let gate = site.upstream.hold_next("GET /users");
    site.write("POST", "/users/points").has_status(200);
    eventually("the other one refreshes", || {
        other.get("/users").shows("detail=soft-invalidated").carries("/users #1");
        gate.arrived() == 1
    });
    gate.open();
    eventually("it has refreshed", || other.get("/users").shows("hit").text() == "/users #2");
    // What it has stored may still be on its way.
    eventually("and so has the first", || site.get("/users").shows("hit").number() >= 2);
}

#[test]
fn the_grace_ends_for_every_proxy() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.get("/users").shows("stored");
    site.wait_for_entries(1);
    other.get("/users").shows("hit");
    site.upstream.on("GET /users", Reply::status(500));
    site.write("POST", "/users/brief").has_status(200);
    for larder in [&other, &site.larder] {
        eventually("its grace is over", || larder.get("/users").status == 500);
        assert!(!soft(larder, "/users"));
    }
}

#[test]
fn a_strict_proxy_serves_softly_too() {
    let site = Site::start(Tier::Redis, &format!("{RULES}\n[store]\ncoherence = \"strict\"\n"));
    site.get("/users").shows("stored");
    site.write("POST", "/users/points").has_status(200);
    site.get("/users").shows("detail=soft-invalidated").carries("/users #1");
    eventually("it is refreshed", || site.get("/users").text() == "/users #2");
}

#[test]
fn a_soft_invalidated_entry_of_redis_is_served_by_a_proxy_that_has_nothing_in_memory() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.get("/users").shows("stored");
    site.wait_for_entries(1);
    site.write("POST", "/users/points").has_status(200);
    site.larder.kill();
    let next = site.another();
    next.get("/users").shows("detail=soft-invalidated").carries("/users #1");
    eventually("it is refreshed", || next.get("/users").text() == "/users #2");
}
