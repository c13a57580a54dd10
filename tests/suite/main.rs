//! Larder against real servers.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails at the line that says why")]

mod store_redis;
mod support;
