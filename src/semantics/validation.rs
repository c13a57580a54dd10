//! Validation (RFC 9111 §4.3, RFC 9110 §8.8 and §13): towards upstream with what is stored, and towards clients
//! with what they hold.

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::date::{self, DateField};

/// What a client's conditions make of a stored (or just fetched) response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Send the response.
    Send,
    /// Send 304 (RFC 9110 §15.4.5).
    NotModified,
}

/// Evaluates `If-None-Match` (weak comparison, lists, `*`), else `If-Modified-Since` (RFC 9110 §13.2.2), against
/// the headers of a 200 response. Other statuses are sent as they are.
pub fn evaluate(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> Condition {
    if status != StatusCode::OK {
        return Condition::Send;
    }
    // RFC 9110 §13.1.3: If-Modified-Since is ignored beside If-None-Match, whatever that holds.
    let is_unchanged = if request.contains_key(IF_NONE_MATCH) {
        names_stored(request, stored)
    } else if request.contains_key(IF_MODIFIED_SINCE) {
        is_unmodified_since(request, stored)
    } else {
        false
    };
    if is_unchanged { Condition::NotModified } else { Condition::Send }
}

/// RFC 9110 §13.1.2.
fn names_stored(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let stored = EntityTag::of(stored);
    request.get_all(IF_NONE_MATCH).iter().map(HeaderValue::as_bytes).any(|line| {
        line.trim_ascii() == b"*"
            || stored.is_some_and(|stored| entity_tags(line).any(|tag| tag.matches_weakly(&stored)))
    })
}

/// RFC 9110 §13.1.3; without a `Last-Modified` by `Date` (RFC 9111 §4.3.2).
fn is_unmodified_since(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let modified = match DateField::of(stored, &LAST_MODIFIED) {
        DateField::Absent => DateField::of(stored, &DATE),
        given => given,
    };
    let mut lines = request.get_all(IF_MODIFIED_SINCE).iter();
    match (lines.next().and_then(date::parse), lines.next(), modified) {
        (Some(since), None, DateField::At(modified)) => modified <= since,
        // A field with more than one member, or without a valid date on either side, is ignored.
        _ => false,
    }
}

/// Whether the request has preconditions that only the origin can judge (`If-Match`, `If-Unmodified-Since`;
/// RFC 9111 §4.3.2).
pub fn is_for_origin(request: &HeaderMap) -> bool {
    request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE)
}

/// Removes the client's own conditions and range from a request that is to fetch a whole response.
pub fn strip_conditions(request: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE] {
        request.remove(name);
    }
}

/// Whether the stored headers hold an `ETag` or a `Last-Modified` to validate with; malformed ones do not count.
pub fn has_validator(stored: &HeaderMap) -> bool {
    EntityTag::of(stored).is_some() || DateField::of(stored, &LAST_MODIFIED).valid().is_some()
}

/// Makes `request` a conditional one for the stored response (§4.3.1): `If-None-Match` from `ETag`,
/// `If-Modified-Since` from `Last-Modified`. The client's own conditions are replaced.
pub fn make_conditional(request: &mut HeaderMap, stored: &HeaderMap) {
    strip_conditions(request);
    if let (Some(value), Some(_)) = (stored.get(ETAG), EntityTag::of(stored)) {
        request.insert(IF_NONE_MATCH, value.clone());
    }
    // Sent as it came: some origins compare it as text (RFC 9110 §13.1.3).
    if let (Some(value), DateField::At(_)) = (stored.get(LAST_MODIFIED), DateField::of(stored, &LAST_MODIFIED)) {
        request.insert(IF_MODIFIED_SINCE, value.clone());
    }
}

/// Whether a 304 with these headers is about the stored response (§4.3.4). An `ETag` in the 304 decides alone: a
/// strong one must be the stored one, a weak one must match it weakly. Else `Last-Modified` must be the stored one.
/// A 304 without any validator is about a stored response without any; for other stored responses it names none,
/// and the caller has to fetch without conditions.
pub fn selects(not_modified: &HeaderMap, stored: &HeaderMap) -> bool {
    if not_modified.contains_key(ETAG) {
        return match (EntityTag::of(not_modified), EntityTag::of(stored)) {
            (Some(new), Some(stored)) if new.is_weak => new.matches_weakly(&stored),
            (Some(new), Some(stored)) => new.matches_strongly(&stored),
            _ => false,
        };
    }
    match DateField::of(not_modified, &LAST_MODIFIED) {
        DateField::Absent => !has_validator(stored),
        DateField::Invalid => false,
        new => new == DateField::of(stored, &LAST_MODIFIED),
    }
}

/// Fields that a 304 does not change. `Content-Length` by §3.2's word; the others describe the very bytes that are
/// stored, whose integrity §3.2 lets a cache protect: a 304 has no content, and servers are known to send such
/// fields with it by default.
static BOUND_TO_CONTENT: [HeaderName; 4] = [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE];

/// The stored headers updated from a 304 (§3.2, with its exceptions). `not_modified` has already lost its
/// hop-by-hop fields. Values are replaced field by field: all old lines of a name go when the 304 has that name. The
/// result carries the 304's `Age`, if any, and its `Set-Cookie`: it has to pass [`super::storable`] again, and to be
/// prepared for storing like any other response.
pub fn freshen(stored: &HeaderMap, not_modified: &HeaderMap) -> HeaderMap {
    let mut fresh = stored.clone();
    // The stored Date is the old message's. RFC 9110 §6.6.1 dates a message that has none when it comes.
    fresh.remove(DATE);
    for name in not_modified.keys().filter(|name| !BOUND_TO_CONTENT.contains(name)) {
        fresh.remove(name);
        for value in not_modified.get_all(name) {
            fresh.append(name, value.clone());
        }
    }
    fresh
}

/// Representation metadata that a 304 leaves out, besides `Last-Modified`.
static LEFT_OUT_OF_304: [HeaderName; 5] =
    [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE];

/// The fields of a stored response that a 304 carries (RFC 9110 §15.4.5): everything but representation metadata
/// that the client already has; `Content-Length` and `Content-Type` among what is left out. `Last-Modified` goes
/// along only where there is no `ETag`.
pub fn not_modified_headers(stored: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    for name in &LEFT_OUT_OF_304 {
        headers.remove(name);
    }
    if headers.contains_key(ETAG) {
        headers.remove(LAST_MODIFIED);
    }
    headers
}

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntityTag<'a> {
    is_weak: bool,
    /// Without its quotes.
    opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// The `ETag` of a response; `None` if there is none, more than one, or one that is malformed.
    pub(super) fn of(headers: &'a HeaderMap) -> Option<EntityTag<'a>> {
        let mut lines = headers.get_all(ETAG).iter();
        let only = lines.next().filter(|_| lines.next().is_none())?;
        EntityTag::parse(only.as_bytes())
    }

    /// A value that is one entity tag and nothing else.
    pub(super) fn parse(value: &'a [u8]) -> Option<EntityTag<'a>> {
        let (tag, rest) = EntityTag::take(value.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    /// The entity tag at the beginning of `text`, and what follows it. Backslashes escape nothing here.
    fn take(text: &'a [u8]) -> Option<(EntityTag<'a>, &'a [u8])> {
        // Case-sensitive (§8.8.3).
        let (is_weak, text) = text.strip_prefix(b"W/").map_or((false, text), |strong| (true, strong));
        let quoted = text.strip_prefix(b"\"")?;
        let end = quoted.iter().position(|byte| *byte == b'"')?;
        let opaque = &quoted[..end];
        let is_valid = opaque.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
        is_valid.then_some((EntityTag { is_weak, opaque }, &quoted[end + 1..]))
    }

    /// RFC 9110 §8.8.3.2.
    pub(super) fn matches_weakly(&self, other: &EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// RFC 9110 §8.8.3.2.
    pub(super) fn matches_strongly(&self, other: &EntityTag<'_>) -> bool {
        !self.is_weak && !other.is_weak && self.opaque == other.opaque
    }
}

/// The entity tags of one line; commas inside them are their own. What is not an entity tag is passed over.
fn entity_tags(line: &[u8]) -> impl Iterator<Item = EntityTag<'_>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_ascii_start();
            if let Some((tag, after)) = EntityTag::take(rest) {
                rest = after;
                return Some(tag);
            }
            let comma = rest.iter().position(|byte| *byte == b',')?;
            rest = &rest[comma + 1..];
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::sample::{Fields, fields};
    use proptest::prelude::*;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Mon, 07 Nov 1994 08:49:37 GMT";

    fn is_not_modified(request: Fields<'_>, stored: Fields<'_>) -> bool {
        evaluate(&fields(request), StatusCode::OK, &fields(stored)) == Condition::NotModified
    }

    #[test]
    fn if_none_match_compares_weakly_with_each_tag_of_each_line() {
        let rows: [(&[&str], &str, bool); 20] = [
            (&["\"xyzzy\""], "\"xyzzy\"", true),
            (&["W/\"xyzzy\""], "\"xyzzy\"", true),
            (&["\"xyzzy\""], "W/\"xyzzy\"", true),
            (&["W/\"1\""], "W/\"2\"", false),
            (&["\"xyzzy\", \"r2d2xxxx\", \"c3piozzzz\""], "\"c3piozzzz\"", true),
            (&["W/\"xyzzy\", W/\"r2d2xxxx\""], "\"r2d2xxxx\"", true),
            (&["\"a\"", "\"b\""], "\"b\"", true),
            (&["\"a,b\",\"c\""], "\"a,b\"", true),
            (&["\"a,b\""], "\"b\"", false),
            (&["\"a\\\", \"b\""], "\"b\"", true),
            (&[" ,, \"a\" ,"], "\"a\"", true),
            (&["bare, \"a\""], "\"a\"", true),
            (&["a"], "\"a\"", false),
            (&["\"a"], "\"a\"", false),
            (&["w/\"a\""], "\"a\"", false),
            (&["\"A\""], "\"a\"", false),
            (&["\"\""], "\"\"", true),
            (&["*"], "\"a\"", true),
            (&["\"*\""], "\"a\"", false),
            (&[""], "\"a\"", false),
        ];
        for (lines, etag, expected) in rows {
            let request: Vec<_> = lines.iter().map(|line| ("if-none-match", *line)).collect();
            assert_eq!(is_not_modified(&request, &[("etag", etag)]), expected, "{lines:?} against {etag}");
        }
        assert!(!is_not_modified(&[("if-none-match", "\"a\"")], &[]));
        assert!(is_not_modified(&[("if-none-match", "*")], &[]));
        assert!(!is_not_modified(&[("if-none-match", "a")], &[("etag", "a")]));
    }

    #[test]
    fn if_modified_since_counts_only_alone_and_only_as_a_date() {
        let since = |value| ("if-modified-since", value);
        let modified = |value| ("last-modified", value);
        let rows: [(Fields<'_>, Fields<'_>, bool); 13] = [
            (&[since(OLD)], &[modified(OLD)], true),
            (&[since(NEW)], &[modified(OLD)], true),
            (&[since(OLD)], &[modified(NEW)], false),
            (&[since("Sunday, 06-Nov-94 08:49:37 GMT")], &[modified(OLD)], true),
            (&[since("yesterday")], &[modified(OLD)], false),
            (&[since(NEW), since(NEW)], &[modified(OLD)], false),
            (&[since(OLD)], &[modified("yesterday"), ("date", OLD)], false),
            (&[since(OLD)], &[("date", OLD)], true),
            (&[since(OLD)], &[("date", NEW)], false),
            (&[since(OLD)], &[], false),
            (&[since(NEW), ("if-none-match", "\"b\"")], &[modified(OLD), ("etag", "\"a\"")], false),
            (&[since(NEW), ("if-none-match", "")], &[modified(OLD)], false),
            (&[], &[modified(OLD), ("etag", "\"a\"")], false),
        ];
        for (request, stored, expected) in rows {
            assert_eq!(is_not_modified(request, stored), expected, "{request:?} against {stored:?}");
        }
    }

    #[test]
    fn only_a_200_becomes_a_304() {
        let request = fields(&[("if-none-match", "*")]);
        for status in [StatusCode::NOT_FOUND, StatusCode::MOVED_PERMANENTLY, StatusCode::NO_CONTENT] {
            assert_eq!(evaluate(&request, status, &HeaderMap::new()), Condition::Send);
        }
    }

    #[test]
    fn preconditions_on_writing_are_the_origins() {
        assert!(is_for_origin(&fields(&[("if-match", "\"a\"")])));
        assert!(is_for_origin(&fields(&[("if-unmodified-since", OLD)])));
        assert!(!is_for_origin(&fields(&[("if-none-match", "\"a\""), ("range", "bytes=0-1")])));
    }

    #[test]
    fn a_validating_request_carries_the_stored_validators_and_no_others() {
        let mut request = fields(&[
            ("accept", "*/*"),
            ("if-none-match", "\"mine\""),
            ("if-modified-since", NEW),
            ("if-range", "\"mine\""),
            ("range", "bytes=0-1"),
        ]);
        make_conditional(&mut request, &fields(&[("etag", "W/\"a\""), ("last-modified", OLD)]));
        let expected = [("accept", "*/*"), ("if-none-match", "W/\"a\""), ("if-modified-since", OLD)];
        assert_eq!(request, fields(&expected));
        make_conditional(&mut request, &fields(&[("etag", "bare"), ("last-modified", "yesterday")]));
        assert_eq!(request, fields(&[("accept", "*/*")]));
    }

    #[test]
    fn validators_must_be_well_formed() {
        let rows: [(Fields<'_>, bool); 8] = [
            (&[], false),
            (&[("etag", "\"\"")], true),
            (&[("etag", "W/\"a\"")], true),
            (&[("etag", "a")], false),
            (&[("etag", "\"a b\"")], false),
            (&[("etag", "\"a\""), ("etag", "\"b\"")], false),
            (&[("last-modified", OLD)], true),
            (&[("last-modified", "0")], false),
        ];
        for (stored, expected) in rows {
            assert_eq!(has_validator(&fields(stored)), expected, "{stored:?}");
        }
    }

    #[test]
    fn a_304_is_about_what_its_validators_name() {
        let rows: [(Fields<'_>, Fields<'_>, bool); 14] = [
            (&[("etag", "\"a\"")], &[("etag", "\"a\"")], true),
            (&[("etag", "\"b\"")], &[("etag", "\"a\"")], false),
            (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")], false),
            (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")], true),
            (&[("etag", "W/\"a\"")], &[("etag", "W/\"a\"")], true),
            (&[("etag", "W/\"b\"")], &[("etag", "W/\"a\"")], false),
            (&[("etag", "\"b\""), ("last-modified", OLD)], &[("etag", "\"a\""), ("last-modified", OLD)], false),
            (&[("etag", "\"a\"")], &[("last-modified", OLD)], false),
            (&[("last-modified", OLD)], &[("etag", "\"a\""), ("last-modified", OLD)], true),
            (&[("last-modified", NEW)], &[("last-modified", OLD)], false),
            (&[("last-modified", "x")], &[("last-modified", "x")], false),
            (&[], &[], true),
            (&[], &[("etag", "\"a\"")], false),
            (&[], &[("last-modified", OLD)], false),
        ];
        for (not_modified, stored, expected) in rows {
            assert_eq!(selects(&fields(not_modified), &fields(stored)), expected, "{not_modified:?} {stored:?}");
        }
    }

    #[test]
    fn a_304_replaces_all_lines_of_the_fields_it_has() {
        let stored = fields(&[
            ("date", OLD),
            ("link", "<a>"),
            ("link", "<b>"),
            ("x-kept", "1"),
            ("cache-control", "max-age=1"),
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
            ("content-length", "5"),
        ]);
        let not_modified = fields(&[
            ("date", NEW),
            ("link", "<c>"),
            ("cache-control", "max-age=2"),
            ("cache-control", "public"),
            ("x-new", "1"),
            ("age", "7"),
            ("content-type", "text/html"),
            ("content-encoding", "identity"),
            ("content-length", "0"),
            ("content-range", "bytes 0-1/2"),
            ("content-language", "de"),
        ]);
        let expected = fields(&[
            ("date", NEW),
            ("link", "<c>"),
            ("x-kept", "1"),
            ("cache-control", "max-age=2"),
            ("cache-control", "public"),
            ("x-new", "1"),
            ("age", "7"),
            ("content-type", "application/json"),
            ("content-encoding", "gzip"),
            ("content-length", "5"),
            ("content-language", "de"),
        ]);
        assert_eq!(freshen(&stored, &not_modified), expected);
    }

    #[test]
    fn a_304_without_date_does_not_leave_the_old_date() {
        let fresh = freshen(&fields(&[("date", OLD), ("etag", "\"a\"")]), &fields(&[("etag", "\"a\"")]));
        assert_eq!(fresh, fields(&[("etag", "\"a\"")]));
    }

    #[test]
    fn a_304_to_the_client_has_what_rfc_9110_asks_for() {
        let required = [
            ("content-location", "/a"),
            ("date", OLD),
            ("etag", "\"a\""),
            ("vary", "accept"),
            ("cache-control", "max-age=1"),
            ("expires", NEW),
            ("link", "<a>"),
        ];
        let mut stored = fields(&required);
        for (name, value) in [("content-type", "a/b"), ("content-length", "5"), ("last-modified", OLD)] {
            stored.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert_eq!(not_modified_headers(&stored), fields(&required));
        let by_date = fields(&[("last-modified", OLD), ("content-encoding", "gzip")]);
        assert_eq!(not_modified_headers(&by_date), fields(&[("last-modified", OLD)]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let names = [IF_NONE_MATCH, IF_MODIFIED_SINCE, ETAG, LAST_MODIFIED, DATE];
                let headers: HeaderMap = names.into_iter().map(|name| (name, value.clone())).collect();
                let _ = evaluate(&headers, StatusCode::OK, &headers);
                let _ = selects(&headers, &headers);
            }
        }

        #[test]
        fn a_tag_is_found_in_any_list_that_holds_it(
            before in proptest::collection::vec("(W/)?\"[!#-~]{0,6}\"|[a-z]{0,3}", 0..4),
            opaque in "[!#-~]{0,8}",
        ) {
            let line = before.into_iter().chain([format!("\"{opaque}\"")]).collect::<Vec<_>>().join(", ");
            let stored = format!("W/\"{opaque}\"");
            prop_assert!(is_not_modified(&[("if-none-match", &line)], &[("etag", &stored)]));
        }

        #[test]
        fn freshening_never_touches_what_describes_the_stored_bytes(
            lines in proptest::collection::vec(
                ("(content-length|content-encoding|content-type|content-range|etag|x-a)", "[a-z0-9]{0,5}"), 0..8,
            ),
        ) {
            let stored = fields(&[("content-length", "5"), ("content-type", "a/b"), ("x-a", "old")]);
            let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let not_modified = fields(&lines);
            let fresh = freshen(&stored, &not_modified);
            for name in &BOUND_TO_CONTENT {
                prop_assert!(fresh.get_all(name).iter().eq(stored.get_all(name).iter()));
            }
            for name in [HeaderName::from_static("x-a"), ETAG] {
                let source = if not_modified.contains_key(&name) { &not_modified } else { &stored };
                prop_assert!(fresh.get_all(&name).iter().eq(source.get_all(&name).iter()));
            }
        }
    }
}
