//! Freshness (RFC 9111 §4.2): lifetime and age, decided at store time as far as possible.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::cache_control::{MAX_SECONDS, delta_seconds};
use super::date::DateField;
use super::demands::Demands;
use super::targeted::{Authority, Effective};

/// Where a lifetime came from, for `explain` and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LifetimeSource {
    SMaxage,
    MaxAge,
    Expires,
    /// The family's `ttl`, upstream having said nothing.
    FamilyTtl,
    /// The family's `ttl` under `ttl_policy = "override"`.
    FamilyOverride,
    /// The family's `negative_ttl`.
    NegativeTtl,
    /// Worked out from `Last-Modified`.
    Heuristic,
    /// No lifetime: stored for validation only.
    None,
}

impl LifetimeSource {
    /// Whether upstream states it.
    pub fn is_explicit(self) -> bool {
        matches!(self, LifetimeSource::SMaxage | LifetimeSource::MaxAge | LifetimeSource::Expires)
    }

    /// One sentence with the section that says so.
    pub fn explanation(self) -> &'static str {
        match self {
            LifetimeSource::SMaxage => "the lifetime is the response's s-maxage (RFC 9111 §4.2.1, §5.2.2.10)",
            LifetimeSource::MaxAge => "the lifetime is the response's max-age (RFC 9111 §4.2.1, §5.2.2.1)",
            LifetimeSource::Expires => {
                "the lifetime is the response's Expires less its Date (RFC 9111 §4.2.1, §5.3)"
            }
            LifetimeSource::FamilyTtl => {
                "the response states no lifetime, so that the family's ttl holds (RFC 9111 §4.2.2)"
            }
            LifetimeSource::FamilyOverride => {
                "the family's ttl holds whatever the response states (ttl_policy = \"override\", against RFC 9111 \
                 §4.2.1)"
            }
            LifetimeSource::NegativeTtl => "the lifetime is the family's negative_ttl (RFC 9111 §4.2.2)",
            LifetimeSource::Heuristic => {
                "the response states no lifetime: a tenth of the time since its Last-Modified (RFC 9111 §4.2.2)"
            }
            LifetimeSource::None => {
                "the response has no lifetime and is validated on every use (RFC 9111 §5.2.2.4)"
            }
        }
    }
}

/// All that a hit needs to know about time, decided when the response was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// When the request was sent that brought it (RFC 9111 §4.2.3 `request_time`): of two responses the more recent one is
    /// that which was asked for later, whichever came first.
    pub request_time: SystemTime,
    /// When the response was received (RFC 9111 §4.2.3 `response_time`).
    pub response_time: SystemTime,
    /// `corrected_initial_age` (§4.2.3), whole seconds.
    pub initial_age: Duration,
    /// `freshness_lifetime` (§4.2.1), whole seconds.
    pub lifetime: Duration,
    pub source: LifetimeSource,
    /// `no-cache`: never served without successful validation (§5.2.2.4).
    pub always_validate: bool,
    /// Never served stale: `must-revalidate`, `proxy-revalidate`, `s-maxage` (§4.2.4).
    pub never_stale: bool,
    /// May be served stale this long while it is being revalidated (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// May be served stale this long when revalidation fails (RFC 5861 §4).
    pub stale_if_error: Duration,
    /// May be served stale this long when upstream gives no answer at all (§4.2.4), if it is still there: no entry
    /// is kept for this alone.
    pub stale_if_unreachable: Duration,
}

/// How a stored response may be used now, as far as time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it. `ttl`: seconds of freshness left.
    Fresh { ttl: i64 },
    /// Serve it and revalidate it in the background. `ttl` is negative.
    StaleWhileRevalidate { ttl: i64 },
    /// Serve it: the client takes stale responses (RFC 9111 §5.2.1.2). `ttl` is negative.
    Stale { ttl: i64 },
    /// Serve it and revalidate it in the background: a write has invalidated it softly, and its grace is not over. `ttl` is
    /// that of its lifetime, which the write has nothing to do with.
    SoftInvalidated { ttl: i64 },
    /// Ask upstream first. `ttl` is negative, or not: with `no-cache`, and where the request asks for more.
    Validate { ttl: i64, because: ValidationReason },
}

impl Reuse {
    /// Seconds of freshness left; not above zero when stale.
    pub fn ttl(self) -> i64 {
        match self {
            Reuse::Fresh { ttl }
            | Reuse::StaleWhileRevalidate { ttl }
            | Reuse::Stale { ttl }
            | Reuse::SoftInvalidated { ttl }
            | Reuse::Validate { ttl, .. } => ttl,
        }
    }
}

/// Why a stored response is validated before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValidationReason {
    /// The response's `no-cache`.
    NoCache,
    /// Its lifetime is over.
    Expired,
    /// Its lifetime is over, and it forbids to be served stale.
    MustRevalidate,
    /// The request's `no-cache`.
    RequestNoCache,
    /// The request's `max-age`.
    RequestMaxAge,
    /// The request's `min-fresh`.
    RequestMinFresh,
}

impl ValidationReason {
    /// Whether the request asks for it, and not the response.
    pub fn is_of_request(self) -> bool {
        matches!(
            self,
            ValidationReason::RequestNoCache | ValidationReason::RequestMaxAge | ValidationReason::RequestMinFresh
        )
    }

    /// Short token for `Cache-Status`'s `detail`, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            ValidationReason::NoCache => "no-cache",
            ValidationReason::Expired => "expired",
            ValidationReason::MustRevalidate => "must-revalidate",
            ValidationReason::RequestNoCache => "request-no-cache",
            ValidationReason::RequestMaxAge => "request-max-age",
            ValidationReason::RequestMinFresh => "request-min-fresh",
        }
    }

    /// One sentence with the section that says so.
    pub fn explanation(self) -> &'static str {
        match self {
            ValidationReason::NoCache => {
                "the response says no-cache: it is validated on every use (RFC 9111 §5.2.2.4)"
            }
            ValidationReason::Expired => {
                "the response is stale and nothing allows serving it so (RFC 9111 §4.2.4)"
            }
            ValidationReason::MustRevalidate => {
                "the response is stale and says must-revalidate, proxy-revalidate or s-maxage (RFC 9111 §5.2.2.2, \
                 §5.2.2.8, §5.2.2.10)"
            }
            ValidationReason::RequestNoCache => "the request says no-cache (RFC 9111 §5.2.1.4)",
            ValidationReason::RequestMaxAge => {
                "the response is older than the request's max-age, or stale without a max-stale (RFC 9111 §5.2.1.1)"
            }
            ValidationReason::RequestMinFresh => {
                "the response is not fresh for as long as the request's min-fresh asks (RFC 9111 §5.2.1.3)"
            }
        }
    }
}

/// How a fetch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Upstream answered with this status: 500, 502, 503 or 504.
    Status(StatusCode),
    /// Upstream gave no answer: it cannot be reached, closed the connection, or took too long.
    NoAnswer,
}

/// Whether a response with this status is an error in which something stale may stand in for it (RFC 5861 §4).
pub fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// How long past its lifetime a response with a validator is kept for validation, at least and at most: as long
/// again as it was fresh, within these bounds.
const VALIDATION_PERIOD: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(60 * 60));

/// A lifetime that nobody stated is not longer than a day (RFC 9111 §4.2.2 leaves it to the cache; RFC 2616 §13.2.4
/// asked for a warning beyond that).
const LONGEST_HEURISTIC: Duration = Duration::from_secs(24 * 60 * 60);

/// No entry is kept for less.
const SHORTEST_KEEP: Duration = Duration::from_secs(1);

impl Freshness {
    /// `current_age` (§4.2.3). A clock that went backwards adds nothing.
    pub fn age(&self, now: SystemTime) -> Duration {
        let resident = now.duration_since(self.response_time).unwrap_or_default();
        self.initial_age.saturating_add(resident)
    }

    /// Seconds of freshness left, begun ones counted; negative when stale, so that the sign alone tells.
    pub fn ttl(&self, now: SystemTime) -> i64 {
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let left = whole(self.lifetime) - whole(self.age(now));
        // Fresh is `lifetime > age` (§4.2): with nothing left it is stale already.
        if left > 0 { left } else { left.saturating_sub(1) }
    }

    /// Fresh, stale but servable, or to be validated. What the request asks for can only be stricter than what
    /// upstream allows, but for `max-stale`.
    pub fn reuse(&self, now: SystemTime, demands: &Demands) -> Reuse {
        let ttl = self.ttl(now);
        if self.always_validate {
            Reuse::Validate { ttl, because: ValidationReason::NoCache }
        } else if let Some(because) = self.unmet(demands, now) {
            Reuse::Validate { ttl, because }
        } else if ttl > 0 {
            Reuse::Fresh { ttl }
        } else {
            self.reuse_stale(ttl, now, demands)
        }
    }

    /// The same for a response that soft invalidations have invalidated, and whose grace is not over. It counts as stale
    /// (§4.2.4), so that a response that forbids to be served stale is validated first, and so it is for a request that
    /// wants nothing stale (§5.2.1.1) or a response that stays fresh (§5.2.1.3). What it may not be used for when nothing
    /// had invalidated it, it may not be used for now.
    pub fn reuse_soft_invalidated(&self, now: SystemTime, demands: &Demands) -> Reuse {
        let ttl = match self.reuse(now, demands) {
            validate @ Reuse::Validate { .. } => return validate,
            usable => usable.ttl(),
        };
        if self.never_stale {
            Reuse::Validate { ttl, because: ValidationReason::MustRevalidate }
        } else if demands.max_age.is_some() && demands.max_stale.is_none() {
            Reuse::Validate { ttl, because: ValidationReason::RequestMaxAge }
        } else if demands.min_fresh.is_some() {
            Reuse::Validate { ttl, because: ValidationReason::RequestMinFresh }
        } else {
            Reuse::SoftInvalidated { ttl }
        }
    }

    fn reuse_stale(&self, ttl: i64, now: SystemTime, demands: &Demands) -> Reuse {
        let is_revalidating = self.is_within(self.stale_while_revalidate, now);
        let is_refused = self.is_refused_stale(demands, now);
        if self.never_stale {
            // §4.2.4: neither client nor configuration overrules it.
            Reuse::Validate { ttl, because: ValidationReason::MustRevalidate }
        } else if is_revalidating && !is_refused {
            Reuse::StaleWhileRevalidate { ttl }
        } else if self.is_tolerated(demands, now) {
            Reuse::Stale { ttl }
        } else {
            let because =
                if is_revalidating { ValidationReason::RequestMaxAge } else { ValidationReason::Expired };
            Reuse::Validate { ttl, because }
        }
    }

    /// Whether it may be served, stale or not, after upstream has failed. `no-cache`, `must-revalidate` and the like
    /// forbid it (§4.2.4), and so do the request's own demands, unless the request says `stale-if-error` itself.
    pub fn usable_after(&self, failure: Failure, now: SystemTime, demands: &Demands) -> bool {
        if self.always_validate {
            return false;
        }
        if demands.stale_if_error.is_some_and(|period| self.is_within(period, now)) {
            return true;
        }
        let period = match failure {
            // RFC 5861 §4.
            Failure::Status(_) => self.stale_if_error,
            // RFC 9111 §4.2.4: a cache that is disconnected may go further.
            Failure::NoAnswer => self.stale_if_error.max(self.stale_if_unreachable),
        };
        let is_allowed =
            self.ttl(now) > 0 || (self.is_within(period, now) && !self.is_refused_stale(demands, now));
        is_allowed && self.unmet(demands, now).is_none()
    }

    /// The demand of the request that this response does not meet as it is.
    fn unmet(&self, demands: &Demands, now: SystemTime) -> Option<ValidationReason> {
        if demands.validated {
            return Some(ValidationReason::RequestNoCache);
        }
        // §5.2.1.1: no older than max-age, and with a max-stale beside it no older than both together.
        let oldest = |age: Duration| age.saturating_add(demands.max_stale.unwrap_or_default());
        if demands.max_age.is_some_and(|age| self.age(now) > oldest(age)) {
            return Some(ValidationReason::RequestMaxAge);
        }
        // §5.2.1.3: a lifetime no less than the age and min-fresh together.
        let outlives = |period: Duration| self.lifetime >= self.age(now).saturating_add(period);
        demands.min_fresh.is_some_and(|period| !outlives(period)).then_some(ValidationReason::RequestMinFresh)
    }

    /// §5.2.1.1: who sends max-age without max-stale does not want anything stale.
    fn is_refused_stale(&self, demands: &Demands, now: SystemTime) -> bool {
        demands.max_age.is_some() && !self.is_tolerated(demands, now)
    }

    /// §5.2.1.2: the client takes what has been stale for this long.
    fn is_tolerated(&self, demands: &Demands, now: SystemTime) -> bool {
        demands.max_stale.is_some_and(|period| self.is_within(period, now))
    }

    /// How long the entry is worth keeping: until it is neither fresh nor servable stale, and, with a validator,
    /// a while longer for validation: as long again as it was fresh, but at least ten minutes and at most an hour.
    /// Never less than a second.
    pub fn keep_for(&self, now: SystemTime, has_validator: bool) -> Duration {
        let stale = self.stale_while_revalidate.max(self.stale_if_error);
        let (shortest, longest) = VALIDATION_PERIOD;
        let validation = if has_validator { self.lifetime.clamp(shortest, longest) } else { Duration::ZERO };
        let whole = self.lifetime.saturating_add(stale).saturating_add(validation);
        whole.saturating_sub(self.age(now)).max(SHORTEST_KEEP)
    }

    /// Whether it has been stale for less than `period`, and may be served stale at all (§4.2.4).
    fn is_within(&self, period: Duration, now: SystemTime) -> bool {
        !self.never_stale && self.age(now) < self.lifetime.saturating_add(period)
    }
}

/// The lifetime that upstream states (§4.2.1), for a shared cache: `s-maxage`, else `max-age`, else `Expires` less
/// `Date`. Whole seconds, at most [`MAX_SECONDS`].
pub fn explicit_lifetime(
    Effective { authority, directives }: &Effective,
    headers: &HeaderMap,
    response_time: SystemTime,
) -> Option<(Duration, LifetimeSource)> {
    if let Some(seconds) = directives.s_maxage {
        return Some((Duration::from_secs(seconds), LifetimeSource::SMaxage));
    }
    if let Some(seconds) = directives.max_age {
        return Some((Duration::from_secs(seconds), LifetimeSource::MaxAge));
    }
    // RFC 9213 §2.2: beside a targeted field, Expires is ignored.
    if *authority != Authority::General {
        return None;
    }
    let lifetime = match DateField::received(headers, &EXPIRES, response_time) {
        DateField::Absent => return None,
        // §5.3: an invalid date, such as `0`, is in the past.
        DateField::Invalid => Duration::ZERO,
        DateField::At(expires) => {
            whole_seconds(expires.duration_since(date_of(headers, response_time)).unwrap_or_default())
        }
    };
    Some((lifetime, LifetimeSource::Expires))
}

/// What §4.2.2 suggests where no lifetime is stated: a tenth of the time between `Last-Modified` and `Date`, whole
/// seconds, at most a day. `None` if there is no such time, or less than ten seconds of it.
pub fn heuristic_lifetime(headers: &HeaderMap, response_time: SystemTime) -> Option<Duration> {
    let modified = DateField::received(headers, &LAST_MODIFIED, response_time).valid()?;
    let unchanged = date_of(headers, response_time).duration_since(modified).ok()?;
    let tenth = Duration::from_secs(unchanged.as_secs() / 10);
    (tenth > Duration::ZERO).then_some(tenth.min(LONGEST_HEURISTIC))
}

/// RFC 9110 §6.6.1: without a (valid) `Date` the response is dated when it came.
fn date_of(headers: &HeaderMap, response_time: SystemTime) -> SystemTime {
    DateField::received(headers, &DATE, response_time).valid().unwrap_or(response_time)
}

/// `corrected_initial_age` (§4.2.3), the conservative form: the greater of what `Age` and the delay say, and what
/// `Date` says. Whole seconds.
pub fn initial_age(headers: &HeaderMap, request_time: SystemTime, response_time: SystemTime) -> Duration {
    let apparent_age = response_time.duration_since(date_of(headers, response_time)).unwrap_or_default();
    let response_delay = response_time.duration_since(request_time).unwrap_or_default();
    whole_seconds(apparent_age.max(age_value(headers) + response_delay))
}

/// §5.1: of a list the first member; a field whose first member is no number counts for nothing.
fn age_value(headers: &HeaderMap) -> Duration {
    let first = headers.get(AGE).and_then(|line| line.as_bytes().split(|byte| *byte == b',').next());
    Duration::from_secs(first.and_then(|member| delta_seconds(member.trim_ascii())).unwrap_or(0))
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs().min(MAX_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};
    use crate::http::targeted::effective;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const NOW: u64 = 784_111_777;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn lifetime(values: Fields<'_>) -> Option<(u64, LifetimeSource)> {
        let headers = fields(values);
        explicit_lifetime(&effective(&headers), &headers, at(NOW))
            .map(|(lifetime, source)| (lifetime.as_secs(), source))
    }

    fn plain(lifetime: u64) -> Freshness {
        Freshness {
            request_time: at(NOW),
            response_time: at(NOW),
            initial_age: Duration::ZERO,
            lifetime: seconds(lifetime),
            source: LifetimeSource::MaxAge,
            always_validate: false,
            never_stale: false,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            stale_if_unreachable: Duration::ZERO,
        }
    }

    /// How it may be used for a request that asks for nothing.
    fn reuse(freshness: &Freshness, now: SystemTime) -> Reuse {
        freshness.reuse(now, &Demands::default())
    }

    fn usable_after(freshness: &Freshness, failure: Failure, now: SystemTime) -> bool {
        freshness.usable_after(failure, now, &Demands::default())
    }

    fn expired(ttl: i64) -> Reuse {
        Reuse::Validate { ttl, because: ValidationReason::Expired }
    }

    #[test]
    fn the_first_of_s_maxage_max_age_and_expires_gives_the_lifetime() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let in_a_minute = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        let control = |value| ("cache-control", value);
        assert_eq!(
            lifetime(&[control("max-age=5, s-maxage=9"), date, in_a_minute]),
            Some((9, LifetimeSource::SMaxage))
        );
        assert_eq!(lifetime(&[control("max-age=5"), date, in_a_minute]), Some((5, LifetimeSource::MaxAge)));
        assert_eq!(lifetime(&[control("public"), date, in_a_minute]), Some((60, LifetimeSource::Expires)));
        assert_eq!(lifetime(&[control("public"), date]), None);
        // RFC 9213 §2.2
        assert_eq!(lifetime(&[("cdn-cache-control", "public"), control("max-age=5"), date, in_a_minute]), None);
    }

    #[test]
    fn a_heuristic_lifetime_is_a_tenth_of_the_time_unchanged_and_at_most_a_day() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let modified = |value| ("last-modified", value);
        let rows: [(Fields<'_>, Option<u64>); 10] = [
            (&[date, modified("Sun, 06 Nov 1994 08:48:37 GMT")], Some(6)),
            (&[date, modified("Sunday, 06-Nov-94 08:48:37 GMT")], Some(6)),
            (&[modified("Sun, 06 Nov 1994 08:48:37 GMT")], Some(6)),
            (&[("date", "x"), modified("Sun, 06 Nov 1994 08:48:37 GMT")], Some(6)),
            (&[date, modified("Sun, 06 Nov 1994 08:49:18 GMT")], Some(1)),
            (&[date, modified("Sun, 06 Nov 1994 08:49:28 GMT")], None),
            (&[date, modified("Sun, 06 Nov 1994 08:49:38 GMT")], None),
            (&[date, modified("Wed, 01 Jan 1975 00:00:00 GMT")], Some(86_400)),
            (&[date, modified("yesterday")], None),
            (&[date], None),
        ];
        for (headers, expected) in rows {
            let found = heuristic_lifetime(&fields(headers), at(NOW));
            assert_eq!(found.map(|lifetime| lifetime.as_secs()), expected, "{headers:?}");
        }
    }

    #[test]
    fn expires_is_measured_from_date_and_is_past_when_invalid() {
        let expires = |value| Some((value, LifetimeSource::Expires));
        let in_a_minute = "Sun, 06 Nov 1994 08:50:37 GMT";
        let rows: [(Fields<'_>, u64); 9] = [
            (&[("expires", in_a_minute)], 60),
            (&[("expires", in_a_minute), ("date", "Sun, 06 Nov 1994 08:50:07 GMT")], 30),
            (&[("expires", in_a_minute), ("date", "yesterday")], 60),
            (&[("expires", in_a_minute), ("date", "Sun, 06 Nov 1994 08:51:37 GMT")], 0),
            (&[("expires", in_a_minute), ("expires", in_a_minute)], 60),
            (&[("expires", in_a_minute), ("expires", "Sun, 06 Nov 1994 08:59:37 GMT")], 0),
            (&[("expires", "0")], 0),
            (&[("expires", "")], 0),
            (&[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], MAX_SECONDS),
        ];
        for (headers, expected) in rows {
            assert_eq!(lifetime(headers), expires(expected), "{headers:?}");
        }
    }

    #[test]
    fn invalid_freshness_is_stale_even_beside_a_valid_one() {
        assert_eq!(lifetime(&[("cache-control", "s-maxage=x, max-age=60")]), Some((0, LifetimeSource::SMaxage)));
        assert_eq!(lifetime(&[("cache-control", "max-age=60, max-age=x")]), Some((0, LifetimeSource::MaxAge)));
    }

    #[test]
    fn age_begins_with_the_older_of_age_and_date() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:27 GMT");
        let future = ("date", "Sun, 06 Nov 1994 09:49:27 GMT");
        // Sent two seconds before it came.
        let rows: [(Fields<'_>, u64); 12] = [
            (&[], 2),
            (&[date], 10),
            (&[future], 2),
            (&[date, ("age", "3")], 10),
            (&[date, ("age", "9")], 11),
            (&[("age", "5, 100")], 7),
            (&[("age", "5"), ("age", "100")], 7),
            (&[("age", "x, 100")], 2),
            (&[("age", "-5")], 2),
            (&[("age", "1.5")], 2),
            (&[("age", "")], 2),
            (&[("age", "99999999999999999999")], MAX_SECONDS),
        ];
        for (headers, expected) in rows {
            assert_eq!(initial_age(&fields(headers), at(NOW - 2), at(NOW)), seconds(expected), "{headers:?}");
        }
    }

    #[test]
    fn a_response_is_fresh_until_its_age_reaches_its_lifetime() {
        let freshness = Freshness { initial_age: seconds(10), ..plain(60) };
        let rows =
            [(0, Reuse::Fresh { ttl: 50 }), (49, Reuse::Fresh { ttl: 1 }), (50, expired(-1)), (59, expired(-10))];
        for (elapsed, expected) in rows {
            assert_eq!(reuse(&freshness, at(NOW + elapsed)), expected, "after {elapsed} s");
        }
        let last_moment = at(NOW + 49) + Duration::from_millis(999);
        assert_eq!(reuse(&freshness, last_moment), Reuse::Fresh { ttl: 1 });
        assert_eq!(freshness.age(last_moment), Duration::from_millis(59_999));
    }

    #[test]
    fn a_clock_that_goes_backwards_adds_no_age() {
        let freshness = Freshness { initial_age: seconds(10), ..plain(60) };
        assert_eq!(freshness.age(at(NOW - 1000)), seconds(10));
        assert_eq!(freshness.age(UNIX_EPOCH), seconds(10));
    }

    #[test]
    fn rfc_5861_examples() {
        // §3.1: max-age=600, stale-while-revalidate=30
        let revalidating = Freshness { stale_while_revalidate: seconds(30), ..plain(600) };
        assert_eq!(reuse(&revalidating, at(NOW + 599)), Reuse::Fresh { ttl: 1 });
        assert_eq!(reuse(&revalidating, at(NOW + 600)), Reuse::StaleWhileRevalidate { ttl: -1 });
        assert_eq!(reuse(&revalidating, at(NOW + 629)), Reuse::StaleWhileRevalidate { ttl: -30 });
        assert_eq!(reuse(&revalidating, at(NOW + 630)), expired(-31));
        // §4.1: max-age=600, stale-if-error=1200
        let on_error = Freshness { stale_if_error: seconds(1200), ..plain(600) };
        assert_eq!(reuse(&on_error, at(NOW + 900)), expired(-301));
        assert!(usable_after(&on_error, Failure::Status(StatusCode::BAD_GATEWAY), at(NOW + 900)));
        assert!(!usable_after(&on_error, Failure::Status(StatusCode::BAD_GATEWAY), at(NOW + 1801)));
    }

    #[test]
    fn staleness_is_never_served_against_the_origins_will() {
        let generous = Freshness {
            stale_while_revalidate: seconds(99),
            stale_if_error: seconds(99),
            stale_if_unreachable: seconds(99),
            ..plain(60)
        };
        let never_stale = Freshness { never_stale: true, ..generous };
        assert_eq!(reuse(&never_stale, at(NOW + 59)), Reuse::Fresh { ttl: 1 });
        assert_eq!(
            reuse(&never_stale, at(NOW + 60)),
            Reuse::Validate { ttl: -1, because: ValidationReason::MustRevalidate }
        );
        assert!(usable_after(&never_stale, Failure::Status(StatusCode::BAD_GATEWAY), at(NOW + 59)));
        assert!(!usable_after(&never_stale, Failure::Status(StatusCode::BAD_GATEWAY), at(NOW + 60)));
        let always_validate = Freshness { always_validate: true, ..generous };
        assert_eq!(
            reuse(&always_validate, at(NOW)),
            Reuse::Validate { ttl: 60, because: ValidationReason::NoCache }
        );
        assert!(!usable_after(&always_validate, Failure::Status(StatusCode::BAD_GATEWAY), at(NOW)));
    }

    fn asks(control: &str) -> Demands {
        Demands::of(&fields(&[("cache-control", control)]), crate::http::ClientDirectives::All)
    }

    #[test]
    fn a_request_may_ask_for_fresher_or_take_staler() {
        let plain = plain(60);
        let revalidating = Freshness { stale_while_revalidate: seconds(30), ..plain };
        let never_stale = Freshness { never_stale: true, ..revalidating };
        let validate = |ttl, because| Reuse::Validate { ttl, because };
        let rows = [
            (plain, 0, "no-cache", validate(60, ValidationReason::RequestNoCache)),
            (plain, 9, "max-age=9", Reuse::Fresh { ttl: 51 }),
            (plain, 10, "max-age=9", validate(50, ValidationReason::RequestMaxAge)),
            (plain, 10, "max-age=9, max-stale=5", Reuse::Fresh { ttl: 50 }),
            (plain, 10, "max-age=9, max-stale", Reuse::Fresh { ttl: 50 }),
            (plain, 15, "max-age=9, max-stale=5", validate(45, ValidationReason::RequestMaxAge)),
            (plain, 40, "min-fresh=20", Reuse::Fresh { ttl: 20 }),
            (plain, 41, "min-fresh=20", validate(19, ValidationReason::RequestMinFresh)),
            (plain, 61, "min-fresh=0", validate(-2, ValidationReason::RequestMinFresh)),
            (plain, 60, "max-stale=0", expired(-1)),
            (plain, 64, "max-stale=5", Reuse::Stale { ttl: -5 }),
            (plain, 65, "max-stale=5", expired(-6)),
            (plain, 100_000, "max-stale", Reuse::Stale { ttl: -99_941 }),
            (plain, 64, "max-stale=5, min-fresh=1", validate(-5, ValidationReason::RequestMinFresh)),
            (plain, 64, "max-age=99, max-stale=5", Reuse::Stale { ttl: -5 }),
            (revalidating, 64, "max-stale=5", Reuse::StaleWhileRevalidate { ttl: -5 }),
            (revalidating, 70, "max-stale=5", Reuse::StaleWhileRevalidate { ttl: -11 }),
            (revalidating, 70, "max-age=99", validate(-11, ValidationReason::RequestMaxAge)),
            (revalidating, 64, "max-age=99, max-stale=5", Reuse::StaleWhileRevalidate { ttl: -5 }),
            (revalidating, 70, "max-age=99, max-stale=5", validate(-11, ValidationReason::RequestMaxAge)),
            (revalidating, 70, "min-fresh=1", validate(-11, ValidationReason::RequestMinFresh)),
            (revalidating, 95, "max-age=999", expired(-36)),
            (never_stale, 61, "max-stale", validate(-2, ValidationReason::MustRevalidate)),
            (
                Freshness { always_validate: true, ..plain },
                1,
                "max-stale",
                validate(59, ValidationReason::NoCache),
            ),
        ];
        for (freshness, elapsed, control, expected) in rows {
            let reuse = freshness.reuse(at(NOW + elapsed), &asks(control));
            assert_eq!(reuse, expected, "{control} after {elapsed} s");
        }
        let just_over = at(NOW + 9) + Duration::from_millis(1);
        assert_eq!(plain.reuse(just_over, &asks("max-age=9")), validate(51, ValidationReason::RequestMaxAge));
    }

    #[test]
    fn a_failure_is_covered_as_far_as_upstream_and_the_request_allow() {
        let plain = plain(60);
        let granted = Freshness { stale_if_error: seconds(10), stale_if_unreachable: seconds(100), ..plain };
        let generous = Freshness { stale_if_error: seconds(200), ..granted };
        let never_stale = Freshness { never_stale: true, ..granted };
        let rows = [
            (plain, 59, "", true, true),
            (plain, 61, "", false, false),
            (granted, 69, "", true, true),
            (granted, 70, "", false, true),
            (granted, 160, "", false, false),
            (generous, 200, "", true, true),
            (plain, 69, "stale-if-error=10", true, true),
            (plain, 70, "stale-if-error=10", false, false),
            (granted, 75, "stale-if-error=1", false, true),
            (granted, 65, "no-cache", false, false),
            (granted, 65, "max-age=9", false, false),
            (granted, 65, "max-age=99", false, false),
            (granted, 65, "max-age=99, max-stale=9", true, true),
            (granted, 65, "min-fresh=1", false, false),
            (granted, 65, "no-cache, max-age=0, stale-if-error=9", true, true),
            (never_stale, 61, "stale-if-error=99, max-stale", false, false),
            (Freshness { always_validate: true, ..granted }, 1, "stale-if-error=99", false, false),
        ];
        for (freshness, elapsed, control, on_status, on_no_answer) in rows {
            let usable = |failure| freshness.usable_after(failure, at(NOW + elapsed), &asks(control));
            let found = (usable(Failure::Status(StatusCode::BAD_GATEWAY)), usable(Failure::NoAnswer));
            assert_eq!(found, (on_status, on_no_answer), "{control} after {elapsed} s");
        }
    }

    #[test]
    fn every_cause_has_its_own_token_and_a_section() {
        let all = [
            ValidationReason::NoCache,
            ValidationReason::Expired,
            ValidationReason::MustRevalidate,
            ValidationReason::RequestNoCache,
            ValidationReason::RequestMaxAge,
            ValidationReason::RequestMinFresh,
        ];
        let tokens: std::collections::HashSet<_> = all.iter().map(|because| because.token()).collect();
        assert_eq!(tokens.len(), all.len());
        assert!(all.iter().all(|because| because.explanation().contains('§')));
    }

    #[test]
    fn entries_are_kept_while_they_are_of_use() {
        let swr = Freshness { stale_while_revalidate: seconds(30), stale_if_error: seconds(90), ..plain(60) };
        assert_eq!(swr.keep_for(at(NOW), false), seconds(150));
        assert_eq!(swr.keep_for(at(NOW + 100), false), seconds(50));
        assert_eq!(swr.keep_for(at(NOW + 1000), false), seconds(1));
        assert_eq!(swr.keep_for(at(NOW), true), seconds(150 + 600));
        assert_eq!(plain(1800).keep_for(at(NOW), true), seconds(3600));
        assert_eq!(plain(86_400).keep_for(at(NOW), true), seconds(86_400 + 3600));
        assert_eq!(plain(0).keep_for(at(NOW), false), seconds(1));
    }

    /// RFC 9111 §4.2 word for word, slowly: texts, and integers that cannot overflow.
    mod oracle {
        pub struct Message<'a> {
            pub cache_control: &'a [(String, Option<String>)],
            pub expires: Option<i128>,
            pub date: Option<i128>,
            pub age: Option<i128>,
            pub request_time: i128,
            pub response_time: i128,
        }

        fn value(message: &Message<'_>, directive: &str) -> Option<i128> {
            let all = message.cache_control.iter().filter(|(name, _)| name.eq_ignore_ascii_case(directive));
            all.map(|(_, argument)| argument.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0)).min()
        }

        pub fn freshness_lifetime(message: &Message<'_>) -> Option<i128> {
            let lifetime = match (value(message, "s-maxage"), value(message, "max-age"), message.expires) {
                (Some(s_maxage), _, _) => s_maxage,
                (None, Some(max_age), _) => max_age,
                (None, None, Some(expires)) => expires - message.date.unwrap_or(message.response_time),
                (None, None, None) => return None,
            };
            Some(lifetime.clamp(0, 1 << 31))
        }

        pub fn current_age(message: &Message<'_>, now: i128) -> i128 {
            let date_value = message.date.unwrap_or(message.response_time);
            let apparent_age = (message.response_time - date_value).max(0);
            let response_delay = message.response_time - message.request_time;
            let corrected_age_value = message.age.unwrap_or(0) + response_delay;
            let corrected_initial_age = apparent_age.max(corrected_age_value);
            let resident_time = now - message.response_time;
            corrected_initial_age + resident_time
        }

        pub fn response_is_fresh(message: &Message<'_>, now: i128) -> Option<bool> {
            Some(freshness_lifetime(message)? > current_age(message, now))
        }
    }

    fn directive() -> impl Strategy<Value = (String, Option<String>)> {
        let name = prop_oneof!["[mM]ax-[aA]ge", "s-maxage", "S-MaxAge", "public", "x-[a-z]"];
        let argument = prop_oneof!["[0-9]{1,5}", "[0-9]{1,5}", "[0-9]{11}", "[a-z]{1,3}", "[0-9]\\.[0-9]"];
        (name, proptest::option::of(argument))
    }

    fn header_map(message: &oracle::Message<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, argument) in message.cache_control {
            let line = argument.as_ref().map_or(name.clone(), |argument| format!("{name}={argument}"));
            headers.append("cache-control", HeaderValue::from_str(&line).unwrap());
        }
        for (name, time) in [("expires", message.expires), ("date", message.date)] {
            if let Some(time) = time {
                let text = httpdate::fmt_http_date(at(u64::try_from(time).unwrap()));
                headers.insert(name, HeaderValue::from_str(&text).unwrap());
            }
        }
        if let Some(age) = message.age {
            headers.insert("age", HeaderValue::from_str(&age.to_string()).unwrap());
        }
        headers
    }

    fn any_freshness() -> impl Strategy<Value = Freshness> {
        let duration = || prop_oneof![0u64..200, 0u64..200, Just(MAX_SECONDS), Just(u64::MAX)].prop_map(seconds);
        (duration(), duration(), duration(), duration(), any::<(bool, bool)>()).prop_map(
            |(initial_age, lifetime, stale_while_revalidate, stale_if_error, (always_validate, never_stale))| {
                Freshness {
                    initial_age,
                    lifetime,
                    always_validate,
                    never_stale,
                    stale_while_revalidate,
                    stale_if_error,
                    ..plain(0)
                }
            },
        )
    }

    fn rank(reuse: Reuse) -> u8 {
        match reuse {
            Reuse::Fresh { .. } => 0,
            Reuse::StaleWhileRevalidate { .. } => 1,
            Reuse::Stale { .. } | Reuse::SoftInvalidated { .. } => 2,
            Reuse::Validate { .. } => 3,
        }
    }

    proptest! {
        #[test]
        fn decisions_agree_with_the_literal_rfc(
            cache_control in proptest::collection::vec(directive(), 0..4),
            expires in proptest::option::of(-5000i128..5000),
            date in proptest::option::of(-5000i128..5000),
            age in proptest::option::of(0i128..5000),
            delay in 0i128..50,
            elapsed in 0i128..6000,
        ) {
            let response_time = i128::from(NOW);
            let message = oracle::Message {
                cache_control: &cache_control,
                expires: expires.map(|offset| response_time + offset),
                date: date.map(|offset| response_time + offset),
                age,
                request_time: response_time - delay,
                response_time,
            };
            let headers = header_map(&message);
            let (sent, came) = (at(NOW - delay as u64), at(NOW));
            let stated = explicit_lifetime(&effective(&headers), &headers, came).map(|(lifetime, _)| lifetime);
            prop_assert_eq!(stated.map(|lifetime| i128::from(lifetime.as_secs())), oracle::freshness_lifetime(&message));
            let freshness = Freshness {
                initial_age: initial_age(&headers, sent, came),
                lifetime: stated.unwrap_or_default(),
                ..plain(0)
            };
            let now = at(NOW + elapsed as u64);
            prop_assert_eq!(
                i128::from(freshness.age(now).as_secs()), oracle::current_age(&message, response_time + elapsed)
            );
            let is_fresh = matches!(reuse(&freshness, now), Reuse::Fresh { .. });
            prop_assert_eq!(
                is_fresh, oracle::response_is_fresh(&message, response_time + elapsed).unwrap_or(false)
            );
        }

        #[test]
        fn time_only_takes_away(freshness in any_freshness(), earlier in 0u64..1000, millis in 0u64..100_000) {
            let (before, after) = (at(NOW + earlier), at(NOW + earlier) + Duration::from_millis(millis));
            prop_assert!(rank(reuse(&freshness, before)) <= rank(reuse(&freshness, after)));
            prop_assert!(freshness.ttl(before) >= freshness.ttl(after));
            prop_assert!(usable_after(&freshness, Failure::Status(StatusCode::BAD_GATEWAY), before) >= usable_after(&freshness, Failure::Status(StatusCode::BAD_GATEWAY), after));
            prop_assert!(freshness.keep_for(before, true) >= freshness.keep_for(after, true));
        }

        #[test]
        fn what_may_be_served_is_kept(freshness in any_freshness(), elapsed in 0u64..1000) {
            let now = at(NOW + elapsed);
            let keep = freshness.keep_for(at(NOW), false);
            if rank(reuse(&freshness, now)) < 3 || usable_after(&freshness, Failure::Status(StatusCode::BAD_GATEWAY), now) {
                prop_assert!(keep > seconds(elapsed));
            }
            prop_assert!(keep >= SHORTEST_KEEP);
        }

        #[test]
        fn any_bytes_give_some_age_and_lifetime(
            value in proptest::collection::vec(32u8..=255, 0..30), elapsed in any::<u32>(),
        ) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let names = [AGE, DATE, EXPIRES, LAST_MODIFIED, http::header::CACHE_CONTROL];
                let headers: HeaderMap = names.into_iter().map(|name| (name, value.clone())).collect();
                let came = at(u64::from(elapsed));
                prop_assert!(initial_age(&headers, at(0), came).as_secs() <= MAX_SECONDS);
                let _ = explicit_lifetime(&effective(&headers), &headers, came);
                let _ = heuristic_lifetime(&headers, came);
            }
        }
    }

    #[test]
    fn what_is_invalidated_softly_counts_as_stale_and_is_never_used_more_freely_than_otherwise() {
        let demands = |max_age: Option<u64>, max_stale: Option<u64>, min_fresh: Option<u64>| Demands {
            max_age: max_age.map(seconds),
            max_stale: max_stale.map(seconds),
            min_fresh: min_fresh.map(seconds),
            ..Demands::default()
        };
        let nothing = Demands::default();
        let validate = |ttl, because| Reuse::Validate { ttl, because };
        let (never_stale, always_validate) = (true, true);
        let rows: [(Freshness, Demands, u64, Reuse); 11] = [
            (plain(60), nothing, 20, Reuse::SoftInvalidated { ttl: 40 }),
            (plain(60), nothing, 70, expired(-11)),
            (
                Freshness { stale_while_revalidate: seconds(30), ..plain(60) },
                nothing,
                70,
                Reuse::SoftInvalidated { ttl: -11 },
            ),
            (plain(60), demands(None, Some(30), None), 70, Reuse::SoftInvalidated { ttl: -11 }),
            // §5.2.2.2, §5.2.2.8, §5.2.2.10
            (Freshness { never_stale, ..plain(60) }, nothing, 20, validate(40, ValidationReason::MustRevalidate)),
            // §5.2.2.4
            (Freshness { always_validate, ..plain(60) }, nothing, 20, validate(40, ValidationReason::NoCache)),
            // §5.2.1.4
            (
                plain(60),
                Demands { validated: true, ..nothing },
                20,
                validate(40, ValidationReason::RequestNoCache),
            ),
            // §5.2.1.1
            (plain(60), demands(Some(10), None, None), 20, validate(40, ValidationReason::RequestMaxAge)),
            (plain(60), demands(Some(50), None, None), 20, validate(40, ValidationReason::RequestMaxAge)),
            (plain(60), demands(Some(50), Some(5), None), 20, Reuse::SoftInvalidated { ttl: 40 }),
            // §5.2.1.3
            (plain(60), demands(None, None, Some(10)), 20, validate(40, ValidationReason::RequestMinFresh)),
        ];
        for (freshness, demands, later, expected) in rows {
            let found = freshness.reuse_soft_invalidated(at(NOW + later), &demands);
            assert_eq!(found, expected, "{freshness:?} {demands:?} after {later} s");
        }
    }
}
