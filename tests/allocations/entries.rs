//! The memory of entries.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use larder::cache::memory::Memory;
use larder::cache::{Cache, Placement};
use larder::entry::{Content, Entry, Response};
use larder::http::freshness::{Freshness, LifetimeSource};
use larder::key::{CacheKey, KeyHash, Redaction};
use larder::marks::Tag;
use larder::metrics::Metrics;
use larder::proxy::respond;

use crate::allocator;

/// Bytes of a body.
const BODY: usize = 1024;
/// Most bytes that an entry takes before it is served: the body, and less than 600 for everything else.
const MOST: i64 = 1600;
/// What the first hit adds: the reference counts of the body and of the fields.
const SERVED: i64 = 64;

/// Fewer than so many entries are in a cache before its memory is measured: tables have room in advance, and what entries have in
/// common is there.
const BEFORE: u32 = 4_000;
const MEASURED: u32 = 25_000;

fn key(n: u32) -> CacheKey {
    let text = format!("GET http://127.0.0.1:8080/item/object{n:06}?size={BODY}\nfamily item 5f1c09aa");
    CacheKey { hash: KeyHash::of(&text), text, redaction: Redaction::default() }
}

/// Stores responses as they come from the origin of tests/perf, each with a date of its own.
fn store(cache: &Cache, numbers: Range<u32>) {
    let family = Tag::family("item");
    for n in numbers {
        let (key, path) = (key(n), format!("/item/object{n:06}"));
        let date = format!("Sun, 29 Nov 2026 {:02}:{:02}:{:02} GMT", n / 3600 % 24, n / 60 % 60, n % 60);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("cache-control", HeaderValue::from_static("max-age=3600"));
        headers.insert("date", HeaderValue::try_from(date).unwrap());
        headers.insert("via", HeaderValue::from_static("1.1 larder"));
        let lifetime = Duration::from_secs(3600);
        let response = Response {
            status: StatusCode::OK,
            headers: headers.into(),
            original_fields: None,
            body: Bytes::from(vec![b'x'; BODY]),
            freshness: Freshness::with_lifetime(lifetime, LifetimeSource::MaxAge, SystemTime::now()),
            for_credentials: false,
            consumed: false,
        };
        let instance = Tag::family(&format!("item:object{n:06}"));
        let tags = [Tag::root(), Tag::uri(&path), family.clone(), instance];
        let entry = Entry::new(key.text, cache.memory().marks.stamp(), tags, Content::Response(response));
        let place = Placement { hash: key.hash, label: String::new(), keep: lifetime, compress_above: None };
        cache.store_in_memory(entry, &place);
    }
}

fn serve(cache: &Cache, numbers: Range<u32>) {
    for n in numbers {
        let entry = cache.memory().get(&key(n)).expect("there is room for all");
        let stored = entry.response().expect("all are responses");
        respond::stored(&Method::GET, &HeaderMap::new(), stored, false, SystemTime::now());
    }
}

#[test]
fn an_entry_of_1_kb_takes_at_most_1600_bytes_and_counts_as_what_it_takes() {
    allocator::leave_out_this_thread();
    let cache = Cache::new(Memory::new(1 << 30, 1 << 20, 1 << 10), None, Arc::new(Metrics::new()));
    store(&cache, 0..BEFORE);
    let (before, counted) = (allocator::bytes(), cache.usage().bytes);
    store(&cache, BEFORE..BEFORE + MEASURED);
    let of_each = || (allocator::bytes() - before) / i64::from(MEASURED);
    let (stored, counted) = (of_each(), (cache.usage().bytes - counted) as i64 / i64::from(MEASURED));
    serve(&cache, BEFORE..BEFORE + MEASURED);
    let served = of_each();
    println!("{stored} bytes, after a hit {served}, counted as {counted}");
    assert!(stored <= MOST, "{stored}");
    assert!(served <= stored + SERVED, "{served} after {stored}");
    assert!((counted - served).abs() <= served / 10, "{served}, counted as {counted}");
}
