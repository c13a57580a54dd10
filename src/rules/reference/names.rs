//! The families that references can name.

use std::collections::BTreeMap;

use super::super::nearest::nearest;
use super::super::pattern::Values;
use super::super::source::{FurtherInstance, ReadSource};
use crate::http::target::PathCase;
use crate::key::Identity;

/// The names of all families and of the levels above them, each with its captures.
#[derive(Debug, Default)]
pub struct FamilyNames {
    pub(super) known: BTreeMap<String, KnownName>,
    /// The identity of each family that identifies callers.
    pub(super) identities: Vec<(String, Identity)>,
    /// The instances of each family that has others than its captures.
    pub(super) further: BTreeMap<String, Vec<FurtherInstance>>,
    /// Whether values that differ only in case are different.
    case: PathCase,
}

#[derive(Debug)]
pub(super) enum KnownName {
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

    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// The longest known name that the text starts with, and the rest: empty, or `:part:part`.
    pub(super) fn split<'r>(&self, text: &'r str) -> Option<(&'r str, &KnownName, &'r str)> {
        let mut ends = text.match_indices(':').map(|(end, _)| end).chain([text.len()]);
        let longest = ends.rfind(|end| self.known.contains_key(&text[..*end]))?;
        Some((&text[..longest], self.known.get(&text[..longest])?, &text[longest..]))
    }

    /// The families below this one that have instances.
    pub(super) fn below<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n str> {
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
    pub(super) fn instances<'n>(&'n self, family: &str) -> Option<Vec<&'n str>> {
        match self.known.get(family)? {
            KnownName::Family(Some(captures)) => Some(captures.iter().map(Values::name).collect()),
            KnownName::Family(None) | KnownName::Level => None,
        }
    }

    /// The source of an instance; `None` for a capture.
    pub(super) fn source(&self, family: &str, name: &str) -> Option<&ReadSource> {
        self.further.get(family)?.iter().find(|further| further.name == name).map(|further| &further.source)
    }

    pub(super) fn identity(&self, family: &str) -> Option<&Identity> {
        self.identities.iter().find(|(name, _)| name == family).map(|(_, identity)| identity)
    }

    /// Whether the instance is the caller, whom a plain value can name: the digest of the value is made as that of a request.
    pub(super) fn is_claim(&self, family: &str, instance: &str) -> bool {
        self.source(family, instance) == Some(&ReadSource::Identity)
            && self.why_unnamed(family, instance).is_none()
    }

    /// Why no plain value names this instance; `None` if one does.
    pub(super) fn why_unnamed(&self, family: &str, instance: &str) -> Option<String> {
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
    pub(super) fn all_instances(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.known.keys().filter_map(|name| self.instances(name)).flatten().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The families with an instance of this name, and its place there.
    pub(super) fn with_instance<'n>(&'n self, name: &'n str) -> impl Iterator<Item = (&'n str, usize)> {
        self.known.keys().filter_map(move |family| {
            let at = self.instances(family)?.iter().position(|known| *known == name)?;
            Some((family.as_str(), at))
        })
    }

    pub(super) fn nearest(&self, text: &str) -> Vec<String> {
        nearest(text, self.all()).into_iter().map(str::to_owned).collect()
    }
}

impl KnownName {
    /// Most captures that an instance can name; `None` if unknown.
    pub(super) fn room(&self) -> Option<usize> {
        match self {
            KnownName::Level => Some(0),
            KnownName::Family(captures) => captures.as_ref().map(Vec::len),
        }
    }
}
