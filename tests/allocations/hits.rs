//! The allocations of a hit: those of the whole server, beside those of a server of bare hyper that sends the same response.

use std::convert::Infallible;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use crate::allocator;
use crate::server::{larder, read_answer, runtime, upstream};

/// Allocations of a hit beyond those of bare hyper. tests/perf/README.md says what each is.
const FURTHER: u64 = 8;

/// Hits of a round.
const HITS: usize = 200;

/// A client with one connection, on a thread of its own.
struct Client(mpsc::Sender<(usize, oneshot::Sender<()>)>);

impl Client {
    fn of(server: SocketAddr) -> Client {
        let (requests, asked) = mpsc::channel::<(usize, oneshot::Sender<()>)>();
        thread::spawn(move || {
            allocator::leave_out_this_thread();
            let mut stream = TcpStream::connect(server).unwrap();
            stream.set_nodelay(true).unwrap();
            let mut answers = BufReader::new(stream.try_clone().unwrap());
            for (count, done) in asked {
                for _ in 0..count {
                    let request =
                        "GET /item/1 HTTP/1.1\r\nHost: api.test\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
                    stream.write_all(request.as_bytes()).unwrap();
                    assert_eq!(read_answer(&mut answers, || ()).0, 1024);
                }
                done.send(()).unwrap();
            }
        });
        Client(requests)
    }

    async fn ask(&self, count: usize) {
        let (done, answered) = oneshot::channel();
        self.0.send((count, done)).unwrap();
        answered.await.unwrap();
    }

    /// Allocations for each request; the lowest of some rounds, since timers and tasks allocate, too.
    async fn allocations(&self) -> u64 {
        self.ask(HITS).await;
        let mut lowest = u64::MAX;
        for _ in 0..5 {
            let before = allocator::allocations();
            self.ask(HITS).await;
            lowest = lowest.min(allocator::allocations() - before);
        }
        lowest / HITS as u64
    }
}

fn of_larder() -> u64 {
    let (upstream, _) = upstream(1024);
    runtime().block_on(async { Client::of(larder(upstream).await).allocations().await })
}

/// Those of a hit.
const FIELDS: [(&str, &str); 7] = [
    ("content-type", "text/plain"),
    ("cache-control", "max-age=3600"),
    ("date", "Sun, 29 Nov 2026 14:22:55 GMT"),
    ("etag", "\"1\""),
    ("via", "1.1 larder"),
    ("age", "1"),
    ("cache-status", "larder; hit; ttl=3599"),
];

fn of_hyper() -> u64 {
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let body = Bytes::from(vec![b'x'; 1024]);
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |_: Request<Incoming>| {
                let mut response = Response::new(Full::new(body.clone()));
                let mut fields = HeaderMap::with_capacity(FIELDS.len());
                for (name, value) in FIELDS {
                    fields.insert(name, HeaderValue::from_static(value));
                }
                *response.headers_mut() = fields;
                async move { Ok::<_, Infallible>(response) }
            });
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
        Client::of(address).allocations().await
    })
}

#[test]
fn a_hit_allocates_as_often_as_bare_hyper_and_a_stated_number_of_times_more() {
    let _alone = allocator::alone();
    let (hyper, larder) = (of_hyper(), of_larder());
    println!("bare hyper: {hyper}, Larder: {larder}");
    assert!(larder - hyper <= FURTHER, "bare hyper: {hyper}, Larder: {larder}");
}
