//! Refuses references to instances that the family cannot have.

use std::borrow::Cow;

use super::super::nearest::{did_you_mean, listing};
use super::super::source::encoded;
use super::InstancePart;
use super::fault::ReferenceFault;
use super::names::{FamilyNames, KnownName};
use crate::http::target::{self, PathCase, percent_decoded};

/// An instance has at most as many parts as its family has captures. `family:*` is the family and everything below
/// it.
pub(super) fn check_room(
    text: &str,
    name: &str,
    known: &KnownName,
    parts: &[InstancePart],
    names: &FamilyNames,
) -> Result<(), ReferenceFault> {
    if matches!(parts, [] | [InstancePart::Any]) {
        return Ok(());
    }
    match known.room() {
        Some(0) => {
            let message = format!("unknown family {text:?}: {name:?} has no captures, so it has no instances");
            let near: Vec<String> = names.nearest(text).into_iter().filter(|near| near != name).collect();
            let near: Vec<&str> = near.iter().map(String::as_str).collect();
            let remedy = did_you_mean(&near, || format!("write {name:?} for all of it"));
            Err(ReferenceFault::Instance { message, remedy })
        }
        Some(room) if parts.len() > room => {
            let message = format!("{text:?} has {} parts after {name:?}, which has {room} captures", parts.len());
            let bare = text.trim_end_matches(":*");
            // Families below this one have instances of their own.
            let below: Vec<&str> = names.below(name).collect();
            let remedy = match (text.ends_with(":*"), &below[..]) {
                (true, []) => format!("write {bare:?}: an instance has nothing below it"),
                (true, below) => {
                    format!("write {bare:?}, and name {} for what is below it", listing(below.iter().copied()))
                }
                _ => "write at most one part for each capture, in the order of the family's path".to_owned(),
            };
            Err(ReferenceFault::Instance { message, remedy })
        }
        _ => Ok(()),
    }
}

/// Rejects values that no path of the family can contain.
pub(super) fn check_values<'v>(
    name: &str,
    (known, case): (&KnownName, PathCase),
    parts: impl Iterator<Item = &'v str>,
) -> Result<(), ReferenceFault> {
    let KnownName::Family(Some(captures)) = known else { return Ok(()) };
    for (capture, part) in captures.iter().zip(parts) {
        let is_value = part != "*" && !part.starts_with('{');
        if is_value && !spellings(&folded(part, case)).iter().any(|value| capture.contain(value)) {
            let capture = capture.name();
            let message = format!("{part:?} is no {{{capture}}} that the path of {name:?} can have");
            let remedy = format!("write one that it can have, or {name:?} for all of the family");
            return Err(ReferenceFault::Value { message, remedy });
        }
    }
    Ok(())
}

/// The spellings of a value in a path: they are one instance ([`crate::rules::instance::value`]).
fn spellings(value: &str) -> Vec<String> {
    let decoded = percent_decoded(value);
    let mut all = vec![value.to_owned()];
    all.extend(String::from_utf8(decoded.clone()));
    all.push(encoded(&decoded, |byte| target::is_plain(byte) && byte != b'/'));
    all.push(encoded(&decoded, target::is_unreserved));
    // `{` and `%` of a literal value.
    all.push(target::normalise(&format!("/{value}"))[1..].to_owned());
    all
}

/// A value in the form it has in paths if the paths ignore case.
pub(super) fn folded(value: &str, case: PathCase) -> Cow<'_, str> {
    match case {
        PathCase::Sensitive => Cow::Borrowed(value),
        PathCase::Insensitive => case.fold(encoded(&percent_decoded(value), target::is_unreserved)),
    }
}
