//! `larder`: see [`larder::cli`].

use std::process::ExitCode;

use libmimalloc_sys::{mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_arena_max_object_size`: its number in `mimalloc.h` of mimalloc 3.
const ARENA_MAX_OBJECT_SIZE: mi_option_t = 45;

fn main() -> ExitCode {
    return_freed_memory();
    larder::cli::main()
}

/// Makes mimalloc allocate blocks of more than 256 KiB directly from the system, and return them when they are freed. In its
/// arenas they would stay for a second, and many large bodies in a row would take twice `[memory] capacity`.
#[expect(unsafe_code, reason = "mimalloc has no other interface to its options")]
fn return_freed_memory() {
    // SAFETY: stores a number at an index of the option table; mimalloc ignores an index out of range.
    unsafe { mi_option_set(ARENA_MAX_OBJECT_SIZE, 256) };
}
