//! The paths of a `[[warm]]` table as they are written: `/plans/{1..100}` stands for a hundred, `/{en,de}/menu` for two.

use std::fmt::Write as _;
use std::ops::Range;

/// Most paths of one table, and most lines of a file of paths.
pub const MOST: u64 = 100_000;

/// Longest path, bytes.
const LONGEST: usize = 4096;

/// A path with its query, in which ranges and alternatives stand for several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    parts: Vec<PathPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathPart {
    Text(String),
    /// `{from..to}`, both included. Numbers have at least `width` digits.
    Range {
        from: u64,
        to: u64,
        width: usize,
    },
    /// `{a,b}`
    OneOf(Vec<String>),
}

/// What is wrong with a path, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct PathFault {
    pub at: Range<usize>,
    pub message: &'static str,
    pub remedy: &'static str,
}

impl PathPattern {
    /// Reads a path with its query.
    ///
    /// # Errors
    ///
    /// It is no path that a request can have, or its braces cannot be read.
    pub fn parse(text: &str) -> Result<PathPattern, PathFault> {
        let (mut parts, mut at) = (Vec::new(), 0);
        while let Some(open) = text[at..].find('{').map(|open| at + open) {
            if open > at {
                parts.push(PathPart::Text(text[at..open].to_owned()));
            }
            let Some(close) = text[open..].find('}').map(|close| open + close) else {
                return Err(PathFault {
                    at: open..text.len(),
                    message: "the brace is not closed",
                    remedy: "write {1..100} or {a,b}",
                });
            };
            let (message, remedy) = ("is neither a range nor a list", "write {1..100} or {a,b}");
            parts.push(part(&text[open + 1..close], open..close + 1, message, remedy)?);
            at = close + 1;
        }
        if at < text.len() {
            parts.push(PathPart::Text(text[at..].to_owned()));
        }
        let pattern = PathPattern { parts };
        let first = pattern.expand().next().unwrap_or_default();
        check(&first).map(|()| pattern).map_err(|(message, remedy)| PathFault {
            at: 0..text.len(),
            message,
            remedy,
        })
    }

    /// How many paths it stands for.
    pub fn count(&self) -> u64 {
        self.parts.iter().map(PathPart::count).fold(1, u64::saturating_mul)
    }

    /// The paths, the last range first.
    pub fn expand(&self) -> impl Iterator<Item = String> {
        (0..self.count()).map(|number| self.nth(number))
    }

    fn nth(&self, number: u64) -> String {
        // The digits of the number, each with a base of its own, from the last part to the first.
        let mut left = number;
        let mut chosen: Vec<(&PathPart, u64)> = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter().rev() {
            chosen.push((part, left % part.count()));
            left /= part.count();
        }
        let mut path = String::new();
        for (part, choice) in chosen.into_iter().rev() {
            match part {
                PathPart::Text(text) => path.push_str(text),
                PathPart::Range { from, width, .. } => {
                    let _ = write!(path, "{:0width$}", from + choice);
                }
                PathPart::OneOf(words) => {
                    path.push_str(
                        usize::try_from(choice)
                            .ok()
                            .and_then(|choice| words.get(choice))
                            .map_or("", String::as_str),
                    );
                }
            }
        }
        path
    }
}

impl PathPart {
    fn count(&self) -> u64 {
        match self {
            PathPart::Text(_) => 1,
            PathPart::Range { from, to, .. } => (to - from).saturating_add(1),
            PathPart::OneOf(words) => words.len() as u64,
        }
    }
}

fn part(
    inside: &str,
    at: Range<usize>,
    message: &'static str,
    remedy: &'static str,
) -> Result<PathPart, PathFault> {
    if let Some((from, to)) = inside.split_once("..") {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let numbers = is_number(from)
            .then(|| from.parse().ok())
            .flatten()
            .zip(is_number(to).then(|| to.parse().ok()).flatten());
        let Some((first, last)) = numbers else { return Err(PathFault { at, message, remedy }) };
        if first > last {
            let message = "the range ends before it begins";
            return Err(PathFault { at, message, remedy: "write the lower number first" });
        }
        let width = if from.starts_with('0') { from.len() } else { 1 };
        return Ok(PathPart::Range { from: first, to: last, width });
    }
    let words: Vec<String> = inside.split(',').map(|word| word.trim().to_owned()).collect();
    if words.len() < 2 || inside.contains('{') {
        return Err(PathFault { at, message, remedy });
    }
    Ok(PathPart::OneOf(words))
}

/// Whether a request can have this path and query (RFC 9112 §3.2.1, origin-form). Otherwise the message and the remedy.
pub fn check(path: &str) -> Result<(), (&'static str, &'static str)> {
    if !path.starts_with('/') {
        return Err(("does not begin with \"/\"", "begin it with \"/\"; the host stands in host = \"…\""));
    }
    if path.len() > LONGEST {
        return Err(("is longer than 4096 bytes", "shorten it"));
    }
    let is_sendable =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'{' | b'}');
    if !path.bytes().all(is_sendable) || path.parse::<http::uri::PathAndQuery>().is_err() {
        return Err((
            "has characters that a request target cannot have",
            "percent-encode them, and remove a #fragment",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Vec<String> {
        PathPattern::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}")).expand().collect()
    }

    #[test]
    fn ranges_and_alternatives_stand_for_several_paths() {
        assert_eq!(expanded("/plans"), ["/plans"]);
        assert_eq!(expanded("/plans/{9..11}?a=1"), ["/plans/9?a=1", "/plans/10?a=1", "/plans/11?a=1"]);
        assert_eq!(expanded("/{en,de}/p{1..2}"), ["/en/p1", "/en/p2", "/de/p1", "/de/p2"]);
        assert_eq!(expanded("/m/{08..10}"), ["/m/08", "/m/09", "/m/10"]);
        assert_eq!(PathPattern::parse("/a/{1..1000}/{1..1000}").unwrap().count(), 1_000_000);
        assert_eq!(
            PathPattern::parse("/{0..18446744073709551615}{0..18446744073709551615}").unwrap().count(),
            u64::MAX
        );
    }

    #[test]
    fn what_is_no_path_is_a_fault_with_its_place() {
        for (text, at) in [
            ("plans", 0..5),
            ("", 0..0),
            ("/a b", 0..4),
            ("/a#b", 0..4),
            ("/ü", 0..3),
            ("/a/{1..", 3..7),
            ("/a/{2..1}", 3..9),
            ("/a/{x..y}", 3..9),
            ("/a/{+1..2}", 3..10),
            ("/a/{b}", 3..6),
            ("/a/{}", 3..5),
            ("/a}", 0..3),
            ("{a,b}", 0..5),
        ] {
            assert_eq!(PathPattern::parse(text).unwrap_err().at, at, "{text}");
        }
    }
}
