//! Common mistakes and the line to write instead; several rules for one path.

use super::*;
use crate::config::store_url::StoreUrl;
use crate::marks::Tag;

/// The only fault of a file.
fn fault(text: &str) -> Fault {
    let found = faults(text);
    let [fault] = &found[..] else { panic!("{text}: {found:#?}") };
    fault.clone()
}

#[test]
fn common_mistakes_in_a_family_get_the_line_to_write() {
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
fn common_mistakes_elsewhere_get_the_line_to_write() {
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
        assert!(fault.remedy.contains(remedy), "{fault:#?}");
    }
}

#[test]
fn a_secret_under_a_wrong_key_is_not_repeated() {
    for text in ["[admin]\npassword = 's3cret'", "[store]\nredis = 'redis://h'\npass = 's3cret'"] {
        let fault = fault(text);
        assert!(!format!("{fault:?}").contains("s3cret"), "{fault:#?}");
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
        assert!(fault.message.contains(message) && fault.remedy.contains(remedy), "{fault:#?}");
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
            let matches = config.rules.invalidated_by(&method.parse().unwrap(), "/x");
            matches.into_iter().flat_map(|invalidated| invalidated.tags).collect::<Vec<_>>()
        };
        assert_eq!((tags("POST"), tags("PUT")), (vec![Tag::family("a")], vec![Tag::family("b")]), "{rules}");
        assert_eq!(tags("PATCH"), []);
    }
    let lines: Vec<usize> =
        good(&format!("{families}{tables}\n")).rules.invalidations().iter().map(|it| it.line).collect();
    assert_eq!(lines, [7, 10]);
    let mixed = fault(&format!("{families}[invalidate]\n'/x' = [{{ families = ['a'] }}, 'b']\n"));
    assert!(mixed.message.contains("must be a list, not a string") && mixed.line == 8, "{mixed:#?}");
}

#[test]
fn a_repeated_path_gets_the_list_as_remedy() {
    let twice = fault("[invalidate]\n'/x' = ['*']\n'/x' = { families = ['*'], methods = ['PUT'] }");
    assert!(twice.remedy.contains("write both in one list: '/path' = [{ families"), "{twice:#?}");
}

/// The configuration of a store whose variables are set.
fn store(fields: &str) -> StoreConfig {
    good(&format!("[store]\n{fields}\n")).store.unwrap()
}

#[test]
fn credentials_of_the_store_stand_beside_the_url_as_they_are() {
    let login = |config: &StoreConfig, password: Option<&str>| {
        let of_url = StoreUrl::read(&config.redis).unwrap().login;
        let login = config.login(of_url, password.map(str::to_owned));
        (login.user, login.password)
    };
    let text = |text: &str| Some(text.to_owned());
    let beside = store("redis = 'redis://h'\nusername = 'us:er'\npassword = 'a/b?c#d@e%41'");
    assert_eq!(login(&beside, None), (text("us:er"), text("a/b?c#d@e%41")));
    let from_env = store("redis = 'redis://h'\npassword = '${SECRET}'");
    assert_eq!(login(&from_env, None), (None, text("s3c/ret")));
    let empty = store("redis = 'redis://:${EMPTY:-}@h'\nusername = ''\npassword = '${EMPTY:-}'");
    assert_eq!(login(&empty, None), (None, None));
    let user_in_url = store("redis = 'redis://me@h'\npassword = 'x'");
    assert_eq!(login(&user_in_url, None), (text("me"), text("x")));
    let file = store("redis = 'redis://h'\npassword_file = '/run/secrets/redis'");
    assert_eq!(login(&file, Some("of the file")), (None, text("of the file")));
    assert!(!format!("{beside:?}").contains("c#d"), "{beside:?}");
}

#[test]
fn credentials_that_stand_twice_or_are_empty_are_refused() {
    let rows = [
        ("redis = 'redis://:x@h'\npassword = 'y'", 3, "password is also in the URL"),
        ("redis = 'redis://:x@h'\npassword_file = 'y'", 3, "password_file is also in the URL"),
        ("redis = 'redis://u:x@h'\nusername = 'y'", 3, "username is also in the URL"),
        ("redis = 'redis://h'\npassword = 'x'\npassword_file = 'y'", 4, "is set in addition to a password"),
        ("redis = 'redis://h'\npassword = '${EMPTY}'", 3, "the environment variable EMPTY is empty"),
        ("redis = 'redis://:${EMPTY}@h'", 2, "the environment variable EMPTY is empty"),
        ("redis = 'redis://:${SECRET}@h'", 2, "has a character in its password that ends it"),
    ];
    for (fields, line, message) in rows {
        let fault = fault(&format!("[store]\n{fields}\n"));
        assert!(fault.message.contains(message) && fault.line == line, "{fault:#?}");
        assert!(!fault.remedy.is_empty() && !format!("{fault:?}").contains("s3c"), "{fault:#?}");
    }
    let remedy = fault("[store]\nredis = 'redis://:${SECRET}@h'\n").remedy;
    assert!(remedy.contains("password = \"${REDIS_PASSWORD}\""), "{remedy}");
}

#[test]
fn upstream_tls_is_a_table() {
    let config = good(
        "[server]\nupstream = 'https://h'\n[server.upstream_tls]\nca = 'ca.pem'\ncert = 'c.pem'\nkey = 'k.pem'\nserver_name = 'api.test'\n",
    );
    let tls = UpstreamTls {
        ca: Some("ca.pem".into()),
        identity: Some(("c.pem".into(), "k.pem".into())),
        server_name: Some("api.test".to_owned()),
    };
    assert_eq!(config.server.upstream_tls, tls);
    let rows = [
        ("cert = 'c.pem'", "without its key", "add key ="),
        ("key = 'k.pem'", "without its certificate", "add cert ="),
        ("server_name = 'https://h'", "is not the name of a server", "api.internal"),
        ("tls_ca = 'x'", "unknown key \"tls_ca\"", "write ca = 'x'"),
        ("ca = ''", "ca is empty", "write a value"),
    ];
    for (field, message, remedy) in rows {
        let fault = fault(&format!("[server.upstream_tls]\n{field}\n"));
        assert!(fault.message.contains(message) && fault.remedy.contains(remedy), "{fault:#?}");
    }
    let plain = fault("[server]\nupstream = 'http://h'\nupstream_tls = { ca = 'x' }\n");
    assert!(plain.message.contains("without TLS") && plain.remedy.contains("https://"), "{plain:#?}");
}
