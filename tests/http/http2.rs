//! Clients that speak HTTP/2 by prior knowledge (RFC 9113 §3.3).

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Larder, PATIENCE, Reply, Site, Tier, eventually};

pub async fn connect(larder: &Larder) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(larder.address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
) -> (http::response::Parts, Bytes) {
    let uri = format!("http://api.example{path}");
    let request = http::Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}

pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
}

/// RFC 9113 §3.3
#[test]
fn clients_can_use_http_2_with_prior_knowledge() {
    let site = Site::start(Tier::Embedded, "[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n");
    run(async {
        let mut sender = connect(&site).await;
        let (parts, body) = ask(&mut sender, "GET", "/users").await;
        assert_eq!((parts.version, &body[..]), (http::Version::HTTP_2, &b"/users #1"[..]));
        let (parts, body) = ask(&mut sender, "GET", "/users").await;
        assert_eq!(&body[..], b"/users #1");
        assert!(parts.headers["cache-status"].to_str().unwrap().contains("hit"));
        assert_eq!(ask(&mut sender, "POST", "/users").await.1, "done");
    });
    let received = site.upstream.last("GET /users");
    assert_eq!(
        (received.header("via"), received.header("x-forwarded-host")),
        (Some("2 larder"), Some("api.example"))
    );
    site.call("GET", "/users").header("Host", "api.example").send().hides("hit").carries("/users #2");
}

/// RFC 9110 §8.6
#[test]
fn equal_lengths_over_http_2_become_one_and_others_are_refused() {
    let site = Site::start(Tier::Embedded, "");
    run(async {
        let mut sender = connect(&site).await;
        for (second, is_taken) in [("3", true), ("4", false), ("x", false)] {
            let request = http::Request::builder().method("POST").uri("http://api.example/a");
            let request = request.header("content-length", "3").header("content-length", second);
            let response = sender.send_request(request.body(Full::from("abc")).unwrap()).await;
            // RFC 9113 §8.1.1: a stream error will do.
            let is_answered = response.is_ok_and(|response| response.status() == 200);
            assert_eq!(is_answered, is_taken, "{second}");
        }
    });
    assert_eq!(site.upstream.count("/a"), 1);
    assert_eq!(site.upstream.last("/a").headers("content-length"), ["3"]);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Rapid reset (CVE-2023-44487): requests that are reset at once.
#[test]
fn a_client_that_only_opens_and_resets_streams_is_disconnected() {
    let site = Site::start(Tier::Embedded, "");
    run(async {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        // :method GET, :scheme http, :path /, and an :authority of one letter.
        let request = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
        for stream in (1..4001).step_by(2) {
            bytes.extend(frame(1, 0x5, stream, &request));
            bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
        }
        // It may be disconnected before it has sent everything.
        let _ = stream.write_all(&bytes).await;
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        let enhance_your_calm = 11_u32.to_be_bytes();
        let goaway = received.windows(9).any(|head| head[3] == 7 && head[5..] == [0; 4]);
        assert!(goaway && received.windows(4).any(|code| code == enhance_your_calm), "{received:?}");
    });
    site.get("/a").has_status(200);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PING: u8 = 6;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const GOAWAY: u8 = 7;

/// A client of HTTP/2 in the hands of the test.
struct Frames(TcpStream);

impl Frames {
    /// A client that has sent this, all in one, behind its preface and its settings.
    async fn send(larder: &Larder, settings: &[u8], requests: &[Vec<u8>]) -> Frames {
        let mut stream = TcpStream::connect(larder.address).await.unwrap();
        let opening = [PREFACE.to_vec(), frame(4, 0, 0, settings), frame(4, 1, 0, &[])].concat();
        stream.write_all(&[opening, requests.concat()].concat()).await.unwrap();
        Frames(stream)
    }

    /// The next frame but pings, which are answered: its kind, its stream and its payload. `None` at the end.
    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            if head[3] != PING {
                return Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload));
            }
            if head[4] & 1 == 0 {
                self.0.write_all(&frame(PING, 1, 0, &payload)).await.ok()?;
            }
        }
    }

    /// Reads until a frame of this type arrives; returns its stream.
    async fn until(&mut self, kind: u8) -> u32 {
        loop {
            let (found, stream, _) = self.next().await.expect("the connection goes on");
            if found == kind {
                return stream;
            }
        }
    }

    /// Answers pings until the connection ends.
    async fn rest(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// A GET, of host `a`, that ends its stream.
fn get(stream: u32, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let mut block = [&[0x82, 0x86, 0x04], &text(path)[..], &[0x41, 0x01, b'a']].concat();
    for (name, value) in fields {
        block.extend([vec![0], text(name), text(value)].concat());
    }
    frame(1, 0x5, stream, &block)
}

/// A client that begins so many POSTs to host `api.example`, and resets each in the middle of its content. The GET that it
/// sends behind them is answered.
pub async fn post_and_reset(larder: &Larder, path: &str, count: u32, begun: &str) {
    const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // :method POST, :scheme http, :path, :authority.
    let block = [&[0x83, 0x86, 0x04], &text(path)[..], &[0x41], &text("api.example")].concat();
    let mut client = Frames::send(larder, &[], &[]).await;
    // By then it may send more than 64 KiB.
    client.until(WINDOW_UPDATE).await;
    for stream in (0..count).map(|number| 2 * number + 1) {
        client.0.write_all(&frame(1, 0x4, stream, &block)).await.unwrap();
        for data in begun.as_bytes().chunks(10_000) {
            client.0.write_all(&frame(0, 0, stream, data)).await.unwrap();
        }
        client.0.write_all(&frame(RST_STREAM, 0, stream, &CANCEL)).await.unwrap();
    }
    let last = 2 * count + 1;
    client.0.write_all(&get(last, "/seen", &[])).await.unwrap();
    while client.until(1).await != last {}
}

/// The setting that a stream starts with an empty window.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
const HASTE: &str = "[server]\nidle_timeout = \"1s\"\nupstream_timeout = \"20s\"\n";

/// It held its places among the requests to upstream for ever, although it answered every ping: the connection itself was
/// never stalled.
#[test]
fn a_stream_that_its_client_does_not_read_is_reset_and_frees_its_slot() {
    let site = Site::start(Tier::Embedded, &format!("{HASTE}max_upstream_requests = 2\n"));
    site.upstream.on("/film", Reply::filled(200_000).cached("no-store"));
    run(async {
        let requests = [get(1, "/film", &[]), get(3, "/film", &[])];
        let mut client = Frames::send(&site, &NO_WINDOW, &requests).await;
        let mut reset = [client.until(RST_STREAM).await, client.until(RST_STREAM).await];
        reset.sort_unstable();
        assert_eq!(reset, [1, 3]);
        site.get("/users").has_status(200);
        client.0.write_all(&get(5, "/users", &[])).await.unwrap();
        assert_eq!(client.until(1).await, 5, "the connection goes on");
    });
}

/// Covers bodies from the cache and shared ones: every stream once held one.
#[test]
fn an_unread_stream_does_not_hold_a_stored_or_shared_body() {
    let site = Site::start(Tier::Embedded, HASTE);
    for path in ["/stored", "/shared"] {
        site.upstream.on(path, Reply::filled(200_000).cached("max-age=60"));
    }
    let ask = || site.call("GET", "/stored").header("Host", "a").send();
    ask().shows("stored");
    run(async {
        let requests = [get(1, "/stored", &[]), get(3, "/shared", &[])];
        let mut client = Frames::send(&site, &NO_WINDOW, &requests).await;
        client.until(RST_STREAM).await;
        client.until(RST_STREAM).await;
    });
    ask().shows("hit");
}

/// A client that reads everything, piece by piece.
#[test]
fn a_large_stored_response_reaches_an_http_2_client_completely() {
    let site = Site::start(Tier::Embedded, "");
    site.upstream.on("/film", Reply::filled(1_000_000).cached("max-age=60"));
    site.call("GET", "/film").header("Host", "api.example").send().shows("stored");
    run(async {
        let mut sender = connect(&site).await;
        let (parts, body) = ask(&mut sender, "GET", "/film").await;
        assert!(parts.headers["cache-status"].to_str().unwrap().contains("hit"));
        assert_eq!((body.len(), body.iter().all(|byte| *byte == b'x')), (1_000_000, true));
    });
}

/// RFC 9113 §9.1: it answered pings, and counted as a client forever.
#[test]
fn an_http_2_connection_without_streams_is_closed() {
    let site = Site::start(Tier::Embedded, "[server]\nheader_timeout = \"1s\"\n");
    run(async {
        for requests in [vec![], vec![get(1, "/a", &[])]] {
            let mut client = Frames::send(&site, &[], &requests).await;
            client.until(GOAWAY).await;
            client.rest().await;
            drop(client);
            eventually("its place is given back", || site.metric("larder_connections") == 0);
        }
    });
}

/// Nor may it stay by not taking what was given to its streams.
#[test]
fn an_http_2_connection_with_only_reset_streams_is_closed() {
    let rules = format!("{HASTE}header_timeout = \"1s\"\n");
    let site = Site::start(Tier::Embedded, &rules);
    site.upstream.on("/film", Reply::filled(200_000).cached("no-store"));
    run(async {
        let mut client =
            Frames::send(&site, &[0, 4, 0, 0, 0, 1], &[get(1, "/a", &[]), get(3, "/film", &[])]).await;
        client.rest().await;
    });
}

/// RFC 9113 §8.2.3
#[test]
fn split_cookies_are_forwarded_as_one_line() {
    let site = Site::start(Tier::Embedded, "");
    run(async {
        let crumbs = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3")];
        let mut client = Frames::send(&site, &[], &[get(1, "/a", &crumbs)]).await;
        client.until(1).await;
    });
    assert_eq!(site.upstream.last("GET /a").headers("cookie"), ["a=1; b=2; c=3"]);
}

/// Unread bodies of stalled clients are bounded together: further ones are forwarded without being stored.
#[test]
fn an_unread_response_is_still_stored() {
    let site = Site::start(Tier::Embedded, "[memory]\ncapacity = \"2MiB\"\nmax_body = \"1MiB\"\n");
    site.upstream.on("/film", Reply::filled(1 << 20).cached("max-age=60"));
    site.upstream.on("/a", Reply::numbered().cached("max-age=60"));
    let is_kept = |number: usize| {
        let path = format!("/a?{number}");
        // A film that ends between two reads may evict small entries.
        eventually("it is stored", || site.get(&path).is("hit"));
    };
    is_kept(0);
    run(async {
        let requests: Vec<Vec<u8>> = (0..4).map(|at| get(2 * at + 1, &format!("/film?{at}"), &[])).collect();
        let client = Frames::send(&site, &NO_WINDOW, &requests).await;
        // Stored responses stay stored while no client reads the films.
        eventually("the films have been asked for", || site.upstream.count("/film") == 4);
        for number in 1..20 {
            is_kept(number);
        }
        drop(client);
    });
}
