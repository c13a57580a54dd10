//! Request directives, as far as the family allows them: RFC 9111 §5.2.1 and §5.4.

use crate::support::{Reply, Response, Site, Tier};

on_both_tiers! {
    a_family_may_let_clients_ask_for_something_fresher,
    a_no_cache_request_validates_and_its_response_serves_the_next,
    only_if_cached_never_goes_to_upstream,
    only_if_cached_never_reaches_upstream,
    a_family_can_ignore_request_directives,
}

const RULES: &str = r#"
[[family]]
name = "all"
path = '/all/.*'
client_directives = "all"

[[family]]
name = "none"
path = '/none/.*'
client_directives = "none"

[[family]]
name = "harmless"
path = '/harmless/.*'
client_directives = "harmless"
"#;

#[track_caller]
fn asking(site: &Site, target: &str, fields: &[(&str, &str)]) -> Response {
    fields.iter().fold(site.call("GET", target), |call, (name, value)| call.header(name, value)).send()
}

/// 200 seconds old, and fresh for another 400.
fn store(site: &Site, target: &str) {
    let reply = Reply::numbered().cached("max-age=600").header("Age", "200").header("ETag", "\"1\"");
    site.upstream.on(target, reply);
    site.get(target).shows("stored");
}

fn a_family_may_let_clients_ask_for_something_fresher(tier: Tier) {
    let site = Site::start(tier, RULES);
    let control = |value| vec![("Cache-Control", value)];
    let rows = [
        (control("no-cache"), false),
        (control("No-Cache"), false),
        (control("max-age=0"), false),
        (control("max-age=100"), false),
        (control("max-age=\"100\""), false),
        (control("max-age=300, max-age=100"), false),
        (control("max-age=x"), false),
        (control("min-fresh=500"), false),
        (control("min-fresh=100, min-fresh=500"), false),
        (vec![("Pragma", "no-cache")], false),
        (vec![("Pragma", "x, No-Cache")], false),
        (control("max-age=300"), true),
        (control("max-age=100000"), true),
        (control("min-fresh=100"), true),
        (control("x-no-cache, extension=\"no-cache\""), true),
        (vec![("Pragma", "no-cache"), ("Cache-Control", "max-age=300")], true),
        (vec![("Pragma", "x")], true),
    ];
    for (index, (fields, hit)) in rows.into_iter().enumerate() {
        let target = format!("/all/{index}");
        store(&site, &target);
        let answer = asking(&site, &target, &fields);
        assert_eq!(answer.is("hit"), hit, "{fields:?}: {answer:?}");
        assert!(hit || answer.is("fwd=request"), "{fields:?}: {answer:?}");
    }
}

fn a_no_cache_request_validates_and_its_response_serves_the_next(tier: Tier) {
    let site = Site::start(tier, RULES);
    let unchanged = Reply::status(304).cached("max-age=6000").header("ETag", "\"1\"");
    let stored = Reply::new("body").cached("max-age=600, immutable").header("ETag", "\"1\"");
    site.upstream.script("/all/1", [stored, unchanged]);
    site.get("/all/1").shows("stored");
    asking(&site, "/all/1", &[("Cache-Control", "no-cache")]).shows("fwd=request; fwd-status=304").carries("body");
    assert_eq!(site.upstream.last("/all/1").header("if-none-match"), Some("\"1\""));
    assert!(site.get("/all/1").shows("hit").ttl() > 600);
}

fn only_if_cached_never_goes_to_upstream(tier: Tier) {
    let site = Site::start(tier, RULES);
    let only =
        |target: &str, more: &str| asking(&site, target, &[("Cache-Control", &format!("Only-If-Cached{more}"))]);
    for target in ["/harmless/1", "/nobody"] {
        only(target, "").has_status(504);
        assert_eq!(site.upstream.count(target), 0);
        store(&site, target);
        only(target, "").shows("hit").has_status(200).carries(&format!("{target} #1"));
        only(target, ", no-store").shows("hit").has_status(200);
        assert_eq!(site.upstream.count(target), 1);
    }
    site.upstream.on("/stale", Reply::numbered().stale("public"));
    site.get("/stale").shows("stored");
    only("/stale", "").has_status(504);
    only("/stale", ", max-stale=6000").shows("hit").has_status(200);
    site.upstream.on("/must", Reply::numbered().stale("must-revalidate"));
    site.get("/must").shows("stored");
    only("/must", ", max-stale").has_status(504);
    site.upstream.on("/vary", Reply::numbered().cached("max-age=600").header("Vary", "Accept"));
    site.get("/vary").shows("stored");
    let other = [("Accept", "x"), ("Cache-Control", "only-if-cached")];
    asking(&site, "/vary", &other).has_status(504);
    store(&site, "/all/1");
    asking(&site, "/all/1", &[("Cache-Control", "only-if-cached, max-age=100")]).has_status(504);
    let range = [("Range", "bytes=0-0"), ("Cache-Control", "only-if-cached")];
    asking(&site, "/harmless/1", &range).shows("hit").has_status(206);
    asking(&site, "/range", &range).has_status(504);
    site.call("HEAD", "/head").header("Cache-Control", "only-if-cached").send().has_status(504).carries("");
    assert_eq!(site.upstream.count("/range") + site.upstream.count("/head"), 0);
    for target in ["/stale", "/must", "/vary", "/all/1"] {
        assert_eq!(site.upstream.count(target), 1, "{target}");
    }
}

fn a_family_can_ignore_request_directives(tier: Tier) {
    let site = Site::start(tier, RULES);
    asking(&site, "/none/1", &[("Cache-Control", "only-if-cached")]).has_status(200);
    store(&site, "/none/2");
    for directives in ["no-cache", "max-age=0", "min-fresh=100000", "only-if-cached"] {
        asking(&site, "/none/2", &[("Cache-Control", directives)]).shows("hit");
    }
    site.upstream.on("/none/3", Reply::numbered().cached("max-age=600"));
    asking(&site, "/none/3", &[("Cache-Control", "no-store")]).shows("stored");
    site.upstream.on("/none/4", Reply::new("old").stale("public"));
    site.get("/none/4").shows("stored");
    asking(&site, "/none/4", &[("Cache-Control", "max-stale")]).hides("hit");
}

fn only_if_cached_never_reaches_upstream(tier: Tier) {
    let families = RULES.replace("path = ", "methods = [\"GET\", \"QUERY\"]\npath = ");
    let rules = format!("[server]\nmax_query_body = \"8B\"\n{families}");
    let site = Site::start(tier, &rules);
    let ask = |method: &str, target: &str, body: &str| {
        let call = site.call(method, target).header("Cache-Control", "only-if-cached");
        if body.is_empty() { call.header("If-Match", "\"1\"").send() } else { call.body(body).send() }
    };
    let rows = [("GET", ""), ("HEAD", ""), ("GET", "content"), ("QUERY", "more than eight bytes"), ("QUERY", "")];
    for (method, body) in rows {
        for target in ["/all/x", "/harmless/x", "/x"] {
            ask(method, target, body).has_status(504).shows("detail=only-if-cached");
            assert_eq!(site.upstream.count(target), 0, "{method} {target} {body:?}");
        }
        ask(method, "/none/x", body).has_status(200);
    }
}
