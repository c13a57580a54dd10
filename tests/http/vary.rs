//! Which of several responses for one URL is used: RFC 9111 §4.1, RFC 9110 §12.5.5.

use std::time::Duration;

use crate::support::{Reply, Response, Site, Tier, eventually, message};

on_both_tiers! {
    every_field_that_a_response_varies_on_must_match,
    an_absent_field_is_not_an_empty_one,
    lines_of_one_field_are_one_value,
    a_response_that_varies_on_everything_is_never_reused,
    an_empty_vary_varies_on_nothing,
    a_resource_can_start_to_vary,
    a_stale_variant_is_validated_with_its_own_tag,
    a_response_that_varies_on_larders_own_fields_is_not_reused,
    vary_on_credentials_separates_callers,
    one_tag_for_all_variants_confirms_each_by_itself,
    a_response_without_vary_hides_no_variant,
    a_variant_stored_after_a_response_without_vary_is_found,
    an_error_that_varies_on_other_fields_hides_no_variant,
    a_response_that_names_too_many_fields_hides_no_variant,
    an_error_that_varies_on_other_fields_may_come_first,
    an_error_may_vary_on_other_fields_after_a_write,
    a_coding_counts_as_vary_accept_encoding,
    a_follower_gets_a_coded_response_only_with_the_same_accept_encoding,
}

const FRESH: &str = "max-age=600";

/// Upstream numbers its responses and sends these `Vary` lines.
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

fn a_resource_can_start_to_vary(tier: Tier) {
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

fn a_response_that_varies_on_larders_own_fields_is_not_reused(tier: Tier) {
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

fn vary_on_credentials_separates_callers(tier: Tier) {
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

/// Express with `cors({ origin: true })`, or with compression: one ETag for every request.
fn one_tag_for_all_variants_confirms_each_by_itself(tier: Tier) {
    let site = Site::start(tier, "");
    let mut index = 0;
    for field in ["Origin", "Accept-Language", "Accept-Encoding", "Accept", "X-Tenant"] {
        for (tag, repeats) in [("\"1\"", true), ("\"1\"", false), ("W/\"1\"", true), ("W/\"1\"", false)] {
            index += 1;
            let target = format!("/{index}");
            site.upstream.answer(&target, move |request| {
                let value = request.header(&field.to_lowercase()).unwrap_or("none").to_owned();
                let is_known = request.headers("if-none-match").iter().any(|tags| tags.contains(tag));
                let reply = if is_known { Reply::status(304) } else { Reply::new(value.clone()) };
                let reply = reply.cached("max-age=60").header("Age", "100");
                if is_known && !repeats {
                    return reply;
                }
                reply.header("ETag", tag).header("Vary", field).header("Access-Control-Allow-Origin", &value)
            });
            for (round, value) in ["a", "b", "a", "b", "none", "a", "none", "b"].into_iter().enumerate() {
                let fields = [(field, value)];
                let answer = get(&site, &target, if value == "none" { &[] } else { &fields });
                let answer = answer.has_status(200).carries(value);
                assert_eq!(answer.headers("access-control-allow-origin"), [value], "{field} {tag} {repeats}");
                assert_eq!(site.upstream.count(&target), round + 1, "{field} {tag} {repeats}");
            }
        }
    }
}

/// RFC 9111 §4.1, last paragraphs: some resources omit `Vary` in their default response.
fn a_response_without_vary_hides_no_variant(tier: Tier) {
    let site = Site::start(tier, "");
    for status in [200, 203, 404, 410, 301, 405, 500, 503] {
        let target = format!("/{status}");
        site.upstream.answer(&target, move |request| match request.header("accept-language") {
            Some(language) => Reply::new(language).cached(FRESH).header("Vary", "Accept-Language"),
            None => Reply::status(status).cached(FRESH),
        });
        let ask = |language: &str| get(&site, &target, &[("Accept-Language", language)]);
        ask("de").shows("stored").carries("de");
        ask("en").shows("stored").carries("en");
        site.get(&target).shows("fwd=vary-miss; stored").has_status(status);
        ask("de").shows("hit").has_status(200).carries("de");
        ask("en").shows("hit").has_status(200).carries("en");
        site.get(&target).shows("hit").has_status(status);
        // An unknown value is not the same as an absent field.
        ask("fr").shows("fwd=vary-miss; stored").carries("fr");
        site.get(&target).shows("hit").has_status(status);
    }
}

fn a_variant_stored_after_a_response_without_vary_is_found(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.answer("/", |request| match request.header("accept-language") {
        Some(language) => Reply::new(language).cached(FRESH).header("Vary", "Accept-Language"),
        None => Reply::new("default").stale("public"),
    });
    let ask = |language: &str| get(&site, "/", &[("Accept-Language", language)]);
    site.get("/").shows("stored").carries("default");
    ask("de").shows("fwd=stale; stored").carries("de");
    for _ in 0..2 {
        site.get("/").hides("hit").carries("default");
        ask("de").shows("hit").carries("de");
        ask("en").carries("en");
    }
}

/// Lists of other fields, the last longer than what Larder remembers.
fn other_fields() -> [String; 5] {
    let many: Vec<String> = (0..20).map(|number| format!("X-{number}")).collect();
    [
        "User-Agent".into(),
        "Origin, Accept-Language".into(),
        "Accept-Language, X-Tenant".into(),
        "x-a, x-b".into(),
        many.join(", "),
    ]
}

/// Answers with the language; to requests with `X-Bad` with this status and this `Vary`.
fn in_languages(site: &Site, target: &str, status: u16, vary: &str) {
    let vary = vary.to_owned();
    site.upstream.answer(target, move |request| match request.header("x-bad") {
        Some(_) => Reply::status(status).cached(FRESH).header("Vary", &vary),
        None => {
            let language = request.header("accept-language").unwrap_or("none").to_owned();
            Reply::new(language).cached(FRESH).header("Vary", "Accept-Language")
        }
    });
}

fn an_error_that_varies_on_other_fields_hides_no_variant(tier: Tier) {
    let site = Site::start(tier, "");
    let mut number = 0;
    for status in [404, 405, 410, 418, 451, 500, 502, 503, 504, 599] {
        for vary in other_fields() {
            number += 1;
            let (target, row) = (format!("/{number}"), format!("{status} {vary}"));
            in_languages(&site, &target, status, &vary);
            let ask = |language: &str| get(&site, &target, &[("Accept-Language", language)]);
            ask("de").shows("stored").carries("de");
            ask("fr").shows("stored").carries("fr");
            for _ in 0..2 {
                let bad = get(&site, &target, &[("Accept-Language", "it"), ("X-Bad", "1")]);
                let bad = bad.hides("stored").shows("detail=vary-other").has_status(status);
                assert_eq!(bad.headers("vary"), [&vary], "{row}: it goes on as it came");
                ask("de").shows("hit").carries("de");
                ask("fr").shows("hit").carries("fr");
            }
            ask("it").shows("fwd=vary-miss; stored").carries("it");
            ask("it").shows("hit").carries("it");
            ask("de").shows("hit").carries("de");
        }
    }
}

fn a_response_that_names_too_many_fields_hides_no_variant(tier: Tier) {
    let site = Site::start(tier, "");
    for status in [200, 203, 301, 404, 500] {
        let target = format!("/{status}");
        in_languages(&site, &target, status, &other_fields()[4]);
        let ask = |language: &str| get(&site, &target, &[("Accept-Language", language)]);
        ask("de").shows("stored").carries("de");
        ask("fr").shows("stored").carries("fr");
        let bad = get(&site, &target, &[("Accept-Language", "it"), ("X-Bad", "1")]);
        bad.hides("stored").shows("detail=vary-other").has_status(status);
        ask("de").shows("hit").carries("de");
        ask("fr").shows("hit").carries("fr");
        ask("it").shows("stored").carries("it");
    }
}

fn an_error_that_varies_on_other_fields_may_come_first(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, vary) in other_fields()[..4].iter().enumerate() {
        let target = format!("/{index}");
        in_languages(&site, &target, 404, vary);
        let fields = ["X-Bad", "User-Agent", "Origin", "X-Tenant", "X-A"].map(|name| (name, "1"));
        let bad = || get(&site, &target, &fields).has_status(404);
        bad().shows("stored");
        bad().shows("hit");
        let ask = |language: &str| get(&site, &target, &[("Accept-Language", language)]);
        ask("de").shows("stored").carries("de");
        ask("fr").shows("stored").carries("fr");
        ask("de").shows("hit").carries("de");
        ask("fr").shows("hit").carries("fr");
    }
}

/// What is invalidated cannot be hidden.
fn an_error_may_vary_on_other_fields_after_a_write(tier: Tier) {
    let site = Site::start(tier, "");
    for (index, vary) in other_fields().into_iter().enumerate() {
        let target = format!("/{index}");
        in_languages(&site, &target, 404, &vary);
        let ask = |language: &str| get(&site, &target, &[("Accept-Language", language)]);
        ask("de").shows("stored").carries("de");
        ask("fr").shows("stored").carries("fr");
        site.write("DELETE", &target);
        let bad = || get(&site, &target, &[("Accept-Language", "de"), ("X-Bad", "1")]).has_status(404);
        bad().shows("stored");
        bad().shows("hit");
    }
}

fn a_coding_counts_as_vary_accept_encoding(tier: Tier) {
    let site = Site::start(tier, "");
    let rows: [(&str, &[&str], &[&str]); 6] = [
        ("gzip", &[], &["Accept-Encoding"]),
        ("br", &[""], &["", "Accept-Encoding"]),
        ("identity, gzip", &["Origin"], &["Origin", "Accept-Encoding"]),
        ("x-unheard-of", &["Origin, X-Tenant"], &["Origin, X-Tenant", "Accept-Encoding"]),
        ("gzip", &["Accept-Encoding"], &["Accept-Encoding"]),
        ("gzip", &["origin, accept-encoding"], &["origin, accept-encoding"]),
    ];
    for (index, (coding, vary, expected)) in rows.into_iter().enumerate() {
        let target = format!("/{index}");
        site.upstream.answer(&target, move |request| {
            let is_accepted = request.header("accept-encoding").is_some_and(|value| value.starts_with("gzip, "));
            let reply = Reply::new(if is_accepted { "coded" } else { "plain" }).cached(FRESH);
            let reply = if is_accepted { reply.header("Content-Encoding", coding) } else { reply };
            vary.iter().fold(reply, |reply, line| reply.header("Vary", line))
        });
        let ask = |value: &str| get(&site, &target, &[("Accept-Encoding", value)]);
        for part in ["stored", "hit"] {
            let coded = ask("gzip, br").shows(part).carries("coded");
            assert_eq!(coded.headers("vary"), expected, "{part}: caches behind this one have to know too");
        }
        for value in ["identity", "gzip;q=0", "gzip;q=0, *;q=0", "", "*", "br;q=0, identity"] {
            ask(value).hides("hit").carries("plain");
        }
        site.get(&target).hides("hit").carries("plain");
        for value in ["identity", "gzip;q=0", ""] {
            ask(value).shows("hit").carries("plain");
        }
        ask("gzip, br").shows("hit").carries("coded");
    }
    // `identity` is no coding.
    site.upstream.on("/plain", Reply::new("plain").cached(FRESH).header("Content-Encoding", "identity"));
    get(&site, "/plain", &[("Accept-Encoding", "gzip")]).shows("stored");
    assert_eq!(site.get("/plain").shows("hit").header("vary"), None);
}

fn a_follower_gets_a_coded_response_only_with_the_same_accept_encoding(tier: Tier) {
    let site = Site::start(tier, "");
    site.upstream.answer("/", |request| match request.header("accept-encoding") {
        Some("gzip") => Reply::new("coded").cached(FRESH).header("Content-Encoding", "gzip"),
        _ => Reply::new("plain").cached(FRESH),
    });
    let gate = site.upstream.hold_next("/");
    let leader = site.call("GET", "/").header("Accept-Encoding", "gzip").start();
    gate.wait_for(1);
    let followers = ["gzip;q=0", "identity", "gzip", "*"];
    let followers = followers.map(|value| (value, site.call("GET", "/").header("Accept-Encoding", value).start()));
    let without = site.call("GET", "/").start();
    site.get("/fence").has_status(200);
    gate.open();
    leader.response().carries("coded");
    for (value, follower) in followers {
        follower.response().carries(if value == "gzip" { "coded" } else { "plain" });
    }
    without.response().carries("plain");
}

/// In a fleet, a proxy learns from the store that responses vary, if not from its own memory.
#[test]
fn a_response_without_vary_from_another_proxy_hides_no_variant() {
    let site = Site::start(Tier::Redis, "");
    let other = site.another();
    for status in [200, 404, 500] {
        let target = format!("/{status}");
        site.upstream.answer(&target, move |request| match request.header("accept-language") {
            Some(language) => Reply::new(language).cached(FRESH).header("Vary", "Accept-Language"),
            None if status == 200 => Reply::new("default").stale("public"),
            None => Reply::status(status).stale("public"),
        });
        let ask = |larder: &crate::support::Larder, language: &str| {
            larder.call("GET", &target).header("Accept-Language", language).send()
        };
        // One proxy has only seen the default response, and has it in memory.
        other.get(&target).shows("stored").has_status(status);
        let entries = || site.redis.as_ref().unwrap().command(&["KEYS", "*:v1"]).lines().count();
        eventually("it is in Redis", || entries() > 0);
        ask(&site, "de").hides("hit").carries("de");
        eventually("both are in Redis", || entries() >= 2);
        for _ in 0..3 {
            other.get(&target).hides("hit").has_status(status);
        }
        let third = site.another();
        ask(&third, "de").shows("hit").carries("de");
        ask(&other, "de").shows("hit").carries("de");
        ask(&site, "de").shows("hit").carries("de");
        site.redis.as_ref().unwrap().flush_all();
    }
}

/// Nor does an error that one proxy has got, which knew nothing of the variants that others have stored.
#[test]
fn an_error_that_another_proxy_got_hides_no_variant() {
    for status in [404, 500] {
        for vary in &other_fields()[2..] {
            let (site, vary) = (Site::start(Tier::Redis, ""), vary.clone());
            let other = site.another();
            let target = "/";
            site.upstream.answer(target, move |request| {
                match (request.header("x-bad"), request.header("accept-language")) {
                    (Some(_), _) => Reply::status(status).cached(FRESH).header("Vary", &vary),
                    (None, Some(language)) => Reply::new(language).cached(FRESH).header("Vary", "Accept-Language"),
                    (None, None) => Reply::status(status).stale("public"),
                }
            });
            let ask = |larder: &crate::support::Larder, language: &str| {
                larder.call("GET", target).header("Accept-Language", language).send()
            };
            other.get(target).shows("stored").has_status(status);
            site.wait_for_entries(1);
            ask(&site, "de").hides("hit").carries("de");
            site.wait_for_entries(2);
            for _ in 0..2 {
                let bad = other.call("GET", target).header("Accept-Language", "it").header("X-Bad", "1");
                bad.send().has_status(status);
            }
            ask(&site.another(), "de").shows("hit").carries("de");
            eventually("the other has learned of the variants", || ask(&other, "de").is("hit"));
            ask(&site, "de").shows("hit").carries("de");
            ask(&site.another(), "de").shows("hit").carries("de");
        }
    }
}

/// Proxies that have seen different field names converge on all of them.
#[test]
fn proxies_learn_from_one_another_what_responses_vary_on() {
    let site = Site::start(Tier::Redis, "");
    let other = site.another();
    site.upstream.answer("/", |request| match (request.header("x-tenant"), request.header("accept-language")) {
        (Some(tenant), _) => Reply::new(tenant).cached(FRESH).header("Vary", "X-Tenant"),
        (None, Some(language)) => Reply::new(language).cached(FRESH).header("Vary", "Accept-Language"),
        (None, None) => Reply::new("default").stale("public"),
    });
    let ask = |larder: &crate::support::Larder, name: &str, value: &str| {
        larder.call("GET", "/").header(name, value).send().has_status(200).carries(value)
    };
    let entries = || site.redis.as_ref().unwrap().command(&["KEYS", "*:v1"]).lines().count();
    other.get("/").shows("stored").carries("default");
    eventually("it is in Redis", || entries() == 1);
    ask(&site, "Accept-Language", "de").hides("hit");
    eventually("so is what tells of the first field", || entries() == 2);
    eventually("the tenant's is kept for all", || {
        ask(&other, "X-Tenant", "1");
        ask(&site.another(), "X-Tenant", "1").is("hit")
    });
    eventually("and so is the language's", || {
        ask(&site, "Accept-Language", "fr");
        ask(&site.another(), "Accept-Language", "fr").is("hit")
    });
    ask(&site.another(), "X-Tenant", "1").shows("hit");
    ask(&other, "X-Tenant", "1").shows("hit");
    // Variants selected by fewer fields are fetched once more.
    ask(&site, "Accept-Language", "de");
    ask(&site, "Accept-Language", "de").shows("hit");
}

/// The vary index is stored as long as any variant.
#[test]
fn an_expiring_variant_removes_no_other() {
    let site = Site::start(Tier::Redis, "");
    site.upstream.answer("/", |request| {
        let age = if request.header("accept-language") == Some("de") { "max-age=6000" } else { "max-age=5" };
        Reply::numbered().cached(age).header("Vary", "Accept-Language")
    });
    get(&site, "/", &[("Accept-Language", "de")]).shows("stored");
    site.wait_for_entries(2);
    get(&site, "/", &[("Accept-Language", "en")]).shows("stored");
    site.wait_for_entries(3);
    let redis = site.redis.as_ref().unwrap();
    let left = |name: &str| Duration::from_millis(redis.run::<u64>(&["PTTL", name]));
    let long = || {
        let names = redis.command(&["KEYS", "*:v1"]);
        names.lines().filter(|name| left(name.trim()) > Duration::from_secs(1000)).count()
    };
    eventually("the sign and the variant that stays are kept", || long() == 2);
}
