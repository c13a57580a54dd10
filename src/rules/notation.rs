//! Recognises path patterns in other notations, which mean something else as regular expressions, or nothing:
//! `/users/:id`, `/users/{id}`, `/users/<int:id>`, `/x/*`, and a path with a query. The fault names the pattern to
//! write instead.

use std::ops::Range;

use regex_syntax::hir::{Class, Hir, HirKind};

use super::fault::TextFault;

/// One segment.
const SEGMENT: &str = "[^/]+";

/// The fault of a pattern in another notation; `None` if it may be a regular expression.
pub fn other(text: &str) -> Option<TextFault> {
    // Text that is no regular expression is read in its own notation.
    let has_query = regex_syntax::parse(text).map_or(true, |hir| demands_query(&hir));
    let mut scan = Scan { text, at: 0, written: String::new(), found: None, has_query };
    while let Some(c) = scan.rest().chars().next() {
        scan.step(c);
        if matches!(scan.found, Some((Notation::Query, _))) {
            break;
        }
    }
    let (kind, at) = scan.found?;
    let remedy = kind.remedy(&scan.written, &text[at.end.min(text.len())..]);
    Some(TextFault { at, message: kind.message().to_owned(), remedy })
}

#[derive(Clone, Copy, PartialEq)]
enum Notation {
    Colon,
    Braces,
    Angles,
    Star,
    Query,
}

impl Notation {
    fn message(self) -> &'static str {
        match self {
            Notation::Colon => {
                "the pattern would match \":\" itself: it is a regular expression, and captures are written otherwise"
            }
            Notation::Braces => {
                "{…} counts repetitions in a regular expression, and captures are written otherwise"
            }
            Notation::Angles => {
                "no path has < or >: the pattern is a regular expression, and captures are written otherwise"
            }
            Notation::Star => "* repeats the / before it: the pattern is a regular expression",
            Notation::Query => "no path has a query: the pattern would never match",
        }
    }

    /// `written` is the corrected pattern, `query` the text after the `?`.
    fn remedy(self, written: &str, query: &str) -> String {
        let is_good = written.starts_with('/') && regex_syntax::parse(written).is_ok();
        let line = match is_good {
            true => format!("write '{written}'"),
            false => "write (?<id>[^/]+) for a segment that is captured, and .* for anything".to_owned(),
        };
        match self {
            Notation::Colon => format!("{line}, or '/\\:…' for a path that has a colon there"),
            Notation::Braces | Notation::Angles => line,
            Notation::Star if written.ends_with("/.*") => {
                format!("{line} for all below it, or '{written}' with [^/]+ at its end for one segment")
            }
            Notation::Star => line,
            Notation::Query => {
                let names: Vec<String> = query.split('&').filter_map(parameter).collect();
                let names = if names.is_empty() { "\"…\"".to_owned() } else { names.join(", ") };
                format!(
                    "{line}; in a family, query = {{ keep = [{names}] }} selects the parameters in the cache key"
                )
            }
        }
    }
}

/// The quoted name of a parameter.
fn parameter(text: &str) -> Option<String> {
    let name = text.split('=').next()?;
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    is_name.then(|| format!("{name:?}"))
}

/// Scans a pattern and rewrites it as a regular expression.
struct Scan<'p> {
    text: &'p str,
    at: usize,
    written: String,
    /// The first part in another notation.
    found: Option<(Notation, Range<usize>)>,
    /// Whether a literal `?` starts a query.
    has_query: bool,
}

impl<'p> Scan<'p> {
    fn rest(&self) -> &'p str {
        &self.text[self.at..]
    }

    fn step(&mut self, c: char) {
        let rest = self.rest();
        match c {
            '\\' if self.has_query && rest[1..].starts_with('?') => self.query(2),
            '\\' => self.copy(escape(rest)),
            '[' if self.has_query && rest.starts_with("[?]") => self.query(3),
            '[' => self.copy(class(rest)),
            '/' if rest[1..].starts_with('*') => self.star(),
            '/' if rest[1..].starts_with(':') && identifier(&rest[2..]) > 0 => {
                self.copy(1);
                let name = identifier(&rest[2..]);
                self.capture(Notation::Colon, 1 + name, &rest[2..2 + name]);
            }
            '{' => match identifier(&rest[1..]) {
                name if name > 0 && rest[1 + name..].starts_with('}') => {
                    self.capture(Notation::Braces, name + 2, &rest[1..1 + name]);
                }
                _ => self.copy(1),
            },
            '<' if !self.written.ends_with("(?") && !self.written.ends_with("(?P") => self.angles(),
            c => self.copy(c.len_utf8()),
        }
    }

    fn copy(&mut self, length: usize) {
        let length = length.min(self.rest().len());
        self.written.push_str(&self.rest()[..length]);
        self.at += length;
    }

    fn find(&mut self, kind: Notation, length: usize) {
        let at = self.at..self.at + length;
        self.found.get_or_insert((kind, at));
        self.at += length;
    }

    fn capture(&mut self, kind: Notation, length: usize, name: &str) {
        self.find(kind, length);
        let rest = self.rest();
        // `:id(\d+)`
        let group = rest.starts_with('(').then(|| rest.find(')')).flatten();
        let group = group.map(|end| &rest[1..end]).filter(|group| !group.starts_with('?') && !group.contains('('));
        let (inside, length) = group.map_or((SEGMENT, 0), |group| (group, group.len() + 2));
        self.written.push_str(&format!("(?<{}>{inside})", name.replace('-', "_")));
        self.at += length;
    }

    fn angles(&mut self) {
        let inside = self.rest().find('>').map(|end| &self.rest()[1..end]);
        let name = inside.map(|inside| inside.rsplit(':').next().unwrap_or(inside));
        match (inside, name) {
            (Some(inside), Some(name)) if !name.is_empty() && identifier(name) == name.len() => {
                self.capture(Notation::Angles, inside.len() + 2, name);
            }
            _ => self.copy(1),
        }
    }

    fn star(&mut self) {
        self.copy(1);
        let length = self.rest().bytes().take_while(|byte| *byte == b'*').count();
        self.find(Notation::Star, length);
        let is_all = self.rest().is_empty() || length > 1;
        self.written.push_str(match self.rest().chars().next() {
            _ if is_all => ".*",
            Some('/') => SEGMENT,
            _ => "[^/]*",
        });
        // `/*.css`
        if self.rest().starts_with('.') && !self.rest()[1..].starts_with(['*', '+']) {
            self.written.push_str("\\.");
            self.at += 1;
        }
    }

    fn query(&mut self, length: usize) {
        self.find(Notation::Query, length);
    }
}

/// Whether the pattern, or one of its alternatives, matches only texts with a `?`. If the query is optional, the
/// pattern also matches paths.
fn demands_query(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.contains(&b'?'),
        HirKind::Class(Class::Unicode(class)) => class.literal().is_some_and(|text| text == b"?"),
        HirKind::Class(Class::Bytes(class)) => class.literal().is_some_and(|text| text == b"?"),
        HirKind::Repetition(repetition) => repetition.min > 0 && demands_query(&repetition.sub),
        HirKind::Capture(capture) => demands_query(&capture.sub),
        HirKind::Concat(parts) => parts.iter().any(demands_query),
        HirKind::Alternation(branches) => {
            let may_be_left_out = branches.iter().any(|branch| branch.properties().minimum_len() == Some(0));
            !may_be_left_out && branches.iter().any(demands_query)
        }
        HirKind::Empty | HirKind::Look(_) => false,
    }
}

/// Length of a leading identifier: letters, digits, `_` and `-`, not starting with a digit.
fn identifier(text: &str) -> usize {
    if !text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return 0;
    }
    text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(text.len())
}

/// Length of a leading escape, including the braces of `\p{…}` and `\x{…}`.
fn escape(rest: &str) -> usize {
    let Some(escaped) = rest[1..].chars().next() else { return 1 };
    let length = 1 + escaped.len_utf8();
    let takes_braces = matches!(escaped, 'p' | 'P' | 'x' | 'u' | 'U' | 'b') && rest[length..].starts_with('{');
    if takes_braces { rest.find('}').map_or(length, |end| end + 1) } else { length }
}

/// Length of a leading character class, including its closing bracket.
fn class(rest: &str) -> usize {
    let (mut depth, mut at, mut is_first) = (0, 0, false);
    while let Some(c) = rest[at..].chars().next() {
        match c {
            '\\' => {
                at += escape(&rest[at..]);
                is_first = false;
                continue;
            }
            '[' => (depth, is_first) = (depth + 1, true),
            '^' if is_first => {}
            ']' if !is_first => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => is_first = false,
        }
        at += c.len_utf8();
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_notations_get_the_pattern_to_write() {
        let rows = [
            ("/users/:id", "write '/users/(?<id>[^/]+)', or '/\\:…'"),
            ("/users/:id(\\d+)/posts/:post-id", "write '/users/(?<id>\\d+)/posts/(?<post_id>[^/]+)'"),
            ("/users/{id}", "write '/users/(?<id>[^/]+)'"),
            ("/users/{user-id}/posts", "write '/users/(?<user_id>[^/]+)/posts'"),
            ("/users/<int:id>", "write '/users/(?<id>[^/]+)'"),
            ("/users/<id>/*", "write '/users/(?<id>[^/]+)/.*'"),
            ("/x/*", "write '/x/.*' for all below it"),
            ("/x/**", "write '/x/.*'"),
            ("/x/*/y", "write '/x/[^/]+/y'"),
            ("/x/*.css", "write '/x/[^/]*\\.css'"),
            (r"/list\?page=1&size=\d+", "write '/list'; in a family, query = { keep = [\"page\", \"size\"] }"),
            ("/list[?].*", "write '/list'; in a family, query = { keep = [\"…\"] }"),
            (r"/x(?:\?a=1)+", "write (?<id>[^/]+) for a segment"),
            (r"/list\?page={page}", "write '/list'; in a family, query = { keep = [\"page\"] }"),
            (r"/(list\?a=1|b)", "write (?<id>[^/]+) for a segment"),
            ("/a/:x/:x", "write (?<id>[^/]+) for a segment"),
        ];
        for (text, expected) in rows {
            let fault = other(text).unwrap_or_else(|| panic!("{text} is taken"));
            assert!(fault.remedy.starts_with(expected), "{text}: {}", fault.remedy);
        }
    }

    #[test]
    fn regular_expressions_are_accepted() {
        let rows = [
            "/users/(?<id>[^/]+)",
            "/users/(?P<id>\\d+)",
            "/a{2}/b{1,}/c{2,3}",
            r"/items/(?<id>\d+):publish",
            r"/x/\:id",
            "/[a-z:*?]+/[/*]*",
            "/(?:a|b)?/c?",
            r"/\p{Greek}+\x{2F}*",
            "/a(?i)b",
            "(?i)/users",
            "/users/?",
            "/x/.*",
            "/x(/.*)?",
            r"/x/\*",
            r"/a[]:/*]b",
            "/colou?r/x=1",
            "/v1/colou?r=1",
            "/list?page=1",
            r"/e(?:\?.*)?",
            r"/e(\?.*|)",
            r"/e[?]?",
            r"/e\?{0,1}",
            r"/e(\?a=1)*/f",
        ];
        for text in rows {
            assert_eq!(other(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_fault_lies_in_the_pattern(text in r"/?[\\/()\[\]{}?*+|^$a-c<>P:=&!.ü0-9-]{0,20}") {
            if let Some(fault) = other(&text) {
                prop_assert!(text.get(fault.at).is_some());
            }
        }
    }
}
