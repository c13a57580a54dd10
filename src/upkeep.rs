//! Work beside requests: removing invalidated entries from Redis ([`sweeper`]), the most frequent reads for prefetches ([`hot`]), the
//! requests of each URL for `adaptive_ttl` ([`request_rates`]), the family of an entry for statistics ([`names`]), writes that no
//! rule matches ([`unmatched`]), counts of the last hour ([`history`]), when an alert is raised ([`alerts`]), and the state of warming
//! ([`warming`]) with the reads of each hour ([`hours`]).

pub mod alerts;
pub mod history;
pub mod hot;
pub mod hours;
pub mod names;
pub mod request_rates;
pub mod sweeper;
pub mod unmatched;
pub mod unresolved;
pub mod warming;
