//! [`Entry`]: one stored response with everything that decides on its use, and its encoding in L2.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::clients;
use crate::http::freshness::{Freshness, LifetimeSource};
use crate::marks::{Epoch, Stamp, Tag};

mod seal;
mod vary_index;

pub use seal::Seal;
pub use vary_index::{Variant, VaryIndex};

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The canonical request text; compared on a hit, so that an MD5 collision is a miss.
    pub text: Box<str>,
    /// Read before the fetch that made this entry.
    pub stamp: Stamp,
    /// Everything that invalidates it.
    pub tags: Arc<[Tag]>,
    pub content: Content,
}

/// A response, or the sign that responses under this key vary.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "most are responses, and a box would make every hit take a step more"
)]
pub enum Content {
    Response(Response),
    /// Responses under this key are kept one level down, keyed by the request fields they vary on (RFC 9111 §4.1).
    VaryIndex(VaryIndex),
}

/// A complete stored response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: StatusCode,
    /// Without hop-by-hop fields, `Age` and upstream's `Content-Length`; ready to be sent.
    pub headers: HeaderMap,
    /// What upstream said in the fields in which clients are told something else ([`clients`]); None if they are told what it
    /// said.
    pub said: Option<Box<HeaderMap>>,
    pub body: Bytes,
    pub freshness: Freshness,
    /// May answer requests that carry `Authorization` or `Cookie` (RFC 9111 §3.5, or the family's rules).
    pub for_credentials: bool,
    /// Some of the fields are meant for Larder, and are taken out on the way to clients. They are kept, since a 304
    /// need not repeat them.
    pub consumed: bool,
}

impl Response {
    /// The fields as upstream said them: what is validated with, and what a 304 updates.
    pub fn own_headers(&self) -> Cow<'_, HeaderMap> {
        match &self.said {
            None => Cow::Borrowed(&self.headers),
            Some(said) => Cow::Owned(clients::restored(&self.headers, said)),
        }
    }

    /// Whether it is an error of the client or of the server (RFC 9110 §15.5, §15.6).
    pub fn is_error(&self) -> bool {
        self.status.is_client_error() || self.status.is_server_error()
    }
}

/// Why bytes from L2 are not an entry. To the cache this is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    #[error("not a Larder entry, or one of another version")]
    Version,
    #[error("the checksum is wrong: the entry was damaged or changed, or stems from a Larder with another secret")]
    Checksum,
    #[error("the entry ends early or is garbled")]
    Garbled,
}

/// The largest body, bytes, that is copied into the memory of its entry.
pub const COPIED: usize = 4 << 10;

impl DecodeFault {
    /// One word for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            DecodeFault::Version => "version",
            DecodeFault::Checksum => "checksum",
            DecodeFault::Garbled => "garbled",
        }
    }
}

const MAGIC: &[u8; 4] = b"LRD6";

/// Where the head's length stands, behind the checksum.
const HEAD_AT: usize = MAGIC.len() + seal::LENGTH;

/// The longest encoding that is read from L2, bytes. What is put there is shorter ([`crate::cache::SHARED_MAX`]).
pub const ENCODING_MAX: usize = 2 << 20;

/// What the first bytes of an encoding tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preface {
    /// What decides on whether the entry is current.
    Whole {
        stamp: Stamp,
        tags: Vec<Tag>,
        /// How many bytes say that.
        length: usize,
    },
    /// So many bytes of the encoding tell for certain.
    Wanting(usize),
    /// No entry, or one of another version.
    Foreign,
}

impl Preface {
    /// Reads the beginning of an encoding, however much there is of it.
    pub fn of(bytes: &Bytes) -> Preface {
        let start = HEAD_AT + 4;
        if bytes.len() < start {
            let may_be = MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]);
            return if may_be { Preface::Wanting(start) } else { Preface::Foreign };
        }
        let mut outer = Reader { bytes: bytes.clone(), at: HEAD_AT };
        let Ok(head) = outer.u32().map(|length| start + length as usize) else { return Preface::Foreign };
        if !bytes.starts_with(MAGIC) {
            return Preface::Foreign;
        }
        let mut reader = Reader { bytes: bytes.slice(..bytes.len().min(head)), at: start };
        match marked(&mut reader) {
            Ok((_, stamp, tags)) => Preface::Whole { stamp, tags, length: reader.at },
            Err(_) if bytes.len() < head => Preface::Wanting(head),
            Err(_) => Preface::Foreign,
        }
    }
}

/// With what every head begins: the text, and what decides on whether the entry is current.
fn marked(head: &mut Reader) -> Result<(Box<str>, Stamp, Vec<Tag>), DecodeFault> {
    let text = head.text()?.into();
    let stamp = Stamp { epoch: Epoch(head.u64()?), sequence: head.u64()? };
    let tags = (0..head.u16()?).map(|_| Ok(Tag::family(&head.text()?))).collect::<Result<Vec<_>, _>>()?;
    Ok((text, stamp, tags))
}

impl Entry {
    /// The response, unless this is the sign that responses vary.
    pub fn response(&self) -> Option<&Response> {
        match &self.content {
            Content::Response(response) => Some(response),
            Content::VaryIndex(_) => None,
        }
    }

    /// What responses under this key vary on, if this is the sign for it.
    pub fn vary_index(&self) -> Option<&VaryIndex> {
        match &self.content {
            Content::Response(_) => None,
            Content::VaryIndex(variants) => Some(variants),
        }
    }

    /// Memory that the entry takes in L1, bytes, its place there included. Counted as for an entry that was decoded: texts
    /// stand both in the encoding that fields and a small body are slices of, and by themselves. What is allocated is rounded up.
    pub fn weight(&self) -> u64 {
        const ALLOCATION: usize = 24;
        const PLACE: usize = 250;
        const FIXED: usize = PLACE + size_of::<Entry>() + 150;
        let tags: usize = self.tags.iter().map(|tag| 2 * tag.as_str().len() + 2 * ALLOCATION + 16).sum();
        let content = match &self.content {
            Content::VaryIndex(variants) => {
                let known: usize = variants.known.iter().map(|known| 2 * known.suffix.len() + 64).sum();
                variants.on.len() * 48 + known
            }
            Content::Response(response) => {
                let text = |fields: &HeaderMap| -> usize {
                    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 8).sum()
                };
                let said = response.said.as_deref().map_or(0, |said| text(said) + said.len() * 160 + 128);
                let text = text(&response.headers) + said;
                let fields = response.headers.len();
                // As `HeaderMap` makes room: a power of two of places, three quarters of them for fields.
                let places = (fields + fields / 3).next_power_of_two();
                text + places * 4 + (places - places / 4) * 112 + response.body.len()
            }
        };
        (FIXED + 2 * self.text.len() + ALLOCATION + tags + content) as u64
    }

    /// The same entry in memory of its own. As it comes from upstream, every field value is a slice of the connection's read
    /// buffer, and the smallest of them keeps all of that buffer alive. A body over 4 KiB is shared, not copied: who gives it
    /// has it in memory of its own.
    #[must_use]
    pub fn compact(self) -> Entry {
        match self.content {
            Content::VaryIndex(_) => self,
            Content::Response(response) => Entry { content: Content::Response(response.compact()), ..self },
        }
    }

    /// The encoding kept in L2 under `name`: magic and version, the checksum of what follows it, a head with its length, then
    /// the body. Integers are big-endian.
    pub fn encode(&self, seal: &Seal, name: &str) -> Bytes {
        let mut whole = self.write();
        let checksum = seal.of(name, &whole[HEAD_AT..]);
        whole[MAGIC.len()..HEAD_AT].copy_from_slice(&checksum);
        whole.freeze()
    }

    /// The encoding with zeros for a checksum.
    fn write(&self) -> BytesMut {
        let mut head = BytesMut::with_capacity(512);
        put_bytes(&mut head, self.text.as_bytes());
        head.put_u64(self.stamp.epoch.0);
        head.put_u64(self.stamp.sequence);
        head.put_u16(self.tags.len() as u16);
        for tag in self.tags.iter() {
            put_bytes(&mut head, tag.as_str().as_bytes());
        }
        let body = match &self.content {
            Content::VaryIndex(variants) => {
                head.put_u8(1);
                put_variants(&mut head, variants);
                &[][..]
            }
            Content::Response(response) => {
                head.put_u8(0);
                put_response(&mut head, response);
                &response.body[..]
            }
        };
        let mut whole = BytesMut::with_capacity(HEAD_AT + 4 + head.len() + body.len());
        whole.put_slice(MAGIC);
        whole.put_bytes(0, seal::LENGTH);
        whole.put_u32(head.len() as u32);
        whole.put_slice(&head);
        whole.put_slice(body);
        whole
    }

    /// Reads an encoding that was found under `name`. The body shares `bytes`' memory.
    ///
    /// # Errors
    ///
    /// It is of another version, or its checksum is not that of these bytes under this name.
    pub fn decode(bytes: Bytes, seal: &Seal, name: &str) -> Result<Entry, DecodeFault> {
        if bytes.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(DecodeFault::Version);
        }
        let checksum = bytes.get(MAGIC.len()..HEAD_AT).ok_or(DecodeFault::Garbled)?;
        if bytes.len() > ENCODING_MAX || !seal.is_of(checksum, name, &bytes[HEAD_AT..]) {
            return Err(DecodeFault::Checksum);
        }
        Entry::read(bytes)
    }

    /// Reads what follows the checksum.
    pub fn read(bytes: Bytes) -> Result<Entry, DecodeFault> {
        let mut outer = Reader { bytes, at: HEAD_AT };
        let head_length = outer.u32()? as usize;
        let mut head = Reader { bytes: outer.take(head_length)?, at: 0 };
        let (text, stamp, tags) = marked(&mut head)?;
        let content = match head.u8()? {
            0 => Content::Response(response(&mut head, outer.rest())?),
            1 => Content::VaryIndex(read_variants(&mut head)?),
            _ => return Err(DecodeFault::Garbled),
        };
        Ok(Entry { text, stamp, tags: tags.into(), content })
    }
}

impl Response {
    /// The same response in two allocations of its own, one for all field values and one for a small body.
    fn compact(self) -> Response {
        let headers = compact(&self.headers);
        let said = self.said.map(|said| Box::new(compact(&said)));
        let body = if self.body.len() > COPIED { self.body } else { Bytes::copy_from_slice(&self.body) };
        Response { headers, said, body, ..self }
    }
}

/// The same fields with all values in one allocation of their own.
fn compact(fields: &HeaderMap) -> HeaderMap {
    let mut values = BytesMut::with_capacity(fields.values().map(HeaderValue::len).sum());
    fields.values().for_each(|value| values.put_slice(value.as_bytes()));
    let mut values = values.freeze();
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        // A name that is none of the known ones is a slice of the read buffer, too.
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
        let own = HeaderValue::from_maybe_shared(values.split_to(value.len()));
        headers.append(name, own.unwrap_or_else(|_| value.clone()));
    }
    headers
}

fn put_fields(head: &mut BytesMut, fields: &HeaderMap) {
    head.put_u16(fields.len() as u16);
    for (name, value) in fields {
        put_bytes(head, name.as_str().as_bytes());
        put_bytes(head, value.as_bytes());
    }
}

fn read_fields(head: &mut Reader) -> Result<HeaderMap, DecodeFault> {
    let count = head.u16()?;
    // Each takes eight bytes at least.
    let room = usize::from(count).min(head.bytes.len() / 8);
    // A map holds fewer fields than two bytes can count.
    let mut fields = HeaderMap::try_with_capacity(room).map_err(|_| DecodeFault::Garbled)?;
    for _ in 0..count {
        let name = head.name()?;
        let value = HeaderValue::from_maybe_shared(head.bytes()?).map_err(|_| DecodeFault::Garbled)?;
        // A map holds fewer fields than two bytes can count.
        fields.try_append(name, value).map_err(|_| DecodeFault::Garbled)?;
    }
    Ok(fields)
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn put_seconds(out: &mut BytesMut, duration: Duration) {
    out.put_u64(duration.as_secs());
}

fn put_millis(out: &mut BytesMut, time: SystemTime) {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.put_u64(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
}

fn put_variants(head: &mut BytesMut, variants: &VaryIndex) {
    head.put_u16(variants.on.len() as u16);
    for field in &variants.on {
        put_bytes(head, field.as_str().as_bytes());
    }
    head.put_u16(variants.known.len() as u16);
    for known in &variants.known {
        put_bytes(head, known.suffix.as_bytes());
        put_millis(head, known.until);
    }
}

fn read_variants(head: &mut Reader) -> Result<VaryIndex, DecodeFault> {
    let on = (0..head.u16()?).map(|_| head.name()).collect::<Result<_, _>>()?;
    let known = (0..head.u16()?)
        .map(|_| {
            let suffix = head.text()?.into();
            Ok(Variant { suffix, until: head.time(Duration::from_millis)? })
        })
        .collect::<Result<_, _>>()?;
    Ok(VaryIndex { on, known })
}

fn put_response(head: &mut BytesMut, response: &Response) {
    let freshness = &response.freshness;
    head.put_u16(response.status.as_u16());
    // To the nanosecond: which of two requests was sent first may hang on it.
    let sent = freshness.request_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    head.put_u64(u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX));
    put_millis(head, freshness.response_time);
    put_seconds(head, freshness.initial_age);
    put_seconds(head, freshness.lifetime);
    put_seconds(head, freshness.stale_while_revalidate);
    put_seconds(head, freshness.stale_if_error);
    put_seconds(head, freshness.stale_if_unreachable);
    head.put_u8(source_code(freshness.source));
    let is_told = response.said.is_some();
    let flags =
        [freshness.always_validate, freshness.never_stale, response.for_credentials, response.consumed, is_told];
    head.put_u8(flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit).sum());
    head.put_u64(response.body.len() as u64);
    put_fields(head, &response.headers);
    response.said.iter().for_each(|said| put_fields(head, said));
}

fn response(head: &mut Reader, body: Bytes) -> Result<Response, DecodeFault> {
    let status = StatusCode::from_u16(head.u16()?).map_err(|_| DecodeFault::Garbled)?;
    let [request_time, response_time] = [head.time(Duration::from_nanos)?, head.time(Duration::from_millis)?];
    let [initial_age, lifetime, stale_while_revalidate, stale_if_error, stale_if_unreachable] =
        [head.seconds()?, head.seconds()?, head.seconds()?, head.seconds()?, head.seconds()?];
    let source = source_of(head.u8()?)?;
    let flags = head.u8()?;
    // A value cut short on its way through the store must not become a short response.
    if head.u64()? != body.len() as u64 {
        return Err(DecodeFault::Garbled);
    }
    let headers = read_fields(head)?;
    let said = if flags & 16 == 0 { None } else { Some(Box::new(read_fields(head)?)) };
    let freshness = Freshness {
        request_time,
        response_time,
        initial_age,
        lifetime,
        source,
        always_validate: flags & 1 != 0,
        never_stale: flags & 2 != 0,
        stale_while_revalidate,
        stale_if_error,
        stale_if_unreachable,
    };
    let (for_credentials, consumed) = (flags & 4 != 0, flags & 8 != 0);
    Ok(Response { status, headers, said, body, freshness, for_credentials, consumed })
}

const SOURCES: [LifetimeSource; 8] = [
    LifetimeSource::SMaxage,
    LifetimeSource::MaxAge,
    LifetimeSource::Expires,
    LifetimeSource::FamilyTtl,
    LifetimeSource::FamilyOverride,
    LifetimeSource::NegativeTtl,
    LifetimeSource::Heuristic,
    LifetimeSource::None,
];

fn source_code(source: LifetimeSource) -> u8 {
    SOURCES.iter().position(|known| *known == source).unwrap_or(SOURCES.len() - 1) as u8
}

fn source_of(code: u8) -> Result<LifetimeSource, DecodeFault> {
    SOURCES.get(usize::from(code)).copied().ok_or(DecodeFault::Garbled)
}

/// Reads big-endian integers and length-prefixed bytes; never past the end.
struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, DecodeFault> {
        let end =
            self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(DecodeFault::Garbled)?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeFault> {
        self.take(N)?.as_ref().try_into().map_err(|_| DecodeFault::Garbled)
    }

    fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }

    fn u8(&mut self) -> Result<u8, DecodeFault> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, DecodeFault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeFault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeFault> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn seconds(&mut self) -> Result<Duration, DecodeFault> {
        Ok(Duration::from_secs(self.u64()?))
    }

    fn time(&mut self, unit: fn(u64) -> Duration) -> Result<SystemTime, DecodeFault> {
        UNIX_EPOCH.checked_add(unit(self.u64()?)).ok_or(DecodeFault::Garbled)
    }

    fn bytes(&mut self) -> Result<Bytes, DecodeFault> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, DecodeFault> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| DecodeFault::Garbled)
    }

    fn name(&mut self) -> Result<HeaderName, DecodeFault> {
        HeaderName::from_bytes(&self.bytes()?).map_err(|_| DecodeFault::Garbled)
    }
}

/// The time as kept in an entry: whole milliseconds. Anything compared with a decoded entry goes through this, but for
/// the time of a request, which is kept as it is.
pub fn whole_millis(time: SystemTime) -> SystemTime {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    const NAME: &str = "v1:user:7:0cc175b9c0f1b6a831c399e269772661";

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
        Entry {
            text: "GET http://h/".into(),
            stamp: Stamp { epoch: Epoch(3), sequence: 9 },
            tags: vec![Tag::root(), Tag::uri("/")].into(),
            content: Content::Response(Response {
                status: StatusCode::OK,
                said: Some(Box::new(headers.clone())),
                headers,
                body: body.into(),
                freshness: Freshness {
                    request_time: SystemTime::now(),
                    response_time: whole_millis(SystemTime::now()),
                    initial_age: Duration::from_secs(1),
                    lifetime: Duration::from_secs(60),
                    source: LifetimeSource::Expires,
                    always_validate: true,
                    never_stale: false,
                    stale_while_revalidate: Duration::from_secs(2),
                    stale_if_error: Duration::ZERO,
                    stale_if_unreachable: Duration::from_secs(3),
                },
                for_credentials: true,
                consumed: true,
            }),
        }
    }

    #[test]
    fn variants_round_trip() {
        let mut variants = entry(HeaderMap::new(), vec![]);
        let known = vec![
            Variant { suffix: "\nvary accept-language: de".into(), until: whole_millis(SystemTime::now()) },
            Variant { suffix: "\nvary accept-language".into(), until: UNIX_EPOCH },
        ];
        let on = vec![HeaderName::from_static("accept-language")];
        variants.content = Content::VaryIndex(VaryIndex { on, known });
        assert_eq!(decode(encode(&variants)), Ok(variants));
    }

    #[test]
    fn more_fields_than_a_response_can_have_are_refused() {
        let whole = entry(HeaderMap::new(), Vec::new()).write();
        // The count of the fields is the last of the head.
        let mut head = BytesMut::from(&whole[HEAD_AT + 4..whole.len() - 2]);
        head.put_u16(u16::MAX);
        for number in 0..u16::MAX {
            put_bytes(&mut head, format!("x-{number}").as_bytes());
            put_bytes(&mut head, b"");
        }
        let mut bytes = BytesMut::from(&whole[..HEAD_AT]);
        bytes.put_u32(head.len() as u32);
        bytes.put_slice(&head);
        assert_eq!(Entry::read(bytes.freeze()), Err(DecodeFault::Garbled));
    }

    #[test]
    fn another_version_is_refused() {
        let whole = encode(&entry(HeaderMap::new(), Vec::new()));
        for magic in [b"LRD4", b"LRD9"] {
            let other = [&magic[..], &whole[MAGIC.len()..]].concat();
            assert_eq!(decode(other.into()), Err(DecodeFault::Version));
        }
    }

    #[test]
    fn an_entry_with_any_byte_changed_or_missing_is_refused() {
        let kept = entry(
            HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]),
            b"0123456789".to_vec(),
        );
        for seal in seals() {
            let whole = kept.encode(&seal, NAME);
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
        let kept = entry(HeaderMap::new(), b"0123456789".to_vec());
        let secret = |text: &str| Some(Secret::new(text, "test"));
        let others = [
            Seal::new("test", None),
            Seal::new("tes", None),
            Seal::new("test", secret("one secret")),
            Seal::new("test", secret("another secret")),
        ];
        for (index, seal) in others.iter().enumerate() {
            let whole = kept.encode(seal, NAME);
            for name in ["", "v1:user:8:0cc175b9c0f1b6a831c399e269772661", &NAME[1..]] {
                assert_eq!(Entry::decode(whole.clone(), seal, name), Err(DecodeFault::Checksum), "{name}");
            }
            // The parts have one reading.
            let shifted = Seal::new("testv", None);
            assert_eq!(Entry::decode(whole.clone(), &shifted, &NAME[1..]), Err(DecodeFault::Checksum));
            for (other, seal) in others.iter().enumerate() {
                let decoded = Entry::decode(whole.clone(), seal, NAME);
                assert_eq!(decoded.is_ok(), index == other, "{index} read as {other}");
            }
        }
    }

    #[test]
    fn what_is_longer_than_any_entry_is_refused() {
        let long = entry(HeaderMap::new(), vec![0; ENCODING_MAX]);
        assert_eq!(decode(encode(&long)), Err(DecodeFault::Checksum));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
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
            prop_assert_eq!(entry.clone().compact(), entry);
        }

        #[test]
        fn a_beginning_tells_what_the_whole_does_or_how_much_is_wanting(cut in 0usize..200, tags in 0usize..4) {
            let mut kept = entry(HeaderMap::new(), b"0123456789".to_vec());
            kept.tags = (0..tags).map(|tag| Tag::family(&tag.to_string())).collect();
            let whole = encode(&kept);
            let cut = cut.min(whole.len());
            let part = Preface::of(&whole.slice(..cut));
            match &part {
                Preface::Whole { stamp, tags, length } => {
                    prop_assert_eq!((stamp, &tags[..]), (&kept.stamp, &kept.tags[..]));
                    prop_assert!(*length <= cut);
                }
                Preface::Wanting(wanted) => {
                    prop_assert!(*wanted > cut && *wanted <= whole.len());
                    prop_assert!(Preface::of(&whole.slice(..*wanted)) != part, "enough after at most two looks");
                }
                Preface::Foreign => prop_assert!(false, "an entry of ours is known as one"),
            }
            if cut == whole.len() {
                prop_assert!(matches!(part, Preface::Whole { .. }), "{part:?}");
            }
        }

        #[test]
        fn what_is_no_entry_of_this_version_is_foreign(bytes in proptest::collection::vec(any::<u8>(), 1..40)) {
            prop_assume!(!MAGIC.starts_with(&bytes[..bytes.len().min(4)]));
            prop_assert_eq!(Preface::of(&bytes.into()), Preface::Foreign);
        }

        #[test]
        fn cut_or_garbled_bytes_are_refused_and_never_panic(
            cut in 0usize..200, flip in 0usize..200, bit in 0u8..8,
        ) {
            // Past the checksum: nobody who can make one may make the reader panic.
            let whole = entry(HeaderMap::new(), b"0123456789".to_vec()).write().freeze();
            if (HEAD_AT..whole.len()).contains(&cut) {
                prop_assert!(Entry::read(whole.slice(..cut)).is_err());
            }
            let mut garbled = whole.to_vec();
            let at = HEAD_AT + flip % (garbled.len() - HEAD_AT);
            garbled[at] ^= 1 << bit;
            let _ = Entry::read(garbled.into());
        }
    }
}
