//! A topic as a link.

use std::time::Duration;

use anyhow::Context as _;
use bus_client::rkyv::Archived;
use bus_client::{Bus, Payload, Publisher, Subscriber};

use super::{In, Out};

/// How long the next process of the pipeline may take to come.
const START: Duration = Duration::from_secs(4);

/// A publisher on a topic.
pub struct BusOut<T: Payload>(Publisher<T>);

impl<T: Payload> BusOut<T> {
    /// Opens it, and waits for the next process.
    pub fn open(bus: &Bus, topic: &str) -> anyhow::Result<Self> {
        let mut publisher = bus.publisher(topic)?;
        publisher
            .wait_for_subscribers(1, Some(START))
            .context("the next process of the pipeline did not come")?;
        Ok(Self(publisher))
    }
}

impl<T: Payload> Out<T> for BusOut<T> {
    fn send(&mut self, message: &T) -> anyhow::Result<()> {
        self.0.send(message)?;
        Ok(())
    }
}

/// A subscriber to a topic.
pub struct BusIn<T: Payload>(Subscriber<T>);

impl<T: Payload> BusIn<T> {
    /// Opens it.
    pub fn open(bus: &Bus, topic: &str) -> anyhow::Result<Self> {
        Ok(Self(bus.topic(topic)?.end_with_publishers().subscriber()?))
    }
}

impl<T: Payload> In<T> for BusIn<T> {
    fn each(self, mut take: impl FnMut(&Archived<T>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        for message in &self.0 {
            take(&*message?)?;
        }
        Ok(())
    }
}
