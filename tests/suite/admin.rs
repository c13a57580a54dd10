//! The admin: what it says, what it does, and to whom. Field names of health, stats, clear and test are those that
//! HITA's clients already read.

use serde_json::Value;

use crate::support::{Larder, Plan, Response, Site, Tier, Upstream, eventually};

const RULES: &str = r#"
[[family]]
name = "user_list"
path = '/users'
ttl = "60s"

[[family]]
name = "user_details"
path = '/users/(?<id>\d+)'
ttl = "60s"

[invalidate]
'/users/create' = ["user_list"]
"#;

const TOKENS: &str = r#"
[admin]
tokens = [
    { role = "admin", token = "of-the-admin" },
    { role = "viewer", token = "${VIEWER_TOKEN}" },
    { role = "viewer", token = "${NOBODYS_TOKEN:-}" },
]
"#;

on_both_tiers! {
    health_and_stats_keep_hitas_field_names,
    the_self_test_passes,
    families_are_listed_with_their_counts,
    purging_everything_invalidates_everything,
    purging_a_family_leaves_the_others,
    purging_an_instance_leaves_the_others,
    what_cannot_be_purged_is_named,
    metrics_count_outcomes_by_family,
    it_is_alive_and_ready,
    rules_are_shown_and_reloaded,
}

/// Requires a value at every one of these JSON pointers.
#[track_caller]
fn assert_has(json: &Value, pointers: &[&str]) {
    for pointer in pointers {
        assert!(json.pointer(pointer).is_some_and(|value| !value.is_null()), "no {pointer} in {json:#}");
    }
}

#[track_caller]
fn success(response: Response) -> Value {
    let json = response.has_status(200).json();
    assert_eq!(json["success"], true, "{json:#}");
    json
}

fn health_and_stats_keep_hitas_field_names(tier: Tier) {
    let site = Site::start(tier, RULES);
    for target in ["/users", "/users", "/users/1", "/users/2"] {
        site.get(target);
    }
    eventually("all three are counted", || site.admin_get("/cache/stats").json()["key_counts"]["total_keys"] == 3);
    let info = ["/cache_info/status", "/cache_info/hit_rate"];
    let counts = ["user_list_keys", "user_details_keys", "total_keys"];
    let health = success(site.admin_get("/cache/health"));
    assert_has(&health, &info);
    assert_eq!(health["cache_info"]["status"], "available");
    let stats = success(site.admin_get("/cache/stats"));
    assert_has(&stats, &info);
    let detailed = success(site.admin_get("/cache/health/detailed"));
    assert_has(&detailed, &info);
    assert_has(&detailed, &["/timestamp", "/detailed_statistics/performance/hit_rate"]);
    for counted in [&stats["key_counts"], &detailed["detailed_statistics"]["key_counts"]] {
        assert_eq!(counts.map(|name| counted[name].as_u64()), [Some(1), Some(2), Some(3)], "{counted:#}");
    }
    if tier == Tier::Redis {
        assert_has(
            &health,
            &["/cache_info/redis_version", "/cache_info/used_memory", "/cache_info/connected_clients"],
        );
        let statistics = &detailed["detailed_statistics"];
        assert_has(statistics, &["/memory_usage/used_memory", "/memory_usage/used_memory_peak"]);
        assert_has(statistics, &["/memory_usage/memory_fragmentation_ratio", "/connections/connected_clients"]);
        assert_has(statistics, &["/connections/total_connections_received", "/connections/uptime_in_seconds"]);
        assert_has(statistics, &["/performance/keyspace_hits", "/performance/keyspace_misses"]);
        assert_has(statistics, &["/redis_version", "/redis_mode"]);
    }
}

fn the_self_test_passes(tier: Tier) {
    let site = Site::start(tier, RULES);
    let results = success(site.admin_get("/cache/test"));
    let operations = ["cache_available", "set_operation", "get_operation", "exists_operation", "delete_operation"];
    for operation in operations.iter().chain(&["get_after_delete"]) {
        assert_eq!(results["test_results"][operation], true, "{operation}: {results:#}");
    }
}

fn families_are_listed_with_their_counts(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    let families = success(site.admin_get("/cache/families"));
    let text = families.to_string();
    for known in ["user_list", "user_details", "/users"] {
        assert!(text.contains(known), "no {known} in {families:#}");
    }
}

#[track_caller]
fn warm(larder: &Larder) {
    for target in ["/users", "/users/1", "/users/2"] {
        larder.get(target);
        larder.get(target).shows("hit");
    }
}

#[track_caller]
fn clear(larder: &Larder, what: &str) {
    let purged = success(larder.admin_post(&format!("/cache/clear{what}")));
    assert!(purged["message"].as_str().is_some_and(|message| !message.is_empty()), "{purged:#}");
}

fn purging_everything_invalidates_everything(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site);
    clear(&site, "");
    for target in ["/users", "/users/1", "/users/2"] {
        site.get(target).hides("hit").carries(&format!("{target} #2"));
        site.get(target).shows("hit");
    }
}

fn purging_a_family_leaves_the_others(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site);
    clear(&site, "/user_details");
    site.get("/users/1").hides("hit").carries("/users/1 #2");
    site.get("/users/2").hides("hit").carries("/users/2 #2");
    site.get("/users").shows("hit").carries("/users #1");
}

fn purging_an_instance_leaves_the_others(tier: Tier) {
    let site = Site::start(tier, RULES);
    warm(&site);
    clear(&site, "/user_details/1");
    site.get("/users/1").hides("hit").carries("/users/1 #2");
    site.get("/users/2").shows("hit").carries("/users/2 #1");
    site.get("/users").shows("hit").carries("/users #1");
}

fn what_cannot_be_purged_is_named(tier: Tier) {
    let site = Site::start(tier, RULES);
    let unknown = site.admin_post("/cache/clear/user_detail").fails_with(404);
    assert!(unknown.text().contains("user_details"), "the nearest family is named: {unknown:?}");
    site.admin_get("/cache/nothing").fails_with(404);
    let wrong = site.admin_get("/cache/clear");
    wrong.fails_with(405);
}

/// The value of a sample whose line has this name and all of these labels.
fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn metrics_count_outcomes_by_family(tier: Tier) {
    let site = Site::start(tier, RULES);
    for target in ["/users", "/users", "/users", "/users/1"] {
        site.get(target);
    }
    site.write("POST", "/users/create");
    let metrics = site.admin_get("/metrics").has_status(200).text();
    let requests = |family: &str, outcome: &str| {
        let labels = [format!("family={family:?}"), format!("outcome={outcome:?}")];
        sample(&metrics, "larder_requests_total", &labels.each_ref().map(String::as_str))
    };
    assert_eq!(requests("user_list", "hit"), Some(2.0), "{metrics}");
    assert_eq!(requests("user_list", "miss"), Some(1.0), "{metrics}");
    assert_eq!(requests("user_details", "miss"), Some(1.0), "{metrics}");
    let invalidated = sample(&metrics, "larder_invalidations_total", &["family=\"user_list\"", "cause=\"write\""]);
    assert_eq!(invalidated, Some(1.0), "{metrics}");
}

fn it_is_alive_and_ready(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.admin_get("/healthz").has_status(200);
    eventually("it is ready", || site.admin_get("/readyz").status == 200);
}

fn rules_are_shown_and_reloaded(tier: Tier) {
    let site = Site::start(tier, RULES);
    let rules = site.admin_get("/rules").has_status(200);
    assert!(rules.text().contains("user_details"), "{rules:?}");
    assert!(rules.json()["last_error"].is_null(), "{rules:?}");
    success(site.admin_post("/rules/reload"));
    site.get("/users").has_status(200);
}

#[test]
fn health_says_that_redis_is_gone_and_purging_does_not_pretend() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.get("/users").shows("stored");
    site.redis().kill();
    eventually("health says so", || {
        let health = site.admin_get("/cache/health").json();
        health["cache_info"]["status"].as_str().is_some_and(|status| status != "available")
    });
    site.admin_get("/healthz").has_status(200);
    site.redis().restart();
    eventually("health recovers", || {
        site.get("/users");
        site.admin_get("/cache/health").json()["cache_info"]["status"] == "available"
    });
}

fn guarded() -> (Upstream, Larder) {
    let upstream = Upstream::start();
    let plan = Plan::new(&upstream.url()).rules(&format!("{TOKENS}{RULES}"));
    let larder = plan.environment("VIEWER_TOKEN", "of-a-viewer").start();
    (upstream, larder)
}

fn bearing(larder: &Larder, token: &str, method: &str, target: &str) -> Response {
    larder.admin_call(method, target).header("Authorization", &format!("Bearer {token}")).send()
}

#[test]
fn without_a_token_nothing_is_shown_and_nothing_done() {
    let (_upstream, larder) = guarded();
    warm(&larder);
    for token in ["", "wrong", "of-the-admi", "of-the-admin2", "${VIEWER_TOKEN}"] {
        for target in ["/cache/health", "/cache/stats", "/cache/families", "/rules", "/metrics"] {
            bearing(&larder, token, "GET", target).fails_with(401);
        }
        bearing(&larder, token, "POST", "/cache/clear").fails_with(401);
    }
    let refused = larder.admin_get("/cache/stats").fails_with(401);
    assert!(refused.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{refused:?}");
    larder.admin_get("/healthz").has_status(200);
    larder.get("/users").shows("hit");
}

#[test]
fn a_viewer_may_look_and_an_admin_may_act() {
    let (_upstream, larder) = guarded();
    warm(&larder);
    for token in ["of-a-viewer", "of-the-admin"] {
        for target in ["/cache/health", "/cache/stats", "/cache/families", "/rules", "/metrics"] {
            bearing(&larder, token, "GET", target).has_status(200);
        }
    }
    for target in ["/cache/clear", "/cache/clear/user_list", "/rules/reload"] {
        bearing(&larder, "of-a-viewer", "POST", target).fails_with(403);
    }
    larder.get("/users").shows("hit");
    success(bearing(&larder, "of-the-admin", "POST", "/cache/clear/user_list"));
    larder.get("/users").hides("hit");
}

#[test]
fn browsers_get_the_dashboard_without_a_token_and_programs_get_json() {
    let (upstream, larder) = guarded();
    let page = larder.admin_call("GET", "/").header("Accept", "text/html,*/*;q=0.8").send().has_status(200);
    assert!(page.text().starts_with("<!doctype html>"), "{page:?}");
    let script = larder.admin_get("/dashboard/app.js").has_status(200);
    for (response, media_type) in [(page, "text/html; charset=utf-8"), (script, "text/javascript; charset=utf-8")]
    {
        assert_eq!(response.header("content-type"), Some(media_type));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        let policy = response.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
            "{policy}"
        );
    }
    assert_eq!(larder.admin_get("/").json()["name"], "larder");
    larder.admin_call("POST", "/dashboard/app.js").send().has_status(401);
    larder.get("/dashboard/app.js");
    assert_eq!(upstream.count("/dashboard/app.js"), 1, "clients do not get it");
}

#[test]
fn without_tokens_the_admin_stays_on_the_loopback_address_and_says_so() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).argument("--admin", "0.0.0.0:0").start();
    assert!(larder.admin.ip().is_loopback(), "{}", larder.admin);
    eventually("it says so", || larder.log().contains("loopback"));
    larder.admin_get("/healthz").has_status(200);
}

#[test]
fn the_admin_is_not_reachable_through_the_proxy_nor_the_proxy_through_the_admin() {
    let site = Site::start(Tier::Embedded, RULES);
    site.get("/cache/health").carries("/cache/health #1");
    site.admin_get("/users").fails_with(404);
}

#[test]
fn tokens_do_not_stand_in_rules_or_log() {
    let (_upstream, larder) = guarded();
    let rules = bearing(&larder, "of-a-viewer", "GET", "/rules").text();
    for text in [rules, larder.log()] {
        assert!(!text.contains("of-the-admin") && !text.contains("of-a-viewer"), "{text}");
    }
}
