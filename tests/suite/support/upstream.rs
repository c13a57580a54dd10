//! The API behind Larder: raw sockets, so that exactly the bytes that a test wants go out, and a log of every request.
//!
//! Unless a test scripts it, it answers every GET with the target and the number of GETs there were for it
//! (`/users #2`), so that a body says which fetch it came from, and every write with `done`.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use socket2::{Domain, Socket, Type};

use super::client::{chunk, read_exactly, read_fields, read_line};
use super::gate::{Gate, Passage};
use super::{eventually_some, pause_at_random};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How many of this method for this target there were, with this one.
    pub nth: usize,
}

impl Request {
    /// The first value of a field, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a field.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What is sent back, byte by byte if need be.
#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    framing: Framing,
    /// Wait here after this many bytes of the body.
    pause: Option<(u64, Passage)>,
    /// Wait here before the head.
    hold: Option<Passage>,
    ending: Ending,
}

#[derive(Clone)]
enum Body {
    Bytes(Vec<u8>),
    /// The target and the request's number.
    Numbered,
    /// So many bytes, made while they are sent.
    Filled(u64),
    /// The whole message as it goes out, head and all.
    Raw(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Whole,
    /// The connection ends after this many bytes of the body.
    CutAfter(u64),
    /// The connection ends without an answer.
    NoAnswer,
}

impl Reply {
    /// 200 with this body.
    pub fn new(body: impl Into<Vec<u8>>) -> Reply {
        Reply::with(Body::Bytes(body.into()))
    }

    /// 200 with the usual body: the target and the request's number.
    pub fn numbered() -> Reply {
        Reply::with(Body::Numbered)
    }

    /// 200 with a body of so many bytes that is never in memory as a whole.
    pub fn filled(length: u64) -> Reply {
        Reply::with(Body::Filled(length))
    }

    /// Exactly these bytes: status line, fields, body. The connection is closed after them, or after a pause.
    pub fn raw(message: impl Into<Vec<u8>>) -> Reply {
        Reply::with(Body::Raw(message.into()))
    }

    /// Another status with the usual body.
    pub fn status(status: u16) -> Reply {
        Reply { status, ..Reply::numbered() }
    }

    /// Another status with this body.
    pub fn with_status(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, ..Reply::new(body) }
    }

    /// Closes the connection instead of answering.
    pub fn none() -> Reply {
        Reply { ending: Ending::NoAnswer, ..Reply::numbered() }
    }

    fn with(body: Body) -> Reply {
        let (framing, ending) = (Framing::Length, Ending::Whole);
        Reply { status: 200, headers: Vec::new(), body, framing, pause: None, hold: None, ending }
    }

    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `Cache-Control`.
    pub fn cached(self, directives: &str) -> Reply {
        self.header("Cache-Control", directives)
    }

    /// Stale from the beginning, and with a validator, so that it is worth storing: stale for as long as the test
    /// needs, without waiting for a clock.
    pub fn stale(self, directives: &str) -> Reply {
        self.cached(&format!("max-age=60, {directives}")).header("Age", "100").header("ETag", "\"1\"")
    }

    pub fn chunked(self) -> Reply {
        Reply { framing: Framing::Chunked, ..self }
    }

    /// The end of the body is the end of the connection.
    pub fn until_close(self) -> Reply {
        Reply { framing: Framing::UntilClose, ..self }
    }

    /// Ends the connection after this many bytes of the body.
    pub fn cut_after(self, bytes: u64) -> Reply {
        Reply { ending: Ending::CutAfter(bytes), ..self }
    }

    /// Sends the head and this many bytes of the body, then waits at the gate.
    pub fn pause_after(self, bytes: u64, gate: &Gate) -> Reply {
        Reply { pause: Some((bytes, gate.passage())), ..self }
    }

    /// Waits at the gate before the head.
    pub fn held(self, gate: &Gate) -> Reply {
        Reply { hold: Some(gate.passage()), ..self }
    }
}

type Answer = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A path (with or without query), and the method if only one is meant: `/users`, `GET /users`.
struct Spot {
    method: Option<String>,
    target: String,
}

impl Spot {
    fn parse(text: &str) -> Spot {
        match text.split_once(' ') {
            Some((method, target)) => Spot { method: Some(method.to_owned()), target: target.to_owned() },
            None => Spot { method: None, target: text.to_owned() },
        }
    }

    fn is(&self, request: &Request) -> bool {
        let path = request.target.split('?').next().unwrap_or("");
        self.method.as_ref().is_none_or(|method| *method == request.method)
            && (self.target == request.target || self.target == path)
    }
}

struct Hold {
    spot: Spot,
    passage: Passage,
    left: usize,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<Vec<(Spot, Answer)>>,
    holds: Mutex<Vec<Hold>>,
    log: Mutex<Vec<Request>>,
    connections: Mutex<Vec<TcpStream>>,
}

/// A running upstream.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    /// While stopped: bound, so that no other process gets the port, but not listening, so that connections are refused.
    reserved: Option<Socket>,
}

impl Upstream {
    pub fn start() -> Upstream {
        Upstream::start_at("127.0.0.1:0")
    }

    /// At this address.
    pub fn start_at(address: &str) -> Upstream {
        let listener = TcpListener::bind(address).unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::default());
        let mut upstream = Upstream { address, shared, listening: None, reserved: None };
        upstream.accept(listener);
        upstream
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers this from now on.
    pub fn on(&self, spot: &str, reply: Reply) {
        self.answer(spot, move |_| reply.clone());
    }

    /// Answers the first request with the first of these, and so on; the last one stays.
    pub fn script(&self, spot: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies: Mutex<Vec<Reply>> = Mutex::new(replies.into_iter().collect());
        self.answer(spot, move |_| {
            let mut replies = replies.lock().unwrap();
            if replies.len() > 1 { replies.remove(0) } else { replies[0].clone() }
        });
    }

    /// Answers what this makes of the request. Later answers for a spot replace earlier ones.
    pub fn answer(&self, spot: &str, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        pause_at_random();
        self.shared.answers.lock().unwrap().push((Spot::parse(spot), Arc::new(answer)));
    }

    /// Holds back the next answer; what it says is settled when the request arrives, as in an API that reads its
    /// database and is slow to send.
    pub fn hold_next(&self, spot: &str) -> Gate {
        self.hold(spot, 1)
    }

    /// Holds back all answers until the gate opens.
    pub fn hold_all(&self, spot: &str) -> Gate {
        self.hold(spot, usize::MAX)
    }

    fn hold(&self, spot: &str, left: usize) -> Gate {
        pause_at_random();
        let gate = Gate::new();
        self.shared.holds.lock().unwrap().push(Hold { spot: Spot::parse(spot), passage: gate.passage(), left });
        gate
    }

    /// All requests for this so far.
    pub fn requests(&self, spot: &str) -> Vec<Request> {
        let spot = Spot::parse(spot);
        self.shared.log.lock().unwrap().iter().filter(|request| spot.is(request)).cloned().collect()
    }

    /// The last request for this.
    #[track_caller]
    pub fn last(&self, spot: &str) -> Request {
        self.requests(spot).pop().unwrap_or_else(|| panic!("upstream received no {spot}"))
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().unwrap().len()
    }

    /// Ends all connections, and takes new ones.
    pub fn end_connections(&mut self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub fn count(&self, spot: &str) -> usize {
        self.requests(spot).len()
    }

    /// Ends all connections and refuses new ones.
    pub fn stop(&mut self) {
        self.end();
        // A process that another test is starting may have inherited the listener for a moment. As long as that
        // lives, connections are not refused, and the port cannot be taken.
        self.reserved = Some(eventually_some("the port is free", || reserve(self.address).ok()));
    }

    fn end(&mut self) {
        if let Some((stopping, acceptor)) = self.listening.take() {
            stopping.store(true, Ordering::SeqCst);
            // The acceptor waits for a connection; here is one.
            let _ = TcpStream::connect(self.address);
            acceptor.join().unwrap();
        }
        self.end_connections();
    }

    /// Listens again at the same address.
    pub fn resume(&mut self) {
        let reserved = self.reserved.take().expect("it was stopped before");
        reserved.listen(128).unwrap();
        self.accept(reserved.into());
    }

    fn accept(&mut self, listener: TcpListener) {
        let stopping = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&self.shared), Arc::clone(&stopping));
        let acceptor = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(&stream));
            }
        });
        self.listening = Some((stopping, acceptor));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end();
    }
}

fn reserve(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Shared {
    /// One connection, as long as it lasts.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader) {
            pause_at_random();
            let (request, reply, hold) = self.receive(request);
            if let Some(passage) = hold {
                passage.pass();
            }
            if send(stream, &request, &reply).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn receive(&self, mut request: Request) -> (Request, Reply, Option<Passage>) {
        let mut log = self.log.lock().unwrap();
        let same = |known: &&Request| known.method == request.method && known.target == request.target;
        request.nth = log.iter().filter(same).count() + 1;
        log.push(request.clone());
        drop(log);
        let answer = {
            let answers = self.answers.lock().unwrap();
            answers.iter().rev().find(|(spot, _)| spot.is(&request)).map(|(_, answer)| Arc::clone(answer))
        };
        let reply = match answer {
            Some(answer) => answer(&request),
            None if ["GET", "HEAD"].contains(&&*request.method) => Reply::numbered(),
            None => Reply::new("done"),
        };
        let hold = self.hold_for(&request);
        (request, reply, hold)
    }

    fn hold_for(&self, request: &Request) -> Option<Passage> {
        let mut holds = self.holds.lock().unwrap();
        let hold = holds.iter_mut().find(|hold| hold.left > 0 && hold.spot.is(request))?;
        hold.left -= 1;
        Some(hold.passage.clone())
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let first = read_line(reader).ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let headers = read_fields(reader).ok()?;
    let mut request = Request { method, target, headers, body: Vec::new(), nth: 0 };
    if request.header("transfer-encoding").is_some() {
        while let Some(piece) = read_chunk(reader)? {
            request.body.extend(piece);
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = read_exactly(reader, length.parse().ok()?).ok()?;
    }
    Some(request)
}

/// The next chunk; `Some(None)` after the last.
fn read_chunk(reader: &mut BufReader<TcpStream>) -> Option<Option<Vec<u8>>> {
    let length = usize::from_str_radix(&read_line(reader).ok()?, 16).ok()?;
    let piece = read_exactly(reader, length).ok()?;
    read_line(reader).ok()?;
    Some((length > 0).then_some(piece))
}

/// Sends a reply; an error when the connection is to be closed after it.
fn send(mut stream: &TcpStream, request: &Request, reply: &Reply) -> io::Result<()> {
    let closed = || io::Error::from(io::ErrorKind::ConnectionAborted);
    if let Some(passage) = &reply.hold {
        passage.pass();
    }
    if reply.ending == Ending::NoAnswer {
        return Err(closed());
    }
    let (bytes, length) = match &reply.body {
        Body::Raw(message) => {
            stream.write_all(message)?;
            if let Some((_, passage)) = &reply.pause {
                passage.pass();
            }
            return Err(closed());
        }
        Body::Bytes(bytes) => (bytes.clone(), bytes.len() as u64),
        Body::Numbered => {
            let text = format!("{} #{}", request.target, request.nth).into_bytes();
            (text.clone(), text.len() as u64)
        }
        Body::Filled(length) => (Vec::new(), *length),
    };
    stream.write_all(head(reply, length).as_bytes())?;
    if request.method == "HEAD" || reply.status == 204 || reply.status == 304 {
        return Ok(());
    }
    send_body(stream, reply, &bytes, length)?;
    if reply.framing == Framing::UntilClose { Err(closed()) } else { Ok(()) }
}

fn head(reply: &Reply, length: u64) -> String {
    let mut head = format!("HTTP/1.1 {} Whatever\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("date")) {
        head += &format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
    }
    match reply.framing {
        _ if reply.status == 204 || reply.status == 304 => {}
        Framing::Length => head += &format!("Content-Length: {length}\r\n"),
        Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        Framing::UntilClose => head += "Connection: close\r\n",
    }
    head + "\r\n"
}

fn send_body(mut stream: &TcpStream, reply: &Reply, bytes: &[u8], length: u64) -> io::Result<()> {
    let filling = vec![b'x'; 64 * 1024];
    let mut pause = reply.pause.as_ref();
    let end = if let Ending::CutAfter(bytes) = reply.ending { bytes.min(length) } else { length };
    let mut at = 0;
    loop {
        if let Some((_, passage)) = pause.take_if(|(after, _)| *after == at) {
            passage.pass();
        }
        if at == end {
            break;
        }
        let until = pause.map_or(end, |(after, _)| (*after).min(end)).min(at + filling.len() as u64);
        let piece = match reply.body {
            Body::Filled(_) => &filling[..(until - at) as usize],
            _ => &bytes[at as usize..until as usize],
        };
        match reply.framing {
            Framing::Chunked => stream.write_all(&chunk(piece))?,
            _ => stream.write_all(piece)?,
        }
        at = until;
    }
    if let Ending::CutAfter(_) = reply.ending {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    if reply.framing == Framing::Chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::client::{Call, Failure};
    use super::*;

    fn call(upstream: &Upstream, method: &str, target: &str) -> Call {
        Call::new(upstream.address(), method, target)
    }

    #[test]
    fn bodies_are_numbered_and_requests_logged() {
        let upstream = Upstream::start();
        call(&upstream, "GET", "/a?b=1").header("X-Field", "v").send().carries("/a?b=1 #1").has_status(200);
        call(&upstream, "GET", "/a?b=1").send().carries("/a?b=1 #2");
        call(&upstream, "POST", "/a").body("sent").send().carries("done");
        call(&upstream, "POST", "/a").body("x".repeat(2500)).chunked().send().carries("done");
        assert_eq!(upstream.count("GET /a"), 2);
        assert_eq!(upstream.requests("/a")[0].header("x-field"), Some("v"));
        assert_eq!(upstream.requests("POST /a")[0].body, b"sent");
        assert_eq!(upstream.last("POST /a").body.len(), 2500);
    }

    #[test]
    fn every_framing_gives_the_whole_body() {
        let upstream = Upstream::start();
        for reply in [Reply::new("whole"), Reply::new("whole").chunked(), Reply::new("whole").until_close()] {
            upstream.on("/", reply);
            call(&upstream, "GET", "/").send().carries("whole");
            call(&upstream, "HEAD", "/").send().carries("");
        }
        upstream.on("/", Reply::filled(1_000_000).chunked());
        assert_eq!(call(&upstream, "GET", "/").start().drain().unwrap(), 1_000_000);
    }

    #[test]
    fn a_cut_response_is_not_taken_for_a_whole_one() {
        let upstream = Upstream::start();
        for reply in [Reply::new("whole"), Reply::new("whole").chunked()] {
            upstream.on("/", reply.cut_after(3));
            let failure = call(&upstream, "GET", "/").try_send().unwrap_err();
            assert!(matches!(failure, Failure::Cut(response) if response.body == b"who"));
        }
        upstream.on("/", Reply::none());
        assert!(matches!(call(&upstream, "GET", "/").try_send(), Err(Failure::NoHead)));
    }

    #[test]
    fn a_held_reply_says_what_was_true_when_the_request_came() {
        let upstream = Upstream::start();
        let gate = upstream.hold_next("GET /");
        let held = call(&upstream, "GET", "/").start();
        gate.wait_for(1);
        call(&upstream, "GET", "/").send().carries("/ #2");
        gate.open();
        held.response().carries("/ #1");
    }

    #[test]
    fn a_paused_body_can_be_read_up_to_the_pause() {
        let (upstream, gate) = (Upstream::start(), Gate::new());
        for reply in [Reply::new("0123456789"), Reply::new("0123456789").chunked()] {
            let gate = Gate::new();
            upstream.on("/", reply.pause_after(4, &gate));
            let mut pending = call(&upstream, "GET", "/").start();
            assert_eq!(pending.read_body(4).unwrap(), b"0123");
            gate.open();
            pending.response().carries("0123456789");
        }
        upstream.on("/", Reply::new("").held(&gate));
        let pending = call(&upstream, "GET", "/").start();
        gate.wait_for(1);
        gate.open();
        pending.response().carries("");
    }

    #[test]
    fn a_script_is_followed_and_its_last_reply_stays() {
        let upstream = Upstream::start();
        upstream.script("/", [Reply::status(500), Reply::new("well").cached("max-age=1")]);
        call(&upstream, "GET", "/").send().has_status(500);
        call(&upstream, "GET", "/").send().carries("well");
        assert_eq!(call(&upstream, "GET", "/").send().header("cache-control"), Some("max-age=1"));
    }

    #[test]
    fn a_stopped_upstream_refuses_until_it_is_resumed() {
        let mut upstream = Upstream::start();
        upstream.stop();
        assert!(matches!(call(&upstream, "GET", "/").try_send(), Err(Failure::Refused)));
        upstream.resume();
        call(&upstream, "GET", "/").send().carries("/ #1");
    }
}
