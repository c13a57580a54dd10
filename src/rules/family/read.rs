//! Reads `[[family]]`.

use std::ops::Range;
use std::time::Duration;

use http::HeaderName;

use super::super::authorize::read::{self as authorize, Checks};
use super::super::downstream::DownstreamCacheControl;
use super::super::lifetimes::{LIFETIME, LONGEST, read_adaptive_ttl, read_negative_ttl, read_seconds, read_until};
use super::super::nearest::listing;
use super::super::pattern::Pattern;
use super::super::reader::{Item, Table, Text};
use super::super::reference::FamilyNames;
use super::super::reuse::{self, ReuseFields};
use super::super::source::{FurtherInstance, ReadSource, ReadSourceFault};
use super::super::thresholds::FamilyThresholds;
use super::{Collapse, Family, Fetching, ReadMethods, levels};
use crate::bearer::ClaimNames;
use crate::http::headers::field_name;
use crate::http::target::PathCase;
use crate::http::{
    ClientDirectives, CloseDelimited, Policy, Revalidate, STALE_IF_UNREACHABLE, SetCookie, TtlPolicy,
};
use crate::key::{CallerSource, Identity, KeySpec, Parameters, QueryKeySpec};
use crate::rules::instance::CAPTURES;

/// Longest family name, bytes.
const NAME: usize = 100;

/// Longest version, bytes.
const VERSION: usize = 64;
/// Most credentials in one identity.
const SOURCES: usize = 8;

/// All families of a file, and their names: those with `cache = "never"` first, otherwise in file order. A faulty family is
/// omitted, but its name is known.
pub fn read(root: &mut Table<'_>, names: &mut FamilyNames, case: PathCase) -> Vec<Family> {
    let has_keys = root.item("jwt").is_some();
    let tables = root.read("family", |item| item.tables()).unwrap_or_default();
    let mut seen = EarlierFamilies::default();
    let read = |(id, table)| read_one((id, case), (table, has_keys), names, &mut seen);
    // Ids are positions: a faulty family leaves none, and the rules are not used then.
    let mut families: Vec<Family> = tables.into_iter().enumerate().filter_map(read).collect();
    // A path that is never cached is claimed by no other family, wherever the two stand in the file.
    families.sort_by_key(|family| !family.is_never_cached);
    families.iter_mut().enumerate().for_each(|(id, family)| family.id = id);
    authorize::add_families(&mut families, seen.checks, seen.authorize, (names, root.reader()));
    families
}

/// Names and path patterns of the families above, with their lines.
#[derive(Default)]
struct EarlierFamilies {
    names: Vec<(String, usize)>,
    paths: Vec<(String, ReadMethods, String, usize)>,
    checks: Checks,
    /// The position of a name that is that of verdicts, if there are any.
    authorize: Option<Range<usize>>,
}

fn read_one(
    (id, case): (usize, PathCase),
    (mut table, has_keys): (Table<'_>, bool),
    names: &mut FamilyNames,
    seen: &mut EarlierFamilies,
) -> Option<Family> {
    table.rename(format!("family #{}", id + 1));
    let name = table.required("name", "write name = \"…\"").and_then(|item| read_name(&item, seen));
    if let Some((_, shown)) = &name {
        table.rename(format!("family {shown:?}"));
    }
    let cache = table.read("cache", |item| item.choice(&[("default", false), ("never", true)]));
    let is_never_cached = cache.unwrap_or(false);
    let methods = read_methods(&mut table, is_never_cached);
    let path = table.required("path", "write path = '/…', a pattern over the whole path");
    let shown = name.as_ref().map(|(_, shown)| *shown);
    let pattern = path.and_then(|item| read_path(&item, (methods, case), shown, seen));
    let mut key_spec = read_keying(&mut table, has_keys);
    let captures: Vec<&str> = pattern.iter().flat_map(Pattern::names).collect();
    let instances =
        table.item("instance").map(|item| read_instances(&item, &captures, &key_spec)).unwrap_or_default();
    let authorize = table.item("authorize");
    let authorize = authorize.and_then(|item| authorize::read(&item, &mut seen.checks, case));
    if authorize.is_some() && !key_spec.identity.is_stated() {
        // The callers that the API authorizes share the entries.
        key_spec.identity = Identity::Shared;
    }
    if let Some((name, _)) = &name {
        names.add(name, pattern.as_ref().map(Pattern::values_of_captures), &instances, &key_spec.identity);
    }
    if is_never_cached {
        let message = "has no effect beside cache = \"never\"";
        table.refuse_all_but(&["name", "path", "methods", "cache"], message, "remove one of them");
    }
    let ReuseFields { revalidate, stale_while_slow, write_through } = reuse::read(&mut table, methods);
    let policy = read_policy(&mut table, &key_spec, revalidate);
    let fetching = read_fetching(&mut table);
    let collapse = table.read("collapse", |item| item.choice(Collapse::WORDS)).unwrap_or_default();
    let downstream = DownstreamCacheControl::read(&mut table, &key_spec.identity);
    let compress = table.read("compress", |item| read_compress(&item));
    let version = table.read("version", |item| read_version(&item));
    let max_body = table.read("max_body", |item| item.size(&(1..=1 << 40)));
    let until_ttl = table.read("invalidation", |item| item.choice(&[("rules", false), ("none", true)]));
    let alerts = table.read("alerts", |item| FamilyThresholds::of_family(&item)).unwrap_or_default();
    let line = table.reader().line(&table.span());
    table.finish();
    let ((name, _), pattern) = (name?, pattern?);
    let (path, levels) = (pattern.as_str().to_owned(), levels(&name));
    Some(Family {
        id,
        name,
        path,
        methods,
        is_never_cached,
        definition: String::new(),
        version,
        policy,
        key_spec,
        instances,
        fetching,
        collapse,
        max_body,
        stale_while_slow,
        write_through,
        compress,
        counted: false,
        // What is never cached is forwarded as it is.
        says_client_cache_control: downstream.clients.is_some() || is_never_cached,
        client_cache_control: downstream.clients.unwrap_or_default(),
        cdn_cache_control: downstream.cdn,
        is_invalidated_by_caller: false,
        is_invalidated: !until_ttl.unwrap_or(is_never_cached),
        authorize,
        alerts,
        line,
        pattern,
        levels,
    })
}

/// The name, and the text that messages show.
fn read_name<'t>(item: &Item<'t>, seen: &mut EarlierFamilies) -> Option<(String, &'t str)> {
    let text = item.filled()?;
    let is_level = |level: &str| {
        !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    if !text.value.split(':').all(is_level) || text.value.len() > NAME {
        let remedy =
            format!("write levels of letters, digits, \"_\", \".\", \"-\", separated by \":\", at most {NAME}");
        return text.refuse(format_args!("{:?} cannot be a name", text.raw), remedy);
    }
    if let Some((_, line)) = seen.names.iter().find(|(name, _)| *name == text.value) {
        text.fault(
            format_args!("{:?} is the name of the family on line {line} too", text.raw),
            "rename one of them",
        );
    } else {
        seen.names.push((text.value.clone(), text.line()));
    }
    if text.value.split(':').next() == Some(authorize::FAMILY) {
        seen.authorize = Some(text.span());
    }
    Some((text.value, text.raw))
}

fn read_path(
    item: &Item<'_>,
    (methods, case): (ReadMethods, PathCase),
    name: Option<&str>,
    seen: &mut EarlierFamilies,
) -> Option<Pattern> {
    let text = item.filled()?;
    let pattern = compile(&text, case)?;
    if pattern.names().count() > CAPTURES {
        let remedy = "use unnamed groups, (?:…), where the value does not identify an instance";
        return text.refuse(format_args!("has more than {CAPTURES} named captures"), remedy);
    }
    let taken = |(core, other, ..): &&(String, ReadMethods, String, usize)| {
        core == pattern.core() && other.covers(methods)
    };
    match seen.paths.iter().find(taken) {
        Some((.., other, line)) => {
            let message =
                format!("is also the path of {other} on line {line}, which comes first: nothing is left");
            text.fault(message, "remove one of the two families, or make the paths differ");
        }
        None => {
            let name = name.map_or("a family".to_owned(), |name| format!("family {name:?}"));
            seen.paths.push((pattern.core().to_owned(), methods, name, text.line()));
        }
    }
    Some(pattern)
}

/// Compiles a pattern, or reports the fault at its position.
pub fn compile(text: &Text<'_>, case: PathCase) -> Option<Pattern> {
    match Pattern::compile(&text.value, case) {
        Ok(pattern) => Some(pattern),
        Err(fault) => {
            text.fault_at(fault.at, fault.message, fault.remedy);
            None
        }
    }
}

/// A family stores GET unless it lists other methods; HEAD goes with GET. One that is never cached has all methods.
fn read_methods(table: &mut Table<'_>, is_never_cached: bool) -> ReadMethods {
    let usual = ReadMethods { get: true, query: is_never_cached, post: false };
    let Some(item) = table.item("methods") else { return usual };
    let Some(methods) = item.texts() else { return usual };
    let nothing = ReadMethods { get: false, query: false, post: false };
    let mut read = nothing;
    for method in &methods {
        match method.value.to_ascii_uppercase().as_str() {
            "GET" => read.get = true,
            "QUERY" => read.query = true,
            "POST" if is_never_cached => method.fault(
                "has no effect beside cache = \"never\": a POST that no family reads by is a write",
                "remove it",
            ),
            "POST" => read.post = true,
            "HEAD" => {}
            _ => method.fault(
                format_args!("{:?} is not a method whose responses are cached", method.raw),
                "write GET (HEAD goes with it), QUERY, or POST where it is a search",
            ),
        }
    }
    let is_head = |method: &Text<'_>| method.value.eq_ignore_ascii_case("HEAD");
    // An unknown method was reported above.
    if read == nothing && methods.iter().all(is_head) {
        item.fault("lacks \"GET\", \"QUERY\" and \"POST\"", "write methods = [\"GET\"], or remove it");
    }
    read
}

/// `compress`: a coding, or whether to compress at all.
pub fn read_compress(item: &Item<'_>) -> Option<bool> {
    match item.is_boolean() {
        true => item.boolean(),
        false => item.choice(&[("zstd", true), ("off", false)]),
    }
}

/// `version`: a part of the cache keys.
pub fn read_version(item: &Item<'_>) -> Option<String> {
    let text = item.filled()?;
    let version = text.value.trim();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if version.len() > VERSION || !version.bytes().all(is_allowed) {
        let remedy = format!("write 1 to {VERSION} letters, digits, \"_\", \".\" or \"-\"");
        return text.refuse(format_args!("{:?} is not a version", text.raw), remedy);
    }
    Some(version.to_owned())
}

fn read_fetching(table: &mut Table<'_>) -> Fetching {
    let usual = Fetching::default();
    let whole = table.read("range", |item| item.choice(&[("forward", false), ("whole", true)]));
    let keyed = table.read("forward", |item| item.choice(&[("all", false), ("keyed", true)]));
    let variants = table.read("max_variants", |item| item.integer(&(1..=1000)));
    Fetching {
        normalize: table.read("normalize", |item| read_headers(&item)).unwrap_or_default(),
        max_variants: variants.unwrap_or(usual.max_variants),
        range_fetches_whole: whole.unwrap_or(usual.range_fetches_whole),
        keyed_only: keyed.unwrap_or(usual.keyed_only),
    }
}

fn read_keying(table: &mut Table<'_>, has_keys: bool) -> KeySpec {
    let query = table.read("query", |item| read_query(&item)).unwrap_or_default();
    let headers = table.read("headers", |item| read_headers(&item)).unwrap_or_default();
    let cookies = table.read("cookies", |item| read_cookies(&item));
    let identity = table.read("identity", |item| read_identity(&item, has_keys)).unwrap_or_default();
    KeySpec { query, headers, cookies, identity }
}

/// A cookie name is a token like a field name (RFC 6265 §4.1.1), but case-sensitive.
fn is_cookie_name(name: &str) -> bool {
    HeaderName::try_from(name).is_ok()
}

fn read_cookies(item: &Item<'_>) -> Option<Vec<String>> {
    let mut table = item.table()?;
    let kept = table.required("keep", "write cookies = { keep = [\"sessionid\"] }, or { keep = [] } for none");
    table.finish();
    let mut names: Vec<String> = Vec::new();
    for text in kept?.texts()? {
        if !is_cookie_name(&text.value) {
            let remedy = "write one such as \"sessionid\", without its value";
            text.fault(format_args!("{:?} is not the name of a cookie", text.raw), remedy);
        } else if names.contains(&text.value) {
            text.fault(format_args!("has {:?} twice", text.raw), "remove one");
        } else {
            names.push(text.value);
        }
    }
    Some(names)
}

/// `instance`: what else than captures makes an instance. Each source is part of the key, since two values must not
/// share an entry.
fn read_instances(item: &Item<'_>, captures: &[&str], key_spec: &KeySpec) -> Vec<FurtherInstance> {
    let Some(table) = item.table() else { return Vec::new() };
    let mut instances: Vec<FurtherInstance> = Vec::new();
    let entries = table.named_entries(table.name());
    if entries.is_empty() {
        item.fault("is empty", "write { NAME = \"query:NAME\" }, or remove it");
    }
    for (name, place, value) in entries {
        let key = Text::of_key(table.reader(), format!("{} {name:?}", table.name()), place, name);
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if !is_name || name.is_empty() {
            key.fault("cannot be a name", "write letters, digits, \"_\" and \"-\"");
        } else if captures.contains(&name) {
            key.fault("is a capture of the path too", "rename one of them");
        } else if let Some(source) = value.filled().and_then(|text| read_source(&text, key_spec)) {
            instances.push(FurtherInstance { name: name.to_owned(), source });
        }
    }
    if captures.len() + instances.len() > CAPTURES {
        let remedy = "leave out what no write names; unnamed groups, (?:…), are no instances";
        item.fault(format_args!("has more than {CAPTURES} instances, with the captures of the path"), remedy);
        instances.truncate(CAPTURES.saturating_sub(captures.len()));
    }
    instances
}

fn read_source(text: &Text<'_>, key_spec: &KeySpec) -> Option<ReadSource> {
    let source = match ReadSource::parse(text.value.trim()) {
        Ok(source) => source,
        Err(ReadSourceFault::Syntax) => {
            let remedy = "write \"query:NAME\", \"header:NAME\" or \"identity\"";
            return text.refuse(format_args!("{:?} is not a source of an instance", text.raw), remedy);
        }
        Err(ReadSourceFault::Credentials(name)) => {
            let remedy = format!("write \"identity\", with identity = \"header:{name}\", which hides it");
            return text.refuse(format_args!("{name} has credentials, which tags would show"), remedy);
        }
    };
    // Two values of what is not in the key would share an entry.
    let remedy = match &source {
        ReadSource::Query(name) if !key_spec.query.parameters.keep(name) => {
            Some(match &key_spec.query.parameters {
                Parameters::Keep(names) => {
                    let all = names.iter().map(String::as_str).chain([name.as_str()]);
                    format!(
                        "add {name:?} to query: keep = [{}]",
                        listing(
                            all.map(|name| format!("{name:?}")).collect::<Vec<_>>().iter().map(String::as_str)
                        )
                    )
                }
                Parameters::Drop(_) | Parameters::All => format!("remove {name:?} from drop in query"),
            })
        }
        ReadSource::Header(name) if !key_spec.keys_on(name) => Some(format!("add headers = [\"{name}\"]")),
        ReadSource::Identity if matches!(key_spec.identity, Identity::Unstated | Identity::Shared) => {
            Some("add identity = \"header:NAME\" or \"cookie:NAME\"".to_owned())
        }
        _ => None,
    };
    match remedy {
        Some(remedy) => text.refuse(format_args!("{:?} is not part of the cache key", text.raw), remedy),
        None => Some(source),
    }
}

fn read_query(item: &Item<'_>) -> Option<QueryKeySpec> {
    let mut table = item.table()?;
    let mut names = |key| Some(table.item(key)?.texts()?.into_iter().map(|text| text.value).collect::<Vec<_>>());
    let (keep, drop) = (names("keep"), names("drop"));
    let sort = table.item("sort");
    let is_sort_asked = sort.is_some();
    let sort = sort.and_then(|item| item.boolean()).unwrap_or(true);
    table.finish();
    let parameters = match (keep, drop) {
        (Some(keep), None) => Parameters::Keep(keep),
        (None, Some(drop)) => Parameters::Drop(drop),
        (Some(_), Some(_)) => {
            return item.refuse("has both keep and drop", "write one: keep names what counts, drop what does not");
        }
        (None, None) if is_sort_asked => Parameters::All,
        (None, None) => {
            return item.refuse(
                "has neither keep nor drop nor sort",
                "write { keep = [\"page\"] }, { drop = [\"utm_source\"] } or { sort = false }",
            );
        }
    };
    Some(QueryKeySpec { parameters, sort })
}

/// A list of field names without duplicates.
pub fn read_headers(item: &Item<'_>) -> Option<Vec<HeaderName>> {
    let mut headers = Vec::new();
    for text in item.texts()? {
        match field_name(text.value.trim()) {
            Ok(name) if headers.contains(&name) => {
                text.fault(format_args!("has {:?} twice", text.raw), "remove one");
            }
            Ok(name) => headers.push(name),
            Err(_) => {
                text.fault(
                    format_args!("{:?} is not a field name", text.raw),
                    "write one such as \"accept-language\"",
                );
            }
        }
    }
    Some(headers)
}

/// One credential, or a list of them. `has_keys`: there is a table `[jwt]`.
fn read_identity(item: &Item<'_>, has_keys: bool) -> Option<Identity> {
    if !item.is_list() {
        let text = item.filled()?;
        return match text.value.as_str() {
            "none" => Some(Identity::Shared),
            _ => read_caller_source(&text, has_keys).map(|source| Identity::By(vec![source])),
        };
    }
    let mut sources = Vec::new();
    for text in item.texts()? {
        if text.value == "none" {
            text.fault("\"none\" cannot stand in a list", "write identity = \"none\", or remove it from the list");
            continue;
        }
        let Some(source) = read_caller_source(&text, has_keys) else { continue };
        if sources.contains(&source) {
            text.fault(format_args!("has {:?} twice", text.raw), "remove one");
        } else if sources.len() == SOURCES {
            text.fault(format_args!("has more than {SOURCES} credentials"), "name those that identify callers");
        } else {
            sources.push(source);
        }
    }
    if sources.is_empty() && item.list().is_some_and(|list| list.is_empty()) {
        item.fault("is an empty list", "name a credential, or write identity = \"none\"");
    }
    (!sources.is_empty()).then_some(Identity::By(sources))
}

fn read_caller_source(text: &Text<'_>, has_keys: bool) -> Option<CallerSource> {
    let found = match text.value.split_once(':') {
        Some(("header", name)) => field_name(name).ok().map(CallerSource::Header),
        Some(("cookie", name)) if is_cookie_name(name) => Some(CallerSource::Cookie(name.to_owned())),
        Some(("jwt", names)) => match ClaimNames::read(names) {
            Ok(names) => Some(CallerSource::Claims(names)),
            Err(message) => {
                let remedy = "write \"jwt:sub\", \"jwt:tenant,sub\", or a JSON pointer: \"jwt:/realm/user_id\"";
                return text.refuse(format_args!("{:?} is not an identity: {message}", text.raw), remedy);
            }
        },
        _ => None,
    };
    match &found {
        None => {
            let remedy = identity_meant(text.showable().unwrap_or_default());
            text.fault(format_args!("{:?} is not an identity", text.raw), remedy);
        }
        Some(CallerSource::Claims(_)) if !has_keys => {
            let remedy = "add [jwt] with secret = \"${JWT_SECRET}\", public_key_file = \"…\" or jwks_url = \"…\"";
            text.fault(format_args!("{:?} needs a key to verify tokens with", text.raw), remedy);
        }
        Some(_) => {}
    }
    found
}

/// The line to write instead of an invalid identity.
fn identity_meant(typed: &str) -> String {
    const WORDS: &str =
        "header:NAME\", \"cookie:NAME\", \"jwt:CLAIM\", or \"none\" if every caller gets the same response";
    let (kind, name) = typed.split_once(':').unwrap_or(("", typed));
    let (kind, name) = (kind.trim().to_ascii_lowercase(), name.trim().to_ascii_lowercase());
    let is_field = field_name(&name).is_ok() && !name.contains(':');
    match (kind.as_str(), name.as_str()) {
        ("", "authorization" | "auth" | "bearer" | "basic" | "user") => {
            "write identity = \"header:authorization\"".to_owned()
        }
        ("", "jwt" | "sub") => "write identity = \"jwt:sub\"".to_owned(),
        ("claim" | "claims" | "token", _) if ClaimNames::read(&name).is_ok() => {
            format!("write identity = \"jwt:{}\"", typed.split_once(':').map_or("", |(_, name)| name.trim()))
        }
        ("", "public" | "shared" | "anonymous" | "all" | "false" | "no") => "write identity = \"none\"".to_owned(),
        ("", "cookie" | "cookies" | "session") => {
            "write identity = \"cookie:NAME\", with the name of the session's cookie".to_owned()
        }
        ("header" | "headers" | "field", _) if is_field => format!("write identity = \"header:{name}\""),
        ("cookie" | "cookies", _) if is_field => {
            format!("write identity = \"cookie:{}\"", typed.split_once(':').map_or("", |(_, name)| name.trim()))
        }
        // Only fields have such names.
        ("", _) if is_field && name.contains('-') => format!("write identity = \"header:{name}\""),
        _ => format!("write \"{WORDS}"),
    }
}

fn read_policy(table: &mut Table<'_>, key_spec: &KeySpec, revalidate: Revalidate) -> Policy {
    let asked_ttl = table.item("ttl");
    let ttl = asked_ttl.as_ref().and_then(|item| read_seconds(item, &LIFETIME));
    let adaptive = table.item("adaptive_ttl");
    let adaptive_ttl = adaptive.and_then(|item| read_adaptive_ttl(&item, asked_ttl.is_some()));
    let asked_until = table.item("until");
    let until = asked_until.as_ref().and_then(read_until);
    let asked = table.item("ttl_policy");
    let ttl_policy = asked.as_ref().and_then(|item| item.choice(TtlPolicy::WORDS)).unwrap_or_default();
    if let (Some(asked), TtlPolicy::Override, None, None) = (asked, ttl_policy, asked_ttl, asked_until) {
        asked.fault("\"override\" without a ttl has nothing to override with", "add ttl = \"…\", or remove it");
    }
    let negative_ttl = table.read("negative_ttl", |item| read_negative_ttl(&item)).unwrap_or_default();
    let heuristic = table.read("heuristic", |item| item.boolean()).unwrap_or(true);
    let client_directives = table.read("client_directives", |item| item.choice(ClientDirectives::WORDS));
    let close_delimited = table.read("close_delimited", |item| item.choice(CloseDelimited::WORDS));
    let set_cookie = table.read("set_cookie", |item| item.choice(SetCookie::WORDS));
    let mut seconds = |key, range| table.read(key, |item| read_seconds(&item, range));
    Policy {
        ttl,
        ttl_policy,
        adaptive_ttl,
        until,
        negative_ttl,
        stale_while_revalidate: seconds("stale_while_revalidate", &(Duration::ZERO..=LONGEST)),
        stale_if_error: seconds("stale_if_error", &(Duration::ZERO..=LONGEST)),
        heuristic,
        stale_if_unreachable: seconds("stale_if_unreachable", &(Duration::ZERO..=LONGEST))
            .unwrap_or(STALE_IF_UNREACHABLE),
        client_directives: client_directives.unwrap_or_default(),
        close_delimited: close_delimited.unwrap_or_default(),
        set_cookie: set_cookie.unwrap_or_default(),
        revalidate,
        for_everybody: key_spec.identity == Identity::Shared,
    }
}
