//! The access log's line of a response: written when its content has been passed to the client's connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{REFERER, USER_AGENT};
use http::uri::Authority;
use http::{Method, Response, StatusCode, request};
use http_body::Body as _;

use super::body::{ContentLog, LoggedBody};
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
                response.map(|body| Body::Logged(Box::new(LoggedBody::new(body, self))))
            }
        }
    }
}

impl ContentLog for Unlogged {
    fn add(&mut self, bytes: u64) {
        self.entry.bytes += bytes;
    }

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
