//! Responses past their time: RFC 9111 §4.2.4 and §5.2.2, RFC 5861.

use crate::support::{Reply, Response, Site, Tier, eventually};

on_both_tiers! {
    stale_if_error_applies_to_500_502_503_and_504,
    stale_if_error_ends_with_its_time,
    stale_while_revalidate_ends_with_its_time,
    directives_against_stale_responses_win,
    stale_responses_are_not_served_without_permission,
    a_failed_refresh_leaves_the_stored_response,
}

const BODY: &str = "old";

/// Stored and 40 seconds stale; the next response answers the validation.
#[track_caller]
fn stale(site: &Site, target: &str, directives: &str, next: Reply) -> Response {
    site.upstream.script(target, [Reply::new(BODY).stale(directives), next]);
    site.get(target).shows("stored").carries(BODY);
    site.get(target)
}

fn stale_if_error_applies_to_500_502_503_and_504(tier: Tier) {
    let site = Site::start(tier, "");
    let rows = [
        (Reply::status(500), true),
        (Reply::status(502), true),
        (Reply::status(503), true),
        (Reply::status(504), true),
        (Reply::none(), true),
        (Reply::raw("garbage\r\n\r\n"), true),
        (Reply::status(404), false),
        (Reply::status(410), false),
        (Reply::status(429), false),
        (Reply::status(501), false),
        (Reply::status(505), false),
        (Reply::new("new"), false),
    ];
    for (index, (next, served)) in rows.into_iter().enumerate() {
        let answer = stale(&site, &format!("/{index}"), "stale-if-error=6000", next);
        assert_eq!(answer.text() == BODY, served, "row {index}: {answer:?}");
        if served {
            let answer = answer.hides("hit").shows("detail=upstream-failed").has_status(200);
            let age: i64 = answer.header("age").unwrap().parse().unwrap();
            assert!(age >= 100 && answer.ttl() < 0, "it says how old it is: {answer:?}");
        }
    }
}

fn stale_if_error_ends_with_its_time(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, directives) in
        ["stale-if-error=30", "stale-if-error=0", "stale-if-error=x", "stale-if-error"].into_iter().enumerate()
    {
        stale(&site, &format!("/{index}"), directives, Reply::status(503)).hides("hit").has_status(503);
    }
    stale(&site, "/duplicate", "stale-if-error=6000, stale-if-error=30", Reply::status(503)).has_status(503);
    stale(&site, "/quoted", "Stale-If-Error=\"6000\"", Reply::status(503))
        .shows("fwd=stale; fwd-status=503")
        .carries(BODY);
}

fn stale_while_revalidate_ends_with_its_time(tier: Tier) {
    let site = Site::start(tier, "");
    let fresh = || Reply::new("new").cached("max-age=600");
    for (index, seconds) in ["30", "0", "x", "-1"].into_iter().enumerate() {
        let directives = format!("stale-while-revalidate={seconds}");
        stale(&site, &format!("/{index}"), &directives, fresh()).shows("fwd=stale").carries("new");
    }
    let served = stale(&site, "/within", "stale-while-revalidate=6000", fresh()).shows("hit").carries(BODY);
    assert!(served.ttl() < 0, "{served:?}");
}

fn directives_against_stale_responses_win(tier: Tier) {
    let mut site = Site::start(tier, "");
    let rows = ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache", "Must-Revalidate=x"];
    for (index, forbidding) in rows.into_iter().enumerate() {
        let directives = format!("{forbidding}, stale-if-error=6000, stale-while-revalidate=6000");
        let target = format!("/{index}");
        stale(&site, &target, &directives, Reply::status(503)).hides("hit").has_status(503);
    }
    site.upstream.stop();
    for (index, forbidding) in rows.into_iter().enumerate() {
        let answer = site.get(&format!("/{index}"));
        assert!([502, 504].contains(&answer.status), "{forbidding}: {answer:?}");
    }
}

fn stale_responses_are_not_served_without_permission(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, next) in [Reply::status(500), Reply::status(503), Reply::new("new")].into_iter().enumerate() {
        let answer = stale(&site, &format!("/{index}"), "public", next);
        assert!(answer.text() != BODY && !answer.is("hit"), "{answer:?}");
    }
}

fn a_failed_refresh_leaves_the_stored_response(tier: Tier) {
    let site = Site::start(tier, "");
    let directives = "stale-while-revalidate=6000";
    let failures =
        [Reply::status(503), Reply::none(), Reply::status(500), Reply::new("new").cached("max-age=600")];
    site.upstream.script("/", [Reply::new(BODY).stale(directives)].into_iter().chain(failures));
    site.get("/").shows("stored").carries(BODY);
    eventually("a refresh has succeeded", || {
        let answer = site.get("/").shows("hit").has_status(200);
        answer.text() == "new"
    });
    assert_eq!(site.upstream.count("/"), 5);
}
