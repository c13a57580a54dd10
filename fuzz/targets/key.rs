#![no_main]
//! A request's target and key: the first line is the target, the others are fields. What was normalised is its own
//! normal form, and no request can write lines into its canonical text.

use http::{HeaderName, Uri};
use larder::http::headers::ForwardedPolicy;
use larder::key::{self, FamilyKeySpec, Identity, KeySpec, QueryKeySpec};
use larder::http::target::{self, PathCase, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let (line, rest) = larder_fuzz::first_line(text);
    if let Ok(path) = str::from_utf8(line) {
        let once = target::normalise(path).into_owned();
        assert_eq!(target::normalise(&once), once);
        assert!(once.starts_with('/') && once.is_ascii());
    }
    let headers = larder_fuzz::fields(rest);
    let Ok(uri) = Uri::try_from(line) else { return };
    let Ok(target) = Target::of("http", &uri, &headers, PathCase::Sensitive) else { return };
    assert_is_normal(&target);
    let plain = key::derive(&target, &headers, None, None);
    assert_eq!(plain.text.lines().count(), 1);
    let language = HeaderName::from_static("accept-language");
    for query in [QueryKeySpec::Keep(vec!["page".to_owned()]), QueryKeySpec::Drop(vec!["page".to_owned()])] {
        for identity in
            [Identity::Header(HeaderName::from_static("authorization")), Identity::Cookie("id".to_owned())]
        {
            let key_spec = KeySpec { query: query.clone(), headers: vec![language.clone()], identity };
            let family = FamilyKeySpec { name: "family", version: "1", key_spec: &key_spec };
            let keyed = key::derive(&target, &headers, Some(family), None);
            assert!(keyed.text.lines().count() <= 4);
            let variant = keyed.variant(std::slice::from_ref(&language), &headers);
            let _ = variant.behind(ForwardedPolicy::Append, &headers);
        }
    }
});

/// A target that is sent on is read there as it was read here.
fn assert_is_normal(target: &Target) {
    if target.path != "*" {
        let absolute = format!("http://{}{}", target.host, target.path_and_query());
        let uri = Uri::try_from(absolute).expect("a normalised target is a URI");
        assert_eq!(Target::of("http", &uri, &http::HeaderMap::new(), PathCase::Sensitive).as_ref(), Ok(target));
    }
}
