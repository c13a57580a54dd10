//! The response to a PUT or PATCH refreshes what is stored for its path, and never hides another write.

use super::{checked, explained};
use crate::support::client::{Call, Pending};
use crate::support::{Larder, Reply, Site, Tier, eventually};

const RULES: &str = r#"
[[family]]
name = "things"
path = '/things/(?<id>\d+)'
ttl = "600s"
write_through = true

[[family]]
name = "said"
path = '/said/.*'
ttl = "600s"

[[family]]
name = "callers"
path = '/callers/.*'
ttl = "600s"
identity = "header:authorization"
write_through = true

[[family]]
name = "until"
path = '/until/.*'
ttl = "2d"
until = "00:00 UTC"
write_through = true

[[family]]
name = "adaptive"
path = '/adaptive/.*'
ttl = "600s"
adaptive_ttl = { hot = "2x over 2/h" }
write_through = true

[invalidate]
'/things/(?<id>\d+)/rename' = ["things:{id}"]
'/things/8' = { families = ["said"], mode = "soft" }
'/things/9' = { families = ["said"], again = "1h" }
"#;

on_both_tiers! {
    the_response_to_a_put_or_patch_answers_a_get,
    a_content_location_of_the_path_says_that_it_is_the_representation,
    what_is_no_representation_is_not_stored,
    what_may_be_another_method_is_not_stored,
    a_write_with_soft_or_repeated_rules_stores_nothing,
    of_two_writes_that_overlap_the_first_answer_does_not_hide_the_second,
    of_two_writes_that_overlap_the_last_answer_does_not_hide_the_first,
    a_write_in_between_that_a_rule_maps_to_it_counts,
    a_write_in_between_to_something_else_does_not,
    a_fetch_begun_before_the_write_does_not_replace_its_answer,
    an_answer_is_for_the_same_caller_alone,
    an_answer_is_for_the_same_variant_alone,
    writes_through_two_proxies_that_overlap_store_nothing_old,
    another_proxy_serves_the_answer_until_the_next_write,
}

fn put(larder: &Larder, target: &str, body: &str) -> Call {
    larder.call("PUT", target).body(body)
}

/// A site whose upstream answers a PUT and a PATCH with the content that it has got.
fn site(tier: Tier) -> Site {
    let site = Site::start(tier, RULES);
    for target in ["/things/1", "/things/8", "/things/9", "/callers/1"] {
        for method in ["PUT", "PATCH"] {
            site.upstream.answer(&format!("{method} {target}"), |request| Reply::new(request.body.clone()));
        }
    }
    site
}

fn the_response_to_a_put_or_patch_answers_a_get(tier: Tier) {
    let site = site(tier);
    site.get("/things/1").carries("/things/1 #1");
    for (method, body) in [("PUT", "one"), ("PATCH", "two")] {
        site.call(method, "/things/1").body(body).send().shows("fwd=method; stored").carries(body);
        site.get("/things/1").shows("hit").carries(body);
    }
    site.upstream.on("PUT /things/2", Reply::with_status(201, "new").header("Location", "/things/2"));
    put(&site, "/things/2", "x").send().shows("stored").has_status(201).carries("new");
    let got = site.get("/things/2").shows("hit").has_status(200).carries("new");
    assert_eq!(got.header("location"), None);
    assert_eq!(site.upstream.count("GET /things/1") + site.upstream.count("GET /things/2"), 1);
    site.write("DELETE", "/things/1");
    site.get("/things/1").hides("hit");
    for target in ["/until/1", "/adaptive/1"] {
        // Often enough to be hot.
        (0..9).for_each(|_| drop(site.get(target)));
        site.upstream.on(&format!("PUT {target}"), Reply::new("put"));
        put(&site, target, "x").send().shows("stored");
        site.get(target).shows("hit").carries("put");
    }
}

fn a_content_location_of_the_path_says_that_it_is_the_representation(tier: Tier) {
    let site = site(tier);
    let answer = |location: &str| Reply::new("put").header("Content-Location", location);
    for (target, location, is_stored) in
        [("/said/1", "/said/1", true), ("/said/2", "/said/1", false), ("/said/3?a=1", "/said/3", false)]
    {
        site.upstream.on(&format!("PUT {target}"), answer(location));
        put(&site, target, "x").send().carries("put");
        assert_eq!(site.get(target).is("hit"), is_stored, "{target}");
    }
    // Outside families it takes an explicit lifetime too.
    site.upstream.on("PUT /free/1", answer("/free/1"));
    put(&site, "/free/1", "x").send().hides("stored");
    site.upstream.on("PATCH /free/2", answer("/free/2").cached("max-age=60"));
    site.call("PATCH", "/free/2").body("x").send().shows("stored");
    site.get("/free/2").shows("hit").carries("put");
}

fn what_is_no_representation_is_not_stored(tier: Tier) {
    let site = site(tier);
    let replies = [
        Reply::with_status(204, ""),
        Reply::with_status(202, "later"),
        Reply::new(""),
        Reply::new("").chunked(),
        Reply::new("done").header("Preference-Applied", "return=minimal"),
        Reply::new("done").header("Set-Cookie", "a=1"),
        Reply::new("done").cached("no-store"),
        Reply::new("done").cached("private"),
        Reply::new("done").header("Vary", "*"),
        Reply::with_status(400, "no"),
        Reply::new("receipt").header("Content-Location", "/receipts/1"),
    ];
    for reply in replies {
        site.upstream.on("PUT /things/1", reply);
        put(&site, "/things/1", "x").send();
        site.get("/things/1").hides("hit");
        site.write("DELETE", "/things/1");
    }
    site.upstream.on("PUT /things/1", Reply::new("part"));
    put(&site, "/things/1", "x").header("Content-Range", "bytes 0-0/9").send().hides("stored");
    // A POST to the path is another matter.
    site.upstream.on("POST /things/1", Reply::new("posted"));
    site.write("POST", "/things/1").hides("stored");
    site.get("/things/1").hides("hit");
}

fn what_may_be_another_method_is_not_stored(tier: Tier) {
    let site = site(tier);
    put(&site, "/things/1", "x").header("X-HTTP-Method-Override", "DELETE").send().hides("stored");
    site.upstream.on("PUT /things/1?_method=DELETE", Reply::new("deleted"));
    put(&site, "/things/1?_method=DELETE", "x").send().hides("stored");
    site.get("/things/1").hides("hit");
}

fn a_write_with_soft_or_repeated_rules_stores_nothing(tier: Tier) {
    let site = site(tier);
    for target in ["/things/8", "/things/9"] {
        put(&site, target, "x").send().hides("stored").carries("x");
        site.get(target).hides("hit");
    }
}

/// Upstream carries out A, then B. The answers reach Larder in one order and the other.
fn overlapping(tier: Tier, is_first_answered_first: bool) -> Site {
    let site = site(tier);
    let hold = |body: &str| -> (crate::support::Gate, Pending) {
        let gate = site.upstream.hold_next("PUT /things/1");
        let write = put(&site, "/things/1", body).start();
        gate.wait_for(1);
        (gate, write)
    };
    let ((gate_a, a), (gate_b, b)) = (hold("A"), hold("B"));
    site.upstream.on("GET /things/1", Reply::new("B"));
    let answers = if is_first_answered_first { [(gate_a, a), (gate_b, b)] } else { [(gate_b, b), (gate_a, a)] };
    for (gate, write) in answers {
        gate.open();
        write.response().has_status(200);
    }
    site
}

fn of_two_writes_that_overlap_the_first_answer_does_not_hide_the_second(tier: Tier) {
    overlapping(tier, true).get("/things/1").carries("B");
}

fn of_two_writes_that_overlap_the_last_answer_does_not_hide_the_first(tier: Tier) {
    overlapping(tier, false).get("/things/1").hides("hit").carries("B");
}

/// The Cache-Status of a PUT during which another write is carried out and answered.
fn put_around(site: &Site, method: &str, target: &str) -> bool {
    let gate = site.upstream.hold_next("PUT /things/1");
    let write = put(site, "/things/1", "old").start();
    gate.wait_for(1);
    site.write(method, target).has_status(200);
    gate.open();
    write.response().carries("old").is("stored")
}

fn a_write_in_between_that_a_rule_maps_to_it_counts(tier: Tier) {
    let site = site(tier);
    for (method, target) in [("POST", "/things/1/rename"), ("DELETE", "/things/1"), ("PUT", "/things/1/%2E%2E/1")]
    {
        assert!(!put_around(&site, method, target), "{method} {target}");
        site.get("/things/1").hides("hit");
    }
    site.admin_post("/cache/clear/said").has_status(200);
    let gate = site.upstream.hold_next("PUT /things/1");
    let write = put(&site, "/things/1", "old").start();
    gate.wait_for(1);
    site.admin_post("/cache/clear/things").has_status(200);
    gate.open();
    write.response().hides("stored");
    site.get("/things/1").hides("hit");
}

fn a_write_in_between_to_something_else_does_not(tier: Tier) {
    let site = site(tier);
    for (method, target) in [("POST", "/things/2/rename"), ("PUT", "/elsewhere")] {
        assert!(put_around(&site, method, target), "{method} {target}");
        site.get("/things/1").shows("hit").carries("old");
    }
}

fn a_fetch_begun_before_the_write_does_not_replace_its_answer(tier: Tier) {
    let site = site(tier);
    let gate = site.upstream.hold_next("GET /things/1");
    let reader = site.call("GET", "/things/1").start();
    gate.wait_for(1);
    put(&site, "/things/1", "new").send().shows("stored");
    gate.open();
    reader.response().carries("/things/1 #1");
    site.get("/things/1").shows("hit").carries("new");
}

fn an_answer_is_for_the_same_caller_alone(tier: Tier) {
    let site = site(tier);
    let call = |method: &str, caller: &str| site.call(method, "/callers/1").header("Authorization", caller);
    call("PUT", "a").body("of a").send().shows("stored");
    call("GET", "a").send().shows("hit").carries("of a");
    call("GET", "b").send().hides("hit");
    site.get("/callers/1").hides("hit");
    // No family says that anybody but this caller may have it.
    let call = put(&site, "/things/1", "of a").header("Authorization", "a");
    call.send().hides("stored");
    site.get("/things/1").hides("hit");
}

fn an_answer_is_for_the_same_variant_alone(tier: Tier) {
    let site = site(tier);
    site.upstream.on("PUT /things/1", Reply::new("deutsch").header("Vary", "Accept-Language"));
    put(&site, "/things/1", "x").header("Accept-Language", "de").send().shows("stored");
    let get = |language: &str| site.call("GET", "/things/1").header("Accept-Language", language).send();
    get("de").shows("hit").carries("deutsch");
    get("en").hides("hit");
}

fn writes_through_two_proxies_that_overlap_store_nothing_old(tier: Tier) {
    if tier == Tier::Embedded {
        return;
    }
    let site = site(tier);
    let other = site.another();
    let gate = site.upstream.hold_next("PUT /things/1");
    let older = put(&site, "/things/1", "A").start();
    gate.wait_for(1);
    put(&other, "/things/1", "B").send().shows("stored").carries("B");
    gate.open();
    older.response().hides("stored").carries("A");
    site.upstream.on("GET /things/1", Reply::new("B"));
    site.get("/things/1").hides("hit").carries("B");
    other.get("/things/1").carries("B");
}

fn another_proxy_serves_the_answer_until_the_next_write(tier: Tier) {
    if tier == Tier::Embedded {
        return;
    }
    let site = site(tier);
    let other = site.another();
    put(&site, "/things/1", "one").send().shows("stored");
    site.wait_for_entries(1);
    eventually("the other proxy finds it", || other.get("/things/1").is("hit"));
    other.get("/things/1").shows("hit").carries("one");
    assert_eq!(site.upstream.count("GET /things/1"), 0);
    // It is in Redis soon after it is answered: until then the other proxy asks upstream.
    site.upstream.on("GET /things/1", Reply::new("two"));
    put(&site, "/things/1", "two").send().shows("stored");
    other.get("/things/1").carries("two");
    site.upstream.on("GET /things/1", Reply::new("three"));
    put(&other, "/things/1", "three").send().shows("stored");
    site.get("/things/1").carries("three");
}

#[test]
fn write_through_without_get_is_refused() {
    let (code, text) = checked(&RULES.replacen("write_through", "methods = [\"QUERY\"]\nwrite_through", 1));
    assert!(code == Some(1) && text.contains("has no effect") && text.contains("add \"GET\""), "{text}");
}

#[test]
fn explain_says_that_a_put_refreshes_what_is_stored() {
    for method in ["PUT", "GET"] {
        let text = explained(RULES, &[method, "/things/1"]);
        assert!(text.contains("write_through"), "{text}");
    }
    assert!(!explained(RULES, &["DELETE", "/things/1"]).contains("write_through"));
}
