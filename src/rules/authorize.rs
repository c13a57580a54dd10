//! `authorize`: before a stored response of a family is used, the API is asked whether it authorizes the caller, as nginx does
//! with `auth_request`. The API's answers, called *verdicts*, are entries of implicit families, one for each path that is asked.
//! No request leads to these families, but rules can name them. So verdicts are stored, coalesced and invalidated like other
//! responses.

use std::time::Duration;

pub(super) mod read;

/// What a family says in `authorize`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorize {
    /// The path that is asked.
    pub path: String,
    /// How long a verdict is kept.
    pub ttl: Duration,
    /// Id of the implicit family of the verdicts.
    pub verdicts: usize,
}
