//! References to what a write or a purge invalidates:
//!
//! | reference | means |
//! |---|---|
//! | `booking`, `booking:*` | the family or level and everything below it |
//! | `user_stats*` | every family and level whose name matches |
//! | `user_details:{user_id}` | the instance with the value of the write path's capture |
//! | `user_details:me`, `f:*:{b}` | the instance with this value; any value in place of `*` |
//! | `f:{body.user_id}` | the instance `user_id` with the value in the write's content; so `query.`, `header.`, `response.` |
//! | `f:{user_id=body.owner.id}` | the instance `user_id` with the value of another name |
//! | `*:{user_id}`, `booking*:{user_id}` | this instance in all families (that match the glob) and have it |
//! | `me:{identity}` | the entries of the write's caller in this family and those below it; globs are allowed |
//! | `*` | everything |

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderName;
use serde::Serialize;
use smallvec::SmallVec;

use super::nearest::{did_you_mean, listing, nearest};
use super::pattern::Values;
use super::source::{FurtherInstance, KINDS, ReadSource, Unresolved, WriteSource, WriteValues, encoded};
use super::{CallerIdentity, instance};
use crate::bearer::{BearerToken, TokenFault};
use crate::http::target::{self, PathCase};
use crate::key::{self, Callers, Identity};
use crate::marks::Tag;
use crate::secret::Secret;

/// The names of all families and of the levels above them, each with its captures.
#[derive(Debug, Default)]
pub struct FamilyNames {
    known: BTreeMap<String, KnownName>,
    /// The identity of each family that identifies callers.
    identities: Vec<(String, Identity)>,
    /// The instances of each family that has others than its captures.
    further: BTreeMap<String, Vec<FurtherInstance>>,
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
    pub fn add(
        &mut self,
        name: &str,
        captures: Option<Vec<Values>>,
        further: &[FurtherInstance],
        identity: &Identity,
    ) {
        let any = |further: &FurtherInstance| Values::of(&further.name, None);
        let captures = captures.map(|captures| captures.into_iter().chain(further.iter().map(any)).collect());
        if !further.is_empty() {
            self.further.insert(name.to_owned(), further.to_vec());
        }
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

    /// Whether paths that differ in case are equal.
    pub fn case(&self) -> PathCase {
        self.case
    }

    /// The instances of a family in the order of its tags: its captures, then the others.
    fn instances<'n>(&'n self, family: &str) -> Option<Vec<&'n str>> {
        match self.known.get(family)? {
            KnownName::Family(Some(captures)) => Some(captures.iter().map(Values::name).collect()),
            KnownName::Family(None) | KnownName::Level => None,
        }
    }

    /// The source of an instance; `None` for a capture.
    fn source(&self, family: &str, name: &str) -> Option<&ReadSource> {
        self.further.get(family)?.iter().find(|further| further.name == name).map(|further| &further.source)
    }

    fn identity(&self, family: &str) -> Option<&Identity> {
        self.identities.iter().find(|(name, _)| name == family).map(|(_, identity)| identity)
    }

    /// Whether the instance is the caller, whom a plain value can name: the digest of the value is made as that of a request.
    fn is_claim(&self, family: &str, instance: &str) -> bool {
        self.source(family, instance) == Some(&ReadSource::Identity)
            && self.why_unnamed(family, instance).is_none()
    }

    /// Why no plain value names this instance; `None` if one does.
    fn why_unnamed(&self, family: &str, instance: &str) -> Option<String> {
        if self.source(family, instance) != Some(&ReadSource::Identity) {
            return None;
        }
        let unstated = Identity::Unstated;
        let identity = self.identity(family).unwrap_or(&unstated);
        if !identity.is_one_claim() {
            return Some(format!(
                "its {instance} is the caller by identity = \"{identity}\", of which tags hold a digest: only a single claim \
                 (\"jwt:sub\") can be named by a value"
            ));
        }
        // Paths are folded, claims are not.
        (self.case == PathCase::Insensitive).then(|| {
            format!("its {instance} is the caller by identity = \"{identity}\", whose case counts, and paths here ignore case")
        })
    }

    /// The names of all instances, without duplicates, sorted.
    fn all_instances(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.known.keys().filter_map(|name| self.instances(name)).flatten().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The families with an instance of this name, and its place there.
    fn with_instance<'n>(&'n self, name: &'n str) -> impl Iterator<Item = (&'n str, usize)> {
        self.known.keys().filter_map(move |family| {
            let at = self.instances(family)?.iter().position(|known| *known == name)?;
            Some((family.as_str(), at))
        })
    }

    fn nearest(&self, text: &str) -> Vec<String> {
        nearest(text, self.all()).into_iter().map(str::to_owned).collect()
    }
}

/// A checked reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    targets: SmallVec<[ReferenceTarget; 1]>,
    left_out: Vec<LeftOut>,
}

impl From<SmallVec<[ReferenceTarget; 1]>> for Reference {
    fn from(targets: SmallVec<[ReferenceTarget; 1]>) -> Reference {
        Reference { targets, left_out: Vec::new() }
    }
}

impl From<ReferenceTarget> for Reference {
    fn from(target: ReferenceTarget) -> Reference {
        Reference::from(SmallVec::from_elem(target, 1))
    }
}

/// A family that has the instance meant, in which no plain value names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LeftOut {
    /// Its name.
    pub family: String,
    /// Why, as a sentence part: "its user_id is …".
    pub why: String,
}

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
    /// The values that the write has there.
    Of(WriteSource, PathCase),
    /// The callers whose claim has this value, or one of these values.
    Claim(Box<InstancePart>),
}

impl InstancePart {
    /// Where it takes values from.
    fn source(&self) -> Option<&WriteSource> {
        match self {
            InstancePart::Of(source, _) => Some(source),
            InstancePart::Claim(part) => part.source(),
            InstancePart::Any | InstancePart::Value(_) => None,
        }
    }
}

/// The tags of a reference for one write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferencedTags {
    /// Without duplicates.
    pub tags: Vec<Tag>,
    /// The sources without a value, for which the whole family is named.
    pub unresolved: Vec<(String, Unresolved)>,
}

/// The families in which an operator clears an instance, and its tags there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceEverywhere {
    pub families: Vec<String>,
    pub tags: Vec<Tag>,
    /// The families that have the instance and are not cleared.
    pub left_out: Vec<LeftOut>,
}

/// Why a reference is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceFault {
    /// No family, level or glob matches.
    Unknown { message: String, remedy: String },
    /// It names a family, but not an instance that the family can have.
    Instance { message: String, remedy: String },
    /// It names an instance with a value that the family's path cannot have there, or with a value where only the caller
    /// is known.
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
            return Ok(Reference::from(ReferenceTarget::Everything));
        }
        let has_capture = captures.is_some_and(|captures| captures.contains(&"identity"));
        if let Some(name) = text.strip_suffix(CALLER).filter(|name| !has_capture && !name.contains('{')) {
            return of_caller(name, names);
        }
        match names.split(text) {
            Some((name, known, rest)) if !looks_like_glob(rest) => {
                let parts: Result<Vec<WrittenPart>, _> =
                    rest.split(':').skip(1).map(|part| read_part(part, captures, names.case)).collect();
                let parts = parts?;
                let values: Vec<InstancePart> = parts.iter().map(|part| part.value.clone()).collect();
                check_room(text, name, known, &values, names)?;
                check_values(name, (known, names.case), rest.split(':').skip(1))?;
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

    /// The instances with this name, or this name and `_id`, and with this value, in all families that have one, for an
    /// operator. `secret` keys digests of callers. `Err`: the names that there are, nearest first.
    pub fn everywhere(
        name: &str,
        value: &str,
        names: &FamilyNames,
        secret: Option<&Secret>,
    ) -> Result<InstanceEverywhere, Vec<String>> {
        let in_tag = instance::value(&folded(&value.replace('%', "%25"), names.case)).into_owned();
        let mut found = InstanceEverywhere::default();
        let with_id = format!("{name}_id");
        for (name, (family, at)) in
            [name, &with_id].into_iter().flat_map(|name| names.with_instance(name).map(move |found| (name, found)))
        {
            if let Some(why) = names.why_unnamed(family, name) {
                found.left_out.push(LeftOut { family: family.to_owned(), why });
                continue;
            }
            let values = if names.is_claim(family, name) { in_tags(value, secret) } else { vec![in_tag.clone()] };
            for value in values {
                let mut parts = vec![None; at];
                parts.push(Some(value.as_str()));
                found.tags.push(instance::tag(family, &parts));
            }
            if !found.families.iter().any(|known| known == family) {
                found.families.push(family.to_owned());
            }
        }
        found.families.sort_unstable();
        if found.families.is_empty() && found.left_out.is_empty() {
            let all = names.all_instances();
            let near = nearest(name, all.iter().copied());
            let near = if near.is_empty() { all } else { near };
            return Err(near.into_iter().map(str::to_owned).collect());
        }
        Ok(found)
    }

    /// The families that it means and leaves out, since no value of a write names the instance there.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
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
            return Ok(Reference::from(ReferenceTarget::Everything));
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
                let have = names.instances(name).unwrap_or_default();
                let part = |(at, part): (usize, InstancePart)| {
                    let instance = have.get(at).copied().unwrap_or_default();
                    match (part, names.why_unnamed(name, instance)) {
                        (InstancePart::Value(_), Some(why)) => Err(ReferenceFault::Value {
                            message: format!("{:?} names nothing in {name:?}: {why}", typed[at]),
                            remedy: format!("POST /cache/clear/{name} purges all of the family"),
                        }),
                        (part @ InstancePart::Value(_), None) if names.is_claim(name, instance) => {
                            Ok(InstancePart::Claim(Box::new(part)))
                        }
                        (part, _) => Ok(part),
                    }
                };
                let parts: Result<Vec<InstancePart>, _> = parts.into_iter().enumerate().map(part).collect();
                Ok(Reference::from(instance(name, parts.map_err(unknown)?)))
            }
            _ => glob(text, names).map_err(unknown),
        }
    }

    /// Appends its tags. What has no value selects the whole family: a miss is safer than a stale hit.
    pub fn tags<'v>(
        &self,
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        write: WriteValues<'_>,
        found: &mut ReferencedTags,
    ) {
        self.targets.iter().for_each(|target| target.add_tags(value_of, write, found));
    }

    /// The request fields that it takes values from.
    pub fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.sources().filter_map(|source| match source {
            WriteSource::Header(name) => Some(name),
            _ => None,
        })
    }

    /// Where it takes the values of instances from.
    pub fn sources(&self) -> impl Iterator<Item = &WriteSource> {
        let parts = self.targets.iter().flat_map(|target| match target {
            ReferenceTarget::Instance { parts, .. } => parts.as_slice(),
            _ => &[],
        });
        parts.filter_map(InstancePart::source)
    }

    /// Why this bearer token does not identify a caller whom it names.
    pub fn fault_of_caller(&self, bearer: &BearerToken) -> Option<TokenFault> {
        self.targets.iter().find_map(|target| match target {
            ReferenceTarget::CallerIdentity { identity, .. } => identity.fault_of(bearer),
            _ => None,
        })
    }

    /// Whether it names entries of single callers in this family.
    pub fn names_callers_of(&self, name: &str) -> bool {
        self.targets
            .iter()
            .any(|target| matches!(target, ReferenceTarget::CallerIdentity { family, .. } if family == name))
    }

    /// Whether it can invalidate an entry with these family tags (levels and family).
    pub fn reaches(&self, levels: &[Tag]) -> bool {
        self.targets.iter().any(|target| target.reaches(levels))
    }

    /// The same for the entry with these captures, which may be another instance.
    pub fn reaches_instance(&self, levels: &[Tag], captures: &[String]) -> bool {
        self.targets.iter().any(|target| target.reaches(levels) && target.is_instance(captures))
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
            InstancePart::Any | InstancePart::Of(..) | InstancePart::Claim(_) => true,
        })
    }

    fn add_tags<'v>(
        &self,
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        write: WriteValues<'_>,
        found: &mut ReferencedTags,
    ) {
        match self {
            ReferenceTarget::Everything => found.add(Tag::root()),
            ReferenceTarget::Whole(tag) => found.add(tag.clone()),
            ReferenceTarget::Instance { whole, parts } => match choices(parts, value_of, write) {
                Ok(choices) => {
                    for values in instance::every_choice(&choices) {
                        let values: SmallVec<[Option<&str>; instance::CAPTURES]> =
                            values.iter().map(Option::as_deref).collect();
                        found.add(instance::tag(whole.as_str(), &values));
                    }
                }
                Err((source, why)) => {
                    found.add(whole.clone());
                    let unresolved = (format!("{whole}:{{{source}}}"), why);
                    if !found.unresolved.contains(&unresolved) {
                        found.unresolved.push(unresolved);
                    }
                }
            },
            ReferenceTarget::CallerIdentity { family, identity } => {
                callers(family, identity, write.caller).into_iter().for_each(|tag| found.add(tag));
            }
        }
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

impl ReferencedTags {
    fn add(&mut self, tag: Tag) {
        if !self.tags.contains(&tag) {
            self.tags.push(tag);
        }
    }
}

/// For each part the values that it can have: `None` for any.
fn choices<'p, 'v>(
    parts: &'p [InstancePart],
    value_of: &dyn Fn(&str) -> Option<&'v str>,
    write: WriteValues<'_>,
) -> Result<Vec<Vec<Option<String>>>, (&'p WriteSource, Unresolved)> {
    let (mut choices, mut count) = (Vec::<Vec<Option<String>>>::with_capacity(parts.len()), 1_usize);
    for part in parts {
        choices.push(match part {
            InstancePart::Any => vec![None],
            InstancePart::Value(value) => vec![Some(value.clone())],
            InstancePart::Of(source, case) => {
                let values = source.values(value_of, write, *case).map_err(|why| (source, why))?;
                values.into_iter().map(Some).collect()
            }
            InstancePart::Claim(part) => callers_of(part, value_of, write)?.into_iter().map(Some).collect(),
        });
        count = count.saturating_mul(choices.last().map_or(1, Vec::len));
        if count > instance::TAGS
            && let Some(source) = part.source()
        {
            return Err((source, Unresolved::TooMany));
        }
    }
    Ok(choices)
}

/// The callers whose claim has one of the values of a part, as written in tags.
fn callers_of<'p, 'v>(
    part: &'p InstancePart,
    value_of: &dyn Fn(&str) -> Option<&'v str>,
    write: WriteValues<'_>,
) -> Result<Vec<String>, (&'p WriteSource, Unresolved)> {
    let CallerIdentity::Known { secret, .. } = write.caller else {
        // Nothing keys the digest.
        return part.source().map_or(Ok(Vec::new()), |source| Err((source, Unresolved::Missing)));
    };
    let values = match part {
        // Claims are compared by case.
        InstancePart::Of(source, _) => {
            let values = source.values(value_of, write, PathCase::Sensitive).map_err(|why| (source, why))?;
            // A hash of the value, from which the value is not known.
            if values.iter().any(|value| value.starts_with('~')) {
                return Err((source, Unresolved::TooLong));
            }
            values
        }
        InstancePart::Value(value) => vec![value.clone()],
        InstancePart::Any | InstancePart::Claim(_) => Vec::new(),
    };
    // No claim has a value that is not UTF-8.
    let values = values.iter().filter_map(|value| String::from_utf8(instance::decoded(value)).ok());
    Ok(values.flat_map(|value| in_tags(&value, secret)).collect())
}

/// The callers whose claim has this plain value, as written in tags.
fn in_tags(value: &str, secret: Option<&Secret>) -> Vec<String> {
    let callers = key::callers_of_claim(value, secret);
    callers.iter().map(|caller| instance::decoded_value(caller.as_bytes())).collect()
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

fn too_long(family: &str, instance: &str) -> ReferenceFault {
    let message = format!("the value of {instance:?} of {family:?} is too long to be compared with a claim");
    ReferenceFault::Value { message, remedy: format!("write {family:?} for all of the family") }
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
        let WrittenPart { value, name } = read_part(part, captures, names.case)?;
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

/// The fault of a part that is neither a capture nor another source.
fn no_source(source: &str, have: &[&str]) -> ReferenceFault {
    let Some((kind, name)) = source.split_once('.') else { return no_capture(source, have) };
    let message = format!("{{{source}}} names no value of a write");
    let known = KINDS.contains(&kind);
    let remedy = match (known, nearest(kind, KINDS).first()) {
        (false, Some(near)) => format!("did you mean {{{near}.{name}}}?"),
        (true, _) => "write query.NAME, header.NAME, body.NAME or response.NAME, without an empty name".to_owned(),
        (false, None) => format!("write one of {}, with a name after the dot, or a capture", listing(KINDS)),
    };
    ReferenceFault::Instance { message, remedy }
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
    Ok(Reference::from(meant))
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
    let targets: SmallVec<[ReferenceTarget; 1]> =
        topmost.map(|name| ReferenceTarget::Whole(Tag::family(name))).collect();
    Ok(Reference::from(targets))
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
