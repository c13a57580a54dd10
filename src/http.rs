//! RFC 9111 as pure decisions: no clock (`now` is a parameter), no I/O, no knowledge of the rules file beyond
//! [`Policy`]. Each decision is an enum that carries its reason. What can be decided when a response is stored is
//! decided then and kept as flat integers ([`freshness::Freshness`]), so that a hit only compares.

use std::time::Duration;

pub mod cache_control;
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

/// What a family says about storing; [`Policy::default`] is plain RFC 9111 on explicit freshness.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Where neither upstream nor the family states a lifetime, one is worked out from `Last-Modified` (RFC 9111
    /// §4.2.2). Not without a family: an API that nobody described is not guessed at.
    pub heuristic: bool,
    /// How long past its lifetime a response may stand in for an upstream that gives no answer at all (RFC 9111
    /// §4.2.4), unless a directive forbids it.
    pub stale_if_unreachable: Duration,
    /// Which directives of a request count (RFC 9111 §5.2.1).
    pub client_directives: ClientDirectives,
    /// What becomes of a response whose end is that of the connection.
    pub close_delimited: CloseDelimited,
    /// What becomes of `Set-Cookie` in a response.
    pub set_cookie: SetCookie,
    /// The rules say that everybody may have the responses: credentials in the request do not stand in the way of storing.
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

/// Which directives of a request count. RFC 9111 §5.2.1 makes all of them advisory; whoever can force a fetch can
/// take the cache away from everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientDirectives {
    /// Those that cannot make upstream work: `no-store`, `max-stale`, `stale-if-error`, `only-if-cached`.
    #[default]
    Harmless,
    /// All, so that a client may also ask for something fresher than what is stored: `no-cache`, `max-age`,
    /// `min-fresh`, `Pragma: no-cache`.
    All,
    /// None.
    None,
}

impl ClientDirectives {
    /// As `rules.toml` has it.
    pub fn word(self) -> &'static str {
        match self {
            ClientDirectives::Harmless => "harmless",
            ClientDirectives::All => "all",
            ClientDirectives::None => "none",
        }
    }
}

/// What becomes of a response with neither `Content-Length` nor chunks: its content ends when the connection is closed (RFC
/// 9112 §6.3), and one that a crashed server has cut off looks like a whole one (§8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CloseDelimited {
    /// It is passed on, and not stored.
    #[default]
    Forward,
    /// It is stored like any other.
    Store,
}

impl CloseDelimited {
    /// As `rules.toml` has it.
    pub fn word(self) -> &'static str {
        match self {
            CloseDelimited::Forward => "forward",
            CloseDelimited::Store => "store",
        }
    }
}

/// What becomes of `Set-Cookie` in a family's responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetCookie {
    /// It is passed on, and the response, which is meant for one client, is not stored.
    #[default]
    Forward,
    /// It is removed from the response before anybody looks at it.
    Strip,
}

impl SetCookie {
    /// As `rules.toml` has it.
    pub fn word(self) -> &'static str {
        match self {
            SetCookie::Forward => "forward",
            SetCookie::Strip => "strip",
        }
    }
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

impl TtlPolicy {
    /// As `rules.toml` has it.
    pub fn word(self) -> &'static str {
        match self {
            TtlPolicy::Default => "default",
            TtlPolicy::Override => "override",
        }
    }
}
