//! Bus as a transport, and the broker that its sides meet at.
//!
//! Promises: the sides use what any user can use, the public handles for raw bytes, and nothing
//! else: `send` and `recv` for single messages, `publish_batch` and `recv_batch` for several. The
//! broker lives in the program's parent process, which is pinned nowhere and idle while
//! messages flow; nobody else can reach its socket.
//!
//! It asks for a side that was told the broker's socket. It does not choose how long to spin: the job does.

use crate::payload::{Payload, Tally};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Context, Result};
use bus_client::{BytesPublisher, BytesSubscriber, TopicBuilder};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A broker of this process. Dropped: it stops, and its socket is gone.
pub struct Broker {
    _bus: bus_client::Bus,
    directory: TempDir,
}

impl Broker {
    /// Starts a broker on a thread, at a socket of its own.
    ///
    /// # Errors
    /// There is no place for the socket, or no thread.
    pub fn start() -> Result<Self> {
        let directory = TempDir::with_prefix("bus-bench-")
            .context("making a folder for the broker's socket failed")?;
        let bus = bus_client::Bus::builder("bus-bench")
            .socket(socket_in(directory.path()))
            .embedded(true)
            .connect()
            .context("starting the broker failed")?;
        Ok(Self {
            _bus: bus,
            directory,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
    }
}

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("bus.sock")
}

/// Connects a side to the broker at `socket`, never to one of its own.
///
/// # Errors
/// Nobody listens there.
pub fn connect(socket: &Path, spin_us: Option<u64>) -> Result<bus_client::Bus> {
    let builder = bus_client::Bus::builder("bus-bench/side")
        .socket(socket)
        .embedded(false);
    let builder = match spin_us {
        None => builder,
        Some(us) => builder.spin(Duration::from_micros(us)),
    };
    Ok(builder.connect()?)
}

/// Bus as a transport.
#[derive(Debug)]
pub enum Bus {}

impl Transport for Bus {
    type Publisher = BusPublisher;
    type Subscriber = BusSubscriber;

    fn publisher(place: &Place<'_>) -> Result<BusPublisher> {
        let still = (0..place.job.still).map(|_| Ok(topic(place)?.bytes_subscriber()?));
        Ok(BusPublisher {
            out: topic(place)?.bytes_publisher()?,
            _still: still.collect::<Result<_>>()?,
        })
    }

    fn subscriber(place: &Place<'_>) -> Result<BusSubscriber> {
        Ok(BusSubscriber {
            from: topic(place)?.bytes_subscriber()?,
        })
    }
}

/// The topic of a link, set up as a user sets up one whose largest message is known.
fn topic(place: &Place<'_>) -> Result<TopicBuilder> {
    topic_for(place, place.job.payload, place.job.payload)
}

/// The topic of a link, set up as a user sets up one whose messages are known: `usual` bytes fit its slots, and no
/// message is longer than `longest`.
///
/// # Errors
/// The side was not told of a broker, or it does not answer.
pub fn topic_for(place: &Place<'_>, usual: usize, longest: usize) -> Result<TopicBuilder> {
    let job = place.job;
    let socket = place
        .socket
        .context("the side was not told where the broker listens")?;
    let bus = connect(socket, job.spin_us)?;
    let depth = u32::try_from(job.depth).context("bus has at most 2^24 slots")?;
    let topic = bus
        .topic(format!("{}/link-{}", place.name, place.link))?
        .depth(depth)
        .stride(stride(usual))
        .max_payload(longest as u64);
    Ok(if job.lossy { topic.lossy() } else { topic })
}

/// The shortest slot that holds a payload of this length; the longest slot, if none does.
fn stride(payload: usize) -> u32 {
    const HEADER: usize = 16;
    const LONGEST: usize = 65_536;
    payload
        .saturating_add(HEADER)
        .next_multiple_of(64)
        .min(LONGEST) as u32
}

/// A publisher's end.
pub struct BusPublisher {
    out: BytesPublisher,
    /// Subscribers that have joined and never look.
    _still: Vec<BytesSubscriber>,
}

impl Publish for BusPublisher {
    #[inline]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        if batch > 1 && payload.prepared() {
            self.out.publish_batch(payload.next_messages(batch))?;
            return Ok(());
        }
        for _ in 0..batch {
            self.out.send(payload.next_message())?;
        }
        Ok(())
    }
}

/// A subscriber's end.
pub struct BusSubscriber {
    from: BytesSubscriber,
}

impl BusSubscriber {
    /// The subscriber itself.
    #[must_use]
    pub fn into_inner(self) -> BytesSubscriber {
        self.from
    }
}

impl Receive for BusSubscriber {
    #[inline]
    fn receive(&mut self, limit: usize, tally: &mut Tally) -> Result<()> {
        if limit == 1 {
            tally.take(self.from.recv()?.bytes());
            return Ok(());
        }
        for message in &self.from.recv_batch(limit)? {
            tally.take(message?);
        }
        Ok(())
    }
}
