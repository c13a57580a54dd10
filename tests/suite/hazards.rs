//! Each hazard that the design names (crate docs, DESIGN §5), forced on real processes. Every answer was taken out by hand,
//! at the line that is named, to see its test fail.
//!
//! | hazard | answer | test | what was taken out |
//! |---|---|---|---|
//! | a fetch began before a write and was stored after it | its stamp is older than the mark | [`a_fetch_begun_before_a_write_elsewhere_is_not_served_after_it`] | `stamp.rs`, `MarksView::is_current`: the comparison with `newest` |
//! | Redis restarted empty | another `run_id`, a new epoch | [`nothing_invalidated_is_served_after_redis_is_restarted_empty`] | `stamp.rs`, `MarksView::is_current`: the comparison of epochs; `Marks::begin` and `epoch.lua`, `start_epoch`: the floor (one of them is enough) |
//! | … restored from an old snapshot | the same | [`nothing_invalidated_is_served_after_redis_is_restarted_from_an_old_snapshot`] | `epoch.lua`, `loss`, and `redis.rs`, `view_of`: the comparison of `run_id` |
//! | … failed over to a lagging replica | the same | [`nothing_invalidated_is_served_after_a_failover_to_a_lagging_replica`] | the same two |
//! | … flushed | `meta` is missing, a new epoch | [`nothing_invalidated_is_served_after_redis_is_flushed`] | the same three |
//! | leases that such a Redis has forgotten | for one lease no write is acknowledged early | [`a_write_waits_for_a_lease_that_a_flushed_redis_has_forgotten`], [`a_write_waits_for_a_lease_that_a_restarted_redis_has_forgotten`] | `coherence/fleet/settle.rs`, `wait_for_members`: `sleep_until(replied + young)` |
//! | marks evicted | no sentinel, a new epoch | [`nothing_invalidated_is_served_after_the_marks_are_lost`] | `epoch.lua`, `loss`, and `redis.rs`, `view_of`: the sentinel of the marks |
//! | meta evicted | no epoch, a new one | [`nothing_invalidated_is_served_after_meta_is_lost`], [`nothing_invalidated_is_served_after_all_coordination_is_lost`] | the same three |
//! | members evicted | no sentinel, a new epoch, and its age | [`a_write_waits_for_a_lease_whose_member_was_evicted`] | `epoch.lua`, `loss`: the sentinel of the members |
//! | intents evicted | no sentinel, a new epoch | [`what_an_evicted_intent_would_have_invalidated_is_invalidated`] | `epoch.lua`, `loss`: the sentinel of the intents |
//! | a proxy is paused | writers wait one lease, which ends by its own clock | [`a_write_waits_for_a_proxy_that_hangs_until_it_serves_nothing_old`] | `coherence/fleet/settle.rs`, `wait_for_members`: the loop over the holders |
//! | a proxy is cut off | the same | [`a_write_waits_for_a_proxy_that_is_cut_off`], [`a_lease_ends_without_redis`] | the same; `Fleet::holds_lease`: the comparison with the time |
//! | a proxy is killed in mid-write | its intent is carried out by another | [`what_a_killed_proxy_was_writing_is_invalidated_by_another`], [`a_strict_proxy_too_carries_out_what_another_was_writing`] | `coherence/fleet/intents.rs`, `carry_out_intents`: the loop over what is due |
//! | Redis is unreachable | no lease, no L2; invalidations are kept and delivered first | [`a_write_while_redis_is_hung_is_delivered_before_anything_is_trusted`] | `cache/invalidate.rs`, `invalidate_for`: `deliver_later` |
//! | … for all | a write is answered when no lease can be held any more | [`a_write_while_redis_was_gone_invalidates_what_redis_remembers`] | `cache/invalidate.rs`, `invalidate_for`: `settled_or` |
//! | … and nobody can be told | `on_outage = "refuse"` refuses writes | [`writes_are_refused_while_redis_is_away_where_the_rules_say_so`] | `write.rs`, `announce`: the arm that refuses |
//! | clocks differ, or are set | sequences never go back; leases are one process's own time | [`a_clock_that_is_set_back_invalidates_as_before`] | `epoch.lua`, `next_sequence`: `last + 1` |
//!
//! More of what happens while Redis is away stands in `outages.rs`; the scripts alone in `store_redis`; and all of this
//! at once, with everything else that may go wrong, in `tests/simulation`.

use std::time::{Duration, Instant};

use crate::support::larder::signal;
use crate::support::{Larder, Plan, RedisServer, Response, Site, Tier, eventually, eventually_some};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "600s"

[invalidate]
'/users/create' = ["users"]
"#;

/// `[store] timeout` with plenty of slack for a busy machine; a client library's own idea of patience is longer.
const IN_TIME: Duration = Duration::from_secs(10);

/// So that a write counts as abandoned soon.
const IMPATIENT: &str = "[server]\nconnect_timeout = \"1s\"\nupstream_timeout = \"3s\"\n";

fn rules(store: &str) -> String {
    format!("{RULES}\n[store]\nnamespace = \"hotel\"\n{store}\n")
}

fn site(store: &str) -> Site {
    Site::start(Tier::Redis, &rules(store))
}

/// One whose Redis may be away without a request waiting long for it.
fn hasty() -> Site {
    site("timeout = \"200ms\"")
}

#[track_caller]
pub fn get_in_time(larder: &Larder, target: &str) -> Response {
    let start = Instant::now();
    let response = larder.get(target).has_status(200);
    assert!(start.elapsed() < IN_TIME, "took {:?}: {response:?}", start.elapsed());
    response
}

/// Waits until memory is served under a lease.
pub fn wait_for_lease(larder: &Larder) {
    eventually("the proxy holds a lease", || larder.admin_get("/metrics").text().contains("larder_lease_held 1"));
}

/// Requests go on in time, and no answer is the invalidated `/users #1`, until hits are back on every proxy.
#[track_caller]
pub fn assert_recovers_without_the_invalidated(proxies: &[&Larder]) {
    for proxy in proxies {
        eventually("hits are back", || {
            let answer = get_in_time(proxy, "/users");
            assert_ne!(answer.text(), "/users #1", "invalidated: {answer:?}");
            answer.is("hit")
        });
    }
    for proxy in proxies {
        assert_ne!(proxy.get("/users").text(), "/users #1");
    }
}

/// This proxy and the other ones have `/users #1` in memory.
fn warm(site: &Site, others: &[&Larder]) {
    site.get("/users").shows("stored").carries("/users #1");
    site.wait_for_entries(1);
    for proxy in others.iter().chain([&&site.larder]) {
        proxy.get("/users").shows("hit").carries("/users #1");
    }
}

pub fn two_warm_proxies(site: &Site) -> Larder {
    let other = site.another();
    warm(site, &[&other]);
    other
}

#[test]
fn a_fetch_begun_before_a_write_elsewhere_is_not_served_after_it() {
    let site = site("");
    let other = site.another();
    let gate = site.upstream.hold_next("GET /users");
    let reader = other.call("GET", "/users").start();
    gate.wait_for(1);
    site.write("POST", "/users/create").has_status(200);
    gate.open();
    reader.response().carries("/users #1");
    for proxy in [&other, &site.larder, &other] {
        assert!(proxy.get("/users").number() >= 2);
    }
}

/// A write passes while all is well; then Redis loses what this does to it. Neither proxy, each of which may still
/// hold the invalidated response in memory, may serve it.
#[track_caller]
fn assert_safe_after(prepare: impl FnOnce(&mut RedisServer), lose: impl FnOnce(&mut RedisServer)) {
    let mut site = site("");
    let other = two_warm_proxies(&site);
    prepare(site.redis());
    site.write("POST", "/users/create").has_status(200);
    lose(site.redis());
    assert_recovers_without_the_invalidated(&[&other, &site]);
    site.write("POST", "/users/create").has_status(200);
    let latest = site.upstream.count("GET /users") + 1;
    for proxy in [&other, &site.larder] {
        assert!(proxy.get("/users").number() >= latest);
    }
}

/// Deletes Redis's coordination key with this name, as an eviction does.
fn delete(redis: &RedisServer, part: &str) {
    assert_eq!(redis.command(&["DEL", &format!("{{hotel}}:{part}")]), "1", "{part}");
}

#[test]
fn nothing_invalidated_is_served_after_redis_is_restarted_empty() {
    assert_safe_after(|_| {}, RedisServer::restart_empty);
}

#[test]
fn nothing_invalidated_is_served_after_redis_is_restarted_from_an_old_snapshot() {
    assert_safe_after(|redis| redis.save(), RedisServer::restart);
}

#[test]
fn nothing_invalidated_is_served_after_redis_is_flushed() {
    assert_safe_after(|_| {}, |redis| assert_eq!(redis.command(&["FLUSHALL"]), "OK"));
}

/// Makes a server a copy of another one, as it is now.
fn copy(from: &RedisServer, to: &RedisServer) {
    assert_eq!(to.command(&["REPLICAOF", "127.0.0.1", &from.port().to_string()]), "OK");
    let is_online = || from.run::<String>(&["INFO", "replication"]).contains("state=online");
    eventually("the replica is online", is_online);
    from.run::<()>(&["SET", "step", &to.port().to_string()]);
    eventually("the replica is in step", || to.command(&["GET", "step"]) == to.port().to_string());
    assert_eq!(to.command(&["REPLICAOF", "NO", "ONE"]), "OK");
}

#[test]
fn nothing_invalidated_is_served_after_a_failover_to_a_lagging_replica() {
    let replica = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    assert_safe_after(
        // It has the entry; what comes later does not reach it.
        |redis| copy(redis, &replica),
        |redis| {
            // The proxies find at the old address what the replica had.
            redis.restart_empty();
            copy(&replica, redis);
        },
    );
}

#[test]
fn nothing_invalidated_is_served_after_the_marks_are_lost() {
    assert_safe_after(|_| {}, |redis| delete(redis, "marks"));
}

#[test]
fn nothing_invalidated_is_served_after_meta_is_lost() {
    assert_safe_after(|_| {}, |redis| delete(redis, "meta"));
}

#[test]
fn nothing_invalidated_is_served_after_all_coordination_is_lost() {
    assert_safe_after(
        |_| {},
        |redis| {
            delete(redis, "meta");
            delete(redis, "marks");
        },
    );
}

#[test]
fn what_an_evicted_intent_would_have_invalidated_is_invalidated() {
    let mut site = site(IMPATIENT);
    let other = two_warm_proxies(&site);
    let gate = site.upstream.hold_next("POST /users/create");
    let pending = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    site.larder.kill();
    pending.abandon();
    // Before anybody could carry it out: that takes longer than its time limits.
    delete(site.redis(), "intents");
    eventually("everything is invalidated", || other.get("/users").text() != "/users #1");
    gate.open();
}

/// A proxy that can be cut off from Redis, having a user of its own there.
fn severable(site: &Site, store: &str) -> Larder {
    let redis = site.redis.as_ref().unwrap();
    redis.run::<()>(&["ACL", "SETUSER", "keeper", "on", ">sesame", "~*", "&*", "+@all"]);
    let url = redis.url().replace("redis://", "redis://keeper:sesame@");
    let larder = Plan::new(&site.upstream.url()).rules(&rules(store)).redis(&url).start();
    wait_for_lease(&larder);
    larder
}

fn sever(redis: &RedisServer) {
    redis.run::<()>(&["ACL", "SETUSER", "keeper", "off"]);
    redis.run::<()>(&["CLIENT", "KILL", "USER", "keeper"]);
}

/// Far longer than anything else here takes, so that only the end of the lease can be what was waited for.
const LONG_LEASE: &str = "lease = \"3s\"\ntimeout = \"1s\"\non_outage = \"refuse\"";

/// A proxy serves from memory under its lease, cut off from Redis, which then suffers `loss`. When a write through another
/// proxy is acknowledged, it must serve what is invalidated no more.
#[track_caller]
fn assert_write_waits_after(loss: impl FnOnce(&mut RedisServer)) {
    let (mut site, other, served) = site_and_cut_off();
    loss(site.redis());
    assert_write_waits(&site);
    assert!(other.get("/users").hides("hit").number() > served);
}

/// The second one holds a lease, and is cut off from Redis. Also the number of the response that it serves.
fn site_and_cut_off() -> (Site, Larder, usize) {
    let mut site = site(LONG_LEASE);
    let other = severable(&site, LONG_LEASE);
    warm(&site, &[&other]);
    // As after a long time: a young epoch makes every write wait.
    site.redis().run::<()>(&["HSET", "{hotel}:meta", "born", "1"]);
    // The first sync that fails ends the lease: where that comes before the read, once more.
    let served = eventually_some("it serves from memory while it is cut off", || {
        sever(site.redis());
        let answer = other.get("/users");
        if answer.is("hit") {
            return Some(answer.number());
        }
        site.redis().run::<()>(&["ACL", "SETUSER", "keeper", "on"]);
        eventually("its hits are back", || other.get("/users").is("hit"));
        None
    });
    (site, other, served)
}

#[track_caller]
fn assert_write_waits(site: &Site) {
    // While Redis is away, it is refused, which is another hazard.
    eventually("a write is acknowledged", || site.write("POST", "/users/create").status == 200);
}

#[test]
fn a_write_waits_for_a_proxy_that_is_cut_off() {
    assert_write_waits_after(|_| {});
}

#[test]
fn a_write_waits_for_a_lease_that_a_flushed_redis_has_forgotten() {
    assert_write_waits_after(|redis| assert_eq!(redis.command(&["FLUSHALL"]), "OK"));
}

#[test]
fn a_write_waits_for_a_lease_that_a_restarted_redis_has_forgotten() {
    assert_write_waits_after(RedisServer::restart_empty);
}

#[test]
fn a_write_waits_for_a_lease_whose_member_was_evicted() {
    assert_write_waits_after(|redis| delete(redis, "members"));
}

#[test]
fn a_lease_ends_without_redis() {
    let store = "lease = \"300ms\"\ntimeout = \"1s\"";
    let mut site = site(store);
    let other = severable(&site, store);
    warm(&site, &[&other]);
    sever(site.redis());
    eventually("the lease is over", || other.get("/users").is("detail=store-away"));
    other.get("/users").hides("hit");
}

#[test]
fn a_write_waits_for_a_proxy_that_hangs_until_it_serves_nothing_old() {
    // Cut off as well: otherwise it would hear of the write when it wakes, as it mostly does.
    let (site, other, served) = site_and_cut_off();
    signal(other.id(), "STOP");
    assert_write_waits(&site);
    signal(other.id(), "CONT");
    assert!(other.get("/users").hides("hit").number() > served);
}

#[test]
fn what_a_killed_proxy_was_writing_is_invalidated_by_another() {
    assert_carried_out("lease");
}

#[test]
fn a_strict_proxy_too_carries_out_what_another_was_writing() {
    assert_carried_out("strict");
}

fn assert_carried_out(coherence: &str) {
    let mut site = site(&format!("coherence = \"{coherence}\"\n{IMPATIENT}"));
    let other = site.another();
    other.get("/users").shows("stored").carries("/users #1");
    // Upstream carries it out, and the proxy does not live to see the answer.
    let gate = site.upstream.hold_next("POST /users/create");
    let pending = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    site.larder.kill();
    pending.abandon();
    eventually("another proxy carries it out", || other.get("/users").text() != "/users #1");
    gate.open();
}

#[test]
fn a_write_while_redis_is_hung_is_delivered_before_anything_is_trusted() {
    let mut site = hasty();
    let other = two_warm_proxies(&site);
    site.redis().hang();
    site.write("POST", "/users/create").has_status(200);
    get_in_time(&site, "/users").hides("hit").carries("/users #2");
    site.redis().resume();
    assert_recovers_without_the_invalidated(&[&site]);
    // The other proxy heard of the write from Redis alone, as soon as it was delivered.
    eventually("the other proxy serves the new response", || get_in_time(&other, "/users").text() != "/users #1");
}

#[test]
fn a_write_while_redis_was_gone_invalidates_what_redis_remembers() {
    let mut site = hasty();
    let other = two_warm_proxies(&site);
    site.redis().save();
    site.redis().kill();
    site.write("POST", "/users/create").has_status(200);
    get_in_time(&site, "/users").hides("hit").carries("/users #2");
    site.redis().restart();
    assert_recovers_without_the_invalidated(&[&site, &other]);
}

#[test]
fn writes_are_refused_while_redis_is_away_where_the_rules_say_so() {
    let mut site = site("on_outage = \"refuse\"");
    site.get("/users").shows("stored");
    site.write("POST", "/users/create").has_status(200);
    site.redis().kill();
    eventually("writes are refused", || {
        let refused = site.call("POST", "/users/create").body("{}").send();
        refused.status == 503 && refused.is("detail=store-away")
    });
    let before = site.upstream.count("POST /users/create");
    let refused = site.write("POST", "/users/create").fails_with(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(site.upstream.count("POST /users/create"), before, "upstream does not see it");
    site.get("/users").has_status(200);
    site.redis().restart();
    eventually("writes go through again", || site.call("POST", "/users/create").body("{}").send().status == 200);
}

#[test]
fn a_clock_that_is_set_back_invalidates_as_before() {
    let mut site = site("");
    let other = site.another();
    for proxy in [&site.larder, &other] {
        wait_for_lease(proxy);
    }
    // As if Redis's clock had been a day ahead until now.
    let redis = site.redis();
    let ahead = redis.run::<u64>(&["HGET", "{hotel}:meta", "seq"]) + 86_400_000_000;
    redis.run::<()>(&["HSET", "{hotel}:meta", "seq", &ahead.to_string()]);
    for round in 0..5 {
        let (writer, reader) = if round % 2 == 0 { (&site.larder, &other) } else { (&other, &site.larder) };
        reader.get("/users");
        reader.get("/users").shows("hit");
        writer.write("POST", "/users/create").has_status(200);
        let latest = site.upstream.count("GET /users") + 1;
        assert_eq!(reader.get("/users").hides("hit").number(), latest);
    }
}
