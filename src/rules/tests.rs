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

fn at(path: &str) -> Target {
    Target { host: "h".into(), ..Target::default() }.at(path)
}

const DECEIVED: &str = r#"
[[family]]
name = "me"
path = '/me(/.*)?'
identity = "cookie:sid"

[[family]]
name = "what"
path = '/what/(?<what>\w+)'
identity = "header:authorization"

[[family]]
name = "assets"
path = '/assets/.*|/.*\.css'
identity = "none"

[[family]]
name = "docs"
path = '/docs/.*'
identity = "none"

[[family]]
name = "all"
path = '/all(/.*)?|/what/.*'
identity = "none"
"#;

#[test]
fn a_path_with_readings_in_two_families_is_ambiguous() {
    let rules = rules(DECEIVED);
    let rows = [
        "/assets/..%2Fme/mail",
        "/assets/..%2fme%2fmail",
        "/assets/..;/me/mail",
        "/assets/..%3B/me/mail",
        "/assets/..;a=b/me",
        "/assets/..%5cme/mail",
        "/assets/..\\me/mail",
        "/assets/x%2F..%2F..%2Fme",
        "/assets/..%252Fme/mail",
        "/assets/%252e%252e/me",
        "/assets/..%c0%afme",
        "/me/..%5cassets/x",
        "/me/..%2Fassets/x",
        "/me/..;/assets/x.css",
        "/me%2Fmail;x.css",
        "/me;x.css",
        "/me%3Fx.css",
        "/me%00.css",
        "/me%23/x.css",
        "/me%0A.css",
        "/me%0d%0a.css",
        "/me%253Fx.css",
        "//me/mail",
        "//me",
        "//x/me",
        "/%2Fme",
        "/%5Cme",
        "/what//mail",
        "/what/mail/",
        "/what/mail;x",
        "/what/mail%2F",
        "/what/mail%00x",
        "/what/mail;/x.css",
        "/what/mail%3Fx.css",
        "/what/mail%20",
        "/nothing/..%2Fme",
        "/me/..%2Fnothing",
    ];
    for path in rows {
        let target = at(path);
        let found = rules.ambiguity(&Method::GET, &target).unwrap_or_else(|| panic!("{path}"));
        assert!(found.readings.iter().all(|(_, family)| family.map(|it| it.id) != found.family.map(|it| it.id)));
        assert!(!found.readings.is_empty() && rules.ambiguity(&Method::HEAD, &target).is_some(), "{path}");
    }
}

#[test]
fn a_path_of_one_family_under_all_readings_is_not_ambiguous() {
    let rules = rules(DECEIVED);
    let rows = [
        "/me",
        "/me/",
        "/me//mail",
        "/me/mail;v=1",
        "/me/a%20b",
        "/me/a%2Fb",
        "/me/x.css",
        "/me/mail%3Fx.css",
        "/me/%E4%BD%A0",
        "/me/joe%40x.test",
        "/assets/a;v=2/b.css",
        "/assets/a//b.css",
        "/assets/a%2520b",
        "/assets/a%2F..%2Fb",
        "/what/mail",
        "/all/",
        "/all/a%2Fb;c//",
        "/nothing/a;b//",
        "/nothing%2Fa/",
        "/docs/",
        "/docs//",
        "/",
    ];
    for path in rows {
        let target = at(path);
        assert!(rules.ambiguity(&Method::GET, &target).is_none(), "{path}");
    }
}

#[test]
fn a_path_made_to_have_many_readings_is_ambiguous_although_all_are_of_one_family() {
    let target = at(&format!("/me{}", "/;x%2F..;%252F%5C%3B//%00%3F%255C..%2F.%2F;//".repeat(9)));
    let rules = families(&[("all", ".*")]);
    let found = rules.ambiguity(&Method::GET, &target).unwrap();
    assert!(!found.is_complete && found.readings.is_empty());
}

#[test]
fn an_entry_carries_the_instances_of_all_readings() {
    let rules = families(&[("user", "/users/(?<id>.+)")]);
    let family = rules.family("user").unwrap();
    let tags = |path: &str| {
        let tags = family.tags_of(&at(path).readings(), &family.captures(path), &InstanceValues::new());
        tags.iter().map(|tag| tag.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(tags("/users/5"), ["user", "user:5"]);
    assert_eq!(tags("/users/5;v=1"), ["user", "user:5;v=1", "user:5"]);
    assert_eq!(tags("/users/5/"), ["user", "user:5/", "user:5"]);
    assert_eq!(tags("/users/a%2Fb"), ["user", "user:a/b"]);
}

#[test]
fn a_write_is_matched_by_every_reading_of_its_path() {
    let rules = rules(
        "[[family]]\nname = 'user'\npath = '/users/(?<id>\\w+)'\n[invalidate]\n'/users/(?<id>\\w+)' = ['user:{id}']\n",
    );
    let methods = Meant::These(vec![Method::PUT]);
    let spellings = [
        "/users/5",
        "/users/5/",
        "//users/5",
        "//host/users/5",
        "/users//5",
        "/users%2F5",
        "/users%252F5",
        "/users%5C5",
        "/users;x/5",
        "/users/5;x",
        "/users/5%00.json",
        "/users/5%3Fx",
        "/users/5%0A",
        "/x/..%2Fusers/5",
        "/x/..;/users/5",
        "/x%2F..%2Fusers/5;y/",
    ];
    for path in spellings {
        let target = at(path);
        let tags: Vec<_> = rules
            .invalidated_by_any(&methods, &[target], WriteValues::UNKNOWN)
            .into_iter()
            .flat_map(|it| it.tags)
            .collect();
        assert!(tags.contains(&Tag::family("user:5")), "{path}: {tags:?}");
    }
}

#[test]
fn literals_of_rules_match_every_spelling_of_a_path() {
    let rules = rules(
        r#"
        [[family]]
        name = "user"
        path = '/u/%40(?<name>[a-z]+)'
        [[family]]
        name = "item"
        path = '/items/(?<id>[^:/]+)'
        [invalidate]
        '/items/(?<id>\d+):publish' = ["item:{id}"]
        '/u/@(?<name>\w+)/name' = ["user:{name}"]
        "#,
    );
    for path in ["/u/@joe", "/u/%40joe", "/%75/@%6Aoe"] {
        let target = at(path);
        let RouteMatch { family, captures } = rules.route(&Method::GET, &target.path).unwrap();
        assert_eq!((family.name.as_str(), &captures[0][..]), ("user", "joe"), "{path}");
        assert!(rules.ambiguity(&Method::GET, &target).is_none(), "{path}");
    }
    // A pattern can distinguish a delimiter from its encoding.
    assert_eq!(rules.route(&Method::GET, "/items/a%3Ab").unwrap().captures[0], "a%3Ab");
    let post = Meant::These(vec![Method::POST]);
    for (path, tag) in
        [("/items/7:publish", "item:7"), ("/items/7%3apublish", "item:7"), ("/u/%40joe/name", "user:joe")]
    {
        let invalidated = rules.invalidated_by_any(&post, &[at(path)], WriteValues::UNKNOWN);
        assert!(invalidated.iter().any(|it| it.tags.contains(&Tag::family(tag))), "{path}");
    }
}

#[test]
fn paths_without_case_are_one_in_families_and_rules() {
    let text = "[[family]]\nname = 'user'\npath = '/Users/(?<id>[A-Z]+)'\n[invalidate]\n'/USERS/(?<id>\\w+)/Name' = \
                ['user:{id}']\n";
    let (reader, table) = RulesReader::open("rules.toml", text, &|_| None);
    let rules = RuleSet::read(&mut reader.root(&table), PathCase::Insensitive);
    let at = |path: &str| Target { case: PathCase::Insensitive, ..Target::default() }.at(path);
    let tags = |path: &str| {
        let target = at(path);
        let RouteMatch { family, captures } = rules.route(&Method::GET, &target.path).unwrap();
        [family.tags_of(&target.readings(), &captures, &InstanceValues::new()), target.tags()].concat()
    };
    assert_eq!(tags("/users/JOE"), tags("/USERS/joe"));
    let write =
        rules.invalidated_by_any(&Meant::These(vec![Method::PUT]), &[at("/users/Joe/NAME")], WriteValues::UNKNOWN);
    assert_eq!(write[0].tags, [Tag::family("user:joe")]);
}

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
fn without_rules_nothing_is_claimed_or_invalidated() {
    let rules = RuleSet::default();
    assert!(rules.route(&Method::GET, "/").is_none() && rules.invalidated_by(&Method::POST, "/").is_empty());
}

#[test]
fn entries_carry_levels_and_instances() {
    let rules = families(&[
        ("booking:stats", "/b/stats"),
        ("booking:room", "/b/(?<hotel>[^/]+)/(?<room>[^/]+)"),
        ("a", "/a(?:/(?<id>.*))?"),
    ]);
    let rows: [(&str, &[&str], &str); 5] = [
        ("/b/stats", &["booking", "booking:stats"], "booking:stats"),
        (
            "/b/7/12",
            &["booking", "booking:room", "booking:room:7", "booking:room:*:12", "booking:room:7:12"],
            "booking:room:7:12",
        ),
        ("/a/x:*", &["a", "a:x%3A%2A"], "a:x%3A%2A"),
        ("/a", &["a", "a:"], "a:"),
        ("/a/%7E", &["a", "a:%7E"], "a:%7E"),
    ];
    for (path, tags, label) in rows {
        let RouteMatch { family, captures } = rules.route(&Method::GET, path).unwrap();
        assert_eq!(texts(&family.tags(&captures)), tags, "{path}");
        assert_eq!(family.label(&captures, &InstanceValues::new()), label);
    }
}

#[test]
fn a_write_names_a_tag_that_the_entry_carries() {
    let rules = rules(
        r#"
        [[family]]
        name = "room"
        path = '/hotels/(?<hotel>[^/]+)/rooms/(?<room>[^/]+)'

        [invalidate]
        '/hotels/(?<h>[^/]+)'                   = ["room:{h}"]
        '/any/rooms/(?<r>[^/]+)'                = ["room:*:{r}"]
        '/hotels/(?<h>[^/]+)/rooms/(?<r>[^/]+)' = ["room:{h}:{r}"]
        "#,
    );
    let entry = |path: &str| {
        let RouteMatch { family, captures } = rules.route(&Method::GET, path).unwrap();
        family.tags(&captures)
    };
    let rows = [
        ("/hotels/1", "/hotels/1/rooms/2", true),
        ("/hotels/1", "/hotels/2/rooms/2", false),
        ("/any/rooms/2", "/hotels/9/rooms/2", true),
        ("/any/rooms/2", "/hotels/2/rooms/1", false),
        ("/hotels/1/rooms/2", "/hotels/1/rooms/2", true),
        ("/hotels/1/rooms/2", "/hotels/1/rooms/3", false),
        ("/hotels/a:b/rooms/c", "/hotels/a%3Ab/rooms/c", true),
        ("/hotels/a:b/rooms/c", "/hotels/a/rooms/b:c", false),
    ];
    for (write, read, hits) in rows {
        let invalidated = invalidated(&rules, "PUT", write);
        let hit = entry(read).iter().any(|tag| invalidated.iter().any(|it| it == tag.as_str()));
        assert_eq!(hit, hits, "{write} on {read}");
    }
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

#[test]
fn operators_resolve_families_and_instances() {
    let rules = hita();
    assert_eq!(texts(&rules.resolve("user_details:5779356081", None).unwrap()), ["user_details:5779356081"]);
    assert_eq!(texts(&rules.resolve("user*", None).unwrap()), ["user_details", "user_list", "user_stats"]);
    assert_eq!(texts(&rules.resolve("*", None).unwrap()), ["*"]);
    assert_eq!(rules.resolve("user_detail", None).unwrap_err().nearest, ["user_details"]);
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

#[test]
fn a_rule_applies_unless_all_readings_of_the_path_are_exceptions() {
    let rules = rules(
        r#"
        [[family]]
        name = "user"
        path = '/users'

        [invalidate]
        '/points/.*' = { families = ["user"], except = ['/points/preview', '/points/.*/validate'] }
        '/logout.*'  = { families = ["user"], methods = ["GET"], except = ['/logout/help'] }
        "#,
    );
    let rows = [
        ("/points/add", true),
        ("/points/preview", false),
        ("/points/7/validate", false),
        ("/points/previews", true),
        ("/points/add/..%2Fpreview", true),
        ("/points/preview%2F..%2Fadd", true),
    ];
    for (path, applies) in rows {
        let target = Target::default().at(path);
        let post = Meant::These(vec![Method::POST]);
        let found = rules.invalidated_by_any(&post, &[target], WriteValues::UNKNOWN);
        assert_eq!(!found.is_empty(), applies, "{path}");
    }
    let is_write = |path: &str| rules.is_write(&Method::GET, &Target::default().at(path));
    assert!(is_write("/logout") && !is_write("/logout/help") && !is_write("/users"));
}

#[test]
fn a_read_carries_a_tag_for_each_value_of_its_instances() {
    let rules = rules(
        r#"
        [[family]]
        name = "room"
        path = '/rooms/(?<room>[^/]+)'
        headers = ["x-tenant"]
        instance = { date = "query:date", tenant = "header:x-tenant" }
        "#,
    );
    let RouteMatch { family, captures } = rules.route(&Method::GET, "/rooms/1").unwrap();
    let tags = |query: &str, fields: &[(&str, &str)]| {
        let target = Target { query: Some(query.to_owned()), ..Target::default().at("/rooms/1") };
        let fields = crate::http::sample::fields(fields);
        let values = family.instance_values(&target, PresentedCredentials::without_token(&fields), None)?;
        Some(texts(&family.tags_of(&target.readings(), &captures, &values)).join(" "))
    };
    type Fields = &'static [(&'static str, &'static str)];
    let rows: [(&str, Fields, &str); 3] = [
        ("", &[], "room room:1"),
        ("date=a&date=b", &[], "room room:*:a room:*:b room:1 room:1:a room:1:b"),
        (
            "date=a",
            &[("x-tenant", "t")],
            "room room:*:*:t room:*:a room:*:a:t room:1 room:1:*:t room:1:a room:1:a:t",
        ),
    ];
    for (query, fields, expected) in rows {
        assert_eq!(tags(query, fields).as_deref(), Some(expected), "{query}");
    }
    let many: Vec<String> = (0..instance::TAGS).map(|date| format!("date={date}")).collect();
    assert_eq!(tags(&many.join("&"), &[]), None);
}
