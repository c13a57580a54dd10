//! `Vary` (RFC 9110 §12.5.5, RFC 9111 §4.1).

use http::header::VARY;
use http::{HeaderMap, HeaderName};

/// What a response says that it varies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// No `Vary`, or an empty one.
    Nothing,
    /// `*`, alone or among others: nothing stored ever matches.
    Everything,
    /// These request fields; sorted, without repetition.
    On(Vec<HeaderName>),
}

impl Vary {
    /// All `Vary` lines of a response. A member that is not a field name counts as `*`.
    pub fn parse(headers: &HeaderMap) -> Vary {
        let lines = headers.get_all(VARY).iter();
        let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let named = members.filter(|member| !member.is_empty()).map(field_name).collect::<Option<Vec<_>>>();
        match named {
            None => Vary::Everything,
            Some(names) if names.is_empty() => Vary::Nothing,
            Some(names) => Vary::On(in_order(names)),
        }
    }
}

fn in_order(mut names: Vec<HeaderName>) -> Vec<HeaderName> {
    names.sort_by(|left, right| left.as_str().cmp(right.as_str()));
    names.dedup();
    names
}

/// `*` is a token, and so would pass for a name.
fn field_name(member: &[u8]) -> Option<HeaderName> {
    HeaderName::from_bytes(member).ok().filter(|name| name.as_str() != "*")
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
            // RFC 9110 §12.5.5's example.
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

    proptest! {
        #[test]
        fn names_are_sorted_and_unlike(line in "[aAbB,* \t-]{0,20}") {
            if let Vary::On(names) = parse(&[&line]) {
                prop_assert!(names.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
                prop_assert!(!line.contains('*') || !names.iter().any(|name| name.as_str() == "*"));
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = Vary::parse(&HeaderMap::from_iter([(VARY, value)]));
            }
        }
    }
}
