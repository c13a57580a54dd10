//! QUERY, a safe method with content: without a family that names it, it is forwarded.

use crate::support::client::Call;
use crate::support::{Reply, Site, Tier};

on_both_tiers! {
    a_query_that_no_family_names_is_forwarded_and_changes_nothing,
}

fn a_query_that_no_family_names_is_forwarded_and_changes_nothing(tier: Tier) {
    let site = Site::start(tier, "[[family]]\nname = \"search\"\npath = '/search'\nttl = \"600s\"\n");
    site.get("/search").shows("stored");
    site.upstream.answer("QUERY /search", |request| {
        // It would be stored if it were the answer to a GET.
        Reply::new([&request.body[..], b"!"].concat()).header("Location", "/search").cached("max-age=600")
    });
    for _ in 0..2 {
        let answer = site.call("QUERY", "/search").header("Content-Type", "text/plain").body("needle").send();
        answer.shows("fwd=method; fwd-status=200; detail=method").hides("stored").carries("needle!");
    }
    assert_eq!(site.upstream.count("QUERY /search"), 2);
    site.get("/search").shows("hit").carries("/search #1");
}

on_both_tiers! {
    a_query_is_keyed_on_its_content,
    a_query_and_a_get_have_separate_entries,
    a_query_is_invalidated_like_a_get,
    a_query_with_large_content_is_forwarded,
    a_query_obeys_response_directives,
}

const RULES: &str = r#"
[server]
max_query_body = "1KB"

[[family]]
name = "search"
path = '/search'
methods = ["QUERY"]
ttl = "600s"

[[family]]
name = "both"
path = '/both'
methods = ["GET", "QUERY"]
ttl = "600s"

[invalidate]
'/things' = ["search"]
"#;

fn site(tier: Tier) -> Site {
    let site = Site::start(tier, RULES);
    for target in ["/search", "/both"] {
        site.upstream.answer(&format!("QUERY {target}"), |request| {
            Reply::new(format!("{} #{}", String::from_utf8_lossy(&request.body), request.nth))
        });
    }
    site
}

fn query(site: &Site, target: &str, body: &str) -> Call {
    site.call("QUERY", target).header("Content-Type", "application/json").body(body)
}

fn a_query_is_keyed_on_its_content(tier: Tier) {
    let site = site(tier);
    query(&site, "/search", "[1]").send().shows("stored").carries("[1] #1");
    query(&site, "/search", "[2]").send().shows("stored").carries("[2] #2");
    query(&site, "/search", "[1]").send().shows("hit").carries("[1] #1");
    query(&site, "/search", "[1]").chunked().send().shows("hit").carries("[1] #1");
    // Content of another kind is other content.
    let other = site.call("QUERY", "/search").header("Content-Type", "text/plain").body("[1]").send();
    other.hides("hit").carries("[1] #3");
    let coded = query(&site, "/search", "[1]").header("Content-Encoding", "x").send();
    coded.hides("hit").carries("[1] #4");
    query(&site, "/search?a=1", "[1]").send().hides("hit").carries("[1] #1");
    let received = site.upstream.requests("QUERY /search");
    assert_eq!(received[1].body, b"[2]");
    assert_eq!(received[1].header("content-type"), Some("application/json"));
}

fn a_query_and_a_get_have_separate_entries(tier: Tier) {
    let site = site(tier);
    query(&site, "/both", "").send().shows("stored").carries(" #1");
    site.get("/both").shows("fwd=uri-miss; stored").carries("/both #1");
    query(&site, "/both", "").send().shows("hit").carries(" #1");
    site.get("/both").shows("hit").carries("/both #1");
    // A family with QUERY only does not apply to a GET.
    query(&site, "/search", "").send().shows("stored");
    site.get("/search").hides("hit").hides("stored");
}

fn a_query_is_invalidated_like_a_get(tier: Tier) {
    let site = site(tier);
    for target in ["/things", "/search"] {
        query(&site, "/search", "[1]").send();
        query(&site, "/search", "[1]").send().shows("hit");
        site.write("POST", target).has_status(200);
        query(&site, "/search", "[1]").send().shows("fwd=stale; detail=invalidated");
    }
    query(&site, "/search", "[1]").send().shows("hit");
}

fn a_query_with_large_content_is_forwarded(tier: Tier) {
    let site = site(tier);
    let body = "x".repeat(1500);
    for chunked in [false, true] {
        let call = query(&site, "/search", &body);
        let answer = if chunked { call.chunked() } else { call }.send().hides("stored").has_status(200);
        assert!(answer.text().starts_with(&body), "{chunked}: {answer:?}");
    }
    assert_eq!(site.upstream.count("QUERY /search"), 2);
}

fn a_query_obeys_response_directives(tier: Tier) {
    let site = site(tier);
    for directives in ["no-store", "private", "max-age=0"] {
        site.upstream.on("QUERY /search", Reply::new("answer").cached(directives));
        for _ in 0..2 {
            query(&site, "/search", directives).send().hides("hit").hides("stored").carries("answer");
        }
    }
}
