//! Redis away, hung or full: requests are answered all the same, in time, and nothing invalidated is ever served. What Redis
//! may lose is in `hazards.rs`.

use crate::hazards::{assert_recovers_without_the_invalidated, get_in_time, two_warm_proxies};
use crate::support::client::send_raw;
use crate::support::{Plan, RedisServer, Site, Tier, eventually};

const RULES: &str = r#"
[store]
namespace = "hotel"
timeout = "200ms"

[[family]]
name = "users"
path = '/users.*'
ttl = "600s"

[[family]]
name = "rooms"
path = '/rooms'
ttl = "600s"

[invalidate]
'/users/create' = ["users"]
"#;

fn site() -> Site {
    Site::start(Tier::Redis, RULES)
}

#[test]
fn while_redis_is_gone_requests_go_upstream_in_time_and_hits_come_back_by_themselves() {
    let mut site = site();
    site.get("/users").shows("stored");
    site.redis().kill();
    // Until the lease is over, memory is as good as before.
    eventually("the lease is over", || get_in_time(&site, "/users").is("detail=store-away"));
    for _ in 0..20 {
        get_in_time(&site, "/users").shows("detail=store-away").hides("hit").hides("stored");
    }
    assert!(site.upstream.count("/users") > 20);
    site.redis().restart();
    eventually("hits are back", || get_in_time(&site, "/users").is("hit"));
}

#[test]
fn while_redis_hangs_requests_go_upstream_in_time_and_hits_come_back_by_themselves() {
    let mut site = site();
    site.get("/users").shows("stored");
    site.redis().hang();
    // Until the lease is over, memory is as good as before.
    eventually("the lease is over", || get_in_time(&site, "/users").is("detail=store-away"));
    for _ in 0..20 {
        get_in_time(&site, "/users").shows("detail=store-away").hides("hit").hides("stored");
    }
    site.redis().resume();
    eventually("hits are back", || get_in_time(&site, "/users").is("hit"));
}

#[test]
fn a_worker_replaces_its_own_connections_to_redis() {
    let mut site = site();
    // Two of the link, its subscription, two of each worker, and the one that asks.
    let workers = std::thread::available_parallelism().unwrap().get();
    let all = 3 + 2 * workers + 1;
    let clients = |site: &mut Site| site.redis().run::<String>(&["CLIENT", "LIST"]);
    let mut number = 0;
    let mut ask_all = |site: &mut Site| {
        eventually("each worker has its own", || {
            number += 1;
            let request = |worker| format!("GET /users/{number}/{worker} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            // Open at the same time, so that each worker has one.
            let send = |worker| send_raw(site.address, request(worker).as_bytes(), false).unwrap();
            let mut sent: Vec<_> = (0..workers).map(send).collect();
            sent.iter_mut().for_each(|sent| drop(sent.head()));
            clients(site).lines().count() == all
        });
    };
    ask_all(&mut site);
    site.get("/rooms");
    let ids = clients(&mut site);
    let ids = ids.lines().filter_map(|line| line.strip_prefix("id=")?.split(' ').next()?.parse::<u64>().ok());
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    // The last is the one that asks.
    let of_a_worker = ids[ids.len() - 2].to_string();
    site.redis().run::<u64>(&["CLIENT", "KILL", "ID", &of_a_worker]);
    eventually("the loss is noticed and mended", || get_in_time(&site, "/rooms").is("hit"));
    ask_all(&mut site);
    site.write("POST", "/users/create").has_status(200);
    get_in_time(&site, "/users/1/0").hides("hit");
    assert!(!clients(&mut site).contains(&format!("id={of_a_worker} ")));
}

#[test]
fn larder_starts_without_redis_and_uses_it_when_it_comes() {
    let mut redis = RedisServer::start();
    redis.kill();
    let upstream = crate::support::Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(RULES).redis(&redis.url()).start();
    get_in_time(&larder, "/users").shows("detail=store-away").carries("/users #1");
    redis.restart();
    eventually("hits begin", || get_in_time(&larder, "/users").is("hit"));
}

#[test]
fn readers_after_a_write_do_not_join_the_older_fetch_while_redis_is_gone() {
    let mut site = site();
    site.redis().kill();
    let gate = site.upstream.hold_next("GET /users");
    let older = site.call("GET", "/users").start();
    gate.wait_for(1);
    site.write("POST", "/users/create").has_status(200);
    let younger = site.call("GET", "/users").start();
    get_in_time(&site, "/rooms");
    gate.open();
    older.response().carries("/users #1");
    younger.response().carries("/users #2");
}

#[test]
fn readers_share_fetches_while_redis_is_gone() {
    let mut site = site();
    site.redis().kill();
    let gate = site.upstream.hold_next("GET /users");
    let first = site.call("GET", "/users").start();
    gate.wait_for(1);
    let others: Vec<_> = (0..10).map(|_| site.call("GET", "/users").start()).collect();
    get_in_time(&site, "/rooms");
    gate.open();
    first.response().carries("/users #1");
    let bodies: Vec<String> = others.into_iter().map(|other| other.response().has_status(200).text()).collect();
    assert!(site.upstream.count("/users") < 11, "nothing was shared: {bodies:?}");
}

#[test]
fn a_fetch_begun_before_redis_went_is_not_served_after_a_write_meanwhile() {
    let mut site = site();
    let gate = site.upstream.hold_next("GET /users");
    let reader = site.call("GET", "/users").start();
    gate.wait_for(1);
    site.redis().hang();
    site.write("POST", "/users/create").has_status(200);
    gate.open();
    reader.response().carries("/users #1");
    site.redis().resume();
    assert_recovers_without_the_invalidated(&[&site]);
}

#[test]
fn nothing_invalidated_is_served_when_redis_takes_no_writes() {
    let mut site = site();
    let other = two_warm_proxies(&site);
    assert_eq!(site.redis().command(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    site.write("POST", "/users/create").has_status(200);
    get_in_time(&site, "/users").hides("hit").carries("/users #2");
    assert_eq!(site.redis().command(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    assert_recovers_without_the_invalidated(&[&site]);
    eventually("the other proxy serves the new response", || get_in_time(&other, "/users").text() != "/users #1");
}

#[test]
fn damaged_entries_in_redis_are_misses() {
    let mut site = site();
    site.get("/users").shows("stored");
    site.wait_for_entries(1);
    let key = site.redis().command(&["KEYS", "hotel:*:v1"]);
    for damaged in ["", "LRD1", "nonsense"] {
        assert_eq!(site.redis().command(&["SET", &key, damaged, "EX", "600"]), "OK");
        // A proxy with nothing in memory has to ask Redis.
        let fresh = site.another();
        fresh.get("/users").hides("hit").has_status(200);
        fresh.get("/users").shows("hit");
    }
}
