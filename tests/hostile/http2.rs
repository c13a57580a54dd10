//! Floods of HTTP/2 frames (RFC 9113 §10.5), and streams on many connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::attack::{self, Flood};
use crate::others::{self, Others};
use crate::support::{Larder, Plan, Upstream, eventually};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field without Huffman coding and without the table (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

fn fields(method: &str, path: &str) -> Vec<u8> {
    let pairs = [(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
    pairs.map(|(name, value)| field(name, value)).concat()
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields("GET", path))
}

/// What opens a connection whose client sends these frames next.
fn opening(frames: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat()
}

/// The first frame of a kind, or `None` if the connection ends before.
fn until(stream: &mut TcpStream, kind: u8) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).ok()?;
        if head[3] == kind {
            return Some(payload);
        }
    }
}

fn start(upstream: &Upstream, server: &str) -> Larder {
    Plan::new(&upstream.url()).rules(&format!("[server]\n{server}\n{}", others::RULES)).start()
}

/// Sends these frames on a new connection, and again and again `more(stream)`, for as long as the other end takes it.
fn flood(to: SocketAddr, first: &[u8], more: impl Fn(u32) -> Vec<u8>) {
    let Some(mut stream) = attack::connect(to) else { return };
    let _ = stream.write_all(&opening(first));
    // So that the frames are bounded, and the flood ends.
    for round in 0..200u32 {
        let frames: Vec<u8> = (0..50).flat_map(|n| more(3 + 2 * (50 * round + n))).collect();
        if stream.write_all(&frames).is_err() || attack::has_ended(&mut stream) {
            return;
        }
    }
}

#[track_caller]
fn hurts_nobody(first: &[u8], more: impl Fn(u32) -> Vec<u8> + Send + Clone + 'static) {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let others = Others::start(&larder);
    let (before, to, first) = (larder.memory(), larder.address, first.to_vec());
    let floods = Flood::start(2, move || flood(to, &first, more.clone()));
    eventually("the attack runs", || floods.rounds() > 2);
    others.go_on(200);
    let rounds = floods.rounds();
    drop(floods);
    let experience = others.end();
    experience.was_unhurt();
    // A connection, and what of 10,000 frames it takes.
    experience.was_cheap(rounds, 150.0);
    let more = larder.memory().saturating_sub(before);
    assert!(more < 100 << 20, "{more} bytes");
}

#[test]
fn rapid_resets_hurt_nobody() {
    hurts_nobody(&[], |stream| [get(stream, "/x"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat());
}

#[test]
fn a_flood_of_settings_hurts_nobody() {
    hurts_nobody(&[], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
}

#[test]
fn a_flood_of_pings_hurts_nobody() {
    hurts_nobody(&[], |_| frame(PING, 0, 0, &[7; 8]));
}

#[test]
fn a_flood_of_empty_data_frames_hurts_nobody() {
    let post = frame(HEADERS, END_HEADERS, 1, &fields("POST", "/others-write"));
    hurts_nobody(&post, |_| frame(DATA, 0, 1, &[]));
}

#[test]
fn a_flood_of_data_frames_of_one_byte_hurts_nobody() {
    let post = frame(HEADERS, END_HEADERS, 1, &fields("POST", "/others-write"));
    hurts_nobody(&post, |_| frame(DATA, 0, 1, b"x"));
}

#[test]
fn a_header_list_without_end_hurts_nobody() {
    let begun = frame(HEADERS, END_STREAM, 1, &fields("GET", "/x"));
    hurts_nobody(&begun, |_| frame(CONTINUATION, 0, 1, &field("x", "y")));
    hurts_nobody(&begun, |_| frame(CONTINUATION, 0, 1, &[]));
}

#[test]
fn a_header_list_without_end_ends_the_connection() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let begun = frame(HEADERS, END_STREAM, 1, &fields("GET", "/x"));
    let mut client = attack::open(1, larder.address, &opening(&begun)).remove(0);
    for _ in 0..1000 {
        if client.write_all(&frame(CONTINUATION, 0, 1, &field("x", "y"))).is_err() {
            break;
        }
    }
    eventually("it has ended", || attack::has_ended(&mut client));
}

/// RFC 6585 §4
#[test]
fn a_client_over_its_share_of_streams_is_told_429_on_each() {
    let upstream = Upstream::start();
    let gate = upstream.hold_all("POST /slow");
    let larder = start(&upstream, "max_streams_per_client = 6");
    let posts: Vec<u8> = (0..3)
        .flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, &fields("POST", "/slow")))
        .collect();
    let mut held = attack::open(2, larder.address, &opening(&posts));
    gate.wait_for(6);
    let mut over = attack::open(1, larder.address, &opening(&get(1, "/others/1"))).remove(0);
    let head = until(&mut over, HEADERS).unwrap();
    // "429" in the code of RFC 7541 §5.2.
    assert!(head.windows(4).any(|bytes| bytes == [0x83, 0x68, 0x4f, 0xff]), "{head:x?}");
    assert_eq!(larder.metric("larder_refused_total{what=\"streams\",bound=\"client\"}"), 1);
    // Everybody else has a share too, and on the connections within the share streams go on.
    larder.get("/others/1").has_status(200);
    gate.open();
    for stream in &mut held {
        assert!(until(stream, HEADERS).is_some());
    }
    held.clear();
    eventually("the share is free", || {
        let mut again = attack::open(1, larder.address, &opening(&get(1, "/others/1"))).remove(0);
        until(&mut again, HEADERS).unwrap();
        let refused = larder.metric("larder_refused_total{what=\"streams\",bound=\"client\"}");
        let mut next = attack::open(1, larder.address, &opening(&get(1, "/others/1"))).remove(0);
        until(&mut next, HEADERS).unwrap();
        larder.metric("larder_refused_total{what=\"streams\",bound=\"client\"}") == refused
    });
}

#[test]
fn streams_on_many_connections_hurt_nobody() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "max_streams_per_client = 100");
    let others = Others::start(&larder);
    let gets: Vec<u8> = (0..30).flat_map(|n| get(1 + 2 * n, "/others/1")).collect();
    // None of the answers is taken: no window is given.
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let held = attack::open(10, larder.address, &[PREFACE, &settings, &gets].concat());
    others.go_on(200);
    eventually("streams are refused", || {
        larder.metric("larder_refused_total{what=\"streams\",bound=\"client\"}") > 0
    });
    others.end().was_unhurt();
    drop(held);
}

#[test]
fn resets_beyond_the_bound_end_the_connection() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let pairs: Vec<u8> = (0..2000)
        .flat_map(|n| [get(1 + 2 * n, "/x"), frame(RST_STREAM, 0, 1 + 2 * n, &[0, 0, 0, 8])].concat())
        .collect();
    let mut client = attack::connect(larder.address).unwrap();
    let _ = client.write_all(&opening(&pairs));
    let reason = until(&mut client, GOAWAY);
    // ENHANCE_YOUR_CALM, unless the end came before it could be read.
    assert!(reason.is_none_or(|payload| payload[4..8] == [0, 0, 0, 11]));
}

#[test]
fn unfinished_heads_on_many_connections_take_little_memory_and_hurt_nobody() {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let others = Others::start(&larder);
    let before = larder.memory();
    let value = "a".repeat(120);
    let block = [fields("GET", "/x"), (0..100).flat_map(|n| field(&format!("x-{n}"), &value)).collect()].concat();
    let begun = frame(HEADERS, END_STREAM, 1, &block);
    let more = frame(CONTINUATION, 0, 1, &block[40..]).repeat(3);
    let mut held = attack::open(1000, larder.address, &opening(&[begun, more].concat()));
    others.go_on(200);
    // A quarter of 16 MiB, and 64 KiB each.
    eventually("those over the limit are closed", || {
        held.iter_mut().map(attack::has_ended).filter(|has_ended| !has_ended).count() <= 64
    });
    let grown = larder.memory().saturating_sub(before);
    others.end().was_unhurt();
    let refused = usize::try_from(larder.metric("larder_refused_total{what=\"heads\",bound=\"client\"}")).unwrap();
    assert!(refused > 0);
    assert!(grown < 60 << 20, "{} MiB for {} connections", grown >> 20, held.len() - refused);
}

#[track_caller]
fn thousands_of_streams_hurt_nobody(one: impl Fn(u32, u32) -> Vec<u8>) {
    let upstream = Upstream::start();
    let larder = start(&upstream, "");
    let others = Others::start(&larder);
    others.go_on(40);
    let held: Vec<TcpStream> = (0..50)
        .flat_map(|connection| {
            let requests: Vec<u8> = (0..100).flat_map(|n| one(connection, 1 + 2 * n)).collect();
            attack::open(1, larder.address, &opening(&requests))
        })
        .collect();
    others.go_on(600);
    eventually("streams are refused", || {
        larder.metric("larder_refused_total{what=\"streams\",bound=\"client\"}") > 0
    });
    let experience = others.end();
    experience.was_unhurt();
    experience.was_cheap(5000, 2.0);
    drop(held);
}

#[test]
fn thousands_of_hits_opened_at_once_hurt_nobody() {
    thousands_of_streams_hurt_nobody(|_, n| get(n, "/others/1"));
}

#[test]
fn thousands_of_misses_opened_at_once_hurt_nobody() {
    thousands_of_streams_hurt_nobody(|connection, n| get(n, &format!("/others/flood-{connection}-{n}")));
}

#[test]
fn thousands_of_writes_opened_at_once_hurt_nobody() {
    let post = fields("POST", "/others-write");
    thousands_of_streams_hurt_nobody(move |_, n| frame(HEADERS, END_STREAM | END_HEADERS, n, &post));
}
