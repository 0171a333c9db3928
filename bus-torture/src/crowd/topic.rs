//! Kinds of topics: how they deliver, and what is sent on them.

use std::time::Duration;

use bus_client::{Bus, Delivery, Result, TopicBuilder};
use serde::{Deserialize, Serialize};

/// Slots of a ring.
const DEPTH: u32 = 64;
/// Bytes of a slot: most short messages lie in theirs, the others in the arena.
const STRIDE: u32 = 256;
/// Messages of one publisher that a reader may hold where publishers go past it.
const HELD: u32 = 4;
/// How long publishers of an evicting topic wait for a reader. Longer than any process is kept from a processor by others.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Messages that a topic with history keeps.
pub const KEEP: u32 = 32;

/// How a topic delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Publishers wait.
    Wait,
    /// Publishers are told that there is no room.
    Fail,
    /// Publishers wait for a while, then evict.
    Evict,
    /// Publishers go past.
    Lossy,
    /// Publishers go past, with messages of up to 256 KiB.
    Large,
    /// Publishers wait; the topic keeps messages, and rings of publishers that ended.
    History,
}

impl Kind {
    /// Whether every message reaches everybody who is not told that it was evicted.
    #[must_use]
    pub fn lossless(self) -> bool {
        !matches!(self, Self::Lossy | Self::Large)
    }

    /// Longest message, in bytes.
    #[must_use]
    pub fn longest(self) -> usize {
        match self {
            Self::Large => 256 << 10,
            _ => 2048,
        }
    }

    /// Messages that readers ask for from before they came.
    #[must_use]
    pub fn history(self) -> u32 {
        match self {
            Self::History => KEEP,
            _ => 0,
        }
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How it delivers.
    pub kind: Kind,
}

impl Topic {
    /// A topic.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
        }
    }

    /// The topic with its settings, about to be opened.
    ///
    /// # Errors
    /// Its name is none.
    pub fn open(&self, bus: &Bus) -> Result<TopicBuilder> {
        let topic = bus.topic(&*self.name)?.depth(DEPTH).stride(STRIDE);
        let topic = topic.max_payload(self.kind.longest() as u64);
        Ok(match self.kind {
            Kind::Wait => topic,
            Kind::Fail => topic.delivery(Delivery::Fail),
            Kind::Evict => topic
                .delivery(Delivery::evict_after(PATIENCE))
                .held(HELD)
                .arena(1 << 20),
            Kind::Lossy => topic.lossy().held(HELD).arena(1 << 20),
            Kind::Large => topic.lossy().held(HELD).arena(8 << 20),
            Kind::History => topic.keep(KEEP).retain(2),
        })
    }
}
