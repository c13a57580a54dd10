//! How bodies end, and how truncated ones are treated: RFC 9112 §6.3 and §8.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use http_body_util::BodyExt;

use super::http2;
use crate::support::client::{Failure, Pending};
use crate::support::{Gate, Larder, PATIENCE, Plan, Reply, Response, Site, Tier};

const RULES: &str = r#"
[[family]]
name = "storing"
path = '/storing/.*'
ttl = "10m"
close_delimited = "store"

[[family]]
name = "plain"
path = '/plain/.*'
ttl = "10m"

[[family]]
name = "query"
path = '/query'
methods = ["QUERY"]
ttl = "10m"
"#;

/// Two reads of the same.
fn twice(site: &Site, target: &str) -> [Response; 2] {
    [site.get(target), site.get(target)]
}

#[test]
fn a_close_delimited_response_is_forwarded_but_not_stored() {
    let site = Site::start(Tier::Embedded, RULES);
    // In a family, and by the response alone.
    for target in ["/plain/a", "/elsewhere"] {
        site.upstream.on(target, Reply::numbered().cached("max-age=60").until_close());
        let [first, second] = twice(&site, target);
        first.shows("fwd=bypass; fwd-status=200; detail=close-delimited").carries(&format!("{target} #1"));
        second.hides("hit").carries(&format!("{target} #2"));
    }
    // Nor with HTTP/1.0, whose responses usually end so.
    let old = "HTTP/1.0 200 OK\r\nCache-Control: max-age=60\r\n\r\nold";
    site.upstream.on("/plain/old", Reply::raw(old));
    for response in twice(&site, "/plain/old") {
        response.shows("detail=close-delimited").carries("old");
    }
    site.upstream.on("/query", Reply::numbered().until_close());
    for _ in 0..2 {
        site.call("QUERY", "/query").body("a").send().shows("detail=close-delimited");
    }
}

#[test]
fn a_family_can_store_close_delimited_responses() {
    let site = Site::start(Tier::Embedded, RULES);
    site.upstream.on("/storing/a", Reply::numbered().until_close());
    let [first, second] = twice(&site, "/storing/a");
    first.shows("stored").carries("/storing/a #1");
    second.shows("hit").carries("/storing/a #1");
}

#[test]
fn responses_with_a_length_or_chunks_or_without_content_are_stored() {
    let site = Site::start(Tier::Embedded, RULES);
    let chunked = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let replies = [
        ("/plain/length", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na"),
        ("/plain/empty", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("/plain/chunks", chunked),
        ("/plain/none", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
    ];
    for (target, reply) in replies {
        site.upstream.on(target, Reply::raw(reply));
        let [first, second] = twice(&site, target);
        first.shows("stored");
        second.shows("hit");
    }
}

#[test]
fn a_close_delimited_response_to_post_is_not_stored() {
    let site = Site::start(Tier::Embedded, RULES);
    let reply = Reply::new("made").cached("max-age=60").header("Content-Location", "/made");
    site.upstream.on("POST /made", reply.clone());
    site.write("POST", "/made").shows("stored");
    site.upstream.on("POST /made", reply.until_close());
    site.write("POST", "/made").carries("made").hides("stored");
    site.get("/made").hides("hit");
}

#[test]
fn explain_gives_the_reason_for_a_close_delimited_response() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: max-age=60\r\n\r\n";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("head");
    std::fs::write(&file, head).unwrap();
    let explanation = |path: &str| {
        let arguments = ["explain", "GET", path, "--rules", "rules.toml", "--response", file.to_str().unwrap()];
        crate::support::larder(Some(RULES), &arguments).stdout
    };
    assert!(explanation("/plain/a").contains("close_delimited = \"store\""), "{}", explanation("/plain/a"));
    assert!(!explanation("/storing/a").contains("close_delimited"), "{}", explanation("/storing/a"));
}

// ---- Bodies that break off

/// An upstream that truncates its body. The path selects the framing.
fn breaking(gate: &Gate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, passage) = (listener.local_addr().unwrap(), gate.passage());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, passage) = (stream.unwrap(), passage.clone());
            thread::spawn(move || {
                let mut head = [0; 1000];
                let length = stream.read(&mut head).unwrap();
                let framing = match String::from_utf8_lossy(&head[..length]).contains("/chunked") {
                    true => "Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
                    false => "Content-Length: 100\r\n\r\nsome",
                };
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n{framing}");
                passage.pass();
            });
        }
    });
    address
}

/// What a client of this version gets of a target, and how its connection ends.
fn read(larder: &Larder, gate: &Gate, version: &str, target: &str) -> (String, Option<ErrorKind>) {
    let mut stream = TcpStream::connect(larder.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n").unwrap();
    let mut read = Vec::new();
    // The available part arrives before upstream closes.
    while !read.ends_with(b"some") && !read.ends_with(b"some\r\n") {
        let mut piece = [0; 1000];
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&read));
        read.extend(&piece[..length]);
    }
    gate.open();
    let end = stream.read_to_end(&mut read).err().map(|error| error.kind());
    (String::from_utf8(read).unwrap(), end)
}

#[test]
fn a_truncated_body_is_never_served_as_complete() {
    for method in ["chunked", "length"] {
        // To its reader alone, and shared with others.
        for family in ["/plain", "/elsewhere"] {
            let target = format!("{family}/{method}");
            let start = || {
                let gate = Gate::new();
                (Plan::new(&format!("http://{}", breaking(&gate))).rules(RULES).start(), gate)
            };
            let (larder, gate) = start();
            let (text, end) = read(&larder, &gate, "1.0", &target);
            let is_visible = end == Some(ErrorKind::ConnectionReset) || text.contains("content-length: 100");
            assert!(is_visible, "{target}: {end:?} {text}");
            if method == "chunked" {
                assert_eq!(end, Some(ErrorKind::ConnectionReset), "{text}");
            }
            let (larder, gate) = start();
            let (text, _) = read(&larder, &gate, "1.1", &target);
            assert!(!text.contains("\r\n0\r\n") && !text.contains("content-length: 4\r\n"), "{target}: {text}");
            let (larder, gate) = start();
            http2::run(async {
                let mut sender = http2::connect(&larder).await;
                let uri = format!("http://localhost{target}");
                let request = http::Request::get(uri).body(http_body_util::Full::default()).unwrap();
                let mut body = sender.send_request(request).await.unwrap().into_body();
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
                gate.open();
                assert!(body.collect().await.is_err(), "{target}");
            });
        }
    }
}

#[test]
fn an_http_1_0_client_gets_a_complete_body_and_a_clean_close() {
    let site = Site::start(Tier::Embedded, RULES);
    for target in ["/plain/a", "/elsewhere", "/storing/a"] {
        site.upstream.on(target, Reply::new("whole").chunked());
        let mut stream = TcpStream::connect(site.address).unwrap();
        write!(stream, "GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let response: Result<Response, Failure> = Pending::of(stream).finish();
        response.unwrap().carries("whole");
    }
}

#[test]
fn an_http_1_0_client_is_reset_if_shutdown_interrupts_its_body() {
    let gate = Gate::new();
    let rules = format!("[server]\ndrain_timeout = \"1ms\"\n{RULES}");
    let mut larder = Plan::new(&format!("http://{}", breaking(&gate))).rules(&rules).start();
    let mut stream = TcpStream::connect(larder.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /plain/chunked HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"some") {
        let mut piece = [0; 1000];
        let length = stream.read(&mut piece).unwrap();
        read.extend(&piece[..length]);
    }
    larder.terminate();
    let end = stream.read_to_end(&mut read).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    larder.wait();
}
