//! Which changed settings need a restart.

use super::*;

#[test]
fn a_change_of_tables_is_noticed_and_one_of_rules_is_not() {
    let base = "[server]\nlisten = '127.0.0.1:1'\n";
    let one = good(base);
    assert_eq!(one.differs(&good(&format!("{base}[[family]]\nname = 'a'\npath = '/a'\n"))), [""; 0]);
    let other = good("[store]\nredis = 'redis://h'\n[log]\naccess = false\n");
    assert_eq!(one.differs(&other), ["[server] listen", "[store]", "[log] access"]);
}

#[test]
fn settings_that_need_a_restart_are_listed_by_name() {
    const STORE: &str = "[store]\nredis = 'redis://h'\n";
    const ME: &str = "[[family]]\nname = 'me'\npath = '/me'\nttl = '1m'\nidentity = 'jwt:sub'\n";
    const JWT: &str = "[jwt]\njwks_url = 'https://a.example/keys'\n";
    let fields = [
        ("server", "listen = '127.0.0.1:1'"),
        ("server", "upstream = 'http://h'"),
        ("server", "host = 'upstream'"),
        ("server", "case_insensitive_paths = true"),
        ("server", "forwarded = 'off'"),
        ("server", "trusted_proxies = ['10.0.0.0/8']\nforwarded = 'append'"),
        ("server", "connect_timeout = '7s'"),
        ("server", "idle_timeout = '7s'"),
        ("server", "header_timeout = '7s'"),
        ("server", "drain_timeout = '7s'"),
        ("server", "reinvalidate_after = '7s'"),
        ("server", "stream_timeout = '7s'"),
        ("server", "max_connections = 7"),
        ("server", "max_connections_per_client = 7"),
        ("server", "max_streams_per_client = 7"),
        ("server", "max_heads = '7MiB'"),
        ("server", "max_upstream_requests = 7"),
        ("server", "max_upstream_requests_per_client = 7"),
        ("server", "max_upstream_streams = 7"),
        ("server", "max_upstream_streams_per_client = 7"),
        ("server", "stream_after = '7s'"),
        ("server", "download_rate = '7B'"),
        ("server", "max_unshared_per_client = 7"),
        ("server", "collapse_wait = '7s'"),
        ("server", "upgrades = ['chat']"),
        ("server", "on_incomplete = 'invalidate'"),
        ("server", "login = '/login'"),
        ("server", "underscores = true"),
        ("server", "credential_headers = ['acme-caller']"),
        ("server", "upstream_keep_alive = '7s'"),
        ("server", "resolver = '127.0.0.1'"),
        ("server", "max_head = '9KiB'"),
        ("server", "max_query_body = '7KiB'"),
        ("server", "max_rule_body = '7KiB'"),
        ("server", "upload_rate = '7B'"),
        ("server", "cache_status = 'off'"),
        ("server", "group_fields = 'keep'"),
        ("admin", "listen = '127.0.0.1:1'"),
        ("memory", "capacity = '32MiB'"),
        ("memory", "marks = 2048"),
        ("log", "format = 'json'"),
        ("log", "access = false"),
        ("log", "level = 'debug'"),
        ("jwt", "jwks_url = 'https://b.example/keys'"),
        ("jwt", "audience = 'api'"),
        ("jwt", "leeway = '7s'"),
        ("store", "namespace = 'other'"),
        ("store", "timeout = '7s'"),
        ("store", "connect_timeout = '7s'"),
        ("store", "marks_max = 7000"),
        ("store", "coherence = 'strict'"),
        ("store", "lease = '7s'"),
        ("store", "on_outage = 'refuse'"),
        ("store", "wait_replicas = 1"),
        ("store", "collapse_timeout = '7s'"),
        ("store", "sweep_rate = 7"),
        ("store", "sweep_pause = '7s'"),
    ];
    for (table, line) in fields {
        let (before, after) = match table {
            "store" => (STORE.to_owned(), format!("{STORE}{line}\n")),
            "jwt" if line.starts_with("jwks_url") => (format!("{JWT}{ME}"), format!("[jwt]\n{line}\n{ME}")),
            "jwt" => (format!("{JWT}{ME}"), format!("{JWT}{line}\n{ME}")),
            _ => (String::new(), format!("[{table}]\n{line}\n")),
        };
        let (field, _) = line.split_once(" =").unwrap();
        // Settings that follow from it by default are named too.
        let differs = good(&before).differs(&good(&after));
        assert!(differs.contains(&&*format!("[{table}] {field}")), "{line}: {differs:?}");
    }
    // These take effect at once.
    let live = "[alerts]\nhit_rate = '80%'\n[memory]\nmax_body = '9MiB'\n[[family]]\nname = 'a'\npath = '/a'\nmax_body = '9MiB'\n";
    assert_eq!(good("").differs(&good(live)), [""; 0]);
}
