//! Path patterns: regular expressions over the whole normalised path, anchored at both ends. Their literals are
//! normalised like paths: `%40`, `%7e` and `é` in a pattern match their normal forms.

use std::ops::Range;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Hir, HirKind};
use smallvec::SmallVec;

use super::fault::TextFault;
use super::linear::LinearPattern;
use super::notation;
use crate::http::target::{PathCase, is_plain_delimiter, is_unreserved, stands_plainly};

/// Longest pattern, in bytes.
const TEXT: usize = 4096;
/// Largest compiled pattern, in bytes: stops `(\w{1,500}){500}`, not ordinary patterns.
const COMPILED: usize = 1 << 20;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    case: PathCase,
    matcher: Matcher,
    /// Index and name of each named capture, in pattern order.
    named: Vec<(usize, String)>,
}

/// What matches paths.
#[derive(Debug, Clone)]
pub(super) struct Matcher {
    /// Of the anchored pattern, with its literals in normal form.
    regex: Regex,
    /// The same pattern, if it needs no regular-expression engine.
    linear: Option<Arc<LinearPattern>>,
}

impl Matcher {
    fn linear(&self, path: &str) -> Option<&LinearPattern> {
        // Normalised paths are ASCII.
        self.linear.as_deref().filter(|_| path.is_ascii())
    }

    /// Whether it matches the whole path.
    pub fn is_match(&self, path: &str) -> bool {
        match self.linear(path) {
            Some(linear) => linear.find(path.as_bytes()).is_some(),
            None => self.regex.is_match(path),
        }
    }
}

impl PartialEq for Pattern {
    /// Patterns are equal if their texts are.
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text && self.case == other.case
    }
}

impl Pattern {
    /// Compiles a pattern. `^` and `$` at its ends are allowed and redundant.
    pub fn compile(text: &str, case: PathCase) -> Result<Pattern, TextFault> {
        let fault = |at, message: String, remedy: &str| Err(TextFault { at, message, remedy: remedy.to_owned() });
        if text.len() > TEXT {
            return fault(0..text.len(), format!("the pattern is longer than {TEXT} bytes"), "shorten it");
        }
        if let Some(fault) = notation::other(text) {
            return Err(fault);
        }
        let hir = regex_syntax::parse(text).map_err(|error| syntax_fault(&error, text))?;
        if !may_begin_with_slash(&hir) {
            let message = "the pattern can match no path: every path begins with \"/\"".to_owned();
            return fault(0..text.len(), message, "begin the pattern with /, without scheme and host");
        }
        let anchored = anchored(&normalised(text, case));
        let mut builder = RegexBuilder::new(&anchored);
        match builder.case_insensitive(case == PathCase::Insensitive).size_limit(COMPILED).build() {
            Ok(regex) => {
                let (named, matcher) = (named(&regex), Matcher { regex, linear: None });
                let mut pattern = Pattern { text: text.to_owned(), named, case, matcher };
                pattern.matcher.linear = pattern.hir().and_then(|hir| LinearPattern::of(&hir)).map(Arc::new);
                Ok(pattern)
            }
            Err(regex::Error::CompiledTooBig(_)) => {
                fault(0..text.len(), "the pattern is too large when compiled".to_owned(), "lower its {…} counts")
            }
            // It is valid without the anchors, so it must comment out their closing bracket.
            Err(_) => {
                fault(0..text.len(), "the pattern ends in a comment".to_owned(), "remove (?x) and the comment")
            }
        }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether paths that differ in case are equal.
    pub fn case(&self) -> PathCase {
        self.case
    }

    /// The parsed pattern, with literals in normal form and with the case-sensitivity of paths.
    pub fn hir(&self) -> Option<Hir> {
        let is_insensitive = self.case == PathCase::Insensitive;
        ParserBuilder::new()
            .case_insensitive(is_insensitive)
            .build()
            .parse(&normalised(&self.text, self.case))
            .ok()
    }

    /// The anchored pattern, with its literals in normal form.
    pub(super) fn regex(&self) -> &Regex {
        &self.matcher.regex
    }

    /// What matches paths.
    pub(super) fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// Whether it matches the whole path.
    pub fn is_match(&self, path: &str) -> bool {
        self.matcher.is_match(path)
    }

    /// The pattern without anchors at its ends: patterns with the same core match the same paths.
    pub fn core(&self) -> &str {
        let text = self.text.strip_prefix('^').unwrap_or(&self.text);
        match text.strip_suffix('$') {
            Some(core) if !core.ends_with('\\') => core,
            _ => text,
        }
    }

    /// The text that it matches, if it matches exactly one.
    pub fn only_text(&self) -> Option<String> {
        match regex_syntax::parse(self.core()).ok()?.kind() {
            HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok(),
            _ => None,
        }
    }

    /// Names of the captures, in pattern order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(|(_, name)| name.as_str())
    }

    /// The possible values of each named capture, in pattern order.
    pub fn values_of_captures(&self) -> Vec<Values> {
        // The pattern was parsed before, so this succeeds.
        let hir = self.hir();
        let values = |name: &str| Values::of(name, hir.as_ref().and_then(|hir| capture(hir, name)));
        self.names().map(values).collect()
    }

    /// Values of the named captures, in pattern order; `None` for a capture that took no part in the match. Empty if
    /// the path does not match.
    pub fn values<'p>(&self, path: &'p str) -> SmallVec<[(&str, Option<&'p str>); 4]> {
        if self.named.is_empty() {
            return SmallVec::new();
        }
        if let Some(linear) = self.matcher.linear(path) {
            let Some(places) = linear.find(path.as_bytes()) else { return SmallVec::new() };
            let values = places.iter().map(|(begin, end)| Some(&path[*begin..*end]));
            return self.named.iter().map(|(_, name)| name.as_str()).zip(values).collect();
        }
        let Some(found) = self.matcher.regex.captures(path) else { return SmallVec::new() };
        let value = |index: usize| found.get(index).map(|value| value.as_str());
        self.named.iter().map(|(index, name)| (name.as_str(), value(*index))).collect()
    }
}

/// The possible values of a named capture.
#[derive(Debug, Clone)]
pub struct Values {
    name: String,
    /// `None` if they depend on the surrounding text.
    regex: Option<Regex>,
}

impl Values {
    /// The values of a capture with this content.
    pub(super) fn of(name: &str, hir: Option<&Hir>) -> Values {
        let alone = hir.filter(|hir| hir.properties().look_set().is_empty());
        let regex =
            alone.and_then(|hir| RegexBuilder::new(&anchored(&hir.to_string())).size_limit(COMPILED).build().ok());
        Values { name: name.to_owned(), regex }
    }

    /// The capture's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the capture can have this value.
    pub fn contain(&self, value: &str) -> bool {
        self.regex.as_ref().is_none_or(|regex| regex.is_match(value))
    }
}

/// The content of a named capture.
pub(super) fn capture<'h>(hir: &'h Hir, name: &str) -> Option<&'h Hir> {
    match hir.kind() {
        HirKind::Capture(found) if found.name.as_deref() == Some(name) => Some(&found.sub),
        HirKind::Capture(other) => capture(&other.sub, name),
        HirKind::Repetition(repetition) => capture(&repetition.sub, name),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().find_map(|part| capture(part, name)),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => None,
    }
}

/// Rewrites the literals of a pattern to the normal form of paths: decodes needless percent-encodings, writes the
/// others in upper case, encodes characters that a path must encode, and writes letters in lower case if paths ignore
/// case. Character classes stay as they are.
fn normalised(text: &str, case: PathCase) -> String {
    let Ok(ast) = ast::parse::Parser::new().parse(text) else { return text.to_owned() };
    let mut edits = Vec::new();
    normalise_literals(&ast, case, &mut edits);
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (place, replacement) in edits {
        out.push_str(&text[at..place.start]);
        out.push_str(&replacement);
        at = place.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Collects the replacements, in pattern order.
fn normalise_literals(ast: &Ast, case: PathCase, edits: &mut Vec<(Range<usize>, String)>) {
    match ast {
        Ast::Literal(literal) => edits.extend(encoded(literal, case)),
        Ast::Repetition(repetition) => normalise_literals(&repetition.ast, case, edits),
        Ast::Group(group) => normalise_literals(&group.ast, case, edits),
        Ast::Alternation(alternation) => {
            alternation.asts.iter().for_each(|ast| normalise_literals(ast, case, edits));
        }
        Ast::Concat(concat) => {
            let mut rest = concat.asts.as_slice();
            while let [first, others @ ..] = rest {
                if let Some((count, edit)) = encodings(rest, case) {
                    edits.push(edit);
                    rest = &rest[3 * count..];
                } else {
                    normalise_literals(first, case, edits);
                    rest = others;
                }
            }
        }
        _ => {}
    }
}

/// The leading percent-encodings: their number and their normal form. Taken together, since several may encode one
/// character.
fn encodings(asts: &[Ast], case: PathCase) -> Option<(usize, (Range<usize>, String))> {
    let found: Vec<_> = asts.chunks(3).map_while(encoding).collect();
    let ((first, _), (last, _)) = found.first().zip(found.last())?;
    let place = first.start..last.end;
    let text = found.iter().map(|(_, text)| text.as_str()).collect::<String>();
    // The normal form has `\` only before delimiters, so no escape changes its meaning.
    Some((found.len(), (place, case.fold(text).into_owned())))
}

/// One percent-encoding and its normal form.
fn encoding(asts: &[Ast]) -> Option<(Range<usize>, String)> {
    let [Ast::Literal(percent), Ast::Literal(high), Ast::Literal(low)] = asts else { return None };
    let digits = high.c.to_digit(16).zip(low.c.to_digit(16)).filter(|_| percent.c == '%');
    let byte = digits.and_then(|(high, low)| u8::try_from(high * 16 + low).ok())?;
    let replacement = match is_unreserved(byte) || is_plain_delimiter(byte) {
        true => regex_syntax::escape(char::from(byte).encode_utf8(&mut [0; 4])),
        false => format!("%{byte:02X}"),
    };
    Some((percent.span.start.offset..low.span.end.offset, replacement))
}

/// A character that the normal form encodes or writes in lower case. `?` and `#` stay: they are no part of a path.
fn encoded(literal: &ast::Literal, case: PathCase) -> Option<(Range<usize>, String)> {
    let character = literal.c;
    let place = literal.span.start.offset..literal.span.end.offset;
    if character.is_ascii_uppercase() && case == PathCase::Insensitive {
        return Some((place, character.to_ascii_lowercase().to_string()));
    }
    if stands_plainly(character) || matches!(character, '%' | '?' | '#') {
        return None;
    }
    let bytes = character.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    Some((place, format!("(?:{})", case.fold(bytes))))
}

fn anchored(text: &str) -> String {
    format!("^(?:{text})$")
}

fn named(regex: &Regex) -> Vec<(usize, String)> {
    regex.capture_names().enumerate().filter_map(|(index, name)| Some((index, name?.to_owned()))).collect()
}

fn may_begin_with_slash(hir: &Hir) -> bool {
    let prefixes = Extractor::new().extract(hir);
    let Some(literals) = prefixes.literals() else { return true };
    literals.iter().any(|literal| literal.as_bytes().first().is_none_or(|first| *first == b'/'))
}

fn syntax_fault(error: &regex_syntax::Error, text: &str) -> TextFault {
    let (span, kind) = match error {
        regex_syntax::Error::Parse(error) => (error.span(), error.kind().to_string()),
        regex_syntax::Error::Translate(error) => (error.span(), error.kind().to_string()),
        _ => {
            return TextFault {
                at: 0..text.len(),
                message: error.to_string(),
                remedy: "see docs.rs/regex".into(),
            };
        }
    };
    let column = text[..span.start.offset].chars().count() + 1;
    let remedy = if kind.contains("look-around") || kind.contains("backreference") {
        "write the pattern without it; families are tried in file order, so put the exception first"
    } else {
        "see https://docs.rs/regex#syntax; write \\ before a character that stands for itself"
    };
    let message = format!("the pattern is faulty at its character {column}: {kind}");
    TextFault { at: span.start.offset..span.end.offset, message, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compile(text: &str) -> Pattern {
        Pattern::compile(text, PathCase::Sensitive).unwrap()
    }

    fn matches(pattern: &str, path: &str) -> bool {
        compile(pattern).is_match(path)
    }

    #[test]
    fn patterns_match_whole_paths() {
        let rows = [
            ("/users", "/users", true),
            ("/users", "/users/", false),
            ("/users", "/v1/users", false),
            ("^/users$", "/users", true),
            ("^/users$", "/users/1", false),
            ("/a|/b", "/b", true),
            ("/a|/b", "/bc", false),
            ("/a|/b", "/x/b", false),
            (r"/\d{2}", "/42", true),
            (".*", "/any", true),
            ("(?i)/USERS", "/users", true),
            ("/u/%40joe%2b", "/u/@joe+", true),
            ("/u/(?:%40)?%7ejoe", "/u/~joe", true),
            ("/a%2fb", "/a%2Fb", true),
            ("/a[%40]", "/a4", true),
            ("/a%24%28", "/a$(", true),
            ("/café(?<x>é+)", "/caf%C3%A9%C3%A9%C3%A9", true),
            (r"/a b\\|/c", r"/a%20b%5C", true),
            ("(?m)/a$", "/a", true),
            ("/a$|/b$", "/b", true),
        ];
        for (pattern, path, expected) in rows {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn case_makes_no_difference_to_literals_of_any_script() {
        let rows = [
            (r"/ÉCOLES/(?<id>\w+)", "/école%73/Joe"),
            (r"/%C3%89coles/(?<id>\w+)", "/ÉCOLES/JOE"),
            (r"/%c3%a9coles/(?<id>\w+)", "/ÉCOLES/JOE"),
            (r"/(?:Ü|%C3%9Cx%41)+/(?<id>\w+)", "/üÜxa/joe"),
            (r"/(?-i)SETTINGS%24/(?<id>\w+)", "/settings$/JOE"),
            ("/\u{212a}/(?<id>joe)", "/\u{212a}/JOE"),
            (r"/a%24%28/(?<id>JOE)", "/A$(/joe"),
        ];
        for (text, path) in rows {
            let pattern = Pattern::compile(text, PathCase::Insensitive).unwrap();
            let path = PathCase::Insensitive.fold(crate::http::target::normalise(path)).into_owned();
            assert_eq!(pattern.values(&path).to_vec(), [("id", Some("joe"))], "{text} on {path}");
            assert!(pattern.is_match(&path), "{text} on {path}");
        }
        assert!(!matches("/ÉCOLES", "/%C3%A9COLES"));
    }

    #[test]
    fn faults_say_where_in_the_pattern() {
        let rows = [
            ("/a(b", 2..3, "unclosed group"),
            ("/a[b", 2..3, "unclosed character class"),
            ("/ü*+(?P<x", 10..10, "capture group name"),
            ("/(?=a)", 1..4, "look-around"),
            ("/a)|(?:b", 2..3, "unopened group"),
            ("/(?<a>x)(?<a>y)", 11..12, "duplicate capture"),
            ("users", 0..5, "begins with"),
            ("http://h/a", 0..10, "begins with"),
            ("(?x)/a # b", 0..10, "comment"),
            (r"/(\w{900}){900}", 0..15, "too large"),
        ];
        for (pattern, at, part) in rows {
            let fault = Pattern::compile(pattern, PathCase::Sensitive).unwrap_err();
            assert!(fault.message.contains(part), "{pattern}: {}", fault.message);
            assert_eq!(fault.at, at, "{pattern}");
        }
    }

    #[test]
    fn values_are_in_the_order_of_the_pattern() {
        let pattern = compile("/(?<b>[^/]+)/(x)/(?<a>[^/]+)(/(?<c>.+))?");
        assert_eq!(pattern.values("/1/x/2").to_vec(), [("b", Some("1")), ("a", Some("2")), ("c", None)]);
        assert_eq!(pattern.values("/nothing").to_vec(), []);
    }

    #[test]
    fn anchors_do_not_make_a_pattern_another_one() {
        let core = |text| compile(text).core().to_owned();
        assert_eq!(core("^/a$"), core("/a"));
        assert_ne!(core(r"/a\$"), core("/a"));
    }

    proptest! {
        #[test]
        fn any_text_is_compiled_or_refused_with_a_place_in_it(text in r"/?[\\/()\[\]{}?*+|^$a-c<>P:=!.ü0-9-]{0,20}") {
            if let Err(fault) = Pattern::compile(&text, PathCase::Sensitive) {
                prop_assert!(text.get(fault.at).is_some());
            }
        }
    }
}
