//! RFC 9112 §6.3, §9.2 and §9.3: surplus bytes from upstream that belong to no response. Such a connection is not
//! reused, so that they answer no request.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::http2;
use super::wire::{Bench, Head, Wire, field};
use crate::support::larder::signal;
use crate::support::{Larder, Plan, eventually, eventually_some};

/// Every response is stored and validated each time.
const FAMILY: &str = "[[family]]\nname = \"all\"\npath = '/.*'\n";
const VALID: &str = "ETag: \"1\"\r\nCache-Control: max-age=0\r\n";
const EVIL: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nCache-Control: max-age=60\r\nConnection: keep-alive\r\n\r\nevil";
/// What may come late.
const STRAYS: [&str; 6] =
    ["0\r\n\r\n", "Hello", EVIL, "\r\n", "\0", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"];

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{VALID}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

/// The client's response to a request on this upstream connection, if necessary after its quarantine.
#[track_caller]
fn ask(bench: &Bench, upstream: &mut Wire, method: &str, path: &str, answer: &str) -> (Head, String) {
    let mut client = bench.client_over(upstream, &request(method, path));
    assert!(upstream.head()[0].starts_with(&format!("{method} {path} ")));
    upstream.send(answer);
    finish(&mut client)
}

/// The head of the final response, and its content.
#[track_caller]
fn finish(client: &mut Wire) -> (Head, String) {
    let mut head = client.head();
    while head[0].starts_with("HTTP/1.1 1") {
        head = client.head();
    }
    (head, client.rest())
}

/// The same over a new connection.
#[track_caller]
fn ask_anew(bench: &Bench, method: &str, path: &str, answer: &str) -> (Wire, Head, String) {
    let mut client = bench.client(&request(method, path));
    let mut upstream = bench.upstream();
    assert!(upstream.head()[0].starts_with(&format!("{method} {path} ")));
    upstream.send(answer);
    (upstream, client.head(), client.rest())
}

/// A Larder with `/kept` stored, and its connection to upstream.
#[track_caller]
fn kept() -> (Bench, Wire) {
    let bench = Bench::start(FAMILY);
    let (upstream, _, body) = ask_anew(&bench, "GET", "/kept", &ok("kept"));
    assert_eq!(body, "kept");
    (bench, upstream)
}

/// Asks for `/b` over a new connection, twice: the answer is its own, and nothing else was stored for it.
#[track_caller]
fn another_answers(bench: &Bench, context: &str) {
    let (_upstream, head, body) = ask_anew(bench, "GET", "/b", &ok("b").replace("max-age=0", "max-age=60"));
    assert_eq!((head[0].as_str(), body.as_str()), ("HTTP/1.1 200 OK", "b"), "{context}");
    let mut client = bench.client(&request("GET", "/b"));
    let head = client.head();
    assert!(field(&head, "cache-status").unwrap().contains("hit"), "{context}: {head:?}");
    assert_eq!(client.rest(), "b", "{context}");
}

// ---- Invalid heads

#[test]
fn impossible_content_closes_the_connection_at_once() {
    let rows = [
        ("GET", "/kept", "304 Not Modified\r\nETag: \"1\"\r\nTransfer-Encoding: chunked", "kept"),
        ("GET", "/kept", "304 Not Modified\r\nETag: \"1\"\r\nTransfer-Encoding: gzip, chunked", "kept"),
        ("GET", "/a", "204 No Content\r\nTransfer-Encoding: chunked", ""),
        ("POST", "/a", "204 No Content\r\nContent-Length: 5", ""),
        ("GET", "/a", "204 No Content\r\nContent-Length: 5", ""),
        (
            "GET",
            "/kept",
            "304 Not Modified\r\nETag: \"1\"\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
            "kept",
        ),
        ("HEAD", "/a", "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", ""),
        ("GET", "/a", "103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content", ""),
        ("GET", "/a", "102 Processing\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 204 No Content", ""),
    ];
    for (method, path, answer, body) in rows {
        // With what they announce, and without.
        for stray in ["", "0\r\n\r\n", "Hello", EVIL] {
            let (bench, mut upstream) = kept();
            let got = ask(&bench, &mut upstream, method, path, &format!("HTTP/1.1 {answer}\r\n\r\n{stray}"));
            assert_eq!(got.1, body, "{answer} {stray:?} {:?}", got.0);
            assert_eq!(upstream.rest(), "", "{answer} {stray:?}");
            another_answers(&bench, answer);
        }
    }
}

#[test]
fn a_response_with_two_framings_closes_its_connection() {
    let (bench, mut upstream) = kept();
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let (head, _) = ask(&bench, &mut upstream, "POST", "/a", both);
    assert_eq!(head[0], "HTTP/1.1 502 Bad Gateway");
    assert_eq!(upstream.rest(), "");
    another_answers(&bench, "both");
}

// ---- Bytes after a response

/// Method, path and response of each kind.
fn responses() -> [(&'static str, &'static str, String); 6] {
    let bare = |status: &str| format!("HTTP/1.1 {status}\r\n\r\n");
    [
        ("GET", "/kept", bare("304 Not Modified\r\nETag: \"1\"")),
        ("GET", "/kept", bare("304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 4")),
        ("DELETE", "/a", bare("204 No Content")),
        ("HEAD", "/a", bare("200 OK\r\nContent-Length: 5")),
        ("GET", "/a", ok("whole")),
        ("GET", "/a", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n".to_owned()),
    ]
}

#[test]
fn surplus_bytes_with_a_response_close_the_connection() {
    for (method, path, answer) in responses() {
        for stray in STRAYS {
            let (bench, mut upstream) = kept();
            let (head, body) = ask(&bench, &mut upstream, method, path, &[&answer, stray].concat());
            assert!(!head[0].contains(" 50") && !body.contains("evil"), "{answer:?} {stray:?} {head:?}");
            assert_eq!(upstream.rest(), "", "{answer:?} {stray:?}");
            another_answers(&bench, stray);
        }
    }
}

#[test]
fn bytes_on_an_idle_connection_close_it() {
    for (method, path, answer) in responses() {
        for stray in STRAYS {
            let (bench, mut upstream) = kept();
            let (head, _) = ask(&bench, &mut upstream, method, path, &answer);
            assert!(!head[0].contains(" 50"), "{answer:?}");
            upstream.send(stray);
            assert_eq!(upstream.rest(), "", "{answer:?} {stray:?}");
            another_answers(&bench, stray);
        }
    }
}

/// Larder is stopped while they arrive, and reads them together with the next request.
#[test]
fn bytes_received_before_a_request_do_not_answer_it() {
    for method in ["GET", "POST"] {
        for stray in [EVIL, "Hello"] {
            let (bench, mut upstream) = kept();
            signal(bench.larder.id(), "STOP");
            upstream.send(stray);
            let mut client = bench.client(&request(method, "/b"));
            signal(bench.larder.id(), "CONT");
            let mut another = bench.upstream();
            assert_eq!(another.head()[0], format!("{method} /b HTTP/1.1"));
            another.send(ok("b"));
            assert_eq!(client.head()[0], "HTTP/1.1 200 OK", "{method} {stray:?}");
            assert_eq!(client.rest(), "b");
            assert_eq!(upstream.rest(), "", "nothing was sent on it");
        }
    }
}

// ---- Bytes instead of a response

#[test]
fn a_read_with_a_garbled_response_on_a_pooled_connection_is_retried() {
    for garbage in ["0\r\n\r\n", "Hello", "\0", "HTTP/1.1 x\r\n\r\n", "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"] {
        for method in ["GET", "HEAD"] {
            let (bench, mut upstream) = kept();
            let mut client = bench.client(&request(method, "/b"));
            upstream.head();
            upstream.send(garbage);
            let mut another = bench.upstream();
            assert_eq!(another.head()[0], format!("{method} /b HTTP/1.1"));
            another.send(if method == "HEAD" { "HTTP/1.1 200 OK\r\n\r\n".to_owned() } else { ok("b") });
            assert_eq!(client.head()[0], "HTTP/1.1 200 OK", "{garbage:?}");
            assert_eq!(client.rest(), if method == "HEAD" { "" } else { "b" });
            assert_eq!(upstream.rest(), "");
        }
    }
}

#[test]
fn a_validation_with_a_garbled_response_is_retried() {
    let (bench, mut upstream) = kept();
    let mut client = bench.client(&request("GET", "/kept"));
    assert_eq!(field(&upstream.head(), "if-none-match"), Some("\"1\""));
    upstream.send("0\r\n\r\n");
    let mut another = bench.upstream();
    assert_eq!(field(&another.head(), "if-none-match"), Some("\"1\""));
    another.send("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
    assert_eq!(client.rest(), "kept");
}

#[test]
fn garbage_on_a_new_connection_is_a_502_and_so_is_the_second() {
    let bench = Bench::start(FAMILY);
    let (mut upstream, head, _) = ask_anew(&bench, "GET", "/a", "Hello");
    assert_eq!(head[0], "HTTP/1.1 502 Bad Gateway");
    assert_eq!(upstream.rest(), "");
    let (bench, mut upstream) = kept();
    let mut client = bench.client(&request("GET", "/b"));
    upstream.head();
    upstream.send("Hello");
    let mut another = bench.upstream();
    another.head();
    another.send("Hello");
    assert_eq!(client.head()[0], "HTTP/1.1 502 Bad Gateway");
    another_answers(&bench, "nothing is sent a third time");
}

#[test]
fn a_write_with_a_garbled_response_is_not_retried() {
    let (bench, mut upstream) = kept();
    let (head, _) = ask(&bench, &mut upstream, "POST", "/a", "Hello");
    assert_eq!(head[0], "HTTP/1.1 502 Bad Gateway");
    another_answers(&bench, "it was not repeated");
}

// ---- What an upstream has shown

/// The upstream has sent something behind a response without content.
fn shown(stray: &str) -> Bench {
    let (bench, mut upstream) = kept();
    ask(&bench, &mut upstream, "HEAD", "/a", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    upstream.send(stray);
    assert_eq!(upstream.rest(), "");
    bench
}

#[test]
fn surplus_bytes_after_no_content_close_all_such_connections() {
    for stray in ["Hello", EVIL] {
        let bench = shown(stray);
        for answer in ["204 No Content", "200 OK\r\nContent-Length: 5", "304 Not Modified\r\nETag: \"1\""] {
            let (mut upstream, ..) = ask_anew(&bench, "HEAD", "/b", &format!("HTTP/1.1 {answer}\r\n\r\n"));
            assert_eq!(upstream.rest(), "", "{answer}: closed before anything can follow");
        }
        let (mut upstream, ..) = ask_anew(&bench, "GET", "/c", &ok("c"));
        assert_eq!(ask(&bench, &mut upstream, "GET", "/d", &ok("d")).1, "d", "content has a known end");
    }
}

/// A complete response that arrives after the quarantine answers the next request, once: it is indistinguishable from
/// the right one, which follows it and exposes it.
#[test]
fn a_late_response_is_mistaken_for_an_answer_at_most_once() {
    let (bench, mut upstream) = kept();
    ask(&bench, &mut upstream, "GET", "/kept", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    ask(&bench, &mut upstream, "GET", "/a", &EVIL.replace("max-age=60", "no-store"));
    upstream.send(ok("a"));
    assert_eq!(upstream.rest(), "");
    for path in ["/b", "/c", "/kept"] {
        let (mut upstream, _, body) = ask_anew(&bench, "GET", path, &ok(path));
        assert_eq!((body.as_str(), upstream.rest().as_str()), (path, ""));
    }
}

#[test]
fn garbage_before_the_next_request_marks_the_upstream_as_suspect() {
    let (bench, mut upstream) = kept();
    ask(&bench, &mut upstream, "GET", "/kept", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    let mut client = bench.client_over(&mut upstream, &request("GET", "/b"));
    upstream.head();
    upstream.send("Hello");
    let mut another = bench.upstream();
    another.head();
    another.send(ok("b"));
    assert_eq!(client.head()[0], "HTTP/1.1 200 OK");
    ask(&bench, &mut another, "GET", "/kept", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    assert_eq!(another.rest(), "");
}

/// A connection to upstream that answers with what belongs to the request before.
#[track_caller]
fn shifted(bench: &Bench) -> Wire {
    let (mut upstream, ..) = ask_anew(bench, "GET", "/kept", &ok("kept"));
    ask(bench, &mut upstream, "GET", "/kept", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    upstream
}

/// The connection's last request is answered too; so many requests on it are suspect then.
#[track_caller]
fn ends(bench: &Bench, mut upstream: Wire, suspects: usize) {
    upstream.send(ok("another's"));
    assert_eq!(upstream.rest(), "");
    let metric = format!("larder_suspects_total {suspects}");
    eventually("it is dealt with", || {
        bench.larder.admin_get("/metrics").text().lines().any(|line| line == metric)
    });
}

#[test]
fn responses_of_an_out_of_step_connection_are_invalidated() {
    let long = |body: &str| ok(body).replace("max-age=0", "max-age=600");
    let bench = Bench::start(FAMILY);
    let (upstream, ..) = ask_anew(&bench, "GET", "/other", &long("other"));
    // The connection stays busy.
    let mut busy = bench.client(&request("GET", "/slow"));
    let mut slow = upstream;
    slow.head();
    let mut upstream = shifted(&bench);
    for (path, body) in [("/a", "evil"), ("/b", "a"), ("/c", "b")] {
        let answer = if body == "evil" { EVIL.to_owned() } else { long(body) };
        assert_eq!(ask(&bench, &mut upstream, "GET", path, &answer).1, body);
        let hit = bench.client(&request("GET", path)).rest();
        assert!(hit.ends_with(body), "stored: {hit}");
    }
    // The one that was validated, and three more.
    ends(&bench, upstream, 4);
    for path in ["/a", "/b", "/c"] {
        assert_eq!(ask_anew(&bench, "GET", path, &long(path)).2, path);
        assert!(bench.client(&request("GET", path)).rest().ends_with(path), "a hit again");
    }
    let other = bench.client(&request("GET", "/other")).rest();
    assert!(other.contains("; hit") && other.ends_with("other"), "another connection brought it: {other}");
    slow.send(ok("slow"));
    assert!(busy.rest().ends_with("slow"));
}

/// Nothing shows which of them is the response.
#[test]
fn a_surplus_response_invalidates_the_one_before_it() {
    let bench = Bench::start(FAMILY);
    let (upstream, ..) = ask_anew(&bench, "GET", "/a", EVIL);
    ends(&bench, upstream, 1);
    assert_eq!(ask_anew(&bench, "GET", "/a", &ok("a")).2, "a");
}

#[test]
fn a_write_with_possibly_anothers_response_invalidates_twice() {
    let head = "[server]\nreinvalidate_after = \"3s\"\n[[family]]\nname = \"lists\"\npath = '/list'\n";
    let bench = Bench::start(&[head, FAMILY, "[invalidate]\n'/doc' = [\"lists\"]\n"].concat());
    let long = |body: &str| ok(body).replace("max-age=0", "max-age=600");
    let mut upstream = shifted(&bench);
    assert_eq!(ask(&bench, &mut upstream, "PUT", "/doc", EVIL).1, "evil");
    // Upstream has not carried it out yet.
    let mut client = bench.client_over(&mut upstream, &request("GET", "/slow"));
    upstream.head();
    for path in ["/doc", "/list"] {
        ask_anew(&bench, "GET", path, &long("old").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    }
    upstream.send(ok("the write's own"));
    assert!(client.rest().ends_with("the write's own"));
    ends(&bench, upstream, 3);
    let repeated =
        || bench.larder.admin_get("/metrics").text().contains("larder_invalidations_repeated_total 1\n");
    for again in [false, true] {
        if again {
            eventually("it is repeated", repeated);
        }
        for path in ["/doc", "/list"] {
            let body = format!("{path} {again}");
            assert_eq!(ask_anew(&bench, "GET", path, &long(&body)).2, body);
        }
    }
}

/// RFC 9110 §15.5.9: some servers send this before closing an idle connection.
#[test]
fn a_408_on_an_idle_connection_only_closes_it() {
    let bench = shown("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n");
    let (mut upstream, ..) = ask_anew(&bench, "HEAD", "/b", "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(ask(&bench, &mut upstream, "GET", "/d", &ok("d")).1, "d");
}

// ---- An upstream with a mind of its own

/// An upstream that answers by itself: `answer` gets the connection, and the method and path of each request; false ends
/// the connection.
struct ServerConfig {
    larder: Larder,
    accepted: Arc<AtomicUsize>,
}

impl ServerConfig {
    fn start(answer: impl Fn(&mut TcpStream, &str, &str, bool) -> bool + Send + Sync + 'static) -> ServerConfig {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let larder = Plan::new(&format!("http://{}", listener.local_addr().unwrap())).rules(FAMILY).start();
        let (accepted, answer) = (Arc::<AtomicUsize>::default(), Arc::new(answer));
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || serve(stream, &*answer));
            }
        });
        ServerConfig { larder, accepted }
    }

    fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let response = self.larder.call(method, path).send();
        (response.status, response.text())
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&mut TcpStream, &str, &str, bool) -> bool) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).is_ok_and(|read| read > 0) {
                continue;
            }
            return;
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let validates = head.to_ascii_lowercase().contains("if-none-match");
        if !answer(&mut stream, &method, &path, validates) {
            return;
        }
    }
}

/// Answers properly.
fn proper(stream: &mut TcpStream, method: &str, path: &str, validates: bool) -> bool {
    let length = path.len();
    let answer = match method {
        "HEAD" if length.is_multiple_of(2) => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        "HEAD" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "PUT" => "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ if validates => format!("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nContent-Length: {length}\r\n\r\n"),
        _ if length.is_multiple_of(2) => {
            format!(
                "HTTP/1.1 200 OK\r\n{VALID}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{path}\r\n0\r\n\r\n"
            )
        }
        _ => ok(path),
    };
    stream.write_all(answer.as_bytes()).is_ok()
}

#[test]
fn connections_to_a_correct_upstream_are_reused() {
    let server = ServerConfig::start(proper);
    let accepted = || server.accepted.load(Ordering::Relaxed);
    for round in 0..160 {
        let path = format!("/{round}");
        assert_eq!(server.ask("GET", &path), (200, path));
    }
    // A response may reach its client a moment before its connection is idle, and a connection rests now and then.
    assert!(accepted() <= 6, "160 requests took {} connections", accepted());
    assert_eq!(
        server.larder.admin_get("/metrics").text().lines().find(|line| line.starts_with("larder_suspects_total ")),
        Some("larder_suspects_total 0")
    );
}

#[test]
fn a_connection_is_reused_after_its_quarantine() {
    let server = ServerConfig::start(proper);
    let accepted = || server.accepted.load(Ordering::Relaxed);
    server.ask("GET", "/even1");
    for (method, path, status) in [
        ("HEAD", "/odd", 200),
        ("HEAD", "/even1", 200),
        ("DELETE", "/x", 204),
        ("PUT", "/x", 204),
        ("GET", "/even1", 200),
    ] {
        for _ in 0..5 {
            eventually("no new connection is made", || {
                let before = accepted();
                assert_eq!(server.ask(method, path).0, status);
                accepted() == before
            });
        }
    }
    assert!(!server.larder.log().contains("belong to no response"));
}

/// What the upstream sends after a response without content: everything that is distinguishable from a response.
fn unruly(stream: &mut TcpStream, method: &str, path: &str, validates: bool) -> bool {
    let late = |stream: &mut TcpStream, stray: &str| {
        std::thread::yield_now();
        stream.write_all(stray.as_bytes()).is_ok()
    };
    let head: (&str, &str) = match (method, validates, path.as_bytes().last()) {
        ("HEAD", ..) => ("200 OK\r\nContent-Length: 5", "Hello"),
        ("GET", true, Some(b'0')) => {
            ("304 Not Modified\r\nETag: \"1\"\r\nTransfer-Encoding: chunked", "0\r\n\r\n")
        }
        ("GET", true, Some(b'1')) => ("304 Not Modified\r\nETag: \"1\"\r\nTransfer-Encoding: chunked", EVIL),
        ("GET", true, Some(b'2')) => ("304 Not Modified\r\nETag: \"1\"\r\nContent-Length: 5", "Hello"),
        ("GET", true, _) => ("304 Not Modified\r\nETag: \"1\"", "\r\n0\r\n\r\n"),
        ("GET", false, Some(b'5')) => ("204 No Content\r\nContent-Length: 5", EVIL),
        ("GET", false, Some(b'6')) => ("204 No Content", "Hello"),
        ("GET", false, Some(b'7')) => ("204 No Content\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        _ => {
            return stream.write_all(ok(path).as_bytes()).is_ok()
                && (!path.ends_with('8') || late(stream, "surplus"));
        }
    };
    let begun = stream.write_all(format!("HTTP/1.1 {}\r\n\r\n", head.0).as_bytes()).is_ok();
    begun && late(stream, head.1)
}

#[test]
fn many_readers_of_a_faulty_upstream_get_their_own_responses() {
    let server = Arc::new(ServerConfig::start(unruly));
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                for round in 0..150 {
                    let path = format!("/{reader}/{}", round % 10);
                    let expected =
                        if matches!(round % 10, 5..=7) { (204, String::new()) } else { (200, path.clone()) };
                    assert_eq!(server.ask("GET", &path), expected, "{path}");
                    if round % 3 == 0 {
                        assert_eq!(server.ask("HEAD", &format!("{path}?head")), (200, String::new()));
                    }
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// The same over HTTP/2.
#[test]
fn many_streams_of_one_client_get_their_own_responses() {
    let server = ServerConfig::start(unruly);
    http2::run(async {
        let sender = http2::connect(&server.larder).await;
        let readers = (0..4).map(|reader| {
            let mut sender = sender.clone();
            tokio::spawn(async move {
                for round in 0..100 {
                    let path = format!("/{reader}/{}", round % 5);
                    let (parts, body) = http2::ask(&mut sender, "GET", &path).await;
                    assert_eq!((parts.status.as_u16(), &body[..]), (200, path.as_bytes()));
                    let (parts, _) = http2::ask(&mut sender, "HEAD", &format!("{path}?head")).await;
                    assert_eq!(parts.status.as_u16(), 200, "{path}");
                }
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            reader.await.unwrap();
        }
    });
}

/// A complete response arrives late after each one without content.
fn treacherous(stream: &mut TcpStream, method: &str, path: &str, validates: bool) -> bool {
    let head = match method {
        "HEAD" => "200 OK\r\nContent-Length: 4",
        "DELETE" => "204 No Content",
        _ if validates => "304 Not Modified\r\nETag: \"1\"",
        _ => return stream.write_all(ok(path).as_bytes()).is_ok(),
    };
    let begun = stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).is_ok();
    std::thread::yield_now();
    begun && stream.write_all(EVIL.as_bytes()).is_ok()
}

/// The first ones arrive under load: their connections are quarantined, so they are detected before they answer a
/// request.
#[test]
fn late_responses_answer_no_request_while_connections_are_quarantined() {
    let server = Arc::new(ServerConfig::start(treacherous));
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                for round in 0..60 {
                    let path = format!("/{reader}/{round}");
                    assert_eq!(server.ask("GET", &path), (200, path.clone()));
                    if round % 7 == reader {
                        assert_eq!(server.ask("HEAD", &path).0, 200);
                    }
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    eventually("it is remembered", || server.larder.log().contains("belong to no response"));
}

/// A complete response follows another one's content without quarantine: each request gets the previous response, and
/// nothing arrives on an idle connection until its quarantine.
#[test]
fn an_out_of_step_connection_is_detected_under_load() {
    let bench = Bench::start(FAMILY);
    let (mut upstream, ..) = ask_anew(&bench, "GET", "/kept", &ok("kept"));
    let mut asked = 0;
    let another = loop {
        let mut client = bench.client(&request("GET", &format!("/{asked}")));
        let next = eventually_some("it is sent to upstream", || {
            if upstream.is_silent() { bench.accepted().map(Some) } else { Some(None) }
        });
        if let Some(another) = next {
            break (client, another);
        }
        upstream.head();
        upstream.send(ok("another's"));
        finish(&mut client);
        asked += 1;
        assert!(asked < 2000, "it never rests");
    };
    upstream.send(ok("another's"));
    assert_eq!(upstream.rest(), "", "it was at rest");
    let (mut client, mut upstream) = another;
    upstream.head();
    upstream.send(ok("own"));
    assert_eq!(finish(&mut client).1, "own");
    assert_eq!(upstream.rest(), "", "nothing behind content is trusted any more");
}

#[test]
fn late_responses_answer_no_request_once_detected() {
    let server = Arc::new(ServerConfig::start(treacherous));
    // No other request is active: the late response arrives on an idle connection.
    assert_eq!(server.ask("HEAD", "/first"), (200, String::new()));
    eventually("it is remembered", || server.larder.log().contains("belong to no response"));
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let server = Arc::clone(&server);
            std::thread::spawn(move || {
                for round in 0..60 {
                    let path = format!("/{reader}/{}", round % 10);
                    assert_eq!(server.ask("GET", &path), (200, path.clone()));
                    assert_eq!(server.ask("HEAD", &path).0, 200);
                    assert_eq!(server.ask("DELETE", "/x"), (204, String::new()));
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}
