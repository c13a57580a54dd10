//! The compiled rules of `rules.toml`. [`RuleSet`] answers two questions per request: which family a path belongs to,
//! and which families a write invalidates. Loading checks everything: it compiles patterns, resolves references, and
//! reports all faults at once ([`fault`]).

use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use smallvec::SmallVec;

use crate::bearer::{BearerToken, TokenFault};
use crate::http::clients::ClientCacheControl;
use crate::http::headers::{self, Credentials, ForwardedPolicy, Meant, is_safe};
use crate::http::invalidation::StatusSet;
use crate::http::target::{PathCase, Readings, Target, with_plain_delimiters};
use crate::http::{Policy, TtlPolicy};
use crate::key::{self, Callers, FamilyKeySpec, KeySpec, PresentedCredentials};
use crate::marks::Tag;
use crate::secret::Secret;

pub mod authorize;
pub mod content;
mod downstream;
mod expand;
pub(crate) mod family;
pub mod fault;
mod instance;
mod instead;
mod invalidation;
mod language;
mod lifetimes;
pub mod lint;
pub mod nearest;
mod notation;
pub mod pattern;
pub mod post;
pub mod reader;
mod reference;
mod reuse;
mod source;
mod suffix;
pub mod thresholds;

pub use authorize::Authorize;
pub use instance::CAPTURES;
pub(crate) use instance::decoded;
pub use lint::Warning;
pub use reference::{InstanceEverywhere, LeftOut, UnknownFamily};
pub use source::{FurtherInstance, Unresolved, WriteValues};

use content::Place;
use pattern::{Pattern, PatternSet};
use reader::Table;
use reference::{FamilyNames, Reference, ReferencedTags};
use source::WriteSource;
use thresholds::FamilyThresholds;

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

/// Responses that share caching settings and are invalidated together.
#[derive(Debug)]
pub struct Family {
    /// Position in [`RuleSet::families`], from 0. Also indexes the family's metrics.
    pub id: usize,
    /// Such as `booking` or `booking:stats`.
    pub name: String,
    /// The pattern as written.
    pub path: String,
    /// Methods whose responses are stored.
    pub methods: ReadMethods,
    /// `cache = "never"`: requests for its paths are forwarded, and their responses are not stored.
    pub is_never_cached: bool,
    /// Changes with the definition, so that entries stored under an older definition are not found.
    pub definition: String,
    /// `version`: a part of the definition that changes only when the operator says so.
    pub version: Option<String>,
    /// Storage and freshness settings.
    pub policy: Policy,
    /// The parts of a request that belong to its cache key.
    pub key_spec: KeySpec,
    /// Its instances beside the captures of its path.
    pub instances: Vec<FurtherInstance>,
    /// How a fetch is made on a miss.
    pub fetching: Fetching,
    /// Which requests share a fetch on a miss.
    pub collapse: Collapse,
    /// Largest stored body, in bytes; `None` means the server's default.
    pub max_body: Option<u64>,
    /// How long upstream may take to answer before a stale response is served instead, where it may be served while
    /// upstream does not answer at all ([`Policy::stale_if_unreachable`]). `None`: until the request fails.
    pub stale_while_slow: Option<Duration>,
    /// Whether the response to a PUT or PATCH on a path of this family is what a GET would bring, so that it is stored.
    pub write_through: bool,
    /// Whether bodies are compressed in Redis; `None` means as `[store]` says.
    pub compress: Option<bool>,
    /// Whether its hits are counted by request: a rule with `refresh` can invalidate it, or `[[warm]]` names it.
    pub counted: bool,
    /// The `Cache-Control` that clients receive.
    pub client_cache_control: ClientCacheControl,
    /// The `CDN-Cache-Control` that clients receive in place of upstream's.
    pub cdn_cache_control: Option<HeaderValue>,
    /// Whether a rule invalidates the entries of one caller in this family (`{identity}`).
    pub told_by_caller: bool,
    /// False for `invalidation = "none"`: no rule may name the family, and only its lifetime bounds the age of its
    /// entries.
    pub is_invalidated: bool,
    /// Whether the API is asked if it authorizes the caller, before a stored response is used.
    pub authorize: Option<Authorize>,
    /// Thresholds of its alerts.
    pub alerts: FamilyThresholds,
    /// Line in the file, from 1.
    pub line: usize,
    /// Whether the file sets `client_cache_control`.
    says_client_cache_control: bool,
    pattern: Pattern,
    /// Tags of its levels, from the topmost down to the family itself.
    levels: Vec<Tag>,
}

/// The methods whose responses a family stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadMethods {
    /// GET and HEAD.
    pub get: bool,
    /// QUERY: safe, and its content is part of the cache key.
    pub query: bool,
    /// POST, where it is a read ([`post`]): its content is part of the cache key.
    pub post: bool,
}

impl ReadMethods {
    /// Whether `method` is one of them.
    pub fn contain(self, method: &Method) -> bool {
        match method.as_str() {
            "GET" | "HEAD" => self.get,
            "QUERY" => self.query,
            "POST" => self.post,
            _ => false,
        }
    }

    /// The names used in `rules.toml`.
    pub fn names(self) -> Vec<&'static str> {
        let names = [(self.get, "GET"), (self.query, "QUERY"), (self.post, "POST")];
        names.into_iter().filter_map(|(is_read, name)| is_read.then_some(name)).collect()
    }

    /// Whether `self` includes all of `others`.
    fn covers(self, others: ReadMethods) -> bool {
        (self.get || !others.get) && (self.query || !others.query) && (self.post || !others.post)
    }
}

/// How a family fetches from upstream, and how many variants it stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetching {
    /// Request fields that are normalised first ([`crate::http::negotiation`]).
    pub normalize: Vec<HeaderName>,
    /// Largest number of stored variants per resource.
    pub max_variants: usize,
    /// Whether a range request on a miss fetches the whole representation.
    pub range_fetches_whole: bool,
    /// Whether only fields in the cache key are forwarded.
    pub keyed_only: bool,
}

impl Fetching {
    /// The value of `range` in `rules.toml`.
    pub fn range(&self) -> &'static str {
        if self.range_fetches_whole { "whole" } else { "forward" }
    }

    /// The value of `forward` in `rules.toml`.
    pub fn forward(&self) -> &'static str {
        if self.keyed_only { "keyed" } else { "all" }
    }
}

impl Default for Fetching {
    fn default() -> Fetching {
        Fetching { normalize: Vec::new(), max_variants: 64, range_fetches_whole: false, keyed_only: false }
    }
}

/// Which requests share one fetch on a miss (`collapse`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collapse {
    /// None: every request fetches for itself.
    Off,
    /// Requests to the same proxy.
    #[default]
    Proxy,
    /// Requests to all proxies that share a store.
    Fleet,
}

impl Collapse {
    /// The value in `rules.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Collapse::Off => "off",
            Collapse::Proxy => "proxy",
            Collapse::Fleet => "fleet",
        }
    }
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
    pattern: Pattern,
    exceptions: Vec<Pattern>,
    references: Vec<Reference>,
}

/// The methods that a rule applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteMethods {
    /// Every method that is not safe.
    Unsafe,
    /// The listed methods. A request with a listed safe method counts as a write.
    These(Vec<Method>),
}

impl WriteMethods {
    /// Whether the rule applies to a write that upstream may execute as any of these methods.
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

    /// Their names; `*` stands for every unsafe method.
    pub fn names(&self) -> Vec<&str> {
        match self {
            WriteMethods::Unsafe => vec!["*"],
            WriteMethods::These(methods) => methods.iter().map(Method::as_str).collect(),
        }
    }
}

/// The caller of a write, used to resolve `{identity}`.
#[derive(Debug, Clone, Copy)]
pub enum CallerIdentity<'c> {
    /// Identified by the credentials that it presents. `secret` keys the HMACs that replace credentials.
    /// `credentials` says which fields carry credentials.
    Known { presented: PresentedCredentials<'c>, secret: Option<&'c Secret>, credentials: &'c Credentials },
    /// Unknown: a write by any caller.
    Unknown,
}

impl<'c> CallerIdentity<'c> {
    /// The fields of the request, if they are known.
    pub fn fields(self) -> Option<&'c HeaderMap> {
        match self {
            CallerIdentity::Known { presented, .. } => Some(presented.fields),
            CallerIdentity::Unknown => None,
        }
    }
}

/// Values of a family's named captures in one path, in pattern order. A capture that took no part in the match is
/// empty.
pub type Captures = SmallVec<[String; 2]>;

/// For each of a family's instances beside its captures, the values in one request, as written in tags. Empty in a family
/// without such instances.
pub type InstanceValues = Vec<Vec<String>>;

/// The family of a read, and its captures.
#[derive(Debug)]
pub struct RouteMatch<'r> {
    pub family: &'r Family,
    pub captures: Captures,
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

impl RuleSet {
    /// Reads `[[family]]` and `[invalidate]`. Faults go to the table's reader; the result is valid only if there are
    /// none.
    pub fn read(root: &mut Table<'_>, case: PathCase) -> RuleSet {
        let mut names = FamilyNames::new(case);
        let mut families = family::read(root, &mut names, case);
        let mut invalidations = invalidation::read(root, &names, &families, case);
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
            family.told_by_caller =
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

impl Family {
    /// The tags of an entry with these captures: one per level (`booking`, `booking:stats`), and the instance tags.
    /// The caller adds the root tag and the path's own tag.
    pub fn tags(&self, captures: &Captures) -> Vec<Tag> {
        let mut tags = self.levels.clone();
        instance::tags(&self.name, captures, &mut tags);
        tags
    }

    /// The values of its instances beside its captures in a read. `None`: a response to it would have more tags than one
    /// may have, for all readings of its path together.
    pub fn instance_values(
        &self,
        target: &Target,
        presented: PresentedCredentials<'_>,
        secret: Option<&Secret>,
    ) -> Option<InstanceValues> {
        let credentials = Credentials::default();
        let caller =
            (&self.key_spec.identity, CallerIdentity::Known { presented, secret, credentials: &credentials });
        let query = target.query.as_deref();
        let values = |further: &FurtherInstance| further.source.values(query, caller, self.pattern.case());
        let values: InstanceValues = self.instances.iter().map(values).collect::<Option<_>>()?;
        let of_each = instance::count_of_all(self.capture_names().count(), &values);
        (of_each.saturating_mul(target.readings().count()) <= instance::TAGS).then_some(values)
    }

    /// The tags of a path under all of its readings, since a write may name any instance that upstream may read the
    /// path as.
    pub fn tags_of(&self, readings: &Readings<'_>, captures: &Captures, values: &InstanceValues) -> Vec<Tag> {
        if !values.is_empty() {
            let mut tags = self.levels.clone();
            instance::tags_of_all(&self.name, captures, values, &mut tags);
            for path in readings.others() {
                instance::tags_of_all(&self.name, &self.captures(path), values, &mut tags);
            }
            return tags;
        }
        let mut tags = self.tags(captures);
        for path in readings.others() {
            let mut further = Vec::new();
            instance::tags(&self.name, &self.captures(path), &mut further);
            further.retain(|tag| !tags.contains(tag));
            tags.append(&mut further);
        }
        tags
    }

    /// The tags for the entries of the request's callers, if a rule can name them and the request identifies callers.
    pub fn tags_of_identity(
        &self,
        presented: PresentedCredentials<'_>,
        secret: Option<&Secret>,
    ) -> SmallVec<[Tag; 1]> {
        if !self.told_by_caller {
            return SmallVec::new();
        }
        match key::callers(&self.key_spec.identity, presented, secret) {
            Callers::Known(callers) => callers.iter().map(|caller| Tag::caller(&self.name, caller)).collect(),
            Callers::Unverified => SmallVec::new(),
        }
    }

    fn captures(&self, path: &str) -> Captures {
        let plain = with_plain_delimiters(path);
        let found = self.pattern.values(&plain);
        // Same choice as in `RuleSet::family_at`.
        let found = if found.is_empty() && *plain != *path { self.pattern.values(path) } else { found };
        found.iter().map(|(_, value)| value.unwrap_or("").to_owned()).collect()
    }

    /// A label such as `user_details:42` for reports and readable Redis keys: printable ASCII, at most 150 bytes.
    /// Of several values of an instance it has the first, and `-` for none; the caller's digest is left out.
    pub fn label(&self, captures: &Captures, values: &InstanceValues) -> String {
        if values.is_empty() {
            return instance::label(&self.name, captures);
        }
        let is_shown = |further: &FurtherInstance| further.source != source::ReadSource::Identity;
        let shown = self.instances.iter().zip(values).filter(|(further, _)| is_shown(further));
        let shown = shown.map(|(_, values)| values.first().cloned().unwrap_or_else(|| "-".to_owned()));
        let all: Vec<String> = captures.iter().cloned().chain(shown).collect();
        instance::label(&self.name, &all)
    }

    /// The family's part of the canonical request text.
    pub fn key_spec(&self) -> FamilyKeySpec<'_> {
        FamilyKeySpec { name: &self.name, definition: &self.definition, key_spec: &self.key_spec }
    }

    /// The request fields that are part of the cache key, directly or through a cookie.
    pub fn keyed_fields(&self) -> Vec<HeaderName> {
        let identity = &self.key_spec.identity;
        let token = identity.is_by_claims().then_some(AUTHORIZATION);
        let identity = identity.fields().cloned().chain(token);
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

    /// The only cookies that are forwarded; `None` if all are.
    fn cookies_sent(&self) -> Option<SmallVec<[&str; 8]>> {
        let identity = || self.key_spec.identity.cookies();
        match &self.key_spec.cookies {
            Some(kept) => {
                let is_other = |name: &&str| !identity().any(|known| known == *name);
                Some(identity().chain(kept.iter().map(String::as_str).filter(is_other)).collect())
            }
            None if self.fetching.keyed_only => Some(identity().collect()),
            None => None,
        }
    }

    /// The value of `invalidation` in `rules.toml`.
    pub fn invalidation(&self) -> &'static str {
        if self.is_invalidated { "rules" } else { "none" }
    }

    /// Whether an explicit lifetime from upstream wins over the family's ttl.
    pub fn may_be_overridden(&self) -> bool {
        self.policy.ttl.is_some() && self.policy.ttl_policy == TtlPolicy::Default
    }

    /// Its path, if its pattern matches exactly one.
    pub fn only_path(&self) -> Option<String> {
        self.pattern.only_text()
    }

    /// Names of its captures, in pattern order.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.pattern.names()
    }
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
    fn reaches(&self, family: &Family) -> bool {
        self.references.iter().any(|reference| reference.reaches(&family.levels))
    }

    /// The request fields that it takes values from.
    pub fn fields_of_tags(&self) -> impl Iterator<Item = &HeaderName> {
        self.references.iter().flat_map(Reference::fields)
    }

    /// The places in the content of the request that it takes values from.
    pub fn places_in_content(&self) -> impl Iterator<Item = &Place> {
        self.references.iter().flat_map(Reference::sources).filter_map(|source| match source {
            WriteSource::Body(place) => Some(place),
            _ => None,
        })
    }

    /// The places in the content of the response that it takes values from.
    pub fn places_in_response(&self) -> impl Iterator<Item = &Place> {
        self.references.iter().flat_map(Reference::sources).filter_map(|source| match source {
            WriteSource::Response(place) => Some(place),
            _ => None,
        })
    }

    /// Whether it does not apply to a target: each reading is an exception, so that upstream cannot take the path for
    /// another.
    fn excepts(&self, readings: &Readings<'_>) -> bool {
        let is_excepted = |path| self.exceptions.iter().any(|pattern| pattern.is_match(path));
        !self.exceptions.is_empty() && readings.is_complete() && readings.all().all(is_excepted)
    }

    /// Why the bearer token of a write does not identify its caller, if the rule names the callers of writes (`{identity}`) in
    /// a family that identifies them by claims: it invalidates the whole family then.
    pub fn fault_of_caller(&self, bearer: &BearerToken) -> Option<TokenFault> {
        self.references.iter().find_map(|reference| reference.fault_of_caller(bearer))
    }

    fn invalidated(&self, path: &str, write: WriteValues<'_>) -> MatchedRule<'_> {
        let values = self.pattern.values(path);
        let value_of = |name: &str| values.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value);
        let mut found = ReferencedTags::default();
        for reference in &self.references {
            reference.tags(&value_of, write, &mut found);
        }
        MatchedRule { rule: self, tags: found.tags, unresolved: found.unresolved }
    }
}

/// Removes the request fields that the response must not depend on. Keeps all fields that cannot turn the request
/// into another one or, if the family says `forward = "keyed"`, only those in the cache key. `forwarded` is
/// `Forwarded` as received.
pub fn strip_read(fields: &mut HeaderMap, forwarded: ForwardedPolicy, family: Option<&Family>) {
    let keys_on = |name: &HeaderName| family.is_some_and(|family| family.key_spec.keys_on(name));
    headers::strip_unkeyed(fields, forwarded, keys_on);
    if let Some(family) = family.filter(|family| family.fetching.keyed_only) {
        headers::keep_keyed(fields, &family.keyed_fields());
    }
    // A family that keys on the whole field needs all of it.
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
