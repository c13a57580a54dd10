//! Rates of the last hour in `/cache/stats`, and alerts: raised, logged, counted, sent, cleared.

use serde_json::{Value, json};

use crate::support::upstream::{Reply, Upstream};
use crate::support::{Larder, Plan, Site, Tier, eventually, eventually_some};

const RULES: &str = r#"
[alerts]
min_requests = 10
interval = "100ms"

[[family]]
name = "users"
path = '/users'
ttl  = "1h"

[[family]]
name = "quiet"
path = '/quiet/.*'
ttl  = "60s"
alerts = "off"

[invalidate]
'/users/create' = ["users"]
"#;

on_both_tiers!(
    rates_are_those_of_the_last_minutes_by_family,
    a_low_hit_rate_raises_an_alert_that_clears_when_it_is_better,
    upstream_errors_raise_an_alert,
    answers_that_waited_for_upstream_are_no_hit_latency,
    a_family_that_is_always_validated_has_no_hit_rate,
    invalidations_are_counted_by_the_families_that_they_reach,
    an_edit_of_the_thresholds_takes_effect,
);

fn stats(larder: &Larder) -> Value {
    larder.admin_get("/cache/stats").has_status(200).json()
}

fn raised(larder: &Larder) -> Vec<(String, Option<String>)> {
    let report = larder.admin_get("/cache/alerts").has_status(200).json();
    let alerts = report["alerts"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    alerts.map(|alert| (text(&alert["alert"]).unwrap(), text(&alert["family"]))).collect()
}

fn rates_are_those_of_the_last_minutes_by_family(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    for _ in 0..3 {
        site.get("/users").shows("hit");
    }
    site.write("POST", "/users/create").has_status(200);
    site.get("/elsewhere").has_status(200);
    let stats = stats(&site);
    let (users, all) = (&stats["families"]["users"]["1m"], &stats["rates"]["5m"]);
    assert_eq!((&users["hits"], &users["misses"], &users["hit_rate"]), (&json!(3), &json!(1), &json!(75.0)));
    assert_eq!((&users["miss_rate"], &users["invalidations"]), (&json!(25.0), &json!(1)));
    assert!(
        users["hit_latency_ms"].as_f64().unwrap() > 0.0 && users["requests_per_second"].as_f64().unwrap() > 0.0
    );
    assert_eq!((&all["requests"], &all["writes"], &all["error_rate"]), (&json!(6), &json!(1), &json!(0.0)));
    assert_eq!(stats["rates"]["1h"]["requests"], 6);
    assert_eq!(stats["families"]["quiet"]["1h"]["hit_rate"], Value::Null, "there were no requests");
    assert_eq!((&stats["keyspace_hits"], &stats["hit_rate"]), (&json!(3), &json!(75.0)));
    assert_eq!(stats["cache_info"]["keyspace_misses"], 1);
    assert_eq!(stats["cache_info"]["total_commands_processed"].is_u64(), tier == Tier::Redis);
    assert_eq!(
        stats["memory_usage"]["max_memory_bytes"].is_u64(),
        tier == Tier::Embedded,
        "Redis has no maxmemory"
    );
    assert!(stats["counted_seconds_ago"].is_u64(), "how old the counts of keys are is said");
}

fn a_low_hit_rate_raises_an_alert_that_clears_when_it_is_better(tier: Tier) {
    let site = Site::start(tier, RULES);
    for number in 0..20 {
        site.get(&format!("/users?page={number}")).shows("fwd=uri-miss");
        site.get(&format!("/quiet/{number}")).shows("fwd=uri-miss");
    }
    let low = [("hit_rate", None), ("hit_rate", Some("users"))];
    let low = low.map(|(alert, family): (&str, Option<&str>)| (alert.to_owned(), family.map(str::to_owned)));
    eventually("both alerts are raised, and none of a family without alerts", || raised(&site) == low);
    assert_eq!(site.metric("larder_alerts{alert=\"hit_rate\",family=\"users\"}"), 1);
    eventually("it is logged", || site.log().contains("alert raised") && site.log().contains("value=\"0.0%\""));
    for _ in 0..200 {
        site.get("/users?page=0").shows("hit");
    }
    eventually("they clear", || raised(&site).is_empty());
    assert_eq!(site.metric("larder_alerts{alert=\"hit_rate\",family=\"users\"}"), 0);
    let report = site.admin_get("/cache/alerts").json();
    assert_eq!(report["cleared"].as_array().unwrap().len(), 2);
    for alert in report["cleared"].as_array().unwrap() {
        assert!(alert["cleared"].is_string() && alert["cleared_because"] == "recovered", "{alert:#}");
    }
    eventually("the log says why", || site.log().contains("because=\"recovered\""));
    assert_eq!(report["thresholds"]["hit_rate"], 70.0);
}

fn upstream_errors_raise_an_alert(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("GET /broken", Reply::status(503));
    for _ in 0..20 {
        site.get("/broken").has_status(503);
    }
    eventually("errors raise an alert", || raised(&site) == [("error_rate".to_owned(), None)]);
}

/// Answers that a family with `authorize` gives from the cache after it has asked the API, and stale ones after upstream has failed.
#[allow(clippy::disallowed_methods, reason = "upstream answers in a thread of its own")]
fn answers_that_waited_for_upstream_are_no_hit_latency(tier: Tier) {
    let rules = "[[family]]\nname = \"guarded\"\npath = '/guarded'\nttl = \"60s\"\nidentity = \"none\"\n\
                 authorize = { path = \"/check\", ttl = \"60s\" }\n\
                 [[family]]\nname = \"flaky\"\npath = '/flaky'\nttl = \"1s\"\nstale_if_error = \"1h\"\n";
    let site = Site::start(tier, rules);
    // Far longer than a hit takes on a busy machine.
    let slow = std::time::Duration::from_secs(2);
    let by = |caller: &str| site.call("GET", "/guarded").header("Authorization", caller).send();
    by("Bearer ann").shows("stored");
    let slowly = |spot: &str, reply: Reply| {
        site.upstream.answer(spot, move |_| {
            std::thread::sleep(slow);
            reply.clone()
        });
    };
    slowly("GET /check", Reply::new(""));
    by("Bearer bob").shows("hit");
    site.get("/flaky").shows("stored");
    slowly("GET /flaky", Reply::status(503));
    eventually("it is stale", || site.get("/flaky").has_status(200).is("fwd=stale"));
    for (family, outcome) in [("guarded", "hit"), ("flaky", "stale")] {
        let minute = &stats(&site)["families"][family]["1m"];
        assert!(minute["hits"].as_u64().unwrap() >= 1, "{outcome}: {minute:#}");
        let latency = minute["hit_latency_ms"].as_f64();
        assert!(latency.is_none_or(|latency| latency < 1000.0), "{family}: {minute:#}");
        assert!(minute["miss_latency_ms"].as_f64().unwrap() > 500.0, "{family}: {minute:#}");
    }
    by("Bearer bob").shows("hit");
    assert!(stats(&site)["families"]["guarded"]["1m"]["hit_latency_ms"].as_f64().unwrap() < 1000.0);
}

fn a_family_that_is_always_validated_has_no_hit_rate(tier: Tier) {
    let always = RULES.replacen("ttl  = \"1h\"", "ttl  = \"1h\"\nrevalidate = \"always\"", 1);
    let site = Site::start(tier, &format!("{always}[[family]]\nname = \"low\"\npath = '/low'\nttl = \"60s\"\n"));
    for number in 0..20 {
        site.get("/users").has_status(200);
        site.get(&format!("/low?page={number}")).shows("stored");
    }
    let low = ("hit_rate".to_owned(), Some("low".to_owned()));
    eventually("the alert of the other family is raised", || raised(&site).contains(&low));
    let families: Vec<_> = raised(&site).into_iter().filter_map(|(_, family)| family).collect();
    assert_eq!(families, ["low"]);
}

fn invalidations_are_counted_by_the_families_that_they_reach(tier: Tier) {
    let rules = "[[family]]\nname = \"user\"\npath = '/users/(?<user_id>\\d+)'\nttl = \"60s\"\n\
                 [[family]]\nname = \"order\"\npath = '/orders/(?<user_id>\\d+)'\nttl = \"60s\"\n\
                 [[family]]\nname = \"room\"\npath = '/rooms'\nttl = \"60s\"\n\
                 [invalidate]\n'/one/(?<user_id>\\d+)' = [\"user:{user_id}\"]\n\
                 '/all/(?<user_id>\\d+)' = [\"*:{user_id}\"]\n'/glob' = [\"o*\"]\n";
    let site = Site::start(tier, rules);
    let counts =
        || ["user", "order", "room"].map(|name| stats(&site)["families"][name]["1m"]["invalidations"].as_u64());
    let rows = [("/one/7", [1, 0, 0]), ("/all/7", [2, 1, 0]), ("/glob", [2, 2, 0]), ("/elsewhere", [2, 2, 0])];
    for (target, expected) in rows {
        site.write("POST", target).has_status(200);
        assert_eq!(counts(), expected.map(Some), "{target}");
    }
}

fn an_edit_of_the_thresholds_takes_effect(tier: Tier) {
    let rules = RULES.replace("interval = \"100ms\"", "interval = \"1h\"\nhit_rate = \"off\"");
    let site = Site::start(tier, &rules);
    for number in 0..20 {
        site.get(&format!("/users?page={number}")).shows("stored");
    }
    assert_eq!(site.admin_get("/cache/alerts").json()["thresholds"]["hit_rate"], Value::Null);
    let hook = Upstream::start();
    let edited = format!("interval = \"100ms\"\nhit_rate = \"60%\"\nwebhook = \"{}/hook\"", hook.url());
    let before = std::fs::read_to_string(site.rules_file()).unwrap();
    let after = before.replace("interval = \"1h\"\nhit_rate = \"off\"", &edited);
    std::fs::write(site.rules_file(), after).unwrap();
    let reloaded = site.admin_post("/rules/reload").has_status(200).json();
    assert_eq!(reloaded["needs_restart"].to_string(), "[]");
    eventually("it is raised by the new threshold", || raised(&site).len() == 2);
    eventually("it is sent to the new webhook", || hook.count("POST /hook") == 2);
    assert_eq!(site.admin_get("/cache/alerts").json()["thresholds"]["hit_rate"], 60.0);
    std::fs::write(site.rules_file(), before).unwrap();
    site.admin_post("/rules/reload").has_status(200);
    eventually("what is not watched any more is cleared", || raised(&site).is_empty());
    let cleared = &site.admin_get("/cache/alerts").json()["cleared"][0];
    assert_eq!(cleared["cleared_because"], "not watched any more");
}

#[test]
fn the_log_says_why_a_webhook_does_not_take_an_alert_and_hides_its_path() {
    let hook = Upstream::start();
    hook.on("POST /hook?key=s3cret", Reply::status(503));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rows = [
        (format!("http://{closed}/hook?key=s3cret"), "Connection refused"),
        (format!("{}/hook?key=s3cret", hook.url()), "it answered 503 Service Unavailable"),
        (format!("{}/gone?key=s3cret", hook.url()), "the webhook refused an alert"),
    ];
    hook.on("POST /gone?key=s3cret", Reply::status(404));
    for (webhook, cause) in rows {
        let upstream = Upstream::start();
        let rules = RULES.replace("[alerts]", &format!("[alerts]\nwebhook = \"{webhook}\""));
        let larder = Plan::new(&upstream.url()).rules(&rules).start();
        for number in 0..20 {
            larder.get(&format!("/users?page={number}"));
        }
        eventually("the log says why", || larder.log().contains(cause));
        eventually("and which setting", || larder.log().contains("[alerts] webhook"));
        assert!(!larder.log().contains("s3cret"), "{}", larder.log());
    }
}

#[test]
fn redis_that_does_not_answer_raises_an_alert() {
    let rules = RULES.replace("[alerts]", "[alerts]\nstore_away = \"1s\"");
    let mut site = Site::start(Tier::Redis, &rules);
    site.redis().kill();
    eventually("it is raised", || raised(&site).contains(&("store_away".to_owned(), None)));
    site.redis().restart();
    eventually("it clears", || raised(&site).is_empty());
}

#[test]
fn a_full_redis_raises_an_alert() {
    let mut site = Site::start(Tier::Redis, RULES);
    let info = site.redis().command(&["INFO", "memory"]);
    let used: u64 = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok()).unwrap();
    // Beyond the limit it would take no writes, which is another alert.
    site.redis().command(&["CONFIG", "SET", "maxmemory", &(used * 105 / 100).to_string()]);
    eventually("it is raised", || raised(&site).contains(&("memory".to_owned(), None)));
    site.redis().command(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("it clears", || raised(&site).is_empty());
}

#[test]
fn an_alert_is_sent_to_the_webhook_and_sent_again_when_that_fails() {
    let hook = Upstream::start();
    hook.script("POST /hook?room=7", [Reply::status(503), Reply::status(200)]);
    let upstream = Upstream::start();
    let webhook = format!("[alerts]\nwebhook = \"{}/hook?room=7\"\nwebhook_token = \"${{HOOK}}\"", hook.url());
    let plan = Plan::new(&upstream.url()).rules(&RULES.replace("[alerts]", &webhook));
    let larder = plan.environment("HOOK", "s3cret").start();
    for number in 0..20 {
        larder.get(&format!("/users?page={number}"));
    }
    let sent = eventually_some("both are sent", || {
        let sent = hook.requests("POST /hook?room=7");
        // One of them was tried twice.
        (sent.len() >= 3).then_some(sent)
    });
    assert_eq!(sent[0].body, sent[1].body, "the first is sent again");
    assert_eq!(sent[0].header("authorization"), Some("Bearer s3cret"));
    let first: Value = serde_json::from_slice(&sent[0].body).unwrap();
    assert_eq!(
        (&first["alert"], &first["state"], &first["value"]),
        (&json!("hit_rate"), &json!("raised"), &json!("0.0%"))
    );
    assert!(first["what_to_do"].is_string() && first["raised"].is_string());
    assert!(!larder.log().contains("s3cret"));
}

#[test]
fn faulty_thresholds_are_refused_with_what_to_write() {
    let rows = [
        ("hit_rate = \"0.7\"", "write \"70%\""),
        ("hit_rate = 70", "write \"70%\""),
        ("hit_latency = \"10\"", "with its unit"),
        ("window = \"5s\"", "out of range"),
        ("memory = \"90%\"", "has no effect without [store]"),
        ("webhook_token = \"x\"", "has no effect without webhook"),
        ("webhook = \"alerts.example\"", "is not an http or https URL"),
        ("webhook = \"https://u:p@alerts.example/\"", "write webhook_token beside it"),
        ("hitrate = \"70%\"", "hit_rate"),
    ];
    for (field, expected) in rows {
        let exit = crate::support::larder::larder(Some(&format!("[alerts]\n{field}\n")), &["check", "rules.toml"]);
        assert!(exit.stdout.contains(expected) && exit.code == Some(1), "{field}: {}", exit.stdout);
    }
}
