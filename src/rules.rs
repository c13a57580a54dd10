//! `rules.toml` compiled: [`RuleSet`], and the two questions asked of it on every request. Which family does this
//! path belong to, and which families does this write outdate? Everything is checked when the file is read:
//! patterns are compiled, references resolved, faults reported all at once ([`fault`]).

use http::Method;
use smallvec::SmallVec;

use crate::key::Keying;
use crate::semantics::Policy;
use crate::semantics::invalidation::StatusSet;
use crate::stamp::Tag;

pub mod fault;

/// All rules of one file.
#[derive(Debug, Default)]
pub struct RuleSet {
    families: Vec<Family>,
    invalidations: Vec<Invalidation>,
}

/// What is cached together and outdated together.
#[derive(Debug)]
pub struct Family {
    /// Position in the file, from 0; also the index of its metrics.
    pub id: usize,
    /// `booking`, `booking:stats`.
    pub name: String,
    /// The pattern as written.
    pub path: String,
    /// Changes whenever the definition changes, so that entries made under another definition are not found.
    pub version: String,
    /// Storing and freshness.
    pub policy: Policy,
    /// What of a request is part of its key.
    pub keying: Keying,
    /// Largest body that is stored, bytes; the server's default if `None`.
    pub max_body: Option<u64>,
    /// Line in the file, from 1.
    pub line: usize,
    // … the compiled pattern
}

/// A rule that maps writes to what they outdate.
#[derive(Debug)]
pub struct Invalidation {
    /// The pattern as written.
    pub path: String,
    /// Methods it applies to.
    pub methods: Vec<Method>,
    /// Answers on which it applies.
    pub on: StatusSet,
    /// Families as written in the file, for people.
    pub families: Vec<String>,
    /// Line in the file, from 1.
    pub line: usize,
    // … the compiled pattern and the references
}

/// Values of a family's named captures in one path, in the order of the pattern.
pub type Captures = SmallVec<[String; 2]>;

/// What a GET or HEAD is to the rules.
#[derive(Debug)]
pub struct Claimed<'r> {
    pub family: &'r Family,
    pub captures: Captures,
}

/// A write that an invalidation rule matches.
#[derive(Debug)]
pub struct Outdated<'r> {
    pub rule: &'r Invalidation,
    /// What it outdates, captures filled in.
    pub tags: Vec<Tag>,
}
impl RuleSet {
    pub fn families(&self) -> &[Family] {
        &self.families
    }
    pub fn invalidations(&self) -> &[Invalidation] {
        &self.invalidations
    }
    pub fn claim(&self, _path: &str) -> Option<Claimed<'_>> {
        None
    }
    pub fn outdated_by(&self, _m: &Method, _path: &str) -> Vec<Outdated<'_>> {
        vec![]
    }
    pub fn resolve(&self, _r: &str) -> Result<Vec<Tag>, UnknownFamily> {
        todo!()
    }
    pub fn outdating(&self, _f: &Family) -> Vec<&Invalidation> {
        todo!()
    }
}
#[derive(Debug)]
pub struct UnknownFamily {
    pub nearest: Vec<String>,
}
impl Family {
    pub fn tags(&self, _c: &Captures) -> Vec<Tag> {
        todo!()
    }
    pub fn label(&self, _c: &Captures) -> String {
        todo!()
    }
    pub fn keying(&self) -> crate::key::FamilyKeying<'_> {
        todo!()
    }
}
