//! The backend of the shipped bus: real atomics in mapped memory, futexes, membarrier.
//!
//! This file holds the crate's pointer arithmetic: a mapping was checked against its size when it was made or received,
//! and every address below is inside it by construction.

use std::cell::Cell;
use std::mem::offset_of;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{compiler_fence, fence};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::{Backend, ReaderMemory, RingMemory, Site, ahead, doorbell, futex, membarrier};
use crate::memory::layout::{
    INLINE, Identity, KNOWN_FEATURES, LAYOUT_VERSION, Line, NEEDED_FEATURES, PAGE, ReaderHeader,
    ReaderPage, RegistryPage, RingHeader, SlotHeader,
};
use crate::memory::segment::{Kind, Mapping};
use crate::memory::{REGISTRY_BYTES, cursor_bytes, reader_bytes, ring_bytes, slot_bytes};
use crate::wake::Relay;
use crate::{Error, Result, TopicSettings};

#[allow(clippy::disallowed_types)]
mod words {
    pub type Word32 = std::sync::atomic::AtomicU32;
    pub type Word64 = std::sync::atomic::AtomicU64;
}
pub(super) use words::{Word32, Word64};

/// Real memory, real fences, real sleep.
#[derive(Debug)]
pub struct Native;

impl Backend for Native {
    type Word32 = Word32;
    type Word64 = Word64;
    type Ring = MappedRing;
    type Reader = MappedReader;
    type Registry = MappedRegistry;
    type Notify = OwnedFd;
    type Relay = Arc<dyn Relay>;

    // The words of peers lie in pages that are mapped read-only here. For those, the standard library promises only
    // that relaxed loads work; of acquire loads it says that they may need a store on some machines. On x86-64 and
    // AArch64, the machines of this bus, an acquire load is one load instruction (`mov`, `ldar`) and stores nothing.
    // A relaxed load with an acquire fence behind it would be within the promise, but is one instruction more
    // (`dmb ishld`) for each message on AArch64.
    #[inline(always)]
    fn load32(word: &Word32, site: Site) -> u32 {
        // ORDERING: the site's.
        word.load(site.ordering)
    }

    #[inline(always)]
    fn store32(word: &Word32, value: u32, site: Site) {
        // ORDERING: the site's.
        word.store(value, site.ordering);
    }

    #[inline(always)]
    fn load64(word: &Word64, site: Site) -> u64 {
        // ORDERING: the site's. A peer's word is read as in `load32`.
        word.load(site.ordering)
    }

    #[inline(always)]
    fn store64(word: &Word64, value: u64, site: Site) {
        // ORDERING: the site's.
        word.store(value, site.ordering);
    }

    #[inline(always)]
    fn light_fence(_site: Site) {
        // ORDERING: the peer's membarrier makes the processor's part of the fence.
        compiler_fence(SeqCst);
    }

    fn heavy_fence(_site: Site) {
        // ORDERING: this side's half; membarrier makes that of the others.
        fence(SeqCst);
        membarrier::run();
    }

    #[inline(always)]
    fn fence(site: Site) {
        // ORDERING: the site's.
        fence(site.ordering);
    }

    fn sleep(words: &[(&Word32, u32)], deadline: Option<Instant>) {
        futex::wait_any(words, deadline);
    }

    fn wake(word: &Word32) {
        futex::wake_all(word);
    }

    fn notify(notify: &OwnedFd) {
        doorbell::ring(notify);
    }

    fn relay(relay: &Arc<dyn Relay>) {
        relay.relay();
    }

    #[inline(always)]
    fn spin() {
        std::hint::spin_loop();
    }
}

impl Native {
    /// Makes this process ready for its first handle: its peers can fence it, and it can sleep on many words.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the kernel or a sandbox does not let it.
    pub(crate) fn prepare() -> Result<()> {
        static READY: OnceLock<()> = OnceLock::new();
        if READY.get().is_none() {
            let unsupported = |call| move |source| Error::Unsupported { call, source };
            membarrier::register().map_err(unsupported("membarrier(2)"))?;
            futex::check().map_err(unsupported("futex_waitv(2)"))?;
            READY.get_or_init(|| ());
        }
        Ok(())
    }
}

impl Identity<Native> {
    /// Says what a new segment is.
    pub(crate) fn write(&self, magic: u32) {
        // ORDERING: nobody has the descriptor yet.
        #[cfg(feature = "next-build")]
        Native::store64(
            &self.features,
            crate::control::next::segment_features(),
            super::site::RELAXED,
        );
        Native::store32(&self.version, LAYOUT_VERSION, super::site::RELAXED);
        Native::store32(&self.magic, magic, super::site::RELAXED);
    }

    /// Whether a peer's segment is of this kind, of a layout that this code reads, and needs no feature that this code does not know.
    pub(crate) fn check(&self, kind: Kind, magic: u32) -> Result<()> {
        // ORDERING: all were written before the descriptor was sent.
        let found = Native::load32(&self.magic, super::site::RELAXED);
        let version = Native::load32(&self.version, super::site::RELAXED);
        let features = Native::load64(&self.features, super::site::RELAXED);
        if found != magic {
            return Err(Error::Segment {
                segment: kind.name(),
                why: "it is of another kind".into(),
            });
        }
        if version != LAYOUT_VERSION {
            return Err(Error::Segment {
                segment: kind.name(),
                why: format!("it has layout version {version}, this side reads {LAYOUT_VERSION}"),
            });
        }
        let unknown = features & NEEDED_FEATURES & !KNOWN_FEATURES;
        if unknown != 0 {
            let bit = unknown.trailing_zeros();
            return Err(Error::Segment {
                segment: kind.name(),
                why: format!(
                    "it needs feature bit {bit}, which this side does not know: its maker has a newer version of bus, \
                     so build this side with that one"
                ),
            });
        }
        Ok(())
    }
}

/// A registry segment, mapped.
#[derive(Clone, Debug)]
pub struct MappedRegistry {
    page: NonNull<RegistryPage<Native>>,
    mapping: Arc<Mapping>,
}

// SAFETY: `page` leads into the mapping beside it, which is shared by counting, and holds atomics only.
unsafe impl Send for MappedRegistry {}

impl MappedRegistry {
    pub(crate) fn new(mapping: Arc<Mapping>) -> Self {
        assert!(mapping.bytes() as u64 >= REGISTRY_BYTES);
        Self {
            page: mapping.base().cast(),
            mapping,
        }
    }

    /// What it is mapped by.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl Deref for MappedRegistry {
    type Target = RegistryPage<Native>;

    #[inline(always)]
    fn deref(&self) -> &RegistryPage<Native> {
        // SAFETY: the mapping is a page, page-aligned, lives as long as `self`, and holds atomics only, for
        // which every bit pattern is a value.
        unsafe { self.page.as_ref() }
    }
}

/// A reader segment, mapped, with the bounds of its registration.
#[derive(Clone, Debug)]
pub struct MappedReader {
    page: NonNull<ReaderPage<Native>>,
    /// The first cursor; the others follow, also across pages.
    cursors: NonNull<Line<Word64>>,
    rings: usize,
    /// The first pin; one behind the cursors where there is none.
    first_pin: NonNull<Word64>,
    pins: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: as for `MappedRegistry`.
unsafe impl Send for MappedReader {}

impl MappedReader {
    pub(crate) fn new(mapping: Arc<Mapping>, settings: &TopicSettings) -> Self {
        assert!(mapping.bytes() as u64 >= reader_bytes(settings));
        let rings = settings.rings();
        // SAFETY: both offsets are within the mapping, or at its end, by the assert.
        let (cursors, first_pin) = unsafe {
            let first = mapping.base().add(offset_of!(ReaderPage<Native>, cursors));
            let pins = mapping.base().add(cursor_bytes(rings) as usize);
            (first.cast(), pins.cast())
        };
        Self {
            page: mapping.base().cast(),
            cursors,
            rings: rings.into(),
            first_pin,
            pins: settings.overrun().map_or(0, |rules| rules.pins),
            mapping,
        }
    }

    /// The same segment, with the bounds of other settings; none where it is too short for those.
    pub(crate) fn bounded_by(&self, settings: &TopicSettings) -> Option<Self> {
        let fits = self.mapping.bytes() as u64 >= reader_bytes(settings);
        fits.then(|| Self::new(Arc::clone(&self.mapping), settings))
    }

    #[inline(always)]
    fn page(&self) -> &ReaderPage<Native> {
        // SAFETY: the mapping is a page or more, page-aligned, lives as long as `self`; every bit pattern of its
        // words is a value, and its reserve is never read.
        unsafe { self.page.as_ref() }
    }
}

impl ReaderMemory<Native> for MappedReader {
    #[inline(always)]
    fn header(&self) -> &ReaderHeader<Native> {
        &self.page().header
    }

    #[inline(always)]
    fn cursor(&self, index: usize) -> &Word64 {
        assert!(index < self.rings);
        // SAFETY: the cursors of all pages lie one behind the other, and this one is within the pages that `new`
        // has counted; they are aligned, live as long as `self`, and every bit pattern is a value.
        unsafe { &self.cursors.add(index).as_ref().0 }
    }

    #[inline(always)]
    fn pin(&self, index: usize, number: usize) -> &Word64 {
        assert!(index < self.rings && number < self.pins);
        let word = index * self.pins + number;
        // SAFETY: the word is within the pages behind the cursors, by the asserts here and in `new`; they are aligned,
        // live as long as `self`, and every bit pattern is a value.
        unsafe { self.first_pin.add(word).as_ref() }
    }
}

/// A ring segment, mapped, with the bounds of its registration.
#[derive(Clone, Debug)]
pub struct MappedRing {
    header: NonNull<RingHeader<Native>>,
    slots: NonNull<u8>,
    mask: u64,
    stride: usize,
    arena: NonNull<u8>,
    arena_bytes: u64,
    inline: u32,
    max_payload: u32,
    /// Payloads that lie in a slot, and in the arena, are shorter than this where they are read in place.
    in_place: [u32; 2],
    /// Where the first and the last byte of the next payload in the arena are expected.
    next: Cell<Option<(u64, u64)>>,
    mapping: Arc<Mapping>,
}

// SAFETY: the pointers lead into `mapping`, which is shared by counting; what they lead to is atomics, or payload
// bytes that the protocol gives to one side at a time.
unsafe impl Send for MappedRing {}

impl MappedRing {
    pub(crate) fn new(mapping: Arc<Mapping>, settings: &TopicSettings) -> Self {
        assert!(mapping.bytes() as u64 >= ring_bytes(settings));
        // SAFETY: both offsets are within the mapping, by the assert.
        let (slots, arena) = unsafe {
            let slots = mapping.base().add(PAGE);
            (slots, slots.add(slot_bytes(settings) as usize))
        };
        let inline = settings.inline().min(settings.max_payload) as u32;
        let max_payload = settings.max_payload as u32;
        Self {
            header: mapping.base().cast(),
            slots,
            mask: u64::from(settings.depth) - 1,
            stride: settings.stride as usize,
            arena,
            arena_bytes: settings.arena,
            inline,
            max_payload,
            in_place: [inline + 1, max_payload + 1],
            next: Cell::new(None),
            mapping,
        }
    }

    /// The same; none of its payloads may be read in place.
    pub(crate) fn copied(mut self) -> Self {
        self.in_place = [0; 2];
        self
    }

    /// Says what a new segment is.
    pub(crate) fn identify(&self, magic: u32) {
        self.header().identity.write(magic);
    }

    /// Whether a peer's ring is one that this code reads.
    pub(crate) fn check_identity(&self, magic: u32) -> Result<()> {
        self.header().identity.check(Kind::Ring, magic)
    }

    /// Keeps the pages mapped, whoever else lets go.
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Longest payload that lies in a slot, in bytes.
    #[inline(always)]
    pub fn inline(&self) -> u32 {
        self.inline
    }

    /// Longest payload, in bytes.
    #[inline(always)]
    pub fn max_payload(&self) -> u32 {
        self.max_payload
    }

    #[inline(always)]
    fn slot_base(&self, sequence: u64) -> NonNull<u8> {
        let offset = (sequence & self.mask) as usize * self.stride;
        // SAFETY: the mask keeps the slot's number below the depth.
        unsafe { self.slots.add(offset) }
    }

    /// Where the payload of a message lies, if `place` and `len` are within the ring's bounds, and it may be read in place.
    #[inline(always)]
    pub(crate) fn payload(&self, sequence: u64, place: u32, len: u32) -> Option<NonNull<u8>> {
        self.payload_below(self.in_place, sequence, place, len)
    }

    /// Where the payload of a message lies, if `place` and `len` are within the ring's bounds, to be copied.
    pub(crate) fn payload_to_copy(
        &self,
        sequence: u64,
        place: u32,
        len: u32,
    ) -> Option<NonNull<u8>> {
        let ends = [self.inline + 1, self.max_payload + 1];
        self.payload_below(ends, sequence, place, len)
    }

    #[inline(always)]
    fn payload_below(
        &self,
        [inline, max_payload]: [u32; 2],
        sequence: u64,
        place: u32,
        len: u32,
    ) -> Option<NonNull<u8>> {
        if place == INLINE {
            if len >= inline {
                return None;
            }
            // SAFETY: a slot is at least 64 bytes, its header 16.
            return Some(unsafe {
                self.slot_base(sequence)
                    .add(size_of::<SlotHeader<Native>>())
            });
        }
        let start = u64::from(place) * 64;
        if len >= max_payload || start + u64::from(len) > self.arena_bytes {
            return None;
        }
        self.expect(start, u64::from(len.max(1)));
        // SAFETY: start and end are within the arena. Neither sum overflows: both parts have 38 bits at most.
        Some(unsafe { self.arena.add(start as usize) })
    }
}

impl MappedRing {
    /// A payload lies here: one of the same length is expected behind it, or at the start where it would not fit.
    #[inline(always)]
    fn expect(&self, start: u64, len: u64) {
        let behind = start + len.next_multiple_of(64);
        let next = if behind + len > self.arena_bytes {
            0
        } else {
            behind
        };
        self.next.set(Some((next, next + len - 1)));
    }
}

impl RingMemory<Native> for MappedRing {
    #[inline(always)]
    fn foresee(&self) {
        if let Some((first, last)) = self.next.get() {
            let arena = self.arena.as_ptr();
            ahead::read(arena.wrapping_add(first as usize));
            ahead::read(arena.wrapping_add(last as usize));
        }
    }

    #[inline(always)]
    fn header(&self) -> &RingHeader<Native> {
        // SAFETY: the mapping starts with a page for the header, page-aligned, and lives as long as `self`.
        unsafe { self.header.as_ref() }
    }

    #[inline(always)]
    fn slot(&self, sequence: u64) -> &SlotHeader<Native> {
        // SAFETY: a slot starts at a multiple of 64 and is longer than its header.
        unsafe { self.slot_base(sequence).cast().as_ref() }
    }

    #[inline(always)]
    fn depth(&self) -> u64 {
        self.mask + 1
    }
}
