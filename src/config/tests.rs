//! Values and defaults of the tables; by topic in the modules.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::http::headers::ForwardedPolicy;
use crate::rules::Collapse;
use crate::rules::fault::Fault;

mod faults;
mod flags;
mod restart;
mod sample;
mod typed_first;

fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8123".to_owned()),
        "BAD" => Some("s3cret".to_owned()),
        "SECRET" => Some("s3c/ret".to_owned()),
        "EMPTY" => Some(String::new()),
        "LONG" => Some("0123456789abcdef".to_owned()),
        _ => None,
    }
}

fn parsed(text: &str, overrides: &Overrides) -> Result<Config, Faults> {
    Config::parse(text, "rules.toml", overrides, &env)
}

fn good(text: &str) -> Config {
    parsed(text, &Overrides::default()).unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(text: &str) -> Vec<Fault> {
    parsed(text, &Overrides::default()).err().map_or_else(Vec::new, |faults| faults.0)
}

#[test]
fn without_a_file_there_are_defaults() {
    let config = Config::load(None, &Overrides::default(), &env).unwrap();
    assert_eq!(config.server, ServerConfig::default());
    assert_eq!(config.memory, MemoryConfig { capacity: 256 << 20, max_body: 8 << 20, marks: 262_144 });
    assert!(config.server.upstream.is_none() && config.store.is_none() && config.admin.tokens.is_empty());
    assert!(config.rules.families().is_empty() && config.file.is_none());
}

#[test]
fn all_tables_are_read() {
    let config = good(
        r#"
        [server]
        listen = "0.0.0.0:${PORT}"
        upstream = "https://api.example.com"
        host = "example.com"
        forwarded = "append"
        trusted_proxies = ["10.0.0.0/8", "2001:db8::1"]
        connect_timeout = "1s"
        upstream_timeout = "5s"
        idle_timeout = "6s"
        header_timeout = "7s"
        drain_timeout = "8s"
        max_connections = 1_000
        max_upstream_requests = 0x10
        max_upstream_requests_per_client = 3
        max_upstream_streams = 10
        stream_after = "2s"
        upload_rate = "2KiB"
        download_rate = "0B"
        on_incomplete = "invalidate"
        login = '/login.*'
        underscores = true
        upstream_keep_alive = "9s"
        resolver = "[::1]"
        [admin]
        listen = "[::1]:9091"
        tokens = [{ role = "admin", token = "${BAD}" }, { role = "viewer", token = "${EMPTY:-}" }]
        [store]
        redis = "rediss://:pw@h:6380/3"
        tls_ca = "ca.pem"
        tls_cert = "cert.pem"
        tls_key = "key.pem"
        timeout = "50ms"
        connect_timeout = "1s"
        marks_max = 2000
        coherence = "strict"
        lease = "1m"
        on_outage = "refuse"
        wait_replicas = 2
        collapse_timeout = '4s'
        sweep_rate = 0
        sweep_pause = '1h'
        secret = "${LONG}"
        [memory]
        capacity = "1GiB"
        max_body = "1MB"
        marks = 4096
        [log]
        format = "json"
        access = false
        level = "warn,larder=debug"
        "#,
    );
    let ServerConfig { listen, upstream, host, forwarded, .. } = &config.server;
    assert_eq!(listen.to_string(), "0.0.0.0:8123");
    assert_eq!(upstream.as_ref().unwrap().to_string(), "https://api.example.com/");
    assert_eq!(*host, HostPolicy::Fixed(http::HeaderValue::from_static("example.com")));
    assert_eq!(*forwarded, ForwardedPolicy::Append);
    let timeouts = [
        config.server.connect_timeout,
        config.server.upstream_timeout,
        config.server.idle_timeout,
        config.server.header_timeout,
        config.server.drain_timeout,
    ];
    assert_eq!(timeouts.map(|limit| limit.as_secs()), [1, 5, 6, 7, 8]);
    assert_eq!((config.server.max_connections, config.server.max_upstream_requests), (Some(1000), 16));
    let ServerConfig { max_upstream_requests_per_client, max_upstream_streams, .. } = config.server;
    assert_eq!((max_upstream_requests_per_client, max_upstream_streams), (3, 10));
    assert_eq!(config.server.max_upstream_streams_per_client, 2, "a quarter");
    assert_eq!(config.server.stream_after, Duration::from_secs(2));
    assert_eq!((config.server.upload_rate, config.server.download_rate), (2048, 0));
    assert_eq!(config.server.on_incomplete, OnIncomplete::Invalidate);
    assert!(config.server.login.as_ref().is_some_and(|login| login.is_match("/login/again")));
    assert!(config.server.underscores);
    assert_eq!(config.server.upstream_keep_alive.as_secs(), 9);
    assert_eq!(config.server.resolver.unwrap().to_string(), "[::1]:53");
    assert_eq!(config.admin.listen.to_string(), "[::1]:9091");
    assert_eq!(
        config.admin.tokens,
        [Token {
            name: "admin".to_owned(),
            role: Role::Admin,
            families: None,
            secret: TokenSecret::Text("s3cret".to_owned())
        }]
    );
    let store = config.store.as_ref().unwrap();
    assert_eq!((store.redis.as_str(), store.namespace.as_str()), ("rediss://:pw@h:6380/3", "larder"));
    assert_eq!(store.redacted(), "rediss://h:6380/3");
    assert_eq!(store.tls_ca.as_deref(), Some(Path::new("ca.pem")));
    assert_eq!(store.tls_identity, Some(("cert.pem".into(), "key.pem".into())));
    assert_eq!((store.timeout.as_millis(), store.connect_timeout.as_millis(), store.marks_max), (50, 1000, 2000));
    assert_eq!((store.coherence, store.on_outage), (Coherence::Strict, OnOutage::Refuse));
    assert_eq!((store.lease.as_secs(), store.wait_replicas), (60, 2));
    assert_eq!((store.collapse_timeout.as_secs(), store.sweep_rate, store.sweep_pause.as_secs()), (4, 0, 3600));
    assert_eq!(store.secret.as_deref(), Some("0123456789abcdef"));
    assert!(store.secret().is_some() && !format!("{config:?}").contains("0123456789abcdef"));
    assert_eq!(config.memory, MemoryConfig { capacity: 1 << 30, max_body: 1_000_000, marks: 4096 });
    let log = LogConfig {
        format: LogFormat::Json,
        access: false,
        level: "warn,larder=debug".to_owned(),
        ..LogConfig::default()
    };
    assert_eq!(config.log, log);
}

#[test]
fn collapse_timeout_is_at_most_upstream_timeout() {
    let store = "[store]\nredis = 'redis://h'\n";
    let hasty = "[server]\nupstream_timeout = '2s'\n";
    let limit = |text: &str| good(text).store.unwrap().collapse_timeout.as_secs();
    assert_eq!((limit(store), limit(&format!("{hasty}{store}"))), (5, 2));
    let [fault] = &faults(&format!("{hasty}{store}collapse_timeout = '3s'\n"))[..] else { panic!("one fault") };
    assert!(fault.message.contains("longer than [server] upstream_timeout (2s)"), "{}", fault.message);
    assert!(fault.remedy.contains("raise upstream_timeout"), "{}", fault.remedy);
}

#[test]
fn collapse_is_read_per_family() {
    let family = |more: &str| good(&format!("[[family]]\nname = 'a'\npath = '/a'\n{more}\n"));
    let all = [family(""), family("collapse = 'fleet'"), family("collapse = 'off'")];
    let of = |config: &Config| config.rules.families()[0].collapse;
    assert_eq!(all.each_ref().map(of), [Collapse::Proxy, Collapse::Fleet, Collapse::Off]);
    let versions = all.each_ref().map(|config| config.rules.families()[0].definition.clone());
    assert!(versions.iter().all(|version| *version == versions[0]), "entries are the same");
    let [fault] = &faults("[[family]]\nname = 'a'\npath = '/a'\ncollapse = 'all'\n")[..] else { panic!("one") };
    assert!(fault.remedy.contains("fleet"), "{}", fault.remedy);
}

#[test]
fn the_share_of_a_client_follows_the_number_of_places() {
    let share = |text: &str| good(&format!("[server]\n{text}\n")).server.max_unshared_per_client;
    let rows = [
        ("", 128),
        ("max_upstream_requests = 4", 8),
        ("max_upstream_requests = 4000", 1000),
        ("max_unshared_per_client = 3", 3),
        ("max_upstream_requests = 4000\nmax_unshared_per_client = 3", 3),
    ];
    for (text, expected) in rows {
        assert_eq!(share(text), expected, "{text}");
    }
    assert_eq!(good("").server.max_unshared_per_client, 128);
}

#[test]
fn protocols_are_compared_in_lower_case() {
    let of = |text: &str| good(&format!("[server]\n{text}\n")).server.upgrades;
    assert_eq!(of("upgrades = ['WebSocket', 'a/1.0']"), ["websocket", "a/1.0"]);
    assert_eq!((of("upgrades = []"), of("")), (Vec::new(), vec!["websocket".to_owned()]));
}

#[test]
fn no_share_exceeds_its_total() {
    for total in ["max_upstream_requests", "max_upstream_streams"] {
        let text = format!("[server]\n{total} = 8\n{total}_per_client = 9\n");
        let faults = parsed(&text, &Overrides::default()).unwrap_err();
        let fault = &faults.0[0];
        assert!(fault.message.contains(&format!("more than {total} (8)")), "{}", fault.message);
        assert!(fault.remedy.contains(&format!("raise {total}")), "{}", fault.remedy);
        assert_eq!(fault.line, 3);
        good(&text.replace('9', "8"));
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in r#"([ \n=.,'"\[\]{}$()?<>\\/#a-d0-3ü-]|\[\[family\]\]|\[invalidate\]|name|path|ttl|families){0,60}"#) {
        let _ = faults(&text);
    }

    #[test]
    fn any_value_of_any_field_is_read_or_refused(
        table in r"\[(server|admin|store|memory|log|invalidate|\[family\])\]",
        key in "listen|upstream|tokens|redis|capacity|level|name|path|ttl|query|identity|methods|'/a(?<x>b)'",
        value in r#"'[^'\n]{0,20}'|[0-9]{1,25}|-?[0-9.e_]{1,8}|true|\[\]|\{\}|\['[a-z:{}*]{0,8}', 1\]|\{ families = \['.{0,5}'\], on = \['[0-9x-]{1,7}'\] \}"#,
    ) {
        for fault in faults(&format!("{table}\n{key} = {value}\n")) {
            prop_assert!(fault.line >= 1 && fault.column >= 1 && !fault.remedy.is_empty());
        }
    }
}
