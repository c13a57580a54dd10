//! The family of an entry, by its label or its tags and the rules in force now.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::marks::Tag;
use crate::metrics::NO_FAMILY;
use crate::rules::RuleSet;

/// Entries of families that the rules no longer have are counted as this.
pub const FORMER: &str = "other";

/// The label of the entries of the admin's self-test. No family has this name: names have no brackets.
pub const SELF_TEST_LABEL: &str = "(larder-test)";

/// The names of all families.
#[derive(Debug)]
pub struct FamilyOwners(BTreeSet<String>);

impl FamilyOwners {
    /// Those of these rules.
    pub fn of(rules: &RuleSet) -> FamilyOwners {
        rules.families().iter().map(|family| family.name.clone()).collect()
    }

    /// The family that an instance, a label or a family's own tag belongs to: the longest name that it begins with,
    /// up to a `:` or the end.
    pub fn owner<'n>(&'n self, text: &str) -> Option<&'n str> {
        let ends = text.match_indices(':').map(|(end, _)| end).chain([text.len()]);
        ends.filter_map(|end| self.0.get(&text[..end])).next_back().map(String::as_str)
    }

    /// The families of which an invalidation of this tag invalidates entries: all, those below a level, or that of an instance or of a
    /// caller.
    pub fn reached<'n>(&'n self, tag: &Tag) -> Vec<&'n str> {
        let text = tag.as_str();
        if let Some(family) = tag.family_of_caller() {
            return self.0.get(family).map(String::as_str).into_iter().collect();
        }
        if *tag == Tag::root() {
            return self.0.iter().map(String::as_str).collect();
        }
        // Each write asks this: there may be very many families.
        let beginning = self.0.range::<str, _>((Bound::Included(text), Bound::Unbounded)).map(String::as_str);
        let beginning = beginning.map_while(|name| Some((name, name.strip_prefix(text)?)));
        let is_below = |(_, rest): &(&str, &str)| rest.is_empty() || rest.starts_with(':');
        let below: Vec<&str> = beginning.filter(is_below).map(|(name, _)| name).collect();
        if below.is_empty() { self.owner(text).into_iter().collect() } else { below }
    }

    /// The family of an entry by its label, the readable part of its name in Redis; `-` is none.
    pub fn of_label<'n>(&'n self, label: &str) -> &'n str {
        match label {
            "-" => NO_FAMILY,
            SELF_TEST_LABEL => SELF_TEST_LABEL,
            label => self.owner(label).unwrap_or(FORMER),
        }
    }

    /// The family of an entry by its tags: the longest that is a family's name.
    pub fn of_tags<'n>(&'n self, tags: &[Tag]) -> &'n str {
        let named = tags.iter().filter_map(|tag| self.0.get(tag.as_str())).max_by_key(|name| name.len());
        if let Some(name) = named {
            return name;
        }
        if tags.iter().all(|tag| !tag.is_of_family()) { NO_FAMILY } else { FORMER }
    }
}

impl FromIterator<String> for FamilyOwners {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> FamilyOwners {
        FamilyOwners(names.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> FamilyOwners {
        ["booking", "booking:stats", "user_details"].map(str::to_owned).into_iter().collect()
    }

    #[test]
    fn an_invalidation_reaches_the_families_below_its_tag_or_that_of_its_instance() {
        let rows: [(Tag, &[&str]); 5] = [
            (Tag::caller("booking", "hmac-sha256:1"), &["booking"]),
            (Tag::root(), &["booking", "booking:stats", "user_details"]),
            (Tag::family("booking"), &["booking", "booking:stats"]),
            (Tag::family("booking:stats"), &["booking:stats"]),
            (Tag::family("user_details:42"), &["user_details"]),
        ];
        for (tag, expected) in rows {
            let names = names();
            let mut reached = names.reached(&tag);
            reached.sort_unstable();
            assert_eq!(reached, expected, "{tag}");
        }
    }

    #[test]
    fn a_label_belongs_to_the_longest_family_that_it_begins_with() {
        let rows = [
            ("booking", "booking"),
            ("booking:7", "booking"),
            ("booking:stats", "booking:stats"),
            ("booking:stats:7:8", "booking:stats"),
            ("booking:statistics", "booking"),
            ("bookings:7", FORMER),
            ("user_details:42", "user_details"),
            ("user", FORMER),
            ("-", NO_FAMILY),
            (SELF_TEST_LABEL, SELF_TEST_LABEL),
        ];
        for (label, expected) in rows {
            assert_eq!(names().of_label(label), expected, "{label}");
        }
    }

    #[test]
    fn an_entry_belongs_to_the_longest_of_its_tags_that_names_a_family() {
        let rows: [(&[&str], &str); 5] = [
            (&["*", "uri:/b", "booking", "booking:stats", "booking:stats:7"], "booking:stats"),
            (&["*", "uri:/b", "booking", "booking:7"], "booking"),
            (&["*", "uri:/b"], NO_FAMILY),
            (&["*", "uri:/b", "group h/stock", "group /stock"], NO_FAMILY),
            (&["*", "uri:/b", "gone", "gone:7"], FORMER),
        ];
        for (tags, expected) in rows {
            let tags: Vec<Tag> = tags.iter().map(|tag| Tag::family(tag)).collect();
            assert_eq!(names().of_tags(&tags), expected, "{tags:?}");
        }
    }
}
