//! The bound on requests that upstream gets for one client alone.

use http::StatusCode;

use super::{Answered, ClientRequest, failed, refuse};
use crate::outcome::Fwd;
use crate::running::Running;
use crate::shares::{Over, Share};
use crate::upstream::UpstreamError;

/// Takes a client's share of the requests that are forwarded for one client alone. Without this bound a client that makes Larder forward
/// what the cache could answer, or what could be fetched once for many, would take upstream from all others.
pub(super) fn share(running: &Running, http: &ClientRequest) -> Result<Share, Box<Answered>> {
    running.unshared.take(http.sharer(running), 1).map_err(|over| {
        Box::new(match over {
            // RFC 6585 §4
            Over::Client => refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "client-share",
                "too many requests of this client that the cache cannot answer are under way",
            ),
            Over::All => failed(UpstreamError::Overloaded(Over::All), Fwd::Bypass),
        })
    })
}
