//! What a client is told that is over a bound: 429 if it is its own (RFC 6585 §4), 503 if it is that of all (RFC 9110
//! §15.6.4).

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::proxy::Body;
use crate::shares::Over;

/// How long a refused client may take to send its request, and then to read the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that are told at a time why they are refused, for each bound; more are closed without a word.
const TOLD: usize = 32;
/// How HTTP/2 begins (RFC 9113 §3.4): there is no answer in HTTP/1.1 to that.
const HTTP2: &[u8] = b"PRI";

/// Tells clients why they are refused.
#[derive(Debug)]
pub(super) struct Refuser {
    one: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Refuser {
    pub(super) fn new() -> Refuser {
        Refuser { one: Arc::new(Semaphore::new(TOLD)), all: Arc::new(Semaphore::new(TOLD)) }
    }

    /// Answers a connection that is over a bound, and closes it.
    pub(super) fn refuse(&self, stream: TcpStream, over: Over) {
        let turns = match over {
            Over::Client => &self.one,
            Over::All => &self.all,
        };
        let Ok(turn) = Arc::clone(turns).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE * 2, tell(stream, over)).await;
            drop(turn);
        });
    }
}

async fn tell(mut stream: TcpStream, over: Over) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    // A client does not expect an answer before it has asked.
    let first = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await??;
    if first == 0 || bytes.starts_with(HTTP2) {
        return Ok(());
    }
    stream.write_all(text(over).as_bytes()).await?;
    stream.shutdown().await?;
    // Bytes that nobody has read would reset the connection, and take the answer with them.
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
        Over::Client => r#"{"success":false,"error":"this client has as much at a time as one client may have"}"#,
        Over::All => r#"{"success":false,"error":"all clients together have as much at a time as there may be"}"#,
    }
}

/// An answer to a request on an HTTP/1.1 connection, which ends with it.
pub(super) fn text(over: Over) -> String {
    let (status, content) = (status(over), content(over));
    format!(
        "HTTP/1.1 {status}\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{content}",
        content.len()
    )
}

/// An answer to a request on an HTTP/2 stream. It has no content: that could not be sent to a client that gives no window,
/// and would keep the stream open.
pub(super) fn response(over: Over) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status(over);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
