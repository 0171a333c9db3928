//! What it does where memory is, and where threads run: one side, by itself, with both ends of a topic.
//!
//! With one process and one thread nothing is measured but the pages: the time to open both ends, a first lap through the ring's
//! memory and later ones with a byte touched in each small page, and copies of whole messages. With two threads, pinned or
//! not, round trips. What one thread does is counted in processor time, the kernel's included, so that neighbours do not count.
//!
//! Promises: what is reported beside a figure is what the handles say of their memory. It asks for a broker in another process.

use crate::bus::connect;
use crate::clock::{self, cpu_ns};
use crate::counters::usage::Usage;
use crate::outcome::Outcome;
use crate::payload::digest;
use crate::side::{Side, Signal};
use crate::trips::Trips;
use anyhow::{Context, Result, anyhow, ensure};
use bus_client::{Bus, BytesPublisher, BytesSubscriber, TopicBuilder, pin_thread};
use serde::{Deserialize, Serialize};
use std::thread;

/// Bytes of a message.
pub const MESSAGE: usize = 1 << 20;
/// Messages that the ring's memory holds.
pub const MESSAGES: usize = 64;
/// Laps that are timed after the first.
const LAPS: usize = 10;
/// Bytes between two touches.
const SMALL_PAGE: usize = 4096;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// What there is by default: small pages, mapped up front.
    Plain,
    /// Pages mapped at first touch.
    Later,
    /// Huge pages.
    Huge,
    /// Locked pages.
    Locked,
    /// Pages on node 0.
    Node,
    /// Two threads, wherever the scheduler puts them.
    Free,
    /// Two threads, on processors 0 and 1.
    Apart,
    /// Two threads, both on processor 0.
    Together,
}

impl Wish {
    /// All of them, with the names in front of their figures.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Plain, "plain"),
        (Self::Later, "no_prefault"),
        (Self::Huge, "huge_pages"),
        (Self::Locked, "locked"),
        (Self::Node, "node_0"),
        (Self::Free, "threads_free"),
        (Self::Apart, "threads_apart"),
        (Self::Together, "threads_together"),
    ];

    fn of(self, topic: TopicBuilder) -> TopicBuilder {
        match self {
            Self::Later => topic.prefault(false),
            Self::Huge => topic.huge_pages(),
            Self::Locked => topic.lock_memory(),
            Self::Node => topic.numa_node(0),
            Self::Plain | Self::Free | Self::Apart | Self::Together => topic,
        }
    }
}

/// What came of a wish: names and figures, and what the handles say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Placed {
    /// Figures by name.
    pub figures: Vec<(String, f64)>,
    /// The publisher's report; none where nothing was asked of memory.
    pub report: Option<String>,
}

/// Measures one wish.
///
/// # Errors
/// The broker is gone, or there is no memory.
pub fn perform(side: &Side, wish: Wish, signal: &mut Signal) -> Result<Outcome> {
    let socket = side
        .socket
        .as_deref()
        .context("the side was not told where the broker listens")?;
    let bus = connect(socket, side.job.spin_us)?;
    signal.ready_then_go()?;
    let placed = match wish {
        Wish::Free => threads(side, &bus, None)?,
        Wish::Apart => threads(side, &bus, Some([0, 1]))?,
        Wish::Together => threads(side, &bus, Some([0, 0]))?,
        wish => memory(side, &bus, wish)?,
    };
    Ok(Outcome {
        placed: Some(placed),
        ..Outcome::default()
    })
}

fn memory(side: &Side, bus: &Bus, wish: Wish) -> Result<Placed> {
    let topic = || -> Result<TopicBuilder> {
        let topic = bus.topic(format!("{}/memory", side.name))?;
        let arena = (MESSAGE * MESSAGES) as u64;
        let topic = topic.max_payload(MESSAGE as u64).arena(arena);
        Ok(wish.of(topic.depth(MESSAGES as u32).stride(64)))
    };
    let begun = cpu_ns()?;
    let mut publisher = topic()?.bytes_publisher()?;
    let opened = cpu_ns()?;
    let subscriber = topic()?.bytes_subscriber()?;
    let joined = cpu_ns()?;
    // Both ends meet before anything is timed.
    publisher.subscribers()?;

    let before = Usage::now()?;
    let first_ns = laps(1, || touch(&mut publisher, &subscriber))?;
    let faults = Usage::now()?.since(before).minor_faults;
    let later_ns = laps(LAPS, || touch(&mut publisher, &subscriber))?;
    let message = vec![0x5a; MESSAGE];
    let sum = digest(&message);
    let copies_ns = laps(LAPS, || {
        publisher.send(&message)?;
        ensure!(
            digest(subscriber.recv()?.bytes()) == sum,
            "a message changed"
        );
        Ok(())
    })?;
    let figures = [
        ("publisher_open_us", (opened - begun) as f64 / 1000.0),
        ("subscriber_open_us", (joined - opened) as f64 / 1000.0),
        ("first_touch_us_per_mib", first_ns / 1000.0),
        (
            "first_touch_faults_per_mib",
            faults as f64 / MESSAGES as f64,
        ),
        ("touch_us_per_mib", later_ns / 1000.0),
        ("copy_and_read_gb_per_s", MESSAGE as f64 / copies_ns),
    ];
    Ok(Placed {
        figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
        report: Some(publisher.placement().to_string()),
    })
}

/// Does something with as many messages as make so many laps; nanoseconds for each.
fn laps(laps: usize, mut message: impl FnMut() -> Result<()>) -> Result<f64> {
    let begun = cpu_ns()?;
    for _ in 0..laps * MESSAGES {
        message()?;
    }
    Ok((cpu_ns()? - begun) as f64 / (laps * MESSAGES) as f64)
}

/// Writes and reads a byte in each small page of a message.
fn touch(publisher: &mut BytesPublisher, subscriber: &BytesSubscriber) -> Result<()> {
    let mut loan = publisher.loan(MESSAGE)?;
    for byte in loan.bytes().iter_mut().step_by(SMALL_PAGE) {
        *byte = 1;
    }
    loan.send(MESSAGE);
    let message = subscriber.recv()?;
    let bytes = message.bytes().iter().step_by(SMALL_PAGE);
    let sum: usize = bytes.map(|byte| usize::from(*byte)).sum();
    ensure!(sum == MESSAGE / SMALL_PAGE, "a page was not written");
    Ok(())
}

/// Round trips of 8 bytes between two threads on these processors.
fn threads(side: &Side, bus: &Bus, cpus: Option<[usize; 2]>) -> Result<Placed> {
    let job = &side.job;
    let run_on = |which: usize| match cpus {
        Some(cpus) => pin_thread(cpus[which]),
        // A side begins pinned; its threads may run on both.
        None => side.unpin(),
    };
    let topic = |way: &str| bus.topic(format!("{}/{way}", side.name));
    let mut out = topic("there")?.depth(64).publisher::<u64>()?;
    let back = topic("back")?.depth(64).subscriber::<u64>()?;
    let asked = topic("there")?.depth(64).subscriber::<u64>()?;
    let mut answer = topic("back")?.depth(64).publisher::<u64>()?;
    let mut trips = Trips::new(job.tick)?;
    thread::scope(|scope| {
        let run_on = &run_on;
        let other = scope.spawn(move || -> Result<()> {
            run_on(1)?;
            for _ in 0..job.messages {
                let number = asked.recv()?.to_native();
                answer.send(&number)?;
            }
            Ok(())
        });
        run_on(0)?;
        for number in 0..job.messages {
            let sent = clock::now();
            out.send(&number)?;
            ensure!(back.recv()?.to_native() == number, "an answer is wrong");
            trips.add(job.tick.picoseconds(clock::now().wrapping_sub(sent)), 1)?;
        }
        other
            .join()
            .map_err(|_| anyhow!("the other thread failed"))?
    })?;
    let figures = [
        ("p50_ns", trips.p50_ns()),
        ("p99_ns", trips.quantile_ns(0.99)),
        ("p999_ns", trips.quantile_ns(0.999)),
    ];
    Ok(Placed {
        figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
        report: None,
    })
}
