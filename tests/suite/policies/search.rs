//! POST as a read: search endpoints that take their question in the content.

use super::{checked, explained};
use crate::support::client::{Call, Pending};
use crate::support::{Reply, Site, Tier};

const RULES: &str = r#"
[server]
max_query_body = "1KB"

[[family]]
name = "search"
path = '/search'
methods = ["GET", "POST"]
ttl = "600s"

[[family]]
name = "things"
path = '/things(/.*)?'
ttl = "600s"

[invalidate]
'/things/.*' = ["things", "search"]
"#;

on_both_tiers! {
    a_post_to_a_search_is_keyed_on_its_content,
    a_post_to_a_search_invalidates_nothing,
    a_post_to_a_search_is_invalidated_like_a_get,
    concurrent_posts_to_a_search_share_one_fetch,
    a_search_begun_before_a_write_is_not_served_after_it,
    a_post_that_may_have_another_method_is_a_write,
    a_post_with_a_precondition_is_a_write,
    a_post_with_large_content_is_a_write,
    a_post_at_an_ambiguous_path_is_a_write,
    multipart_content_is_forwarded,
    what_tells_of_a_change_is_not_stored,
    a_stale_answer_to_a_post_is_fetched_without_conditions,
    content_that_waits_for_a_100_is_read,
    what_is_stored_for_a_search_is_told,
    callers_of_a_search_are_told_apart,
    another_proxy_finds_the_answer,
}

fn site(tier: Tier) -> Site {
    let site = Site::start(tier, RULES);
    site.upstream.answer("POST /search", |request| {
        Reply::new(format!("{} #{}", String::from_utf8_lossy(&request.body), request.nth))
    });
    site
}

fn post(site: &Site, body: &str) -> Call {
    site.call("POST", "/search").header("Content-Type", "application/json").body(body)
}

fn a_post_to_a_search_is_keyed_on_its_content(tier: Tier) {
    let site = site(tier);
    post(&site, "[1]").send().shows("fwd=uri-miss; stored").carries("[1] #1");
    post(&site, "[2]").send().shows("stored").carries("[2] #2");
    post(&site, "[1]").send().shows("hit").carries("[1] #1");
    post(&site, "[1]").chunked().send().shows("hit").carries("[1] #1");
    let other = site.call("POST", "/search").header("Content-Type", "text/plain").body("[1]").send();
    other.hides("hit").carries("[1] #3");
    // Neither a GET nor a QUERY is the same request.
    site.get("/search").shows("fwd=uri-miss; stored").carries("/search #1");
    post(&site, "").send().hides("hit").carries(" #4");
    site.call("QUERY", "/search").header("Content-Type", "application/json").body("[1]").send().hides("hit");
    assert_eq!(site.upstream.requests("POST /search")[1].body, b"[2]");
}

fn a_post_to_a_search_invalidates_nothing(tier: Tier) {
    let site = site(tier);
    site.get("/search").shows("stored");
    site.get("/things").shows("stored");
    post(&site, "[1]").send().shows("stored");
    post(&site, "[2]").send().shows("stored");
    site.get("/search").shows("hit");
    site.get("/things").shows("hit");
    post(&site, "[1]").send().shows("hit");
}

fn a_post_to_a_search_is_invalidated_like_a_get(tier: Tier) {
    let site = site(tier);
    for (method, target) in [("POST", "/things/1"), ("DELETE", "/search")] {
        post(&site, "[1]").send();
        post(&site, "[1]").send().shows("hit");
        site.write(method, target).has_status(200);
        post(&site, "[1]").send().shows("fwd=stale; detail=invalidated");
    }
}

fn concurrent_posts_to_a_search_share_one_fetch(tier: Tier) {
    let site = site(tier);
    let gate = site.upstream.hold_next("POST /search");
    let leader = post(&site, "[1]").start();
    gate.wait_for(1);
    let others: Vec<Pending> = (0..4).map(|_| post(&site, "[1]").start()).collect();
    site.wait_for_followers(4);
    gate.open();
    leader.response().carries("[1] #1");
    for other in others {
        other.response().shows("collapsed").carries("[1] #1");
    }
    assert_eq!(site.upstream.count("POST /search"), 1);
}

fn a_search_begun_before_a_write_is_not_served_after_it(tier: Tier) {
    let site = site(tier);
    let gate = site.upstream.hold_next("POST /search");
    let reader = post(&site, "[1]").start();
    gate.wait_for(1);
    site.write("PUT", "/things/1").has_status(200);
    gate.open();
    reader.response().carries("[1] #1");
    post(&site, "[1]").send().hides("hit").carries("[1] #2");
}

/// Whether a POST changed something: it is answered as a write, and has invalidated its own path.
#[track_caller]
fn is_a_write(site: &Site, call: Call) {
    site.get("/search");
    site.get("/search").shows("hit");
    call.send().shows("fwd=method").hides("stored").has_status(200);
    site.get("/search").shows("fwd=stale; detail=invalidated");
}

fn a_post_that_may_have_another_method_is_a_write(tier: Tier) {
    let site = site(tier);
    is_a_write(&site, post(&site, "[1]").header("X-HTTP-Method-Override", "DELETE"));
    is_a_write(&site, post(&site, "{\"_method\": \"DELETE\"}"));
    let form = site.call("POST", "/search").header("Content-Type", "application/x-www-form-urlencoded");
    is_a_write(&site, form.body("q=1&_method=DELETE"));
    let query = site.call("POST", "/search?_method=DELETE").header("Content-Type", "application/json");
    is_a_write(&site, query.body("[1]"));
}

fn a_post_with_a_precondition_is_a_write(tier: Tier) {
    let site = site(tier);
    for (name, value) in [("If-None-Match", "*"), ("If-Match", "\"1\"")] {
        is_a_write(&site, post(&site, "[1]").header(name, value));
    }
}

fn a_post_with_large_content_is_a_write(tier: Tier) {
    let site = site(tier);
    let body = "x".repeat(1500);
    is_a_write(&site, post(&site, &body));
    is_a_write(&site, post(&site, &body).chunked());
    assert!(site.upstream.requests("POST /search").iter().all(|request| request.body == body.as_bytes()));
}

fn a_post_at_an_ambiguous_path_is_a_write(tier: Tier) {
    let site = site(tier);
    let call = site.call("POST", "/things/..%2Fsearch").header("Content-Type", "application/json").body("[1]");
    is_a_write(&site, call);
}

fn multipart_content_is_forwarded(tier: Tier) {
    let site = site(tier);
    site.get("/search").shows("stored");
    for _ in 0..2 {
        let call = site.call("POST", "/search").header("Content-Type", "multipart/form-data; boundary=x");
        let body = "--x\r\nContent-Disposition: form-data; name=\"q\"\r\n\r\n1\r\n--x--\r\n";
        call.body(body).send().shows("fwd=bypass; detail=request-body").hides("stored");
    }
    site.get("/search").shows("hit");
}

fn what_tells_of_a_change_is_not_stored(tier: Tier) {
    let site = site(tier);
    for status in [201, 202, 303] {
        site.upstream.on("POST /search", Reply::status(status).cached("max-age=600"));
        post(&site, "[1]").send().hides("stored").has_status(status);
    }
}

fn a_stale_answer_to_a_post_is_fetched_without_conditions(tier: Tier) {
    let site = site(tier);
    site.upstream.script("POST /search", [Reply::new("old").stale("public"), Reply::new("new")]);
    post(&site, "[1]").send().shows("stored").carries("old");
    post(&site, "[1]").send().shows("fwd=stale; fwd-status=200; stored").carries("new");
    let asked = site.upstream.last("POST /search");
    assert_eq!((asked.header("if-none-match"), &asked.body[..]), (None, &b"[1]"[..]));
}

fn content_that_waits_for_a_100_is_read(tier: Tier) {
    let site = site(tier);
    post(&site, "[1]").send().shows("stored");
    let head = "POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Expect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n[1]";
    let answer = site.raw(head).next_response().response();
    answer.has_status(200);
}

fn what_is_stored_for_a_search_is_told(tier: Tier) {
    let site = site(tier);
    post(&site, "").send().shows("stored");
    let explain = |target: &str| site.admin_get(&format!("/cache/explain?method=POST&url={target}"));
    assert!(explain("/search").has_status(200).text().contains("key_text"));
    explain("/things/1").has_status(400);
}

fn callers_of_a_search_are_told_apart(tier: Tier) {
    let rules = RULES.replace("methods =", "identity = \"header:authorization\"\nmethods =");
    let site = Site::start(tier, &rules);
    site.upstream.answer("POST /search", |request| {
        Reply::new(format!("for {}", request.header("authorization").unwrap_or("none")))
    });
    for caller in ["a", "b"] {
        let call = || post(&site, "[1]").header("Authorization", caller);
        call().send().shows("stored").carries(&format!("for {caller}"));
        call().send().shows("hit").carries(&format!("for {caller}"));
    }
}

fn another_proxy_finds_the_answer(tier: Tier) {
    if tier == Tier::Embedded {
        return;
    }
    let site = site(tier);
    let other = site.another();
    post(&site, "[1]").send().shows("stored");
    site.wait_for_entries(1);
    let ask = || other.call("POST", "/search").header("Content-Type", "application/json").body("[1]").send();
    ask().shows("hit").carries("[1] #1");
    site.write("PUT", "/things/1").has_status(200);
    ask().hides("hit").carries("[1] #2");
}

#[test]
fn a_rule_that_makes_a_write_of_a_search_is_refused() {
    for rule in [
        "'/search' = [\"things\"]",
        "'/.*' = [\"things\"]",
        "'/s.*' = { families = [\"things\"], methods = [\"POST\"] }",
    ] {
        let (code, text) = checked(&format!("{RULES}{rule}\n"));
        assert!(code == Some(1) && text.contains("makes a write of POST /search"), "{rule}: {text}");
    }
    let (code, text) =
        checked(&format!("{RULES}'/search' = {{ families = [\"things\"], methods = [\"DELETE\"] }}\n"));
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn check_warns_of_graphql() {
    let (_, text) = checked(&RULES.replace("'/search'", "'/api/graphql'"));
    assert!(text.contains("suggests GraphQL"), "{text}");
    let (_, text) = checked(RULES);
    assert!(!text.contains("GraphQL") && text.contains("methods GET POST"), "{text}");
}

#[test]
fn explain_says_what_a_post_to_a_search_is() {
    let explain = |arguments: &[&str]| explained(RULES, arguments);
    let text = explain(&["POST", "/search"]);
    assert!(text.contains("POST is a read") && text.contains("content"), "{text}");
    for arguments in [&["POST", "/things/1"][..], &["POST", "/search", "-H", "X-HTTP-Method-Override: DELETE"]] {
        let text = explain(arguments);
        assert!(text.contains("target") && !text.contains("is a read"), "{text}");
    }
}
