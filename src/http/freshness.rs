//! Freshness (RFC 9111 §4.2): lifetime and age, determined as far as possible when a response is stored.
//!
//! A heuristic lifetime (RFC 9111 §4.2.2) needs a family without `ttl`. Outside families only explicit lifetimes count.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use serde::{Deserialize, Serialize};

use super::cache_control::{MAX_SECONDS, delta_seconds};
use super::date::DateField;
use super::demands::Demands;
use super::targeted::{Authority, Effective};
use crate::words::reasons;

mod compact;

pub use compact::{Seconds, Timestamp};

/// Source of a lifetime, for `explain` and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LifetimeSource {
    SMaxage,
    MaxAge,
    Expires,
    /// The family's `ttl`, since upstream states none.
    FamilyTtl,
    /// The family's `ttl` under `ttl_policy = "override"`.
    FamilyOverride,
    /// The family's `negative_ttl`.
    NegativeTtl,
    /// Derived from `Last-Modified` (heuristic).
    Heuristic,
    /// No lifetime: stored for validation only.
    None,
    /// The family's `until`, which comes before the end of any other lifetime.
    Until,
    /// The family's `ttl`, multiplied because of `adaptive_ttl`.
    AdaptedTtl,
}

impl LifetimeSource {
    /// Whether upstream states it explicitly.
    pub fn is_explicit(self) -> bool {
        matches!(self, LifetimeSource::SMaxage | LifetimeSource::MaxAge | LifetimeSource::Expires)
    }

    /// Whether the family states it, or shortens one that is stated.
    pub fn is_of_family(self) -> bool {
        matches!(
            self,
            LifetimeSource::FamilyTtl
                | LifetimeSource::FamilyOverride
                | LifetimeSource::AdaptedTtl
                | LifetimeSource::Until
        )
    }

    /// One sentence with its RFC section.
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
            LifetimeSource::Until => {
                "the lifetime ends at the family's until, whatever the response states (RFC 9111 §4.2.2)"
            }
            LifetimeSource::AdaptedTtl => {
                "the lifetime is the family's ttl, multiplied for the URL's rate of requests (adaptive_ttl, RFC 9111 \
                 §4.2.2)"
            }
            LifetimeSource::None => {
                "the response has no lifetime and is validated on every use (RFC 9111 §5.2.2.4)"
            }
        }
    }
}

/// The times that a hit needs, determined when the response was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// When the request for the response was sent (RFC 9111 §4.2.3 `request_time`). Of two responses, the one with
    /// the later request is more recent, whichever arrived first.
    pub request_time: Timestamp,
    /// When the response was received (RFC 9111 §4.2.3 `response_time`).
    pub response_time: Timestamp,
    /// `corrected_initial_age` (§4.2.3).
    pub initial_age: Seconds,
    /// `freshness_lifetime` (§4.2.1).
    pub lifetime: Seconds,
    pub source: LifetimeSource,
    /// `no-cache`, or the family's `revalidate = "always"`: never served without successful validation (§5.2.2.4).
    pub always_validate: bool,
    /// Never served stale: `must-revalidate`, `proxy-revalidate`, `s-maxage` (§4.2.4).
    pub never_stale: bool,
    /// May be served stale this long while it is being revalidated (RFC 5861 §3).
    pub stale_while_revalidate: Seconds,
    /// May be served stale this long when revalidation fails (RFC 5861 §4).
    pub stale_if_error: Seconds,
    /// May be served stale this long while upstream does not respond (§4.2.4), if it is still stored: no entry is
    /// stored longer for this alone.
    pub stale_if_unreachable: Seconds,
}

/// How a stored response may be used now, judged by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it. `ttl` is the remaining freshness in seconds.
    Fresh { ttl: i64 },
    /// Serve it and revalidate it in the background. `ttl` is negative.
    StaleWhileRevalidate { ttl: i64 },
    /// Serve it: the client accepts stale responses (RFC 9111 §5.2.1.2). `ttl` is negative.
    Stale { ttl: i64 },
    /// Serve it and revalidate it in the background: it is soft-invalidated, and the grace has not ended. `ttl` is
    /// that of its lifetime, which the invalidation does not change.
    SoftInvalidated { ttl: i64 },
    /// Validate it first. `ttl` may be positive: with `no-cache`, or if the request demands more.
    Validate { ttl: i64, because: ValidationReason },
}

impl Reuse {
    /// Remaining freshness in seconds; not positive when stale.
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

reasons! {
/// Why a stored response must be validated before use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValidationReason {
    /// The response's `no-cache`.
    NoCache = "no-cache", "the response has no-cache: it is validated on every use (RFC 9111 §5.2.2.4)";
    /// The family's `revalidate = "always"`.
    Always = "revalidate-always",
        "the family says revalidate = \"always\": a response is validated on every use, as with no-cache (RFC \
         9111 §5.2.2.4)";
    /// Its lifetime has ended.
    Expired = "expired", "the response is stale, and nothing allows serving it stale (RFC 9111 §4.2.4)";
    /// Its lifetime has ended, and it must not be served stale.
    MustRevalidate = "must-revalidate",
        "the response is stale and has must-revalidate, proxy-revalidate or s-maxage (RFC 9111 §5.2.2.2, \
         §5.2.2.8, §5.2.2.10)";
    /// The request's `no-cache`.
    RequestNoCache = "request-no-cache", "the request has no-cache (RFC 9111 §5.2.1.4)";
    /// The request's `max-age`.
    RequestMaxAge = "request-max-age",
        "the response is older than the request's max-age, or stale without a max-stale (RFC 9111 §5.2.1.1)";
    /// The request's `min-fresh`.
    RequestMinFresh = "request-min-fresh",
        "the response is not fresh for as long as the request's min-fresh asks (RFC 9111 §5.2.1.3)";
}
}

impl ValidationReason {
    /// Whether the request demands it, rather than the response.
    pub fn is_of_request(self) -> bool {
        matches!(
            self,
            ValidationReason::RequestNoCache | ValidationReason::RequestMaxAge | ValidationReason::RequestMinFresh
        )
    }
}

/// Bounds for how long past its lifetime a response with a validator is stored for validation: as long as its
/// lifetime, within these bounds.
const VALIDATION_PERIOD: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(60 * 60));

/// A heuristic lifetime is at most a day (RFC 9111 §4.2.2 leaves it to the cache; RFC 2616 §13.2.4 asked for a
/// warning beyond that).
const LONGEST_HEURISTIC: Duration = Duration::from_secs(24 * 60 * 60);

/// Every entry is stored at least this long.
const SHORTEST_KEEP: Duration = Duration::from_secs(1);

impl Freshness {
    /// With a lifetime and nothing else: requested and received at `now` with an age of 0, validated only when the lifetime ends, and
    /// never served stale without the client's consent.
    pub fn with_lifetime(lifetime: Duration, source: LifetimeSource, now: SystemTime) -> Freshness {
        Freshness {
            request_time: now.into(),
            response_time: now.into(),
            initial_age: Seconds::default(),
            lifetime: lifetime.into(),
            source,
            always_validate: false,
            never_stale: false,
            stale_while_revalidate: Seconds::default(),
            stale_if_error: Seconds::default(),
            stale_if_unreachable: Seconds::default(),
        }
    }

    /// `current_age` (§4.2.3). A clock that was set back adds nothing.
    pub fn age(&self, now: SystemTime) -> Duration {
        self.initial_age.duration() + self.response_time.until(now.into())
    }

    /// Remaining freshness in seconds, rounded up; negative when stale, so that the sign suffices.
    pub fn ttl(&self, now: SystemTime) -> i64 {
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let left = whole(self.lifetime.duration()) - whole(self.age(now));
        // Fresh means `lifetime > age` (§4.2), so with nothing left the response is stale.
        if left > 0 { left } else { left.saturating_sub(1) }
    }

    /// Whether the response is fresh, stale but servable, or to be validated. A request's demands can only be
    /// stricter than upstream's directives, except `max-stale`.
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

    /// The same for a soft-invalidated response within its grace. It counts as stale (§4.2.4): it is validated first
    /// if it must not be served stale, or if the request demands no stale response (§5.2.1.1) or remaining freshness
    /// (§5.2.1.3). A response that was unusable before the invalidation stays unusable.
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
        let is_revalidating = self.is_within(self.stale_while_revalidate.duration(), now);
        let demands_fresh = self.demands_fresh(demands, now);
        if self.never_stale {
            // §4.2.4: neither client nor configuration can override it.
            Reuse::Validate { ttl, because: ValidationReason::MustRevalidate }
        } else if is_revalidating && !demands_fresh {
            Reuse::StaleWhileRevalidate { ttl }
        } else if self.is_tolerated(demands, now) {
            Reuse::Stale { ttl }
        } else {
            let because =
                if is_revalidating { ValidationReason::RequestMaxAge } else { ValidationReason::Expired };
            Reuse::Validate { ttl, because }
        }
    }

    /// Whether it may be served, stale or not, after a failed fetch, which allows it to be stale for `period`. `no-cache`,
    /// `must-revalidate` and the like forbid it (§4.2.4), and so do the request's demands, unless the request has
    /// `stale-if-error`.
    pub fn is_usable_after_failure(&self, period: Duration, now: SystemTime, demands: &Demands) -> bool {
        if self.always_validate {
            return false;
        }
        if demands.stale_if_error.is_some_and(|period| self.is_within(period, now)) {
            return true;
        }
        let is_allowed = self.ttl(now) > 0 || (self.is_within(period, now) && !self.demands_fresh(demands, now));
        is_allowed && self.unmet(demands, now).is_none()
    }

    /// The demand of the request that this response does not meet.
    fn unmet(&self, demands: &Demands, now: SystemTime) -> Option<ValidationReason> {
        if demands.validated {
            return Some(ValidationReason::RequestNoCache);
        }
        // §5.2.1.1: no older than max-age; with max-stale, no older than both together.
        let oldest = |age: Duration| age.saturating_add(demands.max_stale.unwrap_or_default());
        if demands.max_age.is_some_and(|age| self.age(now) > oldest(age)) {
            return Some(ValidationReason::RequestMaxAge);
        }
        // §5.2.1.3: the lifetime is at least the age plus min-fresh.
        let outlives = |period: Duration| self.lifetime.duration() >= self.age(now).saturating_add(period);
        demands.min_fresh.is_some_and(|period| !outlives(period)).then_some(ValidationReason::RequestMinFresh)
    }

    /// §5.2.1.1: max-age without max-stale accepts no stale response.
    fn demands_fresh(&self, demands: &Demands, now: SystemTime) -> bool {
        demands.max_age.is_some() && !self.is_tolerated(demands, now)
    }

    /// §5.2.1.2: the client accepts this staleness.
    fn is_tolerated(&self, demands: &Demands, now: SystemTime) -> bool {
        demands.max_stale.is_some_and(|period| self.is_within(period, now))
    }

    /// How long to store the entry: until it is neither fresh nor servable stale and, with a validator, longer for
    /// validation: as long again as its lifetime, but ten minutes to an hour. At least a second.
    pub fn keep_for(&self, now: SystemTime, has_validator: bool) -> Duration {
        let stale = self.stale_while_revalidate.max(self.stale_if_error).duration();
        let (lifetime, (shortest, longest)) = (self.lifetime.duration(), VALIDATION_PERIOD);
        let validation = if has_validator { lifetime.clamp(shortest, longest) } else { Duration::ZERO };
        let whole = lifetime + stale + validation;
        whole.saturating_sub(self.age(now)).max(SHORTEST_KEEP)
    }

    /// Whether it has been stale for less than `period`, and may be served stale (§4.2.4).
    fn is_within(&self, period: Duration, now: SystemTime) -> bool {
        !self.never_stale && self.age(now) < self.lifetime.duration().saturating_add(period)
    }
}

/// The explicit lifetime from upstream (§4.2.1), for a shared cache: `s-maxage`, else `max-age`, else `Expires` minus
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
    // RFC 9213 §2.2: with a targeted field, Expires is ignored.
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

/// The heuristic lifetime of §4.2.2: a tenth of the time between `Last-Modified` and `Date`, in whole seconds, at
/// most a day. `None` without such a time, or below ten seconds of it.
pub fn heuristic_lifetime(headers: &HeaderMap, response_time: SystemTime) -> Option<Duration> {
    let modified = DateField::received(headers, &LAST_MODIFIED, response_time).valid()?;
    let unchanged = date_of(headers, response_time).duration_since(modified).ok()?;
    let tenth = Duration::from_secs(unchanged.as_secs() / 10);
    (tenth > Duration::ZERO).then_some(tenth.min(LONGEST_HEURISTIC))
}

/// RFC 9110 §6.6.1: without a valid `Date`, the time of receipt counts.
fn date_of(headers: &HeaderMap, response_time: SystemTime) -> SystemTime {
    DateField::received(headers, &DATE, response_time).valid().unwrap_or(response_time)
}

/// `corrected_initial_age` (§4.2.3), in its conservative form: the greater of `Age` plus the response delay, and the
/// age according to `Date`. Whole seconds.
pub fn initial_age(headers: &HeaderMap, request_time: SystemTime, response_time: SystemTime) -> Duration {
    let apparent_age = response_time.duration_since(date_of(headers, response_time)).unwrap_or_default();
    let response_delay = response_time.duration_since(request_time).unwrap_or_default();
    whole_seconds(apparent_age.max(age_value(headers) + response_delay))
}

/// §5.1: of a list, the first member counts; a field whose first member is no number is ignored.
fn age_value(headers: &HeaderMap) -> Duration {
    let first = headers.get(AGE).and_then(|line| line.as_bytes().split(|byte| *byte == b',').next());
    Duration::from_secs(first.and_then(|member| delta_seconds(member.trim_ascii())).unwrap_or(0))
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs().min(MAX_SECONDS))
}

#[cfg(test)]
mod tests;
