//! Collapse across proxies: one proxy fetches, the others wait for what it stores; bounded, and never for a fetch that
//! began before an acknowledged write.

use crate::support::client::Pending;
use crate::support::{Gate, Larder, Plan, RedisServer, Reply, Site, Tier, Upstream, eventually};

/// The limit is far beyond what any test waits for: one that would have to be waited out fails.
const RULES: &str = r#"
[server]
upstream_timeout = "60s"

[store]
namespace = "hotel"
timeout = "5s"
collapse_timeout = "60s"
sweep_rate = 0

[[family]]
name = "users"
path = '/users'
ttl = "60s"
collapse = "fleet"

[[family]]
name = "rooms"
path = '/rooms'
ttl = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

struct Fleet {
    site: Site,
    others: Vec<Larder>,
}

impl Fleet {
    /// Three proxies on one Redis.
    fn start(rules: &str) -> Fleet {
        let site = Site::start(Tier::Redis, rules);
        let others = vec![site.another(), site.another()];
        Fleet { site, others }
    }

    fn redis(&self) -> &RedisServer {
        self.site.redis.as_ref().expect("the test is about Redis")
    }

    /// Reads that were carried out so far: one for each lookup, and one for each look at a claim.
    fn reads(&self) -> u64 {
        let counts = self.redis().command_counts();
        counts.iter().find(|(name, _)| name == "getrange").map_or(0, |(_, count)| *count)
    }

    /// A first answer is stored, and its fetch is over for everybody.
    fn store_first(&self, target: &str) {
        self.site.get(target).number();
        self.site.wait_for_entries(1);
        eventually("the claim is gone", || self.redis().command(&["KEYS", "*:fetch:*"]).is_empty());
    }

    /// Waits until the claim was looked at so often that somebody waits for it.
    fn wait_for_reads(&self, count: u64) {
        eventually("the claim is looked at", || self.reads() >= count);
    }

    /// The other two ask, and wait for what the first one fetches.
    fn others_wait(&self, target: &str) -> Vec<Pending> {
        let before = self.reads();
        let asked = self.others.iter().map(|other| other.call("GET", target).start()).collect();
        // Lookups and claims of two; what is beyond them are looks at the claim.
        self.wait_for_reads(before + 8);
        asked
    }
}

#[test]
fn one_proxy_fetches_for_all() {
    let fleet = Fleet::start(RULES);
    let gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let before = fleet.reads();
    let proxies = || fleet.others.iter().chain([&fleet.site.larder]);
    let asked: Vec<Pending> =
        (0..4).flat_map(|_| proxies().map(|proxy| proxy.call("GET", "/users").start())).collect();
    // Twelve lookups and the claims of two; what is beyond them are looks at the claim.
    fleet.wait_for_reads(before + 20);
    gate.open();
    first.response().carries("/users #1").shows("stored");
    let answers: Vec<_> = asked.into_iter().map(|asked| asked.response().carries("/users #1")).collect();
    let across =
        answers.iter().filter(|answer| answer.is("stored; collapsed") && answer.is("detail=fleet")).count();
    assert!(across >= 2, "each of the others has waited: {across}");
    assert_eq!(fleet.site.upstream.count("/users"), 1);
    let metrics = fleet.others[0].admin_get("/metrics").text();
    assert!(metrics.contains(r#"larder_fleet_waits_total{ended="stored"}"#), "{metrics}");
    fleet.others.iter().for_each(|other| drop(other.get("/users").shows("hit").carries("/users #1")));
}

#[test]
fn a_family_that_does_not_ask_for_it_is_fetched_by_each_proxy() {
    let fleet = Fleet::start(RULES);
    let gate = fleet.site.upstream.hold_next("GET /rooms");
    let first = fleet.site.call("GET", "/rooms").start();
    gate.wait_for(1);
    fleet.others[0].get("/rooms").carries("/rooms #2");
    gate.open();
    first.response().carries("/rooms #1");
}

#[test]
fn a_reader_after_a_write_does_not_wait_for_the_fetch_before_it() {
    let fleet = Fleet::start(RULES);
    let gate = fleet.site.upstream.hold_next("GET /users");
    let older = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let [one, other] = &fleet.others[..] else { panic!("there are two others") };
    one.write("POST", "/users/create").has_status(200);
    // The gate is still closed: whoever waits for that fetch waits in vain.
    other.get("/users").carries("/users #2").shows("stored");
    one.get("/users").carries("/users #2");
    gate.open();
    older.response().carries("/users #1");
    for proxy in [one, other, &fleet.site.larder] {
        proxy.get("/users").carries("/users #2");
    }
}

#[test]
fn a_proxy_that_dies_is_not_waited_for_longer_than_the_limit() {
    let mut fleet = Fleet::start(&RULES.replace(r#"collapse_timeout = "60s""#, r#"collapse_timeout = "1s""#));
    let gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let asked: Vec<Pending> = fleet.others.iter().map(|other| other.call("GET", "/users").start()).collect();
    fleet.site.larder.kill();
    drop(first);
    // The gate is still closed: they fetch for themselves.
    for asked in asked {
        assert!(asked.response().has_status(200).number() >= 2);
    }
    drop(gate);
}

#[test]
fn an_answer_that_is_not_for_sharing_is_not_fetched_by_one_after_the_other() {
    let fleet = Fleet::start(RULES);
    fleet.site.upstream.on("/users", Reply::numbered().cached("no-store"));
    let first_gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    first_gate.wait_for(1);
    let asked = fleet.others_wait("/users");
    let gate = fleet.site.upstream.hold_all("GET /users");
    first_gate.open();
    // Both at the same time, without waiting for one another.
    gate.wait_for(2);
    gate.open();
    first.response().carries("/users #1");
    let mut numbers: Vec<usize> = asked.into_iter().map(|asked| asked.response().number()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
}

/// `large`: 3 MiB.
fn is_not_waited_for_to_its_end(large: Reply) {
    let fleet = Fleet::start(RULES);
    let (start, body) = (Gate::new(), Gate::new());
    let large = large.held(&start).pause_after(2 << 20, &body);
    fleet.site.upstream.script("GET /users", [large, Reply::numbered()]);
    let first = fleet.site.call("GET", "/users").start();
    start.wait_for(1);
    let asked = fleet.others_wait("/users");
    start.open();
    // The body is still on its way.
    for asked in asked {
        assert!(asked.response().number() >= 2);
    }
    body.open();
    assert_eq!(first.drain().unwrap(), 3 << 20);
}

#[test]
fn a_body_too_large_to_be_shared_is_not_waited_for_to_its_end() {
    is_not_waited_for_to_its_end(Reply::filled(3 << 20));
}

#[test]
fn a_body_that_grows_too_large_to_be_shared_is_not_waited_for_to_its_end() {
    is_not_waited_for_to_its_end(Reply::filled(3 << 20).chunked());
}

#[test]
fn who_hears_nothing_finds_out_by_looking() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    redis.run::<()>(&["ACL", "SETUSER", "deaf", "on", ">x", "~*", "&*", "+@all", "-subscribe"]);
    let url = redis.url().replace("redis://", "redis://deaf:x@");
    let plan = Plan::new(&upstream.url()).rules(RULES).redis(&url);
    let (larder, others) = (plan.start(), vec![plan.start(), plan.start()]);
    let fleet = Fleet { site: Site { larder, upstream, redis: Some(redis), plan }, others };
    let gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let asked = fleet.others_wait("/users");
    gate.open();
    first.response().carries("/users #1");
    for asked in asked {
        asked.response().carries("/users #1").shows("collapsed").shows("detail=fleet");
    }
}

#[test]
fn without_redis_nobody_waits_any_longer() {
    let mut fleet = Fleet::start(RULES);
    let gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let asked = fleet.others_wait("/users");
    fleet.site.redis().kill();
    // The gate is still closed.
    for asked in asked {
        assert!(asked.response().has_status(200).number() >= 2);
    }
    gate.open();
    first.response().carries("/users #1");
}

#[test]
fn who_waited_for_another_variant_fetches_its_own() {
    let fleet = Fleet::start(RULES);
    fleet.site.upstream.on("/users", Reply::numbered().header("Vary", "Accept-Language"));
    let gate = fleet.site.upstream.hold_next("GET /users");
    let get = |larder: &Larder, language: &str| larder.call("GET", "/users").header("Accept-Language", language);
    let first = get(&fleet.site, "de").start();
    gate.wait_for(1);
    let before = fleet.reads();
    let (same, different) = (get(&fleet.others[0], "de").start(), get(&fleet.others[1], "en").start());
    fleet.wait_for_reads(before + 8);
    gate.open();
    first.response().carries("/users #1");
    same.response().carries("/users #1").shows("collapsed").shows("detail=fleet");
    different.response().carries("/users #2");
    assert_eq!(fleet.site.upstream.count("/users"), 2);
}

#[test]
fn a_stale_response_is_validated_by_one_proxy() {
    let fleet = Fleet::start(RULES);
    let fresh = Reply::numbered().cached("max-age=60").header("ETag", "\"2\"");
    fleet.site.upstream.script("GET /users", [Reply::numbered().stale("must-revalidate"), fresh]);
    fleet.store_first("/users");
    let gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let asked = fleet.others_wait("/users");
    gate.open();
    first.response().carries("/users #2");
    for asked in asked {
        asked.response().carries("/users #2").shows("fwd=stale").shows("detail=fleet");
    }
    assert_eq!(fleet.site.upstream.count("/users"), 2);
}

#[test]
fn a_refresh_in_the_background_is_left_to_the_proxy_that_began_it() {
    let fleet = Fleet::start(RULES);
    fleet.site.upstream.on("/users", Reply::numbered().stale("stale-while-revalidate=600"));
    fleet.store_first("/users");
    let gate = fleet.site.upstream.hold_next("GET /users");
    fleet.site.get("/users").carries("/users #1").shows("detail=revalidating");
    gate.wait_for(1);
    for other in fleet.others.iter().cycle().take(6) {
        other.get("/users").carries("/users #1").shows("detail=revalidating");
    }
    assert_eq!(fleet.site.upstream.count("/users"), 2);
    gate.open();
    // One that comes when the first is over begins one of its own.
    eventually("another one refreshes", || {
        fleet.others[0].get("/users");
        fleet.site.upstream.count("/users") >= 3
    });
}

#[test]
fn nobody_waits_for_who_asks_for_himself() {
    let fleet = Fleet::start(RULES);
    let gate = fleet.site.upstream.hold_next("GET /users");
    let alone = fleet.site.call("GET", "/users").header("Authorization", "Bearer x").start();
    gate.wait_for(1);
    fleet.others[0].get("/users").carries("/users #2").shows("stored");
    gate.open();
    alone.response().carries("/users #1");
}
