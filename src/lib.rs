//! Larder: a caching reverse proxy whose cached responses are never older than the last acknowledged write that a
//! rule maps to them.

pub mod cache;
pub mod metrics;
pub mod upstream;
// Pure: no tokio, hyper server, redis, clock or environment from `rules` downwards.
pub mod config;
pub mod entry;
pub mod headers;
pub mod key;
pub mod outcome;
pub mod rules;
pub mod semantics;
pub mod stamp;
pub mod store;
pub mod target;
