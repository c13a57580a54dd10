//! The memory that coordination takes, in Redis and in the proxies, has bounds that no number of instances, writers or
//! proxies moves.

use super::*;
use crate::support::{Larder, Plan, Upstream};

/// `[store] marks_max`, far below the number of instances.
const MARKS_MAX: u64 = 20_000;

/// Distinct instances that are invalidated.
const INSTANCES: u64 = 1_000_000;

/// Tags that one invalidation names.
const BATCH: u64 = 10_000;

/// Bytes that one mark of a short tag takes in Redis at most: a node of a skip list, one of a hash table, and the name.
const BYTES_A_MARK: u64 = 200;

/// Bytes by which a proxy may grow while it takes in marks: what one sync tells, and what the allocator keeps of it.
const GROWTH: u64 = 48 << 20;

const RULES: &str = "[store]\nnamespace = \"test\"\nmarks_max = 20000\nlease = \"500ms\"\n";

fn proxies(server: &RedisServer, upstream: &Upstream) -> Vec<Larder> {
    let plan = Plan::new(&upstream.url()).rules(RULES).redis(&server.url());
    let proxies: Vec<Larder> = (0..3).map(|_| plan.start()).collect();
    crate::support::eventually("all are members", || size(server, "HLEN", "members") == 4);
    proxies
}

/// How many a coordination key holds, its sentinel too.
fn size(server: &RedisServer, command: &str, part: &str) -> u64 {
    server.run(&[command, &format!("{{test}}:{part}")])
}

/// Bytes that a coordination key takes; none if there is no such key.
fn bytes(server: &RedisServer, part: &str) -> u64 {
    let key = format!("{{test}}:{part}");
    server.run::<Option<u64>>(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).unwrap_or(0)
}

#[track_caller]
fn assert_bounded(server: &RedisServer) {
    assert!(size(server, "ZCARD", "marks") <= MARKS_MAX + 1);
    assert_eq!(size(server, "HLEN", "meta"), 17, "without soft_invalidated");
    assert_eq!(size(server, "HLEN", "members"), 4, "three and the sentinel");
    assert!(size(server, "ZCARD", "intents") <= 2, "one and the sentinel");
    assert!(size(server, "HLEN", "intent_tags") <= 1);
    // Beside the marks: sixteen short fields, three members, one intent with its tags.
    let bounds =
        [("marks", MARKS_MAX * BYTES_A_MARK), ("meta", 1 << 10), ("members", 1 << 10), ("intents", 1 << 10)];
    for (part, bound) in bounds.into_iter().chain([("intent_tags", 4 << 10)]) {
        let taken = bytes(server, part);
        assert!(taken <= bound, "{part}: {taken} of {bound} bytes");
    }
}

#[tokio::test]
async fn a_million_distinct_instances_take_no_more_memory_than_the_marks_that_are_kept() {
    let (server, upstream) = (RedisServer::start(), Upstream::start());
    let store = open(&StoreConfig { marks_max: MARKS_MAX, ..config(&server.url()) });
    store.connect_once().await.expect("the server is there");
    let proxies = proxies(&server, &upstream);
    let before: Vec<u64> = proxies.iter().map(Larder::peak_memory).collect();
    for first in (0..INSTANCES).step_by(BATCH as usize) {
        let tags: Vec<Tag> = (first..first + BATCH).map(|n| Tag::family(&format!("user:{n}"))).collect();
        let intent = Intent { id: format!("w{first}").into(), tags: tags[..100].to_vec() };
        store.record(&intent, PATIENCE * 10).await.unwrap();
        if first % (10 * BATCH) == 0 {
            assert_bounded(&server);
        }
        let cause = Cause { intent: Some(&intent.id), ..NOBODY };
        store.invalidate(&tags, &cause).await.unwrap();
    }
    assert_bounded(&server);
    assert_eq!(size(&server, "ZCARD", "marks"), MARKS_MAX + 1, "as many as may be");
    for (proxy, before) in proxies.iter().zip(before) {
        let grown = proxy.peak_memory().saturating_sub(before);
        assert!(grown < GROWTH, "{grown} bytes more");
    }
}

#[tokio::test]
async fn intents_of_writers_that_come_and_go_do_not_add_up() {
    let (server, upstream) = (RedisServer::start(), Upstream::start());
    let store = store_on(&server).await;
    let _proxies = proxies(&server, &upstream);
    for n in 0..300 {
        let intents =
            ["failed", "done", "gone"].map(|how| Intent { id: format!("{how}{n}").into(), tags: tags().into() });
        for intent in &intents {
            // Who is gone does not renew it.
            let within = if intent.id.starts_with("gone") { Duration::ZERO } else { PATIENCE * 10 };
            store.record(intent, within).await.unwrap();
        }
        store.forget(&intents[0].id).await.unwrap();
        store.invalidate(&tags(), &Cause { intent: Some(&intents[1].id), ..NOBODY }).await.unwrap();
    }
    eventually("all intents are carried out", || size(&server, "ZCARD", "intents") == 1).await;
    assert_eq!(size(&server, "HLEN", "intent_tags"), 0);
}

#[tokio::test]
async fn members_that_were_killed_do_not_add_up() {
    let (server, upstream) = (RedisServer::start(), Upstream::start());
    let store = store_on(&server).await;
    let proxies = proxies(&server, &upstream);
    // One that has synced, and 199 others beside it at the same moment: a member that has not synced for long is removed.
    let lease = Duration::from_millis(500);
    store.sync(&membership("gone0", None, lease)).await.unwrap();
    let copy = "local record = redis.call('HGET', KEYS[1], 'gone0')
                for n = 1, 199 do redis.call('HSET', KEYS[1], 'gone' .. n, record) end
                return redis.call('HLEN', KEYS[1])";
    assert_eq!(server.run::<u64>(&["EVAL", copy, "1", "{test}:members"]), 204);
    assert_eq!(proxies[0].write("POST", "/users/create").status, 200);
    // The write is answered when their leases are over, and they are expelled after that.
    eventually("no write waits for them", || {
        let records: Vec<String> = server.run(&["HVALS", "{test}:members"]);
        records.iter().filter(|record| record.contains(':') && !record.contains(":0:")).count() == 3
    })
    .await;
    // As if that were long ago. In one step: proxies go on meanwhile.
    let age = "local all = redis.call('HGETALL', KEYS[1])
               for i = 1, #all, 2 do
                 local syncs, rest = string.match(all[i + 1], '^(%d+)(:.*)$')
                 if string.sub(all[i], 1, 4) == 'gone' then
                   redis.call('HSET', KEYS[1], all[i], string.format('%.0f', tonumber(syncs) - 100000000) .. rest)
                 end
               end
               redis.call('HSET', KEYS[2], 'tidied', '0')
               return false";
    server.run::<Option<String>>(&["EVAL", age, "2", "{test}:members", "{test}:meta"]);
    eventually("their records are removed", || size(&server, "HLEN", "members") == 4).await;
    // Those of three proxies, and the rules that were settled last.
    eventually("and their rules", || size(&server, "HLEN", "registry") <= 4).await;
}
