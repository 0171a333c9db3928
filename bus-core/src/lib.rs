//! The core of bus: what is in shared memory, and the one protocol that moves a message through it.
//!
//! The life of a message, by folder:
//!
//! | folder | what happens there |
//! | --- | --- |
//! | [`schema`] | a Rust type becomes a description that two processes can compare |
//! | [`control`] | processes meet: the messages between a client and the broker |
//! | [`memory`] | the segments: their layout, how they are made, sealed, checked and mapped |
//! | [`publish`] | a publisher claims a slot, serialises into it, commits it |
//! | [`receive`] | a subscriber finds it, checks it, reads it in place, releases it |
//! | [`wake`] | who finds nothing spins, then sleeps, and is woken once |
//! | [`fork`] | what a forked child gets: nothing that it could do harm with |
//! | [`thread`] | how the broker and the client start threads in the user's process |
//! | [`backend`] | the atomics and fences underneath: real ones here, modelled ones in `loom-tests` |
//!
//! Promises: no locked instruction, no system call, no allocation and no division by a run-time value
//! for a message that is published or received in order while its peer is awake; nothing read from a peer's
//! memory is used as an index, a length or a divisor before it was checked.
//!
//! It asks for Linux 5.16 or later (`futex_waitv`). It does not find peers, choose policies or start
//! threads: that is the broker's and the client's part.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "bus runs on Linux only: it is made of memfd seals, futex_waitv, pidfds and SOCK_SEQPACKET"
);

pub mod backend;
pub mod control;
mod delivery;
mod error;
pub mod fork;
pub mod memory;
mod name;
mod pattern;
pub mod publish;
pub mod receive;
pub mod schema;
mod settings;
mod size;
pub mod thread;
pub mod wake;

pub use delivery::{Delivery, Overrun};
pub use error::{Error, Result};
pub use name::{ClientName, TopicName};
pub use pattern::Pattern;
pub use settings::{MAX_PAYLOAD, Settings, TopicSettings};
pub use size::parse_size;
