//! `GET /cache/writes`: writes that no rule matches, with the families that they may change, and the rule to add.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::report::Success;
use super::state::At;
use crate::rules::Family;
use crate::upkeep::invalidation_log;
use crate::upkeep::unmatched::UnmatchedShape;

/// Families that are named for a shape.
const FAMILIES: usize = 5;
/// Families in a suggested rule.
const SUGGESTED: usize = 3;
/// Longest shape for which a rule is suggested, bytes: a longer one may have been cut.
const LONGEST: usize = 190;

#[derive(Serialize, ToSchema)]
pub struct WritesReport {
    /// By method and shape of the path, those with the most writes first. Counted by this proxy since it started.
    writes: Vec<UnmatchedReport>,
    /// Writes of further shapes.
    others: u64,
}

#[derive(Serialize, ToSchema)]
struct UnmatchedReport {
    method: String,
    /// `{}`: a segment that is different each time.
    shape: String,
    count: u64,
    last: LastWriteReport,
    /// Those that such a write may change, the likeliest first: their paths begin alike, or they are read shortly after.
    families: Vec<NearFamily>,
    /// A line for `[invalidate]` in the rules file; null: no family is near.
    suggestion: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct LastWriteReport {
    /// RFC 3339.
    time: String,
    /// Without its query.
    path: String,
    /// Null: upstream gave no response.
    status: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct NearFamily {
    family: String,
    /// Reads within five seconds after some of these writes, by anybody.
    reads: u64,
    /// How many segments at the beginning of its path are those of the shape.
    common_segments: usize,
}

/// Writes that no rule matches, with the families that they may change and the rule to add
#[utoipa::path(get, path = "/cache/writes", tag = "state", responses((status = 200, body = Success<WritesReport>)))]
pub async fn writes(State(state): At) -> Json<Success<WritesReport>> {
    let live = state.running().live();
    let (shapes, others) = state.running().unmatched.shapes();
    let report = |unmatched: UnmatchedShape| {
        let near = near(&unmatched.shape, &unmatched.reads, live.rules.stated());
        UnmatchedReport {
            suggestion: suggestion(&unmatched.method, &unmatched.shape, &near),
            method: unmatched.method,
            shape: unmatched.shape,
            count: unmatched.count,
            last: LastWriteReport {
                time: invalidation_log::time(unmatched.last.time),
                path: unmatched.last.path,
                status: Some(unmatched.last.status).filter(|status| *status > 0),
            },
            families: near,
        }
    };
    Json(Success::of(WritesReport { writes: shapes.into_iter().map(report).collect(), others }))
}

/// The families that a write of this shape may change, the likeliest first.
fn near(shape: &str, reads: &BTreeMap<String, u64>, families: &[Family]) -> Vec<NearFamily> {
    let near = families.iter().map(|family| NearFamily {
        family: family.name.clone(),
        reads: reads.get(&family.name).copied().unwrap_or(0),
        common_segments: common_segments(shape, &family.path),
    });
    let mut near: Vec<NearFamily> = near.filter(|it| it.reads > 0 || it.common_segments > 0).collect();
    near.sort_by_key(|it| Reverse((it.common_segments, it.reads)));
    near.truncate(FAMILIES);
    near
}

/// How many segments at the beginning of a shape and of a pattern are the same text. A group of the pattern fits `{}`.
fn common_segments(shape: &str, pattern: &str) -> usize {
    let segments = |path: &str| path.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let (shape, pattern) = (segments(shape), segments(pattern));
    let is_same = |(one, other): &(&String, &String)| one == other || *one == "{}" && !is_text(other);
    let common = shape.iter().zip(&pattern).take_while(is_same);
    // At least one of them is a text.
    let texts = common.clone().filter(|(_, pattern)| is_text(pattern) && !pattern.is_empty()).count();
    if texts > 0 { common.count() } else { 0 }
}

/// Whether a segment of a pattern stands for itself alone.
fn is_text(segment: &str) -> bool {
    !segment.contains(['(', ')', '[', ']', '\\', '*', '+', '?', '{', '}', '|', '^', '$']) && segment != "."
}

/// A line for `[invalidate]`.
fn suggestion(method: &str, shape: &str, near: &[NearFamily]) -> Option<String> {
    let first = near.first().filter(|_| shape.len() <= LONGEST)?;
    let is_as_near =
        |it: &&NearFamily| it.common_segments == first.common_segments && (it.reads > 0) == (first.reads > 0);
    let most = if first.common_segments > 0 { SUGGESTED } else { 1 };
    let families: Vec<String> = near.iter().filter(is_as_near).take(most).map(|it| quoted(&it.family)).collect();
    let segments = shape.split('/').map(|segment| match segment {
        "{}" => "[^/]+".to_owned(),
        text => regex::escape(text),
    });
    let pattern = segments.collect::<Vec<_>>().join("/");
    let families = families.join(", ");
    Some(format!("{} = {{ families = [{families}], methods = [{}] }}", quoted_literally(&pattern), quoted(method)))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn quoted_literally(pattern: &str) -> String {
    if pattern.contains('\'') { quoted(pattern) } else { format!("'{pattern}'") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    const RULES: &str = r#"
[server]
upstream = "http://127.0.0.1:1"

[[family]]
name = "user"
path = '/api/users/(?<id>\d+)'
ttl = "1m"

[[family]]
name = "users"
path = '/api/users'
ttl = "1m"

[[family]]
name = "rooms"
path = '/api/rooms'
ttl = "1m"

[[family]]
name = "stats"
path = '/stats'
ttl = "1m"
"#;

    fn config(rules: &str) -> Config {
        Config::parse(rules, "rules.toml", &Overrides::default(), &|_| None).unwrap()
    }

    #[test]
    fn families_are_near_whose_paths_begin_alike_or_that_are_read_after_the_write() {
        let rules = config(RULES).rules;
        let reads = BTreeMap::from([("stats".to_owned(), 9), ("users".to_owned(), 1)]);
        let near = near("/api/users/{}/photo", &reads, rules.stated());
        let found: Vec<_> = near.iter().map(|it| (&*it.family, it.common_segments, it.reads)).collect();
        assert_eq!(found, [("user", 3, 0), ("users", 2, 1), ("rooms", 1, 0), ("stats", 0, 9)]);
        assert!(super::near("/other", &BTreeMap::new(), rules.stated()).is_empty());
        assert_eq!(common_segments("/{}/a", "/(?<id>.*)"), 0, "nothing but identifiers");
    }

    #[test]
    fn a_suggested_line_is_a_rule() {
        let rules = config(RULES).rules;
        for shape in ["/api/users/{}/photo", "/api/it's/{}", "/api/a.b+c"] {
            let near = near(shape, &BTreeMap::new(), rules.stated());
            let line = suggestion("POST", shape, &near).unwrap();
            let config = config(&format!("{RULES}\n[invalidate]\n{line}\n"));
            assert_eq!(config.rules.invalidations().len(), 1, "{line}");
        }
        let near = near("/api/users/{}", &BTreeMap::new(), rules.stated());
        assert_eq!(
            suggestion("POST", "/api/users/{}", &near).unwrap(),
            r#"'/api/users/[^/]+' = { families = ["user"], methods = ["POST"] }"#
        );
        assert_eq!(suggestion("POST", "/x", &[]), None);
    }
}
