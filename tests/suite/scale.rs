//! One write invalidates a family, however many entries are in it, at the same cost: it sets a mark and touches no entry.
//! Cost is counted (sequences, entries touched, commands that Redis carried out), not timed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use larder::cache::memory::Memory;
use larder::cache::{Cache, Found, Placement};
use larder::config::{Config, Overrides, StoreConfig};
use larder::entry::{Content, Entry, Response};
use larder::http::freshness::{Freshness, LifetimeSource};
use larder::key::{CacheKey, KeyHash, Redaction};
use larder::marks::{Epoch, Stamp, Tag};
use larder::metrics::Metrics;
use larder::store::Store;
use larder::store::fleet::Cause;
use larder::store::redis::RedisStore;
use larder::upkeep::invalidation_log::OriginKind;

use crate::store_redis;
use crate::support::RedisServer;

const MANY: u32 = 100_000;

fn tags(id: u32) -> Vec<Tag> {
    vec![Tag::family("user"), Tag::family(&format!("user:{id}"))]
}

fn cache_key(id: u32) -> CacheKey {
    CacheKey {
        text: format!("GET http://localhost/users/{id}"),
        hash: KeyHash(id.into()),
        redaction: Redaction::default(),
    }
}

fn response() -> Response {
    let freshness =
        Freshness::with_lifetime(Duration::from_secs(3600), LifetimeSource::Expires, SystemTime::now());
    let (status, headers, body) = (StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"body"));
    Response {
        status,
        headers: headers.into(),
        original_fields: None,
        body,
        freshness,
        for_credentials: false,
        consumed: false,
    }
}

/// Keeps these entries as fetches that begin now would.
fn fill(cache: &Cache, ids: std::ops::Range<u32>) {
    let stamp = cache.memory().marks.stamp();
    for id in ids {
        let CacheKey { text, hash, .. } = cache_key(id);
        let entry = Entry::new(text, stamp, tags(id), Content::Response(response()));
        let place =
            Placement { hash, label: format!("user:{id}"), keep: Duration::from_secs(3600), compress_above: None };
        cache.store_in_memory(entry, &place);
    }
}

/// How many entries in memory are current.
fn current(cache: &Cache) -> usize {
    let mut count = 0;
    let memory = cache.memory();
    memory.for_each(|entry| count += usize::from(memory.view_of(entry).is_current(entry.stamp)));
    count
}

/// Invalidates the family as a write does, by one sequence.
async fn invalidate_all(cache: &Cache) {
    let before = cache.memory().marks.stamp();
    let taken = cache.invalidate(&[Tag::family("user")], OriginKind::Purge).await.taken.expect("without a store");
    assert_eq!((taken.previous, taken.stamp), (before.sequence, cache.memory().marks.stamp()));
}

#[tokio::test]
async fn one_write_invalidates_a_hundred_thousand_entries_in_memory_as_it_does_one() {
    let memory = Memory::new(1 << 30, 1 << 20, 1 << 16);
    let cache = Cache::new(memory, None, Arc::new(Metrics::new()));
    fill(&cache, 0..1);
    assert_eq!(current(&cache), 1);
    invalidate_all(&cache).await;
    assert_eq!(current(&cache), 0);

    fill(&cache, 0..MANY);
    assert_eq!(current(&cache), MANY as usize);
    let before = cache.usage();
    invalidate_all(&cache).await;
    assert_eq!((before.entries, cache.usage()), (u64::from(MANY), before), "no entry was touched");
    assert_eq!(current(&cache), 0);

    let asked = cache_key(MANY / 2);
    let lookup = cache.lookup(asked, &HeaderMap::new(), String::new, || tags(MANY / 2).into()).await;
    assert!(matches!(lookup.found, Found::Invalidated), "{:?}", lookup.found);
}

/// Writes whose marks are to leave [`MANY`] entries alone.
const WRITES: u32 = 1_000_000;

/// What a write to an instance of another family invalidates.
fn written(id: u32) -> [Tag; 2] {
    [Tag::family(&format!("order:{id}")), Tag::uri(&format!("/orders/{id}"))]
}

#[tokio::test]
async fn a_million_writes_leave_what_they_do_not_name_in_memory() {
    let memory = Memory::new(1 << 30, 1 << 20, 1 << 16);
    let cache = Cache::new(memory, None, Arc::new(Metrics::new()));
    fill(&cache, 0..MANY);
    for id in 0..WRITES {
        cache.invalidate(&written(id), OriginKind::Purge).await;
    }
    assert_eq!(current(&cache), MANY as usize);
    cache.invalidate(&[Tag::family("user:7")], OriginKind::Purge).await;
    assert_eq!(current(&cache), MANY as usize - 1);
    assert_eq!(cache.memory().marks.held(), MANY as usize + 1, "tags of what is resident, and no others");
    cache.memory().clear();
    assert_eq!(cache.memory().marks.held(), 0);
}

/// The name of an entry in the store.
fn name(id: u32) -> String {
    format!("user:{id}:0:v1")
}

/// Whether this entry may be served. An entry is its stamp here: `epoch sequence`.
async fn is_current(store: &RedisStore, id: u32) -> bool {
    let found = store.lookup(&name(id), &tags(id)).await.unwrap();
    let entry = found.entry.expect("a mark removes no entry");
    let (epoch, sequence) = std::str::from_utf8(&entry).unwrap().split_once(' ').unwrap();
    let stamp = Stamp { epoch: Epoch(epoch.parse().unwrap()), sequence: sequence.parse().unwrap() };
    found.view.is_current(stamp)
}

/// Keeps these entries as fetches that begin now would, all within the server.
async fn fill_redis(server: &RedisServer, store: &RedisStore, count: u32) {
    let stamp = store.view(&tags(0)).await.unwrap().stamp;
    let entry = format!("{} {}", stamp.epoch.0, stamp.sequence);
    let script = "for id = 0, ARGV[1] - 1 do \
                  redis.call('SET', 'test:user:' .. id .. ':0:v1', ARGV[2], 'EX', 3600) end";
    server.run::<()>(&["EVAL", script, "0", &count.to_string(), &entry]);
}

/// Invalidates the family as a write does; gives how often the server carried out which command for it.
async fn commands_of_a_write(server: &RedisServer, store: &RedisStore) -> BTreeMap<String, u64> {
    let before: BTreeMap<_, _> = server.command_counts().into_iter().collect();
    store.invalidate(&[Tag::family("user")], &Cause::default()).await.unwrap();
    let mut after: BTreeMap<_, _> = server.command_counts().into_iter().collect();
    after.retain(|name, count| {
        *count -= before.get(name).unwrap_or(&0);
        // Those of the counting itself and of the link's heartbeat.
        let aside = ["info", "ping", "client", "hello"];
        *count > 0 && !aside.contains(&name.split('|').next().unwrap_or_default())
    });
    after
}

#[tokio::test]
async fn one_write_invalidates_a_hundred_thousand_entries_in_redis_as_it_does_one() {
    let server = RedisServer::start();
    let store = store_redis::store_on(&server).await;
    let sample = [0, 1, MANY / 2, MANY - 1];
    // The first one adds the mark, the second one moves it, as the third will.
    commands_of_a_write(&server, &store).await;
    fill_redis(&server, &store, 1).await;
    assert!(is_current(&store, 0).await);
    let for_one = commands_of_a_write(&server, &store).await;
    assert!(!is_current(&store, 0).await);

    fill_redis(&server, &store, MANY).await;
    for id in sample {
        assert!(is_current(&store, id).await, "{id}");
    }
    let keys: u64 = server.run(&["DBSIZE"]);
    let for_many = commands_of_a_write(&server, &store).await;
    assert!(!for_one.is_empty());
    assert_eq!(for_one, for_many);
    assert_eq!(server.run::<u64>(&["DBSIZE"]), keys, "no entry was touched");
    for id in sample {
        assert!(!is_current(&store, id).await, "{id}");
    }
}

#[tokio::test]
async fn a_million_writes_leave_what_they_do_not_name_in_redis() {
    let server = RedisServer::start();
    let rules = format!("[server]\nupstream = 'http://u'\n[store]\nredis = '{}'\n", server.url());
    let file = Config::parse(&rules, "rules.toml", &Overrides::default(), &|_| None).unwrap();
    let marks_max = file.store.unwrap().marks_max;
    let settings = StoreConfig { marks_max, ..store_redis::config(&server.url()) };
    let store = RedisStore::new(&settings).expect("the URL is good");
    store.connect_once().await.unwrap();
    fill_redis(&server, &store, MANY).await;
    for first in (0..WRITES).step_by(5000) {
        let tags: Vec<Tag> = (first..first + 5000).flat_map(written).collect();
        store.invalidate(&tags, &Cause::default()).await.unwrap();
    }
    for id in (0..MANY).step_by(100) {
        assert!(is_current(&store, id).await, "{id}");
    }
    let taken: u64 = server.run(&["MEMORY", "USAGE", "{test}:marks", "SAMPLES", "0"]);
    let each = taken / u64::from(2 * WRITES);
    assert!(each < 200, "{each} bytes a mark");
    store.invalidate(&tags(100)[1..], &Cause::default()).await.unwrap();
    assert!(!is_current(&store, 100).await);
}
