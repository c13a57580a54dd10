//! Writes that never reach upstream whole: they cost next to nothing to send, and must not invalidate what everybody else
//! reads.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Plan, Reply, Upstream};

/// Everybody else's entries are invalidated by a write to a target of the attacker's choice.
fn rules() -> String {
    format!("{}\n[invalidate]\n'/things/.*' = [\"others\"]\n'/others/.*' = [\"others\"]\n", others::RULES)
}

/// Writes by HTTP/1.1 that are never whole.
const PARTS: [&str; 7] = [
    "Content-Length: 10\r\n\r\nx",
    "Content-Length: 1000000\r\n\r\nsome",
    "Content-Length: 1\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\nzz\r\n",
    "Transfer-Encoding: chunked\r\n\r\n2\r\nabcde\r\n0\r\n\r\n",
];

/// The same, of which so much comes that it is sent to upstream.
const MUCH: usize = 70_000;

fn part(number: usize) -> String {
    let much = "x".repeat(MUCH);
    match number % (PARTS.len() + 3) {
        0 => format!("Content-Length: 1000000\r\n\r\n{much}"),
        1 => format!("Transfer-Encoding: chunked\r\n\r\n{MUCH:x}\r\n{much}\r\n"),
        2 => format!("Transfer-Encoding: chunked\r\n\r\n{MUCH:x}\r\n{much}\r\nzz\r\n"),
        other => PARTS[other - 3].to_owned(),
    }
}

/// A POST by HTTP/2 that is reset in the middle of its content: preface, settings, `HEADERS`, `DATA`, `RST_STREAM`.
fn reset_stream() -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // :method POST, :scheme http, :path /things/1, :authority localhost.
    let block = [&[0x83, 0x86, 0x04, 9], &b"/things/1"[..], &[0x41, 9], b"localhost"].concat();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, frame(4, 0, 0, &[]), frame(1, 4, 1, &block), frame(0, 0, 1, b"some"), frame(3, 0, 1, &[0, 0, 0, 8])]
        .concat()
}

/// Begins a write, and leaves in one of the ways there are.
fn leave(to: SocketAddr, number: usize) -> Option<()> {
    let mut client = attack::connect(to)?;
    if number.is_multiple_of(8) {
        client.write_all(&reset_stream()).ok()?;
    } else {
        let (method, target) = if number % 2 == 1 { ("POST", "/things/1") } else { ("PUT", "/others/1") };
        let part = part(number);
        client.write_all(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{part}").as_bytes()).ok()?;
    }
    match number % 3 {
        0 => client.shutdown(std::net::Shutdown::Write).ok()?,
        1 => socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).ok()?,
        _ => {}
    }
    if number.is_multiple_of(3) {
        let _ = client.read(&mut [0; 1000]);
    }
    Some(())
}

/// Attacks, 20 times a second, until so many attempts have been made.
fn attack_with(attempts: usize, to: SocketAddr, attempt: impl Fn(SocketAddr, usize) -> Option<()>) -> usize {
    (0..attempts)
        .filter(|number| {
            pause();
            attempt(to, *number).is_some()
        })
        .count()
}

#[allow(clippy::disallowed_methods, reason = "no runtime here")]
fn pause() {
    thread::sleep(Duration::from_millis(50));
}

#[test]
fn writes_that_never_end_invalidate_nothing_of_others() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(&rules()).start();
    let others = Others::start(&larder);
    let begun = attack_with(100, larder.address, leave);
    others.end().was_unhurt();
    assert!(begun > 90, "{begun}");
    assert_eq!(upstream.count("POST /things/1") + upstream.count("PUT /others/1"), 0);
}

#[test]
fn writes_that_are_sent_to_the_login_invalidate_nothing_of_others() {
    let upstream = Upstream::start();
    upstream.on("/things/1", Reply::status(302).header("Location", "/login?next=/things/1"));
    let server = "[server]\nlogin = '/login'\n";
    let larder = Plan::new(&upstream.url()).rules(&[server, &rules()].concat()).start();
    let others = Others::start(&larder);
    let refused = |to, _| {
        let mut client = attack::connect(to)?;
        client.write_all(b"POST /things/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx").ok()?;
        client.read(&mut [0; 100]).ok().map(|_| ())
    };
    let begun = attack_with(60, larder.address, refused);
    others.end().was_unhurt();
    assert!(begun > 50 && upstream.count("POST /things/1") >= begun, "{begun}");
}
