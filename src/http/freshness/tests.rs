use super::*;
use crate::http::sample::{Fields, fields};
use crate::http::targeted::effective;
use http::HeaderValue;
use proptest::prelude::*;
use std::time::UNIX_EPOCH;

/// Sun, 06 Nov 1994 08:49:37 GMT
const NOW: u64 = 784_111_777;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn lifetime(values: Fields<'_>) -> Option<(u64, LifetimeSource)> {
    let headers = fields(values);
    explicit_lifetime(&effective(&headers), &headers, at(NOW))
        .map(|(lifetime, source)| (lifetime.as_secs(), source))
}

fn plain(lifetime: u64) -> Freshness {
    Freshness::with_lifetime(seconds(lifetime), LifetimeSource::MaxAge, at(NOW))
}

/// Its reuse for a request without demands.
fn reuse(freshness: &Freshness, now: SystemTime) -> Reuse {
    freshness.reuse(now, &Demands::default())
}

/// Whether it may be served after an error status.
fn is_usable_after_error(freshness: &Freshness, now: SystemTime) -> bool {
    freshness.is_usable_after_failure(freshness.stale_if_error.into(), now, &Demands::default())
}

fn expired(ttl: i64) -> Reuse {
    Reuse::Validate { ttl, because: ValidationReason::Expired }
}

#[test]
fn the_first_of_s_maxage_max_age_and_expires_gives_the_lifetime() {
    let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let in_a_minute = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
    let control = |value| ("cache-control", value);
    assert_eq!(
        lifetime(&[control("max-age=5, s-maxage=9"), date, in_a_minute]),
        Some((9, LifetimeSource::SMaxage))
    );
    assert_eq!(lifetime(&[control("max-age=5"), date, in_a_minute]), Some((5, LifetimeSource::MaxAge)));
    assert_eq!(lifetime(&[control("public"), date, in_a_minute]), Some((60, LifetimeSource::Expires)));
    assert_eq!(lifetime(&[control("public"), date]), None);
    // RFC 9213 §2.2
    assert_eq!(lifetime(&[("cdn-cache-control", "public"), control("max-age=5"), date, in_a_minute]), None);
}

#[test]
fn a_heuristic_lifetime_is_a_tenth_of_the_time_unchanged_and_at_most_a_day() {
    let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let modified = |value| ("last-modified", value);
    let rows: [(Fields<'_>, Option<u64>); 10] = [
        (&[date, modified("Sun, 06 Nov 1994 08:48:37 GMT")], Some(6)),
        (&[date, modified("Sunday, 06-Nov-94 08:48:37 GMT")], Some(6)),
        (&[modified("Sun, 06 Nov 1994 08:48:37 GMT")], Some(6)),
        (&[("date", "x"), modified("Sun, 06 Nov 1994 08:48:37 GMT")], Some(6)),
        (&[date, modified("Sun, 06 Nov 1994 08:49:18 GMT")], Some(1)),
        (&[date, modified("Sun, 06 Nov 1994 08:49:28 GMT")], None),
        (&[date, modified("Sun, 06 Nov 1994 08:49:38 GMT")], None),
        (&[date, modified("Wed, 01 Jan 1975 00:00:00 GMT")], Some(86_400)),
        (&[date, modified("yesterday")], None),
        (&[date], None),
    ];
    for (headers, expected) in rows {
        let found = heuristic_lifetime(&fields(headers), at(NOW));
        assert_eq!(found.map(|lifetime| lifetime.as_secs()), expected, "{headers:?}");
    }
}

#[test]
fn expires_is_measured_from_date_and_is_past_when_invalid() {
    let expires = |value| Some((value, LifetimeSource::Expires));
    let in_a_minute = "Sun, 06 Nov 1994 08:50:37 GMT";
    let rows: [(Fields<'_>, u64); 9] = [
        (&[("expires", in_a_minute)], 60),
        (&[("expires", in_a_minute), ("date", "Sun, 06 Nov 1994 08:50:07 GMT")], 30),
        (&[("expires", in_a_minute), ("date", "yesterday")], 60),
        (&[("expires", in_a_minute), ("date", "Sun, 06 Nov 1994 08:51:37 GMT")], 0),
        (&[("expires", in_a_minute), ("expires", in_a_minute)], 60),
        (&[("expires", in_a_minute), ("expires", "Sun, 06 Nov 1994 08:59:37 GMT")], 0),
        (&[("expires", "0")], 0),
        (&[("expires", "")], 0),
        (&[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], MAX_SECONDS),
    ];
    for (headers, expected) in rows {
        assert_eq!(lifetime(headers), expires(expected), "{headers:?}");
    }
}

#[test]
fn invalid_freshness_is_stale_even_beside_a_valid_one() {
    assert_eq!(lifetime(&[("cache-control", "s-maxage=x, max-age=60")]), Some((0, LifetimeSource::SMaxage)));
    assert_eq!(lifetime(&[("cache-control", "max-age=60, max-age=x")]), Some((0, LifetimeSource::MaxAge)));
}

#[test]
fn age_begins_with_the_older_of_age_and_date() {
    let date = ("date", "Sun, 06 Nov 1994 08:49:27 GMT");
    let future = ("date", "Sun, 06 Nov 1994 09:49:27 GMT");
    // Sent two seconds before it was received.
    let rows: [(Fields<'_>, u64); 12] = [
        (&[], 2),
        (&[date], 10),
        (&[future], 2),
        (&[date, ("age", "3")], 10),
        (&[date, ("age", "9")], 11),
        (&[("age", "5, 100")], 7),
        (&[("age", "5"), ("age", "100")], 7),
        (&[("age", "x, 100")], 2),
        (&[("age", "-5")], 2),
        (&[("age", "1.5")], 2),
        (&[("age", "")], 2),
        (&[("age", "99999999999999999999")], MAX_SECONDS),
    ];
    for (headers, expected) in rows {
        assert_eq!(initial_age(&fields(headers), at(NOW - 2), at(NOW)), seconds(expected), "{headers:?}");
    }
}

#[test]
fn a_response_is_fresh_until_its_age_reaches_its_lifetime() {
    let freshness = Freshness { initial_age: seconds(10).into(), ..plain(60) };
    let rows =
        [(0, Reuse::Fresh { ttl: 50 }), (49, Reuse::Fresh { ttl: 1 }), (50, expired(-1)), (59, expired(-10))];
    for (elapsed, expected) in rows {
        assert_eq!(reuse(&freshness, at(NOW + elapsed)), expected, "after {elapsed} s");
    }
    let last_moment = at(NOW + 49) + Duration::from_millis(999);
    assert_eq!(reuse(&freshness, last_moment), Reuse::Fresh { ttl: 1 });
    assert_eq!(freshness.age(last_moment), Duration::from_millis(59_999));
}

#[test]
fn a_clock_that_goes_backwards_adds_no_age() {
    let freshness = Freshness { initial_age: seconds(10).into(), ..plain(60) };
    assert_eq!(freshness.age(at(NOW - 1000)), seconds(10));
    assert_eq!(freshness.age(UNIX_EPOCH), seconds(10));
}

#[test]
fn rfc_5861_examples() {
    // §3.1: max-age=600, stale-while-revalidate=30
    let revalidating = Freshness { stale_while_revalidate: seconds(30).into(), ..plain(600) };
    assert_eq!(reuse(&revalidating, at(NOW + 599)), Reuse::Fresh { ttl: 1 });
    assert_eq!(reuse(&revalidating, at(NOW + 600)), Reuse::StaleWhileRevalidate { ttl: -1 });
    assert_eq!(reuse(&revalidating, at(NOW + 629)), Reuse::StaleWhileRevalidate { ttl: -30 });
    assert_eq!(reuse(&revalidating, at(NOW + 630)), expired(-31));
    // §4.1: max-age=600, stale-if-error=1200
    let on_error = Freshness { stale_if_error: seconds(1200).into(), ..plain(600) };
    assert_eq!(reuse(&on_error, at(NOW + 900)), expired(-301));
    assert!(is_usable_after_error(&on_error, at(NOW + 900)));
    assert!(!is_usable_after_error(&on_error, at(NOW + 1801)));
}

#[test]
fn staleness_is_never_served_against_the_origins_will() {
    let generous = Freshness {
        stale_while_revalidate: seconds(99).into(),
        stale_if_error: seconds(99).into(),
        stale_if_unreachable: seconds(99).into(),
        ..plain(60)
    };
    let never_stale = Freshness { never_stale: true, ..generous };
    assert_eq!(reuse(&never_stale, at(NOW + 59)), Reuse::Fresh { ttl: 1 });
    assert_eq!(
        reuse(&never_stale, at(NOW + 60)),
        Reuse::Validate { ttl: -1, because: ValidationReason::MustRevalidate }
    );
    assert!(is_usable_after_error(&never_stale, at(NOW + 59)));
    assert!(!is_usable_after_error(&never_stale, at(NOW + 60)));
    let always_validate = Freshness { always_validate: true, ..generous };
    assert_eq!(reuse(&always_validate, at(NOW)), Reuse::Validate { ttl: 60, because: ValidationReason::NoCache });
    assert!(!is_usable_after_error(&always_validate, at(NOW)));
}

fn asks(control: &str) -> Demands {
    Demands::of(&fields(&[("cache-control", control)]), crate::http::ClientDirectives::All)
}

#[test]
fn a_request_may_ask_for_fresher_or_take_staler() {
    let plain = plain(60);
    let revalidating = Freshness { stale_while_revalidate: seconds(30).into(), ..plain };
    let never_stale = Freshness { never_stale: true, ..revalidating };
    let validate = |ttl, because| Reuse::Validate { ttl, because };
    let rows = [
        (plain, 0, "no-cache", validate(60, ValidationReason::RequestNoCache)),
        (plain, 9, "max-age=9", Reuse::Fresh { ttl: 51 }),
        (plain, 10, "max-age=9", validate(50, ValidationReason::RequestMaxAge)),
        (plain, 10, "max-age=9, max-stale=5", Reuse::Fresh { ttl: 50 }),
        (plain, 10, "max-age=9, max-stale", Reuse::Fresh { ttl: 50 }),
        (plain, 15, "max-age=9, max-stale=5", validate(45, ValidationReason::RequestMaxAge)),
        (plain, 40, "min-fresh=20", Reuse::Fresh { ttl: 20 }),
        (plain, 41, "min-fresh=20", validate(19, ValidationReason::RequestMinFresh)),
        (plain, 61, "min-fresh=0", validate(-2, ValidationReason::RequestMinFresh)),
        (plain, 60, "max-stale=0", expired(-1)),
        (plain, 64, "max-stale=5", Reuse::Stale { ttl: -5 }),
        (plain, 65, "max-stale=5", expired(-6)),
        (plain, 100_000, "max-stale", Reuse::Stale { ttl: -99_941 }),
        (plain, 64, "max-stale=5, min-fresh=1", validate(-5, ValidationReason::RequestMinFresh)),
        (plain, 64, "max-age=99, max-stale=5", Reuse::Stale { ttl: -5 }),
        (revalidating, 64, "max-stale=5", Reuse::StaleWhileRevalidate { ttl: -5 }),
        (revalidating, 70, "max-stale=5", Reuse::StaleWhileRevalidate { ttl: -11 }),
        (revalidating, 70, "max-age=99", validate(-11, ValidationReason::RequestMaxAge)),
        (revalidating, 64, "max-age=99, max-stale=5", Reuse::StaleWhileRevalidate { ttl: -5 }),
        (revalidating, 70, "max-age=99, max-stale=5", validate(-11, ValidationReason::RequestMaxAge)),
        (revalidating, 70, "min-fresh=1", validate(-11, ValidationReason::RequestMinFresh)),
        (revalidating, 95, "max-age=999", expired(-36)),
        (never_stale, 61, "max-stale", validate(-2, ValidationReason::MustRevalidate)),
        (Freshness { always_validate: true, ..plain }, 1, "max-stale", validate(59, ValidationReason::NoCache)),
    ];
    for (freshness, elapsed, control, expected) in rows {
        let reuse = freshness.reuse(at(NOW + elapsed), &asks(control));
        assert_eq!(reuse, expected, "{control} after {elapsed} s");
    }
    let just_over = at(NOW + 9) + Duration::from_millis(1);
    assert_eq!(plain.reuse(just_over, &asks("max-age=9")), validate(51, ValidationReason::RequestMaxAge));
}

#[test]
fn a_failure_is_covered_as_far_as_upstream_and_the_request_allow() {
    let plain = plain(60);
    let granted =
        Freshness { stale_if_error: seconds(10).into(), stale_if_unreachable: seconds(100).into(), ..plain };
    let generous = Freshness { stale_if_error: seconds(200).into(), ..granted };
    let never_stale = Freshness { never_stale: true, ..granted };
    let rows = [
        (plain, 59, "", true, true),
        (plain, 61, "", false, false),
        (granted, 69, "", true, true),
        (granted, 70, "", false, true),
        (granted, 160, "", false, false),
        (generous, 200, "", true, true),
        (plain, 69, "stale-if-error=10", true, true),
        (plain, 70, "stale-if-error=10", false, false),
        (granted, 75, "stale-if-error=1", false, true),
        (granted, 65, "no-cache", false, false),
        (granted, 65, "max-age=9", false, false),
        (granted, 65, "max-age=99", false, false),
        (granted, 65, "max-age=99, max-stale=9", true, true),
        (granted, 65, "min-fresh=1", false, false),
        (granted, 65, "no-cache, max-age=0, stale-if-error=9", true, true),
        (never_stale, 61, "stale-if-error=99, max-stale", false, false),
        (Freshness { always_validate: true, ..granted }, 1, "stale-if-error=99", false, false),
    ];
    for (freshness, elapsed, control, on_status, on_no_answer) in rows {
        let usable = |period| freshness.is_usable_after_failure(period, at(NOW + elapsed), &asks(control));
        let unreachable = freshness.stale_if_error.max(freshness.stale_if_unreachable);
        let found = (usable(freshness.stale_if_error.into()), usable(unreachable.into()));
        assert_eq!(found, (on_status, on_no_answer), "{control} after {elapsed} s");
    }
}

#[test]
fn every_cause_has_its_own_token_and_a_section() {
    let all = [
        ValidationReason::NoCache,
        ValidationReason::Expired,
        ValidationReason::MustRevalidate,
        ValidationReason::RequestNoCache,
        ValidationReason::RequestMaxAge,
        ValidationReason::RequestMinFresh,
    ];
    let tokens: std::collections::HashSet<_> = all.iter().map(|because| because.token()).collect();
    assert_eq!(tokens.len(), all.len());
    assert!(all.iter().all(|because| because.explanation().contains('§')));
}

#[test]
fn entries_are_stored_while_useful() {
    let swr =
        Freshness { stale_while_revalidate: seconds(30).into(), stale_if_error: seconds(90).into(), ..plain(60) };
    assert_eq!(swr.keep_for(at(NOW), false), seconds(150));
    assert_eq!(swr.keep_for(at(NOW + 100), false), seconds(50));
    assert_eq!(swr.keep_for(at(NOW + 1000), false), seconds(1));
    assert_eq!(swr.keep_for(at(NOW), true), seconds(150 + 600));
    assert_eq!(plain(1800).keep_for(at(NOW), true), seconds(3600));
    assert_eq!(plain(86_400).keep_for(at(NOW), true), seconds(86_400 + 3600));
    assert_eq!(plain(0).keep_for(at(NOW), false), seconds(1));
}

/// RFC 9111 §4.2 literally and slowly: on texts, and on integers that cannot overflow.
mod oracle {
    pub struct OracleInput<'a> {
        pub cache_control: &'a [(String, Option<String>)],
        pub expires: Option<i128>,
        pub date: Option<i128>,
        pub age: Option<i128>,
        pub request_time: i128,
        pub response_time: i128,
    }

    fn value(message: &OracleInput<'_>, directive: &str) -> Option<i128> {
        let all = message.cache_control.iter().filter(|(name, _)| name.eq_ignore_ascii_case(directive));
        all.map(|(_, argument)| argument.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0)).min()
    }

    pub fn freshness_lifetime(message: &OracleInput<'_>) -> Option<i128> {
        let lifetime = match (value(message, "s-maxage"), value(message, "max-age"), message.expires) {
            (Some(s_maxage), _, _) => s_maxage,
            (None, Some(max_age), _) => max_age,
            (None, None, Some(expires)) => expires - message.date.unwrap_or(message.response_time),
            (None, None, None) => return None,
        };
        Some(lifetime.clamp(0, 1 << 31))
    }

    pub fn current_age(message: &OracleInput<'_>, now: i128) -> i128 {
        let date_value = message.date.unwrap_or(message.response_time);
        let apparent_age = (message.response_time - date_value).max(0);
        let response_delay = message.response_time - message.request_time;
        let corrected_age_value = message.age.unwrap_or(0) + response_delay;
        let corrected_initial_age = apparent_age.max(corrected_age_value);
        let resident_time = now - message.response_time;
        corrected_initial_age + resident_time
    }

    pub fn response_is_fresh(message: &OracleInput<'_>, now: i128) -> Option<bool> {
        Some(freshness_lifetime(message)? > current_age(message, now))
    }
}

fn directive() -> impl Strategy<Value = (String, Option<String>)> {
    let name = prop_oneof!["[mM]ax-[aA]ge", "s-maxage", "S-MaxAge", "public", "x-[a-z]"];
    let argument = prop_oneof!["[0-9]{1,5}", "[0-9]{1,5}", "[0-9]{11}", "[a-z]{1,3}", "[0-9]\\.[0-9]"];
    (name, proptest::option::of(argument))
}

fn header_map(message: &oracle::OracleInput<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, argument) in message.cache_control {
        let line = argument.as_ref().map_or(name.clone(), |argument| format!("{name}={argument}"));
        headers.append("cache-control", HeaderValue::from_str(&line).unwrap());
    }
    for (name, time) in [("expires", message.expires), ("date", message.date)] {
        if let Some(time) = time {
            let text = httpdate::fmt_http_date(at(u64::try_from(time).unwrap()));
            headers.insert(name, HeaderValue::from_str(&text).unwrap());
        }
    }
    if let Some(age) = message.age {
        headers.insert("age", HeaderValue::from_str(&age.to_string()).unwrap());
    }
    headers
}

fn any_freshness() -> impl Strategy<Value = Freshness> {
    let duration = || prop_oneof![0u64..200, 0u64..200, Just(MAX_SECONDS), Just(u64::MAX)].prop_map(seconds);
    (duration(), duration(), duration(), duration(), any::<(bool, bool)>()).prop_map(
        |(initial_age, lifetime, stale_while_revalidate, stale_if_error, (always_validate, never_stale))| {
            Freshness {
                initial_age: initial_age.into(),
                lifetime: lifetime.into(),
                always_validate,
                never_stale,
                stale_while_revalidate: stale_while_revalidate.into(),
                stale_if_error: stale_if_error.into(),
                ..plain(0)
            }
        },
    )
}

fn rank(reuse: Reuse) -> u8 {
    match reuse {
        Reuse::Fresh { .. } => 0,
        Reuse::StaleWhileRevalidate { .. } => 1,
        Reuse::Stale { .. } | Reuse::SoftInvalidated { .. } => 2,
        Reuse::Validate { .. } => 3,
    }
}

proptest! {
    #[test]
    fn decisions_agree_with_the_literal_rfc(
        cache_control in proptest::collection::vec(directive(), 0..4),
        expires in proptest::option::of(-5000i128..5000),
        date in proptest::option::of(-5000i128..5000),
        age in proptest::option::of(0i128..5000),
        delay in 0i128..50,
        elapsed in 0i128..6000,
    ) {
        let response_time = i128::from(NOW);
        let message = oracle::OracleInput {
            cache_control: &cache_control,
            expires: expires.map(|offset| response_time + offset),
            date: date.map(|offset| response_time + offset),
            age,
            request_time: response_time - delay,
            response_time,
        };
        let headers = header_map(&message);
        let (sent, came) = (at(NOW - delay as u64), at(NOW));
        let stated = explicit_lifetime(&effective(&headers), &headers, came).map(|(lifetime, _)| lifetime);
        prop_assert_eq!(stated.map(|lifetime| i128::from(lifetime.as_secs())), oracle::freshness_lifetime(&message));
        let freshness = Freshness {
            initial_age: initial_age(&headers, sent, came).into(),
            lifetime: stated.unwrap_or_default().into(),
            ..plain(0)
        };
        let now = at(NOW + elapsed as u64);
        prop_assert_eq!(
            i128::from(freshness.age(now).as_secs()), oracle::current_age(&message, response_time + elapsed)
        );
        let is_fresh = matches!(reuse(&freshness, now), Reuse::Fresh { .. });
        prop_assert_eq!(
            is_fresh, oracle::response_is_fresh(&message, response_time + elapsed).unwrap_or(false)
        );
    }

    #[test]
    fn usability_only_decreases_with_time(freshness in any_freshness(), earlier in 0u64..1000, millis in 0u64..100_000) {
        let (before, after) = (at(NOW + earlier), at(NOW + earlier) + Duration::from_millis(millis));
        prop_assert!(rank(reuse(&freshness, before)) <= rank(reuse(&freshness, after)));
        prop_assert!(freshness.ttl(before) >= freshness.ttl(after));
        prop_assert!(is_usable_after_error(&freshness, before) >= is_usable_after_error(&freshness, after));
        prop_assert!(freshness.keep_for(before, true) >= freshness.keep_for(after, true));
    }

    #[test]
    fn servable_entries_are_stored(freshness in any_freshness(), elapsed in 0u64..1000) {
        let now = at(NOW + elapsed);
        let keep = freshness.keep_for(at(NOW), false);
        if rank(reuse(&freshness, now)) < 3 || is_usable_after_error(&freshness, now) {
            prop_assert!(keep > seconds(elapsed));
        }
        prop_assert!(keep >= SHORTEST_KEEP);
    }

    #[test]
    fn any_bytes_give_some_age_and_lifetime(
        value in proptest::collection::vec(32u8..=255, 0..30), elapsed in any::<u32>(),
    ) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let names = [AGE, DATE, EXPIRES, LAST_MODIFIED, http::header::CACHE_CONTROL];
            let headers: HeaderMap = names.into_iter().map(|name| (name, value.clone())).collect();
            let came = at(u64::from(elapsed));
            prop_assert!(initial_age(&headers, at(0), came).as_secs() <= MAX_SECONDS);
            let _ = explicit_lifetime(&effective(&headers), &headers, came);
            let _ = heuristic_lifetime(&headers, came);
        }
    }
}

#[test]
fn a_soft_invalidated_response_counts_as_stale() {
    let demands = |max_age: Option<u64>, max_stale: Option<u64>, min_fresh: Option<u64>| Demands {
        max_age: max_age.map(seconds),
        max_stale: max_stale.map(seconds),
        min_fresh: min_fresh.map(seconds),
        ..Demands::default()
    };
    let nothing = Demands::default();
    let validate = |ttl, because| Reuse::Validate { ttl, because };
    let (never_stale, always_validate) = (true, true);
    let rows: [(Freshness, Demands, u64, Reuse); 11] = [
        (plain(60), nothing, 20, Reuse::SoftInvalidated { ttl: 40 }),
        (plain(60), nothing, 70, expired(-11)),
        (
            Freshness { stale_while_revalidate: seconds(30).into(), ..plain(60) },
            nothing,
            70,
            Reuse::SoftInvalidated { ttl: -11 },
        ),
        (plain(60), demands(None, Some(30), None), 70, Reuse::SoftInvalidated { ttl: -11 }),
        // §5.2.2.2, §5.2.2.8, §5.2.2.10
        (Freshness { never_stale, ..plain(60) }, nothing, 20, validate(40, ValidationReason::MustRevalidate)),
        // §5.2.2.4
        (Freshness { always_validate, ..plain(60) }, nothing, 20, validate(40, ValidationReason::NoCache)),
        // §5.2.1.4
        (plain(60), Demands { validated: true, ..nothing }, 20, validate(40, ValidationReason::RequestNoCache)),
        // §5.2.1.1
        (plain(60), demands(Some(10), None, None), 20, validate(40, ValidationReason::RequestMaxAge)),
        (plain(60), demands(Some(50), None, None), 20, validate(40, ValidationReason::RequestMaxAge)),
        (plain(60), demands(Some(50), Some(5), None), 20, Reuse::SoftInvalidated { ttl: 40 }),
        // §5.2.1.3
        (plain(60), demands(None, None, Some(10)), 20, validate(40, ValidationReason::RequestMinFresh)),
    ];
    for (freshness, demands, later, expected) in rows {
        let found = freshness.reuse_soft_invalidated(at(NOW + later), &demands);
        assert_eq!(found, expected, "{freshness:?} {demands:?} after {later} s");
    }
}
