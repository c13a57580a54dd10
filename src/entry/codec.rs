//! The encoding of an [`Entry`] in Redis:
//!
//! ```text
//! "LRD8" │ checksum, 16 bytes │ length of the head, u32 big-endian │ head │ body
//! ```
//!
//! The checksum ([`Seal`]) covers everything behind it and the name of the entry. The head is a sequence of `postcard`
//! values (<https://postcard.jamesmunns.com/wire-format>): first the preface, which is the text of the cache key, the
//! stamp and the tags, then [`Kind`] and its lists. The sweeper reads the preface alone.
//!
//! The body follows as it is, so that a large body of a decoded entry is a slice of the input; or compressed (`compression`), as
//! [`Kind`] says. A list is read element by element, not as a `Vec`: serde reserves memory for the length that a list claims, before it has seen an element.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use super::compression::{compressed, decompressed};
use super::fields::{MOST, StoredFields};
use super::seal::{self, Seal};
use super::{Content, Entry, Response, Variant, VaryIndex};
use crate::http::freshness::Freshness;
use crate::marks::{Epoch, Stamp, Tag};

/// Changes with the encoding: an entry of another version is a miss.
const MAGIC: &[u8; 4] = b"LRD8";

/// Offset of the head's length.
const SEALED_AT: usize = MAGIC.len() + seal::LENGTH;

/// Offset of the head.
const HEAD_AT: usize = SEALED_AT + size_of::<u32>();

/// The longest encoding that is decoded, bytes. Larder stores shorter ones only ([`crate::cache::SHARED_MAX`]).
pub const ENCODING_MAX: usize = 2 << 20;

/// Why bytes from Redis are not an entry. The cache treats this as a miss and counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    #[error("not a Larder entry, or one of another version")]
    Version,
    #[error("wrong checksum: the entry was damaged or changed, or was stored by a Larder with another secret")]
    Checksum,
    #[error("the entry is truncated or malformed")]
    Garbled,
}

impl DecodeFault {
    /// Label of the metric.
    pub fn reason(self) -> &'static str {
        match self {
            DecodeFault::Version => "version",
            DecodeFault::Checksum => "checksum",
            DecodeFault::Garbled => "garbled",
        }
    }
}

/// What the first bytes of an encoding contain. The checksum is not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preface {
    /// What decides whether the entry is current.
    Whole {
        stamp: Stamp,
        tags: Vec<Tag>,
        /// Length of the encoding up to the end of the tags, bytes.
        length: usize,
    },
    /// The first so many bytes of the encoding suffice.
    Wanting(usize),
    /// Not an entry, or one of another version.
    Foreign,
}

impl Preface {
    /// Reads the first bytes of an encoding, however many there are.
    pub fn of(bytes: &[u8]) -> Preface {
        if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
            return Preface::Foreign;
        }
        let Some(end) = head_end(bytes) else { return Preface::Wanting(HEAD_AT) };
        let known = bytes.len().min(end);
        let mut head = Reader(&bytes[HEAD_AT..known]);
        match read_preface(&mut head) {
            Ok((_, stamp, tags)) => {
                let tags = tags.into_iter().map(Tag::family).collect();
                Preface::Whole { stamp, tags, length: known - head.0.len() }
            }
            Err(_) if known < end => Preface::Wanting(end),
            Err(_) => Preface::Foreign,
        }
    }

    /// Whether a vary index follows the preface, whose length this is; false if the bytes end there.
    pub fn is_vary_index(bytes: &[u8], length: usize) -> bool {
        bytes.get(length..).is_some_and(|rest| matches!(Reader(rest).take(), Ok(Kind::VaryIndex)))
    }

    /// The text of the cache key, if the bytes are as many as [`Preface::Whole`] needs.
    pub fn key_text(bytes: &[u8]) -> Option<String> {
        let end = head_end(bytes)?.min(bytes.len());
        let (text, _, _) = read_preface(&mut Reader(bytes.get(HEAD_AT..end)?)).ok()?;
        Some(text.to_owned())
    }
}

/// Whether a stored response or a vary index follows, and what of it has a fixed shape.
#[derive(Serialize, Deserialize)]
enum Kind {
    /// Followed by the fields, and by the fields as upstream sent them if `has_original_fields`.
    Response {
        status: u16,
        freshness: Freshness,
        for_credentials: bool,
        consumed: bool,
        has_original_fields: bool,
        /// Bytes of the body, not compressed. A truncated value must not become a truncated response.
        body_length: usize,
        /// The body is compressed with zstd.
        is_compressed: bool,
    },
    /// Followed by the names of the request fields, then by the known variants.
    VaryIndex,
}

impl Entry {
    /// The encoding to be stored in Redis under `name`.
    pub fn encode(&self, seal: &Seal, name: &str) -> Bytes {
        self.encode_compressed(seal, name, None)
    }

    /// The same with a body of more than `compress_above` bytes compressed, if that makes it shorter.
    pub fn encode_compressed(&self, seal: &Seal, name: &str, compress_above: Option<usize>) -> Bytes {
        let mut encoding = self.write(compress_above);
        let checksum = seal.of(name, &encoding[SEALED_AT..]);
        encoding[MAGIC.len()..SEALED_AT].copy_from_slice(&checksum);
        encoding.into()
    }

    /// The encoding with zeros in place of the checksum.
    fn write(&self, compress_above: Option<usize>) -> Vec<u8> {
        let whole = self.response().map_or(&[][..], |response| &response.body);
        let short = self.response().zip(compress_above);
        let short = short.and_then(|(response, above)| compressed(&response.headers, whole, above));
        let body = short.as_deref().unwrap_or(whole);
        let mut out = Writer(Vec::with_capacity(512 + body.len()));
        out.0.extend_from_slice(MAGIC);
        out.0.resize(HEAD_AT, 0);
        out.put(&(&*self.text, self.stamp.epoch.0, self.stamp.sequence));
        out.put(&self.tags.iter().count());
        self.tags.iter().for_each(|tag| out.put(tag));
        match &self.content {
            Content::VaryIndex(VaryIndex { on, known }) => {
                out.put(&Kind::VaryIndex);
                out.put_list(on.iter(), |out, field| out.put(field.as_str()));
                out.put_list(known.iter(), |out, known| out.put(&(&*known.suffix, storable(known.until))));
            }
            Content::Response(response) => {
                out.put(&Kind::Response {
                    status: response.status.as_u16(),
                    freshness: response.freshness,
                    for_credentials: response.for_credentials,
                    consumed: response.consumed,
                    has_original_fields: response.original_fields.is_some(),
                    body_length: whole.len(),
                    is_compressed: short.is_some(),
                });
                out.put_fields(&response.headers);
                response.original_fields.iter().for_each(|fields| out.put_fields(fields));
            }
        }
        let head_length = (out.0.len() - HEAD_AT) as u32;
        out.0[SEALED_AT..HEAD_AT].copy_from_slice(&head_length.to_be_bytes());
        out.0.extend_from_slice(body);
        out.0
    }

    /// Decodes what was found in Redis under `name`. A body over [`COPIED`](super::COPIED) is a slice of `bytes`.
    ///
    /// # Errors
    ///
    /// It is of another version, or its checksum is not that of these bytes under this name.
    pub fn decode(bytes: Bytes, seal: &Seal, name: &str) -> Result<Entry, DecodeFault> {
        if !bytes.starts_with(MAGIC) {
            return Err(DecodeFault::Version);
        }
        let checksum = bytes.get(MAGIC.len()..SEALED_AT).ok_or(DecodeFault::Garbled)?;
        if bytes.len() > ENCODING_MAX || !seal.is_of(checksum, name, &bytes[SEALED_AT..]) {
            return Err(DecodeFault::Checksum);
        }
        Entry::read(bytes)
    }

    /// Decodes what follows the checksum.
    pub fn read(mut bytes: Bytes) -> Result<Entry, DecodeFault> {
        let end = head_end(&bytes).filter(|end| *end <= bytes.len()).ok_or(DecodeFault::Garbled)?;
        let body = bytes.split_off(end);
        let mut head = Reader(&bytes[HEAD_AT..]);
        let (text, stamp, tags) = read_preface(&mut head)?;
        let content = match head.take()? {
            Kind::Response {
                status,
                freshness,
                for_credentials,
                consumed,
                has_original_fields,
                body_length,
                is_compressed,
            } => {
                let body = match is_compressed {
                    false => Some(body).filter(|body| body.len() == body_length),
                    // No entry that Larder stores has a longer body.
                    true if body_length > ENCODING_MAX => None,
                    true => decompressed(&body, body_length),
                };
                let body = body.ok_or(DecodeFault::Garbled)?;
                let status = StatusCode::from_u16(status).map_err(|_| DecodeFault::Garbled)?;
                let headers = head.fields(&bytes)?;
                let original_fields =
                    if has_original_fields { Some(Box::new(head.fields(&bytes)?)) } else { None };
                Content::Response(Response {
                    status,
                    headers,
                    original_fields,
                    body,
                    freshness,
                    for_credentials,
                    consumed,
                })
            }
            Kind::VaryIndex => Content::VaryIndex(VaryIndex {
                on: head.list(|head| name_of(head.take()?))?,
                known: head.list(|head| {
                    let (suffix, until): (&str, SystemTime) = head.take()?;
                    Ok(Variant { suffix: suffix.into(), until })
                })?,
            }),
        };
        // A small body is copied, rather than to keep the head in memory beside it.
        Ok(Entry::new(text, stamp, tags, content).compact())
    }
}

/// Offset of the end of the head, which may be beyond `bytes`; None if they end before they tell.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(SEALED_AT..HEAD_AT)?.try_into().ok()?;
    HEAD_AT.checked_add(u32::from_be_bytes(length) as usize)
}

fn read_preface<'b>(head: &mut Reader<'b>) -> Result<(&'b str, Stamp, Vec<&'b str>), DecodeFault> {
    let (text, epoch, sequence) = head.take()?;
    let tags = head.list(Reader::take)?;
    Ok((text, Stamp { epoch: Epoch(epoch), sequence }, tags))
}

fn name_of(text: &str) -> Result<HeaderName, DecodeFault> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| DecodeFault::Garbled)
}

/// serde refuses times before 1970.
fn storable(time: SystemTime) -> SystemTime {
    time.max(UNIX_EPOCH)
}

struct Writer(Vec<u8>);

/// Instead of `postcard::to_extend`, which copies byte by byte and takes twice as long for an entry.
impl Flavor for &mut Writer {
    type Output = ();

    #[inline(always)]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline(always)]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

impl Writer {
    fn put<T: Serialize + ?Sized>(&mut self, value: &T) {
        postcard::serialize_with_flavor(value, self)
            .expect("a Vec takes everything, lengths are known and times are not before 1970");
    }

    fn put_list<T>(&mut self, list: impl ExactSizeIterator<Item = T>, put: impl Fn(&mut Writer, T)) {
        self.put(&list.len());
        list.for_each(|element| put(self, element));
    }

    fn put_fields(&mut self, fields: &StoredFields) {
        self.put(&fields.len());
        for (name, value) in fields.iter() {
            self.put(name.as_str());
            self.put(&value.len());
            self.0.extend_from_slice(value.as_bytes());
        }
    }
}

/// What is left of the head.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take<T: Deserialize<'b>>(&mut self) -> Result<T, DecodeFault> {
        let (value, rest) = postcard::take_from_bytes(self.0).map_err(|_| DecodeFault::Garbled)?;
        self.0 = rest;
        Ok(value)
    }

    fn list<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, DecodeFault>) -> Result<Vec<T>, DecodeFault> {
        (0..self.take::<usize>()?).map(|_| read(self)).collect()
    }

    /// Fields whose values are slices of `bytes`, which this reads.
    fn fields(&mut self, bytes: &Bytes) -> Result<StoredFields, DecodeFault> {
        let count: usize = self.take()?;
        if count > MOST {
            return Err(DecodeFault::Garbled);
        }
        let line = |_| {
            let (name, value) = self.take()?;
            let value =
                HeaderValue::from_maybe_shared(bytes.slice_ref(value)).map_err(|_| DecodeFault::Garbled)?;
            Ok((name_of(name)?, value))
        };
        (0..count).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::COPIED;
    use crate::http::freshness::LifetimeSource;
    use crate::secret::Secret;

    const NAME: &str = "user:7:0cc175b9c0f1b6a831c399e269772661:v1";

    fn seals() -> [Seal; 2] {
        [Seal::new("test", None), Seal::new("test", Some(Secret::new("a secret of the tests", "test")))]
    }

    fn encode(entry: &Entry) -> Bytes {
        entry.encode(&seals()[0], NAME)
    }

    fn decode(bytes: Bytes) -> Result<Entry, DecodeFault> {
        Entry::decode(bytes, &seals()[0], NAME)
    }

    fn entry(headers: HeaderMap, body: Vec<u8>) -> Entry {
        let response = Response {
            status: StatusCode::OK,
            original_fields: Some(Box::new(headers.clone().into())),
            headers: headers.into(),
            body: body.into(),
            freshness: Freshness {
                request_time: SystemTime::now().into(),
                response_time: SystemTime::now().into(),
                initial_age: Duration::from_secs(1).into(),
                lifetime: Duration::from_secs(60).into(),
                source: LifetimeSource::Expires,
                always_validate: true,
                never_stale: false,
                stale_while_revalidate: Duration::from_secs(2).into(),
                stale_if_error: Duration::ZERO.into(),
                stale_if_unreachable: Duration::from_secs(3).into(),
            },
            for_credentials: true,
            consumed: true,
        };
        let stamp = Stamp { epoch: Epoch(3), sequence: 9 };
        Entry::new("GET http://h/", stamp, [Tag::root(), Tag::uri("/")], Content::Response(response))
    }

    #[test]
    fn variants_round_trip() {
        let mut variants = entry(HeaderMap::new(), vec![]);
        let known = vec![
            Variant { suffix: "\nvary accept-language: de".into(), until: SystemTime::now() },
            Variant { suffix: "\nvary accept-language".into(), until: UNIX_EPOCH },
        ];
        let on = vec![HeaderName::from_static("accept-language")];
        variants.content = Content::VaryIndex(VaryIndex { on, known });
        assert_eq!(decode(encode(&variants)), Ok(variants));
    }

    #[test]
    fn more_fields_than_a_map_can_hold_are_refused() {
        let mut stored = entry(HeaderMap::new(), Vec::new());
        let Content::Response(response) = &mut stored.content else { unreachable!() };
        response.original_fields = None;
        let mut out = Writer(stored.write(None));
        // The count of the fields is the last byte of the head.
        out.0.pop();
        out.put(&usize::from(u16::MAX));
        for number in 0..u16::MAX {
            out.put(&(format!("x-{number}"), ""));
        }
        let head_length = (out.0.len() - HEAD_AT) as u32;
        out.0[SEALED_AT..HEAD_AT].copy_from_slice(&head_length.to_be_bytes());
        assert_eq!(Entry::read(out.0.into()), Err(DecodeFault::Garbled));
    }

    #[test]
    fn a_list_with_more_elements_than_bytes_is_refused_without_reserving_memory() {
        let mut out = Writer(Vec::new());
        out.put(&(usize::MAX, "a", "b"));
        let bytes = Bytes::from(out.0);
        assert_eq!(Reader(&bytes).list(Reader::take::<&str>), Err(DecodeFault::Garbled));
        assert_eq!(Reader(&bytes).fields(&bytes), Err(DecodeFault::Garbled));
    }

    #[test]
    fn a_decoded_body_is_a_slice_of_the_input_unless_it_is_small() {
        for (length, is_slice) in [(COPIED, false), (COPIED + 1, true)] {
            let whole = encode(&entry(HeaderMap::new(), vec![b'x'; length]));
            let decoded = decode(whole.clone()).unwrap();
            let body = decoded.response().unwrap().body.as_ptr();
            assert_eq!(whole.as_ptr_range().contains(&body), is_slice, "{length}");
        }
    }

    #[test]
    fn times_before_1970_are_stored_as_1970() {
        let mut stored = entry(HeaderMap::new(), Vec::new());
        let Content::Response(response) = &mut stored.content else { unreachable!() };
        response.freshness.response_time = (UNIX_EPOCH - Duration::from_secs(1)).into();
        let decoded = decode(encode(&stored)).unwrap();
        assert_eq!(decoded.response().unwrap().freshness.response_time.time(), UNIX_EPOCH);
    }

    #[test]
    fn a_compressed_body_comes_back_whole_and_takes_less() {
        let stored = entry(HeaderMap::new(), b"0123456789".repeat(1000));
        let (plain, short) = (encode(&stored), stored.encode_compressed(&seals()[0], NAME, Some(1024)));
        assert!(short.len() < plain.len() / 10, "{} of {}", short.len(), plain.len());
        assert_eq!(decode(short), Ok(stored.clone()));
        // Its head is the same, so that the sweeper reads it without the body.
        let Preface::Whole { tags, .. } = Preface::of(&stored.write(Some(1024))) else { panic!("no preface") };
        assert_eq!(tags, stored.tags.to_vec());
        assert_eq!(stored.encode_compressed(&seals()[0], NAME, Some(10_000)), plain, "not above the threshold");
    }

    #[test]
    fn a_compressed_body_that_is_longer_than_it_claims_is_refused() {
        let mut stored = entry(HeaderMap::new(), vec![b'0'; ENCODING_MAX + 1]);
        assert_eq!(Entry::read(stored.write(Some(0)).into()), Err(DecodeFault::Garbled), "longer than any entry");
        let Content::Response(response) = &mut stored.content else { unreachable!() };
        let bomb = compressed(&HeaderMap::new().into(), &response.body, 0).unwrap();
        response.body = b"0".repeat(100).into();
        let mut claims_less = stored.write(Some(10));
        claims_less.truncate(
            claims_less.len() - compressed(&HeaderMap::new().into(), &b"0".repeat(100), 10).unwrap().len(),
        );
        claims_less.extend_from_slice(&bomb);
        assert_eq!(Entry::read(claims_less.into()), Err(DecodeFault::Garbled), "longer than the head says");
    }

    #[test]
    fn another_version_is_refused() {
        let whole = encode(&entry(HeaderMap::new(), Vec::new()));
        for magic in [b"LRD7", b"LRD9"] {
            let other = [&magic[..], &whole[MAGIC.len()..]].concat();
            assert_eq!(decode(other.into()), Err(DecodeFault::Version));
        }
    }

    #[test]
    fn an_entry_with_any_byte_changed_or_missing_is_refused() {
        let stored = entry(
            HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]),
            b"0123456789".to_vec(),
        );
        for seal in seals() {
            let whole = stored.encode(&seal, NAME);
            assert!(Entry::decode(whole.clone(), &seal, NAME).is_ok());
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut changed = whole.to_vec();
                    changed[at] ^= 1 << bit;
                    assert!(Entry::decode(changed.into(), &seal, NAME).is_err(), "byte {at}, bit {bit}");
                }
                assert!(Entry::decode(whole.slice(..at), &seal, NAME).is_err(), "cut at {at}");
            }
            let longer = [&whole[..], b"x"].concat();
            assert_eq!(Entry::decode(longer.into(), &seal, NAME), Err(DecodeFault::Checksum));
        }
    }

    #[test]
    fn an_entry_under_another_name_namespace_or_secret_is_refused() {
        let stored = entry(HeaderMap::new(), b"0123456789".to_vec());
        let secret = |text: &str| Some(Secret::new(text, "test"));
        let others = [
            Seal::new("test", None),
            Seal::new("tes", None),
            Seal::new("test", secret("one secret")),
            Seal::new("test", secret("another secret")),
        ];
        for (index, seal) in others.iter().enumerate() {
            let whole = stored.encode(seal, NAME);
            for name in ["", "user:8:0cc175b9c0f1b6a831c399e269772661:v1", &NAME[1..]] {
                assert_eq!(Entry::decode(whole.clone(), seal, name), Err(DecodeFault::Checksum), "{name}");
            }
            // Namespace and name are not simply concatenated.
            let shifted = Seal::new("testv", None);
            assert_eq!(Entry::decode(whole.clone(), &shifted, &NAME[1..]), Err(DecodeFault::Checksum));
            for (other, seal) in others.iter().enumerate() {
                let decoded = Entry::decode(whole.clone(), seal, NAME);
                assert_eq!(decoded.is_ok(), index == other, "{index} read as {other}");
            }
        }
    }

    #[test]
    fn values_longer_than_any_entry_are_refused() {
        let long = entry(HeaderMap::new(), vec![0; ENCODING_MAX]);
        assert_eq!(decode(encode(&long)), Err(DecodeFault::Checksum));
    }

    proptest! {
        #[test]
        fn entries_round_trip(
            fields in proptest::collection::vec(("[a-z][a-z-]{0,12}", "[ -~]{0,20}"), 0..8),
            body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap());
            }
            let entry = entry(headers, body);
            for seal in seals() {
                let decoded = Entry::decode(entry.encode(&seal, NAME), &seal, NAME);
                prop_assert_eq!(decoded.as_ref(), Ok(&entry));
            }
            let short = entry.encode_compressed(&seals()[0], NAME, Some(0));
            let decoded = decode(short);
            prop_assert_eq!(decoded.as_ref(), Ok(&entry));
            prop_assert_eq!(entry.clone().compact(), entry);
        }

        #[test]
        fn a_prefix_yields_the_preface_or_the_length_that_it_needs(cut in 0usize..200, tags in 0usize..4) {
            let mut stored = entry(HeaderMap::new(), b"0123456789".to_vec());
            stored.tags = (0..tags).map(|tag| tag.to_string()).collect();
            let whole = encode(&stored);
            let cut = cut.min(whole.len());
            let part = Preface::of(&whole.slice(..cut));
            match &part {
                Preface::Whole { stamp, tags, length } => {
                    prop_assert_eq!((*stamp, tags), (stored.stamp, &stored.tags.to_vec()));
                    prop_assert!(*length <= cut);
                }
                Preface::Wanting(wanted) => {
                    prop_assert!(*wanted > cut && *wanted <= whole.len());
                    prop_assert!(Preface::of(&whole.slice(..*wanted)) != part, "complete after at most two reads");
                }
                Preface::Foreign => prop_assert!(false, "an entry of this version is recognised"),
            }
            if cut == whole.len() {
                prop_assert!(matches!(part, Preface::Whole { .. }), "{part:?}");
            }
        }

        #[test]
        fn values_of_another_version_are_foreign(bytes in proptest::collection::vec(any::<u8>(), 1..40)) {
            prop_assume!(!MAGIC.starts_with(&bytes[..bytes.len().min(4)]));
            prop_assert_eq!(Preface::of(&bytes), Preface::Foreign);
        }

        #[test]
        fn cut_or_garbled_bytes_are_refused_and_never_panic(
            cut in 0usize..200, flip in 0usize..200, bit in 0u8..8,
        ) {
            // Behind the checksum: a client that can compute one must not be able to cause a panic.
            let whole = entry(HeaderMap::new(), b"0123456789".to_vec()).write(None);
            if (SEALED_AT..whole.len()).contains(&cut) {
                prop_assert!(Entry::read(Bytes::copy_from_slice(&whole[..cut])).is_err());
            }
            let mut garbled = whole;
            let at = SEALED_AT + flip % (garbled.len() - SEALED_AT);
            garbled[at] ^= 1 << bit;
            let _ = Entry::read(garbled.into());
        }
    }
}
