//! Clients that read what upstream sends slowly, or not at all.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::attack;
use crate::others::{self, Others, metric};
use crate::support::{Larder, Plan, Reply, Upstream, eventually};

fn requests(larder: &Larder) -> u64 {
    metric(larder, "larder_upstream_requests")
}

/// One client requests large bodies and reads a byte now and then: it never pauses for `idle_timeout`, and is cut off all the same.
#[allow(clippy::disallowed_methods, reason = "no runtime here, and slowness is what is tried")]
fn trickled(directives: &str) {
    let upstream = Upstream::start();
    upstream.on("GET /film", Reply::filled(1 << 30).cached(directives));
    let rules = format!(
        "[server]\nmax_upstream_requests = 64\nidle_timeout = \"2s\"\ndownload_rate = \"1MiB\"\n[memory]\nmax_body = \"1MiB\"\n{}",
        others::RULES
    );
    let larder = Plan::new(&upstream.url()).rules(&rules).start();
    let others = Others::start(&larder);
    let request = b"GET /film HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut readers = attack::open(64, larder.address, request);
    eventually("it has its share", || requests(&larder) >= 16);
    let stop = Arc::new(AtomicBool::new(false));
    let trickling = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut buffer = vec![0; 8 << 10];
            while !stop.load(Ordering::SeqCst) {
                for reader in &mut readers {
                    reader.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                    let _ = reader.read(&mut buffer);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    });
    others.go_on(400);
    others.end().was_unhurt();
    eventually("its places are given back", || requests(&larder) == 0);
    stop.store(true, Ordering::SeqCst);
    trickling.join().unwrap();
}

#[test]
fn slow_readers_of_what_is_not_stored_lose_their_places_and_hurt_nobody() {
    trickled("no-store");
}

#[test]
fn slow_readers_of_what_is_too_large_to_store_lose_their_places_and_hurt_nobody() {
    trickled("max-age=60");
}
