//! `multipart/byteranges` (RFC 9110 §14.6): several ranges of a complete representation in one message.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;

use super::range::ByteRange;

/// A message with several ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipart {
    /// `multipart/byteranges` with the boundary: the `Content-Type` of the message.
    pub content_type: HeaderValue,
    /// Its content, a copy: the ranges, with a short header for each.
    pub body: Bytes,
}

/// These ranges of `whole`, each with `Content-Range` and, if the representation has one, `Content-Type` (RFC 9110
/// §15.3.7.2). `random` makes the boundary, which must occur in none of the ranges (RFC 2046 §5.1.1): nobody can guess 128 random bits,
/// and no body has to be searched.
pub fn byteranges(
    whole: &Bytes,
    parts: &[ByteRange],
    content_type: Option<&HeaderValue>,
    random: u128,
) -> Multipart {
    let cuts: Vec<_> =
        parts.iter().map(|part| (part.content_range(whole.len() as u64), part.cut(whole))).collect();
    let boundary = format!("larder-part-{random:032x}");
    let mut body = BytesMut::with_capacity(cuts.iter().map(|(_, cut)| cut.len() + 160).sum());
    for (range, cut) in &cuts {
        body.put_slice(format!("--{boundary}\r\n").as_bytes());
        if let Some(content_type) = content_type {
            put_field(&mut body, "Content-Type", content_type.as_bytes());
        }
        put_field(&mut body, "Content-Range", range.as_bytes());
        body.put_slice(b"\r\n");
        body.put_slice(cut);
        body.put_slice(b"\r\n");
    }
    body.put_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"))
        .expect("a boundary is made of letters, digits and dashes");
    Multipart { content_type, body: body.freeze() }
}

fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(bounds: &[(u64, u64)]) -> Vec<ByteRange> {
        bounds.iter().map(|(first, last)| ByteRange { first: *first, last: *last }).collect()
    }

    #[test]
    fn each_part_has_content_type_and_content_range() {
        let body = Bytes::from_static(b"0123456789");
        let text_type = HeaderValue::from_static("text/plain");
        let typed = byteranges(&body, &parts(&[(7, 9), (0, 1)]), Some(&text_type), 0xa1);
        let boundary = "larder-part-000000000000000000000000000000a1";
        assert_eq!(typed.content_type, format!("multipart/byteranges; boundary={boundary}"));
        let expected = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 7-9/10\r\n\r\n789\r\n\
             --{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n\
             --{boundary}--\r\n"
        );
        assert_eq!(typed.body, expected);
        let untyped = byteranges(&body, &parts(&[(0, 0), (9, 9)]), None, 0xa1);
        assert!(!str::from_utf8(&untyped.body).unwrap().contains("Content-Type"));
    }

    proptest! {
        #[test]
        fn reading_the_message_gives_the_parts(
            body in "(larder-part-0|\r\n--|[a-z]){0,40}", random: u128, bounds in proptest::collection::vec((0u64..400, 0u64..400), 2..6),
        ) {
            let body = Bytes::from(format!("{body}."));
            let last = body.len() as u64 - 1;
            let bounds: Vec<_> = bounds.iter().map(|(a, b)| (*a.min(b).min(&last), *a.max(b).min(&last))).collect();
            let message = byteranges(&body, &parts(&bounds), None, random);
            let boundary = message.content_type.to_str().unwrap().rsplit_once('=').unwrap().1.to_owned();
            let text = format!("\r\n{}", str::from_utf8(&message.body).unwrap());
            let read: Vec<_> = text.split(&format!("\r\n--{boundary}")).collect();
            prop_assert_eq!((read[0], read[read.len() - 1]), ("", "--\r\n"));
            let expected: Vec<_> = bounds
                .iter()
                .map(|(first, last)| {
                    let content = &body[*first as usize..=*last as usize];
                    let content = str::from_utf8(content).unwrap();
                    format!("\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n{content}", body.len())
                })
                .collect();
            prop_assert_eq!(&read[1..read.len() - 1], &expected[..]);
        }
    }
}
