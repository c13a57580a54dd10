//! Larder against real servers.

mod store_redis;
mod support;
