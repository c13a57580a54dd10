//! References to what a write or a purge invalidates:
//!
//! | reference | means |
//! |---|---|
//! | `booking`, `booking:*` | the family or level and everything below it |
//! | `user_stats*` | every family and level whose name matches |
//! | `user_details:{user_id}` | the instance with the value of the write path's capture |
//! | `user_details:me`, `f:*:{b}` | the instance with this value; any value in place of `*` |
//! | `me:{identity}` | the entries of the write's caller in this family and those below it; globs are allowed |
//! | `*` | everything |

use std::borrow::Cow;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::nearest::{did_you_mean, listing, nearest};
use super::pattern::Values;
use super::{CallerIdentity, instance};
use crate::bearer::{BearerToken, TokenFault};
use crate::http::target::{self, PathCase};
use crate::key::{self, Callers, Identity};
use crate::marks::Tag;

/// The names of all families and of the levels above them, each with its captures.
#[derive(Debug, Default)]
pub struct FamilyNames {
    known: BTreeMap<String, KnownName>,
    /// The identity of each family that identifies callers.
    identities: Vec<(String, Identity)>,
    /// Whether values that differ only in case are different.
    case: PathCase,
}

/// The part of a reference that stands for the caller.
const CALLER: &str = ":{identity}";

#[derive(Debug)]
enum KnownName {
    /// A level that is no family: `booking`, when there is only `booking:stats`.
    Level,
    /// `None` if its pattern is faulty, so that its captures are unknown.
    Family(Option<Vec<Values>>),
}

impl FamilyNames {
    /// Without any family.
    pub fn new(case: PathCase) -> FamilyNames {
        FamilyNames { case, ..FamilyNames::default() }
    }

    /// Adds a family and the levels above it. `captures` is `None` if the pattern is faulty.
    pub fn add(&mut self, name: &str, captures: Option<Vec<Values>>, identity: &Identity) {
        for (end, _) in name.match_indices(':') {
            self.known.entry(name[..end].to_owned()).or_insert(KnownName::Level);
        }
        self.known.insert(name.to_owned(), KnownName::Family(captures));
        if identity.tells_callers_apart() || matches!(identity, Identity::Credentials(_)) {
            self.identities.push((name.to_owned(), identity.clone()));
        }
    }

    /// Whether a family identifies callers by claims of their tokens.
    pub fn identify_by_claims(&self) -> bool {
        self.identities.iter().any(|(_, identity)| identity.is_by_claims())
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// The longest known name that the text starts with, and the rest: empty, or `:part:part`.
    fn split<'r>(&self, text: &'r str) -> Option<(&'r str, &KnownName, &'r str)> {
        let mut ends = text.match_indices(':').map(|(end, _)| end).chain([text.len()]);
        let longest = ends.rfind(|end| self.known.contains_key(&text[..*end]))?;
        Some((&text[..longest], self.known.get(&text[..longest])?, &text[longest..]))
    }

    /// The families below this one that have instances.
    fn below<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n str> {
        let is_below = move |other: &str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        self.known
            .iter()
            .filter(move |(other, known)| is_below(other) && known.room() != Some(0))
            .map(|(other, _)| other.as_str())
    }

    fn nearest(&self, text: &str) -> Vec<String> {
        nearest(text, self.all()).into_iter().map(str::to_owned).collect()
    }
}

/// A checked reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(SmallVec<[ReferenceTarget; 1]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum ReferenceTarget {
    Everything,
    /// A family or level with everything below it.
    Whole(Tag),
    Instance {
        whole: Tag,
        parts: Vec<InstancePart>,
    },
    /// The caller's entries in a family.
    CallerIdentity {
        family: String,
        identity: Identity,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum InstancePart {
    Any,
    /// In the form used in tags.
    Value(String),
    /// The write path's capture of this name.
    Capture(String),
}

/// Why a reference is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceFault {
    /// No family, level or glob matches.
    Unknown { message: String, remedy: String },
    /// It names a family, but not an instance that the family can have.
    Instance { message: String, remedy: String },
    /// It names an instance with a value that the family's path cannot have there.
    Value { message: String, remedy: String },
    /// The write path has no such capture.
    Capture { message: String, remedy: String },
}

/// A family or instance in an operator's request that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFamily {
    /// As requested.
    pub reference: String,
    /// The most similar names, best first.
    pub nearest: Vec<String>,
    /// All names, for the message.
    have: String,
    /// Message and remedy, if the family exists but the instance cannot.
    pub instance: Option<(String, String)>,
}

impl std::error::Error for UnknownFamily {}

impl std::fmt::Display for UnknownFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((message, remedy)) = &self.instance {
            return write!(f, "{message}: {remedy}");
        }
        let near: Vec<&str> = self.nearest.iter().map(String::as_str).collect();
        let remedy = did_you_mean(&near, || format!("families here: {}", self.have));
        write!(f, "unknown family {:?}: {remedy}", self.reference)
    }
}

impl Reference {
    /// Parses a reference in a rule. `captures` are the names in the write path's pattern; `None` if that is faulty,
    /// so that every name is accepted.
    pub fn parse(text: &str, names: &FamilyNames, captures: Option<&[&str]>) -> Result<Reference, ReferenceFault> {
        if text == "*" {
            return Ok(Reference(SmallVec::from_elem(ReferenceTarget::Everything, 1)));
        }
        let has_capture = captures.is_some_and(|captures| captures.contains(&"identity"));
        if let Some(name) = text.strip_suffix(CALLER).filter(|_| !has_capture) {
            return of_caller(name, names);
        }
        match names.split(text) {
            Some((name, known, rest)) if !looks_like_glob(rest) => {
                let parts: Result<Vec<InstancePart>, _> =
                    rest.split(':').skip(1).map(|part| read_part(part, captures, names.case)).collect();
                let parts = parts?;
                check_room(text, name, known, &parts, names)?;
                check_values(name, (known, names.case), rest.split(':').skip(1))?;
                Ok(Reference(SmallVec::from_elem(instance(name, parts), 1)))
            }
            _ => glob(text, names),
        }
    }

    /// Parses a reference in an operator's request: no captures, and the last value may contain `:`.
    pub fn resolve(text: &str, names: &FamilyNames) -> Result<Reference, UnknownFamily> {
        let unknown = |fault: ReferenceFault| UnknownFamily {
            reference: text.to_owned(),
            nearest: names.nearest(text),
            have: listing(names.all()),
            instance: match fault {
                ReferenceFault::Value { message, remedy } => Some((message, remedy)),
                _ => None,
            },
        };
        if text == "*" {
            return Ok(Reference(SmallVec::from_elem(ReferenceTarget::Everything, 1)));
        }
        match names.split(text) {
            Some((name, known, rest)) if !looks_like_glob(rest) => {
                let room = known.room().unwrap_or(instance::CAPTURES);
                let typed: Vec<&str> = rest.splitn(room.max(1) + 1, ':').skip(1).collect();
                let parts: Vec<InstancePart> = typed.iter().map(|part| value_part(part, names.case)).collect();
                check_room(text, name, known, &parts, names)
                    .and_then(|()| check_below(name, &typed, names))
                    .and_then(|()| check_values(name, (known, names.case), typed.iter().copied()))
                    .map_err(unknown)?;
                Ok(Reference(SmallVec::from_elem(instance(name, parts), 1)))
            }
            _ => glob(text, names).map_err(unknown),
        }
    }

    /// Appends its tags. A capture that took no part in the match selects the whole family: a miss is safer than a
    /// stale hit.
    pub fn tags<'v>(
        &self,
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        caller: CallerIdentity<'_>,
        tags: &mut Vec<Tag>,
    ) {
        for target in &self.0 {
            let found = match target {
                ReferenceTarget::CallerIdentity { family, identity } => callers(family, identity, caller),
                target => target.tag(value_of).into_iter().collect(),
            };
            for tag in found {
                if !tags.contains(&tag) {
                    tags.push(tag);
                }
            }
        }
    }

    /// Why this bearer token does not identify a caller whom it names.
    pub fn fault_of_caller(&self, bearer: &BearerToken) -> Option<TokenFault> {
        self.0.iter().find_map(|target| match target {
            ReferenceTarget::CallerIdentity { identity, .. } => identity.fault_of(bearer),
            _ => None,
        })
    }

    /// Whether it names entries of single callers in this family.
    pub fn names_callers_of(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|target| matches!(target, ReferenceTarget::CallerIdentity { family, .. } if family == name))
    }

    /// Whether it can invalidate an entry with these family tags (levels and family).
    pub fn reaches(&self, levels: &[Tag]) -> bool {
        self.0.iter().any(|target| target.reaches(levels))
    }

    /// The same for the entry with these captures, which may be another instance.
    pub fn reaches_instance(&self, levels: &[Tag], captures: &[String]) -> bool {
        self.0.iter().any(|target| target.reaches(levels) && target.is_instance(captures))
    }
}

impl ReferenceTarget {
    fn reaches(&self, levels: &[Tag]) -> bool {
        match self {
            ReferenceTarget::Everything => true,
            ReferenceTarget::Whole(tag) => levels.contains(tag),
            // Only the family itself has these instances, not the families below it.
            ReferenceTarget::Instance { whole, .. } => levels.last() == Some(whole),
            ReferenceTarget::CallerIdentity { family, .. } => {
                levels.last().is_some_and(|name| name.as_str() == family)
            }
        }
    }

    /// Whether its literal values equal these captures.
    fn is_instance(&self, captures: &[String]) -> bool {
        let ReferenceTarget::Instance { parts, .. } = self else { return true };
        parts.iter().zip(captures).all(|(part, capture)| match part {
            InstancePart::Value(value) => *value == *instance::value(capture),
            InstancePart::Any | InstancePart::Capture(_) => true,
        })
    }

    /// `None` for the entries of a caller ([`callers`]).
    fn tag<'v>(&self, value_of: &dyn Fn(&str) -> Option<&'v str>) -> Option<Tag> {
        let (whole, parts) = match self {
            ReferenceTarget::Everything => return Some(Tag::root()),
            ReferenceTarget::Whole(tag) => return Some(tag.clone()),
            ReferenceTarget::Instance { whole, parts } => (whole, parts),
            ReferenceTarget::CallerIdentity { .. } => return None,
        };
        let mut values = Vec::with_capacity(parts.len());
        for part in parts {
            values.push(match part {
                InstancePart::Any => None,
                InstancePart::Value(value) => Some(value.clone()),
                InstancePart::Capture(name) => match value_of(name) {
                    Some(raw) => Some(instance::value(raw).into_owned()),
                    None => return Some(whole.clone()),
                },
            });
        }
        let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        Some(instance::tag(whole.as_str(), &values))
    }
}

/// The tags of the caller's entries in a family. None if the write does not identify a caller of the family. The verdicts on a
/// caller whose write has no credentials are not known: all are meant.
fn callers(family: &str, identity: &Identity, caller: CallerIdentity<'_>) -> SmallVec<[Tag; 1]> {
    // A miss is safer than a stale hit.
    let all = || SmallVec::from_elem(Tag::family(family), 1);
    let CallerIdentity::Known { presented, secret, credentials } = caller else { return all() };
    let Identity::Credentials(beside) = identity else {
        return match key::callers(identity, presented, secret) {
            Callers::Known(callers) => callers.iter().map(|caller| Tag::caller(family, caller)).collect(),
            Callers::Unverified => all(),
        };
    };
    match key::credentials(&credentials.select(presented.fields, beside), secret) {
        Some(known) if !known.is_empty() => known.iter().map(|caller| Tag::caller(family, caller)).collect(),
        _ => all(),
    }
}

impl KnownName {
    /// Most captures that an instance can name; `None` if unknown.
    fn room(&self) -> Option<usize> {
        match self {
            KnownName::Level => Some(0),
            KnownName::Family(captures) => captures.as_ref().map(Vec::len),
        }
    }
}

/// `f:*` and `f:*:{b}` are instances; `f:a*` can only be a glob over names.
fn looks_like_glob(rest: &str) -> bool {
    rest.split(':').any(|part| part.contains('*') && part != "*")
}

fn instance(name: &str, mut parts: Vec<InstancePart>) -> ReferenceTarget {
    let known = parts.iter().rposition(|part| *part != InstancePart::Any).map_or(0, |last| last + 1);
    parts.truncate(known);
    let whole = Tag::family(name);
    if parts.is_empty() { ReferenceTarget::Whole(whole) } else { ReferenceTarget::Instance { whole, parts } }
}

fn value_part(part: &str, case: PathCase) -> InstancePart {
    if part == "*" {
        InstancePart::Any
    } else {
        InstancePart::Value(instance::value(&folded(part, case)).into_owned())
    }
}

/// A value in the form it has in paths if the paths ignore case.
fn folded(value: &str, case: PathCase) -> Cow<'_, str> {
    match case {
        PathCase::Sensitive => Cow::Borrowed(value),
        PathCase::Insensitive => case.fold(encoded(&instance::decoded(value), target::is_unreserved)),
    }
}

fn encoded(bytes: &[u8], is_plain: impl Fn(u8) -> bool) -> String {
    bytes.iter().fold(String::new(), |text, byte| match is_plain(*byte) {
        true => text + &char::from(*byte).to_string(),
        false => text + &format!("%{byte:02X}"),
    })
}

fn read_part(part: &str, captures: Option<&[&str]>, case: PathCase) -> Result<InstancePart, ReferenceFault> {
    let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
        if part.contains(['{', '}']) || part.is_empty() {
            let message = format!("{part:?} is not a part of an instance");
            let remedy = "a part is one {capture}, one value, or *; write %7B for { and %7D for }".to_owned();
            return Err(ReferenceFault::Instance { message, remedy });
        }
        return Ok(value_part(part, case));
    };
    match captures {
        Some(have) if !have.contains(&name) => Err(no_capture(name, have)),
        _ => Ok(InstancePart::Capture(name.to_owned())),
    }
}

fn no_capture(name: &str, have: &[&str]) -> ReferenceFault {
    let message = format!("{{{name}}} is not a capture of the path");
    let remedy = match have {
        [] => format!("the path has no named captures: write (?<{name}>…) in it, or name the whole family"),
        _ => did_you_mean(&nearest(name, have.iter().copied()), || {
            format!("the path has {}", listing(have.iter().copied()))
        }),
    };
    ReferenceFault::Capture { message, remedy }
}

/// An instance has at most as many parts as its family has captures. `family:*` is the family and everything below
/// it.
fn check_room(
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
    Ok(Reference(meant))
}

/// Rejects `user:7:settings` for a family `user` if there is a family `user:settings`: it is no value of `user`. A
/// `:` in a value is written `%3A`.
fn check_below(name: &str, typed: &[&str], names: &FamilyNames) -> Result<(), ReferenceFault> {
    let Some((value, last)) = typed.last().and_then(|last| last.rsplit_once(':')) else { return Ok(()) };
    let below = format!("{name}:{last}");
    let message = format!("{:?} is no value of {name:?}", format!("{value}:{last}"));
    if last == "*" {
        let remedy = format!("name {:?}: an instance has nothing below it", format!("{name}:{value}"));
        return Err(ReferenceFault::Value { message, remedy });
    }
    if !names.known.contains_key(&below) {
        return Ok(());
    }
    let remedy = format!("did you mean {:?}?", format!("{below}:{value}"));
    Err(ReferenceFault::Value { message, remedy })
}

/// Rejects values that no path of the family can contain.
fn check_values<'v>(
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

/// The spellings of a value in a path: they are one instance ([`instance::value`]).
fn spellings(value: &str) -> Vec<String> {
    let decoded = instance::decoded(value);
    let mut all = vec![value.to_owned()];
    all.extend(String::from_utf8(decoded.clone()));
    all.push(encoded(&decoded, |byte| target::is_plain(byte) && byte != b'/'));
    all.push(encoded(&decoded, target::is_unreserved));
    // `{` and `%` of a literal value.
    all.push(target::normalise(&format!("/{value}"))[1..].to_owned());
    all
}

/// All matching names, without those below another match.
fn glob(text: &str, names: &FamilyNames) -> Result<Reference, ReferenceFault> {
    let found: Vec<&str> = names.all().filter(|name| text.contains('*') && fits(text, name)).collect();
    if found.is_empty() {
        return Err(unknown(text, names));
    }
    let is_above = |above: &str, name: &str| name.strip_prefix(above).is_some_and(|rest| rest.starts_with(':'));
    let topmost = found.iter().filter(|name| !found.iter().any(|above| is_above(above, name)));
    Ok(Reference(topmost.map(|name| ReferenceTarget::Whole(Tag::family(name))).collect()))
}

fn unknown(text: &str, names: &FamilyNames) -> ReferenceFault {
    let message = if text.contains('*') {
        format!("{text:?} fits no family (a glob fits names, not instances)")
    } else {
        format!("unknown family {text:?}")
    };
    let bare = text.split('{').next().unwrap_or(text).trim_end_matches(':').replace('*', "");
    let near = names.nearest(&bare);
    let near: Vec<&str> = near.iter().map(String::as_str).collect();
    let remedy = did_you_mean(&near, || format!("families here: {}", listing(names.all())));
    ReferenceFault::Unknown { message, remedy }
}

/// Whether a name matches a glob, in which `*` matches any text. Linear in the name for each `*`.
fn fits(glob: &str, name: &str) -> bool {
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

#[cfg(test)]
mod tests;
