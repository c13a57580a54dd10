//! Work beside requests: removing invalidated entries from Redis ([`sweeper`]), the most frequent reads for prefetches ([`hot`]), the
//! family of an entry for statistics ([`names`]), and writes that no rule matches ([`unmatched`]).

pub mod hot;
pub mod names;
pub mod sweeper;
pub mod unmatched;
pub mod unresolved;
