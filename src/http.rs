//! RFC 9111 as pure decisions: no clock (`now` is a parameter), no I/O, and no knowledge of the rules file beyond
//! [`Policy`]. Each decision is an enum that carries its reason. As much as possible is decided when a response is
//! stored and saved as plain integers ([`freshness::Freshness`]), so that a hit only compares.

use std::time::Duration;

use self::adaptive_ttl::AdaptiveTtl;
use self::daily_time::DailyTime;
use self::negative_ttl::NegativeTtl;
use crate::words::words;

pub mod adaptive_ttl;
pub mod authorization;
pub mod cache_control;
pub mod chunks;
pub mod clients;
pub mod daily_time;
pub mod date;
pub mod demands;
pub mod freshness;
pub mod groups;
pub mod headers;
pub mod invalidation;
pub mod multipart;
pub mod negative_ttl;
pub mod negotiation;
#[cfg(test)]
mod oracle;
pub mod range;
#[cfg(test)]
pub(crate) mod sample;
pub mod storable;
pub mod target;
pub mod targeted;
pub mod validation;
pub mod vary;

/// A family's settings for storing. [`Policy::default`] is plain RFC 9111 with explicit freshness only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Lifetime for successful responses (and cacheable redirects).
    pub ttl: Option<Duration>,
    /// Whether the family's or upstream's lifetime wins.
    pub ttl_policy: TtlPolicy,
    /// Factors of `ttl` by how often the URL is requested.
    pub adaptive_ttl: Option<AdaptiveTtl>,
    /// The time of day at which every lifetime ends, also one that upstream states.
    pub until: Option<DailyTime>,
    /// Lifetimes of redirects and errors.
    pub negative_ttl: NegativeTtl,
    /// RFC 5861 §3, unless the response has the directive.
    pub stale_while_revalidate: Option<Duration>,
    /// RFC 5861 §4, unless the response has the directive.
    pub stale_if_error: Option<Duration>,
    /// Whether to derive a lifetime from `Last-Modified` if neither upstream nor the family states one (RFC 9111
    /// §4.2.2). False outside of families: nothing is guessed about an undescribed API.
    pub heuristic: bool,
    /// How long past its lifetime a response may be served while upstream does not respond (RFC 9111 §4.2.4), unless
    /// a directive forbids it.
    pub stale_if_unreachable: Duration,
    /// Which request directives apply (RFC 9111 §5.2.1).
    pub client_directives: ClientDirectives,
    /// How to treat a response that ends with its connection.
    pub close_delimited: CloseDelimited,
    /// How to treat `Set-Cookie` in a response.
    pub set_cookie: SetCookie,
    /// Whether a stored response may be used without validation while it is fresh.
    pub revalidate: Revalidate,
    /// The rules say that the response is the same for every caller, so credentials in the request do not prevent
    /// storing.
    pub for_everybody: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            ttl: None,
            ttl_policy: TtlPolicy::default(),
            adaptive_ttl: None,
            until: None,
            negative_ttl: NegativeTtl::default(),
            stale_while_revalidate: None,
            stale_if_error: None,
            heuristic: false,
            stale_if_unreachable: STALE_IF_UNREACHABLE,
            client_directives: ClientDirectives::default(),
            close_delimited: CloseDelimited::default(),
            set_cookie: SetCookie::default(),
            revalidate: Revalidate::default(),
            for_everybody: false,
        }
    }
}

/// Default of [`Policy::stale_if_unreachable`].
pub const STALE_IF_UNREACHABLE: Duration = Duration::from_secs(3600);

words! {
/// Which request directives apply. RFC 9111 §5.2.1 makes all of them advisory: a client that can force fetches can
/// disable the cache for everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientDirectives {
    /// Those that cannot cause fetches: `no-store`, `max-stale`, `stale-if-error`, `only-if-cached`.
    #[default]
    Harmless = "harmless",
    /// All, so that a client can also demand a fresher response: `no-cache`, `max-age`, `min-fresh`, `Pragma:
    /// no-cache`.
    All = "all",
    /// None.
    None = "none",
}
}

words! {
/// How to treat a response with neither `Content-Length` nor chunks: its content ends with the connection (RFC 9112
/// §6.3), so one cut off by a crashed server looks complete (§8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CloseDelimited {
    /// Forward it without storing it.
    #[default]
    Forward = "forward",
    /// Store it like any other.
    Store = "store",
}
}

words! {
/// How to treat `Set-Cookie` in a family's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetCookie {
    /// Forward it. The response is meant for one client, so it is not stored.
    #[default]
    Forward = "forward",
    /// Remove it from the response first.
    Strip = "strip",
}
}

words! {
/// When a family's stored responses are validated with upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Revalidate {
    /// When they are stale, and where upstream's `Cache-Control` says so.
    #[default]
    WhenStale = "when-stale",
    /// On every use, as if each response had `no-cache` (RFC 9111 §5.2.2.4).
    Always = "always",
}
}

words! {
/// Whose lifetime applies to a family's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TtlPolicy {
    /// Upstream's explicit lifetime; the family's `ttl` if there is none.
    #[default]
    Default = "default",
    /// The family's `ttl`, except over `no-store` and `private`.
    Override = "override",
}
}
