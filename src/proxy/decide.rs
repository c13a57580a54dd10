//! The decision on a read: from the cache, or to upstream, and why. Pure: what the rules say of the request ([`CacheRequest`]), what
//! the cache found ([`Lookup`]) and the time decide. [`super::read`] acts on it, [`super::explain`] prints it.

use std::time::SystemTime;

use http::Method;

use super::ClientRequest;
use super::cache_request::CacheRequest;
use crate::cache::{Found, Lookup};
use crate::entry;
use crate::http::freshness::{Reuse, ValidationReason};
use crate::http::validation;
use crate::outcome::Fwd;
use crate::running::Live;

/// What is done with a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The stored response is served. It is fresh for another `ttl` seconds.
    Serve { ttl: i64 },
    /// The stored response is served although it is not fresh.
    ServeStale { ttl: i64, reason: StaleReason },
    /// Upstream is asked whether the stored response still holds; without a validator, for a new one.
    Revalidate(MissReason),
    /// Upstream is asked for the response, once for all who wait for it.
    Fetch(MissReason),
    /// The request goes to upstream, for itself alone. Nothing of the response is stored.
    Forward(MissReason),
    /// It would go to upstream, and says `only-if-cached` (RFC 9111 §5.2.1.7).
    Refuse(MissReason),
}

impl Decision {
    /// Whether a stored response is stale, and may be served if upstream fails.
    pub fn has_stale(self) -> bool {
        match self {
            Decision::Revalidate(reason) | Decision::Fetch(reason) | Decision::Forward(reason) => {
                matches!(reason, MissReason::Stale { .. })
            }
            Decision::Serve { .. } | Decision::ServeStale { .. } | Decision::Refuse(_) => false,
        }
    }
}

/// Why a stored response is served although it is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// RFC 5861 §3. It is revalidated in the background.
    WhileRevalidate,
    /// The request accepts it (RFC 9111 §5.2.1.2).
    MaxStale,
    /// A soft invalidation, whose grace is not over. It is revalidated in the background.
    SoftInvalidated,
}

impl StaleReason {
    /// The detail in `Cache-Status`.
    pub fn detail(self) -> &'static str {
        match self {
            StaleReason::WhileRevalidate => "revalidating",
            StaleReason::MaxStale => "max-stale",
            StaleReason::SoftInvalidated => "soft-invalidated",
        }
    }

    /// One sentence with the section that says so.
    pub fn explanation(self) -> &'static str {
        match self {
            StaleReason::WhileRevalidate => {
                "it is stale, and stale-while-revalidate allows serving it while upstream is asked (RFC 5861 §3)"
            }
            StaleReason::MaxStale => "it is stale, and the request's max-stale allows that (RFC 9111 §5.2.1.2)",
            StaleReason::SoftInvalidated => {
                "a soft invalidation (mode = \"soft\") made it stale: it is served until the grace is over, while upstream is \
                 asked (RFC 9111 §4.2.4)"
            }
        }
    }

    /// Whether the response is revalidated in the background.
    pub fn revalidates(self) -> bool {
        self != StaleReason::MaxStale
    }
}

/// Why no stored response is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissReason {
    /// Nothing is stored for the request.
    NotStored,
    /// Responses are stored for other values of the fields that they vary on.
    OtherVariant,
    /// What is stored was invalidated by a write.
    Invalidated,
    /// What is stored must be validated first. Its lifetime has `ttl` seconds left; negative when it is over.
    Stale { ttl: i64, reason: ValidationReason },
    /// What is stored is not for requests with these credentials (RFC 9111 §3.5).
    Credentials,
    /// The store does not answer.
    StoreAway,
    /// A QUERY that no family names.
    UnclaimedQuery,
    /// Upstream may take the path for one of another family.
    AmbiguousPath,
    /// Preconditions that only upstream can evaluate (RFC 9111 §4.3.2).
    Precondition,
}

impl MissReason {
    /// Why the request is forwarded, in the words of RFC 9211 §2.2.
    pub fn fwd(self) -> Fwd {
        match self {
            MissReason::NotStored => Fwd::UriMiss,
            MissReason::OtherVariant => Fwd::VaryMiss,
            MissReason::Invalidated => Fwd::Stale,
            MissReason::Stale { reason, .. } if reason.is_of_request() => Fwd::Request,
            MissReason::Stale { .. } => Fwd::Stale,
            MissReason::UnclaimedQuery => Fwd::Method,
            MissReason::Credentials
            | MissReason::StoreAway
            | MissReason::AmbiguousPath
            | MissReason::Precondition => Fwd::Bypass,
        }
    }

    /// The detail in `Cache-Status`; `None` where `fwd` says all there is to say.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            MissReason::NotStored | MissReason::OtherVariant => None,
            MissReason::Stale { reason: ValidationReason::Expired, .. } => None,
            MissReason::Stale { reason, .. } => Some(reason.token()),
            MissReason::Invalidated => Some("invalidated"),
            MissReason::Credentials => Some("credentials"),
            MissReason::StoreAway => Some("store-away"),
            MissReason::UnclaimedQuery => Some("method"),
            MissReason::AmbiguousPath => Some("ambiguous-path"),
            MissReason::Precondition => Some("precondition"),
        }
    }

    /// One sentence with the section that says so.
    pub fn explanation(self) -> &'static str {
        match self {
            MissReason::NotStored => {
                "nothing is stored for it (fwd=uri-miss); larder explain with --ask says whether upstream's response would be \
                 stored"
            }
            MissReason::OtherVariant => {
                "responses are stored for other values of the request fields that they vary on (RFC 9111 §4.1; fwd=vary-miss)"
            }
            MissReason::Invalidated => {
                "a write has invalidated what is stored, whatever its lifetime (fwd=stale; detail=invalidated)"
            }
            MissReason::Stale { reason, .. } => reason.explanation(),
            MissReason::Credentials => {
                "what is stored is for requests without credentials: it says neither public, s-maxage nor must-revalidate, and \
                 no family tells callers apart by those of this request (RFC 9111 §3.5)"
            }
            MissReason::StoreAway => {
                "the store does not answer: nothing stored is trusted, nothing fetched is stored (detail=store-away)"
            }
            MissReason::UnclaimedQuery => {
                "no family with methods = [\"QUERY\"] claims this path: a QUERY is cached only where the rules say that it may \
                 be (RFC 9110 §9.2.3)"
            }
            MissReason::AmbiguousPath => "upstream may take the path for one of another family",
            MissReason::Precondition => {
                "If-Match and If-Unmodified-Since are for upstream to judge (RFC 9111 §4.3.2), unless what is stored is fresh and \
                 they change nothing about it (RFC 9110 §13.1.1, §13.1.4)"
            }
        }
    }

    /// What to do if the request should be answered from the cache.
    pub fn what_to_do(self) -> &'static str {
        match self {
            MissReason::UnclaimedQuery => "add a family with methods = [\"QUERY\"] for this path",
            MissReason::AmbiguousPath => {
                "ask for the path that is meant, written plainly; or let one family take all of its readings"
            }
            MissReason::Precondition => "send the request without them",
            _ => "nothing: the response to the next such request may be",
        }
    }

    /// The detail, or the parameter `fwd` where there is none.
    pub fn label(self) -> &'static str {
        self.detail().unwrap_or(self.fwd().token())
    }

    /// Seconds that are left of the stored response's lifetime, where there is a stored response.
    pub fn ttl(self) -> Option<i64> {
        match self {
            MissReason::Stale { ttl, .. } => Some(ttl),
            _ => None,
        }
    }
}

/// Why a read bypasses the cache, whatever is stored; `None` if it does not.
pub(super) fn bypass(live: &Live, http: &ClientRequest) -> Option<MissReason> {
    let is_query = http.method.as_str() == "QUERY";
    if is_query && live.rules.route(&http.method, &http.target.path).is_none() {
        return Some(MissReason::UnclaimedQuery);
    }
    live.rules.ambiguity(&http.method, &http.target).map(|_| MissReason::AmbiguousPath)
}

/// What is done with a read that does not [`bypass`] the cache.
pub fn decide(request: &CacheRequest, lookup: &Lookup, now: SystemTime) -> Decision {
    let decision = serve_or_ask(request, lookup, now);
    match decision {
        Decision::Revalidate(reason) | Decision::Fetch(reason) | Decision::Forward(reason)
            if request.demands.only_if_cached =>
        {
            Decision::Refuse(reason)
        }
        decision => decision,
    }
}

/// The same, whether or not the request says `only-if-cached`.
fn serve_or_ask(request: &CacheRequest, lookup: &Lookup, now: SystemTime) -> Decision {
    let stored = match &lookup.found {
        Found::Current(entry) | Found::SoftInvalidated(entry) => entry.response(),
        Found::Invalidated | Found::OtherVariant | Found::Nothing => None,
    };
    let is_soft_invalidated = matches!(lookup.found, Found::SoftInvalidated(_));
    if validation::is_for_origin(&request.http.headers) {
        // A stored response that is current and fresh is what upstream would send (RFC 9110 §13.1.1, §13.1.4).
        let is_met = |stored| request.is_answered_by(stored, now) && request.is_met_by(stored);
        if is_soft_invalidated || !stored.is_some_and(is_met) {
            return Decision::Forward(MissReason::Precondition);
        }
    }
    let reason = match (stored, &lookup.found) {
        (Some(stored), _) if request.is_refused(stored) => MissReason::Credentials,
        (Some(stored), _) => match reuse(request, stored, is_soft_invalidated, now) {
            Ok(decision) => return decision,
            Err(reason) => reason,
        },
        (None, Found::Invalidated) => MissReason::Invalidated,
        (None, Found::OtherVariant) => MissReason::OtherVariant,
        (None, Found::Nothing) if lookup.view.is_none() => MissReason::StoreAway,
        (None, _) => MissReason::NotStored,
    };
    let is_stale = matches!(reason, MissReason::Stale { .. });
    // A 206 is not stored (RFC 9111 §3.3 lets a cache leave ranges alone). What is stale is validated as a whole, and the range
    // is cut from it.
    let is_for_part = request.is_for_range() && !request.fetching().range_fetches_whole;
    if request.http.method == Method::HEAD || is_for_part && !is_stale {
        return Decision::Forward(reason);
    }
    if is_stale { Decision::Revalidate(reason) } else { Decision::Fetch(reason) }
}

/// RFC 9111 §4: a fresh response is served, and a stale one where that is allowed.
fn reuse(
    request: &CacheRequest,
    stored: &entry::Response,
    is_soft_invalidated: bool,
    now: SystemTime,
) -> Result<Decision, MissReason> {
    let reuse = match is_soft_invalidated {
        true => stored.freshness.reuse_soft_invalidated(now, &request.demands),
        false => stored.freshness.reuse(now, &request.demands),
    };
    let stale = |ttl, reason| Ok(Decision::ServeStale { ttl, reason });
    match reuse {
        Reuse::Fresh { ttl } => Ok(Decision::Serve { ttl }),
        Reuse::StaleWhileRevalidate { ttl } => stale(ttl, StaleReason::WhileRevalidate),
        Reuse::Stale { ttl } => stale(ttl, StaleReason::MaxStale),
        Reuse::SoftInvalidated { ttl } => stale(ttl, StaleReason::SoftInvalidated),
        Reuse::Validate { ttl, because } => Err(MissReason::Stale { ttl, reason: because }),
    }
}
