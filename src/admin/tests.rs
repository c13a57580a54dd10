//! The router as a whole, without sockets.

use std::time::SystemTime;

use axum::body::Body;
use bytes::Bytes;
use http::Method;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Overrides};
use crate::entry::{self, Content, Entry};
use crate::http::freshness::{Freshness, LifetimeSource};
use crate::key::KeyHash;
use crate::marks::Tag;
use crate::metrics::Metrics;
use crate::upstream::Upstream;

const RULES: &str = r#"
[server]
upstream = "http://127.0.0.1:1"

[[family]]
name = "user_list"
path = '/users'
ttl = "90s"

[[family]]
name = "user_details"
path = '/users/(?<id>[^/]+)'
identity = "header:authorization"
query = { drop = ["utm_source"] }
methods = ["GET", "QUERY"]
stale_while_slow = "500ms"
write_through = true
heuristic = false
close_delimited = "store"
stale_if_unreachable = "5m"
client_directives = "all"
normalize = ["accept-language"]
max_variants = 8
range = "whole"
forward = "keyed"

[invalidate]
'/users/create' = ["user_list"]
'/users/(?<id>[^/]+)/rename' = { families = ["user_*"], methods = ["PUT"] }
"#;

const TOKENS: &str = r#"
[admin]
tokens = [{ role = "viewer", token = "looks" }, { role = "admin", token = "changes" }]
"#;

fn running(rules: &str) -> Arc<Running> {
    let config = Config::parse(rules, "rules.toml", &Overrides::default(), &|_| None).unwrap();
    let upstream = Upstream::new(config.server.upstream.as_ref().unwrap(), &config.server).unwrap();
    Arc::new(Running::new(config, upstream, None, Arc::new(Metrics::new())))
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The JSON of an error with this status.
    #[track_caller]
    fn fails_with(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let json = self.json();
        assert_eq!(json["success"], json!(false), "{json}");
        assert!(["error", "what_to_do"].iter().all(|name| !json[name].as_str().unwrap().is_empty()), "{json}");
        json
    }

    #[track_caller]
    fn succeeds(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        let json = self.json();
        assert_eq!(json["success"], json!(true), "{json}");
        json
    }
}

async fn call(running: &Arc<Running>, method: Method, target: &str, token: Option<&str>) -> Answer {
    let mut request = http::Request::builder().method(method).uri(target).header(HOST, "localhost:9090");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::empty()).unwrap();
    let response = TowerToHyperService::new(router(Arc::clone(running))).call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

async fn post_content(running: &Arc<Running>, target: &str, content: &'static str) -> Answer {
    let request = http::Request::post(target).header(HOST, "localhost:9090").body(Body::from(content)).unwrap();
    let response = TowerToHyperService::new(router(Arc::clone(running))).call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

/// Stores responses for `/users/0`, `/users/1` and so on in memory.
fn store_users(running: &Running, count: u32) {
    let memory = running.cache.memory();
    let freshness = Freshness::with_lifetime(Duration::from_secs(60), LifetimeSource::MaxAge, SystemTime::now());
    for user in 0..count {
        let path = format!("/users/{user}");
        let response = entry::Response {
            status: StatusCode::OK,
            headers: http::HeaderMap::new().into(),
            original_fields: None,
            body: Bytes::new(),
            freshness,
            for_credentials: false,
            consumed: false,
        };
        let (stamp, tags) = (memory.marks.stamp(), [Tag::root(), Tag::uri(&path)]);
        let text = format!("GET http://localhost{path}");
        memory.put(KeyHash(user.into()), Entry::new(text, stamp, tags, Content::Response(response)));
    }
}

async fn get(running: &Arc<Running>, target: &str) -> Answer {
    call(running, Method::GET, target, None).await
}

async fn post(running: &Arc<Running>, target: &str) -> Answer {
    call(running, Method::POST, target, None).await
}

#[tokio::test]
async fn what_the_description_and_the_index_list_is_there() {
    let running = running(RULES);
    // Otherwise the live events would go on.
    running.cache.log().events.ended.cancel();
    let document = get(&running, "/openapi.json").await.json();
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.push((method.to_uppercase(), path.clone()));
        }
    }
    let index = get(&running, "/").await.succeeds();
    let listed: Vec<(String, String)> = index["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| {
            let text = |name: &str| route[name].as_str().unwrap().to_owned();
            (text("method"), text("path"))
        })
        .collect();
    assert_eq!(listed.len(), described.len());
    for (method, path) in described {
        assert!(listed.contains(&(method.clone(), path.clone())), "{method} {path}");
        let target = path.replace("{family}", "user_details").replace(['{', '}'], "");
        let target = target.replace("/cache/explain", "/cache/explain?url=/users");
        let answer = call(&running, method.parse().unwrap(), &target, None).await;
        let is_unknown = answer.text.contains("there is no /") || answer.status == StatusCode::METHOD_NOT_ALLOWED;
        assert!(!is_unknown, "{method} {target}: {}", answer.text);
        assert_eq!(answer.headers[CACHE_CONTROL], "no-store");
        if answer.status != 200 {
            let statuses = &document["paths"][&path][method.to_lowercase()]["responses"];
            assert!(
                !statuses[answer.status.as_str()].is_null(),
                "{method} {path}: {} is not described",
                answer.status
            );
        }
    }
}

#[tokio::test]
async fn the_page_of_the_description_loads_nothing_from_elsewhere() {
    let page = get(&running(RULES), "/docs").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let (_, nonce) = policy.split_once("script-src 'nonce-").unwrap();
    let nonce = &nonce[..32];
    assert_eq!(page.text.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "its script and its style");
    for foreign in ["http://", "https://", "src=", "href=\"/", "onclick", "style=\""] {
        assert!(!page.text.contains(foreign), "{foreign}");
    }
}

#[tokio::test]
async fn a_method_or_path_that_is_not_there_is_told_what_is() {
    let running = running(RULES);
    let wrong = get(&running, "/cache/clear/user_list").await;
    assert_eq!(wrong.fails_with(405)["what_to_do"], json!("send POST /cache/clear/user_list"));
    assert_eq!(wrong.headers[ALLOW], "POST");
    let unknown = get(&running, "/cache/stat").await.fails_with(404);
    assert!(unknown["what_to_do"].as_str().unwrap().contains("GET /cache/stats"), "{unknown}");
    post(&running, "/cache/clear/%FF").await.fails_with(400);
}

#[tokio::test]
async fn embedded_health_stats_and_test_have_hitas_shape() {
    let running = running(RULES);
    let health = get(&running, "/cache/health").await.succeeds();
    let info = json!({
        "status": "available", "tier": "memory", "used_memory": "0B", "connected_clients": 0,
        "keyspace_hits": 0, "keyspace_misses": 0, "hit_rate": 0.0, "undelivered": 0,
    });
    assert_eq!(health["cache_info"], info);
    let stats = get(&running, "/cache/stats").await.succeeds();
    assert_eq!(stats["key_counts"], json!({ "user_list_keys": 0, "user_details_keys": 0, "total_keys": 0 }));
    let detailed = get(&running, "/cache/health/detailed").await.succeeds();
    for told in [&health, &stats, &detailed] {
        assert!(!told.to_string().contains("redis"), "there is no Redis: {told}");
    }
    assert_eq!((&stats["counted_seconds_ago"], &stats["passes"]), (&json!(0), &json!(0)));
    let timestamp = detailed["timestamp"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(timestamp).is_ok() && timestamp.ends_with('Z'), "{timestamp}");
    let test = get(&running, "/cache/test").await.succeeds();
    assert!(test["test_results"].as_object().unwrap().values().all(|step| step == true), "{test}");
}

#[tokio::test]
async fn families_and_rules_are_told_as_the_file_says_them() {
    let running = running(RULES);
    let families = get(&running, "/cache/families").await.succeeds();
    let [list, details] = &families["families"].as_array().unwrap()[..] else { panic!("{families}") };
    assert_eq!((&list["ttl"], &list["ttl_seconds"], &list["keys"]), (&json!("1m 30s"), &json!(90), &json!(0)));
    assert_eq!(list["invalidated_by"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(details["invalidated_by"], json!(["/users/(?<id>[^/]+)/rename"]));
    assert_eq!((&details["identity"], &details["ttl"]), (&json!("header:authorization"), &Value::Null));
    assert_eq!((&list["query"], &details["query"]), (&json!("all"), &json!({ "drop": ["utm_source"] })));
    let rules = get(&running, "/rules").await.succeeds();
    let rename = &rules["invalidations"][1];
    assert_eq!((&rename["methods"], &rename["on"]), (&json!(["PUT"]), &json!(["200-399"])));
    assert_eq!((&rules["last_error"], &rules["file"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn what_a_family_says_of_requests_is_told_too() {
    let running = running(RULES);
    let rows = [
        ("methods", json!(["GET"]), json!(["GET", "QUERY"])),
        ("stale_while_slow", Value::Null, json!("500ms")),
        ("write_through", json!(false), json!(true)),
        ("revalidate", json!("when-stale"), json!("when-stale")),
        ("heuristic", json!(true), json!(false)),
        ("close_delimited", json!("forward"), json!("store")),
        ("stale_if_unreachable", json!("1h"), json!("5m")),
        ("client_directives", json!("harmless"), json!("all")),
        ("normalize", json!([]), json!(["accept-language"])),
        ("max_variants", json!(64), json!(8)),
        ("range", json!("forward"), json!("whole")),
        ("forward", json!("all"), json!("keyed")),
        ("invalidation", json!("rules"), json!("rules")),
    ];
    for path in ["/cache/families", "/rules"] {
        let told = get(&running, path).await.succeeds();
        let families = &told["families"];
        for (name, usual, set) in &rows {
            assert_eq!((&families[0][name], &families[1][name]), (usual, set), "{path}: {name}");
        }
    }
}

/// Whether something stamped before is invalidated by what `target` purges.
async fn invalidates(target: &str, tag: &str) -> bool {
    let running = running(RULES);
    let memory = running.cache.memory();
    let (stamp, tags) = (memory.marks.stamp(), [Tag::root(), Tag::family(tag)]);
    let purged = post(&running, target).await.succeeds();
    assert_eq!(purged["delivered"], json!(true));
    !memory.view(&tags).is_current(stamp)
}

#[tokio::test]
async fn purging_invalidates_what_it_names_and_nothing_else() {
    let rows = [
        ("/cache/clear", "user_list", true),
        ("/cache/clear/user_list", "user_list", true),
        ("/cache/clear/user_list", "user_details", false),
        ("/cache/clear/user_*", "user_details", true),
        ("/cache/clear/user_details/42", "user_details:42", true),
        ("/cache/clear/user_details/42", "user_details:43", false),
        ("/cache/clear/user_details:42", "user_details:42", true),
        ("/cache/clear/user_details/b%C3%B6b%20x", "user_details:b%C3%B6b%20x", true),
        ("/cache/clear/user_details/a:b", "user_details:a%3Ab", true),
        ("/cache/clear/user_details/*", "user_details:42", false),
        ("/cache/clear/user_details/*", "user_details", false),
        ("/cache/clear/user_details/%2541", "user_details:%2541", true),
    ];
    for (target, tag, expected) in rows {
        assert_eq!(invalidates(target, tag).await, expected, "{target} {tag}");
    }
}

#[tokio::test]
async fn what_cannot_be_purged_is_answered_with_the_nearest() {
    let running = running(RULES);
    let unknown = post(&running, "/cache/clear/user_lists").await.fails_with(404);
    assert!(unknown["what_to_do"].as_str().unwrap().contains("user_list"), "{unknown}");
    let instance = post(&running, "/cache/clear/user_list/7").await.fails_with(404);
    assert!(instance["what_to_do"].as_str().unwrap().contains("POST /cache/clear/user_list"), "{instance}");
}

#[tokio::test]
async fn purges_are_counted_under_names_from_the_rules_only() {
    let running = running(RULES);
    for target in ["/cache/clear", "/cache/clear/user_details/secret", "/cache/clear/user_*"] {
        post(&running, target).await.succeeds();
    }
    let metrics = get(&running, "/metrics").await;
    assert_eq!(metrics.headers[CONTENT_TYPE], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let count = |family: &str, count: u64| {
        format!(r#"larder_invalidations_total{{family="{family}",cause="purge"}} {count}"#)
    };
    // Each by the purge of everything too.
    for line in [count("user_details", 3), count("user_list", 2)] {
        assert!(metrics.text.contains(&line), "no {line} in {}", metrics.text);
    }
    assert!(!metrics.text.contains("secret"), "{}", metrics.text);
}

#[tokio::test]
async fn a_token_opens_what_its_role_may_do() {
    let running = running(&format!("{RULES}{TOKENS}"));
    let none = get(&running, "/cache/nothing").await;
    none.fails_with(401);
    assert!(none.headers[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    call(&running, Method::GET, "/cache/stats", Some("changes2")).await.fails_with(401);
    call(&running, Method::GET, "/cache/stats", Some("looks")).await.succeeds();
    call(&running, Method::POST, "/cache/clear", Some("looks")).await.fails_with(403);
    call(&running, Method::POST, "/cache/clear", Some("changes")).await.succeeds();
    assert_eq!(get(&running, "/healthz").await.text, "ok\n");
    assert_eq!(get(&running, "/readyz").await.json()["ready"], json!(true));
}

#[tokio::test]
async fn a_reload_is_answered_with_counts_or_faults() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.toml");
    std::fs::write(&file, RULES).unwrap();
    let config = Config::load(Some(&file), &Overrides::default(), &|_| None).unwrap();
    let upstream = Upstream::new(config.server.upstream.as_ref().unwrap(), &config.server).unwrap();
    let running = Arc::new(Running::new(config, upstream, None, Arc::new(Metrics::new())));

    let reloaded = post(&running, "/rules/reload").await.succeeds();
    assert_eq!((&reloaded["families"], &reloaded["invalidations"]), (&json!(2), &json!(2)));

    std::fs::write(&file, RULES.replace("ttl = ", "tll = ")).unwrap();
    let refused = post(&running, "/rules/reload").await.fails_with(422);
    assert_eq!((&refused["faults"][0]["line"], &refused["faults"][0]["column"]), (&json!(8), &json!(1)));
    assert!(refused["what_to_do"].as_str().unwrap().contains("ttl"), "{refused}");
    let rules = get(&running, "/rules").await.succeeds();
    assert_eq!(rules["last_error"]["faults"], refused["faults"]);
    assert_eq!(rules["families"][0]["ttl_seconds"], json!(90), "the old rules stay");

    std::fs::remove_file(&file).unwrap();
    let gone = post(&running, "/rules/reload").await.fails_with(422);
    assert!(gone["error"].as_str().unwrap().contains("cannot read"), "{gone}");
}

#[tokio::test]
async fn without_a_file_there_is_nothing_to_reload() {
    post(&running(RULES), "/rules/reload").await.fails_with(409);
}

#[tokio::test]
async fn what_a_route_does_not_take_is_refused_and_nothing_is_done() {
    let running = running(RULES);
    let memory = running.cache.memory();
    let (stamp, tags) = (memory.marks.stamp(), [Tag::root()]);
    let refused = post(&running, "/cache/clear?url=/users").await.fails_with(400);
    assert!(refused["error"].as_str().unwrap().contains("unknown parameter \"url\""), "{refused}");
    let refused = post_content(&running, "/cache/clear", r#"{"family": "user_list"}"#).await.fails_with(400);
    assert_eq!(refused["what_to_do"], json!("send POST /cache/clear/user_list"));
    post_content(&running, "/cache/clear", "family=user_list").await.fails_with(400);
    assert!(memory.view(&tags).is_current(stamp), "nothing was purged");
    post_content(&running, "/cache/clear", "{}").await.succeeds();
    assert!(!memory.view(&tags).is_current(stamp));
    for target in ["/healthz?x=1", "/metrics?x=1", "/?x=1", "/cache/explain?url=/&uri=/"] {
        get(&running, target).await.fails_with(400);
    }
    post(&running, "/cache/stats?x=1").await.fails_with(405);
}

#[tokio::test]
async fn what_names_nothing_is_not_purged_with_success() {
    let rules = RULES.replace("(?<id>[^/]+)'\nidentity", "(?<id>\\d+)'\nidentity");
    let running = running(&rules);
    for target in
        ["/cache/clear/user_details/abc", "/cache/clear/user_details:abc", "/cache/clear/user_details:7:settings"]
    {
        let refused = post(&running, target).await.fails_with(404);
        assert!(refused["error"].as_str().unwrap().contains("is no {id}"), "{refused}");
    }
    let refused = post(&running, "/cache/groups/nobody/clear").await.fails_with(404);
    assert!(refused["error"].as_str().unwrap().contains("no stored response names it"), "{refused}");
    post(&running, "/cache/clear/user_details/7").await.succeeds();
}

#[tokio::test]
async fn a_purge_cut_short_says_so_and_may_be_repeated() {
    let running = running(RULES);
    // One more than a purge compares.
    store_users(&running, 10_001);
    let content = r#"{ "prefixes": ["/users/"], "deploy": "a1b2c3" }"#;
    let cut = post_content(&running, "/cache/invalidate", content).await;
    assert_eq!(cut.status, StatusCode::ACCEPTED, "{}", cut.text);
    let receipt = &cut.json()["receipt"];
    assert_eq!((&receipt["entries"], &receipt["complete"]), (&json!(10_000), &json!(false)), "{}", cut.text);
    assert!(receipt["what_to_do"].as_str().unwrap().contains("name families"), "{}", cut.text);
    for is_repeated in [false, true] {
        let answer = post_content(&running, "/cache/invalidate", content).await.succeeds();
        let receipt = &answer["receipt"];
        assert_eq!((&receipt["entries"], &receipt["complete"]), (&json!(1), &json!(true)), "{receipt}");
        assert_eq!(receipt["repeated"], json!(is_repeated), "{receipt}");
    }
}
