//! Whether the content of a request that expects `100-continue` is wanted (RFC 9110 §10.1.1): upstream says so, with a
//! 100, or has not said anything for a while, which servers that do not know of it never will. Until then nothing is
//! asked of the client, so that a final answer can reach it before it has sent anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What is known so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Word {
    #[default]
    Awaited,
    Given,
    /// There is a final answer, which is still being read: upstream's connection must not end yet.
    Answered,
    Refused,
}

/// Whether the content is wanted.
#[derive(Debug, Default)]
pub(super) struct Consent {
    /// Guards the word and who waits for it.
    state: Mutex<(Word, Option<Waker>)>,
}

impl Consent {
    /// The content may be sent.
    pub fn give(&self) {
        self.move_on(&[Word::Awaited], Word::Given);
    }

    /// The final answer begins. True if nobody has asked for the content before.
    pub fn answered(&self) -> bool {
        self.move_on(&[Word::Awaited], Word::Answered);
        self.lock().0 == Word::Answered
    }

    /// The final answer is over: if the content has not been asked for by now, it never will be.
    pub fn refuse(&self) {
        self.move_on(&[Word::Awaited, Word::Answered], Word::Refused);
    }

    /// True: send. False: give up.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        match state.0 {
            Word::Given => Poll::Ready(true),
            Word::Refused => Poll::Ready(false),
            Word::Awaited | Word::Answered => {
                state.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn move_on(&self, from: &[Word], to: Word) {
        let mut state = self.lock();
        if from.contains(&state.0) {
            state.0 = to;
            state.1.take().into_iter().for_each(Waker::wake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Word, Option<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Steps = &'static [fn(&Consent)];

    fn after(steps: Steps) -> Poll<bool> {
        let consent = Consent::default();
        steps.iter().for_each(|step| step(&consent));
        consent.poll(&Context::from_waker(Waker::noop()))
    }

    fn answered(consent: &Consent) {
        consent.answered();
    }

    #[test]
    fn the_first_word_stands() {
        let rows: [(Steps, Poll<bool>); 6] = [
            (&[], Poll::Pending),
            (&[Consent::give], Poll::Ready(true)),
            (&[Consent::give, answered, Consent::refuse], Poll::Ready(true)),
            (&[answered], Poll::Pending),
            (&[answered, Consent::give], Poll::Pending),
            (&[answered, Consent::refuse, Consent::give], Poll::Ready(false)),
        ];
        for (steps, expected) in rows {
            assert_eq!(after(steps), expected, "{} steps", steps.len());
        }
    }
}
