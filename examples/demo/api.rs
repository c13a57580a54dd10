//! The sample hotel on a socket. Every response says when it was made and how many writes came before, so that one
//! sees whether it was made anew or came from a cache.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

use crate::hotel::{Answer, Caller, Hotel};

/// The largest request body that is read, bytes.
const MAX_BODY: usize = 64 * 1024;

struct Api {
    /// Guards the hotel; held while an answer is decided, never across an await.
    hotel: Mutex<Hotel>,
    responses: AtomicU64,
}

/// Serves a new hotel until the future is dropped.
pub async fn serve(listener: TcpListener) {
    let api = Arc::new(Api { hotel: Mutex::new(Hotel::new()), responses: AtomicU64::new(0) });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely; some become free.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let api = api.clone();
        let service = service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.respond(request).await) }
        });
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        // A client that breaks off is its own affair.
        tokio::spawn(async move { connection.await.ok() });
    }
}

impl Api {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let caller = authorization.and_then(Caller::of);
        let body = Limited::new(body, MAX_BODY).collect().await.map(Collected::to_bytes);
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or(""));
        let (answer, version) = {
            let mut hotel = self.hotel.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = match (caller, body) {
                (None, _) => Answer::refusal(
                    StatusCode::UNAUTHORIZED,
                    "send Authorization: Bearer clerk, manager or superadmin",
                ),
                (_, Err(_)) => Answer::refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB"),
                (Some(caller), Ok(body)) => hotel.answer(caller, &head.method, path, query, &body),
            };
            (answer, hotel.version())
        };
        tracing::info!(target: "hotel", status = answer.status.as_u16(), version, "{} {}", head.method, head.uri);
        tokio::time::sleep(answer.work).await;
        self.dress(answer, version)
    }

    /// Number, time and version make a response made anew look different from a cached one.
    fn dress(&self, mut answer: Answer, version: u64) -> Response<Full<Bytes>> {
        let number = self.responses.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(fields) = answer.body.as_object_mut() {
            fields.entry("success").or_insert(json!(true));
            fields.insert("version".to_owned(), json!(version));
            let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            fields.insert("generated_at".to_owned(), json!(now));
        }
        let mut response = Response::new(Full::new(Bytes::from(format!("{}\n", answer.body))));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-generated", HeaderValue::from(number));
        if answer.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    fn get(path: &str, token: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn responses_are_numbered_and_show_the_writes_before_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener));
        let first = exchange(address, &get("/v1.0/user/details/1", "manager")).await;
        assert!(first.starts_with("HTTP/1.1 200") && first.contains("x-generated: 1\r\n"), "{first}");
        assert!(first.contains(r#""version":0"#) && first.contains(r#""points":1200"#), "{first}");
        let write = "POST /v1.0/points/add HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer manager\r\n\
                     Connection: close\r\nContent-Length: 27\r\n\r\n{\"user_id\": 1, \"points\": 5}";
        let written = exchange(address, write).await;
        assert!(written.starts_with("HTTP/1.1 200"), "{written}");
        let second = exchange(address, &get("/v1.0/user/details/1", "manager")).await;
        assert!(second.contains("x-generated: 3\r\n") && second.contains(r#""version":1"#), "{second}");
        assert!(second.contains(r#""points":1205"#), "{second}");
        let stranger = exchange(address, &get("/v1.0/users", "nobody")).await;
        assert!(
            stranger.starts_with("HTTP/1.1 401") && stranger.contains("www-authenticate: Bearer"),
            "{stranger}"
        );
        server.abort();
    }
}
