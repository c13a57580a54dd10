//! RFC 9112 §8 and §9.6, RFC 9110 §10.1.1: content that upstream does not receive completely, and responses before
//! the end of the content.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http2;
use super::wire::{Bench, Wire, field};
use crate::support::client::Pending;
use crate::support::{Larder, Plan, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "list"
path = '/list'
ttl = "10m"

[invalidate]
'/things' = ["list"]
"#;

fn rules(server: &str) -> String {
    format!("[server]\n{server}\n{RULES}")
}

// ---- Content that ends early

/// So much of a content that no more is awaited before the request is sent to upstream.
const MUCH: usize = 70_000;

fn much() -> String {
    "x".repeat(MUCH)
}

/// The same as a chunk.
fn much_in_a_chunk() -> String {
    format!("{MUCH:x}\r\n{}\r\n", much())
}

/// Heads and partial content that never becomes complete, and of which nothing is sent to upstream.
const AWAITED: [(&str, &str); 4] = [
    ("Content-Length: 10", "x"),
    ("Content-Length: 100000", "some of it"),
    ("Transfer-Encoding: chunked", "5\r\nabcde\r\n"),
    ("Transfer-Encoding: chunked", "5\r\nabcde\r\n0\r\nX-Trailer: 1\r\n"),
];

/// The same, of which upstream is sent what there is.
fn sent() -> [(&'static str, String); 4] {
    [
        ("Content-Length: 100000", much()),
        ("Transfer-Encoding: chunked", much_in_a_chunk()),
        ("Transfer-Encoding: chunked", much_in_a_chunk() + "0\r\nX-Trailer: 1\r\n"),
        ("Content-Length: 10\r\nExpect: 100-continue", "x".to_owned()),
    ]
}

/// Chunks that are faulty.
const FAULTY: [&str; 3] = ["5\r\nabcde\r\nzz\r\n", "5\r\nabcdefg\r\n0\r\n\r\n", "-1\r\nabc\r\n0\r\n\r\n"];

fn head(framing: &str) -> String {
    format!("POST /things HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n")
}

/// How a client disconnects.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    Close,
    HalfClose,
    Reset,
}

fn send_part(site: &Site, framing: &str, part: &str, leaving: Leaving) {
    let mut client = Wire::to(site.address);
    client.send(head(framing));
    client.send(part);
    match leaving {
        Leaving::Close => drop(client),
        Leaving::HalfClose => {
            client.finish();
            let answer = client.rest();
            assert!(answer.contains("HTTP/1.1 400 Bad Request"), "{framing} {part:?}: {answer}");
            assert!(answer.contains("detail=request-body"), "{answer}");
        }
        Leaving::Reset => client.reset(),
    }
}

#[test]
fn a_write_with_truncated_content_invalidates_nothing() {
    let site = Site::start(Tier::Embedded, &rules(""));
    site.get("/list").shows("stored");
    let awaited = AWAITED.map(|(framing, part)| (framing, part.to_owned()));
    for (framing, part) in awaited.into_iter().chain(sent()) {
        // The last one is answered.
        for leaving in [Leaving::Close, Leaving::Reset, Leaving::HalfClose] {
            send_part(&site, framing, &part, leaving);
        }
    }
    site.get("/list").shows("hit").carries("/list #1");
    assert_eq!(site.upstream.count("POST /things"), 0, "upstream received none of them whole");
    site.write("POST", "/things").has_status(200);
    site.get("/list").hides("hit");
}

#[test]
fn an_invalid_chunk_gets_400_and_invalidates_nothing() {
    let site = Site::start(Tier::Embedded, &rules(""));
    site.get("/list").shows("stored");
    for faulty in FAULTY {
        let answer = site.raw(head("Transfer-Encoding: chunked") + faulty).response();
        answer.fails_with(400).shows("fwd=method; detail=request-body");
        let answer = site.raw(head("Transfer-Encoding: chunked") + &much_in_a_chunk() + faulty).response();
        answer.fails_with(400).shows("fwd=method; detail=request-body");
    }
    // Not of a write alone.
    for method in ["OPTIONS", "PROPFIND", "QUERY"] {
        let head = head("Transfer-Encoding: chunked").replace("POST", method);
        site.raw(head + FAULTY[0]).response().fails_with(400);
    }
    site.get("/list").shows("hit").carries("/list #1");
}

#[test]
fn on_incomplete_invalidate_makes_a_truncated_write_invalidate() {
    let site = Site::start(Tier::Embedded, &rules("on_incomplete = \"invalidate\""));
    for faulty in FAULTY {
        site.get("/list");
        // Nothing of it was sent.
        site.raw(head("Transfer-Encoding: chunked") + faulty).response().fails_with(400);
        site.get("/list").shows("hit");
        let sent = head("Transfer-Encoding: chunked") + &much_in_a_chunk() + faulty;
        site.raw(sent).response().fails_with(400);
        site.get("/list").shows("fwd=stale; detail=invalidated");
    }
}

#[test]
fn an_http_2_stream_reset_during_its_content_invalidates_nothing() {
    let site = Site::start(Tier::Embedded, &rules(""));
    let list = || site.call("GET", "/list").header("Host", "api.example").send();
    list().shows("stored");
    http2::run(async {
        http2::post_and_reset(&site, "/things", 10, "some").await;
        http2::post_and_reset(&site, "/things", 3, &much()).await;
    });
    list().shows("hit").carries("/list #1");
    assert_eq!(site.upstream.count("POST /things"), 0);
}

#[test]
fn upstream_can_tell_that_content_is_incomplete() {
    for (framing, part) in sent() {
        let bench = Bench::start("");
        let (mut client, mut upstream) = bench.forwarded(&(head(framing) + &part));
        if framing.contains("Expect") {
            upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
            client.head();
        }
        let length = part.matches('x').count();
        let mut content = upstream.take(length);
        client.leave();
        content += &upstream.rest();
        assert_eq!(content.matches('x').count(), length, "{framing}");
        assert!(!content.contains("\r\n0\r\n"), "{framing}: no last chunk comes");
    }
}

#[test]
fn a_write_that_upstream_received_completely_invalidates() {
    let chunked = "Transfer-Encoding: chunked";
    let with_trailer = "Transfer-Encoding: chunked\r\nTrailer: X-Trailer";
    // And what upstream is sent of it at least.
    for (framing, content, sent) in [
        ("Content-Length: 3", "abc", "abc"),
        (chunked, "3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        (chunked, "0\r\n\r\n", ""),
        (with_trailer, "3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n", "3\r\nabc\r\n0\r\n"),
    ] {
        let mut shelf = Shelf::start("");
        let client = shelf.bench.client(&(head(framing) + content));
        let mut upstream = shelf.bench.upstream();
        upstream.head();
        assert_eq!(upstream.take(sent.len()), sent);
        client.leave();
        upstream.leave();
        shelf.is_invalidated();
    }
}

#[test]
fn a_client_that_sends_too_slowly_invalidates_nothing() {
    let mut shelf = Shelf::start("idle_timeout = \"200ms\"");
    // Nothing of it is sent.
    let mut client = shelf.bench.client(&(head("Content-Length: 100000") + "some"));
    assert_eq!(client.head()[0], "HTTP/1.1 408 Request Timeout");
    assert!(shelf.bench.accepted().is_none());
    let mut client = shelf.bench.client(&(head("Content-Length: 100000") + &much()));
    let mut upstream = shelf.bench.upstream();
    upstream.head();
    assert_eq!(client.head()[0], "HTTP/1.1 408 Request Timeout");
    assert_eq!(upstream.rest(), much(), "and upstream sees that it is incomplete");
    shelf.is_kept();
}

#[test]
fn a_write_whose_content_upstream_abandons_invalidates_nothing() {
    let mut shelf = Shelf::start("");
    let mut client = shelf.bench.client(&(head("Content-Length: 100000") + &much()));
    let mut upstream = shelf.bench.upstream();
    upstream.head();
    upstream.leave();
    assert_eq!(client.head()[0], "HTTP/1.1 502 Bad Gateway");
    shelf.is_kept();
}

#[test]
fn a_write_abandoned_during_its_content_is_never_completed() {
    let mut shelf = Shelf::start("upstream_timeout = \"300ms\"\nupload_rate = \"0B\"");
    let mut client = shelf.bench.client(&(head(&format!("Content-Length: {}", MUCH + 4)) + &much()));
    let mut upstream = shelf.bench.upstream();
    upstream.head();
    assert_eq!(client.head()[0], "HTTP/1.1 504 Gateway Timeout");
    // The rest arrives too late.
    let _ = client.try_send("rest");
    assert_eq!(upstream.rest(), much());
    shelf.is_kept();
}

/// A Larder whose upstream is controlled by the test, with `/list` stored.
struct Shelf {
    bench: Bench,
}

impl Shelf {
    fn start(server: &str) -> Shelf {
        let bench = Bench::start(&rules(server));
        let shelf = Shelf { bench };
        shelf.store();
        shelf
    }

    /// Has it fetched and stored.
    fn store(&self) {
        let mut client = self.bench.client("GET /list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut upstream = self.bench.upstream();
        upstream.head();
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nold");
        let response = client.rest();
        assert!(response.contains("; stored") && response.ends_with("old"), "{response}");
    }

    fn status(&self) -> String {
        let fields = "Host: localhost\r\nCache-Control: only-if-cached\r\nConnection: close";
        self.bench.client(&format!("GET /list HTTP/1.1\r\n{fields}\r\n\r\n")).head()[0].clone()
    }

    #[track_caller]
    fn is_kept(&mut self) {
        assert_eq!(self.status(), "HTTP/1.1 200 OK");
    }

    #[track_caller]
    fn is_invalidated(&mut self) {
        eventually("it is invalidated", || self.status() == "HTTP/1.1 504 Gateway Timeout");
    }
}

// ---- Answers that come before the end of the content

const UNFINISHED: &str = "Content-Length: 1000000";

fn early(status: &str, fields: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{fields}\r\n{body}", body.len())
}

#[test]
fn an_early_response_is_judged_like_any_other() {
    for (status, is_kept) in [
        ("200 OK", false),
        ("303 See Other", false),
        ("401 Unauthorized", true),
        ("413 Content Too Large", true),
        ("503 Service Unavailable", true),
        // From a gateway that cannot have received the complete request either.
        ("502 Bad Gateway", true),
        ("504 Gateway Timeout", true),
    ] {
        let mut shelf = Shelf::start("");
        let mut client = shelf.bench.client(&(head(UNFINISHED) + &much()));
        let mut upstream = shelf.bench.upstream();
        upstream.head();
        upstream.take(MUCH);
        upstream.send(early(status, "Connection: close\r\n", "why"));
        upstream.leave();
        let head = client.head();
        assert_eq!(head[0], format!("HTTP/1.1 {status}"));
        assert_eq!(field(&head, "connection"), Some("close"), "{status}: nobody takes the rest");
        assert_eq!(client.take(3), "why");
        if is_kept { shelf.is_kept() } else { shelf.is_invalidated() }
    }
}

#[test]
fn a_write_that_continues_after_its_response_invalidates_again() {
    let mut shelf = Shelf::start("reinvalidate_after = \"2s\"");
    let mut client = shelf.bench.client(&(head(UNFINISHED) + &much()));
    let mut upstream = shelf.bench.upstream();
    upstream.head();
    upstream.send(early("202 Accepted", "", ""));
    assert_eq!(client.head()[0], "HTTP/1.1 202 Accepted");
    shelf.is_invalidated();
    shelf.store();
    shelf.is_invalidated();
}

/// Takes content, in whatever chunks, until this letter has come so many times.
fn take_all(upstream: &mut Wire, letter: char, mut count: usize) {
    while count > 0 {
        count -= usize::from(upstream.take(1).starts_with(letter));
    }
}

/// A write whose first part has been answered, and its two ends. The entries that it invalidates are stored again.
fn answered_early(shelf: &mut Shelf, status: &str, framing: &str, part: &str) -> (Wire, Wire) {
    let mut client = shelf.bench.client(&(head(framing) + part));
    let mut upstream = shelf.bench.upstream();
    upstream.head();
    take_all(&mut upstream, 'x', MUCH);
    upstream.send(early(status, "", ""));
    assert_eq!(client.head()[0], format!("HTTP/1.1 {status}"));
    if status.starts_with('2') {
        shelf.is_invalidated();
        shelf.store();
    }
    (client, upstream)
}

#[test]
fn an_early_answered_write_invalidates_again_when_its_content_is_complete() {
    let length = format!("Content-Length: {}", MUCH + 4);
    let in_a_chunk = much_in_a_chunk();
    for (framing, part, rest) in
        [(length.as_str(), much(), "rest"), ("Transfer-Encoding: chunked", in_a_chunk, "4\r\nrest\r\n0\r\n\r\n")]
    {
        // Of a gateway that has the rest now.
        for status in ["201 Created", "502 Bad Gateway"] {
            let mut shelf = Shelf::start("reinvalidate_after = \"1h\"");
            let (mut client, mut upstream) = answered_early(&mut shelf, status, framing, &part);
            shelf.is_kept();
            client.send(rest);
            take_all(&mut upstream, 't', 1);
            shelf.is_invalidated();
        }
    }
}

#[test]
fn an_early_refused_write_invalidates_nothing_when_its_content_ends() {
    let mut shelf = Shelf::start("");
    let length = format!("Content-Length: {}", MUCH + 4);
    let (mut client, mut upstream) = answered_early(&mut shelf, "413 Content Too Large", &length, &much());
    client.send("rest");
    assert_eq!(upstream.take(4), "rest");
    // The next request of the connection is read when the one before is over.
    client.send("HEAD /list HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
    shelf.is_kept();
}

#[test]
fn an_early_answered_truncated_write_invalidates_again_with_on_incomplete() {
    for on_incomplete in ["ignore", "invalidate"] {
        let server = format!("reinvalidate_after = \"1h\"\non_incomplete = \"{on_incomplete}\"");
        let mut shelf = Shelf::start(&server);
        let (client, mut upstream) = answered_early(&mut shelf, "200 OK", "Content-Length: 100000", &much());
        client.leave();
        assert_eq!(upstream.rest(), "", "it is incomplete");
        if on_incomplete == "ignore" { shelf.is_kept() } else { shelf.is_invalidated() }
    }
}

#[test]
fn shutdown_invalidates_for_early_answered_writes_still_uploading() {
    let server = "connect_timeout = \"1s\"\nupstream_timeout = \"3s\"\ndrain_timeout = \"500ms\"";
    let rules = rules(&format!("{server}\nreinvalidate_after = \"1h\""));
    let mut site = Site::start(Tier::Redis, &rules);
    let redis = site.redis().url();
    for end in [Larder::kill, |larder: &mut Larder| larder.terminate()] {
        let mut bench = Bench::start_as(|plan| plan.rules(&rules).redis(&redis));
        let (mut client, mut upstream) = bench.forwarded(&(head(UNFINISHED) + &much()));
        upstream.send(early("200 OK", "", ""));
        assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
        let before = site.get("/list").text();
        site.get("/list").shows("hit").carries(&before);
        end(&mut bench.larder);
        eventually("it is invalidated", || site.get("/list").text() != before);
    }
}

#[test]
fn a_client_can_continue_sending_after_an_early_response() {
    let shelf = Shelf::start("");
    let mut client = shelf.bench.client(&(head(&format!("Content-Length: {}", MUCH + 4)) + &much()));
    let mut upstream = shelf.bench.upstream();
    upstream.head();
    assert_eq!(upstream.take(MUCH), much());
    upstream.send(early("404 Not Found", "", "yes"));
    let head = client.head();
    assert_eq!((head[0].as_str(), field(&head, "connection")), ("HTTP/1.1 404 Not Found", None));
    assert_eq!(client.take(3), "yes");
    client.send("rest");
    assert_eq!(upstream.take(4), "rest");
    client.send("HEAD /list HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK", "and with its next request");
}

#[test]
fn an_early_response_is_completed_when_the_client_stops_sending() {
    let bench = Bench::start("");
    let (mut client, mut upstream) = bench.forwarded(&(head(UNFINISHED) + &much()));
    upstream.take(MUCH);
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 6\r\n\r\nwhy");
    client.head();
    assert_eq!(client.take(3), "why");
    client.finish();
    // The client's end has been seen when upstream's connection has had its chance to end.
    let mut other = bench.client("GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut second = bench.upstream();
    second.head();
    second.send(early("200 OK", "", ""));
    other.head();
    upstream.send("not");
    assert_eq!(client.take(3), "not");
    assert_eq!(upstream.rest(), "", "then its connection ends");
}

// ---- Content that continues after the response

/// What follows [`MUCH`], more than a client may send of heads.
const MORE: usize = 200_000;

/// A write whose response is complete while [`MORE`] of its content is outstanding: its client and upstream.
fn answered(bench: &Bench) -> (Wire, Wire) {
    let (mut client, mut upstream) =
        bench.forwarded(&(head(&format!("Content-Length: {}", MUCH + MORE)) + &much()));
    upstream.take(MUCH);
    upstream.send(early("200 OK", "", "yes"));
    client.head();
    assert_eq!(client.take(3), "yes");
    (client, upstream)
}

/// The rest of its content reaches upstream.
#[track_caller]
fn finish(client: &mut Wire, upstream: &mut Wire) {
    let more = "y".repeat(MORE);
    client.send(&more);
    assert_eq!(upstream.take(MORE), more);
}

fn server(table: &str) -> Bench {
    Bench::start(&format!("[server]\n{table}\n"))
}

#[test]
fn a_request_occupies_its_upstream_slot_until_its_content_ends() {
    let bench = server("max_upstream_requests = 1\nupstream_timeout = \"3s\"");
    let (mut client, mut upstream) = answered(&bench);
    let get = "GET /other HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(bench.client(get).head()[0], "HTTP/1.1 503 Service Unavailable");
    finish(&mut client, &mut upstream);
    eventually("the place is free", || bench.larder.metric("larder_upstream_requests") == 0);
}

#[test]
fn a_connection_still_receiving_content_is_not_closed_to_make_room() {
    let bench = server("max_connections = 1");
    let (mut client, mut upstream) = answered(&bench);
    let mut refused = Wire::from_elsewhere(bench.larder.address);
    refused.send("GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let refused = refused.rest();
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    finish(&mut client, &mut upstream);
}

#[test]
fn remaining_content_after_an_early_response_is_not_read_as_a_head() {
    let bench = server("max_head = \"16KiB\"\nmax_heads = \"256KiB\"");
    let (mut client, mut upstream) = answered(&bench);
    finish(&mut client, &mut upstream);
}

#[test]
fn missing_content_after_an_early_response_times_out() {
    let bench = server("idle_timeout = \"3s\"\nupload_rate = \"0B\"");
    let (mut client, mut upstream) = answered(&bench);
    assert_eq!(upstream.rest(), "", "it is incomplete");
    assert_eq!(client.rest(), "");
    eventually("the place is free", || bench.larder.metric("larder_upstream_requests") == 0);
}

#[test]
fn content_that_upstream_stops_reading_after_its_response_is_dropped() {
    let bench = server("idle_timeout = \"3s\"\nupload_rate = \"0B\"");
    let mut client = bench.client(&head("Content-Length: 1000000000"));
    let mut sender = client.again();
    let sending = thread::spawn(move || while sender.try_send([b'x'; 10_000]) {});
    let mut upstream = bench.upstream();
    upstream.head();
    upstream.send(early("200 OK", "", "yes"));
    client.head();
    assert_eq!(client.take(3), "yes");
    eventually("the place is free", || bench.larder.metric("larder_upstream_requests") == 0);
    client.leave();
    sending.join().unwrap();
    upstream.rest();
}

/// Content that arrives piece by piece.
struct Pieces(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece))))
    }
}

#[test]
fn an_http_2_connection_is_not_idle_while_content_still_arrives() {
    let bench = server("header_timeout = \"1s\"");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pieces, body) = tokio::sync::mpsc::channel(1);
    pieces.try_send(Bytes::from(much())).unwrap();
    let address = bench.larder.address;
    let response = runtime.spawn(async move {
        let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://api.example/things").body(Pieces(body)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap().to_bytes();
        sender
    });
    let mut upstream = bench.upstream();
    upstream.head();
    take_all(&mut upstream, 'x', MUCH);
    upstream.send(early("200 OK", "", "yes"));
    let _sender = runtime.block_on(response).unwrap();
    for _ in 0..3 {
        // One on which nothing is under way lasts as long as an idle one may.
        bench.client("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").end();
    }
    pieces.blocking_send(Bytes::from_static(b"the end")).unwrap();
    take_all(&mut upstream, 'd', 1);
}

// ---- Answers and closes

const LENGTH: usize = 2_000_000;

/// An upstream that answers as soon as it has the head, and closes: its kernel resets the connection for the rest.
fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 100]);
            let _ =
                stream.write_all(early("413 Content Too Large", "Connection: close\r\n", "too large").as_bytes());
        }
    });
    address
}

#[test]
fn a_response_and_close_during_the_content_reach_every_client() {
    let larder = Plan::new(&format!("http://{}", refusing())).start();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(larder.address).unwrap();
        stream.write_all(head(&format!("Content-Length: {LENGTH}")).as_bytes()).unwrap();
        // All of it, before it reads.
        stream.write_all(&vec![b'x'; LENGTH]).unwrap();
        Pending::of(stream).response().has_status(413).carries("too large");
    }
}

#[test]
fn a_response_during_the_content_reaches_an_http_2_client() {
    let larder = Plan::new(&format!("http://{}", refusing())).start();
    http2::run(async {
        let mut sender = http2::connect(&larder).await;
        for _ in 0..20 {
            let body = Full::new(Bytes::from(vec![b'x'; LENGTH]));
            let request = http::Request::post("http://api.example/things").body(body).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 413);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "too large");
        }
    });
}

// ---- Redirects to a login

#[test]
fn a_write_redirected_to_the_login_invalidates_nothing() {
    use crate::support::Reply;

    let site = Site::start(Tier::Embedded, &rules("login = '/login(/.*)?'"));
    let redirected = |status: u16, location: &str| {
        site.get("/list");
        site.get("/list").shows("hit");
        site.upstream.on("POST /things", Reply::status(status).header("Location", location));
        site.write("POST", "/things").has_status(status);
        !site.get("/list").is("hit")
    };
    for location in
        ["/login", "/login?next=%2Fthings", "login/", "//sso.example/login#x", "https://sso.example/l%6Fgin"]
    {
        assert!(!redirected(302, location), "{location}");
    }
    for status in [301, 303, 307, 308] {
        assert!(!redirected(status, "/login"), "{status}");
    }
    for (status, location) in
        [(302, "/logins"), (303, "/list?from=/login"), (302, "/things/login"), (201, "/login")]
    {
        assert!(redirected(status, location), "{status} {location}");
    }
}
