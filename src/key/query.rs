//! The query parameters in a family's cache key, and the query that is forwarded. Both are the same text, so an
//! ignored parameter does not reach upstream either.
//!
//! Servers parse queries differently. If any might tell two queries apart, they count as different: a parameter is
//! dropped, or an order changed, only if no server in use can notice.

use std::borrow::Cow;
use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::http::target::percent_decoded;

/// How a family treats a query. Without a family, the query counts as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryKeySpec {
    /// The parameters in the key.
    pub parameters: Parameters,
    /// Whether to sort parameters by name. Only done if every name occurs once and none has brackets: otherwise the
    /// order may matter.
    pub sort: bool,
}

impl Default for QueryKeySpec {
    fn default() -> QueryKeySpec {
        QueryKeySpec { parameters: Parameters::All, sort: true }
    }
}

/// Which query parameters belong to a family's cache key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Parameters {
    /// All of them.
    #[default]
    All,
    /// Only these names, and names that a lenient server may take for one of them.
    Keep(Vec<String>),
    /// All except exactly these names.
    Drop(Vec<String>),
}

type Items<'q> = SmallVec<[&'q str; 16]>;

impl QueryKeySpec {
    /// The normal form of a query; `None` if nothing of it is left. Copies nothing if the query is already in normal form.
    pub fn normalise<'q>(&self, query: &'q str) -> Option<Cow<'q, str>> {
        // The usual case on a hit with a query: nothing to drop, nothing to sort.
        if self.parameters == Parameters::All && (!self.sort || !query.contains('&')) {
            return Some(query.into());
        }
        let all: Items<'_> = query.split('&').collect();
        let mut items: Items<'_> = all.iter().copied().filter(|item| self.parameters.count(item)).collect();
        if self.sort {
            sort(&mut items);
        }
        match items == all {
            true => Some(query.into()),
            false => (!items.is_empty()).then(|| items.join("&").into()),
        }
    }
}

impl Parameters {
    /// Whether the parameter with this name belongs to the key, however it is written.
    pub fn keep(&self, name: &str) -> bool {
        match self {
            Parameters::All => true,
            Parameters::Keep(names) => names.iter().any(|kept| literal(kept).eq(literal(name))),
            Parameters::Drop(names) => !names.iter().any(|dropped| literal(dropped).eq(literal(name))),
        }
    }

    fn count(&self, item: &str) -> bool {
        match self {
            Parameters::All => true,
            Parameters::Keep(names) => parts(item).any(|part| names.iter().any(|name| may_be(part, name))),
            Parameters::Drop(names) => !parts(item).all(|part| names.iter().any(|name| is(part, name))),
        }
    }
}

/// Every value of the parameter with this name that some server may read in a query, decoded. A server may split at `;`,
/// and may take `+` for itself.
pub fn values<'q>(query: &'q str, name: &'q str) -> impl Iterator<Item = Vec<u8>> + 'q {
    query.split('&').flat_map(move |item| {
        // To its `;`, and to its end.
        let ends = item.match_indices(';').map(|(end, _)| end).chain([item.len()]);
        let begins = std::iter::once(0).chain(item.match_indices(';').map(|(end, _)| end + 1));
        let parts = begins.zip(ends).filter(move |(begin, end)| may_be(&item[*begin..*end], name));
        parts.flat_map(move |(begin, end)| {
            let to = |end: usize| item[begin..end].split_once('=').map_or("", |(_, value)| value);
            let both = [Some(to(end)), (end < item.len()).then(|| to(item.len()))];
            both.into_iter().flatten().flat_map(decoded_both_ways)
        })
    })
}

/// The names of the parameters of a query, each once, for operators: values may be secrets, and so may what has no `=`, which is shown as `…`.
pub fn shown_names(query: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in query.split('&').map(|item| item.split_once('=').map_or("…", |(name, _)| name)) {
        if !names.contains(&name) && names.len() < NAMES_SHOWN {
            names.push(name);
        }
    }
    names.join("&")
}

/// Most names of [`shown_names`].
const NAMES_SHOWN: usize = 32;

/// The value with `+` as a space and, if it has any, with `+` as itself.
fn decoded_both_ways(value: &str) -> impl Iterator<Item = Vec<u8>> {
    let plus = value.contains('+').then(|| percent_decoded(value));
    std::iter::once(percent_decoded(&value.replace('+', "%20"))).chain(plus)
}

/// The parameters in an item between two `&`: some servers also split at `;` (HTML 4.01 §B.2.2).
fn parts(item: &str) -> impl Iterator<Item = &str> {
    item.split(';')
}

fn name_of(part: &str) -> &str {
    part.split('=').next().unwrap_or(part)
}

/// Whether every server takes this for the parameter with this name. Most servers read `+` as a space.
fn is(part: &str, name: &str) -> bool {
    let raw = name_of(part);
    !raw.contains('+') && decoded(raw.bytes()).eq(name.bytes().map(Some))
}

/// Whether some server may take this for the parameter with this name, or a part of it.
fn may_be(part: &str, name: &str) -> bool {
    let raw = name_of(part);
    decoded(raw.bytes()).any(|byte| byte.is_none()) || folded(raw).eq(literal(name))
}

/// The percent-decoded bytes; `None` for an invalid encoding, which servers decode differently.
fn decoded(mut bytes: impl Iterator<Item = u8>) -> impl Iterator<Item = Option<u8>> {
    std::iter::from_fn(move || {
        Some(match bytes.next()? {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
            }
            byte => Some(byte),
        })
    })
}

/// Folds the names that some server treats as equal: by case (ASP.NET); by brackets (PHP, Rack, qs: `a[]`, `a[0]`,
/// `[a]` are `a`); by leading spaces, `.` and spaces within, and the text after a NUL (PHP).
fn folded(raw: &str) -> impl Iterator<Item = u8> {
    fold(decoded(raw.bytes().map(|byte| if byte == b'+' { b' ' } else { byte })).flatten())
}

/// The same for a name in the rules, which is not encoded.
fn literal(name: &str) -> impl Iterator<Item = u8> {
    fold(name.bytes())
}

fn fold(bytes: impl Iterator<Item = u8>) -> impl Iterator<Item = u8> {
    bytes
        .skip_while(|byte| matches!(byte, b'[' | b']') || byte.is_ascii_whitespace())
        .take_while(|byte| !matches!(byte, b'[' | b']' | 0))
        .map(|byte| match byte {
            b'.' | b' ' => b'_',
            byte => byte.to_ascii_lowercase(),
        })
}

/// Sorts parameters by name, unless their order may matter to some server.
fn sort(items: &mut Items<'_>) {
    if items.len() < 2 || !items.iter().all(|item| may_move(item)) {
        return;
    }
    let mut sorted = items.clone();
    sorted.sort_unstable_by(|one, other| by_name(one, other));
    if sorted.windows(2).all(|pair| by_name(pair[0], pair[1]) == Ordering::Less) {
        *items = sorted;
    }
}

fn by_name(one: &str, other: &str) -> Ordering {
    folded(name_of(one)).cmp(folded(name_of(other)))
}

/// Whether an item is one parameter whose name every server reads as a single value's name.
fn may_move(item: &str) -> bool {
    let name = name_of(item);
    let is_single = |byte: Option<u8>| byte.is_some_and(|byte| !matches!(byte, b'[' | b']' | 0));
    !name.is_empty() && !item.contains(';') && decoded(name.bytes()).all(is_single)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(key_spec: &QueryKeySpec, query: &str) -> Option<String> {
        key_spec.normalise(query).map(Cow::into_owned)
    }

    #[test]
    fn a_query_is_shown_by_the_names_of_its_parameters() {
        let rows =
            [("day=1", "day"), ("a=1&b=2&a=3", "a&b"), ("s3cret", "…"), ("a=s3cret=x&&t=", "a&…&t"), ("", "…")];
        for (query, expected) in rows {
            assert_eq!(shown_names(query), expected, "{query}");
        }
        assert!(shown_names(&(0..99).map(|n| format!("{n}=&")).collect::<String>()).len() < 100);
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn keep(kept: &[&str]) -> QueryKeySpec {
        QueryKeySpec { parameters: Parameters::Keep(names(kept)), sort: true }
    }

    fn drop(dropped: &[&str]) -> QueryKeySpec {
        QueryKeySpec { parameters: Parameters::Drop(names(dropped)), sort: true }
    }

    #[test]
    fn parameters_that_do_not_count_are_left_out() {
        let rows: [(QueryKeySpec, &str, Option<&str>); 12] = [
            (keep(&["a"]), "b=2&a=1&ab=3", Some("a=1")),
            (keep(&["a"]), "b=2", None),
            (keep(&["a"]), "", None),
            (keep(&["a"]), "a", Some("a")),
            (keep(&[]), "a=1", None),
            (keep(&["page"]), "next=page&q=page=1", None),
            (drop(&["utm_source"]), "utm_source=x", None),
            (drop(&["utm_source"]), "utm%5Fsource=x&utm_sourc%65=&utm_source", None),
            (drop(&["utm_source"]), "utm_source=x&b=2&a=1", Some("a=1&b=2")),
            (drop(&["x", "y"]), "x=1;y=2", None),
            (drop(&["ids[]"]), "ids[]=1&ids%5B%5D=2", None),
            (drop(&["x"]), "", Some("")),
        ];
        for (key_spec, query, expected) in rows {
            assert_eq!(sent(&key_spec, query).as_deref(), expected, "{key_spec:?} {query}");
        }
    }

    #[test]
    fn lenient_spellings_of_a_parameter_count() {
        let kept = [
            "Page=2",
            "PAGE=2",
            "page[]=9",
            "page%5b%5D=9",
            "page[0]=9",
            "[page]=9",
            "x=1;page=9",
            "x=1;Page[]=9",
            "p%61ge=9",
            "p%41ge=9",
            "page%00x=9",
            "+page=9",
            "%20page=9",
            "p%ge=9",
            "%u0070age=9",
            "page",
            "x=1&amp;page=9",
            "page=1;x=2",
        ];
        for query in kept {
            let sent = sent(&keep(&["page"]), query);
            assert!(sent.as_deref().is_some_and(|sent| query.ends_with(sent)), "{query}: {sent:?}");
        }
        assert_eq!(sent(&keep(&["per_page"]), "per.page=1").as_deref(), Some("per.page=1"));
        assert_eq!(sent(&keep(&["per_page"]), "per%20page=1").as_deref(), Some("per%20page=1"));
        assert_eq!(sent(&keep(&["filter[name]"]), "filter[name]=1").as_deref(), Some("filter[name]=1"));
    }

    #[test]
    fn ambiguous_parameters_are_not_dropped() {
        let counted = [
            "utm_source=x;page=999",
            "UTM_SOURCE=x",
            "utm_source[]=x",
            "utm.source=x",
            "utm_source%00=x",
            "utm_source+=x",
            "utm_%source=x",
            ";utm_source=x",
            "utm_source;page",
        ];
        for query in counted {
            assert_eq!(sent(&drop(&["utm_source"]), query).as_deref(), Some(query));
        }
        assert_eq!(sent(&drop(&["a b"]), "a+b=1&a%20b=2").as_deref(), Some("a+b=1"));
    }

    #[test]
    fn parameters_are_sorted_if_their_order_cannot_matter() {
        let rows = [
            ("page=2&sort=name", "page=2&sort=name"),
            ("sort=name&page=2", "page=2&sort=name"),
            ("b=2&A=1", "A=1&b=2"),
            ("b&a", "a&b"),
            ("b=[1]&a=%5B", "a=%5B&b=[1]"),
            // A list, and possible lists.
            ("b=2&a=9&b=1", "b=2&a=9&b=1"),
            ("b=2&a=1&B=3", "b=2&a=1&B=3"),
            ("b.c=2&a=1&b_c=3", "b.c=2&a=1&b_c=3"),
            ("b+c=2&a=1&b%20c=3", "b+c=2&a=1&b%20c=3"),
            ("f[][n]=a&f[][op]=eq&f[][n]=b", "f[][n]=a&f[][op]=eq&f[][n]=b"),
            ("f[][n]=a&f[][n]=b&f[][op]=eq", "f[][n]=a&f[][n]=b&f[][op]=eq"),
            ("f[b]=1&a=2", "f[b]=1&a=2"),
            ("f%5Bb%5d=1&a=2", "f%5Bb%5d=1&a=2"),
            // Servers read these differently.
            ("b=2;c=3&a=1", "b=2;c=3&a=1"),
            ("b%=2&a=1", "b%=2&a=1"),
            ("b%00=2&a=1", "b%00=2&a=1"),
            ("b=2&&a=1", "b=2&&a=1"),
            ("b=2&a=1&", "b=2&a=1&"),
            ("", ""),
        ];
        for (query, expected) in rows {
            assert_eq!(sent(&QueryKeySpec::default(), query).as_deref(), Some(expected), "{query}");
            let unsorted = QueryKeySpec { sort: false, ..QueryKeySpec::default() };
            assert_eq!(sent(&unsorted, query).as_deref(), Some(query));
        }
        let unsorted = QueryKeySpec { sort: false, ..drop(&["x"]) };
        assert_eq!(sent(&unsorted, "b=2&x=1&a=1").as_deref(), Some("b=2&a=1"));
    }

    const QUERY: &str = "(&|;|=|%|\\+|%20|%5B|%5b|[\\[\\]a-cA-C.]|page|utm){0,12}";

    proptest! {
        #[test]
        fn normalising_a_query_is_idempotent(query in QUERY, which in 0..4usize, sort: bool) {
            let parameters = [
                Parameters::All,
                Parameters::Keep(names(&["page", "a"])),
                Parameters::Drop(names(&["utm", "b"])),
                Parameters::Keep(Vec::new()),
            ];
            let key_spec = QueryKeySpec { parameters: parameters[which].clone(), sort };
            if let Some(once) = sent(&key_spec, &query) {
                prop_assert_eq!(sent(&key_spec, &once), Some(once));
            }
        }

        #[test]
        fn only_order_changes_where_all_parameters_count(query in QUERY) {
            let sorted = |query: &str| { let mut all: Vec<_> = query.split('&').map(str::to_owned).collect(); all.sort(); all };
            prop_assert_eq!(sorted(&sent(&QueryKeySpec::default(), &query).unwrap()), sorted(&query));
        }
    }
}
