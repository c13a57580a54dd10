//! The access log's line of a response: written when its content has been passed to the client's connection.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{REFERER, USER_AGENT};
use http::uri::Authority;
use http::{Method, Response, StatusCode, request};
use http_body::{Body as _, Frame};

use super::body::ClientBodyError;
use super::{Body, RequestId, Telemetry};
use crate::access_log::{AccessEntry, TEXT_MAX, WORD_MAX, beginning, protocol, referer_of, text_of};
use crate::client;
use crate::logs;
use crate::outcome::Outcome;
use crate::running::Running;

/// What the access log says of a request that is under way.
pub(super) struct Unlogged {
    entry: AccessEntry,
    start: Instant,
    /// The length of the content, if it is known.
    length: Option<u64>,
}

impl Unlogged {
    /// `None` if there is no access log. `start`: when the request came.
    pub fn of(
        running: &Running,
        parts: &request::Parts,
        id: &RequestId,
        (peer, start): (IpAddr, Instant),
    ) -> Option<Box<Unlogged>> {
        if !logs::has_access(&running.config.log) {
            return None;
        }
        let (server, fields) = (&running.config.server, &parts.headers);
        let policy = server.forwarded_from(peer);
        let host = parts.uri.authority().map(Authority::as_str);
        let host = host.or_else(|| fields.get(http::header::HOST)?.to_str().ok());
        let entry = AccessEntry {
            method: beginning(parts.method.as_str(), WORD_MAX).to_owned(),
            path: beginning(parts.uri.path(), TEXT_MAX).to_owned(),
            host: beginning(host.unwrap_or_default(), WORD_MAX).to_owned(),
            client: Some(client::address(peer, policy, &server.trusted_proxies, fields).to_canonical()),
            protocol: protocol(parts.version),
            request_id: id.to_string(),
            user_agent: fields.get(USER_AGENT).map(|value| text_of(value, WORD_MAX)),
            referer: fields.get(REFERER).map(referer_of),
            ..AccessEntry::default()
        };
        Some(Box::new(Unlogged { entry, start, length: None }))
    }

    /// Adds what happened. `took`: until the head of the response was ready.
    pub fn answered(&mut self, outcome: &Outcome, cache_status: &str, family: &str, took: Duration) {
        self.entry.family = family.to_owned();
        self.entry.outcome = outcome.kind.label();
        self.entry.cache_status = beginning(cache_status, TEXT_MAX).to_owned();
        self.entry.invalidated.clone_from(&outcome.invalidated);
        self.entry.micros = micros(took);
    }

    /// Writes the line: now, if all of the content is there or there is none, else when it ends.
    pub fn log(
        mut self: Box<Unlogged>,
        response: Response<Body>,
        telemetry: Option<&Arc<Telemetry>>,
    ) -> Response<Body> {
        let status = response.status();
        self.entry.status = status.as_u16();
        self.entry.upstream_micros = telemetry.and_then(|telemetry| telemetry.upstream_micros());
        let has_no_content = self.entry.method == Method::HEAD.as_str()
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let known = match response.body() {
            _ if has_no_content => Some(0),
            Body::Empty => Some(0),
            Body::Whole(bytes) => Some(bytes.len()),
            Body::Cut(_, part) => Some(part.len()),
            _ => None,
        };
        match known {
            Some(length) => {
                self.entry.bytes = length as u64;
                self.end(true);
                response
            }
            None => {
                self.length = response.body().size_hint().exact();
                response.map(|body| Body::Logged(Box::new(LoggedBody { body, unlogged: Some(self) })))
            }
        }
    }

    /// Whether all of the content has been passed on, as far as its length is known.
    fn is_whole(&self) -> bool {
        self.length == Some(self.entry.bytes)
    }

    fn end(mut self: Box<Unlogged>, is_whole: bool) {
        self.entry.aborted = !is_whole;
        self.entry.total_micros = micros(self.start.elapsed());
        logs::write_access(&self.entry);
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// Content that is counted on its way to the client.
pub struct LoggedBody {
    pub(super) body: Body,
    /// `None` once the line is written.
    unlogged: Option<Box<Unlogged>>,
}

impl LoggedBody {
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let frame = ready!(self.body.poll_next(cx));
        let is_whole = match &frame {
            None => Some(true),
            Some(Err(_)) => Some(false),
            Some(Ok(frame)) => {
                if let (Some(unlogged), Some(data)) = (&mut self.unlogged, frame.data_ref()) {
                    unlogged.entry.bytes += data.len() as u64;
                }
                // A connection that knows the length does not poll after the last chunk.
                self.has_ended().then_some(true)
            }
        };
        if let Some(is_whole) = is_whole {
            self.end(is_whole);
        }
        Poll::Ready(frame)
    }

    fn has_ended(&self) -> bool {
        self.body.is_end_stream() || self.unlogged.as_ref().is_some_and(|unlogged| unlogged.is_whole())
    }

    fn end(&mut self, is_whole: bool) {
        if let Some(unlogged) = self.unlogged.take() {
            unlogged.end(is_whole);
        }
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        let has_ended = self.has_ended();
        self.end(has_ended);
    }
}

impl fmt::Debug for LoggedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoggedBody").field(&self.body).finish()
    }
}
