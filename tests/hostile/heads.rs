//! Request heads that do not end.

use crate::attack;
use crate::others::{self, Others};
use crate::support::{Plan, Upstream, eventually};

const MIB: u64 = 1 << 20;

fn unfinished(length: usize) -> Vec<u8> {
    let mut head = b"GET /others/1 HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    while head.len() < length {
        head.extend_from_slice(format!("X-{}: {}\r\n", head.len(), "a".repeat(1000)).as_bytes());
    }
    head
}

#[test]
fn unfinished_heads_take_little_memory_and_hurt_nobody() {
    let upstream = Upstream::start();
    let larder = Plan::new(&upstream.url()).rules(others::RULES).start();
    let others = Others::start(&larder);
    others.go_on(40);
    let before = larder.memory();
    let held = attack::open(3000, larder.address, &unfinished(60_000));
    others.go_on(200);
    eventually("heads are refused", || larder.metric("larder_refused_total{what=\"heads\",bound=\"client\"}") > 0);
    let more = larder.memory().saturating_sub(before);
    let experience = others.end();
    experience.was_unhurt();
    experience.was_cheap(3000, 5.0);
    assert!(more < 120 * MIB, "{} MiB for {} unfinished heads", more / MIB, held.len());
}

#[test]
fn who_has_too_much_in_heads_is_told_so() {
    let upstream = Upstream::start();
    let rules = format!("[server]\nmax_heads = \"256KiB\"\n{}", others::RULES);
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let mut held = attack::open(1, larder.address, &unfinished(50_000));
    let mut second = attack::open(1, larder.address, &unfinished(30_000));
    let refused = "larder_refused_total{what=\"heads\",bound=\"client\"}";
    eventually("one of them is refused", || larder.metric(refused) == 1);
    // Which of the two is over the share depends on what came first.
    let answers: Vec<String> = [&mut held[0], &mut second[0]]
        .into_iter()
        .map(|stream| {
            stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            attack::rest(stream)
        })
        .filter(|answer| !answer.is_empty())
        .collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{answers:?}");
    // Others are not refused, and a whole head of that size is answered.
    let large = "a".repeat(40_000);
    larder.call("GET", "/others/1").header("X-Large", &large).send().has_status(200);
}

#[test]
fn slow_heads_hurt_nobody() {
    let upstream = Upstream::start();
    let rules = format!("[server]\nmax_connections = 100\n{}", others::RULES);
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let others = Others::start(&larder);
    let mut held = Vec::new();
    for client in 1..=8 {
        let from = std::net::Ipv4Addr::new(127, 0, 3, client);
        held.extend((0..25).filter_map(|_| attack::connect_from(from.into(), larder.address)));
    }
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: aaaaaaaaaaaaaaaa" {
        for stream in &mut held {
            let _ = std::io::Write::write_all(stream, &[*byte]);
        }
        others.go_on(10);
    }
    others.end().was_unhurt();
}
