//! The outcome of a request: one value for the `Cache-Status` field (RFC 9211), the access log and the metric, so
//! that they agree.

use std::fmt;

/// Why a request was forwarded to upstream (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fwd {
    /// Not handled by the cache: because of a rule, credentials, or an outage.
    Bypass,
    /// The method is not cacheable.
    Method,
    /// Nothing stored for this URI.
    UriMiss,
    /// Stored responses exist, but none for these request fields.
    VaryMiss,
    /// The request demanded it.
    Request,
    /// The stored response is stale or invalidated.
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

/// The outcome as one word, for the access log and the metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutcomeKind {
    /// Served from the cache, fresh.
    Hit,
    /// Served from the cache although stale, as RFC 5861 allows: while revalidating, or after a failed fetch.
    Stale,
    /// Fetched.
    Miss,
    /// Served from the cache after upstream responded 304.
    Revalidated,
    /// Forwarded, not cached.
    Pass,
    /// A write, forwarded.
    Write,
    /// Answered by Larder itself with an error.
    Error,
}

impl OutcomeKind {
    /// Every kind, in the order of [`OutcomeKind::index`].
    pub const ALL: [OutcomeKind; 7] = [
        OutcomeKind::Hit,
        OutcomeKind::Stale,
        OutcomeKind::Miss,
        OutcomeKind::Revalidated,
        OutcomeKind::Pass,
        OutcomeKind::Write,
        OutcomeKind::Error,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            OutcomeKind::Hit => "hit",
            OutcomeKind::Stale => "stale",
            OutcomeKind::Miss => "miss",
            OutcomeKind::Revalidated => "revalidated",
            OutcomeKind::Pass => "pass",
            OutcomeKind::Write => "write",
            OutcomeKind::Error => "error",
        }
    }

    /// Position in [`OutcomeKind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The outcome of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub kind: OutcomeKind,
    /// Set if the request was forwarded, or shared a fetch that was.
    pub fwd: Option<Fwd>,
    /// Status of upstream's response.
    pub fwd_status: Option<u16>,
    /// Remaining freshness in seconds; negative when stale.
    pub ttl: Option<i64>,
    /// The response was stored.
    pub stored: bool,
    /// The request shared another one's fetch.
    pub collapsed: bool,
    /// Before it was answered from the cache, upstream was asked whether it authorizes the caller.
    pub has_asked: bool,
    /// Token for the reason: `invalidated`, `set-cookie`, `store-away`, …
    pub detail: Option<&'static str>,
    /// The cache key of the response, in printable ASCII.
    pub key: Option<Box<str>>,
    /// What a write invalidated, for the access log.
    pub invalidated: Option<Box<str>>,
}

impl Outcome {
    fn new(kind: OutcomeKind, fwd: Option<Fwd>) -> Outcome {
        Outcome {
            kind,
            fwd,
            fwd_status: None,
            ttl: None,
            stored: false,
            collapsed: false,
            has_asked: false,
            detail: None,
            key: None,
            invalidated: None,
        }
    }

    /// Served from the cache, fresh for another `ttl` seconds.
    pub fn hit(ttl: i64) -> Outcome {
        Outcome { ttl: Some(ttl), ..Outcome::new(OutcomeKind::Hit, None) }
    }

    /// Served from the cache although stale. `ttl` is negative unless a soft invalidation made it stale.
    pub fn stale(ttl: i64, detail: &'static str) -> Outcome {
        Outcome { ttl: Some(ttl), detail: Some(detail), ..Outcome::new(OutcomeKind::Stale, None) }
    }

    /// Fetched because of `fwd`.
    pub fn miss(fwd: Fwd) -> Outcome {
        Outcome::new(OutcomeKind::Miss, Some(fwd))
    }

    /// Shared the fetch of another proxy, which stored its response with this status.
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
        Outcome {
            fwd_status: Some(304),
            ttl: Some(ttl),
            ..Outcome::new(OutcomeKind::Revalidated, Some(Fwd::Stale))
        }
    }

    /// Forwarded, not cached.
    pub fn pass(fwd: Fwd, detail: &'static str) -> Outcome {
        Outcome { detail: Some(detail), ..Outcome::new(OutcomeKind::Pass, Some(fwd)) }
    }

    /// A write.
    pub fn write() -> Outcome {
        Outcome::new(OutcomeKind::Write, Some(Fwd::Method))
    }

    /// A PURGE or BAN, which is not forwarded.
    pub fn purged() -> Outcome {
        Outcome { detail: Some("purged"), ..Outcome::new(OutcomeKind::Write, None) }
    }

    /// Answered by Larder with an error.
    pub fn error(detail: &'static str) -> Outcome {
        Outcome { detail: Some(detail), ..Outcome::new(OutcomeKind::Error, None) }
    }

    /// Whether the answer came from the cache without waiting for upstream.
    pub fn is_immediate(&self) -> bool {
        matches!(self.kind, OutcomeKind::Hit | OutcomeKind::Stale) && self.fwd.is_none() && !self.has_asked
    }

    /// Which limit refused the request, and whether it was the client's limit or that of all clients.
    pub fn refused(&self) -> Option<(&'static str, &'static str)> {
        // Check first what excludes most requests.
        match self.detail.filter(|_| self.kind == OutcomeKind::Error)? {
            "overloaded" => Some(("upstream-requests", "all")),
            "client-overloaded" => Some(("upstream-requests", "client")),
            "streams-overloaded" => Some(("upstream-streams", "all")),
            "client-streams-overloaded" => Some(("upstream-streams", "client")),
            "client-share" => Some(("unshared", "client")),
            _ => None,
        }
    }

    /// The same outcome with this detail.
    #[must_use]
    pub fn because(self, detail: &'static str) -> Outcome {
        Outcome { detail: Some(detail), ..self }
    }
}

/// The member that Larder appends to `Cache-Status`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Outcome {
    /// The member, in printable ASCII. Every response has it, and Rust's formatting would be a large part of what a hit costs.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        let mut push = |part: &str| text.push_str(part);
        let mut number = itoa::Buffer::new();
        push("larder");
        match (self.kind, self.fwd) {
            // RFC 9211 §2.1: a forwarded request is no `hit`, even if a stored response answers it because upstream
            // confirmed it or failed.
            (_, Some(fwd)) => {
                push("; fwd=");
                push(fwd.token());
            }
            (OutcomeKind::Hit | OutcomeKind::Stale, None) => push("; hit"),
            (_, None) => {}
        }
        if let Some(status) = self.fwd_status {
            push("; fwd-status=");
            push(number.format(status));
        }
        if let Some(ttl) = self.ttl {
            push("; ttl=");
            push(number.format(ttl));
        }
        if self.stored {
            push("; stored");
        }
        if self.collapsed {
            push("; collapsed");
        }
        if let Some(detail) = self.detail {
            push("; detail=");
            push(detail);
        }
        if let Some(key) = &self.key {
            // A structured field's string (RFC 9651 §3.3.3): two characters are escaped.
            push("; key=\"");
            push(&key.replace('\\', "\\\\").replace('"', "\\\""));
            push("\"");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_status_follows_rfc_9211() {
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
            assert_eq!(outcome.text(), expected);
        }
    }
}
