//! Collapse: followers wait for the leader's response where that is worth it, and share its failure. Across proxies one
//! proxy fetches, the others wait for what it stores; bounded, and never for a fetch that began before an acknowledged write.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::client::Pending;
use crate::support::{Gate, Larder, Plan, RedisServer, Reply, Site, Tier, Upstream, eventually};

/// The limit is far beyond what any test waits for: one that would have to be waited out fails.
const RULES: &str = r#"
[server]
upstream_timeout = "60s"

[store]
namespace = "hotel"
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

    /// A first answer is stored, and its fetch is over for everybody.
    fn store_first(&self, target: &str) {
        self.site.get(target).number();
        self.site.wait_for_entries(1);
        eventually("the claim is gone", || self.redis().command(&["KEYS", "*:lock"]).is_empty());
    }

    /// The other two ask, and wait for what the first one fetches.
    fn others_wait(&self, target: &str) -> Vec<Pending> {
        let asked = self.others.iter().map(|other| other.call("GET", target).start()).collect();
        self.others.iter().for_each(|other| other.wait_for_followers(1));
        asked
    }
}

#[test]
fn one_proxy_fetches_for_all() {
    let fleet = Fleet::start(RULES);
    let gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let proxies = || fleet.others.iter().chain([&fleet.site.larder]);
    let asked: Vec<Pending> =
        (0..4).flat_map(|_| proxies().map(|proxy| proxy.call("GET", "/users").start())).collect();
    proxies().for_each(|proxy| proxy.wait_for_followers(4));
    gate.open();
    first.response().carries("/users #1").shows("stored");
    let answers: Vec<_> = asked.into_iter().map(|asked| asked.response().carries("/users #1")).collect();
    let across =
        answers.iter().filter(|answer| answer.is("stored; collapsed") && answer.is("detail=fleet")).count();
    assert!(across >= 2, "each of the others has waited: {across}");
    assert_eq!(fleet.site.upstream.count("/users"), 1);
    let metrics = fleet.others[0].admin_get("/metrics").text();
    // By its message, or by its lock that is gone.
    let ended = ["stored", "gone"].map(|ended| format!("larder_fleet_waits_total{{ended=\"{ended}\"}}"));
    assert!(ended.iter().any(|line| metrics.contains(line)), "{metrics}");
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
    // The gate is still closed: a request that waits for that fetch waits in vain.
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
    let mut fleet = Fleet::start(&RULES.replace(r#"collapse_timeout = "60s""#, r#"collapse_timeout = "5s""#));
    let gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    gate.wait_for(1);
    let asked = fleet.others_wait("/users");
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
    let (same, different) = (get(&fleet.others[0], "de").start(), get(&fleet.others[1], "en").start());
    fleet.others.iter().for_each(|other| other.wait_for_followers(1));
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

#[test]
fn when_the_proxy_that_fetches_is_told_of_a_failure_each_other_one_asks_once() {
    let fleet = Fleet::start(RULES);
    fleet.site.upstream.on("/users", Reply::status(503));
    let first_gate = fleet.site.upstream.hold_next("GET /users");
    let first = fleet.site.call("GET", "/users").start();
    first_gate.wait_for(1);
    let others_gate = fleet.site.upstream.hold_all("GET /users");
    let waiting = fleet.others_wait("/users");
    first_gate.open();
    // Both at the same time.
    others_gate.wait_for(2);
    let more: Vec<Pending> =
        (0..4).flat_map(|_| fleet.others.iter().map(|other| other.call("GET", "/users").start())).collect();
    fleet.others.iter().for_each(|other| other.wait_for_followers(4));
    assert_eq!(fleet.site.upstream.count("/users"), 3);
    others_gate.open();
    first.response().has_status(503);
    for asked in waiting.into_iter().chain(more) {
        asked.response().has_status(503);
    }
}

// ---- Within one proxy

/// Long enough for any test to fail that would have to wait it out.
const PATIENT: &str = "[server]\ncollapse_wait = \"1h\"\nupstream_timeout = \"60s\"\n";
const IMPATIENT: &str = "[server]\ncollapse_wait = \"0s\"\nupstream_timeout = \"60s\"\n";
const FAMILIES: &str = r#"
[[family]]
name = "users"
path = '/users/.*'
ttl = "60s"

[[family]]
name = "apart"
path = '/apart'
ttl = "60s"
collapse = "off"
"#;

fn site(server: &str) -> Site {
    Site::start(Tier::Embedded, &format!("{server}{FAMILIES}"))
}

fn start(site: &Site, target: &str) -> Pending {
    site.call("GET", target).start()
}

/// How often followers have shared a fetch so far.
static ROUNDS: AtomicUsize = AtomicUsize::new(0);

/// Four followers share a leader's fetch; the test looks at their answers. `prepare` scripts upstream, with the gate that is
/// to hold the leader's response.
fn followers(
    site: &Site,
    prepare: impl Fn(&str, &Gate),
    call: impl Fn(&str) -> crate::support::client::Call,
    look: impl Fn(Vec<crate::support::client::Response>),
) {
    // One that nobody has asked for.
    let (target, gate) = (format!("/users/{}", ROUNDS.fetch_add(1, Ordering::Relaxed)), Gate::new());
    prepare(&target, &gate);
    let leader = start(site, &target);
    gate.wait_for(1);
    let waiting: Vec<Pending> = (0..4).map(|_| call(&target).start()).collect();
    site.wait_for_followers(4);
    gate.open();
    leader.response();
    look(waiting.into_iter().map(|follower| follower.response().shows("collapsed")).collect());
    assert_eq!(site.upstream.count(&target), 1);
}

#[test]
fn followers_get_an_error_of_the_server_as_it_came() {
    let site = site(PATIENT);
    let body = "sorry ".repeat(40_000);
    for (status, length) in [(500, 6), (502, 6), (503, 6), (504, 6), (507, 6), (599, 6), (500, 60_000)] {
        let error = Reply::with_status(status, &body[..length]).header("X-Kept", "1").header("Retry-After", "7");
        followers(
            &site,
            |target, gate| site.upstream.script(target, [error.clone().held(gate)]),
            |target| site.call("GET", target),
            |answers| {
                for answer in answers {
                    let answer = answer.has_status(status).shows(&format!("fwd-status={status}"));
                    assert_eq!((answer.header("x-kept"), answer.header("retry-after")), (Some("1"), Some("7")));
                    answer.carries(&body[..length]);
                }
            },
        );
    }
}

#[test]
fn a_large_error_reaches_followers_whole_or_by_its_status_alone() {
    let site = site(PATIENT);
    let body = "sorry ".repeat(80_000);
    let error = Reply::with_status(500, &*body).header("X-Kept", "1");
    followers(
        &site,
        |target, gate| site.upstream.script(target, [error.clone().held(gate)]),
        |target| site.call("GET", target),
        |answers| {
            for answer in answers {
                let answer = answer.has_status(500);
                assert_eq!(answer.text() == body, answer.header("x-kept").is_some());
            }
        },
    );
}

#[test]
fn followers_get_nothing_of_an_error_that_is_meant_for_the_leader_but_its_status() {
    let site = site(PATIENT);
    let rows = [
        ("Set-Cookie", "id=leader"),
        ("Cache-Control", "private"),
        ("Cache-Control", "private=\"x-own\""),
        ("Cache-Control", "no-cache=\"x-own\""),
        ("Cache-Control", "no-store"),
        ("Vary", "*"),
        ("Vary", "X-Forwarded-For"),
    ];
    for (name, value) in rows {
        let error = Reply::with_status(503, "the leader's").header(name, value).header("X-Own", "1");
        followers(
            &site,
            |target, gate| site.upstream.script(target, [error.clone().header("Retry-After", "7").held(gate)]),
            |target| site.call("GET", target),
            |answers| {
                for answer in answers {
                    let answer = answer.has_status(503);
                    let own = ["set-cookie", "x-own", "vary"].map(|name| answer.header(name));
                    assert_eq!((own, answer.header("retry-after")), ([None; 3], Some("7")), "{name}: {value}");
                    assert!(!answer.text().contains("leader"), "{name}: {value}: {answer:?}");
                }
            },
        );
    }
}

#[test]
fn a_follower_that_asked_for_another_variant_of_an_error_gets_its_status_alone() {
    let site = site(PATIENT);
    let error =
        Reply::with_status(503, "leider").header("Vary", "Accept-Language").header("Content-Language", "de");
    for (language, is_same) in [("de", false), ("", true)] {
        followers(
            &site,
            |target, gate| site.upstream.script(target, [error.clone().held(gate)]),
            |target| match language {
                "" => site.call("GET", target),
                language => site.call("GET", target).header("Accept-Language", language),
            },
            |answers| {
                for answer in answers {
                    let answer = answer.has_status(503);
                    assert_eq!(answer.text() == "leider", is_same, "{answer:?}");
                    assert_eq!(answer.header("content-language").is_some(), is_same);
                }
            },
        );
    }
}

#[test]
fn an_error_that_the_leaders_fields_have_caused_is_not_told_to_followers() {
    let site = site(PATIENT);
    site.upstream.answer("/users/1", |request| match request.header("x-bad") {
        Some(_) => Reply::status(500),
        None => Reply::new("good"),
    });
    let gate = site.upstream.hold_next("/users/1");
    let leader = site.call("GET", "/users/1").header("X-Bad", "1").start();
    gate.wait_for(1);
    let followers: Vec<Pending> = (0..4).map(|_| start(&site, "/users/1")).collect();
    site.wait_for_followers(4);
    gate.open();
    leader.response().has_status(500);
    for follower in followers {
        follower.response().has_status(200).carries("good");
    }
    // They have asked again together: the first of them stored what the others found, or shared.
    assert_eq!(site.upstream.count("/users/1"), 2);
}

#[test]
fn what_one_request_has_caused_is_not_told_to_followers() {
    let site = site(PATIENT);
    for status in [400, 406, 429, 501, 505, 511] {
        let target = format!("/users/{status}");
        let gate = Gate::new();
        site.upstream.script(&target, [Reply::status(status).held(&gate), Reply::numbered()]);
        let leader = start(&site, &target);
        gate.wait_for(1);
        let follower = start(&site, &target);
        site.wait_for_followers(1);
        gate.open();
        leader.response().has_status(status);
        follower.response().has_status(200).carries(&format!("{target} #2"));
    }
}

#[test]
fn followers_that_may_not_have_what_is_stale_are_told_of_the_failure() {
    let site = site(PATIENT);
    // Without an answer a family lets anybody have what is stale.
    for (error, status) in [(Reply::status(503), 503), (Reply::none(), 200)] {
        let (target, gate) = (format!("/users/stale-{status}"), Gate::new());
        site.upstream.script(&target, [Reply::new("old").stale("public"), error.held(&gate)]);
        site.get(&target).shows("stored");
        let leader = site.call("GET", &target).header("Cache-Control", "stale-if-error=6000").start();
        gate.wait_for(1);
        let waiting: Vec<Pending> = (0..4).map(|_| start(&site, &target)).collect();
        site.wait_for_followers(4);
        gate.open();
        leader.response().carries("old");
        for follower in waiting {
            // Requests are not counted: one that a pooled connection swallows is sent once more.
            follower.response().has_status(status).shows("collapsed");
        }
    }
}

#[test]
fn long_polls_outside_of_families_do_not_wait_for_one_another() {
    let site = site(IMPATIENT);
    site.upstream.on("/poll", Reply::numbered().cached("no-store"));
    for round in 1..=3 {
        let gate = site.upstream.hold_all(&format!("/poll?since={round}"));
        let polls: Vec<Pending> = (0..4).map(|_| start(&site, &format!("/poll?since={round}"))).collect();
        // All of them, while none is answered.
        gate.wait_for(4);
        gate.open();
        for poll in polls {
            poll.response().has_status(200);
        }
    }
}

#[test]
fn where_responses_were_for_sharing_requests_outside_of_families_wait_for_the_leader() {
    let site = site(IMPATIENT);
    site.upstream.answer("/items/1", |_| Reply::numbered().cached("max-age=60"));
    site.get("/items/1?page=1").shows("stored");
    // Another query and another identifier: the same shape.
    for target in ["/items/1?page=2", "/items/2"] {
        site.upstream.on(target, Reply::numbered().cached("max-age=60"));
        let gate = site.upstream.hold_all(target);
        let leader = start(&site, target);
        gate.wait_for(1);
        let followers: Vec<Pending> = (0..3).map(|_| start(&site, target)).collect();
        site.wait_for_followers(3);
        assert_eq!(site.upstream.count(target), 1);
        gate.open();
        for answer in [leader].into_iter().chain(followers) {
            answer.response().carries(&format!("{target} #1"));
        }
    }
    // An error says nothing of it; a response that is for one client does.
    site.upstream.on("/items/3", Reply::status(404).cached("no-store"));
    site.get("/items/3");
    let gate = site.upstream.hold_all("/items/4");
    let polls: Vec<Pending> = (0..2).map(|_| start(&site, "/items/4")).collect();
    site.wait_for_followers(1);
    gate.wait_for(1);
    assert_eq!(site.upstream.count("/items/4"), 1);
    gate.open();
    polls.into_iter().for_each(|poll| drop(poll.response()));
    site.upstream.on("/items/5", Reply::numbered().cached("no-store"));
    site.get("/items/5").hides("stored");
    let gate = site.upstream.hold_all("/items/6");
    let polls: Vec<Pending> = (0..2).map(|_| start(&site, "/items/6")).collect();
    gate.wait_for(2);
    gate.open();
    polls.into_iter().for_each(|poll| drop(poll.response()));
}

#[test]
fn a_follower_goes_on_waiting_while_upstream_has_no_place_for_it() {
    let site = site(&IMPATIENT.replace("collapse_wait", "max_upstream_requests = 1\ncollapse_wait"));
    let gate = site.upstream.hold_next("/poll");
    site.upstream.on("/poll", Reply::numbered().cached("max-age=60"));
    let leader = start(&site, "/poll");
    gate.wait_for(1);
    let followers: Vec<Pending> = (0..6).map(|_| start(&site, "/poll")).collect();
    site.wait_for_followers(6);
    gate.open();
    for answer in [leader].into_iter().chain(followers) {
        answer.response().has_status(200);
    }
}

#[test]
fn in_a_family_followers_wait_for_the_leader_and_go_on_together_if_they_cannot_share() {
    let site = site(IMPATIENT);
    site.upstream.on("/users/poll", Reply::numbered().cached("no-store"));
    let first = site.upstream.hold_next("/users/poll");
    let leader = start(&site, "/users/poll");
    first.wait_for(1);
    let followers: Vec<Pending> = (0..4).map(|_| start(&site, "/users/poll")).collect();
    site.wait_for_followers(4);
    assert_eq!(site.upstream.count("/users/poll"), 1);
    let gate = site.upstream.hold_all("/users/poll");
    first.open();
    leader.response().has_status(200);
    gate.wait_for(4);
    // From then on nobody waits there.
    let next: Vec<Pending> = (0..4).map(|_| start(&site, "/users/poll")).collect();
    gate.wait_for(8);
    gate.open();
    for answer in followers.into_iter().chain(next) {
        answer.response().has_status(200);
    }
}

#[test]
fn a_family_that_does_not_collapse_is_fetched_for_each_request() {
    let site = site(PATIENT);
    let gate = site.upstream.hold_all("/apart");
    let asked: Vec<Pending> = (0..3).map(|_| start(&site, "/apart")).collect();
    gate.wait_for(3);
    gate.open();
    for answer in asked {
        answer.response().has_status(200).hides("collapsed");
    }
    site.get("/apart").shows("hit");
}

#[test]
fn while_the_store_is_away_long_polls_do_not_wait_for_one_another_either() {
    let mut site = Site::start(Tier::Redis, IMPATIENT);
    site.redis().kill();
    site.upstream.on("/away", Reply::numbered().cached("max-age=60"));
    eventually("the store is away", || site.get("/away").is("detail=store-away"));
    let gate = site.upstream.hold_all("/poll");
    let polls: Vec<Pending> = (0..4).map(|_| start(&site, "/poll")).collect();
    gate.wait_for(4);
    gate.open();
    for poll in polls {
        poll.response().has_status(200);
    }
}
