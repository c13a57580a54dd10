//! `/cache/entries`: what is stored is listed page by page, shown in full without secrets, and removed from the whole fleet.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Reply, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "user_list"
path = '/users'
ttl = "1h"

[[family]]
name = "user_details"
path = '/users/(?<user_id>\d+)'
ttl = "1h"

[[family]]
name = "me"
path = '/me'
ttl = "1h"
identity = "header:authorization"

[invalidate]
'/users/create' = ["user_list"]
"#;

on_both_tiers! {
    entries_are_listed_with_their_state_and_filtered,
    pages_together_list_every_entry_once,
    one_entry_is_shown_in_full_and_its_caller_as_a_keyed_hash,
    a_removed_entry_is_fetched_again_here_and_by_other_proxies,
    what_cannot_be_listed_is_refused_with_a_remedy,
}

fn site(tier: Tier, paths: &[&str]) -> Site {
    let site = Site::start(tier, RULES);
    for path in paths {
        site.get(path);
        site.wait_until_stored(path);
    }
    if tier == Tier::Redis {
        site.wait_for_entries(paths.len());
    }
    site
}

/// All pages.
fn list(site: &Site, query: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for _ in 0..1000 {
        let page = site.admin_get(&format!("/cache/entries?{query}{cursor}")).has_status(200).json();
        all.extend(page["entries"].as_array().unwrap().iter().cloned());
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => {
                assert_eq!(page["complete"], true, "{page:#}");
                return all;
            }
        }
    }
    panic!("the walk does not end");
}

fn urls(site: &Site, query: &str) -> BTreeSet<String> {
    list(site, query).iter().map(|entry| entry["url"].as_str().unwrap().to_owned()).collect()
}

fn entries_are_listed_with_their_state_and_filtered(tier: Tier) {
    let site = site(tier, &["/users", "/users/1", "/users/2"]);
    site.upstream
        .on("GET /old", Reply::new("old").cached("max-age=1, stale-while-revalidate=60").header("Age", "1"));
    site.get("/old");
    let url = |path: &str| format!("http://localhost{path}");
    let set = |paths: &[&str]| paths.iter().map(|path| url(path)).collect::<BTreeSet<String>>();
    eventually("all are listed", || urls(&site, "").len() >= 3);
    let all = list(&site, "");
    let one = all.iter().find(|entry| entry["url"] == url("/users/1")).unwrap();
    assert_eq!((&one["family"], &one["instance"]["user_id"]), (&"user_details".into(), &"1".into()), "{one:#}");
    assert_eq!((&one["state"], &one["status"], &one["method"]), (&"fresh".into(), &200.into(), &"GET".into()));
    assert_eq!(one["tier"], if tier == Tier::Redis { "redis" } else { "memory" });
    assert!(one["identity"].is_null() && one["fresh_for_s"].as_i64().unwrap() > 30, "{one:#}");
    assert_eq!(urls(&site, "family=user_details"), set(&["/users/1", "/users/2"]));
    assert_eq!(urls(&site, "instance=user:2"), set(&["/users/2"]));
    assert_eq!(urls(&site, "prefix=/users/"), set(&["/users/1", "/users/2"]));
    site.write("POST", "/users/create").has_status(200);
    assert_eq!(urls(&site, "family=user_list&state=fresh"), set(&[]));
    let invalidated = list(&site, "family=user_list&state=invalidated");
    assert!(
        invalidated.iter().all(|it| it["state_reason"].as_str().unwrap().contains("user_list")),
        "{invalidated:?}"
    );
    assert_eq!(invalidated.len(), 1, "it is kept until it is looked up or swept");
}

fn pages_together_list_every_entry_once(tier: Tier) {
    let paths: Vec<String> = (0..60).map(|n| format!("/users/{n}")).collect();
    let site = site(tier, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    let found = list(&site, "limit=7");
    let keys: BTreeSet<&str> = found.iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert_eq!((found.len(), keys.len()), (60, 60));
}

/// A key in a path.
fn encoded(key: &str) -> String {
    key.replace('%', "%25").replace(':', "%3A")
}

fn one_entry_is_shown_in_full_and_its_caller_as_a_keyed_hash(tier: Tier) {
    let site = Site::start(tier, RULES);
    let reply = Reply::new("hello")
        .header("Set-Cookie", "sid=s3cret")
        .header("X-Shown", "yes")
        .header("Vary", "Accept-Language");
    site.upstream.on("GET /me", reply.cached("max-age=60"));
    let get = || {
        site.call("GET", "/me")
            .header("Authorization", "Bearer the-s3cret-token")
            .header("Accept-Language", "de")
            .send()
    };
    get();
    eventually("it is stored or not at all", || get().is("hit") || get().status == 200);
    if list(&site, "family=me").is_empty() {
        // A response with a cookie is not stored: without it then.
        site.upstream.on(
            "GET /me",
            Reply::new("hello").header("X-Shown", "yes").header("Vary", "Accept-Language").cached("max-age=60"),
        );
        eventually("it is stored", || get().is("hit"));
    }
    eventually("it is listed", || list(&site, "family=me").len() == 1);
    let listed = &list(&site, "family=me")[0];
    let identity = listed["identity"].as_str().unwrap();
    assert!(identity.starts_with("hmac-sha256:"), "{listed:#}");
    let key = encoded(listed["key"].as_str().unwrap());
    let shown = site.admin_get(&format!("/cache/entries/{key}?body=true")).has_status(200);
    let text = shown.text();
    assert!(!text.contains("s3cret") && !text.contains("sha256:") || text.contains("hmac-sha256:"), "{text}");
    let entry = &shown.json()["entry"];
    assert_eq!(
        (&entry["fields"]["x-shown"][0], &entry["body"]["text"]),
        (&"yes".into(), &"hello".into()),
        "{entry:#}"
    );
    assert!(entry["tags"].as_array().unwrap().contains(&"uri:/me".into()), "{entry:#}");
    assert_eq!(entry["vary"][0], "accept-language: de");
    assert!(entry["stamp"]["sequence"].as_u64().is_some(), "{entry:#}");
    let bare = site.admin_get(&format!("/cache/entries/{key}")).has_status(200).json();
    assert!(bare["entry"]["body"].is_null(), "{bare:#}");
}

fn a_removed_entry_is_fetched_again_here_and_by_other_proxies(tier: Tier) {
    let site = site(tier, &["/users", "/users/1"]);
    let other = (tier == Tier::Redis).then(|| site.another());
    if let Some(other) = &other {
        other.get("/users/1").shows("hit");
        other.get("/users/1").shows("hit");
    }
    let listed = list(&site, "prefix=/users/1");
    let key = encoded(listed[0]["key"].as_str().unwrap());
    let target = format!("/cache/entries/{key}");
    let removed = site.admin_call("DELETE", &target).send().has_status(200).json();
    assert_eq!(removed["receipt"]["tags"], serde_json::json!(["uri:/users/1"]), "{removed:#}");
    if let Some(other) = &other {
        other.get("/users/1").hides("hit").carries("/users/1 #2");
    }
    let text = site.get("/users/1").has_status(200).text();
    assert_ne!(text, "/users/1 #1", "here it is a later one too");
    site.get("/users").shows("hit").carries("/users #1");
    site.admin_call("DELETE", "/cache/entries/nothing").send().fails_with(404);
}

fn what_cannot_be_listed_is_refused_with_a_remedy(tier: Tier) {
    let site = site(tier, &["/users"]);
    let rows = [
        ("?family=user_lst", 404, "user_list"),
        ("?instance=usr:1", 404, "user_id"),
        ("?instance=user", 400, "user:7"),
        ("?state=old", 400, "/docs"),
        ("?limit=0", 400, "1 to 1000"),
        ("?limit=x", 400, "/docs"),
        ("?cursor=x", 400, "page before"),
        ("?familly=user_list", 400, "did you mean \"family\""),
        ("/nothing", 404, "GET /cache/entries"),
        ("/user_details:1:0123456789abcdef0123456789abcdef", 404, "GET /cache/entries"),
    ];
    for (target, status, remedy) in rows {
        let refused = site.admin_get(&format!("/cache/entries{target}")).fails_with(status).json();
        assert!(refused["what_to_do"].as_str().unwrap().contains(remedy), "{target}: {refused:#}");
    }
}
