//! `Cache-Control` (RFC 9111 §5.2), parsed once, when a message comes. What is malformed is read in the direction
//! that stores less and keeps it shorter: a directive that restricts counts even with an argument that it should not
//! have, one that permits does not. `no-store`, `private` and `no-cache` count wherever they stand outside a quoted
//! string, whatever separates them from what stands before and after. A member that is no directive cannot be read, and
//! the response is not stored. What a quoted string holds is its directive's argument (RFC 9110 §5.6.4), and no
//! directive: `ext="no-store"` forbids nothing, and `private="x-user"` is about one field.

use std::borrow::Cow;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue};

/// RFC 9111 §1.2.2: the value that stands for every greater one, over 68 years.
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

/// Response directives. Seconds; greater values are [`MAX_SECONDS`]. `no-transform` (§5.2.2.6) and `immutable` (RFC 8246)
/// are not among them, since they decide nothing: no content is transformed, and what is fresh is not validated unless a
/// client may ask for it, which RFC 8246 §2 allows.
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

/// Request directives. Seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    /// `Some(None)`: any staleness is welcome. An invalid number is no `max-stale` at all.
    pub max_stale: Option<Option<u64>>,
    pub min_fresh: Option<u64>,
    /// RFC 5861 §4.
    pub stale_if_error: Option<u64>,
}

impl ResponseDirectives {
    /// All `Cache-Control` lines of a response. Names without case, quoted and unquoted arguments, commas inside
    /// quotes; of duplicates the stricter wins; an invalid number makes the response stale (§4.2.1). A line with a
    /// quote that is never closed or with a member that is no directive cannot be read, so that the response counts as
    /// `no-store`, whatever `must-understand` says.
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

    /// Takes in a member of the list; false if it may forbid storing in a way that its directive does not say.
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

/// Directives that have nothing to say beside `no-cache`.
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

/// `no-cache` and what a response says beyond that. What cannot be read counts as `no-store`, as it does here.
pub fn for_clients(response: &HeaderMap) -> HeaderValue {
    let mut told = b"no-cache".to_vec();
    let mut is_readable = true;
    for member in response.get_all(CACHE_CONTROL).iter().flat_map(|line| raw_members(line.as_bytes())) {
        let Ok(member) = member else {
            is_readable = false;
            continue;
        };
        let mut one = ResponseDirectives::default();
        let directive = Directive::parse(member);
        if !one.take_member(member) {
            is_readable = false;
        } else if !is_one_of(&directive.lower_name(), &LESS_THAN_NO_CACHE) {
            told.extend([b", ", member].concat());
        }
    }
    if !is_readable {
        told.extend_from_slice(b", no-store");
    }
    HeaderValue::from_bytes(&told).unwrap_or(HeaderValue::from_static("no-store"))
}

impl RequestDirectives {
    /// All `Cache-Control` lines of a request; `Pragma: no-cache` where there is none (§5.4). `no-store` and `no-cache`
    /// count wherever they stand outside a quoted string. Beside a quote that is never closed, `no-store` counts and leave
    /// to be served stale does not.
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
        // The lines of a field are one list (RFC 9110 §5.3): a quote may be closed on another line.
        let mut joined = RequestDirectives::default();
        if joined.take_all(&lines().collect::<Vec<_>>().join(&b", "[..])) {
            return joined;
        }
        RequestDirectives { no_store: true, max_stale: None, stale_if_error: None, ..parsed }
    }

    /// Takes in a list; false if a quote in it is never closed.
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
            // Of two the longer is the stricter.
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

/// Words that forbid to give a stored response to everyone without asking.
const FORBIDDING: [&[u8]; 3] = [b"no-store", b"private", b"no-cache"];

/// Whether it is one of these words, without regard to case.
pub(super) fn is_one_of(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// The words of a text: letters, digits, `-` and `_`. Everything else separates them, also what a token may hold (`|`,
/// `'`, `+` …). What stands in a quoted string is not among them, unless its closing quote is missing.
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
    /// The scope of these field names: the whole response if they are none, or cannot be left out.
    pub(super) fn of_names(text: &[u8]) -> Scope {
        field_names(text).map_or(Scope::Whole, Scope::Fields)
    }

    /// Whether it is there without field names.
    pub fn is_whole(&self) -> bool {
        *self == Scope::Whole
    }

    /// The fields that it is about, if it is about some only.
    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Scope::Fields(names) => names,
            Scope::Absent | Scope::Whole => &[],
        }
    }

    /// Takes in another occurrence; the whole response is the widest scope.
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

/// Fields that a response cannot be reused without: what its lifetime and age, its key, its validation, its framing
/// and decoding and its invalidation rest on, and where a redirect leads. Without one of them the rest would be
/// another response than the one that upstream sent.
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

/// `#field-name`; `None` if the list is empty, or one of them is not a field name or an indispensable one: then the
/// directive stands for the whole response.
fn field_names(text: &[u8]) -> Option<Vec<HeaderName>> {
    let names = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    // A name with other signs is a quotation of another kind, such as 'x-user', rather than a field's.
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
    /// Of a token or, without its quotes and escapes, of a quoted string.
    Text(Cow<'a, [u8]>),
    /// Something follows the name that is not an argument.
    Garbled,
}

/// A quoted string without an end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unclosed;

impl<'a> Directive<'a> {
    /// `member` is not empty and has no white space at its ends.
    pub(super) fn parse(member: &'a [u8]) -> Directive<'a> {
        let end_of_name = member.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(member.len());
        let (name, rest) = member.split_at(end_of_name);
        let argument = match rest {
            [] => Argument::Absent,
            [b'=', argument @ ..] => Argument::parse(argument),
            // Such as `private; max-age=60`: the name is honoured as far as it restricts.
            _ => Argument::Garbled,
        };
        Directive { name, argument }
    }

    /// Whether nothing of it is lost. Of the directives that restrict, something garbled restricts all the more, and
    /// says no more than [`ResponseDirectives`] take from it.
    fn is_readable(&self) -> bool {
        match self.lower_name().as_ref() {
            b"" => false,
            // Not what `must-understand` sets aside (§5.2.2.3).
            b"no-store" => self.argument.is_absent(),
            b"no-cache" | b"private" | b"max-age" | b"s-maxage" => true,
            _ => self.argument != Argument::Garbled,
        }
    }

    /// The words of a member beside its directive's name.
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

/// `delta-seconds` (§1.2.2); anything above [`MAX_SECONDS`] is that.
pub(super) fn delta_seconds(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(MAX_SECONDS)))
}

/// The text of a quoted string (RFC 9110 §5.6.4) from behind its opening quote; `None` unless the closing quote is
/// its last byte.
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
        // `end_of_quoted` found the closing quote, so something follows every backslash.
        text.extend(if byte == b'\\' { bytes.next().copied() } else { Some(byte) });
    }
    Some(Cow::Owned(text))
}

/// Position of the closing quote in what follows an opening one.
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

/// The members of one field line (RFC 9110 §5.6.1), without white space at their ends; commas inside quotes do not
/// separate, empty members are left out.
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

/// `tchar` (RFC 9110 §5.6.2), or a byte beyond ASCII, which the grammar does not know and nobody takes for a separator.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte) || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn lines(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    fn response(values: &[&str]) -> ResponseDirectives {
        ResponseDirectives::parse(&lines(&CACHE_CONTROL, values))
    }

    fn request(values: &[&str]) -> RequestDirectives {
        RequestDirectives::parse(&lines(&CACHE_CONTROL, values))
    }

    fn fields(names: &[&str]) -> Scope {
        Scope::Fields(names.iter().map(|name| HeaderName::try_from(*name).unwrap()).collect())
    }

    #[test]
    fn every_response_directive_is_read() {
        let all = "no-store, no-cache, private, public, must-revalidate, proxy-revalidate, must-understand, \
                   no-transform, immutable, max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4";
        let expected = ResponseDirectives {
            no_store: true,
            no_cache: Scope::Whole,
            private: Scope::Whole,
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            max_age: Some(1),
            s_maxage: Some(2),
            stale_while_revalidate: Some(3),
            stale_if_error: Some(4),
        };
        assert_eq!(response(&[all]), expected);
        assert_eq!(response(&[&all.to_uppercase()]), expected);
        assert_eq!(response(&all.split(", ").collect::<Vec<_>>()), expected);
    }

    #[test]
    fn lists_tolerate_spaces_and_empty_members() {
        let expected = ResponseDirectives { public: true, max_age: Some(5), ..Default::default() };
        for line in
            ["public,max-age=5", " ,, public ,\t,max-age=5,", "max-age=5 , public", "x=\"a,b\", max-age=5, public"]
        {
            assert_eq!(response(&[line]), expected, "{line}");
        }
    }

    #[test]
    fn numbers_are_read_strictly_and_the_invalid_ones_are_stale() {
        let rows = [
            ("max-age=3600", 3600),
            ("max-age=\"3600\"", 3600),
            ("max-age=\"3\\600\"", 3600),
            ("max-age=0003600", 3600),
            ("max-age=2147483648", MAX_SECONDS),
            ("max-age=2147483649", MAX_SECONDS),
            ("max-age=99999999999999999999999999999999999999", MAX_SECONDS),
            ("max-age", 0),
            ("max-age=", 0),
            ("max-age=\"\"", 0),
            ("max-age=-1", 0),
            ("max-age=1.5", 0),
            ("max-age=+1", 0),
            ("max-age=1e3", 0),
            ("max-age=100a", 0),
            ("max-age='100'", 0),
            ("max-age =100", 0),
            ("max-age= 100", 0),
            ("max-age=100; public", 0),
            ("max-age=\"100\"0", 0),
        ];
        for (line, expected) in rows {
            assert_eq!(response(&[line]).max_age, Some(expected), "{line}");
        }
        assert_eq!(response(&["xmax-age=5, max-agex=5, foo=max-age"]).max_age, None);
        assert_eq!(response(&["s-maxage=x"]).s_maxage, Some(0));
    }

    #[test]
    fn invalid_grants_of_staleness_are_absent() {
        let directives = response(&["stale-while-revalidate=x, stale-if-error, stale-if-error=-1"]);
        assert_eq!((directives.stale_while_revalidate, directives.stale_if_error), (None, None));
    }

    #[test]
    fn of_duplicates_the_stricter_wins() {
        assert_eq!(response(&["max-age=60", "max-age=5, max-age=90"]).max_age, Some(5));
        assert_eq!(response(&["max-age=60, max-age=x"]).max_age, Some(0));
        assert_eq!(response(&["stale-if-error=9, stale-if-error=3, stale-if-error=x"]).stale_if_error, Some(3));
        assert_eq!(response(&["private=\"a\"", "private"]).private, Scope::Whole);
        assert_eq!(response(&["private, private=\"a\""]).private, Scope::Whole);
        assert_eq!(response(&["no-cache=\"a\", no-cache=\"b\""]).no_cache, fields(&["a", "b"]));
    }

    #[test]
    fn scopes_name_fields_in_lower_case_or_stand_for_the_whole() {
        let rows = [
            ("no-cache=\"Set-Cookie, X-A\"", fields(&["set-cookie", "x-a"])),
            ("no-cache=Set-Cookie", fields(&["set-cookie"])),
            ("no-cache=\" , x-a, \"", fields(&["x-a"])),
            ("no-cache=\"\"", Scope::Whole),
            ("no-cache=\"a b\"", Scope::Whole),
            ("no-cache=\"x-a, Vary\"", Scope::Whole),
            ("no-cache=content-type", Scope::Whole),
            ("no-cache=", Scope::Whole),
            ("no-cache; x", Scope::Whole),
            ("no-cach", Scope::Absent),
        ];
        for (line, expected) in rows {
            assert_eq!(response(&[line]).no_cache, expected, "{line}");
        }
    }

    #[test]
    fn malformed_directives_restrict_and_never_permit() {
        assert_eq!(response(&["private; max-age=60"]).private, Scope::Whole);
        assert!(response(&["no-store=1"]).no_store);
        let permits = response(&["public=x, must-understand=x, immutable=x"]);
        assert_eq!(permits, ResponseDirectives::default());
    }

    /// Whether a response with this field may be given to everyone without asking.
    fn is_for_everyone(directives: &ResponseDirectives) -> bool {
        !directives.no_store && !directives.private.is_whole() && !directives.no_cache.is_whole()
    }

    #[test]
    fn a_word_that_forbids_counts_wherever_it_stands() {
        for word in ["no-store", "private", "no-cache", "No-Store", "PRIVATE"] {
            let places = [
                "public; ?",
                "public;?",
                "must-revalidate; ?",
                "public max-age=60 ?",
                "public\t?",
                "max-age=0; ?",
                "max-age=60 ?",
                "?; max-age=60",
                "? max-age=60",
                "public; ? ; max-age=60",
                "public;;;?",
                "public | ?",
                "public|?",
                "public&?",
                "public+?",
                "public/?",
                "public: ?",
                "'?'",
                "(?)",
                "[?]",
                "<?>",
                "\\?",
                "\"?",
                "public, \"? ",
                "x=\"a\" ?",
                "x=\"a\"?",
                "x=\"a\"; ?, max-age=60",
                "x=\"a\\\"; ?",
                "x=?",
                "x = ?",
                "=?",
                "?=",
                "?=\"",
                "? =1",
                "{\"cache\": ?}",
                "max-age=60, public; stale-if-error=5; ?",
                "must-understand; ?",
                "must-understand, x=?",
            ];
            for place in places {
                let line = place.replace('?', word);
                assert!(!is_for_everyone(&response(&[&line])), "{line}");
                assert!(!is_for_everyone(&response(&["public", &line, "max-age=60"])), "{line}");
                assert!(!response(&[&line]).must_understand, "{line}");
            }
        }
    }

    #[test]
    fn a_word_in_a_quoted_string_is_no_directive() {
        let rows = [
            r#"ext="no-store", max-age=5"#,
            r#"ext="public; no-store private", max-age=5"#,
            r#"ext="a\"; no-store", max-age=5"#,
            r#"a="no-cache" , b="private",max-age=5"#,
            "x-no-store, no-stores, no_store, nostore, not-private, max-age=5",
        ];
        for line in rows {
            let expected = ResponseDirectives { max_age: Some(5), ..Default::default() };
            assert_eq!(response(&[line]), expected, "{line}");
        }
        assert_eq!(response(&[r#"private="x-user""#]).private, fields(&["x-user"]));
        assert_eq!(response(&[r#"no-cache="set-cookie""#]).no_cache, fields(&["set-cookie"]));
        for line in ["private='x-user'", "private=\"'x-user'\""] {
            assert_eq!(response(&[line]).private, Scope::Whole, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_stored() {
        let rows = [
            "public; max-age=60",
            "public;",
            "public max-age=60",
            "stale-if-error=60; max-age=5",
            "\"public, max-age=60\"",
            "=5, max-age=60",
            "{}",
            "public: 60",
            "x=\"a\"b, max-age=60",
            "x=a b, max-age=60",
            "must-understand, no-store=1",
        ];
        for line in rows {
            let directives = response(&[line]);
            assert!(directives.no_store && !directives.must_understand, "{line}");
        }
        let misplaced = response(&["max-age=60; must-revalidate proxy-revalidate"]);
        assert!(misplaced.must_revalidate && misplaced.proxy_revalidate);
    }

    #[test]
    fn words_of_a_request_count_wherever_they_stand() {
        for line in
            ["max-age=0; no-store", "max-age=0 No-Store", "x=no-store", "\"no-store", "no-store;", "a|no-store"]
        {
            assert!(request(&[line]).no_store && request(&["x", line]).no_store, "{line}");
        }
        assert!(request(&["max-age=0; no-cache"]).no_cache);
        for line in ["x=\"no-store\"", "no-stores", "x-no-store", "max-age=0; x"] {
            assert!(!request(&[line]).no_store, "{line}");
        }
        assert!(RequestDirectives::parse(&lines(&PRAGMA, &["x; no-cache"])).no_cache);
    }

    #[test]
    fn commas_and_quotes_inside_quotes_belong_to_the_argument() {
        let directives = response(&[r#"x="no-store, \", private, ", max-age=1"#]);
        assert_eq!(directives, ResponseDirectives { max_age: Some(1), ..Default::default() });
    }

    #[test]
    fn a_quote_without_end_forbids_storing() {
        for line in ["x=\"a, max-age=60", "max-age=60, x=\"a\\\"", "must-understand, x=\""] {
            let directives = response(&[line]);
            assert!(directives.no_store && !directives.must_understand, "{line}");
        }
        let expected = RequestDirectives { no_store: true, min_fresh: Some(5), ..Default::default() };
        assert_eq!(request(&["x=\"", "max-stale, stale-if-error=5, min-fresh=5"]), expected);
    }

    #[test]
    fn every_request_directive_is_read() {
        let all = "no-store, No-Cache, only-if-cached, no-transform, max-age=1, max-stale=2, min-fresh=3, \
                   stale-if-error=4";
        let expected = RequestDirectives {
            no_store: true,
            no_cache: true,
            only_if_cached: true,
            max_age: Some(1),
            max_stale: Some(Some(2)),
            min_fresh: Some(3),
            stale_if_error: Some(4),
        };
        assert_eq!(request(&[all]), expected);
    }

    #[test]
    fn max_stale_is_any_some_or_none() {
        let rows = [
            ("max-stale", Some(None)),
            ("max-stale=5", Some(Some(5))),
            ("max-stale=x", None),
            ("max-stale, max-stale=5", Some(Some(5))),
            ("max-stale=5, max-stale", Some(Some(5))),
            ("max-stale=5, max-stale=3", Some(Some(3))),
        ];
        for (line, expected) in rows {
            assert_eq!(request(&[line]).max_stale, expected, "{line}");
        }
        assert_eq!(request(&["min-fresh=1, min-fresh=9, min-fresh=x"]).min_fresh, Some(9));
        assert_eq!(request(&["max-age=x"]).max_age, Some(0));
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let mut headers = lines(&PRAGMA, &["x, No-Cache"]);
        assert!(RequestDirectives::parse(&headers).no_cache);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
        assert!(!RequestDirectives::parse(&headers).no_cache);
        assert!(!RequestDirectives::parse(&HeaderMap::new()).no_cache);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(values in proptest::collection::vec(
            proptest::collection::vec(proptest::sample::select(&b"\t \"\\,,==;-abmxge09\x80\xff"[..]), 0..30), 0..4,
        )) {
            let values = values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok());
            let headers: HeaderMap = values.map(|value| (CACHE_CONTROL, value)).collect();
            let _ = ResponseDirectives::parse(&headers);
            let _ = RequestDirectives::parse(&headers);
        }

        #[test]
        fn a_forbidding_word_outside_quotes_is_never_lost(
            before in "((public|max-age=60|x=\"a, b\"|[a-z]{1,3})?[ \t,;:/|&+'()<>{}\\[\\]=?@\\\\!.é]{1,3}){0,4}",
            word in "no-store|private|no-cache|No-Store|PRIVATE",
            after in "([ \t,;:/|&+'()<>{}\\[\\]=?@\\\\\"!.é]{1,3}(public|max-age=60|x=\"a\"|[a-z]{1,3})?){0,4}",
        ) {
            let line = format!("{before}{word}{after}");
            let Ok(value) = HeaderValue::from_bytes(line.as_bytes()) else { return Ok(()) };
            let directives = ResponseDirectives::parse(&[(CACHE_CONTROL, value)].into_iter().collect());
            // With names of fields, `no-cache="x"` and `private="x"` are about these alone.
            let names_fields = !directives.no_cache.fields().is_empty() || !directives.private.fields().is_empty();
            prop_assert!(!is_for_everyone(&directives) || names_fields && !word.eq_ignore_ascii_case("no-store"), "{line}");
        }

        #[test]
        fn a_second_line_never_loosens_the_first(
            first in "(max-age=[0-9]{1,3}|no-store|private|no-cache|, |x=\"a,b\"){0,4}",
            second in "(max-age=[0-9a]{0,3}|no-store|private=\"a\"|no-cache|, |\"){0,4}",
        ) {
            let one = response(&[&first]);
            let both = response(&[&first, &second]);
            prop_assert!(both.no_store >= one.no_store);
            prop_assert!(both.private != Scope::Absent || one.private == Scope::Absent);
            prop_assert!(both.no_cache != Scope::Absent || one.no_cache == Scope::Absent);
            if let Some(age) = one.max_age {
                prop_assert!(both.max_age.is_some_and(|both| both <= age));
            }
        }
    }
}
