//! Byte ranges (RFC 9110 §14) cut from a complete stored response. Single ranges; a request for several gets the
//! whole, which §14.2 allows.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, IF_RANGE, LAST_MODIFIED, RANGE};

use super::date::DateField;
use super::validation::EntityTag;

/// What a request's `Range` asks of a representation of known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// No (usable) range: send all of it.
    Whole,
    /// Bytes `first..=last`: 206.
    Part { first: u64, last: u64 },
    /// 416 (§15.5.17).
    Unsatisfiable,
}

/// Reads `Range` and `If-Range` (§13.1.5, strong comparison) against a stored 200 response of `length` bytes. For
/// GET only, and after the conditions of [`super::validation::evaluate`] (§14.2).
pub fn requested(request: &HeaderMap, stored: &HeaderMap, length: u64) -> Range {
    let mut lines = request.get_all(RANGE).iter();
    match (lines.next(), lines.next()) {
        (Some(only), None) if is_condition_true(request, stored) => {
            single_range(only.as_bytes()).map_or(Range::Whole, |range| range.within(length))
        }
        _ => Range::Whole,
    }
}

/// `If-Range` (§13.1.5): true when it is absent, or names exactly the stored response.
fn is_condition_true(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let mut lines = request.get_all(IF_RANGE).iter();
    let Some(condition) = lines.next() else {
        return true;
    };
    if lines.next().is_some() {
        return false;
    }
    match (EntityTag::parse(condition.as_bytes()), EntityTag::of(stored)) {
        (Some(tag), Some(stored)) => tag.matches_strongly(&stored),
        (Some(_), None) => false,
        (None, _) => stored.get(LAST_MODIFIED) == Some(condition) && is_last_modified_strong(stored),
    }
}

/// RFC 9110 §8.8.2.2: a representation that changed twice in that second would have a Date in it.
fn is_last_modified_strong(stored: &HeaderMap) -> bool {
    match (DateField::of(stored, &LAST_MODIFIED), DateField::of(stored, &DATE)) {
        (DateField::At(modified), DateField::At(date)) => {
            date.duration_since(modified).is_ok_and(|apart| apart >= Duration::from_secs(1))
        }
        _ => false,
    }
}

/// One valid `range-spec` (§14.1.1).
#[derive(Clone, Copy)]
enum Spec {
    From { first: u64, last: u64 },
    Suffix { count: u64 },
}

impl Spec {
    fn parse(text: &[u8]) -> Option<Spec> {
        let dash = text.iter().position(|byte| *byte == b'-')?;
        let (first, last) = (&text[..dash], &text[dash + 1..]);
        if first.is_empty() {
            return Some(Spec::Suffix { count: position(last)? });
        }
        let first = position(first)?;
        let last = if last.is_empty() { u64::MAX } else { position(last)? };
        // An int-range that ends before it begins is invalid, and the field with it.
        (first <= last).then_some(Spec::From { first, last })
    }

    /// §14.1.2.
    fn within(self, length: u64) -> Range {
        match self {
            Spec::Suffix { count: 0 } => Range::Unsatisfiable,
            // Satisfiable, but no Content-Range can say "no bytes"; §14.2 lets it be ignored.
            Spec::Suffix { .. } if length == 0 => Range::Whole,
            Spec::Suffix { count } => Range::Part { first: length.saturating_sub(count), last: length - 1 },
            Spec::From { first, .. } if first >= length => Range::Unsatisfiable,
            Spec::From { first, last } => Range::Part { first, last: last.min(length - 1) },
        }
    }
}

/// The only range of a `Range` value in bytes; `None` if the unit is another, the value is invalid, or there are
/// several ranges.
fn single_range(value: &[u8]) -> Option<Spec> {
    let equals = value.iter().position(|byte| *byte == b'=')?;
    // Range units are case-insensitive (§14.1).
    if !value[..equals].eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let specs = value[equals + 1..].split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut specs = specs.filter(|spec| !spec.is_empty());
    let only = specs.next().filter(|_| specs.next().is_none())?;
    Spec::parse(only)
}

/// Positions too great for an integer are beyond every length.
fn position(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let grow = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, grow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::sample::{Fields, fields};
    use http::HeaderValue;
    use proptest::prelude::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn of(range: &str, length: u64) -> Range {
        requested(&fields(&[("range", range)]), &HeaderMap::new(), length)
    }

    fn part(first: u64, last: u64) -> Range {
        Range::Part { first, last }
    }

    #[test]
    fn rfc_9110_examples() {
        let rows = [
            ("bytes=0-499", part(0, 499)),
            ("bytes=500-999", part(500, 999)),
            ("bytes=-500", part(9500, 9999)),
            ("bytes=9500-", part(9500, 9999)),
            ("bytes=0-0,-1", Range::Whole),
            ("bytes= 0-999, 4500-5499, -1000", Range::Whole),
            ("bytes=500-600,601-999", Range::Whole),
        ];
        for (range, expected) in rows {
            assert_eq!(of(range, 10_000), expected, "{range}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_length_or_refused() {
        let rows = [
            ("bytes=0-", 10, part(0, 9)),
            ("BYTES=5-99999999999999999999999", 10, part(5, 9)),
            ("bytes= ,5-6, ", 10, part(5, 6)),
            ("bytes=9-9", 10, part(9, 9)),
            ("bytes=-99", 10, part(0, 9)),
            ("bytes=-99999999999999999999999", 10, part(0, 9)),
            ("bytes=10-", 10, Range::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Range::Unsatisfiable),
            ("bytes=-0", 10, Range::Unsatisfiable),
            ("bytes=0-0", 0, Range::Unsatisfiable),
            ("bytes=-1", 0, Range::Whole),
        ];
        for (range, length, expected) in rows {
            assert_eq!(of(range, length), expected, "{range} of {length}");
        }
    }

    #[test]
    fn what_is_not_a_valid_byte_range_is_ignored() {
        let rows = [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=1-2-3",
            "bytes =1-2",
            "items=0-1",
            "0-1",
        ];
        for range in rows {
            assert_eq!(of(range, 10), Range::Whole, "{range}");
        }
        assert_eq!(requested(&HeaderMap::new(), &HeaderMap::new(), 10), Range::Whole);
        let twice = fields(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]);
        assert_eq!(requested(&twice, &HeaderMap::new(), 10), Range::Whole);
    }

    #[test]
    fn if_range_must_name_exactly_the_stored_response() {
        let later = ("date", "Sun, 06 Nov 1994 08:49:38 GMT");
        let modified = ("last-modified", MODIFIED);
        let rows: [(&str, Fields<'_>, bool); 13] = [
            ("\"a\"", &[("etag", "\"a\"")], true),
            ("\"b\"", &[("etag", "\"a\"")], false),
            ("W/\"a\"", &[("etag", "W/\"a\"")], false),
            ("\"a\"", &[("etag", "W/\"a\"")], false),
            ("W/\"a\"", &[("etag", "\"a\"")], false),
            ("\"a\", \"b\"", &[("etag", "\"a\"")], false),
            ("\"a\"", &[], false),
            (MODIFIED, &[modified, later], true),
            (MODIFIED, &[modified, ("date", MODIFIED)], false),
            (MODIFIED, &[modified], false),
            ("Sun, 06 Nov 1994 08:49:38 GMT", &[modified, later], false),
            ("x", &[("last-modified", "x"), later], false),
            ("", &[], false),
        ];
        for (condition, stored, holds) in rows {
            let request = fields(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let expected = if holds { part(0, 1) } else { Range::Whole };
            assert_eq!(requested(&request, &fields(stored), 10), expected, "{condition} against {stored:?}");
        }
    }

    #[test]
    fn a_false_if_range_sends_the_whole_even_for_an_unsatisfiable_range() {
        let request = fields(&[("range", "bytes=99-"), ("if-range", "\"b\"")]);
        assert_eq!(requested(&request, &fields(&[("etag", "\"a\"")]), 10), Range::Whole);
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_response(range in "bytes=[0-9]{0,21}-[0-9]{0,21}(,[0-9-]{0,3})?", length: u64) {
            if let Range::Part { first, last } = of(&range, length) {
                prop_assert!(first <= last && last < length);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30), length in 0u64..9) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let request: HeaderMap = [(RANGE, value.clone()), (IF_RANGE, value)].into_iter().collect();
                let _ = requested(&request, &request, length);
                let _ = single_range(&bytes).map(|range| range.within(length));
            }
        }
    }
}
