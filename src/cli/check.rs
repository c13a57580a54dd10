//! `larder check [FILE]` prints the parsed rules, or every fault.

use http::HeaderName;
use serde_json::{Value, json};

use super::CheckArguments;
use super::output::table;
use crate::admin::report::InvalidationDefinition;
use crate::config::alerts::AlertsConfig;
use crate::config::jwt::{JwtConfig, algorithm_name};
use crate::config::lint::lint;
use crate::config::{Config, HostPolicy, LoadError, Overrides, WarmTable};
use crate::http::clients::ClientCacheControl;
use crate::http::{ClientDirectives, CloseDelimited, Revalidate, STALE_IF_UNREACHABLE, SetCookie};
use crate::jwt::TokenVerifier;
use crate::key::{Identity, Parameters};
use crate::metrics::Metrics;
use crate::rules::fault::Faults;
use crate::rules::reader::Env;
use crate::rules::thresholds::FamilyThresholds;
use crate::rules::{Family, Fetching, Invalidation, Warning};

mod ask;
mod operators;

/// Returns the text (or JSON) to print, and the exit code: 0 for valid rules (1 with `--strict` and warnings), 1 for
/// faults, 2 for a file that cannot be read.
pub(super) fn check(arguments: &CheckArguments, env: &Env<'_>) -> (String, u8) {
    let CheckArguments { file, ask: asks, upstream, strict, json } = arguments;
    let (name, json) = (file.display().to_string(), *json);
    // Only --ask uses the upstream, and a faulty flag is no fault of the file.
    let overrides = Overrides { upstream: upstream.clone().filter(|_| *asks), ..Overrides::default() };
    let load = || Config::load(Some(file), &overrides, env);
    match load() {
        Ok(config) => {
            let mut warnings = lint(&config);
            warnings.extend(config.jwt.as_ref().and_then(unusable_keys));
            warnings.sort_by_key(|warning| warning.line);
            if *asks && let Ok(config) = load() {
                match ask::ask(config) {
                    Ok(found) => warnings.extend(found),
                    Err(error) => return (unasked(&name, json, &error), 2),
                }
                warnings.sort_by_key(|warning| warning.line);
            }
            let text = match json {
                true => pretty(&rules_json(&name, &config, &warnings)),
                false => rules_text(&name, &config, &warnings),
            };
            (text, u8::from(*strict && !warnings.is_empty()))
        }
        Err(LoadError::Faults(faults)) if json => (pretty(&faults_json(&name, &faults)), 1),
        Err(LoadError::Faults(faults)) => (faults_text(&name, &faults), 1),
        Err(error @ LoadError::Io { .. }) if json => {
            (pretty(&json!({ "success": false, "file": name, "error": error.to_string() })), 2)
        }
        Err(error @ LoadError::Io { .. }) => (format!("{error}\n"), 2),
    }
}

/// A key file that `larder serve` would not start with. It may be elsewhere where the rules are checked, so it is no fault.
fn unusable_keys(jwt: &JwtConfig) -> Option<Warning> {
    let fault = TokenVerifier::new(jwt, &Metrics::new()).load().err()?;
    Some(Warning {
        line: jwt.line,
        message: format!("`larder serve` would not start here: {fault}"),
        remedy: "let the field name a file with the key before Larder starts".to_owned(),
    })
}

fn unasked(name: &str, json: bool, error: &str) -> String {
    match json {
        true => pretty(&json!({ "success": false, "file": name, "error": error })),
        false => format!("larder: {error}\n"),
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn faults_text(name: &str, faults: &Faults) -> String {
    format!("{}\n{} in {name}\n", faults.colored(), counted(faults.0.len(), "fault"))
}

fn faults_json(name: &str, faults: &Faults) -> Value {
    json!({ "success": false, "file": name, "faults": faults.0 })
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Defaults that depend on other settings, and what tables without rules mean.
fn notes(config: &Config) -> Vec<String> {
    let host = config.server.host == HostPolicy::UpstreamByDefault;
    let note = "host = \"upstream\", since the upstream URL is https and has a name: the API receives that name in Host, and its \
                links point there; write host = \"client\" in [server] if it serves the names that clients use";
    let alerts = (config.alerts != AlertsConfig::default()).then(|| format!("alerts: {}", alerts_text(config)));
    let callers = config.jwt.as_ref().map(about_tokens).into_iter().chain(about_several_identities(config));
    host.then(|| note.to_owned())
        .into_iter()
        .chain(callers)
        .chain(alerts)
        .chain(operators::notes(config))
        .collect()
}

/// What several credentials in `identity` mean.
fn about_several_identities(config: &Config) -> Option<String> {
    let has_several = |family: &&Family| family.key_spec.identity.sources().len() > 1;
    let names: Vec<&str> =
        config.rules.stated().iter().filter(has_several).map(|family| family.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} identified by several credentials ({}): not the first that is present, but all that a request presents are part of \
             the key, since the API receives all of them and may answer by any",
            if names.len() == 1 { "one family's callers are" } else { "the callers of several families are" },
            names.join(", ")
        )
    })
}

/// The thresholds in force, where the file has `[alerts]`.
fn alerts_text(config: &Config) -> String {
    let alerts = &config.alerts;
    let webhook = if alerts.webhook.is_some() { ", sent to the webhook" } else { "" };
    format!(
        "{} over {} with at least {} requests{webhook}",
        FamilyThresholds::from(alerts.thresholds),
        humantime::format_duration(alerts.window),
        alerts.min_requests,
    )
}

/// Which bearer tokens are valid.
fn about_tokens(jwt: &JwtConfig) -> String {
    let algorithms: Vec<&str> = jwt.algorithms.iter().copied().map(algorithm_name).collect();
    let algorithms = match &algorithms[..] {
        [] => "all algorithms that fit the kind of the key".to_owned(),
        algorithms => algorithms.join(", "),
    };
    let audience = match &jwt.audience[..] {
        [] => "without aud".to_owned(),
        audience => format!("aud {}", audience.join(" or ")),
    };
    let issuer = match &jwt.issuer[..] {
        [] => "any iss".to_owned(),
        issuer => format!("iss {}", issuer.join(" or ")),
    };
    let times = if jwt.require_exp { "exp is required" } else { "exp is not required" };
    let again = match jwt.keys.is_jwks() {
        true => format!(", read again every {}", humantime::format_duration(jwt.jwks_refresh)),
        false => String::new(),
    };
    format!(
        "bearer tokens are valid with {algorithms} and a key of [jwt] {}{again}; {audience}, {issuer}; {times}, leeway {}. Requests \
         with others are forwarded, and their responses are not stored",
        jwt.keys,
        humantime::format_duration(jwt.leeway),
    )
}

fn rules_text(name: &str, config: &Config, warnings: &[Warning]) -> String {
    let rules = &config.rules;
    let (families, invalidations) = (rules.stated(), rules.invalidations());
    let mut text = String::new();
    if !families.is_empty() {
        let head = ["family", "path", "ttl", "policy", "identity", "key", "other"];
        text.push_str(&table(&head, &[], families.iter().map(family_row)));
        text.push_str("\n\n");
    }
    if !invalidations.is_empty() {
        let head = ["writes to", "methods", "on", "invalidate", "how"];
        text.push_str(&table(&head, &[], invalidations.iter().map(invalidation_row)));
        text.push_str("\n\n");
    }
    if !config.warm.is_empty() {
        let row = |warm: &WarmTable| {
            let (what, when) = warm.described();
            let host = if warm.host.is_empty() { "-".to_owned() } else { warm.host.clone() };
            let names: Vec<&str> = warm.headers.keys().map(HeaderName::as_str).collect();
            let rate = warm.rate.map(|rate| format!(", {rate} a second")).unwrap_or_default();
            let fields = if names.is_empty() { "-".to_owned() } else { names.join(" ") };
            [what, host, fields, when, format!("{} at a time{rate}", warm.concurrency)]
        };
        text.push_str(&table(&["warm", "host", "fields", "when", "how"], &[], config.warm.iter().map(row)));
        text.push_str("\n\n");
    }
    if families.is_empty() {
        text.push_str("no families: Larder caches what upstream's Cache-Control and Expires allow (RFC 9111)\n");
    }
    for note in notes(config) {
        text.push_str(&format!("{name}: note: {note}\n\n"));
    }
    for Warning { line, message, remedy } in warnings {
        text.push_str(&format!("{name}:{line}: warning: {message}\n  {remedy}\n\n"));
    }
    let mut counts = vec![
        if families.len() == 1 { "1 family".to_owned() } else { format!("{} families", families.len()) },
        counted(invalidations.len(), "invalidation"),
    ];
    counts.extend((!warnings.is_empty()).then(|| counted(warnings.len(), "warning")));
    text + &format!("{name} is valid: {}\n", counts.join(", "))
}

fn family_row(family: &Family) -> [String; 7] {
    let policy = &family.policy;
    let ttl = policy.ttl.map_or("-".to_owned(), |ttl| humantime::format_duration(ttl).to_string());
    let path = family.path.clone();
    let ttl_policy = policy.ttl_policy.word().to_owned();
    [family.name.clone(), path, ttl, ttl_policy, identity(family), key(family), other(family)]
}

fn identity(family: &Family) -> String {
    match &family.key_spec.identity {
        Identity::Unstated => "-".to_owned(),
        identity => identity.to_string(),
    }
}

/// The parts of the query and fields that belong to the cache key.
fn key(family: &Family) -> String {
    let query = match &family.key_spec.query.parameters {
        Parameters::All => None,
        Parameters::Keep(names) => Some(format!("query: keep {}", list(names))),
        Parameters::Drop(names) => Some(format!("query: drop {}", list(names))),
    };
    let unsorted = (!family.key_spec.query.sort).then(|| "query: sort false".to_owned());
    let headers = family.key_spec.headers.iter().map(|name| name.as_str().to_owned());
    let cookies = family.key_spec.cookies.as_ref().map(|names| format!("cookies: {}", list(names)));
    let parts: Vec<String> = query.into_iter().chain(unsorted).chain(cookies).chain(headers).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(" ") }
}

/// The settings that differ from their defaults.
fn other(family: &Family) -> String {
    let parts: Vec<String> = [stored(family), fetched(family)].into_iter().flatten().collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Settings for storing and freshness.
fn stored(family: &Family) -> Vec<String> {
    let policy = &family.policy;
    let unreachable = Some(policy.stale_if_unreachable).filter(|period| *period != STALE_IF_UNREACHABLE);
    let durations = [
        ("stale_while_revalidate", policy.stale_while_revalidate),
        ("stale_if_error", policy.stale_if_error),
        ("stale_if_unreachable", unreachable),
        ("stale_while_slow", family.stale_while_slow),
    ];
    let set = durations.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut parts: Vec<String> =
        set.map(|(name, value)| format!("{name} {}", humantime::format_duration(value))).collect();
    let revalidate = Some(policy.revalidate).filter(|kind| *kind != Revalidate::default());
    parts.extend(revalidate.map(|kind| format!("revalidate {}", kind.word())));
    parts.extend(family.write_through.then(|| "write_through true".to_owned()));
    parts.extend((!policy.negative_ttl.is_empty()).then(|| format!("negative_ttl {}", policy.negative_ttl)));
    parts.extend(policy.until.map(|until| format!("until {until}")));
    parts.extend(policy.adaptive_ttl.map(|adaptive| format!("adaptive_ttl {adaptive}")));
    parts.extend(family.is_never_cached.then(|| "cache never".to_owned()));
    parts.extend(family.version.as_ref().map(|version| format!("version {version}")));
    parts.extend(family.compress.map(|on| format!("compress {}", compress(on))));
    parts.extend((!policy.heuristic).then(|| "heuristic false".to_owned()));
    let close_delimited = Some(policy.close_delimited).filter(|kind| *kind != CloseDelimited::default());
    let set_cookie = Some(policy.set_cookie).filter(|kind| *kind != SetCookie::default());
    parts.extend(set_cookie.map(|kind| format!("set_cookie {}", kind.word())));
    parts.extend(close_delimited.map(|kind| format!("close_delimited {}", kind.word())));
    let authorize = family.authorize.as_ref();
    parts.extend(authorize.map(|it| format!("authorize {} {}", it.path, humantime::format_duration(it.ttl))));
    parts.extend(family.instances.iter().map(|further| format!("instance {} = {}", further.name, further.source)));
    let alerts = family.alerts.to_string();
    parts.extend((!alerts.is_empty()).then(|| format!("alerts {alerts}")));
    parts.extend((!family.is_invalidated && !family.is_never_cached).then(|| "invalidation none".to_owned()));
    parts.extend(family.max_body.map(|size| format!("max_body {}", bytesize::ByteSize::b(size))));
    parts
}

/// The value of `compress`.
fn compress(is_on: bool) -> &'static str {
    if is_on { "zstd" } else { "off" }
}

/// Settings for methods and fetches.
fn fetched(family: &Family) -> Vec<String> {
    let (fetching, usual) = (&family.fetching, Fetching::default());
    let told = &family.client_cache_control;
    let cdn = family.cdn_cache_control.as_ref().and_then(|value| value.to_str().ok());
    let directives = family.policy.client_directives;
    let methods = family.methods.names();
    let normalize = names(&fetching.normalize);
    let all = [
        (methods != ["GET"] && !family.is_never_cached, format!("methods {}", methods.join(" "))),
        (directives != ClientDirectives::default(), format!("client_directives {}", directives.word())),
        (!normalize.is_empty(), format!("normalize {}", normalize.join(" "))),
        (fetching.max_variants != usual.max_variants, format!("max_variants {}", fetching.max_variants)),
        (fetching.range() != usual.range(), format!("range {}", fetching.range())),
        (fetching.forward() != usual.forward(), format!("forward {}", fetching.forward())),
        (*told != ClientCacheControl::default(), format!("clients: {}", told.text())),
        (cdn.is_some(), format!("CDNs: {}", cdn.unwrap_or_default())),
    ];
    all.into_iter().filter_map(|(is_unusual, part)| is_unusual.then_some(part)).collect()
}

fn invalidation_row(rule: &Invalidation) -> [String; 5] {
    let (methods, on) = (rule.methods.names().join(" "), rule.on.texts().join(", "));
    [rule.path.clone(), methods, on, rule.families.join(", "), rule.manner()]
}

fn rules_json(name: &str, config: &Config, warnings: &[Warning]) -> Value {
    let rules = &config.rules;
    json!({
        "success": true,
        "file": name,
        "families": rules.stated().iter().map(family_json).collect::<Vec<_>>(),
        "invalidations": rules.invalidations().iter().map(InvalidationDefinition::from).collect::<Vec<_>>(),
        "warm": config.warm.iter().map(warm_json).collect::<Vec<_>>(),
        "alerts": alerts_text(config),
        "notes": notes(config),
        "warnings": warnings,
    })
}

/// Durations are in seconds, sizes in bytes.
fn family_json(family: &Family) -> Value {
    let policy = &family.policy;
    let seconds = |value: Option<std::time::Duration>| value.map(|value| value.as_secs());
    let negative_ttl: serde_json::Map<String, Value> = policy
        .negative_ttl
        .iter()
        .map(|(status, ttl)| (status.as_str().to_owned(), ttl.as_secs().into()))
        .collect();
    let query = match &family.key_spec.query.parameters {
        Parameters::All => Value::Null,
        Parameters::Keep(names) => json!({ "keep": names }),
        Parameters::Drop(names) => json!({ "drop": names }),
    };
    json!({
        "name": family.name,
        "path": family.path,
        "methods": family.methods.names(),
        "line": family.line,
        "cache": if family.is_never_cached { "never" } else { "default" },
        "definition": family.definition,
        "version": family.version,
        "captures": family.capture_names().collect::<Vec<_>>(),
        "instance": instances_json(family),
        "ttl": seconds(policy.ttl),
        "ttl_policy": policy.ttl_policy.word(),
        "adaptive_ttl": policy.adaptive_ttl.map(|adaptive| adaptive.to_string()),
        "until": policy.until.map(|until| until.to_string()),
        "client_cache_control": family.client_cache_control.text(),
        "cdn_cache_control": family.cdn_cache_control.as_ref().and_then(|value| value.to_str().ok()),
        "negative_ttl": negative_ttl,
        "compress": family.compress.map(compress),
        "stale_while_revalidate": seconds(policy.stale_while_revalidate),
        "stale_if_error": seconds(policy.stale_if_error),
        "stale_if_unreachable": policy.stale_if_unreachable.as_secs(),
        "stale_while_slow": family.stale_while_slow.map(|value| value.as_secs_f64()),
        "revalidate": policy.revalidate.word(),
        "write_through": family.write_through,
        "alerts": family.alerts.to_string(),
        "heuristic": policy.heuristic,
        "close_delimited": policy.close_delimited.word(),
        "client_directives": policy.client_directives.word(),
        "normalize": names(&family.fetching.normalize),
        "max_variants": family.fetching.max_variants,
        "range": family.fetching.range(),
        "forward": family.fetching.forward(),
        "query": query,
        "query_sort": family.key_spec.query.sort,
        "headers": names(&family.key_spec.headers),
        "cookies": family.key_spec.cookies,
        "set_cookie": policy.set_cookie.word(),
        "identity": family.key_spec.identity.is_stated().then(|| family.key_spec.identity.to_string()),
        "authorize": family.authorize.as_ref().map(|it| json!({ "path": it.path, "ttl": it.ttl.as_secs() })),
        "max_body": family.max_body,
        "invalidation": family.invalidation(),
    })
}

fn instances_json(family: &Family) -> Value {
    family.instances.iter().map(|further| (further.name.clone(), json!(further.source.to_string()))).collect()
}

fn warm_json(warm: &WarmTable) -> Value {
    let (what, when) = warm.described();
    json!({
        "line": warm.line,
        "warms": what,
        "when": when,
        "host": Some(&warm.host).filter(|host| !host.is_empty()),
        "headers": warm.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
        "concurrency": warm.concurrency,
        "rate": warm.rate,
    })
}

fn names(fields: &[HeaderName]) -> Vec<&str> {
    fields.iter().map(HeaderName::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str, json: bool) -> (String, u8) {
        checked_so(text, false, json)
    }

    fn checked_so(text: &str, strict: bool, json: bool) -> (String, u8) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        std::fs::write(&file, text).unwrap();
        let (out, code) =
            check(&CheckArguments { file: file.clone(), strict, json, ..CheckArguments::default() }, &|_| None);
        let out = anstream::adapter::strip_str(&out).to_string();
        let name = file.display().to_string();
        (out.replace(&name, "rules.toml").replace(&*json_text(&name), "rules.toml"), code)
    }

    /// A name as a JSON string without its quotes.
    fn json_text(name: &str) -> String {
        let quoted = serde_json::to_string(name).unwrap();
        quoted[1..quoted.len() - 1].to_owned()
    }

    const GOOD: &str = r#"
[[family]]
name = "user"
path = '/users/(?<id>\d+)'
ttl = "3m"
query = { drop = ["utm_source"] }
headers = ["accept-language"]
max_body = "1MiB"

[invalidate]
'/users/(?<id>\d+)' = { families = ["user:{id}"], methods = ["PUT"], on = ["2xx", 404], again = "1m 5s" }
"#;

    #[test]
    fn valid_rules_are_printed_as_a_table() {
        let (text, code) = checked(GOOD, false);
        assert_eq!(code, 0);
        let line_of =
            |part: &str| text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{text}"));
        let family = line_of("3m");
        for part in ["user", r"/users/(?<id>\d+)", "default", "query: drop utm_source, accept-language", "1.0 MiB"]
        {
            assert!(family.contains(part), "{family}");
        }
        let rule = line_of("PUT");
        assert!(rule.contains("200-299, 404") && rule.contains("user:{id}"), "{rule}");
        assert!(rule.ends_with("hard, again 1m 5s"), "{rule}");
        assert!(text.ends_with("rules.toml is valid: 1 family, 1 invalidation\n"));
    }

    #[test]
    fn warnings_follow_valid_rules() {
        let rules = "[[family]]\nname = \"me\"\npath = '/me(/.*)?'\nidentity = \"cookie:sid\"\n\
                     [[family]]\nname = \"assets\"\npath = '/assets/.*|/.*\\.css'\nidentity = \"none\"\n\
                     [invalidate]\n'/me' = [\"*\"]\n";
        let (text, code) = checked(rules, false);
        assert_eq!(code, 0);
        assert!(text.contains("rules.toml:5: warning: family \"assets\" takes paths by their end"), "{text}");
        assert!(text.ends_with("is valid: 2 families, 1 invalidation, 1 warning\n"), "{text}");
        let value: Value = serde_json::from_str(&checked(rules, true).0).unwrap();
        assert_eq!((&value["success"], &value["warnings"][0]["line"]), (&json!(true), &json!(5)));
        let (text, _) = checked(GOOD, true);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["warnings"], json!([]));
    }

    #[test]
    fn a_warning_fails_a_strict_check() {
        let rules = "[[family]]\nname = \"a\"\npath = '/a'\n";
        for json in [false, true] {
            assert_eq!((checked(rules, json).1, checked_so(rules, true, json).1), (0, 1));
            assert_eq!(checked_so(GOOD, true, json).1, 0);
        }
    }

    #[test]
    fn a_soft_rule_is_printed_with_its_grace() {
        for (fields, how, grace) in [
            ("", "soft, grace 30s", 30.0),
            (", grace = \"2m\", again = \"5s\", refresh = true", "soft, grace 2m, again 5s, refresh", 120.0),
        ] {
            let rules = format!(
                "[[family]]\nname = \"a\"\npath = '/a'\n[invalidate]\n'/w' = {{ families = [\"a\"], mode = \"soft\"{fields} }}\n"
            );
            let (text, _) = checked(&rules, false);
            assert!(text.lines().any(|line| line.contains("/w") && line.ends_with(how)), "{text}");
            let value: Value = serde_json::from_str(&checked(&rules, true).0).unwrap();
            let rule = &value["invalidations"][0];
            assert_eq!((&rule["mode"], &rule["grace"]), (&json!("soft"), &json!(grace)));
        }
    }

    #[test]
    fn valid_rules_are_printed_as_json() {
        let (text, code) = checked(GOOD, true);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &value["success"]), (0, &json!(true)));
        assert_eq!(value["families"][0]["ttl"], 180);
        assert_eq!(value["families"][0]["captures"], json!(["id"]));
        assert_eq!(value["invalidations"][0]["on"], json!(["200-299", "404"]));
        assert_eq!(value["invalidations"][0]["again"], 65.0);
    }

    #[test]
    fn what_is_warmed_is_printed_without_the_values_of_its_fields() {
        let rules = format!(
            "{GOOD}[[warm]]\npaths = [\"/users/{{1..5}}\"]\nhost = \"h\"\non = [\"startup\"]\nrate = 9\n\
             headers = {{ \"X-Key\" = \"s3cret\" }}\n"
        );
        let (text, code) = checked(&rules, false);
        let line = text.lines().find(|line| line.starts_with(" 5 paths")).unwrap_or_else(|| panic!("{text}"));
        for part in ["at startup, by POST /cache/warm", "4 at a time, 9 a second", "x-key"] {
            assert!(line.contains(part), "{line}");
        }
        let (json, _) = checked(&rules, true);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (code, &value["warm"][0]["warms"], &value["warm"][0]["rate"]),
            (0, &json!("5 paths"), &json!(9))
        );
        assert!(!text.contains("s3cret") && !json.contains("s3cret"));
    }

    const UNUSUAL: &str = r#"
[[family]]
name = "search"
path = '/search'
methods = ["GET", "QUERY", "POST"]
heuristic = false
close_delimited = "store"
stale_if_unreachable = "0s"
stale_while_slow = "500ms"
write_through = true
client_directives = "all"
normalize = ["accept-encoding", "accept-language"]
max_variants = 8
range = "whole"
forward = "keyed"

[[family]]
name = "usual"
path = '/usual'
"#;

    #[test]
    fn non_default_settings_are_in_the_table() {
        let (text, _) = checked(UNUSUAL, false);
        let other = "stale_if_unreachable 0s, stale_while_slow 500ms, write_through true, heuristic false, close_delimited store, methods GET \
                     QUERY POST, client_directives all, \
                     normalize accept-encoding accept-language, max_variants 8, range whole, forward keyed";
        assert!(text.lines().any(|line| line.contains("search") && line.ends_with(other)), "{text}");
        assert!(text.lines().any(|line| line.contains("usual") && line.ends_with(" -")), "{text}");
    }

    #[test]
    fn every_setting_is_in_the_json() {
        let (text, _) = checked(UNUSUAL, true);
        let value: Value = serde_json::from_str(&text).unwrap();
        let rows = [
            ("methods", json!(["GET", "QUERY", "POST"]), json!(["GET"])),
            ("stale_while_slow", json!(0.5), Value::Null),
            ("write_through", json!(true), json!(false)),
            ("revalidate", json!("when-stale"), json!("when-stale")),
            ("heuristic", json!(false), json!(true)),
            ("close_delimited", json!("store"), json!("forward")),
            ("stale_if_unreachable", json!(0), json!(3600)),
            ("client_directives", json!("all"), json!("harmless")),
            ("normalize", json!(["accept-encoding", "accept-language"]), json!([])),
            ("max_variants", json!(8), json!(64)),
            ("range", json!("whole"), json!("forward")),
            ("forward", json!("keyed"), json!("all")),
        ];
        for (name, set, usual) in rows {
            assert_eq!((&value["families"][0][name], &value["families"][1][name]), (&set, &usual), "{name}");
        }
    }

    #[test]
    fn notes_on_operators_are_in_the_text_and_in_the_json() {
        let rules = format!("[log]\naccess = false\n[purge]\nfrom = [\"::1\"]\n{GOOD}");
        let (text, _) = checked(&rules, false);
        let value: Value = serde_json::from_str(&checked(&rules, true).0).unwrap();
        for (at, part) in ["PURGE and BAN are accepted", "log: text on"].into_iter().enumerate() {
            assert!(text.contains(&format!("rules.toml: note: {part}")), "{text}");
            assert!(value["notes"][at].as_str().unwrap().starts_with(part), "{value:#}");
        }
        assert_eq!(serde_json::from_str::<Value>(&checked(GOOD, true).0).unwrap()["notes"], json!([]));
    }

    #[test]
    fn faults_end_with_their_number() {
        let (text, code) = checked("[server]\nlistn = \"x\"\nhost = 1\n", false);
        assert_eq!(code, 1);
        assert!(text.contains("error: [server]: unknown key \"listn\"\n --> rules.toml:2:1\n"), "{text}");
        assert!(
            text.contains("2 | listn = \"x\"\n  | ^^^^^\n  |\n  = help: did you mean \"listen\"?\n"),
            "{text}"
        );
        assert!(text.ends_with("2 faults in rules.toml\n"), "{text}");
    }

    #[test]
    fn faults_are_json() {
        let (text, code) = checked("[server]\nlistn = \"x\"\n", true);
        let value: Value = serde_json::from_str(&text).unwrap();
        let fault = &value["faults"][0];
        assert_eq!((code, &value["success"]), (1, &json!(false)));
        assert_eq!(
            (&fault["line"], &fault["column"], &fault["file"]),
            (&json!(2), &json!(1), &json!("rules.toml"))
        );
        assert_eq!(fault["remedy"], "did you mean \"listen\"?");
        assert!(fault["message"].as_str().unwrap().contains("listn"));
    }

    #[test]
    fn a_missing_file_has_a_remedy() {
        let nowhere =
            |json| CheckArguments { file: "/nowhere/rules.toml".into(), json, ..CheckArguments::default() };
        let (text, code) = check(&nowhere(false), &|_| None);
        assert_eq!(code, 2);
        assert!(
            text.contains("/nowhere/rules.toml: cannot read the rules file") && text.contains("create it"),
            "{text}"
        );
        let (text, code) = check(&nowhere(true), &|_| None);
        assert_eq!((code, serde_json::from_str::<Value>(&text).unwrap()["success"].clone()), (2, json!(false)));
    }

    #[test]
    fn a_key_file_that_is_missing_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        let family = "[[family]]\nname = 'me'\npath = '/me'\nidentity = 'jwt:sub'\n";
        std::fs::write(&file, format!("{family}[jwt]\njwks_file = '/nowhere/keys.json'\n")).unwrap();
        let (text, code) = check(&CheckArguments { file, strict: true, ..CheckArguments::default() }, &|_| None);
        assert!(code == 1 && text.contains(":5: warning: `larder serve` would not start here"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_text_is_a_fault_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        std::fs::write(&file, b"[server]\nhost = \"\xff\"\n").unwrap();
        let (text, code) = check(&CheckArguments { file, ..CheckArguments::default() }, &|_| None);
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(
            code == 1 && text.contains("error: the file is not UTF-8 here") && text.contains(":2:9\n"),
            "{text}"
        );
    }
}
