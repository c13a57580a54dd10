//! Reads with content: QUERY (RFC 10008), and GET and HEAD whose content is not known to be empty.

use std::sync::Arc;

use http_body::Body as _;
use hyper::body::Incoming;

use super::cache_request::CacheRequest;
use super::decide::bypass;
use super::forward::pass;
use super::{Answered, ClientRequest, failed, read};
use crate::outcome::Fwd;
use crate::running::{Live, Running};
use crate::upstream::{RequestBody, UpstreamError};

/// Answers a QUERY: safe like GET, with content that is part of the key. Where no family names it, nothing is stored, and its
/// content need not be read first.
pub(super) async fn query(
    running: &Arc<Running>,
    live: Arc<Live>,
    http: ClientRequest,
    body: Incoming,
) -> Answered {
    if let Some(reason) = bypass(&live, &http) {
        return pass(running, &http, http.content(body), reason.fwd(), reason.label()).await;
    }
    // It is part of the key, unless it is too large for that.
    let most = running.config.server.max_query_body;
    let is_large = body.size_hint().lower() > most;
    let mut body = http.content(body);
    if !is_large && let Err(incomplete) = running.upstream.receive(http.sharer(running), &mut body, most).await {
        return refuse_content(incomplete);
    }
    // Trailers are discarded (RFC 9110 §6.5.1): they are no part of what is asked.
    match body.into_whole() {
        Ok(content) if content.len() as u64 <= most => {
            read::answer(running, Box::new(CacheRequest::new(live, http, Some(content)))).await
        }
        Ok(content) => pass(running, &http, RequestBody::Whole(content), Fwd::Bypass, "request-body").await,
        Err(body) => pass(running, &http, body, Fwd::Bypass, "request-body").await,
    }
}

/// Answers a GET or HEAD whose content is not known to be empty: an ordinary one if it turns out to be.
pub(super) async fn with_content(
    running: &Arc<Running>,
    live: &Arc<Live>,
    http: ClientRequest,
    body: Incoming,
) -> Answered {
    let has_length = body.size_hint().exact().is_some();
    let mut body = http.content(body);
    if !has_length && let Err(incomplete) = running.upstream.receive(http.sharer(running), &mut body, 0).await {
        return refuse_content(incomplete);
    }
    // Trailers are discarded (RFC 9110 §6.5.1).
    let body = match body.into_whole() {
        Ok(content) if content.is_empty() => {
            return match bypass(live, &http) {
                Some(reason) => pass(running, &http, RequestBody::Empty, reason.fwd(), reason.label()).await,
                None => read::answer(running, Box::new(CacheRequest::new(Arc::clone(live), http, None))).await,
            };
        }
        Ok(content) => RequestBody::Whole(content),
        Err(body) => body,
    };
    pass(running, &http, body, Fwd::Bypass, "request-body").await
}

/// The answer where the content did not come. Upstream was not asked.
fn refuse_content(incomplete: UpstreamError) -> Answered {
    let mut answered = failed(incomplete, Fwd::Method);
    answered.outcome.fwd = None;
    answered
}
