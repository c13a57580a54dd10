//! Paths that servers read in several ways.

use super::*;

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
