//! Processes meet: the messages between a client and the broker, and the connection that carries them.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `messages`, `refusal` | what is said: [`Request`] and [`Event`], and why not: [`Refusal`] |
//! | `wire` | how it is packed: a prefix that never changes, then a validated archive for each message |
//! | `connection` | how it travels: one `SOCK_SEQPACKET` socket for each session |
//! | `peer` | who is at the other end: [`Credentials`] and a pidfd |
//! | `holder` | which process runs the broker, for people: [`Holder`] |
//! | `passed` | what a service manager passes to a process that it starts: [`take_passed`] |
//! | `path` | where the broker listens, and why there: [`SocketPlace`] |
//! | `next` | what a build of the next version does otherwise, for tests of two builds on one bus |
//! | `sys` | the system calls that need `unsafe` |
//!
//! Promises: whatever a peer sends is checked before it is used, costs bounded memory, and ends in a message or
//! an [`Error`](crate::Error); no descriptor that came along is leaked. It asks for a peer on the same machine. It
//! does not decide anything: what is allowed on a topic is the broker's part.

mod connection;
mod holder;
mod messages;
#[cfg(feature = "next-build")]
pub mod next;
mod passed;
mod path;
mod peer;
mod refusal;
mod sys;
mod wire;

pub use connection::{Connection, Frame, Sent, Unread, take_descriptors};
pub use holder::{Holder, lock_path};
pub use messages::{Event, KnownPeer, MAX_PRESENTED, Request, Role, Secret, Trust, Watched};
pub use passed::{Passed, take_passed};
pub use path::{SocketPlace, SocketReason, check_socket_path, socket_path, variable};
pub use peer::{Credentials, may_be_anybody, may_be_pidfd, open_pidfd, pidfd_alive};
pub use refusal::Refusal;
pub use wire::{
    Addressed, FEATURES, MAX_DESCRIPTORS, MAX_PACKET, MAY_BE_IGNORED, Message, PROTOCOL_VERSIONS,
    Packet, SESSION, WIRE_VERSION, versions,
};
