//! What people write first, and what they are told to write instead; several rules for one path.

use super::*;
use crate::stamp::Tag;

/// The only fault of a file.
fn fault(text: &str) -> Fault {
    let found = faults(text);
    let [fault] = &found[..] else { panic!("{text}: {found:#?}") };
    fault.clone()
}

#[test]
fn what_is_written_first_in_a_family_gets_the_line_to_write() {
    let rows = [
        ("path = '/users/:id'", "write '/users/(?<id>[^/]+)'"),
        ("path = '/users/{id}'", "write '/users/(?<id>[^/]+)'"),
        ("path = '/users/<int:id>'", "write '/users/(?<id>[^/]+)'"),
        ("path = '/users/*'", "write '/users/.*'"),
        (r"path = '/users\?page=\d+'", "write '/users'; in a family, query = { keep = [\"page\"] }"),
        ("path = '/u'\npattern = '/users'", "write path = '/users'"),
        ("path = '/u'\nkey_prefix = 'users'", "write name = 'users'"),
        ("path = '/u'\nttl = 300", "write ttl = \"300s\""),
        ("path = '/u'\nttl = '300'", "write ttl = \"300s\""),
        ("path = '/u'\nmax_age = 300", "write ttl = \"300s\""),
        ("path = '/u'\nmax_body = 100", "write max_body = \"100B\""),
        ("path = '/u'\nidentity = 'Authorization'", "write identity = \"header:authorization\""),
        ("path = '/u'\nidentity = 'X-Api-Key'", "write identity = \"header:x-api-key\""),
        ("path = '/u'\nidentity = 'header: Authorization'", "write identity = \"header:authorization\""),
        ("path = '/u'\nidentity = 'cookie: sessionid'", "write identity = \"cookie:sessionid\""),
        ("path = '/u'\nidentity = 'session'", "write identity = \"cookie:NAME\""),
        ("path = '/u'\nidentity = 'public'", "write identity = \"none\""),
        ("path = '/u'\nvary = 'Accept-Language'", "write headers = ['Accept-Language']"),
        ("path = '/u'\nquery = { include = ['page'] }", "keep = ['page']"),
        ("path = '/u'\nheaders = 'accept'", "write [\"accept\"]"),
    ];
    for (fields, remedy) in rows {
        let text = format!("[[family]]\nname = 'u'\n{fields}\n");
        let found = faults(&text);
        assert!(found.iter().any(|fault| fault.remedy.contains(remedy)), "{fields}: {found:#?}");
    }
}

#[test]
fn what_is_written_first_elsewhere_gets_the_line_to_write() {
    let rows = [
        ("[[families]]\nname = 'x'", "write [[family]]"),
        ("[redis]\nurl = 'redis://h'", "write [store], and below it redis ="),
        ("[server]\nport = 8081", "write listen = \"127.0.0.1:8081\""),
        ("[server]\nbackend = 'h'", "write upstream ="),
        ("[server]\ntimeout = 30", "write upstream_timeout = \"30s\""),
        ("[admin]\ntoken = 'x'", "write tokens = [{ role = \"admin\""),
        ("[store]\nredis = 'redis://h'\nprefix = 'x'", "write namespace = 'x'"),
        ("[memory]\nmax_memory = '1GB'", "write capacity ="),
        ("[invalidate]\n'/users/:id' = ['*']", "write '/users/(?<id>[^/]+)'"),
        ("[invalidate]\n'/x/*' = ['*']", "write '/x/.*'"),
        ("[invalidate]\n'/x' = { families = ['*'], method = 'POST' }", "write methods = ['POST']"),
        ("[invalidate]\n'/x' = [{ families = ['*'], status = 201 }]", "write on = [201]"),
    ];
    for (text, remedy) in rows {
        let fault = fault(text);
        assert!(fault.remedy.contains(remedy), "{fault}");
    }
}

#[test]
fn a_secret_under_a_wrong_key_is_not_repeated() {
    for text in ["[admin]\npassword = 's3cret'", "[store]\nredis = 'redis://h'\npass = 's3cret'"] {
        assert!(!fault(text).to_string().contains("s3cret"), "{}", fault(text));
    }
}

#[test]
fn an_instance_that_no_path_of_its_family_has_is_refused() {
    const USER: &str = "[[family]]\nname = 'user'\npath = '/user/(?<id>\\d+)'\n";
    let rows = [
        ("user:me", "\"me\" is no {id}", "\"user\" for all of the family"),
        ("user:{id}:*", "has 2 parts", "write \"user:{id}\": an instance has nothing below it"),
        ("user:7:settings", "has 2 parts", "at most one part"),
    ];
    for (reference, message, remedy) in rows {
        let fault = fault(&format!("{USER}[invalidate]\n'/w/(?<id>.+)' = ['{reference}']\n"));
        assert!(fault.message.contains(message) && fault.remedy.contains(remedy), "{fault}");
    }
    good(&format!("{USER}[invalidate]\n'/w' = ['user:7', 'user:*']\n"));
}

#[test]
fn one_path_may_have_several_rules() {
    let families = "[[family]]\nname = 'a'\npath = '/a'\n[[family]]\nname = 'b'\npath = '/b'\n";
    let inline =
        "[invalidate]\n'/x' = [{ families = ['a'], methods = ['POST'] }, { families = ['b'], methods = ['PUT'] }]";
    let tables = "[[invalidate.'/x']]\nfamilies = ['a']\nmethods = ['POST']\n[[invalidate.'/x']]\nfamilies = ['b']\nmethods = ['PUT']";
    for rules in [inline, tables] {
        let config = good(&format!("{families}{rules}\n"));
        let tags = |method: &str| {
            let matches = config.rules.outdated_by(&method.parse().unwrap(), "/x");
            matches.into_iter().flat_map(|outdated| outdated.tags).collect::<Vec<_>>()
        };
        assert_eq!((tags("POST"), tags("PUT")), (vec![Tag::family("a")], vec![Tag::family("b")]), "{rules}");
        assert_eq!(tags("PATCH"), []);
    }
    let lines: Vec<usize> =
        good(&format!("{families}{tables}\n")).rules.invalidations().iter().map(|it| it.line).collect();
    assert_eq!(lines, [7, 10]);
    let mixed = fault(&format!("{families}[invalidate]\n'/x' = [{{ families = ['a'] }}, 'b']\n"));
    assert!(mixed.message.contains("must be a list, not a string") && mixed.line == 8, "{mixed}");
}

#[test]
fn a_path_that_stands_twice_is_told_of_the_list() {
    let twice = fault("[invalidate]\n'/x' = ['*']\n'/x' = { families = ['*'], methods = ['PUT'] }");
    assert!(twice.remedy.contains("write both in one list: '/path' = [{ families"), "{twice}");
}
