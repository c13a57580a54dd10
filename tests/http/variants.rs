//! Several responses for one URL: normalised fields, many variants, and variants that validate one another.

use crate::support::{Reply, Response, Site, Tier, eventually};

on_both_tiers! {
    fields_are_compared_in_one_form_where_a_family_asks_for_it,
    fields_are_compared_as_they_came_where_no_family_asks,
    a_missing_variant_is_asked_for_with_the_tags_of_the_others,
    the_number_of_variants_is_bounded,
}

const RULES: &str = r#"
[[family]]
name = "normal"
path = '/normal/.*'
ttl = "600s"
normalize = ["accept-encoding", "accept-language"]

[[family]]
name = "few"
path = '/few'
ttl = "600s"
max_variants = 2

[[family]]
name = "plain"
path = '/plain'
ttl = "600s"
"#;

fn varying(site: &Site, target: &str, vary: &'static str) {
    let answer = move |request: &crate::support::upstream::Request| {
        Reply::new(format!("#{}", request.nth)).header("Vary", vary)
    };
    site.upstream.answer(target, answer);
}

#[track_caller]
fn get(site: &Site, target: &str, name: &str, value: &str) -> Response {
    site.call("GET", target).header(name, value).send()
}

fn fields_are_compared_in_one_form_where_a_family_asks_for_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let same: [(&str, &[&str]); 4] = [
        ("Accept-Encoding", &["gzip, br", "br,gzip", " GZIP ;q=1.0 ,\tBr", "br, gzip;q=1", "gzip, br, gzip"]),
        ("Accept-Encoding", &["identity;q=0, gzip", "gzip,identity;Q=0.0"]),
        ("Accept-Language", &["de, en;q=0.5", "DE,en;q=0.500", "en ; q=0.5 , de"]),
        ("Accept-Language", &["de-CH, de;q=0.9", "de;q=0.9,de-ch"]),
    ];
    for (index, (name, values)) in same.into_iter().enumerate() {
        let target = format!("/normal/same/{index}");
        varying(&site, &target, name);
        get(&site, &target, name, values[0]).shows("stored");
        for value in values {
            let found = get(&site, &target, name, value);
            assert!(found.is("hit"), "{name}: {value:?} is {:?}: {found:?}", values[0]);
        }
    }
    let different = [
        ("Accept-Encoding", "gzip", "br"),
        ("Accept-Encoding", "gzip, br;q=0", "gzip, br"),
        ("Accept-Encoding", "gzip;q=0", "gzip"),
        ("Accept-Language", "de, en;q=0.5", "en, de;q=0.5"),
        ("Accept-Language", "de", "de-CH"),
        ("Accept-Language", "de;q=0", "de"),
    ];
    for (index, (name, one, other)) in different.into_iter().enumerate() {
        let target = format!("/normal/different/{index}");
        varying(&site, &target, name);
        get(&site, &target, name, one).shows("stored");
        let found = get(&site, &target, name, other);
        assert!(!found.is("hit"), "{name}: {one:?} is not {other:?}: {found:?}");
    }
}

fn fields_are_compared_as_they_came_where_no_family_asks(tier: Tier) {
    let site = Site::start(tier, RULES);
    varying(&site, "/plain", "Accept-Encoding");
    get(&site, "/plain", "Accept-Encoding", "gzip, br").shows("stored");
    get(&site, "/plain", "Accept-Encoding", "br, gzip").shows("fwd=vary-miss; stored");
}

fn a_missing_variant_is_asked_for_with_the_tags_of_the_others(tier: Tier) {
    let site = Site::start(tier, RULES);
    // Two languages get the same text: upstream knows it by its tag.
    site.upstream.answer("/plain", |request| {
        let german = request.header("accept-language").is_some_and(|language| language.starts_with("de"));
        let (tag, body) = if german { ("\"german\"", "Hallo") } else { ("\"english\"", "Hello") };
        let is_known = request.headers("if-none-match").iter().any(|tags| tags.contains(tag));
        let reply = if is_known { Reply::status(304) } else { Reply::new(body) };
        reply.cached("max-age=600").header("Vary", "Accept-Language").header("ETag", tag)
    });
    let ask = |language: &str| get(&site, "/plain", "Accept-Language", language);
    ask("de").shows("stored").carries("Hallo");
    ask("en").shows("stored").carries("Hello");
    ask("de-CH").shows("fwd=vary-miss; fwd-status=304").has_status(200).carries("Hallo");
    let sent = site.upstream.last("/plain").headers("if-none-match").join(", ");
    assert!(sent.contains("\"german\"") && sent.contains("\"english\""), "{sent}");
    ask("de-CH").shows("hit").carries("Hallo");
    ask("en").shows("hit").carries("Hello");
    ask("de").shows("hit").carries("Hallo");
}

fn the_number_of_variants_is_bounded(tier: Tier) {
    let site = Site::start(tier, RULES);
    varying(&site, "/few", "Accept");
    let ask = |value: &str| get(&site, "/few", "Accept", value);
    for (value, number) in [("a", 1), ("b", 2), ("c", 3)] {
        ask(value).carries(&format!("#{number}"));
    }
    // A HEAD neither stores nor waits: what is too much goes soon after the answer that was too much.
    let is_stored = |value: &str| site.call("HEAD", "/few").header("Accept", value).send().is("hit");
    eventually("two of three are left", || {
        ["a", "b", "c"].into_iter().filter(|value| is_stored(value)).count() <= 2
    });
    assert!(is_stored("c"), "the youngest stays");
}
