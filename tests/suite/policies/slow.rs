//! `stale_while_slow`: a stale response stands in for one that upstream takes too long for.

use crate::support::client::Pending;
use crate::support::{Reply, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users(/.*)?'
stale_while_slow = "50ms"

[[family]]
name = "clock"
path = '/clock'
stale_while_slow = "50ms"

[invalidate]
'/users/create' = ["users"]
'/users/points' = { families = ["users"], mode = "soft", grace = "1h" }
"#;

on_both_tiers! {
    a_stale_response_is_served_when_upstream_is_slow,
    a_quick_upstream_is_waited_for,
    followers_are_served_stale_too,
    a_write_while_the_request_waits_is_not_passed_over,
    what_must_not_be_served_stale_is_waited_for,
    what_a_write_has_invalidated_is_never_served_in_its_place,
    what_a_soft_write_invalidated_is_served_when_upstream_is_slow,
}

fn start(site: &Site, target: &str) -> Pending {
    site.call("GET", target).start()
}

fn cached(body: &str) -> Reply {
    Reply::new(body).cached("max-age=60").header("ETag", "\"2\"")
}

/// A site with a stale response, and upstream holding the next one back.
fn stale_site(tier: Tier, target: &str, directives: &str) -> Site {
    let site = Site::start(tier, RULES);
    site.upstream.script(&format!("GET {target}"), [Reply::new("old").stale(directives), cached("new")]);
    site.get(target).shows("stored").carries("old");
    site
}

/// Waits until every request that has begun before has waited for as long as `stale_while_slow` says.
#[track_caller]
fn let_the_time_pass(site: &Site) {
    site.upstream.on("GET /clock", Reply::new("clock").stale("public"));
    site.get("/clock").carries("clock");
    let gate = site.upstream.hold_all("GET /clock");
    site.get("/clock").shows("detail=upstream-slow");
    gate.open();
}

fn a_stale_response_is_served_when_upstream_is_slow(tier: Tier) {
    let site = stale_site(tier, "/users", "public");
    let gate = site.upstream.hold_next("GET /users");
    let served = site.get("/users");
    served.shows("fwd=stale; detail=upstream-slow").hides("fwd-status=200").carries("old");
    gate.wait_for(1);
    // The fetch goes on, and is the only one.
    site.get("/users").shows("detail=upstream-slow").carries("old");
    gate.open();
    eventually("the slow response is stored", || site.get("/users").is("hit"));
    site.get("/users").shows("hit").carries("new");
    assert_eq!(site.upstream.count("GET /users"), 2);
}

fn a_quick_upstream_is_waited_for(tier: Tier) {
    // Longer than a busy machine takes.
    let site = Site::start(tier, &RULES.replace("50ms", "1m"));
    site.upstream.script("GET /users", [Reply::new("old").stale("public"), cached("new")]);
    site.get("/users").shows("stored").carries("old");
    site.get("/users").shows("fwd=stale; fwd-status=200; stored").carries("new");
}

fn followers_are_served_stale_too(tier: Tier) {
    let site = stale_site(tier, "/users", "public");
    let gate = site.upstream.hold_next("GET /users");
    let all: Vec<Pending> = (0..4).map(|_| start(&site, "/users")).collect();
    for one in all {
        one.response().shows("fwd=stale; detail=upstream-slow").carries("old");
    }
    gate.open();
    eventually("the slow response is stored", || site.get("/users").is("hit"));
    assert_eq!(site.upstream.count("GET /users"), 2);
}

fn a_write_while_the_request_waits_is_not_passed_over(tier: Tier) {
    // Long enough for the write to come in between.
    let site = Site::start(tier, &RULES.replace("50ms", "5s"));
    site.upstream.script("GET /users", [Reply::new("old").stale("public"), cached("slow"), cached("new")]);
    site.get("/users").carries("old");
    let gate = site.upstream.hold_next("GET /users");
    let reader = start(&site, "/users");
    gate.wait_for(1);
    site.write("POST", "/users/create").has_status(200);
    let_the_time_pass(&site);
    site.get("/users").hides("detail=upstream-slow").carries("new");
    gate.open();
    reader.response().hides("detail=upstream-slow").carries("slow");
    site.get("/users").shows("hit").carries("new");
}

fn what_must_not_be_served_stale_is_waited_for(tier: Tier) {
    for directive in ["must-revalidate", "no-cache", "s-maxage=60", "proxy-revalidate"] {
        let site = stale_site(tier, "/users", directive);
        let gate = site.upstream.hold_next("GET /users");
        let reader = start(&site, "/users");
        gate.wait_for(1);
        let_the_time_pass(&site);
        gate.open();
        reader.response().hides("detail=upstream-slow").carries("new");
    }
}

fn what_a_write_has_invalidated_is_never_served_in_its_place(tier: Tier) {
    let site = stale_site(tier, "/users", "public");
    site.write("POST", "/users/create").has_status(200);
    let gate = site.upstream.hold_next("GET /users");
    let reader = start(&site, "/users");
    gate.wait_for(1);
    let_the_time_pass(&site);
    gate.open();
    reader.response().shows("fwd=stale; detail=invalidated").carries("new");
}

fn what_a_soft_write_invalidated_is_served_when_upstream_is_slow(tier: Tier) {
    let site = stale_site(tier, "/users", "public");
    // The soft invalidation alone would have it served at once; its lifetime is over too.
    site.write("POST", "/users/points").has_status(200);
    let gate = site.upstream.hold_next("GET /users");
    site.get("/users").shows("detail=upstream-slow").carries("old");
    gate.open();
    eventually("the slow response is stored", || site.get("/users").is("hit"));
}
