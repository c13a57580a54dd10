//! The log of invalidations, and live events: every invalidation of the fleet with its cause, its rule and what it named.

use serde_json::{Value, json};

use crate::support::client::Pending;
use crate::support::{Larder, Site, Tier, eventually, eventually_some};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "60s"

[[family]]
name = "rooms"
path = '/rooms'
ttl = "60s"

[invalidate]
'/users/create'              = ["users"]
'/users/(?<id>\d+)/activate' = { families = ["user:{id}"], mode = "soft", grace = "10s" }
'/rooms/book'                = { families = ["rooms"], again = "200ms" }
"#;

on_both_tiers! {
    a_write_is_logged_with_its_request_and_its_rule,
    callers_are_named_by_keyed_hashes_wherever_tags_are_shown,
    purges_repetitions_and_reloads_are_logged_with_their_causes,
    the_log_is_paged_and_filtered,
    parameters_of_the_log_that_cannot_be_read_are_refused,
    events_come_live_and_subscribers_are_bounded,
    an_open_event_stream_does_not_delay_shutdown,
}

/// A page of the log.
#[track_caller]
fn page(larder: &Larder, query: &str) -> Value {
    larder.admin_get(&format!("/cache/log{query}")).has_status(200).json()
}

#[track_caller]
fn log(larder: &Larder, query: &str) -> Vec<Value> {
    page(larder, query)["invalidations"].as_array().unwrap().clone()
}

/// SHA-256 of the credential of [`callers_are_named_by_keyed_hashes_wherever_tags_are_shown`] would stand after this without `hmac-`.
fn names_a_plain_digest(text: &str) -> bool {
    ["sha256:", "sha256%3A", "sha256%253A"].iter().any(|kind| {
        text.match_indices(kind).any(|(at, _)| {
            let is_hex =
                |text: &str| text.len() >= 64 && text.bytes().take(64).all(|byte| byte.is_ascii_hexdigit());
            !text[..at].ends_with("hmac-") && is_hex(&text[at + kind.len()..])
        })
    })
}

fn callers_are_named_by_keyed_hashes_wherever_tags_are_shown(tier: Tier) {
    let families = r#"
[[family]]
name = "me"
path = '/me'
ttl = "60s"
identity = "cookie:sid"

[[family]]
name = "mine"
path = '/mine'
ttl = "60s"
identity = "cookie:sid"
instance = { caller = "identity" }
"#;
    let site =
        Site::start(tier, &format!("{families}{RULES}'/logout' = [\"me:{{identity}}\", \"mine:{{identity}}\"]\n"));
    for target in ["/me", "/mine"] {
        site.call("GET", target).header("Cookie", "sid=1234").send().shows("stored");
    }
    site.call("POST", "/logout").header("Cookie", "sid=1234").body("{}").send().has_status(200);
    site.call("GET", "/mine").header("Cookie", "sid=1234").send().shows("detail=invalidated");
    let shown = |target: &str| site.admin_get(target).has_status(200).text();
    let story = shown("/cache/story?url=/mine&header=Host:%20localhost&header=Cookie:%20sid=1234");
    let parsed: Value = serde_json::from_str(&story).unwrap();
    let mut events = parsed["events"].as_array().unwrap().iter();
    assert!(events.any(|event| event["matching"].as_array().is_some_and(|tags| !tags.is_empty())), "{story}");
    let mut all = vec![shown("/cache/log"), shown("/cache/top"), story, shown("/cache/entries")];
    for entry in site.admin_get("/cache/entries").json()["entries"].as_array().unwrap() {
        let key = entry["key"].as_str().unwrap().replace(':', "%3A");
        all.push(shown(&format!("/cache/entries/{key}")));
    }
    assert!(
        all[0].contains("caller me hmac-sha256:") && all[0].contains("caller mine hmac-sha256:"),
        "{}",
        all[0]
    );
    assert!(all[0].contains(r#""families":["me","mine"]"#), "{}", all[0]);
    all.push(site.log());
    for text in all {
        assert!(!names_a_plain_digest(&text), "{text}");
    }
}

fn a_write_is_logged_with_its_request_and_its_rule(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.call("POST", "/users/create?token=s3cret")
        .header("X-Request-Id", "r-17")
        .body("{}")
        .send()
        .has_status(200);
    let found = log(&site, "");
    assert_eq!(found.len(), 1, "{found:#?}");
    let record = &found[0];
    let cause = json!({
        "kind": "write", "method": "POST", "path": "/users/create", "status": 200, "request_id": "r-17",
        "token": null, "peer": null, "deploy": null,
    });
    assert_eq!(record["cause"], cause);
    assert_eq!(record["rule"]["pattern"], "/users/create");
    let line = record["rule"]["line"].as_u64().unwrap() as usize;
    let rules = std::fs::read_to_string(site.rules_file()).unwrap();
    assert!(rules.lines().nth(line - 1).unwrap().contains("'/users/create'"), "{line} in {rules}");
    assert_eq!((&record["families"], &record["mode"]), (&json!(["users"]), &json!("hard")));
    assert!(record["tags"].as_array().unwrap().contains(&json!("users")), "{record:#}");
    assert!(!record.to_string().contains("s3cret"));
    assert_eq!(record["proxy"] == "embedded", tier == Tier::Embedded);
    let waited = || log(&site, "")[0]["wait_ms"].as_f64().is_some_and(|wait| (0.0..60_000.0).contains(&wait));
    eventually("how long it waited is known", waited);
    // A write that no rule matches invalidates its own path.
    site.write("PUT", "/elsewhere").has_status(200);
    let record = &log(&site, "")[0];
    assert_eq!((&record["rule"], &record["cause"]["path"]), (&Value::Null, &json!("/elsewhere")));
    site.write("POST", "/users/7/activate").has_status(200);
    let record = &log(&site, "")[0];
    assert_eq!((&record["mode"], &record["families"]), (&json!("soft"), &json!(["user"])));
    assert_eq!(record["rule"]["pattern"], r"/users/(?<id>\d+)/activate");
}

fn purges_repetitions_and_reloads_are_logged_with_their_causes(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.admin_post("/cache/clear/user/7").has_status(200);
    let purge = &log(&site, "?cause=purge")[0];
    assert_eq!(purge["cause"]["kind"], "purge");
    assert!(
        purge["cause"]["token"].is_string() && purge["cause"]["peer"].as_str().unwrap().starts_with("127.0.0.1:")
    );
    assert!(purge["tags"].as_array().unwrap().contains(&json!("user:7")), "{purge:#}");
    site.write("POST", "/rooms/book").has_status(200);
    let again = eventually_some("the repetition is logged", || log(&site, "?cause=again").first().cloned());
    assert_eq!(again["families"], json!(["rooms"]));
    let rules = std::fs::read_to_string(site.rules_file()).unwrap();
    std::fs::write(site.rules_file(), rules.replace("name = \"rooms\"", "name = \"rooms\"\nheuristic = false"))
        .unwrap();
    let changed = eventually_some("the new rules are logged", || log(&site, "?cause=rules").first().cloned());
    assert_eq!(changed["families"], json!(["rooms"]));
}

fn the_log_is_paged_and_filtered(tier: Tier) {
    let site = Site::start(tier, RULES);
    for number in 0..7 {
        let target = if number % 2 == 0 { "/users/create" } else { "/users/3/activate" };
        site.write("POST", target).has_status(200);
    }
    let (mut before, mut seen) = (String::new(), Vec::new());
    loop {
        let page = page(&site, &format!("?limit=3{before}"));
        let records = page["invalidations"].as_array().unwrap().clone();
        assert!(records.len() <= 3);
        seen.extend(records);
        let Some(older) = page["older"].as_str() else { break };
        before = format!("&before={older}");
    }
    assert_eq!(seen.len(), 7);
    let times: Vec<&str> = seen.iter().map(|record| record["time"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|one, other| one >= other), "{times:?}");
    assert_eq!(log(&site, "?family=user").len(), 3);
    assert_eq!(log(&site, "?family=users&limit=2").len(), 2);
    assert!(log(&site, "?family=nothing").is_empty() && log(&site, "?cause=purge").is_empty());
    assert_eq!(page(&site, "")["complete"], true);
}

fn parameters_of_the_log_that_cannot_be_read_are_refused(tier: Tier) {
    let site = Site::start(tier, RULES);
    for query in ["limit=0", "limit=501", "limit=x", "cause=whim", "before=yesterday", "since=1"] {
        let refused = site.admin_get(&format!("/cache/log?{query}")).has_status(400).json();
        assert!(refused["what_to_do"].is_string(), "{query}: {refused}");
    }
}

/// Reads on until the body has this text.
#[track_caller]
fn until(events: &mut Pending, text: &str) -> String {
    loop {
        let body = String::from_utf8_lossy(events.read_body(1).unwrap()).into_owned();
        if body.contains(text) {
            return body;
        }
    }
}

#[track_caller]
fn subscribe(larder: &Larder) -> Pending {
    let mut events = larder.admin_call("GET", "/cache/events").start();
    let head = events.head().has_status(200);
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    events
}

fn events_come_live_and_subscribers_are_bounded(tier: Tier) {
    let site = Site::start(tier, RULES);
    let mut events = subscribe(&site);
    site.write("POST", "/users/create").has_status(200);
    let body = until(&mut events, "\"pattern\":\"/users/create\"");
    assert!(body.contains("event: invalidation\ndata: {"), "{body}");
    for number in 0..50 {
        site.get(&format!("/users?secret={number}")).has_status(200);
    }
    let body = until(&mut events, "event: outcome\ndata: {");
    assert!(!body.contains("secret="), "{body}");
    let mut others: Vec<Pending> = (0..15).map(|_| subscribe(&site)).collect();
    let refused = site.admin_get("/cache/events").has_status(503).json();
    assert!(refused["what_to_do"].is_string());
    others.pop().unwrap().abandon();
    // That the client has left is noticed when something is sent.
    eventually("there is room again", || {
        site.write("POST", "/users/create");
        let again = site.admin_call("GET", "/cache/events").start().head();
        again.status == 200
    });
    assert_eq!(site.admin_get("/healthz").text(), "ok\n");
}

fn an_open_event_stream_does_not_delay_shutdown(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    let events = subscribe(&site);
    site.terminate();
    events.finish().unwrap();
    assert_eq!(site.larder.wait(), Some(0));
}

#[test]
fn the_log_is_that_of_the_whole_fleet_and_outlives_its_proxies() {
    let mut site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.write("POST", "/users/create").has_status(200);
    other.write("POST", "/users/7/activate").has_status(200);
    for larder in [&site.larder, &other] {
        eventually("both are logged with their waits", || {
            let found = log(larder, "");
            found.len() == 2 && found.iter().all(|record| record["wait_ms"].is_number())
        });
        let found = log(larder, "");
        assert_eq!(found[0]["cause"]["path"], "/users/7/activate");
        assert_ne!(found[0]["proxy"], found[1]["proxy"]);
    }
    site.larder.kill();
    drop(other);
    let next = site.another();
    assert_eq!(log(&next, "").len(), 2);
}

#[test]
fn events_tell_of_other_proxies_with_how_long_they_waited() {
    let site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    let mut events = subscribe(&site);
    // What was added before the first look at the log is not told. This proxy's own write is told at once.
    site.write("POST", "/users/create").has_status(200);
    until(&mut events, "event: invalidation\ndata: {");
    other.write("POST", "/users/7/activate").has_status(200);
    let event = until(&mut events, "event: wait\ndata: {");
    let proxy = log(&site, "?family=user")[0]["proxy"].clone();
    assert!(event.contains(proxy.as_str().unwrap()) && event.contains("activate"), "{event}");
}

#[test]
fn a_write_while_redis_is_away_is_logged_and_reaches_the_log_of_the_fleet_later() {
    let mut site = Site::start(Tier::Redis, RULES);
    let other = site.another();
    site.redis().kill();
    eventually("Redis is away", || site.metric("larder_store_up") == 0);
    let write = site.call("POST", "/users/create").body("{}").start();
    eventually("this proxy has it in memory", || {
        let page = page(&site, "");
        page["complete"] == false && page["invalidations"][0]["cause"]["path"] == "/users/create"
    });
    site.redis().restart();
    write.response().has_status(200);
    eventually("the other one reads it in Redis", || {
        let page = page(&other, "?cause=write");
        page["complete"] == true && page["invalidations"][0]["cause"]["path"] == "/users/create"
    });
}

#[test]
fn whatever_stands_in_the_log_an_invalidation_counts() {
    let mut site = Site::start(Tier::Redis, &format!("[store]\nnamespace = \"inn\"\n{RULES}"));
    site.redis().command(&["SET", "{inn}:log", "no stream"]);
    site.get("/users").shows("stored");
    site.get("/users").shows("hit");
    site.write("POST", "/users/create").has_status(200);
    site.get("/users").shows("detail=invalidated");
    assert_eq!(page(&site, "")["complete"], false, "what this proxy has in memory is shown");
    site.redis().command(&["DEL", "{inn}:log"]);
    site.redis().command(&["XADD", "{inn}:log", "*", "record", "no JSON", "sequence", "1"]);
    site.redis().command(&["XADD", "{inn}:log", "*", "else", "x"]);
    site.write("POST", "/users/create").has_status(200);
    let found = page(&site, "");
    assert_eq!((&found["complete"], found["invalidations"].as_array().unwrap().len()), (&json!(true), 1));
}

#[test]
fn the_log_works_on_a_cluster_and_is_bounded() {
    use crate::support::{Plan, RedisCluster, Reply, Upstream};
    let (upstream, cluster) = (Upstream::start(), RedisCluster::start());
    upstream.on("/users", Reply::new("x"));
    let larder = Plan::new(&upstream.url()).rules(RULES).redis(&cluster.url()).start();
    eventually("it is connected", || larder.metric("larder_store_up") == 1);
    larder.write("POST", "/users/create").has_status(200);
    let logged = || log(&larder, "").len() == 1 && page(&larder, "")["complete"] == true;
    eventually("it is in the stream", logged);
}

#[test]
fn an_abandoned_write_is_logged_as_recovered() {
    let rules = "[server]\nupstream_timeout = \"4s\"\nconnect_timeout = \"1s\"\n".to_owned() + RULES;
    let mut site = Site::start(Tier::Redis, &rules);
    let other = site.another();
    let gate = site.upstream.hold_next("POST /users/create");
    let write = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    site.larder.kill();
    let recovered =
        eventually_some("another proxy carries it out", || log(&other, "?cause=recovered").first().cloned());
    assert_eq!(recovered["families"], json!(["users"]));
    drop(write);
}
