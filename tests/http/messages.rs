//! RFC 9112, and RFC 9110 §7.6, §9 and §6.5: what a message is, where it begins and ends, and what of it is forwarded.

use super::wire::{Bench, field};
use crate::support::{Failure, Reply, Response, Site, Tier};

const RULES: &str = r#"
[server]
max_head = "16KiB"

[[family]]
name = "users"
path = '/users(/.*)?'
ttl = "60s"

[[family]]
name = "keyed"
path = '/keyed'
ttl = "60s"
forward = "keyed"
headers = ["accept-language"]
identity = "cookie:sid"

[[family]]
name = "tenants"
path = '/tenants'
ttl = "60s"
headers = ["x-original-url"]

[[family]]
name = "stats"
path = '/stats'
ttl = "60s"

[invalidate]
'/users/(\d+)' = ["users", "stats"]
'/removed' = { families = ["stats"], methods = ["DELETE"] }
"#;

fn site() -> Site {
    Site::start(Tier::Embedded, RULES)
}

fn raw(site: &Site, request: &[u8]) -> Result<Response, Failure> {
    site.raw(request).finish()
}

// ---- Requests (RFC 9112 §2 to §6)

#[test]
fn ambiguous_requests_are_refused_and_not_forwarded() {
    let site = site();
    let rows: [(&str, u16); 27] = [
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        ("POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\n X-A: b\r\nHost: a\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET /a HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET http://b/a HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET ftp://a/a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ];
    for (request, status) in rows {
        assert_eq!(site.raw(request).head().status, status, "{request:?}");
    }
    assert_eq!(site.upstream.count("/a"), 0);
}

/// RFC 9112 §6.1: a coding that would be lost on the way.
#[test]
fn transfer_codings_other_than_chunked_are_refused() {
    let site = site();
    for codings in
        ["Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"]
    {
        let request = format!("POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{codings}\r\n0\r\n\r\n");
        raw(&site, request.as_bytes()).unwrap().fails_with(501).shows("detail=transfer-coding");
    }
    assert_eq!(site.upstream.count("/a"), 0);
}

/// RFC 9112 §6.1: such a request may be processed as chunked, but nothing behind it may be read.
#[test]
fn a_request_with_both_framings_is_the_last_on_its_connection() {
    let site = site();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let lengths = "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n";
    for lengths in [lengths.to_owned(), lengths.lines().rev().fold(String::new(), |all, line| all + line + "\r\n")]
    {
        let request = format!("POST /a HTTP/1.1\r\nHost: a\r\n{lengths}\r\n3\r\nabc\r\n0\r\n\r\n{smuggled}");
        let mut answer = site.raw(request);
        answer.read_body(4).unwrap();
        assert!(matches!(answer.next_response().finish(), Err(Failure::NoHead)), "the connection ends");
        let received = site.upstream.last("POST /a");
        assert_eq!((received.body.as_slice(), received.header("content-length")), (&b"abc"[..], None));
    }
    assert_eq!(site.upstream.count("/smuggled"), 0);
}

#[test]
fn equal_repeated_lengths_count_once() {
    let site = site();
    let request =
        "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc";
    raw(&site, request.as_bytes()).unwrap().has_status(200);
    let received = site.upstream.last("/a");
    assert_eq!((received.headers("content-length"), received.body.as_slice()), (vec!["3"], &b"abc"[..]));
}

/// RFC 9112 §2.2: a bare LF may end a line, and an empty line before a request is skipped.
#[test]
fn bare_lf_line_ends_and_a_leading_empty_line_are_accepted() {
    let site = site();
    raw(&site, b"\r\nGET /a HTTP/1.1\nHost: a\nConnection: close\n\n").unwrap().carries("/a #1");
}

#[test]
fn a_body_with_invalid_chunks_is_never_complete() {
    let site = site();
    for body in ["zz\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "-1\r\n", "fffffffffffffffff\r\n", "3\r\nab"]
    {
        let request = format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let mut client = super::wire::Wire::to(site.address);
        client.send(request);
        client.finish();
        let answer = client.rest();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"),
            "{answer}"
        );
    }
    assert_eq!(site.upstream.count("/a"), 0, "no upstream takes a part for the whole");
}

#[test]
fn heads_have_a_limit() {
    let site = site();
    let with_field = |size: usize| {
        let field = "x".repeat(size);
        raw(&site, format!("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {field}\r\n\r\n").as_bytes())
    };
    with_field(15_000).unwrap().has_status(200);
    with_field(17_000).unwrap().fails_with(431);
    let fields = |count: usize| {
        let fields = (0..count).fold(String::new(), |all, number| all + &format!("X-{number}: 1\r\n"));
        raw(&site, format!("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").as_bytes())
    };
    // Each line counts as 32 bytes at least.
    fields(500).unwrap().has_status(200);
    fields(520).unwrap().fails_with(431);
    // RFC 9112 §3: at least 8000 bytes for the request line.
    let long = format!("/{}", "a".repeat(8000));
    site.get(&long).has_status(200);
}

#[test]
fn a_target_reaches_upstream_unchanged() {
    let site = site();
    let rows = [
        ("/a/../b", "/a/../b"),
        ("/a/%2e%2e/b", "/a/%2e%2e/b"),
        ("/%62", "/%62"),
        ("/t/%7Ejoe", "/t/%7Ejoe"),
        ("/t//z", "/t//z"),
        ("/t/1?", "/t/1?"),
        ("/b#fragment", "/b"),
        ("http://other/b", "/b"),
        ("http://other", "/"),
        ("/a%2fb", "/a%2fb"),
        ("/a\\b", "/a\\b"),
        ("/..%2f..%2fb", "/..%2f..%2fb"),
        ("/../../b?x=/../y", "/../../b?x=/../y"),
    ];
    for (sent, received) in rows {
        let before = site.upstream.count(received);
        site.write("POST", sent).has_status(200);
        assert_eq!(site.upstream.count(received), before + 1, "{sent} arrives as {received}");
        let before = site.upstream.count(received);
        site.get(sent).has_status(200);
        assert_eq!(site.upstream.count(received), before + 1, "{sent} is asked for as {received}");
    }
}

/// RFC 9112 §3.2.2: the host of an absolute-form target is the request's host.
#[test]
fn absolute_form_overrides_host() {
    let site = site();
    let asked = |target: &str, host: &str| {
        raw(&site, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap()
    };
    asked("/users", "one.example").shows("stored");
    asked("http://one.example/users", "two.example").shows("hit");
    asked("/users", "two.example").hides("hit");
    assert_eq!(site.upstream.last("/users").header("x-forwarded-host"), Some("two.example"));
}

#[test]
fn asterisk_form_reaches_upstream_unchanged() {
    let site = site();
    site.call("OPTIONS", "*").send().has_status(200);
    assert_eq!(site.upstream.count("OPTIONS *"), 1);
}

// ---- Responses (RFC 9112 §4 to §8)

#[test]
fn ambiguous_responses_become_502_and_are_not_stored() {
    let site = site();
    let fields = [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 4\r\n",
        "Content-Length: three\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "X-A: b\r\n c\r\nContent-Length: 3\r\n",
        "X-A: b\0\r\nContent-Length: 3\r\n",
        "X-A: b\nX-B: c\r\nContent-Length: 3\r\n",
        "X-A: b\rc\r\nContent-Length: 3\r\n",
        "no colon\r\nContent-Length: 3\r\n",
        "X(A): b\r\nContent-Length: 3\r\n",
    ];
    let heads = fields.iter().map(|fields| format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n{fields}"));
    let lines = ["garbage", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 2xx OK", "HTTP/3.0 200 OK"];
    let lines = lines.iter().map(|line| format!("{line}\r\nContent-Length: 3\r\n"));
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n".to_owned();
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n".to_owned();
    for (number, head) in heads.chain(lines).chain([old, switched]).enumerate() {
        let path = format!("/users/{number}");
        site.upstream.on(&path, Reply::raw(format!("{head}\r\n3\r\nabc\r\n0\r\n\r\n")));
        let answer = site.get(&path);
        assert_eq!(answer.status, 502, "{head:?}: {answer:?}");
        site.upstream.on(&path, Reply::new("mended"));
        site.get(&path).hides("hit").carries("mended");
    }
}

#[test]
fn a_truncated_response_is_truncated_for_the_client_and_not_stored() {
    let site = site();
    let chunked = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
    let sized = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\n";
    let rows = [
        (chunked, "3\r\nabc\r\nzz\r\n"),
        (chunked, "3\r\nabcd\r\n0\r\n\r\n"),
        (chunked, "3\r\nabc\r\nffffffffffffffffff\r\n"),
        (chunked, "3\r\nabc\r\n"),
        (chunked, "3\r\nabc\r\n0\r\n"),
        (sized, "abc"),
    ];
    for (number, (head, body)) in rows.into_iter().enumerate() {
        let path = format!("/users/{number}");
        site.upstream.on(&path, Reply::raw([head, body].concat()));
        match site.call("GET", &path).try_send() {
            Err(Failure::Cut(_) | Failure::NoHead) => {}
            other => panic!("{body:?}: {other:?}"),
        }
        site.upstream.on(&path, Reply::new("whole"));
        site.get(&path).hides("hit").carries("whole");
    }
}

/// RFC 9112 §9.2, §11.1: bytes after a response do not answer the next request.
#[test]
fn surplus_bytes_from_upstream_answer_no_request() {
    let site = site();
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    site.upstream.on("/a", Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}")));
    for _ in 0..3 {
        site.get("/a").carries("ok");
        site.get("/b").has_status(200).hides("hit");
        assert_ne!(site.get("/b").text(), "evil");
    }
}

#[test]
fn equal_repeated_lengths_in_a_response_are_forwarded_once() {
    let site = site();
    for lengths in ["Content-Length: 3\r\nContent-Length: 3\r\n", "Content-Length: 3, 3\r\n"] {
        site.upstream.on("/a", Reply::raw(format!("HTTP/1.1 200 OK\r\n{lengths}\r\nabc")));
        let answer = site.get("/a").carries("abc");
        let lengths = answer.headers.iter().filter(|(name, _)| name == "content-length");
        assert_eq!(lengths.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["3"]);
    }
}

#[test]
fn whitespace_before_a_responses_colon_is_removed() {
    let site = site();
    site.upstream.on("/a", Reply::raw("HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok"));
    assert_eq!(site.get("/a").carries("ok").header("x-a"), Some("1"));
}

#[test]
fn odd_statuses_reasons_and_bytes_pass_through() {
    let bench = Bench::start("");
    for status in ["299 Fine", "599 Odd Thing", "999 Request denied", "404 No Such Thing", "200 OK"] {
        let (mut client, mut upstream) =
            bench.forwarded("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        upstream
            .send(format!("HTTP/1.1 {status}\r\nX-Name: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"));
        let head = client.head();
        assert_eq!(head[0], format!("HTTP/1.1 {status}"));
        assert_eq!(client.rest(), "ok");
    }
    let site = site();
    site.upstream.on("/a", Reply::raw(b"HTTP/1.1 200 OK\r\nX-Name: J\xf6rg\r\nContent-Length: 2\r\n\r\nok"));
    assert_eq!(site.get("/a").header("x-name"), Some("J\u{f6}rg"));
}

// ---- What upstream may read into a request

on_both_tiers! {
    a_write_invalidates_the_readings_of_its_path,
    a_write_that_asks_for_another_method_invalidates_by_both,
}

fn a_write_invalidates_the_readings_of_its_path(tier: Tier) {
    let site = Site::start(tier, RULES);
    for spelling in ["//users/5", "/users%2F5", "/users\\5", "/users;x/5", "/users/5/", "/a/..;/users/5"] {
        site.get("/users/5");
        site.get("/stats");
        site.get("/users/5").shows("hit");
        site.write("PUT", spelling).has_status(200);
        site.get("/users/5").hides("hit");
        site.get("/stats").hides("hit");
    }
    // And the other way round: what is stored under an odd spelling, without any rule.
    let answer = Reply::numbered().cached("max-age=60");
    for spelling in ["//things", "/things/", "/things;x", "/%5Cthings"] {
        site.upstream.on(spelling, answer.clone());
        site.get(spelling);
        site.get(spelling).shows("hit");
        site.write("PUT", "/things");
        site.get(spelling).hides("hit");
    }
}

fn a_write_that_asks_for_another_method_invalidates_by_both(tier: Tier) {
    let site = Site::start(tier, RULES);
    let overrides = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"];
    let by_field = overrides.map(|name| site.call("POST", "/removed").header(name, "delete"));
    for call in by_field.into_iter().chain([site.call("POST", "/removed?_method=DELETE")]) {
        site.get("/stats");
        site.get("/stats").shows("hit");
        call.body("{}").send().has_status(200);
        site.get("/stats").hides("hit");
    }
    site.get("/stats").shows("hit");
    site.write("POST", "/removed");
    site.get("/stats").shows("hit");
}

#[test]
fn unkeyed_fields_do_not_reach_upstream_with_a_read() {
    let site = site();
    let names = [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-Host",
        "X-Forwarded-Scheme",
        "X-Accel-Buffering",
        "X_Original_URL",
        "Front-End-Https",
    ];
    for method in ["GET", "OPTIONS", "PROPFIND", "HEAD"] {
        for path in [format!("/users/{method}"), format!("/unruled/{method}")] {
            let call = names.iter().fold(site.call(method, &path), |call, name| call.header(name, "/admin"));
            call.header("X-Request-Id", "1").send();
            let received = site.upstream.last(&format!("{method} {path}"));
            for name in names {
                assert_eq!(received.header(&name.to_ascii_lowercase()), None, "{method} {path} {name}");
            }
            assert_eq!(received.header("x-request-id"), Some("1"));
        }
        // A read is not made a write on its way around the cache either.
        let call =
            site.call(method, "/around").header("If-Match", "\"1\"").header("X-HTTP-Method-Override", "DELETE");
        call.send();
        assert_eq!(site.upstream.last("/around").header("x-http-method-override"), None);
    }
    site.call("GET", "/tenants").header("X-Original-URL", "/a").send().shows("stored");
    assert_eq!(site.upstream.last("/tenants").header("x-original-url"), Some("/a"), "the family keys on it");
    site.call("GET", "/tenants").header("X-Original-URL", "/b").send().hides("hit");
}

#[test]
fn path_overriding_fields_do_not_redirect_a_write() {
    let site = site();
    let call = site.call("POST", "/users/5").header("X-Original-URL", "/b").header("X-Rewrite-URL", "/b");
    call.header("X-HTTP-Method-Override", "PUT").body("{}").send();
    let received = site.upstream.last("POST /users/5");
    assert_eq!((received.header("x-original-url"), received.header("x-rewrite-url")), (None, None));
    assert_eq!(received.header("x-http-method-override"), Some("PUT"), "known to the rules, so it may go on");
}

#[test]
fn a_family_can_forward_only_keyed_fields() {
    let site = site();
    let call = |agent: &str| {
        let call = site.call("GET", "/keyed").header("Accept-Language", "de").header("User-Agent", agent);
        call.header("Accept", agent)
            .header("Cookie", &format!("track={agent}; sid=7"))
            .header("X-Any", agent)
            .send()
    };
    site.upstream.on("/keyed", Reply::numbered().header("Vary", "User-Agent"));
    call("a").shows("stored");
    let received = site.upstream.last("/keyed");
    for name in ["user-agent", "accept", "x-any"] {
        assert_eq!(received.header(name), None, "{name}");
    }
    assert_eq!((received.header("accept-language"), received.header("cookie")), (Some("de"), Some("sid=7")));
    call("b").shows("hit");
    site.call("GET", "/keyed").header("Accept-Language", "en").header("Cookie", "sid=7").send().hides("hit");
}

// ---- Forwarding (RFC 9110 §7.6, §9.3.7, §9.3.8)

#[test]
fn max_forwards_is_decremented_and_obeyed() {
    let site = site();
    for method in ["OPTIONS", "TRACE"] {
        site.call(method, "/a").header("Max-Forwards", "2").send().has_status(200);
        assert_eq!(site.upstream.last(&format!("{method} /a")).header("max-forwards"), Some("1"));
    }
    let answer = site.call("OPTIONS", "/b").header("Max-Forwards", "0").send().has_status(204);
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("OPTIONS")), "{answer:?}");
    let answer = site.call("TRACE", "/b?c=d").header("Max-Forwards", "0").header("X-Any", "1");
    let answer = answer.header("Authorization", "Basic secret").header("Cookie", "secret").send().has_status(200);
    assert_eq!(answer.header("content-type"), Some("message/http"));
    let text = answer.text();
    assert!(text.starts_with("TRACE /b?c=d HTTP/1.1\r\n") && text.contains("x-any: 1\r\n"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(site.upstream.count("/b") + site.upstream.count("/b?c=d"), 0);
    // With another method the field means nothing, and is left alone.
    site.call("GET", "/c").header("Max-Forwards", "0").send().has_status(200);
    assert_eq!(site.upstream.last("/c").header("max-forwards"), Some("0"));
}

#[test]
fn a_forwarding_loop_is_stopped() {
    let site = site();
    let via = |rounds: usize| vec!["1.1 larder"; rounds].join(", ");
    site.call("GET", "/a").header("Via", &via(15)).send().has_status(200);
    site.call("GET", "/a").header("Via", &via(16)).send().fails_with(508).shows("detail=loop");
    assert_eq!(site.upstream.count("/a"), 1);
}

/// RFC 9110 §6.6.1
#[test]
fn a_response_without_date_gets_one() {
    let site = site();
    for path in ["/users", "/unruled"] {
        site.upstream.on(path, Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
        let answer = site.get(path);
        assert!(answer.header("date").is_some_and(|date| httpdate::parse_http_date(date).is_ok()), "{answer:?}");
    }
}

// ---- Trailers (RFC 9110 §6.5)

const TRAILED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                       3\r\nabc\r\n0\r\nX-Sum: 7\r\nContent-Length: 1\r\n\r\n";

#[test]
fn response_trailers_reach_a_client_that_accepts_them() {
    let bench = Bench::start("");
    let ask = |te: &str| {
        let mut client =
            bench.client(&format!("DELETE /a HTTP/1.1\r\nHost: a\r\n{te}Connection: close, TE\r\n\r\n"));
        let mut upstream = bench.upstream();
        let asked = upstream.head();
        upstream.send(TRAILED);
        upstream.leave();
        let head = client.head();
        (asked, head, client.rest())
    };
    let (asked, head, body) = ask("TE: trailers, gzip\r\n");
    assert_eq!((field(&asked, "te"), field(&asked, "connection")), (Some("trailers"), Some("te")));
    assert_eq!(field(&head, "trailer"), Some("X-Sum"));
    assert_eq!(body, "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n", "and no field that frames a message");
    let (asked, head, body) = ask("");
    assert_eq!((field(&asked, "te"), field(&head, "trailer")), (None, None));
    assert_eq!(body, "3\r\nabc\r\n0\r\n\r\n");
}

/// They could be mistaken for fields that Larder removes from the head.
#[test]
fn request_trailers_do_not_reach_upstream() {
    let bench = Bench::start("");
    let mut client = bench.client(
        "POST /a HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum, Cookie, X-Forwarded-For\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 7\r\nCookie: a=1\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n",
    );
    let mut upstream = bench.upstream();
    assert_eq!(field(&upstream.head(), "trailer"), None);
    let body = "3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(upstream.take(body.len()), body);
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.head()[0], "HTTP/1.1 204 No Content");
}

/// RFC 9110 §6.5.1
#[test]
fn response_trailers_that_belong_in_the_head_are_dropped() {
    let bench = Bench::start("");
    let mut client =
        bench.client("DELETE /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n");
    let mut upstream = bench.upstream();
    upstream.head();
    upstream.send(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie, Cache-Control, Vary\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=1\r\nCache-Control: public\r\nVary: x\r\n\r\n",
    );
    client.head();
    assert_eq!(client.rest(), "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n");
}

/// RFC 9111 §3.1 lets a cache do so.
#[test]
fn stored_responses_have_no_trailers() {
    let site = site();
    site.upstream.on("/users", Reply::raw(TRAILED));
    for outcome in ["stored", "hit"] {
        let answer = site.call("GET", "/users").header("TE", "trailers").send().shows(outcome).carries("abc");
        assert_eq!((answer.header("trailer"), answer.header("x-sum")), (None, None));
    }
}
