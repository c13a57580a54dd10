//! The access log's line of a response: written when its content has been passed to the client's connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, REFERER, USER_AGENT};
use http::{HeaderValue, Method, Response, StatusCode, request};
use http_body::Body as _;

use super::body::{ContentLog, LoggedBody};
use super::{Body, Telemetry};
use crate::access_log::{AccessEntry, TEXT_MAX, WORD_MAX, beginning, protocol, referer_of, text_of};
use crate::client;
use crate::http::target::Target;
use crate::logs;
use crate::outcome::{Outcome, OutcomeKind};
use crate::running::Running;

/// What the access log says of a request that is under way. It shares the texts of the request, which a hit has until its line is written.
pub(super) struct Unlogged {
    method: Method,
    path: LoggedPath,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    client: IpAddr,
    protocol: &'static str,
    start: Instant,
    answered: Option<LoggedOutcome>,
    status: StatusCode,
    bytes: u64,
    upstream_micros: Option<u64>,
    /// The length of the content, if it is known.
    length: Option<u64>,
}

/// The path of a request, as received.
enum LoggedPath {
    Shared(Arc<Target>),
    /// Its beginning.
    Copied(Box<str>),
}

/// What happened to a request.
struct LoggedOutcome {
    family: Arc<str>,
    kind: OutcomeKind,
    cache_status: Option<HeaderValue>,
    request_id: HeaderValue,
    invalidated: Option<Box<str>>,
    /// Until the head of the response was ready.
    took: Duration,
}

impl Unlogged {
    /// `None` if there is no access log. `target`: `None` if the request is refused. `start`: when it came.
    pub fn of(
        running: &Running,
        parts: &request::Parts,
        target: Option<&Arc<Target>>,
        (peer, start): (IpAddr, Instant),
    ) -> Option<Box<Unlogged>> {
        if !logs::has_access() {
            return None;
        }
        let (server, fields) = (&running.config.server, &parts.headers);
        let policy = server.forwarded_from(peer);
        let host = match parts.uri.authority() {
            Some(authority) => {
                HeaderValue::from_str(beginning(without_userinfo(authority.as_str()), WORD_MAX)).ok()
            }
            None => fields.get(HOST).cloned(),
        };
        let path = match target {
            Some(target) => LoggedPath::Shared(Arc::clone(target)),
            None => LoggedPath::Copied(beginning(parts.uri.path(), TEXT_MAX).into()),
        };
        Some(Box::new(Unlogged {
            method: parts.method.clone(),
            path,
            host,
            user_agent: fields.get(USER_AGENT).cloned(),
            referer: fields.get(REFERER).cloned(),
            client: client::address(peer, policy, &server.trusted_proxies, fields).to_canonical(),
            protocol: protocol(parts.version),
            start,
            answered: None,
            status: StatusCode::OK,
            bytes: 0,
            upstream_micros: None,
            length: None,
        }))
    }

    /// Adds what happened. `took`: until the head of the response was ready.
    pub fn answered(
        &mut self,
        outcome: &Outcome,
        cache_status: Option<HeaderValue>,
        request_id: HeaderValue,
        (family, took): (&Arc<str>, Duration),
    ) {
        self.answered = Some(LoggedOutcome {
            family: Arc::clone(family),
            kind: outcome.kind,
            cache_status,
            request_id,
            invalidated: outcome.invalidated.clone(),
            took,
        });
    }

    /// Writes the line: now, if all of the content is there or there is none, else when it ends.
    pub fn log(
        mut self: Box<Unlogged>,
        response: Response<Body>,
        telemetry: Option<&Arc<Telemetry>>,
    ) -> Response<Body> {
        let status = response.status();
        self.status = status;
        self.upstream_micros = telemetry.and_then(|telemetry| telemetry.upstream_micros());
        let has_no_content = self.method == Method::HEAD
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
                self.bytes = length as u64;
                self.end(true);
                response
            }
            None => {
                self.length = response.body().size_hint().exact();
                response.map(|body| Body::Logged(Box::new(LoggedBody::new(body, self))))
            }
        }
    }

    /// Copies what the line has of the request. Otherwise the line would keep the whole head in memory while the request waits, and until its
    /// content has ended.
    pub fn detach(&mut self) {
        if let LoggedPath::Shared(target) = &self.path {
            self.path = LoggedPath::Copied(beginning(target.sent_path(), TEXT_MAX).into());
        }
        if self.method.as_str().len() > WORD_MAX {
            self.method = Method::from_bytes(&self.method.as_str().as_bytes()[..WORD_MAX]).unwrap_or_default();
        }
        for (value, most) in
            [(&mut self.host, WORD_MAX), (&mut self.user_agent, WORD_MAX), (&mut self.referer, TEXT_MAX)]
        {
            *value = value.take().and_then(|value| {
                let bytes = value.as_bytes();
                HeaderValue::from_bytes(&bytes[..bytes.len().min(most)]).ok()
            });
        }
    }

    fn write_line(&self, is_whole: bool) {
        // Every response is counted before its line is written.
        let Some(answered) = &self.answered else { return };
        let path = match &self.path {
            LoggedPath::Shared(target) => target.sent_path(),
            LoggedPath::Copied(path) => path,
        };
        logs::write_access(&AccessEntry {
            method: beginning(self.method.as_str(), WORD_MAX),
            path: beginning(path, TEXT_MAX),
            host: beginning(without_userinfo(ascii(self.host.as_ref())), WORD_MAX),
            client: Some(self.client),
            protocol: self.protocol,
            status: self.status.as_u16(),
            bytes: self.bytes,
            aborted: !is_whole,
            family: &answered.family,
            outcome: answered.kind.label(),
            cache_status: beginning(ascii(answered.cache_status.as_ref()), TEXT_MAX),
            invalidated: answered.invalidated.as_deref(),
            reason: None,
            request_id: ascii(Some(&answered.request_id)),
            micros: micros(answered.took),
            total_micros: micros(self.start.elapsed()),
            upstream_micros: self.upstream_micros,
            user_agent: self.user_agent.as_ref().map(|value| text_of(value, WORD_MAX)),
            referer: self.referer.as_ref().map(referer_of),
        });
    }
}

impl ContentLog for Unlogged {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    fn is_whole(&self) -> bool {
        self.length == Some(self.bytes)
    }

    fn end(self: Box<Self>, is_whole: bool) {
        self.write_line(is_whole);
    }
}

/// A value; empty if it is not printable ASCII.
fn ascii(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// An authority without what may be a password. A request with one is refused.
fn without_userinfo(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
