//! Stale responses when there is no answer at all, and where the client allows them.

use crate::support::{Reply, Response, Site, Tier};

on_both_tiers! {
    a_stale_response_is_served_while_upstream_is_unreachable,
    must_revalidate_applies_while_upstream_is_unreachable,
    a_client_may_take_stale_responses,
    a_client_may_take_stale_responses_instead_of_errors,
}

const RULES: &str = r#"
[[family]]
name = "strict"
path = '/strict'
stale_if_unreachable = "0s"

[[family]]
name = "brief"
path = '/brief'
stale_if_unreachable = "10s"

[[family]]
name = "usual"
path = '/usual'
"#;

/// Forty seconds stale.
fn stored(site: &Site, target: &str, directives: &str) {
    site.upstream.on(target, Reply::new("old").stale(directives));
    site.get(target).shows("stored").carries("old");
}

#[track_caller]
fn asking(site: &Site, target: &str, directives: &str) -> Response {
    site.call("GET", target).header("Cache-Control", directives).send()
}

fn a_stale_response_is_served_while_upstream_is_unreachable(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    for target in ["/nobody", "/usual", "/silent", "/strict", "/brief", "/failing"] {
        stored(&site, target, "public");
    }
    site.upstream.on("/silent", Reply::none());
    site.upstream.on("/failing", Reply::status(503));
    site.get("/silent").hides("hit").shows("detail=upstream-failed").has_status(200).carries("old");
    // An error is an answer.
    site.get("/failing").hides("hit").has_status(503);
    site.upstream.stop();
    for target in ["/nobody", "/usual"] {
        let served = site.get(target).shows("fwd=stale").hides("hit").has_status(200).carries("old");
        assert!(served.ttl() < 0, "{target}: {served:?}");
    }
    for target in ["/strict", "/brief"] {
        let refused = site.get(target);
        assert!([502, 504].contains(&refused.status), "{target}: {refused:?}");
    }
}

fn must_revalidate_applies_while_upstream_is_unreachable(tier: Tier) {
    let mut site = Site::start(tier, RULES);
    let rows = ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"];
    for (index, directives) in rows.into_iter().enumerate() {
        stored(&site, &format!("/{index}"), directives);
    }
    site.upstream.stop();
    for (index, directives) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        for answer in [site.get(&target), asking(&site, &target, "max-stale")] {
            assert!([502, 504].contains(&answer.status), "{directives}: {answer:?}");
        }
    }
}

fn a_client_may_take_stale_responses(tier: Tier) {
    let site = Site::start(tier, RULES);
    let rows = [
        ("public", "max-stale", true),
        ("public", "Max-Stale=6000", true),
        ("public", "max-stale=\"6000\"", true),
        ("public", "max-stale=10", false),
        ("public", "max-stale=x", false),
        ("public", "max-stale=6000, max-stale=10", false),
        ("must-revalidate", "max-stale", false),
        ("proxy-revalidate", "max-stale", false),
        ("s-maxage=60", "max-stale", false),
        ("no-cache", "max-stale", false),
    ];
    for (index, (directives, asked, served)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        stored(&site, &target, directives);
        let answer = asking(&site, &target, asked);
        assert_eq!(answer.is("hit"), served, "{directives}, asked for {asked}: {answer:?}");
        assert_eq!(site.upstream.count(&target), if served { 1 } else { 2 }, "{directives}, asked for {asked}");
    }
}

fn a_client_may_take_stale_responses_instead_of_errors(tier: Tier) {
    let site = Site::start(tier, RULES);
    let rows = [
        ("public", "stale-if-error=6000", true),
        ("public", "stale-if-error=10", false),
        ("must-revalidate", "stale-if-error=6000", false),
        ("no-cache", "stale-if-error=6000", false),
    ];
    for (index, (directives, asked, served)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        stored(&site, &target, directives);
        site.upstream.on(&target, Reply::status(503));
        let answer = asking(&site, &target, asked);
        assert_eq!(answer.status == 200, served, "{directives}, asked for {asked}: {answer:?}");
    }
}
