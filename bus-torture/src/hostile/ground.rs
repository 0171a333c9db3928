//! A topic in one process: an honest publisher and a hostile one, a hostile subscriber, and the broker's part of it. The honest subscriber, the
//! witness, is made beside it.
//!
//! Promises: the honest ends are the library's own, over real segments that are mapped as between processes: the hostile ones are segments with
//! a pen, and whatever is written there goes through their owner's mapping.

use std::mem::offset_of;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bus_core::backend::Native;
use bus_core::backend::doorbell::Doorbell;
use bus_core::control::Trust;
use bus_core::memory::layout::{
    INLINE, JOINED, PAGE, READER_MAGIC, RING_MAGIC, ReaderPage, RingHeader,
};
use bus_core::memory::registry::Registry;
use bus_core::memory::{reader_bytes, ring_bytes};
use bus_core::publish::{Overdue, Publisher};
use bus_core::receive::{Start, Subscriber};
use bus_core::schema::Schema;
use bus_core::{Delivery, Settings, TopicSettings};
use fastrand::Rng;

use super::content;
use super::words::{place, wild};
use crate::pen::{Pen, mappings};

/// The honest publisher, as the broker would number it; its ring has index 0.
pub const HONEST: u64 = 10;
/// The hostile publisher; its ring has index 1.
pub const HOSTILE: u64 = 11;
const WITNESS: u64 = 20;
const READER: u64 = 21;

const RING_BELL: usize = offset_of!(RingHeader<Native>, bell);
const RING_WAITING: usize = offset_of!(RingHeader<Native>, waiting);
const RING_FLOOR: usize = offset_of!(RingHeader<Native>, floor);
const READER_WAITING: usize = 64;
const READER_BELL: usize = 128;
/// Where the cursors of a reader segment begin, one a line.
pub const CURSOR: usize = offset_of!(ReaderPage<Native>, cursors);

/// How long the publisher of an evicting topic may look before it must have got on.
const PATIENCE: Duration = Duration::from_secs(10);

/// A hostile ring and a hostile reader segment, and where its owner aims.
#[derive(Debug)]
pub struct Hostile {
    /// The ring.
    pub ring: Pen,
    /// The reader segment.
    pub reader: Pen,
    settings: TopicSettings,
    /// Rings that its cursors are for.
    rings: usize,
}

impl Hostile {
    /// Segments on a topic with these settings and so many honest publishers.
    #[must_use]
    pub fn new(ring: Pen, reader: Pen, settings: TopicSettings, rings: usize) -> Self {
        Self {
            ring,
            reader,
            settings,
            rings: rings.max(1),
        }
    }

    /// Writes one word, more often than not one that somebody is about to look at: the witness expects message `next` of this ring, and the
    /// honest publisher is about to publish `head`.
    pub fn scribble(&self, random: &mut Rng, next: u64, head: u64) {
        if random.bool() {
            self.scribble_ring(random, next);
        } else {
            self.scribble_reader(random, head);
        }
    }

    fn slot(&self, sequence: u64) -> usize {
        let slot = sequence & (u64::from(self.settings.depth) - 1);
        PAGE + slot as usize * self.settings.stride as usize
    }

    fn scribble_ring(&self, random: &mut Rng, next: u64) {
        let settings = &self.settings;
        let ring = &self.ring;
        match random.u8(..32) {
            // A message that is as it should be, but for where it says that it lies.
            0..=9 => {
                let sequence = next.wrapping_add(random.u64(..4)).wrapping_sub(1);
                let word = place(
                    random,
                    settings.inline(),
                    settings.max_payload,
                    settings.arena,
                );
                ring.write(self.slot(sequence) + 8, word);
                ring.write(self.slot(sequence), sequence.wrapping_add(1));
            }
            10..=14 => {
                let at = self.slot(next.wrapping_add(random.u64(..4)));
                ring.write(at, wild(random, next, ring.read(at)));
            }
            15..=18 => {
                let word = place(
                    random,
                    settings.inline(),
                    settings.max_payload,
                    settings.arena,
                );
                ring.write(self.slot(next.wrapping_add(random.u64(..4))) + 8, word);
            }
            19..=22 => ring.write(RING_FLOOR, wild(random, next, ring.read(RING_FLOOR))),
            23 => ring.write_half(RING_WAITING, random.u32(..)),
            24 if random.u8(..16) == 0 => ring.write_half(RING_BELL + 4, random.u32(..3)),
            24 => ring.write_half(RING_BELL, random.u32(..)),
            // What is in a payload, of messages that were handed out as well.
            25..=28 => {
                let at = PAGE + random.usize(..ring.bytes() - PAGE);
                ring.write(at, wild(random, next, ring.read(at)));
            }
            _ => {
                let at = random.usize(64..ring.bytes());
                ring.write(at, wild(random, next, ring.read(at)));
            }
        }
    }

    fn scribble_reader(&self, random: &mut Rng, head: u64) {
        let reader = &self.reader;
        let pins = self.settings.overrun().map_or(0, |rules| rules.pins);
        let index = random.usize(..self.rings);
        let cursor = CURSOR + 64 * index;
        match random.u8(..16) {
            0..=6 => reader.write(cursor, wild(random, head, reader.read(cursor))),
            7..=11 if pins > 0 => {
                let at = PAGE + 8 * (index * pins + random.usize(..pins));
                reader.write(at, wild(random, head, reader.read(at)));
            }
            12 => reader.write_half(READER_WAITING, random.u32(..)),
            13 => reader.write_half(READER_BELL + random.usize(..2) * 4, random.u32(..4)),
            _ => {
                let at = random.usize(64..reader.bytes());
                reader.write(at, wild(random, head, reader.read(at)));
            }
        }
    }

    /// Puts a message into the ring as an honest publisher would: these bytes, in its slot.
    pub fn publish(&self, sequence: u64, bytes: &[u8]) {
        let at = self.slot(sequence);
        for (number, part) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.ring
                .write(at + 16 + 8 * number, u64::from_le_bytes(word));
        }
        self.ring
            .write(at + 8, u64::from(INLINE) << 32 | bytes.len() as u64);
        self.ring.write(at, sequence.wrapping_add(1));
    }

    /// Changes a byte or a few of the payload in the slot of this message.
    pub fn deface(&self, random: &mut Rng, sequence: u64) {
        for _ in 0..random.usize(1..4) {
            let at = self.slot(sequence) + 16 + random.usize(..self.settings.inline() as usize);
            self.ring
                .write(at, wild(random, at as u64, self.ring.read(at)));
        }
    }
}

/// The topic.
pub struct Ground {
    /// What the topic is like.
    pub settings: TopicSettings,
    /// The honest publisher.
    pub publisher: Publisher,
    /// Who writes what it likes.
    pub hostile: Arc<Hostile>,
    /// What the honest publisher's messages hold follows from this.
    pub salt: u64,
    /// Bytes of its longest message.
    pub longest: usize,
    /// The honest publisher is broken, and stops.
    pub stalled: bool,
    /// The witness copies what the hostile publisher sends.
    pub copies: bool,
    registry: Registry,
    bell: Doorbell,
}

impl Ground {
    /// A topic with settings by chance; its honest subscriber has joined.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(random: &mut Rng) -> Result<(Self, Subscriber)> {
        let settings = settings(random)?;
        let registry = Registry::create()?;
        let mut publisher = Publisher::create(&settings, &registry.fd(), 0)?;
        let ring = Pen::create(RING_MAGIC, ring_bytes(&settings))?;
        let reader = Pen::create(READER_MAGIC, reader_bytes(&settings))?;
        let hostile = Hostile::new(ring, reader, settings, 1);
        let witness = Subscriber::create(&settings, &registry.fd(), Arc::new(()))?;
        let start = Start::Head { history: 0 };
        witness.attach(HONEST, 0, &publisher.fd(), start, Trust::InPlace)?;
        let trust = if random.bool() {
            Trust::Copy
        } else {
            Trust::InPlace
        };
        witness.attach(HOSTILE, 1, &hostile.ring, Start::First, trust)?;
        witness.joined(0);
        publisher.adopt(WITNESS, &witness.fd())?;
        publisher.adopt(READER, &hostile.reader)?;
        let bell = Doorbell::new()?;
        publisher.set_notify(READER, bell.button().try_clone_to_owned()?);
        let ground = Self {
            settings,
            publisher,
            hostile: Arc::new(hostile),
            salt: random.u64(..),
            longest: settings.max_payload as usize,
            stalled: false,
            copies: trust == Trust::Copy,
            registry,
            bell,
        };
        Ok((ground, witness))
    }

    /// Where the witness has mapped a ring.
    ///
    /// # Errors
    /// `/proc` is not to be seen.
    pub fn mapped(&self, publisher: u64) -> Result<Vec<(usize, usize)>> {
        match publisher {
            HOSTILE => mappings(&self.hostile.ring),
            _ => mappings(&self.publisher.fd()),
        }
    }

    /// Whether the publisher has evicted the witness.
    #[must_use]
    pub fn has_evicted_witness(&self) -> bool {
        self.publisher.has_evicted(WITNESS)
    }

    /// As if somebody had joined or left: the honest publisher looks at all cursors before its next message.
    pub fn look(&mut self) {
        self.registry.bump_subscribers();
        if let Some(version) = self.publisher.stale() {
            self.publisher.set_version(version);
        }
    }

    /// Publishes the next honest message, if there is room.
    ///
    /// # Errors
    /// A lossy publisher finds no room, or sending fails otherwise.
    pub fn publish(&mut self, buffer: &mut Vec<u8>) -> Result<bool> {
        if self.stalled {
            return Ok(false);
        }
        let sequence = self.publisher.head();
        buffer.resize(content::length(self.salt, sequence, self.longest), 0);
        content::write(self.salt, sequence, buffer);
        self.publisher.stale();
        match self.publisher.try_send_bytes(buffer)? {
            Some(sent) => ensure!(sent == sequence, "sent {sent}, expected {sequence}"),
            None if self.settings.delivery == Delivery::Lossy => {
                bail!("a lossy publisher finds no room for message {sequence}")
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// The witness has read everything and holds nothing: now a message finds room, whatever the hostile subscriber does, where the topic does
    /// not wait for it; and where it does, when that has left.
    ///
    /// # Errors
    /// It does not.
    pub fn must_go_on(&mut self, buffer: &mut Vec<u8>) -> Result<()> {
        let evicts = matches!(self.settings.delivery, Delivery::Evict { .. });
        if evicts {
            // Who says that it is still joining has a while longer than the topic allows: that takes time, and is left to the live lane.
            self.hostile.reader.write_half(READER_BELL + 4, JOINED);
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                if self.publish(buffer)? {
                    return Ok(());
                }
                if self.publisher.evict_stalled() == Overdue::Held {
                    bail!("what one hostile subscriber holds takes all the room of the topic");
                }
            }
            bail!("the hostile subscriber is not evicted, however often its publisher looks");
        }
        self.publisher.drop_follower(READER);
        let went_on = self.publish(buffer)?;
        self.come_back()?;
        ensure!(
            went_on,
            "the hostile subscriber is gone, and its publisher finds no room"
        );
        Ok(())
    }

    /// The hostile subscriber joins again, if it has left or was evicted.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn come_back(&mut self) -> Result<()> {
        self.publisher.drop_follower(READER);
        self.publisher.adopt(READER, &self.hostile.reader)?;
        let button = self.bell.button().try_clone_to_owned()?;
        self.publisher.set_notify(READER, button);
        self.look();
        Ok(())
    }
}

/// Small rings of every delivery, with and without an arena: sound, and by chance. Where publishers go past subscribers, the arena has room for
/// two that hold all they may, as it has by default.
fn settings(random: &mut Rng) -> Result<TopicSettings> {
    let depth = 1 << random.u32(2..8);
    let delivery = match random.u8(..4) {
        0 => Delivery::Wait,
        1 => Delivery::Fail,
        2 => Delivery::Evict { after_us: 1 },
        _ => Delivery::Lossy,
    };
    let mut settings = Settings {
        depth: Some(depth),
        stride: Some(64 << random.u32(..2)),
        max_payload: Some([40, 48, 49, 200, 1000][random.usize(..5)]),
        keep: Some(random.u32(1..3)),
        delivery: Some(delivery),
        held: Some(random.u32(1..=depth.min(6))),
        ..Settings::default()
    };
    let by_default = settings.decide(&Schema::bytes())?;
    let window = by_default.overrun().map_or(0, |rules| rules.window);
    if by_default.arena > 0 {
        let longest = by_default.max_payload.next_multiple_of(64);
        let each = u64::from(by_default.held) + window;
        let messages = 2 * each + u64::from(by_default.keep) + 4 + random.u64(..4);
        settings.arena = Some(messages * longest);
    }
    Ok(settings.decide(&Schema::bytes())?)
}
