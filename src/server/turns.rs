//! Turns in reading long HTTP/1 request heads. hyper and Larder's scanners handle all bytes of a head that have arrived. If
//! thousands of connections did so at the same time, the tasks of all other connections would wait until they are done. So only
//! one reads on at a time, and lets all other tasks run before its turn passes to the next.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// The turns of all connections.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Semaphore>);

/// The turn of one connection. Ends when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    waiting: PollSemaphore,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting,
    /// It may read once, and then lets other tasks run.
    Reading(OwnedSemaphorePermit),
    /// It has read, and other tasks run.
    Read(#[expect(dead_code, reason = "released with the state")] OwnedSemaphorePermit),
}

impl Turns {
    pub fn new() -> Turns {
        Turns(Arc::new(Semaphore::new(1)))
    }

    /// A place in the queue.
    pub fn queue(&self) -> Turn {
        Turn { waiting: PollSemaphore::new(Arc::clone(&self.0)), state: State::Waiting }
    }
}

impl Turn {
    /// Waits for the next turn, in which the connection may read once.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The permit of a connection that has read is released here, so that others have their turn first.
        if let State::Reading(permit) = std::mem::replace(&mut self.state, State::Waiting) {
            // Behind all tasks that are ready.
            cx.waker().wake_by_ref();
            self.state = State::Read(permit);
            return Poll::Pending;
        }
        // The semaphore is never closed.
        if let Some(permit) = ready!(self.waiting.poll_acquire(cx)) {
            self.state = State::Reading(permit);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn poll(turn: &mut Turn) -> Poll<()> {
        turn.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn one_connection_reads_at_a_time_and_each_in_its_order() {
        let turns = Turns::new();
        let (mut reading, mut next, mut last) = (turns.queue(), turns.queue(), turns.queue());
        assert!(poll(&mut reading).is_ready());
        assert!(poll(&mut next).is_pending() && poll(&mut last).is_pending());
        // Other tasks run; then it waits behind the others.
        assert!(poll(&mut reading).is_pending() && poll(&mut next).is_pending());
        assert!(poll(&mut reading).is_pending());
        assert!(poll(&mut last).is_pending() && poll(&mut next).is_ready());
        drop(next);
        assert!(poll(&mut reading).is_pending() && poll(&mut last).is_ready());
        drop(last);
        assert!(poll(&mut reading).is_ready());
    }

    #[test]
    fn a_connection_that_is_alone_reads_again_after_other_tasks() {
        let mut turn = Turns::new().queue();
        let polls: Vec<_> = (0..4).map(|_| poll(&mut turn)).collect();
        assert_eq!(polls, [Poll::Ready(()), Poll::Pending, Poll::Ready(()), Poll::Pending]);
    }
}
