//! Canonical request text -> [`StoreKey`] and [`KeyHash`]. Two requests share an entry exactly when their canonical texts are
//! equal: a hash of the text finds the entry, and the text itself is compared on a hit, so that a collision is a miss. In
//! Redis the hash is MD5, which every proxy computes alike; in memory it is SipHash, which is faster and which nobody outside
//! the process can compute.
//!
//! The text is made of lines and reads well in `larder explain` and in a debugger:
//!
//! ```text
//! GET http://api.example.com/v1.0/users?page=2&sort=name
//! family user_list 5f1c09aa
//! header accept-language: de
//! identity header:authorization hmac-sha256:9b74c989…
//! vary accept-encoding: gzip
//! ```
//!
//! Credentials and long field values stand in it as their HMAC-SHA256, or without `[store] secret` as their SHA-256. Whoever
//! reads Redis can try guesses against the latter: it hides what is random (tokens, session ids), and not what is short
//! (passwords, PINs).
//!
//! No part can contain a line break (field values cannot, targets are normalised), and bytes outside printable
//! ASCII are escaped, so that different requests have different texts.

use std::fmt::{self, Write};
use std::hash::Hasher;
use std::sync::{Arc, LazyLock};

use hmac::Mac;
use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use md5::{Digest, Md5};
use sha2::Sha256;
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use crate::http::headers::credentials::is_in_table;
use crate::http::headers::{ForwardedPolicy, claims};
use crate::http::target::{PathCase, Target};
use crate::secret::Secret;

mod query;

pub use query::{Parameters, QueryKeySpec};

/// MD5 of a canonical request text: the last part of an entry's name in Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreKey(pub [u8; 16]);

impl StoreKey {
    /// The key of a canonical request text.
    pub fn of(text: &str) -> StoreKey {
        StoreKey(Md5::digest(text.as_bytes()).into())
    }
}

/// SipHash-1-3-128 of a canonical request text, with a secret of this process: the key of what the process keeps of a request in
/// memory. 128 bits, so that equal hashes mean equal texts where the texts are not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u128);

impl KeyHash {
    /// The hash of a canonical request text.
    pub fn of(text: &str) -> KeyHash {
        static SEEDED: LazyLock<SipHasher13> =
            LazyLock::new(|| SipHasher13::new_with_keys(rand::random(), rand::random()));
        let mut hasher = *SEEDED;
        hasher.write(text.as_bytes());
        KeyHash(hasher.finish128().as_u128())
    }
}

impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What must not stand in a key as it is, and how it stands there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redaction {
    /// The key of the HMACs; without one, hashes do.
    pub secret: Option<Secret>,
    /// Fields that carry credentials beside those that are known to ([`crate::http::headers::credentials`]); `None` for none.
    pub further: Option<Arc<[HeaderName]>>,
}

impl Redaction {
    fn hides(&self, name: &HeaderName) -> bool {
        is_in_table(name) || self.further.as_ref().is_some_and(|further| further.contains(name))
    }
}

/// What of a request, besides method, host and path, is part of its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySpec {
    /// Which query parameters count.
    pub query: QueryKeySpec,
    /// Request fields that count, lower case, in the order of the rules file.
    pub headers: Vec<HeaderName>,
    /// Cookies that count, and that alone are sent; `None`: all are sent, and count as the identity says.
    pub cookies: Option<Vec<String>>,
    /// Whose answer it is.
    pub identity: Identity,
}

impl KeySpec {
    /// The cookie that tells callers apart.
    pub fn identity_cookie(&self) -> Option<&str> {
        match &self.identity {
            Identity::Cookie(name) => Some(name),
            _ => None,
        }
    }

    /// The cookies that count beside that of the identity.
    fn other_cookies(&self) -> impl Iterator<Item = &str> {
        let identity = self.identity_cookie();
        self.cookies.iter().flatten().map(String::as_str).filter(move |name| Some(*name) != identity)
    }

    /// Whether this field as a whole is part of the key.
    pub fn keys_on(&self, name: &HeaderName) -> bool {
        self.headers.contains(name) || matches!(&self.identity, Identity::Header(known) if known == name)
    }

    /// Whether who asks is told by this field in the key, or need not be told.
    pub fn knows(&self, name: &HeaderName) -> bool {
        let by_cookies = self.cookies.is_some() || self.identity_cookie().is_some();
        self.identity == Identity::Shared || self.keys_on(name) || by_cookies && *name == COOKIE
    }
}

/// How a family tells one caller from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Identity {
    /// The rules do not say: requests with credentials are cached only as RFC 9111 §3.5 allows.
    #[default]
    Unstated,
    /// The rules say that the answer is the same for everybody (`identity = "none"`).
    Shared,
    /// The value of this request field.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(String),
}

impl Identity {
    /// Whether the rules say how callers are told apart.
    pub fn is_stated(&self) -> bool {
        !matches!(self, Identity::Unstated)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Unstated => f.write_str("unstated"),
            Identity::Shared => f.write_str("none"),
            Identity::Header(name) => write!(f, "header:{name}"),
            Identity::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

/// A canonical request text and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheKey {
    /// The text.
    pub text: String,
    /// Its hash.
    pub hash: KeyHash,
    /// What does not stand in the texts of its variants as it is.
    pub redaction: Redaction,
}

/// What a family adds to the text: its name, the version of its definition, and its keying.
#[derive(Debug, Clone, Copy)]
pub struct FamilyKeySpec<'a> {
    /// The family's name.
    pub name: &'a str,
    /// Changes whenever the family's definition changes.
    pub version: &'a str,
    /// What of the request counts.
    pub key_spec: &'a KeySpec,
}

/// The canonical text of a GET (HEAD shares it) for a target, keyed by its family if it has one. `redaction`: what stands
/// in it as a digest.
pub fn derive(
    target: &Target,
    headers: &HeaderMap,
    family: Option<FamilyKeySpec<'_>>,
    redaction: &Redaction,
) -> CacheKey {
    let mut text = String::with_capacity(128);
    text.push_str("GET ");
    text.push_str(target.scheme);
    text.push_str("://");
    text.push_str(&target.host);
    push_escaped(&mut text, target.sent_path().as_bytes());
    // As it is sent: what does not count in its family has been left out ([`QueryKeySpec::apply`]).
    if let Some(query) = &target.query {
        text.push('?');
        push_escaped(&mut text, query.as_bytes());
    }
    if target.case == PathCase::Insensitive {
        // Entries from before have tags in which case counts.
        text.push_str("\npath in any case");
    }
    if let Some(family) = family {
        let _ = write!(text, "\nfamily {} {}", family.name, family.version);
        for name in &family.key_spec.headers {
            push_field(&mut text, "header", name, headers, redaction);
        }
        for name in family.key_spec.other_cookies() {
            push_cookie(&mut text, name, headers, redaction);
        }
        if let Some(identity) = family.key_spec.identity_cookie().filter(|_| family.key_spec.cookies.is_none()) {
            push_cookies_beside(&mut text, identity, headers, redaction);
        }
        push_identity(&mut text, &family.key_spec.identity, headers, redaction.secret.as_ref());
    }
    finish(text, redaction.clone())
}

impl CacheKey {
    /// The key of its entry in Redis.
    pub fn key(&self) -> StoreKey {
        StoreKey::of(&self.text)
    }

    /// The text of one variant: this request with the fields that the stored response's `Vary` names
    /// (RFC 9111 §4.1). An absent field differs from an empty one.
    pub fn variant(&self, fields: &[HeaderName], headers: &HeaderMap) -> CacheKey {
        let mut text = self.text.clone();
        for name in fields {
            push_field(&mut text, "vary", name, headers, &self.redaction);
        }
        finish(text, self.redaction.clone())
    }
}

/// Fields that say what the bytes of a content mean (RFC 9110 §8).
static DESCRIBE_CONTENT: [HeaderName; 3] = [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE];

impl CacheKey {
    /// What the canonical text of one of this request's variants has beyond this one's; empty if it is none.
    pub fn suffix_of<'v>(&self, variant: &'v CacheKey) -> &'v str {
        variant.text.strip_prefix(self.text.as_str()).unwrap_or("")
    }

    /// The variant whose text has this suffix.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> CacheKey {
        finish(format!("{}{suffix}", self.text), self.redaction.clone())
    }

    /// The same request as a QUERY with this content: what it says, and in which form (`Content-Type` and the like),
    /// is part of the key.
    #[must_use]
    pub fn querying(self, content: &[u8], headers: &HeaderMap) -> CacheKey {
        // [`derive`] begins with the method.
        let mut text = format!("QUERY{}", self.text.strip_prefix("GET").unwrap_or(&self.text));
        let described = DESCRIBE_CONTENT.iter().filter(|name| headers.contains_key(*name));
        described.for_each(|name| push_field(&mut text, "content", name, headers, &self.redaction));
        text.push_str("\ncontent ");
        push_secret(&mut text, [content], self.redaction.secret.as_ref());
        finish(text, self.redaction)
    }

    /// The same request keyed on what a trusted proxy in front of Larder says of it, where that goes on to upstream.
    #[must_use]
    pub fn behind(self, forwarded: ForwardedPolicy, headers: &HeaderMap) -> CacheKey {
        let mut text = self.text;
        if forwarded == ForwardedPolicy::Append {
            let mut claims: SmallVec<[&HeaderName; 8]> =
                headers.keys().filter(|name| claims::is_keyed(name)).collect();
            claims.sort_unstable_by_key(|name| name.as_str());
            claims.into_iter().for_each(|name| push_field(&mut text, "front", name, headers, &self.redaction));
            if let Some(said) = claims::of_forwarded(headers) {
                text.push_str("\nfront forwarded: ");
                match said.len() > LONGEST_VALUE {
                    true => push_secret(&mut text, [said.as_slice()], self.redaction.secret.as_ref()),
                    false => push_escaped(&mut text, &said),
                }
            }
        }
        finish(text, self.redaction)
    }
}

fn finish(text: String, redaction: Redaction) -> CacheKey {
    let hash = KeyHash::of(&text);
    CacheKey { text, hash, redaction }
}

/// Longer field values, bytes, stand in a key as their hash: what is known of the variants of a response holds the values
/// of all of them, and clients choose how long these are. Shorter than a hash is written, so that no value reads like one.
const LONGEST_VALUE: usize = 64;

fn push_field(text: &mut String, kind: &str, name: &HeaderName, headers: &HeaderMap, redaction: &Redaction) {
    let _ = write!(text, "\n{kind} {name}");
    let lines = headers.get_all(name);
    let mut values = lines.iter().peekable();
    // No colon at all when the field is absent: absent and empty are different (RFC 9111 §4.1).
    if values.peek().is_none() {
        return;
    }
    text.push(':');
    if redaction.hides(name) {
        text.push(' ');
        push_secret(text, values.map(HeaderValue::as_bytes), redaction.secret.as_ref());
        return;
    }
    if lines.iter().map(|value| value.len() + 2).sum::<usize>() > LONGEST_VALUE + 2 {
        text.push(' ');
        // Lines of one field are one value (RFC 9110 §5.3), long or short.
        push_secret(text, join(values.map(HeaderValue::as_bytes)).as_deref(), redaction.secret.as_ref());
        return;
    }
    for (index, value) in values.enumerate() {
        text.push_str(if index == 0 { " " } else { ", " });
        push_escaped(text, value.as_bytes());
    }
}

/// A cookie that is absent differs from an empty one.
fn push_cookie(text: &mut String, name: &str, headers: &HeaderMap, redaction: &Redaction) {
    let _ = write!(text, "\ncookie {name}");
    let values = cookie(headers, name);
    if !values.is_empty() {
        text.push_str(": ");
        push_secret(text, values, redaction.secret.as_ref());
    }
}

/// The cookies that are sent beside the one that tells callers apart, where the family does not say which count.
fn push_cookies_beside(text: &mut String, identity: &str, headers: &HeaderMap, redaction: &Redaction) {
    let others: Vec<&[u8]> =
        cookies(headers).filter(|(name, _)| *name != identity.as_bytes()).map(|(_, pair)| pair).collect();
    if !others.is_empty() {
        text.push_str("\ncookies: ");
        push_secret(text, others, redaction.secret.as_ref());
    }
}

fn push_identity(text: &mut String, identity: &Identity, headers: &HeaderMap, secret: Option<&Secret>) {
    match identity {
        Identity::Unstated | Identity::Shared => return,
        Identity::Header(_) | Identity::Cookie(_) => {
            let _ = write!(text, "\nidentity {identity}");
        }
    }
    text.push(' ');
    match identity {
        Identity::Header(name) => match join(headers.get_all(name).iter().map(HeaderValue::as_bytes)) {
            Some(value) => push_secret(text, [value.as_slice()], secret),
            None => text.push_str(ANONYMOUS),
        },
        Identity::Cookie(name) if has_cookie(headers, name) => push_secret(text, cookie(headers, name), secret),
        Identity::Unstated | Identity::Shared | Identity::Cookie(_) => text.push_str(ANONYMOUS),
    }
}

/// Stands for the identity of a request without any.
const ANONYMOUS: &str = "anonymous";

/// Who asks, as it stands in tags: the digest of what tells callers apart. None if nothing does, or for a request without
/// it.
pub fn caller(identity: &Identity, headers: &HeaderMap, secret: Option<&Secret>) -> Option<String> {
    if !matches!(identity, Identity::Header(_) | Identity::Cookie(_)) {
        return None;
    }
    let mut text = String::new();
    push_identity(&mut text, identity, headers, secret);
    text.rsplit(' ').next().filter(|caller| *caller != ANONYMOUS).map(str::to_owned)
}

fn join<'v>(values: impl Iterator<Item = &'v [u8]>) -> Option<Vec<u8>> {
    values.map(<[u8]>::to_vec).reduce(|mut all, next| {
        all.extend_from_slice(b", ");
        all.extend_from_slice(&next);
        all
    })
}

/// Whether a request has this cookie, with a value.
pub fn has_cookie(headers: &HeaderMap, name: &str) -> bool {
    headers.contains_key(COOKIE) && cookie(headers, name).iter().any(|value| !value.is_empty())
}

/// All values of a cookie. A name sent twice is not reduced to one of them: upstream may read either.
fn cookie<'f>(headers: &'f HeaderMap, name: &str) -> SmallVec<[&'f [u8]; 2]> {
    let pairs = cookies(headers).filter(|(known, _)| *known == name.as_bytes());
    pairs.map(|(_, pair)| value_of(pair)).collect()
}

/// The cookies of a request: the name of each, and the pair that it is. Servers differ in whether they trim around `=`: a name
/// that some of them read counts.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = headers.get_all(COOKIE).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).map(|pair| {
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(0);
        (pair[..end].trim_ascii(), pair)
    })
}

fn value_of(pair: &[u8]) -> &[u8] {
    let begin = pair.iter().position(|byte| *byte == b'=').map_or(0, |equals| equals + 1);
    pair[begin..].trim_ascii()
}

/// Credentials never stand in a key, in Redis or in a log: their HMAC-SHA256 does, or without a secret their SHA-256. (Not
/// MD5: whoever can make two tokens with one digest must not be able to merge two callers.)
fn push_secret<'v>(text: &mut String, values: impl IntoIterator<Item = &'v [u8]>, secret: Option<&Secret>) {
    match secret {
        Some(secret) => {
            let mut hmac = secret.of_field();
            update_with(values, |bytes| hmac.update(bytes));
            push_digest(text, "hmac-sha256:", &hmac.finalize().into_bytes());
        }
        None => {
            let mut hash = Sha256::new();
            update_with(values, |bytes| Digest::update(&mut hash, bytes));
            push_digest(text, "sha256:", &hash.finalize());
        }
    }
}

/// The length goes before each value, so that a list of values has one reading.
fn update_with<'v>(values: impl IntoIterator<Item = &'v [u8]>, mut update: impl FnMut(&[u8])) {
    for value in values {
        update(&(value.len() as u64).to_be_bytes());
        update(value);
    }
}

fn push_digest(text: &mut String, kind: &str, digest: &[u8]) {
    text.push_str(kind);
    for byte in digest {
        let _ = write!(text, "{byte:02x}");
    }
}

fn push_escaped(text: &mut String, bytes: &[u8]) {
    if let Ok(plain) = std::str::from_utf8(bytes)
        && bytes.iter().all(|byte| (b' '..=b'~').contains(byte) && *byte != b'\\')
    {
        text.push_str(plain);
        return;
    }
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;
    use proptest::prelude::*;

    use super::*;

    fn derive(target: &Target, headers: &HeaderMap, family: Option<FamilyKeySpec<'_>>) -> CacheKey {
        super::derive(target, headers, family, &Redaction::default())
    }

    fn target(path: &str, query: Option<&str>) -> Target {
        let (path, query) = (path.into(), query.map(Into::into));
        Target { scheme: "http", host: "h".into(), path, query, ..Target::default() }
    }

    fn keyed(key_spec: &KeySpec, query: &str, headers: &HeaderMap) -> String {
        let family = FamilyKeySpec { name: "f", version: "1", key_spec };
        derive(&target("/p", Some(query)), headers, Some(family)).text
    }

    #[test]
    fn a_plain_request_reads_as_a_request_line() {
        let cache_key = derive(&target("/a", Some("b=1")), &HeaderMap::new(), None);
        assert_eq!(cache_key.text, "GET http://h/a?b=1");
        assert_eq!(cache_key.key().to_string(), "713393147de85d06fa204fee6f103c95");
    }

    #[test]
    fn a_query_is_keyed_as_it_is_sent() {
        let text_of = |query| derive(&target("/p", Some(query)), &HeaderMap::new(), None).text;
        assert_eq!(text_of("b=2&a=9&b=1"), "GET http://h/p?b=2&a=9&b=1");
        assert_eq!(text_of(""), "GET http://h/p?");
    }

    #[test]
    fn a_cookie_with_blanks_around_its_name_is_not_anonymous() {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("sid =evil"));
        let by_cookie = KeySpec { identity: Identity::Cookie("sid".into()), ..KeySpec::default() };
        assert!(!keyed(&by_cookie, "", &headers).ends_with("anonymous"));
    }

    #[test]
    fn what_a_trusted_proxy_says_is_keyed_only_when_it_goes_on() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        let cache_key = derive(&target("/", None), &headers, None);
        assert_eq!(cache_key.clone().behind(ForwardedPolicy::Set, &headers), cache_key);
        let behind = cache_key.clone().behind(ForwardedPolicy::Append, &headers).text;
        assert!(behind.ends_with("front x-forwarded-proto: https"), "{behind}");
        headers.insert("front-end-https", HeaderValue::from_static("on"));
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        headers.insert("forwarded", HeaderValue::from_static("for=192.0.2.1;host=a;proto=https"));
        let behind = cache_key.behind(ForwardedPolicy::Append, &headers).text;
        let said =
            "front front-end-https: on\nfront x-forwarded-proto: https\nfront forwarded: host=a;proto=https";
        assert!(behind.ends_with(said), "{behind}");
    }

    #[test]
    fn absent_and_empty_fields_differ() {
        let cache_key = derive(&target("/", None), &HeaderMap::new(), None);
        let fields = [HeaderName::from_static("accept-language")];
        let absent = cache_key.variant(&fields, &HeaderMap::new());
        let mut headers = HeaderMap::new();
        headers.insert("accept-language", HeaderValue::from_static(""));
        assert_ne!(absent.text, cache_key.variant(&fields, &headers).text);
    }

    #[test]
    fn credentials_do_not_stand_in_the_text_and_tell_callers_apart() {
        let by_header = KeySpec { identity: Identity::Header(AUTHORIZATION), ..KeySpec::default() };
        let text_of = |token: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(token));
            keyed(&by_header, "", &headers)
        };
        assert!(!text_of("Bearer s3cret").contains("s3cret"));
        assert_ne!(text_of("Bearer a"), text_of("Bearer b"));
        assert!(keyed(&by_header, "", &HeaderMap::new()).ends_with("anonymous"));
    }

    #[test]
    fn with_a_secret_credentials_stand_as_hmacs_under_that_secret() {
        let by_header = KeySpec { identity: Identity::Header(AUTHORIZATION), ..KeySpec::default() };
        let family = FamilyKeySpec { name: "f", version: "1", key_spec: &by_header };
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, HeaderValue::from_static("Bearer a")),
            (HeaderName::from_static("x-api-key"), HeaderValue::from_static("b")),
        ]);
        let text_of = |secret: Option<&str>| {
            let redaction =
                Redaction { secret: secret.map(|secret| Secret::new(secret, "shop")), ..Redaction::default() };
            let cache_key = super::derive(&target("/", None), &headers, Some(family), &redaction);
            let variant = cache_key.variant(&[HeaderName::from_static("x-api-key")], &headers);
            assert_eq!(cache_key.with_suffix(cache_key.suffix_of(&variant)).hash, variant.hash);
            variant.querying(b"content", &headers).text
        };
        let (bare, one, other) = (text_of(None), text_of(Some("one")), text_of(Some("other")));
        assert!(bare.matches(" sha256:").count() == 3 && !bare.contains("hmac"), "{bare}");
        assert!(one.matches(" hmac-sha256:").count() == 3 && !one.contains(" sha256:"), "{one}");
        for (line, same) in one.lines().zip(other.lines()).map(|(one, other)| (one, one == other)) {
            assert_eq!(line.contains("hmac"), !same, "{line}");
        }
    }

    fn varying(name: &'static str, lines: &[&[u8]]) -> String {
        let name = HeaderName::from_static(name);
        let line = |line: &&[u8]| (name.clone(), HeaderValue::from_bytes(line).unwrap());
        let headers = lines.iter().map(line).collect();
        derive(&target("/", None), &HeaderMap::new(), None).variant(std::slice::from_ref(&name), &headers).text
    }

    #[test]
    fn fields_that_are_credentials_by_their_name_never_stand_in_the_text() {
        for name in ["authorization", "cookie", "x-api-key", "x-xsrf-token", "cf-access-jwt-assertion"] {
            assert!(!varying(name, &[b"s3cret"]).contains("s3cret"), "{name}");
            assert_ne!(varying(name, &[b"a"]), varying(name, &[b"b"]), "{name}");
        }
        let keyed_on = KeySpec { headers: vec![HeaderName::from_static("x-api-key")], ..KeySpec::default() };
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static("s3cret"));
        assert!(!keyed(&keyed_on, "", &headers).contains("s3cret"));
        let further = HeaderName::from_static("acme-caller");
        headers.insert(further.clone(), HeaderValue::from_static("s3cret"));
        let redaction = Redaction { secret: None, further: Some([further.clone()].into()) };
        let text =
            super::derive(&target("/", None), &headers, None, &redaction).variant(&[further], &headers).text;
        assert!(text.contains("acme-caller: sha256:"), "{text}");
    }

    #[test]
    fn cookies_that_count_are_part_of_the_key() {
        let key_spec = KeySpec {
            cookies: Some(vec!["theme".into(), "sid".into()]),
            identity: Identity::Cookie("sid".into()),
            ..KeySpec::default()
        };
        let text_of = |cookies: &'static str| {
            let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_static(cookies))]);
            keyed(&key_spec, "", &headers)
        };
        assert_eq!(text_of("sid=1; theme=dark"), text_of("theme=dark; other=1; sid=1"));
        let texts = ["sid=1; theme=dark", "sid=1; theme=light", "sid=1; theme=", "sid=1", "theme=dark", "sid=2"]
            .map(text_of);
        let distinct: std::collections::HashSet<_> = texts.iter().collect();
        assert_eq!(distinct.len(), texts.len());
        assert!(!texts[0].contains("dark"), "{}", texts[0]);
    }

    #[test]
    fn long_values_do_not_make_long_texts() {
        let (long, other) = ("a".repeat(60_000), "a".repeat(60_001));
        assert!(varying("x", &[long.as_bytes()]).len() < 120);
        assert_ne!(varying("x", &[long.as_bytes()]), varying("x", &[other.as_bytes()]));
        let longest = "a".repeat(LONGEST_VALUE);
        assert!(varying("x", &[longest.as_bytes()]).ends_with(&longest));
        assert!(!varying("x", &[longest.as_bytes(), b"a"]).contains(&longest));
    }

    proptest! {
        #[test]
        fn values_share_a_text_exactly_if_they_are_the_same(
            one in proptest::collection::vec("[ -~\u{e4}]{0,50}", 1..4),
            other in proptest::collection::vec("[ -~\u{e4}]{0,50}", 1..4),
        ) {
            let text = |lines: &[String]| varying("x", &lines.iter().map(String::as_bytes).collect::<Vec<_>>());
            prop_assert_eq!(text(&one) == text(&other), one.join(", ") == other.join(", "));
            // Lines of one field are one value.
            prop_assert_eq!(text(&one), text(&[one.join(", ")]));
        }
    }

    #[test]
    fn a_cookie_sent_twice_is_its_own_identity() {
        let by_cookie = KeySpec { identity: Identity::Cookie("sid".into()), ..KeySpec::default() };
        let alone = KeySpec { cookies: Some(Vec::new()), ..by_cookie.clone() };
        let text_of = |key_spec: &KeySpec, cookies: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_static(cookies));
            keyed(key_spec, "", &headers)
        };
        for key_spec in [&by_cookie, &alone] {
            assert_ne!(text_of(key_spec, "sid=a"), text_of(key_spec, "sid=a; sid=b"));
            assert_ne!(text_of(key_spec, "sid=b"), text_of(key_spec, "sid=a; sid=b"));
            assert_ne!(text_of(key_spec, "sid=a; sid=b"), text_of(key_spec, "sid=a, b"));
            assert_eq!(text_of(key_spec, "sid="), text_of(key_spec, ""));
        }
        assert_eq!(text_of(&alone, "x=1; sid=a"), text_of(&alone, "sid=a; y=2"));
        // They are sent.
        assert_eq!(text_of(&by_cookie, "x=1; sid=a"), text_of(&by_cookie, "sid=a; x=1"));
        assert_ne!(text_of(&by_cookie, "x=1; sid=a"), text_of(&by_cookie, "x=2; sid=a"));
    }

    #[test]
    fn bytes_outside_ascii_are_escaped_without_ambiguity() {
        let cache_key = derive(&target("/", None), &HeaderMap::new(), None);
        let fields = [HeaderName::from_static("x")];
        let text_of = |bytes: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("x", HeaderValue::from_bytes(bytes).unwrap());
            cache_key.variant(&fields, &headers).text
        };
        assert_ne!(text_of(b"\xff"), text_of(b"\\xff"));
    }
}
