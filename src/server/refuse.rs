//! Responses to clients over a limit: 429 for the client's own limit (RFC 6585 §4), 503 for the total (RFC 9110 §15.6.4).

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::proxy::Body;
use crate::shares::Over;

/// Longest time for a refused client to send its request, and then to read the response.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// Most refused connections that get a response at a time, for each limit; others are closed without one.
const ANSWERED: usize = 32;
/// First bytes of HTTP/2 (RFC 9113 §3.4), which an HTTP/1.1 response does not fit.
const HTTP2: &[u8] = b"PRI";

/// Sends responses to refused connections.
#[derive(Debug)]
pub(super) struct Refuser {
    one: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Refuser {
    pub(super) fn new() -> Refuser {
        Refuser { one: Arc::new(Semaphore::new(ANSWERED)), all: Arc::new(Semaphore::new(ANSWERED)) }
    }

    /// Responds on a connection over a limit, and closes it.
    pub(super) fn refuse(&self, stream: TcpStream, over: Over) {
        let permits = match over {
            Over::Client => &self.one,
            Over::All => &self.all,
        };
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(TIMEOUT * 2, respond(stream, over)).await;
            drop(permit);
        });
    }
}

async fn respond(mut stream: TcpStream, over: Over) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    // A client does not expect a response before its request.
    let first = tokio::time::timeout(TIMEOUT, stream.read(&mut bytes)).await??;
    if first == 0 || bytes.starts_with(HTTP2) {
        return Ok(());
    }
    stream.write_all(text(over).as_bytes()).await?;
    stream.shutdown().await?;
    // Unread bytes would make the kernel reset the connection, and the client would lose the response.
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}

fn status(over: Over) -> StatusCode {
    match over {
        Over::Client => StatusCode::TOO_MANY_REQUESTS,
        Over::All => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn content(over: Over) -> &'static str {
    match over {
        Over::Client => {
            r#"{"success":false,"error":"this client has reached its limit of connections, request heads or streams"}"#
        }
        Over::All => {
            r#"{"success":false,"error":"the server has reached its limit of connections, request heads or streams"}"#
        }
    }
}

/// The response on an HTTP/1.1 connection, which ends with it.
pub(super) fn text(over: Over) -> String {
    let (status, content) = (status(over), content(over));
    format!(
        "HTTP/1.1 {status}\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{content}",
        content.len()
    )
}

/// The response on an HTTP/2 stream. It has no content, which would keep the stream open if the client gives no window.
pub(super) fn response(over: Over) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status(over);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
