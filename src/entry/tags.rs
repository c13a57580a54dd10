//! The tags of an entry.

use std::fmt;

use crate::marks::Tag;

/// Tags in one allocation, as in the encoding of an entry: the text of each follows its length, as `postcard` writes a string.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredTags(Box<[u8]>);

impl StoredTags {
    /// These tags.
    pub fn of<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> StoredTags {
        tags.into_iter().collect()
    }

    /// Their texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (tag, after) = postcard::take_from_bytes(rest).ok()?;
            rest = after;
            Some(tag)
        })
    }

    /// The tags themselves.
    pub fn to_vec(&self) -> Vec<Tag> {
        self.iter().map(Tag::family).collect()
    }

    /// Bytes that they take.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }
}

impl<T: AsRef<str>> FromIterator<T> for StoredTags {
    fn from_iter<I: IntoIterator<Item = T>>(tags: I) -> StoredTags {
        let write = |texts: Vec<u8>, tag: T| {
            postcard::to_extend(tag.as_ref(), texts).expect("a Vec takes everything, and a string has a length")
        };
        StoredTags(tags.into_iter().fold(Vec::with_capacity(128), write).into())
    }
}

impl fmt::Debug for StoredTags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_tags_are_the_tags_of_the_entry() {
        let long = "a".repeat(70_000);
        let tags = [Tag::root(), Tag::uri("/ä\n"), Tag::family(""), Tag::group("h", &long), Tag::family("a:1")];
        let stored = StoredTags::of(&tags);
        assert_eq!(stored.to_vec(), tags);
        assert_eq!(stored.iter().count(), 5);
        assert_eq!(StoredTags::of([""; 0]).iter().next(), None);
    }
}
