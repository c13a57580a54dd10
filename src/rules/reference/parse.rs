//! Reads the references of rules.

use smallvec::SmallVec;

use super::super::instance;
use super::super::nearest::{did_you_mean, listing, nearest};
use super::super::source::{ReadSource, WriteSource};
use super::check::{check_room, check_values, folded};
use super::fault::{ReferenceFault, no_source, too_long, unknown};
use super::names::FamilyNames;
use super::{InstancePart, LeftOut, Reference, ReferenceTarget};
use crate::http::target::PathCase;
use crate::key::Identity;
use crate::marks::Tag;

/// The part of a reference that stands for the caller.
const CALLER: &str = ":{identity}";

impl Reference {
    /// Parses a reference in a rule. `captures` are the names in the write path's pattern; `None` if that is faulty,
    /// so that every name is accepted.
    pub fn parse(text: &str, names: &FamilyNames, captures: Option<&[&str]>) -> Result<Reference, ReferenceFault> {
        if text == "*" {
            return Ok(Reference::from(ReferenceTarget::Everything));
        }
        let has_capture = captures.is_some_and(|captures| captures.contains(&"identity"));
        if let Some(name) = text.strip_suffix(CALLER).filter(|name| !has_capture && !name.contains('{')) {
            return of_caller(name, names);
        }
        match names.split(text) {
            Some((name, known, rest)) if !looks_like_glob(rest) => {
                let parts: Result<Vec<WrittenPart>, _> =
                    rest.split(':').skip(1).map(|part| read_part(part, captures, names.case())).collect();
                let parts = parts?;
                let values: Vec<InstancePart> = parts.iter().map(|part| part.value.clone()).collect();
                check_room(text, name, known, &values, names)?;
                check_values(name, (known, names.case()), rest.split(':').skip(1))?;
                Ok(Reference::from(instance(name, placed(name, parts, names)?)))
            }
            _ => match text.split_once(":{") {
                Some((families, _)) if families.contains('*') => {
                    everywhere(families, &text[families.len() + 1..], captures, names)
                }
                _ => glob(text, names),
            },
        }
    }
}

/// A part of a reference as written.
struct WrittenPart {
    value: InstancePart,
    /// The instance that it is the value of, if the part names it: `{user_id=…}`.
    name: Option<String>,
}

fn read_part(part: &str, captures: Option<&[&str]>, case: PathCase) -> Result<WrittenPart, ReferenceFault> {
    let Some(written) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
        if part.contains(['{', '}']) || part.is_empty() {
            let message = format!("{part:?} is not a part of an instance");
            let remedy = "a part is one {capture}, one value, or *; write %7B for { and %7D for }".to_owned();
            return Err(ReferenceFault::Instance { message, remedy });
        }
        return Ok(WrittenPart { value: value_part(part, case), name: None });
    };
    let (name, source) = match written.split_once('=') {
        Some((name, source)) => (Some(name.trim().to_owned()), source.trim()),
        None => (None, written),
    };
    let value = match captures {
        Some(have) if have.contains(&source) => WriteSource::Capture(source.to_owned()),
        // The identity is that of the family, which is not known here.
        _ if source == "identity" => WriteSource::Identity(Identity::Unstated),
        _ => match (WriteSource::parse(source), captures) {
            (Some(source), _) => source,
            (None, Some(have)) => return Err(no_source(source, have)),
            (None, None) => WriteSource::Capture(source.to_owned()),
        },
    };
    Ok(WrittenPart { value: InstancePart::Of(value, case), name })
}

pub(super) fn value_part(part: &str, case: PathCase) -> InstancePart {
    if part == "*" {
        InstancePart::Any
    } else {
        InstancePart::Value(instance::value(&folded(part, case)).into_owned())
    }
}

/// Puts each part in the place of its instance in the family's tags. Values, `*` and, in a family without an `instance`
/// table, captures without a name stand in the order of the family's instances; all others have names.
fn placed(
    family: &str,
    parts: Vec<WrittenPart>,
    names: &FamilyNames,
) -> Result<Vec<InstancePart>, ReferenceFault> {
    // Captures that are not known accept everything.
    let Some(have) = names.instances(family) else {
        return Ok(parts.into_iter().map(|part| part.value).collect());
    };
    let mut placed: Vec<InstancePart> = Vec::new();
    let mut taken: Vec<usize> = Vec::new();
    for (index, WrittenPart { value, name }) in parts.into_iter().enumerate() {
        let source = match &value {
            InstancePart::Of(source, _) => Some(source.clone()),
            _ => None,
        };
        let is_by_order = name.is_none()
            && (source.is_none()
                || matches!(source, Some(WriteSource::Capture(_))) && !names.further.contains_key(family));
        let at = match (&source, is_by_order) {
            (Some(source), false) => place_of(family, source, name.as_deref(), &have, names)?,
            _ => index,
        };
        let value = of_family(family, value, have.get(at).copied().unwrap_or_default(), names)?;
        if value != InstancePart::Any && taken.contains(&at) {
            let message = format!("{:?} has two values for {:?}", family, have.get(at).unwrap_or(&""));
            let remedy = "write one part for each instance; {name=…} says of which it is the value".to_owned();
            return Err(ReferenceFault::Instance { message, remedy });
        }
        if value != InstancePart::Any {
            taken.push(at);
            if placed.len() <= at {
                placed.resize(at + 1, InstancePart::Any);
            }
            placed[at] = value;
        }
    }
    Ok(placed)
}

/// The place of the instance that a part names.
fn place_of(
    family: &str,
    source: &WriteSource,
    name: Option<&str>,
    have: &[&str],
    names: &FamilyNames,
) -> Result<usize, ReferenceFault> {
    let meant = name.unwrap_or_else(|| source.name());
    let is_caller = |at: &usize| names.source(family, have[*at]) == Some(&ReadSource::Identity);
    let by_name = have.iter().position(|known| *known == meant);
    let of_caller = || (0..have.len()).find(is_caller).filter(|_| matches!(source, WriteSource::Identity(_)));
    by_name.or_else(|| of_caller().filter(|_| name.is_none())).ok_or_else(|| {
        let message = format!("{family:?} has no instance {meant:?}");
        let near = nearest(meant, have.iter().copied());
        let remedy = match (&near[..], have) {
            ([], [only]) | ([only], _) => format!("write {{{only}={source}}}"),
            _ => format!("write {{name={source}}}, where the name is one of {}", listing(have.iter().copied())),
        };
        ReferenceFault::Instance { message, remedy }
    })
}

/// The part with the identity of its family. A caller's digest is no other value.
fn of_family(
    family: &str,
    value: InstancePart,
    instance: &str,
    names: &FamilyNames,
) -> Result<InstancePart, ReferenceFault> {
    let is_caller = names.source(family, instance) == Some(&ReadSource::Identity);
    match (value, is_caller) {
        (InstancePart::Of(WriteSource::Identity(_), case), true) => {
            let identity = names.identity(family).cloned().unwrap_or_default();
            Ok(InstancePart::Of(WriteSource::Identity(identity), case))
        }
        (InstancePart::Of(WriteSource::Identity(_), _), false) => {
            let message = format!("the instance {instance:?} of {family:?} does not come from its identity");
            let remedy = format!(
                "write {:?} for the caller's entries, or instance = {{ {instance} = \"identity\" }} in the family",
                format!("{family}{CALLER}")
            );
            Err(ReferenceFault::Instance { message, remedy })
        }
        (value @ (InstancePart::Of(..) | InstancePart::Value(_)), true) => {
            let Some(why) = names.why_unnamed(family, instance) else {
                // It is in the form of tags, which holds no longer value than its hash.
                let is_hash = matches!(&value, InstancePart::Value(value) if value.starts_with('~'));
                return if is_hash {
                    Err(too_long(family, instance))
                } else {
                    Ok(InstancePart::Claim(Box::new(value)))
                };
            };
            let message = format!("no value names an instance {instance:?} of {family:?}: {why}");
            let remedy = format!(
                "write {{{instance}=identity}}, or take the instance from a field: {instance} = \"header:x-user-id\""
            );
            Err(ReferenceFault::Value { message, remedy })
        }
        (value, _) => Ok(value),
    }
}

pub(super) fn instance(name: &str, mut parts: Vec<InstancePart>) -> ReferenceTarget {
    let known = parts.iter().rposition(|part| *part != InstancePart::Any).map_or(0, |last| last + 1);
    parts.truncate(known);
    let whole = Tag::family(name);
    if parts.is_empty() { ReferenceTarget::Whole(whole) } else { ReferenceTarget::Instance { whole, parts } }
}

/// `f:*` and `f:*:{b}` are instances; `f:a*` can only be a glob over names.
pub(super) fn looks_like_glob(rest: &str) -> bool {
    rest.split(':').any(|part| part.contains('*') && part != "*")
}

/// The named instances in all families that match the glob and have them. A family in which no value names one is left out.
/// `parts`: `{user_id}:{…}`.
fn everywhere(
    families: &str,
    parts: &str,
    captures: Option<&[&str]>,
    names: &FamilyNames,
) -> Result<Reference, ReferenceFault> {
    let mut found = SmallVec::<[ReferenceTarget; 1]>::new();
    let (mut meant, mut left_out) = (Vec::new(), Vec::new());
    for part in parts.split(':') {
        let WrittenPart { value, name } = read_part(part, captures, names.case())?;
        let InstancePart::Of(source, _) = &value else {
            let message = format!("{part:?} does not say of which instance it is the value");
            let remedy = "write {name} or {name=…}: families have different instances".to_owned();
            return Err(ReferenceFault::Instance { message, remedy });
        };
        meant.push((name.unwrap_or_else(|| source.name().to_owned()), value));
    }
    for family in names.all().filter(|family| fits(families, family)) {
        let Some(have) = names.instances(family) else { continue };
        let at: Option<Vec<usize>> =
            meant.iter().map(|(name, _)| have.iter().position(|known| known == name)).collect();
        let Some(at) = at else { continue };
        let mut placed = vec![InstancePart::Any; have.len()];
        let is_plain = |value: &InstancePart| !matches!(value, InstancePart::Of(WriteSource::Identity(_), _));
        let plain = meant.iter().filter(|(_, value)| is_plain(value));
        if let Some(why) = plain.filter_map(|(name, _)| names.why_unnamed(family, name)).next() {
            left_out.push(LeftOut { family: family.to_owned(), why });
            continue;
        }
        for (at, (name, value)) in at.into_iter().zip(&meant) {
            placed[at] = of_family(family, value.clone(), name, names)?;
        }
        found.push(instance(family, placed));
    }
    if let (true, Some(LeftOut { family, why })) = (found.is_empty(), left_out.first()) {
        let message = format!("no value names such an instance of {family:?}: {why}");
        let remedy = "write {name=identity} for the write's caller, or name the whole family".to_owned();
        return Err(ReferenceFault::Value { message, remedy });
    }
    if found.is_empty() {
        let wanted: Vec<&str> = meant.iter().map(|(name, _)| name.as_str()).collect();
        let message = format!("no family that fits {families:?} has an instance {}", wanted.join(" and "));
        let all = names.all_instances();
        let near = nearest(wanted.first().unwrap_or(&""), all.iter().copied());
        let remedy = did_you_mean(&near, || format!("instances here: {}", listing(all.iter().copied())));
        return Err(ReferenceFault::Instance { message, remedy });
    }
    Ok(Reference { targets: found, left_out })
}

/// The caller's entries in this family, in all families below it, or in all families that match a glob.
fn of_caller(name: &str, names: &FamilyNames) -> Result<Reference, ReferenceFault> {
    let is_below =
        |family: &str| family.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    let is_meant = |family: &str| is_below(family) || name.contains('*') && fits(name, family);
    if !names.all().any(is_meant) {
        return Err(unknown(name, names));
    }
    let meant = names.identities.iter().filter(|(family, _)| is_meant(family)).cloned();
    let meant: SmallVec<[ReferenceTarget; 1]> =
        meant.map(|(family, identity)| ReferenceTarget::CallerIdentity { family, identity }).collect();
    if meant.is_empty() {
        let message = format!(
            "{:?} names a caller's entries, but no family there has an identity",
            format!("{name}{CALLER}")
        );
        let remedy =
            format!("write {name:?} for all of it, or give the family an identity such as \"cookie:sid\"");
        return Err(ReferenceFault::Instance { message, remedy });
    }
    Ok(Reference::from(meant))
}

/// All matching names, without those below another match.
pub(super) fn glob(text: &str, names: &FamilyNames) -> Result<Reference, ReferenceFault> {
    let found: Vec<&str> = names.all().filter(|name| text.contains('*') && fits(text, name)).collect();
    if found.is_empty() {
        return Err(unknown(text, names));
    }
    let is_above = |above: &str, name: &str| name.strip_prefix(above).is_some_and(|rest| rest.starts_with(':'));
    let topmost = found.iter().filter(|name| !found.iter().any(|above| is_above(above, name)));
    let targets: SmallVec<[ReferenceTarget; 1]> =
        topmost.map(|name| ReferenceTarget::Whole(Tag::family(name))).collect();
    Ok(Reference::from(targets))
}

/// Whether a name is this one, or one that this glob fits.
pub fn is_named_by(name_or_glob: &str, name: &str) -> bool {
    name_or_glob == name || (name_or_glob.contains('*') && fits(name_or_glob, name))
}

/// Whether a name matches a glob, in which `*` matches any text. Linear in the name for each `*`.
pub(super) fn fits(glob: &str, name: &str) -> bool {
    let (first, rest) = glob.split_once('*').unwrap_or((glob, ""));
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
        match name.find(piece) {
            Some(at) => name = &name[at + piece.len()..],
            None => return false,
        }
    }
    name.ends_with(last)
}
