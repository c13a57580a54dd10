//! Freshness (RFC 9111 §4.2): lifetime and age, decided at store time as far as possible.

use std::time::{Duration, SystemTime};

/// Where a lifetime came from, for `explain` and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// No lifetime: stored for validation only.
    None,
}

/// All that a hit needs to know about time, decided when the response was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
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
}

/// How a stored response may be used now, as far as time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it. `ttl`: seconds of freshness left.
    Fresh { ttl: i64 },
    /// Serve it and revalidate it in the background. `ttl` is negative.
    StaleWhileRevalidate { ttl: i64 },
    /// Ask upstream first. `ttl` is negative, or not (with `always_validate`).
    Validate { ttl: i64 },
}

impl Freshness {
    /// `current_age` (§4.2.3). A clock that went backwards adds nothing.
    pub fn age(&self, now: SystemTime) -> Duration {
        let _ = now;
        todo!()
    }

    /// Seconds of freshness left; negative when stale.
    pub fn ttl(&self, now: SystemTime) -> i64 {
        let _ = now;
        todo!()
    }

    /// Fresh, stale but servable, or to be validated.
    pub fn reuse(&self, now: SystemTime) -> Reuse {
        let _ = now;
        todo!()
    }

    /// Whether it may still be served when upstream cannot be reached or answers 500, 502, 503 or 504.
    pub fn usable_on_error(&self, now: SystemTime) -> bool {
        let _ = now;
        todo!()
    }

    /// How long the entry is worth keeping: until it is neither fresh nor servable stale, and, with a validator,
    /// a while longer for validation. Never zero.
    pub fn keep_for(&self, now: SystemTime, has_validator: bool) -> Duration {
        let _ = (now, has_validator);
        todo!()
    }
}
