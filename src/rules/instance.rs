//! Instances of a family: the tags for the values of its captures and of its `instance` table, carried by entries and
//! named by writes.
//!
//! In a family `f` with instances *a* and *b*, an entry has the tags `f:a`, `f:a:b` and `f:*:b`: one for each subset
//! of values that a write may know, with `*` for an unknown one and trailing `*` omitted. A write that knows one value
//! of each names exactly one of these tags.

use std::borrow::Cow;
use std::fmt::Write;

use md5::{Digest, Md5};
use smallvec::SmallVec;

use crate::http::target::percent_decoded;
use crate::marks::Tag;

/// Most captures and further instances per family: an entry with one value of each carries 2^n - 1 instance tags.
pub const CAPTURES: usize = 4;

/// Most instance tags of an entry, and of a reference in a write. A request can give an instance several values.
pub const TAGS: usize = 128;

/// Longest value that a tag holds verbatim, in bytes.
const VALUE: usize = 128;

/// Longest label, in bytes.
const LABEL: usize = 150;

/// Values of a family's named captures in one path, in pattern order. A capture that took no part in the match is
/// empty.
pub type Captures = SmallVec<[String; 2]>;

/// For each of a family's instances beside its captures, the values in one request, as written in tags. Empty in a family
/// without such instances.
pub type InstanceValues = Vec<Vec<String>>;

/// A value as written in tags. Percent-encodings are decoded first, then re-encoded where the character would be
/// taken for structure. So `bob@x`, `bob%40x` and other spellings of a value are one instance, as they are for
/// upstream; so are `7`, `007` and `7.0`, wherever a read or a write takes them from. A long value is replaced by its MD5.
pub fn value(raw: &str) -> Cow<'_, str> {
    if is_verbatim(raw) { one_spelling(raw) } else { Cow::Owned(decoded_value(&percent_decoded(raw))) }
}

/// The same for bytes that are not percent-encoded.
pub fn decoded_value(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => escaped(one_spelling(text).as_bytes()),
        Err(_) => escaped(bytes.trim_ascii()),
    }
}

/// A value as it was spelled, for labels.
fn spelled(raw: &str) -> Cow<'_, str> {
    if is_verbatim(raw) { Cow::Borrowed(raw) } else { Cow::Owned(escaped(&percent_decoded(raw))) }
}

fn is_verbatim(raw: &str) -> bool {
    raw.len() <= VALUE && !raw.starts_with('~') && raw.bytes().all(is_plain)
}

/// One spelling for all texts that a server may take for the same value: without white space around it, and the shortest one
/// of a decimal number (`42` for `042`, `+42` and `42.0`).
fn one_spelling(text: &str) -> Cow<'_, str> {
    let text = text.trim_ascii();
    plain_number(text).unwrap_or(Cow::Borrowed(text))
}

/// The shortest spelling of a decimal number. `None` for other texts.
fn plain_number(text: &str) -> Option<Cow<'_, str>> {
    let (is_negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    Some(match (is_negative, whole, fraction) {
        (_, "", "") => Cow::Borrowed("0"),
        (false, whole, "") => Cow::Borrowed(whole),
        (true, whole, "") if whole.len() + 1 == text.len() => Cow::Borrowed(text),
        (true, whole, "") => Cow::Owned(format!("-{whole}")),
        (is_negative, whole, fraction) => {
            let sign = if is_negative { "-" } else { "" };
            let whole = if whole.is_empty() { "0" } else { whole };
            Cow::Owned(format!("{sign}{whole}.{fraction}"))
        }
    })
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes.iter().copied() {
        // A leading `~` marks an MD5.
        if is_plain(byte) && !(byte == b'~' && text.is_empty()) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    if text.len() > VALUE { digest(&text) } else { text }
}

/// The tag of an instance; `None` stands for an unknown capture. If all are unknown, it is the family's own tag.
pub fn tag(family: &str, values: &[Option<&str>]) -> Tag {
    let known = values.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let mut text = String::with_capacity(family.len() + 1 + known * 16);
    text.push_str(family);
    for part in &values[..known] {
        text.push(':');
        text.push_str(part.unwrap_or("*"));
    }
    Tag::family(&text)
}

/// All instance tags of an entry, one for each non-empty subset of captures. `captures` are as matched in the path,
/// at most [`CAPTURES`].
pub fn tags(family: &str, captures: &[String], tags: &mut Vec<Tag>) {
    let values: SmallVec<[Cow<'_, str>; CAPTURES]> = captures.iter().map(|raw| value(raw)).collect();
    for choice in 1..1u32 << values.len() {
        let known = values.iter().enumerate().map(|(at, value)| (choice & 1 << at != 0).then_some(value.as_ref()));
        let parts: SmallVec<[Option<&str>; CAPTURES]> = known.collect();
        tags.push(tag(family, &parts));
    }
}

/// The same if an instance can have several values, or none: one tag for each choice of an unknown or one of the
/// values per instance. `captures` are as matched in the path; `further` are values as written in tags. Adds nothing
/// that `tags` has.
pub fn tags_of_all(family: &str, captures: &[String], further: &[Vec<String>], tags: &mut Vec<Tag>) {
    let captures = captures.iter().map(|raw| vec![None, Some(value(raw))]);
    let of = |values: &Vec<String>| -> Vec<Option<Cow<'_, str>>> {
        std::iter::once(None).chain(values.iter().map(|value| Some(Cow::Owned(value.clone())))).collect()
    };
    let choices: Vec<Vec<Option<Cow<'_, str>>>> = captures.chain(further.iter().map(of)).collect();
    for parts in every_choice(&choices) {
        let parts: SmallVec<[Option<&str>; CAPTURES]> = parts.iter().map(|part| part.as_deref()).collect();
        if parts.iter().any(Option::is_some) {
            let tag = tag(family, &parts);
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    }
}

/// The number of tags of [`tags_of_all`], with that of the family.
pub fn count_of_all(captures: usize, further: &[Vec<String>]) -> usize {
    let further = further.iter().map(|values| values.len() + 1);
    std::iter::repeat_n(2, captures).chain(further).fold(1, usize::saturating_mul)
}

/// Every way to take one element of each list.
pub fn every_choice<T: Clone>(lists: &[Vec<T>]) -> Vec<Vec<T>> {
    lists.iter().fold(vec![Vec::new()], |begun, list| {
        let with = |begun: &Vec<T>, next: &T| begun.iter().chain([next]).cloned().collect();
        begun.iter().flat_map(|begun| list.iter().map(move |next| with(begun, next))).collect()
    })
}

/// A label such as `user_details:42` for reports and readable Redis keys; long ones are truncated.
pub fn label(family: &str, captures: &[String]) -> String {
    let mut text = family.to_owned();
    for raw in captures {
        text.push(':');
        text.push_str(&spelled(raw));
    }
    // Family names and values are ASCII, so every index is a character boundary.
    text.truncate(LABEL);
    text
}

/// Printable ASCII except the separator of tags (`:`), the wildcard (`*`), the escape (`%`), and the hash tag of a
/// Redis Cluster slot (`{`, `}`).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b':' | b'*' | b'%' | b'{' | b'}')
}

fn digest(text: &str) -> String {
    let hash: [u8; 16] = Md5::digest(text.as_bytes()).into();
    format!("~{:032x}", u128::from_be_bytes(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(captures: &[&str]) -> Vec<String> {
        let captures: Vec<String> = captures.iter().map(|value| (*value).to_owned()).collect();
        let mut found = Vec::new();
        tags("f", &captures, &mut found);
        found.iter().map(|tag| tag.as_str().to_owned()).collect()
    }

    #[test]
    fn an_entry_carries_a_tag_for_each_choice_of_captures() {
        let rows: [(&[&str], &[&str]); 4] = [
            (&[], &[]),
            (&["1"], &["f:1"]),
            (&["1", "2"], &["f:1", "f:*:2", "f:1:2"]),
            (&["1", "2", "3"], &["f:1", "f:*:2", "f:1:2", "f:*:*:3", "f:1:*:3", "f:*:2:3", "f:1:2:3"]),
        ];
        for (captures, expected) in rows {
            assert_eq!(texts(captures), expected);
        }
        assert_eq!(texts(&["a", "b", "c", "d"]).len(), 15);
    }

    #[test]
    fn values_cannot_imitate_structure() {
        let rows = [
            ("42", "42"),
            ("a:b", "a%3Ab"),
            ("*", "%2A"),
            ("a{b}", "a%7Bb%7D"),
            ("~0123", "%7E0123"),
            ("a~b", "a~b"),
            ("", ""),
            ("100%", "100%25"),
            ("a b", "a%20b"),
            ("é", "%C3%A9"),
        ];
        for (raw, expected) in rows {
            assert_eq!(value(raw), expected, "{raw}");
        }
    }

    #[test]
    fn spellings_of_one_value_are_one_instance() {
        let rows = [
            ("bob@x", "bob%40x"),
            ("a:b", "a%3Ab"),
            ("a:b", "a%3ab"),
            ("%zz", "%25zz"),
            ("é", "%C3%A9"),
            ("a", "%61"),
        ];
        for (one, other) in rows {
            assert_eq!(value(one), value(other));
        }
        assert_ne!(value("%2540"), value("@"));
    }

    #[test]
    fn a_number_has_one_shortest_spelling() {
        let rows = [
            ("42", Some("42")),
            ("042", Some("42")),
            ("+42", Some("42")),
            ("-42", Some("-42")),
            ("42.0", Some("42")),
            ("42.", Some("42")),
            ("1.50", Some("1.5")),
            (".5", Some("0.5")),
            ("-0", Some("0")),
            ("00", Some("0")),
            ("", None),
            (".", None),
            ("-", None),
            ("1e3", None),
            ("2025-01-01", None),
            ("a1", None),
        ];
        for (text, expected) in rows {
            assert_eq!(plain_number(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn spellings_of_one_number_in_captures_are_one_instance() {
        for raw in ["7", "007", "7.0", "+7", "%2B7", "%30%307", "%207", "7.", "7%20"] {
            assert_eq!(value(raw), "7", "{raw}");
            assert_eq!(texts(&[raw]), ["f:7"], "{raw}");
        }
        assert_eq!(value(&format!("{}7", "0".repeat(VALUE))), "7");
        for other in ["70", "-7", "7a", "7.01", "0x7", "a7"] {
            assert_ne!(value(other), "7", "{other}");
        }
        for plain in ["7", "-7", "007", "abc", "2025-01-01"] {
            assert!(matches!(value(plain), Cow::Borrowed(_)), "{plain} is copied");
        }
        // An operator may copy it, and the pattern of the path may want its zeros.
        assert_eq!(label("f", &["007".to_owned()]), "f:007");
    }

    #[test]
    fn a_long_value_is_its_md5() {
        assert_eq!(value(&"x".repeat(128)).len(), 128);
        assert_eq!(value(&"x".repeat(129)), "~3926841d393c00c3f36260e5ace10dc1");
    }

    #[test]
    fn an_entry_carries_a_tag_for_each_choice_of_values() {
        type Texts = &'static [&'static str];
        let rows: [(Texts, &[Texts], Texts); 5] = [
            (&[], &[&["a"]], &["f:a"]),
            (&[], &[&[]], &[]),
            (&["1"], &[&[]], &["f:1"]),
            (&["1"], &[&["a", "b"]], &["f:*:a", "f:*:b", "f:1", "f:1:a", "f:1:b"]),
            (&[], &[&[], &["a"]], &["f:*:a"]),
        ];
        for (captures, further, expected) in rows {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
            let further: Vec<Vec<String>> = further.iter().map(|values| owned(values)).collect();
            let mut found = Vec::new();
            tags_of_all("f", &owned(captures), &further, &mut found);
            assert_eq!(found.iter().map(Tag::as_str).collect::<Vec<_>>(), expected, "{captures:?} {further:?}");
            assert_eq!(count_of_all(captures.len(), &further), found.len() + 1);
        }
    }

    #[test]
    fn labels_are_cut() {
        assert_eq!(label("user_details", &["42".to_owned()]), "user_details:42");
        assert_eq!(label("f", &["x".repeat(128), "y".repeat(128)]).len(), LABEL);
    }

    proptest! {
        #[test]
        fn different_captures_never_share_their_full_instance_tag(
            one in proptest::collection::vec(r"[ab:*%~{}@é23A5]{0,6}", 2),
            other in proptest::collection::vec(r"[ab:*%~{}@é23A5]{0,6}", 2),
        ) {
            // Two spellings of one value are equal.
            let meaning = |captures: &[String]| captures.iter().map(|value| percent_decoded(value)).collect::<Vec<_>>();
            let full = |captures: &[String]| {
                let mut found = Vec::new();
                tags("f", captures, &mut found);
                found.pop()
            };
            prop_assert_eq!(meaning(&one) == meaning(&other), full(&one) == full(&other));
        }

        #[test]
        fn subsets_of_captures_have_different_tags(captures in proptest::collection::vec(r"[ab:*~]{0,5}", 0..5)) {
            let mut found = Vec::new();
            tags("f", &captures, &mut found);
            let distinct: std::collections::HashSet<_> = found.iter().collect();
            prop_assert_eq!(distinct.len(), (1 << captures.len()) - 1);
        }

        #[test]
        fn a_value_is_short_and_plain(raw in ".{0,200}") {
            let text = value(&raw);
            prop_assert!(text.len() <= VALUE);
            prop_assert!(text.bytes().all(|byte| is_plain(byte) || byte == b'%'));
        }
    }
}
