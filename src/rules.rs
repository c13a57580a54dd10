//! `rules.toml` compiled: [`RuleSet`], and the two questions asked of it on every request. Which family does this
//! path belong to, and which families does this write invalidate? Everything is checked when the file is read:
//! patterns are compiled, references resolved, faults reported all at once ([`fault`]).

use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method};
use smallvec::SmallVec;

use crate::http::clients::ClientCacheControl;
use crate::http::headers::{self, ForwardedPolicy, Meant, is_safe};
use crate::http::invalidation::StatusSet;
use crate::http::target::{PathCase, Readings, Target, with_plain_delimiters};
use crate::http::{Policy, TtlPolicy};
use crate::key::{self, FamilyKeySpec, Identity, KeySpec};
use crate::marks::Tag;
use crate::secret::Secret;

mod expand;
pub(crate) mod family;
pub mod fault;
mod instance;
mod instead;
mod invalidation;
mod language;
pub mod lint;
pub mod nearest;
mod notation;
pub mod pattern;
pub mod reader;
mod reference;
mod suffix;

pub use instance::CAPTURES;
pub(crate) use instance::decoded;
pub use lint::Warning;
pub use reference::UnknownFamily;

use pattern::{Pattern, PatternSet};
use reader::Table;
use reference::{Names, Reference};

/// All rules of one file.
#[derive(Debug, Default)]
pub struct RuleSet {
    families: Vec<Family>,
    invalidations: Vec<Invalidation>,
    family_paths: PatternSet,
    invalidation_paths: PatternSet,
    /// The invalidations that name safe methods, and their paths.
    by_safe_methods: (Vec<usize>, PatternSet),
    names: Names,
}

/// What is cached together and invalidated together.
#[derive(Debug)]
pub struct Family {
    /// Position in the file, from 0; also the index of its metrics.
    pub id: usize,
    /// `booking`, `booking:stats`.
    pub name: String,
    /// The pattern as written.
    pub path: String,
    /// Methods it is read with.
    pub methods: ReadMethods,
    /// Changes whenever the definition changes, so that entries made under another definition are not found.
    pub version: String,
    /// Storing and freshness.
    pub policy: Policy,
    /// What of a request is part of its key.
    pub key_spec: KeySpec,
    /// How what is missing is asked for.
    pub fetching: Fetching,
    /// Who shares a fetch of what is missing.
    pub collapse: Collapse,
    /// Largest body that is stored, bytes; the server's default if `None`.
    pub max_body: Option<u64>,
    /// Some rule with `refresh` can invalidate it.
    pub refreshed: bool,
    /// What clients are told of their own caches.
    pub client_cache_control: ClientCacheControl,
    /// Some rule names the entries of one caller in it (`{identity}`).
    pub told_by_caller: bool,
    /// `invalidation`: false if it is meant that no rule names it, so that its lifetime alone bounds its age.
    pub is_invalidated: bool,
    /// Line in the file, from 1.
    pub line: usize,
    /// The file says it.
    says_client_cache_control: bool,
    pattern: Pattern,
    /// Tags of the levels, from the topmost down to the family itself.
    levels: Vec<Tag>,
}

/// The methods whose responses a family keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadMethods {
    /// GET, and HEAD with it.
    pub get: bool,
    /// QUERY: safe, and with content that is part of the key.
    pub query: bool,
}

impl ReadMethods {
    /// Whether `method` is one of them.
    pub fn contain(self, method: &Method) -> bool {
        match method.as_str() {
            "GET" | "HEAD" => self.get,
            "QUERY" => self.query,
            _ => false,
        }
    }

    /// As `rules.toml` has them.
    pub fn names(self) -> Vec<&'static str> {
        let names = [(self.get, "GET"), (self.query, "QUERY")];
        names.into_iter().filter_map(|(is_read, name)| is_read.then_some(name)).collect()
    }

    /// Whether all of `others` are among them.
    fn covers(self, others: ReadMethods) -> bool {
        (self.get || !others.get) && (self.query || !others.query)
    }
}

/// How a family asks upstream, and how many answers to one question it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetching {
    /// Request fields that are brought into a normal form first ([`crate::http::negotiation`]).
    pub normalize: Vec<HeaderName>,
    /// How many variants of one response are kept.
    pub max_variants: usize,
    /// A request for a range of what is not stored fetches all of it.
    pub range_fetches_whole: bool,
    /// Only fields that the key knows are forwarded.
    pub keyed_only: bool,
}

impl Fetching {
    /// `range`, as `rules.toml` has it.
    pub fn range(&self) -> &'static str {
        if self.range_fetches_whole { "whole" } else { "forward" }
    }

    /// `forward`, as `rules.toml` has it.
    pub fn forward(&self) -> &'static str {
        if self.keyed_only { "keyed" } else { "all" }
    }
}

impl Default for Fetching {
    fn default() -> Fetching {
        Fetching { normalize: Vec::new(), max_variants: 64, range_fetches_whole: false, keyed_only: false }
    }
}

/// Who shares one fetch of what is missing: `collapse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collapse {
    /// Nobody: each request is a fetch of its own.
    Off,
    /// Requests to the same proxy.
    #[default]
    Proxy,
    /// Requests to all proxies on one store.
    Fleet,
}

impl Collapse {
    /// As `rules.toml` has it.
    pub fn word(self) -> &'static str {
        match self {
            Collapse::Off => "off",
            Collapse::Proxy => "proxy",
            Collapse::Fleet => "fleet",
        }
    }
}

/// Most readings of a path whose response is stored: an entry carries the tags of all of them.
const MOST_READINGS_OF_A_READ: usize = 16;

/// A path that upstream may take for one of another family.
#[derive(Debug)]
pub struct Ambiguity<'r> {
    /// The family of the path as it is.
    pub family: Option<&'r Family>,
    /// The readings that belong elsewhere, and their families.
    pub readings: Vec<(String, Option<&'r Family>)>,
    /// False if the path has more readings than a stored response may have.
    pub is_complete: bool,
}

/// A rule that maps writes to what they invalidate.
#[derive(Debug)]
pub struct Invalidation {
    /// The pattern as written.
    pub path: String,
    /// Methods it applies to.
    pub methods: WriteMethods,
    /// Answers on which it applies.
    pub on: StatusSet,
    /// Softly: what is invalidated may be served stale for this long, while a fresh one is fetched.
    pub grace: Option<Duration>,
    /// Once more after this time: upstream reads from replicas that lag behind.
    pub again: Option<Duration>,
    /// The hottest of what it invalidates is fetched again before anybody asks.
    pub refresh: bool,
    /// Families as written in the file, for people.
    pub families: Vec<String>,
    /// Line in the file, from 1.
    pub line: usize,
    pattern: Pattern,
    references: Vec<Reference>,
}

/// The methods that an invalidation applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteMethods {
    /// Every method that is not known to be safe.
    Unsafe,
    /// These. A safe one among them makes a write of what it is used for.
    These(Vec<Method>),
}

impl WriteMethods {
    /// Whether it applies to a write that may mean these methods.
    fn apply_to(&self, meant: &Meant) -> bool {
        match (self, meant) {
            (_, Meant::Any) => true,
            (WriteMethods::Unsafe, Meant::These(meant)) => !meant.iter().all(is_safe),
            (WriteMethods::These(methods), meant) => meant.overlaps(methods),
        }
    }

    fn names_safe(&self) -> bool {
        matches!(self, WriteMethods::These(methods) if methods.iter().any(is_safe))
    }

    /// Their names; `*` for every method that is not safe.
    pub fn names(&self) -> Vec<&str> {
        match self {
            WriteMethods::Unsafe => vec!["*"],
            WriteMethods::These(methods) => methods.iter().map(Method::as_str).collect(),
        }
    }
}

/// Who makes a write.
#[derive(Debug, Clone, Copy)]
pub enum CallerIdentity<'c> {
    /// Told by the fields of the request. `secret`: the key of the HMACs that credentials stand as.
    Known { fields: &'c HeaderMap, secret: Option<&'c Secret> },
    /// It may have been anybody.
    Unknown,
}

/// Values of a family's named captures in one path, in the order of the pattern; empty for one that took no part
/// in the match.
pub type Captures = SmallVec<[String; 2]>;

/// What a read is to the rules: a GET or HEAD, or a QUERY.
#[derive(Debug)]
pub struct RouteMatch<'r> {
    pub family: &'r Family,
    pub captures: Captures,
}

/// A write that an invalidation rule matches.
#[derive(Debug)]
pub struct MatchedRule<'r> {
    pub rule: &'r Invalidation,
    /// What it invalidates, captures filled in, none twice.
    pub tags: Vec<Tag>,
}

impl RuleSet {
    /// Reads `[[family]]` and `[invalidate]`. Faults go to the table's reader; only without any is the result of
    /// use.
    pub fn read(root: &mut Table<'_>, case: PathCase) -> RuleSet {
        let mut names = Names::new(case);
        let mut families = family::read(root, &mut names, case);
        let invalidations = invalidation::read(root, &names, case);
        for family in &mut families {
            if !family.says_client_cache_control && invalidations.iter().any(|rule| rule.reaches(family)) {
                family.client_cache_control = ClientCacheControl::NoCache;
            }
            family.refreshed = invalidations.iter().any(|rule| rule.refresh && rule.reaches(family));
            family.told_by_caller =
                invalidations.iter().flat_map(|rule| &rule.references).any(|it| it.names_callers_of(&family.name));
            family.version = family::version_of(family);
        }
        let family_paths = compile(root, "family", families.iter().map(|family| &family.pattern), case);
        let paths =
            |rules: &[&Invalidation]| compile(root, "invalidate", rules.iter().map(|rule| &rule.pattern), case);
        let invalidation_paths = paths(&invalidations.iter().collect::<Vec<_>>());
        let by_safe: Vec<(usize, &Invalidation)> =
            invalidations.iter().enumerate().filter(|(_, rule)| rule.methods.names_safe()).collect();
        let (at, by_safe): (Vec<usize>, Vec<&Invalidation>) = by_safe.into_iter().unzip();
        let by_safe_methods = (at, paths(&by_safe));
        RuleSet { families, invalidations, family_paths, invalidation_paths, by_safe_methods, names }
    }

    /// The families, in the order of the file.
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// The invalidations, in the order of the file.
    pub fn invalidations(&self) -> &[Invalidation] {
        &self.invalidations
    }

    /// Whether a family tells callers apart by this field.
    pub fn identify_by(&self, name: &HeaderName) -> bool {
        self.families
            .iter()
            .any(|family| matches!(&family.key_spec.identity, Identity::Header(known) if known == name))
    }

    /// The family of this name.
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families.iter().find(|family| family.name == name)
    }

    /// The family that a read of this normalised path belongs to: the first in the file that matches and is read
    /// with this method.
    pub fn route(&self, method: &Method, path: &str) -> Option<RouteMatch<'_>> {
        let family = self.family_at(method, path)?;
        Some(RouteMatch { family, captures: family.captures(path) })
    }

    /// Encoded or not, delimiters are the same. A pattern may tell them apart all the same (`[^:]+`).
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

    /// Why it is not certain whose answer a read of this path gets: upstream may take the path for another one, which
    /// belongs to another family. Such a read is not for the cache. None for almost every path.
    pub fn ambiguity(&self, method: &Method, target: &Target) -> Option<Ambiguity<'_>> {
        let readings = target.readings();
        if readings.count() == 1 {
            return None;
        }
        let family = self.family_at(method, &target.path);
        let id = |family: Option<&Family>| family.map(|family| family.id);
        // `/docs/` of a family `/docs/.*` is what the family says, whether or not upstream cuts the slash.
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

    /// Whether a request is a write: by its method, or because a rule names that method for what its path may be taken for.
    pub fn is_write(&self, method: &Method, target: &Target) -> bool {
        if !is_safe(method) {
            return true;
        }
        let (at, paths) = &self.by_safe_methods;
        if at.is_empty() {
            return false;
        }
        let meant = Meant::These(vec![method.clone()]);
        let is_named =
            |path| paths.matches(path).any(|found| self.invalidations[at[found]].methods.apply_to(&meant));
        target.readings().all().any(is_named)
    }

    /// Every invalidation that a write of this method to this normalised path matches, in the order of the file.
    pub fn invalidated_by(&self, method: &Method, path: &str) -> Vec<MatchedRule<'_>> {
        let target = Target { path: path.to_owned(), ..Target::default() };
        self.invalidated_by_any(&Meant::These(vec![method.clone()]), &[target], CallerIdentity::Unknown)
    }

    /// Every invalidation that a write matches in any of the ways upstream may take it: by each of `methods`, at each
    /// reading of its paths ([`Target::readings`]): its own, and that of its `Destination`. What matches in two ways alike
    /// comes once.
    pub fn invalidated_by_any(
        &self,
        methods: &Meant,
        targets: &[Target],
        caller: CallerIdentity<'_>,
    ) -> Vec<MatchedRule<'_>> {
        let mut matches: Vec<MatchedRule<'_>> = Vec::new();
        let readings: Vec<Readings<'_>> = targets.iter().map(Target::readings).collect();
        for path in readings.iter().flat_map(Readings::all) {
            let rules = self.invalidation_paths.matches(path).map(|at| &self.invalidations[at]);
            let applying = rules.filter(|rule| rule.methods.apply_to(methods));
            for invalidated in applying.map(|rule| rule.invalidated(path, caller)) {
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

    /// Tags of a family, level, glob or instance as an operator types it: `user_details:42`. The last value may
    /// contain `:`. Percent-encoded or not, a value is the same instance.
    pub fn resolve(&self, reference: &str) -> Result<Vec<Tag>, UnknownFamily> {
        let mut tags = Vec::new();
        Reference::resolve(reference, &self.names)?.tags(&|_| None, CallerIdentity::Unknown, &mut tags);
        Ok(tags)
    }

    /// The invalidations that can invalidate entries of this family.
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

impl Family {
    /// Tags of an entry with these captures: one for each level (`booking`, `booking:stats`), and the instance
    /// tags. The root tag and the path's own are the caller's.
    pub fn tags(&self, captures: &Captures) -> Vec<Tag> {
        let mut tags = self.levels.clone();
        instance::tags(&self.name, captures, &mut tags);
        tags
    }

    /// The same of a path, under all of its readings: a write may name any of the instances that upstream may take the
    /// path for.
    pub fn tags_of(&self, readings: &Readings<'_>, captures: &Captures) -> Vec<Tag> {
        let mut tags = self.tags(captures);
        for path in readings.others() {
            let mut further = Vec::new();
            instance::tags(&self.name, &self.captures(path), &mut further);
            further.retain(|tag| !tags.contains(tag));
            tags.append(&mut further);
        }
        tags
    }

    /// The tag of what one caller has in it, where a rule may name that and a request tells who asks.
    pub fn tag_of_caller(&self, fields: &HeaderMap, secret: Option<&Secret>) -> Option<Tag> {
        let caller =
            self.told_by_caller.then(|| key::caller(&self.key_spec.identity, fields, secret)).flatten()?;
        Some(Tag::caller(&self.name, &caller))
    }

    fn captures(&self, path: &str) -> Captures {
        let plain = with_plain_delimiters(path);
        let found = self.pattern.values(&plain);
        // As `RuleSet::family_at` chooses.
        let found = if found.is_empty() && *plain != *path { self.pattern.values(path) } else { found };
        found.iter().map(|(_, value)| value.unwrap_or("").to_owned()).collect()
    }

    /// `user_details:42`, for people and for readable keys in Redis: printable ASCII, at most 150 bytes.
    pub fn label(&self, captures: &Captures) -> String {
        instance::label(&self.name, captures)
    }

    /// What the family adds to the canonical text of a request.
    pub fn key_spec(&self) -> FamilyKeySpec<'_> {
        FamilyKeySpec { name: &self.name, version: &self.version, key_spec: &self.key_spec }
    }

    /// The request fields that are part of the key in one way or another.
    pub fn keyed_fields(&self) -> Vec<HeaderName> {
        let identity = match &self.key_spec.identity {
            Identity::Header(name) => Some(name.clone()),
            Identity::Unstated | Identity::Cookie(_) | Identity::Shared => None,
        };
        let cookie = self.cookies_sent().filter(|names| !names.is_empty()).map(|_| COOKIE);
        self.key_spec
            .headers
            .iter()
            .chain(&self.fetching.normalize)
            .cloned()
            .chain(identity)
            .chain(cookie)
            .collect()
    }

    /// The cookies that alone are sent; `None` if all are.
    fn cookies_sent(&self) -> Option<SmallVec<[&str; 8]>> {
        let identity = self.key_spec.identity_cookie();
        match &self.key_spec.cookies {
            Some(kept) => {
                let others = kept.iter().map(String::as_str).filter(|name| Some(*name) != identity);
                Some(identity.into_iter().chain(others).collect())
            }
            None if self.fetching.keyed_only => Some(identity.into_iter().collect()),
            None => None,
        }
    }

    /// `invalidation`, as `rules.toml` has it.
    pub fn invalidation(&self) -> &'static str {
        if self.is_invalidated { "rules" } else { "none" }
    }

    /// Whether a lifetime that upstream states wins over the family's ttl.
    pub fn may_be_overridden(&self) -> bool {
        self.policy.ttl.is_some() && self.policy.ttl_policy == TtlPolicy::Default
    }

    /// Its path, if there is but one.
    pub fn only_path(&self) -> Option<String> {
        self.pattern.only_text()
    }

    /// Names of its captures, in the order of the pattern.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.pattern.names()
    }
}

impl Invalidation {
    /// `mode`, as `rules.toml` has it.
    pub fn mode(&self) -> &'static str {
        if self.grace.is_some() { "soft" } else { "hard" }
    }

    /// How it invalidates, for people: `soft, grace 30s, again 5s`.
    pub fn manner(&self) -> String {
        let grace = self.grace.map(|grace| format!("soft, grace {}", humantime::format_duration(grace)));
        let mut parts = vec![grace.unwrap_or_else(|| "hard".to_owned())];
        parts.extend(self.again.map(|after| format!("again {}", humantime::format_duration(after))));
        parts.extend(self.refresh.then(|| "refresh".to_owned()));
        parts.join(", ")
    }

    /// Whether it can invalidate entries of this family.
    fn reaches(&self, family: &Family) -> bool {
        self.references.iter().any(|reference| reference.reaches(&family.levels))
    }

    fn invalidated(&self, path: &str, caller: CallerIdentity<'_>) -> MatchedRule<'_> {
        let values = self.pattern.values(path);
        let value_of = |name: &str| values.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value);
        let mut tags = Vec::new();
        for reference in &self.references {
            reference.tags(&value_of, caller, &mut tags);
        }
        MatchedRule { rule: self, tags }
    }
}

/// Leaves of a read's fields those that its answer may depend on: all that no upstream takes for another request, or,
/// if its family says so, only those that are part of the key. `forwarded`: as it came.
pub fn strip_read(fields: &mut HeaderMap, forwarded: ForwardedPolicy, family: Option<&Family>) {
    let keys_on = |name: &HeaderName| family.is_some_and(|family| family.key_spec.keys_on(name));
    headers::strip_unkeyed(fields, forwarded, keys_on);
    if let Some(family) = family.filter(|family| family.fetching.keyed_only) {
        headers::keep_keyed(fields, &family.keyed_fields());
    }
    // A family that keys on the field as a whole asks for all of it.
    let is_whole =
        |family: &&Family| family.key_spec.cookies.is_none() && family.key_spec.headers.contains(&COOKIE);
    if let Some(names) = family.filter(|family| !is_whole(family)).and_then(Family::cookies_sent) {
        headers::keep_cookies(fields, &names);
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
