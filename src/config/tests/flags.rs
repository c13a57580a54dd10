//! Flags and variables, which override the file.

use super::*;

fn overrides() -> Overrides {
    Overrides {
        upstream: Some("http://other:1".to_owned()),
        listen: Some("127.0.0.1:1".to_owned()),
        admin: Some("127.0.0.1:2".to_owned()),
        redis: Some("redis://:s3cret@r:3".to_owned()),
        namespace: Some("ns".to_owned()),
        admin_token: Some("ta-s3cret".to_owned()),
        viewer_token: None,
    }
}

#[test]
fn flags_win_over_the_file() {
    let file = "[server]\nupstream = 'http://h'\n[admin]\ntokens = [{ role = 'admin', token = 'old' }, \
                { role = 'viewer', token = 'v' }]\n[store]\nredis = 'redis://h'\nmarks_max = 5000\n";
    let config = parsed(file, &overrides()).unwrap();
    assert_eq!(config.server.upstream.as_ref().unwrap().to_string(), "http://other:1/");
    assert_eq!((config.server.listen.port(), config.admin.listen.port()), (1, 2));
    let store = config.store.as_ref().unwrap();
    assert_eq!((store.redis.as_str(), store.namespace.as_str()), ("redis://:s3cret@r:3", "ns"));
    assert_eq!(store.marks_max, 5000);
    let tokens: Vec<_> = config.admin.tokens.iter().map(|token| (token.role, token.secret.clone())).collect();
    let text = |text: &str| TokenSecret::Text(text.to_owned());
    assert_eq!(tokens, [(Role::Viewer, text("v")), (Role::Admin, text("ta-s3cret"))]);
    assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
    // The flag supplies what the table omits.
    assert!(parsed("[store]\ntimeout = '1s'\n", &overrides()).unwrap().store.is_some());
}

#[test]
fn a_faulty_flag_is_named_and_its_secrets_are_not_shown() {
    let overrides = Overrides {
        upstream: Some("localhost:1".to_owned()),
        listen: Some(":1".to_owned()),
        admin: Some("x".to_owned()),
        redis: Some("redis://:s3/cret@h".to_owned()),
        namespace: Some("a b".to_owned()),
        admin_token: Some("s3 cret".to_owned()),
        viewer_token: Some("s3 cret".to_owned()),
    };
    let faults = parsed("", &overrides).unwrap_err();
    let mut names: Vec<&str> = faults.0.iter().map(|fault| fault.file.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "--admin",
        "--listen",
        "--namespace",
        "--redis",
        "--upstream",
        "LARDER_ADMIN_TOKEN",
        "LARDER_VIEWER_TOKEN",
    ];
    assert_eq!(names, expected);
    assert!(!faults.to_string().contains("cret"), "{faults}");
    assert!(
        faults.to_string().contains("error: --upstream: is not a URL\n |\n = help: write it like"),
        "{faults}"
    );
}

#[test]
fn secrets_from_the_environment_and_passwords_are_not_shown() {
    let text = "[store]\nredis = 'redis://:pa55@${SECRET}'\n[server]\nlisten = '${BAD}'\nupstream = 'ftp://u:pa55@h'\n\
                [admin]\ntokens = [{ role = 'x', token = 'pa55' }]\n[[family]]\nname = '${BAD}!'\npath = '${BAD}['\n\
                ttl = '${BAD}'\nidentity = '${BAD}'\n[invalidate]\n'/x' = ['${BAD}']\n";
    let faults = parsed(text, &Overrides::default()).unwrap_err();
    assert!(faults.0.len() >= 8, "{faults}");
    let shown = format!("{faults}{faults:?}");
    assert!(!shown.contains("s3c") && !shown.contains("pa55"), "{shown}");
}
