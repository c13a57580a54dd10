//! Writes that were forwarded and have no answer yet. Shutdown cannot wait for them for ever, and a write without an answer
//! counts as carried out: what it would have invalidated is invalidated.

use std::sync::Arc;

use hashbrown::HashMap;

use super::PendingInvalidations;
use crate::marks::Tag;

/// What writes without an answer would invalidate, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    next: u64,
    tags: HashMap<u64, Vec<Tag>>,
}

/// A write without an answer. Drop it when its invalidations are done.
#[derive(Debug)]
pub struct UnansweredWrite {
    pending: Arc<PendingInvalidations>,
    number: u64,
}

impl PendingInvalidations {
    /// A write that would invalidate `tags` is about to be forwarded.
    pub fn begin_write(self: &Arc<Self>, tags: Vec<Tag>) -> UnansweredWrite {
        let unanswered = &mut self.lock().unanswered;
        let number = unanswered.next;
        unanswered.next += 1;
        unanswered.tags.insert(number, tags);
        UnansweredWrite { pending: Arc::clone(self), number }
    }

    /// What all writes without an answer would invalidate; no tag twice.
    pub fn unanswered(&self) -> Vec<Tag> {
        let mut tags: Vec<Tag> = self.lock().unanswered.tags.values().flatten().cloned().collect();
        tags.sort();
        tags.dedup();
        tags
    }
}

impl Drop for UnansweredWrite {
    fn drop(&mut self) {
        self.pending.lock().unanswered.tags.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_unanswered_until_it_is_dropped() {
        let pending = Arc::new(PendingInvalidations::default());
        let (first, second) =
            (pending.begin_write(vec![Tag::family("a")]), pending.begin_write(vec![Tag::family("b")]));
        assert_eq!(pending.unanswered(), [Tag::family("a"), Tag::family("b")]);
        drop(first);
        assert_eq!(pending.unanswered(), [Tag::family("b")]);
        drop(second);
        assert!(pending.unanswered().is_empty());
    }
}
