//! The allocator of the process.

use std::alloc::{GlobalAlloc, Layout, System};

use libmimalloc_sys as mi;

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

/// Whether mimalloc's plain functions align a block as the layout asks (`MI_MAX_ALIGN_SIZE` in mimalloc's types.h). Its functions
/// for aligned blocks are slower, and allocate more than is asked for where the size is no power of two.
fn is_plain(layout: Layout) -> bool {
    layout.align() <= 16 && layout.align() <= layout.size()
}

#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
// SAFETY: the layout of a block says which of the two allocators it came from, and both keep the contract of the trait.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        unsafe {
            match is_small(size) {
                true if is_plain(layout) => mi::mi_malloc(size).cast(),
                true => mi::mi_malloc_aligned(size, align).cast(),
                false => System.alloc(layout),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { if is_small(layout.size()) { mi::mi_free(block.cast()) } else { System.dealloc(block, layout) } }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        unsafe {
            match is_small(size) {
                true if is_plain(layout) => mi::mi_zalloc(size).cast(),
                true => mi::mi_zalloc_aligned(size, align).cast(),
                false => System.alloc_zeroed(layout),
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let align = layout.align();
        match (is_small(layout.size()), is_small(new_size)) {
            (true, true) if is_plain(layout) && align <= new_size => {
                return unsafe { mi::mi_realloc(block.cast(), new_size).cast() };
            }
            (true, true) => return unsafe { mi::mi_realloc_aligned(block.cast(), new_size, align).cast() },
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
    use std::alloc::{GlobalAlloc, Layout};

    use super::{Allocator, LARGE};

    #[test]
    #[expect(unsafe_code, reason = "an allocator is unsafe to use")]
    fn blocks_of_all_sizes_are_aligned_and_keep_their_content() {
        for align in [1, 2, 4, 8, 16, 32, 64, 128, 4096] {
            for size in (1..64).chain([100, 1000, 1025, 1100, 5000, 70_000, LARGE - 1, LARGE]) {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the size is not 0, and each block is freed with its layout.
                unsafe {
                    let block = Allocator.alloc(layout);
                    assert!(
                        !block.is_null() && block.addr().is_multiple_of(align),
                        "{size} bytes aligned to {align}"
                    );
                    block.write_bytes(7, size);
                    let grown = Allocator.realloc(block, layout, size + 40);
                    assert!(
                        !grown.is_null() && grown.addr().is_multiple_of(align),
                        "{size} bytes aligned to {align}, grown"
                    );
                    assert!((0..size).all(|at| *grown.add(at) == 7));
                    Allocator.dealloc(grown, Layout::from_size_align(size + 40, align).unwrap());
                }
            }
        }
    }

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
