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

use http::HeaderName;
use serde::Serialize;
use smallvec::SmallVec;

use super::instance;
use super::source::{CallerIdentity, WriteSource, WriteValues};
use super::unresolved::Unresolved;
use crate::bearer::{BearerToken, TokenFault};
use crate::http::target::{PathCase, percent_decoded};
use crate::key::{self, Callers, Identity};
use crate::marks::Tag;
use crate::secret::Secret;

mod check;
mod fault;
mod names;
mod operator;
mod parse;

pub use fault::{ReferenceFault, UnknownFamily};
pub use names::FamilyNames;
pub use parse::is_named_by;

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

impl Reference {
    /// The families that it means and leaves out, since no value of a write names the instance there.
    pub fn left_out(&self) -> &[LeftOut] {
        &self.left_out
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
    let values = values.iter().filter_map(|value| String::from_utf8(percent_decoded(value)).ok());
    Ok(values.flat_map(|value| in_tags(&value, secret)).collect())
}

/// The callers whose claim has this plain value, as written in tags.
fn in_tags(value: &str, secret: Option<&Secret>) -> Vec<String> {
    let callers = key::callers_of_claim(value, secret);
    callers.iter().map(|caller| instance::decoded_value(caller.as_bytes())).collect()
}

#[cfg(test)]
mod tests;
