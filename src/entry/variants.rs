//! What is known of the responses to one question that differ by request fields (RFC 9111 §4.1).

use http::{HeaderName, HeaderValue};

/// More request fields than this are not remembered together: a response that names so many has hardly two requests
/// in common.
const WIDEST: usize = 16;

/// The sign that responses under a key are kept one level down, and what is known of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Variants {
    /// Request fields that tell them apart; sorted, without repetition.
    pub on: Vec<HeaderName>,
    /// The variants that were stored, the oldest first. A hint: they may be gone.
    pub known: Vec<Variant>,
}

/// One variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// What its canonical text has beyond that of the question.
    pub suffix: Box<str>,
    /// Its `ETag`.
    pub etag: Option<HeaderValue>,
}

impl Variants {
    /// The fields that tell variants apart once a response says that it varies on `named`. Responses to one question
    /// that name different fields would else hide each other: a request is compared in all of them, which only keeps
    /// more apart.
    pub fn widened(&self, named: &[HeaderName]) -> Vec<HeaderName> {
        let mut all: Vec<HeaderName> = self.on.iter().chain(named).cloned().collect();
        all.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        all.dedup();
        if all.len() > WIDEST { named.to_vec() } else { all }
    }

    /// With one more variant, told apart by `on`; at most `most` of them. Gives those that had to go.
    #[must_use]
    pub fn with(self, on: Vec<HeaderName>, variant: Variant, most: usize) -> (Variants, Vec<Variant>) {
        let mut known = self.known;
        known.retain(|there| there.suffix != variant.suffix);
        known.push(variant);
        let gone = known.drain(..known.len().saturating_sub(most.max(1))).collect();
        (Variants { on, known }, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&'static str]) -> Vec<HeaderName> {
        names.iter().map(|name| HeaderName::from_static(name)).collect()
    }

    fn variant(suffix: &str) -> Variant {
        Variant { suffix: suffix.into(), etag: None }
    }

    #[test]
    fn fields_add_up_until_there_are_too_many() {
        let variants = Variants { on: names(&["a", "c"]), known: Vec::new() };
        assert_eq!(variants.widened(&names(&["b", "c"])), names(&["a", "b", "c"]));
        let many: Vec<HeaderName> =
            (0..WIDEST).map(|n| HeaderName::try_from(format!("x-{n:02}")).unwrap()).collect();
        assert_eq!(variants.widened(&many), many);
    }

    #[test]
    fn the_oldest_variants_go_first_and_none_is_known_twice() {
        let mut variants = Variants::default();
        for suffix in ["1", "2", "1", "3"] {
            let gone;
            (variants, gone) = variants.with(names(&["a"]), variant(suffix), 2);
            let expected: &[Variant] = if suffix == "3" { &[variant("2")] } else { &[] };
            assert_eq!(gone, expected, "{suffix}");
        }
        assert_eq!(variants.known, [variant("1"), variant("3")]);
    }
}
