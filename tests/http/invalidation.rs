//! What writes invalidate without any rule: RFC 9111 §4.4, RFC 9110 §9.2.

use crate::support::{Reply, Site, Tier, larder};

on_both_tiers! {
    every_unsafe_method_invalidates_its_target,
    a_safe_method_invalidates_nothing,
}

const TARGET: &str = "/things/1";

/// Stored, and fresh for long.
#[track_caller]
fn store(site: &Site, target: &str) {
    site.upstream.on(&format!("GET {target}"), Reply::numbered().cached("max-age=600"));
    site.get(target);
    site.get(target).shows("hit");
}

#[track_caller]
fn is_invalidated(site: &Site, target: &str) -> bool {
    !site.get(target).is("hit")
}

fn every_unsafe_method_invalidates_its_target(tier: Tier) {
    let site = Site::start(tier, "");
    for method in ["POST", "PUT", "PATCH", "DELETE", "MKCOL", "LOCK", "FOO", "get", "Options"] {
        store(&site, TARGET);
        site.call(method, TARGET).send().shows("fwd=method").has_status(200);
        assert!(is_invalidated(&site, TARGET), "{method}");
    }
}

fn a_safe_method_invalidates_nothing(tier: Tier) {
    let site = Site::start(tier, "");
    store(&site, TARGET);
    let named = Reply::new("").header("Location", TARGET).header("Content-Location", TARGET);
    for method in ["OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"] {
        site.upstream.on(&format!("{method} {TARGET}"), named.clone());
        site.call(method, TARGET).send().has_status(200);
        assert!(!is_invalidated(&site, TARGET), "{method}");
    }
    for target in ["/redirect", "/other"] {
        site.upstream.on(&format!("GET {target}"), Reply::status(302).header("Location", TARGET));
        site.get(target).has_status(302);
        assert!(!is_invalidated(&site, TARGET), "GET {target}");
    }
}

#[test]
fn only_a_non_error_response_invalidates() {
    let site = Site::start(Tier::Embedded, "");
    let named =
        |status| Reply::status(status).header("Location", "/things/2").header("Content-Location", "/things/2");
    for status in [200, 201, 202, 204, 205, 299, 301, 303, 307, 399] {
        store(&site, TARGET);
        store(&site, "/things/2");
        site.upstream.on(&format!("PUT {TARGET}"), named(status));
        site.write("PUT", TARGET).has_status(status);
        assert!(is_invalidated(&site, TARGET) && is_invalidated(&site, "/things/2"), "{status}");
    }
    store(&site, TARGET);
    store(&site, "/things/2");
    for status in [400, 401, 403, 405, 422, 428, 499, 500, 503, 599] {
        site.upstream.on(&format!("PUT {TARGET}"), named(status));
        site.write("PUT", TARGET).has_status(status);
        assert!(!is_invalidated(&site, TARGET) && !is_invalidated(&site, "/things/2"), "{status}");
    }
}

#[test]
fn location_and_content_location_are_invalidated_on_the_same_origin_only() {
    let site = Site::start(Tier::Embedded, "");
    let named = "/things/1";
    let rows = [
        ("/things/1", true),
        ("1", true),
        ("./1", true),
        ("../things/1", true),
        ("/other/../things/%31", true),
        ("/things/1?x=1", true),
        ("/things/1#part", true),
        ("//localhost/things/1", true),
        ("http://localhost/things/1", true),
        ("HTTP://LOCALHOST:80/things/1", true),
        ("http://elsewhere.example/things/1", false),
        ("//elsewhere.example/things/1", false),
        ("http://localhost:81/things/1", false),
        ("https://localhost/things/1", true),
        ("https://localhost:443/things/1", true),
        ("https://localhost:80/things/1", false),
        ("http://localhost@elsewhere.example/things/1", false),
        ("http://localhost.elsewhere.example/things/1", false),
        ("ftp://localhost/things/1", false),
    ];
    for field in ["Location", "Content-Location"] {
        for (reference, invalidates) in rows {
            store(&site, named);
            site.upstream.on("POST /things/new", Reply::status(201).header(field, reference));
            site.write("POST", "/things/new").has_status(201);
            assert_eq!(is_invalidated(&site, named), invalidates, "{field}: {reference}");
        }
    }
}

#[test]
fn refusals_that_show_an_outdated_response_invalidate_only_the_target() {
    let site = Site::start(Tier::Embedded, "");
    for status in [404, 409, 410, 412] {
        store(&site, TARGET);
        store(&site, "/things/2");
        let refusal =
            Reply::status(status).header("Location", "/things/2").header("Content-Location", "/things/2");
        site.upstream.on(&format!("PUT {TARGET}"), refusal);
        site.call("PUT", TARGET).header("If-Match", "\"1\"").body("x").send().has_status(status);
        assert!(is_invalidated(&site, TARGET) && !is_invalidated(&site, "/things/2"), "{status}");
    }
}

#[test]
fn locations_with_upstreams_address_are_invalidated_and_rewritten() {
    for host in ["", "[server]\nhost = \"upstream\"\n", "[server]\nhost = \"api.internal\"\n"] {
        let site = Site::start(Tier::Embedded, host);
        let own = site.upstream.address().to_string();
        let mut names = vec![format!("http://{own}"), format!("https://{own}"), format!("//{own}")];
        if host.contains("api.internal") {
            names.extend(["http://api.internal".to_owned(), "https://API.internal:443".to_owned()]);
        }
        for name in names {
            for field in ["Location", "Content-Location"] {
                store(&site, TARGET);
                let reference = format!("{name}{TARGET}?x#y");
                site.upstream.on("POST /things/new", Reply::status(201).header(field, &reference));
                let answer = site.write("POST", "/things/new").has_status(201);
                assert_eq!(answer.header(&field.to_lowercase()), Some("/things/1?x#y"), "{host}{reference}");
                assert!(is_invalidated(&site, TARGET), "{host}{reference}");
            }
            let redirect = Reply::status(302)
                .header("Location", &format!("{name}/login"))
                .header("Refresh", &format!("0; url={name}/login"))
                .cached("max-age=600");
            site.upstream.on("GET /redirect", redirect);
            site.write("DELETE", "/redirect").has_status(200);
            for _ in 0..2 {
                let answer = site.get("/redirect").has_status(302);
                assert_eq!(answer.header("location"), Some("/login"), "{name}");
                assert_eq!(answer.header("refresh"), Some("0; url=/login"), "{name}");
            }
        }
    }
}

#[test]
fn foreign_hosts_invalidate_nothing() {
    let site = Site::start(Tier::Embedded, "");
    let port = site.upstream.address().port();
    for name in ["https://api.test", &format!("http://127.0.0.2:{port}"), "//127.0.0.1", "http://localhost:1"] {
        store(&site, TARGET);
        let reference = format!("{name}{TARGET}");
        let answer = Reply::status(201).header("Location", &reference).header("Content-Location", &reference);
        site.upstream.on("POST /things/new", answer);
        let answer = site.write("POST", "/things/new").has_status(201);
        assert_eq!(answer.header("location"), Some(&*reference));
        site.call("MOVE", "/things/new").header("Destination", &reference).send();
        assert!(!is_invalidated(&site, TARGET), "{reference}");
    }
    // Behind a TLS terminator, declared or not, the client's host is not foreign.
    store(&site, TARGET);
    site.upstream.on("POST /things/new", Reply::status(201).header("Location", "https://localhost/things/1"));
    site.write("POST", "/things/new").has_status(201);
    assert!(is_invalidated(&site, TARGET));
}

const RULES: &str = r#"
[[family]]
name = "files"
path = '/files/(?<name>[^/]+)'
ttl = "10m"

[[family]]
name = "list"
path = '/list'
ttl = "10m"

[[family]]
name = "me"
path = '/me(/.*)?'
identity = "cookie:sid"
ttl = "10m"

[[family]]
name = "rest"
path = '/(logout|dav)(/.*)?'
ttl = "10m"
identity = "none"

[invalidate]
'/files/b' = ["list"]
'/logout' = { families = ["me:{identity}"], methods = ["GET", "POST"] }
'/dav/.*' = { families = ["list"], methods = ["PROPFIND"] }
'/gone/.*' = { families = ["list"], methods = ["DELETE"] }
'/any/.*' = ["list"]
"#;

#[test]
fn a_destination_is_invalidated_like_a_target() {
    let site = Site::start(Tier::Embedded, RULES);
    for destination in ["/files/b", "http://localhost/files/b", "https://localhost/files/%62", "/x/../files/b"] {
        for method in ["MOVE", "COPY"] {
            for path in ["/files/a", "/files/b", "/files/c", "/list"] {
                site.get(path);
                site.get(path).shows("hit");
            }
            site.call(method, "/files/a").header("Destination", destination).send().has_status(200);
            for path in ["/files/a", "/files/b", "/list"] {
                site.get(path).hides("hit");
            }
            site.get("/files/c").shows("hit");
        }
    }
    let path = format!("/x{}", "/;x%2F..;%252F%5C%3B//%00%3F%255C..%2F.%2F;//".repeat(20));
    site.call("MOVE", "/files/a").header("Destination", &path).send().fails_with(400);
}

#[test]
fn a_rule_without_methods_applies_to_every_unsafe_method() {
    let site = Site::start(Tier::Embedded, RULES);
    for method in ["POST", "MOVE", "PROPPATCH", "LOCK", "FOO"] {
        site.get("/list");
        site.call(method, "/any/1").send().has_status(200);
        assert!(is_invalidated(&site, "/list"), "{method}");
    }
    for method in ["GET", "OPTIONS", "PROPFIND"] {
        site.get("/list");
        site.call(method, "/any/1").send().has_status(200);
        assert!(!is_invalidated(&site, "/list"), "{method}");
    }
}

#[test]
fn a_safe_method_that_a_rule_names_is_a_write() {
    let site = Site::start(Tier::Embedded, RULES);
    site.get("/list");
    site.call("PROPFIND", "/dav/x").send().shows("fwd=method");
    assert!(is_invalidated(&site, "/list"));
    for method in ["GET", "GET", "HEAD"] {
        site.call(method, "/logout").send().shows("fwd=method").hides("stored");
        site.call(method, "/logout/").send().shows("fwd=method").hides("stored");
    }
    site.get("/dav/x").shows("stored");
    let explained = larder(Some(RULES), &["explain", "GET", "/logout", "-H", "Cookie: sid=x"]);
    for part in ["a rule names GET for this path", "/logout (line", "caller me sha256:"] {
        assert!(explained.stdout.contains(part), "{part}: {explained:?}");
    }
}

#[test]
fn a_logout_invalidates_the_callers_entries() {
    let site = Site::start(Tier::Embedded, RULES);
    let by = |method: &str, target: &str, sid: &str| {
        site.call(method, target).header("Cookie", &format!("a=1; sid={sid}")).send()
    };
    let ended = Reply::status(302).header("Location", "/").header("Set-Cookie", "sid=; Max-Age=0");
    site.upstream.on("/logout", ended);
    for method in ["GET", "POST"] {
        for path in ["/me", "/me/orders"] {
            for sid in ["ann", "eve"] {
                by("GET", path, sid);
                by("GET", path, sid).shows("hit");
            }
        }
        by(method, "/logout", "ann").has_status(302);
        for path in ["/me", "/me/orders"] {
            by("GET", path, "ann").hides("hit");
            by("GET", path, "eve").shows("hit");
        }
    }
    // Nobody in particular.
    by("GET", "/me", "ann").shows("hit");
    site.get("/logout").has_status(302);
    by("GET", "/me", "ann").shows("hit");
}

#[test]
fn a_form_can_override_the_method() {
    let site = Site::start(Tier::Embedded, RULES);
    let post = |target: &str, media_type: &str, body: &str| {
        site.get("/list");
        site.call("POST", target).header("Content-Type", media_type).body(body).send().has_status(200);
        is_invalidated(&site, "/list")
    };
    const FORM: &str = "application/x-www-form-urlencoded";
    assert!(post("/gone/1?%5Fmethod=DELETE", FORM, ""));
    assert!(post("/gone/1", FORM, "a=1&_method=DELETE"));
    assert!(post("/gone/1", FORM, "%5fmetho%64=%44elete"));
    assert!(post(
        "/gone/1",
        &format!("{FORM}; charset=utf-8"),
        &format!("a={}&_method=DELETE", "x".repeat(100_000))
    ));
    let part = "--x\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--x--\r\n";
    assert!(post("/gone/1", "multipart/form-data; boundary=x", part));
    assert!(!post("/gone/1", FORM, "a=1&_method=PUT"));
    assert!(post("/gone/1", "multipart/form-data; boundary=x", &part.replace("_method", ".method")));
    assert!(post("/gone/1", "application/json", r#"{"\u005fmethod": "DELETE"}"#));
    assert!(!post("/gone/1", "application/json", "{}"));
}

#[test]
fn a_write_is_always_answered_by_upstream() {
    let site = Site::start(Tier::Embedded, "");
    store(&site, TARGET);
    let gate = site.upstream.hold_next(&format!("POST {TARGET}"));
    let write = site.call("POST", TARGET).body("x").start();
    gate.wait_for(1);
    // It has arrived, and is not answered yet; readers go on meanwhile.
    site.get(TARGET).has_status(200);
    gate.open();
    write.response().has_status(200).carries("done");
    for _ in 0..3 {
        site.write("POST", TARGET).carries("done");
    }
    assert_eq!(site.upstream.count("POST /things/1"), 4);
}
