//! `POST /cache/invalidate`, and PURGE and BAN at the proxy: what an operator names is not served again, and the receipt says what it was.

use serde_json::{Value, json};

use crate::support::{Larder, Reply, Response, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "user_list"
path = '/users'
ttl = "60s"

[[family]]
name = "user_details"
path = '/users/(?<user_id>\d+)'
ttl = "60s"

[[family]]
name = "photo"
path = '/users/(?<user_id>\d+)/photo'
ttl = "60s"

[invalidate]
'/users/create' = ["user_list"]
"#;

const PATHS: [&str; 6] = ["/users", "/users/1", "/users/2", "/users/1/photo", "/plain/a", "/plain/b"];

on_both_tiers! {
    what_is_named_is_purged_and_nothing_else,
    a_preview_counts_and_changes_nothing,
    a_soft_purge_serves_stale_while_it_is_fetched_again,
    a_deployment_purges_once,
    a_purge_that_names_nothing_or_something_unknown_is_refused,
    a_purge_invalidates_what_is_being_fetched,
    purge_and_ban_at_the_proxy_are_forwarded_unless_they_are_configured,
    purge_and_ban_at_the_proxy_do_the_same,
}

fn site(tier: Tier, further: &str) -> Site {
    let site = Site::start(tier, &format!("{further}{RULES}"));
    for path in ["/plain/a", "/plain/b"] {
        let group = Reply::numbered().cached("max-age=60").header("Surrogate-Key", &path[1..6]);
        site.upstream.on(&format!("GET {path}"), group);
    }
    for path in PATHS {
        site.get(path);
        site.wait_until_stored(path);
    }
    if tier == Tier::Redis {
        site.wait_for_entries(PATHS.len());
    }
    site
}

/// Which of the paths are not served from the cache any more.
fn purged(larder: &Larder) -> Vec<&'static str> {
    PATHS.into_iter().filter(|path| !larder.call("GET", path).send().is("hit")).collect()
}

#[track_caller]
fn receipt(response: Response) -> Value {
    let json = response.has_status(200).json();
    assert_eq!(json["success"], true, "{json:#}");
    json["receipt"].clone()
}

fn what_is_named_is_purged_and_nothing_else(tier: Tier) {
    let rows: [(Value, &[&str]); 8] = [
        (json!({ "families": ["user_list"] }), &["/users"]),
        (json!({ "families": ["user_d*", "photo"] }), &["/users/1", "/users/2", "/users/1/photo"]),
        (json!({ "instances": ["user:1"] }), &["/users/1", "/users/1/photo"]),
        (json!({ "tags": ["user_details:2"] }), &["/users/2"]),
        (json!({ "groups": ["plain"] }), &["/plain/a", "/plain/b"]),
        (json!({ "urls": ["http://elsewhere/users/1?x=1", "/plain/b"] }), &["/users/1", "/plain/b"]),
        (json!({ "prefixes": ["/users/", "/plain/a"] }), &["/users/1", "/users/2", "/users/1/photo", "/plain/a"]),
        (json!({ "globs": ["/users/*/photo", "*/b"] }), &["/users/1/photo", "/plain/b"]),
    ];
    let site = site(tier, "");
    for (content, expected) in rows {
        let receipt = receipt(site.admin_json("/cache/invalidate", &content));
        assert_eq!((&receipt["delivered"], &receipt["dry_run"]), (&json!(true), &json!(false)), "{receipt:#}");
        assert_eq!(purged(&site), expected, "{content}: {receipt:#}");
        for path in PATHS {
            site.wait_until_stored(path);
        }
        if tier == Tier::Redis {
            eventually("they are in Redis again", || site.entries_in_redis() >= PATHS.len());
        }
    }
}

fn a_preview_counts_and_changes_nothing(tier: Tier) {
    let site = site(tier, "");
    let content = json!({ "families": ["user_details"], "prefixes": ["/plain/"], "dry_run": true });
    let receipt = receipt(site.admin_json("/cache/invalidate", &content));
    assert_eq!((&receipt["entries"], &receipt["entries_complete"]), (&json!(4), &json!(true)), "{receipt:#}");
    assert!(receipt["bytes"].as_u64().unwrap() > 100 && receipt["dry_run"] == true, "{receipt:#}");
    let samples: Vec<&str> =
        receipt["samples"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(samples.contains(&"http://localhost/users/1") && samples.len() == 4, "{receipt:#}");
    assert_eq!(receipt["families"], json!(["user_details"]));
    assert!(purged(&site).is_empty());
}

fn a_soft_purge_serves_stale_while_it_is_fetched_again(tier: Tier) {
    let site = site(tier, "");
    let gate = site.upstream.hold_next("GET /users");
    receipt(site.admin_json("/cache/invalidate", &json!({ "families": ["user_list"], "mode": "soft" })));
    site.get("/users").shows("detail=soft-invalidated").carries("/users #1");
    gate.wait_for(1);
    gate.open();
    eventually("it is fetched again", || site.get("/users").text() == "/users #2");
}

fn a_deployment_purges_once(tier: Tier) {
    let site = site(tier, "");
    let content = json!({ "families": ["user_list"], "deploy": "a1b2c3" });
    let first = receipt(site.admin_json("/cache/invalidate", &content));
    site.get("/users").carries("/users #2");
    let second = receipt(site.admin_json("/cache/invalidate", &content));
    assert_eq!(
        (&first["id"], &first["repeated"], &second["repeated"]),
        (&second["id"], &json!(false), &json!(true))
    );
    site.get("/users").shows("hit").carries("/users #2");
    if tier == Tier::Redis {
        let other = site.another();
        let third = receipt(other.admin_json("/cache/invalidate", &content));
        assert_eq!((&third["id"], &third["repeated"]), (&first["id"], &json!(true)), "the fleet remembers it");
    }
    // Something else under the same name is another purge.
    let content = json!({ "families": ["photo"], "deploy": "a1b2c3" });
    assert_eq!(receipt(site.admin_json("/cache/invalidate", &content))["repeated"], false);
}

fn a_purge_that_names_nothing_or_something_unknown_is_refused(tier: Tier) {
    let site = site(tier, "");
    let rows = [
        (json!({}), 400, "[\"*\"]"),
        (json!({ "dry_run": true }), 400, "[\"*\"]"),
        (json!({ "familys": ["user_list"] }), 400, "did you mean \"families\""),
        (json!({ "families": "user_list" }), 400, "JSON object"),
        (json!({ "families": ["user_lst"] }), 404, "user_list"),
        (json!({ "instances": ["usr:1"] }), 404, "user_id"),
        (json!({ "instances": ["user"] }), 400, "user:7"),
        (json!({ "tags": ["usr_details:1"] }), 404, "user_details"),
        (json!({ "urls": ["users"] }), 400, "/users/7"),
        (json!({ "prefixes": ["users"] }), 400, "begin it"),
        (json!({ "globs": ["users*"] }), 400, "begin it"),
        (json!({ "families": ["user_list"], "mode": "gentle" }), 400, "JSON object"),
        (json!({ "families": ["user_list"], "deploy": "" }), 400, "commit"),
    ];
    for (content, status, remedy) in rows {
        let refused = site.admin_json("/cache/invalidate", &content).fails_with(status).json();
        assert!(refused["what_to_do"].as_str().unwrap().contains(remedy), "{content}: {refused:#}");
    }
    assert!(purged(&site).is_empty());
}

fn a_purge_invalidates_what_is_being_fetched(tier: Tier) {
    let site = Site::start(tier, RULES);
    let gate = site.upstream.hold_next("GET /users/7");
    let fetch = site.call("GET", "/users/7").start();
    gate.wait_for(1);
    receipt(site.admin_json("/cache/invalidate", &json!({ "urls": ["/users/7"] })));
    gate.open();
    fetch.response().carries("/users/7 #1");
    site.get("/users/7").hides("hit").carries("/users/7 #2");
}

fn purge_and_ban_at_the_proxy_are_forwarded_unless_they_are_configured(tier: Tier) {
    let site = Site::start(tier, RULES);
    for method in ["PURGE", "BAN"] {
        site.call(method, "/other").send().carries("done");
        assert_eq!(site.upstream.count(&format!("{method} /other")), 1);
    }
}

fn purge_and_ban_at_the_proxy_do_the_same(tier: Tier) {
    let site = site(tier, "[purge]\nfrom = [\"127.0.0.0/8\"]\n");
    type Row = (&'static str, &'static str, Option<(&'static str, &'static str)>, &'static [&'static str]);
    let rows: [Row; 4] = [
        ("PURGE", "/users/1", None, &["/users/1"]),
        ("PURGE", "/anything", Some(("Surrogate-Key", "plain other")), &["/plain/a", "/plain/b"]),
        ("BAN", "/users/*", None, &["/users/1", "/users/2", "/users/1/photo"]),
        ("PURGE", "/none", None, &[]),
    ];
    for (method, target, field, expected) in rows {
        let call = site.call(method, target);
        let call = field.into_iter().fold(call, |call, (name, value)| call.header(name, value));
        call.send().has_status(200).shows("detail=purged");
        assert_eq!(purged(&site), expected, "{method} {target}");
        for path in PATHS {
            site.wait_until_stored(path);
        }
        if tier == Tier::Redis {
            eventually("they are in Redis again", || site.entries_in_redis() >= PATHS.len());
        }
    }
    assert_eq!(site.upstream.count("PURGE /users/1"), 0, "it is not forwarded");
    let gate = site.upstream.hold_next("GET /users/1");
    site.call("PURGE", "/users/1").header("Larder-Purge", "soft").send().has_status(200);
    site.get("/users/1").shows("detail=soft-invalidated");
    gate.open();
}

#[test]
fn purge_at_the_proxy_needs_an_address_or_an_admin_token_with_the_scope() {
    let tokens = "[admin]\ntokens = [{ role = \"admin\", token = \"boss\" }, { role = \"viewer\", token = \"looks\" }, \
                  { name = \"ci\", role = \"admin\", token = \"scoped\", families = [\"user_list\"] }]\n[purge]\ntokens = true\n";
    let site = site(Tier::Embedded, tokens);
    let purge = |path: &str, token: Option<&str>| {
        let call = site.call("PURGE", path);
        let call =
            token.into_iter().fold(call, |call, token| call.header("Authorization", &format!("Bearer {token}")));
        call.send().status
    };
    for (path, token, expected) in [
        ("/users", None, 401),
        ("/users", Some("wrong"), 401),
        ("/users", Some("looks"), 403),
        ("/users/1", Some("scoped"), 403),
        ("/plain/a", Some("scoped"), 403),
    ] {
        assert_eq!(purge(path, token), expected, "{path} {token:?}");
    }
    assert!(purged(&site).is_empty());
    assert_eq!((purge("/users", Some("scoped")), purge("/plain/a", Some("boss"))), (200, 200));
    assert_eq!(purged(&site), ["/users", "/plain/a"]);
    eventually("the log names the token", || site.log().contains("\"ci\"") || site.log().contains("token=ci"));
}

#[test]
fn patterns_reach_what_memory_has_and_redis_has_no_more() {
    let site = site(Tier::Redis, "[purge]\nfrom = [\"127.0.0.0/8\"]\n");
    let evict = || {
        let redis = site.redis.as_ref().unwrap();
        let keys = redis.command(&["KEYS", "*:v1"]);
        keys.lines().for_each(|key| drop(redis.command(&["DEL", key])));
        assert_eq!((site.entries_in_redis(), purged(&site)), (0, Vec::new()), "memory serves them");
    };
    evict();
    let receipt = receipt(site.admin_json("/cache/invalidate", &json!({ "prefixes": ["/plain/"] })));
    assert_eq!((&receipt["entries"], &receipt["complete"]), (&json!(2), &json!(true)), "{receipt:#}");
    assert_eq!(purged(&site), ["/plain/a", "/plain/b"]);
    for path in PATHS {
        site.wait_until_stored(path);
    }
    evict();
    let reply = site.call("BAN", "/users/*").send().has_status(200).json();
    assert_eq!(reply["complete"], true, "{reply:#}");
    assert_eq!(purged(&site), ["/users/1", "/users/2", "/users/1/photo"]);
}

#[test]
fn groups_in_two_modes_are_refused() {
    let site = site(Tier::Embedded, "[purge]\nfrom = [\"127.0.0.0/8\"]\n");
    let call = site.call("PURGE", "/").header("xkey", "plain").header("xkey-softpurge", "other");
    let refused = call.send().has_status(400).json();
    assert!(refused["what_to_do"].as_str().unwrap().contains("two requests"), "{refused:#}");
    assert!(purged(&site).is_empty());
    site.call("PURGE", "/").header("xkey", "plain").send().has_status(200);
    assert_eq!(purged(&site), ["/plain/a", "/plain/b"]);
}

#[test]
fn an_address_of_a_load_balancer_does_not_permit_its_clients_to_purge() {
    let plain = "[purge]\nfrom = [\"127.0.0.0/8\"]\n";
    let trusted = format!("[server]\nforwarded = \"append\"\ntrusted_proxies = [\"127.0.0.1\"]\n{plain}");
    type Row<'t> = (&'t str, Option<&'t str>, u16);
    let rows: [Row<'_>; 6] = [
        (plain, None, 200),
        (plain, Some("127.0.0.9"), 200),
        (plain, Some("127.0.0.9, 198.51.100.7"), 403),
        (&trusted, None, 403),
        (&trusted, Some("127.0.0.9, 198.51.100.7"), 403),
        (&trusted, Some("127.0.0.9"), 200),
    ];
    for (further, client, status) in rows {
        let site = Site::start(Tier::Embedded, &format!("{further}{RULES}"));
        for method in ["PURGE", "BAN"] {
            let call = site.call(method, "/users/1");
            let call = client.into_iter().fold(call, |call, client| call.header("X-Forwarded-For", client));
            call.send().has_status(status);
        }
    }
}
