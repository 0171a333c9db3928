//! The end of a broker that is told to stop.
//!
//! Promise: a broker that stops has sent everything that its sessions are still to be told, as far as their sockets have
//! room. The rings of publishers that have left are known to no other process until then. For the same reason it waits
//! for the subscribers that a pattern is still to open in topics with messages.
//!
//! It does not wait for credit: a client reads its socket after the broker is gone, but its acknowledgements reach
//! nobody then. It sets no time limit: its caller does.

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
        for session in std::mem::take(&mut self.starved) {
            self.resume_sending(session);
        }
        debug_assert!(self.starved.is_empty(), "nothing waits for credit now");
    }

    /// Whether a session would lose something if the broker ended now, and will not if it ends later.
    pub(crate) fn owes_anything(&self) -> bool {
        self.has_unsent() || self.has_places()
    }

    /// Whether a session is still to be told something that can be sent later.
    fn has_unsent(&self) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|session| !session.over && session.outbox.blocked.is_some())
    }

    /// Whether a place is kept for a watch in a topic that may have messages for it.
    fn has_places(&self) -> bool {
        let mut topics = self.topics.values();
        topics.any(|topic| !topic.places.is_empty() && !topic.rings.are_clear())
    }
}
