//! A subscriber's way: find, check, read in place, release, sleep.
//!
//! [`RingReader`] is one ring's half of the protocol over any backend; [`Receiver`] reads many rings fairly and sleeps on
//! all of them at once. Both never touch a payload. [`Subscriber`] hands out bytes and values
//! from real memory with them.

mod copied;
mod copies;
mod early;
mod head;
mod held;
mod message;
mod receiver;
mod ring;
mod shield;
mod subscriber;
mod typed;

pub use copied::Copied;
pub use held::Held;
pub use message::{Arrival, Batch, Message};
pub use receiver::Receiver;
pub use ring::{Found, Holding, Refused, RingReader};
pub use subscriber::{Start, Subscriber, published};
pub(crate) use typed::check;
pub use typed::{HeldValue, MAX_LEVELS, Received, Typed, access};
