//! Data of the calls about reads by the hour ([`super::Store`]): which reads were frequent in which hour, for `predict` in `[[warm]]`.

/// Hours since 1970, in UTC.
pub type Hour = u64;

/// Reads that are kept of one hour.
pub const KEPT: usize = 300;

/// How long they are kept, days.
pub const DAYS: u64 = 8;

/// Longest read that is taken from the store, bytes.
pub const LONGEST: usize = 8 << 10;
