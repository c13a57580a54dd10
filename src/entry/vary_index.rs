//! [`VaryIndex`]: the variants of a primary key, which differ by request fields (RFC 9111 §4.1).
//!
//! Variants are told apart by every field that any of them named, so that responses which name different fields, or none, do
//! not hide each other. An error adds no field, and nothing adds more than the limit. A response with a `Content-Encoding`
//! counts as if it named `Accept-Encoding`, and names it from then on. Each variant is validated with its own validators alone:
//! one entity tag for all variants is a common fault, and a 304 then confirms any of them.

use std::time::SystemTime;

use http::HeaderName;

/// Most request fields of one index: variants by more of them would hardly ever be reused.
const WIDEST: usize = 16;

/// Stored under a primary key whose responses vary: the request fields that select a variant, and the known variants.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VaryIndex {
    /// Request fields that select a variant; sorted, without duplicates.
    pub on: Vec<HeaderName>,
    /// The variants that were stored, oldest first. A hint: they may be gone.
    pub known: Vec<Variant>,
}

/// One variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// The part of its key text behind that of the primary key.
    pub suffix: Box<str>,
    /// When it expires in Redis.
    pub until: SystemTime,
}

impl VaryIndex {
    /// The fields that select a variant once a response varies on `named`: the union with the known fields. Otherwise responses
    /// to one primary key that name different fields, or none (RFC 9111 §4.1), would hide each other. An additional
    /// field hides the variants stored so far: `None` if an error response adds one, or if there are too many.
    pub fn widened(&self, named: &[HeaderName], is_error: bool) -> Option<Vec<HeaderName>> {
        let mut all: Vec<HeaderName> = self.on.iter().chain(named).cloned().collect();
        all.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        all.dedup();
        let is_wider = all.len() > self.on.len();
        (!is_wider || !is_error && all.len() <= WIDEST).then_some(all)
    }

    /// When the last variant expires; `now` if there is none. After that, a response that names fewer fields hides nothing.
    pub fn kept_until(&self, now: SystemTime) -> SystemTime {
        self.known.iter().map(|known| known.until).fold(now, SystemTime::max)
    }

    /// Adds a variant selected by `on`; at most `most` stay. Returns the dropped ones, oldest first.
    #[must_use]
    pub fn with(self, on: Vec<HeaderName>, variant: Variant, most: usize) -> (VaryIndex, Vec<Variant>) {
        let mut known = self.known;
        known.retain(|there| there.suffix != variant.suffix);
        known.push(variant);
        let gone = known.drain(..known.len().saturating_sub(most.max(1))).collect();
        (VaryIndex { on, known }, gone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn names(names: &[&'static str]) -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::from_static(name)).collect()
    }

    fn variant(suffix: &str) -> Variant {
        Variant { suffix: suffix.into(), until: UNIX_EPOCH }
    }

    #[test]
    fn fields_add_up_until_there_are_too_many() {
        let variants = VaryIndex { on: names(&["a", "c"]), known: Vec::new() };
        assert_eq!(variants.widened(&names(&["b", "c"]), false), Some(names(&["a", "b", "c"])));
        let numbered = |count: usize| -> Vec<HeaderName> {
            (0..count).map(|n| HeaderName::try_from(format!("x-{n:02}")).unwrap()).collect()
        };
        let most = variants.widened(&numbered(WIDEST - 2), false).unwrap();
        assert_eq!(most.len(), WIDEST);
        assert_eq!(variants.widened(&numbered(WIDEST - 1), false), None);
        // An index that is too wide already stays as it is.
        let wide = VaryIndex { on: numbered(WIDEST + 1), known: Vec::new() };
        for is_error in [false, true] {
            assert_eq!(wide.widened(&[], is_error), Some(wide.on.clone()));
            assert_eq!(wide.widened(&numbered(WIDEST), is_error), Some(wide.on.clone()));
            assert_eq!(wide.widened(&names(&["a"]), is_error), None);
        }
    }

    #[test]
    fn an_error_adds_no_field() {
        let variants = VaryIndex { on: names(&["a", "c"]), known: Vec::new() };
        for named in [&[][..], &["a"], &["c"], &["a", "c"]] {
            assert_eq!(variants.widened(&names(named), true), Some(names(&["a", "c"])), "{named:?}");
        }
        for named in [&["b"][..], &["a", "b", "c"], &["a", "d"], &["b", "d"]] {
            assert_eq!(variants.widened(&names(named), true), None, "{named:?}");
        }
    }

    #[test]
    fn variants_are_kept_until_the_last_of_them_goes() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let known = [3, 9, 6].map(|seconds| Variant { suffix: seconds.to_string().into(), until: at(seconds) });
        let variants = VaryIndex { on: names(&["a"]), known: known.into() };
        assert_eq!(variants.kept_until(at(5)), at(9));
        assert_eq!(variants.kept_until(at(10)), at(10));
        assert_eq!(VaryIndex::default().kept_until(at(1)), at(1));
    }

    #[test]
    fn the_oldest_variants_go_first_and_none_is_known_twice() {
        let mut variants = VaryIndex::default();
        for suffix in ["1", "2", "1", "3"] {
            let gone;
            (variants, gone) = variants.with(names(&["a"]), variant(suffix), 2);
            let expected: &[Variant] = if suffix == "3" { &[variant("2")] } else { &[] };
            assert_eq!(gone, expected, "{suffix}");
        }
        assert_eq!(variants.known, [variant("1"), variant("3")]);
    }
}
