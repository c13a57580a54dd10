//! POST as a read: families with `methods = ["POST"]`, for search endpoints that take their question in the content.
//!
//! RFC 9110 §9.3.3 lets a cache reuse the response to a POST only for a later GET, and only if `Content-Location` and
//! an explicit lifetime say so, since a POST may have any effect. The family replaces that statement of upstream's:
//! its operator says that a POST there has no effect but its response. In all other cases a POST is a write.

use http::header::{CONTENT_RANGE, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, Method};
use regex_syntax::hir::Hir;

use super::lint::{AUTOMATA, normal_samples};
use super::reader::Item;
use super::{Family, Invalidation, RuleSet, WriteMethods, WriteValues, language};
use crate::http::headers::{Meant, methods_meant};
use crate::http::target::Target;

impl RuleSet {
    /// Whether a POST to this target may be a read: a family claims every reading of its path for POST, and no rule
    /// applies to a POST there.
    pub(super) fn is_read_by_post(&self, target: &Target) -> bool {
        self.families.iter().any(|family| family.methods.post)
            && self.family_at(&Method::POST, &target.path).is_some()
            && self.ambiguity(&Method::POST, target).is_none()
            && self.invalidated_by_any(&only_post(), std::slice::from_ref(target), WriteValues::UNKNOWN).is_empty()
    }
}

/// Whether a POST to a target that a family reads by POST is a read, by its own fields and content. Not if it can
/// override its method, nor if it has preconditions: these protect what a write would change (RFC 9110 §13.1).
/// `content` is `None` if it is not known completely: then it is a write.
pub fn is_read_as_sent(headers: &HeaderMap, query: Option<&str>, content: Option<&[u8]>) -> bool {
    let of_writes = [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, CONTENT_RANGE];
    content.is_some()
        && !of_writes.iter().any(|name| headers.contains_key(name))
        && methods_meant(&Method::POST, headers, query, content) == only_post()
}

fn only_post() -> Meant {
    Meant::These(vec![Method::POST])
}

/// Reports a rule that makes a write of a POST that a family makes a read.
pub(super) fn refuse_conflict(rule: &Invalidation, families: &[Family], item: &Item<'_>) {
    if !rule.methods.apply_to(&only_post()) {
        return;
    }
    let by_post = families.iter().filter(|family| family.methods.post);
    let Some((family, path)) = by_post.map(|family| (family, common_path(family, rule))).find(|it| it.1.is_some())
    else {
        return;
    };
    let remedy = match rule.methods {
        WriteMethods::Unsafe => {
            "write methods = [\"PUT\", \"PATCH\", \"DELETE\"] in the rule, or let its pattern leave that path out"
        }
        WriteMethods::These(_) => "remove \"POST\" from the rule or from the family",
    };
    item.fault(
        format_args!(
            "makes a write of POST {}, which family {:?} on line {} makes a read (methods = [\"POST\"])",
            path.unwrap_or_default(),
            family.name,
            family.line
        ),
        remedy,
    );
}

/// A path that both patterns match.
fn common_path(family: &Family, rule: &Invalidation) -> Option<String> {
    let both: Vec<Hir> = [&family.pattern, &rule.pattern].iter().filter_map(|pattern| pattern.hir()).collect();
    let [read, written] = &both[..] else { return None };
    let is_common = |path: &String| family.pattern.is_match(path) && rule.pattern.is_match(path);
    // Samples suffice for nearly all patterns.
    normal_samples(read).chain(normal_samples(written)).find(is_common).or_else(|| {
        let commons = language::of_paths(&mut AUTOMATA.clone(), &both)?;
        commons.into_iter().find(|(which, _)| which[..] == [0, 1]).map(|(_, path)| path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};

    #[test]
    fn a_post_is_a_read_unless_it_may_have_another_method_or_has_preconditions() {
        let json = ("content-type", "application/json");
        let form = ("content-type", "application/x-www-form-urlencoded");
        let no_form: Fields<'_> = &[json];
        let rows: [(Fields<'_>, &str, Option<&str>, bool); 12] = [
            (no_form, "", Some("{\"q\":1}"), true),
            (no_form, "", None, false),
            (no_form, "", Some("{\"_method\":\"DELETE\"}"), false),
            (&[form], "", Some("q=1"), true),
            (&[form], "", Some("q=1&_method=PUT"), false),
            (&[("content-type", "text/plain")], "", None, false),
            (no_form, "_method=delete", Some("{}"), false),
            (&[json, ("x-http-method-override", "DELETE")], "", Some("{}"), false),
            (&[json, ("x-http-method-override", "POST")], "", Some("{}"), true),
            (&[json, ("if-none-match", "*")], "", Some("{}"), false),
            (&[json, ("if-match", "\"a\"")], "", Some("{}"), false),
            (&[json, ("content-range", "bytes 0-1/2")], "", Some("{}"), false),
        ];
        for (sent, query, content, expected) in rows {
            assert_eq!(
                is_read_as_sent(&fields(sent), Some(query), content.map(str::as_bytes)),
                expected,
                "{sent:?} {query:?} {content:?}"
            );
        }
    }
}
