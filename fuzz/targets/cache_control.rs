#![no_main]
//! `Cache-Control` of requests and responses, on one line or many. A response that forbids something still forbids it
//! with a line more, and what a request demands it still demands.

use http::HeaderValue;
use http::header::CACHE_CONTROL;
use larder::semantics::ClientDirectives;
use larder::semantics::cache_control::{RequestDirectives, ResponseDirectives};
use larder::semantics::demands::Demands;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let mut headers = larder_fuzz::lines(&CACHE_CONTROL, text);
    let (response, request) = (ResponseDirectives::parse(&headers), RequestDirectives::parse(&headers));
    let _ = Demands::of(&headers, ClientDirectives::All);
    headers.append(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    let longer = ResponseDirectives::parse(&headers);
    assert!(longer.no_store || !response.no_store);
    assert!(longer.must_revalidate || !response.must_revalidate);
    assert!(response.max_age.is_none_or(|age| longer.max_age.is_some_and(|longer| longer <= age)));
    let longer = RequestDirectives::parse(&headers);
    assert!((longer.no_store || !request.no_store) && (longer.no_cache || !request.no_cache));
});
