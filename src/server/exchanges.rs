//! The requests and responses of one connection, as both the service above hyper and the stream below it need to know them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use http::StatusCode;

use crate::client_conn::interim::InterimQueue;

/// The exchanges of one connection.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    pub interim: Arc<InterimQueue>,
    /// Requests that hyper passed to the service, of any version.
    requests: AtomicU64,
    /// HTTP/1 requests that have their final responses.
    responses: AtomicU64,
    /// Whether the last response switched to another protocol.
    is_switched: AtomicBool,
    rejection: OnceLock<Rejection>,
}

/// A malformed request that hyper rejected. The connection ends with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rejection {
    pub status: u16,
    pub reason: &'static str,
}

impl Rejection {
    /// The response, as bytes of HTTP/1.1.
    pub fn message(&self) -> Vec<u8> {
        let phrase = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let body = serde_json::json!({ "success": false, "error": self.reason }).to_string();
        let date = httpdate::fmt_http_date(SystemTime::now());
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\nDate: {date}\r\n\r\n{body}",
            self.status,
            phrase.unwrap_or_default(),
            body.len(),
        )
        .into_bytes()
    }
}

impl Exchanges {
    /// Records that hyper passed a request to the service.
    pub fn note_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that hyper passed to the service.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Records a final response before any of it is written, and whether it switches to another protocol.
    pub fn note_response(&self, is_switched: bool) {
        self.is_switched.store(is_switched, Ordering::Relaxed);
        self.responses.fetch_add(1, Ordering::Release);
    }

    /// Number of final responses, and whether the last one switched to another protocol.
    pub fn responses(&self) -> (u64, bool) {
        (self.responses.load(Ordering::Acquire), self.is_switched.load(Ordering::Relaxed))
    }

    /// Records that hyper rejected a request.
    pub fn note_rejection(&self, rejection: Rejection) {
        let _ = self.rejection.set(rejection);
    }

    /// The request that hyper rejected.
    pub fn rejection(&self) -> Option<Rejection> {
        self.rejection.get().copied()
    }
}
