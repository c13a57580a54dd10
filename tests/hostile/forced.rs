//! Requests that force a fetch although the response is stored.

use std::io::{Read, Write};

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Gate, Larder, Plan, Reply, Upstream};

/// `[server]`, and a family beside that of everybody else.
const FORCED: &str = r#"
[server]
max_unshared_per_client = 4

[[family]]
name = "forced"
path = '/forced/.*'
ttl = "1h"
"#;

struct Attacked {
    larder: Larder,
    upstream: Upstream,
}

impl Attacked {
    fn start() -> Attacked {
        let upstream = Upstream::start();
        let larder = Plan::new(&upstream.url()).rules(&format!("{FORCED}{}", others::RULES)).start();
        Attacked { larder, upstream }
    }

    /// The attacker's response to one request with these fields and this content.
    fn ask(&self, target: &str, fields: &str, content: &str) -> String {
        let mut stream = attack::connect(self.larder.address).unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{content}");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

const TAG: &str = "\"v1\"";
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn stored() -> Reply {
    Reply::numbered().header("ETag", TAG).header("Last-Modified", DATE)
}

#[test]
fn what_is_stored_is_not_fetched_again_for_fields_that_change_nothing() {
    let attacked = Attacked::start();
    attacked.upstream.on("/forced/a", stored());
    let others = Others::start(&attacked.larder);
    let host = |target: &str| attacked.ask(target, "Connection: close\r\n", "");
    assert!(host("/forced/a").contains("stored"));
    let close = "Connection: close\r\n";
    let rows = [
        ("Connection: close, upgrade\r\nUpgrade: x\r\n", ""),
        ("Connection: Upgrade\r\nConnection: close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""),
        ("Connection: close, UPGRADE\r\nUpgrade: x/1, y\r\nUpgrade: TLS/1.0\r\n", ""),
        ("Connection: close\r\nUpgrade: websocket\r\n", ""),
        (&format!("{close}If-Match: {TAG}\r\n"), ""),
        (&format!("{close}If-Match: *\r\n"), ""),
        (&format!("{close}If-Match: \"x\", {TAG}\r\nIf-Unmodified-Since: Sat, 05 Nov 1994 08:49:37 GMT\r\n"), ""),
        (&format!("{close}If-Unmodified-Since: {DATE}\r\n"), ""),
        (&format!("{close}If-Unmodified-Since: 0\r\n"), ""),
        (&format!("{close}Content-Length: 0\r\n"), ""),
        (&format!("{close}Content-Length: 00\r\n"), ""),
        (&format!("{close}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
        (&format!("{close}Transfer-Encoding: chunked\r\nTrailer: a\r\n"), "0\r\na: b\r\n\r\n"),
        (&format!("{close}Expect: 100-continue\r\n"), ""),
        (&format!("{close}Range: bytes=0-3\r\nIf-Match: {TAG}\r\n"), ""),
        (&format!("{close}Range: bytes=9-3\r\n"), ""),
        (&format!("{close}Range: pages=1\r\n"), ""),
        (&format!("{close}Cache-Control: no-cache, no-store, max-age=0\r\nPragma: no-cache\r\n"), ""),
    ];
    for (fields, content) in rows {
        let answer = attacked.ask("/forced/a", fields, content);
        assert!(answer.contains("larder; hit"), "{fields}{content}: {answer}");
    }
    assert_eq!(attacked.upstream.count("/forced/a"), 1);
    others.end().was_unhurt();
}

#[test]
fn what_is_not_stored_is_stored_whatever_the_range_is_unless_it_is_one() {
    let attacked = Attacked::start();
    for (number, range) in ["bytes=9-3", "bytes=x", "bytes=", "BYTES=1-2,", "bytes=0-0,-"].into_iter().enumerate()
    {
        let target = format!("/forced/{number}");
        let fields = format!("Connection: close\r\nRange: {range}\r\n");
        attacked.ask(&target, &fields, "");
        let is_range = range.starts_with("BYTES");
        assert_eq!(attacked.ask(&target, &fields, "").contains("larder; hit"), !is_range, "{range}");
    }
}

/// Fields and content of a request that only upstream can answer.
const FORCING: [(&str, &str); 6] = [
    ("Content-Length: 1\r\n", "x"),
    ("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n"),
    ("If-Match: \"other\"\r\n", ""),
    ("If-Match: W/\"v1\"\r\n", ""),
    ("If-Unmodified-Since: Sat, 05 Nov 1994 08:49:37 GMT\r\n", ""),
    ("Cookie: a=b\r\n", ""),
];

#[test]
fn what_only_upstream_can_answer_is_bounded_for_each_client() {
    let attacked = Attacked::start();
    let gate = Gate::new();
    attacked.upstream.script("/forced/a", [stored(), stored().held(&gate)]);
    attacked.larder.call("GET", "/forced/a").header("Host", "a").send().shows("stored");
    let others = Others::start(&attacked.larder);
    let mut held = Vec::new();
    for (fields, content) in FORCING.into_iter().cycle().take(4) {
        let head = format!("GET /forced/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n{content}");
        held.extend(attack::open(1, attacked.larder.address, head.as_bytes()));
    }
    gate.wait_for(4);
    for (fields, content) in FORCING {
        let answer = attacked.ask("/forced/a", &format!("Connection: close\r\n{fields}"), content);
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 1"), "{fields}: {answer}");
    }
    let upgrade = "Connection: upgrade, close\r\nUpgrade: WebSocket\r\n";
    assert!(attacked.ask("/forced/a", upgrade, "").starts_with("HTTP/1.1 429 "));
    let range = "Connection: close\r\nRange: bytes=0-1\r\n";
    assert!(attacked.ask("/forced/other", range, "").starts_with("HTTP/1.1 429 "));
    // What is stored is for the attacker too, and so is what can be shared.
    assert!(attacked.ask("/forced/a", "Connection: close\r\n", "").contains("larder; hit"));
    assert!(attacked.ask("/forced/b", "Connection: close\r\n", "").contains("stored"));
    others.go_on(200);
    // Another client has a share of its own.
    let other =
        attacked.larder.call("GET", "/forced/a").header("If-Match", "\"other\"").header("Host", "a").start();
    gate.wait_for(5);
    gate.open();
    other.response().has_status(200).shows("detail=precondition");
    others.end().was_unhurt();
    for mut stream in held {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // The shares have been given back.
    for (fields, content) in FORCING.into_iter().cycle().take(10) {
        let answer = attacked.ask("/forced/a", &format!("Connection: close\r\n{fields}"), content);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{fields}: {answer}");
    }
}
