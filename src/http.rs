//! RFC 9111 as pure decisions: no clock (`now` is a parameter), no I/O, and no knowledge of the rules file beyond
//! [`Policy`]. Each decision is an enum that carries its reason. As much as possible is decided when a response is
//! stored and saved as plain integers ([`freshness::Freshness`]), so that a hit only compares.

use std::time::Duration;

pub mod authorization;
pub mod cache_control;
pub mod chunks;
pub mod clients;
pub mod date;
pub mod demands;
pub mod freshness;
pub mod groups;
pub mod headers;
pub mod invalidation;
pub mod multipart;
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
    /// Lifetime for 404 and 410.
    pub negative_ttl: Option<Duration>,
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
    /// The rules say that the response is the same for every caller, so credentials in the request do not prevent
    /// storing.
    pub for_everybody: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            ttl: None,
            ttl_policy: TtlPolicy::default(),
            negative_ttl: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            heuristic: false,
            stale_if_unreachable: STALE_IF_UNREACHABLE,
            client_directives: ClientDirectives::default(),
            close_delimited: CloseDelimited::default(),
            set_cookie: SetCookie::default(),
            for_everybody: false,
        }
    }
}

/// Default of [`Policy::stale_if_unreachable`].
pub const STALE_IF_UNREACHABLE: Duration = Duration::from_secs(3600);

/// Which request directives apply. RFC 9111 §5.2.1 makes all of them advisory: a client that can force fetches can
/// disable the cache for everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientDirectives {
    /// Those that cannot cause fetches: `no-store`, `max-stale`, `stale-if-error`, `only-if-cached`.
    #[default]
    Harmless,
    /// All, so that a client can also demand a fresher response: `no-cache`, `max-age`, `min-fresh`, `Pragma:
    /// no-cache`.
    All,
    /// None.
    None,
}

impl ClientDirectives {
    /// The value in `rules.toml`.
    pub fn word(self) -> &'static str {
        match self {
            ClientDirectives::Harmless => "harmless",
            ClientDirectives::All => "all",
            ClientDirectives::None => "none",
        }
    }
}

/// How to treat a response with neither `Content-Length` nor chunks: its content ends with the connection (RFC 9112
/// §6.3), so one cut off by a crashed server looks complete (§8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CloseDelimited {
    /// Forward it without storing it.
    #[default]
    Forward,
    /// Store it like any other.
    Store,
}

impl CloseDelimited {
    /// The value in `rules.toml`.
    pub fn word(self) -> &'static str {
        match self {
            CloseDelimited::Forward => "forward",
            CloseDelimited::Store => "store",
        }
    }
}

/// How to treat `Set-Cookie` in a family's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetCookie {
    /// Forward it. The response is meant for one client, so it is not stored.
    #[default]
    Forward,
    /// Remove it from the response first.
    Strip,
}

impl SetCookie {
    /// The value in `rules.toml`.
    pub fn word(self) -> &'static str {
        match self {
            SetCookie::Forward => "forward",
            SetCookie::Strip => "strip",
        }
    }
}

/// Whose lifetime applies to a family's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TtlPolicy {
    /// Upstream's explicit lifetime; the family's `ttl` if there is none.
    #[default]
    Default,
    /// The family's `ttl`, except over `no-store` and `private`.
    Override,
}

impl TtlPolicy {
    /// The value in `rules.toml`.
    pub fn word(self) -> &'static str {
        match self {
            TtlPolicy::Default => "default",
            TtlPolicy::Override => "override",
        }
    }
}
