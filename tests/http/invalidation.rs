//! What writes outdate without any rule: RFC 9111 §4.4, RFC 9110 §9.2.

use crate::support::{Reply, Site, Tier};

on_both_tiers! {
    every_unsafe_method_outdates_its_target,
    a_safe_method_outdates_nothing,
}

const TARGET: &str = "/things/1";

/// Stored, and fresh for long.
#[track_caller]
fn store(site: &Site, target: &str) {
    site.upstream.on(&format!("GET {target}"), Reply::numbered().cached("max-age=600"));
    site.get(target);
    site.get(target).shows("hit");
}

#[track_caller]
fn is_outdated(site: &Site, target: &str) -> bool {
    !site.get(target).is("hit")
}

fn every_unsafe_method_outdates_its_target(tier: Tier) {
    let site = Site::start(tier, "");
    for method in ["POST", "PUT", "PATCH", "DELETE", "MKCOL", "LOCK", "FOO", "get", "Options"] {
        store(&site, TARGET);
        site.call(method, TARGET).send().shows("fwd=method").has_status(200);
        assert!(is_outdated(&site, TARGET), "{method}");
    }
}

fn a_safe_method_outdates_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    store(&site, TARGET);
    let named = Reply::new("").header("Location", TARGET).header("Content-Location", TARGET);
    for method in ["OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"] {
        site.upstream.on(&format!("{method} {TARGET}"), named.clone());
        site.call(method, TARGET).send().has_status(200);
        assert!(!is_outdated(&site, TARGET), "{method}");
    }
    for target in ["/redirect", "/other"] {
        site.upstream.on(&format!("GET {target}"), Reply::status(302).header("Location", TARGET));
        site.get(target).has_status(302);
        assert!(!is_outdated(&site, TARGET), "GET {target}");
    }
}

#[test]
fn only_a_non_error_answer_outdates() {
    let site = Site::start(Tier::Embedded, "");
    let named =
        |status| Reply::status(status).header("Location", "/things/2").header("Content-Location", "/things/2");
    for status in [200, 201, 202, 204, 205, 299, 301, 303, 307, 399] {
        store(&site, TARGET);
        store(&site, "/things/2");
        site.upstream.on(&format!("PUT {TARGET}"), named(status));
        site.write("PUT", TARGET).has_status(status);
        assert!(is_outdated(&site, TARGET) && is_outdated(&site, "/things/2"), "{status}");
    }
    store(&site, TARGET);
    store(&site, "/things/2");
    for status in [400, 401, 403, 404, 409, 412, 422, 499, 500, 503, 599] {
        site.upstream.on(&format!("PUT {TARGET}"), named(status));
        site.write("PUT", TARGET).has_status(status);
        assert!(!is_outdated(&site, TARGET) && !is_outdated(&site, "/things/2"), "{status}");
    }
}

#[test]
fn what_an_answer_names_is_outdated_on_the_same_origin_only() {
    let site = Site::start(Tier::Embedded, "");
    let named = "/things/1";
    let rows = [
        ("/things/1", true),
        ("1", true),
        ("./1", true),
        ("../things/1", true),
        ("/other/../things/%31", true),
        ("/things/1?x=1", true),
        ("/things/1#part", true),
        ("//localhost/things/1", true),
        ("http://localhost/things/1", true),
        ("HTTP://LOCALHOST:80/things/1", true),
        ("http://elsewhere.example/things/1", false),
        ("//elsewhere.example/things/1", false),
        ("http://localhost:81/things/1", false),
        ("https://localhost/things/1", false),
        ("http://localhost@elsewhere.example/things/1", false),
        ("http://localhost.elsewhere.example/things/1", false),
        ("ftp://localhost/things/1", false),
    ];
    for field in ["Location", "Content-Location"] {
        for (reference, outdates) in rows {
            store(&site, named);
            site.upstream.on("POST /things/new", Reply::status(201).header(field, reference));
            site.write("POST", "/things/new").has_status(201);
            assert_eq!(is_outdated(&site, named), outdates, "{field}: {reference}");
        }
    }
}

#[test]
fn a_write_is_answered_by_upstream_and_nobody_else() {
    let site = Site::start(Tier::Embedded, "");
    store(&site, TARGET);
    let gate = site.upstream.hold_next(&format!("POST {TARGET}"));
    let write = site.call("POST", TARGET).body("x").start();
    gate.wait_for(1);
    // It has arrived, and is not answered yet; readers go on meanwhile.
    site.get(TARGET).has_status(200);
    gate.open();
    write.response().has_status(200).carries("done");
    for _ in 0..3 {
        site.write("POST", TARGET).carries("done");
    }
    assert_eq!(site.upstream.count("POST /things/1"), 4);
}
