//! Many path patterns at once: only those are tried whose literal texts the path has where they must be.

use std::collections::{BTreeMap, BTreeSet};

use regex::{RegexSet, RegexSetBuilder};
use regex_syntax::hir::{Capture, Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Repetition};
use smallvec::SmallVec;

use super::pattern::{Matcher, Pattern};
use crate::http::target::PathCase;

/// Most patterns with one prefix that are tried one by one. One pass over all of them costs as much as this many.
const FEW: usize = 8;
/// Most texts of an opening that are compared.
const TEXTS: usize = 16;
/// Most openings of a pattern.
const OPENINGS: usize = 64;
/// Largest compiled set of patterns with one prefix, in bytes.
const COMPILED: usize = 64 << 20;

/// Patterns by the texts that matching paths begin with and, where many share one, by the texts that follow the next segment. The time of
/// a lookup grows with the number of patterns that have all these texts alike, and not with the number of all patterns.
#[derive(Debug, Default)]
pub struct PatternSet {
    prefixes: Prefixes,
}

/// In the order of their texts, which are in lower case: with letters of both cases, a pattern that ignores case would have too many.
#[derive(Debug, Default)]
struct Prefixes(Vec<Prefix>);

#[derive(Debug)]
struct Prefix {
    text: Vec<u8>,
    /// The index of the longest other prefix that `text` begins with.
    shorter: Option<usize>,
    patterns: Patterns,
    /// Those that take whatever stands between `text` and the next `/`, by what follows.
    behind_segment: Prefixes,
}

/// The patterns with one prefix, with their indexes in the order given.
#[derive(Debug)]
enum Patterns {
    Few(Vec<(usize, Matcher)>),
    Many(Vec<usize>, RegexSet),
}

/// A pattern, its index in the order given, and the texts that are still to be compared: all but the first follow a segment.
type Indexed<'p> = (usize, &'p Pattern, &'p [Vec<u8>]);

impl PatternSet {
    /// `None` if the patterns with the same texts are too large together.
    pub fn build<'p>(patterns: impl Iterator<Item = &'p Pattern>, case: PathCase) -> Option<PatternSet> {
        PatternSet::splitting(patterns, case, FEW)
    }

    /// With at most `few` patterns that share a prefix and are not told apart by what follows the next segment.
    fn splitting<'p>(
        patterns: impl Iterator<Item = &'p Pattern>,
        case: PathCase,
        few: usize,
    ) -> Option<PatternSet> {
        let patterns: Vec<_> = patterns.map(|pattern| (pattern, openings(pattern))).collect();
        let each = patterns.iter().enumerate().flat_map(|(index, (pattern, openings))| {
            openings.iter().map(move |opening| (index, *pattern, opening.texts.as_slice()))
        });
        let prefixes = Prefixes::of(each.collect(), case, few)?;
        Some(PatternSet { prefixes })
    }

    /// Indexes of the matching patterns, in the order given.
    pub fn matches(&self, path: &str) -> impl Iterator<Item = usize> + use<> {
        let mut found = SmallVec::<[usize; 8]>::new();
        match path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => self.prefixes.find(path, path.to_ascii_lowercase().as_bytes(), &mut found),
            false => self.prefixes.find(path, path.as_bytes(), &mut found),
        }
        found.sort_unstable();
        found.dedup();
        found.into_iter()
    }
}

impl Prefixes {
    fn of(patterns: Vec<Indexed<'_>>, case: PathCase, few: usize) -> Option<Prefixes> {
        let mut by_prefix: BTreeMap<&[u8], Vec<Indexed<'_>>> = BTreeMap::new();
        for (index, pattern, texts) in patterns {
            let (first, behind) = texts.split_first()?;
            by_prefix.entry(first).or_default().push((index, pattern, behind));
        }
        let mut prefixes: Vec<Prefix> = Vec::with_capacity(by_prefix.len());
        for (text, patterns) in by_prefix {
            // What is shorter comes first. If the one before is no prefix of this one, one of its own prefixes may be.
            let mut shorter = prefixes.len().checked_sub(1);
            while let Some(at) = shorter.filter(|at| !text.starts_with(&prefixes[*at].text)) {
                shorter = prefixes[at].shorter;
            }
            let is_split = patterns.chunk_by(|one, next| one.0 == next.0).count() > few;
            let (behind, mut here): (Vec<_>, Vec<_>) =
                patterns.into_iter().partition(|(_, _, behind)| is_split && !behind.is_empty());
            // A pattern may have several openings with this text.
            here.dedup_by_key(|(index, ..)| *index);
            let (patterns, behind_segment) = (Patterns::build(&here, case)?, Prefixes::of(behind, case, few)?);
            prefixes.push(Prefix { text: text.to_vec(), shorter, patterns, behind_segment });
        }
        Some(Prefixes(prefixes))
    }

    /// Adds the indexes of the patterns that match the path and whose texts `rest`, the end of the path, has.
    fn find(&self, path: &str, rest: &[u8], found: &mut SmallVec<[usize; 8]>) {
        // Every prefix of the rest is also one of the last text that is not after it.
        let mut next = self.0.partition_point(|prefix| *prefix.text <= *rest).checked_sub(1);
        while let Some(prefix) = next.map(|at| &self.0[at]) {
            if let Some(behind) = rest.strip_prefix(prefix.text.as_slice()) {
                prefix.patterns.find(path, found);
                if let Some(slash) = memchr::memchr(b'/', behind) {
                    prefix.behind_segment.find(path, &behind[slash..], found);
                }
            }
            next = prefix.shorter;
        }
    }
}

impl Patterns {
    fn build(patterns: &[Indexed<'_>], case: PathCase) -> Option<Patterns> {
        if patterns.len() <= FEW {
            let few = patterns.iter().map(|(index, pattern, _)| (*index, pattern.matcher().clone()));
            return Some(Patterns::Few(few.collect()));
        }
        let mut set = RegexSetBuilder::new(patterns.iter().map(|(_, pattern, _)| pattern.regex().as_str()));
        set.case_insensitive(case == PathCase::Insensitive).size_limit(COMPILED);
        Some(Patterns::Many(patterns.iter().map(|(index, _, _)| *index).collect(), set.build().ok()?))
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

/// How paths that a pattern matches begin, apart from the case of ASCII letters.
#[derive(Debug, Clone)]
struct Opening {
    /// They begin with the first text; after the next `/` the second text follows, and so on.
    texts: Vec<Vec<u8>>,
    then: Then,
}

/// What is known of the path behind the last text of an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next literal of the pattern follows at once.
    Literal,
    /// It follows in the same segment.
    InSegment,
    Nothing,
}

/// Every path that the pattern matches begins as one of these says. Empty if it matches none.
fn openings(pattern: &Pattern) -> Vec<Opening> {
    let unknown = Opening { texts: vec![Vec::new()], then: Then::Literal };
    let Some(hir) = pattern.hir().map(|hir| lower_case(&hir)) else { return vec![unknown] };
    let mut openings = Opening::all(vec![unknown], &hir);
    openings.iter_mut().for_each(|opening| opening.texts.truncate(TEXTS));
    openings
}

impl Opening {
    /// These, continued by the next part of the pattern: by each of its alternatives.
    fn all(mut openings: Vec<Opening>, part: &Hir) -> Vec<Opening> {
        let skipped = |mut openings: Vec<Opening>, part| {
            openings.iter_mut().for_each(|opening| opening.skip(part));
            openings
        };
        let forked = match part.kind() {
            HirKind::Empty | HirKind::Look(_) => return openings,
            HirKind::Class(class) if class.is_empty() => return Vec::new(),
            HirKind::Class(_) => return skipped(openings, part),
            HirKind::Literal(literal) => {
                openings.iter_mut().for_each(|opening| opening.add(&literal.0));
                return openings;
            }
            HirKind::Capture(capture) => return Opening::all(openings, &capture.sub),
            HirKind::Concat(parts) => return parts.iter().fold(openings, Opening::all),
            HirKind::Repetition(Repetition { min: 0, max: Some(1), sub, .. }) => {
                [openings.clone(), Opening::all(openings.clone(), sub)].concat()
            }
            HirKind::Repetition(Repetition { min: 0, .. }) => return skipped(openings, part),
            HirKind::Repetition(repetition) => {
                return skipped(Opening::all(openings, &repetition.sub), &repetition.sub);
            }
            HirKind::Alternation(parts) => {
                parts.iter().flat_map(|part| Opening::all(openings.clone(), part)).collect()
            }
        };
        if forked.len() > OPENINGS { skipped(openings, part) } else { forked }
    }

    fn add(&mut self, literal: &[u8]) {
        match (self.then, self.texts.last_mut(), memchr::memchr(b'/', literal)) {
            (Then::Literal, Some(text), _) => text.extend_from_slice(literal),
            (Then::InSegment, _, Some(slash)) => {
                self.texts.push(literal[slash..].to_vec());
                self.then = Then::Literal;
            }
            _ => {}
        }
    }

    /// Passes over something that may be any of several texts.
    fn skip(&mut self, part: &Hir) {
        self.then = match self.then {
            Then::Literal | Then::InSegment if !may_have_slash(part) => Then::InSegment,
            _ => Then::Nothing,
        };
    }
}

/// The pattern with ASCII letters in lower case: it matches every text, put in lower case, that the pattern matches. Paths are in ASCII,
/// and have none of the two other letters that become `k` and `s`.
fn lower_case(hir: &Hir) -> Hir {
    let of_class = |ranges: Vec<(u32, u32)>| {
        let ascii = ranges.iter().flat_map(|(first, last)| *first..=(*last).min(127));
        let ascii: BTreeSet<u8> = ascii.filter_map(|byte| u8::try_from(byte).ok()).collect();
        let lower: BTreeSet<u8> = ascii.iter().map(u8::to_ascii_lowercase).collect();
        let other =
            ranges.into_iter().map(|(first, last)| (first.max(128), last)).filter(|(first, last)| first <= last);
        let folds_to = |character| match character {
            '\u{212a}' => Some(b'k'),
            '\u{17f}' => Some(b's'),
            _ => None,
        };
        let other = other.filter_map(|(first, last)| Some((char::from_u32(first)?, char::from_u32(last)?)));
        let is_needed = |(first, last): &(char, char)| {
            first != last || folds_to(*first).is_none_or(|letter| !lower.contains(&letter))
        };
        let other = other.filter(is_needed).map(|(first, last)| ClassUnicodeRange::new(first, last));
        let ascii = lower.iter().map(|byte| ClassUnicodeRange::new(char::from(*byte), char::from(*byte)));
        Hir::class(Class::Unicode(ClassUnicode::new(ascii.chain(other))))
    };
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => hir.clone(),
        HirKind::Literal(literal) => Hir::literal(literal.0.to_ascii_lowercase()),
        HirKind::Class(Class::Unicode(class)) => {
            of_class(class.iter().map(|range| (range.start().into(), range.end().into())).collect())
        }
        HirKind::Class(Class::Bytes(class)) => {
            of_class(class.iter().map(|range| (range.start().into(), range.end().into())).collect())
        }
        HirKind::Repetition(repetition) => {
            Hir::repetition(Repetition { sub: Box::new(lower_case(&repetition.sub)), ..repetition.clone() })
        }
        HirKind::Capture(capture) => {
            Hir::capture(Capture { sub: Box::new(lower_case(&capture.sub)), ..capture.clone() })
        }
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(lower_case).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(lower_case).collect()),
    }
}

/// Whether a text that it matches may have a `/`.
fn may_have_slash(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(literal) => literal.0.contains(&b'/'),
        HirKind::Class(Class::Unicode(class)) => class.iter().any(|it| (it.start()..=it.end()).contains(&'/')),
        HirKind::Class(Class::Bytes(class)) => class.iter().any(|it| (it.start()..=it.end()).contains(&b'/')),
        HirKind::Repetition(repetition) => may_have_slash(&repetition.sub),
        HirKind::Capture(capture) => may_have_slash(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(may_have_slash),
    }
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
        let rows: [(&[&str], &str, &[usize]); 12] = [
            (&["/a/b", "/a", "/a/.*", ".*", "/b"], "/a/b", &[0, 2, 3]),
            (&["/a|/b", "/b|/bc?"], "/b", &[0, 1]),
            (&["/ab|/abc", "/abc|/ab"], "/abc", &[0, 1]),
            (&["/(x|y)z", "/x.*"], "/yz", &[0]),
            (&["/a(?<x>b)?c", "/ab"], "/ac", &[0]),
            (&["^/a$", "(?i)/A", "(?m)/a$"], "/a", &[0, 1, 2]),
            (&["/a/bcd/e", "/a/", "/a/bcd", "/a/b.*"], "/a/bce", &[3]),
            (&[r"/\w+/z", "/a/z"], "/a/z", &[0, 1]),
            (&["/.*/c", "/(?:a/)?.*/c"], "/a/b/c", &[0, 1]),
            (&[r"/\w+b/c", "/[^/]+b/d"], "/ab/c", &[0]),
            (&["/(?:ab)+c", "/(?:ab/)+c", "/(?:ab){2}/x"], "/ababc", &[0]),
            (&["/(?:ab/)+c", r"/\w+/(?:ab|x)/c", r"/\w+/(?:|ab/)c"], "/ab/ab/c", &[0, 1, 2]),
        ];
        for (texts, path, expected) in rows {
            let patterns = compiled(texts, PathCase::Sensitive);
            for few in [0, FEW] {
                let set = PatternSet::splitting(patterns.iter(), PathCase::Sensitive, few).unwrap();
                assert_eq!(set.matches(path).collect::<Vec<_>>(), expected, "{texts:?}");
            }
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
        assert_eq!(set.prefixes.0.len(), 1_000);
        assert!(set.prefixes.0.iter().all(|it| matches!(&it.patterns, Patterns::Few(few) if few.len() == 1)));
    }

    /// Most patterns that are tried one by one for a path; `None`: more than [`FEW`] in one pass.
    fn most_tried(prefixes: &Prefixes) -> Option<usize> {
        let each = prefixes.0.iter().map(|prefix| match &prefix.patterns {
            Patterns::Few(few) => Some(few.len().max(most_tried(&prefix.behind_segment)?)),
            Patterns::Many(..) => None,
        });
        each.collect::<Option<Vec<usize>>>().map(|each| each.into_iter().max().unwrap_or(0))
    }

    #[test]
    fn patterns_that_differ_behind_a_capture_are_tried_singly() {
        let shapes: [fn(usize) -> String; 7] = [
            |n| format!(r"/(?<tenant>[^/]+)/thing{n}/(?<id>\d+)"),
            |n| format!(r"/(?<tenant>[^/]+)/(?:get|list)/(?:thing{n}|things{n})/(?<id>\d+)"),
            |n| format!(r"/(?<tenant>[^/]+)-app/thing{n}"),
            |n| format!(r"/[12](?:/beta)?/thing{n}/?"),
            |n| format!(r"/(?<tenant>[^/]+)/v(?<version>\d+)/thing{n}(?:/.*)?"),
            |n| format!(r"/api/v1/thing{n}/(?<id>\d+)(?:/.*)?"),
            |n| format!(r"/Api/(?<a>\w+)/(?<b>\w+)/é{n}/.*"),
        ];
        for case in [PathCase::Sensitive, PathCase::Insensitive] {
            for shape in shapes {
                let texts: Vec<String> = (0..100).map(shape).collect();
                let set = PatternSet::build(compiled(&texts, case).iter(), case).unwrap();
                assert_eq!(most_tried(&set.prefixes), Some(1), "{}, {case:?}", texts[7]);
            }
        }
    }

    #[test]
    fn patterns_with_alternatives_are_tried_singly() {
        let shapes: [fn(usize) -> String; 2] =
            [|n| format!(r"/(?:users{n}|members{n})/(?<id>\d+)"), |n| format!(r"(?i)/Orders{n}/(?<id>\d+)")];
        for shape in shapes {
            let texts: Vec<String> = (0..100).map(shape).collect();
            let set =
                PatternSet::build(compiled(&texts, PathCase::Sensitive).iter(), PathCase::Sensitive).unwrap();
            assert_eq!(most_tried(&set.prefixes), Some(1), "{}", texts[7]);
        }
    }

    #[test]
    fn classes_whose_letters_fold_to_others_are_found() {
        let texts = [r"/[\u{212A}]ate", "/[ſ]", "/(?:[a-z&&[A-Cx]])", "/x|/[a&&A]", "/(?-i)[B]", "/[K]ate/x"];
        let patterns = compiled(&texts, PathCase::Insensitive);
        assert_eq!(patterns.len(), texts.len());
        let set = PatternSet::splitting(patterns.iter(), PathCase::Insensitive, 0).unwrap();
        for path in ["/kate", "/s", "/a", "/x", "/b", "/kate/x"] {
            let expected: Vec<usize> = (0..patterns.len()).filter(|at| patterns[*at].is_match(path)).collect();
            assert_eq!(set.matches(path).collect::<Vec<_>>(), expected, "{path}");
        }
    }

    #[test]
    fn a_pattern_of_many_segments_is_found() {
        let patterns = compiled(&["/[ab]".repeat(800)], PathCase::Sensitive);
        assert_eq!(patterns.len(), 1);
        let set = PatternSet::splitting(patterns.iter(), PathCase::Sensitive, 0).unwrap();
        assert_eq!(set.matches(&"/a".repeat(800)).collect::<Vec<_>>(), [0]);
    }

    /// Texts of patterns that often share what they begin with.
    fn texts() -> impl Strategy<Value = Vec<String>> {
        let part = prop_oneof![
            3 => "[abAB]", 3 => Just("/".to_owned()), 1 => Just("(?:a|/b|ab)".to_owned()), 3 => Just("[^/]+".to_owned()), 1 => Just("[a-z]?/".to_owned()),
            1 => Just(".*".to_owned()), 1 => Just("b?".to_owned()), 1 => Just("[A-b]".to_owned()), 1 => Just("%61".to_owned()),
            1 => Just("é".to_owned()), 1 => Just("|/a".to_owned()), 1 => Just("(?-i)B".to_owned()), 1 => Just("(?i)k".to_owned()),
            1 => Just("[A]".to_owned()), 1 => Just("[ab]{2}".to_owned()), 1 => Just("[ſ\u{212A}]".to_owned()),
            1 => Just("[a-z&&[A-Bk]]".to_owned()), 1 => Just("(?:|/a)".to_owned()), 1 => Just("(?:/a)*".to_owned()),
            1 => Just("(?<x>a|(?:b/))?".to_owned()), 1 => Just("(?-i)[B]".to_owned()), 1 => Just("[^a]".to_owned()), 1 => Just("$".to_owned()),
        ];
        let text = prop::collection::vec(part, 0..6).prop_map(|parts| format!("/{}", parts.concat()));
        prop::collection::vec(text, 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn a_set_finds_what_its_patterns_match_one_by_one(
            texts in texts(),
            paths in prop::collection::vec(r"/([abABkKsS/]|%C3%A9){0,6}", 8),
            is_insensitive: bool,
            few in 0..FEW,
        ) {
            let case = if is_insensitive { PathCase::Insensitive } else { PathCase::Sensitive };
            let patterns = compiled(&texts, case);
            let set = PatternSet::splitting(patterns.iter(), case, few).unwrap();
            for path in paths {
                let path = case.fold(path).into_owned();
                let expected: Vec<usize> = (0..patterns.len()).filter(|at| patterns[*at].is_match(&path)).collect();
                prop_assert_eq!(set.matches(&path).collect::<Vec<_>>(), expected, "{} in {:?}", path, texts);
            }
        }
    }
}
