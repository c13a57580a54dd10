//! What is stored and for how long, where a family says more than a ttl; and what the caches behind Larder are told.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Reply, Site, Tier, eventually, larder};

on_both_tiers! {
    a_path_that_is_never_cached_is_forwarded_each_time,
    each_status_has_a_lifetime_of_its_own,
    lifetimes_end_at_a_clock_time,
    the_ttl_of_a_frequently_requested_url_grows,
    clients_and_cdns_are_told_what_the_family_says,
    a_new_version_of_a_family_makes_its_entries_misses,
}

const NEVER: &str = r#"
[[family]]
name = "all"
path = '/.*'
ttl  = "60s"

[[family]]
name  = "secret"
path  = '/secret(/.*)?'
cache = "never"

[invalidate]
'/secret/turn' = ["all"]
"#;

fn a_path_that_is_never_cached_is_forwarded_each_time(tier: Tier) {
    let site = Site::start(tier, NEVER);
    site.upstream.on("GET /secret/a", Reply::numbered().cached("public, max-age=60"));
    for number in 1..=2 {
        let answer = site.get("/secret/a").shows("fwd=bypass; detail=never").hides("stored").hides("hit");
        answer.carries(&format!("/secret/a #{number}"));
    }
    // Both are on their way: neither waits for the other.
    let gate = site.upstream.hold_all("GET /secret/b");
    let both = [site.call("GET", "/secret/b").start(), site.call("GET", "/secret/b").start()];
    gate.wait_for(2);
    gate.open();
    for pending in both {
        pending.response().shows("detail=never").hides("collapsed");
    }
    site.call("HEAD", "/secret/a").send().shows("detail=never");
    site.call("QUERY", "/secret/a").body("{}").send().shows("detail=never");
    // Upstream may take these for paths below /secret.
    for target in ["/secret%2Fa", "//secret/a", "/x/..%2Fsecret/a", "/secret/"] {
        site.get(target).shows("fwd=bypass").hides("stored");
        site.get(target).shows("fwd=bypass").hides("hit");
    }
    site.get("/open").shows("stored");
    site.get("/open").shows("hit");
    site.write("POST", "/secret/turn").has_status(200);
    site.get("/open").shows("fwd=stale; detail=invalidated").carries("/open #2");
    let output = larder(Some(NEVER), &["explain", "GET", "/secret/a"]).stdout;
    assert!(output.contains("never: the family says cache = \"never\""), "{output}");
}

/// Whether a response with this lifetime may show this remaining one: the seconds that it was under way count as age (RFC 9111 §4.2.3).
fn is_just_below(shown: i64, lifetime: i64) -> bool {
    (lifetime - 20..=lifetime).contains(&shown)
}

fn each_status_has_a_lifetime_of_its_own(tier: Tier) {
    let rules = "[[family]]\nname = \"items\"\npath = '/items/.*'\nttl = \"60s\"\n\
                 negative_ttl = { 404 = \"100s\", 410 = \"1h\", 301 = \"1d\", 302 = \"200s\" }\n";
    let site = Site::start(tier, rules);
    for (status, ttl) in [(404, 100), (410, 3600), (301, 86_400), (302, 200), (308, 60), (200, 60)] {
        let target = format!("/items/{status}");
        site.upstream.on(&target, Reply::status(status));
        let shown = site.get(&target).has_status(status).shows("stored").ttl();
        assert!(is_just_below(shown, ttl), "{status}: {shown}");
        site.get(&target).has_status(status).shows("hit");
    }
    for status in [405, 500, 503] {
        let target = format!("/items/{status}");
        site.upstream.on(&target, Reply::status(status));
        site.get(&target).has_status(status).hides("stored");
    }
    site.upstream.on("/items/stated", Reply::status(404).cached("max-age=30"));
    let shown = site.get("/items/stated").shows("stored").ttl();
    assert!(is_just_below(shown, 30), "what upstream states wins: {shown}");
}

fn lifetimes_end_at_a_clock_time(tier: Tier) {
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 86_400 + 30 * 60;
    let soon = format!("{:02}:{:02}:{:02}", soon / 3600 % 24, soon / 60 % 60, soon % 60);
    let rules = format!(
        "[[family]]\nname = \"daily\"\npath = '/daily/.*'\nuntil = \"{soon} UTC\"\n\
         [[family]]\nname = \"both\"\npath = '/both/.*'\nttl = \"100s\"\nuntil = \"{soon} UTC\"\n"
    );
    let site = Site::start(tier, &rules);
    let ttl = |target: &str| site.get(target).shows("stored").ttl();
    let ends_then = |ttl: i64| (25 * 60..=30 * 60).contains(&ttl);
    assert!(ends_then(ttl("/daily/report")));
    assert!(is_just_below(ttl("/both/report"), 100), "the ttl ends before");
    site.upstream.on("/daily/long", Reply::numbered().cached("max-age=86400").header("Age", "100"));
    site.upstream.on("/daily/short", Reply::numbered().cached("max-age=50"));
    assert!(ends_then(ttl("/daily/long")), "also what upstream states ends then");
    assert!(is_just_below(ttl("/daily/short"), 50));
    site.get("/daily/long").shows("hit");
}

fn the_ttl_of_a_frequently_requested_url_grows(tier: Tier) {
    let rules = "[[family]]\nname = \"news\"\npath = '/news/.*'\nttl = \"100s\"\n\
                 adaptive_ttl = { hot = \"3x over 5/h\" }\n\
                 [[family]]\nname = \"plain\"\npath = '/plain/.*'\nttl = \"100s\"\n";
    let site = Site::start(tier, rules);
    site.upstream.on("GET /news/stated", Reply::numbered().cached("max-age=50"));
    for target in ["/news/hot", "/news/stated", "/plain/hot"] {
        site.get(target).shows("stored");
        (0..9).for_each(|_| drop(site.get(target).shows("hit")));
        site.write("PUT", target).has_status(200);
    }
    site.get("/news/cold").shows("stored");
    site.write("PUT", "/news/cold").has_status(200);
    for (target, ttl) in [("/news/hot", 300), ("/news/cold", 100), ("/news/stated", 50), ("/plain/hot", 100)] {
        let shown = site.get(target).shows("stored").ttl();
        assert!(is_just_below(shown, ttl), "{target}: {shown}");
    }
}

fn clients_and_cdns_are_told_what_the_family_says(tier: Tier) {
    let rules = "[[family]]\nname = \"shop\"\npath = '/shop/.*'\nttl = \"60s\"\nnegative_ttl = \"60s\"\n\
                 client_cache_control = \"max-age=30\"\ncdn_cache_control = \"max-age=300\"\n\
                 [[family]]\nname = \"cdn\"\npath = '/cdn/.*'\nttl = \"60s\"\ncdn_cache_control = \"max-age=300\"\n";
    let site = Site::start(tier, rules);
    let sent = |target: &str| {
        let answer = site.get(target);
        ["cache-control", "cdn-cache-control"].map(|name| answer.header(name).unwrap_or("-").to_owned())
    };
    site.upstream.on("/shop/a", Reply::numbered().header("Expires", "0").cached("public, max-age=9"));
    site.upstream.on("/shop/missing", Reply::status(404));
    site.upstream.on("/shop/mine", Reply::numbered().cached("private, max-age=9"));
    site.upstream.on("/cdn/a", Reply::numbered().cached("max-age=9"));
    let rows = [
        ("/shop/a", ["max-age=30", "max-age=300"]),
        ("/shop/missing", ["no-cache", "-"]),
        ("/shop/mine", ["no-cache, private", "-"]),
        ("/cdn/a", ["max-age=9", "max-age=300"]),
    ];
    for (target, expected) in rows {
        assert_eq!(sent(target), expected, "{target}, fetched");
        assert_eq!(sent(target), expected, "{target}, again");
    }
    site.get("/shop/a").shows("hit");
    // Past the cache too.
    let passed = site.call("GET", "/shop/b").body("x").send().shows("detail=request-body");
    assert_eq!(passed.header("cache-control"), Some("max-age=30"));
}

fn a_new_version_of_a_family_makes_its_entries_misses(tier: Tier) {
    let rules = |version: &str| {
        format!(
            "[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n{version}\n\
             [[family]]\nname = \"rooms\"\npath = '/rooms'\nttl = \"60s\"\n"
        )
    };
    let site = Site::start(tier, &rules("version = \"v1\""));
    for target in ["/users", "/rooms"] {
        site.get(target).shows("stored");
        site.get(target).shows("hit");
    }
    fs::write(site.rules_file(), rules("version = \"v2\"")).unwrap();
    eventually("the new version is in force", || site.get("/users").number() == 2);
    site.get("/rooms").shows("hit").carries("/rooms #1");
}

const SHARED: &str = r#"
[store]
version = "VERSION"

[[family]]
name = "users"
path = '/users'
ttl  = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

#[test]
fn proxies_with_different_versions_share_no_entries_but_invalidate_for_each_other() {
    let (old, new) = (SHARED.replace("VERSION", "v1"), SHARED.replace("VERSION", "v2"));
    let mut site = Site::start(Tier::Redis, &old);
    let other = site.plan.clone().rules(&new).start();
    site.get("/users").shows("stored");
    site.get("/elsewhere").hides("hit");
    site.wait_for_entries(1);
    other.get("/users").shows("fwd=uri-miss; stored").carries("/users #2");
    site.wait_for_entries(2);
    site.get("/users").shows("hit").carries("/users #1");
    // A rollout is under way: writes through either count for both.
    other.write("POST", "/users/create").has_status(200);
    site.get("/users").shows("fwd=stale; detail=invalidated").carries("/users #3");
    site.write("POST", "/users/create").has_status(200);
    other.get("/users").shows("fwd=stale; detail=invalidated").carries("/users #4");
    site.get("/users").carries("/users #5");
    site.wait_for_entries(2);
    // Rolled back, what is stored for the older version is found again.
    drop(other);
    site.larder.kill();
    let back = site.another();
    eventually("it serves what its version has stored", || back.get("/users").is("hit"));
    assert_eq!(back.get("/users").number(), 5);
}

/// Bytes of the entry of this family in Redis.
fn stored_bytes(site: &Site, family: &str) -> usize {
    let redis = site.redis.as_ref().unwrap();
    let name = redis.command(&["KEYS", &format!("*:{family}:*")]);
    redis.command(&["STRLEN", &name]).parse().unwrap()
}

#[test]
fn long_bodies_are_compressed_in_redis_and_whole_for_every_client() {
    let family = |name: &str, more: &str| {
        format!("[[family]]\nname = \"{name}\"\npath = '/{name}'\nttl = \"60s\"\n{more}\n")
    };
    let families = ["json", "short", "image", "coded"].map(|name| family(name, "")).concat();
    let rules = format!("[store]\ncompress = true\n{families}{}", family("plain", "compress = \"off\""));
    let site = Site::start(Tier::Redis, &rules);
    let rows =
        (0..1000).map(|id| format!("{{\"id\":{id},\"name\":\"user {id}\",\"email\":\"user{id}@example.com\"}}"));
    let long = rows.collect::<Vec<_>>().join(",");
    let reply = |media_type: &str, body: &str| Reply::new(body).header("Content-Type", media_type);
    site.upstream.on("/json", reply("application/json", &long));
    site.upstream.on("/plain", reply("application/json", &long));
    site.upstream.on("/short", reply("application/json", &long[..1024]));
    site.upstream.on("/image", reply("image/png", &long));
    site.upstream.on("/coded", reply("application/json", &long).header("Content-Encoding", "br"));
    // The coded one varies, and has an index beside it.
    for target in ["/json", "/plain", "/short", "/image"] {
        site.get(target).shows("stored");
    }
    site.wait_for_entries(4);
    assert!(stored_bytes(&site, "json") < long.len() / 4, "{} of {}", stored_bytes(&site, "json"), long.len());
    for family in ["plain", "image"] {
        assert!(stored_bytes(&site, family) > long.len(), "{family}");
    }
    assert!(stored_bytes(&site, "short") > 1024);
    let other = site.another();
    for (target, body) in [("/json", &long[..]), ("/plain", &long), ("/short", &long[..1024]), ("/image", &long)] {
        other.get(target).shows("hit").carries(body);
        site.get(target).shows("hit").carries(body);
    }
    site.get("/coded").shows("stored");
    site.wait_for_entries(6);
    other.get("/coded").shows("hit").carries(&long);
    // What is damaged in Redis is a miss.
    let redis = site.redis.as_ref().unwrap();
    let name = redis.command(&["KEYS", "*:json:*"]);
    redis.command(&["SETRANGE", &name, "400", "damaged"]);
    let third = site.another();
    third.get("/json").hides("hit").carries(&long);
}
