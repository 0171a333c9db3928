//! Where a running ring stands, found from its stamps alone.
//!
//! No word counts what was published. But the stamps of the slots, read from slot 0 on, are those of the newest lap
//! first and of the lap before behind them: a rotated sorted array. Bisection finds the seam in `log2(depth)` loads.

use crate::backend::{Backend, RingMemory, site};

/// The sequence after the newest message that is visible; 0 for a ring with none.
///
/// The ring may move meanwhile; then the result is a head that it had while this ran. Hostile stamps give a wrong
/// head, to nobody's harm but that of who reads this ring.
///
/// Bits `ignored` of a stamp do not count: [`REPLACED`](crate::memory::layout::REPLACED), where there may be such, so that a slot whose
/// header is being replaced counts as what it was.
pub(super) fn find<B: Backend>(ring: &B::Ring, ignored: u64) -> u64 {
    let depth = ring.depth();
    // ORDERING: acquire, as for any message: who starts below the head reads what these stamps cover.
    let stamp = |index: u64| B::load64(&ring.slot(index).commit, site::RECEIVE_COMMIT) & !ignored;
    let first = stamp(0);
    if first == 0 {
        return 0;
    }
    let (mut low, mut high) = (0, depth);
    let mut newest = first;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let seen = stamp(middle);
        let ahead = seen.wrapping_sub(first.wrapping_add(middle));
        if ahead == 0 {
            (low, newest) = (middle, seen);
        } else if seen != 0 && ahead < i64::MAX as u64 {
            // The ring has gone round meanwhile, and this stamp is its newest that was seen.
            return seen;
        } else {
            high = middle;
        }
    }
    newest
}
