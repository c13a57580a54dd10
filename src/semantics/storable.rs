//! Whether a response may be stored (RFC 9111 §3), and for how long it will be fresh.

use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use super::Policy;
use super::freshness::Freshness;

/// What of the request matters to storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestFacts {
    /// It carried `Authorization`.
    pub authorization: bool,
    /// It carried `Cookie`.
    pub cookie: bool,
    /// It carried `Cache-Control: no-store` (§5.2.1.5).
    pub no_store: bool,
}

/// A response as it came, and when.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// When the request was sent (§4.2.3 `request_time`).
    pub request_time: SystemTime,
    /// When the head of the response came (§4.2.3 `response_time`).
    pub response_time: SystemTime,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storable {
    Yes {
        freshness: Freshness,
        /// May answer requests that carry `Authorization` or `Cookie`: RFC 9111 §3.5 allows it (`public`,
        /// `s-maxage`, `must-revalidate`), or the family's rules do.
        for_credentials: bool,
    },
    No(Reason),
}

/// Why a response is not stored. The text is what `explain`, the log and `Cache-Status`'s `detail` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Request `no-store`.
    RequestNoStore,
    /// Response `no-store`.
    NoStore,
    Private,
    SetCookie,
    /// `Authorization` without `public`, `s-maxage` or `must-revalidate` (§3.5).
    Authorization,
    /// `Cookie` in the request, and nothing says that the response may be shared.
    Cookie,
    VaryStar,
    /// 1xx, 206, 304, or a status that `must-understand` asks to be understood.
    Status,
    /// Neither upstream nor the family gives a lifetime, and there is nothing to validate with.
    NoLifetime,
    /// It would be stale at once and has no validator.
    StaleAtOnce,
}

impl Reason {
    /// Short token for `Cache-Status`'s `detail`, logs and metrics.
    pub fn token(self) -> &'static str {
        todo!()
    }

    /// One sentence with the section that says so.
    pub fn explanation(self) -> &'static str {
        todo!()
    }
}

/// RFC 9111 §3, then the family's policy.
pub fn storable(request: RequestFacts, response: Received<'_>, policy: &Policy) -> Storable {
    let _ = (request, response, policy);
    todo!()
}
