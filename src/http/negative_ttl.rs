//! `negative_ttl`: the lifetimes of redirects and errors by status, where upstream states none.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::storable::is_about_request;

/// A family's lifetimes by status, in the order of the rules file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NegativeTtl(Vec<(StatusCode, Duration)>);

impl NegativeTtl {
    /// One lifetime for 404 and 410: `negative_ttl = "10s"`.
    pub fn of_missing(ttl: Duration) -> NegativeTtl {
        NegativeTtl(vec![(StatusCode::NOT_FOUND, ttl), (StatusCode::GONE, ttl)])
    }

    /// One lifetime for each status: `negative_ttl = { 404 = "10s", 410 = "1h" }`.
    pub fn by_status(lifetimes: Vec<(StatusCode, Duration)>) -> NegativeTtl {
        NegativeTtl(lifetimes)
    }

    /// The lifetime of a response with this status.
    pub fn of(&self, status: StatusCode) -> Option<Duration> {
        self.0.iter().find(|(known, _)| *known == status).map(|(_, ttl)| *ttl)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (StatusCode, Duration)> {
        self.0.iter().copied()
    }

    /// Whether no status has a lifetime.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one lifetime of 404 and 410, if there are no others.
    fn of_missing_alone(&self) -> Option<Duration> {
        match self.0[..] {
            [(StatusCode::NOT_FOUND, ttl), (StatusCode::GONE, gone)] if ttl == gone => Some(ttl),
            _ => None,
        }
    }
}

/// `10s`, or `404 10s, 410 1h`.
impl fmt::Display for NegativeTtl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ttl) = self.of_missing_alone() {
            return write!(f, "{}", humantime::format_duration(ttl));
        }
        for (index, (status, ttl)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} {}", status.as_u16(), humantime::format_duration(ttl))?;
        }
        Ok(())
    }
}

/// Why a status must not have a lifetime in `negative_ttl`; `None` if it may: redirects, and errors about the resource.
pub fn refusal(status: StatusCode) -> Option<&'static str> {
    match status.as_u16() {
        300..=303 | 307 | 308 => None,
        304 => Some("is no response of its own: it confirms a stored one (RFC 9110 §15.4.5)"),
        200..=299 => Some("is a success, whose lifetime is ttl"),
        500..=599 => {
            Some("is a failure that passes, and would be served when upstream works again (RFC 9110 §15.6)")
        }
        400..=499 if is_about_request(status) => {
            Some("is about one request, and every other client would get it too (RFC 9110 §15.5, RFC 6585)")
        }
        400..=499 => None,
        _ => Some("is not cached (RFC 9110 §15)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_and_errors_about_the_resource_may_have_a_lifetime() {
        let may = |code| refusal(StatusCode::from_u16(code).unwrap()).is_none();
        let allowed: Vec<u16> = (100..600).filter(|code| may(*code)).collect();
        assert_eq!(allowed, [300, 301, 302, 303, 307, 308, 404, 405, 410, 418, 451]);
    }

    #[test]
    fn one_lifetime_is_for_404_and_410_and_prints_as_written() {
        let (ten, hour) = (Duration::from_secs(10), Duration::from_secs(3600));
        let one = NegativeTtl::of_missing(ten);
        assert_eq!(
            [404, 410, 301].map(|code| one.of(StatusCode::from_u16(code).unwrap())),
            [Some(ten), Some(ten), None]
        );
        assert_eq!(one.to_string(), "10s");
        let several =
            NegativeTtl::by_status(vec![(StatusCode::NOT_FOUND, ten), (StatusCode::MOVED_PERMANENTLY, hour)]);
        assert_eq!(several.to_string(), "404 10s, 301 1h");
        assert!(NegativeTtl::default().is_empty());
    }
}
