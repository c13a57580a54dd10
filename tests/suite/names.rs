//! An upstream whose name leads to other addresses in the course of time.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{Plan, Upstream, eventually};

/// A DNS server that knows one address for every name, with a TTL of a second; or fails.
struct Dns {
    address: SocketAddr,
    answer: Arc<Mutex<Option<Ipv4Addr>>>,
}

impl Dns {
    fn start(answer: Ipv4Addr) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, answer) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Some(answer))));
        let shared = Arc::clone(&answer);
        // Ends with the test's process.
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if let Some(response) = respond(&buffer[..length], *shared.lock().unwrap()) {
                    let _ = socket.send_to(&response, client);
                }
            }
        });
        Dns { address, answer }
    }

    fn says(&self, answer: Option<Ipv4Addr>) {
        *self.answer.lock().unwrap() = answer;
    }
}

/// RFC 1035 §4.1: the query's id and question, and for an A an address. No address: SERVFAIL.
fn respond(query: &[u8], address: Option<Ipv4Addr>) -> Option<Vec<u8>> {
    const A: [u8; 2] = [0, 1];
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)? + 13;
    let question = query.get(12..name + 4)?;
    let found = address.filter(|_| query[name..name + 2] == A);
    let code = if address.is_none() { 2 } else { 0 };
    let mut response =
        [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0], question].concat();
    if let Some(address) = found {
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        response.extend(address.octets());
    }
    Some(response)
}

#[test]
fn a_name_that_changes_its_address_is_followed_and_one_that_cannot_be_resolved_is_kept() {
    let old = Upstream::start();
    let port = old.address().port();
    let new = Upstream::start_at(&format!("127.0.0.2:{port}"));
    let dns = Dns::start(Ipv4Addr::new(127, 0, 0, 1));
    let rules = format!("[server]\nresolver = \"{}\"\n", dns.address);
    let larder = Plan::new(&format!("http://api.test:{port}")).rules(&rules).start();
    larder.get("/a").has_status(200);
    assert_eq!((old.count("/a"), new.count("/a")), (1, 0));
    assert_eq!(old.last("/a").header("host"), Some("localhost"), "what the client calls it");
    dns.says(Some(Ipv4Addr::new(127, 0, 0, 2)));
    eventually("a busy pool goes to the new address", || {
        larder.get("/a").has_status(200);
        new.count("/a") > 0
    });
    dns.says(None);
    eventually("the name cannot be resolved", || {
        larder.get("/a").has_status(200);
        larder.log().contains("cannot resolve upstream's host name")
    });
    let before = old.count("/a");
    larder.write("POST", "/b").has_status(200);
    assert_eq!((new.count("/b"), old.count("/a")), (1, before));
}
