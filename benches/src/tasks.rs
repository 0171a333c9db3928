//! Bus in tasks of a tokio runtime, one thread for each side.
//!
//! Promises: as [`Bus`](crate::bus::Bus), but that both sides wait in futures. A message is 64 bytes of a type of fixed size, of which
//! the payload is the beginning. The runtime is entered for each call of the measuring loop: that is part of the figures.

use crate::bus::connect;
use crate::payload::{Payload, Tally};
use crate::subject::{Place, Publish, Receive, Transport};
use anyhow::{Context, Result, ensure};
use bus_client::{AsyncPublisher, AsyncSubscriber, TopicBuilder};
use tokio::runtime::{Builder, Runtime};

/// Bytes of a message.
const BYTES: usize = 64;

/// Bus in tasks, as a transport.
#[derive(Debug)]
pub enum Tasks {}

impl Transport for Tasks {
    type Publisher = TaskPublisher;
    type Subscriber = TaskSubscriber;

    fn publisher(place: &Place<'_>) -> Result<TaskPublisher> {
        Ok(TaskPublisher {
            out: topic(place)?.publisher()?.into_async(),
            runtime: runtime()?,
        })
    }

    fn subscriber(place: &Place<'_>) -> Result<TaskSubscriber> {
        Ok(TaskSubscriber {
            from: topic(place)?.subscriber()?.into_async(),
            payload: place.job.payload,
            runtime: runtime()?,
        })
    }
}

fn topic(place: &Place<'_>) -> Result<TopicBuilder> {
    let job = place.job;
    ensure!(
        job.payload <= BYTES,
        "a task's message has {BYTES} bytes at most"
    );
    let socket = place
        .socket
        .context("the side was not told where the broker listens")?;
    let depth = u32::try_from(job.depth).context("bus has at most 2^24 slots")?;
    let topic =
        connect(socket, job.spin_us)?.topic(format!("{}/link-{}", place.name, place.link))?;
    Ok(topic.depth(depth))
}

fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.context("starting a runtime failed")
}

/// A publisher's end.
pub struct TaskPublisher {
    /// Dropped before its runtime.
    out: AsyncPublisher<[u8; BYTES]>,
    runtime: Runtime,
}

impl Publish for TaskPublisher {
    #[inline]
    fn publish(&mut self, payload: &mut Payload, batch: usize) -> Result<()> {
        let mut message = [0; BYTES];
        self.runtime.block_on(async {
            for _ in 0..batch {
                let bytes = payload.next_message();
                message[..bytes.len()].copy_from_slice(bytes);
                self.out.send(&message).await?;
            }
            Ok(())
        })
    }
}

/// A subscriber's end.
pub struct TaskSubscriber {
    /// Dropped before its runtime.
    from: AsyncSubscriber<[u8; BYTES]>,
    payload: usize,
    runtime: Runtime,
}

impl Receive for TaskSubscriber {
    #[inline]
    fn receive(&mut self, limit: usize, tally: &mut Tally) -> Result<()> {
        self.runtime.block_on(async {
            tally.take(&self.from.recv().await?[..self.payload]);
            for _ in 1..limit {
                let Some(message) = self.from.try_recv()? else {
                    break;
                };
                tally.take(&message[..self.payload]);
            }
            Ok(())
        })
    }
}
