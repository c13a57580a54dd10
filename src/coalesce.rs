//! Coalescing: requests that need the same response share one fetch ([`inflight`]), whose body reaches all of them while it is
//! being stored ([`stream`]); with `collapse = "fleet"` the proxies of a fleet share it too ([`fleet_lock`]). Outside families
//! the shape of a path tells whether its responses can be shared ([`crate::upkeep::shapes`]).

pub mod body_budget;
pub mod fleet_lock;
pub mod inflight;
pub mod stored_body;
pub mod stream;
