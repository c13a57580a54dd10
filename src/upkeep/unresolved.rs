//! Writes whose rules lacked a value, in the log.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::http::invalidation::WriteEnd;
use crate::mutex::lock;
use crate::rules::{MatchedRule, Unresolved};

/// How often a rule without a value is logged as a warning.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Most rules that are remembered.
const REMEMBERED: usize = 1000;

/// The rules that lacked a value, and when that was last logged as a warning.
#[derive(Debug, Default)]
pub struct UnresolvedLog(Mutex<HashMap<String, Instant>>);

impl UnresolvedLog {
    /// Logs the references without a value: each rule at most once a minute as a warning, else for debugging.
    pub fn note(&self, matches: &[MatchedRule<'_>], end: WriteEnd) {
        let applying = matches.iter().filter(|matched| matched.rule.on.applies(end));
        for (rule, (reference, why)) in
            applying.flat_map(|matched| matched.unresolved.iter().map(|unresolved| (matched.rule, unresolved)))
        {
            // A capture in an optional part of the path is optional on purpose.
            if *why != Unresolved::NoCapture && self.is_due(&rule.path, Instant::now()) {
                tracing::warn!(
                    rule = rule.path, line = rule.line, reference, reason = %why,
                    "a write has no value for a reference: invalidated the whole family; give the rule a source that every \
                     such write has, or name the family without an instance"
                );
            } else {
                tracing::debug!(
                    rule = rule.path, line = rule.line, reference, reason = %why,
                    "a write has no value for a reference: invalidated the whole family"
                );
            }
        }
    }

    fn is_due(&self, rule: &str, now: Instant) -> bool {
        let mut known = lock(&self.0);
        if known.get(rule).is_some_and(|last| now.duration_since(*last) < WARN_EVERY) {
            return false;
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(rule.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_without_a_value_is_warned_of_once_a_minute() {
        let (log, start) = (UnresolvedLog::default(), Instant::now());
        assert!(log.is_due("/a", start) && !log.is_due("/a", start) && log.is_due("/b", start));
        assert!(!log.is_due("/a", start + WARN_EVERY / 2) && log.is_due("/a", start + WARN_EVERY));
        (0..=REMEMBERED).for_each(|rule| assert!(log.is_due(&rule.to_string(), start)));
        assert!(log.0.lock().unwrap().len() <= REMEMBERED);
    }
}
