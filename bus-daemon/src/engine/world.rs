//! What the state machine needs from outside: sockets, shared memory and the kernel's word on processes.
//!
//! The real one is `kernel`; the simulator has one of its own. Nothing in this folder looks at a clock, a
//! socket or a descriptor but through this trait.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use bus_core::control::{Event, Role, Sent};
use bus_core::memory::segment::Kind;
use bus_core::{Result, TopicSettings};

/// The outside.
pub(crate) trait World {
    /// A descriptor. Cloning it shares it.
    type Fd: Clone + Debug;
    /// The broker's side of a topic's registry.
    type Registry: Debug;

    /// Makes a registry whose versions start at `version`, and the descriptor to hand out.
    fn create_registry(&mut self, version: u32) -> Result<(Self::Registry, Self::Fd)>;

    /// Moves the version of the set of members with this role to `version`, and wakes those who sleep on it.
    fn set_version(&mut self, registry: &mut Self::Registry, of: Role, version: u32);

    /// From now on members park at their own doorbells, once they look: moves of both versions
    /// follow.
    fn set_foreign(&mut self, registry: &mut Self::Registry);

    /// Makes a reader segment that keeps a place for a subscriber to come.
    fn create_place(&mut self, settings: &TopicSettings) -> Result<Self::Fd>;

    /// Checks that a descriptor is a sealed segment of this kind that has one of these sizes in bytes; its size.
    fn check_segment(&self, fd: &Self::Fd, kind: Kind, bytes: RangeInclusive<u64>) -> Result<u64>;

    /// Checks that a descriptor is the sending end of a doorbell.
    fn check_doorbell(&self, fd: &Self::Fd) -> Result<()>;

    /// Rings a doorbell. Does not wait.
    fn ring(&self, doorbell: &Self::Fd);

    /// Whether the process of a pidfd runs. A stopped process does; what is no pidfd does not.
    fn is_alive(&self, pidfd: &Self::Fd) -> bool;

    /// Sends an event if the session's socket takes it now. Does not wait.
    ///
    /// # Errors
    /// What ends the session.
    fn send(
        &mut self,
        session: u64,
        handle: u32,
        event: &Event,
        descriptors: &[Self::Fd],
    ) -> Result<Sent>;

    /// Whether to report when the session's socket can be written to.
    fn await_room(&mut self, session: u64, wanted: bool);

    /// Whether to report requests of the session.
    fn listen(&mut self, session: u64, wanted: bool);

    /// Whether the session's client has hung up or ended, of which nothing may have been reported yet.
    fn is_gone(&self, _session: u64) -> bool {
        false
    }

    /// Ends the session's connection.
    fn close(&mut self, session: u64);

    /// Reports the end of a process that has no session, by its number. False where that cannot be done now.
    fn watch_process(&mut self, process: u64, pidfd: &Self::Fd) -> bool;

    /// Does so no longer.
    fn unwatch_process(&mut self, process: u64, pidfd: &Self::Fd);
}
