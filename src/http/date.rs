//! Parses `HTTP-date` (RFC 9110 §5.6.7): all three formats, case-insensitive (RFC 9111 §4.2), GMT only. An invalid
//! date is never guessed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

/// A field with one date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateField {
    /// The field is absent.
    Absent,
    /// Not a date, or several different lines.
    Invalid,
    /// The date.
    At(SystemTime),
}

impl DateField {
    /// Parses a field about the past, such as `Last-Modified`. A two-digit year means 1970 to 2069 independent of the
    /// current time, so that the same bytes always mean the same date.
    pub fn of(headers: &HeaderMap, name: &HeaderName) -> DateField {
        DateField::read(headers, name, parse)
    }

    /// Parses a field of a message that was received at this time, which determines the century of a two-digit year.
    pub fn received(headers: &HeaderMap, name: &HeaderName, time: SystemTime) -> DateField {
        DateField::read(headers, name, |value| parse_received(value, time))
    }

    fn read(
        headers: &HeaderMap,
        name: &HeaderName,
        parse: impl FnOnce(&HeaderValue) -> Option<SystemTime>,
    ) -> DateField {
        let mut lines = headers.get_all(name).iter();
        let Some(first) = lines.next() else {
            return DateField::Absent;
        };
        if lines.any(|line| line != first) {
            return DateField::Invalid;
        }
        parse(first).map_or(DateField::Invalid, DateField::At)
    }

    /// The date, if valid.
    pub fn valid(self) -> Option<SystemTime> {
        match self {
            DateField::At(time) => Some(time),
            DateField::Absent | DateField::Invalid => None,
        }
    }
}

/// Seconds of a mean year.
const YEAR: u64 = 31_556_952;

/// A two-digit year that is further ahead lies in the past (RFC 9110 §5.6.7).
const FAR_FUTURE: Duration = Duration::from_secs(50 * YEAR);

/// The time of a value in a message received at `received`. A two-digit year that would be more than fifty years
/// ahead is the latest past year with these digits (RFC 9110 §5.6.7). So is one whose weekday fits only that year.
fn parse_received(value: &HeaderValue, time: SystemTime) -> Option<SystemTime> {
    let text = value.to_str().ok()?;
    // Only the format with a two-digit year has hyphens.
    let text = if text.contains('-') { recased(text) } else { return parse(value) };
    let Some(dated) = Rfc850::parse(&text) else {
        return parse(value);
    };
    // Mean years may be off by one at the turn of the year, so one more is tried.
    let last_year = 1970 + time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / YEAR + 51;
    let latest = last_year - (last_year + 100 - dated.year) % 100;
    let is_near = |date: &SystemTime| date.duration_since(time).map_or(true, |ahead| ahead <= FAR_FUTURE);
    [latest, latest - 100].into_iter().find_map(|year| dated.in_year(year).filter(is_near))
}

/// The parts of `Sunday, 06-Nov-94 08:49:37 GMT`.
struct Rfc850<'a> {
    weekday: &'a str,
    day: &'a str,
    month: &'a str,
    /// Two digits.
    year: u64,
    time: &'a str,
}

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl<'a> Rfc850<'a> {
    fn parse(text: &'a str) -> Option<Rfc850<'a>> {
        let (weekday, rest) = text.split_once(", ")?;
        let (day, rest) = rest.split_once('-')?;
        let (month, rest) = rest.split_once('-')?;
        let (year, time) = rest.split_once(' ')?;
        let is_year = year.len() == 2 && year.bytes().all(|byte| byte.is_ascii_digit());
        let weekday = WEEKDAYS.contains(&weekday).then(|| weekday.get(..3))??;
        Some(Rfc850 { weekday, day, month, year: is_year.then(|| year.parse().ok())??, time })
    }

    /// The same date with this year.
    fn in_year(&self, year: u64) -> Option<SystemTime> {
        let Rfc850 { weekday, day, month, time, .. } = self;
        httpdate::parse_http_date(&format!("{weekday}, {day} {month} {year:04} {time}")).ok()
    }
}

/// The time of a value, as for [`DateField::of`].
pub fn parse(value: &HeaderValue) -> Option<SystemTime> {
    let text = value.to_str().ok()?;
    httpdate::parse_http_date(text).or_else(|_| httpdate::parse_http_date(&recased(text))).ok()
}

/// RFC 9111 §4.2: dates are case-insensitive.
fn recased(text: &str) -> String {
    let mut inside_word = false;
    let recased: String = text
        .chars()
        .map(|letter| {
            let cased = if inside_word { letter.to_ascii_lowercase() } else { letter.to_ascii_uppercase() };
            inside_word = letter.is_ascii_alphabetic();
            cased
        })
        .collect();
    recased.replace("Gmt", "GMT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::EXPIRES;
    use proptest::prelude::*;

    /// The example of RFC 9110 §5.6.7.
    fn example() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    #[test]
    fn all_formats_in_any_case_are_read() {
        let rows = [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "sun, 06 nov 1994 08:49:37 gmt",
            "SUN, 06 NOV 1994 08:49:37 GMT",
        ];
        for text in rows {
            assert_eq!(parse(&HeaderValue::from_static(text)), Some(example()), "{text}");
        }
    }

    #[test]
    fn an_invalid_date_is_not_guessed() {
        let rows = [
            "",
            "0",
            "-1",
            "1994-11-06T08:49:37Z",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37",
        ];
        for text in rows {
            assert_eq!(parse(&HeaderValue::from_static(text)), None, "{text}");
        }
    }

    #[test]
    fn years_of_two_digits_lie_at_most_fifty_years_ahead() {
        // 6 Nov 2026.
        let now = UNIX_EPOCH + Duration::from_secs(1_793_955_600);
        let rows = [
            ("Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("sunday, 06-nov-94 08:49:37 gmt", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Friday, 06-Nov-26 08:49:37 GMT", "Fri, 06 Nov 2026 08:49:37 GMT"),
            ("Wednesday, 06-Nov-69 08:49:37 GMT", "Wed, 06 Nov 2069 08:49:37 GMT"),
            ("Thursday, 06-Nov-70 08:49:37 GMT", "Thu, 06 Nov 2070 08:49:37 GMT"),
            // The weekday determines the century.
            ("Friday, 06-Nov-70 08:49:37 GMT", "Fri, 06 Nov 1970 08:49:37 GMT"),
            ("Sunday, 01-Nov-76 00:00:00 GMT", "Sun, 01 Nov 2076 00:00:00 GMT"),
            ("Friday, 31-Dec-76 00:00:00 GMT", "Fri, 31 Dec 1976 00:00:00 GMT"),
            ("Sunday, 06-Nov-77 08:49:37 GMT", "Sun, 06 Nov 1977 08:49:37 GMT"),
            ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ];
        for (text, expected) in rows {
            let found = parse_received(&HeaderValue::from_static(text), now);
            let expected = httpdate::parse_http_date(expected).ok();
            assert!(expected.is_some());
            assert_eq!(found, expected, "{text}");
        }
        // The window moves with time: in 2099, 01 is 2101.
        let late = httpdate::parse_http_date("Fri, 06 Nov 2099 08:49:37 GMT").unwrap();
        let next = parse_received(&HeaderValue::from_static("Sunday, 06-Nov-01 08:49:37 GMT"), late);
        assert_eq!(next, httpdate::parse_http_date("Sun, 06 Nov 2101 08:49:37 GMT").ok());
        // Early times work too.
        let first =
            parse_received(&HeaderValue::from_static("Sunday, 06-Nov-94 08:49:37 GMT"), UNIX_EPOCH - FAR_FUTURE);
        assert_eq!(first, None);
        for text in [
            "Tuesday, 06-Nov-70 08:49:37 GMT",
            "Sunday, 06-Nov-9 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 PST",
        ] {
            assert_eq!(parse_received(&HeaderValue::from_static(text), now), None, "{text}");
        }
    }

    #[test]
    fn lines_that_differ_are_no_date() {
        let mut headers = HeaderMap::new();
        assert_eq!(DateField::of(&headers, &EXPIRES), DateField::Absent);
        headers.append(EXPIRES, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        headers.append(EXPIRES, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(DateField::of(&headers, &EXPIRES), DateField::At(example()));
        headers.append(EXPIRES, HeaderValue::from_static("0"));
        assert_eq!(DateField::of(&headers, &EXPIRES), DateField::Invalid);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_date_or_none(bytes in proptest::collection::vec(32u8..=255, 0..40)) {
            let _ = HeaderValue::from_bytes(&bytes).map(|value| (parse(&value), parse_received(&value, example())));
        }

        #[test]
        fn almost_dates_never_panic(text in "(Sun|Sunday|sun),? [0-9]{2}[ -]Nov[ -][0-9]{2,4} [0-9]{2}:[0-9:]{2,5} ?(GMT|gmt)?") {
            let value = HeaderValue::from_str(&text).unwrap();
            let _ = (parse(&value), parse_received(&value, example()));
        }

        #[test]
        fn formatted_dates_parse_to_the_same_time(seconds in 0u64..253_402_300_800) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let value = HeaderValue::from_str(&httpdate::fmt_http_date(time)).unwrap();
            prop_assert_eq!(parse(&value), Some(time));
        }
    }
}
