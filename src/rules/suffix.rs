//! Families that match paths by suffix (`/.*\.css`) beside families that identify callers. Many servers answer
//! `/me/x.css` like `/me`: they take the rest for path information or a format. The suffix family then stores one
//! caller's response for all callers (web cache deception). No reading of the path reveals this
//! ([`crate::http::target::Readings`]), so a warning is all that is possible.

use http::Method;
use regex_syntax::hir::literal::{ExtractKind, Extractor, Literal};
use regex_syntax::hir::{Class, Hir, HirKind};

use super::{Family, RuleSet, Warning};

/// Suffixes of files that are usually the same for every caller.
static USUAL_ENDS: [&str; 24] = [
    ".avif", ".css", ".csv", ".eot", ".gif", ".htm", ".html", ".ico", ".jpeg", ".jpg", ".js", ".json", ".map",
    ".mjs", ".mp4", ".pdf", ".png", ".svg", ".ttf", ".txt", ".webp", ".woff", ".woff2", ".xml",
];

/// Most sample paths per pattern.
const SAMPLES: usize = 16;
/// Longest repetition in a sample, in bytes.
const LENGTH: usize = 1024;

impl RuleSet {
    /// One warning for each pair of a family that matches paths by suffix and a family with another identity whose
    /// paths it extends.
    pub(super) fn suffix_warnings(&self) -> Vec<Warning> {
        let is_private = |family: &&Family| family.key_spec.identity.tells_callers_apart();
        let private: Vec<(&Family, Vec<String>)> =
            self.stated().iter().filter(is_private).map(|family| (family, samples_of(family))).collect();
        let beside =
            |family| private.iter().filter_map(move |(other, samples)| self.warning(family, other, samples));
        self.stated().iter().flat_map(beside).collect()
    }

    fn warning(&self, family: &Family, private: &Family, samples: &[String]) -> Option<Warning> {
        if family.key_spec.identity == private.key_spec.identity || family.is_never_cached {
            return None;
        }
        let ends = ends_of(family);
        let is_claimed = |path: &str| self.family_at(&Method::GET, path).is_some_and(|it| it.id == family.id);
        let deceptive = samples.iter().flat_map(|sample| deceptive(family, sample, &ends).zip(Some(sample)));
        let deceptive: Vec<_> = deceptive.collect();
        // Prefer a path that this family receives over one that an earlier family receives.
        let (path, sample) = deceptive.iter().find(|(path, _)| is_claimed(path)).or(deceptive.first())?;
        let (name, other, identity) = (&family.name, &private.name, &private.key_spec.identity);
        let then = match is_claimed(path) {
            true => format!(
                "if upstream answers {path:?} as it answers {sample:?}, one caller's answer is stored for others"
            ),
            false => format!("only their order in this file prevents {path:?} from being stored for others"),
        };
        Some(Warning {
            line: family.line,
            message: format!(
                "family {name:?} takes paths by their end, {path:?} among them, beside family {other:?}, whose callers \
                 are told apart by {identity}: {then}"
            ),
            remedy: format!(
                "begin the pattern with a folder, such as '/assets/', or write identity = \"{identity}\""
            ),
        })
    }
}

/// A path below (or beside) `path` that the family matches only because of its suffix, whatever the segment before
/// it. A path with a fixed name (`/users/1/avatar.png`) is an intended resource.
fn deceptive(family: &Family, path: &str, ends: &[String]) -> Option<String> {
    let below = format!("{}/x", path.trim_end_matches('/'));
    let is_free = |stem: &str, end: &str| stem == below || !(stem.ends_with('/') || end.contains('/'));
    [below.as_str(), path].into_iter().filter(|stem| !family.pattern.is_match(stem)).find_map(|stem| {
        let ends = ends.iter().filter(|end| is_free(stem, end));
        ends.map(|end| format!("{stem}{end}")).find(|path| family.pattern.is_match(path))
    })
}

/// The suffixes that the family's paths can have.
fn ends_of(family: &Family) -> Vec<String> {
    let mut ends: Vec<String> = USUAL_ENDS.map(str::to_owned).into();
    let hir = regex_syntax::parse(family.pattern.as_str());
    for branch in hir.iter().flat_map(branches) {
        let literals = Extractor::new().kind(ExtractKind::Suffix).extract(branch);
        let texts = literals.literals().unwrap_or_default().iter().map(Literal::as_bytes);
        ends.extend(texts.filter_map(|text| Some(std::str::from_utf8(text).ok()?.to_owned())));
    }
    ends
}

/// The top-level alternatives of a pattern.
fn branches(hir: &Hir) -> Vec<&Hir> {
    match hir.kind() {
        HirKind::Alternation(branches) => branches.iter().flat_map(self::branches).collect(),
        HirKind::Capture(capture) => branches(&capture.sub),
        _ => vec![hir],
    }
}

/// Sample paths of the family.
fn samples_of(family: &Family) -> Vec<String> {
    let hir = regex_syntax::parse(family.pattern.as_str());
    let samples = hir.iter().flat_map(samples);
    samples.filter(|path| family.pattern.is_match(path)).collect()
}

/// Sample texts that a pattern matches, at most [`SAMPLES`].
pub(super) fn samples(hir: &Hir) -> Vec<String> {
    let mut found: Vec<String> = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![String::new()],
        HirKind::Literal(literal) => vec![String::from_utf8_lossy(&literal.0).into_owned()],
        HirKind::Class(class) => letter_of(class).map(String::from).into_iter().collect(),
        HirKind::Capture(capture) => samples(&capture.sub),
        HirKind::Alternation(branches) => branches.iter().flat_map(samples).collect(),
        HirKind::Repetition(repetition) => {
            let least = usize::try_from(repetition.min).unwrap_or(usize::MAX);
            let texts = samples(&repetition.sub);
            let repeated = texts.iter().flat_map(|text| {
                let least = least.min(LENGTH / text.len().max(1));
                [text.repeat(least), text.repeat(least.max(1))]
            });
            repeated.collect()
        }
        HirKind::Concat(parts) => parts.iter().fold(vec![String::new()], |before, part| {
            let after = samples(part);
            let joined =
                before.iter().flat_map(|before| after.iter().map(move |after| format!("{before}{after}")));
            joined.take(SAMPLES).collect()
        }),
    };
    found.truncate(SAMPLES);
    found
}

/// A character of a class, preferably one without special meaning in a path.
fn letter_of(class: &Class) -> Option<char> {
    let contains = |letter: char| match class {
        Class::Unicode(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&letter)),
        Class::Bytes(class) => {
            u8::try_from(letter).is_ok_and(|byte| class.iter().any(|it| (it.start()..=it.end()).contains(&byte)))
        }
    };
    let usual = ['x', 'X', '1', 'a', 'A', '-'];
    usual.into_iter().chain('!'..='~').find(|letter| contains(*letter))
}

#[cfg(test)]
mod tests {
    use super::super::tests::rules;

    fn warned(assets: &str, identity: &str, me: &str) -> Option<String> {
        let text = format!(
            "[[family]]\nname = 'me'\npath = '{me}'\nidentity = 'cookie:sid'\n\
             [[family]]\nname = 'assets'\npath = '{assets}'\nidentity = '{identity}'\n"
        );
        let warnings = rules(&text).suffix_warnings();
        assert!(warnings.len() < 2 && warnings.iter().all(|warning| warning.line == 5), "{warnings:?}");
        warnings.into_iter().next().map(|warning| warning.message)
    }

    #[test]
    fn a_family_by_suffix_beside_one_with_identity_causes_a_warning() {
        let rows = [
            (r"/assets/.*|/.*\.css", "/me(/.*)?"),
            (r".*\.css", "/me(/.*)?"),
            (r"/.*\.css", r"/me/(?<what>\w+)"),
            (r"/.+\.(css|js)", "/me"),
            (r"/(assets/.*|.*\.(?:png|jpg))", r"/users/(?<id>\d+)/inbox"),
            (r"(?i)/.*\.CSS", "/me"),
            (r"/[^?]*\.woff2?", "/me"),
            (r"/.*\.chunk", "/me"),
            (r"/[a-z/]+[.]css", "/account/[a-z]{3,5}"),
            (r"/me[a-z/]*\.css", "/me"),
            (r"/.*-static", "/me"),
            (r"/.*/static", "/me"),
            (r"/me/[^/]+\.css", "/me"),
            (r"/users/(?<id>\d+)\.json", r"/users/(?<id>\d+)"),
        ];
        for (assets, me) in rows {
            let message = warned(assets, "none", me).unwrap_or_else(|| panic!("{assets} beside {me}"));
            assert!(message.contains("\"assets\"") && message.contains("\"me\""), "{message}");
        }
    }

    #[test]
    fn the_warning_mentions_protection_by_file_order() {
        let kept_apart = warned(r"/.*\.css", "none", "/me(/.*)?").unwrap();
        assert!(
            kept_apart
                .ends_with("only their order in this file prevents \"/me/x.css\" from being stored for others"),
            "{kept_apart}"
        );
        let stored = warned(r"/.*\.css", "none", "/me").unwrap();
        assert!(stored.contains("if upstream answers \"/me/x.css\" as it answers \"/me\""), "{stored}");
    }

    #[test]
    fn other_families_cause_no_warning() {
        let rows = [
            (r"/assets/.*\.css", "none", "/me(/.*)?"),
            (r"/assets/.*", "none", "/me(/.*)?"),
            (r"/.*", "none", "/me(/.*)?"),
            (r"/.*\.css", "cookie:sid", "/me(/.*)?"),
            (r"/[^/]*\.css", "none", "/users/me"),
            (r"/style\.css", "none", "/me"),
            (r"/me/avatar\.png", "none", "/me(/.*)?"),
            (r"/users/(?<id>\d+)/avatar\.(png|jpg)", "none", r"/users/(?<id>\d+)(/.*)?"),
            (r"/users/(?<id>\d+)/posts", "none", r"/users/(?<id>\d+)"),
            (r"/users/[^/]+/picture", "none", "/users/[^/]+"),
            (r"/users/(?<id>[^/]+)/photos/[^/]+\.jpg", "none", "/users/(?<id>[^/]+)"),
        ];
        for (assets, identity, me) in rows {
            assert_eq!(warned(assets, identity, me), None, "{assets} beside {me}");
        }
    }
}
