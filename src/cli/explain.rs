//! `larder explain METHOD URL`: what Larder would do with a request, and why. Calls the functions that the proxy calls.
//! By the rules alone; with `--response` or `--ask`, also what would become of an answer; with `--admin`, what a
//! running Larder keeps.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;

use super::{ExplainArguments, rules_file};
use crate::config::{Config, Overrides, StoreConfig};
use crate::http::headers::{self, Meant, is_safe};
use crate::http::invalidation;
use crate::http::target::{MOST_READINGS, Target};
use crate::marks::Tag;
use crate::metrics::Metrics;
use crate::proxy::explain::{Explainer, ResponseExplanation, RouteExplanation, StoredExplanation};
use crate::rules::CallerIdentity;
use crate::running::{Live, Running};
use crate::upstream::{self, Upstream};

mod head;
mod print;
mod remote;

/// What Larder would do with a request.
#[derive(Debug, Serialize)]
#[serde(tag = "route", rename_all = "lowercase")]
enum Explanation {
    Read(Box<Read>),
    Stored(Box<StoredExplanation>),
    Write(Write),
    Pass { method: String, reason: String },
}

#[derive(Debug, Serialize)]
struct Read {
    #[serde(flatten)]
    claim: RouteExplanation,
    /// What would become of the answer, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<ResponseExplanation>,
}

#[derive(Debug, Serialize)]
struct Write {
    method: String,
    path: String,
    /// The rules that match, in file order.
    rules: Vec<Match>,
    /// Always invalidated by a non-error answer (RFC 9111 §4.4), and by one that shows that a copy is old: the path as it is,
    /// all that upstream may take it for, and those of its `Destination`.
    target: String,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Match {
    path: String,
    line: usize,
    methods: Vec<String>,
    on: Vec<(u16, u16)>,
    /// How they are invalidated: `hard, again 5s`.
    how: String,
    invalidates: Vec<String>,
}

/// Why there is nothing to explain.
#[derive(Debug)]
enum Failure {
    /// Arguments, rules or a file that cannot be used.
    Usage(String),
    /// Somebody who was asked gave no answer.
    NoAnswer(String),
}

/// The text (or JSON) to print, and the exit code: 2 for arguments or rules that cannot be used, 1 if upstream or the
/// admin gives no answer.
pub(super) fn explain(arguments: &ExplainArguments) -> (String, u8) {
    let (message, code) = match explanation(arguments) {
        Ok(explanation) if arguments.json => {
            // Plain data: strings, numbers and lists.
            return (serde_json::to_string_pretty(&explanation).unwrap_or_default(), 0);
        }
        Ok(explanation) => return (explanation.text(), 0),
        Err(Failure::Usage(message)) => (message, 2),
        Err(Failure::NoAnswer(message)) => (message, 1),
    };
    match arguments.json {
        true => (serde_json::json!({ "success": false, "error": message }).to_string(), code),
        false => (message, code),
    }
}

fn explanation(arguments: &ExplainArguments) -> Result<Explanation, Failure> {
    let method = method(arguments).map_err(Failure::Usage)?;
    let fields = fields(&arguments.headers).map_err(Failure::Usage)?;
    if let Some(admin) = &arguments.admin {
        return remote::stored_now(arguments, admin, &method)
            .map(|stored_now| Explanation::Stored(Box::new(stored_now)));
    }
    let (config, target, fields) = request(arguments, fields).map_err(Failure::Usage)?;
    let is_write = config.rules.is_write(&method, &target);
    if Explainer::is_read(&method) && !is_write {
        return read(arguments, config, method, target, fields).map(|read| Explanation::Read(Box::new(read)));
    }
    if arguments.response.is_some() || arguments.ask {
        return Err(Failure::Usage(format!(
            "only answers to GET, HEAD and QUERY are stored, and Larder sends no {method} to see what happens; leave \
             --response and --ask out to see what a {method} invalidates"
        )));
    }
    Ok(match is_write {
        false => Explanation::Pass {
            method: method.to_string(),
            reason: "safe, and not answered from the cache: forwarded as it is".to_owned(),
        },
        true => Explanation::Write(write(&config, &method, &target, fields)),
    })
}

fn method(arguments: &ExplainArguments) -> Result<Method, String> {
    Method::from_bytes(arguments.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| format!("{:?} is not a method; write GET, POST, …", arguments.method))
}

fn request(arguments: &ExplainArguments, fields: HeaderMap) -> Result<(Config, Target, HeaderMap), String> {
    let file = rules_file(arguments.rules.clone());
    let overrides = Overrides { upstream: arguments.upstream.clone(), ..Overrides::default() };
    let config = Config::load(file.as_deref(), &overrides, &|name| std::env::var(name).ok())
        .map_err(|error| error.to_string())?;
    let uri: Uri =
        arguments.url.parse().map_err(|error| format!("{:?} is not a URL or a path: {error}", arguments.url))?;
    let (target, fields) = Explainer::target(&config, &uri, fields).map_err(|fault| format!("{uri}: {fault}"))?;
    Ok((config, target, fields))
}

fn fields(lines: &[String]) -> Result<HeaderMap, String> {
    lines.iter().map(|line| field(line)).collect()
}

fn field(line: &str) -> Result<(HeaderName, HeaderValue), String> {
    headers::parse_line(line.trim().as_bytes())
        .ok_or_else(|| format!("-H {line:?} is not a field; write it like -H 'Accept-Language: de'"))
}

fn read(
    arguments: &ExplainArguments,
    mut config: Config,
    method: Method,
    target: Target,
    fields: HeaderMap,
) -> Result<Read, Failure> {
    if arguments.ask {
        return ask(arguments, config, method, target, fields);
    }
    let live = Live::take(&mut config, &Metrics::new());
    let explainer = Explainer::of(&config, Arc::new(live), method, target, fields);
    let answer = match &arguments.response {
        Some(file) => Some(explainer.judge(&head::read(file).map_err(Failure::Usage)?, after(arguments))),
        None => None,
    };
    Ok(Read { claim: explainer.claim(), answer })
}

fn after(arguments: &ExplainArguments) -> Duration {
    Duration::from_secs(arguments.age.unwrap_or(0).into())
}

fn ask(
    arguments: &ExplainArguments,
    config: Config,
    method: Method,
    target: Target,
    fields: HeaderMap,
) -> Result<Read, Failure> {
    let Some(url) = config.server.upstream.clone() else {
        let missing = "no upstream to ask: name it with --upstream http://HOST:PORT or [server] upstream";
        return Err(Failure::Usage(missing.to_owned()));
    };
    let upstream = Upstream::new(&url, &config.server).map_err(|fault| Failure::Usage(fault.to_string()))?;
    let running = Running::new(config, upstream, None, Arc::new(Metrics::new()));
    let explainer = Explainer::of(&running.config, running.live(), method, target, fields);
    let answer = wait(explainer.ask(&running))?.map_err(|error| {
        Failure::NoAnswer(format!(
            "{url}: {error}; look whether the API runs there, or name another with --upstream http://HOST:PORT"
        ))
    })?;
    Ok(Read { claim: explainer.claim(), answer: Some(explainer.judge(&answer, after(arguments))) })
}

/// Runs what asks over the network to its end.
fn wait<T>(asking: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::NoAnswer(format!("cannot ask: {error}")))?;
    Ok(runtime.block_on(asking))
}

fn write(config: &Config, method: &Method, target: &Target, mut fields: HeaderMap) -> Write {
    match config.server.underscores {
        true => drop(headers::dash_underscored(&mut fields)),
        false => headers::drop_underscored(&mut fields),
    }
    let forwarded = config.server.forwarded_from(IpAddr::V4(Ipv4Addr::LOCALHOST));
    headers::strip_claims(&mut fields, forwarded, |name| config.rules.identify_by(name));
    let headers = &fields;
    let methods = headers::methods_meant(method, headers, target.query.as_deref(), Some(&[]));
    let own = config.server.upstream.iter().flat_map(|url| upstream::addresses(url, &config.server.host));
    let own: Vec<String> = own.collect();
    // A request with several is refused.
    let destination = invalidation::destination(target, headers, || methods.clone(), &own).unwrap_or_default();
    let targets: Vec<Target> =
        std::iter::once(target.clone()).chain(destination.iter().map(|path| target.clone().at(path))).collect();
    let secret = config.store.as_ref().and_then(StoreConfig::secret);
    let caller = CallerIdentity::Known { fields: headers, secret: secret.as_ref() };
    let matches = config.rules.invalidated_by_any(&methods, &targets, caller);
    let mut notes = Vec::new();
    if is_safe(method) {
        notes.push(format!(
            "a rule names {method} for this path, so that it is a write, and never answered from the cache"
        ));
    }
    if *method == Method::POST {
        notes.push("a form that names another method in _method is a write by that one too".to_owned());
    }
    if let Some(path) = &destination {
        notes.push(format!("its Destination is {path}: it counts as a target too"));
    }
    if matches.is_empty() {
        notes.push("no rule matches this write: only what is stored under its own path is invalidated".to_owned());
    }
    match &methods {
        Meant::These(methods) if methods.len() > 1 => {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let names = names.join(", ");
            notes.push(format!("upstream may take it as any of {names}: the rules of all of them apply"));
        }
        Meant::These(_) => {}
        Meant::Any => notes.push("it names so many methods that the rules of all methods apply".to_owned()),
    }
    let readings = target.readings();
    if !targets.iter().all(|target| target.readings().is_complete()) {
        notes.push(format!("refused with 400: its path can be taken for more than {MOST_READINGS} others"));
    } else if readings.count() > 1 {
        let others: Vec<&str> = readings.others().collect();
        notes
            .push(format!("upstream may take the path for {}: the rules of all of them apply", others.join(", ")));
    }
    notes.push("a write that upstream does not answer (timeout, reset, 502, 504) counts as carried out, and is invalidated for once more later".to_owned());
    Write {
        method: method.to_string(),
        path: target.path.clone(),
        rules: matches
            .into_iter()
            .map(|invalidated| Match {
                path: invalidated.rule.path.clone(),
                line: invalidated.rule.line,
                methods: invalidated.rule.methods.names().into_iter().map(str::to_owned).collect(),
                on: invalidated.rule.on.ranges.clone(),
                how: invalidated.rule.manner(),
                invalidates: invalidated.tags.iter().map(Tag::to_string).collect(),
            })
            .collect(),
        target: targets.iter().flat_map(Target::tags).map(|tag| tag.to_string()).collect::<Vec<_>>().join(", "),
        notes,
    }
}
