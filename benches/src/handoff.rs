//! Messages built in place and handed over: what the size costs when neither side touches more than the ends.
//!
//! Both sides open two links, one for short messages and one for long ones, and take turns in blocks: one of short messages, one
//! of long ones, and again. A message's first and last word carry its number; the receiver reads these two, and answers with
//! a message of the same size, built in the same way. So the two of a pair of blocks differ in the size alone, and
//! run within milliseconds of each other.
//!
//! Where the job says so nobody touches a payload, and the ring's own sequence numbers stand for theirs: what is left is the hand-over alone.
//!
//! Promises: every number is checked. It asks for a broker in another process.

use crate::bus::connect;
use crate::clock;
use crate::job::{Job, Role};
use crate::outcome::{Outcome, Window};
use crate::side::{Side, Signal};
use crate::trips::Trips;
use anyhow::{Context, Result, bail, ensure};
use bus_client::{Bus, BytesPublisher, BytesSubscriber};

/// Round trips of a block.
pub const BLOCK: u64 = 500;
/// Bytes of a short message.
pub const SHORT: usize = 8;

/// Hands over, in a ring whose arena holds `job.batch` of the long messages, `job.messages` pairs of blocks of [`SHORT`] and of `job.payload` bytes.
///
/// # Errors
/// The broker is gone, or a message is not the one that was sent.
pub fn perform(side: &Side, signal: &mut Signal) -> Result<Outcome> {
    let job = &side.job;
    let socket = side
        .socket
        .as_deref()
        .context("the side was not told where the broker listens")?;
    let bus = connect(socket, job.spin_us)?;
    let mut ends = [SHORT, job.payload]
        .into_iter()
        .map(|len| Ends::open(&bus, side, len))
        .collect::<Result<Vec<_>>>()?;
    signal.ready_then_go()?;
    let mut pairs = |pairs: u64| {
        let mut medians = Vec::new();
        for _ in 0..pairs {
            let mut pair = [0.0; 2];
            for (end, median) in ends.iter_mut().zip(&mut pair) {
                *median = match side.role {
                    Role::Ping => end.ask(job)?,
                    _ => end.answer()?,
                };
            }
            medians.push(pair);
        }
        anyhow::Ok(medians)
    };
    pairs(job.warm_up)?;
    let window = Window::open(false)?;
    let medians = pairs(job.messages)?;
    Ok(Outcome {
        pairs: medians,
        ..window.close()?
    })
}

/// Both ends of the links for one size.
struct Ends {
    len: usize,
    /// Whether the ends of a message are written and read.
    touched: bool,
    out: BytesPublisher,
    back: BytesSubscriber,
    /// The number of the next message, there and back.
    number: u64,
}

impl Ends {
    fn open(bus: &Bus, side: &Side, len: usize) -> Result<Self> {
        let (there, back) = match side.role {
            Role::Ping => ("there", "back"),
            Role::Pong => ("back", "there"),
            role => bail!("{role} hands nothing over: parent and child are different programs"),
        };
        let topic = |way: &str| {
            let topic = bus.topic(format!("{}/{len}/{way}", side.name))?;
            // A short message lies in its slot.
            let arena = if len == SHORT {
                0
            } else {
                len.next_multiple_of(64) as u64 * side.job.batch as u64
            };
            anyhow::Ok(
                topic
                    .depth(side.job.depth as u32)
                    .max_payload(len as u64)
                    .stride(64)
                    .arena(arena),
            )
        };
        Ok(Self {
            len,
            touched: !side.job.untouched,
            back: topic(back)?.bytes_subscriber()?,
            out: topic(there)?.bytes_publisher()?,
            number: 0,
        })
    }

    /// A block of round trips; their median in nanoseconds.
    fn ask(&mut self, job: &Job) -> Result<f64> {
        let mut trips = Trips::new(job.tick)?;
        self.send(self.number)?;
        let mut sent = clock::now();
        for trip in 1..=BLOCK {
            self.receive()?;
            if trip < BLOCK {
                self.send(self.number)?;
            }
            let now = clock::now();
            trips.add(job.tick.picoseconds(now.wrapping_sub(sent)), 1)?;
            sent = now;
        }
        Ok(trips.p50_ns())
    }

    fn answer(&mut self) -> Result<f64> {
        for _ in 0..BLOCK {
            let number = self.receive()?;
            self.send(number)?;
        }
        Ok(0.0)
    }

    #[inline]
    fn send(&mut self, number: u64) -> Result<()> {
        let mut loan = self.out.loan(self.len)?;
        let bytes = match self.touched {
            true => loan.bytes(),
            false => &mut [],
        };
        if let Some(first) = bytes.first_chunk_mut() {
            *first = number.to_le_bytes();
        }
        if let Some(last) = bytes.last_chunk_mut() {
            *last = number.to_le_bytes();
        }
        loan.send(self.len);
        Ok(())
    }

    #[inline]
    fn receive(&mut self) -> Result<u64> {
        let message = self.back.recv()?;
        let bytes = message.bytes();
        let ends = if self.touched { bytes } else { &[] };
        let first = ends.first_chunk().copied().map(u64::from_le_bytes);
        let last = ends.last_chunk().copied().map(u64::from_le_bytes);
        let number = self.number;
        let right = match self.touched {
            true => first == Some(number) && last == first,
            false => message.sequence() == number,
        };
        ensure!(
            bytes.len() == self.len && right,
            "message {number} of {} bytes came with {} bytes from {first:?} to {last:?}",
            self.len,
            bytes.len()
        );
        drop(message);
        self.number = number.wrapping_add(1);
        Ok(number)
    }
}
