//! Byte ranges (RFC 9110 §14), one or several, of a complete representation. Abusive sets of ranges receive the whole
//! representation, as §14.2 allows.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{DATE, IF_RANGE, LAST_MODIFIED, RANGE};
use smallvec::SmallVec;

use super::date::DateField;
use super::validation::EntityTag;

/// What a request's `Range` selects from a representation of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// No (usable) range: send all of it.
    Whole,
    /// 206 (§15.3.7) with at least one range, in the requested order. No two ranges overlap or touch. A single range
    /// is sent directly (§15.3.7.1), several as [`super::multipart`].
    Parts(ByteRanges),
    /// 416 (§15.5.17): no range is satisfiable.
    Unsatisfiable,
}

/// The ranges of one representation; mostly one.
pub type ByteRanges = SmallVec<[ByteRange; 1]>;

/// Bytes `first..=last` of a representation; both lie within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    pub first: u64,
    pub last: u64,
}

/// Most ranges of one request; a request for more receives the whole representation (§17.15).
const RANGES: usize = 16;

/// Most overlapping ranges of one request (§14.2).
const OVERLAPPING: usize = 2;

/// Evaluates `Range` and `If-Range` (§13.1.5, strong comparison) for a 200 response of `length` bytes, stored or
/// being received with a known `Content-Length`. For GET only, and after the conditions of
/// [`super::validation::evaluate`] (§14.2).
pub fn requested(request: &HeaderMap, stored: &HeaderMap, length: u64) -> Range {
    let mut lines = request.get_all(RANGE).iter();
    match (lines.next(), lines.next()) {
        (Some(only), None) if is_condition_true(request, stored) => {
            specs(only.as_bytes()).map_or(Range::Whole, |specs| within(&specs, length))
        }
        _ => Range::Whole,
    }
}

/// Whether a request asks for a range. An invalid or abusive set of byte ranges counts as none (RFC 9110 §14.2).
/// Ranges in other units are left to the origin.
pub fn is_asked_for(request: &HeaderMap) -> bool {
    let mut lines = request.get_all(RANGE).iter();
    let Some(first) = lines.next() else { return false };
    let unit = first.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
    !unit.trim_ascii().eq_ignore_ascii_case(b"bytes")
        || (lines.next().is_none() && specs(first.as_bytes()).is_some())
}

impl ByteRange {
    /// Length in bytes.
    pub fn length(self) -> u64 {
        self.last - self.first + 1
    }

    /// The value of `Content-Range` (§14.4), in a representation of `length` bytes.
    pub fn content_range(self, length: u64) -> String {
        format!("bytes {}-{}/{length}", self.first, self.last)
    }

    /// The index range in a body of this length, clipped.
    pub fn within(self, length: usize) -> std::ops::Range<usize> {
        let end = usize::try_from(self.last).map_or(length, |last| length.min(last.saturating_add(1)));
        usize::try_from(self.first).map_or(end, |first| first.min(end))..end
    }

    /// These bytes of `body`, clipped.
    pub fn cut(self, body: &Bytes) -> Bytes {
        body.slice(self.within(body.len()))
    }

    fn overlaps(self, other: ByteRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether there is no gap between them.
    fn touches(self, other: ByteRange) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }

    fn joined(self, other: ByteRange) -> ByteRange {
        ByteRange { first: self.first.min(other.first), last: self.last.max(other.last) }
    }
}

/// Evaluates a valid set of ranges for `length` bytes. A set is satisfiable if one of its ranges is (§14.1.1); the
/// others are dropped (§15.3.7.2).
fn within(specs: &[Spec], length: u64) -> Range {
    let satisfiable = specs.iter().filter(|spec| spec.is_satisfiable(length));
    if satisfiable.clone().next().is_none() {
        return Range::Unsatisfiable;
    }
    // Satisfiable, but Content-Range cannot express zero bytes; §14.2 allows ignoring it.
    if length == 0 {
        return Range::Whole;
    }
    let parts: ByteRanges = satisfiable.map(|spec| spec.part(length)).collect();
    if overlapping(&parts) > OVERLAPPING { Range::Whole } else { Range::Parts(coalesced(parts)) }
}

fn overlapping(parts: &[ByteRange]) -> usize {
    let overlaps_another = |(index, part): &(usize, &ByteRange)| {
        parts.iter().enumerate().any(|(other, known)| other != *index && known.overlaps(**part))
    };
    parts.iter().enumerate().filter(overlaps_another).count()
}

/// Joins ranges that overlap or touch (§15.3.7.2), at the position of the first in the request.
fn coalesced(parts: ByteRanges) -> ByteRanges {
    let mut apart = ByteRanges::new();
    for mut part in parts {
        let mut place = apart.len();
        // The joined range may touch others.
        while let Some(at) = apart.iter().position(|known| known.touches(part)) {
            part = part.joined(apart.remove(at));
            place = place.min(at);
        }
        apart.insert(place, part);
    }
    apart
}

/// `If-Range` (§13.1.5): true if absent, or if it matches the stored response exactly.
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

/// RFC 9110 §8.8.2.2: a strong date is at least a second before `Date`.
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
        // An int-range that ends before it starts is invalid, and so is the field.
        (first <= last).then_some(Spec::From { first, last })
    }

    /// §14.1.2.
    fn is_satisfiable(&self, length: u64) -> bool {
        match *self {
            Spec::From { first, .. } => first < length,
            Spec::Suffix { count } => count > 0,
        }
    }

    /// The bytes of a satisfiable range, for a non-zero length.
    fn part(&self, length: u64) -> ByteRange {
        match *self {
            Spec::From { first, last } => ByteRange { first, last: last.min(length - 1) },
            Spec::Suffix { count } => ByteRange { first: length.saturating_sub(count), last: length - 1 },
        }
    }
}

/// The byte ranges of a `Range` value. `None` for another unit, an invalid range (which invalidates the field,
/// §14.1.1), no range, or too many.
fn specs(value: &[u8]) -> Option<SmallVec<[Spec; 1]>> {
    let equals = value.iter().position(|byte| *byte == b'=')?;
    // Range units are case-insensitive (§14.1).
    if !value[..equals].eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let members = value[equals + 1..].split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut specs = SmallVec::new();
    for member in members.filter(|member| !member.is_empty()) {
        if specs.len() == RANGES {
            return None;
        }
        specs.push(Spec::parse(member)?);
    }
    (!specs.is_empty()).then_some(specs)
}

/// Positions that overflow are beyond every length.
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
    use crate::http::sample::{Fields, fields};
    use http::HeaderValue;
    use proptest::prelude::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn of(range: &str, length: u64) -> Range {
        requested(&fields(&[("range", range)]), &HeaderMap::new(), length)
    }

    fn part(first: u64, last: u64) -> Range {
        parts(&[(first, last)])
    }

    fn parts(bounds: &[(u64, u64)]) -> Range {
        Range::Parts(bounds.iter().map(|(first, last)| ByteRange { first: *first, last: *last }).collect())
    }

    #[test]
    fn rfc_9110_examples() {
        let rows = [
            ("bytes=0-499", part(0, 499)),
            ("bytes=500-999", part(500, 999)),
            ("bytes=-500", part(9500, 9999)),
            ("bytes=9500-", part(9500, 9999)),
            ("bytes=0-0,-1", parts(&[(0, 0), (9999, 9999)])),
            ("bytes= 0-999, 4500-5499, -1000", parts(&[(0, 999), (4500, 5499), (9000, 9999)])),
            ("bytes=500-600,601-999", part(500, 999)),
            ("bytes=500-700,601-999", part(500, 999)),
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
    fn several_ranges_keep_their_order_and_are_clipped() {
        let rows = [
            ("bytes=500-599,0-99", parts(&[(500, 599), (0, 99)])),
            ("bytes=-1,0-0", parts(&[(999, 999), (0, 0)])),
            ("bytes=0-99,1000-,500-599", parts(&[(0, 99), (500, 599)])),
            ("bytes=0-99,-0", part(0, 99)),
            ("bytes=1000-,2000-2001,-0", Range::Unsatisfiable),
            ("bytes=0-1,5-4", Range::Whole),
            ("bytes=0-1,x", Range::Whole),
        ];
        for (range, expected) in rows {
            assert_eq!(of(range, 1000), expected, "{range}");
        }
        assert_eq!(of("bytes=-0,-1", 0), Range::Whole);
        assert_eq!(of("bytes=-0,0-1", 0), Range::Unsatisfiable);
    }

    #[test]
    fn ranges_that_touch_are_one_at_the_place_of_the_first() {
        let rows = [
            ("bytes=0-9,10-99", part(0, 99)),
            ("bytes=0-9,11-99", parts(&[(0, 9), (11, 99)])),
            ("bytes=10-99,0-9", part(0, 99)),
            ("bytes=0-500,100-200", part(0, 500)),
            ("bytes=500-599,0-9,600-699,", parts(&[(500, 699), (0, 9)])),
            // The last one joins the first two.
            ("bytes=0-9,500-509,200-209,100-199", parts(&[(0, 9), (500, 509), (100, 209)])),
            ("bytes=800-809,0-9,100-109,500-509,10-99", parts(&[(800, 809), (0, 109), (500, 509)])),
        ];
        for (range, expected) in rows {
            assert_eq!(of(range, 1000), expected, "{range}");
        }
    }

    #[test]
    fn abusive_sets_of_ranges_get_the_whole_representation() {
        let set = |count: u64| {
            format!("bytes={}", (0..count).map(|at| format!("{0}-{0},", at * 1000)).collect::<String>())
        };
        assert!(matches!(of(&set(16), 100_000), Range::Parts(parts) if parts.len() == 16));
        assert_eq!(of(&set(17), 100_000), Range::Whole);
        assert_eq!(of("bytes=0-9,5-14,10-19", 1000), Range::Whole);
        assert_eq!(of("bytes=0-,0-,0-", 1000), Range::Whole);
        assert_eq!(of("bytes=0-9,5-14,500-509", 1000), parts(&[(0, 14), (500, 509)]));
    }

    #[test]
    fn a_range_has_its_bytes_and_content_range() {
        let (body, part) = (Bytes::from_static(b"0123456789"), ByteRange { first: 2, last: 4 });
        assert_eq!(part.cut(&body), "234");
        assert_eq!(part.length(), 3);
        assert_eq!(part.content_range(10), "bytes 2-4/10");
        assert_eq!(ByteRange { first: 8, last: u64::MAX }.cut(&body), "89");
        assert_eq!(ByteRange { first: 10, last: 12 }.cut(&body), "");
    }

    #[test]
    fn invalid_byte_ranges_are_ignored() {
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
        fn parts_lie_within_the_response(
            range in "bytes=[0-9]{0,21}-[0-9]{0,21}(,[0-9]{1,3}-[0-9]{0,3}){0,5}", length: u64,
        ) {
            if let Range::Parts(parts) = of(&range, length) {
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().all(|part| part.first <= part.last && part.last < length));
            }
        }

        #[test]
        fn ranges_cover_the_request_without_duplicates(
            bounds in proptest::collection::vec((0u64..1500, 0u64..1500), 1..8), length in 1u64..1500,
        ) {
            let asked: Vec<_> = bounds.iter().map(|(a, b)| (*a.min(b), *a.max(b))).collect();
            let range = asked.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>().join(",");
            if let Range::Parts(parts) = of(&format!("bytes={range}"), length) {
                let is_asked = |byte: &u64| asked.iter().any(|(first, last)| (first..=last).contains(&byte));
                let holders = |byte: u64| parts.iter().filter(|part| (part.first..=part.last).contains(&byte)).count();
                prop_assert!((0..length).filter(is_asked).all(|byte| holders(byte) == 1));
                // The overhead is less than that of another part.
                let extra = (0..length).filter(|byte| !is_asked(byte) && holders(*byte) > 0).count();
                prop_assert!(extra < 80 * asked.len());
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30), length in 0u64..9) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let request: HeaderMap = [(RANGE, value.clone()), (IF_RANGE, value)].into_iter().collect();
                let _ = requested(&request, &request, length);
                let _ = specs(&bytes).map(|specs| within(&specs, length));
            }
        }
    }
}
