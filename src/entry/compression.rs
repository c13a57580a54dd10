//! Compression of bodies in Redis with zstd (RFC 8878), for `compress`.

use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use zstd::bulk::{Compressor, Decompressor};

use super::fields::StoredFields;

/// The fastest level but the negative ones: JSON shrinks to a fifth or less, and higher levels save little more.
const LEVEL: i32 = 1;

thread_local! {
    /// Made once for each thread: each holds some hundred KiB.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Media types whose content is compressed already. Those that end with `/` or `.` stand for all that begin so.
static COMPRESSED: [&str; 17] = [
    "application/epub+zip",
    "application/gzip",
    "application/java-archive",
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.",
    "application/vnd.rar",
    "application/x-7z-compressed",
    "application/x-bzip2",
    "application/x-gzip",
    "application/x-xz",
    "application/zip",
    "application/zstd",
    "audio/",
    "font/woff",
    "font/woff2",
    "image/",
    "video/",
];

/// Media types that are not compressed although [`COMPRESSED`] has all beside them.
static PLAIN: [&str; 4] = ["audio/midi", "image/bmp", "image/svg+xml", "image/x-icon"];

/// A body of more than `above` bytes, compressed. `None` if it is shorter, is compressed already, or does not become an eighth
/// shorter.
pub(super) fn compressed(fields: &StoredFields, body: &[u8], above: usize) -> Option<Vec<u8>> {
    if body.len() <= above || !is_compressible(fields) {
        return None;
    }
    let mut short = Vec::with_capacity(body.len() - body.len() / 8);
    let is_shorter = COMPRESSOR.with_borrow_mut(|compressor| {
        let compressor = match compressor {
            Some(compressor) => compressor,
            None => compressor.insert(Compressor::new(LEVEL).ok()?),
        };
        // Fails if the buffer does not suffice.
        compressor.compress_to_buffer(body, &mut short).ok()
    });
    is_shorter.map(|_| short)
}

/// The body of `length` bytes that this is the compressed form of. No more memory is taken than that, whatever the bytes claim.
pub(super) fn decompressed(short: &[u8], length: usize) -> Option<Bytes> {
    let mut body = Vec::with_capacity(length);
    let decoded = DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            None => decompressor.insert(Decompressor::new().ok()?),
        };
        decompressor.decompress_to_buffer(short, &mut body).ok()
    });
    (decoded? == length).then(|| body.into())
}

fn is_compressible(fields: &StoredFields) -> bool {
    let media_type = fields.get(&CONTENT_TYPE);
    let media_type = media_type.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_below = |known: &str| match known.ends_with(['/', '.']) {
        true => media_type.get(..known.len()).is_some_and(|start| start.eq_ignore_ascii_case(known.as_bytes())),
        false => media_type.eq_ignore_ascii_case(known.as_bytes()),
    };
    fields.get(&CONTENT_ENCODING).is_none()
        && (PLAIN.iter().any(|known| is_below(known)) || !COMPRESSED.iter().any(|known| is_below(known)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    fn json(length: usize) -> Vec<u8> {
        let rows =
            (0..).flat_map(|id| format!("{{\"id\":{id},\"name\":\"user {id}\",\"active\":true}},").into_bytes());
        rows.take(length).collect()
    }

    #[test]
    fn long_text_is_compressed_and_comes_back() {
        let body = json(32 << 10);
        let short = compressed(&fields(&[("content-type", "application/json")]).into(), &body, 1024).unwrap();
        assert!(short.len() < body.len() / 5, "{}", short.len());
        assert_eq!(decompressed(&short, body.len()).unwrap(), body);
    }

    #[test]
    fn what_is_short_or_compressed_already_or_does_not_shrink_stays_as_it_is() {
        let body = json(2048);
        let is_compressed =
            |lines: &[(&str, &str)], body: &[u8]| compressed(&fields(lines).into(), body, 1024).is_some();
        assert!(is_compressed(&[], &body));
        assert!(!is_compressed(&[], &body[..1024]));
        assert!(!is_compressed(&[("content-encoding", "gzip")], &body));
        for media_type in ["image/png", "IMAGE/JPEG; q=1", "video/mp4", "application/zip", "font/woff2"] {
            assert!(!is_compressed(&[("content-type", media_type)], &body), "{media_type}");
        }
        for media_type in ["image/svg+xml", "text/html; charset=utf-8", "application/zipper", "font/woff3", ""] {
            assert!(is_compressed(&[("content-type", media_type)], &body), "{media_type}");
        }
        let noise: Vec<u8> = std::iter::repeat_with(rand::random).take(4096).collect();
        assert!(!is_compressed(&[], &noise));
    }

    #[test]
    fn bytes_that_claim_another_length_are_refused() {
        let body = vec![0; 16 << 20];
        let bomb = compressed(&fields(&[]).into(), &body, 1024).unwrap();
        assert!(bomb.len() < 4096);
        for length in [0, 1, 4096, body.len() - 1, body.len() + 1] {
            assert_eq!(decompressed(&bomb, length), None, "{length}");
        }
        assert!(decompressed(&bomb, body.len()).is_some());
        assert_eq!(decompressed(&bomb[..bomb.len() / 2], body.len()), None);
        assert_eq!(decompressed(b"no frame", 8), None);
    }
}
