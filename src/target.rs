//! The request target, normalised before anything looks at it: what the rules match, what the key holds and
//! what upstream receives is one and the same path. Refuses requests whose target or host is ambiguous.

use std::borrow::Cow;

use http::{HeaderMap, Uri};

/// Where a request points: scheme, host, normalised path and raw query. RFC 9110 §7.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `http` or `https`, as the client sees it.
    pub scheme: &'static str,
    /// Host and, unless it is the scheme's default, port; lower case.
    pub host: String,
    /// Path after [`normalise`]; begins with `/`.
    pub path: String,
    /// Query without the `?`, as received.
    pub query: Option<String>,
}

/// Why a target is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// RFC 9112 §3.2: an HTTP/1.1 request without `Host`.
    #[error("the request has no Host field")]
    MissingHost,
    /// RFC 9112 §3.2: more than one `Host`, or one that disagrees with an absolute-form target is ambiguous.
    #[error("the request has more than one Host field")]
    RepeatedHost,
    /// The host is not a valid `uri-host [ ":" port ]`.
    #[error("the Host field is not a valid host")]
    BadHost,
    /// Neither origin-form nor absolute-form (nor `*` for OPTIONS).
    #[error("the request target is not a path or an http URL")]
    BadForm,
}

impl Target {
    /// The target of a request. Absolute-form wins over `Host` (RFC 9112 §3.2.2).
    pub fn of(scheme: &'static str, uri: &Uri, headers: &HeaderMap) -> Result<Target, TargetFault> {
        let _ = (scheme, uri, headers);
        todo!()
    }

    /// Path and query as sent to upstream.
    pub fn path_and_query(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// Normal form of a path (RFC 3986 §6.2.2): unreserved characters decoded, hex digits upper case, dot
/// segments removed (also those that were written `%2e`). A path in normal form is returned without a copy.
pub fn normalise(path: &str) -> Cow<'_, str> {
    let _ = path;
    todo!()
}
