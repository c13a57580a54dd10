//! mimalloc, as in the process, with counters.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libmimalloc_sys as mi;

/// Larger blocks come from the system in the process, and take what is asked for.
const LARGE: usize = 256 << 10;

thread_local! {
    /// Bytes of the blocks that a thread has allocated less those that it has freed.
    static BYTES: Cell<i64> = const { Cell::new(0) };
    static IS_LEFT_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Allocations of all threads that are not left out.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Bytes of the blocks that they were given, freed or not.
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

/// Bytes of the blocks that this thread has allocated less those that it has freed.
pub fn bytes() -> i64 {
    BYTES.get()
}

/// Allocations so far, of all threads that are not left out.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Relaxed)
}

/// Bytes of all blocks so far, freed or not, of all threads that are not left out.
pub fn allocated() -> u64 {
    ALLOCATED.load(Relaxed)
}

/// Held by a test that counts the allocations of all threads.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves the allocations of this thread out.
pub fn leave_out_this_thread() {
    IS_LEFT_OUT.set(true);
}

#[expect(unsafe_code, reason = "`libmimalloc_sys` declares it only with another feature")]
unsafe extern "C" {
    fn mi_usable_size(block: *const c_void) -> usize;
}

/// The allocator that counts.
pub struct Counting;

/// What a block takes, and not only what was asked for.
#[expect(unsafe_code, reason = "mimalloc is a C library")]
fn size(block: *mut u8, layout: Layout) -> i64 {
    let size = match layout.size() < LARGE {
        // SAFETY: mimalloc has allocated the block, and it is not freed yet.
        true => unsafe { mi_usable_size(block.cast()) },
        false => layout.size(),
    };
    size as i64
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: mimalloc keeps the contract of the trait.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // As the process's allocator does: mimalloc rounds up what it aligns.
        let block: *mut u8 = match layout.align() <= 16 && layout.align() <= layout.size() {
            true => unsafe { mi::mi_malloc(layout.size()).cast() },
            false => unsafe { mi::mi_malloc_aligned(layout.size(), layout.align()).cast() },
        };
        BYTES.set(BYTES.get() + size(block, layout));
        if !IS_LEFT_OUT.get() {
            ALLOCATIONS.fetch_add(1, Relaxed);
            ALLOCATED.fetch_add(layout.size() as u64, Relaxed);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - size(block, layout));
        unsafe { mi::mi_free(block.cast()) }
    }
}
