//! `HTTP-date` (RFC 9110 §5.6.7) as a cache reads it: all three formats, letters in any case (RFC 9111 §4.2), no
//! zone but GMT. A date that cannot be read is never guessed.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A field that holds one date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateField {
    /// The field is absent.
    Absent,
    /// Not a date, or several lines that differ.
    Invalid,
    /// The date.
    At(SystemTime),
}

impl DateField {
    /// Reads a field.
    pub fn of(headers: &HeaderMap, name: &HeaderName) -> DateField {
        let mut lines = headers.get_all(name).iter();
        let Some(first) = lines.next() else {
            return DateField::Absent;
        };
        if lines.any(|line| line != first) {
            return DateField::Invalid;
        }
        parse(first).map_or(DateField::Invalid, DateField::At)
    }

    /// The date, if there is a valid one.
    pub fn valid(self) -> Option<SystemTime> {
        match self {
            DateField::At(time) => Some(time),
            DateField::Absent | DateField::Invalid => None,
        }
    }
}

/// The time that a value stands for.
pub fn parse(value: &HeaderValue) -> Option<SystemTime> {
    let text = value.to_str().ok()?;
    httpdate::parse_http_date(text).or_else(|_| httpdate::parse_http_date(&recased(text))).ok()
}

/// RFC 9111 §4.2: dates are matched without regard to case.
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
    use std::time::{Duration, UNIX_EPOCH};

    /// RFC 9110 §5.6.7's example.
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
    fn what_is_not_a_date_is_not_guessed() {
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
            let _ = HeaderValue::from_bytes(&bytes).map(|value| parse(&value));
        }

        #[test]
        fn almost_dates_never_panic(text in "(Sun|Sunday|sun),? [0-9]{2}[ -]Nov[ -][0-9]{2,4} [0-9]{2}:[0-9:]{2,5} ?(GMT|gmt)?") {
            let _ = parse(&HeaderValue::from_str(&text).unwrap());
        }

        #[test]
        fn what_is_written_is_read(seconds in 0u64..253_402_300_800) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let value = HeaderValue::from_str(&httpdate::fmt_http_date(time)).unwrap();
            prop_assert_eq!(parse(&value), Some(time));
        }
    }
}
