//! Groups of responses that are invalidated together (RFC 9875), and older fields with the same purpose. A group
//! belongs to one origin ([`crate::marks::Tag::group`]); its invalidation affects no other group (§2.2.1).

use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, List, ListEntry, Parser};

const CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
const CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
const XKEY: HeaderName = HeaderName::from_static("xkey");

static ALL: [HeaderName; 5] = [CACHE_GROUPS, CACHE_GROUP_INVALIDATION, SURROGATE_KEY, CACHE_TAG, XKEY];

/// Most groups of one response. RFC 9875 §2 requires at least 32.
pub const GROUPS: usize = 128;

/// Total length of the names of one response's groups, in bytes. RFC 9875 §2 requires at least 32 × 32.
pub const BYTES: usize = 16 * 1024;

/// A response has more groups than an entry can carry. It must not be stored: it would miss the invalidations of the
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response names more than {GROUPS} groups, or their names are longer than {BYTES} bytes together")]
pub struct TooMany;

/// All groups of a response, sorted, without duplicates: from `Cache-Groups` (RFC 9875 §2; ignored as a whole if it
/// is no list of strings, RFC 9651 §4.2), `Surrogate-StoreKey` (separated by spaces), `Cache-Tag` (by commas) and
/// `xkey` (by either).
///
/// Names are compared bytewise (§2.1). Invalid UTF-8, possible only in the older fields, decodes to one replacement
/// character: such groups may be invalidated together, but are never missed.
pub fn named(response: &HeaderMap) -> Result<Vec<String>, TooMany> {
    let mut names = strings(response, &CACHE_GROUPS);
    separated(response, &SURROGATE_KEY, |byte| matches!(byte, b' ' | b'\t'), &mut names);
    separated(response, &CACHE_TAG, |byte| byte == b',', &mut names);
    separated(response, &XKEY, |byte| matches!(byte, b' ' | b'\t' | b','), &mut names);
    names.sort_unstable();
    names.dedup();
    let is_within = names.len() <= GROUPS && names.iter().map(String::len).sum::<usize>() <= BYTES;
    if is_within { Ok(names) } else { Err(TooMany) }
}

/// The groups that a response invalidates (RFC 9875 §3), sorted, without duplicates and without a limit: omitting one
/// would serve what it invalidates. Only for responses to unsafe methods; on others the field MUST be ignored.
pub fn invalidated(response: &HeaderMap) -> Vec<String> {
    let mut names = strings(response, &CACHE_GROUP_INVALIDATION);
    names.sort_unstable();
    names.dedup();
    names
}

/// Removes all fields of this module: they are between upstream and its caches.
pub fn strip(headers: &mut HeaderMap) {
    if has_any(headers) {
        ALL.iter().for_each(|name| drop(headers.remove(name)));
    }
}

/// Whether [`strip`] would remove anything.
pub fn has_any(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        matches!(
            name.as_str(),
            "cache-groups" | "cache-group-invalidation" | "surrogate-key" | "cache-tag" | "xkey"
        )
    })
}

/// The members of a list of strings over all lines, without their parameters (RFC 9875 §2). Empty if the field is
/// anything else.
fn strings(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    if !headers.contains_key(name) {
        return Vec::new();
    }
    // RFC 9651 §4.2: the lines are one value.
    let lines: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let list: List = Parser::new(&lines.join(&b", "[..])).parse().unwrap_or_default();
    list.into_iter().map(string).collect::<Option<_>>().unwrap_or_default()
}

fn string(member: ListEntry) -> Option<String> {
    match member {
        ListEntry::Item(item) => match item.bare_item {
            BareItem::String(text) => Some(text.as_str().to_owned()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    }
}

fn separated(headers: &HeaderMap, name: &HeaderName, separates: fn(u8) -> bool, names: &mut Vec<String>) {
    let members = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| separates(*byte)));
    let members = members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty());
    names.extend(members.map(|member| String::from_utf8_lossy(member).into_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};
    use proptest::prelude::*;

    #[test]
    fn every_field_names_groups_in_its_own_way() {
        let rows: [(Fields<'_>, &[&str]); 16] = [
            (&[], &[]),
            (&[("cache-groups", r#""scripts""#)], &["scripts"]),
            (&[("cache-groups", r#""b" ,"a";x=1;y, "a b, \"c\"""#)], &["a", "a b, \"c\"", "b"]),
            (&[("cache-groups", r#""a""#), ("cache-groups", r#""b""#)], &["a", "b"]),
            (&[("cache-groups", "")], &[]),
            // Not a list of strings: ignored as a whole.
            (&[("cache-groups", r#""a", b"#)], &[]),
            (&[("cache-groups", r#""a", ("b")"#)], &[]),
            (&[("cache-groups", r#""a","#)], &[]),
            (&[("cache-groups", r#""a"#)], &[]),
            (&[("cache-groups", r#""a""#), ("cache-groups", "1")], &[]),
            (&[("cache-groups", "\"\u{e4}\"")], &[]),
            (&[("surrogate-key", " a  b,c\td "), ("surrogate-key", "a")], &["a", "b,c", "d"]),
            (&[("cache-tag", "a b, ,c"), ("cache-tag", "d")], &["a b", "c", "d"]),
            (&[("xkey", "a b,c , d"), ("xkey", "e")], &["a", "b", "c", "d", "e"]),
            (&[("cache-groups", "a"), ("xkey", "A a")], &["A", "a"]),
            (&[("cache-groups", r#""a""#), ("surrogate-key", "a"), ("cache-tag", "a"), ("xkey", "a")], &["a"]),
        ];
        for (lines, expected) in rows {
            let expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(named(&fields(lines)), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn names_with_invalid_utf_8_match_conservatively() {
        let mut headers = HeaderMap::new();
        headers.insert(XKEY, HeaderValue::from_bytes(b"a\xff").unwrap());
        assert_eq!(named(&headers).unwrap(), ["a\u{fffd}"]);
    }

    #[test]
    fn too_many_groups_are_rejected() {
        let groups = |count: usize, length: usize| {
            let names: Vec<_> = (0..count).map(|index| format!("\"{index:0length$}\"")).collect();
            named(&fields(&[("cache-groups", &names.join(", "))]))
        };
        assert_eq!(groups(GROUPS, 128).unwrap().len(), GROUPS);
        assert_eq!(groups(GROUPS, 129), Err(TooMany));
        assert_eq!(groups(GROUPS + 1, 3), Err(TooMany));
        // Duplicates count once.
        assert!(named(&fields(&[("xkey", &"a ".repeat(500))])).is_ok());
        // The limit covers all fields together.
        let spread: Vec<_> = (0..GROUPS).map(|index| format!("{index}")).collect();
        assert!(named(&fields(&[("xkey", &spread.join(" "))])).is_ok());
        assert_eq!(named(&fields(&[("xkey", &spread.join(" ")), ("cache-tag", "a")])), Err(TooMany));
    }

    #[test]
    fn an_invalidation_names_any_number_of_groups() {
        let names: Vec<_> = (0..1000).map(|index| format!("\"{index}\";p")).collect();
        assert_eq!(invalidated(&fields(&[("cache-group-invalidation", &names.join(","))])).len(), 1000);
        let example = r#""eurovision-results", "australia""#;
        let twice = fields(&[("cache-group-invalidation", example), ("cache-group-invalidation", example)]);
        assert_eq!(invalidated(&twice), ["australia", "eurovision-results"]);
        assert_eq!(invalidated(&fields(&[("cache-group-invalidation", "a"), ("cache-groups", "\"a\"")])), [""; 0]);
    }

    #[test]
    fn clients_see_none_of_these_fields() {
        let mut headers = fields(&[
            ("cache-groups", "\"a\""),
            ("cache-group-invalidation", "\"a\""),
            ("surrogate-key", "a"),
            ("cache-tag", "a"),
            ("xkey", "a"),
            ("xkey", "b"),
            ("etag", "\"a\""),
        ]);
        strip(&mut headers);
        assert_eq!(headers, fields(&[("etag", "\"a\"")]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                for name in [CACHE_GROUPS, CACHE_GROUP_INVALIDATION, SURROGATE_KEY, CACHE_TAG, XKEY] {
                    let headers = HeaderMap::from_iter([(name, value.clone())]);
                    let _ = invalidated(&headers);
                    let names = named(&headers).unwrap_or_default();
                    prop_assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
                }
            }
        }

        #[test]
        fn every_string_round_trips(names in proptest::collection::btree_set("[ !#-\\[\\]-~]{0,12}", 1..20)) {
            let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
            let expected: Vec<String> = names.into_iter().collect();
            prop_assert_eq!(named(&fields(&[("cache-groups", &list)])), Ok(expected.clone()));
            prop_assert_eq!(invalidated(&fields(&[("cache-group-invalidation", &list)])), expected);
        }
    }
}
