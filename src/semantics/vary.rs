//! `Vary` (RFC 9110 §12.5.5, RFC 9111 §4.1).

use http::{HeaderMap, HeaderName};

/// What a response says that it varies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// No `Vary`, or an empty one.
    Nothing,
    /// `*`, alone or among others: nothing stored ever matches.
    Everything,
    /// These request fields; sorted, without repetition.
    On(Vec<HeaderName>),
}

impl Vary {
    /// All `Vary` lines of a response. A member that is not a field name counts as `*`.
    pub fn parse(headers: &HeaderMap) -> Vary {
        let _ = headers;
        todo!()
    }
}
