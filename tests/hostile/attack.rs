//! What attackers are made of: raw connections from an address of their own.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::support::PATIENCE;

/// The address that attacks come from.
pub const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

/// Connects from an address of the loopback network. `None` if the connection is refused, reset or not accepted.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Some(stream)
}

/// Connects as the attacker.
pub fn connect(to: SocketAddr) -> Option<TcpStream> {
    connect_from(ATTACKER, to)
}

/// Opens up to `count` connections as the attacker and sends these bytes on each. Gives those that are open.
pub fn open(count: usize, to: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    (0..count)
        .filter_map(|_| {
            let mut stream = connect(to)?;
            stream.write_all(bytes).ok()?;
            Some(stream)
        })
        .collect()
}
