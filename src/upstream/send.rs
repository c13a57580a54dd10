//! Sends one request: on a pooled connection or a new one, with its timeouts, and once more where RFC 9112 §9.3.1 allows it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::conn::{self, UpstreamConn};
use super::error::{ConnectionFault, NoResponse};
use super::framing::Ending;
use super::response_body::BodyLimits;
use super::response_end::{ResponseEnd, RestOfUpload};
use super::upload::Unsent;
use super::{
    HostField, MinRate, Progress, RequestBody, ResponseBody, Upload, UploadFault, Upstream, UpstreamError,
    UpstreamPlace, address, cause, expects_continue, framing,
};
use crate::client::Client;
use crate::client_conn::interim::InterimSender;
use crate::http::headers;

/// Extension of a response whose request content was never asked for, or was not read to its end by an upstream that closes
/// the connection. The client's connection cannot be used again.
#[derive(Debug, Clone, Copy)]
pub struct ContentUnread;

/// The head of upstream's response, with what its body needs.
struct ReceivedResponse {
    response: Response<Incoming>,
    limits: BodyLimits,
    ends_with_connection: bool,
    end: Option<ResponseEnd>,
}

impl ReceivedResponse {
    fn into_response(self, place: UpstreamPlace) -> Response<ResponseBody> {
        let ReceivedResponse { response, limits, ends_with_connection, end } = self;
        response.map(|incoming| ResponseBody::new(incoming, limits, ends_with_connection, end, place))
    }
}

/// One attempt to send a request.
struct Attempt<'p> {
    place: &'p mut UpstreamPlace,
    is_repetition: bool,
}

impl Upstream {
    /// Sends a request and waits for the head of the response. A GET, HEAD or QUERY with its content in memory is repeated
    /// once, on a new connection, if a pooled one turned out to be closed before any part of the response arrived (RFC 9112
    /// §9.3.1), or if what arrived is no response. Interim responses go to `interim`. A 101 is accepted only if the request
    /// has `Upgrade`.
    pub async fn send(
        &self,
        client: Client,
        method: &Method,
        path_and_query: &str,
        headers: HeaderMap,
        mut body: RequestBody,
        interim: Option<InterimSender>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        self.receive_ahead(client, &headers, &mut body).await?;
        let place = self.place(client).await?;
        self.send_from(place, method, path_and_query, headers, body, interim).await
    }

    /// As [`Upstream::send`], with a place that the caller has taken.
    pub async fn send_from(
        &self,
        mut place: UpstreamPlace,
        method: &Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: RequestBody,
        interim: Option<InterimSender>,
    ) -> Result<Response<ResponseBody>, UpstreamError> {
        self.sent.fetch_add(1, Ordering::Relaxed);
        let is_repeatable = matches!(method.as_str(), "GET" | "HEAD" | "QUERY");
        let copy = body.copy().filter(|_| is_repeatable).map(|body| (headers.clone(), body));
        let first = {
            let attempt = Attempt { place: &mut place, is_repetition: false };
            self.send_once(attempt, method, path_and_query, headers, body, interim.clone())
        }
        .await;
        let received = match (first, copy) {
            (
                Err(NoResponse {
                    connection: fault @ (ConnectionFault::ClosedWhileIdle | ConnectionFault::Stray(_)),
                    ..
                }),
                Some((headers, body)),
            ) => {
                let attempt = Attempt { place: &mut place, is_repetition: true };
                // In a box: it is rare, and the first attempt's outcome is kept beside it.
                let second =
                    Box::pin(self.send_once(attempt, method, path_and_query, headers, body, interim)).await;
                // A valid response now shows that what arrived before was none.
                if let (Ok(_), ConnectionFault::Stray(stray)) = (&second, fault) {
                    self.pool.distrust(stray);
                }
                second
            }
            (Err(NoResponse { error, cause, connection, .. }), None) => {
                // Without a second attempt nothing shows whether it was one. The next request must not get it.
                if let ConnectionFault::Stray(stray) = connection {
                    self.pool.distrust(stray);
                }
                return Err(self.failed(error, cause));
            }
            (received, _) => received,
        };
        let received = received.map_err(|failure| self.failed(failure.error, failure.cause))?;
        let is_stream = received.limits.is_stream;
        let mut response = received.into_response(place);
        if is_stream {
            response.body_mut().become_stream().map_err(UpstreamError::TooManyStreams)?;
        }
        Ok(response)
    }

    /// Notes the failure for the log and the admin.
    fn failed(&self, error: UpstreamError, cause: Option<String>) -> UpstreamError {
        self.failures.note(error, cause);
        error
    }

    async fn send_once(
        &self,
        Attempt { place, is_repetition }: Attempt<'_>,
        method: &Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        mut body: RequestBody,
        interim: Option<InterimSender>,
    ) -> Result<ReceivedResponse, NoResponse> {
        let progress = match &body {
            RequestBody::Client(body) => Arc::clone(&body.progress),
            RequestBody::Empty | RequestBody::Whole(_) => Progress::new(),
        };
        // The wait for a place does not count as silence of upstream.
        progress.note();
        let upgrades = headers.contains_key(header::UPGRADE);
        if matches!(body, RequestBody::Empty) {
            // RFC 9110 §10.1.1: no 100-continue expectation without content.
            headers.remove(header::EXPECT);
        }
        set_length(&mut headers, &body);
        if let RequestBody::Client(body) = &mut body
            && body.rate.is_none()
        {
            body.rate = self.min_upload_rate();
        }
        let upload = body.upload();
        let expecting = match &mut body {
            RequestBody::Client(body) if expects_continue(&headers) => {
                body.hold();
                upload.clone()
            }
            _ => None,
        };
        let length = least_length(path_and_query, &headers, &body);
        let host = headers.get(header::HOST).cloned();
        let mut request = self.request(method, path_and_query, headers, body)?;
        let is_misframed = on_interim(&mut request, expecting, interim);
        // The timeouts run from the last part of the request that was sent.
        let mut exchange = pin!(self.exchange(request, length, is_repetition));
        let first = match self.stream_after < self.response_timeout {
            true => progress.within(self.stream_after, &mut exchange).await,
            false => None,
        };
        let outcome = match first {
            Some(outcome) => Some(outcome),
            None => {
                if self.stream_after < self.response_timeout {
                    // A long poll. If no place among the streams is free, it keeps the one it has.
                    let _ = place.become_stream();
                }
                progress.within(self.response_timeout, exchange).await
            }
        };
        let outcome = outcome.unwrap_or_else(|| {
            let timeout = humantime::format_duration(self.response_timeout);
            Err(NoResponse::because(
                UpstreamError::Timeout,
                format!("no response for {timeout} (upstream_timeout)"),
            ))
        });
        let (mut conn, mut response) = outcome.map_err(|failure| given_up(failure, upload.as_deref()))?;
        let unsent = upload.as_ref().map_or(Unsent::Nothing, |upload| upload.begin_response());
        let end = upload.map(|upload| {
            let rest = RestOfUpload { upload, progress, silence: self.silence, connection: conn.task() };
            ResponseEnd { rest, place: None }
        });
        let ending = Ending::of(method, response.status());
        // RFC 9112 §6.3. hyper does not check the lengths of responses without content.
        if let Some(fault) = fault_of(&mut response, ending, upgrades) {
            let failure = NoResponse::garbled(fault.to_owned(), &conn);
            return Err(given_up(failure, end.as_ref().map(|end| &*end.rest.upload)));
        }
        let is_read_by_http = !self.pool.is_tls() && matches!(*method, Method::GET | Method::HEAD);
        let requested = is_read_by_http.then_some(path_and_query);
        address::make_relative(response.headers_mut(), &self.addresses, host.as_ref(), requested);
        // RFC 9110 §10.1.1: a server that does not read the content says whether it closes the connection.
        let is_unread = unsent == Unsent::All || unsent == Unsent::Some && framing::closes(&response);
        if is_unread {
            response.extensions_mut().insert(ContentUnread);
        }
        conn.note_keep_alive(response.headers());
        if let Some(stray) = conn.end(ending, method, path_and_query) {
            self.pool.distrust(stray);
        }
        // A connection that is not put back is closed when the response has ended.
        let is_last = framing::announces_impossible_content(method, response.status(), response.headers());
        if !is_last && !is_misframed.load(Ordering::Relaxed) {
            self.pool.put(conn);
        }
        let ends_with_connection = ending == Ending::Content && headers::is_close_delimited(response.headers());
        let limits = self.limits(&response);
        Ok(ReceivedResponse { response, limits, ends_with_connection, end })
    }

    /// Sends a request of at least `length` bytes on a pooled connection, or on a new one, and waits for the head of its
    /// response.
    async fn exchange(
        &self,
        request: Request<RequestBody>,
        length: u64,
        is_repetition: bool,
    ) -> Result<(UpstreamConn, Response<Incoming>), NoResponse> {
        let pooled = if is_repetition { None } else { self.pool.take() };
        let Some(mut conn) = pooled else { return Box::pin(self.exchange_on_new(request, length)).await };
        let mut error = match conn.send(request).await {
            Ok(response) => return Ok((conn, response)),
            Err(error) => error,
        };
        let Some(request) = error.take_message() else {
            return Err(NoResponse::of(error.error(), length, &conn));
        };
        // hyper returns the request only if none of it was sent.
        if conn::is_stray(error.error())
            && let Some(stray) = conn.stray()
        {
            self.pool.distrust(stray);
        }
        Box::pin(self.exchange_on_new(request, length)).await
    }

    /// As [`Upstream::exchange`], on a new connection. Callers box the future: it is large and rare, and would enlarge every
    /// future that holds it.
    async fn exchange_on_new(
        &self,
        request: Request<RequestBody>,
        length: u64,
    ) -> Result<(UpstreamConn, Response<Incoming>), NoResponse> {
        let mut conn = self
            .pool
            .connect()
            .await
            .map_err(|error| NoResponse::because(UpstreamError::Unreachable, cause::of(&*error)))?;
        match conn.send(request).await {
            Ok(response) => Ok((conn, response)),
            Err(error) => Err(NoResponse::of(error.error(), length, &conn)),
        }
    }

    pub(super) fn min_upload_rate(&self) -> Option<MinRate> {
        (self.upload_rate > 0).then(|| MinRate::new(self.silence, self.upload_rate))
    }

    /// The minimum rate of the readers of one response body together.
    pub fn min_download_rate(&self) -> MinRate {
        MinRate::new(self.silence, self.download_rate)
    }

    fn limits(&self, response: &Response<Incoming>) -> BodyLimits {
        let is_event_stream = is_event_stream(response.headers());
        BodyLimits {
            is_stream: is_event_stream || response.status() == StatusCode::SWITCHING_PROTOCOLS,
            silence: if is_event_stream { self.stream_silence } else { self.silence },
            stream_after: self.stream_after,
            grace: self.silence,
            download_rate: self.download_rate,
        }
    }

    fn request(
        &self,
        method: &Method,
        path_and_query: &str,
        mut headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, UpstreamError> {
        if let HostField::Fixed(host) = &self.host {
            headers.insert(header::HOST, host.clone());
        }
        let path_and_query = PathAndQuery::try_from(path_and_query).map_err(|_| UpstreamError::Garbled)?;
        // Without this hyper would send a GET with content of unknown length as one without content (RFC 9112 §6.1).
        if body.size_hint().exact().is_none() {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = path_and_query.into();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Gives up the content of a request without a response: it can no longer become complete. If the content had failed before,
/// that is the reason for the missing response.
fn given_up(failure: NoResponse, upload: Option<&Upload>) -> NoResponse {
    let Some(upload) = upload else { return failure };
    if failure.is_unwritten {
        upload.note_unwritten();
    }
    match upload.fail(UploadFault::GivenUp) {
        Some(fault @ (UploadFault::Slow | UploadFault::Broken)) => UpstreamError::from(fault).into(),
        Some(UploadFault::Unwanted | UploadFault::GivenUp) | None => failure,
    }
}

/// Handles interim responses (RFC 9110 §15.2): an expected 100 releases the content, upon which hyper's server sends the
/// client its own 100; all others are forwarded. The flag that is returned is set if one announces content, which an interim
/// response cannot have.
fn on_interim(
    request: &mut Request<RequestBody>,
    expecting: Option<Arc<Upload>>,
    interim: Option<InterimSender>,
) -> Arc<AtomicBool> {
    let is_misframed = Arc::<AtomicBool>::default();
    let note = Arc::clone(&is_misframed);
    let method = request.method().clone();
    hyper::ext::on_informational(request, move |response| {
        if framing::announces_impossible_content(&method, response.status(), response.headers()) {
            note.store(true, Ordering::Relaxed);
        }
        match (&expecting, &interim) {
            (Some(upload), _) if response.status() == StatusCode::CONTINUE => upload.release(),
            (_, Some(interim)) => interim.send(response.status(), response.headers()),
            (_, None) => {}
        }
    });
    is_misframed
}

/// Why a response is ambiguous; `None` if it is not.
fn fault_of(response: &mut Response<Incoming>, ending: Ending, upgrades: bool) -> Option<&'static str> {
    if !headers::unify_length(response.headers_mut()) {
        return Some("its Content-Length is ambiguous");
    }
    let fields = response.headers();
    let chunked = fields.contains_key(header::TRANSFER_ENCODING);
    // RFC 9112 §6.3: both lengths are a sign of response splitting, "ought to be handled as an error". §6.1: a coding
    // other than chunked was not requested and would be lost. In a response without content the fields do not matter.
    if ending != Ending::Head && chunked && fields.contains_key(header::CONTENT_LENGTH) {
        return Some("it has both Content-Length and Transfer-Encoding");
    }
    if ending != Ending::Head && !headers::is_plainly_framed(fields) {
        return Some("it has a transfer coding that was not requested");
    }
    // RFC 9110 §15.2.2
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    (switches && !upgrades).then_some("it switches to a protocol that was not requested")
}

/// `Content-Length` states what is sent and nothing else: upstream would take the beginning of the next request for the rest of the
/// content. The content that a client streams has the framing that the client gave it.
fn set_length(headers: &mut HeaderMap, body: &RequestBody) {
    let length = match body {
        RequestBody::Client(_) => return,
        RequestBody::Empty => 0,
        RequestBody::Whole(content) => content.len(),
    };
    if length > 0 || headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Least length of a request, bytes.
fn least_length(path_and_query: &str, headers: &HeaderMap, body: &RequestBody) -> u64 {
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (path_and_query.len() + fields) as u64 + body.size_hint().lower()
}

fn is_event_stream(fields: &HeaderMap) -> bool {
    let media_type = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let essence = media_type.and_then(|value| value.split(|byte| *byte == b';').next()).unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
