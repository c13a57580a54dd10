//! Faults in a rules file, each with its position, a message and a remedy.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// File name as given, or the flag (`--upstream`) that holds the fault.
    pub file: String,
    /// From 1; 0 if the fault is in a flag and has no position.
    pub line: usize,
    /// From 1, in characters; 0 if the fault is in a flag.
    pub column: usize,
    /// The line's text, or the part of a long line around the fault. Passwords and tokens are masked.
    pub excerpt: String,
    /// Byte range of the faulty text in `excerpt`.
    #[serde(skip)]
    pub marked: Range<usize>,
    /// What is wrong: `family "users": unknown key "tll"`.
    pub message: String,
    /// What to do: `did you mean "ttl"?`
    pub remedy: String,
}

/// All faults of a file, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl std::error::Error for Faults {}

/// Without colours.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl Faults {
    /// With ANSI colours, for a terminal.
    pub fn colored(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        // Wide enough that the renderer never cuts an excerpt again.
        let renderer = renderer.clone().term_width(EXCERPT + 20);
        let report: Vec<Group<'_>> = self.0.iter().map(Fault::group).collect();
        report
            .iter()
            .map(|group| renderer.render(std::slice::from_ref(group)) + "\n")
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Fault {
    /// ```text
    /// error: family "users": unknown key "tll"
    ///   --> rules.toml:12:1
    ///    |
    /// 12 | tll = "3m"
    ///    | ^^^
    ///    |
    ///    = help: did you mean "ttl"?
    /// ```
    fn group(&self) -> Group<'_> {
        let help = Level::HELP.message(&self.remedy);
        if self.line == 0 {
            return Level::ERROR.primary_title(format!("{}: {}", self.file, self.message)).element(help);
        }
        let title = Level::ERROR.primary_title(&self.message);
        let mark = AnnotationKind::Primary.span(self.marked.clone());
        let snippet = Snippet::source(&self.excerpt).line_start(self.line).annotation(mark);
        let is_cut = self.excerpt[..self.marked.start].chars().count() + 1 != self.column;
        // If the excerpt is cut, the renderer cannot compute the column.
        let group = match is_cut {
            true => {
                title.element(Origin::path(&self.file).line(self.line).char_column(self.column)).element(snippet)
            }
            false => title.element(snippet.path(&self.file)),
        };
        group.element(help)
    }

    /// A fault in the value of a flag or environment variable.
    pub fn in_flag(flag: &str, message: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault {
            file: flag.to_owned(),
            line: 0,
            column: 0,
            excerpt: String::new(),
            marked: 0..0,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// A fault in one string of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct TextFault {
    /// Byte range in the string.
    pub at: Range<usize>,
    pub message: String,
    pub remedy: String,
}

/// Longest excerpt, in characters.
const EXCERPT: usize = 160;

/// A file's text with the positions of its lines.
#[derive(Debug)]
pub struct Source<'s> {
    file: &'s str,
    text: &'s str,
    /// Byte offsets of the starts of lines.
    starts: Vec<usize>,
}

impl<'s> Source<'s> {
    /// `file` is the name in messages.
    pub fn new(file: &'s str, text: &'s str) -> Source<'s> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { file, text, starts }
    }

    /// The whole text.
    pub fn text(&self) -> &'s str {
        self.text
    }

    /// Line of a byte offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// A fault at a byte range. Positions outside of the text or inside of a character are moved to the left.
    pub fn fault(&self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) -> Fault {
        let start = self.boundary(span.start);
        let line = self.line(start);
        let text = self.line_text(line);
        let before = self.text[self.starts[line - 1]..start].chars().count();
        let offending = self.text[start..self.boundary(span.end.max(start))].lines().next().unwrap_or("");
        let (excerpt, marked) = excerpt(text, before, offending.chars().count());
        Fault {
            file: self.file.to_owned(),
            line,
            column: before + 1,
            excerpt,
            marked,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    fn boundary(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        (0..=offset).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0)
    }

    /// A line, from 1, without its end.
    pub fn line_text(&self, line: usize) -> &'s str {
        let end = self.starts.get(line).copied().unwrap_or(self.text.len());
        self.text[self.starts[line - 1]..end].trim_end_matches(['\n', '\r'])
    }
}

/// The part of a line that is shown, and the byte range in it of the `length` characters that `before` others precede. The
/// range is empty at the end of the line, where something is missing.
fn excerpt(line: &str, before: usize, length: usize) -> (String, Range<usize>) {
    let skipped = if before < EXCERPT * 3 / 4 { 0 } else { before - EXCERPT / 4 };
    let shown: String = mask(line).skip(skipped).take(EXCERPT).collect();
    let byte = |characters| shown.char_indices().nth(characters).map_or(shown.len(), |(at, _)| at);
    let marked = byte(before - skipped)..byte(before - skipped + length);
    (shown, marked)
}

/// The line's characters with secrets (the user part and the query of a URL, the value of a `token` or `password`)
/// replaced by `*`, and control characters by `·`: one for one, so that columns stay valid.
fn mask(line: &str) -> impl Iterator<Item = char> {
    let secrets = secrets(line);
    line.char_indices().map(move |(at, c)| match c {
        _ if secrets.iter().any(|secret| secret.contains(&at)) => '*',
        '\t' => '\t',
        c if c.is_control() => '·',
        c => c,
    })
}

fn secrets(line: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("://") {
        let from = at + 3;
        let rest = &line[from..];
        let value = &rest[..rest.find(['"', '\'']).unwrap_or(rest.len())];
        if let Some(end) = value.rfind('@') {
            found.push(from..from + end);
        }
        // `sentinel_password`, and parameters that may be mistaken for a password.
        let parameters = value.match_indices(['?', '&']).map(|(at, _)| at + 1);
        for start in parameters {
            let parameter = &value[start..];
            let parameter = &parameter[..parameter.find('&').unwrap_or(parameter.len())];
            if let Some(equals) = parameter.find('=') {
                found.push(from + start + equals + 1..from + start + parameter.len());
            }
        }
    }
    let keys = ["token", "password", "passwd", "pass", "secret", "api_key"];
    for (at, key) in keys.into_iter().flat_map(|key| line.match_indices(key)) {
        let rest = &line[at + key.len()..];
        let value = rest.trim_start_matches(['"', '\'', ' ', '\t']);
        if let Some(value) = value.strip_prefix('=').map(str::trim_start)
            && let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\''))
        {
            let from = line.len() - value.len() + 1;
            let end = value[1..].find(quote).map_or(line.len(), |end| from + end);
            found.push(from..end);
        }
    }
    // The name of an environment variable is no secret, and helps.
    found.retain(|secret| !only_names(&line[secret.clone()]));
    found
}

/// Whether a text consists of `${NAME}`s and colons only.
fn only_names(text: &str) -> bool {
    text.split(':').all(|part| {
        let name = part.strip_prefix("${").and_then(|name| name.strip_suffix('}'));
        name.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_marker_counts_characters_not_bytes() {
        let text = "a = 1\nü = \"é\" # x\n";
        let at = text.find('#').unwrap();
        let fault = Source::new("r.toml", text).fault(at..at + 1, "m", "r");
        assert_eq!((fault.line, fault.column), (2, 9));
        let shown = "error: m\n --> r.toml:2:9\n  |\n2 | ü = \"é\" # x\n  |         ^\n  |\n  = help: r\n";
        assert_eq!(Faults(vec![fault]).to_string(), shown);
    }

    #[test]
    fn a_fault_in_a_flag_has_no_position() {
        let fault = Fault::in_flag("--upstream", "not a URL", "write http://…");
        let shown = "error: --upstream: not a URL\n |\n = help: write http://…\n";
        assert_eq!(Faults(vec![fault]).to_string(), shown);
    }

    #[test]
    fn secrets_do_not_stand_in_an_excerpt() {
        let rows = [
            ("redis = \"redis://u:p@ss@h:1\"", "redis = \"redis://******@h:1\""),
            ("x = [{ role = \"a\", token = \"s3\" }]", "x = [{ role = \"a\", token = \"**\" }]"),
            ("token = '${T}'", "token = '${T}'"),
            ("token = '${T:-s3}'", "token = '********'"),
            ("redis = 'redis://${U}:${P}@h'", "redis = 'redis://${U}:${P}@h'"),
            (
                "redis = 'redis+sentinel://h/m?sentinel_password=s3&x=y'",
                "redis = 'redis+sentinel://h/m?sentinel_password=**&x=*'",
            ),
            ("redis = \"redis://h/0?password=a?b=c\"", "redis = \"redis://h/0?password=*****\""),
            (
                "redis = 'redis+sentinel://h/m?sentinel_password=${S}'",
                "redis = 'redis+sentinel://h/m?sentinel_password=${S}'",
            ),
            ("token = \"open", "token = \"****"),
            ("password = 's3/?#@'", "password = '******'"),
            ("password_file = '/run/secrets/x'", "password_file = '/run/secrets/x'"),
            ("secret = \"${S}\"", "secret = \"${S}\""),
            ("path = '/token/x'", "path = '/token/x'"),
        ];
        for (line, shown) in rows {
            assert_eq!(mask(line).collect::<String>(), shown);
        }
    }

    #[test]
    fn a_long_line_is_shown_in_part() {
        let text = format!("{}x{}", "a".repeat(1000), "b".repeat(1000));
        let fault = Source::new("r", &text).fault(1000..1001, "m", "r");
        assert_eq!(fault.column, 1001);
        assert_eq!(&fault.excerpt[fault.marked], "x");
        assert!(fault.excerpt.chars().count() <= EXCERPT);
    }

    proptest! {
        #[test]
        fn any_range_of_any_text_can_be_shown(text in ".{0,20}(\n.{0,300}){0,3}", from in 0usize..1500, to in 0usize..1500) {
            let fault = Source::new("r", &text).fault(from..to, "m", "r");
            prop_assert!(fault.line >= 1 && fault.column >= 1);
            let shown = Faults(vec![fault]).to_string();
            prop_assert!(shown.contains('^') && shown.ends_with("= help: r\n"), "{shown}");
        }
    }
}
