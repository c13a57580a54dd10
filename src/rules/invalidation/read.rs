//! Reads `[invalidate]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::Method;

use super::super::family::Family;
use super::super::family::read::compile;
use super::super::pattern::Pattern;
use super::super::reader::{Item, Table, Text};
use super::super::reference::{FamilyNames, Reference, ReferenceFault};
use super::super::{language, post};
use super::{Invalidation, WriteMethods};
use crate::http::headers::credentials::is_in_table;
use crate::http::invalidation::StatusSet;
use crate::http::target::PathCase;

/// Default grace of a soft invalidation.
pub const GRACE: Duration = Duration::from_secs(30);

/// At least a second, since a fetch may take that long; more than a day is a typing error.
const GRACES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// Delay of a repeated invalidation: shorter does not help a replica, and longer would let thousands accumulate.
const AGAIN: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60 * 60);

/// All rules of a file, in file order. A faulty rule is omitted.
pub fn read(root: &mut Table<'_>, names: &FamilyNames, families: &[Family], case: PathCase) -> Vec<Invalidation> {
    let reader = root.reader();
    let Some(table) = root.read("invalidate", |item| item.table()) else { return Vec::new() };
    let mut rules = Vec::new();
    for (key, span, item) in table.entries() {
        let path = Text::of_key(reader, format!("invalidation {key:?}"), span, key);
        let Some(pattern) = compile(&path, case) else {
            // The other faults of the rule are still reported.
            read_rules(&item, None, names, families).for_each(drop);
            continue;
        };
        let line = reader.line(&path.span());
        rules.extend(read_rules(&item, Some((&pattern, line)), names, families));
    }
    rules
}

/// The rules for one path: families, a table, or a list of tables.
fn read_rules(
    item: &Item<'_>,
    path: Option<(&Pattern, usize)>,
    names: &FamilyNames,
    known: &[Family],
) -> impl Iterator<Item = Invalidation> {
    let items: Vec<(usize, Item<'_>)> = match item.is_list_of_tables() {
        true => item.list().unwrap_or_default().into_iter().map(|item| (item.line(), item)).collect(),
        false => vec![(path.map_or(0, |(_, line)| line), item.clone())],
    };
    items.into_iter().filter_map(move |(line, item)| {
        let captures: Option<Vec<&str>> = path.map(|(pattern, _)| pattern.names().collect());
        let (families, fields) = if item.is_table() {
            read_table(&item, path.map(|(pattern, _)| pattern), names)?
        } else {
            (read_families(&item)?, RuleFields::default())
        };
        let read = |text: &Text<'_>| read_reference(text, names, captures.as_deref());
        let references: Vec<Reference> = families.iter().filter_map(read).collect();
        refuse_credentials(&item, &references);
        let (pattern, _) = path?;
        let rule = Invalidation {
            path: pattern.as_str().to_owned(),
            methods: fields.methods.map_or(WriteMethods::Unsafe, WriteMethods::These),
            on: fields.on.unwrap_or_default(),
            grace: fields.grace,
            again: fields.again,
            refresh: fields.refresh,
            families: families.iter().map(|text| text.value.clone()).collect(),
            reached: Vec::new(),
            except: fields.except.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            line,
            pattern: pattern.clone(),
            exceptions: fields.except,
            references,
        };
        post::refuse_conflict(&rule, known, &item);
        Some(rule)
    })
}

/// Tags are in Redis, in the log and in the answers of the admin.
fn refuse_credentials(item: &Item<'_>, references: &[Reference]) {
    for name in references.iter().flat_map(Reference::fields).filter(|name| is_in_table(name)) {
        item.fault(
            format_args!("{{header.{name}}} takes credentials, which tags would show"),
            format!("write {{identity}}, for a family with identity = \"header:{name}\": it hides them"),
        );
    }
}

/// The settings of a rule other than its families.
#[derive(Default)]
struct RuleFields {
    methods: Option<Vec<Method>>,
    on: Option<StatusSet>,
    grace: Option<Duration>,
    again: Option<Duration>,
    refresh: bool,
    except: Vec<Pattern>,
}

fn read_table<'t>(
    item: &Item<'t>,
    path: Option<&Pattern>,
    names: &FamilyNames,
) -> Option<(Vec<Text<'t>>, RuleFields)> {
    let mut table = item.table()?;
    let families = table.required("families", "write families = [\"…\"]").and_then(|item| read_families(&item));
    let methods = table.read("methods", |item| read_methods(&item));
    let on = table.read("on", |item| read_statuses(&item));
    let is_soft = table.read("mode", |item| item.choice(&[("hard", false), ("soft", true)]));
    let grace = table.read("grace", |item| read_grace(&item, is_soft));
    let grace = is_soft.filter(|is_soft| *is_soft).map(|_| grace.unwrap_or(GRACE));
    let again = table.read("again", |item| item.duration(&AGAIN));
    let refresh = table.read("refresh", |item| item.boolean()).unwrap_or(false);
    let except = table.item("except").map(|item| read_exceptions(&item, path, names.case())).unwrap_or_default();
    table.finish();
    Some((families?, RuleFields { methods, on, grace, again, refresh, except }))
}

/// Patterns of paths that the rule does not apply to.
fn read_exceptions(item: &Item<'_>, path: Option<&Pattern>, case: PathCase) -> Vec<Pattern> {
    let Some(texts) = item.texts() else { return Vec::new() };
    if texts.is_empty() {
        item.fault("is empty", "name a pattern such as '/points/preview', or remove it");
    }
    let mut exceptions: Vec<Pattern> = Vec::new();
    for text in texts {
        let Some(pattern) = compile(&text, case) else { continue };
        if exceptions.contains(&pattern) {
            text.fault(format_args!("has {:?} twice", text.raw), "remove one");
        } else if path.is_some_and(|path| path.core() == pattern.core()) {
            text.fault(
                format_args!("{:?} is the whole path of the rule", text.raw),
                "remove the rule, or narrow it",
            );
        } else if path.is_some_and(|path| never_meet(path, &pattern)) {
            text.fault(
                format_args!("{:?} fits no path that the rule fits", text.raw),
                "write a pattern over the whole path of the write, or remove it",
            );
        } else {
            exceptions.push(pattern);
        }
    }
    if path.is_some_and(|path| cover(&exceptions, path)) {
        item.fault("fits every path that the rule fits", "remove the rule, or narrow the exceptions");
    }
    exceptions
}

/// Whether every path that matches `path` matches one of the exceptions, if that is known.
fn cover(exceptions: &[Pattern], path: &Pattern) -> bool {
    let hirs: Option<Vec<_>> = exceptions.iter().chain([path]).map(Pattern::hir).collect();
    let Some(hirs) = hirs.filter(|_| !exceptions.is_empty()) else { return false };
    let mut bytes = 4 << 20;
    language::of_paths(&mut bytes, &hirs).is_some_and(|commons| {
        let mut of_rule = commons.iter().filter(|(which, _)| which.contains(&exceptions.len())).peekable();
        of_rule.peek().is_some() && of_rule.all(|(which, _)| which.len() > 1)
    })
}

/// Whether no path matches both patterns, if that is known.
fn never_meet(one: &Pattern, other: &Pattern) -> bool {
    let (Some(one), Some(other)) = (one.hir(), other.hir()) else { return false };
    let mut bytes = 4 << 20;
    language::of_paths(&mut bytes, &[one, other])
        .is_some_and(|found| !found.iter().any(|(which, _)| which.len() == 2))
}

fn read_families<'t>(item: &Item<'t>) -> Option<Vec<Text<'t>>> {
    let families = item.texts()?;
    if item.list().is_some_and(|list| list.is_empty()) {
        item.fault("names no family", "name at least one, or remove the rule");
    }
    Some(families)
}

fn read_reference(text: &Text<'_>, names: &FamilyNames, captures: Option<&[&str]>) -> Option<Reference> {
    match Reference::parse(&text.value, names, captures) {
        Ok(reference) => return Some(reference),
        Err(_) if text.showable().is_none() => {
            text.absence(
                format_args!("{:?} names no family or instance", text.raw),
                "see what the variable holds",
            );
        }
        Err(ReferenceFault::Unknown { message, remedy }) => text.absence(message, remedy),
        Err(
            ReferenceFault::Instance { message, remedy }
            | ReferenceFault::Value { message, remedy }
            | ReferenceFault::Capture { message, remedy },
        ) => {
            text.fault_at(0..text.value.len(), message, remedy);
        }
    }
    None
}

fn read_methods(item: &Item<'_>) -> Option<Vec<Method>> {
    let mut methods = Vec::new();
    let list = item.texts()?;
    if list.is_empty() {
        item.fault("is empty", "name a method, or remove it: every method that is not safe");
    }
    for text in list {
        match Method::from_bytes(text.value.trim().to_ascii_uppercase().as_bytes()) {
            Ok(method) if methods.contains(&method) => {}
            // HEAD goes with GET.
            Ok(Method::GET) => methods.extend([Method::GET, Method::HEAD]),
            Ok(method) => methods.push(method),
            Err(_) => text.fault(format_args!("{:?} is not a method", text.raw), "write one such as \"POST\""),
        }
    }
    Some(methods)
}

fn read_statuses(item: &Item<'_>) -> Option<StatusSet> {
    let list = item.list()?;
    if list.is_empty() {
        item.fault("is empty", "name a status, or remove it: all of 2xx and 3xx");
    }
    Some(StatusSet { ranges: list.iter().filter_map(read_status).collect() })
}

/// `404`, `"404"`, `"2xx"` or `"200-299"`. A 1xx status is not a final response.
fn read_status(item: &Item<'_>) -> Option<(u16, u16)> {
    if item.is_integer() {
        let status = item.integer(&(200..=599))?;
        return Some((status, status));
    }
    let text = item.filled()?;
    let found = statuses(text.value.trim());
    if found.is_none() {
        let remedy = "write 404, \"404\", \"2xx\" or \"200-299\", from 200 to 599";
        text.fault(format_args!("{:?} is not a status", text.raw), remedy);
    }
    found
}

fn statuses(text: &str) -> Option<(u16, u16)> {
    let status = |text: &str| text.parse().ok().filter(|status| text.len() == 3 && (200..=599).contains(status));
    let class = text.strip_suffix("xx").or(text.strip_suffix("XX")).and_then(|class| class.parse::<u16>().ok());
    match (class, text.split_once('-')) {
        (Some(class @ 2..=5), _) => Some((class * 100, class * 100 + 99)),
        (_, Some((from, to))) => {
            let range = (status(from.trim())?, status(to.trim())?);
            (range.0 <= range.1).then_some(range)
        }
        _ => status(text).map(|status| (status, status)),
    }
}

fn read_grace(item: &Item<'_>, is_soft: Option<bool>) -> Option<Duration> {
    if is_soft != Some(true) {
        item.fault("has no meaning without mode = \"soft\"", "write mode = \"soft\" beside it, or remove it");
    }
    item.duration(&GRACES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_codes_classes_or_ranges() {
        let rows = [
            ("404", Some((404, 404))),
            ("2xx", Some((200, 299))),
            ("5XX", Some((500, 599))),
            ("200-299", Some((200, 299))),
            ("200 - 204", Some((200, 204))),
            ("299-200", None),
            ("1xx", None),
            ("6xx", None),
            ("+200", None),
            ("42", None),
            ("200-", None),
            ("xx", None),
        ];
        for (text, expected) in rows {
            assert_eq!(statuses(text), expected, "{text}");
        }
    }
}
