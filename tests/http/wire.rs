//! Both ends of Larder in the hands of one test: it plays the client and upstream, byte by byte and in the order it likes.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::support::{Larder, PATIENCE, Plan, eventually_some};

/// One connection.
pub struct Wire(BufReader<TcpStream>);

/// A Larder whose upstream is controlled by the test.
pub struct Bench {
    pub larder: Larder,
    listener: TcpListener,
}

/// A message's head: its lines, names of fields in lower case.
pub type Head = Vec<String>;

impl Bench {
    /// With these rules.
    #[track_caller]
    pub fn start(rules: &str) -> Bench {
        Bench::start_as(|plan| plan.rules(rules))
    }

    /// Started like this.
    #[track_caller]
    pub fn start_as(plan: impl FnOnce(Plan) -> Plan) -> Bench {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Bench { larder: plan(Plan::new(&url)).start(), listener }
    }

    /// A new client that has sent this.
    pub fn client(&self, bytes: &str) -> Wire {
        let mut client = Wire::to(self.larder.address);
        client.send(bytes);
        client
    }

    /// Sends a request until it goes over this connection to upstream, which may have to rest before. Meanwhile it is
    /// answered on others, and nothing of that stays.
    #[track_caller]
    pub fn client_over(&self, upstream: &mut Wire, request: &str) -> Wire {
        loop {
            let mut client = self.client(request);
            let another = eventually_some("Larder sends the request to upstream", || {
                if upstream.is_silent() { self.accepted().map(Some) } else { Some(None) }
            });
            let Some(mut another) = another else { return client };
            another.head();
            another.send(
                "HTTP/1.1 404 Not Found\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
            client.rest();
        }
    }

    /// Sends a request that is forwarded. Returns the client's connection, and that at upstream once it has the head.
    #[track_caller]
    pub fn forwarded(&self, bytes: &str) -> (Wire, Wire) {
        let client = self.client(bytes);
        let mut upstream = self.upstream();
        upstream.head();
        (client, upstream)
    }

    /// The next connection to upstream.
    #[track_caller]
    pub fn upstream(&self) -> Wire {
        eventually_some("Larder connects to upstream", || self.accepted())
    }

    /// A new connection to upstream, if there is one by now.
    pub fn accepted(&self) -> Option<Wire> {
        let stream = self.listener.accept().ok()?.0;
        stream.set_nonblocking(false).unwrap();
        Some(Wire::of(stream))
    }
}

impl Wire {
    pub fn to(address: SocketAddr) -> Wire {
        Wire::of(TcpStream::connect(address).unwrap())
    }

    /// From another address of this machine.
    pub fn from_elsewhere(address: SocketAddr) -> Wire {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Wire::of(socket.into())
    }

    fn of(stream: TcpStream) -> Wire {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Wire(BufReader::new(stream))
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The lines up to the next empty one.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            match line.strip_suffix("\r\n") {
                Some("") => return lines,
                Some(line) => lines.push(in_lower_case(line)),
                None => panic!("the connection ended in the middle of a head: {lines:?} {line:?}"),
            }
        }
    }

    /// So many bytes.
    #[track_caller]
    pub fn take(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Everything that arrives before the connection closes.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection does not end: {error}"),
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until the connection closes, in any protocol.
    pub fn end(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }

    /// The same connection, to send on it meanwhile.
    pub fn again(&self) -> Wire {
        Wire(BufReader::new(self.0.get_ref().try_clone().unwrap()))
    }

    /// Whether nothing has come by now. A test that must not be fooled by delay makes something else happen after it.
    pub fn is_silent(&mut self) -> bool {
        let stream = self.0.get_ref();
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).unwrap();
        self.0.buffer().is_empty() && peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Nothing more will be sent.
    pub fn finish(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Sends this, if the connection still accepts it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        socket2::SockRef::from(self.0.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Ends the connection.
    pub fn leave(self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Both);
    }
}

fn in_lower_case(line: &str) -> String {
    match line.split_once(':') {
        // A start line with a colon in its target keeps its case: a space precedes the colon.
        Some((name, value)) if !name.contains(' ') => format!("{}:{value}", name.to_ascii_lowercase()),
        _ => line.to_owned(),
    }
}

/// The value of a field in a head.
pub fn field<'h>(head: &'h Head, name: &str) -> Option<&'h str> {
    head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
