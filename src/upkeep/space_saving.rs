//! The most frequent of very many texts, in bounded memory: the algorithm Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient
//! computation of frequent and top-k elements in data streams", 2005). Pure.
//!
//! With *m* counters, and *N* the sum of everything that was added: a text with more than *N/m* is always counted, and a count is too
//! high by at most *N/m*, never too low.

use std::collections::HashMap;

/// The counters.
#[derive(Debug, Clone)]
pub struct SpaceSaving<V> {
    most: usize,
    counters: HashMap<Box<str>, Counter<V>>,
}

/// The counter of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter<V> {
    /// At least what was added for the text.
    pub count: u64,
    /// `count` is too high by at most this.
    pub error: u64,
    /// What was noted of the text since it is counted.
    pub value: V,
}

impl<V: Default> SpaceSaving<V> {
    /// With so many counters, at least one.
    pub fn new(most: usize) -> SpaceSaving<V> {
        SpaceSaving { most: most.max(1), counters: HashMap::new() }
    }

    /// Adds to the count of a text, and lets its value be changed. Looks at all counters if the text is not counted yet.
    pub fn add(&mut self, text: &str, amount: u64, note: impl FnOnce(&mut V)) {
        if let Some(known) = self.counters.get_mut(text) {
            known.count = known.count.saturating_add(amount);
            return note(&mut known.value);
        }
        let error = if self.counters.len() < self.most { 0 } else { self.replace_lowest() };
        let mut value = V::default();
        note(&mut value);
        self.counters.insert(text.into(), Counter { count: error.saturating_add(amount), error, value });
    }

    /// Removes the lowest counter, and returns its count.
    fn replace_lowest(&mut self) -> u64 {
        let lowest = self.counters.iter().min_by_key(|(_, counter)| counter.count);
        let Some((text, count)) = lowest.map(|(text, counter)| (text.clone(), counter.count)) else { return 0 };
        self.counters.remove(&text);
        count
    }

    /// All that is counted, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Counter<V>)> {
        self.counters.iter().map(|(text, counter)| (&**text, counter))
    }

    /// The `most` highest, the highest first.
    pub fn highest(&self, most: usize) -> Vec<(&str, &Counter<V>)> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by(|(one, a), (other, b)| b.count.cmp(&a.count).then_with(|| one.cmp(other)));
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_never_too_low_and_too_high_by_a_bounded_part(
            added in proptest::collection::vec((0_u8..40, 1_u64..50), 0..400),
            most in 1_usize..20,
        ) {
            let mut sketch = SpaceSaving::<u64>::new(most);
            let mut exact: HashMap<String, u64> = HashMap::new();
            for (text, amount) in &added {
                let text = text.to_string();
                sketch.add(&text, *amount, |times| *times += 1);
                *exact.entry(text).or_default() += amount;
            }
            let all: u64 = exact.values().sum();
            let bound = all / most as u64;
            prop_assert!(sketch.counters.len() <= most);
            prop_assert_eq!(sketch.iter().map(|(_, counter)| counter.count).sum::<u64>(), all);
            for (text, counter) in sketch.iter() {
                let exact = exact[text];
                prop_assert!(counter.count >= exact && counter.count - counter.error <= exact);
                prop_assert!(counter.error <= bound, "{} of {}", counter.error, all);
            }
            for (text, count) in exact.iter().filter(|(_, count)| **count > bound) {
                prop_assert!(sketch.counters.contains_key(text.as_str()), "{} with {}", text, count);
            }
        }
    }

    #[test]
    fn the_highest_come_first() {
        let mut sketch = SpaceSaving::<u64>::new(8);
        for (text, amount) in [("b", 2), ("a", 2), ("c", 9), ("b", 1)] {
            sketch.add(text, amount, |times| *times += 1);
        }
        let highest: Vec<_> = sketch.highest(2).iter().map(|(text, it)| (*text, it.count, it.value)).collect();
        assert_eq!(highest, [("c", 9, 1), ("b", 3, 2)]);
    }
}
