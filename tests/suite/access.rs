//! The access log: what a line says, its formats, and where it goes.

use serde_json::Value;

use crate::support::{Larder, Plan, RedisServer, Reply, Upstream, eventually_some};

const FAMILY: &str = "\n[[family]]\nname = \"users\"\npath = '/users.*'\nttl = \"60s\"\n\
                      \n[invalidate]\n'/users' = [\"users\"]\n";

fn start(upstream: &Upstream, log: &str) -> Larder {
    Plan::new(&upstream.url()).rules(&format!("[log]\n{log}\n{FAMILY}")).start()
}

/// The line of the request with this number, counted from 0.
fn json(larder: &Larder, number: usize) -> Value {
    let line = eventually_some("the request is logged", || {
        larder.log().lines().filter(|line| line.contains("larder::access")).nth(number).map(str::to_owned)
    });
    serde_json::from_str(&line).unwrap()
}

fn says_who_asked_for_what_and_what_became_of_it(larder: &Larder) {
    let call = larder.call("GET", "/users?token=s3cret").header("User-Agent", "test/1");
    let miss = call.header("Referer", "http://a/b?token=s3cret").send();
    let first = json(larder, 0);
    assert_eq!((&first["path"], &first["protocol"]), (&"/users".into(), &"HTTP/1.1".into()), "{first}");
    assert_eq!((&first["client"], &first["user_agent"]), (&"127.0.0.1".into(), &"test/1".into()), "{first}");
    assert_eq!((&first["referer"], &first["outcome"]), (&"http://a/b".into(), &"miss".into()), "{first}");
    assert_eq!(first["host"], "localhost", "{first}");
    assert_eq!(first["bytes"], miss.body.len(), "{first}");
    assert!(first["upstream_micros"].as_u64() <= first["micros"].as_u64(), "{first}");
    assert!(first["micros"].as_u64() <= first["total_micros"].as_u64() && first["upstream_micros"].is_u64());
    larder.get("/users?token=s3cret").shows("hit");
    let hit = json(larder, 1);
    assert!(hit["upstream_micros"].is_null() && hit["bytes"] == first["bytes"], "{hit}");
    larder.call("HEAD", "/users?token=s3cret").send();
    assert_eq!(json(larder, 2)["bytes"], 0);
    larder.call("POST", "/users").send();
    let write = json(larder, 3);
    assert!(write["invalidated"].as_str().is_some_and(|tags| tags.contains("users")), "{write}");
    assert!(write["upstream_micros"].is_u64(), "{write}");
    assert!(!larder.log().contains("s3cret"), "{}", larder.log());
}

#[test]
fn the_access_log_says_who_asked_for_what_and_what_became_of_it() {
    let upstream = Upstream::start();
    says_who_asked_for_what_and_what_became_of_it(&start(&upstream, "format = \"json\""));
}

#[test]
fn the_access_log_says_the_same_with_redis() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    let rules = format!("[log]\nformat = \"json\"\n{FAMILY}");
    let larder = Plan::new(&upstream.url()).rules(&rules).redis(&redis.url()).start();
    says_who_asked_for_what_and_what_became_of_it(&larder);
}

#[test]
fn the_access_log_counts_what_a_client_received_of_a_stream_and_says_if_it_was_cut() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "format = \"json\"");
    upstream.on("/stream", Reply::new("x".repeat(100_000)).chunked().header("Cache-Control", "no-store"));
    assert_eq!(larder.get("/stream").body.len(), 100_000);
    let whole = json(&larder, 0);
    assert!(whole["bytes"] == 100_000 && whole["aborted"].is_null(), "{whole}");
    upstream.on("/cut", Reply::filled(100_000).cut_after(1000));
    let _ = larder.call("GET", "/cut").try_send();
    let cut = json(&larder, 1);
    assert!(cut["bytes"].as_u64() < Some(100_000) && cut["aborted"] == true, "{cut}");
}

#[test]
fn a_trusted_proxy_in_front_says_who_the_client_is() {
    let upstream = Upstream::start();
    let server =
        "[server]\nforwarded = \"append\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n[log]\nformat = \"json\"\n";
    let larder = Plan::new(&upstream.url()).rules(&format!("{server}{FAMILY}")).start();
    larder.call("GET", "/users").header("X-Forwarded-For", "203.0.113.7").send();
    assert_eq!(json(&larder, 0)["client"], "203.0.113.7");
}

#[test]
fn combined_lines_go_to_standard_output_apart_from_the_other_lines() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "access_format = \"combined\"\naccess_to = \"stdout\"");
    larder.call("GET", "/users?a=1").header("User-Agent", "a \"b\"").send();
    let first = larder.next_output();
    assert!(first.starts_with("127.0.0.1 - - [") && first.contains("] \"GET /users HTTP/1.1\" 200 "), "{first}");
    assert!(first.ends_with(" \"-\" \"a \\\"b\\\"\""), "{first}");
    larder.raw("GET / HTTP/1.1\r\nHost : a\r\n\r\n").response().fails_with(400);
    let malformed = larder.next_output();
    assert!(malformed.contains("] \"-\" 400 0"), "{malformed}");
    assert!(!larder.log().contains("larder::access"), "{}", larder.log());
}

#[test]
fn settings_of_an_access_log_that_is_off_are_refused() {
    for (log, message) in [
        ("access = false\naccess_format = \"json\"", "has no effect with access = false"),
        ("access = false\naccess_to = \"stdout\"", "has no effect with access = false"),
        ("level = \"warn\"\naccess_to = \"stdout\"", "level leaves out the access log"),
        ("access_format = \"clf\"", "combined"),
    ] {
        let exit = Plan::new("http://127.0.0.1:9").rules(&format!("[log]\n{log}\n")).fail();
        assert!(exit.code == Some(2) && exit.stderr.contains(message), "{log}: {}", exit.stderr);
    }
}
