//! The content of a QUERY: read whole, since it is part of the key, unless it is too large for that.

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::config::Server;
use crate::upstream::RequestBody;

/// What came of reading a content.
pub(super) enum Collected {
    /// All of it.
    Whole(Bytes),
    /// It is larger than `max_query_body`: to be forwarded, with what was read of it.
    Begun(RequestBody),
}

/// The content did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unread {
    /// The client fell silent.
    #[error("the request's content did not come in time")]
    Stalled,
    /// The client broke off.
    #[error("the request's content broke off")]
    Broken,
}

/// What came of content whose length is not known.
pub(super) enum Begun {
    /// There is none.
    Nothing,
    /// There is some: to be forwarded, with what was read of it.
    Some(RequestBody),
}

/// Reads as much of a content as tells whether there is any; the longest silence is `idle_timeout`.
pub(super) async fn begin(mut body: Incoming, server: &Server) -> Result<Begun, Unread> {
    loop {
        match tokio::time::timeout(server.idle_timeout, body.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(chunk) if !chunk.is_empty() => return Ok(Begun::Some(RequestBody::begun(chunk, body))),
                // Trailers are discarded (RFC 9110 §6.5.1).
                Ok(_) | Err(_) => {}
            },
            Ok(None) => return Ok(Begun::Nothing),
            Ok(Some(Err(_))) => return Err(Unread::Broken),
            Err(_) => return Err(Unread::Stalled),
        }
    }
}

/// Reads a content of at most `max_query_body` bytes; the longest silence is `idle_timeout`.
pub(super) async fn collect(mut body: Incoming, server: &Server) -> Result<Collected, Unread> {
    let announced = body.size_hint().lower();
    let mut read = BytesMut::new();
    while announced <= server.max_query_body && read.len() as u64 <= server.max_query_body {
        match tokio::time::timeout(server.idle_timeout, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                // Trailers are discarded (RFC 9110 §6.5.1): they are no part of what is asked.
                frame.into_data().into_iter().for_each(|chunk| read.extend_from_slice(&chunk));
            }
            Ok(None) => return Ok(Collected::Whole(read.freeze())),
            Ok(Some(Err(_))) => return Err(Unread::Broken),
            Err(_) => return Err(Unread::Stalled),
        }
    }
    Ok(Collected::Begun(RequestBody::begun(read.freeze(), body)))
}
