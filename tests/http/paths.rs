//! What upstream may take a path for: RFC 9110 §17.5, RFC 3986 §6.2. One family's answer is never had, or stored, under the
//! name of another one, whatever habits upstream has in reading a path.

use crate::support::{Response, Site, Tier, eventually, larder};

on_both_tiers! {
    no_spelling_of_a_path_gives_one_callers_answer_to_another,
    reads_of_ambiguous_paths_do_not_share_a_fetch,
    a_stored_response_is_not_served_for_an_ambiguous_path,
    paths_of_one_family_under_all_readings_are_cached,
    a_write_invalidates_every_reading_of_its_path,
    a_query_of_an_ambiguous_path_is_forwarded,
}

const RULES: &str = r#"
[[family]]
name = "me"
path = '/me(/.*)?'
identity = "cookie:sid"
ttl = "10m"

[[family]]
name = "mine"
path = '/mine/(?<what>\w+)'
identity = "cookie:sid"
ttl = "10m"

[[family]]
name = "search"
path = '/search/.*'
methods = ["QUERY"]
identity = "none"
ttl = "10m"

[[family]]
name = "assets"
path = '/assets/.*|/.*\.css'
identity = "none"
ttl = "10m"

[[family]]
name = "rest"
path = '/rest(/.*)?|/mine/.*'
identity = "none"
ttl = "10m"

[[family]]
name = "user"
path = '/users/(?<id>.+)'
ttl = "10m"

[invalidate]
'/activate/(?<id>\d+)' = ["user:{id}"]
"#;

/// Paths of two families, or of one and of none, as upstream may read them.
const AMBIGUOUS: [&str; 50] = [
    // Not every upstream resolves dot segments.
    "/assets/../me/1",
    "/assets/%2e%2e/me/2",
    "/me/.%2e/assets/3",
    "/assets/..%2Fme/mail",
    "/assets/..%2fme%2fmail",
    "/assets/..;/me/mail",
    "/assets/..;a=b/me/mail",
    "/assets/..%3B/me/mail",
    "/assets/..%3b%2fme",
    "/assets/..%5cme/mail",
    "/assets/..\\me\\mail",
    "/assets/x/%2e%2e%2f..%2Fme",
    "/assets%2F..%2Fme",
    "/assets/..%252Fme/mail",
    "/assets/..%255Cme",
    "/assets/%252e%252e/me",
    "/assets/%252e%252e%252fme",
    "/assets/..%c0%afme",
    "/assets/..%09/me",
    "/assets/x;%2F..%2F..%2Fme",
    "/me/..%5cassets/x",
    "/me/..%2fassets/x.js",
    "/me/..;/assets/x.js",
    "/me%2Fmail;x.css",
    "/me%2fmail.css",
    "/me;x.css",
    "/me;/x.css",
    "/me%3Bx.css",
    "/me%3Fx.css",
    "/me%3fx=/x.css",
    "/me%253Fx.css",
    "/me%00.css",
    "/me%2500.css",
    "/me%23.css",
    "/me%0A.css",
    "/me%0d%0ax.css",
    "//me/mail",
    "///me",
    "//h/me/mail",
    "//x/me",
    "/%2Fme/mail",
    "/%5Cme",
    "/mine//mail",
    "/mine/mail/",
    "/mine/mail//",
    "/mine/mail;x",
    "/mine/mail%2f",
    "/mine/mail%00.x",
    "/mine/mail%3Fx.css",
    "/mine/mail;/x.css",
];

#[track_caller]
fn by(site: &Site, target: &str, sid: &str) -> Response {
    site.call("GET", target).header("Cookie", &format!("sid={sid}")).send().has_status(200)
}

/// Nobody gets what another one got, and the same caller only where it is its own.
#[track_caller]
fn assert_apart(site: &Site, target: &str) -> Response {
    let ann = by(site, target, "ann");
    let eve = by(site, target, "eve").hides("hit").hides("collapsed");
    assert_ne!(ann.text(), eve.text(), "{target}");
    let nobody = site.get(target).hides("hit");
    assert!(![ann.text(), eve.text()].contains(&nobody.text()), "{target}");
    ann
}

fn no_spelling_of_a_path_gives_one_callers_answer_to_another(tier: Tier) {
    let site = Site::start(tier, RULES);
    for target in AMBIGUOUS {
        for answer in [assert_apart(&site, target), by(&site, target, "ann")] {
            answer.shows("fwd=bypass").shows("detail=ambiguous-path").hides("stored").hides("hit");
        }
        site.call("HEAD", target).send().shows("detail=ambiguous-path");
        let cached = site.call("GET", target).header("Cache-Control", "only-if-cached").send();
        cached.fails_with(504).shows("detail=only-if-cached");
    }
    // These are the caller's own under every reading.
    for target in [
        "/me/mail",
        "/me/mail/",
        "/me//mail",
        "/me/mail/x.css",
        "/me/mail%3Fx.css",
        "/me/mail%00.css",
        "/me/x;y.css",
    ] {
        assert_apart(&site, target).shows("stored");
        by(&site, target, "ann").shows("hit");
    }
}

fn reads_of_ambiguous_paths_do_not_share_a_fetch(tier: Tier) {
    let site = Site::start(tier, RULES);
    for (at, target) in ["/assets/..%2Fme", "/mine/mail/", "//me"].into_iter().enumerate() {
        let gate = site.upstream.hold_all(target);
        let readers = ["ann", "eve"].map(|sid| {
            let cookie = format!("sid={sid}");
            site.call("GET", target).header("Cookie", &cookie).start()
        });
        gate.wait_for(2);
        gate.open();
        let [ann, eve] = readers.map(|reader| reader.response().hides("collapsed").hides("stored"));
        assert_ne!(ann.text(), eve.text(), "{at}");
    }
}

fn a_stored_response_is_not_served_for_an_ambiguous_path(tier: Tier) {
    let site = Site::start(tier, RULES);
    by(&site, "/me/mail", "ann").shows("stored");
    by(&site, "/assets/x.css", "ann").shows("stored");
    by(&site, "/me/mail", "ann").shows("hit");
    for target in ["//me/mail", "/%2Fme/mail", "/assets/..%2Fme/mail", "/me/..%2Fassets/x.css"] {
        for sid in ["ann", "eve"] {
            by(&site, target, sid).hides("hit").hides("stored");
        }
    }
    by(&site, "/assets/x.css", "eve").shows("hit");
}

fn paths_of_one_family_under_all_readings_are_cached(tier: Tier) {
    let site = Site::start(tier, RULES);
    let targets = [
        "/assets/a;v=2/b.css",
        "/assets/a//b.css",
        "/assets/a/",
        "/assets/a%20b",
        "/assets/a%2Fb",
        "/assets/a%2F..%2Fb",
        "/assets/%E4%BD%A0%2520.css",
        "/assets/a%3Fb",
        "/assets/a@b:c,d=e",
        "/rest/",
        "/rest//a/",
        "/users/5;v=1",
        "/users/joe%40x.test",
        "/users/a%2Fb/",
    ];
    for target in targets {
        site.get(target).shows("stored");
        site.get(target).shows("hit");
    }
}

fn a_write_invalidates_every_reading_of_its_path(tier: Tier) {
    let site = Site::start(tier, RULES);
    let spellings =
        ["/users/5", "/users/5;v=1", "/users/5/", "/users//5", "/users/5%3Fx", "/users/5%00x", "/users/%35%252F"];
    let writes = [
        "/users/5",
        "/activate/5",
        "/activate/5/",
        "//activate/5",
        "/activate%2F5;x",
        "/users%252F5",
        "/x/..;/users/5",
    ];
    for write in writes {
        for spelling in spellings {
            site.get(spelling);
            site.get(spelling).shows("hit");
        }
        site.write("PUT", write).has_status(200);
        for spelling in spellings {
            site.get(spelling).hides("hit");
        }
    }
    site.get("/users/55");
    site.write("PUT", "/users/5;v=1").has_status(200);
    site.get("/users/55").shows("hit");
}

fn a_query_of_an_ambiguous_path_is_forwarded(tier: Tier) {
    let site = Site::start(tier, RULES);
    let query = |target: &str| site.call("QUERY", target).header("Content-Type", "text/plain").body("all").send();
    query("/search/all").shows("stored");
    query("/search/all").shows("hit");
    for target in ["/search/..%2Fassets/x", "/search/..;/me"] {
        for _ in 0..2 {
            query(target).shows("fwd=bypass").shows("detail=ambiguous-path");
        }
    }
}

#[test]
fn a_write_whose_path_has_too_many_readings_is_refused() {
    let site = Site::start(Tier::Embedded, RULES);
    let path = format!("/users{}", "/;x%2F..;%252F%5C%3B//%00%3F%255C..%2F.%2F;//".repeat(20));
    site.get("/users/5");
    site.write("PUT", &path).fails_with(400).shows("detail=ambiguous-path");
    site.get("/users/5").shows("hit");
    site.get(&path).has_status(200).shows("detail=ambiguous-path");
}

#[test]
fn explain_lists_the_readings_of_other_families() {
    let explain = |arguments: &[&str]| larder(Some(RULES), &[&["explain"], arguments].concat());
    let exit = explain(&["GET", "/assets/..%2Fme/mail"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let expected = "the path belongs to family \"assets\", identity none, but upstream may take it for";
    for part in [expected, "/me/mail (family \"me\", identity cookie:sid)", "forwarded", "nothing of it is stored"]
    {
        assert!(exit.stdout.contains(part), "no {part:?}: {exit:?}");
    }
    let plain = explain(&["GET", "/assets/a%2Fb"]);
    assert!(!plain.stdout.contains("upstream may take"), "{plain:?}");
    let write = explain(&["PUT", "/users/5;v=1"]);
    for part in ["upstream may read the path as /users/5:", "uri:/users/5;v=1, uri:/users/5"] {
        assert!(write.stdout.contains(part), "no {part:?}: {write:?}");
    }
    // The running Larder agrees.
    let site = Site::start(Tier::Embedded, RULES);
    let kept = site.admin_get("/cache/explain?url=/assets/..%252Fme/mail").has_status(200).json();
    assert_eq!(kept["now"]["does"], "forwarded", "{kept:#}");
    assert!(kept["now"]["because"].as_str().is_some_and(|because| because.contains("/me/mail (family \"me\"")));
}

#[test]
fn families_by_suffix_beside_identity_cause_a_warning() {
    let exit = larder(Some(RULES), &["check"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let warning = "takes paths by their end";
    let warnings: Vec<&str> = exit.stdout.lines().filter(|line| line.contains(warning)).collect();
    assert_eq!(warnings.len(), 2, "{exit:?}");
    for (warning, private) in warnings.iter().zip(["\"me\"", "\"mine\""]) {
        assert!(
            warning.contains("family \"assets\" takes paths by their end") && warning.contains(private),
            "{warning}"
        );
    }
    let site = Site::start(Tier::Embedded, RULES);
    eventually("it is logged", || site.log().contains("takes paths by their end"));
    let folder = RULES.replace(r"|/.*\.css", "");
    let exit = larder(Some(&folder), &["check"]);
    assert!(exit.code == Some(0) && !exit.stdout.contains(warning), "{exit:?}");
}
