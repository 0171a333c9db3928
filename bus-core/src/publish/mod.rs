//! A publisher's way: find room, claim, serialise, commit, wake.
//!
//! [`RingPublisher`] is the protocol over any backend: it knows sequences, cursors and sleepers, and never touches a
//! payload; `waiting` is its part for topics whose publishers wait for subscribers, `floor` for those that go past them. [`Publisher`] puts bytes and values into real memory with it.

mod arena;
mod floor;
mod follower;
mod loan;
mod publisher;
mod ring;
mod serialise;
mod sleep;
mod stall;
mod waiting;

pub use arena::Arena;
pub use floor::Overdue;
pub use loan::Loan;
pub use publisher::{Batch, Publisher, Slot};
pub use ring::{Claim, Full, RingPublisher};
pub use serialise::{Payload, SlotSerializer, to_bytes};
