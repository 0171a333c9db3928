//! The hostile process of the live lane: it joins a topic as a publisher and as a subscriber, and then writes what it likes into its two segments,
//! aimed at what its peers are about to look at.

use std::io::{BufRead, stdin};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bus_core::control::{Event, Role};
use bus_core::memory::layout::{IDLE, PAGE, REPLACED};
use bus_core::{Settings, TopicSettings};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ground::{CURSOR, Hostile};
use super::honest::{Kind, LONGEST};
use super::member::Member;
use crate::pen::Look;
use crate::process::{say, settings};

/// The name of the role.
pub const ROLE: &str = "hostile-liar";

const PATIENCE: Duration = Duration::from_secs(20);
/// Words that it writes before it looks whether anybody has looked.
const BURST: u64 = 32;
/// How long it waits for that.
const LOOKED: Duration = Duration::from_millis(1);
/// How often it says how far it is.
const TELL: Duration = Duration::from_millis(50);

/// What the hostile process is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Given {
    /// Where the broker is.
    pub socket: PathBuf,
    /// The topic.
    pub topic: String,
    /// Of the topic.
    pub kind: Kind,
    /// Decides all choices.
    pub seed: u64,
}

/// Lies until it is told to stop, or killed. One that stops stays, and leaves what it wrote.
///
/// # Errors
/// The run is gone, or the topic cannot be joined.
pub fn play(given: Value) -> Result<()> {
    let given: Given = settings(given)?;
    let wanted = Settings {
        depth: Some(64),
        max_payload: Some(LONGEST as u64),
        delivery: Some(given.kind.delivery()),
        ..Settings::default()
    };
    let join = |role| Member::join(&given.socket, role, &given.topic, wanted.clone(), PATIENCE);
    let publisher = join(Role::Publisher).context("a hostile publisher")?;
    let subscriber = join(Role::Subscriber).context("a hostile subscriber")?;
    let mut peers = Peers::default();
    for (event, descriptors) in publisher.told.iter().chain(&subscriber.told) {
        peers.take(event, descriptors)?;
    }
    let (settings, index) = (publisher.settings, usize::from(publisher.index));
    // The connections stay open for as long as this lives.
    let (ring, reader) = (publisher.pen, subscriber.pen);
    let hostile = Hostile::new(ring, reader, settings, peers.rings.len());
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = stdin().lock().lines().next();
        // ORDERING: none needed; it says to stop, and nothing else.
        told.store(true, Ordering::Relaxed);
    });
    let mut random = Rng::with_seed(given.seed);
    let (mut written, mut looked) = (0, 0);
    let mut last = Instant::now();
    say("written 0 0")?;
    // ORDERING: see above.
    while !stop.load(Ordering::Relaxed) {
        let before = peers.traces(index);
        for _ in 0..BURST {
            let (next, head) = peers.aim(&mut random, index, &settings);
            hostile.scribble(&mut random, next, head);
        }
        written += BURST;
        let patience = Instant::now() + LOOKED;
        while peers.traces(index) == before && Instant::now() < patience {
            thread::yield_now();
        }
        if peers.traces(index) != before {
            looked += BURST;
        }
        if last.elapsed() >= TELL {
            say(&format!("written {written} {looked}"))?;
            last = Instant::now();
        }
    }
    say(&format!("frozen {written} {looked}"))?;
    loop {
        thread::park();
    }
}

/// What honest peers show of themselves.
#[derive(Default)]
struct Peers {
    readers: Vec<Look>,
    rings: Vec<Look>,
}

impl Peers {
    fn take(&mut self, event: &Event, descriptors: &[OwnedFd]) -> Result<()> {
        match (event, descriptors.first()) {
            (Event::PublisherJoined { .. }, Some(ring)) => self.rings.push(Look::at(ring)?),
            (Event::SubscriberJoined { .. }, Some(reader)) => self.readers.push(Look::at(reader)?),
            _ => {}
        }
        Ok(())
    }

    /// What changes when somebody looks: all cursors, and the newest stamps.
    fn traces(&self, index: usize) -> u64 {
        let cursors = self
            .readers
            .iter()
            .flat_map(|reader| (0..=index).map(|line| reader.read(CURSOR + 64 * line)));
        let stamps = self.rings.iter().map(|ring| ring.read(PAGE));
        cursors
            .chain(stamps)
            .fold(0, |sum: u64, word| sum.rotate_left(7) ^ word)
    }

    /// What a reader expects of the hostile ring, and about where an honest publisher is.
    fn aim(&self, random: &mut Rng, index: usize, settings: &TopicSettings) -> (u64, u64) {
        let next = match self.readers.len() {
            0 => 0,
            count => self.readers[random.usize(..count)].read(CURSOR + 64 * index) & !IDLE,
        };
        let head = match self.rings.len() {
            0 => 0,
            count => {
                let slot = random.usize(..settings.depth as usize) * settings.stride as usize;
                self.rings[random.usize(..count)].read(PAGE + slot) & !REPLACED
            }
        };
        (next, head)
    }
}
