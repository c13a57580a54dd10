//! [`Entry`]: a stored response with everything that decides on its use. `codec` has its encoding in Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::http::clients;
use crate::http::freshness::Freshness;
use crate::marks::{HeldTags, Stamp};

mod codec;
mod common;
mod compression;
mod fields;
mod seal;
mod tags;
mod vary_index;

pub use codec::{DecodeFault, ENCODING_MAX, Preface};
pub use fields::StoredFields;
pub use seal::Seal;
pub use tags::StoredTags;
pub use vary_index::{Variant, VaryIndex};

/// The value of a cache key.
#[derive(Debug)]
pub struct Entry {
    /// Text of the cache key; compared on a hit, so that an MD5 collision is a miss.
    pub text: Box<str>,
    /// Read before the fetch that made this entry.
    pub stamp: Stamp,
    /// The tags whose invalidation makes it unusable.
    pub tags: StoredTags,
    pub content: Content,
    /// Its tags, while it is in L1.
    held: HeldTags,
    /// How often it was served from L1, and what it replaced before it.
    hits: AtomicU32,
}

/// A stored response, or the vary index of a primary key.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "most are responses, and a box would cost every hit an indirection")]
pub enum Content {
    Response(Response),
    /// Responses to this key vary (RFC 9111 §4.1): each variant has a key of its own.
    VaryIndex(VaryIndex),
}

/// A complete stored response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: StatusCode,
    /// Without hop-by-hop fields, `Age` and upstream's `Content-Length`; ready to be sent.
    pub headers: StoredFields,
    /// Upstream's fields that are rewritten for clients ([`clients`]); None if none is.
    pub original_fields: Option<Box<StoredFields>>,
    pub body: Bytes,
    pub freshness: Freshness,
    /// May answer requests that carry `Authorization` or `Cookie` (RFC 9111 §3.5, or the family's rules).
    pub for_credentials: bool,
    /// Some of the fields are for Larder only, and are removed from responses to clients. They are stored, since a 304 need
    /// not repeat them.
    pub consumed: bool,
}

impl Response {
    /// The fields as upstream sent them: for validation, and to be updated by a 304.
    pub fn own_headers(&self) -> HeaderMap {
        let fields = self.headers.to_map(0);
        match &self.original_fields {
            None => fields,
            Some(original) => clients::restored(&fields, &original.to_map(0)),
        }
    }

    /// Whether the status is 4xx or 5xx (RFC 9110 §15.5, §15.6).
    pub fn is_error(&self) -> bool {
        self.status.is_client_error() || self.status.is_server_error()
    }
}

/// Largest body, bytes, that [`Entry::compact`] copies.
pub const COPIED: usize = 4 << 10;

impl Entry {
    /// An entry that is not in L1.
    pub fn new<T: AsRef<str>>(
        text: impl Into<Box<str>>,
        stamp: Stamp,
        tags: impl IntoIterator<Item = T>,
        content: Content,
    ) -> Entry {
        Entry::with_tags(text.into(), stamp, StoredTags::of(tags), content)
    }

    fn with_tags(text: Box<str>, stamp: Stamp, tags: StoredTags, content: Content) -> Entry {
        Entry { text, stamp, tags, content, held: HeldTags::default(), hits: AtomicU32::new(0) }
    }

    /// The entry as it is in L1, which holds its tags. `hits`: of what it replaces.
    #[must_use]
    pub fn in_memory(self, held: HeldTags, hits: u32) -> Arc<Entry> {
        Arc::new(Entry { held, hits: AtomicU32::new(hits), ..self })
    }

    /// Its tags, held. `None` unless it is, or was, in L1.
    pub fn held(&self) -> Option<&HeldTags> {
        Some(&self.held).filter(|held| held.are_held())
    }

    /// Counts that it was served from L1.
    pub fn count_hit(&self) {
        self.hits.fetch_add(1, Relaxed);
    }

    /// How often it was served from L1, and what it replaced before it.
    pub fn hits(&self) -> u32 {
        self.hits.load(Relaxed)
    }

    /// The stored response; None for a vary index.
    pub fn response(&self) -> Option<&Response> {
        match &self.content {
            Content::Response(response) => Some(response),
            Content::VaryIndex(_) => None,
        }
    }

    /// The vary index; None for a stored response.
    pub fn vary_index(&self) -> Option<&VaryIndex> {
        match &self.content {
            Content::Response(_) => None,
            Content::VaryIndex(variants) => Some(variants),
        }
    }

    /// The memory that the entry takes in L1, bytes, with its places in the tables there. `tests/allocations` compares it with the
    /// allocator.
    pub fn weight(&self) -> u64 {
        // In the table of entries: the key 16, a pointer 8, the links of the queue 16, and the index 16: it is never full.
        const PLACE: usize = 56;
        // The counts of an `Arc`, and of a `Bytes` from its first clone on.
        const COUNTS: usize = 16;
        const SHARED: usize = 32;
        let content = match &self.content {
            Content::VaryIndex(variants) => {
                let known: usize = variants.known.iter().map(|known| block(known.suffix.len())).sum();
                block(size_of_val(&*variants.on)) + block(size_of_val(&*variants.known)) + known
            }
            Content::Response(response) => {
                let fields = |fields: &StoredFields| block(fields.size()) + SHARED;
                let original_fields = response
                    .original_fields
                    .as_deref()
                    .map_or(0, |original_fields| size_of::<StoredFields>() + fields(original_fields));
                fields(&response.headers) + original_fields + block(response.body.len()) + SHARED
            }
        };
        let own = block(COUNTS + size_of::<Entry>()) + block(self.text.len()) + block(self.tags.size());
        (PLACE + own + content) as u64
    }

    /// The same entry in its own allocations. A body over [`COPIED`] is shared, not copied: the caller has it in an allocation of its
    /// own.
    #[must_use]
    pub fn compact(mut self) -> Entry {
        if let Content::Response(response) = &mut self.content
            && response.body.len() <= COPIED
        {
            response.body = Bytes::copy_from_slice(&response.body);
        }
        self
    }
}

/// The copy is not in L1.
impl Clone for Entry {
    fn clone(&self) -> Entry {
        Entry::with_tags(self.text.clone(), self.stamp, self.tags.clone(), self.content.clone())
    }
}

/// Whether it is in L1 makes no difference.
impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (&self.text, self.stamp, &self.tags, &self.content)
            == (&other.text, other.stamp, &other.tags, &other.content)
    }
}

/// Memory that the allocator takes for a block of so many bytes: mimalloc has four sizes from each power of two to the next, and
/// small ones in steps of 16 bytes; blocks from 256 KiB on are pages (`main`'s allocator).
fn block(size: usize) -> usize {
    match size {
        0 => 0,
        1..=128 => size.next_multiple_of(16),
        129..262_144 => size.next_multiple_of(size.next_power_of_two() / 8),
        _ => size.next_multiple_of(4096),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fits_in_a_block_of_224_bytes() {
        // The counts of its `Arc` are in the block.
        assert!(size_of::<Entry>() + 16 <= 224, "{}", size_of::<Entry>());
    }

    #[test]
    fn blocks_have_the_sizes_of_the_allocator() {
        let rows =
            [(0, 0), (1, 16), (16, 16), (17, 32), (128, 128), (129, 160), (160, 160), (161, 192), (250, 256)];
        let further = [(257, 320), (1024, 1024), (1025, 1280), (1281, 1536), (40_000, 40_960), (262_145, 266_240)];
        for (size, expected) in rows.into_iter().chain(further) {
            assert_eq!(block(size), expected, "{size}");
        }
    }
}
