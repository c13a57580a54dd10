//! The bound on requests that ask upstream for themselves alone.

use http::StatusCode;

use super::{Answered, ClientRequest, failed, refuse};
use crate::outcome::Fwd;
use crate::running::Running;
use crate::shares::{Over, Share};
use crate::upstream::UpstreamError;

/// A client's share of what upstream is asked for one request alone: whoever can make the cache forward what it might have
/// answered, or fetched once for many, could otherwise take upstream from everybody else.
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
