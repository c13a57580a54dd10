//! A rule that maps writes to the families that they invalidate.

use std::time::Duration;

use http::{HeaderName, Method};

use super::content::ContentPlace;
use super::family::Family;
use super::pattern::Pattern;
use super::reference::{Reference, ReferencedTags};
use super::source::{WriteSource, WriteValues};
use super::unresolved::Unresolved;
use crate::bearer::{BearerToken, TokenFault};
use crate::http::headers::{Meant, is_safe};
use crate::http::invalidation::StatusSet;
use crate::http::target::Readings;
use crate::marks::Tag;

pub(super) mod read;

/// A rule that maps writes to the families they invalidate.
#[derive(Debug)]
pub struct Invalidation {
    /// The pattern as written.
    pub path: String,
    /// The methods the rule applies to.
    pub methods: WriteMethods,
    /// The response statuses the rule applies to.
    pub on: StatusSet,
    /// Set for soft invalidation: how long an invalidated response may be served stale while it is refetched.
    pub grace: Option<Duration>,
    /// Delay of a second invalidation, for upstreams that read from replicas with replication lag.
    pub again: Option<Duration>,
    /// Whether the hottest invalidated entries are fetched again before a client requests them.
    pub refresh: bool,
    /// The references as written in the file.
    pub families: Vec<String>,
    /// Names of the families that it can invalidate.
    pub reached: Vec<String>,
    /// Patterns over the paths of writes that it does not apply to, as written.
    pub except: Vec<String>,
    /// Line in the file, from 1.
    pub line: usize,
    pub(super) pattern: Pattern,
    exceptions: Vec<Pattern>,
    pub(super) references: Vec<Reference>,
}

/// The methods that a rule applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteMethods {
    /// Every method that is not safe.
    Unsafe,
    /// The listed methods. A request with a listed safe method counts as a write.
    These(Vec<Method>),
}

/// A rule that a write matches.
#[derive(Debug, Clone)]
pub struct MatchedRule<'r> {
    pub rule: &'r Invalidation,
    /// The tags it invalidates, with values filled in and without duplicates.
    pub tags: Vec<Tag>,
    /// References without a value, such as `user:{body.id}`, which invalidate all of their families.
    pub unresolved: Vec<(String, Unresolved)>,
}

impl Invalidation {
    /// The value of `mode` in `rules.toml`.
    pub fn mode(&self) -> &'static str {
        if self.grace.is_some() { "soft" } else { "hard" }
    }

    /// How it invalidates, for reports: `soft, grace 30s, again 5s`.
    pub fn manner(&self) -> String {
        let grace = self.grace.map(|grace| format!("soft, grace {}", humantime::format_duration(grace)));
        let mut parts = vec![grace.unwrap_or_else(|| "hard".to_owned())];
        parts.extend(self.again.map(|after| format!("again {}", humantime::format_duration(after))));
        parts.extend(self.refresh.then(|| "refresh".to_owned()));
        parts.extend((!self.except.is_empty()).then(|| format!("except {}", self.except.join(" "))));
        parts.join(", ")
    }

    /// Whether it can invalidate entries of this family.
    pub(super) fn reaches(&self, family: &Family) -> bool {
        self.references.iter().any(|reference| reference.reaches(&family.levels))
    }

    /// The request fields that it takes values from.
    pub fn fields_of_tags(&self) -> impl Iterator<Item = &HeaderName> {
        self.references.iter().flat_map(Reference::fields)
    }

    /// The places in the content of the request that it takes values from.
    pub fn places_in_content(&self) -> impl Iterator<Item = &ContentPlace> {
        self.references.iter().flat_map(Reference::sources).filter_map(|source| match source {
            WriteSource::Body(place) => Some(place),
            _ => None,
        })
    }

    /// The places in the content of the response that it takes values from.
    pub fn places_in_response(&self) -> impl Iterator<Item = &ContentPlace> {
        self.references.iter().flat_map(Reference::sources).filter_map(|source| match source {
            WriteSource::Response(place) => Some(place),
            _ => None,
        })
    }

    /// Whether it does not apply to a target: each reading is an exception, so that upstream cannot take the path for
    /// another.
    pub(super) fn excepts(&self, readings: &Readings<'_>) -> bool {
        let is_excepted = |path| self.exceptions.iter().any(|pattern| pattern.is_match(path));
        !self.exceptions.is_empty() && readings.is_complete() && readings.all().all(is_excepted)
    }

    /// Why the bearer token of a write does not identify its caller, if the rule names the callers of writes (`{identity}`) in
    /// a family that identifies them by claims: it invalidates the whole family then.
    pub fn fault_of_caller(&self, bearer: &BearerToken) -> Option<TokenFault> {
        self.references.iter().find_map(|reference| reference.fault_of_caller(bearer))
    }

    pub(super) fn invalidated(&self, path: &str, write: WriteValues<'_>) -> MatchedRule<'_> {
        let values = self.pattern.values(path);
        let value_of = |name: &str| values.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value);
        let mut found = ReferencedTags::default();
        for reference in &self.references {
            reference.tags(&value_of, write, &mut found);
        }
        MatchedRule { rule: self, tags: found.tags, unresolved: found.unresolved }
    }
}

impl WriteMethods {
    /// Whether the rule applies to a write that upstream may execute as any of these methods.
    pub(super) fn apply_to(&self, meant: &Meant) -> bool {
        match (self, meant) {
            (_, Meant::Any) => true,
            (WriteMethods::Unsafe, Meant::These(meant)) => !meant.iter().all(is_safe),
            (WriteMethods::These(methods), meant) => meant.overlaps(methods),
        }
    }

    pub(super) fn names_safe(&self) -> bool {
        matches!(self, WriteMethods::These(methods) if methods.iter().any(is_safe))
    }

    /// Their names; `*` stands for every unsafe method.
    pub fn names(&self) -> Vec<&str> {
        match self {
            WriteMethods::Unsafe => vec!["*"],
            WriteMethods::These(methods) => methods.iter().map(Method::as_str).collect(),
        }
    }
}
