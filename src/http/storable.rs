//! Whether a response may be stored (RFC 9111 §3), and its lifetime.
//!
//! What a single request has caused concerns no other request (`is_about_request`): a 406 or 429 is not stored, invalidates
//! nothing, and lets others go on sharing fetches.
//!
//! A body that ends with the connection (neither `Content-Length` nor chunked) is passed on as whole if the connection is
//! closed in order (RFC 9112 §8), and not stored, unless its family says so: one that a crashed server has cut off looks the
//! same.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_RANGE, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::adaptive_ttl::RequestRate;
use super::freshness::{self, Freshness, LifetimeSource};
use super::targeted::{self, Effective};
use super::vary::Vary;
use super::{CloseDelimited, Policy, Revalidate, TtlPolicy, validation};
use crate::words::reasons;

/// The properties of the request that affect storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestFacts {
    /// It had `Authorization`, and its family does not identify callers by that.
    pub authorization: bool,
    /// It had `Cookie`, and its family does not identify callers by that.
    pub cookie: bool,
    /// It had another credential field, and its family does not identify callers by that.
    pub other_credentials: bool,
    /// It had `Cache-Control: no-store` (§5.2.1.5).
    pub no_store: bool,
    /// How often its URL is requested, in a family with `adaptive_ttl`.
    pub rate: Option<RequestRate>,
}

impl RequestFacts {
    /// It had credentials that are not part of its key.
    pub fn has_credentials(self) -> bool {
        self.authorization || self.cookie || self.other_credentials
    }
}

/// A response as received, with its times.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// It ends with the connection.
    pub is_close_delimited: bool,
    /// When the request was sent (§4.2.3 `request_time`).
    pub request_time: SystemTime,
    /// When the response head was received (§4.2.3 `response_time`).
    pub response_time: SystemTime,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storable {
    Yes {
        freshness: Freshness,
        /// May also answer requests whose credentials are not part of their key: allowed by RFC 9111 §3.5 (`public`,
        /// `s-maxage`, `must-revalidate`) or by the family.
        for_credentials: bool,
        /// The fields that `private` (§5.2.2.7) or `no-cache` (§5.2.2.4) names: sent to the requesting client only,
        /// and neither stored nor shared.
        withheld: Vec<HeaderName>,
    },
    No(Reason),
}

reasons! {
/// Why a response is not stored. `explain`, the log and the `detail` of `Cache-Status` use the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Request `no-store`.
    RequestNoStore = "request-no-store", "the request has no-store (RFC 9111 §5.2.1.5)";
    /// Response `no-store`.
    NoStore = "no-store", "the response has no-store (RFC 9111 §5.2.2.5)";
    /// Response `private`, without field names.
    Private = "private", "the response is private to one user (RFC 9111 §5.2.2.7)";
    /// An event stream, which does not end.
    EventStream = "event-stream",
        "the response is a stream of events, which is never complete (RFC 9111 §3.3, text/event-stream)";
    /// It has more groups than an entry can carry.
    TooManyGroups = "too-many-groups",
        "the response has more groups than an entry can carry, so one of them could not invalidate it (RFC 9875 \
         §2)";
    SetCookie = "set-cookie",
        "the response sets a cookie, which is meant for one client (stricter than RFC 9111 §7.3)";
    /// `Authorization` without `public`, `s-maxage` or `must-revalidate` (§3.5).
    Authorization = "authorization",
        "the request carries Authorization, and neither the response (public, s-maxage, must-revalidate) nor \
         the family's identity allows sharing (RFC 9111 §3.5)";
    /// `Cookie` in the request, and nothing allows sharing the response.
    Cookie = "cookie",
        "the request carries Cookie, and neither the response (public, s-maxage, must-revalidate) nor the \
         family's identity allows sharing (stricter than RFC 9111 §3)";
    /// Another credential field in the request, and nothing allows sharing the response.
    Credentials = "credentials",
        "the request carries a field that is used for credentials, and neither the response (public, s-maxage, \
         must-revalidate) nor the family's identity or headers allow sharing (stricter than RFC 9111 §3)";
    VaryStar = "vary-star", "the response varies on more than request fields: Vary: * (RFC 9111 §4.1)";
    /// It would hide stored variants: an error that names other fields in `Vary`, or a response with which there
    /// would be too many fields.
    VaryOther = "vary-other",
        "the response is an error or names too many fields in Vary, and would hide the stored variants of the \
         same URL that other fields select (RFC 9111 §4.1)";
    /// 1xx, 206, 304, a status about the request ([`is_about_request`]), or one that is not understood although
    /// `must-understand` requires it.
    Status = "status", "responses with this status are not stored (RFC 9111 §3)";
    /// A partial response in a 200.
    ContentRange = "content-range",
        "the response has a Content-Range, which only a 206 may have, so it may be incomplete (RFC 9110 §14.4)";
    /// It has neither a length nor a last chunk, so it may be incomplete.
    CloseDelimited = "close-delimited",
        "the response has neither Content-Length nor chunks, so it looks complete even if truncated (RFC 9112 \
         §8)";
    /// A server error while a successful response is stored.
    ServerError = "server-error", "a server error does not replace a stored response (RFC 9111 §4.3.3)";
    /// The family says `cache = "never"`.
    NeverCached = "never", "the family says cache = \"never\"";
    /// Neither upstream nor the family states a lifetime, nor does upstream require validation (`no-cache`).
    NoLifetime = "no-lifetime",
        "neither the response (max-age, s-maxage, Expires) nor the family states a lifetime (RFC 9111 §4.2.1)";
    /// It would be stale at once (or has `no-cache`), must not be served stale, and has no validator.
    StaleAtOnce = "stale-at-once",
        "the response is stale at once and has no ETag or Last-Modified to validate it with (RFC 9111 §4.3)";
}
}

impl Reason {
    /// Whether the reason lies in the response, so that it applies to other requests for the resource too.
    pub fn is_of_response(self) -> bool {
        !matches!(self, Reason::RequestNoStore | Reason::Authorization | Reason::Cookie | Reason::Credentials)
    }
}

/// RFC 9111 §3, then the family's policy. Evaluated again after a 304, with the updated headers (§4.3.4).
pub fn storable(request: RequestFacts, response: Received<'_>, policy: &Policy) -> Storable {
    let effective = targeted::effective(response.headers);
    let considered = Considered { request, response, policy, effective: &effective };
    match considered.judge() {
        Ok((freshness, for_credentials)) => {
            Storable::Yes { freshness, for_credentials, withheld: considered.withheld() }
        }
        Err(reason) => Storable::No(reason),
    }
}

/// The input of the verdict.
struct Considered<'a> {
    request: RequestFacts,
    response: Received<'a>,
    policy: &'a Policy,
    effective: &'a Effective,
}

/// A lifetime, and whether it overrides upstream's.
#[derive(Clone, Copy)]
struct Terms {
    lifetime: Duration,
    source: LifetimeSource,
    overruled: bool,
}

impl Considered<'_> {
    fn judge(&self) -> Result<(Freshness, bool), Reason> {
        self.is_permitted()?;
        let terms = self.terms();
        let for_credentials = self.is_for_credentials(terms.is_some_and(|terms| terms.overruled));
        self.is_shareable(for_credentials)?;
        let freshness = self.freshness(terms.ok_or(Reason::NoLifetime)?);
        if self.is_of_use(&freshness) { Ok((freshness, for_credentials)) } else { Err(Reason::StaleAtOnce) }
    }

    /// Reasons that no setting can override.
    fn is_permitted(&self) -> Result<(), Reason> {
        let Received { status, headers, .. } = self.response;
        if self.request.no_store {
            return Err(Reason::RequestNoStore);
        }
        // §3: final statuses only. Partial content (§3.3) is not stored, and a 304 only updates a stored response.
        let is_final = (200..600).contains(&status.as_u16());
        if !is_final || matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) {
            return Err(Reason::Status);
        }
        // Whatever its freshness: one client's fields would determine the response for all.
        if is_about_request(status) {
            return Err(Reason::Status);
        }
        if headers.contains_key(CONTENT_RANGE) {
            return Err(Reason::ContentRange);
        }
        // RFC 9112 §8: a truncated response cannot be recognised.
        if self.response.is_close_delimited && self.policy.close_delimited == CloseDelimited::Forward {
            return Err(Reason::CloseDelimited);
        }
        // §5.2.2.3: must-understand overrides no-store, for statuses that are understood.
        match (self.effective.directives.must_understand, self.effective.directives.no_store) {
            (true, _) if !is_understood(status) => return Err(Reason::Status),
            (false, true) => return Err(Reason::NoStore),
            _ => {}
        }
        // §5.2.2.7: with field names, it concerns only those.
        if self.effective.directives.private.is_whole() {
            return Err(Reason::Private);
        }
        if headers.contains_key(SET_COOKIE) && !self.withheld().contains(&SET_COOKIE) {
            return Err(Reason::SetCookie);
        }
        if is_event_stream(headers) {
            return Err(Reason::EventStream);
        }
        // §4.1: it would never match.
        if Vary::parse(headers) == Vary::Everything {
            return Err(Reason::VaryStar);
        }
        Ok(())
    }

    /// The fields that are not stored.
    fn withheld(&self) -> Vec<HeaderName> {
        let mut withheld =
            [self.effective.directives.private.fields(), self.effective.directives.no_cache.fields()].concat();
        withheld.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        withheld.dedup();
        withheld
    }

    /// Cookies and the like are judged like `Authorization`, since APIs use them as credentials.
    fn is_shareable(&self, for_credentials: bool) -> Result<(), Reason> {
        match self.request {
            _ if for_credentials => Ok(()),
            RequestFacts { authorization: true, .. } => Err(Reason::Authorization),
            RequestFacts { cookie: true, .. } => Err(Reason::Cookie),
            RequestFacts { other_credentials: true, .. } => Err(Reason::Credentials),
            _ => Ok(()),
        }
    }

    /// §3.5: the directive permits sharing only for a cache that obeys it, which excludes overriding must-revalidate
    /// or s-maxage.
    fn is_for_credentials(&self, overruled: bool) -> bool {
        let revalidated =
            self.effective.directives.must_revalidate || self.effective.directives.s_maxage.is_some();
        self.policy.for_everybody || self.effective.directives.public || (revalidated && !overruled)
    }

    /// The lifetime: the family's if it overrides, else upstream's, else the family's, else a heuristic one if the
    /// family allows it, else none for responses that upstream wants validated each time. None lasts beyond the
    /// family's `until`.
    fn terms(&self) -> Option<Terms> {
        let Received { headers, response_time, .. } = self.response;
        let family = self.family_lifetime();
        if let (TtlPolicy::Override, Some((lifetime, source))) = (self.policy.ttl_policy, family) {
            return Some(self.ended(Terms { lifetime, source, overruled: true }));
        }
        let (lifetime, source) = freshness::explicit_lifetime(self.effective, headers, response_time)
            .or(family)
            .or_else(|| self.heuristic_lifetime())
            .or_else(|| self.is_for_validation_only().then_some((Duration::ZERO, LifetimeSource::None)))?;
        Some(self.ended(Terms { lifetime, source, overruled: false }))
    }

    /// The family's lifetime for this status. Temporary redirects and errors get only an explicit lifetime from
    /// upstream, or one that `negative_ttl` names.
    fn family_lifetime(&self) -> Option<(Duration, LifetimeSource)> {
        let (lifetime, source) = match self.policy.negative_ttl.of(self.response.status) {
            Some(lifetime) => (lifetime, LifetimeSource::NegativeTtl),
            None if matches!(self.response.status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308) => {
                self.family_ttl()?
            }
            None => return None,
        };
        // Ages are in whole seconds.
        Some((Duration::from_secs(lifetime.as_secs()), source))
    }

    /// The family's `ttl`, adapted to how often the URL is requested; without one, the time that `until` leaves.
    fn family_ttl(&self) -> Option<(Duration, LifetimeSource)> {
        let Some(ttl) = self.policy.ttl else { return Some((self.until()?, LifetimeSource::Until)) };
        let adapted =
            self.policy.adaptive_ttl.zip(self.request.rate).map(|(adaptive, rate)| adaptive.adapted(ttl, rate));
        Some(match (adapted, self.policy.ttl_policy) {
            (Some(adapted), _) if adapted != ttl => (adapted, LifetimeSource::AdaptedTtl),
            (_, TtlPolicy::Default) => (ttl, LifetimeSource::FamilyTtl),
            (_, TtlPolicy::Override) => (ttl, LifetimeSource::FamilyOverride),
        })
    }

    /// The lifetime that ends at the family's `until`, in whole seconds.
    fn until(&self) -> Option<Duration> {
        let Received { headers, request_time, response_time, .. } = self.response;
        let left = self.policy.until?.from(response_time)?;
        // A lifetime includes the age that the response came with. Rounded down, it ends in time.
        let age = freshness::initial_age(headers, request_time, response_time);
        Some(Duration::from_secs(age.saturating_add(left).as_secs()))
    }

    /// The terms, ended at the family's `until`.
    fn ended(&self, terms: Terms) -> Terms {
        match self.until() {
            Some(lifetime) if lifetime < terms.lifetime => {
                Terms { lifetime, source: LifetimeSource::Until, ..terms }
            }
            _ => terms,
        }
    }

    /// §4.2.2.
    fn heuristic_lifetime(&self) -> Option<(Duration, LifetimeSource)> {
        if !self.policy.heuristic || !self.is_cacheable_unstated() {
            return None;
        }
        let lifetime = freshness::heuristic_lifetime(self.response.headers, self.response.response_time)?;
        Some((lifetime, LifetimeSource::Heuristic))
    }

    /// §3: without an explicit lifetime, the response must be `public` or have a heuristically cacheable status.
    fn is_cacheable_unstated(&self) -> bool {
        self.effective.directives.public || is_heuristically_cacheable(self.response.status)
    }

    fn is_for_validation_only(&self) -> bool {
        let says_no_cache =
            self.effective.directives.no_cache.is_whole() && validation::has_validator(self.response.headers);
        self.is_cacheable_unstated() && (says_no_cache || self.is_always_validated())
    }

    /// Concurrent requests share the validation, or without a validator the fetch, of such a response.
    fn is_always_validated(&self) -> bool {
        self.policy.revalidate == Revalidate::Always
    }

    fn freshness(&self, terms: Terms) -> Freshness {
        let Received { headers, request_time, response_time, .. } = self.response;
        let directives = &self.effective.directives;
        // §5.2.2.4: with field names, omitting those fields suffices.
        let says_no_cache = !terms.overruled && directives.no_cache.is_whole();
        let always_validate = says_no_cache || self.is_always_validated();
        // §4.2.4; s-maxage includes proxy-revalidate (§5.2.2.10).
        let revalidates =
            directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
        let never_stale = !terms.overruled && revalidates;
        let period = |stated: Option<u64>, family: Option<Duration>| {
            let stated = stated.map(Duration::from_secs);
            let period = if terms.overruled { family.or(stated) } else { stated.or(family) };
            period.filter(|_| !always_validate && !never_stale).unwrap_or_default().into()
        };
        Freshness {
            request_time: request_time.into(),
            response_time: response_time.into(),
            initial_age: freshness::initial_age(headers, request_time, response_time).into(),
            lifetime: terms.lifetime.into(),
            source: terms.source,
            always_validate,
            never_stale,
            stale_while_revalidate: period(directives.stale_while_revalidate, self.policy.stale_while_revalidate),
            stale_if_error: period(directives.stale_if_error, self.policy.stale_if_error),
            stale_if_unreachable: period(None, Some(self.policy.stale_if_unreachable)),
        }
    }

    /// Whether the entry can ever answer a request: fresh, stale, or after validation.
    fn is_of_use(&self, freshness: &Freshness) -> bool {
        let now = self.response.response_time;
        let stale = freshness.stale_while_revalidate.max(freshness.stale_if_error);
        let is_servable = freshness.age(now) < freshness.lifetime.duration() + stale.duration();
        (is_servable && !freshness.always_validate)
            || validation::has_validator(self.response.headers)
            // Responses that are not stored are not shared either.
            || self.is_always_validated()
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_types = headers
        .get_all(CONTENT_TYPE)
        .iter()
        .filter_map(|value| value.as_bytes().split(|byte| *byte == b';').next());
    media_types.map(<[u8]>::trim_ascii).any(|media_type| media_type.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether a status is about the request, not the resource: its syntax, fields, length, credentials or connection, or
/// the client's request rate (RFC 9110 §15.5 and §15.6, RFC 6585, RFC 8470, RFC 4918). Another request may get
/// another response, so such a response is not stored, and does not affect a stored one. Stricter than RFC 9110
/// §15.1, which allows storing 414 and 501; RFC 6585 forbids storing 428, 429, 431 and 511. An unassigned 4xx counts
/// as 400 (RFC 9110 §15).
pub fn is_about_request(status: StatusCode) -> bool {
    match status.as_u16() {
        // 418 is unassigned in practice (RFC 9110 §15.5.19), and servers use it for resources.
        404 | 405 | 410 | 418 | 451 => false,
        code => status.is_client_error() || matches!(code, 501 | 505 | 506 | 510 | 511),
    }
}

/// Whether an unstored response with this status is what other requests would get. Then a stored response is no longer valid
/// (RFC 9111 §4.3.3), and coalescing has no use. Not for server errors, which pass, nor for 1xx, 206 and 304, which
/// were not requested.
pub fn is_about_resource(status: StatusCode) -> bool {
    let is_whole = status.is_success() && status != StatusCode::PARTIAL_CONTENT;
    let is_elsewhere = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
    is_whole || is_elsewhere || (status.is_client_error() && !is_about_request(status))
}

/// Whether upstream failed for every request at that time: a server error that is not about the request.
pub fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() && !is_about_request(status)
}

/// Whether an unstored server error may be sent unchanged to all followers of the fetch. Not if it is meant for one
/// client: with `Set-Cookie`, `private`, `no-store` (RFC 9111 §5.2.2.5, §5.2.2.7), fields named by `no-cache`, or
/// `Vary: *`; nor if it is an event stream.
pub fn is_error_for_all(fields: &HeaderMap) -> bool {
    let directives = targeted::effective(fields).directives;
    let names_fields = !directives.private.fields().is_empty() || !directives.no_cache.fields().is_empty();
    !(directives.no_store
        || directives.private.is_whole()
        || names_fields
        || fields.contains_key(SET_COOKIE)
        || is_event_stream(fields)
        || Vary::parse(fields) == Vary::Everything)
}

/// RFC 9110 §15.1, without 206 and without those of [`is_about_request`].
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410)
}

/// Statuses whose caching behaviour is fully implemented (§3).
fn is_understood(status: StatusCode) -> bool {
    is_heuristically_cacheable(status) || matches!(status.as_u16(), 302 | 303 | 307)
}

#[cfg(test)]
mod tests;
