//! Bodies in the smallest chunks there are.

use std::thread;

use crate::others::{self, Others};
use crate::support::{Larder, Plan, Reply, Upstream};

const LENGTH: usize = 1 << 20;

/// A response of so many chunks of one byte.
fn in_single_bytes(length: usize) -> Reply {
    let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nTransfer-Encoding: chunked\r\n\r\n";
    Reply::raw([head.as_bytes(), &b"1\r\nx\r\n".repeat(length), b"0\r\n\r\n"].concat())
}

fn start(upstream: &Upstream) -> Larder {
    Plan::new(&upstream.url()).rules(others::RULES).start()
}

#[test]
fn chunks_of_one_byte_take_memory_for_their_bytes() {
    let upstream = Upstream::start();
    upstream.on("/t/1", in_single_bytes(LENGTH));
    let larder = start(&upstream);
    let others = Others::start(&larder);
    let before = larder.peak_memory();
    let first = larder.get("/t/1").has_status(200).shows("stored");
    others.end().was_unhurt();
    assert_eq!(first.body, b"x".repeat(LENGTH));
    larder.get("/t/1").has_status(200).shows("hit").carries(&"x".repeat(LENGTH));
    // The body, a copy of it while it becomes an entry, and buffers; a note for each byte would be 32 MiB.
    let grown = larder.peak_memory() - before;
    assert!(grown < 12 << 20, "{grown}");
}

#[test]
fn several_bodies_of_such_chunks_at_once_hurt_nobody() {
    let upstream = Upstream::start();
    (0..4).for_each(|n| upstream.on(&format!("/t/{n}"), in_single_bytes(LENGTH / 2)));
    let larder = start(&upstream);
    let others = Others::start(&larder);
    thread::scope(|scope| {
        for n in 0..4 {
            let larder = &larder;
            scope.spawn(move || {
                let pending = larder.call("GET", &format!("/t/{n}")).start();
                assert_eq!(pending.drain().unwrap(), LENGTH as u64 / 2);
            });
        }
    });
    others.end().was_unhurt();
}
