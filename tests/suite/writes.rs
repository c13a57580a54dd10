//! Writes: which responses they invalidate, and when.

use crate::support::{Failure, Reply, Site, Tier};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "60s"

[[family]]
name = "rooms"
path = '/rooms'
ttl = "60s"

[[family]]
name = "lenient"
path = '/lenient'
ttl = "60s"
stale_while_revalidate = "1h"
stale_if_error = "1h"

[[family]]
name = "booking"
path = '/bookings'
ttl = "60s"

[[family]]
name = "booking:stats"
path = '/bookings/stats'
ttl = "60s"

[[family]]
name = "booking:list"
path = '/bookings/list/(?<month>[^/]+)'
ttl = "60s"

[[family]]
name = "room_stats"
path = '/room/stats'
ttl = "60s"

[[family]]
name = "room_list"
path = '/room/list'
ttl = "60s"

[invalidate]
'/users/create'               = ["users"]
'/users/(?<id>\d+)/activate'  = ["users", "user:{id}"]
'/users/import'               = ["user"]
'/bookings/close'             = ["booking:*"]
'/bookings/stats/recount'     = ["booking:stats"]
'/room/clean'                 = ["room_*"]
'/both/.*'                    = ["users"]
'/both/rooms'                 = ["rooms"]
'/posted'                     = { families = ["users"], methods = ["POST"] }
'/conflicting'                = { families = ["users"], on = [409] }
'/lenient/change'             = ["lenient"]
"#;

on_both_tiers! {
    a_write_invalidates_its_families_and_nothing_else,
    a_write_invalidates_its_target,
    only_a_write_that_succeeded_invalidates,
    a_rule_can_name_the_statuses_it_applies_to,
    every_writing_method_invalidates,
    a_rule_can_name_its_methods,
    a_safe_method_invalidates_nothing,
    a_capture_names_the_instance,
    a_family_stands_for_all_its_instances,
    a_subtree_and_a_glob_name_several_families,
    a_narrower_family_leaves_its_siblings,
    all_matching_rules_apply,
    a_write_without_an_answer_invalidates,
    a_write_that_times_out_invalidates,
    a_write_whose_answer_breaks_off_invalidates,
    a_write_is_matched_on_its_normalised_path,
    a_write_invalidates_all_variants_and_queries,
    a_write_invalidates_what_may_be_served_stale,
    a_write_invalidates_what_its_answer_names,
    a_write_is_forwarded_whole_and_its_answer_is_passed_back,
    the_answer_to_a_write_is_not_stored,
    an_invalidated_entry_may_be_validated,
    a_whole_family_is_invalidated_at_once,
}

/// Fetches these; all of them are hits then.
#[track_caller]
fn warm(site: &Site, targets: &[&str]) {
    for target in targets {
        site.get(target);
        site.get(target).shows("hit");
    }
}

/// The next GET must go to upstream since a write came in between; afterwards the new response is a hit.
#[track_caller]
fn assert_invalidated(site: &Site, target: &str) {
    let before = site.upstream.count(&format!("GET {target}"));
    let fetched = site.get(target).shows("fwd=stale; detail=invalidated");
    assert_eq!(site.upstream.count(&format!("GET {target}")), before + 1);
    site.get(target).shows("hit").carries(&fetched.text());
}

fn a_write_invalidates_its_families_and_nothing_else(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users", "/users?page=2", "/users/7", "/rooms"]);
    site.write("POST", "/users/create").shows("fwd=method; fwd-status=200").carries("done");
    site.get("/users").shows("fwd=stale; fwd-status=200; stored; detail=invalidated").carries("/users #2");
    site.get("/users").shows("hit").carries("/users #2");
    assert_invalidated(&site, "/users?page=2");
    site.get("/users/7").shows("hit").carries("/users/7 #1");
    site.get("/rooms").shows("hit").carries("/rooms #1");
}

fn a_write_invalidates_its_target(tier: Tier) {
    let site = Site::start(tier, RULES);
    for thing in ["/things/1", "/things/1?lang=de", "/things/2"] {
        site.upstream.on(&format!("GET {thing}"), Reply::numbered().cached("max-age=600"));
    }
    warm(&site, &["/things/1", "/things/1?lang=de", "/things/2"]);
    site.write("PUT", "/things/1");
    assert_invalidated(&site, "/things/1");
    assert_invalidated(&site, "/things/1?lang=de");
    site.get("/things/2").shows("hit").carries("/things/2 #1");
}

fn only_a_write_that_succeeded_invalidates(tier: Tier) {
    let site = Site::start(tier, RULES);
    for status in [200, 201, 202, 204, 302, 303] {
        warm(&site, &["/users"]);
        site.upstream.on("POST /users/create", Reply::status(status));
        site.write("POST", "/users/create").has_status(status).shows(&format!("fwd=method; fwd-status={status}"));
        assert_invalidated(&site, "/users");
    }
    for status in [400, 401, 404, 409, 422, 500, 503] {
        site.upstream.on("POST /users/create", Reply::status(status));
        site.write("POST", "/users/create").has_status(status);
        site.get("/users").shows("hit");
    }
}

fn a_rule_can_name_the_statuses_it_applies_to(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users"]);
    site.write("POST", "/conflicting").has_status(200);
    site.get("/users").shows("hit");
    site.upstream.on("POST /conflicting", Reply::status(409));
    site.write("POST", "/conflicting").has_status(409);
    assert_invalidated(&site, "/users");
}

fn every_writing_method_invalidates(tier: Tier) {
    let site = Site::start(tier, RULES);
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        warm(&site, &["/users"]);
        site.write(method, "/users/create").shows("fwd=method");
        assert_invalidated(&site, "/users");
    }
    warm(&site, &["/users"]);
    site.write("REPLACE", "/users").shows("fwd=method");
    assert_invalidated(&site, "/users");
}

fn a_rule_can_name_its_methods(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users"]);
    site.write("DELETE", "/posted");
    site.get("/users").shows("hit");
    site.write("POST", "/posted");
    assert_invalidated(&site, "/users");
}

fn a_safe_method_invalidates_nothing(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users"]);
    for method in ["GET", "HEAD", "OPTIONS"] {
        site.call(method, "/users/create").send().has_status(200);
        site.call(method, "/users").send().has_status(200);
    }
    site.get("/users").shows("hit").carries("/users #1");
}

fn a_capture_names_the_instance(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users", "/users/7", "/users/8", "/users/77"]);
    site.write("POST", "/users/7/activate");
    assert_invalidated(&site, "/users/7");
    assert_invalidated(&site, "/users");
    site.get("/users/8").shows("hit").carries("/users/8 #1");
    site.get("/users/77").shows("hit").carries("/users/77 #1");
}

fn a_family_stands_for_all_its_instances(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users", "/users/7", "/users/8"]);
    site.write("POST", "/users/import");
    assert_invalidated(&site, "/users/7");
    assert_invalidated(&site, "/users/8");
    site.get("/users").shows("hit");
}

fn a_subtree_and_a_glob_name_several_families(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/bookings/stats", "/bookings/list/may", "/rooms", "/room/stats", "/room/list"]);
    site.write("POST", "/bookings/close");
    assert_invalidated(&site, "/bookings/stats");
    assert_invalidated(&site, "/bookings/list/may");
    site.get("/room/stats").shows("hit");
    site.write("POST", "/room/clean");
    assert_invalidated(&site, "/room/stats");
    assert_invalidated(&site, "/room/list");
    site.get("/rooms").shows("hit").carries("/rooms #1");
    site.get("/bookings/stats").shows("hit");
}

fn a_narrower_family_leaves_its_siblings(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/bookings", "/bookings/stats", "/bookings/list/may"]);
    site.write("POST", "/bookings/stats/recount");
    assert_invalidated(&site, "/bookings/stats");
    site.get("/bookings/list/may").shows("hit");
    site.get("/bookings").shows("hit");
}

fn all_matching_rules_apply(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users", "/rooms", "/users/7"]);
    site.write("POST", "/both/rooms");
    assert_invalidated(&site, "/users");
    assert_invalidated(&site, "/rooms");
    site.get("/users/7").shows("hit");
}

fn a_write_without_an_answer_invalidates(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users", "/rooms"]);
    site.upstream.on("POST /users/create", Reply::none());
    site.write("POST", "/users/create").fails_with(502);
    assert_eq!(site.upstream.count("POST /users/create"), 1, "a write is never sent twice");
    assert_invalidated(&site, "/users");
    site.get("/rooms").shows("hit");
}

fn a_write_that_times_out_invalidates(tier: Tier) {
    let site = Site::start(tier, &format!("[server]\nupstream_timeout = \"3s\"\n{RULES}"));
    warm(&site, &["/users"]);
    let gate = site.upstream.hold_next("POST /users/create");
    site.write("POST", "/users/create").fails_with(504);
    gate.wait_for(1);
    assert_invalidated(&site, "/users");
}

fn a_write_whose_answer_breaks_off_invalidates(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site, &["/users"]);
    site.upstream.on("POST /users/create", Reply::new("0123456789").cut_after(4));
    let failure = site.call("POST", "/users/create").body("{}").try_send().unwrap_err();
    assert!(matches!(failure, Failure::Cut(_) | Failure::NoHead), "{failure:?}");
    assert_invalidated(&site, "/users");
}

fn a_write_is_matched_on_its_normalised_path(tier: Tier) {
    let site = Site::start(tier, RULES);
    for spelling in ["/users/%63reate", "/x/../users/create", "/users/./create", "/users/create?notify=1"] {
        warm(&site, &["/users"]);
        site.write("POST", spelling);
        assert_invalidated(&site, "/users");
    }
}

fn a_write_invalidates_all_variants_and_queries(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("GET /users", Reply::numbered().header("Vary", "Accept-Language"));
    let get = |language: &str| site.call("GET", "/users").header("Accept-Language", language).send();
    get("de").carries("/users #1");
    get("en").carries("/users #2");
    get("de").shows("hit");
    site.write("POST", "/users/create");
    get("en").hides("hit").carries("/users #3");
    get("de").hides("hit").carries("/users #4");
    get("en").shows("hit").carries("/users #3");
}

fn a_write_invalidates_what_may_be_served_stale(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    site.upstream.script("GET /lenient", [Reply::numbered().stale("public"), Reply::numbered()]);
    site.get("/lenient").carries("/lenient #1");
    site.write("POST", "/lenient/change");
    site.get("/lenient").hides("hit").carries("/lenient #2");
    site.write("POST", "/lenient/change");
    site.upstream.stop();
    site.get("/lenient").fails_with(502);
}

fn a_write_invalidates_what_its_answer_names(tier: Tier) {
    let site = Site::start(tier, RULES);
    for thing in ["/things/5", "/things/6", "/things/7"] {
        site.upstream.on(&format!("GET {thing}"), Reply::numbered().cached("max-age=600"));
    }
    warm(&site, &["/things/5", "/things/6", "/things/7"]);
    let created = Reply::status(201).header("Location", "/things/5").header("Content-Location", "/things/6");
    site.upstream.on("POST /things", created);
    site.write("POST", "/things").has_status(201).shows("fwd=method; fwd-status=201");
    assert_invalidated(&site, "/things/5");
    assert_invalidated(&site, "/things/6");
    let elsewhere = Reply::status(201).header("Location", "http://elsewhere.example/things/7");
    site.upstream.on("POST /things", elsewhere);
    site.write("POST", "/things").has_status(201);
    site.get("/things/7").shows("hit").carries("/things/7 #1");
}

fn a_write_is_forwarded_whole_and_its_answer_is_passed_back(tier: Tier) {
    let site = Site::start(tier, RULES);
    let body = "z".repeat(200_000);
    let answer = Reply::new("made").header("X-Answer", "1").header("Set-Cookie", "a=1");
    site.upstream.on("/things", answer);
    for chunked in [false, true] {
        let call = site.call("POST", "/things?x=1&a=2").header("Authorization", "Bearer t").body(body.clone());
        let answer = if chunked { call.chunked() } else { call }.send().carries("made");
        assert_eq!((answer.header("x-answer"), answer.header("set-cookie")), (Some("1"), Some("a=1")));
        let received = site.upstream.last("POST /things");
        assert!(received.body == body.as_bytes());
        assert_eq!(received.target, "/things?x=1&a=2");
        assert_eq!(received.header("authorization"), Some("Bearer t"));
    }
}

fn the_answer_to_a_write_is_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("POST /things", Reply::new("written").cached("max-age=60"));
    site.write("POST", "/things").carries("written").hides("stored");
    site.get("/things").hides("hit").carries("/things #1");
}

fn an_invalidated_entry_may_be_validated(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.answer("GET /users", |request| match request.header("if-none-match") {
        Some("\"1\"") => Reply::status(304).header("ETag", "\"1\""),
        _ => Reply::new("body").header("ETag", "\"1\""),
    });
    warm(&site, &["/users"]);
    site.write("POST", "/users/create");
    site.get("/users").shows("fwd=stale").carries("body").has_status(200);
    site.get("/users").shows("hit").carries("body");
    assert_eq!(site.upstream.count("GET /users"), 2);
}

fn a_whole_family_is_invalidated_at_once(tier: Tier) {
    let site = Site::start(tier, RULES);
    let users: Vec<String> = (0..100).map(|id| format!("/users/{id}")).collect();
    for user in &users {
        site.get(user).shows("stored");
    }
    site.write("POST", "/users/import");
    for user in &users {
        site.get(user).shows("detail=invalidated").carries(&format!("{user} #2"));
    }
}
