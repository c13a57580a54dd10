//! What an entry takes of the memory, and how often a hit allocates: by an allocator that counts, and is that of the process
//! otherwise. So these tests have a process of their own.

#![allow(clippy::unwrap_used, reason = "in a test an unexpected error may end it")]

mod allocator;
mod bodies;
mod entries;
mod hits;
mod server;

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;
