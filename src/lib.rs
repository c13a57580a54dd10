//! Larder: a caching reverse proxy whose cached responses are never older than the last acknowledged write that a
//! rule maps to them.

pub mod admin;
pub mod cache;
pub mod cli;
pub mod config;
pub mod entry;
pub mod headers;
pub mod key;
pub mod metrics;
pub mod outcome;
pub mod proxy;
pub mod rules;
pub mod running;
pub mod semantics;
pub mod server;
pub mod stamp;
pub mod store;
pub mod target;
pub mod upstream;
pub mod watch;
