//! What an operator reads of each request: one outcome, in the response, the access log and the metric.

use serde_json::Value;

use crate::support::{Larder, Plan, Reply, Upstream, eventually_some};

fn rules(format: &str) -> String {
    format!(
        "[log]\naccess = true\nformat = {format:?}\n\n[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n"
    )
}

fn start(upstream: &Upstream, format: &str) -> Larder {
    Plan::new(&upstream.url()).rules(&rules(format)).start()
}

/// The access log's line for the request with this number, counted from 0.
fn line(larder: &Larder, number: usize) -> String {
    eventually_some("the request is logged", || {
        let log = larder.log();
        log.lines().filter(|line| line.contains("larder::access")).nth(number).map(str::to_owned)
    })
}

#[test]
fn the_access_log_and_the_metric_say_what_the_response_says() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "json");
    let requests = [
        ("GET", "/users", "users", "miss"),
        ("GET", "/users", "users", "hit"),
        ("HEAD", "/users", "users", "hit"),
        ("GET", "/other?secret=1", "none", "pass"),
        ("POST", "/users", "none", "write"),
    ];
    for (number, (method, target, family, outcome)) in requests.into_iter().enumerate() {
        let answer = larder.call(method, target).send();
        let logged: Value = serde_json::from_str(&line(&larder, number)).unwrap();
        assert_eq!(logged["cache_status"].as_str(), answer.header("cache-status"), "{logged}");
        let path = target.split('?').next().unwrap();
        assert_eq!((&logged["method"], &logged["path"]), (&method.into(), &path.into()), "{logged}");
        assert_eq!((&logged["family"], &logged["outcome"]), (&family.into(), &outcome.into()), "{logged}");
        assert!(logged["status"] == 200 && logged["micros"].is_u64(), "{logged}");
    }
    let metrics = larder.admin_get("/metrics").text();
    for (family, outcome, count) in
        [("users", "miss", 1), ("users", "hit", 2), ("none", "pass", 1), ("none", "write", 1)]
    {
        let sample = format!("larder_requests_total{{family={family:?},outcome={outcome:?}}} {count}");
        assert!(metrics.lines().any(|line| line == sample), "no {sample}:\n{metrics}");
    }
    assert!(!larder.log().contains("secret"), "{}", larder.log());
}

#[test]
fn a_password_in_a_host_is_not_logged() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "json");
    let requests = [
        "GET http://user:pass@api.test/users HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
        "GET /users HTTP/1.1\r\nHost: user:pass@api.test\r\nConnection: close\r\n\r\n",
    ];
    for (number, request) in requests.into_iter().enumerate() {
        larder.raw(request).response().has_status(400);
        let logged: Value = serde_json::from_str(&line(&larder, number)).unwrap();
        assert_eq!((&logged["host"], &logged["path"]), (&"api.test".into(), &"/users".into()), "{logged}");
    }
    assert!(!larder.log().contains("pass"), "{}", larder.log());
}

#[test]
fn long_fields_of_streamed_responses_are_cut_in_the_log() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "json");
    let (agent, path) = ("a".repeat(2000), format!("/other/{}", "x".repeat(2000)));
    upstream.on(&path, Reply::new("streamed").cached("no-store").chunked());
    let answer = larder.call("GET", &path).header("User-Agent", &agent).header("X-Request-Id", "mine").send();
    answer.has_status(200);
    let logged: Value = serde_json::from_str(&line(&larder, 0)).unwrap();
    let is_beginning = |name: &str, of: &str, length| logged[name].as_str() == Some(&of[..length]);
    assert!(is_beginning("user_agent", &agent, 256) && is_beginning("path", &path, 1024), "{logged}");
    assert_eq!(logged["request_id"], "mine");
}

#[test]
fn the_access_log_can_be_read_without_a_tool() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "text");
    larder.get("/users");
    larder.get("/users");
    let hit = line(&larder, 1);
    for word in ["GET", "/users", "200", "family=\"users\"", "outcome=\"hit\"", "larder; hit; ttl="] {
        assert!(hit.contains(word), "no {word}: {hit}");
    }
}

#[test]
fn the_log_the_response_and_upstream_have_the_same_request_id() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "json");
    let id_of = |number: usize| {
        let logged: Value = serde_json::from_str(&line(&larder, number)).unwrap();
        logged["request_id"].as_str().unwrap().to_owned()
    };
    let sent = larder.call("GET", "/users").header("X-Request-Id", "abc-1").send();
    assert_eq!(sent.header("x-request-id"), Some("abc-1"));
    assert_eq!((upstream.last("/users").header("x-request-id"), &*id_of(0)), (Some("abc-1"), "abc-1"));
    let hit = larder.get("/users");
    let made = hit.header("x-request-id").expect("a hit has an id of its own").to_owned();
    assert!(made.len() == 32 && made == id_of(1), "{made}");
    let too_long = "x".repeat(129);
    let write = larder.call("POST", "/users").header("X-Request-Id", &too_long).send();
    let made = write.header("x-request-id").unwrap();
    assert!(made.len() == 32 && upstream.last("POST /users").header("x-request-id") == Some(made), "{made}");
    assert_eq!(made, id_of(2));
}

#[test]
fn without_an_access_log_a_hit_has_no_request_id_but_its_clients() {
    let upstream = Upstream::start();
    let rules = rules("text").replace("access = true", "access = false");
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let miss = larder.get("/users");
    assert_eq!(miss.header("x-request-id"), upstream.last("/users").header("x-request-id"));
    let hit = larder.get("/users").shows("hit");
    assert_eq!(hit.header("x-request-id"), None, "nor that of the request that was stored");
    let sent = larder.call("GET", "/users").header("X-Request-Id", "mine").send().shows("hit");
    assert_eq!(sent.header("x-request-id"), Some("mine"));
}
