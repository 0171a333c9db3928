//! A backend for one thread: plain cells for words, so that a test can set every one of them.
//!
//! Sleeping only notes that it happened; a wake-up is counted on the word that was rung. Something can be done before each access, as the
//! other side would on another processor.

#![allow(dead_code, reason = "each test crate uses a part")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use bus_core::backend::{Backend, ReaderMemory, RingMemory, Site};
use bus_core::memory::layout::{
    BellLine, FIRST_CURSORS, Identity, Line, ReaderHeader, RegistryPage, RingHeader, SlotHeader,
};

/// The backend.
pub struct Cells;

thread_local! {
    static BETWEEN: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

/// Does `run`, and `between` before each of its accesses to a 64-bit word.
pub fn interleave(between: impl FnMut() + 'static, run: impl FnOnce()) {
    BETWEEN.set(Some(Box::new(between)));
    run();
    BETWEEN.set(None);
}

/// What is done between does not interrupt itself.
fn interrupt() {
    if let Some(mut between) = BETWEEN.take() {
        between();
        BETWEEN.set(Some(between));
    }
}

/// A word that can be slept on.
#[derive(Default)]
pub struct Word {
    value: Cell<u32>,
    /// Wake-ups: calls of the kernel, were there one.
    pub wakes: Cell<u32>,
}

impl Word {
    pub fn set(&self, value: u32) {
        self.value.set(value);
    }
}

impl Backend for Cells {
    type Word32 = Word;
    type Word64 = Cell<u64>;
    type Ring = Rc<Ring>;
    type Reader = Rc<Reader>;
    type Registry = Rc<RegistryPage<Self>>;
    /// Rings of a doorbell.
    type Notify = Rc<Cell<u32>>;
    /// Questions to the broker.
    type Relay = Rc<Cell<u32>>;

    fn load32(word: &Word, _site: Site) -> u32 {
        word.value.get()
    }
    fn store32(word: &Word, value: u32, _site: Site) {
        word.value.set(value);
    }
    fn load64(word: &Cell<u64>, _site: Site) -> u64 {
        interrupt();
        word.get()
    }
    fn store64(word: &Cell<u64>, value: u64, _site: Site) {
        interrupt();
        word.set(value);
    }
    fn light_fence(_site: Site) {}
    fn heavy_fence(_site: Site) {}
    fn fence(_site: Site) {}
    fn sleep(_words: &[(&Word, u32)], _deadline: Option<Instant>) {}
    fn wake(word: &Word) {
        word.wakes.set(word.wakes.get() + 1);
    }
    fn notify(notify: &Rc<Cell<u32>>) {
        notify.set(notify.get() + 1);
    }
    fn relay(relay: &Rc<Cell<u32>>) {
        relay.set(relay.get() + 1);
    }
    fn spin() {}
}

fn identity() -> Identity<Cells> {
    Identity {
        magic: Word::default(),
        version: Word::default(),
        features: Cell::new(0),
    }
}

fn bell() -> BellLine<Cells> {
    BellLine {
        bell: Word::default(),
        state: Word::default(),
    }
}

/// A ring, with a cell for the payload of each slot.
pub struct Ring {
    header: RingHeader<Cells>,
    slots: Vec<SlotHeader<Cells>>,
    /// What each message carries, by slot: the test writes and reads it as the owner of the sequence.
    pub payloads: Vec<Cell<u64>>,
}

impl Ring {
    /// A ring whose slots hold the stamps of the lap before `start`.
    pub fn starting_at(start: u64, depth: u64) -> Rc<Self> {
        let mut stamps = vec![0; depth as usize];
        for back in 1..=depth {
            let sequence = start.wrapping_sub(back);
            stamps[(sequence & (depth - 1)) as usize] = sequence.wrapping_add(1);
        }
        let slot = |stamp| SlotHeader {
            commit: Cell::new(stamp),
            place: Cell::new(0),
        };
        Rc::new(Self {
            header: RingHeader {
                identity: identity(),
                bell: bell(),
                waiting: Line(Cell::default()),
                floor: Line(Cell::new(0)),
            },
            slots: stamps.into_iter().map(slot).collect(),
            payloads: vec![Cell::new(0); depth as usize],
        })
    }
}

impl RingMemory<Cells> for Rc<Ring> {
    fn header(&self) -> &RingHeader<Cells> {
        &self.header
    }
    fn slot(&self, sequence: u64) -> &SlotHeader<Cells> {
        &self.slots[(sequence & (self.depth() - 1)) as usize]
    }
    fn depth(&self) -> u64 {
        self.slots.len() as u64
    }
}

/// A reader segment.
pub struct Reader {
    header: ReaderHeader<Cells>,
    cursors: Vec<Cell<u64>>,
    pins: Vec<[Cell<u64>; PINS]>,
}

/// Pins of a ring.
pub const PINS: usize = 4;

impl Reader {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            header: ReaderHeader {
                identity: identity(),
                waiting: Line(Cell::default()),
                bell: bell(),
                reserve: [0; 8],
            },
            cursors: vec![Cell::new(0); FIRST_CURSORS],
            pins: vec![[const { Cell::new(0) }; PINS]; FIRST_CURSORS],
        })
    }
}

impl ReaderMemory<Cells> for Rc<Reader> {
    fn header(&self) -> &ReaderHeader<Cells> {
        &self.header
    }
    fn cursor(&self, index: usize) -> &Cell<u64> {
        &self.cursors[index]
    }
    fn pin(&self, index: usize, number: usize) -> &Cell<u64> {
        &self.pins[index][number]
    }
}

/// A registry with both versions 0.
pub fn registry() -> Rc<RegistryPage<Cells>> {
    Rc::new(RegistryPage {
        identity: identity(),
        publishers: Line(Word::default()),
        subscribers: Line(Word::default()),
        foreign: Line(Word::default()),
    })
}
