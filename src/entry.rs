//! [`Entry`]: one stored response with everything that decides on its use, and its encoding in L2.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::http::clients;
use crate::http::freshness::Freshness;
use crate::marks::{Stamp, Tag};

mod codec;
mod seal;
mod vary_index;

pub use codec::{DecodeFault, ENCODING_MAX, Preface};
pub use seal::Seal;
pub use vary_index::{Variant, VaryIndex};

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The canonical request text; compared on a hit, so that an MD5 collision is a miss.
    pub text: Box<str>,
    /// Read before the fetch that made this entry.
    pub stamp: Stamp,
    /// Everything that invalidates it.
    pub tags: Arc<[Tag]>,
    pub content: Content,
}

/// A response, or the sign that responses under this key vary.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "most are responses, and a box would make every hit take a step more"
)]
pub enum Content {
    Response(Response),
    /// Responses under this key are kept one level down, keyed by the request fields they vary on (RFC 9111 §4.1).
    VaryIndex(VaryIndex),
}

/// A complete stored response.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: StatusCode,
    /// Without hop-by-hop fields, `Age` and upstream's `Content-Length`; ready to be sent.
    pub headers: HeaderMap,
    /// What upstream said in the fields in which clients are told something else ([`clients`]); None if they are told what it
    /// said.
    pub said: Option<Box<HeaderMap>>,
    pub body: Bytes,
    pub freshness: Freshness,
    /// May answer requests that carry `Authorization` or `Cookie` (RFC 9111 §3.5, or the family's rules).
    pub for_credentials: bool,
    /// Some of the fields are meant for Larder, and are taken out on the way to clients. They are kept, since a 304
    /// need not repeat them.
    pub consumed: bool,
}

impl Response {
    /// The fields as upstream said them: what is validated with, and what a 304 updates.
    pub fn own_headers(&self) -> Cow<'_, HeaderMap> {
        match &self.said {
            None => Cow::Borrowed(&self.headers),
            Some(said) => Cow::Owned(clients::restored(&self.headers, said)),
        }
    }

    /// Whether it is an error of the client or of the server (RFC 9110 §15.5, §15.6).
    pub fn is_error(&self) -> bool {
        self.status.is_client_error() || self.status.is_server_error()
    }
}

/// The largest body, bytes, that is copied into the memory of its entry.
pub const COPIED: usize = 4 << 10;

impl Entry {
    /// The response, unless this is the sign that responses vary.
    pub fn response(&self) -> Option<&Response> {
        match &self.content {
            Content::Response(response) => Some(response),
            Content::VaryIndex(_) => None,
        }
    }

    /// What responses under this key vary on, if this is the sign for it.
    pub fn vary_index(&self) -> Option<&VaryIndex> {
        match &self.content {
            Content::Response(_) => None,
            Content::VaryIndex(variants) => Some(variants),
        }
    }

    /// Memory that the entry takes in L1, bytes, its place there included. Counted as for an entry that was decoded: texts
    /// stand both in the encoding that fields and a small body are slices of, and by themselves. What is allocated is rounded up.
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

    /// The same entry in memory of its own. As it comes from upstream, every field value is a slice of the connection's read
    /// buffer, and the smallest of them keeps all of that buffer alive. A body over 4 KiB is shared, not copied: who gives it
    /// has it in memory of its own.
    #[must_use]
    pub fn compact(self) -> Entry {
        match self.content {
            Content::VaryIndex(_) => self,
            Content::Response(response) => Entry { content: Content::Response(response.compact()), ..self },
        }
    }
}

impl Response {
    /// The same response in two allocations of its own, one for all field values and one for a small body.
    fn compact(self) -> Response {
        let headers = compact(&self.headers);
        let said = self.said.map(|said| Box::new(compact(&said)));
        let body = if self.body.len() > COPIED { self.body } else { Bytes::copy_from_slice(&self.body) };
        Response { headers, said, body, ..self }
    }
}

/// The same fields with all values in one allocation of their own.
fn compact(fields: &HeaderMap) -> HeaderMap {
    let mut values = BytesMut::with_capacity(fields.values().map(HeaderValue::len).sum());
    fields.values().for_each(|value| values.put_slice(value.as_bytes()));
    let mut values = values.freeze();
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        // A name that is none of the known ones is a slice of the read buffer, too.
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
        let own = HeaderValue::from_maybe_shared(values.split_to(value.len()));
        headers.append(name, own.unwrap_or_else(|_| value.clone()));
    }
    headers
}
