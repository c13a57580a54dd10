#![no_main]
//! The other fields that are read from both sides: the input is one header section, taken for a request's and for a
//! response's. Normal forms are their own normal forms; groups and lists of names are sorted and unlike.

use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use larder::http::headers;
use larder::http::freshness;
use larder::http::vary::Vary;
use larder::http::{groups, negotiation, validation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let message = larder_fuzz::fields(text);
    let mut normal = message.clone();
    for name in message.keys() {
        negotiation::normalise(name, &mut normal);
        let once = normal[name].clone();
        negotiation::normalise(name, &mut normal);
        assert_eq!(normal[name], once);
    }
    let names = groups::named(&message).unwrap_or_default();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
    let _ = groups::invalidated(&message);
    if let Vary::On(names) = Vary::parse(&message) {
        assert!(names.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
    }
    validate(&message, &normal);
    let time = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let _ = freshness::initial_age(&message, time, time);
    let mut stripped = message.clone();
    headers::strip_hop_by_hop(&mut stripped);
    assert!(!stripped.contains_key("connection"));
});

fn validate(message: &http::HeaderMap, other: &http::HeaderMap) {
    let _ = validation::evaluate(message, StatusCode::OK, other);
    let _ = (validation::selects(message, other), validation::head_verdict(message, other, 5));
    let _ = validation::freshen(message, other);
    let mut request = message.clone();
    validation::make_conditional(&mut request, other);
}
