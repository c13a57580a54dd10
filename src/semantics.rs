//! RFC 9111 as pure decisions: no clock (`now` is a parameter), no I/O, no knowledge of the rules file beyond
//! [`Policy`]. Each decision is an enum that carries its reason. What can be decided when a response is stored is
//! decided then and kept as flat integers ([`freshness::Freshness`]), so that a hit only compares.

use std::time::Duration;

pub mod cache_control;
pub mod date;
pub mod freshness;
pub mod invalidation;
pub mod range;
#[cfg(test)]
pub(crate) mod sample;
pub mod storable;
pub mod validation;
pub mod vary;

/// What a family says about storing; [`Policy::default`] is plain RFC 9111 on explicit freshness.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Lifetime for successful responses (and cacheable redirects).
    pub ttl: Option<Duration>,
    /// Whether the family's or upstream's freshness wins.
    pub ttl_policy: TtlPolicy,
    /// Lifetime for 404 and 410.
    pub negative_ttl: Option<Duration>,
    /// RFC 5861 §3, where the response does not say.
    pub stale_while_revalidate: Option<Duration>,
    /// RFC 5861 §4, where the response does not say.
    pub stale_if_error: Option<Duration>,
    /// The rules say how callers are told apart (or that they need not be): `Authorization` and `Cookie` in the
    /// request do not stand in the way of storing.
    pub identity_stated: bool,
}

/// Who decides on the lifetime of a family's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TtlPolicy {
    /// Upstream's explicit freshness wins; the family's `ttl` fills in where there is none.
    #[default]
    Default,
    /// The family's `ttl` wins over everything except `no-store` and `private`.
    Override,
}
