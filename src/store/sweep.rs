//! What the store does for its sweeper: a walk over all entries in small steps, and what came of the last one. Plain data;
//! [`super::Store`] has the calls.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How far a walk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkPosition {
    /// Which of the servers, in the order of the store's.
    pub node: usize,
    /// As the server told it; 0 at its beginning.
    pub cursor: u64,
}

/// One step of a walk.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// What was met. The same entry may be met twice in one walk.
    pub specimens: Vec<Specimen>,
    /// Where the next step begins; `None` at the end of the walk.
    pub next: Option<WalkPosition>,
}

/// An entry as it was met.
#[derive(Debug, Clone)]
pub struct Specimen {
    /// Its whole name in the store.
    pub name: Bytes,
    /// The text between `v1:` and the last `:` of its name.
    pub label: String,
    /// Length of its encoding.
    pub bytes: u64,
    /// The beginning of its encoding.
    pub beginning: Bytes,
}

/// An entry that is to go, if it is still the one that was judged.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Its whole name in the store.
    pub name: Bytes,
    /// With what its encoding begins.
    pub beginning: Bytes,
}

/// Entries of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    pub keys: u64,
    /// Length of their encodings.
    pub bytes: u64,
}

/// What a whole walk has found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KeyStats {
    /// The proxy that walked.
    pub by: String,
    /// What is kept, by family; without what was removed.
    pub families: BTreeMap<String, Kept>,
    /// Entries that were invalidated and were removed.
    pub removed: u64,
    /// Entries that cannot be read: of another version of Larder. They go when their time is over.
    pub unreadable: u64,
    /// How long the walk took, seconds.
    pub seconds: u64,
}

/// The last key statistics, and how long ago it was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Dated {
    pub key_stats: KeyStats,
    pub age: Duration,
}
