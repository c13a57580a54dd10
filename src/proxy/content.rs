//! Reads with content: QUERY (RFC 10008), a POST that a family reads by, and GET and HEAD whose content is not known to be empty.

use std::sync::Arc;
use std::time::Instant;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use http_body::Body as _;
use hyper::body::Incoming;

use super::cache_request::CacheRequest;
use super::decide::bypass;
use super::forward::pass;
use super::{Answered, ClientRequest, failed, read, write};
use crate::outcome::Fwd;
use crate::rules::post;
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
    if let Some(reason) = bypass(&live, &http, Instant::now()) {
        return pass(running, &http, http.content(body), reason.fwd(), reason.label()).await;
    }
    let (mut body, most) = (http.content(body), running.config.server.max_query_body);
    if let Err(incomplete) = receive_key(running, &http, &mut body).await {
        return refuse_content(incomplete);
    }
    answer_keyed(running, live, http, body, most).await
}

/// Answers a POST to a path that a family reads by POST: as a read, or as the write that its fields or its content make of it.
pub(super) async fn post(
    running: &Arc<Running>,
    live: Arc<Live>,
    http: ClientRequest,
    body: Incoming,
) -> Answered {
    let (mut body, most) = (http.content(body), running.config.server.max_query_body);
    let is_read = |content| post::is_read_as_sent(&http.headers, http.target.query.as_deref(), content);
    // Fields alone make it a write: its content need not be read first.
    if !is_read(Some(&[])) {
        return write::write(running, live, http, body).await;
    }
    if let Err(incomplete) = receive_key(running, &http, &mut body).await {
        return refuse_content(incomplete);
    }
    if !is_read(body.at_hand().filter(|content| content.len() as u64 <= most)) {
        return write::write(running, live, http, body).await;
    }
    if let Some(reason) = bypass(&live, &http, Instant::now()) {
        return pass(running, &http, body, reason.fwd(), reason.label()).await;
    }
    if is_multipart(&http.headers) {
        // Each client chooses a boundary of its own, so that hardly any two have the same key.
        return pass(running, &http, body, Fwd::Bypass, "request-body").await;
    }
    answer_keyed(running, live, http, body, most).await
}

/// Reads content that is part of the key, unless it is too large for that.
async fn receive_key(
    running: &Running,
    http: &ClientRequest,
    body: &mut RequestBody,
) -> Result<(), UpstreamError> {
    let most = running.config.server.max_query_body;
    match body.size_hint().lower() > most {
        true => Ok(()),
        false => running.upstream.receive(http.sharer(running), body, most).await,
    }
}

/// Answers a read whose content is part of the key; forwards it if there is more of it than `most` bytes.
async fn answer_keyed(
    running: &Arc<Running>,
    live: Arc<Live>,
    http: ClientRequest,
    body: RequestBody,
    most: u64,
) -> Answered {
    // Trailers are discarded (RFC 9110 §6.5.1): they are no part of what is asked.
    match body.into_whole() {
        Ok(content) if content.len() as u64 <= most => {
            read::answer(running, Box::new(CacheRequest::new(live, http, Some(content)))).await
        }
        Ok(content) => pass(running, &http, RequestBody::Whole(content), Fwd::Bypass, "request-body").await,
        Err(body) => pass(running, &http, body, Fwd::Bypass, "request-body").await,
    }
}

fn is_multipart(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes).trim_ascii();
    media_type.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/"))
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
            return match bypass(live, &http, Instant::now()) {
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
