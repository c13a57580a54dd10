//! Families and their settings; by topic in the modules.

use std::time::Duration;

use proptest::prelude::*;

use super::reader::RulesReader;
use super::*;
use crate::http::adaptive_ttl::AdaptiveTtl;
use crate::http::daily_time::DailyTime;
use crate::http::invalidation::WriteEnd;
use crate::http::negative_ttl::NegativeTtl;
use crate::http::{ClientDirectives, CloseDelimited, Policy, Revalidate, SetCookie, TtlPolicy};
use crate::key::{self, CallerSource, Identity, PresentedCredentials};

mod invalidations;
mod readings;
mod tags;

pub(super) fn rules(text: &str) -> RuleSet {
    let (reader, table) = RulesReader::open("rules.toml", text, &|_| None);
    let mut root = reader.root(&table);
    let rules = RuleSet::read(&mut root, PathCase::Sensitive);
    root.finish();
    let faults = fault::Faults(reader.finish());
    assert!(faults.0.is_empty(), "{faults}");
    rules
}

/// Families of these (name, path), without anything else.
fn families(rows: &[(&str, &str)]) -> RuleSet {
    let family = |(name, path): &(&str, &str)| format!("[[family]]\nname = '{name}'\npath = '{path}'\n");
    rules(&rows.iter().map(family).collect::<String>())
}

fn texts(tags: &[Tag]) -> Vec<&str> {
    tags.iter().map(Tag::as_str).collect()
}

fn invalidated(rules: &RuleSet, method: &str, path: &str) -> Vec<String> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let tags = rules.invalidated_by(&method, path).into_iter().flat_map(|invalidated| invalidated.tags);
    tags.map(|tag| tag.to_string()).collect()
}

fn at(path: &str) -> Target {
    Target { host: "h".into(), ..Target::default() }.at(path)
}

const HITA: &str = include_str!("../../examples/hita/rules.toml");

fn hita() -> RuleSet {
    // Only the rules: the other tables belong to the configuration.
    rules(&HITA[HITA.find("[[family]]").unwrap()..HITA.find("[[warm]]").unwrap()])
}

#[test]
fn the_first_family_in_file_order_wins() {
    let rules = families(&[
        ("me", "/users/me"),
        ("user", "/users/(?<id>[^/]+)"),
        ("users", "^/users$"),
        ("report", "/(?<year>\\d{4})/(?:q[1-4]/)?(?<kind>[a-z]+)"),
        ("rest", "/users/.*|/teams"),
    ]);
    type Claim = Option<(&'static str, &'static [&'static str])>;
    let rows: [(&str, Claim); 9] = [
        ("/users/me", Some(("me", &[]))),
        ("/users/7", Some(("user", &["7"]))),
        ("/users", Some(("users", &[]))),
        ("/users/", Some(("rest", &[]))),
        ("/users/7/posts", Some(("rest", &[]))),
        ("/teams", Some(("rest", &[]))),
        ("/2024/q3/sales", Some(("report", &["2024", "sales"]))),
        ("/v1/users", None),
        ("/teams/1", None),
    ];
    for (path, expected) in rows {
        let route = rules.route(&Method::GET, path);
        let found = route.as_ref().map(|it| (it.family.name.as_str(), it.captures.to_vec()));
        let expected = expected.map(|(name, captures)| (name, captures.iter().map(ToString::to_string).collect()));
        assert_eq!(found, expected, "{path}");
    }
}

#[test]
fn without_rules_nothing_is_claimed_or_invalidated() {
    let rules = RuleSet::default();
    assert!(rules.route(&Method::GET, "/").is_none() && rules.invalidated_by(&Method::POST, "/").is_empty());
}

#[test]
fn all_settings_of_a_family_are_read() {
    let rules = rules(
        r#"
        [[family]]
        name = "x"
        path = '/x'
        methods = ["GET", "head"]
        ttl = "1m 30s"
        ttl_policy = "override"
        adaptive_ttl = { hot = "2x over 1000/h" }
        until = "09:00 Europe/Paris"
        negative_ttl = "10s"
        version = "v2"
        compress = "zstd"
        client_cache_control = "private, max-age=60"
        cdn_cache_control = "no-store"
        stale_while_revalidate = "0s"
        stale_if_error = "1h"
        query = { keep = ["page", "limit"] }
        headers = ["Accept-Language"]
        identity = "cookie:SID"
        heuristic = false
        stale_if_unreachable = "0s"
        client_directives = "all"
        close_delimited = "store"
        set_cookie = "strip"
        cookies = { keep = ["SID", "theme"] }
        normalize = ["Accept-Encoding"]
        max_variants = 8
        range = "whole"
        forward = "keyed"
        max_body = "1MiB"
        stale_while_slow = "250ms"
        write_through = true
        "#,
    );
    let family = &rules.families()[0];
    let policy = Policy {
        ttl: Some(Duration::from_secs(90)),
        ttl_policy: TtlPolicy::Override,
        adaptive_ttl: Some(AdaptiveTtl { cold: None, ..AdaptiveTtl::default() }),
        until: DailyTime::parse("09:00 Europe/Paris").ok(),
        negative_ttl: NegativeTtl::of_missing(Duration::from_secs(10)),
        stale_while_revalidate: Some(Duration::ZERO),
        stale_if_error: Some(Duration::from_secs(3600)),
        heuristic: false,
        stale_if_unreachable: Duration::ZERO,
        client_directives: ClientDirectives::All,
        close_delimited: CloseDelimited::Store,
        set_cookie: SetCookie::Strip,
        revalidate: Revalidate::WhenStale,
        for_everybody: false,
    };
    assert_eq!(family.policy, policy);
    assert_eq!(family.key_spec.identity, Identity::By(vec![CallerSource::Cookie("SID".into())]));
    let parameters = key::Parameters::Keep(vec!["page".into(), "limit".into()]);
    assert_eq!(family.key_spec.query, key::QueryKeySpec { parameters, sort: true });
    assert_eq!(family.key_spec.headers, ["accept-language"]);
    assert_eq!(family.key_spec.cookies.as_deref().unwrap(), ["SID", "theme"]);
    let normalize = vec![HeaderName::from_static("accept-encoding")];
    let fetching = Fetching { normalize, max_variants: 8, range_fetches_whole: true, keyed_only: true };
    assert_eq!(family.fetching, fetching);
    assert_eq!((family.max_body, family.line, family.id), (Some(1 << 20), 2, 0));
    assert_eq!(family.key_spec().name, "x");
    assert_eq!((family.stale_while_slow, family.write_through), (Some(Duration::from_millis(250)), true));
    assert_eq!((family.version.as_deref(), family.compress), (Some("v2"), Some(true)));
    assert_eq!(family.client_cache_control.text(), "private, max-age=60");
    assert_eq!(family.cdn_cache_control.as_ref().unwrap(), "no-store");
}

#[test]
fn the_digest_changes_with_the_definition_and_not_with_the_place() {
    let version = |extra: &str, before: &str| {
        let text = format!("{before}[[family]]\nname = 'x'\npath = '/x'\n{extra}\n");
        rules(&text).family("x").unwrap().definition.clone()
    };
    let plain = version("", "");
    assert!(plain.len() == 8 && plain.bytes().all(|byte| byte.is_ascii_hexdigit()), "{plain}");
    assert_eq!(version("# a word", "\n\n[[family]]\nname = 'y'\npath = '/y'\n"), plain);
    assert_eq!(version("methods = ['GET']\nttl_policy = 'default'", ""), plain);
    let changes = [
        "ttl = '1s'",
        "ttl = '2s'",
        "ttl = '1s'\nttl_policy = 'override'",
        "negative_ttl = '1s'",
        "stale_while_revalidate = '1s'",
        "stale_if_error = '1s'",
        "query = { keep = [] }",
        "query = { drop = [] }",
        "query = { drop = ['a', 'b'] }",
        "query = { drop = ['a, b'] }",
        "query = { sort = false }",
        "headers = ['a']",
        "identity = 'none'",
        "cookies = { keep = [] }",
        "cookies = { keep = ['a'] }",
        "set_cookie = 'strip'",
        "identity = 'header:a'",
        "identity = 'cookie:a'",
        "max_body = '1KiB'",
        "version = 'v1'",
        "version = 'v2'",
        "until = '09:00 Europe/Paris'",
        "until = '08:00 Europe/Paris'",
        "ttl = '1s'\nadaptive_ttl = true",
        "negative_ttl = { 404 = '1s' }",
        "client_cache_control = 'max-age=1'",
        "cdn_cache_control = 'max-age=1'",
        "cache = 'never'",
    ];
    let mut versions: Vec<String> = changes.iter().map(|extra| version(extra, "")).collect();
    versions.push(plain);
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), changes.len() + 1);
}

#[test]
fn a_family_that_is_never_cached_wins_wherever_it_stands() {
    let rules = rules(
        "[[family]]\nname = 'all'\npath = '/.*'\nttl = '1m'\n[[family]]\nname = 'secret'\npath = '/secret(/.*)?'\ncache = 'never'\n\
         [[family]]\nname = 'asked'\npath = '/asked'\nmethods = ['QUERY']\ncache = 'never'",
    );
    let (get, query) = (Method::GET, Method::from_bytes(b"QUERY").unwrap());
    let names: Vec<(&str, usize)> =
        rules.families().iter().map(|family| (family.name.as_str(), family.id)).collect();
    assert_eq!(names, [("secret", 0), ("asked", 1), ("all", 2)]);
    let rows = [
        (&get, "/secret/a", "secret", true),
        (&query, "/secret", "secret", true),
        (&get, "/secrets", "all", false),
        (&get, "/asked", "all", false),
        (&query, "/asked", "asked", true),
    ];
    for (method, path, name, is_never) in rows {
        assert_eq!(rules.route(method, path).unwrap().family.name, name, "{method} {path}");
        assert_eq!(rules.is_never_cached(method, path), is_never, "{method} {path}");
    }
    // A path that upstream may take for one of them is ambiguous, and bypasses the cache as well.
    for path in ["/secret%2Fa", "//secret/a", "/x/..%2Fsecret"] {
        let target = Target { path: path.to_owned(), ..Target::default() };
        assert!(rules.is_never_cached(&get, path) || rules.ambiguity(&get, &target).is_some(), "{path}");
    }
}

#[test]
fn hita_is_routed_as_documented() {
    let rules = hita();
    let rows = [
        ("/v1.0/user/stats", "user_stats", 300),
        ("/v1.0/users", "user_list", 60),
        ("/v1.0/user/details/5779356081", "user_details", 180),
        ("/v1.0/dashboard/stats", "dashboard_stats", 600),
        ("/v1.0/superadmin/users", "superadmin_user_list", 900),
    ];
    for (path, name, ttl) in rows {
        let family = rules.route(&Method::GET, path).unwrap().family;
        assert_eq!((family.name.as_str(), family.policy.ttl), (name, Some(Duration::from_secs(ttl))), "{path}");
    }
    assert!(rules.route(&Method::GET, "/v1x0/users").is_none());
    let coarse = ["user_stats", "user_list", "dashboard_stats", "user_details"];
    let rows: [(&str, &[&str]); 7] = [
        ("/v1.0/user/create", &coarse[..3]),
        ("/v1.0/user/update/7", &coarse),
        ("/v1.0/user/delete/7", &coarse),
        ("/v1.0/user/7/activate", &coarse),
        ("/v1.0/points/add", &coarse),
        ("/v1.0/permissions/7", &["user_details"]),
        ("/v1.0/user/7/activate/now", &[]),
    ];
    for (path, tags) in rows {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(invalidated(&rules, method, path), tags, "{method} {path}");
        }
    }
}

proptest! {
    #[test]
    fn an_instance_that_an_operator_copies_from_a_label_is_the_same(id in "[a-zA-Z0-9:*~%{}@ -]{1,20}") {
        let rules = families(&[("f", "/(?<id>.+)")]);
        let RouteMatch { family, captures } = rules.route(&Method::GET, &format!("/{id}")).unwrap();
        let tags = rules.resolve(&family.label(&captures, &InstanceValues::new()), None).unwrap();
        prop_assert!(family.tags(&captures).contains(&tags[0]));
    }

    #[test]
    fn any_path_can_be_routed(path in "/.{0,40}") {
        let rules = hita();
        let _ = rules.route(&Method::GET, &path);
        let _ = rules.invalidated_by(&Method::POST, &path);
        let _ = rules.resolve(&path, None);
    }
}

#[test]
fn families_can_share_a_path_with_different_methods() {
    let rules = rules(
        "[[family]]\nname = 'list'\npath = '/items'\nttl = '1m'\n\
         [[family]]\nname = 'search'\npath = '/items'\nmethods = ['QUERY']\nttl = '1m'\n",
    );
    let family = |method: &str| {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        rules.route(&method, "/items").map(|route| route.family.name.as_str())
    };
    assert_eq!(family("GET"), Some("list"));
    assert_eq!(family("HEAD"), Some("list"));
    assert_eq!(family("QUERY"), Some("search"));
    assert_eq!(family("POST"), None);
}

#[test]
fn families_that_could_not_be_compared_are_named() {
    let rules = families(&[("all", "/.*"), ("a", "/a"), ("b", "/b/[0-9]{1,9}"), ("c", "/c")]);
    assert_eq!(rules.shadowed(usize::MAX).len(), 3);
    let [warning] = &rules.shadowed(0)[..] else { panic!() };
    assert!(warning.message.starts_with("whether families \"a\", \"b\", \"c\" can get a request is not known"));
    let rules = families(&[("all", "/.*a.{20}b.*"), ("hard", "/.*a.{20}b")]);
    let [warning] = &rules.shadowed(usize::MAX)[..] else { panic!() };
    assert!(warning.message.starts_with("whether family \"hard\" can get a request is not known"));
}

#[test]
fn families_that_begin_otherwise_are_not_compared() {
    let rules = families(&[("a", "/a/.*"), ("b", "/b$x"), ("i", "(?i)/A/x")]);
    let warnings = rules.shadowed(0);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.message.starts_with("whether family \"i\""), "{warning:?}");
}
