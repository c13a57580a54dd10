//! Canonical request text, and its hashes [`StoreKey`] and [`KeyHash`]. Two requests share an entry exactly if their
//! canonical texts are equal: the hash finds the entry, and a hit compares the text, so a collision is a miss. In
//! Redis the hash is MD5, which is the same for every proxy; in memory it is SipHash, which is faster and
//! unpredictable from outside the process.
//!
//! The text consists of lines that are readable in `larder explain` and in a debugger:
//!
//! ```text
//! GET http://api.example.com/v1.0/users?page=2&sort=name
//! family user_list 5f1c09aa
//! header accept-language: de
//! identity header:authorization hmac-sha256:9b74c989…
//! vary accept-encoding: gzip
//! ```
//!
//! Credentials and long field values are replaced by their HMAC-SHA256 or, without `[store] secret`, by their
//! SHA-256. A reader of Redis can test guesses against a SHA-256: it hides random values (tokens, session ids), but
//! not short ones (passwords, PINs).
//!
//! No part contains a line break (field values cannot, targets are normalised), and bytes outside printable ASCII are
//! escaped, so different requests have different texts.

use std::fmt::{self, Write};
use std::hash::Hasher;
use std::sync::{Arc, LazyLock};

use hmac::Mac;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use md5::{Digest, Md5};
use sha2::Sha256;
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use crate::bearer::{BearerToken, texts_of_claim};
use crate::hexadecimal::hexadecimal;
use crate::http::headers::credentials::is_in_table;
use crate::http::headers::{ForwardedPolicy, claims};
use crate::http::target::{PathCase, Target};
use crate::secret::Secret;

mod identity;
pub mod query;
mod shown;

pub use identity::{CallerSource, Identity};
pub use query::{Parameters, QueryKeySpec};
pub use shown::{shown_caller, shown_tag, shown_text};

/// MD5 of a canonical request text: the last part of an entry's key in Redis.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreKey(pub [u8; 16]);

impl StoreKey {
    /// The key of a canonical request text.
    pub fn of(text: &str) -> StoreKey {
        StoreKey(Md5::digest(text.as_bytes()).into())
    }
}

/// SipHash-1-3-128 of a canonical request text, keyed per process: the key in memory. 128 bits, so that equal hashes
/// mean equal texts where texts are not compared.
///
/// Aligned to eight bytes: with sixteen, each place in L1 would have eight bytes of padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(Rust, packed(8))]
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
        f.write_str(&hexadecimal(&self.0))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which values a key must not contain verbatim, and how it hides them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redaction {
    /// Keys the HMACs; `None` for plain hashes.
    pub secret: Option<Secret>,
    /// Credential fields in addition to the known ones ([`crate::http::headers::credentials`]); `None` for none.
    pub further: Option<Arc<[HeaderName]>>,
}

impl Redaction {
    fn hides(&self, name: &HeaderName) -> bool {
        is_in_table(name) || self.further.as_ref().is_some_and(|further| further.contains(name))
    }
}

/// The parts of a request, besides method, host and path, that belong to its cache key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeySpec {
    /// The query parameters.
    pub query: QueryKeySpec,
    /// The request fields, in lower case, in the order of the rules file.
    pub headers: Vec<HeaderName>,
    /// The cookies, which are then the only ones forwarded. `None`: all are forwarded, and belong to the key as
    /// `identity` says.
    pub cookies: Option<Vec<String>>,
    /// How callers are identified.
    pub identity: Identity,
}

impl KeySpec {
    /// The cookies in the key other than those that identify callers.
    fn other_cookies(&self) -> impl Iterator<Item = &str> {
        let names = self.cookies.iter().flatten().map(String::as_str);
        names.filter(|name| !self.identity.cookies().any(|identity| identity == *name))
    }

    /// Whether nothing of a request but its target is part of the key.
    pub fn is_of_target_alone(&self) -> bool {
        self.headers.is_empty() && self.cookies.is_none() && self.identity.sources().is_empty()
    }

    /// Whether the whole field is part of the key.
    pub fn keys_on(&self, name: &HeaderName) -> bool {
        self.headers.contains(name) || self.identity.is_by_field(name)
    }

    /// Whether the key covers the identity in this field, or the family needs none.
    pub fn knows(&self, name: &HeaderName) -> bool {
        let by_cookies = self.cookies.is_some() || self.identity.cookies().next().is_some();
        self.identity == Identity::Shared
            || self.keys_on(name)
            || by_cookies && *name == COOKIE
            || self.identity.is_by_claims() && *name == AUTHORIZATION
    }
}

/// The credentials that a request presents.
#[derive(Debug, Clone, Copy)]
pub struct PresentedCredentials<'r> {
    /// The fields of the request.
    pub fields: &'r HeaderMap,
    /// Its bearer token. [`BearerToken::Absent`] where no family identifies callers by claims.
    pub bearer: &'r BearerToken,
}

impl<'r> PresentedCredentials<'r> {
    /// Of a request whose bearer token nothing depends on.
    pub fn without_token(fields: &'r HeaderMap) -> PresentedCredentials<'r> {
        PresentedCredentials { fields, bearer: &BearerToken::Absent }
    }
}

/// A canonical request text and its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheKey {
    /// The text.
    pub text: String,
    /// Its hash.
    pub hash: KeyHash,
    /// What the texts of its variants must hide.
    pub redaction: Redaction,
}

/// A family's part of the text: its name, the digest of its definition, and its key settings.
#[derive(Debug, Clone, Copy)]
pub struct FamilyKeySpec<'a> {
    /// The family's name.
    pub name: &'a str,
    /// Changes with the family's definition.
    pub definition: &'a str,
    /// The parts of the request in the key.
    pub key_spec: &'a KeySpec,
}

/// The cache key of a GET or HEAD, by its family if it has one. `presented` holds its fields. `redaction` says which values to
/// hide.
pub fn derive(
    target: &Target,
    presented: PresentedCredentials<'_>,
    family: Option<FamilyKeySpec<'_>>,
    redaction: &Redaction,
) -> CacheKey {
    let headers = presented.fields;
    let mut text = String::with_capacity(128);
    text.push_str("GET ");
    text.push_str(target.scheme);
    text.push_str("://");
    text.push_str(&target.host);
    push_escaped_text(&mut text, target.sent_path());
    // As forwarded: [`QueryKeySpec::normalise`] has removed what the family ignores.
    if let Some(query) = &target.query {
        text.push('?');
        push_escaped_text(&mut text, query);
    }
    if target.case == PathCase::Insensitive {
        // Older entries have tags in which case matters.
        text.push_str("\npath in any case");
    }
    if let Some(family) = family {
        ["\nfamily ", family.name, " ", family.definition].iter().for_each(|part| text.push_str(part));
        for name in &family.key_spec.headers {
            push_field(&mut text, "header", name, headers, redaction);
        }
        for name in family.key_spec.other_cookies() {
            push_cookie(&mut text, name, headers, redaction);
        }
        let identity = &family.key_spec.identity;
        if family.key_spec.cookies.is_none() && identity.cookies().next().is_some() {
            push_cookies_beside(&mut text, identity, headers, redaction);
        }
        for source in identity.sources() {
            push_identity(&mut text, source, presented, redaction.secret.as_ref());
        }
    }
    finish(text, redaction.clone())
}

impl CacheKey {
    /// Its key in Redis.
    pub fn key(&self) -> StoreKey {
        StoreKey::of(&self.text)
    }

    /// The same in this version of the cache (`[store] version`).
    #[must_use]
    pub fn of_version(self, version: &str) -> CacheKey {
        finish(format!("{}\nversion {version}", self.text), self.redaction)
    }

    /// The cache key of a variant: the text extended by the fields that the stored response's `Vary` names (RFC 9111
    /// §4.1). An absent field differs from an empty one.
    pub fn variant(&self, fields: &[HeaderName], headers: &HeaderMap) -> CacheKey {
        let mut text = self.text.clone();
        for name in fields {
            push_field(&mut text, "vary", name, headers, &self.redaction);
        }
        finish(text, self.redaction.clone())
    }
}

/// Fields that describe the content (RFC 9110 §8).
static DESCRIBE_CONTENT: [HeaderName; 3] = [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE];

impl CacheKey {
    /// The part of a variant's text after this text; empty if it is no variant of this request.
    pub fn suffix_of<'v>(&self, variant: &'v CacheKey) -> &'v str {
        variant.text.strip_prefix(self.text.as_str()).unwrap_or("")
    }

    /// The variant with this suffix.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> CacheKey {
        finish(format!("{}{suffix}", self.text), self.redaction.clone())
    }

    /// The cache key of the same request as a QUERY, or a POST that is a read, with this content. The method, the
    /// content and the fields that describe it are part of the key.
    #[must_use]
    pub fn querying(self, method: &Method, content: &[u8], headers: &HeaderMap) -> CacheKey {
        // [`derive`] begins with the method.
        let mut text = format!("{method}{}", self.text.strip_prefix("GET").unwrap_or(&self.text));
        let described = DESCRIBE_CONTENT.iter().filter(|name| headers.contains_key(*name));
        described.for_each(|name| push_field(&mut text, "content", name, headers, &self.redaction));
        text.push_str("\ncontent ");
        push_secret(&mut text, [content], self.redaction.secret.as_ref());
        finish(text, self.redaction)
    }

    /// The cache key of the verdict on a caller with these credentials.
    #[must_use]
    pub fn of_caller(self, credentials: &HeaderMap) -> CacheKey {
        let mut text = self.text;
        text.push_str("\nidentity credentials ");
        let mut names: SmallVec<[&HeaderName; 4]> = credentials.keys().collect();
        names.sort_unstable_by_key(|name| name.as_str());
        let parts = names.iter().flat_map(|name| {
            credentials.get_all(*name).iter().flat_map(|value| [name.as_str().as_bytes(), value.as_bytes()])
        });
        match names.is_empty() {
            true => text.push_str(ANONYMOUS),
            false => push_secret(&mut text, parts, self.redaction.secret.as_ref()),
        }
        finish(text, self.redaction)
    }

    /// The same request with what a trusted proxy in front says of it, if that is forwarded to upstream.
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

/// Longer field values, in bytes, are replaced by their hash: the vary index holds the values of all variants, and
/// clients choose their length. Shorter than a written hash, so that no value can imitate one.
const LONGEST_VALUE: usize = 64;

fn push_field(text: &mut String, kind: &str, name: &HeaderName, headers: &HeaderMap, redaction: &Redaction) {
    let _ = write!(text, "\n{kind} {name}");
    let lines = headers.get_all(name);
    let mut values = lines.iter().peekable();
    // Without a colon if the field is absent: absent and empty differ (RFC 9111 §4.1).
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
        // The lines of a field are one value (RFC 9110 §5.3).
        push_secret(text, join(values.map(HeaderValue::as_bytes)).as_deref(), redaction.secret.as_ref());
        return;
    }
    for (index, value) in values.enumerate() {
        text.push_str(if index == 0 { " " } else { ", " });
        push_escaped(text, value.as_bytes());
    }
}

/// An absent cookie differs from an empty one.
fn push_cookie(text: &mut String, name: &str, headers: &HeaderMap, redaction: &Redaction) {
    let _ = write!(text, "\ncookie {name}");
    let values = cookie(headers, name);
    if !values.is_empty() {
        text.push_str(": ");
        push_secret(text, values, redaction.secret.as_ref());
    }
}

/// The cookies other than those that identify callers, if the family does not list cookies.
fn push_cookies_beside(text: &mut String, identity: &Identity, headers: &HeaderMap, redaction: &Redaction) {
    let is_identity = |name: &[u8]| identity.cookies().any(|known| known.as_bytes() == name);
    let others: Vec<&[u8]> =
        cookies(headers).filter(|(name, _)| !is_identity(name)).map(|(_, pair)| pair).collect();
    if !others.is_empty() {
        text.push_str("\ncookies: ");
        push_secret(text, others, redaction.secret.as_ref());
    }
}

/// One line for each source, so that a credential of one kind cannot imitate one of another.
fn push_identity(
    text: &mut String,
    source: &CallerSource,
    presented: PresentedCredentials<'_>,
    secret: Option<&Secret>,
) {
    let _ = write!(text, "\nidentity {source} ");
    match source {
        CallerSource::Header(name) => {
            match join(presented.fields.get_all(name).iter().map(HeaderValue::as_bytes)) {
                Some(value) => push_secret(text, [value.as_slice()], secret),
                None => text.push_str(ANONYMOUS),
            }
        }
        CallerSource::Cookie(name) if has_cookie(presented.fields, name) => {
            push_secret(text, cookie(presented.fields, name), secret);
        }
        CallerSource::Cookie(_) => text.push_str(ANONYMOUS),
        CallerSource::Claims(names) => match presented.bearer {
            BearerToken::Absent => text.push_str(ANONYMOUS),
            BearerToken::Refused(_) => text.push_str(REFUSED),
            BearerToken::Verified(token) => match token.values(names) {
                Ok(values) => push_secret(text, values.iter().map(String::as_bytes), secret),
                Err(_) => text.push_str(REFUSED),
            },
        },
    }
}

/// The identity of a request without one.
const ANONYMOUS: &str = "anonymous";

/// The identity of a request whose bearer token does not identify the caller. Nothing is ever stored or served under it.
const REFUSED: &str = "refused";

/// Whose entries a request reads or invalidates in a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callers {
    /// Those with these digests, one for each credential that the request presents, or several where a claim is a list; none if it
    /// presents none, or the family does not identify callers.
    Known(SmallVec<[String; 1]>),
    /// Unknown, since the bearer token is not valid.
    Unverified,
}

/// The callers that a request names, as written in tags.
pub fn callers(identity: &Identity, presented: PresentedCredentials<'_>, secret: Option<&Secret>) -> Callers {
    if identity.fault_of(presented.bearer).is_some() {
        return Callers::Unverified;
    }
    let mut known = SmallVec::new();
    for source in identity.sources() {
        match source {
            CallerSource::Header(name) if *name == AUTHORIZATION => {
                let value = join(presented.fields.get_all(name).iter().map(HeaderValue::as_bytes));
                known.extend(value.map(|value| digest(&[canonical_authorization(&value)], secret)));
            }
            CallerSource::Claims(names) => {
                let BearerToken::Verified(token) = presented.bearer else { continue };
                let callers = token.callers(names).unwrap_or_default();
                known.extend(callers.into_iter().map(|texts| {
                    let texts: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
                    digest(&texts, secret)
                }));
            }
            source => {
                let mut text = String::new();
                push_identity(&mut text, source, presented, secret);
                known.extend(text.rsplit(' ').next().filter(|caller| *caller != ANONYMOUS).map(str::to_owned));
            }
        }
    }
    Callers::Known(known)
}

/// The callers whose only claim has this plain value ([`Identity::is_one_claim`]), or is a list with it, as [`callers`] names them.
pub fn callers_of_claim(value: &str, secret: Option<&Secret>) -> SmallVec<[String; 2]> {
    texts_of_claim(value).into_iter().map(|text| digest(&[text.into_bytes()], secret)).collect()
}

/// Most credentials of a caller that are told apart: fields, and cookies.
pub const CREDENTIALS: usize = 32;

/// A digest for each of a caller's credentials, as they are written in tags: for each field, and for each cookie, since one
/// session may come with different other cookies. `None` if there are more than [`CREDENTIALS`]. `fields` are those with credentials.
pub fn credentials(fields: &HeaderMap, secret: Option<&Secret>) -> Option<Vec<String>> {
    let mut parts: Vec<[Vec<u8>; 2]> =
        cookies(fields).map(|(name, pair)| [[b"cookie:", name].concat(), value_of(pair).to_vec()]).collect();
    for name in fields.keys().filter(|name| **name != COOKIE) {
        let value = join(fields.get_all(name).iter().map(HeaderValue::as_bytes)).unwrap_or_default();
        let value = if *name == AUTHORIZATION { canonical_authorization(&value) } else { value };
        parts.push([name.as_str().as_bytes().to_vec(), value]);
    }
    (parts.len() <= CREDENTIALS).then(|| parts.iter().map(|part| digest(part, secret)).collect())
}

/// `Authorization` with its scheme as it is usually written and one space after it: a write may have the same credentials in another
/// spelling (RFC 9110 §11.1: schemes are case-insensitive). Keys keep the spellings apart, since upstream may not.
fn canonical_authorization(value: &[u8]) -> Vec<u8> {
    let value = value.trim_ascii();
    let Some(end) = value.iter().position(u8::is_ascii_whitespace) else { return value.to_vec() };
    let (scheme, credentials) = (value[..end].to_ascii_lowercase(), value[end..].trim_ascii_start());
    let mut canonical = scheme;
    canonical[..1].make_ascii_uppercase();
    canonical.push(b' ');
    canonical.extend_from_slice(credentials);
    canonical
}

fn digest(values: &[Vec<u8>], secret: Option<&Secret>) -> String {
    let mut text = String::with_capacity(80);
    push_secret(&mut text, values.iter().map(Vec::as_slice), secret);
    text
}

fn join<'v>(values: impl Iterator<Item = &'v [u8]>) -> Option<Vec<u8>> {
    values.map(<[u8]>::to_vec).reduce(|mut all, next| {
        all.extend_from_slice(b", ");
        all.extend_from_slice(&next);
        all
    })
}

/// Whether a request has this cookie with a non-empty value.
pub fn has_cookie(headers: &HeaderMap, name: &str) -> bool {
    headers.contains_key(COOKIE) && cookie(headers, name).iter().any(|value| !value.is_empty())
}

/// All values of a cookie. A repeated name keeps all values, since upstream may use any.
fn cookie<'f>(headers: &'f HeaderMap, name: &str) -> SmallVec<[&'f [u8]; 2]> {
    let pairs = cookies(headers).filter(|(known, _)| *known == name.as_bytes());
    pairs.map(|(_, pair)| value_of(pair)).collect()
}

/// The name and the pair of each cookie in a request. Servers differ in whether they trim around `=`, so a name
/// counts if any server reads it.
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

/// Credentials never occur in a key, in Redis or in a log: their HMAC-SHA256 does or, without a secret, their
/// SHA-256. (Not MD5: an attacker with two colliding tokens must not merge two callers.)
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

/// The length precedes each value, so that a list of values is unambiguous.
fn update_with<'v>(values: impl IntoIterator<Item = &'v [u8]>, mut update: impl FnMut(&[u8])) {
    for value in values {
        update(&(value.len() as u64).to_be_bytes());
        update(value);
    }
}

fn push_digest(text: &mut String, kind: &str, digest: &[u8]) {
    text.push_str(kind);
    text.push_str(&hexadecimal(digest));
}

fn push_escaped(text: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(plain) => push_escaped_text(text, plain),
        Err(_) => push_each_escaped(text, bytes),
    }
}

fn push_escaped_text(text: &mut String, plain: &str) {
    // Without a branch per byte, so that it is vectorised.
    let is_plain = |all: bool, byte: &u8| all & (b' '..=b'~').contains(byte) & (*byte != b'\\');
    match plain.as_bytes().iter().fold(true, is_plain) {
        true => text.push_str(plain),
        false => push_each_escaped(text, plain.as_bytes()),
    }
}

fn push_each_escaped(text: &mut String, bytes: &[u8]) {
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
mod tests;
