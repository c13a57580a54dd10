//! Compares Larder's verdicts with the model's, over generated exchanges.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::cases::{Case, at, case};
use super::{Contract, Exchange, Lines, Permitted, Situation};
use crate::http::demands::Demands;
use crate::http::freshness::{Freshness, LifetimeSource, Reuse, ValidationReason};
use crate::http::negative_ttl::NegativeTtl;
use crate::http::storable::{Received, RequestFacts, Storable, storable};
use crate::http::{ClientDirectives, Policy};

fn headers(lines: &Lines) -> HeaderMap {
    let pair = |(name, value): &(String, String)| {
        (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
    };
    lines.iter().map(pair).collect()
}

fn policy(contract: &Contract) -> Policy {
    let seconds = |seconds: i128| Duration::from_secs(u64::try_from(seconds).unwrap());
    Policy {
        ttl: contract.ttl.map(seconds),
        negative_ttl: contract.ttl.map(seconds).map(NegativeTtl::of_missing).unwrap_or_default(),
        heuristic: contract.heuristic,
        stale_while_revalidate: contract.stale_while_revalidate.map(seconds),
        stale_if_error: contract.stale_if_error.map(seconds),
        stale_if_unreachable: seconds(contract.stale_if_unreachable),
        ..Policy::default()
    }
}

fn verdict(case: &Case) -> Storable {
    let Exchange { request, status, response, request_time, response_time } = &case.exchange;
    let (request, response) = (headers(request), headers(response));
    let facts = RequestFacts {
        authorization: request.contains_key("authorization"),
        cookie: request.contains_key("cookie"),
        other_credentials: false,
        no_store: Demands::of(&request, ClientDirectives::All).no_store,
        rate: None,
    };
    let received = Received {
        status: StatusCode::from_u16(*status).unwrap(),
        headers: &response,
        is_close_delimited: false,
        request_time: at(*request_time),
        response_time: at(*response_time),
    };
    storable(facts, received, &policy(&case.contract))
}

/// How often each verdict occurred.
type Tally = BTreeMap<String, usize>;

fn count(tally: &mut Tally, what: &str) {
    *tally.entry(what.to_owned()).or_default() += 1;
}

/// Compares the model with the implementation, and counts the verdicts.
fn compare(case: &Case, tally: &mut Tally) -> Result<(), String> {
    let permission = case.exchange.may_store();
    count(tally, permission.err().unwrap_or("may be stored"));
    match verdict(case) {
        Storable::No(reason) => count(tally, reason.token()),
        Storable::Yes { freshness, withheld, .. } => {
            count(tally, "stored");
            permission.map_err(|why| format!("stored against {why}"))?;
            let (exchange, response) = (&case.exchange, headers(&case.exchange.response));
            let is_kept = |name: &String| {
                response.contains_key(name) && !withheld.iter().any(|field| field == name.as_str())
            };
            if exchange.private_fields().iter().any(is_kept) {
                return Err("a private field is stored".to_owned());
            }
            if exchange.no_cache_fields().iter().any(is_kept) && !freshness.always_validate {
                return Err("a no-cache field is reused".to_owned());
            }
            count(tally, if withheld.is_empty() { "nothing withheld" } else { "fields withheld" });
            compare_reuse(case, &freshness, tally)?;
        }
    }
    Ok(())
}

fn compare_reuse(case: &Case, freshness: &Freshness, tally: &mut Tally) -> Result<(), String> {
    let Case { exchange, contract, request, elapsed } = case;
    let demands = Demands::of(&headers(request), ClientDirectives::All);
    let now = freshness.response_time.time() + Duration::from_millis(*elapsed);
    let seconds = exchange.response_time + i128::from(elapsed / 1000);
    let permission = |situation| exchange.may_serve(contract, request, seconds, situation);
    let untried = permission(Situation::Untried);
    count(
        tally,
        untried.map_or_else(
            |why| why,
            |permitted| match permitted {
                Permitted::Fresh => "may be served fresh",
                Permitted::Stale => "may be served stale",
            },
        ),
    );
    count(tally, freshness.source.explanation());
    match freshness.reuse(now, &demands) {
        Reuse::Fresh { .. } if untried != Ok(Permitted::Fresh) => {
            return Err(format!("served as fresh: {untried:?}"));
        }
        Reuse::StaleWhileRevalidate { .. } | Reuse::Stale { .. } if untried.is_err() => {
            return Err(format!("served stale: {untried:?}"));
        }
        Reuse::SoftInvalidated { .. } => {
            return Err("soft-invalidated, and no write has invalidated it".to_owned());
        }
        Reuse::Fresh { .. } => count(tally, "fresh"),
        Reuse::StaleWhileRevalidate { .. } => count(tally, "stale-while-revalidate"),
        Reuse::Stale { .. } => count(tally, "stale"),
        Reuse::Validate { because: ValidationReason::RequestMaxAge, ttl }
            if ttl < 0 && demands.max_age >= Some(freshness.age(now)) =>
        {
            count(tally, "stale, young enough, and refused by max-age");
        }
        Reuse::Validate { because, .. } => count(tally, because.token()),
    }
    for (period, situation) in [
        (freshness.stale_if_error, Situation::Erring),
        (freshness.stale_if_error.max(freshness.stale_if_unreachable), Situation::Disconnected),
    ] {
        let permitted = permission(situation);
        let used = freshness.is_usable_after_failure(period.into(), now, &demands);
        count(tally, &format!("{situation:?}: used {used}, permitted {}", permitted.is_ok()));
        if used && permitted.is_err() {
            return Err(format!("used while {situation:?}: {permitted:?}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn nothing_is_stored_or_served_that_the_rfc_forbids(case in case()) {
        if let Err(fault) = compare(&case, &mut Tally::new()) {
            prop_assert!(false, "{fault}");
        }
    }
}

/// Enough cases for the rarest verdict to occur several times.
const CASES: usize = 10_000;

/// The generator reaches every verdict of both, so that the property above covers all of them.
#[test]
fn every_verdict_occurs() {
    let mut runner = TestRunner::deterministic();
    let (case, mut tally) = (case(), Tally::new());
    for _ in 0..CASES {
        let case = case.new_tree(&mut runner).unwrap().current();
        compare(&case, &mut tally).unwrap_or_else(|fault| panic!("{fault}: {case:#?}"));
    }
    let expected = [
        // Larder's verdict on storing,
        "stored",
        "fields withheld",
        "nothing withheld",
        "request-no-store",
        "no-store",
        "private",
        "event-stream",
        "set-cookie",
        "authorization",
        "cookie",
        "vary-star",
        "status",
        "content-range",
        "no-lifetime",
        "stale-at-once",
        // its source of the lifetime,
        LifetimeSource::SMaxage.explanation(),
        LifetimeSource::MaxAge.explanation(),
        LifetimeSource::Expires.explanation(),
        LifetimeSource::FamilyTtl.explanation(),
        LifetimeSource::NegativeTtl.explanation(),
        LifetimeSource::Heuristic.explanation(),
        LifetimeSource::None.explanation(),
        // and its use of the stored response.
        "fresh",
        "stale-while-revalidate",
        "stale",
        "no-cache",
        "expired",
        "must-revalidate",
        "request-no-cache",
        "request-max-age",
        "stale, young enough, and refused by max-age",
        "request-min-fresh",
        "Erring: used true, permitted true",
        "Erring: used false, permitted true",
        "Erring: used false, permitted false",
        "Disconnected: used true, permitted true",
        "Disconnected: used false, permitted true",
        "Disconnected: used false, permitted false",
        // The model's verdict.
        "may be stored",
        "Cache-Control cannot be read",
        "§5.2.1.5: request no-store",
        "§3: the status is not final",
        "§3: 206 and 304 are not understood",
        "RFC 6585: never stored",
        "RFC 9110 §15.5: caused by one request",
        "RFC 9110 §14.4: a part",
        "§3: must-understand",
        "§3: no-store",
        "§3: private",
        "§3.5: Authorization",
        "§3: nothing allows it",
        "may be served fresh",
        "may be served stale",
        "§4: no-cache",
        "§4.2: no lifetime",
        "§5.2.1.4: request no-cache",
        "§5.2.1.1: older than max-age",
        "§5.2.1.1: max-age without max-stale",
        "§5.2.1.3: not fresh for min-fresh",
        "§4.2.4: prohibited by a directive",
        "§4.2.4: nothing permits it",
        "§4.2.4: too stale",
    ];
    let missing: Vec<_> = expected.iter().filter(|verdict| !tally.contains_key(**verdict)).collect();
    assert!(missing.is_empty(), "never: {missing:?}; of {tally:#?}");
    let unknown: Vec<_> = tally.keys().filter(|verdict| !expected.contains(&verdict.as_str())).collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
}
