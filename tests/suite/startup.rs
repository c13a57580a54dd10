//! Starting, failing to start, and ending; and the commands that only look at the rules.

use std::net::TcpListener;

use crate::support::larder::Exit;
use crate::support::{Failure, Plan, RedisServer, Reply, Site, Tier, Upstream, eventually, larder};

const RULES: &str = r#"
[server]
upstream = "http://127.0.0.1:9"
drain_timeout = "30s"

[[family]]
name = "users"
path = '/users'
ttl = "60s"

[[family]]
name = "user_details"
path = '/users/(?<id>\d+)'
ttl = "3m"

[invalidate]
'/users/create'               = ["users"]
'/users/(?<id>\d+)/activate'  = ["users", "user_details:{id}"]
"#;

on_both_tiers! {
    termination_finishes_active_requests,
    termination_does_not_wait_for_ever,
}

/// Requires this exit code, these words on stderr, and no sign of a crash.
#[track_caller]
fn assert_fails(exit: &Exit, code: i32, words: &[&str]) {
    assert_eq!(exit.code, Some(code), "{exit:?}");
    for word in words {
        assert!(exit.stderr.contains(word), "no {word:?} on stderr: {exit:?}");
    }
    assert!(!exit.stderr.contains("RUST_BACKTRACE"), "{exit:?}");
}

#[test]
fn it_serves_with_no_file_at_all() {
    let upstream = Upstream::start();
    upstream.on("/users", Reply::numbered().cached("max-age=60"));
    let larder = Plan::new(&upstream.url()).start();
    larder.get("/users").shows("fwd=uri-miss; stored");
    larder.get("/users").shows("hit").carries("/users #1");
    larder.write("PUT", "/users").has_status(200);
    larder.get("/users").shows("detail=invalidated");
}

#[test]
fn the_log_names_the_rules_at_startup() {
    let plan = Plan::new("http://127.0.0.1:9");
    let larder = plan.start();
    eventually("it says that there are none", || larder.log().contains("no rules file"));
    let larder = plan.rules(RULES).start();
    let logged = |word: &str| larder.log().contains(word);
    eventually("it names the file", || logged("loaded the rules file") && logged("rules.toml"));
    assert!(logged("families=2") && logged("invalidations=2"), "{}", larder.log());
}

#[test]
fn every_flag_can_come_from_the_environment_and_flags_win() {
    let upstream = Upstream::start();
    let plan = Plan::default().environment("LARDER_UPSTREAM", &upstream.url());
    plan.clone().start().get("/users").carries("/users #1");
    let plan = plan.environment("LARDER_UPSTREAM", "http://127.0.0.1:9").argument("--upstream", &upstream.url());
    plan.rules(RULES).start().get("/users").carries("/users #2");
}

#[test]
fn serve_without_an_upstream_names_what_is_missing() {
    assert_fails(&Plan::default().fail(), 2, &["upstream"]);
}

#[test]
fn a_faulty_rules_file_is_reported_with_its_places() {
    let rules = "[[family]]\nname = \"users\"\npath = '/users('\n\n[invalidate]\n'/x' = [\"user\"]\n";
    let exit = Plan::new("http://127.0.0.1:9").rules(rules).fail();
    assert_fails(&exit, 2, &["rules.toml:3:15", "rules.toml:6:"]);
    let exit = Plan::new("http://127.0.0.1:9").argument("--rules", "missing.toml").fail();
    assert_fails(&exit, 2, &["missing.toml"]);
}

#[test]
fn an_upstream_that_is_no_url_is_reported() {
    for url in ["not a url", "http://", "ftp://127.0.0.1", "127.0.0.1:8000/x?y"] {
        assert_fails(&Plan::new(url).fail(), 2, &["upstream"]);
    }
    assert_fails(&Plan::new("http://127.0.0.1:9").redis("nonsense").fail(), 2, &["redis"]);
    assert_fails(&Plan::new("http://127.0.0.1:9").argument("--listen", "nowhere").fail(), 2, &["listen"]);
    assert_fails(&Plan::new("http://127.0.0.1:9").argument("--frobnicate", "1").fail(), 2, &["--frobnicate"]);
}

#[test]
fn a_port_in_use_is_reported() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--admin"] {
        let exit = Plan::new("http://127.0.0.1:9").argument(flag, &address).fail();
        assert_fails(&exit, 1, &[&address]);
    }
}

#[test]
fn a_redis_that_refuses_the_password_is_reported() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    assert_eq!(redis.command(&["CONFIG", "SET", "requirepass", "sesame"]), "OK");
    for credentials in ["", ":mellon@", "nobody:mellon@"] {
        let url = redis.url().replace("redis://", &format!("redis://{credentials}"));
        let exit = Plan::new(&upstream.url()).redis(&url).fail();
        assert_fails(&exit, 1, &["password"]);
        assert!(!exit.stderr.contains("mellon"), "{exit:?}");
    }
}

#[test]
fn the_password_of_redis_is_used_verbatim_beside_its_url() {
    const PASSWORD: &str = "se/sa?me#@%41";
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    assert_eq!(redis.command(&["CONFIG", "SET", "requirepass", PASSWORD]), "OK");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let url = redis.url();
    let beside = "password = \"${REDIS_PASSWORD}\"".to_owned();
    for field in [beside.clone(), format!("password_file = '{}'", file.display())] {
        let rules = format!("{RULES}\n[store]\nredis = \"{url}\"\ntimeout = \"5s\"\n{field}\n");
        let larder = Plan::new(&upstream.url()).environment("REDIS_PASSWORD", PASSWORD).rules(&rules).start();
        eventually("hits begin", || larder.get("/users").is("hit"));
        assert!(!larder.log().contains(PASSWORD), "{}", larder.log());
    }
    // Both read an empty variable alike.
    let rules = format!("[store]\nredis = \"{url}\"\n{beside}\n");
    let exit = Plan::new(&upstream.url()).environment("REDIS_PASSWORD", "").rules(&rules).fail();
    assert_fails(&exit, 2, &["rules.toml:3", "REDIS_PASSWORD is empty"]);
}

#[test]
fn the_rules_of_one_api_are_not_applied_to_another_by_surprise() {
    let upstream = Upstream::start();
    // The behaviour if there is an unnamed rules.toml.
    let serve = |more: &[&str]| {
        let arguments = ["serve", "--listen", "nowhere", "--upstream", &upstream.url()];
        larder(Some(RULES), &[&arguments[..], more].concat())
    };
    assert_fails(&serve(&[]), 2, &["--rules rules.toml", "--no-rules"]);
    // With either flag it continues, up to the address.
    for more in [&["--rules", "rules.toml"][..], &["--no-rules"]] {
        let exit = serve(more);
        assert_fails(&exit, 2, &["--listen"]);
        assert!(!exit.stderr.contains("--no-rules"), "{exit:?}");
    }
    let sample = larder(Some(include_str!("../../rules.toml")), &["serve", "--listen", "127.0.0.1:0"]);
    assert_fails(&sample, 2, &["no upstream"]);
}

#[test]
fn check_asks_upstream_whether_it_overrides_a_ttl() {
    let upstream = Upstream::start();
    upstream.on("/users", Reply::numbered().cached("max-age=5"));
    let rules = RULES.replace("http://127.0.0.1:9", &upstream.url());
    let exit = larder(Some(&rules), &["check", "--ask", "--strict"]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stdout.contains("family \"users\": ttl = \"1m\" has no effect"), "{exit:?}");
    assert_eq!(larder(Some(&rules), &["check", "--strict"]).code, Some(0));
    assert_eq!(upstream.count("/users"), 1, "only --ask asks");
    upstream.on("/users", Reply::numbered());
    let exit = larder(Some(&rules), &["check", "--ask", "--strict"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let exit = larder(Some(RULES), &["check", "--ask", "--strict"]);
    assert!(exit.code == Some(1) && exit.stdout.contains("the request for /users failed"), "{exit:?}");
}

#[test]
fn the_schema_of_rules_is_printed() {
    let exit = larder(None, &["schema"]);
    assert_eq!(exit.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!(schema["properties"]["family"]["type"], "array");
}

fn termination_finishes_active_requests(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    site.get("/users").shows("stored");
    let gates = [site.upstream.hold_all("GET /users/7"), site.upstream.hold_all("POST /users/create")];
    let read = site.call("GET", "/users/7").start();
    let write = site.call("POST", "/users/create").body("{}").start();
    gates.iter().for_each(|gate| gate.wait_for(1));
    site.terminate();
    eventually("nobody is let in any more", || {
        matches!(site.call("GET", "/users").try_send(), Err(Failure::Refused | Failure::NoHead))
    });
    assert!(!site.larder.has_ended());
    gates.iter().for_each(crate::support::Gate::open);
    read.response().has_status(200).carries("/users/7 #1");
    write.response().has_status(200).carries("done");
    assert_eq!(site.larder.wait(), Some(0));
    let next = site.another();
    next.get("/users").hides("hit").carries("/users #2");
}

fn termination_does_not_wait_for_ever(tier: Tier) {
    let mut site = Site::start(tier, &RULES.replace("30s", "500ms"));
    site.get("/users").shows("stored");
    let gate = site.upstream.hold_all("POST /users/create");
    let write = site.call("POST", "/users/create").body("{}").start();
    gate.wait_for(1);
    site.terminate();
    assert_eq!(site.larder.wait(), Some(0));
    assert!(write.finish().is_err(), "upstream has not answered");
    // What was written is not known: so it counts as written.
    site.another().get("/users").hides("hit").carries("/users #2");
}

#[test]
fn termination_when_idle_ends_with_0() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.get("/users");
    site.terminate();
    assert_eq!(site.larder.wait(), Some(0));
    // An idle keep-alive connection does not delay the shutdown.
    let mut site = Site::start(Tier::Embedded, RULES);
    let mut client = site.call("GET", "/users").header("Connection", "keep-alive").start();
    client.read_body(u64::MAX).unwrap();
    site.terminate();
    assert_eq!(site.larder.wait(), Some(0));
}

/// A script that waits for the announcement may stop Larder at once.
#[test]
fn termination_right_after_the_start_ends_with_0() {
    let upstream = Upstream::start();
    for _ in 0..20 {
        let mut larder = Plan::new(&upstream.url()).start();
        larder.terminate();
        assert_eq!(larder.wait(), Some(0));
    }
}

#[test]
fn check_prints_the_rules() {
    let exit = larder(Some(RULES), &["check", "rules.toml"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for word in ["users", "user_details", "/users/create", "3m"] {
        assert!(exit.stdout.contains(word), "no {word:?}: {exit:?}");
    }
    assert_eq!(larder(Some(RULES), &["check"]).stdout, exit.stdout, "./rules.toml is taken");
    let json = larder(Some(RULES), &["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(json.to_string().contains("user_details"), "{json:#}");
}

#[test]
fn check_reports_every_fault_with_its_place_and_remedy() {
    let rules = r#"[[family]]
name = "users"
path = '/users('
tll = "1m"

[[family]]
name = "users"
path = '/other'
ttl = "0s"

[invalidate]
'/a' = ["user"]
'/b/(?<id>\d+)' = ["users:{name}"]
'/c' = { families = ["users"], grace = "5s" }
"#;
    let exit = larder(Some(rules), &["check", "rules.toml"]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let printed = exit.stdout + &exit.stderr;
    let faults = ["rules.toml:3:15", "rules.toml:4:1", "rules.toml:7:", "rules.toml:9:", "rules.toml:12:"];
    let remedies = ["rules.toml:13:", "rules.toml:14:", "\"ttl\"", "users", "{name}", "mode = \"soft\""];
    for word in faults.iter().chain(&remedies) {
        assert!(printed.contains(word), "no {word:?} in:\n{printed}");
    }
    let exit = larder(Some(rules), &["check", "--json"]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let json: serde_json::Value = serde_json::from_str(&exit.stdout).unwrap();
    assert!(json.to_string().contains("rules.toml"), "{json:#}");
}

#[test]
fn explain_shows_how_a_read_is_cached() {
    let exit = larder(Some(RULES), &["explain", "GET", "http://api.example/users/42?b=2&a=1"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for word in ["user_details", "42", "/users/42?a=1&b=2", "user_details:42", "/users/(?<id>", "activate"] {
        assert!(exit.stdout.contains(word), "no {word:?}:\n{}", exit.stdout);
    }
    let json = larder(Some(RULES), &["explain", "GET", "http://api.example/users/42?b=2&a=1", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(json.to_string().contains("user_details:42"), "{json:#}");
}

#[test]
fn explain_shows_what_a_write_invalidates() {
    let exit = larder(Some(RULES), &["explain", "POST", "/users/42/activate"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    for word in ["users", "user_details:42", "activate"] {
        assert!(exit.stdout.contains(word), "no {word:?}:\n{}", exit.stdout);
    }
    assert!(!exit.stdout.contains("/users/create"), "{}", exit.stdout);
}

/// `explain` and the proxy call the same functions: the key that it prints is the one in Redis.
#[test]
fn explain_names_the_key_that_the_proxy_uses() {
    let mut site = Site::start(Tier::Redis, RULES);
    site.call("GET", "/users/42").header("Host", "api.example").send().shows("stored");
    site.wait_for_entries(1);
    let key = site.redis().command(&["KEYS", "larder:*:v1"]);
    let digest = key.rsplit(':').next().unwrap();
    let exit = larder(Some(RULES), &["explain", "GET", "http://api.example/users/42"]);
    assert!(exit.stdout.contains(digest), "no {digest}:\n{}", exit.stdout);
}

#[test]
fn version_and_help_are_printed() {
    let version = larder(None, &["--version"]);
    assert_eq!((version.code, version.stdout.starts_with("larder ")), (Some(0), true), "{version:?}");
    let help = larder(None, &["serve", "--help"]).stdout;
    for flag in ["--rules", "--upstream", "--listen", "--admin", "--redis", "--namespace", "LARDER_UPSTREAM"] {
        assert!(help.contains(flag), "no {flag}:\n{help}");
    }
    assert_eq!(larder(None, &["frobnicate"]).code, Some(2));
}
