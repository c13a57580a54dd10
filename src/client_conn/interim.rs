//! Interim responses (1xx, RFC 9110 §15.2) on their way from upstream to the client of an HTTP/1.1 connection.
//!
//! hyper's server sends one response per request and no interim ones. So they go around it: upstream queues them with an
//! [`InterimSender`], and the connection's stream writes the queue when hyper has nothing to write. That is so while a
//! request waits for its final response and everything before it has been flushed; the final response waits until the queue
//! is empty. Interim responses to a request that has been answered are dropped.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, StatusCode};

use crate::http::headers;

/// Capacity of the queue, bytes. Interim responses beyond it are dropped.
const QUEUE: usize = 64 << 10;

/// The interim responses that a connection has yet to write.
#[derive(Debug, Default)]
pub struct InterimQueue(Mutex<InterimState>);

#[derive(Debug, Default)]
struct InterimState {
    /// Number of the current request on the connection.
    request: u64,
    /// Whether the current request waits for its final response.
    is_open: bool,
    queue: Vec<u8>,
    /// Bytes taken from the queue are still being written.
    is_writing: bool,
    /// Wakes the task that drives the connection.
    waker: Option<Waker>,
}

/// Sends interim responses to one request.
#[derive(Debug, Clone)]
pub struct InterimSender {
    queue: Arc<InterimQueue>,
    request: u64,
}

impl InterimQueue {
    /// Waits for the response to the current request, and until all interim responses have been written. To be polled by the
    /// task that drives the connection.
    pub async fn finish<T>(&self, responding: impl Future<Output = T>) -> T {
        let mut responding = std::pin::pin!(responding);
        let response = std::future::poll_fn(|cx| {
            let polled = responding.as_mut().poll(cx);
            if polled.is_pending() {
                self.register(cx);
            }
            polled
        })
        .await;
        std::future::poll_fn(|cx| self.poll_end(cx)).await;
        response
    }

    /// Begins the next request of the connection. Must be followed by [`InterimQueue::finish`] (a response that is awaited) or
    /// [`InterimQueue::end`] (one that is there).
    pub fn begin(self: &Arc<InterimQueue>) -> InterimSender {
        let mut state = self.lock();
        state.request += 1;
        state.is_open = true;
        InterimSender { queue: Arc::clone(self), request: state.request }
    }

    /// The current request has its response, without having waited for it. Interim responses that came meanwhile are dropped.
    pub fn end(&self) {
        let mut state = self.lock();
        state.is_open = false;
        state.queue.clear();
    }

    fn register(&self, cx: &Context<'_>) {
        let mut state = self.lock();
        match &state.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => state.waker = Some(cx.waker().clone()),
        }
        // Something may have been queued since the poll.
        if !state.queue.is_empty() {
            cx.waker().wake_by_ref();
        }
    }

    /// Ready when everything is written. From then on the request accepts no interim responses.
    fn poll_end(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.queue.is_empty() && !state.is_writing {
            state.is_open = false;
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes the bytes to write. The caller calls [`InterimQueue::note_written`] when they are written.
    pub fn take(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        if state.queue.is_empty() {
            return None;
        }
        state.is_writing = true;
        Some(std::mem::take(&mut state.queue))
    }

    /// Records that the bytes from [`InterimQueue::take`] have been written.
    pub fn note_written(&self) {
        let mut state = self.lock();
        state.is_writing = false;
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, InterimState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InterimSender {
    /// Queues an interim response with its end-to-end fields, unless the request has been answered.
    pub fn send(&self, status: StatusCode, fields: &HeaderMap) {
        let message = encode(status, fields);
        let mut state = self.queue.lock();
        let is_waiting = state.is_open && state.request == self.request;
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
        // RFC 9110 §8.6: no Content-Length in a 1xx response.
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
    async fn interim_responses_to_an_answered_request_are_dropped() {
        let queue = Arc::new(InterimQueue::default());
        let first = queue.begin();
        queue.finish(async {}).await;
        first.send(StatusCode::EARLY_HINTS, &hints());
        assert_eq!(queue.take(), None);
        let second = queue.begin();
        queue.finish(async { first.send(StatusCode::PROCESSING, &hints()) }).await;
        assert_eq!(queue.take(), None);
        second.send(StatusCode::PROCESSING, &hints());
        let third = queue.begin();
        third.send(StatusCode::PROCESSING, &hints());
        queue.end();
        third.send(StatusCode::PROCESSING, &hints());
        assert_eq!(queue.take(), None);
    }

    #[tokio::test]
    async fn the_final_response_waits_until_all_interim_responses_are_written() {
        let queue = Arc::new(InterimQueue::default());
        let interim = queue.begin();
        let responding = queue.finish(async move { interim.send(StatusCode::EARLY_HINTS, &hints()) });
        let mut responding = std::pin::pin!(responding);
        let mut poll = || {
            let mut cx = Context::from_waker(Waker::noop());
            responding.as_mut().poll(&mut cx).is_ready()
        };
        assert!(!poll());
        assert!(queue.take().is_some());
        assert!(!poll(), "taken, but not written");
        queue.note_written();
        assert!(poll());
    }

    #[tokio::test]
    async fn the_queue_of_interim_responses_is_bounded() {
        let queue = Arc::new(InterimQueue::default());
        let interim = queue.begin();
        let filled = async {
            for _ in 0..10_000 {
                interim.send(StatusCode::PROCESSING, &hints());
            }
            queue.take().unwrap_or_default().len()
        };
        let responding = queue.finish(filled);
        tokio::pin!(responding);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(responding.as_mut().poll(&mut cx).is_pending());
        queue.note_written();
        let Poll::Ready(length) = responding.as_mut().poll(&mut cx) else { panic!("not ready") };
        assert!((QUEUE - 100..=QUEUE).contains(&length), "{length}");
    }
}
