//! Writes on their way to upstream, and what they will have invalidated if no answer comes: shutdown cannot wait for ever,
//! and a write whose answer nobody saw counts as carried out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use crate::marks::Tag;

/// Writes without an answer.
#[derive(Debug, Default)]
pub struct UnansweredWrites {
    /// Guards the writes and their numbering.
    writes: Mutex<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    next: u64,
    tags: HashMap<u64, Vec<Tag>>,
}

/// One write; dropping it says that its invalidations are done.
#[derive(Debug)]
pub struct Pending {
    unanswered: Arc<UnansweredWrites>,
    number: u64,
}

impl UnansweredWrites {
    /// A write that would invalidate `tags` is about to be forwarded.
    pub fn begin(self: &Arc<UnansweredWrites>, tags: Vec<Tag>) -> Pending {
        let mut writes = self.lock();
        let number = writes.next;
        writes.next += 1;
        writes.tags.insert(number, tags);
        Pending { unanswered: Arc::clone(self), number }
    }

    /// What all of them would invalidate.
    pub fn tags(&self) -> Vec<Tag> {
        let mut tags: Vec<Tag> = self.lock().tags.values().flatten().cloned().collect();
        tags.sort();
        tags.dedup();
        tags
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        // A panic while it was held leaves the map whole: every change is a single call.
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.unanswered.lock().tags.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_until_it_is_done() {
        let unanswered = Arc::new(UnansweredWrites::default());
        let (first, second) = (unanswered.begin(vec![Tag::family("a")]), unanswered.begin(vec![Tag::family("b")]));
        assert_eq!(unanswered.tags(), [Tag::family("a"), Tag::family("b")]);
        drop(first);
        assert_eq!(unanswered.tags(), [Tag::family("b")]);
        drop(second);
        assert!(unanswered.tags().is_empty());
    }
}
