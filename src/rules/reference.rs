//! References to what is invalidated, as they stand in invalidations and as operators type them:
//!
//! | reference | means |
//! |---|---|
//! | `booking`, `booking:*` | the family or level and everything below it |
//! | `user_stats*` | every family and level whose name fits |
//! | `user_details:{user_id}` | the instance with the write path's capture |
//! | `user_details:me`, `f:*:{b}` | the instance with this value; any value at this place |
//! | `me:{identity}` | in the family, or in those below it, what the caller of the write has there; `*` takes globs |
//! | `*` | everything |

use std::borrow::Cow;
use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::nearest::{did_you_mean, listing, nearest};
use super::pattern::Values;
use super::{CallerIdentity, instance};
use crate::http::target::{self, PathCase};
use crate::key::{self, Identity};
use crate::marks::Tag;

/// The names of all families and of the levels above them, each with its captures.
#[derive(Debug, Default)]
pub struct Names {
    known: BTreeMap<String, Known>,
    /// How the families that tell callers apart do that.
    identities: Vec<(String, Identity)>,
    /// Whether values that differ in case are two.
    case: PathCase,
}

/// The part of a reference that stands for the caller.
const CALLER: &str = ":{identity}";

#[derive(Debug)]
enum Known {
    /// `booking`, when there is only `booking:stats`.
    Level,
    /// None: its pattern is faulty, so that nobody knows.
    Family(Option<Vec<Values>>),
}

impl Names {
    /// Those of no family yet.
    pub fn new(case: PathCase) -> Names {
        Names { case, ..Names::default() }
    }

    /// Adds a family and the levels above it. None as its captures if the pattern is faulty.
    pub fn add(&mut self, name: &str, captures: Option<Vec<Values>>, identity: &Identity) {
        for (end, _) in name.match_indices(':') {
            self.known.entry(name[..end].to_owned()).or_insert(Known::Level);
        }
        self.known.insert(name.to_owned(), Known::Family(captures));
        if matches!(identity, Identity::Header(_) | Identity::Cookie(_)) {
            self.identities.push((name.to_owned(), identity.clone()));
        }
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// The longest known name that the reference begins with, and what follows it: empty, or `:part:part`.
    fn split<'r>(&self, text: &'r str) -> Option<(&'r str, &Known, &'r str)> {
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
pub struct Reference(SmallVec<[Target; 1]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Everything,
    /// A family or level with everything below it.
    Whole(Tag),
    Instance {
        whole: Tag,
        parts: Vec<Part>,
    },
    /// What the caller of the write has in a family.
    CallerIdentity {
        family: String,
        identity: Identity,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Any,
    /// In the form it has in tags.
    Value(String),
    /// The write path's capture of this name.
    Capture(String),
}

/// Why a reference is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReferenceFault {
    /// No family, level or glob fits.
    Unknown { message: String, remedy: String },
    /// It names a family, but not an instance that the family can have.
    Instance { message: String, remedy: String },
    /// It names an instance with a value that its family's path cannot have there.
    Value { message: String, remedy: String },
    /// The write path has no such capture.
    Capture { message: String, remedy: String },
}

/// A family or instance that does not exist, as asked for by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFamily {
    /// As asked for.
    pub reference: String,
    /// Names that may have been meant, the nearest first.
    pub nearest: Vec<String>,
    /// All names, for people.
    have: String,
    /// Why it names no instance of a family that there is, and what to do.
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
    /// Checks a reference that stands in an invalidation. `captures`: names in the write path's pattern; None if
    /// that is faulty, so that any name is taken.
    pub fn parse(text: &str, names: &Names, captures: Option<&[&str]>) -> Result<Reference, ReferenceFault> {
        if text == "*" {
            return Ok(Reference(SmallVec::from_elem(Target::Everything, 1)));
        }
        let has_capture = captures.is_some_and(|captures| captures.contains(&"identity"));
        if let Some(name) = text.strip_suffix(CALLER).filter(|_| !has_capture) {
            return of_caller(name, names);
        }
        match names.split(text) {
            Some((name, known, rest)) if !looks_like_glob(rest) => {
                let parts: Result<Vec<Part>, _> =
                    rest.split(':').skip(1).map(|part| read_part(part, captures, names.case)).collect();
                let parts = parts?;
                check_room(text, name, known, &parts, names)?;
                check_values(name, (known, names.case), rest.split(':').skip(1))?;
                Ok(Reference(SmallVec::from_elem(instance(name, parts), 1)))
            }
            _ => glob(text, names),
        }
    }

    /// Resolves a reference typed by an operator: no captures, and the last value may contain `:`.
    pub fn resolve(text: &str, names: &Names) -> Result<Reference, UnknownFamily> {
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
            return Ok(Reference(SmallVec::from_elem(Target::Everything, 1)));
        }
        match names.split(text) {
            Some((name, known, rest)) if !looks_like_glob(rest) => {
                let room = known.room().unwrap_or(instance::CAPTURES);
                let typed: Vec<&str> = rest.splitn(room.max(1) + 1, ':').skip(1).collect();
                let parts: Vec<Part> = typed.iter().map(|part| value_part(part, names.case)).collect();
                check_room(text, name, known, &parts, names)
                    .and_then(|()| check_below(name, &typed, names))
                    .and_then(|()| check_values(name, (known, names.case), typed.iter().copied()))
                    .map_err(unknown)?;
                Ok(Reference(SmallVec::from_elem(instance(name, parts), 1)))
            }
            _ => glob(text, names).map_err(unknown),
        }
    }

    /// Appends the tags it names. A capture that took no part in the match names the whole family: rather a miss
    /// than a stale hit.
    pub fn tags<'v>(
        &self,
        value_of: &dyn Fn(&str) -> Option<&'v str>,
        caller: CallerIdentity<'_>,
        tags: &mut Vec<Tag>,
    ) {
        for tag in self.0.iter().filter_map(|target| target.tag(value_of, caller)) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    }

    /// Whether it names what single callers have in this family.
    pub fn names_callers_of(&self, name: &str) -> bool {
        self.0.iter().any(|target| matches!(target, Target::CallerIdentity { family, .. } if family == name))
    }

    /// Whether it can invalidate an entry with these family tags (levels and family).
    pub fn reaches(&self, levels: &[Tag]) -> bool {
        self.0.iter().any(|target| target.reaches(levels))
    }

    /// The same of the entry with these captures: what it names may be another instance.
    pub fn reaches_instance(&self, levels: &[Tag], captures: &[String]) -> bool {
        self.0.iter().any(|target| target.reaches(levels) && target.is_instance(captures))
    }
}

impl Target {
    fn reaches(&self, levels: &[Tag]) -> bool {
        match self {
            Target::Everything => true,
            Target::Whole(tag) => levels.contains(tag),
            // Only the family itself has instances, not the families below it.
            Target::Instance { whole, .. } => levels.last() == Some(whole),
            Target::CallerIdentity { family, .. } => levels.last().is_some_and(|name| name.as_str() == family),
        }
    }

    /// Whether the values that stand in it are those of these captures.
    fn is_instance(&self, captures: &[String]) -> bool {
        let Target::Instance { parts, .. } = self else { return true };
        parts.iter().zip(captures).all(|(part, capture)| match part {
            Part::Value(value) => *value == *instance::value(capture),
            Part::Any | Part::Capture(_) => true,
        })
    }

    /// None for a caller who is nobody there.
    fn tag<'v>(&self, value_of: &dyn Fn(&str) -> Option<&'v str>, caller: CallerIdentity<'_>) -> Option<Tag> {
        let (whole, parts) = match self {
            Target::Everything => return Some(Tag::root()),
            Target::Whole(tag) => return Some(tag.clone()),
            Target::Instance { whole, parts } => (whole, parts),
            Target::CallerIdentity { family, identity } => {
                return match caller {
                    CallerIdentity::Known { fields, secret } => {
                        key::caller(identity, fields, secret).map(|caller| Tag::caller(family, &caller))
                    }
                    // Rather a miss than a stale hit.
                    CallerIdentity::Unknown => Some(Tag::family(family)),
                };
            }
        };
        let mut values = Vec::with_capacity(parts.len());
        for part in parts {
            values.push(match part {
                Part::Any => None,
                Part::Value(value) => Some(value.clone()),
                Part::Capture(name) => match value_of(name) {
                    Some(raw) => Some(instance::value(raw).into_owned()),
                    None => return Some(whole.clone()),
                },
            });
        }
        let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        Some(instance::tag(whole.as_str(), &values))
    }
}

impl Known {
    /// How many captures an instance can name; None if nobody knows.
    fn room(&self) -> Option<usize> {
        match self {
            Known::Level => Some(0),
            Known::Family(captures) => captures.as_ref().map(Vec::len),
        }
    }
}

/// `f:*` and `f:*:{b}` are instances; `f:a*` can only be a glob over names.
fn looks_like_glob(rest: &str) -> bool {
    rest.split(':').any(|part| part.contains('*') && part != "*")
}

fn instance(name: &str, mut parts: Vec<Part>) -> Target {
    let known = parts.iter().rposition(|part| *part != Part::Any).map_or(0, |last| last + 1);
    parts.truncate(known);
    let whole = Tag::family(name);
    if parts.is_empty() { Target::Whole(whole) } else { Target::Instance { whole, parts } }
}

fn value_part(part: &str, case: PathCase) -> Part {
    if part == "*" { Part::Any } else { Part::Value(instance::value(&folded(part, case)).into_owned()) }
}

/// A value as paths have it that tell nothing by case: of those captures are taken.
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

fn read_part(part: &str, captures: Option<&[&str]>, case: PathCase) -> Result<Part, ReferenceFault> {
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
        _ => Ok(Part::Capture(name.to_owned())),
    }
}

fn no_capture(name: &str, have: &[&str]) -> ReferenceFault {
    let message = format!("{{{name}}} is no capture of the path");
    let remedy = match have {
        [] => format!("the path has no named captures: write (?<{name}>…) in it, or name the whole family"),
        _ => did_you_mean(&nearest(name, have.iter().copied()), || {
            format!("the path has {}", listing(have.iter().copied()))
        }),
    };
    ReferenceFault::Capture { message, remedy }
}

/// An instance cannot have more parts than its family has captures. `family:*` is the family and what is below it.
fn check_room(text: &str, name: &str, known: &Known, parts: &[Part], names: &Names) -> Result<(), ReferenceFault> {
    if matches!(parts, [] | [Part::Any]) {
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
            // What is below the family has instances of its own, not of this one.
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

/// What a caller has in this family, in all below it, or in all that fit a glob.
fn of_caller(name: &str, names: &Names) -> Result<Reference, ReferenceFault> {
    let is_below =
        |family: &str| family.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    let is_meant = |family: &str| is_below(family) || name.contains('*') && fits(name, family);
    if !names.all().any(is_meant) {
        return Err(unknown(name, names));
    }
    let meant = names.identities.iter().filter(|(family, _)| is_meant(family)).cloned();
    let meant: SmallVec<[Target; 1]> =
        meant.map(|(family, identity)| Target::CallerIdentity { family, identity }).collect();
    if meant.is_empty() {
        let message = format!(
            "{:?} names a caller's own entries, but no callers are told apart there",
            format!("{name}{CALLER}")
        );
        let remedy =
            format!("write {name:?} for all of it, or give the family an identity such as \"cookie:sid\"");
        return Err(ReferenceFault::Instance { message, remedy });
    }
    Ok(Reference(meant))
}

/// What an operator names `user:7:settings` where there is a family `user:settings` is no value of `user`. One that has a
/// `:` is named with `%3A`.
fn check_below(name: &str, typed: &[&str], names: &Names) -> Result<(), ReferenceFault> {
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

/// Values that no path of the family has are those of no entry.
fn check_values<'v>(
    name: &str,
    (known, case): (&Known, PathCase),
    parts: impl Iterator<Item = &'v str>,
) -> Result<(), ReferenceFault> {
    let Known::Family(Some(captures)) = known else { return Ok(()) };
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

/// The ways in which a path may hold a value: they are one instance ([`instance::value`]).
fn spellings(value: &str) -> Vec<String> {
    let decoded = instance::decoded(value);
    let mut all = vec![value.to_owned()];
    all.extend(String::from_utf8(decoded.clone()));
    all.push(encoded(&decoded, |byte| target::is_plain(byte) && byte != b'/'));
    all.push(encoded(&decoded, target::is_unreserved));
    // `{` and `%` of a value that was typed for itself.
    all.push(target::normalise(&format!("/{value}"))[1..].to_owned());
    all
}

/// Every name that fits; without those below another that fits.
fn glob(text: &str, names: &Names) -> Result<Reference, ReferenceFault> {
    let found: Vec<&str> = names.all().filter(|name| text.contains('*') && fits(text, name)).collect();
    if found.is_empty() {
        return Err(unknown(text, names));
    }
    let is_above = |above: &str, name: &str| name.strip_prefix(above).is_some_and(|rest| rest.starts_with(':'));
    let topmost = found.iter().filter(|name| !found.iter().any(|above| is_above(above, name)));
    Ok(Reference(topmost.map(|name| Target::Whole(Tag::family(name))).collect()))
}

fn unknown(text: &str, names: &Names) -> ReferenceFault {
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

/// Whether a name fits a glob, in which `*` stands for any text. Linear in the name for each `*`.
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
mod tests {
    use super::super::pattern::Pattern;
    use super::*;
    use proptest::prelude::*;

    fn names() -> Names {
        let mut names = Names::default();
        let families = [
            ("user_list", ""),
            ("user_stats", ""),
            ("user_stats_daily", ""),
            ("user_details", "/(?<id>[^/]+)"),
            ("booking:stats", ""),
            ("booking:list", ""),
            ("room", "/(?<floor>[^/]+)/(?<room>[^/]+)"),
            ("room:plan", "/(?<id>[^/]+)/plan"),
            ("order", r"/orders/(?<id>\d{1,6})(/(?<at>[a-f]+))?"),
            ("order:lines", r"/orders/(?<id>\d+)/lines"),
        ];
        for (name, path) in families {
            let values =
                Pattern::compile(&format!("/{name}{path}"), PathCase::Sensitive).unwrap().values_of_captures();
            names.add(name, Some(values), &Identity::Unstated);
        }
        names.add("broken", None, &Identity::Unstated);
        names
    }

    fn tags(reference: &str) -> String {
        let parsed = Reference::parse(reference, &names(), Some(&["id", "other", "absent"])).unwrap();
        let value_of = |name: &str| [("id", "7"), ("other", "x:y")].into_iter().find(|(n, _)| *n == name);
        let mut found = Vec::new();
        parsed.tags(&|name| value_of(name).map(|(_, value)| value), CallerIdentity::Unknown, &mut found);
        found.iter().map(Tag::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn references_name_tags() {
        let rows = [
            ("*", "*"),
            ("user_list", "user_list"),
            ("user_list:*", "user_list"),
            ("booking", "booking"),
            ("booking:*", "booking"),
            ("booking:stats", "booking:stats"),
            ("booking*", "booking"),
            ("booking:s*", "booking:stats"),
            ("*stats", "booking:stats user_stats"),
            ("user_stats*", "user_stats user_stats_daily"),
            ("u*_*ta*s", "user_details user_stats"),
            ("user_details:{id}", "user_details:7"),
            ("user_details:{other}", "user_details:x%3Ay"),
            ("user_details:me", "user_details:me"),
            ("user_details:{absent}", "user_details"),
            ("room:{id}", "room:7"),
            ("room:{id}:*", "room:7"),
            ("room:*:{id}", "room:*:7"),
            ("room:a:{id}", "room:a:7"),
            ("room:{id}:{absent}", "room"),
            ("room:*:*", "room"),
            ("room:plan:{id}", "room:plan:7"),
        ];
        for (reference, expected) in rows {
            assert_eq!(tags(reference), expected, "{reference}");
        }
    }

    #[test]
    fn faulty_references_say_what_and_what_to_do() {
        let rows = [
            ("user_lists", "unknown family \"user_lists\"", "did you mean \"user_list\""),
            ("nothing", "unknown family", "families here: booking, booking:list"),
            ("zzz*", "fits no family", "families here"),
            ("user_details:4*", "fits no family", "user_details"),
            ("user_detail:{id}", "unknown family", "did you mean \"user_details\""),
            ("user_list:{id}", "\"user_list\" has no captures", "write \"user_list\""),
            ("booking:stat", "\"booking\" has no captures", "did you mean \"booking:stats\""),
            ("user_details:{id}:{id}", "has 2 parts", "at most one part"),
            ("room:*:*:x", "has 3 parts", "at most one part"),
            (
                "user_details:{id}:*",
                "has 2 parts",
                "write \"user_details:{id}\": an instance has nothing below it",
            ),
            ("user_details:*:*", "has 2 parts", "write \"user_details\""),
            ("room:{id}:{id}:*", "has 3 parts", "and name room:plan for what is below it"),
            ("order:abc", "\"abc\" is no {id} that the path of \"order\" can have", "\"order\" for all"),
            ("order:1234567", "is no {id}", "for all of the family"),
            ("order:*:xyz", "\"xyz\" is no {at}", "for all of the family"),
            ("user_details:{ids}", "{ids} is no capture", "did you mean \"id\""),
            ("user_details:{zzzzz}", "{zzzzz} is no capture", "the path has id, other"),
            ("user_details:u{id}", "\"u{id}\" is not a part", "one {capture}"),
            ("user_details:", "\"\" is not a part", "one {capture}"),
            ("room::x", "\"\" is not a part", "one {capture}"),
            ("user_list:{identity}", "no callers are told apart there", "\"cookie:sid\""),
            ("nobody:{identity}", "unknown family", "families here"),
            ("room:1:{identity}", "unknown family", "did you mean"),
            ("", "unknown family", "families here"),
        ];
        for (reference, what, remedy) in rows {
            let fault = match Reference::parse(reference, &names(), Some(&["id", "other"])) {
                Err(ReferenceFault::Unknown { message, remedy }) => (message, remedy),
                Err(ReferenceFault::Instance { message, remedy }) => (message, remedy),
                Err(ReferenceFault::Capture { message, remedy }) => (message, remedy),
                Err(ReferenceFault::Value { message, remedy }) => (message, remedy),
                Ok(found) => panic!("{reference}: {found:?}"),
            };
            assert!(fault.0.contains(what) && fault.1.contains(remedy), "{reference}: {fault:?}");
        }
    }

    #[test]
    fn a_callers_own_entries_are_named_in_families_that_tell_callers_apart() {
        let mut names = names();
        names.add("me", Some(Vec::new()), &Identity::Cookie("sid".into()));
        names.add("account:orders", Some(Vec::new()), &Identity::Header(http::header::AUTHORIZATION));
        names.add("account:public", Some(Vec::new()), &Identity::Shared);
        let parsed = |reference: &str| Reference::parse(reference, &names, Some(&["id"])).unwrap();
        let tags_of = |reference: &str, fields: &[(&str, &str)]| {
            let fields = crate::http::sample::fields(fields);
            let mut found = Vec::new();
            parsed(reference).tags(&|_| None, CallerIdentity::Known { fields: &fields, secret: None }, &mut found);
            found.iter().map(|tag| tag.as_str().split(" sha256:").next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (cookie, token) = (("cookie", "a=1; sid=x"), ("authorization", "Bearer x"));
        assert_eq!(tags_of("me:{identity}", &[cookie]), ["caller me"]);
        assert_eq!(tags_of("me:{identity}", &[token, ("cookie", "sidx=1")]), [""; 0]);
        assert_eq!(tags_of("account:{identity}", &[cookie, token]), ["caller account:orders"]);
        assert_eq!(tags_of("*:{identity}", &[cookie, token]), ["caller me", "caller account:orders"]);
        // Who does not know the caller takes it for anybody.
        let mut found = Vec::new();
        parsed("*:{identity}").tags(&|_| None, CallerIdentity::Unknown, &mut found);
        assert_eq!(found, ["me", "account:orders"].map(Tag::family));
    }

    #[test]
    fn what_is_faulty_itself_does_not_make_further_faults() {
        assert!(Reference::parse("broken:a:b:c", &names(), Some(&[])).is_ok());
        assert!(Reference::parse("user_details:{any}", &names(), None).is_ok());
    }

    #[test]
    fn operators_name_families_and_instances() {
        let resolved = |text: &str| {
            let mut found = Vec::new();
            Reference::resolve(text, &names()).map(|reference| {
                reference.tags(&|_| None, CallerIdentity::Unknown, &mut found);
                found.iter().map(Tag::as_str).collect::<Vec<_>>().join(" ")
            })
        };
        let rows = [
            ("user_details:42", "user_details:42"),
            ("user_details:a:b", "user_details:a%3Ab"),
            ("user_details:{x}", "user_details:%7Bx%7D"),
            ("room:1:2:3", "room:1:2%3A3"),
            ("room:*:2", "room:*:2"),
            ("booking:*", "booking"),
            ("user_stats*", "user_stats user_stats_daily"),
            ("*", "*"),
        ];
        for (text, expected) in rows {
            assert_eq!(resolved(text).as_deref(), Ok(expected), "{text}");
        }
        let fault = resolved("user_detials").unwrap_err();
        assert_eq!(fault.nearest, ["user_details"]);
        assert_eq!(fault.to_string(), "unknown family \"user_detials\": did you mean \"user_details\"?");
        assert!(resolved("user_list:42").is_err());
        assert!(resolved("nothing").unwrap_err().to_string().contains("families here: booking"));
    }

    #[test]
    fn values_are_in_lower_case_where_paths_are() {
        let mut names = Names::new(PathCase::Insensitive);
        for (name, path) in [("user", r"/(?<id>[^/]+)"), ("grade", r"/(?<id>[A-F]|É)")] {
            let pattern = Pattern::compile(path, PathCase::Insensitive).unwrap();
            names.add(name, Some(pattern.values_of_captures()), &Identity::Unstated);
        }
        let long = "JOE".repeat(100);
        let rows = [
            ("user:JOE", "/Joe"),
            ("user:%4AOE", "/joe"),
            ("user:ÉCOLE", "/école"),
            ("user:%C3%89cole", "/ÉCOLE"),
            ("user:A%3AB", "/a:b"),
            ("user:100%", "/100%"),
            ("user:A%2541", "/a%2541"),
            (&format!("user:{long}"), &format!("/{long}")),
            ("grade:B", "/b"),
            ("grade:É", "/É"),
        ];
        for (text, path) in rows {
            let path = PathCase::Insensitive.fold(target::normalise(path)).into_owned();
            let family = text.split(':').next().unwrap();
            let expected = instance::tag(family, &[Some(&instance::value(&path[1..]))]);
            let parsed = Reference::parse(text, &names, Some(&[])).unwrap();
            for reference in [parsed, Reference::resolve(text, &names).unwrap()] {
                let mut found = Vec::new();
                reference.tags(&|_| None, CallerIdentity::Unknown, &mut found);
                assert!(found.len() == 1 && found[0] == expected, "{text}: {found:?}");
            }
        }
        assert!(Reference::resolve("grade:G", &names).unwrap_err().to_string().contains("\"G\" is no {id}"));
    }

    #[test]
    fn operators_are_told_of_instances_that_no_path_can_have() {
        let said = |text: &str| Reference::resolve(text, &names()).map_err(|fault| fault.to_string());
        let rows = [
            ("order:abc", "\"abc\" is no {id}"),
            ("order:7:z", "\"z\" is no {at}"),
            ("order:7:f:lines", "did you mean \"order:lines:f\"?"),
            ("user_details:7:*", "name \"user_details:7\": an instance has nothing below it"),
        ];
        for (text, expected) in rows {
            let said = said(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
        for text in ["order:7", "order:7:f", "order:*:f", "order:%37", "user_details:b ö%2Fb", "user_details:a:b"]
        {
            assert_eq!(said(text).err(), None, "{text}");
        }
    }

    #[test]
    fn a_reference_reaches_what_lies_below_it_and_its_own_instances() {
        let levels = [Tag::family("room"), Tag::family("room:plan")];
        let reaches =
            |text: &str, levels: &[Tag]| Reference::parse(text, &names(), Some(&["id"])).unwrap().reaches(levels);
        assert!(reaches("room", &levels) && reaches("*", &levels) && reaches("room:plan:{id}", &levels));
        assert!(!reaches("room:{id}:{id}", &levels));
        assert!(reaches("room:{id}:{id}", &levels[..1]));
        assert!(!reaches("room:plan", &levels[..1]));
        let reaches_7 = |text: &str| {
            let reference = Reference::parse(text, &names(), Some(&["id"])).unwrap();
            reference.reaches_instance(&levels[..1], &["7".to_owned(), "a%40b".to_owned()])
        };
        for text in ["room", "*", "room:7", "room:{id}", "room:7:{id}", "room:*:a@b", "room:7:a%40b"] {
            assert!(reaches_7(text), "{text}");
        }
        for text in ["room:8", "room:7:b", "room:8:{id}", "room:*:b", "room:plan"] {
            assert!(!reaches_7(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_reference_is_taken_or_refused(text in r"[a-d_:*{}]{0,12}|(room|user_details|booking)[:*{}id]{0,8}") {
            let _ = Reference::parse(&text, &names(), Some(&["id"]));
            let _ = Reference::resolve(&text, &names());
        }

        #[test]
        fn a_glob_fits_what_it_was_made_from(parts in proptest::collection::vec("[a-c]{0,3}", 1..4), filler in "[a-c]{0,3}") {
            prop_assert!(fits(&parts.join("*"), &parts.join(&filler)) || parts.len() == 1);
            prop_assert!(fits(&parts.join("*"), &parts.join("")));
        }
    }
}
