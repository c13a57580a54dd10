//! The fields of a stored response.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::common::{COMMON, CommonPart, LINES, NAMES};

/// Fields as they are stored: in order, and in one allocation. A hit gets values that are slices of it.
///
/// It begins with the number of lines. Of a common line follows the number, of another one `LINES` and the number
/// of its name, or `SPELLED` and the name, and then its value. Before a name stands its length as `u16`, before a value as `u32`.
#[derive(Clone)]
pub struct StoredFields(Bytes);

/// In place of the number of a name that is not common.
const SPELLED: u16 = (LINES + NAMES) as u16;

/// Most lines: as many as fit in the largest head that Larder reads.
pub(super) const MOST: usize = 32 << 10;

impl StoredFields {
    /// The fields, with room for `more`.
    pub fn to_map(&self, more: usize) -> HeaderMap {
        // Lines of one field need no capacity, and there may be more of them than a map has room for names.
        let mut fields = HeaderMap::with_capacity((self.len() + more).min(64));
        for (name, value) in self.iter() {
            // Fails beyond the names that any message received has.
            let _ = fields.try_append(name, value);
        }
        fields
    }

    /// The first value of a field.
    pub fn get(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.lines().find(|line| line.name() == name)?.into_pair(&self.0).map(|(_, value)| value)
    }

    /// Every line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.lines().map_while(|line| line.into_pair(&self.0))
    }

    fn lines(&self) -> StoredLines<'_> {
        StoredLines { block: &self.0, at: COUNT }
    }

    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.first_chunk().map_or(0, |count| u16::from_le_bytes(*count).into())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that they take.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }
}

/// Bytes of the number of lines.
const COUNT: usize = size_of::<u16>();

/// Reads the lines of a block.
struct StoredLines<'b> {
    block: &'b [u8],
    at: usize,
}

/// A line of a block.
enum StoredLine {
    Common(&'static (HeaderName, HeaderValue)),
    /// Its name, and where its value is.
    Own(HeaderName, Range<usize>),
}

impl StoredLine {
    fn name(&self) -> &HeaderName {
        match self {
            StoredLine::Common((name, _)) | StoredLine::Own(name, _) => name,
        }
    }

    /// `None` for what was no value when it was stored.
    fn into_pair(self, block: &Bytes) -> Option<(HeaderName, HeaderValue)> {
        match self {
            StoredLine::Common(line) => Some(line.clone()),
            StoredLine::Own(name, at) => Some((name, HeaderValue::from_maybe_shared(block.slice(at)).ok()?)),
        }
    }
}

impl Iterator for StoredLines<'_> {
    type Item = StoredLine;

    fn next(&mut self) -> Option<StoredLine> {
        let number = self.u16()?;
        if let Some(line) = COMMON.line(number) {
            return Some(StoredLine::Common(line));
        }
        let name = match number {
            SPELLED => {
                let length = self.u16()?.into();
                let at = self.skip(length)?;
                HeaderName::from_bytes(&self.block[at]).ok()?
            }
            _ => COMMON.name(number - LINES as u16)?.clone(),
        };
        let length = self.skip(size_of::<u32>())?;
        let length = u32::from_le_bytes(*self.block[length].first_chunk()?);
        Some(StoredLine::Own(name, self.skip(length as usize)?))
    }
}

impl StoredLines<'_> {
    fn u16(&mut self) -> Option<u16> {
        let at = self.skip(size_of::<u16>())?;
        Some(u16::from_le_bytes(*self.block[at].first_chunk()?))
    }

    /// Where the next bytes are, of which there are so many.
    fn skip(&mut self, length: usize) -> Option<Range<usize>> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.block.len())?;
        Some(std::mem::replace(&mut self.at, end)..end)
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for StoredFields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(lines: I) -> StoredFields {
        // Room for most; what is left of it is given back.
        let (mut block, mut count) = (Vec::with_capacity(256), 0_u16);
        block.put_u16_le(count);
        for line in lines.into_iter().take(MOST) {
            let (name, value) = &line;
            count += 1;
            match COMMON.share(&line) {
                CommonPart::Line(number) => {
                    block.put_u16_le(number);
                    continue;
                }
                CommonPart::Name(number) => block.put_u16_le(LINES as u16 + number),
                CommonPart::Nothing => {
                    block.put_u16_le(SPELLED);
                    // `http` allows no longer one.
                    block.put_u16_le(name.as_str().len() as u16);
                    block.put_slice(name.as_str().as_bytes());
                }
            }
            // Heads are far shorter.
            block.put_u32_le(value.len() as u32);
            block.put_slice(value.as_bytes());
        }
        block[..COUNT].copy_from_slice(&count.to_le_bytes());
        StoredFields(if count == 0 { Bytes::new() } else { block.into_boxed_slice().into() })
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

impl PartialEq for StoredFields {
    fn eq(&self, other: &StoredFields) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for StoredFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    #[test]
    fn stored_fields_are_the_fields_of_the_response() {
        let long = "a".repeat(70_000);
        let name = format!("x-{}", "n".repeat(1000));
        let response = fields(&[
            ("vary", "a"),
            ("x-own", "1"),
            ("vary", "b"),
            ("etag", "\"x\""),
            ("x-own", ""),
            ("link", &long),
            (&name, "ä"),
        ]);
        let stored = StoredFields::from(response.clone());
        assert_eq!((stored.len(), stored.is_empty()), (7, false));
        assert_eq!(stored.to_map(0), response);
        assert_eq!(stored.get(&HeaderName::from_static("link")).unwrap(), long);
        assert_eq!(stored, StoredFields::from(response));
        let none = StoredFields::from(HeaderMap::new());
        assert_eq!((none.len(), none.is_empty(), none.iter().next()), (0, true, None));
        assert_ne!(stored, none);
    }

    #[test]
    fn values_of_their_own_are_slices_of_one_allocation() {
        let lines = ["\"1\"", "\"2\""].map(|value| {
            let name = HeaderName::from_static("etag");
            (name, HeaderValue::try_from(format!("{value}{}", "x".repeat(300))).unwrap())
        });
        let stored: StoredFields = lines.iter().cloned().collect();
        for (kept, (_, sent)) in stored.iter().zip(lines) {
            assert_eq!(kept.1, sent);
            assert!(stored.0.as_ptr_range().contains(&kept.1.as_bytes().as_ptr()));
        }
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
