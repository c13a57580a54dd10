//! Data of the sweeper's calls ([`super::Store`]): a walk over all entries in small steps, and the result of the last walk.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Position in a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkPosition {
    /// Index of the server.
    pub node: usize,
    /// The server's `SCAN` cursor; 0 at the beginning.
    pub cursor: u64,
}

/// One step of a walk.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Entries found. A walk may find an entry twice.
    pub specimens: Vec<Specimen>,
    /// Where the next step begins; `None` at the end of the walk.
    pub next: Option<WalkPosition>,
    /// Whether every server that holds entries is connected: the entries of others are left out.
    pub is_whole: bool,
}

/// An entry that a walk found.
#[derive(Debug, Clone)]
pub struct Specimen {
    /// Its Redis key.
    pub name: Bytes,
    /// The text between the namespace and the digest in its name.
    pub label: String,
    /// Length of its encoding.
    pub bytes: u64,
    /// The first bytes of its encoding.
    pub beginning: Bytes,
}

/// An entry to remove unless it was replaced since it was judged.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Its Redis key.
    pub name: Bytes,
    /// The first bytes of its encoding.
    pub beginning: Bytes,
}

/// Number and size of the entries of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Kept {
    pub keys: u64,
    /// Length of their encodings.
    pub bytes: u64,
}

/// Result of a complete walk.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KeyStats {
    /// The proxy that walked.
    pub by: String,
    /// Entries by family, without the removed ones.
    pub families: BTreeMap<String, Kept>,
    /// Invalidated entries that were removed.
    pub removed: u64,
    /// Entries that cannot be decoded, such as those of another version of Larder. They expire.
    pub unreadable: u64,
    /// How long the walk took, seconds.
    pub seconds: u64,
}

/// The last key statistics and their age.
#[derive(Debug, Clone, PartialEq)]
pub struct Dated {
    pub key_stats: KeyStats,
    pub age: Duration,
}
