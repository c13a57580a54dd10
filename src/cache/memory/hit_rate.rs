//! What L1 keeps, on a trace of requests: beside the best that can be kept, and after a scan.

use std::collections::BinaryHeap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Memory;
use crate::entry::{Content, Entry, Response};
use crate::http::freshness::{Freshness, LifetimeSource};
use crate::key::{CacheKey, KeyHash, Redaction};
use crate::marks::Tag;

const OBJECTS: usize = 100_000;
/// A tenth of the objects.
const FITTING: usize = OBJECTS / 10;
const REQUESTS: usize = 1_000_000;

/// Requests for objects, the most popular of which is 0: the popularity of the n-th is n^-0.9 (Zipf).
fn trace() -> Vec<usize> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=OBJECTS)
        .map(|n| {
            sum += (n as f64).powf(-0.9);
            sum
        })
        .collect();
    let mut random = StdRng::seed_from_u64(15);
    let request = |_| {
        let at = random.random_range(0.0..sum);
        sums.partition_point(|sum| *sum <= at).min(OBJECTS - 1)
    };
    (0..REQUESTS).map(request).collect()
}

/// The hits of Belady's algorithm, which evicts the object whose next request comes last, and keeps the new one only if its next
/// request comes sooner. No cache of [`FITTING`] objects has more.
fn most_hits(trace: &[usize]) -> usize {
    let (mut next, mut seen) = (vec![usize::MAX; trace.len()], vec![usize::MAX; OBJECTS]);
    for (at, object) in trace.iter().enumerate().rev() {
        next[at] = std::mem::replace(&mut seen[*object], at);
    }
    // When each object that is kept is requested next.
    let mut kept = vec![None; OBJECTS];
    let (mut count, mut hits, mut latest) = (0, 0, BinaryHeap::new());
    for (object, next) in trace.iter().zip(next) {
        match kept[*object].replace(next) {
            Some(_) => hits += 1,
            None => count += 1,
        }
        latest.push((next, *object));
        while count > FITTING {
            let (next, object) = latest.pop().expect("each object that is kept is in the heap");
            // Otherwise it was requested since, and is in the heap once more.
            if kept[object] == Some(next) {
                kept[object] = None;
                count -= 1;
            }
        }
    }
    hits
}

/// L1 with room for [`FITTING`] responses.
struct Store<'k> {
    memory: Memory,
    body: Bytes,
    keys: &'k [CacheKey],
}

impl<'k> Store<'k> {
    fn of(body: usize, keys: &'k [CacheKey]) -> Store<'k> {
        let body = Bytes::from(vec![b'x'; body]);
        let roomy = Store { memory: Memory::new(1 << 40, 1 << 20, 64), body, keys };
        roomy.get(0);
        let capacity = roomy.memory.usage().bytes * FITTING as u64;
        Store { memory: Memory::new(capacity, 1 << 10, 64), ..roomy }
    }

    /// Whether it is a hit. If not, it is stored.
    fn get(&self, object: usize) -> bool {
        let key = &self.keys[object];
        let is_hit = self.memory.get(key).is_some();
        if !is_hit {
            let response = Response {
                status: StatusCode::OK,
                headers: HeaderMap::new().into(),
                original_fields: None,
                body: self.body.clone(),
                freshness: Freshness::with_lifetime(
                    Duration::from_secs(60),
                    LifetimeSource::MaxAge,
                    SystemTime::UNIX_EPOCH,
                ),
                for_credentials: false,
                consumed: false,
            };
            let stamp = self.memory.marks.stamp();
            let content = Content::Response(response);
            self.memory.put(key.hash, Entry::new(key.text.as_str(), stamp, [Tag::root()], content));
        }
        is_hit
    }

    /// How many of the most popular objects it has: half as many as there is room for.
    fn hot(&self) -> usize {
        self.keys[..FITTING / 2].iter().filter(|key| self.memory.entry_at(key.hash).is_some()).count()
    }
}

fn key(object: usize) -> CacheKey {
    let text = format!("GET http://h/{object:08}");
    CacheKey { hash: KeyHash::of(&text), text, redaction: Redaction::default() }
}

#[test]
fn the_hit_rate_is_at_least_85_percent_of_the_best_and_a_scan_leaves_95_percent_of_the_hot_objects() {
    let trace = trace();
    let most = most_hits(&trace);
    // The second half is for the scan: ten times the capacity.
    let keys: Vec<_> = (0..2 * OBJECTS).map(key).collect();
    for body in [1 << 10, 16 << 10] {
        let store = Store::of(body, &keys);
        let hits = trace.iter().filter(|object| store.get(**object)).count();
        let (found, hot) = (hits as f64 / most as f64, store.hot());
        println!("{body} bytes: {hits} hits of {most}, {found:.3}; {hot} hot objects");
        assert!(found >= 0.85, "{body} bytes: {hits} hits of {most}");
        (OBJECTS..2 * OBJECTS).for_each(|object| assert!(!store.get(object)));
        let left = store.hot();
        println!("{left} after a scan");
        assert!(left * 100 >= hot * 95, "{body} bytes: {left} of {hot} hot objects after a scan");
    }
}
