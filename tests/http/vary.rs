//! Which of several responses for one URL is used: RFC 9111 §4.1, RFC 9110 §12.5.5.

use crate::support::{Reply, Response, Site, Tier, message};

on_both_tiers! {
    every_field_that_a_response_varies_on_must_match,
    an_absent_field_is_not_an_empty_one,
    lines_of_one_field_are_one_value,
    a_response_that_varies_on_everything_is_never_reused,
    an_empty_vary_varies_on_nothing,
    a_resource_may_begin_to_vary,
    a_stale_variant_is_validated_with_its_own_tag,
    what_varies_on_what_larder_itself_says_is_not_reused,
    credentials_that_a_response_varies_on_tell_callers_apart,
}

const FRESH: &str = "max-age=600";

/// Upstream numbers its answers and varies as these lines say.
fn varying(site: &Site, target: &str, vary: &'static [&'static str]) {
    site.upstream.answer(target, move |request| {
        let reply = Reply::new(format!("#{}", request.nth)).cached(FRESH);
        vary.iter().fold(reply, |reply, line| reply.header("Vary", line))
    });
}

#[track_caller]
fn get(site: &Site, target: &str, fields: &[(&str, &str)]) -> Response {
    fields.iter().fold(site.call("GET", target), |call, (name, value)| call.header(name, value)).send()
}

fn every_field_that_a_response_varies_on_must_match(tier: Tier) {
    let site = Site::start(tier, "");
    let spellings: [&[&str]; 5] = [
        &["Accept, X-Tenant"],
        &["Accept", "X-Tenant"],
        &["x-tenant,ACCEPT"],
        &[" ,, Accept ,", "x-tenant, accept"],
        &["", "X-Tenant , Accept"],
    ];
    for (index, vary) in spellings.into_iter().enumerate() {
        let target = format!("/{index}");
        varying(&site, &target, vary);
        let ask = |fields: &[(&str, &str)]| get(&site, &target, fields);
        ask(&[("Accept", "a"), ("X-Tenant", "1")]).shows("fwd=uri-miss; stored").carries("#1");
        ask(&[("Accept", "b"), ("X-Tenant", "1")]).shows("fwd=vary-miss; stored").carries("#2");
        ask(&[("Accept", "a"), ("X-Tenant", "2")]).shows("fwd=vary-miss; stored").carries("#3");
        ask(&[("Accept", "1"), ("X-Tenant", "a")]).shows("fwd=vary-miss; stored").carries("#4");
        ask(&[("Accept", "a")]).shows("fwd=vary-miss; stored").carries("#5");
        ask(&[("X-Tenant", "1"), ("Accept", "a"), ("X-Other", "2")]).shows("hit").carries("#1");
        ask(&[("accept", "b"), ("x-tenant", "1")]).shows("hit").carries("#2");
        ask(&[("Accept", "a")]).shows("hit").carries("#5");
    }
}

fn an_absent_field_is_not_an_empty_one(tier: Tier) {
    let site = Site::start(tier, "");
    varying(&site, "/", &["X-Tenant"]);
    get(&site, "/", &[]).shows("stored").carries("#1");
    get(&site, "/", &[("X-Tenant", "")]).hides("hit").carries("#2");
    get(&site, "/", &[]).shows("hit").carries("#1");
    get(&site, "/", &[("X-Tenant", "")]).shows("hit").carries("#2");
}

fn lines_of_one_field_are_one_value(tier: Tier) {
    let site = Site::start(tier, "");
    varying(&site, "/", &["Accept"]);
    get(&site, "/", &[("Accept", "a"), ("Accept", "b")]).shows("stored").carries("#1");
    get(&site, "/", &[("Accept", "a, b")]).shows("hit").carries("#1");
    get(&site, "/", &[("Accept", " a, b\t")]).shows("hit").carries("#1");
    get(&site, "/", &[("Accept", "a")]).hides("hit");
    get(&site, "/", &[("Accept", "b"), ("Accept", "a")]).hides("hit");
}

fn a_response_that_varies_on_everything_is_never_reused(tier: Tier) {
    let site = Site::start(tier, "");
    let rows: [&[&str]; 6] =
        [&["*"], &["Accept, *"], &["*, Accept"], &["Accept", "*"], &["*", "Accept"], &["not a name"]];
    for (index, vary) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        varying(&site, &target, vary);
        site.get(&target).hides("stored").carries("#1");
        let second = site.get(&target).hides("stored").carries("#2");
        assert_eq!(second.headers("vary"), vary, "it goes on as it came");
    }
}

fn an_empty_vary_varies_on_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, vary) in [&[""][..], &[" , ,"][..], &[]].into_iter().enumerate() {
        let target = format!("/{index}");
        varying(&site, &target, vary);
        get(&site, &target, &[("Accept", "a")]).shows("stored").carries("#1");
        get(&site, &target, &[("Accept", "b")]).shows("hit").carries("#1");
    }
}

fn a_resource_may_begin_to_vary(tier: Tier) {
    let site = Site::start(tier, "");
    let plain = message("200 OK", "Cache-Control: max-age=60\nAge: 60\nETag: \"1\"");
    let german = message("200 OK", "Cache-Control: max-age=600\nVary: Accept-Language\nETag: \"de\"");
    let english = message("200 OK", "Cache-Control: max-age=600\nVary: Accept-Language\nETag: \"en\"");
    site.upstream.script("/", [plain, german, english]);
    let ask = |language: &str| get(&site, "/", &[("Accept-Language", language)]);
    ask("de").shows("stored");
    assert_eq!(ask("de").shows("fwd=stale; stored").header("etag"), Some("\"de\""));
    assert_eq!(ask("en").shows("fwd=vary-miss; stored").header("etag"), Some("\"en\""));
    assert_eq!(ask("de").shows("hit").header("etag"), Some("\"de\""));
}

fn a_stale_variant_is_validated_with_its_own_tag(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.answer("/", |request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        let tag = format!("\"{language}\"");
        let reply = match request.headers("if-none-match").iter().any(|tags| tags.contains(&tag)) {
            true => Reply::status(304).cached(FRESH),
            false => Reply::new(language).cached("max-age=60").header("Age", "60"),
        };
        reply.header("Vary", "Accept-Language").header("ETag", &tag)
    });
    let ask = |language: &str| get(&site, "/", &[("Accept-Language", language)]);
    ask("de").shows("stored").carries("de");
    ask("en").shows("stored").carries("en");
    ask("de").shows("fwd=stale; fwd-status=304").carries("de");
    assert!(site.upstream.last("/").header("if-none-match").is_some_and(|tags| tags.contains("\"de\"")));
    ask("de").shows("hit").carries("de");
    ask("en").shows("fwd=stale; fwd-status=304").carries("en");
}

fn what_varies_on_what_larder_itself_says_is_not_reused(tier: Tier) {
    let site = Site::start(tier, "");
    let rows: [&[&str]; 5] =
        [&["X-Forwarded-For"], &["Forwarded"], &["Via"], &["Accept, X-Real-IP"], &["x-forwarded-host"]];
    for (index, vary) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        varying(&site, &target, vary);
        for number in 1..=2 {
            site.get(&target).hides("hit").hides("stored").carries(&format!("#{number}"));
        }
    }
}

fn credentials_that_a_response_varies_on_tell_callers_apart(tier: Tier) {
    let site = Site::start(tier, "");
    for (target, field) in [("/cookie", "Cookie"), ("/authorization", "Authorization")] {
        site.upstream.answer(target, move |request| {
            let who = request.header(&field.to_lowercase()).unwrap_or("nobody").to_owned();
            Reply::new(who).cached("public, max-age=600").header("Vary", field)
        });
        for part in ["stored", "hit"] {
            get(&site, target, &[(field, "a=1")]).shows(part).carries("a=1");
            get(&site, target, &[(field, "a=2")]).shows(part).carries("a=2");
            site.get(target).shows(part).carries("nobody");
        }
    }
}
