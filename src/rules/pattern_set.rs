//! Many path patterns at once: only those are tried that can match what the path begins with.

use std::collections::BTreeMap;

use regex::{RegexSet, RegexSetBuilder};
use regex_syntax::hir::literal::Extractor;
use smallvec::SmallVec;

use super::pattern::{Matcher, Pattern};
use crate::http::target::PathCase;

/// Most patterns with one prefix that are tried one by one. One pass over all of them costs as much as this many.
const FEW: usize = 8;
/// Largest compiled set of patterns with one prefix, in bytes.
const COMPILED: usize = 64 << 20;

/// Patterns by the texts that matching paths begin with. The time of a lookup grows with the number of patterns that share
/// such a prefix, and not with the number of all patterns.
#[derive(Debug, Default)]
pub struct PatternSet {
    /// In the order of their texts.
    prefixes: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    text: Vec<u8>,
    /// The index of the longest other prefix that `text` begins with.
    shorter: Option<usize>,
    patterns: Patterns,
}

/// The patterns with one prefix, with their indexes in the order given.
#[derive(Debug)]
enum Patterns {
    Few(Vec<(usize, Matcher)>),
    Many(Vec<usize>, RegexSet),
}

impl PatternSet {
    /// `None` if the patterns with one prefix are too large together.
    pub fn build<'p>(patterns: impl Iterator<Item = &'p Pattern>, case: PathCase) -> Option<PatternSet> {
        let mut by_prefix: BTreeMap<Vec<u8>, Vec<(usize, &Pattern)>> = BTreeMap::new();
        for (index, pattern) in patterns.enumerate() {
            for prefix in prefixes_of(pattern) {
                let patterns = by_prefix.entry(prefix).or_default();
                if patterns.last().is_none_or(|(last, _)| *last != index) {
                    patterns.push((index, pattern));
                }
            }
        }
        let mut prefixes: Vec<Prefix> = Vec::with_capacity(by_prefix.len());
        for (text, patterns) in by_prefix {
            // What is shorter comes first. If the one before is no prefix of this one, one of its own prefixes may be.
            let mut shorter = prefixes.len().checked_sub(1);
            while let Some(at) = shorter.filter(|at| !text.starts_with(&prefixes[*at].text)) {
                shorter = prefixes[at].shorter;
            }
            prefixes.push(Prefix { text, shorter, patterns: Patterns::build(&patterns, case)? });
        }
        Some(PatternSet { prefixes })
    }

    /// Indexes of the matching patterns, in the order given.
    pub fn matches(&self, path: &str) -> impl Iterator<Item = usize> + use<> {
        let mut found = SmallVec::<[usize; 8]>::new();
        // Every prefix of the path is also one of the last text that is not after the path.
        let mut next = self.prefixes.partition_point(|prefix| *prefix.text <= *path.as_bytes()).checked_sub(1);
        while let Some(prefix) = next.map(|at| &self.prefixes[at]) {
            if path.as_bytes().starts_with(&prefix.text) {
                prefix.patterns.find(path, &mut found);
            }
            next = prefix.shorter;
        }
        found.sort_unstable();
        found.dedup();
        found.into_iter()
    }
}

impl Patterns {
    fn build(patterns: &[(usize, &Pattern)], case: PathCase) -> Option<Patterns> {
        if patterns.len() <= FEW {
            let few = patterns.iter().map(|(index, pattern)| (*index, pattern.matcher().clone()));
            return Some(Patterns::Few(few.collect()));
        }
        let mut set = RegexSetBuilder::new(patterns.iter().map(|(_, pattern)| pattern.regex().as_str()));
        set.case_insensitive(case == PathCase::Insensitive).size_limit(COMPILED);
        Some(Patterns::Many(patterns.iter().map(|(index, _)| *index).collect(), set.build().ok()?))
    }

    /// Adds the indexes of those that match.
    fn find(&self, path: &str, found: &mut SmallVec<[usize; 8]>) {
        match self {
            Patterns::Few(few) => {
                found.extend(few.iter().filter(|(_, matcher)| matcher.is_match(path)).map(|(index, _)| *index));
            }
            Patterns::Many(indexes, set) => found.extend(set.matches(path).into_iter().map(|at| indexes[at])),
        }
    }
}

/// Every path that the pattern matches begins with one of these. Empty if it matches none.
fn prefixes_of(pattern: &Pattern) -> Vec<Vec<u8>> {
    let found = pattern.hir().and_then(|hir| {
        let found = Extractor::new().extract(&hir);
        Some(found.literals()?.iter().map(|literal| literal.as_bytes().to_vec()).collect())
    });
    found.unwrap_or_else(|| vec![Vec::new()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compiled(texts: &[impl AsRef<str>], case: PathCase) -> Vec<Pattern> {
        texts.iter().filter_map(|text| Pattern::compile(text.as_ref(), case).ok()).collect()
    }

    fn matching(patterns: &[Pattern], case: PathCase, path: &str) -> Vec<usize> {
        PatternSet::build(patterns.iter(), case).unwrap().matches(path).collect()
    }

    #[test]
    fn all_patterns_that_match_are_found_in_their_order() {
        let rows: [(&[&str], &str, &[usize]); 8] = [
            (&["/a/b", "/a", "/a/.*", ".*", "/b"], "/a/b", &[0, 2, 3]),
            (&["/a|/b", "/b|/bc?"], "/b", &[0, 1]),
            (&["/ab|/abc", "/abc|/ab"], "/abc", &[0, 1]),
            (&["/(x|y)z", "/x.*"], "/yz", &[0]),
            (&["/a(?<x>b)?c", "/ab"], "/ac", &[0]),
            (&["^/a$", "(?i)/A", "(?m)/a$"], "/a", &[0, 1, 2]),
            (&["/a/bcd/e", "/a/", "/a/bcd", "/a/b.*"], "/a/bce", &[3]),
            (&[r"/\w+/z", "/a/z"], "/a/z", &[0, 1]),
        ];
        for (texts, path, expected) in rows {
            assert_eq!(
                matching(&compiled(texts, PathCase::Sensitive), PathCase::Sensitive, path),
                expected,
                "{texts:?}"
            );
        }
    }

    #[test]
    fn many_patterns_with_one_prefix_are_found_in_their_order() {
        let texts: Vec<String> = (0..50).map(|n| format!(r"/[a-z]+/{n}|/x/(?<id>\d+)")).collect();
        let patterns = compiled(&texts, PathCase::Sensitive);
        assert_eq!(matching(&patterns, PathCase::Sensitive, "/y/7"), [7]);
        assert_eq!(matching(&patterns, PathCase::Sensitive, "/x/7"), (0..50).collect::<Vec<_>>());
        assert!(matching(&patterns, PathCase::Sensitive, "/x/y").is_empty());
    }

    #[test]
    fn patterns_of_a_thousand_prefixes_are_tried_one_at_a_time() {
        let texts: Vec<String> = (0..1_000).map(|n| format!("/api/f{n}/(?<id>[^/]+)")).collect();
        let set = PatternSet::build(compiled(&texts, PathCase::Sensitive).iter(), PathCase::Sensitive).unwrap();
        assert_eq!(set.prefixes.len(), 1_000);
        assert!(set.prefixes.iter().all(|it| matches!(&it.patterns, Patterns::Few(few) if few.len() == 1)));
    }

    /// Texts of patterns that often share what they begin with.
    fn texts() -> impl Strategy<Value = Vec<String>> {
        let part = prop_oneof![
            3 => "[abAB]", 3 => Just("/".to_owned()), 1 => Just("(?:a|/b|ab)".to_owned()), 1 => Just("[^/]+".to_owned()),
            1 => Just(".*".to_owned()), 1 => Just("b?".to_owned()), 1 => Just("[A-b]".to_owned()), 1 => Just("%61".to_owned()),
            1 => Just("é".to_owned()), 1 => Just("|/a".to_owned()), 1 => Just("(?-i)B".to_owned()), 1 => Just("(?i)k".to_owned()),
        ];
        let text = prop::collection::vec(part, 0..6).prop_map(|parts| format!("/{}", parts.concat()));
        prop::collection::vec(text, 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_set_finds_what_its_patterns_match_one_by_one(
            texts in texts(),
            paths in prop::collection::vec(r"/([abABkK/]|%C3%A9){0,6}", 8),
            is_insensitive: bool,
        ) {
            let case = if is_insensitive { PathCase::Insensitive } else { PathCase::Sensitive };
            let patterns = compiled(&texts, case);
            let set = PatternSet::build(patterns.iter(), case).unwrap();
            for path in paths {
                let path = case.fold(path).into_owned();
                let expected: Vec<usize> = (0..patterns.len()).filter(|at| patterns[*at].is_match(&path)).collect();
                prop_assert_eq!(set.matches(&path).collect::<Vec<_>>(), expected, "{} in {:?}", path, texts);
            }
        }
    }
}
