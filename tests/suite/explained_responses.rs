//! `Larder-Debug`: with a viewer's token any response explains itself, and a write carries its receipt. Without one nothing does.

use serde_json::{Value, json};

use crate::support::{Larder, Plan, RedisServer, Response, Tier, Upstream, eventually};

const RULES: &str = r#"
[admin]
tokens = [{ role = "viewer", token = "of-a-viewer" }, { role = "admin", token = "of-an-admin" }]

[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "60s"

[invalidate]
'/users/create' = ["users"]
"#;

on_both_tiers! {
    a_read_explains_itself_to_a_viewer,
    a_write_carries_its_receipt,
    without_a_valid_token_nothing_is_explained,
}

struct Running {
    larder: Larder,
    upstream: Upstream,
    _redis: Option<RedisServer>,
}

fn start(tier: Tier) -> Running {
    let upstream = Upstream::start();
    let redis = (tier == Tier::Redis).then(RedisServer::start);
    let plan = Plan::new(&upstream.url()).rules(RULES);
    let plan = redis.iter().fold(plan, |plan, redis| plan.redis(&redis.url()));
    Running { larder: plan.start(), upstream, _redis: redis }
}

#[track_caller]
fn explanation(response: &Response) -> Value {
    let text = response.header("larder-debug").unwrap_or_else(|| panic!("no explanation in {response:?}"));
    assert!(text.len() <= 4096 && text.is_ascii());
    serde_json::from_str(text).unwrap()
}

fn a_read_explains_itself_to_a_viewer(tier: Tier) {
    let running = start(tier);
    let get = |target: &str, token: &str| running.larder.call("GET", target).header("Larder-Debug", token).send();
    let miss = get("/users/7", "of-a-viewer").shows("stored");
    let found = explanation(&miss);
    assert_eq!(
        (&found["outcome"], &found["family"], &found["instance"]),
        (&json!("miss"), &json!("user"), &json!(["7"]))
    );
    assert!(
        found["rule"].as_str().unwrap().contains("(line ")
            && found["cache_status"].as_str().unwrap().contains("fwd=uri-miss")
    );
    assert!(found["tags"].as_array().unwrap().contains(&json!("user:7")), "{found:#}");
    // The field is no part of the key, and what is stored for others does not have it.
    let plain = running.larder.get("/users/7").shows("hit");
    assert_eq!((plain.header("larder-debug"), plain.header("cache-control")), (None, None));
    let found = explanation(&get("/users/7", "of-an-admin").shows("hit"));
    assert_eq!(found["outcome"], "hit");
    assert_eq!(get("/users/7", "of-a-viewer").headers("cache-control"), ["private=\"larder-debug\""]);
    let found = explanation(&get("/elsewhere", "of-a-viewer"));
    assert_eq!((&found["family"], &found["outcome"]), (&Value::Null, &json!("pass")));
    for target in ["/users/7", "/elsewhere"] {
        assert!(running.upstream.requests(target).iter().all(|request| request.header("larder-debug").is_none()));
    }
    assert_eq!(running.upstream.count("/users/7"), 1);
    let long = format!("/users?{}", "n=%C3%BC&".repeat(400));
    explanation(&get(&long, "of-a-viewer"));
}

fn a_write_carries_its_receipt(tier: Tier) {
    let running = start(tier);
    let write = |target: &str| {
        running.larder.call("POST", target).header("Larder-Debug", "of-a-viewer").body("{}").send().has_status(200)
    };
    let found = explanation(&write("/users/create"));
    let receipt = &found["receipt"];
    assert_eq!(
        (&found["outcome"], &receipt["mode"], &receipt["delivered"]),
        (&json!("write"), &json!("hard"), &json!(true))
    );
    assert_eq!(
        (&receipt["rules"][0]["pattern"], &receipt["families"]),
        (&json!("/users/create"), &json!(["users"]))
    );
    assert!(receipt["rules"][0]["line"].is_u64() && receipt["wait_ms"].is_number(), "{receipt:#}");
    let found = explanation(&write("/elsewhere"));
    assert_eq!((&found["receipt"]["rules"], found["receipt"]["tags"].as_array().unwrap().len()), (&json!([]), 1));
    assert_eq!(running.upstream.last("/users/create").header("larder-debug"), None);
}

fn without_a_valid_token_nothing_is_explained(tier: Tier) {
    let running = start(tier);
    running.larder.get("/users").shows("stored");
    for token in ["", "of-nobody", "of-a-viewer, of-a-viewer"] {
        for (method, target) in [("GET", "/users"), ("POST", "/users/create")] {
            let answer = running.larder.call(method, target).header("Larder-Debug", token).body("").send();
            let named =
                answer.headers.iter().any(|(name, value)| format!("{name}{value}").contains("larder-debug"));
            assert!(!named, "{token:?}: {answer:?}");
        }
    }
    let metrics = || {
        running.larder.admin_call("GET", "/metrics").header("Authorization", "Bearer of-a-viewer").send().text()
    };
    // Each request with one wrong token; a field with nothing in it is one too.
    eventually("wrong ones count", || metrics().contains("larder_admin_wrong_tokens_total 6\n"));
}
