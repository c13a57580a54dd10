//! Work beside requests: removing invalidated entries from Redis ([`sweeper`]), the most frequent reads for prefetches ([`hot`]), the
//! family of an entry for statistics ([`names`]), writes that no rule matches ([`unmatched`]), and the state of warming ([`warming`])
//! with the reads of each hour ([`hours`]).

pub mod hot;
pub mod hours;
pub mod names;
pub mod sweeper;
pub mod unmatched;
pub mod warming;
