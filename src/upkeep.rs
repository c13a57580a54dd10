//! Work beside requests: the sweeper of the store ([`sweeper`]), the hottest entries for prefetches ([`hot`]), which family an
//! entry belongs to ([`names`]), and writes that no rule matches ([`unmatched`]).

pub mod hot;
pub mod names;
pub mod sweeper;
pub mod unmatched;
