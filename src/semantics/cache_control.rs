//! `Cache-Control` (RFC 9111 §5.2), parsed once.

use http::HeaderMap;

/// A directive that may name fields: `no-cache`, `private`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// The directive is absent.
    #[default]
    Absent,
    /// The directive stands for the whole response.
    Whole,
    /// The directive concerns these fields only (lower case).
    Fields(Vec<String>),
}

/// Response directives. Seconds; values that overflow are 2^31 (RFC 9111 §1.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDirectives {
    pub no_store: bool,
    pub no_cache: Scope,
    pub private: Scope,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub no_transform: bool,
    pub immutable: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
}

/// Request directives. Seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub no_transform: bool,
    pub max_age: Option<u64>,
    /// `Some(None)`: any staleness is welcome.
    pub max_stale: Option<Option<u64>>,
    pub min_fresh: Option<u64>,
}

impl ResponseDirectives {
    /// All `Cache-Control` lines of a response. Names without case, quoted and unquoted arguments, commas inside
    /// quotes; of duplicates the stricter wins; an invalid number makes the response stale (§4.2.1).
    pub fn parse(headers: &HeaderMap) -> ResponseDirectives {
        let _ = headers;
        todo!()
    }
}

impl RequestDirectives {
    /// All `Cache-Control` lines of a request.
    pub fn parse(headers: &HeaderMap) -> RequestDirectives {
        let _ = headers;
        todo!()
    }
}
