//! The operations in which a victim is killed, and what each of them leaves for the others.

use bus_client::{Delivery, TopicBuilder};
use clap::ValueEnum;
use nix::libc;
use serde::{Deserialize, Serialize};

/// Slots of each ring.
const DEPTH: u64 = 16;
/// Slots where a subscriber is to protect windows of several messages.
const DEEPER: u64 = 64;
/// Payloads of up to 48 bytes lie in a slot.
pub const STRIDE: u32 = 64;
/// Longest payload, in bytes.
pub const LONGEST: u64 = 512;
/// How long a publisher waits for who makes no progress, where it evicts.
const EVICTED_AFTER_US: u64 = 1_000;

/// Bytes of a message that lies in a slot.
pub const SHORT: usize = 48;
/// Bytes of one that lies in the arena.
pub const LONG: usize = 304;

/// What a victim does when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
pub enum Operation {
    /// Publishes a message that lies in its slot
    PublishInline,
    /// Publishes a message that lies in the arena
    PublishArena,
    /// Builds a message in place, and publishes it
    PublishLoan,
    /// Publishes into a full ring: sleeps, and is woken by a subscriber
    PublishFull,
    /// Publishes several messages together
    PublishBatch,
    /// Publishes on a lossy topic, past a subscriber that holds an old message
    PublishLossy,
    /// Publishes into a ring that is full because of somebody who does not read, and evicts it
    PublishEvict,
    /// Publishes while a subscriber sleeps on the bell, and wakes it
    WakeSubscriber,
    /// Publishes while a subscriber is parked on its descriptor, and rings it
    RingSubscriber,
    /// Receives a message, and releases it
    Receive,
    /// Receives several messages together
    ReceiveBatch,
    /// Receives on a lossy topic whose publisher goes past it
    ReceiveLossy,
    /// Sleeps until a message comes, and receives it
    ReceiveAsleep,
    /// Releases a message for which a publisher sleeps, and wakes it
    WakePublisher,
    /// Holds messages, and releases them in another order
    Hold,
    /// Joins as a publisher
    JoinPublisher,
    /// Joins as a subscriber
    JoinSubscriber,
    /// Leaves as a publisher
    LeavePublisher,
    /// Leaves as a subscriber
    LeaveSubscriber,
    /// Becomes a subscriber that may park
    Notify,
    /// Parks as a subscriber, is rung, and receives
    ParkSubscriber,
    /// Parks as a publisher, is rung, and publishes
    ParkPublisher,
    /// Sets a state
    SetState,
}

/// Which handle the victim has on the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It publishes.
    Publisher,
    /// It receives.
    Subscriber,
}

impl Operation {
    /// All of them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Which handle the victim has.
    #[must_use]
    pub fn side(self) -> Side {
        match self {
            Self::PublishInline
            | Self::PublishArena
            | Self::PublishLoan
            | Self::PublishFull
            | Self::PublishBatch
            | Self::PublishLossy
            | Self::PublishEvict
            | Self::WakeSubscriber
            | Self::RingSubscriber
            | Self::JoinPublisher
            | Self::LeavePublisher
            | Self::ParkPublisher
            | Self::SetState => Side::Publisher,
            Self::Receive
            | Self::ReceiveBatch
            | Self::ReceiveLossy
            | Self::ReceiveAsleep
            | Self::WakePublisher
            | Self::Hold
            | Self::JoinSubscriber
            | Self::LeaveSubscriber
            | Self::Notify
            | Self::ParkSubscriber => Side::Subscriber,
        }
    }

    /// Slots of each ring.
    #[must_use]
    pub fn depth(self) -> u64 {
        match self {
            Self::ReceiveLossy => DEEPER,
            _ => DEPTH,
        }
    }

    /// Messages that the victim has published before it begins.
    #[must_use]
    pub fn before(self) -> u64 {
        match self {
            Self::PublishFull | Self::PublishEvict | Self::ParkPublisher => DEPTH,
            // The ring has gone round, and somebody who reads nothing is left behind.
            Self::PublishLossy => DEPTH + DEPTH / 4,
            Self::JoinPublisher => 0,
            operation if operation.side() == Side::Publisher => 3,
            _ => 0,
        }
    }

    /// The lengths of the messages that the victim publishes in it.
    #[must_use]
    pub fn publishes(self) -> &'static [usize] {
        match self {
            Self::PublishInline
            | Self::PublishFull
            | Self::PublishEvict
            | Self::WakeSubscriber
            | Self::RingSubscriber
            | Self::ParkPublisher
            | Self::SetState => &[SHORT],
            Self::PublishArena | Self::PublishLoan => &[LONG],
            Self::PublishBatch => &[SHORT, LONG, SHORT, SHORT, LONG],
            Self::PublishLossy => &[SHORT; 5],
            _ => &[],
        }
    }

    /// Messages that a survivor has published for the victim when it begins.
    #[must_use]
    pub fn receives(self) -> &'static [usize] {
        match self {
            Self::Receive => &[LONG],
            Self::ReceiveBatch | Self::Hold => &[SHORT, LONG, SHORT, LONG],
            Self::ReceiveLossy => &[SHORT; 3 * DEEPER as usize],
            Self::LeaveSubscriber => &[SHORT],
            _ => &[],
        }
    }

    /// The system calls in which the victim waits for a survivor.
    #[must_use]
    pub fn sleeps(self) -> &'static [i64] {
        match self {
            Self::PublishFull | Self::ReceiveAsleep => &[libc::SYS_futex_waitv],
            Self::ParkSubscriber | Self::ParkPublisher => &[libc::SYS_poll, libc::SYS_ppoll],
            _ => &[],
        }
    }

    /// Whether publishers may go past subscribers there.
    #[must_use]
    pub fn overruns(self) -> bool {
        matches!(
            self,
            Self::PublishLossy | Self::PublishEvict | Self::ReceiveLossy
        )
    }

    /// The settings of its topic.
    #[must_use = "a topic is opened by what comes of it"]
    pub fn settle(self, topic: TopicBuilder) -> TopicBuilder {
        let topic = topic
            .depth(self.depth() as u32)
            .stride(STRIDE)
            .max_payload(LONGEST);
        match self {
            Self::PublishLossy | Self::ReceiveLossy => topic.lossy(),
            Self::PublishEvict => topic.delivery(Delivery::Evict {
                after_us: EVICTED_AFTER_US,
            }),
            _ => topic,
        }
    }
}
