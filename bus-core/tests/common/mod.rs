//! A topic whose broker is played by the test: real segments, real descriptors, no sockets.
//!
//! Also the two ways past the crate's own API that tests need: a look at a segment's words, and a pen that
//! scribbles over them through their owner's own mapping, as a hostile owner would.

#![allow(dead_code, reason = "each test crate uses a part")]

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use bus_core::backend::Native;
use bus_core::control::Trust;
use bus_core::memory::layout::{ReaderPage, RingHeader};
use bus_core::memory::registry::Registry;
use bus_core::publish::Publisher;
use bus_core::receive::{Start, Subscriber};
use bus_core::{Delivery, TopicSettings};
use memmap2::{MmapOptions, MmapRaw};

/// Where cursor `index` lies in a reader segment.
pub fn cursor_offset(index: usize) -> usize {
    offset_of!(ReaderPage<Native>, cursors) + 64 * index
}

/// Where the floor lies in a ring segment.
pub const FLOOR: usize = offset_of!(RingHeader<Native>, floor);

/// Where pin `number` of ring 0 lies in a reader segment.
pub fn pin_offset(number: usize) -> usize {
    size_of::<ReaderPage<Native>>() + 8 * number
}

/// Where the sleep count lies in a reader segment.
pub const READER_WAITING: usize = 64;
/// Where the sleep count lies in a ring segment.
pub const RING_WAITING: usize = offset_of!(RingHeader<Native>, waiting);

/// Settings with the smallest arena that they allow, and `spare` bytes more.
pub fn settings(
    depth: u32,
    stride: u32,
    max_payload: u64,
    history: u32,
    spare: u64,
) -> TopicSettings {
    let longest = max_payload.next_multiple_of(64);
    let arena = if max_payload <= u64::from(stride) - 16 {
        0
    } else {
        longest * (u64::from(history) + 2) + spare
    };
    let settings = TopicSettings {
        depth,
        stride,
        max_payload,
        keep: history,
        arena,
        delivery: Delivery::Wait,
        held: depth,
        retain: 0,
        publishers: 60,
    };
    settings.check().unwrap()
}

/// Settings of a topic whose publishers may go past subscribers, with room for `spare` bytes more than the arena must have.
pub fn overrun_settings(
    delivery: Delivery,
    depth: u32,
    max_payload: u64,
    (keep, held): (u32, u32),
    spare: u64,
) -> TopicSettings {
    let longest = max_payload.next_multiple_of(64);
    let messages = if max_payload <= 48 { 1 } else { keep + 2 };
    let settings = TopicSettings {
        delivery,
        held,
        arena: longest * u64::from(messages) + spare,
        ..settings(depth, 64, max_payload, keep, 0)
    };
    settings.check().unwrap()
}

/// Bytes that name their message: no two messages or places agree by accident.
pub fn payload(sequence: u64, len: usize) -> Vec<u8> {
    let mut state = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ len as u64;
    let mut next = || {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// What the broker sends to a publisher.
pub enum Event {
    /// A subscriber joined: its number and its segment.
    Joined(u64, OwnedFd),
    /// A subscriber left.
    Left(u64),
}

/// A topic with one publisher, number 0 with index 0, and the events on their way to it.
pub struct Topic {
    pub settings: TopicSettings,
    pub registry: Registry,
    pub publisher: Publisher,
    pub events: VecDeque<Event>,
    /// How subscribers that attach read its publisher.
    pub trust: Trust,
}

impl Topic {
    pub fn new(settings: TopicSettings) -> Self {
        let registry = Registry::create().unwrap();
        let publisher = Publisher::create(&settings, &registry.fd(), 0).unwrap();
        Self {
            settings,
            registry,
            publisher,
            events: VecDeque::new(),
            trust: Trust::InPlace,
        }
    }

    /// A subscriber that knows nobody yet.
    pub fn subscriber(&self, membership: Arc<dyn Send + Sync>) -> Subscriber {
        Subscriber::create(&self.settings, &self.registry.fd(), membership).unwrap()
    }

    /// A subscriber that has joined, and that the publisher has adopted.
    pub fn joined(&mut self, id: u64) -> Subscriber {
        let subscriber = self.subscriber(Arc::new(()));
        self.attach(&subscriber, 0);
        self.announce(Event::Joined(
            id,
            subscriber.fd().try_clone_to_owned().unwrap(),
        ));
        subscriber.joined(0);
        self.sync();
        subscriber
    }

    /// The subscriber maps the ring before it joins.
    pub fn attach(&self, subscriber: &Subscriber, history: u32) {
        let start = Start::Head { history };
        subscriber
            .attach(0, 0, &self.publisher.fd(), start, self.trust)
            .unwrap();
    }

    /// Sends an event, then bumps the version.
    pub fn announce(&mut self, event: Event) {
        self.events.push_back(event);
        self.registry.bump_subscribers();
    }

    /// What a publisher does before every message or batch.
    pub fn sync(&mut self) {
        let Some(version) = self.publisher.stale() else {
            return;
        };
        for event in self.events.drain(..) {
            match event {
                Event::Joined(id, reader) => self.publisher.adopt(id, &reader).unwrap(),
                Event::Left(id) => self.publisher.drop_follower(id),
            }
        }
        self.publisher.set_version(version);
    }
}

/// A segment's words, for looking at.
pub struct Words {
    pages: MmapRaw,
}

impl Words {
    /// Maps the first page of a segment.
    pub fn of(segment: &impl AsFd) -> Self {
        Self::first(segment, 4096)
    }

    /// Maps the first `bytes` bytes of a segment, which has as many.
    pub fn first(segment: &impl AsFd, bytes: u64) -> Self {
        let pages = MmapOptions::new()
            .len(bytes as usize)
            .map_raw_read_only(segment.as_fd().as_raw_fd());
        Self {
            pages: pages.unwrap(),
        }
    }

    pub fn at64(&self, offset: usize) -> u64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.pages.len());
        // SAFETY: the word is within the mapping and aligned; its owner may change it at any time, so volatile.
        unsafe {
            self.pages
                .as_ptr()
                .add(offset)
                .cast::<u64>()
                .read_volatile()
        }
    }

    /// The `len` bytes at this offset. Their owner must not write them meanwhile.
    pub fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.pages.len());
        let mut bytes = vec![0; len];
        // SAFETY: the bytes are within the mapping, and nobody writes them: the caller's duty.
        unsafe {
            let from = self.pages.as_ptr().add(offset);
            from.copy_to_nonoverlapping(bytes.as_mut_ptr(), len);
        }
        bytes
    }

    pub fn at32(&self, offset: usize) -> u32 {
        (self.at64(offset & !7) >> (offset % 8 * 8)) as u32
    }
}

/// Scribbles over a segment of this process, through the mapping of its creator.
pub struct Pen {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: it writes words as another process would; who shares it keeps the creator alive.
unsafe impl Sync for Pen {}

impl Pen {
    /// A pen for the segment behind `fd`, to be used only while its creator lives.
    pub fn on(fd: &impl AsFd) -> Self {
        let (base, end) = mapping(fd, "rw-s").expect("this process created it");
        Self {
            base: base as *mut u8,
            bytes: end - base,
        }
    }

    /// Bytes of the segment.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn write64(&self, offset: usize, value: u64) {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes);
        // SAFETY: the word is within the creator's writable mapping, which its creator keeps; volatile, as
        // another process would write it.
        unsafe { self.base.add(offset).cast::<u64>().write_volatile(value) }
    }

    pub fn write32(&self, offset: usize, value: u32) {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.bytes);
        // SAFETY: as in `write64`.
        unsafe { self.base.add(offset).cast::<u32>().write_volatile(value) }
    }
}

/// First address and end of this process's mapping of `fd` with these permissions, from `/proc/self/maps`.
pub fn mapping(fd: &impl AsFd, permissions: &str) -> Option<(usize, usize)> {
    let inode = nix::sys::stat::fstat(fd).unwrap().st_ino.to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (range, allowed, found) = (words.next()?, words.next()?, words.nth(2)?);
        let ours = allowed == permissions && found == inode && line.contains("memfd:bus-");
        let (from, to) = range.split_once('-').filter(|_| ours)?;
        Some((
            usize::from_str_radix(from, 16).ok()?,
            usize::from_str_radix(to, 16).ok()?,
        ))
    })
}

/// Opens the descriptor that a child names on a line `ring N`.
pub fn told_descriptor(from: impl Read, child: u32) -> OwnedFd {
    let lines = BufReader::new(from).lines().map(Result::unwrap);
    let told = lines.into_iter().find_map(|line| {
        let number = line.strip_prefix("ring ")?.trim();
        number.parse::<u32>().ok()
    });
    let path = format!("/proc/{child}/fd/{}", told.expect("the child says it"));
    std::fs::File::open(path).unwrap().into()
}

/// The name by which the test program knows `test` of a module, which is given as `module_path!()`.
pub fn full_name(module: &str, test: &str) -> String {
    match module.split_once("::") {
        Some((_, module)) => format!("{module}::{test}"),
        None => test.to_owned(),
    }
}
