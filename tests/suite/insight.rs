//! What the admin shows of a running cache beside its statistics: an hour of points, what is hottest and missed most, writes that no rule
//! matches, and what happened to a URL.

use serde_json::{Value, json};

use crate::support::{Larder, Reply, Site, Tier, eventually, eventually_some};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "photos"
path = '/users/(?<id>\d+)/photos'
ttl = "60s"

[[family]]
name = "rooms"
path = '/rooms/.*'
ttl = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

on_both_tiers! {
    history_has_points_with_what_the_cache_saved,
    top_lists_name_the_hottest_most_missed_largest_and_slowest,
    a_write_without_a_rule_is_shown_with_the_rule_to_add_which_works,
    a_story_tells_what_happened_to_a_url,
    refetches_that_bring_the_same_body_are_the_cost_of_a_rule,
}

#[track_caller]
fn get(larder: &Larder, target: &str) -> Value {
    larder.admin_get(target).has_status(200).json()
}

fn history_has_points_with_what_the_cache_saved(tier: Tier) {
    let site = Site::start(tier, RULES);
    assert_eq!(get(&site, "/cache/history")["step_s"], 15);
    site.get("/users").shows("stored");
    for _ in 0..5 {
        site.get("/users").shows("hit");
    }
    site.write("POST", "/users/create").has_status(200);
    // The second sample comes a quarter of a minute after the first.
    let history = eventually_some("there is a point", || {
        let history = get(&site, "/cache/history");
        (!history["points"].as_array().unwrap().is_empty()).then_some(history)
    });
    let point = &history["points"][0];
    assert_eq!(
        (&point["hits"], &point["misses"], &point["writes"]),
        (&json!(5), &json!(1), &json!(1)),
        "{point:#}"
    );
    assert_eq!((&point["saved_requests"], &point["upstream_requests"]), (&json!(5), &json!(2)), "{point:#}");
    assert!(point["saved_s"].as_f64().unwrap() > 0.0, "{point:#}");
    assert!(point["hit_ms"]["p99"].as_f64().unwrap() >= point["hit_ms"]["p50"].as_f64().unwrap());
    assert_eq!(history["families"]["users"][0], json!({ "hits": 5, "misses": 1 }));
}

fn top_lists_name_the_hottest_most_missed_largest_and_slowest(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("GET /rooms/large", Reply::new("x".repeat(50_000)));
    let gate = site.upstream.hold_next("GET /rooms/slow");
    let slow = site.call("GET", "/rooms/slow").start();
    gate.wait_for(1);
    for target in ["/users", "/rooms/large", "/rooms/7?day=1"] {
        site.get(target).shows("stored");
    }
    for _ in 0..9 {
        site.get("/users").shows("hit");
    }
    site.get("/rooms/7?day=1").shows("hit");
    for _ in 0..4 {
        site.write("POST", "/users/create").has_status(200);
        site.get("/users").shows("detail=invalidated");
    }
    for _ in 0..5 {
        site.call("GET", "/rooms/9?reset=s3cret&s3cret-too").header("Cache-Control", "no-store").send();
    }
    gate.open();
    slow.response().has_status(200);
    let top = get(&site, "/cache/top?limit=2");
    assert_eq!(top["hottest"][0], json!({ "url": "/users", "family": "users", "hits": 9 }), "{top:#}");
    assert_eq!(top["hottest"][1]["url"], "/rooms/7?day=1");
    let missed = [("/users", "users"), ("/rooms/9?reset&…", "rooms")];
    let missed = missed.map(|(url, family)| json!({ "url": url, "family": family, "count": 5 }));
    assert!(missed.iter().all(|it| top["missed"].as_array().unwrap().contains(it)), "{top:#}");
    assert!(!top.to_string().contains("s3cret"), "{top:#}");
    assert_eq!(
        (&top["largest"][0]["url"], &top["largest"][0]["family"]),
        (&json!("/rooms/large"), &json!("rooms"))
    );
    assert!(top["largest"][0]["bytes"].as_u64().unwrap() > 50_000);
    assert_eq!(
        (&top["slowest"][0]["url"], &top["slowest"][0]["count"]),
        (&json!("/rooms/slow"), &json!(1)),
        "{top:#}"
    );
    let tags: Vec<&Value> = top["invalidated"].as_array().unwrap().iter().map(|it| &it["count"]).collect();
    assert_eq!(tags, [&json!(4), &json!(4)], "{top:#}");
    assert_eq!(top["worst"].as_array().unwrap().len(), 2);
    assert!(top["worst"][0]["hit_rate"].as_f64().unwrap() <= top["worst"][1]["hit_rate"].as_f64().unwrap());
    assert_eq!((&top["complete"], top["since"].is_string()), (&json!(true), true));
    for limit in ["0", "101", "x"] {
        site.admin_get(&format!("/cache/top?limit={limit}")).has_status(400);
    }
}

fn a_write_without_a_rule_is_shown_with_the_rule_to_add_which_works(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users/7/photos").shows("stored");
    site.call("POST", "/users/7/photos/upload?token=s3cret").body("{}").send().has_status(200);
    site.get("/users/7/photos").shows("hit");
    site.write("POST", "/users/8/photos/upload").has_status(200);
    let shown = || get(&site, "/cache/writes")["writes"][0].clone();
    eventually("reads after it are counted", || shown()["families"][0]["reads"].as_u64() >= Some(1));
    let write = shown();
    assert_eq!(
        (&write["method"], &write["shape"], &write["count"]),
        (&json!("POST"), &json!("/users/{}/photos/upload"), &json!(2))
    );
    assert_eq!(
        (&write["last"]["path"], &write["last"]["status"]),
        (&json!("/users/8/photos/upload"), &json!(200))
    );
    assert!(!write.to_string().contains("s3cret"));
    assert_eq!(write["families"][0]["family"], "photos", "{write:#}");
    let suggestion = write["suggestion"].as_str().unwrap();
    let rules = std::fs::read_to_string(site.rules_file()).unwrap();
    let rules = rules.replace("[invalidate]\n", &format!("[invalidate]\n{suggestion}\n"));
    std::fs::write(site.rules_file(), rules).unwrap();
    site.admin_post("/rules/reload").has_status(200);
    site.get("/users/7/photos").shows("stored");
    site.get("/users/7/photos").shows("hit");
    site.write("POST", "/users/9/photos/upload").has_status(200);
    site.get("/users/7/photos").shows("detail=invalidated");
}

fn words(story: &Value) -> Vec<&str> {
    story["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap()).collect()
}

fn a_story_tells_what_happened_to_a_url(tier: Tier) {
    let site = Site::start(tier, RULES);
    let story = || get(&site, "/cache/story?url=/users&header=Host:%20larder.test");
    assert!(words(&story()).is_empty());
    site.upstream.on("GET /users", Reply::numbered());
    let read = || site.call("GET", "/users").header("Host", "larder.test").send();
    read().shows("stored");
    read().shows("hit");
    read().shows("hit");
    site.call("POST", "/users/create").header("X-Request-Id", "r-18").body("{}").send().has_status(200);
    read().shows("detail=invalidated");
    site.upstream.on("GET /users", Reply::new("/users #2"));
    site.admin_post("/cache/clear/users").has_status(200);
    read().shows("detail=invalidated");
    read().shows("hit");
    let story = story();
    let expected = ["stored", "invalidated", "served", "refetched", "invalidated", "refetched", "served"];
    assert_eq!(words(&story), expected, "{story:#}");
    let events = &story["events"];
    assert_eq!((&story["family"], &story["complete"]), (&json!("users"), &json!(true)));
    assert_eq!(events[1]["by"]["cause"]["request_id"], "r-18");
    assert_eq!(events[1]["matching"], json!(["users"]));
    assert_eq!((&events[2]["times"], &events[6]["times"]), (&json!(2), &json!(1)));
    assert_eq!((&events[3]["identical"], &events[3]["after_invalidation"]), (&json!(false), &json!(true)));
    assert_eq!((&events[4]["by"]["cause"]["kind"], &events[5]["identical"]), (&json!("purge"), &json!(true)));
    assert!(words(&get(&site, "/cache/story?url=/rooms/1")).is_empty());
    site.admin_get("/cache/story").has_status(400);
    site.admin_get("/cache/story?url=/users&method=POST").has_status(400);
}

fn refetches_that_bring_the_same_body_are_the_cost_of_a_rule(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("GET /users", Reply::new("same"));
    site.get("/users").shows("stored");
    for round in 0..4 {
        if round == 3 {
            site.upstream.on("GET /users", Reply::new("other"));
        }
        site.write("POST", "/users/create").has_status(200);
        site.get("/users").shows("detail=invalidated");
    }
    let families = get(&site, "/cache/families");
    let expected = json!({ "after_invalidation": 4, "identical": 3, "identical_share": 75.0 });
    assert_eq!(families["families"][0]["refetches"], expected, "{families:#}");
    assert_eq!(families["families"][1]["refetches"]["identical_share"], Value::Null);
    assert_eq!(site.metric("larder_refetches_total{family=\"users\",body=\"identical\"}"), 3);
    assert_eq!(site.metric("larder_refetches_total{family=\"users\",body=\"changed\"}"), 1);
}
