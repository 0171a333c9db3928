//! Asking the processor for memory that is about to be read, so that several lines come from another core at once and
//! not one after the other.
//!
//! Promises: no meaning for the protocol, and no fault, whatever the address: it is a hint. Where this code knows no such instruction,
//! nothing happens.

/// This line is read soon.
#[inline(always)]
pub(super) fn read(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
