//! Requests that may have got the responses of other requests, because stray bytes came on their connection: what they have stored is
//! invalidated. A write among them counts as unanswered: upstream may have carried it out later than it seemed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::write::{UpstreamHosts, invalidations};
use crate::http::headers::{Meant, is_safe};
use crate::http::invalidation::WriteEnd;
use crate::http::target::{PathCase, Target};
use crate::marks::Tag;
use crate::rules::{RuleSet, WriteValues};
use crate::running::Running;
use crate::store::fleet::{Again, Invalidations};
use crate::upkeep::invalidation_log::OriginKind;
use crate::upstream::Suspects;

/// Handles suspect requests for as long as the process lives.
pub async fn invalidate_all(running: Arc<Running>) {
    loop {
        let suspects = running.upstream.suspects().await;
        let server = &running.config.server;
        let how = (server.case_insensitive_paths, server.reinvalidate_after);
        let what = invalidated_by(&suspects, &running.live().rules, how);
        running.cache.invalidate_for(&what, None, OriginKind::Safety.into()).await;
        running.metrics.suspects.inc_by(suspects.requests.len() as u64);
    }
}

fn invalidated_by(
    suspects: &Suspects,
    rules: &RuleSet,
    (case, reinvalidate_after): (PathCase, Duration),
) -> Invalidations {
    let mut tags = BTreeSet::new();
    let mut again: BTreeMap<Duration, BTreeSet<Tag>> = BTreeMap::new();
    if suspects.are_more {
        tags.insert(Tag::root());
        again.entry(reinvalidate_after).or_default().insert(Tag::root());
    }
    for (method, path) in &suspects.requests {
        let target = Target { scheme: "http", case, ..Target::default() }.at(path);
        // The fields of a POST may have made it a write that a family reads by otherwise.
        if is_safe(method) && !rules.is_write(method, &target) {
            tags.extend(target.tags());
            continue;
        }
        let targets = [target];
        // Its fields may have named another method.
        let matches = rules.invalidated_by_any(&Meant::Any, &targets, WriteValues::UNKNOWN);
        let no_answer = (WriteEnd::NoAnswer, &HeaderMap::new());
        let what =
            invalidations(&targets, &matches, no_answer, &UpstreamHosts::default(), Some(reinvalidate_after));
        tags.extend(what.tags);
        what.again.into_iter().for_each(|it| again.entry(it.after).or_default().extend(it.tags));
    }
    let again = again.into_iter().map(|(after, tags)| Again { after, tags: tags.into_iter().collect() });
    Invalidations { tags: tags.into_iter().collect(), again: again.collect(), ..Invalidations::default() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::Method;

    use super::*;
    use crate::config::{Config, Overrides};

    const RULES: &str = "[[family]]\nname = \"lists\"\npath = '/list'\nttl = \"1m\"\n[invalidate]\n\
                         '/doc' = { families = [\"lists\"], methods = [\"DELETE\"], on = [\"404\"], mode = \"soft\" }\n";

    #[test]
    fn writes_count_as_unanswered_and_reads_for_themselves() {
        let config = Config::check(Path::new("rules.toml"), RULES.as_bytes(), &Overrides::default(), &|_| None);
        let rules = config.unwrap().rules;
        let after = Duration::from_secs(7);
        let of = |method: Method, path: &str, are_more| {
            let suspects = Suspects { requests: [(method, path.into())].into(), are_more };
            invalidated_by(&suspects, &rules, (PathCase::Sensitive, after))
        };
        let again = |tags: &[Tag]| vec![Again { after, tags: tags.to_vec() }];
        let (doc, lists) = (Tag::uri("/doc"), Tag::family("lists"));
        let read = of(Method::GET, "/doc", false);
        assert!(read.tags.contains(&doc) && !read.tags.contains(&lists) && read.again.is_empty(), "{read:?}");
        // By any method: its fields may have said that it was another one.
        let write = of(Method::PUT, "/doc", false);
        assert!(write.tags.contains(&doc) && write.tags.contains(&lists), "{write:?}");
        assert_eq!(write.again.len(), 1);
        assert_eq!(write.again[0].after, after);
        assert_eq!(BTreeSet::from_iter(&write.again[0].tags), BTreeSet::from_iter(&write.tags));
        let all = of(Method::GET, "/doc", true);
        assert!(all.tags.contains(&Tag::root()));
        assert_eq!(all.again, again(&[Tag::root()]));
    }
}
