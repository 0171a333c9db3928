//! What one set of processes is to do: the parent writes it, each child reads it.

use crate::clock::Tick;
use crate::coalesced::Coalescing;
use crate::content::Content;
use crate::payload::Payload;
use crate::placed::Wish;
use crate::subject::Subject;
use serde::{Deserialize, Serialize};

/// Bytes that a ring should hold: it then stays within a core's own caches.
const RING_BYTES: usize = 512 * 1024;
/// The most slots, the best figure for small messages.
const MOST_SLOTS: usize = 8192;
/// The fewest slots, however large they are.
const FEWEST_SLOTS: usize = 8;

/// A spin of bus that no wait outlasts: a side that polls.
pub const POLL: Option<u64> = Some(u64::MAX);

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// What carries the messages.
    pub subject: Subject,
    /// What its sides do.
    pub work: Work,
    /// Bytes of a message.
    pub payload: usize,
    /// What these bytes are.
    pub content: Content,
    /// Messages that a ring holds, a power of two.
    pub depth: usize,
    /// Messages handed over at a time. Of a bounce: messages sent one after the other before the first answer is
    /// waited for; such a bounce has an interval.
    pub batch: usize,
    /// How messages are coalesced, where they are.
    pub coalescing: Coalescing,
    /// Publishers on a link.
    pub publishers: usize,
    /// Subscribers on a link.
    pub subscribers: usize,
    /// Messages of each publisher before the measured ones.
    pub warm_up: u64,
    /// Messages of each publisher that are measured.
    pub messages: u64,
    /// Messages of a stretch of a stream that is timed by itself.
    pub stretch: Option<u64>,
    /// Processor pauses between two polls that found nothing.
    pub pauses: u32,
    /// How long a side of bus looks again before it sleeps, in microseconds; as bus does by
    /// default, unless told.
    pub spin_us: Option<u64>,
    /// Whether bus's topics are lossy.
    pub lossy: bool,
    /// Further subscribers of bus's that stand still: they have joined, and never look.
    pub still: usize,
    /// Subscriptions beside the one that has messages, where a selector waits for all of them.
    pub idle: usize,
    /// Whether nobody touches the payloads that are handed over.
    pub untouched: bool,
    /// The unit of single round trips.
    pub tick: Tick,
    /// The sides whose system calls are counted.
    pub traced: Vec<Role>,
}

/// What the sides of a job do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Send a message there and back.
    Bounce {
        /// From one send to the next, in microseconds; 0: at once.
        interval_us: u64,
    },
    /// Publish as fast as it goes, read everything.
    Stream,
    /// Publish half a ring while there is room, wait until all have read it, again: the
    /// publisher's cost without waiting.
    Burst,
    /// Hand messages over that are built in place, short ones and long ones in turns. Bus only.
    HandOver,
    /// Measure one setting of memory or threads, alone. Bus only.
    Place {
        /// The setting.
        wish: Wish,
    },
    /// Copy memory, alone.
    Copy,
    /// Open a publisher and a subscriber on each of so many topics, then go on joining until
    /// as many subscribers have joined as the job has messages. Each of the job's subscribers is a
    /// process that does so, on topics of its own. Bus only.
    Join {
        /// Topics.
        topics: usize,
    },
}

/// One side of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Starts a bounce and measures it.
    Ping,
    /// Returns what it gets.
    Pong,
    /// Publisher of this number.
    Publisher(usize),
    /// Subscriber of this number.
    Subscriber(usize),
    /// Copies memory.
    Copier,
    /// Joins topics.
    Joiner,
}

impl Role {
    /// The processor that the side is pinned to: all publishers share 0, all subscribers 1.
    #[must_use]
    pub fn cpu(self) -> usize {
        match self {
            Self::Ping | Self::Publisher(_) | Self::Copier | Self::Joiner => 0,
            Self::Pong | Self::Subscriber(_) => 1,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ping => f.write_str("the pinging side"),
            Self::Pong => f.write_str("the answering side"),
            Self::Publisher(index) => write!(f, "publisher {index}"),
            Self::Subscriber(index) => write!(f, "subscriber {index}"),
            Self::Copier => f.write_str("the copying side"),
            Self::Joiner => f.write_str("the joining side"),
        }
    }
}

impl Job {
    /// A bounce of `messages` round trips.
    #[must_use]
    pub fn bounce(
        subject: Subject,
        payload: usize,
        tick: Tick,
        messages: u64,
        interval_us: u64,
    ) -> Self {
        Self {
            subject,
            work: Work::Bounce { interval_us },
            // A line and a futex carry their word and nothing else.
            payload: if subject.fixed_word() { 8 } else { payload },
            content: Content::default(),
            depth: depth(payload),
            batch: 1,
            coalescing: Coalescing::default(),
            publishers: 1,
            subscribers: 1,
            warm_up: (messages / 10).clamp(1, 10_000),
            messages,
            stretch: None,
            pauses: 1,
            spin_us: None,
            idle: 0,
            lossy: false,
            still: 0,
            untouched: false,
            tick,
            traced: Vec::new(),
        }
    }

    /// The sides, in the order in which results come back.
    #[must_use]
    pub fn roles(&self) -> Vec<Role> {
        match self.work {
            Work::Bounce { .. } | Work::HandOver => vec![Role::Ping, Role::Pong],
            Work::Stream | Work::Burst => (0..self.publishers)
                .map(Role::Publisher)
                .chain((0..self.subscribers).map(Role::Subscriber))
                .collect(),
            Work::Copy => vec![Role::Copier],
            Work::Join { .. } => vec![Role::Joiner; self.subscribers],
            Work::Place { .. } => vec![Role::Joiner],
        }
    }

    /// The messages that each publisher sends.
    #[must_use]
    pub fn messages(&self) -> Payload {
        Payload::new(self.content, self.payload)
    }

    /// Are there more processes than processors?
    #[must_use]
    pub fn crowded(&self) -> bool {
        self.roles().len() > 2
    }
}

/// The default depth for messages of `payload` bytes.
///
/// ```
/// assert_eq!(bus_bench::job::depth(40), 8192);
/// assert_eq!(bus_bench::job::depth(4096), 64);
/// assert_eq!(bus_bench::job::depth(1 << 20), 8);
/// ```
#[must_use]
pub fn depth(payload: usize) -> usize {
    let slots = RING_BYTES / crate::floor::layout::stride(payload);
    let power = if slots.is_power_of_two() {
        slots
    } else {
        slots.next_power_of_two() / 2
    };
    power.clamp(FEWEST_SLOTS, MOST_SLOTS)
}
