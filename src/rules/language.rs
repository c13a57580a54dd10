//! Exact answers on which paths patterns match: whether a pattern matches any, and whether earlier patterns match all
//! of its paths. The patterns become one automaton, which is searched for all states that a path in normal form
//! ([`crate::http::target::normalise`]) can reach.

use std::collections::{HashMap, VecDeque};

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind, Look, Repetition};

use crate::http::target;

/// Largest automaton and largest cost of building it, in bytes. Above it, no answer is given.
const SIZE: usize = 2 << 20;

/// Fixed cost of each pattern of an automaton, in bytes, since it is compiled first.
const PATTERN: usize = 8 << 10;

/// Paths in normal form: no dot segments, upper-case encodings, and only where encoding is needed. Omits some paths
/// with a `%` that starts no encoding.
const NORMAL: &str = "(?:/(?:|SEGMENT))+";
const PLAIN_BUT_DOT: &str = r"[A-Za-z0-9_~!$&'()*+,;=:@-]";
/// A required encoding, or a `%` that starts none.
const ENCODED: &str = r"%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[B-DF]|[g-zG-Z._~-])";

/// Patterns that match a common path, and such a path.
pub type Common = (Vec<usize>, String);

/// Every set of patterns for which some path in normal form is matched by exactly these patterns, each with a short
/// such path. `None` if that is too expensive.
///
/// `bytes` is the remaining budget for automata; the cost of this call is deducted.
pub fn of_paths(bytes: &mut usize, patterns: &[Hir]) -> Option<Vec<Common>> {
    let normal = regex_syntax::parse(&normal()).ok()?;
    let with_normal: Vec<Hir> = patterns.iter().cloned().chain([normal]).collect();
    let normal = patterns.len();
    let mut found = commons(bytes, &with_normal)?;
    found.retain_mut(|(which, _)| which.pop_if(|last| *last == normal).is_some() && !which.is_empty());
    Some(found)
}

/// The same for any texts of bytes that occur in paths.
pub fn commons(bytes: &mut usize, patterns: &[Hir]) -> Option<Vec<Common>> {
    let most = SIZE.min(*bytes);
    if most == 0 {
        return None;
    }
    let dfa = automaton(patterns, most);
    let taken = dfa.as_ref().map_or(most, |dfa| dfa.memory_usage() + PATTERN * patterns.len());
    *bytes = bytes.saturating_sub(taken);
    walk(&dfa?)
}

/// `None` if it would be larger.
fn automaton(patterns: &[Hir], most: usize) -> Option<dense::DFA<Vec<u32>>> {
    let whole = |pattern| Hir::concat(vec![ascii(pattern), Hir::look(Look::End)]);
    let patterns: Vec<Hir> = patterns.iter().map(whole).collect();
    let config = thompson::Config::new().utf8(false).which_captures(thompson::WhichCaptures::None);
    let nfa = thompson::Compiler::new().configure(config).build_many_from_hir(&patterns).ok()?;
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(MatchKind::All)
        .dfa_size_limit(Some(most))
        .determinize_size_limit(Some(most));
    dense::Builder::new().configure(config).build_from_nfa(&nfa).ok()
}

/// Breadth first, so that the paths are short.
fn walk(dfa: &dense::DFA<Vec<u32>>) -> Option<Vec<Common>> {
    let letters = letters();
    let start = dfa.universal_start_state(Anchored::Yes)?;
    let mut seen: HashMap<StateID, Option<(StateID, u8)>> = HashMap::from([(start, None)]);
    let mut found: HashMap<Vec<usize>, StateID> = HashMap::new();
    let mut ahead = VecDeque::from([start]);
    while let Some(state) = ahead.pop_front() {
        let end = dfa.next_eoi_state(state);
        if dfa.is_match_state(end) {
            let mut which: Vec<usize> =
                (0..dfa.match_len(end)).map(|at| dfa.match_pattern(end, at).as_usize()).collect();
            which.sort_unstable();
            found.entry(which).or_insert(state);
        }
        for letter in &letters {
            let next = dfa.next_state(state, *letter);
            if dfa.is_quit_state(next) {
                return None;
            }
            if !dfa.is_dead_state(next) && !seen.contains_key(&next) {
                seen.insert(next, Some((state, *letter)));
                ahead.push_back(next);
            }
        }
    }
    Some(found.into_iter().map(|(which, state)| (which, way(&seen, state))).collect())
}

/// The predecessor of a state.
fn way(seen: &HashMap<StateID, Option<(StateID, u8)>>, mut state: StateID) -> String {
    let mut letters = Vec::new();
    while let Some(Some((before, letter))) = seen.get(&state) {
        letters.push(char::from(*letter));
        state = *before;
    }
    letters.iter().rev().collect()
}

/// The bytes of paths, those without a special meaning first.
fn letters() -> Vec<u8> {
    let first = b"x1aA-/.";
    let others = (0..=0x7F).filter(|byte| (target::is_plain(*byte) || *byte == b'%') && !first.contains(byte));
    first.iter().copied().chain(others).collect()
}

fn normal() -> String {
    let (plain, any) = (format!("(?:{PLAIN_BUT_DOT}|{ENCODED})"), format!("(?:[.]|{PLAIN_BUT_DOT}|{ENCODED})"));
    // Neither `.` nor `..`.
    let segment = format!("(?:{plain}{any}*|[.]{plain}{any}*|[.][.]{any}+)%?|[.]{{0,2}}%");
    NORMAL.replace("SEGMENT", &segment)
}

/// The pattern restricted to ASCII, which covers paths in normal form: a much smaller automaton.
fn ascii(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) => hir.clone(),
        HirKind::Class(Class::Unicode(class)) => {
            let mut class = class.clone();
            class.intersect(&ClassUnicode::new([ClassUnicodeRange::new('\0', '\u{7F}')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(_)) => hir.clone(),
        HirKind::Look(look) => Hir::look(match look {
            Look::WordUnicode => Look::WordAscii,
            Look::WordUnicodeNegate => Look::WordAsciiNegate,
            Look::WordStartUnicode => Look::WordStartAscii,
            Look::WordEndUnicode => Look::WordEndAscii,
            Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
            Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
            other => *other,
        }),
        HirKind::Repetition(Repetition { min, max, greedy, sub }) => {
            Hir::repetition(Repetition { min: *min, max: *max, greedy: *greedy, sub: Box::new(ascii(sub)) })
        }
        HirKind::Capture(capture) => ascii(&capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(ascii).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(ascii).collect()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn hir(pattern: &str) -> Hir {
        regex_syntax::parse(pattern).unwrap()
    }

    fn is_matchable(pattern: &str) -> bool {
        !of_paths(&mut SIZE.clone(), &[hir(pattern)]).unwrap().is_empty()
    }

    #[test]
    fn unmatchable_patterns_are_found() {
        for pattern in [
            "/users",
            "/.*",
            r"/a\.b",
            "/%C3%BCber",
            "/a%2Fb",
            r"/\.\.\.",
            r"/\.\.a",
            r"/\.a/b\.",
            r"/a/../b",
            "/100%/x",
            "//",
            "/",
            "/a b|/c",
            r"/\w{1,300}",
            "(?i)/USERS",
            r"/\bx\b",
            "/[^/]+:publish",
            "/%zz",
        ] {
            assert!(is_matchable(pattern), "{pattern}");
        }
        for pattern in [
            "/über",
            "/a b",
            "/a b?",
            "/a%2fb",
            "/%7Ejoe",
            "/%41",
            r"/a/\.\./b",
            r"/\./a",
            r"/a/\.\.",
            r"/list\?x",
            "/a#b",
            r"/a\nb",
            "/a\"b",
            r"/x\b\w",
            "/[{}]+",
            "/a$b",
        ] {
            assert!(!is_matchable(pattern), "{pattern}");
        }
    }

    #[test]
    fn common_paths_of_patterns_have_an_example() {
        let mut found =
            of_paths(&mut SIZE.clone(), &[hir("/users/[^/]+"), hir("/users/me|/x"), hir(r"/users/\d+")]).unwrap();
        found.sort();
        let which: Vec<&[usize]> = found.iter().map(|(which, _)| &which[..]).collect();
        assert_eq!(which, [&[0][..], &[0, 1], &[0, 2], &[1]]);
        assert_eq!(found[0].1, "/users/x");
        assert_eq!(found[1].1, "/users/me");
    }

    #[test]
    fn automata_over_the_budget_are_not_built() {
        let pattern = format!("/.*{}", "a.{12}".repeat(3));
        let mut bytes = SIZE + 1;
        assert_eq!(of_paths(&mut bytes, &[hir(&pattern), hir("/.*b.{20}")]), None);
        assert_eq!(bytes, 1);
    }

    /// A `%` that starts no encoding; some of these are omitted.
    static LOOSE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("%([^0-9A-Fa-f]|[0-9A-Fa-f]([^0-9A-Fa-f]|$))").unwrap());

    static IS_NORMAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!("^{}$", normal())).unwrap());

    proptest! {
        #[test]
        fn a_path_in_normal_form_is_one_of_them(path in "(/([a-z%0-9A-F.~ü @:\\\\-]{0,6}|%[0-9a-f]{2}))*") {
            let path = target::normalise(&path).into_owned();
            // For the omissions see [`NORMAL`].
            let is_missing = path.contains("%%") || path.contains("%Z") || LOOSE.is_match(&path);
            prop_assert!(is_missing || IS_NORMAL.is_match(&path), "{path}");
        }
    }
}
