use serde_json::json;

use super::*;
use crate::metrics::Metrics;

fn json_of(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

fn embedded() -> Tier {
    let connections =
        Connections { connected_clients: 3, total_connections_received: 1247, uptime_in_seconds: 86400 };
    Tier::embedded(Process {
        used: 5 << 19,
        peak: 3 << 20,
        capacity: 8 << 20,
        resident: Some(5 << 20),
        connections,
    })
}

fn redis() -> Tier {
    let fields = [
        ("redis_version", "7.0.5"),
        ("redis_mode", "standalone"),
        ("used_memory_human", "2.50M"),
        ("used_memory", "2621440"),
        ("used_memory_peak_human", "3.10M"),
        ("mem_fragmentation_ratio", "1.15"),
        ("connected_clients", "3"),
        ("total_connections_received", "1247"),
        ("uptime_in_seconds", "86400"),
        ("keyspace_hits", "3"),
        ("keyspace_misses", "1"),
        ("total_commands_processed", "15420"),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Tier::of_redis(&StoreInfo { fields })
}

#[test]
fn health_has_hitas_fields() {
    let info = json_of(CacheInfo::new(&redis(), &Performance::new(852, 148), 0));
    let expected = json!({
        "status": "available",
        "tier": "redis",
        "redis_version": "7.0.5",
        "used_memory": "2.50M",
        "connected_clients": 3,
        "total_commands_processed": 15420,
        "keyspace_hits": 852,
        "keyspace_misses": 148,
        "hit_rate": 85.2,
        "undelivered": 0,
    });
    assert_eq!(info, expected);
}

#[test]
fn embedded_health_has_larders_numbers_and_nothing_of_redis() {
    let info = json_of(CacheInfo::new(&embedded(), &Performance::new(0, 0), 0));
    assert_eq!((&info["tier"], info.get("redis_version")), (&json!("memory"), None));
    assert_eq!(info["used_memory"], json!("2.5M"));
    assert_eq!(info["hit_rate"], json!(0.0));
}

#[test]
fn a_store_that_has_missed_writes_is_catching_up() {
    let info = json_of(CacheInfo::new(&redis(), &Performance::new(0, 0), 7));
    assert_eq!((&info["status"], &info["undelivered"]), (&json!("catching-up"), &json!(7)));
}

fn statistics(tier: Tier) -> Value {
    let usage = Usage { entries: 2, bytes: 900, capacity: 1000, evictions: 1 };
    json_of(Statistics {
        key_counts: key_counts(&KeyCounts::default(), ["user_list"]),
        complete: true,
        counted_seconds_ago: 7,
        memory_usage: tier.memory,
        connections: tier.connections,
        performance: Performance::new(8542, 1458),
        passes: Passes { passes: 5, pass_rate: 0.1 },
        redis_version: tier.version,
        redis_mode: tier.mode,
        larder: Larder::new(Duration::from_secs(5), usage),
        redis: tier.redis,
    })
}

#[test]
fn detailed_statistics_have_hitas_fields() {
    let statistics = statistics(redis());
    let expected = json!({
        "key_counts": { "user_list_keys": 0, "total_keys": 0 },
        "memory_usage": {
            "used_memory": "2.50M", "used_memory_bytes": 2_621_440, "max_memory_bytes": null,
            "used_memory_peak": "3.10M", "memory_fragmentation_ratio": 1.15
        },
        "connections": {
            "connected_clients": 3, "total_connections_received": 1247, "uptime_in_seconds": 86400
        },
        "performance": { "keyspace_hits": 8542, "keyspace_misses": 1458, "hit_rate": 85.4 },
        "redis_version": "7.0.5",
        "redis_mode": "standalone",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&statistics[name], value, "{name}");
    }
    assert_eq!(statistics["redis"]["keyspace_hits"], json!(3), "Redis's own stand apart");
    assert_eq!(statistics["redis"]["total_commands_processed"], json!(15420));
}

#[test]
fn embedded_statistics_have_the_same_shape_and_nothing_of_redis() {
    let statistics = statistics(embedded());
    let memory = json!({
        "used_memory": "2.5M", "used_memory_bytes": 2_621_440, "max_memory_bytes": 8_388_608,
        "used_memory_peak": "3.0M", "resident_memory": "5.0M"
    });
    assert_eq!(statistics["memory_usage"], memory);
    assert_eq!(statistics["connections"]["connected_clients"], json!(3));
    assert!(!statistics.to_string().contains("redis"), "{statistics}");
    assert_eq!((&statistics["passes"], &statistics["counted_seconds_ago"]), (&json!(5), &json!(7)));
}

#[test]
fn keys_are_counted_by_family_with_their_sum() {
    let by_family = [("booking:stats", 2), ("none", 3), ("total", 4)];
    let by_family = by_family.map(|(name, count)| (name.to_owned(), count)).into();
    let counts = key_counts(&KeyCounts { by_family, complete: true }, ["booking", "booking:stats", "total"]);
    let expected = json!({ "booking_keys": 0, "booking:stats_keys": 2, "none_keys": 3, "total_keys": 9 });
    assert_eq!(Value::Object(counts), expected);
}

#[test]
fn hits_and_misses_are_what_the_cache_did_with_reads_and_passes_have_a_rate_of_their_own() {
    let metrics = Metrics::new();
    let (a, b) = (metrics.family("a"), metrics.family("b"));
    for kind in [
        OutcomeKind::Hit,
        OutcomeKind::Stale,
        OutcomeKind::Miss,
        OutcomeKind::Pass,
        OutcomeKind::Write,
        OutcomeKind::Error,
    ] {
        a.answered(
            &crate::outcome::Outcome { kind, ..crate::outcome::Outcome::write() },
            http::StatusCode::OK,
            Duration::ZERO,
        );
    }
    b.answered(&crate::outcome::Outcome::revalidated(1), http::StatusCode::OK, Duration::ZERO);
    let both = json_of(Performance::of([&a, &b]));
    assert_eq!(both, json!({ "keyspace_hits": 2, "keyspace_misses": 2, "hit_rate": 50.0 }));
    assert_eq!(json_of(Passes::of([&a, &b])), json!({ "passes": 1, "pass_rate": 20.0 }));
    let activity = json_of(FamilyActivity::new(&a, (None, None), (8, 2)));
    assert_eq!((&activity["hit_rate"], &activity["pass_rate"]), (&json!(66.7), &json!(25.0)));
    assert_eq!(activity["requests"]["pass"], json!(1));
    assert_eq!(activity["keys"], Value::Null);
}

#[test]
fn success_stands_beside_the_content() {
    let test = TestResults { cache_available: true, ..TestResults::default() };
    assert!(!test.passed());
    let content = [("test_results", test)].into_iter().collect::<BTreeMap<_, _>>();
    let expected = json!({ "success": true, "test_results": {
        "cache_available": true, "set_operation": false, "get_operation": false,
        "exists_operation": false, "delete_operation": false, "get_after_delete": false,
    }});
    assert_eq!(json_of(Success::of(content)), expected);
}

#[test]
fn sizes_read_as_redis_writes_them() {
    let rows = [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (1_048_575, "1.0M"),
        (5 << 19, "2.5M"),
        (7 << 30, "7.0G"),
        (3 << 50, "3072.0T"),
    ];
    for (bytes, expected) in rows {
        assert_eq!(human(bytes), expected, "{bytes}");
    }
}

#[test]
fn statuses_are_ranges_or_single() {
    let statuses = crate::http::invalidation::StatusSet { ranges: vec![(200, 399), (404, 404)] };
    assert_eq!(statuses.texts(), ["200-399", "404"]);
}
