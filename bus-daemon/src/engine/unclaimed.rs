//! Handles that a process presented and could not reclaim.
//!
//! Promise: one that is refused for now is presented again, and a subscriber that is refused for good may still read.
//! Nobody is told that such a member has left before its client has closed it, or its process is gone.

use bus_core::control::Role;

use super::refused::Refused;
use super::session::Unclaimed;
use super::state::Engine;
use super::world::World;
use crate::limits::MAX_HANDLES;

impl<W: World> Engine<W> {
    /// What became of a reclaim. A member that is refused for now is presented again, and a subscriber that is refused for
    /// good may still read: they have not departed.
    pub(crate) fn note_unclaimed(
        &mut self,
        session: u64,
        handle: u32,
        (id, role): (u64, Role),
        done: &Result<(), Refused>,
    ) {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return;
        };
        let fenced = match done {
            Ok(()) => {
                entry.unclaimed.remove(&handle);
                return;
            }
            Err(refused) => !refused.kind.may_pass(),
        };
        if (fenced && role == Role::Publisher) || entry.unclaimed.len() >= MAX_HANDLES {
            return self.give_up_unclaimed(session, handle);
        }
        entry.unclaimed.insert(handle, Unclaimed { id, fenced });
    }

    /// A handle that was not taken back reads no more, and is not presented again.
    pub(crate) fn give_up_unclaimed(&mut self, session: u64, handle: u32) {
        let Some(entry) = self.sessions.get_mut(&session) else {
            return;
        };
        if entry.unclaimed.remove(&handle).is_some()
            && !entry.returning
            && let Some(owner) = &entry.owner
        {
            let process = owner.process;
            self.process_is_here(process);
        }
    }
}
