//! Parses `Cache-Control` (RFC 9111 §5.2), once per message. Malformed input is read towards storing less and
//! shorter: a restricting directive applies even with an invalid argument, a permitting one does not. `no-store`,
//! `private` and `no-cache` apply wherever they occur outside of a quoted string, whatever surrounds them. A response
//! with a member that is no directive is not stored. A quoted string is its directive's argument (RFC 9110 §5.6.4),
//! not a directive: `ext="no-store"` forbids nothing, and `private="x-user"` concerns one field.

use std::borrow::Cow;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The value that replaces every greater one (RFC 9111 §1.2.2): over 68 years.
pub const MAX_SECONDS: u64 = 1 << 31;

/// A directive that may name fields: `no-cache`, `private`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// The directive is absent.
    #[default]
    Absent,
    /// The directive stands for the whole response.
    Whole,
    /// The directive concerns these fields only.
    Fields(Vec<HeaderName>),
}

/// Response directives, in seconds, at most [`MAX_SECONDS`]. Without `no-transform` (§5.2.2.6) and `immutable` (RFC
/// 8246), which have no effect here: Larder transforms no content, and validates a fresh response only at a client's
/// request, which RFC 8246 §2 allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDirectives {
    pub no_store: bool,
    pub no_cache: Scope,
    pub private: Scope,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
}

/// Request directives, in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    /// `Some(None)` accepts any staleness. An invalid number counts as no `max-stale`.
    pub max_stale: Option<Option<u64>>,
    pub min_fresh: Option<u64>,
    /// RFC 5861 §4.
    pub stale_if_error: Option<u64>,
}

impl ResponseDirectives {
    /// Parses all `Cache-Control` lines of a response: case-insensitive names, quoted and unquoted arguments, commas
    /// inside quotes. Of duplicates, the stricter wins; an invalid number makes the response stale (§4.2.1). A line
    /// with an unclosed quote or a member that is no directive counts as `no-store`, whatever `must-understand` says.
    pub fn parse(headers: &HeaderMap) -> ResponseDirectives {
        let mut parsed = ResponseDirectives::default();
        let mut unreadable = false;
        for member in headers.get_all(CACHE_CONTROL).iter().flat_map(|line| raw_members(line.as_bytes())) {
            match member {
                Ok(member) => unreadable |= !parsed.take_member(member),
                Err(Unclosed) => unreadable = true,
            }
        }
        if unreadable {
            parsed.no_store = true;
            parsed.must_understand = false;
        }
        parsed
    }

    /// Applies a member of the list. False if it may forbid storing in a way that is not understood.
    fn take_member(&mut self, member: &[u8]) -> bool {
        let directive = Directive::parse(member);
        self.take(&directive);
        let mut is_readable = directive.is_readable();
        for word in directive.stray_words(member) {
            if is_one_of(word, &FORBIDDING) {
                is_readable = false;
            }
            self.must_revalidate |= is_one_of(word, &[b"must-revalidate"]);
            self.proxy_revalidate |= is_one_of(word, &[b"proxy-revalidate"]);
        }
        is_readable
    }

    fn take(&mut self, directive: &Directive<'_>) {
        let argument = &directive.argument;
        match directive.lower_name().as_ref() {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.widen(argument),
            b"private" => self.private.widen(argument),
            b"public" => self.public |= argument.is_absent(),
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand |= argument.is_absent(),
            b"max-age" => self.max_age = shorter(self.max_age, argument.seconds().unwrap_or(0)),
            b"s-maxage" => self.s_maxage = shorter(self.s_maxage, argument.seconds().unwrap_or(0)),
            b"stale-while-revalidate" => {
                self.stale_while_revalidate = shorter_if_valid(self.stale_while_revalidate, argument.seconds());
            }
            b"stale-if-error" => {
                self.stale_if_error = shorter_if_valid(self.stale_if_error, argument.seconds());
            }
            // §5.2.3: unrecognised directives are ignored.
            _ => {}
        }
    }
}

/// The response directives that an operator may write, and whether each takes a number of seconds: RFC 9111 §5.2.2, RFC 5861,
/// RFC 8246.
static DIRECTIVES: [(&str, bool); 13] = [
    ("immutable", false),
    ("max-age", true),
    ("must-revalidate", false),
    ("must-understand", false),
    ("no-cache", false),
    ("no-store", false),
    ("no-transform", false),
    ("private", false),
    ("proxy-revalidate", false),
    ("public", false),
    ("s-maxage", true),
    ("stale-if-error", true),
    ("stale-while-revalidate", true),
];

/// The names of the response directives that an operator may write.
pub fn directive_names() -> impl Iterator<Item = &'static str> {
    DIRECTIVES.iter().map(|(name, _)| *name)
}

/// Whether a directive takes a number of seconds; `None` for an unknown one.
pub fn takes_seconds(name: &str) -> Option<bool> {
    DIRECTIVES.iter().find(|(known, _)| *known == name).map(|(_, seconds)| *seconds)
}

/// Why a `Cache-Control` that an operator has written is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrongDirective {
    /// It is no list of directives.
    Syntax,
    /// No response directive has this name.
    Unknown(String),
    /// This directive has an argument that it does not take, or lacks its number of seconds.
    Argument(String),
    /// This directive occurs twice.
    Twice(String),
}

/// The directives of a `Cache-Control` that an operator has written.
///
/// # Errors
///
/// A member is no response directive with an argument of its type, or occurs twice.
pub fn written(value: &str) -> Result<ResponseDirectives, WrongDirective> {
    let (mut directives, mut seen) = (ResponseDirectives::default(), Vec::new());
    for member in members(value.as_bytes()) {
        let directive = member.map_err(|Unclosed| WrongDirective::Syntax)?;
        let name = String::from_utf8_lossy(&directive.lower_name()).into_owned();
        if name.is_empty() {
            return Err(WrongDirective::Syntax);
        }
        let is_right = match takes_seconds(&name) {
            Some(true) => directive.argument.seconds().is_some(),
            Some(false) => directive.argument.is_absent(),
            None => return Err(WrongDirective::Unknown(name)),
        };
        if !is_right {
            return Err(WrongDirective::Argument(name));
        }
        if seen.contains(&name) {
            return Err(WrongDirective::Twice(name));
        }
        directives.take(&directive);
        seen.push(name);
    }
    if seen.is_empty() { Err(WrongDirective::Syntax) } else { Ok(directives) }
}

impl ResponseDirectives {
    /// Whether a cache that obeys these directives may use a response without asking: for how long, in seconds.
    pub fn unasked_for(&self) -> u64 {
        if self.no_store || self.no_cache.is_whole() {
            return 0;
        }
        self.max_age.max(self.s_maxage).unwrap_or(0)
    }
}

/// Directives that are implied by or meaningless beside `no-cache`.
static LESS_THAN_NO_CACHE: [&[u8]; 9] = [
    b"immutable",
    b"max-age",
    b"must-revalidate",
    b"no-cache",
    b"proxy-revalidate",
    b"public",
    b"s-maxage",
    b"stale-if-error",
    b"stale-while-revalidate",
];

/// The field for clients: `no-cache`, and the response's stricter directives. Unreadable input counts as `no-store`,
/// as in parsing.
pub fn for_clients(response: &HeaderMap) -> HeaderValue {
    told(response, b"no-cache", |name, is_readable| is_readable && !is_one_of(name, &LESS_THAN_NO_CACHE))
}

/// `first`, and the response's directives that `keeps` takes by their names and whether they can be read.
fn told(response: &HeaderMap, first: &[u8], keeps: impl Fn(&[u8], bool) -> bool) -> HeaderValue {
    let (mut told, mut all_readable) = (first.to_vec(), true);
    for member in response.get_all(CACHE_CONTROL).iter().flat_map(|line| raw_members(line.as_bytes())) {
        let Ok(member) = member else {
            all_readable = false;
            continue;
        };
        let is_readable = ResponseDirectives::default().take_member(member);
        all_readable &= is_readable;
        if keeps(&Directive::parse(member).lower_name(), is_readable) {
            told.extend([b", ", member].concat());
        }
    }
    if !all_readable {
        told.extend_from_slice(b", no-store");
    }
    HeaderValue::from_bytes(&told).unwrap_or(HeaderValue::from_static("no-store"))
}

/// Directives for shared caches, and `private`, which is written first.
static FOR_SHARED_CACHES: [&[u8]; 3] = [b"private", b"public", b"s-maxage"];

/// The field for clients of a response that shared caches must not store: `private`, and the response's directives but those for shared
/// caches. Unreadable input counts as `no-store`, as in parsing.
pub fn for_private_caches(response: &HeaderMap) -> HeaderValue {
    told(response, b"private", |name, _| !is_one_of(name, &FOR_SHARED_CACHES))
}

impl RequestDirectives {
    /// Parses all `Cache-Control` lines of a request, or `Pragma: no-cache` if there are none (§5.4). `no-store` and
    /// `no-cache` apply wherever they occur outside of a quoted string. With an unclosed quote, `no-store` applies,
    /// and permissions to serve stale do not.
    pub fn parse(headers: &HeaderMap) -> RequestDirectives {
        if !headers.contains_key(CACHE_CONTROL) {
            return RequestDirectives { no_cache: has_word(headers, &PRAGMA, b"no-cache"), ..Default::default() };
        }
        let mut parsed = RequestDirectives::of_lists(headers);
        parsed.no_store |= has_word(headers, &CACHE_CONTROL, b"no-store");
        parsed.no_cache |= has_word(headers, &CACHE_CONTROL, b"no-cache");
        parsed
    }

    fn of_lists(headers: &HeaderMap) -> RequestDirectives {
        let mut parsed = RequestDirectives::default();
        let lines = || headers.get_all(CACHE_CONTROL).iter().map(HeaderValue::as_bytes);
        let mut readable = true;
        for line in lines() {
            readable &= parsed.take_all(line);
        }
        if readable {
            return parsed;
        }
        // The lines of a field are one list (RFC 9110 §5.3), so a quote may close on another line.
        let mut joined = RequestDirectives::default();
        if joined.take_all(&lines().collect::<Vec<_>>().join(&b", "[..])) {
            return joined;
        }
        RequestDirectives { no_store: true, max_stale: None, stale_if_error: None, ..parsed }
    }

    /// Applies a list. False if a quote in it is not closed.
    fn take_all(&mut self, line: &[u8]) -> bool {
        members(line).fold(true, |readable, member| match member {
            Ok(directive) => {
                self.take(&directive);
                readable
            }
            Err(Unclosed) => false,
        })
    }

    fn take(&mut self, directive: &Directive<'_>) {
        let argument = &directive.argument;
        match directive.lower_name().as_ref() {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => self.max_age = shorter(self.max_age, argument.seconds().unwrap_or(0)),
            // Of two, the longer is stricter.
            b"min-fresh" => self.min_fresh = self.min_fresh.max(argument.seconds()),
            b"max-stale" => self.max_stale = less_stale(self.max_stale, argument),
            b"stale-if-error" => {
                self.stale_if_error = shorter_if_valid(self.stale_if_error, argument.seconds());
            }
            _ => {}
        }
    }
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    headers.get_all(name).iter().flat_map(|line| words(line.as_bytes())).any(|known| is_one_of(known, &[word]))
}

/// Directives that forbid serving the stored response to everyone without validation.
const FORBIDDING: [&[u8]; 3] = [b"no-store", b"private", b"no-cache"];

/// Whether it equals one of these words, ignoring case.
pub(super) fn is_one_of(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// The words of a text: letters, digits, `-` and `_`. Everything else separates them, even characters of tokens (`|`,
/// `'`, `+` …). Skips quoted strings, unless the closing quote is missing.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while let Some(first) = rest.first() {
            if is_word_byte(*first) {
                let end = rest.iter().position(|byte| !is_word_byte(*byte)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after;
                return Some(word);
            }
            let quoted = if *first == b'"' { end_of_quoted(&rest[1..]).map_or(0, |end| end + 1) } else { 0 };
            rest = &rest[1 + quoted..];
        }
        None
    })
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

pub(super) fn shorter(known: Option<u64>, next: u64) -> Option<u64> {
    Some(known.map_or(next, |known| known.min(next)))
}

fn shorter_if_valid(known: Option<u64>, next: Option<u64>) -> Option<u64> {
    next.map_or(known, |next| shorter(known, next))
}

fn less_stale(known: Option<Option<u64>>, argument: &Argument<'_>) -> Option<Option<u64>> {
    match (known, argument.seconds()) {
        (Some(Some(known)), Some(next)) => Some(Some(known.min(next))),
        (_, Some(next)) => Some(Some(next)),
        (None, None) if argument.is_absent() => Some(None),
        (known, None) => known,
    }
}

impl Scope {
    /// The scope of these field names: the whole response if there are none, or one is indispensable.
    pub(super) fn of_names(text: &[u8]) -> Scope {
        field_names(text).map_or(Scope::Whole, Scope::Fields)
    }

    /// Whether it applies to the whole response.
    pub fn is_whole(&self) -> bool {
        *self == Scope::Whole
    }

    /// Its fields, if it concerns only some.
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Scope::Fields(names) => names,
            Scope::Absent | Scope::Whole => &[],
        }
    }

    /// Merges another occurrence; the whole response is the widest scope.
    fn widen(&mut self, argument: &Argument<'_>) {
        let named = match argument {
            Argument::Text(text) => field_names(text),
            Argument::Absent | Argument::Garbled => None,
        };
        match (&mut *self, named) {
            (Scope::Absent, Some(names)) => *self = Scope::Fields(names),
            (Scope::Fields(known), Some(names)) => known.extend(names),
            (Scope::Whole, _) | (_, None) => *self = Scope::Whole,
        }
    }
}

/// Fields that a stored response needs: for its lifetime and age, its key, its validation, framing, decoding and
/// invalidation, or a redirect's target. Without one of them, it would be another response than upstream sent.
static INDISPENSABLE: [&str; 22] = [
    "age",
    "cache-control",
    "cache-groups",
    "cache-tag",
    "cdn-cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expires",
    "larder-cache-control",
    "last-modified",
    "location",
    "surrogate-control",
    "surrogate-key",
    "trailer",
    "transfer-encoding",
    "vary",
    "xkey",
];

/// Parses `#field-name`. `None` if the list is empty, or contains an invalid or indispensable name: then the
/// directive concerns the whole response.
fn field_names(text: &[u8]) -> Option<Vec<HeaderName>> {
    let names = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    // Other characters suggest another kind of quotation, such as 'x-user'.
    let names: Vec<HeaderName> = names
        .map(|name| HeaderName::from_bytes(name).ok().filter(|_| name.iter().copied().all(is_word_byte)))
        .map(|name| name.filter(|name| !INDISPENSABLE.contains(&name.as_str())))
        .collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

/// One member of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directive<'a> {
    name: &'a [u8],
    pub(super) argument: Argument<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Argument<'a> {
    Absent,
    /// The value of a token, or of a quoted string without its quotes and escapes.
    Text(Cow<'a, [u8]>),
    /// The name is followed by something other than an argument.
    Garbled,
}

/// A quoted string without a closing quote.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclosed;

impl<'a> Directive<'a> {
    /// `member` is not empty and has no surrounding white space.
    pub(super) fn parse(member: &'a [u8]) -> Directive<'a> {
        let end_of_name = member.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(member.len());
        let (name, rest) = member.split_at(end_of_name);
        let argument = match rest {
            [] => Argument::Absent,
            [b'=', argument @ ..] => Argument::parse(argument),
            // Such as `private; max-age=60`: the name applies as far as it restricts.
            _ => Argument::Garbled,
        };
        Directive { name, argument }
    }

    /// Whether the directive was understood completely. A malformed restricting directive restricts more, and
    /// [`ResponseDirectives`] read nothing else from it.
    fn is_readable(&self) -> bool {
        match self.lower_name().as_ref() {
            b"" => false,
            // Except those that `must-understand` overrides (§5.2.2.3).
            b"no-store" => self.argument.is_absent(),
            b"no-cache" | b"private" | b"max-age" | b"s-maxage" => true,
            _ => self.argument != Argument::Garbled,
        }
    }

    /// The words of a member other than its directive's name.
    fn stray_words<'m>(&self, member: &'m [u8]) -> impl Iterator<Item = &'m [u8]> {
        let is_word = self.name.iter().copied().all(is_word_byte);
        words(if is_word { &member[self.name.len()..] } else { member })
    }

    pub(super) fn is_garbled(&self) -> bool {
        self.name.is_empty() || self.argument == Argument::Garbled
    }

    pub(super) fn lower_name(&self) -> Cow<'a, [u8]> {
        if self.name.iter().any(u8::is_ascii_uppercase) {
            Cow::Owned(self.name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(self.name)
        }
    }
}

impl<'a> Argument<'a> {
    fn parse(text: &'a [u8]) -> Argument<'a> {
        match text {
            [b'"', quoted @ ..] => unquote(quoted).map_or(Argument::Garbled, Argument::Text),
            [] => Argument::Garbled,
            token if token.iter().copied().all(is_token_byte) => Argument::Text(Cow::Borrowed(token)),
            _ => Argument::Garbled,
        }
    }

    fn is_absent(&self) -> bool {
        *self == Argument::Absent
    }

    fn seconds(&self) -> Option<u64> {
        match self {
            Argument::Text(text) => delta_seconds(text),
            Argument::Absent | Argument::Garbled => None,
        }
    }
}

/// Parses `delta-seconds` (§1.2.2), at most [`MAX_SECONDS`].
pub(super) fn delta_seconds(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(MAX_SECONDS)))
}

/// The text of a quoted string (RFC 9110 §5.6.4) after its opening quote. `None` unless the closing quote is the last
/// byte.
fn unquote(quoted: &[u8]) -> Option<Cow<'_, [u8]>> {
    let inner = &quoted[..end_of_quoted(quoted)?];
    if inner.len() + 1 != quoted.len() {
        return None;
    }
    if !inner.contains(&b'\\') {
        return Some(Cow::Borrowed(inner));
    }
    let mut bytes = inner.iter();
    let mut text = Vec::with_capacity(inner.len());
    while let Some(&byte) = bytes.next() {
        // `end_of_quoted` found the closing quote, so every backslash is followed by a byte.
        text.extend(if byte == b'\\' { bytes.next().copied() } else { Some(byte) });
    }
    Some(Cow::Owned(text))
}

/// Position of the closing quote in the text after the opening one.
fn end_of_quoted(quoted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match quoted.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn members(line: &[u8]) -> impl Iterator<Item = Result<Directive<'_>, Unclosed>> {
    raw_members(line).map(|member| member.map(Directive::parse))
}

/// The members of one field line (RFC 9110 §5.6.1) without surrounding white space. Commas inside quotes do not
/// separate; empty members are skipped.
pub(super) fn raw_members(line: &[u8]) -> impl Iterator<Item = Result<&[u8], Unclosed>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let Some(end) = end_of_member(rest) else {
                rest = &[];
                return Some(Err(Unclosed));
            };
            let member = rest[..end].trim_ascii();
            rest = rest.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(Ok(member));
            }
        }
        None
    })
}

fn end_of_member(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match rest.get(at) {
            None | Some(b',') => return Some(at),
            Some(b'"') => at += 2 + end_of_quoted(&rest[at + 1..])?,
            Some(_) => at += 1,
        }
    }
}

/// `tchar` (RFC 9110 §5.6.2), or a byte beyond ASCII, which no recipient takes for a separator.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte) || byte >= 0x80
}

#[cfg(test)]
mod tests;
