//! The broker of bus: it introduces publishers and subscribers to each other, and tells them who left.
//!
//! ```text
//!  endpoint   the path: lock, stale socket, bind, remove;   marker   how the broker before ended
//!  path_watch notices that somebody has removed the socket
//!  reserve    accept, also when there are no descriptors left
//!  broker     the loop: one thread, one epoll, no waiting anywhere else;   kernel   what the loop does for the engine
//!  engine     the broker as a state machine
//!  accounts   what each user takes;   policy   what each user may
//!  store      what a service manager keeps for the next broker;   retained   what that is
//!  waste      descriptors that nobody wants
//!  report     what is logged of clients that come, go and are refused
//!  systemd    what systemd is told about this broker
//! ```
//! Promises: no message of any topic goes through it; no client, dead, stopped, or hostile, makes it wait, stop or
//! take unbounded memory; with nothing to do it takes no processor time. It asks for a path that belongs to its
//! user. It writes nothing down: processes present to the next broker what they have. Rings that a topic retains go
//! with it, unless a service manager keeps them.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("bus.sock");
//! let broker = bus_daemon::Broker::bind(&path)?.spawn()?;
//! let connection = bus_core::control::Connection::connect(&path)?;
//! drop(connection);
//! broker.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod accounts;
mod broker;
mod bucket;
mod endpoint;
mod engine;
mod error;
mod governed;
mod kernel;
mod limits;
mod marker;
mod path_watch;
pub mod policy;
mod report;
mod reserve;
mod retained;
#[cfg(feature = "simulator")]
pub mod simulator;
mod store;
mod systemd;
mod takeover;
mod thread;
mod waste;

pub use broker::Broker;
pub use error::{Error, Result};
pub use limits::{MAX_HANDLES, MAX_IDLE_TOPICS, MAX_SESSIONS, MAX_TOPICS, raise_descriptor_limit};
pub use thread::BrokerThread;
