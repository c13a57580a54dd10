#![no_main]
//! What a client sends on a connection: a byte that says how much of it comes first, then the bytes. A request that is
//! always good follows them. Whatever they are, nothing panics, the connection ends, and what was answered is a sequence of
//! responses, each of which is about what it says, and about the request in its place as far as that is plain. Afterwards
//! another client gets its own answers, from the cache or not.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_fuzz::message::{self, Fault, Response};
use larder_fuzz::site::{BOUND, Client, Site};
use libfuzzer_sys::fuzz_target;

/// Silence after which the client says that nothing more follows.
const QUIET: Duration = Duration::from_millis(30);
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: larder\r\nConnection: close\r\n\r\n";

static SITE: OnceLock<Site> = OnceLock::new();
static INPUTS: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let site = SITE.get_or_init(Site::start);
    let plain = Plain::read(bytes);
    let mut client = site.client();
    let (begin, rest) = bytes.split_at(bytes.len().min(usize::from(*first)));
    client.send(begin);
    client.send(rest);
    client.send(LAST);
    let is_cut = read_all(&mut client, plain.is_all);
    // HTTP/2 is answered in frames.
    if !bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        check(&client.read, bytes, &plain, is_cut);
    }
    let number = INPUTS.fetch_add(1, Ordering::Relaxed) % 64;
    let known = format!("/known/{number}");
    let mut other = site.client();
    for path in plain.paths.first().into_iter().chain([&known]) {
        match other.get(path) {
            Some(response) => assert_answers(&response, path),
            None => panic!("no whole answer to another client's {path}"),
        }
    }
});

/// Reads to the end of the connection; true if the client has ended its half of it before that.
fn read_all(client: &mut Client, is_plain: bool) -> bool {
    let (until, mut has_ended) = (Instant::now() + BOUND, false);
    while !client.is_closed {
        let is_patient = is_plain || has_ended;
        let comes = client.receive(if is_patient { BOUND } else { QUIET });
        if !comes && !is_patient {
            client.end();
            has_ended = true;
        }
        assert!(Instant::now() < until, "the connection goes on: {}", client.read.escape_ascii());
    }
    has_ended
}

fn check(answer: &[u8], input: &[u8], plain: &Plain, is_cut: bool) {
    let may_be_head = message::find(input, b"HEAD").is_some();
    let responses = sequence(answer, may_be_head, is_cut);
    let Some(responses) = responses else { panic!("no responses: {}", answer.escape_ascii()) };
    for response in &responses {
        let Some(asked) = response.fields.get("x-asked").filter(|_| response.status == 200) else { continue };
        let is_whole = response.body.strip_suffix(b"\n") == Some(asked);
        assert!(is_whole || may_be_head && response.body.is_empty(), "{response:?}");
    }
    let finals: Vec<_> = responses.iter().filter(|response| !response.is_interim()).collect();
    plain.paths.iter().zip(&finals).for_each(|(path, response)| assert_answers(response, path));
    if plain.is_all {
        assert_eq!(finals.len(), plain.paths.len() + 1, "{finals:?}");
        assert_answers(finals[plain.paths.len()], "/last");
    }
}

fn assert_answers(response: &Response, path: &str) {
    let is_own = response.status == 200 && response.body == format!("GET {path}\n").as_bytes();
    assert!(is_own || response.status >= 500 && response.is_larders(), "{path}: {response:?}");
}

/// The responses that were sent. Any may answer a HEAD if there can have been one.
fn sequence(bytes: &[u8], may_be_head: bool, is_cut: bool) -> Option<Vec<Response>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    for to_head in [false, true] {
        match message::response(bytes, to_head, true) {
            Ok((response, used)) => {
                if let Some(mut after) = sequence(&bytes[used..], may_be_head, is_cut) {
                    after.insert(0, response);
                    return Some(after);
                }
            }
            Err(Fault::Short) if is_cut => return Some(Vec::new()),
            Err(_) => {}
        }
        if !may_be_head {
            break;
        }
    }
    None
}

/// The requests at the beginning of what was sent that nobody can take for others: what they ask for.
struct Plain {
    paths: Vec<String>,
    /// There is nothing else.
    is_all: bool,
}

impl Plain {
    fn read(mut bytes: &[u8]) -> Plain {
        let mut paths = Vec::new();
        while let Some((path, used)) = plain(bytes) {
            paths.push(path);
            bytes = &bytes[used..];
        }
        Plain { is_all: bytes.is_empty() && !paths.is_empty(), paths }
    }
}

fn plain(bytes: &[u8]) -> Option<(String, usize)> {
    let (request, used) = message::request(bytes).ok()?;
    let (path, head) = (request.target, &bytes[..used]);
    let is_plain = request.method == "GET"
        && path.starts_with('/')
        && !path.contains("//")
        && path.bytes().all(|byte| byte == b'/' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && request.fields.names().all(|name| matches!(name, "host" | "user-agent" | "accept" | "accept-language"))
        && request
            .fields
            .get("host")
            .is_some_and(|host| !host.is_empty() && host.iter().all(u8::is_ascii_lowercase))
        && message::find(head, b" :").is_none()
        && head.is_ascii();
    is_plain.then_some((path, used))
}
