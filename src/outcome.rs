//! What happened to a request: one value that drives the `Cache-Status` field (RFC 9211), the access log and the
//! metric, so that they cannot disagree.

use std::fmt;

/// Why a request went to upstream: RFC 9211 §2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fwd {
    /// Not to be handled from the cache: a rule, credentials, an outage.
    Bypass,
    /// The method is not one that is answered from the cache.
    Method,
    /// Nothing stored for this URI.
    UriMiss,
    /// Something is stored, but not for these request fields.
    VaryMiss,
    /// The request itself asked for it.
    Request,
    /// What is stored is stale, or invalidated by a write.
    Stale,
}

impl Fwd {
    /// The token of RFC 9211.
    pub fn token(self) -> &'static str {
        match self {
            Fwd::Bypass => "bypass",
            Fwd::Method => "method",
            Fwd::UriMiss => "uri-miss",
            Fwd::VaryMiss => "vary-miss",
            Fwd::Request => "request",
            Fwd::Stale => "stale",
        }
    }
}

/// What happened, as one word for the access log and the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Served from the cache, fresh.
    Hit,
    /// Served from the cache, stale, as RFC 5861 allows: without asking upstream, or after it failed.
    Stale,
    /// Fetched.
    Miss,
    /// Served from the cache after upstream said 304.
    Revalidated,
    /// Forwarded, not cached.
    Pass,
    /// A write, forwarded.
    Write,
    /// Answered by Larder itself with an error.
    Error,
}

impl Kind {
    /// Every kind, in the order of [`Kind::index`].
    pub const ALL: [Kind; 7] =
        [Kind::Hit, Kind::Stale, Kind::Miss, Kind::Revalidated, Kind::Pass, Kind::Write, Kind::Error];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Hit => "hit",
            Kind::Stale => "stale",
            Kind::Miss => "miss",
            Kind::Revalidated => "revalidated",
            Kind::Pass => "pass",
            Kind::Write => "write",
            Kind::Error => "error",
        }
    }

    /// Position in [`Kind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What happened to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub kind: Kind,
    /// Set when the request went to upstream (or shared a fetch that did).
    pub fwd: Option<Fwd>,
    /// Status of upstream's answer.
    pub fwd_status: Option<u16>,
    /// Seconds of freshness left; negative when stale.
    pub ttl: Option<i64>,
    /// The response was stored.
    pub stored: bool,
    /// The request shared another one's fetch.
    pub collapsed: bool,
    /// A short token that says why: `invalidated`, `set-cookie`, `store-away`, …
    pub detail: Option<&'static str>,
    /// The name under which the response is stored; printable ASCII.
    pub key: Option<Box<str>>,
    /// What a write has invalidated, for the access log.
    pub invalidated: Option<Box<str>>,
}

impl Outcome {
    fn new(kind: Kind, fwd: Option<Fwd>) -> Outcome {
        Outcome {
            kind,
            fwd,
            fwd_status: None,
            ttl: None,
            stored: false,
            collapsed: false,
            detail: None,
            key: None,
            invalidated: None,
        }
    }

    /// Served from the cache, fresh for another `ttl` seconds.
    pub fn hit(ttl: i64) -> Outcome {
        Outcome { ttl: Some(ttl), ..Outcome::new(Kind::Hit, None) }
    }

    /// Served from the cache although stale. `ttl` is negative, unless it is a soft invalidation that makes it stale.
    pub fn stale(ttl: i64, detail: &'static str) -> Outcome {
        Outcome { ttl: Some(ttl), detail: Some(detail), ..Outcome::new(Kind::Stale, None) }
    }

    /// Fetched because of `fwd`.
    pub fn miss(fwd: Fwd) -> Outcome {
        Outcome::new(Kind::Miss, Some(fwd))
    }

    /// Shared the fetch of another proxy, which has stored its answer of this status.
    pub fn fetched_elsewhere(fwd: Fwd, status: u16, ttl: i64) -> Outcome {
        Outcome {
            fwd_status: Some(status),
            ttl: Some(ttl),
            stored: true,
            collapsed: true,
            detail: Some("fleet"),
            ..Outcome::miss(fwd)
        }
    }

    /// Served from the cache after a 304.
    pub fn revalidated(ttl: i64) -> Outcome {
        Outcome { fwd_status: Some(304), ttl: Some(ttl), ..Outcome::new(Kind::Revalidated, Some(Fwd::Stale)) }
    }

    /// Forwarded, not cached.
    pub fn pass(fwd: Fwd, detail: &'static str) -> Outcome {
        Outcome { detail: Some(detail), ..Outcome::new(Kind::Pass, Some(fwd)) }
    }

    /// A write.
    pub fn write() -> Outcome {
        Outcome::new(Kind::Write, Some(Fwd::Method))
    }

    /// Answered by Larder with an error of its own.
    pub fn error(detail: &'static str) -> Outcome {
        Outcome { detail: Some(detail), ..Outcome::new(Kind::Error, None) }
    }

    /// What a request was refused, and whose bound it met: that of its client, or that of all.
    pub fn refused(&self) -> Option<(&'static str, &'static str)> {
        // First what rules out almost all.
        match self.detail.filter(|_| self.kind == Kind::Error)? {
            "overloaded" => Some(("upstream-requests", "all")),
            "client-overloaded" => Some(("upstream-requests", "client")),
            "streams-overloaded" => Some(("upstream-streams", "all")),
            "client-streams-overloaded" => Some(("upstream-streams", "client")),
            "client-share" => Some(("unshared", "client")),
            _ => None,
        }
    }

    /// The same with a detail.
    #[must_use]
    pub fn because(self, detail: &'static str) -> Outcome {
        Outcome { detail: Some(detail), ..self }
    }
}

/// The member that Larder appends to `Cache-Status`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("larder")?;
        match (self.kind, self.fwd) {
            // RFC 9211 §2.1: a request that went forward is no `hit`, even if what answers it was stored: because upstream
            // confirmed it, or because it failed.
            (_, Some(fwd)) => write!(f, "; fwd={}", fwd.token())?,
            (Kind::Hit | Kind::Stale, None) => f.write_str("; hit")?,
            (_, None) => {}
        }
        if let Some(status) = self.fwd_status {
            write!(f, "; fwd-status={status}")?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={ttl}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        if let Some(detail) = self.detail {
            write!(f, "; detail={detail}")?;
        }
        if let Some(key) = &self.key {
            // A structured field's string (RFC 9651 §3.3.3): two characters are escaped.
            write!(f, "; key=\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_status_reads_as_rfc_9211_says() {
        let rows = [
            (Outcome::hit(30), "larder; hit; ttl=30"),
            (Outcome::stale(-5, "revalidating"), "larder; hit; ttl=-5; detail=revalidating"),
            (Outcome::stale(40, "soft-invalidated"), "larder; hit; ttl=40; detail=soft-invalidated"),
            (
                Outcome { fwd_status: Some(200), stored: true, collapsed: true, ..Outcome::miss(Fwd::UriMiss) },
                "larder; fwd=uri-miss; fwd-status=200; stored; collapsed",
            ),
            (Outcome::revalidated(60), "larder; fwd=stale; fwd-status=304; ttl=60"),
            (
                Outcome { fwd: Some(Fwd::Stale), fwd_status: Some(503), ..Outcome::stale(-5, "upstream-failed") },
                "larder; fwd=stale; fwd-status=503; ttl=-5; detail=upstream-failed",
            ),
            (
                Outcome::fetched_elsewhere(Fwd::UriMiss, 200, 60),
                "larder; fwd=uri-miss; fwd-status=200; ttl=60; stored; collapsed; detail=fleet",
            ),
            (Outcome::pass(Fwd::Bypass, "authorization"), "larder; fwd=bypass; detail=authorization"),
            (Outcome::write(), "larder; fwd=method"),
            (Outcome { key: Some("a\"b:1".into()), ..Outcome::hit(1) }, "larder; hit; ttl=1; key=\"a\\\"b:1\""),
            (Outcome::error("upstream-timeout"), "larder; detail=upstream-timeout"),
        ];
        for (outcome, expected) in rows {
            assert_eq!(outcome.to_string(), expected);
        }
    }
}
