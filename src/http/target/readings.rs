//! All paths that a lenient upstream may read a path as. A read is cached only if all readings belong to the same
//! family, and a write invalidates the tags of all of them. Both use the same function.
//!
//! Upstreams, and proxies between them and Larder, differ in a few habits that apply to a whole path or not at all. A
//! reading is the result of one choice of habits:
//!
//! 1. the text after two leading slashes is taken for a host (`//h/me` is `/me`, as in URL parsers);
//! 2. parameters (`;…` up to the end of a segment) are removed before decoding;
//! 3. percent-encodings are decoded: none, all except `%2F` and `%5C`, all, or twice (including overlong UTF-8 and
//!    `%u002F`);
//! 4. a backslash is a slash;
//! 5. parameters are removed after decoding;
//! 6. the path ends before the first control character, `?` or `#` that was encoded (C strings, rewritten targets),
//!    before blanks at its end, or before the first `;`; or control characters are left out;
//! 7. empty segments are removed, and dot segments resolved, in either order;
//! 8. a trailing slash is ignored.
//!
//! Case is no such habit: paths that differ in case are different, unless `[server] case_insensitive_paths` is set.

use std::fmt::Write;

use smallvec::SmallVec;

use super::{PLAIN, PathCase, encoded_byte};

/// Most readings of one path. Only crafted paths have that many.
pub const MOST: usize = 64;

/// Total size of all readings of one path, in bytes; a long path has fewer readings.
const BYTES: usize = 64 << 10;

/// Readings allowed to every path, however long.
const FEWEST: usize = 8;

/// The readings of a path.
#[derive(Debug, PartialEq, Eq)]
pub struct Readings<'p> {
    /// The path itself.
    own: &'p str,
    /// All others, without duplicates.
    others: Vec<String>,
    complete: bool,
}

impl<'p> Readings<'p> {
    /// All readings of a path that [`super::normalise`] returned. Like it, they are ASCII, start with `/`, and have
    /// upper-case encodings; unlike it, they may contain dot segments. At most [`MOST`].
    pub fn of(own: &'p str) -> Readings<'p> {
        Readings::of_both(own, None, PathCase::Sensitive)
    }

    /// The same for a path whose form before resolving dot segments is `unresolved`.
    pub fn of_both(own: &'p str, unresolved: Option<&str>, case: PathCase) -> Readings<'p> {
        // The server-wide `*` is no path.
        if unresolved.is_none() && is_plain(own) || own == "*" {
            return Readings { own, others: Vec::new(), complete: true };
        }
        Readings::found(own, unresolved, case)
    }

    fn found(own: &'p str, unresolved: Option<&str>, case: PathCase) -> Readings<'p> {
        let most = (BYTES / own.len().max(unresolved.map_or(0, str::len))).clamp(FEWEST, MOST);
        let all = std::iter::once(own).chain(unresolved).map(symbols).collect();
        let mut found = FoundPaths { all, most, complete: true };
        found.add(without_host);
        found.add(without_parameters);
        found.add_all(|path| {
            let slashes_kept = decoded(path, |byte| byte == b'/' || byte == b'\\');
            let once = decoded(path, |_| false);
            let twice = folded(&decoded(&encodings_in(&once), |_| false));
            [slashes_kept, once, twice]
        });
        found.add(slashed);
        found.add(without_parameters);
        found.add_all(|path| [ended(path, false), ended(path, true), without_controls(path)]);
        found.add_all(|path| {
            let (merged, resolved) = (merged(path), resolved(path));
            [self::resolved(&merged), self::merged(&resolved), merged, resolved]
        });
        found.add(without_last_slash);
        let others = found.all.iter().map(|path| case.fold(text(path)).into_owned());
        let mut others: Vec<String> = others.filter(|path| path != own).collect();
        others.sort_unstable();
        others.dedup();
        Readings { own, others, complete: found.complete }
    }

    /// Every reading, the path itself first.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.own).chain(self.others())
    }

    /// The readings that are not the path itself, sorted.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.others.iter().map(String::as_str)
    }

    /// Their number, including the path itself.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// False if the path has more readings than these.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Whether the path has only one reading, as most have, judged in one pass over its bytes.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let (mut before, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if matches!(byte, b';' | b'\\') || byte == b'/' && before == b'/' {
            return false;
        }
        at += match byte {
            b'%' if encoded_byte(&bytes[at..]).is_some_and(is_inert) => 3,
            b'%' => return false,
            _ => 1,
        };
        before = byte;
    }
    before != b'/' || bytes.len() == 1
}

/// Whether an encoding of it has no other meaning: UTF-8 beyond ASCII, unless it may start an overlong sequence.
fn is_inert(byte: u8) -> bool {
    byte >= 0x80 && !matches!(byte, 0xC0 | 0xC1 | 0xE0)
}

/// One byte of a path or, from [`ENCODED`] on, a percent-encoded byte. Decoded bytes count as structure, encoded ones
/// do not.
type Symbol = u16;

const ENCODED: Symbol = 0x100;
const SLASH: Symbol = b'/' as Symbol;
const BACKSLASH: Symbol = b'\\' as Symbol;
const SEMICOLON: Symbol = b';' as Symbol;
const BLANK: Symbol = ENCODED | b' ' as Symbol;

type Path = SmallVec<[Symbol; 64]>;

/// The paths found so far.
struct FoundPaths {
    all: Vec<Path>,
    most: usize,
    complete: bool,
}

impl FoundPaths {
    /// Adds the results of one more habit for each path.
    fn add(&mut self, habit: impl Fn(&[Symbol]) -> Path) {
        self.add_all(|path| [habit(path)]);
    }

    /// The same for a choice of habits, of which an upstream has at most one.
    fn add_all<const N: usize>(&mut self, habits: impl Fn(&[Symbol]) -> [Path; N]) {
        for at in 0..self.all.len() {
            for path in habits(&self.all[at]) {
                if self.all.contains(&path) {
                    continue;
                }
                if self.all.len() == self.most {
                    self.complete = false;
                    return;
                }
                self.all.push(path);
            }
        }
    }
}

fn symbols(path: &str) -> Path {
    let (bytes, mut symbols, mut at) = (path.as_bytes(), Path::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match encoded_byte(&bytes[at..]) {
            Some(encoded) => {
                symbols.push(ENCODED | Symbol::from(encoded));
                at += 3;
            }
            None => {
                symbols.push(byte.into());
                at += 1;
            }
        }
    }
    symbols
}

fn text(path: &[Symbol]) -> String {
    let mut text = String::with_capacity(path.len() + 16);
    for (at, &symbol) in path.iter().enumerate() {
        let byte = symbol.to_le_bytes()[0];
        let is_plain = PLAIN[usize::from(byte)] || byte == b'%' && !begins_encoding(&path[at..]);
        if symbol < ENCODED && is_plain {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// A decoded `%` that would start an encoding.
fn begins_encoding(path: &[Symbol]) -> bool {
    matches!(*path, [_, high, low, ..] if digit(high).is_some() && digit(low).is_some())
}

/// Treats text that looks like an encoding after decoding as one.
fn encodings_in(path: &[Symbol]) -> Path {
    let (mut again, mut rest) = (Path::new(), path);
    while let Some(&first) = rest.first() {
        let encoded = match *rest {
            [0x25, high, low, ..] => digit(high).zip(digit(low)).map(|(high, low)| ENCODED | high << 4 | low),
            _ => None,
        };
        again.push(encoded.unwrap_or(first));
        rest = &rest[if encoded.is_some() { 3 } else { 1 }..];
    }
    again
}

/// Decodes encodings, except of bytes that are `kept`, and of those without special meaning in a path, which have one
/// spelling.
fn decoded(path: &[Symbol], kept: impl Fn(u8) -> bool) -> Path {
    let decode = |&symbol: &Symbol| match u8::try_from(symbol ^ ENCODED) {
        Ok(byte) if !kept(byte) && (PLAIN[usize::from(byte)] || is_structure(byte)) => Symbol::from(byte),
        _ => symbol,
    };
    path.iter().map(decode).collect()
}

/// Characters that may have a special meaning in a path when decoded.
fn is_structure(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b'\\' | b'%' | b'?' | b'#')
}

/// Decodes overlong ASCII as some decoders do (`%C0%AF`, `%E0%80%AF` and `%u002F` are `/`).
fn folded(path: &[Symbol]) -> Path {
    let continues = |symbol: Symbol| (0x180..=0x1BF).contains(&symbol);
    let mut folded = Path::new();
    let mut rest = path;
    while let Some(&first) = rest.first() {
        let (symbol, length) = match *rest {
            [lead @ 0x1C0..=0x1C1, last, ..] if continues(last) => (lead << 6 & 0x40 | last & 0x3F, 2),
            [0x1E0, middle @ 0x180..=0x181, last, ..] if continues(last) => (middle << 6 & 0x40 | last & 0x3F, 3),
            [0x25, 0x75 | 0x55, 0x30, 0x30, high, low, ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) if high < 8 => (high << 4 | low, 6),
                _ => (first, 1),
            },
            _ => (first, 1),
        };
        folded.push(symbol);
        rest = &rest[length..];
    }
    folded
}

fn digit(symbol: Symbol) -> Option<Symbol> {
    let digit = char::from(u8::try_from(symbol).ok()?).to_digit(16)?;
    Symbol::try_from(digit).ok()
}

fn slashed(path: &[Symbol]) -> Path {
    path.iter().map(|symbol| if *symbol == BACKSLASH { SLASH } else { *symbol }).collect()
}

/// Without the host that `//` may introduce.
fn without_host(path: &[Symbol]) -> Path {
    let host = path.iter().take_while(|symbol| **symbol == SLASH).count();
    if host < 2 {
        return path.into();
    }
    match path[host..].iter().position(|symbol| *symbol == SLASH) {
        Some(end) => path[host + end..].into(),
        None => std::iter::once(SLASH).collect(),
    }
}

fn without_parameters(path: &[Symbol]) -> Path {
    let mut in_parameters = false;
    let is_kept = |symbol: &Symbol| {
        in_parameters = *symbol == SEMICOLON || in_parameters && *symbol != SLASH;
        !in_parameters
    };
    path.iter().copied().filter(is_kept).collect()
}

/// Up to a character that may end it.
fn ended(path: &[Symbol], by_semicolon: bool) -> Path {
    let ends = |symbol: Symbol| {
        let ends =
            |byte: u8| byte.is_ascii_control() || matches!(byte, b'?' | b'#') || by_semicolon && byte == b';';
        u8::try_from(symbol).is_ok_and(ends)
    };
    let mut path = &path[..path.iter().position(|symbol| ends(*symbol)).unwrap_or(path.len())];
    while let [rest @ .., BLANK] = path {
        path = rest;
    }
    if path.is_empty() { std::iter::once(SLASH).collect() } else { path.into() }
}

fn without_controls(path: &[Symbol]) -> Path {
    let is_control = |symbol: Symbol| u8::try_from(symbol).is_ok_and(|byte| byte.is_ascii_control());
    path.iter().copied().filter(|symbol| !is_control(*symbol)).collect()
}

/// Without empty segments, except the last one.
fn merged(path: &[Symbol]) -> Path {
    let mut merged = Path::new();
    for &symbol in path {
        if symbol != SLASH || merged.last() != Some(&SLASH) {
            merged.push(symbol);
        }
    }
    merged
}

/// RFC 3986 §5.2.4.
fn resolved(path: &[Symbol]) -> Path {
    const DOT: Symbol = b'.' as Symbol;
    let mut resolved = Path::new();
    let mut segments = path.get(1..).unwrap_or_default().split(|symbol| *symbol == SLASH).peekable();
    while let Some(segment) = segments.next() {
        if segment == [DOT, DOT] {
            let end = resolved.iter().rposition(|symbol| *symbol == SLASH).unwrap_or(0);
            resolved.truncate(end);
        }
        if segment != [DOT] && segment != [DOT, DOT] {
            resolved.push(SLASH);
            resolved.extend_from_slice(segment);
        } else if segments.peek().is_none() {
            // The slash before a trailing dot segment stays.
            resolved.push(SLASH);
        }
    }
    resolved
}

fn without_last_slash(path: &[Symbol]) -> Path {
    let mut path = path;
    while let [rest @ .., SLASH] = path
        && !rest.is_empty()
    {
        path = rest;
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::normalise;
    use super::*;

    fn all(path: &str) -> Vec<String> {
        let path = normalise(path);
        let readings = Readings::of(&path);
        assert!(readings.is_complete(), "{path}");
        readings.all().map(str::to_owned).collect()
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["/", "*", "/users/5", "/a.b/...", "/a:b@c!$&'()*+,=~_-", "/caf%C3%A9", "/a%20b", "/%7Ejoe"] {
            assert_eq!(all(path), [normalise(path)], "{path}");
        }
    }

    #[test]
    fn a_path_has_the_readings_of_lenient_upstreams() {
        let rows: &[(&str, &[&str])] = &[
            ("/users/5/", &["/users/5"]),
            ("/users/5///", &["/users/5", "/users/5/"]),
            ("//users/5", &["/users/5", "/5"]),
            ("/users//5", &["/users/5"]),
            ("/users%2F5", &["/users/5"]),
            ("/users%2f5", &["/users/5"]),
            ("/users%5C5", &["/users/5"]),
            ("/users\\5", &["/users/5"]),
            ("/users;x/5", &["/users/5", "/users"]),
            ("/users/5;jsessionid=1", &["/users/5"]),
            ("/users%3Bx/5", &["/users/5"]),
            ("/users/;x/5", &["/users/5", "/users//5"]),
            ("/a%2F..%2Fusers/5", &["/users/5", "/a/../users/5"]),
            ("/assets/..%2Fme/mail", &["/me/mail"]),
            ("/assets/..;/me/mail", &["/me/mail", "/assets/../me/mail"]),
            ("/assets/..;x=1/me/mail", &["/me/mail"]),
            ("/assets/..%3B/me/mail", &["/me/mail"]),
            ("/assets/..%5cme%5cmail", &["/me/mail"]),
            ("/assets/.%252e/me", &["/me"]),
            ("/assets/%252e%252e/me", &["/me"]),
            ("/assets/%252e%252e%252fme", &["/me"]),
            ("/assets%252F..%252Fme", &["/me"]),
            ("/assets/..%255Cme", &["/me"]),
            ("/assets/..%c0%afme", &["/me"]),
            ("/assets/..%e0%80%afme", &["/me"]),
            ("/assets/%c0%ae%c0%ae/me", &["/me"]),
            ("/assets/..%u002fme", &["/me"]),
            ("/assets/..%09/me", &["/me"]),
            ("/assets/..%0a%2fme", &["/me"]),
            ("/assets/..%25u002fme", &["/me"]),
            ("/me%2Fmail;x.css", &["/me/mail"]),
            ("/me/mail%3Fx.css", &["/me/mail"]),
            ("/me/mail%3fx.css", &["/me/mail"]),
            ("/me/mail%253Fx.css", &["/me/mail"]),
            ("/me/mail%00.css", &["/me/mail"]),
            ("/me/mail%2500.css", &["/me/mail"]),
            ("/me/mail%23.css", &["/me/mail"]),
            ("/me/mail%0a.css", &["/me/mail"]),
            ("/me/mail%0D%0Ax.css", &["/me/mail"]),
            ("/me/mail%09x.css", &["/me/mail"]),
            ("/me/mail%7f.css", &["/me/mail"]),
            ("/me/mail%20", &["/me/mail"]),
            ("/me/mail;/x.css", &["/me/mail", "/me/mail/x.css"]),
            ("/me/mail%3b/x.css", &["/me/mail"]),
            ("/me/mail%2F%3Fx.css", &["/me/mail", "/me/mail/"]),
            ("/me%2Fmail%2F..;%2F..;%2F", &["/"]),
            ("/x;%2F..%2F..%2Fassets", &["/x", "/assets"]),
            ("/a%2F%2F..%2Fb", &["/a/b", "/b"]),
            ("//h/me", &["/me"]),
            ("///h/me", &["/me"]),
            ("//h", &["/", "/h"]),
            ("/t/joe%40x.test", &["/t/joe@x.test"]),
            ("/items/1%3Apublish", &["/items/1:publish"]),
            ("/%00", &["/"]),
            ("/;", &["/"]),
            ("/%2F", &["/"]),
            ("/..%2F..", &["/"]),
            ("/%", &[]),
            ("/100%25", &["/100%"]),
        ];
        for (path, expected) in rows {
            let found = all(path);
            for reading in *expected {
                assert!(found.iter().any(|path| path == reading), "{path} as {reading}: {found:?}");
            }
        }
    }

    #[test]
    fn a_path_has_no_other_readings() {
        let rows: &[(&str, &[&str])] = &[
            ("/users/5;v=1", &["/users/5;v=1", "/users/5"]),
            ("/docs/a%20b", &["/docs/a%20b"]),
            ("/docs/%E4%BD%A0", &["/docs/%E4%BD%A0"]),
            ("/a%2Fb", &["/a%2Fb", "/a/b"]),
            ("/a//b", &["/a//b", "/a/b"]),
            ("/a/b/", &["/a/b/", "/a/b"]),
            ("/a%26b", &["/a%26b", "/a&b"]),
            ("/A%2Fb", &["/A%2Fb", "/A/b"]),
        ];
        for (path, expected) in rows {
            assert_eq!(all(path), *expected, "{path}");
        }
    }

    #[test]
    fn a_hostile_path_has_a_bounded_number_of_readings() {
        let piece = "/;x%2F..;%252F%5C%3B//%00%3F%255C..%2F.%2F;//";
        for count in [1, 2, 10, 100, 1_000] {
            let path = piece.repeat(count);
            let readings = Readings::of(&path);
            let bytes: usize = readings.all().map(str::len).sum();
            assert!(readings.count() <= MOST && bytes <= BYTES.max(path.len() * (FEWEST + 1)), "{count}");
            assert!(!readings.is_complete(), "{count}");
        }
    }

    const PIECES: &str =
        "/(/|;|;x|%2F|%5C|%3B|%25|%252F|%252e|%00|%3F|%23|%0A|%20|%40|%|\\.\\.|\\.|[a-c]|%C0%AF){0,12}";

    proptest! {
        #[test]
        fn readings_are_bounded_distinct_and_look_like_paths(path in PIECES) {
            let path = normalise(&path).into_owned();
            let readings = Readings::of(&path);
            prop_assert!(readings.count() <= MOST);
            let all: Vec<&str> = readings.all().collect();
            let distinct: std::collections::HashSet<_> = all.iter().collect();
            prop_assert_eq!(distinct.len(), all.len());
            prop_assert!(all.iter().all(|path| path.starts_with('/') && path.is_ascii()), "{all:?}");
        }

        #[test]
        fn a_path_that_looks_plain_has_one_reading(path in "(/|[a-c.:@!-]|%C3%A9|%E4%BD%A0|%E0%A4%95|%C0|/[a-c]){1,9}") {
            let path = normalise(&format!("/{path}")).into_owned();
            prop_assert!(!is_plain(&path) || Readings::found(&path, None, PathCase::Sensitive).count() == 1, "{path}");
            prop_assert_eq!(Readings::of(&path), Readings::found(&path, None, PathCase::Sensitive));
        }

        #[test]
        fn spellings_of_one_path_have_a_reading_in_common(
            segments in proptest::collection::vec("[a-c]{1,2}", 1..4),
            one in 0..8usize, other in 0..8usize,
        ) {
            let spell = |habit: usize| {
                let separator = ["/", "//", "%2F", "\\", ";x/", "%5c", "/.%2F", "%252F"][habit];
                normalise(&format!("/{}", segments.join(separator))).into_owned()
            };
            let (one, other) = (spell(one), spell(other));
            let (one, other) = (Readings::of(&one), Readings::of(&other));
            prop_assert!(one.all().any(|path| other.all().any(|it| it == path)), "{one:?} {other:?}");
        }
    }
}
