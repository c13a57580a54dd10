use super::*;
use crate::http::adaptive_ttl::AdaptiveTtl;
use crate::http::daily_time::DailyTime;
use crate::http::negative_ttl::NegativeTtl;
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

fn received(status: StatusCode, headers: &HeaderMap, is_close_delimited: bool, time: SystemTime) -> Received<'_> {
    Received { status, headers, is_close_delimited, request_time: time, response_time: time }
}

#[test]
fn a_close_delimited_response_is_stored_if_its_family_says_so() {
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

/// The verdict on a plain 200 with this `Cache-Control`.
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
    Policy {
        ttl: Some(MINUTE * 3),
        negative_ttl: NegativeTtl::of_missing(MINUTE),
        ttl_policy,
        ..Policy::default()
    }
}

const ANYONE: RequestFacts =
    RequestFacts { authorization: false, cookie: false, other_credentials: false, no_store: false, rate: None };
const AUTHORIZED: RequestFacts = RequestFacts { authorization: true, ..ANYONE };
const WITH_COOKIE: RequestFacts = RequestFacts { cookie: true, ..ANYONE };
const WITH_KEY: RequestFacts = RequestFacts { other_credentials: true, ..ANYONE };

#[test]
fn no_policy_overrides_no_store_and_private() {
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

/// 4xx about the resource: RFC 9110 §15.5.5, §15.5.6, §15.5.11, §15.5.19; RFC 7725. All others are about the request,
/// or count as 400 (RFC 9110 §15).
const ABOUT_RESOURCE: [u16; 5] = [404, 405, 410, 418, 451];
/// RFC 9110 §15.6.2, §15.6.6; RFC 2295 §8.1; RFC 2774 §7; RFC 6585 §6.
const ABOUT_REQUEST: [u16; 5] = [501, 505, 506, 510, 511];

#[test]
fn statuses_about_the_request_are_not_stored_and_prove_nothing() {
    let controls = ["public, max-age=60", "s-maxage=60", "must-understand, max-age=60", "public, immutable"];
    for status in 200..600 {
        let is_listed =
            ABOUT_REQUEST.contains(&status) || (400..500).contains(&status) && !ABOUT_RESOURCE.contains(&status);
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
    assert_eq!(freshness_of(&on_control(ANYONE, control, &Policy::default())).lifetime, MINUTE.into());
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
        assert_eq!(freshness_of(&stored).lifetime, MINUTE.into(), "{status}");
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
fn a_response_stale_at_once_needs_a_validator_or_stale_permission() {
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
fn a_family_supplies_a_missing_lifetime() {
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
            (freshness.lifetime.duration().as_secs(), freshness.source),
            (lifetime, source),
            "{status} {headers:?}"
        );
    }
    for status in [302, 307, 405, 418, 500, 502, 503] {
        assert_eq!(judge(ANYONE, status, &[], &policy), no(Reason::NoLifetime), "{status}");
    }
    let no_negative = Policy { negative_ttl: NegativeTtl::default(), ..policy };
    assert_eq!(judge(ANYONE, 404, &[], &no_negative), no(Reason::NoLifetime));
}

#[test]
fn each_status_has_the_lifetime_that_the_family_gives_it() {
    let by_status = [(404, 10), (301, 86_400), (302, 5), (451, 7)]
        .map(|(code, seconds)| (StatusCode::from_u16(code).unwrap(), Duration::from_secs(seconds)));
    let policy = Policy { negative_ttl: NegativeTtl::by_status(by_status.into()), ..family(TtlPolicy::Default) };
    for (status, lifetime) in by_status {
        let freshness = freshness_of(&judge(ANYONE, status.as_u16(), &[], &policy));
        assert_eq!(
            (freshness.lifetime.duration(), freshness.source),
            (lifetime, LifetimeSource::NegativeTtl),
            "{status}"
        );
    }
    assert_eq!(freshness_of(&judge(ANYONE, 308, &[], &policy)).source, LifetimeSource::FamilyTtl);
    assert_eq!(judge(ANYONE, 410, &[], &policy), no(Reason::NoLifetime));
}

#[test]
fn no_lifetime_lasts_beyond_the_time_of_day_that_the_family_names() {
    // The responses of these tests come at 08:49:37.
    let at = |until: &str, ttl| Policy { until: DailyTime::parse(until).ok(), ttl, ..Policy::default() };
    let left = Duration::from_secs(10 * 60 + 23);
    let rows: [(Policy, Fields<'_>, Duration, LifetimeSource); 7] = [
        (at("09:00 UTC", None), &[], left, LifetimeSource::Until),
        (at("10:00 Europe/Paris", None), &[], left, LifetimeSource::Until),
        (at("09:00 UTC", Some(MINUTE)), &[], MINUTE, LifetimeSource::FamilyTtl),
        (at("09:00 UTC", Some(MINUTE * 60)), &[], left, LifetimeSource::Until),
        (at("09:00 UTC", None), &[(CACHE_CONTROL, "max-age=5")], Duration::from_secs(5), LifetimeSource::MaxAge),
        (at("09:00 UTC", None), &[(CACHE_CONTROL, "max-age=5000")], left, LifetimeSource::Until),
        // A lifetime includes the age that the response came with.
        (
            at("09:00 UTC", None),
            &[(CACHE_CONTROL, "max-age=5000"), ("age", "7")],
            left + MINUTE * 7 / 60,
            LifetimeSource::Until,
        ),
    ];
    for (policy, headers, lifetime, source) in rows {
        let freshness = freshness_of(&judge(ANYONE, 200, headers, &policy));
        assert_eq!(
            (freshness.lifetime.duration(), freshness.source),
            (lifetime, source),
            "{policy:?} {headers:?}"
        );
    }
    let overriding = Policy { ttl_policy: TtlPolicy::Override, ..at("09:00 UTC", None) };
    assert_eq!(
        freshness_of(&judge(ANYONE, 200, &[(CACHE_CONTROL, "max-age=5")], &overriding)).lifetime,
        left.into()
    );
    assert_eq!(judge(ANYONE, 404, &[], &overriding), no(Reason::NoLifetime), "it gives an error no lifetime");
}

#[test]
fn only_the_familys_ttl_is_multiplied_by_the_rate_of_requests() {
    let request = |per_hour| RequestFacts { rate: Some(RequestRate { per_hour, is_whole_hour: true }), ..ANYONE };
    let policy = Policy { adaptive_ttl: Some(AdaptiveTtl::default()), ..family(TtlPolicy::Default) };
    let lifetime = |request, status, headers: Fields<'_>, policy: &Policy| {
        let freshness = freshness_of(&judge(request, status, headers, policy));
        (freshness.lifetime.duration().as_secs(), freshness.source)
    };
    assert_eq!(lifetime(request(2000), 200, &[], &policy), (360, LifetimeSource::AdaptedTtl));
    assert_eq!(lifetime(request(1), 200, &[], &policy), (90, LifetimeSource::AdaptedTtl));
    assert_eq!(lifetime(request(100), 200, &[], &policy), (180, LifetimeSource::FamilyTtl));
    assert_eq!(lifetime(ANYONE, 200, &[], &policy), (180, LifetimeSource::FamilyTtl));
    assert_eq!(lifetime(request(2000), 404, &[], &policy), (60, LifetimeSource::NegativeTtl));
    let stated = [(CACHE_CONTROL, "max-age=5")];
    assert_eq!(lifetime(request(2000), 200, &stated, &policy), (5, LifetimeSource::MaxAge));
    let overriding = Policy { ttl_policy: TtlPolicy::Override, ..policy };
    assert_eq!(lifetime(request(2000), 200, &stated, &overriding), (360, LifetimeSource::AdaptedTtl));
    assert_eq!(lifetime(request(100), 200, &stated, &overriding), (180, LifetimeSource::FamilyOverride));
}

#[test]
fn a_family_overrides_all_but_no_store_and_private() {
    let policy = Policy { stale_if_error: Some(MINUTE), ..family(TtlPolicy::Override) };
    for control in ["max-age=5", "s-maxage=5", "no-cache", "must-revalidate", "no-cache, max-age=x", ""] {
        let freshness = freshness_of(&on_control(ANYONE, control, &policy));
        assert_eq!(
            (freshness.lifetime.duration(), freshness.source),
            (MINUTE * 3, LifetimeSource::FamilyOverride)
        );
        assert!(!freshness.always_validate && !freshness.never_stale, "{control}");
        assert_eq!(freshness.stale_if_error.duration(), MINUTE, "{control}");
    }
    let negative = freshness_of(&judge(ANYONE, 404, &[(CACHE_CONTROL, "max-age=5")], &policy));
    assert_eq!((negative.lifetime.duration(), negative.source), (MINUTE, LifetimeSource::NegativeTtl));
    // A status without a family setting keeps upstream's lifetime.
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
        let periods =
            [freshness.stale_while_revalidate, freshness.stale_if_error].map(|it| it.duration().as_secs());
        assert_eq!(periods, [while_revalidate, if_error], "{control}");
    }
    let no_cache = judge(ANYONE, 200, &[ETAG, (CACHE_CONTROL, "max-age=5, no-cache")], &policy);
    assert_eq!(freshness_of(&no_cache).stale_if_error, Duration::ZERO.into());
}

#[test]
fn a_heuristic_lifetime_needs_the_family_and_no_explicit_one() {
    // Twenty minutes before it was received.
    let modified = ("last-modified", "Sun, 06 Nov 1994 08:29:37 GMT");
    let wanting = Policy { heuristic: true, ..Policy::default() };
    let worked_out = |status, headers: Fields<'_>, policy: &Policy| {
        let verdict = judge(ANYONE, status, headers, policy);
        matches!(&verdict, Storable::Yes { freshness, .. } if freshness.source == LifetimeSource::Heuristic)
            .then(|| freshness_of(&verdict).lifetime.duration().as_secs())
    };
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410] {
        assert_eq!(worked_out(status, &[modified], &wanting), Some(120), "{status}");
    }
    for status in [201, 302, 307, 418, 500, 503, 599] {
        assert_eq!(judge(ANYONE, status, &[modified], &wanting), no(Reason::NoLifetime), "{status}");
        assert_eq!(worked_out(status, &[modified, (CACHE_CONTROL, "public")], &wanting), Some(120), "{status}");
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
    assert_eq!(freshness_of(&stored).lifetime, MINUTE.into());
    let forbidden = judge(ANYONE, 200, &[(CACHE_CONTROL, "max-age=5"), ("cdn-cache-control", "no-store")], &plain);
    assert_eq!(forbidden, no(Reason::NoStore));
    let expires = ("expires", "Sun, 06 Nov 1994 09:49:37 GMT");
    assert_eq!(judge(ANYONE, 200, &[expires, ("cdn-cache-control", "none")], &plain), no(Reason::NoLifetime));
    assert_eq!(judge(AUTHORIZED, 200, &[(CACHE_CONTROL, "public"), cdn], &plain), no(Reason::Authorization));
    let stale = freshness_of(&judge(ANYONE, 200, &[("surrogate-control", "max-age=60+30")], &plain));
    assert_eq!([stale.stale_while_revalidate, stale.stale_if_error], [(MINUTE / 2).into(); 2]);
}

#[test]
fn every_reason_has_its_own_token_and_an_rfc_section_unless_it_is_the_familys() {
    let tokens: std::collections::HashSet<_> = Reason::ALL.iter().map(|reason| reason.token()).collect();
    assert_eq!(tokens.len(), Reason::ALL.len());
    let without_section: Vec<_> =
        Reason::ALL.into_iter().filter(|reason| !reason.explanation().contains('§')).collect();
    assert_eq!(without_section, [Reason::NeverCached]);
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
