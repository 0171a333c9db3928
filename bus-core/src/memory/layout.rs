//! What lies where in a segment. The protocol uses these structs and never sees a byte offset.
//!
//! A struct is generic over the backend, so that the same words can be real or modelled; the asserts below
//! hold the layout of the real ones. Every header has a version and feature bits, and words are added only
//! in what is reserved, so that an older reader still finds its own.

use crate::backend::Backend;

/// Bytes of a page, and of every segment's header.
pub const PAGE: usize = 4096;
/// Most publishers of a topic at a time.
pub const MAX_PUBLISHERS: usize = 1024;
/// Cursors on the first page of a reader segment: they fill that page beside the header.
pub const FIRST_CURSORS: usize = 60;
/// Cursors on each further cursor page of a reader segment.
pub const PAGE_CURSORS: usize = PAGE / size_of::<Line<u64>>();
/// Most rings that a topic can have: one more than the highest ring index.
pub const MAX_RINGS: usize =
    FIRST_CURSORS + (MAX_PUBLISHERS - FIRST_CURSORS).next_multiple_of(PAGE_CURSORS);
/// The layout version that this code writes and reads.
pub const LAYOUT_VERSION: u32 = 1;
/// The feature bits that this code knows: none is in use.
///
/// | bit | in | announces |
/// | --- | --- | --- |
/// | 0, 32 | any segment | a test build that differs from others on purpose (feature `next-build`) |
/// | 1 | ring | messages with an envelope: see [`ENVELOPE`]; not written yet |
pub const KNOWN_FEATURES: u64 = if cfg!(feature = "next-build") {
    1 | 1 << 32
} else {
    0
};
/// Feature bits that a reader must know. The others it may ignore.
pub const NEEDED_FEATURES: u64 = u32::MAX as u64;

/// First line of every segment, written once at creation.
///
/// ```text
/// 0       4         8                16                64
/// +-------+---------+--------+--------+-----------------+
/// | magic | version | features        | reserve, zero   |
/// +-------+---------+--------+--------+-----------------+
///                    bit 0..31: whoever does not know the bit refuses the segment
///                    bit 32..63: whoever does not know the bit ignores it
/// ```
///
/// A change that older code must not overlook takes a bit of the low half: words that mean something else, or that a peer has
/// to write. One that older code can do without takes a bit of the high half: words in what was reserved. Only a layout of which no word
/// stays takes another version.
#[repr(C, align(64))]
pub struct Identity<B: Backend> {
    /// Which kind of segment: [`RING_MAGIC`], [`READER_MAGIC`] or [`REGISTRY_MAGIC`].
    pub magic: B::Word32,
    /// [`LAYOUT_VERSION`].
    pub version: B::Word32,
    /// Feature bits of this segment: those of [`NEEDED_FEATURES`], and those that a reader may ignore.
    pub features: B::Word64,
}

/// Marks a ring segment.
pub const RING_MAGIC: u32 = u32::from_le_bytes(*b"BusR");
/// Marks a reader segment.
pub const READER_MAGIC: u32 = u32::from_le_bytes(*b"BusS");
/// Marks a registry segment.
pub const REGISTRY_MAGIC: u32 = u32::from_le_bytes(*b"BusT");

/// A line that its writer writes when a peer was asleep, and seldom else: a ring at its end, a reader when it has joined and when it leaves.
///
/// ```text
/// 0      4        64
/// +------+-------+--+
/// | bell | state |  |
/// +------+-------+--+
/// ```
#[repr(C, align(64))]
pub struct BellLine<B: Backend> {
    /// Rung (moved by one and woken) to wake who sleeps on it.
    pub bell: B::Word32,
    /// Of a ring: [`OPEN`] or [`CLOSED`]. Of a reader: [`JOINING`], [`JOINED`] or [`LEFT`].
    pub state: B::Word32,
}

/// `state` of a ring whose publisher may publish.
pub const OPEN: u32 = 0;
/// `state` of a ring whose publisher has said goodbye.
pub const CLOSED: u32 = 1;
/// `state` of a reader that does not yet know where it starts.
pub const JOINING: u32 = 0;
/// `state` of a reader that receives whatever is published from now on.
pub const JOINED: u32 = 1;
/// `state` of a reader that reads nothing any more.
pub const LEFT: u32 = 2;

/// The first page of a ring segment; `depth` slots of `stride` bytes follow, then the arena.
///
/// ```text
/// +0    identity        once
/// +64   bell, state     a subscriber was asleep; the end
/// +128  waiting         the publisher sleeps for room
/// +192  floor           it is about to write over older messages
/// +4096 slots, arena
/// ```
#[repr(C, align(64))]
pub struct RingHeader<B: Backend> {
    /// What this segment is.
    pub identity: Identity<B>,
    /// Wakes subscribers; ends the ring.
    pub bell: BellLine<B>,
    /// How the publisher sleeps for room, if it does; a new value for each sleep: see [`wake`](crate::wake).
    pub waiting: Line<B::Word64>,
    /// Every message from this one on is intact.
    pub floor: Line<B::Word64>,
}

/// The first 16 bytes of a slot; its inline payload follows.
///
/// ```text
/// 0        8      12     16            stride
/// +--------+------+------+---------------+
/// | commit | len  | place| payload       |
/// +--------+------+------+---------------+
/// ```
#[repr(C, align(16))]
pub struct SlotHeader<B: Backend> {
    /// `sequence + 1` of the message that is whole in this slot.
    pub commit: B::Word64,
    /// Low half: bytes of payload. High half: [`INLINE`], or where in the arena it starts, in 64-byte units.
    pub place: B::Word64,
}

/// Bit of a slot's `len` that is kept for an envelope: fields ahead of the payload, such as a publish time. No code sets
/// it; a length with this bit is longer than any payload, so a subscriber refuses the message.
pub const ENVELOPE: u32 = 1 << 31;
/// High half of a slot's `place` whose payload lies in the slot.
pub const INLINE: u32 = u32::MAX;
/// High half of a slot's `place` whose payload lies nowhere: subscribers held all the room, and everybody lost this message.
pub const NOWHERE: u32 = u32::MAX - 1;
/// Set in a slot's `commit` while the publisher replaces its header under a message that is still held.
pub const REPLACED: u64 = 1 << 63;

/// Set in a cursor that protects nothing, where publishers may go past: its subscriber reads nothing at the moment.
pub const IDLE: u64 = 1 << 63;

/// The first lines of a reader segment. The cursors follow, a line each, and then the pins.
///
/// A topic that admits up to [`FIRST_CURSORS`] publishers has as many cursors, and they fill the first page. A topic
/// that admits more has further cursor pages of [`PAGE_CURSORS`] cursors each, as many as its publishers need. The
/// cursors lie one behind the other on all of these pages: cursor `i` is at `256 + 64 * i`. The pins start on the page
/// behind the last cursor page. They are there only where publishers may go past subscribers: for each ring as many
/// words as messages may be held.
///
/// ```text
/// +0     identity   once                                                      first page
/// +64    waiting    the subscriber sleeps for messages
/// +128   bell       a publisher was asleep
///        state      the subscriber has joined; it leaves
/// +192   reserve    zero
/// +256   cursor 0   a message is released
/// +320   cursor 1 ...
/// +4032  cursor 59
///
/// +4096  cursor 60  a message is released                                     further cursor pages, where the
/// +4160  cursor 61 ...                                                        topic admits more than 60 publishers:
/// +8128  cursor 123                                                           one more page for each 64 of them
///        ...
///
/// next   pins of ring 0, of ring 1 ...                                        pin pages
/// page   a message is held: its sequence + 1; or is so no more: 0
/// ```
#[repr(C, align(64))]
pub struct ReaderHeader<B: Backend> {
    /// What this segment is.
    pub identity: Identity<B>,
    /// How the subscriber sleeps for messages, if it does; a new value for each sleep: see [`wake`](crate::wake).
    pub waiting: Line<B::Word64>,
    /// Wakes publishers; says that it has joined, and that it leaves.
    pub bell: BellLine<B>,
    /// Zero; for counters.
    pub reserve: [u64; 8],
}

/// The first page of a reader segment.
#[repr(C, align(64))]
pub struct ReaderPage<B: Backend> {
    /// The words beside the cursors.
    pub header: ReaderHeader<B>,
    /// By ring index: everything below it is released, but what is pinned.
    pub cursors: [Line<B::Word64>; FIRST_CURSORS],
}

/// A further page of cursors in a reader segment.
#[repr(C, align(64))]
pub struct CursorPage<B: Backend> {
    /// By ring index, from the first one that has no place on the pages before.
    pub cursors: [Line<B::Word64>; PAGE_CURSORS],
}

/// A registry segment: one page, written by the broker.
///
/// ```text
/// +0    identity     once
/// +64   publishers   a publisher joined or left
/// +128  subscribers  a subscriber joined or left
/// +192  foreign      a member of a second user is about to be let in
/// +256  reserve      zero
/// +4096 end
/// ```
#[repr(C, align(64))]
pub struct RegistryPage<B: Backend> {
    /// What this segment is.
    pub identity: Identity<B>,
    /// Version of the set of publishers; subscribers watch it and sleep on it.
    pub publishers: Line<B::Word32>,
    /// Version of the set of subscribers; publishers watch it and sleep on it.
    pub subscribers: Line<B::Word32>,
    /// Not 0 once members of more than one user have been let in: from then on members park at
    /// their own doorbells, and sleep on no word that others map. It stays so as long as the
    /// registry is used.
    pub foreign: Line<B::Word32>,
}

/// A word on a cache line of its own.
#[repr(C, align(64))]
pub struct Line<T>(pub T);

const _: () = {
    use std::mem::{offset_of, size_of};

    use crate::backend::Native;

    assert!(size_of::<Identity<Native>>() == 64);
    assert!(size_of::<RingHeader<Native>>() == 256);
    assert!(offset_of!(RingHeader<Native>, bell) == 64);
    assert!(offset_of!(RingHeader<Native>, waiting) == 128);
    assert!(offset_of!(RingHeader<Native>, floor) == 192);
    assert!(size_of::<SlotHeader<Native>>() == 16);
    assert!(offset_of!(SlotHeader<Native>, place) == 8);
    assert!(crate::settings::MAX_PAYLOAD < ENVELOPE as u64);
    assert!(size_of::<ReaderHeader<Native>>() == 256);
    assert!(offset_of!(ReaderHeader<Native>, waiting) == 64);
    assert!(offset_of!(ReaderHeader<Native>, bell) == 128);
    assert!(size_of::<ReaderPage<Native>>() == PAGE);
    assert!(offset_of!(ReaderPage<Native>, cursors) == 256);
    // The cursors of all pages are one array: the first page ends with one, and the next page starts with one.
    assert!(size_of::<Line<<Native as Backend>::Word64>>() == 64);
    assert!(256 + 64 * FIRST_CURSORS == PAGE);
    assert!(size_of::<CursorPage<Native>>() == PAGE);
    assert!(offset_of!(CursorPage<Native>, cursors) == 0);
    assert!(PAGE_CURSORS == 64);
    assert!(MAX_RINGS == 1084 && MAX_RINGS <= u16::MAX as usize);
    assert!(size_of::<RegistryPage<Native>>() == 256);
    assert!(offset_of!(RegistryPage<Native>, publishers) == 64);
    assert!(offset_of!(RegistryPage<Native>, subscribers) == 128);
    assert!(offset_of!(RegistryPage<Native>, foreign) == 192);
};
