//! Interim responses (1xx, RFC 9110 §15.2) on their way from upstream to the client of an HTTP/1.1 connection.
//!
//! The server side of hyper knows one response to a request, so that they take a way of their own: the [`Line`] of a
//! connection holds what is to be written, and the connection writes it when nothing else is. Nothing else is while a
//! request waits for its answer and all that hyper had to write has gone out: only then is the line read, and the
//! answer waits until the line is empty. What comes for a request that has been answered is dropped.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use crate::http::headers;

/// The most that is kept for a client that does not read, bytes: interim responses beyond it are dropped.
const QUEUE: usize = 64 << 10;

/// What a connection has to write between two answers.
#[derive(Debug, Default)]
pub struct Line {
    /// Guards what is to be written and for whom.
    state: Mutex<State>,
    /// Requests that were passed on, in whatever version.
    calls: AtomicU64,
    /// Of them, those that have their answers, where these are of HTTP/1.
    answers: AtomicU64,
    /// The last answer switched to another protocol.
    is_switched: AtomicBool,
    refused: OnceLock<Refused>,
}

/// A request that was none, so that the connection ends.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    pub status: u16,
    pub reason: &'static str,
}

impl Refused {
    /// The answer.
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

#[derive(Debug, Default)]
struct State {
    /// Number of the request on the connection; what is sent for another one is dropped.
    request: u64,
    /// The request waits for its answer.
    open: bool,
    queue: Vec<u8>,
    /// Some of what was taken from the queue is still being written.
    in_hand: bool,
    /// Wakes the connection.
    waker: Option<Waker>,
}

/// Where the interim responses to one request go.
#[derive(Debug, Clone)]
pub struct Interim {
    line: Arc<Line>,
    request: u64,
}

impl Line {
    /// Runs what answers the next request of the connection, and lets it go on only when the interim responses have
    /// been written. `answer` is to be polled by the task that drives the connection.
    pub async fn answer<T, F: Future<Output = T>>(self: &Arc<Line>, answer: impl FnOnce(Interim) -> F) -> T {
        let interim = self.begin();
        let mut answering = std::pin::pin!(answer(interim));
        let answered = std::future::poll_fn(|cx| {
            let polled = answering.as_mut().poll(cx);
            // A hit is ready at once: nobody would wake it.
            if polled.is_pending() {
                self.wake_later(cx);
            }
            polled
        })
        .await;
        std::future::poll_fn(|cx| self.poll_end(cx)).await;
        answered
    }

    /// A request is passed on.
    pub fn note_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that were passed on.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// A request has its answer, of which nothing has been written; whether it switches to another protocol.
    pub fn note_answer(&self, is_switched: bool) {
        self.is_switched.store(is_switched, Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Release);
    }

    /// Requests that have their answers, and whether the last switched to another protocol.
    pub fn answers(&self) -> (u64, bool) {
        (self.answers.load(Ordering::Acquire), self.is_switched.load(Ordering::Relaxed))
    }

    /// A request is refused, and the connection ends.
    pub fn refuse(&self, refused: Refused) {
        let _ = self.refused.set(refused);
    }

    /// The request that was refused.
    pub fn refused(&self) -> Option<Refused> {
        self.refused.get().copied()
    }

    fn begin(self: &Arc<Line>) -> Interim {
        let mut state = self.lock();
        state.request += 1;
        state.open = true;
        Interim { line: Arc::clone(self), request: state.request }
    }

    fn wake_later(&self, cx: &Context<'_>) {
        let mut state = self.lock();
        match &state.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => state.waker = Some(cx.waker().clone()),
        }
        // It may have come between the poll and here.
        if !state.queue.is_empty() {
            cx.waker().wake_by_ref();
        }
    }

    /// Ready when all is written; from then on nothing more is taken.
    fn poll_end(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.queue.is_empty() && !state.in_hand {
            state.open = false;
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What is to be written now; the connection says with [`Line::written`] when it is.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            return None;
        }
        state.in_hand = true;
        Some(std::mem::take(&mut state.queue))
    }

    /// What was taken has been written.
    pub fn written(&self) {
        let mut state = self.lock();
        state.in_hand = false;
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interim {
    /// Sends an interim response with its end-to-end fields, unless the request has been answered.
    pub fn send(&self, status: StatusCode, fields: &HeaderMap) {
        let message = encode(status, fields);
        let mut state = self.line.lock();
        let is_waiting = state.open && state.request == self.request;
        if is_waiting && state.queue.len() + message.len() <= QUEUE {
            state.queue.extend(message);
            if let Some(waker) = &state.waker {
                waker.wake_by_ref();
            }
        }
    }
}

fn encode(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let mut fields = fields.clone();
    headers::strip_hop_by_hop(&mut fields);
    let reason = status.canonical_reason().unwrap_or("");
    let mut message = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in &fields {
        // RFC 9110 §8.6: there is no content to give a length of.
        if name == http::header::CONTENT_LENGTH {
            continue;
        }
        message.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    message.extend(b"\r\n");
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::fields;

    fn hints() -> HeaderMap {
        fields(&[("link", "</a>"), ("connection", "x-hop"), ("x-hop", "1"), ("content-length", "0")])
    }

    #[test]
    fn an_interim_response_has_its_end_to_end_fields() {
        let message = encode(StatusCode::EARLY_HINTS, &hints());
        assert_eq!(String::from_utf8(message).unwrap(), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    }

    #[tokio::test]
    async fn what_comes_for_an_answered_request_is_dropped() {
        let line = Arc::new(Line::default());
        let first = line.answer(|interim| async { interim }).await;
        first.send(StatusCode::EARLY_HINTS, &hints());
        assert_eq!(line.take(), None);
        line.answer(|_second| async { first.send(StatusCode::PROCESSING, &hints()) }).await;
        assert_eq!(line.take(), None);
    }

    #[tokio::test]
    async fn the_answer_waits_until_all_is_written() {
        let line = Arc::new(Line::default());
        let answering = line.answer(|interim| async move { interim.send(StatusCode::EARLY_HINTS, &hints()) });
        let mut answering = std::pin::pin!(answering);
        let mut poll = || {
            let mut cx = Context::from_waker(Waker::noop());
            answering.as_mut().poll(&mut cx).is_ready()
        };
        assert!(!poll());
        assert!(line.take().is_some());
        assert!(!poll(), "it has been taken, but not written");
        line.written();
        assert!(poll());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_cannot_fill_the_memory() {
        let line = Arc::new(Line::default());
        let filled = async |interim: Interim| {
            for _ in 0..10_000 {
                interim.send(StatusCode::PROCESSING, &hints());
            }
            line.take().unwrap_or_default().len()
        };
        let answering = line.answer(filled);
        tokio::pin!(answering);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(answering.as_mut().poll(&mut cx).is_pending());
        line.written();
        let Poll::Ready(length) = answering.as_mut().poll(&mut cx) else { panic!("all is written") };
        assert!((QUEUE - 100..=QUEUE).contains(&length), "{length}");
    }
}
