//! `[memory]`: the size of L1.

use super::fields::{section, set};
use crate::rules::reader::Table;

settings! {
"memory":
/// `[memory]`
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    /// `capacity` of L1 in bytes, default 256MiB
    pub capacity: u64 = 256 << 20,
    /// `max_body`: the largest stored body in bytes, default 8MiB; a family can override it
    pub max_body: u64 = 8 << 20,
    /// `marks`: slots for the marks of tags that no entry in memory carries, default 262144 (8 bytes each)
    pub marks: usize = 1 << 18,
}
}

/// `[memory]`
pub fn read_memory(root: &mut Table<'_>) -> MemoryConfig {
    let mut memory = MemoryConfig::default();
    let Some(mut table) = section(root, "memory") else { return memory };
    set(&mut memory.capacity, table.read("capacity", |item| item.size(&(1 << 20..=1 << 50))));
    let asked = table.item("max_body");
    let max_body = asked.as_ref().and_then(|item| item.size(&(1..=1 << 40)));
    if let (Some(asked), Some(true)) = (asked, max_body.map(|size| size > memory.capacity)) {
        asked.fault("is larger than the capacity", "lower it, or raise capacity");
    }
    set(&mut memory.max_body, max_body);
    set(&mut memory.marks, table.read("marks", |item| item.integer(&(1024..=1 << 30))));
    table.finish();
    memory
}
