//! Typed zero-copy messages between the processes of one Linux host.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("bus.sock");
//! # use bus_client::Bus;
//! #[bus_client::message]
//! struct Tick {
//!     symbol: u32,
//!     price: f64,
//!     venue: String,
//! }
//!
//! # let bus = Bus::builder("strategy").socket(&path).embedded(true).connect()?;
//! let ticks = bus.subscriber::<Tick>("market/ticks")?; // in one process
//!
//! # let bus = Bus::builder("feed").socket(&path).embedded(true).connect()?;
//! let mut feed = bus.publisher::<Tick>("market/ticks")?; // in another
//! feed.send(&Tick { symbol: 7, price: 99.5, venue: "XETR".into() })?;
//!
//! let tick = ticks.recv()?; // a `&Archived<Tick>`, read where the publisher wrote it
//! println!("{} {}", tick.price, tick.venue);
//! # assert_eq!(tick.price, 99.5);
//! # Ok(()) }
//! ```
//!
//! | file | what it holds |
//! | --- | --- |
//! | `bus` | [`Bus`]: a process's way in |
//! | `topic` | [`TopicBuilder`]: settings, then a handle |
//! | `session` | the connection to the broker, its thread, and the way to the next broker |
//! | `handle` | opening, joining, and what one handle is told |
//! | `affinity`, `fall_backs` | threads on processors; what memory was not had as asked |
//! | `outlet`, `publisher`, `bytes_publisher`, `loan` | sending |
//! | `watch`, `followed`, `pattern` | receiving from all topics that match a pattern |
//! | `inlet`, `subscriber`, `bytes_subscriber` | receiving |
//! | `inlet/park`, `outlet/park` | sleeping on a descriptor |
//! | `selector` | [`Selector`]: one sleep over many things |
//! | `asynchronous` | with the feature `tokio`: handles whose waits are futures |
//!
//! Promises: sending and receiving make no system call, no allocation and no copy that is not needed while the peer is awake and there is room.
//! Threads are started for two purposes, and sleep while nothing changes: that of the embedded broker in the one process that hosts it, and one for each
//! [`Bus`], which reads what the broker says and goes to the next broker. Where a client sends the embedded broker descriptors that it has
//! to throw away, that starts up to two more for each user and 32 in all, which end after a second without work. These threads have the class `SCHED_OTHER` and may use all processors that the control group allows,
//! whatever thread opened the first handle; no signal handler of the process runs on them, but those of their own faults. Handles are `Send` and not `Sync`:
//! one thread at a time uses a handle; threads that share a topic open one handle each.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "bus runs on Linux only: it is made of memfd seals, futex_waitv, pidfds and SOCK_SEQPACKET"
);

mod affinity;
#[cfg(feature = "tokio")]
mod asynchronous;
mod bus;
mod bytes_publisher;
mod bytes_subscriber;
mod error;
mod fall_backs;
mod followed;
mod handle;
mod inlet;
mod loan;
mod outlet;
mod pattern;
mod private;
mod publisher;
mod selector;
mod session;
mod stall;
mod state;
mod subscriber;
mod topic;
mod wait;
mod watch;

pub use affinity::pin_thread;
#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncPublisher, AsyncSubscriber, Recv};
pub use bus::{Bus, BusBuilder};
pub use bus_core::control::Trust;
pub use bus_core::memory::placement::{PlacementOutcome, PlacementReport};
pub use bus_core::publish::Payload;
pub use bus_core::receive::{Held, HeldValue, Message, Received};
pub use bus_core::{Delivery, Error as CoreError, Settings, TopicSettings, schema};
pub use bus_derive::message;
pub use bytes_publisher::BytesPublisher;
pub use bytes_subscriber::{BytesBatch, BytesSubscriber};
pub use error::{Error, Result};
pub use followed::SkippedTopic;
pub use handle::Peer;
pub use loan::{BytesLoan, Loan};
pub use pattern::{PatternBytesSubscriber, PatternSubscriber, TopicMessage};
pub use publisher::Publisher;
pub use rkyv;
pub use selector::{Interest, Selector, Source, Token};
pub use stall::Stall;
pub use state::{Entry, Key, KeyMaker, KeyedState, KeyedStateWriter, State, StateWriter};
pub use subscriber::{Batch, Messages, Subscriber};
pub use topic::TopicBuilder;

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Those of the documents compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/delivery.md")]
struct Documents;
