//! What clients are told of their own caches, and what operators are told of writes.

use crate::support::{Plan, Reply, Site, Tier, eventually, larder};

on_both_tiers! {
    clients_are_told_to_ask_again_where_writes_invalidate_and_get_a_304,
    what_a_304_of_upstream_says_is_judged_by_what_upstream_said_before,
}

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users(/.*)?'
ttl = "10m"

[[family]]
name = "left"
path = '/left'
ttl = "10m"
client_cache_control = "pass"

[[family]]
name = "unwritten"
path = '/unwritten'
ttl = "10m"

[[family]]
name = "asked"
path = '/asked'
ttl = "10m"
client_cache_control = "no-cache"

[invalidate]
'/users/(?<id>\d+)/name' = ["users", "left"]
"#;

fn clients_are_told_to_ask_again_where_writes_invalidate_and_get_a_304(tier: Tier) {
    let site = Site::start(tier, RULES);
    let usual = Reply::new("same").cached("public, max-age=60").header("Expires", "0");
    let dated = usual.clone().header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    site.upstream.on("GET /users/1", usual.clone());
    site.upstream.on("GET /users/2", usual.clone().header("ETag", "\"2\""));
    site.upstream.on("GET /users/3", dated);
    site.upstream.on("GET /users/4", usual.clone().chunked());
    site.upstream.on("GET /asked", usual.clone());
    for path in ["/users/1", "/users/2", "/users/3", "/users/4", "/asked"] {
        let first = site.get(path).shows("stored");
        let tag = first.header("etag").map(str::to_owned);
        let again = site.get(path).shows("hit");
        for answer in [&first, &again] {
            assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
            assert_eq!((answer.header("expires"), answer.header("etag")), (None, tag.as_deref()), "{path}");
        }
        let condition = match &tag {
            Some(tag) => site.call("GET", path).header("If-None-Match", tag),
            None => site.call("GET", path).header("If-Modified-Since", first.header("last-modified").unwrap()),
        };
        let known = condition.send().has_status(304).shows("hit");
        assert_eq!(known.header("cache-control"), Some("no-cache"), "{path}");
        assert_eq!(site.upstream.count(&format!("GET {path}")), 1);
    }
    // The same body is the same to a browser, also after a write.
    let tag = site.get("/users/1").header("etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    site.write("PUT", "/users/1/name").has_status(200);
    site.call("GET", "/users/1").header("If-None-Match", &tag).send().has_status(304).shows("fwd=stale");
    site.upstream.on("GET /users/1", Reply::new("other"));
    site.write("PUT", "/users/1/name").has_status(200);
    site.call("GET", "/users/1").header("If-None-Match", &tag).send().has_status(200).carries("other");
    for path in ["/left", "/unwritten", "/elsewhere"] {
        site.upstream.on(&format!("GET {path}"), usual.clone());
        for _ in 0..2 {
            let answer = site.get(path);
            assert_eq!(answer.header("cache-control"), Some("public, max-age=60"), "{path}");
            assert_eq!((answer.header("expires"), answer.header("etag")), (Some("0"), None), "{path}");
        }
    }
    // What is not stored may be kept by browsers all the same.
    site.upstream.on("GET /users/5", Reply::status(404).cached("max-age=60, private"));
    assert_eq!(site.get("/users/5").hides("stored").header("cache-control"), Some("no-cache, private"));
    assert_eq!(site.call("HEAD", "/users/6").send().header("cache-control"), Some("no-cache"));
}

fn what_a_304_of_upstream_says_is_judged_by_what_upstream_said_before(tier: Tier) {
    let site = Site::start(tier, RULES);
    let stale = Reply::new("a").cached("max-age=60").header("Age", "100").header("ETag", "\"1\"");
    // It says nothing of `Cache-Control`: what upstream had said holds, and not what clients were told.
    let confirmed = Reply::with_status(304, "").header("ETag", "\"1\"");
    site.upstream.script("GET /users/1", [stale, confirmed]);
    site.get("/users/1").shows("stored");
    let answer = site.get("/users/1").shows("fwd-status=304").carries("a");
    assert!(answer.ttl() > 30, "{answer:?}");
    assert_eq!(site.upstream.last("/users/1").header("if-none-match"), Some("\"1\""));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    site.get("/users/1").shows("hit");
    // A validator of Larder's own is none to upstream.
    let stale = Reply::new("b").cached("max-age=60, stale-while-revalidate=0").header("Age", "59");
    site.upstream.script("GET /users/2", [stale.header("X-A", "1"), Reply::new("b")]);
    site.get("/users/2");
    site.write("PUT", "/users/2").has_status(200);
    site.get("/users/2").has_status(200).carries("b");
    assert_eq!(site.upstream.last("/users/2").header("if-none-match"), None);
}

#[test]
fn writes_without_a_rule_are_counted_by_shape_and_told_of_once() {
    let site = Site::start(Tier::Embedded, RULES);
    for id in ["7", "8", "550e8400-e29b-41d4-a716-446655440000"] {
        site.write("POST", &format!("/orders/{id}/cancel")).has_status(200);
    }
    site.write("PUT", "/users/7/name").has_status(200);
    site.upstream.on("/refused", Reply::status(403));
    site.write("POST", "/refused").has_status(403);
    let stats = site.admin_get("/cache/stats").has_status(200).json();
    assert_eq!(stats["writes_unmatched"]["by_shape"], serde_json::json!({ "POST /orders/{}/cancel": 3 }));
    let metrics = site.admin_get("/metrics").text();
    assert!(metrics.contains("larder_writes_unmatched_total 3"), "{metrics}");
    site.get("/users/7");
    site.write("PUT", "/users/7/name").has_status(200);
    eventually("the access log names what a write invalidated", || {
        site.log().lines().any(|line| line.contains("/users/7/name") && line.contains("uri:/users/7/name, users"))
    });
    assert_eq!(site.log().matches("no rule matches this write").count(), 1, "{}", site.log());
}

#[test]
fn check_says_which_host_an_https_upstream_is_told() {
    let checked = |server: &str| larder(Some(&format!("[server]\n{server}\n")), &["check"]).stdout;
    assert!(checked("upstream = 'https://api.test'").contains("note: host = \"upstream\""));
    for server in [
        "upstream = 'https://127.0.0.1'",
        "upstream = 'http://api.test'",
        "upstream = 'https://a.test'\nhost = 'client'",
    ] {
        assert!(!checked(server).contains("note:"), "{server}");
    }
    let upstream = crate::support::Upstream::start();
    let larder = Plan::new(&upstream.url()).start();
    larder.call("GET", "/a").header("Host", "api.example").send().has_status(200);
    assert_eq!(upstream.last("/a").header("host"), Some("api.example"));
}
