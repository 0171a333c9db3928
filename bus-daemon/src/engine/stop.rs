//! The end of a broker that is told to stop.
//!
//! Promise: a broker that stops has sent everything that its sessions are still to be told, as far as their sockets have
//! room. The rings of publishers that have left are known to no other process until then.
//!
//! It does not wait for credit: a client reads its socket after the broker is gone, but its acknowledgements reach
//! nobody then.

use super::state::Engine;
use super::world::World;

impl<W: World> Engine<W> {
    /// Sends what waits for credit, and from now on waits for no credit.
    pub(crate) fn begin_to_stop(&mut self) {
        #[cfg(feature = "simulator")]
        if self.planted == Some(crate::simulator::Planted::UnsentAtStop) {
            return;
        }
        self.stopping = true;
        let starved = std::mem::take(&mut self.starved);
        self.feed(starved);
        debug_assert!(self.starved.is_empty(), "nothing waits for credit now");
    }

    /// Whether a session is still to be told something that can be sent later.
    pub(crate) fn has_unsent(&self) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|session| !session.over && session.outbox.blocked.is_some())
    }
}
