//! Request directives: RFC 9111 §5.2.1 and §5.4.

use crate::support::{Reply, Response, Site, Tier};

on_both_tiers! {
    the_response_to_a_no_store_request_is_not_stored,
    a_client_cannot_force_a_fetch_by_default,
    directives_pass_through_in_both_directions,
}

const RULES: &str = "[[family]]\nname = \"family\"\npath = '/family/.*'\nttl = \"600s\"\n";

#[track_caller]
fn asking(site: &Site, target: &str, directives: &str) -> Response {
    site.call("GET", target).header("Cache-Control", directives).send()
}

fn the_response_to_a_no_store_request_is_not_stored(tier: Tier) {
    let site = Site::start(tier, RULES);
    let rows = [
        "no-store",
        "No-Store",
        "max-age=0, no-store",
        "no-store=x",
        "extension=\"",
        "no-store, max-stale=600",
        "max-age=0; no-store",
        "max-age=0 no-store",
        "x=\"a\" no-store",
        "x=no-store",
    ];
    for (index, directives) in rows.into_iter().enumerate() {
        let target = format!("/family/{index}");
        for number in 1..=2 {
            asking(&site, &target, directives)
                .hides("hit")
                .hides("stored")
                .carries(&format!("{target} #{number}"));
        }
        // What is stored already may be used, and stays.
        site.get(&target).shows("stored");
        asking(&site, &target, directives).shows("hit").carries(&format!("{target} #3"));
        site.get(&target).shows("hit");
    }
    let lines = site.call("GET", "/family/lines").header("Cache-Control", "max-stale");
    lines.header("Cache-Control", "no-store").send().hides("stored");
    asking(&site, "/family/unlike", "x-no-store, no-stores=1, x=\"no-store\"").shows("stored");
}

fn a_client_cannot_force_a_fetch_by_default(tier: Tier) {
    let site = Site::start(tier, RULES);
    site.upstream.on("/nobody", Reply::numbered().cached("max-age=600"));
    for target in ["/family/1", "/nobody"] {
        site.get(target).shows("stored");
        for (name, value) in [
            ("Cache-Control", "no-cache"),
            ("Cache-Control", "max-age=0"),
            ("Cache-Control", "min-fresh=100000"),
            ("Cache-Control", "no-cache, max-age=0"),
            ("Pragma", "no-cache"),
        ] {
            let answer = site.call("GET", target).header(name, value).send();
            assert!(answer.is("hit"), "{name}: {value}: {answer:?}");
        }
        assert_eq!(site.upstream.count(target), 1);
    }
}

fn directives_pass_through_in_both_directions(tier: Tier) {
    let site = Site::start(tier, "");
    let asked = "Max-Age=5, no-transform, extension=\"a, b\", x";
    let answered = "max-age=600, s-maxage=700, no-transform, extension=\"a, b\", X, stale-if-error=5";
    site.upstream.on("GET /", Reply::new("body").cached(answered).header("Expires", "0").header("Pragma", "x"));
    site.upstream.on("POST /", Reply::new("done").cached(answered).header("Expires", "0").header("Pragma", "x"));
    let ask =
        |method: &str| site.call(method, "/").header("Cache-Control", asked).header("Pragma", "no-cache").send();
    for answer in [ask("GET"), ask("GET").shows("hit"), ask("POST").shows("fwd=method")] {
        assert_eq!(answer.headers("cache-control"), [answered]);
        assert_eq!((answer.header("expires"), answer.header("pragma")), (Some("0"), Some("x")));
    }
    for method in ["GET", "POST"] {
        let request = site.upstream.last(&format!("{method} /"));
        assert_eq!(request.headers("cache-control"), [asked], "{method}");
        assert_eq!(request.headers("pragma"), ["no-cache"], "{method}");
    }
}
