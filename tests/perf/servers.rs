//! The servers that `tests/perf/run` measures Larder against and in front of. Each runs on one thread.
//!
//!     perf_servers origin ADDRESS               the upstream of every proxy
//!     perf_servers hello  ADDRESS               bare hyper: answers from memory, as the fastest possible hit
//!     perf_servers proxy  ADDRESS UPSTREAM      bare hyper with hyper-util's client, as the fastest possible miss
//!
//! All accept HTTP/1.1 and HTTP/2 with prior knowledge. `origin` and `hello` answer:
//!
//!     GET  /item/ID?size=BYTES                  a body of that many bytes (1,024 unless told), max-age=3600
//!     GET  /item/ID?size=BYTES&last_byte=MS     the same in twenty parts, the last one after that many milliseconds
//!     POST /…                                   200 and `ok`, after the body was read
//!     GET  /count                               how many requests were answered, this one apart

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Channel, Either, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

/// Bodies are the beginning of this.
static CONTENT: [u8; 128 * 1024] = [b'x'; 128 * 1024];
const PARTS: u32 = 20;

type Body = Either<Full<Bytes>, Either<Channel<Bytes>, Incoming>>;

enum Server {
    Origin { answered: AtomicU64 },
    Proxy { client: Box<Client<HttpConnector, Incoming>>, upstream: String },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (address, server) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["origin" | "hello", address] => (address, Server::Origin { answered: AtomicU64::new(0) }),
        ["proxy", address, upstream] => {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let client = Box::new(Client::builder(TokioExecutor::new()).build(connector));
            (address, Server::Proxy { client, upstream: upstream.to_owned() })
        }
        _ => return Err("usage: perf_servers origin|hello ADDRESS, or perf_servers proxy ADDRESS UPSTREAM".into()),
    };
    let server = Arc::new(server);
    let listener = TcpListener::bind(address).await?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Without it the load generator would measure delayed acknowledgements; should it fail, the connection works.
        let _ = stream.set_nodelay(true);
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            // An error is the client's end of the connection.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self {
            Server::Origin { answered } => from_memory(request, answered).await,
            Server::Proxy { client, upstream } => forward(request, client, upstream).await,
        }
    }
}

async fn from_memory(request: Request<Incoming>, answered: &AtomicU64) -> Response<Body> {
    if request.uri().path() == "/count" {
        return response(answered.load(Ordering::Relaxed).to_string().into(), "no-store");
    }
    answered.fetch_add(1, Ordering::Relaxed);
    if request.method() == Method::POST {
        return match request.into_body().collect().await {
            Ok(_) => response(Bytes::from_static(b"ok\n"), "no-store"),
            Err(_) => refusal(StatusCode::BAD_REQUEST),
        };
    }
    let query = request.uri().query().unwrap_or_default();
    let size = parameter(query, "size").unwrap_or(1024);
    let Some(content) = usize::try_from(size).ok().and_then(|size| CONTENT.get(..size)) else {
        return refusal(StatusCode::BAD_REQUEST);
    };
    match parameter(query, "last_byte") {
        None => response(Bytes::from_static(content), "max-age=3600"),
        Some(milliseconds) => in_parts(content, Duration::from_millis(milliseconds)),
    }
}

fn parameter(query: &str, name: &str) -> Option<u64> {
    let (_, value) = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    value.parse().ok()
}

fn response(body: Bytes, cache_control: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    response
}

fn refusal(status: StatusCode) -> Response<Body> {
    let mut response = response(Bytes::new(), "no-store");
    *response.status_mut() = status;
    response
}

fn in_parts(content: &'static [u8], last_byte: Duration) -> Response<Body> {
    let (mut parts, body) = Channel::new(1);
    tokio::spawn(async move {
        for part in content.chunks(content.len().div_ceil(PARTS as usize).max(1)) {
            tokio::time::sleep(last_byte / PARTS).await;
            if parts.send_data(Bytes::from_static(part)).await.is_err() {
                return; // the client left
            }
        }
    });
    let mut response = response(Bytes::new(), "max-age=3600").map(|_| Either::Right(Either::Left(body)));
    response.headers_mut().insert(CONTENT_LENGTH, content.len().into());
    response
}

async fn forward(
    mut request: Request<Incoming>,
    client: &Client<HttpConnector, Incoming>,
    upstream: &str,
) -> Response<Body> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let Ok(uri) = format!("http://{upstream}{target}").parse() else { return refusal(StatusCode::BAD_REQUEST) };
    *request.uri_mut() = uri;
    request.headers_mut().remove(HOST);
    match client.request(request).await {
        Ok(response) => response.map(|body| Either::Right(Either::Right(body))),
        Err(_) => refusal(StatusCode::BAD_GATEWAY),
    }
}
