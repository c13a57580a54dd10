//! Reads `authorize`, and adds the families of verdicts.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::super::family::{Collapse, Family, Fetching, ReadMethods, levels};
use super::super::lifetimes::{LIFETIME, read_seconds};
use super::super::pattern::Pattern;
use super::super::reader::{Item, RulesReader};
use super::super::reference::FamilyNames;
use super::super::thresholds::FamilyThresholds;
use super::Authorize;
use crate::http::clients::ClientCacheControl;
use crate::http::target::{self, PathCase};
use crate::http::{ClientDirectives, Policy, TtlPolicy};
use crate::key::{Identity, KeySpec};

/// The name of the implicit family. Where rules ask several paths, each has a family below it.
pub const FAMILY: &str = "authorize";

/// What the families above ask.
#[derive(Debug, Default)]
pub struct Checks(Vec<Check>);

#[derive(Debug)]
struct Check {
    path: String,
    pattern: Pattern,
    ttl: Duration,
    /// Line in the file, from 1.
    line: usize,
}

/// Reads `authorize = { path = "/auth/check", ttl = "5s" }`. The implicit family is not known yet.
pub fn read(item: &Item<'_>, checks: &mut Checks, case: PathCase) -> Option<Authorize> {
    const REMEDY: &str = "write authorize = { path = \"/auth/check\", ttl = \"5s\" }";
    let mut table = item.table()?;
    let path = table.required("path", REMEDY).and_then(|item| read_path(&item, case));
    let ttl = table.required("ttl", REMEDY).and_then(|item| read_seconds(&item, &LIFETIME));
    table.finish();
    let ((path, pattern), ttl) = (path?, ttl?);
    match checks.0.iter().find(|known| known.path == path) {
        Some(other) if other.ttl != ttl => {
            let (line, other) = (other.line, humantime::format_duration(other.ttl));
            return item.refuse(
                format_args!(
                    "has another ttl than on line {line}, which asks the same path and shares the \
                     verdicts"
                ),
                format!("write ttl = \"{other}\" in both, or ask another path"),
            );
        }
        Some(_) => {}
        None => checks.0.push(Check { path: path.clone(), pattern, ttl, line: item.line() }),
    }
    Some(Authorize { path, ttl, verdicts: usize::MAX })
}

fn read_path(item: &Item<'_>, case: PathCase) -> Option<(String, Pattern)> {
    let text = item.filled()?;
    let path = &text.value;
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return text.refuse(
            format_args!("{:?} is not a path", text.raw),
            "write one such as \"/auth/check\", without host and query",
        );
    }
    let normal = target::normalise(path);
    if normal != *path {
        let remedy = match text.showable() {
            Some(_) => format!("write {normal:?}"),
            None => "see what the variable holds".to_owned(),
        };
        return text.refuse(format_args!("{:?} is not a path in normal form (RFC 3986 §6.2.2)", text.raw), remedy);
    }
    match Pattern::compile(&regex_syntax::escape(path), case) {
        Ok(pattern) => Some((text.value, pattern)),
        Err(fault) => text.refuse(format_args!("{:?}: {}", text.raw, fault.message), "ask a shorter, plain path"),
    }
}

/// Adds the implicit families of the checks, after those of the file. `taken`: the position of a family in the file that has the
/// name of the implicit ones.
pub fn add_families(
    families: &mut Vec<Family>,
    checks: Checks,
    taken: Option<Range<usize>>,
    (names, reader): (&mut FamilyNames, &RulesReader<'_>),
) {
    let Checks(checks) = checks;
    if checks.is_empty() {
        return;
    }
    if let Some(taken) = taken {
        let message = format!("{FAMILY:?} is the name of the family of verdicts (authorize)");
        return reader.fault(taken, message, "rename the family");
    }
    let (beside, several) = (identity_fields(families), checks.len() > 1);
    for Check { path, pattern, ttl, line } in checks {
        let (id, name) = (families.len(), if several { name_of(&path, families) } else { FAMILY.to_owned() });
        let mut is_invalidated = false;
        for family in families.iter_mut() {
            if let Some(authorize) = family.authorize.as_mut().filter(|authorize| authorize.path == path) {
                authorize.verdicts = id;
                is_invalidated |= family.is_invalidated;
            }
        }
        let identity = Identity::Credentials(Arc::clone(&beside));
        names.add(&name, Some(Vec::new()), &[], &identity);
        let policy = Policy {
            ttl: Some(ttl),
            ttl_policy: TtlPolicy::Override,
            stale_if_unreachable: Duration::ZERO,
            client_directives: ClientDirectives::None,
            ..Policy::default()
        };
        families.push(Family {
            id,
            levels: levels(&name),
            name,
            path,
            methods: ReadMethods { get: true, query: false, post: false },
            is_never_cached: false,
            definition: String::new(),
            version: None,
            compress: None,
            cdn_cache_control: None,
            stale_while_slow: None,
            write_through: false,
            policy,
            key_spec: KeySpec { identity, ..KeySpec::default() },
            fetching: Fetching::default(),
            collapse: Collapse::default(),
            max_body: None,
            counted: false,
            client_cache_control: ClientCacheControl::Pass,
            says_client_cache_control: true,
            is_invalidated_by_caller: false,
            is_invalidated,
            authorize: None,
            instances: Vec::new(),
            alerts: FamilyThresholds::default(),
            line,
            pattern,
        });
    }
}

/// The request fields by which the families identify callers.
fn identity_fields(families: &[Family]) -> Arc<[HeaderName]> {
    let mut names: Vec<HeaderName> =
        families.iter().flat_map(|family| family.key_spec.identity.fields()).cloned().collect();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names.into()
}

/// A name for the verdicts of a path beside others, such as `authorize:auth.check`.
fn name_of(path: &str, families: &[Family]) -> String {
    let plain = |byte: u8| {
        if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) { char::from(byte) } else { '.' }
    };
    let level: String = path.trim_matches('/').bytes().map(plain).take(80).collect();
    let name = format!("{FAMILY}:{}", if level.is_empty() { "root" } else { &level });
    // Two paths may differ in punctuation alone.
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut all = std::iter::once(name.clone()).chain(numbered);
    all.find(|name| families.iter().all(|family| family.name != *name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::super::source::WriteValues;
    use super::super::super::tests::rules;
    use super::super::super::{CallerIdentity, RuleSet};
    use crate::http::headers::{Credentials, Meant};
    use crate::http::sample::{Fields, fields};
    use crate::http::target::Target;
    use crate::key::{Identity, PresentedCredentials};

    const ONE: &str = "[[family]]\nname = 'a'\npath = '/a'\nauthorize = { path = '/auth/check', ttl = '5s' }\n";
    const OTHER: &str = "[[family]]\nname = 'b'\npath = '/b'\nidentity = 'header:x-tenant'\n\
                         authorize = { path = '/auth-check', ttl = '1m' }\n";
    const RULES: &str = "[invalidate]\n'/logout' = ['authorize:{identity}']\n'/rights' = ['authorize']\n";

    fn invalidated(rules: &RuleSet, path: &str, lines: Fields<'_>) -> Vec<String> {
        let (lines, target) = (fields(lines), Target { path: path.to_owned(), ..Target::default() });
        let caller = CallerIdentity::Known {
            presented: PresentedCredentials::without_token(&lines),
            secret: None,
            credentials: &Credentials::default(),
        };
        let values = WriteValues { caller, ..WriteValues::UNKNOWN };
        let found = rules.invalidated_by_any(&Meant::These(vec![Method::POST]), &[target], values);
        let mut tags: Vec<String> = found.iter().flat_map(|it| &it.tags).map(ToString::to_string).collect();
        tags.sort();
        tags
    }

    #[test]
    fn each_path_that_is_asked_has_a_family_that_no_request_is_in() {
        let one = rules(&format!("{ONE}{RULES}"));
        let names = |rules: &RuleSet| rules.families().iter().map(|it| it.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(&one), one.stated().len()), (vec!["a".to_owned(), "authorize".to_owned()], 1));
        assert!(one.route(&Method::GET, "/auth/check").is_none());
        assert_eq!(one.families()[0].authorize.as_ref().unwrap().verdicts, 1);
        assert_eq!(one.families()[0].key_spec.identity, Identity::Shared);
        let both = rules(&format!("{ONE}{OTHER}{RULES}"));
        assert_eq!(names(&both)[2..], ["authorize:auth.check", "authorize:auth-check"]);
        for (family, verdicts) in [(0, 2), (1, 3)] {
            let authorize = both.families()[family].authorize.as_ref().unwrap();
            assert_eq!(
                (authorize.verdicts, both.families()[verdicts].policy.ttl),
                (verdicts, Some(authorize.ttl))
            );
        }
    }

    #[test]
    fn a_write_ends_the_verdicts_on_everybody_with_one_of_its_credentials() {
        let one = rules(&format!("{ONE}{RULES}"));
        let of = |lines| invalidated(&one, "/logout", lines);
        assert_eq!(of(&[("accept", "*/*")]), ["authorize"], "its caller is not known");
        assert_eq!(of(&[("cookie", "sid=1; theme=dark"), ("authorization", "Bearer x")]).len(), 3);
        let (alone, beside) = (of(&[("cookie", "sid=1")]), of(&[("cookie", "a=2; sid=1")]));
        assert!(
            alone.len() == 1 && beside.contains(&alone[0]) && alone[0].starts_with("caller authorize sha256:")
        );
        assert_ne!(of(&[("cookie", "sid=2")]), alone);
        assert!(!of(&[("cookie", "sid=\"1\"")])[0].contains("sid"), "digests alone");
        let many = (0..40).map(|nth| format!("c{nth}=1")).collect::<Vec<_>>().join("; ");
        assert_eq!(of(&[("cookie", many.as_str())]), ["authorize"], "too many to tell apart");
        assert_eq!(invalidated(&one, "/rights", &[("cookie", "sid=1")]), ["authorize"]);
    }

    #[test]
    fn several_paths_are_named_together_and_families_identities_are_credentials() {
        let both = rules(&format!("{ONE}{OTHER}{RULES}"));
        let tags = invalidated(&both, "/logout", &[("x-tenant", "7")]);
        assert!(tags.len() == 2 && tags[0].starts_with("caller authorize:auth-check sha256:"), "{tags:?}");
        assert_eq!(invalidated(&both, "/rights", &[]), ["authorize"]);
    }

    #[test]
    fn verdicts_that_no_rule_names_are_warned_of() {
        let warnings = |rules: &RuleSet| rules.warnings().iter().map(|it| it.message.clone()).collect::<Vec<_>>();
        let unnamed = rules(&format!("{ONE}[invalidate]\n'/a' = ['a']\n"));
        let found = warnings(&unnamed);
        assert!(found.len() == 1 && found[0].contains("counts for up to 5s after"), "{found:?}");
        assert_eq!(
            warnings(&rules(&format!("{ONE}[invalidate]\n'/a' = ['a']\n'/b' = ['authorize:{{identity}}']\n"))),
            [""; 0]
        );
        assert_eq!(warnings(&rules(&format!("{ONE}invalidation = 'none'\n"))), [""; 0]);
    }
}
