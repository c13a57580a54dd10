//! One Larder in this process, on loopback, with an upstream that answers as it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder::config::{Config, Overrides};
use larder::server::{self, Listeners};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::message::{self, Fault, Request, Response};

/// What no answer and no end of a connection may take; the time limits of [`CONFIG`] are far shorter, but the machine may
/// be busy.
pub const BOUND: Duration = Duration::from_secs(20);

const CONFIG: &str = r#"
[server]
upstream = "http://UPSTREAM"
connect_timeout = "2s"
upstream_timeout = "100ms"
reinvalidate_after = "100ms"
idle_timeout = "100ms"
header_timeout = "2s"
drain_timeout = "2s"
stream_after = "50ms"
stream_timeout = "100ms"
collapse_wait = "50ms"
max_connections = 256
max_upstream_streams = 64
[memory]
capacity = "8MiB"
max_body = "64KiB"
[[family]]
name = "known"
path = "/known/.*"
ttl = "1m"
[invalidate]
"/known/(?<what>.*)" = ["known"]
[log]
access = false
level = "off"
"#;

/// A panic anywhere in this process ends it (`libfuzzer_sys` sees to that), so that none of Larder's goes unnoticed.
pub struct Site {
    runtime: Runtime,
    larder: SocketAddr,
    script: Arc<Script>,
    upstream: SocketAddr,
    /// When this is dropped, that Larder shuts down.
    _end: oneshot::Sender<()>,
}

/// What upstream answers to a GET of one path. To everything else it answers with the method and the target.
#[derive(Debug, Clone)]
pub struct ScriptedResponse {
    pub path: String,
    pub bytes: Vec<u8>,
    /// So many of them are sent first, and the rest a little later.
    pub first: usize,
    /// The connection is closed if nothing is asked on it for so long; `None`: it is not.
    pub open_for: Option<Duration>,
}

type Script = Mutex<Option<ScriptedResponse>>;

impl Site {
    pub fn start() -> Site {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let script = Arc::<Script>::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let upstream = listener.local_addr().expect("its address");
        runtime.spawn(accept(listener, Arc::clone(&script)));
        let (larder, end) = start_larder(&runtime, upstream);
        let site = Site { runtime, larder, script, upstream, _end: end };
        site.check();
        site
    }

    /// Everything works: what is fetched is there for the next one.
    fn check(&self) {
        let [_, second] = ["/known/start"; 2].map(|path| self.client().get(path).expect("a response"));
        assert!(second.status == 200 && second.body == b"GET /known/start\n", "{second:?}");
        assert!(second.fields.get("age").is_some(), "{second:?}");
    }

    /// Puts a new Larder in the place of the old one, which may have learned to distrust upstream.
    pub fn renew(&mut self) {
        (self.larder, self._end) = start_larder(&self.runtime, self.upstream);
    }

    pub fn script(&self, response: Option<ScriptedResponse>) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = response;
    }

    pub fn client(&self) -> Client {
        let stream = TcpStream::connect(self.larder).expect("Larder accepts");
        stream.set_nodelay(true).expect("a socket");
        Client { stream, read: Vec::new(), is_closed: false }
    }
}

fn start_larder(runtime: &Runtime, upstream: SocketAddr) -> (SocketAddr, oneshot::Sender<()>) {
    let text = CONFIG.replace("UPSTREAM", &upstream.to_string());
    let config = Config::parse(&text, "fuzz", &Overrides::default(), &|_| None);
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    runtime.block_on(async {
        let running = server::assemble(config).await.expect("a Larder");
        let [public, admin] = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
        let listeners = Listeners { public: public.expect("a port"), admin: admin.expect("a port") };
        let address = listeners.public.local_addr().expect("its address");
        let (end, ended) = oneshot::channel();
        tokio::spawn(server::run(running, listeners, async move { drop(ended.await) }));
        (address, end)
    })
}

async fn accept(listener: TcpListener, script: Arc<Script>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection from Larder");
        tokio::spawn(answer_all(stream, Arc::clone(&script)));
    }
}

/// Answers the requests of a connection. They come from Larder: that they are HTTP is part of what is tested.
async fn answer_all(mut stream: tokio::net::TcpStream, script: Arc<Script>) {
    let _ = stream.set_nodelay(true);
    let (mut read, mut is_told) = (Vec::new(), false);
    loop {
        let request = match message::request(&read) {
            Ok((request, used)) => {
                read.drain(..used);
                is_told = false;
                request
            }
            Err(Fault::Bad(why)) => {
                panic!("Larder sends upstream what is no request, {why}: {}", read.escape_ascii())
            }
            Err(Fault::Short) => {
                let expects = message::fields_of_request(&read).is_some_and(|it| it.get("expect").is_some());
                if expects && !std::mem::replace(&mut is_told, true) {
                    let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                match stream.read_buf(&mut read).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => continue,
                }
            }
        };
        let response = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let response = response.filter(|response| request.method == "GET" && request.target == response.path);
        let (bytes, first, open_for) = match response {
            Some(response) => (response.bytes, response.first, response.open_for),
            None => (answer(&request), 0, None),
        };
        let (begin, rest) = bytes.split_at(first.min(bytes.len()));
        if !begin.is_empty() {
            let _ = stream.write_all(begin).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if stream.write_all(rest).await.is_err() {
            return;
        }
        if let Some(time) = open_for
            && tokio::time::timeout(time, stream.readable()).await.is_err()
        {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

/// A response that says what was asked for.
fn answer(request: &Request) -> Vec<u8> {
    let is_head = request.method == "HEAD";
    let asked = format!("{} {}", if is_head { "GET" } else { &request.method }, request.target);
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nETag: \"1\"\r\nContent-Type: text/plain\r\n";
    let length = asked.len() + 1;
    let body = if is_head { String::new() } else { format!("{asked}\n") };
    format!("{head}X-Asked: {asked}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A client's connection.
pub struct Client {
    stream: TcpStream,
    /// What has come and belongs to no response yet.
    pub read: Vec<u8>,
    pub is_closed: bool,
}

impl Client {
    /// Larder may have closed the connection before it had all of it.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Says that nothing more follows.
    pub fn end(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The final response to a GET; `None` if the connection ended before the response did.
    ///
    /// # Panics
    ///
    /// What comes is no response, or nothing comes.
    pub fn get(&mut self, path: &str) -> Option<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: larder\r\n\r\n").as_bytes());
        let until = Instant::now() + BOUND;
        loop {
            match message::response(&self.read, false, self.is_closed) {
                Ok((response, used)) => {
                    self.read.drain(..used);
                    if !response.is_interim() {
                        let comes = self.read.escape_ascii();
                        assert!(self.read.is_empty(), "bytes behind the response to {path}: {comes}");
                        return Some(response);
                    }
                }
                Err(Fault::Bad(why)) => panic!("no response to {path}, {why}: {}", self.read.escape_ascii()),
                Err(Fault::Short) if self.is_closed => return None,
                Err(Fault::Short) => {
                    self.receive(BOUND);
                    assert!(
                        Instant::now() < until,
                        "no answer to {path} in {BOUND:?}: {}",
                        self.read.escape_ascii()
                    );
                }
            }
        }
    }

    /// Reads what comes within this time; false if nothing came.
    pub fn receive(&mut self, within: Duration) -> bool {
        self.stream.set_read_timeout(Some(within)).expect("a time limit");
        let mut space = [0; 16 << 10];
        match self.stream.read(&mut space) {
            Ok(0) => self.is_closed = true,
            Ok(length) => self.read.extend_from_slice(&space[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.is_closed = true,
        }
        true
    }
}
