//! Work beside requests: removing invalidated entries from Redis ([`sweeper`]), the most frequent reads for prefetches ([`hot`]), the
//! requests of each URL for `adaptive_ttl` ([`request_rates`]), the family of an entry for statistics ([`names`]), writes that no
//! rule matches ([`unmatched`]), which shapes of paths have responses that requests can share ([`shapes`]), counts of the last hour
//! ([`history`]), when an alert is raised ([`alerts`]), the state of warming ([`warming`]) with the reads of each hour ([`hours`]),
//! and what operators look at: the log of invalidations ([`invalidation_log`]), live events ([`events`]), what happened to a URL
//! ([`stories`]), what is missed most ([`top`]), and receipts of purges for deployments ([`deploys`]).

pub mod alerts;
pub mod bypasses;
pub mod deploys;
pub mod events;
pub mod history;
pub mod hot;
pub mod hours;
pub mod invalidation_log;
pub mod names;
pub mod request_rates;
pub mod shapes;
pub mod space_saving;
pub mod stories;
pub mod sweeper;
pub mod top;
pub mod unmatched;
pub mod unresolved;
pub mod warming;
