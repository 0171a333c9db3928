//! Copies of messages of publishers that could rewrite them: memory of the subscriber's own, used again and again.
//!
//! ```text
//!   +----------+------+---------------------+
//!   | capacity | next | payload, aligned    |   next: in a list of spares, or of the copies of a batch
//!   +----------+------+---------------------+
//!                     ^ what a message points to
//! ```
//! A copy is found again by its payload's address, so a message is as small as one that is read in place.
//!
//! Promises: no allocation once there are as many spares, and as long, as messages are out at a time. Spares take no more memory than a ring.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::ptr::NonNull;

use super::ring::{Found, RingReader};
use crate::backend::{Native, copy};
use crate::memory::ring_bytes;
use crate::{Error, Result, TopicSettings};

/// What stands before a payload; as long as payloads are aligned.
#[repr(C, align(16))]
struct Header {
    /// Bytes of payload that there is room for: whole words.
    capacity: usize,
    next: Option<OwnCopy>,
}

/// Bytes before the payload.
const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 16 && align_of::<Header>() == 16);

/// Least room of a copy, in bytes of payload.
const LEAST: usize = 64;

/// A payload in memory of its own.
pub(super) struct OwnCopy(NonNull<Header>);

// SAFETY: it owns its memory, in which nothing is bound to a thread.
unsafe impl Send for OwnCopy {}
// SAFETY: shared, it gives out nothing but its payload's address.
unsafe impl Sync for OwnCopy {}

impl OwnCopy {
    /// Room for so many bytes; none where there is no memory.
    fn new(capacity: usize) -> Option<Self> {
        let capacity = capacity.checked_next_multiple_of(copy::WORD)?;
        let layout = Self::layout(capacity)?;
        // SAFETY: the layout is not empty.
        let header = NonNull::new(unsafe { alloc(layout) })?.cast();
        // SAFETY: it is fresh, long enough, and aligned.
        unsafe {
            header.write(Header {
                capacity,
                next: None,
            })
        };
        Some(Self(header))
    }

    fn layout(capacity: usize) -> Option<Layout> {
        Layout::from_size_align(HEADER.checked_add(capacity)?, align_of::<Header>()).ok()
    }

    fn header(&self) -> &Header {
        // SAFETY: it is this copy's own, written when that was made.
        unsafe { self.0.as_ref() }
    }

    fn set_next(&mut self, next: Option<OwnCopy>) {
        // SAFETY: as in `header`, and this is the only way to it.
        unsafe { self.0.as_mut() }.next = next;
    }

    fn take_next(&mut self) -> Option<OwnCopy> {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }.next.take()
    }

    /// Where the payload lies.
    pub(super) fn payload(&self) -> NonNull<u8> {
        // SAFETY: the payload follows the header in the same block.
        unsafe { self.0.byte_add(HEADER) }.cast()
    }

    /// Leaves its payload to whoever makes it a copy again.
    pub(super) fn into_payload(self) -> NonNull<u8> {
        let payload = self.payload();
        std::mem::forget(self);
        payload
    }

    /// The copy that left this payload.
    ///
    /// # Safety
    /// It comes from [`into_payload`](Self::into_payload), and this is called once for it.
    pub(super) unsafe fn from_payload(payload: NonNull<u8>) -> Self {
        // SAFETY: the header stands before the payload.
        Self(unsafe { payload.byte_sub(HEADER) }.cast())
    }
}

impl Drop for OwnCopy {
    fn drop(&mut self) {
        let mut rest = self.take_next();
        while let Some(mut copy) = rest {
            // One after the other: a list may be longer than a stack is deep.
            rest = copy.take_next();
        }
        if let Some(layout) = Self::layout(self.header().capacity) {
            // SAFETY: it was allocated with this layout, and nobody has the payload any more.
            unsafe { dealloc(self.0.as_ptr().cast(), layout) };
        }
    }
}

/// Copies one behind the other, the latest first.
#[derive(Default)]
pub(super) struct Chain {
    first: Cell<Option<OwnCopy>>,
    count: Cell<u64>,
}

impl Chain {
    /// One copy.
    pub(super) fn of(copy: OwnCopy) -> Self {
        let chain = Self::default();
        chain.push(copy);
        chain
    }

    pub(super) fn push(&self, mut copy: OwnCopy) {
        copy.set_next(self.first.take());
        self.first.set(Some(copy));
        self.count.set(self.count.get() + 1);
    }

    pub(super) fn pop(&self) -> Option<OwnCopy> {
        let mut copy = self.first.take()?;
        self.first.set(copy.take_next());
        self.count.set(self.count.get() - 1);
        Some(copy)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.count.get()
    }
}

/// Copies that nobody reads, for the next messages.
pub(super) struct Spares {
    chain: Chain,
    /// Bytes that they have room for, and may have.
    bytes: Cell<usize>,
    most: Cell<usize>,
    /// Bytes of the longest payload.
    longest: Cell<usize>,
}

impl Spares {
    /// None yet, for a topic with these settings.
    pub(super) fn new(settings: &TopicSettings) -> Self {
        let this = Self {
            chain: Chain::default(),
            bytes: Cell::new(0),
            most: Cell::new(0),
            longest: Cell::new(0),
        };
        this.fit(settings);
        this
    }

    /// From now on the topic has these settings.
    pub(super) fn fit(&self, settings: &TopicSettings) {
        let fit = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        self.most.set(fit(ring_bytes(settings)));
        self.longest.set(fit(settings.max_payload));
    }

    /// Room for so many bytes; none where there is no memory.
    fn take(&self, bytes: usize) -> Option<OwnCopy> {
        if let Some(copy) = self.chain.pop() {
            let capacity = copy.header().capacity;
            self.bytes.set(self.bytes.get() - capacity);
            if capacity >= bytes {
                return Some(copy);
            }
        }
        // Twice as long each time, so that lengths that vary end soon in copies that fit all.
        let ample = bytes.checked_next_power_of_two().unwrap_or(bytes);
        OwnCopy::new(ample.min(self.longest.get()).max(bytes).max(LEAST))
    }

    /// Keeps a copy for the next message, or frees its memory.
    pub(super) fn put(&self, copy: OwnCopy) {
        let bytes = self.bytes.get().saturating_add(copy.header().capacity);
        if bytes <= self.most.get() {
            self.bytes.set(bytes);
            self.chain.push(copy);
        }
    }

    /// Copies a message that was found, whose payload lies there, and releases it: its slot is its publisher's again. The copy counts as
    /// lent by its ring.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: the message is as it was before it was found.
    #[inline(never)]
    pub(super) fn copy(
        &self,
        ring: &RingReader<Native>,
        found: Found,
        payload: NonNull<[u8]>,
    ) -> Result<OwnCopy> {
        let bytes = payload.len();
        let Some(copy) = self.take(bytes) else {
            ring.put_back(found.sequence);
            return Err(Error::NoMemory {
                publisher: ring.publisher(),
                bytes,
            });
        };
        // SAFETY: payloads in a ring start at multiples of 16, and whole words of them are within the slot or the arena, whose
        // bounds are multiples of 16 as well; a copy has room for whole words. This process only reads there.
        unsafe { copy::out(payload.cast(), copy.payload(), bytes) };
        ring.release(found.sequence);
        ring.lend();
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use crate::settings::Settings;

    fn spares() -> Spares {
        let settings = Settings {
            depth: Some(2),
            stride: Some(64),
            max_payload: Some(1000),
            ..Settings::default()
        };
        Spares::new(&settings.decide(&Schema::bytes()).unwrap())
    }

    #[test]
    fn a_copy_is_found_again_by_its_payload() {
        let spares = spares();
        let copy = spares.take(100).unwrap();
        assert_eq!(copy.header().capacity, 128);
        let payload = copy.into_payload();
        assert!(payload.as_ptr().addr().is_multiple_of(16));
        // SAFETY: it comes from a copy that was left, and there is room for as much.
        let copy = unsafe {
            payload.write_bytes(7, 128);
            OwnCopy::from_payload(payload)
        };
        spares.put(copy);
        assert_eq!(spares.take(128).unwrap().into_payload(), payload);
        assert_eq!(spares.chain.len(), 0);
        // SAFETY: as above.
        drop(unsafe { OwnCopy::from_payload(payload) });
    }

    #[test]
    fn spares_take_no_more_memory_than_a_ring() {
        let spares = spares();
        let copies: Vec<_> = (0..1000).map(|_| spares.take(1000).unwrap()).collect();
        copies.into_iter().for_each(|copy| spares.put(copy));
        assert!(spares.bytes.get() <= spares.most.get());
        assert!(spares.chain.len() >= 2);
    }

    #[test]
    fn a_long_list_is_freed_without_a_deep_stack() {
        let chain = Chain::default();
        (0..200_000).for_each(|_| chain.push(OwnCopy::new(8).unwrap()));
        drop(chain);
    }

    #[test]
    fn memory_that_is_not_there_is_none() {
        assert!(OwnCopy::new(usize::MAX - 100).is_none());
        assert!(OwnCopy::new(isize::MAX as usize - 100).is_none());
    }
}
