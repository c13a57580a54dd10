//! [`RulesDigest`]: for each family one digest over everything that decides which writes invalidate its entries. Proxies of one Redis
//! compare them: where two of them differ, neither may trust what is stored of the family ([`crate::coherence::fleet::mixed`]).
//!
//! Not in it is what only decides how long and under which key a response is stored: a proxy with another `ttl` or `query` uses other
//! cache keys, so that it shares no entries with the others, and writes invalidate by tag, which are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use md5::{Digest, Md5};

use super::source::ReadSource;
use super::{Family, Invalidation, RuleSet};
use crate::marks::UNCLAIMED;

/// Families above which all have the same digest, over all rules, so that what proxies send to Redis stays small.
const MOST: usize = 1000;

/// What beside `[[family]]` and `[invalidate]` decides what a write invalidates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestSettings {
    /// In all families.
    pub of_paths: String,
    /// In families of which writes invalidate the entries of one caller. No secrets: the digests are in Redis.
    pub of_callers: String,
}

/// The digests of all families, and one for the paths that no family claims ([`UNCLAIMED`]): of these, a proxy with another family may
/// have a rule that another one lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RulesDigest {
    /// By name.
    families: BTreeMap<String, String>,
}

impl RulesDigest {
    /// The digests of these rules.
    pub fn of(rules: &RuleSet, settings: &DigestSettings) -> RulesDigest {
        let common = common(rules, settings);
        let texts = rules.families().iter().map(|family| (family.name.clone(), text_of(rules, family, settings)));
        let texts: BTreeMap<String, String> =
            texts.chain([(UNCLAIMED.to_owned(), text_of_unclaimed(rules))]).collect();
        if texts.len() > MOST {
            let all = digest(&format!("{common} {texts:?}"));
            return RulesDigest { families: texts.into_keys().map(|name| (name, all.clone())).collect() };
        }
        let one = |(name, text): (String, String)| {
            let digest = digest(&format!("{common} {text}"));
            (name, digest)
        };
        RulesDigest { families: texts.into_iter().map(one).collect() }
    }

    /// Whether rules differ for the paths that no family claims.
    pub fn claims_differ(one: &RuleSet, other: &RuleSet) -> bool {
        text_of_unclaimed(one) != text_of_unclaimed(other)
    }

    /// All digests in one line, for other proxies. The order of the families in the file makes no difference.
    pub fn text(&self) -> String {
        let digests: BTreeSet<&str> = self.families.values().map(String::as_str).collect();
        digests.into_iter().collect::<Vec<_>>().join(" ")
    }

    /// The families of which `other`, the text of another proxy, lacks the digest.
    pub fn differing(&self, other: &str) -> BTreeSet<String> {
        let theirs: BTreeSet<&str> = other.split(' ').collect();
        let differing = self.families.iter().filter(|(_, digest)| !theirs.contains(digest.as_str()));
        differing.map(|(name, _)| name.clone()).collect()
    }

    /// For the time in which these rules are replaced by `next`: the families that differ have a digest that no other proxy has.
    /// `unique`: text that is never used again.
    #[must_use]
    pub fn on_the_way_to(&self, next: &RulesDigest, unique: &str) -> RulesDigest {
        let one = |(name, known): (&String, &String)| {
            let is_same = next.families.get(name) == Some(known);
            (name.clone(), if is_same { known.clone() } else { digest(&format!("{unique} {name:?}")) })
        };
        RulesDigest { families: self.families.iter().map(one).collect() }
    }
}

/// From names and digests, where there is no rules file.
impl FromIterator<(String, String)> for RulesDigest {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(families: I) -> RulesDigest {
        RulesDigest { families: families.into_iter().collect() }
    }
}

/// What decides for all families whether a request is a write.
fn common(rules: &RuleSet, settings: &DigestSettings) -> String {
    let mut text = settings.of_paths.clone();
    let reading: BTreeSet<String> =
        rules.families().iter().filter(|family| family.methods.post).map(|family| family.path.clone()).collect();
    let _ = write!(text, " reads by POST {reading:?}");
    let safe = rules.invalidations().iter().filter(|rule| rule.methods.names_safe());
    let safe: BTreeSet<String> =
        safe.map(|rule| format!("{:?} {:?} {:?}", rule.path, rule.methods, rule.except)).collect();
    let _ = write!(text, " writes by safe methods {safe:?}");
    text
}

/// The tags of a family's entries, and the rules that invalidate them.
fn text_of(rules: &RuleSet, family: &Family, settings: &DigestSettings) -> String {
    let Family { name, path, methods, instances, is_invalidated_by_caller, key_spec, authorize, .. } = family;
    let is_instance = instances.iter().any(|instance| instance.source == ReadSource::Identity);
    let is_by_caller = *is_invalidated_by_caller || family.is_of_verdicts() || is_instance;
    let callers = if is_by_caller { &*settings.of_callers } else { "" };
    let (identity, asked) = (key_spec.identity.to_string(), authorize.as_ref().map(|it| &it.path));
    let invalidating: BTreeSet<String> = rules.invalidating(family).into_iter().map(text_of_rule).collect();
    format!(
        "{name:?} {path:?} {methods:?} {instances:?} {is_by_caller} {callers:?} {identity:?} {asked:?} {invalidating:?}"
    )
}

/// What the families claim, and the rules that invalidate everything.
fn text_of_unclaimed(rules: &RuleSet) -> String {
    let claimed: BTreeSet<String> =
        rules.families().iter().map(|family| format!("{:?} {:?}", family.path, family.methods)).collect();
    let of_all =
        rules.invalidations().iter().filter(|rule| rule.families.iter().any(|family| family.starts_with('*')));
    let of_all: BTreeSet<String> = of_all.map(text_of_rule).collect();
    format!("{claimed:?} {of_all:?}")
}

fn text_of_rule(rule: &Invalidation) -> String {
    // `refresh` changes what is fetched, not what is invalidated.
    let Invalidation { path, methods, on, families, except, grace, again, .. } = rule;
    format!("{path:?} {methods:?} {on:?} {families:?} {except:?} {grace:?} {again:?}")
}

fn digest(text: &str) -> String {
    let hash: [u8; 16] = Md5::digest(text.as_bytes()).into();
    format!("{:016x}", u128::from_be_bytes(hash) >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    const RULES: &str = "[[family]]\nname = \"users\"\npath = '/users'\nttl = \"60s\"\n\n[[family]]\nname = \"user\"\n\
        path = '/users/(?<id>\\d+)'\nttl = \"60s\"\n\n[invalidate]\n'/users/create' = [\"users\"]\n";

    fn digest_of(text: &str) -> RulesDigest {
        let overrides = Overrides { upstream: Some("http://127.0.0.1:9".to_owned()), ..Overrides::default() };
        let config = Config::parse(text, "rules.toml", &overrides, &|_| None).expect("the rules are good");
        RulesDigest::of(&config.rules, &DigestSettings::default())
    }

    fn differing(before: &str, after: &str) -> Vec<String> {
        digest_of(before).differing(&digest_of(after).text()).into_iter().collect()
    }

    #[test]
    fn only_families_whose_invalidation_changes_differ() {
        let rows: [(&str, &str, &[&str]); 11] = [
            ("'/users/create' = [\"users\"]", "'/users/(create|add)' = [\"users\"]", &["users"]),
            ("[\"users\"]", "[\"users\", \"user\"]", &["user", "users"]),
            ("[\"users\"]", "{ families = [\"users\"], mode = \"soft\", grace = \"5s\" }", &["users"]),
            ("[\"users\"]", "{ families = [\"users\"], on = [409] }", &["users"]),
            ("[\"users\"]", "{ families = [\"users\"], refresh = true }", &[]),
            ("name = \"user\"\n", "name = \"person\"\n", &["user"]),
            ("'/users/create' =", "'/deploy' = [\"*\"]\n'/users/create' =", &["-", "user", "users"]),
            ("(?<id>", "(?<uid>", &["-", "user"]),
            ("'/users'\nttl = \"60s\"", "'/users'\nttl = \"5s\"\nquery = { drop = [\"lang\"] }", &[]),
            ("'/users'\n", "'/users'\nmethods = [\"GET\", \"POST\"]\n", &["-", "user", "users"]),
            (
                "[[family]]\nname = \"users\"",
                "[[family]]\nname = \"all\"\npath = '/all'\n[[family]]\nname = \"users\"",
                &["-"],
            ),
        ];
        for (from, to, expected) in rows {
            assert!(RULES.contains(from), "{from}");
            assert_eq!(differing(RULES, &RULES.replacen(from, to, 1)), expected, "{to}");
        }
    }

    #[test]
    fn secrets_count_where_an_instance_is_the_caller() {
        let rules = format!(
            "{RULES}\n[[family]]\nname = \"me\"\npath = '/me'\nttl = \"60s\"\nidentity = \"header:authorization\"\n\
            instance = {{ user_id = \"identity\" }}\n"
        );
        let (families, invalidate) = RULES.split_once("[invalidate]").unwrap();
        let rules = rules.replace(RULES, families) + "\n[invalidate]" + invalidate;
        let overrides = Overrides { upstream: Some("http://127.0.0.1:9".to_owned()), ..Overrides::default() };
        let config = Config::parse(&rules, "rules.toml", &overrides, &|_| None).expect("the rules are good");
        let with = |secret: &str| {
            let settings = DigestSettings { of_callers: secret.to_owned(), ..DigestSettings::default() };
            RulesDigest::of(&config.rules, &settings)
        };
        assert!(with("one").differing(&with("other").text()).into_iter().eq(["me".to_owned()]));
    }

    #[test]
    fn the_order_in_the_file_makes_no_difference() {
        let (head, rules) = RULES.split_once("[invalidate]").unwrap();
        let (one, other) = head.split_at(head.rfind("[[family]]").unwrap());
        assert_eq!(differing(RULES, &format!("{other}{one}[invalidate]{rules}")), Vec::<String>::new());
    }

    #[test]
    fn while_rules_are_replaced_no_other_proxy_has_the_digests_that_change() {
        let (before, after) = (digest_of(RULES), digest_of(&RULES.replace("[\"users\"]", "[\"user\"]")));
        let changing = before.on_the_way_to(&after, "1");
        let both = ["user", "users"].map(str::to_owned);
        for other in [&before, &after, &before.on_the_way_to(&after, "2")] {
            assert!(changing.differing(&other.text()).into_iter().eq(both.clone()));
        }
        assert_eq!(before.on_the_way_to(&before, "1"), before);
        assert_eq!(before.differing("(unknown)").len(), 3);
    }

    #[test]
    fn many_families_share_one_digest() {
        let families = |count: usize, ttl: &str| {
            let one = |n| format!("[[family]]\nname = \"f{n}\"\npath = '/f{n}{ttl}'\nttl = \"60s\"\n");
            (0..count).map(one).collect::<String>()
        };
        let many = digest_of(&families(MOST + 1, ""));
        assert_eq!(many.text().len(), 16);
        assert_eq!(many.differing(&digest_of(&families(MOST + 1, "x")).text()).len(), MOST + 2);
    }
}
