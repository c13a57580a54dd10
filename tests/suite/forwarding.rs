//! What is passed on, what is not, and what is said when upstream gives no answer. None of it depends on the tier,
//! except what must not be stored.

use crate::support::client::send_raw;
use crate::support::redis::free_port;
use crate::support::{
    Failure, Gate, Larder, Plan, Reply, Response, Site, Tier, Upstream, eventually, eventually_some,
};

const RULES: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"
"#;

on_both_tiers! {
    a_response_cut_in_the_middle_is_cut_for_the_client_and_never_served_again,
    a_response_that_falls_silent_is_cut_and_never_served_again,
    every_waiter_learns_that_the_response_was_cut,
}

fn site() -> Site {
    Site::start(Tier::Embedded, RULES)
}

fn with_server(lines: &str) -> (Upstream, Larder) {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(&format!("[server]\n{lines}\n")).start();
    (upstream, larder)
}

#[track_caller]
fn assert_cut(result: Result<Response, Failure>, start: &str) {
    match result {
        Err(Failure::Cut(response)) => assert!(start.as_bytes().starts_with(&response.body), "{response:?}"),
        // It may break off before the head has left.
        Err(Failure::NoHead) => {}
        other => panic!("expected a response that is cut off: {other:?}"),
    }
}

fn a_response_cut_in_the_middle_is_cut_for_the_client_and_never_served_again(tier: Tier) {
    let site = Site::start(tier, RULES);
    for reply in [Reply::new("0123456789"), Reply::new("0123456789").chunked()] {
        site.upstream.on("/users", reply.cut_after(4));
        assert_cut(site.call("GET", "/users").try_send(), "0123");
        assert_cut(site.call("GET", "/users").try_send(), "0123");
    }
    site.upstream.on("/users", Reply::new("0123456789"));
    site.get("/users").hides("hit").carries("0123456789");
}

fn a_response_that_falls_silent_is_cut_and_never_served_again(tier: Tier) {
    let (site, gate) = (Site::start(tier, &format!("[server]\nidle_timeout = \"1s\"\n{RULES}")), Gate::new());
    site.upstream.script("/users", [Reply::new("0123456789").pause_after(4, &gate), Reply::new("whole")]);
    assert_cut(site.call("GET", "/users").try_send(), "0123");
    gate.open();
    site.get("/users").hides("hit").carries("whole");
}

fn every_waiter_learns_that_the_response_was_cut(tier: Tier) {
    let (site, gate) = (Site::start(tier, RULES), Gate::new());
    site.upstream.on("/users", Reply::new("0123456789").chunked().pause_after(4, &gate).cut_after(6));
    let mut waiters: Vec<_> = (0..3).map(|_| site.call("GET", "/users").start()).collect();
    for waiter in &mut waiters {
        assert_eq!(waiter.read_body(4).unwrap(), b"0123");
    }
    gate.open();
    for waiter in waiters {
        assert_cut(waiter.finish(), "012345");
    }
}

#[test]
fn hop_by_hop_fields_of_a_request_stay_behind() {
    let site = site();
    let call = site.call("GET", "/a").header("Connection", "close, X-Secret").header("X-Secret", "1");
    let call =
        call.header("Keep-Alive", "timeout=5").header("Proxy-Connection", "keep-alive").header("TE", "gzip");
    call.header("Upgrade", "websocket").header("X-Kept", "1").send().has_status(200);
    let received = site.upstream.last("/a");
    for field in ["x-secret", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(received.header(field), None, "{field}");
    }
    assert_eq!(received.header("x-kept"), Some("1"));
}

#[test]
fn hop_by_hop_fields_of_a_response_stay_behind_even_when_it_is_stored() {
    let site = site();
    let reply = Reply::numbered().header("Connection", "X-Secret").header("X-Secret", "1");
    site.upstream.on("/users", reply.header("Keep-Alive", "timeout=5").header("X-Kept", "1"));
    for outcome in ["stored", "hit"] {
        let answer = site.get("/users").shows(outcome);
        assert_eq!((answer.header("x-secret"), answer.header("keep-alive")), (None, None));
        assert_eq!(answer.header("x-kept"), Some("1"));
    }
}

const TENANTS: &str = r#"
[[family]]
name = "users"
path = '/users'
ttl = "60s"
headers = ["x-tenant"]
"#;

/// CGI, WSGI and PHP read them as their dashed twins.
#[test]
fn fields_with_underscores_are_dropped() {
    let site = site();
    for (method, path) in [("GET", "/users"), ("GET", "/a"), ("POST", "/a"), ("OPTIONS", "/a")] {
        let call = site.call(method, path).header("X_Real_IP", "192.0.2.1").header("X_Forwarded_For", "192.0.2.1");
        call.header("X-Original_Url", "/b")
            .header("Content_Length", "7")
            .header("X-Kept", "1")
            .send()
            .has_status(200);
        let received = site.upstream.last(&format!("{method} {path}"));
        assert!(received.headers.iter().all(|(name, _)| !name.contains('_')), "{received:?}");
        assert_eq!(
            (received.header("x-kept"), received.header("x-forwarded-for")),
            (Some("1"), Some("127.0.0.1"))
        );
    }
}

#[test]
fn kept_fields_with_underscores_are_treated_like_their_dashed_twins() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(&format!("[server]\nunderscores = true\n{TENANTS}")).start();
    let tenant = |name: &str, tenant: &str| larder.call("GET", "/users").header(name, tenant).send();
    tenant("X_Tenant", "1").carries("/users #1");
    assert_eq!(upstream.last("/users").header("x_tenant"), Some("1"));
    tenant("X_Tenant", "2").carries("/users #2");
    tenant("X-Tenant", "1").shows("hit").carries("/users #1");
    let call = larder.call("POST", "/a").header("X_Real_IP", "192.0.2.1").header("X_Rewrite_Url", "/b");
    call.header("X_Forwarded_For", "192.0.2.1")
        .header("Content_Length", "7")
        .header("Api_Key", "k")
        .body("x")
        .send();
    let received = upstream.last("POST /a");
    for gone in ["x_real_ip", "x-real-ip", "x_rewrite_url", "x_forwarded_for", "content_length"] {
        assert_eq!(received.header(gone), None, "{gone}");
    }
    assert_eq!(received.headers("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!((received.header("api_key"), received.headers("content-length")), (Some("k"), vec!["1"]));
}

/// What counts is the size of a head.
#[test]
fn a_head_may_have_hundreds_of_lines() {
    let site = site();
    let lines = |count: usize| (0..count).fold(Reply::numbered(), |reply, n| reply.header(&format!("X-{n}"), "1"));
    site.upstream.on("/users", lines(1000));
    let call = (0..1000).fold(site.call("GET", "/users"), |call, n| call.header(&format!("X-{n}"), "1"));
    let answer = call.send().has_status(200);
    assert_eq!(answer.header("x-999"), Some("1"));
    assert_eq!(site.upstream.last("/users").header("x-999"), Some("1"));
    site.upstream.on("/users", lines(5000));
    site.call("GET", "/users?2").send().fails_with(502).shows("detail=upstream-garbled");
}

#[test]
fn larder_recognises_a_request_that_it_has_forwarded_itself() {
    let (upstream, larder) = with_server("");
    let address = larder.address;
    upstream.answer("/a", move |request| {
        let field = request.header("cdn-loop").unwrap();
        let again =
            crate::support::client::Call::new(address, "GET", "/a").header("CDN-Loop", &format!("other, {field}"));
        let answer = again.send();
        Reply::new(answer.text()).header("X-Status", &answer.status.to_string())
    });
    let answer = larder.call("GET", "/a").header("CDN-Loop", "larder;id=0").send().has_status(200);
    assert_eq!(answer.header("x-status"), Some("508"), "{answer:?}");
    assert!(answer.text().contains("--upstream"), "{answer:?}");
    assert_eq!(upstream.count("/a"), 1);
}

/// What `http::Uri` does not take.
#[test]
fn raw_characters_in_a_target_are_encoded_and_forwarded() {
    let site = site();
    let ask = |target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        send_raw(site.address, request.as_bytes(), false).unwrap().response().has_status(200)
    };
    for (target, forwarded) in
        [("/a?extensions={\"a\":1}", "/a?extensions={%22a%22:1}"), ("/a?q=<b>|^`\\{}", "/a?q=%3Cb%3E|^`\\{}")]
    {
        ask(target);
        assert_eq!(site.upstream.count(&format!("GET {forwarded}")), 1, "{target}");
    }
    ask("/\"<b>`{}");
    ask("/users?a=\"");
    ask("/users?a=%22").shows("hit");
}

/// They are answered with a reason, logged, and counted.
#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let site = site();
    let rows = [
        "G(T /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\u{1}b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "GET /a HTTP/9.1\r\nHost: a\r\n\r\n",
    ];
    // The first request of a connection, and a later one.
    let before = [
        "",
        "GET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\"\n<\r\n0\r\nA: b\r\n\r\n",
        "GET /b HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for (number, request) in rows.into_iter().enumerate() {
        let shown: String = request.chars().take(60).collect();
        for before in before {
            let mut pending = send_raw(site.address, [before, request].concat().as_bytes(), false).unwrap();
            if !before.is_empty() {
                pending.read_body(u64::MAX).unwrap();
                assert_eq!(pending.head().status, 200, "{shown:?}");
                pending = pending.next_response();
            }
            let answer = pending.finish().unwrap_or_else(|failure| panic!("{shown:?}: {failure:?}"));
            assert_eq!(
                answer.clone().fails_with(400).header("connection"),
                Some("close"),
                "{shown:?}: {answer:?}"
            );
        }
        eventually("it is logged", || {
            site.log().matches("malformed-request").count() == before.len() * (number + 1)
        });
    }
    assert_eq!(site.upstream.count("/a"), 0);
}

#[test]
fn an_upstream_that_is_larder_itself_is_refused_at_the_start() {
    for (listen, upstream) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost"), ("0.0.0.0", "127.0.0.9")] {
        let exit = eventually_some("nobody takes the port meanwhile", || {
            let port = free_port();
            let listen = format!("{listen}:{port}");
            let exit = Plan::new(&format!("http://{upstream}:{port}")).argument("--listen", &listen).fail();
            (!exit.stderr.contains("cannot listen on")).then_some(exit)
        });
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.stderr.contains("is this Larder itself") && exit.stderr.contains("--upstream"), "{exit:?}");
    }
}

/// `Keep-Alive: timeout`, less a margin.
#[test]
fn a_connection_is_not_used_for_longer_than_upstream_says() {
    let (upstream, larder) = with_server("");
    let is_used_again = || {
        let before = upstream.connections();
        larder.write("POST", "/a").has_status(200);
        upstream.connections() == before
    };
    upstream.on("/a", Reply::new("x").header("Keep-Alive", "timeout=0"));
    assert!(!(0..20).any(|_| is_used_again()));
    upstream.on("/a", Reply::new("x").header("Keep-Alive", "timeout=3600"));
    // A client may have its answer a moment before the connection is idle.
    eventually("a connection is used again", is_used_again);
}

/// RFC 9112 §9.5: what has arrived before the write is sent.
#[test]
fn a_write_does_not_meet_a_connection_that_upstream_has_ended() {
    let mut upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).start();
    for _ in 0..10 {
        larder.get("/a").has_status(200);
        upstream.end_connections();
        larder.write("POST", "/a").has_status(200).carries("done");
    }
}

#[test]
fn via_names_larder_both_ways() {
    let site = site();
    site.upstream.on("/users", Reply::numbered().header("Via", "1.0 inner"));
    let answer = site.call("GET", "/users").header("Via", "1.1 outer").send();
    let received = site.upstream.last("/users").headers("via").join(", ");
    assert_eq!(received, "1.1 outer, 1.1 larder");
    let vias = |answer: &Response| {
        let lines = answer.headers.iter().filter(|(name, _)| name == "via");
        lines.map(|(_, value)| value.clone()).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(vias(&answer), "1.0 inner, 1.1 larder");
    assert_eq!(vias(&site.get("/users").shows("hit")), "1.0 inner, 1.1 larder");
}

/// What upstream is told about the client, when the client itself claims something.
fn forwarded_with(forwarded: &str) -> crate::support::upstream::Request {
    let trusted = if forwarded == "append" { "trusted_proxies = ['127.0.0.1']" } else { "" };
    let (upstream, larder) = with_server(&format!("forwarded = {forwarded:?}\n{trusted}"));
    let call = larder.call("GET", "/a").header("Host", "api.example").header("X-Forwarded-For", "192.0.2.1");
    call.header("X-Forwarded-Proto", "https").header("Forwarded", "for=192.0.2.1").send().has_status(200);
    upstream.last("/a")
}

#[test]
fn forwarded_fields_say_who_asked_and_clients_cannot_lie() {
    let set = forwarded_with("set");
    assert_eq!(set.headers("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(set.headers("x-forwarded-host"), ["api.example"]);
    assert_eq!(set.headers("x-forwarded-proto"), ["http"]);
    let forwarded = set.headers("forwarded").join(", ");
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("host=\"api.example\""), "{forwarded}");
    assert!(!forwarded.contains("192.0.2.1"), "{forwarded}");
}

#[test]
fn forwarded_fields_can_be_appended_or_left_out() {
    let appended = forwarded_with("append");
    assert_eq!(appended.headers("x-forwarded-for").join(", "), "192.0.2.1, 127.0.0.1");
    assert!(appended.headers("forwarded").join(", ").starts_with("for=192.0.2.1, "), "{appended:?}");
    let off = forwarded_with("off");
    for field in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"] {
        assert_eq!(off.header(field), None, "{field}");
    }
}

#[test]
fn the_host_that_upstream_sees_is_configurable() {
    let host_of = |policy: Option<&str>| {
        let (upstream, larder) = with_server(&policy.map(|text| format!("host = {text:?}")).unwrap_or_default());
        larder.call("GET", "/a").header("Host", "api.example").send().has_status(200);
        let own = upstream.address().to_string();
        upstream.last("/a").headers("host").join(", ").replace(&own, "(upstream's own)")
    };
    assert_eq!(host_of(None), "api.example");
    assert_eq!(host_of(Some("upstream")), "(upstream's own)");
    assert_eq!(host_of(Some("client")), "api.example");
    assert_eq!(host_of(Some("fixed.example")), "fixed.example");
}

#[test]
fn statuses_fields_and_queries_pass_unchanged() {
    let site = site();
    site.upstream.on("/a", Reply::status(418).header("X-One", "1").header("X-One", "2"));
    let answer = site.get("/a?b=1&a=%20x&&c").has_status(418).carries("/a?b=1&a=%20x&&c #1");
    let ones: Vec<&str> =
        answer.headers.iter().filter(|(name, _)| name == "x-one").map(|(_, value)| value.as_str()).collect();
    assert_eq!(ones.join(", "), "1, 2");
}

#[test]
fn an_upstream_that_refuses_is_a_502() {
    let mut site = site();
    site.upstream.stop();
    site.get("/users").fails_with(502).shows("detail=upstream-unreachable");
    site.write("POST", "/users").fails_with(502);
    site.upstream.resume();
    site.get("/users").has_status(200).shows("stored");
}

#[test]
fn an_upstream_that_closes_without_an_answer_is_a_502() {
    let site = site();
    site.upstream.on("/users", Reply::none());
    site.get("/users").fails_with(502).shows("detail=upstream-closed");
}

#[test]
fn an_upstream_that_hangs_is_a_504() {
    let site = Site::start(Tier::Embedded, &format!("[server]\nupstream_timeout = \"3s\"\n{RULES}"));
    let gate = site.upstream.hold_all("/users");
    site.get("/users").fails_with(504).shows("detail=upstream-timeout");
    gate.open();
    site.get("/users").has_status(200);
}

#[test]
fn ambiguous_requests_are_refused() {
    let site = site();
    let requests = [
        "GET /users HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /users HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        "GET /users HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
    ];
    for request in requests {
        let answer = send_raw(site.address, request.as_bytes(), false).unwrap().response();
        answer.fails_with(400);
    }
    assert_eq!(site.upstream.count("/users"), 0);
}

#[test]
fn one_connection_serves_request_after_request() {
    let site = site();
    let request = |close: &str| format!("GET /users HTTP/1.1\r\nHost: a\r\n{close}\r\n");
    let both = request("") + &request("Connection: close\r\n");
    let mut first = send_raw(site.address, both.as_bytes(), false).unwrap();
    assert_eq!(first.read_body(9).unwrap(), b"/users #1");
    first.next_response().response().shows("hit").carries("/users #1");
}

const MIB: u64 = 1 << 20;

#[test]
fn a_huge_response_streams_through_in_bounded_memory() {
    let site = site();
    site.get("/users");
    for reply in [Reply::filled(1024 * MIB), Reply::filled(1024 * MIB).chunked()] {
        site.upstream.on("/huge", reply.cached("max-age=60"));
        let before = site.peak_memory();
        assert_eq!(site.call("GET", "/huge").start().drain().unwrap(), 1024 * MIB);
        let grown = site.peak_memory().saturating_sub(before);
        assert!(grown < 64 * MIB, "{grown} bytes more than before");
    }
    site.upstream.on("/huge", Reply::numbered());
    site.get("/huge").hides("hit");
}

/// Those who wait for one fetch of a family share its body until it is too large to be stored, and after that too.
#[test]
fn a_huge_response_streams_through_to_all_who_wait_for_it_in_bounded_memory() {
    let (site, gate) = (site(), Gate::new());
    site.get("/fence");
    // Had upstream said the length, nobody would have waited for what cannot be stored.
    site.upstream.on("/users", Reply::filled(1024 * MIB).chunked().pause_after(1000, &gate));
    let before = site.peak_memory();
    let start = || {
        let mut waiter = site.call("GET", "/users").start();
        assert_eq!(waiter.read_body(1000).unwrap().len(), 1000);
        waiter
    };
    let waiters = [start(), start(), start()];
    gate.open();
    let lengths = std::thread::scope(|scope| {
        let drained = waiters.map(|waiter| scope.spawn(|| waiter.drain().unwrap()));
        drained.map(|thread| thread.join().unwrap())
    });
    assert_eq!(lengths, [1024 * MIB - 1000; 3], "and the 1000 bytes before");
    assert_eq!(site.upstream.count("/users"), 1);
    let grown = site.peak_memory().saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes more than before");
    site.upstream.on("/users", Reply::numbered());
    site.get("/users").hides("hit").shows("stored");
}

#[test]
fn a_huge_response_waits_for_a_client_that_does_not_read() {
    let site = site();
    site.get("/users");
    site.upstream.on("/huge", Reply::filled(128 * MIB).cached("max-age=60"));
    let before = site.peak_memory();
    let mut slow = site.call("GET", "/huge").start();
    slow.head();
    // Other requests go on meanwhile; the slow client's response is not fetched ahead of it.
    for _ in 0..50 {
        site.get("/users").shows("hit");
    }
    assert_eq!(slow.drain().unwrap(), 128 * MIB);
    let grown = site.peak_memory().saturating_sub(before);
    assert!(grown < 64 * MIB, "{grown} bytes more than before");
}

#[test]
fn a_huge_request_streams_through_in_bounded_memory() {
    let site = site();
    site.get("/users");
    let before = site.peak_memory();
    let body = vec![b'u'; 96 * MIB as usize];
    site.call("POST", "/things").body(body).send().carries("done");
    assert_eq!(site.upstream.last("POST /things").body.len() as u64, 96 * MIB);
    let grown = site.peak_memory().saturating_sub(before);
    assert!(grown < 48 * MIB, "{grown} bytes more than before");
}
