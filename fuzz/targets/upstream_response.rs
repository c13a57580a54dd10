#![no_main]
//! What upstream answers to a GET: a byte whose two highest bits say how long the connection stays open, and whose others
//! how much comes first; then the bytes. Then another path is read, and the same one again, for which upstream
//! has a good answer now. Whatever the bytes are, nothing panics, each read ends, clients get responses, and none is given
//! for the other path. Only what was a whole response is passed on as one, or stored.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use larder_fuzz::message::{self, Response};
use larder_fuzz::site::{Client, ScriptedResponse, Site};
use libfuzzer_sys::fuzz_target;

/// After so many inputs there is a new Larder: an upstream that has sent what belongs to no response is not trusted for ten
/// minutes, and its connections are not used again.
const RENEWED_AFTER: u64 = 64;

static SITE: Mutex<Option<Site>> = Mutex::new(None);
static INPUTS: AtomicU64 = AtomicU64::new(0);

fuzz_target!(|input: &[u8]| {
    let Some((flags, bytes)) = input.split_first() else { return };
    let number = INPUTS.fetch_add(1, Ordering::Relaxed);
    let mut site = SITE.lock().unwrap_or_else(PoisonError::into_inner);
    let site = site.get_or_insert_with(Site::start);
    if number % RENEWED_AFTER == RENEWED_AFTER - 1 {
        site.renew();
    }
    let (path, other) = (format!("/fuzz/{number}"), format!("/other/{number}"));
    let whole = message::from_upstream(bytes);
    let open_for = match flags >> 6 {
        0 | 1 => Some(Duration::ZERO),
        2 => Some(Duration::from_millis(20)),
        _ => None,
    };
    // Bytes behind a response that come while the next request is under way cannot be told from the answer to it.
    let first = usize::from(flags & 0x3f).min(bytes.len());
    let first = if message::from_upstream(&bytes[..first]).is_some() { 0 } else { first };
    site.script(Some(ScriptedResponse { path: path.clone(), bytes: bytes.to_vec(), first, open_for }));
    let mut client = site.client();
    let one = client.get(&path);
    site.script(None);
    let two = read(site, &mut client, &other);
    let three = read(site, &mut client, &path);
    if let Some(one) = &one {
        assert!(
            is_passed_on(one, whole.as_ref(), open_for.is_some()) || one.is_larders(),
            "{one:?}\nof {whole:?}"
        );
    }
    assert!(is_good(&two, &other) || two.is_larders(), "{other}: {two:?}");
    let is_stored = whole.as_ref().is_some_and(|whole| !whole.ends_with_connection && is_same(&three, whole));
    assert!(is_good(&three, &path) || is_stored || three.is_larders(), "{path}: {three:?}\nof {whole:?}");
});

/// On the same connection, or a new one if that has ended.
fn read(site: &Site, client: &mut Client, path: &str) -> Response {
    if let Some(response) = (!client.is_closed).then(|| client.get(path)).flatten() {
        return response;
    }
    *client = site.client();
    client.get(path).unwrap_or_else(|| panic!("a good answer to {path} breaks off"))
}

fn is_good(response: &Response, path: &str) -> bool {
    response.status == 200 && response.body == format!("GET {path}\n").as_bytes()
}

fn is_same(response: &Response, other: &Response) -> bool {
    response.status == other.status && response.body == other.body
}

/// A body that ends with its connection is whole if that is closed in order (RFC 9112 §8).
fn is_passed_on(response: &Response, whole: Option<&Response>, closes: bool) -> bool {
    whole.is_some_and(|whole| is_same(response, whole) && (closes || !whole.ends_with_connection))
}
