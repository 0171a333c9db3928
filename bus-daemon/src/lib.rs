//! The broker of bus: it introduces publishers and subscribers to each other, and tells them who left.
//!
//! ```text
//!  endpoint   the path: lock, stale socket, bind, remove
//!  reserve    accept, also when there are no descriptors left
//!  broker     the loop: one thread, one epoll, no waiting anywhere else
//!  hub        connections and what they ask for
//!  topic      who is on a topic, versions;   rings   indices, and what is kept of who has ended
//!  member     one of who is on a topic;   watch   who is told of topics that come and go
//!  waste      descriptors that nobody wants
//!  client     one connection;   outbox   what it has not read yet
//!  census     who takes part, in a file for the broker that comes after this one
//!  store      what a service manager keeps for the broker that comes after this one;   retained   what that is
//!  systemd    what systemd is told about this broker
//!  farewell   what is done where no broker is there
//!  awaited    who took part in the one before;   resume   how they come back;   parked   who waits for them
//! ```
//! Promises: no message of any topic goes through it; no client, dead, stopped, or hostile, makes it wait, stop or
//! take unbounded memory; with nothing to do it takes no processor time. It asks for a path that belongs to its
//! user. For the broker that comes after it, it writes down who takes part; rings that a topic retains go with it, unless a service manager keeps
//! them.
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
mod admission;
mod awaited;
mod broker;
mod census;
mod client;
mod endpoint;
mod error;
mod farewell;
mod governed;
mod hub;
mod limits;
mod member;
mod outbox;
mod parked;
pub mod policy;
mod process;
mod request;
mod reserve;
mod resume;
mod retained;
mod rings;
mod store;
mod systemd;
mod thread;
mod topic;
mod waste;
mod watch;

pub use broker::Broker;
pub use error::{Error, Result};
pub use limits::{MAX_CONNECTIONS, MAX_IDLE_TOPICS, MAX_QUEUED, MAX_QUEUED_OF_WATCH, MAX_TOPICS};
pub use thread::BrokerThread;
