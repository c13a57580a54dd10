//! What the proxies of a fleet tell each other through the store.

use std::time::Duration;

use crate::stamp::{Sequence, Stamp, Tag, Taken};

/// What a proxy tells of itself when it syncs.
#[derive(Debug, Clone)]
pub struct Membership {
    pub id: Box<str>,
    pub applied: Option<Stamp>,
    pub lease: Duration,
}

/// What a sync brought.
#[derive(Debug, Clone)]
pub struct Synced {
    pub stamp: Stamp,
    pub marks: Option<Vec<(Tag, Sequence)>>,
    pub due: Vec<Intent>,
}

/// A write under way.
#[derive(Debug, Clone)]
pub struct Intent {
    pub id: Box<str>,
    pub tags: Vec<Tag>,
}

/// A member that may hold a lease.
#[derive(Debug, Clone)]
pub struct Holder {
    pub id: Box<str>,
    pub lease: Duration,
    pub syncs: u64,
}

/// Who invalidates, and why.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cause<'a> {
    pub by: &'a str,
    pub intent: Option<&'a str>,
    pub again: Option<Duration>,
}

/// What an invalidation took, and who is to know of it.
#[derive(Debug, Clone)]
pub struct Invalidated {
    pub taken: Taken,
    pub holders: Vec<Holder>,
    pub epoch_age: Duration,
}

/// What comes on the fleet's channel.
#[derive(Debug, Clone)]
pub enum Message {
    Nudge { by: Box<str>, stamp: Stamp, previous: Sequence, tags: Option<Vec<Tag>> },
    Applied { id: Box<str>, stamp: Stamp },
}
