//! `larder explain METHOD URL` prints what Larder would do with a request, and why, by calling the functions of the
//! proxy. By default it uses only the rules; with `--response` or `--ask`, it also explains a response; with
//! `--admin`, it reports what a running Larder has stored.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde::Serialize;

use super::{ExplainArguments, output, rules_file};
use crate::bearer::BearerToken;
use crate::config::{Config, Overrides, StoreConfig};
use crate::http::headers::{self, Meant, is_safe};
use crate::http::invalidation;
use crate::http::target::{MOST_READINGS, Target};
use crate::jwt::TokenVerifier;
use crate::key::PresentedCredentials;
use crate::marks::Tag;
use crate::metrics::Metrics;
use crate::proxy::explain::{Explainer, ResponseExplanation, RouteExplanation, StoredExplanation};
use crate::rules::{CallerIdentity, Unresolved, WriteValues, post};
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
    /// What Larder would do with the response, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<ResponseExplanation>,
}

#[derive(Debug, Serialize)]
struct Write {
    method: String,
    path: String,
    /// The rules that match, in file order.
    rules: Vec<Match>,
    /// The tags that any non-error response invalidates (RFC 9111 §4.4), as does a response showing that a stored one
    /// is no longer valid: those of the path, of all its readings, and of its `Destination`.
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

/// Why there is no explanation.
#[derive(Debug)]
enum ExplainError {
    /// Invalid arguments, rules or file.
    Usage(String),
    /// Upstream or the admin did not respond.
    NoAnswer(String),
}

/// Returns the text (or JSON) to print, and the exit code: 2 for invalid arguments or rules, 1 if upstream or the
/// admin does not respond.
pub(super) fn explain(arguments: &ExplainArguments) -> (String, u8) {
    let (message, code) = match explanation(arguments) {
        Ok(explanation) if arguments.json => {
            // Plain data, so serialisation cannot fail.
            return (serde_json::to_string_pretty(&explanation).unwrap_or_default(), 0);
        }
        Ok(explanation) => return (explanation.text(), 0),
        Err(ExplainError::Usage(message)) => (message, 2),
        Err(ExplainError::NoAnswer(message)) => (message, 1),
    };
    match arguments.json {
        true => (serde_json::json!({ "success": false, "error": message }).to_string(), code),
        false => (message, code),
    }
}

fn explanation(arguments: &ExplainArguments) -> Result<Explanation, ExplainError> {
    let method = method(arguments).map_err(ExplainError::Usage)?;
    let fields = fields(&arguments.headers).map_err(ExplainError::Usage)?;
    if let Some(admin) = &arguments.admin {
        return remote::stored_now(arguments, admin, &method)
            .map(|stored_now| Explanation::Stored(Box::new(stored_now)));
    }
    let (config, target, fields) = request(arguments, fields).map_err(ExplainError::Usage)?;
    let is_write = config.rules.is_write(&method, &target)
        || method == Method::POST && !post::is_read_as_sent(&fields, target.query.as_deref(), Some(&[]));
    if Explainer::may_be_read(&method) && !is_write {
        return read(arguments, config, method, target, fields).map(|read| Explanation::Read(Box::new(read)));
    }
    if arguments.response.is_some() || arguments.ask {
        return Err(ExplainError::Usage(format!(
            "only responses to GET, HEAD and QUERY are stored, and to POST where a family says so; Larder sends no \
             {method} as a trial; omit --response and --ask to see what a {method} invalidates"
        )));
    }
    Ok(match is_write {
        false => Explanation::Pass {
            method: method.to_string(),
            reason: "safe, but not cacheable: forwarded unchanged".to_owned(),
        },
        true => {
            let jwt = config.jwt.as_ref().map(|jwt| TokenVerifier::new(jwt, &Metrics::new()));
            load_keys(jwt.as_ref())?;
            Explanation::Write(write(&config, jwt.as_ref(), &method, &target, fields))
        }
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
        .ok_or_else(|| format!("-H {line:?} is not a header field; write it like -H 'Accept-Language: de'"))
}

fn read(
    arguments: &ExplainArguments,
    mut config: Config,
    method: Method,
    target: Target,
    fields: HeaderMap,
) -> Result<Read, ExplainError> {
    if arguments.ask {
        return ask(arguments, config, method, target, fields);
    }
    let live = Live::take(&mut config, &Metrics::new());
    load_keys(live.jwt.as_deref())?;
    let explainer = Explainer::of(&config, Arc::new(live), method, target, fields);
    let answer = match &arguments.response {
        Some(file) => Some(explainer.judge(&head::read(file).map_err(ExplainError::Usage)?, after(arguments))),
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
) -> Result<Read, ExplainError> {
    let Some(url) = config.server.upstream.clone() else {
        let missing = "no upstream: set --upstream http://HOST:PORT or [server] upstream";
        return Err(ExplainError::Usage(missing.to_owned()));
    };
    let upstream = Upstream::new(&url, &config.server).map_err(|fault| ExplainError::Usage(fault.to_string()))?;
    let running = Running::new(config, upstream, None, Arc::new(Metrics::new()));
    let explainer = Explainer::of(&running.config, running.live(), method, target, fields);
    let answer = wait(explainer.ask(&running))?.map_err(|error| {
        ExplainError::NoAnswer(format!(
            "{url}: {error}; check that the API runs there, or set --upstream http://HOST:PORT"
        ))
    })?;
    Ok(Read { claim: explainer.claim(), answer: Some(explainer.judge(&answer, after(arguments))) })
}

/// Reads the keys of `[jwt]` that are in files. None are fetched.
fn load_keys(jwt: Option<&TokenVerifier>) -> Result<(), ExplainError> {
    jwt.map_or(Ok(()), TokenVerifier::load).map_err(|fault| ExplainError::Usage(fault.to_string()))
}

/// Runs a network operation to completion.
fn wait<T>(asking: impl Future<Output = T>) -> Result<T, ExplainError> {
    Ok(output::runtime().map_err(ExplainError::NoAnswer)?.block_on(asking))
}

fn write(
    config: &Config,
    jwt: Option<&TokenVerifier>,
    method: &Method,
    target: &Target,
    mut fields: HeaderMap,
) -> Write {
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
    // A request with several `Destination`s is refused.
    let destination = invalidation::destination(target, headers, || methods.clone(), &own).unwrap_or_default();
    let targets: Vec<Target> =
        std::iter::once(target.clone()).chain(destination.iter().map(|path| target.clone().at(path))).collect();
    let secret = config.store.as_ref().and_then(StoreConfig::secret);
    let bearer = jwt.map_or(BearerToken::Absent, |jwt| jwt.bearer(headers)).at(SystemTime::now());
    let presented = PresentedCredentials { fields: headers, bearer: &bearer };
    let credentials = &config.server.credential_headers;
    let caller = CallerIdentity::Known { presented, secret: secret.as_ref(), credentials };
    let values = WriteValues { caller, query: target.query.as_deref(), ..WriteValues::UNKNOWN };
    let matches = config.rules.invalidated_by_any(&methods, &targets, values);
    let mut notes = Vec::new();
    for (reference, why) in matches.iter().flat_map(|matched| &matched.unresolved) {
        let what = match why {
            Unresolved::NotReceived => {
                "the value is in the content of the request or the response, which explain does not have"
                    .to_owned()
            }
            why => why.to_string(),
        };
        notes.push(format!("{reference}: {what}; without a value all of the family is invalidated"));
    }
    let fault = matches.iter().find_map(|matched| matched.rule.fault_of_caller(&bearer));
    notes.extend(fault.map(|fault| {
        format!(
            "its bearer token does not identify its caller (detail={}), so that {{identity}} means the entries of all callers; {}",
            fault.token(),
            fault.what_to_do()
        )
    }));
    if is_safe(method) {
        notes.push(format!(
            "a rule names {method} for this path, so it is a write and never answered from the cache"
        ));
    }
    if *method == Method::POST {
        notes.push("a form with another method in _method also counts as a write with that method".to_owned());
    }
    if let Some(path) = &destination {
        notes.push(format!("its Destination {path} counts as a target too"));
    }
    let family = config.rules.route(&Method::GET, &target.path).map(|route| route.family);
    if (*method == Method::PUT || *method == Method::PATCH)
        && let Some(family) = family.filter(|family| family.write_through)
    {
        notes.push(format!(
            "a 200 or 201 with content refreshes what family {:?} stores for this path (write_through), unless another write \
             to it came in between",
            family.name
        ));
    }
    if matches.is_empty() {
        notes.push("no rule matches this write: it invalidates only stored responses for its own path".to_owned());
    }
    match &methods {
        Meant::These(methods) if methods.len() > 1 => {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            let names = names.join(", ");
            notes.push(format!("upstream may execute it as any of {names}: the rules for all of them apply"));
        }
        Meant::These(_) => {}
        Meant::Any => notes.push("it names so many methods that the rules for all methods apply".to_owned()),
    }
    let readings = target.readings();
    if !targets.iter().all(|target| target.readings().is_complete()) {
        notes.push(format!("refused with 400: its path has more than {MOST_READINGS} readings"));
    } else if readings.count() > 1 {
        let others: Vec<&str> = readings.others().collect();
        notes
            .push(format!("upstream may read the path as {}: the rules for all of them apply", others.join(", ")));
    }
    notes.push("a write without a response from upstream (timeout, reset, 502, 504) counts as executed, and its invalidation is repeated later".to_owned());
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
