//! Why upstream gave no response.

use super::cause;
use super::conn::{self, Stray, UpstreamConn};
use super::upload::UploadFault;
use crate::shares::Over;

/// Why upstream gave no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("upstream cannot be reached")]
    Unreachable,
    #[error("upstream closed the connection without a response")]
    Closed,
    #[error("upstream did not respond in time")]
    Timeout,
    /// Nothing was sent: there is no place for the request.
    #[error("{}", match .0 {
        Over::Client => "this client has too many requests in progress",
        Over::All => "too many requests wait for upstream",
    })]
    Overloaded(Over),
    /// Upstream's response may be endless, and there is no place for it.
    #[error("{}", match .0 {
        Over::Client => "this client has too many event streams, upgraded connections and long polls",
        Over::All => "there are too many event streams, upgraded connections and long polls",
    })]
    TooManyStreams(Over),
    #[error("upstream's response is not valid HTTP")]
    Garbled,
    #[error("the fetch was abandoned")]
    Abandoned,
    /// The client's fault, not upstream's.
    #[error("the client sent the request content too slowly")]
    Slow,
    /// The client's fault, not upstream's.
    #[error("the request content is incomplete")]
    Incomplete,
}

impl UpstreamError {
    /// Short token for `Cache-Status`, logs and metrics.
    pub fn token(self) -> &'static str {
        match self {
            UpstreamError::Unreachable => "upstream-unreachable",
            UpstreamError::Closed => "upstream-closed",
            UpstreamError::Timeout => "upstream-timeout",
            UpstreamError::Overloaded(Over::All) => "overloaded",
            UpstreamError::Overloaded(Over::Client) => "client-overloaded",
            UpstreamError::TooManyStreams(Over::All) => "streams-overloaded",
            UpstreamError::TooManyStreams(Over::Client) => "client-streams-overloaded",
            UpstreamError::Garbled => "upstream-garbled",
            UpstreamError::Abandoned => "abandoned",
            UpstreamError::Slow | UpstreamError::Incomplete => "request-body",
        }
    }

    /// Whether it concerns one client alone: that client has used up its share.
    pub fn is_for_client(self) -> bool {
        matches!(self, UpstreamError::Overloaded(Over::Client) | UpstreamError::TooManyStreams(Over::Client))
    }
}

impl From<UploadFault> for UpstreamError {
    fn from(fault: UploadFault) -> UpstreamError {
        match fault {
            UploadFault::Slow => UpstreamError::Slow,
            UploadFault::Broken => UpstreamError::Incomplete,
            UploadFault::Unwanted | UploadFault::GivenUp => UpstreamError::Abandoned,
        }
    }
}

/// One attempt without a response.
pub(super) struct NoResponse {
    pub error: UpstreamError,
    /// Why, in a few words.
    pub cause: Option<String>,
    pub connection: ConnectionFault,
    /// The end of the request could not be written.
    pub is_unwritten: bool,
}

/// What an attempt without a response says of its connection.
pub(super) enum ConnectionFault {
    None,
    /// It had carried a response before, and was closed before any part of this one, interim responses included, arrived.
    ClosedWhileIdle,
    /// What arrived may belong to no response.
    Stray(Stray),
}

impl From<UpstreamError> for NoResponse {
    fn from(error: UpstreamError) -> NoResponse {
        NoResponse { error, cause: None, connection: ConnectionFault::None, is_unwritten: false }
    }
}

impl NoResponse {
    /// hyper's error after a request of at least `length` bytes on `conn`.
    pub fn of(error: &hyper::Error, length: u64, conn: &UpstreamConn) -> NoResponse {
        if let Some(fault) = conn::head_fault(error) {
            // It began like a response: it is upstream's own, and not left over from another request.
            return NoResponse::because(UpstreamError::Garbled, fault.to_string());
        }
        let is_garbled = error.is_parse() || error.is_parse_too_large() || conn::is_stray(error);
        if is_garbled {
            return NoResponse::garbled(cause::of(error), conn);
        }
        let is_unheard = conn.heard_nothing_of(length);
        let connection = if is_unheard { ConnectionFault::ClosedWhileIdle } else { ConnectionFault::None };
        let (error, cause) = (UpstreamError::Closed, Some(cause::of(error)));
        NoResponse { error, cause, connection, is_unwritten: conn.has_write_failed() }
    }

    /// What arrived is not HTTP, or is ambiguous.
    pub fn garbled(cause: String, conn: &UpstreamConn) -> NoResponse {
        let connection = conn.stray().map_or(ConnectionFault::None, ConnectionFault::Stray);
        NoResponse {
            error: UpstreamError::Garbled,
            cause: Some(cause),
            connection,
            is_unwritten: conn.has_write_failed(),
        }
    }

    pub fn because(error: UpstreamError, cause: String) -> NoResponse {
        NoResponse { cause: Some(cause), ..error.into() }
    }
}
