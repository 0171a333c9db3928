//! The ways from one process of the pipeline to the next. Each carries the same messages in the same form.
//!
//! Over sockets and pipes a message is serialised by rkyv, written by one call, and validated and read in place in the reader's
//! buffer, as on the bus. What differs is the way between.

mod bus;
mod packets;
mod serial;
mod stream;

use bus_client::rkyv::Archived;
use bus_client::{Bus, Payload};
use clap::ValueEnum;
use serde::Serialize;

pub use bus::{BusIn, BusOut};
pub use packets::{PacketsIn, PacketsOut};
pub use serial::Serial;
pub use stream::{StreamIn, StreamOut};

/// What links the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The bus.
    Bus,
    /// `SOCK_SEQPACKET` Unix sockets.
    Sockets,
    /// Pipes, with a length ahead of each message.
    Pipes,
}

/// The sending end.
pub trait Out<T> {
    /// Sends a message; waits for room.
    fn send(&mut self, message: &T) -> anyhow::Result<()>;
}

/// The receiving end.
pub trait In<T: Payload> {
    /// Gives every message to `take`, until the other side has ended.
    fn each(self, take: impl FnMut(&Archived<T>) -> anyhow::Result<()>) -> anyhow::Result<()>;
}

/// The process's way into the bus.
pub fn bus(name: &str) -> anyhow::Result<Bus> {
    Ok(Bus::builder(name).embedded(false).connect()?)
}
