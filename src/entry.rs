//! [`Entry`]: a stored response with everything that decides on its use. `codec` has its encoding in Redis.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::clients;
use crate::http::freshness::Freshness;
use crate::marks::{Stamp, Tag};

mod codec;
mod compression;
mod seal;
mod vary_index;

pub use codec::{DecodeFault, ENCODING_MAX, Preface};
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
    pub headers: HeaderMap,
    /// Upstream's fields that are rewritten for clients ([`clients`]); None if none is.
    pub said: Option<Box<HeaderMap>>,
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
    pub fn own_headers(&self) -> Cow<'_, HeaderMap> {
        match &self.said {
            None => Cow::Borrowed(&self.headers),
            Some(said) => Cow::Owned(clients::restored(&self.headers, said)),
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
                let text = |fields: &HeaderMap| -> usize {
                    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 8).sum()
                };
                let said = response.said.as_deref().map_or(0, |said| text(said) + said.len() * 160 + 128);
                let text = text(&response.headers) + said;
                let fields = response.headers.len();
                // As `HeaderMap` makes room: a power of two of places, three quarters of them for fields.
                let places = (fields + fields / 3).next_power_of_two();
                text + places * 4 + (places - places / 4) * 112 + response.body.len()
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
        let headers = compact(&self.headers);
        let said = self.said.map(|said| Box::new(compact(&said)));
        let body = if self.body.len() > COPIED { self.body } else { Bytes::copy_from_slice(&self.body) };
        Response { headers, said, body, ..self }
    }
}

/// The same fields with all values in one allocation.
fn compact(fields: &HeaderMap) -> HeaderMap {
    let mut values = BytesMut::with_capacity(fields.values().map(HeaderValue::len).sum());
    fields.values().for_each(|value| values.put_slice(value.as_bytes()));
    let mut values = values.freeze();
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        // A name that is not a standard one is a slice of the read buffer, too.
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
        let own = HeaderValue::from_maybe_shared(values.split_to(value.len()));
        headers.append(name, own.unwrap_or_else(|_| value.clone()));
    }
    headers
}
