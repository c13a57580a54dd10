//! The content of one request on its way from the client to upstream: whether upstream may have received all of it, and how
//! it ended otherwise. A message that ends before its length, or without its last chunk, is incomplete (RFC 9112 §8), and
//! upstream must treat it so: the request has not happened.
//!
//! A client that expects `100-continue` is asked for nothing before upstream wants it (RFC 9110 §10.1.1): upstream says
//! so, with a 100, or has not said anything for a while, which servers that do not know of it never will. Until then a
//! final answer can reach the client before it has sent anything.
//!
//! An answer that comes before the end of the content is read to its end, whatever becomes of the content meanwhile. The request
//! is under way until both have ended.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

/// Why a content did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadFault {
    /// The client sent less than `upload_rate`.
    #[error("the client sends its content too slowly")]
    Slow,
    /// The client left, reset its stream, or sent a faulty chunk.
    #[error("the client's content broke off")]
    Broken,
    /// It waited for a 100, and the final answer came first.
    #[error("upstream answered without the content")]
    Unwanted,
    /// Larder no longer waits for an answer.
    #[error("the request was given up")]
    GivenUp,
}

/// How far a content has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// It waits for a 100.
    Held,
    #[default]
    Sending,
    /// The last of it may have been written to upstream's connection.
    Whole,
    /// It ended before; the last of it is never written.
    Failed(UploadFault),
}

/// How far the final answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Reading {
    #[default]
    Awaited,
    /// It is being read: upstream's connection must not end yet.
    Begun,
    Over,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    answer: Reading,
    /// Wakes upstream's connection.
    waker: Option<Waker>,
}

/// The content of one request.
#[derive(Debug, Default)]
pub struct Upload {
    /// Guards how far content and answer have come, so that a content that was given up cannot be completed.
    state: Mutex<State>,
    /// It has ended.
    end: Notify,
}

impl Upload {
    /// Whether it is whole, or will never be.
    pub fn has_ended(&self) -> bool {
        matches!(self.lock().phase, Phase::Whole | Phase::Failed(_))
    }

    /// Waits until it is whole, or will never be.
    pub async fn ended(&self) {
        let mut end = pin!(self.end.notified());
        // It may end between the look and the wait.
        end.as_mut().enable();
        if !self.has_ended() {
            end.await;
        }
    }

    /// Whether upstream may have received all of it.
    pub fn is_whole(&self) -> bool {
        self.lock().phase == Phase::Whole
    }

    /// The content waits for a 100.
    pub(super) fn hold(&self) {
        self.lock().phase = Phase::Held;
    }

    /// The content may be sent, unless the final answer was first.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        if (state.phase, state.answer) == (Phase::Held, Reading::Awaited) {
            state.phase = Phase::Sending;
            state.wake();
        }
    }

    /// Ready when the content may be sent, or will not be.
    pub(super) fn poll_released(&self, cx: &Context<'_>) -> Poll<Result<(), UploadFault>> {
        let mut state = self.lock();
        match (state.phase, state.answer) {
            (Phase::Held, Reading::Over) => Poll::Ready(Err(UploadFault::Unwanted)),
            (Phase::Held, _) => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            (Phase::Failed(fault), _) => Poll::Ready(Err(fault)),
            (Phase::Sending | Phase::Whole, _) => Poll::Ready(Ok(())),
        }
    }

    /// Before the last of the content is written. An error if it must not be.
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

    /// The content ends here, unless it is whole. Gives why it has ended, if that was earlier.
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

    /// The last of it could not be written.
    pub(super) fn note_unwritten(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Whole {
            state.phase = Phase::Failed(UploadFault::GivenUp);
        }
    }

    /// Ready when upstream's connection may end: no answer is being read.
    pub(super) fn poll_unanswered(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        match state.answer {
            Reading::Begun => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Reading::Awaited | Reading::Over => Poll::Ready(()),
        }
    }

    /// The head of the final answer has come. Whether the content has not been asked for, or has not all been sent.
    pub(super) fn begin_answer(&self) -> Unsent {
        let mut state = self.lock();
        state.answer = Reading::Begun;
        match state.phase {
            Phase::Whole => Unsent::Nothing,
            Phase::Held => Unsent::All,
            Phase::Sending | Phase::Failed(_) => Unsent::Some,
        }
    }

    /// The final answer has been read, or is not wanted any more.
    pub(super) fn end_answer(&self) {
        let mut state = self.lock();
        state.answer = Reading::Over;
        state.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }
}

/// The content in the hands of who sends it. Dropped before it is whole, it is given up: nobody sends the rest.
#[derive(Debug, Default)]
pub(super) struct Sender(pub Arc<Upload>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.fail(UploadFault::GivenUp);
    }
}

/// What of a content had not been sent when its answer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsent {
    Nothing,
    Some,
    /// It was not asked for.
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
        upload.begin_answer();
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
    fn content_that_waits_for_a_100_is_sent_unless_the_answer_is_first() {
        const UNWANTED: Poll<Result<(), UploadFault>> = Poll::Ready(Err(UploadFault::Unwanted));
        let rows: [(Steps, Poll<Result<(), UploadFault>>); 6] = [
            (&[Upload::hold], Poll::Pending),
            (&[Upload::hold, Upload::release], Poll::Ready(Ok(()))),
            (&[Upload::hold, Upload::release, begin, Upload::end_answer], Poll::Ready(Ok(()))),
            (&[Upload::hold, begin], Poll::Pending),
            (&[Upload::hold, begin, Upload::release], Poll::Pending),
            (&[Upload::hold, begin, Upload::end_answer, Upload::release], UNWANTED),
        ];
        for (number, (steps, expected)) in rows.into_iter().enumerate() {
            let upload = after(steps);
            let found = upload.poll_released(&Context::from_waker(Waker::noop()));
            assert_eq!(found, expected, "row {number}");
        }
    }

    #[test]
    fn a_content_is_whole_or_given_up_whichever_is_first() {
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
    async fn a_content_ends_when_it_is_whole_or_will_never_be() {
        let ends: [fn(Sender); 3] = [|content| complete(&content.0), |content| break_off(&content.0), drop];
        for end in ends {
            let content = Sender::default();
            let upload = Arc::clone(&content.0);
            let mut ended = pin!(upload.ended());
            assert!(std::future::poll_fn(|cx| Poll::Ready(ended.as_mut().poll(cx))).await.is_pending());
            end(content);
            ended.await;
            upload.ended().await;
        }
    }

    #[test]
    fn an_answer_that_has_begun_is_read_to_its_end() {
        let rows: [(Steps, bool); 3] =
            [(&[break_off], true), (&[begin, break_off], false), (&[begin, break_off, Upload::end_answer], true)];
        for (number, (steps, may_end)) in rows.into_iter().enumerate() {
            let upload = after(steps);
            let found = upload.poll_unanswered(&Context::from_waker(Waker::noop()));
            assert_eq!(found.is_ready(), may_end, "row {number}");
        }
    }
}
