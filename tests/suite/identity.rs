//! Whose response it is: what one caller may see never reaches another, unless RFC 9111 or the family says so.

use crate::support::client::Call;
use crate::support::{Reply, Site, Tier};

const RULES: &str = r#"
[[family]]
name = "plain"
path = '/plain'
ttl = "60s"

[[family]]
name = "forced"
path = '/forced'
ttl = "60s"
ttl_policy = "override"

[[family]]
name = "by_token"
path = '/by/token'
ttl = "60s"
identity = "header:authorization"

[[family]]
name = "by_cookie"
path = '/by/cookie'
ttl = "60s"
identity = "cookie:sid"

[[family]]
name = "open"
path = '/open'
ttl = "60s"
identity = "none"

[invalidate]
'/by/.*' = ["by_token", "by_cookie"]
"#;

on_both_tiers! {
    a_response_that_sets_a_cookie_is_not_stored,
    a_response_that_sets_a_cookie_is_not_shared_with_followers,
    a_private_response_is_not_shared_with_followers,
    a_request_with_credentials_is_passed,
    a_request_with_credentials_is_passed_although_an_anonymous_response_is_stored,
    requests_with_credentials_do_not_share_a_fetch,
    upstream_may_allow_sharing,
    a_family_keyed_by_a_header_tells_callers_apart,
    a_family_keyed_by_a_cookie_tells_callers_apart,
    a_family_without_identity_is_shared_by_all,
    a_write_invalidates_the_entries_of_all_callers,
}

/// A request of one caller, by either kind of credential.
fn by(site: &Site, target: &str, field: &str, value: &str) -> Call {
    site.call("GET", target).header(field, value)
}

const CREDENTIALS: [(&str, &str, &str); 2] =
    [("Authorization", "Bearer ann", "Bearer bob"), ("Cookie", "sid=ann", "sid=bob")];

/// Upstream answers with the credentials it was shown.
fn echo_callers(site: &Site, target: &str, directives: &'static str) {
    site.upstream.answer(&format!("GET {target}"), move |request| {
        let shown = ["authorization", "cookie"].iter().find_map(|field| request.header(field));
        let reply = Reply::new(format!("for {} #{}", shown.unwrap_or("anybody"), request.nth));
        if directives.is_empty() { reply } else { reply.cached(directives) }
    });
}

fn a_response_that_sets_a_cookie_is_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    for target in ["/plain", "/forced", "/open", "/by/token", "/listed/nowhere"] {
        site.upstream.answer(target, |request| {
            let cookie = format!("sid={}", request.nth);
            Reply::numbered().cached("public, max-age=60").header("Set-Cookie", &cookie)
        });
        let first = site.get(target).hides("stored");
        assert_eq!(first.header("set-cookie"), Some("sid=1"));
        let second = site.get(target).hides("hit").hides("stored");
        assert_eq!(second.header("set-cookie"), Some("sid=2"));
    }
}

/// Two readers who wait for one fetch whose response turns out to be for one of them only.
#[track_caller]
fn assert_followers_fetch_for_themselves(site: &Site, target: &str) {
    let gate = site.upstream.hold_next(target);
    let first = site.call("GET", target).start();
    gate.wait_for(1);
    let second = site.call("GET", target).start();
    site.get("/fence");
    gate.open();
    let bodies = [first.response().text(), second.response().text()];
    assert_eq!(bodies, [format!("{target} #1"), format!("{target} #2")]);
}

fn a_response_that_sets_a_cookie_is_not_shared_with_followers(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/plain", Reply::numbered().header("Set-Cookie", "sid=1"));
    assert_followers_fetch_for_themselves(&site, "/plain");
}

fn a_private_response_is_not_shared_with_followers(tier: Tier) {
    let site = Site::start(tier, RULES);
    for (query, directives) in [("a", "private"), ("b", "no-store"), ("c", "private, max-age=60")] {
        site.upstream.on("/plain", Reply::numbered().cached(directives));
        assert_followers_fetch_for_themselves(&site, &format!("/plain?{query}"));
    }
}

fn a_request_with_credentials_is_passed(tier: Tier) {
    let site = Site::start(tier, RULES);
    for target in ["/plain", "/unlisted"] {
        echo_callers(&site, target, if target == "/plain" { "" } else { "max-age=60" });
        for (field, ann, bob) in CREDENTIALS {
            for caller in [ann, bob, ann] {
                let answer = by(&site, target, field, caller).send().hides("hit").hides("stored");
                assert!(answer.text().starts_with(&format!("for {caller} ")), "{answer:?}");
            }
        }
        assert!(site.get(target).hides("hit").text().starts_with("for anybody"));
    }
}

fn a_request_with_credentials_is_passed_although_an_anonymous_response_is_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    echo_callers(&site, "/plain", "");
    site.get("/plain").shows("stored").carries("for anybody #1");
    for (field, ann, _) in CREDENTIALS {
        let answer = by(&site, "/plain", field, ann).send().hides("hit");
        assert!(answer.text().starts_with(&format!("for {ann} ")), "{answer:?}");
    }
    site.get("/plain").shows("hit").carries("for anybody #1");
}

fn requests_with_credentials_do_not_share_a_fetch(tier: Tier) {
    let site = Site::start(tier, RULES);
    for (target, identified) in [("/plain", false), ("/by/token", true)] {
        echo_callers(&site, target, "");
        let gate = site.upstream.hold_all(target);
        let ann = by(&site, target, "Authorization", "Bearer ann").start();
        let bob = by(&site, target, "Authorization", "Bearer bob").start();
        let anybody = site.call("GET", target).start();
        gate.wait_for(3);
        gate.open();
        assert!(ann.response().text().starts_with("for Bearer ann "));
        assert!(bob.response().text().starts_with("for Bearer bob "));
        assert!(anybody.response().text().starts_with("for anybody "));
        assert_eq!(by(&site, target, "Authorization", "Bearer ann").send().is("hit"), identified);
    }
}

fn upstream_may_allow_sharing(tier: Tier) {
    let site = Site::start(tier, RULES);
    for (query, directives) in [("a", "public"), ("b", "s-maxage=60"), ("c", "public, max-age=60")] {
        let target = format!("/plain?{query}");
        echo_callers(&site, &target, directives);
        for (field, ann, bob) in CREDENTIALS {
            by(&site, &target, field, ann).send().carries("for Bearer ann #1");
            by(&site, &target, field, bob).send().shows("hit").carries("for Bearer ann #1");
        }
        site.get(&target).shows("hit").carries("for Bearer ann #1");
    }
}

fn a_family_keyed_by_a_header_tells_callers_apart(tier: Tier) {
    let site = Site::start(tier, RULES);
    echo_callers(&site, "/by/token", "");
    let get = |caller: &str| by(&site, "/by/token", "Authorization", caller).send();
    get("Bearer ann").shows("stored").carries("for Bearer ann #1");
    get("Bearer bob").shows("fwd=uri-miss; stored").carries("for Bearer bob #2");
    site.get("/by/token").shows("stored").carries("for anybody #3");
    get("Bearer ann").shows("hit").carries("for Bearer ann #1");
    get("Bearer bob").shows("hit").carries("for Bearer bob #2");
    site.get("/by/token").shows("hit").carries("for anybody #3");
}

fn a_family_keyed_by_a_cookie_tells_callers_apart(tier: Tier) {
    let site = Site::start(tier, RULES);
    echo_callers(&site, "/by/cookie", "");
    let get = |cookies: &str| by(&site, "/by/cookie", "Cookie", cookies).send();
    get("sid=ann; theme=dark").shows("stored").carries("for sid=ann; theme=dark #1");
    get("sid=bob").shows("stored").carries("for sid=bob #2");
    get("sid=ann; theme=dark").shows("hit").carries("for sid=ann; theme=dark #1");
    get("sid=bob").shows("hit").carries("for sid=bob #2");
    // What else is sent may tell in the answer.
    get("sid=ann; theme=light").shows("stored").carries("for sid=ann; theme=light #3");
    get("sid=ann; sid=bob").hides("hit");
}

fn a_family_without_identity_is_shared_by_all(tier: Tier) {
    let site = Site::start(tier, RULES);
    by(&site, "/open", "Authorization", "Bearer ann").send().shows("stored").carries("/open #1");
    by(&site, "/open", "Cookie", "sid=bob").send().shows("hit").carries("/open #1");
    site.get("/open").shows("hit").carries("/open #1");
}

fn a_write_invalidates_the_entries_of_all_callers(tier: Tier) {
    let site = Site::start(tier, RULES);
    for caller in ["Bearer ann", "Bearer bob"] {
        by(&site, "/by/token", "Authorization", caller).send().shows("stored");
    }
    site.write("POST", "/by/change");
    for caller in ["Bearer ann", "Bearer bob"] {
        by(&site, "/by/token", "Authorization", caller).send().shows("fwd=stale; detail=invalidated");
    }
}
