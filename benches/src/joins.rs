//! What joining costs: time, and memory of the side that joins.
//!
//! One side opens a publisher on each of so many topics, then a subscriber on each, and keeps all
//! of them. With fewer topics than joins wanted, it goes on: a subscriber joins, is
//! adopted by the topic's publisher, and leaves. Topics are as bus makes them by default.
//!
//! Promises: only the calls that open a handle are timed. It asks for a broker in another process.

use crate::bus::connect;
use crate::clock::monotonic_ns;
use crate::counters::memory::{Resident, allow_descriptors};
use crate::outcome::Outcome;
use crate::side::{Side, Signal};
use anyhow::{Context, Result};
use bus_client::{Bus, Publisher, Subscriber};
use serde::{Deserialize, Serialize};

/// Joins before the ones that are timed.
const WARM_UP: usize = 20;

/// A message of a fixed size.
#[bus_client::message]
struct Tick {
    symbol: u32,
    price: f64,
    size: u64,
}

/// What the joining side has seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Joins {
    /// Nanoseconds that each publisher took to open.
    pub publisher_ns: Vec<u64>,
    /// Nanoseconds that each subscriber took to open.
    pub subscriber_ns: Vec<u64>,
    /// The side's memory before, with all publishers, and with all subscribers as well.
    pub resident: [Resident; 3],
}

/// Joins `topics` topics, and one of them again and again until `job.messages` subscribers have joined.
///
/// # Errors
/// The broker is gone, or refuses, or there is no memory for so many topics.
pub fn perform(side: &Side, topics: usize, signal: &mut Signal) -> Result<Outcome> {
    allow_descriptors()?;
    let socket = side
        .socket
        .as_deref()
        .context("the side was not told where the broker listens")?;
    let bus = connect(socket, None)?;
    // Processes that join at the same time do so on topics of their own.
    let own = format!("{}/process-{}", side.name, std::process::id());
    let name = |topic: usize| format!("{own}/topic-{topic}");
    warm_up(&bus, &format!("{own}/warm-up"))?;

    let mut joins = Joins::default();
    joins.resident[0] = Resident::now()?;
    let mut publishers = Vec::with_capacity(topics);
    for topic in 0..topics {
        let (publisher, ns) = timed(|| bus.publisher::<Tick>(name(topic)))?;
        publishers.push(publisher);
        joins.publisher_ns.push(ns);
    }
    joins.resident[1] = Resident::now()?;
    let mut subscribers = Vec::with_capacity(topics);
    for (topic, publisher) in publishers.iter_mut().enumerate() {
        let (subscriber, ns) = join(&bus, name(topic), publisher)?;
        subscribers.push(subscriber);
        joins.subscriber_ns.push(ns);
    }
    joins.resident[2] = Resident::now()?;
    signal.ready_then_go()?;

    let start_ns = monotonic_ns()?;
    let mut topic = 0;
    while (joins.subscriber_ns.len() as u64) < side.job.messages {
        let (_, ns) = join(&bus, name(topic), &mut publishers[topic])?;
        joins.subscriber_ns.push(ns);
        topic = (topic + 1) % topics;
    }
    Ok(Outcome {
        start_ns,
        end_ns: monotonic_ns()?,
        joins: Some(joins),
        ..Outcome::default()
    })
}

fn warm_up(bus: &Bus, topic: &str) -> Result<()> {
    let mut publisher = bus.publisher::<Tick>(topic)?;
    for _ in 0..WARM_UP {
        join(bus, topic.to_owned(), &mut publisher)?;
    }
    Ok(())
}

/// Opens a subscriber, and lets the publisher see it.
fn join(
    bus: &Bus,
    topic: String,
    publisher: &mut Publisher<Tick>,
) -> Result<(Subscriber<Tick>, u64)> {
    let (subscriber, ns) = timed(|| bus.subscriber::<Tick>(topic))?;
    publisher.subscribers()?;
    Ok((subscriber, ns))
}

fn timed<T>(open: impl FnOnce() -> bus_client::Result<T>) -> Result<(T, u64)> {
    let begun = monotonic_ns()?;
    let handle = open()?;
    Ok((handle, monotonic_ns()? - begun))
}
