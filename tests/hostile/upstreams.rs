//! Upstreams that send what is no response, or never come to one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::others;
use crate::support::{Plan, Upstream};

/// What upstream sends.
#[derive(Clone, Copy)]
struct Sends {
    /// At once.
    first: &'static str,
    /// Over and over, until the connection is closed.
    endless: &'static str,
}

/// An upstream that answers every request alike, apart from those of the other clients. Returns its address, and the number of bytes of
/// the endless response that Larder has read.
fn start(sends: Sends) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, sent) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let total = Arc::clone(&sent);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let sent = Arc::clone(&total);
            thread::spawn(move || serve(stream, sends, &sent));
        }
    });
    (address, sent)
}

fn serve(mut stream: TcpStream, sends: Sends, sent: &AtomicUsize) {
    let mut head = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        if String::from_utf8_lossy(&head).contains(" /others") {
            let body: usize = if head.starts_with(b"POST") { 1 } else { 0 };
            let _ = stream.read_exact(&mut [0; 1][..body]);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
            head.clear();
            continue;
        }
        let _ = stream.write_all(sends.first.as_bytes());
        let piece = sends.endless.repeat(1 + (16 << 10) / sends.endless.len().max(1));
        while !sends.endless.is_empty() && stream.write_all(piece.as_bytes()).is_ok() {
            sent.fetch_add(piece.len(), Ordering::SeqCst);
        }
        return;
    }
}

#[track_caller]
fn is_refused_and_hurts_nobody(sends: Sends) {
    let (address, sent) = start(sends);
    let larder = Plan::new(&format!("http://{address}")).rules(others::RULES).start();
    let others = others::Others::start(&larder);
    for method in ["GET", "POST", "GET"] {
        larder.call(method, "/attack").send().fails_with(502).shows("detail=upstream-garbled");
    }
    others.go_on(100);
    // What the connection brought before may be invalidated with it: it may have belonged to other requests.
    others.end().was_answered();
    // What is in the kernel's buffers was sent without being taken.
    assert!(sent.load(Ordering::SeqCst) < 64 << 20, "{sent:?}");
}

#[test]
fn interim_responses_without_end_are_refused() {
    for endless in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"] {
        is_refused_and_hurts_nobody(Sends { first: "", endless });
    }
}

#[test]
fn a_head_without_end_is_refused() {
    for endless in ["x", "X: 1\r\n", "\r\n"] {
        let first = if endless == "\r\n" { "" } else { "HTTP/1.1 200 OK\r\nX: " };
        is_refused_and_hurts_nobody(Sends { first, endless });
    }
}

#[test]
fn a_control_character_in_a_field_value_is_refused() {
    let heads = [
        "HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\n\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nX: a\nY: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ];
    for first in heads {
        let (address, _) = start(Sends { first, endless: "" });
        let larder = Plan::new(&format!("http://{address}")).start();
        let answer = larder.get("/attack").fails_with(502);
        assert_eq!((answer.header("set-cookie"), answer.header("y")), (None, None), "{first:?}");
    }
}

#[test]
fn lengths_that_differ_are_refused_and_equal_ones_become_one() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).start();
    let answer = |method: &str, status: &str, lengths: &str| {
        let head = format!("HTTP/1.1 {status}\r\n{lengths}ETag: \"1\"\r\n\r\n");
        upstream.on("/a", crate::support::Reply::raw(head));
        larder.call(method, "/a").header("If-None-Match", "\"1\"").send()
    };
    let (equal, differing) =
        ("Content-Length: 0\r\ncontent-length: 0\r\n", "Content-Length: 0\r\nContent-Length: 9\r\n");
    for (method, status) in
        [("GET", "200 OK"), ("HEAD", "200 OK"), ("POST", "200 OK"), ("GET", "304 Not Modified")]
    {
        let response = answer(method, status, equal);
        // hyper sends no length with a 304.
        let expected: &[&str] = if response.status == 304 { &[] } else { &["0"] };
        assert_eq!(response.headers("content-length"), expected, "{method} {status}: {response:?}");
        assert_eq!(answer(method, status, differing).status, 502, "{method} {status}");
    }
}
