//! What every command that joins a topic takes: its name, the way to the broker, settings.

use std::path::PathBuf;

use anyhow::ensure;
use bus_client::{Bus, Delivery, TopicBuilder};
use bus_core::control::SocketPlace;
use clap::Args;

use crate::{delivery, place, size};

/// How to join a topic.
#[derive(Debug, Args)]
pub struct Joining {
    /// The topic: 1 to 127 bytes of [a-z0-9_.-] in parts separated by '/'
    topic: String,

    /// The name under which others see this process
    #[arg(long, value_name = "CLIENT")]
    name: Option<String>,

    /// The broker's socket [default: $BUS_SOCKET, else bus.sock in this user's runtime directory, else one for this user under the
    /// temporary directory; see `bus where`]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Do not host a broker here if none is running
    #[arg(long)]
    no_embedded: bool,

    /// Slots of each publisher's ring, a power of two. Whoever names the topic first decides [default: 8192]
    #[arg(long, value_name = "SLOTS")]
    depth: Option<u32>,

    /// Longest message of the topic, up to 1G. Whoever names the topic first decides [default: 64K]
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    pub max_payload: Option<u64>,

    /// What becomes of subscribers that do not keep up: wait, fail, lossy, or evict:50ms. Whoever names the topic first decides [default:
    /// wait]
    #[arg(long, value_name = "KIND", value_parser = delivery::parse)]
    delivery: Option<Delivery>,

    /// Messages that each publisher keeps for subscribers to come. Whoever names the topic first decides [default: 1]
    #[arg(long, value_name = "MESSAGES")]
    keep: Option<u32>,

    /// Rings of ended publishers that the broker keeps for subscribers to come. Whoever names the topic first decides [default: 0]
    #[arg(long, value_name = "RINGS")]
    retain: Option<u32>,

    /// Say on standard error who comes and goes on the other side: name, user, process, and whether what it publishes is read in place or
    /// copied
    #[arg(short, long)]
    pub verbose: bool,

    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

impl Joining {
    /// Whether rings of ended publishers are to be kept.
    pub fn retains(&self) -> bool {
        self.retain.is_some_and(|rings| rings > 0)
    }

    /// The pattern that the topic's name is, if it is one.
    pub fn pattern(&self) -> anyhow::Result<Option<&str>> {
        if !self.topic.contains('*') {
            return Ok(None);
        }
        ensure!(
            self.depth.is_none()
                && self.max_payload.is_none()
                && self.delivery.is_none()
                && self.keep.is_none()
                && self.retain.is_none(),
            "{} means topics that others have named: leave out --depth, --max-payload, --delivery, --keep and --retain",
            self.topic
        );
        Ok(Some(&self.topic))
    }

    /// Connects.
    pub fn bus(&self, default_name: &str) -> anyhow::Result<Bus> {
        let name = self.name.as_deref().unwrap_or(default_name);
        let mut builder = Bus::builder(name).embedded(!self.no_embedded);
        // Nothing here uses `select()`.
        builder = builder.raise_descriptor_limit();
        match &self.socket {
            Some(socket) => builder = builder.socket(socket),
            None => place::warn(&SocketPlace::find().map_err(bus_client::Error::from)?),
        }
        Ok(builder.connect()?)
    }

    /// Prepares the topic's opening.
    pub fn open(&self, bus: &Bus) -> TopicOpening {
        let mut topic = bus.topic(self.topic.as_str())?;
        if let Some(depth) = self.depth {
            topic = topic.depth(depth);
        }
        if let Some(bytes) = self.max_payload {
            topic = topic.max_payload(bytes);
        }
        if let Some(delivery) = self.delivery {
            topic = topic.delivery(delivery);
        }
        if let Some(messages) = self.keep {
            topic = topic.keep(messages);
        }
        if let Some(rings) = self.retain {
            topic = topic.retain(rings);
        }
        Ok(topic)
    }
}

/// A topic about to be opened.
pub type TopicOpening = bus_client::Result<TopicBuilder>;
