//! Patterns that need no regular-expression engine: literals and repeated character classes in a row, such as
//! `/users/(?<id>\d+)/posts`, where every repetition can end at one place only. Most patterns of APIs are such.

use regex_syntax::hir::{Class, Hir, HirKind, Look};
use smallvec::SmallVec;

/// The places of the named captures in a path, in pattern order: begin and end.
pub(super) type CapturePlaces = SmallVec<[(usize, usize); 4]>;

/// A pattern of this kind.
#[derive(Debug)]
pub(super) struct LinearPattern {
    steps: Vec<MatchStep>,
    captures: usize,
}

#[derive(Debug, PartialEq)]
enum MatchStep {
    Literal(Box<[u8]>),
    /// Bytes of a class. `most` is `usize::MAX` for no limit.
    Repeat {
        class: Box<[bool; 256]>,
        least: usize,
        most: usize,
    },
    /// A named capture begins or ends, with its position among them.
    Begin(usize),
    End(usize),
}

impl LinearPattern {
    /// `None` if the pattern is of another kind.
    pub fn of(hir: &Hir) -> Option<LinearPattern> {
        let mut linear = LinearPattern { steps: Vec::new(), captures: 0 };
        let parts = match hir.kind() {
            HirKind::Concat(parts) => parts.as_slice(),
            _ => std::slice::from_ref(hir),
        };
        // Whole paths are matched, so that anchors at the ends say nothing.
        let parts = parts.strip_prefix(&[Hir::look(Look::Start)]).unwrap_or(parts);
        let parts = parts.strip_suffix(&[Hir::look(Look::End)]).unwrap_or(parts);
        parts.iter().try_for_each(|part| linear.add(part))?;
        linear.is_definite().then_some(linear)
    }

    fn add(&mut self, hir: &Hir) -> Option<()> {
        match hir.kind() {
            HirKind::Empty => {}
            HirKind::Literal(literal) => self.steps.push(MatchStep::Literal(literal.0.clone())),
            HirKind::Class(class) => self.steps.push(MatchStep::Repeat { class: table(class), least: 1, most: 1 }),
            HirKind::Repetition(repetition) => {
                let HirKind::Class(class) = repetition.sub.kind() else { return None };
                let most = repetition.max.map_or(usize::MAX, |most| most as usize);
                self.steps.push(MatchStep::Repeat { class: table(class), least: repetition.min as usize, most });
            }
            HirKind::Capture(capture) if capture.name.is_some() => {
                let position = self.captures;
                self.captures += 1;
                self.steps.push(MatchStep::Begin(position));
                self.add(&capture.sub)?;
                self.steps.push(MatchStep::End(position));
            }
            HirKind::Capture(capture) => self.add(&capture.sub)?,
            HirKind::Concat(parts) => parts.iter().try_for_each(|part| self.add(part))?,
            HirKind::Alternation(_) | HirKind::Look(_) => return None,
        }
        Some(())
    }

    /// Whether greedy matching is unambiguous: what follows a repetition of variable length cannot begin with a byte of its class.
    fn is_definite(&self) -> bool {
        let steps: Vec<&MatchStep> =
            self.steps.iter().filter(|step| !matches!(step, MatchStep::Begin(_) | MatchStep::End(_))).collect();
        steps.windows(2).all(|pair| match pair {
            [MatchStep::Repeat { least, most, .. }, _] if least == most => true,
            [MatchStep::Repeat { class, .. }, MatchStep::Literal(literal)] => {
                literal.first().is_some_and(|byte| !has(class, *byte))
            }
            [MatchStep::Repeat { class, .. }, MatchStep::Repeat { class: next, least, .. }] => {
                *least > 0 && !class.iter().zip(next.iter()).any(|(one, other)| *one && *other)
            }
            _ => true,
        })
    }

    /// The places of the named captures, if it matches the whole path. For paths in ASCII.
    pub fn find(&self, path: &[u8]) -> Option<CapturePlaces> {
        let mut places = CapturePlaces::from_elem((0, 0), self.captures);
        let mut at = 0;
        for step in &self.steps {
            match step {
                MatchStep::Literal(literal) => {
                    if !path[at..].starts_with(literal) {
                        return None;
                    }
                    at += literal.len();
                }
                MatchStep::Repeat { class, least, most } => {
                    let rest = &path[at..];
                    let rest = &rest[..rest.len().min(*most)];
                    let here = rest.iter().position(|byte| !has(class, *byte)).unwrap_or(rest.len());
                    if here < *least {
                        return None;
                    }
                    at += here;
                }
                MatchStep::Begin(position) => places[*position].0 = at,
                MatchStep::End(position) => places[*position].1 = at,
            }
        }
        (at == path.len()).then_some(places)
    }
}

fn has(class: &[bool; 256], byte: u8) -> bool {
    class[usize::from(byte)]
}

/// The ASCII characters of a class.
fn table(class: &Class) -> Box<[bool; 256]> {
    let mut table = Box::new([false; 256]);
    let mut add = |first: u32, last: u32| (first..=last.min(127)).for_each(|byte| table[byte as usize] = true);
    match class {
        Class::Unicode(class) => class.iter().for_each(|range| add(range.start().into(), range.end().into())),
        Class::Bytes(class) => class.iter().for_each(|range| add(range.start().into(), range.end().into())),
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::target::PathCase;
    use crate::rules::pattern::Pattern;
    use proptest::prelude::*;

    fn linear(text: &str) -> Option<LinearPattern> {
        LinearPattern::of(&Pattern::compile(text, PathCase::Sensitive).unwrap().hir().unwrap())
    }

    #[test]
    fn patterns_of_apis_are_linear() {
        let texts = [
            "/users",
            "^/users$",
            r"/users/(?<id>\d+)",
            r"/v1\.0/(?<a>[^/]+)/(?<b>[a-z]{2,8})/x",
            r"/(?<date>\d{4}-\d\d-\d\d)/.*",
            r"/(?<word>\w+)\.json",
            "(?i)/users",
        ];
        for text in texts {
            assert!(linear(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_pattern_with_several_possible_matches_is_not_linear() {
        for text in [
            "/a|/b",
            "/a?",
            "/.*/x",
            "/(?:ab)+",
            r"/(?<a>\d*)(?<b>\d+)",
            r"/\w+z",
            r"/a\b",
            "/(?m)a$",
            r"/[a-z]+\d*z",
        ] {
            assert!(linear(text).is_none(), "{text}");
        }
    }

    /// Texts of patterns, most of them linear.
    fn texts() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[abAB/]", 2 => Just("[^/]+".to_owned()), 2 => Just(r"\d+".to_owned()), 1 => Just("[ab]{1,2}".to_owned()),
            1 => Just(r"\w*".to_owned()), 1 => Just(".*".to_owned()), 1 => Just("[a1]{2}".to_owned()), 1 => Just("é".to_owned()),
            1 => Just("(?i)k".to_owned()), 1 => Just("a?".to_owned()),
        ];
        let part = (part, prop::option::weighted(0.3, 0..6usize));
        prop::collection::vec(part, 0..6).prop_map(|parts| {
            let mut names = std::collections::BTreeSet::new();
            let parts = parts.into_iter().map(|(part, name)| match name {
                Some(name) if names.insert(name) => format!("(?<n{name}>{part})"),
                _ => part,
            });
            format!("/{}", parts.collect::<String>())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_linear_pattern_finds_what_its_regex_finds(
            text in texts(),
            paths in prop::collection::vec("/([abABkK01/]|%C3%A9){0,6}", 12),
        ) {
            let pattern = Pattern::compile(&text, PathCase::Sensitive).unwrap();
            if let Some(linear) = LinearPattern::of(&pattern.hir().unwrap()) {
                for path in paths {
                    let expected = pattern.regex().captures(&path).map(|found| {
                        let places = pattern.regex().capture_names().enumerate().filter(|(_, name)| name.is_some());
                        places.map(|(at, _)| found.get(at).map_or((0, 0), |it| (it.start(), it.end()))).collect::<CapturePlaces>()
                    });
                    prop_assert_eq!(linear.find(path.as_bytes()), expected, "{} on {}", text, path);
                }
            }
        }
    }
}
