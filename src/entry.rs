//! [`Entry`]: a stored response with everything that decides on its use. `codec` has its encoding in Redis.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::clients;
use crate::http::freshness::Freshness;
use crate::marks::{Stamp, Tag};

mod codec;
mod compression;
mod fields;
mod seal;
mod vary_index;

pub use codec::{DecodeFault, ENCODING_MAX, Preface};
pub use fields::StoredFields;
pub use seal::Seal;
pub use vary_index::{Variant, VaryIndex};

/// The value of a cache key.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Text of the cache key; compared on a hit, so that an MD5 collision is a miss.
    pub text: Box<str>,
    /// Read before the fetch that made this entry.
    pub stamp: Stamp,
    /// The tags whose invalidation makes it unusable.
    pub tags: Arc<[Tag]>,
    pub content: Content,
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

    /// Estimate of the memory that the entry takes in L1, bytes, including its slot there. Assumes a decoded entry: texts are in
    /// memory twice, in the encoding that field values and a small body are slices of, and as values of their own.
    pub fn weight(&self) -> u64 {
        const ALLOCATION: usize = 24;
        const PLACE: usize = 250;
        const FIXED: usize = PLACE + size_of::<Entry>() + 150;
        let tags: usize = self.tags.iter().map(|tag| 2 * tag.as_str().len() + 2 * ALLOCATION + 16).sum();
        let content = match &self.content {
            Content::VaryIndex(variants) => {
                let known: usize = variants.known.iter().map(|known| 2 * known.suffix.len() + 64).sum();
                variants.on.len() * 48 + known
            }
            Content::Response(response) => {
                let text = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 8;
                let lines = |fields: &StoredFields| -> usize {
                    let texts: usize = fields.iter().map(text).sum();
                    texts + fields.len() * size_of::<(HeaderName, HeaderValue)>()
                };
                let original_fields = response.original_fields.as_deref().map_or(0, |fields| lines(fields) + 128);
                lines(&response.headers) + original_fields + response.body.len()
            }
        };
        (FIXED + 2 * self.text.len() + ALLOCATION + tags + content) as u64
    }

    /// The same entry in its own allocations. In a response from upstream every field value is a slice of the connection's
    /// read buffer, and keeps all of that buffer alive. A body over [`COPIED`] is shared, not copied: the caller has it in
    /// an allocation of its own.
    #[must_use]
    pub fn compact(self) -> Entry {
        match self.content {
            Content::VaryIndex(_) => self,
            Content::Response(response) => Entry { content: Content::Response(response.compact()), ..self },
        }
    }
}

impl Response {
    /// The same response in two allocations, one for all field values and one for a small body.
    fn compact(self) -> Response {
        let headers = self.headers.compact();
        let original_fields = self.original_fields.map(|fields| Box::new(fields.compact()));
        let body = if self.body.len() > COPIED { self.body } else { Bytes::copy_from_slice(&self.body) };
        Response { headers, original_fields, body, ..self }
    }
}
