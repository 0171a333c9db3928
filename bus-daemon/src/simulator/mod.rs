//! A simulator of the control plane: the engine as it is, over a world in memory, with many honest clients.
//!
//! ```text
//!  script     the steps of an episode, from a seed        run     episodes, and the shortening of failures
//!  play       the steps, one after the other              serving    the broker's part of them
//!  client  handle  topics     honest clients              reading  coming_back   what they do with their socket
//!  world      sockets, memory and processes               counts     what happened
//!  books  sent  promises      what holds of what is sent  invariants    what holds after each input
//!  settle     what holds at rest                          found      faults that were found
//! ```
//! Promises: there are no real clocks, sockets, threads or descriptors; the same seed gives the same run. Processes are
//! killed, stopped and slow; sockets take nothing for a while; descriptors are lost; brokers end at any step, and the
//! next one finds what a real one would find.

mod books;
mod client;
mod coming_back;
mod counts;
#[cfg(test)]
mod found;
mod handle;
mod invariants;
mod play;
mod promises;
mod reading;
mod run;
mod script;
mod sent;
mod serving;
mod settle;
#[cfg(test)]
mod tests;
mod topics;
mod world;

pub use counts::Counts;
pub use run::{Failure, Outcome, Plan, run};

/// The user of the simulated broker.
const OWN_USER: u32 = 1000;

/// A fault that the engine plays, so that the simulator can show that it would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The ring of a publisher that has gone is not told to subscribers that have not heard of it.
    EndedRingUntold,
    /// An index goes to another publisher while a subscriber has still to release the ring there.
    IndexReusedEarly,
    /// A version moves before the difference is sent.
    VersionAhead,
    /// An absent member is taken for gone after a while.
    AbsentGoneByTime,
    /// The descriptors of a peer are sent twice.
    SentTwice,
    /// A newcomer does not wait for the members of an earlier broker.
    GraceIgnored,
    /// A broker that is told to stop leaves out what waits for credit.
    UnsentAtStop,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::EndedRingUntold,
        Self::IndexReusedEarly,
        Self::VersionAhead,
        Self::AbsentGoneByTime,
        Self::SentTwice,
        Self::GraceIgnored,
        Self::UnsentAtStop,
    ];
}
