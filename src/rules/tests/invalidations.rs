//! Which writes invalidate what, and what an operator may name.

use super::*;

#[test]
fn a_rule_may_name_a_safe_method_and_then_that_path_is_a_write() {
    let rules = rules(
        r#"
        [[family]]
        name = "me"
        path = '/.*'
        [invalidate]
        '/logout' = { families = ["me"], methods = ["GET"] }
        '/dav/.*' = { families = ["me"], methods = ["PROPFIND", "PUT"] }
        '/.*' = ["me"]
        "#,
    );
    let rows = [
        ("GET", "/logout", true),
        ("HEAD", "/logout/", true),
        ("GET", "/logout;x=1", true),
        ("PROPFIND", "/dav/a", true),
        ("GET", "/dav/a", false),
        ("GET", "/", false),
        ("OPTIONS", "/logout", false),
        ("MKCOL", "/", true),
    ];
    for (method, path, expected) in rows {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(rules.is_write(&method, &at(path)), expected, "{method} {path}");
    }
    assert_eq!(invalidated(&rules, "GET", "/logout"), ["me"], "the rule for unsafe methods does not apply");
}

#[test]
fn every_matching_invalidation_applies_in_file_order() {
    let rules = rules(
        r#"
        [[family]]
        name = "list"
        path = '/u'
        [[family]]
        name = "details"
        path = '/u/(?<id>\d+)'

        [invalidate]
        '/z.*' = ["*"]
        '/u/(?<id>\d+)(?:/(?<part>.+))?' = ["details:{id}", "list", "list:*"]
        '/u.*' = { families = ["list"], methods = ["post", "PURGE"], on = ["2xx", 404], mode = "hard" }
        '/u/(?<id>\d+)?x' = ["details:{id}"]
        "#,
    );
    assert_eq!(rules.invalidations().iter().map(|rule| rule.line).collect::<Vec<_>>(), [10, 11, 12, 13]);
    let rows: [(&str, &str, &[&str]); 10] = [
        ("PUT", "/u/7", &["details:7", "list"]),
        ("POST", "/u/7", &["details:7", "list", "list"]),
        ("POST", "/u", &["list"]),
        ("PURGE", "/u/7", &["details:7", "list", "list"]),
        ("MKCOL", "/u/7", &["details:7", "list"]),
        ("GET", "/u/7", &[]),
        ("DELETE", "/z/1", &["*"]),
        ("DELETE", "/u/7x", &["details:7"]),
        // A capture without a value selects the whole family: a miss is safer than a stale hit.
        ("DELETE", "/u/x", &["details"]),
        ("DELETE", "/other", &[]),
    ];
    for (method, path, tags) in rows {
        assert_eq!(invalidated(&rules, method, path), tags, "{method} {path}");
    }
    let on = &rules.invalidations()[2].on;
    let applies = |status: u16| on.applies(WriteEnd::Answered(status.try_into().unwrap()));
    assert!(applies(204) && applies(404) && !applies(301) && !applies(500));
    assert!(rules.invalidations()[0].on.applies(WriteEnd::Answered(http::StatusCode::FOUND)));
}

#[test]
fn rules_know_their_manner_and_families_whether_they_are_refreshed() {
    let rules = rules(
        r#"
        [[family]]
        name = "list"
        path = '/u'
        [[family]]
        name = "list:new"
        path = '/u/new'
        [[family]]
        name = "details"
        path = '/u/(?<id>\d+)'
        [invalidate]
        '/a' = ["details:1"]
        '/b' = { families = ["list:*"], mode = "soft", refresh = true }
        '/c' = { families = ["details:1"], mode = "soft", grace = "2m", again = "100ms", refresh = false }
        "#,
    );
    let manners: Vec<String> = rules.invalidations().iter().map(Invalidation::manner).collect();
    assert_eq!(manners, ["hard", "soft, grace 30s, refresh", "soft, grace 2m, again 100ms"]);
    let counted: Vec<bool> = rules.families().iter().map(|family| family.counted).collect();
    assert_eq!(counted, [true, true, false]);
}

#[test]
fn explain_finds_the_writes_that_invalidate_a_family() {
    let rules = hita();
    let of = |name: &str| -> Vec<&str> {
        rules.invalidating(rules.family(name).unwrap()).iter().map(|rule| rule.path.as_str()).collect()
    };
    assert_eq!(of("superadmin_user_list"), [""; 0]);
    assert_eq!(of("user_details").len(), 5);
    assert!(!of("user_details").contains(&r"/v1\.0/user/create.*"));
    assert_eq!(of("user_list").len(), 5);
}

#[test]
fn operators_resolve_families_and_instances() {
    let rules = hita();
    assert_eq!(texts(&rules.resolve("user_details:5779356081", None).unwrap()), ["user_details:5779356081"]);
    assert_eq!(texts(&rules.resolve("user*", None).unwrap()), ["user_details", "user_list", "user_stats"]);
    assert_eq!(texts(&rules.resolve("*", None).unwrap()), ["*"]);
    assert_eq!(rules.resolve("user_detail", None).unwrap_err().nearest, ["user_details"]);
}
