//! The transfer of request content from the client to upstream: whether upstream may have received all of it, or why not. A
//! message that ends before its length, or without its last chunk, is incomplete (RFC 9112 §8): upstream must not act on it.
//!
//! Content behind `Expect: 100-continue` is requested from the client only when upstream sends a 100 (RFC 9110 §10.1.1), or
//! has sent nothing for a while, as servers that do not support it never do. Until then the final response can reach the
//! client before it has sent any content.
//!
//! A response that begins before the end of the content is read to its end, whatever happens to the content meanwhile. The
//! request is in progress until both have ended.
//!
//! A write has happened only if upstream may have received all of it. Either the last of its content is handed to upstream's
//! connection, or the write is aborted, whichever comes first; content that was aborted is never completed. A response that
//! comes before is treated like any other.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

/// Why content is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadFault {
    /// The client sent less than `upload_rate`.
    #[error("the client sends the request content too slowly")]
    Slow,
    /// The client disconnected, reset its stream, or sent a malformed chunk.
    #[error("the request content broke off")]
    Broken,
    /// It waited for a 100, and the final response ended first.
    #[error("upstream responded without the request content")]
    Unwanted,
    /// Larder no longer waits for the response.
    #[error("the request was aborted")]
    GivenUp,
}

/// The state of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// It waits for a 100.
    Held,
    #[default]
    Sending,
    /// Its end may have been written to upstream's connection.
    Whole,
    /// It ended early; its end is never written.
    Failed(UploadFault),
}

/// The state of the final response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ResponsePhase {
    #[default]
    Awaited,
    /// It is being read: upstream's connection must stay open.
    Begun,
    Over,
}

#[derive(Debug, Default)]
struct UploadState {
    phase: Phase,
    response: ResponsePhase,
    /// Wakes the task of upstream's connection.
    waker: Option<Waker>,
}

/// The content of one request.
#[derive(Debug, Default)]
pub struct Upload {
    /// Guards the state of both, so that content that was aborted cannot become complete.
    state: Mutex<UploadState>,
    /// Notified when the content has ended.
    end: Notify,
}

impl Upload {
    /// Whether the content has ended: it is whole, or will never be.
    pub fn has_ended(&self) -> bool {
        matches!(self.lock().phase, Phase::Whole | Phase::Failed(_))
    }

    /// Waits until the content has ended.
    pub async fn ended(&self) {
        let mut end = pin!(self.end.notified());
        // It may end between the check and the wait.
        end.as_mut().enable();
        if !self.has_ended() {
            end.await;
        }
    }

    /// Whether upstream may have received all of the content.
    pub fn is_whole(&self) -> bool {
        self.lock().phase == Phase::Whole
    }

    /// Holds the content back until [`Upload::release`].
    pub(super) fn hold(&self) {
        self.lock().phase = Phase::Held;
    }

    /// Lets the content be sent, unless the final response has begun.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        if (state.phase, state.response) == (Phase::Held, ResponsePhase::Awaited) {
            state.phase = Phase::Sending;
            state.wake();
        }
    }

    /// Ready when the content may be sent, or never will be.
    pub(super) fn poll_released(&self, cx: &Context<'_>) -> Poll<Result<(), UploadFault>> {
        let mut state = self.lock();
        match (state.phase, state.response) {
            (Phase::Held, ResponsePhase::Over) => Poll::Ready(Err(UploadFault::Unwanted)),
            (Phase::Held, _) => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            (Phase::Failed(fault), _) => Poll::Ready(Err(fault)),
            (Phase::Sending | Phase::Whole, _) => Poll::Ready(Ok(())),
        }
    }

    /// Marks the content as whole, before its end is written. Fails if the end must not be written.
    pub(super) fn complete(&self) -> Result<(), UploadFault> {
        let mut state = self.lock();
        match state.phase {
            Phase::Failed(fault) => Err(fault),
            Phase::Held | Phase::Sending | Phase::Whole => {
                state.phase = Phase::Whole;
                self.end.notify_waiters();
                Ok(())
            }
        }
    }

    /// Ends the content early, unless it is whole. Returns the earlier fault, if it had ended early before.
    pub(super) fn fail(&self, fault: UploadFault) -> Option<UploadFault> {
        let mut state = self.lock();
        match state.phase {
            Phase::Failed(earlier) => Some(earlier),
            Phase::Whole => None,
            Phase::Held | Phase::Sending => {
                state.phase = Phase::Failed(fault);
                state.wake();
                self.end.notify_waiters();
                None
            }
        }
    }

    /// Records that the end of the content could not be written.
    pub(super) fn note_unwritten(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Whole {
            state.phase = Phase::Failed(UploadFault::GivenUp);
        }
    }

    /// Ready when upstream's connection may end: no response is being read.
    pub(super) fn poll_not_responding(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        match state.response {
            ResponsePhase::Begun => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            ResponsePhase::Awaited | ResponsePhase::Over => Poll::Ready(()),
        }
    }

    /// Records the head of the final response. Returns how much of the content has not been sent.
    pub(super) fn begin_response(&self) -> Unsent {
        let mut state = self.lock();
        state.response = ResponsePhase::Begun;
        match state.phase {
            Phase::Whole => Unsent::Nothing,
            Phase::Held => Unsent::All,
            Phase::Sending | Phase::Failed(_) => Unsent::Some,
        }
    }

    /// Records that the final response has been read, or is no longer wanted.
    pub(super) fn end_response(&self) {
        let mut state = self.lock();
        state.response = ResponsePhase::Over;
        state.wake();
    }

    fn lock(&self) -> MutexGuard<'_, UploadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadState {
    fn wake(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// The sending side. Gives up the content if dropped before it is whole.
#[derive(Debug, Default)]
pub(super) struct UploadSender(pub Arc<Upload>);

impl Drop for UploadSender {
    fn drop(&mut self) {
        self.0.fail(UploadFault::GivenUp);
    }
}

/// How much of the content had not been sent when the response began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    Nothing,
    Some,
    /// It was never requested from the client.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    type Steps = &'static [fn(&Upload)];

    fn after(steps: Steps) -> Upload {
        let upload = Upload::default();
        steps.iter().for_each(|step| step(&upload));
        upload
    }

    fn begin(upload: &Upload) {
        upload.begin_response();
    }

    fn complete(upload: &Upload) {
        let _ = upload.complete();
    }

    fn break_off(upload: &Upload) {
        upload.fail(UploadFault::Broken);
    }

    fn give_up(upload: &Upload) {
        upload.fail(UploadFault::GivenUp);
    }

    #[test]
    fn content_that_waits_for_a_100_is_sent_unless_the_response_comes_first() {
        const UNWANTED: Poll<Result<(), UploadFault>> = Poll::Ready(Err(UploadFault::Unwanted));
        let rows: [(Steps, Poll<Result<(), UploadFault>>); 6] = [
            (&[Upload::hold], Poll::Pending),
            (&[Upload::hold, Upload::release], Poll::Ready(Ok(()))),
            (&[Upload::hold, Upload::release, begin, Upload::end_response], Poll::Ready(Ok(()))),
            (&[Upload::hold, begin], Poll::Pending),
            (&[Upload::hold, begin, Upload::release], Poll::Pending),
            (&[Upload::hold, begin, Upload::end_response, Upload::release], UNWANTED),
        ];
        for (number, (steps, expected)) in rows.into_iter().enumerate() {
            let upload = after(steps);
            let found = upload.poll_released(&Context::from_waker(Waker::noop()));
            assert_eq!(found, expected, "row {number}");
        }
    }

    #[test]
    fn content_is_whole_or_aborted_whichever_comes_first() {
        let rows: [(Steps, bool); 6] = [
            (&[], false),
            (&[complete], true),
            (&[complete, give_up], true),
            (&[give_up, complete], false),
            (&[break_off, complete], false),
            (&[complete, Upload::note_unwritten], false),
        ];
        for (number, (steps, expected)) in rows.into_iter().enumerate() {
            assert_eq!(after(steps).is_whole(), expected, "row {number}");
        }
        assert_eq!(after(&[give_up]).complete(), Err(UploadFault::GivenUp));
        assert_eq!(after(&[break_off]).fail(UploadFault::GivenUp), Some(UploadFault::Broken));
    }

    #[tokio::test]
    async fn content_ends_when_it_is_whole_or_will_never_be() {
        let ends: [fn(UploadSender); 3] = [|content| complete(&content.0), |content| break_off(&content.0), drop];
        for end in ends {
            let content = UploadSender::default();
            let upload = Arc::clone(&content.0);
            let mut ended = pin!(upload.ended());
            assert!(std::future::poll_fn(|cx| Poll::Ready(ended.as_mut().poll(cx))).await.is_pending());
            end(content);
            ended.await;
            upload.ended().await;
        }
    }

    #[test]
    fn the_connection_stays_open_while_a_response_is_read() {
        let rows: [(Steps, bool); 3] = [
            (&[break_off], true),
            (&[begin, break_off], false),
            (&[begin, break_off, Upload::end_response], true),
        ];
        for (number, (steps, may_end)) in rows.into_iter().enumerate() {
            let upload = after(steps);
            let found = upload.poll_not_responding(&Context::from_waker(Waker::noop()));
            assert_eq!(found.is_ready(), may_end, "row {number}");
        }
    }
}
