//! RFC 9112 §9, RFC 9110 §7.8, §10.1.1 and §15.2: interim responses, upgrades, event streams and retries, and clients
//! and upstreams that are slow, gone, or use HTTP/2.

use super::wire::{Bench, Wire, field};
use crate::support::{Site, Tier, eventually};

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";

// ---- Expect: 100-continue (RFC 9110 §10.1.1)

const EXPECTING: &str = "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";

#[test]
fn a_100_is_sent_to_the_client_when_upstream_sends_one() {
    let bench = Bench::start("");
    let mut client = bench.client(EXPECTING);
    let mut upstream = bench.upstream();
    assert_eq!(field(&upstream.head(), "expect"), Some("100-continue"));
    assert!(client.is_silent(), "nobody has asked for the content");
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.head(), ["HTTP/1.1 100 Continue"]);
    client.send("abc");
    assert_eq!(upstream.take(3), "abc");
    upstream.send(OK);
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
}

#[test]
fn a_final_response_reaches_a_client_that_waits_for_a_100() {
    let bench = Bench::start("");
    let (mut client, mut upstream) = bench.forwarded(EXPECTING);
    // The response takes longer than any wait for a 100, and is complete.
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno");
    let head = client.head();
    assert_eq!((head[0].as_str(), field(&head, "connection")), ("HTTP/1.1 403 Forbidden", Some("close")));
    assert_eq!(client.take(2), "no");
    upstream.send("pe");
    assert_eq!(client.take(2), "pe");
    assert_eq!(
        upstream.rest(),
        "",
        "no content was asked for, none was sent, and the connection is not used again"
    );
    assert_eq!(client.rest(), "", "and no 100 came behind the answer");
}

#[test]
fn content_is_sent_after_a_timeout_if_upstream_sends_no_100() {
    let bench = Bench::start("");
    let (mut client, mut upstream) = bench.forwarded(EXPECTING);
    assert_eq!(client.head(), ["HTTP/1.1 100 Continue"]);
    client.send("abc");
    assert_eq!(upstream.take(3), "abc");
    upstream.send(OK);
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
    assert_eq!(client.take(2), "ok");
}

#[test]
fn expect_without_content_is_dropped() {
    let site = Site::start(Tier::Embedded, "");
    for method in ["GET", "DELETE"] {
        site.call(method, "/a").header("Expect", "100-continue").send().has_status(200);
        assert_eq!(site.upstream.last(&format!("{method} /a")).header("expect"), None);
    }
}

#[test]
fn expect_is_ignored_in_http_1_0() {
    let bench = Bench::start("");
    let mut client = bench.client(&EXPECTING.replace("HTTP/1.1", "HTTP/1.0"));
    client.send("abc");
    let mut upstream = bench.upstream();
    assert_eq!(field(&upstream.head(), "expect"), None);
    assert_eq!(upstream.take(3), "abc");
    upstream.send(OK);
    assert_eq!(client.head()[0], "HTTP/1.0 200 OK");
}

// ---- Interim responses (RFC 9110 §15.2, RFC 8297)

#[test]
fn interim_responses_are_forwarded_with_their_end_to_end_fields() {
    let bench = Bench::start("[[family]]\nname = \"a\"\npath = '/a'\nttl = \"60s\"\n");
    for method in ["GET", "POST", "OPTIONS", "HEAD"] {
        let (mut client, mut upstream) =
            bench.forwarded(&format!("{method} /{method} HTTP/1.1\r\nHost: a\r\n\r\n"));
        upstream.send(HINTS);
        assert_eq!(client.head(), ["HTTP/1.1 103 Early Hints", "link: </a>; rel=preload"], "{method}");
        upstream.send("HTTP/1.1 102 Processing\r\n\r\n");
        assert_eq!(client.head(), ["HTTP/1.1 102 Processing"], "{method}");
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.head()[0], "HTTP/1.1 200 OK", "{method}");
    }
}

#[test]
fn interim_responses_precede_a_final_response_in_the_same_packet() {
    let bench = Bench::start("");
    let (mut client, mut upstream) = bench.forwarded(GET);
    upstream.send([HINTS, HINTS, OK].concat());
    for _ in 0..2 {
        assert_eq!(client.head()[0], "HTTP/1.1 103 Early Hints");
    }
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
    assert_eq!(client.take(2), "ok");
}

/// The first answer is more than fits between Larder and its client. What comes when the end of it is still to be written
/// is shown in `src/server/early.rs`.
#[test]
fn interim_responses_keep_their_place_in_a_pipeline() {
    const LENGTH: usize = 32 << 20;
    let bench = Bench::start("");
    let (mut client, mut upstream) = bench.forwarded(&[GET, &GET.replace("/a", "/b")].concat());
    let first = std::thread::spawn(move || {
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n\r\n"));
        upstream.send(vec![b'x'; LENGTH]);
    });
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
    let body = client.take(LENGTH);
    assert!(body.bytes().all(|byte| byte == b'x'));
    first.join().unwrap();
    let mut upstream = bench.upstream();
    upstream.head();
    upstream.send([HINTS, OK].concat());
    assert_eq!(client.head()[0], "HTTP/1.1 103 Early Hints");
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
    assert_eq!(client.take(2), "ok");
}

#[test]
fn interim_responses_are_neither_sent_to_http_1_0_nor_stored() {
    let bench = Bench::start("[[family]]\nname = \"a\"\npath = '/a'\nttl = \"60s\"\n");
    let (mut client, mut upstream) = bench.forwarded("GET /a HTTP/1.0\r\nHost: a\r\n\r\n");
    upstream.send([HINTS, OK].concat());
    assert_eq!(client.head()[0], "HTTP/1.0 200 OK");
    assert_eq!(client.rest(), "ok");
    let mut client = bench.client(GET);
    let head = client.head();
    assert_eq!((head[0].as_str(), field(&head, "link")), ("HTTP/1.1 200 OK", None));
    assert!(field(&head, "cache-status").unwrap().contains("hit"), "{head:?}");
}

// ---- Upgrade (RFC 9110 §7.8)

const WEBSOCKET: &str = "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, keep-alive\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: x\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: y\r\n\r\n";

fn switched(bench: &Bench) -> (Wire, Wire) {
    let mut client = bench.client(WEBSOCKET);
    let mut upstream = bench.upstream();
    let asked = upstream.head();
    assert_eq!((field(&asked, "upgrade"), field(&asked, "connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(field(&asked, "sec-websocket-key"), Some("x"));
    // What upstream sends with its 101 belongs to the new protocol already.
    upstream.send([SWITCHED, "first"].concat());
    let head = client.head();
    assert_eq!(head[0], "HTTP/1.1 101 Switching Protocols");
    assert_eq!((field(&head, "upgrade"), field(&head, "connection")), (Some("websocket"), Some("upgrade")));
    assert_eq!(field(&head, "sec-websocket-accept"), Some("y"));
    assert_eq!(client.take(5), "first");
    (client, upstream)
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways_until_it_ends() {
    let bench = Bench::start("");
    let (mut client, mut upstream) = switched(&bench);
    client.send("GET / HTTP/1.1\r\n\r\n\0");
    assert_eq!(upstream.take(19), "GET / HTTP/1.1\r\n\r\n\0");
    upstream.send("pong");
    assert_eq!(client.take(4), "pong");
    client.finish();
    assert_eq!(upstream.rest(), "");
    upstream.send("last words");
    upstream.leave();
    assert_eq!(client.rest(), "last words");
}

#[test]
fn bytes_of_the_new_protocol_pass_unchanged_even_before_the_101() {
    const BYTES: &str = "GET /< x\"\r\nA: b\nC\n\n\r\n\r\n";
    let bench = Bench::start("");
    let (mut client, mut upstream) = bench.forwarded(&[WEBSOCKET, BYTES].concat());
    client.send(BYTES);
    upstream.send(SWITCHED);
    assert_eq!(client.head()[0], "HTTP/1.1 101 Switching Protocols");
    client.send(BYTES);
    assert_eq!(upstream.take(3 * BYTES.len()), BYTES.repeat(3));
}

#[test]
fn an_upgraded_connection_ends_after_a_long_silence() {
    let bench = Bench::start("[server]\nidle_timeout = \"100ms\"\nstream_timeout = \"2s\"\n");
    let (mut client, mut upstream) = switched(&bench);
    client.send("ping");
    assert_eq!(upstream.take(4), "ping");
    assert_eq!((client.rest(), upstream.rest()), (String::new(), String::new()));
}

#[test]
fn an_upgraded_connection_counts_as_a_stream_not_as_a_request() {
    let bench = Bench::start("[server]\nmax_upstream_requests = 1\nmax_upstream_streams = 1\n");
    let (client, upstream) = switched(&bench);
    let mut another = bench.client(GET);
    let mut second = bench.upstream();
    second.head();
    second.send(OK);
    assert_eq!(another.head()[0], "HTTP/1.1 200 OK");
    let mut refused = bench.client(WEBSOCKET);
    second.head();
    second.send(SWITCHED);
    let head = refused.head();
    assert_eq!(head[0], "HTTP/1.1 503 Service Unavailable");
    assert_eq!(field(&head, "retry-after"), Some("1"));
    assert_eq!(second.rest(), "", "nobody speaks the other protocol");
    client.leave();
    upstream.leave();
    eventually("the place is free", || {
        bench.larder.admin_get("/metrics").text().contains("\nlarder_upstream_streams 0\n")
    });
    switched(&bench);
}

#[test]
fn an_upgraded_connection_counts_towards_the_clients_connections() {
    let bench = Bench::start("[server]\nmax_connections = 1\n");
    let (client, upstream) = switched(&bench);
    let connections = || {
        let text = bench.larder.admin_get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix("larder_connections ")?.parse::<u64>().ok());
        line.expect("it is always exposed")
    };
    assert_eq!(connections(), 1);
    assert_eq!(bench.client(GET).head()[0], "HTTP/1.1 429 Too Many Requests");
    client.leave();
    upstream.leave();
    eventually("its place is free", || connections() == 0);
    let mut next = bench.client(GET);
    let mut upstream = bench.upstream();
    upstream.head();
    upstream.send(OK);
    assert_eq!(next.head()[0], "HTTP/1.1 200 OK");
}

#[test]
fn a_shutdown_waits_for_upgraded_connections() {
    let mut bench = Bench::start("[server]\ndrain_timeout = \"20s\"\n");
    let (mut client, mut upstream) = switched(&bench);
    bench.larder.terminate();
    eventually("it stops listening", || std::net::TcpStream::connect(bench.larder.address).is_err());
    client.send("ping");
    assert_eq!(upstream.take(4), "ping");
    client.leave();
    upstream.leave();
    assert_eq!(bench.larder.wait(), Some(0));
}

/// A request for the admin whose content is awaited.
fn awaited_by_the_admin(bench: &Bench, content: &str) -> Wire {
    let mut operator = Wire::to(bench.larder.admin);
    let length = content.len();
    operator.send(format!(
        "POST /cache/invalidate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Expect: 100-continue\r\n\r\n"
    ));
    assert_eq!(operator.head(), ["HTTP/1.1 100 Continue"]);
    operator
}

fn stop_listening(bench: &Bench) {
    bench.larder.terminate();
    for address in [bench.larder.address, bench.larder.admin] {
        eventually("it stops listening", || std::net::TcpStream::connect(address).is_err());
    }
}

#[test]
fn a_shutdown_waits_for_requests_of_the_admin() {
    let mut bench = Bench::start("[server]\ndrain_timeout = \"60s\"\n");
    let content = r#"{"families":["*"]}"#;
    let mut operator = awaited_by_the_admin(&bench, content);
    stop_listening(&bench);
    operator.send(content);
    assert_eq!(operator.head()[0], "HTTP/1.1 200 OK");
    assert!(operator.rest().contains("\"receipt\""));
    assert_eq!(bench.larder.wait(), Some(0));
}

#[test]
fn a_shutdown_waits_for_responses_of_the_admin() {
    const REQUESTS: usize = 100;
    let mut bench = Bench::start("[server]\ndrain_timeout = \"60s\"\n");
    let mut operator = Wire::to(bench.larder.admin);
    // The requests are read at once, and the responses are more than the buffers of both sockets take.
    operator.send("GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(REQUESTS));
    let length = field(&operator.head(), "content-length").unwrap().parse().unwrap();
    stop_listening(&bench);
    let document = operator.take(length);
    let rest = operator.rest();
    assert!(rest.ends_with(&document), "cut off: {:?}", rest.lines().last());
    assert!(rest.matches(&document).count() < REQUESTS - 1, "the shutdown came after the last response");
    assert_eq!(bench.larder.wait(), Some(0));
}

#[test]
fn a_shutdown_ends_requests_of_the_admin_that_do_not_end() {
    let mut bench = Bench::start("[server]\nheader_timeout = \"5m\"\ndrain_timeout = \"500ms\"\n");
    let mut operator = Wire::to(bench.larder.admin);
    operator.send("GET /healthz HT");
    // Connections are accepted in their order.
    bench.larder.admin_get("/healthz").has_status(200);
    bench.larder.terminate();
    assert_eq!(bench.larder.wait(), Some(0));
    assert!(bench.larder.log().contains("drain_timeout is over"));
}

#[test]
fn an_upstream_may_ignore_or_refuse_an_upgrade() {
    let bench = Bench::start("[[family]]\nname = \"socket\"\npath = '/socket'\nttl = \"60s\"\n");
    for answer in [OK.to_owned(), OK.replace("200 OK", "426 Upgrade Required")] {
        let (mut client, mut upstream) = bench.forwarded(WEBSOCKET);
        upstream.send(answer.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
        let head = client.head();
        assert_eq!(head[0], answer.lines().next().unwrap());
        let status = field(&head, "cache-status").unwrap();
        assert!(status.contains("detail=upgrade") && !status.contains("stored"), "{status}");
    }
}

#[test]
fn an_upgrade_to_http_or_without_connection_upgrade_is_ignored() {
    let site = Site::start(Tier::Embedded, "[invalidate]\n'/b' = [\"*\"]\n");
    let ask = |method: &str, connection: &str, upgrade: &str, version: &str| {
        let fields = format!("Host: a\r\nConnection: close{connection}\r\nUpgrade: {upgrade}\r\n");
        site.raw(format!("{method} /a HTTP/1.{version}\r\n{fields}\r\n")).response().has_status(200)
    };
    ask("GET", ", upgrade", "h2c", "1");
    ask("GET", "", "websocket", "1");
    ask("GET", ", upgrade", "websocket", "0");
    // A write is a write, and invalidates: the offer is dropped.
    ask("POST", ", upgrade", "websocket", "1").shows("fwd=method");
    for received in site.upstream.requests("/a") {
        assert_eq!(received.header("upgrade"), None, "{received:?}");
    }
}

#[test]
fn an_upgrade_to_an_unknown_protocol_is_answered_from_the_cache() {
    let rules = "[server]\nupgrades = [\"Foo/2\"]\n[[family]]\nname = \"a\"\npath = '/a'\nttl = \"60s\"\n";
    let site = Site::start(Tier::Embedded, rules);
    let ask = |upgrade: &str| {
        let fields = format!("Host: a\r\nConnection: close, upgrade\r\nUpgrade: {upgrade}\r\n");
        site.raw(format!("GET /a HTTP/1.1\r\n{fields}\r\n")).response().has_status(200)
    };
    ask("foo").shows("stored");
    for unknown in ["websocket", "foo", "foo/1", "foo/20", "fo", "h2c", "h2c, x", "foo /2", "\"foo/2\"", ","] {
        ask(unknown).shows("hit");
    }
    ask("x, FOO/2").shows("detail=upgrade");
    assert_eq!(site.upstream.last("/a").header("upgrade"), Some("FOO/2"));
}

// ---- Long answers

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                      Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn events_pass_one_by_one_and_may_pause_for_stream_timeout() {
    let bench = Bench::start("[server]\nidle_timeout = \"1s\"\n");
    let (mut client, mut upstream) = bench.forwarded(GET);
    upstream.send([EVENTS, "5\r\none\n\n\r\n"].concat());
    client.head();
    assert_eq!(client.take(10), "5\r\none\n\n\r\n");
    // Another answer falls silent at the same time: when that has been aborted, the limit has passed for both.
    let mut other = bench.client(&GET.replace("/a", "/b"));
    let mut silent = bench.upstream();
    silent.head();
    silent.send("HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 10\r\n\r\nabc");
    other.head();
    assert_eq!(other.rest(), "abc");
    upstream.send("5\r\ntwo\n\n\r\n0\r\n\r\n");
    assert_eq!(client.take(15), "5\r\ntwo\n\n\r\n0\r\n\r\n");
}

#[test]
fn an_event_stream_without_events_ends_after_stream_timeout() {
    let bench = Bench::start("[server]\nstream_timeout = \"1s\"\n");
    let (mut client, mut upstream) = bench.forwarded(GET);
    upstream.send(EVENTS);
    client.head();
    assert_eq!((client.rest(), upstream.rest()), (String::new(), String::new()));
}

#[test]
fn a_client_that_closes_an_event_stream_closes_it_at_upstream() {
    let bench = Bench::start("");
    let (mut client, mut upstream) = bench.forwarded(GET);
    upstream.send([EVENTS, "5\r\none\n\n\r\n"].concat());
    client.head();
    assert_eq!(client.take(10), "5\r\none\n\n\r\n");
    client.leave();
    assert_eq!(upstream.rest(), "");
}

// ---- Requests whose connection to upstream closes (RFC 9110 §9.2.2, RFC 9112 §9.3.1)

/// A Larder whose pooled connection to upstream is controlled by the test.
fn pooled() -> (Bench, Wire) {
    let bench = Bench::start("");
    let (mut client, mut upstream) =
        bench.forwarded("GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    upstream.send(OK);
    assert!(client.rest().ends_with("ok"));
    (bench, upstream)
}

/// The next request to upstream, on a new connection, is this one.
fn next_is(bench: &Bench, path: &str) {
    let mut client = bench.client(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut upstream = bench.upstream();
    assert!(upstream.head()[0].starts_with(&format!("GET {path} ")), "an earlier one was repeated");
    upstream.send(OK);
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
}

#[test]
fn a_read_lost_on_an_idle_connection_is_retried_once() {
    let (bench, mut upstream) = pooled();
    let mut client = bench.client(GET);
    upstream.head();
    upstream.leave();
    let mut again = bench.upstream();
    assert_eq!(again.head()[0], "GET /a HTTP/1.1");
    again.send(OK);
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
}

#[test]
fn a_partly_answered_read_is_not_retried() {
    for begun in ["H", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 102 Processing\r\n\r\n"] {
        let (bench, mut upstream) = pooled();
        let mut client = bench.client(GET);
        upstream.head();
        upstream.send(begun);
        upstream.leave();
        let mut head = client.head();
        if head[0].contains("102") {
            head = client.head();
        }
        assert_eq!(head[0], "HTTP/1.1 502 Bad Gateway", "{begun:?}");
        next_is(&bench, "/next");
    }
}

#[test]
fn a_read_lost_on_a_new_connection_is_not_retried() {
    for begun in ["", "HTTP/1.1 102 Processing\r\n\r\n"] {
        let bench = Bench::start("");
        let (mut client, mut upstream) =
            bench.forwarded("HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        upstream.send(begun);
        upstream.leave();
        assert!(client.rest().contains("HTTP/1.1 502 Bad Gateway"), "{begun:?}");
        next_is(&bench, "/next");
    }
}

// ---- Places at upstream

#[test]
fn the_queue_for_upstream_is_bounded_and_drops_requests_of_gone_clients() {
    let bench = Bench::start("[server]\nmax_upstream_requests = 1\nupstream_timeout = \"1h\"\n");
    let mut first = bench.client(GET);
    let mut upstream = bench.upstream();
    upstream.head();
    let mut waiting = ["/b", "/c"].map(|path| bench.client(&GET.replace("/a", path)));
    eventually("one is refused", || waiting.iter_mut().any(|client| !client.is_silent()));
    let refused = usize::from(waiting[0].is_silent());
    assert_eq!(waiting[refused].head()[0], "HTTP/1.1 503 Service Unavailable");
    waiting.into_iter().for_each(Wire::leave);
    eventually("nobody waits any more", || {
        bench.larder.admin_get("/metrics").text().contains("\nlarder_connections 1\n")
    });
    let mut last = bench.client(&GET.replace("/a", "/d"));
    upstream.send(OK);
    assert_eq!(first.head()[0], "HTTP/1.1 200 OK");
    assert_eq!(upstream.head()[0], "GET /d HTTP/1.1");
    upstream.send(OK);
    assert_eq!(last.head()[0], "HTTP/1.1 200 OK");
}

#[test]
fn a_client_over_its_share_gets_429_while_others_are_served() {
    let bench = Bench::start("[server]\nmax_upstream_requests = 4\nmax_upstream_requests_per_client = 1\n");
    let of = |client: &str, path: &str| {
        bench.client(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n"))
    };
    let _held = of("198.51.100.7", "/a");
    let mut upstream = bench.upstream();
    upstream.head();
    let _waiting = of("198.51.100.7", "/b");
    eventually("one waits", || bench.larder.admin_get("/metrics").text().contains("\nlarder_upstream_queued 1\n"));
    let head = of("198.51.100.7", "/c").head();
    assert_eq!(head[0], "HTTP/1.1 429 Too Many Requests");
    assert_eq!(field(&head, "retry-after"), Some("1"));
    assert!(field(&head, "cache-status").is_some_and(|status| status.contains("detail=client-overloaded")));
    let metrics = bench.larder.admin_get("/metrics").text();
    assert!(metrics.contains("larder_refused_total{what=\"upstream-requests\",bound=\"client\"} 1"), "{metrics}");
    // Nor do others wait for the turn of its fetch of the same resource.
    for path in ["/d", "/b"] {
        let mut other = of("198.51.100.8", path);
        let mut upstream = bench.upstream();
        assert_eq!(upstream.head()[0], format!("GET {path} HTTP/1.1"));
        upstream.send(OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
        assert_eq!(other.head()[0], "HTTP/1.1 200 OK");
    }
}

const ENDLESS: &str =
    "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
const KNOWN: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\no";

#[test]
fn a_fetch_without_clients_continues_only_if_its_length_is_known() {
    let bench = Bench::start("[server]\nupstream_timeout = \"3s\"\n");
    let [mut known, mut endless] = [("/a", KNOWN), ("/b", ENDLESS)].map(|(path, answer)| {
        let (mut client, mut upstream) = bench.forwarded(&GET.replace("/a", path));
        upstream.send(answer);
        client.head();
        client.leave();
        upstream
    });
    assert_eq!(endless.rest(), "", "it is aborted");
    known.send("k");
    eventually("the other one is stored", || {
        let head = bench.client(GET).head();
        field(&head, "cache-status").is_some_and(|status| status.contains("hit"))
    });
}

#[test]
fn a_client_that_uploads_too_slowly_is_disconnected() {
    let bench = Bench::start("[server]\nmax_upstream_requests = 1\nidle_timeout = \"500ms\"\n");
    let mut client = bench.client("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    eventually("it is aborted", || {
        let is_over = !client.is_silent();
        if !is_over {
            client.send("x");
            std::thread::yield_now();
        }
        is_over
    });
    assert_eq!(client.head()[0], "HTTP/1.1 408 Request Timeout");
    next_is(&bench, "/next");
    // Nor is a burst any excuse.
    let mut client = bench
        .client(&format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(200_000)));
    let mut upstream = bench.upstream();
    upstream.head();
    assert_eq!(upstream.take(200_000).len(), 200_000);
    assert_eq!(client.head()[0], "HTTP/1.1 408 Request Timeout");
    next_is(&bench, "/next");
}

// ---- Slow clients, many clients, HTTP/2

const HASTE: &str = "[server]\nheader_timeout = \"1s\"\n";

#[test]
fn a_client_that_sends_nothing_is_disconnected() {
    let bench = Bench::start(HASTE);
    for beginning in ["", "P", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        assert_eq!(bench.client(beginning).rest(), "", "{beginning:?}");
    }
}

#[test]
fn a_client_with_an_unfinished_head_is_disconnected() {
    let bench = Bench::start(HASTE);
    for beginning in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let rest = bench.client(beginning).rest();
        assert!(!rest.contains(" 200 "), "{beginning:?}: {rest}");
    }
}

/// RFC 6585 §4
#[test]
fn a_connection_over_its_clients_share_is_refused_at_once() {
    let bench = Bench::start("[server]\nmax_connections = 4\n");
    let first = bench.client("G");
    eventually("it is counted", || bench.larder.admin_get("/metrics").text().contains("\nlarder_connections 1"));
    let head = bench.client(GET).head();
    assert_eq!(head[0], "HTTP/1.1 429 Too Many Requests");
    for field in ["retry-after: 1", "connection: close"] {
        assert!(head.iter().any(|line| line == field), "{head:?}");
    }
    assert_eq!(bench.larder.metric("larder_refused_total{what=\"connections\",bound=\"client\"}"), 1);
    first.leave();
    eventually("its place is free", || {
        bench.larder.admin_get("/metrics").text().contains("\nlarder_connections 0")
    });
    let mut next = bench.client(GET);
    let mut upstream = bench.upstream();
    upstream.head();
    upstream.send(OK);
    assert_eq!(next.head()[0], "HTTP/1.1 200 OK");
}
