//! `/cache/bypass`: an operator has a family forwarded for a while.

use crate::support::{Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "booking:stats"
path = '/stats'
ttl = "60s"

[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "search"
path = '/search'
methods = ["GET", "POST", "QUERY"]
ttl = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

on_both_tiers! {
    a_bypassed_family_is_forwarded_until_the_bypass_ends,
    a_bypass_ends_by_itself,
    reads_with_content_are_forwarded_too,
}

fn reads_with_content_are_forwarded_too(tier: Tier) {
    let site = Site::start(tier, RULES);
    let read = |method: &str| {
        site.call(method, "/search").header("Content-Type", "application/json").body("{\"q\":1}").send()
    };
    for method in ["POST", "QUERY"] {
        read(method).shows("stored");
        read(method).shows("hit");
    }
    site.admin_post("/cache/bypass/search?for=10m").has_status(200);
    for method in ["POST", "QUERY"] {
        read(method).shows("detail=bypassed");
    }
}

fn a_bypassed_family_is_forwarded_until_the_bypass_ends(tier: Tier) {
    let site = Site::start(tier, RULES);
    for path in ["/stats", "/users"] {
        site.get(path);
        site.wait_until_stored(path);
    }
    let begun = site.admin_post("/cache/bypass/booking?for=10m").has_status(200).json();
    assert_eq!(
        (&begun["bypasses"][0]["family"], &begun["scope"]),
        (&"booking".into(), &"proxy".into()),
        "{begun:#}"
    );
    assert_eq!(site.admin_get("/cache/bypass").json()["bypasses"], begun["bypasses"]);
    site.get("/stats").shows("detail=bypassed").carries("/stats #2");
    site.get("/stats").shows("detail=bypassed").carries("/stats #3");
    site.get("/users").shows("hit");
    // It survives a reload.
    site.admin_post("/rules/reload").has_status(200);
    site.get("/stats").shows("detail=bypassed");
    let ended = site.admin_call("DELETE", "/cache/bypass/booking").send().has_status(200).json();
    assert!(ended["bypasses"].as_array().unwrap().is_empty(), "{ended:#}");
    site.get("/stats").shows("hit").carries("/stats #1");
    site.admin_call("DELETE", "/cache/bypass/booking").send().fails_with(404);
    for (target, status) in [("bookin", 404), ("users?for=2d", 400), ("users?for=x", 400), ("users?fro=1m", 400)] {
        site.admin_post(&format!("/cache/bypass/{target}")).fails_with(status);
    }
}

fn a_bypass_ends_by_itself(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users");
    site.wait_until_stored("/users");
    site.admin_post("/cache/bypass/users?for=1s").has_status(200);
    site.get("/users").shows("detail=bypassed");
    eventually("it is over", || site.get("/users").is("hit"));
    assert!(site.admin_get("/cache/bypass").json()["bypasses"].as_array().unwrap().is_empty());
}
