//! `Vary` (RFC 9110 §12.5.5, RFC 9111 §4.1).

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::headers::dashed;

/// The request fields that a response varies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// No `Vary`, or an empty one, and no content coding.
    Nothing,
    /// `*`, alone or among others: never matches.
    Everything,
    /// These fields, sorted, without duplicates.
    On(Vec<HeaderName>),
}

impl Vary {
    /// Parses all `Vary` lines of a response. An invalid field name counts as `*`. A response with a content coding
    /// (RFC 9110 §8.4) always varies on `Accept-Encoding`: a client that does not accept the coding must not receive
    /// it.
    pub fn parse(headers: &HeaderMap) -> Vary {
        Vary::of(headers, is_coded(headers).then_some(ACCEPT_ENCODING))
    }

    /// Parses the `Vary` lines alone, of a message without content.
    pub fn of_lines(headers: &HeaderMap) -> Vary {
        Vary::of(headers, None)
    }

    fn of(headers: &HeaderMap, coding: Option<HeaderName>) -> Vary {
        let named = members(headers, &VARY).map(field_name).chain(coding.map(Some)).collect::<Option<Vec<_>>>();
        match named {
            None => Vary::Everything,
            Some(names) if names.is_empty() => Vary::Nothing,
            Some(names) => Vary::On(in_order(names)),
        }
    }

    /// The named fields; none for [`Vary::Everything`].
    pub fn into_names(self) -> Vec<HeaderName> {
        match self {
            Vary::On(names) => names,
            Vary::Nothing | Vary::Everything => Vec::new(),
        }
    }
}

/// Adds implied names to the `Vary` of a stored response, for downstream caches: `Accept-Encoding` if it has a
/// content coding, and `other`.
pub fn complete(headers: &mut HeaderMap, other: &[HeaderName]) {
    let coding = is_coded(headers).then_some(&ACCEPT_ENCODING);
    for name in other.iter().chain(coding) {
        let is_said = members(headers, &VARY).any(|member| member.eq_ignore_ascii_case(name.as_str().as_bytes()));
        if !is_said {
            headers.append(VARY, written(name));
        }
    }
}

/// `Accept-Encoding` in its usual spelling, other names in lower case.
fn written(name: &HeaderName) -> HeaderValue {
    if *name == ACCEPT_ENCODING {
        HeaderValue::from_static("Accept-Encoding")
    } else {
        HeaderValue::from(name.clone())
    }
}

/// Whether the content is coded. `identity` is no coding (RFC 9110 §8.4.1).
fn is_coded(headers: &HeaderMap) -> bool {
    members(headers, &CONTENT_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// The members of a list over all lines of a field, without empty ones (RFC 9110 §5.6.1).
fn members<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

fn in_order(mut names: Vec<HeaderName>) -> Vec<HeaderName> {
    names.sort_by(|left, right| left.as_str().cmp(right.as_str()));
    names.dedup();
    names
}

/// `*` is a token, so it would parse as a name. A name with `_` stands for that with `-`
/// ([`crate::http::headers::underscores`]).
fn field_name(member: &[u8]) -> Option<HeaderName> {
    HeaderName::from_bytes(member).ok().filter(|name| name.as_str() != "*").map(|name| dashed(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn parse(lines: &[&str]) -> Vary {
        Vary::parse(&lines.iter().map(|line| (VARY, HeaderValue::from_str(line).unwrap())).collect())
    }

    fn on(names: &[&'static str]) -> Vary {
        Vary::On(names.iter().map(|name| HeaderName::from_static(name)).collect())
    }

    #[test]
    fn lists_are_read_over_all_lines() {
        let rows: [(&[&str], Vary); 9] = [
            (&[], Vary::Nothing),
            (&["", " , ,"], Vary::Nothing),
            // The example of RFC 9110 §12.5.5.
            (&["accept-encoding, accept-language"], on(&["accept-encoding", "accept-language"])),
            (&["Accept-Language", "ACCEPT-ENCODING,accept-language"], on(&["accept-encoding", "accept-language"])),
            (&["*"], Vary::Everything),
            (&["accept, *"], Vary::Everything),
            (&["accept", " * "], Vary::Everything),
            (&["a b"], Vary::Everything),
            (&["\"accept\""], Vary::Everything),
        ];
        for (lines, expected) in rows {
            assert_eq!(parse(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_coded_response_varies_on_accept_encoding() {
        let ae = "accept-encoding";
        type Lines<'l> = &'l [&'l str];
        let rows: [(Lines<'_>, Lines<'_>, Vary, Lines<'_>); 12] = [
            (&["gzip"], &[], on(&[ae]), &["Accept-Encoding"]),
            (&["GZIP"], &[""], on(&[ae]), &["", "Accept-Encoding"]),
            (&["br, gzip"], &["Accept"], on(&["accept", ae]), &["Accept", "Accept-Encoding"]),
            (&["identity", "zstd"], &["accept"], on(&["accept", ae]), &["accept", "Accept-Encoding"]),
            (&["identity, x-unheard-of"], &[], on(&[ae]), &["Accept-Encoding"]),
            (&["gzip"], &["ACCEPT-Encoding"], on(&[ae]), &["ACCEPT-Encoding"]),
            (&["gzip"], &["Accept, accept-encoding"], on(&["accept", ae]), &["Accept, accept-encoding"]),
            (&["gzip"], &["*"], Vary::Everything, &["*", "Accept-Encoding"]),
            (&[], &[], Vary::Nothing, &[]),
            (&["identity"], &[], Vary::Nothing, &[]),
            (&["Identity,, identity", ""], &["accept"], on(&["accept"]), &["accept"]),
            (&[" , "], &[], Vary::Nothing, &[]),
        ];
        for (codings, vary, expected, told) in rows {
            let line = |name: &HeaderName, text: &&str| (name.clone(), HeaderValue::from_str(text).unwrap());
            let codings = codings.iter().map(|text| line(&CONTENT_ENCODING, text));
            let mut headers: HeaderMap = codings.chain(vary.iter().map(|text| line(&VARY, text))).collect();
            assert_eq!(Vary::parse(&headers), expected, "{headers:?}");
            complete(&mut headers, &[]);
            let said: Vec<_> = headers.get_all(VARY).iter().map(|line| line.to_str().unwrap()).collect();
            assert_eq!(said, told);
        }
    }

    #[test]
    fn added_vary_names_are_not_repeated() {
        let mut headers = HeaderMap::from_iter([(VARY, HeaderValue::from_static("Origin"))]);
        let names = ["origin", "accept", "accept"].map(HeaderName::from_static);
        complete(&mut headers, &names);
        complete(&mut headers, &names);
        assert_eq!(headers.get_all(VARY).iter().collect::<Vec<_>>(), ["Origin", "accept"]);
    }

    proptest! {
        #[test]
        fn names_are_sorted_and_unlike(line in "[aAbB,* \t-]{0,20}") {
            if let Vary::On(names) = parse(&[&line]) {
                prop_assert!(names.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
                prop_assert!(!line.contains('*') || !names.iter().any(|name| name.as_str() == "*"));
            }
        }

        #[test]
        fn a_completed_vary_field_names_the_same_fields(
            vary in "[aAbB,* -]{0,12}", coding in "(identity|gzip|br|,| ){0,3}",
        ) {
            let line = |name, text: &str| (name, HeaderValue::from_str(text).unwrap());
            let mut headers: HeaderMap = [line(VARY, &vary), line(CONTENT_ENCODING, &coding)].into_iter().collect();
            let before = Vary::parse(&headers);
            complete(&mut headers, &[]);
            headers.remove(CONTENT_ENCODING);
            prop_assert_eq!(Vary::parse(&headers), before);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = Vary::parse(&HeaderMap::from_iter([(VARY, value)]));
            }
        }
    }
}
