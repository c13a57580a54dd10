//! Normalises request fields without changing their meaning (RFC 9111 §4.1), so that equivalent requests share a
//! variant. The cache key and upstream use the same, normalised field.

use std::cmp::Reverse;
use std::collections::HashSet;

use http::header::{
    ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, COOKIE, DATE, IF_MODIFIED_SINCE,
    IF_RANGE, IF_UNMODIFIED_SINCE, REFERER, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Normalises the request field `name` to one line without white space around commas or empty members. Commas inside
/// quotes are text. An absent field stays absent, and a present one stays present, if only with an empty value:
/// absent and empty never match (RFC 9111 §4.1). Well-known fields that are no lists stay as they are.
///
/// In `Accept`, `Accept-Charset`, `Accept-Encoding` and `Accept-Language` (RFC 9110 §12.5), names become lower case,
/// weights as short as possible, and members are sorted by weight. Members of equal weight keep their order, which
/// some servers read as preference (§12.5.4), except in `Accept-Encoding`. Refused members (`q=0`) come last, sorted
/// by name. Invalid members are dropped.
///
/// `Accept-Encoding` keeps only codings in practical use: `br`, `deflate`, `gzip` (also written `x-gzip`, §8.4.1.3),
/// `identity`, `zstd` and `*`. If none is left, the empty value says that no such coding is acceptable (§12.5.3). In
/// the other fields, an empty value states no preference, as does an invalid one.
///
/// At most the 64 most preferred members stay. The others reach neither the key nor upstream.
///
/// Idempotent.
pub fn normalise(name: &HeaderName, headers: &mut HeaderMap) {
    let lines: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() || NO_LISTS.contains(name) {
        return;
    }
    // RFC 9110 §5.2: the lines are one list.
    let combined = lines.join(&b","[..]);
    let normal = match Preference::expressed_in(name) {
        Some(kind) => weighted(&combined, kind),
        None => members(&combined).collect::<Vec<_>>().join(&b","[..]),
    };
    let value = HeaderValue::from_bytes(&normal).expect("made of bytes that stood in field values");
    headers.insert(name, value);
}

/// Fields in which commas do not separate members: dates and comments contain them as text, and lines of `Cookie` are
/// joined by semicolons (RFC 9113 §8.2.3).
static NO_LISTS: [HeaderName; 8] =
    [AUTHORIZATION, COOKIE, DATE, IF_MODIFIED_SINCE, IF_RANGE, IF_UNMODIFIED_SINCE, REFERER, USER_AGENT];

/// Most members of a weighted list.
const CHOICES: usize = 64;

/// The kind of names in a weighted list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preference {
    Coding,
    Media,
    /// A language range or a character set.
    Token,
}

impl Preference {
    fn expressed_in(name: &HeaderName) -> Option<Preference> {
        match *name {
            ACCEPT => Some(Preference::Media),
            ACCEPT_ENCODING => Some(Preference::Coding),
            ACCEPT_CHARSET | ACCEPT_LANGUAGE => Some(Preference::Token),
            _ => None,
        }
    }
}

/// A member of a weighted list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Choice {
    /// In lower case; a media range includes its parameters.
    name: Vec<u8>,
    /// In thousandths.
    weight: u16,
}

fn weighted(list: &[u8], kind: Preference) -> Vec<u8> {
    let mut known = HashSet::new();
    let choices = members(list).filter_map(|member| Choice::parse(member, kind));
    let mut choices: Vec<Choice> = choices.filter(|choice| known.insert(choice.clone())).collect();
    // The sort is stable, so names that it ignores keep their order.
    let is_by_name = |choice: &Choice| kind == Preference::Coding || choice.weight == 0;
    choices.sort_by_cached_key(|choice| (Reverse(choice.weight), is_by_name(choice).then(|| choice.name.clone())));
    choices.truncate(CHOICES);
    choices.iter().map(Choice::written).collect::<Vec<_>>().join(&b","[..])
}

impl Choice {
    fn parse(member: &[u8], kind: Preference) -> Option<Choice> {
        let mut parts = split(member, b';').map(<[u8]>::trim_ascii);
        let mut name = range(parts.next()?, kind)?;
        let mut weight = None;
        for parameter in parts {
            match strip_prefix_ignoring_case(parameter, b"q=") {
                // RFC 9110 §12.5.1: `q` is the weight at any position, and occurs once.
                Some(digits) if weight.is_none() => weight = Some(thousandths(digits)?),
                None if kind == Preference::Media => push_parameter(&mut name, parameter)?,
                _ => return None,
            }
        }
        Some(Choice { name, weight: weight.unwrap_or(1000) })
    }

    fn written(&self) -> Vec<u8> {
        let mut text = self.name.clone();
        match self.weight {
            1000 => {}
            0 => text.extend(b";q=0"),
            weight => text.extend(format!(";q=0.{weight:03}").trim_end_matches('0').bytes()),
        }
        text
    }
}

/// The name, in lower case.
fn range(text: &[u8], kind: Preference) -> Option<Vec<u8>> {
    let text = text.to_ascii_lowercase();
    match kind {
        Preference::Token => is_token(&text).then_some(text),
        Preference::Coding => coding(&text).map(<[u8]>::to_vec),
        // Widespread clients send this for `*/*`.
        Preference::Media if text == b"*" => Some(b"*/*".to_vec()),
        Preference::Media => {
            let slash = text.iter().position(|byte| *byte == b'/')?;
            (is_token(&text[..slash]) && is_token(&text[slash + 1..])).then_some(text)
        }
    }
}

fn coding(name: &[u8]) -> Option<&[u8]> {
    match name {
        b"x-gzip" => Some(b"gzip"),
        b"br" | b"deflate" | b"gzip" | b"identity" | b"zstd" | b"*" => Some(name),
        _ => None,
    }
}

/// RFC 9110 §5.6.6: parameter names are case-insensitive, values may not be. Empty parameters are ignored.
fn push_parameter(range: &mut Vec<u8>, parameter: &[u8]) -> Option<()> {
    if parameter.is_empty() {
        return Some(());
    }
    let equals = parameter.iter().position(|byte| *byte == b'=').unwrap_or(parameter.len());
    if !is_token(&parameter[..equals]) {
        return None;
    }
    range.push(b';');
    range.extend(parameter[..equals].to_ascii_lowercase());
    range.extend(&parameter[equals..]);
    Some(())
}

/// A weight (RFC 9110 §12.4.2) in thousandths. Accepts more than three digits and a missing leading zero, as common
/// clients send. A positive weight stays positive.
fn thousandths(text: &[u8]) -> Option<u16> {
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, decimals) = (&text[..point], text.get(point + 1..).unwrap_or_default());
    if !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let is_zero = decimals.iter().all(|digit| *digit == b'0');
    let digit = |place| decimals.get(place).map_or(0, |digit: &u8| u16::from(digit - b'0'));
    match whole {
        b"1" if is_zero => Some(1000),
        b"0" if is_zero => Some(0),
        b"" if decimals.is_empty() => None,
        b"0" | b"" => Some((digit(0) * 100 + digit(1) * 10 + digit(2)).max(u16::from(!is_zero))),
        _ => None,
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// RFC 9110 §5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// The members of a list (RFC 9110 §5.6.1).
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(list, b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Splits text at separators outside of quotes (RFC 9110 §5.6.4). An unclosed quote extends to the end.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |byte| {
        let (was_quoted, was_escaped) = (is_quoted, is_escaped);
        is_escaped = was_quoted && !was_escaped && *byte == b'\\';
        is_quoted ^= *byte == b'"' && !was_escaped;
        *byte == separator && !was_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;
    use proptest::prelude::*;

    fn normal(name: &'static str, lines: &[&str]) -> Option<String> {
        let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
        let (name, mut headers) = (HeaderName::from_static(name), fields(&lines));
        normalise(&name, &mut headers);
        assert!(headers.get_all(&name).iter().count() <= 1);
        headers.get(&name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    fn assert_forms(name: &'static str, rows: &[(&[&str], &str)]) {
        for (lines, expected) in rows {
            assert_eq!(normal(name, lines).as_deref(), Some(*expected), "{name}: {lines:?}");
        }
    }

    #[test]
    fn an_absent_field_stays_absent() {
        assert_eq!(normal("accept-encoding", &[]), None);
        assert_eq!(normal("x-other", &[]), None);
    }

    #[test]
    fn lists_come_onto_one_line_without_white_space() {
        assert_forms(
            "x-other",
            &[
                (&["a , b", "\tc"], "a,b,c"),
                (&["", " , "], ""),
                (&["B,a;q=0.5,b"], "B,a;q=0.5,b"),
                (&["a=\"x , y\" , b"], "a=\"x , y\",b"),
                (&["a=\"x\\\" , y\" , b"], "a=\"x\\\" , y\",b"),
                (&["a , \"x , y"], "a,\"x , y"),
                (&["a\\ , b"], "a\\,b"),
            ],
        );
    }

    #[test]
    fn fields_that_are_no_lists_are_left_alone() {
        let lines = [("cookie", "a=1"), ("cookie", "b=2"), ("user-agent", "x (KHTML, like Gecko)")];
        let (before, mut headers) = (fields(&lines), fields(&lines));
        for (name, _) in lines {
            normalise(&HeaderName::from_static(name), &mut headers);
        }
        assert_eq!(headers, before);
    }

    #[test]
    fn unknown_codings_are_dropped() {
        assert_forms(
            "accept-encoding",
            &[
                (&["gzip, deflate, br, zstd"], "br,deflate,gzip,zstd"),
                (&["br;q=1.0, gzip;q=0.8, *;q=0.1"], "br,gzip;q=0.8,*;q=0.1"),
                (&["GZip", "X-GZIP;Q=0.50"], "gzip,gzip;q=0.5"),
                (&["x-gzip, gzip"], "gzip"),
                (&["compress, gzip"], "gzip"),
                (&["gzip;q=1.0, identity; q=0.5, *;q=0"], "gzip,identity;q=0.5,*;q=0"),
                (&["identity;q=0, *;q=0.000, br;q=0.001"], "br;q=0.001,*;q=0,identity;q=0"),
                // Only `identity` is left, as with the empty value.
                (&["compress"], ""),
                (&[""], ""),
                (&["gzip;level=9, br;q=0.5;q=0.6"], ""),
            ],
        );
    }

    #[test]
    fn languages_stand_in_the_order_of_their_weights() {
        assert_forms(
            "accept-language",
            &[
                (&["da, en-gb;q=0.8, en;q=0.7"], "da,en-gb;q=0.8,en;q=0.7"),
                (&["en;q=0.7, DA, en-GB ; q=0.800"], "da,en-gb;q=0.8,en;q=0.7"),
                // Of equal weight: the order may matter.
                (&["en, de"], "en,de"),
                (&["de, en"], "de,en"),
                (&["sv;q=0, de;q=0, *;q=0.1"], "*;q=0.1,de;q=0,sv;q=0"),
                (&["de;q=2, en;q=x, fr;q=, it;q=-1, es;q=1.001, pt"], "pt"),
                (&["d e, \u{e4}, ;q=1, en_US"], "en_us"),
                (&["de;q=.5, en;q=0.6667, fr;q=0.0001, it;q=1."], "it,en;q=0.666,de;q=0.5,fr;q=0.001"),
                (&["???;q=1;;"], ""),
            ],
        );
        assert_forms("accept-charset", &[(&["iso-8859-5, Unicode-1-1;q=0.8"], "iso-8859-5,unicode-1-1;q=0.8")]);
    }

    #[test]
    fn of_very_many_choices_the_preferred_ones_stay() {
        let names: Vec<String> = (0..20_000).map(|number| format!("x{number};q=0.5")).collect();
        let all = normal("accept-language", &[&names.join(","), "de"]).unwrap();
        assert!(all.starts_with("de,x0;q=0.5,x1;q=0.5,"), "{all}");
        assert_eq!(all.split(',').count(), CHOICES);
        assert_eq!(normal("accept-language", &[&all]).as_deref(), Some(&*all));
    }

    #[test]
    fn media_ranges_keep_their_parameters() {
        assert_forms(
            "accept",
            &[
                (&["audio/*; q=0.2, audio/basic"], "audio/basic,audio/*;q=0.2"),
                (
                    &["text/plain; q=0.5, Text/HTML, text/x-dvi; q=0.8, text/x-c"],
                    "text/html,text/x-c,text/x-dvi;q=0.8,text/plain;q=0.5",
                ),
                (&["text/html;Level=1;q=0.5; Charset=\"a, B;c\""], "text/html;level=1;charset=\"a, B;c\";q=0.5"),
                (&["text/html;;q=0.5"], "text/html;q=0.5"),
                (&["text, /html, a/b/c, a/b;=x"], ""),
                // What java.net.HttpURLConnection sends.
                (&["text/html, image/gif, *; q=.2, */*; q=.2"], "text/html,image/gif,*/*;q=0.2"),
            ],
        );
    }

    /// The meaning of a member to a server, by a simpler parser of the same grammar.
    fn preferences(value: &str) -> Vec<(String, u16)> {
        let choice = |member: &str| {
            let (name, weight) = member.split_once(";q=").unwrap_or((member, "1"));
            Some((name.to_owned(), (weight.parse::<f64>().ok()? * 1000.0).round() as u16))
        };
        let mut found: Vec<_> = value.split(',').filter(|member| !member.is_empty()).filter_map(choice).collect();
        found.sort_by_key(|(_, weight)| Reverse(*weight));
        found
    }

    proptest! {
        #[test]
        fn the_order_of_preference_stays(
            choices in proptest::collection::vec(("[a-z]{2}(-[a-z]{2})?", 1u16..=1000), 0..8),
        ) {
            let written: Vec<_> = choices.iter().map(|(name, weight)| format!("{name};q={}", f64::from(*weight) / 1000.0)).collect();
            let (before, after) = (written.join(","), normal("accept-language", &[&written.join(" , ")]).unwrap_or_default());
            let mut expected = preferences(&before);
            let mut seen = Vec::new();
            expected.retain(|choice| !seen.contains(choice) && { seen.push(choice.clone()); true });
            prop_assert_eq!(preferences(&after), expected.clone());
            // The output has that order too.
            let names: Vec<_> = after.split(',').filter(|member| !member.is_empty()).map(|member| member.split(';').next().unwrap_or_default()).collect();
            prop_assert_eq!(names, expected.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
        }

        #[test]
        fn codings_have_one_form_whatever_their_order(
            choices in proptest::collection::btree_map("br|gzip|zstd|deflate|identity|\\*", 0u16..=1000, 0..6)
                .prop_flat_map(|choices| Just(choices.into_iter().collect::<Vec<_>>()).prop_shuffle()),
        ) {
            let list = |choices: &[(String, u16)]| {
                choices.iter().map(|(name, weight)| format!("{name};q={}", f64::from(*weight) / 1000.0)).collect::<Vec<_>>().join(", ")
            };
            let mut sorted = choices.clone();
            sorted.sort();
            prop_assert_eq!(normal("accept-encoding", &[&list(&choices)]), normal("accept-encoding", &[&list(&sorted)]));
        }

        #[test]
        fn once_is_enough(
            name in prop_oneof![Just("accept"), Just("accept-encoding"), Just("accept-language"), Just("accept-charset"), Just("x-other")],
            lines in proptest::collection::vec(
                "(gzip|br|x-gzip|de|en-GB|text/html|\\*|\\*/\\*|;q=0|;q=0\\.[0-9]{0,4}|;q=1|;a=b|;|,| |\"|\\\\|=|\u{e4}){0,12}", 1..3,
            ),
        ) {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let mut headers = fields(&lines.iter().map(|line| (name, *line)).collect::<Vec<_>>());
            let name = HeaderName::from_static(name);
            normalise(&name, &mut headers);
            let once = headers.clone();
            normalise(&name, &mut headers);
            prop_assert_eq!(headers, once);
        }

        #[test]
        fn any_bytes_are_read_without_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..3)) {
            for name in [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, HeaderName::from_static("x-other")] {
                let values = lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok());
                let mut headers: HeaderMap = values.map(|value| (name.clone(), value)).collect();
                let is_there = headers.contains_key(&name);
                normalise(&name, &mut headers);
                prop_assert_eq!(headers.contains_key(&name), is_there);
            }
        }
    }
}
