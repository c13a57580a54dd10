//! The steps of a hit, each by itself: `cargo bench`. The figures belong to a machine; compare two runs on one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use larder::cache::memory::Memory;
use larder::cache::{Cache, Placement};
use larder::config::{Config, Overrides};
use larder::entry::{Content, Entry, Response, Seal};
use larder::http::freshness::{Freshness, LifetimeSource};
use larder::http::target::{Target, normalise};
use larder::key::{self, PresentedCredentials};
use larder::marks::Tag;
use larder::metrics::Metrics;
use larder::proxy::respond;

fn hundred_families() -> String {
    let family = |index: usize| {
        format!(
            "[[family]]\nname = \"family_{index}\"\npath = '/v1\\.0/things_{index}/(?<id>\\d+)'\nttl = \"1m\"\n"
        )
    };
    (0..100).map(family).collect()
}

fn rules(text: &str) -> Config {
    Config::parse(text, "bench.toml", &Overrides::default(), &|_| None)
        .expect("the rules of the benchmark are valid")
}

fn target() -> Target {
    Target {
        scheme: "http",
        host: "api.example.com".to_owned(),
        path: "/v1.0/things_50/42".to_owned(),
        query: Some("page=2&sort=name".to_owned()),
        ..Target::default()
    }
}

fn response() -> Response {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "max-age=60"),
        ("date", "Sat, 21 Nov 2026 10:00:00 GMT"),
        ("etag", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
        ("via", "1.1 larder"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Response {
        status: StatusCode::OK,
        headers: headers.into(),
        body: Bytes::from(vec![b'x'; 1024]),
        freshness: Freshness::with_lifetime(Duration::from_secs(3600), LifetimeSource::MaxAge, SystemTime::now()),
        for_credentials: false,
        consumed: false,
        original_fields: None,
    }
}

fn route(criterion: &mut Criterion) {
    let config = rules(&hundred_families());
    criterion.bench_function("route among 100 families", |bench| {
        bench.iter(|| config.rules.route(&Method::GET, black_box("/v1.0/things_50/42")));
    });
    criterion.bench_function("normalise a normal path", |bench| {
        bench.iter(|| normalise(black_box("/v1.0/things_50/42")).len());
    });
}

fn derive(criterion: &mut Criterion) {
    let (target, headers, redaction) = (target(), HeaderMap::new(), key::Redaction::default());
    criterion.bench_function("key", |bench| {
        bench.iter(|| {
            key::derive(black_box(&target), PresentedCredentials::without_token(&headers), None, &redaction)
        });
    });
}

fn lookup(criterion: &mut Criterion) {
    let memory = Memory::new(64 << 20, 1 << 20, 1 << 18);
    let stamp = memory.marks.stamp();
    let cache = Cache::new(memory, None, Arc::new(Metrics::new()));
    let (target, headers) = (target(), HeaderMap::new());
    let cache_key =
        key::derive(&target, PresentedCredentials::without_token(&headers), None, &key::Redaction::default());
    let tags: Arc<[Tag]> = vec![Tag::root(), Tag::uri(&target.path), Tag::family("things")].into();
    let content = Content::Response(response());
    let entry = Entry::new(cache_key.text.as_str(), stamp, tags.iter(), content);
    let place = Placement {
        hash: cache_key.hash,
        label: "things".to_owned(),
        keep: Duration::from_secs(60),
        compress_above: None,
    };
    cache.store_in_memory(entry, &place);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    criterion.bench_function("lookup in memory", |bench| {
        bench.iter(|| {
            let lookup = cache.lookup(cache_key.clone(), &headers, String::new, Default::default);
            runtime.block_on(lookup)
        });
    });
}

fn codec(criterion: &mut Criterion) {
    let (seal, name) = (Seal::new("larder", None), "things:0cc175b9c0f1b6a831c399e269772661:v1");
    let text = "GET http://api.example.com/v1.0/things_50/42?page=2&sort=name";
    let stamp = Memory::new(64 << 20, 1 << 20, 1 << 18).marks.stamp();
    let tags = [Tag::root(), Tag::uri("/v1.0/things_50/42"), Tag::family("things")];
    let entry = Entry::new(text, stamp, tags, Content::Response(response()));
    let encoding = entry.encode(&seal, name);
    criterion.bench_function("encode an entry of 1 KB", |bench| {
        bench.iter(|| black_box(&entry).encode(&seal, name));
    });
    criterion.bench_function("decode an entry of 1 KB", |bench| {
        bench.iter(|| Entry::decode(black_box(&encoding).clone(), &seal, name));
    });
}

fn answer(criterion: &mut Criterion) {
    let (stored, headers) = (response(), HeaderMap::new());
    criterion.bench_function("respond", |bench| {
        bench.iter(|| respond::stored(&Method::GET, &headers, black_box(&stored), false, SystemTime::now()));
    });
}

criterion_group!(hit, route, derive, lookup, codec, answer);
criterion_main!(hit);
