//! The fields of a stored response.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields as they are stored: in order, and without the hash index and the spare capacity of a [`HeaderMap`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFields(Box<[(HeaderName, HeaderValue)]>);

impl StoredFields {
    /// The same fields with all values in one allocation. In a response from upstream every value is a slice of the connection's read
    /// buffer, and keeps all of that buffer alive.
    #[must_use]
    pub fn compact(&self) -> StoredFields {
        let mut values = BytesMut::with_capacity(self.iter().map(|(_, value)| value.len()).sum());
        self.iter().for_each(|(_, value)| values.put_slice(value.as_bytes()));
        let mut values = values.freeze();
        let own = |(name, value): (&HeaderName, &HeaderValue)| {
            // A name that is not a standard one is a slice of the read buffer, too.
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
            let own = HeaderValue::from_maybe_shared(values.split_to(value.len()));
            (name, own.unwrap_or_else(|_| value.clone()))
        };
        self.iter().map(own).collect()
    }

    /// The fields, with room for `more`.
    pub fn to_map(&self, more: usize) -> HeaderMap {
        // Lines of one field need no capacity, and there may be more of them than a map has room for names.
        let mut fields = HeaderMap::with_capacity((self.0.len() + more).min(64));
        for (name, value) in self.iter() {
            // Fails beyond the names that any message received has.
            let _ = fields.try_append(name, value.clone());
        }
        fields
    }

    /// The first value of a field.
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Every line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Most lines: as many as fit in the largest head that Larder reads.
pub(super) const MOST: usize = 32 << 10;

impl FromIterator<(HeaderName, HeaderValue)> for StoredFields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(lines: I) -> StoredFields {
        StoredFields(lines.into_iter().collect())
    }
}

impl From<HeaderMap> for StoredFields {
    fn from(fields: HeaderMap) -> StoredFields {
        let mut last = None;
        let lines = fields.into_iter().filter_map(|(name, value)| {
            // The lines of a field follow each other, and only the first has the name.
            last = name.or_else(|| last.take());
            Some((last.clone()?, value))
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    #[test]
    fn stored_fields_are_the_fields_of_the_response() {
        let response = fields(&[("vary", "a"), ("x-own", "1"), ("vary", "b"), ("etag", "\"x\""), ("x-own", "")]);
        let stored = StoredFields::from(response.clone());
        assert_eq!((stored.len(), stored.is_empty()), (5, false));
        assert_eq!(stored.to_map(0), response);
        assert_eq!(stored.compact(), stored);
    }

    #[test]
    fn as_many_lines_as_a_head_can_have_are_no_fault() {
        let lines = std::iter::repeat_n((http::header::VARY, HeaderValue::from_static("a")), MOST);
        assert_eq!(
            lines.clone().collect::<StoredFields>().to_map(2).get_all(http::header::VARY).iter().count(),
            MOST
        );
        let names =
            (0..MOST).map(|n| (HeaderName::try_from(format!("x-{n}")).unwrap(), HeaderValue::from_static("a")));
        assert!(!names.collect::<StoredFields>().to_map(2).is_empty());
    }
}
