//! Notes on what operators may do and see: `[purge]`, the scopes of tokens, `[log]` and `[traces]`. None has a secret: no token, no digest,
//! and of the collector's URL no path and no query.

use crate::access_log::AccessFormat;
use crate::config::traces::TracesConfig;
use crate::config::{AccessOutput, Config, LogConfig, LogFormat, PurgeConfig, Token};
use crate::network::Network;
use crate::rules::thresholds::percent_text;
use crate::tokens::OperatorToken;

/// A note for each of them that the file sets.
pub(super) fn notes(config: &Config) -> impl Iterator<Item = String> {
    let purge = config.purge.as_ref().map(about_purge);
    let scopes = config.admin.tokens.iter().filter_map(|token| about_scope(token, config));
    let log = (config.log != LogConfig::default()).then(|| about_log(&config.log));
    let traces = config.traces.as_ref().map(about_traces);
    purge.into_iter().chain(scopes).chain(log).chain(traces)
}

/// Who may send PURGE and BAN.
fn about_purge(purge: &PurgeConfig) -> String {
    let networks: Vec<String> = purge.from.iter().map(Network::to_string).collect();
    let from =
        (!networks.is_empty()).then(|| format!("clients at {}, which may purge everything", networks.join(", ")));
    let tokens =
        purge.tokens.then(|| "requests with an admin token in Authorization, within its families".to_owned());
    let senders: Vec<String> = from.into_iter().chain(tokens).collect();
    format!("PURGE and BAN are accepted at the proxy from {}; others are refused", senders.join("; and from "))
}

/// Which families a token may change; `None` for all that its role may.
fn about_scope(token: &Token, config: &Config) -> Option<String> {
    let scope = token.families.as_ref()?;
    let operator = OperatorToken { name: token.name.clone(), role: token.role, families: token.families.clone() };
    let stated = config.rules.stated();
    let covered: Vec<&str> =
        stated.iter().map(|family| family.name.as_str()).filter(|family| operator.may_change(family)).collect();
    let covered = if covered.is_empty() { "no family".to_owned() } else { covered.join(", ") };
    Some(format!(
        "the admin token {:?} (families = {scope:?}) may purge, warm and bypass {covered}, and nothing else",
        token.name
    ))
}

/// What is logged, how, and where.
fn about_log(log: &LogConfig) -> String {
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "JSON",
    };
    let access = match (log.access, log.leaves_out_access()) {
        (false, _) => "no line for each request, since access = false".to_owned(),
        (true, true) => "no line for each request, since that has the level info".to_owned(),
        (true, false) => {
            let own = log.access_format.map(|format| match format {
                AccessFormat::Text => " as text",
                AccessFormat::Json => " as JSON",
                AccessFormat::Combined => " in the Combined format",
            });
            let output = match log.access_to {
                AccessOutput::Stderr => "",
                AccessOutput::Stdout => ", on standard output",
            };
            format!("a line for each request{}{output}", own.unwrap_or_default())
        }
    };
    format!("log: {format} on standard error, level {:?}; {access}", log.level)
}

/// Which traces are sent where.
fn about_traces(traces: &TracesConfig) -> String {
    let names: Vec<&str> = traces.headers.keys().map(http::HeaderName::as_str).collect();
    let fields = if names.is_empty() { String::new() } else { format!(", with the fields {}", names.join(" ")) };
    // A path or a query may hold a key.
    let (scheme, authority) = (
        traces.endpoint.scheme_str().unwrap_or_default(),
        traces.endpoint.authority().map_or("", |it| it.as_str()),
    );
    format!(
        "traces: spans are sent to {scheme}://{authority} as the service {:?}{fields}: of {} of the traces that begin here, and of those \
         that a client records",
        traces.service,
        percent_text(traces.sample),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn notes_on(text: &str) -> Vec<String> {
        let families = ["user_list", "user_details", "booking:room", "photo"];
        let families: String = families
            .iter()
            .map(|name| format!("[[family]]\nname = '{name}'\npath = '/{name}'\nttl = '1m'\n"))
            .collect();
        let text = format!("[server]\nupstream = 'http://h'\n{families}{text}\n");
        let env = |name: &str| (name == "SECRET").then(|| "s3cret-of-the-environment".to_owned());
        let config = Config::parse(&text, "rules.toml", &Overrides::default(), &env).unwrap();
        notes(&config).collect()
    }

    #[test]
    fn a_note_says_who_may_send_purge_and_ban() {
        let token = "[admin]\ntokens = [{ role = 'admin', token = 's3cret-of-an-operator' }]\n";
        let rows = [
            (
                "[purge]\nfrom = ['127.0.0.1', '10.0.0.0/8']".to_owned(),
                "from clients at 127.0.0.1/32, 10.0.0.0/8, which may purge everything; others are refused",
            ),
            (
                format!("{token}[purge]\ntokens = true"),
                "from requests with an admin token in Authorization, within its families; others are refused",
            ),
            (
                format!("{token}[purge]\nfrom = ['::1']\ntokens = true"),
                "from clients at ::1/128, which may purge everything; and from requests with an admin token in Authorization, within \
                 its families; others are refused",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(notes_on(&text), [format!("PURGE and BAN are accepted at the proxy {expected}")], "{text}");
        }
    }

    #[test]
    fn a_note_names_the_families_of_a_token_and_not_the_token() {
        let hex = "ab".repeat(32);
        let notes = notes_on(&format!(
            "[admin]\ntokens = [{{ role = 'admin', name = 'ci', sha256 = '{hex}', families = ['user_*', 'booking'] }}, \
             {{ role = 'admin', token = 's3cret-of-an-operator' }}, \
             {{ role = 'viewer', token_file = '/run/t' }}]"
        ));
        let expected = "the admin token \"ci\" (families = [\"user_*\", \"booking\"]) may purge, warm and bypass user_list, \
                        user_details, booking:room, and nothing else";
        assert_eq!(notes, [expected]);
    }

    #[test]
    fn a_note_says_what_is_logged_and_where() {
        let rows = [
            ("format = 'json'", "JSON on standard error, level \"info\"; a line for each request"),
            (
                "access = false",
                "text on standard error, level \"info\"; no line for each request, since access = false",
            ),
            (
                "level = 'warn'",
                "text on standard error, level \"warn\"; no line for each request, since that has the level info",
            ),
            (
                "access_format = 'combined'\naccess_to = 'stdout'",
                "text on standard error, level \"info\"; a line for each request in the Combined format, on standard output",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(notes_on(&format!("[log]\n{text}")), [format!("log: {expected}")], "{text}");
        }
        assert!(notes_on("[log]\nformat = 'text'").is_empty(), "that is the default");
    }

    #[test]
    fn a_note_says_where_traces_go_without_what_may_be_a_secret() {
        let notes = notes_on(
            "[traces]\nendpoint = 'https://collector.example:4318/key-in-the-path?key=in-the-query'\nsample = '0.07%'\n\
             headers = { Authorization = 'Bearer ${SECRET}' }",
        );
        let expected = "traces: spans are sent to https://collector.example:4318 as the service \"larder\", with the fields \
                        authorization: of 0.07% of the traces that begin here, and of those that a client records";
        assert_eq!(notes, [expected]);
    }
}
