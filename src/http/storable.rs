//! Whether a response may be stored (RFC 9111 §3), and for how long it will be fresh.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_RANGE, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::freshness::{self, Freshness, LifetimeSource};
use super::targeted::{self, Effective};
use super::vary::Vary;
use super::{CloseDelimited, Policy, TtlPolicy, validation};

/// What of the request matters to storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestFacts {
    /// It carried `Authorization`, by which its family does not tell callers apart.
    pub authorization: bool,
    /// It carried `Cookie`, by which its family does not tell callers apart.
    pub cookie: bool,
    /// It carried another field with credentials, by which its family does not tell callers apart.
    pub other_credentials: bool,
    /// It carried `Cache-Control: no-store` (§5.2.1.5).
    pub no_store: bool,
}

impl RequestFacts {
    /// It carried credentials that are no part of its key.
    pub fn has_credentials(self) -> bool {
        self.authorization || self.cookie || self.other_credentials
    }
}

/// A response as it came, and when.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    /// Its end is that of the connection.
    pub is_close_delimited: bool,
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
        /// May answer requests with credentials that are no part of their key: RFC 9111 §3.5 allows it (`public`,
        /// `s-maxage`, `must-revalidate`), or the family's rules do.
        for_credentials: bool,
        /// Fields that `private` (§5.2.2.7) or `no-cache` (§5.2.2.4) names: for the client that asked alone, and to
        /// be removed from what is stored and shared.
        withheld: Vec<HeaderName>,
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
    /// Response `private`, without field names.
    Private,
    /// A stream of events, which has no end.
    EventStream,
    /// It names more groups than an entry may belong to.
    TooManyGroups,
    SetCookie,
    /// `Authorization` without `public`, `s-maxage` or `must-revalidate` (§3.5).
    Authorization,
    /// `Cookie` in the request, and nothing says that the response may be shared.
    Cookie,
    /// Another field with credentials in the request, and nothing says that the response may be shared.
    Credentials,
    VaryStar,
    /// Variants are kept, and this response would hide them: an error that names other fields in `Vary`, or one with which
    /// there would be too many fields.
    VaryOther,
    /// 1xx, 206, 304, one that is about the request ([`is_about_request`]), or one that is not understood although
    /// `must-understand` asks for it.
    Status,
    /// A part that says that it is the whole.
    ContentRange,
    /// Nothing says whether it is whole: neither a length nor a last chunk.
    CloseDelimited,
    /// An error of the server while a response is stored that is none.
    ServerErrorResponse,
    /// Neither upstream nor the family gives a lifetime, and upstream does not ask for validation (`no-cache`)
    /// either.
    NoLifetime,
    /// It would be stale at once (or is `no-cache`), may not be served stale, and has no validator.
    StaleAtOnce,
}

impl Reason {
    /// Whether it lies in the response, so that other requests for the same would meet it as well.
    pub fn is_of_response(self) -> bool {
        !matches!(self, Reason::RequestNoStore | Reason::Authorization | Reason::Cookie | Reason::Credentials)
    }

    /// Short token for `Cache-Status`'s `detail`, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            Reason::RequestNoStore => "request-no-store",
            Reason::NoStore => "no-store",
            Reason::Private => "private",
            Reason::EventStream => "event-stream",
            Reason::TooManyGroups => "too-many-groups",
            Reason::SetCookie => "set-cookie",
            Reason::Authorization => "authorization",
            Reason::Cookie => "cookie",
            Reason::Credentials => "credentials",
            Reason::VaryStar => "vary-star",
            Reason::VaryOther => "vary-other",
            Reason::Status => "status",
            Reason::ContentRange => "content-range",
            Reason::CloseDelimited => "close-delimited",
            Reason::ServerErrorResponse => "server-error",
            Reason::NoLifetime => "no-lifetime",
            Reason::StaleAtOnce => "stale-at-once",
        }
    }

    /// One sentence with the section that says so.
    pub fn explanation(self) -> &'static str {
        match self {
            Reason::RequestNoStore => "the request says no-store (RFC 9111 §5.2.1.5)",
            Reason::NoStore => "the response says no-store (RFC 9111 §5.2.2.5)",
            Reason::Private => "the response is private to one user (RFC 9111 §5.2.2.7)",
            Reason::EventStream => {
                "the response is a stream of events, which is never complete (RFC 9111 §3.3, text/event-stream)"
            }
            Reason::TooManyGroups => {
                "the response names more groups than an entry may belong to, so that one of them could not invalidate it \
                 (RFC 9875 §2)"
            }
            Reason::SetCookie => {
                "the response sets a cookie, which is meant for one client (stricter than RFC 9111 §7.3)"
            }
            Reason::Authorization => {
                "the request carries Authorization, and neither the response (public, s-maxage, must-revalidate) nor \
                 the family's identity allows sharing (RFC 9111 §3.5)"
            }
            Reason::Cookie => {
                "the request carries Cookie, and neither the response (public, s-maxage, must-revalidate) nor the \
                 family's identity allows sharing (stricter than RFC 9111 §3)"
            }
            Reason::Credentials => {
                "the request carries a field that is used for credentials, and neither the response (public, s-maxage, \
                 must-revalidate) nor the family's identity or headers allow sharing (stricter than RFC 9111 §3)"
            }
            Reason::VaryStar => "the response varies on more than request fields: Vary: * (RFC 9111 §4.1)",
            Reason::VaryOther => {
                "the response, which is an error or names too many fields in Vary, would hide those that are kept for the \
                 same URL and are told apart by other fields (RFC 9111 §4.1)"
            }
            Reason::Status => "responses with this status are not stored (RFC 9111 §3)",
            Reason::ContentRange => {
                "the response has a Content-Range, which only a 206 has, so that it may be a part of the whole (RFC 9110 \
                 §14.4)"
            }
            Reason::CloseDelimited => {
                "the response has neither Content-Length nor chunks, so that it looks whole when it was cut off (RFC 9112 §8)"
            }
            Reason::ServerErrorResponse => {
                "an error of the server does not take the place of a response that is stored (RFC 9111 §4.3.3)"
            }
            Reason::NoLifetime => {
                "neither the response (max-age, s-maxage, Expires) nor the family gives a lifetime (RFC 9111 §4.2.1)"
            }
            Reason::StaleAtOnce => {
                "the response is stale at once and has no ETag or Last-Modified to validate it with (RFC 9111 §4.3)"
            }
        }
    }
}

/// RFC 9111 §3, then the family's policy. To be asked anew after a 304, of the updated headers (§4.3.4).
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

/// All that the verdict rests on.
struct Considered<'a> {
    request: RequestFacts,
    response: Received<'a>,
    policy: &'a Policy,
    effective: &'a Effective,
}

/// A lifetime, and whether it is the family's against upstream's word.
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

    /// What nobody can overrule.
    fn is_permitted(&self) -> Result<(), Reason> {
        let Received { status, headers, .. } = self.response;
        if self.request.no_store {
            return Err(Reason::RequestNoStore);
        }
        // §3: final statuses only. Partial content (§3.3) is not stored, and a 304 only updates what is.
        let is_final = (200..600).contains(&status.as_u16());
        if !is_final || matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED) {
            return Err(Reason::Status);
        }
        // Whatever it says of its freshness: one client's fields would decide on what all are told.
        if is_about_request(status) {
            return Err(Reason::Status);
        }
        if headers.contains_key(CONTENT_RANGE) {
            return Err(Reason::ContentRange);
        }
        // RFC 9112 §8: one that was cut off cannot be told from a whole one.
        if self.response.is_close_delimited && self.policy.close_delimited == CloseDelimited::Forward {
            return Err(Reason::CloseDelimited);
        }
        // §5.2.2.3: must-understand overrides no-store, for statuses that are understood.
        match (self.effective.directives.must_understand, self.effective.directives.no_store) {
            (true, _) if !is_understood(status) => return Err(Reason::Status),
            (false, true) => return Err(Reason::NoStore),
            _ => {}
        }
        // §5.2.2.7: with field names it is only about those.
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

    /// Cookies and the like are judged like `Authorization`, since APIs take them for credentials.
    fn is_shareable(&self, for_credentials: bool) -> Result<(), Reason> {
        match self.request {
            _ if for_credentials => Ok(()),
            RequestFacts { authorization: true, .. } => Err(Reason::Authorization),
            RequestFacts { cookie: true, .. } => Err(Reason::Cookie),
            RequestFacts { other_credentials: true, .. } => Err(Reason::Credentials),
            _ => Ok(()),
        }
    }

    /// §3.5: the directive permits sharing only to a cache that conforms to it, which one that overrules
    /// must-revalidate or s-maxage does not.
    fn is_for_credentials(&self, overruled: bool) -> bool {
        let revalidated =
            self.effective.directives.must_revalidate || self.effective.directives.s_maxage.is_some();
        self.policy.for_everybody || self.effective.directives.public || (revalidated && !overruled)
    }

    /// The lifetime: the family's, if it overrides; else upstream's; else the family's; else one worked out, if the
    /// family wants that; else none at all, for responses that upstream wants validated each time.
    fn terms(&self) -> Option<Terms> {
        let Received { headers, response_time, .. } = self.response;
        let family = self.family_lifetime();
        if let (TtlPolicy::Override, Some((lifetime, source))) = (self.policy.ttl_policy, family) {
            return Some(Terms { lifetime, source, overruled: true });
        }
        let (lifetime, source) = freshness::explicit_lifetime(self.effective, headers, response_time)
            .or(family)
            .or_else(|| self.heuristic_lifetime())
            .or_else(|| self.is_for_validation_only().then_some((Duration::ZERO, LifetimeSource::None)))?;
        Some(Terms { lifetime, source, overruled: false })
    }

    /// What the family says about this status. Redirects that are not permanent and errors are never given a
    /// lifetime that upstream did not state.
    fn family_lifetime(&self) -> Option<(Duration, LifetimeSource)> {
        let ttl_source = match self.policy.ttl_policy {
            TtlPolicy::Default => LifetimeSource::FamilyTtl,
            TtlPolicy::Override => LifetimeSource::FamilyOverride,
        };
        let (lifetime, source) = match self.response.status.as_u16() {
            404 | 410 => (self.policy.negative_ttl, LifetimeSource::NegativeTtl),
            200 | 203 | 204 | 300 | 301 | 308 => (self.policy.ttl, ttl_source),
            _ => (None, LifetimeSource::None),
        };
        // Ages are counted in whole seconds.
        Some((Duration::from_secs(lifetime?.as_secs()), source))
    }

    /// §4.2.2.
    fn heuristic_lifetime(&self) -> Option<(Duration, LifetimeSource)> {
        if !self.policy.heuristic || !self.is_cacheable_unstated() {
            return None;
        }
        let lifetime = freshness::heuristic_lifetime(self.response.headers, self.response.response_time)?;
        Some((lifetime, LifetimeSource::Heuristic))
    }

    /// §3: where no lifetime is stated, the response is `public` or its status heuristically cacheable.
    fn is_cacheable_unstated(&self) -> bool {
        self.effective.directives.public || is_heuristically_cacheable(self.response.status)
    }

    fn is_for_validation_only(&self) -> bool {
        self.effective.directives.no_cache.is_whole()
            && self.is_cacheable_unstated()
            && validation::has_validator(self.response.headers)
    }

    fn freshness(&self, terms: Terms) -> Freshness {
        let Received { headers, request_time, response_time, .. } = self.response;
        let directives = &self.effective.directives;
        // §5.2.2.4: with field names, leaving those fields out is enough.
        let always_validate = !terms.overruled && directives.no_cache.is_whole();
        // §4.2.4; s-maxage includes proxy-revalidate (§5.2.2.10).
        let revalidates =
            directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
        let never_stale = !terms.overruled && revalidates;
        let period = |stated: Option<u64>, family: Option<Duration>| {
            let stated = stated.map(Duration::from_secs);
            let period = if terms.overruled { family.or(stated) } else { stated.or(family) };
            period.filter(|_| !always_validate && !never_stale).unwrap_or_default()
        };
        Freshness {
            request_time,
            response_time,
            initial_age: freshness::initial_age(headers, request_time, response_time),
            lifetime: terms.lifetime,
            source: terms.source,
            always_validate,
            never_stale,
            stale_while_revalidate: period(directives.stale_while_revalidate, self.policy.stale_while_revalidate),
            stale_if_error: period(directives.stale_if_error, self.policy.stale_if_error),
            stale_if_unreachable: period(None, Some(self.policy.stale_if_unreachable)),
        }
    }

    /// Whether the entry can ever answer a request: as it is, stale, or after validation.
    fn is_of_use(&self, freshness: &Freshness) -> bool {
        let now = self.response.response_time;
        let stale = freshness.stale_while_revalidate.max(freshness.stale_if_error);
        let is_servable = freshness.age(now) < freshness.lifetime.saturating_add(stale);
        (is_servable && !freshness.always_validate) || validation::has_validator(self.response.headers)
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let media_types = headers
        .get_all(CONTENT_TYPE)
        .iter()
        .filter_map(|value| value.as_bytes().split(|byte| *byte == b';').next());
    media_types.map(<[u8]>::trim_ascii).any(|media_type| media_type.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether a status is about the request that it answers, not about the resource: about its syntax, its fields, its
/// length, its credentials, its connection, or how often the client asks (RFC 9110 §15.5 and §15.6, RFC 6585, RFC 8470,
/// RFC 4918). Another request for the same may be told something else, so that such an answer is not stored, and says
/// nothing of what is. Stricter than RFC 9110 §15.1, which lets a cache store 414 and 501; 428, 429, 431 and 511 must not be
/// stored by RFC 6585 either. A 4xx that no RFC assigns counts as 400 (RFC 9110 §15).
pub fn is_about_request(status: StatusCode) -> bool {
    match status.as_u16() {
        // 418 is unassigned in practice (RFC 9110 §15.5.19), and servers use it for resources.
        404 | 405 | 410 | 418 | 451 => false,
        code => status.is_client_error() || matches!(code, 501 | 505 | 506 | 510 | 511),
    }
}

/// Whether an answer with this status that is not stored tells what others would be told: then what is stored is not
/// what upstream would send now (RFC 9111 §4.3.3), and there is no point in waiting for one another's answers. An error of
/// the server is a passing thing, and a 1xx, 206 or 304 was not asked for.
pub fn is_about_resource(status: StatusCode) -> bool {
    let is_whole = status.is_success() && status != StatusCode::PARTIAL_CONTENT;
    let is_elsewhere = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
    is_whole || is_elsewhere || (status.is_client_error() && !is_about_request(status))
}

/// Whether upstream has failed, for whoever asks at that time: an error of the server that is not about the request.
pub fn is_failure(status: StatusCode) -> bool {
    status.is_server_error() && !is_about_request(status)
}

/// Whether an error of the server that is not stored may be given, as it came, to all who wait for the same fetch. What is
/// meant for one client is not: `Set-Cookie`, `private` and `no-store` (RFC 9111 §5.2.2.5, §5.2.2.7), fields that `no-cache`
/// names, `Vary: *`, and a stream of events, which has no end.
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

/// RFC 9110 §15.1, without 206 and what [`is_about_request`].
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410)
}

/// Statuses all of whose caching behaviour is implemented (§3).
fn is_understood(status: StatusCode) -> bool {
    is_heuristically_cacheable(status) || matches!(status.as_u16(), 302 | 303 | 307)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    const MINUTE: Duration = Duration::from_secs(60);
    const CACHE_CONTROL: &str = "cache-control";
    const ETAG: (&str, &str) = ("etag", "\"v1\"");

    fn judge(request: RequestFacts, status: u16, values: Fields<'_>, policy: &Policy) -> Storable {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let status = StatusCode::from_u16(status).unwrap();
        let headers = fields(values);
        storable(request, received(status, &headers, false, time), policy)
    }

    fn received(
        status: StatusCode,
        headers: &HeaderMap,
        is_close_delimited: bool,
        time: SystemTime,
    ) -> Received<'_> {
        Received { status, headers, is_close_delimited, request_time: time, response_time: time }
    }

    #[test]
    fn a_response_that_ends_with_the_connection_is_stored_where_its_family_says_so() {
        let headers = fields(&[(CACHE_CONTROL, "max-age=60")]);
        let judge = |is_close_delimited, policy: &Policy| {
            storable(
                RequestFacts::default(),
                received(StatusCode::OK, &headers, is_close_delimited, UNIX_EPOCH),
                policy,
            )
        };
        let plain = Policy::default();
        let storing = Policy { close_delimited: CloseDelimited::Store, ..Policy::default() };
        assert_eq!(judge(true, &plain), Storable::No(Reason::CloseDelimited));
        for (is_close_delimited, policy) in [(false, &plain), (false, &storing), (true, &storing)] {
            assert!(matches!(judge(is_close_delimited, policy), Storable::Yes { .. }), "{is_close_delimited}");
        }
    }

    /// Verdict on a plain 200 with this `Cache-Control`.
    fn on_control(request: RequestFacts, control: &str, policy: &Policy) -> Storable {
        judge(request, 200, &[(CACHE_CONTROL, control)], policy)
    }

    fn no(reason: Reason) -> Storable {
        Storable::No(reason)
    }

    fn freshness_of(verdict: &Storable) -> Freshness {
        match verdict {
            Storable::Yes { freshness, .. } => *freshness,
            Storable::No(reason) => panic!("not stored: {reason:?}"),
        }
    }

    fn is_for_credentials(verdict: &Storable) -> bool {
        matches!(verdict, Storable::Yes { for_credentials: true, .. })
    }

    fn family(ttl_policy: TtlPolicy) -> Policy {
        Policy { ttl: Some(MINUTE * 3), negative_ttl: Some(MINUTE), ttl_policy, ..Policy::default() }
    }

    const ANYONE: RequestFacts =
        RequestFacts { authorization: false, cookie: false, other_credentials: false, no_store: false };
    const AUTHORIZED: RequestFacts = RequestFacts { authorization: true, ..ANYONE };
    const WITH_COOKIE: RequestFacts = RequestFacts { cookie: true, ..ANYONE };
    const WITH_KEY: RequestFacts = RequestFacts { other_credentials: true, ..ANYONE };

    #[test]
    fn what_forbids_storing_forbids_it_under_every_policy() {
        let fresh = (CACHE_CONTROL, "public, max-age=60");
        let part = ("content-range", "bytes 0-1/2");
        let rows: [(RequestFacts, u16, Fields<'_>, Reason); 20] = [
            (RequestFacts { no_store: true, ..ANYONE }, 200, &[fresh], Reason::RequestNoStore),
            (ANYONE, 200, &[(CACHE_CONTROL, "NO-STORE, max-age=60")], Reason::NoStore),
            (ANYONE, 200, &[fresh, (CACHE_CONTROL, "no-store")], Reason::NoStore),
            (ANYONE, 200, &[fresh, (CACHE_CONTROL, "x=\"")], Reason::NoStore),
            (ANYONE, 200, &[(CACHE_CONTROL, "Private, max-age=60")], Reason::Private),
            (ANYONE, 200, &[(CACHE_CONTROL, "private=\"vary\", max-age=60")], Reason::Private),
            (ANYONE, 200, &[(CACHE_CONTROL, "private, private=\"x-user\", max-age=60")], Reason::Private),
            (ANYONE, 200, &[fresh, ("content-type", "Text/Event-Stream; charset=utf-8")], Reason::EventStream),
            (ANYONE, 200, &[(CACHE_CONTROL, "private=\"x\""), fresh, ("set-cookie", "sid=1")], Reason::SetCookie),
            (ANYONE, 200, &[fresh, ("set-cookie", "sid=1")], Reason::SetCookie),
            (ANYONE, 200, &[fresh, ("vary", "accept, *")], Reason::VaryStar),
            (ANYONE, 103, &[fresh], Reason::Status),
            (ANYONE, 206, &[fresh], Reason::Status),
            (ANYONE, 304, &[fresh], Reason::Status),
            (ANYONE, 599, &[(CACHE_CONTROL, "must-understand, max-age=60")], Reason::Status),
            (ANYONE, 599, &[(CACHE_CONTROL, "must-understand, no-store, max-age=60")], Reason::Status),
            (ANYONE, 700, &[fresh], Reason::Status),
            (ANYONE, 200, &[fresh, part], Reason::ContentRange),
            (ANYONE, 404, &[fresh, part], Reason::ContentRange),
            (ANYONE, 206, &[fresh, part], Reason::Status),
        ];
        for policy in [Policy::default(), family(TtlPolicy::Default), family(TtlPolicy::Override)] {
            for (request, status, headers, reason) in rows {
                assert_eq!(judge(request, status, headers, &policy), no(reason), "{status} {headers:?}");
            }
        }
    }

    /// 4xx about the resource: RFC 9110 §15.5.5, §15.5.6, §15.5.11, §15.5.19; RFC 7725. All others count as one that is
    /// assigned and about the request, or as 400 (RFC 9110 §15).
    const ABOUT_RESOURCE: [u16; 5] = [404, 405, 410, 418, 451];
    /// RFC 9110 §15.6.2, §15.6.6; RFC 2295 §8.1; RFC 2774 §7; RFC 6585 §6.
    const ABOUT_REQUEST: [u16; 5] = [501, 505, 506, 510, 511];

    #[test]
    fn what_is_about_one_request_is_never_stored_and_says_nothing_of_the_rest() {
        let controls = ["public, max-age=60", "s-maxage=60", "must-understand, max-age=60", "public, immutable"];
        for status in 200..600 {
            let is_listed = ABOUT_REQUEST.contains(&status)
                || (400..500).contains(&status) && !ABOUT_RESOURCE.contains(&status);
            let code = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_about_request(code), is_listed, "{status}");
            for policy in [Policy::default(), family(TtlPolicy::Default), family(TtlPolicy::Override)] {
                for control in controls {
                    let headers = [(CACHE_CONTROL, control), ("larder-cache-control", "max-age=60"), ETAG];
                    let verdict = judge(ANYONE, status, &headers, &policy);
                    assert!(!is_listed || verdict == no(Reason::Status), "{status} {control} {verdict:?}");
                }
            }
            let is_passing = status >= 500 || [206, 304].contains(&status);
            assert_eq!(is_about_resource(code), !is_listed && !is_passing, "{status}");
        }
    }

    #[test]
    fn must_understand_overrides_no_store_for_statuses_that_are_understood() {
        let control = "must-understand, no-store, max-age=60";
        assert_eq!(freshness_of(&on_control(ANYONE, control, &Policy::default())).lifetime, MINUTE);
    }

    #[test]
    fn without_a_family_only_explicit_freshness_stores() {
        let plain = Policy::default();
        let stored = judge(ANYONE, 200, &[(CACHE_CONTROL, "max-age=60")], &plain);
        assert_eq!(freshness_of(&stored).source, LifetimeSource::MaxAge);
        assert!(!is_for_credentials(&stored));
        for (status, headers) in [
            (200, &[][..]),
            (200, &[ETAG][..]),
            (200, &[ETAG, (CACHE_CONTROL, "public")][..]),
            (404, &[][..]),
            (302, &[ETAG, (CACHE_CONTROL, "no-cache")][..]),
            (200, &[(CACHE_CONTROL, "no-cache")][..]),
        ] {
            assert_eq!(judge(ANYONE, status, headers, &plain), no(Reason::NoLifetime), "{status} {headers:?}");
        }
        for status in [200, 302, 404, 500, 503] {
            let stored = judge(ANYONE, status, &[(CACHE_CONTROL, "max-age=60")], &plain);
            assert_eq!(freshness_of(&stored).lifetime, MINUTE, "{status}");
        }
    }

    #[test]
    fn no_cache_with_a_validator_is_stored_to_be_validated_each_time() {
        let stored = judge(ANYONE, 200, &[ETAG, (CACHE_CONTROL, "no-cache")], &Policy::default());
        let freshness = freshness_of(&stored);
        assert_eq!((freshness.source, freshness.always_validate), (LifetimeSource::None, true));
        for control in ["no-cache=\"etag\", max-age=5", "no-cache=\"x\", no-cache, max-age=5"] {
            let unqualified = judge(ANYONE, 200, &[ETAG, (CACHE_CONTROL, control)], &Policy::default());
            assert!(freshness_of(&unqualified).always_validate, "{control}");
        }
    }

    #[test]
    fn fields_that_are_named_are_withheld_and_the_rest_is_stored() {
        let cookie = ("set-cookie", "sid=1");
        let rows = [
            ("max-age=5", &[][..]),
            ("private=\"X-User\", max-age=5", &["x-user"][..]),
            ("private=\"x-b, x-a\", no-cache=x-a, max-age=5", &["x-a", "x-b"][..]),
            ("private=\"set-cookie\", max-age=5", &["set-cookie"][..]),
            ("no-cache=\"Set-Cookie\", max-age=5", &["set-cookie"][..]),
        ];
        for (control, expected) in rows {
            let sets_cookie = expected.contains(&"set-cookie").then_some(cookie);
            let headers: Vec<_> = [(CACHE_CONTROL, control)].into_iter().chain(sets_cookie).collect();
            match judge(ANYONE, 200, &headers, &Policy::default()) {
                Storable::Yes { freshness, withheld, .. } => {
                    assert_eq!(withheld, expected, "{control}");
                    assert!(!freshness.always_validate, "{control}");
                }
                Storable::No(reason) => panic!("{control}: {reason:?}"),
            }
        }
    }

    #[test]
    fn what_is_stale_at_once_needs_a_validator_or_leave_to_be_served_stale() {
        let plain = Policy::default();
        for control in
            ["max-age=0", "max-age=x", "max-age=60, no-cache", "max-age=0, must-revalidate, stale-if-error=9"]
        {
            assert_eq!(on_control(ANYONE, control, &plain), no(Reason::StaleAtOnce), "{control}");
            let with_validator = judge(ANYONE, 200, &[ETAG, (CACHE_CONTROL, control)], &plain);
            assert!(matches!(with_validator, Storable::Yes { .. }), "{control}");
        }
        let old = judge(ANYONE, 200, &[(CACHE_CONTROL, "max-age=60"), ("age", "60")], &plain);
        assert_eq!(old, no(Reason::StaleAtOnce));
        for control in ["max-age=0, stale-while-revalidate=9", "max-age=0, stale-if-error=9"] {
            assert!(matches!(on_control(ANYONE, control, &plain), Storable::Yes { .. }), "{control}");
        }
    }

    #[test]
    fn credentials_are_shared_only_where_upstream_or_the_rules_say_so() {
        let plain = Policy::default();
        for (request, reason) in
            [(AUTHORIZED, Reason::Authorization), (WITH_COOKIE, Reason::Cookie), (WITH_KEY, Reason::Credentials)]
        {
            for control in ["max-age=60", "max-age=60, proxy-revalidate", "max-age=60, immutable"] {
                assert_eq!(on_control(request, control, &plain), no(reason), "{control}");
            }
            for control in ["max-age=60, public", "s-maxage=60", "max-age=60, must-revalidate"] {
                assert!(is_for_credentials(&on_control(request, control, &plain)), "{control}");
            }
            let stated = Policy { for_everybody: true, ..plain.clone() };
            assert!(is_for_credentials(&on_control(request, "max-age=60", &stated)));
        }
    }

    #[test]
    fn a_family_that_overrules_revalidation_cannot_share_by_it() {
        let overriding = family(TtlPolicy::Override);
        for control in ["must-revalidate", "s-maxage=60"] {
            assert_eq!(on_control(AUTHORIZED, control, &overriding), no(Reason::Authorization), "{control}");
            assert!(!is_for_credentials(&on_control(ANYONE, control, &overriding)), "{control}");
        }
        assert!(is_for_credentials(&on_control(AUTHORIZED, "public", &overriding)));
    }

    #[test]
    fn a_family_fills_in_where_upstream_says_nothing() {
        let policy = family(TtlPolicy::Default);
        let rows: [(u16, Fields<'_>, u64, LifetimeSource); 6] = [
            (200, &[], 180, LifetimeSource::FamilyTtl),
            (301, &[], 180, LifetimeSource::FamilyTtl),
            (200, &[(CACHE_CONTROL, "max-age=5")], 5, LifetimeSource::MaxAge),
            (404, &[], 60, LifetimeSource::NegativeTtl),
            (410, &[], 60, LifetimeSource::NegativeTtl),
            (404, &[(CACHE_CONTROL, "max-age=5")], 5, LifetimeSource::MaxAge),
        ];
        for (status, headers, lifetime, source) in rows {
            let freshness = freshness_of(&judge(ANYONE, status, headers, &policy));
            assert_eq!(
                (freshness.lifetime.as_secs(), freshness.source),
                (lifetime, source),
                "{status} {headers:?}"
            );
        }
        for status in [302, 307, 405, 418, 500, 502, 503] {
            assert_eq!(judge(ANYONE, status, &[], &policy), no(Reason::NoLifetime), "{status}");
        }
        let no_negative = Policy { negative_ttl: None, ..policy };
        assert_eq!(judge(ANYONE, 404, &[], &no_negative), no(Reason::NoLifetime));
    }

    #[test]
    fn a_family_overrides_all_but_no_store_and_private() {
        let policy = Policy { stale_if_error: Some(MINUTE), ..family(TtlPolicy::Override) };
        for control in ["max-age=5", "s-maxage=5", "no-cache", "must-revalidate", "no-cache, max-age=x", ""] {
            let freshness = freshness_of(&on_control(ANYONE, control, &policy));
            assert_eq!((freshness.lifetime, freshness.source), (MINUTE * 3, LifetimeSource::FamilyOverride));
            assert!(!freshness.always_validate && !freshness.never_stale, "{control}");
            assert_eq!(freshness.stale_if_error, MINUTE, "{control}");
        }
        let negative = freshness_of(&judge(ANYONE, 404, &[(CACHE_CONTROL, "max-age=5")], &policy));
        assert_eq!((negative.lifetime, negative.source), (MINUTE, LifetimeSource::NegativeTtl));
        // A status that the family says nothing about stays upstream's.
        let error = freshness_of(&judge(ANYONE, 500, &[(CACHE_CONTROL, "max-age=5, must-revalidate")], &policy));
        assert_eq!((error.source, error.never_stale), (LifetimeSource::MaxAge, true));
    }

    #[test]
    fn staleness_is_granted_by_the_response_else_by_the_family() {
        let policy =
            Policy { stale_while_revalidate: Some(MINUTE), stale_if_error: Some(MINUTE), ..Policy::default() };
        let rows = [
            ("max-age=5", 60, 60),
            ("max-age=5, stale-while-revalidate=0, stale-if-error=7", 0, 7),
            ("max-age=5, stale-while-revalidate=x", 60, 60),
            ("max-age=5, must-revalidate, stale-if-error=7", 0, 0),
            ("max-age=5, proxy-revalidate", 0, 0),
            ("s-maxage=5, stale-while-revalidate=7", 0, 0),
        ];
        for (control, while_revalidate, if_error) in rows {
            let freshness = freshness_of(&on_control(ANYONE, control, &policy));
            let periods = (freshness.stale_while_revalidate.as_secs(), freshness.stale_if_error.as_secs());
            assert_eq!(periods, (while_revalidate, if_error), "{control}");
        }
        let no_cache = judge(ANYONE, 200, &[ETAG, (CACHE_CONTROL, "max-age=5, no-cache")], &policy);
        assert_eq!(freshness_of(&no_cache).stale_if_error, Duration::ZERO);
    }

    #[test]
    fn a_lifetime_is_worked_out_only_where_a_family_wants_it_and_nothing_else_says_one() {
        // Twenty minutes before it came.
        let modified = ("last-modified", "Sun, 06 Nov 1994 08:29:37 GMT");
        let wanting = Policy { heuristic: true, ..Policy::default() };
        let worked_out = |status, headers: Fields<'_>, policy: &Policy| {
            let verdict = judge(ANYONE, status, headers, policy);
            matches!(&verdict, Storable::Yes { freshness, .. } if freshness.source == LifetimeSource::Heuristic)
                .then(|| freshness_of(&verdict).lifetime.as_secs())
        };
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410] {
            assert_eq!(worked_out(status, &[modified], &wanting), Some(120), "{status}");
        }
        for status in [201, 302, 307, 418, 500, 503, 599] {
            assert_eq!(judge(ANYONE, status, &[modified], &wanting), no(Reason::NoLifetime), "{status}");
            assert_eq!(
                worked_out(status, &[modified, (CACHE_CONTROL, "public")], &wanting),
                Some(120),
                "{status}"
            );
        }
        assert_eq!(judge(ANYONE, 200, &[modified], &Policy::default()), no(Reason::NoLifetime));
        let with_ttl = Policy { heuristic: true, ..family(TtlPolicy::Default) };
        assert_eq!(freshness_of(&judge(ANYONE, 200, &[modified], &with_ttl)).source, LifetimeSource::FamilyTtl);
        for explicit in [(CACHE_CONTROL, "max-age=0"), (CACHE_CONTROL, "s-maxage=9"), ("expires", "0")] {
            assert_eq!(worked_out(200, &[modified, explicit], &wanting), None, "{explicit:?}");
        }
    }

    #[test]
    fn a_targeted_field_decides_on_storing_and_on_the_lifetime() {
        let plain = Policy::default();
        let cdn = ("cdn-cache-control", "max-age=60");
        let stored = judge(ANYONE, 200, &[(CACHE_CONTROL, "no-store, private, max-age=5"), cdn], &plain);
        assert_eq!(freshness_of(&stored).lifetime, MINUTE);
        let forbidden =
            judge(ANYONE, 200, &[(CACHE_CONTROL, "max-age=5"), ("cdn-cache-control", "no-store")], &plain);
        assert_eq!(forbidden, no(Reason::NoStore));
        let expires = ("expires", "Sun, 06 Nov 1994 09:49:37 GMT");
        assert_eq!(judge(ANYONE, 200, &[expires, ("cdn-cache-control", "none")], &plain), no(Reason::NoLifetime));
        assert_eq!(judge(AUTHORIZED, 200, &[(CACHE_CONTROL, "public"), cdn], &plain), no(Reason::Authorization));
        let stale = freshness_of(&judge(ANYONE, 200, &[("surrogate-control", "max-age=60+30")], &plain));
        assert_eq!((stale.stale_while_revalidate, stale.stale_if_error), (MINUTE / 2, MINUTE / 2));
    }

    #[test]
    fn every_reason_has_its_own_token_and_a_section() {
        let all = [
            Reason::RequestNoStore,
            Reason::NoStore,
            Reason::Private,
            Reason::EventStream,
            Reason::TooManyGroups,
            Reason::SetCookie,
            Reason::Authorization,
            Reason::Cookie,
            Reason::Credentials,
            Reason::VaryStar,
            Reason::VaryOther,
            Reason::Status,
            Reason::ContentRange,
            Reason::ServerErrorResponse,
            Reason::NoLifetime,
            Reason::StaleAtOnce,
        ];
        let tokens: std::collections::HashSet<_> = all.iter().map(|reason| reason.token()).collect();
        assert_eq!(tokens.len(), all.len());
        assert!(all.iter().all(|reason| reason.explanation().contains('§')));
    }

    proptest! {
        #[test]
        fn private_answers_are_never_shared(
            control in "(public|private|no-store|max-age=9|s-maxage=9|must-revalidate|no-cache|, ){0,9}",
            authorization: bool, cookie: bool, overrides: bool, status in 200u16..600, sets_cookie: bool,
        ) {
            let policy = family(if overrides { TtlPolicy::Override } else { TtlPolicy::Default });
            let mut headers = vec![(CACHE_CONTROL, control.as_str())];
            if sets_cookie {
                headers.push(("set-cookie", "sid=1"));
            }
            let verdict = judge(RequestFacts { authorization, cookie, ..ANYONE }, status, &headers, &policy);
            let named = |name: &str| control.split(", ").any(|member| member == name);
            if matches!(verdict, Storable::Yes { .. }) {
                prop_assert!(!named("no-store") && !named("private") && !sets_cookie);
                if authorization || cookie {
                    prop_assert!(is_for_credentials(&verdict));
                    prop_assert!(control.contains("public") || control.contains("s-maxage")
                        || control.contains("must-revalidate"));
                }
            }
        }
    }
}
