//! `refresh = true`: what a write has invalidated and many read is fetched again before anybody asks.

use crate::support::{Gate, Larder, Reply, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl  = "60s"

[[family]]
name = "own"
path = '/own'
ttl  = "60s"
identity = "header:authorization"

[[family]]
name = "team"
path = '/teams/(?<id>\d+)'
ttl  = "60s"

[invalidate]
'/points' = { families = ["user", "own"], refresh = true }
'/gifts'  = { families = ["user"], mode = "soft", refresh = true }
'/teams'  = ["team"]
"#;

on_both_tiers! {
    entries_that_are_read_are_refetched_before_the_next_request,
    the_hottest_come_first_and_at_most_four_at_a_time,
    what_is_invalidated_softly_is_refreshed_with_its_validator,
    responses_to_requests_with_credentials_are_not_refetched,
    variants_are_refreshed_each_with_its_own_fields,
    a_client_that_asks_meanwhile_shares_the_refresh,
}

fn refreshes(larder: &Larder) -> u64 {
    let text = larder.admin_get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix("larder_refreshes_total "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// Reads it once to have it stored, and so often from the cache.
fn read(larder: &Larder, target: &str, hits: usize) {
    larder.get(target).shows("stored");
    (0..hits).for_each(|_| drop(larder.get(target).shows("hit")));
}

fn entries_that_are_read_are_refetched_before_the_next_request(tier: Tier) {
    let site = Site::start(tier, RULES);
    read(&site, "/users/1", 2);
    // Never read from the cache, and of another family.
    read(&site, "/users/2", 0);
    read(&site, "/teams/1", 3);
    site.write("POST", "/points").has_status(200);
    eventually("it is fetched", || site.upstream.count("GET /users/1") == 2);
    eventually("and stored", || site.get("/users/1").is("hit"));
    site.get("/users/1").shows("hit").carries("/users/1 #2");
    site.write("POST", "/teams").has_status(200);
    assert_eq!(refreshes(&site), 1);
    assert_eq!(site.upstream.count("GET /users/2"), 1);
    site.get("/teams/1").shows("detail=invalidated");
}

fn the_hottest_come_first_and_at_most_four_at_a_time(tier: Tier) {
    let site = Site::start(tier, RULES);
    for (user, hits) in [(1, 2), (2, 6), (3, 1), (4, 4), (5, 5), (6, 3)] {
        read(&site, &format!("/users/{user}"), hits);
    }
    let gates: Vec<_> = (1..=6).map(|user| site.upstream.hold_next(&format!("GET /users/{user}"))).collect();
    site.write("POST", "/points").has_status(200);
    for hot in [2, 5, 4, 6] {
        gates[hot - 1].wait_for(1);
    }
    assert_eq!((gates[0].arrived(), gates[2].arrived()), (0, 0), "four at a time");
    gates[5 - 1].open();
    gates[0].wait_for(1);
    assert_eq!(gates[2].arrived(), 0, "the coldest is the last");
    gates[4 - 1].open();
    gates[2].wait_for(1);
    drop(gates);
    eventually("all are there", || (1..=6).all(|user| site.get(&format!("/users/{user}")).is("hit")));
    assert_eq!(refreshes(&site), 6);
}

fn what_is_invalidated_softly_is_refreshed_with_its_validator(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("GET /users/1", Reply::numbered().header("ETag", "\"1\""));
    read(&site, "/users/1", 1);
    site.upstream.on("GET /users/1", Reply::status(304).header("ETag", "\"1\""));
    site.write("POST", "/gifts").has_status(200);
    eventually("it is validated", || site.upstream.count("GET /users/1") == 2);
    assert_eq!(site.upstream.last("GET /users/1").header("if-none-match"), Some("\"1\""));
    eventually("and current again", || {
        let kept = site.get("/users/1").shows("hit").carries("/users/1 #1");
        !kept.is("detail=soft-invalidated")
    });
    assert_eq!(site.upstream.count("GET /users/1"), 2);
}

fn responses_to_requests_with_credentials_are_not_refetched(tier: Tier) {
    let site = Site::start(tier, RULES);
    let own = || site.call("GET", "/own").header("Authorization", "Bearer a").send();
    own().shows("stored");
    own().shows("hit");
    site.upstream.on("GET /users/1", Reply::numbered().cached("public, max-age=60"));
    let with_cookie = |target: &str| site.call("GET", target).header("Cookie", "a=b").send();
    with_cookie("/users/1").shows("stored");
    with_cookie("/users/1").shows("hit");
    read(&site, "/users/2", 1);
    site.write("POST", "/points").has_status(200);
    eventually("what is for all is refreshed", || site.upstream.count("GET /users/2") == 2);
    eventually("and stored", || site.get("/users/2").is("hit"));
    assert_eq!(refreshes(&site), 1);
    assert_eq!((site.upstream.count("GET /own"), site.upstream.count("GET /users/1")), (1, 1));
}

fn variants_are_refreshed_each_with_its_own_fields(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("GET /users/1", Reply::numbered().header("Vary", "Accept-Language"));
    let get = |language: &str| {
        site.call("GET", "/users/1").header("Accept-Language", language).header("User-Agent", "me").send()
    };
    for language in ["de", "en"] {
        get(language).shows("stored");
        get(language).shows("hit");
    }
    site.write("POST", "/points").has_status(200);
    eventually("both are fetched", || site.upstream.count("GET /users/1") == 4);
    let requests = &site.upstream.requests("GET /users/1")[2..];
    let mut languages: Vec<_> =
        requests.iter().map(|request| request.header("accept-language").unwrap()).collect();
    languages.sort_unstable();
    assert_eq!(languages, ["de", "en"]);
    assert!(requests.iter().all(|request| request.header("user-agent").is_none()), "of nobody's own");
    eventually("both are hits", || ["de", "en"].iter().all(|language| get(language).is("hit")));
}

fn a_client_that_asks_meanwhile_shares_the_refresh(tier: Tier) {
    let site = Site::start(tier, RULES);
    read(&site, "/users/1", 1);
    let gate = site.upstream.hold_next("GET /users/1");
    site.write("POST", "/points").has_status(200);
    gate.wait_for(1);
    let client = site.call("GET", "/users/1").start();
    site.wait_for_followers(1);
    gate.open();
    client.response().carries("/users/1 #2");
    assert_eq!(site.upstream.count("GET /users/1"), 2);
}

#[test]
fn where_upstream_has_no_free_place_clients_go_first() {
    let rules = format!("[server]\nmax_upstream_requests = 1\n[log]\nlevel = \"debug\"\n{RULES}");
    let site = Site::start(Tier::Embedded, &rules);
    read(&site, "/users/1", 1);
    // The answer to the write is on its way, and keeps the only place.
    let gate = Gate::new();
    site.upstream.on("POST /points", Reply::new("done").pause_after(1, &gate));
    let write = site.call("POST", "/points").body("{}").start();
    eventually("it is left alone", || site.log().contains("upstream has no free place"));
    assert_eq!((refreshes(&site), site.upstream.count("GET /users/1")), (0, 1));
    gate.open();
    write.response().has_status(200);
    site.get("/users/1").shows("detail=invalidated; stored");
}
