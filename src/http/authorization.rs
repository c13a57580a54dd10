//! What the API says of a caller, where a family asks it first (`authorize`): whether the answer authorizes the caller, and whether
//! it may be kept.
//!
//! The time for which it is kept is the rules' (`ttl`), whatever lifetime the answer states, `private` and `no-cache` included: many
//! frameworks send these with every answer, it is kept for this caller alone, and nothing of it but its status. `no-store` is heeded:
//! then each request asks.

use std::time::{Duration, SystemTime};

use http::header::{AGE, CACHE_CONTROL};
use http::{HeaderMap, HeaderName, StatusCode};

use super::freshness::{self, Freshness, LifetimeSource};
use super::storable::Reason;
use super::targeted;

/// What the API says of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// 2xx.
    Granted,
    /// 401 or 403.
    Refused,
    /// Anything else, or no answer.
    Unknown,
}

impl Authorization {
    /// What an answer with this status says.
    pub fn of(status: StatusCode) -> Authorization {
        match status {
            status if status.is_success() => Authorization::Granted,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Authorization::Refused,
            _ => Authorization::Unknown,
        }
    }

    /// For the metric and `larder explain`.
    pub fn label(self) -> &'static str {
        match self {
            Authorization::Granted => "granted",
            Authorization::Refused => "refused",
            Authorization::Unknown => "unknown",
        }
    }
}

/// Fields of the answer that say how old it is, and whether it may be kept.
static NEEDED: [HeaderName; 5] = [
    AGE,
    CACHE_CONTROL,
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("larder-cache-control"),
    HeaderName::from_static("surrogate-control"),
];

/// Removes what a verdict is not made of: all fields but a few.
pub fn reduce(answer: &mut HeaderMap) {
    let needed = NEEDED.iter().flat_map(|name| answer.get_all(name).iter().map(move |value| (name, value)));
    *answer = needed.map(|(name, value)| (name.clone(), value.clone())).collect();
}

/// How long an answer counts. A refusal is kept as long as a permission: a caller that is refused would otherwise ask with every
/// request.
///
/// # Errors
///
/// It is not kept.
pub fn kept(
    status: StatusCode,
    answer: &HeaderMap,
    ttl: Duration,
    (request_time, response_time): (SystemTime, SystemTime),
) -> Result<Freshness, Reason> {
    if Authorization::of(status) == Authorization::Unknown {
        return Err(Reason::Status);
    }
    if targeted::effective(answer).directives.no_store {
        return Err(Reason::NoStore);
    }
    let lifetime = Duration::from_secs(ttl.as_secs());
    let freshness = Freshness {
        request_time: request_time.into(),
        initial_age: freshness::initial_age(answer, request_time, response_time).into(),
        // Whatever failed since: a verdict whose time is over says nothing.
        never_stale: true,
        ..Freshness::with_lifetime(lifetime, LifetimeSource::FamilyOverride, response_time)
    };
    if freshness.age(response_time) < lifetime { Ok(freshness) } else { Err(Reason::StaleAtOnce) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::freshness::Seconds;
    use crate::http::sample::{Fields, fields};

    const TTL: Duration = Duration::from_secs(5);

    fn kept_of(status: u16, lines: Fields<'_>) -> Result<Duration, Reason> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut answer = fields(lines);
        reduce(&mut answer);
        kept(StatusCode::from_u16(status).unwrap(), &answer, TTL, (now, now))
            .map(|freshness| freshness.lifetime.duration())
    }

    #[test]
    fn permissions_and_refusals_are_kept_for_the_ttl_of_the_rules() {
        let rows: [(u16, Fields<'_>, Result<Duration, Reason>); 12] = [
            (200, &[], Ok(TTL)),
            (204, &[("cache-control", "max-age=600")], Ok(TTL)),
            (200, &[("cache-control", "private, no-cache, max-age=0, must-revalidate")], Ok(TTL)),
            (200, &[("set-cookie", "sid=1"), ("vary", "*"), ("expires", "0")], Ok(TTL)),
            (401, &[], Ok(TTL)),
            (403, &[("cache-control", "private")], Ok(TTL)),
            (200, &[("cache-control", "private, no-store")], Err(Reason::NoStore)),
            (200, &[("cache-control", "\"unclosed")], Err(Reason::NoStore)),
            (200, &[("age", "5")], Err(Reason::StaleAtOnce)),
            (302, &[("cache-control", "max-age=60")], Err(Reason::Status)),
            (404, &[("cache-control", "max-age=60")], Err(Reason::Status)),
            (503, &[], Err(Reason::Status)),
        ];
        for (status, lines, expected) in rows {
            assert_eq!(kept_of(status, lines), expected, "{status} {lines:?}");
        }
    }

    #[test]
    fn a_verdict_is_never_stale() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let freshness = kept(StatusCode::OK, &HeaderMap::new(), TTL, (now, now)).unwrap();
        assert!(freshness.never_stale && freshness.stale_if_unreachable == Seconds::default());
    }
}
