//! The most frequent of very many texts, in bounded memory: the algorithm Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient
//! computation of frequent and top-k elements in data streams", 2005), which removes the lower half of its counters when they are all
//! in use, and not one at a time: so that a new text costs a constant time on average. Pure.
//!
//! With 2*m* counters, and *N* the sum of everything that was added: a text with more than *N/m* is always counted, and a count is too
//! high by at most *N/m*, never too low. For the counts that stay at a removal have a sum of at most *N*, by induction: since the last
//! removal, whose highest count was *t*, *m* new counters have begun with *t*, and the *m* counters that go now have at least *t* each.
//! The highest count that goes now is no higher than any of the *m* that stay, so it is at most *N/m*.

use hashbrown::HashMap;

/// The counters.
#[derive(Debug, Clone)]
pub struct SpaceSaving<V> {
    /// *m*: half of the counters.
    half: usize,
    counters: HashMap<Box<str>, Counter<V>>,
    /// The highest count that was removed.
    removed: u64,
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
    /// With 2 × `half` counters.
    pub fn new(half: usize) -> SpaceSaving<V> {
        SpaceSaving { half: half.max(1), counters: HashMap::new(), removed: 0 }
    }

    /// Adds to the count of a text, and lets its value be changed.
    pub fn add(&mut self, text: &str, amount: u64, note: impl FnOnce(&mut V)) {
        if let Some(known) = self.counters.get_mut(text) {
            known.count = known.count.saturating_add(amount);
            return note(&mut known.value);
        }
        if self.counters.len() >= 2 * self.half {
            self.remove_lower_half();
        }
        let (error, mut value) = (self.removed, V::default());
        note(&mut value);
        self.counters.insert(text.into(), Counter { count: error.saturating_add(amount), error, value });
    }

    fn remove_lower_half(&mut self) {
        let mut counts: Vec<u64> = self.counters.values().map(|counter| counter.count).collect();
        let (_, highest, _) = counts.select_nth_unstable(self.half - 1);
        self.removed = *highest;
        // Of several with that count, as many stay as there is room for.
        let mut left = counts[self.half..].iter().filter(|count| **count == self.removed).count();
        self.counters.retain(|_, counter| {
            let is_at_limit = counter.count == self.removed;
            let stays = counter.count > self.removed || is_at_limit && left > 0;
            left -= usize::from(stays && is_at_limit);
            stays
        });
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
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_are_never_too_low_and_too_high_by_a_bounded_part(
            added in proptest::collection::vec((0_u8..40, 1_u64..50), 0..400),
            half in 1_usize..20,
        ) {
            let mut sketch = SpaceSaving::<u64>::new(half);
            let mut exact: HashMap<String, u64> = HashMap::new();
            for (text, amount) in &added {
                let text = text.to_string();
                sketch.add(&text, *amount, |times| *times += 1);
                *exact.entry(text).or_default() += amount;
            }
            let all: u64 = exact.values().sum();
            let bound = all / half as u64;
            prop_assert!(sketch.counters.len() <= 2 * half);
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
