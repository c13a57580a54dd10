#![no_main]
//! `Range` and `If-Range`: a byte of length, the `Range` line, then fields of request and stored response alike. Parts
//! lie within the body, apart from each other, and a message made of them holds them.

use bytes::Bytes;
use http::HeaderValue;
use http::header::RANGE;
use larder::http::multipart;
use larder::http::range::{self, Range};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, text)) = bytes.split_first() else { return };
    let (line, rest) = larder_fuzz::first_line(text);
    let Ok(line) = HeaderValue::from_bytes(line) else { return };
    let mut request = larder_fuzz::fields(rest);
    request.insert(RANGE, line);
    // The body holds what the fuzzer likes, also boundaries.
    let whole = Bytes::copy_from_slice(&text.repeat(8)[..text.len() * 8 * usize::from(*length) / 255]);
    let Range::Parts(parts) = range::requested(&request, &request, whole.len() as u64) else { return };
    assert!(!parts.is_empty() && parts.len() <= 16);
    assert!(parts.iter().all(|part| part.first <= part.last && part.last < whole.len() as u64));
    assert!(parts.iter().map(|part| part.length()).sum::<u64>() <= whole.len() as u64);
    let message = multipart::byteranges(&whole, &parts, request.get("content-type"));
    assert!(message.body.len() >= parts.iter().map(|part| part.cut(&whole).len()).sum());
});
