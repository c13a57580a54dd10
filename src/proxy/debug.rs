//! `Larder-Debug`: a client that sends an admin token in it gets the cause of an upstream failure in the body of the 502 or 504. Other
//! clients do not. The field is never sent to upstream, and is no part of a key.

use std::time::Instant;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderValue, Response};

use super::Body;
use crate::client::Client;
use crate::http::headers::LARDER_DEBUG;
use crate::running::Running;
use crate::tokens;
use crate::upstream::{LastFailure, UpstreamError};

/// A token that was sent, and its client.
pub(super) struct Debug {
    pub token: HeaderValue,
    pub client: Client,
}

/// Removes the field. Gives its value; none if there are several.
pub(super) fn take(fields: &mut HeaderMap) -> Option<HeaderValue> {
    let is_one = fields.get_all(LARDER_DEBUG).iter().count() == 1;
    fields.remove(LARDER_DEBUG).filter(|_| is_one)
}

impl Debug {
    /// Adds the latest failure of the same kind to a 502 or 504 of Larder's own, if the token is valid. For other responses the token
    /// is not checked. A client that has sent too many wrong tokens waits before this one is checked ([`tokens`]).
    pub async fn add_cause(self: Box<Self>, running: &Running, response: &mut Response<Body>) {
        let error = response.extensions_mut().remove::<UpstreamError>();
        let Some(failure) = error.and_then(|error| running.upstream.last_failure_of(error)) else { return };
        if running.tokens.is_empty() {
            return;
        }
        if running.debug_wrong_tokens.is_delayed(self.client, Instant::now()) {
            tokio::time::sleep(tokens::DELAY).await;
        }
        if self.is_known(running) {
            add(response, &failure);
        }
    }

    fn is_known(&self, running: &Running) -> bool {
        let role = self.token.to_str().ok().and_then(|token| running.tokens.role(token.trim()));
        let (wrong, now) = (&running.debug_wrong_tokens, Instant::now());
        if role.is_some() {
            wrong.note_right(self.client);
            return true;
        }
        running.metrics.admin_wrong_tokens.inc();
        wrong.note_wrong(self.client, now);
        if let Some(unlogged) = wrong.may_log(now) {
            tracing::warn!(unlogged, "a request with a token in Larder-Debug that is not known");
        }
        false
    }
}

fn add(response: &mut Response<Body>, failure: &LastFailure) {
    let Body::Whole(content) = response.body() else { return };
    let Ok(mut content) = serde_json::from_slice::<serde_json::Value>(content) else { return };
    content["last_failure"] = serde_json::json!(failure);
    *response.body_mut() = Body::Whole(Bytes::from(content.to_string()));
    // No cache may give it to others.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
