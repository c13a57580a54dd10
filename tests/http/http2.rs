//! Clients that speak HTTP/2 by prior knowledge (RFC 9113 §3.3).

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Larder, PATIENCE, Site, Tier};

async fn connect(larder: &Larder) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(larder.address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>, method: &str, path: &str) -> (http::response::Parts, Bytes) {
    let uri = format!("http://api.example{path}");
    let request = http::Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
}

/// RFC 9113 §3.3
#[test]
fn clients_may_speak_http_2_by_prior_knowledge() {
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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What many servers were brought down with (CVE-2023-44487): requests that are taken back at once.
#[test]
fn a_client_that_only_opens_and_resets_streams_is_left() {
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
        // It may be left before it has said all that.
        let _ = stream.write_all(&bytes).await;
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        let enhance_your_calm = 11_u32.to_be_bytes();
        let goaway = received.windows(9).any(|head| head[3] == 7 && head[5..] == [0; 4]);
        assert!(goaway && received.windows(4).any(|code| code == enhance_your_calm), "{received:?}");
    });
    site.get("/a").has_status(200);
}
