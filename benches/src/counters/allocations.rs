//! An allocator that counts. The program installs it; a library test need not.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
#[derive(Debug)]
pub struct Counting;

/// Calls so far that asked for memory, of all threads. Stays 0 unless [`Counting`] is the
/// program's global allocator.
#[must_use]
pub fn count() -> u64 {
    // ORDERING: Relaxed: a plain statistic.
    COUNT.load(Ordering::Relaxed) as u64
}

fn add_one() {
    // ORDERING: Relaxed: a plain statistic.
    COUNT.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add_one();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add_one();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        add_one();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_counts_and_a_release_does_not() {
        let layout = Layout::new::<u64>();
        let before = count();
        // SAFETY: the layout has a size, and the block is released once with the same layout.
        unsafe {
            let block = Counting.alloc(layout);
            Counting.dealloc(block, layout);
        }
        assert_eq!(count() - before, 1);
    }
}
