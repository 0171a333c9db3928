//! Segments of the models: the layout's own structs, made of modelled words, on the heap.
//!
//! Sharing one is cloning its handle. What a model never touches has no words.

use std::ops::Range;
use std::rc::Rc;

use bus_core::backend::{ReaderMemory, RingMemory};
use bus_core::memory::layout::{
    BellLine, INLINE, Identity, Line, NOWHERE, ReaderHeader, RegistryPage, RingHeader, SlotHeader,
};
use loom::sync::atomic::AtomicU64;

use crate::Loom;
use crate::backend::Word;
use crate::payload::Payload;

/// Bytes of payload that a slot of the models holds.
pub const SLOT_BYTES: u32 = 16;
/// Bytes of a unit in the arena.
pub const UNIT_BYTES: u32 = 64;

fn identity() -> Identity<Loom> {
    Identity {
        magic: Word::untouched(),
        version: Word::untouched(),
        features: Word::untouched(),
    }
}

fn word() -> Word<AtomicU64> {
    Word::new64(0)
}

/// A registry with both versions 0.
pub fn registry() -> Rc<RegistryPage<Loom>> {
    Rc::new(RegistryPage {
        identity: identity(),
        publishers: Line(Word::zero32()),
        subscribers: Line(Word::zero32()),
        foreign: Line(Word::zero32()),
    })
}

struct Ring {
    header: RingHeader<Loom>,
    slots: Vec<SlotHeader<Loom>>,
    inline: Vec<Payload>,
    arena: Vec<Payload>,
}

/// A ring segment.
#[derive(Clone)]
pub struct ModelRing(Rc<Ring>);

impl ModelRing {
    /// A ring of `depth` slots, a power of two, and an arena of `units` units.
    pub fn new(depth: usize, units: usize) -> Self {
        let slot = || SlotHeader {
            commit: word(),
            place: word(),
        };
        Self(Rc::new(Ring {
            header: RingHeader {
                identity: identity(),
                bell: BellLine {
                    bell: Word::zero32(),
                    state: Word::zero32(),
                },
                waiting: Line(word()),
                floor: Line(word()),
            },
            slots: (0..depth).map(|_| slot()).collect(),
            inline: (0..depth).map(|_| Payload::new()).collect(),
            arena: (0..units).map(|_| Payload::new()).collect(),
        }))
    }

    /// Units of its arena.
    pub fn units(&self) -> usize {
        self.0.arena.len()
    }

    /// The payload of a message: its slot's, or that of each unit that it takes in the arena, or none where it lies nowhere.
    pub fn payload(&self, sequence: u64, place: u32, len: u32) -> &[Payload] {
        let units: Range<usize> = match place {
            INLINE => {
                assert!(len <= SLOT_BYTES, "the slot holds it");
                let slot = self.index(sequence);
                return &self.0.inline[slot..=slot];
            }
            NOWHERE => return &[],
            unit => unit as usize..unit as usize + len.div_ceil(UNIT_BYTES) as usize,
        };
        &self.0.arena[units]
    }

    fn index(&self, sequence: u64) -> usize {
        (sequence % self.depth()) as usize
    }
}

impl RingMemory<Loom> for ModelRing {
    fn header(&self) -> &RingHeader<Loom> {
        &self.0.header
    }

    fn slot(&self, sequence: u64) -> &SlotHeader<Loom> {
        &self.0.slots[self.index(sequence)]
    }

    fn depth(&self) -> u64 {
        self.0.slots.len() as u64
    }
}

struct Reader {
    header: ReaderHeader<Loom>,
    cursors: Vec<Word<AtomicU64>>,
    /// For each ring, its pins.
    pins: Vec<Vec<Word<AtomicU64>>>,
}

/// A reader segment.
#[derive(Clone)]
pub struct ModelReader(Rc<Reader>);

impl ModelReader {
    /// A segment with cursors for this many rings, and with `pins` pins for each.
    pub fn new(rings: usize, pins: usize) -> Self {
        let pins = || (0..pins).map(|_| word()).collect();
        Self(Rc::new(Reader {
            header: ReaderHeader {
                identity: identity(),
                waiting: Line(word()),
                bell: BellLine {
                    bell: Word::zero32(),
                    state: Word::zero32(),
                },
                reserve: [0; 8],
            },
            cursors: (0..rings).map(|_| word()).collect(),
            pins: (0..rings).map(|_| pins()).collect(),
        }))
    }
}

impl ReaderMemory<Loom> for ModelReader {
    fn header(&self) -> &ReaderHeader<Loom> {
        &self.0.header
    }

    fn cursor(&self, index: usize) -> &Word<AtomicU64> {
        &self.0.cursors[index]
    }

    fn pin(&self, index: usize, number: usize) -> &Word<AtomicU64> {
        &self.0.pins[index][number]
    }
}
