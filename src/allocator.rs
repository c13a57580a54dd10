//! The allocator of the process.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Least size of a block that comes from the system's allocator, bytes.
const LARGE: usize = 256 << 10;

/// mimalloc for small blocks, and the system's `mmap` and `munmap` for large ones, so that a freed body leaves no memory behind:
/// mimalloc would keep it for a second, or, told to map large blocks itself (`mi_option_arena_max_object_size`), give each an
/// address of its own and keep a page of its map of addresses for it.
///
/// mimalloc's feature `no_thp` is on: huge pages would take 20 MiB more for what a proxy allocates at its start.
pub struct Allocator;

impl Allocator {
    /// Makes the system's allocator map large blocks one by one. musl does so by itself; glibc raises its threshold with the
    /// blocks that it frees, unless it is set (mallopt(3)).
    pub fn prepare() {
        #[cfg(target_env = "gnu")]
        #[expect(unsafe_code, reason = "the threshold has no other interface")]
        // SAFETY: sets a number in the allocator's parameters, before other threads run.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE as libc::c_int);
        }
    }
}

fn is_small(size: usize) -> bool {
    size < LARGE
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: the layout of a block says which of the two allocators it came from, and both keep the contract of the trait.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { if is_small(layout.size()) { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe {
            if is_small(layout.size()) { MiMalloc.dealloc(block, layout) } else { System.dealloc(block, layout) }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe {
            if is_small(layout.size()) { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        match (is_small(layout.size()), is_small(new_size)) {
            (true, true) => return unsafe { MiMalloc.realloc(block, layout, new_size) },
            (false, false) => return unsafe { System.realloc(block, layout, new_size) },
            _ => {}
        }
        // SAFETY: the caller keeps `new_size`, rounded up to the alignment, within `isize`.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !moved.is_null() {
            unsafe {
                moved.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::LARGE;

    #[test]
    fn a_block_keeps_its_content_across_the_bound() {
        let mut block: Vec<u8> = (0..LARGE / 2).map(|n| n as u8).collect();
        let small = block.clone();
        block.reserve_exact(2 * LARGE);
        block.shrink_to_fit();
        assert_eq!(block, small);
    }

    #[test]
    fn a_zeroed_block_is_zero_on_both_sides_of_the_bound() {
        for size in [LARGE - 1, LARGE] {
            assert!(vec![0u8; size].iter().all(|&byte| byte == 0), "{size}");
        }
    }
}
