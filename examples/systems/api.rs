//! What the sample APIs have in common: a request and an answer as plain values, and the socket.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The largest request content, bytes.
const MAX_BODY: usize = 64 * 1024;

/// A request, as the samples look at it.
#[derive(Debug)]
pub struct Call {
    pub method: Method,
    /// Segments of the path: `/plans/7` is `["plans", "7"]`.
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    /// The bearer token.
    pub token: Option<String>,
    /// `If-None-Match`
    pub if_none_match: Option<String>,
    /// Its JSON content, or null.
    pub content: Value,
}

impl Call {
    /// Method and segments, to match on.
    pub fn route(&self) -> (&str, Vec<&str>) {
        let method = if self.method == Method::HEAD { "GET" } else { self.method.as_str() };
        (method, self.path.iter().map(String::as_str).collect())
    }

    /// The first value of a query parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The response to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    pub fields: Vec<(&'static str, String)>,
    /// How long the sample pretends to work on it.
    pub work: Duration,
}

impl Answer {
    /// 200 with this content.
    pub fn ok(body: Value) -> Answer {
        Answer { status: StatusCode::OK, body, fields: Vec::new(), work: Duration::ZERO }
    }

    /// An error.
    pub fn error(status: StatusCode, error: &str) -> Answer {
        Answer { status, ..Answer::ok(json!({ "error": error })) }
    }

    /// 404.
    pub fn not_found() -> Answer {
        Answer::error(StatusCode::NOT_FOUND, "there is no such thing")
    }

    /// The same after this work.
    #[must_use]
    pub fn after(self, milliseconds: u64) -> Answer {
        Answer { work: Duration::from_millis(milliseconds), ..self }
    }

    /// The same with another field.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.fields.push((name, value.into()));
        self
    }
}

/// A sample API.
pub trait Api: Send + 'static {
    /// Answers one request.
    fn answer(&mut self, call: &Call) -> Answer;
}

/// Serves the API until the future is dropped. Each response has the number of requests so far in `X-Request-Number`, so that
/// one sees whether it was made anew.
pub async fn serve(api: Box<dyn Api>, listener: TcpListener) {
    // The lock is held while an answer is decided, never across an await.
    let state = Arc::new(Mutex::new((api, 0_u64)));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Probably out of descriptors.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let state = Arc::clone(&state);
        let service = service_fn(move |request: Request<Incoming>| {
            let state = Arc::clone(&state);
            async move {
                let Some(call) = read(request).await else {
                    return Ok::<_, Infallible>(write(Answer::error(StatusCode::BAD_REQUEST, "unreadable"), 0));
                };
                let (answer, number) = {
                    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                    state.1 += 1;
                    (state.0.answer(&call), state.1)
                };
                tokio::time::sleep(answer.work).await;
                Ok(write(answer, number))
            }
        });
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { connection.await.ok() });
    }
}

async fn read(request: Request<Incoming>) -> Option<Call> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map(Collected::to_bytes).ok()?;
    let field = |name: HeaderName| head.headers.get(name)?.to_str().ok().map(str::to_owned);
    let token = field(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ").map(str::to_owned));
    let pairs = head.uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    };
    Some(Call {
        path: head.uri.path().trim_matches('/').split('/').map(str::to_owned).collect(),
        query: pairs.map(pair).collect(),
        token,
        if_none_match: field(http::header::IF_NONE_MATCH),
        content: serde_json::from_slice(&body).unwrap_or_default(),
        method: head.method,
    })
}

fn write(answer: Answer, number: u64) -> Response<Full<Bytes>> {
    let content = match answer.status {
        StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT => Bytes::new(),
        _ => Bytes::from(format!("{}\n", answer.body)),
    };
    let mut response = Response::new(Full::new(content));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-request-number", HeaderValue::from(number));
    for (name, value) in answer.fields {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}
