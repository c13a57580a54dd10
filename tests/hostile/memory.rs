//! Memory of the process, by what the system says, against what the configuration allows.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Gate, Larder, Plan, Reply, Upstream, eventually};

const MIB: u64 = 1 << 20;

/// What the process may take with this capacity, bytes: 1.3 times as much and 30 MiB, of which 10 MiB are for the code of a
/// release build. That of the debug build under test is larger, and not counted.
fn allowed(capacity: u64) -> u64 {
    capacity / 10 * 13 + 20 * MIB
}

/// Memory of the process now without its code, bytes.
fn resident(larder: &Larder) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", larder.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Length of a small body, bytes.
const SMALL: usize = 1000;

/// An upstream that answers every request with a small body and remembers nothing.
fn small_answers() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer_all(&stream));
        }
    });
    address
}

fn answer_all(mut stream: &TcpStream) {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"1\"\r\nContent-Length: 1000\r\n\r\n";
    let answer = [head.as_bytes(), &[b'x'; SMALL]].concat();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line.is_empty() && stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Reads `/t/{n}` for all of these, several at a time on one connection.
fn read_all(larder: SocketAddr, numbers: std::ops::Range<usize>) {
    const AT_A_TIME: usize = 20;
    let mut stream = TcpStream::connect(larder).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    for first in numbers.clone().step_by(AT_A_TIME) {
        let these = first..(first + AT_A_TIME).min(numbers.end);
        let request = |n| format!("GET /t/{n} HTTP/1.1\r\nHost: api.test\r\n\r\n");
        stream.write_all(these.clone().map(request).collect::<String>().as_bytes()).unwrap();
        for _ in these {
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                assert!(answers.read_line(&mut line).unwrap() > 0);
            }
            answers.read_exact(&mut [0; SMALL]).unwrap();
        }
    }
}

#[test]
fn small_responses_take_no_more_than_the_capacity_allows() {
    // Their bodies alone are ten times as large.
    const CAPACITY: u64 = 4 * MIB;
    const THREADS: usize = 4;
    const EACH: usize = 10_500;
    let rules = "[log]\naccess = false\n[memory]\ncapacity = \"4MiB\"\n[[family]]\nname = \"t\"\n\
                 path = '/t/(?<n>\\d+)'\nttl = \"1h\"\n";
    let larder = Plan::new(&format!("http://{}", small_answers())).rules(rules).start();
    let empty = resident(&larder);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let address = larder.address;
            scope.spawn(move || read_all(address, thread * EACH..(thread + 1) * EACH));
        }
    });
    let evicted = others::metric(&larder, "larder_memory_evictions_total");
    assert!(evicted > (THREADS * EACH / 2) as u64, "{evicted} entries were evicted");
    let metrics = larder.admin_get("/metrics").text();
    let bytes = metrics.lines().filter(|line| line.starts_with("larder_memory")).collect::<Vec<_>>().join("\n");
    assert!(resident(&larder) < allowed(CAPACITY), "{} of an empty {empty}: {bytes}", resident(&larder));
}

#[test]
fn ten_times_the_capacity_streamed_takes_no_more_memory_than_the_capacity_allows() {
    // Beside it there is room for bodies on their way into memory: a quarter of it, the largest body being that large.
    const CAPACITY: u64 = 32 * MIB;
    let upstream = Upstream::start();
    for n in 0..80 {
        upstream.on(&format!("/large/{n}"), Reply::filled(4 * MIB).cached("max-age=600"));
    }
    let rules = format!("[memory]\ncapacity = \"32MiB\"\n{}", others::RULES);
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let others = Others::start(&larder);
    thread::scope(|scope| {
        for thread in 0..4 {
            let larder = &larder;
            scope.spawn(move || {
                for n in (thread..80).step_by(4) {
                    let pending = larder.call("GET", &format!("/large/{n}")).start();
                    assert_eq!(pending.drain().unwrap(), 4 * MIB);
                }
            });
        }
    });
    others.end().was_answered();
    assert!(resident(&larder) < allowed(CAPACITY), "{}", resident(&larder));
}

#[test]
fn unfinished_answers_to_writes_that_are_to_be_stored_take_no_more_than_their_share() {
    const CAPACITY: u64 = 128 * MIB;
    const WRITES: usize = 50;
    const LARGE: u64 = 7 * MIB;
    let (upstream, gate) = (Upstream::start(), Gate::new());
    let large = || Reply::filled(LARGE).cached("max-age=600");
    // Of writes to one path that overlap, none is to be stored.
    let targets: Vec<String> = (0..WRITES).map(|n| format!("/w/{n}")).collect();
    targets.iter().for_each(|target| upstream.on(target, large().chunked().pause_after(LARGE - 1, &gate)));
    ["/w/own", "/t/1", "/t/2"].iter().for_each(|target| upstream.on(target, large()));
    let rules = "[log]\naccess = false\n[memory]\ncapacity = \"128MiB\"\n[[family]]\nname = \"w\"\n\
                 path = '/w/(?<id>\\w+)'\nttl = \"1h\"\nwrite_through = true\n";
    let larder = Plan::new(&upstream.url()).rules(&format!("{rules}{}", others::RULES)).start();
    let others = Others::start(&larder);
    let put = |target: &String| {
        let request = format!("PUT {target} HTTP/1.1\r\nHost: api.test\r\nContent-Length: 0\r\n\r\n");
        attack::open(1, larder.address, request.as_bytes())
    };
    // They read what there is, so that all of it has passed.
    let held: Vec<TcpStream> = thread::scope(|scope| {
        let read = |mut stream: TcpStream| {
            let mut left = LARGE - 1;
            while left > 0 {
                let length = std::io::copy(&mut (&mut stream).take(left), &mut std::io::sink()).unwrap();
                assert!(length > 0);
                left -= length;
            }
            stream
        };
        let readers: Vec<_> =
            targets.iter().flat_map(put).map(|stream| scope.spawn(move || read(stream))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert_eq!(held.len(), WRITES);
    others.go_on(100);
    assert!(resident(&larder) < allowed(CAPACITY) - CAPACITY / 2, "{} MiB", resident(&larder) / MIB);
    // Misses of others are stored, and their writes.
    for target in ["/t/1", "/t/2"] {
        assert_eq!(larder.get(target).has_status(200).shows("stored").body.len() as u64, LARGE);
        larder.get(target).has_status(200).shows("hit");
    }
    assert_eq!(larder.write("PUT", "/w/own").has_status(200).body.len() as u64, LARGE);
    larder.get("/w/own").has_status(200).shows("hit");
    others.end().was_answered();
    gate.open();
}

#[test]
fn thousands_of_unfinished_heads_take_no_more_memory_than_the_capacity_allows() {
    // The heads have a bound of their own, which is less than what is allowed beyond this capacity.
    const CAPACITY: u64 = 128 * MIB;
    let upstream = Upstream::start();
    // However slowly the machine reads them, none of the heads is given up before all have taken what there is for heads.
    let server = "[server]\nheader_timeout = \"10m\"\n[memory]\ncapacity = \"128MiB\"\n";
    let larder = Plan::new(&upstream.url()).rules(&format!("{server}{}", others::RULES)).start();
    // As many connections at once, each with a whole request.
    let others = Others::start(&larder);
    drop(hold(&larder, b"GET /others/1 HTTP/1.1\r\nHost: api.test\r\n\r\n"));
    others.go_on(100);
    let calm = others.end();
    let head = format!("GET / HTTP/1.1\r\nHost: api.test\r\n{}", "X-A: aaaaaaaa\r\n".repeat(4000));
    let others = Others::start(&larder);
    let before = resident(&larder);
    let held = hold(&larder, &head.as_bytes()[..60_000]);
    others.go_on(100);
    eventually("all together have taken what there is for heads", || {
        larder.metric("larder_refused_total{what=\"heads\",bound=\"all\"}") > 0
    });
    let now = resident(&larder);
    others.end().was_answered_as_in(&calm);
    assert!(now < before + allowed(CAPACITY) - CAPACITY, "{} MiB for {} heads", (now - before) / MIB, held.len());
}

/// Opens 300 connections from each of eight addresses and sends these bytes on each.
fn hold(larder: &Larder, bytes: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for client in 1..=8 {
        let from = std::net::Ipv4Addr::new(127, 0, 4, client);
        held.extend((0..300).filter_map(|_| {
            let mut stream = attack::connect_from(from.into(), larder.address)?;
            stream.write_all(bytes).ok()?;
            Some(stream)
        }));
    }
    held
}
