//! `again`: a write invalidates once more later, since upstream may have read from a replica that had not heard of it.

use crate::support::{Larder, Reply, Site, Tier, eventually};

// Long enough for the first read after a write to be stored before the repetition.
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
'/users/create' = { families = ["users"], again = "3s" }
'/teams/create' = { families = ["teams"], again = "3s" }
"#;

on_both_tiers! {
    what_was_stored_since_the_write_is_invalidated_once_more,
    a_write_that_failed_is_not_repeated,
    a_write_without_an_answer_invalidates_once_more_later,
}

/// The API answers within this time, or Larder gives up; and a response is read twice before what is stored is invalidated again.
const UNANSWERED: &str = r#"
[server]
upstream_timeout   = "3s"
reinvalidate_after = "5s"

[[family]]
name = "users"
path = '/users'
ttl  = "60s"

[[family]]
name = "teams"
path = '/teams'
ttl  = "60s"

[invalidate]
'/users/.*' = ["users"]
'/teams/.*' = { families = ["teams"], mode = "soft", on = ["200"] }
"#;

/// What is stored after the write, and before upstream may have carried it out, is of no use once it may have.
fn a_write_without_an_answer_invalidates_once_more_later(tier: Tier) {
    let site = Site::start(tier, UNANSWERED);
    let gate = site.upstream.hold_next("POST /users/late");
    site.upstream.on("POST /users/reset", Reply::none());
    for status in [502, 504, 524] {
        site.upstream.on(&format!("POST /users/{status}"), Reply::status(status));
        site.upstream.on(&format!("POST /teams/{status}"), Reply::status(status));
    }
    for (path, family, status) in [
        ("/users/late", "/users", 504),
        ("/users/reset", "/users", 502),
        ("/users/502", "/users", 502),
        ("/teams/504", "/teams", 504),
        ("/teams/524", "/teams", 524),
    ] {
        site.get(family);
        site.write("POST", path).has_status(status);
        let first = site.get(family).shows("fwd=stale").shows("stored").number();
        site.get(family).shows("hit");
        eventually("it is invalidated without another write", || site.get(family).number() > first);
        site.get(family).shows("hit");
    }
    drop(gate);
    site.upstream.on("POST /users/500", Reply::status(500));
    site.write("POST", "/users/500").has_status(500);
    site.get("/users").shows("hit");
}

#[test]
fn an_unanswered_write_is_repeated_though_its_proxy_dies() {
    let mut site = Site::start(Tier::Redis, UNANSWERED);
    let other = site.another();
    site.upstream.on("POST /users/reset", Reply::none());
    site.write("POST", "/users/reset").has_status(502);
    site.larder.kill();
    let first = other.get("/users").shows("stored").number();
    eventually("it is invalidated", || other.get("/users").number() > first);
}

fn repeated(larder: &Larder) -> bool {
    larder.admin_get("/metrics").text().contains("larder_invalidations_repeated_total 1")
}

fn what_was_stored_since_the_write_is_invalidated_once_more(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/teams").shows("stored");
    site.write("POST", "/users/create").has_status(200);
    let first = site.get("/users").shows("stored").number();
    eventually("it is invalidated without another write", || site.get("/users").number() > first);
    eventually("it is counted", || repeated(&site));
    site.get("/teams").shows("hit");
    assert!(!site.log().contains("abandoned write intent"), "{}", site.log());
}

fn a_write_that_failed_is_not_repeated(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("POST /teams/create", Reply::status(422));
    site.write("POST", "/teams/create").has_status(422);
    site.get("/teams").shows("stored");
    site.write("POST", "/users/create").has_status(200);
    // Were the first one repeated, it would be before the second.
    eventually("the one that succeeded is repeated", || repeated(&site));
    site.get("/teams").shows("hit");
}

#[test]
fn the_repetition_outlives_the_proxy_that_took_the_write() {
    let mut site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.write("POST", "/users/create").has_status(200);
    site.larder.kill();
    let first = other.get("/users").shows("stored").number();
    eventually("it is invalidated", || other.get("/users").number() > first);
    eventually("it is counted", || repeated(&other));
    assert!(!other.log().contains("abandoned write intent"), "{}", other.log());
}

#[test]
fn a_write_that_redis_has_not_heard_of_is_repeated_too() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.redis().kill();
    eventually("Redis is missed", || site.get("/users").is("detail=store-away"));
    site.write("POST", "/users/create").has_status(200);
    site.redis().restart();
    eventually("it is repeated", || repeated(&site));
    eventually("entries are trusted again", || site.get("/users").is("hit"));
}
