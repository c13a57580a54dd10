//! Metrics as Prometheus sees them: the exposition, the alerts and the board are valid, name only what is there, and a real Prometheus
//! answers every query in them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use larder::config::alerts::AlertsConfig;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Call;
use crate::support::{Larder, Plan, RedisServer, Reply, Upstream, eventually, eventually_some};

const RULES: &str = "[[family]]\nname = \"users\"\npath = '/users/(?<id>\\d+)'\nttl = \"60s\"\n\
                     \n[invalidate]\n'/users/(?<id>\\d+)' = [\"users:{id}\"]\n";

/// What a Larder exposes only with a table of its rules, after the sweeper's first walk, or after the first evaluation of alerts.
const MAY_BE_ABSENT: [&str; 5] = [
    "larder_tokens_refused_total",
    "larder_authorizations_total",
    "larder_stored_keys",
    "larder_stored_bytes",
    "larder_alerts",
];

/// A Larder with Redis, and some of everything that it counts.
fn busy(upstream: &Upstream, redis: &RedisServer) -> Larder {
    upstream.on("/private", Reply::new("x").header("Cache-Control", "private"));
    let larder = Plan::new(&upstream.url()).rules(RULES).redis(&redis.url()).start();
    for target in ["/users/1", "/users/1", "/users/2", "/private", "/other"] {
        larder.get(target);
    }
    larder.write("POST", "/users/1");
    larder.write("POST", "/no-rule");
    larder.get("/users/1");
    larder.admin_post("/cache/clear/users");
    larder
}

fn exposition(larder: &Larder) -> String {
    larder.admin_get("/metrics").text()
}

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The names of the metric families in an exposition, with the suffix that OpenMetrics has on the samples.
fn families(exposition: &str) -> BTreeSet<String> {
    let types = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        }
    });
    named.collect()
}

fn names_in(text: &str) -> BTreeSet<String> {
    let pattern = regex::Regex::new(r"\blarder_\w+").unwrap();
    let bare = |name: &str| {
        let part = ["_bucket", "_count", "_sum"].into_iter().find_map(|part| name.strip_suffix(part));
        part.unwrap_or(name).to_owned()
    };
    pattern.find_iter(text).map(|found| bare(found.as_str())).collect()
}

/// The queries of the board, with values for its variables.
fn board() -> Vec<String> {
    let board: Value = serde_json::from_str(&read("deploy/grafana/larder.json")).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let panels = list(&board["panels"]).into_iter().flat_map(|panel| list(&panel["targets"]));
    let annotations = list(&board["annotations"]["list"]);
    let queries: Vec<String> =
        panels.chain(annotations).map(|it| it["expr"].as_str().unwrap().to_owned()).collect();
    assert!(queries.len() > 50, "{}", queries.len());
    let variables = [("$__rate_interval", "30s"), ("$instance", ".*"), ("$family", ".*")];
    let filled = |query: String| variables.iter().fold(query, |query, (name, value)| query.replace(name, value));
    queries.into_iter().map(filled).collect()
}

/// Runs promtool; its output if it finds nothing wrong.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(format!("{}/deploy/prometheus", env!("CARGO_MANIFEST_DIR")));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is there (tests/run installs it)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
    text
}

/// The same exposition in the older format, which promtool checks: there, types are those of the samples' names.
fn classic(exposition: &str) -> String {
    let mut kinds = std::collections::HashMap::new();
    for (name, kind) in exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        kinds.insert(name, kind);
    }
    let line = |line: &str| {
        let Some((keyword, rest)) =
            ["# HELP ", "# TYPE "].iter().find_map(|it| Some((*it, line.strip_prefix(it)?)))
        else {
            return line.to_owned();
        };
        let (name, rest) = rest.split_once(' ').unwrap();
        let (suffix, rest) = match kinds[name] {
            "counter" => ("_total", rest),
            "info" if keyword == "# TYPE " => ("_info", "gauge"),
            "info" => ("_info", rest),
            _ => ("", rest),
        };
        format!("{keyword}{name}{suffix} {rest}")
    };
    let lines = exposition.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF");
    lines.map(line).map(|line| line + "\n").collect()
}

#[test]
fn promtool_finds_no_fault_in_the_exposition_the_alerts_and_the_scrape_configuration() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    let larder = busy(&upstream, &redis);
    promtool(&["check", "metrics"], &classic(&exposition(&larder)));
    promtool(&["check", "rules", "rules.yml"], "");
    promtool(&["check", "config", "scrape.yml"], "");
}

#[test]
fn alerts_and_board_name_only_metrics_that_are_exposed_and_operations_lists_them_all() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    let mut exposed = families(&exposition(&busy(&upstream, &redis)));
    assert!(exposed.len() > 50, "{exposed:?}");
    exposed.extend(MAY_BE_ABSENT.map(str::to_owned));
    for (document, names) in [
        ("the board", names_in(&board().join("\n"))),
        ("the alerts", names_in(&read("deploy/prometheus/rules.yml"))),
    ] {
        let unknown: Vec<_> = names.difference(&exposed).collect();
        assert!(unknown.is_empty(), "{document} names {unknown:?}");
    }
    let page = read("deploy/operations.md");
    let (_, table) = page.split_once("\n## Metrics\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows: String =
        table.lines().filter(|line| line.starts_with("| `")).map(|line| line.to_owned() + "\n").collect();
    assert_eq!(names_in(&rows), exposed);
}

#[test]
fn alerts_have_the_thresholds_that_larder_itself_has_by_default() {
    let (rules, defaults) = (read("deploy/prometheus/rules.yml"), AlertsConfig::default());
    let of = |name: &str| {
        let (_, rule) = rules.split_once(&format!("alert: {name}\n")).unwrap();
        rule.split("- alert:").next().unwrap().to_owned()
    };
    let window = format!("[{}m]", defaults.window.as_secs() / 60);
    let least = format!(">= {}", defaults.min_requests);
    let hit_latency = defaults.thresholds.hit_latency.unwrap().as_secs_f64();
    for (alert, threshold) in [
        ("LarderHitRate", format!("< {}", defaults.thresholds.hit_rate.unwrap())),
        ("LarderErrorRate", format!("> {}", defaults.thresholds.error_rate.unwrap())),
        ("LarderHitLatency", format!("> {hit_latency}")),
    ] {
        let rule = of(alert);
        for part in [&threshold, &window, &least] {
            assert!(rule.contains(part), "no {part} in {rule}");
        }
    }
    let away = defaults.store_away.unwrap_or(Duration::ZERO).as_secs();
    assert!(of("LarderStoreAway").contains(&format!("for: {away}s")));
}

#[test]
fn alerts_fire_when_their_threshold_is_crossed_and_not_with_too_few_requests() {
    promtool(&["test", "rules", "rules_test.yml"], "");
}

/// A Prometheus that scrapes one Larder twice a second.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let rules = format!("{}/deploy/prometheus/rules.yml", env!("CARGO_MANIFEST_DIR"));
        let scraped = read("deploy/prometheus/scrape.yml").replace("127.0.0.1:9090", &target.to_string());
        let scraped =
            scraped.replace("scrape_interval: 15s", "scrape_interval: 500ms").replace("rules.yml", &rules);
        let config = format!("global:\n  evaluation_interval: 500ms\n{scraped}");
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("prometheus");
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        command.arg(format!("--web.listen-address={address}")).current_dir(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("prometheus is there (tests/run installs it)");
        let prometheus = Prometheus { child, address, _dir: dir };
        eventually("Prometheus has scraped Larder three times", || {
            prometheus.ask("count_over_time(larder_build_info[1m]) >= 3").is_ok_and(|found| !found.is_empty())
        });
        prometheus
    }

    fn get(&self, target: &str) -> Option<Value> {
        let answer = Call::new(self.address, "GET", target).try_send().ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The result of a query; the error if there is one.
    fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}")).ok_or("no answer")?;
        match answer["status"] == "success" {
            true => Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default()),
            false => Err(answer.to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_answers_every_query_of_board_and_alerts_from_what_it_scrapes() {
    let (upstream, redis) = (Upstream::start(), RedisServer::start());
    let larder = busy(&upstream, &redis);
    let prometheus = Prometheus::start(larder.admin);
    let mut empty = Vec::new();
    for query in board() {
        let found = prometheus.ask(&query).unwrap_or_else(|error| panic!("{query}: {error}"));
        let is_condition = query.ends_with("> 0");
        let may_be_empty = MAY_BE_ABSENT.iter().any(|name| query.contains(name)) || is_condition;
        if found.is_empty() && !may_be_empty {
            empty.push(query);
        }
    }
    assert!(empty.is_empty(), "no data for {empty:#?}");
    // A rate is no more than 1, whatever was counted.
    for query in board().iter().filter(|query| query.contains("/ sum by (family)")) {
        for series in prometheus.ask(query).unwrap() {
            let value: f64 = series["value"][1].as_str().unwrap().parse().unwrap();
            assert!(value.is_nan() || (0.0..=1.0).contains(&value), "{query}: {series}");
        }
    }
    let groups = eventually_some("all alerts are evaluated", || {
        let rules = prometheus.get("/api/v1/rules")?["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert!(groups.len() > 10);
    for rule in groups {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    // What is wrong is seen.
    fs::write(larder.rules_file(), "[[family]\n").unwrap();
    eventually("the alert on a faulty edit is firing", || {
        prometheus
            .ask("ALERTS{alertname=\"LarderRulesFaulty\",alertstate=\"firing\"}")
            .is_ok_and(|it| !it.is_empty())
    });
}
