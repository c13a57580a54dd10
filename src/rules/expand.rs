//! `${VAR}` and `${VAR:-default}` in string values. Only `${` is special, since patterns are full of `$`;
//! `$${` stands for `${`.

use std::ops::Range;

use super::fault::TextFault;

/// Whether a variable may have a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defaults {
    Allowed,
    /// In a secret a default would be a secret in the file, so that only an empty one is allowed.
    OnlyEmpty,
}

/// The string with its variables replaced; `None` if it has none.
pub fn expand(
    raw: &str,
    env: &dyn Fn(&str) -> Option<String>,
    defaults: Defaults,
) -> (Option<String>, Vec<TextFault>) {
    if !raw.contains("${") {
        return (None, Vec::new());
    }
    let (mut out, mut faults, mut at) = (String::with_capacity(raw.len()), Vec::new(), 0);
    while let Some(found) = raw[at..].find("${").map(|found| found + at) {
        if raw[at..found].ends_with('$') {
            out.push_str(&raw[at..found - 1]);
            out.push_str("${");
            at = found + 2;
            continue;
        }
        out.push_str(&raw[at..found]);
        let Some(end) = raw[found..].find('}').map(|end| found + end) else {
            faults.push(unclosed(found..raw.len()));
            return (Some(out), faults);
        };
        match variable(&raw[found + 2..end], env, defaults) {
            Ok(value) => out.push_str(&value),
            Err((message, remedy)) => faults.push(TextFault { at: found..end + 1, message, remedy }),
        }
        at = end + 1;
    }
    out.push_str(&raw[at..]);
    (Some(out), faults)
}

fn unclosed(at: Range<usize>) -> TextFault {
    let message = "\"${\" without \"}\"".to_owned();
    TextFault { at, message, remedy: "close it, or write \"$${\" for a literal \"${\"".to_owned() }
}

/// As in a shell, the default of `:-` also replaces an empty variable. Without a default, an empty variable is a
/// fault.
fn variable(
    inside: &str,
    env: &dyn Fn(&str) -> Option<String>,
    defaults: Defaults,
) -> Result<String, (String, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_name(name) {
        let message = format!("\"${{{inside}}}\" does not name an environment variable");
        return Err((message, "write ${NAME} or ${NAME:-default}, or \"$${\" for a literal \"${\"".to_owned()));
    }
    let is_secret = defaults == Defaults::OnlyEmpty;
    if is_secret && default.is_some_and(|default| !default.is_empty()) {
        let message = format!("the default of {name} would be a secret in the file");
        return Err((message, format!("write ${{{name}}}, and set that variable")));
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        // An empty secret is more likely a mistake than intended.
        (Some(value), None) if value.is_empty() => Err((
            format!("the environment variable {name} is empty"),
            match is_secret {
                true => format!("set {name}"),
                false => format!("set {name}, or write ${{{name}:-}} if it may be empty"),
            },
        )),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err((
            format!("the environment variable {name} is not set"),
            match is_secret {
                true => format!("set {name}"),
                false => format!("set {name}, or give a default: ${{{name}:-…}}"),
            },
        )),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_and_patterns_are_left_alone() {
        let rows = [
            ("http://${HOST}/", "http://example.com/"),
            ("${HOST}${HOST}", "example.comexample.com"),
            ("${NONE:-x:-y}", "x:-y"),
            ("${NONE:-}", ""),
            ("${EMPTY:-}", ""),
            ("${EMPTY:-d}", "d"),
            ("$${HOST}", "${HOST}"),
            ("a$$b$", "a$$b$"),
            (r"^/a/(?<x>\d{2})$", r"^/a/(?<x>\d{2})$"),
        ];
        for (raw, expected) in rows {
            let (value, faults) = expand(raw, &env, Defaults::Allowed);
            assert_eq!((value.as_deref().unwrap_or(raw), faults.len()), (expected, 0), "{raw}");
        }
    }

    #[test]
    fn every_variable_that_cannot_be_replaced_is_a_fault() {
        let (_, faults) = expand("${A} ${HOST} ${1x} ${open", &env, Defaults::Allowed);
        let places: Vec<_> = faults.iter().map(|fault| fault.at.clone()).collect();
        assert_eq!(places, [0..4, 13..18, 19..25]);
        assert!(faults[0].message.contains("variable A is not set"));
        assert!(faults[0].remedy.contains("${A:-…}"));
        let (_, faults) = expand("x${EMPTY}", &env, Defaults::Allowed);
        assert!(faults[0].message.contains("variable EMPTY is empty") && faults[0].remedy.contains("${EMPTY:-}"));
    }

    #[test]
    fn a_secret_has_no_default_and_no_remedy_suggests_one() {
        for raw in ["${HOST}", "${NONE:-}", "${EMPTY:-}", "Bearer ${HOST}"] {
            assert_eq!(expand(raw, &env, Defaults::OnlyEmpty).1, [], "{raw}");
        }
        let rows = [("${NONE:-s3cret}", "write ${NONE}"), ("${NONE}", "set NONE"), ("${EMPTY}", "set EMPTY")];
        for (raw, expected) in rows {
            let (_, faults) = expand(raw, &env, Defaults::OnlyEmpty);
            assert!(faults[0].remedy.starts_with(expected) && !faults[0].remedy.contains(":-"), "{faults:?}");
            assert!(!faults[0].message.contains("s3cret"));
        }
    }

    proptest! {
        #[test]
        fn text_without_variables_is_untouched(text in "[^{]{0,40}") {
            prop_assert_eq!(expand(&text, &env, Defaults::Allowed), (None, vec![]));
        }

        #[test]
        fn any_text_is_expanded_or_refused(text in "[${}:a-b-]{0,30}") {
            let (_, faults) = expand(&text, &env, Defaults::Allowed);
            prop_assert!(faults.iter().all(|fault| text.get(fault.at.clone()).is_some()));
        }
    }
}
