//! Work beside requests: removing invalidated entries from Redis ([`sweeper`]), the most frequent reads for prefetches ([`hot`]), the
//! family of an entry for statistics ([`names`]), writes that no rule matches ([`unmatched`]), counts of the last hour ([`history`]) and when
//! an alert is raised ([`alerts`]).

pub mod alerts;
pub mod history;
pub mod hot;
pub mod names;
pub mod sweeper;
pub mod unmatched;
