#![no_main]
//! `Cache-Control` of requests and responses, on one line or many, and the same text in the fields that are targeted at
//! caches (RFC 9213). A response that forbids something still forbids it with a line more, and what a request demands
//! it still demands.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue};
use larder::http::ClientDirectives;
use larder::http::cache_control::{RequestDirectives, ResponseDirectives};
use larder::http::demands::Demands;
use larder::http::targeted::{self, Authority, LARDER_CACHE_CONTROL, effective};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    general(larder_fuzz::lines(&CACHE_CONTROL, text));
    of_larder(text);
    of_surrogates(larder_fuzz::lines(&HeaderName::from_static("surrogate-control"), text));
});

fn general(mut headers: HeaderMap) {
    let (response, request) = (ResponseDirectives::parse(&headers), RequestDirectives::parse(&headers));
    let _ = Demands::of(&headers, ClientDirectives::All);
    assert_eq!(effective(&headers).directives, response);
    headers.append(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    assert_no_looser(&response, &ResponseDirectives::parse(&headers));
    let longer = RequestDirectives::parse(&headers);
    assert!((longer.no_store || !request.no_store) && (longer.no_cache || !request.no_cache));
}

/// Structured fields: of two members with one name the last one counts, as RFC 9651 has it, so that a line more may
/// well allow a longer lifetime. The text says the same in either field.
fn of_larder(text: &[u8]) {
    let cdn = HeaderName::from_static("cdn-cache-control");
    let mut headers = larder_fuzz::lines(&cdn, text);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=7"));
    let for_cdns = effective(&headers);
    if for_cdns.authority == Authority::General {
        assert_eq!(for_cdns.directives.max_age, Some(7));
    }
    headers.extend(larder_fuzz::lines(&LARDER_CACHE_CONTROL, text));
    let for_larder = effective(&headers);
    assert_eq!(for_larder.directives, for_cdns.directives);
    if for_larder.authority == Authority::Larder {
        headers.append(&LARDER_CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let longer = effective(&headers);
        assert!(longer.authority == Authority::Larder && longer.directives.no_store);
        assert!(longer.directives.must_revalidate || !for_larder.directives.must_revalidate);
    }
    targeted::strip_consumed(&mut headers);
    assert!(!targeted::has_consumed(&headers));
}

fn of_surrogates(mut headers: HeaderMap) {
    let found = effective(&headers);
    headers.append("surrogate-control", HeaderValue::from_static("max-age=60+30"));
    let longer = effective(&headers);
    assert_eq!(longer.authority, Authority::Surrogate);
    if found.authority == Authority::Surrogate {
        assert_no_looser(&found.directives, &longer.directives);
    }
}

fn assert_no_looser(shorter: &ResponseDirectives, longer: &ResponseDirectives) {
    assert!(longer.no_store || !shorter.no_store);
    assert!(longer.must_revalidate || !shorter.must_revalidate);
    assert!(shorter.max_age.is_none_or(|age| longer.max_age.is_some_and(|longer| longer <= age)));
}
