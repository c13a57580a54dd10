//! Common wrong keys, from other caches and proxies or guessed, and the line to write instead.

/// The remedy for an unknown key. `place` is the kind of its table ([`super::reader`]), `typed` its value as written
/// in the file.
pub fn line(place: &str, key: &str, typed: &str) -> Option<String> {
    let place = place.replace("[]", "");
    let key = key.to_ascii_lowercase().replace('-', "_");
    let (.., line) =
        LINES.iter().find(|(there, keys, _)| *there == place && keys.split(' ').any(|known| known == key))?;
    Some(format!("write {}", filled(line, typed)))
}

/// The remedy for a value that must be a table.
pub fn table(place: &str) -> Option<&'static str> {
    (place == "invalidate")
        .then_some("write [invalidate], and below it a line for each path: '/users' = [\"user_list\"]")
}

/// Table, keys with spaces between, line. In the line, `{value}` stands for the value as written, `{text}` for it without quotes,
/// `{list}` for a list of it, and `{duration}` for it in quotes with a unit. Lines for secrets repeat no value.
static LINES: &[(&str, &str, &str)] = &[
    (
        "",
        "families rule rules route routes cache caches endpoint endpoints location",
        "[[family]], and below it name = \"…\", path = '/…' and ttl = \"1m\"",
    ),
    (
        "",
        "invalidation invalidations invalidates invalidate_on invalidate invalidates purge writes",
        "[invalidate], and below it a line for each path: '/users' = [\"user_list\"]",
    ),
    ("", "redis valkey storage backend_store", "[store], and below it redis = \"redis://127.0.0.1:6379/0\""),
    ("", "upstream backend origin target", "[server], and below it upstream = \"http://127.0.0.1:8000\""),
    ("", "listen port bind address", "[server], and below it listen = \"127.0.0.1:8080\""),
    ("", "logging logs", "[log]"),
    ("family", "pattern regex url uri urls match route paths location endpoint", "path = {value}"),
    ("family", "key_prefix prefix cache_key key id tag tags group", "name = {value}"),
    (
        "family",
        "expires expire expiry max_age maxage cache_time lifetime timeout duration s_maxage",
        "ttl = {duration}",
    ),
    ("family", "swr", "stale_while_revalidate = {duration}"),
    ("family", "sie grace stale", "stale_if_error = {duration}"),
    ("family", "method", "methods = {list}"),
    ("family", "vary vary_on header key_headers vary_headers", "headers = {list}"),
    ("family", "auth authorization per_user user private session", "identity = \"header:authorization\""),
    ("family", "public shared anonymous", "identity = \"none\""),
    ("family", "jwt claim claims", "identity = \"jwt:sub\""),
    ("family", "params query_params query_string parameters", "query = { keep = {list} }"),
    ("family", "ignore_query ignore_params strip_query drop", "query = { drop = {list} }"),
    (
        "family",
        "invalidate invalidates invalidated_by invalidate_on purge_on invalidated_by",
        "a line below [invalidate]: '/the/path/of/the/write' = [\"the name of this family\"]",
    ),
    ("family", "instances tags_from", "instance = { name = \"query:NAME\" }"),
    ("invalidate.*", "exclude unless not exceptions ignore", "except = {list}"),
    ("family", "max_size size max_body_size", "max_body = {value}"),
    ("family", "coalesce coalescing request_collapsing lock", "collapse = \"proxy\""),
    ("family.query", "include only allow whitelist keys", "keep = {list}"),
    ("family.query", "ignore exclude strip remove deny blacklist", "drop = {list}"),
    ("invalidate.*", "family invalidates invalidate tags tag patterns keys invalidates", "families = {list}"),
    ("invalidate.*", "method", "methods = {list}"),
    ("invalidate.*", "status statuses code codes", "on = {list}"),
    ("invalidate.*", "soft", "mode = \"soft\""),
    ("invalidate.*", "delay after repeat", "again = {duration}"),
    ("server", "port", "listen = \"127.0.0.1:{text}\""),
    ("server", "address bind addr listen_addr", "listen = {value}"),
    ("server", "backend origin target proxy_pass url api", "upstream = \"http://127.0.0.1:8000\""),
    ("server", "timeout read_timeout proxy_read_timeout request_timeout", "upstream_timeout = {duration}"),
    ("server", "keep_alive keepalive keepalive_timeout", "upstream_keep_alive = {duration}"),
    ("server", "shutdown_timeout graceful_timeout", "drain_timeout = {duration}"),
    ("server", "tls upstream_ca tls_ca ca", "[server.upstream_tls], and below it ca = \"….pem\""),
    ("server.upstream_tls", "tls_ca cafile ca_file root_ca authority", "ca = {value}"),
    ("server.upstream_tls", "tls_cert certificate cert_file client_cert", "cert = {value}"),
    ("server.upstream_tls", "tls_key key_file client_key", "key = {value}"),
    ("server.upstream_tls", "sni host hostname name", "server_name = {value}"),
    ("admin", "port", "listen = \"127.0.0.1:{text}\""),
    ("admin", "address bind addr", "listen = {value}"),
    (
        "admin",
        "token password api_key secret",
        "tokens = [{ role = \"admin\", token = \"${LARDER_ADMIN_TOKEN}\" }]",
    ),
    ("store", "url uri redis_url address addr host hosts port", "redis = \"redis://127.0.0.1:6379/0\""),
    ("store", "db database", "redis = \"redis://127.0.0.1:6379/{text}\""),
    ("store", "prefix key_prefix keyspace", "namespace = {value}"),
    ("store", "user", "username = {value}"),
    ("store", "pass auth redis_password", "password = \"${REDIS_PASSWORD}\""),
    ("store", "tls ssl", "redis = \"rediss://127.0.0.1:6379/0\""),
    ("store", "ca ca_file cafile", "tls_ca = {value}"),
    ("memory", "size max_size max_memory limit max_bytes", "capacity = \"256MiB\""),
    ("memory", "max_entry max_object max_item", "max_body = {value}"),
    ("log", "access_log", "access = true"),
    ("log", "type json", "format = \"json\""),
];

fn filled(line: &str, typed: &str) -> String {
    // Multi-line values are not repeated.
    let value = if typed.is_empty() || typed.contains('\n') || typed.len() > 100 { "\"…\"" } else { typed };
    let text = value.trim_matches(['"', '\'']);
    let list = if value.starts_with('[') { value.to_owned() } else { format!("[{value}]") };
    let has_unit = !text.is_empty() && !text.bytes().all(|byte| byte.is_ascii_digit());
    let duration = if has_unit { format!("\"{text}\"") } else { format!("\"{text}s\"") };
    line.replace("{value}", value)
        .replace("{text}", text)
        .replace("{list}", &list)
        .replace("{duration}", &duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_wrong_keys_get_the_line_to_write() {
        let rows = [
            ("family[]", "pattern", "'/users/.*'", "write path = '/users/.*'"),
            ("family[]", "key_prefix", "\"users\"", "write name = \"users\""),
            ("family[]", "max-age", "300", "write ttl = \"300s\""),
            ("family[]", "Expires", "'5m'", "write ttl = \"5m\""),
            ("family[]", "vary", "\"accept\"", "write headers = [\"accept\"]"),
            ("family[]", "vary", "[\"accept\"]", "write headers = [\"accept\"]"),
            ("family[]", "url", "'''\n/x'''", "write path = \"…\""),
            ("invalidate.*", "method", "'POST'", "write methods = ['POST']"),
            ("invalidate.*[]", "status", "[200]", "write on = [200]"),
            ("server", "port", "8081", "write listen = \"127.0.0.1:8081\""),
            ("store", "pass", "'s3cret'", "write password = \"${REDIS_PASSWORD}\""),
        ];
        for (place, key, typed, expected) in rows {
            assert_eq!(line(place, key, typed).as_deref(), Some(expected), "{place} {key}");
        }
        assert_eq!(line("server", "listn", "''"), None);
    }
}
