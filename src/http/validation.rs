//! Validation (RFC 9111 §4.3, RFC 9110 §8.8 and §13): of stored responses with upstream, and of clients' copies.
//!
//! `If-Match` and `If-Unmodified-Since` are ignored, never evaluated, where a fresh stored response agrees with them (RFC 9110
//! §13.1.1, §13.1.4); otherwise they are left to the origin (RFC 9111 §4.3.2).

use std::time::{Duration, SystemTime};

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::date::{self, DateField};

/// The result of a client's conditions for a stored or fetched response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Send the response.
    Send,
    /// Send 304 (RFC 9110 §15.4.5).
    NotModified,
    /// Send 304, judged by the date of the stored response alone. The response may have changed again within that
    /// second (RFC 9110 §8.8.2.2): send 200 if a write is known in that second or the next, by which a write of that
    /// second may have been answered.
    NotModifiedSince(SystemTime),
}

/// Evaluates `If-None-Match` (weak comparison, lists, `*`), else `If-Modified-Since` (RFC 9110 §13.2.2), for a 200
/// response. Other statuses are sent as they are.
pub fn evaluate(request: &HeaderMap, status: StatusCode, stored: &HeaderMap) -> Condition {
    if status != StatusCode::OK {
        return Condition::Send;
    }
    // RFC 9110 §13.1.3: If-Modified-Since is ignored if If-None-Match is present, even if invalid.
    if request.contains_key(IF_NONE_MATCH) {
        return if names_stored(request, stored) { Condition::NotModified } else { Condition::Send };
    }
    unmodified_since(request, stored).map_or(Condition::Send, Condition::NotModifiedSince)
}

/// RFC 9110 §13.1.2.
fn names_stored(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let stored = EntityTag::of(stored);
    request.get_all(IF_NONE_MATCH).iter().map(HeaderValue::as_bytes).any(|line| {
        line.trim_ascii() == b"*"
            || stored.is_some_and(|stored| entity_tags(line).any(|tag| tag.matches_weakly(&stored)))
    })
}

/// RFC 9110 §13.1.3; without `Last-Modified` by `Date` (RFC 9111 §4.3.2). Returns the date of the stored response if
/// it is no later than the request's.
fn unmodified_since(request: &HeaderMap, stored: &HeaderMap) -> Option<SystemTime> {
    let mut lines = request.get_all(IF_MODIFIED_SINCE).iter();
    // A field with several members, or without a valid date on either side, is ignored.
    let since = lines.next().and_then(date::parse).filter(|_| lines.next().is_none())?;
    let modified = match DateField::of(stored, &LAST_MODIFIED) {
        DateField::Absent => DateField::of(stored, &DATE),
        given => given,
    };
    modified.valid().filter(|modified| *modified <= since)
}

/// Whether the request has preconditions for the origin only (`If-Match`, `If-Unmodified-Since`; RFC 9111 §4.3.2).
pub fn is_for_origin(request: &HeaderMap) -> bool {
    request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE)
}

/// Whether these preconditions hold for a stored 2xx response, so that the origin would send it. A cache must not
/// evaluate them (RFC 9111 §4.3.2) but may ignore them (RFC 9110 §13.1.1, §13.1.4), which is the same if they hold;
/// otherwise the request is forwarded. Entity tags are compared strongly.
pub fn is_as_asked(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(IF_MATCH) {
        return is_matched(request, stored);
    }
    let mut lines = request.get_all(IF_UNMODIFIED_SINCE).iter();
    // §13.1.4: without a valid date on either side, the field is ignored.
    let since = lines.next().and_then(date::parse).filter(|_| lines.next().is_none());
    match (since, DateField::of(stored, &LAST_MODIFIED).valid()) {
        (Some(since), Some(modified)) => modified <= since,
        _ => true,
    }
}

/// RFC 9110 §13.1.1. `*` must be the only member.
fn is_matched(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let lines = || request.get_all(IF_MATCH).iter().map(HeaderValue::as_bytes);
    let is_any = lines().count() == 1 && lines().all(|line| line.trim_ascii() == b"*");
    let is =
        |stored: EntityTag<'_>| lines().any(|line| entity_tags(line).any(|tag| tag.matches_strongly(&stored)));
    is_any || EntityTag::of(stored).is_some_and(is)
}

/// Removes the client's conditions and range from a request that fetches a whole response.
pub fn strip_conditions(request: &mut HeaderMap) {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE] {
        request.remove(name);
    }
}

/// Whether the stored headers have a well-formed `ETag` or `Last-Modified`.
pub fn has_validator(stored: &HeaderMap) -> bool {
    EntityTag::of(stored).is_some() || DateField::of(stored, &LAST_MODIFIED).valid().is_some()
}

/// Whether a 304 for this stored response proves that nothing has changed since it was created: by an entity tag, or
/// by a date at least a second older than the response (RFC 9110 §8.8.2.2).
pub fn tells_every_change(stored: &HeaderMap) -> bool {
    let at = |name| DateField::of(stored, name).valid();
    let is_old = || Some(at(&LAST_MODIFIED)? + Duration::from_secs(1) <= at(&DATE)?);
    EntityTag::of(stored).is_some() || is_old().unwrap_or(false)
}

/// Makes `request` conditional on the stored response (§4.3.1): `If-None-Match` from `ETag`, `If-Modified-Since` from
/// `Last-Modified`. Replaces the client's conditions.
pub fn make_conditional(request: &mut HeaderMap, stored: &HeaderMap) {
    strip_conditions(request);
    if let (Some(value), Some(_)) = (stored.get(ETAG), EntityTag::of(stored)) {
        request.insert(IF_NONE_MATCH, value.clone());
    }
    // Sent as received: some origins compare it as text (RFC 9110 §13.1.3).
    if let (Some(value), DateField::At(_)) = (stored.get(LAST_MODIFIED), DateField::of(stored, &LAST_MODIFIED)) {
        request.insert(IF_MODIFIED_SINCE, value.clone());
    }
}

/// Whether a 304 confirms the stored response (§4.3.4). The request had only this response's validators, so the 304
/// means it unless its own validators differ:
///
/// - An `ETag` decides alone: it must match the stored one weakly. A strong one for a weak one is what an upstream says that
///   weakens its tags as it compresses, and does not compress a 304 (Django, nginx). One that is not well formed must be the
///   stored text. Where the stored response has no `ETag`, it has to be named by `Last-Modified`.
/// - Without an `ETag`, a `Last-Modified` must be the stored one.
/// - Without either, the 304 is about what was asked about.
///
/// A stored response without a validator is never confirmed: the request had no condition.
pub fn selects(not_modified: &HeaderMap, stored: &HeaderMap) -> bool {
    let at = DateField::of(not_modified, &LAST_MODIFIED);
    let is_dated_alike = at == DateField::of(stored, &LAST_MODIFIED);
    if !has_validator(stored) {
        return false;
    }
    match (EntityTag::of(not_modified), EntityTag::of(stored)) {
        (Some(new), Some(stored)) => new.matches_weakly(&stored),
        (Some(_), None) if !stored.contains_key(ETAG) => is_dated_alike && at.valid().is_some(),
        (Some(_), None) => false,
        (None, _) if not_modified.contains_key(ETAG) && !has_same_lines(not_modified, stored, &ETAG) => false,
        (None, _) => match at {
            DateField::Absent => true,
            DateField::Invalid => has_same_lines(not_modified, stored, &LAST_MODIFIED),
            DateField::At(_) => is_dated_alike,
        },
    }
}

/// How the 200 to a HEAD affects a stored GET response that could have been selected for it (§4.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadVerdict {
    /// Same representation: [`freshen`] the stored response.
    Updates,
    /// Another representation: the stored response is invalidated.
    Invalidates,
    /// Unknown: the stored response stays as it is.
    ShowsNothing,
}

/// Compares the HEAD response's `ETag`, `Last-Modified` and `Content-Length` with the stored response and its body
/// (§4.3.5). All that are present must agree. Without a validator, a different length disproves, but an equal length
/// proves nothing: a new representation often has the same length. The stored response then stays stale, and the next
/// GET validates it.
pub fn head_verdict(head: &HeaderMap, stored: &HeaderMap, stored_length: u64) -> HeadVerdict {
    let is_validated = head.contains_key(ETAG) || head.contains_key(LAST_MODIFIED);
    let agrees =
        agrees_on_etag(head, stored) && agrees_on_date(head, stored) && agrees_on_length(head, stored_length);
    match (agrees, is_validated) {
        (false, _) => HeadVerdict::Invalidates,
        (true, true) => HeadVerdict::Updates,
        (true, false) => HeadVerdict::ShowsNothing,
    }
}

fn agrees_on_etag(head: &HeaderMap, stored: &HeaderMap) -> bool {
    match (EntityTag::of(head), EntityTag::of(stored)) {
        (Some(new), Some(stored)) => new.names(&stored),
        // Malformed validators cannot validate, but can be compared as text.
        _ => !head.contains_key(ETAG) || has_same_lines(head, stored, &ETAG),
    }
}

fn agrees_on_date(head: &HeaderMap, stored: &HeaderMap) -> bool {
    match (DateField::of(head, &LAST_MODIFIED), DateField::of(stored, &LAST_MODIFIED)) {
        (DateField::Absent, _) => true,
        (DateField::At(new), DateField::At(stored)) => new == stored,
        _ => has_same_lines(head, stored, &LAST_MODIFIED),
    }
}

fn agrees_on_length(head: &HeaderMap, stored_length: u64) -> bool {
    let is_stored_length = |line: &HeaderValue| line.to_str().is_ok_and(|text| text.parse() == Ok(stored_length));
    head.get_all(CONTENT_LENGTH).iter().all(is_stored_length)
}

fn has_same_lines(left: &HeaderMap, right: &HeaderMap, name: &HeaderName) -> bool {
    left.get_all(name).iter().eq(right.get_all(name).iter())
}

/// Fields that a 304 or a HEAD response does not update. `Content-Length` because of §3.2; the others describe the
/// stored bytes, whose integrity §3.2 lets a cache protect: servers are known to send such fields in a 304 by
/// default.
static BOUND_TO_CONTENT: [HeaderName; 4] = [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE];

/// The stored headers, updated (§3.2 with its exceptions) from a 304 that [`selects`] them, or from a 200 to a HEAD
/// that [updates](head_verdict) them. `update` has no hop-by-hop fields. All stored lines of a name are replaced if
/// the update has that name. `Vary` stays, since the key depends on it (§4.1), and so does an `ETag` that would
/// become stronger: the update's may be that of the uncompressed content. The result has the update's `Age` and
/// `Set-Cookie`, if any: it must pass [`super::storable`] again and be prepared for storing.
/// be prepared for storing like any other response.
pub fn freshen(stored: &HeaderMap, update: &HeaderMap) -> HeaderMap {
    let mut fresh = stored.clone();
    // The stored Date is that of the old message. RFC 9110 §6.6.1: a message without Date is dated at receipt.
    fresh.remove(DATE);
    let names_stored = match (EntityTag::of(update), EntityTag::of(stored)) {
        (Some(new), Some(stored)) => new.names(&stored),
        _ => false,
    };
    let is_kept =
        |name: &HeaderName| BOUND_TO_CONTENT.contains(name) || *name == VARY || (*name == ETAG && !names_stored);
    for name in update.keys().filter(|name| !is_kept(name)) {
        fresh.remove(name);
        for value in update.get_all(name) {
            fresh.append(name, value.clone());
        }
    }
    fresh
}

/// Representation metadata that a 304 omits, besides `Last-Modified`.
pub(super) static LEFT_OUT_OF_304: [HeaderName; 5] =
    [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE];

/// The fields of a stored response that a 304 includes (RFC 9110 §15.4.5): all but representation metadata that the
/// client already has, such as `Content-Length` and `Content-Type`. `Last-Modified` is included only without an
/// `ETag`.
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
    /// The `ETag` of a response; `None` if it is absent, repeated or malformed.
    pub(super) fn of(headers: &'a HeaderMap) -> Option<EntityTag<'a>> {
        let mut lines = headers.get_all(ETAG).iter();
        let only = lines.next().filter(|_| lines.next().is_none())?;
        EntityTag::parse(only.as_bytes())
    }

    /// Parses a value that is exactly one entity tag.
    pub(super) fn parse(value: &'a [u8]) -> Option<EntityTag<'a>> {
        let (tag, rest) = EntityTag::take(value.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    /// The leading entity tag of `text`, and the rest. Backslashes escape nothing here.
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

    /// Whether this tag of a new response identifies a stored one for update (RFC 9111 §4.3.4): strong comparison for
    /// a strong tag, weak comparison for a weak one.
    fn names(&self, stored: &EntityTag<'_>) -> bool {
        if self.is_weak { self.matches_weakly(stored) } else { self.matches_strongly(stored) }
    }
}

/// The entity tags of one line, which may contain commas. Invalid text is skipped.
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
    use crate::http::sample::{Fields, fields};
    use proptest::prelude::*;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Mon, 07 Nov 1994 08:49:37 GMT";

    #[test]
    fn a_date_reveals_every_change_only_if_older_than_the_response() {
        let rows: [(Fields<'_>, bool); 6] = [
            (&[("etag", "\"1\""), ("date", OLD)], true),
            (&[("last-modified", OLD), ("date", NEW)], true),
            (&[("last-modified", OLD), ("date", OLD)], false),
            (&[("last-modified", NEW), ("date", OLD)], false),
            (&[("last-modified", OLD)], false),
            (&[("date", NEW)], false),
        ];
        for (stored, tells) in rows {
            assert_eq!(tells_every_change(&fields(stored)), tells, "{stored:?}");
        }
    }

    #[test]
    fn preconditions_for_the_origin_are_ignored_if_that_changes_nothing() {
        let stored: Fields<'_> = &[("etag", "\"1\""), ("last-modified", OLD)];
        let rows: [(Fields<'_>, Fields<'_>, bool); 15] = [
            (&[("if-match", "*")], stored, true),
            (&[("if-match", "*, \"1\"")], stored, true),
            (&[("if-match", "*, \"2\"")], stored, false),
            (&[("if-match", "*"), ("if-match", "*")], stored, false),
            (&[("if-match", "\"1\"")], stored, true),
            (&[("if-match", "\"2\", \"1\"")], stored, true),
            (&[("if-match", "\"2\""), ("if-match", "\"1\"")], stored, true),
            (&[("if-match", "W/\"1\"")], stored, false),
            (&[("if-match", "\"1\"")], &[("etag", "W/\"1\"")], false),
            (&[("if-match", "\"1\"")], &[], false),
            (&[("if-match", "\"2\""), ("if-unmodified-since", NEW)], stored, false),
            (&[("if-unmodified-since", OLD)], stored, true),
            (&[("if-unmodified-since", NEW)], stored, true),
            (&[("if-unmodified-since", "yesterday")], stored, true),
            (&[("if-unmodified-since", OLD)], &[("last-modified", NEW)], false),
        ];
        for (request, stored, expected) in rows {
            assert_eq!(is_as_asked(&fields(request), &fields(stored)), expected, "{request:?} {stored:?}");
        }
    }

    fn is_not_modified(request: Fields<'_>, stored: Fields<'_>) -> bool {
        evaluate(&fields(request), StatusCode::OK, &fields(stored)) != Condition::Send
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
    fn conditions_by_date_and_by_entity_tag_differ() {
        let stored = fields(&[("last-modified", OLD), ("etag", "\"a\"")]);
        let of = |request: Fields<'_>| evaluate(&fields(request), StatusCode::OK, &stored);
        let old = Condition::NotModifiedSince(date::parse(&HeaderValue::from_static(OLD)).unwrap());
        assert_eq!(of(&[("if-modified-since", OLD)]), old);
        assert_eq!(of(&[("if-modified-since", NEW)]), old, "the date of what is stored");
        assert_eq!(of(&[("if-modified-since", OLD), ("if-none-match", "\"a\"")]), Condition::NotModified);
        assert_eq!(of(&[("if-none-match", "\"a\"")]), Condition::NotModified);
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
    fn a_304_confirms_the_stored_response_unless_its_validators_differ() {
        let etag = |value| ("etag", value);
        let modified = |value| ("last-modified", value);
        let rows: [(Fields<'_>, Fields<'_>, bool); 27] = [
            (&[etag("\"a\"")], &[etag("\"a\"")], true),
            (&[etag("\"b\"")], &[etag("\"a\"")], false),
            (&[etag("\"a\"")], &[etag("W/\"a\"")], true),
            (&[etag("W/\"a\"")], &[etag("\"a\"")], true),
            (&[etag("W/\"a\"")], &[etag("W/\"a\"")], true),
            (&[etag("W/\"b\"")], &[etag("W/\"a\"")], false),
            (&[etag("\"b\""), modified(OLD)], &[etag("\"a\""), modified(OLD)], false),
            (&[etag("\"a\""), modified(NEW)], &[etag("\"a\""), modified(OLD)], true),
            // It need not repeat the tag or the date.
            (&[], &[etag("\"a\"")], true),
            (&[], &[etag("W/\"a\"")], true),
            (&[], &[modified(OLD)], true),
            (&[], &[etag("\"a\""), modified(OLD)], true),
            (&[modified(OLD)], &[etag("\"a\""), modified(OLD)], true),
            (&[modified(NEW)], &[etag("\"a\""), modified(OLD)], false),
            (&[modified(NEW)], &[etag("\"a\"")], false),
            (&[modified(NEW)], &[modified(OLD)], false),
            (&[modified("Sunday, 06-Nov-94 08:49:37 GMT")], &[modified(OLD)], true),
            // A tag that the stored response lacks does not identify it; the date may.
            (&[etag("\"a\"")], &[modified(OLD)], false),
            (&[etag("\"a\""), modified(OLD)], &[modified(OLD)], true),
            (&[etag("\"a\""), modified(NEW)], &[modified(OLD)], false),
            // Malformed validators are ignored if equal to the stored ones.
            (&[etag("a")], &[etag("a"), modified(OLD)], true),
            (&[etag("b")], &[etag("a"), modified(OLD)], false),
            (&[etag("a")], &[etag("\"a\"")], false),
            (&[modified("0")], &[etag("\"a\""), modified("0")], true),
            (&[modified("0")], &[etag("\"a\""), modified(OLD)], false),
            // The request had no condition.
            (&[modified("x")], &[modified("x")], false),
            (&[], &[], false),
        ];
        for (not_modified, stored, expected) in rows {
            assert_eq!(selects(&fields(not_modified), &fields(stored)), expected, "{not_modified:?} {stored:?}");
        }
    }

    #[test]
    fn a_head_updates_a_matching_response_and_invalidates_others() {
        let etag = |value| ("etag", value);
        let modified = |value| ("last-modified", value);
        const UPDATES: HeadVerdict = HeadVerdict::Updates;
        const INVALIDATES: HeadVerdict = HeadVerdict::Invalidates;
        const NOTHING: HeadVerdict = HeadVerdict::ShowsNothing;
        let rows: [(Fields<'_>, Fields<'_>, HeadVerdict); 22] = [
            (&[etag("\"a\""), modified(OLD)], &[etag("\"a\""), modified(OLD)], UPDATES),
            (&[etag("\"a\"")], &[etag("\"a\""), modified(OLD)], UPDATES),
            (&[modified(OLD)], &[etag("\"a\""), modified(OLD)], UPDATES),
            (&[etag("\"a\""), modified(NEW)], &[etag("\"a\""), modified(OLD)], INVALIDATES),
            (&[etag("\"b\""), modified(OLD)], &[etag("\"a\""), modified(OLD)], INVALIDATES),
            (&[etag("\"a\"")], &[etag("W/\"a\"")], INVALIDATES),
            (&[etag("W/\"a\"")], &[etag("\"a\"")], UPDATES),
            (&[etag("\"a\"")], &[], INVALIDATES),
            (&[modified(OLD)], &[], INVALIDATES),
            (&[modified("Sunday, 06-Nov-94 08:49:37 GMT")], &[modified(OLD)], UPDATES),
            (&[etag("a")], &[etag("a")], UPDATES),
            (&[etag("a")], &[etag("b")], INVALIDATES),
            (&[modified("0")], &[modified("0")], UPDATES),
            (&[modified("0")], &[modified(OLD)], INVALIDATES),
            // Without validators it proves nothing.
            (&[], &[etag("\"a\"")], NOTHING),
            (&[], &[modified(OLD)], NOTHING),
            (&[], &[], NOTHING),
            (&[("content-length", "5")], &[], NOTHING),
            (&[("content-length", "6")], &[], INVALIDATES),
            (&[("content-length", "x")], &[], INVALIDATES),
            (&[("content-length", "5"), etag("\"a\"")], &[etag("\"a\"")], UPDATES),
            (&[("content-length", "0"), etag("\"a\"")], &[etag("\"a\"")], INVALIDATES),
        ];
        for (head, stored, expected) in rows {
            assert_eq!(head_verdict(&fields(head), &fields(stored), 5), expected, "{head:?} {stored:?}");
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
    fn a_304_changes_neither_what_is_keyed_nor_makes_a_tag_stronger() {
        let rows = [
            (Some("W/\"a\""), Some("\"a\""), Some("W/\"a\"")),
            (Some("\"a\""), Some("W/\"a\""), Some("W/\"a\"")),
            (None, Some("\"a\""), None),
            (None, Some("W/\"a\""), None),
            (Some("\"a\""), None, Some("\"a\"")),
        ];
        for (stored, update, expected) in rows {
            let message = |tag: Option<&'static str>, vary| {
                let tag = tag.map(|tag| ("etag", tag));
                fields(&tag.into_iter().chain([("vary", vary)]).collect::<Vec<_>>())
            };
            let fresh = freshen(&message(stored, "origin, accept"), &message(update, "origin"));
            assert_eq!(fresh, message(expected, "origin, accept"), "{stored:?} {update:?}");
        }
    }

    #[test]
    fn a_304_without_date_does_not_leave_the_old_date() {
        let fresh = freshen(&fields(&[("date", OLD), ("etag", "\"a\"")]), &fields(&[("etag", "\"a\"")]));
        assert_eq!(fresh, fields(&[("etag", "\"a\"")]));
    }

    #[test]
    fn a_304_to_the_client_has_the_required_fields() {
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
        fn freshening_never_changes_fields_about_the_stored_bytes(
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
            prop_assert!(!fresh.contains_key(ETAG), "it has none of its own");
            let name = HeaderName::from_static("x-a");
            let source = if not_modified.contains_key(&name) { &not_modified } else { &stored };
            prop_assert!(fresh.get_all(&name).iter().eq(source.get_all(&name).iter()));
        }
    }
}
