//! Warnings about valid rules: settings without effect, and settings that are probably a mistake.

use std::fmt::Display;

use http::Method;
use regex_syntax::hir::Hir;
use regex_syntax::hir::literal::{Extractor, Literal};
use serde::Serialize;
use utoipa::ToSchema;

use super::language::{self, Common};
use super::nearest::listing;
use super::pattern::{Pattern, Values, capture};
use super::suffix::samples;
use super::{Family, Invalidation, ReadMethods, RuleSet, WriteMethods};
use crate::http::target;
use crate::key::Identity;

/// Budget for comparing patterns, in bytes of automata: about a second.
pub(super) const AUTOMATA: usize = 32 << 20;

/// Path segments that mean the caller, whatever surrounds them.
static CALLER: [&str; 12] = [
    "current-user",
    "current_user",
    "me",
    "mine",
    "my",
    "my-account",
    "myself",
    "self",
    "user-info",
    "user_info",
    "userinfo",
    "whoami",
];

/// Path segments that mean the caller unless an id next to them says whose they are.
static PERSONAL: [&str; 11] = [
    "account",
    "basket",
    "billing",
    "cart",
    "checkout",
    "inbox",
    "preferences",
    "profile",
    "session",
    "wallet",
    "wishlist",
];

/// A warning about valid rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Warning {
    /// Line of the family or rule, from 1.
    pub line: usize,
    pub message: String,
    pub remedy: String,
}

impl Family {
    /// A warning about it. `message` follows its name.
    pub fn warning(&self, message: impl Display, remedy: impl Into<String>) -> Warning {
        let message = format!("family {:?}: {message}", self.name);
        Warning { line: self.line, message, remedy: remedy.into() }
    }
}

impl RuleSet {
    /// All warnings, in file order.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut bytes = AUTOMATA;
        let mut warnings = self.suffix_warnings();
        warnings.extend(self.uninvalidated());
        warnings.extend(self.stated().iter().filter_map(|family| unmatchable_family(family, &mut bytes)));
        warnings.extend(self.shadowed(AUTOMATA));
        warnings.extend(self.stated().iter().filter_map(personal));
        warnings.extend(self.stated().iter().filter_map(graphql));
        warnings.extend(self.unrevoked());
        warnings.extend(self.stated().iter().filter_map(|family| self.asks_itself(family)));
        warnings.extend(self.families.iter().filter_map(|family| self.kept_downstream(family)));
        for rule in &self.invalidations {
            warnings.extend(unmatchable_rule(rule, &mut bytes));
            warnings.extend(self.not_to_be_invalidated(rule));
            warnings.extend(self.useless_refresh(rule));
            warnings.extend(rule.leaves_out());
            warnings.extend(rule.redundant());
            warnings.extend(never_has_content(rule));
            warnings.extend(self.never_equal(rule, &mut bytes));
        }
        warnings.sort_by_key(|warning| warning.line);
        warnings
    }

    /// One warning for all families that no rule names: writes invalidate only entries with their own path.
    fn uninvalidated(&self) -> Option<Warning> {
        let is_reached = |family: &Family| self.invalidations.iter().any(|rule| rule.reaches(family));
        let alone = self.stated().iter().filter(|family| family.is_invalidated && !is_reached(family));
        let alone: Vec<&Family> = alone.collect();
        let first = alone.first()?;
        let names = alone.iter().map(|family| family.name.as_str());
        let (what, remedy) = match alone.len() {
            1 => ("family", format!("'/the/path/of/the/write' = [{:?}]", first.name)),
            _ => ("families", "'/the/path/of/the/write' = [\"…\"]".to_owned()),
        };
        Some(Warning {
            line: first.line,
            message: format!(
                "no rule of [invalidate] names {what} {}: after a write to another path, the stored response is served until \
                 its ttl is over",
                listing(names)
            ),
            remedy: format!(
                "write {remedy} below [invalidate], or invalidation = \"none\" in the family if this is intended"
            ),
        })
    }

    /// Verdicts that no rule names: a caller that logs out, or is blocked, still counts as authorized for a while.
    fn unrevoked(&self) -> Option<Warning> {
        let is_reached = |family: &Family| self.invalidations.iter().any(|rule| rule.reaches(family));
        let verdicts = self.families[self.stated..].iter();
        let verdicts = verdicts.clone().find(|family| family.is_invalidated && !is_reached(family))?;
        let ttl = verdicts.policy.ttl.map(|ttl| humantime::format_duration(ttl).to_string()).unwrap_or_default();
        let (name, path) = (&verdicts.name, &verdicts.path);
        Some(Warning {
            line: verdicts.line,
            message: format!(
                "no rule of [invalidate] names {name:?}: what {path} says of a caller counts for up to {ttl} after the caller has \
                 logged out or lost a right"
            ),
            remedy: format!(
                "write '/the/path/of/the/logout' = [\"{name}:{{identity}}\"] below [invalidate], and [{name:?}] for writes that change \
                 the rights of others"
            ),
        })
    }

    /// A family whose own check it takes: its answer, which may tell who the caller is, is then stored for all.
    fn asks_itself(&self, family: &Family) -> Option<Warning> {
        let path = &family.authorize.as_ref().filter(|_| family.key_spec.identity == Identity::Shared)?.path;
        let is_taken = self.family_at(&Method::GET, path).is_some_and(|found| found.id == family.id);
        is_taken.then(|| Warning {
            line: family.line,
            message: format!(
                "family {:?} takes {path}, the path of its own authorize: the answer to one client that reads it is stored for all \
                 authorized callers",
                family.name
            ),
            remedy: format!(
                "let the family's path leave it out, or put a family with path = '{path}' and identity = \"header:authorization\" (or the \
                 cookie of the session) above"
            ),
        })
    }

    /// Families that receive no request because earlier families match all of their paths; then the families for
    /// which `bytes` of automata did not suffice to tell.
    pub(super) fn shadowed(&self, mut bytes: usize) -> Vec<Warning> {
        let hirs: Vec<Option<Hir>> = self.stated().iter().map(|family| hir(&family.pattern)).collect();
        let Some(hirs) = hirs.into_iter().collect::<Option<Vec<Hir>>>() else { return Vec::new() };
        let beginnings: Vec<Beginnings> = hirs.iter().map(beginnings).collect();
        let (mut warnings, mut unknown) = (Vec::new(), Vec::new());
        for (at, family) in self.stated().iter().enumerate().skip(1) {
            if self.has_a_path_of_its_own(family, &hirs[at]) {
                continue;
            }
            let before: Vec<usize> = (0..at).filter(|it| may_meet(&beginnings[*it], &beginnings[at])).collect();
            match self.takers(at, &before, &hirs, &mut bytes) {
                Some(takers) if takers.is_empty() => {}
                Some(takers) => warnings.push(self.shadowed_by(family, &takers)),
                None => unknown.push(family),
            }
        }
        warnings.extend(uncompared(&unknown));
        warnings
    }

    fn shadowed_by(&self, family: &Family, takers: &[usize]) -> Warning {
        let names: Vec<String> = takers.iter().map(|at| format!("{:?}", self.families[*at].name)).collect();
        let is_by_never = takers.iter().any(|at| self.families[*at].is_never_cached);
        let (before, remedy) = match is_by_never {
            true => ("", format!("make the path of {} narrower, or remove this family", names[0])),
            false => (" before it", format!("move it above {}, or make its path differ", names[0])),
        };
        Warning {
            line: family.line,
            message: format!(
                "family {:?} gets no request: {}{before} {} every path of it",
                family.name,
                listing(names.iter().map(String::as_str)),
                if names.len() == 1 { "takes" } else { "take" }
            ),
            remedy,
        }
    }

    /// Whether a sample path of the family is not matched by an earlier family. Sufficient for nearly all families.
    fn has_a_path_of_its_own(&self, family: &Family, hir: &Hir) -> bool {
        let method = match family.methods {
            ReadMethods { get: true, .. } => Method::GET,
            ReadMethods { query: true, .. } => query(),
            ReadMethods { .. } => Method::POST,
        };
        let is_own = |path: &String| self.family_at(&method, path).is_some_and(|found| found.id == family.id);
        normal_samples(hir).any(|path| is_own(&path))
    }

    /// Which of the families `before` this one match all of its paths, alone or together. Empty if some paths are
    /// left or it has none. `None` if the budget `bytes` does not suffice.
    fn takers(&self, at: usize, before: &[usize], hirs: &[Hir], bytes: &mut usize) -> Option<Vec<usize>> {
        let mut taken_by = |before: &[usize]| {
            let both: Vec<Hir> = before.iter().chain([&at]).map(|at| hirs[*at].clone()).collect();
            Some(self.takers_of(at, before, &language::of_paths(bytes, &both)?))
        };
        // A single family that matches them all is found however many there are.
        for one in before {
            if let Some(takers) = taken_by(&[*one]).filter(|takers| !takers.is_empty() || before.len() == 1) {
                return Some(takers);
            }
        }
        if before.is_empty() { Some(Vec::new()) } else { taken_by(before) }
    }

    /// The same from the common paths: `before`, and this family last.
    fn takers_of(&self, at: usize, before: &[usize], commons: &[Common]) -> Vec<usize> {
        let (family, last) = (&self.families[at], before.len());
        let mut takers = Vec::new();
        for (which, _) in commons.iter().filter(|(which, _)| which.contains(&last)) {
            let before: Vec<usize> = which.iter().filter(|it| **it < last).map(|it| before[*it]).collect();
            let methods =
                |method: fn(&Family) -> bool| before.iter().any(|before| method(&self.families[*before]));
            let is_taken = (!family.methods.get || methods(|family| family.methods.get))
                && (!family.methods.query || methods(|family| family.methods.query))
                && (!family.methods.post || methods(|family| family.methods.post));
            if !is_taken {
                return Vec::new();
            }
            // The first of them receives the request.
            takers.extend(before.first());
        }
        takers.sort_unstable();
        takers.dedup();
        takers
    }

    /// A rule that names a family with `invalidation = "none"` or `cache = "never"`.
    fn not_to_be_invalidated(&self, rule: &Invalidation) -> Option<Warning> {
        let family = self.families.iter().find(|family| !family.is_invalidated && rule.names(family))?;
        let setting = if family.is_never_cached { "cache = \"never\"" } else { "invalidation = \"none\"" };
        Some(Warning {
            line: family.line,
            message: format!(
                "family {:?} has {setting}, but the rule for {:?} on line {} invalidates it",
                family.name, rule.path, rule.line
            ),
            remedy: match family.is_never_cached {
                true => "remove the family from the rule, or remove cache = \"never\"",
                false => "remove the family from the rule, or remove invalidation = \"none\"",
            }
            .to_owned(),
        })
    }

    /// Entries of one caller are not prefetched, nor are entries stored for QUERY or POST only.
    fn useless_refresh(&self, rule: &Invalidation) -> Option<Warning> {
        let can_be = |family: &&Family| family.methods.get && !is_private(family) && family.authorize.is_none();
        let mut reached = self.stated().iter().filter(|family| rule.reaches(family));
        if !rule.refresh || reached.any(|family| can_be(&family)) {
            return None;
        }
        Some(rule.warning(
            "refresh has no effect: Larder does not prefetch responses for one caller (identity), \
                 for authorized callers (authorize), for QUERY or for POST",
            "remove refresh, or write identity = \"none\" in a family whose responses are the \
                 same for every caller",
        ))
    }

    /// A capture of the write's path that can never equal the family's capture.
    fn never_equal(&self, rule: &Invalidation, bytes: &mut usize) -> Option<Warning> {
        let written = hir(&rule.pattern)?;
        rule.families.iter().find_map(|reference| {
            let family = self
                .families
                .iter()
                .filter(|family| reference.strip_prefix(&family.name).is_some_and(|rest| rest.starts_with(':')));
            let family = family.max_by_key(|family| family.name.len())?;
            let read = hir(&family.pattern)?;
            let parts = reference[family.name.len() + 1..].split(':').enumerate();
            // Names, or the order of the family's captures.
            let named = parts.filter_map(|(at, part)| {
                let written = part.strip_prefix('{')?.strip_suffix('}')?;
                let by_order = || family.capture_names().nth(at).filter(|_| family.instances.is_empty());
                let (name, source) =
                    written.split_once('=').unwrap_or_else(|| (by_order().unwrap_or(written), written));
                Some((name, source))
            });
            named.into_iter().find_map(|(name, written_name)| {
                let both = [capture(&read, name)?.clone(), capture(&written, written_name)?.clone()];
                let [read, written] = [&both[0], &both[1]].map(|hir| Values::of("", Some(hir)));
                // Samples suffice for nearly all patterns.
                if samples(&both[0]).iter().any(|text| written.contain(text))
                    || samples(&both[1]).iter().any(|text| read.contain(text))
                {
                    return None;
                }
                let is_equal = |(which, _): &Common| which[..] == [0, 1];
                if language::commons(bytes, &both)?.iter().any(is_equal) {
                    return None;
                }
                Some(rule.warning(
                    format_args!(
                        "{reference:?} invalidates nothing, for {{{written_name}}} is never what {{{name}}} \
                         is in the path of {:?}",
                        family.name
                    ),
                    "let both captures match the same texts",
                ))
            })
        })
    }
}

impl Invalidation {
    fn warning(&self, message: impl Display, remedy: impl Into<String>) -> Warning {
        let message = format!("the rule for {:?}: {message}", self.path);
        Warning { line: self.line, message, remedy: remedy.into() }
    }

    /// Whether it names the family or a level above it, not just `*`.
    fn names(&self, family: &Family) -> bool {
        self.families.iter().any(|reference| reference != "*" && !reference.starts_with("*:{"))
            && self.reaches(family)
    }

    /// A reference to an instance of all families, in some of which no value names it.
    fn leaves_out(&self) -> Option<Warning> {
        let with_text = self.families.iter().zip(&self.references);
        let (text, reference) = with_text.into_iter().find(|(_, reference)| !reference.left_out().is_empty())?;
        let left_out = reference.left_out();
        let names = listing(left_out.iter().map(|left_out| left_out.family.as_str()));
        Some(self.warning(
            format_args!(
                "{text:?} does not invalidate {names}: {}",
                left_out.first().map_or("", |left_out| &left_out.why)
            ),
            "name these families too, whole or with {identity} for the write's caller",
        ))
    }

    /// A rule that names an instance and its whole family.
    fn redundant(&self) -> Option<Warning> {
        let names = self.families.iter();
        let (whole, instance) = names.clone().find_map(|instance| {
            let is_above =
                |whole: &&String| instance.strip_prefix(whole.as_str()).is_some_and(|rest| rest.starts_with(":{"));
            Some((names.clone().find(is_above)?, instance))
        })?;
        Some(self.warning(
            format_args!("{instance:?} has no effect beside {whole:?}, which is all of the family"),
            format!("remove {whole:?} if only the instance is meant, or {instance:?}"),
        ))
    }
}

/// A value from content that the rule's writes do not have.
fn never_has_content(rule: &Invalidation) -> Option<Warning> {
    let has_none = |method: &Method| matches!(method.as_str(), "GET" | "HEAD" | "DELETE" | "OPTIONS" | "TRACE");
    let without_content = matches!(&rule.methods, WriteMethods::These(methods) if methods.iter().all(has_none));
    let is_empty = |status: u16| matches!(status, 204 | 205 | 304);
    let without_answer = rule.on.ranges.iter().all(|(from, to)| (*from..=*to).all(is_empty));
    let (what, whose, methods) = if rule.places_in_content().next().is_some() && without_content {
        ("{body.…}", "requests", rule.methods.names().join(", "))
    } else if rule.places_in_response().next().is_some() && without_answer {
        ("{response.…}", "responses", "this status".to_owned())
    } else {
        return None;
    };
    Some(rule.warning(
        format_args!(
            "{what} has a value in few writes: {whose} with {methods} usually have no content, \
             and each write without it invalidates the whole family"
        ),
        "take the value from the path or the query, or name the family without an instance",
    ))
}

fn unmatchable_family(family: &Family, bytes: &mut usize) -> Option<Warning> {
    let (message, remedy) = unmatchable(&family.pattern, bytes)?;
    Some(Warning {
        line: family.line,
        message: format!("family {:?} gets no request: {message}", family.name),
        remedy,
    })
}

fn unmatchable_rule(rule: &Invalidation, bytes: &mut usize) -> Option<Warning> {
    let (message, remedy) = unmatchable(&rule.pattern, bytes)?;
    Some(Warning {
        line: rule.line,
        message: format!("the rule for {:?} has no effect: {message}", rule.path),
        remedy,
    })
}

/// The message and remedy for a pattern that matches no path.
fn unmatchable(pattern: &Pattern, bytes: &mut usize) -> Option<(String, String)> {
    let hir = pattern.hir()?;
    if normal_samples(&hir).any(|path| pattern.is_match(&path)) || !language::of_paths(bytes, &[hir])?.is_empty() {
        return None;
    }
    let message =
        "no path in normal form matches its pattern (RFC 3986: no dot segments; without query and fragment)";
    let remedy = "see what larder explain prints for a path that it should match";
    Some((message.to_owned(), remedy.to_owned()))
}

/// The literal prefixes of the paths that a pattern matches; `None` for any prefix.
type Beginnings = Option<Vec<Literal>>;

fn beginnings(hir: &Hir) -> Beginnings {
    Extractor::new().extract(hir).literals().map(<[Literal]>::to_vec)
}

/// Whether both patterns may match a common path, judged by their prefixes.
fn may_meet(one: &Beginnings, other: &Beginnings) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return true };
    let meet = |one: &Literal, other: &Literal| {
        let (one, other) = (one.as_bytes(), other.as_bytes());
        one.starts_with(other) || other.starts_with(one)
    };
    one.iter().any(|one| other.iter().any(|other| meet(one, other)))
}

/// Families that may receive no request: comparing their patterns exceeded the budget.
fn uncompared(families: &[&Family]) -> Option<Warning> {
    let first = families.first()?;
    let names: Vec<String> = families.iter().map(|family| format!("{:?}", family.name)).collect();
    let (what, their) = if families.len() == 1 { ("family", "its") } else { ("families", "their") };
    Some(Warning {
        line: first.line,
        message: format!(
            "whether {what} {} can get a request is not known: comparing {their} paths with those of the families before takes \
             too much work",
            listing(names.iter().map(String::as_str))
        ),
        remedy: "start the patterns with different folders, and use shorter repetitions than {…}; larder explain prints which \
                 family a path belongs to"
            .to_owned(),
    })
}

/// Sample texts of a pattern (its assertions ignored) that are paths in normal form.
pub(super) fn normal_samples(hir: &Hir) -> impl Iterator<Item = String> {
    samples(hir).into_iter().filter(|path| path.starts_with('/') && target::normalise(path) == *path)
}

fn query() -> Method {
    Method::from_bytes(b"QUERY").unwrap_or_default()
}

/// A family that reads by POST where GraphQL is likely: its mutations are POSTs to the same path.
fn graphql(family: &Family) -> Option<Warning> {
    let is_graphql = |segment: &&str| has_segment(family.pattern.as_str(), segment);
    let segment = ["graphql", "gql"].into_iter().find(is_graphql).filter(|_| family.methods.post)?;
    Some(Warning {
        line: family.line,
        message: format!(
            "family {:?} takes each POST to its path for a read, and {segment:?} in the path suggests GraphQL: a mutation \
             would be answered from the cache, and would invalidate nothing",
            family.name
        ),
        remedy: "remove \"POST\" from methods, unless mutations have a path of their own".to_owned(),
    })
}

/// `identity = "none"` on paths like `/me`.
fn personal(family: &Family) -> Option<Warning> {
    if family.key_spec.identity != Identity::Shared {
        return None;
    }
    let pattern = family.pattern.as_str();
    let samples = hir(&family.pattern).map(|hir| samples(&hir)).unwrap_or_default();
    let is_own = |segment: &&str| {
        let has_it = |path: &&String| neighbours(path, segment).is_some();
        let is_addressed =
            |path: &String| neighbours(path, segment).is_none_or(|them| them.into_iter().any(is_id));
        let is_always_addressed = samples.iter().any(|path| has_it(&path)) && samples.iter().all(is_addressed);
        has_segment(pattern, segment) && !is_always_addressed
    };
    let caller = CALLER.into_iter().find(|segment| has_segment(pattern, segment));
    let segment = caller.or_else(|| PERSONAL.into_iter().find(is_own))?;
    Some(Warning {
        line: family.line,
        message: format!(
            "family {:?} says identity = \"none\", and {segment:?} in its path suggests responses for one caller: one \
             caller's response is stored for everybody",
            family.name
        ),
        remedy: "write identity = \"header:authorization\" or \"cookie:NAME\"".to_owned(),
    })
}

/// The segments before and after `segment` in the path.
fn neighbours<'p>(path: &'p str, segment: &str) -> Option<[&'p str; 2]> {
    let segments: Vec<&str> = path.split('/').collect();
    let at = segments.iter().position(|other| other.eq_ignore_ascii_case(segment))?;
    let before = at.checked_sub(1).and_then(|at| segments.get(at));
    Some([before, segments.get(at + 1)].map(|it| it.copied().unwrap_or_default()))
}

/// Whether a sample's segment stands for any text or number: one repeated character.
fn is_id(segment: &str) -> bool {
    let mut letters = segment.chars();
    letters.next().is_some_and(|first| letters.all(|letter| letter == first))
}

/// Whether the pattern contains this segment literally, or as an alternative.
fn has_segment(pattern: &str, segment: &str) -> bool {
    let lower = pattern.to_ascii_lowercase();
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '\\' | '<' | '.');
    lower.match_indices(segment).any(|(at, _)| {
        let (before, after) = (lower[..at].chars().next_back(), lower[at + segment.len()..].chars().next());
        !before.is_some_and(|c| is_word(c) || c == '[')
            && !after.is_some_and(|c| is_word(c) || matches!(c, '>' | ']' | '='))
    })
}

pub(super) fn is_private(family: &Family) -> bool {
    family.key_spec.identity.tells_callers_apart()
}

fn hir(pattern: &Pattern) -> Option<Hir> {
    pattern.hir()
}
