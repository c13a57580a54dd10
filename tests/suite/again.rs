//! `again`: a write outdates once more later, since upstream may have read from a replica that had not heard of it.

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
    what_was_stored_since_the_write_is_outdated_once_more,
    a_write_that_failed_is_not_repeated,
}

fn repeated(larder: &Larder) -> bool {
    larder.admin_get("/metrics").text().contains("larder_invalidations_repeated_total 1")
}

fn what_was_stored_since_the_write_is_outdated_once_more(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/teams").shows("stored");
    site.write("POST", "/users/create").has_status(200);
    let first = site.get("/users").shows("stored").number();
    eventually("it is outdated without another write", || site.get("/users").number() > first);
    eventually("it is counted", || repeated(&site));
    site.get("/teams").shows("hit");
    assert!(!site.log().contains("unfinished"), "{}", site.log());
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
    eventually("it is outdated", || other.get("/users").number() > first);
    eventually("it is counted", || repeated(&other));
    assert!(!other.log().contains("unfinished"), "{}", other.log());
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
