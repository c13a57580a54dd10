//! The project's own files are valid, and the sample states the defaults.

use super::*;

#[test]
fn the_files_of_the_project_are_valid() {
    let set = |name: &str| match name {
        "UPSTREAM_URL" => Some("http://api:8000".to_owned()),
        "REDIS_URL" => Some("redis://redis:6379".to_owned()),
        "LARDER_ADMIN_TOKEN" => Some("t".to_owned()),
        _ => None,
    };
    let files = [
        (include_str!("../../../rules.toml"), 2),
        (include_str!("../../../examples/hita/rules.toml"), 5),
        (include_str!("../../../deploy/rules.toml"), 0),
    ];
    for (text, families) in files {
        let config =
            Config::parse(text, "rules.toml", &Overrides::default(), &set).unwrap_or_else(|e| panic!("{e}"));
        // The sample names none, so that it is not served by accident.
        assert_eq!(config.server.upstream.is_some(), families != 2);
        assert_eq!(config.rules.stated().len(), families);
    }
}

/// The defaults stated in the sample are the defaults.
#[test]
fn the_sample_states_the_defaults() {
    let sample = include_str!("../../../rules.toml");
    let rules = sample.find("# ------").unwrap();
    let shown: String = sample[..rules]
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|it| it.contains('=') || it.trim() == "]").unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n")
        .replace("# [store]", "[store]");
    let keys = [
        "host ",
        "forwarded ",
        "drain_timeout ",
        "max_upstream_requests ",
        "upstream_keep_alive ",
        "underscores ",
        "case_insensitive_paths ",
        "max_upstream_requests_per_client ",
        "max_upstream_streams ",
        "max_upstream_streams_per_client ",
        "stream_after ",
        "download_rate ",
        "tokens ",
        "hosts ",
        "marks_max ",
        "on_incomplete ",
        "login ",
        "level ",
        "lease ",
        "wait_replicas ",
        "collapse_timeout ",
        "sweep_rate ",
        "sweep_pause ",
    ];
    for key in keys {
        assert!(shown.lines().any(|line| line.starts_with(key)), "{key} in\n{shown}");
    }
    let config = good(&shown);
    let server =
        ServerConfig { upstream: Some("http://127.0.0.1:8000".parse().unwrap()), ..ServerConfig::default() };
    assert_eq!(config.server, server);
    let admin = AdminConfig { tokens_line: config.admin.tokens_line, ..AdminConfig::default() };
    assert_eq!(config.admin, admin);
    assert_eq!((&config.memory, &config.log), (&MemoryConfig::default(), &LogConfig::default()));
    let with_flag = Overrides { redis: Some("redis://127.0.0.1:6379/0".to_owned()), ..Overrides::default() };
    assert_eq!(config.store, parsed("", &with_flag).unwrap().store);
}

/// Every commented field of the sample's family and invalidation is valid.
#[test]
fn the_sample_shows_fields_that_exist() {
    let sample = include_str!("../../../rules.toml");
    let from = sample.find("# [[family]]").unwrap();
    let to = from + sample[from..].find("\n\n").unwrap();
    let long = sample.lines().find(|line| line.starts_with("# '/points")).unwrap();
    let shown: String = sample[from..to]
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .fold(String::new(), |all, it| all + it + "\n");
    let long = format!("[invalidate]\n{}\n", long.trim_start_matches("# ").replace("user_details", "booking"));
    // Two of them do not go together.
    let without = |field: &str| -> String {
        let lines = shown.lines().filter(|line| !line.starts_with(field));
        lines.fold(String::new(), |all, line| all + line + "\n") + &long
    };
    let [_, config] = ["authorize", "stale_while_slow"].map(|field| good(&without(field)));
    assert_eq!(config.rules.families()[0].name, "booking:stats");
    assert!(config.rules.families()[0].policy.negative_ttl.of(http::StatusCode::GONE).is_some());
    assert_eq!(config.rules.invalidations()[0].methods.names(), ["POST", "PUT", "PATCH", "DELETE"]);
}
