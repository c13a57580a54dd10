//! Messages written as tables, for the tests of the pure modules.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Field lines: names and values.
pub(crate) type Fields<'a> = &'a [(&'a str, &'a str)];

/// The header section with these lines.
pub(crate) fn fields(lines: Fields<'_>) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    lines.iter().map(pair).collect()
}
