//! How a family identifies the callers of its requests.

use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::has_cookie;
use crate::bearer::{BearerToken, ClaimNames, TokenFault};

/// How a family identifies callers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Identity {
    /// Not configured: requests with credentials are cached only as RFC 9111 §3.5 allows.
    #[default]
    Unstated,
    /// `identity = "none"`: the response is the same for every caller.
    Shared,
    /// By these credentials, one or several. All that a request presents are part of its key, each with its kind: upstream
    /// receives all of them, and may answer a request with `Authorization` and a session cookie as the user of the cookie.
    /// For the same reason `{identity}` names the callers of all that a write presents, and an entry belongs to the
    /// callers of all that its request presented.
    By(Vec<CallerSource>),
    /// By all credentials of the request, of which these fields are some: for verdicts ([`crate::rules::authorize`]). Cannot be
    /// written in the rules.
    Credentials(Arc<[HeaderName]>),
}

/// One kind of credential that identifies callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerSource {
    /// The value of this request field.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(String),
    /// The values of these claims of the bearer token in `Authorization`, which must be valid ([`BearerToken`]).
    Claims(ClaimNames),
}

impl Identity {
    /// Whether the rules configure an identity.
    pub fn is_stated(&self) -> bool {
        !matches!(self, Identity::Unstated)
    }

    /// Whether the rules say that callers have entries of their own.
    pub fn tells_callers_apart(&self) -> bool {
        matches!(self, Identity::By(_))
    }

    /// The credentials that identify callers.
    pub fn sources(&self) -> &[CallerSource] {
        match self {
            Identity::By(sources) => sources,
            // Credentials: [`CacheKey::of_caller`].
            Identity::Unstated | Identity::Shared | Identity::Credentials(_) => &[],
        }
    }

    /// The cookies that identify callers.
    pub fn cookies(&self) -> impl Iterator<Item = &str> {
        self.sources().iter().filter_map(|source| match source {
            CallerSource::Cookie(name) => Some(name.as_str()),
            CallerSource::Header(_) | CallerSource::Claims(_) => None,
        })
    }

    /// The request fields that identify callers by their whole value.
    pub fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        self.sources().iter().filter_map(|source| match source {
            CallerSource::Header(name) => Some(name),
            CallerSource::Cookie(_) | CallerSource::Claims(_) => None,
        })
    }

    /// Whether the whole value of this field identifies callers.
    pub fn is_by_field(&self, name: &HeaderName) -> bool {
        self.fields().any(|known| known == name)
    }

    /// Whether claims of a bearer token identify callers.
    pub fn is_by_claims(&self) -> bool {
        self.sources().iter().any(|source| matches!(source, CallerSource::Claims(_)))
    }

    /// Whether a single claim is all that identifies a caller, so that its plain value names the caller ([`super::callers_of_claim`]).
    pub fn is_one_claim(&self) -> bool {
        matches!(self.sources(), [CallerSource::Claims(names)] if names.is_single())
    }

    /// Why the bearer token of a request does not identify its caller; `None` if it does, if the request has no
    /// `Authorization`, and if claims identify nobody here. Whether the token has expired is another question
    /// ([`BearerToken::at`]).
    pub fn fault_of(&self, bearer: &BearerToken) -> Option<TokenFault> {
        self.sources().iter().find_map(|source| match (source, bearer) {
            (CallerSource::Claims(_), BearerToken::Refused(fault)) => Some(*fault),
            (CallerSource::Claims(names), BearerToken::Verified(token)) => token.values(names).err(),
            _ => None,
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Unstated => f.write_str("unstated"),
            Identity::Shared => f.write_str("none"),
            Identity::By(sources) => {
                for (at, source) in sources.iter().enumerate() {
                    write!(f, "{}{source}", if at == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Identity::Credentials(_) => f.write_str("credentials"),
        }
    }
}

impl CallerSource {
    /// Whether a request presents this credential, valid or not.
    pub fn is_in(&self, fields: &HeaderMap) -> bool {
        match self {
            CallerSource::Header(name) => fields.contains_key(name),
            CallerSource::Cookie(name) => has_cookie(fields, name),
            CallerSource::Claims(_) => fields.contains_key(AUTHORIZATION),
        }
    }
}

impl fmt::Display for CallerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallerSource::Header(name) => write!(f, "header:{name}"),
            CallerSource::Cookie(name) => write!(f, "cookie:{name}"),
            CallerSource::Claims(names) => write!(f, "jwt:{names}"),
        }
    }
}
