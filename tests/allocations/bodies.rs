//! How often the body of a response is copied: each copy needs memory.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::thread;

use tokio::sync::oneshot;

use crate::allocator;
use crate::server::{larder, read_answer, runtime, upstream};

const LARGE: usize = 4 << 20;
/// The largest body that a client's connection gets at once.
const SMALL: usize = 64 << 10;
/// More than all else that a request needs.
const REST: usize = 1 << 20;

/// Asks for one object after the other. Returns the bytes that one allocates: the lowest, since timers allocate, too. `read`: tells upstream
/// of each piece that was read, if it is asked.
async fn ask(server: SocketAddr, length: usize, read: Option<Sender<()>>) -> usize {
    let (done, answered) = oneshot::channel::<u64>();
    thread::spawn(move || {
        allocator::leave_out_this_thread();
        let mut stream = TcpStream::connect(server).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let allocated = (0..5).map(|object| {
            let before = allocator::allocated();
            let request = format!("GET /item/{object} HTTP/1.1\r\nHost: api.test\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let tell = || read.iter().for_each(|read| read.send(()).unwrap());
            assert_eq!(read_answer(&mut answers, tell), (length, read.is_none()));
            allocator::allocated() - before
        });
        done.send(allocated.min().unwrap()).unwrap();
    });
    usize::try_from(answered.await.unwrap()).unwrap()
}

/// The bytes that a miss and a hit allocate, each with a body of this length.
fn of_miss_and_hit(length: usize) -> (usize, usize) {
    let (upstream, read) = upstream(length);
    let both = runtime().block_on(async {
        let server = larder(upstream).await;
        (ask(server, length, Some(read)).await, ask(server, length, None).await)
    });
    println!("{length} bytes: a miss allocates {}, a hit {}", both.0, both.1);
    both
}

#[test]
fn a_body_is_copied_at_most_once() {
    let _alone = allocator::alone();
    let (miss, hit) = of_miss_and_hit(LARGE);
    // What is read from upstream, and what is stored; a client that keeps up gets the former.
    assert!(miss < 2 * LARGE + REST, "{miss}");
    // In pieces, so that the stored body can be taken away from a client that does not read it.
    assert!(hit < LARGE + REST, "{hit}");
    // hyper's two places for the fields of a request, each as large as this body, and no copy of it.
    let (_, hit) = of_miss_and_hit(SMALL);
    assert!(hit < 2 * SMALL + SMALL / 2, "{hit}");
}
