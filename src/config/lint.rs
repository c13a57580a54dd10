//! Warnings about a valid configuration. Pure: `larder check` prints them, and `larder serve` logs them.

use std::time::SystemTime;

use bytesize::ByteSize;
use http::{HeaderMap, Method};

use super::{Coherence, Config, WarmTable};
use crate::http::freshness;
use crate::http::targeted::{self, Authority};
use crate::key::CallerSource;
use crate::rules::{Collapse, Family, Warning};

/// The warnings of a configuration, in file order.
pub fn lint(config: &Config) -> Vec<Warning> {
    let mut warnings = config.rules.warnings();
    for family in config.rules.stated() {
        warnings.extend(useless_collapse(config, family));
        warnings.extend(too_large(config, family));
        warnings.extend(too_slow(config, family));
        warnings.extend(never_written_through(config, family));
        warnings.extend(useless_compress(config, family));
        warnings.extend(never_stale(family));
        warnings.extend(key_of_each_token(family));
    }
    warnings.extend(config.warm.iter().filter_map(|table| never_warmed(config, table)));
    warnings.extend(config.warm.iter().filter_map(default_credentials));
    warnings.extend(config.warm.iter().filter_map(|table| anonymous_warming(config, table)));
    warnings.extend(super::admin::warnings(&config.admin));
    warnings.extend(config.jwt.iter().flat_map(super::jwt::warnings));
    warnings.sort_by_key(|warning| warning.line);
    warnings
}

/// A path of a family with an identity that is warmed for no caller.
fn anonymous_warming(config: &Config, table: &WarmTable) -> Option<Warning> {
    let firsts = table.paths.iter().filter_map(|pattern| pattern.expand().next());
    let family = firsts.filter_map(|path| {
        let route = config.rules.route(&Method::GET, path.split('?').next()?)?;
        let identity = &route.family.key_spec.identity;
        let is_anonymous = !identity.sources().iter().any(|source| source.is_in(&table.headers));
        (identity.tells_callers_apart() && is_anonymous).then_some(&route.family.name)
    });
    let name = family.into_iter().next()?;
    Some(Warning {
        line: table.line,
        message: format!("[[warm]]: paths of family {name:?} are warmed for requests without its identity alone"),
        remedy: "name paths whose responses are for all callers, or set the field of the identity in headers"
            .to_owned(),
    })
}

/// A path that is warmed in vain, for its family is never cached.
fn never_warmed(config: &Config, table: &WarmTable) -> Option<Warning> {
    let firsts = table.paths.iter().filter_map(|pattern| pattern.expand().next());
    let never = firsts.filter_map(|path| {
        let family = config.rules.route(&Method::GET, path.split('?').next()?)?.family;
        family.is_never_cached.then(|| (path, family.name.clone()))
    });
    let (path, name) = never.into_iter().next()?;
    Some(Warning {
        line: table.line,
        message: format!(
            "[[warm]]: paths has no effect for {path:?}: its family {name:?} has cache = \"never\", so that the response is not stored"
        ),
        remedy: "remove the path, or remove cache = \"never\"".to_owned(),
    })
}

/// A credential that may be in the file itself.
fn default_credentials(table: &WarmTable) -> Option<Warning> {
    table.has_default_credentials.then(|| Warning {
        line: table.line,
        message: "[[warm]]: headers have credentials with a default, which every reader of the file knows"
            .to_owned(),
        remedy: "write ${NAME} without a default, and set that variable".to_owned(),
    })
}

/// `stale_while_slow` in a family whose responses are not served stale when upstream fails.
fn never_stale(family: &Family) -> Option<Warning> {
    let (slow, policy) = (family.stale_while_slow?, &family.policy);
    let is_never =
        policy.stale_if_unreachable.is_zero() && policy.stale_if_error.is_none_or(|period| period.is_zero());
    is_never.then(|| {
        family.warning(
            format_args!(
                "stale_while_slow = \"{}\" has no effect beside stale_if_unreachable = \"0s\", unless \
             upstream states stale-if-error: no stale response may be served",
                humantime::format_duration(slow)
            ),
            "raise stale_if_unreachable, add stale_if_error, or remove stale_while_slow",
        )
    })
}

/// An identity by claims of a token and by the whole token.
fn key_of_each_token(family: &Family) -> Option<Warning> {
    let sources = family.key_spec.identity.sources();
    let by_claims = sources.iter().any(|source| matches!(source, CallerSource::Claims(_)));
    let by_token = sources.iter().any(|source| *source == CallerSource::Header(http::header::AUTHORIZATION));
    (by_claims && by_token).then(|| {
        family.warning(
            "identity has claims and \"header:authorization\": each new token of a caller has a \
             new key, as if the claims were not named",
            "remove \"header:authorization\" from identity",
        )
    })
}

fn useless_collapse(config: &Config, family: &Family) -> Option<Warning> {
    (family.collapse == Collapse::Fleet && config.store.is_none()).then(|| {
        family.warning(
            "collapse = \"fleet\" has no effect without [store]: there is one Larder alone",
            "remove it, or add [store]",
        )
    })
}

fn useless_compress(config: &Config, family: &Family) -> Option<Warning> {
    let (message, remedy) = match (family.compress, &config.store) {
        (Some(_), None) => {
            ("has no effect without [store]: bodies in memory are not compressed", "remove it, or add [store]")
        }
        (Some(asked), Some(store)) if asked == store.compress => ("says what [store] says", "remove it"),
        _ => return None,
    };
    Some(family.warning(format_args!("compress {message}"), remedy))
}

fn too_large(config: &Config, family: &Family) -> Option<Warning> {
    let (most, capacity) = (family.max_body?, config.memory.capacity);
    (most > capacity).then(|| {
        family.warning(
            format_args!(
                "max_body = {} has no effect: [memory] capacity is {}",
                ByteSize::b(most),
                ByteSize::b(capacity)
            ),
            "lower it, or raise capacity",
        )
    })
}

/// A `stale_while_slow` that no fetch outlasts.
fn too_slow(config: &Config, family: &Family) -> Option<Warning> {
    let (slow, timeout) = (family.stale_while_slow?, config.server.upstream_timeout);
    (slow >= timeout).then(|| {
        family.warning(
            format_args!(
                "stale_while_slow = \"{}\" has no effect: a request fails after [server] \
             upstream_timeout, which is {}",
                humantime::format_duration(slow),
                humantime::format_duration(timeout)
            ),
            "write a shorter time, or remove it: stale_if_error and stale_if_unreachable do the \
             same",
        )
    })
}

/// `write_through` where other proxies may serve what a write has invalidated.
fn never_written_through(config: &Config, family: &Family) -> Option<Warning> {
    let is_eventual = config.store.as_ref().is_some_and(|store| store.coherence == Coherence::Eventual);
    (family.write_through && is_eventual).then(|| {
        family.warning(
            "write_through has no effect with [store] coherence = \"eventual\"",
            "remove it, or write coherence = \"lease\"",
        )
    })
}

/// Warns of a `ttl` without effect: a response for the family's path states an explicit lifetime.
pub fn overridden_ttl(family: &Family, path: &str, response: &HeaderMap, received: SystemTime) -> Option<Warning> {
    let ttl = family.policy.ttl.filter(|_| family.may_be_overridden())?;
    let effective = targeted::effective(response);
    let (lifetime, _) = freshness::explicit_lifetime(&effective, response, received)?;
    Some(family.warning(
        format_args!(
            "ttl = \"{}\" has no effect: the response to GET {path} has a lifetime in {}: {}",
            humantime::format_duration(ttl),
            if effective.authority == Authority::General {
                "Cache-Control or Expires"
            } else {
                effective.authority.field()
            },
            humantime::format_duration(lifetime)
        ),
        "remove ttl, or write ttl_policy = \"override\" beside it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn values_of_contents_that_writes_rarely_have_are_warned_of() {
        let rules = |rule: &str| {
            format!(
                "[[family]]\nname = 'a'\npath = '/a/(?<id>.+)'\n[invalidate]\n'/b' = {{ families = ['a:{{{rule} }}"
            )
        };
        let rows = [
            ("body.id}'], methods = ['DELETE']", Some("requests with DELETE")),
            ("body.id}'], methods = ['DELETE', 'POST']", None),
            ("body.id}']", None),
            ("response.id}'], on = [204, 304]", Some("responses with this status")),
            ("response.id}'], on = ['2xx']", None),
        ];
        for (rule, expected) in rows {
            let found = warnings(&rules(rule));
            assert_eq!(found.len(), usize::from(expected.is_some()), "{rule}: {found:?}");
            assert!(found.iter().all(|found| found.message.contains(expected.unwrap_or(""))), "{rule}: {found:?}");
        }
    }

    fn warnings(text: &str) -> Vec<Warning> {
        let parsed = Config::parse(text, "rules.toml", &Overrides::default(), &|name| Some(format!("/{name}")));
        lint(&parsed.unwrap_or_else(|faults| panic!("{text}: {faults}")))
    }

    /// A family and its writes, free of warnings, followed by the row's subject.
    const GOOD: &str =
        "[[family]]\nname = 'user'\npath = '/users/(?<id>\\d+)'\n[[family]]\nname = 'list'\npath = '/users'\n";

    /// The end of a valid file.
    const RULES: &str = "[invalidate]\n'/users' = ['list']\n'/users/(?<id>\\d+)' = ['list', 'user:{id}']\n";

    fn family(name: &str, fields: &str) -> String {
        format!("[[family]]\nname = '{name}'\n{fields}\n")
    }

    #[test]
    fn each_questionable_file_gets_one_warning_with_its_reason() {
        // Text between the families and the rules, text after them, and the expected warning.
        let rows: &[(&str, &str, &str, &str)] = &[
            ("[[family]]\nname = 'x'\npath = '/x'", "", "no rule of [invalidate] names family x", "= [\"x\"]"),
            (
                "[[family]]\nname = 'x'\npath = '/a/\\.\\./b'",
                "'/x' = ['x']",
                "\"x\" gets no request",
                "larder explain",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nstale_while_slow = '1h'",
                "'/x' = ['x']",
                "stale_while_slow = \"1h\" has no effect",
                "write a shorter time",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nstale_while_slow = '1s'\nstale_if_unreachable = '0s'",
                "'/x' = ['x']",
                "stale_while_slow = \"1s\" has no effect",
                "add stale_if_error",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nwrite_through = true\n[store]\nredis = 'redis://h'\ncoherence = 'eventual'",
                "'/x' = ['x']",
                "write_through has no effect",
                "coherence = \"lease\"",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/api/graphql'\nmethods = ['POST']",
                "'/x' = ['x']",
                "suggests GraphQL",
                "remove \"POST\"",
            ),
            ("", "'/w/\\.\\./x' = ['list']", "the rule for \"/w/\\\\.\\\\./x\" has no effect", "larder explain"),
            ("", "'/w$x' = ['list']", "has no effect", "larder explain"),
            (
                "[[family]]\nname = 'x'\npath = '/a/\\./b'",
                "'/x' = ['x']",
                "\"x\" gets no request",
                "larder explain",
            ),
            ("[[family]]\nname = 'x'\npath = '/a$b'", "'/x' = ['x']", "\"x\" gets no request", "larder explain"),
            (
                "[[family]]\nname = 'x'\npath = '/users/42'",
                "'/x' = ['x']",
                "\"x\" gets no request: \"user\"",
                "move it above",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/(users|users/[0-9])'",
                "'/x' = ['x']",
                "\"x\" gets no request: \"user\", \"list\" before it",
                "move it above \"user\"",
            ),
            (
                "[[family]]\nname = 'y'\npath = '/x/y(/.*)?'\n[[family]]\nname = 'x'\npath = '/x/.*'\n[[family]]\nname = 'z'\npath = '/x/z/.*|/users'",
                "'/x' = ['x', 'y', 'z']",
                "\"z\" gets no request: \"list\", \"x\" before it",
                "move it above \"list\"",
            ),
            (
                "[[family]]\nname = 'me'\npath = '/profiles/me'\nidentity = 'cookie:sid'\n[[family]]\nname = 'x'\npath = '/.*\\.css'\nidentity = 'none'",
                "'/x' = ['x', 'me']",
                "family \"x\" takes paths by their end",
                "begin the pattern with a folder",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/me'\nidentity = 'none'",
                "'/x' = ['x']",
                "\"me\" in its path",
                "header:authorization",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/v1/(account|cart)/.*'\nidentity = 'none'",
                "'/x' = ['x']",
                "\"account\" in its path",
                "cookie:NAME",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/cart(/.*)?'\nidentity = 'none'",
                "'/x' = ['x']",
                "\"cart\" in its path",
                "cookie:NAME",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/v\\d+/session'\nidentity = 'none'",
                "'/x' = ['x']",
                "\"session\" in its path",
                "cookie:NAME",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/my/orders/(?<id>\\d+)'\nidentity = 'none'",
                "'/x' = ['x']",
                "\"my\" in its path",
                "cookie:NAME",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\ncollapse = 'fleet'",
                "'/x' = ['x']",
                "collapse = \"fleet\" has no effect",
                "add [store]",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\ncompress = true",
                "'/x' = ['x']",
                "compress has no effect without [store]",
                "add [store]",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\ncompress = 'off'",
                "'/x' = ['x']\n[store]\nredis = 'redis://h'",
                "compress says what [store] says",
                "remove it",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nclient_cache_control = 'max-age=60'",
                "'/x' = ['x']",
                "client_cache_control lets caches behind Larder use a response for 1m",
                "remove client_cache_control",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\ncdn_cache_control = 'max-age=3600'",
                "'/x' = ['x']",
                "cdn_cache_control lets caches behind Larder use a response for 1h",
                "remove cdn_cache_control",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\ncache = 'never'",
                "'/x' = ['x']",
                "family \"x\" has cache = \"never\", but the rule for \"/x\"",
                "remove",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/users'\ncache = 'never'",
                "",
                "\"list\" gets no request: \"x\" takes",
                "narrower",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nmax_body = '1GiB'",
                "'/x' = ['x']",
                "max_body = 1.0 GiB has no effect",
                "raise capacity",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nidentity = 'cookie:sid'",
                "'/x' = { families = ['x'], refresh = true }",
                "refresh has no effect",
                "remove refresh",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nmethods = ['QUERY']",
                "'/x' = { families = ['x'], refresh = true }",
                "refresh has no effect",
                "remove refresh",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x'\nauthorize = { path = '/check', ttl = '5s' }",
                "'/x' = { families = ['x'], refresh = true }\n'/y' = ['*']",
                "refresh has no effect",
                "remove refresh",
            ),
            (
                "[[family]]\nname = 'x'\npath = '/x(/check)?'\nauthorize = { path = '/x/check', ttl = '5s' }",
                "'/x' = ['x', 'authorize']",
                "the path of its own authorize",
                "leave it out",
            ),
            (
                "",
                "'/w/(?<id>\\d+)' = ['user', 'user:{id}']",
                "\"user:{id}\" has no effect beside \"user\"",
                "remove",
            ),
            ("", "'/w/(?<name>[a-z]+)' = ['user:{name}']", "{name} is never what {id} is", "the same texts"),
            (
                "[[family]]\nname = 'x'\npath = '/x'\ninvalidation = 'none'",
                "'/x' = ['x']",
                "has invalidation = \"none\", but the rule for \"/x\"",
                "remove the family from the rule",
            ),
        ];
        assert!(rows.len() >= 20);
        for (families, rules, message, remedy) in rows {
            let text = format!("{GOOD}{families}\n{RULES}{rules}\n");
            let found = warnings(&text);
            let [warning] = &found[..] else { panic!("{families} {rules}: {found:#?}") };
            assert!(warning.message.contains(message) && warning.remedy.contains(remedy), "{warning:#?}");
            let line = text.lines().nth(warning.line - 1).unwrap();
            assert!(line == "[[family]]" || rules.starts_with(line), "{line}");
        }
    }

    #[test]
    fn a_good_file_causes_no_warning() {
        let rows = [
            String::new(),
            family("x", "path = '/users/(?<id>[^/]+)'"),
            family("x", "path = '/some(thing|body)/me/.*'"),
            family("x", "path = '/menu/(?<me>[^/]+)/cartoons/account\\.css'\nidentity = 'none'"),
            family("x", "path = '/sessions(/(?<id>\\d+))?'\nidentity = 'none'"),
            family("x", "path = '/accounts/(?<id>[^/]+)'\nidentity = 'none'"),
            family("x", "path = '/notifications/(?<id>[0-9a-f-]{36})'\nidentity = 'none'"),
            family("x", "path = '/people/(?<id>\\d+)/profile'\nidentity = 'none'"),
            family("x", "path = '/profile/(?<name>[^/]+)'\nidentity = 'none'"),
            family("x", "path = '/e(?:\\?.*)?'"),
            family("x", "path = '/v1/colou?r=1'"),
            family("x", "path = '/x'\nmethods = ['QUERY']") + &family("y", "path = '/x'"),
            family("x", "path = '/x'\ncollapse = 'fleet'") + "[store]\nredis = 'redis://h'\n",
            family("x", "path = '/(?i)x/\\w{1,9}'"),
        ];
        for families in rows {
            let rules = RULES.to_owned() + "'/x' = ['*']\n'/w/(?<uid>[^/]+)' = ['user:{uid}']\n";
            let found = warnings(&format!("{GOOD}{families}{rules}"));
            assert_eq!(found, [], "{families}");
        }
        let alone = family("x", "path = '/x'\ninvalidation = 'none'");
        assert_eq!(warnings(&alone), []);
    }

    /// Many families of a typical API, and a rule that invalidates them.
    fn many(count: usize) -> String {
        let one = |n: usize| family(&format!("f{n}"), &format!("path = '/api/v1/r{n}x(/(?<id>[^/]+))?'"));
        (0..count).map(one).collect::<String>() + "[invalidate]\n'/api/.*' = ['*']\n"
    }

    #[test]
    fn a_shadowed_family_is_found_among_many() {
        let last = family("last", "path = '/api/v1/r7x/(?<id>\\d{1,20})'");
        let found = warnings(&(last.clone() + &many(500)));
        assert_eq!(found, []);
        let text = many(500).replace("[invalidate]", &format!("{last}[invalidate]"));
        let [warning] = &warnings(&text)[..] else { panic!() };
        assert!(warning.message.contains("\"last\" gets no request: \"f7\" before it takes"), "{warning:?}");
    }

    #[test]
    fn many_shadowed_families_get_a_warning_each() {
        let found = warnings(&(family("all", "path = '/api/.*'") + &many(100)));
        assert_eq!(found.len(), 100);
        assert!(found.iter().all(|warning| warning.message.contains("\"all\" before it takes")), "{:?}", found[0]);
    }

    #[test]
    fn families_that_no_rule_names_share_one_warning() {
        let text = family("x", "path = '/x'") + &family("y", "path = '/y'");
        let [warning] = &warnings(&text)[..] else { panic!() };
        assert!(warning.message.contains("families x, y") && warning.line == 1, "{warning:?}");
    }

    #[test]
    fn a_ttl_that_upstream_overrides_causes_a_warning() {
        let rows = [
            ("ttl = '5m'", "max-age=60", true),
            ("ttl = '5m'", "private, s-maxage=0", true),
            ("ttl = '5m'\nttl_policy = 'override'", "max-age=60", false),
            ("ttl = '5m'", "public", false),
            ("negative_ttl = '5m'", "max-age=60", false),
        ];
        for (fields, value, is_told) in rows {
            let text = family("x", &format!("path = '/x\\.json'\n{fields}"));
            let config = Config::parse(&text, "rules.toml", &Overrides::default(), &|_| None).unwrap();
            let family = &config.rules.stated()[0];
            assert_eq!(family.only_path().as_deref(), Some("/x.json"));
            let response = HeaderMap::from_iter([(http::header::CACHE_CONTROL, value.parse().unwrap())]);
            let warning = overridden_ttl(family, "/x.json", &response, SystemTime::now());
            assert_eq!(warning.is_some(), is_told, "{fields} {value}: {warning:?}");
            assert!(warning.is_none_or(
                |it| it.message.contains("ttl = \"5m\" has no effect") && it.remedy.contains("override")
            ));
        }
    }

    #[test]
    fn warming_a_family_with_an_identity_needs_credentials() {
        let warmed = |headers: &str| {
            let text = family("me", "path = '/me'\nidentity = 'header:authorization'");
            let text = format!(
                "{text}[invalidate]\n'/me' = ['me']\n[[warm]]\npaths = ['/me?a=1']\nhost = 'h'\n{headers}"
            );
            warnings(&text)
        };
        let [warning] = &warmed("")[..] else { panic!() };
        assert!(warning.message.contains("family \"me\"") && warning.line == 7, "{warning:?}");
        assert_eq!(warmed("headers = { Authorization = '${T}' }"), []);
        let [warning] = &warmed("headers = { Authorization = '${T:-x}' }")[..] else { panic!() };
        assert!(warning.message.contains("credentials with a default") && warning.line == 7, "{warning:?}");
    }

    #[test]
    fn paths_of_a_family_that_is_never_cached_are_warmed_in_vain() {
        let text = family("x", "path = '/x'\ncache = 'never'") + "[[warm]]\npaths = ['/x?a=1']\nhost = 'h'\n";
        let [warning] = &warnings(&text)[..] else { panic!() };
        assert!(warning.message.contains("paths has no effect for \"/x?a=1\""), "{warning:?}");
    }

    #[test]
    fn an_identity_by_claims_and_by_the_whole_token_causes_a_warning() {
        let text =
            family("x", "path = '/x'\nidentity = ['jwt:sub', 'header:authorization']\ninvalidation = 'none'");
        let [warning] = &warnings(&(text + "[jwt]\njwks_url = 'https://h/keys'\n"))[..] else { panic!() };
        assert!(warning.message.contains("each new token") && warning.remedy.contains("remove"), "{warning:?}");
    }

    #[test]
    fn the_rules_of_the_readme_cause_no_warning() {
        let readme = include_str!("../../README.md");
        let from = readme.find("```toml\n[server]").unwrap() + "```toml\n".len();
        let rules = &readme[from..from + readme[from..].find("```").unwrap()];
        assert!(rules.contains("[[family]]") && rules.contains("[invalidate]"));
        assert_eq!(warnings(rules), []);
    }

    #[test]
    fn the_files_of_the_project_cause_no_warning() {
        // With a default the example runs as it is; it is warned of.
        let hita = include_str!("../../examples/hita/rules.toml");
        let hita = &hita.replace("${HITA_WARM_TOKEN:-manager}", "${HITA_WARM_TOKEN}");
        for file in [include_str!("../../rules.toml"), hita, include_str!("../../deploy/rules.toml")] {
            let text = file.replace("\"${HITA_UPSTREAM:-http://127.0.0.1:8000}\"", "\"http://h\"");
            let text =
                text.replace("\"${UPSTREAM_URL}\"", "\"http://h\"").replace("\"${REDIS_URL}\"", "\"redis://h\"");
            let text = text.replace("\"${LARDER_NAMESPACE:-larder}\"", "\"larder\"");
            assert_eq!(warnings(&text), []);
        }
    }
}
