//! What one client or one upstream can do to everybody else, tried on the real binary with raw sockets. One file per
//! kind of attack. While each attack runs, [`others`] measures what everybody else experiences.
//!
//! Attackers connect from 127.0.0.66 ([`attack::connect`]), everybody else from 127.0.0.1: Larder tells clients apart by
//! address.

#![allow(clippy::unwrap_used, reason = "in a test an unexpected error may end it")]

#[path = "../suite/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the suite")]
mod support;

mod attack;
mod others;

mod admin;
mod chunks;
mod connections;
mod descriptors;
mod forced;
mod heads;
mod http2;
mod idle;
mod logging;
mod memory;
mod queue;
mod slow_readers;
mod storms;
mod streams;
mod trickling_readers;
mod uploads;
mod upstreams;
mod writes;
