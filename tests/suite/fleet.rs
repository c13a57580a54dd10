//! Several proxies on one Redis: each uses what the others stored, and none serves what another one's write invalidated.

use crate::support::{Larder, Plan, RedisServer, Reply, Site, Tier, Upstream, eventually};

const RULES: &str = r#"
[store]
namespace = "hotel"

[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "60s"

[invalidate]
'/users/create'              = ["users"]
'/users/(?<id>\d+)/activate' = ["user:{id}"]
"#;

fn two() -> (Site, Larder) {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    (site, other)
}

#[test]
fn an_entry_stored_by_one_proxy_is_a_hit_in_the_other() {
    let (site, other) = two();
    site.upstream.on("/users", Reply::new("body").header("X-Kept", "1").header("ETag", "\"1\""));
    site.get("/users").shows("stored");
    site.wait_for_entries(1);
    let hit = other.get("/users").shows("hit").carries("body").has_status(200);
    assert_eq!((hit.header("x-kept"), hit.header("etag")), (Some("1"), Some("\"1\"")));
    other.call("GET", "/users").header("If-None-Match", "\"1\"").send().shows("hit").has_status(304);
    assert_eq!(site.upstream.count("/users"), 1);
}

#[test]
fn variants_stored_by_one_proxy_are_hits_in_the_other() {
    let (site, other) = two();
    site.upstream.on("/users", Reply::numbered().header("Vary", "Accept-Language"));
    let get =
        |larder: &Larder, language: &str| larder.call("GET", "/users").header("Accept-Language", language).send();
    get(&site, "de").shows("stored").carries("/users #1");
    // One says that responses vary, one is the response.
    site.wait_for_entries(2);
    get(&other, "en").hides("hit").carries("/users #2");
    site.wait_for_entries(3);
    get(&other, "de").shows("hit").carries("/users #1");
    get(&site, "en").shows("hit").carries("/users #2");
}

#[test]
fn a_write_through_one_proxy_is_seen_by_the_other_at_once() {
    let (site, other) = two();
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (&site.larder, &other) } else { (&other, &site.larder) };
        writer.get("/users");
        reader.get("/users");
        reader.get("/users").shows("hit");
        reader.get("/users/8");
        writer.write("POST", "/users/create").has_status(200);
        let latest = site.upstream.count("GET /users") + 1;
        assert_eq!(reader.get("/users").shows("fwd=stale; detail=invalidated").number(), latest);
        assert!(writer.get("/users").number() >= latest);
        reader.get("/users/8").shows("hit");
    }
}

#[test]
fn a_write_invalidates_one_instance_everywhere() {
    let (site, other) = two();
    for (user, entries) in [("/users/7", 1), ("/users/8", 2)] {
        site.get(user).shows("stored");
        site.wait_for_entries(entries);
        other.get(user).shows("hit");
    }
    site.write("POST", "/users/7/activate");
    other.get("/users/7").shows("detail=invalidated").carries("/users/7 #2");
    other.get("/users/8").shows("hit").carries("/users/8 #1");
}

#[test]
fn a_reader_after_a_write_elsewhere_does_not_join_the_older_fetch() {
    let (site, other) = two();
    let gate = site.upstream.hold_next("GET /users");
    let older = other.call("GET", "/users").start();
    gate.wait_for(1);
    site.write("POST", "/users/create").has_status(200);
    other.get("/users").carries("/users #2");
    gate.open();
    older.response().carries("/users #1");
    for proxy in [&other, &site.larder] {
        assert!(proxy.get("/users").number() >= 2);
    }
}

#[test]
fn the_cache_outlives_its_proxies() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.get("/users").shows("stored");
    site.get("/users/7").shows("stored");
    site.wait_for_entries(2);
    site.write("POST", "/users/7/activate");
    site.larder.kill();
    let next = site.another();
    next.get("/users").shows("hit").carries("/users #1");
    next.get("/users/7").hides("hit").carries("/users/7 #2");
}

#[test]
fn namespaces_share_nothing() {
    let site = Site::start(Tier::Redis, RULES);
    let stranger = site.plan.clone().argument("--namespace", "inn").start();
    site.get("/users").shows("stored");
    stranger.get("/users").shows("fwd=uri-miss; stored").carries("/users #2");
    stranger.write("POST", "/users/create");
    site.get("/users").shows("hit").carries("/users #1");
    stranger.get("/users").shows("detail=invalidated");
}

#[test]
fn keys_in_redis_read_well_and_every_entry_has_a_lifetime() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.get("/users").shows("stored");
    site.get("/users/42").shows("stored");
    site.wait_for_entries(2);
    let redis = site.redis();
    let keys = redis.command(&["KEYS", "hotel:*:v1"]);
    assert!(keys.lines().any(|key| key.starts_with("hotel:users:")), "{keys}");
    assert!(keys.lines().any(|key| key.starts_with("hotel:user:42:")), "{keys}");
    for key in keys.lines() {
        let digest = key.rsplit(':').nth(1).unwrap();
        assert!(digest.len() == 32 && digest.chars().all(|digit| digit.is_ascii_hexdigit()), "{key}");
        assert!(redis.command(&["TTL", key]).parse::<i64>().unwrap() > 0, "{key}");
    }
    for key in redis.command(&["KEYS", "*"]).lines() {
        assert!(key.starts_with("hotel:") && key.ends_with(":v1") || key.starts_with("{hotel}"), "{key}");
    }
}

#[test]
fn credentials_do_not_stand_in_redis() {
    let rules = RULES.replace("path = '/users'", "path = '/users'\nidentity = \"header:authorization\"");
    let mut site = Site::start(Tier::Redis, &rules);
    site.call("GET", "/users").header("Authorization", "Bearer s3cr3t").send().shows("stored");
    site.wait_for_entries(1);
    let redis = site.redis();
    for key in redis.command(&["KEYS", "hotel:*:v1"]).lines() {
        let value = redis.command(&["GET", key]);
        assert!(value.contains("/users"), "{value}");
        assert!(!key.contains("s3cr3t") && !value.contains("s3cr3t"), "{key}: {value}");
    }
}

#[test]
fn a_user_a_password_and_a_database_number_are_used() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    let user = ["ACL", "SETUSER", "keeper", "on", ">sesame", "~*", "&*", "+@all"];
    assert_eq!(redis.command(&user), "OK");
    let url = redis.url().replace("redis://", "redis://keeper:sesame@") + "/3";
    let plan = Plan::new(&upstream.url()).rules(RULES).redis(&url);
    let larder = plan.start();
    larder.get("/users").shows("stored");
    let other = plan.start();
    eventually("the other proxy has hits", || other.get("/users").is("hit"));
    let databases = redis.command(&["INFO", "keyspace"]);
    assert!(databases.contains("db3:") && !databases.contains("db0:"), "{databases}");
    assert!(!larder.log().contains("sesame"), "{}", larder.log());
}

#[test]
fn a_password_alone_is_enough() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    assert_eq!(redis.command(&["CONFIG", "SET", "requirepass", "sesame"]), "OK");
    let url = redis.url().replace("redis://", "redis://:sesame@");
    let larder = Plan::new(&upstream.url()).rules(RULES).redis(&url).start();
    larder.get("/users").shows("stored");
    larder.write("POST", "/users/create");
    larder.get("/users").shows("detail=invalidated; stored");
    larder.get("/users").shows("hit");
}
