//! What tests share: real servers to run against.

pub mod log;
pub mod redis;
