//! What anybody may do to Larder's keys in Redis: other types, foreign encodings, numbers that are none, huge values. Larder
//! replaces what cannot be what it wrote, and loses no invalidation by it.

use larder::entry::ENCODING_MAX;
use larder::store::sweep::KeyStats;

use super::*;
use crate::hazards::wait_for_lease;
use crate::support::{Larder, Plan, Upstream};

/// A script that puts something of each type at the key `k`, and the type.
const TYPES: [(&str, &str); 7] = [
    ("string", "redis.call('SET', k, 'x')"),
    ("string", "redis.call('SET', k, string.rep(string.char(255), 4194304))"),
    ("list", "redis.call('RPUSH', k, 'x')"),
    ("hash", "redis.call('HSET', k, 'x', string.char(255))"),
    ("set", "redis.call('SADD', k, 'x')"),
    ("zset", "redis.call('ZADD', k, 1, string.char(255))"),
    ("stream", "redis.call('XADD', k, '*', 'x', 'x')"),
];

/// The coordination keys that have to be of a type, and whether a new epoch begins when one is not.
const COORDINATION: [(&str, &str, bool); 6] = [
    ("meta", "hash", true),
    ("marks", "zset", true),
    ("members", "hash", true),
    ("intents", "zset", true),
    ("intent_tags", "hash", false),
    ("graces", "hash", false),
];

/// What is no number that Larder writes, as a Lua expression.
const NO_NUMBERS: [&str; 9] = [
    "''",
    "'x'",
    "'-1'",
    "'1.5'",
    "'1e308'",
    "'inf'",
    "'nan'",
    "'999999999999999999999999'",
    "string.rep(string.char(255), 4194304)",
];

fn plant(server: &RedisServer, script: &str) {
    server.run::<Option<String>>(&["EVAL", &format!("{script} return false"), "0"]);
}

/// What stands at a key does not go together with what is put there.
fn plant_other(server: &RedisServer, key: &str, script: &str) {
    plant(server, &format!("local k = '{key}' redis.call('DEL', k) {script}"));
}

/// Every call of the store answers, at the first attempt. Returns the reply to the last sync.
async fn everything_works(store: &RedisStore, case: &str) {
    let succeeds = |result: Result<(), StoreError>, what| {
        result.unwrap_or_else(|error| panic!("{case}: {what}: {error}"));
    };
    succeeds(store.view(&tags()).await.map(drop), "view");
    succeeds(store.lookup(KEY, &tags()).await.map(drop), "lookup");
    let asking = Membership { asks_who_is_behind: true, ..membership("p1", None, Duration::from_secs(1)) };
    let synced = store.sync(&asking).await;
    let stamp = synced.as_ref().map(|synced| synced.stamp).ok();
    succeeds(synced.map(drop), "sync");
    succeeds(store.sync(&Membership { applied: stamp, ..asking }).await.map(drop), "sync again");
    let intent = Intent { id: "w1".into(), tags: tags().into() };
    succeeds(store.record(&intent, PATIENCE).await.map(drop), "record");
    let soft = [SoftInvalidation { tag: Tag::family("soft"), grace: PATIENCE }];
    let again = [Again { after: PATIENCE, tags: tags().into() }];
    let cause = Cause { by: "p1", intent: Some("w1"), soft: &soft, again: &again, watched: &[], record: "" };
    succeeds(store.invalidate(&tags(), &cause).await.map(drop), "invalidate");
    succeeds(store.view(&[Tag::family("soft")]).await.map(drop), "view of a soft mark");
    succeeds(store.views(&[&tags()]).await.map(drop), "views");
    succeeds(store.roster().await.map(drop), "roster");
    succeeds(store.key_stats().await.map(drop), "key_stats");
    succeeds(store.store_key_stats(&KeyStats::default(), PATIENCE).await, "store_key_stats");
    succeeds(
        store.key_stats().await.map(|key_stats| assert!(key_stats.is_some(), "{case}")),
        "key statistics that was kept",
    );
    succeeds(store.forget("w1").await, "forget");
    assert!(store.hold_sweep("p1", PATIENCE).await.unwrap(), "{case}: nobody sweeps");
    assert!(!store.hold_sweep("p2", PATIENCE).await.unwrap(), "{case}: two sweep");
    assert_eq!(store.link(), Link::Up, "{case}");
    // And what is stored from now on is found.
    keep_entry(store).await;
    assert!(hits(&lookup(store).await), "{case}");
}

#[tokio::test]
async fn a_coordination_key_of_another_type_is_replaced_as_if_it_were_lost() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for (part, right, is_epoch_over) in COORDINATION {
        for (wrong, script) in TYPES.into_iter().filter(|(wrong, _)| *wrong != right) {
            let case = format!("{part} is a {wrong}");
            everything_works(&store, "before").await;
            let stamp = keep_entry(&store).await;
            let key = format!("{{test}}:{part}");
            plant_other(&server, &key, script);
            store.sync(&membership("p1", None, Duration::from_secs(1))).await.unwrap();
            assert_eq!(!hits(&lookup(&store).await), is_epoch_over, "{case}: {stamp:?}");
            everything_works(&store, &case).await;
            assert_eq!(server.command(&["TYPE", &key]), right, "{case}");
        }
    }
}

#[tokio::test]
async fn reads_alone_replace_meta_and_marks_of_another_type() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for key in [META, MARKS] {
        for (wrong, script) in TYPES {
            let stamp = keep_entry(&store).await;
            plant_other(&server, key, script);
            let view = store.view(&[]).await.unwrap();
            assert!(!view.is_current(stamp), "{key} is a {wrong}");
            keep_entry(&store).await;
            assert!(hits(&lookup(&store).await), "{key} is a {wrong}");
        }
    }
}

#[tokio::test]
async fn malformed_numbers_in_meta_start_a_new_epoch() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let fields = [
        "epoch",
        "seq",
        "floor",
        "run_id",
        "cause",
        "lease",
        "lease_at",
        "last_sync",
        "silent_from",
        "silent_until",
        "generation",
        "shortest",
        "shortest_at",
        "tidied",
        "born",
        "unknown",
        "soft_invalidated",
    ];
    for field in fields {
        for value in NO_NUMBERS {
            // These two are texts, and some of it may stand there.
            if field == "cause" && ["''", "'x'", "'inf'", "'nan'"].contains(&value) {
                continue;
            }
            let case = format!("{field} = {value}");
            keep_entry(&store).await;
            plant(&server, &format!("redis.call('HSET', '{META}', '{field}', {value})"));
            store
                .sync(&membership("p1", None, Duration::from_secs(1)))
                .await
                .unwrap_or_else(|e| panic!("{case}: {e}"));
            assert!(!hits(&lookup(&store).await), "{case}");
            everything_works(&store, &case).await;
        }
    }
}

#[tokio::test]
async fn marks_above_the_last_sequence_begin_a_new_epoch() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for score in ["9e15", "1e300", "+inf"] {
        keep_entry(&store).await;
        server.run::<()>(&["ZADD", MARKS, score, "user_details"]);
        store.sync(&membership("p1", None, Duration::from_secs(1))).await.unwrap();
        everything_works(&store, score).await;
        assert!(store.view(&tags()).await.unwrap().newest < 9_000_000_000_000_000);
    }
}

#[tokio::test]
async fn a_mark_that_is_not_utf_8_keeps_no_proxy_from_the_others() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    for (soft, length) in [("", 3), ("(soft)", 3), ("", 20 << 20)] {
        let before = store.view(&[]).await.unwrap().stamp;
        store.invalidate(&tags(), &NOBODY).await.unwrap();
        let mark = format!("local m = '{soft}' .. string.rep(string.char(255), {length})");
        plant(&server, &format!("{mark} redis.call('ZADD', '{MARKS}', redis.call('HGET', '{META}', 'seq'), m)"));
        let synced = store.sync(&membership("p1", Some(before), Duration::from_secs(1))).await.unwrap();
        match synced.marks {
            Some(marks) => assert_eq!(marks.len(), tags().len(), "{soft}{length}: {marks:?}"),
            // It begins anew: all is invalidated, so that nothing is missed.
            None => assert!(length > 16 << 20),
        }
        let next = membership("p1", Some(synced.stamp), Duration::from_secs(1));
        assert_eq!(store.sync(&next).await.unwrap().marks, Some(vec![]));
    }
}

#[tokio::test]
async fn a_member_that_no_larder_wrote_is_removed_and_begins_a_new_epoch() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let names_and_records = [
        ("'x'", "''"),
        ("'x'", "'garbage'"),
        ("'x'", "'1:2'"),
        ("'x'", "'1:99999999999:0:0:0:0'"),
        ("'x'", "'999999999999999999999999:1000:0:0:0:0'"),
        ("'x'", "string.rep(string.char(255), 4194304)"),
        ("string.char(255)", "'1:1000:0:0:0:0'"),
        ("string.rep('x', 4194304)", "'1:1000:0:0:0:0'"),
        // Its own record.
        ("'p1'", "string.char(255)"),
    ];
    for (name, record) in names_and_records {
        for by_sync in [true, false] {
            let case = format!("{name} = {record}, by a sync: {by_sync}");
            let asking = Membership { asks_who_is_behind: true, ..membership("p1", None, Duration::from_secs(1)) };
            store.sync(&asking).await.unwrap();
            keep_entry(&store).await;
            plant(&server, &format!("redis.call('HSET', '{{test}}:members', {name}, {record})"));
            if by_sync {
                store.sync(&asking).await.unwrap();
            } else {
                let invalidated = store.invalidate(&[Tag::family("other")], &NOBODY).await.unwrap();
                assert!(
                    invalidated.longest_lease > invalidated.epoch_age,
                    "{case}: the write waits for the lost lease"
                );
            }
            assert!(!hits(&lookup(&store).await), "{case}");
            everything_works(&store, &case).await;
            assert_eq!(server.run::<u64>(&["HLEN", "{test}:members"]), 2, "{case}");
        }
    }
}

#[tokio::test]
async fn more_members_than_there_can_be_are_removed() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    keep_entry(&store).await;
    let member = "redis.call('HSET', '{test}:members', 'm' .. i, '1:1000:0:0:0:0')";
    plant(&server, &format!("for i = 1, 20000 do {member} end"));
    store.invalidate(&[Tag::family("other")], &NOBODY).await.unwrap();
    assert!(!hits(&lookup(&store).await));
    everything_works(&store, "20,000 members").await;
}

#[tokio::test]
async fn an_intent_that_cannot_be_read_is_one_of_everything() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let me = membership("p1", None, Duration::from_secs(1));
    for tags in ["string.char(255)", "string.rep('x', 4194304)"] {
        let plant_tags = format!("redis.call('HSET', '{{test}}:intent_tags', 'w1', {tags})");
        plant(&server, &format!("redis.call('ZADD', '{{test}}:intents', 1, 'w1') {plant_tags}"));
        let due = store.sync(&me).await.unwrap().due;
        assert_eq!(due, [Intent { id: "w1".into(), tags: vec![Tag::root()] }]);
        store.invalidate(&due[0].tags, &Cause { intent: Some("w1"), ..NOBODY }).await.unwrap();
        assert_eq!(store.sync(&me).await.unwrap().due, []);
    }
    for name in ["string.char(255)", "string.rep('x', 4194304)"] {
        keep_entry(&store).await;
        plant(&server, &format!("redis.call('ZADD', '{{test}}:intents', 1, {name})"));
        assert_eq!(store.sync(&me).await.unwrap().due, []);
        assert!(!hits(&lookup(&store).await), "it may have been any write's");
        everything_works(&store, name).await;
    }
}

#[tokio::test]
async fn intents_that_are_never_due_do_not_keep_writes_from_being_announced() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let add = "redis.call('ZADD', '{test}:intents', 9e18, 'f' .. i)";
    plant(&server, &format!("for i = 1, 100010 do {add} end"));
    let intent = Intent { id: "w1".into(), tags: tags().into() };
    store.record(&intent, PATIENCE).await.unwrap();
    everything_works(&store, "far intents").await;
}

#[tokio::test]
async fn graces_that_are_none_are_over() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let soft = Tag::family("soft");
    for value in NO_NUMBERS {
        let before = store.view(&[]).await.unwrap().stamp;
        let softly = [SoftInvalidation { tag: soft.clone(), grace: PATIENCE }];
        store.invalidate(&[], &Cause { soft: &softly, ..NOBODY }).await.unwrap();
        plant(&server, &format!("redis.call('HSET', '{{test}}:graces', 'soft', {value})"));
        let view = store.view(std::slice::from_ref(&soft)).await.unwrap();
        assert!(view.soft.is_none() && !view.is_current(before), "{value}: {view:?}");
        let synced = store.sync(&membership("p1", Some(before), Duration::from_secs(1))).await.unwrap();
        assert!(synced.soft.is_empty() && synced.marks.is_some(), "{value}: {synced:?}");
    }
}

#[tokio::test]
async fn what_is_no_entry_is_read_in_part_at_most_and_replaced() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let name = format!("test:{KEY}");
    for (wrong, script) in TYPES {
        plant_other(&server, &name, script);
        let found = lookup(&store).await.entry.expect("something stands there");
        let kept = store.get(KEY).await.unwrap();
        assert!(found.len() <= ENCODING_MAX + 1, "{wrong}: {} bytes", found.len());
        assert_eq!(kept, Some(found), "{wrong}");
        keep_entry(&store).await;
        assert!(hits(&lookup(&store).await), "{wrong}");
        assert!(store.remove(KEY).await.unwrap());
        assert_eq!(lookup(&store).await.entry, None);
    }
}

#[tokio::test]
async fn a_malformed_or_unexpiring_fleet_lock_is_replaced() {
    let server = RedisServer::start();
    let store = store_on(&server).await;
    let ours = FleetLock { stamp: store.view(&[]).await.unwrap().stamp, id: "c1".into() };
    let never = ("string", "redis.call('SET', k, '1:1:c9')");
    let long = ("string", "redis.call('SET', k, '1:1:c9', 'EX', 1000000)");
    let overflow = ("string", "redis.call('SET', k, '999999999999999999999999:1:c9', 'EX', 100)");
    for (wrong, script) in TYPES.into_iter().chain([never, long]) {
        plant_other(&server, "test:k:lock", script);
        assert_eq!(
            store.lock_fetch("k", &ours, PATIENCE, None).await.unwrap(),
            LockReply::Ours,
            "{wrong}: {script}"
        );
        let other = FleetLock { id: "c2".into(), ..ours.clone() };
        assert_eq!(store.lock_fetch("k", &other, PATIENCE, None).await.unwrap(), LockReply::Theirs(ours.clone()));
        plant_other(&server, "test:k:lock", script);
        store.unlock_fetch("k", &ours, true).await.unwrap();
    }
    plant_other(&server, "test:k:lock", overflow.1);
    assert_eq!(store.lock_fetch("k", &ours, PATIENCE, None).await.unwrap(), LockReply::Ours);
    for (wrong, script) in TYPES.into_iter().chain([never, long]) {
        plant_other(&server, "{test}:sweeper", script);
        assert!(store.hold_sweep("p1", PATIENCE).await.unwrap(), "{wrong}: {script}");
        plant_other(&server, "{test}:key_stats", script);
        assert_eq!(store.key_stats().await.unwrap(), None, "{wrong}");
    }
}

const RULES: &str = "[store]\nnamespace = \"test\"\n\n\
                     [[family]]\nname = \"users\"\npath = '/users/.*'\nttl = \"1h\"\n";

fn unreadable(larder: &Larder, reason: &str) -> u64 {
    let metrics = larder.admin_get("/metrics").text();
    let sample = format!("larder_store_unreadable_total{{reason={reason:?}}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&sample)).map_or(0, |count| count.parse().unwrap())
}

fn entry_names(server: &RedisServer) -> Vec<String> {
    let mut names: Vec<String> = server.run(&["KEYS", "test:*:v1"]);
    names.sort();
    names
}

#[test]
fn a_damaged_or_exchanged_entry_is_a_miss_that_is_counted_and_replaced() {
    let (server, upstream) = (RedisServer::start(), Upstream::start());
    let start = || Plan::new(&upstream.url()).rules(RULES).redis(&server.url()).start();
    // What is done to the first entry; the second one is good.
    let damages: [[&str; 4]; 4] = [
        ["SETRANGE", "first", "300", "!!!"],
        ["SETRANGE", "first", "10", "!!!"],
        ["COPY", "second", "first", "REPLACE"],
        ["APPEND", "first", "x", ""],
    ];
    for damage in damages {
        let first = start();
        wait_for_lease(&first);
        let target = |name: &str| format!("/users/{name}");
        first.get(&target("a"));
        first.get(&target("b"));
        crate::support::eventually("both are in the store", || entry_names(&server).len() == 2);
        let both = entry_names(&server);
        let a = entry_of(&server, &both, "/users/a");
        let b = both.iter().find(|name| **name != a).unwrap().clone();
        let named = damage.map(|word| match word {
            "first" => a.as_str(),
            "second" => b.as_str(),
            word => word,
        });
        let words = if named[3].is_empty() { &named[..3] } else { &named[..] };
        server.run::<()>(words);
        let second = start();
        wait_for_lease(&second);
        let answer = second.get(&target("a"));
        assert!(answer.is("fwd=uri-miss"), "{answer:?}");
        assert_eq!(unreadable(&second, "checksum"), 1);
        let third = start();
        crate::support::eventually("the next fetch has replaced it", || third.get(&target("a")).is("hit"));
        // Remembered, they would be waited for.
        drop((first, second, third));
        server.flush_all();
    }
}

/// The name of the entry whose text ends so.
fn entry_of(server: &RedisServer, names: &[String], path: &str) -> String {
    let holds = |name: &&String| {
        let bytes: Vec<u8> = server.run(&["GET", name]);
        String::from_utf8_lossy(&bytes).contains(path)
    };
    names.iter().find(holds).unwrap().clone()
}

#[test]
fn with_a_secret_entries_of_those_who_do_not_know_it_are_misses() {
    let (server, upstream) = (RedisServer::start(), Upstream::start());
    let start = |secret: Option<&str>| {
        let rules = match secret {
            Some(_) => RULES.replace("[store]\n", "[store]\nsecret = \"${LARDER_SECRET}\"\n"),
            None => RULES.to_owned(),
        };
        let plan = Plan::new(&upstream.url()).rules(&rules).redis(&server.url());
        plan.environment("LARDER_SECRET", secret.unwrap_or_default()).start()
    };
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let known = Some(SECRET);
    let first = start(None);
    wait_for_lease(&first);
    first.get("/users/a");
    crate::support::eventually("it is in the store", || entry_names(&server).len() == 1);
    let second = start(known);
    wait_for_lease(&second);
    assert!(second.get("/users/a").is("fwd=uri-miss"));
    assert_eq!(unreadable(&second, "checksum"), 1);
    crate::support::eventually("those who know it share", || start(known).get("/users/a").is("hit"));
    let other = start(Some("another secret of 16 bytes"));
    wait_for_lease(&other);
    assert!(other.get("/users/a").is("fwd=uri-miss"));
    assert!(!second.log().contains(SECRET));
}

#[test]
fn a_fleet_with_arbitrary_values_at_its_keys_goes_on_and_serves_nothing_stale() {
    let (server, upstream) = (RedisServer::start(), Upstream::start());
    // Each write waits for it.
    let rules = RULES.replace("[store]\n", "[store]\nlease = \"500ms\"\n");
    let plan = Plan::new(&upstream.url()).rules(&rules).redis(&server.url());
    let (one, two) = (plan.start(), plan.start());
    for (part, right, _) in COORDINATION {
        let (wrong, script) = TYPES.into_iter().find(|(wrong, _)| *wrong != right).unwrap();
        let case = format!("{part} is a {wrong}");
        for larder in [&one, &two] {
            crate::support::eventually(&format!("hits before {case}"), || larder.get("/users/a").is("hit"));
        }
        plant_other(&server, &format!("{{test}}:{part}"), script);
        assert_eq!(one.write("PUT", "/users/a").status, 200, "{case}");
        assert!(!two.get("/users/a").is("hit"), "{case}");
        for larder in [&one, &two] {
            crate::support::eventually(&format!("hits after {case}"), || larder.get("/users/a").is("hit"));
        }
    }
}
