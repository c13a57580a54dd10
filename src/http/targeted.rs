//! Targeted cache control (RFC 9213): selects the field that controls caching. Larder's target list is
//! `Larder-Cache-Control`, then `CDN-Cache-Control`; then `Surrogate-Control`, which is older than the RFC, no
//! structured field, and still in use; then `Cache-Control`.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::cache_control::{
    self, Argument, Directive, MAX_SECONDS, ResponseDirectives, Scope, Unclosed, WrongDirective, delta_seconds,
    is_one_of, shorter,
};

/// `Larder-Cache-Control`: for Larder alone.
pub static LARDER_CACHE_CONTROL: HeaderName = HeaderName::from_static("larder-cache-control");
/// `CDN-Cache-Control` (RFC 9213 §3): for all CDNs.
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
static SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// The field that controls caching.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authority {
    /// `Larder-Cache-Control`.
    Larder,
    /// `CDN-Cache-Control` (RFC 9213 §3).
    Cdn,
    /// `Surrogate-Control` (Edge Architecture 1.0).
    Surrogate,
    /// `Cache-Control` and `Expires`.
    General,
}

impl Authority {
    /// The field's name, for messages.
    pub fn field(self) -> &'static str {
        match self {
            Authority::Larder => "Larder-Cache-Control",
            Authority::Cdn => "CDN-Cache-Control",
            Authority::Surrogate => "Surrogate-Control",
            Authority::General => "Cache-Control",
        }
    }

    /// One sentence with its RFC section.
    pub fn explanation(self) -> &'static str {
        match self {
            Authority::Larder => {
                "Larder-Cache-Control decides; Cache-Control and Expires are ignored (RFC 9213 §2.2)"
            }
            Authority::Cdn => {
                "CDN-Cache-Control decides; Cache-Control and Expires are ignored (RFC 9213 §2.2, §3)"
            }
            Authority::Surrogate => {
                "Surrogate-Control decides; Cache-Control and Expires are ignored (Edge Architecture 1.0 §2.2)"
            }
            Authority::General => "Cache-Control and Expires decide (RFC 9111 §5.2, §5.3)",
        }
    }
}

/// The directives that apply to a response, and their field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub authority: Authority,
    pub directives: ResponseDirectives,
}

/// RFC 9213 §2.2: the first field of the target list with a valid, non-empty value applies alone.
pub fn effective(headers: &HeaderMap) -> Effective {
    let found = targeted(headers, &LARDER_CACHE_CONTROL)
        .map(|directives| (Authority::Larder, directives))
        .or_else(|| targeted(headers, &CDN_CACHE_CONTROL).map(|directives| (Authority::Cdn, directives)))
        .or_else(|| surrogate(headers).map(|directives| (Authority::Surrogate, directives)));
    let (authority, directives) =
        found.unwrap_or_else(|| (Authority::General, ResponseDirectives::parse(headers)));
    Effective { authority, directives }
}

/// Removes the fields for Larder from a response to a client: `Larder-Cache-Control`, and `Surrogate-Control`, which
/// the last surrogate removes. `CDN-Cache-Control` and `Cache-Control` stay for downstream caches (RFC 9213 §3, RFC
/// 9111 §5.2).
///
/// Call this when sending a response, not before storing it: a 304 need not repeat these fields, and the updated
/// response is judged by the stored ones.
pub fn strip_consumed(response: &mut HeaderMap) {
    response.remove(&LARDER_CACHE_CONTROL);
    response.remove(&SURROGATE_CONTROL);
}

/// Whether [`strip_consumed`] would remove anything.
pub fn has_consumed(response: &HeaderMap) -> bool {
    response.contains_key(&LARDER_CACHE_CONTROL) || response.contains_key(&SURROGATE_CONTROL)
}

/// Parses a targeted field. `None` if it is absent, empty or no dictionary (RFC 9213 §2.1).
fn targeted(headers: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
    if !headers.contains_key(name) {
        return None;
    }
    // RFC 9651 §4.2: the lines of a field are one value.
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    let mut directives = ResponseDirectives::default();
    for (key, value) in &members {
        take(&mut directives, key.as_str(), value);
    }
    (!members.is_empty()).then_some(directives)
}

/// The directives of a `CDN-Cache-Control` that an operator has written.
///
/// # Errors
///
/// It is no dictionary (RFC 9213 §2.1), or a member is no response directive with a value of its type.
pub fn written(value: &str) -> Result<ResponseDirectives, WrongDirective> {
    let members: Dictionary = Parser::new(value).parse().map_err(|_| WrongDirective::Syntax)?;
    let mut directives = ResponseDirectives::default();
    for (key, member) in &members {
        let is_right = match cache_control::takes_seconds(key.as_str()) {
            Some(true) => seconds(member).is_some(),
            Some(false) => is_true(member),
            None => return Err(WrongDirective::Unknown(key.as_str().to_owned())),
        };
        if !is_right {
            return Err(WrongDirective::Argument(key.as_str().to_owned()));
        }
        take(&mut directives, key.as_str(), member);
    }
    if members.is_empty() { Err(WrongDirective::Syntax) } else { Ok(directives) }
}

/// RFC 9213 §2.1: a value of the wrong type is not converted. As in `Cache-Control`, such a directive applies as far
/// as it restricts: a lifetime is zero (RFC 9111 §4.2.1), `no-cache` and `private` concern the whole response,
/// permissions are absent. Ignoring it instead would turn `max-age=1.5` into a missing lifetime, which the family's
/// `ttl` would fill in.
fn take(directives: &mut ResponseDirectives, key: &str, value: &ListEntry) {
    match key {
        "no-store" => directives.no_store = true,
        "no-cache" => directives.no_cache = scope(value),
        "private" => directives.private = scope(value),
        "public" => directives.public = is_true(value),
        "must-revalidate" => directives.must_revalidate = true,
        "proxy-revalidate" => directives.proxy_revalidate = true,
        "must-understand" => directives.must_understand = is_true(value),
        "max-age" => directives.max_age = Some(seconds(value).unwrap_or(0)),
        "s-maxage" => directives.s_maxage = Some(seconds(value).unwrap_or(0)),
        "stale-while-revalidate" => directives.stale_while_revalidate = seconds(value),
        "stale-if-error" => directives.stale_if_error = seconds(value),
        // RFC 9111 §5.2.3: unrecognised directives are ignored.
        _ => {}
    }
}

/// The value without its parameters (RFC 9213 §2.1).
fn item(value: &ListEntry) -> Option<&BareItem> {
    match value {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

fn is_true(value: &ListEntry) -> bool {
    item(value).and_then(BareItem::as_boolean) == Some(true)
}

fn seconds(value: &ListEntry) -> Option<u64> {
    let whole = item(value)?.as_integer()?;
    u64::try_from(i64::from(whole)).ok().map(|seconds| seconds.min(MAX_SECONDS))
}

fn scope(value: &ListEntry) -> Scope {
    let names = item(value).and_then(BareItem::as_string);
    names.map_or(Scope::Whole, |names| Scope::of_names(names.as_str().as_bytes()))
}

/// Parses `Surrogate-Control`. `None` if it says nothing about storing: `content="ESI/1.0"` alone leaves that to
/// `Cache-Control`. `no-store`, `private` and `no-cache` forbid storing wherever they occur outside of a quoted
/// string, even as a directive's parameter, and so does unreadable input. (Edge Architecture 1.0 has neither
/// `private` nor `no-cache`, but their intent is clear.)
fn surrogate(headers: &HeaderMap) -> Option<ResponseDirectives> {
    let mut found: Option<ResponseDirectives> = None;
    let lines = headers.get_all(&SURROGATE_CONTROL).iter();
    for member in lines.flat_map(|line| cache_control::raw_members(line.as_bytes())) {
        match member.map(surrogate_directive) {
            Ok(Some(directive)) => directive.apply(found.get_or_insert_default()),
            Ok(None) => {}
            // Unreadable input may have forbidden storing.
            Err(Unclosed) => found.get_or_insert_default().no_store = true,
        }
    }
    found
}

/// The directives of `Surrogate-Control` about storing.
enum SurrogateDirective {
    NoStore,
    /// Seconds of freshness, and of allowed staleness afterwards.
    MaxAge(u64, u64),
}

impl SurrogateDirective {
    /// Of duplicates, the stricter wins.
    fn apply(&self, directives: &mut ResponseDirectives) {
        match *self {
            SurrogateDirective::NoStore => directives.no_store = true,
            SurrogateDirective::MaxAge(fresh, stale) => {
                directives.max_age = shorter(directives.max_age, fresh);
                directives.stale_while_revalidate = shorter(directives.stale_while_revalidate, stale);
                directives.stale_if_error = shorter(directives.stale_if_error, stale);
            }
        }
    }
}

fn surrogate_directive(member: &[u8]) -> Option<SurrogateDirective> {
    if cache_control::words(member).any(|word| is_one_of(word, &FORBIDDING)) {
        return Some(SurrogateDirective::NoStore);
    }
    let (directive, is_addressed) = match end_of_directive(member) {
        Some(end) => (Directive::parse(member[..end].trim_ascii()), true),
        None => (Directive::parse(member), false),
    };
    match directive.lower_name().as_ref() {
        // A parameter names the one surrogate that a directive is for; Larder has no such name.
        _ if is_addressed && !directive.is_garbled() => None,
        b"max-age" => {
            let (fresh, stale) = periods(&directive.argument).unwrap_or((0, 0));
            Some(SurrogateDirective::MaxAge(fresh, stale))
        }
        _ => directive.is_garbled().then_some(SurrogateDirective::NoStore),
    }
}

/// Words that forbid storing. `no-store-remote` is included, since Larder cannot know whether it is remote from the
/// origin.
const FORBIDDING: [&[u8]; 4] = [b"no-store", b"no-store-remote", b"private", b"no-cache"];

/// Index where a member's parameters start.
fn end_of_directive(member: &[u8]) -> Option<usize> {
    let mut is_quoted = false;
    member.iter().position(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b';' && !is_quoted
    })
}

/// `N` or `N+M`; `None` if one of them is not a number.
fn periods(argument: &Argument<'_>) -> Option<(u64, u64)> {
    let Argument::Text(text) = argument else {
        return None;
    };
    match text.iter().position(|byte| *byte == b'+') {
        Some(plus) => Some((delta_seconds(&text[..plus])?, delta_seconds(&text[plus + 1..])?)),
        None => Some((delta_seconds(text)?, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};
    use proptest::prelude::*;

    const LARDER: &str = "larder-cache-control";
    const CDN: &str = "cdn-cache-control";
    const SURROGATE: &str = "surrogate-control";
    const GENERAL: &str = "cache-control";

    fn of(lines: Fields<'_>) -> Effective {
        effective(&fields(lines))
    }

    fn cdn(value: &str) -> ResponseDirectives {
        let found = of(&[(CDN, value)]);
        assert_eq!(found.authority, Authority::Cdn, "{value}");
        found.directives
    }

    #[test]
    fn the_first_valid_field_that_is_not_empty_decides() {
        let all = [(LARDER, "max-age=1"), (CDN, "max-age=2"), (SURROGATE, "max-age=3"), (GENERAL, "max-age=4")];
        let rows: [(Fields<'_>, Authority, u64); 9] = [
            (&all, Authority::Larder, 1),
            (&all[1..], Authority::Cdn, 2),
            (&all[2..], Authority::Surrogate, 3),
            (&all[3..], Authority::General, 4),
            (&[(LARDER, ""), all[1]], Authority::Cdn, 2),
            (&[(LARDER, "max-age=1, &"), all[1], all[3]], Authority::Cdn, 2),
            (&[(LARDER, "Max-Age=1"), (CDN, "max-age=\"2"), all[2]], Authority::Surrogate, 3),
            (&[(CDN, "max-age=9"), (CDN, ","), all[3]], Authority::General, 4),
            (&[(SURROGATE, "content=\"ESI/1.0\""), all[3]], Authority::General, 4),
        ];
        for (lines, authority, max_age) in rows {
            let found = of(lines);
            assert_eq!((found.authority, found.directives.max_age), (authority, Some(max_age)), "{lines:?}");
        }
    }

    #[test]
    fn rfc_9213_examples() {
        let lines = [(GENERAL, "max-age=60, s-maxage=120"), (CDN, "max-age=600")];
        assert_eq!(of(&lines).directives, ResponseDirectives { max_age: Some(600), ..Default::default() });
        assert!(!of(&[(CDN, "max-age=600"), (GENERAL, "no-store")]).directives.no_store);
        assert!(of(&[(GENERAL, "no-store")]).directives.no_store);
        assert_eq!(of(&[(GENERAL, "no-store"), (CDN, "none")]).directives, ResponseDirectives::default());
    }

    #[test]
    fn every_directive_is_read_from_a_dictionary() {
        let expected = ResponseDirectives {
            no_store: true,
            no_cache: Scope::Whole,
            private: Scope::Fields(vec![HeaderName::from_static("x-user"), HeaderName::from_static("x-b")]),
            public: true,
            must_revalidate: true,
            proxy_revalidate: true,
            must_understand: true,
            max_age: Some(1),
            s_maxage: Some(2),
            stale_while_revalidate: Some(3),
            stale_if_error: Some(4),
        };
        let all = "no-store, no-cache, private=\"X-User, x-b\", public, must-revalidate, proxy-revalidate, \
                   must-understand, no-transform, immutable;why=1, max-age=1;x=2, s-maxage=2, \
                   stale-while-revalidate=3, stale-if-error=4, unknown=(1 2), other=:YQ==:";
        assert_eq!(cdn(all), expected);
        let lines: Vec<_> = all.split("public, ").map(|half| (CDN, half.trim_end_matches(", "))).collect();
        let halves = of(&[lines[0], lines[1]]);
        assert_eq!(
            halves,
            Effective { authority: Authority::Cdn, directives: ResponseDirectives { public: false, ..expected } }
        );
    }

    #[test]
    fn a_dictionary_keeps_the_last_of_duplicates() {
        assert_eq!(cdn("max-age=5, max-age=9").max_age, Some(9));
        assert_eq!(of(&[(CDN, "max-age=9"), (CDN, "max-age=5")]).directives.max_age, Some(5));
    }

    #[test]
    fn values_of_another_type_restrict_and_never_permit() {
        for value in ["1.5", "10.0", "\"10\"", "abc", "-1", "?1", "(1)", ":MQ==:", "@10"] {
            assert_eq!(cdn(&format!("max-age={value}")).max_age, Some(0), "{value}");
            assert_eq!(cdn(&format!("stale-if-error={value}")).stale_if_error, None, "{value}");
        }
        assert_eq!(cdn("max-age").max_age, Some(0));
        assert_eq!(cdn("max-age=999999999999999").max_age, Some(MAX_SECONDS));
        for value in ["private=x-user", "private=?0", "private=1", "private=\"vary\"", "private=(\"x\")"] {
            assert_eq!(cdn(value).private, Scope::Whole, "{value}");
        }
        assert!(cdn("no-store=?0").no_store && cdn("must-revalidate=x").must_revalidate);
        let permits = cdn("public=?0, must-understand=1, immutable=\"x\"");
        assert_eq!(permits, ResponseDirectives::default());
    }

    #[test]
    fn surrogate_control_is_read_as_people_use_it() {
        let rows = [
            ("max-age=60", Some(60), 0),
            ("max-age=60+30", Some(60), 30),
            ("Max-Age=\"60+30\", content=\"ESI/1.0, x\"", Some(60), 30),
            ("max-age=60, max-age=9+5", Some(9), 0),
            ("max-age=60;edge, max-age=9", Some(9), 0),
            ("max-age=60+", Some(0), 0),
            ("max-age=x", Some(0), 0),
            ("max-age=1.5", Some(0), 0),
        ];
        for (value, max_age, stale) in rows {
            let Effective { authority, directives } = of(&[(SURROGATE, value), (GENERAL, "no-store")]);
            assert_eq!((authority, directives.max_age), (Authority::Surrogate, max_age), "{value}");
            assert!(!directives.no_store, "{value}");
            let periods = (directives.stale_while_revalidate, directives.stale_if_error);
            assert_eq!(periods, (Some(stale), Some(stale)), "{value}");
        }
        for value in ["no-store", "max-age=60, No-Store", "no-store-remote", "max-age=60, content=\"ESI"] {
            assert!(of(&[(SURROGATE, value)]).directives.no_store, "{value}");
        }
        for value in ["", "max-age=60;edge", "content=\"ESI/1.0\"", "content=\"no-store; private\"", "x"] {
            assert_eq!(of(&[(SURROGATE, value)]).authority, Authority::General, "{value}");
        }
    }

    #[test]
    fn forbidding_words_apply_anywhere_in_surrogate_control() {
        for word in ["no-store", "no-store-remote", "private", "no-cache", "No-Store"] {
            for place in [
                "?",
                "max-age=60, ?",
                "max-age=60; ?",
                "max-age=60;?",
                "max-age=60 ?",
                "max-age=60\t?",
                "?;edge",
                "max-age=60, content=\"ESI/1.0\"; ?",
                "content=\"ESI/1.0\" ?, max-age=60",
                "max-age=60, \"?",
                "x=?",
                "(?)",
                "?=1",
            ] {
                let value = place.replace('?', word);
                let found = of(&[(SURROGATE, &value), (GENERAL, "max-age=60")]);
                assert!(found.authority == Authority::Surrogate && found.directives.no_store, "{value}");
            }
        }
        for value in ["content: 60", "content \"x\", max-age=60", "\"max-age=60\"", "content=\"a\"b", "=1"] {
            assert!(of(&[(SURROGATE, value), (GENERAL, "max-age=60")]).directives.no_store, "{value}");
        }
    }

    #[test]
    fn only_fields_for_larder_are_consumed() {
        let mut headers = fields(&[(LARDER, "max-age=1"), (CDN, "max-age=2"), (SURROGATE, "x"), (GENERAL, "y")]);
        strip_consumed(&mut headers);
        assert_eq!(headers, fields(&[(CDN, "max-age=2"), (GENERAL, "y")]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(value in proptest::collection::vec(
            proptest::sample::select(&b"\t \"\\,=;+-?01.:@()abmxgeno-storepivate\x80\xff"[..]), 0..40,
        )) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let names = [&LARDER_CACHE_CONTROL, &CDN_CACHE_CONTROL, &SURROGATE_CONTROL];
                let headers: HeaderMap = names.into_iter().map(|name| (name.clone(), value.clone())).collect();
                let _ = effective(&headers);
            }
        }
    }
}
