//! What keeps entries from being older than the last acknowledged write: the lease of this proxy and what it knows of the other
//! members ([`fleet`]), invalidations that Redis does not have yet ([`undelivered`]), that are to be repeated ([`delayed`]), and
//! writes that have no answer yet ([`unanswered`]).

pub mod clock;
pub mod delayed;
pub mod fleet;
pub mod unanswered;
pub mod undelivered;
