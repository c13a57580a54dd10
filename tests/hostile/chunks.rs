//! Bodies in the smallest chunks there are.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Larder, Plan, Reply, Upstream};

const LENGTH: usize = 1 << 20;

/// A response of so many chunks of one byte.
fn in_single_bytes(length: usize) -> Reply {
    in_chunks("max-age=600", 1, length)
}

/// A response of `count` chunks of `size` bytes each.
fn in_chunks(cache_control: &str, size: usize, count: usize) -> Reply {
    let head = format!("HTTP/1.1 200 OK\r\nCache-Control: {cache_control}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("{size:x}\r\n{}\r\n", "x".repeat(size));
    Reply::raw([head.as_bytes(), &chunk.as_bytes().repeat(count), b"0\r\n\r\n"].concat())
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
    let grown = larder.peak_memory().saturating_sub(before);
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

/// hyper decodes each chunk by itself and passes it to another task: were they not joined, a body in chunks of one byte would cost
/// as much CPU as a thousand of its length in large ones. It has six times the bytes on the wire.
#[test]
fn a_response_in_chunks_of_one_byte_costs_little_more_cpu_than_in_large_chunks() {
    const TIMES: u32 = 8;
    let upstream = Upstream::start();
    let larder = start(&upstream);
    // Stored, and passed on to one client.
    for cache_control in ["max-age=600", "no-store"] {
        let cost = |name: &str, size: usize| {
            let before = larder.cpu();
            for n in 0..TIMES {
                let path = format!("/{cache_control}/{name}/{n}");
                upstream.on(&path, in_chunks(cache_control, size, LENGTH / size));
                larder.get(&path).has_status(200).carries(&"x".repeat(LENGTH));
            }
            // A hundredth of a second is what can be measured.
            (larder.cpu() - before).max(Duration::from_millis(10)) / TIMES
        };
        let (large, single) = (cost("large", 8 << 10), cost("single", 1));
        let ratio = single.as_secs_f64() / large.as_secs_f64();
        eprintln!("{cache_control}: {single:?} in chunks of one byte, {large:?} in large ones: {ratio:.1} times");
        assert!(ratio < 60.0, "{cache_control}: {single:?}, {ratio:.1} times as much");
    }
}

// ---- Of requests

#[test]
fn uploads_in_chunks_of_one_byte_hurt_nobody() {
    let upstream = Upstream::start();
    let larder = start(&upstream);
    let others = Others::start(&larder);
    let before = larder.peak_memory();
    let head =
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let content = b"1\r\nx\r\n".repeat(LENGTH / 32);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = attack::connect(larder.address).unwrap();
                client.write_all(&[head.as_bytes(), &content, b"0\r\n\r\n"].concat()).unwrap();
                let answer = attack::rest(&mut client);
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            });
        }
    });
    others.end().was_unhurt();
    assert_eq!(upstream.last("POST /upload").body.len(), LENGTH / 32);
    let grown = larder.peak_memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown}");
}

/// The CPU that an upload costs with this content.
fn cost(larder: &Larder, content: &[u8]) -> Duration {
    let head =
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let before = larder.cpu();
    let mut client = attack::connect(larder.address).unwrap();
    client.write_all(&[head.as_bytes(), content, b"0\r\n\r\n"].concat()).unwrap();
    let answer = attack::rest(&mut client);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    larder.cpu() - before
}

/// hyper passes on each chunk by itself; were each a write to upstream, a chunk of one byte would cost as much CPU as a tenth of
/// a request or more.
#[test]
fn an_upload_in_chunks_of_one_byte_costs_cpu_for_its_bytes() {
    const CHUNKS: usize = LENGTH / 4;
    let upstream = Upstream::start();
    let larder = start(&upstream);
    let of_single_bytes = |count: usize| cost(&larder, &b"1\r\nx\r\n".repeat(count));
    // Requests of one chunk, to compare with; a hundredth of a second is what can be measured.
    let honest = (0..100).map(|_| of_single_bytes(1)).sum::<Duration>().max(Duration::from_millis(10)) / 100;
    let cost = of_single_bytes(CHUNKS);
    let each = cost.as_secs_f64() / CHUNKS as f64 / honest.as_secs_f64();
    eprintln!("{CHUNKS} chunks of one byte cost {cost:?}, each as much as {each:.5} requests");
    assert!(each < 0.004, "{cost:?}, {each} requests each");
    assert_eq!(upstream.last("POST /upload").body.len(), CHUNKS);
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Reads frames until one of this kind and with these flags has come.
fn read_until(client: &mut TcpStream, kind: u8, flags: u8) -> Option<()> {
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).ok()?;
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        std::io::copy(&mut Read::by_ref(client).take(length), &mut std::io::sink()).ok()?;
        if (head[3], head[4] & flags) == (kind, flags) {
            return Some(());
        }
    }
}

#[test]
fn frames_of_one_byte_that_wait_for_upstream_take_memory_for_their_bytes() {
    let upstream = Upstream::start();
    // As many as everybody else has at once: a miss and a write.
    let server = "[server]\nmax_upstream_requests_per_client = 2\n";
    let larder = Plan::new(&upstream.url()).rules(&[server, others::RULES].concat()).start();
    let gate = upstream.hold_all("POST /upload");
    let _first = [(); 2].map(|()| {
        let mut client = attack::connect(larder.address).unwrap();
        client.write_all(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx").unwrap();
        client
    });
    gate.wait_for(2);
    let others = Others::start(&larder);
    let before = larder.peak_memory();
    let mut client = attack::connect(larder.address).unwrap();
    client.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()).unwrap();
    read_until(&mut client, 4, 0).unwrap();
    // :method POST, :scheme http, :path /upload, :authority localhost.
    let block = [&[0x83, 0x86, 0x04, 7], &b"/upload"[..], &[0x41, 9], b"localhost"].concat();
    let begun = [frame(4, 1, 0, &[]), frame(1, 4, 1, &block)].concat();
    let content = frame(0, 0, 1, b"x").repeat(300_000);
    let ping = frame(6, 0, 0, &[0; 8]);
    let sent = client.write_all(&[begun, content, ping].concat());
    if sent.is_ok() {
        // All of it has been read then, or the connection has ended: h2 bounds small frames that wait.
        let _ = read_until(&mut client, 6, 1);
    }
    let grown = larder.peak_memory().saturating_sub(before);
    others.end().was_unhurt();
    gate.open();
    assert!(grown < 16 << 20, "{grown}");
}
