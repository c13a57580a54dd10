//! `larder`: see [`larder::cli`].

use std::process::ExitCode;

use libmimalloc_sys::{mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_disallow_arena_alloc`: its number in `mimalloc.h` of mimalloc 3.
const DISALLOW_ARENA_ALLOC: mi_option_t = 26;

fn main() -> ExitCode {
    return_freed_memory();
    larder::cli::main()
}

/// Has mimalloc give large blocks back to the system when they are freed. In its arenas they would stay for a second: under a
/// stream of large bodies the process would take twice `[memory] capacity`.
#[expect(unsafe_code, reason = "mimalloc has no other interface to its options")]
fn return_freed_memory() {
    // SAFETY: stores an integer at a valid index of the option table; an index out of range is ignored by mimalloc.
    unsafe { mi_option_set(DISALLOW_ARENA_ALLOC, 1) };
}
