//! Copying out of memory that its owner, another process, may write at the same moment.
//!
//! Promises: each word is loaded once, and there is no reference to what is copied; whatever is written meanwhile, the copy holds
//! values that stay as they are. Which of its words are old and which are new is not said.

use std::ptr::NonNull;

use super::native::Word64;
use super::site::RELAXED;
use super::{Backend, Native};

/// Bytes of a word.
pub(crate) const WORD: usize = size_of::<u64>();

/// Copies `bytes` bytes and what is missing of the last word.
///
/// # Safety
/// Both sides are aligned to words and have as many whole words; they do not overlap. Nobody else uses `to`, and this process writes
/// nothing at `from` meanwhile.
pub(crate) unsafe fn out(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) {
    let from = from.cast::<Word64>();
    let to = to.cast::<u64>();
    for word in 0..bytes.div_ceil(WORD) {
        // SAFETY: the word is one of those that the caller promises; an atomic load may meet others' stores.
        let source = unsafe { from.add(word).as_ref() };
        // ORDERING: written before the message's stamp; what is written after that has no order that anybody relies on.
        let value = Native::load64(source, RELAXED);
        // SAFETY: as above, and nobody else uses it.
        unsafe { to.add(word).write(value) };
    }
}
