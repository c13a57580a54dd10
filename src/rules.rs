//! The compiled rules of `rules.toml`. [`RuleSet`] answers two questions per request: which family a path belongs to,
//! and which families a write invalidates. Loading checks everything: it compiles patterns, resolves references, and
//! reports all faults at once ([`fault`]).

use http::{HeaderMap, HeaderName, Method};

use crate::http::clients::ClientCacheControl;
use crate::http::headers::{Credentials, Meant, is_safe};
use crate::http::target::{PathCase, Readings, Target, with_plain_delimiters};
use crate::key::PresentedCredentials;
use crate::marks::Tag;
use crate::secret::Secret;

pub mod authorize;
pub mod content;
pub mod digest;
mod downstream;
mod expand;
pub(crate) mod family;
pub mod fault;
mod instance;
mod instead;
mod invalidation;
mod language;
mod lifetimes;
mod linear;
pub mod lint;
pub mod nearest;
mod notation;
pub mod pattern;
mod pattern_set;
pub mod post;
pub mod reader;
mod reference;
mod reuse;
mod source;
mod suffix;
pub mod thresholds;
mod unresolved;

pub use authorize::Authorize;
pub use family::{Collapse, Family, Fetching, ReadMethods, strip_read};
pub use instance::{CAPTURES, Captures, InstanceValues};
pub use invalidation::read::GRACE;
pub use invalidation::{Invalidation, MatchedRule, WriteMethods};
pub use lint::Warning;
pub use reference::{InstanceEverywhere, LeftOut, UnknownFamily, is_named_by};
pub use source::{CallerIdentity, FurtherInstance, ReadSource, WriteValues};
pub use unresolved::Unresolved;

use pattern::Pattern;
use pattern_set::PatternSet;
use reader::Table;
use reference::{FamilyNames, Reference, ReferencedTags};

/// All rules of one file.
#[derive(Debug, Default)]
pub struct RuleSet {
    families: Vec<Family>,
    /// How many of them the file states. The others are those of verdicts.
    stated: usize,
    invalidations: Vec<Invalidation>,
    family_paths: PatternSet,
    /// The paths of the families that are never cached, which come first.
    never_cached_paths: PatternSet,
    has_never_cached: bool,
    invalidation_paths: PatternSet,
    /// The indexes of the rules that name safe methods, and the set of their paths.
    by_safe_methods: (Vec<usize>, PatternSet),
    names: FamilyNames,
}

/// Most readings of a path whose response may be stored. An entry carries the tags of all its readings.
const MOST_READINGS_OF_A_READ: usize = 16;

/// A path that upstream may read as a path of another family.
#[derive(Debug)]
pub struct Ambiguity<'r> {
    /// The family of the path as received.
    pub family: Option<&'r Family>,
    /// The readings that belong to other families, with those families.
    pub readings: Vec<(String, Option<&'r Family>)>,
    /// False if the path has more readings than a stored response may have.
    pub is_complete: bool,
}

/// The family of a read, and its captures.
#[derive(Debug)]
pub struct RouteMatch<'r> {
    pub family: &'r Family,
    pub captures: Captures,
}

impl RuleSet {
    /// Reads `[[family]]` and `[invalidate]`. Faults go to the table's reader; the result is valid only if there are
    /// none.
    pub fn read(root: &mut Table<'_>, case: PathCase) -> RuleSet {
        let mut names = FamilyNames::new(case);
        let mut families = family::read::read(root, &mut names, case);
        let mut invalidations = invalidation::read::read(root, &names, &families, case);
        for rule in &mut invalidations {
            let reached = families.iter().filter(|family| rule.reaches(family));
            rule.reached = reached.map(|family| family.name.clone()).collect();
        }
        for family in &mut families {
            if !family.says_client_cache_control && invalidations.iter().any(|rule| rule.reaches(family)) {
                family.client_cache_control = ClientCacheControl::NoCache;
            }
            // A verdict belongs to one caller.
            family.counted =
                !family.is_of_verdicts() && invalidations.iter().any(|rule| rule.refresh && rule.reaches(family));
            family.is_invalidated_by_caller =
                invalidations.iter().flat_map(|rule| &rule.references).any(|it| it.names_callers_of(&family.name));
            family.definition = family::definition_of(family);
        }
        let stated = families.iter().filter(|family| !family.is_of_verdicts()).count();
        let patterns = families[..stated].iter().map(|family| &family.pattern);
        let family_paths = compile(root, "family", patterns, case);
        let never_cached = families.iter().filter(|family| family.is_never_cached);
        let has_never_cached = never_cached.clone().next().is_some();
        let never_cached_paths = compile(root, "family", never_cached.map(|family| &family.pattern), case);
        let paths =
            |rules: &[&Invalidation]| compile(root, "invalidate", rules.iter().map(|rule| &rule.pattern), case);
        let invalidation_paths = paths(&invalidations.iter().collect::<Vec<_>>());
        let by_safe: Vec<(usize, &Invalidation)> =
            invalidations.iter().enumerate().filter(|(_, rule)| rule.methods.names_safe()).collect();
        let (at, by_safe): (Vec<usize>, Vec<&Invalidation>) = by_safe.into_iter().unzip();
        let by_safe_methods = (at, paths(&by_safe));
        RuleSet {
            families,
            stated,
            invalidations,
            family_paths,
            never_cached_paths,
            has_never_cached,
            invalidation_paths,
            by_safe_methods,
            names,
        }
    }

    /// Has the hits of these families counted by request.
    pub fn count_reads_of<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        for name in names {
            self.families.iter_mut().filter(|family| family.name == name).for_each(|family| family.counted = true);
        }
    }

    /// The families: those that are never cached first, otherwise in file order; and then those of verdicts ([`authorize`]).
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The families that the file states.
    pub fn stated(&self) -> &[Family] {
        &self.families[..self.stated]
    }

    /// The rules, in file order.
    pub fn invalidations(&self) -> &[Invalidation] {
        &self.invalidations
    }

    /// Whether a family identifies callers by this field.
    pub fn identify_by(&self, name: &HeaderName) -> bool {
        self.families.iter().any(|family| family.key_spec.identity.is_by_field(name))
    }

    /// Whether a family identifies callers by claims of their tokens. Faulty families count too.
    pub fn identify_by_claims(&self) -> bool {
        self.names.identify_by_claims()
    }

    /// The family with this name.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.iter().find(|family| family.name == name)
    }

    /// The family of a read of this normalised path: the first in the file whose pattern matches and whose methods
    /// include `method`.
    pub fn route(&self, method: &Method, path: &str) -> Option<RouteMatch<'_>> {
        let family = self.family_at(method, path)?;
        Some(RouteMatch { family, captures: family.captures(path) })
    }

    /// Tries the path with plain delimiters first, so that encoded and plain delimiters match alike; then the path
    /// itself, since a pattern can distinguish them (`[^:]+`).
    fn family_at(&self, method: &Method, path: &str) -> Option<&Family> {
        let plain = with_plain_delimiters(path);
        self.family_matching(method, &plain).or_else(|| match *plain == *path {
            true => None,
            false => self.family_matching(method, path),
        })
    }

    fn family_matching(&self, method: &Method, path: &str) -> Option<&Family> {
        let mut matching = self.family_paths.matches(path).map(|at| &self.families[at]);
        matching.find(|family| family.methods.contain(method))
    }

    /// Whether a read of this normalised path is never cached. Of the other readings of the path, [`RuleSet::ambiguity`] judges.
    pub fn is_never_cached(&self, method: &Method, path: &str) -> bool {
        if !self.has_never_cached {
            return false;
        }
        let matches =
            |path: &str| self.never_cached_paths.matches(path).any(|at| self.families[at].methods.contain(method));
        let plain = with_plain_delimiters(path);
        matches(&plain) || *plain != *path && matches(path)
    }

    /// Returns the conflicting families if upstream may read the path as one of another family. Such a read bypasses
    /// the cache. `None` for almost every path.
    pub fn ambiguity(&self, method: &Method, target: &Target) -> Option<Ambiguity<'_>> {
        let readings = target.readings();
        if readings.count() == 1 {
            return None;
        }
        let family = self.family_at(method, &target.path);
        let id = |family: Option<&Family>| family.map(|family| family.id);
        // `/docs/` belongs to a family `/docs/.*` whether or not upstream strips the slash.
        let bare = target.path.trim_end_matches('/');
        let others = readings.others().map(|path| (path, self.family_at(method, path)));
        let differing: Vec<_> = others
            .filter(|(path, other)| id(*other) != id(family) && !(other.is_none() && *path == bare))
            .collect();
        let is_complete = readings.is_complete() && readings.count() <= MOST_READINGS_OF_A_READ;
        if is_complete && differing.is_empty() {
            return None;
        }
        let readings = differing.into_iter().map(|(path, family)| (path.to_owned(), family)).collect();
        Some(Ambiguity { family, readings, is_complete })
    }

    /// Whether a request is a write: its method is unsafe and not a POST that a family reads by, or a rule names its
    /// method for a reading of its path. Such a POST is still a write if [`post::is_read_as_sent`] says so.
    pub fn is_write(&self, method: &Method, target: &Target) -> bool {
        if !is_safe(method) {
            return *method != Method::POST || !self.is_read_by_post(target);
        }
        let (at, paths) = &self.by_safe_methods;
        if at.is_empty() {
            return false;
        }
        let meant = Meant::These(vec![method.clone()]);
        let readings = target.readings();
        let is_named = |path| {
            let mut rules = paths.matches(path).map(|found| &self.invalidations[at[found]]);
            rules.any(|rule| rule.methods.apply_to(&meant) && !rule.excepts(&readings))
        };
        readings.all().any(is_named)
    }

    /// The rules that a write with this method to this normalised path matches, in file order.
    pub fn invalidated_by(&self, method: &Method, path: &str) -> Vec<MatchedRule<'_>> {
        let target = Target { path: path.to_owned(), ..Target::default() };
        self.invalidated_by_any(&Meant::These(vec![method.clone()]), &[target], WriteValues::UNKNOWN)
    }

    /// The rules that a write matches however upstream may read it: as any of `methods`, at any reading
    /// ([`Target::readings`]) of any of `targets` (its own path and its `Destination`). A rule that two readings
    /// match with the same tags occurs once. A rule does not apply to a target all of whose readings it excepts.
    pub fn invalidated_by_any(
        &self,
        methods: &Meant,
        targets: &[Target],
        values: WriteValues<'_>,
    ) -> Vec<MatchedRule<'_>> {
        let mut matches: Vec<MatchedRule<'_>> = Vec::new();
        let readings: Vec<Readings<'_>> = targets.iter().map(Target::readings).collect();
        for (readings, path) in
            readings.iter().flat_map(|readings| readings.all().map(move |path| (readings, path)))
        {
            let rules = self.invalidation_paths.matches(path).map(|at| &self.invalidations[at]);
            let applying = rules.filter(|rule| rule.methods.apply_to(methods) && !rule.excepts(readings));
            for invalidated in applying.map(|rule| rule.invalidated(path, values)) {
                let is_known = |known: &MatchedRule<'_>| {
                    std::ptr::eq(known.rule, invalidated.rule) && known.tags == invalidated.tags
                };
                if !matches.iter().any(is_known) {
                    matches.push(invalidated);
                }
            }
        }
        matches
    }

    /// The tags of a family, level, glob or instance that an operator typed, such as `user_details:42`. The last
    /// value may contain `:`. Percent-encoded and plain spellings name the same instance.
    /// `secret` keys digests of callers.
    pub fn resolve(&self, reference: &str, secret: Option<&Secret>) -> Result<Vec<Tag>, UnknownFamily> {
        let mut found = ReferencedTags::default();
        let (fields, credentials) = (HeaderMap::new(), Credentials::default());
        let presented = PresentedCredentials::without_token(&fields);
        let caller = CallerIdentity::Known { presented, secret, credentials: &credentials };
        let write = WriteValues { caller, ..WriteValues::UNKNOWN };
        Reference::resolve(reference, &self.names)?.tags(&|_| None, write, &mut found);
        Ok(found.tags)
    }

    /// The instances with this name, or this name and `_id`, and this value, in all families that have one. `secret` keys digests
    /// of callers. `Err`: the names of instances that there are, or the most similar ones.
    pub fn instance_everywhere(
        &self,
        name: &str,
        value: &str,
        secret: Option<&Secret>,
    ) -> Result<InstanceEverywhere, Vec<String>> {
        Reference::everywhere(name, value, &self.names, secret)
    }

    /// The rules that can invalidate entries of this family.
    pub fn invalidating(&self, family: &Family) -> Vec<&Invalidation> {
        self.invalidations.iter().filter(|rule| rule.reaches(family)).collect()
    }

    /// Those of them that can invalidate the entry with these captures.
    pub fn invalidating_instance(&self, family: &Family, captures: &Captures) -> Vec<&Invalidation> {
        let reaches = |rule: &&Invalidation| {
            let mut references = rule.references.iter();
            references.any(|reference| reference.reaches_instance(&family.levels, captures))
        };
        self.invalidations.iter().filter(reaches).collect()
    }
}

fn compile<'p>(
    root: &Table<'_>,
    key: &str,
    patterns: impl Iterator<Item = &'p Pattern>,
    case: PathCase,
) -> PatternSet {
    PatternSet::build(patterns, case).unwrap_or_else(|| {
        let message = format!("{key}: the patterns are too large together");
        root.reader().fault(root.span(), message, "lower the {…} counts in them");
        PatternSet::default()
    })
}

#[cfg(test)]
mod tests;
