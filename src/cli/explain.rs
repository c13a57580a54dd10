//! `larder explain METHOD URL`: what Larder would do with a request, and why. Calls the functions that the proxy
//! calls; asks neither upstream nor the store.

use std::fmt::Write as _;

use http::header::{AUTHORIZATION, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;

use super::{ExplainArguments, rules_file};
use crate::config::{Config, Overrides};
use crate::headers;
use crate::key::{self, QueryKeying};
use crate::rules::{self, Family, RuleSet};
use crate::semantics::{Policy, TtlPolicy};
use crate::stamp::Tag;
use crate::target::Target;

/// What Larder would do with a request.
#[derive(Debug, Serialize)]
#[serde(tag = "route", rename_all = "lowercase")]
enum Explanation {
    Read(Box<Read>),
    Write(Write),
    Pass { method: String, reason: String },
}

#[derive(Debug, Serialize)]
struct Read {
    method: String,
    path: String,
    family: Option<String>,
    /// Pattern and line of the family.
    rule: Option<String>,
    instance: Vec<String>,
    key: String,
    key_text: String,
    store_key: String,
    tags: Vec<String>,
    ttl: String,
    notes: Vec<String>,
    outdated_by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Write {
    method: String,
    path: String,
    /// The rules that match, in file order.
    rules: Vec<Match>,
    /// Always outdated by a non-error answer (RFC 9111 §4.4): the path as it is, and as a lenient upstream reads it.
    target: String,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Match {
    path: String,
    line: usize,
    methods: Vec<String>,
    on: Vec<(u16, u16)>,
    outdates: Vec<String>,
}

/// The text (or JSON) to print, and the exit code: 2 for arguments or rules that cannot be used.
pub(super) fn explain(arguments: &ExplainArguments) -> (String, u8) {
    let explanation = match request(arguments) {
        Ok((config, method, target, headers)) => decide(&config, &method, &target, &headers),
        Err(message) if arguments.json => {
            return (serde_json::json!({ "success": false, "error": message }).to_string(), 2);
        }
        Err(message) => return (message, 2),
    };
    let text = match arguments.json {
        // Plain data: strings, numbers and lists.
        true => serde_json::to_string_pretty(&explanation).unwrap_or_default(),
        false => explanation.text(),
    };
    (text, 0)
}

fn request(arguments: &ExplainArguments) -> Result<(Config, Method, Target, HeaderMap), String> {
    let file = rules_file(arguments.rules.clone());
    let config = Config::load(file.as_deref(), &Overrides::default(), &|name| std::env::var(name).ok())
        .map_err(|error| error.to_string())?;
    let method = Method::from_bytes(arguments.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| format!("{:?} is not a method; write GET, POST, …", arguments.method))?;
    let uri: Uri =
        arguments.url.parse().map_err(|error| format!("{:?} is not a URL or a path: {error}", arguments.url))?;
    let mut headers = fields(&arguments.headers)?;
    if uri.authority().is_none() && !headers.contains_key(HOST) {
        // The host is part of the key; without one, take the address that a local client would use.
        let host = HeaderValue::try_from(config.server.listen.to_string()).map_err(|error| error.to_string())?;
        headers.insert(HOST, host);
    }
    let target = Target::of("http", &uri, &headers).map_err(|fault| format!("{:?}: {fault}", arguments.url))?;
    Ok((config, method, target, headers))
}

fn fields(lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let fault = || format!("-H {line:?} is not a field; write it like -H 'Accept-Language: de'");
        let (name, value) = line.split_once(':').ok_or_else(fault)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| fault())?;
        headers.append(name, HeaderValue::try_from(value.trim()).map_err(|_| fault())?);
    }
    Ok(headers)
}

fn decide(config: &Config, method: &Method, target: &Target, headers: &HeaderMap) -> Explanation {
    match *method {
        Method::GET | Method::HEAD => Explanation::Read(Box::new(read(config, method, target, headers))),
        _ if crate::proxy::is_safe(method) => Explanation::Pass {
            method: method.to_string(),
            reason: "safe, and not answered from the cache: forwarded as it is".to_owned(),
        },
        _ => Explanation::Write(write(&config.rules, method, target, headers)),
    }
}

fn read(config: &Config, method: &Method, target: &Target, headers: &HeaderMap) -> Read {
    let rules = &config.rules;
    let claimed = rules.claim(method, &target.path);
    let family = claimed.as_ref().map(|claimed| claimed.family);
    let mut fields = headers.clone();
    rules::strip_read(&mut fields, family);
    let headers = &fields;
    let canonical =
        key::derive(target, headers, family.map(Family::keying)).behind(config.server.forwarded, headers);
    let mut tags = vec![Tag::root()];
    tags.extend(target.tags());
    let mut label = "-".to_owned();
    let mut instance = Vec::new();
    if let Some(claimed) = &claimed {
        tags.extend(claimed.family.tags(&claimed.captures));
        label = claimed.family.label(&claimed.captures);
        instance = claimed.captures.to_vec();
    }
    let namespace = config.store.as_ref().map_or("larder", |store| store.namespace.as_str());
    Read {
        method: method.to_string(),
        path: target.path.clone(),
        family: family.map(|family| family.name.clone()),
        rule: family.map(|family| format!("{} (line {})", family.path, family.line)),
        instance,
        store_key: format!("{namespace}:v1:{label}:{}", canonical.key),
        key: canonical.key.to_string(),
        key_text: canonical.text,
        tags: tags.iter().map(Tag::to_string).collect(),
        ttl: ttl(family.map(|family| &family.policy)),
        notes: notes(family, target, headers),
        outdated_by: outdated_by(rules, family),
    }
}

fn ttl(policy: Option<&Policy>) -> String {
    let Some(policy) = policy else {
        return "what upstream says (Cache-Control, Expires); nothing is stored without it".to_owned();
    };
    match (policy.ttl, policy.ttl_policy) {
        (Some(ttl), TtlPolicy::Override) => {
            let ttl = humantime::format_duration(ttl);
            format!("{ttl}, from the family (ttl_policy = \"override\"); only no-store and private win over it")
        }
        (Some(ttl), TtlPolicy::Default) => {
            let ttl = humantime::format_duration(ttl);
            format!("what upstream says (Cache-Control, Expires); where it says nothing {ttl}, from the family")
        }
        (None, _) => "what upstream says (Cache-Control, Expires); the family has no ttl".to_owned(),
    }
}

fn notes(family: Option<&Family>, target: &Target, headers: &HeaderMap) -> Vec<String> {
    let mut notes = Vec::new();
    let stated = family.is_some_and(|family| family.keying.identity.is_stated());
    let credentials = [AUTHORIZATION, COOKIE].into_iter().find(|name| headers.contains_key(name));
    if let Some(name) = credentials.filter(|_| !stated) {
        notes.push(format!(
            "the request carries {name} and no family says whose answer it is: it is answered from the cache only \
             if upstream says public, s-maxage or must-revalidate (RFC 9111 section 3.5); set `identity` to cache it"
        ));
    }
    if let Some(family) = family
        && target.query.is_some()
        && !matches!(family.keying.query, QueryKeying::All)
    {
        notes.push(
            "the family's `query` says which parameters count; the others are not part of the key".to_owned(),
        );
    }
    notes.push("responses with Vary are kept once for each value of the fields it names".to_owned());
    notes
}

fn outdated_by(rules: &RuleSet, family: Option<&Family>) -> Vec<String> {
    let by_rules = family.map(|family| rules.outdating(family)).unwrap_or_default();
    let mut by: Vec<String> = by_rules
        .into_iter()
        .map(|rule| {
            let methods: Vec<&str> = rule.methods.iter().map(Method::as_str).collect();
            format!("{} {} (line {}): {}", methods.join(" "), rule.path, rule.line, rule.families.join(", "))
        })
        .collect();
    by.push("any write to this path itself (RFC 9111 section 4.4)".to_owned());
    by
}

fn write(rules: &RuleSet, method: &Method, target: &Target, headers: &HeaderMap) -> Write {
    let methods = headers::methods_meant(method, headers, target.query.as_deref());
    let matches = rules.outdated_by_any(&methods, target);
    let mut notes = Vec::new();
    if matches.is_empty() {
        notes.push("no rule matches this write: only what is stored under its own path is outdated".to_owned());
    }
    if methods.len() > 1 {
        let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        notes.push(format!("upstream may take it as any of {}: the rules of all of them apply", names.join(", ")));
    }
    notes.push("a write that upstream does not answer (timeout, reset) counts as carried out".to_owned());
    Write {
        method: method.to_string(),
        path: target.path.clone(),
        rules: matches
            .into_iter()
            .map(|outdated| Match {
                path: outdated.rule.path.clone(),
                line: outdated.rule.line,
                methods: outdated.rule.methods.iter().map(Method::to_string).collect(),
                on: outdated.rule.on.ranges.clone(),
                outdates: outdated.tags.iter().map(Tag::to_string).collect(),
            })
            .collect(),
        target: target.tags().map(|tag| tag.to_string()).collect::<Vec<_>>().join(", "),
        notes,
    }
}

impl Explanation {
    fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = match self {
            Explanation::Read(read) => read.print(&mut out),
            Explanation::Write(write) => write.print(&mut out),
            Explanation::Pass { method, reason } => writeln!(out, "{method}: {reason}"),
        };
        out
    }
}

fn line(out: &mut String, name: &str, value: &str) -> std::fmt::Result {
    let mut lines = value.lines();
    writeln!(out, "{name:<12} {}", lines.next().unwrap_or("-"))?;
    lines.try_for_each(|rest| writeln!(out, "{:<12} {rest}", ""))
}

fn list(out: &mut String, name: &str, values: &[String]) -> std::fmt::Result {
    line(out, name, &if values.is_empty() { "-".to_owned() } else { values.join("\n") })
}

impl Read {
    fn print(&self, out: &mut String) -> std::fmt::Result {
        line(out, "request", &format!("{} {}", self.method, self.path))?;
        let none = "none: plain RFC 9111";
        line(out, "family", self.family.as_deref().unwrap_or(none))?;
        if let Some(rule) = &self.rule {
            line(out, "rule", rule)?;
        }
        if !self.instance.is_empty() {
            list(out, "instance", &self.instance)?;
        }
        line(out, "key", &self.key)?;
        line(out, "key text", &self.key_text)?;
        line(out, "in Redis", &self.store_key)?;
        line(out, "fresh for", &self.ttl)?;
        list(out, "tags", &self.tags)?;
        list(out, "outdated by", &self.outdated_by)?;
        list(out, "note", &self.notes)
    }
}

impl Write {
    fn print(&self, out: &mut String) -> std::fmt::Result {
        line(out, "request", &format!("{} {}", self.method, self.path))?;
        for rule in &self.rules {
            let on: Vec<String> = rule.on.iter().map(|(from, to)| format!("{from}-{to}")).collect();
            line(out, "rule", &format!("{} (line {})", rule.path, rule.line))?;
            line(out, "  on", &on.join(", "))?;
            list(out, "  outdates", &rule.outdates)?;
        }
        line(out, "target", &format!("{} (always, on 2xx and 3xx; RFC 9111 section 4.4)", self.target))?;
        list(out, "note", &self.notes)
    }
}
