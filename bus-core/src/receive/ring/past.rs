//! Receiving where the publisher may have gone past: look, protect, look again.
//!
//! Promises: what is handed out is protected, and the message that its sequence number says; what is passed over is counted. Each look is
//! bounded, whatever a ring says.

use super::{Refused, RingReader};
use crate::backend::{Backend, RingMemory, site};
use crate::memory::layout::NOWHERE;
use crate::receive::shield::Shield;

/// Messages that a look passes over before it says that there is nothing yet.
const STEPS: usize = 64;

impl<B: Backend> RingReader<B> {
    /// As [`poll_plain`](Self::poll_plain), where the publisher may have gone past.
    pub(super) fn poll_shielded(&self, shield: &Shield) -> Option<u64> {
        for _ in 0..STEPS {
            let sequence = self.next.get();
            let next = sequence.wrapping_add(1);
            let slot = self.ring.slot(sequence);
            // ORDERING: as in `poll`.
            let stamp = B::load64(&slot.commit, site::RECEIVE_COMMIT);
            if stamp != next && !shield.is_passed(stamp, next) {
                return self.nothing(None);
            }
            if self.lends_all() {
                return self.nothing(Some(Refused::Held));
            }
            if stamp != next || !shield.covers(sequence) {
                if let Err(refused) = self.slide(shield) {
                    return self.nothing(Some(refused));
                }
                if self.next.get() != sequence {
                    continue;
                }
                if stamp != next {
                    // A publisher raises its floor before it writes a later stamp: one without the other would be looked at for ever.
                    return self.nothing(Some(Refused::Broken));
                }
            }
            let Some(word) = self
                .where_it_lies(sequence)
                .filter(|_| shield.covers(sequence))
            else {
                continue;
            };
            self.next.set(next);
            if word >> 32 == u64::from(NOWHERE) {
                shield.lose(1);
                continue;
            }
            shield.hand_out(sequence);
            return Some(word);
        }
        self.nothing(None)
    }

    /// Place and length of a protected message whose stamp was seen; none where its slot's header is another's by now.
    #[inline(always)]
    pub(super) fn where_it_lies(&self, sequence: u64) -> Option<u64> {
        let slot = self.ring.slot(sequence);
        // ORDERING: acquire pairs with the publisher's `REPLACE_PLACE`: if this is the place of a newer message, the stamp is seen gone.
        let word = B::load64(&slot.place, site::RECEIVE_PLACE);
        // ORDERING: after the load above, by its acquire.
        let stamp = B::load64(&slot.commit, site::RELAXED);
        (stamp == sequence.wrapping_add(1)).then_some(word)
    }

    #[inline]
    pub(super) fn poll_window(&self, shield: &Shield) -> Option<u64> {
        let sequence = self.next.get();
        if !shield.covers(sequence) || self.lends_all() {
            return None;
        }
        let next = sequence.wrapping_add(1);
        // ORDERING: as in `poll_plain`.
        if B::load64(&self.ring.slot(sequence).commit, site::RECEIVE_COMMIT) != next {
            return None;
        }
        let somewhere = |word: &u64| *word >> 32 != u64::from(NOWHERE);
        let word = self.where_it_lies(sequence).filter(somewhere)?;
        self.next.set(next);
        shield.hand_out(sequence);
        Some(word)
    }

    /// Moves the window on, and past what was lost.
    fn slide(&self, shield: &Shield) -> Result<(), Refused> {
        let next = self.next.get();
        let slid = shield.slide::<B>(&self.ring, &self.reader, self.index, next);
        if shield.gates() {
            // Also where this subscriber was evicted: its window protects nothing more, and may have taken all the room.
            self.wake_publisher(site::SLIDE_WAKES);
        }
        self.next.set(slid?);
        Ok(())
    }

    #[inline]
    pub(super) fn release_shielded(&self, shield: &Shield, first: u64, end: u64) {
        let mut sequence = first;
        let mut room = false;
        while sequence != end {
            room |= shield.release::<B>(&self.reader, self.index, sequence);
            sequence = sequence.wrapping_add(1);
        }
        if room {
            self.wake_publisher(site::GIVE_BACK_WAKES);
        }
    }
}
