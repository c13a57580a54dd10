//! Proxies with different rules in one fleet, as in a rolling restart: no family for which they differ is served stale, and the
//! others stay cached.

use std::fs;

use serde_json::Value;

use crate::support::larder::signal;
use crate::support::{Larder, Plan, Reply, Site, Tier, eventually};

/// Rules of a fleet before an edit. Writes of `users` by `/users/create` invalidate nothing.
const OLD: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "600s"

[[family]]
name = "rooms"
path = '/rooms'
ttl = "600s"

[invalidate]
'/users/add' = ["users"]
'/rooms/add' = ["rooms"]
"#;

/// After it they do.
fn new() -> String {
    format!("{OLD}'/users/create' = [\"users\"]\n")
}

fn with_new_rules(site: &Site) -> Plan {
    site.plan.clone().rules(&new())
}

fn mixed(proxy: &Larder) -> Value {
    proxy.admin_get("/cache/fleet").has_status(200).json()["mixed_rules"].clone()
}

/// Ends a proxy as a rollout does.
#[track_caller]
fn stop(proxy: &mut Larder) {
    proxy.terminate();
    assert_eq!(proxy.wait(), Some(0));
}

/// A proxy with the old rules, which has stored both families.
fn old() -> Site {
    let site = Site::start(Tier::Redis, OLD);
    site.get("/users").shows("stored");
    site.get("/rooms").shows("stored");
    site.wait_for_entries(2);
    site
}

#[test]
fn a_write_through_a_proxy_with_older_rules_leaves_nothing_stale() {
    let mut site = old();
    let newer = with_new_rules(&site).start();
    // From the first request on, neither trusts what the other may write past.
    for proxy in [&newer, &site.larder] {
        proxy.get("/users").shows("fwd=bypass; detail=mixed-rules");
        proxy.get("/rooms").shows("hit").carries("/rooms #1");
        assert_eq!(mixed(proxy), serde_json::json!(["users"]));
    }
    for _ in 0..5 {
        site.write("POST", "/users/create").has_status(200);
        let latest = site.upstream.count("GET /users") + 1;
        assert_eq!(newer.get("/users").number(), latest);
        newer.get("/rooms").shows("hit");
    }
    // When the last proxy with the old rules is gone, nothing of the time before is left.
    stop(&mut site.larder);
    let latest = site.upstream.count("GET /users") + 1;
    eventually("the family is cached again", || newer.get("/users").is("hit"));
    assert!(newer.get("/users").number() >= latest);
    newer.get("/rooms").shows("hit").carries("/rooms #1");
    newer.write("POST", "/users/create").has_status(200);
    newer.get("/users").shows("detail=invalidated");
}

#[test]
fn a_proxy_that_starts_as_the_last_one_with_other_rules_leaves_finds_nothing_stale() {
    let mut site = old();
    let mut newer = with_new_rules(&site).start();
    site.write("POST", "/users/create").has_status(200);
    stop(&mut newer);
    stop(&mut site.larder);
    let next = with_new_rules(&site).start();
    next.get("/users").hides("hit").carries("/users #2");
    let back = site.another();
    back.get("/users").shows("detail=mixed-rules");
    back.get("/rooms").shows("hit");
}

#[test]
fn rules_that_change_while_no_proxy_runs_invalidate_what_they_change() {
    let mut site = old();
    site.write("POST", "/users/create").has_status(200);
    site.get("/users").shows("hit");
    stop(&mut site.larder);
    let mut newer = with_new_rules(&site).start();
    newer.get("/users").hides("hit").carries("/users #2");
    newer.get("/rooms").shows("hit").carries("/rooms #1");
    site.wait_for_entries(2);
    newer.get("/users").shows("hit");
    // Back to the old rules, and once more to the new ones: what is stored may have missed a write under the old ones.
    stop(&mut newer);
    let mut older = site.another();
    older.get("/users").hides("hit");
    older.write("POST", "/users/create").has_status(200);
    older.get("/users").shows("hit").carries("/users #3");
    stop(&mut older);
    with_new_rules(&site).start().get("/users").hides("hit").carries("/users #4");
}

#[test]
fn the_same_rules_after_a_restart_keep_what_is_stored() {
    let mut site = old();
    stop(&mut site.larder);
    let mut next = site.another();
    next.get("/users").shows("hit").carries("/users #1");
    // Nor does a proxy that dies cost anything if its successor has the same rules.
    next.kill();
    site.another().get("/users").shows("hit").carries("/users #1");
}

#[test]
fn an_edit_that_reaches_one_proxy_after_the_other_leaves_nothing_stale() {
    let site = old();
    let other = site.another();
    other.get("/users").shows("hit");
    fs::write(site.rules_file(), new()).unwrap();
    site.admin_post("/rules/reload").has_status(200);
    // The reload has returned, so that the other one knows.
    other.get("/users").shows("detail=mixed-rules");
    other.write("POST", "/users/create").has_status(200);
    let latest = site.upstream.count("GET /users") + 1;
    assert_eq!(site.get("/users").shows("detail=mixed-rules").number(), latest);
    for proxy in [&site.larder, &other] {
        proxy.get("/rooms").shows("hit").carries("/rooms #1");
    }
    fs::write(other.rules_file(), new()).unwrap();
    other.admin_post("/rules/reload").has_status(200);
    for proxy in [&site.larder, &other] {
        eventually("the family is cached again", || proxy.get("/users").is("hit"));
        assert!(proxy.get("/users").number() > latest);
        assert_eq!(mixed(proxy), serde_json::json!([]));
    }
    other.write("POST", "/users/create").has_status(200);
    site.get("/users").shows("detail=invalidated");
}

#[test]
fn a_proxy_that_dies_with_other_rules_is_forgotten_after_its_record() {
    let mut site = old();
    let newer = with_new_rules(&site).start();
    site.larder.kill();
    newer.get("/users").shows("detail=mixed-rules");
    let of_site = eventually_member(&newer, "other");
    let redis = site.redis();
    let key = |end: &str| redis.command(&["KEYS", &format!("*{end}")]).lines().next().unwrap().to_owned();
    // It has not synced for longer than ten seconds and a lease.
    redis.command(&["HSET", &key(":members"), &of_site, "1:1000:0:0:0:0"]);
    redis.command(&["HSET", &key(":meta"), "tidied", "1"]);
    eventually("the family is cached again", || newer.get("/users").is("hit"));
    newer.get("/rooms").shows("hit").carries("/rooms #1");
}

/// The id of the member of which this proxy says this of the rules.
#[track_caller]
fn eventually_member(proxy: &Larder, rules: &str) -> String {
    let fleet = proxy.admin_get("/cache/fleet").json();
    let members = fleet["members"].as_array().unwrap();
    let found = members.iter().find(|member| member["rules"] == rules);
    found.unwrap_or_else(|| panic!("{fleet:#}"))["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_proxy_that_hung_while_another_one_came_with_other_rules_serves_nothing_stale() {
    let site = old();
    site.get("/users").shows("hit");
    signal(site.id(), "STOP");
    // It waits for the lease of the one that hangs, once.
    let newer = with_new_rules(&site).start();
    newer.write("POST", "/users/create").has_status(200);
    newer.get("/users").carries("/users #2");
    signal(site.id(), "CONT");
    assert!(site.get("/users").number() >= 2);
    eventually("it knows", || site.get("/users").is("detail=mixed-rules"));
}

#[test]
fn strict_proxies_forward_families_with_mixed_rules_too() {
    let strict = |rules: &str| format!("[store]\ncoherence = \"strict\"\n{rules}");
    let mut site = Site::start(Tier::Redis, &strict(OLD));
    site.get("/users").shows("stored");
    site.wait_for_entries(1);
    site.get("/users").shows("hit");
    let newer = site.plan.clone().rules(&strict(&new())).start();
    for proxy in [&newer, &site.larder] {
        proxy.get("/users").shows("detail=mixed-rules");
    }
    site.write("POST", "/users/create").has_status(200);
    stop(&mut site.larder);
    let latest = site.upstream.count("GET /users") + 1;
    eventually("the family is cached again", || newer.get("/users").is("hit"));
    assert!(newer.get("/users").number() >= latest);
}

#[test]
fn paths_that_only_one_proxys_rules_claim_are_cached_by_none() {
    let site = old();
    site.upstream.answer("GET /offers", |request| {
        Reply::new(format!("offers {}", request.nth)).header("Cache-Control", "max-age=600")
    });
    site.get("/offers").shows("stored");
    site.get("/offers").shows("hit").carries("offers 1");
    let rules = OLD
        .replace("[invalidate]", "[[family]]\nname = \"offers\"\npath = '/offers'\nttl = \"60s\"\n\n[invalidate]");
    let mut newer = site.plan.clone().rules(&format!("{rules}'/refresh' = [\"offers\"]\n")).start();
    newer.get("/offers").shows("detail=mixed-rules");
    newer.get("/users").shows("hit");
    assert_eq!(mixed(&newer), serde_json::json!(["-", "offers"]));
    assert_eq!(mixed(&site), serde_json::json!(["-"]), "it has no such family");
    // The write is acknowledged: no proxy may answer with an older response.
    newer.write("POST", "/refresh").has_status(200);
    site.get("/offers").shows("detail=mixed-rules").hides("hit");
    site.get("/users").shows("hit");
    // Not even when the proxy whose rules said so is gone.
    stop(&mut newer);
    eventually("the paths are cached again", || site.get("/offers").is("stored"));
    assert_ne!(site.get("/offers").text(), "offers 1");
}

#[test]
fn a_change_that_affects_no_invalidation_keeps_every_family_cached() {
    let site = old();
    let newer = site.plan.clone().rules(&OLD.replace("600s", "500s")).start();
    newer.get("/users").shows("stored");
    newer.get("/users").shows("hit");
    site.get("/users").shows("hit").carries("/users #1");
    newer.write("POST", "/users/add").has_status(200);
    for proxy in [&newer, &site.larder] {
        proxy.get("/users").hides("hit");
    }
}

#[test]
fn a_registry_that_is_lost_costs_misses_until_the_proxies_have_synced() {
    let site = old();
    let other = site.another();
    let redis = site.redis.as_ref().unwrap();
    let registry = redis.command(&["KEYS", "*:registry"]);
    for value in ["", "text"] {
        redis.command(&["DEL", registry.trim()]);
        if !value.is_empty() {
            redis.command(&["SET", registry.trim(), value]);
        }
        for proxy in [&site.larder, &other] {
            eventually("both are settled again", || {
                proxy.get("/users").is("hit") && mixed(proxy) == serde_json::json!([])
            });
        }
    }
}

#[test]
fn operators_see_which_families_and_proxies_have_mixed_rules() {
    let alerts = |rules: &str| format!("[alerts]\ninterval = \"1s\"\n{rules}");
    let mut site = Site::start(Tier::Redis, &alerts(OLD));
    let newer = site.plan.clone().rules(&alerts(&new())).start();
    let fleet = newer.admin_get("/cache/fleet").json();
    let rules: Vec<&str> =
        fleet["members"].as_array().unwrap().iter().map(|member| member["rules"].as_str().unwrap()).collect();
    assert!(rules.contains(&"same") && rules.contains(&"other"), "{fleet:#}");
    eventually("it is counted", || newer.metric("larder_mixed_rules_families") == 1);
    assert!(newer.log().contains("follow different rules"), "{}", newer.log());
    let raised = || newer.admin_get("/cache/alerts").text().contains("mixed_rules");
    eventually("the alert is raised", raised);
    let explained = newer.admin_get("/cache/explain?url=/users").text();
    assert!(explained.contains("different rules"), "{explained}");
    stop(&mut site.larder);
    eventually("it is over", || newer.metric("larder_mixed_rules_families") == 0);
    eventually("it is logged", || newer.log().contains("follow the same rules again"));
}
