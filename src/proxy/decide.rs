//! The decision on a read: from the cache, or to upstream, and why. Pure: what the rules and the bypasses in force say of the request
//! ([`bypass`], [`CacheRequest`]), what the cache found ([`Lookup`]) and the time decide. [`super::read`] acts on it, [`super::explain`] prints it. The decision after a
//! failed fetch ([`after_failure`]: stale-if-error) is made here as well, and [`super::fetch`] acts on it.

use std::time::{Duration, Instant, SystemTime};

use http::{Method, StatusCode};

use super::ClientRequest;
use super::cache_request::CacheRequest;
use crate::bearer::TokenFault;
use crate::cache::{Found, Lookup};
use crate::coalesce::inflight::UpstreamAnswer;
use crate::entry;
use crate::http::authorization::Authorization;
use crate::http::freshness::{Freshness, Reuse, ValidationReason};
use crate::http::validation;
use crate::marks::UNCLAIMED;
use crate::outcome::Fwd;
use crate::running::Live;
use crate::upkeep::bypasses::BypassReason;
use crate::upstream::UpstreamError;

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

/// Why a stored response is served although it is not fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// RFC 5861 §3. It is revalidated in the background.
    WhileRevalidate,
    /// The request accepts it (RFC 9111 §5.2.1.2).
    MaxStale,
    /// A soft invalidation, whose grace is not over. It is revalidated in the background.
    SoftInvalidated,
    /// Upstream failed (RFC 5861 §4, RFC 9111 §4.2.4).
    UpstreamFailed,
    /// Upstream has not answered within `stale_while_slow` (RFC 9111 §4.2.4). The fetch goes on.
    UpstreamSlow,
}

impl StaleReason {
    /// The detail in `Cache-Status`.
    pub fn detail(self) -> &'static str {
        match self {
            StaleReason::WhileRevalidate => "revalidating",
            StaleReason::MaxStale => "max-stale",
            StaleReason::SoftInvalidated => "soft-invalidated",
            StaleReason::UpstreamFailed => "upstream-failed",
            StaleReason::UpstreamSlow => "upstream-slow",
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
            StaleReason::UpstreamFailed => {
                "upstream failed, and the response or the request allows serving it then (RFC 5861 §4, RFC 9111 §4.2.4)"
            }
            StaleReason::UpstreamSlow => {
                "upstream has not answered within the family's stale_while_slow, and the response may be served when upstream gives \
                 no answer (RFC 9111 §4.2.4)"
            }
        }
    }

    /// Whether the response is revalidated in the background.
    pub fn revalidates(self) -> bool {
        matches!(self, StaleReason::WhileRevalidate | StaleReason::SoftInvalidated)
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
    /// Redis does not answer.
    StoreAway,
    /// A QUERY that no family names.
    UnclaimedQuery,
    /// A family with `cache = "never"` claims the path.
    NeverCached,
    /// An operator has its family forwarded for a while.
    Bypassed,
    /// Proxies of the fleet follow different rules for its family.
    MixedRules,
    /// Upstream may take the path for one of another family.
    AmbiguousPath,
    /// Preconditions that only upstream can evaluate (RFC 9111 §4.3.2).
    Precondition,
    /// The family identifies callers by claims, and the request's bearer token proves none.
    Token(TokenFault),
    /// The API does not authorize the caller (`authorize`).
    Unauthorized,
    /// The API did not say whether it authorizes the caller.
    AuthorizationUnknown,
    /// It names more instances of its family than a stored response may have.
    ManyInstances,
}

impl MissReason {
    /// Why a caller of whom the API says this gets nothing stored; `None` if nothing forbids it.
    pub fn of_authorization(authorization: Authorization) -> Option<MissReason> {
        match authorization {
            Authorization::Granted => None,
            Authorization::Refused => Some(MissReason::Unauthorized),
            Authorization::Unknown => Some(MissReason::AuthorizationUnknown),
        }
    }

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
            | MissReason::NeverCached
            | MissReason::Bypassed
            | MissReason::MixedRules
            | MissReason::AmbiguousPath
            | MissReason::Precondition
            | MissReason::Token(_)
            | MissReason::Unauthorized
            | MissReason::AuthorizationUnknown
            | MissReason::ManyInstances => Fwd::Bypass,
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
            MissReason::NeverCached => Some("never"),
            MissReason::Bypassed => Some("bypassed"),
            MissReason::MixedRules => Some("mixed-rules"),
            MissReason::AmbiguousPath => Some("ambiguous-path"),
            MissReason::Precondition => Some("precondition"),
            MissReason::Token(fault) => Some(fault.token()),
            MissReason::Unauthorized => Some("unauthorized"),
            MissReason::AuthorizationUnknown => Some("authorization-unknown"),
            MissReason::ManyInstances => Some("many-instances"),
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
                "Redis does not answer: nothing stored is trusted, nothing fetched is stored (detail=store-away)"
            }
            MissReason::UnclaimedQuery => {
                "no family with methods = [\"QUERY\"] claims this path: a QUERY is cached only where the rules say that it may \
                 be (RFC 9110 §9.2.3)"
            }
            MissReason::NeverCached => {
                "the family says cache = \"never\": the request is forwarded, and nothing of it is stored or shared"
            }
            MissReason::Bypassed => {
                "an operator has the family forwarded for a while (POST /cache/bypass/{family})"
            }
            MissReason::MixedRules => {
                "proxies of the fleet follow different rules for the family: not every write would invalidate what is stored"
            }
            MissReason::AmbiguousPath => "upstream may take the path for one of another family",
            MissReason::Precondition => {
                "If-Match and If-Unmodified-Since are for upstream to judge (RFC 9111 §4.3.2), unless what is stored is fresh and \
                 they change nothing about it (RFC 9110 §13.1.1, §13.1.4)"
            }
            MissReason::Token(fault) => fault.explanation(),
            MissReason::Unauthorized => {
                "the API does not authorize the caller: it answered 401 or 403 to the family's authorize"
            }
            MissReason::AuthorizationUnknown => {
                "the API did not say whether it authorizes the caller: it answered the family's authorize with neither 2xx, 401 nor \
                 403, or not at all"
            }
            MissReason::ManyInstances => {
                "its query or fields give the instances of its family more values than a stored response may have tags for: \
                 not every write to one of them would invalidate it"
            }
        }
    }

    /// What to do if the request should be answered from the cache.
    pub fn what_to_do(self) -> &'static str {
        match self {
            MissReason::UnclaimedQuery => "add a family with methods = [\"QUERY\"] for this path",
            MissReason::NeverCached => "remove cache = \"never\" from the family, or make its path narrower",
            MissReason::Bypassed => "wait for its end, or send DELETE /cache/bypass/{family} to the admin",
            MissReason::MixedRules => {
                "give all proxies the same rules file; GET /cache/fleet says which follow others"
            }
            MissReason::AmbiguousPath => {
                "ask for the path that is meant, written plainly; or let one family take all of its readings"
            }
            MissReason::Precondition => "send the request without them",
            MissReason::Token(fault) => fault.what_to_do(),
            MissReason::Unauthorized => "send credentials that the API authorizes",
            MissReason::AuthorizationUnknown => "see what the API answers to the path of authorize",
            MissReason::ManyInstances => "send fewer values of one parameter or field in a request",
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
pub(super) fn bypass(live: &Live, http: &ClientRequest, now: Instant) -> Option<MissReason> {
    if live.rules.is_never_cached(&http.method, &http.target.path) {
        return Some(MissReason::NeverCached);
    }
    if live.bypasses.are_any()
        && let Some(reason) = bypass_of_family(live, http, now)
    {
        return Some(reason);
    }
    let is_query = http.method.as_str() == "QUERY";
    if is_query && live.rules.route(&http.method, &http.target.path).is_none() {
        return Some(MissReason::UnclaimedQuery);
    }
    // Before its content is read: it is part of the key, and nothing can be looked up without it.
    if is_query && validation::is_for_origin(&http.headers) {
        return Some(MissReason::Precondition);
    }
    live.rules.ambiguity(&http.method, &http.target).map(|_| MissReason::AmbiguousPath)
}

/// Why the family of a read is forwarded for now, or that of the verdicts on its callers, or the paths of no family.
fn bypass_of_family(live: &Live, http: &ClientRequest, now: Instant) -> Option<MissReason> {
    let family = live.rules.route(&http.method, &http.target.path).map(|route| route.family);
    let verdicts = family.and_then(|family| live.rules.families().get(family.authorize.as_ref()?.verdicts));
    let names = [Some(family.map_or(UNCLAIMED, |family| &*family.name)), verdicts.map(|verdicts| &*verdicts.name)];
    let reason = names.into_iter().flatten().find_map(|name| live.bypasses.reason(name, now))?;
    Some(match reason {
        BypassReason::Operator => MissReason::Bypassed,
        BypassReason::MixedRules => MissReason::MixedRules,
    })
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
    // Before anything else: upstream decides what such a request gets. Compared with the clock on every hit.
    if let Some(fault) = request.token_fault(now) {
        return Decision::Forward(MissReason::Token(fault));
    }
    let stored = match &lookup.found {
        Found::Current(entry) | Found::SoftInvalidated(entry) => entry.response(),
        Found::Invalidated | Found::OtherVariant | Found::Nothing => None,
    };
    if request.has_too_many_instances() {
        return Decision::Forward(MissReason::ManyInstances);
    }
    let is_soft_invalidated = matches!(lookup.found, Found::SoftInvalidated(_));
    if request.client_request.conditions && validation::is_for_origin(&request.client_request.headers) {
        // A stored response that is current and fresh is what upstream would send (RFC 9110 §13.1.1, §13.1.4).
        let is_met = |stored| request.is_answered_by(stored, now) && request.is_met_by(stored);
        if is_soft_invalidated || !stored.is_some_and(is_met) {
            return Decision::Forward(MissReason::Precondition);
        }
    }
    let reason = match (stored, &lookup.found) {
        (Some(stored), _) if request.credentials_forbid(stored) => MissReason::Credentials,
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
    if request.client_request.method == Method::HEAD || is_for_part && !is_stale {
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
        Reuse::Validate { ttl, because: ValidationReason::NoCache } if request.is_always_validated() => {
            Err(MissReason::Stale { ttl, reason: ValidationReason::Always })
        }
        Reuse::Validate { ttl, because } => Err(MissReason::Stale { ttl, reason: because }),
    }
}

/// Whether upstream is asked with the validators of the stored response that was found: whether a 304 would prove that it holds.
/// After a soft invalidation a `Last-Modified` may be of the second of the write, and be the same before and after it.
/// RFC 9110 §13.1.2: upstream answers a conditional POST with 412, not with 304.
pub fn may_validate(request: &CacheRequest, found: &Found, stored: &entry::Response) -> bool {
    let validators = stored.own_headers();
    match found {
        _ if request.is_post() => false,
        Found::SoftInvalidated(_) => validation::tells_every_change(&validators),
        _ => validation::has_validator(&validators),
    }
}

/// Whether the stored response is served in place of upstream's answer (stale-if-error): if that is a failure, and as long after it
/// as [`stale_if_error`] and the request's demands allow, and while its bearer token is valid where that identifies the caller.
pub fn after_failure(
    request: &CacheRequest,
    stored: &entry::Response,
    answer: UpstreamAnswer,
    now: SystemTime,
) -> Option<StaleReason> {
    let (period, _) = stale_if_error(&stored.freshness, answer).filter(|_| request.token_fault(now).is_none())?;
    stored.freshness.is_usable_after_failure(period, now, &request.demands).then_some(StaleReason::UpstreamFailed)
}

/// Whether the stored response that was found is served although upstream, which takes longer than `stale_while_slow`, may still
/// answer: as if it gave no answer.
pub fn while_slow(request: &CacheRequest, found: &Found, now: SystemTime) -> Option<StaleReason> {
    let (Found::Current(entry) | Found::SoftInvalidated(entry)) = found else { return None };
    let stored = entry.response().filter(|stored| !request.credentials_forbid(stored))?;
    // Before its lifetime is over, a soft invalidation alone makes it stale.
    let must_revalidate = matches!(found, Found::SoftInvalidated(_)) && stored.freshness.never_stale;
    let is_served = !must_revalidate && after_failure(request, stored, Err(UpstreamError::Timeout), now).is_some();
    is_served.then_some(StaleReason::UpstreamSlow)
}

/// How long past its lifetime a stored response may be served in place of this answer of upstream, and what allows it. `None`: the
/// answer is no failure.
pub fn stale_if_error(freshness: &Freshness, answer: UpstreamAnswer) -> Option<(Duration, &'static str)> {
    match answer {
        Ok(status) => matches!(status.as_u16(), 500 | 502 | 503 | 504)
            .then_some((freshness.stale_if_error.duration(), "stale-if-error, RFC 5861 §4")),
        // A disconnected cache may serve stale responses longer.
        Err(_) => Some((
            freshness.stale_if_error.max(freshness.stale_if_unreachable).duration(),
            "stale-if-error or the family's stale_if_unreachable, RFC 9111 §4.2.4; while it is still stored",
        )),
    }
}

/// The status of the error where upstream gave no answer, if what is stored decides it: 504 where that must be validated, and
/// cannot be (RFC 9111 §5.2.2.2).
pub fn error_status(stored: &entry::Response) -> Option<StatusCode> {
    let freshness = &stored.freshness;
    (freshness.never_stale || freshness.always_validate).then_some(StatusCode::GATEWAY_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::config::{Config, Overrides};
    use crate::entry::{Content, Entry};
    use crate::http::freshness::LifetimeSource;
    use crate::http::headers::ForwardedPolicy;
    use crate::http::sample::{Fields, fields};
    use crate::http::storable::{self, Received, RequestFacts, Storable};
    use crate::http::target::Target;
    use crate::marks::{Epoch, MarksView, Stamp};
    use crate::metrics::Metrics;
    use crate::upkeep::bypasses::Bypass;

    const RULES: &str = r#"
[server]
upstream = "http://127.0.0.1:9"

[[family]]
name = "things"
path = '/things'
client_directives = "all"

[[family]]
name = "whole"
path = '/whole'
range = "whole"

[[family]]
name = "always"
path = '/always'
methods = ["GET", "POST"]
revalidate = "always"
"#;
    const STAMP: Stamp = Stamp { epoch: Epoch(1), sequence: 1 };
    const LIFETIME: Duration = Duration::from_secs(60);

    fn request(method: &str, path: &str, values: Fields<'_>) -> (Arc<Live>, ClientRequest) {
        let mut config = Config::parse(RULES, "rules.toml", &Overrides::default(), &|_| None).unwrap();
        let live = Arc::new(Live::take(&mut config, &Metrics::new()));
        let target = Target { scheme: "http", host: "a".into(), ..Target::default() }.at(path);
        let parts = (Method::from_bytes(method.as_bytes()).unwrap(), Arc::new(target), fields(values));
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        (live, ClientRequest::without_connection(parts, client, ForwardedPolicy::Set))
    }

    fn freshness(response_time: SystemTime) -> Freshness {
        Freshness {
            stale_while_revalidate: Duration::from_secs(10).into(),
            ..Freshness::with_lifetime(LIFETIME, LifetimeSource::MaxAge, response_time)
        }
    }

    fn response(freshness: Freshness, values: Fields<'_>) -> entry::Response {
        entry::Response {
            status: StatusCode::OK,
            headers: fields(values).into(),
            original_fields: None,
            body: Bytes::new(),
            freshness,
            for_credentials: false,
            consumed: false,
        }
    }

    /// What a lookup finds.
    #[derive(Debug, Clone, Copy)]
    enum Stored {
        Current,
        Soft,
        Invalidated,
        OtherVariant,
        Nothing,
        StoreAway,
    }

    /// The decision on a request so many seconds after the stored response came.
    fn decided(method: &str, path: &str, values: Fields<'_>, stored: Stored, age: u64) -> Decision {
        let (live, http) = request(method, path, values);
        let request = CacheRequest::new(live, http, None);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let response = response(freshness(now), &[("etag", "\"a\"")]);
        let (text, tags) = (request.cache_key().text, request.tags().iter());
        let entry = Arc::new(Entry::new(text, STAMP, tags, Content::Response(response)));
        let found = match stored {
            Stored::Current => Found::Current(entry),
            Stored::Soft => Found::SoftInvalidated(entry),
            Stored::Invalidated => Found::Invalidated,
            Stored::OtherVariant => Found::OtherVariant,
            Stored::Nothing | Stored::StoreAway => Found::Nothing,
        };
        let view = (!matches!(stored, Stored::StoreAway)).then(|| MarksView::hard(STAMP, 0));
        decide(&request, &Lookup::of(found, request.cache_key(), view), now + Duration::from_secs(age))
    }

    #[test]
    fn a_get_is_served_validated_or_fetched_by_what_is_stored() {
        let stale = |ttl, reason| MissReason::Stale { ttl, reason };
        let rows: [(Fields<'_>, Stored, u64, Decision); 16] = [
            (&[], Stored::Current, 50, Decision::Serve { ttl: 10 }),
            (&[], Stored::Current, 65, Decision::ServeStale { ttl: -6, reason: StaleReason::WhileRevalidate }),
            (&[], Stored::Current, 75, Decision::Revalidate(stale(-16, ValidationReason::Expired))),
            (
                &[("cache-control", "max-stale")],
                Stored::Current,
                75,
                Decision::ServeStale { ttl: -16, reason: StaleReason::MaxStale },
            ),
            (
                &[("cache-control", "no-cache")],
                Stored::Current,
                1,
                Decision::Revalidate(stale(59, ValidationReason::RequestNoCache)),
            ),
            (&[], Stored::Soft, 1, Decision::ServeStale { ttl: 59, reason: StaleReason::SoftInvalidated }),
            (&[], Stored::Invalidated, 1, Decision::Fetch(MissReason::Invalidated)),
            (&[], Stored::OtherVariant, 1, Decision::Fetch(MissReason::OtherVariant)),
            (&[], Stored::Nothing, 1, Decision::Fetch(MissReason::NotStored)),
            (&[], Stored::StoreAway, 1, Decision::Fetch(MissReason::StoreAway)),
            (&[("authorization", "x")], Stored::Current, 1, Decision::Fetch(MissReason::Credentials)),
            (&[("range", "bytes=0-1")], Stored::Nothing, 1, Decision::Forward(MissReason::NotStored)),
            (
                &[("range", "bytes=0-1")],
                Stored::Current,
                75,
                Decision::Revalidate(stale(-16, ValidationReason::Expired)),
            ),
            (&[("if-match", "\"a\"")], Stored::Current, 1, Decision::Serve { ttl: 59 }),
            (&[("if-match", "\"b\"")], Stored::Current, 1, Decision::Forward(MissReason::Precondition)),
            (&[("if-match", "\"a\"")], Stored::Soft, 1, Decision::Forward(MissReason::Precondition)),
        ];
        for (values, stored, age, expected) in rows {
            let found = decided("GET", "/things", values, stored, age);
            assert_eq!(found, expected, "{values:?} {stored:?} after {age} s");
        }
        let whole = decided("GET", "/whole", &[("range", "bytes=0-1")], Stored::Nothing, 1);
        assert_eq!(whole, Decision::Fetch(MissReason::NotStored), "the family has all of it fetched");
    }

    #[test]
    fn in_a_family_with_revalidate_always_nothing_is_served_before_it_is_validated() {
        let (live, http) = request("GET", "/always", &[]);
        let policy = &live.rules.families()[2].policy;
        let headers = fields(&[("cache-control", "max-age=60"), ("etag", "\"a\"")]);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (status, is_close_delimited) = (StatusCode::OK, false);
        let received =
            Received { status, headers: &headers, is_close_delimited, request_time: time, response_time: time };
        let Storable::Yes { freshness, .. } = storable::storable(RequestFacts::default(), received, policy) else {
            panic!("it is stored, for validation")
        };
        let request = CacheRequest::new(Arc::clone(&live), http, None);
        let body = Bytes::new();
        let (original_fields, for_credentials, consumed) = (None, false, false);
        let headers = headers.into();
        let response =
            entry::Response { status, headers, original_fields, body, freshness, for_credentials, consumed };
        let (text, tags) = (request.cache_key().text, request.tags().iter());
        let entry = Arc::new(Entry::new(text, STAMP, tags, Content::Response(response)));
        let lookup = Lookup::of(Found::Current(entry), request.cache_key(), Some(MarksView::hard(STAMP, 0)));
        let always = MissReason::Stale { ttl: 60, reason: ValidationReason::Always };
        assert_eq!(decide(&request, &lookup, time), Decision::Revalidate(always));
        assert_eq!(always.detail(), Some("revalidate-always"));
    }

    #[test]
    fn a_head_that_is_not_served_is_forwarded() {
        assert_eq!(decided("HEAD", "/things", &[], Stored::Current, 1), Decision::Serve { ttl: 59 });
        let stale = MissReason::Stale { ttl: -16, reason: ValidationReason::Expired };
        assert_eq!(decided("HEAD", "/things", &[], Stored::Current, 75), Decision::Forward(stale));
        let nothing = decided("HEAD", "/things", &[], Stored::Nothing, 1);
        assert_eq!(nothing, Decision::Forward(MissReason::NotStored));
    }

    #[test]
    fn after_a_failure_a_stale_response_is_served_as_long_as_it_and_the_request_allow() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let seconds = Duration::from_secs;
        let granted = Freshness {
            stale_if_error: seconds(10).into(),
            stale_if_unreachable: seconds(100).into(),
            ..freshness(start)
        };
        let longer_on_error = Freshness { stale_if_error: seconds(200).into(), ..granted };
        let never_stale = Freshness { never_stale: true, ..granted };
        let (error, no_answer) = (Ok(StatusCode::SERVICE_UNAVAILABLE), Err(UpstreamError::Timeout));
        for (freshness, age, answer, control, is_served) in [
            (granted, 69, error, "", true),
            (granted, 70, error, "", false),
            (granted, 70, no_answer, "", true),
            (granted, 160, no_answer, "", false),
            (longer_on_error, 200, no_answer, "", true),
            (granted, 1, Ok(StatusCode::NOT_IMPLEMENTED), "", false),
            (granted, 1, Ok(StatusCode::OK), "", false),
            (granted, 65, error, "no-cache", false),
            (granted, 150, error, "no-cache, stale-if-error=100", true),
            (never_stale, 61, error, "stale-if-error=100", false),
        ] {
            let (live, http) = request("GET", "/things", &[("cache-control", control)]);
            let (request, now) = (CacheRequest::new(live, http, None), start + seconds(age));
            let reason = after_failure(&request, &response(freshness, &[]), answer, now);
            let expected = is_served.then_some(StaleReason::UpstreamFailed);
            assert_eq!(reason, expected, "{answer:?} after {age} s, {control:?}");
        }
        // While upstream is slow, a stale response is served as if upstream gave no answer.
        let entry =
            |freshness| Arc::new(Entry::new("", STAMP, [""; 0], Content::Response(response(freshness, &[]))));
        for (found, age, is_served) in [
            (Found::Current(entry(granted)), 70, true),
            (Found::Current(entry(granted)), 160, false),
            (Found::Current(entry(never_stale)), 61, false),
            (Found::SoftInvalidated(entry(granted)), 70, true),
            (Found::SoftInvalidated(entry(never_stale)), 1, false),
            (Found::Invalidated, 1, false),
        ] {
            let (live, http) = request("GET", "/things", &[]);
            let reason = while_slow(&CacheRequest::new(live, http, None), &found, start + seconds(age));
            assert_eq!(reason, is_served.then_some(StaleReason::UpstreamSlow), "{found:?} after {age} s");
        }
        let status = |freshness| error_status(&response(freshness, &[]));
        assert_eq!((status(never_stale), status(granted)), (Some(StatusCode::GATEWAY_TIMEOUT), None));
    }

    #[test]
    fn after_a_soft_invalidation_only_a_strong_proof_of_change_validates() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (values, hard, soft) in [
            (&[date, ("etag", "\"a\"")][..], true, true),
            (&[date, modified], true, false),
            (&[date], false, false),
        ] {
            let response = response(freshness(SystemTime::UNIX_EPOCH), values);
            let entry = |content| Arc::new(Entry::new("", STAMP, [""; 0], Content::Response(content)));
            let (live, http) = request("GET", "/things", &[]);
            let request = CacheRequest::new(live, http, None);
            let current = may_validate(&request, &Found::Current(entry(response.clone())), &response);
            let soft_invalidated =
                may_validate(&request, &Found::SoftInvalidated(entry(response.clone())), &response);
            assert_eq!((current, soft_invalidated), (hard, soft), "{values:?}");
        }
    }

    #[test]
    fn only_if_cached_refuses_whatever_would_go_to_upstream() {
        let all = [Stored::Invalidated, Stored::OtherVariant, Stored::Nothing, Stored::StoreAway];
        for method in ["GET", "HEAD"] {
            for stored in all {
                let found = decided(method, "/things", &[("cache-control", "only-if-cached")], stored, 1);
                assert!(matches!(found, Decision::Refuse(_)), "{method} {stored:?}: {found:?}");
            }
            let served = decided(method, "/things", &[("cache-control", "only-if-cached")], Stored::Current, 1);
            assert_eq!(served, Decision::Serve { ttl: 59 });
        }
    }

    #[test]
    fn what_no_family_or_several_may_claim_bypasses_the_cache() {
        let bypassed = |method, path| {
            let (live, http) = request(method, path, &[]);
            bypass(&live, &http, Instant::now())
        };
        assert_eq!(bypassed("QUERY", "/things"), Some(MissReason::UnclaimedQuery));
        assert_eq!(bypassed("GET", "/other/..%2Fthings"), Some(MissReason::AmbiguousPath));
        assert_eq!(bypassed("GET", "/things"), None);
    }

    #[test]
    fn a_family_is_bypassed_until_the_time_that_the_operator_gave() {
        let ((live, http), now) = (request("GET", "/things", &[]), Instant::now());
        let end = now + LIFETIME;
        let (until, by) = (SystemTime::UNIX_EPOCH, "ops".to_owned());
        assert!(live.bypasses.begin(Bypass { family: "things".to_owned(), until, end, by }, now));
        assert_eq!(bypass(&live, &http, now), Some(MissReason::Bypassed));
        assert_eq!(bypass(&live, &http, end), None);
    }

    #[test]
    fn every_reason_has_a_sentence_and_only_plain_misses_have_no_detail() {
        let reasons = [
            MissReason::NotStored,
            MissReason::OtherVariant,
            MissReason::Invalidated,
            MissReason::Credentials,
            MissReason::StoreAway,
            MissReason::UnclaimedQuery,
            MissReason::AmbiguousPath,
            MissReason::Precondition,
            MissReason::ManyInstances,
            MissReason::Token(TokenFault::Expired),
        ];
        for reason in reasons {
            assert!(reason.explanation().len() > 20 && reason.what_to_do().len() > 10, "{reason:?}");
            let is_plain = matches!(reason, MissReason::NotStored | MissReason::OtherVariant);
            assert_eq!(reason.detail().is_none(), is_plain, "{reason:?}");
        }
        for reason in [StaleReason::WhileRevalidate, StaleReason::MaxStale, StaleReason::SoftInvalidated] {
            assert!(reason.explanation().contains('§'), "{reason:?}");
        }
    }
}
