//! The model: all payloads, who protects what, what each subscriber gets next, and whether there is room.

use std::ops::Range;

use bus_core::memory::layout::{INLINE, NOWHERE, PAGE};
use bus_core::memory::ring_bytes;
use bus_core::{Delivery, Overrun, TopicSettings};

use super::reader::Reader;
use super::room::Map;
use crate::common::{FLOOR, Topic, Words};

/// What a message carries.
#[derive(Clone)]
pub enum Content {
    Bytes(Vec<u8>),
    Text(String),
}

/// A published message.
struct Published {
    content: Content,
    place: Place,
}

#[derive(PartialEq, Eq)]
enum Place {
    Slot,
    Arena(Range<u64>),
    Nowhere,
}

/// What a subscriber gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Message { sequence: u64, lost: u64 },
    Nothing,
    Holding(u64),
}

pub struct Model {
    pub settings: TopicSettings,
    pub rules: Overrun,
    words: Words,
    log: Vec<Published>,
    pub nowhere: u64,
    pub readers: Vec<Reader>,
}

impl Model {
    pub fn new(topic: &Topic) -> Self {
        let settings = topic.settings;
        Self {
            settings,
            rules: settings.overrun().unwrap(),
            words: Words::first(&topic.publisher.fd(), ring_bytes(&settings)),
            log: Vec::new(),
            nowhere: 0,
            readers: Vec::new(),
        }
    }

    pub fn head(&self) -> u64 {
        self.log.len() as u64
    }

    pub fn lossy(&self) -> bool {
        self.settings.delivery == Delivery::Lossy
    }

    pub fn too_large(&self, len: usize) -> bool {
        len as u64 > self.settings.max_payload
    }

    fn depth(&self) -> u64 {
        self.settings.depth.into()
    }

    pub fn floor(&self) -> u64 {
        self.words.at64(FLOOR)
    }

    /// A message is what was published under its number.
    pub fn check(&self, sequence: u64, bytes: &[u8]) {
        match &self.log[sequence as usize].content {
            Content::Bytes(content) => assert_eq!(bytes, content, "message {sequence}"),
            Content::Text(content) => {
                let text = rkyv::access::<rkyv::string::ArchivedString, rkyv::rancor::Error>(bytes);
                assert_eq!(text.unwrap().as_str(), content, "message {sequence}");
            }
        }
    }

    fn members(&self) -> impl Iterator<Item = &Reader> {
        self.readers.iter().filter(|reader| reader.member())
    }

    /// How high the floor may be, after `unchecked` messages since the version check.
    fn highest_floor(&self, unchecked: u64) -> u64 {
        let kept = unchecked + u64::from(self.settings.keep);
        let highest = self.head().saturating_sub(kept);
        if self.lossy() {
            return highest;
        }
        self.members().map(Reader::cursor).fold(highest, u64::min)
    }

    /// Whether a message of `len` bytes must find room, after `unchecked` messages since the version check.
    pub fn has_room(&self, len: usize, unchecked: u64) -> bool {
        let head = self.head();
        let floor = self.highest_floor(unchecked);
        if head - floor >= self.depth() {
            return false;
        }
        let protected = self
            .members()
            .flat_map(|r| r.protected(self.rules.window, head));
        let protected: Vec<(u64, &Place)> = protected
            .map(|s| (s, &self.log[s as usize].place))
            .collect();
        let same_slot = |s: u64| (head - s).is_multiple_of(self.depth());
        let guarded = protected
            .iter()
            .any(|(s, place)| **place == Place::Slot && same_slot(*s));
        let inline = self.settings.inline().min(self.settings.max_payload);
        if len as u64 <= inline && !guarded {
            return true;
        }
        let end = |message: &Published| match &message.place {
            Place::Arena(span) => Some(span.end),
            _ => None,
        };
        let (below, above) = self.log.split_at(floor as usize);
        let before = below.iter().rev().find_map(end).unwrap_or(0);
        let last = above.iter().rev().find_map(end);
        // The spans in use begin behind the last one that may go, or at 0 where all had gone at some time.
        [before, 0].into_iter().all(|start| {
            let mut map = Map::new(self.settings.arena);
            for (_, place) in &protected {
                if let Place::Arena(span) = place {
                    map.take(span);
                }
            }
            if let Some(last) = last {
                map.take_round(start, last);
            }
            map.fits((len as u64).max(inline))
        })
    }

    /// The model publishes if the publisher did. Without room it may have been refused, or have come to nothing on a lossy topic.
    pub fn publish(&mut self, content: Content, sent: Option<u64>, room: bool) {
        let Some(sequence) = sent else {
            assert!(!room, "full, though there is room");
            return;
        };
        assert_eq!(sequence, self.head());
        let slot = sequence % self.depth();
        let offset = PAGE + (slot * u64::from(self.settings.stride)) as usize;
        assert_eq!(self.words.at64(offset), sequence + 1);
        let word = self.words.at64(offset + 8);
        let place = match (word >> 32) as u32 {
            INLINE => Place::Slot,
            NOWHERE => {
                assert!(!room, "nowhere, though there is room");
                assert!(self.lossy());
                self.nowhere += 1;
                Place::Nowhere
            }
            unit => {
                let start = u64::from(unit) * 64;
                let len = (word & u64::from(u32::MAX)).max(1);
                Place::Arena(start..start + len.next_multiple_of(64))
            }
        };
        self.log.push(Published { content, place });
    }

    /// What the subscriber of `reader` gets if it polls; it has then done so.
    pub fn next(&self, reader: &mut Reader) -> Next {
        reader.fetch();
        loop {
            let sequence = reader.next;
            if sequence == self.head() {
                return Next::Nothing;
            }
            if !self.in_slot(sequence) || sequence == reader.end {
                let out = reader.out.len() as u64;
                if out > self.settings.held.into() {
                    return Next::Holding(out);
                }
                reader.lose(self.floor().saturating_sub(sequence));
                assert!(self.lossy() || reader.lost == 0);
                reader.end = reader.next + self.rules.window;
                continue;
            }
            if self.log[sequence as usize].place == Place::Nowhere {
                reader.lose(1);
                continue;
            }
            let lost = std::mem::take(&mut reader.lost_before);
            self.take(reader);
            return Next::Message { sequence, lost };
        }
    }

    /// Whether a batch goes on with the next message; it then has it.
    pub fn goes_on(&self, reader: &mut Reader) -> bool {
        let sequence = reader.next;
        let goes_on = sequence != self.head()
            && sequence != reader.end
            && self.in_slot(sequence)
            && self.log[sequence as usize].place != Place::Nowhere;
        if goes_on {
            self.take(reader);
        }
        goes_on
    }

    fn take(&self, reader: &mut Reader) {
        reader.out.insert(reader.next);
        reader.next += 1;
    }

    /// Whether the slot's header is still this message's.
    fn in_slot(&self, sequence: u64) -> bool {
        self.head() - sequence <= self.depth()
    }
}
