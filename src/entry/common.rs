//! Field lines that many stored responses have in common, such as `content-type: application/json`: each is in memory once, and
//! entries have its number. They are never freed, so that a hit copies them without counting references. So they are few: the first
//! values that come, of fields that describe a kind of response and hold nobody's data. Of other fields only the names are in common.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use hashbrown::DefaultHashBuilder;
use http::{HeaderName, HeaderValue};

/// Most common lines.
pub(super) const LINES: usize = 4096;
/// Most common names.
pub(super) const NAMES: usize = 1024;
/// Most values of a name in common lines.
const VALUES: usize = 32;
/// The longest value of a common line, bytes.
const LONGEST_VALUE: usize = 256;
/// The longest common name, bytes.
const LONGEST_NAME: usize = 64;

/// The common lines of this process.
pub(super) static COMMON: CommonLines = CommonLines::new();

type Line = (HeaderName, HeaderValue);

/// Common lines, and names of lines that are not common, by number.
pub(super) struct CommonLines {
    lines: [OnceLock<Line>; LINES],
    names: [OnceLock<HeaderName>; NAMES],
    numbers: LazyLock<RwLock<CommonNumbers>>,
}

#[derive(Default)]
struct CommonNumbers {
    lines: HashMap<Line, u16, DefaultHashBuilder>,
    names: HashMap<HeaderName, CommonName, DefaultHashBuilder>,
}

struct CommonName {
    number: u16,
    /// Common lines with this name.
    values: usize,
}

/// What of a line is common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommonPart {
    /// All of it; its number.
    Line(u16),
    /// Its name; that has a number.
    Name(u16),
    Nothing,
}

impl CommonLines {
    const fn new() -> CommonLines {
        CommonLines {
            lines: [const { OnceLock::new() }; LINES],
            names: [const { OnceLock::new() }; NAMES],
            numbers: LazyLock::new(RwLock::default),
        }
    }

    /// The line of this number.
    pub fn line(&self, number: u16) -> Option<&Line> {
        self.lines.get(usize::from(number))?.get()
    }

    /// The name of this number.
    pub fn name(&self, number: u16) -> Option<&HeaderName> {
        self.names.get(usize::from(number))?.get()
    }

    /// What of a line is common. For the same line it is always the same.
    pub fn share(&self, line: &Line) -> CommonPart {
        let known = self.numbers.read().unwrap_or_else(PoisonError::into_inner).of(line);
        known.unwrap_or_else(|| {
            let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have been first.
            numbers.of(line).unwrap_or_else(|| self.add(line, &mut numbers))
        })
    }

    /// Makes a line common that is not decided on, or else its name.
    fn add(&self, line: &Line, numbers: &mut CommonNumbers) -> CommonPart {
        if !numbers.names.contains_key(&line.0) {
            let (name, number) = (lasting_name(&line.0), numbers.names.len() as u16);
            let _ = self.names[usize::from(number)].set(name.clone());
            numbers.names.insert(name, CommonName { number, values: 0 });
        }
        if let Some(found) = numbers.of(line) {
            return found;
        }
        let name = numbers.names.get_key_value(&line.0).map_or_else(|| line.0.clone(), |(name, _)| name.clone());
        let line = (name, lasting_value(&line.1));
        let number = numbers.lines.len() as u16;
        let _ = self.lines[usize::from(number)].set(line.clone());
        numbers.names.entry(line.0.clone()).and_modify(|name| name.values += 1);
        numbers.lines.insert(line, number);
        CommonPart::Line(number)
    }
}

impl CommonNumbers {
    /// `None`: it is not decided yet, and there is room for it.
    fn of(&self, line: &Line) -> Option<CommonPart> {
        if let Some(number) = self.lines.get(line) {
            return Some(CommonPart::Line(*number));
        }
        let has_room = is_descriptive(&line.0) && line.1.len() <= LONGEST_VALUE && self.lines.len() < LINES;
        match self.names.get(&line.0) {
            Some(name) if !has_room || name.values >= VALUES => Some(CommonPart::Name(name.number)),
            Some(_) => None,
            None if line.0.as_str().len() > LONGEST_NAME || self.names.len() >= NAMES => Some(CommonPart::Nothing),
            None => None,
        }
    }
}

/// Whether a field describes a kind of response. Its values are few, and nobody's data: they stay in memory.
fn is_descriptive(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_known = matches!(
        name,
        "accept-ranges"
            | "allow"
            | "alt-svc"
            | "cache-control"
            | "cdn-cache-control"
            | "connection"
            | "content-encoding"
            | "content-language"
            | "content-security-policy"
            | "content-type"
            | "cross-origin-opener-policy"
            | "cross-origin-resource-policy"
            | "pragma"
            | "referrer-policy"
            | "server"
            | "strict-transport-security"
            | "surrogate-control"
            | "timing-allow-origin"
            | "vary"
            | "via"
            | "x-content-type-options"
            | "x-frame-options"
            | "x-powered-by"
            | "x-xss-protection"
    );
    is_known || name.starts_with("access-control-")
}

/// The same name, never freed.
fn lasting_name(name: &HeaderName) -> HeaderName {
    HeaderName::from_static(name.as_str().to_owned().leak())
}

/// The same value, never freed.
fn lasting_value(value: &HeaderValue) -> HeaderValue {
    let bytes = Bytes::from_static(value.as_bytes().to_vec().leak());
    HeaderValue::from_maybe_shared(bytes).unwrap_or_else(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, value: &str) -> Line {
        (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
    }

    /// Too large for the stack of a test.
    fn common() -> &'static CommonLines {
        static EMPTY: [CommonLines; 4] = [const { CommonLines::new() }; 4];
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        &EMPTY[NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)]
    }

    #[test]
    fn the_first_values_of_a_name_are_common() {
        let common = common();
        for n in 0..VALUES {
            let line = line("cache-control", &n.to_string());
            assert_eq!(common.share(&line), CommonPart::Line(n as u16));
            assert_eq!(common.line(n as u16), Some(&line));
        }
        let further = line("cache-control", "further");
        assert_eq!(common.share(&further), CommonPart::Name(0));
        assert_eq!(common.name(0), Some(&further.0));
        assert_eq!(common.share(&line("content-type", "a")), CommonPart::Line(VALUES as u16));
        assert_eq!(common.share(&line("set-cookie", "a")), CommonPart::Name(2), "it may be a user's");
        for n in 0..VALUES {
            assert_eq!(
                common.share(&line("cache-control", &n.to_string())),
                CommonPart::Line(n as u16),
                "it stays"
            );
        }
    }

    #[test]
    fn long_values_and_long_names_are_not_common() {
        let common = common();
        assert_eq!(common.share(&line("vary", &"a".repeat(LONGEST_VALUE + 1))), CommonPart::Name(0));
        assert_eq!(common.share(&line(&"a".repeat(LONGEST_NAME + 1), "a")), CommonPart::Nothing);
    }

    #[test]
    fn their_number_is_bounded() {
        let common = common();
        for n in 0..2 * NAMES {
            for value in 0..VALUES {
                common.share(&line(&format!("access-control-{n}"), &value.to_string()));
            }
        }
        let numbers = common.numbers.read().unwrap();
        assert_eq!((numbers.lines.len(), numbers.names.len()), (LINES, NAMES));
    }
}
